//! The store under violence, in processes of its own: killed at random moments, cut off from power, opened twice, and with
//! writes that the system refuses. Nothing acknowledged may be lost, no batch may be half there, and it must open again.
//!
//! A program without the usual harness, because it starts itself again as the victim: `kill victim <backend> <directory>`.
//! The counts grow with `RINGFENCE_TORTURE`; every random run prints its seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod disk;
#[path = "../support/mod.rs"]
mod support;
mod victim;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringfence_core::Entropy;
use ringfence_store::{Backend, Key, Store, StoreError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Place, SystemEntropy, times, view};
use victim::{Fates, check, note, there};

const KILLS: usize = 100;
/// A directory is used for so many kills before the next begins anew, so that looking at it stays quick.
const KILLS_OF_A_DIRECTORY: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [_, "victim", backend, directory] => {
            runtime().block_on(victim::write_forever(Path::new(directory), Backend::from_name(backend).unwrap()));
        }
        [_, "refused", backend, directory] => {
            runtime().block_on(write_until_refused(Path::new(directory), Backend::from_name(backend).unwrap()));
        }
        _ => std::thread::scope(|scope| {
            for backend in Backend::ALL {
                scope.spawn(move || nothing_acknowledged_is_lost_when_the_process_is_killed(backend));
                scope.spawn(move || {
                    a_second_process_is_refused_by_name_until_the_first_is_gone(backend);
                    a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_recovers(backend);
                    disk::a_disk_that_cannot_be_written_is_a_clear_refusal_and_reads_come_back(backend);
                    disk::a_disk_that_is_full_refuses_writes_and_loses_nothing(backend);
                    disk::nothing_acknowledged_is_lost_when_the_power_goes(backend);
                });
            }
        }),
    }
    ExitCode::SUCCESS
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A number to begin random things with.
fn seed() -> u64 {
    let mut random = [0; 8];
    SystemEntropy.fill(&mut random);
    u64::from_be_bytes(random)
}

/// Random numbers from a seed (SplitMix64, Steele and others 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }
}

fn nothing_acknowledged_is_lost_when_the_process_is_killed(backend: Backend) {
    let seed = seed();
    println!("kills of {backend}: seed {seed}");
    let (mut dice, mut pairs, runtime) = (Dice(seed), 0, runtime());
    let kills = times(KILLS);
    for first in (0..kills).step_by(KILLS_OF_A_DIRECTORY) {
        let place = Place::on(backend);
        let (mut fates, mut newest) = (Fates::new(), 0);
        for round in first..(first + KILLS_OF_A_DIRECTORY).min(kills) {
            // Some while it opens, some at a time, some after so many writes.
            let lines = match dice.roll(2) {
                0 => killed_after(&place, Duration::from_micros(dice.roll(150_000)), usize::MAX),
                _ => killed_after(&place, Duration::from_secs(30), dice.roll(60) as usize),
            };
            newest = note(&lines, &mut fates, newest);
            runtime.block_on(check(place.directory.path(), backend, &mut fates, round));
        }
        pairs += there(&fates);
    }
    assert!(pairs > 50, "the victims got to write something: {pairs}");
    println!(
        "test nothing_acknowledged_is_lost_when_the_process_is_killed ... ok ({backend}, {pairs} pairs, {kills} kills)"
    );
}

/// Starts a victim and kills it after a time or so many acknowledgements, whichever comes first; gives what it said.
fn killed_after(place: &Place, time: Duration, acknowledged: usize) -> Vec<String> {
    let mut victim = victim(place.backend, place.directory.path());
    let output = BufReader::new(victim.stdout.take().unwrap());
    let (enough, is_enough) = std::sync::mpsc::channel();
    let said = AtomicUsize::new(0);
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok).inspect(|_| {
            if said.fetch_add(1, Ordering::Relaxed) == acknowledged {
                let _ = enough.send(());
            }
        });
        lines.collect::<Vec<_>>()
    });
    let _ = is_enough.recv_timeout(time);
    victim.kill().unwrap();
    victim.wait().unwrap();
    reader.join().unwrap()
}

fn victim(backend: Backend, directory: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["victim", backend.name()])
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn a_second_process_is_refused_by_name_until_the_first_is_gone(backend: Backend) {
    let place = Place::on(backend);
    let mut first = victim(backend, place.directory.path());
    // What it says first it says once it has the store open; and it needs somebody who could listen.
    let mut output = BufReader::new(first.stdout.take().unwrap());
    let mut said = String::new();
    output.read_line(&mut said).unwrap();
    let second = Store::open(&place.data(), place.options());
    assert!(matches!(&second, Err(StoreError::InUse { path }) if *path == place.data()), "{second:?}");
    assert!(first.try_wait().unwrap().is_none(), "the first goes on: {said}");
    first.kill().unwrap();
    first.wait().unwrap();
    let store = Store::open(&place.data(), place.options()).unwrap();
    runtime().block_on(store.close()).unwrap();
    println!("test a_second_process_is_refused_by_name_until_the_first_is_gone ... ok ({backend})");
}

/// With a limit on the size of files the system refuses the database's next growth, as a full or failing disk does.
async fn write_until_refused(directory: &Path, backend: Backend) {
    let (store, tenants) = support::open(directory, backend).await.unwrap();
    let acme = view(&tenants, "acme").await;
    for number in 0..20 {
        acme.put(&Key::new(["before"]).number(number), vec![1_u8; 1_000]).await.unwrap();
    }
    let unlimited = getrlimit(Resource::Fsize);
    let size = directory.join("data").join(support::database(backend)).metadata().unwrap().len();
    setrlimit(Resource::Fsize, Rlimit { current: Some(size + (1 << 20)), maximum: unlimited.maximum }).unwrap();
    let mut acknowledged = 0;
    let refusal = loop {
        match acme.put(&Key::new(["during"]).number(acknowledged), vec![2_u8; 60_000]).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the limit holds");
    };
    assert!(matches!(refusal, StoreError::Unavailable { .. }), "{refusal}");
    setrlimit(Resource::Fsize, unlimited).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    // Nobody has to write for it to come back: who reads first would wait for good.
    while let Err(error) = acme.get(&Key::new(["before"]).number(0)).await {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(std::time::Instant::now() < deadline, "it never came back by itself: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    loop {
        match acme.put(&Key::new(["after"]), *b"back").await {
            Ok(_) => break,
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
                assert!(std::time::Instant::now() < deadline, "it never came back: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    for number in 0..20 {
        assert!(acme.get(&Key::new(["before"]).number(number)).await.unwrap().is_some());
    }
    for number in 0..acknowledged {
        assert!(acme.get(&Key::new(["during"]).number(number)).await.unwrap().is_some(), "{number} of {acknowledged}");
    }
    store.close().await.unwrap();
    victim::say(&format!("recovered {acknowledged}"));
}

fn a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_recovers(backend: Backend) {
    let place = Place::on(backend);
    // Without this signal ignored the limit would end the process instead of refusing the write.
    let mut child = Command::new("env")
        .arg("--ignore-signal=XFSZ")
        .arg(std::env::current_exe().unwrap())
        .args(["refused", backend.name()])
        .arg(place.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(output.contains("recovered"), "{output}");
    println!(
        "test a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_recovers ... ok ({backend}, {})",
        output.trim()
    );
}
