//! `session`, `factor`: where people and keys are signed in, and what one proves oneself with.

use clap::{Args, Subcommand};

/// `session ...`.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List the open sessions of everybody, or your own
    List(SessionPlaceArgs),
    /// End a session; its token is refused from then on
    End(SessionEndArgs),
}

/// Whose sessions.
#[derive(Debug, Clone, Args)]
pub struct SessionPlaceArgs {
    /// Your own instead of everybody's
    #[arg(long)]
    pub own: bool,
    /// The operators' instead of a tenant's
    #[arg(long, conflicts_with = "own")]
    pub operator: bool,
}

/// `session end`.
#[derive(Debug, Clone, Args)]
pub struct SessionEndArgs {
    /// Its id, as `session list` shows it
    pub id: String,
    /// Whose it is
    #[command(flatten)]
    pub place: SessionPlaceArgs,
}

/// `factor ...`.
#[derive(Debug, Subcommand)]
pub enum FactorCommand {
    /// Show what you prove yourself with
    Show,
    /// Make a key for one-time codes; it is shown once
    Codes,
    /// Confirm that key with a first code; a password needs one then
    Confirm(FactorConfirmArgs),
    /// Remove your one-time codes and recovery codes
    RemoveCodes,
    /// Set another password; your other sessions end
    Password(FactorPasswordArgs),
}

/// `factor confirm`.
#[derive(Debug, Clone, Args)]
pub struct FactorConfirmArgs {
    /// Read the code from standard input
    #[arg(long)]
    pub code_stdin: bool,
}

/// `factor password`.
#[derive(Debug, Clone, Args)]
pub struct FactorPasswordArgs {
    /// Read the old password, and on a second line the new, from standard input
    #[arg(long)]
    pub password_stdin: bool,
}
