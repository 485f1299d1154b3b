//! `trust`, `device`: how far sessions are trusted, what is asked of them, and the devices that people are on.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OperatorArgs;
use crate::words::Lifetime;

/// `trust ...`.
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// Show where a session stands, signal by signal
    Score(TrustScoreArgs),
    /// Show or replace what is asked of sessions
    Settings(TrustSettingsArgs),
    /// Show how the tenant, or the host, stands, line by line
    Posture(OperatorArgs),
    /// Risk held against somebody or something for a while
    #[command(subcommand)]
    Risk(RiskCommand),
}

/// `trust score`.
#[derive(Debug, Clone, Args)]
pub struct TrustScoreArgs {
    /// Of `acme/ann`, `acme/plugin/hello` or `acme`; your own session when absent
    #[arg(long, value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `trust settings`.
#[derive(Debug, Clone, Args)]
pub struct TrustSettingsArgs {
    /// JSON as the API takes it; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub set: Option<PathBuf>,
    /// What is asked of operators instead of a tenant's sessions
    #[arg(long)]
    pub operator: bool,
}

/// `trust risk ...`.
#[derive(Debug, Subcommand)]
pub enum RiskCommand {
    /// List what is held against whom
    List(OperatorArgs),
    /// Trust less for a while, at once; all of a place once two agree
    Raise(RiskRaiseArgs),
    /// Trust somebody more for a while; waits for a second person
    Lower(RiskLowerArgs),
    /// Agree to what another asked for
    Approve(RiskIdArgs),
    /// Take one back; in force, it may take a second person
    Withdraw(RiskIdArgs),
}

/// `trust risk raise`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "ringfence trust risk raise <SUBJECT> --by <N> \\\n           --for <TIME> --reason <TEXT> [OPTIONS]"
)]
pub struct RiskRaiseArgs {
    /// `acme/ann`, `acme/plugin/hello`, or `acme` for all of it
    pub subject: String,
    /// Take this from its scores, 1 to 100
    #[arg(long, value_name = "N", required_unless_present = "at_least", conflicts_with = "at_least",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    pub by: Option<u8>,
    /// The least risk instead: its scores are at most 100 less this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub at_least: Option<u8>,
    /// For how long and why
    #[command(flatten)]
    pub why: RiskReasonArgs,
}

/// `trust risk lower`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "ringfence trust risk lower <SUBJECT> --by <N> \\\n           --for <TIME> --reason <TEXT> [OPTIONS]"
)]
pub struct RiskLowerArgs {
    /// `acme/ann`, `acme/plugin/hello`, or `acme` for all of it
    pub subject: String,
    /// Add this to its scores, 1 to 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub by: u8,
    /// For how long and why
    #[command(flatten)]
    pub why: RiskReasonArgs,
}

/// For how long an adjustment counts, and why; of whose place it is.
#[derive(Debug, Clone, Args)]
pub struct RiskReasonArgs {
    /// For how long, 90 days at most: `7d`, `12h`
    #[arg(long = "for", value_name = "TIME")]
    pub lasts: Lifetime,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `trust risk approve`, `trust risk withdraw`.
#[derive(Debug, Clone, Args)]
pub struct RiskIdArgs {
    /// Its id, as `trust risk list` shows it
    pub id: String,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `device ...`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// List the devices of everybody, or your own
    List(DeviceListArgs),
    /// Show a device and what evidence says of it
    Show(DeviceArgs),
    /// Revoke a device; nothing verifies it any more
    Revoke(DeviceArgs),
}

/// `device list`.
#[derive(Debug, Clone, Args)]
pub struct DeviceListArgs {
    /// Your own instead of everybody's
    #[arg(long)]
    pub own: bool,
}

/// `device show`, `device revoke`.
#[derive(Debug, Clone, Args)]
pub struct DeviceArgs {
    /// Whose: `ann`, or `acme/ann`
    pub holder: String,
    /// What it is called
    pub device: String,
}
