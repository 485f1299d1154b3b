//! Rotations that meet damage: what cannot be opened is named and left, everything else is under the newest key in the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::collections::BTreeSet;

use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Backend, Key, Tenants};
use support::{Place, SystemEntropy, id, view};

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
