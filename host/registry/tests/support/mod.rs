//! A registry over a real store and a real engine, in a directory of its own.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use ringfence_core::{Action, Budget, Clock, DecisionId, Entropy, Manifest, Permit, PluginName, Resource, TenantId};
use ringfence_engine::{CompileConfig, CompileLimits, Engine, EngineConfig, GuestSetup};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_registry::{Published, Registry, RegistryError};
use ringfence_store::{DiskOptions, Store, TenantStore, Tenants};
use sha2::{Digest, Sha256};

pub struct TestClock(AtomicU64);
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_790_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed) as i64).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

pub struct TestEntropy(AtomicU64);
impl Entropy for TestEntropy {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// Everything below a registry. `open` can be called again, as after a restart.
pub struct World {
    pub directory: tempfile::TempDir,
    pub tenants: Tenants,
    pub store: Store,
    pub engine: Engine,
    pub clock: Arc<TestClock>,
    pub entropy: Arc<TestEntropy>,
}

impl World {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock(AtomicU64::new(0)));
        let entropy = Arc::new(TestEntropy(AtomicU64::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let store = Store::open(&directory.path().join("store"), DiskOptions::RECOMMENDED).unwrap();
        let tenants = Tenants::open(store.clone(), Arc::new(root), entropy.clone(), clock.clone()).await.unwrap();
        let engine = engine(&directory.path().join("cache"), entropy.clone());
        Self { directory, tenants, store, engine, clock, entropy }
    }

    pub async fn open(&self) -> Registry {
        self.open_with_domain(None).await
    }

    pub async fn open_with_domain(&self, domain: Option<&str>) -> Registry {
        let rehearsal = Arc::new(|| GuestSetup::bare(Budget::REHEARSAL));
        let domain = domain.map(str::to_owned);
        Registry::open(self.tenants.clone(), self.engine.clone(), rehearsal, self.clock.clone(), domain).await.unwrap()
    }

    pub async fn tenant(&self, name: &str) -> TenantStore {
        let id: TenantId = name.parse().unwrap();
        self.tenants.create(&id, name).await.unwrap();
        self.tenants.open_tenant(&id).unwrap()
    }

    /// Files of uploads and components on disk.
    pub fn files(&self) -> usize {
        count_files(&self.directory.path().join("store").join("blobs"))
    }
}

fn count_files(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn engine(cache: &Path, entropy: Arc<dyn Entropy>) -> Engine {
    std::fs::create_dir_all(cache).unwrap();
    let cache = cap_std::fs::Dir::open_ambient_dir(cache, cap_std::ambient_authority()).unwrap();
    let compile = CompileConfig { program: compile_child(), args: Vec::new(), limits: CompileLimits::HOST };
    let config = EngineConfig {
        worker_threads: 1,
        slots: 4,
        memory_bytes_max: Budget::CEILING.memory_bytes,
        guests_bytes_max: 4 * Budget::CEILING.memory_bytes,
        compile,
        cache,
        io_class: ringfence_engine::IoClass::Usual,
        io: tokio::runtime::Handle::current(),
        entropy,
    };
    Engine::new(config, |linker| {
        // The interfaces whose presence the tests need; their functions are another room's.
        for name in ["wasi:keyvalue/store@0.2.0-draft2", "wasi:logging/logging@0.1.0-draft"] {
            linker.instance(name)?;
        }
        Ok(())
    })
    .unwrap()
}

/// The example program beside this test, which cargo builds with it.
fn compile_child() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join("examples").join("compile_child")
}

/// A permit as policy would mint it.
#[expect(clippy::disallowed_methods, reason = "tests of a room that only spends permits")]
pub fn permit<A: Action>(store: &TenantStore, plugin: Option<&str>) -> Permit<A> {
    let tenant = store.tenant().unwrap().clone();
    let resource = match plugin {
        Some(plugin) => Resource::Plugin { tenant, plugin: plugin.parse().unwrap() },
        None => Resource::Tenant { tenant },
    };
    let decision = DecisionId::random(&TestEntropy(AtomicU64::new(9)));
    Permit::mint(decision, "acme/ci".parse().unwrap(), resource)
}

pub fn name(text: &str) -> PluginName {
    text.parse().unwrap()
}

pub fn label(text: &str) -> semver::Version {
    text.parse().unwrap()
}

pub fn manifest(plugin: &str, version: &str, more: &str) -> Manifest {
    Manifest::parse(&format!("[plugin]\nname = \"{plugin}\"\nversion = \"{version}\"\n{more}")).unwrap()
}

/// A component with a p2 handler that does nothing. `mark` makes its bytes differ, `imports` adds empty interfaces.
pub fn component(mark: &str, imports: &[&str]) -> Vec<u8> {
    component_with(mark, imports, "")
}

/// The same, with more in its core module, such as a start function.
pub fn component_with(mark: &str, imports: &[&str], more: &str) -> Vec<u8> {
    let imports: String = imports.iter().map(|name| format!("(import \"{name}\" (instance))\n")).collect();
    wat::parse_str(format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            {imports}
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $m
                (memory 1)
                (data (i32.const 0) "{mark}")
                {more}
                (func (export "handle") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $i "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    ))
    .unwrap()
}

/// A body that arrives in pieces.
pub fn body(bytes: Vec<u8>) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Unpin {
    let pieces: Vec<_> = bytes.chunks(1_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(pieces)
}

pub async fn push(
    registry: &Registry,
    store: &TenantStore,
    plugin: &str,
    version: &str,
    needs: &str,
    bytes: Vec<u8>,
) -> Result<Published, RegistryError> {
    let manifest = manifest(plugin, version, needs);
    registry.push(permit(store, Some(plugin)), store, &name(plugin), &label(version), manifest, body(bytes)).await
}
