//! The sandbox as the other rooms see it: compile, keep and load code, rehearse, run.
//!
//! Must never run code that was not compiled by this host, and never without a slot. Knows no tenant data, no HTTP
//! server and no disk but its cache.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use cap_std::fs::Dir;
use ringfence_core::{Digest, Entropy, TenantId};
use ringfence_keys::TenantKeys;
use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use crate::body::Body;
use crate::child;
use crate::code::{self, Cache, Code, NativeCode};
use crate::compile::Compiler;
use crate::config::{self, CompileConfig, EngineConfig, Recycling};
use crate::error::{CompileError, EngineError, RunError, RunFailure};
use crate::event::{Answered, EventCall};
use crate::guest::{Guest, GuestSetup};
use crate::idle::{self, Idle};
use crate::pool::HostMemory;
use crate::run::{self, Reply};
use crate::scheduler::{Scheduler, Slot};

/// The sandbox. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    compiler: Arc<Compiler>,
    cache: Arc<Dir>,
    entropy: Arc<dyn Entropy>,
    linker: Arc<Linker<Guest>>,
}

/// What running guests need of it.
pub(crate) struct Shared {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) scheduler: Scheduler,
    pub(crate) rehearsals: Arc<Semaphore>,
    pub(crate) idle: Arc<Idle>,
    pub(crate) memory: Arc<HostMemory>,
    /// Most bytes of one linear memory.
    pub(crate) memory_bytes_max: u64,
}

// === impl Engine ===

impl Engine {
    /// Sets up the pool, starts the worker threads and their pulse, and offers guests WASI 0.2 and 0.3, their HTTP,
    /// and whatever `link` adds.
    pub fn new(
        config: EngineConfig,
        link: impl FnOnce(&mut Linker<Guest>) -> wasmtime::Result<()>,
    ) -> Result<Self, EngineError> {
        let start = |error: wasmtime::Error| EngineError::Start(format!("{error:#}"));
        let engine =
            wasmtime::Engine::new(&config::host(config.slots, config.memory_bytes_max, Recycling::of_this_process()))
                .map_err(start)?;
        let linker = offer(&engine, link).map_err(start)?;
        let idle = Arc::new(Idle::default());
        let scheduler =
            Scheduler::start(config.slots, config.worker_threads, engine.clone(), config.io_class, &config.io)
                .map_err(|error| EngineError::Start(error.to_string()))?;
        let rehearsals = Arc::new(Semaphore::new(config::REHEARSALS_COUNT_MAX as usize));
        let memory = HostMemory::new(config.guests_bytes_max);
        memory.takes_back_from(&idle);
        memory.line().ends_of(scheduler.workers());
        let memory_bytes_max = config.memory_bytes_max;
        let shared = Arc::new(Shared { engine, scheduler, rehearsals, idle, memory, memory_bytes_max });
        config.io.spawn(idle::sweep(Arc::downgrade(&shared)));
        Ok(Self {
            shared,
            compiler: Arc::new(Compiler::new(config.compile)),
            cache: Arc::new(config.cache),
            entropy: config.entropy,
            linker: Arc::new(linker),
        })
    }

    /// Compiles a component as [`Engine::compile`] does, without an engine: shows that children can start on this machine.
    pub async fn compile_once(config: CompileConfig, component: Vec<u8>) -> Result<NativeCode, CompileError> {
        Compiler::new(config).compile(component).await
    }

    /// Compiles a component in a child process with limits and a deadline; at most two at a time.
    /// Call it inside a tokio runtime with I/O and timers.
    pub async fn compile(&self, component: Vec<u8>) -> Result<NativeCode, CompileError> {
        self.compiler.compile(component).await
    }

    /// What a compile child does instead of everything else. Call it first thing in `main`, before any thread starts.
    pub fn compile_child_main() -> ExitCode {
        child::main()
    }

    /// Keeps native code for later starts, sealed for the tenant, the component and this engine. Blocks on the disk.
    pub fn store_native(&self, keys: &TenantKeys, digest: &Digest, native: &NativeCode) -> Result<(), EngineError> {
        self.entries().store(keys, digest, native)
    }

    /// Loads code that was kept. None when there is none; also when an entry is torn, foreign or tampered with, which is
    /// logged and deleted: compile again. Blocks on the disk.
    pub fn load(&self, keys: &TenantKeys, digest: &Digest) -> Result<Option<Code>, EngineError> {
        self.entries().load(&self.linker, keys, digest)
    }

    /// The name under which native code is kept, for [`Engine::sweep_native`].
    pub fn native_name(&self, keys: &TenantKeys, digest: &Digest) -> Result<String, EngineError> {
        code::file_name(keys, digest)
    }

    /// Removes kept native code that is not among `live` and was written before `before`; gives how many entries.
    /// Blocks on the disk.
    pub fn sweep_native(&self, live: &HashSet<String>, before: SystemTime) -> Result<usize, EngineError> {
        self.entries().sweep(live, before)
    }

    /// How many pieces of native code are kept on disk, and their bytes. Blocks on the disk.
    pub fn native_size(&self) -> Result<(u64, u64), EngineError> {
        self.entries().size()
    }

    /// Loads code fresh from our own compile child. Blocks for as long as copying it takes.
    pub fn code(&self, native: &NativeCode) -> Result<Code, EngineError> {
        code::from_child(&self.shared.engine, &self.linker, native)
    }

    /// Whether all imports are offered and a handler is exported; the error names the imports that are not.
    pub fn check_linkable(&self, code: &Code) -> Result<(), EngineError> {
        code.check_linkable()
    }

    /// The imports of a component that this host does not offer, by name with version.
    pub fn unknown_imports(&self, code: &Code) -> Vec<String> {
        code.unknown_imports()
    }

    /// Instantiates a component once, to see that it starts; nothing of it is called.
    /// A guest made with `Budget::REHEARSAL` is meant; at most two rehearse at a time, beside the slots.
    pub async fn rehearse(&self, code: &Code, guest: GuestSetup) -> Result<(), RunError> {
        run::rehearse(&self.shared, code, guest).await
    }

    /// Who runs when.
    pub fn scheduler(&self) -> &Scheduler {
        &self.shared.scheduler
    }

    /// The memory of all that runs, of which each tenant has a part.
    pub fn memory(&self) -> &Arc<HostMemory> {
        &self.shared.memory
    }

    /// Drops the instances of a tenant that wait for another invocation.
    pub fn forget_idle(&self, tenant: &TenantId) {
        self.shared.idle.forget(tenant);
    }

    /// Instances that wait for another invocation.
    pub fn idle_count(&self) -> u32 {
        self.shared.idle.count()
    }

    /// Runs the component's handler on a request, in a fresh instance unless the setup allows another. Returns when the head of the answer is there.
    /// Dropping the future or the answer's body stops the guest.
    pub async fn run(
        &self,
        slot: Slot,
        code: &Code,
        guest: GuestSetup,
        request: http::Request<Body>,
    ) -> Result<Reply, RunFailure> {
        run::run(&self.shared, slot, code, guest, request).await
    }

    /// Runs one of the component's handlers that is not for HTTP, to its end, in a fresh instance unless the setup allows
    /// another. Dropping the future stops the guest.
    pub async fn run_event(
        &self,
        slot: Slot,
        code: &Code,
        guest: GuestSetup,
        call: EventCall,
    ) -> Result<Answered, RunFailure> {
        run::run_event(&self.shared, slot, code, guest, call).await
    }

    fn entries(&self) -> Cache<'_> {
        Cache { dir: &self.cache, engine: &self.shared.engine, entropy: &*self.entropy }
    }
}

/// Everything a guest may import. The context behind it is empty; what needs a grant asks for it at every call.
fn offer(
    engine: &wasmtime::Engine,
    link: impl FnOnce(&mut Linker<Guest>) -> wasmtime::Result<()>,
) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    link(&mut linker)?;
    Ok(linker)
}
