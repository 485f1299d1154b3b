//! What a run asks people for, in rules: by its name, by who began the run, by how long it has waited; and what a denial says of it.

use std::collections::BTreeSet;

use super::tests::*;
use super::*;

const DECIDERS: &str = "@id(\"finance-pays\") \
    forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
    when { context has approval && context.approval.name == \"payment\" } \
    unless { principal is Ringfence::Person && principal.certifications.contains(\"finance\") };\n\
    @id(\"not-ones-own\") \
    forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
    when { context has approval && context.approval.is_own };\n\
    @id(\"slept-over\") \
    forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
    when { context has approval && context.approval.began_by == \"acme/shop\" && context.approval.waited_s < 60 };";

const LABELS: &str = "{\"principals\":{\"acme/fin\":{\"certifications\":[\"finance\"]}}}";

fn admin(name: &str) -> Principal {
    principal(&format!("acme/{name}"), PrincipalKind::Person, Some(Role::TenantAdmin), Some("acme"))
}

fn asked(name: &str, began_by: &str, is_own: bool, waited_s: u64) -> Option<Approval> {
    let began_by = format!("acme/{began_by}").parse().unwrap();
    Some(Approval { name: name.to_owned(), began_by, is_own, waited_s })
}

fn decide(policy: &Policy, who: &str, approval: Option<Approval>) -> Result<Permit<act::ApproveRun>, Denial> {
    policy.permit_for(&admin(who), None, &plugin("acme", "approval"), approval.map(Particulars::Approval))
}

fn ready() -> Policy {
    let policy = with(Standing::Active, DECIDERS);
    policy.set_labels(&tenant("acme"), LABELS).unwrap();
    policy
}

#[test]
fn who_may_decide_depends_on_what_is_asked_by_whose_run_and_since_when() {
    let policy = ready();
    let of = plugin("acme", "approval");
    let cases = [
        ("fin", asked("payment", "ann", false, 0), true),
        ("eve", asked("payment", "ann", false, 0), false),
        ("eve", asked("leave", "ann", false, 0), true),
        ("eve", asked("leave", "eve", true, 0), false),
        ("fin", asked("payment", "fin", true, 0), false),
        ("fin", asked("payment", "shop", false, 59), false),
        ("fin", asked("payment", "shop", false, 60), true),
        // Nothing is asked, so there is nothing to forbid; the run takes no such word.
        ("eve", None, true),
    ];
    // Twice: nothing that was answered to one question is the answer to another.
    for (who, approval, allowed) in cases.iter().chain(&cases) {
        let permit = decide(&policy, who, approval.clone());
        assert_eq!(permit.is_ok(), *allowed, "{who}: {approval:?}");
        assert_eq!(policy.would_allow_absent(&admin(who), &of, approval.clone()), *allowed, "{who}: {approval:?}");
    }
}

#[test]
fn a_denial_says_what_was_asked_and_that_another_may_decide_it_and_is_asked_again_as_it_was() {
    let policy = ready();
    let denial = decide(&policy, "fin", asked("payment", "fin", true, 5)).unwrap_err();
    let record = denial.record();
    let ids: Vec<&str> = record.determining.iter().map(|reason| reason.id.as_str()).collect();
    assert_eq!(ids, ["tenant/not-ones-own"]);
    assert_eq!(record.help, "`acme/fin` began this run, and who began it may not decide `payment`; somebody else may");
    let kept = serde_json::to_string(&record).unwrap();
    let again: DecisionRecord = serde_json::from_str(&kept).unwrap();
    let question = again.asked.as_ref().unwrap();
    assert_eq!(question.about(), "tenant/acme/plugin/approval (payment)");
    assert_eq!(question.particulars, asked("payment", "fin", true, 5).map(Particulars::Approval));
    // Where another could not either, it is not said that he could.
    let denial = decide(&policy, "eve", asked("payment", "eve", true, 5)).unwrap_err();
    assert!(denial.record().help.contains("policy `tenant/finance-pays`"), "{}", denial.record().help);
}

#[test]
fn of_decisions_that_differ_in_how_long_the_run_has_asked_one_stands_for_all() {
    let policy = ready();
    for waited_s in [1, 2] {
        drop(decide(&policy, "fin", asked("payment", "ann", false, waited_s)));
    }
    drop(decide(&policy, "fin", asked("leave", "ann", false, 1)));
    let keys = policy.take_asked(&tenant("acme")).unwrap().asked.iter().map(Asked::key).collect::<BTreeSet<_>>();
    assert_eq!(keys.len(), 2, "{keys:?}");
}

#[test]
fn only_decisions_of_runs_are_asked_with_what_a_run_asks_for() {
    let policy = active();
    let shared = &policy.shared;
    for action in act::ACTIONS {
        let plain = Question::plain(Who::of(&admin("ann")), action, plugin("acme", "approval"));
        let question = Question { particulars: asked("payment", "ann", true, 1).map(Particulars::Approval), ..plain };
        let ruling = shared.rule(&question);
        assert_eq!(ruling.outcome == Outcome::Allow, *action == "approve-run", "{action}");
    }
}
