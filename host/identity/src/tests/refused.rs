//! Whom refusals are about: known to the record, and never to who was refused.

use super::*;

fn wrong(id: &str) -> Proof {
    Proof::ApiKey { key: SecretString::new(format!("rfk_{id}_{}", "b".repeat(52))) }
}

fn password(principal: &str) -> Proof {
    Proof::Password { principal: principal.to_owned(), password: SecretString::new("guess".to_owned()), code: None }
}

#[tokio::test]
async fn a_refused_sign_in_is_about_the_tenant_it_names_and_about_a_principal_only_if_there_is_one() {
    let host = Host::new().await;
    let (record, _) = host.key(Some("acme"), "ci", Role::Developer).await;
    let named = |proof: &Proof| {
        let named = host.identity.named_by(proof);
        (named.method, named.tenant, named.principal.map(|principal| principal.to_string()), named.key)
    };
    let (acme, ci) = (Some(tenant("acme")), Some("acme/ci".to_owned()));
    assert_eq!(named(&wrong(&record.id)), ("api_key", acme.clone(), ci, Some(record.id.clone())));
    assert_eq!(named(&wrong(&"a".repeat(16))), ("api_key", None, None, None));
    assert_eq!(named(&password("acme/nobody")), ("password", acme, None, None));
    for name in ["nowhere/ann", "operator/ann", "ann", "/", ""] {
        assert_eq!(named(&password(name)), ("password", None, None, None), "{name}");
    }
}

#[tokio::test]
async fn who_is_turned_away_meets_what_a_wrong_credential_meets_and_costs_the_same() {
    let host = Host::new().await;
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let hashes = || host.identity.shared.hasher.count();
    let before = hashes();
    unauthenticated(host.identity.authenticate(wrong(&record.id), HERE, &Shown::nothing()).await);
    let cost = hashes() - before;
    assert_eq!(cost, 1);
    for proof in [Proof::ApiKey { key: key.clone() }, wrong(&record.id), password("acme/ann")] {
        let before = hashes();
        unauthenticated(host.identity.turn_away(proof, HERE, &Shown::nothing()).await);
        assert_eq!(hashes() - before, cost);
    }
    // Its tries count, and the key is as good as it was.
    assert!(!host.identity.shared.throttle().debt_of(&record.id, host.identity.shared.clock.monotonic()).is_zero());
    host.sign_in(&key).await.unwrap();
}

#[tokio::test]
async fn a_bound_token_that_is_shown_alone_says_whose_it_is_and_other_refusals_say_nothing() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let session = host.identity.shared.read().session(&issued.session_id).cloned().unwrap();
    // The same session, bound to a key.
    let bound = crate::record::StoredSession { binding: Binding::Key("thumbprint".to_owned()), ..session };
    let now = host.identity.shared.now();
    host.identity.shared.write().open_session(bound, now);
    let text = issued.access_token.expose();
    let shown = Shown::bearer(text);
    let refused = host.identity.verify(&shown).unwrap_err();
    let untaken = host.identity.untaken(&shown, &refused).unwrap();
    assert_eq!((untaken.principal.as_str(), untaken.wrong), ("acme/ci", "no-proof"));
    assert_eq!(untaken.home.unwrap().label(), "acme");
    // An altered token, an ended session.
    let altered = format!("{text}a");
    let shown_altered = Shown::bearer(&altered);
    let refused = host.identity.verify(&shown_altered).unwrap_err();
    assert!(host.identity.untaken(&shown_altered, &refused).is_none());
    host.clock.pass(400);
    let refused = host.identity.verify(&shown).unwrap_err();
    assert!(host.identity.untaken(&shown, &refused).is_none());
}

#[tokio::test]
async fn an_invitation_is_about_who_is_invited_and_one_that_is_too_long_about_nobody() {
    let host = Host::new().await;
    let new = NewPerson { tenant: Some(tenant("acme")), name: "ann".parse().unwrap(), role: Role::Developer };
    let (_, token) = host.identity.invite(permit(Some("acme")), new).await.unwrap();
    let shows = |text: String| Proof::Invitation { token: SecretString::new(text), password: None };
    let named = |proof: &Proof| {
        let named = host.identity.named_by(proof);
        (named.tenant, named.principal.map(|principal| principal.to_string()))
    };
    assert_eq!(
        named(&shows(token.expose().to_owned())),
        (Some(tenant("acme")), Some("acme/ann".to_owned())),
        "the invitation that waits"
    );
    for other in [format!("{}x", token.expose()), "x".repeat(CREDENTIAL_BYTES_MAX + 1), String::new()] {
        assert_eq!(named(&shows(other.clone())), (None, None));
        unauthenticated(host.identity.authenticate(shows(other), HERE, &Shown::nothing()).await);
    }
    host.identity.authenticate(shows(token.expose().to_owned()), HERE, &Shown::nothing()).await.unwrap();
    assert_eq!(named(&shows(token.expose().to_owned())), (None, None), "it is used up");
}

#[tokio::test]
async fn who_must_wait_is_told_so_before_anything_is_looked_up_for_him() {
    let host = Host::new().await;
    let shows = || Proof::Invitation { token: SecretString::new("rfi_guess".to_owned()), password: None };
    while host.identity.may_try(&shows(), HERE).is_ok() {
        unauthenticated(host.identity.authenticate(shows(), HERE, &Shown::nothing()).await);
    }
    let asked = [
        host.identity.may_try(&shows(), HERE).unwrap_err(),
        host.identity.authenticate(shows(), HERE, &Shown::nothing()).await.unwrap_err(),
    ];
    for error in &asked {
        assert!(matches!(error, IdentityError::Throttled { .. }), "{error}");
    }
    assert_eq!(asked[0].to_string(), asked[1].to_string(), "the same answer");
    assert!(host.identity.may_try(&shows(), "198.51.100.7".parse().unwrap()).is_ok(), "others need not");
}
