//! kill -9 in the middle of deletions, and a key provider that refuses: a tenant is there whole or gone for good, and what is
//! gone has its receipt.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ringfence_audit::destruction::verify;
use ringfence_tests::{Host, Place, Session, answer, eventually, problem, string};

/// Kills, each at another moment after a deletion was asked for, by database.
const ROUNDS: [(&str, u64); 2] = [("sled", 10), ("redb", 3)];

/// A small generator with a fixed seed, so that a failure can be had again (xorshift, Marsaglia 2003).
fn dice(seed: &mut u64, end: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % end
}

/// The tenants that receipts are about, each checked with the key of the host's log.
async fn receipted(operator: &Session) -> Result<Vec<String>> {
    let key = string(&answer(operator.get("/audit/keys").send().await?).await?, "vkey")?;
    let list = answer(operator.get("/keys/receipts?limit=1000").send().await?).await?;
    let mut tenants = Vec::new();
    for item in list["items"].as_array().context("items")? {
        let seq = item["seq"].as_u64().context("a place")?;
        let note = operator.get(&format!("/keys/receipts/{seq}")).send().await?.text().await?;
        tenants.push(verify(&note, &key)?.receipt.destroyed.tenant.to_string());
    }
    Ok(tenants)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_deletion_was_cut_is_whole_or_gone_with_one_receipt() -> Result<()> {
    for (backend, rounds) in ROUNDS {
        deletions_are_cut(backend, rounds).await.context(backend)?;
    }
    Ok(())
}

async fn deletions_are_cut(backend: &str, rounds: u64) -> Result<()> {
    let mut seed = 0x5eed_0011;
    println!("seed {seed:#x}");
    let place = Place::new()?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let mut host = Host::start_with(&place, &[], &environment)?;
    let key = host.operator().await?.key;
    let mut gone = BTreeSet::new();
    // The last deletion is waited for: where every kill came before its deletion began, there would be nothing to see.
    for round in 0..=rounds {
        let operator = host.sign_in(&key).await?;
        let name = format!("tenant-{round}");
        let tenant = host.tenant(&operator, &name).await?;
        let admin_key = tenant.admin.key.clone();
        answer(tenant.admin.put(&tenant.path("/secrets/one")).body("a word").send().await?).await?;
        let path = format!("/tenants/{name}");
        let asked = tokio::spawn(operator.delete(&path).send());
        let heard = if round == rounds {
            assert_eq!(asked.await??.status(), 204);
            host.kill()?;
            true
        } else {
            tokio::time::sleep(Duration::from_micros(dice(&mut seed, 30_000))).await;
            host.kill()?;
            asked.await?.is_ok_and(|answered| answered.status() == 204)
        };
        host = Host::start_with(&place, &[], &environment)
            .with_context(|| format!("round {round}: the host must open again"))?;
        let operator = host.sign_in(&key).await?;
        if operator.get(&path).send().await?.status() == 200 {
            assert!(!heard, "round {round}: an acknowledged deletion is undone");
            let admin = host.sign_in(&admin_key).await?;
            let secrets = answer(admin.get(&format!("{path}/secrets")).send().await?).await?;
            assert_eq!(secrets["items"].as_array().map(Vec::len), Some(1), "round {round}: it is whole");
        } else {
            assert!(host.sign_in(&admin_key).await.is_err(), "round {round}");
            gone.insert(name);
        }
        eventually("each that is gone has its receipt", async || {
            let have = receipted(&operator).await?;
            assert!(
                have.iter().all(|name| gone.contains(name)),
                "round {round}: a receipt of one that is there: {have:?}"
            );
            Ok(have.len() == gone.len())
        })
        .await?;
    }
    assert!(!gone.is_empty(), "no deletion went through, and of none a receipt was seen");
    println!("{backend}: {} of {} deletions went through", gone.len(), rounds + 1);
    Ok(())
}

/// What lies in a directory.
fn files_in(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    Ok(std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

#[tokio::test]
async fn a_deletion_that_the_key_provider_refuses_goes_on_until_the_key_is_destroyed() -> Result<()> {
    let (place, keys) = (Place::new()?, tempfile::tempdir()?);
    let root = format!("file:{}", keys.path().join("root.key").display());
    let host = Host::start_with(&place, &[], &[("RINGFENCE_KEYS_ROOT", &root)])?;
    let operator = host.operator().await?;
    let wrapping_keys = keys.path().join("root.key.tenants");
    let before = files_in(&wrapping_keys)?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let wrapping_key = files_in(&wrapping_keys)?.difference(&before).next().context("a wrapping key")?.clone();
    // A directory in its place: it can neither be overwritten nor removed as a file.
    let aside = keys.path().join("aside");
    std::fs::rename(&wrapping_key, &aside)?;
    std::fs::create_dir(&wrapping_key)?;

    let (status, said) = problem(operator.delete("/tenants/acme").send().await?).await?;
    assert!(status >= 500, "{said}");
    assert!(said["detail"].as_str().is_some_and(|detail| detail.contains("not all of it is destroyed yet")), "{said}");
    assert_eq!(operator.get("/tenants/acme").send().await?.status(), 404);
    assert_eq!(operator.fetch("/acme/hello/").await?.0, 404, "nothing of it runs any more");
    assert!(host.sign_in(&acme.admin.key).await.is_err());
    let taken = operator.post("/tenants").json(&serde_json::json!({ "name": "acme" })).send().await?;
    assert_eq!(taken.status(), 409, "its name is free when its key is gone");
    assert!(receipted(&operator).await?.is_empty(), "a receipt would be a lie");

    std::fs::remove_dir(&wrapping_key)?;
    std::fs::rename(&aside, &wrapping_key)?;
    eventually("the key is destroyed, and a receipt says so", async || Ok(receipted(&operator).await? == ["acme"]))
        .await?;
    assert!(!wrapping_key.exists());
    host.tenant(&operator, "acme").await?;
    Ok(())
}
