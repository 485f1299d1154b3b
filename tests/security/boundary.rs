//! The tenant boundary, over every endpoint of the description: a stranger, a member of another tenant, each role.

use anyhow::{Context, Result};
use reqwest::Method;
use ringfence_tests::{Session, root};
use serde_json::{Value, json};

use crate::started;

/// What anybody may ask: the two doors of signing in.
pub(crate) const PUBLIC: [&str; 3] =
    ["/zero-trust/authenticate", "/zero-trust/passkeys/sign-in", "/zero-trust/federation/sign-in"];

/// Endpoints that the matrix of roles leaves out, and why.
pub const NO_ROW: [(&str, &str); 7] = [
    ("DELETE /api/v1/tenants/{tenant}", "it would take away what the rest of the table is about"),
    ("POST /api/v1/tenants/{tenant}/suspend", "likewise"),
    ("POST /api/v1/tenants/{tenant}/keys/disable", "likewise"),
    ("POST /api/v1/tenants/{tenant}/keys/destroy/approve", "likewise"),
    ("POST /api/v1/zero-trust/authenticate", "everybody's: the doors of signing in"),
    ("POST /api/v1/zero-trust/passkeys/sign-in", "likewise"),
    ("POST /api/v1/zero-trust/federation/sign-in", "likewise"),
];

/// Every endpoint under `/api/v1`, as the matrix of roles calls it.
pub fn labels() -> Result<Vec<String>> {
    Ok(operations("acme")?.into_iter().map(|(_, _, label)| label).collect())
}

/// Every operation of the control plane, its path filled in for a tenant.
pub(crate) fn operations(tenant: &str) -> Result<Vec<(Method, String, String)>> {
    let text: Value = serde_json::from_str(&ringfence_control::openapi())?;
    let mut found = Vec::new();
    for (path, methods) in text["paths"].as_object().context("paths")? {
        for method in methods.as_object().context("methods")?.keys().filter(|key| key.len() <= 6) {
            let filled = path
                .replace("{tenant}", tenant)
                .replace("{plugin}", "hello")
                .replace("{version}", "9.9.9")
                .replace("{capability}", "keyvalue")
                .replace("{name}", "n")
                .replace("{device}", "laptop")
                .replace("{subject}", "ann")
                .replace("{invocation}", "i_aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .replace("{day}", "2026-11-20")
                .replace("{backup}", "b_aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .replace("{job}", "j_aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .replace("{seq}", "0")
                .replace("{package}", "nothing")
                .replace("{check}", "nothing")
                .replace("{hold}", "h_0000000000000000")
                .replace("{path}", "checkpoint")
                .replace("{run}", "run_aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .replace("{review}", "rv_aaaaaaaaaaaaaaaaaaaaaaaaaa")
                .replace("{item}", "0")
                .replace("{place}", "0000000000000000")
                .replace("{id}", "nothing");
            if let Some(rest) = filled.strip_prefix("/api/v1") {
                let label = format!("{} {path}", method.to_uppercase());
                found.push((Method::from_bytes(method.to_uppercase().as_bytes())?, rest.to_owned(), label));
            }
        }
    }
    Ok(found)
}

/// A body that the endpoint could act on, so that a refusal is the policy's and not the parser's.
pub fn body_for(path: &str) -> Value {
    match path.rsplit('/').next() {
        Some("tenants") => json!({ "name": "made" }),
        Some("tokens" | "people") => {
            json!({ "name": "k", "role": if path.contains("/tenants/") { "caller" } else { "operator" } })
        }
        Some("challenge") => json!({ "purpose": "register" }),
        Some("confirm") => json!({ "code": "000000" }),
        Some("password") => json!({ "new": "a long new password" }),
        Some("passkeys") => json!({ "ceremony": "none", "name": "k", "answer": {} }),
        Some("step-up") => json!({ "method": "code", "code": "000000" }),
        Some("devices") => json!({ "name": "laptop" }),
        Some("device-verification") => {
            json!({ "device_id": "laptop", "nonce": "none", "format": "posture", "evidence": "x" })
        }
        Some("trust") if !path.contains("/tenants/") => json!({
            "sessions": { "thresholds": { "floor": 0, "invoke": 0, "read": 0, "change": 0, "administer": 0 } },
            "unbound_tokens": "allowed",
        }),
        Some("trust") => {
            json!({ "thresholds": { "floor": 0, "invoke": 0, "read": 0, "change": 0, "administer": 0 } })
        }
        Some("risk-adjustment") => {
            json!({ "subject": "acme/x", "delta": -1, "reason": "a look", "expires_at": "2126-01-01T00:00:00Z" })
        }
        Some("deploy") => json!({ "version": "0.1.0" }),
        Some("policy" | "ceiling" | "access-policy") => json!({ "text": "" }),
        Some("elevations") => json!({ "role": "developer", "minutes": 5, "reason": "a look" }),
        Some("reviews") => {
            json!({ "title": "all", "reviewers": ["acme/x"], "due_at": "2126-01-01T00:00:00Z" })
        }
        Some("0") if path.contains("/items/") => json!({ "choice": "escalate", "reason": "a look" }),
        Some("n") if path.contains("/sign-in/providers/") => json!({
            "name": "n", "issuer": "https://id.example", "client_id": "ringfence",
            "redirect_uris": ["http://127.0.0.1/callback"],
            "roles": [{ "claim": "groups", "value": "devs", "role": "developer" }],
        }),
        Some("restores") => {
            json!({ "tenant_uid": "0".repeat(32), "backup": "b_aaaaaaaaaaaaaaaaaaaaaaaaaa", "into": "made", "recovery_key": "k" })
        }
        Some("compliance-check") => json!({ "id": "n", "rule": "facts.now_ms > 0" }),
        Some("host-calls") => json!({ "host_calls": { "http": "none" } }),
        Some("remediation-action") => json!({ "violation_id": "nothing", "action": "start" }),
        Some("retention") => json!({ "retention_days": 2557 }),
        // Without a reason, so that nothing of the rest is held or erased.
        Some("holds") => json!({ "reason": "" }),
        Some("erasures") => json!({ "seq": 0, "reason": "" }),
        Some("log-event") => json!({ "code": "order-placed", "message": "m" }),
        Some("sign-in") => json!({ "unbound_tokens": "allowed" }),
        Some("quota") => json!({}),
        Some("fields") => json!({ "rules": [] }),
        Some("runs") => json!({ "plugin": "hello" }),
        Some("signal") => json!({ "name": "go" }),
        Some("approve") if path.contains("/runs/") => json!({ "name": "payment", "approved": true }),
        Some("keyvalue") => json!({ "scope": ["default"] }),
        Some("n") if path.starts_with("/hooks") => json!({
            "mode": "validate", "payload": {}, "deadline_ms": 1000, "on_failure": "open", "result_bytes_max": 1000,
            "binders": "several",
        }),
        Some("n") if path.contains("/queues/") => json!({}),
        Some("discard") => json!({ "all": true }),
        Some("n") if path.contains("/hooks/") => json!({ "payload": {} }),
        Some("n") if path.contains("/schedules/") => json!({ "plugin": "hello", "cron": "0 0 * * *" }),
        Some("n") if ["/streams/", "/channels/", "/feeds/"].iter().any(|part| path.contains(part)) => json!({}),
        Some("n") => json!({ "value": "v" }),
        _ => json!({}),
    }
}

pub(crate) async fn send(who: &Session, method: &Method, path: &str) -> Result<(u16, Value)> {
    let mut request = who.request(method.clone(), path);
    if matches!(*method, Method::POST | Method::PUT) {
        request = request.json(&body_for(path));
    }
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok((status, serde_json::from_str(&response.text().await?).unwrap_or(Value::Null)))
}

#[tokio::test]
async fn no_endpoint_answers_a_stranger() -> Result<()> {
    let (_place, host, operator) = started().await?;
    host.tenant(&operator, "acme").await?;
    for (method, path, label) in operations("acme")? {
        if PUBLIC.contains(&path.as_str()) {
            continue;
        }
        let (status, answer) = send(&host.anonymous(), &method, &path).await?;
        assert_eq!((status, answer["code"].as_str()), (401, Some("unauthenticated")), "{label}");
        let (status, _) = send(&host.session("eyJ.not.atoken".to_owned()), &method, &path).await?;
        assert_eq!(status, 401, "{label}");
    }
    Ok(())
}

#[tokio::test]
async fn another_tenants_things_are_the_same_404_as_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let mut count = 0;
    for ((method, theirs, label), (_, nobodys, _)) in operations("acme")?.into_iter().zip(operations("nobody")?) {
        if !theirs.starts_with("/tenants/acme") {
            continue;
        }
        let (status, mut real) = send(&globex.admin, &method, &theirs).await?;
        let (absent_status, mut absent) = send(&globex.admin, &method, &nobodys).await?;
        for answer in [&mut real, &mut absent] {
            if let Some(fields) = answer.as_object_mut() {
                assert!(fields.remove("request_id").is_some(), "{label}");
            }
        }
        assert_eq!((status, absent_status), (404, 404), "{label}: {real} {absent}");
        assert_eq!(real, absent, "{label}");
        count += 1;
    }
    assert!(count >= 20, "{count} endpoints of a tenant");
    // What was tried is on the victim's log, at the host's next beat.
    ringfence_tests::eventually("what was tried on the victim's log", async || {
        let page = ringfence_tests::answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?;
        let items = page["items"].as_array().context("entries")?;
        Ok(items.iter().any(|item| item["envelope"].as_str().is_some_and(|envelope| envelope.contains("TEN-900"))))
    })
    .await?;
    Ok(())
}

/// What each role may do at each endpoint, as one table that a person can read: tests/golden/roles.txt. Change it with
/// `RINGFENCE_GOLDEN=write`.
#[tokio::test]
async fn the_role_by_endpoint_matrix_is_the_golden_one() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let mut people: Vec<(&str, Session)> = vec![("operator", operator.clone()), ("tenant-admin", acme.admin.clone())];
    for role in ["developer", "auditor", "caller"] {
        people.push((role, acme.member(&host, role, role).await?));
    }
    let mut lines =
        vec![format!("{:<62} {}", "endpoint", people.iter().map(|(role, _)| *role).collect::<Vec<_>>().join(" "))];
    for (method, path, label) in operations("acme")? {
        if is_apart(&label) {
            continue;
        }
        let mut row = Vec::new();
        for (role, who) in &people {
            let (status, answer) = send(who, &method, &path).await?;
            let verdict = match (status, answer["code"].as_str()) {
                (403, Some("denied")) => "no",
                (404, Some("not-found"))
                    if answer["detail"] == "there is no such thing here" && *role == "operator" =>
                {
                    "hidden"
                }
                (401, _) => "401",
                _ => "yes",
            };
            row.push(format!("{verdict:<w$}", w = role.len()));
        }
        lines.push(format!("{label:<62} {}", row.join(" ").trim_end()));
    }
    golden("roles.txt", &(lines.join("\n") + "\n"))
}

/// Whether the matrix of roles leaves it out.
pub(crate) fn is_apart(label: &str) -> bool {
    NO_ROW.iter().any(|(left_out, _)| *left_out == label)
}

fn golden(name: &str, text: &str) -> Result<()> {
    let path = root().join("tests/golden").join(name);
    if std::env::var_os("RINGFENCE_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::create_dir_all(path.parent().context("a golden file has a directory")?)?;
        std::fs::write(&path, text)?;
    }
    let kept = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    assert_eq!(kept, text, "tests/golden/{name} differs; if that is meant, write it anew");
    Ok(())
}
