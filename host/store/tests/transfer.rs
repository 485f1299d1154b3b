//! Moving a data directory between backends, and checking one: all or nothing, and what is damaged is named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ringfence_store::{Backend, Checked, Key, Store, StoreError, check, migrate};
use support::{Place, SystemEntropy, root, view};

on_every_backend! {
    a_store_that_was_moved_holds_what_it_held_and_can_be_moved_back,
    what_a_crash_left_of_a_move_does_no_harm,
    a_move_that_cannot_be_is_refused_and_changes_nothing,
    a_whole_store_is_found_whole_and_is_not_changed,
    damage_is_named_by_tenant_and_the_others_are_found_whole,
    a_damaged_database_is_named_and_stays_where_it_is,
}

const CACHE_BYTES: u64 = 4 << 20;

fn key(number: u64) -> Key {
    Key::new(["n"]).number(number)
}

fn other(backend: Backend) -> Backend {
    Backend::ALL.into_iter().find(|other| *other != backend).unwrap()
}

/// Two tenants with small values, a large one and a blob each.
async fn fill(place: &Place) {
    let (store, tenants) = place.open().await;
    for name in ["acme", "umbra"] {
        let tenant = view(&tenants, name).await;
        for number in 0..40 {
            tenant.put(&key(number), vec![number as u8; 200]).await.unwrap();
        }
        tenant.put(&key(100), vec![1; 100_000]).await.unwrap();
        tenant.put(&Key::new(["secret", "one"]), *b"canary").await.unwrap();
        let mut blob = tenant.blobs().create().await.unwrap();
        blob.write(Bytes::from_static(&[7; 5_000])).await.unwrap();
        blob.finish().await.unwrap();
    }
    store.close().await.unwrap();
}

async fn assert_whole(place: &Place, backend: Backend) {
    let (store, tenants) = support::open(place.directory.path(), backend).await.unwrap();
    for name in ["acme", "umbra"] {
        let tenant = view(&tenants, name).await;
        for number in 0..40 {
            assert_eq!(tenant.get(&key(number)).await.unwrap().unwrap().value.as_slice(), vec![number as u8; 200]);
        }
        assert_eq!(tenant.get(&key(100)).await.unwrap().unwrap().value.len(), 100_000);
        let secret = tenant.get(&Key::new(["secret", "one"])).await.unwrap().unwrap();
        assert_eq!(secret.value.as_slice(), b"canary");
        assert_eq!(tenant.scan(&Key::new(["n"]), None, 100).await.unwrap().records.len(), 41);
    }
    store.close().await.unwrap();
}

async fn checked(place: &Place) -> Result<Checked, StoreError> {
    check(&place.data(), &root(place.directory.path()), Arc::new(SystemEntropy), CACHE_BYTES).await
}

async fn a_store_that_was_moved_holds_what_it_held_and_can_be_moved_back(backend: Backend) {
    let place = Place::on(backend);
    fill(&place).await;
    let to = other(backend);
    let mut heard = 0;
    let moved = migrate(&place.data(), backend, to, CACHE_BYTES, &mut |rows| heard = rows).unwrap();
    assert_eq!(moved.rows_count, heard);
    assert!(moved.rows_count > 80 && moved.bytes > 80 * 200, "{moved:?}");
    assert!(moved.kept.join(Path::new(support::database(backend)).parent().unwrap()).exists(), "{moved:?}");
    let refused = Store::open(&place.data(), place.options());
    assert!(matches!(refused, Err(StoreError::WrongBackend { .. })), "{refused:?}");
    assert_whole(&place, to).await;
    let back = migrate(&place.data(), to, backend, CACHE_BYTES, &mut |_| {}).unwrap();
    assert!(back.kept.ends_with("aside-2"), "{back:?}");
    assert_whole(&place, backend).await;
    // Nothing was written in between: the same rows in the same order have the same digest.
    let again = migrate(&place.data(), backend, to, CACHE_BYTES, &mut |_| {}).unwrap();
    let and_back = migrate(&place.data(), to, backend, CACHE_BYTES, &mut |_| {}).unwrap();
    assert_eq!((again.rows_count, again.sha256), (and_back.rows_count, and_back.sha256));
    assert_whole(&place, backend).await;
}

async fn what_a_crash_left_of_a_move_does_no_harm(backend: Backend) {
    let place = Place::on(backend);
    fill(&place).await;
    let to = other(backend);
    let directory = Path::new(support::database(to)).parent().unwrap().to_owned();
    // Half a copy; and a whole one from before the format was written.
    for name in [PathBuf::from(format!("{}.part", directory.display())), directory] {
        std::fs::create_dir(place.data().join(&name)).unwrap();
        std::fs::write(place.data().join(&name).join("half"), b"a copy").unwrap();
    }
    assert_whole(&place, backend).await;
    migrate(&place.data(), backend, to, CACHE_BYTES, &mut |_| {}).unwrap();
    assert_whole(&place, to).await;
}

async fn a_move_that_cannot_be_is_refused_and_changes_nothing(backend: Backend) {
    let place = Place::on(backend);
    let nothing = migrate(&place.data(), backend, other(backend), CACHE_BYTES, &mut |_| {});
    assert!(matches!(nothing, Err(StoreError::Unavailable { .. })), "{nothing:?}");
    assert!(!place.data().exists());
    fill(&place).await;
    let wrong = migrate(&place.data(), other(backend), backend, CACHE_BYTES, &mut |_| {});
    assert!(matches!(wrong, Err(StoreError::WrongBackend { .. })), "{wrong:?}");
    let (store, _tenants) = place.open().await;
    let open = migrate(&place.data(), backend, other(backend), CACHE_BYTES, &mut |_| {});
    assert!(matches!(open, Err(StoreError::InUse { .. })), "{open:?}");
    store.close().await.unwrap();
    // A database that lost what it had is not moved on as if it were whole.
    let whole = std::fs::read(place.data().join("mark")).unwrap();
    std::fs::write(place.data().join("mark"), "ringfence store 1\nrevision 00000000009999999999\n").unwrap();
    let damaged = migrate(&place.data(), backend, other(backend), CACHE_BYTES, &mut |_| {});
    assert!(matches!(damaged, Err(StoreError::Unavailable { .. })), "{damaged:?}");
    std::fs::write(place.data().join("mark"), whole).unwrap();
    assert_whole(&place, backend).await;
}

async fn a_whole_store_is_found_whole_and_is_not_changed(backend: Backend) {
    let place = Place::on(backend);
    fill(&place).await;
    let before = support::files_below(&place.data());
    let found = checked(&place).await.unwrap();
    assert_eq!(found.damage, []);
    assert_eq!((found.tenants_count, found.files_count), (3, 4));
    assert!(found.records_count >= 84, "{found:?}");
    assert_eq!(support::files_below(&place.data()), before);
    let (store, _tenants) = place.open().await;
    assert!(matches!(checked(&place).await, Err(StoreError::InUse { .. })));
    store.close().await.unwrap();
    std::fs::rename(place.directory.path().join("root.key"), place.directory.path().join("kept.key")).unwrap();
    let other_key = checked(&place).await;
    assert!(matches!(other_key, Err(StoreError::Keys(_))), "{other_key:?}");
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

async fn damage_is_named_by_tenant_and_the_others_are_found_whole(backend: Backend) {
    let place = Place::on(backend);
    fill(&place).await;
    let (store, tenants) = place.open().await;
    let uid = view(&tenants, "acme").await.uid();
    store.close().await.unwrap();
    let files = place.data().join("blobs").join(&uid);
    rot(&only_file(&files.join("values")));
    rot(&only_file(&files.join("contents")));
    let found = checked(&place).await.unwrap();
    let of_acme = |what: &str| found.damage.iter().any(|damage| damage.what == what && damage.count == 1);
    assert!(of_acme("files of large values do not open") && of_acme("files do not open"), "{found:?}");
    assert!(found.damage.iter().all(|damage| damage.tenant.as_deref() == Some("acme")), "{found:?}");
    std::fs::remove_file(only_file(&files.join("values"))).unwrap();
    let found = checked(&place).await.unwrap();
    assert!(found.damage.iter().any(|damage| damage.what == "files of large values are missing"), "{found:?}");
    // The host serves on: what is damaged is refused, the rest of the tenant and the others are as they were.
    let (store, tenants) = place.open().await;
    assert!(view(&tenants, "acme").await.get(&key(1)).await.unwrap().is_some());
    assert!(view(&tenants, "umbra").await.get(&key(100)).await.unwrap().is_some());
    store.close().await.unwrap();
    rot(&place.data().join("keys").join(&uid));
    let found = checked(&place).await.unwrap();
    let key_damage = |damage: &&ringfence_store::Damage| damage.what == "the wrapped key is damaged";
    assert_eq!(found.damage.iter().find(key_damage).unwrap().tenant.as_deref(), Some("acme"), "{found:?}");
    assert!(found.damage.iter().all(|damage| damage.tenant.as_deref() != Some("umbra")), "{found:?}");
}

async fn a_damaged_database_is_named_and_stays_where_it_is(backend: Backend) {
    let place = Place::on(backend);
    fill(&place).await;
    let mut content = std::fs::read(place.database()).unwrap();
    content[..4_096].fill(0xEE);
    std::fs::write(place.database(), content).unwrap();
    let before = support::files_below(&place.data());
    let found = checked(&place).await.unwrap();
    assert!(!found.damage.is_empty(), "{found:?}");
    assert_eq!(found.damage[0].tenant, None);
    assert_eq!(support::files_below(&place.data()), before);
}

#[tokio::test]
async fn records_that_are_gone_or_older_without_a_trace_are_told() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let acme = support::view(&tenants, "acme").await;
    let key = |number: u64| Key::new(["log", "lines"]).number(number);
    for number in 0..5 {
        acme.put(&key(number), vec![1; 10]).await.unwrap();
    }
    let uid = data_encoding::HEXLOWER.decode(acme.uid().as_bytes()).unwrap();
    store.close().await.unwrap();
    drop((acme, tenants, store));
    assert_eq!(checked(&place).await.unwrap().damage, Vec::new());

    // As a database does that lost a page: what was there before is there again, and is whole.
    let rows = || {
        let config = ::sled::Config::new().path(place.data().join("db"));
        config.open().unwrap()
    };
    let records = [&[1], uid.as_slice()].concat();
    let old = rows().scan_prefix(&records).last().unwrap().unwrap();
    {
        let (store, tenants) = place.open().await;
        let acme = tenants.open_tenant(&support::id("acme")).unwrap();
        acme.put(&key(4), vec![2; 10]).await.unwrap();
        store.close().await.unwrap();
    }
    {
        let db = rows();
        db.insert(old.0, old.1).unwrap();
        db.flush().unwrap();
    }
    let older = checked(&place).await.unwrap().damage;
    assert_eq!(
        older.iter().map(|it| (it.what.as_str(), it.count)).collect::<Vec<_>>(),
        [("records are older than they were", 1)]
    );
    {
        let db = rows();
        let two: Vec<_> = db.scan_prefix(&records).take(2).map(|row| row.unwrap().0).collect();
        two.into_iter().for_each(|key| drop(db.remove(key).unwrap()));
        db.flush().unwrap();
    }
    let gone = checked(&place).await.unwrap().damage;
    assert_eq!(gone.iter().map(|it| (it.what.as_str(), it.count)).collect::<Vec<_>>(), [("records are missing", 2)]);
}
