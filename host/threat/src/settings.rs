//! How an owner wants detection to act: which rules may answer by themselves, whether addresses may be blocked, names laid
//! out as bait, working hours, and what is done about personal data that plugins send out or log.
//!
//! Pure. Nothing acts by itself, and no address is blocked, until its owner says so.

use ringfence_core::{LossRules, ResourceName};
use serde::{Deserialize, Serialize};

use crate::ThreatError;
use crate::risk::WorkingHours;

/// LIMIT: rules named in one setting, and canaries.
const NAMES_COUNT_MAX: usize = 64;
/// Stands for every rule.
pub const EVERY_RULE: &str = "*";

/// Whether requests without a session may be refused by their address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceBlocks {
    /// They may not: an address may be many.
    #[default]
    Refused,
    /// They may, within the limits.
    Allowed,
}

/// One owner's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Rules whose suggested response is made by itself; `*` for every rule.
    pub automatic: Vec<String>,
    /// Whether addresses may be blocked.
    pub block_source: SourceBlocks,
    /// Names of secrets, keys, files and objects that are bait: whatever plugin asks for one is told of.
    pub canaries: Vec<ResourceName>,
    /// When the tenant works.
    pub working_hours: Option<WorkingHours>,
    /// What is done about personal data on its way out of the tenant. Left out where it is the usual.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub data_loss: LossRules,
}

impl Settings {
    /// Nothing acts by itself.
    pub fn unset() -> Self {
        let (automatic, canaries, data_loss) = Default::default();
        Self { automatic, block_source: SourceBlocks::Refused, canaries, working_hours: None, data_loss }
    }

    /// Whether they can be followed.
    pub fn check(&self) -> Result<(), ThreatError> {
        let bad = |what: &str| Err(ThreatError::BadSettings { what: what.to_owned() });
        if self.automatic.len() > NAMES_COUNT_MAX || self.automatic.iter().any(|name| name.len() > 64) {
            return bad("`automatic` names over 64 rules, or a rule that cannot be");
        }
        if self.canaries.len() > NAMES_COUNT_MAX {
            return bad("`canaries` holds over 64 names");
        }
        if let Some(why) = self.working_hours.as_ref().and_then(|hours| hours.check().err()) {
            return bad(why);
        }
        self.data_loss.check().map_err(|what| ThreatError::BadSettings { what })
    }

    /// What would be seen or done less under the next ones than under these, in words; empty where it is as much or more.
    pub fn weakened(&self, next: &Self) -> Vec<String> {
        let acted = self.automatic.iter().filter(|rule| !next.lets_act(rule));
        let mut weakened: Vec<String> = acted.map(|rule| format!("`{rule}` acts no longer by itself")).collect();
        if self.block_source == SourceBlocks::Allowed && next.block_source == SourceBlocks::Refused {
            weakened.push("no address is blocked any more".to_owned());
        }
        let gone = self.canaries.iter().filter(|name| !next.canaries.contains(name));
        weakened.extend(gone.map(|name| format!("`{name}` is no bait any more")));
        if self.working_hours.is_some() && self.working_hours != next.working_hours {
            weakened.push("other working hours".to_owned());
        }
        weakened.extend(self.data_loss.weakened(&next.data_loss));
        weakened
    }

    /// Whether a rule may act by itself.
    pub fn lets_act(&self, rule: &str) -> bool {
        self.automatic.iter().any(|name| name == EVERY_RULE || name == rule)
    }
}

fn is_usual(rules: &LossRules) -> bool {
    *rules == LossRules::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusing() -> LossRules {
        serde_json::from_str(r#"{"detectors": {"card": "refuse"}}"#).unwrap()
    }

    #[test]
    fn settings_of_before_are_read_and_those_of_now_as_they_were_written() {
        let before = r#"{"automatic": [], "block_source": "refused", "canaries": [], "working_hours": null}"#;
        assert_eq!(serde_json::from_str::<Settings>(before).unwrap(), Settings::unset());
        assert_eq!(serde_json::to_value(Settings::unset()).unwrap().get("data_loss"), None);
        let set = Settings { data_loss: refusing(), ..Settings::unset() };
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), set);
    }

    #[test]
    fn nothing_acts_until_its_owner_says_so() {
        assert!(!Settings::unset().lets_act("brute-force"));
        let some = Settings { automatic: vec!["canary".into()], ..Settings::unset() };
        assert!(some.lets_act("canary") && !some.lets_act("brute-force"));
        assert!(Settings { automatic: vec!["*".into()], ..Settings::unset() }.lets_act("brute-force"));
    }

    #[test]
    fn what_is_seen_or_done_less_is_named_and_what_is_done_more_is_not() {
        let set = Settings {
            automatic: vec!["canary".into(), "brute-force".into()],
            block_source: SourceBlocks::Allowed,
            canaries: vec!["id-rsa".parse().unwrap()],
            working_hours: Some(WorkingHours { time_zone: "UTC".into(), from_hour: 9, to_hour: 17, days: vec![1] }),
            data_loss: refusing(),
        };
        assert_eq!(set.weakened(&Settings::unset()).len(), 6);
        for weaker in [
            Settings { automatic: vec!["canary".into()], ..set.clone() },
            Settings { block_source: SourceBlocks::Refused, ..set.clone() },
            Settings { canaries: Vec::new(), ..set.clone() },
            Settings { working_hours: None, ..set.clone() },
            Settings { data_loss: LossRules::default(), ..set.clone() },
        ] {
            assert_eq!(set.weakened(&weaker).len(), 1, "{weaker:?}");
        }
        assert!(set.weakened(&Settings { automatic: vec!["*".into()], ..set.clone() }).is_empty());
        assert!(Settings::unset().weakened(&set).is_empty());
        assert_eq!(Settings { automatic: vec!["*".into()], ..set.clone() }.weakened(&set).len(), 1);
    }

    #[test]
    fn settings_that_cannot_be_followed_are_refused() {
        assert!(Settings::unset().check().is_ok());
        for bad in [
            Settings { automatic: vec!["r".into(); 65], ..Settings::unset() },
            Settings {
                working_hours: Some(WorkingHours {
                    time_zone: "Nowhere".into(),
                    from_hour: 9,
                    to_hour: 17,
                    days: vec![1],
                }),
                ..Settings::unset()
            },
            Settings {
                data_loss: serde_json::from_str(r#"{"exempt": {"card": ["*"]}}"#).unwrap(),
                ..Settings::unset()
            },
        ] {
            assert!(bad.check().is_err());
        }
    }
}
