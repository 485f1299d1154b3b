//! What is said of how a place stands: each line is known by somebody, moves when what it is about does, and is nobody
//! else's.

use anyhow::{Context, Result};
use ringfence_tests::{Session, answer, eventually};
use serde_json::{Value, json};

use crate::started;

async fn posture(who: &Session) -> Result<Value> {
    let shown = answer(who.get("/zero-trust/security-posture").send().await?).await?;
    let lines = shown["checks"].as_array().context("no lines")?;
    for line in lines {
        let state = line["state"].as_str().unwrap_or_default();
        assert!(matches!(state, "pass" | "fail" | "unknown" | "shown"), "{line}");
        for key in ["check", "value", "source"] {
            assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{line}");
        }
        assert!(
            state != "unknown" || line["age_seconds"].is_null() || line["check"].as_str().is_some_and(is_own),
            "{line}"
        );
    }
    for state in ["pass", "fail", "unknown", "shown"] {
        let count = lines.iter().filter(|line| line["state"] == state).count();
        assert_eq!(shown["counts"][state].as_u64(), Some(count as u64), "{shown}");
    }
    Ok(shown)
}

/// A check of the tenant's own can have come to `unknown`, at a time that is known.
fn is_own(check: &str) -> bool {
    check.starts_with("check:")
}

fn state<'a>(shown: &'a Value, check: &str) -> Result<&'a str> {
    let mut lines = shown["checks"].as_array().into_iter().flatten();
    let line = lines.find(|line| line["check"] == check);
    line.and_then(|line| line["state"].as_str()).with_context(|| format!("no line `{check}` in {shown}"))
}

#[tokio::test]
async fn a_tenant_sees_its_own_posture_and_each_line_follows_what_it_is_about() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let before = posture(&acme.admin).await?;
    for (check, expected) in [
        ("audit-writable", "pass"),
        ("trust-thresholds", "fail"),
        ("unbound-tokens", "fail"),
        ("second-factors", "unknown"),
        ("keys-end", "fail"),
        ("newest-backup", "fail"),
        ("backups-drilled", "fail"),
        ("lowest-session-score", "shown"),
    ] {
        assert_eq!(state(&before, check)?, expected, "{check}: {before}");
    }
    let asks = json!({ "thresholds": { "floor": 0, "invoke": 0, "read": 0, "change": 0, "administer": 5 } });
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    host.person(&acme.admin, "/tenants/acme/people", "ann", "auditor").await?;
    answer(acme.admin.post("/tenants/acme/backups").json(&json!({})).send().await?).await?;
    let check = json!({ "id": "n", "rule": "facts.now_ms > 0" });
    answer(acme.admin.put("/audit/compliance-check").json(&check).send().await?).await?;
    let unrun = posture(&acme.admin).await?;
    assert_eq!((state(&unrun, "trust-thresholds")?, state(&unrun, "second-factors")?), ("pass", "fail"), "{unrun}");
    assert_eq!(state(&unrun, "check:n")?, "unknown", "it was never run: {unrun}");
    answer(acme.admin.post("/audit/compliance-checks/n/run").json(&json!({})).send().await?).await?;
    assert_eq!(state(&posture(&acme.admin).await?, "check:n")?, "pass");
    eventually("a backup", async || Ok(state(&posture(&acme.admin).await?, "newest-backup")? != "fail")).await?;
    let other = posture(&globex.admin).await?;
    assert_eq!((other["place"].as_str(), state(&other, "trust-thresholds")?), (Some("globex"), "fail"));
    assert!(state(&other, "check:n").is_err() && !other.to_string().contains("acme"), "{other}");
    let developer = acme.member(&host, "dev", "developer").await?;
    assert_eq!(developer.get("/zero-trust/security-posture").send().await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn operators_see_the_hosts_posture_and_nothing_of_a_tenant() -> Result<()> {
    let (_place, host, operator) = started().await?;
    host.tenant(&operator, "acme").await?;
    let shown = posture(&operator).await?;
    assert_eq!(shown["place"], "host");
    assert_eq!((state(&shown, "root-key")?, state(&shown, "trust-thresholds")?), ("fail", "fail"), "{shown}");
    let mut lines = shown["checks"].as_array().into_iter().flatten();
    let root = lines.find(|line| line["check"] == "root-key").and_then(|line| line["value"].as_str());
    assert!(root.is_some_and(|value| value.ends_with("(file, for development)")), "{shown}");
    assert_eq!(state(&shown, "certificate")?, "unknown", "a host without TLS of its own has none: {shown}");
    assert!(!shown.to_string().contains("acme"), "{shown}");
    Ok(())
}
