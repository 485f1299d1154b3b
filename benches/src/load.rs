//! A closed-loop HTTP load on plain sockets: some connections, each sending its next request when the last was answered.
//!
//! One prepared request, one write, one parse: the client shares the cores with the server, so what it costs is measured
//! too. Must never count an answer that is not 200 as work done, nor wait for ever for one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{self, Answer, Then};
use crate::stats::quantile;

/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;
/// Longest wait for the last answers of a round, beyond its length.
const LINGER: Duration = Duration::from_secs(30);

/// Longest wait for one answer of [`Connection::ask`].
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);

/// Turns of `/compute` between which [`turns_for`] measures.
const CALIBRATION_TURNS: [u64; 2] = [200_000, 4_200_000];

/// What to send, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Path and query.
    pub path: String,
    /// Access token.
    pub token: Option<String>,
}

/// What one round measured.
#[derive(Debug, Clone)]
pub struct Round {
    /// Requests answered with 200, a second.
    pub rate: f64,
    /// Latencies of these, microseconds, in no order.
    pub latencies_us: Vec<u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
}

impl Round {
    /// A quantile of the latencies, microseconds.
    pub fn quantile_us(&self, share: f64) -> f64 {
        quantile(&self.latencies_us, share).unwrap_or_default() as f64
    }
}

impl Target {
    /// The request, head and no body.
    pub fn request(&self) -> Vec<u8> {
        head("GET", self, "").into_bytes()
    }
}

/// A request's head; `fields` are further lines, each with its end.
pub fn head(method: &str, target: &Target, fields: &str) -> String {
    let bearer = target.token.as_ref().map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
    format!("{method} {} HTTP/1.1\r\nhost: {}\r\n{bearer}{fields}\r\n", target.path, target.address)
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens one.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// Writes bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Reads the next answer to its end.
    pub async fn read(&mut self) -> Result<Answer> {
        loop {
            if !self.buffer.is_empty()
                && let Some(found) = answer::read(&self.buffer)?
            {
                self.buffer.drain(..found.bytes);
                return Ok(found);
            }
            self.buffer.reserve(READ_BYTES);
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
        }
    }

    /// Sends a request and reads its answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        self.write(request).await?;
        self.read().await
    }

    /// The same, but it does not wait for ever.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        tokio::time::timeout(ANSWER_WAIT_MAX, self.exchange(request)).await.context("an answer did not come")?
    }
}

/// Runs one round; every answer must be 200.
pub async fn round(target: &Target, connections: usize, time: Duration) -> Result<Round> {
    let round = any_round(target, connections, time).await?;
    let refused = round.statuses.keys().find(|status| **status != 200);
    ensure!(refused.is_none(), "`{}` answered {:?}", target.path, round.statuses);
    Ok(round)
}

/// Runs one round, whatever the answers are.
pub async fn any_round(target: &Target, connections: usize, time: Duration) -> Result<Round> {
    any_round_of(target.address, target.request(), connections, time).await
}

/// Runs one round of a request as it is, whatever the answers are.
pub async fn any_round_of(address: SocketAddr, request: Vec<u8>, connections: usize, time: Duration) -> Result<Round> {
    let request: Arc<[u8]> = request.into();
    let start = Instant::now();
    let end = start + time;
    let tasks: Vec<_> = (0..connections).map(|_| tokio::spawn(one(address, request.clone(), end))).collect();
    let (mut latencies_us, mut statuses) = (Vec::new(), BTreeMap::new());
    for task in tasks {
        let outcome = tokio::time::timeout_at((end + LINGER).into(), task).await.context("an answer did not come")?;
        for (status, latency_us) in outcome?? {
            *statuses.entry(status).or_default() += 1;
            if status == 200 {
                latencies_us.push(latency_us);
            }
        }
    }
    Ok(Round { rate: latencies_us.len() as f64 / start.elapsed().as_secs_f64(), latencies_us, statuses })
}

/// Turns of `/compute` that take so long on a server that does nothing else: the fastest of some tries, so that what
/// is not computing drops out of the difference.
pub async fn turns_for(target: &Target, time_us: f64) -> Result<u64> {
    let mut connection = Connection::open(target.address).await?;
    let mut fastest_us = [f64::MAX; 2];
    for _ in 0..10 {
        for (turns, fastest_us) in CALIBRATION_TURNS.iter().zip(&mut fastest_us) {
            let path = format!("{}?n={turns}", target.path);
            let request = Target { path, ..target.clone() }.request();
            let start = Instant::now();
            let answer = connection.ask(&request).await?;
            ensure!(answer.status == 200, "`{}` answered {}", target.path, answer.status);
            *fastest_us = fastest_us.min(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let ([few, many], [few_us, many_us]) = (CALIBRATION_TURNS, fastest_us);
    ensure!(many_us > few_us, "computing more took less time");
    Ok((time_us * (many - few) as f64 / (many_us - few_us)) as u64)
}

async fn one(address: SocketAddr, request: Arc<[u8]>, end: Instant) -> Result<Vec<(u16, u64)>> {
    let mut connection = Connection::open(address).await?;
    let mut seen = Vec::new();
    let mut sent = Instant::now();
    while sent < end {
        let answer = connection.exchange(&request).await?;
        let answered = Instant::now();
        seen.push((answer.status, u64::try_from((answered - sent).as_micros())?));
        if answer.then == Then::Close {
            connection = Connection::open(address).await?;
        }
        sent = Instant::now();
    }
    Ok(seen)
}
