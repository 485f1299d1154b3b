//! What responses hold where a guest or a stranger meets it: requests that go out, writes of guests, addresses; and findings as
//! they are told while somebody listens.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use reqwest::StatusCode;
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Place, Tenant, answer, eventually, problem, string};
use serde_json::json;

use crate::started;
use crate::threat::{respond, undo};

const OPEN: &str = "permit (principal is Ringfence::Anonymous, action == Ringfence::Action::\"invoke\", resource);";
/// Longest wait for what is told.
const TOLD: Duration = Duration::from_secs(30);

/// A client that comes from an address of its own.
fn from(address: &str) -> Result<reqwest::Client> {
    let address: IpAddr = address.parse()?;
    Ok(reqwest::Client::builder().no_proxy().local_address(address).timeout(Duration::from_secs(60)).build()?)
}

async fn code(response: reqwest::Response) -> Result<(u16, String)> {
    let (status, body) = problem(response).await?;
    Ok((status, body["code"].as_str().unwrap_or_default().to_owned()))
}

async fn watch_secrets(tenant: &Tenant, name: &str) -> Result<()> {
    let text = format!(
        "title: A secret was set\nname: {name}\nlogsource: {{product: ringfence, service: audit}}\n\
        detection: {{set: {{unmapped.code|startswith: SEC-001, status: Success}}, condition: set}}\nlevel: low\n"
    );
    let path = format!("/security/rules/{name}");
    answer(tenant.admin.put(&path).json(&json!({ "text": text })).send().await?).await?;
    Ok(())
}

async fn set_secret(tenant: &Tenant, name: &str) -> Result<()> {
    answer(tenant.admin.put(&tenant.path(&format!("/secrets/{name}"))).body("value").send().await?).await?;
    Ok(())
}

#[tokio::test]
async fn a_frozen_plugin_sends_nothing_out_until_that_is_taken_back() -> Result<()> {
    let far = FarEnd::start().await?;
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", far.address))?;
    let host = Host::start_with(&place, &["--config", &config.display().to_string()], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let origin = far.origin();
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["*"]), ("logging", &[]), ("http", &[origin.as_str()])];
    acme.ship("hostile", "hostile", "[budget]\ntime_ms = 15000\n", &grants).await?;
    let send = async || Ok::<_, anyhow::Error>(acme.fetch("hostile", &format!("/egress?url={origin}/in")).await?.1);
    let arrived = || far.asked().values().map(|(_, count)| count).sum::<usize>();
    assert_eq!((send().await?.as_str(), arrived()), ("status 200\n", 1));

    let others = respond(&acme.admin, "freeze-egress", json!({ "plugin": "other" })).await?;
    assert_eq!((send().await?.as_str(), arrived()), ("status 200\n", 2), "another plugin is held");
    undo(&acme.admin, &others).await?;
    for target in [json!({ "plugin": "hostile" }), json!({})] {
        let before = arrived();
        let held = respond(&acme.admin, "freeze-egress", target.clone()).await?;
        let told = send().await?;
        assert!(told.starts_with("refused"), "{target}: {told}");
        assert_eq!(arrived(), before, "{target}: nothing went out");
        undo(&acme.admin, &held).await?;
        assert_eq!((send().await?.as_str(), arrived()), ("status 200\n", before + 1), "{target}");
    }
    eventually("it is on the log as what it was", async || {
        let trail = answer(acme.admin.get("/audit/trails/acme?code=INV-004").send().await?).await?;
        Ok(trail.to_string().contains("frozen"))
    })
    .await
}

#[tokio::test]
async fn guests_of_a_read_only_tenant_write_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    assert_eq!(acme.fetch("visits", "/a").await?, (StatusCode::OK, "1 visit from /a\n".to_owned()));
    let held = respond(&acme.admin, "read-only", json!({})).await?;
    for _ in 0..3 {
        let (status, text) = acme.fetch("visits", "/a").await?;
        assert!(status.is_server_error() || status.is_client_error(), "{status}: {text}");
    }
    undo(&acme.admin, &held).await?;
    assert_eq!(
        acme.fetch("visits", "/a").await?,
        (StatusCode::OK, "2 visits from /a\n".to_owned()),
        "nothing was kept"
    );
    Ok(())
}

#[tokio::test]
async fn a_blocked_address_calls_nothing_without_a_session_and_everything_with_one() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": OPEN })).send().await?).await?;
    let stranger = from("127.0.0.9")?;
    let hello = format!("{}/acme/hello/", host.plugins);
    assert_eq!(stranger.get(&hello).send().await?.status(), StatusCode::OK);
    let allowed = json!({ "block_source": "allowed" });
    let body = json!({ "kind": "block-source", "target": { "source": "127.0.0.9" }, "reason": "r" });
    let refused = code(acme.admin.post("/security/responses").json(&body).send().await?).await?;
    assert_eq!(refused, (422, "bad-response".to_owned()), "its owner has not allowed that");
    answer(acme.admin.put("/security/settings").json(&allowed).send().await?).await?;
    let held = respond(&acme.admin, "block-source", json!({ "source": "127.0.0.9" })).await?;
    let refused = code(stranger.get(&hello).send().await?).await?;
    assert_eq!(refused, (403, "source-blocked".to_owned()));
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, StatusCode::OK, "another address is not held");
    let token = acme.admin.token.clone().context("a token")?;
    assert_eq!(stranger.get(&hello).bearer_auth(token).send().await?.status(), StatusCode::OK, "who signed in is not");
    undo(&acme.admin, &held).await?;
    assert_eq!(stranger.get(&hello).send().await?.status(), StatusCode::OK);

    // An operator's holds for whoever would sign in from there.
    answer(operator.put("/security/settings").json(&allowed).send().await?).await?;
    let stranger = from("127.0.0.10")?;
    let held = respond(&operator, "block-source", json!({ "source": "127.0.0.10" })).await?;
    let sign_in = format!("{}/api/v1/zero-trust/authenticate", host.control);
    let key = json!({ "method": "api_key", "key": acme.admin.key });
    let refused = code(stranger.post(&sign_in).json(&key).send().await?).await?;
    assert_eq!(refused, (403, "source-blocked".to_owned()));
    host.sign_in(&acme.admin.key).await?;
    undo(&operator, &held).await?;
    answer(stranger.post(&sign_in).json(&key).send().await?).await?;
    Ok(())
}

/// Reads on until `until` was told or the stream ended; whether it goes on.
async fn listen(
    told: &mut (impl Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin),
    seen: &mut String,
    until: &str,
) -> Result<bool> {
    let read = async {
        while !seen.contains(until) {
            match told.next().await {
                Some(Ok(piece)) => seen.push_str(&String::from_utf8_lossy(&piece)),
                _ => return false,
            }
        }
        true
    };
    let outcome = tokio::time::timeout(TOLD, read).await;
    outcome.with_context(|| format!("`{until}` was not told, and the stream did not end"))
}

#[tokio::test]
async fn findings_are_told_as_they_are_made_to_their_owner_alone_and_while_the_session_stands() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    let auditor = acme.member(&host, "aud", "auditor").await?;
    let follow = "/security/findings?follow=true";
    let (of_acme, of_globex) = (auditor.get(follow).send().await?, globex.admin.get(follow).send().await?);
    assert_eq!((of_acme.status(), of_globex.status()), (StatusCode::OK, StatusCode::OK));
    let (mut of_acme, mut of_globex) = (of_acme.bytes_stream(), of_globex.bytes_stream());
    for tenant in [&acme, &globex] {
        watch_secrets(tenant, "secret-set").await?;
        set_secret(tenant, "a").await?;
        // One after the other, so that what globex hears first is known.
        eventually("a finding", async || {
            let page = answer(tenant.admin.get("/security/findings").send().await?).await?;
            Ok(page["items"].as_array().is_some_and(|items| !items.is_empty()))
        })
        .await?;
    }
    let (mut acmes, mut globexs) = (String::new(), String::new());
    assert!(listen(&mut of_acme, &mut acmes, "\"rule\":\"secret-set\"").await?);
    assert!(acmes.contains("event: finding") && acmes.contains("\"log\":\"acme\""), "{acmes}");
    assert!(listen(&mut of_globex, &mut globexs, "\"rule\":\"secret-set\"").await?);
    assert!(globexs.contains("\"log\":\"globex\"") && !globexs.contains("acme"), "{globexs}");

    let score = answer(auditor.get("/zero-trust/trust-score").send().await?).await?;
    let session = format!("/zero-trust/sessions/{}", string(&score, "session_id")?);
    assert_eq!(auditor.delete(&session).send().await?.status(), StatusCode::NO_CONTENT);
    watch_secrets(&acme, "secret-again").await?;
    set_secret(&acme, "b").await?;
    assert!(!listen(&mut of_acme, &mut acmes, "secret-again").await?, "the stream ends: {acmes}");
    assert!(!acmes.contains("secret-again"), "{acmes}");
    Ok(())
}
