//! Findings: a rule that held, or a score that was high, once for as long as it goes on.
//!
//! Pure. Must never make a second finding of what goes on (same log, rule, text of it and group within an hour), nor let a log
//! make findings without end: past the rate they are counted together in one that says so.

use std::collections::{HashMap, HashSet};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::Event;
use crate::risk::Risk;
use crate::rules::Edition;
use crate::sigma::Level;

/// How long after its last event a finding goes on, in milliseconds.
pub const GOES_ON_MS: i64 = 3_600_000;
/// LIMIT: findings that go on at once, of all logs.
const OPEN_COUNT_MAX: usize = 16_384;
/// LIMIT: new findings of one log in a minute, beside the first of each rule.
pub const NEW_PER_MINUTE_MAX: u32 = 60;
/// LIMIT: events that a finding points to.
const EVIDENCE_COUNT_MAX: usize = 16;
/// LIMIT: findings of one log that are kept; the oldest go first.
pub const KEPT_COUNT_MAX: usize = 1_000;

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `f_` and 26 letters.
    pub id: String,
    /// Whose log it is about.
    pub log: String,
    /// Who owns the rule: `ringfence`, `operator`, or a tenant.
    pub rule_owner: String,
    /// The rule, by the name of its text.
    pub rule: String,
    /// Which text of that name it was; none where no text held, and for findings of before texts were counted.
    #[serde(default)]
    pub edition: Option<Edition>,
    /// What it says.
    pub title: String,
    /// How much it matters.
    pub level: Level,
    /// ATT&CK ids.
    pub attack: Vec<String>,
    /// Of which version.
    pub attack_version: String,
    /// What the events have in common.
    pub group: Vec<(String, String)>,
    /// Who acted in the last of them.
    pub actor: Option<String>,
    /// On what.
    pub resource: Option<String>,
    /// From where.
    pub source: Option<String>,
    /// Places in the log of the latest of them.
    pub evidence: Vec<u64>,
    /// How often it held.
    pub count: u64,
    /// Time of the first event that it held at, milliseconds since 1970 UTC.
    pub first_ms: i64,
    /// Time of the last.
    pub last_ms: i64,
    /// When it was found, by the host's clock, milliseconds since 1970 UTC.
    pub found_ms: i64,
    /// The score of the first event.
    pub risk: Risk,
    /// Whether it comes of a drill.
    pub drill: Option<String>,
    /// The latest response that was made for it by itself.
    pub response: Option<String>,
    /// When it was on the record, by the host's steady clock since its start, microseconds.
    #[serde(skip)]
    pub found_us: u64,
    /// When an answer was last tried, by the host's clock, milliseconds since 1970 UTC; 0 when none was.
    #[serde(skip)]
    pub tried_ms: i64,
}

/// What a rule that held says, for [`Open::take`].
#[derive(Debug, Clone)]
pub struct Held {
    /// Who owns the rule.
    pub rule_owner: String,
    /// The rule, by the name of its text.
    pub rule: String,
    /// Its own name in that text, which may hold several.
    pub name: String,
    /// Which text of it.
    pub edition: Option<Edition>,
    /// What it says.
    pub title: String,
    /// How much it matters.
    pub level: Level,
    /// ATT&CK ids.
    pub attack: Vec<String>,
    /// What the events have in common.
    pub group: Vec<(String, String)>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// A new finding.
    New(Box<Finding>),
    /// One that goes on, as it is now.
    GoesOn(Box<Finding>),
    /// The log makes too many; this one is only counted.
    Counted,
}

/// Log, owner, text, rule of it, edition, group.
type Key = (String, String, String, String, Option<Edition>, Vec<(String, String)>);

/// Findings that go on.
#[derive(Debug, Default)]
pub struct Open {
    open: HashMap<Key, (Finding, bool)>,
    /// Of each log, and each drill.
    made: HashMap<String, Made>,
    counted_only: u64,
}

/// What was made of new findings in a minute.
#[derive(Debug, Default)]
struct Made {
    minute: i64,
    count: u32,
    /// Which rules made some: owner, text, own name.
    rules: HashSet<(String, String, String)>,
}

// === impl Open ===

impl Open {
    /// Takes what held at an event.
    pub fn take(&mut self, event: &Event, held: Held, risk: &Risk, now_ms: i64) -> Taken {
        let (owner, rule, name) = (held.rule_owner.clone(), held.rule.clone(), held.name.clone());
        let which = (owner.clone(), rule.clone(), name.clone());
        let key = (event.log.clone(), owner, rule, name, held.edition, held.group.clone());
        if let Some((finding, changed)) = self.open.get_mut(&key)
            && event.time_ms.saturating_sub(finding.last_ms) < GOES_ON_MS
        {
            finding.goes_on(event);
            *changed = true;
            return Taken::GoesOn(Box::new(finding.clone()));
        }
        // A drill is bounded by itself, and must not use up what real findings need.
        let whose = event.detail("drill").and_then(serde_json::Value::as_str).unwrap_or(&event.log).to_owned();
        if !self.may_make(&whose, which, now_ms) {
            self.counted_only = self.counted_only.saturating_add(1);
            return Taken::Counted;
        }
        if self.open.len() >= OPEN_COUNT_MAX {
            let border = now_ms.saturating_sub(GOES_ON_MS);
            self.open.retain(|_, (finding, changed)| *changed || finding.last_ms > border);
            if self.open.len() >= OPEN_COUNT_MAX {
                let oldest =
                    self.open.iter().min_by_key(|(_, (finding, _))| finding.last_ms).map(|(key, _)| key.clone());
                oldest.and_then(|key| self.open.remove(&key));
            }
        }
        let finding = Finding::new(event, held, risk.clone(), now_ms);
        self.open.insert(key, (finding.clone(), false));
        Taken::New(Box::new(finding))
    }

    /// Findings that have gone on since the last call.
    pub fn take_changed(&mut self) -> Vec<Finding> {
        let changed = self.open.values_mut().filter(|(_, changed)| *changed);
        changed
            .map(|(finding, changed)| {
                *changed = false;
                finding.clone()
            })
            .collect()
    }

    /// Notes that an answer to a finding was tried, and which response is its latest now.
    pub fn answered(&mut self, id: &str, response: Option<String>, now_ms: i64) {
        if let Some((finding, changed)) = self.open.values_mut().find(|(finding, _)| finding.id == id) {
            (finding.response, finding.tried_ms) = (response, now_ms);
            *changed = true;
        }
    }

    /// Findings that were only counted, since the start.
    pub fn counted_only(&self) -> u64 {
        self.counted_only
    }

    /// The first of each rule is always made: who floods a log with what one rule finds does not hide what others do.
    fn may_make(&mut self, log: &str, rule: (String, String, String), now_ms: i64) -> bool {
        let minute = now_ms.div_euclid(60_000);
        if self.made.len() > OPEN_COUNT_MAX {
            self.made.retain(|_, made| made.minute == minute);
        }
        let made = self.made.entry(log.to_owned()).or_default();
        if made.minute != minute {
            *made = Made { minute, ..Made::default() };
        }
        made.count = made.count.saturating_add(1);
        let is_first = made.rules.insert(rule);
        is_first || made.count <= NEW_PER_MINUTE_MAX
    }
}

// === impl Finding ===

impl Finding {
    fn new(event: &Event, held: Held, risk: Risk, now_ms: i64) -> Self {
        Self {
            id: id_of(event, &held),
            log: event.log.clone(),
            rule_owner: held.rule_owner,
            rule: held.rule,
            edition: held.edition,
            title: held.title,
            level: held.level,
            attack: held.attack,
            attack_version: crate::attack::VERSION.to_owned(),
            group: held.group,
            actor: event.actor().map(ToOwned::to_owned),
            resource: event.resource().map(ToOwned::to_owned),
            source: event.source().map(|source| source.to_string()),
            evidence: vec![event.seq],
            count: 1,
            first_ms: event.time_ms,
            last_ms: event.time_ms,
            found_ms: now_ms,
            risk,
            drill: event.detail("drill").and_then(serde_json::Value::as_str).map(ToOwned::to_owned),
            response: None,
            found_us: 0,
            tried_ms: 0,
        }
    }

    fn goes_on(&mut self, event: &Event) {
        self.count = self.count.saturating_add(1);
        self.last_ms = self.last_ms.max(event.time_ms);
        self.evidence.push(event.seq);
        if self.evidence.len() > EVIDENCE_COUNT_MAX {
            self.evidence.remove(0);
        }
    }
}

/// The same for the same first event, so that what is read twice after a crash is found once.
fn id_of(event: &Event, held: &Held) -> String {
    let mut hasher = Sha256::new();
    let group = held.group.iter().flat_map(|(field, value)| [field.as_str(), value.as_str()]);
    for part in [event.log.as_str(), &held.rule_owner, &held.rule, &held.name].into_iter().chain(group) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(event.seq.to_be_bytes());
    let hash = hasher.finalize();
    format!("f_{}", BASE32_NOPAD.encode(hash.get(..16).unwrap_or_default()).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(seq: u64, time_ms: i64) -> Event {
        Event { log: "acme".into(), seq, time_ms, body: json!({}) }
    }

    fn held(who: &str) -> Held {
        let group = vec![("actor".to_owned(), who.to_owned())];
        Held {
            rule_owner: "ringfence".into(),
            rule: "r".into(),
            name: "r".into(),
            edition: Some(Edition::of(1, "text")),
            title: "T".into(),
            level: Level::High,
            attack: Vec::new(),
            group,
        }
    }

    fn risk() -> Risk {
        Risk { points: 1, contributions: Vec::new() }
    }

    #[test]
    fn what_goes_on_is_one_finding_and_what_comes_again_later_is_another() {
        let mut open = Open::default();
        let Taken::New(first) = open.take(&event(1, 0), held("a"), &risk(), 0) else { panic!("new") };
        for seq in 2..40 {
            let Taken::GoesOn(again) = open.take(&event(seq, 1_000), held("a"), &risk(), 1_000) else { panic!("old") };
            assert_eq!((&again.id, again.count), (&first.id, seq));
        }
        let changed = open.take_changed();
        assert_eq!((changed.len(), changed[0].count, changed[0].evidence.len()), (1, 39, 16));
        assert!(open.take_changed().is_empty());
        assert!(matches!(open.take(&event(50, GOES_ON_MS + 2_000), held("a"), &risk(), 0), Taken::New(_)));
        assert!(matches!(open.take(&event(51, 1_000), held("b"), &risk(), 0), Taken::New(_)));
    }

    #[test]
    fn another_text_of_a_rule_makes_a_finding_of_its_own() {
        let mut open = Open::default();
        assert!(matches!(open.take(&event(1, 0), held("a"), &risk(), 0), Taken::New(_)));
        let other = Held { edition: Some(Edition::of(2, "another")), ..held("a") };
        let Taken::New(second) = open.take(&event(2, 0), other.clone(), &risk(), 0) else { panic!("new") };
        assert_eq!(second.edition, other.edition);
    }

    #[test]
    fn two_rules_of_one_text_hide_nothing_of_each_other() {
        let mut open = Open::default();
        let Taken::New(first) = open.take(&event(1, 0), held("a"), &risk(), 0) else { panic!("new") };
        let beside = Held { name: "beside".into(), ..held("a") };
        let Taken::New(second) = open.take(&event(1, 0), beside, &risk(), 0) else { panic!("new") };
        assert_eq!((&first.rule, first.id == second.id), (&second.rule, false));
    }

    #[test]
    fn the_same_first_event_gives_the_same_id_and_another_log_another() {
        let first = |log: &str| id_of(&Event { log: log.into(), ..event(1, 0) }, &held("a"));
        assert_eq!(first("acme"), first("acme"));
        assert_ne!(first("acme"), first("globex"));
        assert_eq!(first("acme").len(), 28);
    }

    #[test]
    fn a_log_makes_only_so_many_a_minute_and_the_others_are_counted_but_the_first_of_each_rule() {
        let mut open = Open::default();
        let made =
            (0..200).filter(|at| matches!(open.take(&event(*at, 0), held(&at.to_string()), &risk(), 0), Taken::New(_)));
        assert_eq!(made.count(), 60);
        assert_eq!(open.counted_only(), 140);
        let other = Held { name: "other".into(), ..held("0") };
        assert!(matches!(open.take(&event(300, 0), other.clone(), &risk(), 0), Taken::New(_)), "another rule's first");
        let next = Held { group: vec![("actor".into(), "1".into())], ..other };
        assert!(matches!(open.take(&event(301, 0), next, &risk(), 0), Taken::Counted));
        assert!(matches!(open.take(&event(999, 0), held("later"), &risk(), 60_000), Taken::New(_)));
    }
}
