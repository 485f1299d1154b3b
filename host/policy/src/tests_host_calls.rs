//! The calls of guests to the host: what a tenant's policy leaves of them, against the whole set of statements, and what
//! candidates are tried on.

use proptest::prelude::*;
use ringfence_core::limits::POLICY_CACHED_HOST_CALLS_COUNT_MAX;
use ringfence_core::{HostAct, HostCall, On, PluginName, ResourceName};

use super::tests::*;
use super::*;

static ONE: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(|| {
    let policy = active();
    // Of the callers below one is on a device that is verified.
    policy.set_devices(Box::new(|who| laptop(true).filter(|_| who.role() == Some(Role::Developer))));
    policy
});

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn caller_of(policy: &Policy, plugin: &str, by: &Principal, cause: &str, trust: Option<u8>) -> HostCaller {
    let plugin: PluginName = plugin.parse().unwrap();
    policy.host_caller(&tenant("acme"), &plugin, by, cause, Box::new(move || trust)).unwrap()
}

fn hello(policy: &Policy) -> HostCaller {
    caller_of(policy, "hello", &service("acme", Role::Caller), "http", None)
}

fn value<'a>(act: HostAct, bucket: &'a ResourceName, key: &'a str) -> HostCall<'a> {
    HostCall { act, on: On::Value { bucket, key } }
}

fn send<'a>(host: &'a str, method: &'a str, path: &'a str) -> HostCall<'a> {
    HostCall { act: HostAct::SendRequest, on: On::Outside { scheme: "https", host, port: 443, method, path } }
}

/// Calls that differ in everything that statements can read.
fn each_call(mut with: impl FnMut(&HostCall<'_>)) {
    let (bucket, other, plugin) = (name("default"), name("other"), "back".parse::<PluginName>().unwrap());
    for key in ["", "invoices/1", "invoices/2/a", "visits"] {
        for bucket in [&bucket, &other] {
            for act in [HostAct::ReadValue, HostAct::WriteValue, HostAct::DeleteValue, HostAct::ListValues] {
                with(&value(act, bucket, key));
            }
            for act in [HostAct::ReadObject, HostAct::WriteObject, HostAct::DeleteObject, HostAct::ListObjects] {
                with(&HostCall { act, on: On::Object { container: bucket, name: key } });
            }
        }
    }
    for host in ["api.example.com", "b.example"] {
        for (method, path) in [("GET", "/v1/a"), ("POST", "/v1/b"), ("POST", "/")] {
            with(&send(host, method, path));
            with(&HostCall { act: HostAct::CallPlugin, on: On::Plugin { plugin: &plugin, method, path } });
        }
    }
    for act in [HostAct::BeginRun, HostAct::SignalRun, HostAct::CancelRun, HostAct::InspectRun] {
        for workflow in ["charge", "refund"] {
            with(&HostCall { act, on: On::Workflow { plugin: &plugin, workflow } });
        }
    }
    for act in [HostAct::ReadFile, HostAct::WriteFile] {
        with(&HostCall { act, on: On::Directory });
    }
    for word in [&bucket, &other] {
        with(&HostCall { act: HostAct::UseSecret, on: On::Secret(word) });
        with(&HostCall { act: HostAct::PostMessage, on: On::Queue(word) });
        for act in [HostAct::SealField, HostAct::TokeniseField, HostAct::OpenField] {
            with(&HostCall { act, on: On::Field(word.as_str()) });
        }
    }
}

fn is_left(caller: &HostCaller, call: &HostCall<'_>) -> bool {
    caller.ask(call).is_ok()
}

/// A statement about host calls.
fn statement() -> impl Strategy<Value = String> {
    let effect = prop_oneof![Just("permit"), Just("forbid"), Just("forbid")];
    let principal = prop_oneof![
        Just("principal"),
        Just("principal is Ringfence::Plugin"),
        Just("principal == Ringfence::Plugin::\"acme/hello\""),
        Just("principal in Ringfence::Tenant::\"acme\""),
        Just("principal is Ringfence::Service"),
    ];
    let scope = prop_oneof![
        Just(("action", "resource", "")),
        Just(("action", "resource in Ringfence::Plugin::\"acme/hello\"", "")),
        Just(("action == Ringfence::Action::\"read-value\"", "resource", "context.key like \"invoices/*\"")),
        Just((
            "action in [Ringfence::Action::\"read-value\", Ringfence::Action::\"write-value\", Ringfence::Action::\"list-values\"]",
            "resource == Ringfence::Bucket::\"acme/hello/default\"",
            "context[\"key\"] == \"visits\""
        )),
        Just(("action == Ringfence::Action::\"write-object\"", "resource", "context.name != \"visits\"")),
        Just(("action == Ringfence::Action::\"send-request\"", "resource", "resource.host == \"b.example\"")),
        Just((
            "action == Ringfence::Action::\"send-request\"",
            "resource",
            "context.method == \"POST\" && context.path like \"/v1/*\""
        )),
        Just((
            "action == Ringfence::Action::\"send-request\"",
            "resource == Ringfence::Origin::\"acme/https://b.example\"",
            ""
        )),
        Just((
            "action == Ringfence::Action::\"use-secret\"",
            "resource == Ringfence::Secret::\"acme/default\"",
            "context.cause == \"http\""
        )),
        Just((
            "action == Ringfence::Action::\"call-plugin\"",
            "resource",
            "context has role && context.role == Ringfence::Role::\"developer\""
        )),
        Just(("action == Ringfence::Action::\"open-field\"", "resource", "context has trust && context.trust < 50")),
        Just((
            "action == Ringfence::Action::\"open-field\"",
            "resource",
            "context has device && context.device.verified"
        )),
        Just(("action == Ringfence::Action::\"post-message\"", "resource", "context.caller == \"acme/ci\"")),
        Just(("action == Ringfence::Action::\"begin-run\"", "resource", "context.workflow == \"charge\"")),
        Just((
            "action in [Ringfence::Action::\"signal-run\", Ringfence::Action::\"cancel-run\"]",
            "resource == Ringfence::Plugin::\"acme/back\"",
            "context.cause == \"http\""
        )),
        Just(("action == Ringfence::Action::\"write-file\"", "resource", "9223372036854775807 + 1 > 0")),
        Just((
            "action == Ringfence::Action::\"use-secret\"",
            "resource",
            "resource.purposes.contains(\"billing\") && principal.classification == \"restricted\""
        )),
        Just(("action == Ringfence::Action::\"read-value\"", "resource", "principal.purposes.contains(\"care\")")),
        Just(("action == Ringfence::Action::\"invoke\"", "resource", "")),
    ];
    (effect, principal, scope, any::<bool>())
        .prop_map(|(effect, principal, (action, resource, condition), when)| {
            let word = if when { "when" } else { "unless" };
            let condition = if condition.is_empty() { String::new() } else { format!(" {word} {{ {condition} }}") };
            format!("{effect} ({principal}, {action}, {resource}){condition};\n")
        })
        .prop_filter("valid", |text| {
            ONE.shared.checker.check(&tenant("acme"), text, Author::Tenant).is_ok()
                && ONE.compile(&tenant("acme"), text).is_ok()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Skipped, remembered or evaluated: the answer to a host call is the one that all statements together give.
    #[test]
    fn a_host_call_is_answered_as_by_all_statements_together(
        texts in prop::collection::vec(statement(), 0..6),
        ceiling in prop::collection::vec(statement(), 0..2),
        suspended in prop::bool::weighted(0.1),
    ) {
        let policy = Policy { shared: Arc::clone(&ONE.shared) };
        let acme = tenant("acme");
        let ceiling: String = ceiling.into_iter().filter(|text| text.starts_with("forbid")).collect();
        prop_assume!(policy.compile(&acme, &texts.concat()).is_ok());
        policy.set_tenant_policy(&acme, &texts.concat()).unwrap();
        policy.set_ceiling(&acme, &ceiling).unwrap();
        policy.set_labels(&acme, LABELS).unwrap();
        let standing = if suspended { Standing::Suspended } else { Standing::Active };
        policy.set_standing(&acme, standing).unwrap();
        let state = policy.shared.tenant(&acme).unwrap();
        let checker = &policy.shared.checker;
        let mut whole = checker.platform_set.clone();
        for one in state.rules.policies.iter().chain(&state.ceiling.policies) {
            whole.add(one.clone()).unwrap();
        }
        let callers = [
            caller_of(&policy, "hello", &service("acme", Role::Caller), "http", Some(40)),
            caller_of(&policy, "hello", &service("acme", Role::Developer), "schedule", Some(80)),
            caller_of(&policy, "other", &anonymous(), "http", None),
        ];
        // Twice, so that what is remembered is asked as well.
        for caller in callers.iter().chain(&callers) {
            let mut wrong = Vec::new();
            each_call(|call| {
                let question = caller.full(call);
                let asked = question.translate(&checker.words, standing, &state.labels).unwrap();
                let all = checker.ask_all(&asked, &whole).outcome == Outcome::Allow;
                if is_left(caller, call) != all {
                    wrong.push(format!("{call:?}"));
                }
            });
            prop_assert!(wrong.is_empty(), "{:?}\n{}\n{}", wrong, texts.concat(), ceiling);
        }
    }
}

#[test]
fn what_is_granted_works_where_the_tenant_wrote_nothing_and_in_no_suspended_one() {
    let policy = active();
    each_call(|call| assert!(is_left(&hello(&policy), call), "{call:?}"));
    policy.set_tenant_policy(&tenant("acme"), PERMIT_ALL).unwrap();
    each_call(|call| assert!(is_left(&hello(&policy), call), "{call:?}"));
    policy.set_standing(&tenant("acme"), Standing::Suspended).unwrap();
    each_call(|call| assert!(!is_left(&hello(&policy), call), "{call:?}"));
    policy.remove_tenant(&tenant("acme"));
    let denial = hello(&policy).ask(&value(HostAct::ReadValue, &name("default"), "k")).unwrap_err();
    assert_eq!(denial.visible, Visibility::Hidden);
}

#[test]
fn a_plugin_is_left_one_prefix_and_the_next_call_follows_a_change() {
    let policy = active();
    let acme = tenant("acme");
    let text = "@id(\"invoices-only\") forbid (principal == Ringfence::Plugin::\"acme/hello\", action in \
        [Ringfence::Action::\"read-value\", Ringfence::Action::\"list-values\"], resource) \
        unless { context.key like \"invoices/*\" };";
    let (caller, bucket) = (hello(&policy), name("default"));
    let read = |key| is_left(&caller, &value(HostAct::ReadValue, &bucket, key));
    assert!(read("visits"));
    policy.set_tenant_policy(&acme, text).unwrap();
    assert!(read("invoices/7") && !read("visits") && !read(""));
    assert!(!is_left(&caller, &value(HostAct::ListValues, &bucket, "")));
    assert!(is_left(&caller, &value(HostAct::WriteValue, &bucket, "visits")));
    let other = caller_of(&policy, "other", &service("acme", Role::Caller), "http", None);
    assert!(is_left(&other, &value(HostAct::ReadValue, &bucket, "visits")));
    policy
        .set_ceiling(&acme, "forbid (principal is Ringfence::Plugin, action, resource is Ringfence::Bucket);")
        .unwrap();
    assert!(!read("invoices/7"));
    policy.set_ceiling(&acme, "").unwrap();
    policy.set_tenant_policy(&acme, "").unwrap();
    assert!(read("visits"));
}

#[test]
fn a_call_from_a_stack_that_is_too_small_to_evaluate_on_is_answered_all_the_same() {
    let policy = active();
    let text =
        "forbid (principal, action == Ringfence::Action::\"read-value\", resource) when { context.key == \"x\" };";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    // As on a guest's fiber, the evaluator sees too little stack; there it would say so of any.
    let small = std::thread::Builder::new().stack_size(96 << 10).spawn(move || {
        let (caller, bucket) = (hello(&policy), name("default"));
        let on_small = policy.shared.ask(
            &caller.full(&value(HostAct::ReadValue, &bucket, "y")),
            View { standing: Standing::Active, labels: &NO_LABELS, ceiling: None, own: None },
        );
        let left = ["x", "y"].map(|key| is_left(&caller, &value(HostAct::ReadValue, &bucket, key)));
        (on_small.errors.len(), left)
    });
    let (errors_count, left) = small.unwrap().join().unwrap();
    assert!(errors_count > 0, "the stack is not small enough to show anything");
    assert_eq!(left, [false, true]);
}

#[test]
fn statements_see_on_whose_behalf_and_how_much_its_session_is_trusted_now() {
    let policy = active();
    let text = "forbid (principal, action == Ringfence::Action::\"use-secret\", resource) \
        unless { context has role && context.role == Ringfence::Role::\"developer\" };\n\
        forbid (principal, action == Ringfence::Action::\"open-field\", resource) \
        unless { context has trust && context.trust >= 60 };\n\
        forbid (principal, action == Ringfence::Action::\"send-request\", resource) \
        when { resource.host == \"b.example\" || context.method == \"DELETE\" };";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    let secret = name("key");
    let secret = HostCall { act: HostAct::UseSecret, on: On::Secret(&secret) };
    for (by, left) in
        [(service("acme", Role::Developer), true), (service("acme", Role::Caller), false), (anonymous(), false)]
    {
        assert_eq!(is_left(&caller_of(&policy, "hello", &by, "http", None), &secret), left, "{by:?}");
    }
    let score = Arc::new(std::sync::atomic::AtomicU8::new(80));
    let now = Arc::clone(&score);
    let trust: Trust = Box::new(move || Some(now.load(Ordering::Relaxed)));
    let ann = service("acme", Role::Caller);
    let caller = policy.host_caller(&tenant("acme"), &"hello".parse().unwrap(), &ann, "http", trust).unwrap();
    let open = HostCall { act: HostAct::OpenField, on: On::Field("email") };
    assert!(is_left(&caller, &open));
    score.store(59, Ordering::Relaxed);
    assert!(!is_left(&caller, &open));
    assert!(!is_left(&hello(&policy), &open), "where nothing is known of a session, nothing is trusted");
    assert!(is_left(&caller, &send("a.example", "GET", "/")));
    assert!(!is_left(&caller, &send("b.example", "GET", "/")) && !is_left(&caller, &send("a.example", "DELETE", "/")));
}

#[test]
fn statements_see_the_device_of_the_caller_as_it_is_now() {
    let policy = active();
    let text = "forbid (principal, action == Ringfence::Action::\"open-field\", resource) \
        unless { context has device && context.device.verified };";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    let told: Arc<std::sync::Mutex<Option<Device>>> = Arc::default();
    let now = Arc::clone(&told);
    policy.set_devices(Box::new(move |_| now.lock().unwrap().clone()));
    let (caller, open) = (hello(&policy), HostCall { act: HostAct::OpenField, on: On::Field("email") });
    // Twice each: the second answer is one that was remembered.
    for (device, left) in [(None, false), (laptop(true), true), (laptop(false), false), (laptop(true), true)] {
        *told.lock().unwrap() = device.clone();
        assert_eq!((is_left(&caller, &open), is_left(&caller, &open)), (left, left), "{device:?}");
    }
    let nobody = caller_of(&policy, "hello", &anonymous(), "http", None);
    assert!(!is_left(&nobody, &open), "who showed nothing is on no device");
}

#[test]
fn a_denial_says_what_forbids_and_the_smallest_change() {
    let policy = active();
    let acme = tenant("acme");
    let text = "@id(\"no-keys\") forbid (principal, action == Ringfence::Action::\"use-secret\", resource);";
    policy.set_tenant_policy(&acme, text).unwrap();
    let key = name("key");
    let denial = hello(&policy).ask(&HostCall { act: HostAct::UseSecret, on: On::Secret(&key) }).unwrap_err();
    let record = denial.record();
    assert_eq!((record.principal.as_str(), record.action.as_str()), ("acme/plugin/hello", "use-secret"));
    assert_eq!((record.resource.as_str(), record.role.as_deref()), ("tenant/acme/secret/key", None));
    assert_eq!(record.help, "policy `tenant/no-keys` of tenant `acme` forbids it; a tenant-admin can change it");
    let changes = policy.remedies(record.asked.as_ref().unwrap());
    let kinds: Vec<RemedyKind> = changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [RemedyKind::Exception, RemedyKind::Removal], "{changes:?}");
    assert!(changes[0].change.contains("principal == Ringfence::Plugin::\"acme/hello\""), "{changes:?}");
    // The record survives being kept.
    let kept: DecisionRecord = serde_json::from_value(serde_json::to_value(&record).unwrap()).unwrap();
    assert_eq!(kept, record);
}

#[test]
fn candidates_and_shadows_are_tried_on_host_calls() {
    let policy = active();
    let (acme, bucket) = (tenant("acme"), name("default"));
    let caller = hello(&policy);
    for key in ["invoices/1", "invoices/2", "visits", "invoices/3"] {
        assert!(is_left(&caller, &value(HostAct::ReadValue, &bucket, key)));
    }
    let asked = policy.take_asked(&acme).unwrap().asked;
    let mut slices: Vec<(String, u64)> = asked.iter().map(|one| (one.about(), one.allowed_count)).collect();
    slices.sort();
    let at = |key: &str| format!("tenant/acme/plugin/hello/bucket/default {key}");
    assert_eq!(slices, [(at("invoices/1"), 3), (at("visits"), 1)]);
    let kept: Vec<Asked> = serde_json::from_value(serde_json::to_value(&asked).unwrap()).unwrap();
    let text = "forbid (principal is Ringfence::Plugin, action, resource is Ringfence::Bucket) \
        unless { action == Ringfence::Action::\"write-value\" };";
    let text = format!("{text}\nforbid (principal, action == Ringfence::Action::\"use-secret\", resource);");
    let review = policy.review(&acme, &text, &kept).unwrap();
    assert_eq!((review.replay.newly_denied.questions_count, review.replay.newly_denied.askings_count), (2, 4));
    // What was taken out is counted anew.
    assert!(is_left(&caller, &value(HostAct::ReadValue, &bucket, "invoices/9")));
    assert_eq!(policy.take_asked(&acme).unwrap().asked[0].allowed_count, 1);

    policy.set_shadow(&acme, &text).unwrap();
    assert!(is_left(&caller, &value(HostAct::ReadValue, &bucket, "invoices/1")));
    assert!(is_left(&caller, &value(HostAct::ReadValue, &bucket, "invoices/1")));
    assert!(is_left(&caller, &value(HostAct::WriteValue, &bucket, "invoices/1")));
    let report = policy.shadow(&acme).unwrap();
    assert_eq!((report.askings_count, report.newly_denied.askings_count), (3, 2));
    assert_eq!(report.newly_denied.examples[0].about(), at("invoices/1"));
}

#[test]
fn what_is_remembered_of_host_calls_is_bounded() {
    let policy = active();
    let text =
        "forbid (principal, action == Ringfence::Action::\"read-value\", resource) when { context.key == \"x\" };";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    let (caller, bucket) = (hello(&policy), name("default"));
    for number in 0..POLICY_CACHED_HOST_CALLS_COUNT_MAX + 10 {
        assert!(is_left(&caller, &value(HostAct::ReadValue, &bucket, &format!("k{number}/"))));
    }
    let state = policy.shared.tenant(&tenant("acme")).unwrap();
    assert!(state.host_cache.len() <= POLICY_CACHED_HOST_CALLS_COUNT_MAX);
    let taken = policy.take_asked(&tenant("acme")).unwrap();
    assert!(taken.asked.len() <= ringfence_core::limits::POLICY_RECENT_HOST_CALLS_COUNT_MAX);
    assert!(taken.left_out_count > 0);
}

#[test]
fn no_person_does_what_plugins_do_whatever_a_policy_says() {
    let policy = with(Standing::Active, PERMIT_ALL);
    for question in questions().into_iter().filter(|question| HostAct::of_word(question.action).is_some()) {
        if question.who.kind != PrincipalKind::Plugin {
            assert_eq!(policy.shared.rule(&question).outcome, Outcome::Deny, "{question:?}");
        }
    }
}
