//! Reads a definition: the document around the tasks, expressions and templates, and all caps.
//!
//! Must never recurse deeper than its caps, and never parse an expression: that is for the guest, whose stack is its own.

use serde_json::Value;

use crate::Refusal;
use crate::at::At;
use crate::limits::{DATA_DEPTH_MAX, DEFINITION_BYTES_MAX, EXPRESSION_BYTES_MAX, TASKS_COUNT_MAX};
use crate::model::{Definition, Expression, Template};
use crate::task::Place;

/// What is known of the document while its tasks are read.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) namespace: String,
    pub(crate) version: String,
    pub(crate) has_calls: bool,
    pub(crate) has_events: bool,
    pub(crate) children: Vec<(String, String)>,
    /// Variables that the tasks around have bound.
    pub(crate) variables: Vec<String>,
    expressions: Vec<Expression>,
    tasks_count: usize,
}

impl Definition {
    /// Reads a definition from JSON. Everything that is not supported is refused with its path; nothing is executed.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(json: &str) -> Result<Self, Refusal> {
        if json.len() > DEFINITION_BYTES_MAX {
            return Err(Refusal::new("", format!("is larger than {DEFINITION_BYTES_MAX} bytes")));
        }
        // The parser has a cap of its own on nesting, below what any stack holds.
        let value: Value =
            serde_json::from_str(json).map_err(|error| Refusal::new("", format!("is no JSON: {error}")))?;
        read(&At::root(&value))
    }
}

fn read(root: &At<'_>) -> Result<Definition, Refusal> {
    root.only(&["document", "input", "output", "do", "evaluate"])?;
    let document = root.need("document")?;
    document.only(&["dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"])?;
    check_dsl(&document.need("dsl")?)?;
    let word = |key: &str| document.need(key)?.name();
    let (namespace, name) = (word("namespace")?.to_owned(), word("name")?.to_owned());
    let version = word("version")?.to_owned();
    if let Some(evaluate) = root.get("evaluate") {
        check_evaluate(&evaluate)?;
    }
    let mut reader = Reader { namespace: namespace.clone(), version: version.clone(), ..Reader::default() };
    let input_from = reader.data_flow(root, "input", "from")?;
    let output_as = reader.data_flow(root, "output", "as")?;
    let tasks = reader.tasks(&root.need("do")?, Place::default())?;
    let Reader { has_calls, has_events, children, expressions, .. } = reader;
    Ok(Definition {
        namespace,
        name,
        version,
        has_calls,
        has_events,
        children,
        expressions,
        input_from,
        output_as,
        tasks,
    })
}

fn check_dsl(dsl: &At<'_>) -> Result<(), Refusal> {
    let patch = dsl.text()?.strip_prefix("1.0.");
    if patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(());
    }
    dsl.refuse("only version 1.0.x of the DSL is supported")
}

/// jq in strict mode is what there is; saying so is allowed.
fn check_evaluate(evaluate: &At<'_>) -> Result<(), Refusal> {
    evaluate.only(&["language", "mode"])?;
    for (key, only) in [("language", "jq"), ("mode", "strict")] {
        if let Some(at) = evaluate.get(key)
            && at.text()? != only
        {
            return at.refuse(format!("not supported, only `{only}` is"));
        }
    }
    Ok(())
}

impl Reader {
    pub(crate) fn count_task(&mut self, at: &At<'_>) -> Result<(), Refusal> {
        self.tasks_count = self.tasks_count.saturating_add(1);
        if self.tasks_count > TASKS_COUNT_MAX {
            return at.refuse(format!("is one task too many: a definition has at most {TASKS_COUNT_MAX}"));
        }
        Ok(())
    }

    /// `input.from`, `output.as`, `export.as`: an expression, or an object with expressions in it.
    pub(crate) fn data_flow(&mut self, of: &At<'_>, key: &str, word: &str) -> Result<Option<Template>, Refusal> {
        let Some(flow) = of.get(key) else { return Ok(None) };
        flow.only(&[word])?;
        let Some(at) = flow.get(word) else { return Ok(None) };
        if at.value.is_string() {
            return Ok(Some(Template::Expression(self.expression(&at)?)));
        }
        at.map()?;
        Ok(Some(self.template(&at)?))
    }

    /// A text that is an expression, with `${ }` around it or without.
    pub(crate) fn expression(&mut self, at: &At<'_>) -> Result<String, Refusal> {
        let Some(text) = at.value.as_str() else { return at.refuse("must be an expression") };
        let bare = inside(text).unwrap_or(text).trim();
        if bare.len() > EXPRESSION_BYTES_MAX {
            return at.refuse(format!("is an expression of more than {EXPRESSION_BYTES_MAX} bytes"));
        }
        if bare.is_empty() {
            return at.refuse("is an empty expression");
        }
        let mut variables = self.variables.clone();
        variables.sort_unstable();
        variables.dedup();
        self.expressions.push(Expression { path: at.path.clone(), text: bare.to_owned(), variables });
        Ok(bare.to_owned())
    }

    pub(crate) fn optional_expression(&mut self, of: &At<'_>, key: &str) -> Result<Option<String>, Refusal> {
        of.get(key).map(|at| self.expression(&at)).transpose()
    }

    /// Data with expressions in it; a text is one when `${ }` is around it.
    pub(crate) fn template(&mut self, at: &At<'_>) -> Result<Template, Refusal> {
        if at.value.as_str().is_some_and(|text| inside(text).is_some()) {
            return Ok(Template::Expression(self.expression(at)?));
        }
        self.check_data(at, 0)?;
        Ok(Template::Data(at.value.clone()))
    }

    pub(crate) fn optional_template(&mut self, of: &At<'_>, key: &str) -> Result<Option<Template>, Refusal> {
        of.get(key).map(|at| self.template(&at)).transpose()
    }

    fn check_data(&mut self, at: &At<'_>, depth: usize) -> Result<(), Refusal> {
        if depth > DATA_DEPTH_MAX {
            return at.refuse(format!("is nested more than {DATA_DEPTH_MAX} deep"));
        }
        match at.value {
            Value::Object(_) => {
                for (_, member) in at.members()? {
                    self.check_data(&member, depth + 1)?;
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for item in at.items()? {
                    self.check_data(&item, depth + 1)?;
                }
            }
            Value::String(text) if inside(text).is_some() => drop(self.expression(at)?),
            _ => {}
        }
        Ok(())
    }
}

/// What is between `${` and `}`, if that is all there is.
pub(crate) fn inside(text: &str) -> Option<&str> {
    text.trim().strip_prefix("${")?.strip_suffix('}')
}
