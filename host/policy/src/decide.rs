//! From a question to a ruling: the platform's policies, the ceiling and the tenant's own, each by its slice.
//!
//! Must never say yes when anything failed, nor let a candidate in the shadow decide.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

#[cfg(test)]
use cedar_policy::{Authorizer, Decision, PolicySet};
use cedar_policy_core::ast;
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use ringfence_core::{Clock, Device, Entropy, Principal, Resource, Role, TenantId};

use crate::answers::Answers;
use crate::decision::{Effect, Explained, Outcome, PolicyReason, Ruling, Visibility};
use crate::elevation::Elevation;
use crate::host_calls::{HostCache, HostReads};
use crate::index::Statement;
use crate::labels::{Labels, NO_LABELS};
use crate::question::{Question, Translated};
use crate::recent::Recent;
use crate::scores::{Scores, TrustReads};
use crate::shadow::Shadow;
use crate::tenant::{self, Checker, Rules};
use crate::{Devices, PolicyVersion, Standing, TenantFacts, explain, guard};

/// What all clones of [`crate::Policy`] share.
pub(crate) struct Shared {
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The same for every room over one platform.
    pub(crate) checker: Arc<Checker>,
    pub(crate) tenants: RwLock<HashMap<TenantId, Arc<TenantState>>>,
    pub(crate) version: AtomicU64,
    /// Answers that hold while the version they came from does.
    pub(crate) answers: Answers,
    /// Who knows devices; nobody until the host says.
    pub(crate) devices: OnceLock<Devices>,
    /// Who knows trust scores; nobody until the host says.
    pub(crate) scores: OnceLock<Scores>,
}

/// A tenant as decisions see it. Replaced as a whole, with a new version.
#[derive(Clone)]
pub(crate) struct TenantState {
    pub(crate) facts: TenantFacts,
    pub(crate) text: Arc<str>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) ceiling_text: Arc<str>,
    pub(crate) ceiling: Arc<Rules>,
    pub(crate) shadow: Option<Arc<Shadow>>,
    pub(crate) elevations: Arc<[Elevation]>,
    /// What the tenant says of its people and things.
    pub(crate) labels: Arc<Labels>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) version: PolicyVersion,
    /// What of all these statements applies to host calls.
    pub(crate) host: HostReads,
    pub(crate) host_cache: Arc<HostCache>,
    /// For which acts they read the trust score of who asks.
    pub(crate) trust: TrustReads,
}

/// What a question is held against, beside the platform's policies.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) standing: Standing,
    pub(crate) labels: &'a Labels,
    pub(crate) ceiling: Option<&'a Rules>,
    pub(crate) own: Option<&'a Rules>,
}

/// What the policies alone answered.
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) determining: Vec<PolicyReason>,
    pub(crate) errors: Vec<String>,
}

impl TenantState {
    /// A tenant's policies neither help nor hinder operators: a tenant must not be able to forbid its suspension.
    pub(crate) fn view(&self, role: Option<Role>) -> View<'_> {
        let (standing, labels) = (self.facts.suspended, &*self.labels);
        match role {
            Some(Role::Operator) => View { standing, labels, ceiling: None, own: None },
            _ => View { standing, labels, ceiling: Some(&self.ceiling), own: Some(&self.rules) },
        }
    }

    /// Makes what was changed a new state: nothing that was worked out from the old one stays.
    pub(crate) fn settle(&mut self, version: PolicyVersion) {
        let shadow = self.shadow.as_ref().map(|shadow| &*shadow.rules);
        self.host = self.rules.host.and(self.ceiling.host).and(shadow.map(|rules| rules.host).unwrap_or_default());
        let rules = [Some(&*self.rules), Some(&*self.ceiling), shadow];
        self.trust = TrustReads::all(rules.into_iter().flatten().map(|rules| &rules.trust));
        self.host_cache = Arc::default();
        self.version = version;
    }
}

impl Shared {
    pub(crate) fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantState>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    /// The device that a principal's session is on at this moment. Of operators there are none: whose word about devices counts, a
    /// tenant says.
    pub(crate) fn device_of(&self, principal: &Principal) -> Option<Device> {
        principal.tenant().and_then(|_| self.devices.get()).and_then(|devices| devices(principal))
    }

    /// The state of the tenant that a thing is of; none for the host, and for a tenant that does not exist.
    pub(crate) fn state_of(&self, resource: &Resource) -> Option<Arc<TenantState>> {
        resource.tenant().and_then(|tenant| self.tenant(tenant))
    }

    /// The ruling on a question under the state of its resource's tenant: from the cache while it holds, else from the
    /// policies.
    pub(crate) fn rule_in(&self, question: &Question, state: Option<&TenantState>) -> Arc<Ruling> {
        let own = question.who.tenant.as_ref();
        let stranger = own.is_some_and(|own| question.resource.tenant() != Some(own) && self.tenant(own).is_none());
        let exists = state.is_some() || question.resource.tenant().is_none();
        let version = state.map_or(0, |state| state.version);
        let hidden = !exists || stranger || question.crosses_tenants();
        if !hidden
            && let Some(ruling) = self.answers.get(question).filter(|ruling| ruling.version == version)
            && counted(&ruling, state)
        {
            return ruling;
        }
        let mut ruling = self.decide(question, state, hidden);
        if let Some(state) = state.filter(|_| !hidden && question.who.role != Some(Role::Operator)) {
            self.observe(question, state, &mut ruling);
        }
        let ruling = Arc::new(ruling);
        // SECURITY: what must stay hidden is worked out each time, so that a thing of another tenant and a thing that
        // does not exist take the same time.
        // What has particulars is asked by few and seldom twice alike, and may be long.
        if !hidden && question.particulars.is_none() {
            self.answers.put(question, &ruling);
        }
        ruling
    }

    #[cfg(test)]
    pub(crate) fn rule(&self, question: &Question) -> Arc<Ruling> {
        self.rule_in(question, self.state_of(&question.resource).as_deref())
    }

    pub(crate) fn decide(&self, question: &Question, state: Option<&TenantState>, hidden: bool) -> Ruling {
        // SECURITY: for a stranger the platform's policies alone are asked, as where there is no such tenant: a tenant's own, of
        // which none can give him anything, would take time.
        let mut answer = self.ask(question, view_of(state.filter(|_| !hidden), question.who.role));
        if answer.outcome == Outcome::Allow
            && (hidden || !guard::may_ever(&question.who, question.action, &question.resource))
        {
            // Cedar said yes where there is no way to: the second wall holds, and the record shows that the first did not.
            if !hidden {
                answer.errors.push("the platform's boundary forbids what a policy allowed".to_owned());
            }
            answer.outcome = Outcome::Deny;
        }
        Ruling {
            outcome: answer.outcome,
            visible: if hidden { Visibility::Hidden } else { Visibility::Explained },
            tenant: state.and(question.resource.tenant()).cloned(),
            determining: answer.determining,
            errors: answer.errors,
            version: state.map_or(0, |state| state.version),
            explained: OnceLock::new(),
            counts: None,
            shadow: None,
        }
    }

    /// Who else could, and what to do about it, under the state that a ruling came from. Told when somebody asks: it costs
    /// several decisions.
    pub(crate) fn explain(&self, question: &Question, state: Option<&TenantState>, ruling: &Ruling) -> Explained {
        if ruling.visible == Visibility::Hidden {
            let help = "for this principal the thing does not exist; check the name and the tenant".to_owned();
            return Explained { closest: None, help };
        }
        let closest = explain::alternatives(question)
            .into_iter()
            .find(|(role, other)| self.allows(other, view_of(state, Some(*role))))
            .map(|(role, _)| role);
        let view = view_of(state, question.who.role);
        let device_helps = explain::on_verified_devices(question).iter().any(|other| self.allows(other, view));
        let least_trust = explain::least_trust(question, |other| self.allows(other, view));
        let another_helps = explain::by_another(question).is_some_and(|other| self.allows(&other, view));
        let helps = (closest, device_helps, least_trust, another_helps);
        let help = explain::help(question, &ruling.determining, &ruling.errors, helps);
        Explained { closest: closest.map(|role| format!("role {role} may {}", question.action)), help }
    }

    /// Registers a fresh ruling with what the tenant was asked lately, and asks the candidate in the shadow beside it.
    fn observe(&self, question: &Question, state: &TenantState, ruling: &mut Ruling) {
        ruling.counts = state.recent.register(question);
        ruling.shadow = self.would(question, state, ruling.outcome);
        counted(ruling, Some(state));
    }

    /// What the candidate in the shadow would have answered, when there is one and that is something else.
    pub(crate) fn would(&self, question: &Question, state: &TenantState, outcome: Outcome) -> Option<Outcome> {
        let shadow = state.shadow.as_ref()?;
        let view = View { own: Some(&shadow.rules), ..state.view(question.who.role) };
        let would = if self.allows(question, view) { Outcome::Allow } else { Outcome::Deny };
        if would == outcome {
            return None;
        }
        shadow.example(question, would);
        Some(would)
    }

    /// Whether both walls let a question through.
    pub(crate) fn allows(&self, question: &Question, view: View<'_>) -> bool {
        self.ask(question, view).outcome == Outcome::Allow
            && guard::may_ever(&question.who, question.action, &question.resource)
    }

    /// Asks Cedar. SECURITY: yes only when nothing failed: Cedar skips a policy that fails to evaluate, even a forbid.
    pub(crate) fn ask(&self, question: &Question, view: View<'_>) -> Answer {
        match question.translate(&self.checker.words, view.standing, view.labels) {
            Ok(translated) => self.checker.ask(&translated, [view.ceiling, view.own]),
            Err(error) => Answer { outcome: Outcome::Deny, determining: Vec::new(), errors: vec![error] },
        }
    }
}

impl Checker {
    /// Asks the slices of the platform's policies and of `others`, and puts their answers together: a forbid anywhere
    /// or a failure anywhere is a no, else a permit anywhere is a yes.
    pub(crate) fn ask(&self, asked: &Translated, others: [Option<&Rules>; 2]) -> Answer {
        let indexes = std::iter::once(&self.platform).chain(others.into_iter().flatten().map(|rules| &rules.index));
        let request = AsRef::<ast::Request>::as_ref(&asked.request).clone();
        let evaluator = Evaluator::new(request, asked.entities.as_ref(), Extensions::all_available());
        let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for Statement { policy, condition } in indexes.flat_map(|index| index.slice(&asked.place)) {
            match condition.holds(&evaluator) {
                Ok(false) => {}
                Ok(true) if tenant::effect_of(policy) == Effect::Forbid => forbids.push(policy),
                Ok(true) => permits.push(policy),
                Err(error) => errors.push(format!("error while evaluating policy `{}`: {error}", policy.id())),
            }
        }
        let allowed = forbids.is_empty() && errors.is_empty() && !permits.is_empty();
        let decisive = if forbids.is_empty() { permits } else { forbids };
        // A yes is not explained to anybody, so its reasons are not spelt out.
        let mut determining: Vec<PolicyReason> =
            if allowed { Vec::new() } else { decisive.into_iter().map(reason).collect() };
        determining.sort_by(|a, b| a.id.cmp(&b.id));
        Answer { outcome: if allowed { Outcome::Allow } else { Outcome::Deny }, determining, errors }
    }

    /// Asks one set, whole: what [`Checker::ask`] must be equal to.
    #[cfg(test)]
    pub(crate) fn ask_all(&self, asked: &Translated, set: &PolicySet) -> Answer {
        let response = Authorizer::new().is_authorized(&asked.request, set, &asked.entities);
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        let allowed = response.decision() == Decision::Allow && errors.is_empty();
        let reasons = response.diagnostics().reason().filter_map(|id| set.policy(id)).map(reason);
        let mut determining: Vec<PolicyReason> = if allowed { Vec::new() } else { reasons.collect() };
        determining.sort_by(|a, b| a.id.cmp(&b.id));
        Answer { outcome: if allowed { Outcome::Allow } else { Outcome::Deny }, determining, errors }
    }
}

fn view_of(state: Option<&TenantState>, role: Option<Role>) -> View<'_> {
    match state {
        Some(state) => state.view(role),
        None => View { standing: Standing::Active, labels: &NO_LABELS, ceiling: None, own: None },
    }
}

fn reason(policy: &cedar_policy::Policy) -> PolicyReason {
    PolicyReason {
        id: tenant::display_id(policy),
        description: tenant::describe(policy),
        effect: tenant::effect_of(policy),
    }
}

/// Counts one asking; false when the question must be registered anew.
fn counted(ruling: &Ruling, state: Option<&TenantState>) -> bool {
    if ruling.counts.as_ref().is_some_and(|counts| !counts.count(ruling.outcome)) {
        return false;
    }
    // Operators are not asked about under a tenant's policies, and have no counts.
    if let (Some(_), Some(shadow)) = (&ruling.counts, state.and_then(|state| state.shadow.as_ref())) {
        shadow.count(ruling.shadow);
    }
    true
}
