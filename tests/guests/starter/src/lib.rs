//! Begins, signals, cancels and looks at runs of workflows, as its path, a message or its schedule says; and is a workflow whose
//! runs begin one another.
//!
//! Must never hide what the host said: every answer is that, or its refusal.

use std::fmt::Debug;

use ringfence_sdk::{Beginning, Input, Occasion, Request, Result, RunError, Runs, Steps, plugin, workflow};
use serde_json::{Value, json};

#[plugin]
fn over_http(request: Request, runs: Runs) -> Result<String> {
    let word = |name: &str| request.query(name).unwrap_or_default();
    let (plugin, workflow, run) = (word("plugin"), word("workflow"), word("run"));
    Ok(match request.path() {
        "/begin" => {
            let beginning = Beginning::once(word("key")).of(workflow).found_by("by", "starter");
            said(runs.begin_text(&plugin, &word("input"), beginning))
        }
        "/find" => said(runs.find(&plugin, Some(&workflow), &word("key"))),
        "/signal" => said(runs.signal_text(&run, &word("name"), "7", None)),
        "/cancel" => said(runs.cancel(&run)),
        _ => said(runs.inspect(&run).map(|seen| seen.state)),
    })
}

#[plugin(schedule = "*")]
fn on_time(occasion: Occasion, runs: Runs) -> Result<()> {
    runs.begin_text("runs", "null", Beginning::once(&occasion.id).of("waiter"))?;
    Ok(())
}

/// Begins a run under the key of the message.
#[plugin(queue = "*")]
fn with_a_message(message: Value, runs: Runs) -> Result<()> {
    let key = message["key"].as_str().unwrap_or("none");
    runs.begin("runs", &Value::Null, Beginning::once(key).of("waiter"))?;
    Ok(())
}

/// Asks for a run in its own code, which is refused, and begins the next in a step.
#[workflow]
async fn starter(number: Input<u32>, steps: Steps, runs: Runs) -> Result<Value> {
    let outside = said(runs.begin_text("starter", "0", Beginning::usual()));
    let begun = steps
        .run("begin", async |call| {
            Ok(said(runs.begin("starter", &(number.0 + 1), Beginning::once(call.idempotency_key)).map_err(refusal)))
        })
        .await?;
    Ok(json!({ "outside": outside, "begun": begun }))
}

fn said<T: Debug, E: Debug>(answer: Result<T, E>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("refused: {error:?}"),
    }
}

/// The host's refusal as it was.
fn refusal(error: ringfence_sdk::Error) -> RunError {
    error.downcast().unwrap_or_else(|other| RunError::Failed(other.to_string()))
}
