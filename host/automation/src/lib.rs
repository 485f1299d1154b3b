//! Starts invocations without a caller on the line: on an event of the product, on time, from a queue.
//!
//! That authority is all this room holds: each start passes `invoke.rs`, which asks policy, quota and scheduler and
//! writes down what was done, as the gateway does. Must never run a guest in any other way.
#![forbid(unsafe_code)]

pub mod invoke;
pub mod workflow;

use std::sync::Arc;

use ringfence_audit::{Audit, Metering};
use ringfence_capabilities::{Capabilities, GuestLogs, Quotas};
use ringfence_core::{Clock, Entropy};
use ringfence_engine::Engine;
use ringfence_identity::Identity;
use ringfence_policy::Policy;
use ringfence_registry::Registry;
use ringfence_store::Tenants;

pub use invoke::{Call, CallError, Done, Effects};

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
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
}

/// What the product starts by itself. Cheap to clone.
#[derive(Clone)]
pub struct Automation {
    pub(crate) parts: Arc<AutomationParts>,
}

impl Automation {
    /// Over its rooms.
    pub fn new(parts: AutomationParts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}
