//! What would have allowed a denied question: candidate changes, smallest first, each asked before it is told.
//!
//! Must never name a change that does not help, change anything, or speak of what lies behind another tenant's border.

use cedar_policy::Policy as CedarPolicy;
use ringfence_core::{PrincipalKind, Role};
use serde::{Deserialize, Serialize};

use crate::decide::{TenantState, View};
use crate::decision::Effect;
use crate::host_calls::HostReads;
use crate::index::{ACTIONS_SPREAD_COUNT_MAX, Index};
use crate::labels::NO_LABELS;
use crate::question::{Question, Who, in_cedar};
use crate::recent::Asked;
use crate::scores::TrustReads;
use crate::tenant::{Author, Rules, display_id, effect_of, is_tenants};
use crate::{Policy, Standing, explain};

/// What sort of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemedyKind {
    /// None: it is allowed by now.
    Nothing,
    /// An operator resumes the tenant.
    Resume,
    /// The principal does it from a device that is verified.
    Device,
    /// The principal does it in a session that stands higher.
    Trust,
    /// The principal acts in another role for a while.
    Elevation,
    /// Someone of another role does it.
    Role,
    /// The tenant's policy gets one more statement.
    Statement,
    /// A statement of the tenant's policy gets one more condition, which leaves out just this.
    Exception,
    /// Statements of the tenant's policy go.
    Removal,
    /// The operator lifts the ceiling.
    Ceiling,
}

/// One change after which the question is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// What sort.
    pub kind: RemedyKind,
    /// What to change, in words or as the statement itself.
    pub change: String,
}

impl Policy {
    /// The changes that would allow what was asked, smallest first, under the policies in force now. None when nothing
    /// of these does, and for what is hidden from the principal.
    pub fn remedies(&self, asked: &Asked) -> Vec<Remedy> {
        let Some(question) = asked.question().filter(|question| !question.crosses_tenants()) else { return Vec::new() };
        let state = match question.resource.tenant() {
            Some(tenant) => match self.shared.tenant(tenant) {
                Some(state) => Some(state),
                None => return Vec::new(),
            },
            None => None,
        };
        let nothing = View { standing: Standing::Active, labels: &NO_LABELS, ceiling: None, own: None };
        let view = |role: Option<Role>| state.as_ref().map_or(nothing, |state| state.view(role));
        let own = view(question.who.role);
        if self.shared.allows(&question, own) {
            let change = "nothing: it is allowed by now".to_owned();
            return vec![Remedy { kind: RemedyKind::Nothing, change }];
        }
        let mut remedies = Vec::new();
        if own.standing == Standing::Suspended
            && self.shared.allows(&question, View { standing: Standing::Active, ..own })
        {
            let change = "an operator resumes the tenant".to_owned();
            remedies.push(Remedy { kind: RemedyKind::Resume, change });
        }
        let others = explain::on_verified_devices(&question);
        if let Some(device) =
            others.iter().find(|other| self.shared.allows(other, own)).and_then(|other| other.who.device.as_ref())
        {
            let (who, evidence) = (&question.who.id, &device.evidence);
            let change = format!("`{who}` does it from a device that is verified ({evidence})");
            remedies.push(Remedy { kind: RemedyKind::Device, change });
        }
        if let Some(least) = explain::least_trust(&question, |other| self.shared.allows(other, own)) {
            let change = format!("`{}` does it in a session with a trust score of {least}", question.who.id);
            remedies.push(Remedy { kind: RemedyKind::Trust, change });
        }
        self.by_role(&question, &view, &mut remedies);
        if let Some(state) = state.filter(|_| question.who.role != Some(Role::Operator)) {
            self.by_policy(&question, &state, &mut remedies);
        }
        remedies
    }

    fn by_role<'a>(&self, question: &Question, view: &impl Fn(Option<Role>) -> View<'a>, remedies: &mut Vec<Remedy>) {
        let member = question.who.tenant.is_some()
            && !matches!(question.who.kind, PrincipalKind::Anonymous | PrincipalKind::Plugin);
        let others = explain::alternatives(question);
        if member {
            let elevated = others.iter().filter(|(role, _)| *role != Role::Operator).find(|(role, _)| {
                let who = Who { role: Some(*role), elevated_from: question.who.role, ..question.who.clone() };
                self.shared.allows(&Question { who, ..question.clone() }, view(Some(*role)))
            });
            if let Some((role, _)) = elevated {
                let change =
                    format!("`{}` acts as {role} for a while: ringfence elevation request {role}", question.who.id);
                remedies.push(Remedy { kind: RemedyKind::Elevation, change });
            }
        }
        if let Some((role, _)) = others.iter().find(|(role, other)| self.shared.allows(other, view(Some(*role)))) {
            remedies.push(Remedy { kind: RemedyKind::Role, change: format!("someone with the role {role} does it") });
        }
    }

    fn by_policy(&self, question: &Question, state: &TenantState, remedies: &mut Vec<Remedy>) {
        let view = state.view(question.who.role);
        let own = &state.rules.policies;
        let statement = statement(question);
        if let Some(tenant) = question.resource.tenant()
            && let Ok(added) = self.shared.checker.check(tenant, &statement, Author::Tenant)
        {
            let renamed =
                added.rules.policies.iter().map(|policy| policy.new_id(cedar_policy::PolicyId::new("tenant/added")));
            if self.allowed_with(question, view, own.iter().cloned().chain(renamed)) {
                remedies.push(Remedy { kind: RemedyKind::Statement, change: statement });
            }
        }
        let answer = self.shared.ask(question, view);
        let forbids: Vec<&str> = answer
            .determining
            .iter()
            .filter(|reason| reason.effect == Effect::Forbid && is_tenants(&reason.id))
            .map(|reason| reason.id.as_str())
            .collect();
        let kept = |policy: &&CedarPolicy| {
            effect_of(policy) == Effect::Permit || !forbids.contains(&display_id(policy).as_str())
        };
        if let [one] = forbids.as_slice()
            && let Some(change) = self.exception(question, view, (state, one))
        {
            remedies.push(Remedy { kind: RemedyKind::Exception, change });
        }
        if !forbids.is_empty() && self.allowed_with(question, view, own.iter().filter(kept).cloned()) {
            let change = format!("the tenant's policy without `{}`", forbids.join("`, `"));
            remedies.push(Remedy { kind: RemedyKind::Removal, change });
        }
        if self.shared.allows(question, View { ceiling: None, ..view }) {
            let change = "the operator's ceiling without what forbids it".to_owned();
            remedies.push(Remedy { kind: RemedyKind::Ceiling, change });
        }
    }

    /// The condition that, added to the one statement that forbids, leaves out this principal and thing.
    fn exception(&self, question: &Question, view: View<'_>, (state, forbid): (&TenantState, &str)) -> Option<String> {
        let tenant = question.resource.tenant()?;
        let unless = format!("unless {{ {} }}", exactly(question));
        let forbids = |policy: &CedarPolicy| effect_of(policy) == Effect::Forbid && display_id(policy) == forbid;
        let mut changed = Vec::with_capacity(state.rules.policies.len());
        for policy in &state.rules.policies {
            if !forbids(policy) {
                changed.push(policy.clone());
                continue;
            }
            let text = policy.to_string();
            let text = format!("{} {unless};", text.trim_end().strip_suffix(';')?);
            let checked = self.shared.checker.check(tenant, &text, Author::Tenant).ok()?;
            changed.extend(checked.rules.policies.iter().map(|one| one.new_id(policy.id().clone())));
        }
        let change = format!("`{forbid}` ends with `{unless}`");
        self.allowed_with(question, view, changed.into_iter()).then_some(change)
    }

    fn allowed_with(&self, question: &Question, view: View<'_>, own: impl Iterator<Item = CedarPolicy>) -> bool {
        let policies: Vec<CedarPolicy> = own.collect();
        let Ok(index) = Index::build(&policies, ACTIONS_SPREAD_COUNT_MAX) else { return false };
        let rules = Rules { policies, index, host: HostReads::default(), trust: TrustReads::default() };
        let view = View { own: Some(&rules), ..view };
        self.shared.allows(question, view)
    }
}

/// The narrowest statement that permits a question.
fn statement(question: &Question) -> String {
    let (principal, resource) = (principal(&question.who), in_cedar(&question.resource));
    let when = question.particulars.as_ref().map(|about| format!(" when {{ {} }}", about.condition()));
    let when = when.unwrap_or_default();
    format!("permit ({principal}, action == Ringfence::Action::\"{}\", resource == {resource}){when};", question.action)
}

/// The condition that holds for this principal, action and thing alone.
fn exactly(question: &Question) -> String {
    let (principal, resource) = (principal(&question.who), in_cedar(&question.resource));
    let about = question.particulars.as_ref().map(|about| format!(" && {}", about.condition())).unwrap_or_default();
    format!("{principal} && action == Ringfence::Action::\"{}\" && resource == {resource}{about}", question.action)
}

fn principal(who: &Who) -> String {
    let kind = match who.kind {
        PrincipalKind::Anonymous => return "principal is Ringfence::Anonymous".to_owned(),
        PrincipalKind::Person => "Person",
        PrincipalKind::Service => "Service",
        PrincipalKind::Plugin => "Plugin",
    };
    format!("principal == Ringfence::{kind}::\"{}\"", who.cedar_id())
}
