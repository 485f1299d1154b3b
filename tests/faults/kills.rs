//! kill -9 at random points, torn files, and the drain.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, Tenant, answer, files_under, guest, string};
use serde_json::json;

/// Cycles of upload, deploy, key-value and kill, by database.
const CYCLES: [(&str, u32); 2] = [("sled", 50), ("redb", 8)];

/// A small generator with a fixed seed, so that a failure can be had again (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_over_fifty_kills() -> Result<()> {
    for (backend, cycles) in CYCLES {
        nothing_acknowledged_is_lost(backend, cycles).await.context(backend)?;
    }
    Ok(())
}

async fn nothing_acknowledged_is_lost(backend: &str, cycles: u32) -> Result<()> {
    let place = Place::new()?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let mut dice = Dice(0x5eed_0001);
    let mut host = Host::start_with(&place, &[], &environment)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    let key = acme.admin.key.clone();
    let (mut counted, mut versions) = (0_u64, Vec::new());
    for cycle in 0..cycles {
        let admin = host.sign_in(&key).await?;
        let tenant = Tenant { name: "acme".to_owned(), admin };
        let work = tokio::spawn(one_cycle(tenant, cycle, counted));
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        host.kill()?;
        let done = work.await?;
        // One call may have been counted and its answer lost with the host.
        let (least, most) = (done.counted, done.counted + 1);
        versions.extend(done.versions);
        host = Host::start_with(&place, &[], &environment)
            .with_context(|| format!("cycle {cycle}: the host must open again"))?;
        let admin = host.sign_in(&key).await?;
        let (status, text) = admin.fetch("/acme/visits/n").await?;
        assert_eq!(status, StatusCode::OK, "cycle {cycle}: {text}");
        counted = text.split(' ').next().and_then(|number| number.parse().ok()).context("a count")?;
        assert!((least + 1..=most + 1).contains(&counted), "cycle {cycle}: {counted} counted, {least} acknowledged");
        let detail = answer(admin.get("/tenants/acme/plugins/visits").send().await?).await?;
        for version in &versions {
            let known =
                detail["versions"].as_array().is_some_and(|list| list.iter().any(|v| v["version"] == **version));
            assert!(known, "cycle {cycle}: acknowledged version {version} is lost");
        }
    }
    let admin = host.sign_in(&key).await?;
    let head = answer(admin.get("/tenants/acme/audit/checkpoint").send().await?).await?;
    assert!(head["size"].as_u64() > Some(u64::from(cycles)));
    Ok(())
}

struct Done {
    counted: u64,
    versions: Vec<String>,
}

/// Works until the host is gone; gives what was acknowledged.
async fn one_cycle(tenant: Tenant, cycle: u32, counted: u64) -> Done {
    let mut done = Done { counted, versions: Vec::new() };
    for round in 0.. {
        match tenant.fetch("visits", "/n").await {
            Ok((StatusCode::OK, _)) => done.counted += 1,
            _ => return done,
        }
        let version = format!("1.{cycle}.{round}");
        let Ok(bytes) = guest("visits") else { return done };
        let manifest = format!("[plugin]\nname = \"visits\"\nversion = \"{version}\"\n");
        match tenant.push_raw(&manifest, "visits", &version, bytes).await {
            Ok(response) if response.status().is_success() => done.versions.push(version.clone()),
            _ => return done,
        }
        if tenant.deploy("visits", &version).await.is_err() {
            return done;
        }
    }
    done
}

#[tokio::test]
async fn a_torn_snapshot_file_does_not_keep_the_host_down() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let key = operator.key.clone();
    host.kill()?;
    let snapshots: Vec<_> = files_under(&place.data().join("store"))?
        .into_iter()
        .filter(|(path, _)| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")))
        .collect();
    let dir = files_under(&place.data())?
        .into_iter()
        .find(|(path, _)| path.file_name().is_some_and(|name| name == "db"))
        .and_then(|(path, _)| path.parent().map(std::path::Path::to_owned))
        .context("the store's own directory")?;
    let text = snapshots.first().map_or_else(|| vec![7; 100], |(_, bytes)| bytes[..bytes.len() / 2].to_vec());
    std::fs::write(dir.join("snap.00000000FFFFFFFF.generating"), text)?;
    let host = Host::start(&place)?;
    host.sign_in(&key).await?;
    Ok(())
}

#[tokio::test]
async fn a_broken_store_is_set_aside_and_said_not_overwritten() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    host.operator().await?;
    host.stop()?;
    let (path, mut bytes) = files_under(&place.data())?
        .into_iter()
        .find(|(path, _)| path.file_name().is_some_and(|name| name == "db"))
        .context("the store's file")?;
    for byte in bytes.iter_mut().step_by(7) {
        *byte ^= 0x55;
    }
    std::fs::write(&path, &bytes)?;
    for (snap, _) in files_under(&place.data())? {
        if snap.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            std::fs::write(snap, b"broken")?;
        }
    }
    let Err(error) = Host::start(&place).map(drop) else {
        anyhow::bail!("a host over a broken store came up as if it were new");
    };
    let text = format!("{error:#}");
    assert!(!text.contains("panicked"), "{text}");
    let aside = |path: &std::path::Path| {
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("quarantine"))
    };
    let kept = files_under(&place.data())?
        .into_iter()
        .any(|(path, kept)| aside(&path) && path.ends_with("db/db") && !kept.is_empty());
    assert!(kept, "the broken database is kept for whoever restores it: {text}");
    let Err(again) = Host::start(&place).map(drop) else {
        anyhow::bail!("the second start came up empty");
    };
    assert!(format!("{again:#}").contains("quarantine"), "{again:#}");
    Ok(())
}

#[tokio::test]
async fn a_second_host_on_one_directory_is_refused_in_words_and_the_first_goes_on() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let Err(error) = Host::start(&place).map(drop) else {
        anyhow::bail!("two hosts share a directory");
    };
    assert!(format!("{error:#}").contains("in use by another process"), "{error:#}");
    host.tenant(&operator, "acme").await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_an_open_call_finish_and_takes_no_new_one() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.push("hostile", "hostile", "0.1.0", "[budget]\ntime_ms = 8000\n").await?;
    for (capability, scope) in [("keyvalue", &["*"][..]), ("logging", &[]), ("http", &["https://example.com"])] {
        acme.grant("hostile", capability, scope).await?;
    }
    acme.deploy("hostile", "0.1.0").await?;
    let open = tokio::spawn(acme.admin.call(Method::GET, "/acme/hostile/sleep?ms=2000").send());
    ringfence_tests::eventually("the call runs", async || {
        Ok(answer(operator.get("/host").send().await?).await?["running_count"] == 1)
    })
    .await?;
    let admin: Session = acme.admin.clone();
    let stopping = tokio::task::spawn_blocking(move || host.stop());
    assert_eq!(open.await??.status(), StatusCode::OK);
    let took = stopping.await??;
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(admin.fetch("/acme/hostile/ok").await.is_err());
    Ok(())
}

#[tokio::test]
async fn sessions_and_revocations_survive_a_kill() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let made = acme.admin.post(&acme.path("/tokens")).json(&json!({ "name": "gone", "role": "caller" })).send().await?;
    let made = answer(made).await?;
    let (id, key) = (string(&made, "id")?, string(&made, "key")?);
    let gone = host.sign_in(&key).await?;
    acme.admin.delete(&acme.path(&format!("/tokens/{id}"))).send().await?.error_for_status()?;
    let token = gone.token.clone().unwrap_or_default();
    host.kill()?;
    let host = Host::start(&place)?;
    assert_eq!(host.session(token).get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert!(host.sign_in(&key).await.is_err());
    assert!(host.sign_in(&acme.admin.key).await.is_ok());
    Ok(())
}

/// What the audit log of the host says of one request: intents and outcomes of making tenants.
async fn on_record(operator: &Session, request: &str) -> Result<(usize, usize)> {
    let page = answer(operator.get("/audit?limit=1000").send().await?).await?;
    let entries: Vec<String> = page["items"].as_array().into_iter().flatten().map(ToString::to_string).collect();
    let of_it: Vec<_> = entries.iter().filter(|entry| entry.contains(request)).collect();
    let outcomes = of_it.iter().filter(|entry| entry.contains("\"success\"")).count();
    Ok((of_it.len(), outcomes))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_with_a_key_is_done_at_most_once_over_kills_between_effect_and_answer() -> Result<()> {
    let place = Place::new()?;
    let mut dice = Dice(0x5eed_0002);
    let mut host = Host::start(&place)?;
    let key = host.operator().await?.key;
    for cycle in 0..12 {
        let operator = host.sign_in(&key).await?;
        let body = json!({ "name": format!("tenant-{cycle}") });
        let send = |operator: Session| {
            let request = operator.post("/tenants").header("idempotency-key", format!("cycle-{cycle}")).json(&body);
            request.send()
        };
        let working = tokio::spawn(send(operator));
        tokio::time::sleep(Duration::from_micros(dice.below(30_000))).await;
        host.kill()?;
        let heard = working.await?.is_ok_and(|answered| answered.status() == StatusCode::CREATED);
        host = Host::start(&place)?;
        let operator = host.sign_in(&key).await?;
        let again = send(operator.clone()).await?;
        let (status, replayed) = (again.status(), again.headers().contains_key("idempotency-replayed"));
        let told: serde_json::Value = again.json().await?;
        let there = operator.get(&format!("/tenants/tenant-{cycle}")).send().await?.status() == StatusCode::OK;
        match status {
            // Done by the first and kept, or never begun by it.
            StatusCode::CREATED => {
                assert!(there && (replayed || !heard), "cycle {cycle}: what was acknowledged was done anew");
            }
            // Cut off in between: the record says how far it came, and nothing was done anew.
            StatusCode::CONFLICT => {
                assert!(!heard, "cycle {cycle}: an acknowledged answer is lost");
                assert_eq!(told["code"], "idempotency-interrupted", "cycle {cycle}: {told}");
                let detail = told["detail"].as_str().unwrap_or_default();
                let request = detail.split('`').nth(1).context("the first request's id")?;
                let (entries, outcomes) = on_record(&operator, request).await?;
                assert!(!there || entries > 0, "cycle {cycle}: an effect without an intent");
                assert!(outcomes == 0 || there, "cycle {cycle}: an outcome without an effect");
            }
            other => anyhow::bail!("cycle {cycle}: {other}: {told}"),
        }
    }
    Ok(())
}
