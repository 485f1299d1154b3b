//! An export is checked without the host, and whatever is done to it is found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use ringfence_audit::export::{Coverage, ExportError, Row, Table, check};
use ringfence_audit::verify::Fault;
use ringfence_audit::{Entry, Selection, codes};
use serde_json::json;
use world::made::{Made, with};
use world::{event, pushed};

fn nothing(_: &mut Entry) -> Vec<String> {
    Vec::new()
}

fn range(from: u64, to: u64) -> Selection<'static> {
    Selection {
        from,
        to: Some(to),
        keep: None,
        redact: &nothing,
        query: json!({"from": from}),
        csv: Some(Table),
        parquet: Some(Table),
    }
}

async fn made() -> Made {
    Made::of(|n| if n % 4 == 0 { event(codes::SECRET_WRITTEN, json!({"n": n})) } else { pushed() }).await
}

async fn archive(made: &Made, selection: Selection<'_>) -> Vec<u8> {
    let (content, cut) = made.audit.export(&made.log, selection).await.unwrap();
    assert!(!cut);
    made.audit.archive(&made.log, &content).unwrap()
}

#[tokio::test]
async fn whole_partial_and_filtered_exports_verify_with_the_key_alone() {
    let made = made().await;
    let whole = check(archive(&made, range(0, 100)).await.as_slice(), Some(&made.vkey), None).unwrap();
    assert_eq!((whole.whole, whole.manifest.entries_count, whole.bodies_withheld), (true, 40, 0));
    let part = check(archive(&made, range(5, 25)).await.as_slice(), Some(&made.vkey), None).unwrap();
    assert_eq!((part.whole, part.manifest.first_seq, part.manifest.last_seq), (false, Some(5), Some(24)));
    let keep = |_: u64, entry: &Entry| entry.envelope.contains("SEC-001");
    let selection = Selection { keep: Some(&keep), ..range(0, 100) };
    let filtered = check(archive(&made, selection).await.as_slice(), Some(&made.vkey), None).unwrap();
    assert_eq!((filtered.manifest.coverage, filtered.manifest.entries_count), (Coverage::Filtered, 10));
    let empty = check(archive(&made, range(7, 7)).await.as_slice(), Some(&made.vkey), None).unwrap();
    assert_eq!(empty.manifest.entries_count, 0);
}

#[tokio::test]
async fn a_redacted_body_is_counted_and_not_taken_for_an_altered_one() {
    let made = made().await;
    let redact = |entry: &mut Entry| {
        entry.salt.clear();
        entry.body.as_mut().unwrap()["actor"] = json!("redacted");
        vec!["actor".to_owned()]
    };
    let selection = Selection { redact: &redact, ..range(3, 9) };
    let checked = check(archive(&made, selection).await.as_slice(), Some(&made.vkey), None).unwrap();
    assert_eq!((checked.bodies_withheld, checked.manifest.redacted), (6, vec!["actor".to_owned()]));
}

#[tokio::test]
async fn every_changed_file_is_named() {
    let made = made().await;
    let archive = archive(&made, range(5, 25)).await;
    for name in
        ["entries.jsonl", "entries.csv", "checkpoint", "vkey", "VERIFY.md", "proof-5.tlog-proof", "manifest.json"]
    {
        let changed = with(&archive, name, |text| {
            let at = text.rfind(|c: char| c.is_ascii_alphanumeric()).unwrap();
            format!("{}{}{}", &text[..at], if &text[at..=at] == "1" { "2" } else { "1" }, &text[at + 1..])
        });
        let error = check(changed.as_slice(), Some(&made.vkey), None).unwrap_err();
        let manifest = ExportError::NotAnExport("`manifest.json` cannot be read".to_owned());
        assert!(error == ExportError::FileAltered(name.to_owned()) || error == manifest, "{name}: {error}");
    }
    let unsigned = with(&archive, "manifest.note", |text| text.replace("acme", "evil"));
    assert_eq!(check(unsigned.as_slice(), Some(&made.vkey), None).unwrap_err(), ExportError::BadSignature);
    assert!(check(&archive[..archive.len() / 2], Some(&made.vkey), None).is_err());
    assert!(check(b"not a tar file".as_slice(), Some(&made.vkey), None).is_err());
}

/// An operator without scruples: rewrites rows and signs the export again.
async fn resigned(
    made: &Made,
    selection: Selection<'_>,
    change: impl FnOnce(&mut Vec<Row>),
) -> Result<(), ExportError> {
    let (mut content, _) = made.audit.export(&made.log, selection).await.unwrap();
    change(&mut content.rows);
    let archive = made.audit.archive(&made.log, &content).unwrap();
    check(archive.as_slice(), Some(&made.vkey), None).map(drop)
}

#[tokio::test]
async fn truncation_rewriting_reordering_and_splicing_are_found_even_when_signed_anew() {
    let made = made().await;
    let fault = |result: Result<(), ExportError>| match result.unwrap_err() {
        ExportError::Entries(fault) => fault,
        other => panic!("{other}"),
    };
    let removed = resigned(&made, range(0, 40), |rows| drop(rows.remove(7))).await;
    assert_eq!(fault(removed), Fault::Missing { seq: 7 });
    let cut = resigned(&made, range(5, 25), |rows| rows.truncate(10)).await;
    assert_eq!(fault(cut), Fault::Altered { seq: 14 }, "its last entry has no proof");
    let rewritten = resigned(&made, range(5, 25), |rows| {
        rows[4].entry.envelope = rows[4].entry.envelope.replace("Success", "Failure");
    });
    assert_eq!(fault(rewritten.await), Fault::Altered { seq: 9 });
    let without_leaf = resigned(&made, range(5, 25), |rows| {
        rows[4].entry.envelope = rows[4].entry.envelope.replace("Success", "Failure");
        rows[4].entry.leaf_hash.clear();
    });
    assert_eq!(fault(without_leaf.await), Fault::Altered { seq: 10 }, "the one after it points back to another");
    for (from, to) in [(0, 40), (5, 25)] {
        let leaf = resigned(&made, range(from, to), |rows| rows[4].entry.leaf_hash = "ab".repeat(32));
        assert_eq!(
            fault(leaf.await),
            Fault::Altered { seq: from + 4 },
            "also when only the leaf hash beside it is another"
        );
    }
    let swapped = resigned(&made, range(5, 25), |rows| rows.swap(3, 4)).await;
    assert_eq!(fault(swapped), Fault::Missing { seq: 8 });
    let body = resigned(&made, range(5, 25), |rows| rows[0].entry.body.as_mut().unwrap()["time"] = json!(1)).await;
    assert_eq!(fault(body), Fault::BodyAltered { seq: 5 });
    let keep = |seq: u64, _: &Entry| seq.is_multiple_of(3);
    let spliced = resigned(&made, Selection { keep: Some(&keep), ..range(0, 40) }, |rows| {
        rows[2].entry = rows[3].entry.clone();
    });
    assert_eq!(fault(spliced.await), Fault::Altered { seq: 6 });
}

#[tokio::test]
async fn another_history_of_the_same_length_is_a_fork() {
    let (one, two) = (made().await, made().await);
    let older = one.audit.checkpoint(&one.log).await.unwrap().text;
    let archive = archive(&two, range(0, 40)).await;
    // Both worlds roll the same dice, so they have one key; their clocks and so their entries differ after this.
    let kept = check(archive.as_slice(), Some(&two.vkey), Some(&older));
    assert!(kept.is_ok(), "the same history is no fork");
    two.audit.record(&two.log, pushed()).await.unwrap();
    one.audit.record(&one.log, event(codes::TENANT_DELETED, json!({}))).await.unwrap();
    let older = one.audit.checkpoint(&one.log).await.unwrap().text;
    let (content, _) = two.audit.export(&two.log, range(0, 100)).await.unwrap();
    let archive = two.audit.archive(&two.log, &content).unwrap();
    let fault = check(archive.as_slice(), Some(&two.vkey), Some(&older)).unwrap_err();
    assert_eq!(fault, ExportError::Entries(Fault::RolledBack));
    // A part says it of a head of its own size; of an older one it says that it does not reach it.
    let (content, _) = two.audit.export(&two.log, range(5, 9)).await.unwrap();
    let part = two.audit.archive(&two.log, &content).unwrap();
    let fault = check(part.as_slice(), Some(&two.vkey), Some(&older)).unwrap_err();
    assert_eq!(fault, ExportError::Entries(Fault::RolledBack));
    let size = two.audit.size(&two.log).await.unwrap();
    let same = two.audit.checkpoint(&two.log).await.unwrap().text;
    two.audit.record(&two.log, pushed()).await.unwrap();
    let (content, _) = two.audit.export(&two.log, range(5, 9)).await.unwrap();
    let part = two.audit.archive(&two.log, &content).unwrap();
    let checked = check(part.as_slice(), Some(&two.vkey), Some(&same)).unwrap();
    assert_eq!((checked.whole, checked.unreached), (false, Some(size)));
}
