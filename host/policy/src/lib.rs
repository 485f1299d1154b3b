//! Cedar schema, platform boundary and roles: the only room that mints a Permit, and explains every denial.
//!
//! Must never do I/O, read a clock, or answer yes when anything went wrong: an unknown tenant, an unknown principal and
//! a policy that fails to evaluate are all denials. Third step of both walks: who calls is known, nothing was done yet.
//!
//! What is allowed: `roles.cedar` (the table it makes is `tests/golden/role-matrix.txt`) and the tenant's own policies,
//! as far as `boundary.cedar` and `guard.rs` let them. A tenant's policies are asked only about its own resources, and
//! never about operators. How entities are named in policies: `question.rs`.
#![forbid(unsafe_code)]

mod decision;
mod error;
mod explain;
mod guard;
mod question;
mod tenant;
mod text;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{Authorizer, Decision, PolicySet, Schema, ValidationMode, Validator};
use ringfence_core::limits::POLICY_CACHED_COUNT_MAX;
use ringfence_core::{Action, DecisionId, Entropy, Permit, Principal, PrincipalKind, Resource, Role, TenantId};

pub use decision::{Analysis, DecisionRecord, Denial, Effect, Outcome, PolicyReason, PolicySummary, Visibility};
pub use error::PolicyError;

use decision::Ruling;
use question::{Question, Who};
use tenant::{Checked, Checker};

const SCHEMA: &str = include_str!("schema.cedarschema");
const BOUNDARY: &str = include_str!("boundary.cedar");
const ROLES: &str = include_str!("roles.cedar");
/// Tenant names that would make principals look like the platform's.
const RESERVED_TENANTS: [&str; 1] = ["operator"];
/// What a tenant-admin must still be able to do under any policy of its tenant.
const NEVER_LOCKED: &str = "write-policy";

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
    shared: Arc<Shared>,
}

struct Shared {
    entropy: Arc<dyn Entropy>,
    checker: Checker,
    /// The platform's policies alone: for the host, for operators, and for tenants without policies.
    platform: Arc<PolicySet>,
    tenants: RwLock<HashMap<TenantId, Arc<TenantState>>>,
    version: AtomicU64,
    /// Answers that hold while the version they came from does. INVARIANT: an answer depends on the question and on
    /// the state of the resource's tenant alone, since policies see neither time nor anything else that changes.
    cache: RwLock<HashMap<Question, Arc<Ruling>>>,
}

struct TenantState {
    facts: TenantFacts,
    text: Arc<str>,
    policies: Arc<PolicySet>,
    version: PolicyVersion,
}

impl Policy {
    /// Compiles the schema, the platform's boundary and the roles. Knows no tenant yet.
    pub fn new(entropy: Arc<dyn Entropy>) -> Result<Self, PolicyError> {
        Self::with_platform(entropy, &format!("{BOUNDARY}\n{ROLES}"))
    }

    /// Decides whether `principal` may do `A` to `resource`.
    pub fn permit<A: Action>(&self, principal: &Principal, resource: &Resource) -> Result<Permit<A>, Denial> {
        let question = Question { who: Who::of(principal), action: A::NAME, resource: resource.clone() };
        let ruling = self.rule(&question);
        let decision = DecisionId::random(self.shared.entropy.as_ref());
        if ruling.outcome == Outcome::Allow {
            #[expect(clippy::disallowed_methods, reason = "this room decides, and here it decided yes")]
            return Ok(Permit::mint(decision, principal.id().clone(), resource.clone()));
        }
        let record = Box::new(ruling.record(decision.clone(), &question));
        Err(Denial { decision, visible: ruling.visible, record })
    }

    /// Whether policy knows this tenant; requests for any other are denied.
    pub fn knows_tenant(&self, tenant: &TenantId) -> bool {
        self.tenant(tenant).is_some()
    }

    /// Makes a tenant known, or changes what is known of it. Without a `policy_text` its policies stay as they are
    /// (none for a new tenant). Fails like [`Policy::set_tenant_policy`], and for reserved names.
    pub fn upsert_tenant(
        &self,
        tenant: &TenantId,
        facts: TenantFacts,
        policy_text: Option<&str>,
    ) -> Result<PolicyVersion, PolicyError> {
        if RESERVED_TENANTS.contains(&tenant.as_str()) {
            return Err(PolicyError::Reserved { tenant: tenant.to_string() });
        }
        let compiled = policy_text.map(|text| self.compile(tenant, text)).transpose()?;
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let (text, policies) = match (compiled, tenants.get(tenant)) {
            (Some((text, policies, _)), _) => (text, policies),
            (None, Some(before)) => (before.text.clone(), before.policies.clone()),
            (None, None) => (Arc::from(""), self.shared.platform.clone()),
        };
        let version = self.next_version();
        tenants.insert(tenant.clone(), Arc::new(TenantState { facts, text, policies, version }));
        Ok(version)
    }

    /// Suspends or resumes a known tenant; its policies stay as they are.
    pub fn set_standing(&self, tenant: &TenantId, standing: Standing) -> Result<PolicyVersion, PolicyError> {
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let before = tenants.get(tenant).ok_or_else(|| PolicyError::UnknownTenant { tenant: tenant.to_string() })?;
        let (text, policies, version) = (before.text.clone(), before.policies.clone(), self.next_version());
        tenants.insert(
            tenant.clone(),
            Arc::new(TenantState { facts: TenantFacts { suspended: standing }, text, policies, version }),
        );
        Ok(version)
    }

    /// Replaces a known tenant's policies; the next decision uses them. An empty text removes them all.
    pub fn set_tenant_policy(&self, tenant: &TenantId, text: &str) -> Result<PolicyVersion, PolicyError> {
        let (text, policies, _) = self.compile(tenant, text)?;
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let facts = tenants.get(tenant).ok_or_else(|| PolicyError::UnknownTenant { tenant: tenant.to_string() })?.facts;
        let version = self.next_version();
        tenants.insert(tenant.clone(), Arc::new(TenantState { facts, text, policies, version }));
        Ok(version)
    }

    /// Says what [`Policy::set_tenant_policy`] would say, and changes nothing.
    pub fn check_tenant_policy(&self, tenant: &TenantId, text: &str) -> Result<Analysis, PolicyError> {
        self.compile(tenant, text).map(|(_, _, analysis)| analysis)
    }

    /// The tenant's policy text as it was set, and the version it came with; none for an unknown tenant.
    pub fn tenant_policy(&self, tenant: &TenantId) -> Option<(Arc<str>, PolicyVersion)> {
        self.tenant(tenant).map(|state| (state.text.clone(), state.version))
    }

    /// Forgets a tenant; every later request for it is denied as if it had never been.
    pub fn remove_tenant(&self, tenant: &TenantId) {
        self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    // === compiling ===

    fn with_platform(entropy: Arc<dyn Entropy>, platform: &str) -> Result<Self, PolicyError> {
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
        let checker = Checker { schema, validator, authorizer: Authorizer::new(), platform: named.clone() };
        let shared = Shared {
            entropy,
            checker,
            platform: Arc::new(named),
            tenants: RwLock::default(),
            version: AtomicU64::new(0),
            cache: RwLock::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn compile(&self, tenant: &TenantId, text: &str) -> Result<(Arc<str>, Arc<PolicySet>, Analysis), PolicyError> {
        let Checked { joined, analysis } = self.shared.checker.check(tenant, text)?;
        let policies = if analysis.policies.is_empty() { self.shared.platform.clone() } else { Arc::new(joined) };
        let admin = Who {
            id: format!("{tenant}/someone")
                .parse()
                .map_err(|_| PolicyError::Platform { message: "the tenant's name is too long".to_owned() })?,
            kind: PrincipalKind::Service,
            role: Some(Role::TenantAdmin),
            tenant: Some(tenant.clone()),
        };
        let question =
            Question { who: admin, action: NEVER_LOCKED, resource: Resource::Tenant { tenant: tenant.clone() } };
        let answer = self.shared.ask(&question, &policies, Standing::Active);
        if answer.outcome == Outcome::Deny {
            return Err(PolicyError::LocksOut { action: NEVER_LOCKED });
        }
        Ok((Arc::from(text), policies, analysis))
    }

    fn next_version(&self) -> PolicyVersion {
        self.shared.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantState>> {
        self.shared.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    // === deciding ===

    /// The ruling on a question: from the cache while it holds, else from the policies.
    fn rule(&self, question: &Question) -> Arc<Ruling> {
        let state = question.resource.tenant().map(|tenant| self.tenant(tenant));
        let stranger = question.who.tenant.as_ref().is_some_and(|own| !self.knows_tenant(own));
        let exists = !matches!(state, Some(None));
        let state = state.flatten();
        let version = state.as_ref().map_or(0, |state| state.version);
        let hidden = !exists || stranger || question.crosses_tenants();
        if !hidden {
            let cache = self.shared.cache.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(ruling) = cache.get(question).filter(|ruling| ruling.version == version) {
                return ruling.clone();
            }
        }
        let ruling = Arc::new(self.shared.decide(question, state.as_deref(), hidden));
        // SECURITY: what must stay hidden is worked out each time, so that a thing of another tenant and a thing that
        // does not exist take the same time.
        if !hidden {
            let mut cache = self.shared.cache.write().unwrap_or_else(PoisonError::into_inner);
            // LIMIT: emptied when full; the answers are cheap enough to be found again.
            if cache.len() >= POLICY_CACHED_COUNT_MAX {
                cache.clear();
            }
            cache.insert(question.clone(), ruling.clone());
        }
        ruling
    }
}

/// What the policies alone answered.
struct Answer {
    outcome: Outcome,
    determining: Vec<PolicyReason>,
    errors: Vec<String>,
}

impl Shared {
    fn decide(&self, question: &Question, state: Option<&TenantState>, hidden: bool) -> Ruling {
        let standing = state.map_or(Standing::Active, |state| state.facts.suspended);
        // A tenant's policies neither help nor hinder operators: a tenant must not be able to forbid its suspension.
        let policies_for = |role: Option<Role>| match state {
            Some(state) if role != Some(Role::Operator) => state.policies.as_ref(),
            _ => self.platform.as_ref(),
        };
        let mut answer = self.ask(question, policies_for(question.who.role), standing);
        if answer.outcome == Outcome::Allow
            && (hidden || !guard::may_ever(&question.who, question.action, &question.resource))
        {
            // Cedar said yes where there is no way to: the second wall holds, and the record shows that the first did not.
            if !hidden {
                answer.errors.push("the platform's boundary forbids what a policy allowed".to_owned());
            }
            answer.outcome = Outcome::Deny;
        }
        let mut ruling = Ruling {
            outcome: answer.outcome,
            visible: if hidden { Visibility::Hidden } else { Visibility::Explained },
            tenant: state.and(question.resource.tenant()).cloned(),
            determining: answer.determining,
            errors: answer.errors,
            closest: None,
            help: String::new(),
            version: state.map_or(0, |state| state.version),
        };
        if hidden {
            "for this principal the thing does not exist; check the name and the tenant".clone_into(&mut ruling.help);
        } else if ruling.outcome == Outcome::Deny {
            let closest = explain::alternatives(question).into_iter().find(|(role, other)| {
                let answer = self.ask(other, policies_for(Some(*role)), standing);
                answer.outcome == Outcome::Allow && guard::may_ever(&other.who, other.action, &other.resource)
            });
            let closest = closest.map(|(role, _)| role);
            ruling.help = explain::help(question, &ruling.determining, &ruling.errors, closest);
            ruling.closest = closest.map(|role| format!("role {role} may {}", question.action));
        }
        ruling
    }

    /// Asks Cedar. SECURITY: yes only when nothing failed: Cedar skips a policy that fails to evaluate, even a forbid.
    fn ask(&self, question: &Question, policies: &PolicySet, standing: Standing) -> Answer {
        // Only the resource's tenant is looked at; nobody of another tenant gets past the boundary, whatever it is.
        let (request, entities) = match question.translate(&self.checker.schema, |_| standing) {
            Ok(translated) => translated,
            Err(error) => return Answer { outcome: Outcome::Deny, determining: Vec::new(), errors: vec![error] },
        };
        let response = self.checker.authorizer.is_authorized(&request, policies, &entities);
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        let mut determining: Vec<PolicyReason> = response
            .diagnostics()
            .reason()
            .filter_map(|id| policies.policy(id))
            .map(|policy| PolicyReason {
                id: tenant::display_id(policy),
                description: tenant::describe(policy),
                effect: tenant::effect_of(policy),
            })
            .collect();
        determining.sort_by(|a, b| a.id.cmp(&b.id));
        let allowed = response.decision() == Decision::Allow && errors.is_empty();
        Answer { outcome: if allowed { Outcome::Allow } else { Outcome::Deny }, determining, errors }
    }
}

#[cfg(test)]
mod tests;
