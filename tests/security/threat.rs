//! Threats seen and answered, through the real host: each response felt by the next request, findings, rules, intelligence,
//! incidents, drills, and all of it after a restart.

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, answer, eventually, problem, string};
use serde_json::{Value, json};

use crate::started;

/// Long before an answer ends by itself.
const PROMPTLY: std::time::Duration = std::time::Duration::from_secs(20);

pub(crate) async fn respond(who: &Session, kind: &str, target: Value) -> Result<Value> {
    let body = json!({ "kind": kind, "target": target, "per_minute": 1, "minutes": 6, "reason": "a test" });
    answer(who.post("/security/responses").json(&body).send().await?).await
}

/// A host on which whoever was invited just now counts as a second person.
async fn started_with_second_people() -> Result<(Place, Host, Session)> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}

fn approval_of(response: &Value) -> Result<String> {
    Ok(format!("/security/responses/{}/approve", string(response, "id")?))
}

/// That this one's word is not another person's.
async fn is_no_second(who: &Session, path: &str) -> Result<()> {
    let (status, refused) = problem(who.post(path).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("second-person-needed")), "{refused}");
    Ok(())
}

pub(crate) async fn undo(who: &Session, response: &Value) -> Result<()> {
    let path = format!("/security/responses/{}", string(response, "id")?);
    assert_eq!(answer(who.delete(&path).send().await?).await?["state"], "undone");
    Ok(())
}

async fn status(who: &Session, path: &str) -> Result<StatusCode> {
    Ok(who.fetch(path).await?.0)
}

async fn findings(who: &Session) -> Result<Vec<Value>> {
    let page = answer(who.get("/security/findings?limit=1000").send().await?).await?;
    Ok(page["items"].as_array().context("items")?.clone())
}

/// How entries of a code in a log ended, with their details.
async fn logged(who: &Session, log: &str, code: &str) -> Result<Vec<(String, Value)>> {
    let page = answer(who.get(&format!("{log}?limit=1000")).send().await?).await?;
    let bodies = page["items"].as_array().context("items")?.iter().map(|item| &item["body"]);
    let of = bodies.filter(|body| body["unmapped"]["code"].as_str().is_some_and(|found| found.starts_with(code)));
    let read = |body: &Value| string(body, "status").map(|status| (status, body["unmapped"]["details"].clone()));
    of.map(read).collect()
}

pub(crate) async fn wait_for(who: &Session, rule: &str) -> Result<Value> {
    eventually(rule, async || Ok(findings(who).await?.iter().any(|finding| finding["rule"] == rule))).await?;
    findings(who).await?.into_iter().find(|finding| finding["rule"] == rule).context("a finding")
}

#[tokio::test]
async fn whoever_is_held_feels_it_on_the_next_request_of_either_port_and_not_after_it_is_taken_back() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let other = acme.member(&host, "other", "developer").await?;
    assert_eq!(status(&developer, "/acme/hello/").await?, StatusCode::OK);

    let suspended = respond(&acme.admin, "suspend-principal", json!({ "principal": "acme/dev" })).await?;
    assert_eq!(suspended["state"], "in-force");
    let (code, body) = problem(developer.get("/whoami").send().await?).await?;
    assert_eq!((code, body["code"].as_str()), (403, Some("principal-suspended")));
    assert_eq!(status(&developer, "/acme/hello/").await?, StatusCode::FORBIDDEN);
    assert_eq!(status(&other, "/acme/hello/").await?, StatusCode::OK, "nobody else is held");
    undo(&acme.admin, &suspended).await?;
    assert_eq!(status(&developer, "/acme/hello/").await?, StatusCode::OK);

    let paced = respond(&acme.admin, "rate-limit", json!({ "principal": "acme/dev" })).await?;
    assert_eq!(status(&developer, "/acme/hello/").await?, StatusCode::OK);
    assert_eq!(status(&developer, "/acme/hello/").await?, StatusCode::TOO_MANY_REQUESTS);
    undo(&acme.admin, &paced).await?;

    let ended = respond(&acme.admin, "end-sessions", json!({ "principal": "acme/dev" })).await?;
    assert_eq!(developer.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(status(&developer, "/acme/hello/").await?, StatusCode::UNAUTHORIZED);
    undo(&acme.admin, &ended).await
}

#[tokio::test]
async fn whoever_is_held_feels_it_in_what_streams_for_him_too() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    crate::ship_hostile(&acme, "time_ms = 60000").await?;
    let other = acme.member(&host, "other", "developer").await?;
    let tail_of = async |who: &Session| -> Result<reqwest::Response> {
        Ok(who.get(&acme.path("/plugins/hostile/logs?follow=true")).send().await?.error_for_status()?)
    };
    for (name, kind) in [("dev", "suspend-principal"), ("qa", "end-sessions")] {
        let held = acme.member(&host, name, "developer").await?;
        let (tail, mut spared) = (tail_of(&held).await?, tail_of(&other).await?);
        let mut streamed = held.call(Method::GET, "/acme/hostile/drip").send().await?.error_for_status()?;
        assert!(streamed.chunk().await?.is_some(), "the answer has begun");
        respond(&acme.admin, kind, json!({ "principal": format!("acme/{name}") })).await?;
        // The tail has nothing to tell and ends all the same; the answer is cut in the middle.
        tokio::time::timeout(PROMPTLY, tail.bytes()).await.context("the tail goes on")??;
        let cut = async { while let Ok(Some(_)) = streamed.chunk().await {} };
        tokio::time::timeout(PROMPTLY, cut).await.context("the answer goes on")?;
        acme.fetch("hostile", "/log-flood?n=1").await?;
        let line = tokio::time::timeout(PROMPTLY, spared.chunk()).await??;
        assert!(line.is_some(), "nobody else is held");
    }
    Ok(())
}

#[tokio::test]
async fn a_version_under_quarantine_is_not_run_and_a_read_only_tenant_is_not_changed() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let plugin = answer(acme.admin.get(&acme.path("/plugins/hello")).send().await?).await?;
    let digest = string(&plugin["versions"][0], "digest")?;

    let quarantined = respond(&acme.admin, "quarantine-version", json!({ "digest": digest })).await?;
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::LOCKED);
    undo(&acme.admin, &quarantined).await?;
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::OK);
    let here = respond(&operator, "quarantine-version", json!({ "digest": digest, "tenant": "acme" })).await?;
    assert_eq!(here["state"], "in-force", "one tenant's takes one person");
    undo(&operator, &here).await?;
    let everywhere = respond(&operator, "quarantine-version", json!({ "digest": digest })).await?;
    assert_eq!(everywhere["state"], "waiting", "{everywhere}");
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::OK, "one operator alone holds nothing");
    is_no_second(&operator, &approval_of(&everywhere)?).await?;
    let grace = host.person(&operator, "/people", "grace", "operator").await?;
    let made = answer(grace.post(&approval_of(&everywhere)?).send().await?).await?;
    assert_eq!((made["state"].as_str(), made["approved_by"].as_str()), (Some("in-force"), Some("operator/grace")));
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::LOCKED, "for all tenants");
    undo(&operator, &everywhere).await?;

    let held = respond(&acme.admin, "read-only", json!({})).await?;
    let put = || acme.admin.put(&acme.path("/secrets/a")).body("value");
    let (code, body) = problem(put().send().await?).await?;
    assert_eq!((code, body["code"].as_str()), (423, Some("tenant-read-only")));
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::OK, "reading goes on");
    undo(&acme.admin, &held).await?;
    answer(put().send().await?).await?;
    Ok(())
}

#[tokio::test]
async fn keys_are_disabled_by_two_people_and_come_back_when_an_operator_takes_the_response_back() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let key_of_same = acme.member(&host, "spare", "tenant-admin").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    // Withdrawn before anybody agreed: there is nothing to agree to any more.
    let withdrawn = respond(&acme.admin, "disable-key", json!({})).await?;
    undo(&acme.admin, &withdrawn).await?;
    assert_eq!(second.post(&approval_of(&withdrawn)?).send().await?.status(), StatusCode::NOT_FOUND);

    let body = json!({ "kind": "disable-key", "target": {}, "minutes": 5, "reason": "a test" });
    let asked = acme.admin.post("/security/responses").json(&body).send().await?;
    assert_eq!(asked.status(), StatusCode::ACCEPTED);
    let held = answer(asked).await?;
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::OK, "one admin alone stops nothing");
    for same in [&acme.admin, &key_of_same] {
        is_no_second(same, &approval_of(&held)?).await?;
    }
    assert_eq!(operator.post(&approval_of(&held)?).send().await?.status(), StatusCode::NOT_FOUND, "not his to allow");
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::OK);
    answer(second.post(&approval_of(&held)?).send().await?).await?;
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::LOCKED);
    undo(&operator, &held).await?;
    assert_eq!(status(&acme.admin, "/acme/hello/").await?, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn instances_that_wait_go_with_the_keys() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["*"]), ("logging", &[]), ("http", &["https://example.com"])];
    acme.ship("hostile", "hostile", "[instance]\ninvocations_max = 100000\n", &grants).await?;
    let count = async || Ok::<_, anyhow::Error>(acme.fetch("hostile", "/count").await?.1.trim().parse::<u32>()?);
    eventually("an instance serves again", async || Ok(count().await? > 3)).await?;
    let body = json!({ "kind": "disable-key", "target": {}, "minutes": 5, "reason": "a test" });
    let held = answer(acme.admin.post("/security/responses").json(&body).send().await?).await?;
    answer(second.post(&approval_of(&held)?).send().await?).await?;
    undo(&operator, &held).await?;
    assert_eq!(count().await?, 1, "what it had in memory is gone");
    Ok(())
}

#[tokio::test]
async fn a_response_outlives_a_restart_and_a_dry_run_holds_nothing() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let body =
        json!({ "kind": "suspend-principal", "target": { "principal": "acme/dev" }, "reason": "r", "dry_run": true });
    let tried = answer(acme.admin.post("/security/responses").json(&body).send().await?).await?;
    assert_eq!((tried["state"].as_str(), tried["id"].is_null()), (Some("dry-run"), true));
    assert_eq!(tried["blast"]["principals"], json!(["acme/dev"]));
    assert_eq!(developer.get("/whoami").send().await?.status(), StatusCode::OK);
    respond(&acme.admin, "suspend-principal", json!({ "principal": "acme/dev" })).await?;
    host.stop()?;
    let host = Host::start(&place)?;
    let developer = host.sign_in(&developer.key).await?;
    assert_eq!(developer.get("/whoami").send().await?.status(), StatusCode::FORBIDDEN);
    Ok(())
}

#[tokio::test]
async fn a_tenant_holds_and_sees_only_what_is_its_own() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    for target in [json!({ "principal": "globex/admin" }), json!({ "tenant": "globex" })] {
        let kind = if target["principal"].is_null() { "read-only" } else { "suspend-principal" };
        let body = json!({ "kind": kind, "target": target, "reason": "r" });
        assert_eq!(acme.admin.post("/security/responses").json(&body).send().await?.status(), StatusCode::NOT_FOUND);
    }
    let own = respond(&globex.admin, "read-only", json!({})).await?;
    let path = format!("/security/responses/{}", string(&own, "id")?);
    assert_eq!(acme.admin.delete(&path).send().await?.status(), StatusCode::NOT_FOUND);
    let auditor = acme.member(&host, "aud", "auditor").await?;
    assert_eq!(auditor.get("/security/findings").send().await?.status(), StatusCode::OK);
    let body = json!({ "kind": "read-only", "target": {}, "reason": "r" });
    assert_eq!(auditor.post("/security/responses").json(&body).send().await?.status(), StatusCode::FORBIDDEN);
    let caller = acme.member(&host, "call", "caller").await?;
    assert_eq!(caller.get("/security/findings").send().await?.status(), StatusCode::FORBIDDEN);
    Ok(())
}

#[tokio::test]
async fn nobody_but_an_admin_is_shown_which_address_is_blocked_or_where_requests_came_from() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    answer(acme.admin.put("/security/settings").json(&json!({ "block_source": "allowed" })).send().await?).await?;
    let blocked = "192.0.2.77";
    respond(&acme.admin, "block-source", json!({ "source": blocked })).await?;
    // A finding whose group is an address, and whose last request came from one.
    let rule = "title: A secret was set\nname: secret-set\nlogsource: {product: ringfence, service: audit}\n\
        detection: {set: {unmapped.code|startswith: SEC-001, status: Success}, condition: set}\nlevel: low\n---\n\
        title: From one place\nname: from-one\nlevel: low\n\
        correlation: {type: event_count, rules: secret-set, group-by: [src_endpoint.ip], timespan: 1h, \
        condition: {gte: 1}}\n";
    answer(acme.admin.put("/security/rules/secret-set").json(&json!({ "text": rule })).send().await?).await?;
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let found = wait_for(&acme.admin, "secret-set").await?;
    let source = string(&found, "source")?;
    let finding = format!("/security/findings/{}", string(&found, "id")?);
    let shows = |text: &str| {
        text.contains(blocked) || text.contains(&format!("\"{source}\"")) || text.contains("\"src_endpoint\":{\"ip\"")
    };
    for (role, reads, sees) in
        [("tenant-admin", true, true), ("auditor", true, false), ("developer", false, false), ("caller", false, false)]
    {
        let who = acme.member(&host, role, role).await?;
        for path in [
            "/audit/trails/acme?limit=1000",
            acme.path("/audit?limit=1000").as_str(),
            "/security/findings",
            "/security/findings?format=stix",
            finding.as_str(),
            "/security/responses",
        ] {
            let page = who.get(path).send().await?;
            assert_eq!(page.status().is_success(), reads, "{role} {path}");
            assert_eq!(shows(&page.text().await?), sees, "{role} {path}");
        }
        let made = who.post("/audit/evidence-package").json(&json!({})).send().await?;
        assert_eq!(made.status().is_success(), reads, "{role}");
        if reads {
            let made = string(&answer(made).await?, "url")?;
            let package = who.get(made.strip_prefix("/api/v1").context("a path")?).send().await?.bytes().await?;
            assert_eq!(shows(&String::from_utf8_lossy(&package)), sees, "{role}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn reaching_for_another_tenant_is_found_in_both_places_and_answered_where_its_owner_says_so() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let settings = json!({ "automatic": ["isolation-violation"] });
    answer(operator.put("/security/settings").json(&settings).send().await?).await?;
    assert_eq!(globex.admin.get(&acme.path("/plugins")).send().await?.status(), StatusCode::NOT_FOUND);
    let found = wait_for(&acme.admin, "isolation-violation").await?;
    assert_eq!((found["level"].as_str(), found["attack_version"].as_str()), (Some("critical"), Some("19.1")));
    assert!(found["response"].is_null(), "the tenant did not say that rules act");
    wait_for(&operator, "isolation-violation").await?;
    eventually("the stranger is suspended", async || {
        Ok(globex.admin.get("/whoami").send().await?.status() == StatusCode::FORBIDDEN)
    })
    .await?;
    assert_eq!(acme.admin.get("/whoami").send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn whoever_comes_after_the_first_stranger_is_found_and_answered_too() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let settings = json!({ "automatic": ["isolation-violation"] });
    answer(operator.put("/security/settings").json(&settings).send().await?).await?;
    for name in ["globex", "initech"] {
        let stranger = host.tenant(&operator, name).await?;
        assert_eq!(stranger.admin.get(&acme.path("/plugins")).send().await?.status(), StatusCode::NOT_FOUND);
        eventually(name, async || Ok(stranger.admin.get("/whoami").send().await?.status() == StatusCode::FORBIDDEN))
            .await?;
        let who = format!("{name}/admin");
        for log in [&operator, &acme.admin] {
            eventually(&who, async || {
                let found = findings(log).await?;
                Ok(found
                    .iter()
                    .filter(|one| one["rule"] == "isolation-violation" && one["actor"] == who.as_str())
                    .count()
                    == 1)
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_rule_of_ones_own_is_in_force_for_the_next_event_and_a_wrong_one_names_its_place() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let rule = "title: A secret was set\nname: secret-set\nlogsource: {product: ringfence, service: audit}\n\
        detection: {set: {unmapped.code|startswith: SEC-001, status: Success}, condition: set}\nlevel: low\n";
    let wrong = rule.replace("|startswith", "|base64");
    let path = "/security/rules/secret-set";
    let (code, body) = problem(acme.admin.put(path).json(&json!({ "text": wrong })).send().await?).await?;
    assert_eq!((code, body["code"].as_str()), (422, Some("bad-rule")));
    assert!(string(&body, "detail")?.contains("detection.set.unmapped.code|base64"), "{body}");
    answer(acme.admin.put(path).json(&json!({ "text": rule })).send().await?).await?;
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let found = wait_for(&acme.admin, "secret-set").await?;
    assert_eq!((found["rule_owner"].as_str(), found["actor"].as_str()), (Some("acme"), Some("acme/admin")));
    assert!(findings(&operator).await?.iter().all(|finding| finding["rule"] != "secret-set"));
    // After a restart the rule and the finding are still there.
    let key = acme.admin.key.clone();
    host.stop()?;
    let host = Host::start(&place)?;
    let admin = host.sign_in(&key).await?;
    assert_eq!(findings(&admin).await?.iter().filter(|finding| finding["rule"] == "secret-set").count(), 1);
    assert_eq!(admin.delete(path).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(admin.delete(path).send().await?.status(), StatusCode::NOT_FOUND);
    assert_eq!(admin.delete("/security/rules/canary").send().await?.status(), StatusCode::NOT_FOUND, "not one's own");
    Ok(())
}

#[tokio::test]
async fn nobody_has_the_rules_of_a_tenant_count_from_nothing_by_enabling_what_is_enabled() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let one = "title: A secret was set\nname: secret-set\nlogsource: {product: ringfence, service: audit}\n\
        detection: {set: {unmapped.code|startswith: SEC-001, status: Success}, condition: set}\nlevel: low\n";
    let two = format!(
        "{one}---\ntitle: Two were set\nname: two-set\nlevel: low\n\
        correlation: {{type: event_count, rules: secret-set, timespan: 1h, condition: {{gte: 2}}}}\n"
    );
    for (name, text) in [("secret-set", one), ("secrets-set", two.as_str())] {
        let path = format!("/security/rules/{name}");
        answer(acme.admin.put(&path).json(&json!({ "text": text })).send().await?).await?;
    }
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    wait_for(&acme.admin, "secret-set").await?;
    answer(acme.admin.post("/tenants/acme/keys/enable").send().await?).await?;
    answer(acme.admin.put(&acme.path("/secrets/b")).body("value").send().await?).await?;
    wait_for(&acme.admin, "secrets-set").await?;
    Ok(())
}

#[tokio::test]
async fn an_old_finding_is_tied_to_the_text_that_made_it_whatever_became_of_the_rule() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let text = |title: &str, code: &str| {
        format!(
            "title: {title}\nname: secret-set\nlogsource: {{product: ringfence, service: audit}}\n\
            detection: {{set: {{unmapped.code|startswith: {code}, status: Success}}, condition: set}}\nlevel: low\n"
        )
    };
    let (first, blind) = (text("A secret was set", "SEC-001"), text("Nothing ever", "NIL-999"));
    let path = "/security/rules/secret-set";
    let put = async |who: &Session, text: &str, base: &str| {
        who.put(path).header("if-match", base).json(&json!({ "text": text })).send().await
    };
    assert_eq!(put(&acme.admin, &first, "\"1\"").await?.status(), StatusCode::PRECONDITION_FAILED);
    let made = put(&acme.admin, &first, "\"0\"").await?;
    assert_eq!(made.headers().get("etag").and_then(|tag| tag.to_str().ok()), Some("\"1\""));
    let made = answer(made).await?;
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let found = wait_for(&acme.admin, "secret-set").await?;
    assert_eq!((&found["rule_version"], &found["rule_digest"]), (&json!(1), &made["digest"]), "{found}");

    // Overwritten with one that never fires: on the log with what it was, found, and the earlier text is kept.
    assert!(findings(&acme.admin).await?.iter().all(|one| one["rule"] != "detection-weakened"));
    let (status, stale) = problem(put(&acme.admin, &blind, "\"0\"").await?).await?;
    assert_eq!((status, stale["code"].as_str()), (412, Some("precondition-failed")), "{stale}");
    let second = answer(put(&acme.admin, &blind, "\"1\"").await?).await?;
    wait_for(&acme.admin, "detection-weakened").await?;
    let trail = answer(acme.admin.get("/audit/trails/acme?code=THR-007&outcome=success").send().await?).await?;
    let details: Vec<&Value> =
        trail["events"].as_array().context("events")?.iter().map(|one| &one["body"]["unmapped"]["details"]).collect();
    let last = details.last().context("an entry")?;
    assert_eq!((&last["version"], &last["digest"]), (&json!(2), &second["digest"]), "{last}");
    assert_eq!(last["replaced"], json!({ "version": 1, "digest": made["digest"] }), "{last}");
    assert_eq!(acme.admin.delete(path).send().await?.status(), StatusCode::NO_CONTENT);
    let key = acme.admin.key.clone();
    host.stop()?;
    let host = Host::start(&place)?;
    let admin = host.sign_in(&key).await?;
    let third = answer(admin.put(path).json(&json!({ "text": first })).send().await?).await?;
    assert_eq!((&third["version"], &third["digest"]), (&json!(3), &made["digest"]), "a deleted name counts on");
    let kept = answer(admin.get(&format!("{path}/versions")).send().await?).await?;
    let texts: Vec<(u64, &str)> = kept["items"]
        .as_array()
        .context("items")?
        .iter()
        .filter_map(|one| Some((one["version"].as_u64()?, one["text"].as_str()?)))
        .collect();
    assert_eq!(texts, [(3, first.as_str()), (2, blind.as_str()), (1, first.as_str())]);
    Ok(())
}

#[tokio::test]
async fn settings_of_detection_are_on_the_log_whole_and_one_who_weakens_them_is_found() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let hours = json!({ "time_zone": "UTC", "from_hour": 0, "to_hour": 24, "days": [1, 2, 3, 4, 5, 6, 7] });
    let set = json!({ "automatic": ["canary"], "canaries": ["id-rsa"], "working_hours": hours });
    answer(acme.admin.put("/security/settings").json(&set).send().await?).await?;
    let logged = async || -> Result<Value> {
        let trail = answer(acme.admin.get("/audit/trails/acme?code=THR-007&outcome=success").send().await?).await?;
        let last = trail["events"].as_array().context("events")?.last().context("an entry")?.clone();
        Ok(last["body"]["unmapped"]["details"].clone())
    };
    let details = logged().await?;
    assert_eq!((&details["settings"]["canaries"], &details["weakened_by_one"]), (&set["canaries"], &json!(false)));
    assert_eq!(details["settings"]["working_hours"]["to_hour"], 24, "{details}");
    assert!(findings(&acme.admin).await?.iter().all(|one| one["rule"] != "detection-weakened"));
    let none = json!({ "working_hours": hours, "canaries": ["id-rsa"] });
    answer(acme.admin.put("/security/settings").json(&none).send().await?).await?;
    wait_for(&acme.admin, "detection-weakened").await?;
    let details = logged().await?;
    assert_eq!(details["weakened"], json!(["`canary` acts no longer by itself"]), "{details}");
    Ok(())
}

#[tokio::test]
async fn a_finding_lowers_the_trust_score_of_whoever_it_is_about_and_of_nobody_else() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let other = acme.member(&host, "other", "tenant-admin").await?;
    let rule = "title: A secret was set\nname: secret-set\nlogsource: {product: ringfence, service: audit}\n\
        detection: {set: {unmapped.code|startswith: SEC-001, status: Success}, condition: set}\nlevel: high\n";
    answer(other.put("/security/rules/secret-set").json(&json!({ "text": rule })).send().await?).await?;
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let open_findings = async |who: &Session| -> Result<usize> {
        let score = answer(who.get("/zero-trust/trust-score").send().await?).await?;
        let signals = score["signals"].as_array().context("signals")?.clone();
        Ok(signals.iter().filter(|signal| signal["effect"] == -60 && signal["value"] == "high").count())
    };
    eventually("the score falls", async || Ok(open_findings(&acme.admin).await? == 1)).await?;
    assert_eq!(open_findings(&other).await?, 0);
    Ok(())
}

#[tokio::test]
async fn intelligence_is_matched_looked_back_for_and_shown_as_its_marking_lets() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let marked = |number: u8, pattern: &str, mark: &str| {
        let marks = if mark.is_empty() { json!([]) } else { json!([format!("marking-definition--{mark}")]) };
        json!({
            "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{number}"), "pattern_type": "stix",
            "pattern": pattern, "valid_from": "2020-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z",
            "name": format!("i{number}"), "object_marking_refs": marks,
        })
    };
    let red_of_1 = "5e57c739-391a-4eb3-b6be-7d15ca92d5ed";
    let indicator = |number, pattern, red| marked(number, pattern, if red { red_of_1 } else { "" });
    let bundle = json!({ "type": "bundle", "id": "bundle--1", "objects": [
        indicator(1, "[user-account:account_login = 'acme/admin']", false),
        indicator(2, "[process:name = 'x']", false),
        indicator(3, "[ipv4-addr:value = '10.0.0.1']", false),
        indicator(4, "[user-account:account_login = 'acme/nobody']", true),
    ] });
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let own = answer(acme.admin.post("/security/threat-intelligence?feed=partner").json(&bundle).send().await?).await?;
    assert_eq!((own["matched_count"].as_u64(), own["unmatched_pattern_count"].as_u64()), (Some(2), Some(1)));
    assert_eq!(own["not_used_count"], 1);
    assert!(own["sightings_count"].as_u64().context("sightings")? >= 1, "{own}");
    answer(acme.admin.put(&acme.path("/secrets/b")).body("value").send().await?).await?;
    let found = wait_for(&acme.admin, "indicator").await?;
    assert_eq!(found["group"][0], json!(["indicator", "indicator--1"]));
    let given = answer(acme.admin.get("/security/findings?format=stix").send().await?).await?;
    let notes = given["objects"].as_array().context("objects")?.iter().filter(|one| one["type"] == "note");
    let red = format!("marking-definition--{}", "e828b379-4e03-4974-9ac4-e53a884c97c1");
    let told = |one: &&Value| one["abstract"] == found["title"] && one["object_marking_refs"] == json!([red]);
    assert_eq!(notes.filter(told).count(), 1, "{given}");
    for wrong in ["format=csv", "format=stix&follow=true"] {
        let (status, _) = problem(acme.admin.get(&format!("/security/findings?{wrong}")).send().await?).await?;
        assert_eq!(status, 400, "{wrong}");
    }
    // What an operator loads is shown to tenants, but not what is marked red.
    answer(operator.post("/security/threat-intelligence").json(&bundle).send().await?).await?;
    let nobody = "[user-account:account_login = 'acme/nobody']";
    let (green, strict) = ("bab4a63c-aed9-4cf5-a766-dfca5abac2bb", "939a9414-2ddd-4d32-a0cd-375ea402b003");
    let bundle = json!({ "type": "bundle", "id": "bundle--2", "objects": [
        marked(5, nobody, "e828b379-4e03-4974-9ac4-e53a884c97c1"), marked(6, nobody, strict),
        marked(7, nobody, "of-another-page"), marked(8, nobody, green),
    ] });
    answer(operator.post("/security/threat-intelligence").json(&bundle).send().await?).await?;
    let globex = host.tenant(&operator, "globex").await?;
    let shown = answer(globex.admin.get("/security/threat-intelligence").send().await?).await?;
    let ids: Vec<&str> =
        shown["objects"].as_array().context("objects")?.iter().filter_map(|one| one["id"].as_str()).collect();
    for (number, is_shown) in [(1, true), (4, false), (5, false), (6, false), (7, false), (8, true)] {
        assert_eq!(ids.contains(&format!("indicator--{number}").as_str()), is_shown, "{number}: {ids:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_incident_goes_its_way_and_what_takes_two_people_waits_for_the_second() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let key_of_same = acme.member(&host, "spare", "tenant-admin").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let step = async |who: &Session, body: Value| -> Result<(u16, Value)> {
        let response = who.request(Method::POST, "/security/incident-response").json(&body).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await?))
    };
    let (code, opened) =
        step(&acme.admin, json!({ "transition": "report", "title": "a key was lost", "reason": "told" })).await?;
    assert_eq!((code, opened["state"].as_str()), (200, Some("reported")), "{opened}");
    let id = string(&opened, "incident_id")?;
    let to = |transition: &str| json!({ "incident_id": id, "transition": transition, "reason": "because" });
    let (code, refused) = step(&acme.admin, to("contain")).await?;
    assert_eq!((code, refused["code"].as_str()), (409, Some("bad-transition")));
    // What is no word is told with those that are, and is no step that does not follow.
    let mut silly = to("triage");
    silly["level"] = json!("silly");
    let mut nowhere = to("triage");
    nowhere["jurisdictions"] = json!(["EU"]);
    for (body, says) in [(to("fly"), "`eradicate`"), (silly, "`critical`"), (nowhere, "`eu`")] {
        let (code, refused) = step(&acme.admin, body).await?;
        assert_eq!((code, refused["code"].as_str()), (422, Some("bad-step")), "{refused}");
        assert!(string(&refused, "detail")?.contains(says), "{refused}");
    }
    step(&acme.admin, to("triage")).await?;
    let mut declare = to("declare");
    declare["jurisdictions"] = json!(["uk"]);
    let (_, declared) = step(&acme.admin, declare).await?;
    assert_eq!(declared["clocks"].as_array().context("clocks")?.len(), 2);
    let mut contain = to("contain");
    contain["actions"] = json!([
        { "kind": "disable-key", "target": {}, "reason": "stop everything" },
        { "kind": "rate-limit", "target": { "principal": "acme/spare" }, "per_minute": 9000, "reason": "slowly" },
        { "kind": "rate-limit", "target": { "principal": "acme/ann" }, "per_minute": 9000, "reason": "slowly" },
    ]);
    let (_, contained) = step(&acme.admin, contain).await?;
    let action = string(&contained["waiting"][0], "id")?;
    // Each action is on the record as it would be without an incident: what is about keys on the host's log.
    let asked = logged(&operator, "/audit", "THR-012").await?;
    for status in ["Intended", "Success"] {
        let details = &asked.iter().find(|(found, _)| found == status).context(status)?.1;
        assert_eq!((&details["response"], &details["incident"]), (&json!(action), &json!(id)), "{details}");
        assert_eq!((&details["kind"], &details["minutes"]), (&json!("disable-key"), &json!(60)), "{details}");
        assert_eq!(details["target"], json!({ "tenant": "acme" }), "{details}");
    }
    let own = logged(&acme.admin, "/tenants/acme/audit", "THR-004").await?;
    let made: Vec<&Value> = own
        .iter()
        .filter(|(status, _)| status == "Success")
        .map(|(_, details)| &details["target"]["principal"])
        .collect();
    assert_eq!(made, ["acme/spare", "acme/ann"], "{own:?}");
    assert!(own.iter().all(|(_, details)| details["incident"] == id.as_str()), "{own:?}");
    let mut approve = to("approve-action");
    approve["evidence"] = json!([action]);
    for same in [&acme.admin, &key_of_same] {
        let (code, refused) = step(same, approve.clone()).await?;
        assert_eq!((code, refused["code"].as_str()), (409, Some("second-person-needed")), "{refused}");
    }
    let read = answer(acme.admin.get(&format!("/security/incidents/{id}")).send().await?).await?;
    assert_eq!(read["drafts"][1]["missing"].as_array().context("missing")?.len(), 8);
    assert_eq!(step(&second, approve).await?.0, 200);
    assert_eq!(acme.admin.get(&acme.path("/plugins")).send().await?.status(), StatusCode::LOCKED);
    let agreed = logged(&operator, "/audit", "THR-004").await?;
    let (_, details) = agreed.iter().find(|(status, _)| status == "Success").context("the keys are disabled")?;
    assert_eq!((&details["response"], &details["incident"]), (&json!(action), &json!(id)), "{details}");
    assert_eq!((&details["kind"], &details["asked_by"]), (&json!("disable-key"), &json!("acme/admin")), "{details}");
    // The step itself was kept, and its end written, before the keys closed the tenant's log.
    undo(&operator, &json!({ "id": action })).await?;
    let steps = logged(&acme.admin, "/tenants/acme/audit", "THR-010").await?;
    let is_agreed =
        |(status, details): &(String, Value)| status == "Success" && details["transition"] == "approve-action";
    assert!(steps.iter().any(is_agreed), "{steps:?}");
    let read = answer(acme.admin.get(&format!("/security/incidents/{id}")).send().await?).await?;
    assert_eq!(read["incident"]["steps"][4]["transition"], "approve-action", "{read}");
    Ok(())
}

#[tokio::test]
async fn an_incident_is_not_closed_by_another_key_of_who_declared_it() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let key_of_same = acme.member(&host, "spare", "tenant-admin").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let step = async |who: &Session, body: Value| who.post("/security/incident-response").json(&body).send().await;
    let open = json!({ "transition": "report", "title": "a key was lost", "reason": "told" });
    let id = string(&answer(step(&acme.admin, open).await?).await?, "incident_id")?;
    let to = |transition: &str| json!({ "incident_id": id, "transition": transition, "reason": "because" });
    for transition in ["triage", "declare", "contain", "eradicate", "recover"] {
        answer(step(&acme.admin, to(transition)).await?).await?;
    }
    for same in [&acme.admin, &key_of_same] {
        let (status, refused) = problem(step(same, to("close")).await?).await?;
        assert_eq!((status, refused["code"].as_str()), (409, Some("second-person-needed")), "{refused}");
    }
    assert_eq!(answer(step(&second, to("close")).await?).await?["state"], "closed");
    Ok(())
}

#[tokio::test]
async fn no_rule_that_one_person_writes_disables_keys_by_itself() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let rule = "title: A secret was set\nname: secret-set\nlogsource: {product: ringfence, service: audit}\n\
        detection: {set: {unmapped.code|startswith: SEC-001, status: Success}, condition: set}\nlevel: high\n\
        ringfence: {response: {kind: disable-key, minutes: 5}}\n";
    answer(acme.admin.put("/security/rules/secret-set").json(&json!({ "text": rule })).send().await?).await?;
    let settings = json!({ "automatic": ["secret-set"] });
    answer(acme.admin.put("/security/settings").json(&settings).send().await?).await?;
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let found = wait_for(&acme.admin, "secret-set").await?;
    assert!(found["response"].is_null(), "{found}");
    answer(acme.admin.get(&acme.path("/plugins")).send().await?).await?;
    Ok(())
}

#[tokio::test]
async fn a_drill_finds_every_shipped_rule_and_lets_go_of_what_it_held() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let drill = answer(acme.admin.post("/security/drills").json(&json!({})).send().await?).await?;
    let missed: Vec<&Value> =
        drill["rules"].as_array().context("rules")?.iter().filter(|one| one["detected"] == false).collect();
    assert!(missed.is_empty(), "{missed:?}");
    assert!(drill["played_count"].as_u64().context("played")? >= 20 && drill["not_played"] == json!(["clock-stepped"]));
    assert!(drill["respond_us"]["count"].as_u64().context("answered")? >= 5, "{drill}");
    let held = answer(acme.admin.get("/security/responses").send().await?).await?;
    assert!(held["items"].as_array().context("items")?.iter().all(|one| one["state"] == "undone"), "{held}");
    assert!(findings(&acme.admin).await?.iter().all(|finding| !finding["drill"].is_null()));
    // What the owner's settings do not let a rule do is said of the drill, and warns nobody of an attack.
    let unmade = async || Ok(host.stderr().contains("a rule's response was not made in a drill"));
    eventually("the host's log tells of it", unmade).await?;
    let stderr = host.stderr();
    let warned: Vec<&str> = stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert!(!warned.iter().any(|line| line.contains("response")), "{warned:?}");
    Ok(())
}
