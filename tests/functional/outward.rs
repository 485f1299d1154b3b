//! What leaves the host, through the binary: a stream to a receiver, who may choose it, a feed, an assessment.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use ringfence_tests::{Host, Place, answer, eventually, problem, string};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Takes everything; the bodies it was sent.
async fn receiver() -> Result<(String, Arc<Mutex<Vec<Value>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let kept = Arc::clone(&bodies);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, Arc::clone(&kept)));
        }
    });
    Ok((address, bodies))
}

async fn take(mut stream: TcpStream, kept: Arc<Mutex<Vec<Value>>>) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = vec![0_u8; 65_536];
        let count = stream.read(&mut chunk).await?;
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= length.context("a length")?.parse()? {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(serde_json::from_str(body)?);
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 204 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
    Ok(())
}

fn seqs(bodies: &Mutex<Vec<Value>>) -> Vec<u64> {
    let bodies = bodies.lock().unwrap_or_else(PoisonError::into_inner);
    let events = bodies.iter().filter_map(|body| body["events"].as_array()).flatten();
    events.filter_map(|event| event["seq"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_streamed_by_who_may_choose_that_and_goes_on_after_a_restart() -> Result<()> {
    let (address, bodies) = receiver().await?;
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{address}\"]\n"))?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let auditor = acme.member(&host, "eve", "auditor").await?;
    let new = json!({ "name": "siem", "kind": "webhook", "url": format!("http://{address}/in"), "from_seq": 0 });
    assert_eq!(problem(auditor.post("/audit/streams").json(&new).send().await?).await?.0, 403);
    let inside = json!({ "name": "siem", "kind": "webhook", "url": "https://169.254.169.254/" });
    let (status, refused) = problem(acme.admin.post("/audit/streams").json(&inside).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-destination")), "{refused}");
    let made = answer(acme.admin.post("/audit/streams").json(&new).send().await?).await?;
    let secret = string(&made, "secret")?;
    assert!(secret.starts_with("whsec_"));
    eventually("the log", async || Ok(seqs(&bodies).len() >= 4)).await?;
    let shown = answer(auditor.get("/audit/streams").send().await?).await?;
    assert_eq!((shown["items"][0]["name"].as_str(), shown["items"][0]["state"].as_str()), (Some("siem"), Some("on")));
    assert!(!shown.to_string().contains(&secret));
    assert_eq!(answer(globex.admin.get("/audit/streams").send().await?).await?["items"], json!([]));
    assert_eq!(problem(globex.admin.delete("/audit/streams/siem").send().await?).await?.0, 404);
    host.stop()?;
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let admin = host.sign_in(&acme.admin.key).await?;
    let event = json!({ "code": "order-placed", "message": "after the restart" });
    answer(admin.post("/audit/log-event").json(&event).send().await?).await?;
    eventually("the new entry", async || {
        let bodies = bodies.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(bodies.iter().any(|body| body.to_string().contains("after the restart")))
    })
    .await?;
    let seqs = seqs(&bodies);
    assert!(seqs.windows(2).all(|pair| pair[1] <= pair[0] + 1), "no entry is left out: {seqs:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_is_found_in_an_assessment_and_a_clean_log_is_silent() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let assess = async || -> Result<Value> {
        let begun = acme.admin.post("/zero-trust/threat-assessment").json(&json!({ "window": "1h" })).send().await?;
        let mut job = answer(begun).await?;
        let path = format!("/jobs/{}", string(&job, "id")?);
        eventually("the assessment", async || {
            job = answer(acme.admin.get(&path).send().await?).await?;
            Ok(job["state"] != "running")
        })
        .await?;
        assert!(!job.to_string().contains("privilege-escalation"), "an operator reads jobs: {job}");
        let id = string(&job["result"], "assessment")?;
        answer(acme.admin.get(&format!("/zero-trust/threat-assessments/{id}")).send().await?).await
    };
    let clean = assess().await?;
    assert_eq!(clean["findings"], json!([]), "{clean}");
    assert!(clean["coverage"]["rules_run"].as_array().context("rules")?.len() >= 20);
    let spots = clean["coverage"]["blind_spots"].to_string();
    assert!(spots.contains("no indicators") && spots.contains("no channel"), "{spots}");
    assert_eq!(spots.matches("no host can see").count(), 8, "{spots}");
    let developer = acme.member(&host, "dev", "developer").await?;
    for _ in 0..3 {
        let refused = developer.put("/tenants/acme/plugins/x/grants/keyvalue").json(&json!({})).send().await?;
        assert_eq!(refused.status(), 403);
    }
    let found = assess().await?;
    let rules: Vec<&str> =
        found["findings"].as_array().context("findings")?.iter().filter_map(|one| one["rule"].as_str()).collect();
    assert!(rules.contains(&"privilege-escalation"), "{found}");
    for wrong in [json!({ "window": "soon" }), json!({ "window": "400d" })] {
        let refused = acme.admin.post("/zero-trust/threat-assessment").json(&wrong).send().await?;
        assert_eq!(problem(refused).await?.0, 422);
    }
    Ok(())
}
