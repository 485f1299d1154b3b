//! `cargo xtask bench [NAME]`: builds what is measured in release, brings the peers into target/peers, runs the program
//! under benches/, prints its one JSON object. Without a name it lists the benchmarks.
//!
//! Must never measure a debug build, nor another version of a peer than the one named here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::run::{quiet_cargo, root, target};

/// The version of `wasmtime`: the one whose engine we embed.
const WASMTIME: &str = "48.0.8";
/// The parts of `wasmtime` that serving takes.
const WASMTIME_FEATURES: &str = "run,serve,cranelift,pooling-allocator,parallel-compilation,component-model,\
    component-model-async,wasi-http,wasi-config,wasi-keyvalue";
/// The version of workerd, npm's prebuilt program.
const WORKERD: &str = "1.20261117.1";

/// Whether a benchmark compares with peers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peers {
    Wanted,
    None,
}

const BENCHES: [(&str, Peers, &str); 14] = [
    ("http", Peers::Wanted, "requests a second of hello: Ringfence, `wasmtime serve` in three settings, workerd"),
    (
        "noisy",
        Peers::Wanted,
        "a tenant's latency beside ten kinds of hostile neighbour, and on the peers; half an hour",
    ),
    ("shares", Peers::None, "CPU time of two saturating tenants of weight 1:3"),
    ("cold", Peers::None, "first answers of 200 plugins after a restart"),
    ("instance", Peers::None, "an invocation in the engine alone, in a fresh instance and in one that served before"),
    ("density", Peers::None, "2,000 tenants: start, private memory each, a Zipf load"),
    (
        "store",
        Peers::None,
        "durable writes of 32 writers and reads against the databases alone; tenants; opening 1 GiB; an object of 1 GiB",
    ),
    ("blob", Peers::None, "an object of 1 GiB through a guest, against cipher and disk"),
    ("metering", Peers::None, "metered CPU time against the kernel's"),
    ("audit", Peers::None, "durable audit entries against the store's commits, proofs of a million entries, a flood"),
    (
        "threat",
        Peers::None,
        "drills of the shipped rules beside 5,000 other events a second: found, refused, missed; alarms of ordinary days",
    ),
    (
        "workflow",
        Peers::None,
        "durable steps against the store's commits, 100,000 sleeping runs, queues, schedules, hooks against hello",
    ),
    (
        "auth",
        Peers::None,
        "CPU that knowing and allowing a caller adds to a warm call; calls beside 10,000 sign-ins a minute, by key and by password",
    ),
    ("policy", Peers::None, "decisions under ten thousand policies, and the proof of the border"),
];

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// Which; all are listed when absent
    name: Option<String>,
    /// Only the JSON object in one line, no words for people
    #[arg(long)]
    json: bool,
    /// Keep the figures as benches/runs/DATE-NAME.json
    #[arg(long)]
    keep: bool,
    /// Further arguments of the benchmark, such as `-- --rounds 3`
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs one benchmark.
pub fn run(arguments: &BenchArgs) -> Result<()> {
    let Some(name) = &arguments.name else {
        for (name, _, about) in BENCHES {
            println!("{name:<10} {about}");
        }
        return Ok(());
    };
    let Some((_, peers, _)) = BENCHES.iter().find(|(known, ..)| known == name) else {
        bail!("there is no benchmark `{name}`; cargo xtask bench lists them");
    };
    quiet_cargo(&["xtask", "guests"])?;
    quiet_cargo(&["build", "--release", "--locked", "-p", "ringfence-server", "-p", "ringfence-bench"])?;
    let mut command = Command::new(target()?.join("release/ringfence-bench"));
    command.arg(name);
    if *peers == Peers::Wanted {
        command.arg("--wasmtime").arg(wasmtime()?).arg("--workerd").arg(workerd()?);
    }
    // What it says on the way goes to standard error, which is the person's.
    let output = command.args(&arguments.rest).stderr(Stdio::inherit()).output();
    let output = output.context("the benchmark does not start")?;
    ensure!(output.status.success(), "the benchmark failed with {}", output.status);
    let figures: Value = serde_json::from_slice(&output.stdout)?;
    if arguments.json {
        println!("{figures}");
    } else {
        println!("{figures:#}");
    }
    if arguments.keep {
        keep(name, &figures)?;
    }
    Ok(())
}

fn keep(name: &str, figures: &Value) -> Result<()> {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H%M%SZ"]).output()?;
    let dir = root()?.join("benches/runs");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join(format!("{}-{name}.json", String::from_utf8(date.stdout)?.trim()));
    std::fs::write(&file, format!("{figures:#}\n")).with_context(|| format!("cannot write `{}`", file.display()))
}

/// `wasmtime` in target/peers, built when it is not there.
fn wasmtime() -> Result<PathBuf> {
    let peers = root()?.join("target/peers");
    let program = peers.join("bin/wasmtime");
    if !program.exists() {
        install_wasmtime(&peers)?;
    }
    let said = Command::new(&program).arg("--version").output().context("`wasmtime` does not start")?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.split_whitespace().any(|word| word == WASMTIME),
        "`{}` is not version {WASMTIME} but `{}`; remove it, and it is built again",
        program.display(),
        said.trim()
    );
    Ok(program)
}

fn install_wasmtime(peers: &Path) -> Result<()> {
    eprintln!("building wasmtime {WASMTIME} for comparison; an interrupted build goes on where it was");
    let root = peers.display().to_string();
    let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    command
        .args(["install", "wasmtime-cli", "--version", WASMTIME, "--locked", "--root", &root])
        .args(["--no-default-features", "--features", WASMTIME_FEATURES])
        .env("CARGO_TARGET_DIR", peers.join("build"));
    ensure!(command.status().context("cargo does not start")?.success(), "wasmtime cannot be built");
    Ok(())
}

/// `workerd` in target/peers, installed when it is not there or of another version.
fn workerd() -> Result<PathBuf> {
    let peers = root()?.join("target/peers");
    let modules = peers.join("node_modules");
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "64" };
    let program = modules.join(format!("@cloudflare/workerd-linux-{arch}/bin/workerd"));
    let is_current = std::fs::read(modules.join("workerd/package.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .is_some_and(|package| package.get("version").and_then(Value::as_str) == Some(WORKERD));
    if !is_current || !program.exists() {
        std::fs::create_dir_all(&peers)?;
        let mut command = Command::new("npm");
        command.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(&peers);
        command.arg(format!("workerd@{WORKERD}")).stdout(Stdio::null());
        let status = command.status().context("workerd comes from npm, which does not start")?;
        ensure!(status.success(), "workerd cannot be installed");
    }
    Ok(program)
}
