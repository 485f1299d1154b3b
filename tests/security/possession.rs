//! Proofs of possession (DPoP) on both ports: stolen tokens, replayed, altered and misdirected proofs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use data_encoding::BASE64URL_NOPAD;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use ringfence_tests::{Host, Session, Tenant, answer, eventually, problem, string};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::started;
use crate::threat::wait_for;

/// Somebody who holds a key, and the token bound to it.
struct Holder {
    key: Ed25519KeyPair,
    token: String,
    nonce: String,
    count: std::cell::Cell<u64>,
}

impl Holder {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        Self { key, token: String::new(), nonce: String::new(), count: std::cell::Cell::new(0) }
    }

    /// A proof for a request, with changes to its claims.
    #[expect(clippy::disallowed_methods, reason = "the clock of a client is his machine's")]
    fn proof(&self, method: &str, url: &str, change: impl FnOnce(&mut Value)) -> String {
        self.count.set(self.count.get() + 1);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({ "jti": format!("{}", self.count.get()), "htm": method, "htu": url, "iat": now, "nonce": self.nonce });
        if !self.token.is_empty() {
            claims["ath"] = json!(BASE64URL_NOPAD.encode(&Sha256::digest(self.token.as_bytes())));
        }
        change(&mut claims);
        let x = BASE64URL_NOPAD.encode(self.key.public_key().as_ref());
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": x } });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = BASE64URL_NOPAD.encode(self.key.sign(message.as_bytes()).as_ref());
        format!("{message}.{signature}")
    }

    /// Signs in with a key, as a client does that has no nonce yet.
    async fn sign_in(host: &Host, key: &str) -> Result<Self> {
        let mut holder = Self::new();
        let url = format!("{}/api/v1/zero-trust/authenticate", host.control);
        let body = json!({ "method": "api_key", "key": key });
        let ask = |holder: &Self| {
            host.anonymous()
                .post("/zero-trust/authenticate")
                .header("dpop", holder.proof("POST", &url, |_| ()))
                .json(&body)
        };
        let first = ask(&holder).send().await?;
        holder.nonce = nonce(&first)?;
        let (status, refused) = problem(first).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("use-dpop-nonce")));
        let issued = answer(ask(&holder).send().await?).await?;
        assert_eq!(issued["token_type"], "DPoP");
        holder.token = string(&issued, "access_token")?;
        Ok(holder)
    }

    fn with(&self, request: RequestBuilder, proof: &str) -> RequestBuilder {
        request.header("authorization", format!("DPoP {}", self.token)).header("dpop", proof)
    }
}

fn nonce(response: &Response) -> Result<String> {
    Ok(response.headers().get("dpop-nonce").context("no nonce")?.to_str()?.to_owned())
}

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
    let other = Holder { token: holder.token.clone(), nonce: holder.nonce.clone(), ..Holder::new() };
    let proof = other.proof("GET", &format!("{}/api/v1/whoami", host.control), |_| ());
    let (status, refused) = problem(other.with(host.anonymous().get("/whoami"), &proof).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (401, Some("bad-proof")), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_bound_token_in_other_hands_is_found_by_its_tenant_on_either_port() -> Result<()> {
    let (_place, host, _operator, acme, holder) = bound().await?;
    let thief = host.session(holder.token.clone());
    let other = Holder { token: holder.token.clone(), nonce: holder.nonce.clone(), ..Holder::new() };
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
