//! What can be seen of a policy text without asking it anything: permits without a condition, policies that never apply.
//!
//! Must never decide; what it finds is told to whoever changes a policy.

use std::collections::BTreeSet;

use cedar_policy::{
    ActionConstraint, Effect, EntityTypeName, EntityUid, Policy as CedarPolicy, PrincipalConstraint, ResourceConstraint,
};
use serde_json::Value;

use crate::decision::{Finding, FindingKind};
use crate::guard;
use crate::labels;
use crate::tenant::display_id;
use crate::text::Form;

/// LIMIT: most unconditional forbids that every permit is compared with.
const FORBIDS_COMPARED_COUNT_MAX: usize = 64;
/// Parts of Cedar's JSON form that can fail when they are evaluated.
const CAN_FAIL: [&str; 8] =
    ["\"+\":", "\"-\":", "\"*\":", "\"neg\":", "\"decimal\":", "\"ip\":", "\"datetime\":", "\"duration\":"];

/// What can become of an expression when somebody loses a role by label.
#[derive(Clone, Copy)]
struct Course {
    /// It can come to be false.
    falls: bool,
    /// It can come to be true.
    rises: bool,
}

/// One side of a scope.
#[derive(PartialEq, Eq)]
enum Side {
    Any,
    Type(EntityTypeName),
    Entity(EntityUid),
}

struct Scope {
    principal: Side,
    /// None for every action.
    actions: Option<BTreeSet<EntityUid>>,
    resource: Side,
}

/// Everything that is found.
pub(crate) fn findings(policies: &[CedarPolicy], forms: &[Form]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let forbids: Vec<(Scope, &CedarPolicy)> = policies
        .iter()
        .filter(|policy| policy.effect() == Effect::Forbid && !policy.has_non_scope_constraint())
        .take(FORBIDS_COMPARED_COUNT_MAX)
        .map(|policy| (scope(policy), policy))
        .collect();
    let mut seen = BTreeSet::new();
    for (place, policy) in policies.iter().enumerate() {
        let (id, scope) = (display_id(policy), scope(policy));
        if forms.get(place).is_some_and(|form| !seen.insert(form.bare.as_str())) {
            findings.push(unreachable(format!("`{id}` says what another statement says already")));
        }
        if policy.effect() == Effect::Forbid {
            continue;
        }
        let open = scope.principal == Side::Any && scope.actions.is_none() && scope.resource == Side::Any;
        if open && !policy.has_non_scope_constraint() {
            let text = format!("`{id}` allows everything that the boundary lets anyone of the tenant do");
            findings.push(Finding { kind: FindingKind::AllowAll, text });
        }
        if scope.actions.as_ref().is_some_and(|actions| actions.iter().all(is_the_platforms)) {
            findings.push(unreachable(format!("`{id}` permits what only operators may ever do")));
        } else if let Some((_, forbid)) = forbids.iter().find(|(forbid, _)| covers(forbid, &scope)) {
            let by = display_id(forbid);
            findings.push(unreachable(format!("`{id}` never applies: `{by}` forbids all of what it permits")));
        }
    }
    findings
}

/// Whether `new` allows nothing that `old` did not, as far as the texts alone can show it: no permit was added, no
/// forbid taken away, and nothing was taken away that denied by failing.
pub(crate) fn only_narrows(old: &[CedarPolicy], new: &[CedarPolicy]) -> bool {
    let (old_permits, new_permits) = (set(old, Effect::Permit), set(new, Effect::Permit));
    widening(old, new).is_empty() && !old_permits.difference(&new_permits).any(|gone| text_can_fail(gone))
}

/// The statements through which `new` can allow what `old` did not: permits that are new, and forbids that are gone.
pub(crate) fn widening<'a>(old: &'a [CedarPolicy], new: &'a [CedarPolicy]) -> Vec<&'a CedarPolicy> {
    let (permitted, forbidden) = (set(old, Effect::Permit), set(new, Effect::Forbid));
    let permits = new.iter().filter(|policy| policy.effect() == Effect::Permit && !permitted.contains(&bare(policy)));
    let forbids = old.iter().filter(|policy| policy.effect() == Effect::Forbid && !forbidden.contains(&bare(policy)));
    permits.chain(forbids).collect()
}

/// Whether a statement may fail when it is evaluated; one that cannot be looked into may.
pub(crate) fn can_fail(policy: &CedarPolicy) -> bool {
    text_can_fail(&bare(policy))
}

fn text_can_fail(bare: &str) -> bool {
    CAN_FAIL.iter().any(|part| bare.contains(part))
}

fn set(policies: &[CedarPolicy], effect: Effect) -> BTreeSet<String> {
    policies.iter().filter(|policy| policy.effect() == effect).map(bare).collect()
}

/// A policy in one form, without its annotations. One that has no such form is equal to no other.
fn bare(policy: &CedarPolicy) -> String {
    match policy.to_json() {
        Ok(mut json) => {
            if let Some(fields) = json.as_object_mut() {
                fields.remove("annotations");
            }
            json.to_string()
        }
        Err(_) => format!("{} {policy} \"+\":", policy.id()),
    }
}

/// Whether a statement may read a label; one that cannot be looked into may. A word of the same spelling counts as well.
pub(crate) fn reads_labels(policy: &CedarPolicy) -> bool {
    match policy.to_json() {
        Ok(json) => {
            let json = json.to_string();
            labels::ATTRIBUTES.iter().any(|attribute| json.contains(attribute))
        }
        Err(_) => true,
    }
}

/// Whether somebody who loses a role by label can get something by it through this statement, as far as its text shows: a forbid
/// that asks for the role, a permit that asks for its absence, and what cannot be looked into.
pub(crate) fn gains_without_roles(policy: &CedarPolicy) -> bool {
    let Ok(json) = policy.to_json() else { return true };
    let conditions = json.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let course = conditions.fold(Course::STILL, |course, condition| {
        let body = condition.get("body").map_or(Course::ANY, course_of);
        course.or(if condition.get("kind").and_then(Value::as_str) == Some("unless") { body.turned() } else { body })
    });
    let gains = if policy.effect() == Effect::Permit { course.rises } else { course.falls };
    // What denied by failing may not be reached any more.
    gains || ((course.falls || course.rises) && can_fail(policy))
}

impl Course {
    const STILL: Self = Self { falls: false, rises: false };
    const ANY: Self = Self { falls: true, rises: true };

    fn or(self, other: Self) -> Self {
        Self { falls: self.falls || other.falls, rises: self.rises || other.rises }
    }

    fn turned(self) -> Self {
        Self { falls: self.rises, rises: self.falls }
    }
}

/// What can become of an expression of Cedar's JSON form, `{"&&": {"left": .., "right": ..}}`; of an operator that is not known here,
/// anything.
fn course_of(expression: &Value) -> Course {
    let one = expression.as_object().filter(|entries| entries.len() == 1);
    let Some((operator, parts)) = one.and_then(|entries| entries.iter().next()) else { return Course::ANY };
    let of = |name: &str| parts.get(name).map_or(Course::ANY, course_of);
    let is_still = |name: &str| parts.get(name).is_some_and(|part| !reads_roles(part));
    match operator.as_str() {
        "&&" | "||" => of("left").or(of("right")),
        "!" => of("arg").turned(),
        "if-then-else" if is_still("if") => of("then").or(of("else")),
        "contains" | "containsAll" | "containsAny" if parts.get("left").is_some_and(is_roles) && is_still("right") => {
            Course { falls: true, rises: false }
        }
        "isEmpty" if parts.get("arg").is_some_and(is_roles) => Course { falls: false, rises: true },
        _ if reads_roles(expression) => Course::ANY,
        _ => Course::STILL,
    }
}

/// Whether this is the set of roles itself.
fn is_roles(expression: &Value) -> bool {
    let read = expression.get(".").filter(|read| read.get("attr").and_then(Value::as_str) == Some("roles"));
    read.and_then(|read| read.get("left")).is_some_and(|of| !reads_roles(of))
}

/// Whether roles are read anywhere in it.
fn reads_roles(expression: &Value) -> bool {
    match expression {
        Value::Object(parts) => {
            let here = parts.get(".").and_then(|read| read.get("attr")).and_then(Value::as_str) == Some("roles");
            here || parts.values().any(reads_roles)
        }
        Value::Array(parts) => parts.iter().any(reads_roles),
        _ => false,
    }
}

fn unreachable(text: String) -> Finding {
    Finding { kind: FindingKind::Unreachable, text }
}

fn is_the_platforms(action: &EntityUid) -> bool {
    guard::OPERATOR_ALONE.contains(&action.id().unescaped())
}

fn covers(wide: &Scope, narrow: &Scope) -> bool {
    let actions = match (&wide.actions, &narrow.actions) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => narrow.is_subset(wide),
    };
    // A tenant's policies are asked about its own things only, and all of them are in it.
    let whole_tenant = matches!(&wide.resource, Side::Entity(uid) if uid.type_name().basename() == "Tenant");
    actions
        && side_covers(&wide.principal, &narrow.principal)
        && (whole_tenant || side_covers(&wide.resource, &narrow.resource))
}

fn side_covers(wide: &Side, narrow: &Side) -> bool {
    match (wide, narrow) {
        (Side::Any, _) => true,
        (Side::Type(wide), Side::Entity(narrow)) => wide == narrow.type_name(),
        (wide, narrow) => wide == narrow,
    }
}

fn scope(policy: &CedarPolicy) -> Scope {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::Any => Side::Any,
        PrincipalConstraint::Is(name) => Side::Type(name),
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
            Side::Entity(uid)
        }
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::Any => Side::Any,
        ResourceConstraint::Is(name) => Side::Type(name),
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
            Side::Entity(uid)
        }
    };
    let actions = match policy.action_constraint() {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(action) => Some(BTreeSet::from([action])),
        ActionConstraint::In(list) => Some(list.into_iter().collect()),
    };
    Scope { principal, actions, resource }
}
