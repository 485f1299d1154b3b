//! Looking back: indicators that have just come are asked of what the logs held before.
//!
//! Of the owner's log when the bundle is taken in; for the operators', of every tenant's log too, a page at each tick of the
//! reader. What was there becomes a finding of the log it was in. What a stop cut off, and the log of a tenant that was locked,
//! is asked at the next start. Must never ask a tenant's log about an operators' indicator marked TLP:RED, take a log for asked
//! that was not, count an entry twice however often its log is asked, nor let what is long past use up the findings that a log
//! needs for what happens now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};

use jiff::Timestamp;
use ringfence_audit::{Audit, Log};
use serde_json::Value;

use crate::ThreatError;
use crate::event::Event;
use crate::finding::{Held, KEPT_COUNT_MAX};
use crate::intel::{Indicator, Matcher, Use};
use crate::intelligence::{held, is_kept_back};
use crate::response::Scope;
use crate::threat::Threat;
use crate::watch::{is_own, log_id};

/// LIMIT: entries of each log that new indicators are asked of, the newest.
const RETRO_COUNT_MAX: u64 = 20_000;
/// LIMIT: entries read at once.
const RETRO_PAGE: usize = 500;
/// LIMIT: what was seen in one log and waits to be told; more findings than this are not kept anyway.
const WAITING_COUNT_MAX: usize = KEPT_COUNT_MAX;

/// What is still to be asked, and what is still to be told.
#[derive(Default)]
pub(crate) struct Past {
    /// In turn; of one owner at most one that is begun and one that is not, however often something comes.
    looks: VecDeque<Turn>,
    /// By the label of the log it was in.
    waiting: BTreeMap<String, VecDeque<SeenBefore>>,
}

/// A turn of one owner's.
enum Turn {
    /// It goes on.
    Begun(Box<Look>),
    /// Indicators to begin with; what comes meanwhile goes with them.
    New { owner: Scope, ids: BTreeSet<String>, own_asked: bool },
}

/// An indicator that a log held before it came.
pub(crate) struct SeenBefore {
    owner: Scope,
    id: String,
    /// Tells its log from that of another tenant of the name.
    log_id: String,
    /// The last entry that it matches.
    pub(crate) latest: Event,
    /// The places of those that it matches.
    places: Vec<u64>,
    /// How many of these were not counted before.
    count: u64,
    /// Time of the first, milliseconds since 1970 UTC.
    first_ms: i64,
}

/// Indicators of one owner, and the logs that they are still to be asked of.
struct Look {
    owner: Scope,
    ids: Vec<String>,
    /// For the owner's log.
    own: Matcher,
    /// For the logs of others.
    shared: Matcher,
    own_asked: bool,
    /// The logs that are left; none while nobody has looked which there are.
    left: Option<VecDeque<Scope>>,
    walk: Option<Walk>,
    /// Whether no log failed so far.
    is_complete: bool,
}

/// One log on the way from where it is begun to where it ended then.
struct Walk {
    whose: Scope,
    log: Log,
    from: u64,
    at: u64,
    end: u64,
    looked_count: u64,
    seen: BTreeMap<String, SeenBefore>,
}

impl Threat {
    /// Asks the owner's log about indicators that have just come: how many entries, and how many matched. The tenants' logs,
    /// and this one where it failed, are left to the reader.
    pub(crate) async fn look_back(&self, owner: &Scope, ids: Vec<String>) -> Result<(u64, u64), ThreatError> {
        let Some(mut look) = self.look(owner, ids) else { return Ok((0, 0)) };
        let asked = self.ask_own(&look).await;
        look.own_asked = asked.is_ok();
        if look.own_asked && look.owner != Scope::Host {
            self.asked_past(&look);
        } else {
            self.past().add(owner, look.ids, look.own_asked);
        }
        asked
    }

    /// Has the reader ask everything about indicators for which nobody waits, or of which a stop cut that off.
    pub(crate) fn look_back_later(&self, owner: &Scope, ids: Vec<String>) {
        if !ids.is_empty() {
            self.past().add(owner, ids, false);
        }
    }

    /// Asks one page of one log; one owner's after another's.
    pub(crate) async fn look_on(&self) {
        let next = self.past().next();
        let look = match next {
            None => None,
            Some(Turn::Begun(look)) => Some(look),
            Some(Turn::New { owner, ids, own_asked }) => {
                let look = self.look(&owner, ids.into_iter().collect());
                look.map(|look| Box::new(Look { own_asked, ..look }))
            }
        };
        let Some(mut look) = look else { return };
        if self.look_further(&mut look).await {
            self.past().looks.push_back(Turn::Begun(look));
        } else if look.is_complete {
            self.asked_past(&look);
        }
    }

    /// What is to be told next: one of each log, so that no owner's waits for another's.
    pub(crate) fn take_seen_before(&self) -> Vec<SeenBefore> {
        let mut past = self.past();
        let next = past.waiting.values_mut().filter_map(VecDeque::pop_front).collect();
        past.waiting.retain(|_, waiting| !waiting.is_empty());
        next
    }

    /// What it holds as a finding; none when its indicator was taken back meanwhile, or marked so that it must not leave its owner.
    pub(crate) fn held_before(&self, seen: &SeenBefore) -> Option<Held> {
        let indicator = self.indicator(&seen.owner, &seen.id)?;
        let is_anothers = seen.latest.log != seen.owner.log();
        if indicator.judge(self.inner.clock.now()) != Use::Matched || (is_anothers && is_kept_back(&indicator)) {
            return None;
        }
        let first = Timestamp::from_millisecond(seen.first_ms).ok()?;
        let times = if seen.count == 1 { "once".to_owned() } else { format!("{} times", seen.count) };
        Some(held(format!("Seen before it was known, {times} since {first}: {}", indicator.called()), seen.id.clone()))
    }

    /// Asks nothing more for an owner.
    pub(crate) fn forget_looks(&self, owner: &Scope) {
        self.past().looks.retain(|turn| turn.owner() != owner);
    }

    /// Tells nothing more of a log.
    pub(crate) fn forget_seen_before(&self, whose: &Scope) {
        self.past().waiting.remove(whose.log());
    }

    /// None when nothing of these can be matched.
    fn look(&self, owner: &Scope, ids: Vec<String>) -> Option<Look> {
        let now = self.inner.clock.now();
        let known: Vec<Arc<Indicator>> = ids.iter().filter_map(|id| self.indicator(owner, id)).collect();
        let own = Matcher::new(known.iter().map(|one| &**one), now).looking_back();
        let shared = known.iter().map(|one| &**one).filter(|one| *owner == Scope::Host && !is_kept_back(one));
        let shared = Matcher::new(shared, now).looking_back();
        (!own.is_empty()).then(|| Look {
            owner: owner.clone(),
            ids,
            own,
            shared,
            own_asked: false,
            left: None,
            walk: None,
            is_complete: true,
        })
    }

    async fn ask_own(&self, look: &Look) -> Result<(u64, u64), ThreatError> {
        let mut walk = self.walk(look.owner.clone()).await?;
        while walk.go_on(&self.inner.audit, look).await? {}
        Ok((walk.looked_count, self.saw(walk)))
    }

    /// Goes on with the log that is being asked, or the next; whether there may be more.
    async fn look_further(&self, look: &mut Look) -> bool {
        let asked = match look.walk.take() {
            Some(walk) => Ok(Some(walk)),
            None => self.next_log(look).await,
        };
        let mut walk = match asked {
            Ok(Some(walk)) => walk,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, "a log cannot be asked about new indicators; the next start asks it");
                look.is_complete = false;
                // Without the list of logs there is nothing to go on with.
                return look.left.is_some();
            }
        };
        let asked = walk.go_on(&self.inner.audit, look).await;
        if asked.is_err() && !self.is_there(&walk.log) {
            return true;
        }
        match asked {
            Ok(true) => look.walk = Some(walk),
            Ok(false) => {
                self.saw(walk);
            }
            Err(error) => {
                let log = walk.whose.log();
                tracing::warn!(log, %error, "a log cannot be asked about new indicators; the next start asks it");
                look.is_complete = false;
            }
        }
        true
    }

    async fn next_log(&self, look: &mut Look) -> Result<Option<Walk>, ThreatError> {
        if look.left.is_none() {
            let mut left: VecDeque<Scope> = VecDeque::new();
            if !look.own_asked {
                left.push_back(look.owner.clone());
            }
            if !look.shared.is_empty() {
                left.extend(self.inner.tenants.list().await?.into_iter().map(|record| Scope::Tenant(record.id)));
            }
            look.left = Some(left);
        }
        while let Some(whose) = look.left.as_mut().and_then(VecDeque::pop_front) {
            let walk = self.walk(whose.clone()).await;
            // A log that is gone need not be asked.
            if walk.is_ok() || !self.is_gone(&whose).await {
                return walk.map(Some);
            }
        }
        Ok(None)
    }

    /// Whether a tenant was deleted since there was a list of the logs.
    async fn is_gone(&self, whose: &Scope) -> bool {
        let Scope::Tenant(tenant) = whose else { return false };
        self.inner.tenants.list().await.is_ok_and(|all| all.iter().all(|record| record.id != *tenant))
    }

    async fn walk(&self, whose: Scope) -> Result<Walk, ThreatError> {
        let log = match &whose {
            Scope::Host => Log::Host,
            Scope::Tenant(_) => Log::Tenant(self.store(&whose)?),
        };
        let (end, first) = (self.inner.audit.size(&log).await?, self.inner.audit.first(&log).await?);
        let at = end.saturating_sub(RETRO_COUNT_MAX).max(first);
        Ok(Walk { whose, log, from: at, at, end, looked_count: 0, seen: BTreeMap::new() })
    }

    /// Whether a log is still that of whoever has its name.
    fn is_there(&self, log: &Log) -> bool {
        let Log::Tenant(store) = log else { return true };
        let now = store.tenant().and_then(|tenant| self.inner.tenants.open_tenant(tenant));
        now.is_some_and(|now| now.uid() == store.uid())
    }

    /// Counts what a log held and was not counted before, and has it told: nothing of one whose tenant is gone, for a namesake would
    /// be told of it. How often it was there.
    fn saw(&self, walk: Walk) -> u64 {
        if !self.is_there(&walk.log) {
            return 0;
        }
        let (mut sum, mut untold_count) = (0_u64, 0_u64);
        for mut seen in walk.seen.into_values() {
            seen.count = self.count_before(&seen, (walk.from, walk.end));
            if seen.count == 0 {
                continue;
            }
            sum = sum.saturating_add(seen.count);
            let mut past = self.past();
            let waiting = past.waiting.entry(walk.whose.log().to_owned()).or_default();
            if waiting.len() < WAITING_COUNT_MAX {
                waiting.push_back(seen);
            } else {
                untold_count += 1;
            }
        }
        if untold_count > 0 {
            let log = walk.whose.log();
            tracing::warn!(log, untold_count, "indicators were seen before they were known and are only counted");
        }
        sum
    }

    /// Counts of what a log held what was not counted before, and notes which part of the log that was, in one record. How many.
    fn count_before(&self, seen: &SeenBefore, (asked_from, asked_to): (u64, u64)) -> u64 {
        let mut count = 0;
        self.change(&seen.owner, &seen.id, |indicator| {
            let log = &seen.log_id;
            let (from, to) = indicator.counted.get(log).copied().unwrap_or((asked_from, asked_from));
            count = seen.places.iter().filter(|place| !(from..to).contains(*place)).count() as u64;
            if count > 0 {
                indicator.counted.insert(log.clone(), (from.min(asked_from), to.max(asked_to)));
                indicator.sighted(count, (seen.first_ms, seen.latest.time_ms));
            }
        });
        count
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.inner.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked_past(&self, look: &Look) {
        self.set_past_asked(&look.owner, &look.ids);
    }
}

// === impl Past ===

impl Turn {
    fn owner(&self) -> &Scope {
        match self {
            Self::Begun(look) => &look.owner,
            Self::New { owner, .. } => owner,
        }
    }
}

impl Past {
    /// Has these asked too: with those of the owner that wait already, at their place.
    fn add(&mut self, whose: &Scope, more: Vec<String>, is_own_asked: bool) {
        for turn in &mut self.looks {
            if let Turn::New { owner, ids, own_asked } = turn
                && owner == whose
            {
                ids.extend(more);
                // A log that is asked again counts nothing twice.
                *own_asked &= is_own_asked;
                return;
            }
        }
        let ids = more.into_iter().collect();
        self.looks.push_back(Turn::New { owner: whose.clone(), ids, own_asked: is_own_asked });
    }

    /// Whose turn it is; nobody begins anew while something of his goes on.
    fn next(&mut self) -> Option<Turn> {
        let goes_on =
            |owner: &Scope| self.looks.iter().any(|turn| matches!(turn, Turn::Begun(look) if look.owner == *owner));
        let may = |turn: &Turn| matches!(turn, Turn::Begun(_)) || !goes_on(turn.owner());
        let at = self.looks.iter().position(may)?;
        self.looks.remove(at)
    }
}

// === impl Walk ===

impl Walk {
    /// Asks the next page; whether there is another.
    async fn go_on(&mut self, audit: &Audit, look: &Look) -> Result<bool, ThreatError> {
        let matcher = if self.whose == look.owner { &look.own } else { &look.shared };
        // What comes after the end was, or will be, read as it came.
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(RETRO_PAGE);
        if left == 0 {
            return Ok(false);
        }
        let entries = audit.list(&self.log, self.at, left.min(RETRO_PAGE)).await?;
        if entries.is_empty() {
            return Ok(false);
        }
        for entry in entries {
            let body = entry.body.unwrap_or_default();
            let time_ms = body.get("time").and_then(Value::as_i64).unwrap_or(0);
            let event = Event { log: self.whose.log().to_owned(), seq: self.at, time_ms, body };
            self.at += 1;
            self.looked_count += 1;
            if !is_own(event.code()) {
                matcher.matches(&event).into_iter().for_each(|id| self.note(&look.owner, id, &event));
            }
        }
        Ok(self.at < self.end)
    }

    fn note(&mut self, owner: &Scope, id: String, event: &Event) {
        let seen = self.seen.entry(id.clone()).or_insert_with(|| SeenBefore {
            owner: owner.clone(),
            id,
            log_id: log_id(&self.log),
            latest: event.clone(),
            places: Vec::new(),
            count: 0,
            first_ms: event.time_ms,
        });
        seen.places.push(event.seq);
        if seen.latest.seq != event.seq {
            seen.latest = event.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Scope {
        Scope::Tenant(name.parse().unwrap())
    }

    fn begun(owner: &Scope) -> Turn {
        Turn::Begun(Box::new(Look {
            owner: owner.clone(),
            ids: Vec::new(),
            own: Matcher::default(),
            shared: Matcher::default(),
            own_asked: true,
            left: None,
            walk: None,
            is_complete: true,
        }))
    }

    #[test]
    fn however_often_something_comes_an_owner_has_two_turns_and_nothing_of_it_is_lost() {
        let (loud, quiet) = (owner("acme"), owner("bolt"));
        let mut past = Past::default();
        for number in 0..1_000 {
            past.add(&loud, vec![format!("indicator--{number}")], number != 7);
            if number == 0 {
                past.looks.push_back(begun(&loud));
                past.add(&quiet, vec!["indicator--q".to_owned()], true);
            }
        }
        assert_eq!(past.looks.len(), 3);
        // It has something that goes on, whose turn it is before its next, and the other is not behind both.
        assert!(matches!(past.next(), Some(Turn::Begun(look)) if look.owner == loud));
        past.looks.push_back(begun(&loud));
        assert!(matches!(past.next(), Some(Turn::New { owner, .. }) if owner == quiet));
        assert!(matches!(past.next(), Some(Turn::Begun(_))));
        let Some(Turn::New { owner, ids, own_asked }) = past.next() else { panic!("nothing is left") };
        assert_eq!((owner, ids.len(), own_asked), (loud, 1_000, false));
        assert!(past.next().is_none());
    }
}
