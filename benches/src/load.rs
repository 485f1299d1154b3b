//! A closed-loop HTTP load: some connections, each sending its next request when the last was answered.
//!
//! Must never count an answer that is not 200, nor wait for ever for one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

/// What to send.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Path.
    pub path: String,
    /// Access token.
    pub token: Option<String>,
}

/// What one round measured.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
}

/// Runs one round.
pub async fn round(target: &Target, connections: usize, time: Duration) -> Result<Round> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..connections).map(|_| tokio::spawn(one(target.clone(), start + time))).collect();
    let mut all = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    for task in tasks {
        all.add(task.await??)?;
    }
    let rate = all.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Round { rate, p50_us: all.value_at_quantile(0.5), p99_us: all.value_at_quantile(0.99) })
}

async fn one(target: Target, end: Instant) -> Result<Histogram<u64>> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while Instant::now() < end {
        let mut request = Request::get(&target.path).header("host", target.address.to_string());
        if let Some(token) = &target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let sent = Instant::now();
        let answered = tokio::time::timeout(Duration::from_secs(30), async {
            let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
            let status = response.status();
            response.into_body().collect().await?;
            anyhow::Ok(status)
        });
        let status = answered.await.context("no answer within 30 s")??;
        ensure!(status == 200, "answered {status}");
        histogram.record(u64::try_from(sent.elapsed().as_micros())?.max(1))?;
    }
    Ok(histogram)
}

/// Median, lowest and highest of some figures.
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    /// Middle.
    pub median: f64,
    /// Lowest.
    pub min: f64,
    /// Highest.
    pub max: f64,
}

/// The spread of figures; of none, zeros.
pub fn spread(mut figures: Vec<f64>) -> Spread {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or_default();
    Spread { median: at(figures.len() / 2), min: at(0), max: at(figures.len().saturating_sub(1)) }
}
