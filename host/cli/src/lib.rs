//! The verbs of the `ringfence` command. They speak the control API only; what runs on the host's side of the one
//! binary (`serve`, `doctor`, `config show`, the compile child) is handed to [`Hosted`].
//!
//! Must never touch the store or a key of the host, put a secret into an argument, an error or a log, or exit by itself:
//! the exit code is returned.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;
use ringfence_core::{Clock, Entropy};

use crate::args::{AuditCommand, ConfigCommand};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::ui::Ui;

pub use crate::args::{AuditRepairArgs, BackendArg, StoreCheckArgs, StoreCommand, StoreMigrateArgs, StoreSalvageArgs};
pub use crate::args::{Cli, Command, ConfigShowArgs, DoctorArgs, ServeArgs};
pub use crate::environment::{Environment, Secret};
pub use crate::ui::{Io, Terminal};

mod address;
pub mod args;
mod client;
mod context;
mod environment;
mod error;
mod manifest_edit;
mod possession;
mod profiles;
mod sse;
mod table;
mod template;
mod ui;
mod verbs;
mod words;

/// What the host's side of the binary does for the command line; implemented by `server`.
pub trait Hosted {
    /// The real clock. The command line asks it when a token expires.
    fn clock(&self) -> Arc<dyn Clock>;
    /// The real dice, for the keys of sessions.
    fn entropy(&self) -> Arc<dyn Entropy>;
    /// `ringfence serve`: runs until SIGINT or SIGTERM and drains.
    fn serve(&self, args: &ServeArgs, format: Format) -> ExitCode;
    /// `ringfence doctor`.
    fn doctor(&self, args: &DoctorArgs, format: Format) -> ExitCode;
    /// `ringfence store ...`.
    fn store(&self, command: &StoreCommand, format: Format) -> ExitCode;
    /// `ringfence audit repair`.
    fn audit_repair(&self, args: &AuditRepairArgs, format: Format) -> ExitCode;
    /// `ringfence config show`.
    fn config_show(&self, args: &ConfigShowArgs, format: Format) -> ExitCode;
    /// `ringfence compile-child`: speaks the engine's child protocol on standard input and output.
    fn compile_child(&self) -> ExitCode;
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// `--json`: one JSON value, or one a line for streams.
    Json,
}

/// Parses `args` (the program's name first), does what they say, and answers with the exit code:
/// 0 ok, 1 failed, 2 usage, 3 sign in, 4 denied, 5 not found, 6 conflict, 7 limited, 8 unreachable, 130 interrupted.
pub fn run(args: impl IntoIterator<Item = OsString>, hosted: &dyn Hosted) -> ExitCode {
    run_with(args, hosted, &Environment::read(), Io::standard())
}

/// [`run`] with the environment and the standard streams passed in, for tests.
pub fn run_with(
    args: impl IntoIterator<Item = OsString>,
    hosted: &dyn Hosted,
    environment: &Environment,
    mut io: Io,
) -> ExitCode {
    let args = with_help_flag(args.into_iter().collect());
    let parsed = args::command().try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &args, &mut io).into(),
    };
    let format = if cli.global.json { Format::Json } else { Format::Text };
    match &cli.command {
        Command::Serve(args) => hosted.serve(args, format),
        Command::Doctor(args) => hosted.doctor(args, format),
        Command::Store(command) => hosted.store(command, format),
        Command::Audit(AuditCommand::Repair(args)) => hosted.audit_repair(args, format),
        Command::Config(ConfigCommand::Show(args)) => hosted.config_show(args, format),
        Command::CompileChild => hosted.compile_child(),
        verb => {
            let mut context =
                Context::new(&cli, environment, hosted.clock(), hosted.entropy(), Ui::new(io, &cli.global));
            let exit = match run_verb(&mut context, verb) {
                Ok(exit) => exit,
                Err(error) => {
                    context.ui.error(&error);
                    error.exit()
                }
            };
            exit.into()
        }
    }
}

/// `ringfence help VERB` as `ringfence VERB --help`.
fn with_help_flag(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.get(1).is_some_and(|word| word == "help") {
        args.remove(1);
        args.push("--help".into());
    }
    args
}

/// Runs a verb on a runtime of its own, until it is done or Ctrl-C.
fn run_verb(context: &mut Context<'_>, verb: &Command) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("runtime", format!("cannot start: {}", error::io_words(&error)), None))?;
    let result = runtime.block_on(async {
        tokio::select! {
            // The verb goes first: while it only asks or builds, Ctrl-C keeps its plain meaning and ends the process.
            biased;
            result = verbs::run(context, verb) => result,
            Ok(()) = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    });
    runtime.shutdown_background();
    result
}

/// Help and version on standard output, wrong usage on standard error.
fn usage(error: &clap::Error, args: &[OsString], io: &mut Io) -> Exit {
    let text = error.render().to_string();
    if !error.use_stderr() {
        let _ = io.out.write_all(text.as_bytes()).and_then(|()| io.out.flush());
        return Exit::Ok;
    }
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let detail = text.strip_prefix("error: ").unwrap_or(&text);
    let text = if json {
        let detail = detail.lines().next().unwrap_or_default().to_owned();
        let problem = CliError::Usage { code: "usage", detail, help: Some("ringfence --help".to_owned()) }.to_problem();
        format!("{}\n", serde_json::to_string(&problem).unwrap_or_default())
    } else if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        text
    } else {
        format!("error[usage]: {detail}")
    };
    let _ = io.err.write_all(text.as_bytes()).and_then(|()| io.err.flush());
    Exit::Usage
}
