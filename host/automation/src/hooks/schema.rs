//! JSON Schemas at the edge of extension points.
//!
//! Must never fetch another schema, never take one that costs more to follow than its size says, and never repeat a
//! value in what it says is wrong.

use std::collections::{HashMap, HashSet};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// LIMIT: most bytes of a schema.
const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// LIMIT: most places that one value is looked at from, when every reference is written out once.
const WEIGHT_MAX: u64 = 10_000;
/// LIMIT: deepest nesting of a schema.
const DEPTH_MAX: usize = 64;
/// LIMIT: most bytes of one compiled pattern.
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// Parts that a pattern counts as: compiled, it may be as large as its limit, and all together stay below 32 MiB.
const PATTERN_WEIGHT: u64 = WEIGHT_MAX / 100;

/// LIMIT: most schemas looked at to find out how deep a value may be.
const LOOKS_MAX: u64 = 1_000_000;
/// LIMIT: most times that one part of a value is looked at because the schema refers to itself.
const VISITS_MAX: u64 = 1_000_000;

/// A schema, compiled.
pub(crate) struct Schema {
    validator: Validator,
    /// How deep a value may be nested; none where the depth costs nothing.
    depth_max: Option<usize>,
}

impl Schema {
    /// Compiles a schema; the error says what is wrong with it.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        if schema.to_string().len() > SCHEMA_BYTES_MAX {
            return Err(format!("a schema is at most {SCHEMA_BYTES_MAX} bytes"));
        }
        let mut scale = Scale { root: schema, known: HashMap::new(), has_loop: false, looks_count: 0 };
        if scale.weigh(schema, 0)? > WEIGHT_MAX {
            return Err(too_heavy());
        }
        let depth_max = match scale.has_loop {
            true => deepest(scale.visits(schema, &mut HashSet::new())?),
            false => None,
        };
        // SECURITY: patterns in linear time, and no way out to another document.
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
        let options = jsonschema::options().offline().with_pattern_options(patterns);
        let validator = options.build(schema).map_err(|error| cut(&error.masked().to_string()))?;
        Ok(Self { validator, depth_max })
    }

    /// Whether a value fits; the error says where it does not, without the value.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        if let Some(max) = self.depth_max.filter(|max| depth(value) > *max) {
            return Err(format!("at `/`: it is nested more than {max} deep, and the schema refers to itself"));
        }
        self.validator.validate(value).map_err(|error| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "/".to_owned() } else { place };
            cut(&format!("at `{place}`: {}", error.masked()))
        })
    }
}

/// Weighs a schema as if each local reference were written out where it stands. A reference to what is being weighed
/// already is a loop: it follows the value's own depth and weighs one.
struct Scale<'a> {
    root: &'a Value,
    /// None while it is being weighed.
    known: HashMap<&'a str, Option<u64>>,
    /// Whether anything refers to what it is part of.
    has_loop: bool,
    /// Schemas looked at on the way to how often a part of a value is.
    looks_count: u64,
}

impl<'a> Scale<'a> {
    fn weigh(&mut self, schema: &'a Value, depth: usize) -> Result<u64, String> {
        if depth > DEPTH_MAX {
            return Err(format!("a schema is nested at most {DEPTH_MAX} deep"));
        }
        let mut weight = 1_u64;
        match schema {
            Value::Object(members) => {
                for (name, member) in members {
                    let more = match (name.as_str(), member) {
                        ("$ref" | "$dynamicRef", Value::String(target)) => self.reference(target, depth)?,
                        // Only what refers to them looks at these.
                        ("$defs" | "definitions", _) => 0,
                        ("pattern", Value::String(_)) => PATTERN_WEIGHT,
                        ("patternProperties", Value::Object(patterns)) => {
                            let own = PATTERN_WEIGHT.saturating_mul(patterns.len() as u64);
                            own.saturating_add(self.weigh(member, depth + 1)?)
                        }
                        _ => self.weigh(member, depth + 1)?,
                    };
                    weight = weight.saturating_add(more);
                }
            }
            Value::Array(items) => {
                for item in items {
                    weight = weight.saturating_add(self.weigh(item, depth + 1)?);
                }
            }
            _ => {}
        }
        Ok(weight)
    }

    fn reference(&mut self, target: &'a str, depth: usize) -> Result<u64, String> {
        if !target.starts_with('#') {
            return Err(format!("`{}` refers to another document", brief(target)));
        }
        if let Some(known) = self.known.get(target) {
            self.has_loop |= known.is_none();
            return Ok(known.unwrap_or(1));
        }
        let schema = self.target(target);
        self.known.insert(target, None);
        let weight = self.weigh(schema, depth + 1)?;
        self.known.insert(target, Some(weight));
        Ok(weight)
    }

    /// What is referred to, by a pointer or an anchor; what the compiler will not find counts as the whole.
    fn target(&self, target: &str) -> &'a Value {
        let word = target.strip_prefix('#').unwrap_or_default();
        self.root.pointer(word).or_else(|| anchored(self.root, word)).unwrap_or(self.root)
    }

    /// How often one part of a value is looked at for each time that what it is part of is: the most of any schema that is
    /// followed from here.
    fn visits(&mut self, schema: &'a Value, followed: &mut HashSet<&'a str>) -> Result<u64, String> {
        let mut most = self.visits_here(schema, &mut Vec::new())?;
        match schema {
            Value::Object(members) => {
                for (name, member) in members {
                    most = most.max(match (name.as_str(), member) {
                        ("$defs" | "definitions", _) => 0,
                        ("$ref" | "$dynamicRef", Value::String(target)) if followed.insert(target) => {
                            self.visits(self.target(target), followed)?
                        }
                        _ => self.visits(member, followed)?,
                    });
                }
            }
            Value::Array(items) => {
                for item in items {
                    most = most.max(self.visits(item, followed)?);
                }
            }
            _ => {}
        }
        Ok(most)
    }

    /// The same for one schema, with all that looks at the same value: what it is composed of and refers to.
    fn visits_here(&mut self, schema: &'a Value, open: &mut Vec<&'a str>) -> Result<u64, String> {
        let Value::Object(members) = schema else { return Ok(0) };
        self.looks_count += 1;
        if self.looks_count > LOOKS_MAX {
            return Err(too_heavy());
        }
        let mut visits = 0_u64;
        let (mut of_object, mut of_array) = (false, false);
        for (name, member) in members {
            let more = match (name.as_str(), member) {
                // Of these one alone looks at a given part.
                ("properties" | "additionalProperties", _) => u64::from(!std::mem::replace(&mut of_object, true)),
                ("items" | "prefixItems" | "additionalItems", _) => u64::from(!std::mem::replace(&mut of_array, true)),
                ("contains" | "unevaluatedItems" | "unevaluatedProperties", _) => 1,
                ("patternProperties", Value::Object(patterns)) => patterns.len() as u64,
                ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => self.sum(parts.iter(), open)?,
                ("dependentSchemas", Value::Object(parts)) => self.sum(parts.values(), open)?,
                ("not" | "if" | "then" | "else", part) => self.visits_here(part, open)?,
                ("$ref" | "$dynamicRef", Value::String(target)) => {
                    if open.contains(&target.as_str()) {
                        return Err(format!("`{}` refers to itself for the same value", brief(target)));
                    }
                    open.push(target);
                    let visits = self.visits_here(self.target(target), open)?;
                    open.pop();
                    visits
                }
                _ => 0,
            };
            visits = visits.saturating_add(more);
        }
        Ok(visits)
    }

    fn sum(&mut self, parts: impl Iterator<Item = &'a Value>, open: &mut Vec<&'a str>) -> Result<u64, String> {
        let mut sum = 0_u64;
        for part in parts {
            sum = sum.saturating_add(self.visits_here(part, open)?);
        }
        Ok(sum)
    }
}

/// The part of a schema that has this anchor.
fn anchored<'a>(schema: &'a Value, anchor: &str) -> Option<&'a Value> {
    match schema {
        Value::Object(members) => {
            let is_it = |name| members.get(name).and_then(Value::as_str) == Some(anchor);
            if is_it("$anchor") || is_it("$dynamicAnchor") {
                return Some(schema);
            }
            members.values().find_map(|member| anchored(member, anchor))
        }
        Value::Array(items) => items.iter().find_map(|item| anchored(item, anchor)),
        _ => None,
    }
}

/// How deep a value may be, of which each part is looked at so often for each time that what it is part of is.
fn deepest(visits: u64) -> Option<usize> {
    if visits < 2 {
        return None;
    }
    let depths = std::iter::successors(Some(visits), |sum| sum.checked_mul(visits));
    Some(depths.take_while(|sum| *sum <= VISITS_MAX).count())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.values().map(depth).max().unwrap_or(0).saturating_add(1),
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0).saturating_add(1),
        _ => 0,
    }
}

fn too_heavy() -> String {
    format!("written out, the schema has more than {WEIGHT_MAX} parts")
}

fn brief(target: &str) -> String {
    target.chars().take(80).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_by_place_and_never_by_value() {
        let schema = json!({ "type": "object", "properties": { "total": { "type": "integer", "minimum": 0 } }, "required": ["total"] });
        let schema = Schema::compile(&schema).unwrap();
        assert!(schema.check(&json!({ "total": 3 })).is_ok());
        let wrong = schema.check(&json!({ "total": "MOSES-SECRET" })).unwrap_err();
        assert!(wrong.contains("/total") && !wrong.contains("MOSES"), "{wrong}");
    }

    #[test]
    fn a_schema_that_doubles_with_every_reference_is_refused() {
        // Shallow enough for the depth, and a million parts.
        const LEVELS: usize = 20;
        let mut definitions = serde_json::Map::new();
        for n in 0..LEVELS {
            let next = format!("#/$defs/d{}", n + 1);
            definitions.insert(format!("d{n}"), json!({ "allOf": [{ "$ref": next }, { "$ref": next }] }));
        }
        definitions.insert(format!("d{LEVELS}"), json!({ "type": "string" }));
        let bomb = json!({ "$defs": definitions, "$ref": "#/$defs/d0" });
        assert!(Schema::compile(&bomb).err().unwrap().contains("parts"));
    }

    #[test]
    fn a_schema_that_follows_the_value_down_is_taken() {
        let list = json!({ "type": "object", "properties": { "next": { "$ref": "#" } } });
        assert!(Schema::compile(&list).unwrap().check(&json!({ "next": { "next": {} } })).is_ok());
        assert!(Schema::compile(&list).unwrap().check(&json!({ "next": { "next": 7 } })).is_err());
    }

    #[test]
    fn deep_long_and_backtracking_schemas_are_refused() {
        let deep = (0..200).fold(json!({}), |inner, _| json!({ "items": inner }));
        assert!(Schema::compile(&deep).is_err());
        assert!(Schema::compile(&json!({ "description": "x".repeat(SCHEMA_BYTES_MAX) })).is_err());
        assert!(Schema::compile(&json!({ "pattern": "(a)\\1" })).is_err());
    }

    #[test]
    fn a_value_under_a_schema_that_refers_to_itself_costs_no_more_than_its_size() {
        let chain = |length: usize| (0..length).fold(json!({}), |inner, _| json!({ "x": inner }));
        // A tree looks at each part once, however deep it is.
        let tree = json!({ "properties": { "x": { "$ref": "#" }, "y": { "$ref": "#" } } });
        assert!(Schema::compile(&tree).unwrap().check(&chain(100)).is_ok());
        // These look at each part twice, or ten times, as often as at what it is part of.
        let parts: Vec<Value> = (0..10).map(|_| json!({ "$ref": "#/$defs/a" })).collect();
        for (bomb, fits) in [
            (json!({ "properties": { "x": { "allOf": [{ "$ref": "#" }, { "$ref": "#" }] } } }), 18),
            (
                json!({ "anyOf": [{ "properties": { "x": { "$ref": "#" } } }, { "additionalProperties": { "$ref": "#" } }] }),
                18,
            ),
            (json!({ "$defs": { "a": { "properties": { "x": { "$ref": "#" } } } }, "allOf": parts }), 5),
        ] {
            let schema = Schema::compile(&bomb).unwrap();
            assert!(schema.check(&chain(fits)).is_ok(), "{bomb}");
            let refused = schema.check(&chain(100)).unwrap_err();
            assert!(refused.contains("refers to itself"), "{refused}");
        }
    }

    #[test]
    fn a_schema_that_goes_in_circles_over_the_same_value_is_refused_and_an_anchor_is_no_circle() {
        let several: Vec<Value> = (0..12).map(|n| json!({ "$ref": format!("#/$defs/d{n}") })).collect();
        let all: serde_json::Map<String, Value> =
            (0..12).map(|n| (format!("d{n}"), json!({ "allOf": several }))).collect();
        for circle in [
            json!({ "$ref": "#" }),
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
            json!({ "$defs": all, "$ref": "#/$defs/d0" }),
        ] {
            assert!(Schema::compile(&circle).is_err(), "{circle}");
        }
        let anchors = json!({
            "$defs": { "node": { "$anchor": "node", "properties": { "next": { "$ref": "#node" } } } },
            "allOf": [{ "$ref": "#node" }],
        });
        let anchors = Schema::compile(&anchors).unwrap();
        assert!(anchors.check(&json!({ "next": { "next": {} } })).is_ok());
    }

    #[test]
    fn many_patterns_that_are_large_when_compiled_are_refused_and_a_few_are_taken() {
        let of = |count: usize| {
            let all: Vec<Value> = (0..count).map(|n| json!({ "pattern": format!("^\\w{{{}}}$", n % 8 + 1) })).collect();
            json!({ "allOf": all })
        };
        assert!(Schema::compile(&of(1_000)).err().unwrap().contains("parts"));
        assert!(Schema::compile(&of(50)).is_ok());
        let names: serde_json::Map<String, Value> = (0..1_000).map(|n| (format!("^a{n}$"), json!({}))).collect();
        assert!(Schema::compile(&json!({ "patternProperties": names })).is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_in_a_schema_compiling_and_checking_end_without_a_panic(
            words in proptest::collection::vec((0_usize..12, 0_usize..6), 1..40),
        ) {
            const NAMES: [&str; 12] = ["items", "allOf", "anyOf", "not", "$ref", "$dynamicRef", "$defs", "properties",
                "pattern", "if", "unevaluatedProperties", "contains"];
            const TARGETS: [&str; 6] = ["#", "#/$defs/a", "#/items", "#a", "#/allOf/0", "#/properties/x"];
            let mut schema = json!({ "type": "object" });
            for (name, target) in words {
                let inner = schema.clone();
                schema = match NAMES[name] {
                    name @ ("allOf" | "anyOf") => json!({ name: [inner.clone(), inner] }),
                    name @ ("$ref" | "$dynamicRef") => json!({ name: TARGETS[target], "$defs": { "a": inner } }),
                    name @ ("$defs" | "properties") => json!({ name: { "a": inner.clone(), "x": inner } }),
                    "pattern" => json!({ "pattern": "(x+x+)+y", "items": inner }),
                    name => json!({ name: inner }),
                };
                if schema.to_string().len() > 2 * SCHEMA_BYTES_MAX {
                    break;
                }
            }
            if let Ok(schema) = Schema::compile(&schema) {
                let deep = (0..100).fold(json!("x"), |inner, _| json!({ "x": inner }));
                let _ = schema.check(&deep);
            }
        }
    }
}
