//! What was seen of late: who acts from where, and who else is behind an address. For risk points and blast radius.
//!
//! Pure. Must never keep more than the limits here, nor for longer than a day; of addresses it keeps networks for
//! principals, and principals for addresses. What is not here is unknown, and those who ask say so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ringfence_core::Source;

use crate::event::Event;

/// LIMIT: principals that are remembered.
const PRINCIPALS_COUNT_MAX: usize = 32_768;
/// LIMIT: addresses that are remembered.
const SOURCES_COUNT_MAX: usize = 32_768;
/// LIMIT: networks remembered of a principal, principals of an address, tenants of a principal.
const EACH_COUNT_MAX: usize = 16;
/// How long something is remembered, in milliseconds: a day.
const KEPT_MS: i64 = 86_400_000;

/// What was seen.
#[derive(Debug, Default)]
pub struct History {
    principals: HashMap<String, Seen>,
    sources: HashMap<Source, BTreeMap<String, i64>>,
    /// Logs that had entries before this began, which it has not seen.
    older: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Seen {
    last_ms: i64,
    acts_count: u64,
    networks: BTreeMap<String, i64>,
    logs: BTreeMap<String, i64>,
}

/// What was known of an event's principal before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Whether its network is new for the principal; none when nothing was known of it, or the event has no source.
    pub new_network: Option<bool>,
    /// How many logs it is active in, this one included.
    pub logs_count: usize,
}

impl History {
    /// Takes an event and says what was known before it.
    pub fn take(&mut self, event: &Event) -> Before {
        let none = Before { new_network: None, logs_count: 0 };
        let Some(actor) = event.actor().filter(|actor| actor.contains('/')) else { return none };
        if self.principals.len() >= PRINCIPALS_COUNT_MAX && !self.principals.contains_key(actor) {
            make_room(&mut self.principals, |seen| seen.last_ms);
        }
        let now = event.time_ms;
        let seen = self.principals.entry(actor.to_owned()).or_default();
        seen.last_ms = now;
        seen.acts_count = seen.acts_count.saturating_add(1);
        // The host's own log is where isolation and keys are recorded too: it is no tenant.
        if event.log != crate::HOST_LOG {
            remember(&mut seen.logs, event.log.clone(), now);
        }
        let logs_count = seen.logs.len();
        let Some(source) = event.source().map(|source| source.to_canonical()) else {
            return Before { new_network: None, logs_count };
        };
        let (network, source) = (network(source), Source::of(source));
        let new_network = (!seen.networks.is_empty()).then(|| !seen.networks.contains_key(&network));
        remember(&mut seen.networks, network, now);
        if self.sources.len() >= SOURCES_COUNT_MAX && !self.sources.contains_key(&source) {
            make_room(&mut self.sources, |known| known.values().copied().max().unwrap_or(i64::MIN));
        }
        remember(self.sources.entry(source).or_default(), actor.to_owned(), now);
        Before { new_network, logs_count }
    }

    /// Notes that a log has entries that are not taken here.
    pub(crate) fn note_older(&mut self, log: &str) {
        self.older.insert(log.to_owned());
    }

    /// Whether a log, or with none any, has entries that were not taken here.
    pub(crate) fn is_partial(&self, log: Option<&str>) -> bool {
        log.map_or(!self.older.is_empty(), |log| self.older.contains(log))
    }

    /// Principals seen behind the source of an address in the last day; at most sixteen are told apart.
    pub fn behind(&self, source: IpAddr, now_ms: i64) -> Vec<String> {
        let known = self.sources.get(&Source::of(source));
        let fresh = known.into_iter().flatten().filter(|(_, at)| now_ms.saturating_sub(**at) < KEPT_MS);
        fresh.map(|(principal, _)| principal.clone()).collect()
    }

    /// Recorded acts of a principal that are remembered.
    pub fn acts_count(&self, principal: &str) -> u64 {
        self.principals.get(principal).map_or(0, |seen| seen.acts_count)
    }

    /// Principals of a tenant that are remembered, and their acts.
    pub fn of_tenant(&self, tenant: &str) -> (Vec<String>, u64) {
        let prefix = format!("{tenant}/");
        let own = self.principals.iter().filter(|(name, _)| name.starts_with(&prefix));
        let (mut names, mut acts_count) = (Vec::new(), 0_u64);
        for (name, seen) in own {
            names.push(name.clone());
            acts_count = acts_count.saturating_add(seen.acts_count);
        }
        names.sort_unstable();
        (names, acts_count)
    }
}

fn remember(known: &mut BTreeMap<String, i64>, what: String, now: i64) {
    known.retain(|_, at| now.saturating_sub(*at) < KEPT_MS);
    if known.len() >= EACH_COUNT_MAX && !known.contains_key(&what) {
        let oldest = known.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
        oldest.and_then(|name| known.remove(&name));
    }
    known.insert(what, now);
}

/// Lets the older half go.
fn make_room<K: std::hash::Hash + Eq, V>(all: &mut HashMap<K, V>, used: impl Fn(&V) -> i64) {
    let mut times: Vec<i64> = all.values().map(&used).collect();
    let place = times.len() / 2;
    if place < times.len() {
        let border = *times.select_nth_unstable(place).1;
        all.retain(|_, value| used(value) > border);
    }
}

/// The network of an address: /24 of version 4, /48 of version 6.
fn network(source: IpAddr) -> String {
    let bits = if source.is_ipv4() { 24 } else { 48 };
    ipnet::IpNet::new(source, bits).map_or_else(|_| source.to_string(), |net| net.trunc().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(actor: &str, ip: &str, time_ms: i64) -> Event {
        let body = json!({"actor": {"user": {"uid": actor}}, "src_endpoint": {"ip": ip}});
        Event { log: "acme".into(), seq: 0, time_ms, body }
    }

    #[test]
    fn the_first_network_is_unknown_the_next_is_new_and_then_it_is_known() {
        let mut history = History::default();
        let new = |history: &mut History, ip: &str| history.take(&event("acme/a", ip, 0)).new_network;
        assert_eq!(new(&mut history, "203.0.113.1"), None);
        assert_eq!(new(&mut history, "203.0.113.200"), Some(false), "the same network");
        assert_eq!(new(&mut history, "198.51.100.1"), Some(true));
        assert_eq!(new(&mut history, "198.51.100.1"), Some(false));
        assert_eq!(history.take(&event("anonymous", "192.0.2.1", 0)).new_network, None);
    }

    #[test]
    fn who_is_behind_an_address_is_known_for_a_day() {
        let mut history = History::default();
        history.take(&event("acme/a", "203.0.113.1", 0));
        history.take(&event("acme/b", "::ffff:203.0.113.1", 1_000));
        let source = "203.0.113.1".parse().unwrap();
        assert_eq!(history.behind(source, 2_000), ["acme/a", "acme/b"]);
        assert!(history.behind(source, KEPT_MS + 2_000).is_empty());
    }

    #[test]
    fn a_flood_of_principals_is_remembered_within_the_limit() {
        let mut history = History::default();
        for at in 0..(PRINCIPALS_COUNT_MAX + 10) {
            let ip = format!("10.{}.{}.{}", at >> 16 & 255, at >> 8 & 255, at & 255);
            history.take(&event(&format!("acme/p{at}"), &ip, i64::try_from(at).unwrap()));
        }
        assert!(history.principals.len() <= PRINCIPALS_COUNT_MAX && history.sources.len() <= SOURCES_COUNT_MAX);
        assert_eq!(history.acts_count(&format!("acme/p{}", PRINCIPALS_COUNT_MAX + 9)), 1);
    }
}
