//! Policy, as the guest of one call is held to it.
//!
//! Must never let a call of a guest through that policy does not leave, nor keep the guest waiting for the record of a no.

use std::sync::Arc;

use ringfence_audit::{HostDenial, InvocationFacts};
use ringfence_capabilities::{Chain, Forbidden, Overseer};
use ringfence_core::HostCall;
use ringfence_policy::{Denial, HostCaller, Trust, Visibility};
use ringfence_registry::Route;

use crate::invoke::Gateway;
use crate::record::Seen;

struct Held {
    caller: HostCaller,
    gateway: Gateway,
    seen: Arc<Seen>,
}

impl Gateway {
    /// Who says what policy leaves the guest of this call. None for names that make no principal.
    pub(crate) fn overseer(&self, seen: &Arc<Seen>, route: &Arc<Route>, chain: &Chain) -> Option<Arc<dyn Overseer>> {
        let cause = if seen.called.is_some() { "call" } else { "http" };
        let trust: Trust = {
            let (gateway, route, chain, peer) = (self.clone(), Arc::clone(route), chain.clone(), seen.peer);
            Box::new(move || {
                let called = (&route.tenant, &route.plugin);
                let score = gateway.parts.identity.score_of_call(chain.on_behalf_of(), peer, called);
                score.ok().map(|score| score.value)
            })
        };
        let policy = &self.parts.policy;
        let caller = policy.host_caller(&route.tenant, &route.plugin, chain.on_behalf_of(), cause, trust).ok()?;
        Some(Arc::new(Held { caller, gateway: self.clone(), seen: Arc::clone(seen) }))
    }
}

impl Held {
    /// The invocation as it is told of: most guests are denied nothing, and of those nobody asks.
    fn told(&self) -> Option<InvocationFacts> {
        self.gateway.told(&self.seen, self.seen.version.as_ref()?)
    }

    /// Puts a denial on record, if there is room; says whether.
    fn tell(&self, denial: &Denial) -> bool {
        let Some(told) = self.told() else { return false };
        self.gateway.parts.denials.tell(&told, || {
            let record = denial.record();
            HostDenial {
                decision: denial.decision.clone(),
                principal: self.caller.principal().clone(),
                act: denial.action(),
                resource: record.resource.clone(),
                record: serde_json::json!(record),
            }
        })
    }
}

impl Overseer for Held {
    fn ask(&self, call: &HostCall<'_>) -> Result<(), Forbidden> {
        let Err(denial) = self.caller.ask(call) else { return Ok(()) };
        // A tenant that is gone has no log.
        let told = denial.visible == Visibility::Explained && self.tell(&denial);
        Err(Forbidden { decision: Some(denial.decision).filter(|_| told) })
    }
}
