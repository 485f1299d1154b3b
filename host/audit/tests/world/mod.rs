//! A log's surroundings for tests: a store in memory, a clock and dice that behave the same every time.
#![allow(dead_code, missing_docs, reason = "each test program uses a part")]

pub mod made;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_audit::{Audit, AuditError, Event, codes};
use ringfence_core::{Clock, Entropy, PrincipalId, TenantId};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Faults, Store, TenantStore, Tenants};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A clock that moves a millisecond at every look.
pub struct TestClock(pub AtomicI64, pub AtomicU64);

impl TestClock {
    /// Moves the monotonic clock on.
    pub fn advance(&self, by: Duration) {
        self.1.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.1.load(Ordering::Relaxed))
    }
}

/// Dice that fall the same way every time.
pub struct TestEntropy(AtomicU64);
impl Entropy for TestEntropy {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// A store with its keys.
pub struct World {
    pub store: Store,
    pub tenants: Tenants,
    pub clock: Arc<TestClock>,
    pub entropy: Arc<TestEntropy>,
    /// The root key; it is asked again when keys are enabled again.
    _directory: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        Self::with_faults(Faults::default()).await
    }

    pub async fn with_faults(faults: Faults) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clock, entropy) = (
            Arc::new(TestClock(AtomicI64::new(1_790_000_000_000), AtomicU64::new(0))),
            Arc::new(TestEntropy(AtomicU64::new(1))),
        );
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let store = Store::memory_with_faults(faults);
        let tenants = Tenants::open(store.clone(), Arc::new(root), entropy.clone(), clock.clone()).await.unwrap();
        Self { store, tenants, clock, entropy, _directory: directory }
    }
    pub async fn open(&self) -> Audit {
        self.try_open().await.unwrap()
    }
    pub async fn try_open(&self) -> Result<Audit, AuditError> {
        Audit::open(self.tenants.clone(), self.clock.clone(), self.entropy.clone(), "host.example".to_owned()).await
    }
    pub async fn tenant(&self, name: &str) -> TenantStore {
        let id: TenantId = name.parse().unwrap();
        self.tenants.create(&id, name).await.unwrap();
        self.tenants.open_tenant(&id).unwrap()
    }
}

pub fn event(code: &'static str, details: Value) -> Event {
    let actor: PrincipalId = "acme/canary-ada".parse().unwrap();
    Event { details, ..Event::new(code, "push-version", actor, "tenant/acme/plugin/canary-visits") }
}

pub fn pushed() -> Event {
    event(codes::VERSION_PUSHED, json!({"version": "0.1.0"}))
}
