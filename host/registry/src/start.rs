//! Reading the registry back from the store: at the start, and when a route moves.
//!
//! Must never make live what the store does not hold, nor serve a part of a tenant's routes: one whose records are damaged
//! is locked, and none of its routes is there.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use ringfence_core::{Digest, Grants, PluginName};
use ringfence_store::{Key, TenantStore};
use semver::Version;
use serde::de::DeserializeOwned;

use crate::RegistryError;
use crate::live::{Choice, Plugin, VersionRef};
use crate::push;
use crate::record::{
    PluginRecord, RouteState, StoredVersion, grants_key, plugins_key, quarantines_key, route_key, version_key,
    versions_key,
};

/// Records asked for at a time.
const PAGE_COUNT: usize = 200;
/// LIMIT: plugins of one tenant that are loaded.
const PLUGINS_COUNT_MAX: usize = 10_000;
/// LIMIT: versions of one plugin that are counted.
const VERSIONS_COUNT_MAX: usize = 100_000;

/// What a start does with a tenant: removes what interrupted uploads left, has held bytes counted, and gives its plugins.
pub(crate) async fn first(store: &TenantStore) -> Result<Vec<(PluginName, Arc<Plugin>)>, RegistryError> {
    sweep(store).await?;
    count(store).await?;
    load(store).await
}

/// All plugins of a tenant with their grants and routes.
pub(crate) async fn load(store: &TenantStore) -> Result<Vec<(PluginName, Arc<Plugin>)>, RegistryError> {
    let mut plugins = Vec::new();
    for PluginRecord { name, .. } in scan::<PluginRecord>(store, &plugins_key(), PLUGINS_COUNT_MAX).await? {
        let grants: Grants = store.get_json(&grants_key(&name)).await?.unwrap_or_default();
        let choice = match store.get_json::<RouteState>(&route_key(&name)).await? {
            Some(state) => {
                let stable = stored(store, &name, &state.stable).await?;
                Some(Arc::new(choice(store, &name, state, &stable).await?))
            }
            None => None,
        };
        let plugin = Plugin {
            store: store.clone(),
            grants: Arc::new(ArcSwap::from_pointee(grants)),
            used: Arc::default(),
            choice: ArcSwapOption::new(choice),
        };
        plugins.push((name, Arc::new(plugin)));
    }
    Ok(plugins)
}

/// The versions that a route chooses between. `known` is one of them, already read.
pub(crate) async fn choice(
    store: &TenantStore,
    plugin: &PluginName,
    state: RouteState,
    known: &StoredVersion,
) -> Result<Choice, RegistryError> {
    let get = async |label: &Version| -> Result<VersionRef, RegistryError> {
        if known.record.label == *label {
            return Ok(VersionRef::new(store, plugin, known));
        }
        Ok(VersionRef::new(store, plugin, &stored(store, plugin, label).await?))
    };
    let stable = get(&state.stable).await?;
    let canary = match &state.canary {
        Some(canary) => Some((get(&canary.label).await?, canary.percent)),
        None => None,
    };
    Ok(Choice { state, stable, canary })
}

/// Has the store count what a tenant from before there was a count holds; the bytes of components are known here.
pub(crate) async fn count(store: &TenantStore) -> Result<(), RegistryError> {
    if store.is_counted()? {
        return Ok(());
    }
    let mut bytes = 0_u64;
    for PluginRecord { name, .. } in scan::<PluginRecord>(store, &plugins_key(), PLUGINS_COUNT_MAX).await? {
        let versions = scan::<StoredVersion>(store, &versions_key(&name), VERSIONS_COUNT_MAX).await?;
        bytes = versions.iter().fold(bytes, |sum, version| sum.saturating_add(version.record.bytes));
    }
    Ok(store.count_held(bytes).await?)
}

/// The components of all versions of a tenant.
pub(crate) async fn digests(store: &TenantStore) -> Result<Vec<Digest>, RegistryError> {
    let mut digests = Vec::new();
    for PluginRecord { name, .. } in scan::<PluginRecord>(store, &plugins_key(), PLUGINS_COUNT_MAX).await? {
        let versions = scan::<StoredVersion>(store, &versions_key(&name), VERSIONS_COUNT_MAX).await?;
        digests.extend(versions.into_iter().map(|version| version.record.digest));
    }
    Ok(digests)
}

/// How many records there are below a prefix.
pub(crate) async fn count_below(store: &TenantStore, prefix: &Key) -> Result<u64, RegistryError> {
    let (mut count, mut after) = (0_u64, None);
    loop {
        let page = store.scan(prefix, after.as_ref(), PAGE_COUNT).await?;
        count = count.saturating_add(page.records.len() as u64);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}

/// Removes what interrupted uploads left in quarantine.
pub(crate) async fn sweep(store: &TenantStore) -> Result<(), RegistryError> {
    let mut after = None;
    loop {
        let page = store.scan(&quarantines_key(), after.as_ref(), PAGE_COUNT).await?;
        for (key, _) in &page.records {
            match key.last_name().map(str::parse) {
                Some(Ok(blob)) => push::remove(store, &blob).await,
                _ => tracing::warn!("a quarantine record names no file"),
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Reads all JSON records below a prefix, at most `count_max`.
pub(crate) async fn scan<T: DeserializeOwned>(
    store: &TenantStore,
    prefix: &Key,
    count_max: usize,
) -> Result<Vec<T>, RegistryError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(prefix, after.as_ref(), PAGE_COUNT).await?;
        for (_, record) in &page.records {
            let value = serde_json::from_slice(&record.value)
                .map_err(|_| RegistryError::Host("a record of the registry cannot be read".to_owned()))?;
            found.push(value);
        }
        match page.next {
            Some(next) if found.len() < count_max => after = Some(next),
            _ => return Ok(found),
        }
    }
}

async fn stored(store: &TenantStore, plugin: &PluginName, label: &Version) -> Result<StoredVersion, RegistryError> {
    let missing = || RegistryError::VersionNotFound { plugin: plugin.clone(), version: label.clone() };
    store.get_json(&version_key(plugin, label)).await?.ok_or_else(missing)
}
