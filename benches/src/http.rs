//! `http`: the same hello component on Ringfence (authentication, policy, metering and audit on, a fresh instance a
//! request) and on `wasmtime serve`, in turn, with ours against ours as the control.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ringfence_tests::{Host, Place, root};
use serde_json::{Value, json};

use crate::load::{Round, Target, round, spread};

/// How much to measure.
pub struct Plan {
    /// Rounds of each side.
    pub rounds: usize,
    /// Length of a round.
    pub time: Duration,
    /// Open connections.
    pub connections: usize,
}

/// Runs the benchmark and gives its figures.
pub async fn run(peer: &Path, plan: &Plan) -> Result<Value> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let token = acme.admin.token.clone();
    let address: SocketAddr = host.plugins.trim_start_matches("http://").parse()?;
    let ours = Target { address, path: "/acme/hello/".to_owned(), token };
    let serving = Peer::start(peer)?;
    let theirs = Target { address: serving.address, path: "/".to_owned(), token: None };
    for target in [&ours, &theirs] {
        round(target, plan.connections, Duration::from_secs(1)).await.context("warm-up")?;
    }
    let (mut first, mut second, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    // The access token lasts five minutes, so the plan must end before it does.
    ensure!(plan.time * 3 * u32::try_from(plan.rounds)? < Duration::from_secs(240), "too long for one access token");
    for _ in 0..plan.rounds {
        first.push(round(&ours, plan.connections, plan.time).await?);
        peers.push(round(&theirs, plan.connections, plan.time).await?);
        second.push(round(&ours, plan.connections, plan.time).await?);
    }
    let ratio = |a: &[Round], b: &[Round]| spread(a.iter().zip(b).map(|(a, b)| a.rate / b.rate).collect());
    let figures = |rounds: &[Round]| {
        json!({
            "requests_per_second": spread(rounds.iter().map(|round| round.rate).collect()),
            "p50_us": spread(rounds.iter().map(|round| round.p50_us as f64).collect()),
            "p99_us": spread(rounds.iter().map(|round| round.p99_us as f64).collect()),
        })
    };
    Ok(json!({
        "bench": "http",
        "rounds": plan.rounds,
        "seconds_a_round": plan.time.as_secs_f64(),
        "connections": plan.connections,
        "ringfence": figures(&first),
        "wasmtime_serve": figures(&peers),
        "ratio_ringfence_to_wasmtime_serve": ratio(&first, &peers),
        "control_ringfence_to_ringfence": ratio(&first, &second),
    }))
}

struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    fn start(program: &Path) -> Result<Self> {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut child = Command::new(program)
            .args(["serve", "-S", "cli", "--addr", &free.to_string()])
            .arg(root().join("target/guests/hello.wasm"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("`{}` does not start", program.display()))?;
        let start = Instant::now();
        while std::net::TcpStream::connect(free).is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                let _ = child.kill();
                bail!("`wasmtime serve` does not listen");
            }
            std::thread::yield_now();
        }
        Ok(Self { child, address: free })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
