//! Backups of a tenant: made while it works, rehearsed, restored in place, into a new tenant, and after it was deleted.

use anyhow::{Context, Result, bail};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, files_under, guest, problem, string};
use serde_json::{Value, json};

use crate::started;

/// Begins a job and gives it once it ended.
pub async fn job(who: &Session, path: &str, body: Value) -> Result<Value> {
    let response = who.post(path).json(&body).send().await?;
    assert_eq!(response.status(), StatusCode::ACCEPTED, "{}", response.text().await?);
    let place = response.headers()["location"].to_str()?.trim_start_matches("/api/v1").to_owned();
    let mut job = answer(response).await?;
    eventually("the job ends", async || {
        job = answer(who.get(&place).send().await?).await?;
        Ok(job["state"] != "running")
    })
    .await?;
    Ok(job)
}

async fn done(who: &Session, path: &str, body: Value) -> Result<Value> {
    let job = job(who, path, body).await?;
    assert_eq!(job["state"], "succeeded", "{job}");
    Ok(job["result"].clone())
}

async fn visits(tenant: &Tenant) -> Result<String> {
    let (status, text) = tenant.fetch("visits", "/n").await?;
    assert_eq!(status, StatusCode::OK, "{text}");
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// A tenant with a plugin that counts.
async fn counting(host: &Host, operator: &Session, name: &str) -> Result<Tenant> {
    let tenant = host.tenant(operator, name).await?;
    tenant.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    Ok(tenant)
}

/// A tenant that somebody else made, with an admin of its own.
pub async fn admin_of(host: &Host, operator: &Session, name: &str) -> Result<Tenant> {
    let body = json!({ "name": "restored", "role": "tenant-admin" });
    let key = answer(operator.post(&format!("/tenants/{name}/tokens")).json(&body).send().await?).await?;
    Ok(Tenant { name: name.to_owned(), admin: host.sign_in(&string(&key, "key")?).await? })
}

#[tokio::test]
async fn a_tenant_is_backed_up_rehearsed_put_back_and_copied() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = counting(&host, &operator, "acme").await?;
    assert_eq!(visits(&acme).await?, "1");
    let full = done(&acme.admin, &acme.path("/backups"), json!({})).await?;
    assert_eq!(visits(&acme).await?, "2");
    let next = done(&acme.admin, &acme.path("/backups"), json!({ "kind": "incremental" })).await?;
    assert_eq!(next["parent"], full["id"]);
    assert!(next["blobs_count"] == 0 && full["blobs_count"] == 1, "{full} {next}");
    let id = string(&next, "id")?;
    let drilled = done(&acme.admin, &acme.path(&format!("/backups/{id}/drill")), json!({})).await?;
    assert!(drilled["drill"]["records_count"].as_u64() > Some(10), "{drilled}");
    assert_eq!(visits(&acme).await?, "3");
    let restore = acme.path(&format!("/backups/{id}/restore"));
    let (status, refused) = problem(acme.admin.post(&restore).json(&json!({})).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("tenant-not-empty")), "{refused}");
    done(&acme.admin, &restore, json!({ "replace": "acme" })).await?;
    assert_eq!(visits(&acme).await?, "3", "two were in the backup");
    // A new tenant is for operators to make; it has the plugin, its route and its data.
    let (status, _) = problem(acme.admin.post(&restore).json(&json!({ "into": "copy" })).send().await?).await?;
    assert_eq!(status, 403);
    let first = format!("/tenants/acme/backups/{}/restore", string(&full, "id")?);
    done(&operator, &first, json!({ "into": "copy" })).await?;
    let copy = admin_of(&host, &operator, "copy").await?;
    assert_eq!(visits(&copy).await?, "2");
    let taken = job(&operator, &first, json!({ "into": "copy" })).await?;
    assert_eq!((taken["state"].as_str(), taken["error"]["code"].as_str()), (Some("failed"), Some("exists")), "{taken}");
    let (status, used) =
        problem(acme.admin.delete(&acme.path(&format!("/backups/{}", string(&full, "id")?))).send().await?).await?;
    assert_eq!((status, used["code"].as_str()), (409, Some("backup-in-use")));
    answer(acme.admin.delete(&acme.path(&format!("/backups/{id}"))).send().await?).await?;
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    for code in ["BAK-001", "BAK-002", "BAK-003", "BAK-004"] {
        assert!(log.contains(code), "{code} is not on the log");
    }
    Ok(())
}

#[tokio::test]
async fn what_names_its_tenant_goes_on_under_the_new_name_and_the_next_start_takes_it() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = counting(&host, &operator, "acme").await?;
    assert_eq!(visits(&acme).await?, "1");
    let labels = |of: &str| json!({ "principals": { (format!("{of}/dev")): { "training": ["gdpr"] } } });
    let rule = |of: &str| {
        format!(
            "@id(\"trained\") forbid (principal == Ringfence::Service::\"{of}/dev\", \
             action == Ringfence::Action::\"create-token\", resource == Ringfence::Tenant::\"{of}\") \
             unless {{ principal.training.contains(\"gdpr\") }};"
        )
    };
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": rule("acme") })).send().await?).await?;
    answer(acme.admin.put(&acme.path("/policy/labels")).json(&labels("acme")).send().await?).await?;
    let ceiling = json!({ "text": rule("acme") });
    answer(operator.put(&acme.path("/ceiling")).json(&ceiling).send().await?).await?;
    let id = string(&done(&acme.admin, &acme.path("/backups"), json!({})).await?, "id")?;
    done(&acme.admin, &acme.path(&format!("/backups/{id}/drill")), json!({})).await?;
    let restore = acme.path(&format!("/backups/{id}/restore"));
    // No tenant can have this name: nothing of it is left, neither now nor at the next start.
    let refused = job(&operator, &restore, json!({ "into": "operator" })).await?;
    assert_eq!((&refused["state"], &refused["error"]["code"]), (&json!("failed"), &json!("bad-word")), "{refused}");
    let made = done(&operator, &restore, json!({ "into": "copy" })).await?;
    // The policy, the ceiling, the labels, and the versions of two.
    assert_eq!((&made["renamed_count"], &made["locked"]), (&json!(5), &Value::Null), "{made}");
    let copy = admin_of(&host, &operator, "copy").await?;
    assert_eq!(visits(&copy).await?, "2");
    let key = copy.admin.key.clone();
    host.stop()?;

    let host = Host::start(&place)?;
    let copy = Tenant { name: "copy".to_owned(), admin: host.sign_in(&key).await? };
    assert_eq!(visits(&copy).await?, "3");
    let read = async |path: &str| -> Result<Value> { answer(copy.admin.get(&copy.path(path)).send().await?).await };
    assert_eq!(string(&read("/policy").await?, "text")?, rule("copy"));
    assert_eq!(string(&read("/policy/versions/1").await?, "text")?, rule("copy"));
    let labelled = read("/policy/labels").await?["labels"]["principals"].clone();
    assert_eq!(
        (&labelled["copy/dev"]["training"], &labelled["acme/dev"]),
        (&json!(["gdpr"]), &Value::Null),
        "{labelled}"
    );
    let operator = host.sign_in(&operator.key).await?;
    let ceiling = answer(operator.get(&copy.path("/ceiling")).send().await?).await?;
    assert_eq!(string(&ceiling, "text")?, rule("copy"));
    let all = answer(operator.get("/tenants").send().await?).await?;
    let names: Vec<&str> =
        all["items"].as_array().context("items")?.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["acme", "copy"]);
    Ok(())
}

#[tokio::test]
async fn a_backup_that_does_not_restore_is_told_of_until_a_drill_of_it_succeeds() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let rule = "facts.backups.drilled_count > 0 && facts.backups.drill_failed_count == 0 \
                && facts.backups.newest_drill_age_hours == 0";
    let check = json!({ "id": "drills", "rule": rule });
    answer(acme.admin.put("/audit/compliance-check").json(&check).send().await?).await?;
    // The tenant's own check, and the line of the posture.
    let standing = async || -> Result<[String; 2]> {
        let ran = answer(acme.admin.post("/audit/compliance-checks/drills/run").send().await?).await?;
        let shown = answer(acme.admin.get("/zero-trust/security-posture").send().await?).await?;
        let lines = shown["checks"].as_array().context("no lines")?;
        let line = lines.iter().find(|line| line["check"] == "backups-drilled").context("no line")?;
        Ok([string(&ran, "state")?, string(line, "state")?])
    };
    let made = done(&acme.admin, &acme.path("/backups"), json!({})).await?;
    let backup = acme.path(&format!("/backups/{}", string(&made, "id")?));
    let drill = format!("{backup}/drill");
    assert_eq!(standing().await?, ["fail", "fail"], "nobody tried it yet");
    done(&acme.admin, &drill, json!({})).await?;
    assert_eq!(standing().await?, ["pass", "pass"]);

    let archives = files_under(&place.data().join("backups"))?;
    let [(path, whole)] = &archives[..] else { bail!("{} archives", archives.len()) };
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    std::fs::write(path, rotten)?;
    let failed = job(&acme.admin, &drill, json!({})).await?;
    let (state, code) = (failed["state"].as_str(), failed["error"]["code"].as_str());
    assert_eq!((state, code), (Some("failed"), Some("backup-damaged")), "{failed}");
    assert_eq!(standing().await?, ["fail", "fail"], "the good drill before it is no comfort");
    let shown = answer(acme.admin.get(&backup).send().await?).await?;
    assert!(shown["drill"].is_object(), "{shown}");
    assert_eq!(shown["drill_failed"]["what"], failed["error"]["detail"], "{shown}");

    std::fs::write(path, whole)?;
    let mended = done(&acme.admin, &drill, json!({})).await?;
    assert!(mended["drill_failed"].is_null(), "{mended}");
    assert_eq!(standing().await?, ["pass", "pass"]);
    Ok(())
}

#[tokio::test]
async fn only_a_tenant_takes_its_recovery_key_and_it_opens_what_the_host_cannot() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = counting(&host, &operator, "acme").await?;
    visits(&acme).await?;
    let key_path = acme.path("/backups/recovery-key");
    let (status, _) = problem(operator.post(&key_path).send().await?).await?;
    assert!(matches!(status, 403 | 404), "{status}");
    let key = answer(acme.admin.post(&key_path).send().await?).await?;
    let made = done(&acme.admin, &acme.path("/backups"), json!({})).await?;
    answer(operator.delete("/tenants/acme").send().await?).await?;
    let asked = |key: &str| json!({ "tenant_uid": made["tenant_uid"], "backup": made["id"], "into": "acme", "recovery_key": key });
    let wrong = "rfbk1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let (status, refused) = problem(operator.post("/restores").json(&asked(wrong)).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-recovery-key")), "{refused}");
    let globex = counting(&host, &operator, "globex").await?;
    let other = answer(globex.admin.post(&globex.path("/backups/recovery-key")).send().await?).await?;
    let (status, refused) =
        problem(operator.post("/restores").json(&asked(&string(&other, "recovery_key")?)).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("backup-no-key")), "{refused}");
    done(&operator, "/restores", asked(&string(&key, "recovery_key")?)).await?;
    assert_eq!(visits(&admin_of(&host, &operator, "acme").await?).await?, "2");
    // The archive shows no word of what is in it, and the key is nowhere in the log of the process.
    let archives = files_under(&place.data().join("backups"))?;
    assert_eq!(archives.len(), 1);
    for (path, bytes) in &archives {
        for word in ["acme", "visits", "default"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word.as_bytes()), "{word} in {}", path.display());
        }
    }
    assert!(!host.stderr().contains(&string(&key, "recovery_key")?));
    Ok(())
}

#[tokio::test]
async fn another_tenant_reaches_neither_backups_nor_jobs() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let response = acme.admin.post(&acme.path("/backups")).json(&json!({})).send().await?;
    let began = answer(response).await?;
    let (status, hidden) = problem(globex.admin.get(&format!("/jobs/{}", string(&began, "id")?)).send().await?).await?;
    assert_eq!((status, hidden["code"].as_str()), (404, Some("not-found")));
    let mut made = Value::Null;
    eventually("the backup is listed", async || {
        let list = answer(acme.admin.get(&acme.path("/backups")).send().await?).await?;
        made = list["items"][0].clone();
        Ok(made.is_object())
    })
    .await?;
    let id = string(&made, "id")?;
    for method in [Method::GET, Method::DELETE] {
        let theirs = globex.admin.request(method.clone(), &globex.path(&format!("/backups/{id}"))).send().await?;
        assert_eq!(problem(theirs).await?.0, 404, "{method}");
    }
    Ok(())
}

#[tokio::test]
async fn the_schedule_makes_backups_and_keeps_what_it_is_told_to() -> Result<()> {
    let place = Place::new()?;
    let text = "[backup]\nevery = \"1s\"\nfull_every_count = 2\nkeep_daily_count = 1\nkeep_weekly_count = 0\n";
    let config = place.config(text)?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let mut seen = std::collections::BTreeSet::new();
    eventually("there were four backups, and old ones went", async || {
        let list = answer(acme.admin.get(&acme.path("/backups")).send().await?).await?;
        let ids: Vec<String> =
            list["items"].as_array().context("items")?.iter().map(|item| string(item, "id")).collect::<Result<_>>()?;
        seen.extend(ids.iter().cloned());
        Ok(seen.len() >= 4 && ids.len() <= 2)
    })
    .await?;
    let status = answer(operator.get("/host").send().await?).await?;
    assert_eq!(status["backups_failing_count"], 0);
    host.stop()?;
    place.config("[backup]\nevery = \"soon\"\n")?;
    let error = Host::start_with(&place, &["--config", &config], &[]).err().context("it started")?.to_string();
    assert!(error.contains("`backup.every` = `soon`"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_backup_of_a_tenant_of_which_something_rotted_is_made_says_so_and_mends_it() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    // Too long for its record: it lies in a file of its own.
    let text = format!(
        "{}@id(\"no-auditors\") forbid (principal, action == Ringfence::Action::\"create-token\", resource) \
         when {{ context has asked_role && context.asked_role == Ringfence::Role::\"auditor\" }};",
        "// words\n".repeat(10_000)
    );
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    let newest = async || -> Result<String> {
        let shown = answer(acme.admin.get("/zero-trust/security-posture").send().await?).await?;
        let lines = shown["checks"].as_array().context("no lines")?;
        string(lines.iter().find(|line| line["check"] == "newest-backup").context("no line")?, "state")
    };
    let whole = done(&acme.admin, &acme.path("/backups"), json!({})).await?;
    assert!(whole["damaged_count"] == 0 && newest().await? != "fail", "{whole}");
    for (path, mut bytes) in files_under(&place.data().join("store").join("blobs"))? {
        if path.parent().is_some_and(|above| above.ends_with("values")) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes)?;
        }
    }
    let lacking = done(&acme.admin, &acme.path("/backups"), json!({ "kind": "incremental" })).await?;
    assert!(lacking["damaged_count"].as_u64() > Some(0), "{lacking}");
    assert_eq!((&lacking["lost_count"], &lacking["parent"]), (&json!(0), &whole["id"]), "{lacking}");
    assert_eq!(newest().await?, "fail");
    let restore = acme.path(&format!("/backups/{}/restore", string(&lacking, "id")?));
    done(&acme.admin, &restore, json!({ "replace": "acme" })).await?;
    let policy = answer(acme.admin.get(&acme.path("/policy")).send().await?).await?;
    assert_eq!(string(&policy, "text")?, text);
    let mended = done(&acme.admin, &acme.path("/backups"), json!({ "kind": "incremental" })).await?;
    assert!(mended["damaged_count"] == 0 && newest().await? != "fail", "{mended}");
    Ok(())
}

/// The handler that traps, with so many exports of long names that what is stored of it lies in a file of its own.
fn named_at_length() -> Result<Vec<u8>> {
    let number = |mut rest: usize| {
        let mut bytes = Vec::new();
        while rest > 0x7f {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    };
    let names = ["a", "b", "c"].map(|name| name.repeat(30_000));
    let mut section = number(names.len());
    for name in names {
        section.push(0);
        section.extend(number(name.len()));
        section.extend(name.into_bytes());
        // Of the instance that answers requests, the second one, with the type that it has.
        section.extend([0x05, 0x01, 0x00]);
    }
    let mut component = guest("handler")?;
    component.push(0x0b);
    component.extend(number(section.len()));
    component.extend(section);
    Ok(component)
}

#[tokio::test]
async fn a_tenant_that_a_restore_cannot_put_into_force_is_locked_says_so_on_its_log_and_is_mended_while_the_host_runs()
-> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let manifest = "[plugin]\nname = \"traps\"\nversion = \"0.1.0\"\n";
    answer(acme.push_raw(manifest, "traps", "0.1.0", named_at_length()?).await?).await?;
    acme.deploy("traps", "0.1.0").await?;
    assert_eq!(acme.fetch("traps", "/").await?.0, StatusCode::BAD_GATEWAY);
    let whole = string(&done(&acme.admin, &acme.path("/backups"), json!({})).await?, "id")?;
    let mut files = files_under(&place.data().join("store").join("blobs"))?;
    files.retain(|(path, _)| path.parent().is_some_and(|above| above.ends_with("values")));
    let count = files.len();
    let [(path, bytes)] = &mut files[..] else { bail!("{count} values in files") };
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes)?;
    let lacking = done(&acme.admin, &acme.path("/backups"), json!({})).await?;
    assert_eq!(lacking["damaged_count"], 1, "{lacking}");

    // The route leads to what is not there.
    let restore = acme.path(&format!("/backups/{}/restore", string(&lacking, "id")?));
    let failed = job(&operator, &restore, json!({ "replace": "acme" })).await?;
    assert_eq!(
        (&failed["state"], &failed["error"]["code"]),
        (&json!("failed"), &json!("version-not-found")),
        "{failed}"
    );
    let refused = problem(operator.get(&acme.path("/backups")).send().await?).await?;
    assert_eq!((refused.0, refused.1["code"].as_str()), (423, Some("key-disabled")), "{refused:?}");
    let told = host.stderr();
    let is_told = |line: &str| line.contains("a tenant is locked") && line.contains("version-not-found");
    assert!(told.lines().any(is_told), "{told}");
    // Who opens its keys has it read again, which fails again: nothing of it is served, and another backup mends it.
    answer(operator.post(&acme.path("/keys/enable")).send().await?).await?;
    let admin = host.sign_in(&acme.admin.key).await?;
    let refused = problem(admin.get(&acme.path("/policy")).send().await?).await?;
    assert_eq!((refused.0, refused.1["code"].as_str()), (423, Some("key-disabled")), "{refused:?}");
    assert_ne!(admin.fetch("/acme/traps/").await?.0, StatusCode::BAD_GATEWAY);
    done(&operator, &acme.path(&format!("/backups/{whole}/restore")), json!({ "replace": "acme" })).await?;
    let admin = host.sign_in(&acme.admin.key).await?;
    assert_eq!(admin.fetch("/acme/traps/").await?.0, StatusCode::BAD_GATEWAY);

    // Both restores have their ends on its own log.
    let log = answer(admin.get(&acme.path("/audit?limit=1000")).send().await?).await?;
    let bodies: Vec<&Value> = log["items"].as_array().context("items")?.iter().map(|entry| &entry["body"]).collect();
    let code_of = |body: &Value| body["unmapped"]["code"].as_str().unwrap_or_default().to_owned();
    let ends: Vec<&Value> = bodies
        .iter()
        .filter(|body| code_of(body).starts_with("BAK-002") && !body["unmapped"]["intent"].is_null())
        .map(|body| &body["unmapped"]["failure"])
        .collect();
    let expected = [json!("version-not-found"), Value::Null];
    assert!(ends.len() == 2 && expected.iter().all(|end| ends.contains(&end)), "{log}");
    assert!(!bodies.iter().any(|body| code_of(body).starts_with("AUD-001")), "{log}");
    Ok(())
}
