//! What the store's tests share: entropy, a clock that stands still, and a short way to an open store.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod kms;
pub mod transit;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ringfence_core::{Clock, Entropy, TenantId};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::backup::{Archives, GuestLogs, Keyring, Order, Reason, Source};
use ringfence_store::{Backend, DiskOptions, Store, StoreError, TenantStore, Tenants};

pub const fn options(backend: Backend) -> DiskOptions {
    DiskOptions { backend, cache_bytes: 4 << 20, free_bytes_min: 1 << 20 }
}

/// How many times to do something: more when `RINGFENCE_TORTURE` says how many times more.
#[allow(clippy::disallowed_methods, reason = "how often a test repeats itself is asked of whoever runs it")]
pub fn times(usual: usize) -> usize {
    usual * std::env::var("RINGFENCE_TORTURE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Makes one test a backend out of each of these.
#[macro_export]
macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        mod sled { $(#[tokio::test] async fn $name() { super::$name(ringfence_store::Backend::Sled).await; })* }
        mod redb { $(#[tokio::test] async fn $name() { super::$name(ringfence_store::Backend::Redb).await; })* }
    };
}

/// Longer than anything takes that waits for no provider.
pub const DEADLINE: Duration = Duration::from_secs(8);

/// What may not wait for a provider that takes its time.
pub async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, act).await.unwrap_or_else(|_| panic!("{what} waits for a provider"))
}

pub struct SystemEntropy;
impl Entropy for SystemEntropy {
    fn fill(&self, into: &mut [u8]) {
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(into)).expect("the system has entropy");
    }
}

pub struct StoppedClock;
impl Clock for StoppedClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A data directory and the root key beside it.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub backend: Backend,
}

impl Place {
    pub fn new() -> Self {
        Self::on(Backend::Sled)
    }
    pub fn on(backend: Backend) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), backend }
    }
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
    pub async fn open(&self) -> (Store, Tenants) {
        open(self.directory.path(), self.backend).await.unwrap()
    }
    pub fn options(&self) -> DiskOptions {
        options(self.backend)
    }
    /// The database's one file that matters.
    pub fn database(&self) -> PathBuf {
        self.data().join(database(self.backend))
    }
}

pub fn root(directory: &Path) -> Arc<RootKey> {
    let uri = RootKeyUri::File(directory.join("root.key"));
    Arc::new(RootKey::open_or_create(&uri, &SystemEntropy).unwrap())
}

/// The database's one file that matters, below the data directory.
pub fn database(backend: Backend) -> &'static str {
    match backend {
        Backend::Sled => "db/db",
        Backend::Redb => "redb/data.redb",
    }
}

pub async fn open(directory: &Path, backend: Backend) -> Result<(Store, Tenants), StoreError> {
    let store = Store::open(&directory.join("data"), options(backend))?;
    let tenants = tenants(&store, root(directory)).await?;
    Ok((store, tenants))
}

pub async fn tenants(store: &Store, root: Arc<RootKey>) -> Result<Tenants, StoreError> {
    Tenants::open(store.clone(), root, Arc::new(SystemEntropy), Arc::new(StoppedClock)).await
}

pub async fn memory() -> (tempfile::TempDir, Store, Tenants) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let tenants = tenants(&store, root(directory.path())).await.unwrap();
    (directory, store, tenants)
}

pub fn id(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// The view of a tenant, made when it is not there.
pub async fn view(tenants: &Tenants, name: &str) -> TenantStore {
    if tenants.open_tenant(&id(name)).is_none() {
        tenants.create(&id(name), name).await.unwrap();
    }
    tenants.open_tenant(&id(name)).unwrap()
}

/// A full backup of a tenant, and what opens it.
pub async fn backed_up(archives: &Archives, store: &TenantStore) -> Source {
    let order = Order {
        tenant: store.tenant().unwrap().clone(),
        display_name: "Backed up".to_owned(),
        host: "here".to_owned(),
        parent: None,
        reason: Reason::Asked,
        guest_logs: GuestLogs::With,
        audit_checkpoint: "signed".to_owned(),
        audit_vkey: "key".to_owned(),
    };
    let backup = archives.create(store, &order).await.unwrap().backup;
    Source { tenant_uid: store.uid(), backup, keyring: Keyring::of(store).await.unwrap() }
}

/// All files below a directory with their contents.
pub fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                files.push((path, content));
            }
        }
    }
    files
}

pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
