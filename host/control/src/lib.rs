//! The control plane: JSON over HTTP on its own port, one file per endpoint group, wire types, OpenAPI.
//!
//! Must never act without a permit, or change anything that the audit log does not have an intent for.
//! Open `call.rs` first: it is what every endpoint does; then `plugins.rs`.
#![forbid(unsafe_code)]

mod audit_log;
pub mod call;
mod config;
mod decisions;
mod extract;
mod host;
mod logs;
mod metrics;
mod plugins;
mod policy;
mod problem;
mod quota;
mod routes;
mod secrets;
mod sign_in;
mod tenants;
mod tokens;
mod usage;
pub mod wire;
mod zero_trust;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ringfence_audit::{Audit, Metering};
use ringfence_capabilities::{GuestLogs, Quotas};
use ringfence_core::{Clock, Entropy};
use ringfence_engine::Engine;
use ringfence_identity::Identity;
use ringfence_policy::Policy;
use ringfence_registry::Registry;
use ringfence_store::{Store, Tenants};

pub use call::PeerAddress;
pub use policy::stored_text as stored_policy;
pub use problem::{ApiError, status_of};
pub use routes::{openapi, router};

/// The rooms that the control plane speaks for.
#[derive(Clone)]
pub struct ControlParts {
    /// The data directory's engine, for its figures.
    pub store: Store,
    /// Tenants and their keys.
    pub tenants: Tenants,
    /// Who calls.
    pub identity: Identity,
    /// Whether he may.
    pub policy: Policy,
    /// Plugins, versions, routes, grants.
    pub registry: Registry,
    /// The sandbox, for its figures.
    pub engine: Engine,
    /// Quotas, in force.
    pub quotas: Quotas,
    /// Guest logs.
    pub logs: GuestLogs,
    /// Audit logs.
    pub audit: Audit,
    /// Invocation records and sums.
    pub metering: Metering,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
    /// Facts about this host that do not change while it runs.
    pub facts: HostFacts,
}

/// Facts about this host that do not change while it runs.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Where the data plane listens.
    pub plugins_address: SocketAddr,
    /// Storage engine, in a word.
    pub store_backend: &'static str,
    /// Root key provider, in words.
    pub root_key: String,
    /// Where the enrolment token of a first start lies; removed once it is used.
    pub operator_token_file: Option<PathBuf>,
}

/// The control plane's state. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) parts: Arc<ControlParts>,
    /// One change of a tenant's existence, standing or policy at a time, so that what is in force follows what is stored.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
}

impl Control {
    /// A control plane over its rooms.
    pub fn new(parts: ControlParts) -> Self {
        Self { parts: Arc::new(parts), changing: Arc::default() }
    }
}
