//! Hooks, queues and schedules through the real binary.

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Session, Tenant, answer, eventually, problem};
use serde_json::{Value, json};

use crate::backups::job;
use crate::invocations::ship_hostile;
use crate::started;

const GRANTS: &[(&str, &[&str])] = &[("keyvalue", &["default"]), ("queue", &["work"])];

pub fn point(mode: &str, on_failure: &str) -> Value {
    json!({
        "mode": mode, "payload": { "type": "object", "properties": { "count": { "type": "integer" } } },
        "deadline_ms": 2000, "on_failure": on_failure, "result_bytes_max": 10_000, "binders": "several",
    })
}

pub async fn declare(operator: &Session, name: &str, declaration: &Value) -> Result<Value> {
    answer(operator.put(&format!("/hooks/{name}")).json(declaration).send().await?).await
}

pub async fn bind(tenant: &Tenant, hook: &str, plugin: &str, binding: Value) -> Result<Value> {
    let path = tenant.path(&format!("/hooks/{hook}/bindings/{plugin}"));
    answer(tenant.admin.put(&path).json(&binding).send().await?).await
}

pub async fn ask(tenant: &Tenant, hook: &str, payload: Value) -> Result<Value> {
    let path = tenant.path(&format!("/hooks/{hook}"));
    answer(tenant.admin.post(&path).json(&json!({ "payload": payload })).send().await?).await
}

pub async fn send(tenant: &Tenant, queue: &str, message: &Value) -> Result<Value> {
    let path = tenant.path(&format!("/queues/{queue}/messages"));
    answer(tenant.admin.post(&path).json(message).send().await?).await
}

pub async fn queue(tenant: &Tenant, name: &str, settings: Value) -> Result<Value> {
    answer(tenant.admin.put(&tenant.path(&format!("/queues/{name}"))).json(&settings).send().await?).await
}

pub async fn noted(tenant: &Tenant, plugin: &str, what: &str) -> Result<String> {
    Ok(tenant.fetch(plugin, &format!("/{what}")).await?.1)
}

pub async fn tenant_with(host: &Host, operator: &Session, name: &str, plugins: &[&str]) -> Result<Tenant> {
    let tenant = host.tenant(operator, name).await?;
    for plugin in plugins {
        tenant.ship("events", plugin, "[budget]\ntime_ms = 20000\n", GRANTS).await?;
    }
    Ok(tenant)
}

#[tokio::test]
async fn the_first_veto_stops_a_validation_and_says_who_and_why() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first", "second"]).await?;
    declare(&operator, "t.validate", &point("validate", "closed")).await?;
    bind(&acme, "t.validate", "second", json!({ "order": 2 })).await?;
    bind(&acme, "t.validate", "first", json!({ "order": 1, "condition": "payload.count < 10" })).await?;
    let vetoed = ask(&acme, "t.validate", json!({ "do": "veto", "count": 1 })).await?;
    assert_eq!(vetoed["outcome"], "vetoed", "{vetoed}");
    assert_eq!(vetoed["steps"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&vetoed["steps"][0]["plugin"], &vetoed["steps"][0]["detail"]),
        (&json!("first"), &json!("the payload says so"))
    );
    let passed_over = ask(&acme, "t.validate", json!({ "do": "veto", "count": 10 })).await?;
    assert_eq!(passed_over["steps"][0]["outcome"], "skipped");
    assert_eq!(passed_over["steps"][1]["plugin"], "second");
    assert_eq!(ask(&acme, "t.validate", json!({ "count": 1 })).await?["outcome"], "passed");
    // What does not fit the schema reaches no plugin.
    let path = acme.path("/hooks/t.validate");
    let wrong = acme.admin.post(&path).json(&json!({ "payload": { "count": "many" } })).send().await?;
    let (status, wrong) = problem(wrong).await?;
    assert_eq!((status, &wrong["code"]), (422, &json!("bad-payload")), "{wrong}");
    // Every run is an invocation like any other, with its cause.
    let id = vetoed["steps"][0]["invocation"].as_str().unwrap_or_default();
    let record = acme.admin.get(&acme.path(&format!("/plugins/first/invocations/{id}"))).send().await?;
    assert_eq!(answer(record).await?["cause"], "hook/t.validate");
    Ok(())
}

#[tokio::test]
async fn a_transformation_is_a_pipe_and_a_collection_gathers() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first", "second"]).await?;
    for mode in ["transform", "collect"] {
        declare(&operator, mode, &point(mode, "closed")).await?;
        for plugin in ["first", "second"] {
            bind(&acme, mode, plugin, json!({})).await?;
        }
    }
    let made = ask(&acme, "transform", json!({ "do": "add", "count": 5 })).await?;
    assert_eq!((&made["outcome"], &made["payload"]["count"]), (&json!("passed"), &json!(7)), "{made}");
    // A condition is about what the plugin would be given, not what the product sent; one that cannot be followed is a failure.
    bind(&acme, "transform", "second", json!({ "condition": "payload.count > 5" })).await?;
    for (count, made, second) in [(5, 7, "answered"), (4, 5, "skipped")] {
        let told = ask(&acme, "transform", json!({ "do": "add", "count": count })).await?;
        let found = (&told["payload"]["count"], &told["steps"][1]["outcome"]);
        assert_eq!(found, (&json!(made), &json!(second)), "{told}");
    }
    let bound = bind(&acme, "transform", "second", json!({ "order": -1, "condition": "payload.other > 5" })).await?;
    assert!(bound["warnings"][0].as_str().is_some_and(|text| text.contains("`payload.other`")), "{bound}");
    let failed = ask(&acme, "transform", json!({ "do": "add", "count": 5 })).await?;
    let step = &failed["steps"][0];
    assert_eq!((&failed["outcome"], &step["plugin"]), (&json!("failed"), &json!("second")), "{failed}");
    assert_eq!(step["code"], "condition", "{failed}");
    let gathered = ask(&acme, "collect", json!({ "do": "add", "count": 5 })).await?;
    let counts: Vec<_> =
        gathered["steps"].as_array().into_iter().flatten().map(|step| step["result"]["count"].clone()).collect();
    assert_eq!(counts, [json!(6), json!(6)], "{gathered}");
    Ok(())
}

#[tokio::test]
async fn a_broken_slow_or_verbose_plugin_does_no_more_than_the_point_says() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["bad"]).await?;
    for (name, on_failure, outcome) in [("t.open", "open", "passed"), ("t.closed", "closed", "failed")] {
        declare(&operator, name, &point("transform", on_failure)).await?;
        bind(&acme, name, "bad", json!({})).await?;
        for (act, code) in
            [("break", "trap"), ("hang", "budget-"), ("grow", "result-too-large"), ("note", "bad-result")]
        {
            let answer = ask(&acme, name, json!({ "do": act, "count": 1 })).await?;
            assert_eq!(answer["outcome"], outcome, "{act}: {answer}");
            let told = answer["steps"][0]["code"].as_str().unwrap_or_default();
            assert!(told.starts_with(code) || act == "hang" && told == "deadline", "{act}: {answer}");
            assert!(!answer.to_string().contains("panicked"), "a trap is for the plugin's owner: {answer}");
            if on_failure == "open" {
                assert_eq!(answer["payload"]["count"], 1, "{act}: {answer}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_dry_run_shows_the_answer_and_changes_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    declare(&operator, "t.change", &point("transform", "open")).await?;
    declare(&operator, "t.tell", &point("notify", "open")).await?;
    for hook in ["t.change", "t.tell"] {
        bind(&acme, hook, "first", json!({})).await?;
        let path = acme.path(&format!("/hooks/{hook}/dry-run"));
        for act in ["add", "note"] {
            let shown = answer(acme.admin.post(&path).json(&json!({ "payload": { "do": act } })).send().await?).await?;
            assert_eq!(shown["outcome"], "passed", "{shown}");
            if (hook, act) == ("t.change", "add") {
                assert_eq!(shown["payload"]["count"], 1, "{shown}");
            }
        }
    }
    assert_eq!(noted(&acme, "first", "noted").await?, "nothing");
    Ok(())
}

#[tokio::test]
async fn an_instance_serves_hooks_and_messages_when_its_author_says_so_and_nothing_that_is_tried_out() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    declare(&operator, "t.gather", &point("collect", "closed")).await?;
    bind(&acme, "t.gather", "first", json!({})).await?;
    queue(&acme, "work", json!({ "plugin": "first" })).await?;
    let served = async |way: &str| {
        let path = acme.path(&format!("/hooks/t.gather{way}"));
        let asked = acme.admin.post(&path).json(&json!({ "payload": { "do": "served" } })).send().await?;
        answer(asked).await?["steps"][0]["result"].as_u64().context("no count")
    };
    for _ in 0..3 {
        assert_eq!(served("").await?, 1);
    }
    acme.push("events", "first", "0.2.0", "[instance]\ninvocations_max = 100000\n").await?;
    acme.deploy("first", "0.2.0").await?;
    for count in 1..=3 {
        assert_eq!(served("").await?, count);
        // What is tried out has an instance of its own, which nobody has after it.
        assert_eq!(served("/dry-run").await?, 1);
    }
    send(&acme, "work", &json!({ "payload": { "do": "served" } })).await?;
    let path = acme.path("/queues/work");
    eventually("the message is done", async || {
        Ok(answer(acme.admin.get(&path).send().await?).await?["depth_count"] == 0)
    })
    .await?;
    assert_eq!(served("").await?, 5);
    assert_eq!(noted(&acme, "first", "served").await?, "4");
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_would_come_after_its_points_deadline_is_not_begun() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["late"]).await?;
    ship_hostile(&acme).await?;
    let mut quick = point("collect", "open");
    quick["deadline_ms"] = json!(300);
    for (name, declaration) in [("t.quick", &quick), ("t.patient", &point("collect", "open"))] {
        declare(&operator, name, declaration).await?;
        bind(&acme, name, "late", json!({})).await?;
    }
    let one = json!({ "overrides": { "concurrency_count": 1 } });
    answer(operator.put("/tenants/acme/quota").json(&one).send().await?).await?;
    let sleeper = tokio::spawn(acme.admin.call(Method::GET, "/acme/hostile/sleep?ms=3000").send());
    eventually("the one place is taken", async || {
        let quota = answer(acme.admin.get("/tenants/acme/quota").send().await?).await?;
        Ok(quota["use"]["running_count"] == 1)
    })
    .await?;
    let late = ask(&acme, "t.quick", json!({ "do": "note" })).await?;
    assert_eq!((&late["outcome"], &late["steps"][0]["code"]), (&json!("passed"), &json!("deadline")), "{late}");
    assert_eq!(sleeper.await??.status(), StatusCode::OK);
    // It waited before this one, and had its turn by now.
    let patient = ask(&acme, "t.patient", json!({ "do": "note" })).await?;
    assert_eq!(patient["steps"][0]["outcome"], "answered", "{patient}");
    assert_eq!(noted(&acme, "late", "noted").await?, "1", "what nobody waited for was done");
    Ok(())
}

#[tokio::test]
async fn a_tenant_without_a_free_place_or_quota_breaks_no_request_of_an_open_point() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["asked"]).await?;
    ship_hostile(&acme).await?;
    for (name, on_failure) in [("t.open", "open"), ("t.closed", "closed")] {
        declare(&operator, name, &point("validate", on_failure)).await?;
        bind(&acme, name, "asked", json!({})).await?;
    }
    let quota =
        async |overrides: Value| answer(operator.put("/tenants/acme/quota").json(&overrides).send().await?).await;
    quota(json!({ "overrides": { "concurrency_count": 1 } })).await?;
    // One holds the slot, and more than may wait want to: 64.
    let flood: Vec<_> = (0..100)
        .map(|_| {
            let session = acme.admin.clone();
            tokio::spawn(async move {
                while session.call(Method::GET, "/acme/hostile/sleep?ms=3000").send().await.is_ok() {}
            })
        })
        .collect();
    let told_of = async |code: &str| {
        let passed = ask(&acme, "t.open", json!({})).await?;
        assert_eq!(passed["outcome"], "passed", "{passed}");
        Ok::<_, anyhow::Error>(passed["steps"][0]["code"] == code)
    };
    eventually("a call for which there is no place", async || told_of("tenant-busy").await).await?;
    assert_eq!(ask(&acme, "t.closed", json!({})).await?["outcome"], "failed");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    quota(json!({ "overrides": { "requests_per_second": 1 } })).await?;
    eventually("a call too many", async || told_of("quota-exhausted").await).await
}

#[tokio::test]
async fn what_would_break_bound_plugins_is_refused_while_any_is_bound() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    assert_eq!(declare(&operator, "t.point", &point("validate", "open")).await?["version"], 1);
    bind(&acme, "t.point", "first", json!({})).await?;
    let other = point("collect", "open");
    let (status, refused) = problem(operator.put("/hooks/t.point").json(&other).send().await?).await?;
    assert_eq!((status, &refused["code"]), (409, &json!("hook-bound")), "{refused}");
    assert_eq!(operator.delete("/hooks/t.point").send().await?.status(), StatusCode::CONFLICT);
    let mut wider = point("validate", "closed");
    wider["deadline_ms"] = json!(9_000);
    assert_eq!(declare(&operator, "t.point", &wider).await?["version"], 2);
    let unbind = acme.path("/hooks/t.point/bindings/first");
    assert_eq!(acme.admin.delete(&unbind).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(declare(&operator, "t.point", &other).await?["version"], 3);
    let listed = async || answer(operator.get("/hooks/t.point/earlier").send().await?).await;
    let words = |listed: &Value| -> Vec<(u64, String)> {
        let items = listed["items"].as_array().into_iter().flatten();
        let word = |item: &Value| item["declaration"]["on_failure"].as_str().unwrap_or_default().to_owned();
        items.map(|item| (item["version"].as_u64().unwrap_or(0), word(item))).collect()
    };
    assert_eq!(words(&listed().await?), [(2, "closed".to_owned()), (1, "open".to_owned())], "the last first");
    for version in 4..40 {
        wider["deadline_ms"] = json!(1_000 + version);
        assert_eq!(declare(&operator, "t.point", &wider).await?["version"], version);
    }
    let versions: Vec<u64> = words(&listed().await?).into_iter().map(|(version, _)| version).collect();
    assert_eq!(versions, (7..39).rev().collect::<Vec<u64>>(), "no more than 32 are kept");
    let (status, refused) = problem(acme.admin.get("/hooks/t.point/earlier").send().await?).await?;
    assert_eq!((status, &refused["code"]), (403, &json!("denied")), "{refused}");
    assert_eq!(operator.delete("/hooks/t.point").send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(operator.get("/hooks/t.point/earlier").send().await?.status(), StatusCode::NOT_FOUND);
    assert_eq!(declare(&operator, "t.point", &other).await?["version"], 1);
    assert!(words(&listed().await?).is_empty());
    Ok(())
}

#[tokio::test]
async fn a_binding_says_its_points_version_and_the_plugin_is_told_the_one_it_is_asked_under() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first", "told"]).await?;
    declare(&operator, "t.gather", &point("collect", "closed")).await?;
    assert_eq!(bind(&acme, "t.gather", "first", json!({})).await?["point_version"], 1);
    let mut wider = point("collect", "closed");
    wider["deadline_ms"] = json!(9_000);
    declare(&operator, "t.gather", &wider).await?;
    let asked = ask(&acme, "t.gather", json!({ "do": "version" })).await?;
    assert_eq!(asked["steps"][0]["result"], "2", "{asked}");
    let listed = answer(acme.admin.get(&acme.path("/hooks")).send().await?).await?;
    assert_eq!(listed["items"][0]["version"], 2, "{listed}");
    assert_eq!(listed["items"][0]["bindings"][0]["point_version"], 1, "it was bound before: {listed}");
    assert_eq!(bind(&acme, "t.gather", "first", json!({})).await?["point_version"], 2);
    declare(&operator, "t.tell", &point("notify", "open")).await?;
    bind(&acme, "t.tell", "told", json!({})).await?;
    ask(&acme, "t.tell", json!({ "do": "version" })).await?;
    eventually("a notification with its version", async || Ok(noted(&acme, "told", "version").await? == "1")).await
}

#[tokio::test]
async fn a_plugin_without_the_handler_and_a_hostile_condition_are_not_bound() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    acme.ship("hello", "hello", "", &[]).await?;
    declare(&operator, "t.point", &point("validate", "open")).await?;
    let nested = format!("{}true{}", "(".repeat(100), ")".repeat(100));
    for (plugin, condition) in
        [("hello", "true"), ("first", nested.as_str()), ("first", "payload."), ("first", "other > 1")]
    {
        let path = acme.path(&format!("/hooks/t.point/bindings/{plugin}"));
        let (status, refused) =
            problem(acme.admin.put(&path).json(&json!({ "condition": condition })).send().await?).await?;
        assert_eq!((status, &refused["code"]), (422, &json!("bad-binding")), "{refused}");
    }
    // Nor one that no payload of the point could be followed for.
    let mut closed = point("validate", "closed");
    closed["payload"]["additionalProperties"] = json!(false);
    declare(&operator, "t.closed", &closed).await?;
    let path = acme.path("/hooks/t.closed/bindings/first");
    let nope = acme.admin.put(&path).json(&json!({ "condition": "payload.nope > 3" })).send().await?;
    let (status, refused) = problem(nope).await?;
    assert_eq!((status, &refused["code"]), (422, &json!("bad-binding")), "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("`payload.nope`")), "{refused}");
    let bound = bind(&acme, "t.closed", "first", json!({ "condition": "payload.count > 3" })).await?;
    assert_eq!(bound.get("warnings"), None, "{bound}");
    Ok(())
}

#[tokio::test]
async fn a_notification_is_queued_and_arrives() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    declare(&operator, "t.tell", &point("notify", "open")).await?;
    bind(&acme, "t.tell", "first", json!({})).await?;
    let told = ask(&acme, "t.tell", json!({ "do": "note" })).await?;
    assert_eq!((&told["outcome"], &told["steps"][0]["outcome"]), (&json!("queued"), &json!("queued")));
    eventually("the notification", async || Ok(noted(&acme, "first", "noted").await? == "1")).await
}

#[tokio::test]
async fn a_dead_notification_is_found_goes_again_and_is_thrown_away() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    declare(&operator, "t.tell", &point("notify", "open")).await?;
    bind(&acme, "t.tell", "first", json!({})).await?;
    queue(&acme, "_hooks", json!({ "attempts_max": 1 })).await?;
    ask(&acme, "t.tell", json!({ "do": "break" })).await?;
    let dead = async || answer(acme.admin.get(&acme.path("/queues/_hooks/dead?text=t.tell")).send().await?).await;
    eventually("it is dead", async || Ok(dead().await?["items"].as_array().map(Vec::len) == Some(1))).await?;
    let letter = dead().await?["items"][0].clone();
    assert_eq!((&letter["hook"], &letter["plugin"]), (&json!("t.tell"), &json!("first")), "{letter}");
    let deal = async |what: &str, body: Value| {
        acme.admin.post(&acme.path(&format!("/queues/_hooks/dead/{what}"))).json(&body).send().await
    };
    assert_eq!(answer(deal("redrive", json!({ "ids": [letter["id"]] })).await?).await?["count"], 1);
    eventually("it is dead again", async || {
        let again = dead().await?["items"][0].clone();
        Ok(again["id"] == letter["id"] && again["died_at"] != letter["died_at"])
    })
    .await?;
    for unclear in [json!({}), json!({ "ids": [letter["id"]], "all": true })] {
        let (status, refused) = problem(deal("discard", unclear).await?).await?;
        assert_eq!((status, &refused["code"]), (422, &json!("bad-queue")), "{refused}");
    }
    assert_eq!(answer(deal("discard", json!({ "ids": [letter["id"]] })).await?).await?["count"], 1);
    assert_eq!(dead().await?["items"], json!([]));
    let state = answer(acme.admin.get(&acme.path("/queues/_hooks")).send().await?).await?;
    assert_eq!(state["depth_count"], 0, "{state}");
    Ok(())
}

#[tokio::test]
async fn a_message_from_a_plugin_reaches_the_queues_plugin_once_it_is_granted() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["sender", "taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker" })).await?;
    declare(&operator, "t.point", &point("collect", "closed")).await?;
    bind(&acme, "t.point", "sender", json!({})).await?;
    assert_eq!(ask(&acme, "t.point", json!({ "do": "send" })).await?["outcome"], "passed");
    eventually("the message", async || Ok(noted(&acme, "taker", "noted").await? == "1")).await?;
    answer(acme.admin.delete(&acme.path("/plugins/sender/grants/queue")).send().await?).await?;
    assert_eq!(ask(&acme, "t.point", json!({ "do": "send" })).await?["outcome"], "failed");
    Ok(())
}

#[tokio::test]
async fn a_failing_message_is_tried_dies_is_found_and_goes_again() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "attempts_max": 3, "backoff_ms": 10, "backoff_ms_max": 20 }))
        .await?;
    let sent = send(&acme, "work", &json!({ "payload": { "do": "fail", "name": "poison" } })).await?;
    send(&acme, "work", &json!({ "payload": { "do": "retry", "name": "patient" } })).await?;
    send(&acme, "work", &json!({ "payload": { "do": "refuse", "name": "refused" } })).await?;
    let dead = async |text: &str| {
        let path = acme.path(&format!("/queues/work/dead?text={text}"));
        answer(acme.admin.get(&path).send().await?).await
    };
    eventually("two dead letters", async || {
        Ok(dead("message%20says").await?["items"].as_array().map(Vec::len) == Some(2))
    })
    .await?;
    assert_eq!(noted(&acme, "taker", "attempts-poison").await?, "3");
    assert_eq!(noted(&acme, "taker", "attempts-refused").await?, "1");
    eventually("the patient one", async || Ok(noted(&acme, "taker", "noted").await? == "1")).await?;
    let found = dead("poison").await?;
    assert_eq!((&found["items"][0]["id"], &found["items"][0]["failed_count"]), (&sent["id"], &json!(3)), "{found}");
    let redrive = acme.admin.post(&acme.path("/queues/work/dead/redrive")).json(&json!({ "text": "poison" }));
    assert_eq!(answer(redrive.send().await?).await?["count"], 1);
    eventually("three more attempts", async || Ok(noted(&acme, "taker", "attempts-poison").await? == "6")).await?;
    Ok(())
}

#[tokio::test]
async fn a_plugin_that_is_not_there_or_takes_no_messages_is_refused_wherever_it_is_named() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    acme.ship("hello", "hello", "", &[]).await?;
    for (plugin, status, code) in [("nope", 404, "plugin-not-found"), ("hello", 422, "bad-binding")] {
        let set = acme.admin.put(&acme.path("/queues/work")).json(&json!({ "plugin": plugin }));
        let (said, refused) = problem(set.send().await?).await?;
        assert_eq!((said, &refused["code"]), (status, &json!(code)), "{refused}");
    }
    assert_eq!(acme.admin.get(&acme.path("/queues/work")).send().await?.status(), StatusCode::NOT_FOUND);
    // What it had stays, and none is as good as ever.
    queue(&acme, "work", json!({})).await?;
    queue(&acme, "work", json!({ "plugin": "taker" })).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "paused": true })).await?;
    let set = acme.admin.put(&acme.path("/plugins/nope/config/a")).json(&json!({ "value": "b" })).send().await?;
    assert_eq!(problem(set).await?.1["code"], "plugin-not-found");
    for of in ["config", "logs", "invocations"] {
        let read = acme.admin.get(&acme.path(&format!("/plugins/nope/{of}"))).send().await?;
        assert_eq!(problem(read).await?.1["code"], "plugin-not-found", "{of}");
        answer(acme.admin.get(&acme.path(&format!("/plugins/taker/{of}"))).send().await?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_message_under_the_same_key_is_taken_once_and_a_full_queue_says_so() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "paused": true, "depth_count_max": 2 })).await?;
    let keyed = json!({ "payload": { "name": "once" }, "idempotency_key": "k1" });
    let (first, again) = (send(&acme, "work", &keyed).await?, send(&acme, "work", &keyed).await?);
    assert_eq!((&first["is_repeat"], &again["is_repeat"], &first["id"]), (&json!(false), &json!(true), &again["id"]));
    send(&acme, "work", &json!({})).await?;
    let path = acme.path("/queues/work/messages");
    let (status, full) = problem(acme.admin.post(&path).json(&json!({})).send().await?).await?;
    assert_eq!((status, &full["code"]), (429, &json!("queue-full")));
    queue(&acme, "work", json!({ "plugin": "taker" })).await?;
    eventually("both", async || Ok(noted(&acme, "taker", "noted").await? == "2")).await?;
    assert_eq!(noted(&acme, "taker", "attempts-once").await?, "1");
    Ok(())
}

#[tokio::test]
async fn a_flood_of_one_tenant_leaves_another_ones_next_message_alone() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    let globex = tenant_with(&host, &operator, "globex", &["taker"]).await?;
    for tenant in [&acme, &globex] {
        queue(tenant, "work", json!({ "plugin": "taker", "concurrency_count": 2 })).await?;
    }
    let message = json!({ "payload": { "name": "flood" } });
    let flood = (0..200).map(|_| send(&acme, "work", &message));
    futures::future::try_join_all(flood).await?;
    send(&globex, "work", &json!({ "payload": { "name": "single" } })).await?;
    eventually("the other tenant's message", async || Ok(noted(&globex, "taker", "attempts-single").await? == "1"))
        .await?;
    eventually("the flood", async || Ok(noted(&acme, "taker", "attempts-flood").await? == "200")).await
}

#[tokio::test]
async fn a_suspended_tenant_takes_nothing_and_goes_on_when_it_is_resumed() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "attempts_max": 1 })).await?;
    send(&acme, "work", &json!({ "payload": { "name": "late" }, "delay_ms": 1500 })).await?;
    answer(operator.post("/tenants/acme/suspend").send().await?).await?;
    let refused = acme.admin.post(&acme.path("/queues/work/messages")).json(&json!({})).send().await?;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let due = std::time::Instant::now() + std::time::Duration::from_secs(2);
    eventually("its time", async || Ok(std::time::Instant::now() > due)).await?;
    answer(operator.post("/tenants/acme/resume").send().await?).await?;
    // Its one attempt was not spent while nothing could run.
    eventually("the message", async || Ok(noted(&acme, "taker", "attempts-late").await? == "1")).await
}

#[tokio::test]
async fn messages_survive_a_kill_and_each_arrives() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "concurrency_count": 4 })).await?;
    let names: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    let sent = names.iter().map(|name| {
        let acme = &acme;
        async move { send(acme, "work", &json!({ "payload": { "name": name } })).await }
    });
    futures::future::try_join_all(sent).await?;
    let key = acme.admin.key.clone();
    host.kill()?;
    let host = Host::start(&place)?;
    let admin = host.sign_in(&key).await?;
    let acme = Tenant { admin, ..acme };
    for name in &names {
        let attempts = format!("attempts-{name}");
        eventually(name, async || {
            Ok(noted(&acme, "taker", &attempts).await?.parse::<u32>().is_ok_and(|count| count >= 1))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_was_locked_when_the_host_started_hands_over_once_it_is_unlocked() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker" })).await?;
    send(&acme, "work", &json!({ "payload": { "name": "late" }, "delay_ms": 1000 })).await?;
    answer(operator.post("/tenants/acme/keys/disable").json(&json!({})).send().await?).await?;
    let (key, operator_key) = (acme.admin.key.clone(), operator.key.clone());
    host.stop()?;
    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator_key).await?;
    answer(operator.post("/tenants/acme/keys/enable").json(&json!({})).send().await?).await?;
    let acme = Tenant { admin: host.sign_in(&key).await?, ..acme };
    eventually("what waited", async || Ok(noted(&acme, "taker", "attempts-late").await? == "1")).await?;
    send(&acme, "work", &json!({ "payload": { "name": "new" } })).await?;
    eventually("a new one", async || Ok(noted(&acme, "taker", "attempts-new").await? == "1")).await
}

/// Whether a plugin of the tenant is on its log with having counted the attempts of this message.
async fn is_on_the_log(acme: &Tenant, name: &str) -> Result<bool> {
    let found = answer(acme.admin.get("/audit/trails/acme?class=6005").send().await?).await?;
    let events = found["events"].as_array().cloned().unwrap_or_default();
    let lists = events.iter().filter_map(|event| event["body"]["unmapped"]["details"]["calls"].as_array());
    let key = format!("default attempts-{name}");
    Ok(lists.flatten().any(|call| call["on"] == key && call["call"] == "write-value"))
}

#[tokio::test]
async fn what_a_start_or_an_unlocking_hands_over_is_on_the_log_as_its_tenant_chose() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    let chosen = json!({ "host_calls": { "keyvalue": "all" } });
    answer(acme.admin.put("/audit/host-calls").json(&chosen).send().await?).await?;
    queue(&acme, "work", json!({ "plugin": "taker" })).await?;
    let (key, operator_key) = (acme.admin.key.clone(), operator.key.clone());
    // It is handed over by the start itself, before anybody can ask the host anything.
    send(&acme, "work", &json!({ "payload": { "name": "early" }, "delay_ms": 2000 })).await?;
    let due = std::time::Instant::now() + std::time::Duration::from_millis(2500);
    host.stop()?;
    eventually("its time", async || Ok(std::time::Instant::now() > due)).await?;
    let host = Host::start(&place)?;
    let acme = Tenant { admin: host.sign_in(&key).await?, ..acme };
    eventually("the start's call", async || is_on_the_log(&acme, "early").await).await?;

    let operator = host.sign_in(&operator_key).await?;
    send(&acme, "work", &json!({ "payload": { "name": "late" }, "delay_ms": 1000 })).await?;
    answer(operator.post("/tenants/acme/keys/disable").json(&json!({})).send().await?).await?;
    host.stop()?;
    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator_key).await?;
    answer(operator.post("/tenants/acme/keys/enable").json(&json!({})).send().await?).await?;
    let acme = Tenant { admin: host.sign_in(&key).await?, ..acme };
    eventually("the unlocked tenant's call", async || is_on_the_log(&acme, "late").await).await
}

#[tokio::test]
async fn a_restored_tenant_has_its_queues_and_its_rules_of_detection_without_a_restart() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "paused": true })).await?;
    send(&acme, "work", &json!({ "payload": { "name": "kept" } })).await?;
    let rule = "title: A secret was set\nname: secret-set\nlogsource: {product: ringfence, service: audit}\n\
        detection: {set: {unmapped.code|startswith: SEC-001, status: Success}, condition: set}\nlevel: low\n";
    let rules = "/security/rules/secret-set";
    answer(acme.admin.put(rules).json(&json!({ "text": rule })).send().await?).await?;
    let made = job(&acme.admin, &acme.path("/backups"), json!({})).await?;
    let backup = made["result"]["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(acme.admin.delete(&acme.path("/queues/work")).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(acme.admin.delete(rules).send().await?.status(), StatusCode::NO_CONTENT);
    let restore = acme.path(&format!("/backups/{backup}/restore"));
    let back = job(&acme.admin, &restore, json!({ "replace": "acme" })).await?;
    assert_eq!(back["state"], "succeeded", "{back}");
    // The backup had the message in a queue that rested.
    assert_eq!(queue(&acme, "work", json!({ "plugin": "taker", "paused": true })).await?["depth_count"], 1);
    queue(&acme, "work", json!({ "plugin": "taker" })).await?;
    eventually("the message", async || Ok(noted(&acme, "taker", "attempts-kept").await? == "1")).await?;
    assert_eq!(acme.admin.delete(rules).send().await?.status(), StatusCode::NO_CONTENT, "the rule is there again");

    let copied = job(&operator, &restore, json!({ "into": "copy" })).await?;
    assert_eq!(copied["state"], "succeeded", "{copied}");
    let body = json!({ "name": "admin", "role": "tenant-admin" });
    let key = answer(operator.post("/tenants/copy/tokens").json(&body).send().await?).await?;
    let admin = host.sign_in(key["key"].as_str().unwrap_or_default()).await?;
    let copy = Tenant { name: "copy".to_owned(), admin };
    queue(&copy, "work", json!({ "plugin": "taker" })).await?;
    eventually("its message too", async || Ok(noted(&copy, "taker", "attempts-kept").await? == "1")).await
}

#[tokio::test]
async fn a_schedule_runs_shows_what_comes_rests_and_runs_when_told() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let grants: &[(&str, &[&str])] = &[("keyvalue", &["default"]), ("logging", &[])];
    acme.push("nightly", "nightly", "0.1.0", "").await?;
    for (capability, scope) in grants {
        acme.grant("nightly", capability, scope).await?;
    }
    acme.deploy("nightly", "0.1.0").await?;
    let path = acme.path("/schedules/nightly");
    let every_second = json!({ "plugin": "nightly", "cron": "* * * * * *", "zone": "Europe/Berlin" });
    let made = answer(acme.admin.put(&path).json(&every_second).send().await?).await?;
    assert_eq!(made["next"].as_array().map(Vec::len), Some(5), "{made}");
    let read = async || answer(acme.admin.get(&path).send().await?).await;
    eventually("a run", async || Ok(read().await?["last"]["outcome"] == "done")).await?;
    let rests = answer(acme.admin.post(&format!("{path}/pause")).send().await?).await?;
    assert_eq!((&rests["next"], &rests["settings"]["paused"]), (&json!([]), &json!(true)), "{rests}");
    eventually("nothing under way", async || Ok(read().await?["running_count"] == 0)).await?;
    let told = answer(acme.admin.post(&format!("{path}/run")).send().await?).await?;
    assert_eq!(told["outcome"], "done", "{told}");
    for bad in [json!({ "plugin": "nightly", "cron": "0 0 30 2 *" }), json!({ "plugin": "nightly", "cron": "x" })] {
        let (status, refused) = problem(acme.admin.put(&path).json(&bad).send().await?).await?;
        assert_eq!((status, &refused["code"]), (422, &json!("bad-schedule")), "{refused}");
    }
    let (status, refused) = problem(acme.admin.call(reqwest::Method::GET, "/acme/nightly/").send().await?).await?;
    assert_eq!((status, &refused["code"]), (502, &json!("no-handler")), "it answers no HTTP: {refused}");
    assert_eq!(acme.admin.delete(&path).send().await?.status(), StatusCode::NO_CONTENT);
    Ok(())
}
