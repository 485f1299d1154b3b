//! The end of the host with work of its own in flight: in order by SIGTERM, and again and again by a kill.

use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, string};
use serde_json::{Value, json};

/// Steps of the run that is in flight.
const STEPS: usize = 40;
/// Longest that open work may hold up the end, with what is written after it.
const STOP_SECONDS_MAX: u64 = 25;
const GRANTS: &[(&str, &[&str])] = &[("keyvalue", &["default"]), ("queue", &["work"])];

async fn queue(tenant: &Tenant, settings: &Value) -> Result<()> {
    answer(tenant.admin.put(&tenant.path("/queues/work")).json(settings).send().await?).await?;
    Ok(())
}

async fn send(tenant: &Tenant, payload: &Value) -> Result<String> {
    let path = tenant.path("/queues/work/messages");
    string(&answer(tenant.admin.post(&path).json(&json!({ "payload": payload })).send().await?).await?, "id")
}

/// How often a message of this name reached its plugin.
async fn attempts(who: &Session, name: &str) -> Result<u32> {
    let (_, text) = who.fetch(&format!("/acme/taker/attempts-{name}")).await?;
    Ok(text.parse().unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_a_message_and_a_run_in_flight_ends_in_time_and_nothing_is_lost_or_done_twice() -> Result<()> {
    let far = FarEnd::start().await?;
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", far.address))?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let (key, origin) = (acme.admin.key.clone(), far.origin());
    acme.ship("runs", "runs", "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n", &[("http", &[&origin])]).await?;
    acme.ship("events", "taker", "[budget]\ntime_ms = 20000\n", GRANTS).await?;
    queue(&acme, &json!({ "plugin": "taker", "concurrency_count": 1 })).await?;
    let input = json!({ "url": format!("{origin}/step"), "steps": STEPS, "every": 7 });
    let body = json!({ "plugin": "runs", "input": input });
    let run = string(&answer(acme.admin.post("/tenants/acme/runs").json(&body).send().await?).await?, "id")?;
    send(&acme, &json!({ "name": "slow", "do": "slow" })).await?;
    send(&acme, &json!({ "name": "behind" })).await?;
    eventually("both are in flight", async || Ok(attempts(&acme.admin, "slow").await? == 1 && !far.asked().is_empty()))
        .await?;
    let took = host.stop()?;
    assert!(took < Duration::from_secs(STOP_SECONDS_MAX), "{took:?}");

    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let admin = host.sign_in(&key).await?;
    let mut shown = Value::Null;
    eventually("the run completes", async || {
        shown = answer(admin.get(&format!("/tenants/acme/runs/{run}")).send().await?).await?;
        Ok(shown["status"] == "completed")
    })
    .await
    .with_context(|| format!("{shown}"))?;
    let asked = far.asked();
    assert_eq!(asked.len(), STEPS);
    assert!(asked.values().all(|(_, count)| *count == 1), "the end was in order, so no step was cut: {asked:?}");
    eventually("the message behind it", async || Ok(attempts(&admin, "behind").await? == 1)).await?;
    assert_eq!(attempts(&admin, "slow").await?, 1, "it was waited for");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_brings_the_host_down_each_time_is_a_dead_letter_after_its_attempts() -> Result<()> {
    let place = Place::new()?;
    let mut host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("events", "taker", "[budget]\ncpu_ms = 60000\ntime_ms = 60000\n", GRANTS).await?;
    queue(&acme, &json!({ "plugin": "taker", "attempts_max": 3, "backoff_ms": 10, "backoff_ms_max": 20 })).await?;
    let id = send(&acme, &json!({ "name": "bomb", "do": "hang" })).await?;
    let key = acme.admin.key.clone();
    let mut admin = acme.admin;
    for attempt in 1..=3 {
        eventually("the attempt", async || Ok(attempts(&admin, "bomb").await? == attempt)).await?;
        host.kill()?;
        host = Host::start(&place)?;
        admin = host.sign_in(&key).await?;
    }
    let dead = answer(admin.get("/tenants/acme/queues/work/dead").send().await?).await?;
    assert_eq!((&dead["items"][0]["id"], &dead["items"][0]["failed_count"]), (&json!(id), &json!(3)), "{dead}");
    assert_eq!(attempts(&admin, "bomb").await?, 3);
    Ok(())
}
