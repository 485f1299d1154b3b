//! What every endpoint does first and last: who calls, may he, and is it on the record.
//!
//! Must never hand out a tenant's store without a permit for that tenant, nor run an effect without an intent, nor show what
//! a tenant stored to anybody of whom the log does not say so first.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, OriginalUri};
use http::header;
use http::request::Parts;
use ringfence_audit::envelope::cut;
use ringfence_audit::{Event, Intent, Log, Outcome, codes, decisions};
use ringfence_core::proof::act;
use ringfence_core::{Action, Permit, PluginName, Principal, RequestId, Resource, TenantId};
use ringfence_identity::{Channel, IdentityError, Shown};
use ringfence_policy::{Approval, Denial, Particulars, Visibility};
use ringfence_store::TenantStore;
use serde_json::{Value, json};

use crate::Control;
use crate::idempotency::AskedAgain;
use crate::problem::ApiError;

/// LIMIT: what is kept of the words that a caller's program says of itself, in bytes.
const USER_AGENT_BYTES_MAX: usize = 256;

/// The peer's address, put into the request's extensions by the listener's wrapper.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// One authenticated request.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who calls.
    pub principal: Principal,
    /// The request's id.
    pub request: RequestId,
    /// From where.
    pub peer: Option<IpAddr>,
    /// With what, in the caller's own words.
    pub user_agent: Option<String>,
    /// The `traceparent` it came with; not checked yet.
    pub traceparent: Option<String>,
    /// Set where it was answered before, and is only asked about.
    pub(crate) again: Option<AskedAgain>,
}

impl FromRequestParts<Control> for Call {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, control: &Control) -> Result<Self, ApiError> {
        // Verified before, around the endpoints.
        if let Some(call) = parts.extensions.get::<Self>() {
            return Ok(call.clone());
        }
        let request = request_id(parts, control);
        let peer = parts.extensions.get::<PeerAddress>().map(|peer| peer.0);
        let user_agent = user_agent(parts);
        let traceparent = parts.headers.get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let principal = shown(parts)
            .and_then(|shown| {
                let verified = control.parts.identity.verify(&shown);
                verified.inspect_err(|error| control.tell_untaken(&shown, error, peer))
            })
            .map_err(unauthenticated)?;
        let parts = &*control.parts;
        let (now, monotonic) = (parts.clock.now(), parts.clock.monotonic());
        let standing = parts.threat.standing();
        standing.admit(&principal, principal.tenant(), peer, now, monotonic).map_err(|held| ApiError::held(&held))?;
        Ok(Self { principal, request, peer, user_agent, traceparent, again: None })
    }
}

impl Call {
    /// Says on an event in which request and session it was, from where and with what.
    pub(crate) fn sign(&self, event: &mut Event) {
        event.request = Some(self.request.clone());
        event.session = self.principal.session().cloned();
        event.source_ip = self.peer;
        if let Some(agent) = &self.user_agent {
            event.members = json!({ "http_request": { "uid": self.request.to_string(), "user_agent": agent } });
        }
    }
}

/// What a request shows of its caller, read from the head as it came, before any routing.
pub fn shown(parts: &Parts) -> Result<Shown<'_>, IdentityError> {
    let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
    Shown::read(&parts.method, uri, &parts.headers, parts.extensions.get::<Channel>())
}

/// The log that a denial goes on before it is said. SECURITY: a stranger waits for the host's log and no other. A second write,
/// another tenant's queue, or a log of its that takes nothing now, would tell that there is such a tenant.
fn log_of_denial(concerned: Option<TenantStore>, hidden: bool) -> Log {
    concerned.filter(|_| !hidden).map_or(Log::Host, Log::Tenant)
}

/// What a caller is told whose token is not taken: why, where the proof beside it is at fault, and nothing else.
fn unauthenticated(error: IdentityError) -> ApiError {
    match error {
        IdentityError::BadProof(_)
        | IdentityError::NonceNeeded
        | IdentityError::TooManyProofs { .. }
        | IdentityError::Unbound => ApiError::from(error),
        _ => ApiError::new("unauthenticated", "a valid access token is needed here").help("ringfence login"),
    }
}

/// The id given to this request by the outermost layer.
pub fn request_id(parts: &Parts, control: &Control) -> RequestId {
    parts.extensions.get::<RequestId>().cloned().unwrap_or_else(|| RequestId::random(&*control.parts.entropy))
}

/// What the caller's program says of itself.
pub fn user_agent(parts: &Parts) -> Option<String> {
    let said = parts.headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(cut(said, USER_AGENT_BYTES_MAX))
}

/// A tenant's store that policy let this call reach, and the permit for what it asked.
pub struct Reached<A> {
    /// The tenant.
    pub tenant: TenantId,
    /// Its store.
    pub store: TenantStore,
    /// What was allowed.
    pub permit: Permit<A>,
}

impl Control {
    /// Asks policy about the host as a whole.
    pub async fn reach_host<A: Action>(&self, call: &Call) -> Result<Permit<A>, ApiError> {
        self.permit(call, Resource::Host, None).await
    }

    /// Asks policy about the host as a whole, for an act of which rules can read what it is about.
    pub async fn reach_host_for<A: Action>(
        &self,
        call: &Call,
        about: Option<Particulars>,
    ) -> Result<Permit<A>, ApiError> {
        self.permit(call, Resource::Host, about).await
    }

    /// Asks policy about a tenant. A malformed name, an unknown tenant and another's are one answer.
    pub async fn reach_tenant<A: Action>(&self, call: &Call, tenant: &str) -> Result<Reached<A>, ApiError> {
        self.reach_tenant_for(call, tenant, None).await
    }

    /// The same, for an act of which rules can read what it is about. None where what was asked for says nothing that can be
    /// read: then nothing is done.
    pub async fn reach_tenant_for<A: Action>(
        &self,
        call: &Call,
        tenant: &str,
        about: Option<Particulars>,
    ) -> Result<Reached<A>, ApiError> {
        let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
        self.reach_for(call, Resource::Tenant { tenant }, about).await
    }

    /// Asks policy about a plugin.
    pub async fn reach_plugin<A: Action>(
        &self,
        call: &Call,
        tenant: &str,
        plugin: &str,
    ) -> Result<(Reached<A>, PluginName), ApiError> {
        self.reach_plugin_for(call, (tenant, plugin), None).await
    }

    /// The same, for an act of which rules can read what it is about, as of [`Control::reach_tenant_for`].
    pub async fn reach_plugin_for<A: Action>(
        &self,
        call: &Call,
        (tenant, plugin): (&str, &str),
        about: Option<Particulars>,
    ) -> Result<(Reached<A>, PluginName), ApiError> {
        let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
        let plugin: PluginName = match plugin.parse() {
            Ok(plugin) => plugin,
            Err(error) => {
                // The tenant's boundary comes before any word about the name.
                self.reach::<A>(call, Resource::Tenant { tenant }).await?;
                return Err(ApiError::from(error));
            }
        };
        let resource = Resource::Plugin { tenant, plugin: plugin.clone() };
        Ok((self.reach_for(call, resource, about).await?, plugin))
    }

    /// Asks policy about any resource of a tenant whose data will be needed: its keys must be at hand.
    pub async fn reach<A: Action>(&self, call: &Call, resource: Resource) -> Result<Reached<A>, ApiError> {
        self.reach_for(call, resource, None).await
    }

    async fn reach_for<A: Action>(
        &self,
        call: &Call,
        resource: Resource,
        about: Option<Particulars>,
    ) -> Result<Reached<A>, ApiError> {
        let reached = self.reach_closed_for(call, resource, about).await?;
        reached.store.check_keys()?;
        // SECURITY: what the tenant's own rules are is not read yet. Operators mend what is damaged, by keys that they opened.
        if call.principal.tenant().is_some() && self.parts.tenants.is_unread(&reached.tenant) {
            return Err(ApiError::key_disabled());
        }
        Ok(reached)
    }

    /// Asks policy about a tenant whose keys may be disabled: for acts on the keys and on the tenant's existence.
    pub async fn reach_closed<A: Action>(&self, call: &Call, resource: Resource) -> Result<Reached<A>, ApiError> {
        self.reach_closed_for(call, resource, None).await
    }

    async fn reach_closed_for<A: Action>(
        &self,
        call: &Call,
        resource: Resource,
        about: Option<Particulars>,
    ) -> Result<Reached<A>, ApiError> {
        let tenant = resource.tenant().cloned().ok_or_else(ApiError::not_found)?;
        let permit = self.permit(call, resource, about).await?;
        let store = self.parts.tenants.open_tenant(&tenant).ok_or_else(ApiError::not_found)?;
        Ok(Reached { tenant, store, permit })
    }

    /// Asks policy whether one may decide what a run of a plugin asks for; `approval` is none where it asks for no such thing.
    pub async fn reach_approval(
        &self,
        call: &Call,
        resource: Resource,
        approval: Option<Approval>,
    ) -> Result<Reached<act::ApproveRun>, ApiError> {
        self.reach_for(call, resource, approval.map(Particulars::Approval)).await
    }

    async fn permit<A: Action>(
        &self,
        call: &Call,
        resource: Resource,
        about: Option<Particulars>,
    ) -> Result<Permit<A>, ApiError> {
        match self.parts.policy.permit_for::<A>(&call.principal, call.peer, &resource, about) {
            Ok(_) if self.is_held::<A>(call, &resource) => Err(ApiError::read_only()),
            // A denial beats any score; an act that is allowed still needs a session that stands high enough for it.
            Ok(permit) => match self.parts.identity.check_trust(&call.principal, call.peer, A::CLASS) {
                Ok(()) => {
                    let (who, now) = (&call.principal, self.parts.clock.now());
                    self.access.note(who.id(), who.tenant(), A::NAME, now);
                    match &call.again {
                        // SECURITY: done before, and not done again: without a permit nothing is.
                        Some(again) => Err(again.allow()),
                        None => Ok(permit),
                    }
                }
                Err(IdentityError::Fallen { .. }) => {
                    self.tell_fallen(call.principal.tenant()).await;
                    Err(unauthenticated(IdentityError::Unauthenticated))
                }
                Err(error) => Err(ApiError::from(error)),
            },
            Err(denial) => Err(self.denied::<A>(call, &resource, denial).await),
        }
    }

    /// Asks about one more act of a request that was answered before, whose kept answer tells what came of that act too. Nothing is done.
    pub(crate) async fn check_again<A: Action>(&self, call: &Call, resource: &Resource) -> Result<(), ApiError> {
        match self.parts.policy.permit_from::<A>(&call.principal, call.peer, resource) {
            Ok(_unused) => Ok(self.parts.identity.check_trust(&call.principal, call.peer, A::CLASS)?),
            Err(denial) => Err(self.denied::<A>(call, resource, denial).await),
        }
    }

    /// Tells whose token was shown in a way that it is not taken in.
    fn tell_untaken(&self, shown: &Shown<'_>, refused: &IdentityError, peer: Option<IpAddr>) {
        if let Some(untaken) = self.parts.identity.untaken(shown, refused) {
            let log = untaken.home.map_or(Log::Host, Log::Tenant);
            self.parts.refusals.token_refused(&log, &untaken.principal, untaken.wrong, "control", peer);
        }
    }

    /// Whether a tenant is read-only for this act: for its own people, unless it is the answer to a threat itself.
    fn is_held<A: Action>(&self, call: &Call, resource: &Resource) -> bool {
        let answers = [act::RespondThreat::NAME, act::RevokeToken::NAME, act::DisableKeys::NAME];
        let own = call.principal.tenant().filter(|own| resource.tenant() == Some(own));
        let standing = self.parts.threat.standing();
        A::MUTATES
            && !answers.contains(&A::NAME)
            && own.is_some_and(|tenant| standing.is_read_only(tenant, self.parts.clock.now()))
    }

    /// Puts a denial on the record and says it: with its decision to a member, as "not found" to a stranger.
    async fn denied<A: Action>(&self, call: &Call, resource: &Resource, denial: Denial) -> ApiError {
        // A log that cannot be sealed now must not show that there is a tenant.
        let concerned = resource
            .tenant()
            .and_then(|tenant| self.parts.tenants.open_tenant(tenant))
            .filter(|store| store.check_keys().is_ok());
        let hidden = matches!(denial.visible, Visibility::Hidden);
        let code = if hidden { codes::TENANT_ISOLATION } else { codes::ACTION_DENIED };
        let mut event = Event::new(code, A::NAME, call.principal.id().clone(), resource.to_string());
        call.sign(&mut event);
        event.decision = Some(denial.decision.clone());
        let log = log_of_denial(concerned.clone(), hidden);
        if self.parts.audit.record(&log, event.clone()).await.is_err() {
            return ApiError::new("audit-unavailable", "the audit log cannot be written, so nothing was done");
        }
        if hidden {
            if let Some(store) = concerned {
                // What is told together came with many.
                event.members = Value::Null;
                self.parts.refusals.stranger_refused(&store, event);
            }
            return ApiError::not_found();
        }
        let home = concerned.unwrap_or_else(|| self.parts.tenants.platform().clone());
        let kept = crate::decisions::Kept { at: self.parts.clock.now(), record: Box::new(denial.record()) };
        if let Err(error) = decisions::keep(&home, &denial.decision, &kept).await {
            tracing::warn!(%error, "a denial could not be kept for explaining");
        }
        let scope = if denial.is_out_of_scope() { ": it is outside the scope of the key of this session" } else { "" };
        let mut answer = ApiError::new(
            "denied",
            format!("`{}` may not {} {}{scope}", call.principal.id(), denial.action(), denial.resource()),
        );
        answer.decision = Some(denial.decision);
        answer
    }

    /// Runs what everybody may do with what is his own, such as his sessions, between an intent and an outcome. Needs no
    /// permit, so `effect` must touch nothing else.
    pub async fn own_act<T>(
        &self,
        call: &Call,
        code: &'static str,
        action: &'static str,
        details: Value,
        effect: impl AsyncFnOnce() -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if let Some(again) = &call.again {
            return Err(again.allow());
        }
        let home = call.principal.tenant().and_then(|tenant| self.parts.tenants.open_tenant(tenant));
        let mut event = Event::new(code, action, call.principal.id().clone(), call.principal.id().to_string());
        call.sign(&mut event);
        event.details = details;
        let intent = self.parts.audit.intent(&home.map_or(Log::Host, Log::Tenant), event).await?;
        let result = effect().await;
        self.note_outcome(call, intent, &result).await;
        result
    }

    /// Runs an effect between an intent and an outcome in a log. When the intent cannot be written, nothing is run.
    pub async fn bracket<A: Action, T>(
        &self,
        call: &Call,
        log: &Log,
        permit: Permit<A>,
        code: &'static str,
        details: Value,
        effect: impl AsyncFnOnce(Permit<A>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let on = permit.resource().to_string();
        self.bracket_on(call, (log, on), permit, code, details, effect).await
    }

    /// The same of what is done to one thing within what the permit is for, such as a principal of a tenant.
    pub async fn bracket_on<A: Action, T>(
        &self,
        call: &Call,
        (log, on): (&Log, String),
        permit: Permit<A>,
        code: &'static str,
        details: Value,
        effect: impl AsyncFnOnce(Permit<A>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut event = Event::new(code, A::NAME, call.principal.id().clone(), on);
        call.sign(&mut event);
        event.decision = Some(permit.decision().clone());
        event.details = details;
        let intent = self.parts.audit.intent(log, event).await.map_err(ApiError::from)?;
        let result = effect(permit).await;
        self.note_outcome(call, intent, &result).await;
        result
    }

    /// Puts on the record that somebody reads what a tenant stored, or bodies of a log, before he does. `what` says which.
    pub async fn reading<A: Action>(
        &self,
        call: &Call,
        log: &Log,
        permit: Permit<A>,
        what: Value,
    ) -> Result<(), ApiError> {
        let mut event =
            Event::new(codes::DATA_READ, A::NAME, call.principal.id().clone(), permit.resource().to_string());
        call.sign(&mut event);
        event.decision = Some(permit.decision().clone());
        event.details = what;
        self.parts.audit.record(log, event).await?;
        Ok(())
    }

    async fn note_outcome<T>(&self, call: &Call, intent: Intent, result: &Result<T, ApiError>) {
        let outcome = match result {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure(error.code.to_owned()),
        };
        // The effect stands: when its outcome cannot be written, the log shows the intent as open, and says so.
        if let Err(error) = intent.outcome(outcome, Value::Null).await {
            tracing::error!(%error, request = %call.request, "an outcome could not be written to the audit log");
        }
        // What was done may have put sessions below the floor of their place.
        self.tell_fallen(call.principal.tenant()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stranger_waits_for_the_hosts_log_and_a_member_is_on_the_tenants() {
        let (store, _dir) = crate::test_store::store().await;
        assert!(matches!(log_of_denial(Some(store.clone()), true), Log::Host));
        assert!(matches!(log_of_denial(None, true), Log::Host));
        assert!(matches!(log_of_denial(Some(store), false), Log::Tenant(_)));
        assert!(matches!(log_of_denial(None, false), Log::Host));
    }

    #[test]
    fn a_token_that_is_not_taken_is_told_nothing_but_what_is_wrong_with_its_proof() {
        for why in [IdentityError::Unauthenticated, IdentityError::Expired, IdentityError::SecondPerson] {
            assert_eq!(unauthenticated(why).code, "unauthenticated");
        }
        assert_eq!(unauthenticated(IdentityError::NonceNeeded).code, ApiError::from(IdentityError::NonceNeeded).code);
    }
}
