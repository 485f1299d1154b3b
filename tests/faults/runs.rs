//! kill -9 at every transition of a run: each side effect once per idempotency key, and the run comes to its end.

use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Place, answer, string};
use serde_json::{Value, json};

/// Steps of the workflow: each is told to the far end.
const STEPS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_at_every_transition_does_each_step_once_per_key() -> Result<()> {
    let far = FarEnd::start().await?;
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", far.address))?.display().to_string();
    let start = || Host::start_with(&place, &["--config", &config], &[]);
    let mut host = start()?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let (key, origin) = (acme.admin.key.clone(), far.origin());
    acme.ship("runs", "runs", "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n", &[("http", &[&origin])]).await?;
    let input = json!({ "url": format!("{origin}/step"), "steps": STEPS, "every": 5 });
    let body = json!({ "plugin": "runs", "input": input });
    let run = string(&answer(acme.admin.post("/tenants/acme/runs").json(&body).send().await?).await?, "id")?;
    for kill in 0..STEPS {
        // Each time once the next step was told to the far end: before, while or after it is written down.
        while far.asked().len() <= kill {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        host.kill()?;
        host = start().with_context(|| format!("kill {kill}: the host must open again"))?;
    }
    let admin = host.sign_in(&key).await?;
    let mut shown = Value::Null;
    ringfence_tests::eventually("the run completes", async || {
        shown = answer(admin.get(&format!("/tenants/acme/runs/{run}")).send().await?).await?;
        Ok(shown["status"] == "completed")
    })
    .await
    .with_context(|| format!("{shown}"))?;
    assert_eq!(shown["output"], STEPS);
    // One key a step, whatever was killed; and no step that was written down was told again.
    let asked = far.asked();
    let told: Vec<&str> = asked.values().map(|(what, _)| what.as_str()).collect();
    assert_eq!(asked.len(), STEPS, "{told:?}");
    let done = shown["timeline"].as_array().context("a timeline")?;
    for number in 0..STEPS {
        let name = format!("step-{number}");
        let times = done.iter().filter(|entry| entry["event"] == "step-done" && entry["name"] == *name).count();
        assert_eq!(times, 1, "{name}");
        assert_eq!(told.iter().filter(|what| **what == format!("/step {number}")).count(), 1, "{name}");
    }
    Ok(())
}
