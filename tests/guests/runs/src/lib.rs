//! Workflows for the tests: many steps at a far end, waits, signals, children, branches, people, code that never ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringfence_sdk::{Http, HttpRequest, Input, Question, Result, Retry, StepCall, Steps, bail, workflow};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Many {
    /// Where each step is told to; none for steps that do nothing.
    url: Option<String>,
    steps: u32,
    /// Sleeps a little after so many steps, so that the run is taken up again.
    every: u32,
}

#[derive(Deserialize)]
struct Stages {
    /// Where its two steps are told to.
    url: String,
    /// How long it and its child sleep.
    ms: u64,
}

fn again() -> Retry {
    Retry { attempts: 50, first: Duration::from_millis(20), factor_percent: 100, max: Duration::from_millis(50) }
}

async fn tell(http: &Http, url: &str, what: &str, call: &StepCall) -> Result<()> {
    let request = HttpRequest::post(url).header("idempotency-key", &call.idempotency_key);
    let answer = http.send(request.body(what.to_owned())).await?;
    if !answer.is_success() {
        bail!("the far end answered {}", answer.status());
    }
    Ok(())
}

/// `runs`: so many steps, each told to the far end with its key.
#[workflow(also(
    waiter, napper, parent, family, endless, spinner, picky, forgetful, unordered, stages, undoer, counter, approval
))]
async fn runs(many: Input<Many>, steps: Steps, http: Http) -> Result<u32> {
    let Many { url, steps: count, every } = many.0;
    for number in 0..count {
        steps
            .run_with(&format!("step-{number}"), again(), async |call| {
                if let Some(url) = &url {
                    tell(&http, url, &number.to_string(), &call).await?;
                }
                Ok(number)
            })
            .await?;
        if every > 0 && number % every == every - 1 {
            steps.sleep("breath", Duration::from_millis(10))?;
        }
    }
    Ok(count)
}

/// Waits for the signal `go` and gives what it carried.
#[workflow(part)]
fn waiter(_input: Input<Value>, steps: Steps) -> Result<Option<Value>> {
    steps.publish("state", &"waiting")?;
    steps.wait_for_signal("go", Some(Duration::from_secs(3_600)))
}

/// Sleeps so many milliseconds.
#[workflow(part)]
fn napper(ms: Input<u64>, steps: Steps) -> Result<u64> {
    steps.sleep("nap", Duration::from_millis(ms.0))?;
    Ok(ms.0)
}

/// Lets two children nap beside each other.
#[workflow(part)]
fn parent(ms: Input<u64>, steps: Steps) -> Result<u64> {
    let first = steps.start_child("napper", &ms.0)?;
    let second = steps.start_child("napper", &ms.0)?;
    Ok(steps.wait_for_child::<u64>(&first)? + steps.wait_for_child::<u64>(&second)?)
}

/// Waits in three branches for three signals, in whatever order they come.
#[workflow(part)]
async fn family(_input: Input<Value>, steps: Steps) -> Result<Vec<Option<String>>> {
    let names = vec!["a", "b", "c"];
    steps.each(names, async |branch, name| branch.wait_for_signal(name, None)).await?.into_iter().collect()
}

/// Gives how often this instance ran it: 1, or a replay would not be what it replays.
#[workflow(part)]
fn forgetful(_input: Input<Value>, _steps: Steps) -> Result<u32> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Ok(COUNT.fetch_add(1, Ordering::Relaxed) + 1)
}

/// Does a step for each of twelve things of a map, in the order they come out of it, with a rest between, so that it is run
/// again for each. Gives the wall clock of its code, and that of a step at its end.
#[workflow(part)]
async fn unordered(_input: Input<Value>, steps: Steps) -> Result<(u64, u64)> {
    let wall_ms = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let things: HashMap<u32, ()> = (0..12).map(|number| (number, ())).collect();
    for number in things.keys() {
        steps.run(&format!("step-{number}"), async |_| Ok(*number)).await?;
        steps.sleep("breath", Duration::from_millis(10))?;
    }
    let in_step = steps.run("look", async |_| Ok(wall_ms())).await?;
    Ok((wall_ms(), in_step))
}

/// Never ends: it asks for one number more.
#[workflow(part)]
fn endless(_input: Input<Value>, steps: Steps) -> Result<()> {
    loop {
        steps.random()?;
    }
}

/// Its one step fails for good.
#[workflow(part)]
async fn picky(_input: Input<Value>, steps: Steps) -> Result<()> {
    let once = Retry { attempts: 1, ..Retry::default() };
    steps.run_with("pick", once, async |_| -> Result<()> { bail!("not this one") }).await
}

/// Never ends, and asks for nothing.
#[workflow(part)]
fn spinner(_input: Input<Value>, _steps: Steps) -> Result<()> {
    loop {
        std::hint::spin_loop();
    }
}

/// One of each kind of transition.
#[workflow(part)]
async fn stages(stages: Input<Stages>, steps: Steps, http: Http) -> Result<u64> {
    let Stages { url, ms } = stages.0;
    steps.run_with("first", again(), async |call| tell(&http, &url, "first", &call).await).await?;
    steps.sleep("nap", Duration::from_millis(ms))?;
    steps.wait_for_signal::<Value>("go", None)?;
    let child = steps.start_child("napper", &ms)?;
    let slept = steps.wait_for_child::<u64>(&child)?;
    let verdict = steps.approve("payment", Question { title: "Go on?".to_owned(), ..Question::default() })?;
    steps.run_with("last", again(), async |call| tell(&http, &url, "last", &call).await).await?;
    Ok(slept + u64::from(verdict.approved))
}

/// Charges, and waits for what does not come; when it is cancelled, the charge is taken back.
#[workflow(part)]
async fn undoer(url: Input<String>, steps: Steps, http: Http) -> Result<()> {
    let url = url.0;
    steps.run_with("charge", again(), async |call| tell(&http, &url, "charge", &call).await).await?;
    steps.on_failure("refund", move |call| async move { tell(&http, &url, "refund", &call).await });
    steps.wait_for_signal::<Value>("never", None)?;
    Ok(())
}

/// Counts down, a run for each number.
#[workflow(part)]
async fn counter(left: Input<u32>, steps: Steps) -> Result<u32> {
    steps.run("count", async |_| Ok(left.0)).await?;
    if left.0 > 0 {
        return steps.continue_as_new(&(left.0 - 1));
    }
    Ok(left.0)
}

/// Has the name of the workflow of the plugin `approval`, and does something else.
#[workflow(part)]
async fn approval(_input: Input<Value>, steps: Steps) -> Result<Option<Value>> {
    steps.run("count", async |_| Ok(1_u32)).await?;
    steps.wait_for_signal("go", None)
}
