//! Conditions of bindings: an expression in CEL over the payload that says whether a plugin is asked at all.
//!
//! Must never hold a rule of its own about what an expression may be: `expression.rs` bounds them.

use serde_json::Value;

use super::members::{Strangers, strangers};
use crate::expression::Expression;

/// LIMIT: most bytes of a condition.
pub const CONDITION_BYTES_MAX: usize = 512;

/// A condition, compiled.
pub(crate) struct Condition(Expression);

impl Condition {
    /// Compiles a condition; the error says what is wrong with it.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        Expression::compile(source, &["payload"], CONDITION_BYTES_MAX).map(Self)
    }

    /// What it reads that payloads of a schema do not have.
    pub(crate) fn strangers(&self, schema: &Value) -> Strangers {
        strangers(self.0.tree(), schema)
    }

    /// Whether the plugin is to be asked; an error when the condition cannot be followed for this payload.
    pub(crate) fn holds(&self, payload: &Value) -> Result<bool, String> {
        self.0.holds(&[("payload", payload)])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(source: &str, payload: Value) -> Result<bool, String> {
        Condition::compile(source).unwrap().holds(&payload)
    }

    #[test]
    fn a_condition_is_about_the_payload() {
        assert_eq!(holds("payload.total > 100", json!({ "total": 101 })), Ok(true));
        assert_eq!(
            holds("payload.total > 100 && payload.kind == 'x'", json!({ "total": 101, "kind": "y" })),
            Ok(false)
        );
        assert_eq!(holds("payload.lines.exists(line, line.price > 5)", json!({ "lines": [{ "price": 7 }] })), Ok(true));
        assert_eq!(holds("has(payload.total)", json!({})), Ok(false));
        assert!(holds("payload.total > 100", json!({})).is_err());
        assert!(holds("payload.total", json!({ "total": 1 })).is_err());
    }

    #[test]
    fn what_is_broken_long_nested_or_loops_in_a_loop_is_refused() {
        let nested = format!("{}payload{}", "(".repeat(17), ")".repeat(17));
        let ternary = format!("{}true", "payload.a ? true : ".repeat(17));
        let bombs = [
            "payload.".to_owned(),
            String::new(),
            "x".repeat(CONDITION_BYTES_MAX + 1),
            nested,
            ternary,
            "payload.a.all(x, payload.a.all(y, payload.a.all(z, x == y)))".to_owned(),
            "request.total > 1".to_owned(),
        ];
        for bomb in bombs {
            assert!(Condition::compile(&bomb).is_err(), "{bomb}");
        }
        // Long chains of one level are no nesting, and must not overflow anything either.
        for chain in ["!".repeat(500) + "true", "-".repeat(500) + "1", format!("true{}", "||true".repeat(80))] {
            let _ = Condition::compile(&chain);
        }
    }
}
