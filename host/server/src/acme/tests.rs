//! Certificates from an authority (a double of one, over TLS): the first, the next, none, and a start in between.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Store, Tenants};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::double::{Authority, Mood, shown};
use super::*;
use crate::config::{AcmeTerms, ClientCertificates, TlsSection};
use crate::tls::Tls;

const START: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
const NAME: &str = "host.example";

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// Bytes that differ.
struct Dice(AtomicU64);

impl Entropy for Dice {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            let number = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

/// A host with one listener, and the authority that it asks.
struct World {
    dir: tempfile::TempDir,
    store: TenantStore,
    clock: Arc<Hands>,
    dice: Arc<Dice>,
    section: TlsSection,
    authority: Authority,
    at: SocketAddr,
    tls: Tls,
}

impl World {
    async fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, dice) = (Arc::new(Hands(AtomicI64::new(START))), Arc::new(Dice(AtomicU64::new(1))));
        let root = RootKey::open_or_create(&RootKeyUri::File(dir.path().join("root.key")), &*dice).unwrap();
        let tenants =
            Tenants::open(Store::memory(), Arc::new(root), dice.clone() as _, clock.clone() as _).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let authority = Authority::start(at, START.unsigned_abs()).await;
        let roots = dir.path().join("authority.pem");
        std::fs::write(&roots, authority.root()).unwrap();
        let acme = AcmeSection {
            directory: authority.directory(),
            names: names.iter().map(ToString::to_string).collect(),
            contact: vec!["mailto:operator@host.example".to_owned()],
            terms: AcmeTerms::Agreed,
            roots,
        };
        let section = TlsSection {
            certificate: Default::default(),
            key: Default::default(),
            client_certificates: ClientCertificates::Off,
            acme,
        };
        let tls = Tls::open(&section).unwrap().unwrap();
        listen(listener, &tls);
        let store = tenants.platform().clone();
        Self { dir, store, clock, dice, section, authority, at, tls }
    }

    async fn acme(&self) -> Acme {
        let (clock, dice) = (self.clock.clone(), self.dice.clone());
        let current = self.tls.current().clone();
        Acme::open(self.section.acme.clone(), self.store.clone(), clock, dice, current).await.unwrap()
    }

    /// The certificate that a caller sees; none when the handshake fails.
    async fn served(&self) -> Option<Vec<u8>> {
        shown(self.at, NAME, Some(b"http/1.1")).await.map(|(_, leaf)| leaf)
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.clock.0.load(Ordering::SeqCst).unsigned_abs()
    }

    fn failures(&self) -> u64 {
        self.tls.current().health().failures_count()
    }
}

fn listen(listener: TcpListener, tls: &Tls) {
    let acceptor = TlsAcceptor::from(tls.config());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
}

#[tokio::test]
async fn the_first_certificate_is_got_and_served_and_the_next_before_it_ends() {
    let world = World::new(&[NAME]).await;
    assert_eq!(world.served().await, None, "nothing to show yet");
    let mut acme = world.acme().await;
    assert_eq!(acme.look().await, LOOK);
    let first = world.authority.issued().pop().unwrap();
    assert_eq!(world.served().await.unwrap(), first);
    let until = world.tls.current().health().until().unwrap();
    assert_eq!(until.as_second(), START + 90 * DAY);
    world.pass(59 * DAY);
    acme.look().await;
    assert_eq!(world.authority.issued().len(), 1, "not due yet");
    world.pass(5 * DAY);
    world.authority.set(Mood::Well, world.now());
    acme.look().await;
    let issued = world.authority.issued();
    assert_eq!((issued.len(), world.authority.accounts_count()), (2, 1), "with the same account");
    assert_eq!(world.served().await.unwrap(), issued[1]);
}

#[tokio::test]
async fn a_certificate_for_several_names_is_proved_for_each() {
    let world = World::new(&[NAME, "plugins.host.example"]).await;
    world.acme().await.look().await;
    let issued = world.authority.issued();
    assert_eq!(issued.len(), 1);
    assert_eq!(shown(world.at, "plugins.host.example", None).await.unwrap().1, issued[0]);
    assert_eq!(shown(world.at, NAME, Some(ACME)).await, None, "no challenge is answered any more");
}
const ACME: &[u8] = b"acme-tls/1";

#[tokio::test]
async fn a_start_serves_what_is_kept_and_asks_nobody() {
    let mut world = World::new(&[NAME]).await;
    world.acme().await.look().await;
    let first = world.authority.issued();
    world.authority.set(Mood::Refuses, world.now());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.at = listener.local_addr().unwrap();
    world.tls = Tls::open(&world.section).unwrap().unwrap();
    listen(listener, &world.tls);
    let mut acme = world.acme().await;
    assert_eq!(world.served().await.unwrap(), first[0]);
    acme.look().await;
    assert_eq!((world.authority.issued(), world.failures()), (first, 0));
}

#[tokio::test]
async fn a_failing_authority_leaves_the_certificate_in_use_and_is_asked_less_and_less() {
    let world = World::new(&[NAME]).await;
    let mut acme = world.acme().await;
    acme.look().await;
    let first = world.served().await.unwrap();
    world.pass(70 * DAY);
    for (mood, failures) in [(Mood::Refuses, 1), (Mood::Confused, 2), (Mood::Refuses, 3)] {
        world.authority.set(mood, world.now());
        let wait = acme.look().await;
        assert_eq!(world.failures(), failures, "{mood:?}");
        let least = Duration::from_secs(60 << (failures - 1));
        assert!(wait >= least && wait <= least + least / 5, "{wait:?}");
        assert_eq!(world.served().await.unwrap(), first, "{mood:?}");
        acme.look().await;
        assert_eq!(world.failures(), failures, "not before the pause is over");
        world.pass(i64::try_from(wait.as_secs()).unwrap());
    }
    world.authority.set(Mood::Well, world.now());
    acme.look().await;
    assert_eq!(world.failures(), 0);
    assert_ne!(world.served().await.unwrap(), first);
}

#[tokio::test]
async fn a_name_that_does_not_answer_is_not_proved() {
    let world = World::new(&[NAME]).await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = Authority::start(elsewhere.local_addr().unwrap(), START.unsigned_abs()).await;
    drop(elsewhere);
    std::fs::write(world.dir.path().join("authority.pem"), authority.root()).unwrap();
    let settings = AcmeSection { directory: authority.directory(), ..world.section.acme.clone() };
    let current = world.tls.current().clone();
    let (clock, dice) = (world.clock.clone(), world.dice.clone());
    let mut acme = Acme::open(settings, world.store.clone(), clock, dice, current).await.unwrap();
    acme.look().await;
    assert_eq!((authority.issued().len(), world.failures()), (0, 1));
    assert_eq!(world.served().await, None);
}

#[tokio::test]
async fn other_names_are_asked_for_at_once_while_the_old_certificate_serves() {
    let mut world = World::new(&[NAME]).await;
    world.acme().await.look().await;
    world.section.acme.names.push("second.example".to_owned());
    let mut acme = world.acme().await;
    assert_eq!(world.served().await.unwrap(), world.authority.issued()[0]);
    acme.look().await;
    assert_eq!(world.served().await.unwrap(), world.authority.issued()[1]);
}

#[test]
fn renewal_is_wanted_with_a_third_of_the_time_left_and_never_after_the_end() {
    let validity = Validity { from_second: START, until_second: START + 90 * DAY };
    for dice in [0, 1, u64::MAX, 77_777_777] {
        let due = due_second(validity, dice);
        assert!((START + 60 * DAY..START + 63 * DAY).contains(&due), "{dice}");
    }
    let nothing = Validity { from_second: START, until_second: START };
    assert_eq!(due_second(nothing, 5), START);
    assert_eq!([1, 2, 3, 9, 10, u64::MAX].map(pause_seconds), [60, 120, 240, 15_360, 21_600, 21_600]);
}
