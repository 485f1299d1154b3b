//! The benchmark programs, started by `cargo xtask bench NAME`, which builds them and brings the peers.
//!
//! Must never assert a time: they print, and SPECIFICATION.md says what is promised.
#![forbid(unsafe_code)]

mod http;
mod load;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Prints the figures of one benchmark as JSON.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The same component on Ringfence and on `wasmtime serve`
    Http {
        /// The `wasmtime` program
        #[arg(long)]
        peer: PathBuf,
        /// Rounds of each side
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Seconds a round
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Open connections
        #[arg(long, default_value_t = 16)]
        connections: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let figures = match Arguments::parse().bench {
        Bench::Http { peer, rounds, seconds, connections } => {
            http::run(&peer, &http::Plan { rounds, time: Duration::from_secs(seconds), connections }).await?
        }
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
