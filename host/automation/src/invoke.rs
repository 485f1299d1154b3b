//! One invocation that no HTTP request started, as one straight function. The order of its lines is the security argument,
//! and the same as in the gateway's walk.
//!
//! Must never run a guest before the act is allowed and the turn taken, nor end without recording what was done, once, on
//! every path. Whoever asked may go away: it goes to its end and is recorded all the same.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ringfence_audit::application::{ApplicationError, ApplicationEvent, PLUGIN_EVENT_BYTES_MAX};
use ringfence_audit::{
    Audit, Called, HostDenial, HostDenials, InvocationFacts, InvocationFailure, Log, Recorder, codes, decisions,
};
use ringfence_capabilities::{
    Binding, Chain, EventRefused, Forbidden, Guarded, Ledger, LiveGrants, Opening, Overseer, PluginEvent, RunHistory,
    Trail, Tried, Verdict, Witness,
};
use ringfence_core::proof::act;
use ringfence_core::{
    ActClass, Blame, Capability, DecisionId, Grant, Grants, HostCall, InvocationId, PluginName, Principal, Resource,
    TenantId, Usage,
};
use ringfence_engine::{
    AdmitError, EventAnswer, EventCall, EventContext, EventFailure, Export, Meter, Reuse, RunError,
};
use ringfence_identity::{IdentityError, Needed};
use ringfence_policy::{Denial, HostCaller, Trust};
use ringfence_registry::{Route, VersionRef};
use semver::Version;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::Automation;
use crate::to_its_end::ToItsEnd;

/// Whether what the guest does counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effects {
    /// It does.
    Real,
    /// It is tried out and changes nothing: what it stored it can read and not write, and it can send nothing.
    Without,
}

/// What is to be run, and on whose behalf.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose plugin.
    pub tenant: TenantId,
    /// Which plugin.
    pub plugin: PluginName,
    /// Which version; the one that answers now when nothing else is said.
    pub version: Option<Version>,
    /// Which of its handlers.
    pub export: Export,
    /// What the handler is given.
    pub payload: Vec<u8>,
    /// About the occasion.
    pub context: EventContext,
    /// On whose behalf.
    pub principal: Principal,
    /// From where he asks, if he is on the line: his session is judged by that.
    pub peer: Option<IpAddr>,
    /// What started it, for its records: `hook/invoice.validate`, `schedule/nightly`.
    pub cause: String,
    /// What led to that.
    pub trail: Trail,
    /// Less time than the version may have otherwise, milliseconds.
    pub time_ms_max: Option<u64>,
    /// The guest is not begun from then on, by the monotonic clock: whoever asked counts on that it does not run any more.
    pub begin_until: Option<Duration>,
    /// Whether what the guest does counts.
    pub effects: Effects,
}

/// A handler that ran to its end.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its id.
    pub invocation: InvocationId,
    /// The version that ran.
    pub version: Version,
    /// What it says.
    pub answer: EventAnswer,
    /// What it spent.
    pub usage: Usage,
}

/// Why nothing was answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// There is no such tenant or plugin, or nothing of it is deployed.
    #[error("nothing is deployed")]
    NoPlugin,
    /// The tenant's policy does not allow it.
    #[error("the tenant's policy does not allow this call")]
    Denied(DecisionId),
    /// The key that the caller signed in with is not for this.
    #[error("the key of this session has a scope, and this call is outside it")]
    OutOfScope(DecisionId),
    /// The session of who asks does not stand high enough to call any plugin; what would help.
    #[error("this needs {0}")]
    StepUp(Needed),
    /// It stands high enough for that, but not with what is held against this plugin; what would help.
    #[error("with what is held against this plugin, this needs {0}")]
    PluginAtRisk(Needed),
    /// The session of who asks is over.
    #[error("the session of who asks is over")]
    Unauthenticated,
    /// The version is not run for now, in answer to a threat.
    #[error("this version is not run for now, in answer to a threat")]
    Quarantined,
    /// The tenant is suspended.
    #[error("the tenant is suspended")]
    Suspended,
    /// The tenant's keys are disabled, or were opened a moment ago and the tenant is not read yet.
    #[error("the keys of the tenant are disabled")]
    KeyDisabled,
    /// The tenant made as many calls as it may.
    #[error("the tenant's quota of requests is used up")]
    QuotaExhausted {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The tenant has as many calls running and waiting as it may have.
    #[error("the tenant has as many calls running and waiting as it may have")]
    TenantBusy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The host is full.
    #[error("the host is full")]
    Overloaded,
    /// It could not be begun in its time.
    #[error("it could not be begun in time")]
    TooLate,
    /// The audit log cannot be written.
    #[error("the audit log cannot be written, so nothing is run")]
    AuditUnavailable,
    /// The guest failed.
    #[error("{0}")]
    Run(RunError),
    /// The host failed.
    #[error("the host could not run the plugin")]
    Host,
}

impl CallError {
    /// The stable word for it, which is the gateway's for the same thing.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPlugin => "no-route",
            Self::Denied(_) | Self::OutOfScope(_) => "denied",
            // To who calls this one plugin the two are the same, here and at the gateway.
            Self::StepUp(_) | Self::PluginAtRisk(_) => "step-up-required",
            Self::Unauthenticated => "unauthenticated",
            Self::Quarantined => "version-quarantined",
            Self::Suspended => "tenant-suspended",
            Self::KeyDisabled => "key-disabled",
            Self::QuotaExhausted { .. } => "quota-exhausted",
            Self::TenantBusy { .. } => "tenant-busy",
            Self::Overloaded => "overloaded",
            Self::TooLate => "deadline",
            Self::AuditUnavailable => "audit-unavailable",
            Self::Run(error) => error.code(),
            Self::Host => "host-error",
        }
    }

    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Run(error) => error.blame(),
            Self::Overloaded | Self::TooLate | Self::AuditUnavailable | Self::Host => Blame::Host,
            _ => Blame::Caller,
        }
    }

    /// How long to wait when it is not the plugin's doing and will pass: nothing was run.
    pub fn passes_after_ms(&self) -> Option<u64> {
        match self {
            Self::QuotaExhausted { retry_after_ms } | Self::TenantBusy { retry_after_ms } => Some(*retry_after_ms),
            Self::Overloaded | Self::TooLate | Self::AuditUnavailable | Self::Host => Some(1_000),
            Self::Suspended | Self::KeyDisabled | Self::Quarantined => Some(5_000),
            Self::NoPlugin
            | Self::Denied(_)
            | Self::OutOfScope(_)
            | Self::StepUp(_)
            | Self::PluginAtRisk(_)
            | Self::Unauthenticated
            | Self::Run(_) => None,
        }
    }
}

/// What has been learned so far.
struct Seen {
    invocation: InvocationId,
    version: Option<VersionRef>,
    decision: Option<DecisionId>,
    usage: Usage,
}

impl Automation {
    /// Runs one handler to its end. Resolves when it is on record.
    pub async fn call(&self, call: Call) -> Result<Done, CallError> {
        self.call_in_run(call, None).await
    }

    /// As [`Automation::call`], for a run of a workflow with its history.
    pub async fn call_in_run(&self, call: Call, steps: Option<Arc<dyn RunHistory>>) -> Result<Done, CallError> {
        let this = self.clone();
        let walk = ToItsEnd::new(async move { this.call_recorded(call, steps).await });
        walk.await.unwrap_or(Err(CallError::Host))
    }

    /// The plugin itself as a principal, for what runs on nobody else's behalf.
    pub fn workload(&self, tenant: &TenantId, plugin: &PluginName) -> Result<Principal, CallError> {
        self.parts.identity.workload(tenant, plugin).map_err(|_| CallError::Host)
    }

    async fn call_recorded(&self, mut call: Call, steps: Option<Arc<dyn RunHistory>>) -> Result<Done, CallError> {
        let invocation = InvocationId::random(&*self.parts.entropy);
        let mut seen = Seen { invocation, version: None, decision: None, usage: Usage::default() };
        let Some(route) = self.parts.registry.route(&call.tenant, &call.plugin) else {
            // A tenant that was not read since the start has no ledger: that passes.
            let is_read = self.parts.quotas.of(&call.tenant).is_some();
            return Err(if is_read { CallError::NoPlugin } else { CallError::KeyDisabled });
        };
        match self.run(&mut seen, &mut call, &route, steps).await {
            Ok(done) => Ok(done),
            Err((error, denial)) => {
                self.record_refusal(&seen, &call, &route, &error, denial).await?;
                Err(error)
            }
        }
    }

    /// Takes payload and context out of the call once the guest is run.
    async fn run(
        &self,
        seen: &mut Seen,
        call: &mut Call,
        route: &Route,
        steps: Option<Arc<dyn RunHistory>>,
    ) -> Result<Done, (CallError, Option<Box<Denial>>)> {
        let parts = &*self.parts;
        let resource = Resource::Plugin { tenant: route.tenant.clone(), plugin: route.plugin.clone() };
        let permit =
            parts.policy.permit_from::<act::Invoke>(&call.principal, call.peer, &resource).map_err(|denial| {
                let error = match (denial.is_suspension(), denial.is_out_of_scope()) {
                    (true, _) => CallError::Suspended,
                    (false, true) => CallError::OutOfScope(denial.decision.clone()),
                    (false, false) => CallError::Denied(denial.decision.clone()),
                };
                (error, Some(Box::new(denial)))
            })?;
        let plain = |error| (error, None);
        self.check_trust(call, route).map_err(plain)?;
        route.store.check_keys().map_err(|_| plain(CallError::KeyDisabled))?;
        let ledger = parts.quotas.of(&route.tenant).ok_or_else(|| plain(CallError::KeyDisabled))?;
        ledger.request().map_err(|over| {
            plain(CallError::QuotaExhausted { retry_after_ms: over.retry_after_ms.unwrap_or(1_000) })
        })?;
        if !parts.audit.can_record(&Log::Tenant(route.store.clone())) {
            return Err(plain(CallError::AuditUnavailable));
        }
        let version = self.version(call, route).await.map_err(plain)?;
        seen.version = Some(version.clone());
        let quarantine = parts.standing.admit_version(&route.tenant, &version.digest, parts.clock.now());
        quarantine.map_err(|_| plain(CallError::Quarantined))?;
        let mut budget = version.budget;
        budget.time_ms = budget.time_ms.min(call.time_ms_max.unwrap_or(u64::MAX));
        let slot = parts.engine.scheduler().admit(&route.tenant, budget).await;
        let slot = slot.inspect_err(|error| ledger.not_admitted(error)).map_err(|error| plain(error.into()))?;
        let code = parts.registry.compiled(&version).await.map_err(|error| {
            tracing::error!(invocation = %seen.invocation, %error, "code cannot be loaded");
            plain(CallError::Host)
        })?;
        seen.decision = Some(permit.decision().clone());
        let told = Arc::new(self.told(seen, call, route, &version));
        let meter = Meter::in_pool(budget, Arc::clone(ledger.memory()));
        let overseer = self.overseer(call, route, &told).ok_or_else(|| plain(CallError::Host))?;
        let mut guest = parts.capabilities.bind(self.binding(call, route, (&told, overseer), ledger, meter, steps));
        guest.reuse = reuse(call, route, &version);
        // INVARIANT: nothing that waits lies between this and the start of the guest's own time.
        if call.begin_until.is_some_and(|until| parts.clock.monotonic() >= until) {
            return Err(plain(CallError::TooLate));
        }
        let (payload, context) = (std::mem::take(&mut call.payload), std::mem::take(&mut call.context));
        let request_bytes = payload.len() as u64;
        let event = EventCall { export: call.export, payload, context };
        let answered = parts.engine.run_event(slot, &code, guest, event).await.map_err(|failure| {
            seen.usage = failure.usage;
            plain(CallError::Run(failure.error))
        })?;
        let usage = Usage { request_bytes, ..answered.usage };
        self.recorder().answered(&told, recorded_as(&answered.answer), usage);
        Ok(Done { invocation: seen.invocation.clone(), version: version.label.clone(), answer: answered.answer, usage })
    }

    /// Whether the session of who asks stands high enough, and if not, whether that is its own doing or the plugin's.
    fn check_trust(&self, call: &Call, route: &Route) -> Result<(), CallError> {
        let (identity, called) = (&self.parts.identity, (&route.tenant, &route.plugin));
        match identity.check_call_trust(&call.principal, call.peer, called) {
            Err(IdentityError::StepUp(needed)) => {
                identity.check_trust(&call.principal, call.peer, ActClass::Invoke)?;
                Err(CallError::PluginAtRisk(needed))
            }
            other => other.map_err(CallError::from),
        }
    }

    fn binding(
        &self,
        call: &Call,
        route: &Route,
        (told, overseer): (&Arc<InvocationFacts>, Arc<dyn Overseer>),
        ledger: Arc<Ledger>,
        meter: Arc<Meter>,
        steps: Option<Arc<dyn RunHistory>>,
    ) -> Binding {
        let parts = &*self.parts;
        let held = call.effects == Effects::Without || parts.standing.is_read_only(&route.tenant, parts.clock.now());
        let witness: Arc<dyn Witness> = Arc::new(Sworn {
            audit: parts.audit.clone(),
            told: Arc::clone(told),
            telling: Arc::clone(&self.telling),
            io: tokio::runtime::Handle::current(),
        });
        let guarded = Guarded {
            standing: Arc::clone(&parts.standing),
            tenant: route.tenant.clone(),
            tenant_uid: route.store.uid(),
            plugin: route.plugin.clone(),
            clock: Arc::clone(&parts.clock),
            witness: Arc::clone(&witness),
        };
        Binding {
            store: if held { route.store.read_only() } else { route.store.clone() },
            plugin: route.plugin.clone(),
            grants: grants(route, call.effects),
            logs: parts.logs.of(&route.store, &route.plugin),
            invocation: told.invocation.clone(),
            chain: Chain::resumed(told.invocation.clone(), call.principal.clone(), &call.trail),
            caused_by: call.trail.by.clone(),
            meter,
            ledger,
            witness,
            steps,
            guarded,
            overseer,
        }
    }

    /// Who says what policy leaves the guest. None for names that make no principal.
    fn overseer(&self, call: &Call, route: &Route, told: &Arc<InvocationFacts>) -> Option<Arc<dyn Overseer>> {
        let parts = &*self.parts;
        let cause = call.cause.split('/').next().unwrap_or_default();
        let (identity, whose, peer) = (parts.identity.clone(), call.principal.clone(), call.peer);
        let (tenant, plugin) = (route.tenant.clone(), route.plugin.clone());
        // None where nobody is on the line who has a session.
        let trust: Trust =
            Box::new(move || identity.score_of_call(&whose, peer, (&tenant, &plugin)).ok().map(|score| score.value));
        let caller = parts.policy.host_caller(&route.tenant, &route.plugin, &call.principal, cause, trust).ok()?;
        Some(Arc::new(Held { caller, denials: parts.denials.clone(), told: Arc::clone(told) }))
    }

    async fn version(&self, call: &Call, route: &Route) -> Result<VersionRef, CallError> {
        let Some(label) = &call.version else {
            let mut draw = [0_u8; 8];
            self.parts.entropy.fill(&mut draw);
            return Ok(route.choose(u64::from_le_bytes(draw)));
        };
        let pinned = self.parts.registry.pinned(&route.store, &route.plugin, label).await;
        pinned.map_err(|_| CallError::Host)?.ok_or(CallError::NoPlugin)
    }

    /// Puts on record that nothing was answered. The error is "audit unavailable".
    async fn record_refusal(
        &self,
        seen: &Seen,
        call: &Call,
        route: &Route,
        error: &CallError,
        denial: Option<Box<Denial>>,
    ) -> Result<(), CallError> {
        let version = seen.version.as_ref().unwrap_or_else(|| route.stable());
        let mut told = self.told(seen, call, route, version);
        let (status, code) = (failed_as(error), error.code().to_owned());
        let failure = InvocationFailure { code: code.clone(), blame: error.blame(), detail: Some(error.to_string()) };
        // As with a slot that it had not: whoever fills the host must not write everybody's log full.
        let is_host_full = matches!(error, CallError::Run(RunError::Overloaded));
        if matches!(error, CallError::Run(_)) && !is_host_full {
            self.recorder().failed(&told, status, failure, seen.usage).await;
            return Ok(());
        }
        if seen.version.is_some() {
            self.recorder().meter(&told, status, Some(failure), seen.usage);
        }
        if route.store.check_keys().is_err() {
            // Its log is closed with its keys; that it was closed, and by whom, is on the host's.
            return Ok(());
        }
        if (is_host_full || error.passes_after_ms().is_some()) && denial.is_none() {
            // Counted: an entry each would let a full queue write the log full.
            self.recorder().count(&told, status, Some(code), seen.usage);
            return Ok(());
        }
        told.decision = denial.as_ref().map(|denial| denial.decision.clone()).or(told.decision);
        let details = json!({ "invocation": told.invocation.as_str(), "code": code, "status": status });
        let event = told.event(codes::INVOCATION_REFUSED, details);
        if self.parts.audit.record(&Log::Tenant(route.store.clone()), event).await.is_err() {
            return Err(CallError::AuditUnavailable);
        }
        if let Some(denial) = denial {
            let kept = json!({ "at": self.parts.clock.now(), "record": denial.record() });
            if let Err(error) = decisions::keep(&route.store, &denial.decision, &kept).await {
                tracing::warn!(%error, "a denial could not be kept for explaining");
            }
        }
        Ok(())
    }

    fn told(&self, seen: &Seen, call: &Call, route: &Route, version: &VersionRef) -> InvocationFacts {
        InvocationFacts {
            store: route.store.clone(),
            invocation: seen.invocation.clone(),
            plugin: route.plugin.clone(),
            version: version.label.to_string(),
            principal: call.principal.id().clone(),
            decision: seen.decision.clone(),
            source_ip: None,
            cause: Some(call.cause.clone()),
            called: call.trail.by.clone().map(|by| Called { by, on_behalf_of: None }),
        }
    }

    fn recorder(&self) -> Recorder {
        let parts = &self.parts;
        Recorder::new(parts.audit.clone(), parts.metering.clone(), parts.clock.clone())
    }
}

impl From<IdentityError> for CallError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::StepUp(needed) => Self::StepUp(needed),
            _ => Self::Unauthenticated,
        }
    }
}

impl From<AdmitError> for CallError {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::TenantBusy { retry_after_ms } => Self::TenantBusy { retry_after_ms },
            // No plugin called this one; said of it, it would mean that the tenant is full.
            AdmitError::CallersWait => Self::TenantBusy { retry_after_ms: 1_000 },
            AdmitError::Overloaded => Self::Overloaded,
            AdmitError::Suspended => Self::Suspended,
        }
    }
}

/// The plugin's grants, or what of them changes nothing.
fn grants(route: &Route, effects: Effects) -> LiveGrants {
    if effects == Effects::Real {
        return LiveGrants::new(Arc::clone(&route.grants)).noting(Arc::clone(&route.used));
    }
    let all = route.grants.load();
    let mut harmless = Grants::default();
    for capability in [Capability::Config, Capability::Secrets, Capability::Keyvalue, Capability::Blob] {
        if let Some(scope) = all.get(capability) {
            harmless.insert(Grant { capability, scope: scope.to_vec() });
        }
    }
    LiveGrants::fixed(harmless)
}

/// Whether the guest may be one that served before, and may serve again. Never one that is tried out: what it leaves in memory
/// must not be there when it counts. Nor a workflow: it is run from its start over its history, and memory of its own would
/// make that come out differently.
fn reuse(call: &Call, route: &Route, version: &VersionRef) -> Option<Reuse> {
    let may_be = call.effects == Effects::Real && call.export != Export::Workflow;
    may_be.then(|| route.reuse(version)).flatten()
}

/// Records speak of answers in the words of HTTP, so that one search finds both kinds; nobody is sent these.
fn recorded_as(answer: &EventAnswer) -> u16 {
    match answer {
        Ok(_) | Err(EventFailure::Refused(_)) => 200,
        Err(EventFailure::Retry(_)) => 503,
        Err(EventFailure::Failed(_)) => 500,
    }
}

fn failed_as(error: &CallError) -> u16 {
    match error.blame() {
        Blame::Caller if matches!(error, CallError::Run(RunError::MemoryShare)) => 429,
        Blame::Caller => 403,
        Blame::Plugin | Blame::Upstream => 502,
        Blame::Host => 503,
    }
}

/// Policy, as the guest of one call is held to it.
struct Held {
    caller: HostCaller,
    denials: HostDenials,
    told: Arc<InvocationFacts>,
}

impl Overseer for Held {
    fn ask(&self, call: &HostCall<'_>) -> Result<(), Forbidden> {
        let Err(denial) = self.caller.ask(call) else { return Ok(()) };
        let told = self.denials.tell(&self.told, || {
            let record = denial.record();
            HostDenial {
                decision: denial.decision.clone(),
                principal: self.caller.principal().clone(),
                act: denial.action(),
                resource: record.resource.clone(),
                record: json!(record),
            }
        });
        Err(Forbidden { decision: Some(denial.decision).filter(|_| told) })
    }
}

/// Swears to what the guest opens of personal data.
struct Sworn {
    audit: Audit,
    told: Arc<InvocationFacts>,
    telling: Arc<Semaphore>,
    /// Where that is written from: guests run on threads that are in no runtime.
    io: tokio::runtime::Handle,
}

impl Witness for Sworn {
    fn opening(&self, opening: Opening) -> BoxFuture<'static, bool> {
        let code = match opening.verdict {
            Verdict::Granted => codes::PERSONAL_OPENED,
            Verdict::Refused => codes::PERSONAL_OPEN_REFUSED,
        };
        let details = json!({
            "invocation": self.told.invocation.as_str(), "for": "plugin", "field": opening.field,
            "subject": opening.subject,
        });
        let (audit, log) = (self.audit.clone(), Log::Tenant(self.told.store.clone()));
        let event = self.told.event(code, details);
        Box::pin(async move { audit.record(&log, event).await.is_ok() })
    }
    fn tried(&self, tried: Tried) {
        let (code, details) = match tried {
            Tried::Egress { origin, why } => (codes::EGRESS_REFUSED, json!({ "origin": origin, "code": why })),
            Tried::Canary { kind, name } => (codes::CANARY_TOUCHED, json!({ "kind": kind, "name": name })),
        };
        let Ok(place) = Arc::clone(&self.telling).try_acquire_owned() else {
            tracing::warn!(code, "too much of what guests try waits to be put on record; this is not");
            return;
        };
        let (audit, log) = (self.audit.clone(), Log::Tenant(self.told.store.clone()));
        let event = self.told.event(code, details);
        self.io.spawn(async move {
            if let Err(error) = audit.record(&log, event).await {
                tracing::warn!(%error, "what a guest tried could not be put on record");
            }
            drop(place);
        });
    }

    fn event(&self, event: PluginEvent) -> BoxFuture<'static, Result<u64, EventRefused>> {
        let PluginEvent { code, message, resource, data } = event;
        let read = ApplicationEvent::read(&code, &message, resource.as_deref(), data, PLUGIN_EVENT_BYTES_MAX);
        let read = match read {
            Ok(read) => read,
            Err(ApplicationError::Reserved(_)) => {
                let why = format!("`{code}` looks like a code of the host");
                return Box::pin(std::future::ready(Err(EventRefused::Reserved(why))));
            }
            Err(ApplicationError::Invalid(why)) => {
                return Box::pin(std::future::ready(Err(EventRefused::Invalid(why))));
            }
        };
        let (audit, log) = (self.audit.clone(), Log::Tenant(self.told.store.clone()));
        let details = json!({ "invocation": self.told.invocation.as_str(), "for": "plugin" });
        let mut entry = self.told.event(codes::PLUGIN_EVENT, details);
        read.tell(&mut entry);
        Box::pin(async move {
            let put = audit.record(&log, entry).await;
            put.map(|receipt| receipt.seq).map_err(|_| EventRefused::Unavailable)
        })
    }
}
