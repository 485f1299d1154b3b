//! Whether the memory of this process, with the keys in it, can end in a file or in a debugger.
//!
//! Must never say what was asked for in place of what is: the answer is read back from the kernel at each question.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};
use serde::Serialize;

/// Who can get the memory of this process, beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryDumps {
    /// Nobody: the kernel writes no core file and lets no process of this account read it.
    Off,
    /// A debugger of this account; no core file is written.
    Debuggers,
    /// Whoever gets the core file of a crash.
    CoreFiles,
}

/// Turns core files off for good, in this process and in all that it starts.
pub fn forbid_core_files() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Keeps other processes of this account, and handlers of crashes, from reading this process.
pub fn forbid_debuggers() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Who can get the memory of this process, as the kernel has it now.
pub fn memory_dumps() -> io::Result<MemoryDumps> {
    let core = getrlimit(Resource::Core);
    Ok(match dumpable_behavior()? {
        DumpableBehavior::NotDumpable => MemoryDumps::Off,
        _ if core.current == Some(0) && core.maximum == Some(0) => MemoryDumps::Debuggers,
        _ => MemoryDumps::CoreFiles,
    })
}
