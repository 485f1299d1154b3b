//! What keeps tenants apart and readers out: views, seals, destroyed keys, and nothing in clear on the disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use bytes::Bytes;
use ringfence_store::{BlobId, Key, Op, PLATFORM, Precondition, StoreError, TenantState};
use support::{Place, contains, files_below, id, memory, root, view};

const CANARY: &str = "canary-7f3a91";

#[tokio::test]
async fn two_tenants_with_the_same_key_do_not_see_each_other() {
    let (_root, _store, tenants) = memory().await;
    let (acme, evil) = (view(&tenants, "acme").await, view(&tenants, "evil").await);
    let key = Key::new(["kv", "visits"]);
    acme.put(&key, *b"acme's").await.unwrap();
    assert!(evil.get(&key).await.unwrap().is_none());
    evil.put(&key, *b"evil's").await.unwrap();
    assert_eq!(acme.get(&key).await.unwrap().unwrap().value.as_slice(), b"acme's");
    evil.delete(&key).await.unwrap();
    assert!(acme.get(&key).await.unwrap().is_some());
    assert!(tenants.platform().scan(&Key::new(["kv"]), None, 10).await.unwrap().records.is_empty());
    assert!(evil.scan(&Key::default(), None, 10).await.unwrap().records.is_empty());
}

#[tokio::test]
async fn the_token_of_one_listing_leads_nowhere_in_another() {
    let (_root, _store, tenants) = memory().await;
    let (acme, evil) = (view(&tenants, "acme").await, view(&tenants, "evil").await);
    for number in 0..3 {
        acme.put(&Key::new(["a"]).number(number), *b"v").await.unwrap();
        evil.put(&Key::new(["a"]).number(number), *b"secret").await.unwrap();
    }
    let token = evil.scan(&Key::default(), None, 1).await.unwrap().next.unwrap();
    let page = acme.scan(&Key::new(["a"]), Some(&token), 10).await.unwrap();
    assert!(page.records.iter().all(|(_, record)| record.value.as_slice() == b"v"));
    assert!("".parse::<ringfence_store::PageToken>().is_err());
    assert!("not base64!".parse::<ringfence_store::PageToken>().is_err());
}

/// Fills a store with canaries everywhere a tenant can put something, and closes it.
async fn fill(place: &Place) -> BlobId {
    let (store, tenants) = place.open().await;
    tenants.create(&id("canary-tenant"), CANARY).await.unwrap();
    let view = tenants.open_tenant(&id("canary-tenant")).unwrap();
    view.put(&Key::new(["kv", CANARY]), CANARY).await.unwrap();
    view.put(&Key::new([CANARY]).number(1), CANARY.repeat(10_000)).await.unwrap();
    let mut blob = view.blobs().create().await.unwrap();
    blob.write(Bytes::from(CANARY.repeat(50_000))).await.unwrap();
    let blob = blob.finish().await.unwrap();
    store.close().await.unwrap();
    blob
}

#[tokio::test]
async fn no_value_name_or_tenant_is_in_clear_on_the_disk() {
    let place = Place::new();
    fill(&place).await;
    let files = files_below(&place.data());
    assert!(files.len() > 6, "there is something to look at");
    for (path, content) in files {
        assert!(!contains(&content, b"canary"), "content of {}", path.display());
        assert!(!path.to_string_lossy().contains("canary"), "name of {}", path.display());
    }
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_with_its_key_data_and_files() {
    let place = Place::new();
    let blob = fill(&place).await;
    let (store, tenants) = place.open().await;
    let view = tenants.open_tenant(&id("canary-tenant")).unwrap();
    let mut unfinished = view.blobs().create().await.unwrap();
    let uid = view.uid();
    let key_file = place.data().join("keys").join(&uid);
    assert!(key_file.exists());
    tenants.delete(&id("canary-tenant")).await.unwrap();

    let gone = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Gone)), "{result:?}");
    let key = Key::new(["kv", CANARY]);
    gone(view.get(&key).await.map(drop));
    gone(view.put(&key, *b"v").await.map(drop));
    gone(view.scan(&Key::default(), None, 1).await.map(drop));
    gone(view.blobs().read_all(&blob, u64::MAX).await.map(drop));
    gone(view.blobs().create().await.map(drop));
    let written = unfinished.write(Bytes::from_static(b"late")).await;
    gone(match written {
        Ok(()) => unfinished.finish().await.map(drop),
        Err(error) => Err(error),
    });
    assert_eq!(view.state(), TenantState::Suspended);
    assert!(tenants.open_tenant(&id("canary-tenant")).is_none());
    assert!(tenants.record(&id("canary-tenant")).await.unwrap().is_none());
    assert!(tenants.list().await.unwrap().is_empty());
    assert!(matches!(tenants.delete(&id("canary-tenant")).await, Err(StoreError::UnknownTenant)));
    assert!(!key_file.exists());
    assert!(!place.data().join("blobs").join(&uid).exists());
    store.close().await.unwrap();
    let database = sled::open(place.data().join("db")).unwrap();
    let uid = data_encoding::HEXLOWER.decode(uid.as_bytes()).unwrap();
    assert!(database.iter().keys().all(|key| !contains(&key.unwrap(), &uid)), "no record of it is left");
    drop(database);

    // The name can be used again, by a tenant that has nothing of the old one.
    let (_store, tenants) = place.open().await;
    let again = support::view(&tenants, "canary-tenant").await;
    assert_ne!(again.uid(), data_encoding::HEXLOWER.encode(&uid));
    assert!(again.get(&key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_deletion_that_was_interrupted_is_carried_on_at_the_next_start() {
    let place = Place::new();
    fill(&place).await;
    let (store, tenants) = place.open().await;
    let uid = tenants.open_tenant(&id("canary-tenant")).unwrap().uid();
    // What a crash right after the first step leaves: the intent is durable, nothing else has happened.
    let key = Key::new(["tenant", "canary-tenant"]);
    let mut record: serde_json::Value = tenants.platform().get_json(&key).await.unwrap().unwrap();
    record["phase"] = "deleting".into();
    tenants.platform().put_json(&key, &record).await.unwrap();
    store.close().await.unwrap();

    let (_store, tenants) = place.open().await;
    assert!(tenants.open_tenant(&id("canary-tenant")).is_none());
    assert!(!place.data().join("keys").join(&uid).exists());
    assert!(!place.data().join("blobs").join(&uid).exists());
    assert!(tenants.create(&id("canary-tenant"), "again").await.is_ok());
}

#[tokio::test]
async fn a_tenant_whose_key_is_missing_does_not_stop_the_others() {
    let place = Place::new();
    fill(&place).await;
    let (store, tenants) = place.open().await;
    view(&tenants, "other").await.put(&Key::new(["k"]), *b"v").await.unwrap();
    let uid = tenants.open_tenant(&id("canary-tenant")).unwrap().uid();
    store.close().await.unwrap();
    std::fs::remove_file(place.data().join("keys").join(uid)).unwrap();
    let (_store, tenants) = place.open().await;
    assert!(tenants.open_tenant(&id("canary-tenant")).is_none());
    assert!(matches!(tenants.create(&id("canary-tenant"), "x").await, Err(StoreError::Exists)));
    assert!(view(&tenants, "other").await.get(&Key::new(["k"])).await.unwrap().is_some());
    tenants.delete(&id("canary-tenant")).await.unwrap();
}

#[tokio::test]
async fn a_record_copied_byte_for_byte_elsewhere_is_refused() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let (acme, evil) = (view(&tenants, "acme").await, view(&tenants, "evil").await);
    let (one, two) = (Key::new(["kv"]).number(1), Key::new(["kv"]).number(2));
    let first = acme.put(&one, *b"first").await.unwrap().revision;
    acme.put(&two, *b"second").await.unwrap();
    evil.put(&one, *b"third").await.unwrap();
    let uids = [acme.uid(), evil.uid()].map(|uid| data_encoding::HEXLOWER.decode(uid.as_bytes()).unwrap());
    store.close().await.unwrap();

    let database = sled::open(place.data().join("db")).unwrap();
    let pairs = |uid: &[u8]| -> Vec<(sled::IVec, sled::IVec)> {
        database.scan_prefix([&[1][..], uid].concat()).map(Result::unwrap).collect()
    };
    let [acme_pairs, evil_pairs] = [pairs(&uids[0]), pairs(&uids[1])];
    assert_eq!((acme_pairs.len(), evil_pairs.len()), (2, 1));
    // To another key of the tenant, and to another tenant.
    database.insert(&acme_pairs[1].0, &acme_pairs[0].1).unwrap();
    database.insert(&evil_pairs[0].0, &acme_pairs[0].1).unwrap();
    database.flush().unwrap();
    drop(database);

    let (store, tenants) = place.open().await;
    let (acme, evil) = (view(&tenants, "acme").await, view(&tenants, "evil").await);
    assert!(acme.get(&one).await.is_ok());
    for result in [acme.get(&two).await, evil.get(&one).await] {
        assert!(matches!(result, Err(StoreError::Damaged)), "{result:?}");
    }
    assert!(matches!(acme.scan(&Key::new(["kv"]), None, 10).await, Err(StoreError::Damaged)));
    let claimed = acme.batch(vec![], vec![Precondition::Revision(two.clone(), first)]).await;
    assert!(matches!(claimed, Err(StoreError::Damaged)), "a forged revision satisfies nothing");
    acme.put(&two, *b"mended").await.unwrap();
    assert_eq!(acme.get(&two).await.unwrap().unwrap().value.as_slice(), b"mended");
    store.close().await.unwrap();
}

#[tokio::test]
async fn every_altered_byte_of_a_stored_record_is_refused() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    acme.put(&Key::new(["k"]), *b"value").await.unwrap();
    let uid = data_encoding::HEXLOWER.decode(acme.uid().as_bytes()).unwrap();
    store.close().await.unwrap();
    let (length, original) = {
        let database = sled::open(place.data().join("db")).unwrap();
        let (key, value) = database.scan_prefix([&[1][..], &uid].concat()).next().unwrap().unwrap();
        (value.len(), (key, value))
    };
    for at in [0, 1, 8, 9, 10, 20, 43, length - 17, length - 1] {
        let database = sled::open(place.data().join("db")).unwrap();
        let mut altered = original.1.to_vec();
        altered[at] ^= 1;
        database.insert(&original.0, altered).unwrap();
        database.flush().unwrap();
        drop(database);
        let (store, tenants) = place.open().await;
        let result = view(&tenants, "acme").await.get(&Key::new(["k"])).await;
        assert!(matches!(result, Err(StoreError::Damaged)), "byte {at}: {result:?}");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn another_root_key_opens_nothing() {
    let place = Place::new();
    fill(&place).await;
    std::fs::remove_file(place.directory.path().join("root.key")).unwrap();
    let error = support::open(place.directory.path(), place.backend).await.unwrap_err();
    assert!(matches!(error, StoreError::Keys(ringfence_keys::KeysError::OtherRootKey { .. })), "{error}");
}

#[tokio::test]
async fn a_store_without_the_platforms_key_is_not_taken_for_a_new_one() {
    let place = Place::new();
    fill(&place).await;
    std::fs::remove_file(place.data().join("keys").join("0".repeat(32))).unwrap();
    let error = support::open(place.directory.path(), place.backend).await.unwrap_err();
    assert!(matches!(error, StoreError::KeyMissing { .. }), "{error}");
}

#[tokio::test]
async fn tenants_are_made_once_listed_suspended_and_kept() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let made = tenants.create(&id("acme"), "Acme Ltd").await.unwrap();
    assert!(matches!(tenants.create(&id("acme"), "again").await, Err(StoreError::Exists)));
    assert!(matches!(tenants.set_state(&id("nobody"), TenantState::Active).await, Err(StoreError::UnknownTenant)));
    let view = tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!((view.label(), view.tenant(), view.state()), ("acme", Some(&id("acme")), TenantState::Active));
    assert_eq!((tenants.platform().label(), tenants.platform().tenant()), (PLATFORM, None));
    let suspended = tenants.set_state(&id("acme"), TenantState::Suspended).await.unwrap();
    assert_eq!(view.state(), TenantState::Suspended, "handles see it at once");
    store.close().await.unwrap();
    let (_store, tenants) = place.open().await;
    assert_eq!(tenants.list().await.unwrap(), vec![suspended.clone()]);
    assert_eq!((suspended.uid, suspended.created_at), (made.uid, made.created_at));
    assert_eq!(tenants.open_tenant(&id("acme")).unwrap().state(), TenantState::Suspended);
}

#[tokio::test]
async fn debug_shows_neither_keys_nor_names_nor_values() {
    let (directory, store, tenants) = memory().await;
    let view = view(&tenants, "acme").await;
    view.put(&Key::new([CANARY]), CANARY).await.unwrap();
    let page = view.scan(&Key::default(), None, 10).await.unwrap();
    let op = Op::put(Key::new([CANARY]), CANARY);
    let printed =
        format!("{store:?} {tenants:?} {view:?} {page:?} {op:?} {:?} {:?}", view.keys(), root(directory.path()));
    assert!(!printed.contains("canary"), "{printed}");
    assert!(printed.contains("13 bytes"), "{printed}");
}

#[tokio::test]
async fn blobs_come_back_whole_and_only_whole() {
    let place = Place::new();
    let (store, tenants) = place.open().await;
    let blobs = view(&tenants, "acme").await.blobs();
    for length in [0_usize, 1, 65_536, 1_000_000] {
        let content: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut writer = blobs.create().await.unwrap();
        for part in content.chunks(70_001) {
            writer.write(Bytes::copy_from_slice(part)).await.unwrap();
        }
        assert!(
            matches!(blobs.read_stream(&writer.id()).await, Err(StoreError::Missing)),
            "not there before it is whole"
        );
        let id = writer.finish().await.unwrap();
        assert_eq!(blobs.read_all(&id, length as u64).await.unwrap(), content);
        if length > 0 {
            assert!(matches!(blobs.read_all(&id, length as u64 - 1).await, Err(StoreError::TooLarge { .. })));
        }
        assert_eq!(id.to_string().parse::<BlobId>().unwrap(), id);
    }
    let ids = blobs.list().await.unwrap();
    assert_eq!(ids.len(), 4);
    let mut dropped = blobs.create().await.unwrap();
    dropped.write(Bytes::from(vec![0; 1 << 20])).await.unwrap();
    drop(dropped);
    assert_eq!(blobs.sweep(&ids[..2].iter().copied().collect()).await.unwrap(), 2);
    blobs.delete(&ids[0]).await.unwrap();
    blobs.delete(&ids[0]).await.unwrap();
    let acme = view(&tenants, "acme").await.uid();
    let directory = place.data().join("blobs").join(acme).join("contents");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "one file a blob, none of the dropped one");

    let file = directory.join(ids[1].to_string());
    let sealed = std::fs::read(&file).unwrap();
    for cut in [0, 1, 40, sealed.len() - 1] {
        std::fs::write(&file, &sealed[..cut]).unwrap();
        assert!(matches!(blobs.read_all(&ids[1], u64::MAX).await, Err(StoreError::Damaged)), "cut at {cut}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_blob_of_one_tenant_put_in_place_of_anothers_is_refused() {
    let place = Place::new();
    let (_store, tenants) = place.open().await;
    let mut files = Vec::new();
    for name in ["acme", "evil"] {
        let view = view(&tenants, name).await;
        let mut writer = view.blobs().create().await.unwrap();
        writer.write(Bytes::from_static(b"content")).await.unwrap();
        let id = writer.finish().await.unwrap();
        files.push((place.data().join("blobs").join(view.uid()).join("contents").join(id.to_string()), view, id));
    }
    std::fs::copy(&files[0].0, &files[1].0).unwrap();
    assert!(matches!(files[1].1.blobs().read_all(&files[1].2, 100).await, Err(StoreError::Damaged)));
    assert!(files[0].1.blobs().read_all(&files[0].2, 100).await.is_ok());
    for bad in ["", "..", "../../keys/x", "g".repeat(32).as_str(), "0".repeat(31).as_str(), "A".repeat(32).as_str()] {
        assert!(bad.parse::<BlobId>().is_err(), "{bad}");
    }
}
