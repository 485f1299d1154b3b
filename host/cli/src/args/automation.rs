//! `hook`, `queue` and `schedule`: what the product starts by itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::{PluginName, QueueName, ResourceName};

/// `hook ...`.
#[derive(Debug, Subcommand)]
pub enum HookCommand {
    /// List extension points and what is bound to them
    List,
    /// Declare an extension point of the product, as an operator
    Declare(NameFileArgs),
    /// List how an extension point was declared before, as an operator
    Earlier(NameArgs),
    /// Withdraw an extension point, as an operator
    Withdraw(NameArgs),
    /// Bind a plugin to an extension point
    Bind(BindArgs),
    /// Take a binding away
    Unbind(UnbindArgs),
    /// Ask the bound plugins
    Call(CallHookArgs),
}

/// `queue ...`.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List queues and how full they are
    List,
    /// Make or change a queue
    Set(QueueSetArgs),
    /// Delete a queue with all that is in it
    Delete(QueueNameArgs),
    /// Put a message into a queue
    Send(SendArgs),
    /// List messages that failed as often as they may
    Dead(DeadArgs),
    /// Put dead messages back
    Redrive(RedriveArgs),
    /// Throw dead messages away
    Discard(DiscardArgs),
}

/// `schedule ...`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules and when they run next
    List,
    /// Make or change a schedule
    Set(Box<ScheduleSetArgs>),
    /// Delete a schedule
    Delete(NameArgs),
    /// Let a schedule rest
    Pause(NameArgs),
    /// Let a schedule run again
    Resume(NameArgs),
    /// Run a schedule at once
    Run(NameArgs),
}

/// A name.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// Its name
    pub name: ResourceName,
}

/// The name of a queue.
#[derive(Debug, Clone, Args)]
pub struct QueueNameArgs {
    /// The queue; `_hooks` for what plugins are told
    pub name: QueueName,
}

/// A name and a file.
#[derive(Debug, Clone, Args)]
pub struct NameFileArgs {
    /// Its name
    pub name: ResourceName,
    /// JSON as in docs/reference/extension-points.md; `-` for standard input
    pub file: PathBuf,
}

/// `hook bind`.
#[derive(Debug, Clone, Args)]
pub struct BindArgs {
    /// The extension point
    pub hook: ResourceName,
    /// The plugin
    pub plugin: PluginName,
    /// Lower goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub order: i32,
    /// CEL over `payload`: when it is asked
    #[arg(long, value_name = "CEL")]
    pub condition: Option<String>,
}

/// `hook unbind`.
#[derive(Debug, Clone, Args)]
pub struct UnbindArgs {
    /// The extension point
    pub hook: ResourceName,
    /// The plugin
    pub plugin: PluginName,
}

/// `hook call`.
#[derive(Debug, Clone, Args)]
pub struct CallHookArgs {
    /// The extension point
    pub hook: ResourceName,
    /// The payload as JSON; `-` for standard input
    pub file: PathBuf,
    /// Change nothing: only show what it would come to
    #[arg(long)]
    pub dry_run: bool,
}

/// `queue set`.
#[derive(Debug, Clone, Args)]
pub struct QueueSetArgs {
    /// The queue; `_hooks` for what plugins are told
    pub name: QueueName,
    /// Who takes its messages
    #[arg(long)]
    pub plugin: Option<PluginName>,
    /// Most messages handed over at once
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Attempts until a message is dead
    #[arg(long, value_name = "N")]
    pub attempts: Option<u32>,
    /// Most messages
    #[arg(long, value_name = "N")]
    pub depth: Option<u64>,
    /// Hand over nothing for now
    #[arg(long)]
    pub paused: bool,
}

/// `queue send`.
#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// The queue
    pub name: ResourceName,
    /// The message as JSON; `-` for standard input
    pub file: PathBuf,
    /// Take it once only under this key
    #[arg(long = "once", value_name = "KEY")]
    pub key: Option<String>,
    /// Not before so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub delay_ms: u64,
    /// 0 to 9; higher goes first
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub priority: u8,
    /// Messages of one group go in order
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
}

/// `queue dead`.
#[derive(Debug, Clone, Args)]
pub struct DeadArgs {
    /// The queue; `_hooks` for what plugins were to be told
    pub name: QueueName,
    /// Those that contain this text
    pub text: Option<String>,
}

/// `queue redrive`.
#[derive(Debug, Clone, Args)]
pub struct RedriveArgs {
    /// The queue
    pub name: QueueName,
    /// Which messages; all when none is named
    pub ids: Vec<String>,
    /// Those that contain this text
    #[arg(long, conflicts_with = "ids")]
    pub text: Option<String>,
}

/// `queue discard`.
#[derive(Debug, Clone, Args)]
pub struct DiscardArgs {
    /// The queue
    pub name: QueueName,
    /// Which messages
    pub ids: Vec<String>,
    /// Those that contain this text
    #[arg(long, conflicts_with = "ids")]
    pub text: Option<String>,
    /// All of them
    #[arg(long, conflicts_with_all = ["ids", "text"])]
    pub all: bool,
}

/// `schedule set`.
#[derive(Debug, Clone, Args)]
pub struct ScheduleSetArgs {
    /// The schedule
    pub name: ResourceName,
    /// What runs
    pub plugin: PluginName,
    /// Cron: five fields, or six with seconds
    pub cron: String,
    /// IANA time zone
    #[arg(long, default_value = "UTC")]
    pub zone: String,
    /// Of runs that were missed: skip, once or all
    #[arg(long, default_value = "skip", value_parser = ["skip", "once", "all"])]
    pub missed: String,
    /// While the last run goes on: skip, queue or allow
    #[arg(long, default_value = "skip", value_parser = ["skip", "queue", "allow"])]
    pub overlap: String,
    /// Run up to so many milliseconds later
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub jitter_ms: u64,
}
