//! Starts invocations without a caller on the line: on an event of the product, on time, from a queue.
//!
//! That authority is all this room holds: each start passes `invoke.rs`, which asks policy, quota and scheduler and
//! writes down what was done, as the gateway does. Must never run a guest in any other way.
#![forbid(unsafe_code)]

mod closing;
mod error;
pub mod expression;
pub mod hooks;
pub mod invoke;
pub mod queue;
pub mod schedule;
mod store;
mod tending;
mod to_its_end;
pub mod workflow;

use std::sync::Arc;
use std::time::Duration;

use ringfence_audit::{Audit, Metering};
use ringfence_capabilities::{Capabilities, GuestLogs, Postbox, Quotas};
use ringfence_core::{Clock, Entropy, Standing};
use ringfence_engine::Engine;
use ringfence_identity::Identity;
use ringfence_policy::Policy;
use ringfence_registry::Registry;
use ringfence_store::{Locks, Tenants};
use tokio::sync::Semaphore;

pub use error::AutomationError;
pub use invoke::{Call, CallError, Done, Effects};
pub use to_its_end::ToItsEnd;

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
    /// What policy did not leave to guests, on its way to the record.
    pub denials: ringfence_audit::HostDenials,
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
    /// One queue is opened at a time.
    pub(crate) opening: Arc<tokio::sync::Mutex<()>>,
    /// One change of a schedule at a time, runs included; by tenant and name. Must never be held while a plugin runs.
    pub(crate) schedule_locks: Arc<Locks<(String, String)>>,
    /// One new schedule at a time.
    pub(crate) adding_schedule: Arc<tokio::sync::Mutex<()>>,
    /// Which tenants are open, and which could not be opened yet.
    pub(crate) opened: Arc<tending::Opened>,
    /// The end of the host.
    pub(crate) closing: closing::Closing,
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
            opening: Arc::default(),
            schedule_locks: Arc::default(),
            adding_schedule: Arc::default(),
            opened: Arc::default(),
            closing: closing::Closing::new(),
        }
    }

    /// Reads what is durable, and starts: queues hand over, the timer runs, guests can send messages. Must be called once,
    /// inside a runtime, when every other room is open.
    pub async fn start(&self) -> Result<(), AutomationError> {
        let postbox: Arc<dyn Postbox> = Arc::new(self.clone());
        self.parts.capabilities.set_postbox(Arc::downgrade(&postbox));
        // Held by the runtime alone: by the capabilities, which are part of it, it would be held for ever.
        tokio::spawn(async move { (std::future::pending::<()>().await, postbox).0 });
        self.open_points().await?;
        for tenant in self.parts.tenants.list().await? {
            let Some(store) = self.parts.tenants.open_tenant(&tenant.id) else { continue };
            self.open_tenant(&store).await;
        }
        tokio::spawn(self.clone().keep_time());
        tokio::spawn(self.clone().tend());
        Ok(())
    }

    /// Ends in order: from now on no message is handed over and no schedule begins, and what is under way is waited for, at
    /// most so long. What is not over by then is left where it is and comes again after the next start, which is not held
    /// against it.
    pub async fn drain(&self, most: Duration) {
        let left_count = self.closing.close(most).await;
        if left_count > 0 {
            tracing::warn!(left_count, "messages and scheduled runs are cut by the end of the host and come again");
            self.unmark_cut_messages().await;
        }
    }
}
