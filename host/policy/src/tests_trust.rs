//! Trust scores in rules: absent where there is no session, read anew for each decision that a statement needs one for, and what a
//! denial says of them.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use ringfence_core::proof::act;

use super::tests::*;
use super::*;

const SURE: &str = "@id(\"sure\") forbid (principal is Ringfence::Person, action == Ringfence::Action::\"invoke\", resource) \
    unless { context has trust && context.trust >= 60 };";

const SURER: &str = "forbid (principal is Ringfence::Person, action == Ringfence::Action::\"invoke\", resource) \
    unless { context has trust && context.trust >= 80 };";

/// Where everybody's session stands, and how often anybody asked.
#[derive(Clone, Default)]
struct Told {
    score: Arc<Mutex<Option<u8>>>,
    asked: Arc<AtomicUsize>,
    called: Arc<Mutex<Option<String>>>,
}

impl Told {
    fn say(&self, score: Option<u8>) {
        *self.score.lock().unwrap() = score;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn with_scores(text: &str) -> (Policy, Told) {
    let (policy, told) = (with(Standing::Active, text), Told::default());
    let now = told.clone();
    policy.set_scores(Box::new(move |_, _, called| {
        now.asked.fetch_add(1, Ordering::Relaxed);
        *now.called.lock().unwrap() = called.map(|(tenant, plugin)| format!("{tenant}/{plugin}"));
        *now.score.lock().unwrap()
    }));
    (policy, told)
}

fn ann() -> Principal {
    principal("acme/ann", PrincipalKind::Person, Some(Role::Caller), Some("acme"))
}

fn invokes(policy: &Policy) -> bool {
    policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello")).is_ok()
}

fn acme() -> Resource {
    Resource::Tenant { tenant: tenant("acme") }
}

#[test]
fn only_a_session_that_stands_high_enough_now_is_let_through() {
    let (policy, told) = with_scores(SURE);
    // Twice each: the second answer is one that was remembered.
    for (score, allowed) in [(None, false), (Some(60), true), (Some(59), false), (Some(100), true), (None, false)] {
        told.say(score);
        assert_eq!((invokes(&policy), invokes(&policy)), (allowed, allowed), "{score:?}");
    }
    assert_eq!(told.called.lock().unwrap().as_deref(), Some("acme/hello"), "what is held against a plugin counts");
}

#[test]
fn where_nobody_knows_scores_no_session_has_one() {
    assert!(!invokes(&with(Standing::Active, SURE)));
}

#[test]
fn every_act_of_the_control_plane_and_the_data_plane_can_be_asked_for_a_score() {
    let policy = active();
    for action in act::ACTIONS {
        let text = format!(
            "forbid (principal, action == Ringfence::Action::\"{action}\", resource) when {{ context has trust && context.trust < 60 }};"
        );
        let checked = policy.check_tenant_policy(&tenant("acme"), &text);
        match *action {
            "write-policy" => assert_eq!(checked.unwrap_err(), PolicyError::LocksOut { action: "write-policy" }),
            _ => assert_eq!(checked.unwrap().findings.len(), 0, "{action}"),
        }
    }
    let unasked = "forbid (principal, action == Ringfence::Action::\"invoke\", resource) when { context.trust < 60 };";
    assert!(policy.check_tenant_policy(&tenant("acme"), unasked).is_err(), "not everybody has one");
}

#[test]
fn a_score_is_asked_for_only_for_acts_that_a_statement_reads_it_for() {
    let (policy, told) = with_scores("");
    let admin = service("acme", Role::TenantAdmin);
    assert!(invokes(&policy) && policy.permit::<act::ReadTenant>(&admin, &acme()).is_ok());
    assert_eq!(told.asked(), 0);
    policy.set_tenant_policy(&tenant("acme"), SURE).unwrap();
    assert!(policy.permit::<act::ReadTenant>(&admin, &acme()).is_ok());
    assert_eq!(told.asked(), 0);
    assert!(!invokes(&policy));
    assert_eq!(told.asked(), 1);
    // A ceiling and a candidate in the shadow read it too.
    policy.set_tenant_policy(&tenant("acme"), "").unwrap();
    for change in [Policy::set_ceiling, Policy::set_shadow] {
        let before = told.asked();
        change(&policy, &tenant("acme"), SURE).unwrap();
        invokes(&policy);
        assert_eq!(told.asked(), before + 1);
        policy.set_ceiling(&tenant("acme"), "").unwrap();
    }
}

#[test]
fn nobodys_score_is_asked_for_across_a_border_nor_for_operators() {
    let (policy, told) = with_scores(
        "forbid (principal, action == Ringfence::Action::\"read-tenant\", resource) \
        when { context has trust && context.trust < 60 };",
    );
    told.say(Some(10));
    denied(policy.permit::<act::ReadTenant>(&service("beta", Role::TenantAdmin), &acme()));
    assert!(policy.permit::<act::ReadTenant>(&operator(), &acme()).is_ok());
    assert_eq!(told.asked(), 0);
    denied(policy.permit::<act::ReadTenant>(&service("acme", Role::TenantAdmin), &acme()));
    assert_eq!(told.asked(), 1);
}

#[test]
fn a_policy_under_which_no_score_would_let_an_admin_change_it_is_refused() {
    for condition in [
        "unless { context has trust && context.trust >= 50 }",
        "when { context has trust && context.trust < 50 }",
        "when { context has trust && context.trust < 101 }",
        "when { context has trust && context.trust > 50 }",
        "when { context has trust && context.trust > 0 && context.trust < 100 }",
        "when { context has trust && context.trust == 37 }",
    ] {
        let text = format!("forbid (principal, action, resource) {condition};");
        let error = active().set_tenant_policy(&tenant("acme"), &text).unwrap_err();
        assert_eq!(error, PolicyError::LocksOut { action: "write-policy" }, "{condition}");
    }
}

#[test]
fn a_stored_policy_is_put_into_force_again_though_it_would_not_be_set_now() {
    let text = "forbid (principal, action == Ringfence::Action::\"write-policy\", resource) \
        when { context has trust && context.trust > 10 && context.trust < 90 };";
    // As at a start.
    let (policy, told) = with_scores(text);
    let (acme_id, admin) = (tenant("acme"), service("acme", Role::TenantAdmin));
    for (score, allowed) in [(50, false), (95, true)] {
        told.say(Some(score));
        assert_eq!(policy.permit::<act::WritePolicy>(&admin, &acme()).is_ok(), allowed, "{score}");
    }
    policy.set_shadow(&acme_id, text).unwrap();
    let locks_out = PolicyError::LocksOut { action: "write-policy" };
    assert_eq!(policy.check_tenant_policy(&acme_id, text).unwrap_err(), locks_out);
    assert_eq!(policy.set_tenant_policy(&acme_id, text).unwrap_err(), locks_out);
    let facts = TenantFacts { suspended: Standing::Active };
    policy.upsert_tenant(&acme_id, facts, Some("permit")).unwrap_err();
    assert_eq!(&*policy.tenant_policy(&acme_id).unwrap().0, text);
}

#[test]
fn a_denial_says_where_the_session_stood_and_which_score_would_do() {
    let (policy, told) = with_scores(SURE);
    told.say(Some(40));
    let record = denied(policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello"))).record();
    assert_eq!(record.determining[0].id, "tenant/sure");
    assert!(record.help.contains("a trust score of 60") && record.help.contains("this one has 40"), "{}", record.help);
    let asked = record.asked.unwrap();
    assert_eq!(asked.trust, Some(40));
    let changes = policy.remedies(&asked);
    assert_eq!(changes[0].kind, RemedyKind::Trust, "{changes:?}");
    assert_eq!(changes[0].change, "`acme/ann` does it in a session with a trust score of 60");
    // What does not help is not named.
    policy.set_tenant_policy(&tenant("acme"), &SURE.replace(">= 60", "> 100")).unwrap();
    let record = denied(policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello"))).record();
    assert!(!record.help.contains("trust score"), "{}", record.help);
    assert!(policy.remedies(&record.asked.unwrap()).iter().all(|change| change.kind != RemedyKind::Trust));
}

#[test]
fn a_candidate_is_tried_on_the_scores_that_were_read() {
    let (policy, told) = with_scores(SURE);
    for score in [Some(90), Some(70), Some(20)] {
        told.say(score);
        invokes(&policy);
    }
    let asked = policy.take_asked(&tenant("acme")).unwrap().asked;
    assert_eq!(asked.len(), 3);
    assert_ne!(asked[0].key(), asked[1].key());
    let replay = policy.review(&tenant("acme"), SURER, &asked).unwrap().replay;
    assert_eq!((replay.newly_allowed.questions_count, replay.newly_denied.questions_count), (0, 1));
    assert_eq!(replay.newly_denied.examples[0].trust, Some(70));
    // A record of before there were scores.
    let old = Asked { trust: None, ..asked[0].clone() };
    let text = serde_json::to_value(&old).unwrap();
    assert!(text.get("trust").is_none(), "{text}");
    assert_eq!(serde_json::from_value::<Asked>(text).unwrap(), old);
}

#[test]
fn the_examples_that_are_published_are_taken() {
    tests_devices::takes_the_examples_of(include_str!("../../../docs/reference/trust.md"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_outlives_the_score_that_it_was_given_for(
        changes in prop::collection::vec((prop::option::of(0_u8..=100), 0_usize..6), 1..24)
    ) {
        let (policy, told) = with_scores(SURE);
        for (score, change) in changes {
            // Under one policy for a while, so that answers are remembered.
            if let Some(text) = [SURER, SURE, ""].get(change) {
                policy.set_tenant_policy(&tenant("acme"), text).unwrap();
            }
            told.say(score);
            // Held against all statements, with the score whether or not it was thought to be read.
            let question = Question::plain(Who { trust: score, ..Who::of(&ann()) }, "invoke", plugin("acme", "hello"));
            let known = policy.shared.tenant(&tenant("acme"));
            let fresh = policy.shared.decide(&question, known.as_deref(), false).outcome;
            for _ in 0..2 {
                prop_assert_eq!(invokes(&policy), fresh == Outcome::Allow, "{:?}", score);
            }
        }
    }
}
