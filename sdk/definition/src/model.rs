//! A definition as the interpreter reads it: every word of the supported part, with names resolved.
//!
//! Must never be made but by the reader: whoever holds a [`Definition`] holds one that was checked.

use serde_json::Value;

/// A checked definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// `document.namespace`.
    pub namespace: String,
    /// `document.name`: the workflow's name in its plugin.
    pub name: String,
    /// `document.version`.
    pub version: String,
    /// Whether it makes HTTP calls.
    pub has_calls: bool,
    /// Whether it puts events into queues.
    pub has_events: bool,
    /// The workflows it begins, with the place that names each.
    pub children: Vec<(String, String)>,
    /// Its expressions.
    pub expressions: Vec<Expression>,
    pub(crate) input_from: Option<Template>,
    pub(crate) output_as: Option<Template>,
    pub(crate) tasks: Vec<Task>,
}

/// An expression of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// JSON pointer to it.
    pub path: String,
    /// jq, without `${ }`.
    pub text: String,
    /// The variables it may name beside those that are always there, without `$`, sorted.
    pub variables: Vec<String>,
}

/// Data with expressions in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Template {
    /// What an expression gives.
    Expression(String),
    /// This, with each text `${ ... }` in it replaced by what the expression gives.
    Data(Value),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) condition: Option<String>,
    pub(crate) input_from: Option<Template>,
    pub(crate) output_as: Option<Template>,
    pub(crate) export_as: Option<Template>,
    pub(crate) then: Then,
    pub(crate) work: Work,
}

/// Where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// With the next task.
    Next,
    /// Behind the list this task is in.
    Exit,
    /// Nowhere: the workflow is through.
    End,
    /// With this task of the same list.
    Task(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    Do(Vec<Task>),
    Set(Template),
    Call(Box<Call>),
    Switch(Vec<Case>),
    For(Box<Loop>),
    Fork(Vec<Task>),
    Wait { ms: u64 },
    Listen { event: String, timeout_ms: Option<u64> },
    Emit { queue: String, event: Template },
    Raise(Template),
    Try(Box<Try>),
    Run { workflow: String, input: Option<Template>, is_awaited: bool },
}

/// An HTTP call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) endpoint: Template,
    pub(crate) headers: Option<Template>,
    pub(crate) query: Option<Template>,
    pub(crate) body: Option<Template>,
    /// Whether the whole answer is asked for, not its content alone.
    pub(crate) wants_response: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    /// None is the default.
    pub(crate) when: Option<String>,
    pub(crate) then: Then,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loop {
    pub(crate) item: String,
    pub(crate) index: String,
    pub(crate) items: String,
    pub(crate) condition: Option<String>,
    pub(crate) tasks: Vec<Task>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Try {
    pub(crate) tasks: Vec<Task>,
    /// What an error must have; anything catches all.
    pub(crate) matches: Vec<(String, Value)>,
    /// The variable that holds the error.
    pub(crate) error: String,
    pub(crate) when: Option<String>,
    pub(crate) except_when: Option<String>,
    pub(crate) retry: Option<Retry>,
    pub(crate) handler: Option<Vec<Task>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) attempts_count: u32,
    pub(crate) delay_ms: u64,
    pub(crate) backoff: Backoff,
    /// A random time from the one to the other is added to each delay.
    pub(crate) jitter_ms: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backoff {
    Constant,
    Linear,
    Exponential,
}

/// The variables that every expression may name, without `$`.
pub(crate) const VARIABLES: [&str; 6] = ["context", "input", "output", "runtime", "task", "workflow"];
