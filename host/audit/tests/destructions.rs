//! Receipts of destruction as their readers check them: offline, with the host's public key alone; and that none is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use ringfence_audit::destruction::{DestructionFault, DestructionReceipt, Opening, verify};
use ringfence_audit::note::{SignedHead, Verifier, checkpoint_text, seal_note};
use ringfence_audit::proof::InclusionProof;
use ringfence_audit::tree::{self, Hash, leaf_hash};
use ringfence_audit::{Audit, AuditError, Event, Log, codes};
use ringfence_keys::{KeyVersion, Shredding, SigningKey};
use ringfence_store::{Destroyed, Fault, Faults};
use world::World;

const ORIGIN: &str = "host.example/audit/host";

async fn destroy(world: &World, name: &str) -> Destroyed {
    world.tenant(name).await;
    let id = name.parse().unwrap();
    world.tenants.begin_destroy(&id, "operator/ada", &|_| false).await.unwrap();
    world.tenants.carry_on_deletion(&id).await.unwrap();
    world.tenants.unreceipted().await.unwrap().into_iter().find(|one| one.tenant == id).unwrap()
}

async fn receipt(audit: &Audit, destroyed: &Destroyed) -> Result<u64, AuditError> {
    let actor = destroyed.asked_by.parse().unwrap();
    let event = Event::new(codes::KEY_DESTROYED, "destroy-keys", actor, format!("tenant/{}", destroyed.tenant));
    audit.destroyed(destroyed, event).await
}

/// A world in which tenant acme was destroyed; the note about it, and the key of the host's log.
async fn noted() -> (World, Audit, Destroyed, String, String) {
    let world = World::new().await;
    let audit = world.open().await;
    let destroyed = destroy(&world, "acme").await;
    let seq = receipt(&audit, &destroyed).await.unwrap();
    let note = audit.destruction(seq).await.unwrap().unwrap();
    let vkey = audit.vkey(&Log::Host);
    (world, audit, destroyed, note, vkey)
}

/// Receipts are kept for years: what was signed once must verify for good. This one was made without our code.
#[test]
fn a_receipt_of_the_first_form_verifies_for_good() {
    let vkey = "host.example/audit/host+766beb50+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
    let verified = verify(include_str!("golden-destruction.note"), vkey).unwrap();
    let said = &verified.receipt.destroyed;
    assert_eq!((verified.seq, verified.head.size, said.tenant.as_str()), (1, 2, "acme"));
    assert_eq!((said.asked_by.as_str(), said.approved_by.as_deref()), ("operator/ada", Some("operator/grace")));
    assert_eq!(said.destroyed_at.to_string(), "2026-11-23T09:00:00.25Z");
    assert_eq!(verified.receipt.opening, None, "of this form no more is known");
    assert_eq!(said.versions.iter().map(|key| key.root.as_str()).collect::<Vec<_>>(), ["ringfence#1", "ringfence#2"]);
}

#[tokio::test]
async fn a_receipt_verifies_offline_and_stands_for_its_entry_of_the_log() {
    let (_world, audit, destroyed, note, vkey) = noted().await;
    let verified = verify(&note, &vkey).unwrap();
    assert_eq!(verified.receipt.destroyed, destroyed);
    assert_eq!((destroyed.tenant.as_str(), destroyed.asked_by.as_str()), ("acme", "operator/ada"));
    assert_eq!((destroyed.provider.as_str(), destroyed.reaches), ("file", Shredding::OldCopiesToo));
    assert_eq!(destroyed.wrapping_key.as_ref().map(String::len), Some(32));
    assert_eq!(destroyed.versions.len(), 1);
    let entry = audit.list(&Log::Host, verified.seq, 1).await.unwrap().remove(0);
    assert_eq!(entry.envelope, verified.receipt.entry);
    assert!(entry.body.unwrap().to_string().contains(&destroyed.tenant_uid), "the log says the same");
    assert!(verified.head.size > verified.seq);
    assert_eq!(audit.destruction(verified.seq + 1).await.unwrap(), None);
}

#[tokio::test]
async fn every_altered_byte_and_every_other_key_is_refused() {
    let (world, audit, _, note, vkey) = noted().await;
    let verified = verify(&note, &vkey).unwrap();
    let signatures = note.rfind("\n\n").unwrap();
    for at in 0..note.len() {
        let mut bytes = note.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(altered) = String::from_utf8(bytes) else { continue };
        match verify(&altered, &vkey) {
            Err(_) => {}
            // The last bits of base64 text carry nothing.
            Ok(read) => assert!(at > signatures && read == verified, "byte {at}"),
        }
    }
    for cut in [0, 1, signatures / 2, signatures] {
        assert_eq!(verify(&note[..cut], &vkey), Err(DestructionFault::BadSignature), "cut at {cut}");
    }
    let bolt = Log::Tenant(world.tenant("bolt").await);
    assert_eq!(verify(&note, &audit.vkey(&bolt)), Err(DestructionFault::BadSignature));
    assert_eq!(verify(&note, "host.example"), Err(DestructionFault::BadKey));
    // A head of the log bears the same key's signature, and is no receipt.
    let head = audit.checkpoint(&Log::Host).await.unwrap().text;
    assert_eq!(verify(&head, &vkey), Err(DestructionFault::Malformed));
}

#[tokio::test]
async fn a_receipt_about_an_entry_that_the_log_has_not_is_refused_though_it_is_signed() {
    let (world, _, _, note, vkey) = noted().await;
    let honest = verify(&note, &vkey).unwrap();
    assert_eq!(honest.seq, 0, "nothing else is on this log");
    let signing = SigningKey::generate(&*world.entropy).unwrap();
    let verifier = Verifier::new(ORIGIN, signing.public_key());
    let sign = |text: &str| seal_note(text, &verifier, &signing.sign(text.as_bytes()));
    let note_of = |receipt: &DestructionReceipt| {
        let json = serde_json_canonicalizer::to_string(receipt).unwrap();
        sign(&format!("ringfence destruction receipt v1\n{json}\n"))
    };
    let forge = |entry: &str, place: usize, leaves: &[Hash]| {
        let head = SignedHead { origin: ORIGIN.to_owned(), size: leaves.len() as u64, root: tree::root(leaves) };
        let path = tree::inclusion_proof(place, leaves).unwrap();
        let proof = InclusionProof { index: place as u64, path, checkpoint: sign(&checkpoint_text(&head)) };
        let receipt =
            DestructionReceipt { entry: entry.to_owned(), proof: proof.to_string(), ..honest.receipt.clone() };
        verify(&note_of(&receipt), &verifier.vkey()).map(|verified| verified.seq)
    };
    let entry = honest.receipt.entry.as_str();
    let (leaf, other) = (leaf_hash(entry.as_bytes()), leaf_hash(b"another"));
    assert_eq!(forge(entry, 0, &[leaf, other]), Ok(0), "what is forged below differs in one thing each");
    let refused = Err(DestructionFault::NotLogged);
    assert_eq!(forge(entry, 0, &[other, leaf]), refused, "the tree has it elsewhere");
    assert_eq!(forge(entry, 1, &[other, leaf]), refused, "the entry says another place");
    let about = entry.replace("KEY-006 key-destroyed", "KEY-001 key-rotated");
    assert_eq!(forge(&about, 0, &[leaf_hash(about.as_bytes())]), refused, "it is about something else");
    assert_eq!(forge("{}", 0, &[leaf_hash(b"{}")]), refused);
    // The proof under the first key says nothing under this one.
    assert_eq!(verify(&note_of(&honest.receipt), &verifier.vkey()), Err(DestructionFault::NotLogged));
    let elsewhere = DestructionReceipt { host: "other.example".to_owned(), ..honest.receipt.clone() };
    assert_eq!(verify(&note_of(&elsewhere), &verifier.vkey()), Err(DestructionFault::AnotherHost));
}

#[tokio::test]
async fn a_receipt_with_the_entry_of_another_destruction_is_refused_though_the_log_has_that() {
    let world = World::new().await;
    let audit = world.open().await;
    let mut honest = Vec::new();
    for name in ["acme", "bolt"] {
        let seq = receipt(&audit, &destroy(&world, name).await).await.unwrap();
        honest.push(verify(&audit.destruction(seq).await.unwrap().unwrap(), &audit.vkey(&Log::Host)).unwrap().receipt);
    }
    let (acme, bolt) = (&honest[0], &honest[1]);
    let leaves: Vec<Hash> = honest.iter().map(|receipt| leaf_hash(receipt.entry.as_bytes())).collect();
    let signing = SigningKey::generate(&*world.entropy).unwrap();
    let verifier = Verifier::new(ORIGIN, signing.public_key());
    let sign = |text: &str| seal_note(text, &verifier, &signing.sign(text.as_bytes()));
    let head = SignedHead { origin: ORIGIN.to_owned(), size: 2, root: tree::root(&leaves) };
    // The host itself forges: everything is signed, and the log has the entry of the second destruction.
    let check = |destroyed: &Destroyed, opening: Option<&Opening>| {
        let path = tree::inclusion_proof(1, &leaves).unwrap();
        let proof = InclusionProof { index: 1, path, checkpoint: sign(&checkpoint_text(&head)) }.to_string();
        let (destroyed, opening) = (destroyed.clone(), opening.cloned());
        let said = DestructionReceipt { destroyed, proof, opening, ..bolt.clone() };
        let json = serde_json_canonicalizer::to_string(&said).unwrap();
        let note = sign(&format!("ringfence destruction receipt v1\n{json}\n"));
        verify(&note, &verifier.vkey()).map(|verified| verified.seq)
    };
    let (of_acme, of_bolt) = (acme.opening.as_ref().unwrap(), bolt.opening.as_ref().unwrap());
    assert_eq!(check(&bolt.destroyed, Some(of_bolt)), Ok(1), "what is forged below differs in one thing each");
    let refused = Err(DestructionFault::NotLogged);
    assert_eq!(check(&acme.destroyed, Some(of_bolt)), refused, "the entry is about another tenant");
    assert_eq!(check(&acme.destroyed, Some(of_acme)), refused, "the entry commits to something else");
    let mut said_so = of_bolt.clone();
    said_so.body["unmapped"]["details"] = serde_json::to_value(&acme.destroyed).unwrap();
    assert_eq!(check(&acme.destroyed, Some(&said_so)), refused, "and to no body that was made to fit");
    for salt in ["", "ab", of_acme.salt.as_str(), of_bolt.salt.to_uppercase().as_str()] {
        let salted = Opening { salt: salt.to_owned(), ..of_bolt.clone() };
        assert_eq!(check(&bolt.destroyed, Some(&salted)), refused, "`{salt}`");
    }
}

#[tokio::test]
async fn a_key_with_as_many_versions_as_there_can_be_stands_in_the_log_whole() {
    let world = World::new().await;
    let audit = world.open().await;
    let name = "n".repeat(200);
    let versions = (1..=u8::MAX).map(|version| KeyVersion { version, purpose: None, root: name.clone() });
    let destroyed = Destroyed { versions: versions.collect(), ..destroy(&world, "acme").await };
    let seq = receipt(&audit, &destroyed).await.unwrap();
    let verified = verify(&audit.destruction(seq).await.unwrap().unwrap(), &audit.vkey(&Log::Host)).unwrap();
    assert!(verified.receipt.opening.is_some());
    assert_eq!(verified.receipt.destroyed, destroyed);
}

#[tokio::test]
async fn receipts_are_listed_in_the_order_of_the_log_and_then_owed_no_more() {
    let world = World::new().await;
    let audit = world.open().await;
    let (acme, bolt) = (destroy(&world, "acme").await, destroy(&world, "bolt").await);
    assert_eq!(world.tenants.unreceipted().await.unwrap().len(), 2);
    let first = receipt(&audit, &bolt).await.unwrap();
    let second = receipt(&audit, &acme).await.unwrap();
    assert!(world.tenants.unreceipted().await.unwrap().is_empty());
    let (page, next) = audit.destructions(None, 1).await.unwrap();
    assert_eq!((page.len(), page[0].seq, page[0].tenant.as_str()), (1, first, "bolt"));
    let (page, _) = audit.destructions(next.as_ref(), 9).await.unwrap();
    assert_eq!((page.len(), page[0].seq, &page[0].tenant_uid), (1, second, &acme.tenant_uid));
}

#[tokio::test]
async fn whatever_fails_on_the_way_to_a_receipt_it_is_made_in_the_end() {
    for point in 0..3 {
        for fault in [Fault::Lost, Fault::InDoubt] {
            let faults = Faults::default();
            let world = World::with_faults(faults.clone()).await;
            let audit = world.open().await;
            let destroyed = destroy(&world, "acme").await;
            faults.plan(std::iter::repeat_n(None, point).chain([Some(fault)]));
            let _ = receipt(&audit, &destroyed).await;
            faults.plan([]);
            // As the host does, until nothing is owed.
            for _ in 0..3 {
                for owed in world.tenants.unreceipted().await.unwrap() {
                    assert_eq!(owed, destroyed);
                    let _ = receipt(&audit, &owed).await;
                }
            }
            assert!(world.tenants.unreceipted().await.unwrap().is_empty(), "{point} {fault:?}");
            let (made, _) = audit.destructions(None, 9).await.unwrap();
            assert_eq!(made.len(), 1, "{point} {fault:?}");
            let note = audit.destruction(made[0].seq).await.unwrap().unwrap();
            assert_eq!(verify(&note, &audit.vkey(&Log::Host)).unwrap().receipt.destroyed, destroyed);
        }
    }
}
