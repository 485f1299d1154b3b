//! Threat intelligence: STIX 2.1 bundles, what of them can be matched here, and what that matched.
//!
//! Must never match what is revoked, over, or less believed at its age than its feed's floor; never let a private address, a
//! network that has one, or a name of private use become an indicator; and never show TLP:RED or TLP:AMBER+STRICT outside the
//! owner that loaded it. What cannot be matched is kept and told.

pub mod pattern;
pub mod shape;
pub mod stix;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::event::Event;
use pattern::{Comparison, Observable, Pattern, Seen};
pub use trust::{CONFIDENCE_ASSUMED, CONFIDENCE_MIN, HALF_LIFE_DAYS_MAX, Trust};

/// LIMIT: indicators of one owner.
pub const INDICATORS_COUNT_MAX: usize = 50_000;
/// LIMIT: bytes of text of the indicators of one owner, all together.
pub const TEXT_BYTES_MAX: usize = 16 << 20;
/// LIMIT: comparisons of the indicators of one owner, all together.
pub const COMPARISONS_COUNT_MAX: usize = 100_000;
/// LIMIT: indicators of one owner about one value, so that no event is a question to all of them.
pub const VALUE_COUNT_MAX: usize = 256;
/// LIMIT: indicators that one event is taken to match; it is told of no further ones.
pub const MATCHES_COUNT_MAX: usize = 32;

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
    /// 0 to 100; none where its source states none, for which [`CONFIDENCE_ASSUMED`] is taken.
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
    /// How far that is believed.
    #[serde(default)]
    pub trust: Trust,
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
    /// Of the logs that held it, by what tells them from those of earlier tenants of their names: which entries are counted, from
    /// a place up to before another. Kept with the count, so that a log which is asked again counts nothing twice.
    #[serde(default)]
    pub counted: BTreeMap<String, (u64, u64)>,
}

/// Before this was noted, a bundle was taken in after its owner's log was asked.
fn was_asked() -> bool {
    true
}

/// Indicators ready to be asked.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: HashMap<(Observable, String), Vec<usize>>,
    networks: HashMap<IpNet, Vec<usize>>,
    /// The lengths that prefixes of these networks have, so that an address is asked once for each.
    lengths: BTreeSet<u8>,
    patterns: Vec<(String, Pattern, Timestamp, Option<Timestamp>)>,
    comparisons_count: usize,
    left_out_count: usize,
}

impl Indicator {
    /// What people call it: its name, or its id when it has none.
    pub fn called(&self) -> String {
        if self.name.is_empty() { self.id.clone() } else { self.name.clone() }
    }

    /// What becomes of it at a moment.
    pub fn judge(&self, now: Timestamp) -> Use {
        self.to_match(now).err().unwrap_or(Use::Matched)
    }

    /// Its pattern where it is to be matched at a moment, and otherwise what becomes of it.
    fn to_match(&self, now: Timestamp) -> Result<Pattern, Use> {
        if let Some(why) = self.not_now(now) {
            return Err(Use::NotUsed(why));
        }
        let pattern = Pattern::parse(&self.pattern).map_err(Use::UnmatchedPattern)?;
        let why = pattern.comparisons().find_map(unfit);
        why.map_or(Ok(pattern), |why| Err(Use::NotUsed(why)))
    }

    /// Why it is not to be matched at a moment, whatever its pattern is.
    pub fn not_now(&self, now: Timestamp) -> Option<String> {
        if self.revoked {
            return Some("its source took it back".to_owned());
        }
        if self.valid_until.is_some_and(|until| until <= now) {
            return Some("it is over".to_owned());
        }
        let (stated, left, min) = (self.stated(), self.effective_confidence(now), self.trust.confidence_min);
        let assumed = if self.confidence.is_none() { ", which is assumed since its source states none," } else { "" };
        let aged = if left < stated { format!(" is {left} at its age,") } else { " is".to_owned() };
        (left < min).then(|| format!("its confidence of {stated}{assumed}{aged} under {min}"))
    }

    /// Its confidence as its source stated it, or as it is assumed.
    pub fn stated(&self) -> u8 {
        self.confidence.unwrap_or(CONFIDENCE_ASSUMED)
    }

    /// What is left of its confidence at a moment.
    pub fn effective_confidence(&self, now: Timestamp) -> u8 {
        self.trust.effective(self.stated(), now.duration_since(self.young_at()))
    }

    /// From when on its confidence is below its feed's floor; none when it never is.
    pub fn fades_at(&self) -> Option<Timestamp> {
        let seconds = self.trust.lasts(self.stated())?;
        self.young_at().checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// From when its age counts. What its source dates ahead of its coming is as old as that: else it would stay young.
    fn young_at(&self) -> Timestamp {
        self.modified.min(self.loaded_at).max(self.valid_from)
    }

    /// Counts sightings between two times, milliseconds since 1970 UTC.
    pub(crate) fn sighted(&mut self, count: u64, (first_ms, last_ms): (i64, i64)) {
        self.sightings_count = self.sightings_count.saturating_add(count);
        let (first, last) = self.seen_ms.unwrap_or((first_ms, last_ms));
        self.seen_ms = Some((first.min(first_ms), last.max(last_ms)));
    }

    /// Takes over what was counted of the form before, about which the logs were asked the same.
    pub(crate) fn goes_on(&mut self, before: &Self) {
        (self.sightings_count, self.seen_ms) = (before.sightings_count, before.seen_ms);
        self.past_asked = before.past_asked;
        self.counted.clone_from(&before.counted);
    }

    /// Lets go of what was counted: the logs are asked about it anew, and count it all.
    pub(crate) fn begins_anew(&mut self) {
        (self.sightings_count, self.seen_ms, self.past_asked) = (0, None, false);
        self.counted.clear();
    }

    /// How many bytes of text its source gave it.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.name, &self.pattern, &self.feed].into_iter();
        texts.chain(&self.types).chain(&self.marking_refs).chain(&self.source).map(String::len).sum()
    }
}

/// Addresses of private use, of one's own machine and of one's own link: no place that intelligence could mean.
static PRIVATE: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let texts = [
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
    texts.iter().filter_map(|text| text.parse().ok()).collect()
});

/// Whether any address of a network is of private use, also one that is written as an IPv6 address.
fn touches_private(network: &IpNet) -> bool {
    let mut network = *network;
    if let IpNet::V6(v6) = network
        && let (Some(v4), Some(length)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(mapped) = IpNet::new(v4.into(), length)
    {
        network = mapped;
    }
    PRIVATE.iter().any(|private| private.contains(&network) || network.contains(private))
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
    /// Makes indicators ready; those that are not to be matched are passed over, and those beyond a limit counted.
    pub fn new<'a>(indicators: impl Iterator<Item = &'a Indicator>, now: Timestamp) -> Self {
        let mut matcher = Self::default();
        for indicator in indicators {
            let Ok(pattern) = indicator.to_match(now) else { continue };
            if matcher.has_room(&pattern) {
                matcher.put(indicator, pattern);
            } else {
                matcher.left_out_count += 1;
            }
        }
        matcher
    }

    fn has_room(&self, pattern: &Pattern) -> bool {
        let known = |one: &Comparison| match one.network() {
            Some(network) => self.networks.get(&network.trunc()).map_or(0, Vec::len),
            None => self.exact.get(&(one.observable, one.value.clone())).map_or(0, Vec::len),
        };
        self.comparisons_count + pattern.comparisons().count() <= COMPARISONS_COUNT_MAX
            && pattern.comparisons().all(|one| known(one) < VALUE_COUNT_MAX)
    }

    fn put(&mut self, indicator: &Indicator, pattern: Pattern) {
        let at = self.patterns.len();
        for one in pattern.comparisons() {
            self.comparisons_count += 1;
            match one.network() {
                Some(network) => {
                    self.lengths.insert(network.prefix_len());
                    self.networks.entry(network.trunc()).or_default().push(at);
                }
                None => self.exact.entry((one.observable, one.value.clone())).or_default().push(at),
            }
        }
        let until = [indicator.valid_until, indicator.fades_at()].into_iter().flatten().min();
        self.patterns.push((indicator.id.clone(), pattern, indicator.valid_from, until));
    }

    /// The same, asked of what was before they were said to hold too: that is what one wants to know of the past.
    #[must_use]
    pub fn looking_back(mut self) -> Self {
        self.patterns.iter_mut().for_each(|(_, _, from, _)| *from = Timestamp::MIN);
        self
    }

    /// How many are not asked, for there were too many.
    pub fn left_out_count(&self) -> usize {
        self.left_out_count
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
            candidates.extend(self.exact.get(&one.key).into_iter().flatten());
            if let Some(address) = one.address {
                let networks = self.lengths.iter().filter_map(|length| IpNet::new(address, *length).ok());
                candidates.extend(networks.filter_map(|network| self.networks.get(&network.trunc())).flatten());
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
        candidates.iter().filter_map(holds).take(MATCHES_COUNT_MAX).collect()
    }
}

/// What an event shows that an indicator could be about.
fn observables(event: &Event) -> Vec<Seen> {
    let mut seen = Vec::new();
    if let Some(source) = event.source() {
        seen.push(Seen::new(Observable::Address, source.to_canonical().to_string()));
    }
    if let Some(origin) = event.detail("origin").and_then(serde_json::Value::as_str) {
        seen.push(Seen::new(Observable::Url, origin.to_ascii_lowercase()));
        let host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
        let host = host
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
            .unwrap_or_else(|| host.split(':').next().unwrap_or(host));
        match host.parse::<IpAddr>() {
            Ok(address) => seen.push(Seen::new(Observable::Address, address.to_canonical().to_string())),
            Err(_) => seen.push(Seen::new(Observable::Domain, host.to_ascii_lowercase())),
        }
    }
    if let Some(digest) = event.detail("digest").and_then(serde_json::Value::as_str) {
        seen.push(Seen::new(Observable::Sha256, digest.trim_start_matches("sha256:").to_ascii_lowercase()));
    }
    if let Some(actor) = event.actor() {
        seen.push(Seen::new(Observable::Account, actor.to_ascii_lowercase()));
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
            trust: Trust::default(),
            created: None,
            modified: Timestamp::UNIX_EPOCH,
            loaded_at: Timestamp::UNIX_EPOCH,
            used: Use::Matched,
            sightings_count: 0,
            seen_ms: None,
            past_asked: true,
            counted: BTreeMap::new(),
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
    fn confidence_goes_with_age_and_below_the_floor_nothing_matches_from_that_second_on() {
        const DAY: i64 = 86_400;
        let day = |days: i64| Timestamp::from_second(days * DAY).unwrap();
        let good = "[ipv4-addr:value = '203.0.113.9']";
        let fading = Indicator {
            trust: Trust::of(Some(40), Some(10)).unwrap(),
            valid_from: day(100),
            loaded_at: day(101),
            modified: day(90),
            ..indicator(good)
        };
        // 80 is below 40 when more than ten days went by since it began to hold.
        let end = fading.fades_at().unwrap();
        assert_eq!((fading.effective_confidence(day(110)), fading.judge(day(110))), (40, Use::Matched));
        assert!(end > day(110) && end < day(111), "{end}");
        let Use::NotUsed(why) = fading.judge(end) else { panic!("it is matched") };
        assert_eq!(why, "its confidence of 80 is 39 at its age, under 40");
        let matcher = Matcher::new([&fading].into_iter(), day(101));
        let at = |time: Timestamp| Event {
            time_ms: time.as_millisecond(),
            ..event(json!({"src_endpoint": {"ip": "203.0.113.9"}}))
        };
        assert_eq!(matcher.matches(&at(day(110))).len(), 1);
        assert!(matcher.matches(&at(end)).is_empty() && matcher.matches(&at(day(99))).is_empty());
        assert_eq!(matcher.looking_back().matches(&at(day(99))).len(), 1);
        assert!(Matcher::new([&fading].into_iter(), end).is_empty());
        // Who dates ahead stays no younger for it.
        let ahead = Indicator { modified: day(9_000), valid_from: day(90), ..fading.clone() };
        assert_eq!(ahead.effective_confidence(day(111)), 40);
        let unstated = Indicator { confidence: None, trust: Trust::of(Some(60), None).unwrap(), ..fading.clone() };
        let Use::NotUsed(why) = unstated.judge(day(101)) else { panic!("it is matched") };
        assert_eq!(why, "its confidence of 50, which is assumed since its source states none, is under 60");
        let as_before = Indicator { trust: Trust::default(), ..unstated };
        assert_eq!((as_before.judge(day(9_000)), as_before.fades_at()), (Use::Matched, None));
    }

    #[test]
    fn an_address_is_asked_of_every_network_that_has_it_and_of_no_other() {
        let all: Vec<Indicator> = [
            "[ipv4-addr:value ISSUBSET '203.0.113.77/24']",
            "[ipv4-addr:value ISSUBSET '203.0.0.0/16']",
            "[ipv4-addr:value ISSUBSET '203.0.113.9/32']",
            "[ipv4-addr:value ISSUBSET '203.0.112.0/24']",
            "[ipv6-addr:value ISSUBSET '2001:db8::/32']",
            "[ipv6-addr:value ISSUBSET '2001:db8:7::/48']",
        ]
        .iter()
        .zip(0..)
        .map(|(pattern, number)| Indicator { id: format!("indicator--{number}"), ..indicator(pattern) })
        .collect();
        let matcher = Matcher::new(all.iter(), now());
        let asked = |ip: &str| {
            let ids = matcher.matches(&event(json!({"src_endpoint": {"ip": ip}})));
            ids.iter().map(|id| id.replace("indicator--", "")).collect::<String>()
        };
        for (ip, by) in [
            ("203.0.113.9", "012"),
            ("203.0.113.10", "01"),
            ("203.0.7.1", "1"),
            ("203.1.0.1", ""),
            ("2001:db8:7::1", "45"),
        ] {
            assert_eq!(asked(ip), by, "{ip}");
        }
    }

    #[test]
    fn so_many_comparisons_in_all_and_of_one_value_and_what_is_beyond_is_counted() {
        let same: Vec<Indicator> =
            (0..VALUE_COUNT_MAX + 3).map(|_| indicator("[domain-name:value = 'evil.example']")).collect();
        let matcher = Matcher::new(same.iter(), now());
        assert_eq!(matcher.left_out_count(), 3);
        let seen = event(json!({"unmapped": {"details": {"origin": "https://evil.example"}}}));
        assert_eq!(matcher.matches(&seen).len(), MATCHES_COUNT_MAX, "one event is told of so many");
        let many = |number: usize| {
            let names: Vec<String> = (0..64).map(|at| format!("'h{at}.d{number}.example'")).collect();
            indicator(&format!("[domain-name:value IN ({})]", names.join(",")))
        };
        let many: Vec<Indicator> = (0..COMPARISONS_COUNT_MAX / 64 + 2).map(many).collect();
        assert_eq!(Matcher::new(many.iter(), now()).left_out_count(), 2);
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
