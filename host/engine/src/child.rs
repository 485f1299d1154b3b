//! Compiling a component, seen from the child: lower the own limits, read the order and the bytes, compile, answer.
//!
//! Must never do anything before its limits are set but say that it is the first to go when memory runs out, open any other
//! file, or answer in any other form than one verdict byte and its content. A child that is taken over by the bytes it compiles can say only wrong code for those same bytes.

use std::io::{Read, Write};
use std::process::ExitCode;

use ringfence_core::limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{self, CompileLimits};
use crate::error::bounded;
use crate::scheduler::class;

/// Open files a child may have: its three pipes and what the runtime needs for a moment.
const FILES_COUNT_MAX: u64 = 16;
/// How far a child steps back behind everyone else.
const NICE: i32 = 10;
/// Where the kernel keeps whom it ends first when there is no memory left, and the most that can be said there.
const OOM_SCORE: (&str, &str) = ("/proc/self/oom_score_adj", "1000");
/// Bytes of an order: address space, CPU seconds and standing.
const ORDER_BYTES: usize = 17;

/// Where a child stands in the kernel's scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It gets what nobody else wants, and delays nobody.
    Idle = 0,
    /// It steps back, but gets on whatever the others do.
    Behind = 1,
}

/// The first byte of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Native code follows.
    Compiled = 0,
    /// A message follows that says why the bytes are no component.
    Invalid = 1,
}

impl Verdict {
    pub(crate) fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Compiled),
            1 => Some(Self::Invalid),
            _ => None,
        }
    }
}

/// What the host sends before the component.
pub(crate) fn order(limits: &CompileLimits, standing: Standing) -> Vec<u8> {
    let mut order = Vec::with_capacity(ORDER_BYTES);
    order.extend_from_slice(&limits.memory_bytes.to_be_bytes());
    order.extend_from_slice(&limits.cpu_seconds.to_be_bytes());
    order.push(standing as u8);
    order
}

/// The whole life of a child.
pub(crate) fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> std::io::Result<()> {
    // SECURITY: else an upload that takes all of the memory has the kernel end the largest process, which is the host. A system
    // without such a file leaves the child where it is.
    let (path, first) = OOM_SCORE;
    let _ = std::fs::write(path, first);
    // The host's caps hold before the first byte is read; the order can only lower them.
    lower(&CompileLimits::HOST)?;
    rustix::process::nice(NICE)?;
    let mut stdin = std::io::stdin().lock();
    let mut order = [0_u8; ORDER_BYTES];
    stdin.read_exact(&mut order)?;
    let (limits, standing) = read_order(&order);
    lower(&limits)?;
    // Before the first thread that compiles is started. A kernel that says no leaves the child where it is.
    if standing == Standing::Idle {
        let _ = class::sink();
    }
    let mut component = Vec::new();
    stdin.take(limits::COMPONENT_BYTES_MAX.saturating_add(1)).read_to_end(&mut component)?;
    if component.len() as u64 > limits::COMPONENT_BYTES_MAX {
        return answer(Verdict::Invalid, b"it is too large");
    }
    let engine = wasmtime::Engine::new(&config::code_generation())
        .map_err(|error| std::io::Error::other(format!("{error:#}")))?;
    match engine.precompile_component(&component) {
        Ok(native) => answer(Verdict::Compiled, &native),
        Err(error) => answer(Verdict::Invalid, bounded(&format!("{error:#}")).as_bytes()),
    }
}

fn answer(verdict: Verdict, content: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&[verdict as u8])?;
    stdout.write_all(content)?;
    stdout.flush()
}

fn read_order(order: &[u8; ORDER_BYTES]) -> (CompileLimits, Standing) {
    let (numbers, standing) = order.split_at(ORDER_BYTES - 1);
    let mut numbers = numbers.chunks_exact(8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap_or([0; 8])));
    let mut number = || numbers.next().unwrap_or(0);
    let limits = CompileLimits { memory_bytes: number(), cpu_seconds: number(), ..CompileLimits::HOST };
    (limits, if standing == [Standing::Idle as u8] { Standing::Idle } else { Standing::Behind })
}

fn lower(to: &CompileLimits) -> std::io::Result<()> {
    for (resource, most) in [
        (Resource::As, to.memory_bytes),
        (Resource::Cpu, to.cpu_seconds),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, FILES_COUNT_MAX),
    ] {
        let most = getrlimit(resource).maximum.map_or(most, |own| own.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
