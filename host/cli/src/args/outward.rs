//! `audit stream`, `threat channel` and `threat feed`: what leaves the host, and what is fetched.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::ResourceName;

use super::OperatorArgs;

/// `audit stream ...` and `threat channel ...`.
#[derive(Debug, Subcommand)]
pub enum DestinationCommand {
    /// List them, and how far each has come
    List(OperatorArgs),
    /// Make one; a webhook's secret is shown this once
    Add(DestinationAddArgs),
    /// Change where it is, or switch it on or off; a paused one goes on
    Change(DestinationChangeArgs),
    /// Delete one; nothing goes there any more
    Delete(DestinationArgs),
    /// Send something made up there, and say whether it arrived
    Test(DestinationArgs),
    /// Make a new secret for a webhook; the old one is over
    Renew(DestinationArgs),
}

/// One of them.
#[derive(Debug, Clone, Args)]
pub struct DestinationArgs {
    /// Its name
    pub name: ResourceName,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// Where it is, and with whose eyes.
#[derive(Debug, Clone, Args)]
pub struct DestinationPlaceArgs {
    /// File with certificates in PEM to trust, for syslog
    #[arg(long, value_name = "FILE")]
    pub roots: Option<PathBuf>,
    /// File with an `Authorization` header; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub authorization_file: Option<PathBuf>,
    /// With whose eyes: `auditor`, or `tenant-admin` for addresses too
    #[arg(long, value_name = "ROLE")]
    pub sees: Option<String>,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `... add`.
#[derive(Debug, Clone, Args)]
pub struct DestinationAddArgs {
    /// What to call it
    pub name: ResourceName,
    /// Of a stream `webhook`, `syslog`, `otlp`; of a channel `webhook`, `email`
    pub kind: String,
    /// A URL; for syslog HOST or HOST:PORT; for email addresses
    #[arg(required = true)]
    pub to: Vec<String>,
    /// The first entry to carry; the next one to come when absent
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// Where, and with whose eyes
    #[command(flatten)]
    pub place: DestinationPlaceArgs,
}

/// `... change`.
#[derive(Debug, Clone, Args)]
pub struct DestinationChangeArgs {
    /// Its name
    pub name: ResourceName,
    /// Another place, as with `add`
    #[arg(long, value_name = "TO", num_args = 1..)]
    pub to: Vec<String>,
    /// `on`, or `off` for now; what comes meanwhile is carried later
    #[arg(long, value_name = "WORD")]
    pub switch: Option<String>,
    /// Where, and with whose eyes
    #[command(flatten)]
    pub place: DestinationPlaceArgs,
}

/// `threat feed ...`.
#[derive(Debug, Subcommand)]
pub enum FeedCommand {
    /// List feeds, and how fresh each is
    List,
    /// Write a feed: a collection of a TAXII 2.1 server
    Put(FeedPutArgs),
    /// Delete a feed; what came with it stays until it is over
    Delete(FeedArgs),
    /// Ask a feed now
    Poll(FeedArgs),
}

/// One feed.
#[derive(Debug, Clone, Args)]
pub struct FeedArgs {
    /// Its name
    pub name: ResourceName,
}

/// `threat feed put`.
#[derive(Debug, Clone, Args)]
pub struct FeedPutArgs {
    /// What to call it
    pub name: ResourceName,
    /// The server's API root: `https://host/api`
    pub url: String,
    /// The collection
    pub collection: String,
    /// File with an `Authorization` header; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub authorization_file: Option<PathBuf>,
    /// How often it is asked
    #[arg(long, value_name = "SECONDS")]
    pub every: Option<u32>,
    /// Confidence below which its indicators are not matched, 0 to 100
    #[arg(long, value_name = "NUMBER")]
    pub confidence_min: Option<u32>,
    /// Days in which their confidence halves; it stays without
    #[arg(long, value_name = "DAYS")]
    pub half_life_days: Option<u32>,
}

/// `threat assess`.
#[derive(Debug, Clone, Args)]
pub struct AssessArgs {
    /// How far back: `24h`, `7d`
    #[arg(long, default_value = "24h")]
    pub window: String,
    /// Only this rule; again for more
    #[arg(long, value_name = "NAME")]
    pub rule: Vec<String>,
}
