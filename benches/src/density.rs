//! `density`: many tenants on one host: how long it takes to start, what each costs in memory that nothing else shares,
//! and what a load over all of them looks like (Zipf: few are busy, most are hardly called).
//!
//! The host keeps a thousand versions loaded. Must never pass the memory of those for the memory of all tenants.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use ringfence_tests::Tenant;
use serde_json::Value;

use crate::cold::restart;
use crate::load::{Connection, Target};
use crate::machine::private_kib;
use crate::report::Report;
use crate::stage::Stage;
use crate::stats::{Zipf, quantile};

/// Tenants made at the same time: as many as the host compiles and hashes at once.
const PARALLEL_COUNT: usize = 4;
/// Connections of the load.
const CONNECTIONS_COUNT: usize = 8;
/// Exponent of the load.
const ZIPF_EXPONENT: f64 = 1.1;

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Tenants, each with one plugin; what is measured is for this number and not computed for another
    #[arg(long, default_value_t = 2_000)]
    pub tenants: usize,
    /// The guest each deploys
    #[arg(long, default_value = "hello")]
    pub guest: String,
    /// Restarts of the host
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds of the Zipf load
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("density")?;
    report.fact("rounds", plan.rounds)?;
    report.put("tenants_count", plan.tenants)?;
    report.put("guest", &plan.guest)?;
    let empty = Stage::new().await?;
    // Restarted, like the full one it is compared with.
    let (mut stage, empty_start_ms) = restart(empty).await?;
    let empty_kib = private_kib(stage.host.pid())?;
    let making = Instant::now();
    let tenants = make(&stage, plan).await?;
    report.put("create_ms_per_tenant", making.elapsed().as_secs_f64() * 1e3 / plan.tenants as f64)?;
    report.put("empty_start_ms", empty_start_ms)?;
    report.put("empty_private_kib", empty_kib)?;
    let (mut starts_ms, mut idle, mut called, mut loaded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut loaded_counts = Vec::new();
    let each = |kib: u64| kib.saturating_sub(empty_kib) as f64 / plan.tenants as f64;
    let mut targets = Vec::new();
    for _ in 0..plan.rounds {
        let (restarted, start_ms) = restart(stage).await?;
        stage = restarted;
        starts_ms.push(start_ms);
        let idle_kib = private_kib(stage.host.pid())?;
        idle.push(each(idle_kib));
        targets = sign_in(&stage, &tenants, &plan.guest).await?;
        let mut connection = Connection::open(stage.plugins()?).await?;
        for target in &targets {
            let answer = connection.exchange(&target.request()).await?;
            ensure!(answer.status == 200, "`{}` answered {}", target.path, answer.status);
        }
        let called_kib = private_kib(stage.host.pid())?;
        called.push(each(called_kib));
        // Not every tenant that was called is still loaded: what calls added is what the loaded ones hold.
        let count = stage.metrics().await?.sum("code_loaded")?;
        ensure!(count > 0.0, "nothing is loaded after every tenant was called");
        loaded.push(each(idle_kib) + called_kib.saturating_sub(idle_kib) as f64 / count);
        loaded_counts.push(count);
    }
    report.median("start_ms", &starts_ms)?;
    report.median("idle_rss_per_tenant_kib", &idle)?;
    report.median("rss_per_tenant_kib", &called)?;
    report.median("loaded_count", &loaded_counts)?;
    report.median("rss_per_loaded_kib", &loaded)?;
    report
        .fact("note", "rss_per_tenant_kib is over all tenants, loaded or not; rss_per_loaded_kib is of one that is")?;
    zipf(&mut report, &stage, &targets, Duration::from_secs(plan.seconds)).await?;
    report.finish()
}

/// Makes the tenants through the API, some at a time.
async fn make(stage: &Stage, plan: &Plan) -> Result<Vec<Tenant>> {
    stream::iter(0..plan.tenants)
        .map(|number| async move {
            if number % 100 == 0 {
                eprintln!("tenant {number} of {}", plan.tenants);
            }
            Ok(stage.guest(&format!("t{number}"), &plan.guest, "", &[]).await?.tenant)
        })
        .buffered(PARALLEL_COUNT)
        .try_collect()
        .await
}

/// A target a tenant, each with a token of its own.
async fn sign_in(stage: &Stage, tenants: &[Tenant], plugin: &str) -> Result<Vec<Target>> {
    let address = stage.plugins()?;
    stream::iter(tenants)
        .map(|tenant| async move {
            let token = stage.host.sign_in(&tenant.admin.key).await?.token;
            Ok(Target { address, path: format!("/{}/{plugin}/", tenant.name), token })
        })
        .buffered(PARALLEL_COUNT)
        .try_collect()
        .await
}

/// Some connections that call tenants as Zipf says, one request after the other.
async fn zipf(report: &mut Report, stage: &Stage, targets: &[Target], time: Duration) -> Result<()> {
    let requests: std::sync::Arc<[Vec<u8>]> = targets.iter().map(Target::request).collect();
    let address = targets.first().context("no tenant")?.address;
    let before = stage.metrics().await?;
    let end = Instant::now() + time;
    let mut tasks = Vec::new();
    for number in 0..CONNECTIONS_COUNT {
        let (requests, mut ranks) = (requests.clone(), Zipf::new(targets.len(), ZIPF_EXPONENT, number as u64));
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut times = Vec::new();
            while Instant::now() < end {
                let rank = ranks.draw();
                let asked = Instant::now();
                let answer = connection.exchange(requests.get(rank).context("a rank too many")?).await?;
                times.push((rank, answer.status, u64::try_from(asked.elapsed().as_micros())?));
            }
            anyhow::Ok(times)
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    let refused = all.iter().filter(|(_, status, _)| *status != 200).count();
    let times: Vec<u64> = all.iter().map(|(.., us)| *us).collect();
    let called: std::collections::BTreeSet<usize> = all.iter().map(|(rank, ..)| *rank).collect();
    report.put("zipf_exponent", ZIPF_EXPONENT)?;
    report.put("zipf_rps", all.len() as f64 / time.as_secs_f64())?;
    report.put("zipf_p50_us", quantile(&times, 0.5))?;
    report.put("zipf_p99_us", quantile(&times, 0.99))?;
    report.put("zipf_tenants_called_count", called.len())?;
    report.put("zipf_errors_count", refused)?;
    let after = stage.metrics().await?;
    let more = |series: &str| anyhow::Ok(after.sum(series)? - before.sum(series)?);
    let (hits, misses) = (more("code_hits_total")?, more("code_misses_total")?);
    report.put("zipf_evictions_count", more("code_evictions_total")?)?;
    report.put("zipf_hit_rate", hits / (hits + misses).max(1.0))
}
