//! Reads the tasks of a definition.
//!
//! Must never accept a key of a task that the interpreter has no use for.

use serde_json::Value;

use crate::Refusal;
use crate::at::At;
use crate::limits::{ATTEMPTS_COUNT_MAX, BRANCHES_COUNT_MAX, TASK_DEPTH_MAX, WAIT_MS_MAX};
use crate::model::{Backoff, Call, Case, Loop, Retry, Task, Template, Then, Try, Work};
use crate::read::{Reader, inside};

/// What every task may have.
const COMMON: [&str; 6] = ["if", "input", "output", "export", "then", "metadata"];
/// The kinds of tasks with their keys. `for` and `try` come first: `do` is a word of theirs too.
const KINDS: [&[&str]; 12] = [
    &["for", "while", "do"],
    &["try", "catch"],
    &["call", "with"],
    &["listen", "timeout"],
    &["do"],
    &["emit"],
    &["fork"],
    &["raise"],
    &["run"],
    &["set"],
    &["switch"],
    &["wait"],
];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const ERROR_WORDS: [&str; 5] = ["type", "status", "title", "detail", "instance"];

/// Where in the document a task is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    depth: usize,
    is_in_fork: bool,
}

impl Place {
    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

impl Reader {
    pub(crate) fn tasks(&mut self, list: &At<'_>, place: Place) -> Result<Vec<Task>, Refusal> {
        if place.depth > TASK_DEPTH_MAX {
            return list.refuse(format!("task lists are nested more than {TASK_DEPTH_MAX} deep"));
        }
        let mut named: Vec<(&str, At<'_>)> = Vec::new();
        for item in list.items()? {
            let (name, task) = item.named()?;
            task.check_name(name)?;
            if matches!(name, "continue" | "exit" | "end") {
                return task.refuse("is the name of a flow directive");
            }
            if named.iter().any(|(other, _)| *other == name) {
                return task.refuse("another task of this list has the same name");
            }
            // Before the next one is looked at: comparing names costs the square of their number.
            self.count_task(&task)?;
            named.push((name, task));
        }
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        named.iter().map(|(name, task)| self.task(name, task, &names, place)).collect()
    }

    fn task(&mut self, name: &str, at: &At<'_>, names: &[&str], place: Place) -> Result<Task, Refusal> {
        let map = at.map()?;
        let keys = KINDS.into_iter().find(|keys| keys.first().is_some_and(|kind| map.contains_key(*kind)));
        let known: Vec<&str> = COMMON.into_iter().chain(keys.into_iter().flatten().copied()).collect();
        at.only(&known)?;
        let Some(kind) = keys.and_then(|keys| keys.first()) else { return at.refuse("has nothing to do") };
        let condition = self.optional_expression(at, "if")?;
        let input_from = self.data_flow(at, "input", "from")?;
        let work = self.work(kind, at, names, place)?;
        let output_as = self.data_flow(at, "output", "as")?;
        let export_as = self.data_flow(at, "export", "as")?;
        if let Some(export) = at.get("export")
            && place.is_in_fork
        {
            return export.refuse("not supported inside a fork: its branches have no common context");
        }
        let then = match at.get("then") {
            Some(then) => then_of(&then, names, place)?,
            None => Then::Next,
        };
        Ok(Task {
            name: name.to_owned(),
            path: at.path.clone(),
            condition,
            input_from,
            output_as,
            export_as,
            then,
            work,
        })
    }

    fn work(&mut self, kind: &str, at: &At<'_>, names: &[&str], place: Place) -> Result<Work, Refusal> {
        let of = at.need(kind)?;
        match kind {
            "do" => Ok(Work::Do(self.tasks(&of, place.deeper())?)),
            "set" => self.set(&of),
            "call" => self.call(at, &of),
            "switch" => self.switch(&of, names, place),
            "for" => self.for_each(at, &of, place),
            "fork" => self.fork(&of, place),
            "wait" => Ok(Work::Wait { ms: of.duration_ms()? }),
            "listen" => listen(at, &of),
            "emit" => self.emit(&of),
            "raise" => self.raise(&of),
            "try" => self.try_catch(at, &of, place),
            _ => self.run(&of),
        }
    }

    fn set(&mut self, of: &At<'_>) -> Result<Work, Refusal> {
        Ok(Work::Set(self.object(of)?))
    }

    /// An object with expressions in it, or an expression that gives one.
    fn object(&mut self, at: &At<'_>) -> Result<Template, Refusal> {
        if at.value.as_str().is_none_or(|text| inside(text).is_none()) {
            at.map()?;
        }
        self.template(at)
    }

    fn call(&mut self, at: &At<'_>, of: &At<'_>) -> Result<Work, Refusal> {
        let what = of.text()?;
        if what != "http" {
            return of.refuse(format!("`{what}` is not supported, only `http` is"));
        }
        self.has_calls = true;
        let with = at.need("with")?;
        with.only(&["method", "endpoint", "headers", "query", "body", "output"])?;
        let method = with.need("method")?;
        let upper = method.text()?.to_ascii_uppercase();
        if !METHODS.contains(&upper.as_str()) {
            return method.refuse(format!("must be one of {}", METHODS.join(", ")));
        }
        let endpoint = self.endpoint(&with.need("endpoint")?)?;
        let headers = with.get("headers").map(|at| self.object(&at)).transpose()?;
        let query = with.get("query").map(|at| self.object(&at)).transpose()?;
        let body = self.optional_template(&with, "body")?;
        let wants_response = match with.get("output") {
            None => false,
            Some(output) => match output.text()? {
                "content" => false,
                "response" => true,
                other => {
                    return output.refuse(format!("`{other}` is not supported, only `content` and `response` are"));
                }
            },
        };
        Ok(Work::Call(Box::new(Call { method: upper, endpoint, headers, query, body, wants_response })))
    }

    /// A URL, an expression that gives one, or an object with its `uri`.
    fn endpoint(&mut self, at: &At<'_>) -> Result<Template, Refusal> {
        let uri = if at.value.is_object() {
            at.only(&["uri"])?;
            at.need("uri")?
        } else {
            at.clone()
        };
        let text = uri.text()?;
        let template = self.template(&uri)?;
        if matches!(template, Template::Data(_)) {
            if !(text.starts_with("http://") || text.starts_with("https://")) {
                return uri.refuse("must be an http or https URL");
            }
            check_holes(&uri, text)?;
        }
        Ok(template)
    }

    fn switch(&mut self, of: &At<'_>, names: &[&str], place: Place) -> Result<Work, Refusal> {
        let mut cases = Vec::new();
        for item in of.items()? {
            let (_, case) = item.named()?;
            case.only(&["when", "then"])?;
            let when = self.optional_expression(&case, "when")?;
            cases.push(Case { when, then: then_of(&case.need("then")?, names, place)? });
        }
        Ok(Work::Switch(cases))
    }

    fn for_each(&mut self, at: &At<'_>, of: &At<'_>, place: Place) -> Result<Work, Refusal> {
        of.only(&["each", "in", "at"])?;
        let items = self.expression(&of.need("in")?)?;
        let item = variable(of.get("each"), "item")?;
        let index = variable(of.get("at"), "index")?;
        let bound = self.variables.len();
        self.variables.extend([item.clone(), index.clone()]);
        let condition = self.optional_expression(at, "while")?;
        let tasks = self.tasks(&at.need("do")?, place.deeper())?;
        self.variables.truncate(bound);
        Ok(Work::For(Box::new(Loop { item, index, items, condition, tasks })))
    }

    fn fork(&mut self, of: &At<'_>, place: Place) -> Result<Work, Refusal> {
        of.only(&["branches", "compete"])?;
        if let Some(compete) = of.get("compete")
            && compete.flag()?
        {
            return compete.refuse("not supported: all branches are waited for");
        }
        let branches = of.need("branches")?;
        if branches.items()?.len() > BRANCHES_COUNT_MAX {
            return branches.refuse(format!("has more than {BRANCHES_COUNT_MAX} branches"));
        }
        let tasks = self.tasks(&branches, Place { is_in_fork: true, ..place.deeper() })?;
        if let Some(task) = tasks.iter().find(|task| task.then != Then::Next) {
            return Err(Refusal::new(format!("{}/then", task.path), "not supported: a branch has nothing after it"));
        }
        Ok(Work::Fork(tasks))
    }

    fn emit(&mut self, of: &At<'_>) -> Result<Work, Refusal> {
        of.only(&["event"])?;
        let event = of.need("event")?;
        event.only(&["with"])?;
        let with = event.need("with")?;
        with.only(&["source", "type", "subject", "datacontenttype", "data"])?;
        with.need("source")?;
        let queue = with.need("type")?.name()?.to_owned();
        self.has_events = true;
        Ok(Work::Emit { queue, event: self.template(&with)? })
    }

    fn raise(&mut self, of: &At<'_>) -> Result<Work, Refusal> {
        of.only(&["error"])?;
        let error = of.need("error")?;
        error.only(&ERROR_WORDS)?;
        error.need("type")?.text()?;
        error.need("status")?.number(100, 599)?;
        Ok(Work::Raise(self.template(&error)?))
    }

    fn try_catch(&mut self, at: &At<'_>, of: &At<'_>, place: Place) -> Result<Work, Refusal> {
        let catch = at.need("catch")?;
        catch.only(&["errors", "as", "when", "exceptWhen", "retry", "do"])?;
        let tasks = self.tasks(of, place.deeper())?;
        let matches = match catch.get("errors") {
            Some(errors) => matches_of(&errors)?,
            None => Vec::new(),
        };
        let retry = catch.get("retry").map(|retry| retry_of(&retry)).transpose()?;
        let error = variable(catch.get("as"), "error")?;
        let bound = self.variables.len();
        self.variables.push(error.clone());
        let when = self.optional_expression(&catch, "when")?;
        let except_when = self.optional_expression(&catch, "exceptWhen")?;
        let handler = catch.get("do").map(|list| self.tasks(&list, place.deeper())).transpose()?;
        self.variables.truncate(bound);
        Ok(Work::Try(Box::new(Try { tasks, matches, error, when, except_when, retry, handler })))
    }

    fn run(&mut self, of: &At<'_>) -> Result<Work, Refusal> {
        of.only(&["workflow", "await"])?;
        let child = of.need("workflow")?;
        child.only(&["namespace", "name", "version", "input"])?;
        let name = child.need("name")?;
        let namespace = child.need("namespace")?;
        if namespace.text()? != self.namespace {
            return namespace.refuse("must be this definition's own: a run begins workflows of its own plugin");
        }
        if let Some(version) = child.get("version")
            && !["latest", self.version.as_str()].contains(&version.text()?)
        {
            return version.refuse("must be `latest` or this definition's own: a child runs in its parent's version");
        }
        let workflow = name.name()?.to_owned();
        self.children.push((name.path.clone(), workflow.clone()));
        let is_awaited = of.get("await").map_or(Ok(true), |at| at.flag())?;
        Ok(Work::Run { workflow, input: self.optional_template(&child, "input")?, is_awaited })
    }
}

fn then_of(at: &At<'_>, names: &[&str], place: Place) -> Result<Then, Refusal> {
    match at.text()? {
        "continue" => Ok(Then::Next),
        "exit" => Ok(Then::Exit),
        "end" if place.is_in_fork => at.refuse("not supported inside a fork: the other branches go on"),
        "end" => Ok(Then::End),
        name => match names.iter().position(|other| *other == name) {
            Some(index) => Ok(Then::Task(index)),
            None => at.refuse(format!("there is no task `{name}` in this list")),
        },
    }
}

fn listen(at: &At<'_>, of: &At<'_>) -> Result<Work, Refusal> {
    of.only(&["to", "read"])?;
    if let Some(read) = of.get("read")
        && read.text()? != "data"
    {
        return read.refuse("not supported, only `data` is");
    }
    let to = of.need("to")?;
    to.only(&["one"])?;
    let one = to.need("one")?;
    one.only(&["with"])?;
    let with = one.need("with")?;
    with.only(&["type"])?;
    let event = with.need("type")?.name()?.to_owned();
    let timeout_ms = match at.get("timeout") {
        None => None,
        Some(timeout) => {
            timeout.only(&["after"])?;
            Some(timeout.need("after")?.duration_ms()?)
        }
    };
    Ok(Work::Listen { event, timeout_ms })
}

/// What a caught error must have: the words of an error with values that are compared.
fn matches_of(errors: &At<'_>) -> Result<Vec<(String, Value)>, Refusal> {
    errors.only(&["with"])?;
    let with = errors.need("with")?;
    with.only(&ERROR_WORDS)?;
    let mut matches = Vec::new();
    for (word, at) in with.members()? {
        if word == "status" {
            at.number(100, 599)?;
        } else if inside(at.text()?).is_some() {
            return at.refuse("must be a plain value; `when` takes an expression");
        }
        matches.push((word.to_owned(), at.value.clone()));
    }
    Ok(matches)
}

fn retry_of(at: &At<'_>) -> Result<Retry, Refusal> {
    if at.value.is_string() {
        return at.refuse("named policies are not supported: write the policy here");
    }
    at.only(&["delay", "backoff", "limit", "jitter"])?;
    let limit = at.need("limit")?;
    limit.only(&["attempt"])?;
    let attempt = limit.need("attempt")?;
    attempt.only(&["count"])?;
    let attempts_count = attempt.need("count")?.number(1, ATTEMPTS_COUNT_MAX)?;
    let jitter_ms = match at.get("jitter") {
        None => None,
        Some(jitter) => {
            jitter.only(&["from", "to"])?;
            let (from, to) = (jitter.need("from")?.duration_ms()?, jitter.need("to")?.duration_ms()?);
            if to < from {
                return jitter.refuse("ends before it begins");
            }
            Some((from, to))
        }
    };
    Ok(Retry {
        attempts_count: u32::try_from(attempts_count).unwrap_or(u32::MAX),
        delay_ms: at.get("delay").map_or(Ok(0), |delay| delay.duration_ms())?.min(WAIT_MS_MAX),
        backoff: at.get("backoff").map_or(Ok(Backoff::Constant), |backoff| backoff_of(&backoff))?,
        jitter_ms,
    })
}

fn backoff_of(at: &At<'_>) -> Result<Backoff, Refusal> {
    at.only(&["constant", "linear", "exponential"])?;
    let (word, options) = at.named()?;
    options.only(&[])?;
    Ok(match word {
        "constant" => Backoff::Constant,
        "linear" => Backoff::Linear,
        _ => Backoff::Exponential,
    })
}

/// The name of a variable: what jq takes after `$`, and none of those that are always there.
fn variable(at: Option<At<'_>>, usual: &str) -> Result<String, Refusal> {
    let Some(at) = at else { return Ok(usual.to_owned()) };
    let name = at.name()?;
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_word || name.starts_with(|first: char| first.is_ascii_digit()) {
        return at.refuse("a variable's name is letters, digits and `_`");
    }
    if crate::model::VARIABLES.contains(&name) {
        return at.refuse("is the name of a variable that is always there");
    }
    Ok(name.to_owned())
}

/// `{name}` in a URL is a member of the task's input; the DSL's other forms of URI templates are not there.
fn check_holes(at: &At<'_>, text: &str) -> Result<(), Refusal> {
    for (index, piece) in text.split('{').enumerate() {
        let (hole, rest) = match (index, piece.split_once('}')) {
            (0, None) => continue,
            (0, Some(_)) => return at.refuse("has a `}` without `{`"),
            (_, None) => return at.refuse("has a `{` without `}`"),
            (_, Some(split)) => split,
        };
        let is_word = !hole.is_empty() && hole.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_word || rest.contains('}') {
            return at.refuse(format!("`{{{hole}}}` is not supported: only `{{name}}` is"));
        }
    }
    Ok(())
}
