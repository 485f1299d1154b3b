//! What is written down about a call: one place for every path out of [`crate::invoke`].
//!
//! A refusal is an audit entry of its own, durable before the caller hears of it; one for want of room or quota is counted
//! with the calls instead, or a flood would be paid for by everyone. A guest's own answer is metered when
//! its last byte is sent, and batched into the audit log. Must never record twice or not at all.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_audit::{Called, Event, InvocationFacts, InvocationFailure, Log, Recorder, codes, decisions};
use ringfence_core::proof::act;
use ringfence_core::{Action, Blame, DecisionId, InvocationId, Principal, PrincipalId, Usage};
use ringfence_engine::{Finished, Meter, Outcome, RunError};
use ringfence_policy::{Denial, Visibility};
use ringfence_registry::{Route, VersionRef};
use serde_json::json;

use crate::invoke::Gateway;
use crate::refuse::Refusal;
use crate::request::BodyWatch;

/// Status recorded for a call that nobody waited for; the one that proxies use, no client ever sees it.
const CLIENT_CLOSED: u16 = 499;

/// What has been learned about a call so far.
#[derive(Clone)]
pub struct Seen {
    pub invocation: InvocationId,
    pub peer: Option<IpAddr>,
    pub route: Option<Arc<Route>>,
    pub principal: Option<Principal>,
    pub version: Option<VersionRef>,
    pub decision: Option<DecisionId>,
    pub denial: Option<Denial>,
    pub usage: Usage,
    pub body: BodyWatch,
    /// What called, when another plugin did: its word as a cause, and where it stands.
    pub called: Option<(String, Called)>,
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
            body: BodyWatch::default(),
            called: None,
        }
    }

    fn actor(&self, gateway: &Gateway) -> PrincipalId {
        match &self.principal {
            Some(principal) => principal.id().clone(),
            None => gateway.parts.identity.anonymous().id().clone(),
        }
    }

    fn with_request(&self, usage: Usage) -> Usage {
        Usage { request_bytes: self.body.bytes(), ..usage }
    }

    pub(crate) fn event(&self, gateway: &Gateway, code: &'static str, details: serde_json::Value) -> Event {
        let resource = match &self.route {
            Some(route) => format!("tenant/{}/plugin/{}", route.tenant, route.plugin),
            None => "host".to_owned(),
        };
        let mut event = Event::new(code, act::Invoke::NAME, self.actor(gateway), resource);
        event.decision = self.denial.as_ref().map(|denial| denial.decision.clone()).or_else(|| self.decision.clone());
        event.source_ip = self.peer;
        event.details = details;
        if let Some((cause, called)) = &self.called {
            if let Some(details) = event.details.as_object_mut() {
                details.insert("cause".to_owned(), json!(cause));
            }
            called.tell(&mut event.details);
        }
        event
    }
}

/// Does something when it is dropped before the answer was heard: the future that would have recorded the invocation is
/// dropped in the middle of the run when the caller hangs up, and so this is.
pub(crate) struct Unheard<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Unheard<F> {
    fn or(act: F) -> Self {
        Self(Some(act))
    }

    /// The run came to an answer or a refusal, which is recorded where it goes out.
    pub(crate) fn was_heard(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Unheard<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

impl Gateway {
    /// Watches one run: meters it, once, when the caller goes away before the answer's head.
    pub(crate) fn unheard<'a>(&'a self, seen: &'a Seen, meter: &Arc<Meter>) -> Unheard<impl FnOnce() + use<'a>> {
        let meter = Arc::clone(meter);
        Unheard::or(move || {
            let detail = Some("the caller went away before the answer".to_owned());
            let failure = InvocationFailure { code: "caller-gone".to_owned(), blame: Blame::Caller, detail };
            self.meter(seen, CLIENT_CLOSED, Some(failure), meter.usage());
        })
    }

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
            let failure = InvocationFailure { code: code.to_owned(), blame: refusal.blame(), detail };
            self.meter(seen, status.as_u16(), Some(failure), seen.usage);
        }
        let store = &route.store;
        let hidden = seen.denial.as_ref().is_some_and(|denial| matches!(denial.visible, Visibility::Hidden));
        if !hidden && store.check_keys().is_err() {
            // Its log is closed with its keys; that it was closed, and by whom, is on the host's.
            return refusal;
        }
        if let Refusal::QuotaExhausted { .. }
        | Refusal::TenantBusy { .. }
        | Refusal::Overloaded
        | Refusal::CallFanOut { again: true } = &refusal
        {
            // An entry each, durable before the answer, would let a tenant's flood spend the host's disk and processors: they
            // are counted.
            if let Some(told) = self.told(seen, route.stable()) {
                self.recorder().count(&told, status.as_u16(), Some(code.to_owned()), seen.usage);
            }
            return refusal;
        }
        let mut details = json!({ "invocation": seen.invocation.as_str(), "code": code, "status": status.as_u16() });
        if let Refusal::Run(error) = &refusal
            && let Some(object) = details.as_object_mut()
        {
            object.insert("reason".to_owned(), json!(error.to_string()));
        }
        let event_code = match &refusal {
            _ if hidden => codes::TENANT_ISOLATION,
            Refusal::Run(_) => codes::INVOCATION_FAILED,
            _ => codes::INVOCATION_REFUSED,
        };
        let event = seen.event(self, event_code, details);
        let log = if hidden { Log::Host } else { Log::Tenant(store.clone()) };
        if self.parts.audit.record(&log, event.clone()).await.is_err() {
            return Refusal::AuditUnavailable;
        }
        if hidden {
            self.parts.refusals.stranger_refused(store, event);
            return refusal;
        }
        if let Some(denial) = &seen.denial {
            let kept = json!({ "at": self.parts.clock.now(), "record": denial.record() });
            if let Err(error) = decisions::keep(store, &denial.decision, &kept).await {
                tracing::warn!(%error, "a denial could not be kept for explaining");
            }
        }
        refusal
    }

    /// Records the invocation when the guest's last byte is out.
    pub(crate) fn record_when_finished(&self, seen: Arc<Seen>, status: u16, finished: Finished) {
        let gateway = self.clone();
        // The runtime is named here: the end may come on a thread that is in none.
        let runtime = tokio::runtime::Handle::current();
        finished.then(move |outcome| {
            // A caller who went away is not the guest's failure.
            match outcome.result.as_ref().err().filter(|error| **error != RunError::Killed) {
                None => gateway.record_success(&seen, status, &outcome),
                Some(error) => {
                    let (error, usage) = (error.clone(), outcome.usage);
                    runtime.spawn(async move { gateway.record_failure(&seen, status, error, usage).await });
                }
            }
        });
    }

    fn record_success(&self, seen: &Seen, status: u16, outcome: &Outcome) {
        let Some(told) = seen.version.as_ref().and_then(|version| self.told(seen, version)) else { return };
        self.recorder().answered(&told, status, seen.with_request(outcome.usage));
    }

    /// The guest failed after its answer's head was out.
    async fn record_failure(&self, seen: &Seen, status: u16, error: RunError, usage: Usage) {
        let Some(told) = seen.version.as_ref().and_then(|version| self.told(seen, version)) else { return };
        let (code, usage) = (error.code().to_owned(), seen.with_request(usage));
        let failure = InvocationFailure { code: code.clone(), blame: error.blame(), detail: Some(error.to_string()) };
        if error == RunError::Overloaded {
            // Counted as when nothing was answered yet: an entry each would be the tenant's for what others hold.
            self.recorder().count(&told, status, Some(code), usage);
            self.recorder().meter(&told, status, Some(failure), usage);
            return;
        }
        self.recorder().failed(&told, status, failure, usage).await;
    }

    fn meter(&self, seen: &Seen, status: u16, failure: Option<InvocationFailure>, usage: Usage) {
        let Some(told) = seen.version.as_ref().and_then(|version| self.told(seen, version)) else { return };
        self.recorder().meter(&told, status, failure, seen.with_request(usage));
    }

    fn recorder(&self) -> Recorder {
        let parts = &self.parts;
        Recorder::new(parts.audit.clone(), parts.metering.clone(), parts.clock.clone())
    }

    pub(crate) fn told(&self, seen: &Seen, version: &VersionRef) -> Option<InvocationFacts> {
        let route = seen.route.as_ref()?;
        Some(InvocationFacts {
            store: route.store.clone(),
            invocation: seen.invocation.clone(),
            plugin: route.plugin.clone(),
            version: version.label.to_string(),
            principal: seen.actor(self),
            decision: seen.decision.clone(),
            source_ip: seen.peer,
            cause: seen.called.as_ref().map(|(cause, _)| cause.clone()),
            called: seen.called.as_ref().map(|(_, called)| called.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_run_that_is_dropped_unheard_is_recorded_once_and_a_heard_one_is_not() {
        let recorded = Cell::new(0);
        drop(Unheard::or(|| recorded.set(recorded.get() + 1)));
        assert_eq!(recorded.get(), 1);
        Unheard::or(|| recorded.set(recorded.get() + 1)).was_heard();
        assert_eq!(recorded.get(), 1);
    }

    #[tokio::test]
    async fn a_caller_who_hangs_up_in_the_middle_of_the_run_is_recorded() {
        let recorded = Cell::new(0);
        let run = async {
            let unheard = Unheard::or(|| recorded.set(recorded.get() + 1));
            std::future::pending::<()>().await;
            unheard.was_heard();
        };
        {
            let mut run = std::pin::pin!(run);
            assert!(futures::poll!(run.as_mut()).is_pending());
            assert_eq!(recorded.get(), 0);
        }
        assert_eq!(recorded.get(), 1);
    }
}
