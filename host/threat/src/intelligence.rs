//! Intelligence in force: bundles taken in, indicators asked of every event; of the logs as they were before, see `past.rs`.
//!
//! Must never show or match across owners more than markings let: the operators' indicators are asked of every log and
//! shown to every tenant, but those marked TLP:RED or TLP:AMBER+STRICT stay with who loaded them. Nor have the reader, which
//! asks for all owners, wait for one owner's bundle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_store::{Key, Op};
use serde_json::Value;

use crate::event::Event;
use crate::finding::Held;
use crate::intel::{COMPARISONS_COUNT_MAX, INDICATORS_COUNT_MAX, Indicator, Matcher, TEXT_BYTES_MAX, Trust, Use, stix};
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
    indicators: BTreeMap<String, Arc<Indicator>>,
    ready: Ready,
    changed: BTreeSet<String>,
}

/// What is asked of events.
#[derive(Default)]
struct Ready {
    /// Of those of the owner's log.
    own: Arc<Matcher>,
    /// Of those of others' logs; of the operators' indicators alone.
    shared: Arc<Matcher>,
}

/// An indicator that comes, and whether the logs were asked about it, or are being asked.
struct Fresh {
    indicator: Arc<Indicator>,
    is_asked: bool,
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
    /// Objects that cannot be read, and why; the first hundred.
    pub refused: Vec<String>,
    /// How many they are.
    pub refused_count: usize,
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
    pub async fn load_bundle(&self, scope: &Scope, from: (&str, Trust), bundle: &Value) -> Result<Loaded, ThreatError> {
        let (mut loaded, ids) = self.take_bundle(scope, from, bundle).await?;
        (loaded.looked_back_count, loaded.sightings_count) = self.look_back(scope, ids).await?;
        self.keep_sightings().await;
        Ok(loaded)
    }

    /// As [`Threat::load_bundle`], for which nobody waits: the log is asked afterwards, page by page and in turn with others, for
    /// a feed may bring something new as often as it likes.
    pub async fn load_page(&self, scope: &Scope, from: (&str, Trust), bundle: &Value) -> Result<Loaded, ThreatError> {
        let (loaded, ids) = self.take_bundle(scope, from, bundle).await?;
        self.look_back_later(scope, ids);
        Ok(loaded)
    }

    async fn take_bundle(
        &self,
        scope: &Scope,
        from: (&str, Trust),
        bundle: &Value,
    ) -> Result<(Loaded, Vec<String>), ThreatError> {
        let began = self.inner.clock.monotonic();
        let now = self.inner.clock.now();
        let read = stix::read(bundle, from, now).map_err(|what| ThreatError::BadBundle { what })?;
        let mut loaded = Loaded {
            others_count: read.others_count,
            refused: read.refused,
            refused_count: read.refused_count,
            ..Loaded::default()
        };
        // One form of an indicator after another, on the disk too.
        let turn = self.inner.loading.of(scope.clone()).await;
        let fresh = self.newer(scope, read.indicators, now);
        let gone = self.giving_way(scope, &fresh, now)?;
        for one in &fresh {
            match &one.indicator.used {
                Use::Matched => loaded.matched_count += 1,
                Use::UnmatchedPattern(_) => loaded.unmatched_pattern_count += 1,
                Use::NotUsed(_) => loaded.not_used_count += 1,
            }
        }
        let ids = self.put_in_force(scope, fresh, &gone, now).await?;
        drop(turn);
        let active = self.inner.clock.monotonic().saturating_sub(began);
        loaded.active_after_us = u64::try_from(active.as_micros()).unwrap_or(u64::MAX);
        Ok((loaded, ids))
    }

    /// Has everything that came from a feed believed as far as this, whatever was said of it when it came. In force when this
    /// returns; the logs are asked afterwards about what is matched for it and was not before.
    pub async fn trust_feed(&self, scope: &Scope, (feed, trust): (&str, Trust)) -> Result<(), ThreatError> {
        let now = self.inner.clock.now();
        let _turn = self.inner.loading.of(scope.clone()).await;
        let others: Vec<Arc<Indicator>> = {
            let known = self.known();
            let own = known.get(scope).into_iter().flat_map(|owned| owned.indicators.values());
            own.filter(|one| one.feed == feed && one.trust != trust).cloned().collect()
        };
        if others.is_empty() {
            return Ok(());
        }
        let judge = move || others.iter().map(|before| trusted(before, trust, now)).collect::<Vec<Fresh>>();
        let fresh = tokio::task::spawn_blocking(judge).await.map_err(|_| ThreatError::Busy)?;
        let ids = self.put_in_force(scope, fresh, &[], now).await?;
        self.look_back_later(scope, ids);
        Ok(())
    }

    /// The indicators that an owner sees: its own, and the operators' as far as their markings let.
    pub fn indicators(&self, scope: &Scope) -> Vec<Arc<Indicator>> {
        let known = self.known();
        let own = known.get(scope).into_iter().flat_map(|owned| owned.indicators.values());
        let hosts = known.get(&Scope::Host).filter(|_| *scope != Scope::Host);
        let shared = hosts.into_iter().flat_map(|owned| owned.indicators.values()).filter(|one| !is_kept_back(one));
        own.chain(shared).cloned().collect()
    }

    /// The indicators that an event of this log matches, as what held; each is counted as a sighting.
    pub(crate) fn matching(&self, event: &Event, log_id: &str) -> Vec<Held> {
        let mut all = Vec::new();
        for (owner, held) in self.matched(event) {
            for (_, id) in &held.group {
                self.sighted(&owner, id, (log_id, event));
            }
            all.push(held);
        }
        all
    }

    /// The indicators that an event matches, and whose they are. Nothing is counted.
    pub(crate) fn matched(&self, event: &Event) -> Vec<(Scope, Held)> {
        let scope = crate::watch::scope_of(&event.log);
        let matchers = {
            let known = self.known();
            let own = known.get(&scope).map(|owned| (scope.clone(), Arc::clone(&owned.ready.own)));
            let hosts = known.get(&Scope::Host).filter(|_| event.log != HOST_LOG);
            let hosts = hosts.map(|owned| (Scope::Host, Arc::clone(&owned.ready.shared)));
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
        let _turn = self.inner.loading.of(scope.clone()).await;
        let mut kept: Vec<Indicator> =
            all(&self.store(scope)?, &Key::new(["threat-indicator"]), INDICATORS_COUNT_MAX).await?;
        if kept.is_empty() {
            return Ok(());
        }
        let there = self.log_ids().await?;
        kept.iter_mut().for_each(|one| one.counted.retain(|log, _| there.contains(log)));
        let unasked = kept.iter().filter(|one| !one.past_asked && one.used == Use::Matched);
        let unasked: Vec<String> = unasked.map(|indicator| indicator.id.clone()).collect();
        let fresh = kept.into_iter().map(|one| Fresh { indicator: Arc::new(one), is_asked: true });
        let fresh: Vec<Fresh> = fresh.collect();
        let ready = self.make_ready(scope, &fresh, &[], self.inner.clock.now()).await?;
        let left_out_count = ready.own.left_out_count();
        if left_out_count > 0 {
            tracing::error!(owner = scope.log(), left_out_count, "indicators that are kept are too many to be matched");
        }
        self.take_in(scope, fresh, ready);
        self.look_back_later(scope, unasked);
        Ok(())
    }

    pub(crate) fn forget_indicators(&self, scope: &Scope) {
        self.forget_looks(scope);
        self.known_mut().remove(scope);
    }

    /// Writes what has changed of indicators since the last call; of an owner that takes a bundle in, with the next.
    pub(crate) async fn keep_sightings(&self) {
        let scopes: Vec<Scope> = {
            let known = self.known();
            let changed = known.iter().filter(|(_, owned)| !owned.changed.is_empty());
            changed.map(|(scope, _)| scope.clone()).collect()
        };
        for scope in scopes {
            // The reader waits for nobody's bundle.
            let turn = tokio::time::timeout(Duration::ZERO, self.inner.loading.of(scope.clone()));
            let Ok(_turn) = turn.await else { continue };
            let changed = self.take_changed(&scope);
            if let Err(error) = self.keep_indicators(&scope, &changed).await {
                tracing::warn!(%error, "sightings of indicators could not be kept now; it is tried again");
                if let Some(owned) = self.known_mut().get_mut(&scope) {
                    owned.changed.extend(changed.iter().map(|indicator| indicator.id.clone()));
                }
            }
        }
    }

    fn take_changed(&self, scope: &Scope) -> Vec<Arc<Indicator>> {
        let mut known = self.known_mut();
        let Some(owned) = known.get_mut(scope) else { return Vec::new() };
        let ids = std::mem::take(&mut owned.changed);
        ids.iter().filter_map(|id| owned.indicators.get(id).cloned()).collect()
    }

    async fn keep_indicators(&self, scope: &Scope, indicators: &[Arc<Indicator>]) -> Result<(), ThreatError> {
        for some in indicators.chunks(WRITE_COUNT) {
            let ops = some.iter().map(|indicator| Op::put_json(key(&indicator.id), &**indicator));
            self.store(scope)?.batch(ops.collect::<Result<_, _>>()?, Vec::new()).await?;
        }
        Ok(())
    }

    /// Keeps what comes, lets go of what gives way to it, and then puts it into force; the caller has the owner's turn. Gives the
    /// ids of those that the logs are still to be asked about.
    async fn put_in_force(
        &self,
        scope: &Scope,
        fresh: Vec<Fresh>,
        gone: &[String],
        now: Timestamp,
    ) -> Result<Vec<String>, ThreatError> {
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        let ready = self.make_ready(scope, &fresh, gone, now).await?;
        // What is kept from before there was a limit may be too many, and must be there to be taken back.
        let left_out_count = self.known().get(scope).map_or(0, |owned| owned.ready.own.left_out_count());
        if ready.own.left_out_count() > left_out_count {
            let what = "comparisons of indicators, or too many of one value";
            return Err(ThreatError::TooMany { what, count_max: COMPARISONS_COUNT_MAX });
        }
        let indicators: Vec<Arc<Indicator>> = fresh.iter().map(|one| Arc::clone(&one.indicator)).collect();
        for some in gone.chunks(WRITE_COUNT) {
            self.store(scope)?.batch(some.iter().map(|id| Op::delete(key(id))).collect(), Vec::new()).await?;
        }
        self.keep_indicators(scope, &indicators).await?;
        if let Some(owned) = self.known_mut().get_mut(scope) {
            for id in gone {
                owned.indicators.remove(id);
                owned.changed.remove(id);
            }
        }
        Ok(self.take_in(scope, fresh, ready))
    }

    /// Those that are not known in this or a later form; sightings of the form before are kept,
    /// but where the logs are asked anew, which counts them.
    fn newer(&self, scope: &Scope, read: Vec<Indicator>, now: Timestamp) -> Vec<Fresh> {
        // Judged outside of the lock: the reader must not wait for so many patterns.
        let own: HashMap<String, Arc<Indicator>> = {
            let known = self.known();
            let own = |one: &Indicator| known.get(scope)?.indicators.get(&one.id).cloned();
            read.iter().filter_map(own).map(|before| (before.id.clone(), before)).collect()
        };
        let mut fresh: BTreeMap<String, Fresh> = BTreeMap::new();
        for mut indicator in read {
            let mut is_asked = false;
            if let Some(before) = own.get(&indicator.id) {
                // Who loads a bundle again and believes it more or less says something new.
                let is_same_form = before.modified == indicator.modified && before.feed == indicator.feed;
                if before.modified >= indicator.modified && (!is_same_form || before.trust == indicator.trust) {
                    continue;
                }
                // The logs were asked this, or are being asked; again it would count twice.
                is_asked = before.pattern == indicator.pattern && before.judge(now) == Use::Matched;
                if is_asked || indicator.used != Use::Matched {
                    indicator.goes_on(before);
                }
            }
            if fresh.get(&indicator.id).is_none_or(|other| other.indicator.modified <= indicator.modified) {
                let id = indicator.id.clone();
                fresh.insert(id, Fresh { indicator: Arc::new(indicator), is_asked });
            }
        }
        fresh.into_values().collect()
    }

    /// What gives way to what comes: nothing while there is room for both, else those that are over or too little believed, changed
    /// longest ago first, and no more than it takes. Refuses more than one owner may have, but not less of what was too much already.
    fn giving_way(&self, scope: &Scope, fresh: &[Fresh], now: Timestamp) -> Result<Vec<String>, ThreatError> {
        let known = self.known();
        let none = BTreeMap::new();
        let own = known.get(scope).map_or(&none, |owned| &owned.indicators);
        let ids: BTreeSet<&str> = fresh.iter().map(|one| one.indicator.id.as_str()).collect();
        let stays: Vec<&Arc<Indicator>> = own.values().filter(|one| !ids.contains(one.id.as_str())).collect();
        let all = stays.iter().copied().chain(fresh.iter().map(|one| &one.indicator));
        let mut count = stays.len() + fresh.len();
        let mut bytes = all.map(|one| one.bytes()).sum::<usize>();
        let bytes_max = TEXT_BYTES_MAX.max(own.values().map(|one| one.bytes()).sum());
        if count <= INDICATORS_COUNT_MAX && bytes <= bytes_max {
            return Ok(Vec::new());
        }
        // One that was taken back stays: an older form of it, which comes again, would be matched.
        let is_over = |one: &&Arc<Indicator>| !one.revoked && one.not_now(now).is_some();
        let mut over: Vec<&Arc<Indicator>> = stays.into_iter().filter(is_over).collect();
        over.sort_by_key(|one| one.modified);
        let mut gone = Vec::new();
        for one in over {
            if count <= INDICATORS_COUNT_MAX && bytes <= bytes_max {
                break;
            }
            (count, bytes) = (count - 1, bytes - one.bytes());
            gone.push(one.id.clone());
        }
        if count > INDICATORS_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "indicators", count_max: INDICATORS_COUNT_MAX });
        }
        if bytes > bytes_max {
            return Err(ThreatError::TooMany { what: "bytes of indicators", count_max: TEXT_BYTES_MAX });
        }
        Ok(gone)
    }

    /// Makes everything of an owner ready, with what comes, on a thread that nobody waits for but who asks.
    async fn make_ready(
        &self,
        scope: &Scope,
        fresh: &[Fresh],
        gone: &[String],
        now: Timestamp,
    ) -> Result<Ready, ThreatError> {
        let mut all = self.known().get(scope).map(|owned| owned.indicators.clone()).unwrap_or_default();
        gone.iter().for_each(|id| drop(all.remove(id)));
        all.extend(fresh.iter().map(|one| (one.indicator.id.clone(), Arc::clone(&one.indicator))));
        let is_hosts = *scope == Scope::Host;
        let made = tokio::task::spawn_blocking(move || {
            let each = || all.values().map(|one| &**one);
            let shared = each().filter(|one| is_hosts && !is_kept_back(one));
            Ready { own: Arc::new(Matcher::new(each(), now)), shared: Arc::new(Matcher::new(shared, now)) }
        });
        made.await.map_err(|_| ThreatError::Busy)
    }

    /// Puts them into force; what was seen while they were made ready stays counted. Gives the ids of those that the logs are
    /// still to be asked about.
    fn take_in(&self, scope: &Scope, fresh: Vec<Fresh>, ready: Ready) -> Vec<String> {
        let mut known = self.known_mut();
        let owned = known.entry(scope.clone()).or_default();
        owned.ready = ready;
        let mut unasked = Vec::new();
        for Fresh { mut indicator, is_asked } in fresh {
            let id = indicator.id.clone();
            if let Some(before) = owned.indicators.get(&id).filter(|_| is_asked)
                && (before.sightings_count, before.past_asked) != (indicator.sightings_count, indicator.past_asked)
            {
                Arc::make_mut(&mut indicator).goes_on(before);
                owned.changed.insert(id.clone());
            }
            if !is_asked {
                unasked.push(id.clone());
            }
            owned.indicators.insert(id, indicator);
        }
        unasked
    }

    /// One of an owner's own.
    pub(crate) fn indicator(&self, owner: &Scope, id: &str) -> Option<Arc<Indicator>> {
        self.known().get(owner)?.indicators.get(id).cloned()
    }

    /// Counts an entry as it came, unless it was counted already. What is counted is noted while a log may be asked again;
    /// afterwards, until what comes lies behind what asking counted.
    fn sighted(&self, owner: &Scope, id: &str, (log_id, event): (&str, &Event)) {
        self.change(owner, id, |indicator| {
            match indicator.counted.get(log_id).copied() {
                Some((from, to)) if (from..to).contains(&event.seq) => return,
                // Older than what was asked of a log that is longer: nothing comes to it again.
                Some((from, _)) if event.seq < from => {}
                Some(_) if indicator.past_asked => {
                    indicator.counted.remove(log_id);
                }
                None if indicator.past_asked => {}
                known => {
                    let from = known.map_or(event.seq, |(from, _)| from);
                    indicator.counted.insert(log_id.to_owned(), (from, event.seq.saturating_add(1)));
                }
            }
            indicator.sighted(1, (event.time_ms, event.time_ms));
        });
    }

    /// The logs that there are, as counts name them.
    pub(crate) async fn log_ids(&self) -> Result<BTreeSet<String>, ThreatError> {
        let tenants = self.inner.tenants.list().await?;
        Ok(tenants.into_iter().map(|record| record.uid).chain([HOST_LOG.to_owned()]).collect())
    }

    /// Lets go of what was counted of logs that are gone.
    pub(crate) fn forget_counted(&self, there: &BTreeSet<String>) {
        for owned in self.known_mut().values_mut() {
            let is_gone = |log: &String| !there.contains(log);
            let with = owned.indicators.iter_mut().filter(|(_, one)| one.counted.keys().any(is_gone));
            for (id, indicator) in with {
                Arc::make_mut(indicator).counted.retain(|log, _| !is_gone(log));
                owned.changed.insert(id.clone());
            }
        }
    }

    /// Notes that all logs were asked about these.
    pub(crate) fn set_past_asked(&self, owner: &Scope, ids: &[String]) {
        ids.iter().for_each(|id| self.change(owner, id, |indicator| indicator.past_asked = true));
    }

    /// Changes one of an owner's, and has it written.
    pub(crate) fn change(&self, owner: &Scope, id: &str, change: impl FnOnce(&mut Indicator)) {
        let mut known = self.known_mut();
        let Some(owned) = known.get_mut(owner) else { return };
        let Some(indicator) = owned.indicators.get_mut(id) else { return };
        change(Arc::make_mut(indicator));
        owned.changed.insert(id.to_owned());
    }

    fn known(&self) -> RwLockReadGuard<'_, HashMap<Scope, Owned>> {
        self.inner.intelligence.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, HashMap<Scope, Owned>> {
        self.inner.intelligence.write().unwrap_or_else(PoisonError::into_inner)
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

/// An indicator that is believed otherwise than before.
fn trusted(before: &Indicator, trust: Trust, now: Timestamp) -> Fresh {
    let is_asked = before.judge(now) == Use::Matched;
    let mut indicator = Indicator { trust, ..before.clone() };
    indicator.used = indicator.judge(now);
    if !is_asked && indicator.used == Use::Matched {
        indicator.begins_anew();
    }
    Fresh { indicator: Arc::new(indicator), is_asked }
}

/// Whether it must not leave the organization that loaded it.
pub(crate) fn is_kept_back(indicator: &Indicator) -> bool {
    matches!(indicator.tlp.as_deref(), Some("red" | "amber+strict"))
}

fn key(id: &str) -> Key {
    Key::new(["threat-indicator", id])
}
