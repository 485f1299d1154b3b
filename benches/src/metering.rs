//! `metering`: the CPU time a tenant was metered against the CPU time that the kernel says the guests' threads used.
//!
//! The threads also do the host's work between guests, so the metered sum is expected to be the smaller one, the more
//! so the shorter the requests are: both a long and a short request are measured.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::load::{round, turns_for};
use crate::machine::guest_threads_cpu_us;
use crate::noisy::VICTIM_US;
use crate::report::Report;
use crate::stage::Stage;

/// CPU time of a long request.
const LONG_US: f64 = 20_000.0;
/// Connections kept busy: more than there are cores by far, so that somebody always waits. A call that nobody waits beside may run
/// where it arrives, on a thread that the kernel's sum leaves out, and what is metered of it would make up for what is not.
const CONNECTIONS_COUNT: usize = 16;
const BUDGET: &str = "[budget]\ncpu_ms = 1000\ntime_ms = 60000\n";

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds of each request
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds a round
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("metering")?;
    report.fact("rounds", plan.rounds)?;
    let stage = Stage::new().await?;
    let guest = stage.guest("acme", "work", BUDGET, &[]).await?;
    let a_second = turns_for(&guest.target(&stage, "/compute").await?, 1e6).await? as f64;
    let time = Duration::from_secs(plan.seconds);
    let sizes = [("", LONG_US), ("short_requests_", VICTIM_US)];
    let mut errors = [Vec::new(), Vec::new()];
    for _ in 0..plan.rounds {
        for ((_, request_us), errors) in sizes.iter().zip(&mut errors) {
            let turns = (a_second * request_us / 1e6) as u64;
            let target = guest.target(&stage, &format!("/compute?n={turns}")).await?;
            let before = (guest.metered_us(&stage).await?, guest_threads_cpu_us(stage.host.pid())?);
            round(&target, CONNECTIONS_COUNT, time).await?;
            let after = (guest.metered_us(&stage).await?, guest_threads_cpu_us(stage.host.pid())?);
            let (metered, threads) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
            errors.push((metered / threads - 1.0) * 100.0);
        }
    }
    for ((key, request_us), errors) in sizes.iter().zip(&errors) {
        let size: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
        report.median_with_interval(&format!("{key}error_percent"), &size)?;
        report.median(&format!("{key}metered_over_threads_percent"), errors)?;
        report.put(&format!("{key}request_us"), request_us)?;
    }
    report.finish()
}
