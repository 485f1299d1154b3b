//! Compiling a component, seen from the host: start a child, feed it, wait for it, believe only what it may say.
//!
//! Compiling hostile bytes is outside the sandbox's promises, so it happens in a process of its own with resource
//! limits, a deadline and nothing else: no environment, no files, no network descriptors. Must never compile here.
//!
//! A child first gets only the processor time that nobody else wants, so that an upload delays no call. Where that does
//! not bring it to its end in the time that a resting machine needs (neighbours that never rest would keep every upload
//! away), it is started anew and merely steps back.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ringfence_core::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::child::{self, Standing, Verdict};
use crate::code::NativeCode;
use crate::config::CompileConfig;
use crate::error::{CompileError, CompileLimit, bounded};

/// LIMIT: compile children at the same time.
const CHILDREN_COUNT_MAX: usize = 2;
/// LIMIT: wait for another compilation to end.
const TURN_WAIT: Duration = Duration::from_millis(limits::COMPILE_TIME_MS_MAX);
/// LIMIT: bytes of the child's error output that are kept.
const STDERR_BYTES_MAX: u64 = 16 << 10;

/// How long a child may be idle: this much, and as much again for every [`IDLE_BYTES`] of the component.
const IDLE_TIME: Duration = Duration::from_secs(1);
/// Bytes that a resting machine compiles well within [`IDLE_TIME`].
const IDLE_BYTES: usize = 512 << 10;

/// Starts compile children.
pub(crate) struct Compiler {
    config: CompileConfig,
    turns: Semaphore,
}

/// What a child said and how it ended.
struct Ended {
    status: ExitStatus,
    answer: Vec<u8>,
    stderr: Vec<u8>,
}

// === impl Compiler ===

impl Compiler {
    pub(crate) fn new(config: CompileConfig) -> Self {
        Self { config, turns: Semaphore::new(CHILDREN_COUNT_MAX) }
    }

    /// Compiles a component in a child process. Call it inside a tokio runtime with I/O and timers.
    pub(crate) async fn compile(&self, component: Vec<u8>) -> Result<NativeCode, CompileError> {
        let deadline = Duration::from_millis(self.config.limits.time_ms);
        let turn = tokio::time::timeout(TURN_WAIT, self.turns.acquire()).await;
        let turn = turn.map_err(|_| CompileError::Failed("too many components are being compiled".to_owned()))?;
        let _turn = turn.map_err(|_| CompileError::Failed("the host is stopping".to_owned()))?;
        let patience = patience(component.len()).min(deadline / 3);
        let idle = self.attempt(&component, Standing::Idle, patience).await;
        if !matches!(idle, Err(CompileError::Limit(CompileLimit::Time))) {
            return idle;
        }
        self.attempt(&component, Standing::Behind, deadline.saturating_sub(patience)).await
    }

    async fn attempt(
        &self,
        component: &[u8],
        standing: Standing,
        deadline: Duration,
    ) -> Result<NativeCode, CompileError> {
        let failed = |error: std::io::Error| CompileError::Failed(error.to_string());
        let mut child = Command::new(&self.config.program)
            .args(&self.config.args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        match tokio::time::timeout(deadline, self.converse(&mut child, component, standing)).await {
            Ok(Ok(ended)) => self.judge(ended),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => {
                let _ = child.kill().await;
                Err(CompileError::Limit(CompileLimit::Time))
            }
        }
    }

    async fn converse(&self, child: &mut Child, component: &[u8], standing: Standing) -> std::io::Result<Ended> {
        let missing = || std::io::Error::other("a pipe to the compile child is missing");
        let mut stdin = child.stdin.take().ok_or_else(missing)?;
        let mut stdout =
            child.stdout.take().ok_or_else(missing)?.take(self.config.limits.native_bytes.saturating_add(2));
        let mut stderr = child.stderr.take().ok_or_else(missing)?.take(STDERR_BYTES_MAX);
        let order = child::order(&self.config.limits, standing);
        let (mut answer, mut errors) = (Vec::new(), Vec::new());
        let feed = async {
            // A child that gave up early closes its end; its verdict says why.
            let fed = async {
                stdin.write_all(&order).await?;
                stdin.write_all(component).await?;
                stdin.shutdown().await
            };
            let _ = fed.await;
            drop(stdin);
        };
        let ((), read, _) = tokio::join!(feed, stdout.read_to_end(&mut answer), stderr.read_to_end(&mut errors));
        read?;
        if answer.len() as u64 > self.config.limits.native_bytes.saturating_add(1) {
            child.start_kill()?;
        }
        let status = child.wait().await?;
        Ok(Ended { status, answer, stderr: errors })
    }

    fn judge(&self, ended: Ended) -> Result<NativeCode, CompileError> {
        let Ended { status, mut answer, stderr } = ended;
        if answer.len() as u64 > self.config.limits.native_bytes.saturating_add(1) {
            return Err(CompileError::Limit(CompileLimit::NativeBytes));
        }
        if let Some(limit) = killed_by_limit(status, &stderr) {
            return Err(CompileError::Limit(limit));
        }
        let verdict = answer.first().copied().and_then(Verdict::of);
        match (status.success(), verdict) {
            (true, Some(Verdict::Compiled)) => Ok(NativeCode::from_child(answer.split_off(1))),
            (true, Some(Verdict::Invalid)) => Err(CompileError::Invalid(message(answer.get(1..)))),
            _ => Err(CompileError::Failed(message(Some(&stderr)))),
        }
    }
}

/// How long to wait for a child that only gets what nobody else wants.
fn patience(component_bytes: usize) -> Duration {
    IDLE_TIME.saturating_mul(u32::try_from(component_bytes / IDLE_BYTES).unwrap_or(u32::MAX).saturating_add(1))
}

fn message(bytes: Option<&[u8]>) -> String {
    bounded(String::from_utf8_lossy(bytes.unwrap_or_default()).trim())
}

/// The kernel ends a child over its CPU limit with SIGXCPU or SIGKILL; the allocator ends one out of memory with SIGABRT.
fn killed_by_limit(status: ExitStatus, stderr: &[u8]) -> Option<CompileLimit> {
    use rustix::process::Signal;
    let signal = status.signal()?;
    if signal == Signal::XCPU.as_raw() || signal == Signal::KILL.as_raw() {
        return Some(CompileLimit::Cpu);
    }
    let out_of_memory = [&b"memory allocation"[..], b"Cannot allocate memory", b"out of memory"];
    let says_memory = out_of_memory.iter().any(|words| stderr.windows(words.len()).any(|part| part == *words));
    let by_allocator = signal == Signal::ABORT.as_raw() || signal == Signal::SEGV.as_raw();
    (by_allocator && says_memory).then_some(CompileLimit::Memory)
}
