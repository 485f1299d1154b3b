//! `audit`: the log of what the host did.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::TenantId;

use super::{CheckCommand, DestinationCommand, HostCallsArgs, OperatorArgs, RemediateArgs, ServeArgs};

/// `audit ...`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what the host did
    List(AuditListArgs),
    /// Find entries by who, what, when and how it ended
    Search(AuditSearchArgs),
    /// Check that nothing was changed, removed or put in
    Verify(AuditVerifyArgs),
    /// Write the log, its head and its key, to verify elsewhere
    Export(AuditExportArgs),
    /// Write a part of the log as one archive with its proofs
    Package(AuditPackageArgs),
    /// Prove that one entry is in the log
    Proof(AuditProofArgs),
    /// Show who else keeps or signs the log's head
    Anchor(OperatorArgs),
    /// List what went against a rule, one row a cause
    Violations(OperatorArgs),
    /// Define, run and list checks of your own
    #[command(subcommand)]
    Check(CheckCommand),
    /// Say what is done about a violation
    Remediate(RemediateArgs),
    /// Choose which host calls of plugins are on the log
    HostCalls(HostCallsArgs),
    /// Count entries by one of their properties
    Stats(AuditStatsArgs),
    /// Record an event of your own application
    Record(AuditRecordArgs),
    /// Stream the log to a place outside, as it grows
    #[command(subcommand)]
    Stream(DestinationCommand),
    /// Show or set how long the log is kept, its years and its holds
    Retention(AuditRetentionArgs),
    /// Hold the log: nothing of it is deleted until two people lift it
    Hold(AuditHoldArgs),
    /// Want a hold lifted; another person must say the same
    Lift(AuditLiftArgs),
    /// Want the body of an application's event erased; another person must say the same
    Erase(AuditEraseArgs),
    /// Show the keys that sign the log, and their changes
    Keys(OperatorArgs),
    /// Give the host's logs a new signing key
    RotateKey,
    /// Mend damaged logs of a host that is stopped; says what is lost
    Repair(AuditRepairArgs),
}

/// `audit list`.
#[derive(Debug, Clone, Args)]
pub struct AuditListArgs {
    /// First entry; the oldest come first
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub from: u64,
    /// Most entries
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit verify`.
#[derive(Debug, Clone, Args)]
pub struct AuditVerifyArgs {
    /// An archive of `audit package`, checked without asking the host
    #[arg(conflicts_with_all = ["file", "operator"])]
    pub archive: Option<PathBuf>,
    /// An export to verify, or a log's folder in the second place, without asking the host
    #[arg(long, value_name = "FILE", requires = "checkpoint", requires = "vkey")]
    pub file: Option<PathBuf>,
    /// The signed head beside the export
    #[arg(long, value_name = "FILE", requires = "file")]
    pub checkpoint: Option<PathBuf>,
    /// The key to check against: the vkey, or a file with it
    #[arg(long, value_name = "KEY")]
    pub vkey: Option<String>,
    /// What stands for the deleted part, from beside the export
    #[arg(long, value_name = "FILE", requires = "file")]
    pub beginning: Option<PathBuf>,
    /// An older signed head that you kept, which the log must go on from
    #[arg(long, value_name = "FILE", conflicts_with = "operator")]
    pub previous: Option<PathBuf>,
    /// A post-quantum key that must have signed the head too: the vkey, or a file with it
    #[arg(long, value_name = "KEY", conflicts_with = "archive")]
    pub cosigner: Option<String>,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit export`.
#[derive(Debug, Clone, Args)]
pub struct AuditExportArgs {
    /// Folder for entries.ndjson, checkpoint and vkey
    pub dir: PathBuf,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit retention`.
#[derive(Debug, Clone, Args)]
pub struct AuditRetentionArgs {
    /// Keep closed years for so many days
    #[arg(long, value_name = "N")]
    pub days: Option<u32>,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit hold`.
#[derive(Debug, Clone, Args)]
pub struct AuditHoldArgs {
    /// Why
    pub reason: String,
    /// As an operator, on the log of this tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "operator")]
    pub of: Option<TenantId>,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit lift`.
#[derive(Debug, Clone, Args)]
pub struct AuditLiftArgs {
    /// The hold
    pub hold: String,
    /// As an operator, on the log of this tenant
    #[arg(long, value_name = "TENANT", conflicts_with = "operator")]
    pub of: Option<TenantId>,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit erase`.
#[derive(Debug, Clone, Args)]
pub struct AuditEraseArgs {
    /// Place of the entry
    pub seq: u64,
    /// Why
    #[arg(long)]
    pub reason: String,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit search`.
#[derive(Debug, Clone, Args)]
pub struct AuditSearchArgs {
    /// Code, whole or its beginning: `TEN-900`, `AUT`
    #[arg(long)]
    pub code: Option<String>,
    /// Who: `acme/ada`
    #[arg(long)]
    pub actor: Option<String>,
    /// On what, whole or its beginning
    #[arg(long)]
    pub resource: Option<String>,
    /// `success`, `failure`, `denied`, `intended` or `unknown`
    #[arg(long)]
    pub outcome: Option<String>,
    /// OCSF class: `6003`
    #[arg(long)]
    pub class: Option<String>,
    /// Not before this time: `2026-11-20T08:00:00Z`
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Most entries
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
}

/// `audit package`.
#[derive(Debug, Clone, Args)]
pub struct AuditPackageArgs {
    /// File to write, a new one
    pub file: PathBuf,
    /// First entry
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// The entry after the last
    #[arg(long, value_name = "SEQ")]
    pub to: Option<u64>,
    /// Only entries of this code; the archive then cannot show that none is missing
    #[arg(long)]
    pub code: Option<String>,
    /// Only so many entries, drawn at random by a seed in the archive
    #[arg(long, value_name = "N")]
    pub sample: Option<u64>,
    /// Put a table for spreadsheets in
    #[arg(long)]
    pub csv: bool,
    /// Put a Parquet file in
    #[arg(long)]
    pub parquet: bool,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit proof`.
#[derive(Debug, Clone, Args)]
pub struct AuditProofArgs {
    /// Place of the entry
    pub seq: u64,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit stats`.
#[derive(Debug, Clone, Args)]
pub struct AuditStatsArgs {
    /// `code`, `class`, `actor`, `resource`, `outcome`, `hour` or `day`
    #[arg(long, default_value = "code")]
    pub by: String,
    /// `events`, `denials` or `failures`
    #[arg(long, default_value = "events")]
    pub metric: String,
    /// How far back: `24h`, `7d`
    #[arg(long, default_value = "24h")]
    pub window: String,
    /// The fewest first
    #[arg(long)]
    pub rare: bool,
    /// The host's own log instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `audit record`.
#[derive(Debug, Clone, Args)]
pub struct AuditRecordArgs {
    /// Your application's own code: `order-placed`
    pub code: String,
    /// What happened
    pub message: String,
    /// On what, in your application's words
    #[arg(long)]
    pub resource: Option<String>,
    /// The rest, as JSON
    #[arg(long, value_name = "JSON")]
    pub data: Option<String>,
    /// The person whom it is about: the message and the rest become unreadable when that person is erased
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
}

/// `audit repair`; answered by the host's side of the binary.
#[derive(Debug, Clone, Args)]
pub struct AuditRepairArgs {
    /// What `serve` takes
    #[command(flatten)]
    pub serve: ServeArgs,
}
