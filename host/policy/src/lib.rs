//! Cedar schema, platform boundary and roles: the only room that mints a Permit, and explains every denial.
//!
//! Must never do I/O, read a clock, or answer yes when anything went wrong: an unknown tenant, an unknown principal and
//! a policy that fails to evaluate are all denials. Third step of both walks: who calls is known, nothing was done yet.
//!
//! What is allowed: `roles.cedar` (the table it makes is `tests/golden/role-matrix.txt`) and the tenant's own policies,
//! as far as `boundary.cedar` and `guard.rs` let them. A tenant's policies are asked only about its own resources, and
//! never about operators. How entities are named in policies: `question.rs`. What of a question is read anew at each decision, the
//! device and the trust score of a session, comes from who knows it (`set_devices`, `set_scores`).
#![forbid(unsafe_code)]

mod answers;
mod change;
mod decide;
mod decision;
mod elevation;
mod error;
mod explain;
mod guard;
mod host_calls;
mod index;
mod labels;
pub mod moved;
mod occasion;
mod particulars;
pub mod prove;
mod question;
mod recent;
mod remedy;
pub mod roles;
mod scores;
mod shadow;
mod stored;
mod structure;
mod tenant;
mod text;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use cedar_policy::{PolicySet, Schema, ValidationMode, Validator};
use ringfence_core::proof::act;
use ringfence_core::{
    Action, Clock, DecisionId, Device, Entropy, Permit, Principal, PrincipalKind, Resource, Role, TenantId,
};

pub use change::{LabelsReview, Replay, Review};
pub use decision::{
    Analysis, DecisionRecord, Denial, Effect, Finding, FindingKind, Outcome, PolicyReason, PolicySummary, Visibility,
};
pub use elevation::Elevation;
pub use error::PolicyError;
pub use host_calls::{HostCaller, Trust};
pub use occasion::Occasion;
pub use particulars::{Approval, Particulars};
pub use recent::{Asked, Taken};
pub use remedy::{Remedy, RemedyKind};
pub use scores::Scores;
pub use shadow::{Differences, EXAMPLES_COUNT_MAX, ShadowReport};
pub use stored::{Piece, StoredPolicy, Unfit};

use answers::Answers;
use decide::{Shared, TenantState, View};
use host_calls::HostReads;
use index::Index;
use labels::{Labels, NO_LABELS};
use question::{Question, Who, Words};
use scores::TrustReads;
use tenant::{Author, Checked, Checker, Rules};

const SCHEMA: &str = include_str!("schema.cedarschema");
const BOUNDARY: &str = include_str!("boundary.cedar");
const ROLES: &str = include_str!("roles.cedar");
/// Tenant names that would make principals look like the platform's.
const RESERVED_TENANTS: [&str; 1] = ["operator"];
/// What a tenant-admin must still be able to do under any policy of its tenant.
const NEVER_LOCKED: &str = "write-policy";

/// Counts changes of policies and tenants; starts anew when the host starts.
pub type PolicyVersion = u64;

/// Tells which device a principal's session is on, as that is at this moment; none where none was shown.
pub type Devices = Box<dyn Fn(&Principal) -> Option<Device> + Send + Sync>;

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
    shared: Arc<Shared>,
}

impl Policy {
    /// Compiles the schema, the platform's boundary and the roles. Knows no tenant yet.
    pub fn new(entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Result<Self, PolicyError> {
        Self::with_platform(entropy, clock, &format!("{BOUNDARY}\n{ROLES}"))
    }

    /// Decides whether `principal` may do `A` to `resource`. Where a request came for it, [`Policy::permit_from`] is asked: here
    /// a session stands as it does where it was opened.
    pub fn permit<A: Action>(&self, principal: &Principal, resource: &Resource) -> Result<Permit<A>, Denial> {
        self.permit_from(principal, None, resource)
    }

    /// Decides whether `principal` may do `A` to `resource`, by a request from an address: a trust score depends on it.
    pub fn permit_from<A: Action>(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        resource: &Resource,
    ) -> Result<Permit<A>, Denial> {
        self.permit_for(principal, from, resource, None)
    }

    /// The same of an act of which rules can read what it is about. Whoever holds the permit does just that.
    pub fn permit_for<A: Action>(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        resource: &Resource,
        particulars: Option<Particulars>,
    ) -> Result<Permit<A>, Denial> {
        // One state for both: what is read of the session, and the statements that it is held against.
        let state = self.shared.state_of(resource);
        let mut who = self.asking(principal);
        // SECURITY: of one's own tenant alone, or the time it takes would tell that there is another with such statements.
        if who.tenant.as_ref() == resource.tenant() && state.as_ref().is_some_and(|state| state.trust.at(A::NAME)) {
            who.trust = self.trust_of(principal, from, (A::NAME, resource));
        }
        let question = Question { particulars, ..Question::plain(who, A::NAME, resource.clone()) };
        let ruling = self.shared.rule_in(&question, state.as_deref());
        let decision = DecisionId::random(self.shared.entropy.as_ref());
        if ruling.outcome == Outcome::Allow {
            #[expect(clippy::disallowed_methods, reason = "this room decides, and here it decided yes")]
            return Ok(Permit::mint(decision, principal.id().clone(), resource.clone()));
        }
        Err(Denial::new(decision, question, ruling, state, Arc::clone(&self.shared)))
    }

    /// Whether somebody who is not here could decide what a run asks for: without a session, or in the best there is. For a second
    /// look at a word that he gave while he was; never a permit.
    pub fn would_allow_absent(&self, principal: &Principal, resource: &Resource, approval: Option<Approval>) -> bool {
        let Some(state) = self.shared.state_of(resource) else { return false };
        let plain = Question::plain(self.asking(principal), act::ApproveRun::NAME, resource.clone());
        let asked = Question { particulars: approval.map(Particulars::Approval), ..plain };
        let view = state.view(asked.who.role);
        let devices = explain::on_verified_devices(&asked);
        !asked.crosses_tenants()
            && std::iter::once(asked).chain(devices).any(|question| {
                let who = Who { trust: Some(100), ..question.who.clone() };
                let trusted = Question { who, ..question.clone() };
                self.shared.allows(&question, view) || self.shared.allows(&trusted, view)
            })
    }

    /// Has rules read devices from who knows them, at each decision. Without it nobody is on a device. The first to come
    /// stays.
    pub fn set_devices(&self, devices: Devices) {
        drop(self.shared.devices.set(devices));
    }

    /// Has rules read trust scores from who knows them, at each decision for which a statement reads one. Without it no session
    /// has any. The first to come stays.
    pub fn set_scores(&self, scores: Scores) {
        drop(self.shared.scores.set(scores));
    }

    /// Whether policy knows this tenant; requests for any other are denied.
    pub fn knows_tenant(&self, tenant: &TenantId) -> bool {
        self.shared.tenant(tenant).is_some()
    }

    /// Makes a tenant known, or changes what is known of it. Without a `policy_text` its policies stay as they are
    /// (none for a new tenant). Fails for what is no policy, and for reserved names; whether a text locks out was judged when it
    /// was set ([`Policy::set_tenant_policy`]), and one that was in force is put into force again.
    pub fn upsert_tenant(
        &self,
        tenant: &TenantId,
        facts: TenantFacts,
        policy_text: Option<&str>,
    ) -> Result<PolicyVersion, PolicyError> {
        Self::check_name(tenant)?;
        let read = |text| self.shared.checker.check(tenant, text, Author::Tenant);
        let checked = policy_text.map(read).transpose()?;
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = tenants.get(tenant).map_or_else(|| self.newcomer(facts), |before| TenantState::clone(before));
        state.facts = facts;
        if let Some(checked) = checked {
            (state.text, state.rules) = (Arc::from(policy_text.unwrap_or_default()), Arc::new(checked.rules));
        }
        let version = self.next_version();
        state.settle(version);
        tenants.insert(tenant.clone(), Arc::new(state));
        Ok(version)
    }

    /// Suspends or resumes a known tenant; its policies stay as they are.
    pub fn set_standing(&self, tenant: &TenantId, standing: Standing) -> Result<PolicyVersion, PolicyError> {
        self.change(tenant, |state| state.facts = TenantFacts { suspended: standing })
    }

    /// Replaces a known tenant's policies; the next decision uses them. An empty text removes them all.
    pub fn set_tenant_policy(&self, tenant: &TenantId, text: &str) -> Result<PolicyVersion, PolicyError> {
        let (rules, _) = self.compile(tenant, text)?;
        self.change(tenant, |state| (state.text, state.rules) = (Arc::from(text), rules))
    }

    /// Replaces the operator's ceiling over a known tenant: policies that only forbid, held against every question to
    /// the tenant before its own.
    pub fn set_ceiling(&self, tenant: &TenantId, text: &str) -> Result<PolicyVersion, PolicyError> {
        let rules = Arc::new(self.shared.checker.check(tenant, text, Author::Operator)?.rules);
        self.change(tenant, |state| (state.ceiling_text, state.ceiling) = (Arc::from(text), rules))
    }

    /// Says what [`Policy::set_ceiling`] would say, and changes nothing.
    pub fn check_ceiling(&self, tenant: &TenantId, text: &str) -> Result<Analysis, PolicyError> {
        self.shared.checker.check(tenant, text, Author::Operator).map(|checked| checked.analysis)
    }

    /// The ceiling's text; none for an unknown tenant.
    pub fn ceiling(&self, tenant: &TenantId) -> Option<Arc<str>> {
        self.shared.tenant(tenant).map(|state| state.ceiling_text.clone())
    }

    /// Replaces who acts in another role for a time.
    pub fn set_elevations(&self, tenant: &TenantId, all: Vec<Elevation>) -> Result<PolicyVersion, PolicyError> {
        self.change(tenant, |state| state.elevations = Arc::from(all))
    }

    /// Replaces a known tenant's labels, as JSON; the next decision reads them. `{}` removes them all. Fails for what is
    /// no labels or speaks of another tenant.
    pub fn set_labels(&self, tenant: &TenantId, text: &str) -> Result<PolicyVersion, PolicyError> {
        let labels = Arc::new(Labels::parse(tenant, text)?);
        self.change(tenant, |state| state.labels = labels)
    }

    /// Says what [`Policy::set_tenant_policy`] would say, and changes nothing.
    pub fn check_tenant_policy(&self, tenant: &TenantId, text: &str) -> Result<Analysis, PolicyError> {
        self.compile(tenant, text).map(|(_, analysis)| analysis)
    }

    /// The tenant's policy text as it was set, and the version it came with; none for an unknown tenant.
    pub fn tenant_policy(&self, tenant: &TenantId) -> Option<(Arc<str>, PolicyVersion)> {
        self.shared.tenant(tenant).map(|state| (state.text.clone(), state.version))
    }

    /// Forgets a tenant; every later request for it is denied as if it had never been.
    pub fn remove_tenant(&self, tenant: &TenantId) {
        self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        self.shared.answers.forget(tenant);
    }

    // === compiling ===

    fn with_platform(entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>, platform: &str) -> Result<Self, PolicyError> {
        Self::compile_platform(platform).map(|checker| Self::over(Arc::new(checker), entropy, clock))
    }

    fn over(checker: Arc<Checker>, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            entropy,
            clock,
            checker,
            tenants: RwLock::default(),
            version: AtomicU64::new(0),
            answers: Answers::default(),
            devices: OnceLock::new(),
            scores: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn compile_platform(platform: &str) -> Result<Checker, PolicyError> {
        let broken = |error: &dyn std::fmt::Display| PolicyError::Platform { message: error.to_string() };
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| broken(&error))?;
        let parsed: PolicySet = platform.parse().map_err(|error| broken(&error))?;
        let mut named = PolicySet::new();
        for policy in parsed.policies() {
            let id = policy.annotation("id").ok_or_else(|| broken(&"a policy has no @id"))?;
            named.add(policy.new_id(cedar_policy::PolicyId::new(id))).map_err(|error| broken(&error))?;
        }
        let validator = Validator::new(schema.clone());
        if let Some(error) = validator.validate(&named, ValidationMode::Strict).validation_errors().next() {
            return Err(broken(error));
        }
        let words = Words::of(schema);
        words.check_forms().map_err(|error| broken(&error))?;
        let platform = Index::build(named.policies(), usize::MAX).map_err(|error| broken(&error))?;
        Ok(Checker { words, validator, platform, platform_set: named })
    }

    fn compile(&self, tenant: &TenantId, text: &str) -> Result<(Arc<Rules>, Analysis), PolicyError> {
        let Checked { rules, analysis } = self.shared.checker.check(tenant, text, Author::Tenant)?;
        let admin = Who {
            id: format!("{tenant}/someone")
                .parse()
                .map_err(|_| PolicyError::Platform { message: "the tenant's name is too long".to_owned() })?,
            kind: PrincipalKind::Service,
            role: Some(Role::TenantAdmin),
            tenant: Some(tenant.clone()),
            elevated_from: None,
            device: None,
            trust: None,
            scope: None,
        };
        // Nobody is trained here, nor on a device, and any score will do: whom the tenant labels, what evidence somebody can get
        // today, and how sessions stand, must not decide whether anybody could change the policies. A rule may ask for any score, so
        // every one is tried where one is asked for.
        let view = View { standing: Standing::Active, labels: &NO_LABELS, ceiling: None, own: Some(&rules) };
        let scores = (0..=100_u8).map(Some).filter(|_| rules.trust.at(NEVER_LOCKED));
        for trust in std::iter::once(None).chain(scores) {
            let who = Who { trust, ..admin.clone() };
            let question = Question::plain(who, NEVER_LOCKED, Resource::Tenant { tenant: tenant.clone() });
            if self.shared.ask(&question, view).outcome == Outcome::Deny {
                return Err(PolicyError::LocksOut { action: NEVER_LOCKED });
            }
        }
        Ok((Arc::new(rules), analysis))
    }

    /// Changes what is known of a known tenant, as a new version.
    fn change(&self, tenant: &TenantId, how: impl FnOnce(&mut TenantState)) -> Result<PolicyVersion, PolicyError> {
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let before = tenants.get(tenant).ok_or_else(|| PolicyError::UnknownTenant { tenant: tenant.to_string() })?;
        let mut state = TenantState::clone(before);
        how(&mut state);
        let version = self.next_version();
        state.settle(version);
        tenants.insert(tenant.clone(), Arc::new(state));
        Ok(version)
    }

    fn newcomer(&self, facts: TenantFacts) -> TenantState {
        TenantState {
            facts,
            text: Arc::from(""),
            rules: Arc::default(),
            ceiling_text: Arc::from(""),
            ceiling: Arc::default(),
            shadow: None,
            elevations: Arc::from([]),
            labels: Arc::default(),
            recent: Arc::default(),
            version: 0,
            host: HostReads::default(),
            host_cache: Arc::default(),
            trust: TrustReads::default(),
        }
    }

    fn next_version(&self) -> PolicyVersion {
        self.shared.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Who asks, in the role it has now.
    fn who(&self, principal: &Principal) -> Who {
        let mut who = Who::of(principal);
        let state = who.tenant.as_ref().and_then(|own| self.shared.tenant(own));
        if let Some(state) = state.filter(|state| !state.elevations.is_empty())
            && let Some(role) = Elevation::role_now(&state.elevations, &who.id, self.shared.clock.now())
        {
            who.elevated_from = who.role.replace(role);
        }
        who
    }

    /// Who asks, and on which device. SECURITY: read for each decision, and part of the question that an answer is
    /// remembered for: one that a device once got is not given to what has become of it.
    fn asking(&self, principal: &Principal) -> Who {
        Who { device: self.shared.device_of(principal), ..self.who(principal) }
    }

    /// Where the session of who asks stands at this moment. SECURITY: part of the question too, so no answer is given to a
    /// session that stands otherwise than the one that got it.
    fn trust_of(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        (action, resource): (&str, &Resource),
    ) -> Option<u8> {
        // What is held against a plugin counts in calls of it.
        let called = match resource {
            Resource::Plugin { tenant, plugin } if action == "invoke" => Some((tenant, plugin)),
            _ => None,
        };
        self.shared.scores.get().and_then(|scores| scores(principal, from, called))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_approvals;
#[cfg(test)]
mod tests_changes;
#[cfg(test)]
mod tests_devices;
#[cfg(test)]
mod tests_host_calls;
#[cfg(test)]
mod tests_labels;
#[cfg(test)]
mod tests_mutants;
#[cfg(test)]
mod tests_particulars;
#[cfg(test)]
mod tests_scopes;
#[cfg(test)]
mod tests_stored;
#[cfg(test)]
mod tests_trust;
