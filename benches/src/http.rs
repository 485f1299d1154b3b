//! `http`: hello over HTTP on Ringfence (authentication, policy, metering and audit on, a fresh instance a request, and
//! with instances that serve many), on `wasmtime serve` as it comes, with a tuned pool and with reuse, and on workerd; in turn,
//! with ours twice a round as the control. Must never let what one side still does behind its answers slow the next.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::load::{Round, Target, round};
use crate::machine::{process_cpu_us, until_idle};
use crate::peers::{Peer, Serve};
use crate::report::Report;
use crate::stage::Stage;

/// The manifest of a plugin whose instances serve many requests.
const WARM: &str = "[instance]\ninvocations_max = 100000\n";

/// How much to measure, and where the peers are.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds of each side
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Seconds a round of one side
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Open connections
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// The `wasmtime` program
    #[arg(long)]
    pub wasmtime: Option<PathBuf>,
    /// The `workerd` program
    #[arg(long)]
    pub workerd: Option<PathBuf>,
}

/// One side of the comparison.
struct Side {
    key: &'static str,
    target: Target,
    pid: u32,
    rounds: Vec<Round>,
    server_us: Vec<f64>,
    client_us: Vec<f64>,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("http")?;
    let stage = Stage::new().await?;
    let ours = stage.guest("acme", "hello", "", &[]).await?;
    let warm = stage.guest("warm", "hello", WARM, &[]).await?;
    let (peers, absent) = peers(plan)?;
    let mut sides = vec![Side::new("fresh", ours.target(&stage, "/").await?, stage.host.pid())];
    sides.push(Side::new("warm", warm.target(&stage, "/").await?, stage.host.pid()));
    for (key, peer) in &peers {
        sides.push(Side::new(key, Target { address: peer.address()?, path: "/".to_owned(), token: None }, peer.pid()));
    }
    sides.push(Side::new("fresh_again", ours.target(&stage, "/").await?, stage.host.pid()));
    for side in &sides {
        round(&side.target, plan.connections, Duration::from_secs(1)).await.with_context(|| side.key)?;
    }
    let time = Duration::from_secs(plan.seconds);
    for _ in 0..plan.rounds {
        let tokens = [ours.target(&stage, "/").await?.token, warm.target(&stage, "/").await?.token];
        for side in &mut sides {
            if side.target.token.is_some() {
                let [fresh, warm] = &tokens;
                side.target.token.clone_from(if side.key == "warm" { warm } else { fresh });
            }
            side.measure(plan.connections, time).await.with_context(|| side.key)?;
        }
    }
    report.fact("rounds", plan.rounds)?;
    report.fact("seconds_a_round", plan.seconds)?;
    report.fact("connections", plan.connections)?;
    report.put("serve_tuned_options", Serve::Tuned.options())?;
    report.put("serve_reuse_options", Serve::Reuse.options())?;
    write(&mut report, &sides, &absent)?;
    report.finish()
}

/// A peer by the name that its figures have.
type NamedPeer = (&'static str, Peer);

/// The peers that are there, and the keys of those that are not.
fn peers(plan: &Plan) -> Result<(Vec<NamedPeer>, Vec<&'static str>)> {
    let (mut peers, mut absent) = (Vec::new(), Vec::new());
    let serves = [("serve_default", Serve::Default), ("serve_tuned", Serve::Tuned), ("serve_reuse", Serve::Reuse)];
    for (key, serve) in serves {
        match &plan.wasmtime {
            Some(program) => peers.push((key, Peer::serve(program, "hello", serve)?)),
            None => absent.push(key),
        }
    }
    match &plan.workerd {
        Some(program) => peers.push(("workerd", Peer::workerd(program)?)),
        None => absent.push("workerd"),
    }
    peers.push(("client_ceiling", Peer::plain()?));
    Ok((peers, absent))
}

impl Side {
    fn new(key: &'static str, target: Target, pid: u32) -> Self {
        Self { key, target, pid, rounds: Vec::new(), server_us: Vec::new(), client_us: Vec::new() }
    }

    async fn measure(&mut self, connections: usize, time: Duration) -> Result<()> {
        let pid = self.pid.to_string();
        let before = (process_cpu_us(&pid)?, process_cpu_us("self")?);
        let round = round(&self.target, connections, time).await?;
        let count = round.latencies_us.len() as f64;
        self.server_us.push((process_cpu_us(&pid)? - before.0) as f64 / count);
        self.client_us.push((process_cpu_us("self")? - before.1) as f64 / count);
        self.rounds.push(round);
        // What it does behind its answers is not to be the next one's burden.
        until_idle(self.pid).await
    }

    fn each(&self, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }
}

fn write(report: &mut Report, sides: &[Side], absent: &[&str]) -> Result<()> {
    for side in sides {
        report.median(&format!("{}_rps", side.key), &side.each(|round| round.rate))?;
        report.median(&format!("{}_p50_us", side.key), &side.each(|round| round.quantile_us(0.5)))?;
        report.median(&format!("{}_p99_us", side.key), &side.each(|round| round.quantile_us(0.99)))?;
        report.median(&format!("{}_server_cpu_us", side.key), &side.server_us)?;
        report.median(&format!("{}_client_cpu_us", side.key), &side.client_us)?;
    }
    let ratios = [
        ("ratio_fresh_vs_default", "fresh", "serve_default"),
        ("ratio_fresh_vs_tuned", "fresh", "serve_tuned"),
        ("ratio_fresh_vs_reuse", "fresh", "serve_reuse"),
        ("ratio_fresh_vs_workerd", "fresh", "workerd"),
        ("ratio_warm_vs_fresh", "warm", "fresh"),
        ("ratio_warm_vs_reuse", "warm", "serve_reuse"),
        ("ratio_control", "fresh_again", "fresh"),
        ("ratio_client_ceiling_vs_fresh", "client_ceiling", "fresh"),
    ];
    for (key, one, other) in ratios {
        let rates = |key: &str| sides.iter().find(|side| side.key == key).map(|side| side.each(|round| round.rate));
        match (rates(one), rates(other)) {
            (Some(one), Some(other)) => {
                let ratio: Vec<f64> = one.iter().zip(&other).map(|(one, other)| one / other).collect();
                report.median_with_interval(key, &ratio)?;
            }
            _ => report.missing(key, "the peer's program was not given")?,
        }
    }
    for key in absent {
        report.missing(&format!("{key}_rps"), "the peer's program was not given")?;
    }
    report.fact(
        "note",
        "server_cpu_us and client_cpu_us are CPU time a request; both run on the same cores. Latencies are of a closed loop, \
         in which a stall counts once a connection: `noisy` has an open one. workerd is one process, which answers on one thread",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promised_keys_are_there_and_an_absent_peer_has_its_reason() {
        let target = Target { address: ([127, 0, 0, 1], 1).into(), path: "/".to_owned(), token: None };
        let keys = ["fresh", "warm", "serve_default", "serve_tuned", "serve_reuse", "client_ceiling", "fresh_again"];
        let measured = Round { rate: 1_000.0, latencies_us: vec![500], statuses: [(200, 1)].into() };
        let sides = keys.map(|key| Side {
            rounds: vec![measured.clone()],
            server_us: vec![100.0],
            client_us: vec![50.0],
            ..Side::new(key, target.clone(), 1)
        });
        let mut report = Report::start("http").unwrap();
        write(&mut report, &sides, &["workerd"]).unwrap();
        let figures = report.finish().unwrap();
        for key in ["fresh", "serve_default", "serve_tuned", "serve_reuse"].map(|side| format!("http.{side}_rps")) {
            assert!(figures.get(&key).is_some_and(Value::is_number), "{key}");
        }
        for key in ["http.ratio_fresh_vs_tuned", "http.ratio_warm_vs_reuse", "http.ratio_control"] {
            assert!(figures.get(key).is_some_and(Value::is_number), "{key}");
            assert!(figures.get(format!("{key}_ci95")).is_some_and(Value::is_array), "{key}");
        }
        for key in ["http.workerd_rps", "http.ratio_fresh_vs_workerd"] {
            assert!(figures.get(key).is_some_and(Value::is_null), "{key}");
            assert!(figures.get(format!("{key}_reason")).is_some_and(Value::is_string), "{key}");
        }
    }
}
