//! Intelligence in force: bundles taken in, indicators asked of every event, and of the log as it was before they came.
//!
//! Must never show or match across owners more than markings let: the operators' indicators are asked of every log and
//! shown to every tenant, but those marked TLP:RED or TLP:AMBER+STRICT stay with who loaded them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use ringfence_audit::Log;
use ringfence_store::{Key, Op};
use serde_json::Value;

use crate::event::Event;
use crate::finding::Held;
use crate::intel::{INDICATORS_COUNT_MAX, Indicator, Matcher, Use, stix};
use crate::response::Scope;
use crate::sigma::Level;
use crate::threat::{Threat, all};
use crate::{HOST_LOG, ThreatError};

/// LIMIT: entries of the log that new indicators are asked of.
pub const RETRO_COUNT_MAX: u64 = 20_000;
/// LIMIT: entries read at once.
const RETRO_PAGE: usize = 500;
/// LIMIT: records written at once.
const WRITE_COUNT: usize = 500;

/// What is known by owner.
pub(crate) type Known = RwLock<HashMap<Scope, Owned>>;

/// One owner's.
#[derive(Default)]
pub(crate) struct Owned {
    indicators: BTreeMap<String, Indicator>,
    matcher: Arc<Matcher>,
    /// Those that may be asked of other logs than the owner's.
    shared: Arc<Matcher>,
    changed: Vec<String>,
}

/// What became of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Indicators that are matched from now on.
    pub matched_count: usize,
    /// Indicators whose pattern this host cannot match.
    pub unmatched_pattern_count: usize,
    /// Indicators that are kept and not used, for another reason.
    pub not_used_count: usize,
    /// Objects that are no indicators.
    pub others_count: usize,
    /// Objects that cannot be read, and why.
    pub refused: Vec<String>,
    /// Entries of the log that the new indicators were asked of.
    pub looked_back_count: u64,
    /// How many of them matched.
    pub sightings_count: u64,
    /// From the bundle's receipt to its indicators being in force, microseconds.
    pub active_after_us: u64,
}

impl Threat {
    /// Takes a bundle in. Its indicators are in force when this returns, and the log was asked about them.
    pub async fn load_bundle(&self, scope: &Scope, feed: &str, bundle: &Value) -> Result<Loaded, ThreatError> {
        let began = self.inner.clock.monotonic();
        let now = self.inner.clock.now();
        let read = stix::read(bundle, feed, now).map_err(|what| ThreatError::BadBundle { what })?;
        let mut loaded = Loaded { others_count: read.others_count, refused: read.refused, ..Loaded::default() };
        let store = self.store(scope)?;
        let fresh: Vec<Indicator> = self.newer(scope, read.indicators)?;
        for indicator in &fresh {
            match &indicator.used {
                Use::Matched => loaded.matched_count += 1,
                Use::UnmatchedPattern(_) => loaded.unmatched_pattern_count += 1,
                Use::NotUsed(_) => loaded.not_used_count += 1,
            }
        }
        for some in fresh.chunks(WRITE_COUNT) {
            let ops = some.iter().map(|indicator| Op::put_json(key(&indicator.id), indicator));
            store.batch(ops.collect::<Result<_, _>>()?, Vec::new()).await?;
        }
        let ids: Vec<String> = fresh.iter().map(|indicator| indicator.id.clone()).collect();
        self.take_in(scope, fresh, now);
        let active = self.inner.clock.monotonic().saturating_sub(began);
        loaded.active_after_us = u64::try_from(active.as_micros()).unwrap_or(u64::MAX);
        (loaded.looked_back_count, loaded.sightings_count) = self.look_back(scope, &ids, now).await?;
        self.keep_sightings().await;
        Ok(loaded)
    }

    /// The indicators that an owner sees: its own, and the operators' as far as their markings let.
    pub fn indicators(&self, scope: &Scope) -> Vec<Indicator> {
        let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = known.get(scope).into_iter().flat_map(|owned| owned.indicators.values());
        let hosts = known.get(&Scope::Host).filter(|_| *scope != Scope::Host);
        let shared = hosts.into_iter().flat_map(|owned| owned.indicators.values()).filter(|one| !is_kept_back(one));
        own.chain(shared).cloned().collect()
    }

    /// The indicators that an event matches, as what held; each is counted as a sighting.
    pub(crate) fn matching(&self, event: &Event) -> Vec<Held> {
        let mut all = Vec::new();
        for (owner, held) in self.matched(event) {
            for (_, id) in &held.group {
                self.sighted(&owner, id, event.time_ms);
            }
            all.push(held);
        }
        all
    }

    /// The indicators that an event matches, and whose they are. Nothing is counted.
    pub(crate) fn matched(&self, event: &Event) -> Vec<(Scope, Held)> {
        let scope = crate::watch::scope_of(&event.log);
        let matchers = {
            let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let own = known.get(&scope).map(|owned| (scope.clone(), Arc::clone(&owned.matcher)));
            let hosts = known.get(&Scope::Host).filter(|_| event.log != HOST_LOG);
            let hosts = hosts.map(|owned| (Scope::Host, Arc::clone(&owned.shared)));
            [own, hosts]
        };
        let mut held = Vec::new();
        for (owner, matcher) in matchers.into_iter().flatten() {
            for id in matcher.matches(event) {
                let held_now = Held {
                    rule_owner: "intelligence".to_owned(),
                    rule: "indicator".to_owned(),
                    name: "indicator".to_owned(),
                    edition: None,
                    title: format!("Seen: {}", self.name_of(&owner, &id)),
                    level: Level::High,
                    attack: Vec::new(),
                    group: vec![("indicator".to_owned(), id)],
                };
                held.push((owner.clone(), held_now));
            }
        }
        held
    }

    pub(crate) async fn load_indicators(&self, scope: &Scope) -> Result<(), ThreatError> {
        let kept: Vec<Indicator> =
            all(&self.store(scope)?, &Key::new(["threat-indicator"]), INDICATORS_COUNT_MAX).await?;
        if !kept.is_empty() {
            self.take_in(scope, kept, self.inner.clock.now());
        }
        Ok(())
    }

    pub(crate) fn forget_indicators(&self, scope: &Scope) {
        self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(scope);
    }

    /// Writes the sightings since the last call.
    pub(crate) async fn keep_sightings(&self) {
        let changed: Vec<(Scope, Indicator)> = {
            let mut known = self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut changed = Vec::new();
            for (scope, owned) in known.iter_mut() {
                let ids = std::mem::take(&mut owned.changed);
                changed.extend(ids.iter().filter_map(|id| Some((scope.clone(), owned.indicators.get(id)?.clone()))));
            }
            changed
        };
        for (scope, indicator) in changed {
            let Ok(store) = self.store(&scope) else { continue };
            if let Err(error) = store.put_json(&key(&indicator.id), &indicator).await {
                tracing::warn!(%error, "sightings of an indicator could not be kept");
            }
        }
    }

    /// Those that are not known in this or a later form; sightings of the form before are kept.
    fn newer(&self, scope: &Scope, read: Vec<Indicator>) -> Result<Vec<Indicator>, ThreatError> {
        let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let none = BTreeMap::new();
        let own = known.get(scope).map_or(&none, |owned| &owned.indicators);
        let mut fresh: BTreeMap<String, Indicator> = BTreeMap::new();
        for mut indicator in read {
            if let Some(before) = own.get(&indicator.id) {
                if before.modified > indicator.modified {
                    continue;
                }
                (indicator.sightings_count, indicator.seen_ms) = (before.sightings_count, before.seen_ms);
            }
            if fresh.get(&indicator.id).is_none_or(|other| other.modified <= indicator.modified) {
                fresh.insert(indicator.id.clone(), indicator);
            }
        }
        let more = fresh.keys().filter(|id| !own.contains_key(*id)).count();
        if own.len() + more > INDICATORS_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "indicators", count_max: INDICATORS_COUNT_MAX });
        }
        Ok(fresh.into_values().collect())
    }

    fn take_in(&self, scope: &Scope, fresh: Vec<Indicator>, now: Timestamp) {
        let mut known = self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let owned = known.entry(scope.clone()).or_default();
        owned.indicators.extend(fresh.into_iter().map(|indicator| (indicator.id.clone(), indicator)));
        owned.matcher = Arc::new(Matcher::new(owned.indicators.values(), now));
        owned.shared = Arc::new(Matcher::new(owned.indicators.values().filter(|one| !is_kept_back(one)), now));
    }

    /// An indicator's name, or its id when it has none.
    fn name_of(&self, owner: &Scope, id: &str) -> String {
        let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = known.get(owner).and_then(|owned| owned.indicators.get(id)).map(|indicator| indicator.name.clone());
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_owned())
    }

    /// Counts a sighting.
    fn sighted(&self, owner: &Scope, id: &str, time_ms: i64) {
        let mut known = self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(owned) = known.get_mut(owner) else { return };
        let Some(indicator) = owned.indicators.get_mut(id) else { return };
        indicator.sightings_count = indicator.sightings_count.saturating_add(1);
        let (first, last) = indicator.seen_ms.unwrap_or((time_ms, time_ms));
        indicator.seen_ms = Some((first.min(time_ms), last.max(time_ms)));
        if !owned.changed.iter().any(|changed| changed == id) {
            owned.changed.push(id.to_owned());
        }
    }

    /// Asks the owner's log about indicators that have just come: the latest entries, within the limit.
    async fn look_back(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<(u64, u64), ThreatError> {
        let log = match scope {
            Scope::Host => Log::Host,
            Scope::Tenant(_) => Log::Tenant(self.store(scope)?),
        };
        let matcher = {
            let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let own = known.get(scope).into_iter().flat_map(|owned| owned.indicators.values());
            let fresh: std::collections::HashSet<&String> = ids.iter().collect();
            // What was seen before an indicator was said to hold is what one wants to know here.
            let early = own
                .filter(|one| fresh.contains(&one.id))
                .map(|one| Indicator { valid_from: Timestamp::MIN, ..one.clone() });
            let early: Vec<Indicator> = early.collect();
            Matcher::new(early.iter(), now)
        };
        if matcher.is_empty() {
            return Ok((0, 0));
        }
        let size = self.inner.audit.size(&log).await?;
        let first = self.inner.audit.first(&log).await?;
        let (mut at, mut looked, mut seen) = (size.saturating_sub(RETRO_COUNT_MAX).max(first), 0_u64, 0_u64);
        while at < size {
            let entries = self.inner.audit.list(&log, at, RETRO_PAGE).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let body = entry.body.unwrap_or_default();
                let time_ms = body.get("time").and_then(Value::as_i64).unwrap_or(0);
                let event = Event { log: scope.log().to_owned(), seq: at, time_ms, body };
                for id in matcher.matches(&event) {
                    self.sighted(scope, &id, time_ms);
                    seen += 1;
                }
                at += 1;
                looked += 1;
            }
        }
        Ok((looked, seen))
    }
}

/// Whether it must not leave the organization that loaded it.
fn is_kept_back(indicator: &Indicator) -> bool {
    matches!(indicator.tlp.as_deref(), Some("red" | "amber+strict"))
}

fn key(id: &str) -> Key {
    Key::new(["threat-indicator", id])
}
