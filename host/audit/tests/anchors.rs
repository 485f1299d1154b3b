//! The log of logs and what others keep and sign of it: a witness over HTTP, a mirror directory, the level that follows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod world;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use data_encoding::{BASE64, HEXLOWER};
use ringfence_audit::anchor::{Anchors, Level};
use ringfence_audit::export::check;
use ringfence_audit::heads::{head_commitment, verify_cover};
use ringfence_audit::mirror::Mirror;
use ringfence_audit::note::{SignedHead, Verifier};
use ringfence_audit::tree::{Hash, verify_consistency};
use ringfence_audit::witness::Witness;
use ringfence_audit::{AuditError, Entry, Log, Selection};
use ringfence_keys::SigningKey;
use serde_json::Value;
use sha2::{Digest, Sha256};
use world::{World, pushed};

const NAME: &str = "witness.example";

/// A small witness: remembers the last head, checks consistency, cosigns.
struct StandIn {
    address: String,
    vkey: String,
    seen: Arc<Mutex<Option<SignedHead>>>,
}

impl StandIn {
    fn start(world: &World, log_vkey: &str) -> Self {
        let key = SigningKey::generate(&*world.entropy).unwrap();
        let public = key.public_key();
        let id = &Sha256::digest([NAME.as_bytes(), b"\n\x04", &public].concat())[..4];
        let vkey = format!("{NAME}+{}+{}", HEXLOWER.encode(id), BASE64.encode(&[&[4_u8][..], &public].concat()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(None));
        let (state, id, log) = (Arc::clone(&seen), id.to_vec(), Verifier::parse(log_vkey).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let body = read_request(&mut BufReader::new(stream.try_clone().unwrap()));
                let (status, answer) = answer(&mut state.lock().unwrap(), &log, &body, &|text| {
                    let message = format!("cosignature/v1\ntime 1790000000\n{text}");
                    let parts = [&id[..], &1_790_000_000_u64.to_be_bytes(), &key.sign(message.as_bytes())].concat();
                    format!("\u{2014} {NAME} {}\n", BASE64.encode(&parts))
                });
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
                stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
            }
        });
        Self { address, vkey, seen }
    }

    fn anchors(&self) -> Anchors {
        let witnesses = vec![Witness::new(&self.address, &self.vkey).unwrap()];
        Anchors { every: Duration::from_secs(1), witnesses, mirror: None }
    }
}

fn read_request(reader: &mut impl BufRead) -> String {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn answer(seen: &mut Option<SignedHead>, log: &Verifier, body: &str, sign: &dyn Fn(&str) -> String) -> (u16, String) {
    let (head, checkpoint) = body.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let old: u64 = lines.next().unwrap().strip_prefix("old ").unwrap().parse().unwrap();
    let path: Vec<Hash> = lines.map(|line| BASE64.decode(line.as_bytes()).unwrap().try_into().unwrap()).collect();
    let Some(new) = log.open(checkpoint) else { return (403, String::new()) };
    let known = seen.as_ref().map_or(0, |head| head.size);
    if known != old {
        return (409, format!("{known}\n"));
    }
    let consistent = seen
        .as_ref()
        .is_none_or(|old| old == &new || verify_consistency(old.size, &old.root, new.size, &new.root, &path));
    if !consistent {
        return (422, String::new());
    }
    *seen = Some(new);
    let text = checkpoint.split_once("\n\n").unwrap().0;
    (200, sign(&format!("{text}\n")))
}

#[tokio::test]
async fn a_witness_signs_for_the_heads_of_all_logs_and_each_owner_can_show_his_own() {
    let world = World::new().await;
    let (acme, globex, audit) = (world.tenant("acme").await, world.tenant("globex").await, world.open().await);
    let (acme, globex) = (Log::Tenant(acme), Log::Tenant(globex));
    for log in [&acme, &globex, &Log::Host] {
        audit.record(log, pushed()).await.unwrap();
    }
    let witness = StandIn::start(&world, &audit.heads_vkey());
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L0);
    assert_eq!(audit.anchor(&witness.anchors()).await.unwrap().to, 3);
    for _ in 0..3 {
        audit.record(&acme, pushed()).await.unwrap();
        audit.anchor(&witness.anchors()).await.unwrap();
    }
    assert_eq!(witness.seen.lock().unwrap().as_ref().unwrap().size, 6, "only what grew is committed to again");
    let heads = Verifier::parse(&audit.heads_vkey()).unwrap();
    for (log, size) in [(&acme, 4), (&globex, 1), (&Log::Host, 1)] {
        let anchored = audit.anchored(log).await.unwrap();
        assert_eq!((anchored.level, anchored.witnesses.as_slice()), (Level::L3, &[NAME.to_owned()][..]));
        let (cover, proof) = (anchored.cover.unwrap(), anchored.proof.unwrap());
        let key = Verifier::parse(&audit.vkey(log)).unwrap();
        assert_eq!(verify_cover(&cover, &key, &heads, &proof).unwrap().size, size);
        let witness = Witness::new(&witness.address, &witness.vkey).unwrap();
        let (_, lines) = proof.checkpoint.split_once("\n\n").unwrap();
        assert!(witness.check(&proof.checkpoint, lines).is_some());
        let salted =
            verify_cover(&ringfence_audit::heads::Cover { salt: "00".repeat(32), ..cover }, &key, &heads, &proof);
        assert_eq!(salted, None);
    }
}

#[tokio::test]
async fn after_a_restart_a_witness_is_asked_from_where_it_stands() {
    let world = World::new().await;
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&acme, pushed()).await.unwrap();
    let witness = StandIn::start(&world, &audit.heads_vkey());
    audit.anchor(&witness.anchors()).await.unwrap();
    let audit = world.open().await;
    audit.record(&acme, pushed()).await.unwrap();
    let round = audit.anchor(&witness.anchors()).await.unwrap();
    assert_eq!(witness.seen.lock().unwrap().as_ref().unwrap().size, round.to);
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L3);
}

#[tokio::test]
async fn a_witness_that_saw_more_does_not_sign_and_the_level_does_not_rise() {
    let world = World::new().await;
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&acme, pushed()).await.unwrap();
    let witness = StandIn::start(&world, &audit.heads_vkey());
    let origin = audit.heads_origin();
    *witness.seen.lock().unwrap() = Some(SignedHead { origin: origin.clone(), size: 900, root: [7; 32] });
    audit.anchor(&witness.anchors()).await.unwrap();
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L0);
    // Of the same size and another root: a fork.
    *witness.seen.lock().unwrap() = Some(SignedHead { origin, size: 1, root: [7; 32] });
    audit.anchor(&witness.anchors()).await.unwrap();
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L0);
}

#[tokio::test]
async fn of_more_logs_than_a_round_covers_each_has_its_turn() {
    let world = World::new().await;
    let mut logs = Vec::new();
    for number in 0..520 {
        logs.push(Log::Tenant(world.tenant(&format!("t{number}")).await));
    }
    let audit = world.open().await;
    for _ in 0..2 {
        for log in &logs {
            audit.record(log, pushed()).await.unwrap();
        }
        audit.cover().await.unwrap();
    }
    for log in &logs {
        assert!(audit.cover_of(log).await.unwrap().is_some(), "{}", audit.origin(log));
    }
}

fn mirrored(dir: &tempfile::TempDir) -> Anchors {
    let dir = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
    Anchors { every: Duration::from_secs(1), witnesses: Vec::new(), mirror: Some(Mirror::new(dir)) }
}

#[tokio::test]
async fn a_mirror_has_every_head_once_and_the_tree_can_be_made_of_it() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    let anchors = mirrored(&dir);
    let mut round = None;
    for _ in 0..3 {
        audit.record(&acme, pushed()).await.unwrap();
        round = Some(audit.anchor(&anchors).await.unwrap());
        audit.anchor(&anchors).await.unwrap();
    }
    let round = round.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    let (size, root) = anchors.mirror.as_ref().unwrap().root().unwrap();
    assert_eq!((size, root), (round.to, round.root));
    let anchored = audit.anchored(&acme).await.unwrap();
    assert_eq!(anchored.level, Level::L2);
    // An archive says so, and of how much: what comes later is not anchored yet.
    audit.record(&acme, pushed()).await.unwrap();
    let nothing = |_: &mut Entry| Vec::<String>::new();
    let all =
        Selection { from: 0, to: None, keep: None, redact: &nothing, query: Value::Null, csv: None, parquet: None };
    let (content, _) = audit.export(&acme, all).await.unwrap();
    let archive = audit.archive(&acme, &content).unwrap();
    let said = check(archive.as_slice(), Some(&audit.vkey(&acme)), None).unwrap().manifest.anchor.unwrap();
    assert_eq!((said.level, said.size + 1), (Level::L2, content.rows.len() as u64));
    let cover = anchored.cover.unwrap();
    let commitment =
        HEXLOWER.encode(&head_commitment(&HEXLOWER.decode(cover.salt.as_bytes()).unwrap(), &cover.checkpoint));
    let newest = std::fs::read_to_string(dir.path().join("heads-00000000000000000003")).unwrap();
    assert!(newest.ends_with(&format!("{commitment}\n")));
}

#[tokio::test]
async fn a_mirror_with_another_history_stops_the_logs_until_it_is_the_right_one() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&acme, pushed()).await.unwrap();
    audit.anchor(&mirrored(&dir)).await.unwrap();
    let file = dir.path().join("heads-00000000000000000001");
    let right = std::fs::read_to_string(&file).unwrap();
    let at = right.len() - 2;
    let wrong = format!("{}{}\n", &right[..at], if right.as_bytes()[at] == b'0' { "1" } else { "0" });
    std::fs::write(&file, wrong).unwrap();
    audit.anchor(&mirrored(&dir)).await.unwrap();
    assert!(!audit.is_writable());
    assert_eq!(audit.record(&acme, pushed()).await.unwrap_err(), AuditError::Unavailable);
    assert_eq!(audit.size(&acme).await.unwrap(), 1);
    std::fs::write(&file, right).unwrap();
    audit.anchor(&mirrored(&dir)).await.unwrap();
    audit.record(&acme, pushed()).await.unwrap();
}

#[tokio::test]
async fn a_mirror_that_is_gone_stops_the_logs_after_its_time() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    let anchors = mirrored(&dir);
    audit.record(&acme, pushed()).await.unwrap();
    audit.anchor(&anchors).await.unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    audit.record(&acme, pushed()).await.unwrap();
    audit.anchor(&anchors).await.unwrap();
    assert!(audit.is_writable(), "a moment is no failure");
    world.clock.advance(ringfence_audit::anchor::BEHIND_MAX);
    audit.anchor(&anchors).await.unwrap();
    assert!(!audit.is_writable());
    assert_eq!(audit.record(&acme, pushed()).await.unwrap_err(), AuditError::Unavailable);
}

#[tokio::test]
async fn a_mirror_that_was_full_for_a_while_has_everything_afterwards() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    let anchors = mirrored(&dir);
    audit.record(&acme, pushed()).await.unwrap();
    // What a disk that fills in the middle of a file leaves behind.
    let unfinished = dir.path().join(anchors.mirror.as_ref().unwrap().unfinished());
    std::fs::write(&unfinished, "host.example/audit/heads\n1\nAAAA").unwrap();
    audit.anchor(&anchors).await.unwrap();
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L2);
    // No room: nothing can be written any more.
    std::fs::create_dir(&unfinished).unwrap();
    audit.record(&acme, pushed()).await.unwrap();
    audit.anchor(&anchors).await.unwrap();
    assert!(audit.is_writable(), "a moment is no failure");
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L0, "and is not told as if it were mirrored");
    std::fs::remove_dir(&unfinished).unwrap();
    audit.record(&acme, pushed()).await.unwrap();
    let round = audit.anchor(&anchors).await.unwrap();
    assert_eq!(anchors.mirror.as_ref().unwrap().root().unwrap(), (round.to, round.root));
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L2);
    assert!(audit.is_writable());
}

#[tokio::test]
async fn a_mirror_that_is_new_on_an_old_host_gets_files_that_can_be_read() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    for _ in 0..2_060 {
        audit.record(&acme, pushed()).await.unwrap();
        audit.cover().await.unwrap();
    }
    let anchors = mirrored(&dir);
    audit.anchor(&anchors).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    for _ in 0..2 {
        audit.record(&acme, pushed()).await.unwrap();
        let round = audit.anchor(&anchors).await.unwrap();
        assert!(audit.is_writable());
        assert_eq!(anchors.mirror.as_ref().unwrap().root().unwrap(), (round.to, round.root));
        // And whoever comes new to it reads the same.
        assert_eq!(mirrored(&dir).mirror.unwrap().root().unwrap(), (round.to, round.root));
    }
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L2);
}

#[test]
fn a_long_file_of_an_older_host_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirrored(&dir).mirror.unwrap();
    mirror.write(20_000, "head\n", &vec![[7; 32]; 20_000]).unwrap();
    assert_eq!(mirror.root().unwrap().0, 20_000);
}

#[tokio::test]
async fn a_mirror_that_was_emptied_is_not_taken_for_a_new_one() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    let anchors = mirrored(&dir);
    for _ in 0..2 {
        audit.record(&acme, pushed()).await.unwrap();
        audit.anchor(&anchors).await.unwrap();
    }
    // What was just written is known only once it is read.
    audit.anchor(&anchors).await.unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    audit.record(&acme, pushed()).await.unwrap();
    audit.anchor(&anchors).await.unwrap();
    assert!(audit.is_writable(), "a moment is no failure");
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L0);
    world.clock.advance(ringfence_audit::anchor::BEHIND_MAX);
    audit.anchor(&anchors).await.unwrap();
    assert!(!audit.is_writable());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_mirror_that_hangs_stops_the_logs_after_its_time() {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&acme, pushed()).await.unwrap();
    // Whoever opens it to read waits for somebody who writes.
    let hangs = dir.path().join("heads-00000000000000000001");
    assert!(std::process::Command::new("mkfifo").arg(&hangs).status().unwrap().success());
    let opened = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
    let mirror = Mirror::answering_within(opened, Duration::from_millis(200));
    let anchors = Anchors { mirror: Some(mirror), ..mirrored(&dir) };
    audit.anchor(&anchors).await.unwrap();
    let at_first = audit.is_writable();
    world.clock.advance(ringfence_audit::anchor::BEHIND_MAX);
    audit.anchor(&anchors).await.unwrap();
    let at_last = audit.is_writable();
    // Lets the thread go that hangs, which the end of the test waits for.
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&hangs).unwrap());
    assert_eq!((at_first, at_last), (true, false));
}

#[tokio::test]
async fn a_witness_that_hangs_keeps_no_entry_waiting() {
    let world = World::new().await;
    let (acme, audit) = (Log::Tenant(world.tenant("acme").await), world.open().await);
    audit.record(&acme, pushed()).await.unwrap();
    let witness = StandIn::start(&world, &audit.heads_vkey());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = format!("http://{}", listener.local_addr().unwrap());
    let (came, comes) = tokio::sync::oneshot::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        came.send(()).unwrap();
        // Nothing is ever answered; the connection is there until the test has seen enough.
        let _ = ended.recv();
        drop(stream);
    });
    let witnesses = vec![Witness::new(&hangs, &witness.vkey).unwrap()];
    let anchors = Anchors { every: Duration::from_secs(1), witnesses, mirror: None };
    let asking = tokio::spawn({
        let audit = audit.clone();
        async move { audit.anchor(&anchors).await.map(drop) }
    });
    comes.await.unwrap();
    for seq in 1..20 {
        assert_eq!(audit.record(&acme, pushed()).await.unwrap().seq, seq);
    }
    assert!(!asking.is_finished(), "the witness was asked all the time");
    drop(end);
    asking.await.unwrap().unwrap();
    assert_eq!(audit.anchored(&acme).await.unwrap().level, Level::L0);
}
