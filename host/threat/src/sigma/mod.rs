//! Rules as Sigma 2.1 writes them, in the part of it that this host can hold to.
//!
//! Single-event rules and the correlations `event_count`, `value_count`, `temporal`, `temporal_ordered`, with log source
//! `product: ringfence, service: audit`, over OCSF field paths. Must never take a rule in part: whatever is not supported
//! is an error that names its place. A text may hold several documents, so that a correlation finds its rules beside it.

pub mod condition;
pub mod correlation;
pub mod detection;
pub mod engine;

use serde::{Deserialize as _, Serialize};
use serde_norway::Value as Yaml;

use crate::attack;
use crate::response::{Kind as ResponseKind, Suggested};
use correlation::Correlation;
use detection::Detection;

/// LIMIT: longest rule text, in bytes.
pub const RULE_BYTES_MAX: usize = 32 << 10;
/// LIMIT: documents of one text.
const DOCUMENTS_COUNT_MAX: usize = 8;
/// LIMIT: longest title or description kept, in bytes.
const WORDS_BYTES_MAX: usize = 1_024;
/// What a rule may say besides what it looks for; kept for people, without effect.
const ABOUT: [&str; 13] = [
    "id",
    "name",
    "title",
    "description",
    "status",
    "author",
    "date",
    "modified",
    "references",
    "falsepositives",
    "license",
    "related",
    "fields",
];

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// For later reading.
    Informational,
    /// Worth a look one day.
    Low,
    /// Worth a look.
    Medium,
    /// Worth a prompt look.
    High,
    /// An incident, almost surely.
    Critical,
}

impl Level {
    /// All of them, from the least on.
    pub const ALL: [Self; 5] = [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical];
}

/// One document: a rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// By which others of its text, and findings, name it.
    pub name: String,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// How much its findings matter.
    pub level: Level,
    /// ATT&CK ids, of [`attack::VERSION`].
    pub attack: Vec<String>,
    /// What answers it, if its owner lets rules act.
    pub response: Option<Suggested>,
    /// What it looks for.
    pub looks_for: LooksFor,
}

/// What a rule looks for.
#[derive(Debug, Clone)]
pub enum LooksFor {
    /// One event.
    Event(Detection),
    /// Several, by other rules.
    Several(Correlation),
}

/// Reads a text of rules. The error says which document, which place in it, and what is wrong.
pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    if text.len() > RULE_BYTES_MAX {
        return Err(format!("the text is over {RULE_BYTES_MAX} bytes"));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (at, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let numbered = |error: String| format!("document {}: {error}", at + 1);
        if at >= DOCUMENTS_COUNT_MAX {
            return Err(format!("the text has over {DOCUMENTS_COUNT_MAX} documents"));
        }
        let yaml = Yaml::deserialize(document).map_err(|error| numbered(format!("it is not YAML: {error}")))?;
        let rule = Rule::parse(&yaml).map_err(numbered)?;
        if rules.iter().any(|other| other.name == rule.name) {
            return Err(numbered(format!("`name`: there are two rules `{}`", rule.name)));
        }
        rules.push(rule);
    }
    if rules.is_empty() {
        return Err("the text holds no rule".to_owned());
    }
    for rule in &rules {
        let LooksFor::Several(correlation) = &rule.looks_for else { continue };
        for wanted in &correlation.rules {
            match rules.iter().find(|other| other.name == *wanted) {
                Some(Rule { looks_for: LooksFor::Event(_), .. }) => {}
                Some(_) => {
                    return Err(format!(
                        "`{}`: `{wanted}` is a correlation, and correlations of such are not supported",
                        rule.name
                    ));
                }
                None => {
                    return Err(format!(
                        "`{}`: `correlation.rules`: there is no rule `{wanted}` in this text",
                        rule.name
                    ));
                }
            }
        }
    }
    Ok(rules)
}

// === impl Rule ===

impl Rule {
    fn parse(yaml: &Yaml) -> Result<Self, String> {
        let map = yaml.as_mapping().ok_or("it is not a mapping")?;
        for key in map.keys() {
            let key = key.as_str().unwrap_or_default();
            if !ABOUT.contains(&key)
                && !["logsource", "detection", "correlation", "level", "tags", "ringfence"].contains(&key)
            {
                return Err(format!("`{key}` is not supported"));
            }
        }
        let text = |key: &str| map.get(key).and_then(Yaml::as_str).map(str::trim);
        let title = text("title").filter(|title| !title.is_empty()).ok_or("`title` is missing")?;
        let name = text("name").or_else(|| text("id")).ok_or("`name` is missing")?;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(format!("`name`: `{}` is not 1 to 64 letters, digits, `-`, `_` and `.`", cut(name)));
        }
        let looks_for = match (map.get("detection"), map.get("correlation")) {
            (Some(detection), None) => {
                check_source(map.get("logsource"))?;
                LooksFor::Event(Detection::parse(detection, "detection")?)
            }
            (None, Some(correlation)) => LooksFor::Several(Correlation::parse(correlation)?),
            _ => return Err("a rule has either a `detection` or a `correlation`".to_owned()),
        };
        let (version, response) = own_part(map.get("ringfence"))?;
        Ok(Self {
            name: name.to_owned(),
            title: cut(title),
            description: cut(text("description").unwrap_or_default()),
            level: level(text("level"))?,
            attack: attack_ids(map.get("tags"), version.as_deref())?,
            response,
            looks_for,
        })
    }
}

fn check_source(yaml: Option<&Yaml>) -> Result<(), String> {
    let map = yaml.and_then(Yaml::as_mapping).ok_or("`logsource` is missing")?;
    for (key, value) in map {
        match (key.as_str().unwrap_or_default(), value.as_str().unwrap_or_default()) {
            ("product", "ringfence") | ("service", "audit") | ("definition", _) => {}
            (key @ ("product" | "service"), other) => {
                return Err(format!(
                    "`logsource.{key}`: `{}` is not what this host logs: `ringfence`, `audit`",
                    cut(other)
                ));
            }
            (other, _) => return Err(format!("`logsource.{}` is not supported", cut(other))),
        }
    }
    Ok(())
}

fn level(word: Option<&str>) -> Result<Level, String> {
    match word {
        Some("informational") => Ok(Level::Informational),
        Some("low") => Ok(Level::Low),
        None | Some("medium") => Ok(Level::Medium),
        Some("high") => Ok(Level::High),
        Some("critical") => Ok(Level::Critical),
        Some(other) => Err(format!("`level`: `{}` is none", cut(other))),
    }
}

/// ATT&CK ids of the tags; other name spaces of tags are for people.
fn attack_ids(yaml: Option<&Yaml>, version: Option<&str>) -> Result<Vec<String>, String> {
    let tags = match yaml {
        None => return Ok(Vec::new()),
        Some(Yaml::Sequence(tags)) if tags.len() <= 32 => tags,
        Some(_) => return Err("`tags` is not a list of at most 32".to_owned()),
    };
    let mut ids = Vec::new();
    for tag in tags {
        let tag = tag.as_str().ok_or("`tags` holds what is no text")?;
        let Some(technique) =
            tag.strip_prefix("attack.t").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        else {
            continue;
        };
        let id = format!("T{technique}");
        if version != Some(attack::VERSION) {
            return Err(format!(
                "`ringfence.attack_version` must be \"{}\" where `tags` names techniques",
                attack::VERSION
            ));
        }
        if !attack::is_known(&id) {
            return Err(format!("`tags`: `{}` is not among the known ids of ATT&CK {}", cut(&id), attack::VERSION));
        }
        ids.push(id);
    }
    Ok(ids)
}

/// What a rule says to this host alone: the version of its ATT&CK ids, and what answers it.
fn own_part(yaml: Option<&Yaml>) -> Result<(Option<String>, Option<Suggested>), String> {
    let Some(yaml) = yaml else { return Ok((None, None)) };
    let map = yaml.as_mapping().ok_or("`ringfence` is not a mapping")?;
    let (mut version, mut response) = (None, None);
    for (key, value) in map {
        match key.as_str().unwrap_or_default() {
            "attack_version" => version = value.as_str().map(ToOwned::to_owned),
            "response" => response = Some(suggested(value)?),
            other => return Err(format!("`ringfence.{}` is not supported", cut(other))),
        }
    }
    Ok((version, response))
}

fn suggested(yaml: &Yaml) -> Result<Suggested, String> {
    let map = yaml.as_mapping().ok_or("`ringfence.response` is not a mapping")?;
    let (mut kind, mut minutes, mut per_minute) = (None, 60, None);
    for (key, value) in map {
        let number = || value.as_u64().and_then(|number| u32::try_from(number).ok());
        match key.as_str().unwrap_or_default() {
            "kind" => kind = value.as_str().and_then(ResponseKind::from_word),
            "minutes" => minutes = number().unwrap_or(0),
            "per_minute" => per_minute = Some(number().unwrap_or(0)),
            other => return Err(format!("`ringfence.response.{}` is not supported", cut(other))),
        }
    }
    let kind = kind.ok_or("`ringfence.response.kind` names no response")?;
    if !(1..=crate::response::MINUTES_MAX).contains(&minutes) || per_minute == Some(0) {
        return Err("`ringfence.response` has a number out of its range".to_owned());
    }
    // A rule of a time when less was allowed goes on to detect, and responds for as long as is needed.
    Ok(Suggested { kind, minutes: minutes.max(kind.minutes_min()), per_minute })
}

fn cut(text: &str) -> String {
    ringfence_audit::envelope::cut(text, WORDS_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: &str = "title: T\nname: one\nlogsource: {product: ringfence, service: audit}\n\
        detection: {s: {status: Failure}, condition: s}\nlevel: high\ntags: [attack.t1110.003, attack.credential-access]\n\
        ringfence: {attack_version: \"19.1\", response: {kind: rate-limit, minutes: 5, per_minute: 60}}\n";

    #[test]
    fn a_rule_says_what_it_looks_for_and_how_much_it_matters() {
        let rules = parse(RULE).unwrap();
        let rule = rules.first().unwrap();
        assert_eq!((rule.level, rule.attack.as_slice()), (Level::High, &["T1110.003".to_owned()][..]));
        assert_eq!(rule.response.unwrap().kind, ResponseKind::RateLimit);
    }

    #[test]
    fn a_rule_whose_response_is_too_short_is_in_force_and_responds_for_as_long_as_is_needed() {
        let rules = parse(&RULE.replace("rate-limit", "end-sessions")).unwrap();
        let response = rules.first().unwrap().response.unwrap();
        assert_eq!(
            (response.kind, response.minutes),
            (ResponseKind::EndSessions, ResponseKind::EndSessions.minutes_min())
        );
        assert!(response.minutes > 5);
    }

    #[test]
    fn whatever_is_not_supported_is_refused_by_name() {
        for (text, says) in [
            (RULE.replace("title: T\n", ""), "`title`"),
            (RULE.replace("name: one\n", ""), "`name`"),
            (RULE.replace("level: high", "level: huge"), "`level`"),
            (RULE.replace("level: high", "level: high\nscope: x"), "`scope`"),
            (RULE.replace("product: ringfence", "product: windows"), "`logsource.product`"),
            (RULE.replace("t1110.003", "t1562"), "T1562"),
            (RULE.replace("19.1", "18.1"), "attack_version"),
            (RULE.replace("rate-limit", "explode"), "ringfence.response.kind"),
            (RULE.replace("minutes: 5", "minutes: 0"), "out of its range"),
            (RULE.replace("status: Failure", "status|expand: Failure"), "detection.s.status|expand"),
            (format!("{RULE}---\n{RULE}"), "two rules"),
            (
                format!(
                    "{RULE}---\ntitle: U\nname: two\ncorrelation: {{type: event_count, rules: x, timespan: 5m, condition: {{gte: 2}}}}"
                ),
                "no rule `x`",
            ),
            (String::new(), "document 1"),
            ("a: [".to_owned(), "not YAML"),
            ("x".repeat(RULE_BYTES_MAX + 1), "bytes"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn a_text_that_unfolds_into_gigabytes_is_refused() {
        let mut text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (next, last) in
            ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"])
        {
            text.push_str(&format!("{next}: &{next} [{}]\n", vec![format!("*{last}"); 10].join(",")));
        }
        assert!(parse(&text).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,300}") {
            let _ = parse(&text);
        }
    }
}
