//! A guest's way out: only to granted origins, never to private addresses, whatever name points there.

use anyhow::Result;
use ringfence_tests::Host;

use crate::started;

#[tokio::test]
async fn private_and_ungranted_destinations_are_refused() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let own = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = own.local_addr()?.port();
    acme.push("hostile", "hostile", "0.1.0", "[budget]\ntime_ms = 15000\n").await?;
    acme.grant("hostile", "keyvalue", &["*"]).await?;
    acme.grant("hostile", "logging", &[]).await?;
    // Granted by name, and still refused: the address decides.
    let origins: Vec<String> =
        ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
            .iter()
            .map(|name| format!("http://{name}:{port}"))
            .collect();
    acme.grant("hostile", "http", &origins.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    acme.deploy("hostile", "0.1.0").await?;
    for origin in origins.iter().map(String::as_str).chain(["http://example.com", "https://example.com:444"]) {
        let (status, text) = acme.fetch("hostile", &format!("/egress?url={origin}/")).await?;
        assert!(text.starts_with("refused"), "{origin}: {status} {text}");
    }
    let mut log = String::new();
    ringfence_tests::eventually("the owner is told why", async || {
        log = acme.admin.get(&acme.path("/plugins/hostile/logs?limit=1000")).send().await?.text().await?;
        Ok(log.matches("was refused").count() >= origins.len() + 2)
    })
    .await?;
    for origin in &origins {
        assert!(log.contains(&format!("outgoing request to `{origin}` was refused: its address")), "{origin}: {log}");
    }
    assert!(log.contains("ringfence grant hostile http http://example.com"), "{log}");
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(200), own.accept()).await;
    assert!(nothing.is_err(), "a connection was made to a private address");
    Ok(())
}

#[tokio::test]
async fn the_control_plane_cannot_be_reached_from_inside() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    crate::ship_hostile(&acme, "time_ms = 10000").await?;
    let control: &Host = &host;
    acme.grant("hostile", "http", &[&control.control]).await?;
    let (_, text) = acme.fetch("hostile", &format!("/egress?url={}/healthz", control.control)).await?;
    assert!(!text.contains("200"), "{text}");
    Ok(())
}
