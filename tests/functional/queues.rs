//! What goes when in a queue, and how many at a time, through the real binary; and what a plugin is told by a full one.

use std::collections::BTreeSet;

use anyhow::Result;
use reqwest::Method;
use ringfence_tests::{Host, Place, Tenant, answer, eventually};
use serde_json::{Value, json};

use crate::automation::{ask, bind, declare, noted, point, queue, send, tenant_with};
use crate::invocations::ship_hostile_as;
use crate::started;

/// Puts messages into the queue `work` while it rests, and lets it go.
async fn all_at_once(acme: &Tenant, mut settings: Value, messages: &[Value]) -> Result<()> {
    settings["paused"] = json!(true);
    queue(acme, "work", settings.clone()).await?;
    for message in messages {
        send(acme, "work", message).await?;
    }
    settings["paused"] = json!(false);
    queue(acme, "work", settings).await?;
    let done = messages.len().to_string();
    eventually("all messages", async || Ok(noted(acme, "taker", "noted").await? == done)).await
}

fn lines_up(name: &str) -> Value {
    json!({ "payload": { "do": "line-up", "name": name } })
}

#[tokio::test]
async fn a_group_keeps_its_order_while_its_first_fails_and_other_groups_go_on_beside() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    let of_group = |group: &str, mut message: Value, priority: u8| {
        (message["group"], message["priority"]) = (json!(group), json!(priority));
        message
    };
    // It fails until the last of the other group is through, and those behind it would go first by their priority.
    let mut first = lines_up("a1");
    first["payload"]["after"] = json!("b2");
    let messages = [
        of_group("a", first, 1),
        of_group("a", lines_up("a2"), 5),
        of_group("a", lines_up("a3"), 9),
        of_group("b", lines_up("b1"), 1),
        of_group("b", lines_up("b2"), 9),
    ];
    let settings = json!({ "plugin": "taker", "concurrency_count": 4, "attempts_max": 100, "backoff_ms": 50, "backoff_ms_max": 200 });
    all_at_once(&acme, settings, &messages).await?;
    assert_eq!(noted(&acme, "taker", "line").await?, "b1 b2 a1 a2 a3 ");
    Ok(())
}

/// Its plugin may have the memory, and the host has none left: that is tried again and costs no attempt, nor an entry on the log.
#[tokio::test]
async fn a_message_that_the_host_has_no_room_for_waits_for_it_and_others_go_on() -> Result<()> {
    let place = Place::new()?;
    let sizes = [("RINGFENCE_ENGINE_MEMORY_MIB", "19"), ("RINGFENCE_ENGINE_MEMORY_MIB_MAX", "16")];
    let host = Host::start_with(&place, &[], &sizes)?;
    let operator = host.operator().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    ship_hostile_as(&acme, "keeper", "[budget]\ncpu_ms = 2000\ntime_ms = 60000\nmemory_mib = 64\n").await?;
    let held = tokio::spawn(acme.admin.call(Method::GET, "/acme/keeper/memory-hold?mib=7").send());
    eventually("memory is held", async || {
        let now = answer(acme.admin.get("/tenants/acme/quota").send().await?).await?;
        Ok(now["use"]["memory_bytes"].as_u64() >= Some(7 << 20))
    })
    .await?;
    queue(&acme, "work", json!({ "plugin": "taker", "attempts_max": 1 })).await?;
    send(&acme, "work", &json!({ "payload": { "do": "take", "mib": 10, "name": "large" } })).await?;
    let tries = |text: String| text.parse::<u32>().unwrap_or(0);
    eventually("a second try", async || Ok(tries(noted(&acme, "taker", "attempts-large").await?) >= 2)).await?;
    send(&acme, "work", &json!({ "payload": { "do": "count", "name": "small" } })).await?;
    eventually("the small one", async || Ok(noted(&acme, "taker", "noted").await? == "1")).await?;
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(!log.contains("INV-002") && !log.contains("INV-003"), "{log}");
    assert!(!held.is_finished(), "the memory was held until here");
    // Who called goes away, and with him what was held for him.
    held.abort();
    eventually("the large one", async || Ok(noted(&acme, "taker", "noted").await? == "2")).await
}

#[tokio::test]
async fn a_higher_priority_goes_first_and_the_same_one_in_order() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    let messages = [("low", 0), ("usual", 4), ("usual-too", 4), ("high", 9), ("higher-than-usual", 5)]
        .map(|(name, priority)| json!({ "payload": lines_up(name)["payload"], "priority": priority }));
    all_at_once(&acme, json!({ "plugin": "taker", "concurrency_count": 1 }), &messages).await?;
    assert_eq!(noted(&acme, "taker", "line").await?, "high higher-than-usual usual usual-too low ");
    Ok(())
}

#[tokio::test]
async fn as_many_messages_are_handed_over_together_as_the_queue_says_and_no_more() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    // Three wait for each other, so that fewer would never be done; a fourth would be counted.
    let messages = vec![json!({ "payload": { "do": "meet", "count": 3 } }); 9];
    all_at_once(&acme, json!({ "plugin": "taker", "concurrency_count": 3 }), &messages).await?;
    assert_eq!(noted(&acme, "taker", "most").await?, "3");
    Ok(())
}

#[tokio::test]
async fn a_plugin_is_told_that_a_queue_is_full_and_its_message_is_taken_when_there_is_room() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["sender", "taker"]).await?;
    let full = json!({ "plugin": "taker", "paused": true, "depth_count_max": 1 });
    queue(&acme, "work", full).await?;
    declare(&operator, "t.point", &point("collect", "closed")).await?;
    bind(&acme, "t.point", "sender", json!({})).await?;
    let sent = async || ask(&acme, "t.point", json!({ "do": "send" })).await;
    assert_eq!(sent().await?["outcome"], "passed");
    let refused = sent().await?;
    assert_eq!((&refused["outcome"], &refused["steps"][0]["code"]), (&json!("failed"), &json!("plugin-failed")));
    let told = refused["steps"][0]["detail"].as_str().unwrap_or_default();
    let wait_ms = told.strip_prefix("queue `work` is full for ").and_then(|rest| rest.strip_suffix(" ms"));
    assert!(wait_ms.and_then(|ms| ms.parse::<u64>().ok()).is_some_and(|ms| ms > 0), "{refused}");
    let path = acme.path("/queues/work");
    assert_eq!(answer(acme.admin.get(&path).send().await?).await?["depth_count"], 1);

    queue(&acme, "work", json!({ "plugin": "taker", "depth_count_max": 1 })).await?;
    eventually("the first is done", async || Ok(noted(&acme, "taker", "noted").await? == "1")).await?;
    eventually("there is room", async || Ok(answer(acme.admin.get(&path).send().await?).await?["depth_count"] == 0))
        .await?;
    assert_eq!(sent().await?["outcome"], "passed");
    eventually("the second is done", async || Ok(noted(&acme, "taker", "noted").await? == "2")).await
}

#[tokio::test]
async fn messages_that_send_messages_end_at_their_depth_and_say_what_led_to_them() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = tenant_with(&host, &operator, "acme", &["taker"]).await?;
    queue(&acme, "work", json!({ "plugin": "taker", "attempts_max": 1 })).await?;
    send(&acme, "work", &json!({ "payload": { "do": "send-on", "name": "row" } })).await?;
    let dead = async || answer(acme.admin.get(&acme.path("/queues/work/dead")).send().await?).await;
    eventually("the last is refused", async || Ok(dead().await?["items"].as_array().map(Vec::len) == Some(1))).await?;
    let why = dead().await?["items"][0].to_string();
    assert!(why.contains("16 messages led to this one"), "{why}");
    assert_eq!(noted(&acme, "taker", "attempts-row").await?, "17");
    assert_eq!(noted(&acme, "taker", "noted").await?, "16");

    let handed_over = async || -> Result<Vec<Value>> {
        let path = acme.path("/plugins/taker/invocations?limit=100");
        let page = answer(acme.admin.get(&path).send().await?).await?;
        let all = page["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|one| one["cause"] == "queue/work").collect())
    };
    eventually("all are recorded", async || Ok(handed_over().await?.len() == 17)).await?;
    let records = handed_over().await?;
    let (first, led): (Vec<&Value>, Vec<&Value>) = records.iter().partition(|one| one["root"].is_null());
    assert_eq!((first.len(), led.len()), (1, 16), "{records:?}");
    assert!(led.iter().all(|one| one["root"] == first[0]["id"] && one["on_behalf_of"].is_null()), "{records:?}");
    // Each was sent by another one, and nobody sent two.
    let senders: BTreeSet<&str> = led.iter().filter_map(|one| one["caused_by"].as_str()).collect();
    let ids: BTreeSet<&str> = records.iter().filter_map(|one| one["id"].as_str()).collect();
    assert!(senders.len() == 16 && senders.is_subset(&ids), "{records:?}");
    Ok(())
}
