//! What tests need of the machine beside the toolchain: installed once, before any of them runs.
//!
//! Must never let tests start without it: a test that finds its tool missing then fails, and skips nothing.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::python;
use crate::run::root;

/// Tells tests that the setup ran, so that what it installs has to be there.
pub const VARIABLE: &str = "RINGFENCE_TEST_SETUP";

/// A program that tests start, and the package that has it; both are Debian's.
const TOOLS: [(&str, &str); 2] = [("cvc5", "cvc5"), ("softhsm2-util", "softhsm2")];

/// Installs what is missing: programs of the machine, and the readers that tests ask about what we write.
pub fn run() -> Result<()> {
    machine()?;
    readers()
}

/// Installs the packages of tests/opinions/requirements.txt into `target/opinions`, anew when that file changed. Some 70 MB.
fn readers() -> Result<()> {
    let (wanted, home) = (root()?.join("tests/opinions/requirements.txt"), root()?.join("target/opinions"));
    let (stamp, text) = (home.join("requirements.txt"), fs::read_to_string(&wanted).context("tests/opinions")?);
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == text) {
        return Ok(());
    }
    println!("== setup: pip install -r tests/opinions/requirements.txt");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(&home)?;
    let named = [OsStr::new("-r"), wanted.as_os_str()];
    if python::environment(&home, &named).is_err() {
        // Debian's own python3 comes without venv.
        install(&["python3-venv"]);
        python::environment(&home, &named)?;
    }
    fs::write(stamp, text).context("target/opinions")
}

/// Installs what is missing, as root through apt-get. Fails with the command to type where that cannot be done.
fn machine() -> Result<()> {
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
