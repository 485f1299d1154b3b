//! Refusals that can come in floods, put on record at a pace: sign-ins, tokens that were shown wrongly, quotas.
//!
//! Each is an entry while those of late are few; what is over the pace is counted, and one entry at the end of the window
//! says how many those were, with the last of them: the `refused_count` of all entries is what happened. Must never keep
//! whoever is refused waiting, nor be felt by him: what is told is written at the host's own beat, so the time of an answer
//! says nothing about whether a tenant's log was written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::{Clock, PrincipalId};
use serde_json::{Map, Value, json};

use crate::audit::Audit;
use crate::codes;
use crate::event::{Event, Log};

/// How often what was told is to be written: call [`Paced::write`] as often.
pub const BEAT: Duration = Duration::from_secs(1);
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// LIMIT: entries that wait for the next beat; what does not fit is counted as what is over the pace.
const WAITING_COUNT_MAX: usize = 1_024;
/// LIMIT: paces that are kept at once; what is told beyond them is lost, and a warning says so.
const WINDOWS_COUNT_MAX: usize = 8_192;

/// Most entries of one kind in one log and minute: of what happens one by one, to people.
pub const SOME_A_MINUTE: u32 = 30;
/// The same of what a plugin can do a thousand times a second.
pub const ONE_A_MINUTE: u32 = 1;

/// A kind of refusal, with a pace of its own in each log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusals {
    /// Its word.
    pub kind: &'static str,
    /// LIMIT: entries of it in one log and minute.
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

/// What was told, by the log's name: the host's, or a tenant's unique id.
struct Told<L> {
    windows: HashMap<(String, &'static str), Window<L>>,
    waiting: Vec<(L, Event)>,
    lost_count: u64,
}

struct Window<L> {
    since: Duration,
    told_count: u32,
    /// How many were left out, and the last of them.
    rest: Option<(u64, L, Event)>,
}

// === impl Paced ===

impl Paced {
    /// Refusals on their way to these logs.
    pub fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { audit, clock, told: Mutex::default() }))
    }

    /// Tells of `count` refusals that this event stands for. Never waits.
    pub fn tell(&self, log: &Log, refusals: Refusals, count: u64, event: Event) {
        let name = match log {
            Log::Host => String::new(),
            Log::Tenant(store) => store.uid(),
        };
        let now = self.0.clock.monotonic();
        self.told().take((name, refusals.kind), refusals.told_count_max, now, (count, log.clone(), event));
    }

    /// Tells that a token of this host was shown in a way that it is not taken in. `wrong` is what was wrong, in a word that
    /// rules know; `port` is the plane it was shown to.
    pub fn token_refused(
        &self,
        log: &Log,
        whose: &PrincipalId,
        wrong: &'static str,
        port: &'static str,
        source: Option<std::net::IpAddr>,
    ) {
        const TOKENS: Refusals = Refusals { kind: "token", told_count_max: SOME_A_MINUTE };
        let mut event = Event::new(codes::TOKEN_REFUSED, "show-token", whose.clone(), whose.to_string());
        event.source_ip = source;
        event.details = json!({ "wrong": wrong, "port": port });
        self.tell(log, TOKENS, 1, event);
    }

    /// Writes what waits, and what was left out of windows that are over.
    pub async fn write(&self) {
        self.write_all(|since, now| now.saturating_sub(since) >= WINDOW).await;
    }

    /// Writes everything, windows that are not over as well; for the end of a drain.
    pub async fn flush(&self) {
        self.write_all(|_, _| true).await;
    }

    async fn write_all(&self, is_over: impl Fn(Duration, Duration) -> bool) {
        let now = self.0.clock.monotonic();
        let (entries, lost_count) = self.told().drain(|since| is_over(since, now));
        if lost_count > 0 {
            tracing::warn!(lost_count, "more refusals came than are put on record");
        }
        for (log, event) in entries {
            if let Log::Tenant(store) = &log
                && store.check_keys().is_err()
            {
                // Its log is closed with its keys; that it was closed, and by whom, is on the host's.
                continue;
            }
            if let Err(error) = self.0.audit.record(&log, event).await {
                tracing::warn!(%error, "a refusal could not be put on record");
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
    fn take(
        &mut self,
        place: (String, &'static str),
        told_count_max: u32,
        now: Duration,
        (count, log, event): (u64, L, Event),
    ) {
        if self.windows.len() >= WINDOWS_COUNT_MAX && !self.windows.contains_key(&place) {
            self.lost_count = self.lost_count.saturating_add(count);
            return;
        }
        let window = self.windows.entry(place).or_insert(Window { since: now, told_count: 0, rest: None });
        if window.told_count < told_count_max && self.waiting.len() < WAITING_COUNT_MAX {
            window.told_count = window.told_count.saturating_add(1);
            self.waiting.push((log, counted(event, count)));
        } else {
            let before = window.rest.as_ref().map_or(0, |(count, ..)| *count);
            window.rest = Some((before.saturating_add(count), log, event));
        }
    }

    /// What is to be written now; windows that are over begin anew with the next refusal.
    fn drain(&mut self, is_over: impl Fn(Duration) -> bool) -> (Vec<(L, Event)>, u64) {
        let mut entries = std::mem::take(&mut self.waiting);
        self.windows.retain(|_, window| {
            if !is_over(window.since) {
                return true;
            }
            if let Some((count, log, event)) = window.rest.take() {
                entries.push((log, counted(event, count)));
            }
            false
        });
        (entries, std::mem::take(&mut self.lost_count))
    }
}

/// The event, which says how many refusals it stands for.
fn counted(mut event: Event, count: u64) -> Event {
    if event.details.is_null() {
        event.details = Value::Object(Map::new());
    }
    if let Some(details) = event.details.as_object_mut() {
        details.insert("refused_count".to_owned(), json!(count));
    }
    event
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

    fn place(name: &str) -> (String, &'static str) {
        (name.to_owned(), "sign-in")
    }

    /// Number and count of what is written when windows older than `now` less a minute are over.
    fn written(told: &mut Told<&'static str>, now: u64) -> Vec<(u64, u64)> {
        let (entries, _) = told.drain(|since| at(now).saturating_sub(since) >= WINDOW);
        let number = |event: &Event, name: &str| event.details[name].as_u64().unwrap();
        entries.iter().map(|(_, event)| (number(event, "number"), number(event, "refused_count"))).collect()
    }

    #[test]
    fn the_first_are_told_one_by_one_and_the_rest_as_one_when_the_window_is_over() {
        let mut told = Told::default();
        for number in 0..10 {
            told.take(place("acme"), 3, at(100), (1, "acme", event(number)));
        }
        assert_eq!(written(&mut told, 101), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(written(&mut told, 159), []);
        assert_eq!(written(&mut told, 160), [(9, 7)], "the last of them, for all");
        assert!(told.windows.is_empty());
        told.take(place("acme"), 3, at(161), (5, "acme", event(11)));
        assert_eq!(written(&mut told, 162), [(11, 5)]);
    }

    #[test]
    fn a_flood_in_one_log_takes_nothing_from_another_and_is_bounded() {
        let mut told = Told::default();
        for number in 0..10_000 {
            told.take(place("flood"), SOME_A_MINUTE, at(1), (1, "flood", event(number)));
        }
        told.take(place("acme"), SOME_A_MINUTE, at(1), (1, "acme", event(7)));
        let entries = written(&mut told, 2);
        assert_eq!((entries.len(), entries.last()), (31, Some(&(7, 1))));
        for number in 0..WINDOWS_COUNT_MAX as u64 + 5 {
            told.take(place(&number.to_string()), 0, at(2), (1, "many", event(number)));
        }
        assert!(told.windows.len() <= WINDOWS_COUNT_MAX && told.lost_count > 0);
        let all = written(&mut told, 1_000).iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(all, 10_000 - 30 + WINDOWS_COUNT_MAX as u64 - 2, "what is left out is counted, none twice");
    }
}
