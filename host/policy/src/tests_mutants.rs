//! The platform's statements, each taken away and each without one of its conditions: some answer must change. So whatever
//! statement is lost, the tests that hold the answers turn red; a statement that can be lost unseen is none.

use std::sync::LazyLock;

use cedar_policy::{Policy as CedarPolicy, PolicyId};

use super::tests::*;
use super::tests_scopes::{MAKERS, within_the_scope};
use super::*;
use crate::question::Translated;

const BORDER: &str = include_str!("border.cedar");

static POLICY: LazyLock<Policy> = LazyLock::new(active);

/// Every question that fits the schema, in a tenant that works and in one that is suspended.
static ASKED: LazyLock<Vec<(Question, Standing, Translated)>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for standing in [Standing::Active, Standing::Suspended] {
        for question in questions() {
            if let Ok(asked) = question.translate(&POLICY.shared.checker.words, standing, &NO_LABELS) {
                all.push((question, standing, asked));
            }
        }
    }
    all
});

/// Of these, what the border forbids. One that does not fit the schema is refused whatever the policies say.
pub(crate) fn beyond(standing: Standing) -> impl Iterator<Item = (&'static Question, &'static Translated)> {
    ASKED
        .iter()
        .filter(move |(question, stands, _)| *stands == standing && !within_the_border(question, standing))
        .map(|(question, _, asked)| (question, asked))
}

fn allows(asked: &Translated, set: &PolicySet) -> bool {
    POLICY.shared.checker.ask_all(asked, set).outcome == Outcome::Allow
}

/// Whether a statement says anything about a question.
fn applies(asked: &Translated, one: &CedarPolicy) -> bool {
    let set = PolicySet::from_policies([one.clone()]).unwrap();
    let response = cedar_policy::Authorizer::new().is_authorized(&asked.request, &set, &asked.entities);
    response.diagnostics().reason().next().is_some()
}

/// What becomes of one statement: gone, or without one of its conditions.
fn mutants(one: &CedarPolicy) -> Vec<(String, Option<CedarPolicy>)> {
    let mut all = vec![(format!("`{}` is gone", one.id()), None)];
    let json = one.to_json().unwrap();
    for at in 0..json["conditions"].as_array().map_or(0, Vec::len) {
        let mut less = json.clone();
        less["conditions"].as_array_mut().unwrap().remove(at);
        let less = CedarPolicy::from_json(Some(one.id().clone()), less).unwrap();
        all.push((format!("`{}` is without its condition {}", one.id(), at + 1), Some(less)));
    }
    all
}

/// Mutants of a set under which no answer changes, each beside the statements of a tenant; those of a role without the
/// boundary as well, because either wall has to stand alone.
fn survivors(set: &PolicySet, tenants: &[&str]) -> Vec<String> {
    let own: Vec<PolicySet> = tenants.iter().map(|text| text.parse().unwrap()).collect();
    let is_role = |one: &CedarPolicy| one.id().to_string().starts_with("role.");
    let roles = |set: &PolicySet| PolicySet::from_policies(set.policies().filter(|one| is_role(one)).cloned()).unwrap();
    let joined = |set: &PolicySet, own: &PolicySet| {
        let renamed = own.policies().map(|policy| policy.new_id(PolicyId::new(format!("own/{}", policy.id()))));
        PolicySet::from_policies(set.policies().cloned().chain(renamed)).unwrap()
    };
    let mut survivors = Vec::new();
    for one in set.policies() {
        for (name, mutant) in mutants(one) {
            let others = set.policies().filter(|other| other.id() != one.id()).cloned();
            let mutated = PolicySet::from_policies(others.chain(mutant.clone())).unwrap();
            let mut pairs: Vec<_> = own.iter().map(|own| (joined(set, own), joined(&mutated, own))).collect();
            if is_role(one) {
                pairs.push((roles(set), roles(&mutated)));
            }
            // Answers can change only where the statement applies and its mutant does not, or the other way round.
            let seen = ASKED
                .iter()
                .filter(|(_, _, asked)| {
                    applies(asked, one) != mutant.as_ref().is_some_and(|mutant| applies(asked, mutant))
                })
                .any(|(_, _, asked)| pairs.iter().any(|(whole, less)| allows(asked, whole) != allows(asked, less)));
            if !seen {
                survivors.push(name);
            }
        }
    }
    survivors
}

#[test]
fn no_statement_of_the_platform_nor_any_of_its_conditions_can_be_lost_unseen() {
    let set = &POLICY.shared.checker.platform_set;
    let statements: usize = set.policies().map(|one| mutants(one).len()).sum();
    assert!(statements > 25, "{statements}");
    // What it names are acts on tenants alone, or acts that the host's own role has on the host.
    let said_twice = ["`role.operator.tenant` is without its condition 1"];
    assert_eq!(survivors(set, &["", PERMIT_ALL]), said_twice);
}

#[test]
fn no_statement_of_the_border_nor_any_of_its_conditions_can_be_lost_unseen() {
    assert_eq!(survivors(&BORDER.parse().unwrap(), &[""]), Vec::<String>::new());
}

/// The border that proofs are held against, told once more in Rust.
fn border(question: &Question) -> bool {
    if !within_the_scope(question) {
        return false;
    }
    let own = question.resource.tenant().is_some() && question.resource.tenant() == question.who.tenant.as_ref();
    match (question.who.kind, question.who.role) {
        (PrincipalKind::Anonymous, _) => question.action == "invoke",
        (PrincipalKind::Plugin, _) => own,
        (_, Some(Role::Operator)) => {
            question.resource == Resource::Host || within_the_border(question, Standing::Active)
        }
        _ => own && (question.who.elevated_from.is_none() || !MAKERS.contains(&question.action)),
    }
}

#[test]
fn the_border_of_the_proofs_is_the_border_that_is_meant() {
    let set: PolicySet = BORDER.parse().unwrap();
    for (question, standing, asked) in ASKED.iter() {
        assert_eq!(allows(asked, &set), border(question), "{question:?}");
        assert!(border(question) || !within_the_border(question, *standing), "{question:?}");
    }
}

#[test]
fn whatever_the_platform_lets_a_tenant_allow_lies_within_the_border_of_the_proofs() {
    let own: PolicySet = PERMIT_ALL.parse().unwrap();
    let own = own.policies().map(|policy| policy.new_id(PolicyId::new("own")));
    let whole = PolicySet::from_policies(POLICY.shared.checker.platform_set.policies().cloned().chain(own)).unwrap();
    let allowed = ASKED.iter().filter(|(_, _, asked)| allows(asked, &whole));
    let mut count = 0;
    for (question, ..) in allowed {
        assert!(border(question), "{question:?}");
        count += 1;
    }
    assert!(count > 500, "{count}");
}
