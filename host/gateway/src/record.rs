//! What is written down about a call: one place for every path out of [`crate::invoke`].
//!
//! A refusal is an audit entry of its own, durable before the caller hears of it. A guest's own answer is metered when
//! its last byte is sent, and batched into the audit log. Must never record twice or not at all.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_audit::{Event, InvocationRecord, InvocationSummary, Log, codes, decisions};
use ringfence_core::proof::act;
use ringfence_core::{Action, DecisionId, InvocationId, Principal, PrincipalId, Usage};
use ringfence_engine::{Meter, Outcome, RunError};
use ringfence_policy::{Denial, Visibility};
use ringfence_registry::{Route, VersionRef};
use serde_json::json;
use tokio::sync::oneshot;

use crate::invoke::Gateway;
use crate::refuse::Refusal;

/// Status recorded for a call that nobody waited for; the one that proxies use, no client ever sees it.
const CLIENT_CLOSED: u16 = 499;

/// What has been learned about a call so far.
#[derive(Clone)]
pub struct Seen {
    pub invocation: InvocationId,
    pub peer: Option<IpAddr>,
    pub route: Option<Route>,
    pub principal: Option<Principal>,
    pub version: Option<VersionRef>,
    pub decision: Option<DecisionId>,
    pub denial: Option<Denial>,
    pub usage: Usage,
}

impl Seen {
    pub fn new(invocation: InvocationId, peer: Option<IpAddr>) -> Self {
        Self {
            invocation,
            peer,
            route: None,
            principal: None,
            version: None,
            decision: None,
            denial: None,
            usage: Usage::default(),
        }
    }

    fn actor(&self, gateway: &Gateway) -> PrincipalId {
        self.principal.clone().unwrap_or_else(|| gateway.parts.identity.anonymous()).id().clone()
    }

    fn event(&self, gateway: &Gateway, code: &'static str, details: serde_json::Value) -> Event {
        let resource = match &self.route {
            Some(route) => format!("tenant/{}/plugin/{}", route.tenant, route.plugin),
            None => "host".to_owned(),
        };
        let mut event = Event::new(code, act::Invoke::NAME, self.actor(gateway), resource);
        event.decision = self.denial.as_ref().map(|denial| denial.decision.clone()).or_else(|| self.decision.clone());
        event.source_ip = self.peer;
        event.details = details;
        event
    }
}

/// Records an invocation whose caller hung up before the answer's head: the future that would have recorded it is dropped
/// in the middle of the run, and so this is.
pub(crate) struct Unheard {
    waiting: Option<(Gateway, Seen, Arc<Meter>)>,
}

impl Unheard {
    /// Watches one run.
    pub(crate) fn watch(gateway: &Gateway, seen: &Seen, meter: &Arc<Meter>) -> Self {
        Self { waiting: Some((gateway.clone(), seen.clone(), Arc::clone(meter))) }
    }

    /// The run came to an answer or a refusal, which is recorded where it goes out.
    pub(crate) fn was_heard(mut self) {
        self.waiting = None;
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some((gateway, seen, meter)) = self.waiting.take() {
            let detail = "the caller went away before the answer".to_owned();
            gateway.meter(&seen, CLIENT_CLOSED, Some("caller-gone".to_owned()), Some(detail), meter.usage());
        }
    }
}

impl Gateway {
    /// Puts a refusal on the record and gives the one to answer with: the same, or "audit unavailable".
    pub(crate) async fn record_refusal(&self, seen: &Seen, refusal: Refusal) -> Refusal {
        let Some(route) = &seen.route else {
            // A path that leads nowhere concerns no tenant; counting such noise is the metrics' job, not the audit's.
            return refusal;
        };
        let (status, code, _) = refusal.describe();
        if seen.version.is_some() {
            let detail = match &refusal {
                Refusal::Run(error) => Some(error.to_string()),
                _ => None,
            };
            self.meter(seen, status.as_u16(), Some(code.to_owned()), detail, seen.usage);
        }
        let store = &route.store;
        if let Refusal::QuotaExhausted { .. } = &refusal {
            // An entry each, durable before the answer, would let a tenant's flood spend the host's disk: they are counted.
            let summary = InvocationSummary {
                plugin: route.plugin.clone(),
                version: route.stable().label.to_string(),
                invocation: seen.invocation.clone(),
                status: status.as_u16(),
                code: Some(code.to_owned()),
                usage: seen.usage,
            };
            self.parts.audit.invocation(&Log::Tenant(store.clone()), summary);
            return refusal;
        }
        let mut details = json!({ "invocation": seen.invocation.as_str(), "code": code, "status": status.as_u16() });
        if let Refusal::Run(error) = &refusal
            && let Some(object) = details.as_object_mut()
        {
            object.insert("reason".to_owned(), json!(error.to_string()));
        }
        let hidden = seen.denial.as_ref().is_some_and(|denial| matches!(denial.visible, Visibility::Hidden));
        let event_code = match &refusal {
            _ if hidden => codes::TENANT_ISOLATION,
            Refusal::Run(_) => codes::INVOCATION_FAILED,
            _ => codes::INVOCATION_REFUSED,
        };
        let event = seen.event(self, event_code, details);
        if hidden && self.parts.audit.record(&Log::Host, event.clone()).await.is_err() {
            return Refusal::AuditUnavailable;
        }
        if self.parts.audit.record(&Log::Tenant(store.clone()), event).await.is_err() {
            return Refusal::AuditUnavailable;
        }
        if let Some(denial) = seen.denial.as_ref().filter(|_| !hidden) {
            let kept = json!({ "at": self.parts.clock.now(), "record": denial.record });
            if let Err(error) = decisions::keep(store, &denial.decision, &kept).await {
                tracing::warn!(%error, "a denial could not be kept for explaining");
            }
        }
        refusal
    }

    /// Waits, beside the answer, for the guest's last byte, and records the invocation then.
    pub(crate) fn record_when_finished(&self, seen: &Seen, status: u16, finished: oneshot::Receiver<Outcome>) {
        let (gateway, seen) = (self.clone(), seen.clone());
        tokio::spawn(async move {
            let Some(route) = &seen.route else { return };
            let log = Log::Tenant(route.store.clone());
            let (usage, failure) = match finished.await {
                Ok(Outcome { usage, result }) => (usage, result.err()),
                Err(_) => (Usage::default(), Some(RunError::Host("the worker was stopped".to_owned()))),
            };
            // A caller who went away is not the guest's failure.
            let failure = failure.filter(|error| *error != RunError::Killed);
            let code = failure.as_ref().map(|error| Refusal::Run(error.clone()).describe().1.to_owned());
            if let Some(error) = &failure {
                let details = json!({
                    "invocation": seen.invocation.as_str(), "code": code, "status": status, "reason": error.to_string(),
                });
                let event = seen.event(&gateway, codes::INVOCATION_FAILED, details);
                if let Err(error) = gateway.parts.audit.record(&log, event).await {
                    tracing::error!(%error, invocation = %seen.invocation, "a failed invocation is not on the audit log");
                }
            } else if let Some(version) = &seen.version {
                gateway.parts.audit.invocation(
                    &log,
                    InvocationSummary {
                        plugin: route.plugin.clone(),
                        version: version.label.to_string(),
                        invocation: seen.invocation.clone(),
                        status,
                        code: None,
                        usage,
                    },
                );
            }
            gateway.meter(&seen, status, code, failure.map(|error| error.to_string()), usage);
        });
    }

    fn meter(&self, seen: &Seen, status: u16, code: Option<String>, detail: Option<String>, usage: Usage) {
        let (Some(route), Some(version)) = (&seen.route, &seen.version) else { return };
        self.parts.metering.record(
            &route.store,
            InvocationRecord {
                id: seen.invocation.clone(),
                plugin: route.plugin.clone(),
                version: version.label.to_string(),
                at: self.parts.clock.now(),
                principal: seen.actor(self).to_string(),
                status,
                code,
                detail,
                usage,
            },
        );
    }
}
