//! The door: where the host does not go, whatever a tenant, a name server or a receiver says.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use ringfence_outward::{Answer, Ask, Carries, OutwardError, ReachError, Wanted};

use crate::server::{Reply, Server, reply};
use crate::world::{World, eventually, webhook};

fn ask(url: &str) -> Ask {
    Ask {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        answer_bytes_max: 1_000,
        wait: Duration::from_millis(1_500),
    }
}

async fn why(world: &World, url: &str) -> ReachError {
    world.reach.send(ask(url)).await.map(|answer: Answer| answer.status).unwrap_err()
}

#[tokio::test]
async fn a_name_is_checked_at_every_question_and_all_its_addresses_are() {
    let world = World::new().await;
    let server = Server::taking_all().await;
    let url = format!("http://hook.example:{}/in", server.address.port());
    world.names.set("hook.example", &["127.0.0.1"]);
    assert_eq!(world.reach.send(ask(&url)).await.unwrap().status, 204);
    let heard = server.got()[0].clone();
    assert_eq!(heard.header("host").unwrap(), format!("hook.example:{}", server.address.port()));
    for bad in [&["127.0.0.2"][..], &["10.0.0.5"], &["169.254.169.254"], &["::1"], &["127.0.0.1", "10.0.0.5"], &[]] {
        world.names.set("hook.example", bad);
        assert_eq!(why(&world, &url).await, ReachError::NotReached, "{bad:?}");
    }
    // A public address is spoken to with TLS alone: nothing is dialled for this.
    world.names.set("hook.example", &["93.184.216.34"]);
    assert_eq!(why(&world, &url).await, ReachError::NotReached);
    assert_eq!(server.got().len(), 1);
}

#[tokio::test]
async fn a_destination_at_a_private_address_is_refused_when_it_is_asked_for() {
    let world = World::new().await;
    for url in [
        "https://10.0.0.1/in",
        "https://127.0.0.2/in",
        "https://[::1]/in",
        "https://[::ffff:127.0.0.1]/in",
        "https://169.254.169.254/latest/meta-data",
        "https://0x7f000002/in",
        "https://2130706434/in",
        "http://hook.example/in",
        "http://93.184.216.34/in",
        "https://user:pass@hook.example/in",
        "ftp://hook.example/in",
        "file:///etc/passwd",
        "hook.example",
        "",
    ] {
        let refused = world.make(Carries::Audit, "s", webhook(url.to_owned())).await;
        assert!(matches!(refused, Err(OutwardError::BadDestination { .. })), "{url}");
    }
    let syslog = |host: &str| Wanted { kind: "syslog".into(), host: Some(host.into()), ..Wanted::default() };
    for host in ["10.0.0.1", "::1", "169.254.169.254", "", "a b", "a/b"] {
        let refused = world.make(Carries::Audit, "s", syslog(host)).await;
        assert!(matches!(refused, Err(OutwardError::BadDestination { .. })), "{host}");
    }
    assert!(world.outward.list(&crate::world::acme(), Carries::Audit).await.is_empty());
}

#[tokio::test]
async fn a_destination_whose_name_comes_to_lead_inside_gets_nothing() {
    let world = World::new().await;
    world.names.set("hook.example", &["10.0.0.5"]);
    world.stream("s", "https://hook.example/in".to_owned()).await;
    world.record("HST-003 data-read", 1).await;
    eventually("the failure", async || world.view(Carries::Audit, "s").await.progress.failures > 0).await;
    let progress = world.view(Carries::Audit, "s").await.progress;
    assert_eq!((progress.next_seq, progress.delivered_count), (0, 0));
    assert_eq!(progress.last_error, Some(ReachError::NotReached.to_string()));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let world = World::new().await;
    let inside = Server::taking_all().await;
    let location = format!("location: {}\r\n", inside.url());
    let server = Server::start(move |_, _| reply(307, &location, "")).await;
    world.stream("s", server.url()).await;
    world.record("HST-003 data-read", 1).await;
    eventually("the failure", async || world.view(Carries::Audit, "s").await.progress.failures > 0).await;
    let why = world.view(Carries::Audit, "s").await.progress.last_error.unwrap();
    assert!(why.contains("redirects (307)"), "{why}");
    assert!(inside.got().is_empty());
}

#[tokio::test]
async fn answers_that_hang_or_are_too_long_or_break_off_end() {
    let world = World::new().await;
    let server = Server::start(|number, _| match number {
        0 => Reply::Hang,
        1 => reply(200, "", &"x".repeat(1_001)),
        2 => Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec()),
        3 => Reply::Bytes(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000)).into_bytes()),
        4 => Reply::Bytes(b"\0\0\0not http".to_vec()),
        _ => reply(200, "", "ok"),
    })
    .await;
    let url = server.url();
    assert_eq!(why(&world, &url).await, ReachError::TimedOut);
    assert_eq!(why(&world, &url).await, ReachError::TooLong(1_000));
    for _ in 0..3 {
        assert_eq!(why(&world, &url).await, ReachError::BrokenOff);
    }
    assert_eq!(world.reach.send(ask(&url)).await.unwrap().body, "ok");
}
