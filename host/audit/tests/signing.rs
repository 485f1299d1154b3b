//! The keys of the logs: a new one is said in every log and can be followed from the old one; post-quantum cosignatures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use std::sync::atomic::Ordering;

use ringfence_audit::cosign::Cosigner;
use ringfence_audit::export::{Table, check};
use ringfence_audit::note::Verifier;
use ringfence_audit::verify::{Claim, Fault, verify_claim};
use ringfence_audit::{Audit, Entry, KeyChange, Log, PostQuantum, Selection, Terms, Trust, codes, repair};
use ringfence_keys::SigningKey;
use ringfence_store::{DiskOptions, Key, Store, StoreError};
use serde_json::json;
use world::{World, pushed};

const DAY_MS: i64 = 24 * 3_600 * 1_000;

async fn fill(audit: &Audit, log: &Log, count: usize) {
    for _ in 0..count {
        audit.record(log, pushed()).await.unwrap();
    }
}

async fn all(audit: &Audit, log: &Log) -> Vec<Entry> {
    audit.list(log, 0, 1_000).await.unwrap()
}

fn opens(vkey: &str, checkpoint: &str) -> bool {
    Verifier::parse(vkey).unwrap().open(checkpoint).is_some()
}

#[tokio::test]
async fn a_new_key_is_followed_from_the_old_one_through_the_log_itself() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    fill(&audit, &log, 4).await;
    let (old, kept) = (audit.vkey(&log), audit.checkpoint(&log).await.unwrap().text);
    assert_eq!(audit.rotate_key().await.unwrap(), 2);
    let new = audit.vkey(&log);
    assert_ne!(old, new);
    fill(&audit, &log, 2).await;
    let entries = all(&audit, &log).await;
    assert!(entries[4].envelope.contains(codes::AUDIT_KEY_CHANGED), "{}", entries[4].envelope);
    let (origin, keys) = (audit.origin(&log), audit.keys(&log).await.unwrap());
    assert_eq!((&keys.vkey, &keys.before, keys.changes.len()), (&new, &vec![old.clone()], 1));

    let during = audit.checkpoint(&log).await.unwrap().text;
    assert!(opens(&old, &during) && opens(&new, &during), "both sign for a while");
    world.clock.0.fetch_add(31 * DAY_MS, Ordering::Relaxed);
    audit.sweep_all().await;
    let after = audit.checkpoint(&log).await.unwrap().text;
    assert!(!opens(&old, &after) && opens(&new, &after), "and then the old one no more");

    let claim = Claim { previous: Some(&kept), changes: &keys.changes, ..Claim::new(&origin, &old, &after) };
    let verified = verify_claim(&claim, all(&audit, &log).await).unwrap();
    assert_eq!((verified.vkey.as_str(), verified.from), (new.as_str(), 0));
    let alone = Claim { changes: &[], ..claim };
    assert_eq!(verify_claim(&alone, all(&audit, &log).await), Err(Fault::BadSignature));

    let audit = world.open().await;
    assert_eq!(audit.vkey(&log), new, "a start keeps the key");
    assert!(!opens(&old, &audit.checkpoint(&log).await.unwrap().text), "and not the old one");
}

#[tokio::test]
async fn a_key_that_the_log_does_not_speak_of_is_not_followed() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    fill(&audit, &log, 4).await;
    let old = audit.vkey(&log);
    audit.rotate_key().await.unwrap();
    let (origin, entries) = (audit.origin(&log), all(&audit, &log).await);
    let honest = audit.keys(&log).await.unwrap().changes.remove(0);
    let head = audit.checkpoint(&log).await.unwrap().text;
    let fault = |change: KeyChange| {
        let changes = [change];
        verify_claim(&Claim { changes: &changes, ..Claim::new(&origin, &old, &head) }, entries.clone())
    };
    assert!(fault(honest.clone()).is_ok());
    assert_eq!(fault(KeyChange { seq: 2, ..honest.clone() }), Err(Fault::KeyUndeclared { seq: 2 }));
    // A change that the old key did not sign leads nowhere.
    let unsigned = KeyChange { checkpoint: format!("{origin}\n5\n{}\n\n", "A".repeat(43) + "="), ..honest };
    assert_eq!(Trust::follow(&origin, &old, &[unsigned]).unwrap().vkey(), old);
}

#[tokio::test]
async fn only_so_many_keys_sign_at_once() {
    let world = World::new().await;
    let audit = world.open().await;
    assert_eq!((audit.rotate_key().await.unwrap(), audit.rotate_key().await.unwrap()), (2, 3));
    assert_eq!(audit.rotate_key().await.unwrap_err().code(), "too-many");
    world.clock.0.fetch_add(31 * DAY_MS, Ordering::Relaxed);
    assert_eq!(audit.rotate_key().await.unwrap(), 4);
}

#[tokio::test]
async fn an_export_verifies_with_a_key_from_before_the_change() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    fill(&audit, &log, 4).await;
    let old = audit.vkey(&log);
    audit.rotate_key().await.unwrap();
    world.clock.0.fetch_add(31 * DAY_MS, Ordering::Relaxed);
    fill(&audit, &log, 4).await;
    let nothing = |_: &mut Entry| Vec::new();
    let selection = Selection {
        from: 0,
        to: None,
        keep: None,
        redact: &nothing,
        query: json!({}),
        csv: Some(Table),
        parquet: None,
    };
    let (content, _) = audit.export(&log, selection).await.unwrap();
    let archive = audit.archive(&log, &content).unwrap();
    assert!(check(archive.as_slice(), Some(&old), None).unwrap().whole);
    assert!(check(archive.as_slice(), Some(&audit.vkey(&log)), None).unwrap().whole);
}

#[tokio::test]
async fn heads_are_cosigned_by_a_post_quantum_key_when_the_operator_says_so() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    fill(&audit, &log, 3).await;
    assert_eq!(audit.keys(&log).await.unwrap().cosigner_vkey, None);
    let plain = audit.checkpoint(&log).await.unwrap().text;
    audit.set_terms(Terms { post_quantum: PostQuantum::On, ..Terms::default() });
    let cosigner = audit.keys(&log).await.unwrap().cosigner_vkey.unwrap();
    let signed = audit.checkpoint(&log).await.unwrap().text;
    assert!(Cosigner::parse(&cosigner).unwrap().has_signed(&signed));
    let (origin, vkey) = (audit.origin(&log), audit.vkey(&log));
    let entries = all(&audit, &log).await;
    let checked = |head: &str| {
        verify_claim(&Claim { cosigner: Some(&cosigner), ..Claim::new(&origin, &vkey, head) }, entries.clone())
    };
    assert!(checked(&signed).is_ok());
    assert_eq!(checked(&plain), Err(Fault::BadCosignature));
    assert!(signed_note_reads(&vkey, &signed), "who knows only Ed25519 is not disturbed");
}

/// Other people's reader of signed notes.
fn signed_note_reads(vkey: &str, note: &str) -> bool {
    use signed_note::{Note, StandardVerifier, VerifierList};
    let verifier = StandardVerifier::new(vkey).unwrap();
    let note = Note::from_bytes(note.as_bytes()).unwrap();
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).is_ok()
}

#[tokio::test]
async fn two_hosts_do_not_write_one_log() {
    let place = tempfile::tempdir().unwrap();
    let options = DiskOptions::RECOMMENDED;
    let store = Store::open(place.path(), options).unwrap();
    assert!(matches!(Store::open(place.path(), options), Err(StoreError::InUse { .. })));
    store.close().await.unwrap();
    // Two writers over one open store: whoever is behind is refused, reads back, and there is one chain.
    let world = World::new().await;
    let (one, other) = (world.open().await, world.open().await);
    let log = Log::Tenant(world.tenant("acme").await);
    fill(&one, &log, 2).await;
    fill(&other, &log, 1).await;
    let behind = one.record(&log, pushed()).await;
    assert!(behind.is_err(), "{behind:?}");
    fill(&one, &log, 1).await;
    let (origin, vkey) = (one.origin(&log), one.vkey(&log));
    let head = one.checkpoint(&log).await.unwrap().text;
    let verified = verify_claim(&Claim::new(&origin, &vkey, &head), all(&one, &log).await).unwrap();
    assert_eq!(verified.entries, 4);
}

#[tokio::test]
async fn a_host_from_before_keys_could_change_keeps_its_key() {
    let world = World::new().await;
    let legacy = SigningKey::generate(&*world.entropy).unwrap();
    let platform = world.tenants.platform();
    platform.put(&Key::new(["audit-signing-key"]), legacy.to_pkcs8().to_vec()).await.unwrap();
    let audit = world.open().await;
    let vkey = Verifier::new(&audit.origin(&Log::Host), legacy.public_key()).vkey();
    assert_eq!(audit.vkey(&Log::Host), vkey);
    assert!(platform.get(&Key::new(["audit-signing-key"])).await.unwrap().is_none());
    assert_eq!(world.open().await.vkey(&Log::Host), vkey);
}

#[tokio::test]
async fn a_mended_log_says_again_what_it_lost_about_its_key_and_its_years() {
    let world = World::new().await;
    let audit = world.open().await;
    let store = world.tenant("globex").await;
    let log = Log::Tenant(store.clone());
    fill(&audit, &log, 4).await;
    let old = audit.vkey(&log);
    world.clock.0.fetch_add(366 * DAY_MS, Ordering::Relaxed);
    audit.rotate_key().await.unwrap();
    fill(&audit, &log, 4).await;
    drop(audit);
    store.delete(&Key::new(["audit"]).number(3)).await.unwrap();
    let host = "host.example".to_owned();
    repair(world.tenants.clone(), world.clock.clone(), world.entropy.clone(), host).await.unwrap();
    let audit = world.open().await;
    fill(&audit, &log, 2).await;
    let (origin, keys) = (audit.origin(&log), audit.keys(&log).await.unwrap());
    let head = audit.checkpoint(&log).await.unwrap().text;
    let claim = Claim { changes: &keys.changes, ..Claim::new(&origin, &old, &head) };
    let verified = verify_claim(&claim, all(&audit, &log).await).unwrap();
    assert_eq!(verified.vkey, keys.vkey, "the old key still leads to the new one");
    let shards = audit.life(&log).await.unwrap().shards;
    assert_eq!(shards.iter().map(|shard| (shard.from, shard.to)).collect::<Vec<_>>(), [(0, Some(3)), (3, None)]);
}
