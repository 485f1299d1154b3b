//! Why it was no, and what to do about it: the words of `ringfence why`.
//!
//! Must never change a decision; it reads one that was taken.

use std::collections::BTreeSet;

use ringfence_core::{Device, PrincipalId, PrincipalKind, Resource, ResourceName, Role, device};

use crate::decision::{Effect, PolicyReason, SCOPE, SCOPE_MAKERS, SUSPENDED};
use crate::particulars::{Approval, Particulars};
use crate::question::{Question, Who, in_cedar};
use crate::tenant::{is_ceilings, is_tenants};

/// Roles from the weakest to the strongest inside a tenant, then the operator.
const WEAKEST_FIRST: [Role; 5] = [Role::Caller, Role::Auditor, Role::Developer, Role::TenantAdmin, Role::Operator];

/// The same question by someone of each other role, weakest first, with a key of no scope; for who has a scope, of his own role
/// too. None for plugins, which have no role.
pub(crate) fn alternatives(question: &Question) -> Vec<(Role, Question)> {
    if question.who.kind == PrincipalKind::Plugin {
        return Vec::new();
    }
    let ask = |role: Role| {
        let tenant = match role {
            Role::Operator => None,
            _ => Some(question.resource.tenant()?.clone()),
        };
        // The same name, so that what a policy says about this very principal still holds; anonymous callers have none.
        let id = match (question.who.kind, &tenant) {
            (PrincipalKind::Anonymous, Some(tenant)) => format!("{tenant}/someone").parse::<PrincipalId>().ok()?,
            (PrincipalKind::Anonymous, None) => "operator/someone".parse::<PrincipalId>().ok()?,
            _ => question.who.id.clone(),
        };
        let (device, trust) = (question.who.device.clone(), question.who.trust);
        let (kind, role_of, elevated_from, scope) = (PrincipalKind::Service, Some(role), None, None);
        let who = Who { id, kind, role: role_of, tenant, elevated_from, device, trust, scope };
        Some((role, Question { who, ..question.clone() }))
    };
    let is_other = |role: &Role| Some(*role) != question.who.role || question.who.scope.is_some();
    WEAKEST_FIRST.into_iter().filter(is_other).filter_map(ask).collect()
}

/// The same question from a device that is verified, by each sort of evidence. None for those who have no sessions, and so
/// no devices.
pub(crate) fn on_verified_devices(question: &Question) -> Vec<Question> {
    let has_sessions = matches!(question.who.kind, PrincipalKind::Person | PrincipalKind::Service)
        && question.who.tenant.is_some()
        && question.who.plugin_name().is_empty();
    let Some(name) = "device".parse::<ResourceName>().ok().filter(|_| has_sessions) else { return Vec::new() };
    let now = question.who.device.clone();
    let unknown = Device { name, verified: false, evidence: String::new(), posture: BTreeSet::new() };
    let device = now.clone().unwrap_or(unknown);
    [device::POSTURE, device::TPM_QUOTE]
        .into_iter()
        .map(|evidence| Some(Device { verified: true, evidence: evidence.to_owned(), ..device.clone() }))
        .filter(|better| *better != now)
        .map(|device| Question { who: Who { device, ..question.who.clone() }, ..question.clone() })
        .collect()
}

/// The least trust score above the session's own with which a question would be allowed. None where no statement reads it.
pub(crate) fn least_trust(question: &Question, allows: impl Fn(&Question) -> bool) -> Option<u8> {
    let now = question.who.trust?;
    let at = |trust: u8| Question { who: Who { trust: Some(trust), ..question.who.clone() }, ..question.clone() };
    // Most denials have other reasons, and one question tells.
    if !allows(&at(100)) {
        return None;
    }
    (now.saturating_add(1)..=100).find(|trust| allows(&at(*trust)))
}

/// The same question of a run that somebody else began; none of a run that somebody else did begin, and of what is no run.
pub(crate) fn by_another(question: &Question) -> Option<Question> {
    let approval = question.approval().filter(|approval| approval.is_own)?;
    let particulars = Some(Particulars::Approval(Approval { is_own: false, ..approval.clone() }));
    Some(Question { particulars, ..question.clone() })
}

/// What to do about a denial: `closest` is the weakest role that could, `device_helps` whether a verified device would,
/// `least_trust` with which trust score it would be allowed, `another_helps` whether it would be had another begun the run.
pub(crate) fn help(
    question: &Question,
    determining: &[PolicyReason],
    errors: &[String],
    (closest, device_helps, least_trust, another_helps): (Option<Role>, bool, Option<u8>, bool),
) -> String {
    let tenant = question.resource.tenant().map(ToString::to_string).unwrap_or_default();
    if !errors.is_empty() {
        return "it could not be evaluated, which is always a no; the errors say where".to_owned();
    }
    if determining.iter().any(|reason| reason.id == SUSPENDED) {
        return format!("tenant `{tenant}` is suspended; an operator can run `ringfence tenant resume {tenant}`");
    }
    if let Some(scope) =
        question.who.scope.as_ref().filter(|_| determining.iter().any(|one| SCOPE.contains(&one.id.as_str())))
    {
        let key = closest.map_or_else(|| "one".to_owned(), |role| format!("a `{role}` key"));
        let kind = match determining.iter().any(|one| one.id == SCOPE_MAKERS) {
            true => "without a scope",
            false => "that is good for it",
        };
        return format!("the key of this session is good for {scope} alone; sign in with {key} {kind}");
    }
    if let Some(approval) = question.approval().filter(|_| another_helps) {
        let Approval { name, began_by, .. } = approval;
        return format!("`{began_by}` began this run, and who began it may not decide `{name}`; somebody else may");
    }
    if device_helps {
        let now = match &question.who.device {
            None => "this session's key was shown to be on none".to_owned(),
            Some(device) if device.verified => {
                format!("this session is on `{}`, verified by `{}` alone", device.name, device.evidence)
            }
            Some(device) => format!("this session is on `{}`, which is not verified now", device.name),
        };
        return format!(
            "from a device that is verified it is allowed, and {now}; evidence goes to POST /api/v1/zero-trust/device-verification"
        );
    }
    if let (Some(least), Some(now)) = (least_trust, question.who.trust) {
        return format!(
            "in a session with a trust score of {least} it is allowed, and this one has {now}; `ringfence trust score` says why"
        );
    }
    if let Some(own) = determining.iter().find(|reason| reason.effect == Effect::Forbid && is_tenants(&reason.id)) {
        return format!("policy `{}` of tenant `{tenant}` forbids it; a tenant-admin can change it", own.id);
    }
    if let Some(ceiling) = determining.iter().find(|reason| is_ceilings(&reason.id)) {
        return format!("the operator's ceiling `{}` over tenant `{tenant}` forbids it", ceiling.id);
    }
    match (question.who.kind, question.who.role, closest) {
        (PrincipalKind::Anonymous, _, _) if question.action == "invoke" => format!(
            "sign in with a key of tenant `{tenant}`, or a tenant-admin can open it to everyone: permit (principal, action == Ringfence::Action::\"invoke\", resource == {});",
            in_cedar(&question.resource)
        ),
        (PrincipalKind::Anonymous, _, _) => "sign in first: `ringfence login`".to_owned(),
        (_, Some(Role::Operator), Some(role)) => {
            format!("operators see no tenant's data; sign in with a `{role}` key of tenant `{tenant}`")
        }
        (_, _, Some(Role::Operator)) => "only an operator of this host can do it".to_owned(),
        (_, _, Some(role)) => {
            format!(
                "sign in with a `{role}` key of tenant `{tenant}`, or a tenant-admin can permit it in the tenant's policy"
            )
        }
        (_, _, None) if matches!(question.resource, Resource::Host) => "nobody may do this on the host".to_owned(),
        (_, _, None) => "no role may do this here; check the name of the thing".to_owned(),
    }
}
