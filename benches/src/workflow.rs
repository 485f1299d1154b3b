//! `workflow`: durable steps against the store's own commits, runs that sleep and a restart above them, queues end to end and
//! beside a flood, when schedules run, and what a hook costs beside an HTTP hello.
//!
//! Hooks and restarts are measured on the real program. The rest drives the host's rooms in this process, over a data
//! directory that the real program made: that is where a commit can be compared with a commit. Must never run a guest in
//! another way than the host does.

mod hooks;
mod queues;
mod schedules;
mod sleeping;
mod steps;
mod world;

use anyhow::Result;
use serde_json::Value;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::report::Report;
use crate::stage::Stage;
pub use sleeping::{Sleepers, put_to_sleep};
use world::World;

/// Threads of each of the host's two runtimes: as many as the host has.
const THREADS_COUNT: usize = 2;
/// What a run of many steps may use.
const RUN_BUDGET: &str = "[budget]\ncpu_ms = 4000\ntime_ms = 60000\n";
/// What the guest `runs` needs, though no step of these runs asks for it.
const RUN_GRANTS: &[(&str, &[&str])] = &[("http", &["http://127.0.0.1:9"])];
/// What the guest `events` needs, though what it is told here is to do nothing.
const EVENT_GRANTS: &[(&str, &[&str])] = &[("keyvalue", &["default"]), ("queue", &["work"])];

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds; the median of them is the figure
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Tenants that work at once, 2 or more
    #[arg(long, default_value_t = 4)]
    pub tenants: usize,
    /// Steps of a run; each tenant has sixteen runs at once
    #[arg(long, default_value_t = 200)]
    pub steps: u32,
    /// Runs that sleep
    #[arg(long, default_value_t = 100_000)]
    pub sleeping: usize,
    /// MiB of pages that the store keeps in memory where runs fall asleep; the host's own are 64
    #[arg(long, default_value_t = 64)]
    pub cache_mib: u64,
    /// Messages of each tenant in a round
    #[arg(long, default_value_t = 5_000)]
    pub messages: usize,
    /// Messages in the queue of the tenant that floods
    #[arg(long, default_value_t = 100_000)]
    pub flood: usize,
    /// Schedules that run every second
    #[arg(long, default_value_t = 100)]
    pub schedules: usize,
    /// Seconds that schedules are watched for
    #[arg(long, default_value_t = 20)]
    pub schedule_seconds: u64,
    /// Seconds a round of hooks, and of hello
    #[arg(long, default_value_t = 2)]
    pub seconds: u64,
    /// Connections that call hooks, and hello
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: Plan) -> Result<Value> {
    anyhow::ensure!(plan.tenants >= 2, "a flood takes two tenants");
    let mut report = Report::start("workflow")?;
    report.fact("rounds", plan.rounds)?;
    report.fact("tenants", plan.tenants)?;
    report.fact("note", "steps, queues and schedules run in the benchmark's process, on the system's allocator")?;
    hooks::measure(&mut report, &plan).await?;
    sleeping::measure(&mut report, &plan).await?;
    let place = prepared(&plan).await?;
    let measured = tokio::task::spawn_blocking(move || {
        let data = place.data();
        in_rooms(async move |io| {
            let world = World::open(&data, &io).await?;
            steps::measure(&mut report, &plan, &world).await?;
            queues::measure(&mut report, &plan, &world).await?;
            schedules::measure(&mut report, &plan, &world).await?;
            world.close().await?;
            Ok(report)
        })
    });
    measured.await??.finish()
}

/// A data directory with tenants, their plugins deployed; made by the real program, which has stopped.
async fn prepared(plan: &Plan) -> Result<ringfence_tests::Place> {
    let stage = Stage::new().await?;
    for number in 0..plan.tenants {
        let guest = stage.guest(&format!("t{number}"), "runs", RUN_BUDGET, RUN_GRANTS).await?;
        guest.tenant.ship("events", "events", "", EVENT_GRANTS).await?;
    }
    let Stage { place, host, .. } = stage;
    host.stop()?;
    Ok(place)
}

/// Runs something on runtimes as the host has them: one for guests' I/O, one for everything else. Must not be called inside
/// another.
fn in_rooms<T>(work: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let (io, rest) = (runtime("io")?, runtime("control")?);
    let done = rest.block_on(work(io.handle().clone()));
    // The rooms have tasks that end with the process.
    rest.shutdown_background();
    io.shutdown_background();
    done
}

fn runtime(name: &str) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(THREADS_COUNT).thread_name(name).enable_all().build()
}
