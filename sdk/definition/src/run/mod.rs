//! The interpreter: does a definition's tasks over what a [`Host`] offers, which is the SDK's durable steps.
//!
//! It is run from the start over its history again and again, so it must never ask its host in an order that depends on
//! anything but the definition, the input and the host's answers: no clock, no dice, no hash order.

mod http;
mod interpret;
mod jq;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use http::{Request, Response};

use crate::limits::DETAIL_BYTES_MAX;
use crate::{Definition, Refusal};

/// What the interpreter does its work with: the durable steps of one run, or of one branch of it.
#[allow(async_fn_in_trait, reason = "guests have one thread: nothing needs its futures to be `Send`")]
pub trait Host: Sized {
    /// Why the run does not go on now. Passed on at once, never looked at.
    type Stop;

    /// About this run.
    fn about(&self) -> RunFacts;

    /// Does a step once and gives what it gave at every later run. `work` gets the step's idempotency key. A failure that may
    /// be tried again is tried again under the host's usual policy, unless `is_tried_once`.
    async fn step(
        &self,
        name: &str,
        is_tried_once: bool,
        work: impl AsyncFnOnce(String) -> Result<Value, Failure>,
    ) -> Result<Value, Ended<Self::Stop>>;

    /// Sends a request; an error is that no answer came.
    async fn send(&self, request: Request) -> Result<Response, String>;

    /// Puts a message into a queue; `key` names it, so that a second one under the same key is not taken.
    fn enqueue(&self, queue: &str, message: &Value, key: &str) -> Result<(), String>;

    /// Waits.
    fn sleep(&self, name: &str, duration: Duration) -> Result<(), Ended<Self::Stop>>;

    /// Waits for a signal; none when the time runs out first.
    fn signal(&self, name: &str, timeout: Option<Duration>) -> Result<Option<Value>, Ended<Self::Stop>>;

    /// Begins a run of another workflow of the same plugin, and gives its id.
    fn start_child(&self, workflow: &str, input: &Value) -> Result<String, Ended<Self::Stop>>;

    /// Waits for such a run.
    fn wait_for_child(&self, run: &str) -> Result<Value, Ended<Self::Stop>>;

    /// Does the same in so many branches beside each other, and gives what each gave.
    async fn each(
        &self,
        count: usize,
        work: impl AsyncFn(Self, usize) -> Result<Value, Ended<Self::Stop>>,
    ) -> Result<Vec<Result<Value, Fault>>, Ended<Self::Stop>>;

    /// A random number, the same at every replay.
    fn random(&self) -> Result<u64, Ended<Self::Stop>>;

    /// A name that nobody else has, the same at every replay.
    fn new_id(&self) -> Result<String, Ended<Self::Stop>>;
}

/// About a run, for `$workflow`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunFacts {
    /// Its id.
    pub id: String,
    /// When it began, Unix milliseconds.
    pub started_ms: u64,
}

/// Why work did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended<S> {
    /// The run stops here for now, or for good; nobody catches it.
    Stopped(S),
    /// An error of the definition, which `catch` sees.
    Raised(Fault),
}

impl<S> From<Fault> for Ended<S> {
    fn from(fault: Fault) -> Self {
        Self::Raised(fault)
    }
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub fault: Fault,
    /// Whether trying again makes sense.
    pub again: bool,
}

/// An error as the DSL has it (RFC 7807).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A URI that says what sort.
    #[serde(rename = "type")]
    pub kind: String,
    /// As an HTTP status.
    pub status: u16,
    /// In a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Where in the definition: a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl Fault {
    /// An error of one of the DSL's own sorts: `communication`, `expression`, `runtime`, `timeout`.
    pub fn standard(sort: &str, status: u16, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("https://serverlessworkflow.io/spec/1.0.0/errors/{sort}"),
            status,
            title: None,
            detail: Some(shorten(detail.into())),
            instance: None,
        }
    }

    /// What a step's failure is kept as; [`Fault::from_message`] reads it back.
    pub fn to_message(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The error that a step was kept with; any other message is an error of the run itself.
    pub fn from_message(message: &str) -> Self {
        serde_json::from_str(message).unwrap_or_else(|_| Self::standard("runtime", 500, message))
    }

    fn at(mut self, path: &str) -> Self {
        self.instance.get_or_insert_with(|| path.to_owned());
        self
    }

    fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.instance.as_deref().unwrap_or_default();
        let what = self.detail.as_deref().or(self.title.as_deref()).unwrap_or(&self.kind);
        write!(f, "{place}: {what} ({}, {})", self.kind.rsplit('/').next().unwrap_or(&self.kind), self.status)
    }
}

/// Does a definition with this input, and gives its output.
///
/// # Errors
/// [`Ended::Raised`] is an error that nothing caught, [`Ended::Stopped`] what the host said.
pub async fn run<H: Host>(definition: &Definition, host: H, input: Value) -> Result<Value, Ended<H::Stop>> {
    interpret::run(definition, host, input).await
}

/// Whether every expression of a definition is jq, and names nothing that is not there.
///
/// # Errors
/// The first that is not, with its path.
pub fn check_expressions(definition: &Definition) -> Result<(), Refusal> {
    for expression in &definition.expressions {
        let names: Vec<&str> = expression.variables.iter().map(String::as_str).collect();
        jq::check(&expression.text, &names).map_err(|why| Refusal::new(&expression.path, why))?;
    }
    Ok(())
}

/// LIMIT: of an error's text this much is kept.
fn shorten(text: String) -> String {
    if text.len() <= DETAIL_BYTES_MAX {
        return text;
    }
    let mut end = DETAIL_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
