//! The control plane: JSON over HTTP on its own port, one file per endpoint group, wire types, OpenAPI.
//!
//! Must never act without a permit, or change anything that the audit log does not have an intent for.
//! Open `call.rs` first: it is what every endpoint does; then `plugins.rs`.
#![forbid(unsafe_code)]

mod access;
mod audit;
mod automation;
mod backup_work;
mod backups;
pub mod call;
mod certificate_health;
mod config;
mod damage;
mod decisions;
mod destructions;
#[cfg(any(test, feature = "fuzzing"))]
pub mod doors;
mod errors;
mod extract;
mod follow;
mod host;
mod idempotency;
mod jobs;
mod keys;
mod locked;
mod logs;
mod metrics;
mod outward;
mod people;
mod pii;
pub mod plain;
mod plugins;
mod policies;
mod problem;
mod quota;
mod routes;
mod secrets;
mod sign_in;
mod tenants;
mod tend;
#[cfg(test)]
mod test_store;
mod threat;
mod tokens;
mod turns;
mod usage;
pub mod wire;
mod workflows;
mod working;
mod workloads;
mod zero_trust;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ringfence_audit::{Audit, Metering, Paced};
use ringfence_automation::Automation;
use ringfence_automation::workflow::Workflows;
use ringfence_capabilities::{FieldRules, GuestLogs, HostCalls, Quotas};
use ringfence_core::{Clock, Entropy, TenantId};
use ringfence_engine::Engine;
use ringfence_engine::scheduler::class::LowestRung;
use ringfence_identity::{Identity, Workloads};
use ringfence_outward::Outward;
use ringfence_policy::Policy;
use ringfence_registry::Registry;
use ringfence_store::backup::Archives;
use ringfence_store::{Locks, Store, TenantStore, Tenants};
use ringfence_threat::Threat;
use tokio::sync::OwnedMutexGuard;

use crate::turns::Turns;

pub use backup_work::BackupPlan;
pub use backups::{ArchiveContent, ArchiveReport, check_archive};
pub use call::PeerAddress;
pub use certificate_health::CertificateHealth;
pub use errors::error_page;
pub use keys::KeyKeeper;
pub use locked::locked_router;
pub use policies::stored as stored_policy;
pub use problem::{ApiError, status_of};
pub use routes::{openapi, router};

/// LIMIT: most policies reviewed at the same time, each of another tenant.
const REVIEWS_PARALLEL_COUNT_MAX: usize = 2;
/// LIMIT: most solvers at the same time, each for another tenant, of which one proves what was asked for by itself.
const SOLVERS_PARALLEL_COUNT_MAX: usize = 2;

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
    /// Rules about fields of personal data, in force.
    pub fields: FieldRules,
    /// Which host calls are on the logs of tenants, and those that wait to be.
    pub host_calls: HostCalls,
    /// Guest logs.
    pub logs: GuestLogs,
    /// Audit logs.
    pub audit: Audit,
    /// Refusals on their way to them.
    pub refusals: Paced,
    /// Invocation records and sums.
    pub metering: Metering,
    /// Detection and response.
    pub threat: Threat,
    /// What leaves the host.
    pub outward: Outward,
    /// The certificates of plugins, for their authorities.
    pub workloads: Workloads,
    /// Backups of tenants.
    pub archives: Archives,
    /// Durable workflows.
    pub workflows: Workflows,
    /// What the product starts by itself.
    pub automation: Automation,
    /// When they are made, and which are kept.
    pub backup_plan: BackupPlan,
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
    /// Open connections of the data plane and of this one, as they change.
    pub connections: [Arc<AtomicU64>; 2],
    /// What the kernel granted the threads that do the I/O of the data plane; known once they started.
    pub io_class: Arc<LowestRung>,
    /// How the certificate of the listeners stands, as it changes.
    pub certificate: Arc<CertificateHealth>,
    /// Storage engine, in a word.
    pub store_backend: &'static str,
    /// Root key provider, in words.
    pub root_key: String,
    /// How well it keeps its key.
    pub root_key_assurance: ringfence_keys::Assurance,
    /// Seconds between the second person's word and the destruction of keys.
    pub destroy_delay_seconds: u32,
    /// Where the enrolment token of a first start lies; removed once it is used.
    pub operator_token_file: Option<PathBuf>,
    /// The solver that proves statements about policies; none when it is not installed.
    pub cvc5: Option<PathBuf>,
}

/// The control plane's state. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) parts: Arc<ControlParts>,
    /// One change of a tenant's existence, standing or policy at a time, so that what is in force follows what is stored; of each
    /// tenant by itself.
    pub(crate) changing: Arc<Locks<TenantId>>,
    /// One at a time writes the receipts of destruction that are owed, so that none is written twice.
    pub(crate) receipting: Arc<tokio::sync::Mutex<()>>,
    /// What access was used lately, and turns to review it.
    pub(crate) access: access::Access,
    /// Long work.
    pub(crate) jobs: jobs::Jobs,
    pub(crate) backup_health: Arc<backup_work::BackupHealth>,
    /// The tenants of which half may be what a backup shows.
    pub(crate) restoring: backup_work::Restoring,
    pub(crate) under_way: idempotency::UnderWay,
    /// One word of two people at a time about one log or place, by the origin of its log, so that what was announced is done.
    pub(crate) agreeing: Arc<Locks<String>>,
    /// One at a time keeps what a tenant was asked.
    pub(crate) keeping: Arc<Locks<TenantId>>,
    /// Turns to review a policy, which takes a core for a while.
    pub(crate) reviewing: Arc<Turns>,
    /// Turns to ask a solver, which takes another.
    pub(crate) proving: Arc<Turns>,
    /// Turns to ask it for long, which leave a place to those who wait to change a policy.
    pub(crate) proving_long: Arc<Turns>,
    /// Turns to try rules on a trace.
    pub(crate) trying: Arc<Turns>,
    /// One drill at a time.
    pub(crate) drilling: Arc<tokio::sync::Semaphore>,
    /// When tenants' own checks are run, and how many at once.
    pub(crate) checks: audit::checks::Checks,
    /// Who has a name in the metrics.
    pub(crate) told: Arc<std::sync::Mutex<metrics::Told>>,
}

impl Control {
    /// A control plane over its rooms.
    pub fn new(parts: ControlParts) -> Self {
        Self {
            parts: Arc::new(parts),
            changing: Arc::default(),
            receipting: Arc::default(),
            access: access::Access::default(),
            jobs: jobs::Jobs::default(),
            backup_health: Arc::default(),
            restoring: backup_work::Restoring::default(),
            under_way: idempotency::UnderWay::default(),
            agreeing: Arc::default(),
            keeping: Arc::default(),
            reviewing: Arc::new(Turns::new(REVIEWS_PARALLEL_COUNT_MAX)),
            proving: Arc::new(Turns::new(SOLVERS_PARALLEL_COUNT_MAX)),
            proving_long: Arc::new(Turns::new(1)),
            trying: Arc::new(Turns::new(1)),
            drilling: Arc::new(tokio::sync::Semaphore::new(1)),
            checks: audit::checks::Checks::default(),
            told: Arc::default(),
        }
    }

    /// One's turn to change the tenant of a store; none of the platform's own, of which nothing waits for this.
    pub(crate) async fn turn_to_change(&self, store: &TenantStore) -> Option<OwnedMutexGuard<()>> {
        match store.tenant() {
            Some(tenant) => Some(self.changing.of(tenant.clone()).await),
            None => None,
        }
    }
}
