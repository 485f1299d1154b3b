//! What a decision leaves behind: the denial the caller gets and the record `ringfence why` prints.
//!
//! Must never show one tenant's policies to another: a hidden denial looks like a thing that does not exist.

use std::sync::{Arc, OnceLock};

use ringfence_core::{DecisionId, Resource, Role, TenantId};
use serde::{Deserialize, Serialize};

use crate::decide::{Shared, TenantState};
use crate::question::Question;
use crate::recent::{Asked, Counts};

/// The policy of the boundary that holds for suspended tenants.
pub(crate) const SUSPENDED: &str = "boundary.suspended";
/// The policy that no scoped key gets past, whatever it is good for.
pub(crate) const SCOPE_MAKERS: &str = "boundary.scope-makers";
/// The policies that hold who came with a scoped key.
pub(crate) const SCOPE: [&str; 3] = ["boundary.scope", "boundary.scope-operator", SCOPE_MAKERS];

/// How much the caller may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// That it was denied, with the decision id.
    Explained,
    /// Nothing: the answer must be the one for a thing that does not exist.
    Hidden,
}

/// A no. The decision is on record; the caller may be told about it as far as `visible` says.
#[derive(Clone)]
pub struct Denial {
    /// Names the record.
    pub decision: DecisionId,
    /// How much the caller may be told.
    pub visible: Visibility,
    source: Arc<Source>,
}

/// What a denial's record is made of, when somebody wants it.
struct Source {
    question: Question,
    ruling: Arc<Ruling>,
    state: Option<Arc<TenantState>>,
    shared: Arc<Shared>,
}

impl Denial {
    pub(crate) fn new(
        decision: DecisionId,
        question: Question,
        ruling: Arc<Ruling>,
        state: Option<Arc<TenantState>>,
        shared: Arc<Shared>,
    ) -> Self {
        let visible = ruling.visible;
        Self { decision, visible, source: Arc::new(Source { question, ruling, state, shared }) }
    }

    /// Everything that is known about it; for the audit log and `ringfence why`. Costs several decisions the first time.
    pub fn record(&self) -> DecisionRecord {
        let Source { question, ruling, state, shared } = &*self.source;
        let explained = ruling.explained.get_or_init(|| shared.explain(question, state.as_deref(), ruling));
        ruling.record(self.decision.clone(), question, explained)
    }

    /// Whether it was no because the tenant is suspended.
    pub fn is_suspension(&self) -> bool {
        self.source.ruling.determining.iter().any(|reason| reason.id == SUSPENDED)
    }

    /// Whether it was no because of the scope of the key that the principal came with: no change of the tenant's policy helps.
    pub fn is_out_of_scope(&self) -> bool {
        self.source.ruling.determining.iter().any(|reason| SCOPE.contains(&reason.id.as_str()))
    }

    /// The action's word.
    pub fn action(&self) -> &'static str {
        self.source.question.action
    }

    /// What was asked for.
    pub fn resource(&self) -> &Resource {
        &self.source.question.resource
    }
}

impl std::fmt::Debug for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Denial")
            .field("decision", &self.decision)
            .field("visible", &self.visible)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "denied by decision {}", self.decision)
    }
}

impl std::error::Error for Denial {}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// What a policy does when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Allows, unless something forbids.
    Permit,
    /// Forbids, whatever allows.
    Forbid,
}

/// One policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReason {
    /// Its `@id`, or its place in the tenant's text (`tenant/3` is the third).
    pub id: String,
    /// Its `@description`; its own text when it has none.
    pub description: String,
    /// What it does.
    pub effect: Effect,
}

/// Everything about one decision. Has no time: the caller, who has a clock, adds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Its name.
    pub decision: DecisionId,
    /// The action's word.
    pub action: String,
    /// Who asked.
    pub principal: String,
    /// With which role, if any.
    pub role: Option<String>,
    /// For what.
    pub resource: String,
    /// Whose it is; none for the host and for tenants that do not exist.
    /// Who may read the record: [`DecisionRecord::readable_under`].
    pub tenant: Option<TenantId>,
    /// What was answered.
    pub outcome: Outcome,
    /// The policies that decided; empty when no policy allowed it.
    pub determining: Vec<PolicyReason>,
    /// What failed to evaluate; each failure alone is a denial.
    pub errors: Vec<String>,
    /// The weakest role that would have been allowed.
    pub closest: Option<String>,
    /// What to do about it.
    pub help: String,
    /// Which state of the policies answered.
    pub policy_version: u64,
    /// The question itself, to ask it again; none on records older than this field, and for what is too long to be kept.
    #[serde(default)]
    pub asked: Option<Asked>,
}

/// One policy of a checked text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySummary {
    /// Its `@id`, or its place in the text.
    pub id: String,
    /// What it does.
    pub effect: Effect,
}

/// What a check of a policy text found; it would be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    /// Its policies, in order.
    pub policies: Vec<PolicySummary>,
    /// What is taken but probably not meant.
    pub findings: Vec<Finding>,
}

/// What sort of thing was found about a policy text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A permit without any condition.
    AllowAll,
    /// A permit for callers who show nothing.
    OpensToAnonymous,
    /// A policy that can never change an answer.
    Unreachable,
    /// Something else that is worth a look.
    Warning,
}

/// Something that is taken but probably not meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What sort of thing.
    pub kind: FindingKind,
    /// In words, with the policy's id.
    pub text: String,
}

impl DecisionRecord {
    /// What one must be allowed to `read-decision` on to be shown this record: the host for an operator's decision and
    /// for tenants that do not exist, else the tenant.
    pub fn readable_under(&self) -> Resource {
        match &self.tenant {
            Some(tenant) if self.role.as_deref() != Some(Role::Operator.as_str()) => {
                Resource::Tenant { tenant: tenant.clone() }
            }
            _ => Resource::Host,
        }
    }
}

/// The answer to a question, without the id that each asking gets.
#[derive(Debug, Clone)]
pub(crate) struct Ruling {
    pub(crate) outcome: Outcome,
    pub(crate) visible: Visibility,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) determining: Vec<PolicyReason>,
    pub(crate) errors: Vec<String>,
    pub(crate) version: u64,
    /// Filled when somebody asks.
    pub(crate) explained: OnceLock<Explained>,
    /// How often it was asked; none for what is not recorded.
    pub(crate) counts: Option<Arc<Counts>>,
    /// What the candidate in the shadow would have answered, when that is something else.
    pub(crate) shadow: Option<Outcome>,
}

/// Who else could, and what to do about a no.
#[derive(Debug, Clone)]
pub(crate) struct Explained {
    pub(crate) closest: Option<String>,
    pub(crate) help: String,
}

impl Ruling {
    /// The record of one asking.
    fn record(&self, decision: DecisionId, question: &Question, explained: &Explained) -> DecisionRecord {
        DecisionRecord {
            decision,
            action: question.action.to_owned(),
            principal: question.who.id.to_string(),
            role: question.who.role.map(|role| role.as_str().to_owned()),
            resource: question.resource.to_string(),
            tenant: self.tenant.clone(),
            outcome: self.outcome,
            determining: self.determining.clone(),
            errors: self.errors.clone(),
            closest: explained.closest.clone(),
            help: explained.help.clone(),
            policy_version: self.version,
            asked: question.is_short().then(|| Asked::of(question, 0, 1)),
        }
    }
}
