//! `person`, `provider`: who signs in, and where else.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::ResourceName;

use super::{OperatorArgs, RoleArg};
use crate::words::ClaimToRole;

/// `person ...`.
#[derive(Debug, Subcommand)]
pub enum PersonCommand {
    /// Invite somebody; the invitation is shown once
    Invite(PersonInviteArgs),
    /// List the people
    List(OperatorArgs),
    /// Show a person
    Show(PersonNameArgs),
    /// Remove a person; his sessions end at once
    Remove(PersonNameArgs),
    /// Take away all that a person proves himself with, and invite him anew
    Reset(PersonResetArgs),
}

/// `person invite`.
#[derive(Debug, Clone, Args)]
pub struct PersonInviteArgs {
    /// What to call the person
    pub name: ResourceName,
    /// What he may do; `operator` is not bound to a tenant
    #[arg(long, value_enum)]
    pub role: RoleArg,
    /// Write the invitation into a new file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `person show`, `person remove`.
#[derive(Debug, Clone, Args)]
pub struct PersonNameArgs {
    /// The person
    pub name: ResourceName,
    /// One of the host's operators instead of a tenant's people
    #[arg(long)]
    pub operator: bool,
}

/// `person reset`.
#[derive(Debug, Clone, Args)]
pub struct PersonResetArgs {
    /// Who, and where
    #[command(flatten)]
    pub person: PersonNameArgs,
    /// Write the invitation into a new file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `provider ...`.
#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// Trust an identity provider (OpenID Connect), or change that trust
    Add(ProviderAddArgs),
    /// List the identity providers that the tenant trusts
    List,
    /// Trust an identity provider no longer
    Remove(ProviderNameArgs),
}

/// `provider add`.
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "ringfence provider add <NAME> --issuer <URL> \\\n           --client-id <ID> --role <CLAIM=VALUE:ROLE> [OPTIONS]"
)]
pub struct ProviderAddArgs {
    /// What to call it
    pub name: ResourceName,
    /// Its issuer, exactly as its discovery document says it
    #[arg(long, value_name = "URL")]
    pub issuer: String,
    /// What it calls this host
    #[arg(long, value_name = "ID")]
    pub client_id: String,
    /// Who gets which role, `groups=devs:developer`; may be given again
    #[arg(long, value_name = "CLAIM=VALUE:ROLE", required = true)]
    pub role: Vec<ClaimToRole>,
    /// Where it may send people back to; may be given again
    #[arg(long, value_name = "URI", default_value = "http://127.0.0.1/callback")]
    pub redirect: Vec<String>,
    /// A public client without a secret; or leave the one there is
    #[arg(long, conflicts_with = "secret_file")]
    pub public: bool,
    /// Read the client's secret from a file
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

/// `provider remove`.
#[derive(Debug, Clone, Args)]
pub struct ProviderNameArgs {
    /// The provider
    pub name: ResourceName,
}
