//! What logs held before an indicator came: found, counted once, told to its owner alone.

use ringfence_threat::intel::Trust;

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
        running
            .threat
            .load_bundle(&scope, ("partner", Trust::default()), &bundle(&[(1, EVIL)], modified))
            .await
            .unwrap()
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
    let loaded = threat.load_bundle(&Scope::Host, ("partner", Trust::default()), &both).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_tenant_is_locked_each_start_asks_the_logs_again_and_counts_nothing_twice() {
    let world = World::new().await;
    let audit = world.audit().await;
    let locked: TenantId = "locked".parse().unwrap();
    world.tenants.create(&locked, "Locked").await.unwrap();
    let store = world.tenants.open_tenant(&locked).unwrap();
    let mut event =
        Event::new(codes::EGRESS_REFUSED, "invoke", "locked/ada".parse().unwrap(), "tenant/locked/plugin/p");
    event.details = json!({ "origin": "https://evil.example" });
    audit.record(&Log::Tenant(store), event).await.unwrap();
    world.tenants.disable_key(&locked, "operator/eve", Side::Operator).await.unwrap();
    let evil = json!({ "origin": "https://evil.example" });
    world.record(&audit, codes::EGRESS_REFUSED, evil.clone()).await;
    let (threat, reader) = world.open(audit.clone()).await;
    threat
        .load_bundle(&Scope::Host, ("a", Trust::default()), &bundle(&[(1, EVIL)], "2026-01-01T00:00:00Z"))
        .await
        .unwrap();
    let (stop, stopping) = watch::channel(false);
    let running = Running { threat, audit: audit.clone(), stop, task: tokio::spawn(reader.run(stopping)) };
    let counted = |running: &Running| running.threat.indicators(&Scope::Host)[0].clone();
    eventually("what was there before", async || counted(&running).sightings_count == 1).await;
    // One that is counted as it comes, and would be there before at the next start.
    world.record(&audit, codes::EGRESS_REFUSED, evil.clone()).await;
    eventually("the next", async || counted(&running).sightings_count == 2).await;
    assert!(!counted(&running).past_asked, "one log could not be asked");
    running.stop().await;
    world.tenants.enable_key(&locked, Side::Operator).await.unwrap();
    let running = world.start(audit.clone()).await;
    eventually("the end of it", async || counted(&running).past_asked).await;
    assert_eq!(counted(&running).sightings_count, 3, "those of before once, and that of the log that was locked");
    world.record(&audit, codes::EGRESS_REFUSED, evil).await;
    eventually("one more", async || counted(&running).sightings_count == 4).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_counted_of_a_log_is_not_taken_for_counted_of_a_namesakes() {
    let mut world = World::new().await;
    let audit = world.audit().await;
    // One that cannot be asked, so that it stays noted what of the others is counted.
    let locked: TenantId = "locked".parse().unwrap();
    world.tenants.create(&locked, "Locked").await.unwrap();
    world.tenants.disable_key(&locked, "operator/eve", Side::Operator).await.unwrap();
    let evil = json!({ "origin": "https://evil.example" });
    let running = world.start(audit.clone()).await;
    running
        .threat
        .load_bundle(&Scope::Host, ("a", Trust::default()), &bundle(&[(1, EVIL)], "2026-01-01T00:00:00Z"))
        .await
        .unwrap();
    for _ in 0..3 {
        world.record(&audit, codes::EGRESS_REFUSED, evil.clone()).await;
    }
    let counted = |running: &Running| running.threat.indicators(&Scope::Host)[0].clone();
    eventually("the three", async || counted(&running).sightings_count == 3).await;
    let before = world.acme.uid();
    assert!(counted(&running).counted.contains_key(&before), "{:?}", counted(&running).counted);
    running.stop().await;
    // A host that ended in between told nobody.
    let acme: TenantId = "acme".parse().unwrap();
    world.tenants.delete(&acme).await.unwrap();
    world.tenants.create(&acme, "Acme").await.unwrap();
    world.acme = world.tenants.open_tenant(&acme).unwrap();
    let running = world.start(audit.clone()).await;
    assert!(!counted(&running).counted.contains_key(&before), "nothing is kept of a log that is gone");
    world.record(&audit, codes::EGRESS_REFUSED, evil).await;
    eventually("that of the namesake", async || counted(&running).sightings_count == 4).await;
    running.stop().await;
}

/// Indicators of some names, in one form.
fn names(domains: &[String], modified: &str) -> serde_json::Value {
    let indicator = |(number, domain): (usize, &String)| {
        json!({
            "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{number:03}"), "pattern_type": "stix",
            "pattern": format!("[domain-name:value = '{domain}']"), "valid_from": "2020-01-01T00:00:00Z",
            "modified": modified,
        })
    };
    json!({ "type": "bundle", "id": "bundle--1", "objects": domains.iter().enumerate().map(indicator).collect::<Vec<_>>() })
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_what_was_in_force_stays() {
    let world = World::new().await;
    let (scope, audit) = (world.scope(), world.audit().await);
    let (threat, _reader) = world.open(audit.clone()).await;
    threat.load_bundle(&scope, ("a", Trust::default()), &bundle(&[(1, EVIL)], "2026-01-01T00:00:00Z")).await.unwrap();
    let too_many = |loaded: Result<ringfence_threat::Loaded, ringfence_threat::ThreatError>| {
        assert!(matches!(loaded, Err(ringfence_threat::ThreatError::TooMany { .. })), "{loaded:?}");
        let kept = threat.indicators(&scope);
        assert_eq!((kept.len(), kept[0].id.as_str()), (1, "indicator--1"));
    };
    let long: Vec<String> = (0..2_100).map(|number| format!("{number}{}", "x".repeat(8_000))).collect();
    too_many(threat.load_bundle(&scope, ("a", Trust::default()), &names(&long, "2026-01-01T00:00:00Z")).await);
    let same = vec!["evil.example".to_owned(); ringfence_threat::intel::VALUE_COUNT_MAX];
    too_many(threat.load_bundle(&scope, ("a", Trust::default()), &names(&same, "2026-01-01T00:00:00Z")).await);
    let (again, _reader) = world.open(audit).await;
    assert_eq!(again.indicators(&scope).len(), 1, "nothing of it was kept");
}

#[tokio::test]
async fn of_too_many_that_are_kept_from_before_there_was_a_limit_some_can_be_taken_back() {
    let world = World::new().await;
    let (scope, audit) = (world.scope(), world.audit().await);
    let same = vec!["evil.example".to_owned(); ringfence_threat::intel::VALUE_COUNT_MAX];
    let (threat, _reader) = world.open(audit.clone()).await;
    threat.load_bundle(&scope, ("a", Trust::default()), &names(&same, "2026-01-01T00:00:00Z")).await.unwrap();
    let kept = threat.indicators(&scope).remove(0);
    for number in 900..903 {
        let more = ringfence_threat::intel::Indicator { id: format!("indicator--{number}"), ..(*kept).clone() };
        world.acme.put_json(&Key::new(["threat-indicator", more.id.as_str()]), &more).await.unwrap();
    }
    let (threat, _reader) = world.open(audit).await;
    assert_eq!(threat.indicators(&scope).len(), same.len() + 3);
    let mut revoked = names(&same[..1], "2026-02-01T00:00:00Z");
    revoked["objects"][0]["revoked"] = json!(true);
    threat.load_bundle(&scope, ("a", Trust::default()), &revoked).await.unwrap();
    assert!(threat.indicators(&scope)[0].revoked);
    let mut more = names(&same[..1], "2026-02-01T00:00:00Z");
    more["objects"][0]["id"] = json!("indicator--950");
    let refused = threat.load_bundle(&scope, ("a", Trust::default()), &more).await;
    assert!(matches!(refused, Err(ringfence_threat::ThreatError::TooMany { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_that_was_taken_back_stays_so_whatever_of_the_one_before_is_still_being_written() {
    // More than one write takes.
    const COUNT: usize = 501;
    let faults = Faults::default();
    let world = World::with_faults(faults.clone()).await;
    let (scope, audit) = (world.scope(), world.audit().await);
    let (threat, _reader) = world.open(audit.clone()).await;
    let domains: Vec<String> = (0..COUNT).map(|number| format!("d{number}.example")).collect();
    for domain in &domains {
        world.record(&audit, codes::EGRESS_REFUSED, json!({ "origin": format!("https://{domain}") })).await;
    }
    let load = |bundle: serde_json::Value| {
        let (threat, scope) = (threat.clone(), scope.clone());
        tokio::spawn(async move { threat.load_bundle(&scope, ("a", Trust::default()), &bundle).await })
    };
    faults.hold_flushes();
    let first = load(names(&domains, "2026-01-01T00:00:00Z"));
    // On to the first write of what was seen.
    eventually("the sightings", async || {
        let is_seen = threat.indicators(&scope).iter().filter(|one| one.sightings_count == 1).count() == COUNT;
        let is_held = faults.held_count() == 1;
        if is_held && !is_seen {
            faults.let_one_through();
        }
        is_held && is_seen
    })
    .await;
    let mut revoked = names(&domains, "2026-02-01T00:00:00Z");
    let mut last = revoked["objects"].as_array_mut().unwrap().pop().unwrap();
    last["revoked"] = json!(true);
    let mut second = load(json!({ "type": "bundle", "id": "bundle--2", "objects": [last] }));
    assert!(
        tokio::time::timeout(Duration::from_millis(500), &mut second).await.is_err(),
        "nothing is written meanwhile"
    );
    faults.let_all_through();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let (again, _reader) = world.open(audit).await;
    for threat in [threat, again] {
        let kept = threat.indicators(&scope);
        let last = kept.iter().find(|one| one.id == "indicator--500").unwrap();
        assert!(last.revoked, "it would be matched again");
        assert_eq!(last.sightings_count, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_marked_red_while_it_waits_to_be_told_is_not_told_to_tenants() {
    let world = World::new().await;
    let (scope, audit) = (world.scope(), world.audit().await);
    let domains: Vec<String> = (0..3).map(|number| format!("d{number}.example")).collect();
    // Before anybody reads along: it is found by looking back alone.
    for domain in &domains {
        world.record(&audit, codes::EGRESS_REFUSED, json!({ "origin": format!("https://{domain}") })).await;
    }
    let (threat, reader) = world.open(audit.clone()).await;
    threat.load_bundle(&Scope::Host, ("a", Trust::default()), &names(&domains, "2026-01-01T00:00:00Z")).await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let running = Running { threat, audit, stop, task: tokio::spawn(reader.run(stopping)) };
    let told = async || -> Vec<String> {
        let all = running.threat.findings(&scope).await.unwrap();
        all.into_iter().flat_map(|one| one.group).map(|(_, id)| id).filter(|id| id.starts_with("indicator")).collect()
    };
    // One is told every three seconds, in the order of their ids.
    eventually("the first", async || told().await == ["indicator--000"]).await;
    let mut red = names(&domains, "2026-02-01T00:00:00Z");
    red["objects"].as_array_mut().unwrap().retain(|one| one["id"] == "indicator--001");
    red["objects"][0]["object_marking_refs"] = json!(["marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"]);
    running.threat.load_bundle(&Scope::Host, ("a", Trust::default()), &red).await.unwrap();
    eventually("the third", async || told().await.contains(&"indicator--002".to_owned())).await;
    assert!(!told().await.contains(&"indicator--001".to_owned()), "{:?}", told().await);
    running.stop().await;
}
