//! `policy`, `approval`, `elevation`: what is allowed in a tenant, and by whose word.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::TenantNameArgs;

/// `policy ...`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the tenant's policy
    Show(PolicyShowArgs),
    /// List the versions of the policy
    Versions,
    /// Say what is known of a policy, and change nothing
    Test(PolicyFileArgs),
    /// Show which answers of late a policy would change
    Diff(PolicyFileArgs),
    /// Replace the tenant's policy
    Apply(PolicyApplyArgs),
    /// Ask a policy beside the one in force, and count how they differ
    Shadow(PolicyShadowArgs),
    /// Bring back an earlier version
    Rollback(PolicyRollbackArgs),
    /// Prove that nothing in a policy crosses the tenant's border
    Prove(PolicyProveArgs),
    /// Show or replace the labels that policies can read
    Labels(PolicyLabelsArgs),
    /// Show or set what a tenant may at most allow itself
    Ceiling(PolicyCeilingArgs),
}

/// `policy show`.
#[derive(Debug, Clone, Args)]
pub struct PolicyShowArgs {
    /// An earlier version
    #[arg(long, value_name = "VERSION")]
    pub version: Option<u64>,
}

/// `policy test`, `policy diff`.
#[derive(Debug, Clone, Args)]
pub struct PolicyFileArgs {
    /// Cedar text; `-` for standard input
    pub file: PathBuf,
}

/// `policy prove`.
#[derive(Debug, Clone, Args)]
pub struct PolicyProveArgs {
    /// Cedar text, `-` for standard input; without it, the policy in force
    pub file: Option<PathBuf>,
}

/// `policy apply`.
#[derive(Debug, Clone, Args)]
pub struct PolicyApplyArgs {
    /// Cedar text; `-` for standard input
    pub file: PathBuf,
    /// Only when the policy still has this version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// Why, for those who read the versions
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

/// `policy shadow`.
#[derive(Debug, Clone, Args)]
pub struct PolicyShadowArgs {
    /// Cedar text to ask; without it, what the one asked now would have done
    pub file: Option<PathBuf>,
    /// Ask it no longer
    #[arg(long, conflicts_with = "file")]
    pub off: bool,
}

/// `policy rollback`.
#[derive(Debug, Clone, Args)]
pub struct PolicyRollbackArgs {
    /// The version to bring back; the one before when absent
    pub version: Option<u64>,
}

/// `policy labels`.
#[derive(Debug, Clone, Args)]
pub struct PolicyLabelsArgs {
    /// JSON as it is shown; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
    /// List the versions: who set them, and when
    #[arg(long, conflicts_with = "set")]
    pub versions: bool,
    /// An earlier version
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["set", "versions"])]
    pub version: Option<u64>,
}

/// `policy ceiling`.
#[derive(Debug, Clone, Args)]
pub struct PolicyCeilingArgs {
    /// The tenant
    #[command(flatten)]
    pub tenant: TenantNameArgs,
    /// Cedar text of `forbid` statements; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
}

/// `approval ...`.
#[derive(Debug, Subcommand)]
pub enum ApprovalCommand {
    /// List what waits for somebody else to allow it
    List,
    /// Show one line by line beside what is in force
    Show(ApprovalArgs),
    /// Allow what another asked for
    Approve(ApprovalArgs),
    /// Refuse what another asked for, or withdraw your own
    Refuse(ApprovalArgs),
}

/// `approval show`, `approval approve`, `approval refuse`.
#[derive(Debug, Clone, Args)]
pub struct ApprovalArgs {
    /// Its id, as `approval list` shows it
    pub id: String,
}

/// `elevation ...`.
#[derive(Debug, Subcommand)]
pub enum ElevationCommand {
    /// Ask for another role for a while
    Request(ElevationRequestArgs),
    /// List the roles held for a while, those that you may see
    List,
    /// End a role before its time
    End(ApprovalArgs),
}

/// A role of a tenant, to be held for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LentRoleArg {
    /// Everything in the tenant
    TenantAdmin,
    /// Pushes and deploys
    Developer,
    /// Reads, and verifies the audit log
    Auditor,
    /// Calls plugins
    Caller,
}

/// `elevation request`.
#[derive(Debug, Clone, Args)]
pub struct ElevationRequestArgs {
    /// The role to act in
    #[arg(value_enum)]
    pub role: LentRoleArg,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub minutes: u32,
}
