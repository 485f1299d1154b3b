//! Disks of the test's own: one that loses power, one that is full, one that cannot be written. They are mounted, which
//! needs root and a loop device, as CI has.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringfence_store::{Backend, DiskOptions, Key, Store, StoreError, TenantStore};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::support::{self, options, root, tenants, times, view};
use crate::victim::{Fates, check, note, there};
use crate::{Dice, runtime, seed};

const CUTS: usize = 30;
const IMAGE_BYTES: u64 = 96 << 20;
/// LIMIT: how long a store may take to write again once its disk has room.
const RECOVERY_WAIT: Duration = Duration::from_secs(60);

/// A mounted file system that is unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(arguments).arg(at));
        Self(at.to_owned())
    }
    fn tmpfs(mib: u32, at: &Path) -> Self {
        Self::new(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "ringfence-test"], at)
    }
    /// No commit of the file system's own while we look: what is on the disk is what somebody waited for.
    fn image(image: &Path, at: &Path) -> Self {
        Self::new(&["-o", "loop,commit=300", image.to_str().unwrap()], at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A database's own threads may let go of its files a moment after it was closed.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success()) {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said} (this needs root and loop devices)");
}

// === power ===

/// A victim writes on a file system in an image. At a random moment it is stopped and the image copied: what the kernel had
/// not written to it by then is lost, as when the power goes.
pub fn nothing_acknowledged_is_lost_when_the_power_goes(backend: Backend) {
    let seed = seed();
    println!("power cuts of {backend}: seed {seed}");
    let mut dice = Dice(seed);
    let place = tempfile::tempdir().unwrap();
    let _memory = Mounted::tmpfs(256, place.path());
    let (mut pairs, cuts, runtime) = (0, times(CUTS), runtime());
    let fresh = place.path().join("fresh.img");
    std::fs::File::create(&fresh).unwrap().set_len(IMAGE_BYTES).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&fresh));
    for round in 0..cuts {
        let (image, after) = (place.path().join("disk.img"), place.path().join("after.img"));
        copy_sparse(&fresh, &image);
        let lines = {
            let disk = Mounted::image(&image, &place.path().join("disk"));
            cut(backend, &disk.0, dice.roll(120) as usize, || copy_sparse(&image, &after))
        };
        let mut fates = Fates::new();
        note(&lines, &mut fates, 0);
        pairs += there(&fates);
        let disk = Mounted::image(&after, &place.path().join("after"));
        runtime.block_on(check(&disk.0, backend, &mut fates, round));
    }
    assert!(pairs > 50, "the victims got to write something: {pairs}");
    println!("test nothing_acknowledged_is_lost_when_the_power_goes ... ok ({backend}, {pairs} pairs, {cuts} cuts)");
}

/// Runs a victim until it said so many lines and a bit more, and takes the copy while it stands still; gives all that it
/// had said by then.
fn cut(backend: Backend, directory: &Path, lines: usize, copy: impl FnOnce()) -> Vec<String> {
    let mut victim = crate::victim(backend, directory);
    let mut output = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said: Vec<String> = output.by_ref().take(lines + 1).collect();
    let pid = Pid::from_child(&victim);
    kill_process(pid, Signal::STOP).unwrap();
    waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
    copy();
    kill_process(pid, Signal::KILL).unwrap();
    said.extend(output);
    victim.wait().unwrap();
    said
}

fn copy_sparse(from: &Path, to: &Path) {
    run(Command::new("cp").arg("--sparse=always").args([from, to]));
}

// === full, and read-only ===

pub fn a_disk_that_is_full_refuses_writes_and_loses_nothing(backend: Backend) {
    let (kept, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = Mounted::tmpfs(64, place.path());
    runtime().block_on(async {
        // sled never comes back from a disk without any space left: there the floor must refuse first. redb has to bear it.
        let free_bytes_min = if backend == Backend::Sled { 24 << 20 } else { 0 };
        let options = DiskOptions { free_bytes_min, ..options(backend) };
        let store = Store::open(&disk.0.join("data"), options).unwrap();
        let all = tenants(&store, root(kept.path())).await.unwrap();
        let acme = view(&all, "acme").await;
        let mut acknowledged = fill(&acme, 0).await;
        // A little larger while the store is open: it goes on by itself, and has all it said it has.
        run(Command::new("mount").args(["-o", "remount,size=110m"]).arg(&disk.0));
        let deadline = Instant::now() + RECOVERY_WAIT;
        while let Err(error) = acme.put(&Key::new(["between"]), *b"back").await {
            assert!(Instant::now() < deadline, "{backend} takes no writes again: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_there(&acme, acknowledged).await;
        // And full again, until it is closed and opened.
        acknowledged = fill(&acme, acknowledged).await;
        drop((acme, all));
        let _ = store.close().await;
        drop(store);
        // Larger again, as when an operator makes room.
        run(Command::new("mount").args(["-o", "remount,size=200m"]).arg(&disk.0));
        let store = Store::open(&disk.0.join("data"), options).unwrap();
        let all = tenants(&store, root(kept.path())).await.unwrap();
        let acme = view(&all, "acme").await;
        assert_there(&acme, acknowledged).await;
        acme.put(&Key::new(["after"]), *b"back").await.unwrap();
        store.close().await.unwrap();
        println!(
            "test a_disk_that_is_full_refuses_writes_and_loses_nothing ... ok ({backend}, {acknowledged} records)"
        );
    });
}

/// Writes records until one is refused; gives how many there are.
async fn fill(acme: &TenantStore, from: u64) -> u64 {
    let mut acknowledged = from;
    let refusal = loop {
        match acme.put(&Key::new(["n"]).number(acknowledged), vec![3_u8; 60_000]).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the disk is full at some time");
    };
    assert!(matches!(refusal, StoreError::Unavailable { .. } | StoreError::Full { .. }), "{refusal}");
    acknowledged
}

async fn assert_there(acme: &TenantStore, acknowledged: u64) {
    for number in 0..acknowledged {
        assert!(acme.get(&Key::new(["n"]).number(number)).await.unwrap().is_some(), "{number} of {acknowledged}");
    }
}

pub fn a_disk_that_cannot_be_written_is_a_clear_refusal_and_reads_come_back(backend: Backend) {
    let (kept, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = Mounted::tmpfs(64, place.path());
    let data = disk.0.join("data");
    runtime().block_on(async {
        let store = Store::open(&data, options(backend)).unwrap();
        let all = tenants(&store, root(kept.path())).await.unwrap();
        view(&all, "acme").await.put(&Key::new(["before"]), *b"v").await.unwrap();
        store.close().await.unwrap();
        drop((store, all));
        let before = support::files_below(&data);
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0));
        let refused = Store::open(&data, options(backend));
        let Err(StoreError::Unavailable { reason }) = &refused else { panic!("{refused:?}") };
        assert!(reason.contains("ead-only"), "{reason}");
        assert_eq!(support::files_below(&data), before);
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(&disk.0));
        let store = Store::open(&data, options(backend)).unwrap();
        let all = tenants(&store, root(kept.path())).await.unwrap();
        assert!(view(&all, "acme").await.get(&Key::new(["before"])).await.unwrap().is_some());
        store.close().await.unwrap();
        println!("test a_disk_that_cannot_be_written_is_a_clear_refusal_and_reads_come_back ... ok ({backend})");
    });
}
