//! `key`: the root key and the keys of tenants.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ringfence_core::TenantId;

use super::TenantNameArgs;

/// `key ...`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the root key and the keys of all tenants
    List,
    /// Show the state of a tenant's keys
    Status(TenantNameArgs),
    /// Give a tenant's key, or the root key, a new version
    Rotate(KeyRotateArgs),
    /// Refuse whatever needs a tenant's keys, from the next request on
    Disable(TenantNameArgs),
    /// Take a disabling, or a request to destroy, back
    Enable(TenantNameArgs),
    /// Put the key that a tenant keeps itself around its key; the operator allows where
    Own(TenantNameArgs),
    /// Take it away again
    Disown(TenantNameArgs),
    /// Ask for a tenant's keys to be destroyed; somebody else must agree
    Destroy(TenantNameArgs),
    /// Agree to the destruction that somebody else asked for
    Approve(TenantNameArgs),
    /// List the signed receipts of keys that were destroyed
    Receipts,
    /// Print the signed receipt of a destruction
    Receipt(KeyReceiptArgs),
    /// Check a receipt without a host: signature, and that the log has its entry
    Verify(KeyVerifyArgs),
}

/// `key receipt`.
#[derive(Debug, Clone, Args)]
pub struct KeyReceiptArgs {
    /// Place of its entry in the host's log, as `key receipts` lists it
    pub entry: u64,
}

/// `key verify`.
#[derive(Debug, Clone, Args)]
pub struct KeyVerifyArgs {
    /// The receipt
    pub file: PathBuf,
    /// The key to check against: the vkey of the host's log, or a file with it
    #[arg(long, value_name = "KEY")]
    pub vkey: String,
}

/// `key rotate`.
#[derive(Debug, Clone, Args)]
pub struct KeyRotateArgs {
    /// The tenant; or --root
    #[arg(required_unless_present = "root", conflicts_with = "root")]
    pub name: Option<TenantId>,
    /// Rotate the root key and wrap every key anew
    #[arg(long)]
    pub root: bool,
    /// One purpose: record, secret, blob, log, audit, cache
    #[arg(long, value_name = "PURPOSE", conflicts_with = "root")]
    pub purpose: Option<String>,
}
