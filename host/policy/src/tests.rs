//! The policies as a whole: who may do what, that nobody crosses a tenant's border, and what a denial says.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

use proptest::prelude::*;
use ringfence_core::limits::POLICY_CACHED_PER_TENANT_COUNT_MAX;
use ringfence_core::proof::act;
use ringfence_core::{HostAct, PrincipalId, Strength};

use super::tests_mutants::beyond;
use super::tests_scopes::{scoped_questions, within_the_scope};
use super::*;

/// Labels on some of [`everyone`] and [`things`].
pub(crate) const LABELS: &str = r#"{
    "principals": { "acme/ada": { "training": ["gdpr"], "certifications": ["nurse"] } },
    "plugins": { "hello": { "classification": "restricted", "purposes": ["care"] } },
    "secrets": { "key": { "classification": "restricted" }, "default": { "purposes": ["billing"] } },
    "fields": { "email": { "classification": "confidential", "purposes": ["care"] } }
}"#;

pub(crate) const PERMIT_ALL: &str = "permit (principal, action, resource);";

/// Distinct bytes at every call.
pub(crate) struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, into: &mut [u8]) {
        into.fill(self.0.fetch_add(1, Ordering::Relaxed));
    }
}

pub(crate) fn entropy() -> Arc<dyn Entropy> {
    Arc::new(Counting(AtomicU8::new(0)))
}

/// A clock that stands until it is moved.
#[derive(Default)]
pub(crate) struct StillClock(pub(crate) std::sync::atomic::AtomicI64);

impl Clock for StillClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(StillClock::default())
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// What the platform says, compiled once for all tests: that costs more than what most of them ask.
static PLATFORM: LazyLock<Arc<Checker>> =
    LazyLock::new(|| Policy::new(entropy(), clock()).unwrap().shared.checker.clone());

pub(crate) fn with(facts: Standing, text: &str) -> Policy {
    let policy = Policy::over(PLATFORM.clone(), entropy(), clock());
    for name in ["acme", "beta"] {
        policy.upsert_tenant(&tenant(name), TenantFacts { suspended: facts }, Some(text)).unwrap();
    }
    policy
}

pub(crate) fn active() -> Policy {
    with(Standing::Active, "")
}

#[expect(clippy::disallowed_methods, reason = "tests play identity")]
pub(crate) fn principal(id: &str, kind: PrincipalKind, role: Option<Role>, of: Option<&str>) -> Principal {
    let id: PrincipalId = id.parse().unwrap();
    Principal::mint(id, kind, role, of.map(tenant), Strength::Secret, None, jiff::Timestamp::UNIX_EPOCH)
}

pub(crate) fn service(of: &str, role: Role) -> Principal {
    principal(&format!("{of}/ci"), PrincipalKind::Service, Some(role), Some(of))
}

pub(crate) fn operator() -> Principal {
    principal("operator/ada", PrincipalKind::Person, Some(Role::Operator), None)
}

pub(crate) fn anonymous() -> Principal {
    principal("anonymous", PrincipalKind::Anonymous, None, None)
}

/// A device, verified by a claim or not.
pub(crate) fn laptop(verified: bool) -> Option<Device> {
    let word = if verified { "posture" } else { "none" };
    let posture = verified.then(|| "disk_encrypted".to_owned()).into_iter().collect();
    Some(Device { name: "laptop".parse().unwrap(), verified, evidence: word.to_owned(), posture })
}

pub(crate) fn plugin(of: &str, name: &str) -> Resource {
    Resource::Plugin { tenant: tenant(of), plugin: name.parse().unwrap() }
}

pub(crate) fn everyone() -> Vec<Principal> {
    let mut all = vec![operator(), anonymous()];
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Operator) {
        all.push(service("acme", role));
        all.push(principal("acme/ada", PrincipalKind::Person, Some(role), Some("acme")));
    }
    all
}

pub(crate) fn everything() -> Vec<Resource> {
    let mut all = vec![Resource::Host];
    for of in ["acme", "beta"] {
        all.push(Resource::Tenant { tenant: tenant(of) });
        all.push(plugin(of, "hello"));
        all.push(Resource::Secret { tenant: tenant(of), name: "key".parse().unwrap() });
        all.push(Resource::Field { tenant: tenant(of), field: "email".parse().unwrap() });
    }
    all
}

pub(crate) fn questions() -> Vec<Question> {
    let mut all = Vec::new();
    for principal in everyone() {
        for action in act::ACTIONS {
            for resource in everything() {
                let who = Who::of(&principal);
                if who.tenant.is_some() {
                    let (device, trust) = (laptop(true), Some(50));
                    let who = Who { elevated_from: Some(Role::Caller), device, trust, ..who.clone() };
                    all.push(Question::plain(who, action, resource.clone()));
                }
                all.push(Question::plain(who, action, resource));
            }
        }
    }
    all.extend(scoped_questions());
    all.extend(host_questions());
    all
}

/// What plugins reach by calls to the host.
pub(crate) fn things() -> Vec<Resource> {
    let mut all = everything();
    for of in ["acme", "beta"] {
        let (of, plugin, name) = (tenant(of), "hello".parse().unwrap(), "default".parse().unwrap());
        all.push(Resource::Bucket { tenant: of.clone(), plugin, name });
        let (plugin, name) = ("other".parse().unwrap(), "album".parse().unwrap());
        all.push(Resource::Container { tenant: of.clone(), plugin, name });
        all.push(Resource::Directory { tenant: of.clone(), plugin: "hello".parse().unwrap() });
        let (scheme, host) = ("https".to_owned(), "api.example.com".to_owned());
        all.push(Resource::Origin { tenant: of.clone(), scheme, host, port: 443 });
        all.push(Resource::Queue { tenant: of, name: "mails".parse().unwrap() });
    }
    all
}

/// Every act of guests, by plugins and by people, on everything; and some other acts by plugins.
fn host_questions() -> Vec<Question> {
    let mut all = Vec::new();
    let of = Some(tenant("acme"));
    let plugin = |id: &str| Who {
        id: id.parse().unwrap(),
        kind: PrincipalKind::Plugin,
        role: None,
        tenant: of.clone(),
        elevated_from: None,
        device: None,
        trust: None,
        scope: None,
    };
    let people = everyone().into_iter().take(4).map(|one| Who::of(&one));
    for who in [plugin("acme/plugin/hello"), plugin("acme/plugin/other")].into_iter().chain(people) {
        for resource in things() {
            for (at, act) in HostAct::ALL.into_iter().enumerate() {
                let mut occasion = Occasion::some((at % 2 == 0).then_some(Role::Developer)).unwrap();
                occasion.name = if at % 3 == 0 { "invoices/1".to_owned() } else { String::new() };
                let (who, resource) = (who.clone(), resource.clone());
                all.push(Question { occasion: Some(occasion), ..Question::plain(who, act.as_str(), resource) });
            }
            if who.kind == PrincipalKind::Plugin {
                for action in ["invoke", "read-tenant", "write-policy", "write-secret", "open-personal-field"] {
                    all.push(Question::plain(who.clone(), action, resource.clone()));
                }
            }
        }
    }
    all
}

/// Which actions only read, from core's own table.
fn reads() -> Vec<&'static str> {
    fn of<A: Action>() -> (&'static str, bool) {
        (A::NAME, A::MUTATES)
    }
    macro_rules! all { ($($name:ident)*) => { [$(of::<act::$name>()),*] } }
    let all = all![Invoke ListTenants CreateTenant ReadTenant SuspendTenant SetQuota DeleteTenant ReadKeys RotateKeys DisableKeys DestroyKeys ReadPlugin PushVersion
        DeployVersion GrantCapability ReadLogs ReadConfig WriteConfig ListSecrets WriteSecret ListTokens CreateToken RevokeToken ReadPolicy
        WritePolicy SetCeiling ApproveChange RequestElevation ReadAudit StreamAudit RecordEvent ManageAudit HoldAudit ReadDecision ReadUsage ReadBackup WriteBackup RestoreBackup TakeRecoveryKey ReadHost OpenPersonalField ReadSubject EraseSubject
        ReviewAccess DeclareHook ReadAutomation WriteAutomation CallHook SendMessage ReadThreat WriteThreat RespondThreat StartRun ReadRun ManageRun ApproveRun
        WriteCheck Remediate ChooseHostCalls];
    assert_eq!(all.len(), act::ACTIONS.len(), "an action is missing in this test");
    all.into_iter().filter(|(_, mutates)| !mutates).map(|(name, _)| name).collect()
}

/// What the border means, told a third time and independently of `boundary.cedar` and `guard.rs`.
pub(crate) fn within_the_border(question: &Question, standing: Standing) -> bool {
    let suspended = standing == Standing::Suspended && question.resource.tenant().is_some();
    if !within_the_scope(question) {
        return false;
    }
    let by_plugin = question.who.kind == PrincipalKind::Plugin;
    if by_plugin || HostAct::of_word(question.action).is_some() {
        let own = question.resource.tenant() == question.who.tenant.as_ref();
        return by_plugin && own && HostAct::of_word(question.action).is_some() && !suspended;
    }
    match question.who.role {
        None => question.action == "invoke" && !suspended,
        Some(Role::Operator) => match question.resource {
            Resource::Host => true,
            _ => [
                "read-tenant",
                "suspend-tenant",
                "set-quota",
                "set-ceiling",
                "delete-tenant",
                "create-token",
                "read-usage",
                "read-keys",
                "rotate-keys",
                "disable-keys",
                "destroy-keys",
                "read-backup",
                "write-backup",
                "restore-backup",
                "hold-audit",
            ]
            .contains(&question.action),
        },
        Some(role) => {
            let keeps_tenants = [
                "list-tenants",
                "create-tenant",
                "suspend-tenant",
                "set-quota",
                "set-ceiling",
                "delete-tenant",
                "read-host",
                "destroy-keys",
            ];
            let reader = [Role::TenantAdmin, Role::Auditor].contains(&role) && reads().contains(&question.action);
            question.resource.tenant() == question.who.tenant.as_ref()
                && !keeps_tenants.contains(&question.action)
                && (question.who.elevated_from.is_none() || !super::tests_scopes::MAKERS.contains(&question.action))
                && (!suspended || reader)
        }
    }
}

/// Every question that Cedar alone answers with yes although the border forbids it, under permit-all policies.
fn breaches(policy: &Policy, standing: Standing) -> Vec<String> {
    let rules = policy.shared.checker.check(&tenant("acme"), PERMIT_ALL, Author::Tenant).unwrap().rules;
    beyond(standing)
        .filter(|(_, asked)| policy.shared.checker.ask(asked, [None, Some(&rules)]).outcome == Outcome::Allow)
        .map(|(question, _)| format!("{} {} {}", question.who.id, question.action, question.resource))
        .collect()
}

fn platform_without(id: &str) -> String {
    let whole: PolicySet = format!("{BOUNDARY}\n{ROLES}").parse().unwrap();
    assert!(whole.policies().any(|policy| policy.annotation("id") == Some(id)), "`{id}` is no policy");
    whole.policies().filter(|policy| policy.annotation("id") != Some(id)).map(|policy| format!("{policy}\n")).collect()
}

pub(crate) fn denied(result: Result<Permit<impl Action>, Denial>) -> Denial {
    result.err().expect("it was allowed")
}

// === the border ===

#[test]
fn no_policy_of_a_tenant_gets_past_the_border() {
    for standing in [Standing::Active, Standing::Suspended] {
        let policy = with(standing, PERMIT_ALL);
        assert_eq!(breaches(&policy, standing), Vec::<String>::new(), "Cedar alone");
        for question in questions() {
            if policy.shared.rule(&question).outcome == Outcome::Allow {
                assert!(within_the_border(&question, standing), "{question:?}");
            }
        }
    }
}

#[test]
fn permit_all_opens_everything_within_the_border() {
    // Without this the test above would pass for policies that never allow anything.
    let policy = with(Standing::Active, PERMIT_ALL);
    for name in ["acme", "beta"] {
        assert!(
            policy
                .permit::<act::WriteSecret>(&service(name, Role::Caller), &Resource::Tenant { tenant: tenant(name) })
                .is_ok()
        );
        assert!(policy.permit::<act::Invoke>(&anonymous(), &plugin(name, "hello")).is_ok());
    }
}

#[test]
fn each_boundary_policy_holds_something_that_nothing_else_in_cedar_does() {
    for (id, standing) in [
        ("boundary.tenant", Standing::Active),
        ("boundary.operator", Standing::Active),
        ("boundary.operator-alone", Standing::Active),
        ("boundary.anonymous", Standing::Active),
        ("boundary.approver", Standing::Active),
        ("boundary.scope", Standing::Active),
        ("boundary.scope-operator", Standing::Active),
        ("boundary.scope-makers", Standing::Active),
        ("boundary.suspended", Standing::Suspended),
    ] {
        let policy = Policy::with_platform(entropy(), clock(), &platform_without(id)).unwrap();
        assert!(!breaches(&policy, standing).is_empty(), "`{id}` can be removed and nothing notices");
    }
}

#[test]
fn the_second_wall_holds_when_the_first_is_gone() {
    for id in
        ["boundary.tenant", "boundary.operator", "boundary.operator-alone", "boundary.anonymous", "boundary.approver"]
            .into_iter()
            .chain(crate::decision::SCOPE)
    {
        let policy = Policy::with_platform(entropy(), clock(), &platform_without(id)).unwrap();
        for name in ["acme", "beta"] {
            policy.upsert_tenant(&tenant(name), TenantFacts { suspended: Standing::Active }, Some(PERMIT_ALL)).unwrap();
        }
        for (question, _) in beyond(Standing::Active) {
            assert_eq!(policy.shared.rule(question).outcome, Outcome::Deny, "without `{id}`: {question:?}");
        }
    }
}

#[test]
fn a_tenants_policies_say_nothing_about_another_tenant() {
    let policy = active();
    policy.set_tenant_policy(&tenant("beta"), PERMIT_ALL).unwrap();
    denied(policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "hello")));
    assert!(policy.permit::<act::Invoke>(&anonymous(), &plugin("beta", "hello")).is_ok());
}

#[test]
fn a_tenant_cannot_forbid_operators_their_work() {
    let policy = active();
    policy.set_tenant_policy(&tenant("acme"), "forbid (principal, action == Ringfence::Action::\"suspend-tenant\", resource);\nforbid (principal, action == Ringfence::Action::\"read-tenant\", resource);").unwrap();
    let acme = Resource::Tenant { tenant: tenant("acme") };
    assert!(policy.permit::<act::SuspendTenant>(&operator(), &acme).is_ok());
    assert!(policy.permit::<act::ReadTenant>(&operator(), &acme).is_ok());
    denied(policy.permit::<act::ReadTenant>(&service("acme", Role::TenantAdmin), &acme));
}

// === errors are denials ===

#[test]
fn a_forbid_that_fails_to_evaluate_denies_although_all_is_permitted() {
    let policy = active();
    let text = format!(
        "{PERMIT_ALL}\n@id(\"overflow\")\nforbid (principal, action == Ringfence::Action::\"invoke\", resource) when {{ 9223372036854775807 + 1 > 0 }};"
    );
    policy.set_tenant_policy(&tenant("acme"), &text).unwrap();
    let denial = denied(policy.permit::<act::Invoke>(&service("acme", Role::TenantAdmin), &plugin("acme", "hello")));
    assert_eq!(denial.record().errors.len(), 1, "{:?}", denial.record());
    assert!(denial.record().help.contains("could not be evaluated"));
    assert!(policy.permit::<act::ReadPlugin>(&service("acme", Role::TenantAdmin), &plugin("acme", "hello")).is_ok());
}

#[test]
fn an_unknown_tenant_is_denied_and_hidden() {
    let policy = with(Standing::Active, PERMIT_ALL);
    let unknown = Resource::Tenant { tenant: tenant("nobody") };
    for principal in everyone() {
        let denial = denied(policy.permit::<act::ReadTenant>(&principal, &unknown));
        assert_eq!((denial.visible, denial.record().tenant.clone()), (Visibility::Hidden, None));
    }
}

#[test]
fn a_principal_of_a_forgotten_tenant_is_denied() {
    let policy = with(Standing::Active, PERMIT_ALL);
    let admin = service("acme", Role::TenantAdmin);
    assert!(policy.permit::<act::ReadTenant>(&admin, &Resource::Tenant { tenant: tenant("acme") }).is_ok());
    policy.remove_tenant(&tenant("acme"));
    denied(policy.permit::<act::ReadTenant>(&admin, &Resource::Tenant { tenant: tenant("acme") }));
    denied(policy.permit::<act::ReadTenant>(&admin, &Resource::Tenant { tenant: tenant("beta") }));
    denied(policy.permit::<act::ReadHost>(&admin, &Resource::Host));
}

#[test]
fn principals_that_identity_never_makes_are_denied() {
    let policy = with(Standing::Active, PERMIT_ALL);
    for odd in [
        principal("acme/ada", PrincipalKind::Person, Some(Role::Operator), Some("acme")),
        principal("acme/ada", PrincipalKind::Person, Some(Role::TenantAdmin), None),
        principal("acme/ada", PrincipalKind::Service, None, Some("acme")),
        principal("anonymous", PrincipalKind::Anonymous, Some(Role::TenantAdmin), Some("acme")),
        principal("anonymous", PrincipalKind::Anonymous, None, Some("acme")),
    ] {
        let denial = denied(policy.permit::<act::Invoke>(&odd, &plugin("acme", "hello")));
        assert_eq!(denial.record().errors, ["the principal has a role its kind cannot have"]);
        denied(policy.permit::<act::ReadHost>(&odd, &Resource::Host));
    }
}

#[test]
fn an_action_on_the_wrong_kind_of_thing_is_denied() {
    let policy = with(Standing::Active, PERMIT_ALL);
    denied(policy.permit::<act::ListTenants>(&operator(), &Resource::Tenant { tenant: tenant("acme") }));
    denied(
        policy.permit::<act::Invoke>(&service("acme", Role::TenantAdmin), &Resource::Tenant { tenant: tenant("acme") }),
    );
}

// === roles ===

#[test]
fn the_schema_knows_exactly_the_actions_of_core_and_the_acts_of_guests() {
    let policy = active();
    let mut ours: Vec<String> =
        policy.shared.checker.words.schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
    let guests = HostAct::ALL.map(HostAct::as_str);
    let mut cores: Vec<String> = act::ACTIONS.iter().chain(&guests).map(ToString::to_string).collect();
    ours.sort();
    cores.sort();
    assert_eq!(ours, cores);
}

#[test]
fn the_role_matrix_is_the_one_on_record() {
    let policy = active();
    let columns = [
        ("operator", operator()),
        ("tenant-admin", service("acme", Role::TenantAdmin)),
        ("developer", service("acme", Role::Developer)),
        ("auditor", service("acme", Role::Auditor)),
        ("caller", service("acme", Role::Caller)),
        ("anonymous", anonymous()),
    ];
    let mut table = format!("{:20}", "action");
    columns.iter().for_each(|(name, _)| table.push_str(&format!("{name:14}")));
    for action in act::ACTIONS {
        table = format!("{}\n{action:20}", table.trim_end());
        for (_, principal) in &columns {
            let mut on: Vec<&str> = Vec::new();
            for resource in
                everything().into_iter().filter(|resource| resource.tenant().is_none_or(|of| of.as_str() == "acme"))
            {
                let word = if resource == Resource::Host { "host" } else { "tenant" };
                let question = Question::plain(Who::of(principal), action, resource);
                if policy.shared.rule(&question).outcome == Outcome::Allow && !on.contains(&word) {
                    on.push(word);
                }
            }
            table.push_str(&format!("{:14}", if on.is_empty() { "-".to_owned() } else { on.join(",") }));
        }
    }
    let table = format!("{}\n", table.trim_end());
    assert_eq!(table, include_str!("../tests/golden/role-matrix.txt"), "the matrix is now:\n{table}");
}

#[test]
fn a_field_is_opened_for_those_whom_the_tenants_policy_names_and_nobody_else() {
    let policy = active();
    let field = |name: &str| Resource::Field { tenant: tenant("acme"), field: name.parse().unwrap() };
    for principal in everyone() {
        denied(policy.permit::<act::OpenPersonalField>(&principal, &field("email")));
    }
    let text = "permit (principal, action == Ringfence::Action::\"open-personal-field\", resource == Ringfence::Field::\"acme/email\");";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    assert!(policy.permit::<act::OpenPersonalField>(&service("acme", Role::Caller), &field("email")).is_ok());
    denied(policy.permit::<act::OpenPersonalField>(&service("acme", Role::TenantAdmin), &field("phone")));
    for stranger in [operator(), anonymous(), service("beta", Role::TenantAdmin)] {
        denied(policy.permit::<act::OpenPersonalField>(&stranger, &field("email")));
    }
}

#[test]
fn nothing_is_open_to_anonymous_callers_by_default() {
    let policy = active();
    for question in questions().into_iter().filter(|question| question.who.kind == PrincipalKind::Anonymous) {
        assert_eq!(policy.shared.rule(&question).outcome, Outcome::Deny, "{question:?}");
    }
}

#[test]
fn a_tenant_can_open_one_plugin_to_everyone() {
    let policy = active();
    let text =
        "permit (principal, action == Ringfence::Action::\"invoke\", resource == Ringfence::Plugin::\"acme/hello\");";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    assert!(policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "hello")).is_ok());
    denied(policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "other")));
    // Everyone is everyone without credentials: other tenants' principals stay out.
    let denial = denied(policy.permit::<act::Invoke>(&service("beta", Role::Caller), &plugin("acme", "hello")));
    assert_eq!(denial.visible, Visibility::Hidden);
    let analysis = policy.check_tenant_policy(&tenant("acme"), text).unwrap();
    let texts: Vec<&str> = analysis.findings.iter().map(|finding| finding.text.as_str()).collect();
    assert_eq!(texts, ["`tenant/1` can let callers who show no credentials invoke plugins"]);
}

#[test]
fn a_tenant_can_permit_and_forbid_by_role_and_by_principal() {
    let policy = active();
    let text = "\
        @id(\"devs-set-secrets\") permit (principal, action == Ringfence::Action::\"write-secret\", resource in Ringfence::Tenant::\"acme\") when { principal has role && principal.role == Ringfence::Role::\"developer\" };\n\
        @id(\"not-ci\") forbid (principal == Ringfence::Service::\"acme/ci\", action == Ringfence::Action::\"deploy-version\", resource);";
    policy.set_tenant_policy(&tenant("acme"), text).unwrap();
    let developer = service("acme", Role::Developer);
    let secret = Resource::Secret { tenant: tenant("acme"), name: "key".parse().unwrap() };
    assert!(policy.permit::<act::WriteSecret>(&developer, &secret).is_ok());
    denied(policy.permit::<act::WriteSecret>(&service("acme", Role::Caller), &secret));
    let denial = denied(policy.permit::<act::DeployVersion>(&developer, &plugin("acme", "hello")));
    assert_eq!(
        denial.record().help,
        "policy `tenant/not-ci` of tenant `acme` forbids it; a tenant-admin can change it"
    );
    assert_eq!(denial.record().determining[0].effect, Effect::Forbid);
}

#[test]
fn a_suspended_tenant_is_read_by_its_admins_and_auditors_only() {
    let policy = active();
    let admin = service("acme", Role::TenantAdmin);
    assert!(policy.permit::<act::PushVersion>(&admin, &plugin("acme", "hello")).is_ok());
    policy.upsert_tenant(&tenant("acme"), TenantFacts { suspended: Standing::Suspended }, None).unwrap();
    assert!(policy.permit::<act::ReadLogs>(&admin, &plugin("acme", "hello")).is_ok());
    assert!(
        policy
            .permit::<act::ReadAudit>(&service("acme", Role::Auditor), &Resource::Tenant { tenant: tenant("acme") })
            .is_ok()
    );
    denied(policy.permit::<act::Invoke>(&service("acme", Role::Caller), &plugin("acme", "hello")));
    denied(policy.permit::<act::ReadPlugin>(&service("acme", Role::Developer), &plugin("acme", "hello")));
    let denial = denied(policy.permit::<act::PushVersion>(&admin, &plugin("acme", "hello")));
    assert_eq!(denial.record().help, "tenant `acme` is suspended; an operator can run `ringfence tenant resume acme`");
    assert!(policy.permit::<act::SuspendTenant>(&operator(), &Resource::Tenant { tenant: tenant("acme") }).is_ok());
    policy.set_standing(&tenant("acme"), Standing::Active).unwrap();
    assert!(policy.permit::<act::PushVersion>(&admin, &plugin("acme", "hello")).is_ok());
    policy.set_standing(&tenant("acme"), Standing::Suspended).unwrap();
    denied(policy.permit::<act::PushVersion>(&admin, &plugin("acme", "hello")));
    assert!(policy.set_standing(&tenant("nobody"), Standing::Active).is_err());
}

// === texts ===

#[test]
fn a_policy_that_names_what_is_not_the_tenants_is_refused_with_its_place() {
    let policy = active();
    for (entity, help) in [
        ("Ringfence::Plugin::\"beta/hello\"", "ids start with the tenant: Ringfence::Plugin::\"acme/...\""),
        ("Ringfence::Plugin::\"acme\"", "ids start with the tenant: Ringfence::Plugin::\"acme/...\""),
        ("Ringfence::Plugin::\"acmee/hello\"", "ids start with the tenant: Ringfence::Plugin::\"acme/...\""),
        ("Ringfence::Tenant::\"beta\"", "write Ringfence::Tenant::\"acme\""),
        ("Ringfence::Host::\"host\"", "operators and the host are the platform's to decide about"),
    ] {
        let text = format!("permit (principal, action, resource)\nwhen {{ resource == {entity} }};");
        let error = policy.set_tenant_policy(&tenant("acme"), &text).unwrap_err();
        let PolicyError::Invalid { line, column, message, help: given } = error else { panic!("{entity}: {error:?}") };
        assert_eq!((line, column, given.as_deref()), (2, 20, Some(help)), "{message}");
        assert!(message.contains("is not of tenant `acme`"), "{message}");
    }
    for text in [
        "permit (principal == Ringfence::Operator::\"operator/ada\", action, resource);",
        "permit (principal == Ringfence::Service::\"beta/ci\", action, resource);",
        "permit (principal, action, resource in Ringfence::Tenant::\"beta\");",
        "permit (principal, action, resource) when { resource has tenant && resource.tenant == Ringfence::Tenant::\"beta\" };",
        "permit (principal, action, resource) unless { [Ringfence::Service::\"beta/ci\"].contains(principal) };",
    ] {
        let error = policy.set_tenant_policy(&tenant("acme"), text).unwrap_err();
        assert!(matches!(error, PolicyError::Invalid { .. }), "{text}: {error}");
    }
}

#[test]
fn mistakes_are_named_with_line_and_column() {
    let policy = active();
    let mut all = String::new();
    for text in [
        "permit (principal, action, resource)\n  wen { true };",
        "permit (principal, action, resource)",
        "\npermit (principal, action == Ringfence::Action::\"invok\", resource);",
        "permit (principal is Ringfence::Sevice, action, resource);",
        "permit (principal, action, resource) when { principal has role && principal.role == Ringfence::Role::\"admin\" };",
        "permit (principal, action, resource);\nforbid (principal, action == Ringfence::Action::\"invoke\", resource)\nwhen { principal.role == Ringfence::Role::\"caller\" };",
        "permit (principal == ?principal, action, resource);",
    ] {
        let error = policy.check_tenant_policy(&tenant("acme"), text).unwrap_err();
        let PolicyError::Invalid { help, .. } = &error else { panic!("{error:?}") };
        all.push_str(&format!("{text}\n  -> {error}\n     help: {}\n\n", help.as_deref().unwrap_or("-")));
    }
    assert_eq!(all.trim_end(), include_str!("../tests/golden/mistakes.txt").trim_end(), "they are now:\n{all}");
}

#[test]
fn caps_on_texts_hold() {
    let policy = active();
    let acme = tenant("acme");
    let long = format!("// {}", "x".repeat(2 << 20));
    assert!(matches!(policy.set_tenant_policy(&acme, &long), Err(PolicyError::TooLong { .. })));
    let many = "permit (principal, action, resource);\n".repeat(10_001);
    assert!(matches!(policy.set_tenant_policy(&acme, &many), Err(PolicyError::TooMany { count: 10_001, .. })));
    let broad = PERMIT_ALL.repeat(257);
    assert!(matches!(policy.set_tenant_policy(&acme, &broad), Err(PolicyError::TooBroad { count: 257, .. })));
    assert!(policy.set_tenant_policy(&acme, &PERMIT_ALL.repeat(256)).is_ok());
    assert!(matches!(policy.set_tenant_policy(&tenant("nobody"), ""), Err(PolicyError::UnknownTenant { .. })));
    assert!(matches!(
        policy.upsert_tenant(&tenant("operator"), TenantFacts { suspended: Standing::Active }, None),
        Err(PolicyError::Reserved { .. })
    ));
}

#[test]
fn the_deepest_text_that_is_taken_fits_a_small_stack() {
    let policy = active();
    let shapes = [
        format!("{}true{}", "(".repeat(28), ")".repeat(28)),
        format!("true {}", "&& true ".repeat(120)),
        format!("true {}", "|| false ".repeat(120)),
        format!("1 {} == 1", "+ 1".repeat(240)),
        format!("{}true{}", "if true then ".repeat(80), " else false".repeat(80)),
        format!("{}[]{} == []", "[".repeat(28), "]".repeat(28)),
        format!("principal {} == principal", ".tenant".repeat(240)),
    ];
    for shape in shapes {
        let text = format!("forbid (principal, action == Ringfence::Action::\"invoke\", resource) when {{ {shape} }};");
        let policy = policy.clone();
        // Tokio's workers have 2 MiB.
        let small = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
            let taken = policy.set_tenant_policy(&tenant("acme"), &text);
            let _ = policy.permit::<act::Invoke>(&service("acme", Role::Caller), &plugin("acme", "hello"));
            taken.err().map(|error| error.to_string())
        });
        let error = small.unwrap().join().unwrap();
        assert!(
            !error.is_some_and(|error| error.contains("nested") || error.contains("operators")),
            "the shape must reach Cedar: {shape}"
        );
    }
}

#[test]
fn a_policy_that_locks_every_admin_out_is_refused() {
    let policy = active();
    let error = policy.set_tenant_policy(&tenant("acme"), "forbid (principal, action, resource);").unwrap_err();
    assert_eq!(error, PolicyError::LocksOut { action: "write-policy" });
    assert!(
        policy
            .permit::<act::WritePolicy>(
                &service("acme", Role::TenantAdmin),
                &Resource::Tenant { tenant: tenant("acme") }
            )
            .is_ok()
    );
}

#[test]
fn a_refused_text_changes_nothing() {
    let policy = active();
    let version = policy.set_tenant_policy(&tenant("acme"), PERMIT_ALL).unwrap();
    policy.set_tenant_policy(&tenant("acme"), "permit").unwrap_err();
    assert_eq!(policy.tenant_policy(&tenant("acme")), Some((Arc::from(PERMIT_ALL), version)));
}

#[test]
fn the_next_decision_follows_the_new_policy() {
    let policy = active();
    let ask = || policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "hello")).is_ok();
    assert!(!ask());
    policy.set_tenant_policy(&tenant("acme"), PERMIT_ALL).unwrap();
    assert!(ask() && ask());
    policy.set_tenant_policy(&tenant("acme"), "").unwrap();
    assert!(!ask());
    policy.remove_tenant(&tenant("acme"));
    policy.upsert_tenant(&tenant("acme"), TenantFacts { suspended: Standing::Active }, Some(PERMIT_ALL)).unwrap();
    assert!(ask());
}

// === what a denial says ===

#[test]
fn a_denial_names_its_policy_the_closest_role_and_what_to_do() {
    let policy = active();
    let denial =
        denied(policy.permit::<act::GrantCapability>(&service("acme", Role::Developer), &plugin("acme", "hello")));
    assert_eq!(denial.visible, Visibility::Explained);
    let mut record = serde_json::to_value(denial.record()).unwrap();
    assert_eq!(record["decision"], denial.decision.as_str());
    record["decision"] = "d_".into();
    record["policy_version"] = 0.into();
    let text = serde_json::to_string_pretty(&record).unwrap();
    assert_eq!(text, include_str!("../tests/golden/denial.json").trim_end(), "{text}");
}

#[test]
fn help_fits_who_was_denied() {
    let policy = active();
    let help = |denial: Denial| denial.record().help.clone();
    assert_eq!(
        help(denied(policy.permit::<act::Invoke>(&anonymous(), &plugin("acme", "hello")))),
        "sign in with a key of tenant `acme`, or a tenant-admin can open it to everyone: permit (principal, action == Ringfence::Action::\"invoke\", resource == Ringfence::Plugin::\"acme/hello\");"
    );
    assert_eq!(
        help(denied(policy.permit::<act::ReadLogs>(&operator(), &plugin("acme", "hello")))),
        "operators see no tenant's data; sign in with a `developer` key of tenant `acme`"
    );
    assert_eq!(
        help(denied(policy.permit::<act::ListTenants>(&service("acme", Role::TenantAdmin), &Resource::Host))),
        "only an operator of this host can do it"
    );
    assert_eq!(
        help(denied(policy.permit::<act::ReadTenant>(
            &service("beta", Role::TenantAdmin),
            &Resource::Tenant { tenant: tenant("acme") }
        ))),
        "for this principal the thing does not exist; check the name and the tenant"
    );
}

#[test]
fn another_tenants_things_are_hidden_and_ones_own_and_the_hosts_are_not() {
    let policy = active();
    let caller = service("acme", Role::Caller);
    let seen = |denial: Denial| denial.visible;
    assert_eq!(seen(denied(policy.permit::<act::Invoke>(&caller, &plugin("beta", "hello")))), Visibility::Hidden);
    assert_eq!(seen(denied(policy.permit::<act::ReadLogs>(&caller, &plugin("acme", "hello")))), Visibility::Explained);
    assert_eq!(seen(denied(policy.permit::<act::ReadHost>(&caller, &Resource::Host))), Visibility::Explained);
    assert_eq!(
        seen(denied(policy.permit::<act::ReadLogs>(&operator(), &plugin("acme", "hello")))),
        Visibility::Explained
    );
}

#[test]
fn a_hidden_denial_is_on_record_with_the_tenant_that_was_tried() {
    let denial = denied(active().permit::<act::Invoke>(&service("acme", Role::Caller), &plugin("beta", "hello")));
    assert_eq!(denial.record().tenant, Some(tenant("beta")));
    assert_eq!(denial.record().readable_under(), Resource::Tenant { tenant: tenant("beta") });
    assert_eq!(denial.record().determining[0].id, "boundary.tenant");
    assert_eq!(denial.record().closest, None);
    let own = denied(active().permit::<act::ReadLogs>(&operator(), &plugin("acme", "hello")));
    assert_eq!(own.record().readable_under(), Resource::Host);
}

#[test]
fn each_asking_has_its_own_decision_id() {
    let policy = active();
    let (caller, hello) = (service("acme", Role::Caller), plugin("acme", "hello"));
    let (first, second) = (
        policy.permit::<act::Invoke>(&caller, &hello).unwrap(),
        policy.permit::<act::Invoke>(&caller, &hello).unwrap(),
    );
    assert_ne!(first.decision(), second.decision());
    assert_eq!((first.principal(), first.resource(), first.action()), (caller.id(), &hello, "invoke"));
}

#[test]
fn a_remembered_answer_is_the_one_the_policies_give() {
    let policy = with(Standing::Active, PERMIT_ALL);
    for question in questions() {
        let (first, again) = (policy.shared.rule(&question), policy.shared.rule(&question));
        assert_eq!((first.outcome, &first.determining), (again.outcome, &again.determining));
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let policy = active();
    for number in 0..POLICY_CACHED_PER_TENANT_COUNT_MAX + 10 {
        let who = principal(&format!("acme/p{number}"), PrincipalKind::Service, Some(Role::Caller), Some("acme"));
        policy.shared.rule(&Question::plain(Who::of(&who), "invoke", plugin("acme", "hello")));
    }
    // Emptied once, and ten since.
    assert_eq!(policy.shared.answers.count_of(&tenant("acme")), 10);
    policy.remove_tenant(&tenant("acme"));
    assert_eq!(policy.shared.answers.count_of(&tenant("acme")), 0);
}

/// For all texts.
static TAKES_TEXTS: LazyLock<Policy> = LazyLock::new(active);

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_without_a_panic(text in "[a-z(){}\\[\\];:\"&|!.= \n@?\\\\/]{0,120}") {
        let _ = TAKES_TEXTS.set_tenant_policy(&tenant("acme"), &text);
    }
}
