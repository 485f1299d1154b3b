//! Durable workflows: a function that is run again and again over its own history until it is through.
//!
//! What goes through [`Steps`] is done once and answered from the history at every later run; so everything else in a
//! workflow has to be the same each time: time, dice and names come from here too. Outside of a step's work the host holds
//! the wall clock (`SystemTime`) at the run's beginning and gives the same random bytes at every run over the history, so a
//! `HashMap` that is made before the first step has one order; the monotonic clock (`Instant`) goes on. Code that draws in
//! the work of a step and counts on it afterwards is still wrong: what must be the same is asked for here. A stop (an error that holds [`Stopped`])
//! is passed on with `?`, never swallowed: nothing that is done after one counts.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::ringfence::plugin::steps as host;
use crate::{Call, Error, FromHost, Result};

/// Why a workflow does not go on now. Pass it on with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// What it waits for is not there yet; it is run again when it is.
    Suspended,
    /// The run was cancelled; what [`Steps::on_failure`] named is done after this.
    Cancelled,
    /// The code asks for something else than its history has, or for more than it may.
    Refused(String),
}

/// What a workflow does its work with. As a parameter: those of the workflow itself.
#[derive(Clone)]
pub struct Steps {
    branch: Vec<u32>,
    undo: Undo,
}

/// A step as its work sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCall {
    /// The same at every attempt of this step of this run: send it along, so that the far end does its part once.
    pub idempotency_key: String,
    /// 1 the first time.
    pub attempt: u32,
}

/// How often a step is tried: by default 3 times, after 1 s and 2 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often altogether.
    pub attempts: u32,
    /// The wait before the second attempt.
    pub first: Duration,
    /// How much longer each further wait is, percent.
    pub factor_percent: u32,
    /// The longest wait.
    pub max: Duration,
}

/// What people are asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// In a line.
    pub title: String,
    /// What it is about, JSON or text.
    pub details: String,
    /// Whether two persons must agree, none of whom started the run.
    pub needs_two: bool,
    /// How long is waited; then it is a no.
    pub timeout: Option<Duration>,
}

/// What people decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether they agreed.
    pub approved: bool,
    /// Who; empty when nobody did in time.
    pub by: String,
    /// What they said.
    pub note: String,
}

/// About a run, for its own code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its id.
    pub run: String,
    /// Its workflow.
    pub workflow: String,
    /// The version of the plugin it runs.
    pub version: String,
    /// When it began, Unix milliseconds.
    pub started_ms: u64,
}

/// What the run was begun with.
#[derive(Debug)]
pub struct Input<T>(pub T);

/// What is done to take steps back, in the order it was named.
#[derive(Clone, Default)]
pub(crate) struct Undo(Rc<RefCell<Vec<(String, Work)>>>);

type Work = Box<dyn FnOnce(StepCall) -> Pin<Box<dyn Future<Output = Result<()>>>>>;

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, first: Duration::from_secs(1), factor_percent: 200, max: Duration::from_secs(60) }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suspended => f.write_str("the run waits"),
            Self::Cancelled => f.write_str("the run was cancelled"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Stopped {}

impl From<host::Stop> for Stopped {
    fn from(stop: host::Stop) -> Self {
        match stop {
            host::Stop::Suspended => Self::Suspended,
            host::Stop::Cancelled => Self::Cancelled,
            host::Stop::Nondeterminism(why) | host::Stop::Refused(why) => Self::Refused(why),
        }
    }
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("branch", &self.branch).finish_non_exhaustive()
    }
}

impl FromHost for Steps {
    fn from_host(call: &mut Call) -> Result<Self> {
        Ok(Self { branch: Vec::new(), undo: call.undo.clone() })
    }
}

impl<T: DeserializeOwned> FromHost for Input<T> {
    fn from_host(call: &mut Call) -> Result<Self> {
        let payload = call.payload.take().ok_or_else(|| anyhow!("the input is named by two parameters"))?;
        Ok(Self(serde_json::from_slice(&payload)?))
    }
}

impl Steps {
    /// About this run.
    pub fn about(&self) -> About {
        let host::Facts { run, workflow, version, started_ms } = host::about();
        About { run, workflow, version, started_ms }
    }

    /// Does a step once, and gives what it gave; tried again by the default [`Retry`] when it fails.
    pub async fn run<T>(&self, name: &str, work: impl AsyncFnOnce(StepCall) -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        self.run_with(name, Retry::default(), work).await
    }

    /// As [`Steps::run`], tried as often as is said.
    pub async fn run_with<T>(
        &self,
        name: &str,
        retry: Retry,
        work: impl AsyncFnOnce(StepCall) -> Result<T>,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        step(&self.branch, host::Kind::Step, name, retry, work).await
    }

    /// Names what takes back what was done so far, should the workflow fail or be cancelled later: the last named is done
    /// first, each once, as a step of its own.
    pub fn on_failure<F>(&self, name: &str, work: impl FnOnce(StepCall) -> F + 'static)
    where
        F: Future<Output = Result<()>> + 'static,
    {
        let work: Work = Box::new(move |call| Box::pin(work(call)));
        self.undo.0.borrow_mut().push((name.to_owned(), work));
    }

    /// Waits; costs nothing while it does.
    pub fn sleep(&self, name: &str, duration: Duration) -> Result<()> {
        Ok(host::sleep(&self.branch, name, millis(duration)).map_err(Stopped::from)?)
    }

    /// Waits for a signal; none when the time runs out first.
    pub fn wait_for_signal<T: DeserializeOwned>(&self, name: &str, timeout: Option<Duration>) -> Result<Option<T>> {
        let payload = host::wait_for_signal(&self.branch, name, timeout.map(millis)).map_err(Stopped::from)?;
        Ok(payload.map(|payload| serde_json::from_str(&payload)).transpose()?)
    }

    /// Waits for people to decide.
    pub fn approve(&self, name: &str, question: Question) -> Result<Verdict> {
        let question = host::Question {
            title: question.title,
            details: question.details,
            approvals: if question.needs_two { 2 } else { 1 },
            timeout_ms: question.timeout.map(millis),
        };
        let verdict = host::approve(&self.branch, name, &question).map_err(Stopped::from)?;
        Ok(Verdict { approved: verdict.approved, by: verdict.by, note: verdict.note })
    }

    /// Begins a run of another workflow of this plugin, and gives its id.
    pub fn start_child(&self, workflow: &str, input: &impl Serialize) -> Result<String> {
        let input = serde_json::to_string(input)?;
        Ok(host::start_child(&self.branch, workflow, &input).map_err(Stopped::from)?)
    }

    /// Waits for a run that was begun here; its failure is an error.
    pub fn wait_for_child<T: DeserializeOwned>(&self, run: &str) -> Result<T> {
        decoded(host::wait_for_child(&self.branch, run).map_err(Stopped::from)?)
    }

    /// Does the same for each item, each in a branch of its own: while one waits, the others go on.
    pub async fn each<I, T>(&self, items: Vec<I>, work: impl AsyncFn(Self, I) -> Result<T>) -> Result<Vec<Result<T>>> {
        let count = u32::try_from(items.len()).map_err(|_| anyhow!("too many branches"))?;
        let fork = host::fork(&self.branch, count).map_err(Stopped::from)?;
        let mut results = Vec::with_capacity(items.len());
        let mut stopped = None;
        for (number, item) in (0..count).zip(items) {
            let branch = fork.iter().copied().chain([number]).collect();
            let result = work(Self { branch, undo: self.undo.clone() }, item).await;
            match result.as_ref().err().and_then(|error| error.downcast_ref::<Stopped>()) {
                Some(stop) => stopped = Some(stop.clone()),
                None => results.push(result),
            }
        }
        match stopped {
            Some(stop) => Err(stop.into()),
            None => Ok(results),
        }
    }

    /// The time, Unix milliseconds: the same at every replay.
    pub fn now(&self) -> Result<u64> {
        Ok(host::now(&self.branch).map_err(Stopped::from)?)
    }

    /// A random number: the same at every replay.
    pub fn random(&self) -> Result<u64> {
        Ok(host::random(&self.branch).map_err(Stopped::from)?)
    }

    /// A name that nobody else has: the same at every replay.
    pub fn new_id(&self) -> Result<String> {
        Ok(host::new_id(&self.branch).map_err(Stopped::from)?)
    }

    /// What a query by this name is answered with from here on.
    pub fn publish(&self, name: &str, value: &impl Serialize) -> Result<()> {
        Ok(host::publish(&self.branch, name, &serde_json::to_string(value)?).map_err(Stopped::from)?)
    }

    /// A word by which the run is found.
    pub fn set_attribute(&self, name: &str, value: &str) -> Result<()> {
        Ok(host::set_attribute(&self.branch, name, value).map_err(Stopped::from)?)
    }

    /// Ends this run and begins another of the same workflow with a history of its own, and with the signals that nobody took. Pass
    /// its error on.
    pub fn continue_as_new<T>(&self, input: &impl Serialize) -> Result<T> {
        host::continue_as_new(&self.branch, &serde_json::to_string(input)?).map_err(Stopped::from)?;
        Err(Stopped::Suspended.into())
    }
}

/// Takes back what was done, the last first.
pub(crate) async fn undo(undo: &Undo) -> Result<()> {
    loop {
        let Some((name, work)) = undo.0.borrow_mut().pop() else { return Ok(()) };
        let retry = Retry { attempts: 10, ..Retry::default() };
        step(&[], host::Kind::Compensation, &name, retry, async |call| work(call).await).await?;
    }
}

async fn step<T: Serialize + DeserializeOwned>(
    branch: &[u32],
    kind: host::Kind,
    name: &str,
    retry: Retry,
    work: impl AsyncFnOnce(StepCall) -> Result<T>,
) -> Result<T> {
    let asked = host::Retry {
        attempts: retry.attempts,
        first_ms: millis(retry.first),
        factor_percent: retry.factor_percent,
        max_ms: millis(retry.max),
    };
    let call = match host::begin(branch, kind, name, asked).map_err(Stopped::from)? {
        host::Begun::Recorded(outcome) => return decoded(outcome),
        host::Begun::Execute(call) => call,
    };
    let call = StepCall { idempotency_key: call.idempotency_key, attempt: call.attempt };
    let outcome = match work(call).await {
        Ok(value) => Ok(serde_json::to_string(&value)?),
        Err(error) => Err(host::Failure { message: format!("{error:#}"), again: !error.is::<Final>() }),
    };
    decoded(host::complete(branch, outcome.as_ref().map(String::as_str)).map_err(Stopped::from)?)
}

/// An error for which a step is not tried again: `Err(Final("no such card".into()).into())`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Final(pub String);

impl fmt::Display for Final {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Final {}

fn decoded<T: DeserializeOwned>(outcome: Result<String, String>) -> Result<T> {
    Ok(serde_json::from_str(&outcome.map_err(Error::msg)?)?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
