//! What tests need of the machine beside the toolchain: installed once, before any of them runs.
//!
//! Must never let tests start without it: a test that finds its tool missing then fails, and skips nothing.

use std::process::Command;

use anyhow::{Result, bail};

/// Tells tests that the setup ran, so that what it installs has to be there.
pub const VARIABLE: &str = "RINGFENCE_TEST_SETUP";

/// A program that tests start, and the package that has it; both are Debian's.
const TOOLS: [(&str, &str); 2] = [("cvc5", "cvc5"), ("softhsm2-util", "softhsm2")];

/// Installs what is missing, as root through apt-get. Fails with the command to type where that cannot be done.
pub fn run() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    println!("== setup: apt-get install {}", missing.join(" "));
    // A machine that has never asked has no list of packages yet.
    if !(install(&missing) || (apt(&["update"]) && install(&missing))) || !self::missing().is_empty() {
        bail!("tests need what is not installed: run `sudo apt-get install {}`", missing.join(" "));
    }
    Ok(())
}

/// Packages whose program is not on the path.
fn missing() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    TOOLS.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect()
}

fn install(packages: &[&str]) -> bool {
    let mut words = vec!["install"];
    words.extend_from_slice(packages);
    apt(&words)
}

fn apt(words: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(["-y", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]).args(words);
    command.env("DEBIAN_FRONTEND", "noninteractive").output().is_ok_and(|output| output.status.success())
}
