//! `cold`: a host that was just started answers the first call of each of many plugins, whose code lies in the sealed
//! cache and is not loaded; and, for comparison, the second.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringfence_tests::{Host, Tenant, guest};
use serde_json::Value;

use crate::components::distinct;
use crate::load::{Connection, Target};
use crate::report::Report;
use crate::stage::Stage;
use crate::stats::quantile;

/// Plugins of one tenant.
const PLUGINS_A_TENANT: usize = 20;
/// Longest wait for the host to have counted what ended.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Deployed plugins, each of different bytes
    #[arg(long, default_value_t = 200)]
    pub plugins: usize,
    /// Restarts of the host
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("cold")?;
    let mut stage = Stage::new().await?;
    let tenants = deployed(&stage, plan).await?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let (mut starts_ms, mut loads_us, mut inside_us) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (mut inside, mut called_count) = (Inside::default(), 0);
        let (restarted, start_ms) = restart(stage).await?;
        stage = restarted;
        starts_ms.push(start_ms);
        for (number, tenant) in tenants.iter().enumerate() {
            let tenant_plugins = PLUGINS_A_TENANT.min(plan.plugins - number * PLUGINS_A_TENANT);
            let token = stage.host.sign_in(&tenant.admin.key).await?.token;
            let address = stage.plugins()?;
            let target = |path: String| Target { address, path, token: token.clone() };
            let mut connection = Connection::open(address).await?;
            // The connection and the token are known before the clock runs: what is cold is the plugin.
            connection.ask(&target(format!("/{}/nothing/", tenant.name)).request()).await?;
            let before = Inside::when(&stage, called_count).await?;
            for (pass, times) in [&mut first, &mut second].into_iter().enumerate() {
                for plugin in 0..tenant_plugins {
                    let request = target(format!("/{}/p{plugin}/", tenant.name)).request();
                    let asked = Instant::now();
                    let answer = connection.ask(&request).await?;
                    times.push(u64::try_from(asked.elapsed().as_micros())?);
                    ensure!(answer.status == 200, "a cold plugin answered {}", answer.status);
                }
                called_count += tenant_plugins;
                if pass == 0 {
                    inside.add(&before, &Inside::when(&stage, called_count).await?);
                }
            }
        }
        ensure!(inside.misses == plan.plugins as f64, "{} plugins were cold, of {}", inside.misses, plan.plugins);
        loads_us.push(inside.waited_s / inside.misses * 1e6);
        inside_us.push((inside.waited_s / inside.misses + inside.wall_s / inside.calls) * 1e6);
    }
    report.fact("rounds", plan.rounds)?;
    report.put("plugins_count", plan.plugins)?;
    report.median("start_ms", &starts_ms)?;
    let extra: Vec<u64> = first.iter().zip(&second).map(|(first, second)| first.saturating_sub(*second)).collect();
    for (key, times) in [("first_answer", &first), ("second_answer", &second), ("first_over_second", &extra)] {
        let figures: Vec<f64> = times.iter().map(|us| *us as f64).collect();
        report.median(&format!("{key}_us"), &figures)?;
        report.put(&format!("{key}_p99_us"), quantile(times, 0.99))?;
    }
    // Means of a round: the host counts sums.
    report.median("load_us", &loads_us)?;
    report.median("inside_the_host_us", &inside_us)?;
    report.fact(
        "note",
        "inside the host: code that is loaded, then the invocation until its last byte; means of a round. The plugins' code is not \
         loaded, but the kernel still has its files in memory",
    )?;
    report.finish()
}

/// Tenants whose plugins are each of different bytes.
async fn deployed(stage: &Stage, plan: &Plan) -> Result<Vec<Tenant>> {
    let hello = guest("hello")?;
    let mut tenants = Vec::new();
    for number in 0..plan.plugins {
        if number % PLUGINS_A_TENANT == 0 {
            let name = format!("t{}", number / PLUGINS_A_TENANT);
            // Many compilations take longer than a session of the operator lives.
            let operator = stage.host.sign_in(&stage.operator.key).await?;
            tenants.push(stage.host.tenant(&operator, &name).await?);
        }
        let tenant = tenants.last().context("a tenant")?;
        let name = format!("p{}", number % PLUGINS_A_TENANT);
        let manifest = format!("[plugin]\nname = \"{name}\"\nversion = \"0.1.0\"\n");
        let pushed = tenant.push_raw(&manifest, &name, "0.1.0", distinct(&hello, number as u64)).await?;
        ringfence_tests::answer(pushed).await?;
        tenant.deploy(&name, "0.1.0").await?;
    }
    Ok(tenants)
}

/// What the host counted of calls and of the code for them.
#[derive(Default)]
struct Inside {
    /// Times code was not loaded.
    misses: f64,
    /// How long calls waited for it, seconds.
    waited_s: f64,
    /// Invocations that ended.
    calls: f64,
    /// How long they took once their code was there, seconds.
    wall_s: f64,
}

impl Inside {
    async fn read(stage: &Stage) -> Result<Self> {
        let metrics = stage.metrics().await?;
        // No tenant is listed before its first call.
        let of_tenants = |series: &str| metrics.sum(series).unwrap_or_default();
        Ok(Self {
            misses: metrics.sum("code_misses_total")?,
            waited_s: metrics.sum("code_wait_seconds_total")?,
            calls: of_tenants("tenant_invocations_total"),
            wall_s: of_tenants("tenant_wall_seconds_total"),
        })
    }

    /// The same once so many invocations in all have ended: the caller may have the last byte before that is counted.
    async fn when(stage: &Stage, calls_count: usize) -> Result<Self> {
        let asked = Instant::now();
        loop {
            let inside = Self::read(stage).await?;
            if inside.calls >= calls_count as f64 {
                return Ok(inside);
            }
            ensure!(asked.elapsed() < COUNTED_WITHIN, "{} of {calls_count} invocations were counted", inside.calls);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn add(&mut self, before: &Self, after: &Self) {
        self.misses += after.misses - before.misses;
        self.waited_s += after.waited_s - before.waited_s;
        self.calls += after.calls - before.calls;
        self.wall_s += after.wall_s - before.wall_s;
    }
}

/// Stops the host in order and starts it again; gives the time from start to ready, milliseconds.
pub async fn restart(stage: Stage) -> Result<(Stage, f64)> {
    let Stage { place, host, operator } = stage;
    let key = operator.key;
    host.stop()?;
    let start = Instant::now();
    let host = Host::start(&place)?;
    let start_ms = start.elapsed().as_secs_f64() * 1e3;
    let operator = host.sign_in(&key).await?;
    Ok((Stage { place, host, operator }, start_ms))
}
