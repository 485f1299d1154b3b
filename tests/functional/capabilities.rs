//! What guests can do with what they were granted, and cannot without.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, answer, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::invocations::ship_hostile;
use crate::started;

#[tokio::test]
async fn a_counter_is_exact_under_concurrent_calls() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    let calls = (0..40).map(|_| async {
        loop {
            let response = acme.admin.call(Method::GET, "/acme/visits/n").send().await?;
            match response.status() {
                StatusCode::TOO_MANY_REQUESTS => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                status => return Ok::<_, anyhow::Error>(status),
            }
        }
    });
    for status in futures::future::try_join_all(calls).await? {
        assert_eq!(status, StatusCode::OK);
    }
    assert_eq!(acme.fetch("visits", "/n").await?.1, "41 visits from /n\n");
    Ok(())
}

#[tokio::test]
async fn two_tenants_and_two_plugins_never_share_a_key() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    for (tenant, plugin) in [(&acme, "visits"), (&acme, "other"), (&globex, "visits")] {
        tenant.ship("visits", plugin, "", &[("keyvalue", &["default"])]).await?;
        assert_eq!(tenant.fetch(plugin, "/k").await?.1, "1 visit from /k\n");
    }
    Ok(())
}

#[tokio::test]
async fn revoking_takes_effect_on_the_next_host_call() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    assert_eq!(acme.fetch("visits", "/").await?.0, StatusCode::OK);
    answer(acme.admin.delete(&acme.path("/plugins/visits/grants/keyvalue")).send().await?).await?;
    assert_eq!(acme.fetch("visits", "/").await?.0, StatusCode::INTERNAL_SERVER_ERROR);
    acme.grant("visits", "keyvalue", &["default"]).await?;
    assert_eq!(acme.fetch("visits", "/").await?.1, "2 visits from /\n");
    Ok(())
}

#[tokio::test]
async fn a_webhook_verifies_with_a_secret_and_calls_the_allowed_host() -> Result<()> {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = upstream.local_addr()?;
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{address}\"]\n"))?;
    let host = Host::start_with(&place, &["--config", &config.display().to_string()], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let origin = format!("http://{address}");
    acme.push("webhook", "webhook", "0.1.0", "[budget]\ntime_ms = 5000\n").await?;
    acme.grant("webhook", "config", &[]).await?;
    acme.grant("webhook", "secrets", &["webhook-key"]).await?;
    acme.grant("webhook", "http", &[&origin]).await?;
    acme.deploy("webhook", "0.1.0").await?;
    let secret = acme.admin.put(&acme.path("/secrets/webhook-key")).body("shared").send().await?;
    answer(secret).await?;
    let value = json!({ "value": format!("{origin}/in") });
    answer(acme.admin.put(&acme.path("/plugins/webhook/config/forward-url")).json(&value).send().await?).await?;

    let received = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await?;
        let mut got = Vec::new();
        let mut buffer = [0_u8; 4096];
        while !String::from_utf8_lossy(&got).contains("{\"paid\":true}") {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&got).into_owned())
    });
    let body = "{\"paid\":true}";
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"shared");
    let signature: String =
        ring::hmac::sign(&key, body.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let call = |signature: String| {
        acme.admin
            .call(Method::POST, "/acme/webhook/")
            .header("x-signature", format!("sha256={signature}"))
            .body(body)
            .send()
    };
    assert_eq!(call("00".repeat(32)).await?.status(), StatusCode::UNAUTHORIZED);
    let forwarded = call(signature).await?;
    assert_eq!((forwarded.status(), forwarded.text().await?), (StatusCode::OK, "forwarded, answered 202\n".to_owned()));
    let got = received.await??;
    assert!(got.starts_with("POST /in HTTP/1.1"), "{got}");
    assert!(!got.to_lowercase().contains("authorization"), "{got}");
    eventually("what went out is metered", async || {
        let usage = answer(acme.admin.get(&acme.path("/usage")).send().await?).await?;
        Ok(usage["total"]["outgoing_count"] == 1 && usage["total"]["egress_out_bytes"] == body.len())
    })
    .await
}

#[tokio::test]
async fn the_guest_log_is_kept_and_can_be_followed() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let follow = acme.path("/plugins/hostile/logs?follow=true");
    let mut tail = acme.admin.get(&follow).send().await?;
    acme.fetch("hostile", "/log-flood?n=3").await?;
    let mut seen = String::new();
    while seen.matches("data:").count() < 3 {
        let chunk = tokio::time::timeout(std::time::Duration::from_secs(20), tail.chunk()).await??;
        seen.push_str(&String::from_utf8_lossy(&chunk.unwrap_or_default()));
    }
    drop(tail);
    eventually("the lines are stored", async || {
        let page = answer(acme.admin.get(&acme.path("/plugins/hostile/logs")).send().await?).await?;
        Ok(page["items"].as_array().is_some_and(|lines| lines.len() >= 3))
    })
    .await
}
