//! Rotations that meet damage: what cannot be opened is named and left, everything else is under the newest key in the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Backend, BlobId, Key, ResealStep, Store, StoreError, TenantStore, Tenants};
use support::{Place, SystemEntropy, files_below, id, root, view};

on_every_backend!(
    a_damaged_key_file_holds_up_the_root_keys_rotation_for_nobody_else_and_keeps_the_older_root_key,
    a_key_under_another_root_key_holds_up_neither_a_rotation_nor_a_start,
);

fn key(number: u64) -> Key {
    Key::new(["kv", "store"]).push(number)
}

/// The identifiers of the root keys that wrap a tenant's key.
async fn wrapped_by(tenants: &Tenants, name: &str) -> BTreeSet<String> {
    let status = tenants.key_status(&id(name)).await.unwrap();
    status.versions.into_iter().map(|version| version.root).collect()
}

async fn a_damaged_key_file_holds_up_the_root_keys_rotation_for_nobody_else_and_keeps_the_older_root_key(
    backend: Backend,
) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    // By name it comes before the others.
    let acme = view(&tenants, "acme").await;
    acme.put(&key(1), "mine").await.unwrap();
    view(&tenants, "bolt").await.put(&key(1), "fine").await.unwrap();
    let file = place.data().join("keys").join(acme.uid());
    let whole = std::fs::read(&file).unwrap();
    let before = tenants.root().id();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let done = tenants.rotate_root().await.unwrap();
    let after = tenants.root().id();
    assert_eq!((done.rewrapped_count, done.is_over), (2, false), "the host's own and bolt's");
    assert_eq!(done.failed, ["acme"]);
    assert_eq!(wrapped_by(&tenants, "bolt").await, BTreeSet::from([after.clone()]));
    store.close().await.unwrap();
    drop((store, tenants, acme));

    // Also a file that is not there at all.
    for damage in [Some(&b"{}"[..]), None] {
        match damage {
            Some(damage) => std::fs::write(&file, damage).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let (store, tenants) = place.open().await;
        assert!(tenants.open_tenant(&id("acme")).is_none());
        assert!(tenants.is_root_rotating().await.unwrap());
        let bolt = tenants.open_tenant(&id("bolt")).unwrap();
        assert_eq!(bolt.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"fine");
        store.close().await.unwrap();
    }
    // A backup brings it back, from before the rotation: that goes on, and is over.
    std::fs::write(&file, whole).unwrap();
    let (_store, tenants) = place.open().await;
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!(acme.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"mine");
    assert_ne!(before, after);
    assert_eq!(wrapped_by(&tenants, "acme").await, BTreeSet::from([after]));
    assert!(!tenants.is_root_rotating().await.unwrap());
    assert!(!place.directory.path().join("root.key.next").exists());
}

async fn a_key_under_another_root_key_holds_up_neither_a_rotation_nor_a_start(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let uid = view(&tenants, "acme").await.uid();
    view(&tenants, "bolt").await.put(&key(1), "fine").await.unwrap();
    store.close().await.unwrap();
    drop((store, tenants));
    let other = RootKeyUri::File(place.directory.path().join("other.key"));
    let other = RootKey::open_or_create(&other, &SystemEntropy).unwrap();
    let (_, wrapped) = other.new_tenant_key("acme", &SystemEntropy).unwrap();
    std::fs::write(place.data().join("keys").join(uid), serde_json::to_vec(&wrapped).unwrap()).unwrap();
    for _ in 0..2 {
        let (store, tenants) = place.open().await;
        assert!(tenants.open_tenant(&id("acme")).is_none());
        let done = tenants.rotate_root().await.unwrap();
        assert_eq!((done.rewrapped_count, done.failed.len(), done.is_over), (2, 0, true));
        let bolt = tenants.open_tenant(&id("bolt")).unwrap();
        assert_eq!(bolt.get(&key(1)).await.unwrap().unwrap().value.as_slice(), b"fine");
        store.close().await.unwrap();
    }
}

/// A clock that is moved by hand.
struct Moved(AtomicI64);
impl ringfence_core::Clock for Moved {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

async fn reseal_to_the_end(tenants: &Tenants, name: &str) {
    for _ in 0..100 {
        if tenants.reseal_step(&id(name)).await.unwrap() == ResealStep::Done {
            return;
        }
    }
    panic!("there is no end");
}

async fn blob(view: &TenantStore, mebibytes: usize) -> BlobId {
    let mut blob = view.blobs().create().await.unwrap();
    for _ in 0..mebibytes {
        blob.write(Bytes::from(vec![9_u8; 1 << 20])).await.unwrap();
    }
    blob.finish().await.unwrap()
}

/// The sealed records of a tenant by their stored keys, out of a database that nobody has open.
fn rows(place: &Place, uid: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let prefix = [&[1], data_encoding::HEXLOWER.decode(uid.as_bytes()).unwrap().as_slice()].concat();
    let database = ::sled::open(place.data().join("db")).unwrap();
    let rows = database.scan_prefix(prefix).map(Result::unwrap);
    rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Flips a bit in the middle of a file.
fn rot(file: &Path) {
    let mut content = std::fs::read(file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(file, content).unwrap();
}

fn only_file(directory: &Path) -> PathBuf {
    std::fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
}

/// How many files below a directory are sealed under a version.
fn files_under(directory: &Path, version: u8) -> usize {
    files_below(directory).iter().filter(|(_, content)| content[..2] == [b'S', version]).count()
}

#[tokio::test]
async fn what_does_not_open_holds_up_no_sealing_anew_is_counted_and_keeps_its_version() {
    const COUNT: u64 = 450;
    let place = Place::new();
    let large = Key::new(["kv", "large"]);
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    for number in 0..COUNT {
        acme.put(&key(number), format!("value {number}")).await.unwrap();
    }
    acme.put(&large, vec![7_u8; 300_000]).await.unwrap();
    let blob_id = blob(&acme, 1).await;
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    assert_eq!(tenants.key_status(&id("acme")).await.unwrap().reseal, None, "nothing is damaged yet");
    let uid = acme.uid();
    store.close().await.unwrap();
    drop((store, tenants, acme));

    // One record, one file of a large value, one content.
    let (rotten, mut sealed) = rows(&place, &uid).into_iter().find(|(_, value)| value[0] == 1).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    {
        let database = ::sled::open(place.data().join("db")).unwrap();
        database.insert(&rotten, sealed).unwrap();
        database.flush().unwrap();
    }
    let files = place.data().join("blobs").join(&uid);
    rot(&only_file(&files.join("values")));
    rot(&only_file(&files.join("contents")));

    let clock = Arc::new(Moved(0.into()));
    let store = Store::open(&place.data(), place.options()).unwrap();
    let root = root(place.directory.path());
    let tenants = Tenants::open(store.clone(), root, Arc::new(SystemEntropy), clock.clone()).await.unwrap();
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    let status = tenants.key_status(&id("acme")).await.unwrap();
    let reseal = status.reseal.unwrap();
    assert!(reseal.is_over());
    assert_eq!((reseal.damaged_count, reseal.seen_count, status.records_count), (3, COUNT + 1, COUNT + 1));
    assert_eq!(reseal.resealed_count, COUNT, "all but the rotten one");
    assert!(tenants.tended_keys().await.unwrap().resealing.is_empty());
    assert_eq!(tenants.reseal_step(&id("acme")).await.unwrap(), ResealStep::Done);
    let mut lost_count = 0;
    for number in 0..COUNT {
        match acme.get(&key(number)).await {
            Ok(record) => assert_eq!(record.unwrap().value.as_slice(), format!("value {number}").as_bytes()),
            Err(StoreError::Damaged) => lost_count += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(lost_count, 1);
    assert!(acme.get(&large).await.is_err());
    assert!(acme.blobs().read_all(&blob_id, u64::MAX).await.is_err());

    // Their version is kept, and says for how many things.
    let retire = async || tenants.retire_key_versions(&id("acme")).await.unwrap();
    assert_eq!(retire().await, None, "the wait begins");
    clock.0.fetch_add(86_400, Ordering::Relaxed);
    let retired = retire().await.unwrap();
    assert_eq!((retired.versions, retired.kept), (Vec::new(), BTreeMap::from([(2, 3)])));
    store.close().await.unwrap();
    drop((store, tenants, acme));
    let rows = rows(&place, &uid);
    let old: Vec<_> = rows.iter().filter(|(_, value)| value[9..11] != *b"T\x03").map(|(key, _)| key.clone()).collect();
    assert_eq!(old, [rotten]);
    assert_eq!((files_under(&files, 2), files_under(&files, 3)), (2, 0));

    // What is mended is sealed anew by the next rotation, and then nothing is told any more.
    let (_store, tenants) = place.open().await;
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    for number in 0..COUNT {
        acme.put(&key(number), "anew").await.unwrap();
    }
    acme.put(&large, vec![8_u8; 300_000]).await.unwrap();
    acme.blobs().delete(&blob_id).await.unwrap();
    assert!(tenants.key_status(&id("acme")).await.unwrap().reseal.is_some(), "it is told until the next rotation");
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    assert_eq!(tenants.key_status(&id("acme")).await.unwrap().reseal, None);
}

#[tokio::test]
async fn large_things_are_sealed_anew_two_at_a_time_and_a_stop_in_between_loses_nothing() {
    const MEBIBYTES: usize = 9;
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    for number in 0..3 {
        acme.put(&key(number), vec![7_u8; MEBIBYTES << 20]).await.unwrap();
    }
    let mut blobs = Vec::new();
    for _ in 0..3 {
        blobs.push(blob(&acme, MEBIBYTES).await);
    }
    let files = place.data().join("blobs").join(acme.uid());
    let (values, contents) = (files.join("values"), files.join("contents"));
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    let step = async |tenants: &Tenants| tenants.reseal_step(&id("acme")).await.unwrap();
    let anew = || (files_under(&values, 2), files_under(&contents, 2));
    for (seen_count, expected) in [(2, (2, 0)), (3, (3, 0)), (3, (3, 2))] {
        assert_eq!(step(&tenants).await, ResealStep::More);
        let status = tenants.key_status(&id("acme")).await.unwrap();
        assert_eq!((status.reseal.unwrap().seen_count, status.records_count, anew()), (seen_count, 3, expected));
    }
    store.close().await.unwrap();
    drop((store, tenants, acme));

    let (_store, tenants) = place.open().await;
    assert_eq!(step(&tenants).await, ResealStep::Done);
    assert_eq!(anew(), (3, 3));
    assert_eq!(tenants.key_status(&id("acme")).await.unwrap().reseal, None);
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    for number in 0..3 {
        let record = acme.get(&key(number)).await.unwrap().unwrap();
        assert_eq!(record.value.as_slice(), vec![7_u8; MEBIBYTES << 20]);
    }
    for blob in &blobs {
        assert_eq!(acme.blobs().read_all(blob, u64::MAX).await.unwrap(), vec![9_u8; MEBIBYTES << 20]);
    }
}

#[tokio::test]
async fn a_version_that_only_damage_kept_is_forgotten_once_the_damage_is_removed() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    for number in 0..5 {
        acme.put(&key(number), "value").await.unwrap();
    }
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    let uid = acme.uid();
    store.close().await.unwrap();
    drop((store, tenants, acme));
    let (rotten, mut sealed) = rows(&place, &uid).into_iter().find(|(_, value)| value[0] == 1).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    {
        let database = ::sled::open(place.data().join("db")).unwrap();
        database.insert(&rotten, sealed).unwrap();
        database.flush().unwrap();
    }

    let clock = Arc::new(Moved(0.into()));
    let store = Store::open(&place.data(), place.options()).unwrap();
    let root = root(place.directory.path());
    let tenants = Tenants::open(store.clone(), root, Arc::new(SystemEntropy), clock.clone()).await.unwrap();
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    tenants.rotate_key(&id("acme"), None).await.unwrap();
    reseal_to_the_end(&tenants, "acme").await;
    // What a day later is found to be under each version.
    let retired = async || {
        assert_eq!(tenants.retire_key_versions(&id("acme")).await.unwrap(), None, "the wait begins");
        clock.0.fetch_add(86_400, Ordering::Relaxed);
        let retired = tenants.retire_key_versions(&id("acme")).await.unwrap().unwrap();
        (retired.versions, retired.kept)
    };
    assert_eq!(retired().await, (Vec::new(), BTreeMap::from([(2, 1)])));
    let (found, _) = acme.rotten(None).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(acme.remove_rotten(&found[0].place).await.unwrap().is_some());
    assert_eq!(retired().await, (vec![2], BTreeMap::new()));
    store.close().await.unwrap();
}
