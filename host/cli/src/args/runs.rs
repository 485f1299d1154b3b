//! `run`.

use clap::{Args, Subcommand};
use ringfence_core::workflow::Place;
use ringfence_core::{PluginName, RunId};

/// `run ...`.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// List runs, the last begun first
    List(RunListArgs),
    /// Show a run and all that happened in it
    Show(RunArgs),
    /// Begin a run
    Start(RunStartArgs),
    /// Let a run take back what it did, and end
    Cancel(RunArgs),
    /// End a run where it stands
    Terminate(RunTerminateArgs),
    /// Let a run begin nothing more
    Pause(RunArgs),
    /// Let a paused run go on
    Resume(RunArgs),
    /// Let a stuck run go on, or do it again from a place
    Retry(RunRetryArgs),
    /// Let a run go on with another version of its plugin
    Migrate(RunMigrateArgs),
    /// Send a run a signal
    Signal(RunSignalArgs),
    /// Decide what a run asks for
    Approve(RunApproveArgs),
    /// Show what a run published
    Query(RunQueryArgs),
}

/// `run list`.
#[derive(Debug, Clone, Args)]
pub struct RunListArgs {
    /// What they are doing, such as `waiting` or `stuck`
    #[arg(long)]
    pub status: Option<String>,
    /// Of this plugin
    #[arg(long)]
    pub plugin: Option<PluginName>,
    /// Of this workflow
    #[arg(long)]
    pub workflow: Option<String>,
    /// With these attributes: `order=17,customer=acme`
    #[arg(long, value_name = "NAME=VALUE")]
    pub attributes: Option<String>,
}

/// One run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The run
    pub run: RunId,
}

/// `run start`.
#[derive(Debug, Clone, Args)]
pub struct RunStartArgs {
    /// The plugin
    pub plugin: PluginName,
    /// What it is begun with, JSON; `@FILE` reads a file, `-` standard input
    #[arg(default_value = "null")]
    pub input: String,
    /// Which of its workflows; the one of its own name otherwise
    #[arg(long)]
    pub workflow: Option<String>,
    /// Words by which it is found: `order=17,customer=acme`
    #[arg(long, value_name = "NAME=VALUE")]
    pub attributes: Option<String>,
    /// The same key is the same run
    #[arg(long = "once", value_name = "KEY")]
    pub key: Option<String>,
}

/// `run terminate`.
#[derive(Debug, Clone, Args)]
pub struct RunTerminateArgs {
    /// The run
    pub run: RunId,
    /// Why
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// `run retry`.
#[derive(Debug, Clone, Args)]
pub struct RunRetryArgs {
    /// The run
    pub run: RunId,
    /// A place of its timeline: what is there and after it is done again
    #[arg(long, value_name = "PLACE")]
    pub from: Option<Place>,
}

/// `run migrate`.
#[derive(Debug, Clone, Args)]
pub struct RunMigrateArgs {
    /// The run
    pub run: RunId,
    /// A published version; the live one otherwise
    pub version: Option<String>,
}

/// `run signal`.
#[derive(Debug, Clone, Args)]
pub struct RunSignalArgs {
    /// The run
    pub run: RunId,
    /// The signal's name
    pub name: String,
    /// What it carries, JSON; `@FILE` reads a file, `-` standard input
    #[arg(default_value = "null")]
    pub payload: String,
    /// The same key is the same signal
    #[arg(long = "once", value_name = "KEY")]
    pub key: Option<String>,
}

/// `run approve`.
#[derive(Debug, Clone, Args)]
pub struct RunApproveArgs {
    /// The run
    pub run: RunId,
    /// The approval's name
    pub name: String,
    /// Say no
    #[arg(long)]
    pub refuse: bool,
    /// Why
    #[arg(long, default_value = "")]
    pub note: String,
}

/// `run query`.
#[derive(Debug, Clone, Args)]
pub struct RunQueryArgs {
    /// The run
    pub run: RunId,
    /// Under which name
    pub name: String,
}
