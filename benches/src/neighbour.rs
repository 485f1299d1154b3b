//! The noisy neighbour: what it sends, from a process of its own that yields its core to everybody else (nice 10), so
//! that what a victim suffers is the host's doing and not the load generator's.
//!
//! It stops when its input ends, and then says how noisy it was. Must never be polite: a refused request is followed by
//! the next at once.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::answer::Then;
use crate::components::distinct;
use crate::flood;
use crate::load::{Connection, Target, head};
use crate::open_loop::{command_of_self, receive, send};

/// How the neighbour is started.
const PREFIX: [&str; 3] = ["nice", "-n", "10"];
/// Wait before a lost connection is opened again: a neighbour out of ports would be a quiet one.
pub const REOPEN_WAIT: Duration = Duration::from_millis(5);
/// Pause between two bytes of a slow body.
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// Length a slow body claims.
const SLOW_BODY_BYTES: usize = 1 << 20;

/// One kind of noise on some connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Noise {
    /// The next request when the last was answered.
    Closed {
        /// Where and what.
        target: Target,
        /// Connections.
        connections: usize,
    },
    /// So many requests a second, whether or not earlier ones were answered.
    Open {
        /// Where and what.
        target: Target,
        /// Connections.
        connections: usize,
        /// Requests a second.
        rate: f64,
    },
    /// Bodies of a byte a second.
    SlowBody {
        /// Where and what.
        target: Target,
        /// Connections.
        connections: usize,
    },
    /// Versions of a plugin, each from bytes that were never seen before.
    Upload {
        /// The control plane, the path up to the version, and who uploads.
        target: Target,
        /// Name of the plugin.
        plugin: String,
        /// The component all are made from.
        component: PathBuf,
        /// Number of the first version: `0.0.{first}`.
        first: u64,
        /// Uploads at the same time.
        connections: usize,
    },
}

/// How noisy it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Noisiness {
    /// Time it ran.
    pub seconds: f64,
    /// Requests that were sent.
    pub sent_count: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections lost or refused.
    pub lost_count: u64,
    /// Bytes of slow bodies sent.
    pub slow_bytes: u64,
}

impl Noisiness {
    /// Requests sent a second.
    pub fn offered_rps(&self) -> f64 {
        self.sent_count as f64 / self.seconds
    }

    /// Requests answered with 200 a second.
    pub fn served_rps(&self) -> f64 {
        self.statuses.get(&200).copied().unwrap_or_default() as f64 / self.seconds
    }
}

/// A neighbour making noise. Killed when dropped.
pub struct Neighbour {
    child: Child,
    until: Option<ChildStdin>,
    outcome: BufReader<ChildStdout>,
}

impl Neighbour {
    /// Starts the noise.
    pub fn start(noises: &[Noise]) -> Result<Self> {
        let mut child = command_of_self(&PREFIX, "neighbour")?;
        let mut until = child.stdin.take().context("stdin is piped")?;
        let outcome = BufReader::new(child.stdout.take().context("stdout is piped")?);
        send(&mut until, &noises)?;
        Ok(Self { child, until: Some(until), outcome })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<Noisiness> {
        drop(self.until.take());
        receive(&mut self.outcome).context("the neighbour ended")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The neighbour's own main: the noises in one line, then silence until the input ends.
pub async fn main() -> Result<()> {
    let mut input = BufReader::new(std::io::stdin());
    let noises: Vec<Noise> = receive(&mut input)?;
    let (start, tally) = (Instant::now(), Arc::new(Tally::default()));
    for noise in noises {
        match noise {
            Noise::Closed { target, connections } => spawn(connections, &tally, |tally| closed(target.clone(), tally)),
            Noise::Open { target, connections, rate } => flood::start(&target, connections, rate, &tally)?,
            Noise::SlowBody { target, connections } => {
                spawn(connections, &tally, |tally| slow_body(target.clone(), tally));
            }
            Noise::Upload { target, plugin, component, first, connections } => {
                let bytes: Arc<[u8]> = std::fs::read(component)?.into();
                let next = Arc::new(AtomicU64::new(first));
                spawn(connections, &tally, |tally| {
                    upload(target.clone(), plugin.clone(), bytes.clone(), next.clone(), tally)
                });
            }
        }
    }
    tokio::task::spawn_blocking(move || input.read_to_end(&mut Vec::new())).await??;
    let noisiness = Noisiness {
        seconds: start.elapsed().as_secs_f64(),
        sent_count: tally.sent_count(),
        statuses: tally.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        lost_count: tally.lost.load(Ordering::Relaxed),
        slow_bytes: tally.slow_bytes.load(Ordering::Relaxed),
    };
    send(&mut std::io::stdout().lock(), &noisiness)
}

/// What is counted while the noise goes on.
#[derive(Default)]
pub struct Tally {
    sent: AtomicU64,
    lost: AtomicU64,
    slow_bytes: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
}

impl Tally {
    /// So many requests more were sent.
    pub fn sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
    /// Requests that were sent so far.
    pub fn sent_count(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
    /// A connection was lost or refused.
    pub fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
    /// There was an answer.
    pub fn answered(&self, status: u16) {
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }
}

/// Runs one connection's work again and again, so many times over.
fn spawn<F>(connections: usize, tally: &Arc<Tally>, work: impl Fn(Arc<Tally>) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    for _ in 0..connections {
        tokio::spawn(work(tally.clone()));
    }
}

/// Comes back to a server that closes or refuses, for ever.
async fn again<F: Future<Output = Result<()>>>(tally: &Tally, mut connection: impl FnMut() -> F) -> Result<()> {
    loop {
        if connection().await.is_err() {
            tally.lost();
        }
        tokio::time::sleep(REOPEN_WAIT).await;
    }
}

async fn closed(target: Target, tally: Arc<Tally>) -> Result<()> {
    let request = target.request();
    again(&tally, || async {
        let mut connection = Connection::open(target.address).await?;
        loop {
            tally.sent(1);
            let answer = connection.exchange(&request).await?;
            tally.answered(answer.status);
            if answer.then == Then::Close {
                return Ok(());
            }
        }
    })
    .await
}

async fn slow_body(target: Target, tally: Arc<Tally>) -> Result<()> {
    let request = head("POST", &target, &format!("content-length: {SLOW_BODY_BYTES}\r\n"));
    again(&tally, || async {
        let mut connection = Connection::open(target.address).await?;
        tally.sent(1);
        connection.write(request.as_bytes()).await?;
        loop {
            connection.write(b"x").await?;
            tally.slow_bytes.fetch_add(1, Ordering::Relaxed);
            // An answer before the end of the body is a refusal.
            if let Ok(answer) = tokio::time::timeout(SLOW_PAUSE, connection.read()).await {
                tally.answered(answer?.status);
                return Ok(());
            }
        }
    })
    .await
}

async fn upload(
    target: Target,
    plugin: String,
    component: Arc<[u8]>,
    next: Arc<AtomicU64>,
    tally: Arc<Tally>,
) -> Result<()> {
    again(&tally, || async {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let body = distinct(&component, number);
        let manifest = BASE64.encode(manifest(&plugin, number).as_bytes());
        let fields = format!(
            "content-type: application/wasm\r\nringfence-manifest: {manifest}\r\ncontent-length: {}\r\n",
            body.len()
        );
        let target = Target { path: format!("{}/0.0.{number}", target.path), ..target.clone() };
        let request = [head("PUT", &target, &fields).into_bytes(), body].concat();
        tally.sent(1);
        tally.answered(Connection::open(target.address).await?.exchange(&request).await?.status);
        Ok(())
    })
    .await
}

/// The manifest of version `0.0.{number}`.
fn manifest(plugin: &str, number: u64) -> String {
    format!("[plugin]\nname = \"{plugin}\"\nversion = \"0.0.{number}\"\n")
}
