//! Intelligence in force: bundles taken in, indicators asked of every event; of the logs as they were before, see `past.rs`.
//!
//! Must never show or match across owners more than markings let: the operators' indicators are asked of every log and
//! shown to every tenant, but those marked TLP:RED or TLP:AMBER+STRICT stay with who loaded them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use ringfence_store::{Key, Op};
use serde_json::Value;

use crate::event::Event;
use crate::finding::Held;
use crate::intel::{INDICATORS_COUNT_MAX, Indicator, Matcher, Use, stix};
use crate::response::Scope;
use crate::sigma::Level;
use crate::threat::{Threat, all};
use crate::{HOST_LOG, ThreatError};

/// Who owns what holds because an indicator was seen.
pub(crate) const OWNER: &str = "intelligence";
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
    changed: BTreeSet<String>,
}

/// What became of a bundle. What was known already in this or a later form is not counted.
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
    /// Entries of the owner's log that the new indicators were asked of.
    pub looked_back_count: u64,
    /// How many of them matched.
    pub sightings_count: u64,
    /// From the bundle's receipt to its indicators being in force, microseconds.
    pub active_after_us: u64,
}

impl Threat {
    /// Takes a bundle in. Its indicators are in force when this returns, and the owner's log was asked about them; the operators'
    /// are asked of the tenants' logs from then on.
    pub async fn load_bundle(&self, scope: &Scope, feed: &str, bundle: &Value) -> Result<Loaded, ThreatError> {
        let began = self.inner.clock.monotonic();
        let now = self.inner.clock.now();
        let read = stix::read(bundle, feed, now).map_err(|what| ThreatError::BadBundle { what })?;
        let mut loaded = Loaded { others_count: read.others_count, refused: read.refused, ..Loaded::default() };
        let (fresh, ids) = self.newer(scope, read.indicators, now)?;
        for indicator in &fresh {
            match &indicator.used {
                Use::Matched => loaded.matched_count += 1,
                Use::UnmatchedPattern(_) => loaded.unmatched_pattern_count += 1,
                Use::NotUsed(_) => loaded.not_used_count += 1,
            }
        }
        self.keep_indicators(scope, &fresh).await?;
        self.take_in(scope, fresh, now);
        let active = self.inner.clock.monotonic().saturating_sub(began);
        loaded.active_after_us = u64::try_from(active.as_micros()).unwrap_or(u64::MAX);
        (loaded.looked_back_count, loaded.sightings_count) = self.look_back(scope, ids).await?;
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
                self.sighted(&owner, id, 1, (event.time_ms, event.time_ms));
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
        let mut all = Vec::new();
        for (owner, matcher) in matchers.into_iter().flatten() {
            for id in matcher.matches(event) {
                let title =
                    format!("Seen: {}", self.indicator(&owner, &id).map_or_else(|| id.clone(), |one| one.called()));
                all.push((owner.clone(), held(title, id)));
            }
        }
        all
    }

    pub(crate) async fn load_indicators(&self, scope: &Scope) -> Result<(), ThreatError> {
        let kept: Vec<Indicator> =
            all(&self.store(scope)?, &Key::new(["threat-indicator"]), INDICATORS_COUNT_MAX).await?;
        if !kept.is_empty() {
            let unasked = kept.iter().filter(|one| !one.past_asked && one.used == Use::Matched);
            let unasked: Vec<String> = unasked.map(|indicator| indicator.id.clone()).collect();
            self.take_in(scope, kept, self.inner.clock.now());
            self.look_back_later(scope, unasked);
        }
        Ok(())
    }

    pub(crate) fn forget_indicators(&self, scope: &Scope) {
        self.forget_looks(scope);
        self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(scope);
    }

    /// Writes what has changed of indicators since the last call.
    pub(crate) async fn keep_sightings(&self) {
        let changed: Vec<(Scope, Vec<Indicator>)> = {
            let mut known = self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let changed = known.iter_mut().map(|(scope, owned)| {
                let ids = std::mem::take(&mut owned.changed);
                (scope.clone(), ids.iter().filter_map(|id| owned.indicators.get(id).cloned()).collect())
            });
            changed.collect()
        };
        for (scope, indicators) in changed {
            if let Err(error) = self.keep_indicators(&scope, &indicators).await {
                tracing::warn!(%error, "sightings of indicators could not be kept");
            }
        }
    }

    async fn keep_indicators(&self, scope: &Scope, indicators: &[Indicator]) -> Result<(), ThreatError> {
        for some in indicators.chunks(WRITE_COUNT) {
            let ops = some.iter().map(|indicator| Op::put_json(key(&indicator.id), indicator));
            self.store(scope)?.batch(ops.collect::<Result<_, _>>()?, Vec::new()).await?;
        }
        Ok(())
    }

    /// Those that are not known in this or a later form, and the ids of those of them that the logs were not asked about yet;
    /// sightings of the form before are kept.
    fn newer(
        &self,
        scope: &Scope,
        read: Vec<Indicator>,
        now: Timestamp,
    ) -> Result<(Vec<Indicator>, Vec<String>), ThreatError> {
        let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let none = BTreeMap::new();
        let own = known.get(scope).map_or(&none, |owned| &owned.indicators);
        let mut fresh: BTreeMap<String, (Indicator, bool)> = BTreeMap::new();
        for mut indicator in read {
            let mut is_asked = false;
            if let Some(before) = own.get(&indicator.id) {
                if before.modified >= indicator.modified {
                    continue;
                }
                (indicator.sightings_count, indicator.seen_ms) = (before.sightings_count, before.seen_ms);
                // The logs were asked this, or are being asked; again it would count twice.
                is_asked = before.pattern == indicator.pattern && before.judge(now) == Use::Matched;
                indicator.past_asked = is_asked && before.past_asked;
            }
            if fresh.get(&indicator.id).is_none_or(|(other, _)| other.modified <= indicator.modified) {
                fresh.insert(indicator.id.clone(), (indicator, is_asked));
            }
        }
        let more = fresh.keys().filter(|id| !own.contains_key(*id)).count();
        if own.len() + more > INDICATORS_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "indicators", count_max: INDICATORS_COUNT_MAX });
        }
        let unasked = fresh.iter().filter(|(_, (_, is_asked))| !is_asked).map(|(id, _)| id.clone()).collect();
        Ok((fresh.into_values().map(|(indicator, _)| indicator).collect(), unasked))
    }

    fn take_in(&self, scope: &Scope, fresh: Vec<Indicator>, now: Timestamp) {
        let mut known = self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let owned = known.entry(scope.clone()).or_default();
        owned.indicators.extend(fresh.into_iter().map(|indicator| (indicator.id.clone(), indicator)));
        owned.matcher = Arc::new(Matcher::new(owned.indicators.values(), now));
        owned.shared = Arc::new(Matcher::new(owned.indicators.values().filter(|one| !is_kept_back(one)), now));
    }

    /// One of an owner's own.
    pub(crate) fn indicator(&self, owner: &Scope, id: &str) -> Option<Indicator> {
        let known = self.inner.intelligence.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.get(owner)?.indicators.get(id).cloned()
    }

    /// Counts sightings between two times, milliseconds since 1970 UTC.
    pub(crate) fn sighted(&self, owner: &Scope, id: &str, count: u64, (first_ms, last_ms): (i64, i64)) {
        self.change(owner, id, |indicator| {
            indicator.sightings_count = indicator.sightings_count.saturating_add(count);
            let (first, last) = indicator.seen_ms.unwrap_or((first_ms, last_ms));
            indicator.seen_ms = Some((first.min(first_ms), last.max(last_ms)));
        });
    }

    /// Notes that all logs were asked about these.
    pub(crate) fn set_past_asked(&self, owner: &Scope, ids: &[String]) {
        ids.iter().for_each(|id| self.change(owner, id, |indicator| indicator.past_asked = true));
    }

    fn change(&self, owner: &Scope, id: &str, change: impl FnOnce(&mut Indicator)) {
        let mut known = self.inner.intelligence.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(owned) = known.get_mut(owner) else { return };
        let Some(indicator) = owned.indicators.get_mut(id) else { return };
        change(indicator);
        owned.changed.insert(id.to_owned());
    }
}

/// An indicator that was seen, as what held.
pub(crate) fn held(title: String, id: String) -> Held {
    Held {
        rule_owner: OWNER.to_owned(),
        rule: "indicator".to_owned(),
        name: "indicator".to_owned(),
        edition: None,
        title,
        level: Level::High,
        attack: Vec::new(),
        group: vec![("indicator".to_owned(), id)],
    }
}

/// Whether it must not leave the organization that loaded it.
pub(crate) fn is_kept_back(indicator: &Indicator) -> bool {
    matches!(indicator.tlp.as_deref(), Some("red" | "amber+strict"))
}

fn key(id: &str) -> Key {
    Key::new(["threat-indicator", id])
}
