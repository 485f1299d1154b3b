//! Loaded code, kept by tenant and digest; loaded from the authenticated cache, or compiled again from the sealed component.
//!
//! Must never load for one tenant what another's cache entry holds: the tenant is part of the key, here and in the cache.
//! A version that many calls ask for at once is loaded once. Which stay loaded: `kept.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::limits::COMPONENT_BYTES_MAX;
use ringfence_core::{Clock, Digest, TenantId};
use ringfence_engine::{Code, Engine, NativeCode};
use ringfence_store::TenantStore;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::kept::Kept;
use crate::turns::Turns;
use crate::{RegistryError, VersionRef};

/// LIMIT: versions kept loaded. Each holds a few memory mappings, of which a process has about 65,000.
const CODE_COUNT_MAX: usize = 1_000;

type Slot = Arc<OnceCell<Code>>;

/// What is loaded, and how often that helped since the host started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Versions loaded now.
    pub count: usize,
    /// Times a version was asked for and was loaded.
    pub hits: u64,
    /// Times it was not, and somebody waited for it.
    pub misses: u64,
    /// How long they waited in all.
    pub waited: Duration,
    /// Versions that gave way to others.
    pub evicted: u64,
}

/// The loaded code.
pub(crate) struct Loader {
    engine: Engine,
    turns: Arc<Turns>,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept<Slot>>,
    hits: AtomicU64,
    misses: AtomicU64,
    waited_us: AtomicU64,
}

impl Loader {
    pub(crate) fn new(engine: Engine, turns: Arc<Turns>, clock: Arc<dyn Clock>) -> Self {
        let kept = Mutex::new(Kept::new(CODE_COUNT_MAX));
        let [hits, misses, waited_us] = [const { AtomicU64::new(0) }; 3];
        Self { engine, turns, clock, kept, hits, misses, waited_us }
    }

    /// What is loaded.
    pub(crate) fn loaded(&self) -> Loaded {
        let kept = self.kept();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Loaded {
            count: kept.count(),
            hits: of(&self.hits),
            misses: of(&self.misses),
            waited: Duration::from_micros(of(&self.waited_us)),
            evicted: kept.evicted(),
        }
    }

    /// The code of a version.
    pub(crate) async fn get(&self, version: &VersionRef) -> Result<Code, RegistryError> {
        let slot = self.slot(&version.store, &version.digest);
        if let Some(code) = slot.get() {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(code.clone());
        }
        let asked = self.clock.monotonic();
        let code = slot.get_or_try_init(|| self.load(version)).await.cloned();
        let waited = self.clock.monotonic().saturating_sub(asked);
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.waited_us.fetch_add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        code
    }

    /// Keeps code that was just compiled.
    pub(crate) fn keep(&self, store: &TenantStore, digest: &Digest, code: Code) {
        // Someone else may have loaded the same just now; either will do.
        let _ = self.slot(store, digest).set(code);
    }

    /// Lets go of a tenant's code.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.kept().forget(tenant.as_str());
    }

    async fn load(&self, version: &VersionRef) -> Result<Code, RegistryError> {
        let cached = self.cached(&version.store, version.digest).await;
        if let Some(code) = cached {
            return Ok(code);
        }
        // Before the component is in memory, and behind the tenant's own uploads.
        let _turn = self.turns.compile(version.store.label()).await?;
        let component = version.store.blobs().read_all(&version.blob, COMPONENT_BYTES_MAX).await?;
        if <[u8; 32]>::from(Sha256::digest(&component)) != *version.digest.as_bytes() {
            return Err(RegistryError::Host(format!(
                "the component of `{}@{}` is not the one published",
                version.plugin, version.label
            )));
        }
        let (code, native) = compile(&self.engine, component).await?;
        keep_native(&self.engine, &version.store, version.digest, native).await?;
        Ok(code)
    }

    /// The code in the cache, if there is any that can be trusted.
    pub(crate) async fn cached(&self, store: &TenantStore, digest: Digest) -> Option<Code> {
        let (engine, keys) = (self.engine.clone(), store.keys().clone());
        let loaded = blocking(move || engine.load(&keys, &digest)).await;
        loaded.and_then(|loaded| Ok(loaded?)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the native-code cache could not be read");
            None
        })
    }

    fn slot(&self, store: &TenantStore, digest: &Digest) -> Slot {
        let now = self.clock.monotonic();
        // What had to go is unmapped when nobody waits for the lock.
        let (slot, _gone) = self.kept().take(store.label(), digest, now);
        slot
    }

    fn kept(&self) -> MutexGuard<'_, Kept<Slot>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles a component in the child and loads it.
pub(crate) async fn compile(engine: &Engine, component: Vec<u8>) -> Result<(Code, NativeCode), RegistryError> {
    let native = engine.compile(component).await?;
    let engine = engine.clone();
    blocking(move || Ok((engine.code(&native)?, native))).await?
}

/// Keeps native code for later starts, sealed for the tenant. Only code that has shown that it starts.
pub(crate) async fn keep_native(
    engine: &Engine,
    store: &TenantStore,
    digest: Digest,
    native: NativeCode,
) -> Result<(), RegistryError> {
    let (engine, keys) = (engine.clone(), store.keys().clone());
    blocking(move || {
        if let Err(error) = engine.store_native(&keys, &digest, &native) {
            // Only costs a compilation after the next start.
            tracing::warn!(%error, "native code could not be kept");
        }
    })
    .await
}

/// Runs what blocks away from the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RegistryError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RegistryError::Host("a task of the registry failed".to_owned()))
}
