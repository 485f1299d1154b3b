//! Threat intelligence: STIX 2.1 bundles, what of them can be matched here, and what that matched.
//!
//! Must never match what is revoked, over, or not trusted enough; never let a private address, a network that has one, or a
//! name of private use become an indicator; and never show TLP:RED or TLP:AMBER+STRICT outside the owner that loaded it. What
//! cannot be matched is kept and told.

pub mod pattern;
pub mod stix;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use pattern::{Comparison, Observable, Pattern};

/// LIMIT: indicators of one owner.
pub const INDICATORS_COUNT_MAX: usize = 50_000;
/// Confidence below which an indicator is kept and not matched.
pub const CONFIDENCE_MIN: u8 = 30;

/// What became of an indicator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum Use {
    /// It is matched.
    Matched,
    /// Its pattern is more than this host can match.
    UnmatchedPattern(String),
    /// It is not matched, for another reason.
    NotUsed(String),
}

/// An indicator as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Indicator {
    /// As its source named it.
    pub id: String,
    /// For people.
    pub name: String,
    /// Types, such as `malicious-activity`.
    pub types: Vec<String>,
    /// The pattern, as it came.
    pub pattern: String,
    /// 0 to 100.
    pub confidence: Option<u8>,
    /// From when it holds.
    pub valid_from: Timestamp,
    /// Until when.
    pub valid_until: Option<Timestamp>,
    /// Whether its source took it back.
    pub revoked: bool,
    /// `clear`, `green`, `amber`, `amber+strict`, `red`: the strictest of its markings; none when none says anything of it.
    pub tlp: Option<String>,
    /// Its markings, by id, as its source named them.
    #[serde(default)]
    pub marking_refs: Vec<String>,
    /// Who says so.
    pub source: Option<String>,
    /// The bundle, feed or file it came with.
    pub feed: String,
    /// When its source made it, where it says so.
    #[serde(default)]
    pub created: Option<Timestamp>,
    /// When its source changed it last.
    pub modified: Timestamp,
    /// When it came.
    pub loaded_at: Timestamp,
    /// What became of it.
    pub used: Use,
    /// How often it was seen in the log, since it was loaded and before.
    pub sightings_count: u64,
    /// First and last of these, milliseconds since 1970 UTC.
    pub seen_ms: Option<(i64, i64)>,
    /// Whether all logs that it is asked of were asked about the time before it came.
    #[serde(default = "was_asked")]
    pub past_asked: bool,
}

/// Before this was noted, a bundle was taken in after its owner's log was asked.
fn was_asked() -> bool {
    true
}

/// Indicators ready to be asked.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: HashMap<(Observable, String), Vec<usize>>,
    networks: Vec<(IpNet, usize)>,
    patterns: Vec<(String, Pattern, Timestamp, Option<Timestamp>)>,
}

impl Indicator {
    /// What people call it: its name, or its id when it has none.
    pub fn called(&self) -> String {
        if self.name.is_empty() { self.id.clone() } else { self.name.clone() }
    }

    /// What becomes of it at a moment.
    pub fn judge(&self, now: Timestamp) -> Use {
        if self.revoked {
            return Use::NotUsed("its source took it back".to_owned());
        }
        if self.valid_until.is_some_and(|until| until <= now) {
            return Use::NotUsed("it is over".to_owned());
        }
        if self.confidence.is_some_and(|confidence| confidence < CONFIDENCE_MIN) {
            return Use::NotUsed(format!("its confidence is under {CONFIDENCE_MIN}"));
        }
        match Pattern::parse(&self.pattern) {
            Err(why) => Use::UnmatchedPattern(why),
            Ok(pattern) => match pattern.comparisons().find_map(unfit) {
                Some(why) => Use::NotUsed(why),
                None => Use::Matched,
            },
        }
    }
}

/// Addresses of private use, of one's own machine and of one's own link: no place that intelligence could mean.
const PRIVATE: [&str; 10] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::/128",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// Whether any address of a network is of private use, also one that is written as an IPv6 address.
fn touches_private(network: &IpNet) -> bool {
    let mut network = *network;
    if let IpNet::V6(v6) = network
        && let (Some(v4), Some(length)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(mapped) = IpNet::new(v4.into(), length)
    {
        network = mapped;
    }
    let overlaps = |private: IpNet| private.contains(&network) || network.contains(&private);
    PRIVATE.iter().filter_map(|private| private.parse::<IpNet>().ok()).any(overlaps)
}

/// Why something must not be an indicator here.
fn unfit(comparison: &Comparison) -> Option<String> {
    match comparison.observable {
        Observable::Address => {
            let network: IpNet =
                comparison.value.parse().ok().or_else(|| comparison.value.parse::<IpAddr>().ok().map(IpNet::from))?;
            let wide = if network.addr().is_ipv4() { network.prefix_len() < 8 } else { network.prefix_len() < 16 };
            if wide {
                return Some("its network is wider than a host should judge".to_owned());
            }
            touches_private(&network).then(|| "it is, or has, an address of private use".to_owned())
        }
        Observable::Domain
            if ["localhost", "local", "internal"]
                .contains(&comparison.value.rsplit('.').next().unwrap_or_default()) =>
        {
            Some("it is a name of private use".to_owned())
        }
        _ => None,
    }
}

// === impl Matcher ===

impl Matcher {
    /// Makes indicators ready; those that are not to be matched are left out.
    pub fn new<'a>(indicators: impl Iterator<Item = &'a Indicator>, now: Timestamp) -> Self {
        let mut matcher = Self::default();
        for indicator in indicators {
            if indicator.judge(now) != Use::Matched {
                continue;
            }
            let Ok(pattern) = Pattern::parse(&indicator.pattern) else { continue };
            let at = matcher.patterns.len();
            for comparison in pattern.comparisons() {
                match comparison.network() {
                    Some(network) => matcher.networks.push((network, at)),
                    None => {
                        matcher.exact.entry((comparison.observable, comparison.value.clone())).or_default().push(at)
                    }
                }
            }
            matcher.patterns.push((indicator.id.clone(), pattern, indicator.valid_from, indicator.valid_until));
        }
        matcher
    }

    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The indicators that an event matches, by id.
    pub fn matches(&self, event: &Event) -> Vec<String> {
        if self.is_empty() {
            return Vec::new();
        }
        let seen = observables(event);
        let mut candidates: Vec<usize> = Vec::new();
        for one in &seen {
            candidates.extend(self.exact.get(one).into_iter().flatten());
            if let (Observable::Address, Ok(address)) = (one.0, one.1.parse::<IpAddr>()) {
                candidates
                    .extend(self.networks.iter().filter(|(network, _)| network.contains(&address)).map(|(_, at)| *at));
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let at = Timestamp::from_millisecond(event.time_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let holds = |at_index: &usize| {
            let (id, pattern, from, until) = self.patterns.get(*at_index)?;
            let valid = *from <= at && until.is_none_or(|until| at < until);
            (valid && pattern.holds(&seen)).then(|| id.clone())
        };
        candidates.iter().filter_map(holds).collect()
    }
}

/// What an event shows that an indicator could be about.
fn observables(event: &Event) -> Vec<(Observable, String)> {
    let mut seen = Vec::new();
    if let Some(source) = event.source() {
        seen.push((Observable::Address, source.to_canonical().to_string()));
    }
    if let Some(origin) = event.detail("origin").and_then(serde_json::Value::as_str) {
        seen.push((Observable::Url, origin.to_ascii_lowercase()));
        let host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
        let host = host
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
            .unwrap_or_else(|| host.split(':').next().unwrap_or(host));
        match host.parse::<IpAddr>() {
            Ok(address) => seen.push((Observable::Address, address.to_canonical().to_string())),
            Err(_) => seen.push((Observable::Domain, host.to_ascii_lowercase())),
        }
    }
    if let Some(digest) = event.detail("digest").and_then(serde_json::Value::as_str) {
        seen.push((Observable::Sha256, digest.trim_start_matches("sha256:").to_ascii_lowercase()));
    }
    if let Some(actor) = event.actor() {
        seen.push((Observable::Account, actor.to_ascii_lowercase()));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn indicator(pattern: &str) -> Indicator {
        Indicator {
            id: "indicator--1".into(),
            name: "n".into(),
            types: Vec::new(),
            pattern: pattern.into(),
            confidence: Some(80),
            valid_from: Timestamp::UNIX_EPOCH,
            valid_until: None,
            revoked: false,
            tlp: None,
            marking_refs: Vec::new(),
            source: None,
            feed: "f".into(),
            created: None,
            modified: Timestamp::UNIX_EPOCH,
            loaded_at: Timestamp::UNIX_EPOCH,
            used: Use::Matched,
            sightings_count: 0,
            seen_ms: None,
            past_asked: true,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(10_000).unwrap()
    }

    fn event(body: serde_json::Value) -> Event {
        Event { log: "acme".into(), seq: 0, time_ms: 10_000_000, body }
    }

    fn matches(pattern: &str, body: serde_json::Value) -> bool {
        let all = [indicator(pattern)];
        !Matcher::new(all.iter(), now()).matches(&event(body)).is_empty()
    }

    #[test]
    fn what_the_log_shows_is_matched_by_what_it_is() {
        let from = |ip: &str| json!({"src_endpoint": {"ip": ip}});
        assert!(matches("[ipv4-addr:value = '203.0.113.9']", from("203.0.113.9")));
        assert!(matches("[ipv4-addr:value ISSUBSET '203.0.113.0/24']", from("::ffff:203.0.113.77")));
        assert!(!matches("[ipv4-addr:value = '203.0.113.9']", from("203.0.113.10")));
        let to = |origin: &str| json!({"unmapped": {"details": {"origin": origin}}});
        assert!(matches("[domain-name:value = 'Evil.Example']", to("https://evil.example:8443")));
        assert!(matches("[url:value = 'https://evil.example']", to("https://evil.example")));
        assert!(matches("[url:value = 'https://Evil.Example/']", to("https://evil.example")));
        assert!(!matches("[domain-name:value = 'evil.example']", to("https://notevil.example")));
        let hash = "ab".repeat(32);
        let pushed = json!({"unmapped": {"details": {"digest": format!("sha256:{hash}")}}});
        assert!(matches(&format!("[file:hashes.'SHA-256' = '{}']", hash.to_uppercase()), pushed));
    }

    #[test]
    fn and_needs_both_within_one_event() {
        let pattern = "[ipv4-addr:value = '203.0.113.9' AND domain-name:value = 'evil.example']";
        assert!(matches(
            pattern,
            json!({"src_endpoint": {"ip": "203.0.113.9"}, "unmapped": {"details": {"origin": "https://evil.example"}}})
        ));
        assert!(!matches(pattern, json!({"src_endpoint": {"ip": "203.0.113.9"}})));
    }

    #[test]
    fn what_is_revoked_over_doubtful_or_private_is_kept_and_not_matched() {
        let good = "[ipv4-addr:value = '203.0.113.9']";
        for (wrong, says) in [
            (Indicator { revoked: true, ..indicator(good) }, "took it back"),
            (Indicator { valid_until: Some(now()), ..indicator(good) }, "over"),
            (Indicator { confidence: Some(5), ..indicator(good) }, "confidence"),
            (indicator("[ipv4-addr:value = '10.0.0.1']"), "private"),
            (indicator("[ipv6-addr:value = 'fd00::1']"), "private"),
            (indicator("[ipv4-addr:value ISSUBSET '192.160.0.0/12']"), "private"),
            (indicator("[ipv4-addr:value ISSUBSET '172.0.0.0/8']"), "private"),
            (indicator("[ipv6-addr:value ISSUBSET 'f000::/16' OR ipv6-addr:value ISSUBSET 'fe80::/16']"), "private"),
            (indicator("[ipv6-addr:value = '::ffff:10.0.0.1']"), "private"),
            (indicator("[ipv6-addr:value ISSUBSET '::ffff:c0a0:0/108']"), "private"),
            (indicator("[ipv4-addr:value ISSUBSET '0.0.0.0/0']"), "wider"),
            (indicator("[domain-name:value = 'db.internal']"), "private"),
        ] {
            let Use::NotUsed(why) = wrong.judge(now()) else { panic!("{}", wrong.pattern) };
            assert!(why.contains(says), "{why}");
            assert!(Matcher::new([wrong].iter(), now()).is_empty());
        }
        assert!(matches!(indicator("[process:name = 'x']").judge(now()), Use::UnmatchedPattern(_)));
    }

    #[test]
    fn an_event_from_before_an_indicator_held_is_not_one() {
        let later = Indicator {
            valid_from: Timestamp::from_second(20_000).unwrap(),
            ..indicator("[ipv4-addr:value = '203.0.113.9']")
        };
        let matcher = Matcher::new([later].iter(), now());
        assert!(matcher.matches(&event(json!({"src_endpoint": {"ip": "203.0.113.9"}}))).is_empty());
    }
}
