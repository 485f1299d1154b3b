//! Figures about a tenant's plugins, for the host's own look at it, such as the tenant's checks.
//!
//! Must never hold a component or a secret: names, labels, grants.

use jiff::Timestamp;
use ringfence_core::{Grant, PluginName};
use ringfence_store::TenantStore;
use serde::Serialize;

use crate::record::{PluginRecord, RouteState, StoredVersion, grants_key, plugins_key, route_key, version_key};
use crate::{Registry, RegistryError, start};

/// LIMIT: plugins looked at.
const PLUGINS_COUNT_MAX: usize = 10_000;

/// One plugin, in figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginFigures {
    /// Its name.
    pub name: PluginName,
    /// Versions published.
    pub versions_count: u64,
    /// The version that answers; empty before the first deploy.
    pub live: String,
    /// When that began, in milliseconds since 1970 UTC; 0 before the first deploy.
    pub live_since_ms: i64,
    /// When that version was published, in the same; 0 before the first deploy.
    pub live_pushed_ms: i64,
    /// What the tenant granted it.
    pub grants: Vec<Grant>,
}

impl Registry {
    /// The tenant's plugins in figures, by name.
    pub async fn survey(&self, store: &TenantStore) -> Result<Vec<PluginFigures>, RegistryError> {
        let mut all = Vec::new();
        for record in start::scan::<PluginRecord>(store, &plugins_key(), PLUGINS_COUNT_MAX).await? {
            let route: Option<RouteState> = store.get_json(&route_key(&record.name)).await?;
            let grants: ringfence_core::Grants = store.get_json(&grants_key(&record.name)).await?.unwrap_or_default();
            let pushed_at = match &route {
                Some(route) => {
                    let key = version_key(&record.name, &route.stable);
                    store.get_json::<StoredVersion>(&key).await?.map(|stored| stored.record.pushed_at)
                }
                None => None,
            };
            all.push(PluginFigures {
                versions_count: record.versions_count as u64,
                live: route.as_ref().map(|route| route.stable.to_string()).unwrap_or_default(),
                live_since_ms: route.as_ref().map_or(0, |route| route.moved_at.as_millisecond()),
                live_pushed_ms: pushed_at.map_or(0, Timestamp::as_millisecond),
                grants: grants.iter().collect(),
                name: record.name,
            });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}
