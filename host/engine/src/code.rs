//! Native code: how it is kept between runs of the host, and how it becomes something that can be run.
//!
//! Deserialising native code is executing it. Bytes come from exactly two places: our own compile child of this
//! process, and a cache entry that was opened with the tenant's key for this digest and this engine. Must never load
//! anything else; a torn, foreign or tampered entry is deleted and compiled again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use cap_std::fs::Dir;
use data_encoding::HEXLOWER;
use ringfence_core::{Digest, Entropy, limits};
use ringfence_keys::{Context, KeysError, Purpose, RECORD_OVERHEAD_BYTES, TenantKeys};
use wasmtime::Store;
use wasmtime::component::{Component, Instance, InstancePre, Linker};
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::{p2, p3};

use crate::error::{EngineError, RunError, bounded};
use crate::event::{Export, Handlers};
use crate::guest::Guest;
use crate::imports;

/// Native code from our own compile child, not yet loaded.
pub struct NativeCode(Vec<u8>);

impl NativeCode {
    /// SECURITY: for the compile child's answer alone.
    pub(crate) fn from_child(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A component that is loaded and, when it fits this host, ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Code(Arc<Loaded>);

struct Loaded {
    component: Component,
    ready: Result<Ready, Misfit>,
}

/// A component whose imports are all there, with the handlers it exports: at least one.
pub(crate) struct Ready {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) http: Option<HttpHandler>,
    pub(crate) events: Handlers,
}

/// Where a component has its handler for HTTP.
pub(crate) enum HttpHandler {
    P2(p2::bindings::ProxyIndices),
    P3(p3::bindings::ServiceIndices),
}

/// Why a component cannot be linked.
#[derive(Debug, Clone)]
enum Misfit {
    Imports(Vec<String>),
    Other(String),
}

// === impl Code ===

impl Code {
    /// Whether every import is offered and a handler is exported; the error names what is not.
    pub(crate) fn check_linkable(&self) -> Result<(), EngineError> {
        match &self.0.ready {
            Ok(_) => Ok(()),
            Err(Misfit::Imports(imports)) => Err(EngineError::UnknownImports { imports: imports.clone() }),
            Err(Misfit::Other(message)) => Err(EngineError::Unfit(message.clone())),
        }
    }

    /// The imports that the host does not offer, by name with version.
    pub(crate) fn unknown_imports(&self) -> Vec<String> {
        match &self.0.ready {
            Err(Misfit::Imports(imports)) => imports.clone(),
            _ => Vec::new(),
        }
    }

    /// The names of all imports with their versions, sorted.
    pub fn imports(&self) -> Vec<String> {
        imports::names(&self.0.component)
    }

    /// Whether it exports this handler.
    pub fn has(&self, export: Export) -> bool {
        self.0.ready.as_ref().is_ok_and(|ready| ready.events.get(export).is_some())
    }

    pub(crate) fn ready(&self) -> Result<&Ready, RunError> {
        self.0.ready.as_ref().map_err(|_| RunError::Host("the component was never checked to be linkable".to_owned()))
    }
}

// === impl HttpHandler ===

impl HttpHandler {
    /// The handler of an instance of this component.
    pub(crate) fn of(&self, store: &mut Store<Guest>, instance: &Instance) -> wasmtime::Result<Proxy> {
        Ok(match self {
            Self::P2(indices) => Proxy::P2(indices.load(&mut *store, instance)?),
            Self::P3(indices) => Proxy::P3(indices.load(&mut *store, instance)?),
        })
    }
}

/// Loads code that our own compile child made.
pub(crate) fn from_child(
    engine: &wasmtime::Engine,
    linker: &Linker<Guest>,
    native: &NativeCode,
) -> Result<Code, EngineError> {
    let component = deserialize(engine, Trusted(&native.0)).map_err(|error| unfit(&error))?;
    Ok(link(linker, component))
}

/// The sealed entries of one directory.
pub(crate) struct Cache<'a> {
    pub(crate) dir: &'a Dir,
    pub(crate) engine: &'a wasmtime::Engine,
    pub(crate) entropy: &'a dyn Entropy,
}

// === impl Cache ===

impl Cache<'_> {
    /// Seals native code for the tenant, the digest and this engine, and puts it in place of what was there.
    pub(crate) fn store(&self, keys: &TenantKeys, digest: &Digest, native: &NativeCode) -> Result<(), EngineError> {
        let place = self.place(digest);
        let context = context(keys, &place);
        let sealed = keys
            .seal(Purpose::Cache, &context, &native.0, self.entropy)
            .map_err(|error| EngineError::Cache(error.to_string()))?;
        let name = file_name(keys, digest)?;
        let mut random = [0_u8; 8];
        self.entropy.fill(&mut random);
        let part = format!("{name}.{}.part", HEXLOWER.encode(&random));
        let written = self.write(&part, &sealed).and_then(|()| self.dir.rename(&part, self.dir, &name));
        if let Err(error) = written {
            let _ = self.dir.remove_file(&part);
            return Err(unavailable(&error));
        }
        Ok(())
    }

    /// The code kept for the tenant and the digest; none when there is none that can be trusted.
    pub(crate) fn load(
        &self,
        linker: &Linker<Guest>,
        keys: &TenantKeys,
        digest: &Digest,
    ) -> Result<Option<Code>, EngineError> {
        let name = file_name(keys, digest)?;
        let Some(sealed) = self.read(&name)? else { return Ok(None) };
        let place = self.place(digest);
        // SECURITY: nothing of the entry is looked at before it is authenticated for this tenant, digest and engine.
        let native = match keys.open(Purpose::Cache, &context(keys, &place), &sealed) {
            Ok(native) => native,
            // Closed keys say nothing about the entry.
            Err(error @ KeysError::Closed(_)) => return Err(EngineError::Cache(error.to_string())),
            Err(_) => return self.discard(&name, "it is not authentic for this tenant, component and engine"),
        };
        match deserialize(self.engine, Trusted(native.as_slice())) {
            Ok(component) => Ok(Some(link(linker, component))),
            Err(_) => self.discard(&name, "the engine does not accept it"),
        }
    }

    /// Removes what is not among `live` and was last written before `before`; gives how many entries.
    pub(crate) fn sweep(&self, live: &HashSet<String>, before: SystemTime) -> Result<usize, EngineError> {
        let mut swept = 0;
        for entry in self.dir.entries().map_err(|error| unavailable(&error))? {
            let entry = entry.map_err(|error| unavailable(&error))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            // What cannot be looked at is gone already, or will be there at the next sweep.
            let is_old = written.is_ok_and(|written| written.into_std() < before);
            if is_old && !live.contains(&name) && self.dir.remove_file(&name).is_ok() {
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// How many entries there are, and their bytes.
    pub(crate) fn size(&self) -> Result<(u64, u64), EngineError> {
        let entries = self.dir.entries().map_err(|error| unavailable(&error))?;
        let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
        Ok(sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size)))
    }

    fn discard(&self, name: &str, why: &str) -> Result<Option<Code>, EngineError> {
        tracing::warn!(entry = name, why, "native-code cache entry deleted; the component will be compiled again");
        self.dir.remove_file(name).map_err(|error| unavailable(&error))?;
        Ok(None)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let mut file = self.dir.create(name)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let file = match self.dir.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        let most = limits::NATIVE_BYTES_MAX.saturating_add(RECORD_OVERHEAD_BYTES as u64);
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(|error| unavailable(&error))?;
        Ok(Some(bytes))
    }

    /// What an entry belongs to: the component's digest and the engine's compatibility hash.
    fn place(&self, digest: &Digest) -> Vec<u8> {
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        let mut place = digest.as_bytes().to_vec();
        place.extend_from_slice(&hasher.finish().to_be_bytes());
        place
    }
}

fn context<'a>(keys: &'a TenantKeys, place: &'a [u8]) -> Context<'a> {
    Context { tenant: keys.tenant(), store: "native-code", key: place, revision: 0 }
}

pub(crate) fn file_name(keys: &TenantKeys, digest: &Digest) -> Result<String, EngineError> {
    let name = keys.mac(Purpose::Cache, digest.as_bytes()).map_err(|error| EngineError::Cache(error.to_string()))?;
    Ok(HEXLOWER.encode(&name))
}

/// Bytes that may be executed. INVARIANT: made only in this file, from a child's answer or an authenticated entry.
struct Trusted<'a>(&'a [u8]);

#[expect(unsafe_code, reason = "native code cannot be loaded otherwise; `Trusted` says where it comes from")]
fn deserialize(engine: &wasmtime::Engine, native: Trusted<'_>) -> wasmtime::Result<Component> {
    // SAFETY: the bytes were made by `Engine::precompile_component`, in a child process of this host or, for a cache
    // entry, in one whose answer was sealed with the tenant's key under this digest and this engine's compatibility
    // hash, and that seal was just verified.
    unsafe { Component::deserialize(engine, native.0) }
}

fn link(linker: &Linker<Guest>, component: Component) -> Code {
    let ready = ready(linker, &component);
    Code(Arc::new(Loaded { component, ready }))
}

fn ready(linker: &Linker<Guest>, component: &Component) -> Result<Ready, Misfit> {
    let pre = linker.instantiate_pre(component).map_err(|error| {
        let unknown = imports::unknown(component, &error);
        if unknown.is_empty() { Misfit::Other(bounded(&format!("{error:#}"))) } else { Misfit::Imports(unknown) }
    })?;
    let events = Handlers::of(component);
    // A component that exports both is run by the newer one.
    let http = match p3::bindings::ServiceIndices::new(&pre) {
        Ok(service) => Some(HttpHandler::P3(service)),
        Err(_) => p2::bindings::ProxyIndices::new(&pre).map(HttpHandler::P2).ok(),
    };
    if http.is_none() && events.is_empty() {
        return Err(Misfit::Other(
            "it exports neither `wasi:http/handler` (0.3), `wasi:http/incoming-handler` (0.2) nor a handler of `ringfence:plugin`"
                .to_owned(),
        ));
    }
    Ok(Ready { pre, http, events })
}

fn unfit(error: &wasmtime::Error) -> EngineError {
    EngineError::Unfit(bounded(&format!("{error:#}")))
}

fn unavailable(error: &std::io::Error) -> EngineError {
    EngineError::Cache(error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use ringfence_keys::{RootKey, RootKeyUri};

    use super::*;
    use crate::config::{Recycling, code_generation};

    struct Counter(std::sync::atomic::AtomicU8);

    impl Entropy for Counter {
        fn fill(&self, into: &mut [u8]) {
            into.fill_with(|| self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    #[test]
    fn an_entry_of_an_engine_that_generates_other_code_is_deleted_and_not_loaded() {
        let entropy = Counter(1.into());
        let dir = tempfile::tempdir().unwrap();
        let root = RootKey::open_or_create(&RootKeyUri::File(dir.path().join("root.key")), &entropy).unwrap();
        let keys = root.new_tenant_key("acme", &entropy).unwrap().0;
        let entries = tempfile::tempdir().unwrap();
        let cache_dir = Dir::open_ambient_dir(entries.path(), cap_std::ambient_authority()).unwrap();
        let (ours, mut config) = (wasmtime::Engine::new(&code_generation()).unwrap(), code_generation());
        let theirs = wasmtime::Engine::new(config.epoch_interruption(false)).unwrap();
        let digest = Digest::from_sha256([7; 32]);
        let component = wat::parse_str("(component)").unwrap();
        let native = NativeCode::from_child(theirs.precompile_component(&component).unwrap());
        let cache = |engine| Cache { dir: &cache_dir, engine, entropy: &entropy };
        cache(&theirs).store(&keys, &digest, &native).unwrap();
        assert!(cache(&theirs).load(&Linker::new(&theirs), &keys, &digest).unwrap().is_some());
        assert!(cache(&ours).load(&Linker::new(&ours), &keys, &digest).unwrap().is_none());
        assert_eq!(std::fs::read_dir(entries.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_what_no_version_has_and_leaves_what_is_live_or_young() {
        let entropy = Counter(1.into());
        let dir = tempfile::tempdir().unwrap();
        let root = RootKey::open_or_create(&RootKeyUri::File(dir.path().join("root.key")), &entropy).unwrap();
        let keys = root.new_tenant_key("acme", &entropy).unwrap().0;
        let entries = tempfile::tempdir().unwrap();
        let cache_dir = Dir::open_ambient_dir(entries.path(), cap_std::ambient_authority()).unwrap();
        let engine = wasmtime::Engine::new(&code_generation()).unwrap();
        let cache = Cache { dir: &cache_dir, engine: &engine, entropy: &entropy };
        let native = NativeCode::from_child(b"anything".to_vec());
        let (kept, gone) = (Digest::from_sha256([1; 32]), Digest::from_sha256([2; 32]));
        for digest in [kept, gone] {
            cache.store(&keys, &digest, &native).unwrap();
        }
        cache_dir.write("left.part", b"by a crash").unwrap();
        let live = HashSet::from([file_name(&keys, &kept).unwrap()]);
        let written = cache_dir.metadata("left.part").unwrap().modified().unwrap().into_std();
        let (earlier, later) = (std::time::Duration::from_secs(60), std::time::Duration::from_secs(60));
        assert_eq!(cache.sweep(&live, written - earlier).unwrap(), 0, "an upload may be about to publish them");
        assert_eq!(cache.size().unwrap().0, 3);
        assert_eq!(cache.sweep(&live, written + later).unwrap(), 2);
        assert!(cache.read(&file_name(&keys, &kept).unwrap()).unwrap().is_some());
        assert!(cache.read(&file_name(&keys, &gone).unwrap()).unwrap().is_none());
    }

    #[test]
    fn the_host_and_the_compile_child_generate_the_same_code() {
        let hash = |config: &wasmtime::Config| {
            let mut hasher = DefaultHasher::new();
            wasmtime::Engine::new(config).unwrap().precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        for recycling in [Recycling::WrittenPages, Recycling::GiveBack] {
            assert_eq!(hash(&code_generation()), hash(&crate::config::host(1, 64 << 20, recycling)));
        }
    }
}
