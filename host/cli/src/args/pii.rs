//! `pii`: personal data of the tenant.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::PluginName;

use super::PluginArgs;

/// `pii ...`.
#[derive(Debug, Subcommand)]
pub enum PiiCommand {
    /// Rules about fields of a plugin's JSON bodies
    #[command(subcommand)]
    Fields(PiiFieldsCommand),
    /// Show whether there is a key for a subject, and its erasures
    Show(SubjectArgs),
    /// Destroy a subject's key: nothing sealed for it opens again
    Erase(SubjectArgs),
}

/// `pii fields ...`.
#[derive(Debug, Subcommand)]
pub enum PiiFieldsCommand {
    /// Show the rules of a plugin
    Show(PluginArgs),
    /// Replace the rules of a plugin
    Set(PiiFieldsSetArgs),
}

/// `pii fields set`.
#[derive(Debug, Clone, Args)]
pub struct PiiFieldsSetArgs {
    /// The plugin
    pub plugin: PluginName,
    /// JSON, `{"rules": [...]}`; `-` for standard input
    pub file: PathBuf,
}

/// The person that data is about.
#[derive(Debug, Clone, Args)]
pub struct SubjectArgs {
    /// The subject, by the name it is sealed under
    pub subject: String,
}
