//! How the sandbox is set up: the host's choices (`EngineConfig`) and the one wasmtime configuration made from them.
//!
//! Must give the compile child and the host the same code generation, or the host refuses what the child made.

use std::path::PathBuf;
use std::sync::Arc;

use cap_std::fs::Dir;
use ringfence_core::{Entropy, limits};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::guest::{INSTANCES_COUNT_MAX, MEMORIES_COUNT_MAX, TABLES_COUNT_MAX};
use crate::idle::IDLE_COUNT_MAX;
use crate::scheduler::class::IoClass;

/// Bytes of a linear memory kept resident between invocations: cheaper to clear than to fault in again.
const MEMORY_RESIDENT_BYTES: usize = 2 << 20;
/// The same for a table.
const TABLE_RESIDENT_BYTES: usize = 64 << 10;
/// Where written pages cannot be found, how many emptied slots are given back to the kernel at once.
const DECOMMIT_BATCH_COUNT: usize = 32;
/// LIMIT: most elements of one table.
const TABLE_ELEMENTS_COUNT_MAX: usize = 100_000;
/// Fibers in the pool for each slot: tasks of a component that wait at the same time. A component may have one for each of its
/// instances, and all of them come from one pool: a tenant's quarter of the slots cannot take them all, see SECURITY.md.
const STACKS_PER_SLOT_COUNT: u32 = 16;
/// LIMIT: rehearsals at the same time; the pool has instances for them beside the slots.
pub(crate) const REHEARSALS_COUNT_MAX: u32 = 2;
/// Address space reserved for a linear memory: with 4 GiB no access needs a bounds check.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
/// Unmapped bytes after a linear memory.
const MEMORY_GUARD_BYTES: u64 = 32 << 20;

/// How the memory of a slot is emptied after an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recycling {
    /// The pages that the guest wrote are found and zeroed where they are (`PAGEMAP_SCAN`, Linux 6.7).
    WrittenPages,
    /// All of it goes back to the kernel, some slots at a time: to zero it unseen would touch pages that no guest touched.
    GiveBack,
}

/// The host's choices.
pub struct EngineConfig {
    /// Threads that run guests and nothing else. About one a core.
    pub worker_threads: usize,
    /// Invocations that may run at once.
    pub slots: u32,
    /// Most bytes of one linear memory, for any plugin.
    pub memory_bytes_max: u64,
    /// Most bytes of memory of all invocations together; two rehearsals are beside it.
    pub guests_bytes_max: u64,
    /// How compile children are started.
    pub compile: CompileConfig,
    /// Where sealed native code is kept.
    pub cache: Dir,
    /// The runtime that does I/O and timers for guests; never runs one.
    pub io: tokio::runtime::Handle,
    /// What the kernel is asked for the threads of that runtime and for the pulse.
    pub io_class: IoClass,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
}

/// How compile children are started.
#[derive(Debug, Clone)]
pub struct CompileConfig {
    /// The program; normally our own binary.
    pub program: PathBuf,
    /// Its arguments; must lead it to [`Engine::compile_child_main`](crate::Engine::compile_child_main).
    pub args: Vec<String>,
    /// What a child may use.
    pub limits: CompileLimits,
}

/// What one compile child may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space, bytes.
    pub memory_bytes: u64,
    /// CPU time, seconds.
    pub cpu_seconds: u64,
    /// Wall time, milliseconds.
    pub time_ms: u64,
    /// Native code, bytes.
    pub native_bytes: u64,
}

impl CompileLimits {
    /// The host's hard caps.
    pub const HOST: Self = Self {
        memory_bytes: limits::COMPILE_MEMORY_BYTES_MAX,
        cpu_seconds: limits::COMPILE_CPU_SECONDS_MAX,
        time_ms: limits::COMPILE_TIME_MS_MAX,
        native_bytes: limits::NATIVE_BYTES_MAX,
    };
}

impl Recycling {
    /// What this kernel lets this process do. Asked before memory dumps are forbidden, the answer holds after that too: the
    /// file that says which pages were written is opened once, and could not be opened then.
    pub fn of_this_process() -> Self {
        if PoolingAllocationConfig::is_pagemap_scan_available() { Self::WrittenPages } else { Self::GiveBack }
    }
}

/// What decides about the generated code; the same in the host and in the compile child.
pub(crate) fn code_generation() -> Config {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.epoch_interruption(true);
    config.memory_reservation(MEMORY_RESERVATION_BYTES);
    config.memory_guard_size(MEMORY_GUARD_BYTES);
    config.memory_init_cow(true);
    config.wasm_component_model(true);
    config.wasm_component_model_async(true);
    // SECURITY: without these two, what waits inside a component holds at most a stack for each of its instances.
    config.wasm_component_model_async_stackful(false);
    config.wasm_component_model_threading(false);
    // SECURITY: proposals nobody needs are attack surface.
    config.shared_memory(false);
    config.wasm_memory64(false);
    config
}

/// The host's configuration: the same code, run from a pool.
pub(crate) fn host(slots: u32, memory_bytes_max: u64, recycling: Recycling) -> Config {
    let mut config = code_generation();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots, memory_bytes_max, recycling)));
    config
}

/// Instances that there can be at once.
fn places(slots: u32) -> u32 {
    slots.saturating_add(REHEARSALS_COUNT_MAX).saturating_add(IDLE_COUNT_MAX)
}

pub(crate) fn pool(slots: u32, memory_bytes_max: u64, recycling: Recycling) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    let each = |count: u32| places(slots).saturating_mul(count);
    pool.total_component_instances(each(1))
        .total_core_instances(each(INSTANCES_COUNT_MAX))
        .total_memories(each(MEMORIES_COUNT_MAX))
        .total_tables(each(TABLES_COUNT_MAX))
        .total_stacks(each(STACKS_PER_SLOT_COUNT))
        .max_core_instances_per_component(INSTANCES_COUNT_MAX)
        .max_memories_per_component(MEMORIES_COUNT_MAX)
        .max_tables_per_component(TABLES_COUNT_MAX)
        .max_memories_per_module(MEMORIES_COUNT_MAX)
        .max_tables_per_module(TABLES_COUNT_MAX)
        .max_memory_size(usize::try_from(memory_bytes_max).unwrap_or(usize::MAX))
        .table_elements(TABLE_ELEMENTS_COUNT_MAX);
    match recycling {
        Recycling::WrittenPages => pool
            .linear_memory_keep_resident(MEMORY_RESIDENT_BYTES)
            .table_keep_resident(TABLE_RESIDENT_BYTES)
            .pagemap_scan(Enabled::Auto),
        Recycling::GiveBack => pool
            .linear_memory_keep_resident(0)
            .table_keep_resident(0)
            .decommit_batch_size(DECOMMIT_BATCH_COUNT)
            .pagemap_scan(Enabled::No),
    };
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_written_pages_nothing_is_kept_and_slots_are_given_back_in_batches() {
        let said = |recycling| format!("{:?}", pool(1, 64 << 20, recycling));
        let (written, back) = (said(Recycling::WrittenPages), said(Recycling::GiveBack));
        for (one, other) in [
            ("linear_memory_keep_resident: 2097152", "linear_memory_keep_resident: 0"),
            ("table_keep_resident: 65536", "table_keep_resident: 0"),
            ("decommit_batch_size: 1,", "decommit_batch_size: 32,"),
            ("pagemap_scan: Auto", "pagemap_scan: No"),
        ] {
            assert!(written.contains(one), "{one}: {written}");
            assert!(back.contains(other), "{other}: {back}");
        }
    }

    #[test]
    fn one_tenant_cannot_take_all_stacks() {
        for slots in 1..=1_000 {
            // Each of its invocations one for each instance, one for what calls them and one that is kept.
            let taken = (slots / 4).max(1) * (INSTANCES_COUNT_MAX + 2);
            assert!(taken < places(slots) * STACKS_PER_SLOT_COUNT, "of {slots} slots");
        }
    }

    #[test]
    fn a_slot_is_empty_for_the_next_whichever_way_it_is_emptied() {
        let wat = wat::parse_str("(module (memory (export \"m\") 1))").unwrap();
        for recycling in [Recycling::WrittenPages, Recycling::GiveBack] {
            let engine = wasmtime::Engine::new(&host(1, 64 << 20, recycling)).unwrap();
            let module = wasmtime::Module::new(&engine, &wat).unwrap();
            // More than a batch, and more than there are slots.
            for turn in 0..300 {
                let mut store = wasmtime::Store::new(&engine, ());
                let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
                let bytes = instance.get_memory(&mut store, "m").unwrap().data_mut(&mut store);
                assert!(bytes.iter().all(|byte| *byte == 0), "{recycling:?}, turn {turn}");
                bytes.fill(7);
            }
        }
    }
}
