//! What a call needs, in memory: routes, grants and loaded code.
//!
//! Reading never waits for a lock that a writer holds while it works: the map of plugins, each route and each set of
//! grants are swapped whole. Must never be ahead of the store: changes are made durable first, then live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use ringfence_core::{Budget, Capability, CapabilityUse, Digest, Grants, PluginName, TenantId};
use ringfence_engine::{InstanceKey, Reuse};
use ringfence_store::{BlobId, TenantStore};
use semver::Version;

use crate::address::Address;
use crate::interfaces::World;
use crate::record::{RouteState, StoredVersion};

/// A version that calls can go to. Cheap to clone.
#[derive(Clone)]
pub struct VersionRef(Arc<VersionInfo>);

/// What there is to know about it.
pub struct VersionInfo {
    /// The tenant's store.
    pub store: TenantStore,
    /// The plugin.
    pub plugin: PluginName,
    /// The version's label.
    pub label: Version,
    /// SHA-256 of its component.
    pub digest: Digest,
    /// What one invocation may spend.
    pub budget: Budget,
    /// Invocations one instance may serve.
    pub instance_invocations_max: u32,
    /// Which generation of `wasi:http` it speaks.
    pub world: World,
    /// Names of all its workflows; empty when it does not say.
    pub workflows: Vec<String>,
    pub(crate) blob: BlobId,
}

impl std::ops::Deref for VersionRef {
    type Target = VersionInfo;
    fn deref(&self) -> &VersionInfo {
        &self.0
    }
}

/// Where one call goes. Made by the registry alone.
#[derive(Clone)]
pub struct Route {
    /// The tenant, for policy and for admission; its data is reached through `store`.
    pub tenant: TenantId,
    /// The tenant's store.
    pub store: TenantStore,
    /// The plugin.
    pub plugin: PluginName,
    /// Path and query for the guest; starts with `/`.
    pub rest: String,
    /// What the tenant grants this plugin, now and at any later look.
    pub grants: Arc<ArcSwap<Grants>>,
    /// Told what of them is used.
    pub used: Arc<CapabilityUse>,
    choice: Arc<Choice>,
}

impl Route {
    /// The version that takes this call. `draw` is random and decides between the stable version and a canary: its
    /// remainder by 100 is compared with the canary's share.
    pub fn choose(&self, draw: impl Into<u64>) -> VersionRef {
        let draw = draw.into() % 100;
        match &self.choice.canary {
            Some((version, percent)) if draw < u64::from(*percent) => version.clone(),
            _ => self.choice.stable.clone(),
        }
    }
    /// The version that answers apart from a canary.
    pub fn stable(&self) -> &VersionRef {
        &self.choice.stable
    }
    /// Whether the author of a version of this plugin lets an instance serve more than one invocation, and whose it is then.
    pub fn reuse(&self, version: &VersionRef) -> Option<Reuse> {
        let invocations_max = version.instance_invocations_max;
        (invocations_max > 1).then(|| Reuse {
            key: InstanceKey {
                tenant: self.tenant.clone(),
                tenant_uid: self.store.uid(),
                plugin: version.plugin.clone(),
                version: version.label.to_string(),
            },
            invocations_max,
        })
    }
}

/// The versions a route chooses between.
pub(crate) struct Choice {
    pub(crate) state: RouteState,
    pub(crate) stable: VersionRef,
    pub(crate) canary: Option<(VersionRef, u8)>,
}

/// One plugin, live.
pub(crate) struct Plugin {
    pub(crate) store: TenantStore,
    pub(crate) grants: Arc<ArcSwap<Grants>>,
    pub(crate) used: Arc<CapabilityUse>,
    pub(crate) choice: ArcSwapOption<Choice>,
}

/// All plugins that have grants or a route, by `tenant/plugin`.
pub(crate) struct Live {
    plugins: ArcSwap<HashMap<Box<str>, Arc<Plugin>>>,
    /// Held by whoever changes the map, never by a reader.
    changing: Mutex<()>,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self { plugins: ArcSwap::from_pointee(HashMap::new()), changing: Mutex::new(()) }
    }

    /// The route of an address; `None` when there is no such plugin or nothing of it is deployed.
    pub(crate) fn find(&self, address: Address) -> Option<Route> {
        let plugins = self.plugins.load();
        let plugin = plugins.get(name(address.tenant.as_str(), &address.plugin).as_str())?;
        Some(Route {
            store: plugin.store.clone(),
            choice: plugin.choice.load_full()?,
            grants: Arc::clone(&plugin.grants),
            used: Arc::clone(&plugin.used),
            tenant: address.tenant,
            plugin: address.plugin,
            rest: address.rest,
        })
    }

    /// How many plugins have a route.
    pub(crate) fn routes_count(&self) -> usize {
        self.plugins.load().values().filter(|plugin| plugin.choice.load().is_some()).count()
    }

    /// What every plugin used since the last look; those that used nothing are left out.
    pub(crate) fn take_used(&self) -> Vec<(TenantStore, PluginName, Vec<Capability>)> {
        let plugins = self.plugins.load();
        let used = plugins.iter().filter_map(|(name, plugin)| {
            let used = plugin.used.take();
            let plugin_name = name.split_once('/')?.1.parse().ok()?;
            (!used.is_empty()).then(|| (plugin.store.clone(), plugin_name, used))
        });
        used.collect()
    }

    /// A plugin, if it is live.
    pub(crate) fn get(&self, store: &TenantStore, plugin: &PluginName) -> Option<Arc<Plugin>> {
        self.plugins.load().get(name(store.label(), plugin).as_str()).map(Arc::clone)
    }

    /// A plugin, made live with no grants and no route when it was not.
    pub(crate) fn ensure(&self, store: &TenantStore, plugin: &PluginName) -> Arc<Plugin> {
        let name = name(store.label(), plugin);
        let _changing = self.changing();
        if let Some(plugin) = self.plugins.load().get(name.as_str()) {
            return Arc::clone(plugin);
        }
        let fresh = Arc::new(Plugin {
            store: store.clone(),
            grants: Arc::new(ArcSwap::from_pointee(Grants::default())),
            used: Arc::default(),
            choice: ArcSwapOption::empty(),
        });
        let mut plugins = HashMap::clone(&self.plugins.load());
        plugins.insert(name.into(), Arc::clone(&fresh));
        self.plugins.store(Arc::new(plugins));
        fresh
    }

    /// Puts many plugins in at once; for the start.
    pub(crate) fn extend(&self, more: impl IntoIterator<Item = (PluginName, Arc<Plugin>)>) {
        let _changing = self.changing();
        let mut plugins = HashMap::clone(&self.plugins.load());
        plugins.extend(more.into_iter().map(|(plugin, live)| (name(live.store.label(), &plugin).into(), live)));
        self.plugins.store(Arc::new(plugins));
    }

    /// Lets go of a tenant's plugins. Calls that already hold a route end with the store's refusal.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        let _changing = self.changing();
        let mut plugins = HashMap::clone(&self.plugins.load());
        plugins.retain(|_, plugin| plugin.store.label() != tenant.as_str());
        self.plugins.store(Arc::new(plugins));
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VersionRef {
    pub(crate) fn new(store: &TenantStore, plugin: &PluginName, stored: &StoredVersion) -> Self {
        Self(Arc::new(VersionInfo {
            store: store.clone(),
            plugin: plugin.clone(),
            label: stored.record.label.clone(),
            digest: stored.record.digest,
            budget: stored.record.budget,
            instance_invocations_max: stored.record.instance_invocations_max,
            world: stored.record.world,
            workflows: stored.record.workflows.clone(),
            blob: stored.blob,
        }))
    }
}

fn name(tenant: &str, plugin: &PluginName) -> String {
    format!("{tenant}/{plugin}")
}
