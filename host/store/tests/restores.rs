//! A restore in place that fails while it is announced: where a later start carries it out, nobody could write in between; else the
//! tenant goes on as if nobody had asked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::sync::Arc;

use ringfence_store::backup::{Archives, BackupError, Source};
use ringfence_store::{Fault, Faults, Key, Side, Store, StoreError, TenantState, TenantStore, Tenants};
use support::{StoppedClock, SystemEntropy, backed_up, id, root, tenants, view};

/// A tenant that was backed up when its record said `then`, and says `now`; the restore is prepared.
struct World {
    directory: tempfile::TempDir,
    faults: Faults,
    store: Store,
    tenants: Tenants,
    archives: Archives,
    acme: TenantStore,
    source: Source,
}

impl World {
    async fn new() -> Self {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Faults::default());
        let store = Store::memory_with_faults(faults.clone());
        let tenants = tenants(&store, root(directory.path())).await.unwrap();
        let archives = Archives::in_memory(Arc::new(SystemEntropy), Arc::new(StoppedClock));
        let acme = view(&tenants, "acme").await;
        acme.put(&key(), "then").await.unwrap();
        let source = backed_up(&archives, &acme).await;
        acme.put(&key(), "now").await.unwrap();
        archives.prepare_restore(&acme, &source).await.unwrap();
        assert_eq!(acme.state(), TenantState::Active, "it goes on while the archive is read");
        Self { directory, faults, store, tenants, archives, acme, source }
    }

    async fn announced(&self) -> Result<(), BackupError> {
        self.archives.announce_restore(&self.tenants, &self.acme, &self.source).await
    }

    /// What the tenant is and its record says after the next start.
    async fn after_a_start(&self) -> (TenantState, String) {
        let tenants = tenants(&self.store, root(self.directory.path())).await.unwrap();
        self.archives.resume(&tenants).await.unwrap();
        let acme = tenants.open_tenant(&id("acme")).unwrap();
        assert!(!self.archives.is_restoring(&acme).await.unwrap());
        let record = acme.get(&key()).await.unwrap().unwrap();
        (acme.state(), String::from_utf8(record.value.to_vec()).unwrap())
    }
}

fn key() -> Key {
    Key::new(["kv", "store", "name"])
}

#[tokio::test]
async fn a_tenant_is_shut_when_a_start_may_carry_out_what_failed_while_it_was_announced() {
    // The first write is the announcement, the second says that the tenant is suspended.
    let cases = [
        (vec![Some(Fault::Lost)], "now"),
        (vec![Some(Fault::InDoubt)], "then"),
        (vec![None, Some(Fault::Lost)], "then"),
        (vec![None, Some(Fault::InDoubt)], "then"),
    ];
    for (writes, after) in cases {
        let world = World::new().await;
        world.faults.plan(writes.clone());
        let failed = world.announced().await;
        assert!(matches!(failed, Err(BackupError::Store(StoreError::Unavailable { .. }))), "{writes:?}: {failed:?}");
        let record = world.tenants.record(&id("acme")).await.unwrap().unwrap();
        let states = (world.acme.state(), record.state);
        assert_eq!(states, (TenantState::Suspended, TenantState::Suspended), "{writes:?}: nobody may write");
        assert_eq!(world.after_a_start().await, (TenantState::Active, after.to_owned()), "{writes:?}");
    }
}

#[tokio::test]
async fn a_tenant_whose_restore_was_refused_for_certain_goes_on_and_no_start_carries_it_out() {
    let world = World::new().await;
    world.tenants.disable_key(&id("acme"), "u_ops", Side::Operator).await.unwrap();
    let refused = world.announced().await;
    assert!(matches!(refused, Err(BackupError::Store(StoreError::KeyDisabled))), "{refused:?}");
    world.tenants.enable_key(&id("acme"), Side::Operator).await.unwrap();
    assert_eq!(world.acme.state(), TenantState::Active);
    world.acme.put(&key(), "later").await.unwrap();
    assert_eq!(world.after_a_start().await, (TenantState::Active, "later".to_owned()));
}

#[tokio::test]
async fn an_announced_restore_that_is_cut_is_carried_out_and_the_tenant_is_what_it_was() {
    for state in [TenantState::Active, TenantState::Suspended] {
        let world = World::new().await;
        world.tenants.set_state(&id("acme"), state).await.unwrap();
        world.announced().await.unwrap();
        assert_eq!(world.acme.state(), TenantState::Suspended);
        assert_eq!(world.after_a_start().await, (state, "then".to_owned()));
    }
}
