//! Declarative workflows: a definition is uploaded, runs, waits, survives a kill; a hostile one is refused with its path.

use anyhow::{Context, Result};
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Tenant, answer, eventually, files_under, guest, problem, string};
use serde_json::{Value, json};

use crate::started;
use crate::workflows::{act, begin, events, started_beside, until};

const BUDGET: &str = "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n";

fn order(id: &str, pence: u32, far: &FarEnd) -> Value {
    json!({ "plugin": "order", "input": { "id": id, "pence": pence, "shop": far.origin() } })
}

/// What the far end was told, sorted; each under a key of its own, and once.
fn told(far: &FarEnd) -> Vec<String> {
    let asked = far.asked();
    assert!(asked.values().all(|(_, count)| *count == 1), "{asked:?}");
    let mut told: Vec<String> = asked.into_values().map(|(what, _)| what).collect();
    told.sort();
    told
}

#[tokio::test]
async fn a_definition_runs_over_its_waits_and_tells_the_far_end_each_thing_once() -> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("order", "order", BUDGET, &[("http", &[&far.origin()])]).await?;
    let run = begin(&acme, &order("17", 999, &far)).await?;
    let done = until(&acme, &run, "completed").await?;
    let output = &done["output"];
    assert!(output["charge"].as_str().is_some_and(|charge| charge.starts_with("charge-")), "{done}");
    assert!(output["parcel"].as_str().is_some_and(|parcel| parcel.starts_with("ship-")), "{done}");
    assert_eq!(told(&far), ["/charge 17 999", "/ship 17"]);
    assert_eq!(events(&done, "step-done"), 2, "{done}");

    far.refuse("/ship");
    let run = begin(&acme, &order("18", 5, &far)).await?;
    let failed = until(&acme, &run, "failed").await?;
    let error = string(&failed, "error")?;
    assert!(error.contains("/do/4/ship") && error.contains("answered 422"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_definition_that_waits_for_its_event_goes_on_after_a_kill_and_does_nothing_twice() -> Result<()> {
    let far = FarEnd::start().await?;
    let (place, host, operator) = started_beside(&far).await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("order", "order", BUDGET, &[("http", &[&far.origin()])]).await?;
    let run = begin(&acme, &order("19", 200_000, &far)).await?;
    let waiting = until(&acme, &run, "waiting").await?;
    assert_eq!((&waiting["waits"][0]["what"], told(&far)), (&json!("signal"), vec!["/charge 19 200000".to_owned()]));
    let key = acme.admin.key.clone();
    host.kill()?;

    let config = place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", far.address))?;
    let host = Host::start_with(&place, &["--config", &config.display().to_string()], &[])?;
    let acme = Tenant { name: "acme".to_owned(), admin: host.sign_in(&key).await? };
    act(&acme.admin, &acme, &run, "signal", &json!({ "name": "released", "payload": { "by": "ann" } })).await?;
    let done = until(&acme, &run, "completed").await?;
    assert!(done["output"]["parcel"].as_str().is_some_and(|parcel| parcel.starts_with("ship-")), "{done}");
    assert_eq!(told(&far), ["/charge 19 200000", "/ship 19"]);
    assert_eq!(events(&done, "signal-received"), 1);
    Ok(())
}

#[tokio::test]
async fn a_hostile_definition_is_refused_with_its_path_and_leaves_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let before = files(&host)?;
    let document = json!({ "dsl": "1.0.0", "namespace": "n", "name": "x", "version": "0.1.0" });
    let one = |task: Value| json!({ "document": document, "do": [{ "a": task }] }).to_string();
    let mut deep = json!({ "set": {} });
    for _ in 0..20 {
        deep = json!({ "do": [{ "a": deep }] });
    }
    let tasks: Vec<Value> = (0..10_000).map(|n| json!({ format!("t{n}"): { "set": {} } })).collect();
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (definition, path) in [
        (one(json!({ "run": { "container": { "image": "x" } } })), "/do/0/a/run/container"),
        (one(json!({ "call": "grpc", "with": {} })), "/do/0/a/call"),
        (one(deep), "/do/0/a/do/0/a/do/0/a"),
        (one(json!({ "set": { "x": format!("${{ {} }}", "(".repeat(5_000)) } })), "/do/0/a/set/x"),
        (one(json!({ "set": {}, "input": { "schema": { "document": { "$ref": "#" } } } })), "/do/0/a/input/schema"),
        (json!({ "document": document, "do": tasks }).to_string(), "/do/500/t500"),
        (one(json!({ "set": { "x": "HERE" } })).replace("\"HERE\"", &nested), "no JSON"),
        (one(json!({ "set": { "x": "y".repeat(400 << 10) } })), "larger than"),
    ] {
        let bytes = with_section(guest("order")?, "ringfence:workflow", definition.as_bytes())?;
        let (status, told) = problem(push(&acme, bytes).await?).await?;
        assert_eq!((status, told["code"].as_str()), (422, Some("workflow-definition")), "{told}");
        assert!(string(&told, "detail")?.contains(path), "{path}: {told}");
    }
    assert_eq!(files(&host)?, before);
    let list = answer(acme.admin.get(&acme.path("/plugins")).send().await?).await?;
    assert_eq!(list["items"], json!([]));
    // The example itself, with a second good definition, is taken: the section is read, not feared.
    let good = with_section(guest("order")?, "ringfence:workflow", one(json!({ "set": {} })).as_bytes())?;
    assert_eq!(push(&acme, good).await?.status(), 201);
    Ok(())
}

#[tokio::test]
async fn branches_children_and_events_of_a_definition_are_done_as_it_says() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("defined", "defined", BUDGET, &[("queue", &["done"])]).await?;
    acme.ship("events", "taker", "", &[("keyvalue", &["default"]), ("queue", &["work"])]).await?;
    let queue = json!({ "plugin": "taker", "paused": true });
    answer(acme.admin.put(&acme.path("/queues/done")).json(&queue).send().await?).await?;
    let run = begin(&acme, &json!({ "plugin": "defined", "workflow": "family", "input": { "n": 20 } })).await?;
    let done = until(&acme, &run, "completed").await?;
    assert_eq!(done["output"], json!({ "parts": [2, 40] }), "{done}");
    assert_eq!((events(&done, "forked"), events(&done, "child-begun"), events(&done, "child-ended")), (1, 2, 2));
    let runs = answer(acme.admin.get(&acme.path("/runs")).send().await?).await?;
    let runs = runs["items"].as_array().context("items")?;
    let parts: Vec<&Value> = runs.iter().filter(|run| run["workflow"] == "part").collect();
    assert!(parts.len() == 2 && parts.iter().all(|part| part["status"] == "completed"), "{runs:?}");
    // The event is one message, which its plugin takes once it may.
    let depth = answer(acme.admin.get(&acme.path("/queues/done")).send().await?).await?;
    assert_eq!(depth["depth_count"], 1, "{depth}");
    let queue = json!({ "plugin": "taker" });
    answer(acme.admin.put(&acme.path("/queues/done")).json(&queue).send().await?).await?;
    eventually("it is taken", async || Ok(acme.fetch("taker", "/noted").await?.1 == "1")).await
}

#[test]
fn the_example_carries_its_definition_for_the_host_to_read() -> Result<()> {
    let bytes = guest("order")?;
    let text = br#""name":"order""#;
    let (section, names) = (b"ringfence:workflow", b"ringfence:workflow-names");
    let finds = |what: &[u8]| bytes.windows(what.len()).filter(|window| *window == what).count();
    assert_eq!((finds(section) - finds(names), finds(names)), (1, 1), "the custom sections");
    assert!(finds(text) >= 2, "in the section, and for the interpreter");
    Ok(())
}

async fn push(tenant: &Tenant, bytes: Vec<u8>) -> Result<reqwest::Response> {
    tenant.push_raw("[plugin]\nname = \"x\"\nversion = \"0.1.0\"\n", "x", "0.1.0", bytes).await
}

fn files(host: &Host) -> Result<usize> {
    let is_blob = |path: &std::path::Path| path.components().any(|part| part.as_os_str() == "blobs");
    Ok(files_under(&host.data)?.iter().filter(|(path, _)| is_blob(path)).count())
}

/// The component with one more custom section at its end.
fn with_section(mut component: Vec<u8>, name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let length = |bytes: usize| -> Result<Vec<u8>> {
        let mut left = u32::try_from(bytes).context("too long for a section")?;
        let mut leb = Vec::new();
        while left >= 0x80 {
            leb.push(u8::try_from(left & 0x7f)? | 0x80);
            left >>= 7;
        }
        leb.push(u8::try_from(left)?);
        Ok(leb)
    };
    let name_length = length(name.len())?;
    component.push(0);
    component.extend(length(name_length.len() + name.len() + content.len())?);
    component.extend(name_length);
    component.extend(name.as_bytes());
    component.extend(content);
    Ok(component)
}
