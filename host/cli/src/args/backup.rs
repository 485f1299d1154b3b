//! `backup` and `restore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::{BackupId, PlanName, TenantId};

/// `backup ...`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Make a backup while the tenant goes on working
    Create(BackupCreateArgs),
    /// List backups
    List,
    /// Check a file of a backup, without a host
    Verify(BackupVerifyArgs),
    /// Restore where nobody sees it, and compare everything
    Drill(BackupArgs),
    /// Delete a backup
    Delete(BackupArgs),
    /// Take the key that opens the tenant's backups
    RecoveryKey(RecoveryKeyArgs),
    /// Find what does not open any more
    Damage,
    /// Remove a record that does not open
    RemoveDamaged(DamageArgs),
}

/// `backup create`.
#[derive(Debug, Clone, Args)]
pub struct BackupCreateArgs {
    /// Only what changed since the newest backup
    #[arg(long)]
    pub incremental: bool,
}

/// One backup.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The backup
    pub backup: BackupId,
}

/// `backup remove-damaged`.
#[derive(Debug, Clone, Args)]
pub struct DamageArgs {
    /// Where it lies, as `backup damage` has it
    pub place: String,
}

/// `backup verify`.
#[derive(Debug, Clone, Args)]
pub struct BackupVerifyArgs {
    /// The file, `b_....rfb`
    pub file: PathBuf,
    /// File with the recovery key, to check the content too; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

/// `backup recovery-key`.
#[derive(Debug, Clone, Args)]
pub struct RecoveryKeyArgs {
    /// Write the key into a new file of mode 0600 instead of showing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The backup
    pub backup: BackupId,
    /// Restore into a new tenant of this name
    #[arg(long, value_name = "NAME")]
    pub into: Option<TenantId>,
    /// Replace what the tenant has
    #[arg(long, conflicts_with = "into")]
    pub replace: bool,
    /// Directory of the backup, of a tenant that this host does not have
    #[arg(long, value_name = "UID", requires = "into", requires = "recovery_key")]
    pub uid: Option<String>,
    /// File with the recovery key; `-` for standard input
    #[arg(long, value_name = "FILE", requires = "uid")]
    pub recovery_key: Option<PathBuf>,
    /// Plan of the new tenant
    #[arg(long, value_name = "PLAN", requires = "uid")]
    pub plan: Option<PlanName>,
}
