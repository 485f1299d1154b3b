//! The kinds of neighbour, and how each is expressed on Ringfence and on a peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::components::bulky;
use crate::load::{Target, round};
use crate::machine::guest_threads_cpu_us;
use crate::neighbour::Noise;
use crate::noisy::Taken;
use crate::stage::{Guest, Stage};

/// What the neighbours' manifests ask for: as much as any plugin can have.
const LARGE: &str = "[budget]\ncpu_ms = 5000\ntime_ms = 60000\nmemory_mib = 128\n";
/// The victim's manifest.
const VICTIM: &str = "[budget]\ncpu_ms = 1000\ntime_ms = 60000\n";
/// Neighbours of every kind that is not about their number.
const NEIGHBOURS_COUNT: usize = 4;
/// Turns of `/bulkmem`, each filling 62 MiB in one instruction.
const FILLS_COUNT: u64 = 60;
/// Connections of a flood.
const FLOOD_CONNECTIONS_COUNT: usize = 192;
/// A flood offers so many times what can be answered: a little more than the ten it has to, since its connections are opened
/// in its time.
const FLOOD_OVER_CAPACITY: f64 = 10.5;
/// Connections of the closed loop that finds what can be answered, and how long it runs, before it counts and then.
const CAPACITY_CONNECTIONS_COUNT: usize = 16;
const CAPACITY_TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Connections with slow bodies.
const SLOW_CONNECTIONS_COUNT: usize = 400;
/// Uploads at the same time.
const UPLOADS_COUNT: usize = 2;
/// Versions uploaded in one round at most.
const UPLOADS_A_ROUND: u64 = 10_000;

/// Time in which what was metered is told.
const METERED_WITHIN: Duration = Duration::from_millis(1_500);
/// Time in which calls are counted to know what one costs.
const COST_TIME: Duration = Duration::from_secs(2);

/// A kind of neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Four tenants, each one endless loop after the other.
    Spin4,
    /// Sixteen of them.
    Spin16,
    /// One tenant with far more tiny requests than can be answered.
    Flood,
    /// Four tenants that grow their memory and touch all of it.
    Memgrow,
    /// Four tenants that fill 62 MiB at a time, which nothing can interrupt.
    Bulkmem,
    /// Four tenants that allocate and free many small blocks.
    Allocstorm,
    /// One tenant that logs as much as it may.
    Logflood,
    /// One tenant that writes as much as it may.
    Kvflood,
    /// One tenant's callers that send a body a byte a second.
    Slowbody,
    /// One tenant that uploads large components, each a new one.
    Compile,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Spin4,
        Self::Spin16,
        Self::Flood,
        Self::Memgrow,
        Self::Bulkmem,
        Self::Allocstorm,
        Self::Logflood,
        Self::Kvflood,
        Self::Slowbody,
        Self::Compile,
    ];

    /// Its name in the figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spin4 => "spin4",
            Self::Spin16 => "spin16",
            Self::Flood => "flood",
            Self::Memgrow => "memgrow",
            Self::Bulkmem => "bulkmem",
            Self::Allocstorm => "allocstorm",
            Self::Logflood => "logflood",
            Self::Kvflood => "kvflood",
            Self::Slowbody => "slowbody",
            Self::Compile => "compile",
        }
    }

    /// Why it cannot be given to a peer, if it cannot.
    pub fn not_on_peers(self) -> Option<&'static str> {
        match self {
            Self::Logflood | Self::Kvflood => Some("the peer has no tenants' logs or storage to flood"),
            Self::Compile => Some("the peer takes no uploads while it serves"),
            _ => None,
        }
    }

    /// Whether it offers a multiple of what can be answered, which is measured first.
    pub fn is_of_capacity(self) -> bool {
        self == Self::Flood
    }

    /// The noise on a peer, which can answer so many a second. Its loops end after a second of computing, because a peer cannot
    /// end them.
    pub fn on_peer(self, address: SocketAddr, turns_a_second: u64, capacity_rps: f64) -> Vec<Noise> {
        let at = |path: String| Target { address, path, token: None };
        match self {
            Self::Flood => vec![flood(at(self.path()), capacity_rps)],
            Self::Slowbody => vec![slow_bodies(at(self.path()))],
            Self::Spin4 | Self::Spin16 => {
                one_each(&vec![at(format!("/compute?n={turns_a_second}")); self.neighbours()])
            }
            _ => one_each(&vec![at(self.path()); self.neighbours()]),
        }
    }

    /// Tenants that make the noise.
    fn neighbours(self) -> usize {
        match self {
            Self::Spin16 => 16,
            Self::Spin4 | Self::Memgrow | Self::Bulkmem | Self::Allocstorm => NEIGHBOURS_COUNT,
            Self::Flood | Self::Logflood | Self::Kvflood | Self::Slowbody | Self::Compile => 1,
        }
    }

    /// What they call.
    fn path(self) -> String {
        match self {
            Self::Spin4 | Self::Spin16 => "/compute".to_owned(),
            Self::Memgrow => "/memgrow?mib=96".to_owned(),
            Self::Bulkmem => format!("/bulkmem?mib=62&n={FILLS_COUNT}"),
            Self::Allocstorm => "/allocstorm?n=100000".to_owned(),
            Self::Logflood => "/log-flood?bytes=1000".to_owned(),
            Self::Kvflood => "/kv-flood?n=200&bytes=4096".to_owned(),
            Self::Slowbody => "/swallow".to_owned(),
            Self::Flood | Self::Compile => "/".to_owned(),
        }
    }

    /// The guest they deploy.
    fn guest(self) -> &'static str {
        match self {
            Self::Logflood | Self::Kvflood => "hostile",
            _ => "work",
        }
    }
}

/// Ringfence with a victim and the neighbours.
pub struct Ours {
    stage: Stage,
    victim: Guest,
    neighbours: BTreeMap<&'static str, Vec<Guest>>,
    dir: tempfile::TempDir,
}

impl Ours {
    /// A host with the tenants that these kinds need.
    pub async fn new(kinds: &[Kind]) -> Result<Self> {
        let stage = Stage::new().await?;
        let victim = stage.guest("victim", "work", VICTIM, &[]).await?;
        let mut neighbours: BTreeMap<&'static str, Vec<Guest>> = BTreeMap::new();
        for kind in kinds {
            let here = neighbours.entry(kind.guest()).or_default();
            for number in here.len()..kind.neighbours() {
                let grants: &[(&str, &[&str])] = match kind.guest() {
                    "hostile" => &[("keyvalue", &["*"]), ("logging", &[]), ("http", &["https://example.com"])],
                    _ => &[],
                };
                let name = format!("{}-{number}", kind.guest());
                here.push(stage.guest(&name, kind.guest(), LARGE, grants).await?);
            }
        }
        let dir = tempfile::tempdir()?;
        if kinds.contains(&Kind::Compile) {
            std::fs::write(dir.path().join("bulky.wasm"), bulky()?)?;
        }
        Ok(Self { stage, victim, neighbours, dir })
    }

    /// Process id of the host.
    pub fn pid(&self) -> u32 {
        self.stage.host.pid()
    }

    /// The victim's target.
    pub async fn victim(&self, rest: &str) -> Result<Target> {
        self.victim.target(&self.stage, rest).await
    }

    /// Answers a second that this host gives to what a kind's neighbour asks for.
    pub async fn capacity_rps(&self, kind: Kind) -> Result<f64> {
        let guest = self.neighbours.get(kind.guest()).and_then(|guests| guests.first());
        capacity_rps(&guest.context("a kind without a neighbour")?.target(&self.stage, &kind.path()).await?).await
    }

    /// The noise of a kind in one round, with tokens for it, on a host that can answer so many a second.
    pub async fn noise(&self, kind: Kind, round: usize, capacity_rps: f64) -> Result<Vec<Noise>> {
        let mut targets = Vec::new();
        for guest in self.neighbours.get(kind.guest()).into_iter().flatten().take(kind.neighbours()) {
            targets.push(guest.target(&self.stage, &kind.path()).await?);
        }
        let first = targets.first().context("a kind without a neighbour")?.clone();
        Ok(match kind {
            Kind::Flood => vec![flood(first, capacity_rps)],
            Kind::Logflood | Kind::Kvflood => vec![Noise::Closed { target: first, connections: NEIGHBOURS_COUNT }],
            Kind::Slowbody => vec![slow_bodies(first)],
            Kind::Compile => vec![Noise::Upload {
                target: Target {
                    address: self.stage.control()?,
                    path: format!("/api/v1/tenants/{}-0/plugins/bulky/versions", kind.guest()),
                    token: first.token,
                },
                plugin: "bulky".to_owned(),
                component: self.component(),
                first: round as u64 * UPLOADS_A_ROUND,
                connections: UPLOADS_COUNT,
            }],
            _ => one_each(&targets),
        })
    }

    /// CPU time that is metered for one call of the victim, microseconds.
    pub async fn call_cost_us(&self, target: &Target) -> Result<f64> {
        tokio::time::sleep(METERED_WITHIN).await;
        let before = self.victim.metered_us(&self.stage).await?;
        let calls = round(target, 1, COST_TIME).await?.latencies_us.len();
        tokio::time::sleep(METERED_WITHIN).await;
        Ok((self.victim.metered_us(&self.stage).await? - before) as f64 / calls as f64)
    }

    /// CPU time so far, with the tenants of a kind. What ran where it arrived, beside the threads of guests, is in the
    /// victim's part and not in the sum: its share is told a little too large.
    pub async fn taken(&self, kind: Kind) -> Result<Taken> {
        Ok(Taken {
            victim_us: self.victim.metered_us(&self.stage).await?,
            guests_us: guest_threads_cpu_us(self.stage.host.pid())?,
            tenants_count: kind.neighbours() + 1,
        })
    }

    fn component(&self) -> PathBuf {
        self.dir.path().join("bulky.wasm")
    }
}

fn one_each(targets: &[Target]) -> Vec<Noise> {
    targets.iter().map(|target| Noise::Closed { target: target.clone(), connections: 1 }).collect()
}

fn flood(target: Target, capacity_rps: f64) -> Noise {
    Noise::Open { target, connections: FLOOD_CONNECTIONS_COUNT, rate: capacity_rps * FLOOD_OVER_CAPACITY }
}

fn slow_bodies(target: Target) -> Noise {
    Noise::SlowBody { target, connections: SLOW_CONNECTIONS_COUNT }
}

/// Requests answered a second in a closed loop while nobody else asks for anything. The loop shares the cores with the server.
pub async fn capacity_rps(target: &Target) -> Result<f64> {
    let [warm_up, time] = CAPACITY_TIMES;
    round(target, CAPACITY_CONNECTIONS_COUNT, warm_up).await?;
    Ok(round(target, CAPACITY_CONNECTIONS_COUNT, time).await?.rate)
}
