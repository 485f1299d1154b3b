//! How much memory and how many cores this machine gives this process, and the part of them that guests may have.
//!
//! Must never fail: what cannot be read is not known, and the host goes on with what it knows.

use std::path::{Path, PathBuf};

use ringfence_core::limits::{COMPILE_MEMORY_BYTES_MAX, WORKERS_COUNT_MAX};
use ringfence_engine::HostMemory;

use crate::config::EngineSection;

/// Bytes for all guests where nothing says how much memory there is.
const GUESTS_BYTES_UNKNOWN: u64 = 1 << 30;
/// Least address space of a compile child, bytes.
const COMPILE_BYTES_MIN: u64 = 512 << 20;

/// Threads that run guests: as configured, else one a core, as many as there can be.
pub fn guest_workers(section: &EngineSection) -> usize {
    if section.workers == 0 { cores().min(WORKERS_COUNT_MAX) } else { section.workers }
}

/// Cores that guests can use.
pub fn guest_cores(section: &EngineSection) -> usize {
    guest_workers(section).min(cores())
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The least MiB for all guests: room for one of the largest, beside what is kept for tenants that hold next to none.
pub fn guests_mib_min(memory_mib_max: u64) -> u64 {
    HostMemory::least_bytes(memory_mib_max.saturating_mul(1 << 20)).div_ceil(1 << 20)
}

/// Bytes of memory that all running guests may have together: as configured, else half of what there is, and never too few for
/// one. The other half is for loaded code, the database and what the host holds for its callers.
pub fn guests_bytes(section: &EngineSection) -> u64 {
    if section.memory_mib != 0 {
        return section.memory_mib.saturating_mul(1 << 20);
    }
    let half = memory_bytes().map_or(GUESTS_BYTES_UNKNOWN, |bytes| bytes / 2);
    half.max(guests_mib_min(section.memory_mib_max).saturating_mul(1 << 20))
}

/// Address space of a compile child, bytes, on a machine that gives this process so much memory: three quarters of it, where that
/// is less than the host's hard cap. What a compiler needs to begin at all it always has.
pub fn compile_bytes(memory: Option<u64>) -> u64 {
    memory.map_or(COMPILE_MEMORY_BYTES_MAX, |bytes| (bytes / 4 * 3).clamp(COMPILE_BYTES_MIN, COMPILE_MEMORY_BYTES_MAX))
}

/// Memory that this process may have, bytes: the machine's, or less where its control group says so.
pub fn memory_bytes() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total_of(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|path| limit_of(&read(&path)?));
    machine.into_iter().chain(limits).min()
}

/// What says that the kernel ends all of this process's control group, or of one above it, where it would end one process of it.
pub fn ends_together() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut files = limit_files(&groups).into_iter().map(|file| file.with_file_name("memory.oom.group"));
    files.find(|file| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1"))
}

/// The machine's memory, by `/proc/meminfo`.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// A control group's limit; none for `max`.
fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Where the limits of this process's control group and of all above it are, by `/proc/self/cgroup` (version 2, then 1).
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|one| one == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|above| Path::new(root).join(above).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use ringfence_core::Budget;
    use ringfence_engine::{IoClass, Meter};

    use super::*;

    fn section(workers: usize, memory_mib: u64, memory_mib_max: u64) -> EngineSection {
        EngineSection { workers, slots: 4, memory_mib_max, memory_mib, io_class: IoClass::Usual }
    }

    #[test]
    fn the_machines_memory_and_a_groups_limit_are_read_as_the_kernel_writes_them() {
        assert_eq!(total_of("MemTotal:        4030204 kB\nMemFree:  1 kB\n"), Some(4_030_204 * 1_024));
        assert_eq!((total_of("MemFree: 1 kB\n"), total_of("MemTotal: many kB\n")), (None, None));
        assert_eq!((limit_of("536870912\n"), limit_of("max\n")), (Some(512 << 20), None));
    }

    #[test]
    fn the_limits_of_the_group_and_of_all_above_it_count() {
        let of = |groups: &str| limit_files(groups).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            of("0::/system.slice/ringfence.service\n"),
            [
                "/sys/fs/cgroup/system.slice/ringfence.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(of("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            of("5:cpu,cpuacct:/a\n4:memory:/a\nno group\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }

    #[test]
    fn guests_have_what_is_configured_or_half_of_what_there_is_and_always_room_for_one() {
        assert_eq!(guests_bytes(&section(0, 300, 256)), 300 << 20);
        assert_eq!(guests_bytes(&section(0, u64::MAX, 256)), u64::MAX);
        let half = memory_bytes().map_or(GUESTS_BYTES_UNKNOWN, |bytes| bytes / 2);
        assert_eq!(guests_bytes(&section(0, 0, 1)), half.max(2 << 20));
        for mib in [16, 255, 256, 1_024] {
            let fits = |host_mib: u64| {
                let host = HostMemory::new(host_mib << 20);
                let budget = Budget { memory_bytes: mib << 20, ..Budget::CEILING };
                Meter::in_pool(budget, host.pool(u64::MAX)).hold(mib << 20).is_ok()
            };
            let least = guests_mib_min(mib);
            assert!(fits(least) && !fits(least - 1), "{least} MiB for {mib}");
        }
        // More than any machine has.
        assert_eq!(guests_bytes(&section(0, 0, 7 << 30)), 8 << 50);
    }

    #[test]
    fn a_compile_child_has_three_quarters_of_a_small_machine_and_its_cap_of_a_large_one() {
        let of = |gib: u64| compile_bytes(Some(gib << 30));
        assert_eq!((of(4), of(64)), (3 << 30, COMPILE_MEMORY_BYTES_MAX));
        assert_eq!((compile_bytes(Some(1 << 20)), compile_bytes(None)), (COMPILE_BYTES_MIN, COMPILE_MEMORY_BYTES_MAX));
    }

    #[test]
    fn guests_have_a_worker_a_core_unless_it_is_said_otherwise_and_no_more_cores_than_there_are() {
        let all = cores().min(WORKERS_COUNT_MAX);
        assert_eq!((guest_workers(&section(0, 0, 256)), guest_cores(&section(0, 0, 256))), (all, all));
        assert_eq!((guest_workers(&section(1, 0, 256)), guest_cores(&section(1, 0, 256))), (1, 1));
        assert_eq!((guest_workers(&section(96, 0, 256)), guest_cores(&section(96, 0, 256))), (96, all));
    }
}
