//! `cargo xtask test`: everything CI runs, in the order that fails soonest. `.ci/run` calls this and nothing else.
//!
//! Must never pass over a step: the first that fails ends the run.

use anyhow::Result;

use crate::guests::{self, GuestsArgs};
use crate::run::cargo;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct TestArgs {
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Format, lints, guests, the binary, then all tests.
pub fn run(arguments: &TestArgs) -> Result<()> {
    cargo("format", &["fmt", "--all", "--check"])?;
    guests::run(&GuestsArgs { js: false, python: false, force: false })?;
    // The same command builds what the tests start and the tests themselves, so that features are resolved once.
    cargo("build", &["build", "--workspace", "--all-targets", "--locked"])?;
    let mut test = vec!["test", "--workspace", "--all-targets", "--locked"];
    if let Some(filter) = &arguments.filter {
        test.push("--");
        test.push(filter);
    }
    cargo("test", &test)?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}
