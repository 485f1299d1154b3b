//! kill -9 in the middle of writing an object: the old one stays whole, and nothing of the new one is left.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Tenant, files_under};

/// Rounds, each with a kill at another moment, by database.
const ROUNDS: [(&str, u64); 2] = [("sled", 8), ("redb", 3)];
const BUDGET: &str = "[budget]\ntime_ms = 60000\ncpu_ms = 20000\nmemory_mib = 16\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_the_old_or_the_new_one_whole_after_a_kill_and_no_file_is_left_over() -> Result<()> {
    for (backend, rounds) in ROUNDS {
        an_object_is_the_old_or_the_new_one(backend, rounds).await.context(backend)?;
    }
    Ok(())
}

async fn an_object_is_the_old_or_the_new_one(backend: &str, rounds: u64) -> Result<()> {
    let place = Place::new()?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let mut host = Host::start_with(&place, &[], &environment)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("bulk", "bulk", BUDGET, &[("blob", &["default"])]).await?;
    let key = acme.admin.key.clone();
    let (status, text) = acme.fetch("bulk", "/put?mib=2&seed=0").await?;
    assert_eq!(status, StatusCode::OK, "{text}");
    let mut seed = 0;
    for round in 1..=rounds {
        let admin = host.sign_in(&key).await?;
        let write = admin.call(Method::GET, &format!("/acme/bulk/put?mib=48&seed={round}"));
        let writing =
            tokio::spawn(async move { write.send().await.is_ok_and(|answer| answer.status() == StatusCode::OK) });
        tokio::time::sleep(Duration::from_millis(40 * round)).await;
        host.kill()?;
        let acknowledged = writing.await?;
        host = Host::start_with(&place, &[], &environment)
            .with_context(|| format!("round {round}: the host must open again"))?;
        let tenant = Tenant { name: "acme".to_owned(), admin: host.sign_in(&key).await? };
        let (old, old_text) = tenant.fetch("bulk", &format!("/get?seed={seed}")).await?;
        let (new, new_text) = tenant.fetch("bulk", &format!("/get?seed={round}")).await?;
        assert!((old == StatusCode::OK) != (new == StatusCode::OK), "round {round}: {old_text} {new_text}");
        assert!(!acknowledged || new == StatusCode::OK, "round {round}: acknowledged and lost");
        if new == StatusCode::OK {
            seed = round;
        }
        let values = files_under(&place.data())?;
        let values = values.iter().filter(|(path, _)| path.parent().is_some_and(|above| above.ends_with("values")));
        assert_eq!(values.count(), 1, "round {round}: the one object's file, and no other");
    }
    Ok(())
}
