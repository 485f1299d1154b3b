//! What people look at: whoami, host, lists, audit log, OpenAPI.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_audit::{Entry, verify};
use ringfence_tests::{Tenant, answer, problem, ringfence, string};
use serde_json::{Value, json};

use crate::started;

#[tokio::test]
async fn a_session_knows_who_it_is() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let me = answer(operator.get("/whoami").send().await?).await?;
    assert_eq!((me["id"].as_str(), me["role"].as_str()), (Some("operator/ada"), Some("operator")));
    let acme = host.tenant(&operator, "acme").await?;
    let me = answer(acme.admin.get("/whoami").send().await?).await?;
    assert_eq!((me["id"].as_str(), me["tenant"].as_str()), (Some("acme/admin"), Some("acme")));
    Ok(())
}

#[tokio::test]
async fn the_enrolment_token_works_once() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let _ = operator;
    assert!(!host.data.join("operator.token").exists());
    let again = json!({ "method": "bootstrap", "token": "guess" });
    let refused = host.anonymous().post("/zero-trust/authenticate").json(&again).send().await?;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn a_revoked_token_stops_the_next_request() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let caller = acme.member(&host, "cal", "caller").await?;
    assert_eq!(caller.fetch("/acme/hello/").await?.0, StatusCode::OK);
    let list = answer(acme.admin.get(&acme.path("/tokens")).send().await?).await?;
    let id = list["items"]
        .as_array()
        .and_then(|items| items.iter().find(|key| key["name"] == "cal"))
        .and_then(|key| key["id"].as_str().map(str::to_owned))
        .unwrap_or_default();
    let gone = acme.admin.delete(&acme.path(&format!("/tokens/{id}"))).send().await?;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(caller.fetch("/acme/hello/").await?.0, StatusCode::UNAUTHORIZED);
    assert_eq!(caller.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn a_suspended_tenant_stops_and_resumes() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    answer(operator.post("/tenants/acme/suspend").send().await?).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::LOCKED);
    answer(operator.post("/tenants/acme/resume").send().await?).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_and_its_name_can_be_used_again_without_its_data() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    acme.fetch("visits", "/a").await?;
    let gone = operator.delete("/tenants/acme").send().await?;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(acme.admin.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(operator.get("/tenants/acme").send().await?.status(), StatusCode::NOT_FOUND);
    let again = host.tenant(&operator, "acme").await?;
    let list = answer(again.admin.get(&again.path("/plugins")).send().await?).await?;
    assert_eq!(list["items"], json!([]));
    again.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    assert_eq!(again.fetch("visits", "/a").await?.1, "1 visit from /a\n");
    Ok(())
}

/// Reads a whole log and its head, as `ringfence audit verify` does.
async fn log_of(tenant: &Tenant) -> Result<(Vec<(String, Value, String)>, Value)> {
    let head = answer(tenant.admin.get(&tenant.path("/audit/checkpoint")).send().await?).await?;
    let size = usize::try_from(head["size"].as_u64().unwrap_or(0))?;
    let mut entries = Vec::new();
    let mut cursor = String::from("0");
    loop {
        let page =
            answer(tenant.admin.get(&tenant.path(&format!("/audit?from={cursor}&limit=50"))).send().await?).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            entries.push((string(item, "envelope")?, item["body"].clone(), string(item, "salt")?));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    // Each page was itself put on the log.
    entries.truncate(size);
    Ok((entries, head))
}

#[tokio::test]
async fn the_audit_log_brackets_what_was_done_and_verifies() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    acme.fetch("hello", "/").await?;
    let (entries, head) = log_of(&acme).await?;
    let deployed: Vec<&Value> =
        entries.iter().map(|entry| &entry.1).filter(|body| body.to_string().contains("version-deployed")).collect();
    assert_eq!(deployed.len(), 2, "an intent and an outcome: {deployed:?}");
    let check = |entries: &[(String, Value, String)]| {
        verify::verify(
            head["origin"].as_str().unwrap_or_default(),
            head["vkey"].as_str().unwrap_or_default(),
            entries.iter().map(|(envelope, body, salt)| Entry {
                envelope: envelope.clone(),
                leaf_hash: String::new(),
                body: Some(body.clone()),
                salt: salt.clone(),
            }),
            head["checkpoint"].as_str().unwrap_or_default(),
            None,
        )
    };
    let size = head["size"].as_u64().unwrap_or_default() as usize;
    let (known, _) = entries.split_at(size.min(entries.len()));
    assert!(check(known).is_ok(), "{:?}", check(known));
    let mut altered = known.to_vec();
    altered[1].1["action"] = json!("nothing");
    assert!(check(&altered).is_err());
    let mut removed = known.to_vec();
    removed.remove(1);
    assert!(check(&removed).is_err());
    let mut swapped = known.to_vec();
    swapped.swap(1, 2);
    assert!(check(&swapped).is_err());
    Ok(())
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() -> Result<()> {
    let mut command = Command::new(ringfence()?);
    command.args(["serve", "--dev", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let out = BufReader::new(child.stdout.take().context("a pipe")?);
    // The last line that it says once it is up.
    let is_up = out.lines().map_while(Result::ok).any(|line| line.trim_start().starts_with("sign in"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)?;
    let log = String::from_utf8(child.wait_with_output()?.stderr)?;
    assert!(is_up && log.contains("draining"), "{log}");
    assert!(!log.contains('\x1b'), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn probes_and_the_description_need_no_token_and_name_no_tenant() -> Result<()> {
    let (_place, host, operator) = started().await?;
    host.tenant(&operator, "zanzibar").await?;
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        let response = reqwest::get(format!("{}{path}", host.control)).await?;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(!response.text().await?.contains("zanzibar"), "{path}");
    }
    let (status, none) = problem(operator.get("/nothing").send().await?).await?;
    assert_eq!((status, string(&none, "code")?.as_str()), (404, "no-endpoint"));
    let page = reqwest::get(format!("{}{}", host.control, string(&none, "type")?)).await?;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.text().await?.contains("the API has no such path"));
    let unknown = reqwest::get(format!("{}/docs/errors/zanzibar", host.control)).await?;
    let (status, unknown) = problem(unknown).await?;
    assert!(status == 404 && !unknown.to_string().contains("zanzibar"), "{status} {unknown}");
    // A path would be a tenant's there.
    let (_, refused) = problem(host.anonymous().call(Method::GET, "/acme/hello/").send().await?).await?;
    assert_eq!(refused["type"], format!("urn:ringfence:error:{}", string(&refused, "code")?));
    let wrong = operator.request(Method::PATCH, "/tenants").send().await?;
    assert_eq!(wrong.status(), StatusCode::METHOD_NOT_ALLOWED);
    Ok(())
}
