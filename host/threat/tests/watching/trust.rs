//! How far feeds are believed: what is below a floor is kept and matched neither as it comes nor looking back, what has faded is
//! over, and what is over gives way.

use ringfence_threat::Loaded;
use ringfence_threat::intel::{Indicator, TEXT_BYTES_MAX, Trust, Use};
use serde_json::Value;

use super::*;

const DAY_MS: i64 = 86_400_000;

fn indicator(id: &str, domain: &str, more: Value) -> Value {
    let mut object = json!({
        "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{id}"), "pattern_type": "stix",
        "pattern": format!("[domain-name:value = '{domain}']"), "valid_from": "2020-01-01T00:00:00Z",
        "modified": "2026-01-01T00:00:00Z",
    });
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

async fn load(threat: &Threat, scope: &Scope, from: (&str, Trust), objects: Vec<Value>) -> Loaded {
    let bundle = json!({ "type": "bundle", "id": "bundle--1", "objects": objects });
    threat.load_bundle(scope, from, &bundle).await.unwrap()
}

fn one(threat: &Threat, scope: &Scope, id: &str) -> Arc<Indicator> {
    threat.indicators(scope).into_iter().find(|one| one.id == format!("indicator--{id}")).unwrap()
}

/// Records a visit to a place that is believed to be evil, and waits until it was looked at: what stands behind it was.
async fn visited(world: &World, running: &Running) {
    let count = || one(&running.threat, &world.scope(), "mark").sightings_count;
    let before = count();
    for place in ["https://evil.example", "https://mark.example"] {
        world.record(&running.audit, codes::EGRESS_REFUSED, json!({ "origin": place })).await;
    }
    eventually("the mark", async || count() > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_below_a_feeds_floor_is_matched_neither_now_nor_looking_back_until_it_is_believed() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    let threat = &running.threat;
    load(threat, &scope, ("other", Trust::default()), vec![indicator("mark", "mark.example", json!({}))]).await;
    let (high, low) = (Trust::of(Some(60), None).unwrap(), Trust::of(Some(40), None).unwrap());
    let evil = || vec![indicator("evil", "evil.example", json!({}))];
    // Its source states no confidence, so 50 is assumed.
    let loaded = load(threat, &scope, ("partner", high), evil()).await;
    assert_eq!((loaded.matched_count, loaded.not_used_count), (0, 1));
    visited(&world, &running).await;
    visited(&world, &running).await;
    let seen = || one(threat, &scope, "evil").sightings_count;
    assert_eq!(seen(), 0);
    // The same again, believed more.
    let loaded = load(threat, &scope, ("partner", low), evil()).await;
    assert_eq!((loaded.matched_count, loaded.sightings_count, seen()), (1, 2, 2));
    visited(&world, &running).await;
    assert_eq!(seen(), 3);
    threat.trust_feed(&scope, ("partner", high)).await.unwrap();
    visited(&world, &running).await;
    assert_eq!(seen(), 3, "what was seen stays counted");
    assert!(matches!(&one(threat, &scope, "evil").used, Use::NotUsed(why) if why.contains("assumed")));
    assert_eq!(one(threat, &scope, "mark").trust, Trust::default(), "it is of another feed");
    let (again, _reader) = world.open(running.audit.clone()).await;
    assert_eq!(one(&again, &scope, "evil").trust, high, "after a start too");
    threat.trust_feed(&scope, ("partner", low)).await.unwrap();
    eventually("the log asked anew", async || seen() == 4).await;
    visited(&world, &running).await;
    assert_eq!(seen(), 5, "each once");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_faded_is_over_without_anybody_saying_so_until_its_source_says_it_again() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    let threat = &running.threat;
    load(threat, &scope, ("other", Trust::default()), vec![indicator("mark", "mark.example", json!({}))]).await;
    let fading = Trust::of(Some(40), Some(1)).unwrap();
    let said = async || {
        let now = world.clock.now().to_string();
        let evil = indicator("evil", "evil.example", json!({ "confidence": 80, "modified": now }));
        load(threat, &scope, ("partner", fading), vec![evil]).await
    };
    assert_eq!(said().await.matched_count, 1);
    visited(&world, &running).await;
    let seen = || one(threat, &scope, "evil").sightings_count;
    assert_eq!(seen(), 1);
    world.clock.0.fetch_add(2 * DAY_MS, Ordering::Relaxed);
    visited(&world, &running).await;
    let evil = one(threat, &scope, "evil");
    assert_eq!((evil.sightings_count, evil.effective_confidence(world.clock.now())), (1, 20));
    assert!(matches!(evil.judge(world.clock.now()), Use::NotUsed(why) if why.contains("20 at its age")));
    assert!(threat.blind_spots_now(&scope).iter().any(|spot| spot.starts_with("1 indicators")));
    // And what went by meanwhile is found.
    let loaded = said().await;
    assert_eq!((loaded.matched_count, loaded.sightings_count, seen()), (1, 2, 2));
    running.stop().await;
}

#[tokio::test]
async fn what_is_over_gives_way_to_what_comes_and_what_was_taken_back_does_not() {
    const COUNT: usize = 1_500;
    let world = World::new().await;
    let (scope, audit) = (world.scope(), world.audit().await);
    let (threat, _reader) = world.open(audit.clone()).await;
    let long = |of: &str, more: &Value| -> Vec<Value> {
        let each =
            |number| indicator(&format!("{of}{number}"), &format!("{of}{number}{}", "x".repeat(8_000)), more.clone());
        (0..COUNT).map(each).collect()
    };
    let mut over = long("over", &json!({ "valid_until": "2021-01-01T00:00:00Z" }));
    over[0]["revoked"] = json!(true);
    load(&threat, &scope, ("partner", Trust::default()), over).await;
    load(&threat, &scope, ("partner", Trust::default()), long("new", &json!({}))).await;
    let (again, _reader) = world.open(audit).await;
    for threat in [threat, again] {
        let kept = threat.indicators(&scope);
        let count = |of: &str| kept.iter().filter(|one| one.id.starts_with(&format!("indicator--{of}"))).count();
        assert_eq!(count("new"), COUNT);
        // No more than had to, and all of it fits.
        let bytes = kept.iter().map(|one| one.pattern.len()).sum::<usize>();
        assert!(bytes <= TEXT_BYTES_MAX && bytes > TEXT_BYTES_MAX / 10 * 9, "{bytes}");
        assert!(kept.iter().any(|one| one.id == "indicator--over0"), "{}", count("over"));
    }
}
