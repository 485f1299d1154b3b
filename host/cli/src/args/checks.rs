//! `audit check`, `audit remediate`, `audit host-calls`: a tenant's own checks, and what is done about what they find.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `audit check ...`.
#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// List your checks and what they came to last
    List,
    /// Show a check with its versions
    Show(CheckNameArgs),
    /// Define or change a check
    Set(CheckSetArgs),
    /// Run a check now
    Run(CheckNameArgs),
    /// Delete a check; what it came to stays on the log
    Delete(CheckNameArgs),
}

/// A check by its name.
#[derive(Debug, Clone, Args)]
pub struct CheckNameArgs {
    /// The check
    pub check: String,
}

/// `audit check set`.
#[derive(Debug, Clone, Args)]
pub struct CheckSetArgs {
    /// A file with the check as JSON
    pub file: PathBuf,
    /// Only say what it comes to now
    #[arg(long)]
    pub dry_run: bool,
}

/// `audit remediate`.
#[derive(Debug, Clone, Args)]
pub struct RemediateArgs {
    /// The violation, as `audit violations` names it
    pub violation: String,
    /// What to do
    #[arg(value_parser = ["assign", "start", "add-evidence", "resolve", "accept", "approve", "refuse", "reopen"])]
    pub action: String,
    /// Who is to see to it
    #[arg(long, value_name = "PRINCIPAL")]
    pub owner: Option<String>,
    /// Until when: `2026-12-31T18:00:00Z`
    #[arg(long, value_name = "TIME")]
    pub due: Option<String>,
    /// Why, or what was done
    #[arg(long)]
    pub note: Option<String>,
    /// What shows it; can be given more than once
    #[arg(long, value_name = "TEXT")]
    pub evidence: Vec<String>,
    /// Until when it may stay as it is
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only say what would come of it
    #[arg(long)]
    pub dry_run: bool,
    /// A violation of the host's own log
    #[arg(long)]
    pub operator: bool,
}

/// `audit host-calls`.
#[derive(Debug, Clone, Args)]
pub struct HostCallsArgs {
    /// What to put on the log, by capability: `keyvalue=all`, `http=1/100`; shows what is when none is given
    #[arg(value_name = "CAPABILITY=SHARE")]
    pub shares: Vec<String>,
}
