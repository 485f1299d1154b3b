//! The format's golden vector: other people's verifiers read the same bytes, so these may never change.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

use data_encoding::HEXLOWER;
use ringfence_audit::Entry;
use ringfence_audit::envelope::{genesis, hex, link};
use ringfence_audit::note::{SignedHead, Verifier, checkpoint_text, seal_note};
use ringfence_audit::tree::{self, Frontier, Hash, leaf_hash};
use ringfence_audit::verify::{Fault, verify};
use ringfence_keys::SigningKey;
use serde_json::Value;

const ORIGIN: &str = "host.example/audit/tenant/acme";

struct Vector(Value);

impl Vector {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("golden-vector.json")).unwrap())
    }
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap()
    }
    fn texts(&self, name: &str) -> Vec<&str> {
        self.0[name].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    }
    fn hashes(&self, name: &str) -> Vec<Hash> {
        self.texts(name).into_iter().map(|text| HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()).collect()
    }
    fn entries(&self) -> Vec<Entry> {
        let entry =
            |text: &str| Entry { envelope: text.to_owned(), leaf_hash: String::new(), body: None, salt: String::new() };
        self.texts("entries").into_iter().map(entry).collect()
    }
    /// The signing key of the vector, from its seed (PKCS#8, RFC 8410).
    fn signing(&self) -> SigningKey {
        let vkey = self.text("vkey").splitn(3, '+').nth(2).unwrap();
        let public = &data_encoding::BASE64.decode(vkey.as_bytes()).unwrap()[1..];
        let head = [0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let seed = HEXLOWER.decode(self.text("seed_hex").as_bytes()).unwrap();
        SigningKey::from_pkcs8(&[&head[..], &seed, &[0x81, 0x21, 0], public].concat()).unwrap()
    }
}

#[test]
fn the_chain_is_the_one_of_the_vector() {
    let vector = Vector::read();
    let mut head = genesis(ORIGIN);
    for text in vector.texts("entries") {
        let entry: Value = serde_json::from_str(text).unwrap();
        assert_eq!(entry["prev"], hex(&head));
        assert_eq!(serde_json_canonicalizer::to_string(&entry).unwrap(), text, "entries are canonical JSON");
        head = link(text);
    }
    assert_eq!(hex(&head), vector.text("chain_heads_last"));
}

#[test]
fn leaves_and_roots_are_those_of_the_vector() {
    let vector = Vector::read();
    let leaves: Vec<Hash> = vector.texts("entries").iter().map(|text| leaf_hash(text.as_bytes())).collect();
    assert_eq!(leaves, vector.hashes("leaf_hashes"));
    let mut frontier = Frontier::new();
    for size in 0..=leaves.len() {
        assert_eq!(hex(&frontier.root()), vector.0["roots"][size.to_string()].as_str().unwrap());
        if let Some(leaf) = leaves.get(size) {
            frontier.push(*leaf);
        }
    }
}

#[test]
fn proofs_are_those_of_the_vector() {
    let vector = Vector::read();
    let leaves = vector.hashes("leaf_hashes");
    let (inclusion, consistency) = (vector.hashes("inclusion_2_of_5"), vector.hashes("consistency_3_5"));
    assert_eq!(tree::inclusion_proof(2, &leaves).unwrap(), inclusion);
    assert_eq!(tree::consistency_proof(3, &leaves).unwrap(), consistency);
    let (old, new) = (tree::root(&leaves[..3]), tree::root(&leaves));
    assert!(tree::verify_inclusion(2, 5, &leaves[2], &inclusion, &new));
    assert!(tree::verify_consistency(3, &old, 5, &new, &consistency));
}

#[test]
fn checkpoints_and_the_verifier_key_are_those_of_the_vector() {
    let vector = Vector::read();
    let signing = vector.signing();
    let verifier = Verifier::new(ORIGIN, signing.public_key());
    assert_eq!(verifier.vkey(), vector.text("vkey"));
    assert_eq!(Verifier::parse(vector.text("vkey")).unwrap(), verifier);
    let leaves = vector.hashes("leaf_hashes");
    for size in [3, 5] {
        let head = SignedHead { origin: ORIGIN.to_owned(), size: size as u64, root: tree::root(&leaves[..size]) };
        let text = checkpoint_text(&head);
        let note = seal_note(&text, &verifier, &signing.sign(text.as_bytes()));
        assert_eq!(note, vector.text(&format!("checkpoint_{size}")));
        assert_eq!(verifier.open(&note), Some(head));
    }
}

#[test]
fn the_vector_verifies_also_against_its_older_checkpoint() {
    let vector = Vector::read();
    let (newer, older) = (vector.text("checkpoint_5"), vector.text("checkpoint_3"));
    let verified = verify(ORIGIN, vector.text("vkey"), vector.entries(), newer, Some(older)).unwrap();
    assert_eq!((verified.entries, verified.bodies_withheld), (5, 5));
    assert_eq!(hex(&verified.chain_head), vector.text("chain_heads_last"));
    let back = verify(ORIGIN, vector.text("vkey"), vector.entries().into_iter().take(3), older, Some(newer));
    assert_eq!(back, Err(Fault::RolledBack));
}

#[test]
fn every_altered_character_of_a_checkpoint_is_refused() {
    let vector = Vector::read();
    let verifier = Verifier::parse(vector.text("vkey")).unwrap();
    let note = vector.text("checkpoint_5");
    for (at, _) in note.char_indices() {
        for bit in 0..7 {
            let mut bytes = note.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            let Ok(altered) = String::from_utf8(bytes) else { continue };
            // The last bits of the base64 text carry nothing; whatever still opens must say the same.
            if let Some(head) = verifier.open(&altered) {
                assert_eq!(Some(head), verifier.open(note), "byte {at} bit {bit}");
            }
        }
    }
    let other = Verifier::new("host.example/audit/tenant/evil", vector.signing().public_key());
    assert_eq!(other.open(note), None);
    assert_eq!(Verifier::parse("a+b"), None);
}
