//! JSON Schemas at the edge of extension points.
//!
//! Must never fetch another schema, never take one that costs more to follow than its size says, and never repeat a
//! value in what it says is wrong.

use std::collections::HashMap;

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

/// A schema, compiled.
pub(crate) struct Schema(Validator);

impl Schema {
    /// Compiles a schema; the error says what is wrong with it.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        if schema.to_string().len() > SCHEMA_BYTES_MAX {
            return Err(format!("a schema is at most {SCHEMA_BYTES_MAX} bytes"));
        }
        let mut scale = Scale { root: schema, known: HashMap::new() };
        if scale.weigh(schema, 0)? > WEIGHT_MAX {
            return Err(format!("written out, the schema has more than {WEIGHT_MAX} parts"));
        }
        // SECURITY: patterns in linear time, and no way out to another document.
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
        let options = jsonschema::options().offline().with_pattern_options(patterns);
        options.build(schema).map(Self).map_err(|error| cut(&error.masked().to_string()))
    }

    /// Whether a value fits; the error says where it does not, without the value.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        self.0.validate(value).map_err(|error| {
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
        let Some(pointer) = target.strip_prefix('#') else {
            return Err(format!("`{}` refers to another document", target.chars().take(80).collect::<String>()));
        };
        if let Some(known) = self.known.get(target) {
            return Ok(known.unwrap_or(1));
        }
        // An anchor instead of a pointer: found by the compiler, and as heavy as the whole at most.
        let schema = self.root.pointer(pointer).unwrap_or(self.root);
        self.known.insert(target, None);
        let weight = self.weigh(schema, depth + 1)?;
        self.known.insert(target, Some(weight));
        Ok(weight)
    }
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
