//! What logs held before an indicator came: found, counted once, told to its owner alone.

use super::*;

/// A bundle with one indicator for each place, by its number; those over 99 are marked TLP:RED.
fn bundle(of: &[(u8, &str)], modified: &str) -> serde_json::Value {
    let red = "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed";
    let indicator = |(number, pattern): &(u8, &str)| {
        let marks = if *number > 99 { json!([red]) } else { json!([]) };
        json!({
            "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{number}"), "pattern_type": "stix",
            "pattern": pattern, "valid_from": "2020-01-01T00:00:00Z", "modified": modified, "object_marking_refs": marks,
        })
    };
    json!({ "type": "bundle", "id": "bundle--1", "objects": of.iter().map(indicator).collect::<Vec<_>>() })
}

const EVIL: &str = "[domain-name:value = 'evil.example']";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_log_held_before_an_indicator_came_is_a_finding_and_counted_once() {
    let world = World::new().await;
    let scope = world.scope();
    let running = world.start(world.audit().await).await;
    let mut alerts = running.threat.alerts();
    for _ in 0..3 {
        world.record(&running.audit, codes::EGRESS_REFUSED, json!({ "origin": "https://evil.example" })).await;
    }
    // The third is done with when the next is looked at.
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("the entries", async || running.threat.health().evaluated_count >= 4).await;
    let load = async |modified: &str| {
        running.threat.load_bundle(&scope, "partner", &bundle(&[(1, EVIL)], modified)).await.unwrap()
    };
    let sightings = || running.threat.indicators(&scope).first().map(|one| one.sightings_count);
    let loaded = load("2026-01-01T00:00:00Z").await;
    assert_eq!((loaded.matched_count, loaded.sightings_count), (1, 3));
    assert!(loaded.looked_back_count >= 4);
    eventually("the finding", async || found(&running, &scope, "indicator").await == 1).await;
    let findings = running.threat.findings(&scope).await.unwrap();
    let finding = findings.iter().find(|finding| finding.rule == "indicator").unwrap();
    assert!(finding.title.contains("3 times") && finding.title.contains("indicator--1"), "{}", finding.title);
    assert_eq!((finding.evidence.len(), finding.log.as_str()), (1, "acme"));
    let told = tokio::time::timeout(Duration::from_secs(60), async {
        while alerts.recv().await.unwrap().rule != "indicator" {}
    });
    told.await.unwrap();
    let entries = running.audit.list(&Log::Tenant(world.acme.clone()), 0, 100).await.unwrap();
    let on_record = |body: &serde_json::Value| {
        body["unmapped"]["code"] == codes::THREAT_FOUND && body["unmapped"]["details"]["finding"] == finding.id.as_str()
    };
    assert!(entries.iter().filter_map(|entry| entry.body.as_ref()).any(on_record));
    // The same again is nothing new, and a later form with the same pattern has been asked.
    let again = load("2026-01-01T00:00:00Z").await;
    assert_eq!((again.matched_count, again.looked_back_count, sightings()), (0, 0, Some(3)));
    let later = load("2026-02-01T00:00:00Z").await;
    assert_eq!((later.matched_count, later.looked_back_count, sightings()), (1, 0, Some(3)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_load_is_asked_of_tenants_logs_but_for_what_is_red_and_goes_on_after_a_stop() {
    let world = World::new().await;
    let scope = world.scope();
    let audit = world.audit().await;
    let (threat, reader) = world.open(audit.clone()).await;
    world.record(&audit, codes::EGRESS_REFUSED, json!({ "origin": "https://evil.example" })).await;
    world.record(&audit, codes::EGRESS_REFUSED, json!({ "origin": "https://red.example" })).await;
    let both = bundle(&[(1, EVIL), (100, "[domain-name:value = 'red.example']")], "2026-01-01T00:00:00Z");
    let loaded = threat.load_bundle(&Scope::Host, "partner", &both).await.unwrap();
    assert_eq!((loaded.matched_count, loaded.sightings_count), (2, 0), "the host's own log held nothing of them");
    // Nobody read along: a stop before any tenant's log was asked.
    drop((threat, reader));
    let running = world.start(audit.clone()).await;
    eventually("the finding", async || found(&running, &scope, "indicator").await == 1).await;
    let finding = |findings: Vec<ringfence_threat::Finding>| {
        findings.into_iter().find(|finding| finding.rule == "indicator").unwrap()
    };
    let group = finding(running.threat.findings(&scope).await.unwrap()).group;
    assert_eq!(group, [("indicator".to_owned(), "indicator--1".to_owned())]);
    let sightings = async |id: &str| {
        let all = running.threat.indicators(&Scope::Host);
        all.iter().find(|one| one.id == id).map(|one| (one.sightings_count, one.past_asked))
    };
    eventually("the end of it", async || sightings("indicator--1").await == Some((1, true))).await;
    assert_eq!(sightings("indicator--100").await, Some((0, true)), "what is red is asked of its owner's log alone");
    running.stop().await;
    // Once: the next start has nothing left to ask.
    let running = world.start(audit).await;
    world.record(&running.audit, codes::SECRET_WRITTEN, json!({})).await;
    eventually("another entry", async || running.threat.health().evaluated_count >= 1).await;
    assert_eq!(running.threat.indicators(&Scope::Host)[0].sightings_count, 1);
    running.stop().await;
}
