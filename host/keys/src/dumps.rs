//! Whether the memory of this process, with the keys in it, can end in a file or in a debugger.
//!
//! Must never say what was asked for in place of what is: the answer is read back from the kernel at each question.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};
use serde::Serialize;

/// What the kernel does with the memory of a process that crashes.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// Who can get the memory of this process, beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryDumps {
    /// Nobody: the kernel writes no core file and lets no process of this account read it.
    Off,
    /// A debugger of this account; no core file is written.
    Debuggers,
    /// The same, and the program that the kernel hands crashes to here: no limit of core files keeps it from that.
    CrashHandler,
    /// Whoever gets the core file of a crash.
    CoreFiles,
}

/// Turns core files off for good, in this process and in all that it starts. A program that the kernel hands crashes to gets
/// them all the same: only [`forbid_debuggers`] keeps it out.
pub fn forbid_core_files() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Keeps other processes of this account, and handlers of crashes, from reading this process.
pub fn forbid_debuggers() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Who can get the memory of this process, as the kernel has it now.
pub fn memory_dumps() -> io::Result<MemoryDumps> {
    if dumpable_behavior()? == DumpableBehavior::NotDumpable {
        return Ok(MemoryDumps::Off);
    }
    let pattern = std::fs::read(CORE_PATTERN)
        .map_err(|error| io::Error::new(error.kind(), format!("`{CORE_PATTERN}` cannot be read: {error}")))?;
    Ok(of_dumpable(&getrlimit(Resource::Core), &pattern))
}

/// Who can get the memory of a process that can be dumped.
fn of_dumpable(core: &Rlimit, pattern: &[u8]) -> MemoryDumps {
    match pattern {
        _ if core.current != Some(0) || core.maximum != Some(0) => MemoryDumps::CoreFiles,
        // core(5): a pipe to a program, or a socket of one. The limit is for files alone.
        [b'|' | b'@', ..] => MemoryDumps::CrashHandler,
        _ => MemoryDumps::Debuggers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_core_files_keeps_no_crash_from_a_program_that_gets_them() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let none = limit(Some(0), Some(0));
        assert_eq!(of_dumpable(&none, b"core\n"), MemoryDumps::Debuggers);
        assert_eq!(of_dumpable(&none, b"/var/crash/|core\n"), MemoryDumps::Debuggers);
        assert_eq!(of_dumpable(&none, b""), MemoryDumps::Debuggers);
        assert_eq!(of_dumpable(&none, b"|/usr/share/apport/apport %p\n"), MemoryDumps::CrashHandler);
        assert_eq!(of_dumpable(&none, b"@/run/coredump.socket\n"), MemoryDumps::CrashHandler);
        for some in [limit(Some(0), None), limit(None, None), limit(Some(1), Some(1))] {
            assert_eq!(of_dumpable(&some, b"core\n"), MemoryDumps::CoreFiles);
            assert_eq!(of_dumpable(&some, b"|/bin/true\n"), MemoryDumps::CoreFiles);
        }
    }
}
