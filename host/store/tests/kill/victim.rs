//! The victim, which writes until it is killed and says what was acknowledged; and the judge, who compares.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use ringfence_store::{Backend, Key, Op, TenantStore};

use crate::support::{self, view};

const WRITERS: u64 = 4;

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
pub async fn write_forever(directory: &Path, backend: Backend) {
    let (_store, tenants) = support::open(directory, backend).await.unwrap();
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
    // The number may be one that was deleted at the end of a run before.
    say(&format!("either {writer} {first} 0"));
    for number in first.. {
        let put = pair(writer, number).map(|key| Op::put(key, value(writer, number))).into();
        let commit = acme.batch(put, vec![]).await.unwrap();
        say(&format!("put {writer} {number} {}", commit.revision));
        if number % 4 == 2 {
            // Said before and after: in between either outcome is right.
            say(&format!("either {writer} {number} 0"));
            let delete = pair(writer, number).map(Op::delete).into();
            let commit = acme.batch(delete, vec![]).await.unwrap();
            say(&format!("deleted {writer} {number} {}", commit.revision));
        }
    }
}

/// One system call a line, so that a kill cannot tear one.
pub fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    There(u64),
    Either,
    Gone,
}

pub type Fates = BTreeMap<(u64, u64), Fate>;

/// Takes in what a victim said; gives the newest revision.
pub fn note(lines: &[String], fates: &mut Fates, before: u64) -> u64 {
    let mut newest = before;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, writer, number, revision] = words[..] else { panic!("a torn line: {line}") };
        let [writer, number, revision] = [writer, number, revision].map(|word| word.parse::<u64>().unwrap());
        assert!(what == "either" || revision > before, "revisions go on above those of before the kill");
        newest = newest.max(revision);
        let fate = match what {
            "put" => Fate::There(revision),
            "either" => Fate::Either,
            "deleted" => Fate::Gone,
            _ => panic!("an unknown line: {line}"),
        };
        fates.insert((writer, number), fate);
    }
    newest
}

/// Opens, compares with what was said, and takes over what is there beyond it.
pub async fn check(directory: &Path, backend: Backend, fates: &mut Fates, round: usize) {
    let (store, tenants) = support::open(directory, backend).await.unwrap();
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

/// How many pairs must be there.
pub fn there(fates: &Fates) -> usize {
    fates.values().filter(|fate| matches!(fate, Fate::There(_))).count()
}
