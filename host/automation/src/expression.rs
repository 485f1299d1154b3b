//! Yes-or-no expressions that tenants write, in CEL (cel.dev): compiled once, each evaluation bounded before it begins.
//!
//! The interpreter cannot be stopped, so what an evaluation may cost is worked out first: from the expression's tree, as a
//! sum in the bytes `S` of what it is given and the items `N` of the longest list in that, and then with their real
//! values. Must never begin one whose bound is over [`COST_MAX`], nor one with a loop inside a loop, a function that is not
//! on the list, or a tree deeper than the interpreter's own recursion bears.

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, Program, Value as CelValue};
use serde_json::Value;

/// LIMIT: most that one evaluation may cost, in steps of about a byte touched.
pub const COST_MAX: u64 = 1 << 28;
/// LIMIT: most brackets, and most conditionals, inside each other.
const NESTING_COUNT_MAX: usize = 16;
/// LIMIT: levels of the tree. The interpreter calls itself once a level, on the stack of whoever asks.
const DEPTH_COUNT_MAX: usize = 32;
/// What a node costs by itself, in the same steps.
const NODE_COST: u64 = 16;
/// LIMIT: longest reason given for a failure, in characters.
const WHY_CHARS_MAX: usize = 200;
/// Stack of the thread that parses one: the parser calls itself for what is nested.
const PARSER_STACK_BYTES: usize = 16 << 20;
/// What an expression may call beside operators: each touches its arguments once.
const FUNCTIONS: [&str; 9] = ["size", "contains", "startsWith", "endsWith", "string", "int", "uint", "double", "bool"];

/// An expression, compiled.
pub struct Expression {
    program: Program,
    cost: Sum,
    /// Lists can be joined to longer ones this often.
    joins_count: u64,
}

/// An expression with the part of its variables that stays the same over many evaluations.
pub struct Prepared<'e> {
    expression: &'e Expression,
    context: Context<'static, 'static>,
    given: Given,
}

/// A cost or a length: `one + bytes * S + items * N + items_bytes * N * S`, and inside of a loop `item` times the length of
/// the item at hand.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    one: u64,
    bytes: u64,
    item: u64,
    items: u64,
    items_bytes: u64,
}

/// What an evaluation is given, measured.
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    bytes: u64,
    items_count_max: u64,
}

/// Where in an expression the measuring is.
struct Place<'a> {
    names: &'a [&'a str],
    /// The names of the loop around, if there is one: its item's and its result's.
    inside: Option<(&'a str, &'a str)>,
    depth: usize,
}

// === impl Expression ===

impl Expression {
    /// Compiles an expression of at most `bytes_max` bytes about the variables `names`; the error says what is wrong with it.
    pub fn compile(source: &str, names: &[&str], bytes_max: usize) -> Result<Self, String> {
        check_shape(source, bytes_max)?;
        let text = source.to_owned();
        let parse = move || Program::compile(&text).map_err(|error| error.to_string());
        let thread = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES).spawn(parse);
        let thread = thread.map_err(|_| "it cannot be read now".to_owned())?;
        let parsed = thread.join().map_err(|_| "it cannot be read".to_owned())?;
        let program = parsed.map_err(|why| why.chars().take(300).collect::<String>())?;
        let (cost, _) = measure(program.expression(), &Place { names, inside: None, depth: 0 })?;
        let joins_count = source.matches('+').count() as u64;
        Ok(Self { program, cost, joins_count })
    }

    /// Whether it holds for these variables; an error when that cannot be said of them.
    pub fn holds(&self, variables: &[(&str, &Value)]) -> Result<bool, String> {
        match variables.split_first() {
            Some(((name, value), rest)) => self.prepare(rest)?.holds(name, value),
            None => self.prepare(&[])?.holds("", &Value::Null),
        }
    }

    /// Takes in what stays the same over many evaluations.
    pub fn prepare(&self, variables: &[(&str, &Value)]) -> Result<Prepared<'_>, String> {
        let mut context = Context::default();
        let mut given = Given::default();
        for (name, value) in variables {
            given.add(value);
            context.add_variable(*name, (*value).clone()).map_err(|error| short(&error))?;
        }
        Ok(Prepared { expression: self, context, given })
    }

    /// Its tree.
    pub(crate) fn tree(&self) -> &IdedExpr {
        self.program.expression()
    }

    /// Whether it speaks of a variable.
    pub fn mentions(&self, name: &str) -> bool {
        self.program.references().has_variable(name)
    }

    /// The most that an evaluation over so much can cost.
    fn cost(&self, given: Given) -> u64 {
        // A list in the expression itself counts too, and joining makes longer ones.
        let longest = given.items_count_max.max(64).saturating_mul(self.joins_count.saturating_add(1));
        self.cost.at(given.bytes, longest)
    }
}

// === impl Prepared ===

impl Prepared<'_> {
    /// Whether it holds with one more variable; an error when that cannot be said of it.
    pub fn holds(&self, name: &str, value: &Value) -> Result<bool, String> {
        if self.cost(value) > COST_MAX {
            return Err("it could cost too much for what it is about".to_owned());
        }
        let mut context = self.context.new_inner_scope();
        context.add_variable(name, value.clone()).map_err(|error| short(&error))?;
        match self.expression.program.execute(&context) {
            Ok(CelValue::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it comes to something other than true or false".to_owned()),
            Err(error) => Err(short(&error)),
        }
    }

    /// The most that an evaluation with this variable can cost.
    pub fn cost(&self, value: &Value) -> u64 {
        let mut given = self.given;
        given.add(value);
        self.expression.cost(given)
    }
}

// === impl Given ===

impl Given {
    fn add(&mut self, value: &Value) {
        let more = match value {
            Value::String(text) => text.len(),
            Value::Array(items) => {
                self.items_count_max = self.items_count_max.max(items.len() as u64);
                items.iter().for_each(|item| self.add(item));
                0
            }
            Value::Object(members) => {
                self.items_count_max = self.items_count_max.max(members.len() as u64);
                members.values().for_each(|item| self.add(item));
                members.keys().map(String::len).sum()
            }
            _ => 8,
        };
        self.bytes = self.bytes.saturating_add(more as u64).saturating_add(8);
    }
}

// === impl Sum ===

impl Sum {
    const fn one(one: u64) -> Self {
        Self { one, bytes: 0, item: 0, items: 0, items_bytes: 0 }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            one: self.one.saturating_add(other.one),
            bytes: self.bytes.saturating_add(other.bytes),
            item: self.item.saturating_add(other.item),
            items: self.items.saturating_add(other.items),
            items_bytes: self.items_bytes.saturating_add(other.items_bytes),
        }
    }

    /// The sum over the items of a list that is `range` long: what a loop around this comes to.
    fn over(self, range: Self) -> Self {
        let each = |count: u64| self.item.saturating_mul(count);
        Self {
            one: each(range.one),
            bytes: each(range.bytes),
            item: 0,
            items: self.one.saturating_add(each(range.items)),
            items_bytes: self.bytes.saturating_add(each(range.items_bytes)),
        }
    }

    fn at(self, bytes: u64, items: u64) -> u64 {
        let products = [
            self.bytes.saturating_mul(bytes),
            self.items.saturating_mul(items),
            self.items_bytes.saturating_mul(items).saturating_mul(bytes),
        ];
        products.into_iter().fold(self.one, u64::saturating_add)
    }
}

/// What evaluating a node costs, and how long its value can be.
fn measure(node: &IdedExpr, place: &Place<'_>) -> Result<(Sum, Sum), String> {
    if place.depth > DEPTH_COUNT_MAX {
        return Err(format!("it is more than {DEPTH_COUNT_MAX} levels deep"));
    }
    let inner = Place { names: place.names, inside: place.inside, depth: place.depth + 1 };
    let own = Sum::one(NODE_COST);
    match &node.expr {
        Expr::Literal(literal) => Ok((own, Sum::one(literal_bytes(literal)))),
        Expr::Ident(name) => match place.inside {
            Some((item, _)) if item == name => Ok((own, Sum { item: 1, ..Sum::one(8) })),
            // `all`, `exists`: true or false. What `map` and `filter` gather is added to in place.
            Some((_, result)) if result == name => Ok((own, Sum::one(8))),
            _ if place.names.contains(&name.as_str()) => Ok((own, Sum { bytes: 1, ..Sum::one(8) })),
            _ => Err(format!("it knows {}, not `{name}`", place.names.join(", "))),
        },
        Expr::Select(select) => {
            let (cost, length) = measure(&select.operand, &inner)?;
            Ok((cost.plus(own), length))
        }
        Expr::Call(call) => {
            check_function(&call.func_name)?;
            all_of(call.target.as_deref().into_iter().chain(&call.args), &inner)
        }
        Expr::List(list) => all_of(list.elements.iter(), &inner),
        Expr::Map(map) => {
            let parts = map.entries.iter().flat_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => [&entry.key, &entry.value],
                EntryExpr::StructField(field) => [&field.value, &field.value],
            });
            all_of(parts, &inner)
        }
        Expr::Comprehension(looped) => {
            if place.inside.is_some() {
                return Err("it has a loop inside a loop".to_owned());
            }
            let (before, range) = measure(&looped.iter_range, &inner)?;
            let within = Place { inside: Some((looped.iter_var.as_str(), looped.accu_var.as_str())), ..inner };
            let (condition, _) = measure(&looped.loop_cond, &within)?;
            let (step, gathered) = measure(&looped.loop_step, &within)?;
            let (after, _) = measure(&looped.result, &within)?;
            // Each item is copied once.
            let turn = condition.plus(step).plus(Sum { item: 1, ..own });
            let cost = own.plus(before).plus(range).plus(turn.over(range)).plus(after);
            Ok((cost, gathered.over(range)))
        }
        Expr::Struct(_) | Expr::Unspecified => Err("it makes a thing of a type, which there is not here".to_owned()),
    }
}

/// Evaluates several and touches each of their values once.
fn all_of<'a>(parts: impl Iterator<Item = &'a IdedExpr>, place: &Place<'_>) -> Result<(Sum, Sum), String> {
    let (mut cost, mut length) = (Sum::one(NODE_COST), Sum::one(8));
    for part in parts {
        let (more, long) = measure(part, place)?;
        cost = cost.plus(more).plus(long);
        length = length.plus(long);
    }
    Ok((cost, length))
}

fn check_function(name: &str) -> Result<(), String> {
    let operators = [
        operators::CONDITIONAL,
        operators::LOGICAL_AND,
        operators::LOGICAL_OR,
        operators::LOGICAL_NOT,
        operators::SUBSTRACT,
        operators::ADD,
        operators::MULTIPLY,
        operators::DIVIDE,
        operators::MODULO,
        operators::EQUALS,
        operators::NOT_EQUALS,
        operators::GREATER_EQUALS,
        operators::LESS_EQUALS,
        operators::GREATER,
        operators::LESS,
        operators::NEGATE,
        operators::INDEX,
        operators::NOT_STRICTLY_FALSE,
        operators::IN,
    ];
    if operators.contains(&name) || FUNCTIONS.contains(&name) {
        return Ok(());
    }
    Err(format!("it calls `{name}`; there is {}", FUNCTIONS.join(", ")))
}

fn literal_bytes(literal: &LiteralValue) -> u64 {
    match literal {
        LiteralValue::String(text) => text.inner().len() as u64,
        LiteralValue::Bytes(bytes) => bytes.inner().len() as u64,
        _ => 8,
    }
}

fn check_shape(source: &str, bytes_max: usize) -> Result<(), String> {
    if source.is_empty() || source.len() > bytes_max {
        return Err(format!("it is 1 to {bytes_max} bytes"));
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

fn short(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().take(WHY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const BYTES_MAX: usize = 1_024;

    fn compile(source: &str) -> Result<Expression, String> {
        Expression::compile(source, &["entry", "facts"], BYTES_MAX)
    }

    fn holds(source: &str, entry: Value) -> Result<bool, String> {
        compile(source).unwrap().holds(&[("entry", &entry), ("facts", &json!({ "limit": 3, "names": ["a", "b"] }))])
    }

    #[test]
    fn an_expression_is_about_all_its_variables() {
        assert_eq!(holds("entry.count > facts.limit", json!({ "count": 4 })), Ok(true));
        assert_eq!(
            holds("entry.name in facts.names && !(entry.count < 2)", json!({ "name": "b", "count": 2 })),
            Ok(true)
        );
        assert_eq!(holds("entry.tags.all(tag, tag.startsWith('x-'))", json!({ "tags": ["x-1", "y"] })), Ok(false));
        assert_eq!(holds("entry.tags.filter(t, t != 'y').size() == 1", json!({ "tags": ["x", "y"] })), Ok(true));
        assert_eq!(holds("has(entry.count) ? entry.count == 1 : true", json!({})), Ok(true));
        assert!(holds("entry.count > 1", json!({})).is_err());
        assert!(holds("entry.count", json!({ "count": 1 })).is_err());
    }

    #[test]
    fn what_it_does_not_know_is_refused_when_it_is_written() {
        for wrong in [
            "request.total > 1",
            "entry.name.matches('(a+)+$')",
            "entry.tags.all(x, entry.tags.all(y, x == y))",
            "entry.tags.map(x, entry.tags.exists(y, x == y)).size() > 0",
            "Thing{a: 1} == entry",
            "entry.tags.all(x, x == y)",
            "size(",
            "",
        ] {
            assert!(compile(wrong).is_err(), "{wrong}");
        }
        assert!(compile("entry.tags.exists(x, x == 'a') && facts.names.exists(y, y == 'b')").is_ok());
    }

    #[test]
    fn what_is_deep_is_refused_and_overflows_nothing() {
        let chains = [
            format!("{}entry == 1", "1+".repeat(500)),
            format!("{}1 == 1", "entry[".repeat(15) + &"]".repeat(15)),
            format!("{}true", "!".repeat(501)),
            format!("{}1 == 1", "-".repeat(501)),
            format!("entry{} == 1", ".a".repeat(500)),
            format!("true{}", "||true".repeat(160)),
            format!("{}true", "true?true:".repeat(100)),
            format!("{}1{}", "[".repeat(40), "]".repeat(40)),
        ];
        for chain in chains {
            if let Ok(expression) = compile(&chain) {
                // On a stack of the size that worker threads have.
                let _ = expression.holds(&[("entry", &json!({ "a": 1 })), ("facts", &json!({}))]);
            }
        }
        assert!(compile(&format!("{}1 == 1", "1+".repeat(100))).is_err());
    }

    #[test]
    fn what_could_take_long_is_not_begun() {
        let rows: Vec<Value> = (0..8_000).map(|n| json!(n)).collect();
        let large = json!({ "text": "x".repeat(64 << 10), "rows": rows });
        let doubled = format!("entry.rows.map(r, {}).size() > 0", ["entry.text"; 16].join("+"));
        for bomb in [doubled.as_str(), "entry.rows.all(r, entry.text == entry.text + 'x')"] {
            let error = compile(bomb).unwrap().holds(&[("entry", &large), ("facts", &json!({}))]).unwrap_err();
            assert!(error.contains("too much"), "{error}");
        }
        // The same over little, and what touches much once, is no matter.
        assert_eq!(holds("entry.rows.all(r, entry.text != 'x')", json!({ "text": "y", "rows": [1, 2] })), Ok(true));
        let one = compile("entry.text.contains('y') || entry.rows.exists(r, r == 7999)").unwrap();
        assert_eq!(one.holds(&[("entry", &large), ("facts", &json!({}))]), Ok(true));
    }

    #[test]
    fn a_prepared_expression_answers_as_a_fresh_one() {
        let expression = compile("entry.n < facts.limit").unwrap();
        let facts = json!({ "limit": 2 });
        let prepared = expression.prepare(&[("facts", &facts)]).unwrap();
        for n in 0..4 {
            let entry = json!({ "n": n });
            assert_eq!(prepared.holds("entry", &entry), Ok(n < 2));
            assert_eq!(expression.holds(&[("entry", &entry), ("facts", &facts)]), Ok(n < 2));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn whatever_is_written_it_compiles_or_says_why(source in "[a-z0-9 .,()\\[\\]?:!&|=<>+'\"-]{0,60}") {
            if let Ok(expression) = compile(&source) {
                let _ = expression.holds(&[("entry", &json!({ "a": [1, "b"] })), ("facts", &json!({}))]);
            }
        }
    }
}
