//! What each role is given of a log verifies, and what anybody did to it never does; what could not be checked is counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use ringfence_audit::export::{Checked, Content, ExportError, Row, Table, check};
use ringfence_audit::verify::{Claim, Fault, Verified, verify_claim};
use ringfence_audit::{Entry, Event, Selection, Shown, redact};
use ringfence_core::Role;
use serde_json::{Value, json};
use world::made::{COUNT, Made, OLDER, with};
use world::pushed;

const ROLES: [Role; 2] = [Role::TenantAdmin, Role::Auditor];

/// What of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Whole,
    Part,
    Sample,
}

const SHAPES: [Shape; 3] = [Shape::Whole, Shape::Part, Shape::Sample];

/// A log of which every second entry has what an auditor does not see.
async fn made() -> Made {
    Made::of(|n| Event { source_ip: n.is_multiple_of(2).then(|| "192.0.2.7".parse().unwrap()), ..pushed() }).await
}

async fn content(made: &Made, role: Role, shape: Shape, tables: bool) -> Content {
    let take_out = |entry: &mut Entry| redact(Some(role), entry);
    let some = |seq: u64, _: &Entry| seq % 3 != 1;
    let (from, to) = if shape == Shape::Part { (5, 25) } else { (0, COUNT) };
    let selection = Selection {
        from,
        to: Some(to),
        keep: if shape == Shape::Sample { Some(&some) } else { None },
        redact: &take_out,
        query: json!({}),
        csv: tables.then_some(Table),
        parquet: tables.then_some(Table),
    };
    made.audit.export(&made.log, selection).await.unwrap().0
}

/// What is said of an archive that the operator made of this, and signed.
fn said(made: &Made, content: &Content, previous: Option<&str>) -> Result<Checked, ExportError> {
    check(made.audit.archive(&made.log, content).unwrap().as_slice(), Some(&made.vkey), previous)
}

fn bare_count(rows: &[Row]) -> u64 {
    rows.iter().filter(|row| row.entry.salt.is_empty()).count() as u64
}

/// The first row whose body has its salt, or has none.
fn row_with(content: &mut Content, salted: bool) -> &mut Row {
    content.rows.iter_mut().find(|row| row.entry.salt.is_empty() != salted).unwrap()
}

fn forge(row: &mut Row) -> u64 {
    row.entry.body.as_mut().unwrap()["actor"]["user"]["uid"] = json!("acme/canary-eve");
    row.seq
}

fn is_body_fault(said: Result<Checked, ExportError>, seq: u64) -> bool {
    said == Err(ExportError::Entries(Fault::BodyAltered { seq }))
}

#[tokio::test]
async fn an_untouched_archive_of_any_role_verifies_and_what_is_not_proven_is_counted() {
    let made = made().await;
    for role in ROLES {
        for (shape, tables, previous) in
            SHAPES.into_iter().flat_map(|shape| [(shape, false, None), (shape, true, Some(made.older.as_str()))])
        {
            let content = content(&made, role, shape, tables).await;
            let checked = said(&made, &content, previous).unwrap();
            let bare = bare_count(&content.rows);
            assert_eq!(bare > 0, role == Role::Auditor, "{role:?} {shape:?}");
            assert!(bare < content.rows.len() as u64);
            assert_eq!((checked.bodies_withheld, checked.bodies_bare), (bare, bare), "{role:?} {shape:?} {tables}");
            let unreached = previous.filter(|_| shape != Shape::Whole).map(|_| OLDER);
            assert_eq!((checked.whole, checked.unreached), (shape == Shape::Whole, unreached), "{role:?} {shape:?}");
            assert_eq!(checked.manifest.redacted.is_empty(), role == Role::TenantAdmin);
        }
    }
}

#[tokio::test]
async fn whoever_signs_it_anew_a_body_is_proven_or_is_counted_as_not_proven() {
    let made = made().await;
    for (role, shape, tables) in ROLES
        .into_iter()
        .flat_map(|role| SHAPES.into_iter().flat_map(move |shape| [false, true].map(|tables| (role, shape, tables))))
    {
        let what = format!("{role:?} {shape:?} {tables}");
        let untouched = content(&made, role, shape, tables).await;
        let bare = bare_count(&untouched.rows);

        let mut forged = untouched.clone();
        let seq = forge(row_with(&mut forged, true));
        assert!(is_body_fault(said(&made, &forged, None), seq), "{what}: a body with its salt");

        let mut hollow = untouched.clone();
        let row = row_with(&mut hollow, true);
        row.entry.salt = "00".repeat(32);
        let seq = row.seq;
        assert!(is_body_fault(said(&made, &hollow, None), seq), "{what}: another salt");

        let mut stripped = untouched.clone();
        let row = row_with(&mut stripped, true);
        row.entry.salt.clear();
        let seq = forge(row);
        if role == Role::TenantAdmin {
            assert!(is_body_fault(said(&made, &stripped, None), seq), "{what}: nothing was taken out, it says");
            stripped.redacted.push("src_endpoint".to_owned());
        }
        let checked = said(&made, &stripped, None).unwrap();
        let counts = (checked.bodies_withheld, checked.bodies_bare);
        assert_eq!(counts, (bare + 1, bare + 1), "{what}: a forged body without salt is none that was checked");
    }
}

/// The archive with a text in its entries changed by somebody without the key.
fn changed(archive: &[u8], from: &str, to: &str) -> Vec<u8> {
    with(archive, "entries.jsonl", |text| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

#[tokio::test]
async fn an_archive_that_somebody_without_the_key_changed_never_verifies() {
    let made = made().await;
    for (role, shape) in ROLES.into_iter().flat_map(|role| SHAPES.map(|shape| (role, shape))) {
        let content = content(&made, role, shape, false).await;
        let archive = made.audit.archive(&made.log, &content).unwrap();
        assert!(check(archive.as_slice(), Some(&made.vkey), None).is_ok());
        // The first body of each is one with an address: an auditor's has no salt.
        for (from, to) in
            [("canary-ada", "canary-eve"), ("\"salt\":\"", "\"salt\":\"0"), ("canary-visits", "canary-others")]
        {
            let found = check(changed(&archive, from, to).as_slice(), Some(&made.vkey), None);
            assert_eq!(found, Err(ExportError::FileAltered("entries.jsonl".to_owned())), "{role:?} {shape:?} {from}");
        }
    }
}

fn of_lines(made: &Made, head: &str, lines: &[String], may_lack_salts: bool) -> Result<Verified, Fault> {
    let origin = made.audit.origin(&made.log);
    let claim = Claim { previous: Some(&made.older), may_lack_salts, ..Claim::new(&origin, &made.vkey, head) };
    verify_claim(&claim, lines.iter().map(|line| Shown::Line(line)))
}

#[tokio::test]
async fn lines_of_any_role_verify_and_lines_of_the_second_place_prove_no_body() {
    let made = made().await;
    let head = made.audit.checkpoint(&made.log).await.unwrap().text;
    let text = |lines: &[Value]| -> Vec<String> { lines.iter().map(Value::to_string).collect() };
    for role in ROLES {
        let content = content(&made, role, Shape::Whole, false).await;
        let bare = bare_count(&content.rows);
        let lines: Vec<Value> = content.rows.iter().map(|row| serde_json::to_value(row).unwrap()).collect();
        let verified = of_lines(&made, &head, &text(&lines), true).unwrap();
        assert_eq!((verified.entries, verified.bodies_withheld, verified.bodies_bare), (COUNT, bare, bare), "{role:?}");
        let strict = of_lines(&made, &head, &text(&lines), false);
        let expected = if bare == 0 { Ok(verified) } else { Err(Fault::BodyAltered { seq: content.rows[0].seq }) };
        assert_eq!(strict, expected, "{role:?}: where all have their salts, one without is at fault");
        let mut forged = lines.clone();
        forged[1]["body"]["actor"]["user"]["uid"] = json!("acme/canary-eve");
        assert_eq!(of_lines(&made, &head, &text(&forged), true), Err(Fault::BodyAltered { seq: 1 }), "{role:?}");
        forged[1]["salt"] = json!("");
        let verified = of_lines(&made, &head, &text(&forged), true).unwrap();
        assert_eq!(verified.bodies_bare, bare + 1, "{role:?}: without its salt it is none that was checked");
        let mut elsewhere = lines;
        elsewhere[3]["seq"] = json!(4);
        assert_eq!(of_lines(&made, &head, &text(&elsewhere), true), Err(Fault::Altered { seq: 3 }), "{role:?}");
    }
    let content = content(&made, Role::TenantAdmin, Shape::Whole, false).await;
    let sealed = |row: &Row| json!({"seq": row.seq, "leaf_hash": row.entry.leaf_hash, "envelope": row.entry.envelope, "sealed": "AAAA"});
    let lines: Vec<Value> = content.rows.iter().map(sealed).collect();
    let verified = of_lines(&made, &head, &text(&lines), true).unwrap();
    assert_eq!((verified.bodies_withheld, verified.bodies_bare), (COUNT, 0), "what is sealed is not checked");
}
