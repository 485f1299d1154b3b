//! What tenants hold in storage, over time: bytes of key-value data, objects and files times how long they lay there.
//!
//! Sampled, not counted at every write: what was held at the last look is credited for the time since. A tenant is
//! weighed again only after its plugins worked on stored values, and so seldom that weighing takes at most a hundredth of
//! the time. The time that the host is down is not credited. Must never keep anybody waiting for a look.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use ringfence_core::PluginName;
use ringfence_store::{Key, StoreError, TenantStore};

use crate::metering::Metering;
use crate::usage_sum::{Day, UsageSum};

/// LIMIT: most time between two looks that is credited; a host that stood still for longer did not serve either.
const GAP_MAX: Duration = Duration::from_secs(3_600);
/// How much longer than a weighing took the next one has to wait.
const REST_FACTOR: u32 = 100;
/// Where plugins keep data: the capabilities room writes there and nobody else, and the next name is the plugin's.
const AREAS: [&str; 3] = ["kv", "blob", "file"];

/// What is known of the last look.
#[derive(Default)]
pub(crate) struct Sampler {
    /// When it was, by the monotonic clock.
    last: Option<Duration>,
    held: HashMap<String, Held>,
}

/// What one tenant held when it was weighed.
#[derive(Default)]
struct Held {
    bytes: BTreeMap<PluginName, u64>,
    /// When it may be weighed again.
    rested_at: Duration,
    freshness: Freshness,
}

#[derive(Default, PartialEq, Eq)]
enum Freshness {
    /// Never weighed, or written to since.
    #[default]
    Stale,
    Fresh,
}

impl Metering {
    /// Credits what every tenant held since the last look, and weighs anew what may have changed.
    pub async fn sample(&self) {
        let mut sampler = self.0.sampler.lock().await;
        let (now, monotonic) = (self.0.clock.now(), self.0.clock.monotonic());
        let since = sampler.last.replace(monotonic).map_or(Duration::ZERO, |last| monotonic.saturating_sub(last));
        let span_us = u64::try_from(since.min(GAP_MAX).as_micros()).unwrap_or(u64::MAX);
        let Ok(records) = self.0.tenants.list().await else { return };
        let touched = std::mem::take(&mut self.0.collected().touched);
        let mut there = HashSet::with_capacity(records.len());
        for record in records {
            let Some(store) = self.0.tenants.open_tenant(&record.id) else { continue };
            let held = sampler.held.entry(record.uid.clone()).or_default();
            for (day, share_us) in Day::shares(now, span_us) {
                self.credit(&store, held, day, share_us);
            }
            if touched.contains(&record.uid) {
                held.freshness = Freshness::Stale;
            }
            if held.freshness == Freshness::Stale && self.0.clock.monotonic() >= held.rested_at {
                self.weigh(&store, held).await;
            }
            there.insert(record.uid);
        }
        sampler.held.retain(|uid, _| there.contains(uid));
        self.0.collected().keep_totals(&there);
    }

    fn credit(&self, store: &TenantStore, held: &Held, day: Day, share_us: u64) {
        if share_us == 0 {
            return;
        }
        let mut collected = self.0.collected();
        for (plugin, bytes) in held.bytes.iter().filter(|(_, bytes)| **bytes > 0) {
            let storage_byte_us = u128::from(*bytes).saturating_mul(share_us.into());
            collected.credit(store, plugin, day, &UsageSum { storage_byte_us, ..UsageSum::default() });
        }
    }

    async fn weigh(&self, store: &TenantStore, held: &mut Held) {
        let started = self.0.clock.monotonic();
        match measure(store).await {
            Ok(bytes) => {
                held.bytes = bytes;
                held.freshness = Freshness::Fresh;
            }
            Err(StoreError::Gone | StoreError::KeyDisabled | StoreError::KeyRefused) => {}
            Err(error) => tracing::warn!(tenant = store.label(), %error, "storage cannot be weighed now"),
        }
        let ended = self.0.clock.monotonic();
        held.rested_at = ended.saturating_add(ended.saturating_sub(started).saturating_mul(REST_FACTOR));
    }
}

async fn measure(store: &TenantStore) -> Result<BTreeMap<PluginName, u64>, StoreError> {
    let mut all = BTreeMap::new();
    for area in AREAS {
        for (name, bytes) in store.measure(&Key::new([area])).await? {
            if let Ok(plugin) = name.parse() {
                let sum: &mut u64 = all.entry(plugin).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
    }
    Ok(all)
}
