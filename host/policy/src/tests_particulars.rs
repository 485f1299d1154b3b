//! What acts are about, in rules: a rule that forbids, one that allows, what is remembered, and what a denial says of it.

use ringfence_core::Capability;
use ringfence_core::proof::act;

use super::tests::*;
use super::*;

/// Developers grant buckets, and nothing else.
const BUCKETS: &str = "@id(\"buckets\") permit (principal, action == Ringfence::Action::\"grant-capability\", resource) \
    when { principal has role && principal.role == Ringfence::Role::\"developer\" } \
    when { context has capability && context.capability == Ringfence::Capability::\"keyvalue\" };";

/// Who pushed does not deploy.
const FOUR_EYES: &str = "@id(\"four-eyes\") forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) \
    when { context has pushed_by_caller && context.pushed_by_caller };";

/// Only the first line of versions, and to more than a tenth of the calls only what another pushed.
const CAREFUL: &str = "@id(\"first-line\") forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) \
    when { context has version } unless { context has version && context.version like \"1.*\" }; \
    @id(\"a-tenth\") forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) \
    when { context has percent && context.percent > 10 } \
    unless { context has pushed_by_caller && !context.pushed_by_caller };";

/// Keys of admins are made by people.
const ADMINS: &str = "@id(\"admins\") forbid (principal is Ringfence::Service, action == Ringfence::Action::\"create-token\", resource) \
    when { context has asked_role && context.asked_role == Ringfence::Role::\"tenant-admin\" };";

/// One place outside, and no other.
const ONE_PLACE: &str = "@id(\"one-place\") forbid (principal, action == Ringfence::Action::\"grant-capability\", resource) \
    when { context has capability && context.capability == Ringfence::Capability::\"http\" } \
    unless { context has scope && [\"https://api.example.com\"].containsAll(context.scope) };";

fn grant(capability: Capability, scope: &[&str]) -> Option<Particulars> {
    Some(Particulars::Grant { capability, scope: scope.iter().map(ToString::to_string).collect() })
}

fn deploy(version: &str, percent: u8, pushed_by_caller: bool) -> Option<Particulars> {
    Some(Particulars::Deploy { pushed_by_caller, version: version.to_owned(), percent })
}

fn asks<A: Action>(policy: &Policy, who: &Principal, about: Option<Particulars>) -> Result<(), Denial> {
    let hello = plugin("acme", "hello");
    let resource = if A::NAME == act::CreateToken::NAME { Resource::Tenant { tenant: tenant("acme") } } else { hello };
    policy.permit_for::<A>(who, None, &resource, about).map(drop)
}

fn denied_by(answer: Result<(), Denial>) -> Vec<String> {
    let Err(denial) = answer else { panic!("it is allowed") };
    denial.record().determining.into_iter().map(|reason| reason.id).collect()
}

#[test]
fn a_rule_allows_one_capability_and_no_other() {
    let policy = with(Standing::Active, BUCKETS);
    let developer = service("acme", Role::Developer);
    let grants = |about| asks::<act::GrantCapability>(&policy, &developer, about);
    // Twice each: no answer to one is given to another.
    for _ in 0..2 {
        assert!(grants(grant(Capability::Keyvalue, &["default"])).is_ok());
        assert!(grants(grant(Capability::Http, &["https://api.example.com"])).is_err());
        assert!(grants(None).is_err(), "taking away is not granting");
    }
}

#[test]
fn a_rule_forbids_by_what_a_grant_is_to_cover() {
    let policy = with(Standing::Active, ONE_PLACE);
    let admin = service("acme", Role::TenantAdmin);
    let grants = |about| asks::<act::GrantCapability>(&policy, &admin, about);
    assert!(grants(grant(Capability::Http, &["https://api.example.com"])).is_ok());
    let both = grant(Capability::Http, &["https://api.example.com", "https://other.example.com"]);
    assert_eq!(denied_by(grants(both)), ["tenant/one-place"]);
    assert!(grants(grant(Capability::Keyvalue, &["default"])).is_ok() && grants(None).is_ok());
}

#[test]
fn who_pushed_does_not_deploy_and_another_does() {
    let policy = with(Standing::Active, FOUR_EYES);
    let developer = service("acme", Role::Developer);
    let deploys = |by_caller| asks::<act::DeployVersion>(&policy, &developer, deploy("1.2.0", 100, by_caller));
    assert!(deploys(false).is_ok());
    assert_eq!(denied_by(deploys(true)), ["tenant/four-eyes"]);
    assert!(deploys(false).is_ok());
    assert!(asks::<act::DeployVersion>(&policy, &developer, None).is_ok(), "a route goes back");
}

#[test]
fn which_version_is_deployed_and_to_what_share_is_read() {
    let policy = with(Standing::Active, CAREFUL);
    let developer = service("acme", Role::Developer);
    let deploys = |about| asks::<act::DeployVersion>(&policy, &developer, about);
    // Twice each: no answer to one is given to another.
    for _ in 0..2 {
        assert!(deploys(deploy("1.2.0", 10, true)).is_ok());
        assert_eq!(denied_by(deploys(deploy("1.2.0", 11, true))), ["tenant/a-tenth"]);
        assert!(deploys(deploy("1.2.0", 100, false)).is_ok());
        assert_eq!(denied_by(deploys(deploy("2.0.0", 10, false))), ["tenant/first-line"]);
        assert!(deploys(None).is_ok(), "a route goes back");
    }
}

#[test]
fn what_was_kept_of_a_deployment_before_it_had_a_version_is_still_read() {
    let kept: Particulars = serde_json::from_str(r#"{"kind":"deploy","pushed_by_caller":true}"#).unwrap();
    assert_eq!(Some(kept), deploy("", 0, true));
}

#[test]
fn the_role_of_a_new_key_is_read() {
    let policy = with(Standing::Active, ADMINS);
    let admin = service("acme", Role::TenantAdmin);
    let makes = |role| asks::<act::CreateToken>(&policy, &admin, Some(Particulars::Token { role }));
    assert!(makes(Role::Caller).is_ok());
    assert_eq!(denied_by(makes(Role::TenantAdmin)), ["tenant/admins"]);
    let ann = principal("acme/ann", PrincipalKind::Person, Some(Role::TenantAdmin), Some("acme"));
    let about = Some(Particulars::Token { role: Role::TenantAdmin });
    assert!(asks::<act::CreateToken>(&policy, &ann, about).is_ok());
}

#[test]
fn a_denial_says_what_the_act_was_about_and_its_remedies_allow_just_that() {
    let policy = with(Standing::Active, "");
    let developer = service("acme", Role::Developer);
    let http = grant(Capability::Http, &["https://api.example.com"]);
    let Err(denial) = asks::<act::GrantCapability>(&policy, &developer, http.clone()) else { panic!("it is allowed") };
    let asked = denial.record().asked.unwrap();
    assert_eq!(asked.about(), "tenant/acme/plugin/hello (http https://api.example.com)");
    let kept: Asked = serde_json::from_str(&serde_json::to_string(&asked).unwrap()).unwrap();
    assert_eq!(kept, asked);
    let statement = policy.remedies(&asked).into_iter().find(|remedy| remedy.kind == RemedyKind::Statement).unwrap();
    policy.set_tenant_policy(&tenant("acme"), &statement.change).unwrap();
    let grants = |about| asks::<act::GrantCapability>(&policy, &developer, about).is_ok();
    assert!(grants(http), "{}", statement.change);
    for other in [grant(Capability::Http, &["https://other.example.com"]), grant(Capability::Keyvalue, &[]), None] {
        assert!(!grants(other), "{}", statement.change);
    }

    policy.set_tenant_policy(&tenant("acme"), FOUR_EYES).unwrap();
    let about = deploy("1.2.0", 100, true);
    let Err(denial) = asks::<act::DeployVersion>(&policy, &developer, about) else { panic!("it is allowed") };
    assert_eq!(
        denial.record().help,
        "policy `tenant/four-eyes` of tenant `acme` forbids it; a tenant-admin can change it"
    );
    let asked = denial.record().asked.unwrap();
    assert_eq!(asked.about(), "tenant/acme/plugin/hello (1.2.0 at 100 %, pushed by who deploys it)");
    // A candidate without the rule is tried on it as it was asked.
    let review = policy.review(&tenant("acme"), "", std::slice::from_ref(&asked)).unwrap();
    assert_eq!(review.replay.newly_allowed.questions_count, 1);
    let exception = policy.remedies(&asked).into_iter().find(|remedy| remedy.kind == RemedyKind::Exception);
    let exception = exception.unwrap().change;
    assert!(exception.contains("context.pushed_by_caller") && exception.contains("1.2.0"), "{exception}");
}

#[test]
fn what_is_too_long_to_be_kept_is_decided_as_ever_and_counted_as_left_out() {
    let policy = with(Standing::Active, ONE_PLACE);
    let admin = service("acme", Role::TenantAdmin);
    let long: Vec<String> = (0..64).map(|number| format!("https://{number:060}.example.com")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let Err(denial) = asks::<act::GrantCapability>(&policy, &admin, grant(Capability::Http, &long)) else {
        panic!("it is allowed")
    };
    assert_eq!(denial.record().determining[0].id, "tenant/one-place");
    assert!(denial.record().asked.is_none());
    let taken = policy.take_asked(&tenant("acme")).unwrap();
    assert_eq!((taken.asked.len(), taken.left_out_count), (0, 1));
}

#[test]
fn every_capability_can_be_named_and_a_misspelt_one_is_an_error() {
    let policy = active();
    let text = |word: &str| {
        format!(
            "forbid (principal, action == Ringfence::Action::\"grant-capability\", resource) \
             when {{ context has capability && context.capability == Ringfence::Capability::\"{word}\" }};"
        )
    };
    for capability in Capability::ALL {
        policy.check_tenant_policy(&tenant("acme"), &text(capability.as_str())).unwrap();
    }
    assert!(policy.check_tenant_policy(&tenant("acme"), &text("htpp")).is_err());
    let unasked = "forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) when { context.pushed_by_caller };";
    assert!(policy.check_tenant_policy(&tenant("acme"), unasked).is_err(), "not every act has it");
}
