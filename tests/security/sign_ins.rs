//! Guessing at who signs in, through the real host: the tenant whose people it is about sees it and can answer it, and who
//! guesses learns nothing, not even that he was seen.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ringfence_tests::{Host, Session, answer, eventually, string};
use serde_json::{Value, json};

use crate::started;
use crate::threat::{respond, wait_for};

/// All that a caller sees of an answer but its id: status, headers, body.
pub(crate) type Seen = (u16, Vec<(String, String)>, Value);

/// Tries to sign in from an address of this machine.
async fn try_from(host: &Host, from: &str, body: &Value) -> Result<Seen> {
    let client = reqwest::Client::builder().no_proxy().local_address(from.parse::<IpAddr>()?).build()?;
    let response = client.post(format!("{}/api/v1/zero-trust/authenticate", host.control)).json(body).send().await?;
    seen(response).await
}

/// What a caller sees of an answer, less what differs between any two.
pub(crate) async fn seen(response: reqwest::Response) -> Result<Seen> {
    let status = response.status().as_u16();
    let shown = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        let value =
            if ["date", "ringfence-request-id"].contains(&name.as_str()) { "" } else { value.to_str().unwrap_or("?") };
        (name.to_string(), value.to_owned())
    };
    let headers = response.headers().iter().map(shown).collect();
    let mut said: Value = serde_json::from_str(&response.text().await?).unwrap_or(Value::Null);
    said.as_object_mut().map(|fields| fields.remove("request_id"));
    Ok((status, headers, said))
}

fn password(principal: &str) -> Value {
    json!({ "method": "password", "principal": principal, "password": "a guess at a password" })
}

/// The refused sign-ins of a log, with their bodies.
async fn refused(who: &Session, log: &str) -> Result<Vec<Value>> {
    let page = answer(who.get(&format!("{log}?limit=1000")).send().await?).await?;
    let items = page["items"].as_array().context("items")?.iter();
    Ok(items.filter(|item| item["envelope"].as_str().is_some_and(|text| text.contains("AUT-003"))).cloned().collect())
}

#[tokio::test]
async fn guessing_at_a_tenants_people_is_found_in_its_own_log_and_the_guesser_learns_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    host.person(&acme.admin, "/tenants/acme/people", "ann", "developer").await?;
    let mut answers = Vec::new();
    for name in ["acme/ann"; 6].into_iter().chain(["acme/nobody", "nowhere/ann", "nobody", "operator/ann"]) {
        answers.push(try_from(&host, "127.0.0.1", &password(name)).await?);
    }
    assert!(answers.iter().all(|seen| *seen == answers[0] && seen.0 == 401), "{answers:#?}");

    let found = wait_for(&acme.admin, "brute-force").await?;
    assert_eq!((found["level"].as_str(), found["source"].as_str()), (Some("high"), Some("127.0.0.1")), "{found}");
    wait_for(&operator, "brute-force").await?;
    let mut own = Vec::new();
    eventually("all that names the tenant is on its log", async || {
        own = refused(&acme.admin, "/tenants/acme/audit").await?;
        Ok(own.len() >= 7)
    })
    .await?;
    let on = |item: &Value| item["body"]["resources"][0]["uid"].as_str().unwrap_or_default().to_owned();
    let details = |item: &Value| item["body"]["unmapped"]["details"].clone();
    let ann: Vec<&Value> = own.iter().filter(|item| on(item) == "acme/ann").collect();
    assert_eq!(ann.len(), 6, "{own:#?}");
    for item in &ann {
        assert_eq!(
            (details(item)["method"].as_str(), details(item)["known"].as_bool()),
            (Some("password"), Some(true))
        );
        assert_eq!(item["body"]["actor"]["user"]["uid"], "anonymous", "nobody was proved");
        assert!(!string(item, "envelope")?.contains("acme/ann"), "who was meant is in the sealed body only");
    }
    let unknown: Vec<&Value> = own.iter().filter(|item| on(item) == "tenant/acme").collect();
    assert_eq!((unknown.len(), details(unknown[0])["known"].as_bool()), (1, Some(false)), "{own:#?}");
    assert!(!format!("{own:?}").contains("nobody"), "a name that is nobody's is kept nowhere");

    // Every one of them is on the host's, without the people of tenants; another tenant has none of it.
    let hosts = refused(&operator, "/audit").await?;
    assert_eq!(hosts.len(), 10, "{hosts:#?}");
    assert!(hosts.iter().all(|item| !item.to_string().contains("acme/") && details(item)["method"] == "password"));
    assert!(refused(&globex.admin, "/tenants/globex/audit").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_address_that_a_tenant_blocks_meets_a_wrong_credential_there_and_signs_in_elsewhere() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let settings = json!({ "automatic": [], "block_source": "allowed" });
    answer(acme.admin.put("/security/settings").json(&settings).send().await?).await?;
    respond(&acme.admin, "block-source", json!({ "source": "127.0.0.2" })).await?;
    let key = |key: &str| json!({ "method": "api_key", "key": key });
    let good = try_from(&host, "127.0.0.2", &key(&acme.admin.key)).await?;
    let (start, last) = acme.admin.key.split_at(acme.admin.key.len() - 1);
    let altered = format!("{start}{}", if last == "a" { "b" } else { "a" });
    let wrong = try_from(&host, "127.0.0.2", &key(&altered)).await?;
    assert_eq!((good.0, &good), (401, &wrong), "what is right is not told from what is wrong");
    assert_eq!(try_from(&host, "127.0.0.2", &key(&globex.admin.key)).await?.0, 200, "a tenant blocks for itself only");
    assert_eq!(try_from(&host, "127.0.0.1", &key(&acme.admin.key)).await?.0, 200, "nobody else is held");
    eventually("the tenant sees whom it keeps out", async || {
        let own = refused(&acme.admin, "/tenants/acme/audit").await?;
        Ok(own.iter().any(|item| item["body"]["unmapped"]["details"]["barred"] == true))
    })
    .await
}
