//! The benchmark programs, started by `cargo xtask bench NAME`, which builds them and brings the peers.
//!
//! Must never assert a time: they print, and SPECIFICATION.md says what is promised.
#![forbid(unsafe_code)]

mod ambient;
mod answer;
mod audit;
mod auth;
mod blob;
mod cold;
mod components;
mod density;
mod flood;
mod http;
mod instance;
mod kinds;
mod load;
mod machine;
mod metering;
mod neighbour;
mod noisy;
mod open_loop;
mod peers;
mod policy;
mod report;
mod shares;
mod stage;
mod stats;
mod store;
mod threat;
mod workflow;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The host's, since rooms of the host are measured in here, and the databases beside them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints the figures of one benchmark as JSON.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Hello over HTTP: Ringfence, `wasmtime serve` in three settings, workerd
    Http(http::Plan),
    /// A tenant's latency beside each kind of hostile neighbour
    Noisy(noisy::Plan),
    /// CPU time of two tenants of weight 1:3
    Shares(shares::Plan),
    /// First answers after a restart
    Cold(cold::Plan),
    /// An invocation in the engine alone, in a fresh instance and in one that served before
    Instance(instance::Plan),
    /// Many tenants: start, memory, a Zipf load
    Density(density::Plan),
    /// An object of 1 GiB through a guest, against cipher and disk
    Blob(blob::Plan),
    /// Metered CPU time against the kernel's
    Metering(metering::Plan),
    /// The store: durable writes, reads, sealing, tenants, opening
    Store(store::Plan),
    /// Decisions under ten thousand policies, and the proof of the border
    Policy(policy::Plan),
    /// What authentication adds to a call, and a storm of sign-ins beside calls
    Auth(auth::Plan),
    /// The audit log: durable entries, proofs of a long log, verifying, a flood
    Audit(audit::Plan),
    /// Drills of the shipped rules while ordinary events go on
    Threat(threat::Plan),
    /// Durable steps, sleeping runs, queues, schedules, hooks
    Workflow(workflow::Plan),
    /// Puts runs to sleep in a data directory, in a process of its own
    #[command(hide = true)]
    Sleepers(workflow::Sleepers),
    /// The victim's caller, in a process of its own
    #[command(hide = true)]
    OpenLoop,
    /// The noisy neighbour, in a process of its own
    #[command(hide = true)]
    Neighbour,
    /// A plain server that shows what the load generator can do
    #[command(hide = true)]
    Plain,
}

fn main() -> Result<()> {
    let bench = Arguments::parse().bench;
    // It blocks in the thread of each connection.
    if let Bench::OpenLoop = bench {
        return open_loop::main();
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(bench))
}

async fn run(bench: Bench) -> Result<()> {
    let figures = match bench {
        Bench::Http(plan) => http::run(&plan).await?,
        Bench::Noisy(plan) => noisy::run(&plan).await?,
        Bench::Shares(plan) => shares::run(&plan).await?,
        Bench::Cold(plan) => cold::run(&plan).await?,
        Bench::Instance(plan) => instance::run(&plan).await?,
        Bench::Density(plan) => density::run(&plan).await?,
        Bench::Blob(plan) => blob::run(&plan).await?,
        Bench::Metering(plan) => metering::run(&plan).await?,
        Bench::Store(plan) => store::run(&plan).await?,
        Bench::Policy(plan) => policy::run(&plan).await?,
        Bench::Auth(plan) => auth::run(&plan).await?,
        Bench::Audit(plan) => audit::run(plan).await?,
        Bench::Threat(plan) => threat::run(&plan).await?,
        Bench::Workflow(plan) => workflow::run(plan).await?,
        Bench::Sleepers(asked) => workflow::put_to_sleep(asked).await?,
        Bench::OpenLoop => return open_loop::main(),
        Bench::Neighbour => return neighbour::main().await,
        Bench::Plain => return peers::plain_main().await,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
