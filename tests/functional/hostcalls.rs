//! What a tenant's policy leaves its plugins of what they were granted: tried before it is in force, in force at the next
//! call of a plugin, explained, and gone as soon as it is taken back.

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Tenant, answer, eventually, string};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const POLICY: &str = r#"
@id("invoices-only")
forbid (
    principal == Ringfence::Plugin::"acme/books",
    action in [Ringfence::Action::"read-value", Ringfence::Action::"write-value", Ringfence::Action::"list-values"],
    resource
) unless { context.key like "invoices/*" };

@id("no-webhook-key")
forbid (principal, action == Ringfence::Action::"use-secret", resource == Ringfence::Secret::"acme/webhook-key");

@id("nothing-out")
forbid (principal, action == Ringfence::Action::"send-request", resource)
when { resource.host == "127.0.0.1" && context.path like "/private/*" };
"#;

async fn kv(tenant: &Tenant, query: &str) -> Result<StatusCode> {
    Ok(tenant.fetch("books", &format!("/kv?{query}")).await?.0)
}

async fn set_policy(tenant: &Tenant, text: &str, mode: &str) -> Result<Value> {
    let body = json!({ "text": text, "mode": mode });
    answer(tenant.admin.put(&tenant.path("/policy")).json(&body).send().await?).await
}

/// The audit log's denials of host calls.
async fn denials(tenant: &Tenant) -> Result<Vec<Value>> {
    let log = answer(tenant.admin.get(&tenant.path("/audit?limit=1000")).send().await?).await?;
    let items = log["items"].as_array().context("items")?;
    Ok(items.iter().filter(|item| item.to_string().contains("host-call-denied")).cloned().collect())
}

#[tokio::test]
async fn a_tenants_policy_narrows_what_its_plugins_were_granted_at_their_next_call() -> Result<()> {
    let far_end = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", far_end.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = far_end.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|count| count > 0) {}
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    let place = Place::new()?;
    let config =
        place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", origin.trim_start_matches("http://")))?;
    let host = Host::start_with(&place, &["--config", &config.display().to_string()], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let grants: &[(&str, &[&str])] = &[("keyvalue", &["default"]), ("logging", &[]), ("http", &[&origin])];
    acme.ship("hostile", "books", "", grants).await?;
    let grants: &[(&str, &[&str])] = &[("config", &[]), ("secrets", &["webhook-key"]), ("http", &[&origin])];
    acme.ship("webhook", "webhook", "", grants).await?;
    answer(acme.admin.put(&acme.path("/secrets/webhook-key")).body("shared").send().await?).await?;
    let private = format!("/egress?url={origin}/private/a");
    let hook = async || Ok::<_, anyhow::Error>(acme.admin.call(Method::POST, "/acme/webhook/").send().await?.status());

    // Without a policy, what is granted works.
    for query in ["key=invoices/1&value=a", "key=visits&value=b", "key=visits"] {
        assert_eq!(kv(&acme, query).await?, StatusCode::OK, "{query}");
    }
    assert_eq!(acme.fetch("books", &private).await?, (StatusCode::OK, "status 204\n".to_owned()));
    assert_eq!(hook().await?, StatusCode::UNAUTHORIZED, "it has the secret, and the signature is wrong");

    // A draft is tried on the calls that were made.
    let review = set_policy(&acme, POLICY, "draft").await?["review"].clone();
    let denied = review["newly_denied"].to_string();
    for tried in ["bucket/default visits", "secret/webhook-key", "/private/a", "acme/plugin/books"] {
        assert!(denied.contains(tried), "{tried}: {review}");
    }
    assert!(!denied.contains("invoices/1"), "{review}");

    set_policy(&acme, POLICY, "active").await?;
    assert_eq!(kv(&acme, "key=invoices/1").await?, StatusCode::OK);
    for query in ["key=visits", "key=visits&value=c", ""] {
        assert_eq!(kv(&acme, query).await?, StatusCode::FORBIDDEN, "{query}");
    }
    let refused = acme.fetch("books", &private).await?;
    assert!(refused.0 == StatusCode::BAD_GATEWAY && refused.1.contains("refused"), "{refused:?}");
    let open = acme.fetch("books", &format!("/egress?url={origin}/public")).await?;
    assert_eq!(open.1, "status 204\n");
    assert_eq!(hook().await?, StatusCode::INTERNAL_SERVER_ERROR);

    // Each is on record, and its decision is explained.
    eventually("the denials are on the audit log", async || Ok(denials(&acme).await?.len() >= 5)).await?;
    let text = Value::from(denials(&acme).await?).to_string();
    for seen in ["read-value", "write-value", "list-values", "use-secret", "send-request", "acme/plugin/webhook"] {
        assert!(text.contains(seen), "{seen}: {text}");
    }
    let id = text.split('"').find(|word| word.starts_with("d_") && word.len() == 28).context("a decision")?;
    let why = answer(acme.admin.get(&format!("/decisions/{id}")).send().await?).await?;
    assert!(string(&why, "principal")?.starts_with("acme/plugin/"), "{why}");
    assert_eq!((&why["outcome"], &why["changes"][0]["kind"]), (&json!("deny"), &json!("exception")), "{why}");

    // Taken back, it is gone at the next call; the operator's ceiling narrows the same.
    set_policy(&acme, "", "active").await?;
    assert_eq!(kv(&acme, "key=visits").await?, StatusCode::OK);
    assert_eq!(hook().await?, StatusCode::UNAUTHORIZED);
    let ceiling = json!({ "text": "forbid (principal is Ringfence::Plugin, action, resource is Ringfence::Bucket);" });
    answer(operator.put(&acme.path("/ceiling")).json(&ceiling).send().await?).await?;
    assert_eq!(kv(&acme, "key=visits").await?, StatusCode::FORBIDDEN);
    Ok(())
}
