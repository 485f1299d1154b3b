//! A disk that turns read-only under a running host: writes are refused with a code and without an effect, what was
//! acknowledged stays and is read. Where it takes writes again the host goes on by itself; where the kernel gave the file
//! system up for good, it goes on after the disk was mounted again. The disk is an ext4 image of the test's own; mounting it needs
//! root and a loop device, as CI has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, problem, string};
use serde_json::Value;
use tokio::task::JoinHandle;

/// Bytes of the image: over the floor of free space below which a store takes no writes.
const IMAGE_BYTES: u64 = 640 << 20;
/// Secrets that are there before the disk turns.
const BEFORE_COUNT: u32 = 20;
/// LIMIT: how long a file system may be busy after the host on it is gone.
const UNMOUNT_WAIT: Duration = Duration::from_secs(20);

/// A mounted image that is unmounted when dropped.
struct Disk {
    at: PathBuf,
    image: PathBuf,
    _home: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let (at, image) = (home.path().join("disk"), home.path().join("disk.img"));
        std::fs::create_dir(&at)?;
        std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let disk = Self { at, image, _home: home };
        disk.mount_image()?;
        Ok(disk)
    }

    fn mount_image(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.at]))
    }

    /// Its files take no writes, those that are open neither, until [`Disk::thaw`]. For when the store writes nothing any more: a
    /// disk turns in one moment, and this goes from file to file.
    fn freeze(&self) -> Result<()> {
        immutable(&self.at, "+i")
    }

    fn thaw(&self) -> Result<()> {
        immutable(&self.at, "-i")
    }

    /// The kernel finds an error and makes the file system read-only, files that are open with it. There is no way back but
    /// to mount it anew.
    fn give_up(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.at))
    }

    fn mount_again(&self) -> Result<()> {
        let started = Instant::now();
        while let Err(error) = run(Command::new("umount").arg(&self.at)) {
            ensure!(started.elapsed() < UNMOUNT_WAIT, "{error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount_image()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.thaw();
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn immutable(below: &Path, how: &str) -> Result<()> {
    // What comes and goes while it walks is none of its business; that the disk refuses is seen by the test.
    Command::new("chattr").args(["-R", "-f", how]).arg(below).output()?;
    Ok(())
}

/// Says why nothing is tested.
fn is_skipped() -> bool {
    let skipped = !rustix::process::geteuid().is_root();
    if skipped {
        println!("skipped: mounting a disk needs root");
    }
    skipped
}

fn name(number: u32) -> String {
    format!("s{number:04}")
}

/// Sets secrets one after the other until one is refused; gives how many were acknowledged, and the refusal.
fn set_until_refused(admin: Session, from: u32) -> JoinHandle<Result<(u32, u16, Value)>> {
    tokio::spawn(async move {
        let mut number = from;
        loop {
            let path = format!("/tenants/acme/secrets/{}", name(number));
            let response = admin.put(&path).body("value").send().await?;
            if !response.status().is_success() {
                let (status, refused) = problem(response).await?;
                return Ok((number, status, refused));
            }
            number += 1;
            ensure!(number < 900, "the disk takes writes still");
        }
    })
}

async fn names(admin: &Session) -> Result<Vec<String>> {
    let page = answer(admin.get("/tenants/acme/secrets?limit=1000").send().await?).await?;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    let mut names = items.iter().map(|item| string(item, "name")).collect::<Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

fn assert_refused(status: u16, refused: &Value) {
    assert!(matches!(status, 503 | 507), "{status}: {refused}");
    let code = refused["code"].as_str().unwrap_or_default();
    assert!(matches!(code, "audit-unavailable" | "store-full" | "store-unavailable"), "{refused}");
}

/// What holds while nothing can be written: the process is up and says that it is not ready, refuses writes, and a read is
/// answered in full or refused, never with less than there is. Gives which it was.
async fn nothing_is_written(host: &Host, acme: &Tenant, acknowledged: u32) -> Result<StatusCode> {
    for _ in 0..3 {
        let (status, refused) = problem(acme.admin.put(&acme.path("/secrets/late")).body("late").send().await?).await?;
        assert_refused(status, &refused);
    }
    assert_eq!(reqwest::get(format!("{}/healthz", host.control)).await?.status(), StatusCode::OK);
    let ready = reqwest::get(format!("{}/readyz", host.control)).await?;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let read = acme.admin.get(&acme.path("/secrets?limit=1000")).send().await?;
    let read_status = read.status();
    if read_status == StatusCode::OK {
        let page = answer(read).await?;
        assert!(page["items"].as_array().map_or(0, Vec::len) >= acknowledged as usize, "{page}");
    } else {
        let (status, refused) = problem(read).await?;
        assert_refused(status, &refused);
    }
    let call = acme.fetch("hello", "/").await?.0;
    assert!(matches!(call, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE), "{call}");
    Ok(read_status)
}

/// A tenant with a plugin on a new disk.
async fn begun(place: &Place, environment: &[(&str, &str)]) -> Result<(Host, Tenant)> {
    let host = Host::start_with(place, &[], environment)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::OK);
    for number in 0..BEFORE_COUNT {
        answer(acme.admin.put(&acme.path(&format!("/secrets/{}", name(number)))).body("value").send().await?).await?;
    }
    Ok((host, acme))
}

/// All that were acknowledged are there; of the one whose answer was a refusal nobody knows, and of no other.
fn assert_kept(there: &[String], acknowledged: u32) {
    for number in 0..acknowledged {
        assert!(there.contains(&name(number)), "{} of {acknowledged} is lost", name(number));
    }
    let known = |one: &String| *one == name(acknowledged) || (0..acknowledged).any(|number| *one == name(number));
    assert!(there.iter().all(|one| known(one) || one == "late" || one == "after"), "{there:?}");
}

async fn a_disk_that_takes_no_writes_for_a_while(backend: &str) -> Result<()> {
    let disk = Disk::mount()?;
    let place = Place::inside(&disk.at)?;
    let environment = [("RINGFENCE_STORE_BACKEND", backend)];
    let (host, acme) = begun(&place, &environment).await?;
    let writing = set_until_refused(acme.admin.clone(), BEFORE_COUNT);
    // What the store writes before it asks its database: nothing is in doubt then.
    run(Command::new("chattr").arg("+i").arg(place.data().join("store/mark")))?;
    let (acknowledged, status, refused) = writing.await??;
    assert_refused(status, &refused);
    disk.freeze()?;
    for _ in 0..3 {
        assert_eq!(nothing_is_written(&host, &acme, acknowledged).await?, StatusCode::OK, "reads go on");
    }
    assert_eq!(names(&acme.admin).await?.len(), acknowledged as usize, "a refused write has no effect");

    disk.thaw()?;
    eventually("writes are taken again, by the same process", async || {
        Ok(acme.admin.put(&acme.path("/secrets/after")).body("after").send().await?.status().is_success())
    })
    .await?;
    eventually("the host is ready, and the plugin answers", async || {
        let ready = reqwest::get(format!("{}/readyz", host.control)).await?.status();
        Ok(ready == StatusCode::OK && acme.fetch("hello", "/").await?.0 == StatusCode::OK)
    })
    .await?;
    let there = names(&acme.admin).await?;
    assert_kept(&there, acknowledged);
    assert!(there.contains(&"after".to_owned()));
    let key = acme.admin.key.clone();
    host.stop()?;
    let host = Host::start_with(&place, &[], &environment)?;
    assert_eq!(names(&host.sign_in(&key).await?).await?, there);
    host.stop()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_writes_for_a_while_is_refused_and_heals_without_a_restart() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    a_disk_that_takes_no_writes_for_a_while("sled").await?;
    a_disk_that_takes_no_writes_for_a_while("redb").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_the_kernel_made_read_only_loses_nothing_that_was_acknowledged() -> Result<()> {
    if is_skipped() {
        return Ok(());
    }
    let disk = Disk::mount()?;
    let place = Place::inside(&disk.at)?;
    let (host, acme) = begun(&place, &[]).await?;
    let writing = set_until_refused(acme.admin.clone(), BEFORE_COUNT);
    disk.give_up()?;
    let (acknowledged, status, refused) = writing.await??;
    assert_refused(status, &refused);
    nothing_is_written(&host, &acme, acknowledged).await?;
    let key = acme.admin.key.clone();
    // It holds files of a file system that never takes writes again.
    host.kill()?;
    disk.mount_again()?;
    let host = Host::start(&place)?;
    let admin = host.sign_in(&key).await?;
    answer(admin.put("/tenants/acme/secrets/after").body("after").send().await?).await?;
    assert_kept(&names(&admin).await?, acknowledged);
    assert_eq!(admin.fetch("/acme/hello/").await?.0, StatusCode::OK);
    host.stop()?;
    Ok(())
}
