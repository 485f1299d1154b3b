//! A full disk: writes are refused with a code and without an effect, reads of the control plane go on, nothing is run that
//! cannot be recorded, and space that comes back is enough. The disk is a small tmpfs of the test's own; mounting it needs
//! root, as CI is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, answer, files_under, problem, ringfence, string};
use serde_json::{Value, json};

const BUDGET: &str = "[budget]\ntime_ms = 20000\ncpu_ms = 5000\nmemory_mib = 32\n";

/// A mounted tmpfs that is unmounted when dropped.
struct Small(PathBuf, #[expect(dead_code, reason = "the mount point goes when it goes")] tempfile::TempDir);

impl Small {
    fn mount(mib: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "ringfence-test"])
            .arg(dir.path())
            .status()?;
        ensure!(status.success(), "mounting a tmpfs needs root");
        Ok(Self(dir.path().to_owned(), dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes until nothing more goes in. The host writes and frees meanwhile, so more is offered than there was room for.
fn fill(disk: &Path) -> Result<PathBuf> {
    let ballast = disk.join("ballast");
    let free = rustix::fs::statvfs(disk)?;
    let room = usize::try_from(free.f_bavail * free.f_frsize)?;
    let written = std::fs::write(&ballast, vec![1_u8; room + (64 << 20)]);
    let full = written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull);
    ensure!(full, "the disk is not full");
    Ok(ballast)
}

/// An object of more than one sealed piece.
fn picture() -> Vec<u8> {
    (0..1_000_000_u32).map(|at| (at * 31 % 251) as u8).collect()
}

/// A part from the middle of the object is there as it was written.
async fn has_its_object(admin: &Session) -> Result<()> {
    let read = admin.call(Method::GET, "/acme/album/large").header("range", "bytes=400000-899999").send().await?;
    assert_eq!(read.status(), StatusCode::PARTIAL_CONTENT);
    assert!(read.bytes().await? == picture()[400_000..900_000], "other bytes than were written");
    Ok(())
}

async fn a_full_disk(backend: &str) -> Result<()> {
    let disk = Small::mount(400)?;
    let place = Place::inside(&disk.0)?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let host = Host::start_with(&place, &[], &environment)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", BUDGET, &[("keyvalue", &["default"])]).await?;
    acme.ship("album", "album", &format!("[needs]\nblob = [\"default\"]\n{BUDGET}"), &[("blob", &["default"])]).await?;
    assert!(acme.fetch("visits", "/n").await?.1.starts_with("1 visit"));
    let put = acme.admin.call(Method::PUT, "/acme/album/large").body(picture()).send().await?;
    assert_eq!(put.status(), StatusCode::CREATED);
    has_its_object(&acme.admin).await?;
    let secret = acme.path("/secrets/one");
    answer(acme.admin.put(&secret).body("before").send().await?).await?;

    let ballast = fill(&disk.0)?;

    let (status, refused) = problem(acme.admin.put(&acme.path("/secrets/two")).body("during").send().await?).await?;
    assert_eq!((status, string(&refused, "code")?.as_str()), (503, "audit-unavailable"), "{refused}");
    let names = answer(acme.admin.get(&acme.path("/secrets")).send().await?).await?;
    assert_eq!(names["items"].as_array().map(Vec::len), Some(1), "a refused write has no effect");
    let ready = reqwest::get(format!("{}/readyz", host.control)).await?;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let plugin = answer(acme.admin.get(&acme.path("/plugins/visits")).send().await?).await?;
    assert_eq!(plugin["versions"].as_array().map(Vec::len), Some(1), "what is stored is read: {plugin}");
    // What runs must be on the audit log, also what would only read.
    for path in ["/acme/visits/n", "/acme/album/large"] {
        let (status, refused) = problem(acme.admin.call(Method::GET, path).send().await?).await?;
        assert_eq!((status, string(&refused, "code")?.as_str()), (503, "audit-unavailable"), "{path}: {refused}");
    }

    std::fs::remove_file(&ballast)?;
    ringfence_tests::eventually("writes are taken again", async || {
        Ok(acme.admin.put(&acme.path("/secrets/two")).body("after").send().await?.status().is_success())
    })
    .await?;
    let (status, text) = acme.fetch("visits", "/n").await?;
    assert!(status == StatusCode::OK && text.starts_with("2 visits"), "a refused call has no effect: {status} {text}");
    has_its_object(&acme.admin).await?;
    let key = acme.admin.key.clone();
    host.stop()?;
    let host = Host::start_with(&place, &[], &environment)?;
    let admin = host.sign_in(&key).await?;
    has_its_object(&admin).await?;
    let text = admin.fetch("/acme/visits/n").await?.1;
    assert!(text.starts_with("3 visits"), "{text}");
    let names = answer(admin.get("/tenants/acme/secrets").send().await?).await?;
    assert_eq!(names["items"].as_array().map(Vec::len), Some(2), "{}", json!(names));
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_heals() -> Result<()> {
    a_full_disk("sled").await?;
    a_full_disk("redb").await
}

#[tokio::test]
async fn a_full_second_place_of_audit_entries_refuses_what_must_be_recorded_until_there_is_room() -> Result<()> {
    let disk = Small::mount(4)?;
    let place = Place::new()?;
    let entries = disk.0.to_str().context("path")?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_AUDIT_ENTRIES", entries)])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let put =
        async |name: &str| acme.admin.put(&acme.path(&format!("/secrets/{name}"))).body(name.to_owned()).send().await;
    answer(put("before").await?).await?;

    let ballast = fill(&disk.0)?;
    // What is left of a page takes an entry or two.
    ringfence_tests::eventually("entries are refused", async || Ok(!put("during").await?.status().is_success()))
        .await?;
    let (status, refused) = problem(put("never").await?).await?;
    assert_eq!((status, string(&refused, "code")?.as_str()), (503, "audit-unavailable"), "{refused}");

    std::fs::remove_file(&ballast)?;
    ringfence_tests::eventually("entries are taken again", async || Ok(put("after").await?.status().is_success()))
        .await?;
    let names = answer(acme.admin.get(&acme.path("/secrets")).send().await?).await?.to_string();
    assert!(names.contains("before") && names.contains("after") && !names.contains("never"), "{names}");

    // Whoever has the files, the signed head and the key can check them without the host.
    let head = answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?;
    let checkpoint = place.data().with_extension("checkpoint");
    std::fs::write(&checkpoint, string(&head, "checkpoint")?)?;
    let folders = std::fs::read_dir(&disk.0)?.collect::<Result<Vec<_>, _>>()?;
    let folder = folders.iter().find(|folder| folder.file_name().to_string_lossy().starts_with("acme."));
    let output = Command::new(ringfence()?)
        .args(["--json", "audit", "verify", "--vkey", &string(&head, "vkey")?, "--checkpoint"])
        .arg(&checkpoint)
        .arg("--file")
        .arg(folder.context("the log's folder")?.path())
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn a_full_backup_directory_refuses_the_next_backup_and_leaves_the_earlier_ones_whole() -> Result<()> {
    let disk = Small::mount(12)?;
    let place = Place::new()?;
    let home = tempfile::tempdir()?;
    let config = home.path().join("ringfence.toml");
    std::fs::write(&config, format!("[backup]\npath = {:?}\n", disk.0))?;
    let config = config.to_str().context("path")?;
    let host = Host::start_with(&place, &["--config", config], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    for number in 0..40 {
        answer(acme.admin.put(&acme.path(&format!("/secrets/s{number}"))).body(vec![b'x'; 50_000]).send().await?)
            .await?;
    }
    let done = async |job: &Value| -> Result<Value> {
        let path = format!("/jobs/{}", string(job, "id")?);
        let mut last = Value::Null;
        ringfence_tests::eventually("the job ends", async || {
            last = answer(acme.admin.get(&path).send().await?).await?;
            Ok(last["state"] != "running" && last["state"] != "queued")
        })
        .await?;
        Ok(last)
    };
    let new = |body: Value| acme.admin.post("/tenants/acme/backups").json(&body).send();
    let first = done(&answer(new(json!({})).await?).await?).await?;
    assert_eq!(first["state"], "succeeded", "{first}");
    let free = rustix::fs::statvfs(&disk.0)?;
    // Room for a half.
    let ballast = usize::try_from(free.f_bavail * free.f_frsize)?.saturating_sub(1 << 20);
    std::fs::write(disk.0.join("ballast"), vec![1_u8; ballast])?;
    let second = done(&answer(new(json!({})).await?).await?).await?;
    assert_eq!((&second["state"], &second["error"]["code"]), (&json!("failed"), &json!("backups-full")), "{second}");
    let list = answer(acme.admin.get("/tenants/acme/backups").send().await?).await?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "no half backup is listed");
    let parts = files_under(&disk.0)?.into_iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "part"));
    assert_eq!(parts.count(), 0, "and none lies there");
    // The tenant's own data is elsewhere, and goes on.
    answer(acme.admin.put(&acme.path("/secrets/after")).body("full").send().await?).await?;
    let drill = format!("/tenants/acme/backups/{}/drill", string(&list["items"][0], "id")?);
    let drilled = done(&answer(acme.admin.post(&drill).send().await?).await?).await?;
    assert_eq!(drilled["state"], "succeeded", "{drilled}");
    std::fs::remove_file(disk.0.join("ballast"))?;
    let third = done(&answer(new(json!({})).await?).await?).await?;
    assert_eq!(third["state"], "succeeded", "{third}");
    Ok(())
}
