//! Automation for Ringfence: one file a verb, no shell scripts. `cargo xtask VERB`.
//!
//! Must never hold logic of its own: it parses the verb, hands over, and prints the error.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod guests;
mod hostile;
mod inspect;
mod js;
mod mutants;
mod python;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Automation for Ringfence.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the example plugins and the guests of the tests into target/guests
    Guests(guests::GuestsArgs),
    /// Show the main job on the embedded store, with checks
    Demo(demo::DemoArgs),
    /// Run everything CI runs: what tests need, format, guests, tests, lints
    Test(test::TestArgs),
    /// Run a benchmark, or list them
    Bench(bench::BenchArgs),
    /// Take rules of isolation out of a copy of the tree, and hold that a test fails
    Mutants(mutants::MutantsArgs),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Guests(arguments) => guests::run(&arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Mutants(arguments) => mutants::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
