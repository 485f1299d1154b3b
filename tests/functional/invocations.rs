//! Calls on the data plane: bodies both ways, answers that are not the guest's own, who may call.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ringfence_tests::{answer, eventually, problem, string};
use serde_json::json;

use crate::started;

#[tokio::test]
async fn the_guest_sees_its_path_and_no_credential() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    let response = acme.admin.call(Method::GET, "/acme/visits/a/b?c=d").send().await?;
    let id = response.headers()["x-ringfence-invocation"].to_str()?.to_owned();
    assert!(id.starts_with("i_"));
    assert_eq!(response.text().await?, "1 visit from /a/b\n");
    Ok(())
}

#[tokio::test]
async fn a_megabyte_goes_through_both_ways() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("redact", "redact", "[budget]\ncpu_ms = 4000\ntime_ms = 20000\n", &[]).await?;
    let line = "write to ada@example.com or call 0123456789\n";
    let text = line.repeat((1 << 20) / line.len() + 1);
    let response = acme.admin.call(Method::POST, "/acme/redact/").body(text.clone()).send().await?;
    assert_eq!(response.status(), StatusCode::OK);
    let masked = response.text().await?;
    assert!(!masked.contains("ada@example.com") && !masked.contains("0123456789"));
    assert_eq!(masked.lines().count(), text.lines().count());
    Ok(())
}

#[tokio::test]
async fn an_instance_serves_more_than_one_call_only_when_its_author_says_so() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    for _ in 0..5 {
        assert_eq!(acme.fetch("hostile", "/count").await?.1, "1\n");
    }
    acme.push("hostile", "hostile", "0.2.0", "[instance]\ninvocations_max = 4\n").await?;
    acme.deploy("hostile", "0.2.0").await?;
    let mut seen = Vec::new();
    eventually("an instance serves its fourth and last call", async || {
        seen.push(acme.fetch("hostile", "/count").await?.1.trim().parse::<u32>()?);
        Ok(seen.contains(&4))
    })
    .await?;
    for _ in 0..20 {
        seen.push(acme.fetch("hostile", "/count").await?.1.trim().parse()?);
    }
    assert!(seen.iter().all(|count| (1..=4).contains(count)), "{seen:?}");
    let refused = acme.push("hostile", "hostile", "0.3.0", "[instance]\ninvocations_max = 0\n").await;
    let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("`invocations_max` must be 1 to 100000, not 0"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn bodies_stream_both_ways() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let (send, receive) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|item| (item, receive))
    }));
    let call = tokio::spawn(acme.admin.call(Method::POST, "/acme/hostile/echo").body(body).send());
    send.send(Ok("first".into())).await?;
    let mut response = call.await??;
    // The answer's first bytes come while the request is still open.
    assert_eq!(response.chunk().await?.as_deref(), Some(&b"first"[..]));
    send.send(Ok("second".into())).await?;
    assert_eq!(response.chunk().await?.as_deref(), Some(&b"second"[..]));
    drop(send);
    assert_eq!(response.chunk().await?, None);
    Ok(())
}

#[tokio::test]
async fn answers_that_are_not_the_guests_have_codes() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let (status, none) = problem(acme.admin.call(Method::GET, "/acme/none/").send().await?).await?;
    assert_eq!((status, string(&none, "code")?.as_str()), (404, "no-route"));
    let (status, unknown) = problem(host.anonymous().call(Method::GET, "/acme/hello/").send().await?).await?;
    assert_eq!((status, string(&unknown, "code")?.as_str()), (401, "unauthenticated"));
    let auditor = acme.member(&host, "eve", "auditor").await?;
    let (status, denied) = problem(auditor.call(Method::GET, "/acme/hello/").send().await?).await?;
    assert_eq!((status, string(&denied, "code")?.as_str()), (403, "denied"));
    let id = string(&denied, "decision_id")?;
    let why = answer(auditor.get(&format!("/decisions/{id}")).send().await?).await?;
    assert_eq!((why["action"].as_str(), why["principal"].as_str()), (Some("invoke"), Some("acme/eve")));
    let caller = acme.member(&host, "cal", "caller").await?;
    assert_eq!(caller.fetch("/acme/hello/").await?.0, StatusCode::OK);
    let large = acme.admin.call(Method::POST, "/acme/hello/").body(vec![0_u8; (32 << 20) + 1]).send().await;
    if let Ok(large) = large {
        assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    Ok(())
}

#[tokio::test]
async fn a_tenants_policy_can_open_a_plugin_to_everyone() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let text =
        "permit(principal, action == Ringfence::Action::\"invoke\", resource == Ringfence::Plugin::\"acme/hello\");";
    let put = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?;
    assert_eq!(answer(put).await?["version"], 1);
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, StatusCode::OK);
    let stale =
        acme.admin.put(&acme.path("/policy")).header("if-match", "\"0\"").json(&json!({ "text": "" })).send().await?;
    assert_eq!(stale.status(), StatusCode::PRECONDITION_FAILED);
    let closed =
        acme.admin.put(&acme.path("/policy")).header("if-match", "\"1\"").json(&json!({ "text": "" })).send().await?;
    assert_eq!(closed.status(), StatusCode::OK);
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, StatusCode::UNAUTHORIZED);
    let wrong = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": "permit(everything);" })).send().await?;
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
    Ok(())
}

#[tokio::test]
async fn every_call_is_recorded_and_metered_once() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    for _ in 0..5 {
        assert_eq!(acme.fetch("hostile", "/ok").await?.0, StatusCode::OK);
    }
    let trapped = acme.admin.call(Method::GET, "/acme/hostile/trap").send().await?;
    assert_eq!(trapped.status(), StatusCode::BAD_GATEWAY);
    let id = trapped.headers()["x-ringfence-invocation"].to_str()?.to_owned();
    eventually("all six are recorded", async || {
        let usage = answer(acme.admin.get(&acme.path("/usage")).send().await?).await?;
        Ok(usage["total"]["invocations_count"] == 6)
    })
    .await?;
    let usage = answer(acme.admin.get(&acme.path("/usage")).send().await?).await?;
    assert_eq!(usage["total"]["failures_count"], 1);
    assert!(usage["total"]["cpu_us"].as_u64() > Some(0));
    let one = answer(acme.admin.get(&acme.path(&format!("/plugins/hostile/invocations/{id}"))).send().await?).await?;
    assert_eq!((one["status"].as_u64(), one["code"].as_str()), (Some(502), Some("trap")));
    let list = answer(acme.admin.get(&acme.path("/plugins/hostile/invocations?limit=4")).send().await?).await?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(4));
    let cursor = string(&list, "cursor")?;
    let rest = acme.path(&format!("/plugins/hostile/invocations?limit=4&cursor={cursor}"));
    assert_eq!(answer(acme.admin.get(&rest).send().await?).await?["items"].as_array().map(Vec::len), Some(2));
    Ok(())
}

/// The misbehaving guest with everything it asks for.
pub async fn ship_hostile(tenant: &ringfence_tests::Tenant) -> Result<()> {
    ship_hostile_as(tenant, "hostile", "[budget]\ncpu_ms = 300\ntime_ms = 4000\nmemory_mib = 64\n").await
}

/// The same under another name and budget.
pub async fn ship_hostile_as(tenant: &ringfence_tests::Tenant, name: &str, sections: &str) -> Result<()> {
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["*"]), ("logging", &[]), ("http", &["https://example.com"])];
    tenant.ship("hostile", name, sections, &grants).await
}
