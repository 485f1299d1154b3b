//! Plugins that call plugins of their tenant: granted, under policy, within limits, in one trace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reqwest::{Method, Response, StatusCode};
use ringfence_tests::{Session, Tenant, answer, eventually, problem, string};
use serde_json::{Value, json};

use crate::started;

const BUDGET: &str = "[budget]\ncpu_ms = 500\ntime_ms = 20000\n";
const HERE: &str = "200 here\n";

/// The guest that calls, under a name, granted the plugins that it calls.
async fn ship(tenant: &Tenant, plugin: &str, callees: &[&str]) -> Result<()> {
    let mut origins: Vec<String> = callees.iter().map(|callee| format!("http://{callee}.plugin.internal")).collect();
    if origins.is_empty() {
        // The component imports outgoing HTTP, so that it is not deployed without some.
        origins.push("https://api.example.com".to_owned());
    }
    let origins: Vec<&str> = origins.iter().map(String::as_str).collect();
    tenant.ship("calls", plugin, BUDGET, &[("logging", &[]), ("http", &origins)]).await
}

/// What `front` says of its call of `url`, as somebody asks for it.
async fn get(who: &Session, url: &str) -> Result<String> {
    let (status, text) = who.fetch(&format!("/acme/front/get?url={url}")).await?;
    assert_eq!(status, StatusCode::OK, "{text}");
    Ok(text)
}

async fn invocations(tenant: &Tenant, plugin: &str) -> Result<Vec<Value>> {
    let page = answer(tenant.admin.get(&tenant.path(&format!("/plugins/{plugin}/invocations"))).send().await?).await?;
    Ok(page["items"].as_array().context("items")?.clone())
}

async fn log_of(tenant: &Tenant, plugin: &str) -> Result<Vec<Value>> {
    let path = tenant.path(&format!("/plugins/{plugin}/logs?limit=1000"));
    Ok(answer(tenant.admin.get(&path).send().await?).await?["items"].as_array().context("items")?.clone())
}

async fn audit_log(tenant: &Tenant) -> Result<String> {
    Ok(answer(tenant.admin.get(&tenant.path("/audit?limit=1000")).send().await?).await?.to_string())
}

/// A call that goes on beside the test, once it runs.
async fn begun(
    tenant: &Tenant,
    who: &Session,
    path: &str,
) -> Result<tokio::task::JoinHandle<reqwest::Result<Response>>> {
    let call = tokio::spawn(who.call(Method::GET, path).send());
    eventually("it runs", async || {
        let quota = answer(tenant.admin.get(&tenant.path("/quota")).send().await?).await?;
        Ok(quota["use"]["running_count"].as_u64() > Some(0))
    })
    .await?;
    Ok(call)
}

#[tokio::test]
async fn a_plugin_calls_another_when_it_is_granted_and_bodies_go_both_ways() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "back", &[]).await?;
    let needs = format!("[needs]\nhttp = [\"http://back.plugin.internal\"]\n{BUDGET}");
    let pushed = acme.push("calls", "front", "0.1.0", &needs).await?;
    assert!(pushed.to_string().contains("http://back.plugin.internal"), "the need is seen: {pushed}");
    acme.grant("front", "logging", &[]).await?;
    let refused = acme.deploy("front", "0.1.0").await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("http://back.plugin.internal"), "{refused}");
    acme.grant("front", "http", &["http://back.plugin.internal"]).await?;
    acme.deploy("front", "0.1.0").await?;
    assert_eq!(get(&acme.admin, "http://back.plugin.internal/").await?, HERE);
    let large = acme.fetch("front", "/post?bytes=20000&url=http://back.plugin.internal/echo").await?;
    assert_eq!(large, (StatusCode::OK, "200 20000".to_owned()));
    acme.ship("hello-p3", "newer", "", &[]).await?;
    acme.grant("front", "http", &["http://newer.plugin.internal"]).await?;
    assert!(get(&acme.admin, "http://newer.plugin.internal/").await?.starts_with("200 "), "a p3 plugin can be called");
    Ok(())
}

#[tokio::test]
async fn what_is_not_granted_is_refused_as_any_origin_is_and_a_revoked_grant_at_once() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "front", &["back"]).await?;
    ship(&acme, "back", &[]).await?;
    ship(&acme, "other", &[]).await?;
    let refused = get(&acme.admin, "http://other.plugin.internal/").await?;
    // The client may hear first that its request's body went nowhere.
    assert!(refused.starts_with("refused: ") && !refused.contains("ErrorCode"), "not as a debugger would: {refused}");
    eventually("the owner is told what to grant", async || {
        let log = Value::from(log_of(&acme, "front").await?).to_string();
        Ok(log.contains("ringfence grant front http http://other.plugin.internal"))
    })
    .await?;
    eventually("and it is on the audit log", async || Ok(audit_log(&acme).await?.contains("egress-refused"))).await?;
    assert!(invocations(&acme, "other").await?.is_empty());
    for odd in ["https://back.plugin.internal", "http://back.plugin.internal:81", "http://back.acme.plugin.internal"] {
        let path = acme.path("/plugins/front/grants/http");
        let (status, bad) = problem(acme.admin.put(&path).json(&json!({ "scope": [odd] })).send().await?).await?;
        assert_eq!((status, &bad["code"]), (422, &json!("bad-scope")), "{odd}: {bad}");
        assert!(get(&acme.admin, &format!("{odd}/")).await?.starts_with("refused: "), "{odd}");
    }
    let path = "/acme/front/get?ms=1500&url=http://back.plugin.internal/";
    let call = begun(&acme, &acme.admin, path).await?;
    answer(acme.admin.delete(&acme.path("/plugins/front/grants/http")).send().await?).await?;
    let late = call.await??.text().await?;
    assert!(late.starts_with("refused: "), "{late}");
    Ok(())
}

#[tokio::test]
async fn a_plugin_of_another_tenant_cannot_be_named() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    ship(&globex, "secret", &[]).await?;
    ship(&acme, "front", &["secret", "nothing"]).await?;
    let there = get(&acme.admin, "http://secret.plugin.internal/").await?;
    let nowhere = get(&acme.admin, "http://nothing.plugin.internal/").await?;
    assert!(there.starts_with("404 ") && there.contains("\"no-route\""), "{there}");
    assert_eq!(there, nowhere, "what another tenant has is what nobody has");
    for name in ["secret.globex.plugin.internal", "globex.secret.plugin.internal", "secret.plugin.internal."] {
        assert!(get(&acme.admin, &format!("http://{name}/")).await?.starts_with("refused: "), "{name}");
    }
    assert!(invocations(&globex, "secret").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn calls_end_at_their_depth_and_at_their_number() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "front", &["front", "back"]).await?;
    ship(&acme, "back", &["front"]).await?;
    let deep = acme.fetch("front", "/chain?left=back.front.back.front").await?.1;
    assert_eq!(deep, "200 200 200 200 end");
    let cycle = acme.fetch("front", "/chain?left=back.front.back.front.back.front").await?.1;
    assert!(cycle.starts_with("200 200 200 200 508 ") && cycle.contains("\"call-depth\""), "{cycle}");
    // Two calls of `back`, which makes nine each: of twenty the sixteenth is the last.
    let inner = "http://back.plugin.internal/fan?n=9%26url=http://front.plugin.internal/";
    let (status, told) = acme.fetch("front", &format!("/fan?n=2&url={inner}")).await?;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(told.matches("200 here").count(), 14, "{told}");
    assert_eq!(told.matches("\"call-fan-out\"").count(), 4, "{told}");
    assert_eq!(acme.fetch("front", &format!("/get?url={}", "http://back.plugin.internal/")).await?.1, HERE);
    let log = audit_log(&acme).await?;
    assert_eq!(log.matches("\"call-depth\"").count(), 1, "{log}");
    assert_eq!(log.matches("\"call-fan-out\"").count(), 1, "the first is an entry, the others are counted: {log}");
    Ok(())
}

#[tokio::test]
async fn policy_is_asked_about_the_calling_plugin_and_a_refusal_explains_itself() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "front", &["back"]).await?;
    acme.ship("hello", "back", "", &[]).await?;
    let text = "forbid (principal == Ringfence::Service::\"acme/plugin/front\", \
                action == Ringfence::Action::\"invoke\", resource == Ringfence::Plugin::\"acme/back\");";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    let denied = get(&acme.admin, "http://back.plugin.internal/").await?;
    let body: Value = serde_json::from_str(denied.strip_prefix("403 ").with_context(|| denied.clone())?)?;
    assert_eq!(body["code"], "denied");
    let id = string(&body, "decision_id")?;
    let why = answer(acme.admin.get(&format!("/decisions/{id}")).send().await?).await?;
    assert_eq!((&why["action"], &why["principal"]), (&json!("invoke"), &json!("acme/plugin/front")), "{why}");
    assert_eq!(acme.fetch("back", "/").await?.0, StatusCode::OK, "nobody else is held");
    let log = audit_log(&acme).await?;
    assert!(log.contains("invocation-refused") && log.contains("call/front") && log.contains("on_behalf_of"), "{log}");

    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": "" })).send().await?).await?;
    assert!(get(&acme.admin, "http://back.plugin.internal/").await?.starts_with("200 "));
    let plugin = answer(acme.admin.get(&acme.path("/plugins/back")).send().await?).await?;
    let digest = string(&plugin["versions"][0], "digest")?;
    let respond = async |kind: &str, target: Value| {
        let body = json!({ "kind": kind, "target": target, "minutes": 5, "reason": "a test" });
        let made = answer(acme.admin.post("/security/responses").json(&body).send().await?).await?;
        Ok::<_, anyhow::Error>(format!("/security/responses/{}", string(&made, "id")?))
    };
    let quarantine = respond("quarantine-version", json!({ "digest": digest })).await?;
    let held = get(&acme.admin, "http://back.plugin.internal/").await?;
    assert!(held.starts_with("423 ") && held.contains("version-quarantined"), "{held}");
    answer(acme.admin.delete(&quarantine).send().await?).await?;
    assert!(get(&acme.admin, "http://back.plugin.internal/").await?.starts_with("200 "));
    Ok(())
}

#[tokio::test]
async fn when_every_slot_waits_for_a_call_the_call_is_refused_at_once() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "front", &["back"]).await?;
    ship(&acme, "back", &[]).await?;
    assert_eq!(get(&acme.admin, "http://back.plugin.internal/").await?, HERE);
    let set = async |count: u32| {
        let body = json!({ "overrides": { "concurrency_count": count } });
        answer(operator.put("/tenants/acme/quota").json(&body).send().await?).await
    };
    set(1).await?;
    let started = Instant::now();
    let blocked = get(&acme.admin, "http://back.plugin.internal/").await?;
    assert!(blocked.starts_with("429 ") && blocked.contains("\"calls-blocked\""), "{blocked}");
    assert!(started.elapsed() < Duration::from_secs(3), "it did not wait: {:?}", started.elapsed());
    set(2).await?;
    assert_eq!(get(&acme.admin, "http://back.plugin.internal/").await?, HERE);
    // Two that call at the same time in two places: one is refused or both went by turns, and neither hangs.
    let pair = [get(&acme.admin, "http://back.plugin.internal/"), get(&acme.admin, "http://back.plugin.internal/")];
    let told = futures::future::try_join_all(pair).await?;
    assert!(told.iter().any(|text| text == HERE), "{told:?}");
    assert!(told.iter().all(|text| text == HERE || text.contains("calls-blocked")), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn the_callers_time_its_tenant_and_whoever_began_it_bound_what_it_calls() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let short = "[budget]\ncpu_ms = 500\ntime_ms = 1000\n";
    let grants: [(&str, &[&str]); 2] = [("logging", &[]), ("http", &["http://back.plugin.internal"])];
    acme.ship("calls", "hasty", short, &grants).await?;
    ship(&acme, "front", &["back"]).await?;
    ship(&acme, "back", &[]).await?;
    let late = acme.admin.call(Method::GET, "/acme/hasty/get?url=http://back.plugin.internal/?ms=15000").send().await?;
    let (status, late) = problem(late).await?;
    assert_eq!((status, &late["code"]), (504, &json!("budget-time")), "{late}");
    eventually("the callee ended with its caller", async || {
        let records = invocations(&acme, "back").await?;
        Ok(records.iter().any(|one| one["usage"]["wall_us"].as_u64().is_some_and(|us| us < 5_000_000)))
    })
    .await?;

    // Somebody whose key is revoked while his call runs has nothing more done for him.
    let body = json!({ "name": "cal", "role": "caller" });
    let made = answer(acme.admin.post(&acme.path("/tokens")).json(&body).send().await?).await?;
    let cal = host.sign_in(&string(&made, "key")?).await?;
    assert_eq!(get(&cal, "http://back.plugin.internal/").await?, HERE);
    let done = async || Ok::<_, anyhow::Error>(invocations(&acme, "back").await?.len());
    eventually("both are recorded", async || Ok(done().await? == 2)).await?;
    let call = begun(&acme, &cal, "/acme/front/get?ms=1500&url=http://back.plugin.internal/").await?;
    let key = acme.path(&format!("/tokens/{}", string(&made, "id")?));
    answer(acme.admin.delete(&key).send().await?).await?;
    // The answer is cut, or says that the call was refused.
    let text = match call.await? {
        Ok(answered) => answered.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    assert!(!text.contains("here"), "{text}");
    eventually("it is on the log for whom", async || {
        let log = audit_log(&acme).await?;
        Ok(log.contains("\"on_behalf_of\":\"acme/cal\"") && log.contains("invocation-refused"))
    })
    .await?;
    assert_eq!(done().await?, 2, "nothing was run for him");

    let call = begun(&acme, &acme.admin, "/acme/front/get?url=http://back.plugin.internal/?ms=10000").await?;
    answer(operator.post("/tenants/acme/suspend").send().await?).await?;
    assert_eq!(call.await??.status(), StatusCode::SERVICE_UNAVAILABLE, "suspending ends caller and callee");
    Ok(())
}

#[tokio::test]
async fn one_trace_leads_from_the_first_to_the_last() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "front", &["middle", "back"]).await?;
    ship(&acme, "middle", &["back"]).await?;
    ship(&acme, "back", &[]).await?;
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let call = acme.admin.call(Method::GET, "/acme/front/get?url=http://back.plugin.internal/trace");
    let told = call.header("traceparent", given).send().await?.text().await?;
    assert!(told.starts_with("200 00-4bf92f3577b34da6a3ce929d0e0e4736-") && told.ends_with("-01"), "{told}");
    assert!(!told.contains("00f067aa0ba902b7"), "the span is the caller's own: {told}");
    let made = get(&acme.admin, "http://back.plugin.internal/trace").await?;
    assert!(made.starts_with("200 00-") && made.len() == "200 ".len() + given.len(), "{made}");
    let own = acme.fetch("front", &format!("/get?trace={given}&url=http://back.plugin.internal/trace")).await?.1;
    assert_eq!(own, format!("200 {given}"), "a guest's own is passed on");

    let first = acme.admin.call(Method::GET, "/acme/front/chain?left=middle.back").send().await?;
    let root = first.headers()["x-ringfence-invocation"].to_str()?.to_owned();
    assert_eq!(first.text().await?, "200 200 end");
    eventually("all are recorded", async || Ok(invocations(&acme, "back").await?.len() == 4)).await?;
    let (middle, back) = (invocations(&acme, "middle").await?, invocations(&acme, "back").await?);
    let (middle, back) = (middle.first().context("one")?, back.first().context("the newest")?);
    assert_eq!((&middle["root"], &middle["caused_by"]), (&json!(root), &json!(root)), "{middle}");
    assert_eq!((&back["root"], &back["caused_by"]), (&json!(root), &middle["id"]), "{back}");
    assert_eq!((&back["cause"], &back["principal"]), (&json!("call/middle"), &json!("acme/plugin/middle")));
    assert_eq!(back["on_behalf_of"], "acme/admin");
    eventually("the callee's lines say who led to them", async || {
        let lines = log_of(&acme, "back").await?;
        Ok(lines.iter().any(|line| line["root"] == json!(root) && line["caused_by"] == middle["id"]))
    })
    .await
}

#[tokio::test]
async fn the_products_trace_goes_on_through_a_hook_and_a_message() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "back", &[]).await?;
    ship(&acme, "front", &["back"]).await?;
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let gone_on = "200 00-4bf92f3577b34da6a3ce929d0e0e4736-";
    let payload = json!({ "payload": { "url": "http://back.plugin.internal/trace" } });
    let point = json!({
        "mode": "transform", "payload": {}, "deadline_ms": 5000, "on_failure": "closed", "result_bytes_max": 10_000,
        "binders": "one",
    });
    answer(operator.put("/hooks/t.change").json(&point).send().await?).await?;
    answer(acme.admin.put(&acme.path("/hooks/t.change/bindings/front")).json(&json!({})).send().await?).await?;
    let asked = acme.admin.post(&acme.path("/hooks/t.change")).header("traceparent", given).json(&payload);
    let told = answer(asked.send().await?).await?;
    assert!(told["payload"]["said"].as_str().is_some_and(|said| said.starts_with(gone_on)), "{told}");

    answer(acme.admin.put(&acme.path("/queues/work")).json(&json!({ "plugin": "front" })).send().await?).await?;
    let sent = acme.admin.post(&acme.path("/queues/work/messages")).header("traceparent", given).json(&payload);
    answer(sent.send().await?).await?;
    eventually("the message's call", async || {
        Ok(Value::from(log_of(&acme, "front").await?).to_string().contains(&format!("a message heard {gone_on}")))
    })
    .await
}

#[tokio::test]
async fn components_that_were_composed_when_they_were_built_upload_and_answer() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("composed", "composed", "", &[]).await?;
    let point = json!({
        "mode": "transform", "payload": { "type": "object", "properties": { "count": { "type": "integer" } } },
        "deadline_ms": 5000, "on_failure": "closed", "result_bytes_max": 1000, "binders": "several",
    });
    answer(operator.put("/hooks/t.composed").json(&point).send().await?).await?;
    answer(acme.admin.put(&acme.path("/hooks/t.composed/bindings/composed")).json(&json!({})).send().await?).await?;
    let asked = acme.admin.post(&acme.path("/hooks/t.composed")).json(&json!({ "payload": { "count": 1 } }));
    let made = answer(asked.send().await?).await?;
    assert_eq!((&made["outcome"], &made["payload"]["count"]), (&json!("passed"), &json!(7)), "{made}");
    Ok(())
}

#[tokio::test]
async fn a_hook_a_message_and_a_component_of_the_third_wasi_call_as_a_request_does() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship(&acme, "back", &[]).await?;
    ship(&acme, "front", &["back"]).await?;
    let point = json!({
        "mode": "transform", "payload": {}, "deadline_ms": 5000, "on_failure": "closed", "result_bytes_max": 10_000,
        "binders": "one",
    });
    answer(operator.put("/hooks/t.change").json(&point).send().await?).await?;
    answer(acme.admin.put(&acme.path("/hooks/t.change/bindings/front")).json(&json!({})).send().await?).await?;
    let hook = async |name: &str| {
        let body = json!({ "payload": { "url": format!("http://{name}.plugin.internal/") } });
        let asked = answer(acme.admin.post(&acme.path("/hooks/t.change")).json(&body).send().await?).await?;
        string(&asked["payload"], "said")
    };
    assert_eq!(hook("back").await?, HERE);
    assert!(hook("other").await?.starts_with("refused: "), "what is not granted is refused there too");
    let records = invocations(&acme, "back").await?;
    let by_hook = records.iter().find(|one| one["cause"] == "call/front").context("no record of the call")?;
    assert!(by_hook["caused_by"].is_string() && by_hook["on_behalf_of"] == "acme/admin", "{by_hook}");

    answer(acme.admin.put(&acme.path("/queues/work")).json(&json!({ "plugin": "front" })).send().await?).await?;
    let message = json!({ "payload": { "url": "http://back.plugin.internal/" } });
    answer(acme.admin.post(&acme.path("/queues/work/messages")).json(&message).send().await?).await?;
    eventually("the message's call", async || {
        Ok(Value::from(log_of(&acme, "front").await?).to_string().contains("a message heard 200 here"))
    })
    .await?;

    acme.ship("calls-p3", "newest", BUDGET, &[("http", &["http://back.plugin.internal"])]).await?;
    assert_eq!(acme.fetch("newest", "/back").await?, (StatusCode::OK, HERE.to_owned()));
    assert!(acme.fetch("newest", "/front").await?.1.starts_with("refused: "), "and of the third WASI as well");
    eventually("who called whom is on the audit log", async || {
        let log = audit_log(&acme).await?;
        Ok(["front", "newest"].iter().all(|by| log.contains(&format!("\"called_by\":\"acme/plugin/{by}\""))))
    })
    .await
}
