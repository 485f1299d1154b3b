//! What the list of audited endpoints says, the log has: every endpoint that does something leaves an entry of its codes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use reqwest::Method;
use ringfence_tests::{Session, answer, root, string};
use serde_json::{Value, json};

use crate::boundary::{self, is_apart, operations};
use crate::started;

/// The codes of each audited endpoint, from the published list.
fn audited() -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(root().join("docs/reference/audit-coverage.md"))?;
    let section = text.split("## Audited endpoints").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = section.context("the list")?.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    Ok(rows
        .map(|(endpoint, cell)| {
            let codes = cell.trim_end_matches(" |").split("; ").filter_map(|part| part.split(' ').next());
            (endpoint.to_owned(), codes.map(str::to_owned).collect())
        })
        .collect())
}

async fn size(who: &Session, path: &str) -> Result<u64> {
    answer(who.get(&format!("{path}/checkpoint")).send().await?).await?["size"].as_u64().context("a size")
}

/// The envelopes of a log from a place on.
async fn envelopes(who: &Session, path: &str, from: u64) -> Result<Vec<String>> {
    let page = answer(who.get(&format!("{path}?from={from}&limit=1000")).send().await?).await?;
    page["items"].as_array().context("items")?.iter().map(|item| string(item, "envelope")).collect()
}

/// Audited endpoints that this test does not bring to an entry, and why: by a part of their place in the list. Whatever of them is
/// done all the same is held to its codes like the rest.
const NOT_REACHED: [(&str, &str); 28] = [
    ("/audit/compliance-checks/{check}/run", "what a check comes to may wait: functional/assurance.rs"),
    ("/audit/erasures", "takes an application's event and two people"),
    ("/holds/{hold}", "named by the host when it was set"),
    ("/audit/remediation-action", "takes a violation: functional/assurance.rs"),
    ("/audit/streams", "takes a receiver: functional/outward.rs"),
    ("/security/channels", "likewise"),
    ("/security/feeds", "likewise"),
    ("/security/responses/{id}", "named by the host when it was made: security/threat.rs"),
    ("/sessions/{id}", "named by the host: security/sessions.rs"),
    ("/tokens/{id}", "likewise: security/tokens.rs"),
    ("/restores", "takes a backup and its recovery key: functional/backups.rs"),
    ("/backups", "takes a backup that is finished: functional/backups.rs"),
    ("/access/reviews", "takes reviewers there are: functional/access.rs"),
    ("/approvals/{id}", "named by the host: functional/policies.rs"),
    ("/elevations", "takes a role that is lent: functional/policies.rs"),
    ("/tenants/{tenant}/hooks/", "takes a plugin with a hook: functional/automation.rs"),
    ("/schedules/{name}", "takes a plugin with a schedule: functional/automation.rs"),
    ("/keys/own", "takes a key provider of the tenant's: functional/keys.rs"),
    ("/keys/enable", "the keys are enabled: functional/keys.rs"),
    ("/keys/destroy", "the hold that was set before stands in its way: functional/keys.rs"),
    ("/audit/evidence-packages/{package}", "named by the host when it was made: functional/audit.rs"),
    ("/rollback", "takes something to go back to: functional/deploys.rs, functional/policies.rs"),
    ("/versions/{version}", "takes a component: functional/uploads.rs"),
    ("/policy/shadow", "takes a candidate: functional/policies.rs"),
    ("/runs", "takes a plugin with workflows: the test below, functional/workflows.rs"),
    ("/damage/{place}", "takes a record that rotted: functional/runs.rs"),
    ("/subjects/{subject}/erase", "takes a person with sealed fields: security/personal.rs"),
    ("/zero-trust/", "people's own: security/people.rs, security/trust.rs"),
];

/// A body with which the endpoint does something, where the one of the boundary's tests leaves it undone.
fn body_for(path: &str) -> Value {
    let rule = "title: t\nname: n\nlogsource: {product: ringfence, service: audit}\n\
        detection: {s: {unmapped.code: none}, condition: s}\n";
    match path {
        "/people" => json!({ "name": "p", "role": "operator" }),
        "/tenants/acme/people" => json!({ "name": "p", "role": "caller" }),
        "/audit/holds" | "/tenants/acme/audit/holds" => json!({ "reason": "a look" }),
        "/security/incident-response" => json!({ "transition": "report", "title": "t", "reason": "a look" }),
        "/security/responses" => json!({
            "kind": "rate-limit", "target": { "principal": "acme/x" }, "per_minute": 9, "minutes": 5, "reason": "a look",
        }),
        "/security/rules/n" => json!({ "text": rule }),
        "/security/settings" => json!({ "automatic": [] }),
        "/security/threat-intelligence" => json!({ "type": "bundle", "id": "bundle--1", "objects": [] }),
        path => boundary::body_for(path),
    }
}

/// Every audited operation, with names of things that are made in the course of it: first what makes something, at last what
/// takes it away.
fn in_order() -> Result<Vec<(Method, String, String)>> {
    let rank = |method: &Method| match method.as_str() {
        "PUT" => 0,
        "POST" => 1,
        "GET" => 2,
        _ => 3,
    };
    let mut all = operations("acme")?;
    all.sort_by_key(|(method, ..)| rank(method));
    for (_, path, _) in &mut all {
        *path = path.replace("/compliance-checks/nothing", "/compliance-checks/n").replace("/people/n", "/people/p");
    }
    Ok(all)
}

#[tokio::test]
async fn every_endpoint_that_does_something_leaves_an_entry_of_the_codes_that_the_list_says() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let (listed, mut missed) = (audited()?, Vec::new());
    for (part, _) in NOT_REACHED {
        assert!(listed.keys().any(|label| label.contains(part)), "`{part}` is of no audited endpoint");
    }
    for (method, path, label) in in_order()? {
        let Some(codes) = listed.get(&label).filter(|_| !is_apart(&label)) else { continue };
        let (mut is_told, mut statuses) = (false, Vec::new());
        for who in [&operator, &acme.admin] {
            let (own, hosts) = (size(&acme.admin, "/tenants/acme/audit").await?, size(&operator, "/audit").await?);
            let mut request = who.request(method.clone(), &path);
            if matches!(method, Method::POST | Method::PUT) {
                request = request.json(&body_for(&path));
            }
            let response = request.send().await?;
            let status = response.status().as_u16();
            let answer: Value = serde_json::from_str(&response.text().await?).unwrap_or(Value::Null);
            let mut entries = envelopes(&operator, "/audit", hosts).await?;
            entries.extend(envelopes(&acme.admin, "/tenants/acme/audit", own).await?);
            // What these readings of the logs leave themselves comes after the request's own.
            let has = |code: &str| entries.iter().any(|entry| entry.contains(&format!("\"{code} ")));
            let told = codes.iter().any(|code| has(code));
            let counted = codes.iter().all(|code| code == "INV-001");
            // It only tells how a session stands, unless it ends one or is shown evidence: security/trust.rs.
            let tells = label.ends_with("/zero-trust/verify-continuous");
            assert!(
                told || counted || tells || !(200..300).contains(&status),
                "{label} was answered with {status} and left none of {codes:?}: {entries:#?}"
            );
            if answer["code"] == "denied" && !counted {
                assert!(has("POL-002"), "{label} was refused, and that is not on the log: {entries:#?}");
            }
            is_told |= told;
            statuses.push((status, answer["code"].clone()));
        }
        if !is_told && !NOT_REACHED.iter().any(|(part, _)| label.contains(part)) {
            missed.push((label, statuses));
        }
    }
    assert!(missed.is_empty(), "these left no entry of their codes, and nothing says why they need not: {missed:#?}");
    Ok(())
}

#[tokio::test]
async fn whoever_reads_what_a_tenant_stored_is_on_its_log() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n", &[("http", &["http://127.0.0.1:9"])])
        .await?;
    let body = json!({ "plugin": "runs", "workflow": "waiter", "input": null });
    let run = string(&answer(acme.admin.post(&acme.path("/runs")).json(&body).send().await?).await?, "id")?;
    answer(acme.admin.put(&acme.path("/queues/work")).json(&json!({})).send().await?).await?;
    for path in [
        format!("/runs/{run}"),
        format!("/runs/{run}/queries/nothing"),
        "/queues/work/dead".to_owned(),
        "/plugins/runs/config".to_owned(),
        "/plugins/runs/logs".to_owned(),
    ] {
        let from = size(&acme.admin, "/tenants/acme/audit").await?;
        let status = acme.admin.get(&acme.path(&path)).send().await?.status().as_u16();
        assert!(status == 200 || path.ends_with("/nothing") && status == 404, "{path}: {status}");
        let page = answer(acme.admin.get(&acme.path(&format!("/audit?from={from}&limit=1000"))).send().await?).await?;
        let bodies = page["items"].as_array().context("items")?;
        let read = bodies.iter().map(|item| &item["body"]).find(|body| {
            body["unmapped"]["code"].as_str().is_some_and(|code| code.starts_with("HST-003"))
                && body["actor"]["user"]["uid"] == "acme/admin"
                && body["unmapped"]["details"]["of"].is_string()
        });
        assert!(read.is_some(), "{path} left no entry: {bodies:#?}");
    }
    Ok(())
}
