//! Starts invocations without a caller on the line: on an event of the product, on time, from a queue.
//!
//! That authority is all this room holds: each start passes `invoke.rs`, which asks policy, quota and scheduler and
//! writes down what was done, as the gateway does. Must never run a guest in any other way.
#![forbid(unsafe_code)]

mod error;
pub mod hooks;
pub mod invoke;
pub mod queue;
pub mod schedule;
mod store;
pub mod workflow;

use std::sync::Arc;

use ringfence_audit::{Audit, Metering};
use ringfence_capabilities::{Capabilities, GuestLogs, Quotas};
use ringfence_core::{Clock, Entropy, Standing, TenantId};
use ringfence_engine::Engine;
use ringfence_identity::Identity;
use ringfence_policy::Policy;
use ringfence_registry::Registry;
use ringfence_store::{TenantStore, Tenants};
use tokio::sync::Semaphore;

pub use error::AutomationError;
pub use invoke::{Call, CallError, Done, Effects};

/// LIMIT: what guests try, on its way to the record.
const TRIED_COUNT_MAX: usize = 64;

/// The rooms that an invocation without a caller walks through.
#[derive(Clone)]
pub struct AutomationParts {
    /// Tenants and their stores.
    pub tenants: Tenants,
    /// Who acts when nobody else does.
    pub identity: Identity,
    /// Whether he may.
    pub policy: Policy,
    /// Plugins, versions, grants.
    pub registry: Registry,
    /// Runs the guest.
    pub engine: Engine,
    /// What the guest may import.
    pub capabilities: Arc<Capabilities>,
    /// What tenants may have.
    pub quotas: Quotas,
    /// What guests print.
    pub logs: GuestLogs,
    /// What the host swears to.
    pub audit: Audit,
    /// What was spent.
    pub metering: Metering,
    /// What is held against whom.
    pub standing: Arc<Standing>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
}

/// What the product starts by itself. Cheap to clone.
#[derive(Clone)]
pub struct Automation {
    pub(crate) parts: Arc<AutomationParts>,
    /// Places for what guests try, on its way to the record.
    pub(crate) telling: Arc<Semaphore>,
    pub(crate) hooks: Arc<hooks::Hooks>,
    pub(crate) queues: Arc<queue::Queues>,
    pub(crate) timer: Arc<schedule::Timer>,
    /// One change at a time: of points with bindings, and of queues.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    /// One change of a schedule at a time, runs included.
    pub(crate) schedule_locks: Arc<schedule::Locks>,
    /// One new schedule at a time.
    pub(crate) adding_schedule: Arc<tokio::sync::Mutex<()>>,
}

impl Automation {
    /// Over its rooms. Nothing is started yet.
    pub fn new(parts: AutomationParts) -> Self {
        Self {
            parts: Arc::new(parts),
            telling: Arc::new(Semaphore::new(TRIED_COUNT_MAX)),
            hooks: Arc::default(),
            queues: Arc::default(),
            timer: Arc::default(),
            changing: Arc::default(),
            schedule_locks: Arc::default(),
            adding_schedule: Arc::default(),
        }
    }

    /// Reads what is durable, and starts: queues hand over, the timer runs, guests can send messages. Must be called once,
    /// inside a runtime, when every other room is open.
    pub async fn start(&self) -> Result<(), AutomationError> {
        self.parts.capabilities.set_postbox(Arc::new(self.clone()));
        self.open_points().await?;
        for tenant in self.parts.tenants.list().await? {
            let Some(store) = self.parts.tenants.open_tenant(&tenant.id) else { continue };
            if let Err(error) = self.open_tenant(&tenant.id, &store).await {
                tracing::error!(tenant = %tenant.id, %error, "a tenant's queues and schedules do not open");
            }
        }
        tokio::spawn(self.clone().keep_time());
        Ok(())
    }

    async fn open_tenant(&self, tenant: &TenantId, store: &TenantStore) -> Result<(), AutomationError> {
        self.open_queues(tenant, store).await?;
        self.open_schedules(tenant, store).await
    }
}
