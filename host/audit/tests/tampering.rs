//! Whatever is done to a log after it was signed is found, and the place is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

use proptest::prelude::*;
use ringfence_audit::envelope::{canonical_body, commitment, genesis, hex, link};
use ringfence_audit::note::{SignedHead, Verifier, checkpoint_text, seal_note};
use ringfence_audit::tree::{Hash, leaf_hash, root};
use ringfence_audit::verify::{Claim, Fault, verify, verify_claim};
use ringfence_audit::{Entry, Shown};
use ringfence_core::Entropy;
use ringfence_keys::SigningKey;
use serde_json::json;

struct Fixed(u8);
impl Entropy for Fixed {
    fn fill(&self, into: &mut [u8]) {
        into.fill(self.0);
    }
}

/// A log as its owner would have kept it.
struct Kept {
    origin: String,
    signing: SigningKey,
    entries: Vec<Entry>,
}

impl Kept {
    fn new(tenant: &str, count: u64) -> Self {
        let origin = format!("host.example/audit/tenant/{tenant}");
        let (mut entries, mut prev) = (Vec::new(), genesis(&origin));
        for seq in 0..count {
            let (body, salt) = (json!({"act": seq, "who": tenant}), [seq as u8; 32]);
            let body_sha256 = hex(&commitment(&salt, &canonical_body(&body).unwrap()));
            let envelope = json!({
                "v": 1, "seq": seq, "prev": hex(&prev), "tenant_uid": tenant, "time": 1_790_000_000_000_i64 + seq as i64,
                "class_uid": 6003, "activity_id": 1, "status": "Success", "action_id": 1, "actor_hmac": hex(&[1; 32]),
                "resource_hmac": hex(&[2; 32]), "body_sha256": body_sha256, "code": "PLG-001 version-pushed",
            });
            let envelope = canonical_body(&envelope).unwrap();
            prev = link(&envelope);
            let leaf_hash = hex(&leaf_hash(envelope.as_bytes()));
            entries.push(Entry { envelope, leaf_hash, body: Some(body), salt: hex(&salt) });
        }
        Self { origin, signing: SigningKey::generate(&Fixed(7)).unwrap(), entries }
    }
    fn vkey(&self) -> String {
        Verifier::new(&self.origin, self.signing.public_key()).vkey()
    }
    fn checkpoint(&self, size: usize) -> String {
        let leaves: Vec<Hash> = self.entries[..size].iter().map(|entry| leaf_hash(entry.envelope.as_bytes())).collect();
        let head = SignedHead { origin: self.origin.clone(), size: size as u64, root: root(&leaves) };
        let text = checkpoint_text(&head);
        let verifier = Verifier::new(&self.origin, self.signing.public_key());
        seal_note(&text, &verifier, &self.signing.sign(text.as_bytes()))
    }
    /// What is said about `shown` by someone who knows this log's key and newest checkpoint.
    fn fault(&self, shown: Vec<Entry>) -> Option<Fault> {
        verify(&self.origin, &self.vkey(), shown, &self.checkpoint(self.entries.len()), None).err()
    }
    fn with(&self, change: impl FnOnce(&mut Vec<Entry>)) -> Vec<Entry> {
        let mut shown = self.entries.clone();
        change(&mut shown);
        shown
    }
}

#[test]
fn an_untouched_log_verifies() {
    for count in [0, 1, 2, 7, 64] {
        let log = Kept::new("acme", count);
        let verified =
            verify(&log.origin, &log.vkey(), log.entries.clone(), &log.checkpoint(count as usize), None).unwrap();
        assert_eq!((verified.entries, verified.bodies_withheld), (count, 0));
    }
}

#[test]
fn an_altered_entry_is_named() {
    let log = Kept::new("acme", 6);
    for (from, to) in
        [("Success", "Failure"), ("6003", "6002"), ("\"v\":1", "\"v\":2"), ("acme", "evil"), ("1790", "1690")]
    {
        for seq in 0..6 {
            let shown = log.with(|entries| {
                entries[seq].envelope = entries[seq].envelope.replacen(from, to, 1);
                entries[seq].leaf_hash = String::new();
            });
            assert_eq!(log.fault(shown), Some(Fault::Altered { seq: seq as u64 }), "{from} in {seq}");
        }
    }
}

#[test]
fn an_altered_link_or_number_is_named() {
    let log = Kept::new("acme", 6);
    for seq in 0..6_usize {
        for change in ["prev", "seq"] {
            let shown = log.with(|entries| {
                let mut envelope: serde_json::Value = serde_json::from_str(&entries[seq].envelope).unwrap();
                envelope[change] = if change == "prev" { json!(hex(&[9; 32])) } else { json!(seq + 100) };
                entries[seq].envelope = canonical_body(&envelope).unwrap();
                entries[seq].leaf_hash = String::new();
            });
            assert_eq!(log.fault(shown), Some(Fault::Altered { seq: seq as u64 }), "{change} of {seq}");
        }
    }
}

#[test]
fn a_removed_entry_is_named() {
    let log = Kept::new("acme", 6);
    for seq in 0..5 {
        assert_eq!(log.fault(log.with(|entries| drop(entries.remove(seq)))), Some(Fault::Missing { seq: seq as u64 }));
    }
}

#[test]
fn a_cut_log_is_found() {
    let log = Kept::new("acme", 6);
    for have in 0..6 {
        assert_eq!(
            log.fault(log.with(|entries| entries.truncate(have))),
            Some(Fault::Truncated { have: have as u64, signed: 6 })
        );
    }
}

#[test]
fn swapped_and_repeated_entries_are_found() {
    let log = Kept::new("acme", 6);
    for seq in 0..5 {
        assert_eq!(
            log.fault(log.with(|entries| entries.swap(seq, seq + 1))),
            Some(Fault::Reordered { seq: seq as u64 })
        );
        let twice = log.with(|entries| entries.insert(seq, log.entries[seq].clone()));
        assert_eq!(log.fault(twice), Some(Fault::Reordered { seq: seq as u64 + 1 }));
    }
}

#[test]
fn another_tenants_entry_is_found() {
    let (log, other) = (Kept::new("acme", 6), Kept::new("evil", 6));
    for seq in 0..6 {
        let shown = log.with(|entries| entries[seq] = other.entries[seq].clone());
        assert_eq!(log.fault(shown), Some(Fault::Spliced { seq: seq as u64 }));
    }
    assert_eq!(log.fault(other.entries.clone()), Some(Fault::Spliced { seq: 0 }));
}

#[test]
fn an_altered_body_or_salt_is_named() {
    let log = Kept::new("acme", 6);
    for seq in 0..6 {
        let body = log.with(|entries| entries[seq].body = Some(json!({"act": 99})));
        assert_eq!(log.fault(body), Some(Fault::BodyAltered { seq: seq as u64 }));
        let salt = log.with(|entries| entries[seq].salt = hex(&[99; 32]));
        assert_eq!(log.fault(salt), Some(Fault::BodyAltered { seq: seq as u64 }));
        let withheld = log.with(|entries| entries[seq].body = None);
        assert_eq!(log.fault(withheld), None, "a body may be withheld");
    }
}

#[test]
fn a_rewritten_tail_is_found_by_its_root() {
    let log = Kept::new("acme", 6);
    let mut forged = Kept::new("acme", 6);
    // Everything from entry 3 on recomputed, chain and all; only the signature cannot be.
    let mut prev = link(&forged.entries[2].envelope);
    for entry in &mut forged.entries[3..] {
        let mut envelope: serde_json::Value = serde_json::from_str(&entry.envelope).unwrap();
        envelope["prev"] = json!(hex(&prev));
        envelope["status"] = json!("Failure");
        entry.envelope = canonical_body(&envelope).unwrap();
        entry.leaf_hash = hex(&leaf_hash(entry.envelope.as_bytes()));
        prev = link(&entry.envelope);
    }
    assert!(matches!(log.fault(forged.entries.clone()), Some(Fault::Altered { .. })));
    // The holder of the key can sign a rewritten log; who kept the older checkpoint sees it.
    let rewritten = verify(&forged.origin, &forged.vkey(), forged.entries.clone(), &forged.checkpoint(6), None);
    assert!(rewritten.is_ok());
    let caught =
        verify(&forged.origin, &forged.vkey(), forged.entries.clone(), &forged.checkpoint(6), Some(&log.checkpoint(5)));
    assert_eq!(caught, Err(Fault::RolledBack));
}

#[test]
fn a_rolled_back_log_is_found_by_who_kept_a_checkpoint() {
    let log = Kept::new("acme", 6);
    let rolled =
        verify(&log.origin, &log.vkey(), log.entries[..4].to_vec(), &log.checkpoint(4), Some(&log.checkpoint(6)));
    assert_eq!(rolled, Err(Fault::RolledBack));
}

#[test]
fn entries_past_the_checkpoint_and_foreign_checkpoints_are_refused() {
    let (log, other) = (Kept::new("acme", 6), Kept::new("evil", 6));
    let past = verify(&log.origin, &log.vkey(), log.entries.clone(), &log.checkpoint(4), None);
    assert_eq!(past, Err(Fault::Unsigned { seq: 4 }));
    let foreign = verify(&log.origin, &log.vkey(), log.entries.clone(), &other.checkpoint(6), None);
    assert_eq!(foreign, Err(Fault::BadSignature));
    let misnamed = verify(&other.origin, &log.vkey(), log.entries.clone(), &log.checkpoint(6), None);
    assert_eq!(misnamed, Err(Fault::BadSignature));
}

/// The same entries as lines of an export.
fn lines(entries: &[Entry]) -> Vec<String> {
    let line = |entry: &Entry| json!({"envelope": entry.envelope, "body": entry.body, "salt": entry.salt}).to_string();
    entries.iter().map(line).collect()
}

#[test]
fn a_long_log_is_found_at_fault_at_the_same_place_however_it_is_shown() {
    // Longer than what is looked at together, with faults at and around the borders.
    let log = Kept::new("acme", 2_200);
    let checkpoint = log.checkpoint(2_200);
    let says = |shown: &[Entry]| {
        let lines = lines(shown);
        let of_lines = verify(&log.origin, &log.vkey(), lines.iter().map(|line| Shown::Line(line)), &checkpoint, None);
        let of_entries = verify(&log.origin, &log.vkey(), shown.to_vec(), &checkpoint, None);
        assert_eq!(of_lines, of_entries);
        of_entries.map(|verified| verified.entries)
    };
    assert_eq!(says(&log.entries), Ok(2_200));
    for seq in [0, 64, 2_047, 2_048, 2_198] {
        let at = seq as u64;
        let removed = log.with(|entries| drop(entries.remove(seq)));
        assert_eq!(says(&removed), Err(Fault::Missing { seq: at }));
        let swapped = log.with(|entries| entries.swap(seq, seq + 1));
        assert_eq!(says(&swapped), Err(Fault::Reordered { seq: at }));
        let body = log.with(|entries| entries[seq].body = Some(json!({"act": 99})));
        assert_eq!(says(&body), Err(Fault::BodyAltered { seq: at }));
        let altered = log.with(|entries| {
            entries[seq].envelope = entries[seq].envelope.replacen("Success", "Failure", 1);
            entries[seq].leaf_hash = String::new();
        });
        assert_eq!(says(&altered), Err(Fault::Altered { seq: at }));
        let cut = log.with(|entries| entries.truncate(seq));
        assert_eq!(says(&cut), Err(Fault::Truncated { have: at, signed: 2_200 }));
    }
}

#[test]
fn a_line_that_is_no_entry_is_named() {
    let log = Kept::new("acme", 6);
    for line in ["", "{}", "garbage", "{\"envelope\":1}"] {
        let mut lines = lines(&log.entries);
        lines[3] = line.to_owned();
        let shown = lines.iter().map(|line| Shown::Line(line));
        let found = verify(&log.origin, &log.vkey(), shown, &log.checkpoint(6), None);
        assert_eq!(found, Err(Fault::Unreadable { seq: 3 }), "{line}");
    }
}

/// Does one thing to shown entries.
fn damage(entries: &mut Vec<Entry>, kind: u8, at: prop::sample::Index) {
    if entries.is_empty() {
        return;
    }
    let seq = at.index(entries.len());
    match kind {
        0 => drop(entries.remove(seq)),
        1 => entries.swap(seq, 0),
        2 => entries.insert(seq, entries[seq].clone()),
        3 => entries[seq].body = Some(json!({"act": 99})),
        4 => entries[seq].envelope = entries[seq].envelope.replacen("Success", "Failure", 1),
        5 => entries[seq].envelope = entries[seq].envelope.replacen("acme", "evil", 1),
        6 => entries[seq].envelope.truncate(20),
        _ => entries.truncate(seq),
    }
    if let Some(entry) = entries.get_mut(seq).filter(|_| kind == 4) {
        entry.leaf_hash = String::new();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn one_thread_and_many_say_the_same_of_a_damaged_log(count in 1_u64..400,
        damages in prop::collection::vec((0_u8..8, any::<prop::sample::Index>()), 0..4)) {
        let log = Kept::new("acme", count);
        let shown = log.with(|entries| damages.into_iter().for_each(|(kind, at)| damage(entries, kind, at)));
        let (vkey, checkpoint, lines) = (log.vkey(), log.checkpoint(count as usize), lines(&shown));
        let many = Claim::new(&log.origin, &vkey, &checkpoint);
        let one = Claim { threads_count_max: 1, ..many };
        prop_assert_eq!(verify_claim(&one, shown.clone()), verify_claim(&many, shown.clone()));
        let said = [one, many].map(|claim| verify_claim(&claim, lines.iter().map(|line| Shown::Line(line))));
        prop_assert_eq!(&said[0], &said[1]);
        prop_assert!(said[0].is_ok() || shown != log.entries);
    }
}

proptest! {
    #[test]
    fn any_single_altered_bit_of_any_entry_is_found(count in 1_u64..12, pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let log = Kept::new("acme", count);
        let seq = pick.index(count as usize);
        let mut bytes = log.entries[seq].envelope.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // What is not UTF-8 any more cannot even be shown as an entry.
        if let Ok(envelope) = String::from_utf8(bytes) {
            let shown = log.with(|entries| {
                entries[seq].envelope = envelope;
                entries[seq].leaf_hash = String::new();
            });
            prop_assert_eq!(log.fault(shown), Some(Fault::Altered { seq: seq as u64 }));
        }
    }

    #[test]
    fn any_other_order_or_selection_is_found(count in 2_u64..12, order in prop::collection::vec(any::<prop::sample::Index>(), 0..14)) {
        let log = Kept::new("acme", count);
        let shown: Vec<Entry> = order.iter().map(|index| log.entries[index.index(count as usize)].clone()).collect();
        let same = shown == log.entries;
        prop_assert_eq!(log.fault(shown).is_none(), same);
    }
}
