//! Refusals that can come in floods, put on record at a pace: sign-ins, tokens that were shown wrongly, quotas,
//! and reaching for what is another tenant's.
//!
//! Each is an entry while those of late are few; what is over the pace is counted, and one entry at the end of the window
//! says how many those were, with the last of them: the `refused_count` of all entries is what happened. What a log cannot take
//! now is counted on and told later, rather twice than not at all. Refusals that are about somebody have a pace of their own
//! for each, so that noise hides nobody; where so many are refused that some share one, its last entry names whom most of them
//! were about, with how many. Must never keep whoever is refused waiting, nor be felt by him: what is told is
//! written at the host's own beat, so the time of an answer says nothing about whether a tenant's log was written; nor lay
//! at one address's door what came from several.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::{Clock, PrincipalId};
use ringfence_store::TenantStore;
use serde_json::{Map, Value, json};

use crate::audit::Audit;
use crate::codes;
use crate::error::AuditError;
use crate::event::{Event, Log};

/// How often what was told is to be written: call [`Paced::write`] as often.
pub const BEAT: Duration = Duration::from_secs(1);
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// LIMIT: entries that wait for the next beat; what does not fit is counted as what is over the pace.
const WAITING_COUNT_MAX: usize = 1_024;
/// LIMIT: paces that are kept at once; what is told beyond them is lost, and a warning says so.
const WINDOWS_COUNT_MAX: usize = 8_192;
/// LIMIT: paces of one kind in one log that are somebody's own; those beyond share one, whose last entry names whom most of
/// them were about and says that it is about several.
const OWN_COUNT_MAX: usize = 32;
/// LIMIT: names that one last entry counts by. Whoever more than one in so many refusals is about is among them.
const NAMED_COUNT_MAX: usize = 64;

/// Most entries of one kind in one log and minute: of what happens one by one, to people.
pub const SOME_A_MINUTE: u32 = 30;
/// The same for each of those whom refusals are about.
pub const FEW_A_MINUTE: u32 = 10;
/// The same of what a plugin can do a thousand times a second.
pub const ONE_A_MINUTE: u32 = 1;

/// A kind of refusal, with a pace of its own in each log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusals {
    /// Its word.
    pub kind: &'static str,
    /// LIMIT: entries of it in one log and minute, or about one and the same where they are about somebody.
    pub told_count_max: u32,
}

/// Puts refusals on record. Cheap to clone; all clones keep one pace.
#[derive(Clone)]
pub struct Paced(Arc<Inner>);

struct Inner {
    audit: Audit,
    clock: Arc<dyn Clock>,
    told: Mutex<Told<Log>>,
}

/// What was told.
struct Told<L> {
    /// In each place by whom they are about; nobody's name is that of all others.
    windows: HashMap<Place, HashMap<String, Window<L>>>,
    waiting: Vec<Refused<L>>,
    lost_count: u64,
}

/// The log's name (nothing for the host's, or a tenant's unique id), and the kind.
type Place = (String, &'static str);

struct Window<L> {
    since: Duration,
    told_count: u32,
    /// What was left out, as one.
    rest: Option<Refused<L>>,
}

/// So many refusals that are one entry.
struct Refused<L> {
    place: Place,
    log: L,
    count: u64,
    /// Where all of them came from, if that is one address.
    source: Option<IpAddr>,
    /// The first whom they are about.
    first: Named,
    /// The others, if there are any.
    others: Vec<Named>,
}

/// The refusals about one, by the space-saving count: who is new when there is no more room takes the place of whoever has the
/// fewest, and that one's count.
struct Named {
    /// Whom they are about, which may be nobody.
    about: String,
    /// The last of them.
    event: Event,
    count: u64,
    /// How many of `count` may be others'.
    others_count: u64,
}

// === impl Paced ===

impl Paced {
    /// Refusals on their way to these logs.
    pub fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { audit, clock, told: Mutex::default() }))
    }

    /// Tells of `count` refusals that this event stands for. Never waits.
    pub fn tell(&self, log: &Log, refusals: Refusals, count: u64, event: Event) {
        self.tell_about("", log, refusals, count, event);
    }

    /// As [`Paced::tell`], at a pace of its own for what the refusals have in common: whom they are about.
    pub fn tell_about(&self, about: &str, log: &Log, refusals: Refusals, count: u64, event: Event) {
        let name = match log {
            Log::Host => String::new(),
            Log::Tenant(store) => store.uid(),
        };
        let (place, about) = ((name, refusals.kind), about.to_owned());
        let now = self.0.clock.monotonic();
        let refused = Refused::new(place, about, log.clone(), event, count);
        self.told().take(refused, refusals.told_count_max, now);
    }

    /// Tells that a token of this host was shown in a way that it is not taken in. `wrong` is what was wrong, in a word that
    /// rules know; `port` is the plane it was shown to.
    pub fn token_refused(
        &self,
        log: &Log,
        whose: &PrincipalId,
        wrong: &'static str,
        port: &'static str,
        source: Option<IpAddr>,
    ) {
        const TOKENS: Refusals = Refusals { kind: "token", told_count_max: FEW_A_MINUTE };
        let mut event = Event::new(codes::TOKEN_REFUSED, "show-token", whose.clone(), whose.to_string());
        event.source_ip = source;
        event.details = json!({ "wrong": wrong, "port": port });
        self.tell_about(&format!("{whose} {wrong}"), log, TOKENS, 1, event);
    }

    /// Tells a tenant that somebody reached for what is its own and is hidden from him. The host's log has had each of his
    /// attempts before he was answered.
    pub fn stranger_refused(&self, store: &TenantStore, event: Event) {
        const STRANGERS: Refusals = Refusals { kind: "isolation", told_count_max: SOME_A_MINUTE };
        let who = event.actor.clone();
        self.tell_about(who.as_str(), &Log::Tenant(store.clone()), STRANGERS, 1, event);
    }

    /// Writes what waits, and what was left out of windows that are over. What cannot be written now is the rest of its
    /// window again.
    pub async fn write(&self) {
        self.write_all(|since, now| now.saturating_sub(since) >= WINDOW).await;
    }

    /// Writes everything, windows that are not over as well; for the end of a drain.
    pub async fn flush(&self) {
        self.write_all(|_, _| true).await;
        let lost_count = self.told().left_count();
        if lost_count > 0 {
            tracing::warn!(lost_count, "refusals could not be put on record, and the host ends");
        }
    }

    async fn write_all(&self, is_over: impl Fn(Duration, Duration) -> bool) {
        let now = self.0.clock.monotonic();
        let (entries, lost_count) = self.told().drain(|since| is_over(since, now));
        if lost_count > 0 {
            tracing::warn!(lost_count, "more refusals came than are put on record");
        }
        // A log that cannot be written is asked once a beat: whether the store takes entries again is known by nothing else. One
        // whose second place takes none is not: its writer asks that place itself, and each answer can take seconds.
        let mut away: HashSet<String> = HashSet::new();
        for refused in entries {
            if let Log::Tenant(store) = &refused.log
                && store.check_keys().is_err()
            {
                // Its log is closed with its keys; that it was closed, and by whom, is on the host's.
                continue;
            }
            if away.contains(&refused.place.0) || !self.0.audit.takes(&refused.log) {
                self.told().put_back(refused, now);
                continue;
            }
            match self.0.audit.record(&refused.log, refused.entry()).await {
                Ok(_) | Err(AuditError::Gone | AuditError::KeyDisabled) => {}
                Err(error @ AuditError::Unrepresentable) => {
                    tracing::error!(%error, lost_count = refused.count, "refusals could not be put on record");
                }
                Err(error) => {
                    tracing::warn!(%error, "a refusal could not be put on record now; it is counted on");
                    away.insert(refused.place.0.clone());
                    self.told().put_back(refused, now);
                }
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told<Log>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Told ===

impl<L> Default for Told<L> {
    fn default() -> Self {
        Self { windows: HashMap::new(), waiting: Vec::new(), lost_count: 0 }
    }
}

impl<L> Told<L> {
    fn take(&mut self, refused: Refused<L>, told_count_max: u32, now: Duration) {
        let is_room = self.waiting.len() < WAITING_COUNT_MAX;
        let Some(window) = self.window(&refused, now) else {
            self.lost_count = self.lost_count.saturating_add(refused.count);
            return;
        };
        if is_room && window.told_count < told_count_max {
            window.told_count = window.told_count.saturating_add(1);
            self.waiting.push(refused);
        } else {
            window.leave_out(refused);
        }
    }

    /// Counts what could not be written into the window that is open now, as what came before its rest.
    fn put_back(&mut self, mut refused: Refused<L>, now: Duration) {
        match self.window(&refused, now) {
            Some(window) => {
                if let Some(rest) = window.rest.take() {
                    refused.join(rest);
                }
                window.rest = Some(refused);
            }
            None => self.lost_count = self.lost_count.saturating_add(refused.count),
        }
    }

    /// The window of whom this is about, or the one that all others share; none when there are too many in all.
    fn window(&mut self, refused: &Refused<L>, now: Duration) -> Option<&mut Window<L>> {
        let is_room = self.windows.values().map(HashMap::len).sum::<usize>() < WINDOWS_COUNT_MAX;
        let windows = self.windows.get(&refused.place);
        let is_kept = |about: &str| windows.is_some_and(|windows| windows.contains_key(about));
        let is_own = is_kept(refused.about()) || (is_room && windows.map_or(0, HashMap::len) < OWN_COUNT_MAX);
        let about = if is_own { refused.about() } else { "" };
        if !is_room && !is_kept(about) {
            return None;
        }
        let windows = self.windows.entry(refused.place.clone()).or_default();
        Some(windows.entry(about.to_owned()).or_insert(Window { since: now, told_count: 0, rest: None }))
    }

    /// What is to be written now; windows that are over begin anew with the next refusal.
    fn drain(&mut self, is_over: impl Fn(Duration) -> bool) -> (Vec<Refused<L>>, u64) {
        let mut entries = std::mem::take(&mut self.waiting);
        for windows in self.windows.values_mut() {
            windows.retain(|_, window| {
                if !is_over(window.since) {
                    return true;
                }
                entries.extend(window.rest.take());
                false
            });
        }
        self.windows.retain(|_, windows| !windows.is_empty());
        (entries, std::mem::take(&mut self.lost_count))
    }

    /// Refusals that are not written yet, or were lost.
    fn left_count(&self) -> u64 {
        let rests = self.windows.values().flat_map(HashMap::values).filter_map(|window| window.rest.as_ref());
        rests.chain(&self.waiting).fold(self.lost_count, |sum, refused| sum.saturating_add(refused.count))
    }
}

// === impl Window ===

impl<L> Window<L> {
    fn leave_out(&mut self, refused: Refused<L>) {
        match &mut self.rest {
            Some(rest) => rest.join(refused),
            None => self.rest = Some(refused),
        }
    }
}

// === impl Refused ===

impl<L> Refused<L> {
    fn new(place: Place, about: String, log: L, event: Event, count: u64) -> Self {
        let source = event.source_ip;
        let first = Named { about, event, count, others_count: 0 };
        Self { place, log, count, source, first, others: Vec::new() }
    }

    /// Whom all of them are about; nobody where that is not one.
    fn about(&self) -> &str {
        if self.others.is_empty() { &self.first.about } else { "" }
    }

    /// Takes those after it with it: from one address only if all of them were.
    fn join(&mut self, later: Self) {
        self.count = self.count.saturating_add(later.count);
        self.source = self.source.filter(|source| later.source == Some(*source));
        for mut one in std::iter::once(later.first).chain(later.others) {
            let mut named = std::iter::once(&mut self.first).chain(&mut self.others);
            if let Some(known) = named.find(|known| known.about == one.about) {
                known.event = one.event;
                known.count = known.count.saturating_add(one.count);
                known.others_count = known.others_count.saturating_add(one.others_count);
                continue;
            }
            if 1 + self.others.len() < NAMED_COUNT_MAX {
                self.others.push(one);
                continue;
            }
            let fewest = self.others.iter_mut().fold(&mut self.first, |a, b| if b.count < a.count { b } else { a });
            one.count = one.count.saturating_add(fewest.count);
            one.others_count = one.others_count.saturating_add(fewest.count);
            *fewest = one;
        }
    }

    /// Its entry, which says how many refusals it stands for. Where those are about several it names whom most are about, as
    /// far as that is certain, and says how many those are.
    fn entry(&self) -> Event {
        let most = self.others.iter().fold(&self.first, |a, b| if b.own_count() > a.own_count() { b } else { a });
        let mut event = most.event.clone();
        event.source_ip = self.source;
        if event.details.is_null() {
            event.details = Value::Object(Map::new());
        }
        if let Some(details) = event.details.as_object_mut() {
            details.insert("refused_count".to_owned(), json!(self.count));
            if !self.others.is_empty() {
                details.insert("several".to_owned(), json!(true));
                details.insert("named_count".to_owned(), json!(most.own_count()));
            }
        }
        event
    }
}

// === impl Named ===

impl Named {
    /// How many are about this one for certain.
    fn own_count(&self) -> u64 {
        self.count.saturating_sub(self.others_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> Event {
        let mut event = Event::new(codes::SIGN_IN_REFUSED, "authenticate", "anonymous".parse().unwrap(), "acme/ann");
        event.details = json!({ "number": number });
        event
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn refused(log: &str, about: &str, count: u64, number: u64) -> Refused<()> {
        let place = (log.to_owned(), "sign-in");
        Refused::new(place, about.to_owned(), (), event(number), count)
    }

    fn number(entry: &Event, name: &str) -> u64 {
        entry.details[name].as_u64().unwrap()
    }

    /// Number and count of what is written when windows older than `now` less a minute are over.
    fn written(told: &mut Told<()>, now: u64) -> Vec<(u64, u64)> {
        let (entries, _) = told.drain(|since| at(now).saturating_sub(since) >= WINDOW);
        let entries = entries.iter().map(Refused::entry);
        entries.map(|entry| (number(&entry, "number"), number(&entry, "refused_count"))).collect()
    }

    #[test]
    fn the_first_are_told_one_by_one_and_the_rest_as_one_when_the_window_is_over() {
        let mut told = Told::default();
        for number in 0..10 {
            told.take(refused("acme", "", 1, number), 3, at(100));
        }
        assert_eq!(written(&mut told, 101), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(written(&mut told, 159), []);
        assert_eq!(written(&mut told, 160), [(9, 7)], "the last of them, for all");
        assert!(told.windows.is_empty());
        told.take(refused("acme", "", 5, 11), 3, at(161));
        assert_eq!(written(&mut told, 162), [(11, 5)]);
    }

    #[test]
    fn a_flood_in_one_log_takes_nothing_from_another_and_is_bounded() {
        let mut told = Told::default();
        for number in 0..10_000 {
            told.take(refused("flood", "", 1, number), SOME_A_MINUTE, at(1));
        }
        told.take(refused("acme", "", 1, 7), SOME_A_MINUTE, at(1));
        let entries = written(&mut told, 2);
        assert_eq!((entries.len(), entries.last()), (31, Some(&(7, 1))));
        for number in 0..WINDOWS_COUNT_MAX as u64 + 5 {
            told.take(refused(&number.to_string(), "", 1, number), 0, at(2));
        }
        assert!(told.windows.len() <= WINDOWS_COUNT_MAX && told.lost_count > 0);
        let all = written(&mut told, 1_000).iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(all, 10_000 - 30 + WINDOWS_COUNT_MAX as u64 - 2, "what is left out is counted, none twice");
    }

    #[test]
    fn noise_hides_nobody_who_is_guessed_at_and_many_names_are_bounded_and_said_to_be_several() {
        let mut told = Told::default();
        for number in 0..1_000 {
            told.take(refused("acme", "", 1, number), SOME_A_MINUTE, at(1));
        }
        for number in 0..12 {
            told.take(refused("acme", "acme/ann", 1, 5_000 + number), FEW_A_MINUTE, at(1));
        }
        let entries = written(&mut told, 2);
        assert_eq!(entries.iter().filter(|(number, _)| *number >= 5_000).count(), 10, "told among the noise");
        assert!(written(&mut told, 61).contains(&(5_011, 2)), "and the rest of them as one");

        for whom in 0..100 {
            for _ in 0..FEW_A_MINUTE {
                told.take(refused("acme", &format!("acme/p{whom}"), 1, whom), FEW_A_MINUTE, at(100));
            }
        }
        assert_eq!(told.windows[&("acme".to_owned(), "sign-in")].len(), OWN_COUNT_MAX + 1);
        let (entries, _) = told.drain(|_| true);
        assert_eq!(entries.iter().map(|refused| refused.count).sum::<u64>(), 100 * u64::from(FEW_A_MINUTE));
        let several: Vec<Event> = entries.iter().filter(|one| one.count > 1).map(Refused::entry).collect();
        assert_eq!(several.len(), 1);
        assert_eq!((number(&several[0], "named_count"), &several[0].details["several"]), (10, &json!(true)));
    }

    #[test]
    fn whom_most_are_about_is_named_with_his_own_count_however_many_others_are_guessed_at_between() {
        let mut told = Told::default();
        for whom in 0..OWN_COUNT_MAX as u64 {
            told.take(refused("acme", &format!("acme/p{whom}"), 1, whom), FEW_A_MINUTE, at(1));
        }
        for whom in 0..500 {
            told.take(refused("acme", "acme/ann", 1, 7_000), FEW_A_MINUTE, at(1));
            told.take(refused("acme", &format!("acme/q{whom}"), 1, whom), FEW_A_MINUTE, at(1));
        }
        let (entries, _) = told.drain(|_| true);
        let rest: Vec<&Refused<()>> = entries.iter().filter(|one| one.count > 1).collect();
        assert_eq!((rest.len(), 1 + rest[0].others.len()), (1, NAMED_COUNT_MAX));
        let entry = rest[0].entry();
        assert_eq!((number(&entry, "number"), number(&entry, "named_count")), (7_000, 495), "five were told before");
        assert_eq!(number(&entry, "refused_count"), 990);
    }

    #[test]
    fn an_entry_for_many_says_an_address_only_if_all_of_them_came_from_there() {
        let from = |source: &str, number: u64| {
            let mut event = event(number);
            event.source_ip = Some(source.parse().unwrap());
            Refused::new(("acme".to_owned(), "sign-in"), String::new(), (), event, 1)
        };
        for (other, said) in [("203.0.113.9", true), ("203.0.113.10", false)] {
            let mut told = Told::default();
            for (place, source) in ["203.0.113.9", other, "203.0.113.9"].into_iter().enumerate() {
                told.take(from(source, place as u64), 0, at(1));
            }
            let (entries, _) = told.drain(|_| true);
            let entry = entries[0].entry();
            assert_eq!((number(&entry, "refused_count"), entry.source_ip.is_some()), (3, said), "{other}");
        }
    }

    #[test]
    fn what_could_not_be_written_is_counted_on_and_what_does_not_fit_is_said_to_be_lost() {
        let mut told = Told::default();
        told.take(refused("acme", "", 2, 1), 1, at(1));
        let (entries, _) = told.drain(|_| false);
        told.take(refused("acme", "", 1, 2), 1, at(2));
        for one in entries {
            told.put_back(one, at(3));
        }
        assert_eq!(told.left_count(), 3);
        assert_eq!(written(&mut told, 61), [(2, 3)], "the last of them, for all");
        // Its window is over by the time it comes back: it opens one.
        told.put_back(refused("acme", "", 4, 3), at(70));
        assert_eq!((written(&mut told, 71).len(), written(&mut told, 130)), (0, vec![(3, 4)]));
        for number in 0..WINDOWS_COUNT_MAX as u64 {
            told.take(refused(&number.to_string(), "", 1, number), 1, at(200));
        }
        told.put_back(refused("late", "", 6, 4), at(200));
        assert_eq!(told.lost_count, 6);
    }
}
