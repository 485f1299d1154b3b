//! Which members of the payload a condition reads, and whether the point's schema has them.
//!
//! Pure. Must never call closed what a payload that fits could have: where the schema does not tell, nothing is said.

use std::fmt;

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use serde_json::{Map, Value};

/// LIMIT: schemas looked at for one member; of what is beyond, nothing is said.
const LOOKS_COUNT_MAX: usize = 1_000;

/// What a condition reads that the schema does not have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Strangers {
    /// No payload that fits has these: whoever reads one fails each time.
    pub(crate) closed: Vec<String>,
    /// The schema does not name these, and the condition does not ask with `has` whether they are there.
    pub(crate) unnamed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    /// Of a list.
    Item,
}

/// One place in the payload that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place(Vec<Step>);

/// Walks an expression.
#[derive(Default)]
struct Reader<'a> {
    read: Vec<Place>,
    tested: Vec<Place>,
    /// The name of the loop around, if there is one, and what it stands for where that is in the payload.
    inside: Option<(&'a str, Option<Place>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Named,
    Unnamed,
    Closed,
}

struct Schemas<'a> {
    root: &'a Value,
    looks_count: usize,
}

/// What of what an expression about `payload` reads the schema does not have.
pub(crate) fn strangers(expression: &IdedExpr, schema: &Value) -> Strangers {
    let mut reader = Reader::default();
    reader.walk(expression);
    let mut strangers = Strangers::default();
    for place in reader.read.iter().chain(&reader.tested) {
        let found = Schemas { root: schema, looks_count: 0 }.look(schema, &place.0);
        let list = match found {
            Found::Closed => &mut strangers.closed,
            Found::Unnamed if !reader.tested.contains(place) => &mut strangers.unnamed,
            _ => continue,
        };
        let place = place.to_string();
        if !list.contains(&place) {
            list.push(place);
        }
    }
    strangers
}

// === impl Place ===

impl Place {
    fn with(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("payload")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Member(name) => write!(f, ".{name}"),
            Step::Item => f.write_str("[]"),
        })
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn walk(&mut self, node: &'a IdedExpr) {
        if let Some(place) = self.place(node) {
            self.read.push(place);
            return;
        }
        match &node.expr {
            Expr::Select(select) => {
                if let Some(place) = self.place(&select.operand) {
                    self.tested.push(place.with(Step::Member(select.field.clone())));
                }
                self.walk(&select.operand);
            }
            Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(|part| self.walk(part)),
            Expr::List(list) => list.elements.iter().for_each(|part| self.walk(part)),
            Expr::Comprehension(looped) => {
                self.walk(&looped.iter_range);
                let item = self.place(&looped.iter_range).map(|range| range.with(Step::Item));
                // Of two names the first is a key or a number.
                let item = item.filter(|_| looped.iter_var2.is_none());
                let around = self.inside.replace((looped.iter_var.as_str(), item));
                for part in [&looped.loop_cond, &looped.loop_step, &looped.result] {
                    self.walk(part);
                }
                self.inside = around;
            }
            _ => {}
        }
    }

    /// The place that an expression is, if it is one.
    fn place(&self, node: &IdedExpr) -> Option<Place> {
        match &node.expr {
            Expr::Ident(name) => match &self.inside {
                Some((item, place)) if item == name => place.clone(),
                _ => (name == "payload").then(|| Place(Vec::new())),
            },
            Expr::Select(select) if !select.test => {
                Some(self.place(&select.operand)?.with(Step::Member(select.field.clone())))
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let mut parts = call.target.as_deref().into_iter().chain(&call.args);
                let (of, index) = (parts.next()?, parts.next()?);
                let step = match &index.expr {
                    Expr::Literal(LiteralValue::String(name)) => Step::Member(name.inner().to_owned()),
                    Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_)) => Step::Item,
                    _ => return None,
                };
                Some(self.place(of)?.with(step))
            }
            _ => None,
        }
    }
}

// === impl Found ===

impl Found {
    /// Of two schemas that both hold.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Closed, _) | (_, Self::Closed) => Self::Closed,
            (Self::Named, _) | (_, Self::Named) => Self::Named,
            _ => Self::Unnamed,
        }
    }

    /// Of two schemas of which one may hold.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Named, _) | (_, Self::Named) => Self::Named,
            (Self::Closed, Self::Closed) => Self::Closed,
            _ => Self::Unnamed,
        }
    }
}

// === impl Schemas ===

impl<'a> Schemas<'a> {
    fn look(&mut self, schema: &'a Value, steps: &[Step]) -> Found {
        self.looks_count += 1;
        let members = match schema {
            _ if self.looks_count > LOOKS_COUNT_MAX => return Found::Named,
            Value::Bool(false) => return Found::Closed,
            Value::Object(members) => members,
            _ if steps.is_empty() => return Found::Named,
            _ => return Found::Unnamed,
        };
        let Some((step, rest)) = steps.split_first() else { return Found::Named };
        if let Some(target) = members.get("$ref").and_then(Value::as_str) {
            // Elsewhere than by a pointer nothing is looked for. Before 2019 what stands beside a reference says nothing.
            let Some(target) = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) else {
                return Found::Named;
            };
            let is_old = self.root.get("$schema").and_then(Value::as_str).is_some_and(|uri| uri.contains("draft-0"));
            let found = self.look(target, steps);
            return if is_old { found } else { found.and(self.beside(members, steps, (step, rest))) };
        }
        self.beside(members, steps, (step, rest))
    }

    /// What a schema says but for its reference.
    fn beside(&mut self, members: &'a Map<String, Value>, steps: &[Step], (step, rest): (&Step, &[Step])) -> Found {
        let mut found = self.own(members, step, rest);
        let list = |name: &str| members.get(name).and_then(Value::as_array).filter(|parts| !parts.is_empty());
        for part in list("allOf").into_iter().flatten() {
            found = found.and(self.look(part, steps));
        }
        for parts in ["anyOf", "oneOf"].into_iter().filter_map(list) {
            let any = parts.iter().fold(Found::Closed, |any, part| any.or(self.look(part, steps)));
            found = found.and(any);
        }
        if found != Found::Unnamed || matches!(step, Step::Item) {
            return found;
        }
        let depends = ["if", "then", "else", "dependentSchemas", "$dynamicRef", "$recursiveRef"];
        let is_shut = members.get("unevaluatedProperties") == Some(&Value::Bool(false));
        match depends.iter().any(|word| members.contains_key(*word)) {
            // It may be named there.
            true => Found::Named,
            false if is_shut && members.contains_key("$ref") => Found::Named,
            // What is not named may lie further in, below a member that is.
            false if is_shut && !rest.is_empty() => match self.beside(members, std::slice::from_ref(step), (step, &[]))
            {
                Found::Closed => Found::Closed,
                _ => Found::Unnamed,
            },
            false if is_shut => Found::Closed,
            false => Found::Unnamed,
        }
    }

    /// What a schema says by itself.
    fn own(&mut self, members: &'a Map<String, Value>, step: &Step, rest: &[Step]) -> Found {
        let may_be = |wanted: &str| match members.get("type") {
            Some(Value::String(one)) => one == wanted,
            Some(Value::Array(some)) => some.iter().any(|one| one == wanted),
            _ => true,
        };
        let name = match step {
            Step::Member(name) => name,
            // What a loop goes through may be the names of an object.
            Step::Item if members.get("type").is_none_or(|one| one != "array") => return Found::Named,
            Step::Item if members.contains_key("prefixItems") => return Found::Named,
            Step::Item => {
                return match members.get("items") {
                    Some(items @ Value::Object(_)) => self.look(items, rest),
                    _ => Found::Named,
                };
            }
        };
        if !may_be("object") {
            return Found::Closed;
        }
        if let Some(schema) = members.get("properties").and_then(|named| named.get(name)) {
            return self.look(schema, rest);
        }
        if members.contains_key("patternProperties") {
            return Found::Named;
        }
        match members.get("additionalProperties") {
            Some(Value::Bool(false)) => Found::Closed,
            Some(others @ (Value::Object(_) | Value::Bool(true))) => self.look(others, rest),
            // Who takes all that nobody else names leaves nothing for a schema around it to shut.
            _ if members.get("unevaluatedProperties").is_some_and(|others| *others != Value::Bool(false)) => {
                Found::Named
            }
            _ => Found::Unnamed,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::expression::Expression;

    fn of(condition: &str, schema: &Value) -> (Vec<String>, Vec<String>) {
        let expression = Expression::compile(condition, &["payload"], 512).unwrap();
        let Strangers { closed, unnamed } = strangers(expression.tree(), schema);
        (closed, unnamed)
    }

    fn closed(condition: &str, schema: &Value) -> String {
        of(condition, schema).0.join(" ")
    }

    fn visit(closed: bool) -> Value {
        let mut schema = json!({ "type": "object", "properties": {
            "id": { "type": "string" },
            "who": { "$ref": "#/$defs/who" },
            "lines": { "type": "array", "items": { "type": "object", "properties": { "price": {} }, "additionalProperties": false } },
            "tags": { "type": "object", "additionalProperties": { "type": "string" } },
            "gone": false,
        }, "$defs": { "who": { "type": "object", "properties": { "name": {} }, "additionalProperties": false } } });
        if closed {
            schema["additionalProperties"] = json!(false);
        }
        schema
    }

    #[test]
    fn what_the_schema_has_is_read_without_a_word() {
        for condition in [
            "payload.id == 'x' && payload['id'].startsWith('y')",
            "payload.who.name == 'ada'",
            "payload.lines.exists(line, line.price > 5) && payload.lines[0].price > 1 && size(payload.lines) > 2",
            "payload.tags.red == 'x' && payload.tags.exists(tag, tag == 'red')",
            "has(payload.id) && size(payload) > 1",
        ] {
            assert_eq!(of(condition, &visit(true)), (vec![], vec![]), "{condition}");
        }
    }

    #[test]
    fn what_no_payload_can_have_is_closed_wherever_it_is_read() {
        for (condition, place) in [
            ("payload.nope > 3", "payload.nope"),
            ("payload.id == 'x' || payload['nope'] == 1", "payload.nope"),
            ("has(payload.nope)", "payload.nope"),
            ("payload.who.age > 3", "payload.who.age"),
            ("payload.id.length > 3", "payload.id.length"),
            ("payload.gone == 1", "payload.gone"),
            ("payload.lines.exists(line, line.cost > 5)", "payload.lines[].cost"),
            ("payload.lines[0].cost > 5", "payload.lines[].cost"),
            ("[1, 2].exists(n, n == payload.nope)", "payload.nope"),
        ] {
            assert_eq!(closed(condition, &visit(true)), place, "{condition}");
        }
    }

    #[test]
    fn what_an_open_schema_does_not_name_is_told_unless_the_condition_asks_for_it() {
        let schema = visit(false);
        assert_eq!(of("payload.nope > 3", &schema), (vec![], vec!["payload.nope".to_owned()]));
        assert_eq!(of("has(payload.nope) && payload.nope > 3", &schema), (vec![], vec![]));
        assert_eq!(of("payload.total > 3", &json!({ "type": "object" })).1, ["payload.total"]);
        // Closed further in, though open here.
        assert_eq!(closed("payload.who.age > 3", &schema), "payload.who.age");
    }

    #[test]
    fn schemas_of_parts_close_what_all_of_them_or_one_that_holds_closes() {
        let (open, shut) =
            (json!({ "properties": { "b": {} } }), json!({ "additionalProperties": false, "properties": { "a": {} } }));
        assert_eq!(closed("payload.b == 1", &json!({ "allOf": [open, shut] })), "payload.b");
        assert_eq!(of("payload.b == 1", &json!({ "anyOf": [open, shut] })), (vec![], vec![]));
        assert_eq!(closed("payload.c == 1", &json!({ "oneOf": [shut, shut] })), "payload.c");
        let uneven = json!({ "allOf": [open], "unevaluatedProperties": false });
        assert_eq!(
            (closed("payload.b == 1", &uneven), closed("payload.c == 1", &uneven)),
            (String::new(), "payload.c".into())
        );
        // What is shut says nothing of what is within a member that it names.
        let deep = json!({ "properties": { "a": { "type": "object" } }, "unevaluatedProperties": false });
        assert_eq!(of("payload.a.b == 1", &deep), (vec![], vec!["payload.a.b".to_owned()]));
        assert_eq!(closed("payload.c.b == 1", &deep), "payload.c.b");
        for silent in [
            json!({ "allOf": [{ "additionalProperties": true }], "unevaluatedProperties": false }),
            json!({ "allOf": [{ "unevaluatedProperties": true }], "unevaluatedProperties": false }),
            json!({ "unevaluatedProperties": false, "if": {}, "then": { "properties": { "c": {} } } }),
            json!({ "patternProperties": { "^c$": {} }, "additionalProperties": false }),
            json!({ "$ref": "#other" }),
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/d", "additionalProperties": false,
                "definitions": { "d": { "properties": { "c": {} } } } }),
        ] {
            assert_eq!(of("payload.c == 1", &silent), (vec![], vec![]), "{silent}");
        }
    }
}
