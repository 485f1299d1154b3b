//! What looks like personal data on its way out of a tenant: told by itself, refused where the tenant says so, and never in what
//! the host itself writes down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use reqwest::StatusCode;
use ringfence_tests::{Host, Place, Tenant, answer, eventually, problem};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CARD: &str = "4111111111111111";

/// A server that answers 204, and how often it was asked.
async fn far_end() -> Result<(String, Arc<AtomicUsize>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (address, asked) = (listener.local_addr()?.to_string(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|count| count > 0) {}
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    Ok((address, asked))
}

/// What the tenant's log says of it.
async fn told(acme: &Tenant) -> Result<Vec<Value>> {
    let trail = answer(acme.admin.get("/audit/trails/acme?code=THR-015").send().await?).await?;
    assert!(!trail.to_string().contains(CARD), "{trail}");
    let events = trail["events"].as_array().context("events")?;
    Ok(events.iter().map(|event| event["body"]["unmapped"]["details"].clone()).collect())
}

#[tokio::test]
async fn a_card_on_its_way_out_is_told_found_refused_when_wanted_and_goes_to_an_exempt_host() -> Result<()> {
    let (address, asked) = far_end().await?;
    let origin = format!("http://{address}");
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{address}\"]\n"))?;
    let host = Host::start_with(&place, &["--config", &config.display().to_string()], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hostile", "books", "", &[("keyvalue", &[]), ("logging", &[]), ("http", &[&origin])]).await?;
    let pay = format!("/egress?url={origin}/pay/{CARD}");

    // By itself it goes, and is told.
    assert_eq!(acme.fetch("books", &pay).await?, (StatusCode::OK, "status 204\n".to_owned()));
    eventually("an entry", async || Ok(!told(&acme).await?.is_empty())).await?;
    let entry = told(&acme).await?.remove(0);
    let says = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let said = ["detector", "direction", "place", "host", "taken"].map(says);
    assert_eq!(said, ["card", "egress", "address", "127.0.0.1", "sent"], "{entry}");
    assert_eq!(entry["count"], 1);
    eventually("a finding", async || {
        let found = answer(acme.admin.get("/security/findings").send().await?).await?;
        Ok(found["items"].as_array().context("items")?.iter().any(|one| one["rule"] == "dlp-hit"))
    })
    .await?;

    // Where the tenant refuses it, it does not go; an exempt host gets it.
    let refuse = json!({ "data_loss": { "detectors": { "card": "refuse" } } });
    let set = answer(acme.admin.put("/security/settings").json(&refuse).send().await?).await?;
    assert_eq!(set["data_loss"]["detectors"]["nhs-number"], "report", "{set}");
    let (status, text) = acme.fetch("books", &pay).await?;
    assert!(status == StatusCode::BAD_GATEWAY && text.contains("payment card") && !text.contains(CARD), "{text}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "nothing was sent");
    eventually("another entry", async || Ok(told(&acme).await?.iter().any(|one| one["taken"] == "refused"))).await?;
    let log = answer(acme.admin.get(&acme.path("/plugins/books/logs")).send().await?).await?.to_string();
    assert!(log.contains("against data loss") && !log.contains(CARD), "{log}");
    let exempt = json!({ "data_loss": { "detectors": { "card": "refuse" }, "exempt": { "card": ["127.0.0.1"] } } });
    answer(acme.admin.put("/security/settings").json(&exempt).send().await?).await?;
    assert_eq!(acme.fetch("books", &pay).await?.0, StatusCode::OK);

    // What cannot be followed, and what is no operator's to set, is refused.
    for wrong in [json!({ "detectors": { "card": "maybe" } }), json!({ "exempt": { "card": ["*.example"] } })] {
        let refused = acme.admin.put("/security/settings").json(&json!({ "data_loss": wrong })).send().await?;
        let (status, refused) = problem(refused).await?;
        assert_eq!((status, refused["code"].as_str()), (422, Some("bad-threat-settings")), "{refused}");
    }
    assert_eq!(problem(operator.put("/security/settings").json(&refuse).send().await?).await?.0, 422);
    Ok(())
}
