//! The store against a model: whatever is done to an ordered map and to the store in memory, on sled and on redb, with
//! closing, opening and crashes in between, all hold the same afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use proptest::prelude::*;
use ringfence_store::{Backend, Key, Op, Precondition, Segment, StoreError, TenantStore};
use support::{Place, memory, view};

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<(Key, Option<(u8, usize)>)>, Option<Wish>),
    Reopen,
    Crash,
}

#[derive(Debug, Clone)]
enum Wish {
    Absent(Key),
    Present(Key),
    Current(Key),
    Stale(Key),
}

type Model = BTreeMap<Key, (Vec<u8>, u64)>;

fn key() -> impl Strategy<Value = Key> {
    let segment = prop_oneof!["[abc]".prop_map(Segment::Name), (0_u64..4).prop_map(Segment::Number)];
    ("[xy]", prop::collection::vec(segment, 0..3))
        .prop_map(|(first, rest)| rest.into_iter().fold(Key::new([first]), Key::push))
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 0_usize..300, 1 => 65_530_usize..65_545, 1 => 150_000_usize..150_010];
    let change = (key(), prop::option::weighted(0.75, (any::<u8>(), length)));
    let wish = prop_oneof![
        key().prop_map(Wish::Absent),
        key().prop_map(Wish::Present),
        key().prop_map(Wish::Current),
        key().prop_map(Wish::Stale)
    ];
    prop_oneof![
        8 => (prop::collection::vec(change, 0..4), prop::option::weighted(0.4, wish)).prop_map(|(changes, wish)| Step::Batch(changes, wish)),
        1 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ]
}

async fn apply(store: &TenantStore, model: &mut Model, changes: &[(Key, Option<(u8, usize)>)], wish: Option<&Wish>) {
    let (holds, precondition) = match wish {
        None => (true, None),
        Some(Wish::Absent(key)) => (!model.contains_key(key), Some(Precondition::Absent(key.clone()))),
        Some(Wish::Present(key)) => (model.contains_key(key), Some(Precondition::Present(key.clone()))),
        Some(Wish::Current(key)) => {
            let revision = model.get(key).map(|(_, revision)| *revision);
            (revision.is_some(), Some(Precondition::Revision(key.clone(), revision.unwrap_or(1))))
        }
        Some(Wish::Stale(key)) => {
            let revision = model.get(key).map_or(1, |(_, revision)| revision - 1);
            (false, Some(Precondition::Revision(key.clone(), revision)))
        }
    };
    let ops = changes
        .iter()
        .map(|(key, value)| match value {
            Some((byte, length)) => Op::put(key.clone(), vec![*byte; *length]),
            None => Op::delete(key.clone()),
        })
        .collect();
    let before = model.values().map(|(_, revision)| *revision).max().unwrap_or(0);
    match store.batch(ops, precondition.into_iter().collect()).await {
        Ok(commit) => {
            assert!(holds);
            assert!(commit.revision > before, "revisions only grow");
            for (key, value) in changes {
                match value {
                    Some((byte, length)) => model.insert(key.clone(), (vec![*byte; *length], commit.revision)),
                    None => model.remove(key),
                };
            }
        }
        Err(error) => {
            assert!(matches!(error, StoreError::Conflict { precondition: 0 }), "{error}");
            assert!(!holds);
        }
    }
}

async fn list(store: &TenantStore, prefix: &Key, limit: usize, back: Back) -> Vec<(Key, (Vec<u8>, u64))> {
    let mut all = Vec::new();
    let mut token = None;
    loop {
        let page = match back {
            Back::No => store.scan(prefix, token.as_ref(), limit).await.unwrap(),
            Back::Yes => store.scan_back(prefix, token.as_ref(), limit).await.unwrap(),
        };
        assert!(page.records.len() <= limit);
        all.extend(page.records.into_iter().map(|(key, record)| (key, (record.value.to_vec(), record.revision))));
        match page.next {
            // Through its text, as a cursor of the API goes.
            Some(next) => token = Some(next.to_string().parse().unwrap()),
            None => return all,
        }
    }
}

/// What a killed process leaves is what it had written by then: a copy of its files, the root key's too. Nothing waits to be
/// written here, so that everything acknowledged is in it.
fn crashed(place: &Place) -> Place {
    let copied = Place::on(place.backend);
    copy(place.directory.path(), copied.directory.path());
    copied
}

/// Copies what is below a directory. What a thread of the store removes meanwhile is garbage already, and may be missed.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&path, &to);
        } else if let Err(error) = std::fs::copy(&path, &to) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", path.display());
        }
    }
}

#[derive(Clone, Copy)]
enum Back {
    No,
    Yes,
}

async fn compare(store: &TenantStore, model: &Model, limit: usize) {
    for (key, (value, revision)) in model {
        let record = store.get(key).await.unwrap().unwrap();
        assert_eq!((&*record.value, record.revision), (value, *revision));
    }
    for prefix in [Key::default(), Key::new(["x"]), Key::new(["y"]), Key::new(["x"]).number(2), Key::new(["nothing"])] {
        let forward = list(store, &prefix, limit, Back::No).await;
        let mut backward = list(store, &prefix, limit, Back::Yes).await;
        backward.reverse();
        assert_eq!(forward, backward);
        let numbers: Vec<u64> = forward
            .iter()
            .filter(|(key, _)| key.segments().len() == prefix.segments().len() + 1)
            .filter_map(|(key, _)| key.last_number())
            .collect();
        assert!(numbers.is_sorted(), "numbers come in order");
        let found: Model = forward.into_iter().collect();
        let below =
            |key: &Key| key.segments().len() > prefix.segments().len() && key.segments().starts_with(prefix.segments());
        let expected: Model =
            model.iter().filter(|(key, _)| below(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found, expected);
    }
}

fn run(steps: &[Step], limit: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (_root, _store, memory_tenants) = memory().await;
        let memory = view(&memory_tenants, "acme").await;
        let mut model_memory = Model::new();
        let mut disks = Vec::new();
        for backend in Backend::ALL {
            let place = Place::on(backend);
            let (store, tenants) = place.open().await;
            disks.push((view(&tenants, "acme").await, store, place, Model::new()));
        }
        for step in steps {
            match step {
                Step::Batch(changes, wish) => {
                    apply(&memory, &mut model_memory, changes, wish.as_ref()).await;
                    for (disk, _, _, model) in &mut disks {
                        apply(disk, model, changes, wish.as_ref()).await;
                    }
                }
                Step::Reopen => {
                    for (disk, store, place, _) in &mut disks {
                        store.close().await.unwrap();
                        assert!(matches!(disk.get(&Key::new(["x"])).await, Err(StoreError::Closed)));
                        let tenants;
                        (*store, tenants) = place.open().await;
                        *disk = view(&tenants, "acme").await;
                    }
                }
                Step::Crash => {
                    for (disk, store, place, model) in &mut disks {
                        let copied = crashed(place);
                        let tenants;
                        (*store, tenants) = copied.open().await;
                        *disk = view(&tenants, "acme").await;
                        *place = copied;
                        compare(disk, model, limit).await;
                    }
                }
            }
        }
        compare(&memory, &model_memory, limit).await;
        let values =
            |model: &Model| model.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect::<Vec<_>>();
        for (disk, store, place, model) in disks {
            compare(&disk, &model, limit).await;
            assert_eq!(values(&model_memory), values(&model));
            store.close().await.unwrap();
            let large = model.values().filter(|(value, _)| value.len() > ringfence_store::INLINE_BYTES_MAX).count();
            let directory = place.data().join("blobs").join(disk.uid()).join("values");
            assert_eq!(std::fs::read_dir(directory).unwrap().count(), large, "one file a large value, none left over");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: support::times(16) as u32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_sled_and_redb_do_what_a_map_does(steps in prop::collection::vec(step(), 1..16), limit in 1_usize..6) {
        run(&steps, limit);
    }
}
