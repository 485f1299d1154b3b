//! People: what proves them, what does not, and who counts as a second one.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ringfence_core::limits::SIGN_IN_KNOWN_COUNT_MAX;

use super::*;

const PASSWORD: &str = "correct horse battery";

impl Host {
    async fn invite(&self, of: Option<&str>, by: &str, name: &str, role: Role) -> SecretString {
        let new = NewPerson { tenant: of.map(tenant), name: name.parse().unwrap(), role };
        self.identity.invite(permit_by(by, place(of)), new).await.unwrap().1
    }

    async fn enrol_with(&self, token: &SecretString) -> Result<Issued, IdentityError> {
        let password = Some(SecretString::new(PASSWORD.to_owned()));
        let proof = Proof::Invitation { token: token.clone(), password };
        self.identity.authenticate(proof, HERE, &Shown::nothing()).await
    }

    async fn ann(&self) -> Issued {
        let token = self.invite(Some("acme"), "acme/root", "ann", Role::Developer).await;
        self.enrol_with(&token).await.unwrap()
    }

    async fn by_password(&self, name: &str, password: &str, code: Option<&str>) -> Result<Issued, IdentityError> {
        let secret = |text: &str| SecretString::new(text.to_owned());
        let proof = Proof::Password { principal: name.to_owned(), password: secret(password), code: code.map(secret) };
        self.identity.authenticate(proof, HERE, &Shown::nothing()).await
    }

    /// Gives ann one-time codes; their key and the recovery codes.
    async fn with_codes(&self, ann: &Issued) -> (String, Vec<SecretString>) {
        let offer = self.identity.offer_codes(&self.verify(ann).unwrap()).await.unwrap();
        let secret = offer.secret.expose().to_owned();
        let code = SecretString::new(self.code(&secret));
        let recovery = self.identity.confirm_codes(&self.verify(ann).unwrap(), &code).await.unwrap();
        (secret, recovery)
    }

    fn code(&self, secret: &str) -> String {
        let bytes = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
        let secret = totp_rs::Secret::from(<[u8; 20]>::try_from(bytes).unwrap());
        let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
        totp.generate(u64::try_from(self.clock.now().as_second()).unwrap()).to_string()
    }
}

#[tokio::test]
async fn an_invitation_works_once_and_in_its_time_and_makes_a_person() {
    let host = Host::new().await;
    let token = host.invite(Some("acme"), "acme/root", "ann", Role::Developer).await;
    let issued = host.enrol_with(&token).await.unwrap();
    let ann = host.verify(&issued).unwrap();
    assert_eq!((ann.id().as_str(), ann.kind(), ann.role()), ("acme/ann", PrincipalKind::Person, Some(Role::Developer)));
    unauthenticated(host.enrol_with(&token).await);
    let late = host.invite(Some("acme"), "acme/root", "bob", Role::Developer).await;
    host.clock.pass(72 * 3_600);
    unauthenticated(host.enrol_with(&late).await);
}

#[tokio::test]
async fn a_person_outlives_a_restart_and_ends_with_removal() {
    let mut host = Host::new().await;
    let first = host.ann().await;
    host.restart().await;
    assert!(host.verify(&first).is_ok());
    let again = host.by_password("acme/ann", PASSWORD, None).await.unwrap();
    let cut = host.identity.session_cut(&again.session_id);
    assert!(!cut.is_cancelled());
    host.identity.remove_person(permit(Some("acme")), Some(&tenant("acme")), "ann").await.unwrap();
    assert!(cut.is_cancelled(), "what streams for the session is told");
    unauthenticated(host.verify(&first));
    unauthenticated(host.verify(&again));
    unauthenticated(host.by_password("acme/ann", PASSWORD, None).await);
    host.restart().await;
    unauthenticated(host.by_password("acme/ann", PASSWORD, None).await);
}

#[tokio::test]
async fn unknown_names_wrong_passwords_and_missing_codes_cost_one_hash_each_and_look_the_same() {
    let host = Host::new().await;
    let ann = host.ann().await;
    host.with_codes(&ann).await;
    let before = host.identity.shared.hasher.count();
    for (name, password, code) in [
        ("acme/nobody", PASSWORD, None),
        ("acme/ann", "another password", Some("000000")),
        ("acme/ann", PASSWORD, None),
        ("acme/ann", PASSWORD, Some("12345")),
        ("no name at all", PASSWORD, None),
    ] {
        unauthenticated(host.by_password(name, password, code).await);
    }
    assert_eq!(host.identity.shared.hasher.count(), before + 5);
}

#[tokio::test]
async fn with_codes_a_password_needs_one_and_each_is_taken_once_even_after_a_restart() {
    let mut host = Host::new().await;
    let ann = host.ann().await;
    let (secret, recovery) = host.with_codes(&ann).await;
    assert_eq!(host.verify(&ann).unwrap().strength(), Strength::TwoFactors);
    unauthenticated(host.by_password("acme/ann", PASSWORD, Some(&host.code(&secret))).await);
    host.clock.pass(30);
    let code = host.code(&secret);
    let issued = host.by_password("acme/ann", PASSWORD, Some(&code)).await.unwrap();
    assert_eq!(issued.strength, Strength::TwoFactors);
    host.restart().await;
    unauthenticated(host.by_password("acme/ann", PASSWORD, Some(&code)).await);
    host.by_password("acme/ann", PASSWORD, Some(recovery[0].expose())).await.unwrap();
    host.restart().await;
    unauthenticated(host.by_password("acme/ann", PASSWORD, Some(recovery[0].expose())).await);
}

#[tokio::test]
async fn what_is_proved_in_an_open_session_is_laid_down_or_counts_no_longer_than_its_place_says() {
    let mut host = Host::new().await;
    let ann = host.ann().await;
    let opened_with = ann.strength;
    let nothing = host.identity.step_down(&host.verify(&ann).unwrap()).await;
    assert!(matches!(nothing, Err(IdentityError::FactorState(_))), "{nothing:?}");
    host.clock.pass(40);
    let (secret, _) = host.with_codes(&ann).await;
    host.clock.pass(20);
    let who = host.verify(&ann).unwrap();
    assert_eq!(who.strength(), Strength::TwoFactors);
    let shown = host.identity.score(&who, Some(HERE)).unwrap();
    let factors = shown.contributions.iter().find(|one| one.name == "factors").unwrap();
    assert_eq!(factors.age_seconds, Some(20), "since it was proved, and not since the sign-in");
    assert_eq!(host.identity.step_down(&who).await.unwrap(), opened_with);
    assert_eq!(host.verify(&ann).unwrap().strength(), opened_with);
    host.restart().await;
    let who = host.verify(&ann).unwrap();
    assert_eq!(who.strength(), opened_with);
    assert!(matches!(host.identity.step_down(&who).await, Err(IdentityError::FactorState(_))));
    // A place says for how long it counts.
    host.set_trust(TrustSettings { step_up_seconds: Some(60), ..TrustSettings::unset() }).await;
    for _ in 0..2 {
        host.clock.pass(30);
        let code = StepUp::Code(SecretString::new(host.code(&secret)));
        assert_eq!(host.identity.step_up(&host.verify(&ann).unwrap(), code).await.unwrap(), Strength::TwoFactors);
        host.clock.pass(59);
        assert_eq!(host.verify(&ann).unwrap().strength(), Strength::TwoFactors);
        host.clock.pass(1);
        let who = host.verify(&ann).unwrap();
        assert_eq!(who.strength(), opened_with);
        let listed = host.identity.own_sessions(&who);
        assert_eq!(listed.iter().map(|one| one.strength).collect::<Vec<_>>(), [opened_with]);
    }
}

#[tokio::test]
async fn codes_that_are_guessed_at_wait_and_come_back() {
    let host = Host::new().await;
    let ann = host.ann().await;
    let (secret, _) = host.with_codes(&ann).await;
    host.clock.pass(60);
    let session = host.verify(&ann).unwrap();
    for _ in 0..10 {
        let guess = StepUp::Code(SecretString::new("aaaa-aaaa".to_owned()));
        unauthenticated(host.identity.step_up(&session, guess).await);
    }
    let right = || StepUp::Code(SecretString::new(host.code(&secret)));
    assert!(matches!(host.identity.step_up(&session, right()).await, Err(IdentityError::Throttled { .. })));
    unauthenticated(host.by_password("acme/ann", PASSWORD, Some(&host.code(&secret))).await);
    host.clock.pass(900);
    host.by_password("acme/ann", PASSWORD, Some(&host.code(&secret))).await.unwrap();
}

#[tokio::test]
async fn of_codes_that_are_guessed_at_all_at_once_no_more_are_tried() {
    let host = Host::new().await;
    let ann = host.ann().await;
    host.with_codes(&ann).await;
    let session = host.verify(&ann).unwrap();
    let turn = host.identity.shared.changing_people.of(Some(tenant("acme"))).await;
    let guess = |_| {
        let guess = StepUp::Code(SecretString::new("aaaa-aaaa".to_owned()));
        Box::pin(host.identity.step_up(&session, guess))
    };
    let mut guesses: Vec<_> = (0..50).map(guess).collect();
    for guess in &mut guesses {
        assert!(futures::poll!(guess).is_pending(), "somebody is being written");
    }
    drop(turn);
    let answers = futures::future::join_all(guesses).await;
    let tried = answers.iter().filter(|answer| matches!(answer, Err(IdentityError::Unauthenticated))).count();
    let held = answers.iter().filter(|answer| matches!(answer, Err(IdentityError::Throttled { .. }))).count();
    assert_eq!((tried, held), (10, 40));
}

#[tokio::test]
async fn a_code_whose_caller_hung_up_is_used_up_all_the_same() {
    let host = Host::new().await;
    let ann = host.ann().await;
    let (secret, recovery) = host.with_codes(&ann).await;
    host.clock.pass(30);
    let id = host.verify(&ann).unwrap().id().clone();
    for code in [host.code(&secret), recovery[0].expose().to_owned()] {
        let mut under_way = Box::pin(host.identity.use_code(&id, &code));
        assert!(futures::poll!(&mut under_way).is_pending(), "it is being written");
        drop(under_way);
        unauthenticated(host.identity.use_code(&id, &code).await);
    }
}

#[tokio::test]
async fn nobody_waits_for_another_tenants_people() {
    let host = Host::new().await;
    let ann = host.ann().await;
    let (secret, _) = host.with_codes(&ann).await;
    host.clock.pass(30);
    let code = host.code(&secret);
    let _theirs = host.identity.shared.changing_people.of(Some(tenant("beta"))).await;
    let _their_keys = host.identity.shared.making.of(Some(tenant("beta"))).await;
    let _known_of_them = host.identity.shared.changing_about.of(Some(tenant("beta"))).await;
    let going = async {
        host.by_password("acme/ann", PASSWORD, Some(&code)).await.unwrap();
        let token = host.invite(Some("acme"), "acme/root", "bob", Role::Developer).await;
        // From where he comes is written down: he was never here.
        host.enrol_with(&token).await.unwrap()
    };
    let done = tokio::time::timeout(std::time::Duration::from_secs(60), going).await;
    assert!(done.is_ok(), "a sign-in with a code, an invitation and its use go through");
}

#[tokio::test]
async fn a_session_without_the_second_factor_changes_no_factor() {
    let host = Host::new().await;
    let weak = host.ann().await;
    let strong = host.by_password("acme/ann", PASSWORD, None).await.unwrap();
    host.with_codes(&strong).await;
    let weak = host.verify(&weak).unwrap();
    assert!(matches!(host.identity.remove_codes(&weak).await, Err(IdentityError::StepUp { .. })));
    assert!(matches!(host.identity.offer_codes(&weak).await, Err(IdentityError::StepUp { .. })));
    assert!(matches!(host.identity.start_passkey_registration(&weak, HERE), Err(IdentityError::StepUp { .. })));
    let new = SecretString::new("another long password".to_owned());
    let old = SecretString::new(PASSWORD.to_owned());
    assert!(matches!(
        host.identity.set_password(&weak, Some(&old), &new, HERE).await,
        Err(IdentityError::StepUp { .. })
    ));
    let strong = host.verify(&strong).unwrap();
    assert!(host.identity.set_password(&strong, None, &new, HERE).await.is_err(), "the old one is asked for");
    host.identity.set_password(&strong, Some(&old), &new, HERE).await.unwrap();
    assert!(!host.identity.is_alive(weak.session().unwrap()), "other sessions ended");
    host.identity.remove_codes(&strong).await.unwrap();
    host.by_password("acme/ann", new.expose(), None).await.unwrap();
}

#[tokio::test]
async fn a_password_is_guessed_at_in_a_session_no_faster_than_in_a_sign_in() {
    let host = Host::new().await;
    let ann = host.verify(&host.ann().await).unwrap();
    let secret = |text: &str| SecretString::new(text.to_owned());
    let new = secret("another long password");
    let from = |last: u8| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
    for last in 0..20 {
        let wrong = host.identity.set_password(&ann, Some(&secret("a guess")), &new, from(last)).await;
        assert!(matches!(wrong, Err(IdentityError::FactorState(_))), "{last}: {wrong:?}");
    }
    let before = host.identity.shared.hasher.count();
    for last in [0, 100] {
        let held = host.identity.set_password(&ann, Some(&secret(PASSWORD)), &new, from(last)).await;
        assert!(matches!(held, Err(IdentityError::Throttled { retry_after_seconds: 3 })), "{last}: {held:?}");
    }
    assert_eq!(host.identity.shared.hasher.count(), before, "a refused try costs nothing");
    let debt = host.identity.shared.throttle().debt_of("acme/ann", host.identity.shared.clock.monotonic());
    assert!(!debt.is_zero(), "his score shows it");
    host.by_password("acme/ann", PASSWORD, None).await.unwrap();
    host.clock.pass(3);
    host.identity.set_password(&ann, Some(&secret(PASSWORD)), &new, from(100)).await.unwrap();
}

#[tokio::test]
async fn passwords_of_one_tenant_leave_places_to_another_and_setting_one_counts() {
    let host = Host::new().await;
    let ann = host.verify(&host.ann().await).unwrap();
    let bob = host.invite(Some("beta"), "beta/root", "bob", Role::Developer).await;
    let (old, new) = (SecretString::new(PASSWORD.to_owned()), SecretString::new("another long password".to_owned()));
    let mut under_way = Vec::new();
    // As many as it may have, each from a network where he could be known.
    for number in 0..SIGN_IN_KNOWN_COUNT_MAX / 2 {
        let from = Source::of(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, u16::try_from(number).unwrap(), 0, 0, 0, 0, 1)));
        under_way.push(host.identity.shared.admit(from, Tried::Known(format!("acme/p{number}"))).unwrap());
    }
    let held = host.identity.set_password(&ann, Some(&old), &new, HERE).await;
    assert!(matches!(held, Err(IdentityError::Throttled { .. })), "{held:?}");
    assert!(matches!(host.by_password("acme/ann", PASSWORD, None).await, Err(IdentityError::Throttled { .. })));
    host.enrol_with(&bob).await.unwrap();
    host.by_password("beta/bob", PASSWORD, None).await.unwrap();
    drop(under_way);
    host.identity.set_password(&ann, Some(&old), &new, HERE).await.unwrap();
}

#[tokio::test]
async fn a_service_has_no_factors_and_a_name_is_one_principal() {
    let host = Host::new().await;
    let (_, ci) = host.developer().await;
    let ci = host.verify(&ci).unwrap();
    assert!(matches!(host.identity.offer_codes(&ci).await, Err(IdentityError::NoPerson)));
    let taken = NewPerson { tenant: Some(tenant("acme")), name: "ci".parse().unwrap(), role: Role::Developer };
    assert!(matches!(host.identity.invite(permit(Some("acme")), taken).await, Err(IdentityError::NameTaken { .. })));
    host.ann().await;
    let new = NewKey {
        tenant: Some(tenant("acme")),
        name: "ann".parse().unwrap(),
        role: Role::Developer,
        expires_in_seconds: None,
        scope: None,
    };
    assert!(matches!(host.identity.create_key(permit(Some("acme")), new).await, Err(IdentityError::NameTaken { .. })));
}

#[tokio::test]
async fn short_passwords_are_refused_and_spend_no_invitation() {
    let host = Host::new().await;
    let token = host.invite(Some("acme"), "acme/root", "ann", Role::Developer).await;
    let proof = Proof::Invitation { token: token.clone(), password: Some(SecretString::new("short".to_owned())) };
    let refused = host.identity.authenticate(proof, HERE, &Shown::nothing()).await;
    assert!(matches!(refused, Err(IdentityError::BadPassword { .. })));
    host.enrol_with(&token).await.unwrap();
}

// === what ends while a sign-in is under way ===

#[tokio::test]
async fn a_sign_in_under_way_ends_with_the_password_it_is_proved_by() {
    let host = Host::new().await;
    let ann = host.verify(&host.ann().await).unwrap();
    let mut under_way = Box::pin(host.by_password("acme/ann", PASSWORD, None));
    assert!(futures::poll!(&mut under_way).is_pending(), "its hash is being worked out");
    let (old, new) = (SecretString::new(PASSWORD.to_owned()), SecretString::new("another long password".to_owned()));
    host.identity.set_password(&ann, Some(&old), &new, HERE).await.unwrap();
    unauthenticated(under_way.await);
    assert_eq!(host.identity.own_sessions(&ann).len(), 1, "his who set it");
    host.by_password("acme/ann", new.expose(), None).await.unwrap();
}

#[tokio::test]
async fn a_sign_in_under_way_is_never_of_who_is_invited_under_the_same_name() {
    let host = Host::new().await;
    host.ann().await;
    let mut under_way = Box::pin(host.by_password("acme/ann", PASSWORD, None));
    assert!(futures::poll!(&mut under_way).is_pending(), "its hash is being worked out");
    let token = host.invite(Some("acme"), "acme/root", "ann", Role::TenantAdmin).await;
    unauthenticated(under_way.await);
    let after = host.enrol_with(&token).await.unwrap();
    assert_eq!(host.verify(&after).unwrap().role(), Some(Role::TenantAdmin));
}

#[tokio::test]
async fn who_signs_in_while_another_is_invited_under_his_name_is_out_after_a_restart_too() {
    let mut host = Host::new().await;
    host.ann().await;
    let mut anew = Box::pin(host.invite(Some("acme"), "acme/root", "ann", Role::TenantAdmin));
    assert!(futures::poll!(&mut anew).is_pending(), "it is being written");
    let late = host.by_password("acme/ann", PASSWORD, None).await.unwrap();
    let token = anew.await;
    unauthenticated(host.verify(&late));
    host.restart().await;
    unauthenticated(host.verify(&late));
    host.enrol_with(&token).await.unwrap();
}

#[tokio::test]
async fn a_session_changes_nothing_of_who_is_invited_under_the_same_name_while_it_waits() {
    let host = Host::new().await;
    let before = host.verify(&host.ann().await).unwrap();
    let turn = host.identity.shared.changing_people.of(Some(tenant("acme"))).await;
    let mut anew = Box::pin(host.invite(Some("acme"), "acme/root", "ann", Role::TenantAdmin));
    assert!(futures::poll!(&mut anew).is_pending());
    let mut offer = Box::pin(host.identity.offer_codes(&before));
    assert!(futures::poll!(&mut offer).is_pending());
    drop(turn);
    anew.await;
    unauthenticated(offer.await);
    let tables = host.identity.shared.read();
    assert!(tables.person(before.id()).unwrap().codes.is_none());
}

#[tokio::test]
async fn who_was_removed_is_not_signed_in_whoever_has_the_name_by_then() {
    let host = Host::new().await;
    let before = host.verify(&host.ann().await).unwrap();
    assert!(host.identity.is_signed_in(&before));
    host.identity.remove_person(permit(Some("acme")), Some(&tenant("acme")), "ann").await.unwrap();
    assert!(!host.identity.is_signed_in(&before));
    let another = host.verify(&host.ann().await).unwrap();
    assert_eq!(another.id(), before.id());
    assert!(host.identity.is_signed_in(&another) && !host.identity.is_signed_in(&before));
}

// === two people ===

#[tokio::test]
async fn keys_of_one_owner_are_one_person_however_long_the_chain() {
    let host = Host::new().await;
    let key = async |by: &str, name: &str| {
        let new = NewKey {
            tenant: None,
            name: name.parse().unwrap(),
            role: Role::Operator,
            expires_in_seconds: None,
            scope: None,
        };
        host.identity.create_key(permit_by(by, Resource::Host), new).await.unwrap()
    };
    key("operator/ada", "ada").await;
    let (second, _) = key("operator/ada", "second").await;
    key("operator/second", "second").await;
    key("operator/second", "third").await;
    host.clock.pass(48 * 3_600);
    let two = |one: &str, other: &str| host.identity.is_second_person(&one.parse().unwrap(), &other.parse().unwrap());
    assert!(!two("operator/ada", "operator/second") && !two("operator/second", "operator/third"));
    assert!(!two("operator/ada", "operator/third") && !two("operator/ada", "operator/ada"));
    host.identity.revoke_key(permit(None), None, &second.id).await.unwrap();
    assert!(!two("operator/ada", "operator/second"), "a maker is not forgotten with the key");
    assert!(!two("operator/ada", "operator/nobody") && !two("operator/nobody", "operator/ada"));
}

#[tokio::test]
async fn somebody_invited_counts_after_a_day_and_never_as_the_one_who_invited() {
    let mut host = Host::new().await;
    host.identity
        .create_key(
            permit_by("operator/ada", Resource::Host),
            NewKey {
                tenant: None,
                name: "ada".parse().unwrap(),
                role: Role::Operator,
                expires_in_seconds: None,
                scope: None,
            },
        )
        .await
        .unwrap();
    let mut people = BTreeMap::new();
    for name in ["bob", "cat"] {
        people.insert(name, host.invite(None, "operator/ada", name, Role::Operator).await);
    }
    let two = |host: &Host, one: &str, other: &str| {
        host.identity.is_second_person(&one.parse().unwrap(), &other.parse().unwrap())
    };
    host.clock.pass(24 * 3_600);
    assert!(!two(&host, "operator/ada", "operator/bob"), "an invitation is nobody yet");
    for token in people.values() {
        host.enrol_with(token).await.unwrap();
    }
    assert!(two(&host, "operator/ada", "operator/bob") && two(&host, "operator/cat", "operator/bob"));
    // Invited again is new again, and shares who invited with another new one.
    for name in ["bob", "cat"] {
        let token = host.invite(None, "operator/ada", name, Role::Operator).await;
        host.enrol_with(&token).await.unwrap();
    }
    assert!(!two(&host, "operator/ada", "operator/bob") && !two(&host, "operator/cat", "operator/bob"));
    host.restart().await;
    assert!(!two(&host, "operator/ada", "operator/bob"));
    host.clock.pass(24 * 3_600);
    assert!(two(&host, "operator/ada", "operator/bob") && two(&host, "operator/bob", "operator/ada"));
}

#[tokio::test]
async fn a_person_whose_name_is_guessed_at_from_many_sources_gets_in_from_where_he_is_known() {
    let host = Host::new().await;
    host.ann().await;
    let now = host.identity.shared.clock.monotonic();
    for name in ["acme/ann", "acme/nobody"] {
        for last in 1..=20 {
            let from = Source::of(IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)));
            host.identity.shared.throttle().failed(from, Some(name), now);
        }
    }
    // From elsewhere he shares what is left with who guesses, as does a name that nobody has.
    let elsewhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
    let before = host.identity.shared.hasher.count();
    for name in ["acme/ann", "acme/nobody"] {
        let (principal, password) = (name.to_owned(), SecretString::new(PASSWORD.to_owned()));
        let proof = Proof::Password { principal, password, code: None };
        let refused = host.identity.authenticate(proof, elsewhere, &Shown::nothing()).await.unwrap_err();
        assert!(matches!(refused, IdentityError::Throttled { retry_after_seconds: 3 }), "{name}: {refused}");
    }
    assert_eq!(host.identity.shared.hasher.count(), before, "a refused try costs nothing");
    host.by_password("acme/ann", PASSWORD, None).await.unwrap();
    assert!(matches!(host.by_password("acme/nobody", PASSWORD, None).await, Err(IdentityError::Throttled { .. })));
}
