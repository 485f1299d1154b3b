//! kill -9 in the middle of rotations: every record opens after each of them, and sealing anew goes on where it was.

use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_tests::{Host, Place, Session, answer, eventually};
use serde_json::{Value, json};

/// Kills, each at another moment after a rotation was asked for, by database; three kinds of rotation take turns.
const ROUNDS: [(&str, u64); 2] = [("sled", 12), ("redb", 3)];
const RECORDS: usize = 120;

/// A small generator with a fixed seed, so that a failure can be had again (xorshift, Marsaglia 2003).
fn dice(seed: &mut u64, end: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % end
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_survive_being_killed_anywhere_and_end() -> Result<()> {
    for (backend, rounds) in ROUNDS {
        rotations_survive(backend, rounds).await.context(backend)?;
    }
    Ok(())
}

async fn rotations_survive(backend: &str, rounds: u64) -> Result<()> {
    let mut seed = 0x5eed_0007;
    println!("seed {seed:#x}");
    let place = Place::new()?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let mut host = Host::start_with(&place, &[], &environment)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    let large = "x".repeat(60_000);
    for number in 0..RECORDS {
        let value = if number % 10 == 0 { large.clone() } else { format!("value {number}") };
        answer(acme.admin.put(&acme.path(&format!("/secrets/s{number}"))).body(value).send().await?).await?;
    }
    let (operator_key, admin_key) = (operator.key.clone(), acme.admin.key.clone());
    let mut versions_count = 1;
    for round in 0..rounds {
        let operator = host.sign_in(&operator_key).await?;
        let admin = host.sign_in(&admin_key).await?;
        // Three kinds in turn: everything, one purpose, and the root key.
        let asked = tokio::spawn(async move { rotate(round, &operator, &admin).await });
        tokio::time::sleep(Duration::from_millis(dice(&mut seed, 120))).await;
        host.kill()?;
        // Whether its answer came before the kill is a matter of luck.
        let _ = asked.await?;
        host = Host::start_with(&place, &[], &environment)
            .with_context(|| format!("round {round}: the host must open again"))?;
        let admin = host.sign_in(&admin_key).await?;
        let key = answer(admin.get("/tenants/acme/keys").send().await?).await?;
        let now = key["versions"].as_array().map_or(0, Vec::len);
        assert!((versions_count..=versions_count + 1).contains(&now), "round {round}: {key}");
        versions_count = now;
        let (status, text) = admin.fetch("/acme/visits/n").await?;
        assert_eq!(status, 200, "round {round}: {text}");
        assert!(text.starts_with(&format!("{} visit", round + 1)), "round {round}: {text}");
        let list = answer(admin.get("/tenants/acme/secrets?limit=1000").send().await?).await?;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(RECORDS), "round {round}");
    }
    let admin = host.sign_in(&admin_key).await?;
    eventually("everything is sealed anew", async || {
        Ok(answer(admin.get("/tenants/acme/keys").send().await?).await?.get("reseal").is_none())
    })
    .await?;
    let operator = host.sign_in(&operator_key).await?;
    let root = answer(operator.get("/keys").send().await?).await?;
    let wrapped_by_now = |tenant: &Value| {
        tenant["versions"].as_array().is_some_and(|all| all.iter().all(|version| version["root"] == root["id"]))
    };
    assert!(root["tenants"].as_array().is_some_and(|all| all.iter().all(wrapped_by_now)), "{root}");
    Ok(())
}

async fn rotate(round: u64, operator: &Session, admin: &Session) -> Result<Value> {
    let asked = match round % 3 {
        0 => admin.post("/tenants/acme/keys/rotate").json(&json!({})),
        1 => admin.post("/tenants/acme/keys/rotate").json(&json!({ "purpose": "record" })),
        _ => operator.post("/keys/rotate"),
    };
    answer(asked.send().await?).await
}
