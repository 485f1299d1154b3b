//! What each role may do before any tenant's policy, as `roles.cedar` lists it: for reports about roles that are wider than
//! what their holders do.
//!
//! Must never decide: whether something is allowed is asked of the policy as a whole.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, PolicySet};
use ringfence_core::Role;

use crate::{PolicyError, ROLES};

/// The words of the actions that a role of a tenant may do by default; of an operator, those on the host.
pub fn actions_of(role: Role) -> Result<BTreeSet<String>, PolicyError> {
    let platform = |message: String| PolicyError::Platform { message };
    let id = match role {
        Role::Operator => "role.operator.host".to_owned(),
        other => format!("role.{other}"),
    };
    let all: PolicySet = ROLES.parse().map_err(|error| platform(format!("{error}")))?;
    let found = all.policies().find(|policy| policy.annotation("id") == Some(&id));
    let found = found.ok_or_else(|| platform(format!("no policy is called `{id}`")))?;
    let word = |action: cedar_policy::EntityUid| action.id().unescaped().to_owned();
    Ok(match found.action_constraint() {
        ActionConstraint::In(actions) => actions.into_iter().map(word).collect(),
        ActionConstraint::Eq(action) => BTreeSet::from([word(action)]),
        ActionConstraint::Any => BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_its_actions_and_an_admin_has_all_of_a_tenant() {
        let admin = actions_of(Role::TenantAdmin).unwrap();
        for role in Role::ALL {
            let own = actions_of(role).unwrap();
            assert!(own.len() > 3, "{role}: {own:?}");
            assert!(role == Role::Operator || own.is_subset(&admin), "{role}: {:?}", own.difference(&admin));
        }
        assert!(actions_of(Role::Developer).unwrap().contains("push-version"));
        assert!(!actions_of(Role::Developer).unwrap().contains("grant-capability"));
    }
}
