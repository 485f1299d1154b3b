//! Keys that are good for less than their holder's role: what they hold, whatever a policy permits, and what `why` says of it.

use std::collections::BTreeSet;

use ringfence_core::proof::act;
use ringfence_core::{ActClass, KeyScope, PluginName};

use super::tests::*;
use super::*;
use crate::decision::SCOPE;

/// What makes, brings back or raises somebody who is held to nothing.
pub(crate) const MAKERS: [&str; 4] = ["create-token", "write-policy", "approve-change", "restore-backup"];

/// A scope of some classes, of some plugins, or of both.
fn scope(classes: &[ActClass], plugins: &[&str]) -> Option<Arc<KeyScope>> {
    let classes = (!classes.is_empty()).then(|| classes.iter().copied().collect());
    let plugins = (!plugins.is_empty()).then(|| plugins.iter().map(|name| name.parse().unwrap()).collect());
    Some(Arc::new(KeyScope { classes, plugins }))
}

/// Who came with scoped keys.
fn scoped() -> Vec<Who> {
    let (invoke, read, administer) = (ActClass::Invoke, ActClass::Read, ActClass::Administer);
    let (admin, caller) = (service("acme", Role::TenantAdmin), service("acme", Role::Caller));
    let host = principal("operator/ci", PrincipalKind::Service, Some(Role::Operator), None);
    let all = [
        (&admin, scope(&[invoke, administer], &[])),
        (&admin, scope(&[], &["hello"])),
        (&admin, scope(&[read, administer], &["other"])),
        (&caller, scope(&[invoke], &["hello", "other"])),
        (&host, scope(&[read], &[])),
        (&host, scope(&[administer], &[])),
    ];
    all.into_iter().map(|(who, scope)| Who::of(&who.clone().within(scope))).collect()
}

/// Every act on everything by all of them.
pub(crate) fn scoped_questions() -> Vec<Question> {
    let mut all = Vec::new();
    for who in scoped() {
        for action in act::ACTIONS {
            all.extend(everything().into_iter().map(|resource| Question::plain(who.clone(), action, resource)));
        }
    }
    all
}

/// What a scope means, told a third time and independently of `boundary.cedar` and `guard.rs`.
pub(crate) fn within_the_scope(question: &Question) -> bool {
    let Some(scope) = &question.who.scope else { return true };
    let class = act::CLASSES.iter().find(|(word, _)| *word == question.action).map(|(_, class)| class);
    let named = |plugins: &BTreeSet<PluginName>| match &question.resource {
        Resource::Plugin { plugin, .. } => plugins.contains(plugin),
        _ => false,
    };
    scope.classes.as_ref().is_none_or(|classes| class.is_some_and(|class| classes.contains(class)))
        && scope.plugins.as_ref().is_none_or(named)
        && !MAKERS.contains(&question.action)
}

/// A key of acme, held to a scope.
fn key(role: Role, scope: Option<Arc<KeyScope>>) -> Principal {
    service("acme", role).within(scope)
}

#[test]
fn a_scoped_key_does_what_it_is_good_for_and_nothing_else_whatever_the_policy_permits() {
    let (acme, hello, other) =
        (Resource::Tenant { tenant: tenant("acme") }, plugin("acme", "hello"), plugin("acme", "other"));
    for text in ["", PERMIT_ALL] {
        let policy = with(Standing::Active, text);
        let invoking = key(Role::TenantAdmin, scope(&[ActClass::Invoke], &[]));
        assert!(policy.permit::<act::Invoke>(&invoking, &hello).is_ok());
        assert!(policy.permit::<act::Invoke>(&invoking, &other).is_ok());
        denied(policy.permit::<act::ReadPlugin>(&invoking, &hello));
        let of_hello = key(Role::TenantAdmin, scope(&[], &["hello"]));
        assert!(policy.permit::<act::Invoke>(&of_hello, &hello).is_ok());
        assert!(policy.permit::<act::DeployVersion>(&of_hello, &hello).is_ok());
        denied(policy.permit::<act::Invoke>(&of_hello, &other));
        denied(policy.permit::<act::ReadTenant>(&of_hello, &acme));
        let both = key(Role::TenantAdmin, scope(&[ActClass::Read], &["hello"]));
        assert!(policy.permit::<act::ReadPlugin>(&both, &hello).is_ok());
        denied(policy.permit::<act::ReadPlugin>(&both, &other));
        denied(policy.permit::<act::Invoke>(&both, &hello));
        // The same principal with a key of before.
        assert!(policy.permit::<act::ReadTenant>(&key(Role::TenantAdmin, None), &acme).is_ok());
    }
}

/// Else it would make itself one that is held to nothing.
#[test]
fn a_scoped_key_makes_no_key_and_writes_no_policy_also_where_it_administers() {
    let policy = with(Standing::Active, PERMIT_ALL);
    let acme = Resource::Tenant { tenant: tenant("acme") };
    for scope in [scope(&ActClass::ALL, &[]), scope(&[ActClass::Administer], &[])] {
        let admin = key(Role::TenantAdmin, scope);
        assert!(policy.permit::<act::RevokeToken>(&admin, &acme).is_ok());
        let record = denied(policy.permit::<act::CreateToken>(&admin, &acme)).record();
        assert_eq!(record.determining[0].id, "boundary.scope-makers");
        assert!(record.help.ends_with("sign in with a `caller` key without a scope"), "{}", record.help);
        denied(policy.permit::<act::WritePolicy>(&admin, &acme));
        // Who is allowed a role for a while holds it within no scope.
        denied(policy.permit::<act::ApproveChange>(&admin, &acme));
        // A backup may hold a key of before that somebody still has.
        denied(policy.permit::<act::RestoreBackup>(&admin, &acme));
        assert!(policy.permit::<act::WriteBackup>(&admin, &acme).is_ok());
    }
    assert!(policy.permit::<act::CreateToken>(&key(Role::TenantAdmin, None), &acme).is_ok());
}

#[test]
fn every_act_of_its_class_is_open_to_a_scoped_key() {
    let policy = with(Standing::Active, PERMIT_ALL);
    let translated = |question: &Question| {
        question.translate(&policy.shared.checker.words, Standing::Active, &NO_LABELS).map(|_| ())
    };
    for (action, class) in act::CLASSES {
        let who = Who::of(&key(Role::TenantAdmin, scope(&[*class], &[])));
        let free = Who { scope: None, ..who.clone() };
        for resource in everything() {
            let (held, free) = (
                Question::plain(who.clone(), action, resource.clone()),
                Question::plain(free.clone(), action, resource.clone()),
            );
            assert_eq!(translated(&held).is_ok(), translated(&free).is_ok(), "{held:?}");
            let may = |question: &Question| policy.shared.rule(question).outcome == Outcome::Allow;
            let makes = MAKERS.contains(action);
            assert_eq!(may(&held), may(&free) && !makes, "{held:?}");
        }
    }
}

#[test]
fn why_names_the_scope_and_which_key_would_do() {
    let policy = active();
    let of_hello = key(Role::Caller, scope(&[ActClass::Invoke], &["hello"]));
    let record = denied(policy.permit::<act::Invoke>(&of_hello, &plugin("acme", "other"))).record();
    assert_eq!(record.determining[0].id, "boundary.scope");
    assert_eq!(record.closest.as_deref(), Some("role caller may invoke"));
    assert!(record.help.contains("invoke on plugin hello") && record.help.contains("`caller` key"), "{}", record.help);
    let out_of_scope = |who: &Principal, name: &str| {
        denied(policy.permit::<act::DeployVersion>(who, &plugin("acme", name))).is_out_of_scope()
    };
    assert!(out_of_scope(&of_hello, "other"));
    assert!(!out_of_scope(&key(Role::Caller, scope(&[], &["hello"])), "hello"), "its role is too weak, not its key");
    // What its role does not allow either is told as ever.
    let record = denied(policy.permit::<act::DeployVersion>(&of_hello, &plugin("acme", "hello"))).record();
    assert_eq!(record.determining[0].id, "boundary.scope");
    assert_eq!(record.closest.as_deref(), Some("role developer may deploy-version"));
    let whole = key(Role::Caller, scope(&[], &["hello"]));
    let record = denied(policy.permit::<act::DeployVersion>(&whole, &plugin("acme", "hello"))).record();
    assert!(record.determining.is_empty() && !record.help.contains("good for"), "{record:?}");
    // No change of the policy helps.
    let record = denied(policy.permit::<act::Invoke>(&of_hello, &plugin("acme", "other"))).record();
    let changes: Vec<RemedyKind> =
        policy.remedies(&record.asked.unwrap()).into_iter().map(|change| change.kind).collect();
    assert_eq!(changes, [RemedyKind::Role]);
}

#[test]
fn a_role_that_is_held_for_a_while_is_held_within_the_scope() {
    let policy = active();
    let (caller, hello) = (service("acme", Role::Caller), plugin("acme", "hello"));
    denied(policy.permit::<act::DeployVersion>(&caller, &hello));
    let until = jiff::Timestamp::from_second(1_000).unwrap();
    let held = Elevation { principal: caller.id().clone(), role: Role::Developer, until };
    policy.set_elevations(&tenant("acme"), vec![held]).unwrap();
    assert!(policy.permit::<act::DeployVersion>(&caller, &hello).is_ok());
    denied(policy.permit::<act::DeployVersion>(&key(Role::Caller, scope(&[ActClass::Invoke], &[])), &hello));
    denied(policy.permit::<act::DeployVersion>(&key(Role::Caller, scope(&[], &["other"])), &hello));
    assert!(policy.permit::<act::DeployVersion>(&key(Role::Caller, scope(&[], &["hello"])), &hello).is_ok());
}

/// What it costs to hold keys to their scopes is paid by those who can have one.
#[test]
fn neither_people_nor_plugins_are_asked_for_a_scope_and_a_person_who_had_one_could_do_nothing() {
    let policy = with(Standing::Active, PERMIT_ALL);
    let translated =
        |question: &Question| question.translate(&policy.shared.checker.words, Standing::Active, &NO_LABELS).ok();
    let asks_for_scope = |question: &Question| {
        let asked = translated(question).unwrap();
        let mut all = policy.shared.checker.platform.slice(&asked.place);
        all.any(|one| SCOPE.contains(&one.policy.id().to_string().as_str()))
    };
    let (acme, hello) = (Resource::Tenant { tenant: tenant("acme") }, plugin("acme", "hello"));
    let ada = principal("acme/ada", PrincipalKind::Person, Some(Role::Caller), Some("acme"));
    let plain = |who: &Principal| Question::plain(Who::of(who), "invoke", hello.clone());
    assert!(asks_for_scope(&plain(&key(Role::Caller, None))));
    assert!(asks_for_scope(&Question::plain(Who::of(&operator()), "read-tenant", acme)));
    assert!(!asks_for_scope(&plain(&ada)) && !asks_for_scope(&plain(&anonymous())));
    let of_plugins = questions().into_iter().filter(|question| question.who.kind == PrincipalKind::Plugin);
    let call =
        of_plugins.filter(|question| question.occasion.is_some()).find(|question| translated(question).is_some());
    let call = call.unwrap();
    assert!(!asks_for_scope(&call), "{call:?}");
    assert!(policy.permit::<act::Invoke>(&ada, &hello).is_ok());
    denied(policy.permit::<act::Invoke>(&ada.within(scope(&ActClass::ALL, &[])), &hello));
}

#[test]
fn no_answer_to_one_key_is_given_to_another_of_the_same_holder() {
    let policy = active();
    let hello = plugin("acme", "hello");
    for _ in 0..2 {
        assert!(policy.permit::<act::Invoke>(&key(Role::Caller, None), &hello).is_ok());
        denied(policy.permit::<act::Invoke>(&key(Role::Caller, scope(&[ActClass::Read], &[])), &hello));
        denied(policy.permit::<act::Invoke>(&key(Role::Caller, scope(&[], &["other"])), &hello));
        assert!(policy.permit::<act::Invoke>(&key(Role::Caller, scope(&[], &["hello"])), &hello).is_ok());
    }
}

#[test]
fn a_question_of_a_scoped_key_is_asked_again_as_it_was() {
    let policy = active();
    let hello = plugin("acme", "hello");
    drop(policy.permit::<act::Invoke>(&key(Role::Caller, None), &hello));
    drop(policy.permit::<act::Invoke>(&key(Role::Caller, scope(&[ActClass::Read], &["hello"])), &hello));
    let asked = policy.take_asked(&tenant("acme")).unwrap().asked;
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].key(), asked[1].key());
    for one in asked {
        let text = serde_json::to_value(&one).unwrap();
        assert_eq!(text.get("scope").is_some(), one.denied_count == 1, "{text}");
        assert_eq!(serde_json::from_value::<Asked>(text).unwrap(), one);
    }
}
