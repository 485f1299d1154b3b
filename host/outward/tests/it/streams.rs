//! Streams of the log: every entry, in order, at least once; what fails, stops, restarts and is deleted.

use std::time::Duration;

use data_encoding::BASE64;
use ringfence_audit::{Event, Log, Outcome, Swept, codes};
use ringfence_core::{Role, TenantId};
use ringfence_keys::{SecretBytes, sign_shared};
use ringfence_outward::{Carries, DESTINATIONS_COUNT_MAX, OutwardError, Pace, Switch, Wanted, WantedChange};
use ringfence_store::Key;
use ringfence_threat::Scope;
use serde_json::{Value, json};

use crate::server::{Reply, Server, reply};
use crate::world::{PACE, World, acme, ada, eventually, webhook};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_arrive_signed_in_order_and_once_each() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    let made = world.stream("siem", server.url()).await;
    world.record(codes::SECRET_WRITTEN, 450).await;
    eventually("all entries", async || server.seqs().len() == 450).await;
    assert_eq!(server.seqs(), (0..450).collect::<Vec<u64>>());
    let secret = made.secret.unwrap();
    let bytes = BASE64.decode(secret.expose().strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
    for got in server.got() {
        let signed =
            format!("{}.{}.{}", got.header("webhook-id").unwrap(), got.header("webhook-timestamp").unwrap(), got.body);
        let tag = BASE64.encode(&sign_shared(&SecretBytes::new(bytes.clone()), signed.as_bytes()));
        assert_eq!(got.header("webhook-signature").unwrap(), format!("v1,{tag}"));
        let body = got.json();
        assert_eq!(body["type"], "ringfence.audit");
        assert_eq!(body["log"], "host.example/audit/tenant/acme");
        assert!(body["events"].as_array().unwrap().len() <= 200);
    }
    eventually("the place", async || world.view(Carries::Audit, "siem").await.progress.next_seq == 450).await;
    let view = world.view(Carries::Audit, "siem").await;
    assert_eq!((view.progress.delivered_count, view.behind_count), (450, Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_taken_is_sent_again_under_the_same_id() {
    let world = World::new().await;
    world.record(codes::SECRET_WRITTEN, 3).await;
    let server = Server::start(|number, _| match number {
        0 => reply(503, "", ""),
        1 => Reply::Bytes(Vec::new()),
        2 => Reply::Hang,
        _ => reply(200, "", ""),
    })
    .await;
    world.stream("s", server.url()).await;
    eventually("the arrival", async || world.view(Carries::Audit, "s").await.progress.delivered_count == 3).await;
    let got = server.got();
    assert_eq!(got.len(), 4);
    let ids: Vec<String> = got.iter().map(|got| got.header("webhook-id").unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && !id.contains('.')), "{ids:?}");
    assert_eq!(world.view(Carries::Audit, "s").await.progress.failures, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_after_a_restart_where_it_stopped() {
    let mut world = World::new().await;
    let server = Server::taking_all().await;
    world.stream("s", server.url()).await;
    world.record(codes::SECRET_WRITTEN, 5).await;
    eventually("the first", async || server.seqs().len() == 5).await;
    world.outward.drain(Duration::from_secs(5)).await;
    world.record(codes::SECRET_WRITTEN, 5).await;
    world.restart().await;
    eventually("the rest", async || server.seqs().len() == 10).await;
    assert_eq!(server.seqs(), (0..10).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_receiver_is_left_alone_it_is_said_on_the_log_and_it_goes_on_when_changed() {
    let world = World::new().await;
    let dead = Server::start(|_, _| reply(500, "", "")).await;
    world.stream("s", dead.url()).await;
    world.record(codes::SECRET_WRITTEN, 2).await;
    eventually("the pause", async || world.view(Carries::Audit, "s").await.destination.paused.is_some()).await;
    let view = world.view(Carries::Audit, "s").await;
    assert_eq!((view.progress.failures, view.progress.next_seq), (6, 0));
    assert!(view.destination.paused.unwrap().why.contains("500"));
    let entries = world.audit.list(&world.log(), 2, 10).await.unwrap();
    let paused = entries[0].body.as_ref().unwrap();
    assert_eq!(paused["unmapped"]["code"], codes::DESTINATION_PAUSED);
    assert_eq!(paused["unmapped"]["details"]["destination"], "s");
    assert_eq!(dead.got().len(), 6);
    let alive = Server::taking_all().await;
    let to = Some(Wanted { from_seq: None, ..webhook(alive.url()) });
    world.outward.change(&acme(), (Carries::Audit, "s"), WantedChange { to, switch: None }).await.unwrap();
    eventually("what had waited", async || alive.seqs().starts_with(&[0, 1, 2])).await;
    assert!(world.view(Carries::Audit, "s").await.destination.paused.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_gone_is_not_asked_twice_even_after_a_restart() {
    let mut world = World::new().await;
    let gone = Server::start(|_, _| reply(410, "", "")).await;
    world.stream("s", gone.url()).await;
    world.record(codes::SECRET_WRITTEN, 1).await;
    eventually("the pause", async || world.view(Carries::Audit, "s").await.destination.paused.is_some()).await;
    world.restart().await;
    world.record(codes::SECRET_WRITTEN, 1).await;
    assert!(world.view(Carries::Audit, "s").await.destination.paused.is_some());
    assert_eq!(gone.got().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_holds_up_no_other() {
    let world = World::new().await;
    let (hangs, takes) = (Server::start(|_, _| Reply::Hang).await, Server::taking_all().await);
    world.stream("hangs", hangs.url()).await;
    world.stream("takes", takes.url()).await;
    world.record(codes::SECRET_WRITTEN, 20).await;
    eventually("the others", async || takes.seqs().len() == 20).await;
    assert!(hangs.got().len() <= 2);
    assert_eq!(world.view(Carries::Audit, "hangs").await.progress.next_seq, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_whose_receivers_hang_hold_no_other_owner_up() {
    // Longer than anything here is waited for: nobody's turn comes because a receiver was given up.
    let world = World::at(Pace { answer: Duration::from_secs(600), ..PACE }, None).await;
    let (hangs, takes) = (Server::start(|_, _| Reply::Hang).await, Server::taking_all().await);
    let mut owners = Vec::new();
    for number in 0..8 {
        let name = format!("slow{number}");
        let id: TenantId = name.parse().unwrap();
        world.tenants.create(&id, &name).await.unwrap();
        let owner = Scope::Tenant(id.clone());
        // As many of all of them as there are places of all owners together.
        for number in 0..DESTINATIONS_COUNT_MAX {
            let place = (Carries::Audit, format!("s{number}").parse().unwrap());
            world.outward.create(&owner, place, &ada(), webhook(hangs.url())).await.unwrap();
        }
        let store = world.tenants.open_tenant(&id).unwrap();
        let event = Event::new(codes::SECRET_WRITTEN, "write-secret", format!("{name}/bob").parse().unwrap(), "store");
        world.audit.record(&Log::Tenant(store), event).await.unwrap();
        owners.push(owner);
    }
    eventually("four of each", async || hangs.got().len() == 32).await;
    world.stream("takes", takes.url()).await;
    world.record(codes::SECRET_WRITTEN, 3).await;
    eventually("the ninth's", async || takes.seqs() == [0, 1, 2]).await;
    // Trials as well: one of each owner, and a second one is told so.
    for owner in owners.clone() {
        let outward = world.outward.clone();
        tokio::spawn(async move { outward.test(&owner, Carries::Audit, "s0").await });
    }
    eventually("a trial of each", async || hangs.got().len() == 40).await;
    let second = world.outward.test(&owners[0], Carries::Audit, "s1").await;
    assert!(matches!(second, Err(OutwardError::Busy)));
    assert!(world.outward.test(&acme(), Carries::Audit, "takes").await.unwrap().is_delivered);
    assert_eq!(hangs.got().len(), 40, "who hangs has four places and a trial");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_may_not_see_is_not_carried_and_says_so() {
    let world = World::new().await;
    let (less, all) = (Server::taking_all().await, Server::taking_all().await);
    world.stream("less", less.url()).await;
    let sees = Some(Role::TenantAdmin.to_string());
    world.make(Carries::Audit, "all", Wanted { sees, ..webhook(all.url()) }).await.unwrap();
    let mut event = Event::new(codes::RESPONSE_MADE, "respond-threat", ada(), "acme");
    event.source_ip = Some("203.0.113.7".parse().unwrap());
    event.details = json!({ "target": { "source": "203.0.113.8" } });
    world.audit.record(&world.log(), event).await.unwrap();
    eventually("both", async || less.events().len() == 1 && all.events().len() == 1).await;
    let (less, all) = (less.events().remove(0), all.events().remove(0));
    assert_eq!(less["redacted"], json!(["src_endpoint", "unmapped.details.target.source"]));
    assert!(less.get("salt").is_none() && !less.to_string().contains("203.0.113."), "{less}");
    assert_eq!(all["body"]["src_endpoint"]["ip"], "203.0.113.7");
    assert!(all["salt"].is_string());
    let more = Wanted { sees: Some("operator".into()), ..webhook("https://hook.example/".into()) };
    assert!(matches!(world.make(Carries::Audit, "more", more).await, Err(OutwardError::BadDestination { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_has_its_own_destinations_so_many_and_a_deleted_one_gets_nothing() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    for number in 0..DESTINATIONS_COUNT_MAX {
        world.stream(&format!("s{number}"), "https://hook.example/".into()).await;
    }
    let refused = world.make(Carries::Alerts, "more", webhook(server.url())).await;
    assert!(matches!(refused, Err(OutwardError::TooMany { .. })));
    let again = world.make(Carries::Audit, "s0", webhook(server.url())).await;
    assert!(matches!(again, Err(OutwardError::Exists)));
    let globex = Scope::Tenant("globex".parse().unwrap());
    assert!(world.outward.list(&globex, Carries::Audit).await.is_empty());
    assert!(matches!(world.outward.read(&globex, Carries::Audit, "s0").await, Err(OutwardError::NotFound)));
    assert!(matches!(world.outward.delete(&globex, Carries::Audit, "s0").await, Err(OutwardError::NotFound)));
    world.outward.delete(&acme(), Carries::Audit, "s0").await.unwrap();
    world.stream("s0", server.url()).await;
    world.record(codes::SECRET_WRITTEN, 1).await;
    eventually("the entry", async || server.seqs() == [0]).await;
    world.outward.delete(&acme(), Carries::Audit, "s0").await.unwrap();
    world.record(codes::SECRET_WRITTEN, 1).await;
    assert_eq!(server.seqs(), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_off_carries_nothing_and_catches_up_when_it_is_on() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    world.stream("s", server.url()).await;
    let switch = async |switch| {
        let change = WantedChange { to: None, switch: Some(switch) };
        world.outward.change(&acme(), (Carries::Audit, "s"), change).await.unwrap();
    };
    switch(Switch::Off).await;
    world.record(codes::SECRET_WRITTEN, 3).await;
    assert_eq!(world.view(Carries::Audit, "s").await.behind_count, Some(3));
    assert!(server.got().is_empty());
    switch(Switch::On).await;
    eventually("the rest", async || server.seqs() == [0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_moves_nothing_on_and_a_new_secret_ends_the_old_one() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    let made = world.stream("s", server.url()).await;
    let tested = world.outward.test(&acme(), Carries::Audit, "s").await.unwrap();
    assert!(tested.is_delivered);
    assert_eq!(server.events()[0]["test"], true);
    assert_eq!(world.view(Carries::Audit, "s").await.progress.next_seq, 0);
    let renewed = world.outward.renew_secret(&acme(), Carries::Audit, "s").await.unwrap();
    let first = made.secret.unwrap();
    assert_ne!(first.expose(), renewed.expose());
    assert_eq!(format!("{renewed:?}"), "<secret>");
    let tested = world.outward.test(&acme(), Carries::Audit, "s").await.unwrap();
    assert!(tested.is_delivered);
    let got = server.got().pop().unwrap();
    let tag = |secret: &str| {
        let bytes = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let id = got.header("webhook-id").unwrap();
        let signed = format!("{id}.{}.{}", got.header("webhook-timestamp").unwrap(), got.body);
        format!("v1,{}", BASE64.encode(&sign_shared(&SecretBytes::new(bytes), signed.as_bytes())))
    };
    assert_eq!(got.header("webhook-signature").unwrap(), tag(renewed.expose()));
    assert_ne!(got.header("webhook-signature").unwrap(), tag(first.expose()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_are_told_and_drills_are_marked_as_drills() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    world.make(Carries::Alerts, "people", webhook(server.url())).await.unwrap();
    world.record(codes::SECRET_WRITTEN, 30).await;
    world.record(codes::CANARY_TOUCHED, 1).await;
    eventually("the finding", async || !server.events().is_empty()).await;
    let told = server.events().remove(0);
    assert_eq!((told["rule"].as_str(), told["drill"].is_null()), (Some("canary"), true));
    assert!(told["finding"].as_str().unwrap().starts_with("f_"));
    assert_eq!(server.got()[0].json()["type"], "ringfence.alerts");
    let report = world.threat.drill(&acme(), 1).await.unwrap();
    eventually("the drill's findings", async || {
        let drills = server.events().iter().filter(|event| event["drill"].is_string()).count();
        drills >= report.drilled.len()
    })
    .await;
    assert!(server.events().iter().skip(1).all(|event| event["drill"].is_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_tells_an_auditor_of_a_finding_and_not_from_where_it_was() {
    let world = World::new().await;
    world.record(codes::CANARY_TOUCHED, 1).await;
    // The record is there before it is carried, so that all of it is.
    eventually("the finding", async || world.threat.findings(&acme()).await.unwrap().len() == 1).await;
    let (less, all) = (Server::taking_all().await, Server::taking_all().await);
    world.make(Carries::Alerts, "less", webhook(less.url())).await.unwrap();
    let sees = Some(Role::TenantAdmin.to_string());
    world.make(Carries::Alerts, "all", Wanted { sees, ..webhook(all.url()) }).await.unwrap();
    eventually("both", async || less.events().len() == 1 && all.events().len() == 1).await;
    let (less, all) = (less.events().remove(0), all.events().remove(0));
    assert_eq!((&less["rule"], &all["rule"]), (&json!("canary"), &json!("canary")));
    assert!(less["title"].is_string() && !less.to_string().contains("203.0.113.7"), "{less}");
    assert_eq!(all["source"], "203.0.113.7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_alerts_people_is_heard_once_and_only_when_it_is_made() {
    let world = World::new().await;
    let (less, all) = (Server::taking_all().await, Server::taking_all().await);
    world.make(Carries::Alerts, "less", webhook(less.url())).await.unwrap();
    let sees = Some(Role::TenantAdmin.to_string());
    world.make(Carries::Alerts, "all", Wanted { sees, ..webhook(all.url()) }).await.unwrap();
    let made = async |kind: &str, reason: &str, outcome: Outcome| {
        let mut event = Event::new(codes::RESPONSE_MADE, "respond-threat", ada(), "acme");
        let target = json!({ "tenant": "acme", "source": "203.0.113.8" });
        event.details = json!({ "response": "rs_a", "kind": kind, "reason": reason, "target": target });
        let intent = world.audit.intent(&world.log(), event).await.unwrap();
        intent.outcome(outcome, Value::Null).await.unwrap();
    };
    made("alert", "not this", Outcome::Failure("conflict".to_owned())).await;
    made("block-source", "nor this", Outcome::Success).await;
    made("alert", "look at the door", Outcome::Success).await;
    world.record(codes::CANARY_TOUCHED, 1).await;
    eventually("both", async || less.events().len() == 2 && all.events().len() == 2).await;
    let (less, all) = (less.events().remove(0), all.events().remove(0));
    for told in [&less, &all] {
        assert_eq!(
            (told["title"].as_str(), told["kind"].as_str()),
            (Some("look at the door"), Some("alert")),
            "{told}"
        );
        assert_eq!((told["response"].as_str(), told["actor"].as_str()), (Some("rs_a"), Some("acme/ada")), "{told}");
    }
    assert_eq!((&less["target"], &all["target"]["source"]), (&json!({ "tenant": "acme" }), &json!("203.0.113.8")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_tenant_does_not_speak_as_the_tenant_until_somebody_says_so() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    world.stream("s", server.url()).await;
    let (id, record) = ("globex".parse().unwrap(), Key::new(["outward", "audit", "s"]));
    let kept = world.acme.get(&record).await.unwrap().unwrap();
    let copy = world.tenants.open_tenant(&id).unwrap();
    copy.put(&record, kept.value.to_vec()).await.unwrap();
    let globex = Scope::Tenant(id);
    world.outward.open(&globex).await;
    let view = world.outward.read(&globex, Carries::Audit, "s").await.unwrap();
    assert!(view.destination.paused.unwrap().why.contains("backup of another tenant"));
    let event = Event::new(codes::SECRET_WRITTEN, "write-secret", "globex/bob".parse().unwrap(), "tenant/globex");
    world.audit.record(&Log::Tenant(copy), event).await.unwrap();
    world.outward.change(&globex, (Carries::Audit, "s"), WantedChange::default()).await.unwrap();
    eventually("the entry", async || server.events().len() == 1).await;
    assert_eq!(server.got()[0].json()["log"], "host.example/audit/tenant/globex");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_passed_over_and_said_and_stops_nobody() {
    let world = World::new().await;
    let (server, people) = (Server::taking_all().await, Server::taking_all().await);
    world.record(codes::SECRET_WRITTEN, 60).await;
    for seq in [7, 8, 40] {
        world.acme.delete(&Key::new(["audit"]).number(seq)).await.unwrap();
    }
    world.stream("s", server.url()).await;
    eventually("the rest", async || server.seqs().contains(&59)).await;
    let carried: Vec<u64> = (0..60).filter(|seq| *seq != 8).collect();
    assert_eq!(server.seqs(), carried);
    let uncarried: Vec<Value> = server.events().iter().map(|event| event["uncarried"].clone()).collect();
    let uncarried: Vec<Value> = uncarried.into_iter().filter(Value::is_object).collect();
    assert_eq!(uncarried, [json!({ "from": 7, "to": 9 }), json!({ "from": 40, "to": 41 })]);
    world.make(Carries::Alerts, "people", webhook(people.url())).await.unwrap();
    world.record(codes::CANARY_TOUCHED, 1).await;
    let is_canary = |event: &Value| event["rule"] == "canary";
    eventually("the finding", async || people.events().iter().any(is_canary)).await;
    assert_eq!(people.events()[0]["uncarried"], json!({ "from": 7, "to": 9 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_after_its_retention_is_passed_over_and_said() {
    const DAY_MS: i64 = 24 * 3_600 * 1_000;
    let world = World::new().await;
    let (server, later) = (Server::taking_all().await, Server::taking_all().await);
    world.stream("s", server.url()).await;
    let switch = async |switch| {
        let change = WantedChange { to: None, switch: Some(switch) };
        world.outward.change(&acme(), (Carries::Audit, "s"), change).await.unwrap();
    };
    switch(Switch::Off).await;
    world.record(codes::SECRET_WRITTEN, 300).await;
    world.clock.on(8 * 365 * DAY_MS);
    world.record(codes::SECRET_WRITTEN, 5).await;
    assert_eq!(world.audit.sweep(&world.log()).await.unwrap(), Swept::Announced);
    world.clock.on(8 * DAY_MS);
    while world.audit.sweep(&world.log()).await.unwrap() == Swept::Deleting {}
    let first = world.audit.first(&world.log()).await.unwrap();
    assert!(first > 0);
    switch(Switch::On).await;
    eventually("the rest", async || server.seqs().contains(&first)).await;
    assert_eq!(server.events()[0]["uncarried"], json!({ "from": 0, "to": first }));
    assert_eq!(server.seqs()[..2], [0, first]);
    world.stream("later", later.url()).await;
    eventually("what is left", async || !later.seqs().is_empty()).await;
    assert_eq!(later.seqs()[0], first);
}
