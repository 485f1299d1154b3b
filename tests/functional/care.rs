//! The example `care-visit` as a product and its tenant use it: a hook that refuses and seals, a run that waits for somebody
//! to acknowledge and escalates when nobody does, messages of a queue that go to a far end.

use anyhow::Result;
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Session, Tenant, answer, eventually, files_under, guest, root};
use serde_json::{Value, json};

use crate::automation::{ask, bind, declare, point, queue};
use crate::workflows::{act, begin, events, started_beside, until};

/// What must be nowhere in clear once a visit was sealed.
const CANARIES: [&str; 2] = ["Ann Numbat", "fell in the kitchen"];

fn visit(id: &str, note: &str, acknowledge_within_s: u64) -> Value {
    json!({
        "id": id, "person": "p-7", "name": "Ann Numbat", "note": note, "acknowledge_within_s": acknowledge_within_s,
    })
}

/// A tenant with the plugin as its manifest asks for it, bound to both points, and its queue.
async fn ready(host: &Host, operator: &Session, far: &FarEnd) -> Result<Tenant> {
    let acme = host.tenant(operator, "acme").await?;
    let manifest = std::fs::read_to_string(root().join("plugins/care-visit/plugin.toml"))?;
    answer(acme.push_raw(&manifest, "care-visit", "0.1.0", guest("care-visit")?).await?).await?;
    let origin = far.origin();
    let needs: [(&str, &[&str]); 5] = [
        ("pii", &["name:seal", "note:seal"]),
        ("queue", &["visit-notices"]),
        ("runs", &["care-visit/care-visit"]),
        ("config", &[]),
        ("http", &[&origin]),
    ];
    for (capability, scope) in needs {
        acme.grant("care-visit", capability, scope).await?;
    }
    acme.deploy("care-visit", "0.1.0").await?;
    let config = acme.path("/plugins/care-visit/config/notices-url");
    answer(acme.admin.put(&config).json(&json!({ "value": origin })).send().await?).await?;
    queue(&acme, "visit-notices", json!({ "plugin": "care-visit", "backoff_ms": 100 })).await?;
    let points = [
        ("visit.validate", "validate"),
        ("visit.seal", "transform"),
        ("visit.kept", "notify"),
        ("visit.acknowledged", "notify"),
    ];
    for (name, mode) in points {
        let mut declaration = point(mode, "closed");
        declaration["deadline_ms"] = json!(20_000);
        declare(operator, name, &declaration).await?;
        bind(&acme, name, "care-visit", json!({})).await?;
    }
    Ok(acme)
}

/// What the far end was told, each once.
fn told(far: &FarEnd) -> Vec<String> {
    let asked = far.asked();
    assert!(asked.values().all(|(_, count)| *count == 1), "{asked:?}");
    asked.into_values().map(|(what, _)| what).collect()
}

fn assert_sealed(text: &str, which: &str) {
    for canary in CANARIES {
        assert!(!text.contains(canary), "{canary} is in {which}: {text}");
    }
}

#[tokio::test]
async fn a_note_that_says_nothing_is_refused_and_one_that_does_is_kept_sealed_alone() -> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = ready(&host, &operator, &far).await?;
    let refused = ask(&acme, "visit.validate", visit("v-1", "  ok ", 60)).await?;
    assert_eq!(refused["outcome"], "vetoed", "{refused}");
    assert_eq!(refused["steps"][0]["detail"], "the note does not say what was done");
    let refused = ask(&acme, "visit.seal", visit("v-1", "  ok ", 60)).await?;
    assert_eq!((&refused["outcome"], refused.get("payload")), (&json!("failed"), None), "{refused}");

    let good = visit("v-2", "Ann fell in the kitchen, no harm done", 3_600);
    assert_eq!(ask(&acme, "visit.validate", good.clone()).await?["outcome"], "passed");
    let sealed = ask(&acme, "visit.seal", good).await?["payload"].clone();
    for field in ["name", "note"] {
        assert!(sealed[field].as_str().is_some_and(|value| value.starts_with("rfp1.")), "{sealed}");
    }
    assert_eq!((&sealed["id"], &sealed["acknowledge_within_s"]), (&json!("v-2"), &json!(3_600)));
    let run = begin(&acme, &json!({ "plugin": "care-visit", "input": sealed })).await?;
    let waiting = until(&acme, &run, "waiting").await?;
    assert_eq!(waiting["input"], sealed);
    assert_sealed(&waiting.to_string(), "the run");
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert_sealed(&log, "the audit log");
    let (data, stderr) = (host.data.clone(), host.stderr());
    host.stop()?;
    assert_sealed(&stderr, "what the host says");
    for (path, bytes) in files_under(&data)? {
        for canary in CANARIES {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} is in {}", path.display());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_visit_that_is_acknowledged_is_over_and_one_that_nobody_acknowledges_is_told_to_the_manager() -> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = ready(&host, &operator, &far).await?;
    let seal = async |id: &str, acknowledge_within_s: u64| {
        let asked = visit(id, "Ann fell in the kitchen, no harm done", acknowledge_within_s);
        let sealed = ask(&acme, "visit.seal", asked).await?["payload"].clone();
        anyhow::Ok(json!({ "plugin": "care-visit", "input": sealed }))
    };
    let run = begin(&acme, &seal("v-3", 3_600).await?).await?;
    let waiting = until(&acme, &run, "waiting").await?;
    assert_eq!(
        (&waiting["waits"][0]["what"], &waiting["waits"][0]["name"]),
        (&json!("signal"), &json!("acknowledged"))
    );
    eventually("the office knows", async || Ok(told(&far) == ["/office v-3"])).await?;
    assert_eq!(act(&acme.admin, &acme, &run, "signal", &json!({ "name": "acknowledged" })).await?.0, 200);
    let done = until(&acme, &run, "completed").await?;
    assert_eq!((&done["output"], events(&done, "step-done")), (&json!("acknowledged"), 1), "{done}");

    let run = begin(&acme, &seal("v-4", 1).await?).await?;
    let done = until(&acme, &run, "completed").await?;
    assert_eq!((&done["output"], events(&done, "time-over")), (&json!("escalated"), 1), "{done}");
    assert_eq!(
        act(&acme.admin, &acme, &run, "signal", &json!({ "name": "acknowledged" })).await?.1["code"],
        "run-ended"
    );
    eventually("the manager knows", async || {
        let mut told = told(&far);
        told.sort();
        // The manager is told of the second visit alone.
        Ok(told == ["/manager v-4", "/office v-3", "/office v-4"])
    })
    .await
}

#[tokio::test]
async fn rules_about_fields_are_about_requests_and_what_comes_by_hook_or_message_is_the_plugins_own_to_seal()
-> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = ready(&host, &operator, &far).await?;
    let rules = json!({ "rules": [
        { "pointer": "/note", "field": "note", "subject": { "pointer": "/person" }, "direction": "request" },
        { "path": "/*", "pointer": "/*", "field": "name", "subject": { "constant": "p-7" }, "direction": "request" },
        { "pointer": "/id", "field": "note", "direction": "response", "otherwise": "mask" },
    ] });
    answer(acme.admin.put(&acme.path("/plugins/care-visit/fields")).json(&rules).send().await?).await?;
    // A note that had been sealed before would be long enough.
    let refused = ask(&acme, "visit.validate", visit("v-5", "  ok ", 60)).await?;
    assert_eq!(refused["outcome"], "vetoed", "{refused}");
    let sealed = ask(&acme, "visit.seal", visit("v-5", "Ann fell in the kitchen, no harm done", 3_600)).await?;
    assert_eq!(sealed["payload"]["id"], "v-5", "{sealed}");
    begin(&acme, &json!({ "plugin": "care-visit", "input": sealed["payload"] })).await?;
    eventually("the message says whom to tell", async || Ok(told(&far) == ["/office v-5"])).await
}

#[tokio::test]
async fn the_product_tells_of_a_kept_visit_however_often_and_of_its_acknowledgement_and_the_plugin_does_the_rest()
-> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = ready(&host, &operator, &far).await?;
    let sealed = ask(&acme, "visit.seal", visit("v-5", "Ann fell in the kitchen, no harm done", 3_600)).await?;
    let sealed = sealed["payload"].clone();
    for _ in 0..2 {
        assert_eq!(ask(&acme, "visit.kept", sealed.clone()).await?["outcome"], "queued");
    }
    eventually("the office knows", async || Ok(told(&far) == ["/office v-5"])).await?;
    let listed = async || answer(acme.admin.get(&acme.path("/runs?plugin=care-visit")).send().await?).await;
    let runs = listed().await?;
    let run = runs["items"][0]["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(runs["items"][0]["by"], "acme/plugin/care-visit", "{runs}");
    until(&acme, &run, "waiting").await?;
    assert_eq!(ask(&acme, "visit.acknowledged", sealed).await?["outcome"], "queued");
    assert_eq!(until(&acme, &run, "completed").await?["output"], "acknowledged");
    eventually("all that was told is handed over", async || {
        let queue = answer(acme.admin.get(&acme.path("/queues/_hooks")).send().await?).await?;
        Ok(queue["depth_count"] == 0)
    })
    .await?;
    assert_eq!(listed().await?["items"].as_array().map(Vec::len), Some(1), "one run, however often it is told");
    Ok(())
}
