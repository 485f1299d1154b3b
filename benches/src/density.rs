//! `density`: many tenants on one host: how long it takes to start, what each costs in memory that nothing else shares,
//! and what a load over all of them looks like (Zipf: few are busy, most are hardly called).
//!
//! The host keeps a thousand versions loaded. Must never pass the memory of those for the memory of all tenants, nor look at
//! memory while the host is still at work on what it starts with. How often code was loaded is from a closed loop, as fast as it
//! goes; latencies are from an open one at half of that rate, 1,000 calls a second at most, which a stall cannot hold up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use ringfence_tests::Tenant;
use serde_json::Value;

use crate::cold::restart;
use crate::load::{Connection, Target};
use crate::machine::{private_kib, until_idle};
use crate::open_loop::{Caller, Order, ZIPF_EXPONENT};
use crate::report::Report;
use crate::stage::Stage;
use crate::stats::{Zipf, quantile};

/// Tenants made at the same time: as many as the host compiles and hashes at once.
const PARALLEL_COUNT: usize = 4;
/// Connections of the load.
const CONNECTIONS_COUNT: usize = 8;
/// Tenants that are signed in and called before the next are: a token lives five minutes, and calling everyone may take longer.
const SIGNED_IN_COUNT: usize = 200;
/// Tenants that are promised.
const PROMISED_COUNT: usize = 10_000;
/// Most calls a second of the open loop: more, and its caller would take a core of its own.
const OPEN_RATE_MAX: f64 = 1_000.0;
/// Time of the open loop that is not counted.
const WARM_UP: Duration = Duration::from_secs(1);

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
    /// Seconds of each of the two Zipf loads
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
    let mut restless_count = 0;
    let empty_kib = settled_kib(&stage, &mut restless_count).await?;
    let making = Instant::now();
    let tenants = make(&stage, plan).await?;
    report.put("create_ms_per_tenant", making.elapsed().as_secs_f64() * 1e3 / plan.tenants as f64)?;
    report.put("empty_start_ms", empty_start_ms)?;
    report.put("empty_private_kib", empty_kib)?;
    let (mut starts_ms, mut idle, mut called, mut loaded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut loaded_counts = Vec::new();
    let each = |kib: u64| kib.saturating_sub(empty_kib) as f64 / plan.tenants as f64;
    for _ in 0..plan.rounds {
        let (restarted, start_ms) = restart(stage).await?;
        stage = restarted;
        starts_ms.push(start_ms);
        let idle_kib = settled_kib(&stage, &mut restless_count).await?;
        idle.push(each(idle_kib));
        for some in tenants.chunks(SIGNED_IN_COUNT) {
            let targets = sign_in(&stage, some, &plan.guest).await?;
            let mut connection = Connection::open(stage.plugins()?).await?;
            for target in &targets {
                let answer = connection.ask(&target.request()).await?;
                ensure!(answer.status == 200, "`{}` answered {}", target.path, answer.status);
            }
        }
        let called_kib = settled_kib(&stage, &mut restless_count).await?;
        called.push(each(called_kib));
        // Not every tenant that was called is still loaded: what calls added is what the loaded ones hold.
        let count = stage.metrics().await?.sum("code_loaded")?;
        ensure!(count > 0.0, "nothing is loaded after every tenant was called");
        loaded.push(each(idle_kib) + called_kib.saturating_sub(idle_kib) as f64 / count);
        loaded_counts.push(count);
    }
    report.median("start_ms", &starts_ms)?;
    // Under the promise's name only when so many were there.
    if plan.tenants == PROMISED_COUNT {
        report.median("start_10k_ms", &starts_ms)?;
    } else {
        report.missing("start_10k_ms", "another number of tenants was made; --tenants 10000 makes so many")?;
    }
    report.put("looks_without_rest_count", restless_count)?;
    report.median("idle_rss_per_tenant_kib", &idle)?;
    report.median("rss_per_tenant_kib", &called)?;
    report.median("loaded_count", &loaded_counts)?;
    report.median("rss_per_loaded_kib", &loaded)?;
    report
        .fact("note", "rss_per_tenant_kib is over all tenants, loaded or not; rss_per_loaded_kib is of one that is")?;
    let time = Duration::from_secs(plan.seconds);
    let rate = zipf(&mut report, &stage, &sign_in(&stage, &tenants, &plan.guest).await?, time).await?;
    open_zipf(&mut report, sign_in(&stage, &tenants, &plan.guest).await?, time, rate)?;
    report.finish()
}

/// Memory of the host's own once it has come to rest. One that does not is counted, and looked at all the same.
async fn settled_kib(stage: &Stage, restless_count: &mut u32) -> Result<u64> {
    *restless_count += u32::from(until_idle(stage.host.pid()).await.is_err());
    private_kib(stage.host.pid())
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

/// Some connections that call tenants as Zipf says, one request after the other. Gives the answers a second.
async fn zipf(report: &mut Report, stage: &Stage, targets: &[Target], time: Duration) -> Result<f64> {
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
                let answer = connection.ask(requests.get(rank).context("a rank too many")?).await?;
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
    let rate = (all.len() - refused) as f64 / time.as_secs_f64();
    report.put("zipf_rps", rate)?;
    report.put("zipf_closed_p50_us", quantile(&times, 0.5))?;
    report.put("zipf_closed_p99_us", quantile(&times, 0.99))?;
    report.put("zipf_tenants_called_count", called.len())?;
    report.put("zipf_errors_count", refused)?;
    let after = stage.metrics().await?;
    let more = |series: &str| anyhow::Ok(after.sum(series)? - before.sum(series)?);
    let (hits, misses) = (more("code_hits_total")?, more("code_misses_total")?);
    report.put("zipf_evictions_count", more("code_evictions_total")?)?;
    report.put("zipf_hit_rate", hits / (hits + misses).max(1.0))?;
    Ok(rate)
}

/// The same load at half of that rate and [`OPEN_RATE_MAX`] at most, whether or not earlier calls were answered: latencies count
/// from when each was due.
fn open_zipf(report: &mut Report, targets: Vec<Target>, time: Duration, rate: f64) -> Result<()> {
    let rate = (rate / 2.0).clamp(1.0, OPEN_RATE_MAX);
    let outcome = Caller::start()?.run(&Order { targets, rate, warm_up: WARM_UP, time, seed: 1 })?;
    report.put("zipf_open_rps", rate)?;
    report.put("zipf_p50_us", quantile(&outcome.latencies_us, 0.5))?;
    report.put("zipf_p99_us", quantile(&outcome.latencies_us, 0.99))?;
    report.put("zipf_caller_late_p99_us", quantile(&outcome.late_us, 0.99))?;
    report.put("zipf_open_errors_count", outcome.errors_count)
}
