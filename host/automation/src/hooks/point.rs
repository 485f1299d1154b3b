//! Extension points: what the operator declares that the product will ask, and of whom.
//!
//! Pure. Must never take a declaration that the host could not follow: everything is checked here, before it is kept.

use jiff::Timestamp;
use ringfence_core::{PrincipalId, ResourceName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema::Schema;
use crate::AutomationError;

/// LIMIT: longest time one call of a point may take, milliseconds.
pub const DEADLINE_MS_MAX: u64 = 30_000;
/// Under which name a plugin is told which version of the point it is asked under.
pub(crate) const POINT_VERSION: &str = "point-version";
/// LIMIT: most bytes of one plugin's result.
pub const RESULT_BYTES_MAX: u64 = 1 << 20;

/// What becomes of the answers of the plugins that are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each may say no; the first that does ends it.
    Validate,
    /// Each is given what the one before it made of the payload.
    Transform,
    /// Each is given the payload, and their answers are gathered.
    Collect,
    /// Each is told later, at least once; nobody waits.
    Notify,
}

/// What a plugin that is broken or slow does to the product's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It is passed over.
    Open,
    /// The request fails.
    Closed,
}

/// How many plugins of one tenant may be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Binders {
    /// One.
    One,
    /// As many as there is room for.
    Several,
}

/// What an operator says about a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointSpec {
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What becomes of the answers.
    pub mode: Mode,
    /// JSON Schema of what the product sends.
    pub payload: Value,
    /// JSON Schema of what a plugin answers; of a transforming point the payload's when absent, else anything. A transforming
    /// point of several binders has none of its own: what one plugin makes is what the next one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// For all bound plugins together, milliseconds.
    pub deadline_ms: u64,
    /// What a broken or slow plugin does.
    pub on_failure: OnFailure,
    /// Most bytes of one plugin's result.
    pub result_bytes_max: u64,
    /// How many may be bound.
    pub binders: Binders,
}

/// A declared point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its name, such as `invoice.validate`.
    pub name: ResourceName,
    /// One more with every change.
    pub version: u32,
    /// What was declared.
    pub spec: PointSpec,
    /// When.
    pub declared_at: Timestamp,
    /// By whom.
    pub declared_by: PrincipalId,
}

/// A point with its schemas compiled.
pub(crate) struct Ready {
    pub(crate) point: Point,
    pub(crate) payload: Schema,
    pub(crate) result: Option<Schema>,
}

// === impl PointSpec ===

impl PointSpec {
    /// What of `after` would break plugins that are bound under this declaration; empty when nothing would. A schema that
    /// differs counts as breaking: whether one takes all that another takes cannot be decided in general.
    pub fn breaks(&self, after: &Self) -> Vec<&'static str> {
        let changes = [
            ("mode", self.mode != after.mode),
            ("payload", self.payload != after.payload),
            ("result", self.result != after.result),
            ("result_bytes_max", self.result_bytes_max > after.result_bytes_max),
            ("deadline_ms", self.deadline_ms > after.deadline_ms),
            ("binders", self.binders == Binders::Several && after.binders == Binders::One),
        ];
        changes.into_iter().filter(|(_, is_breaking)| *is_breaking).map(|(what, _)| what).collect()
    }

    /// What a declaration is refused for that comes now. One that is kept since before is followed all the same: a host must
    /// start with it.
    pub(crate) fn check_new(&self) -> Result<(), AutomationError> {
        let has_other_result = self.result.as_ref().is_some_and(|result| *result != self.payload);
        if self.mode == Mode::Transform && self.binders == Binders::Several && has_other_result {
            let why = "what one plugin makes is what the next one is given: a transforming point of several binders has no \
                       `result` other than its `payload`";
            return Err(AutomationError::BadPoint(why.to_owned()));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), AutomationError> {
        let bad = |why: String| Err(AutomationError::BadPoint(why));
        if !(1..=DEADLINE_MS_MAX).contains(&self.deadline_ms) {
            return bad(format!("`deadline_ms` is 1 to {DEADLINE_MS_MAX}"));
        }
        if !(1..=RESULT_BYTES_MAX).contains(&self.result_bytes_max) {
            return bad(format!("`result_bytes_max` is 1 to {RESULT_BYTES_MAX}"));
        }
        if self.description.len() > 500 {
            return bad("`description` is at most 500 bytes".to_owned());
        }
        if self.mode == Mode::Notify && self.result.is_some() {
            return bad("nobody hears the answers of a notifying point: it has no `result`".to_owned());
        }
        Ok(())
    }
}

// === impl Ready ===

impl Ready {
    /// Checks a declaration and compiles its schemas.
    pub(crate) fn of(point: Point) -> Result<Self, AutomationError> {
        point.spec.check()?;
        let compile = |what: &str, schema: &Value| {
            Schema::compile(schema).map_err(|why| AutomationError::BadPoint(format!("`{what}`: {why}")))
        };
        let payload = compile("payload", &point.spec.payload)?;
        let result = match (&point.spec.result, point.spec.mode) {
            (Some(result), _) => Some(compile("result", result)?),
            // What one plugin makes is what the next one is given.
            (None, Mode::Transform) => Some(compile("payload", &point.spec.payload)?),
            (None, _) => None,
        };
        Ok(Self { point, payload, result })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn spec(mode: Mode) -> PointSpec {
        PointSpec {
            description: String::new(),
            mode,
            payload: json!({ "type": "object" }),
            result: None,
            deadline_ms: 1_000,
            on_failure: OnFailure::Closed,
            result_bytes_max: 1_000,
            binders: Binders::Several,
        }
    }

    fn point(spec: PointSpec) -> Point {
        Point {
            name: "invoice.validate".parse().unwrap(),
            version: 1,
            spec,
            declared_at: Timestamp::UNIX_EPOCH,
            declared_by: "operator/ada".parse().unwrap(),
        }
    }

    #[test]
    fn what_asks_more_of_bound_plugins_breaks_and_what_asks_less_does_not() {
        let before = spec(Mode::Validate);
        let wider = PointSpec { deadline_ms: 2_000, result_bytes_max: 9_000, ..before.clone() };
        assert!(before.breaks(&wider).is_empty());
        assert_eq!(wider.breaks(&before), ["result_bytes_max", "deadline_ms"]);
        assert_eq!(before.breaks(&spec(Mode::Collect)), ["mode"]);
        let other = PointSpec { payload: json!({ "type": "array" }), binders: Binders::One, ..before.clone() };
        assert_eq!(before.breaks(&other), ["payload", "binders"]);
        assert!(other.breaks(&PointSpec { binders: Binders::Several, ..other.clone() }).is_empty());
    }

    #[test]
    fn the_example_that_is_published_is_taken() {
        let page = include_str!("../../../../docs/reference/extension-points.md");
        let examples: Vec<&str> = page.split("```json\n").skip(1).filter_map(|part| part.split("```").next()).collect();
        assert_eq!(examples.len(), 1);
        for example in examples {
            let spec: PointSpec = serde_json::from_str(example).unwrap();
            assert!(spec.check_new().is_ok() && Ready::of(point(spec)).is_ok());
        }
    }

    #[test]
    fn a_declaration_that_cannot_be_followed_is_refused() {
        let good = spec(Mode::Notify);
        assert!(Ready::of(point(good.clone())).is_ok());
        for bad in [
            PointSpec { deadline_ms: 0, ..good.clone() },
            PointSpec { deadline_ms: DEADLINE_MS_MAX + 1, ..good.clone() },
            PointSpec { result_bytes_max: RESULT_BYTES_MAX + 1, ..good.clone() },
            PointSpec { result: Some(json!({})), ..good.clone() },
            PointSpec { payload: json!({ "type": "nothing" }), ..good.clone() },
            PointSpec { payload: json!({ "$ref": "https://example.com/schema" }), ..good.clone() },
            PointSpec { payload: json!({ "$ref": "file:///etc/passwd" }), ..good.clone() },
        ] {
            assert!(Ready::of(point(bad.clone())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_one_plugin_makes_of_the_payload_is_what_the_next_one_can_be_given() {
        let other = PointSpec { result: Some(json!({ "type": "array" })), ..spec(Mode::Transform) };
        assert!(other.check_new().is_err());
        for good in [
            PointSpec { binders: Binders::One, ..other.clone() },
            PointSpec { mode: Mode::Collect, ..other.clone() },
            PointSpec { result: Some(other.payload.clone()), ..other.clone() },
            PointSpec { result: None, ..other.clone() },
        ] {
            assert!(good.check_new().is_ok(), "{good:?}");
        }
    }
}
