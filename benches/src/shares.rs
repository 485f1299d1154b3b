//! `shares`: two tenants of weight 1:3 that both want every core, and how the CPU time they were metered was divided.
//!
//! Must never judge by answers a second: a request that waits is no CPU time.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::load::{any_round, turns_for};
use crate::report::Report;
use crate::stage::Stage;

/// Weights of the two.
const WEIGHTS: [u32; 2] = [100, 300];
/// CPU time of one request: short, so that what is cut off at the ends of a round is little.
const REQUEST_US: f64 = 2_000.0;
/// Connections each keeps busy.
const CONNECTIONS_COUNT: usize = 8;
const BUDGET: &str = "[budget]\ncpu_ms = 1000\ntime_ms = 60000\n";

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds a round
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("shares")?;
    report.fact("rounds", plan.rounds)?;
    report.put("weights", WEIGHTS)?;
    let stage = Stage::new().await?;
    let light = stage.guest("light", "work", BUDGET, &[]).await?;
    let heavy = stage.guest("heavy", "work", BUDGET, &[]).await?;
    for (tenant, weight) in [("light", WEIGHTS[0]), ("heavy", WEIGHTS[1])] {
        if let Err(error) = stage.set_weight(tenant, weight).await {
            report.missing("error_percent", &format!("the host takes no weights: {error:#}"))?;
            return report.finish();
        }
    }
    let turns = turns_for(&light.target(&stage, "/compute").await?, REQUEST_US).await?;
    let time = Duration::from_secs(plan.seconds);
    let (mut errors, mut shares, mut cores, mut statuses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let rest = format!("/compute?n={turns}");
        let targets = [light.target(&stage, &rest).await?, heavy.target(&stage, &rest).await?];
        let before = [light.metered_us(&stage).await?, heavy.metered_us(&stage).await?];
        let both = tokio::join!(
            any_round(&targets[0], CONNECTIONS_COUNT, time),
            any_round(&targets[1], CONNECTIONS_COUNT, time)
        );
        statuses.push([both.0?.statuses, both.1?.statuses]);
        let after = [light.metered_us(&stage).await?, heavy.metered_us(&stage).await?];
        let used = [(after[0] - before[0]) as f64, (after[1] - before[1]) as f64];
        let share = used[0] / (used[0] + used[1]);
        errors.push(error_percent(share));
        shares.push(share);
        cores.push((used[0] + used[1]) / time.as_micros() as f64);
    }
    report.median_with_interval("error_percent", &errors)?;
    report.median("share_of_the_light", &shares)?;
    report.median("cores_used", &cores)?;
    report.put("statuses", &statuses)?;
    report.finish()
}

/// How far the light tenant's share is from what its weight is worth, in percent of that: the stricter of the two.
fn error_percent(share: f64) -> f64 {
    let due = f64::from(WEIGHTS[0]) / f64::from(WEIGHTS[0] + WEIGHTS[1]);
    (share / due - 1.0).abs() * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_no_error_and_a_half_is_one_of_a_hundred_percent() {
        assert!(error_percent(0.25) < 1e-9);
        assert!((error_percent(0.5) - 100.0).abs() < 1e-9);
        assert!((error_percent(0.245) - 2.0).abs() < 1e-9);
    }
}
