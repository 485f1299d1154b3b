//! When grants and roles were last used, to the hour: noted in memory, written down every minute and at the end of the
//! host. A kill loses a minute of it.
//!
//! Records, in the store of whose they are: `access/since` (when watching began), `access/acts/<principal, in hexadecimal>`,
//! `access/grant/<plugin>`. Must never forget a use because the store would not take it: it waits for the next round.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ringfence_core::{Capability, PluginName, PrincipalId};
use ringfence_identity::LAST_USE_SECONDS;
use ringfence_store::{Key, StoreError, TenantStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Acts;
use crate::Control;

/// How often facts are written down.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Records read at a time.
const PAGE_COUNT: usize = 256;

/// What a principal did, and when last.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptActs {
    pub(super) principal: PrincipalId,
    /// By the action's word.
    pub(super) acts: BTreeMap<String, Timestamp>,
}

/// What is known about a grant beside what it covers. All of it is unknown about grants from before there were facts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GrantFact {
    pub(super) granted_at: Option<Timestamp>,
    pub(super) granted_by: Option<PrincipalId>,
    pub(super) used_at: Option<Timestamp>,
}

/// The facts about the grants of one plugin, by capability.
pub(super) type GrantFacts = BTreeMap<Capability, GrantFact>;

impl Control {
    /// Writes down what was used, and looks after access reviews, until `stopping` says so; then once more.
    pub(crate) async fn watch_access(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            self.keep_facts().await;
            let due = self.tend_reviews().await;
            let rest = due.map_or(KEEP_EVERY, |due| KEEP_EVERY.min(self.until(due)));
            let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
            tokio::select! {
                () = stopped => return self.keep_facts().await,
                () = self.access.0.opened.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Notes who gave a plugin a capability. The grant stands whether or not this can be written.
    pub(crate) async fn note_grant(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        capability: Capability,
        by: &PrincipalId,
    ) {
        let granted_at = self.parts.clock.now();
        let changed = self.change_grant_facts(store, plugin, |facts| {
            let used_at = facts.get(&capability).and_then(|fact| fact.used_at);
            let (granted_at, granted_by) = (Some(granted_at), Some(by.clone()));
            facts.insert(capability, GrantFact { granted_at, granted_by, used_at });
        });
        if let Err(error) = changed.await {
            tracing::warn!(%error, "who granted something could not be noted");
        }
    }

    /// Forgets what was known about a grant that was taken away.
    pub(crate) async fn forget_grant(&self, store: &TenantStore, plugin: &PluginName, capability: Capability) {
        let changed = self.change_grant_facts(store, plugin, |facts| drop(facts.remove(&capability)));
        if let Err(error) = changed.await {
            tracing::warn!(%error, "facts about a grant that is gone could not be forgotten");
        }
    }

    /// Writes down everything that was noted.
    pub(crate) async fn keep_facts(&self) {
        self.begin_watching().await;
        let acts = std::mem::take(&mut self.access.pending().acts);
        for (who, acts) in acts {
            if let Err(error) = self.keep_acts(&who, &acts).await {
                tracing::warn!(%error, principal = %who, "what a principal did is not written down yet");
                self.access.pending().acts.entry(who).or_insert(acts);
            }
        }
        {
            let mut pending = self.access.pending();
            for (store, plugin, used) in self.parts.registry.take_used() {
                let place = (store.uid(), plugin);
                pending.grants.entry(place).or_insert_with(|| (store, Default::default())).1.extend(used);
            }
        }
        let grants = std::mem::take(&mut self.access.pending().grants);
        let hour = hour_of(self.parts.clock.now());
        for ((uid, plugin), (store, used)) in grants {
            let kept = self.change_grant_facts(&store, &plugin, |facts| {
                for capability in &used {
                    let fact = facts.entry(*capability).or_default();
                    fact.used_at = fact.used_at.max(Some(hour));
                }
            });
            match kept.await {
                Ok(()) | Err(StoreError::Gone) => {}
                Err(error) => {
                    tracing::warn!(%error, %plugin, "which grants a plugin used is not written down yet");
                    self.access
                        .pending()
                        .grants
                        .entry((uid, plugin))
                        .or_insert((store, Default::default()))
                        .1
                        .extend(used);
                }
            }
        }
    }

    /// Since when a place is watched; none when it has not begun.
    pub(super) async fn watched_since(&self, store: &TenantStore) -> Result<Option<Timestamp>, StoreError> {
        store.get_json(&since_key()).await
    }

    /// What is kept of everybody's acts in a place.
    pub(super) async fn kept_acts(&self, store: &TenantStore) -> Result<Vec<KeptActs>, StoreError> {
        Ok(scan(store, &Key::new(["access", "acts"])).await?.into_iter().map(|(_, acts)| acts).collect())
    }

    /// What is kept of the grants of a plugin.
    pub(super) async fn grant_facts(&self, store: &TenantStore, plugin: &PluginName) -> Result<GrantFacts, StoreError> {
        Ok(store.get_json(&grant_key(plugin)).await?.unwrap_or_default())
    }

    pub(crate) fn until(&self, due: Timestamp) -> Duration {
        let left = due.as_millisecond().saturating_sub(self.parts.clock.now().as_millisecond()).max(0);
        // Not at once again when the last round could not do all of it.
        Duration::from_millis(u64::try_from(left).unwrap_or(0)).max(Duration::from_secs(1))
    }

    async fn begin_watching(&self) {
        let now = self.parts.clock.now();
        let tenants = self.parts.tenants.list().await.unwrap_or_default();
        let open = tenants.iter().filter_map(|record| self.parts.tenants.open_tenant(&record.id));
        for store in open.chain([self.parts.tenants.platform().clone()]) {
            let uid = store.uid();
            if self.access.pending().watched.contains(&uid) {
                continue;
            }
            let begun = async {
                if self.watched_since(&store).await?.is_none() {
                    store.put_json(&since_key(), &now).await?;
                }
                Ok::<_, StoreError>(())
            };
            if begun.await.is_ok() {
                self.access.pending().watched.insert(uid);
            }
        }
    }

    async fn keep_acts(&self, who: &PrincipalId, acts: &Acts) -> Result<(), StoreError> {
        let store = match &acts.tenant {
            None => self.parts.tenants.platform().clone(),
            Some(tenant) => match self.parts.tenants.open_tenant(tenant) {
                Some(store) => store,
                None => return Ok(()),
            },
        };
        let key = Key::new(["access", "acts", HEXLOWER.encode(who.as_str().as_bytes()).as_str()]);
        let before: Option<KeptActs> = store.get_json(&key).await?;
        let mut kept = before.clone().unwrap_or(KeptActs { principal: who.clone(), acts: BTreeMap::new() });
        for (action, at) in &acts.at {
            let hour = hour_of(*at);
            let last = kept.acts.entry((*action).to_owned()).or_insert(hour);
            *last = hour.max(*last);
        }
        if before.is_none_or(|before| before.acts != kept.acts) {
            store.put_json(&key, &kept).await?;
        }
        Ok(())
    }

    async fn change_grant_facts(
        &self,
        store: &TenantStore,
        plugin: &PluginName,
        change: impl FnOnce(&mut GrantFacts),
    ) -> Result<(), StoreError> {
        let _one = self.access.0.keeping.lock().await;
        let before = self.grant_facts(store, plugin).await?;
        let mut facts = before.clone();
        change(&mut facts);
        if facts != before {
            store.put_json(&grant_key(plugin), &facts).await?;
        }
        Ok(())
    }
}

/// All records below a prefix, with the number or name at the end of their keys.
pub(super) async fn scan<T: DeserializeOwned>(store: &TenantStore, prefix: &Key) -> Result<Vec<(Key, T)>, StoreError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(prefix, after.as_ref(), PAGE_COUNT).await?;
        for (key, record) in page.records {
            found.push((key, record.json()?));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

fn hour_of(at: Timestamp) -> Timestamp {
    let second = at.as_second();
    Timestamp::from_second(second - second.rem_euclid(LAST_USE_SECONDS)).unwrap_or(at)
}

fn since_key() -> Key {
    Key::new(["access", "since"])
}

fn grant_key(plugin: &PluginName) -> Key {
    Key::new(["access", "grant", plugin.as_str()])
}
