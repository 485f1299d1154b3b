//! What the store survives: closing and opening, damage, a torn snapshot, a second process, a full disk, many writers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::path::Path;

use bytes::Bytes;
use ringfence_store::{Backend, DiskOptions, Key, Op, Precondition, Store, StoreError};
use support::{Place, root, tenants, view};

on_every_backend! {
    everything_acknowledged_is_there_after_opening_again_and_revisions_go_on,
    garbage_in_the_database_is_an_error_and_the_files_are_moved_aside_whole,
    a_database_that_lost_its_files_is_not_taken_for_a_new_one,
    a_second_opener_is_refused_by_name_until_the_first_closes,
    writers_that_wait_together_share_one_flush,
    of_64_writers_that_race_for_a_revision_exactly_one_wins,
    a_counter_under_contention_loses_no_increment,
    below_the_floor_of_free_space_writes_are_refused_and_reads_and_deletes_work,
    files_that_a_crash_left_behind_are_swept_at_the_next_start,
    the_wrong_root_key_opens_nothing_and_harms_nothing,
    the_wrong_backend_is_refused_by_name_and_touches_nothing,
    a_directory_of_a_later_version_is_refused_and_not_touched,
}

fn key(number: u64) -> Key {
    Key::new(["n"]).number(number)
}

async fn fill(place: &Place, count: u64) {
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    let writes = (0..count).map(|number| {
        let acme = acme.clone();
        tokio::spawn(async move { acme.put(&key(number), vec![7_u8; 500]).await.unwrap() })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    store.close().await.unwrap();
}

/// Opens, and says what came of it: how many records there are, or the error.
async fn reopen(place: &Place) -> Result<usize, StoreError> {
    let (store, tenants) = support::open(place.directory.path(), place.backend).await?;
    let acme = view(&tenants, "acme").await;
    let mut count = 0;
    let mut after = None;
    loop {
        let page = acme.scan(&Key::new(["n"]), after.as_ref(), 100).await?;
        count += page.records.len();
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    store.close().await?;
    Ok(count)
}

async fn everything_acknowledged_is_there_after_opening_again_and_revisions_go_on(backend: Backend) {
    let place = Place::on(backend);
    let mut revision = 0;
    for round in 0..3_u64 {
        let (store, tenants) = place.open().await;
        let acme = view(&tenants, "acme").await;
        for before in 0..round {
            let record = acme.get(&key(before)).await.unwrap().unwrap();
            assert_eq!(record.value.as_slice(), before.to_be_bytes());
        }
        let commit = acme.put(&key(round), round.to_be_bytes()).await.unwrap();
        assert!(commit.revision > revision);
        revision = commit.revision;
        // The last round goes without closing: dropping the handles must do.
        if round < 2 {
            store.close().await.unwrap();
        }
    }
    assert_eq!(reopen(&place).await.unwrap(), 3);
}

#[tokio::test]
async fn a_snapshot_left_half_written_by_a_crash_is_removed_before_opening() {
    let place = Place::new();
    fill(&place, 50).await;
    let stale = place.data().join("db").join("snap.00000000FFFFFFFF.generating");
    std::fs::write(&stale, b"half a snapsh").unwrap();
    assert_eq!(reopen(&place).await.unwrap(), 50);
    assert!(!stale.exists());
}

fn damage(file: &Path, from: u64, length: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&vec![0xEE; length], from).unwrap();
    file.sync_all().unwrap();
}

async fn garbage_in_the_database_is_an_error_and_the_files_are_moved_aside_whole(backend: Backend) {
    for (round, (from, length)) in
        [(0_u64, 4_096_usize), (0, 512 << 10), (20, 2_000), (4_096, 100_000)].into_iter().enumerate()
    {
        let place = Place::on(backend);
        fill(&place, 200).await;
        let keys = std::fs::read_dir(place.data().join("keys")).unwrap().count();
        damage(&place.database(), from, length);
        let error = reopen(&place).await.expect_err("damage is not overlooked");
        let StoreError::Corrupt { quarantined_to, .. } = &error else { panic!("round {round}: {error}") };
        assert_eq!(*quarantined_to, place.data().join("quarantine-1"), "round {round}");
        assert!(error.to_string().contains("restore a backup"), "{error}");
        assert!(quarantined_to.join(support::database(backend)).exists());
        assert_eq!(
            std::fs::read_dir(quarantined_to.join("keys")).unwrap().count(),
            keys,
            "the keys stay with the data"
        );
        // The next start begins empty, and a second damage gets a place of its own.
        assert_eq!(reopen(&place).await.unwrap(), 0, "round {round}");
        damage(&place.database(), 0, 4_096);
        let error = reopen(&place).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { quarantined_to, .. } if quarantined_to.ends_with("quarantine-2")),
            "{error}"
        );
    }
}

async fn a_database_that_lost_its_files_is_not_taken_for_a_new_one(backend: Backend) {
    let place = Place::on(backend);
    fill(&place, 10).await;
    std::fs::remove_dir_all(place.database().parent().unwrap()).unwrap();
    assert!(matches!(reopen(&place).await, Err(StoreError::Corrupt { .. })));
}

async fn a_second_opener_is_refused_by_name_until_the_first_closes(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let second = Store::open(&place.data(), place.options());
    assert!(matches!(&second, Err(StoreError::InUse { path }) if *path == place.data()), "{second:?}");
    store.close().await.unwrap();
    store.close().await.unwrap();
    let acme = tenants.platform();
    assert!(matches!(acme.put(&key(1), *b"v").await, Err(StoreError::Closed)));
    assert!(Store::open(&place.data(), place.options()).is_ok());
}

async fn writers_that_wait_together_share_one_flush(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    let before = store.stats().await.unwrap();
    let writes: Vec<_> = (0..200_u64)
        .map(|number| {
            let acme = acme.clone();
            tokio::spawn(async move { acme.put(&key(number), *b"v").await.unwrap() })
        })
        .collect();
    for write in writes {
        write.await.unwrap();
    }
    let after = store.stats().await.unwrap();
    assert_eq!(after.commits - before.commits, 200);
    assert!(after.syncs - before.syncs < 100, "{} flushes for 200 batches", after.syncs - before.syncs);
    assert!(after.bytes_on_disk > 0 && after.free_bytes.is_some());
    store.close().await.unwrap();
}

async fn of_64_writers_that_race_for_a_revision_exactly_one_wins(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    let mut precondition = Precondition::Absent(key(0));
    for round in 0..10_u8 {
        let writers: Vec<_> = (0..64_u8)
            .map(|writer| {
                let (acme, precondition) = (acme.clone(), precondition.clone());
                let put = vec![Op::put(key(0), [round, writer]), Op::put(key(1).number(writer.into()), [round])];
                tokio::spawn(async move { acme.batch(put, vec![precondition]).await })
            })
            .collect();
        let mut won = Vec::new();
        for (writer, result) in writers.into_iter().enumerate() {
            match result.await.unwrap() {
                Ok(commit) => won.push((writer as u8, commit.revision)),
                Err(error) => assert!(matches!(error, StoreError::Conflict { precondition: 0 }), "{error}"),
            }
        }
        let [(winner, revision)] = won[..] else { panic!("round {round}: {won:?}") };
        let record = acme.get(&key(0)).await.unwrap().unwrap();
        assert_eq!((record.value.as_slice(), record.revision), ([round, winner].as_slice(), revision));
        let of_round = acme.scan(&key(1), None, 100).await.unwrap().records;
        let wrote = of_round.iter().filter(|(_, record)| record.value.as_slice() == [round]).count();
        assert_eq!(wrote, 1, "the batches of the others left nothing");
        precondition = Precondition::Revision(key(0), revision);
    }
    store.close().await.unwrap();
}

async fn a_counter_under_contention_loses_no_increment(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    acme.put(&key(0), 0_u64.to_be_bytes()).await.unwrap();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let acme = acme.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < 10 {
                    let record = acme.get(&key(0)).await.unwrap().unwrap();
                    let next = u64::from_be_bytes(record.value.as_slice().try_into().unwrap()) + 1;
                    let op = Op::put(key(0), next.to_be_bytes());
                    match acme.batch(vec![op], vec![Precondition::Revision(key(0), record.revision)]).await {
                        Ok(_) => done += 1,
                        Err(error) => assert!(matches!(error, StoreError::Conflict { .. }), "{error}"),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(acme.get(&key(0)).await.unwrap().unwrap().value.as_slice(), 80_u64.to_be_bytes());
    store.close().await.unwrap();
}

async fn below_the_floor_of_free_space_writes_are_refused_and_reads_and_deletes_work(backend: Backend) {
    let place = Place::on(backend);
    fill(&place, 10).await;
    let blob = {
        let (store, tenants) = place.open().await;
        let mut blob = view(&tenants, "acme").await.blobs().create().await.unwrap();
        blob.write(Bytes::from_static(b"content")).await.unwrap();
        let blob = blob.finish().await.unwrap();
        store.close().await.unwrap();
        blob
    };
    let store = Store::open(&place.data(), DiskOptions { free_bytes_min: u64::MAX, ..place.options() }).unwrap();
    let tenants = tenants(&store, root(place.directory.path())).await.unwrap();
    let acme = view(&tenants, "acme").await;
    for length in [1_usize, 100_000] {
        let error = acme.put(&key(100), vec![0_u8; length]).await.unwrap_err();
        assert!(matches!(error, StoreError::Full { floor_bytes: u64::MAX, .. }), "{error}");
        assert!(error.is_transient());
    }
    assert!(matches!(acme.blobs().create().await, Err(StoreError::Full { .. })));
    assert!(matches!(tenants.create(&support::id("new"), "new").await, Err(StoreError::Full { .. })));
    assert!(acme.get(&key(1)).await.unwrap().is_some());
    acme.delete(&key(1)).await.unwrap();
    assert!(acme.get(&key(1)).await.unwrap().is_none());
    acme.blobs().delete(&blob).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(reopen(&place).await.unwrap(), 9);
}

#[tokio::test]
async fn limits_are_refused_before_anything_is_written() {
    use ringfence_store::VALUE_BYTES_MAX;
    let (_root, _store, tenants) = support::memory().await;
    let acme = view(&tenants, "acme").await;
    let too_long = acme.put(&key(1), vec![0_u8; VALUE_BYTES_MAX + 1]).await;
    assert!(matches!(too_long, Err(StoreError::TooLarge { .. })));
    let many = (0..1_001).map(|number| Op::put(key(number), *b"v")).collect();
    assert!(matches!(acme.batch(many, vec![]).await, Err(StoreError::TooLarge { .. })));
    let long_name = acme.put(&Key::new(["x".repeat(5_000)]), *b"v").await;
    assert!(matches!(long_name, Err(StoreError::TooLarge { .. })));
    assert!(acme.scan(&Key::default(), None, 10).await.unwrap().records.is_empty());
}

async fn files_that_a_crash_left_behind_are_swept_at_the_next_start(backend: Backend) {
    let place = Place::on(backend);
    let (store, tenants) = place.open().await;
    let acme = view(&tenants, "acme").await;
    acme.put(&key(1), vec![1_u8; 100_000]).await.unwrap();
    let directory = place.data().join("blobs").join(acme.uid());
    store.close().await.unwrap();
    let orphan = directory.join("values").join("0".repeat(32));
    std::fs::write(&orphan, b"never referred to").unwrap();
    let unfinished = [
        directory.join("values").join("a.part"),
        directory.join("contents").join("b.part"),
        place.data().join("keys").join("c.part"),
    ];
    for path in &unfinished {
        std::fs::write(path, b"half").unwrap();
    }
    let (_store, tenants) = place.open().await;
    assert!(!orphan.exists());
    assert!(unfinished.iter().all(|path| !path.exists()));
    let acme = view(&tenants, "acme").await;
    assert_eq!(acme.get(&key(1)).await.unwrap().unwrap().value.len(), 100_000);
}

async fn the_wrong_root_key_opens_nothing_and_harms_nothing(backend: Backend) {
    let place = Place::on(backend);
    fill(&place, 10).await;
    let key_file = place.directory.path().join("root.key");
    std::fs::rename(&key_file, place.directory.path().join("kept.key")).unwrap();
    for _ in 0..2 {
        let error = reopen(&place).await.unwrap_err();
        assert!(matches!(error, StoreError::Keys(_)), "{error}");
    }
    std::fs::rename(place.directory.path().join("kept.key"), &key_file).unwrap();
    assert_eq!(reopen(&place).await.unwrap(), 10);
}

async fn the_wrong_backend_is_refused_by_name_and_touches_nothing(backend: Backend) {
    let place = Place::on(backend);
    fill(&place, 10).await;
    let other = Backend::ALL.into_iter().find(|other| *other != backend).unwrap();
    let before = support::files_below(&place.data());
    let error = Store::open(&place.data(), support::options(other)).unwrap_err();
    assert!(matches!(&error, StoreError::WrongBackend { found, asked, .. } if (*found, *asked) == (backend, other)));
    assert!(error.to_string().contains(&format!("ringfence store migrate {backend} {other}")), "{error}");
    assert_eq!(support::files_below(&place.data()), before);
    assert_eq!(reopen(&place).await.unwrap(), 10);
}

async fn a_directory_of_a_later_version_is_refused_and_not_touched(backend: Backend) {
    let place = Place::on(backend);
    fill(&place, 10).await;
    let format = place.data().join("FORMAT");
    let ours = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, ours.replace("version 3", "version 4")).unwrap();
    let error = reopen(&place).await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 4, known: 3, .. }), "{error}");
    for garbage in ["", "version", "version 0\nbackend sled\n", "version 3\nbackend floppy\n", "\0\0\0"] {
        std::fs::write(&format, garbage).unwrap();
        assert!(matches!(reopen(&place).await, Err(StoreError::Unavailable { .. })), "{garbage:?}");
    }
    std::fs::write(&format, ours).unwrap();
    assert_eq!(reopen(&place).await.unwrap(), 10);
}

#[tokio::test]
async fn a_directory_from_before_it_said_so_is_of_sled() {
    let place = Place::new();
    fill(&place, 10).await;
    std::fs::remove_file(place.data().join("FORMAT")).unwrap();
    let refused = Store::open(&place.data(), support::options(Backend::Redb));
    assert!(matches!(refused, Err(StoreError::WrongBackend { found: Backend::Sled, .. })));
    assert_eq!(reopen(&place).await.unwrap(), 10);
    assert_eq!(std::fs::read_to_string(place.data().join("FORMAT")).unwrap(), "version 3\nbackend sled\n");
}
