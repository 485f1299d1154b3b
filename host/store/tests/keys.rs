//! Keys of tenants in the store: rotation and sealing anew with stops in between, disabling, destruction, old copies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringfence_core::TenantId;
use ringfence_keys::{Closed, KeysError, MissingRootKey, Outside, Purpose, RootKey, RootKeyUri, Shredding};
use ringfence_store::{
    Backend, BlobId, DeleteAsked, Destroyed, Faults, Key, KeyUse, OwnChange, ResealStep, Side, Store, StoreError,
    TenantStore, Tenants,
};
use support::{Place, StoppedClock, SystemEntropy, contains, files_below, id, open, view};

const RECORDS_COUNT: u64 = 450;

fn key(number: u64) -> Key {
    Key::new(["kv", "store"]).push(number)
}

fn secret() -> Key {
    Key::new(["secret", "token"])
}

async fn fill(view: &TenantStore) -> BlobId {
    for number in 0..RECORDS_COUNT {
        view.put(&key(number), format!("value {number}")).await.unwrap();
    }
    view.put(&Key::new(["kv", "large"]), vec![7_u8; 300_000]).await.unwrap();
    view.put(&secret(), *b"canary").await.unwrap();
    let mut blob = view.blobs().create().await.unwrap();
    blob.write(Bytes::from(vec![9_u8; 200_000])).await.unwrap();
    blob.finish().await.unwrap()
}

async fn check(view: &TenantStore, blob: &BlobId) {
    for number in 0..RECORDS_COUNT {
        let record = view.get(&key(number)).await.unwrap().unwrap();
        assert_eq!(record.value.as_slice(), format!("value {number}").as_bytes());
    }
    assert_eq!(view.get(&Key::new(["kv", "large"])).await.unwrap().unwrap().value.as_slice(), vec![7_u8; 300_000]);
    assert_eq!(view.get(&secret()).await.unwrap().unwrap().value.as_slice(), b"canary");
    assert_eq!(view.blobs().read_all(blob, u64::MAX).await.unwrap(), vec![9_u8; 200_000]);
}

/// Every sealed record of a tenant as it lies in the database, which nobody has open.
fn records_of(place: &Place, uid: &str) -> Vec<Vec<u8>> {
    let database = ::sled::open(place.data().join("db")).unwrap();
    let prefix = data_encoding::HEXLOWER.decode(uid.as_bytes()).unwrap();
    let rows = database.iter().map(Result::unwrap);
    rows.filter(|(key, value)| contains(key, &prefix) && value.len() > 50).map(|(_, value)| value.to_vec()).collect()
}

async fn reseal_to_the_end(tenants: &Tenants, name: &str) -> usize {
    let mut steps = 1;
    while tenants.reseal_step(&id(name)).await.unwrap() != ResealStep::Done {
        steps += 1;
        assert!(steps < 100);
    }
    steps
}

/// Who is another person than this one: names are of one person that are the same up to a dash.
fn other_than(who: &'static str) -> impl Fn(&str) -> bool + Send + Sync {
    move |name: &str| name.split('-').next() != who.split('-').next()
}

/// Destroys a tenant because somebody wants it now; what waits for its receipt then.
async fn destroy(tenants: &Tenants, name: &str, who: &'static str) -> Result<Destroyed, StoreError> {
    tenants.begin_destroy(&id(name), who, &other_than(who)).await?;
    tenants.carry_on_deletion(&id(name)).await?;
    let owed = tenants.unreceipted().await?;
    Ok(owed.into_iter().find(|one| one.tenant.as_str() == name).unwrap())
}

/// Copies a directory as a backup program would.
fn copy(from: &Path, to: &Path) {
    for (path, content) in files_below(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, content).unwrap();
    }
}

#[tokio::test]
async fn after_a_rotation_old_things_are_readable_new_ones_are_under_the_new_key_and_all_are_in_the_end() {
    let place = Place::new();
    let blob = {
        let (store, tenants) = place.open().await;
        let acme = view(&tenants, "acme").await;
        let blob = fill(&acme).await;
        let before = acme.get(&key(3)).await.unwrap().unwrap().revision;
        let status = tenants.rotate_key(&id("acme"), None).await.unwrap();
        assert_eq!(status.versions.len(), 2);
        assert_eq!(acme.keys().newest_version(Purpose::Record).unwrap(), 2);
        check(&acme, &blob).await;
        acme.put(&key(0), "value 0").await.unwrap();
        // One step, and then the host stops: the rest is done by the next.
        assert_eq!(tenants.reseal_step(&id("acme")).await.unwrap(), ResealStep::More);
        let seen_count = tenants.key_status(&id("acme")).await.unwrap().reseal.unwrap().seen_count;
        assert!(seen_count > 0 && seen_count < RECORDS_COUNT);
        assert_eq!(acme.get(&key(3)).await.unwrap().unwrap().revision, before, "the revision stays");
        store.close().await.unwrap();
        blob
    };
    let (store, tenants) = place.open().await;
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    check(&acme, &blob).await;
    assert_eq!(tenants.tended_keys().await.unwrap().resealing, [id("acme")]);
    reseal_to_the_end(&tenants, "acme").await;
    check(&acme, &blob).await;
    assert!(tenants.key_status(&id("acme")).await.unwrap().reseal.is_none());
    assert!(tenants.tended_keys().await.unwrap().resealing.is_empty());
    let uid = acme.uid();
    store.close().await.unwrap();
    // Every sealed thing of the tenant says that it is under version 2.
    let values = records_of(&place, &uid);
    assert!(values.len() as u64 > RECORDS_COUNT);
    assert!(values.iter().all(|value| value[9..11] == *b"T\x02"));
    let files = files_below(&place.data().join("blobs").join(&uid));
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|(_, content)| content[..2] == *b"S\x02"));
}

#[tokio::test]
async fn secrets_are_rotated_alone_and_nothing_else_is_sealed_anew() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    let blob = fill(&acme).await;
    tenants.rotate_key(&id("acme"), Some(Purpose::Secret)).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    check(&acme, &blob).await;
    let uid = acme.uid();
    store.close().await.unwrap();
    let is_newer = |value: &&Vec<u8>| value[9..11] == *b"T\x02";
    let values = records_of(&place, &uid);
    let newer: Vec<_> = values.iter().filter(is_newer).collect();
    assert!(values.len() as u64 > RECORDS_COUNT);
    assert_eq!(newer.len(), 1);
    // The kind of a secret with its value inside.
    assert_eq!(newer[0][0], 3);
}

#[tokio::test]
async fn a_purpose_is_rotated_alone() {
    let (_directory, _store, tenants) = support::memory().await;
    let acme = view(&tenants, "acme").await;
    let blob = fill(&acme).await;
    tenants.rotate_key(&id("acme"), Some(Purpose::Blob)).await.unwrap();
    assert_eq!(acme.keys().newest_version(Purpose::Record).unwrap(), 1);
    assert_eq!(acme.keys().newest_version(Purpose::Blob).unwrap(), 2);
    reseal_to_the_end(&tenants, "acme").await;
    check(&acme, &blob).await;
}

#[tokio::test]
async fn writes_during_sealing_anew_are_never_lost() {
    let (_directory, _store, tenants) = support::memory().await;
    let acme = view(&tenants, "acme").await;
    fill(&acme).await;
    for round in 0..5_u64 {
        tenants.rotate_key(&id("acme"), None).await.unwrap();
        let writer = {
            let acme = acme.clone();
            tokio::spawn(async move {
                for number in 0..RECORDS_COUNT {
                    acme.put(&key(number), format!("round {round} {number}")).await.unwrap();
                }
            })
        };
        while tenants.reseal_step(&id("acme")).await.unwrap() != ResealStep::Done {}
        writer.await.unwrap();
        for number in 0..RECORDS_COUNT {
            let record = acme.get(&key(number)).await.unwrap().unwrap();
            assert_eq!(record.value.as_slice(), format!("round {round} {number}").as_bytes());
        }
    }
}

#[tokio::test]
async fn a_rotated_root_key_opens_everything_and_the_old_root_key_nothing() {
    let place = Place::new();
    let root_file = place.directory.path().join("root.key");
    let (old_root, blob) = {
        let (store, tenants) = place.open().await;
        let acme = view(&tenants, "acme").await;
        let blob = fill(&acme).await;
        let old_root = std::fs::read(&root_file).unwrap();
        let before = tenants.root().id();
        let done = tenants.rotate_root().await.unwrap();
        assert_eq!((done.rewrapped_count, done.failed.len(), done.is_over), (2, 0, true), "the host's own and acme's");
        assert!(!tenants.is_root_rotating().await.unwrap());
        assert_ne!(tenants.root().id(), before);
        check(&acme, &blob).await;
        view(&tenants, "made-after").await;
        store.close().await.unwrap();
        (old_root, blob)
    };
    {
        let (store, tenants) = place.open().await;
        check(&tenants.open_tenant(&id("acme")).unwrap(), &blob).await;
        store.close().await.unwrap();
    }
    std::fs::write(&root_file, old_root).unwrap();
    assert!(matches!(open(place.directory.path(), Backend::Sled).await, Err(StoreError::Keys(_))));
}

#[tokio::test]
async fn disabled_keys_stop_the_next_access_of_every_handle_survive_a_restart_and_can_be_enabled() {
    let place = Place::new();
    let blob = {
        let (store, tenants) = place.open().await;
        let acme = view(&tenants, "acme").await;
        let bolt = view(&tenants, "bolt").await;
        let blob = fill(&acme).await;
        tenants.disable_key(&id("acme"), "u_one", Side::Tenant).await.unwrap();
        assert!(matches!(acme.get(&key(1)).await, Err(StoreError::KeyDisabled)));
        assert!(matches!(acme.put(&key(1), "x").await, Err(StoreError::KeyDisabled)));
        assert!(matches!(acme.scan(&Key::new(["kv"]), None, 5).await, Err(StoreError::KeyDisabled)));
        assert!(matches!(acme.blobs().read_all(&blob, u64::MAX).await, Err(StoreError::KeyDisabled)));
        assert!(matches!(tenants.rotate_key(&id("acme"), None).await, Err(StoreError::KeyDisabled)));
        bolt.put(&key(1), "fine").await.unwrap();
        store.close().await.unwrap();
        blob
    };
    let (_store, tenants) = place.open().await;
    tenants.close_disabled().await.unwrap();
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!(tenants.key_status(&id("acme")).await.unwrap().state, KeyUse::Disabled);
    assert!(matches!(acme.get(&key(1)).await, Err(StoreError::KeyDisabled)));
    tenants.enable_key(&id("acme"), Side::Tenant).await.unwrap();
    check(&acme, &blob).await;
}

#[tokio::test]
async fn one_person_cannot_have_keys_destroyed_and_two_can_after_the_delay() {
    let (_directory, _store, tenants) = support::memory().await;
    let acme = view(&tenants, "acme").await;
    let now = jiff::Timestamp::UNIX_EPOCH;
    let later = now + jiff::SignedDuration::from_hours(24);
    assert!(
        tenants.approve_destroy(&id("acme"), "u_two", now, &other_than("u_two")).await.unwrap().is_none(),
        "nobody asked"
    );
    tenants.ask_destroy(&id("acme"), "u_one").await.unwrap();
    assert!(matches!(tenants.ask_destroy(&id("acme"), "u_two").await, Err(StoreError::Exists)));
    assert!(matches!(
        tenants.approve_destroy(&id("acme"), "u_one", now, &other_than("u_one")).await,
        Err(StoreError::Conflict { .. })
    ));
    assert!(acme.check_keys().is_ok(), "asking alone changes nothing");
    tenants.approve_destroy(&id("acme"), "u_two", later, &other_than("u_two")).await.unwrap().unwrap();
    assert!(matches!(acme.check_keys(), Err(StoreError::KeyDisabled)));
    assert!(tenants.tended_keys().await.unwrap().due.is_empty(), "the delay is not over");
    tenants.enable_key(&id("acme"), Side::Operator).await.unwrap();
    assert!(tenants.key_status(&id("acme")).await.unwrap().destroy.is_none(), "enabling takes it back");
    tenants.ask_destroy(&id("acme"), "u_two").await.unwrap();
    tenants.approve_destroy(&id("acme"), "u_one", now, &other_than("u_one")).await.unwrap().unwrap();
    assert_eq!(tenants.tended_keys().await.unwrap().due, [(id("acme"), "u_one".to_owned())]);
}

#[tokio::test]
async fn what_an_operator_disabled_an_operator_alone_enables() {
    let (_directory, _store, tenants) = support::memory().await;
    view(&tenants, "acme").await;
    let (acme, now) = (id("acme"), jiff::Timestamp::UNIX_EPOCH);
    let held = async || matches!(tenants.enable_key(&acme, Side::Tenant).await, Err(StoreError::Held));
    tenants.disable_key(&acme, "u_ops", Side::Operator).await.unwrap();
    tenants.disable_key(&acme, "acme/u_admin", Side::Tenant).await.unwrap();
    let disabled = tenants.key_status(&acme).await.unwrap().disabled.unwrap();
    assert_eq!((disabled.by.as_str(), disabled.side), ("u_ops", Side::Operator), "the higher side stands");
    assert!(held().await);
    tenants.enable_key(&acme, Side::Operator).await.unwrap();
    tenants.disable_key(&acme, "acme/u_admin", Side::Tenant).await.unwrap();
    tenants.disable_key(&acme, "u_ops", Side::Operator).await.unwrap();
    assert!(held().await, "an operator who comes later stands above too");
    tenants.enable_key(&acme, Side::Operator).await.unwrap();
    tenants.ask_destroy(&acme, "u_ops").await.unwrap();
    assert!(held().await, "a wish for destruction is not the tenant's to withdraw");
    tenants.approve_destroy(&acme, "u_two", now, &other_than("u_two")).await.unwrap().unwrap();
    assert!(held().await);
    assert_eq!(tenants.key_status(&acme).await.unwrap().state, KeyUse::Disabled);
    tenants.enable_key(&acme, Side::Operator).await.unwrap();
    tenants.disable_key(&acme, "acme/u_admin", Side::Tenant).await.unwrap();
    tenants.enable_key(&acme, Side::Tenant).await.unwrap();
    assert_eq!(tenants.key_status(&acme).await.unwrap().disabled, None);
}

#[tokio::test]
async fn who_tends_keys_is_told_when_something_is_wanted_of_them_and_knows_what_is_due_next() {
    let (_directory, _store, tenants) = support::memory().await;
    view(&tenants, "acme").await;
    view(&tenants, "bolt").await;
    let (acme, bolt, now) = (id("acme"), id("bolt"), jiff::Timestamp::UNIX_EPOCH);
    let [mut wanted, mut owed] = tenants.watch_tended().unwrap();
    tenants.rotate_key(&acme, None).await.unwrap();
    tokio::time::timeout(support::DEADLINE, wanted.next()).await.unwrap().unwrap();
    assert_eq!(tenants.tended_keys().await.unwrap().next_due_at, None);
    for (id, hours) in [(&acme, 24), (&bolt, 12)] {
        let later = now + jiff::SignedDuration::from_hours(hours);
        tenants.ask_delete(id, "u_one", later, &other_than("u_one")).await.unwrap();
        tokio::time::timeout(support::DEADLINE, wanted.next()).await.unwrap().unwrap();
        assert_eq!(tenants.tended_keys().await.unwrap().next_due_at, Some(later), "the first");
    }
    tenants.begin_destroy(&bolt, "u_two", &other_than("u_two")).await.unwrap();
    tenants.carry_on_deletion(&bolt).await.unwrap();
    tokio::time::timeout(support::DEADLINE, owed.next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_operator_deletes_after_a_delay_that_can_be_undone_and_two_at_once() {
    let (_directory, _store, tenants) = support::memory().await;
    let view = view(&tenants, "acme").await;
    let (acme, now) = (id("acme"), jiff::Timestamp::UNIX_EPOCH);
    let later = now + jiff::SignedDuration::from_hours(24);
    let DeleteAsked::Later(status) = tenants.ask_delete(&acme, "u_one", later, &other_than("u_one")).await.unwrap()
    else {
        panic!("one alone is not enough")
    };
    assert_eq!(status.destroy.unwrap().due_at, Some(later));
    assert!(matches!(view.check_keys(), Err(StoreError::KeyDisabled)), "it is shut at once");
    assert!(tenants.tended_keys().await.unwrap().due.is_empty());
    let again = tenants.ask_delete(&acme, "u_one", now, &other_than("u_one")).await.unwrap();
    assert!(matches!(again, DeleteAsked::Later(status) if status.destroy.as_ref().unwrap().due_at == Some(later)));
    assert!(matches!(tenants.enable_key(&acme, Side::Tenant).await, Err(StoreError::Held)));
    tenants.enable_key(&acme, Side::Operator).await.unwrap();
    assert!(view.check_keys().is_ok(), "it was undone");
    tenants.ask_delete(&acme, "u_one", now, &other_than("u_one")).await.unwrap();
    assert_eq!(tenants.tended_keys().await.unwrap().due, [(acme.clone(), "u_one".to_owned())]);
    assert_eq!(tenants.ask_delete(&acme, "u_two", later, &other_than("u_two")).await.unwrap(), DeleteAsked::Agreed);
}

#[tokio::test]
async fn two_keys_of_one_person_are_no_two_people_and_no_receipt_says_so() {
    let (_directory, _store, tenants) = support::memory().await;
    view(&tenants, "acme").await;
    let (acme, now) = (id("acme"), jiff::Timestamp::UNIX_EPOCH);
    let later = now + jiff::SignedDuration::from_hours(24);
    let (one, spare) = (other_than("u_one"), other_than("u_one-spare"));
    tenants.ask_delete(&acme, "u_one", later, &one).await.unwrap();
    let DeleteAsked::Later(status) = tenants.ask_delete(&acme, "u_one-spare", now, &spare).await.unwrap() else {
        panic!("one person alone is not enough")
    };
    let request = status.destroy.unwrap();
    assert_eq!((request.asked_by.as_str(), request.approved_by, request.due_at), ("u_one", None, Some(later)));
    tenants.enable_key(&acme, Side::Operator).await.unwrap();

    tenants.ask_destroy(&acme, "u_one").await.unwrap();
    let alone = tenants.approve_destroy(&acme, "u_one-spare", now, &spare).await;
    assert!(matches!(alone, Err(StoreError::Conflict { .. })));
    let DeleteAsked::Later(status) = tenants.ask_delete(&acme, "u_one-spare", later, &spare).await.unwrap() else {
        panic!("one person alone is not enough")
    };
    assert_eq!(status.destroy.unwrap().approved_by, None, "it is the deletion that one alone may ask for");
    let gone = destroy(&tenants, "acme", "u_one").await.unwrap();
    assert_eq!((gone.asked_by.as_str(), gone.approved_by), ("u_one", None));
}

#[tokio::test]
async fn the_end_of_a_response_enables_only_the_keys_that_are_disabled_for_it_still() {
    let (_directory, _store, tenants) = support::memory().await;
    let view = view(&tenants, "acme").await;
    let acme = id("acme");
    let disable = async |response: &str| tenants.disable_key_for(&acme, response, "u_ops", Side::Operator).await;
    disable("rs_1").await.unwrap();
    disable("rs_1").await.unwrap();
    assert!(matches!(disable("rs_2").await, Err(StoreError::KeyDisabled)));
    tenants.enable_key_after(&acme, "rs_2").await.unwrap();
    assert!(matches!(view.check_keys(), Err(StoreError::KeyDisabled)), "that response disabled nothing");
    tenants.enable_key_after(&acme, "rs_1").await.unwrap();
    assert!(view.check_keys().is_ok());
    for side in [Side::Tenant, Side::Operator] {
        disable("rs_3").await.unwrap();
        tenants.disable_key(&acme, "u_other", side).await.unwrap();
        tenants.enable_key_after(&acme, "rs_3").await.unwrap();
        assert!(matches!(view.check_keys(), Err(StoreError::KeyDisabled)), "{side:?}: somebody wanted it meanwhile");
        let disabled = tenants.key_disabled(&acme).await.unwrap().unwrap();
        assert_eq!((disabled.by.as_str(), disabled.side, disabled.response), ("u_other", Side::Operator, None));
        tenants.enable_key(&acme, Side::Operator).await.unwrap();
    }
    disable("rs_4").await.unwrap();
    tenants.ask_destroy(&acme, "u_ops").await.unwrap();
    tenants.enable_key_after(&acme, "rs_4").await.unwrap();
    assert!(matches!(view.check_keys(), Err(StoreError::KeyDisabled)), "what was asked for is not withdrawn");
}

on_every_backend!(
    after_a_deletion_an_old_copy_of_the_data_directory_cannot_be_opened_for_that_tenant,
    what_was_destroyed_waits_for_its_receipt_over_starts_and_says_who_wanted_it,
    a_deletion_that_the_provider_refuses_is_carried_on_and_keeps_no_start_down,
);

async fn after_a_deletion_an_old_copy_of_the_data_directory_cannot_be_opened_for_that_tenant(backend: Backend) {
    let place = Place::on(backend);
    let old = place.directory.path().join("old-copy");
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    fill(&acme).await;
    let bolt = view(&tenants, "bolt").await;
    bolt.put(&key(1), "still here").await.unwrap();
    store.close().await.unwrap();
    copy(&place.data(), &old.join("data"));

    let (store, tenants) = place.open().await;
    let destroyed = destroy(&tenants, "acme", "u_one").await.unwrap();
    assert_eq!(destroyed.reaches, Shredding::OldCopiesToo);
    assert_eq!(destroyed.versions.len(), 1);
    store.close().await.unwrap();

    // The copy with everything that is left of the root key's provider: the file and the directory beside it.
    for entry in std::fs::read_dir(place.directory.path()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("root.key") {
            if entry.path().is_dir() {
                copy(&entry.path(), &old.join(entry.file_name()));
            } else {
                std::fs::copy(entry.path(), old.join(entry.file_name())).unwrap();
            }
        }
    }
    restrict(&old);
    let (_store, tenants) = open(&old, backend).await.unwrap();
    assert!(tenants.record(&id("acme")).await.unwrap().is_some(), "the copy knows that there was one");
    assert!(tenants.open_tenant(&id("acme")).is_none(), "and cannot open it");
    let bolt = tenants.open_tenant(&id("bolt")).unwrap();
    assert_eq!(bolt.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"still here");
}

async fn what_was_destroyed_waits_for_its_receipt_over_starts_and_says_who_wanted_it(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    for name in ["acme", "bolt", "cord", "dune"] {
        view(&tenants, name).await;
    }
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    let uid = tenants.record(&id("acme")).await.unwrap().unwrap().uid;
    tenants.ask_delete(&id("acme"), "u_one", epoch, &other_than("u_one")).await.unwrap();
    let two = destroy(&tenants, "acme", "u_two").await.unwrap();
    assert_eq!((two.asked_by.as_str(), two.approved_by.as_deref()), ("u_one", Some("u_two")));
    assert_eq!((two.tenant.as_str(), &two.tenant_uid, two.provider.as_str()), ("acme", &uid, "file"));
    assert_eq!((two.versions.len(), two.wrapping_key.as_ref().map(String::len)), (2, Some(32)));
    tenants.ask_destroy(&id("bolt"), "u_one").await.unwrap();
    tenants.approve_destroy(&id("bolt"), "u_two", epoch, &other_than("u_two")).await.unwrap().unwrap();
    // Whoever does it when its time has come is not a third who agreed.
    let agreed = destroy(&tenants, "bolt", "u_two").await.unwrap();
    assert_eq!((agreed.asked_by.as_str(), agreed.approved_by.as_deref()), ("u_one", Some("u_two")));
    let alone = destroy(&tenants, "cord", "u_one").await.unwrap();
    assert_eq!((alone.asked_by.as_str(), alone.approved_by.as_deref()), ("u_one", None));
    tenants.delete(&id("dune")).await.unwrap();
    store.close().await.unwrap();

    let (_store, tenants) = place.open().await;
    let mut owed = tenants.unreceipted().await.unwrap();
    owed.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    assert_eq!(owed, [two.clone(), agreed, alone], "and none for the one that nobody got to use");
    tenants.platform().batch(vec![two.receipted()], Vec::new()).await.unwrap();
    assert_eq!(tenants.unreceipted().await.unwrap().len(), 2);
}

/// The wrapping keys at the provider.
fn wrapping_keys(place: &Place) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(place.directory.path().join("root.key.tenants")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

async fn a_deletion_that_the_provider_refuses_is_carried_on_and_keeps_no_start_down(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let before = wrapping_keys(&place);
    let (acme, view) = (id("acme"), view(&tenants, "acme").await);
    let wrapping_key = wrapping_keys(&place).difference(&before).next().unwrap().clone();
    // A directory in its place cannot be overwritten.
    let aside = place.directory.path().join("aside");
    std::fs::rename(&wrapping_key, &aside).unwrap();
    std::fs::create_dir(&wrapping_key).unwrap();
    assert!(destroy(&tenants, "acme", "u_one").await.is_err());
    assert!(matches!(view.get(&key(1)).await, Err(StoreError::Gone)));
    let names = |tenants: &Tenants| tenants.deleting().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
    assert_eq!(names(&tenants), std::slice::from_ref(&acme));
    assert!(tenants.carry_on_deletion(&acme).await.is_err());
    assert!(matches!(tenants.create(&acme, "again").await, Err(StoreError::Exists)));
    assert!(tenants.unreceipted().await.unwrap().is_empty(), "its keys are alive");
    let rotated = tenants.rotate_root().await.unwrap();
    assert_eq!(
        (rotated.rewrapped_count, rotated.is_over),
        (1, true),
        "a key that is being destroyed is not written again"
    );
    store.close().await.unwrap();
    drop((store, tenants, view));

    let (_store, tenants) = place.open().await;
    assert_eq!(names(&tenants), std::slice::from_ref(&acme));
    std::fs::remove_dir(&wrapping_key).unwrap();
    std::fs::rename(&aside, &wrapping_key).unwrap();
    tenants.carry_on_deletion(&acme).await.unwrap();
    assert!(!wrapping_key.exists() && tenants.deleting().is_empty());
    let owed = tenants.unreceipted().await.unwrap();
    assert_eq!(owed.len(), 1);
    assert_eq!((owed[0].tenant.as_str(), owed[0].asked_by.as_str()), ("acme", "u_one"));
    assert_eq!(owed[0].wrapping_key.as_deref(), wrapping_key.file_name().and_then(|name| name.to_str()));
    tenants.carry_on_deletion(&acme).await.unwrap();
    tenants.create(&acme, "again").await.unwrap();
}

#[tokio::test]
async fn a_deletion_that_waits_for_the_disk_or_a_provider_holds_up_no_other_tenant() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let store = Store::memory_with_faults(faults.clone());
    let tenants = support::tenants(&store, support::root(directory.path())).await.unwrap();
    let acme = view(&tenants, "acme").await;
    view(&tenants, "bolt").await;
    let held = async || {
        while faults.held_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    faults.hold_flushes();
    let of = tenants.clone();
    let destroyed = tokio::spawn(async move { destroy(&of, "acme", "u_one").await.map(drop) });
    // That it has begun is written first; then what the tenant had is erased.
    held().await;
    faults.let_one_through();
    while !matches!(acme.get(&key(1)).await, Err(StoreError::Gone)) {
        tokio::task::yield_now().await;
    }
    held().await;
    let of = tenants.clone();
    let carried_on = tokio::spawn(async move { of.carry_on_deletion(&id("acme")).await });
    let other = other_than("u_two");
    let again =
        tokio::time::timeout(Duration::from_secs(20), tenants.begin_destroy(&id("acme"), "u_two", &other)).await;
    assert!(matches!(again, Ok(Err(StoreError::UnknownTenant))), "somebody else was faster: {again:?}");
    for name in ["bolt", "acme"] {
        let taken = tokio::time::timeout(Duration::from_secs(20), tenants.create(&id(name), "again")).await;
        assert!(matches!(taken, Ok(Err(StoreError::Exists))), "{name}: {taken:?}");
    }
    faults.let_all_through();
    for ended in [destroyed, carried_on] {
        ended.await.unwrap().unwrap();
    }
    assert!(tenants.deleting().is_empty());
    assert_eq!(tenants.unreceipted().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_still_owes_its_receipt() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    view(&tenants, "acme").await;
    let (acme, epoch) = (id("acme"), jiff::Timestamp::UNIX_EPOCH);
    let status = tenants.key_status(&acme).await.unwrap();
    let begun = Destroyed {
        tenant: acme.clone(),
        tenant_uid: tenants.record(&acme).await.unwrap().unwrap().uid,
        asked_by: "u_one".to_owned(),
        asked_at: epoch,
        approved_by: None,
        destroyed_at: epoch,
        provider: "file".to_owned(),
        wrapping_key: None,
        versions: status.versions,
        reaches: status.shredding,
    };
    // What a crash leaves after the keys are gone and before the end: the intent is durable, and so is what it was about.
    let at = Key::new(["tenant", "acme"]);
    let mut record: serde_json::Value = tenants.platform().get_json(&at).await.unwrap().unwrap();
    record["phase"] = "deleting".into();
    record["destroyed"] = serde_json::to_value(&begun).unwrap();
    tenants.platform().put_json(&at, &record).await.unwrap();
    let file = place.data().join("keys").join(&begun.tenant_uid);
    store.close().await.unwrap();
    std::fs::remove_file(file).unwrap();

    let (_store, tenants) = place.open().await;
    assert!(tenants.record(&acme).await.unwrap().is_none());
    assert_eq!(tenants.unreceipted().await.unwrap(), [begun]);
}

fn restrict(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for (path, _) in files_below(directory) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Asks the providers of all tenants that keep a key themselves; what changed.
async fn tend(tenants: &Tenants) -> Vec<(TenantId, OwnChange)> {
    let mut changes = Vec::new();
    for id in tenants.own_keepers().await.unwrap() {
        changes.extend(tenants.tend_own_key(&id).await.unwrap().map(|change| (id, change)));
    }
    changes
}

/// A root key beside the data, and at `own` what tenant acme keeps itself; none when the operator allows none.
fn root_with_own(place: &Path, own: Option<&Path>) -> Arc<RootKey> {
    let outside = Outside { entropy: Arc::new(SystemEntropy), clock: Arc::new(StoppedClock), aws: None };
    let allowed = own.map(|own| ("acme".to_owned(), RootKeyUri::File(own.to_owned())));
    let root = RootKey::connect(&RootKeyUri::File(place.join("root.key")), MissingRootKey::Create, &outside).unwrap();
    Arc::new(root.with_own(allowed.into_iter().collect(), outside))
}

#[tokio::test]
async fn a_store_is_new_until_it_has_keys_and_is_held_while_it_is_open() {
    let place = Place::new();
    let dir = place.data();
    assert!(!ringfence_store::has_keys(&dir) && !ringfence_store::is_held(&dir));
    let store = Store::open(&dir, place.options()).unwrap();
    assert!(store.is_new().unwrap() && !ringfence_store::has_keys(&dir), "it may have a root key that is made now");
    assert!(ringfence_store::is_held(&dir));
    let _tenants = support::tenants(&store, support::root(place.directory.path())).await.unwrap();
    assert!(!store.is_new().unwrap() && ringfence_store::has_keys(&dir));
}

#[tokio::test]
async fn a_tenant_that_keeps_a_key_itself_is_locked_without_it_and_no_other_is() {
    let place = Place::new();
    let dir = place.directory.path();
    let own = dir.join("own.key");
    drop(RootKey::open_or_create(&RootKeyUri::File(own.clone()), &SystemEntropy).unwrap());
    let start = async |own: Option<&Path>| {
        let store = Store::open(&place.data(), place.options()).unwrap();
        let tenants = support::tenants(&store, root_with_own(dir, own)).await.unwrap();
        (store, tenants)
    };
    let (acme_id, bolt_id) = (id("acme"), id("bolt"));
    let (store, tenants) = start(Some(&own)).await;
    view(&tenants, "acme").await.put(&key(1), "mine").await.unwrap();
    view(&tenants, "bolt").await.put(&key(1), "other").await.unwrap();
    let not_allowed = tenants.take_own_key(&bolt_id).await;
    assert!(matches!(not_allowed, Err(StoreError::Keys(KeysError::OwnNotAllowed))));
    let status = tenants.take_own_key(&acme_id).await.unwrap();
    assert_eq!(status.own.unwrap().opens, Ok(()));
    tenants.rotate_key(&acme_id, None).await.unwrap();
    tenants.rotate_root().await.unwrap();
    assert!(tend(&tenants).await.is_empty());
    store.close().await.unwrap();

    // Without its provider a start serves everybody else.
    std::fs::rename(&own, dir.join("away")).unwrap();
    let (store, tenants) = start(Some(&own)).await;
    let acme = tenants.open_tenant(&acme_id).unwrap();
    assert!(matches!(acme.get(&key(1)).await, Err(StoreError::KeyRefused)));
    assert!(tenants.open_readable(&acme_id).is_none());
    assert!(matches!(tenants.rotate_key(&acme_id, None).await, Err(StoreError::KeyRefused)));
    let bolt = tenants.open_tenant(&bolt_id).unwrap();
    assert_eq!(bolt.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"other");
    assert!(tend(&tenants).await.is_empty());
    assert_eq!(tenants.key_status(&acme_id).await.unwrap().own.unwrap().opens, Err(Closed::Refused));
    // Enabling does not open what the tenant's provider does not.
    tenants.disable_key(&acme_id, "u_ops", Side::Operator).await.unwrap();
    tenants.enable_key(&acme_id, Side::Operator).await.unwrap();
    assert!(matches!(acme.check_keys(), Err(StoreError::KeyRefused)));
    std::fs::rename(dir.join("away"), &own).unwrap();
    assert!(tenants.is_unread(&acme_id) && !tenants.is_unread(&bolt_id));
    assert_eq!(tend(&tenants).await, [(acme_id.clone(), OwnChange::OpenedFirst)]);
    // Until it is noted that somebody read it, it is told again, and must be looked after.
    assert!(tenants.is_unread(&acme_id));
    assert_eq!(tend(&tenants).await, [(acme_id.clone(), OwnChange::OpenedFirst)]);
    assert!(matches!(tenants.give_up_own_key(&acme_id).await, Err(StoreError::KeyRefused)));
    tenants.note_read(&acme_id);
    assert!(!tenants.is_unread(&acme_id));
    assert!(tend(&tenants).await.is_empty());
    assert_eq!(acme.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"mine");
    store.close().await.unwrap();

    // Keys that were disabled while it was away are open once they are enabled, and yet nobody has read anything.
    std::fs::rename(&own, dir.join("away")).unwrap();
    let (store, tenants) = start(Some(&own)).await;
    tenants.disable_key(&acme_id, "u_ops", Side::Operator).await.unwrap();
    std::fs::rename(dir.join("away"), &own).unwrap();
    assert!(tend(&tenants).await.is_empty());
    tenants.enable_key(&acme_id, Side::Operator).await.unwrap();
    assert!(tenants.open_readable(&acme_id).is_some());
    assert_eq!(tend(&tenants).await, [(acme_id.clone(), OwnChange::OpenedFirst)]);
    tenants.note_read(&acme_id);
    assert!(tend(&tenants).await.is_empty());
    store.close().await.unwrap();

    // What the operator no longer allows opens nothing either; given up in time, it is not needed.
    let (store, tenants) = start(None).await;
    assert!(matches!(tenants.open_tenant(&acme_id).unwrap().check_keys(), Err(StoreError::KeyRefused)));
    store.close().await.unwrap();
    let (store, tenants) = start(Some(&own)).await;
    assert_eq!(tenants.give_up_own_key(&acme_id).await.unwrap().own, None);
    store.close().await.unwrap();
    let (_store, tenants) = start(None).await;
    let acme = tenants.open_tenant(&acme_id).unwrap();
    assert_eq!(acme.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"mine");
}

#[tokio::test]
async fn a_tenant_whose_own_key_is_away_can_be_deleted() {
    let place = Place::new();
    let dir = place.directory.path();
    let own = dir.join("own.key");
    drop(RootKey::open_or_create(&RootKeyUri::File(own.clone()), &SystemEntropy).unwrap());
    let store = Store::open(&place.data(), place.options()).unwrap();
    let tenants = support::tenants(&store, root_with_own(dir, Some(&own))).await.unwrap();
    view(&tenants, "acme").await.put(&key(1), "mine").await.unwrap();
    tenants.take_own_key(&id("acme")).await.unwrap();
    store.close().await.unwrap();
    std::fs::remove_file(&own).unwrap();
    let store = Store::open(&place.data(), place.options()).unwrap();
    let tenants = support::tenants(&store, root_with_own(dir, Some(&own))).await.unwrap();
    tenants.delete(&id("acme")).await.unwrap();
    assert!(tenants.record(&id("acme")).await.unwrap().is_none());
}

/// A clock that is moved by hand.
struct Moved(std::sync::atomic::AtomicI64);
impl ringfence_core::Clock for Moved {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0.load(std::sync::atomic::Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

#[tokio::test]
async fn versions_under_which_nothing_is_sealed_are_forgotten_after_a_day_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(0.into()));
    let days = |count: i64| clock.0.fetch_add(count * 86_400, std::sync::atomic::Ordering::Relaxed);
    let root = support::root(directory.path());
    let tenants = Tenants::open(Store::memory(), root, Arc::new(SystemEntropy), clock.clone()).await.unwrap();
    let acme = view(&tenants, "acme").await;
    let acme_id = id("acme");
    let retire = async || tenants.retire_key_versions(&acme_id).await.unwrap();
    let versions =
        async || tenants.key_status(&acme_id).await.unwrap().versions.iter().map(|v| v.version).collect::<Vec<_>>();
    let blob = fill(&acme).await;
    assert_eq!(retire().await, None, "nothing is old");
    tenants.rotate_key(&acme_id, None).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    let sealed = acme.subjects().seal("email", "ann", b"a", jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    tenants.rotate_key(&acme_id, None).await.unwrap();
    assert_eq!(retire().await, None, "sealing anew is under way");
    reseal_to_the_end(&tenants, "acme").await;
    assert_eq!(retire().await, None, "the wait begins");
    assert_eq!(retire().await, None, "and is not over");
    days(1);
    assert_eq!(retire().await.unwrap().versions, [2]);
    assert_eq!(versions().await, [1, 3]);
    check(&acme, &blob).await;
    let (_, opened) = acme.subjects().open("email", None, &sealed).await.unwrap();
    assert_eq!(opened.as_slice(), b"a", "people's keys hang on none of them");
    acme.put(&key(0), "value 0").await.unwrap();
    tenants.rotate_key(&acme_id, None).await.unwrap();
    assert_eq!(versions().await, [1, 3, 4], "a number is never used again");
}

#[tokio::test]
async fn a_damaged_key_file_costs_its_own_tenant_alone() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    view(&tenants, "bolt").await.put(&key(1), "fine").await.unwrap();
    let file = place.data().join("keys").join(acme.uid());
    store.close().await.unwrap();
    drop((store, tenants, acme));
    let whole = std::fs::read(&file).unwrap();
    for damage in [&b""[..], b"{}", &whole[..whole.len() / 2]] {
        std::fs::write(&file, damage).unwrap();
        let (store, tenants) = place.open().await;
        assert!(tenants.open_tenant(&id("acme")).is_none());
        let bolt = tenants.open_tenant(&id("bolt")).unwrap();
        assert_eq!(bolt.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"fine");
        store.close().await.unwrap();
    }
    std::fs::write(&file, whole).unwrap();
    let (_store, tenants) = place.open().await;
    assert!(tenants.open_tenant(&id("acme")).is_some(), "a backup brings it back");
}
