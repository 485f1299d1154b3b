//! Backups and restores of a tenant some of whose records, value files or blobs rotted; and drills beside tenants of any name.

use ringfence_core::{QuotaChoice, TenantId};

use super::tests::{Rig, furnished, id, kv};
use super::*;
use crate::engine::Write;
use crate::record::INLINE_BYTES_MAX;
use crate::tenant_store::value_directory;
use crate::tenants::TenantState;

/// Changes one bit of a record as it lies there.
fn rot(store: &TenantStore, key: &Key) {
    let stored_key = store.seal(key).unwrap();
    let mut value = store.engine().get(&stored_key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    store.engine().commit(vec![Write { key: stored_key, value: Some(value) }]).unwrap();
}

/// Changes one bit of each file in a directory.
fn rot_files(store: &TenantStore, directory: &str) {
    let files = &store.store().0.files;
    for name in files.list(directory).unwrap() {
        let path = format!("{directory}/{name}");
        let mut content = files.read(&path, u64::MAX).unwrap().unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        files.write(&path, &content).unwrap();
    }
}

#[tokio::test]
async fn what_is_damaged_is_left_out_counted_and_brought_back_from_the_backup_before() {
    let rig = Rig::new().await;
    let (acme, blob) = furnished(&rig, "acme").await;
    let whole = rig.back_up(&acme, None).await;
    assert_eq!((whole.damaged_count, whole.lost_count), (0, 0));
    acme.put(&kv("n4"), "newer").await.unwrap();
    rot(&acme, &kv("n3"));
    rot(&acme, &kv("n4"));
    rot_files(&acme, &value_directory(&acme.shared().uid));
    rot_files(&acme, &crate::blobs::directory(&acme.shared().uid));
    // It is found by its name, and no listing of values passes over it.
    assert!(matches!(acme.scan(&Key::new(["kv"]), None, 100).await, Err(StoreError::Damaged)));
    let (names, next) = acme.scan_names(&Key::new(["kv"]), None, 100).await.unwrap();
    assert!(names.contains(&kv("n3")) && names.len() == 31 && next.is_none());

    let next = rig.back_up(&acme, Some(&whole)).await;
    assert_eq!((next.damaged_count, next.lost_count), (3, 1), "what was written since is nowhere else");
    assert_eq!(next.parent.as_ref(), Some(&whole.backup));
    let full = rig.back_up(&acme, None).await;
    assert_eq!((full.damaged_count, full.lost_count, full.blobs_count), (4, 4, 0));
    for lacking in [&next, &full] {
        let source = rig.source(&acme, lacking).await;
        assert_eq!(rig.archives.verify(&source).await.unwrap().lost_count, lacking.lost_count);
        let (staged, _) = rig.archives.rehearse(&rig.tenants, &source).await.unwrap();
        staged.discard().await.unwrap();
        // Nothing is built on what lacks something.
        assert_eq!(rig.back_up(&acme, Some(lacking)).await.parent, None);
    }

    rig.in_place(&acme, &rig.source(&acme, &next).await).await.unwrap();
    assert_eq!(acme.get(&kv("n3")).await.unwrap().unwrap().value.as_slice(), [3_u8; 40]);
    assert_eq!(acme.get(&kv("large")).await.unwrap().unwrap().value.as_slice(), [9_u8; INLINE_BYTES_MAX * 3]);
    assert_eq!(acme.get(&kv("n4")).await.unwrap(), None);
    assert_eq!(acme.blobs().read_all(&blob, 1 << 20).await.unwrap(), [5_u8; 300_000]);
    assert_eq!(rig.back_up(&acme, None).await.damaged_count, 0, "all of it is mended");
}

#[tokio::test]
async fn a_restore_removes_what_is_damaged_and_not_in_the_archive() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    acme.put(&kv("n0"), "0").await.unwrap();
    let made = rig.back_up(&acme, None).await;
    acme.put(&kv("n1"), "1").await.unwrap();
    rot(&acme, &kv("n1"));
    rig.in_place(&acme, &rig.source(&acme, &made).await).await.unwrap();
    let page = acme.scan(&Key::new(["kv"]), None, 100).await.unwrap();
    assert_eq!(page.records.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [kv("n0")]);
}

#[tokio::test]
async fn a_tenant_of_which_nobody_can_read_whether_a_restore_is_on_is_locked_and_the_others_are_served() {
    let rig = Rig::new().await;
    let (acme, bolt) = (rig.tenant("acme").await, rig.tenant("bolt").await);
    bolt.put(&Key::new(["kv", "one"]), "1").await.unwrap();
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    rig.archives.announce_restore(&rig.tenants, &acme, &source).await.unwrap();
    rot(&acme, &Key::new(["backup", "restoring"]));
    let tenants = rig.reopened().await;
    rig.archives.resume(&tenants).await.unwrap();
    let view = |id: &TenantId| tenants.open_tenant(id).unwrap();
    assert!(matches!(view(&id("acme")).check_keys(), Err(StoreError::KeyDisabled)));
    assert!(tenants.is_unread(&id("acme")) && !tenants.is_unread(&id("bolt")));
    assert_eq!(view(&id("bolt")).get(&Key::new(["kv", "one"])).await.unwrap().unwrap().value.as_slice(), b"1");
    // Only what is damage is kept to one tenant.
    assert!(!tenants.shut_damaged(&id("bolt"), &StoreError::unavailable("the disk is gone")));
    assert!(view(&id("bolt")).check_keys().is_ok());
    // Whoever mends it gets its keys.
    tenants.enable_key(&id("acme"), crate::Side::Operator).await.unwrap();
    assert!(view(&id("acme")).check_keys().is_ok() && tenants.is_unread(&id("acme")));
    // What opens and has another form than this version knows is no less of one tenant alone.
    let form = StoreError::Form(serde_json::from_str::<u8>("x").unwrap_err());
    assert!(tenants.shut_damaged(&id("bolt"), &form) && tenants.is_unread(&id("bolt")));
}

#[tokio::test]
async fn what_a_tenant_knows_of_its_backups_rots_and_it_goes_on_backing_up() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    acme.put(&kv("n0"), "0").await.unwrap();
    let whole = rig.back_up(&acme, None).await;
    let rotten = rig.back_up(&acme, Some(&whole)).await;
    rot(&acme, &archive_key(&rotten.backup));
    let listed = rig.archives.list(&acme).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&whole));
    let refused = rig.archives.delete(&acme, &whole.backup).await;
    assert!(matches!(refused, Err(BackupError::HasChild { child }) if child == rotten.backup), "it may build on it");
    rig.archives.delete(&acme, &rotten.backup).await.unwrap();
    assert!(matches!(rig.archives.delete(&acme, &rotten.backup).await, Err(BackupError::Unknown)));

    rot(&acme, &blobs_key(&whole.backup));
    assert_eq!(rig.back_up(&acme, Some(&whole)).await.parent, None);
    rig.archives.delete(&acme, &whole.backup).await.unwrap();

    let before = rig.back_up(&acme, None).await;
    let id = rig.archives.recovery_key(&acme).await.unwrap().id();
    rot(&acme, &Key::new(["backup", "key", id.as_str()]));
    let next = rig.back_up(&acme, Some(&before)).await;
    assert_eq!(next.parent, None, "nobody opens what it would build on");
    rot(&acme, &Key::new(["backup", "key-now"]));
    let last = rig.back_up(&acme, Some(&next)).await;
    assert_eq!(last.parent, Some(next.backup.clone()), "its key is still there");
    rig.archives.verify(&rig.source(&acme, &last).await).await.unwrap();

    // A key that rotted may be removed by its place.
    let id = rig.archives.recovery_key(&acme).await.unwrap().id();
    acme.delete(&Key::new(["backup", "key", id.as_str()])).await.unwrap();
    assert_eq!(rig.back_up(&acme, Some(&last)).await.parent, None, "a new key follows");
}

#[tokio::test]
async fn who_is_suspended_during_a_restore_stays_so_also_when_a_start_carries_it_on() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    acme.put(&kv("n0"), "0").await.unwrap();
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    rig.archives.stay_suspended(&acme).await.unwrap();
    assert!(!rig.archives.is_restoring(&acme).await.unwrap(), "there is none");
    rig.archives.announce_restore(&rig.tenants, &acme, &source).await.unwrap();
    assert_eq!(rig.archives.state_after(&acme).await.unwrap(), TenantState::Active);
    rig.archives.stay_suspended(&acme).await.unwrap();
    assert_eq!(rig.archives.state_after(&acme).await.unwrap(), TenantState::Suspended);
    let tenants = rig.reopened().await;
    rig.archives.resume(&tenants).await.unwrap();
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    assert!(!rig.archives.is_restoring(&acme).await.unwrap());
    assert_eq!(acme.state(), TenantState::Suspended);
}

#[tokio::test]
async fn a_drill_is_in_the_way_of_no_tenants_name_and_no_name_in_its_way() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    acme.put(&Key::new(["kv", "one"]), "1").await.unwrap();
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    rig.tenant("drill").await;
    for _ in 0..2 {
        let (staged, drilled) = rig.archives.rehearse(&rig.tenants, &source).await.unwrap();
        assert!(drilled.records_count > 0 && staged.store().tenant().is_none());
        // What has no name never becomes a tenant.
        assert!(staged.publish("a drill", QuotaChoice::default()).await.is_err());
        assert_eq!(rig.tenants.list().await.unwrap().len(), 2);
    }
    let taken = rig.archives.restore_new(&rig.tenants, &source, &id("drill"), u64::MAX).await;
    assert!(matches!(taken, Err(BackupError::Store(StoreError::Exists))), "{taken:?}");
}

#[tokio::test]
async fn a_drill_compares_everything_and_leaves_nothing() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let (staged, result) = rig.archives.rehearse(&rig.tenants, &source).await.unwrap();
    assert_eq!((result.records_count, result.blobs_count), (made.records_count, 1));
    let uid = staged.store().shared().uid;
    staged.discard().await.unwrap();
    assert_eq!(rig.staged_count().await, 0);
    assert!(rig.store.0.files.list(&crate::blobs::directory(&uid)).unwrap().is_empty());
    let stored = rig.archives.drilled(&acme, &made.backup, result.clone()).await.unwrap();
    assert_eq!(rig.archives.stored(&acme, &made.backup).await.unwrap().unwrap(), stored);
    assert_eq!(stored.drill, Some(result));
}
