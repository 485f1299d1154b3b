//! What the machine is and what it did: processes' and threads' CPU time, private memory, time stolen by other machines.
//!
//! Reads `/proc` and asks `ringfence doctor`; must never change anything.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Microseconds of a clock tick in `/proc`: Linux shows 100 a second on every architecture (`USER_HZ`).
const TICK_US: u64 = 10_000;
/// How long a process is looked at that should be idle, and the CPU time that an idle one may take in it: two ticks.
const IDLE_LOOK: Duration = Duration::from_millis(400);
const IDLE_US: u64 = 2 * TICK_US;
/// Longest wait for that.
const IDLE_WITHIN: Duration = Duration::from_secs(90);

/// The time, RFC 3339.
pub fn now() -> String {
    #[expect(clippy::disallowed_methods, reason = "a run is dated by the real clock; nothing is computed from it")]
    jiff::Timestamp::now().to_string()
}

/// Cores, kernel, processor, and what `ringfence doctor` says about scheduling.
pub fn describe() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let processor = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "processor": processor,
        "load_before": read("/proc/loadavg"),
        "host_scheduling": doctor(),
        "profile": if cfg!(debug_assertions) { "debug: figures mean nothing" } else { "release" },
    })
}

/// The line of `ringfence doctor` about scheduling, when it has one.
fn doctor() -> Option<String> {
    let nowhere = std::env::temp_dir().join("ringfence-bench-doctor");
    let mut command = Command::new(ringfence_tests::ringfence().ok()?);
    command.args(["doctor", "--json", "--dev", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"]);
    let output = command.arg(nowhere).stdin(Stdio::null()).output().ok()?;
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).ok()?;
    let text = |check: &Value, key: &str| check.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = checks.iter().find(|check| text(check, "check").contains("schedul"))?;
    Some(text(found, "detail"))
}

/// CPU time a process used, user and system, microseconds. `self` is this one.
pub fn process_cpu_us(pid: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Field 2 is the name in brackets, which may hold spaces; utime and stime are fields 14 and 15.
    let rest = stat.rsplit_once(')').context("no name in /proc/PID/stat")?.1;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks * TICK_US)
}

/// CPU time of a process and of those that it started and that still run, microseconds.
fn tree_cpu_us(pid: u32) -> Result<u64> {
    let mut sum_us = process_cpu_us(&pid.to_string())?;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread or a child that ended in between is no error.
        let children = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        sum_us += children.split_whitespace().filter_map(|child| process_cpu_us(child).ok()).sum::<u64>();
    }
    Ok(sum_us)
}

/// Waits until a process and those that it started hardly compute any more: what is measured next is then not what was asked
/// of it before.
///
/// # Errors
/// It still computes after [`IDLE_WITHIN`].
pub async fn until_idle(pid: u32) -> Result<()> {
    let (start, mut before_us) = (Instant::now(), tree_cpu_us(pid)?);
    loop {
        tokio::time::sleep(IDLE_LOOK).await;
        let now_us = tree_cpu_us(pid)?;
        // Less than before is a child that ended, which had computed.
        if now_us.checked_sub(before_us).is_some_and(|used_us| used_us <= IDLE_US) {
            return Ok(());
        }
        ensure!(start.elapsed() < IDLE_WITHIN, "the server still computes, {} s later", IDLE_WITHIN.as_secs());
        before_us = now_us;
    }
}

/// CPU time of the threads that run guests, microseconds, from the scheduler's own nanosecond counter.
pub fn guest_threads_cpu_us(pid: u32) -> Result<u64> {
    let mut sum_ns = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = entry?.path();
        if std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("guest")) {
            let stat = std::fs::read_to_string(task.join("schedstat"))?;
            sum_ns += stat.split_whitespace().next().context("an empty schedstat")?.parse::<u64>()?;
        }
    }
    Ok(sum_ns / 1_000)
}

/// KiB of memory that a process shares with nobody.
pub fn private_kib(pid: u32) -> Result<u64> {
    private_of(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)
}

/// KiB of memory that a process has in use, what it shares with others included.
pub fn rss_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory in the process's status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Time that the hypervisor gave to others, from a moment on.
pub struct Stolen {
    since: Instant,
    ticks: u64,
}

impl Stolen {
    /// From now on.
    pub fn read() -> Result<Self> {
        Ok(Self { since: Instant::now(), ticks: stolen_ticks()? })
    }
    /// How long ago that was.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
    /// Share of all cores' time, percent.
    pub fn percent(&self) -> Result<f64> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let stolen_us = (stolen_ticks()?.saturating_sub(self.ticks) * TICK_US) as f64;
        Ok((stolen_us / (self.elapsed().as_micros() as f64 * cores) * 1e4).round() / 1e2)
    }
}

fn stolen_ticks() -> Result<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc/stat"))?;
    let all = stat.lines().next().context("an empty /proc/stat")?;
    // user nice system idle iowait irq softirq steal
    Ok(all.split_whitespace().nth(8).map_or(Ok(0), str::parse)?)
}

fn private_of(rollup: &str) -> Result<u64> {
    let lines = rollup.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
    let mut sum = 0;
    for line in lines {
        sum += line.split_whitespace().nth(1).context("a line without a size")?.parse::<u64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_clean_and_dirty_together() {
        let text = "Rss: 900 kB\nShared_Clean: 100 kB\nPrivate_Clean: 12 kB\nPrivate_Dirty: 30 kB\nSwap: 5 kB\n";
        assert_eq!(private_of(text).unwrap(), 42);
    }

    #[test]
    fn a_process_that_computes_is_seen_computing() {
        let before = process_cpu_us("self").unwrap();
        let mut word = 1_u64;
        while process_cpu_us("self").unwrap() < before + 20_000 {
            word = std::hint::black_box(word.wrapping_mul(3));
        }
        assert_ne!(word, 0);
    }
}
