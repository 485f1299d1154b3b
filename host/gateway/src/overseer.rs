//! Policy, as the guest of one call is held to it.
//!
//! Must never let a call of a guest through that policy does not leave, nor keep the guest waiting for the record of a no.

use std::sync::Arc;

use ringfence_audit::{HostDenial, HostDenials, InvocationFacts};
use ringfence_capabilities::{Forbidden, Overseer};
use ringfence_core::{HostCall, Principal};
use ringfence_policy::{HostCaller, Trust, Visibility};
use ringfence_registry::{Route, VersionRef};

use crate::invoke::Gateway;
use crate::record::Seen;

struct Held {
    caller: HostCaller,
    denials: HostDenials,
    told: InvocationFacts,
}

impl Gateway {
    /// Who says what policy leaves the guest of this call. None for names that make no principal.
    pub(crate) fn overseer(
        &self,
        seen: &Seen,
        route: &Route,
        version: &VersionRef,
        on_behalf_of: &Principal,
    ) -> Option<Arc<dyn Overseer>> {
        let cause = if seen.called.is_some() { "call" } else { "http" };
        let (identity, whose, peer) = (self.parts.identity.clone(), on_behalf_of.clone(), seen.peer);
        let (tenant, plugin) = (route.tenant.clone(), route.plugin.clone());
        let trust: Trust =
            Box::new(move || identity.score_of_call(&whose, peer, (&tenant, &plugin)).ok().map(|score| score.value));
        let caller = self.parts.policy.host_caller(&route.tenant, &route.plugin, on_behalf_of, cause, trust);
        let told = self.told(seen, version)?;
        Some(Arc::new(Held { caller: caller.ok()?, denials: self.parts.denials.clone(), told }))
    }
}

impl Overseer for Held {
    fn ask(&self, call: &HostCall<'_>) -> Result<(), Forbidden> {
        let Err(denial) = self.caller.ask(call) else { return Ok(()) };
        let decision = denial.decision.clone();
        // A tenant that is gone has no log.
        let told = denial.visible == Visibility::Explained
            && self.denials.tell(&self.told, || {
                let record = denial.record();
                HostDenial {
                    decision: denial.decision.clone(),
                    principal: self.caller.principal().clone(),
                    act: denial.action(),
                    resource: record.resource.clone(),
                    record: serde_json::json!(record),
                }
            });
        Err(Forbidden { decision: Some(decision).filter(|_| told) })
    }
}
