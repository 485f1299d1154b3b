//! The boundary once more, in Rust: what may never be allowed, whatever Cedar answered.
//!
//! Must never look at a policy text. It is asked after every yes, so a mistake in `boundary.cedar`, in the schema or in
//! the evaluator alone cannot open a way between tenants. INVARIANT: pure, total, and no wider than `boundary.cedar`.

use ringfence_core::{ActClass, HostAct, KeyScope, PrincipalKind, Resource, Role};

use crate::question::Who;

/// What an operator may do to a tenant.
const OPERATOR_ON_TENANT: [&str; 15] = [
    "read-tenant",
    "suspend-tenant",
    "set-quota",
    "set-ceiling",
    "delete-tenant",
    "create-token",
    "read-usage",
    "read-keys",
    "rotate-keys",
    "disable-keys",
    "destroy-keys",
    "read-backup",
    "write-backup",
    "restore-backup",
    "hold-audit",
];
/// What only an operator may do.
pub(crate) const OPERATOR_ALONE: [&str; 9] = [
    "declare-hook",
    "list-tenants",
    "create-tenant",
    "read-host",
    "suspend-tenant",
    "set-quota",
    "set-ceiling",
    "delete-tenant",
    "destroy-keys",
];

/// What makes somebody, brings somebody back, or gives somebody a role, who is held neither to a scope nor to a time.
const MAKERS: [&str; 4] = ["create-token", "write-policy", "approve-change", "restore-backup"];

/// Whether the boundary leaves `who` any way to do this.
pub(crate) fn may_ever(who: &Who, action: &str, resource: &Resource) -> bool {
    who.scope.as_ref().is_none_or(|scope| is_within(scope, action, resource))
        && may_without_scope(who, action, resource)
}

/// Whether this is something that a key is good for.
fn is_within(scope: &KeyScope, action: &str, resource: &Resource) -> bool {
    let reaches = match (&scope.plugins, resource) {
        (None, _) => true,
        (Some(plugins), Resource::Plugin { plugin, .. }) => plugins.contains(plugin),
        (Some(_), _) => false,
    };
    let does =
        scope.classes.as_ref().is_none_or(|classes| ActClass::of(action).is_some_and(|class| classes.contains(&class)));
    reaches && does && !MAKERS.contains(&action)
}

fn may_without_scope(who: &Who, action: &str, resource: &Resource) -> bool {
    match (who.kind, who.role, &who.tenant, resource.tenant()) {
        (PrincipalKind::Anonymous, None, None, Some(_)) => action == "invoke",
        (PrincipalKind::Person | PrincipalKind::Service, Some(Role::Operator), None, None) => true,
        (PrincipalKind::Person | PrincipalKind::Service, Some(Role::Operator), None, Some(_)) => {
            OPERATOR_ON_TENANT.contains(&action)
        }
        (PrincipalKind::Person | PrincipalKind::Service, Some(role), Some(own), Some(other)) => {
            role != Role::Operator
                && own == other
                && !OPERATOR_ALONE.contains(&action)
                && HostAct::of_word(action).is_none()
                // Separation of duties: a role that is held for a while approves nothing, and makes nothing that outlasts it.
                && (!MAKERS.contains(&action) || who.elevated_from.is_none())
        }
        (PrincipalKind::Plugin, None, Some(own), Some(other)) => own == other && HostAct::of_word(action).is_some(),
        _ => false,
    }
}
