//! Personal data: sealed before a plugin sees it, opened only where grant or policy says so, gone when a person is erased;
//! and nowhere in clear, not on disk, not in logs, not in the audit log.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ringfence_tests::{Session, Tenant, answer, files_under, problem};
use serde_json::{Value, json};

use crate::started;

const RULES: &str = r#"{"rules": [
    {"pointer": "/email", "field": "email", "subject": {"pointer": "/id"}, "direction": "request"},
    {"pointer": "/kin/*/phone", "field": "phone", "subject": {"pointer": "/kin/*/id"}, "direction": "request"},
    {"pointer": "/email", "field": "email", "direction": "response"},
    {"pointer": "/kin/*/phone", "field": "phone", "direction": "response", "otherwise": "mask"}
]}"#;
const PERSON: &str = r#"{ "id": "zorilla-7", "n": 12345678901234567890.10, "email": "zebra@wombat.example", "note": null,
  "kin": [{"id": 8, "phone": "020 7946 0958"}, {"id": "fossa", "phone": null}] }"#;
const CANARIES: [&str; 4] = ["zebra@wombat", "020 7946 0958", "zorilla-7", "numbat has a cold"];

async fn shipped(tenant: &Tenant, scope: &[&str]) -> Result<()> {
    tenant.ship("care-note", "care-note", "", &[("keyvalue", &["default"]), ("pii", scope)]).await
}

async fn set_rules(tenant: &Tenant, rules: &str) -> Result<Value> {
    let rules: Value = serde_json::from_str(rules)?;
    answer(tenant.admin.put(&tenant.path("/plugins/care-note/fields")).json(&rules).send().await?).await
}

/// Sends a body to the plugin that answers with what it saw.
async fn echo(who: &Session, body: impl Into<reqwest::Body>) -> Result<(u16, String)> {
    let request = who.call(Method::POST, "/acme/care-note/echo").header("content-type", "application/json").body(body);
    let response = request.send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}

async fn audit(tenant: &Tenant) -> Result<String> {
    Ok(answer(tenant.admin.get(&tenant.path("/audit?limit=1000")).send().await?).await?.to_string())
}

async fn allow_email(tenant: &Tenant) -> Result<()> {
    let text = "permit (principal, action == Ringfence::Action::\"open-personal-field\", resource == Ringfence::Field::\"acme/email\") when { principal has role && principal.role == Ringfence::Role::\"tenant-admin\" };";
    answer(tenant.admin.put(&tenant.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    Ok(())
}

#[tokio::test]
async fn a_plugin_sees_sealed_fields_and_only_those_whom_the_policy_names_see_them_in_clear() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    shipped(&acme, &["note:seal"]).await?;
    let rules: Value = serde_json::from_str(RULES)?;
    set_rules(&acme, &json!({ "rules": [rules["rules"][0], rules["rules"][1]] }).to_string()).await?;
    // Without a rule for answers, the answer is to the byte what the plugin saw.
    let (status, seen) = echo(&acme.admin, PERSON).await?;
    assert_eq!(status, 200, "{seen}");
    assert!(!seen.contains("zebra") && !seen.contains("7946"), "{seen}");
    let value: Value = serde_json::from_str(&seen)?;
    let (email, phone) = (value["email"].as_str().unwrap(), value["kin"][0]["phone"].as_str().unwrap());
    assert!(email.starts_with("rfp1.") && phone.starts_with("rfp1."), "{seen}");
    let put_back = seen.replace(email, "zebra@wombat.example").replace(phone, "020 7946 0958");
    assert_eq!(put_back, PERSON, "nothing but the fields was changed");

    set_rules(&acme, RULES).await?;
    let (_, hidden) = echo(&acme.admin, PERSON).await?;
    let value: Value = serde_json::from_str(&hidden)?;
    assert!(value["email"].as_str().unwrap().starts_with("rfp1."), "nobody by default, not even an admin: {hidden}");
    assert_eq!(value["kin"][0]["phone"], "***");
    allow_email(&acme).await?;
    let (_, shown) = echo(&acme.admin, PERSON).await?;
    let value: Value = serde_json::from_str(&shown)?;
    assert_eq!((&value["email"], &value["kin"][0]["phone"]), (&json!("zebra@wombat.example"), &json!("***")));
    // What was sealed for the same field and person stays as it is when it is sent back, and still opens.
    let (_, again) = echo(&acme.admin, hidden.clone().replace("\"***\"", "null")).await?;
    assert!(again.contains("zebra@wombat.example"), "{again}");
    let caller = acme.member(&host, "caller", "caller").await?;
    assert!(!echo(&caller, PERSON).await?.1.contains("zebra"));
    let log = audit(&acme).await?;
    assert!(log.contains("PII-001") && log.contains("PII-004") && !log.contains("zebra"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_a_rule_cannot_be_followed_on_never_reaches_the_plugin() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    shipped(&acme, &["note:seal"]).await?;
    set_rules(&acme, RULES).await?;
    let deep = format!("{{\"email\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let large = format!("{{\"id\":\"a\",\"email\":\"{}\"}}", "x".repeat(1 << 20));
    let bodies: [(Vec<u8>, u16); 11] = [
        (b"email=zebra".to_vec(), 400),
        (b"{\"id\":\"a\",\"email\":\"x\"".to_vec(), 400),
        (b"{\"id\":\"a\",\"email\":\"x\",\"email\":\"zebra\"}".to_vec(), 400),
        (b"{\"id\":\"a\",\"\\u0065mail\":\"x\",\"email\":\"zebra\"}".to_vec(), 400),
        (b"{\"id\":\"a\",\"email\":\"\xff\"}".to_vec(), 400),
        (b"{\"id\":\"a\",\"email\":1e400}".to_vec(), 400),
        (b"{\"id\":\"a\",\"email\":{\"at\":\"zebra\"}}".to_vec(), 400),
        (b"{\"email\":\"zebra\"}".to_vec(), 400),
        (b"{\"id\":[\"a\"],\"email\":\"zebra\"}".to_vec(), 400),
        (deep.into_bytes(), 400),
        (large.into_bytes(), 413),
    ];
    for (body, expected) in bodies {
        let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, text) = echo(&acme.admin, body).await?;
        assert_eq!(status, expected, "{start}: {text}");
        assert!(!text.contains("zebra"), "{start}: {text}");
    }
    let plain =
        acme.admin.call(Method::POST, "/acme/care-note/echo").header("content-type", "text/plain").body("zebra");
    let (status, refusal) = problem(plain.send().await?).await?;
    assert_eq!((status, refusal["code"].as_str()), (415, Some("fields-not-json")));
    // An escaped name is the same name, and so is sealed.
    let (status, seen) = echo(&acme.admin, r#"{"id":"a","\u0065mail":"zebra"}"#).await?;
    assert!(status == 200 && !seen.contains("zebra") && seen.contains("rfp1."), "{seen}");
    let rule = json!({ "rules": [{ "pointer": "/a", "field": "a", "direction": "request" }] });
    let refused = acme.admin.put(&acme.path("/plugins/care-note/fields")).json(&rule).send().await?;
    assert_eq!(problem(refused).await?.1["code"], "bad-field-rule");
    Ok(())
}

/// A body with a field, to any path: status and text.
async fn post(who: &Session, method: Method, path: &str) -> Result<(u16, String)> {
    let request = who.call(method, &format!("/acme/care-note{path}")).header("content-type", "application/json");
    let response = request.body(r#"{"id":"zorilla-7","email":"zebra@wombat.example"}"#).send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}

#[tokio::test]
async fn a_rule_for_some_requests_is_followed_however_they_are_spelt_and_in_no_others() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    shipped(&acme, &["note:seal", "note:open"]).await?;
    let seals = json!({ "methods": ["POST"], "path": "/echo", "pointer": "/email", "field": "email",
        "subject": { "pointer": "/id" }, "direction": "request" });
    set_rules(&acme, &json!({ "rules": [seals] }).to_string()).await?;
    let stored = answer(acme.admin.get(&acme.path("/plugins/care-note/fields")).send().await?).await?;
    assert_eq!((&stored["rules"][0]["methods"], &stored["rules"][0]["path"]), (&json!(["POST"]), &json!("/echo")));
    let who = &acme.admin;
    let (status, seen) = post(who, Method::POST, "/echo?to=/other").await?;
    assert!(status == 200 && seen.contains("rfp1.") && !seen.contains("zebra"), "{seen}");
    // Elsewhere the plugin answers with the personal data that it finds in what it sees.
    for path in ["/ECHO", "/%65cho", "/%45CHO/", "/echo/"] {
        let (status, found) = post(who, Method::POST, path).await?;
        assert!(status == 200 && !found.contains("email"), "{path}: {found}");
    }
    assert!(post(who, Method::POST, "/other").await?.1.starts_with("email "));
    for path in ["/echo", "//echo"] {
        assert_eq!(post(who, Method::PUT, path).await?.0, 204, "a rule for another method is none for this");
    }
    assert!(acme.fetch("care-note", "/echo").await?.1.contains("zebra@wombat.example"));
    for path in ["//echo", "/echo//", "/x%2F..%2Fecho", "/echo;v=1", "/%2565cho", "/echo%00", "/echo%20"] {
        let (status, text) = post(who, Method::POST, path).await?;
        assert!(status == 400 && text.contains("\"fields-path\""), "{path}: {status} {text}");
    }
    let other = who.call(Method::PATCH, "/acme/care-note/echo").header("x-http-method-override", "POST");
    assert_eq!(problem(other.body("{}").send().await?).await?.1["code"], "fields-path");

    // Of several rules the first seals, and an answer shows what none of them keeps from who asks.
    allow_email(&acme).await?;
    let everywhere =
        json!({ "pointer": "/email", "field": "phone", "subject": { "pointer": "/id" }, "direction": "request" });
    let opens = json!({ "path": "/echo", "pointer": "/email", "field": "email", "direction": "response" });
    let hides = json!({ "pointer": "/email", "field": "phone", "direction": "response" });
    set_rules(&acme, &json!({ "rules": [seals, everywhere, opens] }).to_string()).await?;
    assert!(post(who, Method::POST, "/echo").await?.1.contains("zebra@wombat.example"));
    let (status, found) = post(who, Method::POST, "/other").await?;
    assert!(status == 200 && !found.contains("email"), "{found}");
    for rules in [[&seals, &everywhere, &opens, &hides], [&seals, &everywhere, &hides, &opens]] {
        set_rules(&acme, &json!({ "rules": rules }).to_string()).await?;
        let (_, hidden) = post(who, Method::POST, "/echo").await?;
        assert!(hidden.contains("rfp1.") && !hidden.contains("zebra"), "{hidden}");
    }
    let wrong = json!({ "rules": [{ "path": "echo", "pointer": "/a", "field": "a", "direction": "response" }] });
    let refused = who.put(&acme.path("/plugins/care-note/fields")).json(&wrong).send().await?;
    assert_eq!(problem(refused).await?.1["code"], "bad-field-rule");
    Ok(())
}

#[tokio::test]
async fn an_erased_person_opens_for_nobody_again_and_others_still_do() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    shipped(&acme, &["note:seal", "note:open"]).await?;
    set_rules(&acme, RULES).await?;
    allow_email(&acme).await?;
    for person in ["zorilla-7", "fossa"] {
        let path = format!("/acme/care-note/{person}");
        let put = acme.admin.call(Method::PUT, &path).header("content-type", "application/json");
        assert_eq!(put.body(r#"{"cold":true}"#).send().await?.status(), StatusCode::NO_CONTENT);
    }
    let kept: Value = serde_json::from_str(&echo(&acme.member(&host, "m", "caller").await?, PERSON).await?.1)?;
    let subject = acme.path("/subjects/zorilla-7");
    let before = answer(acme.admin.get(&subject).send().await?).await?;
    assert_eq!((&before["key_version"], before["erasures"].as_array().unwrap().len()), (&json!(1), 0));

    let erased = answer(acme.admin.post(&format!("{subject}/erase")).send().await?).await?;
    assert_eq!((&erased["key_version"], &erased["erasures"][0]["key_version"]), (&Value::Null, &json!(1)));
    let nobody = acme.admin.post(&acme.path("/subjects/nobody/erase")).send().await?;
    assert_eq!(problem(nobody).await?.0, 404);
    let (_, text) = acme.fetch("care-note", "/zorilla-7").await?;
    assert!(!text.contains("cold"), "{text}");
    // Whoever comes back gets a new key; what was sealed before is still shut, also for those who may open.
    let (_, fresh) = echo(&acme.admin, PERSON).await?;
    assert!(fresh.contains("zebra@wombat.example"), "{fresh}");
    let old = json!({ "id": "other", "email": null, "old": kept["email"] });
    let rule = json!({ "rules": [{ "pointer": "/old", "field": "email", "direction": "response" }] });
    set_rules(&acme, &rule.to_string()).await?;
    let (_, shut) = echo(&acme.admin, old.to_string()).await?;
    assert_eq!(serde_json::from_str::<Value>(&shut)?["old"], kept["email"], "{shut}");
    set_rules(&acme, r#"{"rules": []}"#).await?;
    assert_eq!(acme.fetch("care-note", "/fossa").await?.1, r#"{"cold":true}"#, "others still open");
    let log = audit(&acme).await?;
    assert!(log.contains("PII-003") && !log.contains("zorilla"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_plugin_without_the_grant_to_open_is_refused_and_nothing_is_anywhere_in_clear() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    shipped(&acme, &["note:seal", "note:open"]).await?;
    set_rules(&acme, RULES).await?;
    let note = serde_json::to_string("numbat has a cold")?;
    let put = acme.admin.call(Method::PUT, "/acme/care-note/zorilla-7").header("content-type", "application/json");
    assert_eq!(put.body(note).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(echo(&acme.admin, PERSON).await?.0, 200);
    set_rules(&acme, r#"{"rules": []}"#).await?;
    assert_eq!(acme.fetch("care-note", "/zorilla-7").await?.1, "\"numbat has a cold\"");
    answer(acme.admin.delete(&acme.path("/plugins/care-note/grants/pii")).send().await?).await?;
    acme.grant("care-note", "pii", &["*:seal"]).await?;
    assert_eq!(acme.fetch("care-note", "/zorilla-7").await?.0, StatusCode::INTERNAL_SERVER_ERROR);
    let refused = acme.admin.put(&acme.path("/plugins/care-note/grants/pii")).json(&json!({ "scope": ["*"] }));
    assert_eq!(problem(refused.send().await?).await?.1["code"], "bad-scope");
    let found = acme.admin.call(Method::POST, "/acme/care-note/").body("NHS 943 476 5919, a@b.example").send().await?;
    assert_eq!(found.text().await?, "nhs-number 4 16\nemail 18 29\n");
    answer(acme.admin.post(&acme.path("/subjects/zorilla-7/erase")).send().await?).await?;

    let log = audit(&acme).await?;
    assert!(log.contains("PII-001") && log.contains("PII-002"), "{log}");
    let logs = answer(acme.admin.get(&acme.path("/plugins/care-note/logs")).send().await?).await?.to_string();
    let (data, stderr) = (host.data.clone(), host.stderr());
    host.stop()?;
    for canary in CANARIES {
        assert!(!log.contains(canary) && !stderr.contains(canary) && !logs.contains(canary), "{canary}");
        for (path, bytes) in files_under(&data)? {
            let found = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!found, "{canary} is in {}", path.display());
        }
    }
    Ok(())
}
