//! What a guest may import: key-value, objects, files, config, logging, secrets, personal data, the audit log, queues, runs and
//! outgoing HTTP, each checked against a live grant, and against policy by whoever is the [`Overseer`].
//!
//! One file for each group of WIT interfaces. Linking offers everything to everyone; what counts is the check at every
//! call, against grants that may have changed since the last one. Must never see another tenant: a [`Binding`] carries
//! a store with the tenant fixed. The only room that opens a socket for a guest.
#![forbid(unsafe_code)]

mod audit;
mod bind;
mod bindings;
mod blobstore;
mod calls;
mod config;
mod error;
mod files;
mod grants;
mod guarded;
mod guest_logs;
mod host_calls;
pub mod http;
mod keyvalue;
mod logging;
mod logs;
mod loss;
mod overseer;
mod pii;
mod queue;
mod quota;
mod runs;
mod secrets;
mod steps;
#[cfg(test)]
mod testing;

pub use audit::{EventRefused, PluginEvent};
pub use bind::{Binding, Capabilities, CapabilitiesConfig};
pub use calls::{Chain, ChainEnd, Exchange, Family, PluginCall, Trail};
pub use error::CapabilitiesError;
pub use grants::LiveGrants;
pub use guarded::{Guarded, Tried};
pub use guest_logs::GuestLogs;
pub use host_calls::{HostCalls, NotedCall, Share, Shares, Waiting};
pub use http::{AddressRange, Certificates, EgressConfig, Resolver, prohibited};
pub use logs::{GuestLog, LogLevel, LogLine, StoredLine, StoredLog};
pub use overseer::{Forbidden, Overseer};
pub use pii::{FieldRules, Opening, Verdict, Witness};
pub use queue::{Letter, PostError, Postbox};
pub use quota::{Ledger, LedgerUse, Quotas};
pub use runs::{Begun, NewRun, RunAsker, RunChange, RunDesk, RunRefused, RunState, SeenRun};
pub use steps::{Origin, RunHistory};

use ringfence_engine::Guest;
use wasmtime::component::Linker;

/// Offers guests every capability, in every spelling of its interface that is in use.
pub fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    keyvalue::link(linker)?;
    config::link(linker)?;
    logging::link(linker)?;
    pii::link(linker)?;
    audit::link(linker)?;
    queue::link(linker)?;
    runs::link(linker)?;
    secrets::link(linker)?;
    steps::link(linker)?;
    blobstore::link(linker)?;
    files::link(linker)
}
