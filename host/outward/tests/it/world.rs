//! A host's rooms in memory, with time that runs and names that a test decides about.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_audit::{Audit, Event, Log};
use ringfence_capabilities::Resolver;
use ringfence_core::{Clock, Entropy, PrincipalId, Standing, TenantId};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_outward::{Carries, Made, Mailer, Outward, OutwardError, OutwardParts, Pace, Reach, View, Wanted};
use ringfence_store::{Store, TenantStore, Tenants};
use ringfence_threat::{Scope, Threat};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// Fast, and with few attempts.
pub const PACE: Pace = Pace {
    poll: Duration::from_millis(10),
    first: Duration::from_millis(4),
    most: Duration::from_millis(20),
    attempts_max: 6,
    answer: Duration::from_millis(1_500),
    mail_every: Duration::from_secs(3_600),
};

/// Time that a test moves on.
pub struct Moved(AtomicI64);

impl Moved {
    pub fn on(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.load(Ordering::Relaxed)).unwrap())
    }
}

struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// Names as a test decides; addresses are themselves.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, Vec<&'static str>>>);

impl Names {
    pub fn set(&self, name: &str, addresses: &[&'static str]) {
        self.0.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }
}

impl Resolver for Names {
    fn resolve(&self, host: &str, port: u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let found: Vec<SocketAddr> = match host.parse() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                let names = self.0.lock().unwrap();
                let known = names.get(host).into_iter().flatten();
                known.map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect()
            }
        };
        Box::pin(std::future::ready(Ok(found)))
    }
}

pub struct World {
    pub tenants: Tenants,
    pub audit: Audit,
    pub threat: Threat,
    pub clock: Arc<Moved>,
    pub names: Arc<Names>,
    pub reach: Reach,
    pub outward: Outward,
    pub acme: TenantStore,
    entropy: Arc<Counter>,
    stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with(None).await
    }

    pub async fn with(mailer: Option<Mailer>) -> Self {
        Self::at(PACE, mailer).await
    }

    pub async fn at(pace: Pace, mailer: Option<Mailer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clock, entropy) =
            (Arc::new(Moved(AtomicI64::new(1_790_000_000_000))), Arc::new(Counter(AtomicU64::new(1))));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let tenants = Tenants::open(Store::memory(), Arc::new(root), entropy.clone(), clock.clone()).await.unwrap();
        for name in ["acme", "globex"] {
            tenants.create(&name.parse().unwrap(), name).await.unwrap();
        }
        let acme = tenants.open_tenant(&"acme".parse().unwrap()).unwrap();
        let audit =
            Audit::open(tenants.clone(), clock.clone(), entropy.clone(), "host.example".to_owned()).await.unwrap();
        let standing = Arc::new(Standing::default());
        let (threat, reader) =
            Threat::open(tenants.clone(), audit.clone(), clock.clone(), entropy.clone(), standing).await.unwrap();
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(reader.run(stopping));
        let names = Arc::<Names>::default();
        // This machine's one address, as an operator's exception; 127.0.0.2 and all others are none.
        let reach = Reach::new(names.clone(), vec!["127.0.0.1".parse().unwrap()]).unwrap();
        let parts = OutwardParts {
            tenants: tenants.clone(),
            audit: audit.clone(),
            threat: threat.clone(),
            reach: reach.clone(),
            mailer,
            pace,
            clock: clock.clone(),
            entropy: entropy.clone(),
        };
        let outward = Outward::new(parts);
        outward.start().await.unwrap();
        Self { tenants, audit, threat, clock, names, reach, outward, acme, entropy, stop, _directory: directory }
    }

    /// The same host after a restart.
    pub async fn restart(&mut self) {
        self.outward.drain(Duration::from_secs(5)).await;
        self.outward = Outward::new(OutwardParts {
            tenants: self.tenants.clone(),
            audit: self.audit.clone(),
            threat: self.threat.clone(),
            reach: self.reach.clone(),
            mailer: None,
            pace: PACE,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        });
        self.outward.start().await.unwrap();
    }

    pub fn log(&self) -> Log {
        Log::Tenant(self.acme.clone())
    }

    pub async fn record(&self, code: &'static str, count: usize) {
        for _ in 0..count {
            let mut event = Event::new(code, "invoke", ada(), "tenant/acme/plugin/visits");
            event.source_ip = Some("203.0.113.7".parse().unwrap());
            event.details = json!({});
            self.audit.record(&self.log(), event).await.unwrap();
        }
    }

    pub async fn make(&self, carries: Carries, name: &str, wanted: Wanted) -> Result<Made, OutwardError> {
        self.outward.create(&acme(), (carries, name.parse().unwrap()), &ada(), wanted).await
    }

    pub async fn stream(&self, name: &str, url: String) -> Made {
        self.make(Carries::Audit, name, webhook(url)).await.unwrap()
    }

    pub async fn view(&self, carries: Carries, name: &str) -> View {
        self.outward.read(&acme(), carries, name).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

pub fn webhook(url: String) -> Wanted {
    Wanted { kind: "webhook".into(), url: Some(url), from_seq: Some(0), ..Wanted::default() }
}

pub fn acme() -> Scope {
    Scope::Tenant("acme".parse::<TenantId>().unwrap())
}

pub fn ada() -> PrincipalId {
    "acme/ada".parse().unwrap()
}

pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came");
}
