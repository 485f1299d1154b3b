//! The detection part of a Sigma rule: selections of fields with modifiers, and the condition over them.
//!
//! Pure. The subset: modifiers `contains`, `startswith`, `endswith`, `cidr`, `re`, `all`; values as text with `*` and `?`,
//! numbers, truth values, null. Must never ignore what it does not know: that is an error which names its place.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use serde_norway::{Mapping, Value as Yaml};

use super::condition::Condition;
use crate::event::{Event, Path, VALUE_BYTES_MAX, as_text};

/// LIMIT: selections of one rule.
const SELECTIONS_COUNT_MAX: usize = 32;
/// LIMIT: values of one field.
const VALUES_COUNT_MAX: usize = 256;
/// LIMIT: longest value, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// LIMIT: compiled size of one regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 64 << 10;
/// LIMIT: regular expressions of one rule.
const REGEX_COUNT_MAX: usize = 16;

/// Selections and the condition over them.
#[derive(Debug, Clone)]
pub struct Detection {
    selections: Vec<Selection>,
    condition: Condition,
}

/// Groups of which one must hold; in a group every field must.
#[derive(Debug, Clone)]
struct Selection(Vec<Vec<FieldTest>>);

#[derive(Debug, Clone)]
struct FieldTest {
    path: Path,
    /// Whether every one of `tests` must hold, and not only one.
    all: bool,
    tests: Vec<Test>,
}

#[derive(Debug, Clone)]
enum Test {
    /// Text with wildcards, in lower case.
    Like(Vec<char>),
    Number(f64),
    Truth(bool),
    /// There is no such field, or it is null.
    Null,
    Network(IpNet),
    Matches(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Contains,
    StartsWith,
    EndsWith,
    Network,
    Regex,
}

// === impl Detection ===

impl Detection {
    /// Reads the `detection` of a rule; the error names the place below `place` and what is wrong there.
    pub fn parse(yaml: &Yaml, place: &str) -> Result<Self, String> {
        let map = yaml.as_mapping().ok_or_else(|| format!("`{place}` is not a mapping"))?;
        let (mut names, mut selections, mut condition) = (Vec::new(), Vec::new(), None);
        let mut regexes_count = 0;
        for (key, value) in map {
            let name = key.as_str().ok_or_else(|| format!("`{place}` has a name that is no text"))?;
            let here = format!("{place}.{name}");
            match name {
                "condition" => {
                    condition = Some(value.as_str().ok_or_else(|| format!("`{here}` is not one text"))?);
                }
                "timeframe" => return Err(format!("`{here}` is not supported: use a correlation")),
                _ => {
                    names.push(name.to_owned());
                    selections.push(Selection::parse(value, &here, &mut regexes_count)?);
                }
            }
        }
        if selections.is_empty() || selections.len() > SELECTIONS_COUNT_MAX {
            return Err(format!("`{place}` has {} selections, not 1 to {SELECTIONS_COUNT_MAX}", selections.len()));
        }
        let condition = condition.ok_or_else(|| format!("`{place}.condition` is missing"))?;
        let condition = Condition::parse(condition, &names).map_err(|error| format!("`{place}.condition`: {error}"))?;
        Ok(Self { selections, condition })
    }

    /// Whether the event is one of these.
    pub fn matches(&self, event: &Event) -> bool {
        self.condition.holds(&mut |at| self.selections.get(at).is_some_and(|selection| selection.holds(event)))
    }
}

// === impl Selection ===

impl Selection {
    fn parse(yaml: &Yaml, place: &str, regexes_count: &mut usize) -> Result<Self, String> {
        let groups = match yaml {
            Yaml::Mapping(group) => vec![group],
            Yaml::Sequence(items) => {
                let keywords = || format!("`{place}` is a list of keywords, which are not supported: name a field");
                items.iter().map(|item| item.as_mapping().ok_or_else(keywords)).collect::<Result<_, _>>()?
            }
            _ => return Err(format!("`{place}` is neither fields nor a list of such")),
        };
        if groups.is_empty() || groups.len() > SELECTIONS_COUNT_MAX || groups.iter().any(|group| group.is_empty()) {
            return Err(format!("`{place}` selects nothing, or has over {SELECTIONS_COUNT_MAX} alternatives"));
        }
        let parsed = groups.into_iter().map(|group| fields(group, place, regexes_count));
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    fn holds(&self, event: &Event) -> bool {
        self.0.iter().any(|group| group.iter().all(|field| field.holds(event)))
    }
}

fn fields(group: &Mapping, place: &str, regexes_count: &mut usize) -> Result<Vec<FieldTest>, String> {
    if group.len() > SELECTIONS_COUNT_MAX {
        return Err(format!("`{place}` has over {SELECTIONS_COUNT_MAX} fields"));
    }
    let parsed = group.iter().map(|(key, value)| {
        let name = key.as_str().ok_or_else(|| format!("`{place}` has a field whose name is no text"))?;
        let field = FieldTest::parse(name, value, &format!("{place}.{name}"))?;
        *regexes_count += field.tests.iter().filter(|test| matches!(test, Test::Matches(_))).count();
        if *regexes_count > REGEX_COUNT_MAX {
            return Err(format!("`{place}.{name}`: a rule has at most {REGEX_COUNT_MAX} regular expressions"));
        }
        Ok(field)
    });
    parsed.collect()
}

// === impl FieldTest ===

impl FieldTest {
    fn parse(name: &str, value: &Yaml, place: &str) -> Result<Self, String> {
        let mut parts = name.split('|');
        let path = parts.next().and_then(Path::parse).ok_or_else(|| format!("`{place}` is no field"))?;
        let (mut kind, mut all) = (Kind::Plain, false);
        for modifier in parts {
            let next = match modifier {
                "all" => {
                    all = true;
                    continue;
                }
                "contains" => Kind::Contains,
                "startswith" => Kind::StartsWith,
                "endswith" => Kind::EndsWith,
                "cidr" => Kind::Network,
                "re" => Kind::Regex,
                other => return Err(format!("`{place}`: the modifier `{other}` is not supported")),
            };
            if kind != Kind::Plain {
                return Err(format!("`{place}`: the modifiers say two things"));
            }
            kind = next;
        }
        let values = match value {
            Yaml::Sequence(items) => items.iter().collect(),
            one => vec![one],
        };
        if values.is_empty() || values.len() > VALUES_COUNT_MAX {
            return Err(format!("`{place}` has {} values, not 1 to {VALUES_COUNT_MAX}", values.len()));
        }
        let tests = values.into_iter().map(|value| Test::parse(kind, value, place));
        Ok(Self { path, all, tests: tests.collect::<Result<_, _>>()? })
    }

    fn holds(&self, event: &Event) -> bool {
        let values = event.values(&self.path);
        let one = |test: &Test| match test {
            Test::Null => values.is_empty() || values.iter().any(|value| value.is_null()),
            other => values.iter().any(|value| other.holds(value)),
        };
        if self.all { self.tests.iter().all(one) } else { self.tests.iter().any(one) }
    }
}

// === impl Test ===

impl Test {
    fn parse(kind: Kind, value: &Yaml, place: &str) -> Result<Self, String> {
        if let (Kind::Plain, Some(test)) = (kind, Self::of_plain(value)) {
            return Ok(test);
        }
        let Yaml::String(text) = value else {
            return Err(format!("`{place}` has a value that is not text"));
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("`{place}` has a value of over {TEXT_BYTES_MAX} bytes"));
        }
        let like = |text: String| Ok(Self::Like(text.to_lowercase().chars().collect()));
        match kind {
            Kind::Plain => like(text.clone()),
            Kind::Contains => like(format!("*{text}*")),
            Kind::StartsWith => like(format!("{text}*")),
            Kind::EndsWith => like(format!("*{text}")),
            Kind::Network => {
                let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
                let network = text.parse().ok().or_else(one);
                network.map(Self::Network).ok_or_else(|| format!("`{place}`: `{text}` is no network"))
            }
            Kind::Regex => {
                let regex = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
                let regex = regex.map_err(|_| format!("`{place}`: `{text}` is no regular expression, or too large"))?;
                Ok(Self::Matches(regex))
            }
        }
    }

    fn of_plain(value: &Yaml) -> Option<Self> {
        match value {
            Yaml::Null => Some(Self::Null),
            Yaml::Bool(truth) => Some(Self::Truth(*truth)),
            Yaml::Number(number) => number.as_f64().map(Self::Number),
            _ => None,
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Truth(truth) => value.as_bool() == Some(*truth),
            Self::Number(number) => value.as_f64() == Some(*number),
            Self::Like(pattern) => as_text(value).is_some_and(|text| like(pattern, &text)),
            Self::Network(network) => {
                let address: Option<IpAddr> = value.as_str().and_then(|text| text.parse().ok());
                address.is_some_and(|address| network.contains(&address.to_canonical()) || network.contains(&address))
            }
            Self::Matches(regex) => as_text(value).is_some_and(|text| regex.is_match(&text)),
        }
    }
}

/// Whether a text fits a pattern in lower case with `*` and `?`; linear but for one star to go back to.
fn like(pattern: &[char], text: &str) -> bool {
    let text: Vec<char> = text.chars().take(VALUE_BYTES_MAX).flat_map(char::to_lowercase).collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == letter => {
                p += 1;
                t += 1;
            }
            _ => match star {
                None => return false,
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn detection(yaml: &str) -> Result<Detection, String> {
        Detection::parse(&serde_norway::from_str(yaml).unwrap(), "detection")
    }

    fn event() -> Event {
        let body = json!({
            "unmapped": {"code": "AUT-003 sign-in-refused", "details": {"count": 7, "hot": true, "none": null}},
            "src_endpoint": {"ip": "10.1.2.3"}, "resources": [{"uid": "tenant/acme/plugin/visits"}],
        });
        Event { log: "acme".into(), seq: 1, time_ms: 0, body }
    }

    fn holds(selection: &str) -> bool {
        detection(&format!("s:\n  {selection}\ncondition: s")).unwrap().matches(&event())
    }

    #[test]
    fn each_modifier_means_what_it_says() {
        for yes in [
            "unmapped.code|startswith: aut-003",
            "unmapped.code|endswith: REFUSED",
            "unmapped.code|contains: [nothing, sign-in]",
            "unmapped.code|contains|all: [aut, sign-in]",
            "unmapped.code: AUT-??? *",
            "src_endpoint.ip|cidr: [192.168.0.0/16, 10.0.0.0/8]",
            "src_endpoint.ip|cidr: 10.1.2.3",
            "resources.uid|re: ^tenant/[a-z]+/plugin/",
            "unmapped.details.count: 7",
            "unmapped.details.hot: true",
            "unmapped.details.none: null",
            "unmapped.details.absent: null",
        ] {
            assert!(holds(yes), "{yes}");
        }
        for no in [
            "unmapped.code|contains|all: [aut, nothing]",
            "unmapped.code: AUT",
            "src_endpoint.ip|cidr: fe80::/10",
            "resources.uid|re: ^plugin",
            "unmapped.details.count: 8",
            "unmapped.details.absent: ''",
            "unmapped.code: null",
        ] {
            assert!(!holds(no), "{no}");
        }
    }

    #[test]
    fn what_is_not_supported_is_an_error_that_names_its_place() {
        for (yaml, place) in [
            ("s: {a|base64: x}\ncondition: s", "detection.s.a|base64"),
            ("s: {a|contains|startswith: x}\ncondition: s", "two things"),
            ("s: [word, word]\ncondition: s", "keywords"),
            ("s: {a|cidr: not-a-network}\ncondition: s", "no network"),
            ("s: {a|re: '('}\ncondition: s", "no regular expression"),
            ("s: {a|re: '(a{1000}){1000}'}\ncondition: s", "too large"),
            ("s: {a: x}", "detection.condition"),
            ("s: {a: x}\ntimeframe: 5m\ncondition: s", "detection.timeframe"),
            ("s: {a: {b: c}}\ncondition: s", "detection.s.a"),
            ("s: {}\ncondition: s", "selects nothing"),
            ("s: {a: []}\ncondition: s", "0 values"),
            ("condition: s", "0 selections"),
            ("s: {a|contains: 5}\ncondition: s", "not text"),
        ] {
            let error = detection(yaml).unwrap_err();
            assert!(error.contains(place), "{yaml}: {error}");
        }
    }

    /// Elsewhere these take longer than anybody waits: exponentially long in a matcher that goes back, or as long as the product
    /// of pattern and text for every star.
    #[test]
    fn a_pattern_made_to_run_for_ever_ends() {
        let long = "a".repeat(1 << 20);
        let body = json!({"resources": [{"uid": long}]});
        let event = Event { log: "acme".into(), seq: 1, time_ms: 0, body };
        let stars = "*a".repeat(60);
        for selection in [
            "resources.uid|re: ^(a+)+b$".to_owned(),
            "resources.uid|re: ^(a|aa)*b$".to_owned(),
            format!("resources.uid: '{stars}*b'"),
        ] {
            let detection = detection(&format!("s:\n  {selection}\ncondition: s")).unwrap();
            assert!(!detection.matches(&event), "{selection}");
        }
    }

    proptest! {
        #[test]
        fn wildcards_agree_with_a_regular_expression(pattern in "[ab*?]{0,8}", text in "[abc]{0,10}") {
            let regex: String = pattern.chars().map(|letter| match letter {
                '*' => ".*".to_owned(),
                '?' => ".".to_owned(),
                other => other.to_string(),
            }).collect();
            let wanted = Regex::new(&format!("^{regex}$")).unwrap().is_match(&text);
            prop_assert_eq!(like(&pattern.chars().collect::<Vec<_>>(), &text), wanted);
        }
    }
}
