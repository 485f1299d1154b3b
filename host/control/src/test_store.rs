//! A tenant's store in memory, for unit tests of what is kept there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::{Clock, Entropy};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Store, TenantStore, Tenants};

struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

impl Clock for Counter {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// The store of a tenant `acme`, and the directory of its root key.
pub(crate) async fn store() -> (TenantStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let counter = Arc::new(Counter(AtomicU64::new(1)));
    let root = RootKey::open_or_create(&RootKeyUri::File(dir.path().join("root.key")), &*counter).unwrap();
    let tenants = Tenants::open(Store::memory(), Arc::new(root), Arc::clone(&counter) as _, counter).await.unwrap();
    let acme = "acme".parse().unwrap();
    tenants.create(&acme, "Acme").await.unwrap();
    (tenants.open_tenant(&acme).unwrap(), dir)
}
