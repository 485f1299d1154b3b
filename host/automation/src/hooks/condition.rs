//! Conditions of bindings: an expression in CEL over the payload that says whether a plugin is asked at all.
//!
//! Must never run one whose cost is not bounded by its length and the payload's: at most one loop, and nothing nested deep.

use cel::{Context, Program, Value as CelValue};
use serde_json::Value;

/// LIMIT: most bytes of a condition.
pub const CONDITION_BYTES_MAX: usize = 512;
/// LIMIT: most brackets, and most conditionals, inside each other.
const NESTING_COUNT_MAX: usize = 16;
/// Stack of the thread that parses one: the parser calls itself for what is nested.
const PARSER_STACK_BYTES: usize = 16 << 20;

/// A condition, compiled.
pub(crate) struct Condition(Program);

impl Condition {
    /// Compiles a condition; the error says what is wrong with it.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        check_shape(source)?;
        let text = source.to_owned();
        let parse = move || Program::compile(&text).map_err(|error| error.to_string());
        let thread = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES).spawn(parse);
        let thread = thread.map_err(|_| "it cannot be read now".to_owned())?;
        let parsed = thread.join().map_err(|_| "it cannot be read".to_owned())?;
        let program = parsed.map_err(|why| why.chars().take(300).collect::<String>())?;
        let loops_count = format!("{:?}", program.expression()).matches("ComprehensionExpr").count();
        if loops_count > 1 {
            return Err("it has more than one of `all`, `exists`, `exists_one`, `map`, `filter`".to_owned());
        }
        // A loop brings one name of its own, and one that the macro makes.
        let references = program.references();
        let mut names = references.variables().into_iter().filter(|name| *name != "payload" && !name.starts_with('@'));
        if let Some(unknown) = names.nth(loops_count) {
            return Err(format!("it knows `payload`, not `{unknown}`"));
        }
        Ok(Self(program))
    }

    /// Whether the plugin is to be asked; an error when the condition cannot be followed for this payload.
    pub(crate) fn holds(&self, payload: &Value) -> Result<bool, String> {
        let mut context = Context::default();
        context.add_variable("payload", payload.clone()).map_err(|error| error.to_string())?;
        match self.0.execute(&context) {
            Ok(CelValue::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it comes to something other than true or false".to_owned()),
            Err(error) => Err(error.to_string().chars().take(200).collect()),
        }
    }
}

fn check_shape(source: &str) -> Result<(), String> {
    if source.is_empty() || source.len() > CONDITION_BYTES_MAX {
        return Err(format!("a condition is 1 to {CONDITION_BYTES_MAX} bytes"));
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > NESTING_COUNT_MAX || source.matches('?').count() > NESTING_COUNT_MAX {
        return Err(format!("it is nested more than {NESTING_COUNT_MAX} deep"));
    }
    Ok(())
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
