//! `access`: who holds what and uses it, and reviews of that.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::RoleArg;
use crate::words::Lifetime;

/// `access ...`.
#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Report who holds what, what of it is unused, and what to look at
    Report(AccessReportArgs),
    /// Access reviews: what stays and what goes, by another's word
    #[command(subcommand)]
    Review(ReviewCommand),
}

/// `access report`.
#[derive(Debug, Clone, Args)]
pub struct AccessReportArgs {
    /// Days without use after which something counts as unused
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    pub unused: u32,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `access review ...`.
#[derive(Debug, Subcommand)]
pub enum ReviewCommand {
    /// Open a review over what there is now
    Open(ReviewOpenArgs),
    /// List the reviews
    List,
    /// Show a review and its items
    Show(ReviewArgs),
    /// Decide an item: keep, revoke or escalate
    Decide(ReviewDecideArgs),
    /// Close a review; what was not decided stays so
    Close(ReviewArgs),
    /// Take the result of a review away as a document
    Export(ReviewExportArgs),
}

/// What can be reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReviewOfArg {
    /// People and their roles
    People,
    /// API keys and their roles
    Keys,
    /// What plugins were granted
    Grants,
    /// Roles held for a while
    Elevations,
    /// Roles of the tenant's own making, by label
    Labels,
}

/// `access review open`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "ringfence access review open <TITLE> --reviewer <PRINCIPAL> \\\n           --due <TIME> [OPTIONS]"
)]
pub struct ReviewOpenArgs {
    /// What to call it
    pub title: String,
    /// Who decides, `acme/ann`; may be given again
    #[arg(long, value_name = "PRINCIPAL", required = true)]
    pub reviewer: Vec<String>,
    /// For how long it is open: `14d`, `12h`
    #[arg(long, value_name = "TIME")]
    pub due: Lifetime,
    /// Revoke what nobody decided by then, instead of reporting it
    #[arg(long)]
    pub revoke_overdue: bool,
    /// Only these, separated by commas; all when absent
    #[arg(long, value_enum, value_delimiter = ',')]
    pub of: Vec<ReviewOfArg>,
    /// Only this role; may be given again
    #[arg(long, value_enum)]
    pub role: Vec<RoleArg>,
    /// Only what was not seen used for so many days
    #[arg(long, value_name = "DAYS")]
    pub unused: Option<u32>,
}

/// `access review show`, `access review close`.
#[derive(Debug, Clone, Args)]
pub struct ReviewArgs {
    /// Its id, as `access review list` shows it
    pub id: String,
}

/// What to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChoiceArg {
    /// It stays
    Keep,
    /// It goes, for the next request
    Revoke,
    /// A tenant-admin is to decide
    Escalate,
}

/// `access review decide`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "ringfence access review decide <ID> <ITEM> <CHOICE> \\\n           --reason <TEXT> [OPTIONS]"
)]
pub struct ReviewDecideArgs {
    /// Its id, as `access review list` shows it
    pub id: String,
    /// Number of the item, as `access review show` shows it
    pub item: u64,
    /// What to decide
    #[arg(value_enum)]
    pub choice: ChoiceArg,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `access review export`.
#[derive(Debug, Clone, Args)]
pub struct ReviewExportArgs {
    /// Its id, as `access review list` shows it
    pub id: String,
    /// File to make; standard output when absent
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
