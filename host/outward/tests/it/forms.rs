//! The other forms: syslog over TLS and OTLP.

use std::sync::{Arc, Mutex};

use ringfence_audit::codes;
use ringfence_keys::Secret;
use ringfence_outward::{Carries, OutwardError, Wanted};
use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::server::{Server, reply};
use crate::world::{World, eventually};

/// A collector with a certificate of its own: its port, the certificate as PEM, what it read.
async fn collector() -> (u16, String, Arc<Mutex<Vec<u8>>>) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let read: Arc<Mutex<Vec<u8>>> = Arc::default();
    let (kept, acceptor) = (Arc::clone(&read), TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut all = Vec::new();
            if stream.read_to_end(&mut all).await.is_ok() {
                kept.lock().unwrap().extend(all);
            }
        }
    });
    (port, made.cert.pem(), read)
}

/// The messages, by their lengths.
fn messages(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let at = bytes.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&bytes[..at]).unwrap().parse().unwrap();
        found.push(String::from_utf8(bytes[at + 1..at + 1 + length].to_vec()).unwrap());
        bytes = &bytes[at + 1 + length..];
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syslog_goes_over_tls_to_whom_the_owner_trusts() {
    let world = World::new().await;
    let (port, pem, read) = collector().await;
    let wanted = |roots: Option<String>| Wanted {
        kind: "syslog".into(),
        host: Some("127.0.0.1".into()),
        port: Some(port),
        roots,
        from_seq: Some(0),
        ..Wanted::default()
    };
    world.make(Carries::Audit, "trusted", wanted(Some(pem))).await.unwrap();
    world.make(Carries::Audit, "strange", wanted(None)).await.unwrap();
    world.record(codes::SECRET_WRITTEN, 40).await;
    eventually("all messages", async || messages(&read.lock().unwrap()).len() == 40).await;
    let messages = messages(&read.lock().unwrap());
    for (message, seq) in messages.iter().zip(0..) {
        assert!(message.starts_with("<110>1 2026-"), "{message}");
        let data = format!(
            " host.example ringfence - SEC-001 [audit@32473 seq=\"{seq}\" log=\"host.example/audit/tenant/acme\"] "
        );
        assert!(message.contains(&data), "{message}");
        let json = message.split_once('\u{feff}').unwrap().1;
        assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap()["seq"], seq);
    }
    eventually("the refusal", async || world.view(Carries::Audit, "strange").await.progress.failures > 0).await;
    let why = world.view(Carries::Audit, "strange").await.progress.last_error.unwrap();
    assert!(why.contains("certificate is not trusted"), "{why}");
    for rubbish in ["", "-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n", "x"] {
        let refused = world.make(Carries::Audit, "rubbish", wanted(Some(rubbish.to_owned()))).await;
        assert!(matches!(refused, Err(OutwardError::BadDestination { .. })), "{rubbish}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_carries_the_owners_header_and_counts_what_is_rejected() {
    let world = World::new().await;
    let server = Server::start(|_, _| {
        reply(200, "content-type: application/json\r\n", r#"{"partialSuccess":{"rejectedLogRecords":"1"}}"#)
    })
    .await;
    let wanted = Wanted {
        kind: "otlp".into(),
        url: Some(format!("http://{}/v1/logs", server.address)),
        authorization: Some(Secret::new("Bearer t0ken".to_owned())),
        from_seq: Some(0),
        ..Wanted::default()
    };
    world.record(codes::SECRET_WRITTEN, 3).await;
    world.make(Carries::Audit, "o", wanted).await.unwrap();
    eventually("the batch", async || world.view(Carries::Audit, "o").await.progress.delivered_count == 3).await;
    let got = server.got();
    assert_eq!(got.len(), 1, "what a collector took in part is not sent again");
    assert_eq!((got[0].target.as_str(), got[0].header("authorization").as_deref()), ("/v1/logs", Some("Bearer t0ken")));
    let records = got[0].json()["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().len();
    assert_eq!((records, world.view(Carries::Audit, "o").await.progress.rejected_count), (3, 1));
    for (name, authorization) in [("line", "a\r\nb"), ("empty", ""), ("wide", "ü")] {
        let wanted = Wanted {
            kind: "otlp".into(),
            url: Some(server.url()),
            authorization: Some(Secret::new(authorization.to_owned())),
            ..Wanted::default()
        };
        assert!(world.make(Carries::Audit, name, wanted).await.is_err(), "{name}");
    }
}
