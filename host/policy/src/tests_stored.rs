//! What is stored of a tenant: put into force whole or not at all, told without a word of the tenant's, and moved with it.

use super::tests::*;
use super::*;

const NAMING: &str =
    "forbid (principal == Ringfence::Service::\"acme/ci\", action == Ringfence::Action::\"invoke\", resource);";
const LABELS: &str = "{\"principals\":{\"acme/ci\":{\"training\":[\"gdpr\"]}}}";

fn stored(text: &str, ceiling: &str, labels: &str, shadow: &str) -> StoredPolicy {
    let some = |text: &str| Some(text.to_owned());
    StoredPolicy {
        text: some(text),
        ceiling: some(ceiling),
        labels: some(labels),
        shadow: some(shadow),
        elevations: Vec::new(),
    }
}

#[test]
fn what_does_not_fit_is_named_by_its_piece_and_nothing_of_it_comes_into_force() {
    let policy = active();
    let acme = tenant("acme");
    policy.put_into_force(&acme, Standing::Active, stored(NAMING, "", LABELS, NAMING)).unwrap();
    let before = policy.tenant_policy(&acme).unwrap();
    let foreign = |text: &str| text.replace("acme/", "bolt/");
    for (unfit, piece) in [
        (stored(&foreign(NAMING), "", LABELS, ""), Piece::Policy),
        (stored("", &foreign(NAMING), "{}", ""), Piece::Ceiling),
        (stored("", "permit (principal, action, resource);", "{}", ""), Piece::Ceiling),
        (stored("", "", &foreign(LABELS), ""), Piece::Labels),
        (stored("", "", "[", ""), Piece::Labels),
        (stored("", "", LABELS, "mallory"), Piece::Shadow),
    ] {
        let error = policy.check_stored(&acme, &unfit).unwrap_err();
        assert_eq!(error.piece, piece, "{unfit:?}");
        assert_eq!(policy.put_into_force(&acme, Standing::Active, unfit).unwrap_err(), error);
        let told = error.to_string();
        assert!(told.starts_with(&piece.to_string()), "{told}");
        assert!(!told.contains("bolt") && !told.contains("mallory"), "{told}");
        assert_eq!(policy.tenant_policy(&acme).unwrap(), before);
    }
    // What is stored no more is in force no more.
    policy.put_into_force(&acme, Standing::Active, StoredPolicy::default()).unwrap();
    assert_eq!(&*policy.tenant_policy(&acme).unwrap().0, "");
    assert!(policy.shadow(&acme).is_none());
}

#[test]
fn what_is_moved_fits_under_the_new_name_and_says_the_same_there() {
    let policy = active();
    let (acme, copy) = (tenant("acme"), tenant("copy"));
    let old = stored(NAMING, NAMING, LABELS, NAMING);
    assert_eq!(policy.check_stored(&copy, &old).unwrap_err().piece, Piece::Policy);
    let new = old.moved(&acme, &copy);
    policy.put_into_force(&copy, Standing::Active, new.clone()).unwrap();
    let invokes = || policy.permit::<act::Invoke>(&service("copy", Role::Caller), &plugin("copy", "hello")).is_ok();
    assert!(!invokes());
    assert_eq!(new.moved(&copy, &acme).text.as_deref(), Some(NAMING));
    policy.put_into_force(&copy, Standing::Active, StoredPolicy::default()).unwrap();
    assert!(invokes());
    let reserved = policy.check_stored(&tenant("operator"), &StoredPolicy::default()).unwrap_err();
    assert!(matches!(reserved.error, PolicyError::Reserved { .. }), "{reserved}");
}
