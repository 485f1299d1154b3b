//! Mail, to a small SMTP server.

use std::sync::{Arc, Mutex};

use ringfence_audit::codes;
use ringfence_outward::{Carries, MailConfig, MailSecurity, Mailer, OutwardError, Wanted};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{PACE, World, eventually};

/// One mail: the envelope's recipients and the text.
type Mails = Arc<Mutex<Vec<(Vec<String>, String)>>>;

async fn server() -> (u16, Mails) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mails = Mails::default();
    let kept = Arc::clone(&mails);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(speak(stream, Arc::clone(&kept)));
        }
    });
    (port, mails)
}

async fn speak(stream: TcpStream, mails: Mails) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut to, mut text, mut in_text) = (Vec::new(), String::new(), false);
    write.write_all(b"220 here\r\n").await.unwrap();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer: &[u8] = match (in_text, line.split([' ', ':']).next().unwrap_or_default()) {
            (true, _) if line == "." => {
                in_text = false;
                mails.lock().unwrap().push((std::mem::take(&mut to), std::mem::take(&mut text)));
                b"250 taken\r\n"
            }
            (true, _) => {
                text.push_str(&line);
                text.push('\n');
                continue;
            }
            (false, "EHLO") => b"250-here\r\n250 8BITMIME\r\n",
            (false, "RCPT") => {
                to.push(line);
                b"250 yes\r\n"
            }
            (false, "DATA") => {
                in_text = true;
                b"354 go on\r\n"
            }
            (false, "QUIT") => b"221 bye\r\n",
            _ => b"250 yes\r\n",
        };
        write.write_all(answer).await.unwrap();
    }
}

fn mailer(port: u16) -> Mailer {
    Mailer::new(MailConfig {
        host: "127.0.0.1".into(),
        port,
        security: MailSecurity::Plain,
        login: None,
        from: "ringfence@host.example".into(),
        domains: vec!["acme.example".into()],
    })
    .unwrap()
}

fn email(recipients: &[&str]) -> Wanted {
    let recipients = recipients.iter().map(ToString::to_string).collect();
    Wanted { kind: "email".into(), recipients, ..Wanted::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finding_is_mailed_at_once_and_those_that_follow_together() {
    let (port, mails) = server().await;
    let world = World::with(Some(mailer(port))).await;
    world.make(Carries::Alerts, "people", email(&["ada@acme.example", "bob@acme.example"])).await.unwrap();
    world.record(codes::CANARY_TOUCHED, 1).await;
    eventually("the first mail", async || mails.lock().unwrap().len() == 1).await;
    let (to, text) = mails.lock().unwrap()[0].clone();
    assert_eq!(to.len(), 2);
    assert!(to[0].contains("<ada@acme.example>") && to[1].contains("<bob@acme.example>"), "{to:?}");
    assert!(text.contains("Subject: Ringfence: ") && text.contains("rule canary"), "{text}");
    world.threat.drill(&crate::world::acme(), 1).await.unwrap();
    assert_eq!(mails.lock().unwrap().len(), 1, "not before its time");
    // A round of the task sees the clock at the latest after a wait that it slept before; it is woken by a change.
    world.clock.on(i64::try_from(PACE.mail_every.as_millis()).unwrap());
    let change = ringfence_outward::WantedChange::default();
    world.outward.change(&crate::world::acme(), (Carries::Alerts, "people"), change).await.unwrap();
    eventually("the second mail", async || mails.lock().unwrap().len() == 2).await;
    let (_, text) = mails.lock().unwrap()[1].clone();
    assert!(text.contains("[DRILL]") && text.contains(" findings"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trials_of_one_owner_cannot_flood_anybody() {
    let (port, mails) = server().await;
    let world = World::with(Some(mailer(port))).await;
    world.make(Carries::Alerts, "people", email(&["ada@acme.example"])).await.unwrap();
    let mut sent = 0;
    while world.outward.test(&crate::world::acme(), Carries::Alerts, "people").await.is_ok() {
        sent += 1;
        assert!(sent <= 60, "without an end");
    }
    assert_eq!((sent, mails.lock().unwrap().len()), (60, 60));
    world.clock.on(3_600_000);
    assert!(world.outward.test(&crate::world::acme(), Carries::Alerts, "people").await.unwrap().is_delivered);
}

#[tokio::test]
async fn recipients_are_addresses_of_domains_that_the_operator_lets() {
    let (port, _) = server().await;
    let world = World::with(Some(mailer(port))).await;
    for bad in [
        &["ada@evil.example"][..],
        &["ada"],
        &["ada@acme.example\r\nRCPT TO:<eve@evil.example>"],
        &["Ada <ada@acme.example>"],
        &["a@acme.example, b@acme.example"],
        &[],
        &["a@acme.example"; 9],
    ] {
        let refused = world.make(Carries::Alerts, "people", email(bad)).await;
        assert!(matches!(refused, Err(OutwardError::BadDestination { .. })), "{bad:?}");
    }
    let none = World::new().await;
    let refused = none.make(Carries::Alerts, "people", email(&["ada@acme.example"])).await;
    assert!(matches!(refused, Err(OutwardError::BadDestination { .. })), "there is no server");
    let of_the_log = world.make(Carries::Audit, "people", email(&["ada@acme.example"])).await;
    assert!(of_the_log.is_err(), "the log itself is not mailed");
}
