//! `store`: what is done to a host's data directory while the host is stopped.

use clap::{Args, Subcommand, ValueEnum};

use super::ServeArgs;

/// `store ...`; answered by the host's side of the binary.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Move the store to another backend; the old database is kept aside
    Migrate(StoreMigrateArgs),
    /// Recover what opens of a store that was set aside as damaged, into a new one in its place
    Salvage(StoreSalvageArgs),
    /// Open everything in the store and name what is damaged
    Check(StoreCheckArgs),
}

/// A database under the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// Log-structured tree, the usual one
    Sled,
    /// Copy-on-write tree in one file
    Redb,
}

/// `store migrate`.
#[derive(Debug, Clone, Args)]
pub struct StoreMigrateArgs {
    /// What it is on
    pub from: BackendArg,
    /// What it shall be on
    pub to: BackendArg,
    /// What `serve` takes
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `store salvage`.
#[derive(Debug, Clone, Args)]
pub struct StoreSalvageArgs {
    /// What `serve` takes
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `store check`.
#[derive(Debug, Clone, Args)]
pub struct StoreCheckArgs {
    /// Then take what there is for all there should be
    #[arg(long)]
    pub recount: bool,
    /// What `serve` takes
    #[command(flatten)]
    pub serve: ServeArgs,
}
