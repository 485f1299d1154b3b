//! `noisy`: how much a tenant's latency moves when its neighbours misbehave. The victim is called in an open loop, alone
//! and beside each kind of neighbour in turn: alone, noise, alone, noise, ..., alone. A round's ratio is the noise over
//! the mean of the two alones around it; the control is one alone over the other.
//!
//! Before each phase the server has come to rest: what a noise left behind would else be measured as alone.
//!
//! Must never let the neighbour's or the victim's own load generator be what slows the victim: the neighbour runs at
//! nice 10, the victim's caller in the best class the machine allows, and what it got is in the figures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kinds::{Kind, Ours, capacity_rps};
use crate::load::{Connection, Target, turns_for};
use crate::machine::until_idle;
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
/// How often over what can be answered a flood has to offer.
const FLOOD_OVER_CAPACITY_MIN: f64 = 10.0;
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
    /// Only these settings of `wasmtime serve`, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub serve: Vec<Serve>,
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
    /// What the host can answer a second of what a flood asks for, measured with nobody else there.
    capacity_rps: Option<f64>,
}

/// A host of another make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rival {
    /// `wasmtime serve`, one process and one component for victim and neighbours.
    Serve(Serve),
    /// workerd, one process with a worker for the victim and one for the neighbours. Its isolates share one thread.
    Workerd,
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
    let mut report = Report::start_in_parts("noisy", Kind::ALL.into_iter().map(Kind::name))?;
    let mut caller = Caller::start()?;
    report.fact("rounds", plan.rounds)?;
    report.fact("seconds_a_phase", plan.seconds)?;
    report.put("victim_scheduling", caller.class)?;
    report.put("neighbour_scheduling", "nice 10")?;
    for serve in Serve::ALL.into_iter().filter(|serve| plan.has(*serve)) {
        report.put(&format!("{}_options", serve.key()), serve.options())?;
    }
    let ours = Ours::new(&kinds).await?;
    let turns = turns_for(&ours.victim("/compute").await?, VICTIM_US).await.context("calibration")?;
    report.put("victim_turns", turns)?;
    let cost_us = ours.call_cost_us(&ours.victim(&format!("/compute?n={turns}")).await?).await?;
    let rate = plan.rate.unwrap_or_else(|| within_half_of_a_fair_share(cost_us));
    report.put("victim_cpu_us", cost_us)?;
    report.put("victim_rps", rate)?;
    let mut failed = Vec::new();
    for kind in &kinds {
        eprintln!("{} on ringfence", kind.name());
        match on_ours(&ours, plan, *kind, &mut caller, (rate, turns)).await {
            Ok(rounds) => write(&mut report, *kind, &rounds)?,
            Err(error) => failed.push((kind.name(), format!("{error:#}"))),
        }
    }
    drop(ours);
    for rival in Rival::ALL {
        on_peers(&mut report, plan, rival, &kinds, &mut caller, (rate, turns)).await?;
    }
    // After the peers, whose keys are there by now.
    for (name, reason) in failed {
        report.missing_part(name, &reason)?;
    }
    for kind in Kind::ALL.into_iter().filter(|kind| !kinds.contains(kind)) {
        report.missing_part(kind.name(), "this run was asked for other kinds only")?;
    }
    report.finish()
}

/// Calls a second that take half of what one of seventeen tenants may have of this machine's cores.
fn within_half_of_a_fair_share(cost_us: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    (cores * 1e6 / TENANTS_COUNT_MAX / 2.0 / cost_us).clamp(1.0, RATE_MAX).floor()
}

/// The rounds with one kind on Ringfence.
async fn on_ours(
    ours: &Ours,
    plan: &Plan,
    kind: Kind,
    caller: &mut Caller,
    (rate, turns): (f64, u64),
) -> Result<Rounds> {
    let capacity_rps = if kind.is_of_capacity() { Some(ours.capacity_rps(kind).await?) } else { None };
    let (path, time) = (format!("/compute?n={turns}"), Duration::from_secs(plan.seconds));
    // With a token of its own for each phase: one lives no longer than some phases take together.
    let victim = async || ours.victim(&path).await;
    let noise = async |number: usize| ours.noise(kind, number, capacity_rps.unwrap_or_default()).await;
    let taken = async || ours.taken(kind).await.map(Some);
    let rounds = rounds(caller, victim, ours.pid(), (rate, time), plan.rounds, noise, taken).await?;
    Ok(Rounds { capacity_rps, ..rounds })
}

/// The kinds on a peer; each on a process that has seen no other, so that none finds what another left.
async fn on_peers(
    report: &mut Report,
    plan: &Plan,
    rival: Rival,
    kinds: &[Kind],
    caller: &mut Caller,
    how: (f64, u64),
) -> Result<()> {
    for kind in kinds {
        let missing = format!("{}.{}_p99_ratio", kind.name(), rival.key());
        let started = match rival.absent(plan).or_else(|| kind.not_on_peers()) {
            Some(reason) => Err(anyhow::anyhow!(reason)),
            None => rival.start(plan),
        };
        let peer = match started {
            Ok(peer) => peer,
            Err(error) => {
                report.missing(&missing, &format!("{error:#}"))?;
                continue;
            }
        };
        eprintln!("{} on {}", kind.name(), rival.key());
        match on_peer(&peer, rival, plan, *kind, caller, how).await {
            Ok(rounds) => write_of_peer(report, *kind, rival, &rounds)?,
            Err(error) => report.missing(&missing, &format!("{error:#}"))?,
        }
    }
    Ok(())
}

/// The rounds with one kind on a peer.
async fn on_peer(
    peer: &Peer,
    rival: Rival,
    plan: &Plan,
    kind: Kind,
    caller: &mut Caller,
    (rate, turns): (f64, u64),
) -> Result<Rounds> {
    let at = |address, path: String| Target { address, path, token: None };
    let (victim, noisy) = (peer.address()?, *peer.addresses.last().context("no address")?);
    let per_second = turns_for(&at(victim, "/compute".to_owned()), 1e6).await?;
    let turns = match rival {
        Rival::Serve(_) => turns,
        // Turns of another language: as many as take the same time.
        Rival::Workerd => (per_second as f64 * VICTIM_US / 1e6) as u64,
    };
    let capacity_rps = if kind.is_of_capacity() { Some(capacity_rps(&at(noisy, "/".to_owned())).await?) } else { None };
    let target = at(victim, format!("/compute?n={turns}"));
    let noises = kind.on_peer(noisy, per_second, capacity_rps.unwrap_or_default());
    let time = Duration::from_secs(plan.peer_seconds);
    let (victim, noise) = (async || Ok(target.clone()), async |_: usize| Ok(noises.clone()));
    let rounds = rounds(caller, victim, peer.pid(), (rate, time), plan.peer_rounds, noise, async || Ok(None)).await?;
    Ok(Rounds { capacity_rps, ..rounds })
}

/// Alone, noise, alone, ..., alone. `pid` is the server's.
async fn rounds(
    caller: &mut Caller,
    victim: impl AsyncFn() -> Result<Target>,
    pid: u32,
    (rate, time): (f64, Duration),
    count: usize,
    noises: impl AsyncFn(usize) -> Result<Vec<Noise>>,
    taken: impl AsyncFn() -> Result<Option<Taken>>,
) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    let order =
        |target: Target, seed: usize| Order { targets: vec![target], rate, warm_up: WARM_UP, time, seed: seed as u64 };
    until_idle(pid).await?;
    rounds.alone.push(caller.run(&order(victim().await?, 0))?);
    let alone_us = rounds.alone.first().and_then(|outcome| quantile(&outcome.latencies_us, 0.9)).unwrap_or_default();
    for number in 1..=count {
        let (target, noises, before) = (victim().await?, noises(number).await?, taken().await?);
        let neighbour = Neighbour::start(&noises)?;
        rounds.noise.push(caller.run(&order(target, 2 * number - 1))?);
        let after = taken().await?;
        rounds.noisiness.push(neighbour.stop()?);
        rounds.of_fair_share.extend(before.zip(after).map(|(before, after)| after.of_fair_share(before)));
        until_idle(pid).await?;
        until_quiet(&victim().await?, alone_us).await?;
        rounds.alone.push(caller.run(&order(victim().await?, 2 * number))?);
    }
    Ok(rounds)
}

impl Plan {
    fn has(&self, serve: Serve) -> bool {
        self.serve.is_empty() || self.serve.contains(&serve)
    }
}

impl Rival {
    const ALL: [Self; 5] = [
        Self::Serve(Serve::Default),
        Self::Serve(Serve::Tuned),
        Self::Serve(Serve::Reuse),
        Self::Serve(Serve::Yielding),
        Self::Workerd,
    ];

    /// What its figures begin with.
    fn key(self) -> &'static str {
        match self {
            Self::Serve(serve) => serve.key(),
            Self::Workerd => "workerd",
        }
    }

    fn program(self, plan: &Plan) -> Option<&Path> {
        match self {
            Self::Serve(_) => plan.wasmtime.as_deref(),
            Self::Workerd => plan.workerd.as_deref(),
        }
    }

    /// Why it is not run, if it is not.
    fn absent(self, plan: &Plan) -> Option<&'static str> {
        match self {
            _ if plan.peer_rounds == 0 => Some("left out by --peer-rounds 0"),
            Self::Serve(serve) if !plan.has(serve) => Some("left out by --serve"),
            _ => self.program(plan).is_none().then_some(NO_PEER),
        }
    }

    fn start(self, plan: &Plan) -> Result<Peer> {
        let program = self.program(plan).context(NO_PEER)?;
        match self {
            Self::Serve(serve) => Peer::serve(program, "work", serve),
            Self::Workerd => Peer::workerd(program),
        }
    }
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

    /// What a flood offered over what the host can answer: the most it was seen to.
    fn offered_over_capacity(&self) -> Vec<f64> {
        let capacity_rps = self.capacity_rps.unwrap_or_default();
        let over = |noise: &Noisiness| noise.offered_rps() / capacity_rps.max(noise.served_rps());
        self.noisiness.iter().map(over).collect()
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
    report.put(&key("neighbour"), &rounds.noisiness)?;
    write_offer(report, key, rounds)
}

fn write_of_peer(report: &mut Report, kind: Kind, rival: Rival, rounds: &Rounds) -> Result<()> {
    let key = |figure: &str| format!("{}.{}_{figure}", kind.name(), rival.key());
    report.median_with_interval(&key("p50_ratio"), &rounds.ratios(0.5))?;
    report.median_with_interval(&key("p99_ratio"), &rounds.ratios(0.99))?;
    report.median(&key("control_p99_ratio"), &rounds.control(0.99))?;
    report.median(&key("p99_us"), &rounds.each(&rounds.noise, 0.99))?;
    report.median(&key("alone_p99_us"), &rounds.each(&rounds.alone, 0.99))?;
    report.put(&key("victim_errors_count"), rounds.errors_count())?;
    report.put(&key("victim_errors"), rounds.errors())?;
    report.put(&key("neighbour"), &rounds.noisiness)?;
    write_offer(report, key, rounds)
}

/// What a flood offered over what can be answered. One that was less than it has to be is said to be, in words.
fn write_offer(report: &mut Report, key: impl Fn(&str) -> String, rounds: &Rounds) -> Result<()> {
    let Some(capacity_rps) = rounds.capacity_rps else { return Ok(()) };
    let each = |figure: fn(&Noisiness) -> f64| -> Vec<f64> { rounds.noisiness.iter().map(figure).collect() };
    let over = rounds.offered_over_capacity();
    report.put(&key("capacity_rps"), capacity_rps)?;
    report.median(&key("offered_rps"), &each(Noisiness::offered_rps))?;
    report.median(&key("served_rps"), &each(Noisiness::served_rps))?;
    report.median(&key("offered_over_capacity"), &over)?;
    if over.iter().any(|over| *over < FLOOD_OVER_CAPACITY_MIN) {
        let reason =
            "this was no flood at ten times the capacity: the sockets took no more, or its caller did not get the time";
        eprintln!("{}: {reason}: {over:.1?}", key("offered_over_capacity"));
        report.put(&key("offered_over_capacity_reason"), reason)?;
    }
    Ok(())
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
            ..Rounds::default()
        };
        assert_eq!(rounds.ratios(0.99), [2.0, 1.0]);
        assert_eq!(rounds.added(0.99), [500.0, 0.0]);
        assert_eq!(rounds.control(0.5), [1.5, 500.0 / 600.0]);
        assert_eq!(rounds.pooled_ratio(0.5), Some(2.0 * 0.5 * 1.1));
        assert_eq!(rounds.errors_count(), 0);
    }

    fn flooded(sent_count: u64, served_count: u64) -> Rounds {
        let noisiness =
            Noisiness { seconds: 2.0, sent_count, statuses: [(200, served_count)].into(), ..Noisiness::default() };
        let (alone, noise) = ([400, 600].map(outcome).into(), vec![outcome(1_000)]);
        Rounds { alone, noise, noisiness: vec![noisiness], of_fair_share: vec![0.5], capacity_rps: Some(100.0) }
    }

    #[test]
    fn a_flood_is_measured_by_the_most_that_the_host_answers() {
        assert_eq!(flooded(2_200, 100).offered_over_capacity(), [11.0]);
        assert_eq!(flooded(2_200, 400).offered_over_capacity(), [5.5]);
    }

    #[test]
    fn every_kind_has_its_keys_and_too_small_a_flood_its_reason() {
        for (rounds, is_enough) in [(flooded(2_200, 100), true), (flooded(1_800, 100), false)] {
            let names = Kind::ALL.iter().map(|kind| kind.name());
            let mut report = Report::start_in_parts("noisy", names).unwrap();
            for kind in Kind::ALL {
                write(&mut report, kind, &rounds).unwrap();
                for rival in Rival::ALL {
                    write_of_peer(&mut report, kind, rival, &rounds).unwrap();
                }
            }
            let figures = report.finish().unwrap();
            for kind in Kind::ALL {
                let has = |figure: &str| figures.get(format!("noisy.{}.{figure}", kind.name())).is_some();
                for figure in ["p50_ratio", "p99_ratio", "p99_added_us", "control_p99_ratio", "offered_over_capacity"] {
                    assert!(has(figure), "{kind:?}: {figure}");
                }
                for peer in ["serve", "serve_default", "serve_reuse", "serve_yielding", "workerd"] {
                    assert!(has(&format!("{peer}_p99_ratio")), "{kind:?}: {peer}");
                }
                assert_eq!(has("offered_over_capacity_reason"), !is_enough, "{kind:?}");
            }
        }
    }
}
