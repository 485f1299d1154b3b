//! Rules that need a verified device, as people and their clients meet them: before, with, and after the evidence; and what
//! does not stand in for it.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ring::signature::Ed25519KeyPair;
use ringfence_tests::holder::{Holder, jwt, now_seconds, public_key, signing_key};
use ringfence_tests::{Host, Place, Tenant, answer, problem, string};
use serde_json::{Value, json};

const VERIFIED: &str = "@id(\"verified\") forbid (principal is Ringfence::Service, \
    action == Ringfence::Action::\"invoke\", resource) unless { principal has device && principal.device.verified };";

/// A host whose tenant acme leaves its plugin to verified devices, and the key of who signs claims about those.
async fn strict(place: &Place) -> Result<(Host, Tenant, Ed25519KeyPair)> {
    let host = Host::start(place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let mdm = signing_key()?;
    let trust = json!({
        "thresholds": { "floor": 0, "invoke": 0, "read": 0, "change": 0, "administer": 0 },
        "device_posture": {
            "issuers": [{ "name": "mdm", "key": public_key(&mdm) }], "required": ["disk_encrypted"],
        },
    });
    answer(acme.admin.put(&acme.path("/trust")).json(&trust).send().await?).await?;
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": VERIFIED })).send().await?).await?;
    Ok((host, acme, mdm))
}

/// Shows a claim about `laptop` that names a key, and how that was answered.
async fn show(host: &Host, holder: &Holder, mdm: &Ed25519KeyPair, jkt: &str) -> Result<(u16, Value)> {
    let asked = holder.ask(host, &Method::POST, "/zero-trust/devices/laptop/challenge").send().await?;
    let (nonce, now) = (string(&answer(asked).await?, "nonce")?, now_seconds());
    let claims = json!({
        "iss": "mdm", "sub": "laptop", "nonce": nonce, "iat": now, "exp": now + 600,
        "posture": { "disk_encrypted": true }, "cnf": { "jkt": jkt },
    });
    let evidence = jwt(mdm, &json!({ "alg": "EdDSA" }), &claims);
    let shown = json!({ "device_id": "laptop", "nonce": nonce, "format": "posture", "evidence": evidence });
    problem(holder.ask(host, &Method::POST, "/zero-trust/device-verification").json(&shown).send().await?).await
}

async fn status(host: &Host, holder: &Holder) -> Result<StatusCode> {
    Ok(holder.call(host, "/acme/hello/").send().await?.status())
}

#[tokio::test]
async fn a_plugin_is_called_from_a_verified_device_until_that_is_revoked() -> Result<()> {
    let place = Place::new()?;
    let (host, acme, mdm) = strict(&place).await?;
    let cal = acme.member(&host, "cal", "caller").await?;
    let mut holder = Holder::sign_in(&host, &cal.key).await?;
    let (code, denied) = problem(holder.call(&host, "/acme/hello/").send().await?).await?;
    assert_eq!((code, denied["code"].as_str()), (403, Some("denied")), "{denied}");
    let why = acme.admin.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?;
    let why = answer(why).await?;
    assert_eq!((&why["reasons"][0]["policy"], &why["device"]), (&json!("tenant/verified"), &Value::Null), "{why}");
    assert_eq!(why["changes"][0]["kind"], "device", "{why}");

    let name = json!({ "name": "laptop" });
    let made = holder.ask(&host, &Method::POST, "/zero-trust/devices").json(&name).send().await?;
    assert_eq!(answer(made).await?["current"], false);
    assert_eq!(status(&host, &holder).await?, StatusCode::FORBIDDEN, "that it is registered shows nothing");
    let (code, shown) = show(&host, &holder, &mdm, &holder.thumbprint()).await?;
    assert_eq!((code, &shown["verdict"], &shown["holds_key"]), (200, &json!("verified"), &json!(true)), "{shown}");
    assert_eq!(status(&host, &holder).await?, StatusCode::OK);
    let mine = answer(holder.ask(&host, &Method::GET, "/zero-trust/devices").send().await?).await?;
    assert_eq!(mine["items"][0]["current"], true, "{mine}");

    // Not for who has the API key and not the key on the device: with a token that is bound to nothing, or to his own.
    assert_eq!(cal.fetch("/acme/hello/").await?.0, StatusCode::FORBIDDEN);
    let thief = Holder::sign_in(&host, &cal.key).await?;
    assert_eq!(status(&host, &thief).await?, StatusCode::FORBIDDEN);
    let (code, carried) = show(&host, &thief, &mdm, &holder.thumbprint()).await?;
    assert_eq!((code, carried["code"].as_str()), (422, Some("bad-evidence")), "a good word, carried here: {carried}");
    assert_eq!((status(&host, &thief).await?, status(&host, &holder).await?), (StatusCode::FORBIDDEN, StatusCode::OK));

    let admins_key = acme.admin.key.clone();
    host.stop()?;
    let host = Host::start(&place)?;
    holder.greet(&host).await?;
    assert_eq!(status(&host, &holder).await?, StatusCode::OK, "over a restart");

    let admin = host.sign_in(&admins_key).await?;
    let all = answer(admin.get("/tenants/acme/devices").send().await?).await?;
    assert_eq!(
        (&all["items"][0]["principal"], &all["items"][0]["device"]["name"]),
        (&json!("acme/cal"), &json!("laptop"))
    );
    assert_eq!(admin.delete("/tenants/acme/devices/cal/laptop").send().await?.status(), StatusCode::NO_CONTENT);
    let (code, denied) = problem(holder.call(&host, "/acme/hello/").send().await?).await?;
    assert_eq!((code, denied["code"].as_str()), (403, Some("denied")), "{denied}");
    let why = admin.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?;
    assert_eq!(answer(why).await?["device"], "laptop, not verified");
    let again = holder.ask(&host, &Method::POST, "/zero-trust/devices/laptop/challenge").send().await?;
    assert!(again.status().is_client_error(), "nothing verifies it any more");
    Ok(())
}
