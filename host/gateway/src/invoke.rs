//! Walk 1: one invocation, as one straight function. The order of its lines is the security argument.
//!
//! Must never run a guest before the tenant is decided by the route, the caller proved, the act allowed, and the turn
//! taken; and must never answer without recording what was done, once, on every path.

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ringfence_audit::{Audit, HostDenials, Log, Metering, Paced};
use ringfence_capabilities::{
    Binding, Capabilities, Chain, FieldRules, Guarded, GuestLogs, Ledger, LiveGrants, Overseer, Quotas,
};
use ringfence_core::proof::act;
use ringfence_core::{Budget, Clock, Entropy, InvocationId, Principal, PrincipalKind, Resource, Standing};
use ringfence_engine::{Body, Calling, Engine, Meter, Slot};
use ringfence_identity::{Channel, Identity, Shown};
use ringfence_policy::{Policy, Visibility};
use ringfence_registry::{Registry, Route};
use ringfence_store::StoreError;
use tokio::sync::Semaphore;

use crate::cut::cut_with;
use crate::fields::rules_for;
use crate::listen::Peer;
use crate::pace::{Pace, Source};
use crate::record::Seen;
use crate::refuse::Refusal;
use crate::request::{checked_host, for_guest, strip};
use crate::turns::{Carried, Turns};

/// LIMIT: things that guests tried and that wait to be put on record.
const TRIED_COUNT_MAX: usize = 256;

/// The rooms that an invocation walks through.
#[derive(Clone)]
pub struct GatewayParts {
    /// Host and path to plugin version.
    pub registry: Registry,
    /// Who calls.
    pub identity: Identity,
    /// Whether he may.
    pub policy: Policy,
    /// Runs the guest.
    pub engine: Engine,
    /// What the guest may import.
    pub capabilities: Arc<Capabilities>,
    /// What tenants may have.
    pub quotas: Quotas,
    /// Rules about fields of personal data.
    pub fields: FieldRules,
    /// What guests print.
    pub logs: GuestLogs,
    /// What the host swears to.
    pub audit: Audit,
    /// What policy did not leave to guests, on its way to the record.
    pub denials: HostDenials,
    /// Tokens that were shown wrongly, on their way to the record.
    pub refusals: Paced,
    /// What was spent.
    pub metering: Metering,
    /// What is held against whom.
    pub standing: Arc<Standing>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice: invocation ids and the canary's draw.
    pub entropy: Arc<dyn Entropy>,
}

/// A request on its way to a guest.
pub(crate) struct Asked<'a, B> {
    /// As it came.
    pub request: Request<B>,
    /// The host that it names.
    pub host: Option<String>,
    /// Where its invocation stands below the one that no plugin called.
    pub chain: Chain,
    /// What another plugin's call has to keep to.
    pub within: Option<Within<'a>>,
}

/// What a call of a plugin has to keep to.
pub(crate) struct Within<'a> {
    /// Wall time that its caller has left.
    pub time_ms: u64,
    /// Its caller, which waits.
    pub calling: &'a Calling,
}

/// The data plane's service. Cheap to clone: each invocation holds some.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

/// What all clones of a [`Gateway`] share.
pub struct Inner {
    pub(crate) parts: GatewayParts,
    pace: Pace,
    turns: Turns,
    /// Places for what guests try, on its way to the record.
    pub(crate) telling: Arc<Semaphore>,
    /// Where that is written from: guests run on threads that are in no runtime.
    pub(crate) io: tokio::runtime::Handle,
}

impl Deref for Gateway {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Gateway {
    /// A gateway over its rooms. Must be called inside the runtime that does its I/O.
    pub fn new(parts: GatewayParts) -> Self {
        let (telling, io) = (Arc::new(Semaphore::new(TRIED_COUNT_MAX)), tokio::runtime::Handle::current());
        Self(Arc::new(Inner { parts, pace: Pace::default(), turns: Turns::default(), telling, io }))
    }

    /// Answers one request, whatever it is.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let with_proof = Shown::speaks_dpop(request.headers());
        let mut seen = Seen::new(InvocationId::random(&*self.parts.entropy), peer);
        let mut response = match self.invoke(&mut seen, request).await {
            Ok(response) => response,
            Err(refusal) => {
                let refusal = self.record_refusal(&seen, refusal).await;
                let now = self.parts.clock.monotonic();
                let hold = source(&seen, &refusal).map_or(Duration::ZERO, |source| self.pace.hold(source, now));
                if !hold.is_zero() {
                    tokio::time::sleep(hold).await;
                }
                let mut response = told(&refusal);
                if let (Refusal::StepUp(factor), true) = (&refusal, with_proof) {
                    let challenge = HeaderValue::from_static(factor.challenge(true));
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                }
                response
            }
        };
        if let Ok(id) = HeaderValue::from_str(seen.invocation.as_str()) {
            response.headers_mut().insert("x-ringfence-invocation", id);
        }
        if with_proof && let Ok(nonce) = HeaderValue::try_from(self.parts.identity.dpop_nonce()) {
            response.headers_mut().insert("dpop-nonce", nonce);
        }
        response
    }

    async fn invoke(&self, seen: &mut Seen, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let parts = &self.parts;
        let host = checked_host(&request)?;
        // The tenant is decided here, once.
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let found = parts.registry.find(host.as_deref(), path).map(Arc::new);
        seen.route = found.clone();
        if let Some(route) = &found {
            let carried = request.extensions().get::<Carried>().cloned().unwrap_or_default();
            self.turns.turn(&route.tenant, &carried).await;
        }
        // A wrong credential is the same refusal whether or not there is a route.
        let principal = self.authenticate(&request)?;
        seen.principal = Some(principal.clone());
        let route = found.ok_or(Refusal::NoRoute)?;
        let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let chain = Chain::root(seen.invocation.clone(), principal.clone(), trace);
        let response = self.walk(seen, route, &principal, Asked { request, host, chain, within: None }).await?;
        Ok(match principal.session() {
            Some(session) => {
                let ended = parts.identity.session_cut(session);
                let may_go_on = self.may_go_on(principal.clone());
                response.map(|body| cut_with(body, ended, may_go_on))
            }
            None => response,
        })
    }

    /// Asks again whether what was begun for somebody may go on.
    pub(crate) fn may_go_on(&self, principal: Principal) -> impl Fn() -> bool + Send + Unpin + use<> {
        let gateway = self.clone();
        move || gateway.parts.standing.may_go_on(&principal, gateway.parts.clock.now()).is_ok()
    }

    /// From the permit on. The same for a request from outside and for a call from one plugin to another (`call.rs`).
    pub(crate) async fn walk<B>(
        &self,
        seen: &mut Seen,
        route: Arc<Route>,
        principal: &Principal,
        asked: Asked<'_, B>,
    ) -> Result<Response<Body>, Refusal>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    {
        let parts = &self.parts;
        let Asked { request, host, chain, within } = asked;
        let resource = Resource::Plugin { tenant: route.tenant.clone(), plugin: route.plugin.clone() };
        let permit = match parts.policy.permit_from::<act::Invoke>(principal, seen.peer, &resource) {
            Ok(permit) => permit,
            Err(denial) => return Err(self.denied(seen, principal, denial)),
        };
        let (now, monotonic) = (parts.clock.now(), parts.clock.monotonic());
        parts.standing.admit(principal, Some(&route.tenant), seen.peer, now, monotonic)?;
        self.check_trust(seen, principal, &route)?;
        check_keys(&route)?;
        // A tenant that is gone since the route was found is no route; one that made too many calls waits outside.
        let ledger = parts.quotas.of(&route.tenant).ok_or(Refusal::NoRoute)?;
        ledger
            .request()
            .map_err(|over| Refusal::QuotaExhausted { retry_after_ms: over.retry_after_ms.unwrap_or(0) })?;
        if !parts.audit.can_record(&Log::Tenant(route.store.clone())) {
            return Err(Refusal::AuditUnavailable);
        }
        let version = route.choose(self.draw());
        parts.standing.admit_version(&route.tenant, &version.digest, now)?;
        seen.version = Some(version.clone());
        let guest_request = for_guest(request, host.as_deref(), &route.rest, &seen.body).await?;
        let rules = rules_for(self.field_rules(&route).await?, &guest_request)?;
        let guest_request = self.seal_fields(seen, &route, &rules, guest_request).await?;
        let mut slot = self.slot(&route, &ledger, version.budget, within).await?;
        slot.taken_by(&seen.invocation);
        let code = parts.registry.compiled(&version).await.map_err(|error| {
            tracing::error!(invocation = %seen.invocation, %error, "code cannot be loaded");
            Refusal::Host
        })?;
        seen.decision = Some(permit.decision().clone());
        // All that is to be known of it but how it ends.
        let known = Arc::new(seen.clone());
        let overseer = self.overseer(&known, &route, &chain).ok_or(Refusal::Host)?;
        let mut guest =
            parts.capabilities.bind(self.binding(&route, &known, (*slot.budget(), ledger, chain), overseer));
        guest.reuse = route.reuse(&version);
        let unheard = self.unheard(seen, &guest.meter);
        let result = parts.engine.run(slot, &code, guest, guest_request).await;
        let reply = self.seen_by_caller(seen, &route, &rules, result).await;
        unheard.was_heard();
        let reply = match reply {
            Ok(reply) => reply,
            Err((refusal, usage)) => {
                seen.usage = usage;
                return Err(refusal);
            }
        };
        let mut response = reply.response;
        strip(response.headers_mut());
        self.record_when_finished(known, response.status().as_u16(), reply.finished);
        Ok(response)
    }

    /// Waits for a turn. What a plugin called has no more time than its caller has left.
    async fn slot(
        &self,
        route: &Route,
        ledger: &Ledger,
        mut budget: Budget,
        within: Option<Within<'_>>,
    ) -> Result<Slot, Refusal> {
        let scheduler = self.parts.engine.scheduler();
        let slot = match within {
            None => scheduler.admit(&route.tenant, budget).await,
            Some(Within { time_ms, calling }) => {
                budget.time_ms = budget.time_ms.min(time_ms);
                scheduler.admit_called(calling, budget).await
            }
        };
        Ok(slot.inspect_err(|error| ledger.not_admitted(error))?)
    }

    fn authenticate(&self, request: &Request<Incoming>) -> Result<Principal, Refusal> {
        let channel = request.extensions().get::<Channel>();
        let shown = Shown::read(request.method(), request.uri(), request.headers(), channel)
            .map_err(|_| Refusal::Unauthenticated)?;
        if !shown.has_token() {
            return Ok(self.parts.identity.anonymous());
        }
        self.parts.identity.verify(&shown).map_err(|error| {
            if let Some(untaken) = self.parts.identity.untaken(&shown, &error) {
                let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
                let log = untaken.home.map_or(Log::Host, Log::Tenant);
                self.parts.refusals.token_refused(&log, &untaken.principal, untaken.wrong, "plugins", peer);
            }
            Refusal::from_identity(&error)
        })
    }

    /// Whether the caller's session stands high enough; one below its tenant's floor is over.
    fn check_trust(&self, seen: &Seen, principal: &Principal, route: &Route) -> Result<(), Refusal> {
        self.parts
            .identity
            .check_call_trust(principal, seen.peer, (&route.tenant, &route.plugin))
            .map_err(|error| Refusal::from_identity(&error))
    }

    fn denied(&self, seen: &mut Seen, principal: &Principal, denial: ringfence_policy::Denial) -> Refusal {
        let refusal = match denial.visible {
            Visibility::Hidden => Refusal::NoRoute,
            Visibility::Explained if principal.kind() == PrincipalKind::Anonymous => Refusal::Unauthenticated,
            Visibility::Explained if denial.is_suspension() => Refusal::Suspended,
            Visibility::Explained if denial.is_out_of_scope() => Refusal::OutOfScope(denial.decision.clone()),
            Visibility::Explained => Refusal::Denied(denial.decision.clone()),
        };
        seen.denial = Some(denial);
        refusal
    }

    fn binding(
        &self,
        route: &Route,
        seen: &Arc<Seen>,
        (budget, ledger, chain): (Budget, Arc<Ledger>, Chain),
        overseer: Arc<dyn Overseer>,
    ) -> Binding {
        let (standing, witness) = (Arc::clone(&self.parts.standing), self.witness(seen, route));
        let held = standing.is_read_only(&route.tenant, self.parts.clock.now());
        let guarded = Guarded {
            standing,
            tenant: route.tenant.clone(),
            tenant_uid: route.store.uid(),
            plugin: route.plugin.clone(),
            clock: Arc::clone(&self.parts.clock),
            witness: Arc::clone(&witness),
        };
        Binding {
            store: if held { route.store.read_only() } else { route.store.clone() },
            plugin: route.plugin.clone(),
            grants: LiveGrants::new(route.grants.clone()).noting(Arc::clone(&route.used)),
            logs: self.parts.logs.of(&route.store, &route.plugin),
            invocation: seen.invocation.clone(),
            chain,
            caused_by: seen.called.as_ref().map(|(_, called)| called.by.clone()),
            meter: Meter::in_pool(budget, Arc::clone(ledger.memory())),
            ledger,
            witness,
            steps: None,
            guarded,
            overseer,
        }
    }

    /// A number under 100 for the canary's share.
    fn draw(&self) -> u8 {
        let mut byte = [0_u8; 2];
        self.parts.entropy.fill(&mut byte);
        // The bias of 65536 over 100 is under 0.1 percent of a percent.
        u8::try_from(u16::from_le_bytes(byte) % 100).unwrap_or(0)
    }
}

/// A refusal as an answer.
pub(crate) fn told(refusal: &Refusal) -> Response<Body> {
    refusal.response().map(|text| Full::new(text).map_err(|never: Infallible| match never {}).boxed_unsync())
}

/// Whether the tenant's keys are there to work with.
fn check_keys(route: &Route) -> Result<(), Refusal> {
    route.store.check_keys().map_err(|error| match error {
        StoreError::KeyRefused => Refusal::KeyRefused,
        _ => Refusal::KeyDisabled,
    })
}

/// Whom a refusal is counted for; none for what is not the caller's doing.
fn source(seen: &Seen, refusal: &Refusal) -> Option<Source> {
    match refusal {
        Refusal::TenantBusy { .. } | Refusal::QuotaExhausted { .. } | Refusal::Overloaded => {
            seen.route.as_ref().map(|route| Source::Tenant(route.tenant.clone()))
        }
        Refusal::AuditUnavailable
        | Refusal::Host
        | Refusal::HostLocked
        | Refusal::FieldsAnswer
        | Refusal::FieldsNotSealed
        // Not of those who call from outside.
        | Refusal::CallDepth
        | Refusal::CallFanOut { .. }
        | Refusal::CallsBlocked
        | Refusal::Run(_) => None,
        Refusal::BadRequest(_)
        | Refusal::NoRoute
        | Refusal::Unauthenticated
        | Refusal::NonceNeeded
        | Refusal::BadProof
        | Refusal::TokenUnbound
        | Refusal::StepUp(_)
        | Refusal::TooManyProofs
        | Refusal::Denied(_)
        | Refusal::OutOfScope(_)
        | Refusal::BodyTooLarge
        | Refusal::BodyTimeout
        | Refusal::FieldsNotJson
        | Refusal::FieldsPath
        | Refusal::KeyDisabled
        | Refusal::KeyRefused
        | Refusal::Held(_)
        | Refusal::Suspended => seen.peer.map(Source::peer),
    }
}

impl hyper::service::Service<Request<Incoming>> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let gateway = self.clone();
        Box::pin(async move { Ok(gateway.answer(request).await) })
    }
}
