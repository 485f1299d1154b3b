//! The `ringfence` binary: hands the command line to `cli`, and is the host when the verb is `serve`.
//!
//! Must hold no rule of its own: it reads configuration, puts the rooms together (`wiring.rs`), and lets them run.
#![forbid(unsafe_code)]

mod acme;
mod ambient;
mod anchors;
mod config;
mod current;
mod doctor;
mod findings;
mod machine;
mod mail;
mod provider_fetch;
mod serve;
mod store;
mod tls;
mod unlock;
mod wiring;

use std::process::ExitCode;
use std::sync::Arc;

use ringfence_cli::{AuditRepairArgs, ConfigShowArgs, DoctorArgs, Format, Hosted, ServeArgs, StoreCommand};
use ringfence_core::{Clock, Entropy};

/// A request takes some two hundred small allocations, and what one thread allocates another often frees: the system's
/// allocator spent a sixth of the host's time on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The host's side of the one binary.
struct Host;

impl Hosted for Host {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(ambient::SystemClock::new())
    }
    fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::new(ambient::SystemEntropy)
    }
    fn serve(&self, args: &ServeArgs, format: Format) -> ExitCode {
        report(serve::serve(args, format))
    }
    fn doctor(&self, args: &DoctorArgs, format: Format) -> ExitCode {
        doctor::doctor(args, format)
    }
    fn store(&self, command: &StoreCommand, format: Format) -> ExitCode {
        store::store(command, format).unwrap_or_else(|error| report(Err(error)))
    }
    fn audit_repair(&self, args: &AuditRepairArgs, format: Format) -> ExitCode {
        anchors::repair(args, format).unwrap_or_else(|error| report(Err(error)))
    }
    fn config_show(&self, args: &ConfigShowArgs, format: Format) -> ExitCode {
        report(config::show(&args.serve).and_then(|shown| {
            if format == Format::Json {
                println!("{}", serde_json::to_string(&shown)?);
                return Ok(());
            }
            for value in shown {
                let origin = if args.origin { format!("  # {}", value.origin) } else { String::new() };
                println!("{} = {}{origin}", value.key, value.value);
            }
            Ok(())
        }))
    }
    fn compile_child(&self) -> ExitCode {
        ringfence_engine::Engine::compile_child_main()
    }
}

fn main() -> ExitCode {
    ringfence_cli::run(std::env::args_os(), &Host)
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error[host]: {error:#}");
            ExitCode::FAILURE
        }
    }
}
