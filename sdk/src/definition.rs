//! Declarative workflows: what `definition!` expands to runs a definition over the same durable [`Steps`] as code.
//!
//! Must never bind what the definition does not use: one without HTTP calls does not import HTTP.

use std::rc::Rc;
use std::time::Duration;

use anyhow::anyhow;
use ringfence_definition::{Definition, Ended, Failure, Fault, Host, Request, Response, RunFacts, run};
use serde_json::Value;

use crate::{
    Call, Delivery, Error, Final, FromHost, Http, HttpRequest, Input, Method, Queues, Result, Retry, Steps, Stopped,
};

/// Sends a definition's HTTP calls, if it makes any.
#[doc(hidden)]
pub trait Calls: FromHost {
    /// Sends one.
    fn send(&self, request: Request) -> impl Future<Output = Result<Response>>;
}

/// Puts a definition's events into queues, if it has any.
#[doc(hidden)]
pub trait Events: FromHost {
    /// Puts one.
    fn put(&self, queue: &str, message: &Value, key: &str) -> Result<()>;
}

/// Of a definition that has none: imports nothing.
#[doc(hidden)]
#[derive(Debug)]
pub struct NoNeed;

impl FromHost for NoNeed {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self)
    }
}

impl Calls for NoNeed {
    async fn send(&self, _: Request) -> Result<Response> {
        Err(anyhow!("this definition makes no calls"))
    }
}

impl Events for NoNeed {
    fn put(&self, _: &str, _: &Value, _: &str) -> Result<()> {
        Err(anyhow!("this definition has no events"))
    }
}

impl Calls for Http {
    async fn send(&self, request: Request) -> Result<Response> {
        let mut asked = HttpRequest::new(Method::from_bytes(request.method.as_bytes())?, &request.url);
        for (name, value) in &request.headers {
            asked = asked.header(name, value);
        }
        let asked = match request.body {
            Some(body) => asked.body(body),
            None => asked,
        };
        let answer = Http::send(self, asked).await?;
        let status = answer.status();
        let text = |value: &crate::HeaderValue| value.to_str().ok().map(str::to_owned);
        let headers = answer.headers().iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?)));
        let headers = headers.collect();
        Ok(Response { status, headers, body: answer.bytes().await?.to_vec() })
    }
}

impl Events for Queues {
    fn put(&self, queue: &str, message: &Value, key: &str) -> Result<()> {
        let delivery = Delivery { idempotency_key: Some(key.to_owned()), ..Delivery::usual() };
        self.send(queue, message, delivery).map(drop)
    }
}

/// Runs a definition, which is JSON that the macro has checked, and gives its output as JSON.
#[doc(hidden)]
pub async fn run_definition<C: Calls, E: Events>(json: &str, call: &mut Call) -> Result<Vec<u8>> {
    let definition = Definition::parse(json)?;
    let (calls, events) = (Rc::new(C::from_host(call)?), Rc::new(E::from_host(call)?));
    let (input, steps) = (Input::<Value>::from_host(call)?, Steps::from_host(call)?);
    match run(&definition, Bridge { steps, calls, events }, input.0).await {
        Ok(output) => Ok(serde_json::to_vec(&output)?),
        Err(Ended::Raised(fault)) => Err(anyhow!("{fault}")),
        Err(Ended::Stopped(stop)) => Err(stop.into()),
    }
}

/// The durable steps, as the interpreter asks for them.
struct Bridge<C, E> {
    steps: Steps,
    calls: Rc<C>,
    events: Rc<E>,
}

impl<C: Calls, E: Events> Host for Bridge<C, E> {
    type Stop = Stopped;

    fn about(&self) -> RunFacts {
        let about = self.steps.about();
        RunFacts { id: about.run, started_ms: about.started_ms }
    }

    async fn step(
        &self,
        name: &str,
        is_tried_once: bool,
        work: impl AsyncFnOnce(String) -> Result<Value, Failure>,
    ) -> Result<Value, Ended<Stopped>> {
        let retry = if is_tried_once { Retry { attempts: 1, ..Retry::default() } } else { Retry::default() };
        let done = self.steps.run_with(name, retry, async |call| {
            work(call.idempotency_key).await.map_err(|failure| match failure.again {
                true => Error::msg(failure.fault.to_message()),
                false => Final(failure.fault.to_message()).into(),
            })
        });
        done.await.map_err(ended)
    }

    async fn send(&self, request: Request) -> Result<Response, String> {
        self.calls.send(request).await.map_err(|error| format!("{error:#}"))
    }

    fn enqueue(&self, queue: &str, message: &Value, key: &str) -> Result<(), String> {
        self.events.put(queue, message, key).map_err(|error| format!("{error:#}"))
    }

    fn sleep(&self, name: &str, duration: Duration) -> Result<(), Ended<Stopped>> {
        self.steps.sleep(name, duration).map_err(ended)
    }

    fn signal(&self, name: &str, timeout: Option<Duration>) -> Result<Option<Value>, Ended<Stopped>> {
        self.steps.wait_for_signal(name, timeout).map_err(ended)
    }

    fn start_child(&self, workflow: &str, input: &Value) -> Result<String, Ended<Stopped>> {
        self.steps.start_child(workflow, input).map_err(ended)
    }

    fn wait_for_child(&self, run: &str) -> Result<Value, Ended<Stopped>> {
        self.steps.wait_for_child(run).map_err(ended)
    }

    async fn each(
        &self,
        count: usize,
        work: impl AsyncFn(Self, usize) -> Result<Value, Ended<Stopped>>,
    ) -> Result<Vec<Result<Value, Fault>>, Ended<Stopped>> {
        let branches = self.steps.each((0..count).collect(), async |steps, index| {
            let branch = Self { steps, calls: Rc::clone(&self.calls), events: Rc::clone(&self.events) };
            match work(branch, index).await {
                Ok(output) => Ok(Ok(output)),
                Err(Ended::Raised(fault)) => Ok(Err(fault)),
                Err(Ended::Stopped(stop)) => Err(stop.into()),
            }
        });
        let results = branches.await.map_err(ended)?;
        results.into_iter().map(|result| result.map_err(ended)).collect()
    }

    fn random(&self) -> Result<u64, Ended<Stopped>> {
        self.steps.random().map_err(ended)
    }

    fn new_id(&self) -> Result<String, Ended<Stopped>> {
        self.steps.new_id().map_err(ended)
    }
}

/// A stop stays one; anything else is an error that a definition can catch.
fn ended(error: Error) -> Ended<Stopped> {
    match error.downcast::<Stopped>() {
        Ok(stop) => Ended::Stopped(stop),
        Err(other) => Ended::Raised(Fault::from_message(&format!("{other:#}"))),
    }
}
