//! Entries of a time are found without reading what lies before them, and none is left out, whatever the clock did.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use std::ops::Range;
use std::sync::atomic::Ordering;

use ringfence_audit::{Audit, Log, repair};
use ringfence_store::{Key, TenantStore};
use serde_json::Value;
use world::{World, pushed};

const BEGIN: i64 = 1_790_000_000_000;
const HOUR: i64 = 3_600_000;

/// Records entries from a moment on, a minute apart.
async fn fill(world: &World, audit: &Audit, log: &Log, from_ms: i64, count: i64) {
    for number in 0..count {
        world.clock.0.store(from_ms + number * 60_000, Ordering::Relaxed);
        audit.record(log, pushed()).await.unwrap();
    }
}

async fn times(audit: &Audit, log: &Log) -> Vec<i64> {
    let (mut times, size) = (Vec::new(), audit.size(log).await.unwrap());
    while (times.len() as u64) < size {
        let page = audit.list(log, times.len() as u64, 1_000).await.unwrap();
        let time = |text: &str| serde_json::from_str::<Value>(text).unwrap()["time"].as_i64().unwrap();
        times.extend(page.iter().map(|entry| time(&entry.envelope)));
    }
    times
}

/// How many places are given that are of another time, over many windows; panics when one that is of the time is not given.
async fn in_vain(audit: &Audit, log: &Log) -> usize {
    let times = times(audit, log).await;
    let mut borders: Vec<Option<i64>> =
        times.iter().step_by(7).flat_map(|time| [Some(*time), Some(*time + 1)]).collect();
    borders.extend([None, Some(0), Some(i64::MAX)]);
    let mut count = 0;
    for from in &borders {
        for to in borders.iter().step_by(3) {
            let places = audit.places(log, (*from, *to), u64::MAX).await.unwrap();
            assert!(places.windows(2).all(|pair| pair[0].end < pair[1].start), "in order, and joined: {places:?}");
            let given = |seq: u64| places.iter().any(|place: &Range<u64>| place.contains(&seq));
            for (seq, time) in times.iter().enumerate() {
                let is_wanted = from.is_none_or(|from| *time >= from) && to.is_none_or(|to| *time < to);
                let is_given = given(seq as u64);
                assert!(is_given || !is_wanted, "{seq} of {from:?} to {to:?} is left out");
                count += usize::from(is_given && !is_wanted);
            }
        }
    }
    count
}

/// A log whose clock was an hour ahead for a while and then, for good, two hours behind.
async fn stepped(world: &World, audit: &Audit) -> (TenantStore, Log) {
    let store = world.tenant("acme").await;
    let log = Log::Tenant(store.clone());
    fill(world, audit, &log, BEGIN, 40).await;
    fill(world, audit, &log, BEGIN + 2 * HOUR, 20).await;
    fill(world, audit, &log, BEGIN + HOUR, 30).await;
    fill(world, audit, &log, BEGIN - HOUR, 30).await;
    (store, log)
}

#[tokio::test]
async fn no_entry_of_a_time_is_left_out_and_no_other_is_given_whatever_the_clock_did() {
    let world = World::new().await;
    let audit = world.open().await;
    let (_, log) = stepped(&world, &audit).await;
    assert_eq!(in_vain(&audit, &log).await, 0);
    // After a start too, and beyond it.
    audit.flush().await.unwrap();
    let audit = world.open().await;
    fill(&world, &audit, &log, BEGIN - 2 * HOUR, 10).await;
    assert_eq!(in_vain(&audit, &log).await, 0);
    let newest = audit.places(&log, (None, Some(BEGIN - HOUR)), u64::MAX).await.unwrap();
    assert_eq!(newest.iter().map(|place| place.end - place.start).sum::<u64>(), 10, "{newest:?}");
    assert!(audit.places(&log, (Some(i64::MAX), None), u64::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_clock_that_goes_back_all_the_time_costs_a_look_at_more_and_never_an_entry() {
    let world = World::new().await;
    let audit = world.open().await;
    let log = Log::Tenant(world.tenant("acme").await);
    for number in 0..45 {
        fill(&world, &audit, &log, BEGIN + (45 - number) * HOUR, 2).await;
    }
    assert!(in_vain(&audit, &log).await > 0, "what lies before the newest steps is gone through");
}

#[tokio::test]
async fn a_log_of_before_this_was_noted_is_gone_through_and_known_from_then_on() {
    let world = World::new().await;
    let audit = world.open().await;
    let (store, log) = stepped(&world, &audit).await;
    audit.flush().await.unwrap();
    drop(audit);
    let key = Key::new(["audit-head"]);
    let mut head: Value = store.get_json(&key).await.unwrap().unwrap();
    assert!(head.as_object_mut().unwrap().remove("order").is_some());
    store.put_json(&key, &head).await.unwrap();
    let audit = world.open().await;
    fill(&world, &audit, &log, BEGIN + 3 * HOUR, 20).await;
    assert!(in_vain(&audit, &log).await > 0);
    let places = audit.places(&log, (Some(BEGIN + 3 * HOUR + 10 * 60_000), None), u64::MAX).await.unwrap();
    let size = audit.size(&log).await.unwrap();
    assert_eq!(places, [0..120, size - 10..size], "all of before, and of what came since what is of the time");
}

#[tokio::test]
async fn a_log_that_was_mended_is_known_again_and_damage_hides_nothing_around_it() {
    let world = World::new().await;
    let audit = world.open().await;
    let (store, log) = stepped(&world, &audit).await;
    audit.flush().await.unwrap();
    // One that a search looks at first. Whoever reads it is told; what stands beside it is still to be found.
    let key = Key::new(["audit"]).number(20);
    let kept = store.get(&key).await.unwrap().unwrap().value.to_vec();
    store.put(&key, b"damage".to_vec()).await.unwrap();
    let places = audit.places(&log, (Some(BEGIN + 15 * 60_000), Some(BEGIN + 25 * 60_000)), u64::MAX).await.unwrap();
    let holds = |seq: u64| places.iter().any(|place| place.contains(&seq));
    assert!((15..25).all(holds), "{places:?}");
    store.put(&key, kept).await.unwrap();
    drop(audit);
    // Its last entry is gone.
    store.put(&Key::new(["audit"]).number(119), b"damage".to_vec()).await.unwrap();
    let (clock, entropy) = (world.clock.clone(), world.entropy.clone());
    let repaired = repair(world.tenants.clone(), clock, entropy, "host.example".to_owned()).await.unwrap();
    assert_eq!(repaired.iter().map(|one| one.kept_count).collect::<Vec<_>>(), [119]);
    let audit = world.open().await;
    assert_eq!(in_vain(&audit, &log).await, 0);
}
