//! The store under violence, in processes of its own: killed at random moments, and with writes that the system refuses.
//! Nothing acknowledged may be lost, no batch may be half there, and it must open again.
//!
//! A program without the usual harness, because it starts itself again as the victim: `kill victim <directory>`. What a
//! victim said can be checked later, against a copy of its disk for one: `kill verify <directory>` reads it from its input.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use ringfence_core::Entropy;
use ringfence_store::{Key, Op, StoreError, TenantStore};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Place, SystemEntropy, view};

const KILLS: usize = 20;
const WRITERS: u64 = 4;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "victim", directory] => runtime.block_on(write_forever(Path::new(directory))),
        [_, "verify", directory] => {
            let lines: Vec<String> = std::io::stdin().lines().map_while(Result::ok).collect();
            let mut fates = Fates::new();
            note(&lines, &mut fates, 0);
            runtime.block_on(check(Path::new(directory), &mut fates, 0));
            say(&format!("verified {}", fates.len()));
        }
        [_, "refused", directory] => runtime.block_on(write_until_refused(Path::new(directory))),
        _ => {
            runtime.block_on(nothing_acknowledged_is_lost_when_the_process_is_killed());
            a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_recovers();
        }
    }
    ExitCode::SUCCESS
}

fn pair(writer: u64, number: u64) -> [Key; 2] {
    ["one", "two"].map(|half| Key::new(["pair", half]).number(writer).number(number))
}

/// Each value says what it is, and every eighth is large enough to lie in a file.
fn value(writer: u64, number: u64) -> Vec<u8> {
    let length = if number % 8 == 7 { 70_000 } else { 100 };
    [&writer.to_be_bytes()[..], &number.to_be_bytes(), &vec![number as u8; length]].concat()
}

async fn last_number(acme: &TenantStore, writer: u64) -> Option<u64> {
    let page = acme.scan_back(&Key::new(["pair", "one"]).number(writer), None, 1).await.unwrap();
    page.records.first().and_then(|(key, _)| key.last_number())
}

/// The victim: writes pairs, deletes every fourth again, and prints each acknowledgement.
async fn write_forever(directory: &Path) {
    let (_store, tenants) = support::open(directory).await.unwrap();
    let acme = view(&tenants, "acme").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let acme = acme.clone();
        writers.spawn(async move { write_pairs(&acme, writer).await });
    }
    writers.join_all().await;
}

async fn write_pairs(acme: &TenantStore, writer: u64) {
    let first = last_number(acme, writer).await.map_or(0, |last| last + 1);
    for number in first.. {
        let put = pair(writer, number).map(|key| Op::put(key, value(writer, number))).into();
        let commit = acme.batch(put, vec![]).await.unwrap();
        say(&format!("put {writer} {number} {}", commit.revision));
        if number % 4 == 2 {
            // Said before and after: in between either outcome is right.
            say(&format!("deleting {writer} {number} 0"));
            let delete = pair(writer, number).map(Op::delete).into();
            let commit = acme.batch(delete, vec![]).await.unwrap();
            say(&format!("deleted {writer} {number} {}", commit.revision));
        }
    }
}

/// One system call a line, so that a kill cannot tear one.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    There(u64),
    Either,
    Gone,
}

type Fates = BTreeMap<(u64, u64), Fate>;

/// Takes in what a victim said; gives the newest revision.
fn note(lines: &[String], fates: &mut Fates, before: u64) -> u64 {
    let mut newest = before;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, writer, number, revision] = words[..] else { panic!("a torn line: {line}") };
        let [writer, number, revision] = [writer, number, revision].map(|word| word.parse::<u64>().unwrap());
        assert!(what == "deleting" || revision > before, "revisions go on above those of before the kill");
        newest = newest.max(revision);
        let fate = match what {
            "put" => Fate::There(revision),
            "deleting" => Fate::Either,
            "deleted" => Fate::Gone,
            _ => panic!("an unknown line: {line}"),
        };
        fates.insert((writer, number), fate);
    }
    newest
}

async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let place = Place::new();
    let mut fates = Fates::new();
    let mut newest = 0;
    for round in 0..KILLS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .arg("victim")
            .arg(place.directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let reader = std::thread::spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>());
        let mut random = [0; 2];
        SystemEntropy.fill(&mut random);
        std::thread::sleep(Duration::from_millis(u64::from(u16::from_be_bytes(random)) % 500));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let lines = reader.join().unwrap();
        newest = note(&lines, &mut fates, newest);
        check(place.directory.path(), &mut fates, round).await;
    }
    let there = fates.values().filter(|fate| matches!(fate, Fate::There(_))).count();
    assert!(there > 50, "the victim got to write something: {there}");
    println!(
        "test nothing_acknowledged_is_lost_when_the_process_is_killed ... ok ({} pairs, {KILLS} kills)",
        fates.len()
    );
}

async fn check(directory: &Path, fates: &mut Fates, round: usize) {
    let (store, tenants) = support::open(directory).await.unwrap();
    let acme = view(&tenants, "acme").await;
    for ((writer, number), fate) in fates.iter_mut() {
        let [one, two] = pair(*writer, *number);
        let (one, two) = (acme.get(&one).await.unwrap(), acme.get(&two).await.unwrap());
        assert_eq!(one, two, "round {round}: a batch is there whole or not at all");
        match (&*fate, one) {
            (Fate::There(revision), Some(record)) => {
                assert_eq!((record.revision, record.value.as_slice()), (*revision, value(*writer, *number).as_slice()));
            }
            (Fate::Either | Fate::Gone, None) => *fate = Fate::Gone,
            (Fate::Either, Some(record)) => *fate = Fate::There(record.revision),
            (fate, record) => panic!("round {round}: pair {writer}/{number} should be {fate:?} and is {record:?}"),
        }
    }
    // What was written and not acknowledged may be there; from now on it is.
    for writer in 0..WRITERS {
        if let Some(number) = last_number(&acme, writer).await {
            let records =
                [acme.get(&pair(writer, number)[0]).await.unwrap(), acme.get(&pair(writer, number)[1]).await.unwrap()];
            assert_eq!(records[0], records[1], "round {round}: the last batch is there whole or not at all");
            fates.entry((writer, number)).or_insert(Fate::There(records[0].as_ref().unwrap().revision));
        }
    }
    store.close().await.unwrap();
}

/// With a limit on the size of files the system refuses the database's next growth, as a full or failing disk does.
async fn write_until_refused(directory: &Path) {
    let (store, tenants) = support::open(directory).await.unwrap();
    let acme = view(&tenants, "acme").await;
    for number in 0..20 {
        acme.put(&Key::new(["before"]).number(number), vec![1_u8; 1_000]).await.unwrap();
    }
    let unlimited = getrlimit(Resource::Fsize);
    let size = directory.join("data/db/db").metadata().unwrap().len();
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
    say(&format!("recovered {acknowledged}"));
}

fn a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_recovers() {
    let place = Place::new();
    // Without this signal ignored the limit would end the process instead of refusing the write.
    let mut child = Command::new("env")
        .arg("--ignore-signal=XFSZ")
        .arg(std::env::current_exe().unwrap())
        .arg("refused")
        .arg(place.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(output.contains("recovered"), "{output}");
    println!(
        "test a_write_that_the_system_refuses_is_not_acknowledged_and_the_store_recovers ... ok ({})",
        output.trim()
    );
}
