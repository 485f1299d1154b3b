//! What is written down about one invocation, whoever started it: a caller over HTTP, or the product itself.
//!
//! Must never record twice or not at all: whoever runs a guest tells it once, on every path.

use std::net::IpAddr;
use std::sync::Arc;

use ringfence_core::proof::act;
use ringfence_core::{Action, Blame, CausedBy, Clock, DecisionId, InvocationId, PluginName, PrincipalId, Usage};
use ringfence_store::TenantStore;
use serde_json::{Value, json};

use crate::audit::Audit;
use crate::codes;
use crate::event::{Event, InvocationSummary, Log};
use crate::metering::{InvocationRecord, Metering};

/// One invocation, in the words of its records.
#[derive(Clone)]
pub struct InvocationFacts {
    /// The tenant's store.
    pub store: TenantStore,
    /// Its id.
    pub invocation: InvocationId,
    /// The plugin.
    pub plugin: PluginName,
    /// The version that runs.
    pub version: String,
    /// On whose behalf.
    pub principal: PrincipalId,
    /// What allowed it.
    pub decision: Option<DecisionId>,
    /// From where, when there is a caller.
    pub source_ip: Option<IpAddr>,
    /// What started it, such as `schedule/nightly`; none for a caller over HTTP.
    pub cause: Option<String>,
    /// Which invocation called it or sent its message, when a plugin did, and on whose behalf.
    pub called: Option<Called>,
}

/// What is known of an invocation that a plugin called, whose plugin is in its principal; or that was handed a message of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// The caller or sender, and the first of all.
    pub by: CausedBy,
    /// Who began the first of all; none for a message, which its plugin is handed on its own behalf.
    pub on_behalf_of: Option<PrincipalId>,
}

impl Called {
    /// Says it in the details of an event.
    pub fn tell(&self, details: &mut Value) {
        if let Some(details) = details.as_object_mut() {
            details.insert("root".to_owned(), json!(self.by.root));
            details.insert("caused_by".to_owned(), json!(self.by.parent));
            if let Some(on_behalf_of) = &self.on_behalf_of {
                details.insert("on_behalf_of".to_owned(), json!(on_behalf_of));
            }
        }
    }
}

/// Why there is no answer of the guest's own.
#[derive(Debug, Clone)]
pub struct InvocationFailure {
    /// Stable slug.
    pub code: String,
    /// Who can mend it.
    pub blame: Blame,
    /// For the plugin's owner.
    pub detail: Option<String>,
}

/// Writes invocations down. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    audit: Audit,
    metering: Metering,
    clock: Arc<dyn Clock>,
}

// === impl InvocationFacts ===

impl InvocationFacts {
    /// On whose behalf another plugin called it; none when none did.
    fn on_behalf_of(&self) -> Option<&PrincipalId> {
        self.called.as_ref()?.on_behalf_of.as_ref()
    }

    /// An event about this invocation.
    pub fn event(&self, code: &'static str, details: Value) -> Event {
        let resource = format!("tenant/{}/plugin/{}", self.store.label(), self.plugin);
        let mut event = Event::new(code, act::Invoke::NAME, self.principal.clone(), resource);
        event.decision = self.decision.clone();
        event.source_ip = self.source_ip;
        event.details = details;
        if let (Some(cause), Some(details)) = (&self.cause, event.details.as_object_mut()) {
            details.insert("cause".to_owned(), json!(cause));
        }
        if let Some(called) = &self.called {
            called.tell(&mut event.details);
        }
        event
    }
}

// === impl Recorder ===

impl Recorder {
    /// A recorder over the audit logs and the metering.
    pub fn new(audit: Audit, metering: Metering, clock: Arc<dyn Clock>) -> Self {
        Self { audit, metering, clock }
    }

    /// The guest gave an answer of its own. Never waits.
    pub fn answered(&self, told: &InvocationFacts, status: u16, usage: Usage) {
        self.count(told, status, None, usage);
        self.meter(told, status, None, usage);
    }

    /// The guest failed: an entry of its own, then metered.
    pub async fn failed(&self, told: &InvocationFacts, status: u16, failure: InvocationFailure, usage: Usage) {
        let details = json!({
            "invocation": told.invocation.as_str(), "code": failure.code, "status": status, "reason": failure.detail,
        });
        let event = told.event(codes::INVOCATION_FAILED, details);
        if let Err(error) = self.audit.record(&Log::Tenant(told.store.clone()), event).await {
            tracing::error!(%error, invocation = %told.invocation, "a failed invocation is not on the audit log");
        }
        self.meter(told, status, Some(failure), usage);
    }

    /// Counts it on the audit log, without an entry of its own. Never waits.
    pub fn count(&self, told: &InvocationFacts, status: u16, code: Option<String>, usage: Usage) {
        let summary = InvocationSummary {
            plugin: told.plugin.clone(),
            version: told.version.clone(),
            invocation: told.invocation.clone(),
            status,
            code,
            called_by: told.on_behalf_of().map(|_| told.principal.clone()),
            usage,
        };
        self.audit.invocation(&Log::Tenant(told.store.clone()), summary);
    }

    /// Keeps its record and what it spent. Never waits.
    pub fn meter(&self, told: &InvocationFacts, status: u16, failure: Option<InvocationFailure>, usage: Usage) {
        let record = InvocationRecord {
            id: told.invocation.clone(),
            plugin: told.plugin.clone(),
            version: told.version.clone(),
            at: self.clock.now(),
            principal: told.principal.to_string(),
            cause: told.cause.clone(),
            caused_by: told.called.as_ref().map(|called| called.by.clone()),
            on_behalf_of: told.on_behalf_of().map(ToString::to_string),
            status,
            blame: failure.as_ref().map(|failure| failure.blame),
            code: failure.as_ref().map(|failure| failure.code.clone()),
            detail: failure.and_then(|failure| failure.detail),
            usage,
        };
        self.metering.record(&told.store, record);
    }
}
