//! Cedar schema, platform boundary and roles: the only room that mints a Permit, and explains every denial.
//!
//! Must never do I/O, read a clock, or answer yes when anything went wrong: an unknown tenant, an unknown principal and
//! a policy that fails to evaluate are all denials. Third step of both walks: who calls is known, nothing was done yet.
#![forbid(unsafe_code)]

mod decision;
mod error;

use std::sync::Arc;

use ringfence_core::{Action, Entropy, Permit, Principal, Resource, TenantId};

pub use decision::{Analysis, DecisionRecord, Denial, Effect, Outcome, PolicyReason, PolicySummary, Visibility};
pub use error::PolicyError;

/// Counts changes of policies and tenants; starts anew when the host starts.
pub type PolicyVersion = u64;

/// Whether a tenant may work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It may.
    Active,
    /// Only its admins and auditors may read, and only operators may act.
    Suspended,
}

/// What policy must know about a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantFacts {
    /// Whether it may work.
    pub suspended: Standing,
}

/// The authoriser of the whole host. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Policy {
    entropy: Arc<dyn Entropy>,
}

impl Policy {
    /// Compiles the schema, the platform's boundary and the roles. Knows no tenant yet.
    pub fn new(entropy: Arc<dyn Entropy>) -> Result<Self, PolicyError> {
        Ok(Self { entropy })
    }

    /// Decides whether `principal` may do `A` to `resource`.
    pub fn permit<A: Action>(&self, principal: &Principal, resource: &Resource) -> Result<Permit<A>, Denial> {
        Err(decision::stub(self.entropy.as_ref(), principal, A::NAME, resource))
    }

    /// Whether policy knows this tenant; requests for any other are denied.
    pub fn knows_tenant(&self, _tenant: &TenantId) -> bool {
        false
    }

    /// Makes a tenant known, or changes what is known of it. Without a `policy_text` its policies stay as they are
    /// (none for a new tenant). Fails like [`Policy::set_tenant_policy`].
    pub fn upsert_tenant(&self, _tenant: &TenantId, _facts: TenantFacts, _policy_text: Option<&str>) -> Result<PolicyVersion, PolicyError> {
        Ok(0)
    }

    /// Replaces a known tenant's policies; the next decision uses them. An empty text removes them all.
    pub fn set_tenant_policy(&self, _tenant: &TenantId, _text: &str) -> Result<PolicyVersion, PolicyError> {
        Ok(0)
    }

    /// Says what [`Policy::set_tenant_policy`] would say, and changes nothing.
    pub fn check_tenant_policy(&self, _tenant: &TenantId, _text: &str) -> Result<Analysis, PolicyError> {
        Ok(Analysis { policies: Vec::new(), warnings: Vec::new() })
    }

    /// The tenant's policy text as it was set, and the version it came with; none for an unknown tenant.
    pub fn tenant_policy(&self, _tenant: &TenantId) -> Option<(Arc<str>, PolicyVersion)> {
        None
    }

    /// Forgets a tenant; every later request for it is denied as if it had never been.
    pub fn remove_tenant(&self, _tenant: &TenantId) {}
}
