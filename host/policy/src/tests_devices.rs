//! Devices in rules: absent where none is known, read anew for each decision, and what a denial says of them.

use std::sync::Mutex;

use proptest::prelude::*;
use ringfence_core::proof::act;

use super::tests::*;
use super::*;

const VERIFIED: &str = "@id(\"verified\") forbid (principal is Ringfence::Person, \
    action == Ringfence::Action::\"invoke\", resource) unless { principal has device && principal.device.verified };";

const MEASURED_OR_LOCKED: &str = "forbid (principal is Ringfence::Person, action == Ringfence::Action::\"invoke\", resource) \
    unless { principal has device && principal.device.verified && \
    (principal.device.evidence == \"tpm-quote\" || principal.device.posture.contains(\"screen_lock\")) };";

/// What the host says of everybody's device.
type Told = Arc<Mutex<Option<Device>>>;

fn with_devices(text: &str) -> (Policy, Told) {
    let (policy, told) = (with(Standing::Active, text), Told::default());
    let now = told.clone();
    policy.set_devices(Box::new(move |_| now.lock().unwrap().clone()));
    (policy, told)
}

fn say(told: &Told, device: Option<Device>) {
    *told.lock().unwrap() = device;
}

fn ann() -> Principal {
    principal("acme/ann", PrincipalKind::Person, Some(Role::Caller), Some("acme"))
}

fn invokes(policy: &Policy) -> bool {
    policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello")).is_ok()
}

/// Some states of devices, and none.
fn states() -> Vec<Option<Device>> {
    let with = |change: fn(&mut Device)| {
        laptop(true).map(|mut device| {
            change(&mut device);
            device
        })
    };
    vec![
        None,
        laptop(true),
        laptop(false),
        with(|device| device.evidence = "tpm-quote".to_owned()),
        with(|device| device.posture = ["disk_encrypted".to_owned(), "screen_lock".to_owned()].into()),
        with(|device| device.name = "phone".parse().unwrap()),
    ]
}

#[test]
fn only_a_device_that_is_verified_now_is_let_through() {
    let (policy, told) = with_devices(VERIFIED);
    // Twice each: the second answer is one that was remembered.
    for (device, allowed) in
        [(None, false), (laptop(true), true), (laptop(false), false), (laptop(true), true), (None, false)]
    {
        say(&told, device.clone());
        assert_eq!((invokes(&policy), invokes(&policy)), (allowed, allowed), "{device:?}");
    }
}

#[test]
fn where_nobody_knows_devices_none_is_verified() {
    assert!(!invokes(&with(Standing::Active, VERIFIED)));
}

#[test]
fn operators_and_who_showed_nothing_are_on_no_device() {
    let text = "permit (principal, action == Ringfence::Action::\"invoke\", resource) \
        when { principal has device && principal.device.verified };";
    let (policy, told) = with_devices(text);
    say(&told, laptop(true));
    assert!(policy.permit::<act::ReadHost>(&operator(), &Resource::Host).is_ok());
    for who in [operator(), anonymous()] {
        let record = denied(policy.permit::<act::Invoke>(&who, &plugin("acme", "hello"))).record();
        assert_eq!(record.asked.unwrap().device, None, "{}", who.id());
    }
}

#[test]
fn a_condition_on_devices_is_held_to_the_schema() {
    let policy = active();
    let rule = |principal: &str, condition: &str| {
        let text =
            format!("forbid ({principal}, action == Ringfence::Action::\"invoke\", resource) when {{ {condition} }};");
        policy.check_tenant_policy(&tenant("acme"), &text)
    };
    assert!(rule("principal is Ringfence::Person", "!principal.device.verified").is_err(), "not everybody is on one");
    for principal in ["principal", "principal is Ringfence::Service"] {
        assert!(rule(principal, "principal has device && !principal.device.verified").is_ok(), "{principal}");
    }
    for read in ["evidence == \"none\"", "posture.contains(\"screen_lock\")", "name == \"laptop\""] {
        assert!(rule("principal", &format!("principal has device && principal.device.{read}")).is_ok(), "{read}");
    }
    for wrong in ["kind == \"laptop\"", "verified == \"yes\"", "posture == \"screen_lock\""] {
        assert!(rule("principal", &format!("principal has device && principal.device.{wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn a_policy_under_which_no_admin_without_a_device_could_change_it_is_refused() {
    let (policy, told) = with_devices("");
    say(&told, laptop(true));
    let text = "forbid (principal, action, resource) unless { principal has device && principal.device.verified };";
    let error = policy.set_tenant_policy(&tenant("acme"), text).unwrap_err();
    assert_eq!(error, PolicyError::LocksOut { action: "write-policy" });
}

#[test]
fn a_denial_says_what_the_session_was_on_and_that_a_verified_device_would_do() {
    let (policy, told) = with_devices(VERIFIED);
    for (device, said) in [(None, "shown to be on none"), (laptop(false), "is on `laptop`, which is not verified")] {
        say(&told, device.clone());
        let record = denied(policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello"))).record();
        assert_eq!(record.determining[0].id, "tenant/verified");
        assert!(record.help.contains(said), "{}", record.help);
        let asked = record.asked.unwrap();
        assert_eq!(asked.device, device);
        let changes = policy.remedies(&asked);
        assert_eq!(changes[0].kind, RemedyKind::Device, "{changes:?}");
    }
    // What does not help is not named.
    policy.set_tenant_policy(&tenant("acme"), MEASURED_OR_LOCKED).unwrap();
    say(&told, laptop(true));
    let record = denied(policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello"))).record();
    let changes = policy.remedies(record.asked.as_ref().unwrap());
    assert_eq!(changes[0].change, "`acme/ann` does it from a device that is verified (tpm-quote)");
    policy
        .set_tenant_policy(&tenant("acme"), &VERIFIED.replace("device.verified", "device.name == \"phone\""))
        .unwrap();
    let record = denied(policy.permit::<act::Invoke>(&ann(), &plugin("acme", "hello"))).record();
    assert!(policy.remedies(record.asked.as_ref().unwrap()).iter().all(|change| change.kind != RemedyKind::Device));
}

#[test]
fn a_candidate_is_tried_on_the_devices_that_there_were() {
    let (policy, told) = with_devices("");
    for device in [None, laptop(true)] {
        say(&told, device);
        assert!(invokes(&policy));
    }
    let asked = policy.take_asked(&tenant("acme")).unwrap().asked;
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].key(), asked[1].key());
    let replay = policy.review(&tenant("acme"), VERIFIED, &asked).unwrap().replay;
    assert_eq!((replay.newly_allowed.questions_count, replay.newly_denied.questions_count), (0, 1));
    assert_eq!(replay.newly_denied.examples[0].device, None);
    // A record of before there were devices.
    let old = asked.iter().find(|one| one.device.is_none()).unwrap();
    let text = serde_json::to_value(old).unwrap();
    assert!(text.get("device").is_none(), "{text}");
    assert_eq!(serde_json::from_value::<Asked>(text).unwrap(), *old);
}

/// Takes each rule that a page shows, and all of them together.
pub(crate) fn takes_the_examples_of(text: &str) {
    let policy = active();
    let rules: Vec<&str> = text.split("```cedar\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    assert_eq!(rules.len(), 3);
    for rule in &rules {
        let findings = policy.check_tenant_policy(&tenant("acme"), rule).unwrap().findings;
        assert_eq!(findings, Vec::new(), "{rule}");
    }
    policy.set_tenant_policy(&tenant("acme"), &rules.concat()).unwrap();
}

#[test]
fn the_examples_that_are_published_are_taken() {
    takes_the_examples_of(include_str!("../../../docs/reference/devices.md"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_outlives_the_state_of_the_device_that_it_was_given_for(
        changes in prop::collection::vec((0_usize..6, any::<bool>()), 1..24)
    ) {
        let (policy, told) = with_devices(VERIFIED);
        let states = states();
        for (state, locked) in changes {
            // Both under one policy for a while, so that answers are remembered.
            if locked {
                policy.set_tenant_policy(&tenant("acme"), MEASURED_OR_LOCKED).unwrap();
            }
            say(&told, states[state].clone());
            let who = Who { device: states[state].clone(), ..Who::of(&ann()) };
            let question = Question::plain(who, "invoke", plugin("acme", "hello"));
            let known = policy.shared.tenant(&tenant("acme"));
            let fresh = policy.shared.decide(&question, known.as_deref(), false).outcome;
            for _ in 0..2 {
                prop_assert_eq!(invokes(&policy), fresh == Outcome::Allow, "{:?}", states[state]);
            }
        }
    }
}
