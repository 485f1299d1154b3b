//! Access governance through the two ports: who holds and uses what, and reviews that take away for the next request.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, problem, string};
use serde_json::{Value, json};

async fn started() -> Result<(Place, Host, Session)> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}

/// Some seconds from now.
#[expect(clippy::disallowed_methods, reason = "a caller has a clock of its own")]
fn within(seconds: i64) -> String {
    let due = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds));
    due.map(|at| at.to_string()).unwrap_or_default()
}

async fn open(acme: &Tenant, body: Value) -> Result<(String, Vec<Value>)> {
    let opened = answer(acme.admin.post(&acme.path("/access/reviews")).json(&body).send().await?).await?;
    let id = string(&opened, "id")?;
    Ok((id.clone(), items(acme, &id).await?))
}

async fn items(acme: &Tenant, id: &str) -> Result<Vec<Value>> {
    let shown = answer(acme.admin.get(&acme.path(&format!("/access/reviews/{id}"))).send().await?).await?;
    Ok(shown["items"].as_array().context("items")?.clone())
}

async fn decide(who: &Session, acme: &Tenant, id: &str, item: &Value, choice: &str) -> Result<(u16, Value)> {
    let path = acme.path(&format!("/access/reviews/{id}/items/{}", item["number"]));
    let body = json!({ "choice": choice, "reason": "a test" });
    problem(who.put(&path).json(&body).send().await?).await
}

fn about<'a>(items: &'a [Value], what: &str) -> Result<&'a Value> {
    let found = items.iter().find(|item| item["what"].as_str().is_some_and(|text| text.contains(what)));
    found.with_context(|| format!("no item about {what} in {items:?}"))
}

#[tokio::test]
async fn the_report_says_who_holds_and_used_what_and_what_was_not_watched_is_unknown() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"]), ("logging", &[])]).await?;
    acme.member(&host, "ci", "developer").await?;
    assert_eq!(acme.fetch("visits", "/ada").await?.0, StatusCode::OK);
    let report = async |days: u32| -> Result<Value> {
        answer(acme.admin.get(&acme.path(&format!("/access/report?unused_days={days}"))).send().await?).await
    };
    let first = report(90).await?;
    let holders = first["holders"].as_array().context("holders")?;
    let ci = holders.iter().find(|one| one["principal"] == "acme/ci").context("ci")?;
    assert_eq!((ci["state"].as_str(), ci["given_by"].as_str()), (Some("used"), Some("acme/admin")), "{ci}");
    let admin = holders.iter().find(|one| one["principal"] == "acme/admin").context("admin")?;
    assert_eq!(admin["has_second_person"], false);
    assert!(admin["would_do"].is_null(), "it is not watched for long enough: {admin}");
    let kinds: Vec<&str> =
        first["findings"].as_array().context("findings")?.iter().filter_map(|f| f["kind"].as_str()).collect();
    assert!(kinds.contains(&"no-second-person") && kinds.contains(&"one-hand"), "{kinds:?}");
    assert!(!kinds.contains(&"dormant") && !kinds.contains(&"grant-unused"), "{kinds:?}");
    let grant = |report: &Value, capability: &str| -> Value {
        let all = report["grants"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|grant| grant["capability"] == capability).unwrap_or_default()
    };
    assert_eq!(grant(&first, "logging")["granted_by"], "acme/admin");
    // A host that ends writes down what was used and not written yet.
    let (place, key) = (_place, acme.admin.key.clone());
    host.stop()?;
    let host = Host::start(&place)?;
    let acme = Tenant { name: "acme".to_owned(), admin: host.sign_in(&key).await? };
    let again = answer(acme.admin.get(&acme.path("/access/report")).send().await?).await?;
    assert_eq!(grant(&again, "keyvalue")["state"], "used", "{again}");
    assert!(grant(&again, "keyvalue")["last_used_at"].is_string());
    assert!(again["watched_since"].is_string());
    // Before anything was written down nothing is known to have been watched.
    assert!(first["watched_since"].is_null() || first["watched_since"] == again["watched_since"]);
    // Operators see their own, and nothing of a tenant's.
    let operator = host.sign_in(&operator.key).await?;
    assert_eq!(answer(operator.get("/access/report").send().await?).await?["holders"][0]["role"], "operator");
    Ok(())
}

#[tokio::test]
async fn a_review_takes_away_for_the_next_request_and_nobody_decides_about_himself() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    let ci = acme.member(&host, "ci", "developer").await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "tenant-admin").await?;
    let eve = acme.member(&host, "eve", "developer").await?;
    let body = json!({ "title": "autumn", "reviewers": ["acme/ann", "acme/admin"], "due_at": within(3_600) });
    let (id, all) = open(&acme, body).await?;
    let (key, own, grant) = (about(&all, "acme/ci")?, about(&all, "acme/ann")?, about(&all, "visits")?);
    // Not by somebody else, not about oneself, not about one's own keys, and not to stay by a newcomer's word.
    let (status, hidden) = decide(&eve, &acme, &id, key, "keep").await?;
    let help = hidden["help"].as_str().unwrap_or_default();
    assert!(status == 404 && help.ends_with("ringfence access review list"), "{hidden}");
    assert_eq!(decide(&ann, &acme, &id, own, "keep").await?.1["code"], "own-review");
    assert_eq!(decide(&acme.admin, &acme, &id, key, "revoke").await?.1["code"], "own-review");
    assert_eq!(decide(&acme.admin, &acme, &id, grant, "keep").await?.1["code"], "own-review");
    assert_eq!(decide(&ann, &acme, &id, key, "keep").await?.1["code"], "second-person-needed");
    assert_eq!(ci.get("/whoami").send().await?.status(), StatusCode::OK);
    let (status, decided) = decide(&ann, &acme, &id, key, "revoke").await?;
    assert_eq!((status, decided["decisions"][0]["done"].as_bool()), (200, Some(true)), "{decided}");
    assert_eq!(ci.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(decide(&ann, &acme, &id, key, "keep").await?.0, 409, "once");
    assert_eq!(decide(&ann, &acme, &id, grant, "revoke").await?.0, 200);
    assert_ne!(acme.fetch("visits", "/ada").await?.0, StatusCode::OK, "the grant is gone");
    // What was decided is on the log, and in the document beside its head.
    let export = answer(ann.get(&acme.path(&format!("/access/reviews/{id}/export"))).send().await?).await?;
    assert_eq!(export["review"]["revoked_count"], 2);
    assert!(string(&export, "checkpoint")?.starts_with(&string(&export, "log")?), "{export}");
    let request = about(&items(&acme, &id).await?, "acme/ci")?["decisions"][0]["request"].clone();
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(log.contains("AUT-031") && log.contains("AUT-006"), "{request}");
    let closed = answer(acme.admin.post(&acme.path(&format!("/access/reviews/{id}/close"))).send().await?).await?;
    assert_eq!(closed["state"], "closed");
    assert_eq!(decide(&ann, &acme, &id, own, "escalate").await?.1["code"], "review-closed");
    Ok(())
}

#[tokio::test]
async fn what_nobody_decided_is_revoked_when_the_review_says_so_and_the_last_admin_stays() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let ci = acme.member(&host, "ci", "developer").await?;
    let _ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "developer").await?;
    let body = json!({
        "title": "keys", "reviewers": ["acme/ann"], "due_at": within(2), "overdue": "revoke", "of": ["keys"],
    });
    let (id, all) = open(&acme, body).await?;
    assert_eq!(all.len(), 2, "{all:?}");
    let revoked = async || Ok(ci.get("/whoami").send().await?.status() == StatusCode::UNAUTHORIZED);
    eventually("the key is revoked", revoked).await?;
    assert_eq!(acme.admin.get("/whoami").send().await?.status(), StatusCode::OK);
    let all = items(&acme, &id).await?;
    assert_eq!(about(&all, "acme/ci")?["decisions"][0]["by"], "acme/admin");
    assert_eq!(about(&all, "acme/admin")?["decisions"], json!([]));
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(log.contains("AUT-033"));
    Ok(())
}

#[tokio::test]
async fn a_review_is_opened_for_reviewers_there_are_and_says_what_none_of_them_may_decide() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let _ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "tenant-admin").await?;
    let tried = async |reviewers: Value, overdue: &str| -> Result<(u16, Value)> {
        let body = json!({
            "title": "spring", "reviewers": reviewers, "due_at": within(3_600), "overdue": overdue, "of": ["people"],
        });
        let response = acme.admin.post(&acme.path("/access/reviews")).json(&body).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    };
    let (status, refused) = tried(json!(["acme/ann", "acme/ghost"]), "report").await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-review")), "{refused}");
    assert!(string(&refused, "detail")?.contains("`acme/ghost` is nobody here"), "{refused}");
    // Her own item is nobody's, so that it would go on the last day undecided.
    let (status, refused) = tried(json!(["acme/ann"]), "revoke").await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-review")), "{refused}");
    let (status, opened) = tried(json!(["acme/ann"]), "report").await?;
    assert_eq!(status, 201, "{opened}");
    assert!(opened["warnings"].to_string().contains("acme/ann as tenant-admin"), "{opened}");
    let (status, opened) = tried(json!(["acme/ann", "acme/admin"]), "report").await?;
    assert_eq!((status, opened.get("warnings")), (201, None), "{opened}");
    Ok(())
}

/// Allowed while ann has the role by label, whose own role from the host is `caller`.
const LEADS: &str = "@id(\"leads\") permit (principal is Ringfence::Person, \
    action == Ringfence::Action::\"read-plugin\", resource) when { principal.roles.contains(\"lead\") };";

/// Forbidden to whoever has a role by label.
const HELD_AGAINST: &str = "@id(\"held-against\") forbid (principal is Ringfence::Person, \
    action == Ringfence::Action::\"read-logs\", resource) when { principal.roles.contains(\"other\") };";

#[tokio::test]
async fn a_role_by_label_is_an_item_and_a_revocation_takes_it_away_for_the_next_request() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    let policy = json!({ "text": LEADS, "mode": "active" });
    answer(acme.admin.put(&acme.path("/policy")).json(&policy).send().await?).await?;
    let labels = json!({ "principals": {
        "acme/ann": { "roles": ["lead", "other"] }, "acme/gone": { "roles": ["lead"] }, "acme/bob": { "roles": ["lead"] },
    } });
    answer(acme.admin.put(&acme.path("/policy/labels")).json(&labels).send().await?).await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "caller").await?;
    let bob = host.person(&acme.admin, "/tenants/acme/people", "bob", "tenant-admin").await?;
    let reads =
        async |who: &Session| Ok::<_, anyhow::Error>(who.get(&acme.path("/plugins/visits")).send().await?.status());
    assert_eq!(reads(&ann).await?, StatusCode::OK);
    let report = answer(acme.admin.get(&acme.path("/access/report")).send().await?).await?;
    let shown = report["labels"].as_array().context("labels")?;
    let lead = |who: &str| shown.iter().find(|one| one["principal"] == who && one["role"] == "lead").context("lead");
    assert_eq!((&lead("acme/ann")?["given_by"], &lead("acme/ann")?["state"]), (&json!("acme/admin"), &json!("used")));
    assert_eq!((&lead("acme/gone")?["is_somebody"], &lead("acme/gone")?["state"]), (&json!(false), &json!("new")));
    assert!(report["findings"].to_string().contains("has the role lead by label and is nobody here"), "{report}");
    let body = json!({
        "title": "roles", "reviewers": ["acme/bob"], "due_at": within(3_600), "of": ["labels"],
    });
    let (id, all) = open(&acme, body).await?;
    assert_eq!(all.len(), 4, "{all:?}");
    let (hers, his) = (about(&all, "acme/ann has the role lead by label")?, about(&all, "acme/bob")?);
    assert_eq!(decide(&bob, &acme, &id, his, "revoke").await?.1["code"], "own-review");
    assert_eq!(decide(&bob, &acme, &id, his, "keep").await?.1["code"], "own-review");
    let (status, decided) = decide(&bob, &acme, &id, hers, "revoke").await?;
    assert_eq!((status, decided["decisions"][0]["done"].as_bool()), (200, Some(true)), "{decided}");
    assert_eq!(reads(&ann).await?, StatusCode::FORBIDDEN, "for the next request");
    let left = answer(acme.admin.get(&acme.path("/policy/labels")).send().await?).await?;
    assert_eq!((&left["version"], &left["labels"]["principals"]["acme/ann"]["roles"]), (&json!(2), &json!(["other"])));
    let versions = answer(acme.admin.get(&acme.path("/policy/labels/versions")).send().await?).await?;
    assert_eq!(versions["items"][0]["by"], "acme/bob", "{versions}");
    assert_eq!(decide(&bob, &acme, &id, hers, "keep").await?.0, 409, "once");
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(log.contains("AUT-031") && log.matches("POL-009").count() >= 2, "decided, and the labels changed");
    // A rule that holds a role against who has it: who loses that one gains, which one reviewer does not bring about alone.
    let policy = json!({ "text": format!("{LEADS} {HELD_AGAINST}"), "mode": "active" });
    answer(acme.admin.put(&acme.path("/policy")).json(&policy).send().await?).await?;
    let other = about(&all, "acme/ann has the role other by label")?;
    assert_eq!(decide(&bob, &acme, &id, other, "revoke").await?.1["code"], "second-person-needed");
    assert_eq!(about(&items(&acme, &id).await?, "acme/ann has the role other")?["decisions"], json!([]));
    Ok(())
}
