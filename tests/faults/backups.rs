//! kill -9 in the middle of backups and restores: what is there afterwards is whole, and the host opens again.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringfence_tests::{Host, Place, Session, answer, eventually, files_under, problem, ringfence, string};
use serde_json::{Value, json};

/// Kills, by database: a backup, a restore in place and one into a new tenant take turns.
const ROUNDS: [(&str, usize); 2] = [("sled", 9), ("redb", 3)];

/// Tenant `acme`, and a backup of it.
struct Backed {
    operator_key: String,
    admin_key: String,
    backup: String,
}

/// Makes the tenant with so many secrets of 4 kB, and backs it up.
async fn backed_up(host: &Host, secrets_count: u8) -> Result<Backed> {
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    for number in 0..secrets_count {
        let path = acme.path(&format!("/secrets/s{number}"));
        answer(acme.admin.put(&path).body(vec![b'a' + (number % 26); 4_000]).send().await?).await?;
    }
    answer(acme.admin.post("/tenants/acme/backups").json(&json!({})).send().await?).await?;
    let mut backup = String::new();
    eventually("the backup is there", async || {
        let list = answer(acme.admin.get("/tenants/acme/backups").send().await?).await?;
        backup = list["items"][0]["id"].as_str().unwrap_or_default().to_owned();
        Ok(!backup.is_empty())
    })
    .await?;
    Ok(Backed { operator_key: operator.key.clone(), admin_key: acme.admin.key.clone(), backup })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_half_is_left_by_a_kill_during_backup_or_restore() -> Result<()> {
    for (backend, rounds) in ROUNDS {
        nothing_half_is_left(backend, rounds).await.context(backend)?;
    }
    Ok(())
}

async fn nothing_half_is_left(backend: &str, rounds: usize) -> Result<()> {
    let place = Place::new()?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let mut host = Host::start_with(&place, &[], &environment)?;
    let Backed { operator_key, admin_key, backup } = backed_up(&host, 40).await?;
    let paths = [
        ("/tenants/acme/backups".to_owned(), json!({})),
        (format!("/tenants/acme/backups/{backup}/restore"), json!({ "replace": "acme" })),
        (format!("/tenants/acme/backups/{backup}/restore"), json!({ "into": "copy" })),
    ];
    for (round, (path, body)) in paths.iter().cycle().take(rounds).enumerate() {
        let operator = host.sign_in(&operator_key).await?;
        let admin = host.sign_in(&admin_key).await?;
        let after = format!("/tenants/acme/secrets/after{round}");
        answer(admin.put(&after).body("later").send().await?).await?;
        answer(operator.post(path).json(body).send().await?).await?;
        // Somewhere in the work: each round a little later.
        tokio::time::sleep(Duration::from_millis(7 * round as u64)).await;
        host.kill()?;
        host = Host::start_with(&place, &[], &environment)
            .with_context(|| format!("round {round}: the host must open again"))?;
        let operator = host.sign_in(&operator_key).await?;
        let admin = host.sign_in(&admin_key).await?;
        let unfinished = files_under(&place.data().join("backups"))?
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|end| end == "part"))
            .count();
        assert_eq!(unfinished, 0, "round {round}");
        let tenant = answer(admin.get("/tenants/acme").send().await?).await?;
        assert_eq!(tenant["state"], "active", "round {round}: what was begun was carried out, or never began");
        // In place it is all or nothing: the secret of this round is there, or every one of the forty is and it is not.
        let list = answer(admin.get("/tenants/acme/secrets?limit=1000").send().await?).await?;
        let names: Vec<String> = list["items"]
            .as_array()
            .context("items")?
            .iter()
            .map(|item| string(item, "name"))
            .collect::<Result<_>>()?;
        let old = names.iter().filter(|name| name.starts_with('s')).count();
        assert_eq!(old, 40, "round {round}: {names:?}");
        let later = names.iter().filter(|name| name.starts_with("after")).count();
        assert!(later == 0 || names.contains(&format!("after{round}")), "round {round}: {names:?}");
        // A new tenant is there whole or not at all.
        if operator.get("/tenants/copy").send().await?.status().is_success() {
            let body = json!({ "name": format!("k{round}"), "role": "tenant-admin" });
            let key = answer(operator.post("/tenants/copy/tokens").json(&body).send().await?).await?;
            let copy = host.sign_in(&string(&key, "key")?).await?;
            let list = answer(copy.get("/tenants/copy/secrets?limit=1000").send().await?).await?;
            assert_eq!(list["items"].as_array().map(Vec::len), Some(40), "round {round}");
            answer(operator.delete("/tenants/copy").send().await?).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_half_restored_cannot_be_resumed_until_it_is_whole() -> Result<()> {
    let place = Place::new()?;
    let mut host = Host::start(&place)?;
    let Backed { operator_key, admin_key, backup } = backed_up(&host, 150).await?;
    let archives = files_under(&place.data().join("backups"))?;
    let (file, whole) = archives.first().context("an archive")?;
    // Killed a little later each round, until the kill falls into the restore; then the archive is out of reach.
    for round in 0..60_u64 {
        let admin = host.sign_in(&admin_key).await?;
        let path = format!("/tenants/acme/backups/{backup}/restore");
        answer(admin.post(&path).json(&json!({ "replace": "acme" })).send().await?).await?;
        tokio::time::sleep(Duration::from_millis(round)).await;
        host.kill()?;
        std::fs::write(file, b"RFBACKUP")?;
        host = Host::start(&place)?;
        let operator = host.sign_in(&operator_key).await?;
        let half = answer(operator.get("/tenants/acme").send().await?).await?["state"] == "suspended";
        if half {
            let (status, refused) = problem(operator.post("/tenants/acme/resume").send().await?).await?;
            assert_eq!((status, refused["code"].as_str()), (409, Some("restore-unfinished")), "round {round}");
        }
        host.kill()?;
        std::fs::write(file, whole)?;
        host = Host::start(&place)?;
        let operator = host.sign_in(&operator_key).await?;
        assert_eq!(answer(operator.get("/tenants/acme").send().await?).await?["state"], "active", "round {round}");
        if half {
            return Ok(());
        }
    }
    anyhow::bail!("no kill fell into the restore")
}

/// `ringfence restore` as its user runs it, up to where it says which job it waits for.
struct Restoring {
    child: Child,
    /// What it says from then on.
    told: BufReader<ChildStderr>,
    job: String,
}

fn restoring(host: &Host, key: &str, home: &std::path::Path, backup: &str) -> Result<Restoring> {
    let mut child = Command::new(ringfence()?)
        .args(["--host", &host.control, "--tenant", "acme", "--yes", "restore", backup, "--replace"])
        .env("RINGFENCE_HOME", home)
        .env("RINGFENCE_API_KEY", key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut told = BufReader::new(child.stderr.take().context("stderr is piped")?);
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(told.read_line(&mut line)? > 0, "it ended before it said which job");
        if let Some(job) = line.trim().strip_prefix("restore: job ").map(ToOwned::to_owned) {
            return Ok(Restoring { child, told, job });
        }
    }
}

/// Every restore that is announced on a tenant's log has its end there, if only that nobody knows it; how many there are.
async fn no_restore_stays_open(admin: &Session) -> Result<usize> {
    let mut entries: Vec<Value> = Vec::new();
    loop {
        let path = format!("/tenants/acme/audit?limit=1000&from={}", entries.len());
        let page = answer(admin.get(&path).send().await?).await?;
        let items = page["items"].as_array().context("items")?;
        entries.extend(items.iter().cloned());
        if items.len() < 1_000 {
            break;
        }
    }
    let intent_of = |entry: &Value| entry["body"]["unmapped"]["intent"].as_u64();
    let ended: BTreeSet<u64> = entries.iter().filter_map(intent_of).collect();
    let announced = entries.iter().filter(|entry| {
        let code = entry["body"]["unmapped"]["code"].as_str().unwrap_or_default();
        code.starts_with("BAK-002") && intent_of(entry).is_none()
    });
    let announced: Vec<u64> = announced.filter_map(|entry| entry["seq"].as_u64()).collect();
    assert!(announced.iter().all(|seq| ended.contains(seq)), "{announced:?}: {ended:?}");
    Ok(announced.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_restores_while_the_host_is_killed_is_told_and_finds_all_of_it_or_nothing() -> Result<()> {
    let place = Place::new()?;
    let home = tempfile::tempdir()?;
    let mut host = Host::start(&place)?;
    let Backed { admin_key, backup, .. } = backed_up(&host, 150).await?;
    // Killed a little later each round, until the kill falls into the restore.
    for round in 0..60_u64 {
        let admin = host.sign_in(&admin_key).await?;
        let after = format!("after{round}");
        answer(admin.put(&format!("/tenants/acme/secrets/{after}")).body("later").send().await?).await?;
        let Restoring { mut child, told: mut rest, job } = restoring(&host, &admin_key, home.path(), &backup)?;
        tokio::time::sleep(Duration::from_millis(2 * round)).await;
        host.kill()?;
        let mut told = String::new();
        rest.read_to_string(&mut told)?;
        let ended = child.wait()?;

        host = Host::start(&place)?;
        let admin = host.sign_in(&admin_key).await?;
        assert_eq!(answer(admin.get("/tenants/acme").send().await?).await?["state"], "active", "round {round}");
        let list = answer(admin.get("/tenants/acme/secrets?limit=1000").send().await?).await?;
        let names: Vec<String> =
            list["items"].as_array().context("items")?.iter().map(|one| string(one, "name")).collect::<Result<_>>()?;
        assert_eq!(names.iter().filter(|name| name.starts_with('s')).count(), 150, "round {round}: {names:?}");
        let is_put_back = !names.contains(&after);
        assert!(!is_put_back || !names.iter().any(|name| name.starts_with("after")), "round {round}: {names:?}");
        let announced_count = no_restore_stays_open(&admin).await?;
        let known = answer(admin.get(&format!("/jobs/{job}")).send().await?).await?;
        if ended.success() {
            assert!(is_put_back && known["state"] == "succeeded", "round {round}: {known}");
            continue;
        }
        assert!(ended.code() == Some(8) && told.contains(&job) && told.contains("audit list"), "{ended}: {told}");
        if known["state"] == "succeeded" {
            assert!(is_put_back, "round {round}: {known}");
            continue;
        }
        assert_eq!(known["error"]["code"], "job-interrupted", "round {round}: {known}");
        if is_put_back {
            assert!(announced_count > 0, "what was done was announced");
            return Ok(());
        }
    }
    anyhow::bail!("no kill fell into the restore")
}
