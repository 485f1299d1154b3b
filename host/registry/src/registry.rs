//! The registry as the other rooms see it: publish, list, grant, deploy, find, load.
//!
//! Every act takes a permit and spends it. Must never answer for a tenant other than the one whose store it was given, and
//! never let a version answer calls whose needs are not granted. Publishing and going live are two acts: a version is
//! immutable, a route moves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use ringfence_core::{
    Action, Capability, Clock, Grant, Grants, Permit, PluginName, PrincipalId, Resource, TenantId, proof::act,
};
use ringfence_engine::{Code, Engine, GuestSetup};
use ringfence_store::{StoreError, TenantStore, Tenants};
use semver::Version;

use crate::live::{Choice, Live, Route, VersionRef};
use crate::loader::{Loaded, Loader, blocking};
use crate::push::{Announced, Quarantined, Upload, added};
use crate::record::{
    Canary, PluginDetail, PluginRecord, PluginSummary, Published, RouteState, StoredVersion, VersionDiff,
    VersionRecord, grants_key, plugin_key, plugins_key, route_key, version_key, versions_key,
};
use crate::turns::{Brings, Turns};
use crate::{RegistryError, address, diff, grants, start};

/// LIMIT: versions a route remembers for rolling back.
const HISTORY_COUNT_MAX: usize = 16;
/// LIMIT: records of one kind read for one answer.
const RECORDS_COUNT_MAX: usize = 10_000;

/// How old native code of no version has to be to be removed; longer than any upload takes.
const NATIVE_UNUSED_MIN: Duration = Duration::from_secs(3_600);

/// What rehearsed components get: nothing.
pub type Rehearsal = Arc<dyn Fn() -> GuestSetup + Send + Sync>;

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    tenants: Tenants,
    engine: Engine,
    rehearsal: Rehearsal,
    clock: Arc<dyn Clock>,
    domain: Option<String>,
    live: Live,
    loader: Loader,
    turns: Arc<Turns>,
}

impl Registry {
    /// Opens the registry: removes what interrupted uploads left behind, and loads routes and grants of all tenants.
    /// With a `domain`, routes are found by host name below it too: `{plugin}.{tenant}.{domain}`.
    pub async fn open(
        tenants: Tenants,
        engine: Engine,
        rehearsal: Rehearsal,
        clock: Arc<dyn Clock>,
        domain: Option<String>,
    ) -> Result<Self, RegistryError> {
        let live = Live::new();
        for tenant in tenants.list().await? {
            let Some(store) = tenants.open_readable(&tenant.id) else { continue };
            match start::first(&store).await {
                Ok(plugins) => live.extend(plugins),
                // What a tenant's rot hits is its own: the others are served.
                Err(RegistryError::Damaged | RegistryError::VersionNotFound { .. })
                    if tenants.shut_damaged(&tenant.id, &StoreError::Damaged) => {}
                Err(error) => return Err(error),
            }
        }
        let turns = Arc::new(Turns::new());
        let loader = Loader::new(engine.clone(), Arc::clone(&turns), Arc::clone(&clock));
        let inner = Inner { tenants, loader, engine, rehearsal, clock, domain, live, turns };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Publishes a version. Reads the whole body, at most [`ringfence_core::limits::COMPONENT_BYTES_MAX`] and
    /// what the tenant has room for; nothing goes live. The same
    /// bytes under the same label again change nothing and say so; any failure leaves nothing behind.
    pub async fn push<E>(
        &self,
        permit: Permit<act::PushVersion>,
        store: &TenantStore,
        plugin: &PluginName,
        label: &Version,
        announced: impl Into<Announced>,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Published, RegistryError> {
        let by = spend(&permit, store, Some(plugin))?.clone();
        let Announced { manifest, bytes, room } = announced.into();
        let upload = Upload { store, plugin, label, manifest: &manifest, by: &by, room: &room };
        upload.check_manifest()?;
        let is_new = store.get(&plugin_key(plugin)).await?.is_none();
        // The place first, then the count: whoever comes at the same moment sees this one either here or there.
        let place = self.inner.turns.arrive(store, if is_new { Brings::NewPlugin } else { Brings::Version })?;
        room.check(store, bytes, is_new.then(|| place.new_count())).await?;
        let quarantined = upload.quarantine(body).await?;
        let digest = quarantined.digest;
        if let Some(existing) = version(store, plugin, label).await? {
            quarantined.discard().await;
            return self.published_before(&upload, digest, existing).await;
        }
        match self.publish(&upload, quarantined).await {
            // Someone published the same label while this upload was being compiled, or the store lost its voice just then.
            Err(RegistryError::Unavailable) => match version(store, plugin, label).await? {
                Some(existing) => self.published_before(&upload, digest, existing).await,
                None => Err(RegistryError::Unavailable),
            },
            published => published,
        }
    }

    /// Says what [`Registry::reload`] would say, and changes nothing. For what was restored, before anybody can reach it.
    pub async fn check(&self, store: &TenantStore) -> Result<(), RegistryError> {
        start::load(store).await.map(drop)
    }

    /// Lets go of what is live of a tenant and loads its routes and grants again; for a tenant that was restored.
    pub async fn reload(&self, store: &TenantStore) -> Result<(), RegistryError> {
        let plugins = start::load(store).await?;
        if let Some(tenant) = store.tenant() {
            self.inner.live.forget(tenant);
        }
        self.inner.live.extend(plugins);
        Ok(())
    }

    /// The tenant's plugins, by name.
    pub async fn plugins(
        &self,
        permit: Permit<act::ReadPlugin>,
        store: &TenantStore,
    ) -> Result<Vec<PluginSummary>, RegistryError> {
        spend(&permit, store, None)?;
        let mut summaries = Vec::new();
        for record in start::scan::<PluginRecord>(store, &plugins_key(), RECORDS_COUNT_MAX).await? {
            let choice = self.inner.live.get(store, &record.name).and_then(|live| live.choice.load_full());
            let state = choice.as_ref().map(|choice| &choice.state);
            summaries.push(PluginSummary {
                live: state.map(|state| state.stable.clone()),
                canary: state.and_then(|state| state.canary.clone()),
                name: record.name,
                created_at: record.created_at,
                latest: record.latest,
                versions_count: record.versions_count,
            });
        }
        summaries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(summaries)
    }

    /// One plugin with its versions, route, grants and needs.
    pub async fn plugin(
        &self,
        permit: Permit<act::ReadPlugin>,
        store: &TenantStore,
        plugin: &PluginName,
    ) -> Result<PluginDetail, RegistryError> {
        spend(&permit, store, Some(plugin))?;
        let record = existing(store, plugin).await?;
        let mut versions: Vec<VersionRecord> =
            start::scan::<StoredVersion>(store, &versions_key(plugin), RECORDS_COUNT_MAX)
                .await?
                .into_iter()
                .map(|stored| stored.record)
                .collect();
        versions.sort_by(|a, b| b.label.cmp(&a.label));
        let route: Option<RouteState> = store.get_json(&route_key(plugin)).await?;
        let grants: Grants = store.get_json(&grants_key(plugin)).await?.unwrap_or_default();
        let shown = route.as_ref().map_or(&record.latest, |route| &route.stable);
        let needs = versions
            .iter()
            .find(|version| version.label == *shown)
            .map(|version| version.needs.clone())
            .unwrap_or_default();
        Ok(PluginDetail { name: record.name, missing: grants.missing(&needs), versions, route, grants, needs })
    }

    /// What is granted to a plugin. For callers that hold a permit for more than reading, or have just spent it.
    pub async fn grants(&self, store: &TenantStore, plugin: &PluginName) -> Result<Grants, RegistryError> {
        existing(store, plugin).await?;
        Ok(store.get_json(&grants_key(plugin)).await?.unwrap_or_default())
    }

    /// Who published a version. For callers that hold a permit for the plugins of the tenant.
    pub async fn publisher(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        label: &Version,
    ) -> Result<Option<PrincipalId>, RegistryError> {
        Ok(version(store, plugin, label).await?.map(|stored| stored.record.pushed_by))
    }

    /// A grant as it would be kept: for rules that read what is granted before it is.
    pub fn check_grant(grant: Grant) -> Result<Grant, RegistryError> {
        grants::check(grant)
    }

    /// Grants a capability to a plugin, beside what it has. The next host call sees it.
    pub async fn grant(
        &self,
        permit: Permit<act::GrantCapability>,
        store: &TenantStore,
        plugin: &PluginName,
        grant: Grant,
    ) -> Result<Grants, RegistryError> {
        spend(&permit, store, Some(plugin))?;
        let grant = grants::check(grant)?;
        self.change_grants(store, plugin, |granted| {
            granted.insert(grant);
            grants::check_size(granted)
        })
        .await
    }

    /// Takes a capability away whole, from all versions. The next host call sees it; taking what was not granted is fine.
    pub async fn revoke(
        &self,
        permit: Permit<act::GrantCapability>,
        store: &TenantStore,
        plugin: &PluginName,
        capability: Capability,
    ) -> Result<Grants, RegistryError> {
        spend(&permit, store, Some(plugin))?;
        self.change_grants(store, plugin, |granted| {
            granted.remove(capability);
            Ok(())
        })
        .await
    }

    /// Refuses the name of a plugin that was never pushed. Asks for no permit: who calls it has one for what it does next.
    pub async fn check_plugin(&self, store: &TenantStore, plugin: &PluginName) -> Result<(), RegistryError> {
        existing(store, plugin).await.map(drop)
    }

    /// Moves the plugin's route: all calls with no percentage or 100, or a share of 1 to 99 % as a canary beside the
    /// version that answers now. Refused when the version needs what is not granted.
    pub async fn deploy(
        &self,
        permit: Permit<act::DeployVersion>,
        store: &TenantStore,
        plugin: &PluginName,
        label: &Version,
        percent: Option<u8>,
    ) -> Result<RouteState, RegistryError> {
        let by = spend(&permit, store, Some(plugin))?.clone();
        let _turn = self.inner.turns.change(store, plugin).await;
        let stored = self.deployable(store, plugin, label).await?;
        let before: Option<RouteState> = store.get_json(&route_key(plugin)).await?;
        let now = self.inner.clock.now();
        let bad =
            |percent, why| RegistryError::BadPercent { plugin: plugin.clone(), version: label.clone(), percent, why };
        let state = match (percent, before) {
            (Some(percent @ (0 | 101..)), _) => return Err(bad(percent, "a share is 1 to 100")),
            (Some(percent @ ..=99), None) => {
                return Err(bad(percent, "no version answers the rest; deploy one for all calls first"));
            }
            (Some(percent @ ..=99), Some(before)) if before.stable == *label => {
                return Err(bad(percent, "it already answers the rest"));
            }
            (Some(percent @ ..=99), Some(before)) => {
                let canary = Some(Canary { label: label.clone(), percent });
                RouteState { canary, moved_at: now, moved_by: by, ..before }
            }
            (None | Some(_), before) => {
                let (previous, history) = before.map_or((None, Vec::new()), |before| remembered(before, label));
                RouteState { stable: label.clone(), canary: None, previous, history, moved_at: now, moved_by: by }
            }
        };
        self.move_route(store, plugin, state, &stored).await
    }

    /// Moves the route back: away from a canary when there is one, or else to the version that answered before.
    pub async fn rollback(
        &self,
        permit: Permit<act::DeployVersion>,
        store: &TenantStore,
        plugin: &PluginName,
    ) -> Result<RouteState, RegistryError> {
        let by = spend(&permit, store, Some(plugin))?.clone();
        let _turn = self.inner.turns.change(store, plugin).await;
        existing(store, plugin).await?;
        let nothing = || RegistryError::NothingToRollBack { plugin: plugin.clone() };
        let mut state: RouteState = store.get_json(&route_key(plugin)).await?.ok_or_else(nothing)?;
        if state.canary.take().is_none() {
            state.stable = state.previous.take().ok_or_else(nothing)?;
            state.previous = state.history.pop();
        }
        let stored = self.deployable(store, plugin, &state.stable).await?;
        state.moved_at = self.inner.clock.now();
        state.moved_by = by;
        self.move_route(store, plugin, state, &stored).await
    }

    /// Where a call goes, by `/{tenant}/{plugin}/{rest}` or by host name. `path` is the path with its query, as it came.
    /// In memory; never waits.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<Route> {
        self.inner.live.find(address::parse(self.inner.domain.as_deref(), host, path)?)
    }

    /// Where invocations of a plugin go that no HTTP request starts. In memory; never waits.
    pub fn route(&self, tenant: &TenantId, plugin: &PluginName) -> Option<Route> {
        let address = address::Address { tenant: tenant.clone(), plugin: plugin.clone(), rest: "/".to_owned() };
        self.inner.live.find(address)
    }

    /// A published version by its label, whether or not it is live: what was begun with a version goes on with it.
    pub async fn pinned(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        label: &Version,
    ) -> Result<Option<VersionRef>, RegistryError> {
        let stored = version(store, plugin, label).await?;
        Ok(stored.map(|stored| VersionRef::new(store, plugin, &stored)))
    }

    /// How many plugins a tenant has. For callers that hold a permit for more than counting.
    pub async fn plugins_count(&self, store: &TenantStore) -> Result<u64, RegistryError> {
        start::count_below(store, &plugins_key()).await
    }

    /// The capabilities that plugins used since this was last asked, by plugin.
    pub fn take_used(&self) -> Vec<(TenantStore, PluginName, Vec<Capability>)> {
        self.inner.live.take_used()
    }

    /// How many plugins have a route.
    pub fn routes_count(&self) -> usize {
        self.inner.live.routes_count()
    }

    /// The loaded code of a version; from the authenticated cache, or compiled again.
    pub async fn compiled(&self, version: &VersionRef) -> Result<Code, RegistryError> {
        self.inner.loader.get(version).await
    }

    /// Two versions side by side, and what of their needs is granted.
    pub async fn diff(
        &self,
        permit: Permit<act::ReadPlugin>,
        store: &TenantStore,
        plugin: &PluginName,
        from: &Version,
        to: &Version,
    ) -> Result<VersionDiff, RegistryError> {
        spend(&permit, store, Some(plugin))?;
        let before = self.version(store, plugin, from).await?.record;
        let after = self.version(store, plugin, to).await?.record;
        let grants: Grants = store.get_json(&grants_key(plugin)).await?.unwrap_or_default();
        Ok(diff::compare(plugin, &before, &after, &grants))
    }

    /// Versions whose code is loaded, and how often that helped.
    pub fn loaded(&self) -> Loaded {
        self.inner.loader.loaded()
    }

    /// Native code on disk: how many pieces, and their bytes.
    pub async fn native_size(&self) -> Result<(u64, u64), RegistryError> {
        let engine = self.inner.engine.clone();
        Ok(blocking(move || engine.native_size()).await??)
    }

    /// Removes native code that belongs to no version of any tenant; gives how many pieces. What was written lately stays:
    /// an upload may be about to publish its version.
    pub async fn sweep_native(&self) -> Result<usize, RegistryError> {
        let Inner { tenants, engine, clock, .. } = &*self.inner;
        let before = std::time::SystemTime::from(clock.now()).checked_sub(NATIVE_UNUSED_MIN);
        let Some(before) = before else { return Ok(0) };
        let mut live = HashSet::new();
        for tenant in tenants.list().await? {
            let Some(store) = tenants.open_readable(&tenant.id) else { continue };
            for digest in start::digests(&store).await? {
                live.insert(engine.native_name(store.keys(), &digest)?);
            }
        }
        let engine = engine.clone();
        Ok(blocking(move || engine.sweep_native(&live, before)).await??)
    }

    /// Lets go of a deleted tenant: its routes end and its code is unloaded.
    pub async fn forget(&self, tenant: &TenantId) {
        self.inner.live.forget(tenant);
        self.inner.loader.forget(tenant);
    }

    async fn publish(&self, upload: &Upload<'_>, quarantined: Quarantined) -> Result<Published, RegistryError> {
        let Inner { engine, loader, clock, rehearsal, .. } = &*self.inner;
        let compiled = async {
            let _turn = self.inner.turns.compile(upload.store.label()).await?;
            let verified = quarantined.inspect().await?.verify(upload);
            verified.compile(upload, engine, loader, rehearsal(), &**clock).await
        };
        let compiled = match compiled.await {
            Ok(compiled) => compiled,
            Err(error) => {
                quarantined.discard().await;
                return Err(error);
            }
        };
        let _turn = self.inner.turns.change(upload.store, upload.plugin).await;
        let before: Option<PluginRecord> = match upload.store.get_json(&plugin_key(upload.plugin)).await {
            Ok(before) => before,
            Err(error) => {
                quarantined.discard().await;
                return Err(error.into());
            }
        };
        let previous = before.as_ref().map(|before| before.latest.clone());
        let stored = quarantined.commit(upload, &compiled, before, &**clock).await?;
        loader.keep(upload.store, &stored.record.digest, compiled.code());
        self.describe(upload, stored.record, previous, Some(compiled.compile_ms)).await
    }

    async fn published_before(
        &self,
        upload: &Upload<'_>,
        digest: ringfence_core::Digest,
        existing: StoredVersion,
    ) -> Result<Published, RegistryError> {
        if existing.record.digest != digest {
            return Err(RegistryError::VersionExists {
                plugin: upload.plugin.clone(),
                version: upload.label.clone(),
                existing: existing.record.digest,
                given: digest,
            });
        }
        self.describe(upload, existing.record, None, None).await
    }

    async fn describe(
        &self,
        upload: &Upload<'_>,
        record: VersionRecord,
        previous: Option<Version>,
        compiled_in: Option<u64>,
    ) -> Result<Published, RegistryError> {
        let grants: Grants = upload.store.get_json(&grants_key(upload.plugin)).await?.unwrap_or_default();
        let before = match &previous {
            Some(label) => version(upload.store, upload.plugin, label).await?.map(|stored| stored.record.needs),
            None => None,
        };
        Ok(Published {
            created: compiled_in.is_some(),
            plugin: upload.plugin.clone(),
            version: record.label,
            digest: record.digest,
            bytes: record.bytes,
            missing: grants.missing(&record.needs),
            added: added(&record.needs, before.as_ref()),
            needs: record.needs,
            previous,
            world: record.world,
            compile_ms: compiled_in.unwrap_or(0),
        })
    }

    /// A version that exists and whose needs are granted.
    async fn deployable(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        label: &Version,
    ) -> Result<StoredVersion, RegistryError> {
        let stored = self.version(store, plugin, label).await?;
        let granted: Grants = store.get_json(&grants_key(plugin)).await?.unwrap_or_default();
        let missing = granted.missing(&stored.record.needs);
        if missing.is_empty() {
            return Ok(stored);
        }
        let answering = match store.get_json::<RouteState>(&route_key(plugin)).await? {
            Some(route) => version(store, plugin, &route.stable).await?.map(|stored| stored.record.needs),
            None => None,
        };
        Err(grants::not_granted(store, plugin, stored.record, missing, answering))
    }

    async fn version(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        label: &Version,
    ) -> Result<StoredVersion, RegistryError> {
        existing(store, plugin).await?;
        let missing = || RegistryError::VersionNotFound { plugin: plugin.clone(), version: label.clone() };
        version(store, plugin, label).await?.ok_or_else(missing)
    }

    /// Writes a route, then lets calls take it. `stored` is the version that the change is about.
    async fn move_route(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        state: RouteState,
        stored: &StoredVersion,
    ) -> Result<RouteState, RegistryError> {
        let choice = start::choice(store, plugin, state.clone(), stored).await?;
        store.put_json(&route_key(plugin), &state).await?;
        self.inner.live.ensure(store, plugin).choice.store(Some(Arc::<Choice>::new(choice)));
        Ok(state)
    }

    async fn change_grants(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        change: impl FnOnce(&mut Grants) -> Result<(), RegistryError>,
    ) -> Result<Grants, RegistryError> {
        let _turn = self.inner.turns.change(store, plugin).await;
        existing(store, plugin).await?;
        let mut granted: Grants = store.get_json(&grants_key(plugin)).await?.unwrap_or_default();
        change(&mut granted)?;
        store.put_json(&grants_key(plugin), &granted).await?;
        self.inner.live.ensure(store, plugin).grants.store(Arc::new(granted.clone()));
        Ok(granted)
    }
}

/// Spends a permit: it must be for this tenant and, when it names one, this plugin. Says who acts.
fn spend<'a, A: Action>(
    permit: &'a Permit<A>,
    store: &TenantStore,
    plugin: Option<&PluginName>,
) -> Result<&'a ringfence_core::PrincipalId, RegistryError> {
    let fits = match (permit.resource(), plugin) {
        (Resource::Tenant { tenant }, _) => Some(tenant) == store.tenant(),
        (Resource::Plugin { tenant, plugin: allowed }, Some(plugin)) => {
            Some(tenant) == store.tenant() && allowed == plugin
        }
        _ => false,
    };
    // SECURITY: a permit for something else here means a mistake in the caller; doing nothing is the safe answer.
    if fits { Ok(permit.principal()) } else { Err(RegistryError::Host("the permit is for something else".to_owned())) }
}

async fn existing(store: &TenantStore, plugin: &PluginName) -> Result<PluginRecord, RegistryError> {
    let missing = || RegistryError::PluginNotFound { plugin: plugin.clone() };
    store.get_json(&plugin_key(plugin)).await?.ok_or_else(missing)
}

async fn version(
    store: &TenantStore,
    plugin: &PluginName,
    label: &Version,
) -> Result<Option<StoredVersion>, RegistryError> {
    Ok(store.get_json(&version_key(plugin, label)).await?)
}

/// What a route remembers once `label` replaces what answered; deploying what answers already adds nothing.
fn remembered(before: RouteState, label: &Version) -> (Option<Version>, Vec<Version>) {
    let RouteState { stable, previous, mut history, .. } = before;
    if stable == *label {
        return (previous, history);
    }
    history.extend(previous);
    let surplus = history.len().saturating_sub(HISTORY_COUNT_MAX);
    history.drain(..surplus);
    (Some(stable), history)
}
