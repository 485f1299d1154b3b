//! Bindings: which plugins a tenant lets an extension point ask, in which order, and when.
//!
//! Must never bind a plugin that has no handler for it, nor a condition that cannot be followed, or not for any payload that fits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use ringfence_core::{PluginName, PrincipalId, ResourceName, TenantId};
use ringfence_engine::Export;
use ringfence_store::{Key, TenantStore};
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::point::{Binders, Point};
use crate::{Automation, AutomationError, CallError};

/// LIMIT: plugins of one tenant bound to one point.
pub const BINDINGS_COUNT_MAX: usize = 16;
/// LIMIT: sets of bindings kept in memory; then all are forgotten and read again when asked for.
const KEPT_COUNT_MAX: usize = 10_000;

/// What a tenant says about a binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BindingSpec {
    /// Lower goes first; of equals, by the plugin's name.
    #[serde(default)]
    pub order: i32,
    /// CEL over `payload`: when it is asked. Always when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// A plugin bound to a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The point.
    pub hook: ResourceName,
    /// The plugin.
    pub plugin: PluginName,
    /// The version of the point under which it was bound last; none of what was bound before hosts kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_version: Option<u32>,
    /// As said.
    pub spec: BindingSpec,
    /// When.
    pub bound_at: Timestamp,
    /// By whom.
    pub bound_by: PrincipalId,
}

/// A binding with its condition compiled.
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) condition: Option<Condition>,
}

type Kept = HashMap<(String, String), Arc<Vec<Bound>>>;

/// What is bound, by tenant's uid and point, as far as it was asked for.
#[derive(Default)]
pub(crate) struct Bindings(Mutex<Kept>);

impl Bindings {
    fn get(&self, store: &TenantStore, hook: &str) -> Option<Arc<Vec<Bound>>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&(store.uid(), hook.to_owned())).cloned()
    }
    fn keep(&self, store: &TenantStore, hook: &str, bound: Arc<Vec<Bound>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_COUNT_MAX {
            kept.clear();
        }
        kept.insert((store.uid(), hook.to_owned()), bound);
    }
    pub(super) fn forget_of(&self, store: &TenantStore) {
        let uid = store.uid();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| *of != uid);
    }
    fn forget(&self, store: &TenantStore, hook: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(store.uid(), hook.to_owned()));
    }
}

impl Automation {
    /// What a tenant bound to a point, in the order in which it is asked.
    pub async fn bindings(&self, store: &TenantStore, hook: &ResourceName) -> Result<Vec<Binding>, AutomationError> {
        Ok(self.bound(store, hook).await?.iter().map(|bound| bound.binding.clone()).collect())
    }

    /// Binds a plugin to a point, or changes how it is bound. Says as well what is to be known of its condition.
    pub async fn bind(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        hook: &ResourceName,
        plugin: &PluginName,
        spec: BindingSpec,
        by: &PrincipalId,
    ) -> Result<(Binding, Vec<String>), AutomationError> {
        self.point(hook)?;
        let condition = spec.condition.as_deref().map(Condition::compile).transpose();
        let condition =
            condition.map_err(|why| AutomationError::BadBinding(format!("its condition cannot be followed: {why}")))?;
        self.check_handler(tenant, plugin, Export::Hook).await?;
        // With the operator's changes of the point: what is checked here must still be so when it is written.
        let _one = self.changing.lock().await;
        let point = self.point(hook)?;
        let warnings = condition.map_or_else(|| Ok(Vec::new()), |condition| warnings(&condition, &point))?;
        let others = self.read_bindings(store, hook).await?;
        let others_count = others.iter().filter(|other| other.binding.plugin != *plugin).count();
        if point.spec.binders == Binders::One && others_count > 0 {
            return Err(AutomationError::BadBinding("one plugin alone may be bound, and another one is".to_owned()));
        }
        if others_count >= BINDINGS_COUNT_MAX {
            return Err(AutomationError::TooMany { what: "plugins bound to one point", max: BINDINGS_COUNT_MAX });
        }
        let binding = Binding {
            hook: hook.clone(),
            plugin: plugin.clone(),
            point_version: Some(point.version),
            spec,
            bound_at: self.parts.clock.now(),
            bound_by: by.clone(),
        };
        let written = store.put_json(&bindings_key(hook.as_str()).push(plugin.as_str()), &binding).await;
        self.hooks.bindings.forget(store, hook.as_str());
        written?;
        Ok((binding, warnings))
    }

    /// Takes a binding away.
    pub async fn unbind(
        &self,
        store: &TenantStore,
        hook: &ResourceName,
        plugin: &PluginName,
    ) -> Result<(), AutomationError> {
        let _one = self.changing.lock().await;
        let key = bindings_key(hook.as_str()).push(plugin.as_str());
        if store.get(&key).await?.is_none() {
            return Err(AutomationError::NotFound("binding"));
        }
        let deleted = store.delete(&key).await;
        self.hooks.bindings.forget(store, hook.as_str());
        deleted?;
        Ok(())
    }

    pub(crate) async fn bound(
        &self,
        store: &TenantStore,
        hook: &ResourceName,
    ) -> Result<Arc<Vec<Bound>>, AutomationError> {
        if let Some(kept) = self.hooks.bindings.get(store, hook.as_str()) {
            return Ok(kept);
        }
        // Under the lock of those who change it, or what is read could be kept after it was changed.
        let _one = self.changing.lock().await;
        let bound = Arc::new(self.read_bindings(store, hook).await?);
        self.hooks.bindings.keep(store, hook.as_str(), Arc::clone(&bound));
        Ok(bound)
    }

    /// Whether the version that answers for a plugin has a handler.
    pub async fn check_handler(
        &self,
        tenant: &TenantId,
        plugin: &PluginName,
        export: Export,
    ) -> Result<(), AutomationError> {
        let route = self.parts.registry.route(tenant, plugin).ok_or(CallError::NoPlugin)?;
        let code = self.parts.registry.compiled(route.stable()).await.map_err(|_| CallError::Host)?;
        if code.has(export) {
            return Ok(());
        }
        let (label, interface) = (&route.stable().label, export.interface());
        Err(AutomationError::BadBinding(format!("`{plugin}@{label}` does not export `{interface}`")))
    }

    async fn read_bindings(&self, store: &TenantStore, hook: &ResourceName) -> Result<Vec<Bound>, AutomationError> {
        let page = store.scan(&bindings_key(hook.as_str()), None, BINDINGS_COUNT_MAX * 2).await?;
        let mut bound = Vec::with_capacity(page.records.len());
        for (_, record) in page.records {
            let binding: Binding = record.json()?;
            let condition = binding.spec.condition.as_deref().map(Condition::compile).transpose();
            let condition = condition.map_err(AutomationError::BadBinding)?;
            bound.push(Bound { binding, condition });
        }
        bound.sort_by(|a, b| (a.binding.spec.order, &a.binding.plugin).cmp(&(b.binding.spec.order, &b.binding.plugin)));
        Ok(bound)
    }
}

/// What is to be known of a condition about a point's payload; refused when it reads what no payload that fits has.
fn warnings(condition: &Condition, point: &Point) -> Result<Vec<String>, AutomationError> {
    let strangers = condition.strangers(&point.spec.payload);
    if let Some(place) = strangers.closed.first() {
        let why = format!("its condition reads `{place}`, which the point's schema lets no payload have");
        return Err(AutomationError::BadBinding(why));
    }
    let warning = |place: &String| {
        format!(
            "the point's schema does not name `{place}`: without it the plugin fails, unless the condition asks `has({place})`"
        )
    };
    Ok(strangers.unnamed.iter().map(warning).collect())
}

pub(crate) fn bindings_key(hook: &str) -> Key {
    Key::new(["hook-binding", hook])
}
