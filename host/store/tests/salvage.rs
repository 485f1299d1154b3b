//! Salvage of a damaged store: what opens comes back under its tenants, what does not is counted, and nothing is made up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ringfence_store::{Backend, Key, Op, Salvaged, Store, StoreError, salvage};
use support::{Place, SystemEntropy, id, root, view};

const RECORDS_COUNT: u64 = 3_000;

fn key(number: u64) -> Key {
    Key::new(["kv", "store"]).push(format!("n{number}"))
}

fn value(number: u64) -> Vec<u8> {
    format!("value {number} {}", "x".repeat(200)).into_bytes()
}

/// Two tenants with records, one of each with a large value.
async fn furnished(place: &Place) {
    let (store, tenants) = place.open().await;
    for name in ["acme", "bolt"] {
        let view = view(&tenants, name).await;
        for first in (0..RECORDS_COUNT).step_by(500) {
            let ops = (first..first + 500).map(|number| Op::put(key(number), value(number))).collect();
            view.batch(ops, Vec::new()).await.unwrap();
        }
        view.put(&Key::new(["kv", "large"]), vec![7_u8; 300_000]).await.unwrap();
        view.put(&Key::new(["secret", "one"]), *b"canary").await.unwrap();
    }
    store.close().await.unwrap();
}

/// Moves the store aside as an opening does that finds it damaged.
fn set_aside(place: &Place) {
    let to = place.data().join("quarantine-1");
    std::fs::create_dir(&to).unwrap();
    for part in ["blobs", "keys", "db", "redb", "mark", "FORMAT"] {
        let _ = std::fs::rename(place.data().join(part), to.join(part));
    }
}

fn salvaged(place: &Place) -> Result<Salvaged, StoreError> {
    salvage(&place.data(), &root(place.directory.path()), Arc::new(SystemEntropy), 4 << 20)
}

/// Every record that is there is what was written; says how many there are of each tenant.
async fn count(place: &Place) -> [u64; 2] {
    let (store, tenants) = place.open().await;
    let mut counts = [0; 2];
    for (name, count) in ["acme", "bolt"].into_iter().zip(&mut counts) {
        let Some(view) = tenants.open_tenant(&id(name)) else { continue };
        for number in 0..RECORDS_COUNT {
            if let Some(record) = view.get(&key(number)).await.unwrap() {
                assert_eq!(record.value.as_slice(), value(number));
                *count += 1;
            }
        }
        // It goes on as any store does.
        view.put(&key(0), value(0)).await.unwrap();
    }
    store.close().await.unwrap();
    counts
}

async fn a_store_that_is_whole_comes_back_whole(backend: Backend) {
    let place = Place::on(backend);
    furnished(&place).await;
    assert!(salvaged(&place).is_err(), "nothing was set aside");
    set_aside(&place);
    let done = salvaged(&place).unwrap();
    assert!(done.is_whole(), "{done:?}");
    assert!(done.kept.ends_with("salvaged-1") && done.kept.exists());
    assert_eq!(count(&place).await, [RECORDS_COUNT; 2]);
    let (_store, tenants) = place.open().await;
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!(acme.get(&Key::new(["kv", "large"])).await.unwrap().unwrap().value.as_slice(), vec![7_u8; 300_000]);
    assert_eq!(acme.get(&Key::new(["secret", "one"])).await.unwrap().unwrap().value.as_slice(), b"canary");
    assert!(salvaged(&place).is_err(), "there is a store now");
}

async fn damage_costs_what_it_hits_and_is_counted(backend: Backend) {
    // Damage at ten places. Sled is a log, and can be lost from there on, or as a whole; redb is a tree with its pages in
    // place, and loses little but where the damage hits what leads to the rest.
    let (came_back_min, refused_max) = match backend {
        Backend::Sled => (RECORDS_COUNT, 8),
        Backend::Redb => (5 * 2 * RECORDS_COUNT, 3),
    };
    let (mut came_back, mut refused) = (0, 0);
    for round in 1..=10_u64 {
        let place = Place::on(backend);
        furnished(&place).await;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(place.database()).unwrap();
        let length = file.metadata().unwrap().len();
        let at = length * round / 11;
        let mut bytes = [0; 64];
        file.read_exact_at(&mut bytes, at).unwrap();
        file.write_all_at(&bytes.map(|byte| byte ^ 0x55), at).unwrap();
        drop(file);
        set_aside(&place);
        match salvaged(&place) {
            Ok(done) => {
                let counts = count(&place).await;
                let lost = 2 * RECORDS_COUNT - counts.iter().sum::<u64>();
                assert!(lost == 0 || !done.is_whole(), "round {round}: {lost} are gone and nobody says so: {done:?}");
                println!("{backend}, round {round}: {lost} lost, {done:?}");
                came_back += counts.iter().sum::<u64>();
            }
            Err(error) => {
                println!("{backend}, round {round}: {error}");
                refused += 1;
                assert!(place.data().join("quarantine-1").exists(), "what was set aside stays");
                assert!(!place.data().join("FORMAT").exists(), "and no empty store takes its place");
            }
        }
    }
    println!("{backend}: {came_back} of {} came back, {refused} of 10 rounds gave nothing", 20 * RECORDS_COUNT);
    assert!(came_back >= came_back_min, "{backend}: {came_back} came back, of at least {came_back_min}");
    assert!(refused <= refused_max, "{backend}: {refused} of 10 rounds gave nothing, {refused_max} may");
}

async fn a_damaged_file_and_a_missing_key_cost_their_own(backend: Backend) {
    let place = Place::on(backend);
    furnished(&place).await;
    let uid = {
        let (store, tenants) = place.open().await;
        let uid = tenants.open_tenant(&id("acme")).unwrap().uid();
        let bolt = tenants.open_tenant(&id("bolt")).unwrap().uid();
        store.close().await.unwrap();
        std::fs::remove_file(place.data().join("keys").join(uid.clone())).unwrap();
        let values = place.data().join("blobs").join(bolt);
        for (path, content) in support::files_below(&values) {
            std::fs::write(path, &content[..content.len() / 2]).unwrap();
        }
        uid
    };
    set_aside(&place);
    let done = salvaged(&place).unwrap();
    let bolt = done.tenants.iter().find(|tenant| tenant.tenant == "bolt").unwrap();
    assert_eq!((bolt.recovered_count >= RECORDS_COUNT, bolt.lost_count), (true, 1), "{done:?}");
    assert!(done.nameless.get(&uid).is_some_and(|count| *count > RECORDS_COUNT), "{done:?}");
    assert_eq!(count(&place).await, [0, RECORDS_COUNT]);
}

on_every_backend!(
    a_store_that_is_whole_comes_back_whole,
    damage_costs_what_it_hits_and_is_counted,
    a_damaged_file_and_a_missing_key_cost_their_own,
);

#[tokio::test]
async fn another_root_key_salvages_nothing_and_changes_nothing() {
    let place = Place::new();
    furnished(&place).await;
    set_aside(&place);
    let other = tempfile::tempdir().unwrap();
    let wrong = salvage(&place.data(), &root(other.path()), Arc::new(SystemEntropy), 4 << 20);
    assert!(matches!(wrong, Err(StoreError::Keys(_))), "{wrong:?}");
    assert!(place.data().join("quarantine-1/keys").exists());
    assert!(Store::open(&place.data(), place.options()).is_ok(), "an empty directory is an empty store");
}
