//! `noisy`: how much a tenant's latency moves when its neighbours misbehave. The victim is called in an open loop, alone
//! and beside each kind of neighbour in turn: alone, noise, alone, noise, ..., alone. A round's ratio is the noise over
//! the mean of the two alones around it; the control is one alone over the other.
//!
//! Must never let the neighbour's or the victim's own load generator be what slows the victim: the neighbour runs at
//! nice 10, the victim's caller in the best class the machine allows, and what it got is in the figures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kinds::{Kind, Ours};
use crate::load::{Connection, Target, turns_for};
use crate::neighbour::{Neighbour, Noise, Noisiness};
use crate::open_loop::{Caller, Order, Outcome};
use crate::peers::{Peer, Serve};
use crate::report::Report;
use crate::stats::{median, quantile};

/// CPU time of one of the victim's requests.
pub const VICTIM_US: f64 = 360.0;
/// Time before a phase is counted: connections are opened, and the neighbour gets going.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest wait for a server to be itself again after noise.
const QUIET_SECONDS_MAX: u64 = 90;
/// The victim and most neighbours of it.
const TENANTS_COUNT_MAX: f64 = 17.0;
/// Most calls a second of the victim, unless it is told.
const RATE_MAX: f64 = 100.0;
const NO_PEER: &str = "the peer's program was not given";

/// How much to measure, and where the peers are.
#[derive(clap::Args)]
pub struct Plan {
    /// The victim's requests a second. When absent, as many as take half of its fair share beside sixteen neighbours (two cores
    /// by seventeen tenants are 118 ms a second), 100 at most: who wants more than its share has to wait, and that is no fault
    /// of the host. What a call takes beside its own computing is measured first, since machines differ by a factor of three
    #[arg(long)]
    pub rate: Option<f64>,
    /// Only these kinds of neighbour, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub kinds: Vec<Kind>,
    /// Rounds with each kind on Ringfence
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds a phase on Ringfence
    #[arg(long, default_value_t = 6)]
    pub seconds: u64,
    /// Rounds with each kind on a peer; 0 for none
    #[arg(long, default_value_t = 2)]
    pub peer_rounds: usize,
    /// Seconds a phase on a peer
    #[arg(long, default_value_t = 3)]
    pub peer_seconds: u64,
    /// The `wasmtime` program
    #[arg(long)]
    pub wasmtime: Option<PathBuf>,
    /// The `workerd` program
    #[arg(long)]
    pub workerd: Option<PathBuf>,
}

/// Rounds with one kind on one host.
#[derive(Default)]
struct Rounds {
    alone: Vec<Outcome>,
    noise: Vec<Outcome>,
    noisiness: Vec<Noisiness>,
    /// What the victim took beside the noise, over what all took by the number of tenants.
    of_fair_share: Vec<f64>,
}

/// CPU time so far, microseconds.
#[derive(Clone, Copy)]
pub struct Taken {
    /// The victim's, as it is metered.
    pub victim_us: u64,
    /// Of all threads that run guests.
    pub guests_us: u64,
    /// Tenants that want it, the victim among them.
    pub tenants_count: usize,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let kinds: Vec<Kind> = if plan.kinds.is_empty() { Kind::ALL.to_vec() } else { plan.kinds.clone() };
    let mut report = Report::start_in_parts("noisy", kinds.iter().map(|kind| kind.name()))?;
    let mut caller = Caller::start()?;
    report.fact("rounds", plan.rounds)?;
    report.fact("seconds_a_phase", plan.seconds)?;
    report.put("victim_scheduling", caller.class)?;
    report.put("neighbour_scheduling", "nice 10")?;
    report.put("serve_options", Serve::Yielding.options())?;
    let ours = Ours::new(&kinds).await?;
    let turns = turns_for(&ours.victim("/compute").await?, VICTIM_US).await.context("calibration")?;
    report.put("victim_turns", turns)?;
    let cost_us = ours.call_cost_us(&ours.victim(&format!("/compute?n={turns}")).await?).await?;
    let rate = plan.rate.unwrap_or_else(|| within_half_of_a_fair_share(cost_us));
    report.put("victim_cpu_us", cost_us)?;
    report.put("victim_rps", rate)?;
    let seconds = Duration::from_secs(plan.seconds);
    let mut failed = Vec::new();
    for kind in &kinds {
        eprintln!("{} on ringfence", kind.name());
        let target = ours.victim(&format!("/compute?n={turns}")).await?;
        let noise = |number| ours.noise(*kind, number);
        let taken = async || ours.taken(*kind).await.map(Some);
        match rounds(&mut caller, &target, (rate, seconds), plan.rounds, noise, taken).await {
            Ok(rounds) => write(&mut report, *kind, &rounds)?,
            Err(error) => failed.push((kind.name(), format!("{error:#}"))),
        }
    }
    drop(ours);
    peer(&mut report, "serve", plan, &kinds, (&mut caller, rate), Some(turns)).await?;
    peer(&mut report, "workerd", plan, &kinds, (&mut caller, rate), None).await?;
    // After the peers, whose keys are there by now.
    for (name, reason) in failed {
        report.missing_part(name, &reason)?;
    }
    report.finish()
}

/// Calls a second that take half of what one of seventeen tenants may have of this machine's cores.
fn within_half_of_a_fair_share(cost_us: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    (cores * 1e6 / TENANTS_COUNT_MAX / 2.0 / cost_us).clamp(1.0, RATE_MAX).floor()
}

/// The kinds that a peer can be given, one process for victim and neighbours together.
async fn peer(
    report: &mut Report,
    name: &str,
    plan: &Plan,
    kinds: &[Kind],
    (caller, rate): (&mut Caller, f64),
    turns: Option<u64>,
) -> Result<()> {
    let program = if name == "serve" { &plan.wasmtime } else { &plan.workerd };
    let started = match program.as_ref().filter(|_| plan.peer_rounds > 0) {
        None => None,
        Some(program) if name == "serve" => Some(Peer::serve(program, "work", Serve::Yielding)?),
        Some(program) => Some(Peer::workerd(program)?),
    };
    for kind in kinds {
        let key = |figure: &str| format!("{}.{name}_{figure}", kind.name());
        let Some(peer) = &started else {
            report.missing(&key("p99_ratio"), NO_PEER)?;
            continue;
        };
        if let Some(reason) = kind.not_on_peers() {
            report.missing(&key("p99_ratio"), reason)?;
            continue;
        }
        eprintln!("{} on {name}", kind.name());
        let at = |address, path: String| Target { address, path, token: None };
        let (victim, noisy) = (peer.address()?, *peer.addresses.last().context("no address")?);
        let per_second = turns_for(&at(victim, "/compute".to_owned()), 1e6).await?;
        let turns = turns.unwrap_or((per_second as f64 * VICTIM_US / 1e6) as u64);
        let target = at(victim, format!("/compute?n={turns}"));
        let noises = kind.on_peer(noisy, per_second);
        let time = Duration::from_secs(plan.peer_seconds);
        let (noise, taken) = (async |_| Ok(noises.clone()), async || Ok(None));
        match rounds(caller, &target, (rate, time), plan.peer_rounds, noise, taken).await {
            Ok(rounds) => {
                report.median(&key("p50_ratio"), &rounds.ratios(0.5))?;
                report.median(&key("p99_ratio"), &rounds.ratios(0.99))?;
                report.median(&key("p99_us"), &rounds.each(&rounds.noise, 0.99))?;
                report.median(&key("alone_p99_us"), &rounds.each(&rounds.alone, 0.99))?;
                report.put(&key("victim_errors_count"), rounds.errors_count())?;
                report.put(&key("victim_errors"), rounds.errors())?;
                report.put(&key("neighbour"), &rounds.noisiness)?;
            }
            Err(error) => report.missing(&key("p99_ratio"), &format!("{error:#}"))?,
        }
    }
    Ok(())
}

/// Alone, noise, alone, ..., alone.
async fn rounds(
    caller: &mut Caller,
    target: &Target,
    (rate, time): (f64, Duration),
    count: usize,
    noises: impl AsyncFn(usize) -> Result<Vec<Noise>>,
    taken: impl AsyncFn() -> Result<Option<Taken>>,
) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    let order = |seed: usize| Order { target: target.clone(), rate, warm_up: WARM_UP, time, seed: seed as u64 };
    rounds.alone.push(caller.run(&order(0))?);
    let alone_us = rounds.alone.first().and_then(|outcome| quantile(&outcome.latencies_us, 0.9)).unwrap_or_default();
    for number in 1..=count {
        let before = taken().await?;
        let neighbour = Neighbour::start(&noises(number).await?)?;
        rounds.noise.push(caller.run(&order(2 * number - 1))?);
        let after = taken().await?;
        rounds.noisiness.push(neighbour.stop()?);
        rounds.of_fair_share.extend(before.zip(after).map(|(before, after)| after.of_fair_share(before)));
        until_quiet(target, alone_us).await?;
        rounds.alone.push(caller.run(&order(2 * number))?);
    }
    Ok(rounds)
}

impl Taken {
    fn of_fair_share(self, before: Self) -> f64 {
        let fair_us = self.guests_us.saturating_sub(before.guests_us) as f64 / self.tenants_count as f64;
        self.victim_us.saturating_sub(before.victim_us) as f64 / fair_us
    }
}

impl Rounds {
    fn each(&self, outcomes: &[Outcome], share: f64) -> Vec<f64> {
        let one = |outcome: &Outcome| quantile(&outcome.latencies_us, share).unwrap_or_default() as f64;
        outcomes.iter().map(one).collect()
    }

    /// The two alones around each noise, and the noise.
    fn around(&self, share: f64) -> Vec<(f64, f64, f64)> {
        let (alone, noise) = (self.each(&self.alone, share), self.each(&self.noise, share));
        alone.iter().zip(alone.iter().skip(1)).zip(&noise).map(|((a, b), noise)| (*a, *b, *noise)).collect()
    }

    fn ratios(&self, share: f64) -> Vec<f64> {
        self.around(share).iter().map(|(a, b, noise)| noise / f64::midpoint(*a, *b)).collect()
    }

    fn added(&self, share: f64) -> Vec<f64> {
        self.around(share).iter().map(|(a, b, noise)| noise - f64::midpoint(*a, *b)).collect()
    }

    fn control(&self, share: f64) -> Vec<f64> {
        self.around(share).iter().map(|(a, b, _)| b / a).collect()
    }

    /// One ratio over all rounds' samples together.
    fn pooled_ratio(&self, share: f64) -> Option<f64> {
        let all = |outcomes: &[Outcome]| {
            let samples: Vec<u64> = outcomes.iter().flat_map(|outcome| outcome.latencies_us.clone()).collect();
            quantile(&samples, share)
        };
        Some(all(&self.noise)? as f64 / all(&self.alone)? as f64)
    }

    fn errors_count(&self) -> u64 {
        self.noise.iter().chain(&self.alone).map(|outcome| outcome.errors_count).sum()
    }

    fn errors(&self) -> BTreeMap<&str, u64> {
        let mut errors = BTreeMap::new();
        for (what, count) in self.noise.iter().chain(&self.alone).flat_map(|outcome| &outcome.errors) {
            *errors.entry(what.as_str()).or_default() += count;
        }
        errors
    }
}

fn write(report: &mut Report, kind: Kind, rounds: &Rounds) -> Result<()> {
    let key = |figure: &str| format!("{}.{figure}", kind.name());
    report.median_with_interval(&key("p50_ratio"), &rounds.ratios(0.5))?;
    report.median_with_interval(&key("p99_ratio"), &rounds.ratios(0.99))?;
    report.median_with_interval(&key("p99_added_us"), &rounds.added(0.99))?;
    report.put(&key("pooled_p99_ratio"), rounds.pooled_ratio(0.99))?;
    report.median(&key("control_p50_ratio"), &rounds.control(0.5))?;
    report.median(&key("control_p99_ratio"), &rounds.control(0.99))?;
    for (name, outcomes) in [("alone", &rounds.alone), ("noise", &rounds.noise)] {
        report.median(&key(&format!("{name}_p50_us")), &rounds.each(outcomes, 0.5))?;
        report.median(&key(&format!("{name}_p99_us")), &rounds.each(outcomes, 0.99))?;
        let late: Vec<f64> =
            outcomes.iter().filter_map(|outcome| quantile(&outcome.late_us, 0.99)).map(|us| us as f64).collect();
        report.put(&key(&format!("{name}_caller_late_p99_us")), median(&late))?;
    }
    report.median(&key("victim_of_fair_share"), &rounds.of_fair_share)?;
    report.put(&key("victim_errors_count"), rounds.errors_count())?;
    report.put(&key("victim_errors"), rounds.errors())?;
    report.put(&key("neighbour"), &rounds.noisiness)
}

/// Waits until the victim is answered five times in a row about as fast as alone.
async fn until_quiet(target: &Target, alone_us: u64) -> Result<()> {
    let (start, request) = (Instant::now(), target.request());
    let mut in_a_row = 0;
    while in_a_row < 5 {
        ensure!(start.elapsed() < Duration::from_secs(QUIET_SECONDS_MAX), "the noise does not end");
        let asked = Instant::now();
        let outcome = async { Connection::open(target.address).await?.exchange(&request).await };
        let answered = tokio::time::timeout(Duration::from_secs(QUIET_SECONDS_MAX), outcome).await;
        let good = matches!(answered, Ok(Ok(answer)) if answer.status == 200);
        let is_quick = asked.elapsed() < Duration::from_micros(alone_us * 3 + 2_000);
        in_a_row = if good && is_quick { in_a_row + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(latency_us: u64) -> Outcome {
        Outcome { latencies_us: vec![latency_us; 100], ..Outcome::default() }
    }

    #[test]
    fn a_ratio_is_the_noise_over_the_mean_of_the_alones_around_it() {
        let rounds = Rounds {
            alone: [400, 600, 500].map(outcome).into(),
            noise: [1_000, 550].map(outcome).into(),
            noisiness: Vec::new(),
            of_fair_share: Vec::new(),
        };
        assert_eq!(rounds.ratios(0.99), [2.0, 1.0]);
        assert_eq!(rounds.added(0.99), [500.0, 0.0]);
        assert_eq!(rounds.control(0.5), [1.5, 500.0 / 600.0]);
        assert_eq!(rounds.pooled_ratio(0.5), Some(2.0 * 0.5 * 1.1));
        assert_eq!(rounds.errors_count(), 0);
    }
}
