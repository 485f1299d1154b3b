//! Labels in rules: what is not named, the next decision, what is remembered, and what is no label of this tenant.

use ringfence_core::proof::act;
use ringfence_core::{HostAct, HostCall, On};

use super::tests::*;
use super::*;

const TRAINED: &str = "@id(\"trained\") forbid (principal is Ringfence::Person, \
    action == Ringfence::Action::\"invoke\", resource) \
    when { resource.classification == \"restricted\" } unless { principal.training.contains(\"gdpr\") };";

fn ada() -> Principal {
    principal("acme/ada", PrincipalKind::Person, Some(Role::Caller), Some("acme"))
}

fn invokes(policy: &Policy, who: &Principal) -> bool {
    policy.permit::<act::Invoke>(who, &plugin("acme", "hello")).is_ok()
}

fn ada_trained_in(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!(
        "{{\"principals\":{{\"acme/ada\":{{\"training\":[{}]}}}},\"plugins\":{{\"hello\":{{\"classification\":\"restricted\"}}}}}}",
        words.join(",")
    )
}

fn refusal(policy: &Policy, text: &str) -> String {
    let before = policy.tenant_policy(&tenant("acme")).unwrap().1;
    let error = policy.set_labels(&tenant("acme"), text).unwrap_err();
    assert!(matches!(error, PolicyError::Labels { .. }), "{error:?}");
    assert_eq!(policy.tenant_policy(&tenant("acme")).unwrap().1, before, "what is refused changes nothing");
    error.to_string()
}

#[test]
fn what_is_not_named_is_internal_for_no_purpose_and_trained_in_nothing() {
    let policy = active();
    let acme = tenant("acme");
    let told = |condition: &str| {
        let text = format!(
            "forbid (principal is Ringfence::Person, action == Ringfence::Action::\"invoke\", resource) when {{ {condition} }};"
        );
        policy.set_tenant_policy(&acme, &text).unwrap();
        !invokes(&policy, &ada())
    };
    for labels in ["{}", "{\"principals\":{\"acme/ada\":{}},\"plugins\":{\"hello\":{}}}"] {
        policy.set_labels(&acme, labels).unwrap();
        assert!(told("resource.classification == \"internal\""), "{labels}");
        assert!(told("resource.purposes.isEmpty()"), "{labels}");
        assert!(told("principal.training.isEmpty() && principal.certifications.isEmpty()"), "{labels}");
        assert!(!told("resource.purposes.contains(\"care\") || principal.training.contains(\"gdpr\")"), "{labels}");
    }
}

#[test]
fn the_next_decision_reads_changed_labels_although_the_last_one_is_remembered() {
    let policy = active();
    let acme = tenant("acme");
    policy.set_tenant_policy(&acme, TRAINED).unwrap();
    assert!(invokes(&policy, &ada()));
    policy.set_labels(&acme, &ada_trained_in(&[])).unwrap();
    for _ in 0..2 {
        let record = denied(policy.permit::<act::Invoke>(&ada(), &plugin("acme", "hello"))).record();
        assert_eq!(record.determining[0].id, "tenant/trained");
    }
    // By name: other plugins, and the plugin of the same name of another tenant, are not restricted.
    assert!(policy.permit::<act::Invoke>(&ada(), &plugin("acme", "other")).is_ok());
    policy.set_labels(&acme, &ada_trained_in(&["first-aid", "gdpr"])).unwrap();
    assert!(invokes(&policy, &ada()));
    policy.set_labels(&acme, &ada_trained_in(&["first-aid"])).unwrap();
    assert!(!invokes(&policy, &ada()));
    policy.set_labels(&acme, "{}").unwrap();
    assert!(invokes(&policy, &ada()));
}

#[test]
fn labels_are_of_one_tenant_alone() {
    let policy = active();
    let beta = tenant("beta");
    policy.set_tenant_policy(&beta, TRAINED).unwrap();
    policy.set_labels(&tenant("acme"), &ada_trained_in(&[])).unwrap();
    let bob = principal("beta/ada", PrincipalKind::Person, Some(Role::Caller), Some("beta"));
    assert!(policy.permit::<act::Invoke>(&bob, &plugin("beta", "hello")).is_ok());
    let words = &policy.shared.checker.words;
    let labels = Labels::parse(&beta, "{\"plugins\":{\"hello\":{\"classification\":\"restricted\"}}}").unwrap();
    let who = Who {
        id: "acme/plugin/hello".parse().unwrap(),
        kind: PrincipalKind::Plugin,
        role: None,
        tenant: Some(tenant("acme")),
        elevated_from: None,
        device: None,
        trust: None,
        scope: None,
    };
    let occasion = Some(Occasion::some(None).unwrap());
    let secret = Resource::Secret { tenant: beta, name: "key".parse().unwrap() };
    let asked = Question { occasion, ..Question::plain(who, HostAct::UseSecret.as_str(), secret) };
    let asked = asked.translate(words, Standing::Active, &labels).unwrap();
    let own = asked.entities.iter().find(|entity| entity.uid().id().unescaped() == "acme/hello").unwrap();
    let cedar_policy::EvalResult::String(classification) = own.attr("classification").unwrap().unwrap() else {
        panic!("no string")
    };
    assert_eq!(classification, "internal");
}

#[test]
fn a_plugin_calls_the_host_as_it_and_the_thing_are_labelled() {
    let policy = active();
    let acme = tenant("acme");
    let text = "forbid (principal, action == Ringfence::Action::\"use-secret\", resource) \
        when { resource.classification == \"restricted\" } unless { principal.purposes.containsAll(resource.purposes) };";
    policy.set_tenant_policy(&acme, text).unwrap();
    let caller = policy
        .host_caller(&acme, &"hello".parse().unwrap(), &service("acme", Role::Caller), "http", Box::new(|| None))
        .unwrap();
    let key: ringfence_core::ResourceName = "key".parse().unwrap();
    let may = || caller.ask(&HostCall { act: HostAct::UseSecret, on: On::Secret(&key) }).is_ok();
    assert!(may());
    let secret = "\"secrets\":{\"key\":{\"classification\":\"restricted\",\"purposes\":[\"billing\"]}}";
    policy.set_labels(&acme, &format!("{{{secret}}}")).unwrap();
    assert!(!may());
    policy
        .set_labels(&acme, &format!("{{{secret},\"plugins\":{{\"hello\":{{\"purposes\":[\"billing\"]}}}}}}"))
        .unwrap();
    assert!(may());
}

#[test]
fn labels_are_tried_on_what_was_asked_and_allow_nothing_new_where_nothing_reads_them() {
    let policy = active();
    let acme = tenant("acme");
    let (restricted, trained) = (ada_trained_in(&[]), ada_trained_in(&["gdpr"]));
    assert!(invokes(&policy, &ada()));
    assert!(policy.review_labels(&acme, &trained, &[]).unwrap().only_narrows);
    policy.set_tenant_policy(&acme, TRAINED).unwrap();
    assert!(invokes(&policy, &ada()));
    let asked = policy.take_asked(&acme).unwrap().asked;
    let review = policy.review_labels(&acme, &restricted, &asked).unwrap();
    assert!(!review.only_narrows, "a statement reads them");
    assert_eq!((review.replay.newly_allowed.questions_count, review.replay.newly_denied.questions_count), (0, 1));
    policy.set_labels(&acme, &restricted).unwrap();
    let review = policy.review_labels(&acme, &trained, &asked).unwrap();
    assert_eq!((review.replay.newly_allowed.questions_count, review.replay.newly_denied.questions_count), (1, 0));
    assert!(policy.review_labels(&acme, &restricted, &asked).unwrap().only_narrows, "they are those in force");
    policy.set_tenant_policy(&acme, "").unwrap();
    policy.set_ceiling(&acme, "forbid (principal, action, resource is Ringfence::Plugin) when { resource[\"purp\\u{6f}ses\"].contains(\"x\") };").unwrap();
    assert!(!policy.review_labels(&acme, &trained, &[]).unwrap().only_narrows, "the ceiling reads one, spelt oddly");
}

#[test]
fn a_condition_on_labels_is_held_to_the_schema() {
    let policy = active();
    let rule = |principal: &str, condition: &str| {
        let text =
            format!("forbid ({principal}, action == Ringfence::Action::\"invoke\", resource) when {{ {condition} }};");
        policy.check_tenant_policy(&tenant("acme"), &text)
    };
    let trained = "!principal.training.contains(\"gdpr\")";
    assert!(rule("principal", trained).is_err(), "not everybody who can ask has a training");
    assert!(rule("principal", "!(principal has training && principal.training.contains(\"gdpr\"))").is_ok());
    assert!(rule("principal is Ringfence::Person", trained).is_ok());
    assert!(rule("principal", "resource.classification == \"restricted\"").is_ok());
    assert!(rule("principal", "resource.classification.contains(\"restricted\")").is_err());
    assert!(rule("principal", "resource.secrecy == \"restricted\"").is_err());
}

#[test]
fn what_is_no_label_of_this_tenant_is_refused_by_its_place() {
    let policy = active();
    for (text, said) in [
        (r#"{"principals":{"beta/ada":{}}}"#, "principals.`beta/ada`: no principal of tenant `acme`"),
        (r#"{"principals":{"acmes/ada":{}}}"#, "principals.`acmes/ada`"),
        (r#"{"principals":{"operator/ada":{}}}"#, "principals.`operator/ada`"),
        (r#"{"principals":{"ada":{}}}"#, "principals.`ada`"),
        (r#"{"principals":{"acme/a b":{}}}"#, "principals.`acme/a b`"),
        (r#"{"principals":{"acme/plugin/Visits":{}}}"#, "principals.`acme/plugin/Visits`"),
        (r#"{"principals":{"acme/ada":{"training":["GDPR"]}}}"#, "principals.`acme/ada`.training: `GDPR` is no label"),
        (r#"{"plugins":{"acme/hello":{}}}"#, "plugins.`acme/hello`"),
        (r#"{"secrets":{"a/b":{}}}"#, "secrets.`a/b`"),
        (r#"{"fields":{"f":{"purposes":[""]}}}"#, "fields.`f`.purposes: `` is no label"),
        (r#"{"plugins":{"hello":{"classification":"secret"}}}"#, "unknown variant `secret`"),
        (r#"{"plugins":{"hello":{"clasification":"public"}}}"#, "unknown field `clasification`"),
        (r#"{"people":{}}"#, "unknown field `people`"),
        ("", "labels: "),
    ] {
        let refused = refusal(&policy, text);
        assert!(refused.contains(said), "{text}: {refused}");
    }
    for text in [r#"{"principals":{"acme/Ada_1":{}}}"#, r#"{"principals":{"acme/plugin/visits":{}}}"#] {
        policy.set_labels(&tenant("acme"), text).unwrap();
    }
}

#[test]
fn labels_are_capped_in_number_on_each_thing_and_in_all() {
    use ringfence_core::limits::{POLICY_LABELLED_COUNT_MAX, POLICY_LABELS_BYTES_MAX, POLICY_LABELS_COUNT_MAX};
    let policy = active();
    let trained_in = |count: usize| {
        let words: Vec<String> = (0..count).map(|n| format!("w{n}")).collect();
        ada_trained_in(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    policy.set_labels(&tenant("acme"), &trained_in(POLICY_LABELS_COUNT_MAX)).unwrap();
    assert!(refusal(&policy, &trained_in(POLICY_LABELS_COUNT_MAX + 1)).contains("training"));
    for kind in ["plugins", "secrets", "fields"] {
        let named = |count: usize| {
            let all: Vec<String> = (0..count).map(|n| format!("\"n{n}\":{{}}")).collect();
            format!("{{\"{kind}\":{{{}}}}}", all.join(","))
        };
        policy.set_labels(&tenant("acme"), &named(POLICY_LABELLED_COUNT_MAX)).unwrap();
        assert!(refusal(&policy, &named(POLICY_LABELLED_COUNT_MAX + 1)).starts_with(kind));
    }
    let padded = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2));
    policy.set_labels(&tenant("acme"), &padded(POLICY_LABELS_BYTES_MAX)).unwrap();
    assert!(refusal(&policy, &padded(POLICY_LABELS_BYTES_MAX + 1)).contains("bytes"));
}

#[test]
fn the_examples_that_are_published_are_taken() {
    let text = include_str!("../../../docs/reference/labels.md");
    let policy = active();
    let fenced = |kind: &str| -> Vec<String> {
        let mark = format!("```{kind}\n");
        let parts = text.split(mark.as_str()).skip(1);
        parts.filter_map(|part| part.split("```").next()).map(str::to_owned).collect()
    };
    let (rules, labels) = (fenced("cedar"), fenced("json"));
    assert_eq!((rules.len(), labels.len()), (5, 1));
    policy.set_labels(&tenant("acme"), &labels[0]).unwrap();
    for rule in &rules {
        let findings = policy.check_tenant_policy(&tenant("acme"), rule).unwrap().findings;
        assert_eq!(findings, Vec::new(), "{rule}");
    }
    policy.set_tenant_policy(&tenant("acme"), &rules.concat()).unwrap();
}

#[test]
fn a_role_of_a_tenants_own_is_a_set_of_acts_within_the_ceiling_and_never_one_of_the_hosts() {
    let policy = active();
    let acme = tenant("acme");
    let text = "@id(\"release-managers\") permit (principal is Ringfence::Person, \
        action in [Ringfence::Action::\"push-version\", Ringfence::Action::\"deploy-version\"], resource) \
        when { principal.roles.contains(\"release-manager\") };";
    policy.set_tenant_policy(&acme, text).unwrap();
    let hello = plugin("acme", "hello");
    let pushes = |who: &Principal| policy.permit::<act::PushVersion>(who, &hello).is_ok();
    assert!(!pushes(&ada()), "who has no such role");
    policy.set_labels(&acme, "{\"principals\":{\"acme/ada\":{\"roles\":[\"release-manager\"]}}}").unwrap();
    assert!(pushes(&ada()) && policy.permit::<act::DeployVersion>(&ada(), &hello).is_ok());
    assert!(policy.permit::<act::GrantCapability>(&ada(), &hello).is_err(), "no more than its acts");
    let bob = principal("acme/bob", PrincipalKind::Person, Some(Role::Caller), Some("acme"));
    let stranger = principal("beta/ada", PrincipalKind::Person, Some(Role::Caller), Some("beta"));
    assert!(!pushes(&bob) && !pushes(&stranger), "nor anybody else");
    let ceiling = "forbid (principal, action == Ringfence::Action::\"push-version\", resource);";
    policy.set_ceiling(&acme, ceiling).unwrap();
    assert!(!pushes(&ada()), "the operator's ceiling stands above it");
    policy.set_ceiling(&acme, "").unwrap();
    policy.set_labels(&acme, "{}").unwrap();
    assert!(!pushes(&ada()), "taken away with the next decision");
    for of_the_host in Role::ALL {
        let text = format!("{{\"principals\":{{\"acme/ada\":{{\"roles\":[\"{of_the_host}\"]}}}}}}");
        assert!(refusal(&policy, &text).contains("is a role of the host"), "{of_the_host}");
    }
}

#[test]
fn who_loses_a_role_gains_by_a_rule_that_holds_it_against_him_and_by_no_other() {
    let policy = active();
    let gains = |effect: &str, condition: &str| {
        let on = "(principal is Ringfence::Person, action == Ringfence::Action::\"invoke\", resource)";
        policy.set_tenant_policy(&tenant("acme"), &format!("{effect} {on} {condition};")).unwrap();
        policy.gains_without_roles(&tenant("acme")).unwrap()
    };
    let has = "principal.roles.contains(\"intern\")";
    for (condition, by_permit, by_forbid) in [
        (format!("when {{ {has} }}"), false, true),
        (format!("unless {{ {has} }}"), true, false),
        (format!("when {{ !{has} }}"), true, false),
        (format!("when {{ !(resource.purposes.isEmpty() || !{has}) }}"), false, true),
        ("when { principal.roles.isEmpty() }".to_owned(), true, false),
        ("when { principal.roles.containsAny([\"intern\", \"guest\"]) }".to_owned(), false, true),
        (format!("when {{ if resource.purposes.isEmpty() then {has} else false }}"), false, true),
        (format!("when {{ if {has} then true else false }}"), true, true),
        (format!("when {{ {has} == false }}"), true, true),
        ("when { principal.purposes.containsAll(principal.roles) }".to_owned(), true, true),
        // A name of an operator as the name of a member hides nothing.
        (format!("when {{ {{ \"!\": {has} }}[\"!\"] }}"), true, true),
        ("when { principal.training.contains(\"roles\") }".to_owned(), false, false),
        (String::new(), false, false),
        // Without the role it denies by failing no more.
        (format!("when {{ {has} && 9223372036854775807 + 1 > 0 }}"), true, true),
    ] {
        assert_eq!((gains("permit", &condition), gains("forbid", &condition)), (by_permit, by_forbid), "{condition}");
    }
    policy.set_tenant_policy(&tenant("acme"), "").unwrap();
    policy.set_ceiling(&tenant("acme"), "forbid (principal is Ringfence::Person, action, resource is Ringfence::Plugin) when { principal.roles.contains(\"intern\") };").unwrap();
    assert!(policy.gains_without_roles(&tenant("acme")).unwrap(), "the operator's ceiling counts");
}

#[test]
fn buckets_have_labels_and_people_have_purposes() {
    let policy = active();
    let acme = tenant("acme");
    let text = "forbid (principal, action == Ringfence::Action::\"write-value\", resource) \
        when { resource.classification == \"restricted\" }; \
        forbid (principal is Ringfence::Person, action == Ringfence::Action::\"invoke\", resource) \
        unless { principal.purposes.containsAll(resource.purposes) };";
    policy.set_tenant_policy(&acme, text).unwrap();
    let caller = policy
        .host_caller(&acme, &"hello".parse().unwrap(), &service("acme", Role::Caller), "http", Box::new(|| None))
        .unwrap();
    let (open, closed): (ringfence_core::ResourceName, ringfence_core::ResourceName) =
        ("open".parse().unwrap(), "closed".parse().unwrap());
    let writes =
        |bucket| caller.ask(&HostCall { act: HostAct::WriteValue, on: On::Value { bucket, key: "k" } }).is_ok();
    assert!(writes(&open) && writes(&closed) && invokes(&policy, &ada()));
    let plugins = "\"plugins\":{\"hello\":{\"purposes\":[\"care\"]}}";
    let labels = format!("{{\"buckets\":{{\"hello/closed\":{{\"classification\":\"restricted\"}}}},{plugins}}}");
    policy.set_labels(&acme, &labels).unwrap();
    assert!(writes(&open) && !writes(&closed), "the bucket that is named, and no other");
    assert!(!invokes(&policy, &ada()));
    let labels = format!("{{\"principals\":{{\"acme/ada\":{{\"purposes\":[\"billing\",\"care\"]}}}},{plugins}}}");
    policy.set_labels(&acme, &labels).unwrap();
    assert!(writes(&closed) && invokes(&policy, &ada()));
    for wrong in ["{\"buckets\":{\"closed\":{}}}", "{\"containers\":{\"hello/\":{}}}", "{\"buckets\":{\"a b/c\":{}}}"] {
        assert!(!refusal(&policy, wrong).is_empty(), "{wrong}");
    }
}
