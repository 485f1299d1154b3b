//! Backups and restores of a tenant some of whose records, value files or blobs rotted; and drills beside tenants of any name.

use ringfence_core::{QuotaChoice, TenantId};

use super::tests::{Rig, id};
use super::*;
use crate::engine::Write;
use crate::tenants::TenantState;

/// Changes one bit of a record as it lies there.
fn rot(store: &TenantStore, key: &Key) {
    let stored_key = store.seal(key).unwrap();
    let mut value = store.engine().get(&stored_key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    store.engine().commit(vec![Write { key: stored_key, value: Some(value) }]).unwrap();
}

#[tokio::test]
async fn a_tenant_of_which_nobody_can_read_whether_a_restore_is_on_is_locked_and_the_others_are_served() {
    let rig = Rig::new().await;
    let (acme, bolt) = (rig.tenant("acme").await, rig.tenant("bolt").await);
    bolt.put(&Key::new(["kv", "one"]), "1").await.unwrap();
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    rig.archives.announce_restore(&acme, &source, TenantState::Active).await.unwrap();
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
