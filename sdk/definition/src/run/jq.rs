//! Expressions: jq, as far as it is the same at every replay.
//!
//! Must never offer a function that reads a clock, an environment, an input or dice, or that ends the program: those are
//! left out of the library, so that naming one is an error at build time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use jaq_core::load::{Arena, Error, File, Loader};
use jaq_core::{Compiler, Ctx, Filter, Vars, data};
use jaq_json::Val;
use serde_json::Value;

use crate::model::VARIABLES;

type Data = data::JustLut<Val>;

/// Native functions that are left out: what ends the program.
const NATIVES_LEFT_OUT: [&str; 1] = ["halt"];
/// Definitions of jq's library that are left out with their numbers of arguments: what they need is not there (output, the end
/// of the program, higher mathematics, regular expressions, dates, formats).
const DEFINITIONS_LEFT_OUT: [(&str, usize); 38] = [
    ("stderr", 0),
    ("debug", 0),
    ("debug", 1),
    ("halt", 0),
    ("halt_error", 0),
    ("halt_error", 1),
    ("logb", 0),
    ("significand", 0),
    ("pow10", 0),
    ("drem", 2),
    ("nexttoward", 2),
    ("scalb", 2),
    ("gamma", 0),
    ("capture_of_match", 0),
    ("test", 1),
    ("test", 2),
    ("scan_", 2),
    ("scan", 1),
    ("scan", 2),
    ("match", 1),
    ("match", 2),
    ("capture", 1),
    ("capture", 2),
    ("split", 2),
    ("splits", 1),
    ("splits", 2),
    ("sub", 2),
    ("sub", 3),
    ("gsub", 2),
    ("gsub", 3),
    ("todate", 0),
    ("fromdate", 0),
    ("@html", 0),
    ("@htmld", 0),
    ("@uri", 0),
    ("@urid", 0),
    ("@base64", 0),
    ("@base64d", 0),
];

/// Names of variables, and a text over them.
type Source = (Vec<String>, String);

/// Expressions that were compiled, by their variables and text.
#[derive(Default)]
pub(super) struct Jq {
    compiled: RefCell<BTreeMap<Source, Rc<Filter<Data>>>>,
}

/// Whether this is jq over these variables, beside those that are always there.
pub(super) fn check(text: &str, names: &[&str]) -> Result<(), String> {
    compile(text, &all_names(names)).map(drop)
}

impl Jq {
    /// What an expression gives: its first output, null when there is none. `extra` are variables beside `usual`, whose
    /// values stand in the order of [`VARIABLES`].
    pub(super) fn evaluate(
        &self,
        text: &str,
        input: &Value,
        usual: [&Value; VARIABLES.len()],
        extra: &[(&str, &Value)],
    ) -> Result<Value, String> {
        let names: Vec<&str> = extra.iter().map(|(name, _)| *name).collect();
        let filter = self.filter(text, all_names(&names))?;
        let values = usual.into_iter().chain(extra.iter().map(|(_, value)| *value));
        let values = values.map(to_jq).collect::<Result<Vec<Val>, String>>()?;
        let context = Ctx::<Data>::new(&filter.lut, Vars::new(values));
        let Some(first) = filter.id.run((context, to_jq(input)?)).next() else { return Ok(Value::Null) };
        match first.map_err(jaq_core::Exn::get_err) {
            Ok(value) => from_jq(&value),
            Err(Ok(error)) => Err(error.to_string()),
            Err(Err(_)) => Err("the expression breaks out of itself".to_owned()),
        }
    }

    fn filter(&self, text: &str, names: Vec<String>) -> Result<Rc<Filter<Data>>, String> {
        let key = (names, text.to_owned());
        if let Some(filter) = self.compiled.borrow().get(&key) {
            return Ok(Rc::clone(filter));
        }
        let filter = Rc::new(compile(text, &key.0)?);
        self.compiled.borrow_mut().insert(key, Rc::clone(&filter));
        Ok(filter)
    }
}

/// `$` before each name.
fn all_names(names: &[&str]) -> Vec<String> {
    VARIABLES.iter().chain(names).map(|name| format!("${name}")).collect()
}

fn compile(text: &str, names: &[String]) -> Result<Filter<Data>, String> {
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let definitions =
        definitions.filter(|definition| !DEFINITIONS_LEFT_OUT.contains(&(definition.name, definition.args.len())));
    let natives = jaq_core::funs().chain(jaq_std::base_funs()).chain(jaq_json::funs());
    let natives = natives.filter(|(name, ..)| !NATIVES_LEFT_OUT.contains(name));
    let arena = Arena::default();
    let modules = Loader::new(definitions).load(&arena, File { code: text, path: () });
    let modules = modules.map_err(|errors| match errors.into_iter().next() {
        Some((_, error)) => format!("is no jq: {}", words(&error)),
        None => "is no jq".to_owned(),
    })?;
    let compiler = Compiler::default().with_funs(natives).with_global_vars(names.iter().map(String::as_str));
    compiler.compile(modules).map_err(|errors| {
        let unknown = errors.iter().flat_map(|(_, errors)| errors);
        let unknown: Vec<String> =
            unknown.map(|(name, kind)| format!("there is no {} `{name}`", kind.as_str())).collect();
        unknown.join(", ")
    })
}

fn words(error: &Error<&str>) -> String {
    let near = |text: &str| text.chars().take(40).collect::<String>();
    match error {
        Error::Io(_) => "modules are not supported".to_owned(),
        // Not its own words for it, which are made for brackets that are known.
        Error::Lex(errors) => match errors.first() {
            Some((_, found)) => format!("cannot read `{}`", near(found)),
            None => "cannot be read".to_owned(),
        },
        Error::Parse(errors) => match errors.first() {
            Some((expected, "")) => format!("expected {} at its end", expected.as_str()),
            Some((expected, found)) => format!("expected {} before `{}`", expected.as_str(), near(found)),
            None => "cannot be read".to_owned(),
        },
    }
}

fn to_jq(value: &Value) -> Result<Val, String> {
    jaq_json::read::parse_single(value.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// jq can make values that JSON has not, such as infinity.
fn from_jq(value: &Val) -> Result<Value, String> {
    serde_json::from_str(&value.to_string()).map_err(|_| "the expression gives what is no JSON".to_owned())
}
