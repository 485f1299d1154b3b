//! `cargo xtask test`: everything CI runs, in the order that fails soonest. `.ci/run` calls this and nothing else.
//!
//! Must never pass over a step: the first that fails ends the run.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::{self, GuestsArgs};
use crate::run::{cargo, cargo_with, root};
use crate::setup;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct TestArgs {
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// What tests need of the machine, format, guests, then everything built with the lints on, and all tests.
pub fn run(arguments: &TestArgs) -> Result<()> {
    setup::run()?;
    cargo("format", &["fmt", "--all", "--check"])?;
    guests::run(&GuestsArgs { js: false, python: false, force: false })?;
    let lints = lints()?;
    // The same command builds what the tests start and the tests themselves, so that features are resolved once.
    cargo_with("build and lints", &lints, &["build", "--workspace", "--all-targets", "--locked"])?;
    let mut test = vec!["test", "--workspace", "--all-targets", "--locked"];
    if let Some(filter) = &arguments.filter {
        test.push("--");
        test.push(filter);
    }
    let [wrapper, words] = lints;
    cargo_with("test", &[wrapper, words, (setup::VARIABLE, "1".into())], &test)
}

/// What makes cargo compile our own crates with the lints' compiler, as `cargo clippy` does: to lint by itself means to read
/// all dependencies a second time, which takes five minutes of a first run. A warning is an error.
fn lints() -> Result<[(&'static str, OsString); 2]> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()?).output();
    let sysroot = output.context("rustc does not start")?.stdout;
    let driver = Path::new(String::from_utf8(sysroot)?.trim()).join("bin/clippy-driver");
    // The words of the command line, as the driver takes them apart.
    let words = ["-D", "warnings"].map(|word| format!("{word}__CLIPPY_HACKERY__")).concat();
    Ok([("RUSTC_WORKSPACE_WRAPPER", driver.into()), ("CLIPPY_ARGS", words.into())])
}
