//! What a start must not take for known: a name that is used again, and who is behind an address.

use super::*;

/// Waits until the reader has caught up and goes by the feed.
async fn reads_along(running: &Running) {
    eventually("a look at what is due", async || running.threat.health().backlog_age_ms == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_used_again_while_nobody_reads_along_is_looked_at_from_its_first_entry() {
    let mut world = World::new().await;
    let running = world.start(world.audit().await).await;
    for _ in 0..9 {
        world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    }
    eventually("the entries", async || running.threat.health().evaluated_count >= 9).await;
    let audit = running.audit.clone();
    running.stop().await;
    let acme: TenantId = "acme".parse().unwrap();
    world.tenants.delete(&acme).await.unwrap();
    world.tenants.create(&acme, "Acme").await.unwrap();
    world.acme = world.tenants.open_tenant(&acme).unwrap();
    let running = world.start(audit).await;
    reads_along(&running).await;
    world.record(&running.audit, codes::CANARY_TOUCHED, json!({})).await;
    eventually("the finding", async || found(&running, &world.scope(), "canary").await == 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_log_was_read_goes_with_its_tenant() {
    let world = World::new().await;
    let running = world.start(world.audit().await).await;
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("the entry", async || running.threat.health().evaluated_count >= 1).await;
    let (audit, threat) = (running.audit.clone(), running.threat.clone());
    running.stop().await;
    let (platform, place) = (world.tenants.platform(), Key::new(["threat-place", "acme"]));
    assert!(platform.get(&place).await.unwrap().is_some());
    // One of before it was kept whose it is: it stands for whoever has the name.
    platform.put_json(&place, &("acme", 1)).await.unwrap();
    let running = world.start(audit).await;
    reads_along(&running).await;
    assert_eq!(running.threat.health().evaluated_count, 0, "it was read before");
    running.stop().await;
    let acme: TenantId = "acme".parse().unwrap();
    world.tenants.delete(&acme).await.unwrap();
    threat.forget(&acme).await;
    assert!(platform.get(&place).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_start_no_rule_blocks_an_address_before_it_is_known_who_is_behind_it() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    let settings = Settings { block_source: SourceBlocks::Allowed, ..acting("brute-force") };
    running.threat.put_settings(&scope, settings).await.unwrap();
    let audit = running.audit.clone();
    running.stop().await;

    let running = world.start(audit).await;
    reads_along(&running).await;
    let (office, stranger) = ("203.0.113.9", "192.0.2.1");
    let seen = async |code: &'static str, who: &str, source: &str| {
        let mut event = Event::new(code, "authenticate", who.parse().unwrap(), who);
        event.source_ip = Some(source.parse().unwrap());
        running.audit.record(&Log::Tenant(world.acme.clone()), event).await.unwrap();
    };
    let guessed = async || {
        for _ in 0..5 {
            for source in [office, stranger] {
                seen(codes::SIGN_IN_REFUSED, "acme/ada", source).await;
            }
        }
    };
    guessed().await;
    eventually("both findings", async || found(&running, &scope, "brute-force").await >= 2).await;
    // Those of the office go on to work, which takes a session of now.
    for who in ["acme/ada", "acme/bob", "acme/cy"] {
        seen(codes::SIGNED_IN, who, office).await;
    }
    world.record(&running.audit, codes::CANARY_TOUCHED, json!({})).await;
    eventually("what comes after", async || found(&running, &scope, "canary").await == 1).await;
    assert!(running.threat.responses(&scope).is_empty(), "nobody knows yet whom it would lock out");
    world.clock.0.fetch_add(16 * 60_000, Ordering::Relaxed);
    guessed().await;
    eventually("the response", async || !running.threat.responses(&scope).is_empty()).await;
    // Whatever is still unread is read before the end.
    let read_count = running.threat.health().evaluated_count;
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("the rest", async || running.threat.health().evaluated_count > read_count).await;
    let blocked: Vec<_> = running.threat.responses(&scope).into_iter().filter_map(|one| one.target.source).collect();
    assert_eq!(blocked, [stranger.parse::<std::net::IpAddr>().unwrap()]);
    running.stop().await;
}
