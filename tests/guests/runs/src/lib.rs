//! Workflows for the tests: many steps at a far end, waits, signals, children, branches, code that never ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringfence_sdk::{Http, HttpRequest, Input, Result, Retry, Steps, bail, workflow};
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

/// `runs`: so many steps, each told to the far end with its key.
#[workflow(also(waiter, napper, parent, family, endless, picky, forgetful, unordered))]
async fn runs(many: Input<Many>, steps: Steps, http: Http) -> Result<u32> {
    let Many { url, steps: count, every } = many.0;
    let retry =
        Retry { attempts: 50, first: Duration::from_millis(20), factor_percent: 100, max: Duration::from_millis(50) };
    for number in 0..count {
        steps
            .run_with(&format!("step-{number}"), retry, async |call| {
                if let Some(url) = &url {
                    let request = HttpRequest::post(url).header("idempotency-key", &call.idempotency_key);
                    let answer = http.send(request.body(number.to_string())).await?;
                    if !answer.is_success() {
                        bail!("the far end answered {}", answer.status());
                    }
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
