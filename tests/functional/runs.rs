//! Runs as their owner follows them: every transition on the audit log of the tenant, and the verbs of `ringfence run`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use reqwest::Method;
use ringfence_tests::{Host, Session, Tenant, answer, eventually, files_under, string};
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
pub async fn trail(acme: &Tenant) -> Result<Vec<Value>> {
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
    let told =
        says(&["start", "runs", "3600000", "--workflow", "napper", "--attributes", "order=17,by=ann", "--json"])?;
    let napper = string(&serde_json::from_str(&told)?, "id")?;
    until(&acme, &napper, "waiting").await?;
    let listed = says(&["list", "--status", "waiting", "--plugin", "runs"])?;
    assert!(listed.contains(&waiter) && listed.contains(&napper), "{listed}");
    for search in [["--workflow", "napper"], ["--attributes", "by=ann,order=17"]] {
        let found = says(&[&["list"][..], &search].concat())?;
        assert!(found.contains(&napper) && !found.contains(&waiter), "{search:?}: {found}");
    }
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

/// All records of the tenant that do not open.
async fn damage(acme: &Tenant) -> Result<Vec<Value>> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = answer(acme.admin.get(&acme.path(&format!("/damage{cursor}"))).send().await?).await?;
        found.extend(page["items"].as_array().context("items")?.iter().cloned());
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("?cursor={next}"),
            None => return Ok(found),
        }
    }
}

#[tokio::test]
async fn a_run_whose_history_rotted_is_ended_and_removed_by_its_tenant_and_a_policy_by_an_operator_alone() -> Result<()>
{
    let (place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    // Too long for their records: they lie in files of their own.
    let long = "x".repeat(100_000);
    let waiter = |input: &str| json!({ "plugin": "runs", "workflow": "waiter", "input": input });
    let rotten = begin(&acme, &waiter(&long)).await?;
    let whole = begin(&acme, &waiter("short")).await?;
    for run in [&rotten, &whole] {
        until(&acme, run, "waiting").await?;
    }
    let text = format!(
        "{}@id(\"no-auditors\") forbid (principal, action == Ringfence::Action::\"create-token\", resource) \
         when {{ context has asked_role && context.asked_role == Ringfence::Role::\"auditor\" }};",
        "// words\n".repeat(10_000)
    );
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    assert_eq!(damage(&acme).await?, [] as [Value; 0]);
    for (path, mut bytes) in files_under(&place.data().join("store").join("blobs"))? {
        if path.parent().is_some_and(|above| above.ends_with("values")) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes)?;
        }
    }
    let found = damage(&acme).await?;
    let (hosts, runs): (Vec<&Value>, Vec<&Value>) = found.iter().partition(|one| one["by_operator"] == true);
    assert!(!hosts.is_empty() && hosts.iter().all(|one| one.get("within").is_none()), "{found:?}");
    assert!(runs.len() == 1 && runs[0]["run"] == rotten.as_str(), "{found:?}");
    let remove = async |who: &Session, one: &Value| -> Result<u16> {
        let path = acme.path(&format!("/damage/{}", string(one, "place")?));
        Ok(who.request(Method::DELETE, &path).send().await?.status().as_u16())
    };
    assert_eq!(remove(&acme.admin, hosts[0]).await?, 409, "{}", hosts[0]);
    assert_eq!(remove(&operator, hosts[0]).await?, 204, "{}", hosts[0]);

    // Its head is whole, so it is listed, and can be ended; its history cannot be shown.
    let listed = answer(acme.admin.get(&acme.path("/runs")).send().await?).await?;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2), "{listed}");
    let shown = acme.admin.get(&acme.path(&format!("/runs/{rotten}"))).send().await?;
    assert_eq!(shown.status().as_u16(), 503);
    let (status, ended) = act(&acme.admin, &acme, &rotten, "terminate", &json!({ "reason": "rotten" })).await?;
    assert_eq!((status, &ended["status"]), (200, &json!("terminated")), "{ended}");
    assert_eq!(remove(&acme.admin, runs[0]).await?, 204);
    assert_eq!(remove(&acme.admin, runs[0]).await?, 404, "it is gone");
    assert!(damage(&acme).await?.iter().all(|one| one["by_operator"] == true));
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(log.contains("BAK-006"), "{log}");
    // The other goes on.
    assert_eq!(act(&acme.admin, &acme, &whole, "signal", &json!({ "name": "go" })).await?.0, 200);
    until(&acme, &whole, "completed").await?;
    Ok(())
}
