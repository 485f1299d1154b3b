//! The index against the whole set, candidates, shadows, ceilings and roles held for a while.

use proptest::prelude::*;
use ringfence_core::proof::act;

use super::tests::*;
use super::*;

/// Made once for all cases.
static ONE: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(active);

/// Every question that fits the schema, with entities made here and with entities that the schema held; made once, for the
/// schema costs more than the answers.
static ASKED: std::sync::LazyLock<Vec<(Question, question::Translated, question::Translated)>> =
    std::sync::LazyLock::new(|| {
        let words = &ONE.shared.checker.words;
        let labels = Labels::parse(&tenant("acme"), LABELS).unwrap();
        let translated = |question: Question| {
            let asked = question.translate(words, Standing::Active, &labels).ok()?;
            let (entities, request) = (words.held(&asked).unwrap(), asked.request.clone());
            let held = question::Translated { entities, request, place: asked.place.clone() };
            Some((question, asked, held))
        };
        questions().into_iter().filter_map(translated).collect()
    });

/// The platform's statements that say anything about questions of [`ASKED`]: sets of them, and which set is of which question.
/// Those that say nothing change no answer; to ask them again in each case is what costs most.
static SAID: std::sync::LazyLock<(Vec<PolicySet>, Vec<usize>)> = std::sync::LazyLock::new(|| {
    let checker = &ONE.shared.checker;
    // Permits are not told of beside a forbid: each kind is asked alone.
    let kinds = [cedar_policy::Effect::Permit, cedar_policy::Effect::Forbid].map(|effect| {
        let kind = checker.platform_set.policies().filter(|one| one.effect() == effect);
        PolicySet::from_policies(kind.cloned()).unwrap()
    });
    let (mut sets, mut places) = (Vec::new(), std::collections::HashMap::new());
    let mut of_questions = Vec::new();
    for (_, _, held) in ASKED.iter() {
        let mut said: Vec<cedar_policy::PolicyId> = Vec::new();
        for kind in &kinds {
            let response = cedar_policy::Authorizer::new().is_authorized(&held.request, kind, &held.entities);
            said.extend(response.diagnostics().reason().cloned());
            for cedar_policy::AuthorizationError::PolicyEvaluationError(error) in response.diagnostics().errors() {
                said.push(error.policy_id().clone());
            }
        }
        said.sort();
        let place = *places.entry(said.clone()).or_insert_with(|| {
            let set = said.iter().map(|id| checker.platform_set.policy(id).unwrap().clone());
            sets.push(PolicySet::from_policies(set).unwrap());
            sets.len() - 1
        });
        of_questions.push(place);
    }
    (sets, of_questions)
});

/// A policy text of a generated statement.
fn statement() -> impl Strategy<Value = String> {
    let effect = prop_oneof![Just("permit"), Just("forbid")];
    let principal = prop_oneof![
        Just("principal"),
        Just("principal is Ringfence::Service"),
        Just("principal is Ringfence::Person"),
        Just("principal == Ringfence::Service::\"acme/ci\""),
        Just("principal == Ringfence::Person::\"acme/ada\""),
        Just("principal in Ringfence::Service::\"acme/ci\""),
        Just("principal is Ringfence::Service in Ringfence::Service::\"acme/ci\""),
    ];
    let action = prop_oneof![
        Just("action"),
        Just("action == Ringfence::Action::\"invoke\""),
        Just("action in [Ringfence::Action::\"invoke\", Ringfence::Action::\"read-plugin\"]"),
        Just(
            "action in [Ringfence::Action::\"invoke\", Ringfence::Action::\"read-logs\", Ringfence::Action::\"write-secret\"]"
        ),
    ];
    let resource = prop_oneof![
        Just("resource"),
        Just("resource is Ringfence::Plugin"),
        Just("resource == Ringfence::Plugin::\"acme/hello\""),
        Just("resource in Ringfence::Tenant::\"acme\""),
        Just("resource is Ringfence::Plugin in Ringfence::Tenant::\"acme\""),
        Just("resource == Ringfence::Tenant::\"acme\""),
    ];
    let condition = prop_oneof![
        Just(""),
        Just("when { principal has role && principal.role == Ringfence::Role::\"developer\" }"),
        Just("unless { principal has elevated && principal.elevated }"),
        Just("when { 9223372036854775807 + 1 > 0 }"),
        Just("when { resource has classification && resource.classification == \"restricted\" }"),
        Just("unless { principal has training && principal.training.contains(\"gdpr\") }"),
        Just("when { principal has device && principal.device.verified }"),
        Just("when { context has trust && context.trust < 60 }"),
        Just("unless { context has trust && context.trust >= 60 }"),
        Just("when { false }"),
    ];
    (effect, principal, action, resource, condition)
        .prop_map(|(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};\n")
        })
        // What strict validation refuses (an action that does not fit, a condition that is never true) is no policy.
        .prop_filter("valid", |text| ONE.shared.checker.check(&tenant("acme"), text, Author::Tenant).is_ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_slice_answers_and_errs_as_the_whole_set_does(
        texts in prop::collection::vec(statement(), 0..12),
        turn in 0_usize..7,
    ) {
        let policy = &*ONE;
        let checker = &policy.shared.checker;
        let rules = checker.check(&tenant("acme"), &texts.concat(), Author::Tenant).unwrap().rules;
        let with_own = |platform: &PolicySet| {
            let mut whole = platform.clone();
            for one in &rules.policies {
                whole.add(one.clone()).unwrap();
            }
            whole
        };
        let (sets, of_questions) = &*SAID;
        let (whole, said): (_, Vec<_>) = (with_own(&checker.platform_set), sets.iter().map(with_own).collect());
        for (at, ((question, asked, held), place)) in ASKED.iter().zip(of_questions).enumerate() {
            // Every seventh of all the platform's statements, each case another seventh.
            let set = if at % 7 == turn { &whole } else { &said[*place] };
            let (slice, all) = (checker.ask(asked, [None, Some(&rules)]), checker.ask_all(held, set));
            prop_assert_eq!(slice.outcome, all.outcome, "{:?} {}", question, texts.concat());
            let sorted = |mut list: Vec<String>| { list.sort(); list };
            prop_assert_eq!(sorted(slice.errors), sorted(all.errors), "{:?} {}", question, texts.concat());
            prop_assert_eq!(slice.determining, all.determining, "{:?} {}", question, texts.concat());
        }
    }

    #[test]
    fn what_only_narrows_never_allows_anything_new(
        old in prop::collection::vec(statement(), 0..8),
        kept in prop::collection::vec(any::<bool>(), 8),
        added in prop::collection::vec(statement(), 0..3),
    ) {
        let policy = &*ONE;
        let new: String = old.iter().zip(kept).filter(|(_, kept)| *kept).map(|(text, _)| text.as_str()).chain(added.iter().map(String::as_str)).collect();
        let rules = |text: &str| policy.shared.checker.check(&tenant("acme"), text, Author::Tenant).unwrap().rules;
        let (before, after) = (rules(&old.concat()), rules(&new));
        if structure::only_narrows(&before.policies, &after.policies) {
            // What does not fit the schema is refused under any policy.
            for (question, ..) in ASKED.iter() {
                let view = |own| View { standing: Standing::Active, labels: &NO_LABELS, ceiling: None, own: Some(own) };
                if policy.shared.allows(question, view(&after)) {
                    prop_assert!(policy.shared.allows(question, view(&before)), "{:?}\n{}\n->\n{}", question, old.concat(), new);
                }
            }
        }
    }
}

#[test]
fn what_is_asked_of_the_platform_names_one_action_or_all() {
    let platform = &ONE.shared.checker.platform;
    let slices = ASKED.iter().step_by(7).flat_map(|(_, asked, _)| platform.slice(&asked.place));
    let listed = slices.filter(|one| matches!(one.policy.action_constraint(), cedar_policy::ActionConstraint::In(_)));
    assert_eq!(listed.count(), 0);
}

#[test]
fn ten_thousand_policies_that_name_things_are_taken_and_decide() {
    let policy = active();
    let text: String = (0..10_000)
        .map(|n| format!("permit (principal == Ringfence::Service::\"acme/s{n}\", action == Ringfence::Action::\"write-secret\", resource == Ringfence::Secret::\"acme/x{n}\");\n"))
        .collect();
    policy.set_tenant_policy(&tenant("acme"), &text).unwrap();
    let ask = |who: u32, what: u32| {
        let who = principal(&format!("acme/s{who}"), PrincipalKind::Service, Some(Role::Caller), Some("acme"));
        let secret = Resource::Secret { tenant: tenant("acme"), name: format!("x{what}").parse().unwrap() };
        policy.permit::<act::WriteSecret>(&who, &secret).is_ok()
    };
    assert!(ask(0, 0) && ask(9_999, 9_999) && !ask(1, 2) && !ask(10_000, 10_000));
}

// === candidates ===

fn asked_lately(policy: &Policy) -> Vec<Asked> {
    policy.take_asked(&tenant("acme")).unwrap().asked
}

#[test]
fn a_candidate_is_tried_on_what_was_asked_lately() {
    let policy = active();
    let developer = service("acme", Role::Developer);
    for _ in 0..3 {
        assert!(policy.permit::<act::Invoke>(&developer, &plugin("acme", "hello")).is_ok());
    }
    denied(policy.permit::<act::GrantCapability>(&developer, &plugin("acme", "hello")));
    denied(policy.permit::<act::Invoke>(&service("beta", Role::Caller), &plugin("acme", "hello")));
    let asked = asked_lately(&policy);
    assert_eq!(asked.len(), 2, "strangers and operators are not asked for: {asked:?}");
    assert_eq!(asked.iter().find(|one| one.action == "invoke").unwrap().allowed_count, 3);

    let text = "permit (principal, action == Ringfence::Action::\"grant-capability\", resource);\n\
        forbid (principal == Ringfence::Service::\"acme/ci\", action == Ringfence::Action::\"invoke\", resource);";
    let review = policy.review(&tenant("acme"), text, &asked).unwrap();
    let summary = |side: &Differences| (side.questions_count, side.askings_count, side.examples[0].action.clone());
    assert_eq!(summary(&review.replay.newly_allowed), (1, 1, "grant-capability".to_owned()));
    assert_eq!(summary(&review.replay.newly_denied), (1, 3, "invoke".to_owned()));
    assert_eq!((review.replay.questions_count, review.only_narrows), (2, false));
    // Nothing was changed by asking.
    assert!(policy.permit::<act::Invoke>(&developer, &plugin("acme", "hello")).is_ok());
}

#[test]
fn what_was_taken_out_is_counted_anew() {
    let policy = active();
    let ask = || policy.permit::<act::Invoke>(&service("acme", Role::Caller), &plugin("acme", "hello")).is_ok();
    assert!(ask() && ask());
    assert_eq!(asked_lately(&policy)[0].allowed_count, 2);
    assert_eq!(asked_lately(&policy), []);
    assert!(ask());
    assert_eq!(asked_lately(&policy)[0].allowed_count, 1);
}

#[test]
fn a_shadow_counts_and_never_decides() {
    let policy = active();
    let (acme, caller, hello) = (tenant("acme"), service("acme", Role::Caller), plugin("acme", "hello"));
    policy.set_shadow(&acme, "forbid (principal, action == Ringfence::Action::\"invoke\", resource);\npermit (principal, action == Ringfence::Action::\"read-logs\", resource);").unwrap();
    for _ in 0..2 {
        assert!(policy.permit::<act::Invoke>(&caller, &hello).is_ok());
        denied(policy.permit::<act::ReadLogs>(&caller, &hello));
    }
    assert!(policy.permit::<act::ReadPlugin>(&service("acme", Role::Auditor), &hello).is_ok());
    let report = policy.shadow(&acme).unwrap();
    assert_eq!(report.askings_count, 5);
    assert_eq!((report.newly_denied.askings_count, report.newly_denied.questions_count), (2, 1));
    assert_eq!(
        (report.newly_allowed.askings_count, report.newly_allowed.examples[0].action.as_str()),
        (2, "read-logs")
    );
    policy.clear_shadow(&acme).unwrap();
    assert_eq!(policy.shadow(&acme), None);
}

#[test]
fn what_is_probably_not_meant_is_found() {
    let policy = active();
    let text = "@id(\"all\") permit (principal, action, resource);\n\
        @id(\"again\") permit (principal, action, resource);\n\
        @id(\"no-logs\") forbid (principal, action == Ringfence::Action::\"read-logs\", resource in Ringfence::Tenant::\"acme\");\n\
        @id(\"logs\") permit (principal is Ringfence::Service, action == Ringfence::Action::\"read-logs\", resource == Ringfence::Plugin::\"acme/hello\");\n\
        @id(\"quota\") permit (principal, action == Ringfence::Action::\"set-quota\", resource);";
    let found = policy.check_tenant_policy(&tenant("acme"), text).unwrap().findings;
    let of = |kind: FindingKind| -> Vec<&str> {
        found.iter().filter(|finding| finding.kind == kind).map(|finding| finding.text.as_str()).collect()
    };
    assert_eq!(of(FindingKind::AllowAll).len(), 2, "{found:?}");
    assert_eq!(
        of(FindingKind::Unreachable),
        [
            "`tenant/again` says what another statement says already",
            "`tenant/logs` never applies: `tenant/no-logs` forbids all of what it permits",
            "`tenant/quota` permits what only operators may ever do",
        ]
    );
    assert_eq!(of(FindingKind::OpensToAnonymous).len(), 2);
}

// === ceilings and roles held for a while ===

#[test]
fn what_is_allowed_is_the_intersection_of_ceiling_and_policy() {
    let policy = with(Standing::Active, PERMIT_ALL);
    let (acme, admin) = (tenant("acme"), service("acme", Role::TenantAdmin));
    policy
        .set_ceiling(&acme, "@id(\"no-open-doors\") forbid (principal is Ringfence::Anonymous, action, resource);")
        .unwrap();
    let denial = denied(policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "hello")));
    assert_eq!(denial.record().determining[0].id, "ceiling/no-open-doors");
    assert_eq!(denial.record().help, "the operator's ceiling `ceiling/no-open-doors` over tenant `acme` forbids it");
    assert!(policy.permit::<act::Invoke>(&anonymous(), &plugin("beta", "hello")).is_ok());
    assert!(policy.permit::<act::Invoke>(&admin, &plugin("acme", "hello")).is_ok());
    policy.set_tenant_policy(&acme, "").unwrap();
    denied(policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "hello")));
    let error = policy.set_ceiling(&acme, PERMIT_ALL).unwrap_err();
    assert!(error.to_string().contains("a ceiling can only `forbid`"), "{error}");
}

#[test]
fn what_a_ceiling_hides_is_counted_as_allowed_newly_but_for_it() {
    let policy = active();
    let (acme, developer) = (tenant("acme"), service("acme", Role::Developer));
    denied(policy.permit::<act::GrantCapability>(&developer, &plugin("acme", "hello")));
    let asked = asked_lately(&policy);
    let counts = || {
        let text = "permit (principal, action == Ringfence::Action::\"grant-capability\", resource);";
        let review = policy.review(&acme, text, &asked).unwrap();
        (review.replay.newly_allowed.questions_count, review.widens_count)
    };
    assert_eq!(counts(), (1, 1));
    let ceiling = "forbid (principal, action == Ringfence::Action::\"grant-capability\", resource);";
    policy.set_ceiling(&acme, ceiling).unwrap();
    assert_eq!(counts(), (0, 1));
}

#[test]
fn a_role_held_for_a_while_ends_on_the_second() {
    let time = Arc::new(StillClock::default());
    let policy = Policy::new(entropy(), time.clone()).unwrap();
    let acme = tenant("acme");
    policy.upsert_tenant(&acme, TenantFacts { suspended: Standing::Active }, None).unwrap();
    let (developer, hello) = (service("acme", Role::Developer), plugin("acme", "hello"));
    let grant = || policy.permit::<act::GrantCapability>(&developer, &hello);
    denied(grant());
    let until = jiff::Timestamp::from_second(60).unwrap();
    let mut one = Elevation { principal: developer.id().clone(), role: Role::TenantAdmin, until };
    policy.set_elevations(&acme, vec![one.clone()]).unwrap();
    assert!(grant().is_ok());
    assert!(
        policy
            .permit::<act::GrantCapability>(
                &principal("acme/other", PrincipalKind::Service, Some(Role::Developer), Some("acme")),
                &hello
            )
            .is_err()
    );
    time.0.store(59, Ordering::Relaxed);
    assert!(grant().is_ok());
    time.0.store(60, Ordering::Relaxed);
    denied(grant());
    // Nobody becomes an operator.
    one = Elevation { role: Role::Operator, until: jiff::Timestamp::from_second(99).unwrap(), ..one };
    policy.set_elevations(&acme, vec![one]).unwrap();
    denied(policy.permit::<act::ReadHost>(&developer, &Resource::Host));
}

// === what would have allowed it ===

/// Remedies of a denial, as kinds and texts.
fn remedies(policy: &Policy, denial: &Denial) -> Vec<(RemedyKind, String)> {
    let asked = denial.record().asked.unwrap();
    policy.remedies(&asked).into_iter().map(|remedy| (remedy.kind, remedy.change)).collect()
}

#[test]
fn a_denial_names_the_changes_that_allow_it_and_each_does() {
    let policy = active();
    let (acme, developer, hello) = (tenant("acme"), service("acme", Role::Developer), plugin("acme", "hello"));
    let denial = denied(policy.permit::<act::GrantCapability>(&developer, &hello));
    let found = remedies(&policy, &denial);
    let kinds: Vec<RemedyKind> = found.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [RemedyKind::Elevation, RemedyKind::Role, RemedyKind::Statement], "{found:?}");
    policy.set_tenant_policy(&acme, &found[2].1).unwrap();
    assert!(policy.permit::<act::GrantCapability>(&developer, &hello).is_ok(), "{found:?}");
    assert_eq!(remedies(&policy, &denial)[0].0, RemedyKind::Nothing);

    let text = "@id(\"freeze\") forbid (principal, action == Ringfence::Action::\"push-version\", resource);";
    policy.set_tenant_policy(&acme, text).unwrap();
    let denial = denied(policy.permit::<act::PushVersion>(&developer, &hello));
    let unless = "unless { principal == Ringfence::Service::\"acme/ci\" && action == Ringfence::Action::\"push-version\" && \
        resource == Ringfence::Plugin::\"acme/hello\" }";
    let exception = (RemedyKind::Exception, format!("`tenant/freeze` ends with `{unless}`"));
    let removal = (RemedyKind::Removal, "the tenant's policy without `tenant/freeze`".to_owned());
    assert_eq!(remedies(&policy, &denial), [exception, removal]);
    policy.set_tenant_policy(&acme, &text.replace(';', &format!(" {unless};"))).unwrap();
    assert!(policy.permit::<act::PushVersion>(&developer, &hello).is_ok());
    denied(policy.permit::<act::PushVersion>(&developer, &plugin("acme", "other")));

    policy.set_tenant_policy(&acme, "").unwrap();
    policy.set_ceiling(&acme, text).unwrap();
    let denial = denied(policy.permit::<act::PushVersion>(&developer, &hello));
    assert_eq!(remedies(&policy, &denial)[0].0, RemedyKind::Ceiling);
    policy.set_ceiling(&acme, "").unwrap();
    policy.set_standing(&acme, Standing::Suspended).unwrap();
    let denial = denied(policy.permit::<act::PushVersion>(&developer, &hello));
    assert_eq!(remedies(&policy, &denial)[0].0, RemedyKind::Resume);
}

#[test]
fn nothing_is_said_of_what_lies_behind_another_border() {
    let policy = with(Standing::Active, PERMIT_ALL);
    for resource in [plugin("beta", "hello"), plugin("nobody", "hello")] {
        let denial = denied(policy.permit::<act::Invoke>(&service("acme", Role::TenantAdmin), &resource));
        assert_eq!(remedies(&policy, &denial), []);
    }
}

#[test]
fn of_many_statements_of_one_shape_each_is_held_to_the_schema() {
    let policy = active();
    let good = |n: usize| {
        format!(
            "permit (principal == Ringfence::Service::\"acme/s{n}\", action == Ringfence::Action::\"invoke\", resource);\n"
        )
    };
    let text: String = (0..50).map(good).collect();
    let analysis = policy.check_tenant_policy(&tenant("acme"), &text).unwrap();
    assert_eq!((analysis.policies.len(), analysis.findings.len()), (50, 0));
    // A mistake in the middle is found there, and a warning is told of each that earns it.
    let wrong = format!("{text}permit (principal, action, resource) when {{ principal.shoesize == 7 }};\n{text}");
    let error = policy.check_tenant_policy(&tenant("acme"), &wrong).unwrap_err().to_string();
    assert!(error.contains("line 51"), "{error}");
    let never = |n: usize| {
        format!(
            "permit (principal == Ringfence::Service::\"acme/s{n}\", action == Ringfence::Action::\"invoke\", resource) when {{ false }};\n"
        )
    };
    let text: String = (0..3).map(good).chain((0..4).map(never)).collect();
    let analysis = policy.check_tenant_policy(&tenant("acme"), &text).unwrap();
    let unreachable = analysis.findings.iter().filter(|finding| finding.kind == FindingKind::Unreachable);
    assert_eq!(unreachable.count(), 4);
}
