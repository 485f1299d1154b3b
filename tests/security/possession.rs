//! Proofs of possession (DPoP) on both ports: stolen tokens, replayed, altered and misdirected proofs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use reqwest::{Method, RequestBuilder, StatusCode};
use ringfence_tests::holder::{Holder, nonce};
use ringfence_tests::{Host, Session, Tenant, answer, eventually, problem, string};
use serde_json::{Value, json};

use crate::started;
use crate::threat::wait_for;

/// A host with tenant acme that has a plugin, and its admin's key used with a key of his own.
async fn bound() -> Result<(ringfence_tests::Place, Host, Session, Tenant, Holder)> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let holder = Holder::sign_in(&host, &acme.admin.key).await?;
    Ok((place, host, operator, acme, holder))
}

#[tokio::test]
async fn a_bound_token_works_with_proofs_on_both_ports_and_each_proof_once() -> Result<()> {
    let (_place, host, _operator, _acme, holder) = bound().await?;
    let nobody = host.anonymous();
    let whoami = format!("{}/api/v1/whoami", host.control);
    let plugin = format!("{}/acme/hello/", host.plugins);
    let asked: [(&String, &dyn Fn() -> RequestBuilder); 2] =
        [(&whoami, &|| nobody.get("/whoami")), (&plugin, &|| nobody.call(Method::GET, "/acme/hello/?q=1"))];
    for (url, request) in asked {
        let proof = holder.proof("GET", url, |_| ());
        let response = holder.with(request(), &proof).send().await?;
        assert!(nonce(&response).is_ok());
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await?);
        let (status, refused) = problem(holder.with(request(), &proof).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("bad-proof")), "used twice at {url}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stolen_bound_token_opens_nothing() -> Result<()> {
    let (_place, host, _operator, _acme, holder) = bound().await?;
    let thief = host.session(holder.token.clone());
    for response in [
        thief.get("/whoami").send().await?,
        thief.call(Method::GET, "/acme/hello/").send().await?,
        host.anonymous().get("/whoami").header("authorization", format!("DPoP {}", holder.token)).send().await?,
    ] {
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    // With a key of his own he can make proofs, but not for this token.
    let mut other = Holder::new()?;
    (other.token, other.nonce) = (holder.token.clone(), holder.nonce.clone());
    let proof = other.proof("GET", &format!("{}/api/v1/whoami", host.control), |_| ());
    let (status, refused) = problem(other.with(host.anonymous().get("/whoami"), &proof).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (401, Some("bad-proof")), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_bound_token_in_other_hands_is_found_by_its_tenant_on_either_port() -> Result<()> {
    let (_place, host, _operator, acme, holder) = bound().await?;
    let thief = host.session(holder.token.clone());
    let mut other = Holder::new()?;
    (other.token, other.nonce) = (holder.token.clone(), holder.nonce.clone());
    let (whoami, plugin) = (format!("{}/api/v1/whoami", host.control), format!("{}/acme/hello/", host.plugins));
    let nobody = host.anonymous();
    for response in [
        thief.get("/whoami").send().await?,
        thief.call(Method::GET, "/acme/hello/").send().await?,
        other.with(nobody.get("/whoami"), &other.proof("GET", &whoami, |_| ())).send().await?,
        other.with(nobody.call(Method::GET, "/acme/hello/"), &other.proof("GET", &plugin, |_| ())).send().await?,
    ] {
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    let found = wait_for(&acme.admin, "token-theft").await?;
    assert_eq!((found["level"].as_str(), found["actor"].as_str()), (Some("high"), Some("acme/admin")), "{found}");
    // The same proof twice, and a token that nobody signed: the one is told, of the other there is nobody to tell.
    let proof = holder.proof("GET", &whoami, |_| ());
    for expected in [StatusCode::OK, StatusCode::UNAUTHORIZED] {
        assert_eq!(holder.with(nobody.get("/whoami"), &proof).send().await?.status(), expected);
    }
    assert_eq!(host.session("a.b.c".to_owned()).get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    let mut told = BTreeMap::new();
    eventually("all of it is on the tenant's log", async || {
        let page = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?;
        let details = page["items"].as_array().context("items")?.iter().map(|item| &item["body"]["unmapped"]);
        let shown = details.filter(|one| one["code"] == "AUT-019 token-refused").map(|one| &one["details"]);
        told.clear();
        for one in shown {
            *told.entry(format!("{} {}", string(one, "port")?, string(one, "wrong")?)).or_insert(0) += 1;
        }
        Ok(told.values().sum::<u32>() >= 5)
    })
    .await?;
    let each = ["control no-proof", "control other-key", "control replayed", "plugins no-proof", "plugins other-key"];
    assert_eq!(told, each.map(|one| (one.to_owned(), 1)).into(), "once each");
    Ok(())
}

#[tokio::test]
async fn a_proof_for_another_request_token_or_time_is_refused_on_both_ports() -> Result<()> {
    let (_place, host, _operator, _acme, holder) = bound().await?;
    let whoami = format!("{}/api/v1/whoami", host.control);
    let plugin = format!("{}/acme/hello/", host.plugins);
    let changes: [fn(&mut Value); 6] = [
        |claims| claims["htm"] = json!("POST"),
        |claims| claims["htu"] = json!("http://127.0.0.1:1/acme/hello/"),
        |claims| claims["iat"] = json!(claims["iat"].as_u64().unwrap_or(0) - 600),
        |claims| claims["ath"] = json!("AAAA"),
        |claims| claims["jti"] = json!(""),
        |claims| claims["nonce"] = json!("made-up"),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let control =
            holder.with(host.anonymous().get("/whoami"), &holder.proof("GET", &whoami, change)).send().await?;
        let data =
            holder.with(host.anonymous().call(Method::GET, "/acme/hello/"), &holder.proof("GET", &plugin, change));
        for response in [control, data.send().await?] {
            assert!(nonce(&response).is_ok(), "change {at}");
            let (status, refused) = problem(response).await?;
            let expected = if at == 5 { "use-dpop-nonce" } else { "bad-proof" };
            assert_eq!((status, refused["code"].as_str()), (401, Some(expected)), "change {at}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn garbage_in_a_proof_is_a_refusal_and_spends_no_credential() -> Result<()> {
    let (_place, host, _operator) = started().await?;
    for garbage in ["", ".", "..", "a.b.c", "e30.e30.e30", &"x".repeat(5_000)] {
        let response =
            host.anonymous().get("/whoami").header("authorization", "DPoP x").header("dpop", garbage).send().await?;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{garbage:.20}");
        let body = json!({ "method": "api_key", "key": "x" });
        let sign_in =
            host.anonymous().post("/zero-trust/authenticate").header("dpop", garbage).json(&body).send().await?;
        assert_eq!(sign_in.status(), StatusCode::UNAUTHORIZED, "{garbage:.20}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_refuses_unbound_tokens_stops_them_on_the_next_request() -> Result<()> {
    let (_place, host, operator, acme, holder) = bound().await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    assert_eq!(developer.fetch("/acme/hello/").await?.0, StatusCode::OK);
    let decided = acme.admin.put(&acme.path("/sign-in")).json(&json!({ "unbound_tokens": "refused" })).send().await?;
    assert_eq!(answer(decided).await?["changed_by"], "acme/admin");
    for response in [developer.get("/whoami").send().await?, developer.call(Method::GET, "/acme/hello/").send().await?]
    {
        let (status, refused) = problem(response).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("token-unbound")));
    }
    let body = json!({ "method": "api_key", "key": developer.key });
    let (status, refused) =
        problem(host.anonymous().post("/zero-trust/authenticate").json(&body).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (401, Some("token-unbound")));
    // Whoever is bound goes on, and so does everybody of other places.
    let proof = holder.proof("GET", &format!("{}/api/v1/whoami", host.control), |_| ());
    assert_eq!(holder.with(host.anonymous().get("/whoami"), &proof).send().await?.status(), StatusCode::OK);
    assert_eq!(operator.get("/whoami").send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn how_one_signs_in_outlives_a_restart_and_old_proofs_do_not() -> Result<()> {
    let (place, host, _operator, acme, holder) = bound().await?;
    answer(acme.admin.put(&acme.path("/sign-in")).json(&json!({ "unbound_tokens": "refused" })).send().await?).await?;
    host.stop()?;
    let host = Host::start(&place)?;
    let stale = host.session(acme.admin.token.clone().unwrap_or_default()).get("/whoami").send().await?;
    assert_eq!(problem(stale).await?.1["code"], "token-unbound");
    // The token and its key are good still; the nonce, and every proof made with it, is not.
    let url = format!("{}/api/v1/whoami", host.control);
    let first = holder.with(host.anonymous().get("/whoami"), &holder.proof("GET", &url, |_| ())).send().await?;
    let fresh = nonce(&first)?;
    assert_eq!(problem(first).await?.1["code"], "use-dpop-nonce");
    let proof = holder.proof("GET", &url, |claims| claims["nonce"] = json!(fresh));
    assert_eq!(holder.with(host.anonymous().get("/whoami"), &proof).send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_proof_is_enough_for_a_request_with_an_idempotency_key_and_for_its_answer_again() -> Result<()> {
    let (_place, host, _operator, _acme, holder) = bound().await?;
    let body = json!({ "reason": "a case" });
    let ask = || holder.ask(&host, &Method::POST, "/audit/holds").header("idempotency-key", "k").json(&body);
    let first = answer(ask().send().await?).await?;
    let again = ask().send().await?;
    assert!(again.headers().contains_key("idempotency-replayed"));
    assert_eq!(answer(again).await?, first);
    Ok(())
}
