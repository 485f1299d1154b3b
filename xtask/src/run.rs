//! Runs other programs for the verbs: prints a line a finished phase with its time, and the output only on failure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The root of the checkout.
pub fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no repository around xtask")?.to_owned())
}

/// Where cargo puts what it builds.
pub fn target() -> Result<PathBuf> {
    Ok(std::env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from))
}

/// Runs cargo in the root, its output shown as it comes; says how long it took.
pub fn cargo(phase: &str, arguments: &[&str]) -> Result<()> {
    cargo_with(phase, &[], arguments)
}

/// As [`cargo`], with something more in its environment.
pub fn cargo_with(phase: &str, environment: &[(&str, OsString)], arguments: &[&str]) -> Result<()> {
    let start = Instant::now();
    println!("== {phase}: cargo {}", arguments.join(" "));
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let mut command = Command::new(cargo);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value))).current_dir(root()?);
    let status = command.status().context("cargo does not start")?;
    if !status.success() {
        bail!("{phase} failed: cargo {}", arguments.join(" "));
    }
    println!("== {phase}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs cargo in the root with its output kept back unless it fails.
pub fn quiet_cargo(arguments: &[&str]) -> Result<()> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo).args(arguments).current_dir(root()?).output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("cargo {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
