//! Trust: what sessions of a tenant must stand at, what ends them, and who may say that somebody is to be trusted more.

use super::*;

#[test]
fn what_asks_for_less_is_named_and_what_asks_for_more_is_free() {
    let set = TrustSettings { credential_days_max: Some(30), hours_utc: Some((22, 6)), ..asks(20, 60) };
    let weaker = [
        TrustSettings { floor: 19, ..set.clone() },
        TrustSettings { administer: 0, ..set.clone() },
        TrustSettings { credential_days_max: None, ..set.clone() },
        TrustSettings { credential_days_max: Some(31), ..set.clone() },
        TrustSettings { hours_utc: None, ..set.clone() },
        TrustSettings { hours_utc: Some((22, 7)), ..set.clone() },
        TrustSettings { verify_interval_seconds: set.verify_interval_seconds + 1, ..set.clone() },
    ];
    for next in weaker {
        assert_eq!(set.weakened(&next).len(), 1, "{next:?}");
    }
    assert_eq!(set.weakened(&TrustSettings::unset()).len(), 4);
    let stronger = TrustSettings { credential_days_max: Some(7), hours_utc: Some((23, 5)), read: 1, ..asks(21, 60) };
    for next in [set.clone(), stronger] {
        assert!(set.weakened(&next).is_empty(), "{next:?}");
    }
    assert!(TrustSettings::unset().weakened(&set).is_empty(), "nothing was asked for before");
}

fn asks(floor: u8, administer: u8) -> TrustSettings {
    TrustSettings { floor, administer, ..TrustSettings::unset() }
}

impl Host {
    async fn set_trust(&self, settings: TrustSettings) {
        self.identity.set_trust_settings(permit(Some("acme")), &tenant("acme"), settings).await.unwrap();
    }

    fn check(&self, issued: &Issued, class: ActClass) -> Result<(), IdentityError> {
        self.identity.check_trust(&self.verify(issued)?, Some(HERE), class)
    }

    fn value(&self, issued: &Issued) -> u8 {
        self.identity.score(&self.verify(issued).unwrap(), Some(HERE)).unwrap().value
    }

    async fn adjust(&self, by: &str, subject: &str, delta: i32) -> Result<Adjustment, IdentityError> {
        let expires_at = Timestamp::from_second(self.clock.now().as_second() + 3_600).unwrap();
        let new = NewAdjustment { subject: subject.parse().unwrap(), delta, reason: "a test".to_owned(), expires_at };
        self.identity.adjust_risk(permit_by(by, place(Some("acme"))), Some(&tenant("acme")), new).await
    }
}

#[tokio::test]
async fn a_key_from_a_new_network_stands_at_thirty_and_settles_after_a_day() {
    let host = Host::new().await;
    let (_, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let issued = host.sign_in(&key).await.unwrap();
    assert_eq!(host.value(&issued), 30);
    host.clock.pass(24 * 3_600);
    let issued = host.sign_in(&key).await.unwrap();
    assert_eq!(host.value(&issued), 45);
    let elsewhere = Some("198.51.100.7".parse().unwrap());
    let moved = host.identity.score(&host.verify(&issued).unwrap(), elsewhere).unwrap();
    assert_eq!(moved.value, 30, "a token that is used from elsewhere is judged by that");
}

#[tokio::test]
async fn an_act_below_its_threshold_needs_more_and_the_score_alone_decides_nothing_where_none_is_set() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    assert!(host.check(&issued, ActClass::Administer).is_ok());
    host.set_trust(asks(0, 60)).await;
    assert!(matches!(host.check(&issued, ActClass::Administer), Err(IdentityError::StepUp { .. })));
    assert!(host.check(&issued, ActClass::Read).is_ok());
}

#[tokio::test]
async fn a_session_that_falls_below_the_floor_ends_on_every_path_and_stays_ended() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.set_trust(asks(25, 0)).await;
    let cut = host.identity.session_cut(&issued.session_id);
    assert!(host.check(&issued, ActClass::Read).is_ok() && !cut.is_cancelled());
    host.adjust("acme/ada", "acme/ci", -10).await.unwrap();
    assert!(cut.is_cancelled(), "what streams for it is cut");
    unauthenticated(host.verify(&issued));
    assert!(!host.identity.is_alive(&issued.session_id));
    tokio::task::yield_now().await;
    host.restart().await;
    assert!(host.verify(&issued).is_err() || host.check(&issued, ActClass::Read).is_err());
}

#[tokio::test]
async fn a_floor_set_now_ends_who_is_below_it_now() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.set_trust(asks(31, 0)).await;
    unauthenticated(host.verify(&issued));
}

#[tokio::test]
async fn findings_end_sessions_below_the_floor_and_count_until_they_are_over() {
    let host = Host::new().await;
    let (_, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let issued = host.sign_in(&key).await.unwrap();
    host.set_trust(asks(5, 0)).await;
    let until = Timestamp::from_second(host.clock.now().as_second() + 60).unwrap();
    let (ci, acme) = ("acme/ci".parse().unwrap(), tenant("acme"));
    let ended = host.identity.note_finding(&ci, Some(&acme), "f1", Some(Finding::Medium), until).await.unwrap();
    assert!(ended.is_empty());
    assert_eq!(host.value(&issued), 10);
    let ended = host.identity.note_finding(&ci, Some(&acme), "f2", Some(Finding::High), until).await.unwrap();
    assert_eq!(ended, vec![issued.session_id]);
    host.clock.pass(60);
    assert_eq!(host.value(&host.sign_in(&key).await.unwrap()), 30);
}

#[tokio::test]
async fn risk_is_raised_by_one_and_lowered_by_two_and_by_nobody_for_himself() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    for name in ["ada", "bob", "cat"] {
        // Keys that an operator made are of their own holder each.
        let new = NewKey {
            tenant: Some(tenant("acme")),
            name: name.parse().unwrap(),
            role: Role::Developer,
            expires_in_seconds: None,
        };
        host.identity.create_key(permit_by("elsewhere/root", place(Some("acme"))), new).await.unwrap();
    }
    host.adjust("acme/ada", "acme/ci", -5).await.unwrap();
    assert_eq!(host.value(&issued), 25);
    assert!(matches!(host.adjust("acme/ada", "acme/ada", 20).await, Err(IdentityError::SelfLowering)));
    assert!(matches!(host.adjust("acme/ada", "beta/ci", -5).await, Err(IdentityError::NotFound { .. })));
    let wanted = host.adjust("acme/bob", "acme/ci", 20).await.unwrap();
    assert_eq!(host.value(&issued), 25, "it waits");
    let approve = async |by: &str| {
        let permit = permit_by(by, place(Some("acme")));
        host.identity.approve_adjustment(permit, Some(&tenant("acme")), &wanted.id).await
    };
    assert!(matches!(approve("acme/bob").await, Err(IdentityError::SecondPerson)));
    assert!(matches!(approve("acme/nobody").await, Err(IdentityError::SecondPerson)));
    assert!(matches!(approve("acme/ada").await, Err(IdentityError::SecondPerson)), "the key it is about is his own");
    approve("acme/cat").await.unwrap();
    assert_eq!(host.value(&issued), 45);
    host.restart().await;
    assert_eq!(host.value(&issued), 45);
    host.clock.pass(3_600);
    let (_, key) = host.key(Some("acme"), "late", Role::Developer).await;
    assert_eq!(host.value(&host.sign_in(&key).await.unwrap()), 30);
}

#[tokio::test]
async fn an_adjustment_that_was_altered_in_the_store_counts_for_nothing() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.adjust("acme/ada", "acme/ci", -20).await.unwrap();
    assert_eq!(host.value(&issued), 10);
    let store = host.tenants.open_tenant(&tenant("acme")).unwrap();
    let at = crate::risk::about_at(&"acme/ci".parse().unwrap());
    let mut about: Value = store.get_json(&at).await.unwrap().unwrap();
    about["adjustments"][0]["delta"] = json!(-1);
    store.put_json(&at, &about).await.unwrap();
    host.restart().await;
    assert_eq!(host.value(&issued), 30);
}

#[tokio::test]
async fn verifying_a_session_says_what_is_asked_of_it() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.set_trust(TrustSettings { verify_interval_seconds: 60, ..asks(20, 60) }).await;
    host.clock.pass(61);
    assert_eq!(host.value(&issued), 20, "it is overdue");
    let verified = host.identity.verify_session(&host.verify(&issued).unwrap(), Some(HERE)).await.unwrap();
    assert_eq!((verified.verdict, verified.score.value, verified.next_seconds), (Verdict::StepUp, 30, 60));
    host.clock.pass(61);
    host.set_trust(TrustSettings { verify_interval_seconds: 60, ..asks(25, 0) }).await;
    unauthenticated(host.verify(&issued));
}
