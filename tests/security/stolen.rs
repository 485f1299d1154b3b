//! Tokens that are not good, not good any more, or not good for who shows them: each at every endpoint of the description.

use anyhow::{Context, Result};
use reqwest::Method;
use ringfence_tests::holder::{Holder, nonce};
use ringfence_tests::{Session, answer, problem, string};
use serde_json::{Value, json};

use crate::boundary::{PUBLIC, body_for, operations, send};
use crate::started;

/// Every operation that asks who calls.
fn guarded() -> Result<Vec<(Method, String, String)>> {
    let all = operations("acme")?;
    let guarded: Vec<_> = all.into_iter().filter(|(_, path, _)| !PUBLIC.contains(&path.as_str())).collect();
    assert!(guarded.len() > 150, "{} endpoints", guarded.len());
    Ok(guarded)
}

/// The same token with one letter changed in the middle of each of its parts.
fn altered(token: &str) -> Vec<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let change = |which: usize| {
        let mut pieces: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let at = pieces[which].len() / 2;
        let new = if pieces[which].as_bytes()[at] == b'A' { "B" } else { "A" };
        pieces[which].replace_range(at..=at, new);
        pieces.join(".")
    };
    (0..parts.len()).map(change).collect()
}

/// A token that was good until its session was ended.
async fn ended(who: Session) -> Result<String> {
    let page = answer(who.get("/zero-trust/sessions").send().await?).await?;
    let own = page["items"].as_array().into_iter().flatten().find(|session| session["current"] == true);
    let id = string(own.context("no session is the current one")?, "id")?;
    assert!(who.delete(&format!("/zero-trust/sessions/{id}")).send().await?.status().is_success());
    who.token.context("it had a token")
}

#[tokio::test]
async fn no_endpoint_takes_an_altered_token_or_one_of_an_ended_session() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let mut tokens = altered(&acme.admin.token.clone().unwrap_or_default());
    tokens.push(ended(host.sign_in(&acme.admin.key).await?).await?);
    assert_eq!(tokens.len(), 4);
    for (method, path, label) in guarded()? {
        for (number, token) in tokens.iter().enumerate() {
            let (status, said) = send(&host.session(token.clone()), &method, &path).await?;
            assert_eq!((status, said["code"].as_str()), (401, Some("unauthenticated")), "{label}, token {number}");
        }
    }
    assert!(acme.admin.get("/whoami").send().await?.status().is_success(), "the real one is good still");
    Ok(())
}

#[tokio::test]
async fn no_endpoint_takes_an_unbound_token_where_they_are_refused() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    answer(acme.admin.put(&acme.path("/sign-in")).json(&json!({ "unbound_tokens": "refused" })).send().await?).await?;
    for (method, path, label) in guarded()? {
        let (status, said) = send(&acme.admin, &method, &path).await?;
        assert_eq!((status, said["code"].as_str()), (401, Some("token-unbound")), "{label}");
    }
    Ok(())
}

/// Who only calls plugins asks, so that what is asked the first time does little.
#[tokio::test]
async fn no_endpoint_takes_a_bound_token_without_its_key_or_a_proof_twice() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let member = acme.member(&host, "calls", "caller").await?;
    let mut holder = Holder::sign_in(&host, &member.key).await?;
    let thief = host.session(holder.token.clone());
    for (method, path, label) in guarded()? {
        assert_eq!(send(&thief, &method, &path).await?.0, 401, "{label}: the token alone");
        let proof = holder.proof(method.as_str(), &format!("{}/api/v1{path}", host.control), |_| ());
        let mut codes = Vec::new();
        for _ in 0..2 {
            let mut request = holder.with(host.anonymous().request(method.clone(), &path), &proof);
            if matches!(method, Method::POST | Method::PUT) {
                request = request.json(&body_for(&path));
            }
            let response = request.send().await?;
            holder.nonce = nonce(&response)?;
            let status = response.status().as_u16();
            let said: Value = serde_json::from_str(&response.text().await?).unwrap_or(Value::Null);
            codes.push((status, said["code"].as_str().unwrap_or_default().to_owned()));
        }
        let refused = ["bad-proof", "use-dpop-nonce", "unauthenticated"];
        assert!(!refused.contains(&codes[0].1.as_str()), "{label}: the proof is good once: {codes:?}");
        assert_eq!(codes[1], (401, "bad-proof".to_owned()), "{label}: the proof is good twice");
    }
    Ok(())
}

#[tokio::test]
async fn operators_refuse_unbound_tokens_of_their_own_and_two_of_them_take_that_back() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let nothing = json!({ "floor": 0, "invoke": 0, "read": 0, "change": 0, "administer": 0 });
    let asks = |unbound: &str| json!({ "sessions": { "thresholds": nothing }, "unbound_tokens": unbound });
    let shown = answer(operator.get("/trust").send().await?).await?;
    assert_eq!(shown["unbound_tokens"], "allowed", "the first steps need no proof: {shown}");
    let (status, refused) = problem(operator.put("/trust").json(&asks("refused")).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-trust")), "he could not take it back: {refused}");
    let bob = host.person(&operator, "/people", "bob", "operator").await?;
    let holder = Holder::sign_in(&host, &operator.key).await?;
    let url = format!("{}/api/v1/trust", host.control);
    let put = async |unbound: &str| {
        let request = host.anonymous().put("/trust").json(&asks(unbound));
        let response = holder.with(request, &holder.proof("PUT", &url, |_| ())).send().await?;
        problem(response).await
    };
    assert_eq!(put("refused").await?.0, 200);
    for (who, path) in [(&operator, "/whoami"), (&bob, "/tenants")] {
        let (status, refused) = problem(who.get(path).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("token-unbound")));
    }
    let (status, waiting) = put("allowed").await?;
    assert_eq!((status, waiting["unbound_tokens"].as_str()), (202, Some("refused")), "{waiting}");
    assert_eq!(waiting["waiting"]["by"], "operator/ada", "{waiting}");
    assert_eq!(put("allowed").await?.0, 202, "he is one person, however often he asks");
    Ok(())
}
