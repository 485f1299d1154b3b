//! kill -9 at every transition of a run, and at every kind of it: each side effect once per idempotency key, and the run comes to its end.

use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Place, Session, answer, eventually, string};
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
    eventually("the run completes", async || {
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

/// Waits until this happened to a run.
async fn until(admin: &Session, run: &str, word: &str) -> Result<Value> {
    let mut shown = Value::Null;
    eventually(word, async || {
        shown = answer(admin.get(&format!("/tenants/acme/runs/{run}")).send().await?).await?;
        Ok(count(&shown, word) > 0)
    })
    .await
    .with_context(|| format!("{shown}"))?;
    Ok(shown)
}

fn count(shown: &Value, word: &str) -> usize {
    shown["timeline"].as_array().map_or(0, |all| all.iter().filter(|entry| entry["event"] == *word).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_at_each_kind_of_transition_goes_on_where_it_was() -> Result<()> {
    let far = FarEnd::start().await?;
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", far.address))?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let (key, origin) = (acme.admin.key.clone(), far.origin());
    acme.ship("runs", "runs", "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n", &[("http", &[&origin])]).await?;
    let killed = async |host: Host, after: &str| {
        host.kill()?;
        let host = Host::start_with(&place, &["--config", &config], &[])
            .with_context(|| format!("killed after `{after}`: the host must open again"))?;
        let admin = host.sign_in(&key).await?;
        anyhow::Ok((host, admin))
    };
    let told = async |steps: usize| eventually("a step is told", async || Ok(far.asked().len() >= steps)).await;

    let input = json!({ "url": format!("{origin}/step"), "ms": 600 });
    let body = json!({ "plugin": "runs", "workflow": "stages", "input": input });
    let run = string(&answer(acme.admin.post("/tenants/acme/runs").json(&body).send().await?).await?, "id")?;
    let act = async |admin: &Session, verb: &str, body: Value| {
        let sent = admin.post(&format!("/tenants/acme/runs/{run}/{verb}")).json(&body).send().await?;
        answer(sent).await
    };
    let (host, _) = killed(host, "begin").await?;
    told(1).await?;
    let (host, admin) = killed(host, "a step").await?;
    until(&admin, &run, "sleep-begun").await?;
    let (host, admin) = killed(host, "a sleep").await?;
    until(&admin, &run, "time-over").await?;
    let (host, admin) = killed(host, "a timer").await?;
    until(&admin, &run, "signal-awaited").await?;
    let go = json!({ "name": "go", "payload": 1, "key": "once" });
    act(&admin, "signal", go.clone()).await?;
    let (host, admin) = killed(host, "a signal").await?;
    // Whoever sends it and hears nothing sends it again.
    act(&admin, "signal", go).await?;
    until(&admin, &run, "child-begun").await?;
    let (host, admin) = killed(host, "a child's begin").await?;
    until(&admin, &run, "child-ended").await?;
    let (host, admin) = killed(host, "a child's end").await?;
    until(&admin, &run, "approval-asked").await?;
    act(&admin, "approve", json!({ "name": "payment", "approved": true })).await?;
    let (host, _) = killed(host, "an approval").await?;
    told(2).await?;
    let (host, admin) = killed(host, "the last step").await?;
    until(&admin, &run, "ended").await?;
    let (_host, admin) = killed(host, "the end").await?;

    let shown = until(&admin, &run, "ended").await?;
    assert_eq!((&shown["status"], &shown["output"]), (&json!("completed"), &json!(601)), "{shown}");
    let words = [
        ("started", 1),
        ("step-done", 2),
        ("sleep-begun", 1),
        ("time-over", 1),
        ("signal-awaited", 1),
        ("signal-received", 1),
        ("signal-taken", 1),
        ("child-begun", 1),
        ("child-ended", 1),
        ("approval-asked", 1),
        ("approval-given", 1),
        ("stuck", 0),
        ("ended", 1),
    ];
    for (word, times) in words {
        assert_eq!(count(&shown, word), times, "{word}: {shown}");
    }
    let mut asked: Vec<String> = far.asked().into_values().map(|(what, _)| what).collect();
    asked.sort();
    assert_eq!(asked, ["/step first", "/step last"], "one key a step");
    let children = answer(admin.get("/tenants/acme/runs?workflow=napper").send().await?).await?;
    assert_eq!(children["items"].as_array().map(Vec::len), Some(1), "{children}");
    Ok(())
}
