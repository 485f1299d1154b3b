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
    let short = TrustSettings { step_up_seconds: Some(60), ..TrustSettings::unset() };
    for (next, count) in [(None, 1), (Some(61), 1), (Some(60), 0), (Some(10), 0)] {
        let next = TrustSettings { step_up_seconds: next, ..short.clone() };
        assert_eq!(short.weakened(&next).len(), count, "{next:?}");
    }
    let stronger = TrustSettings { credential_days_max: Some(7), hours_utc: Some((23, 5)), read: 1, ..asks(21, 60) };
    for next in [set.clone(), stronger] {
        assert!(set.weakened(&next).is_empty(), "{next:?}");
    }
    assert!(TrustSettings::unset().weakened(&set).is_empty(), "nothing was asked for before");
}

#[test]
fn whose_word_about_devices_counts_is_weighed_whatever_scores_are_asked_for() {
    let set = trusts(&["mdm"], &["disk_encrypted", "screen_lock"]);
    for weaker in [
        trusts(&["mdm", "mine"], &["disk_encrypted", "screen_lock"]),
        trusts(&["mine"], &["disk_encrypted", "screen_lock"]),
        trusts(&["mdm"], &["screen_lock"]),
    ] {
        assert_eq!(set.weakened(&weaker).len(), 1, "{weaker:?}");
    }
    let narrower = trusts(&["mdm"], &["disk_encrypted", "screen_lock", "firewall"]);
    for next in [set.clone(), narrower, trusts(&[], &["disk_encrypted", "screen_lock"])] {
        assert!(set.weakened(&next).is_empty(), "{next:?}");
    }
    assert_eq!(TrustSettings::unset().weakened(&set).len(), 1, "before, no device was verified");
}

/// Settings that take the word of these about devices, and what they must say.
fn trusts(issuers: &[&str], required: &[&str]) -> TrustSettings {
    let word = |word: &&str| (*word).to_owned();
    let issuer = |name: &&str| PostureIssuer { name: word(name), key: word(name) };
    let posture =
        PostureTrust { issuers: issuers.iter().map(issuer).collect(), required: required.iter().map(word).collect() };
    TrustSettings { posture, ..TrustSettings::unset() }
}

fn asks(floor: u8, administer: u8) -> TrustSettings {
    TrustSettings { floor, administer, ..TrustSettings::unset() }
}

impl Host {
    pub(super) async fn set_trust(&self, settings: TrustSettings) {
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
        let subject = subject.parse().unwrap();
        let new = NewAdjustment { subject, delta, floor: None, reason: "a test".to_owned(), expires_at };
        self.identity.adjust_risk(permit_by(by, place(Some("acme"))), Some(&tenant("acme")), new).await
    }

    async fn approve(&self, by: &str, wanted: &Adjustment) -> Result<Adjustment, IdentityError> {
        let permit = permit_by(by, place(Some("acme")));
        self.identity.approve_adjustment(permit, Some(&tenant("acme")), &wanted.id).await
    }

    async fn withdraw(&self, by: &str, made: &Adjustment) -> Result<Option<Adjustment>, IdentityError> {
        let permit = permit_by(by, place(Some("acme")));
        self.identity.withdraw_adjustment(permit, Some(&tenant("acme")), &made.id).await
    }

    /// Sessions of keys of admins of acme that are of their own holder each, because an operator made them.
    async fn holders(&self, names: &[&str]) -> Vec<Issued> {
        let mut sessions = Vec::new();
        for name in names {
            let new = NewKey {
                tenant: Some(tenant("acme")),
                name: name.parse().unwrap(),
                role: Role::TenantAdmin,
                expires_in_seconds: None,
                scope: None,
            };
            let (_, key) =
                self.identity.create_key(permit_by("elsewhere/root", place(Some("acme"))), new).await.unwrap();
            sessions.push(self.sign_in(&key).await.unwrap());
        }
        sessions
    }

    /// A key of an operator who is a person of his own.
    async fn operator(&self, name: &str) -> Issued {
        let new = NewKey {
            tenant: None,
            name: name.parse().unwrap(),
            role: Role::Operator,
            expires_in_seconds: None,
            scope: None,
        };
        let (_, key) = self.identity.create_key(permit_by("elsewhere/root", place(None)), new).await.unwrap();
        self.sign_in(&key).await.unwrap()
    }

    async fn ask_operators(
        &self,
        by: &Issued,
        sessions: TrustSettings,
        unbound_tokens: UnboundTokens,
    ) -> Result<Option<WantedTrust>, IdentityError> {
        let by = self.verify(by).unwrap();
        let weighed = self.weigh(&by, OperatorsTrust { sessions, unbound_tokens }).await;
        let permit = permit_by(by.id().as_str(), place(None));
        self.identity.set_operators_trust(permit, &by, Some(HERE), weighed).await
    }

    async fn weigh(&self, by: &Principal, wanted: OperatorsTrust) -> WeighedTrust {
        let permit = permit_by(by.id().as_str(), place(None));
        self.identity.weigh_operators_trust(&permit, wanted).await.unwrap()
    }

    async fn floor_of_operators(&self) -> u8 {
        self.identity.operators_trust(permit(None)).await.unwrap().0.sessions.floor
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
async fn while_detection_is_behind_that_nothing_was_found_is_unknown_and_ends_nobody() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.set_trust(asks(25, 30)).await;
    assert!(host.check(&issued, ActClass::Administer).is_ok());
    host.identity.note_detection(false);
    assert_eq!(host.value(&issued), 10);
    assert!(matches!(host.check(&issued, ActClass::Administer), Err(IdentityError::StepUp { .. })));
    assert!(host.check(&issued, ActClass::Read).is_ok());
    host.identity.end_all_fallen();
    let verified = host.identity.verify_session(&host.verify(&issued).unwrap(), Some(HERE)).await.unwrap();
    assert_eq!(verified.verdict, Verdict::StepUp);
    host.identity.note_detection(true);
    assert_eq!(host.value(&issued), 30);
    assert!(host.check(&issued, ActClass::Administer).is_ok());
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
async fn what_no_session_could_ever_take_back_is_not_asked_of_any() {
    let host = Host::new().await;
    let try_to = async |settings: TrustSettings| {
        host.identity.set_trust_settings(permit(Some("acme")), &tenant("acme"), settings).await.map(drop)
    };
    for beyond in [asks(86, 0), asks(0, 86), TrustSettings { read: 86, ..asks(0, 0) }] {
        let refused = try_to(beyond).await;
        assert!(matches!(refused, Err(IdentityError::BadTrust { .. })), "no device can be verified: {refused:?}");
    }
    try_to(TrustSettings { change: 100, invoke: 100, ..asks(85, 85) }).await.unwrap();
    let mut verified = asks(86, 100);
    verified.posture.issuers = vec![PostureIssuer { name: "mdm".to_owned(), key: "A".repeat(43) }];
    verified.posture.required = vec!["disk_encrypted".to_owned()];
    try_to(verified).await.unwrap();
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
    host.holders(&["ada", "bob", "cat"]).await;
    host.adjust("acme/ada", "acme/ci", -5).await.unwrap();
    assert_eq!(host.value(&issued), 25);
    assert!(matches!(host.adjust("acme/ada", "acme/ada", 20).await, Err(IdentityError::SelfLowering)));
    assert!(matches!(host.adjust("acme/ada", "beta/ci", -5).await, Err(IdentityError::NotFound { .. })));
    let wanted = host.adjust("acme/bob", "acme/ci", 20).await.unwrap();
    assert_eq!(host.value(&issued), 25, "it waits");
    for by in ["acme/bob", "acme/nobody"] {
        assert!(matches!(host.approve(by, &wanted).await, Err(IdentityError::SecondPerson)), "{by}");
    }
    let owner = host.approve("acme/ada", &wanted).await;
    assert!(matches!(owner, Err(IdentityError::SecondPerson)), "the key it is about is his own");
    host.approve("acme/cat", &wanted).await.unwrap();
    assert_eq!(host.value(&issued), 45);
    host.restart().await;
    assert_eq!(host.value(&issued), 45);
    host.clock.pass(3_600);
    let (_, key) = host.key(Some("acme"), "late", Role::Developer).await;
    assert_eq!(host.value(&host.sign_in(&key).await.unwrap()), 30);
}

#[tokio::test]
async fn a_whole_place_is_held_down_by_two_who_could_take_that_back_and_nobody_shuts_himself_out() {
    let host = Host::new().await;
    let sessions = host.holders(&["ada", "bob", "cat"]).await;
    let hundred = Timestamp::from_second(host.clock.now().as_second() + 90 * 86_400).unwrap();
    for subject in ["acme", "acme/ada"] {
        host.set_trust(asks(20, 0)).await;
        let beyond = host.adjust("acme/ada", subject, -11).await;
        assert!(matches!(beyond, Err(IdentityError::BadAdjustment(_))), "{subject}: {beyond:?}");
        host.set_trust(TrustSettings { read: 20, ..asks(0, 0) }).await;
        let subject = subject.parse().unwrap();
        let floor =
            NewAdjustment { subject, delta: 0, floor: Some(100), reason: "a test".to_owned(), expires_at: hundred };
        let by = permit_by("acme/ada", place(Some("acme")));
        let beyond = host.identity.adjust_risk(by, Some(&tenant("acme")), floor).await;
        assert!(matches!(beyond, Err(IdentityError::BadAdjustment(_))), "{beyond:?}");
    }
    host.set_trust(asks(20, 0)).await;
    let held = host.adjust("acme/ada", "acme", -10).await.unwrap();
    assert_eq!(host.value(&sessions[0]), 30, "it waits");
    assert!(matches!(host.approve("acme/ada", &held).await, Err(IdentityError::SecondPerson)));
    host.adjust("acme/ada", "acme/bob", -5).await.unwrap();
    assert!(
        matches!(host.approve("acme/bob", &held).await, Err(IdentityError::BadAdjustment(_))),
        "he would fall by it"
    );
    host.approve("acme/cat", &held).await.unwrap();
    assert!(matches!(host.approve("acme/cat", &held).await, Err(IdentityError::SecondPerson)), "once");
    assert_eq!((host.value(&sessions[0]), host.value(&sessions[2])), (20, 20));
    unauthenticated(host.verify(&sessions[1]));
    assert!(host.withdraw("acme/ada", &held).await.unwrap().is_some());
    assert!(host.withdraw("acme/cat", &held).await.unwrap().is_none());
    assert_eq!(host.value(&sessions[0]), 30);
}

#[tokio::test]
async fn a_whole_place_is_not_held_down_once_who_asked_for_it_could_not_take_it_back() {
    let host = Host::new().await;
    host.holders(&["ada", "bob", "cat"]).await;
    host.set_trust(asks(20, 0)).await;
    let held = host.adjust("acme/ada", "acme", -10).await.unwrap();
    let since = host.adjust("acme/bob", "acme/ada", -5).await.unwrap();
    let refused = host.approve("acme/bob", &held).await;
    assert!(matches!(refused, Err(IdentityError::BadAdjustment(_))), "{refused:?}");
    assert!(host.withdraw("acme/bob", &since).await.unwrap().is_some());
    assert!(host.withdraw("acme/cat", &since).await.unwrap().is_none());
    host.approve("acme/bob", &held).await.unwrap();
}

#[tokio::test]
async fn who_asked_and_is_signed_out_is_judged_by_what_is_known_of_him_apart_from_sessions() {
    let host = Host::new().await;
    host.holders(&["ada", "bob", "cat"]).await;
    host.set_trust(asks(20, 0)).await;
    let held = host.adjust("acme/ada", "acme", -10).await.unwrap();
    let of_cat = host.adjust("acme/cat", "acme", -9).await.unwrap();
    let since = host.adjust("acme/bob", "acme/ada", -75).await.unwrap();
    host.clock.pass(600);
    // Everybody's session is over by now; who agrees has one.
    host.holders(&["dan"]).await;
    let refused = host.approve("acme/dan", &held).await;
    assert!(matches!(refused, Err(IdentityError::BadAdjustment(_))), "no session of his could stand: {refused:?}");
    assert!(host.withdraw("acme/bob", &since).await.unwrap().is_some());
    assert!(host.withdraw("acme/dan", &since).await.unwrap().is_none());
    let acme = tenant("acme");
    let key = {
        let tables = host.identity.shared.read();
        let found = tables.keys_of(Some(&acme)).find(|key| key.principal.as_str() == "acme/cat");
        found.map(|key| key.id.clone()).unwrap()
    };
    host.identity.revoke_key(permit(Some("acme")), Some(&acme), &key).await.unwrap();
    let refused = host.approve("acme/dan", &of_cat).await;
    assert!(matches!(refused, Err(IdentityError::BadAdjustment(_))), "she cannot come back: {refused:?}");
    host.approve("acme/dan", &held).await.unwrap();
}

#[tokio::test]
async fn who_wanted_something_withdrawn_and_is_signed_out_is_the_first_of_two_still() {
    let host = Host::new().await;
    host.holders(&["ada", "bob", "cat"]).await;
    let held = host.adjust("acme/ada", "acme", -20).await.unwrap();
    host.approve("acme/bob", &held).await.unwrap();
    let favour = host.adjust("acme/ada", "acme", 20).await.unwrap();
    host.approve("acme/bob", &favour).await.unwrap();
    host.set_trust(asks(10, 0)).await;
    assert!(host.withdraw("acme/cat", &favour).await.unwrap().is_some(), "one word is not enough");
    host.clock.pass(600);
    let dan = host.holders(&["dan"]).await.pop().unwrap();
    assert_eq!(host.value(&dan), 30);
    assert!(host.withdraw("acme/dan", &favour).await.unwrap().is_none());
    assert_eq!(host.value(&dan), 10);
}

#[tokio::test]
async fn what_makes_up_for_what_is_held_against_a_place_goes_by_two_who_could_stand_without_it() {
    let host = Host::new().await;
    let sessions = host.holders(&["ada", "bob", "cat"]).await;
    let held = host.adjust("acme/ada", "acme", -20).await.unwrap();
    host.approve("acme/bob", &held).await.unwrap();
    let favour = host.adjust("acme/ada", "acme", 20).await.unwrap();
    assert_eq!(host.value(&sessions[0]), 10, "it waits");
    host.approve("acme/bob", &favour).await.unwrap();
    assert_eq!(host.value(&sessions[0]), 30);
    host.set_trust(asks(11, 0)).await;
    let alone = host.withdraw("acme/cat", &favour).await;
    assert!(matches!(alone, Err(IdentityError::BadAdjustment(_))), "all would fall by it: {alone:?}");
    host.set_trust(asks(10, 0)).await;
    assert!(host.withdraw("acme/cat", &favour).await.unwrap().is_some(), "one word is not enough");
    assert_eq!(host.value(&sessions[0]), 30);
    assert!(host.withdraw("acme/bob", &favour).await.unwrap().is_none());
    assert_eq!(host.value(&sessions[0]), 10);
}

#[tokio::test]
async fn where_nobody_else_could_be_asked_one_word_takes_back_what_is_held_and_that_is_said() {
    let host = Host::new().await;
    host.holders(&["ada"]).await;
    let of_plugin = host.adjust("acme/ada", "acme/plugin/hello", -5).await.unwrap();
    let ask = |by: &str, made: &Adjustment| {
        let by = permit_by(by, place(Some("acme")));
        let weighed = host.identity.withdrawal(&by, Some(&tenant("acme")), &made.id).unwrap();
        (weighed.is_enough, weighed.by_one)
    };
    assert_eq!(ask("acme/ada", &of_plugin), (true, true));
    host.holders(&["bob"]).await;
    assert_eq!(ask("acme/ada", &of_plugin), (false, false), "bob could be asked");
    let of_bob = host.adjust("acme/ada", "acme/bob", -5).await.unwrap();
    assert_eq!(ask("acme/ada", &of_bob), (true, true), "it is about the only other one");
    assert!(matches!(host.withdraw("acme/bob", &of_bob).await, Err(IdentityError::SelfLowering)));
    assert!(host.withdraw("acme/ada", &of_plugin).await.unwrap().is_some());
    assert_eq!(ask("acme/bob", &of_plugin), (true, false), "he is the second");
    assert!(host.withdraw("acme/ada", &of_bob).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_held_against_somebody_is_withdrawn_by_two_people_and_never_by_him() {
    let mut host = Host::new().await;
    let cat = host.holders(&["ada", "bob", "cat"]).await.pop().unwrap();
    let held = host.adjust("acme/ada", "acme/cat", -5).await.unwrap();
    assert!(matches!(host.withdraw("acme/cat", &held).await, Err(IdentityError::SelfLowering)));
    let strange = permit_by("beta/ada", place(Some("beta")));
    let strange = host.identity.withdraw_adjustment(strange, Some(&tenant("beta")), &held.id).await;
    assert!(matches!(strange, Err(IdentityError::NotFound { .. })));
    for _ in 0..2 {
        let waits = host.withdraw("acme/ada", &held).await.unwrap().expect("one person, however often he asks");
        assert_eq!(waits.withdrawn_by.map(|by| by.to_string()).as_deref(), Some("acme/ada"));
        host.restart().await;
        assert_eq!(host.value(&cat), 25, "it holds until another wants the same, and its signature fits");
    }
    assert_eq!(host.withdraw("acme/bob", &held).await.unwrap(), None);
    assert!(matches!(host.withdraw("acme/bob", &held).await, Err(IdentityError::NotFound { .. })));
    host.restart().await;
    assert_eq!(host.value(&cat), 30);
    // What waits, or is in somebody's favour, goes at one person's word.
    let waiting = host.adjust("acme/ada", "acme/cat", 10).await.unwrap();
    assert_eq!(host.withdraw("acme/bob", &waiting).await.unwrap(), None);
    let given = host.adjust("acme/ada", "acme/cat", 10).await.unwrap();
    host.approve("acme/bob", &given).await.unwrap();
    assert_eq!(host.value(&cat), 40);
    assert_eq!(host.withdraw("acme/ada", &given).await.unwrap(), None);
    assert_eq!(host.value(&cat), 30);
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

#[tokio::test]
async fn operators_stand_under_what_operators_ask() {
    let mut host = Host::new().await;
    let ada = host.operator("ada").await;
    assert!(host.check(&ada, ActClass::Administer).is_ok(), "nothing is asked until somebody does");
    let allowed = UnboundTokens::Allowed;
    let beyond = host.ask_operators(&ada, asks(0, 31), allowed).await;
    assert!(matches!(beyond, Err(IdentityError::BadTrust { .. })), "he could not take it back");
    let unseen = host.ask_operators(&ada, TrustSettings { read: 31, ..asks(0, 0) }, allowed).await;
    assert!(matches!(unseen, Err(IdentityError::BadTrust { .. })), "he could not see it, so not take it back either");
    let unbound = host.ask_operators(&ada, asks(0, 0), UnboundTokens::Refused).await;
    assert!(matches!(unbound, Err(IdentityError::BadTrust { .. })), "his own token is bound to nothing");
    let asked = TrustSettings { change: 60, ..asks(25, 30) };
    assert_eq!(host.ask_operators(&ada, asked, allowed).await.unwrap(), None);
    for _ in 0..2 {
        assert!(host.check(&ada, ActClass::Administer).is_ok());
        assert!(matches!(host.check(&ada, ActClass::Change), Err(IdentityError::StepUp { .. })));
        host.restart().await;
    }
    let expires_at = Timestamp::from_second(host.clock.now().as_second() + 3_600).unwrap();
    let subject = "operator/ada".parse().unwrap();
    let risk = NewAdjustment { subject, delta: -10, floor: None, reason: "a test".to_owned(), expires_at };
    host.identity.adjust_risk(permit_by("operator/bob", place(None)), None, risk).await.unwrap();
    unauthenticated(host.verify(&ada));
}

#[tokio::test]
async fn an_enrolment_of_an_operator_is_the_way_back_whatever_is_asked() {
    let host = Host::new().await;
    let ada = host.operator("ada").await;
    host.ask_operators(&ada, TrustSettings { change: 100, ..asks(30, 30) }, UnboundTokens::Allowed).await.unwrap();
    let holder = crate::sessions::Holder {
        id: "operator/new".parse().unwrap(),
        kind: PrincipalKind::Person,
        role: Role::Operator,
        tenant: None,
        key: None,
        method: Method::Bootstrap,
        strength: Strength::Secret,
        scope: None,
        proved_by: ProvedBy::Itself,
    };
    let arrival = crate::sessions::Arrival { binding: Binding::Unbound, source: HERE };
    let enrolled = host.identity.open_session(holder, arrival).await.unwrap();
    assert!(host.check(&enrolled, ActClass::Change).is_ok());
    assert!(matches!(host.check(&ada, ActClass::Change), Err(IdentityError::StepUp { .. })));
}

#[tokio::test]
async fn one_operator_asks_for_more_and_two_for_less() {
    let host = Host::new().await;
    let (ada, bob) = (host.operator("ada").await, host.operator("bob").await);
    let allowed = UnboundTokens::Allowed;
    assert_eq!(host.ask_operators(&ada, asks(20, 30), allowed).await.unwrap(), None);
    for _ in 0..2 {
        let waits = host.ask_operators(&ada, asks(0, 30), allowed).await.unwrap().expect("it waits");
        assert_eq!(waits.by.as_str(), "operator/ada");
        assert_eq!(host.floor_of_operators().await, 20);
    }
    let other = host.ask_operators(&bob, asks(5, 30), allowed).await.unwrap();
    assert!(other.is_some(), "he wants something else");
    assert!(host.ask_operators(&ada, asks(0, 30), allowed).await.unwrap().is_some());
    assert_eq!(host.ask_operators(&bob, asks(0, 30), allowed).await.unwrap(), None);
    assert_eq!(host.floor_of_operators().await, 0);
    let (now, waiting) = host.identity.operators_trust(permit(None)).await.unwrap();
    assert_eq!(waiting, None, "nothing waits any more");
    let who = |by: Option<PrincipalId>| by.map(|by| by.to_string());
    let (asked, agreed) = (who(now.sessions.changed_by), who(now.sessions.approved_by));
    assert_eq!((asked.as_deref(), agreed.as_deref()), (Some("operator/ada"), Some("operator/bob")));
}

#[tokio::test]
async fn what_operators_ask_is_decided_as_it_was_weighed_or_not_at_all() {
    let host = Host::new().await;
    let ada = host.operator("ada").await;
    let allowed = UnboundTokens::Allowed;
    host.ask_operators(&ada, asks(20, 30), allowed).await.unwrap();
    let by = host.verify(&ada).unwrap();
    let alone = host.weigh(&by, OperatorsTrust { sessions: asks(10, 30), unbound_tokens: allowed }).await;
    assert_eq!((alone.weakened.len(), &alone.asked_by, alone.is_waiting), (1, &None, false), "there is nobody else");
    host.operator("bob").await;
    let second = host.weigh(&by, OperatorsTrust { sessions: asks(20, 10), unbound_tokens: allowed }).await;
    assert!(second.is_waiting, "{second:?}");
    host.ask_operators(&ada, asks(25, 30), allowed).await.unwrap();
    let set = host.identity.set_operators_trust(permit(None), &by, Some(HERE), alone).await;
    assert!(matches!(set, Err(IdentityError::FactorState(_))), "{set:?}");
    assert_eq!(host.floor_of_operators().await, 25);
}

#[tokio::test]
async fn what_is_held_against_a_plugin_or_a_tenant_counts_and_a_floor_caps() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    let call = |host: &Host| {
        let (plugin, who) = ("hello".parse::<PluginName>().unwrap(), host.verify(&issued).unwrap());
        host.identity.score_of_call(&who, Some(HERE), (&tenant("acme"), &plugin)).unwrap().value
    };
    assert_eq!((host.value(&issued), call(&host)), (30, 30));
    host.adjust("acme/ada", "acme/plugin/hello", -10).await.unwrap();
    assert_eq!((host.value(&issued), call(&host)), (30, 20));
    host.set_trust(TrustSettings { invoke: 25, ..asks(0, 0) }).await;
    let (plugin, who) = ("hello".parse::<PluginName>().unwrap(), host.verify(&issued).unwrap());
    let refused = host.identity.check_call_trust(&who, Some(HERE), (&tenant("acme"), &plugin));
    assert!(matches!(refused, Err(IdentityError::StepUp { .. })), "{refused:?}");
    assert!(host.check(&issued, ActClass::Invoke).is_ok(), "another plugin's calls are as they were");
    let of_all = host.adjust("acme/ada", "acme", -5).await.unwrap();
    assert_eq!((host.value(&issued), call(&host)), (30, 20), "it waits");
    host.holders(&["ada", "bob"]).await;
    host.approve("acme/bob", &of_all).await.unwrap();
    assert_eq!((host.value(&issued), call(&host)), (25, 15));
    let expires_at = Timestamp::from_second(host.clock.now().as_second() + 3_600).unwrap();
    let floor = |floor, delta| {
        let subject = "acme/ci".parse().unwrap();
        NewAdjustment { subject, delta, floor: Some(floor), reason: "a test".to_owned(), expires_at }
    };
    let by = || permit_by("acme/ada", place(Some("acme")));
    for wrong in [floor(0, 0), floor(101, 0), floor(50, -1)] {
        let refused = host.identity.adjust_risk(by(), Some(&tenant("acme")), wrong).await;
        assert!(matches!(refused, Err(IdentityError::BadAdjustment(_))));
    }
    host.identity.adjust_risk(by(), Some(&tenant("acme")), floor(95, 0)).await.unwrap();
    assert_eq!(host.value(&issued), 5);
    host.restart().await;
    assert_eq!((host.value(&issued), call(&host)), (5, 5), "it is kept, and its signature holds");
}

#[tokio::test]
async fn where_a_subject_stands_is_told_of_ones_own_place_alone() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let of = |subject: &str, is_there| {
        let subject = subject.parse().unwrap();
        host.identity.score_of(permit(Some("acme")), Some(&tenant("acme")), &subject, is_there)
    };
    let (session, score) = of("acme/ci", false).unwrap();
    assert_eq!((session, score.value), (Some(issued.session_id.clone()), 30));
    for nobody in ["acme/nobody", "beta/ci", "beta", "operator/ada"] {
        assert!(matches!(of(nobody, false), Err(IdentityError::NotFound { .. })), "{nobody}");
    }
    assert!(matches!(of("beta/plugin/hello", true), Err(IdentityError::NotFound { .. })));
    host.adjust("acme/ada", "acme/plugin/hello", -15).await.unwrap();
    let (session, score) = of("acme/plugin/hello", true).unwrap();
    assert_eq!((session, score.value), (None, 85));
    assert_eq!(of("acme", false).unwrap().1.value, 100);
}

#[tokio::test]
async fn who_may_end_a_session_has_it_judged_and_not_verified() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let judge = |of: &str| {
        host.identity.judge_session(
            &permit_by(&format!("{of}/ada"), place(Some(of))),
            Some(&tenant(of)),
            &issued.session_id,
        )
    };
    assert!(matches!(judge("beta"), Err(IdentityError::NotFound { .. })));
    host.set_trust(TrustSettings { verify_interval_seconds: 60, ..asks(0, 30) }).await;
    assert_eq!(judge("acme").unwrap().1.verdict, Verdict::Keep);
    host.clock.pass(61);
    let (whose, judged) = judge("acme").unwrap();
    assert_eq!((whose.as_str(), judged.verdict, judged.score.value), ("acme/ci", Verdict::StepUp, 20));
    assert_eq!(judge("acme").unwrap().1.score.value, 20, "looking at it is no verification");
    host.clock.pass(300);
    assert!(matches!(judge("acme"), Err(IdentityError::FactorState(_)) | Err(IdentityError::NotFound { .. })));
}

#[tokio::test]
async fn a_session_that_is_judged_to_be_below_the_floor_is_left_to_who_had_it_judged() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.set_trust(TrustSettings { verify_interval_seconds: 60, ..asks(25, 0) }).await;
    host.clock.pass(61);
    let (acme, by) = (tenant("acme"), permit_by("acme/ada", place(Some("acme"))));
    let (_, judged) = host.identity.judge_session(&by, Some(&acme), &issued.session_id).unwrap();
    assert_eq!((judged.verdict, judged.score.value), (Verdict::Ended, 20));
    assert!(
        host.identity.is_alive(&issued.session_id) && !host.identity.has_fallen(Some(&acme)),
        "nothing was done yet"
    );
    host.identity.revoke_session(by, Some(&acme), &issued.session_id).await.unwrap();
    unauthenticated(host.verify(&issued));
    assert!(!host.identity.has_fallen(Some(&acme)), "he announced it, and so has it on the record");
}

#[tokio::test]
async fn every_session_that_falls_is_told_of_once_whatever_brought_it_down() {
    for way in ["an act", "a call", "a verification", "a floor", "an adjustment", "a finding", "time", "guesses"] {
        let host = Host::new().await;
        let (record, issued) = host.developer().await;
        host.set_trust(TrustSettings { verify_interval_seconds: 60, ..asks(25, 0) }).await;
        let (who, acme) = (host.verify(&issued).unwrap(), tenant("acme"));
        assert!(host.check(&issued, ActClass::Read).is_ok() && !host.identity.has_fallen(Some(&acme)), "{way}");
        let mut floor = 25;
        match way {
            "an act" => {
                host.clock.pass(61);
                assert!(host.check(&issued, ActClass::Read).is_err());
            }
            "a call" => {
                host.clock.pass(61);
                let plugin = "hello".parse::<PluginName>().unwrap();
                assert!(host.identity.check_call_trust(&who, Some(HERE), (&acme, &plugin)).is_err());
            }
            "a verification" => {
                let now = host.clock.monotonic();
                for _ in 0..2 {
                    host.identity.shared.throttle().failed(Source::of(HERE), Some(record.id.as_str()), now);
                }
                let verified = host.identity.verify_session(&who, Some(HERE)).await.unwrap();
                assert_eq!(verified.verdict, Verdict::Ended);
            }
            "a floor" => {
                floor = 31;
                host.set_trust(asks(floor, 0)).await;
            }
            "time" => {
                host.identity.end_all_fallen();
                assert!(host.verify(&issued).is_ok() && !host.identity.has_fallen(Some(&acme)), "it stands well");
                host.clock.pass(61);
                host.identity.end_all_fallen();
            }
            "guesses" => {
                let now = host.clock.monotonic();
                for _ in 0..2 {
                    host.identity.shared.throttle().failed(Source::of(HERE), Some(record.id.as_str()), now);
                }
                host.identity.end_all_fallen();
            }
            "an adjustment" => drop(host.adjust("acme/ada", "acme/ci", -10).await.unwrap()),
            _ => {
                let until = Timestamp::from_second(host.clock.now().as_second() + 60).unwrap();
                let severe = Some(Finding::High);
                host.identity.note_finding(who.id(), Some(&acme), "f", severe, until).await.unwrap();
            }
        }
        unauthenticated(host.verify(&issued));
        assert!(!host.identity.has_fallen(None) && host.identity.fallen_places() == [Some(acme.clone())], "{way}");
        let there = host.identity.take_fallen(Some(&acme));
        assert_eq!((there.sessions.len(), there.unnamed_count), (1, 0), "{way}: {there:?}");
        let one = there.sessions[0].clone();
        assert_eq!((&one.session, &one.principal), (&issued.session_id, who.id()), "{way}");
        assert!(one.score < one.floor && one.floor == floor, "{way}: {one:?}");
        assert!(!host.identity.has_fallen(Some(&acme)) && host.identity.fallen_places().is_empty(), "{way}");
        host.identity.put_back_fallen(Some(&acme), there);
        assert_eq!(host.identity.take_fallen(Some(&acme)).sessions, [one], "{way}: it could not be written");
    }
}

#[tokio::test]
async fn a_session_that_was_ended_is_not_kept_again_by_who_verifies_it_or_proves_more() {
    let mut host = Host::new().await;
    let (_, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    for proves_more in [false, true] {
        let issued = host.sign_in(&key).await.unwrap();
        let who = host.verify(&issued).unwrap();
        host.identity.end_own_session(&who, &issued.session_id).await.unwrap();
        unauthenticated(match proves_more {
            true => host.identity.raise(&who, Strength::Passkey).await,
            false => host.identity.verify_session(&who, Some(HERE)).await.map(drop),
        });
    }
    // Ended between the reading of its record and the writing.
    let issued = host.sign_in(&key).await.unwrap();
    let who = host.verify(&issued).unwrap();
    let store = host.tenants.open_tenant(&tenant("acme")).unwrap();
    let at = crate::shelf::session_at(&issued.session_id);
    let before = store.get(&at).await.unwrap().unwrap();
    let stored: crate::record::StoredSession = before.json().unwrap();
    host.identity.end_own_session(&who, &issued.session_id).await.unwrap();
    assert!(!crate::sessions::keep(&store, &stored, before.revision).await.unwrap());
    assert!(store.get(&at).await.unwrap().is_none());
    host.restart().await;
    assert!(!host.identity.is_alive(&issued.session_id));
    // One that goes on is kept with all that became of it, also where that is at the same moment.
    let issued = host.sign_in(&key).await.unwrap();
    let who = host.verify(&issued).unwrap();
    host.clock.pass(10);
    let verifies = futures::future::join_all((0..4).map(|_| host.identity.verify_session(&who, Some(HERE))));
    let proves = futures::future::join_all((0..4).map(|_| host.identity.raise(&who, Strength::Passkey)));
    let (verified, proved) = futures::join!(verifies, proves);
    assert!(verified.iter().all(Result::is_ok) && proved.iter().all(Result::is_ok), "{verified:?} {proved:?}");
    host.restart().await;
    assert_eq!(host.verify(&issued).unwrap().strength(), Strength::Passkey);
    let kept = host.identity.shared.read().session(&issued.session_id).and_then(|stored| stored.verified_at);
    assert_eq!(kept, Some(host.clock.now()));
}

#[tokio::test]
async fn a_session_that_fell_while_the_store_was_closed_is_not_read_again_and_is_deleted_later() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    let acme = tenant("acme");
    host.set_trust(TrustSettings { verify_interval_seconds: 60, ..asks(25, 0) }).await;
    let (identity, who) = (host.identity.clone(), host.verify(&issued).unwrap());
    host.tenants.disable_key(&acme, "acme/ada", ringfence_store::Side::Tenant).await.unwrap();
    host.clock.pass(61);
    // Outside of the runtime, so that nothing is deleted but by who says so here.
    let falls = std::thread::spawn(move || identity.check_trust(&who, Some(HERE), ActClass::Read));
    assert!(matches!(falls.join().unwrap(), Err(IdentityError::Fallen { .. })));
    assert_eq!(host.identity.delete_fallen().await, 1, "the keys are shut");
    host.tenants.enable_key(&acme, ringfence_store::Side::Tenant).await.unwrap();
    let at = crate::shelf::session_at(&issued.session_id);
    let store = host.tenants.open_tenant(&acme).unwrap();
    assert!(store.get(&at).await.unwrap().is_some());
    host.identity.reload(&acme).await.unwrap();
    unauthenticated(host.verify(&issued));
    assert_eq!(host.identity.delete_fallen().await, 0);
    assert!(store.get(&at).await.unwrap().is_none());
    // What was asked of it is asked no more, and yet it stays ended.
    host.set_trust(TrustSettings::unset()).await;
    host.restart().await;
    unauthenticated(host.verify(&issued));
}
