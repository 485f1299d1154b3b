//! Roles of a tenant's own making, which its labels give: who has which, by whose word, and what there is to see of them. Pure.
//!
//! Must never call one unused whose holder was not watched for as long as the period is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use ringfence_core::{PluginName, PrincipalId, Role};
use ringfence_identity::LAST_USE_SECONDS;

use super::facts::KeptActs;
use super::report::{Holder, Use, smaller_roles};
use crate::policies::labels::{Given, LabelledRole};
use crate::problem::ApiError;
use crate::wire::{AccessFinding, LabelledRoleView};

/// One role of one principal.
#[derive(Debug, Clone)]
pub(super) struct Labelled {
    pub(super) principal: PrincipalId,
    pub(super) role: String,
    /// By whose word, where that is known.
    pub(super) given: Option<Given>,
    /// When its holder last signed in.
    pub(super) used_at: Option<Timestamp>,
    pub(super) state: Use,
    pub(super) whose: Whose,
    /// The role that its holder has from the host, when that allows all that he did.
    unneeded_beside: Option<Role>,
}

/// Who goes by the name that a label has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Somebody who signs in.
    Holder,
    /// A plugin that calls others.
    Plugin,
    /// Nobody now: it waits for whoever is called so.
    Nobody,
}

/// What the roles are judged by.
pub(super) struct Seen<'a> {
    pub(super) holders: &'a [Holder],
    pub(super) acts: &'a [KeptActs],
    pub(super) plugins: &'a BTreeSet<PluginName>,
    /// Since when there is watching, and where the period begins.
    pub(super) since: Option<Timestamp>,
    pub(super) from: Timestamp,
}

/// Judges each role by label, in the order of their holders.
pub(super) fn judge(roles: BTreeMap<LabelledRole, Option<Given>>, seen: &Seen<'_>) -> Result<Vec<Labelled>, ApiError> {
    let mut ways: BTreeMap<&PrincipalId, Vec<&Holder>> = BTreeMap::new();
    for holder in seen.holders {
        ways.entry(&holder.principal).or_default().push(holder);
    }
    let acts: BTreeMap<&PrincipalId, &KeptActs> = seen.acts.iter().map(|acts| (&acts.principal, acts)).collect();
    let of_the_host = smaller_roles()?;
    let judged = roles.into_iter().map(|((principal, role), given)| {
        let ways = ways.get(&principal).map(Vec::as_slice).unwrap_or_default();
        let whose = seen.whose(&principal, !ways.is_empty());
        let used_at = ways.iter().filter_map(|way| way.used_at).max();
        // Plugins do not sign in, and of who has no way in any more it is not known when he last did.
        let since = seen.since.filter(|_| whose == Whose::Holder);
        let state = Use::of(used_at, given.as_ref().map(|given| given.at), since, seen.from);
        let unneeded_beside = match state {
            Use::Used => acts.get(&principal).and_then(|acts| seen.would_do(acts, ways, &of_the_host)),
            _ => None,
        };
        Labelled { principal, role, given, used_at, state, whose, unneeded_beside }
    });
    Ok(judged.collect())
}

/// What somebody should look at.
pub(super) fn findings(
    all: &[Labelled],
    days: u32,
    is_one_owner: impl Fn(&PrincipalId, &PrincipalId) -> bool,
) -> Vec<AccessFinding> {
    let mut found = Vec::new();
    for one in all {
        let (who, role) = (&one.principal, &one.role);
        let mut add = |kind: &str, detail: String| {
            found.push(AccessFinding { kind: kind.to_owned(), subject: who.to_string(), detail });
        };
        if one.whose == Whose::Nobody {
            add("nobody", format!("has the role {role} by label and is nobody here: whoever gets this name has it"));
        }
        if one.state == Use::Unused {
            add("dormant", format!("{role} by label for {days} days without a sign-in"));
        }
        if let Some(own) = one.unneeded_beside {
            let detail = format!("has {role} by label; what it did in {days} days takes no more than {own}");
            add("role-unused", detail);
        }
        if let Some(given) = &one.given
            && is_one_owner(&given.by, who)
            && given.approved_by.as_ref().is_none_or(|by| is_one_owner(by, who))
        {
            add("self-given", format!("{} gave it to himself: {role} by label", given.by));
        }
    }
    found
}

pub(super) fn view(one: Labelled) -> LabelledRoleView {
    LabelledRoleView {
        principal: one.principal.to_string(),
        role: one.role,
        given_by: one.given.as_ref().map(|given| given.by.to_string()),
        given_at: one.given.as_ref().map(|given| given.at.to_string()),
        last_used_at: one.used_at.map(|at| at.to_string()),
        state: one.state.as_str().to_owned(),
        is_somebody: one.whose != Whose::Nobody,
    }
}

impl Labelled {
    /// Whether it is a plugin's, which is nobody who could decide about himself.
    pub(super) fn is_a_plugins(&self) -> bool {
        plugin_of(&self.principal).is_some()
    }
}

impl Seen<'_> {
    fn whose(&self, principal: &PrincipalId, has_a_way_in: bool) -> Whose {
        match plugin_of(principal) {
            Some(plugin) if self.plugins.iter().any(|one| one.as_str() == plugin) => Whose::Plugin,
            None if has_a_way_in => Whose::Holder,
            _ => Whose::Nobody,
        }
    }

    /// The role of one of the ways in that allows everything its holder did within the period; none when it was not watched for long
    /// enough, or nothing was seen of him.
    fn would_do(&self, acts: &KeptActs, ways: &[&Holder], roles: &[(Role, BTreeSet<String>)]) -> Option<Role> {
        let within = |at: &Timestamp| at.as_second().saturating_add(LAST_USE_SECONDS) > self.from.as_second();
        let done: BTreeSet<&String> = acts.acts.iter().filter(|(_, at)| within(at)).map(|(act, _)| act).collect();
        if done.is_empty() || self.since.is_none_or(|at| at > self.from) {
            return None;
        }
        let mut held = roles.iter().filter(|(role, _)| ways.iter().any(|way| way.role == *role));
        held.find(|(_, actions)| done.iter().all(|act| actions.contains(*act))).map(|(role, _)| *role)
    }
}

/// The name of the plugin that calls others under this one.
fn plugin_of(principal: &PrincipalId) -> Option<&str> {
    principal.as_str().split_once('/').and_then(|(_, name)| name.strip_prefix("plugin/"))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{at, holder};
    use super::*;

    fn who(name: &str) -> PrincipalId {
        format!("acme/{name}").parse().unwrap()
    }

    fn given(by: &str, approved_by: Option<&str>) -> Option<Given> {
        Some(Given { by: who(by), approved_by: approved_by.map(who), at: at(1).unwrap() })
    }

    fn judged(of: &str, given: Option<Given>, used: Option<Timestamp>, done: &[&str]) -> Labelled {
        let mut ann = holder("acme/ann", Role::Caller, "acme/admin");
        ann.used_at = used;
        let acts = done.iter().map(|act| ((*act).to_owned(), at(150).unwrap())).collect();
        let acts = [KeptActs { principal: who("ann"), acts }];
        let plugins = BTreeSet::from(["front".parse().unwrap()]);
        let (since, from) = (at(50), at(100).unwrap());
        let seen = Seen { holders: &[ann], acts: &acts, plugins: &plugins, since, from };
        judge(BTreeMap::from([((who(of), "lead".to_owned()), given)]), &seen).unwrap().remove(0)
    }

    fn kinds(one: Labelled) -> Vec<String> {
        findings(&[one], 90, |one, other| one == other).into_iter().map(|found| found.kind).collect()
    }

    #[test]
    fn a_role_is_used_as_its_holder_is_and_unknown_of_whom_nothing_is_watched() {
        assert_eq!(judged("ann", given("bob", None), at(150), &[]).state, Use::Used);
        assert_eq!(judged("ann", None, at(60), &[]).state, Use::Unused);
        assert_eq!(judged("ann", None, None, &[]).state, Use::Unused);
        for (name, whose) in [("plugin/front", Whose::Plugin), ("plugin/gone", Whose::Nobody), ("gone", Whose::Nobody)]
        {
            let one = judged(name, None, None, &[]);
            assert_eq!((one.state, one.whose), (Use::Unknown, whose), "{name}");
        }
    }

    #[test]
    fn what_is_to_be_looked_at_is_found() {
        assert_eq!(kinds(judged("ann", given("bob", None), at(60), &[])), ["dormant"]);
        assert_eq!(kinds(judged("ann", given("ann", None), at(150), &[])), ["self-given"]);
        assert_eq!(kinds(judged("ann", given("ann", Some("ann")), at(150), &[])), ["self-given"]);
        assert!(kinds(judged("ann", given("ann", Some("bob")), at(150), &[])).is_empty(), "another allowed it");
        assert_eq!(kinds(judged("gone", None, None, &[])), ["nobody"]);
        assert!(kinds(judged("plugin/front", given("bob", None), None, &[])).is_empty());
    }

    #[test]
    fn a_role_is_unneeded_when_the_hosts_allows_all_that_was_seen_and_something_was() {
        assert_eq!(kinds(judged("ann", None, at(150), &["send-message"])), ["role-unused"]);
        assert!(kinds(judged("ann", None, at(150), &["send-message", "deploy-version"])).is_empty());
        assert!(kinds(judged("ann", None, at(150), &[])).is_empty(), "that she did nothing here shows nothing");
    }
}
