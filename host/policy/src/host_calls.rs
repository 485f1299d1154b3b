//! The calls of guests to the host: each is asked here, beside its grant, with the plugin as the principal.
//!
//! Most tenants wrote nothing about them; then the platform's own statement is the answer, and nothing is evaluated. Else an
//! answer is remembered for all calls that differ only in what no statement reads. Must never answer otherwise than all
//! statements together would (`tests_host_calls.rs` asks both), nor hold an answer past a change of the tenant's policies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cedar_policy::{ActionConstraint, EntityUid, Policy as CedarPolicy, PrincipalConstraint};
use ringfence_core::ids::NAME_BYTES_MAX;
use ringfence_core::limits::POLICY_CACHED_HOST_CALLS_COUNT_MAX;
use ringfence_core::{
    DecisionId, HostAct, HostCall, On, PluginName, Principal, PrincipalId, PrincipalKind, Resource, ResourceName,
    TenantId, WordError,
};

use crate::decide::{Shared, TenantState};
use crate::decision::{Denial, Outcome, Ruling};
use crate::occasion::{Occasion, Reads};
use crate::question::{Question, Who};
use crate::recent::Counts;
use crate::text::Form;
use crate::{Policy, Standing};

/// LIMIT: sorts of calls whose counts an invocation keeps at hand; further ones are looked up.
const MARKS_COUNT_MAX: usize = 32;

/// LIMIT: bytes of a method among them.
const MARK_BYTES_MAX: usize = 32;

/// LIMIT: stack of one evaluation, as the deepest text that is taken needs it at most.
const STACK_BYTES: usize = 2 << 20;

/// Tells the trust score of the caller's session as it is now, if it has one.
pub type Trust = Box<dyn Fn() -> Option<u8> + Send + Sync>;

/// One invocation of a plugin, as one that calls the host.
pub struct HostCaller {
    shared: Arc<Shared>,
    tenant: TenantId,
    plugin: PluginName,
    who: Who,
    /// Without what each call adds.
    occasion: Occasion,
    trust: Trust,
    on_behalf_of: Principal,
    marks: Mutex<Vec<(Mark<String>, Arc<Counts>)>>,
}

/// Which host calls statements apply to, and what they read of their occasions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HostReads([Reads; HostAct::ALL.len()]);

/// Answers to host calls of one tenant, good while its state is.
#[derive(Default)]
pub(crate) struct HostCache(RwLock<HashMap<Question, Arc<Ruling>>>);

/// What calls have in common that are counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark<T> {
    act: HostAct,
    scheme: T,
    thing: T,
    port: u16,
    method: T,
    slice: T,
}

// === impl HostReads ===

impl HostReads {
    pub(crate) fn of(policies: &[CedarPolicy], forms: &[Form]) -> Self {
        let mut all = Self::default();
        for (place, policy) in policies.iter().enumerate().filter(|(_, policy)| concerns_plugins(policy)) {
            // One whose place in the text is not known may read anything.
            let reads = forms.get(place).map_or_else(|| Reads::of(&["context"]), |form| form.reads);
            let actions = actions(policy);
            for (act, slot) in HostAct::ALL.iter().zip(all.0.iter_mut()) {
                let names = |uid: &EntityUid| uid.id().unescaped() == act.as_str();
                if actions.as_ref().is_none_or(|all| all.iter().any(names)) {
                    *slot = *slot | reads;
                }
            }
        }
        all
    }

    pub(crate) fn and(self, other: Self) -> Self {
        let mut all = self;
        for (slot, reads) in all.0.iter_mut().zip(other.0) {
            *slot = *slot | reads;
        }
        all
    }

    fn at(&self, act: HostAct) -> Reads {
        let found = HostAct::ALL.iter().zip(self.0).find(|(one, _)| **one == act);
        found.map_or_else(|| Reads::of(&["context"]), |(_, reads)| reads)
    }
}

fn concerns_plugins(policy: &CedarPolicy) -> bool {
    match policy.principal_constraint() {
        PrincipalConstraint::Any => true,
        PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => kind.basename() == "Plugin",
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) => {
            matches!(uid.type_name().basename(), "Plugin" | "Tenant")
        }
    }
}

/// The actions a policy names; none for all.
pub(crate) fn actions(policy: &CedarPolicy) -> Option<Vec<EntityUid>> {
    match policy.action_constraint() {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(uid) => Some(vec![uid]),
        ActionConstraint::In(list) => Some(list),
    }
}

// === impl Policy ===

impl Policy {
    /// An invocation of a plugin, as one that calls the host. `cause` is the word of what began it. Fails for names that are
    /// too long together, which identity does not make principals of either.
    pub fn host_caller(
        &self,
        tenant: &TenantId,
        plugin: &PluginName,
        on_behalf_of: &Principal,
        cause: &str,
        trust: Trust,
    ) -> Result<HostCaller, WordError> {
        let who = Who {
            id: format!("{tenant}/plugin/{plugin}").parse()?,
            kind: PrincipalKind::Plugin,
            role: None,
            tenant: Some(tenant.clone()),
            elevated_from: None,
            device: None,
            trust: None,
            scope: None,
        };
        let caller = self.who(on_behalf_of);
        let occasion = Occasion {
            caller: caller.id,
            role: caller.role,
            trust: None,
            device: None,
            cause: cause.to_owned(),
            name: String::new(),
            method: String::new(),
        };
        Ok(HostCaller {
            shared: Arc::clone(&self.shared),
            tenant: tenant.clone(),
            plugin: plugin.clone(),
            who,
            occasion,
            trust,
            on_behalf_of: on_behalf_of.clone(),
            marks: Mutex::default(),
        })
    }
}

// === impl HostCaller ===

impl HostCaller {
    /// Whether policy leaves the plugin this call now. What was granted is asked elsewhere, before.
    pub fn ask(&self, call: &HostCall<'_>) -> Result<(), Denial> {
        let Some(state) = self.shared.tenant(&self.tenant) else {
            let question = self.question(call, Reads::NOTHING);
            let ruling = on_own_stack(|| self.shared.decide(&question, None, true));
            let ruling = Arc::new(ruling);
            return Err(self.denial(question, ruling, None));
        };
        let reads = state.host.at(call.act);
        // Nothing but the platform's own statements applies, and they say yes to every plugin of a tenant that may work.
        if reads == Reads::NOTHING && state.facts.suspended == Standing::Active {
            self.count(&state, call, Outcome::Allow, || self.question(call, reads));
            if let Some(shadow) = &state.shadow {
                shadow.count(None);
            }
            return Ok(());
        }
        let question = self.question(call, reads);
        let ruling = self.shared.rule_host_call(&question, &state, reads);
        self.count(&state, call, ruling.outcome, || question.clone());
        match ruling.outcome {
            Outcome::Allow => Ok(()),
            Outcome::Deny => Err(self.denial(question, ruling, Some(state))),
        }
    }

    /// The plugin, as a principal.
    pub fn principal(&self) -> &PrincipalId {
        &self.who.id
    }

    /// The question of a call, with all that statements can read.
    #[cfg(test)]
    pub(crate) fn full(&self, call: &HostCall<'_>) -> Question {
        self.question(call, Reads::TRUST | Reads::DEVICE)
    }

    fn question(&self, call: &HostCall<'_>, reads: Reads) -> Question {
        let (name, method) = match call.on {
            On::Value { key: name, .. } | On::Object { name, .. } => (name, ""),
            On::Outside { path, method, .. } | On::Plugin { path, method, .. } => (path, method),
            On::Workflow { workflow, .. } => ("", workflow),
            On::Directory | On::Secret(_) | On::Queue(_) | On::Field(_) => ("", ""),
        };
        let occasion = Occasion {
            name: name.to_owned(),
            method: method.to_owned(),
            // Worth asking for where they are read: the score is made of many signals.
            trust: if reads.has(Reads::TRUST) { (self.trust)() } else { None },
            device: if reads.has(Reads::DEVICE) { self.shared.device_of(&self.on_behalf_of) } else { None },
            ..self.occasion.clone()
        };
        let (who, action) = (self.who.clone(), call.act.as_str());
        Question { occasion: Some(occasion), ..Question::plain(who, action, self.resource(call.on)) }
    }

    fn resource(&self, on: On<'_>) -> Resource {
        let (tenant, plugin) = (self.tenant.clone(), self.plugin.clone());
        match on {
            On::Value { bucket, .. } => Resource::Bucket { tenant, plugin, name: bucket.clone() },
            On::Object { container, .. } => Resource::Container { tenant, plugin, name: container.clone() },
            On::Directory => Resource::Directory { tenant, plugin },
            On::Secret(name) => Resource::Secret { tenant, name: name.clone() },
            On::Outside { scheme, host, port, .. } => {
                Resource::Origin { tenant, scheme: scheme.to_owned(), host: host.to_owned(), port }
            }
            On::Plugin { plugin: of, .. } | On::Workflow { plugin: of, .. } => {
                Resource::Plugin { tenant, plugin: of.clone() }
            }
            On::Queue(name) => Resource::Queue { tenant, name: name.clone() },
            On::Field(name) => match field(name) {
                Ok(field) => Resource::Field { tenant, field },
                // Never asked: no such name is granted. Were one, it would be denied, for a plugin is no field.
                Err(_) => Resource::Plugin { tenant, plugin },
            },
        }
    }

    fn denial(&self, question: Question, ruling: Arc<Ruling>, state: Option<Arc<TenantState>>) -> Denial {
        let decision = DecisionId::random(self.shared.entropy.as_ref());
        Denial::new(decision, question, ruling, state, Arc::clone(&self.shared))
    }

    /// Counts the call with those like it: what a changed policy is tried on.
    fn count(&self, state: &TenantState, call: &HostCall<'_>, outcome: Outcome, question: impl Fn() -> Question) {
        let mark = Mark::of(call);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = marks.iter().position(|(one, _)| one.is(&mark));
        if let Some((_, counts)) = known.and_then(|at| marks.get(at))
            && counts.count(outcome)
        {
            return;
        }
        // New, or taken out meanwhile.
        let Some(counts) = state.recent.register_host_call(&question()) else { return };
        counts.count(outcome);
        let room = marks.len() < MARKS_COUNT_MAX && mark.method.len() <= MARK_BYTES_MAX;
        match known.and_then(|at| marks.get_mut(at)) {
            Some(slot) => slot.1 = counts,
            None if room => marks.push((mark.kept(), counts)),
            None => {}
        }
    }
}

// === impl HostCache ===

#[cfg(test)]
impl HostCache {
    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

// === impl Shared ===

impl Shared {
    /// The ruling on a host call: from the tenant's cache, else from the policies.
    fn rule_host_call(&self, question: &Question, state: &TenantState, reads: Reads) -> Arc<Ruling> {
        let occasion = question.occasion.as_ref().map(|occasion| reads.project(occasion));
        let asked = Question { occasion, ..question.clone() };
        let known = state.host_cache.0.read().unwrap_or_else(PoisonError::into_inner).get(&asked).cloned();
        let ruling = known.unwrap_or_else(|| {
            let ruling = Arc::new(on_own_stack(|| {
                let mut ruling = self.decide(&asked, Some(state), false);
                ruling.shadow = self.would(question, state, ruling.outcome);
                ruling
            }));
            let mut cache = state.host_cache.0.write().unwrap_or_else(PoisonError::into_inner);
            // LIMIT: emptied when full; the answers are cheap enough to be found again.
            if cache.len() >= POLICY_CACHED_HOST_CALLS_COUNT_MAX {
                cache.clear();
            }
            if asked.occasion.as_ref().is_some_and(Occasion::is_short) {
                cache.insert(asked, ruling.clone());
            }
            ruling
        });
        if let Some(shadow) = &state.shadow {
            shadow.count(ruling.shadow);
        }
        ruling
    }
}

// === impl Mark ===

impl<'a> Mark<&'a str> {
    fn of(call: &HostCall<'a>) -> Self {
        let mark = |thing: &'a str| Mark { act: call.act, scheme: "", thing, port: 0, method: "", slice: "" };
        match call.on {
            On::Value { bucket, key } => Mark { slice: Occasion::slice_of(key), ..mark(bucket.as_str()) },
            On::Object { container, name } => Mark { slice: Occasion::slice_of(name), ..mark(container.as_str()) },
            On::Directory => mark(""),
            On::Secret(name) | On::Queue(name) => mark(name.as_str()),
            On::Outside { scheme, host, port, method, path } => {
                Mark { scheme, port, method, slice: Occasion::slice_of(path), ..mark(host) }
            }
            On::Plugin { plugin, method, path } => {
                Mark { method, slice: Occasion::slice_of(path), ..mark(plugin.as_str()) }
            }
            On::Workflow { plugin, workflow } => Mark { method: workflow, ..mark(plugin.as_str()) },
            On::Field(name) => mark(name),
        }
    }

    fn kept(&self) -> Mark<String> {
        let Mark { act, scheme, thing, port, method, slice } = *self;
        let own = str::to_owned;
        Mark { act, scheme: own(scheme), thing: own(thing), port, method: own(method), slice: own(slice) }
    }
}

impl Mark<String> {
    fn is(&self, other: &Mark<&str>) -> bool {
        self.act == other.act
            && self.port == other.port
            && self.thing == other.thing
            && self.slice == other.slice
            && self.method == other.method
            && self.scheme == other.scheme
    }
}

/// Evaluates on a stack of its own. Guests call from their fibers: what is left of such a stack the evaluator cannot know, and
/// it takes that for too little, which is a no.
fn on_own_stack<T>(evaluate: impl FnOnce() -> T) -> T {
    stacker::grow(STACK_BYTES, evaluate)
}

/// A field as policies name it: by the first 63 characters of its name, of which there can be one more.
fn field(name: &str) -> Result<ResourceName, WordError> {
    name.get(..NAME_BYTES_MAX).unwrap_or(name).parse()
}
