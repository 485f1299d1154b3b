//! A rotation of the root key whose provider takes its time: nobody waits for it, and whatever is made, rotated or deleted
//! meanwhile, in the end everything is under the newest version, and nothing under one that was let go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use ringfence_core::{QuotaChoice, TenantId};
use ringfence_keys::{AwsCredentials, KeysError, MissingRootKey, Outside, RootKey, Secret};
use ringfence_store::backup::Archives;
use ringfence_store::{Backend, Key, Locks, RootRotation, Side, Store, StoreError, TenantRecord, Tenants};
use support::kms::Kms;
use support::transit::{Act, Transit};
use support::{Place, StoppedClock, SystemEntropy, backed_up, id, soon, view};
use tokio::task::JoinHandle;

on_every_backend!(
    while_the_provider_makes_a_version_tenants_are_made_rotated_disabled_and_deleted,
    a_key_that_is_changed_while_it_is_wrapped_anew_keeps_the_change,
    a_tenant_that_is_deleted_while_its_key_is_wrapped_anew_stays_deleted,
    of_two_rotations_at_once_the_second_waits_and_the_background_does_not,
    while_the_key_of_a_new_tenant_is_made_nobody_waits_and_its_name_may_be_taken,
    a_key_that_was_made_before_a_rotation_is_not_the_key_of_a_tenant_that_is_made_after_it,
    while_the_key_of_a_tenant_that_is_refused_is_destroyed_nobody_waits,
    of_a_tenant_for_whose_files_there_is_no_place_nothing_is_left,
    a_provider_that_lets_no_version_go_keeps_no_start_from_ending,
    a_rotation_that_the_provider_refuses_was_never_begun,
    what_a_restore_left_and_the_provider_does_not_destroy_keeps_no_start_from_ending_and_goes_later,
);

/// A host whose root key is kept at a Transit.
struct World {
    place: Place,
    transit: Transit,
    /// Where it answers.
    origin: String,
    store: Store,
    tenants: Tenants,
    /// Of whoever makes tenants.
    locks: Arc<Locks<TenantId>>,
}

impl World {
    async fn new(backend: Backend) -> Self {
        let (place, transit) = (Place::on(backend), Transit::default());
        let origin = transit.serve();
        let (store, tenants) = open(&place, &origin).await;
        for name in ["acme", "bolt"] {
            view(&tenants, name).await.put(&key(), name).await.unwrap();
        }
        Self { place, transit, origin, store, tenants, locks: Arc::default() }
    }

    fn rotates(&self) -> JoinHandle<Result<RootRotation, StoreError>> {
        let tenants = self.tenants.clone();
        tokio::spawn(async move { tenants.rotate_root().await })
    }

    fn creates(&self, name: &str) -> JoinHandle<Result<TenantRecord, StoreError>> {
        let (tenants, locks, name) = (self.tenants.clone(), Arc::clone(&self.locks), id(name));
        tokio::spawn(async move {
            let made = tenants.create_under(&name, "slow", QuotaChoice::default(), &locks).await;
            made.map(|(record, _lock)| record)
        })
    }

    /// As after the next start, which must end although the provider refuses something.
    async fn started_anew(self) -> Self {
        self.store.close().await.unwrap();
        let (store, tenants) = open(&self.place, &self.origin).await;
        for name in ["acme", "bolt"] {
            let view = tenants.open_tenant(&id(name)).unwrap();
            assert_eq!(view.get(&key()).await.unwrap().unwrap().value.as_slice(), name.as_bytes());
        }
        Self { store, tenants, ..self }
    }

    async fn is_rotating(&self) -> bool {
        self.tenants.is_root_rotating().await.unwrap()
    }

    /// It is over, everything is under this version, and opens after a new start, with all others gone.
    async fn ends_rotated(self, rotated: &RootRotation, rewrapped_count: usize, version: u64, names: &[&str]) {
        assert_eq!((rotated.rewrapped_count, rotated.is_over), (rewrapped_count, true), "{rotated:?}");
        assert!(rotated.failed.is_empty(), "{rotated:?}");
        assert!(!self.tenants.is_root_rotating().await.unwrap());
        assert_eq!(self.transit.versions("root"), (version, version));
        self.store.close().await.unwrap();
        let (store, tenants) = open(&self.place, &self.origin).await;
        let records = tenants.list().await.unwrap();
        let found: BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let expected: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(found, expected);
        for name in names {
            let status = tenants.key_status(&id(name)).await.unwrap();
            assert!(status.versions.iter().all(|one| one.root == format!("root#{version}")), "{name}: {status:?}");
            let view = tenants.open_tenant(&id(name)).unwrap();
            assert_eq!(view.get(&key()).await.unwrap().unwrap().value.as_slice(), name.as_bytes());
        }
        store.close().await.unwrap();
    }
}

fn key() -> Key {
    Key::new(["kv", "store", "name"])
}

async fn open(place: &Place, origin: &str) -> (Store, Tenants) {
    let store = Store::open(&place.data(), place.options()).unwrap();
    let tenants = support::tenants(&store, root(place.directory.path(), origin)).await.unwrap();
    (store, tenants)
}

/// Names of the keys and directories of tenants, the host's own among them.
fn files_of_tenants(place: &Place) -> BTreeSet<std::ffi::OsString> {
    let below = |directory| std::fs::read_dir(place.data().join(directory)).unwrap();
    below("keys").chain(below("blobs")).map(|entry| entry.unwrap().file_name()).collect()
}

fn root(directory: &Path, origin: &str) -> Arc<RootKey> {
    let outside = Outside { entropy: Arc::new(SystemEntropy), clock: Arc::new(StoppedClock), aws: None };
    let token = directory.join("token");
    std::fs::write(&token, "s.token\n").unwrap();
    let uri = format!("vault:{origin}/transit/keys/root?token-file={}", token.display()).parse().unwrap();
    Arc::new(RootKey::connect(&uri, MissingRootKey::Create, &outside).unwrap())
}

async fn while_the_provider_makes_a_version_tenants_are_made_rotated_disabled_and_deleted(backend: Backend) {
    let world = World::new(backend).await;
    let (acme, bolt, made) = (id("acme"), id("bolt"), id("made"));
    world.transit.hold(Act::Rotate);
    let rotates = world.rotates();
    world.transit.until_held(1).await;
    assert!(world.tenants.is_root_rotating().await.unwrap(), "durable before the provider is asked");
    soon("a new tenant", world.tenants.create(&made, "made")).await.unwrap();
    view(&world.tenants, "made").await.put(&key(), "made").await.unwrap();
    soon("a rotation", world.tenants.rotate_key(&acme, None)).await.unwrap();
    soon("disabling", world.tenants.disable_key(&acme, "u_ops", Side::Operator)).await.unwrap();
    soon("enabling", world.tenants.enable_key(&acme, Side::Operator)).await.unwrap();
    soon("a deletion", world.tenants.delete(&bolt)).await.unwrap();
    world.transit.let_go();
    let rotated = rotates.await.unwrap().unwrap();
    world.ends_rotated(&rotated, 3, 2, &["acme", "made"]).await;
}

async fn a_key_that_is_changed_while_it_is_wrapped_anew_keeps_the_change(backend: Backend) {
    let world = World::new(backend).await;
    // The host's own key takes two requests; the third is for acme's.
    world.transit.hold_one_after(Act::Seal, 2);
    let rotates = world.rotates();
    world.transit.until_held(1).await;
    let changed = soon("a rotation", world.tenants.rotate_key(&id("acme"), None)).await.unwrap();
    assert_eq!(changed.versions.len(), 2);
    world.transit.let_go();
    let rotated = rotates.await.unwrap().unwrap();
    assert_eq!(world.tenants.key_status(&id("acme")).await.unwrap().versions.len(), 2);
    world.ends_rotated(&rotated, 3, 2, &["acme", "bolt"]).await;
}

async fn a_tenant_that_is_deleted_while_its_key_is_wrapped_anew_stays_deleted(backend: Backend) {
    let world = World::new(backend).await;
    let file = world.place.data().join("keys").join(view(&world.tenants, "acme").await.uid());
    world.transit.hold_one_after(Act::Seal, 2);
    let rotates = world.rotates();
    world.transit.until_held(1).await;
    assert!(file.exists());
    soon("a deletion", world.tenants.delete(&id("acme"))).await.unwrap();
    world.transit.let_go();
    let rotated = rotates.await.unwrap().unwrap();
    assert!(!file.exists(), "what was shredded is not written again");
    world.ends_rotated(&rotated, 2, 2, &["bolt"]).await;
}

async fn of_two_rotations_at_once_the_second_waits_and_the_background_does_not(backend: Backend) {
    let world = World::new(backend).await;
    world.transit.hold_one_after(Act::Rotate, 0);
    let first = world.rotates();
    world.transit.until_held(1).await;
    let second = world.rotates();
    soon("going on", world.tenants.resume_root_rotation()).await.unwrap();
    // Far longer than the second would need.
    for _ in 0..3 {
        soon("a new tenant", world.tenants.create(&id("made"), "made")).await.unwrap();
        soon("a deletion", world.tenants.delete(&id("made"))).await.unwrap();
    }
    assert_eq!(world.transit.versions("root"), (1, 1), "the second asked the provider too");
    world.transit.let_go();
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!((first.rewrapped_count, first.is_over), (3, true));
    world.ends_rotated(&second, 3, 3, &["acme", "bolt"]).await;
}

async fn while_the_key_of_a_new_tenant_is_made_nobody_waits_and_its_name_may_be_taken(backend: Backend) {
    let world = World::new(backend).await;
    let keys_count = || std::fs::read_dir(world.place.data().join("keys")).unwrap().count();
    let before = keys_count();
    world.transit.hold_one_after(Act::Seal, 0);
    let creates = world.creates("made");
    world.transit.until_held(1).await;
    drop(soon("who makes changes", world.locks.of(id("made"))).await);
    soon("disabling", world.tenants.disable_key(&id("acme"), "u_ops", Side::Operator)).await.unwrap();
    soon("a deletion", world.tenants.delete(&id("bolt"))).await.unwrap();
    soon("a tenant of the same name", world.tenants.create(&id("made"), "quick")).await.unwrap();
    let destroyed_count = world.transit.destroyed_count();
    world.transit.let_go();
    let late = creates.await.unwrap();
    assert!(matches!(late, Err(StoreError::Exists)), "{late:?}");
    assert_eq!(world.transit.destroyed_count(), destroyed_count + 1, "nobody needs the key that was made for it");
    assert_eq!(keys_count(), before, "one tenant more and one less");
    let made = world.tenants.record(&id("made")).await.unwrap().unwrap();
    assert_eq!(made.display_name, "quick");
    view(&world.tenants, "made").await.put(&key(), "made").await.unwrap();
}

async fn while_the_key_of_a_tenant_that_is_refused_is_destroyed_nobody_waits(backend: Backend) {
    let world = World::new(backend).await;
    let before = files_of_tenants(&world.place);
    // A record of that name that this process does not know: as after a creation that was in doubt.
    let in_doubt = Key::new(["tenant", "made"]);
    world.tenants.platform().put(&in_doubt, "somebody").await.unwrap();
    world.transit.hold(Act::Destroy);
    let creates = world.creates("made");
    world.transit.until_held(1).await;
    drop(soon("who makes changes", world.locks.of(id("made"))).await);
    soon("disabling", world.tenants.disable_key(&id("acme"), "u_ops", Side::Operator)).await.unwrap();
    world.transit.let_go();
    let refused = creates.await.unwrap();
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert_eq!(world.transit.destroyed_count(), 1);
    assert_eq!(files_of_tenants(&world.place), before);
    world.tenants.platform().delete(&in_doubt).await.unwrap();
    view(&world.tenants, "made").await.put(&key(), "made").await.unwrap();
}

async fn of_a_tenant_for_whose_files_there_is_no_place_nothing_is_left(backend: Backend) {
    let world = World::new(backend).await;
    let before = files_of_tenants(&world.place);
    for (number, directory) in ["keys", "blobs"].into_iter().enumerate() {
        let (there, aside) = (world.place.data().join(directory), world.place.data().join("aside"));
        std::fs::rename(&there, &aside).unwrap();
        std::fs::write(&there, "no directory").unwrap();
        let refused = world.creates("made").await.unwrap();
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{directory}: {refused:?}");
        std::fs::remove_file(&there).unwrap();
        std::fs::rename(&aside, &there).unwrap();
        assert_eq!(world.transit.destroyed_count(), number + 1, "{directory}");
        assert_eq!(files_of_tenants(&world.place), before, "{directory}");
    }
    view(&world.tenants, "made").await.put(&key(), "made").await.unwrap();
}

async fn a_key_that_was_made_before_a_rotation_is_not_the_key_of_a_tenant_that_is_made_after_it(backend: Backend) {
    let world = World::new(backend).await;
    // After its own wrapping key, the root key seals it: held from here on.
    world.transit.hold_one_after(Act::Seal, 1);
    let creates = world.creates("made");
    world.transit.until_held(1).await;
    let rotated = soon("a rotation", world.tenants.rotate_root()).await.unwrap();
    world.transit.let_go();
    creates.await.unwrap().unwrap();
    assert_eq!(world.transit.destroyed_count(), 1, "the one that was made first");
    view(&world.tenants, "made").await.put(&key(), "made").await.unwrap();
    world.ends_rotated(&rotated, 3, 2, &["acme", "bolt", "made"]).await;
}

fn assert_refused<T: std::fmt::Debug>(answer: &Result<T, StoreError>) {
    assert!(matches!(answer, Err(StoreError::Keys(KeysError::Refused { .. }))), "{answer:?}");
}

async fn a_provider_that_lets_no_version_go_keeps_no_start_from_ending(backend: Backend) {
    let world = World::new(backend).await;
    world.transit.forbid(|path| path == "keys/root/config");
    assert_refused(&world.tenants.rotate_root().await);
    let world = world.started_anew().await;
    assert!(world.is_rotating().await);
    assert_eq!(world.transit.versions("root"), (2, 1));
    assert_refused(&world.tenants.resume_root_rotation().await);
    world.transit.allow();
    world.tenants.resume_root_rotation().await.unwrap();
    let rotated = RootRotation { rewrapped_count: 3, failed: Vec::new(), is_over: true };
    world.ends_rotated(&rotated, 3, 2, &["acme", "bolt"]).await;
}

async fn a_rotation_that_the_provider_refuses_was_never_begun(backend: Backend) {
    let world = World::new(backend).await;
    world.transit.forbid(|path| path == "keys/root/rotate");
    assert_refused(&world.tenants.rotate_root().await);
    assert!(!world.is_rotating().await);
    // One that is under way already stays so.
    world.transit.forbid(|path| path == "keys/root/config");
    assert_refused(&world.tenants.rotate_root().await);
    world.transit.forbid(|path| path == "keys/root/rotate");
    assert_refused(&world.tenants.rotate_root().await);
    assert!(world.is_rotating().await);
    world.transit.allow();
    let rotated = world.tenants.rotate_root().await.unwrap();
    world.ends_rotated(&rotated, 3, 3, &["acme", "bolt"]).await;
}

async fn what_a_restore_left_and_the_provider_does_not_destroy_keeps_no_start_from_ending_and_goes_later(
    backend: Backend,
) {
    let world = World::new(backend).await;
    let archives = Archives::in_memory(Arc::new(SystemEntropy), Arc::new(StoppedClock));
    let acme = view(&world.tenants, "acme").await;
    let source = backed_up(&archives, &acme).await;
    let restored =
        async |tenants: &Tenants| archives.restore_new(tenants, &source, &id("copy"), u64::MAX).await.unwrap();
    let left_count = async |tenants: &Tenants| {
        tenants.platform().scan(&Key::new(["staged"]), None, 100).await.unwrap().records.len()
    };
    world.transit.forbid(|path| path.starts_with("keys/root-") && path.ends_with("/config"));
    restored(&world.tenants).await.discard().await.unwrap_err();
    let world = world.started_anew().await;
    assert_eq!(left_count(&world.tenants).await, 1);
    assert!(!world.tenants.rotate_root().await.unwrap().is_over, "its key is under the older version");
    world.transit.allow();
    let staged = restored(&world.tenants).await;
    world.tenants.discard_abandoned().await;
    assert_eq!(left_count(&world.tenants).await, 1, "what somebody works on stays");
    assert_eq!(world.transit.destroyed_count(), 1);
    staged.publish("Copy", QuotaChoice::default()).await.unwrap();
    let copy = view(&world.tenants, "copy").await;
    assert_eq!(copy.get(&key()).await.unwrap().unwrap().value.as_slice(), b"acme");
    world.tenants.resume_root_rotation().await.unwrap();
    assert!(!world.is_rotating().await);

    // What fails while the host runs needs no start.
    world.transit.forbid(|path| path.starts_with("keys/root-") && path.ends_with("/config"));
    world.tenants.delete(&id("copy")).await.unwrap_err();
    world.transit.allow();
    world.tenants.carry_on_deletion(&id("copy")).await.unwrap();
    let staged = restored(&world.tenants).await;
    world.transit.forbid(|path| path.starts_with("keys/root-") && path.ends_with("/config"));
    staged.discard().await.unwrap_err();
    world.transit.allow();
    world.tenants.discard_abandoned().await;
    assert_eq!(left_count(&world.tenants).await, 0);
}

#[tokio::test]
async fn nothing_is_wrapped_while_a_rotation_is_in_progress_at_the_provider_whoever_asked_for_it() {
    let (place, kms) = (Place::new(), Kms::default());
    let uri = format!("awskms:eu-west-1/alias/ringfence?endpoint={}", kms.serve()).parse().unwrap();
    let aws = AwsCredentials {
        access_key: "AKIDEXAMPLE".to_owned(),
        secret_key: Secret::new("secret".to_owned()),
        session_token: None,
    };
    let outside = Outside { entropy: Arc::new(SystemEntropy), clock: Arc::new(StoppedClock), aws: Some(aws) };
    let root = Arc::new(RootKey::connect(&uri, MissingRootKey::Refuse, &outside).unwrap());
    let open = async || {
        let store = Store::open(&place.data(), place.options()).unwrap();
        let tenants = support::tenants(&store, Arc::clone(&root)).await.unwrap();
        (store, tenants)
    };
    let (store, tenants) = open().await;
    view(&tenants, "acme").await.put(&key(), "acme").await.unwrap();
    // What a host leaves that was stopped, or waited for long enough, after it asked for a rotation.
    tenants.platform().put(&Key::new(["root-rotation"]), Vec::new()).await.unwrap();
    kms.begin_rotation();
    kms.take_wraps();
    let unreached = tenants.resume_root_rotation().await;
    assert!(matches!(unreached, Err(StoreError::Keys(KeysError::Unreachable { .. }))), "{unreached:?}");
    store.close().await.unwrap();
    drop((store, tenants));
    let (_store, tenants) = open().await;
    assert!(tenants.is_root_rotating().await.unwrap());
    assert!(kms.take_wraps().is_empty());
    kms.end_rotation();
    tenants.resume_root_rotation().await.unwrap();
    assert!(!tenants.is_root_rotating().await.unwrap());
    assert_eq!(kms.take_wraps(), [("_platform".to_owned(), 1), ("acme".to_owned(), 1)]);
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!(acme.get(&key()).await.unwrap().unwrap().value.as_slice(), b"acme");
}
