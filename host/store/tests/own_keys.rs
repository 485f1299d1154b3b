//! A tenant's own key provider that takes its time: nobody else waits for it, and what changed meanwhile has the last word.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use ringfence_keys::{Closed, MissingRootKey, Outside, Purpose, RootKey, RootKeyUri};
use ringfence_store::{Key, OwnChange, Side, Store, StoreError, Tenants};
use support::transit::{Act, Transit};
use support::{Place, StoppedClock, SystemEntropy, id, soon, view};

/// A host where acme keeps a key itself at a Transit, and cord may keep one in a file.
struct World {
    place: Place,
    tenants: Tenants,
    transit: Transit,
    _store: Store,
}

impl World {
    async fn new() -> Self {
        let (place, transit) = (Place::new(), Transit::default());
        let root = root(place.directory.path(), &transit.serve());
        let store = Store::open(&place.data(), place.options()).unwrap();
        let tenants = support::tenants(&store, root).await.unwrap();
        for name in ["acme", "bolt", "cord"] {
            view(&tenants, name).await.put(&key(), name).await.unwrap();
        }
        tenants.take_own_key(&id("acme")).await.unwrap();
        Self { place, tenants, transit, _store: store }
    }

    /// Begins an act for which acme's provider is asked, and waits until it is.
    async fn asked<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        act: impl FnOnce(Tenants) -> F,
    ) -> tokio::task::JoinHandle<T> {
        self.transit.hold(Act::Seal);
        let task = tokio::spawn(act(self.tenants.clone()));
        self.transit.until_held(1).await;
        task
    }

    async fn opens(&self) {
        let acme = self.tenants.open_tenant(&id("acme")).unwrap();
        assert_eq!(acme.get(&key()).await.unwrap().unwrap().value.as_slice(), b"acme");
    }

    async fn versions_count(&self) -> usize {
        self.tenants.key_status(&id("acme")).await.unwrap().versions.len()
    }
}

fn key() -> Key {
    Key::new(["kv", "store", "name"])
}

fn root(directory: &Path, transit: &str) -> Arc<RootKey> {
    let outside = Outside { entropy: Arc::new(SystemEntropy), clock: Arc::new(StoppedClock), aws: None };
    let (token, own) = (directory.join("token"), directory.join("own.key"));
    std::fs::write(&token, "s.token\n").unwrap();
    drop(RootKey::open_or_create(&RootKeyUri::File(own.clone()), &SystemEntropy).unwrap());
    let at_transit = format!("vault:{transit}/transit/keys/acme?token-file={}", token.display()).parse().unwrap();
    let allowed = [("acme".to_owned(), at_transit), ("cord".to_owned(), RootKeyUri::File(own))];
    let uri = RootKeyUri::File(directory.join("root.key"));
    let root = RootKey::connect(&uri, MissingRootKey::Create, &outside).unwrap();
    Arc::new(root.with_own(allowed.into_iter().collect(), outside))
}

/// What others do while a tenant's provider is asked.
async fn others_go_on(tenants: &Tenants, new: &str) {
    let (bolt, new) = (id("bolt"), id(new));
    soon("a new tenant", tenants.create(&new, "new")).await.unwrap();
    soon("a rotation", tenants.rotate_key(&bolt, None)).await.unwrap();
    soon("disabling", tenants.disable_key(&bolt, "u_ops", Side::Operator)).await.unwrap();
    soon("enabling", tenants.enable_key(&bolt, Side::Operator)).await.unwrap();
    soon("a deletion", tenants.delete(&new)).await.unwrap();
}

#[tokio::test]
async fn while_a_tenants_own_provider_takes_its_time_others_are_made_deleted_rotated_disabled_and_enabled() {
    let world = World::new().await;
    let acme = id("acme");
    let of = acme.clone();
    let rotated = world.asked(|tenants| async move { tenants.rotate_key(&of, Some(Purpose::Record)).await }).await;
    others_go_on(&world.tenants, "rotated").await;
    world.transit.let_go();
    assert_eq!(rotated.await.unwrap().unwrap().versions.len(), 2);

    let of = acme.clone();
    let taken = world.asked(|tenants| async move { tenants.take_own_key(&of).await }).await;
    others_go_on(&world.tenants, "taken").await;
    world.transit.let_go();
    assert_eq!(taken.await.unwrap().unwrap().own.unwrap().opens, Ok(()));

    world.tenants.disable_key(&acme, "acme/u_admin", Side::Tenant).await.unwrap();
    let of = acme.clone();
    let enabled = world.asked(|tenants| async move { tenants.enable_key(&of, Side::Tenant).await }).await;
    others_go_on(&world.tenants, "enabled").await;
    world.transit.let_go();
    enabled.await.unwrap().unwrap();
    world.opens().await;

    // Nor do they wait for each other when they are asked in turn.
    let cord = id("cord");
    world.tenants.take_own_key(&cord).await.unwrap();
    let of = acme.clone();
    let tended = world.asked(|tenants| async move { tenants.tend_own_key(&of).await }).await;
    others_go_on(&world.tenants, "tended").await;
    assert_eq!(soon("another provider", world.tenants.tend_own_key(&cord)).await.unwrap(), None);
    world.transit.let_go();
    assert_eq!(tended.await.unwrap().unwrap(), None);

    let of = acme.clone();
    let given_up = world.asked(|tenants| async move { tenants.give_up_own_key(&of).await }).await;
    others_go_on(&world.tenants, "given-up").await;
    world.transit.let_go();
    assert_eq!(given_up.await.unwrap().unwrap().own, None);
    world.opens().await;
}

#[tokio::test]
async fn of_two_acts_on_one_key_at_once_one_is_a_conflict() {
    let world = World::new().await;
    let acme = id("acme");
    let of = acme.clone();
    let one = world.asked(|tenants| async move { tenants.rotate_key(&of, None).await.map(drop) }).await;
    let (tenants, of) = (world.tenants.clone(), acme.clone());
    let other = tokio::spawn(async move { tenants.rotate_key(&of, None).await.map(drop) });
    world.transit.until_held(2).await;
    world.transit.let_go();
    let answers = [one.await.unwrap(), other.await.unwrap()];
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    assert!(answers.iter().any(|answer| matches!(answer, Err(StoreError::Conflict { .. }))), "{answers:?}");
    assert_eq!(world.versions_count().await, 2);
    world.opens().await;

    // The root key's rotation waits for nobody, and what went from the old one is tried anew by whoever wanted it.
    let of = acme.clone();
    let rotated = world.asked(|tenants| async move { tenants.rotate_key(&of, None).await.map(drop) }).await;
    soon("the root key", world.tenants.rotate_root()).await.unwrap();
    world.transit.let_go();
    let rotated = rotated.await.unwrap();
    assert!(matches!(rotated, Err(StoreError::Conflict { .. })), "{rotated:?}");
    assert_eq!(world.versions_count().await, 2);
    world.tenants.rotate_key(&acme, None).await.unwrap();
    assert_eq!(world.versions_count().await, 3);
    world.opens().await;
}

#[tokio::test]
async fn a_deletion_or_a_disabling_that_comes_while_the_provider_is_asked_has_the_last_word() {
    let world = World::new().await;
    let acme = id("acme");
    let of = acme.clone();
    let rotated = world.asked(|tenants| async move { tenants.rotate_key(&of, None).await.map(drop) }).await;
    soon("disabling", world.tenants.disable_key(&acme, "acme/u_admin", Side::Tenant)).await.unwrap();
    world.transit.let_go();
    let rotated = rotated.await.unwrap();
    assert!(matches!(rotated, Err(StoreError::KeyDisabled)), "{rotated:?}");
    assert_eq!(world.versions_count().await, 1);

    let of = acme.clone();
    let enabled = world.asked(|tenants| async move { tenants.enable_key(&of, Side::Tenant).await.map(drop) }).await;
    soon("disabling", world.tenants.disable_key(&acme, "u_ops", Side::Operator)).await.unwrap();
    world.transit.let_go();
    let enabled = enabled.await.unwrap();
    assert!(matches!(enabled, Err(StoreError::Conflict { .. })), "{enabled:?}");
    let view = world.tenants.open_tenant(&acme).unwrap();
    assert!(matches!(view.check_keys(), Err(StoreError::KeyDisabled)));
    world.tenants.enable_key(&acme, Side::Operator).await.unwrap();
    world.opens().await;

    let of = acme.clone();
    let rotated = world.asked(|tenants| async move { tenants.rotate_key(&of, None).await.map(drop) }).await;
    let file = world.place.data().join("keys").join(view.uid());
    assert!(file.exists());
    soon("a deletion", world.tenants.delete(&acme)).await.unwrap();
    world.transit.let_go();
    let rotated = rotated.await.unwrap();
    assert!(matches!(rotated, Err(StoreError::UnknownTenant)), "{rotated:?}");
    assert!(!file.exists(), "what was shredded is not written again");
    world.tenants.create(&acme, "again").await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_response_waits_for_no_provider_and_the_keys_open_once_it_was_asked() {
    let world = World::new().await;
    let acme = id("acme");
    let view = world.tenants.open_tenant(&acme).unwrap();
    world.tenants.disable_key_for(&acme, "rs_1", "u_ops", Side::Operator).await.unwrap();
    world.transit.hold(Act::Seal);
    soon("the end of a response", world.tenants.enable_key_after(&acme, "rs_1")).await.unwrap();
    assert!(matches!(view.check_keys(), Err(StoreError::KeyRefused)));
    assert_eq!(world.tenants.key_status(&acme).await.unwrap().own.unwrap().opens, Err(Closed::Refused));
    world.transit.let_go();
    assert_eq!(world.tenants.own_keepers().await.unwrap(), std::slice::from_ref(&acme));
    assert_eq!(world.tenants.tend_own_key(&acme).await.unwrap(), Some(OwnChange::Opened));
    world.opens().await;
}
