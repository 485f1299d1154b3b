//! Rules about fields of JSON bodies that hold personal data: of which requests, which field, whose, in which direction. Pure.
//!
//! Must never decide who may see a field: that is policy's. A tenant sets the rules of a plugin; the gateway follows them.

use serde::{Deserialize, Serialize};

use crate::capability::is_field_name;
use crate::field_routes::check_route;

/// LIMIT: most rules of one plugin.
pub const FIELD_RULES_COUNT_MAX: usize = 64;
/// LIMIT: most steps of a pointer, and so most times a body is walked for one rule.
pub const POINTER_STEPS_COUNT_MAX: usize = 16;
/// LIMIT: most bytes of a pointer, and of a constant subject.
const TEXT_BYTES_MAX: usize = 256;

/// One rule about one field of a plugin's bodies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldRule {
    /// The methods of the requests that it is for; none stands for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// A pattern of their paths, such as `/people/*`; none stands for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where: a JSON pointer (RFC 6901) in which a step `*` stands for every element or member.
    pub pointer: String,
    /// The field's name, as in grants and policies.
    pub field: String,
    /// Whose value it is. Needed for requests; in answers a sealed value says it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<FieldSubject>,
    /// Which bodies.
    pub direction: Direction,
    /// In answers: what a principal sees who may not open the field.
    #[serde(default)]
    pub otherwise: Otherwise,
}

/// Where a rule finds the subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldSubject {
    /// In the same body; the n-th `*` is what the n-th `*` of the rule's own pointer stands for.
    Pointer(String),
    /// Always this one.
    Constant(String),
}

/// Which bodies a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Requests: the field is sealed before the guest sees it.
    Request,
    /// Answers: the field is opened for those who may.
    Response,
}

/// What a principal sees who may not open a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// The sealed value, which can be sent back.
    #[default]
    Sealed,
    /// `***`.
    Mask,
}

/// One step of a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A member's name, or an element's index.
    Name(String),
    /// Every member or element.
    Every,
}

/// Checks the rules of a plugin. The error says which rule is wrong, and why.
pub fn check_rules(rules: &[FieldRule]) -> Result<(), String> {
    if rules.len() > FIELD_RULES_COUNT_MAX {
        return Err(format!("a plugin has at most {FIELD_RULES_COUNT_MAX} rules"));
    }
    for (index, rule) in rules.iter().enumerate() {
        let wrong = |why: String| format!("rule {index}: {why}");
        let steps = steps(&rule.pointer).map_err(wrong)?;
        if !is_field_name(&rule.field) {
            return Err(wrong("a field is named by small letters, digits, `-` and `_`, a letter first".to_owned()));
        }
        check_route(rule).map_err(wrong)?;
        let is_same = |other: &FieldRule| {
            other.pointer == rule.pointer && other.direction == rule.direction && other.route() == rule.route()
        };
        if rules.iter().take(index).any(is_same) {
            return Err(wrong(
                "an earlier rule is about the same pointer and direction of the same requests".to_owned(),
            ));
        }
        match &rule.subject {
            None if rule.direction == Direction::Request => {
                return Err(wrong("a rule for requests must say whose the field is: `subject`".to_owned()));
            }
            None => {}
            Some(FieldSubject::Constant(text)) if text.is_empty() || text.len() > TEXT_BYTES_MAX => {
                return Err(wrong(format!("a constant subject is 1 to {TEXT_BYTES_MAX} bytes")));
            }
            Some(FieldSubject::Constant(_)) => {}
            Some(FieldSubject::Pointer(pointer)) => {
                let stars = |steps: &[Step]| steps.iter().filter(|step| **step == Step::Every).count();
                if stars(&self::steps(pointer).map_err(wrong)?) > stars(&steps) {
                    return Err(wrong("the subject's pointer has more `*` than the rule's own".to_owned()));
                }
            }
        }
    }
    Ok(())
}

/// The steps of a pointer, its escapes undone.
pub fn steps(pointer: &str) -> Result<Vec<Step>, String> {
    if pointer.len() > TEXT_BYTES_MAX {
        return Err(format!("a pointer is at most {TEXT_BYTES_MAX} bytes"));
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err("a pointer starts with `/`, such as `/patient/email`".to_owned());
    };
    let steps: Vec<Step> = rest.split('/').map(step).collect::<Result<_, _>>()?;
    if steps.len() > POINTER_STEPS_COUNT_MAX {
        return Err(format!("a pointer has at most {POINTER_STEPS_COUNT_MAX} steps"));
    }
    Ok(steps)
}

fn step(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::Every);
    }
    let escapes_are_known = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if !escapes_are_known {
        return Err("in a pointer `~` is written `~0` and `/` is written `~1`".to_owned());
    }
    Ok(Step::Name(text.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field_routes::RequestLine;

    fn rule(pointer: &str, field: &str, subject: Option<FieldSubject>, direction: Direction) -> FieldRule {
        let (methods, path, otherwise) = (Vec::new(), None, Otherwise::Sealed);
        FieldRule { methods, path, pointer: pointer.into(), field: field.into(), subject, direction, otherwise }
    }

    #[test]
    fn escapes_are_undone_in_the_order_of_the_rfc() {
        assert_eq!(steps("/a~1b/~01/*").unwrap(), [Step::Name("a/b".into()), Step::Name("~1".into()), Step::Every]);
        for bad in ["", "a", "/a~", "/a~2", &"/a".repeat(17), &format!("/{}", "a".repeat(300))] {
            assert!(steps(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_that_could_not_be_followed_are_refused() {
        let by = |pointer: &str| Some(FieldSubject::Pointer(pointer.into()));
        let good = rule("/people/*/email", "email", by("/people/*/id"), Direction::Request);
        let of = |methods: &[&str], path: &str| {
            let methods = methods.iter().map(|&method| method.to_owned()).collect();
            FieldRule { methods, path: Some(path.into()), ..good.clone() }
        };
        assert_eq!(check_rules(std::slice::from_ref(&good)), Ok(()));
        assert_eq!(check_rules(&[rule("/email", "email", None, Direction::Response)]), Ok(()));
        for bad in [
            vec![rule("/email", "email", None, Direction::Request)],
            vec![rule("/email", "E-Mail", by("/id"), Direction::Request)],
            vec![rule("/email", "email", by("/people/*/id"), Direction::Request)],
            vec![rule("/email", "email", Some(FieldSubject::Constant(String::new())), Direction::Request)],
            vec![good.clone(), good.clone()],
            vec![good.clone(), FieldRule { path: Some("/*".into()), ..good.clone() }],
            vec![of(&["PUT", "POST"], "/a"), of(&["POST", "PUT"], "/A")],
            vec![of(&["post"], "/a")],
            vec![of(&[], "a")],
            vec![good.clone(); 65],
        ] {
            assert!(check_rules(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_rules(&[good.clone(), of(&[], "/a"), of(&["PUT"], "/a"), of(&["PUT"], "/a/*")]), Ok(()));
    }

    #[test]
    fn the_example_of_the_reference_can_be_set() {
        let text = include_str!("../../../docs/reference/field-rules.md");
        let example = text.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let body: serde_json::Value = serde_json::from_str(example).unwrap();
        let rules: Vec<FieldRule> = serde_json::from_value(body["rules"].clone()).unwrap();
        assert_eq!(check_rules(&rules), Ok(()));
        assert!(rules.iter().any(FieldRule::has_route));
    }

    #[test]
    fn a_rule_that_was_stored_before_there_were_routes_is_for_all_requests_and_stored_as_it_was() {
        let stored = r#"{"pointer":"/email","field":"email","subject":{"pointer":"/id"},"direction":"request","otherwise":"sealed"}"#;
        let read: FieldRule = serde_json::from_str(stored).unwrap();
        assert!(!read.has_route());
        assert_eq!(serde_json::to_string(&read).unwrap(), stored);
        for path in ["/", "/any/path", "//", "/%zz"] {
            assert_eq!(read.is_for(&RequestLine::read("BREW", path, |_| true)), Ok(true), "{path}");
        }
        let with = r#"{"methods":["PUT"],"path":"/a","pointer":"/email","field":"email","direction":"response","otherwise":"mask"}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<FieldRule>(with).unwrap()).unwrap(), with);
    }
}
