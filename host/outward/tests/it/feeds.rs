//! Feeds: a TAXII server in order, and those that hang, lie, loop or send rubbish.

use std::time::Duration;

use ringfence_keys::Secret;
use ringfence_outward::{FEEDS_COUNT_MAX, FeedView, OutwardError, Pace, WantedFeed};
use ringfence_threat::Scope;
use ringfence_threat::intel::{Trust, Use};
use serde_json::{Value, json};

use crate::server::{Got, Reply, Server, reply};
use crate::world::{PACE, World, acme, ada, eventually};

const TAXII: &str = "content-type: application/taxii+json;version=2.1\r\n";

fn wanted(server: &Server) -> WantedFeed {
    WantedFeed {
        url: format!("http://{}/api1", server.address),
        collection: "91a7b528".into(),
        authorization: Some(Secret::new("Basic dTpw".to_owned())),
        every_seconds: None,
        trust: Trust::default(),
    }
}

async fn put(world: &World, server: &Server) -> FeedView {
    world.outward.put_feed(&acme(), "isac".parse().unwrap(), &ada(), wanted(server)).await.unwrap()
}

fn feed(world: &World) -> FeedView {
    world.outward.feeds(&acme()).remove(0)
}

fn indicator(number: u8) -> Value {
    json!({
        "type": "indicator", "spec_version": "2.1", "id": format!("indicator--{number:08}-0000-4000-8000-000000000000"),
        "created": "2026-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z", "valid_from": "2026-01-01T00:00:00Z",
        "name": format!("n{number}"), "pattern_type": "stix", "pattern": format!("[ipv4-addr:value = '198.51.100.{number}']"),
    })
}

fn page(objects: &[Value], more: bool, next: Option<&str>, added_last: &str) -> Reply {
    let mut body = json!({ "objects": objects, "more": more });
    if let Some(next) = next {
        body["next"] = json!(next);
    }
    reply(200, &format!("{TAXII}x-taxii-date-added-last: {added_last}\r\n"), &body.to_string())
}

fn query(got: &Got, name: &str) -> Option<String> {
    let url: url::Url = format!("http://x{}", got.target).parse().unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_taken_in_order_in_force_and_the_next_poll_asks_for_what_is_newer() {
    let world = World::new().await;
    assert!(world.outward.feeds(&acme()).is_empty());
    let server = Server::start(|number, _| match number {
        0 => page(&[indicator(1)], true, Some("p2"), "2026-02-01T00:00:00.000001Z"),
        1 => page(&[indicator(2), indicator(3)], false, None, "2026-02-02T00:00:00Z"),
        _ => page(&[], false, None, "2026-02-02T00:00:00Z"),
    })
    .await;
    put(&world, &server).await;
    eventually("the first poll", async || feed(&world).freshness == "fresh").await;
    assert_eq!(world.threat.indicators(&acme()).len(), 3);
    assert!(world.threat.indicators(&acme()).iter().all(|one| one.feed == "isac"));
    let state = feed(&world).state;
    assert_eq!((state.objects_count, state.failures), (3, 0));
    assert!(state.active_after_us.is_some());
    let got = server.got();
    assert!(got[0].target.starts_with("/api1/collections/91a7b528/objects/?"), "{}", got[0].target);
    assert_eq!(got[0].header("accept").unwrap(), "application/taxii+json;version=2.1");
    assert_eq!(got[0].header("authorization").unwrap(), "Basic dTpw");
    assert_eq!((query(&got[0], "added_after"), query(&got[0], "next")), (None, None));
    assert_eq!(query(&got[1], "next").unwrap(), "p2");
    world.outward.poll_feed(&acme(), "isac").await.unwrap();
    assert_eq!(query(&server.got()[2], "added_after").unwrap(), "2026-02-02T00:00:00Z");
    // And the host's log has an intent and an outcome for each page that brought something.
    let entries = world.audit.list(&world.log(), 0, 100).await.unwrap();
    let loads = entries.iter().filter(|entry| entry.envelope.contains("THR-009")).count();
    assert_eq!(loads, 4);
    world.outward.delete_feed(&acme(), "isac").await.unwrap();
    assert!(world.outward.feeds(&acme()).is_empty());
    assert!(matches!(world.outward.poll_feed(&acme(), "isac").await, Err(OutwardError::NotFound)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_believed_less_takes_what_came_of_it_before_out_of_force() {
    let world = World::new().await;
    let server = Server::start(|number, _| {
        let objects = if number == 0 { vec![indicator(1)] } else { Vec::new() };
        page(&objects, false, None, "2026-02-01T00:00:00Z")
    })
    .await;
    put(&world, &server).await;
    let state = || world.threat.indicators(&acme()).first().map(|one| (one.trust, one.used.clone()));
    eventually("the indicator", async || state() == Some((Trust::default(), Use::Matched))).await;
    // Its source states no confidence: 50 is assumed, and under the new floor.
    let trust = Trust::of(Some(51), Some(7)).unwrap();
    let less = WantedFeed { trust, ..wanted(&server) };
    let view = world.outward.put_feed(&acme(), "isac".parse().unwrap(), &ada(), less).await.unwrap();
    assert_eq!(view.feed.trust, trust);
    eventually("the floor", async || state().is_some_and(|(of, used)| of == trust && matches!(used, Use::NotUsed(_))))
        .await;
}

/// What becomes of a feed whose server answers like this; how often it was asked.
async fn fails(say: impl Fn(usize, &Got) -> Reply + Send + Sync + 'static) -> (String, usize) {
    let world = World::new().await;
    let server = Server::start(say).await;
    put(&world, &server).await;
    eventually("the failure", async || feed(&world).state.failures > 0).await;
    assert_eq!(feed(&world).freshness, "unknown", "it has never answered in order");
    (feed(&world).state.last_error.unwrap(), server.got().len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_given_up() {
    let (why, count) = fails(|_, _| Reply::Hang).await;
    assert_eq!((why.as_str(), count), ("it does not answer in time", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_that_hang_hold_up_no_other_owners() {
    let world = World::at(Pace { answer: Duration::from_secs(600), ..PACE }, None).await;
    let hangs = Server::start(|_, _| Reply::Hang).await;
    for number in 0..FEEDS_COUNT_MAX {
        let name = format!("f{number}").parse().unwrap();
        world.outward.put_feed(&acme(), name, &ada(), wanted(&hangs)).await.unwrap();
    }
    eventually("two of them", async || hangs.got().len() == 2).await;
    let answers = Server::start(|_, _| page(&[], false, None, "2026-02-02T00:00:00Z")).await;
    let globex = Scope::Tenant("globex".parse().unwrap());
    world.outward.put_feed(&globex, "isac".parse().unwrap(), &ada(), wanted(&answers)).await.unwrap();
    eventually("the other's", async || world.outward.feeds(&globex)[0].freshness == "fresh").await;
    assert_eq!(hangs.got().len(), 2, "one owner has two pages at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lies_about_sizes_is_not_believed() {
    let head = |length: usize| {
        format!("HTTP/1.1 200 OK\r\n{TAXII}content-length: {length}\r\n\r\n{{\"objects\":[").into_bytes()
    };
    let (why, _) = fails(move |_, _| Reply::Bytes(head(1_000))).await;
    assert_eq!(why, "it breaks off, or does not speak HTTP");
    let (why, _) = fails(|_, _| reply(200, TAXII, &" ".repeat((4 << 20) + 1))).await;
    assert_eq!(why, format!("its answer is over {} bytes", 4 << 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_leads_in_a_circle_is_left() {
    let (why, count) = fails(|number, _| {
        page(&[indicator(u8::try_from(number % 200).unwrap())], true, Some("p2"), "2026-02-01T00:00:00Z")
    })
    .await;
    assert_eq!((why.as_str(), count), ("the server leads back to where it was", 2));
    let (why, count) = fails(|number, _| {
        let next = if number % 2 == 0 { "a" } else { "b" };
        page(&[indicator(1)], true, Some(next), "2026-02-01T00:00:00Z")
    })
    .await;
    assert_eq!((why.as_str(), count), ("the server leads back to where it was", 3));
    let (why, _) = fails(|_, _| page(&[], true, Some("p"), "2026-02-01T00:00:00Z")).await;
    assert_eq!(why, "the server says that there is more, and sends nothing");
    let (why, _) = fails(|_, _| reply(200, TAXII, r#"{"more":true,"objects":[{}]}"#)).await;
    assert_eq!(why, "the server says that there is more, and not where");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_an_end_is_left_after_so_many_pages() {
    let world = World::new().await;
    let server =
        Server::start(|number, _| page(&[indicator(1)], true, Some(&number.to_string()), "2026-02-01T00:00:00Z")).await;
    put(&world, &server).await;
    eventually("the end of the poll", async || feed(&world).state.answered_at.is_some()).await;
    assert_eq!(server.got().len(), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_is_told_and_nothing_of_it_is_kept() {
    for (headers, body) in [
        ("content-type: text/html\r\n", "<html>"),
        ("", "{}"),
        (TAXII, "<html>"),
        (TAXII, "[]"),
        (TAXII, r#"{"objects":7}"#),
        (TAXII, r#"{"objects":null}"#),
        (TAXII, r#"[false,null,[]]"#),
        (TAXII, r#"{"title":"Error","http_status":"500"}"#),
        (TAXII, r#"{"more":false,"object":[{}]}"#),
        ("content-type: application/taxii+json\r\nx-taxii-date-added-last: soon\r\n", r#"{"objects":[]}"#),
    ] {
        let (why, count) = fails(move |_, _| reply(200, headers, body)).await;
        assert!(why.contains("server"), "{body}: {why}");
        assert_eq!(count, 1);
    }
    let many = format!("{{\"objects\":[{}0]}}", "{\"\":0},".repeat(200_000));
    let (why, _) = fails(move |_, _| reply(200, TAXII, &many)).await;
    assert!(why.contains("lists and objects"), "what unfolds to hundreds of times its bytes is not unfolded: {why}");
    let (why, _) = fails(|_, _| reply(500, "", "")).await;
    assert_eq!(why, "the server answers 500");
    // Objects that are no indicators, among one that is.
    let world = World::new().await;
    let server = Server::start(|_, _| {
        let objects = [json!(null), json!("x"), json!({ "type": "indicator" }), indicator(1)];
        page(&objects, false, None, "2026-02-01T00:00:00Z")
    })
    .await;
    put(&world, &server).await;
    eventually("the poll", async || feed(&world).freshness == "fresh").await;
    assert_eq!(world.threat.indicators(&acme()).len(), 1);
    let state = feed(&world).state;
    assert_eq!((state.objects_count, state.refused_count), (4, 3));
    assert_eq!(state.last_refused.as_deref(), Some("an object without id: it has no `type`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_with_nothing_in_it_is_a_page_with_nothing_on_it() {
    for body in ["{}", r#"{"more":false}"#, r#"{"x_server":"t1"}"#] {
        let world = World::new().await;
        let server = Server::start(move |_, _| reply(200, TAXII, body)).await;
        put(&world, &server).await;
        eventually("the poll", async || feed(&world).freshness == "fresh").await;
        assert_eq!((feed(&world).state.failures, feed(&world).state.objects_count), (0, 0), "{body}");
    }
}

#[tokio::test]
async fn a_feed_is_where_the_host_may_go_and_of_words_that_are_ids() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    let asked = async |wanted: WantedFeed| world.outward.put_feed(&acme(), "f".parse().unwrap(), &ada(), wanted).await;
    for url in ["https://10.0.0.1/api", "http://93.184.216.34/", "https://x/?a=b", "https://u@x/", "x"] {
        let refused = asked(WantedFeed { url: url.into(), ..wanted(&server) }).await;
        assert!(matches!(refused, Err(OutwardError::BadFeed { .. })), "{url}");
    }
    for collection in ["", "a/b", "..", "a?b", "a b"] {
        let refused = asked(WantedFeed { collection: collection.into(), ..wanted(&server) }).await;
        assert!(matches!(refused, Err(OutwardError::BadFeed { .. })), "{collection}");
    }
    for every_seconds in [0, 59, 86_401] {
        let refused = asked(WantedFeed { every_seconds: Some(every_seconds), ..wanted(&server) }).await;
        assert!(matches!(refused, Err(OutwardError::BadFeed { .. })), "{every_seconds}");
    }
    assert!(server.got().is_empty());
}
