//! Runs as their owner follows them: every transition on the audit log of the tenant, and the verbs of `ringfence run`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ringfence_tests::{Host, Session, Tenant, answer, eventually, string};
use serde_json::{Value, json};

use crate::metering::{command, text_of};
use crate::started;
use crate::workflows::{act, begin, events, until};

/// The tenant with the guest whose workflows wait, nap and fail.
async fn ready(host: &Host, operator: &Session) -> Result<Tenant> {
    let acme = host.tenant(operator, "acme").await?;
    let budget = "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n";
    acme.ship("runs", "runs", budget, &[("http", &["http://127.0.0.1:9"])]).await?;
    Ok(acme)
}

/// A page of the tenant's log, in its own words: what succeeded of runs.
async fn trail(acme: &Tenant) -> Result<Vec<Value>> {
    let path = "/audit/trails/acme?code=RUN-&outcome=success&limit=1000";
    let found = answer(acme.admin.get(path).send().await?).await?;
    assert!(found.get("cursor").is_none(), "the log is on one page");
    Ok(found["events"].as_array().context("events")?.iter().map(|event| event["body"].clone()).collect())
}

/// What the log says that happened to a run, in words, as it is numbered there.
fn words_on(log: &[Value], run: &str) -> Vec<String> {
    let mut words = BTreeMap::new();
    for body in log.iter().filter(|body| body["metadata"]["event_code"] == "RUN-002") {
        let details = &body["unmapped"]["details"];
        let (Some(first), true) = (details["first"].as_u64(), details["run"] == run) else { continue };
        let transitions = details["transitions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.extend((first..).zip(transitions.filter_map(|text| text.split(' ').next()).map(str::to_owned)));
    }
    words.into_values().collect()
}

#[tokio::test]
async fn every_transition_of_a_run_is_on_its_tenants_log_and_no_payload_is() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    let start = |workflow: &str, input: Value| json!({ "plugin": "runs", "workflow": workflow, "input": input });
    let none = json!({});
    let done = async |run: &str, verb: &str, body: &Value| {
        let (status, told) = act(&acme.admin, &acme, run, verb, body).await?;
        anyhow::ensure!(status == 200, "{verb}: {told}");
        anyhow::Ok(())
    };

    let waiter = begin(&acme, &start("waiter", json!("numbat-input"))).await?;
    until(&acme, &waiter, "waiting").await?;
    done(waiter.as_str(), "pause", &none).await?;
    done(waiter.as_str(), "signal", &json!({ "name": "go", "payload": "numbat-signal" })).await?;
    done(waiter.as_str(), "resume", &none).await?;
    let waiter = until(&acme, &waiter, "completed").await?;

    let napper = begin(&acme, &start("napper", json!(3_600_000))).await?;
    until(&acme, &napper, "waiting").await?;
    done(napper.as_str(), "cancel", &none).await?;
    let napper = until(&acme, &napper, "cancelled").await?;

    let picky = begin(&acme, &start("picky", Value::Null)).await?;
    until(&acme, &picky, "failed").await?;
    done(picky.as_str(), "retry", &json!({ "from": "0" })).await?;
    let picky = until(&acme, &picky, "failed").await?;
    assert_eq!(events(&picky, "step-done"), 2, "{picky}");

    let stopped = begin(&acme, &start("waiter", Value::Null)).await?;
    until(&acme, &stopped, "waiting").await?;
    done(stopped.as_str(), "terminate", &json!({ "reason": "enough" })).await?;
    let stopped = until(&acme, &stopped, "terminated").await?;

    let log = trail(&acme).await?;
    let begun = log.iter().filter(|body| body["metadata"]["event_code"] == "RUN-001");
    let begun: Vec<&Value> = begun.map(|body| &body["unmapped"]["details"]["workflow"]).collect();
    assert_eq!(begun, ["waiter", "napper", "picky", "waiter"]);
    assert!(log.iter().all(|body| body["actor"]["user"]["uid"] == "acme/admin"), "{log:?}");
    for run in [&waiter, &napper, &picky, &stopped] {
        let timeline = run["timeline"].as_array().context("a timeline")?;
        let timeline: Vec<&str> = timeline.iter().filter_map(|entry| entry["event"].as_str()).collect();
        // The end of a run is shown as soon as it is durable, and on the log a moment later.
        let id = string(run, "id")?;
        eventually("all of it is on the log, by its numbers", async || {
            let log = trail(&acme).await?;
            let words: Vec<String> = words_on(&log, &id);
            Ok(words == timeline)
        })
        .await?;
    }
    let whole = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(whole.contains("RUN-002") && !whole.contains("numbat"), "{whole}");
    Ok(())
}

#[tokio::test]
async fn the_verbs_list_show_signal_cancel_and_retry_runs_of_a_host() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    let says = |words: &[&str]| text_of(&command(&host, &acme.admin, &[&["run"][..], words].concat())?);
    let begin = |workflow: &str, input: &str| -> Result<String> {
        let told = says(&["start", "runs", input, "--workflow", workflow, "--json"])?;
        string(&serde_json::from_str(&told)?, "id")
    };

    let waiter = begin("waiter", "null")?;
    until(&acme, &waiter, "waiting").await?;
    let napper = begin("napper", "3600000")?;
    until(&acme, &napper, "waiting").await?;
    let listed = says(&["list", "--status", "waiting", "--plugin", "runs"])?;
    assert!(listed.contains(&waiter) && listed.contains(&napper), "{listed}");
    let shown = says(&["show", &waiter])?;
    assert!(shown.contains("of waiter (runs@0.1.0) is waiting"), "{shown}");
    assert!(shown.contains("for signal go until ") && shown.contains("signal-awaited"), "{shown}");

    says(&["signal", &waiter, "go", r#"{"n":1}"#])?;
    assert_eq!(until(&acme, &waiter, "completed").await?["output"], json!({ "n": 1 }));
    let shown: Value = serde_json::from_str(&says(&["show", &waiter, "--json"])?)?;
    assert_eq!((&shown["status"], events(&shown, "signal-received")), (&json!("completed"), 1), "{shown}");
    let listed = says(&["list", "--status", "waiting"])?;
    assert!(!listed.contains(&waiter) && listed.contains(&napper), "{listed}");

    says(&["cancel", &napper])?;
    until(&acme, &napper, "cancelled").await?;
    let again = command(&host, &acme.admin, &["run", "cancel", &napper])?;
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && told.contains("run-ended"), "{told}");

    let picky = begin("picky", "null")?;
    until(&acme, &picky, "failed").await?;
    let listed = says(&["list", "--status", "failed"])?;
    assert!(listed.contains(&picky) && !listed.contains(&napper), "{listed}");
    says(&["retry", &picky, "--from", "0"])?;
    assert_eq!(events(&until(&acme, &picky, "failed").await?, "step-done"), 2);
    Ok(())
}
