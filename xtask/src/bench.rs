//! `cargo xtask bench [NAME]`: builds what is measured in release, brings the peers into target/peers, runs the program
//! under benches/, prints its one JSON object. Without a name it lists the benchmarks.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::run::{quiet_cargo, root};

/// The peer's version: the one whose engine we embed.
const WASMTIME: &str = "48.0.8";

const BENCHES: [(&str, &str); 1] = [("http", "requests a second of hello, Ringfence and `wasmtime serve` in turn")];

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// Which; all are listed when absent
    name: Option<String>,
    /// Only the JSON object, no words for people
    #[arg(long)]
    json: bool,
    /// Keep the figures as benches/runs/DATE.json
    #[arg(long)]
    keep: bool,
    /// Further arguments of the benchmark, such as `-- --rounds 3`
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs one benchmark.
pub fn run(arguments: &BenchArgs) -> Result<()> {
    let Some(name) = &arguments.name else {
        for (name, about) in BENCHES {
            println!("{name:<10} {about}");
        }
        return Ok(());
    };
    ensure!(
        BENCHES.iter().any(|(known, _)| known == name),
        "there is no benchmark `{name}`; cargo xtask bench lists them"
    );
    quiet_cargo(&["xtask", "guests"])?;
    quiet_cargo(&["build", "--release", "--locked", "-p", "ringfence-server", "-p", "ringfence-bench"])?;
    let peer = peer()?;
    let program = root()?.join("target/release/ringfence-bench");
    let output = Command::new(program)
        .arg(name)
        .arg("--peer")
        .arg(peer)
        .args(&arguments.rest)
        .output()
        .context("the benchmark does not start")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let figures: Value = serde_json::from_slice(&output.stdout)?;
    if arguments.json {
        println!("{figures}");
    } else {
        println!("{figures:#}");
    }
    if arguments.keep {
        let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H%M%SZ"]).output()?;
        let dir = root()?.join("benches/runs");
        std::fs::create_dir_all(&dir)?;
        let file = dir.join(format!("{}.json", String::from_utf8(date.stdout)?.trim()));
        std::fs::write(&file, format!("{figures:#}\n"))?;
    }
    Ok(())
}

/// `wasmtime` in target/peers, built when it is not there.
fn peer() -> Result<PathBuf> {
    let peers = root()?.join("target/peers");
    let program = peers.join("bin/wasmtime");
    if !program.exists() {
        let dir = peers.display().to_string();
        quiet_cargo(&["install", "wasmtime-cli", "--version", WASMTIME, "--locked", "--root", &dir])?;
    }
    Ok(program)
}
