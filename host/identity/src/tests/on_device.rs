//! Which device a session is on: by whose word, for how long, and what ends it.

use super::devices::{claim, issuer, with_laptop};
use super::*;

/// Thumbprint of a key.
const KEY: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

fn key(thumbprint: &str) -> Binding {
    Binding::Key(thumbprint.to_owned())
}

/// A claim that names a key.
fn names(jkt: &str) -> impl FnOnce(&mut Value) {
    move |claims| claims["cnf"] = json!({ "jkt": jkt })
}

impl Host {
    /// A session of somebody, whose token is bound to this.
    pub(super) async fn bound(&self, who: &str, to: Binding) -> Principal {
        let holder = Holder {
            id: who.parse().unwrap(),
            kind: PrincipalKind::Service,
            role: Role::Developer,
            tenant: who.split_once('/').map(|(of, _)| tenant(of)),
            key: None,
            method: Method::ApiKey,
            strength: Strength::Secret,
            scope: None,
            proved_by: ProvedBy::Itself,
        };
        self.identity.open_session(holder, Arrival { binding: to, source: HERE }).await.unwrap().principal
    }

    /// Shows a claim about a device in a session.
    async fn vouch(
        &self,
        who: &Principal,
        device: &str,
        by: &EncodingKey,
        change: impl FnOnce(&mut Value),
    ) -> Result<DeviceVerdict, IdentityError> {
        let nonce = self.identity.challenge_device(who, device, HERE)?;
        let evidence = claim(self, by, &nonce, |claims| {
            claims["sub"] = json!(device);
            change(claims);
        });
        let shown = DeviceEvidence { device, nonce: &nonce, format: "posture", evidence: &evidence };
        self.identity.verify_device(who, shown).await.map(|(verdict, _)| verdict)
    }

    /// Whether the session is on a device, and whether that is verified.
    fn verified(&self, who: &Principal) -> Option<bool> {
        self.identity.device_of(who).map(|device| device.verified)
    }
}

#[tokio::test]
async fn a_session_is_on_the_device_that_was_shown_to_hold_its_key_and_stays_so_over_a_restart() {
    let (mut host, issued, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    assert_eq!(host.identity.device_of(&here), None, "that it is registered shows nothing");
    assert_eq!(host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap(), DeviceVerdict::Verified);
    let device = host.identity.device_of(&here).unwrap();
    assert_eq!((device.name.as_str(), device.verified, device.evidence.as_str()), ("laptop", true, "posture"));
    assert_eq!(device.posture.iter().collect::<Vec<_>>(), ["disk_encrypted"]);
    // The next session with the key is; with another key, with something else of that name, with nothing, none is.
    let next = host.bound("acme/ci", key(KEY)).await;
    let elsewhere = [
        host.bound("acme/ci", key("other")).await,
        host.bound("acme/ci", Binding::Certificate(KEY.to_owned())).await,
        host.verify(&issued).unwrap(),
        host.bound("acme/colleague", key(KEY)).await,
    ];
    for _ in 0..2 {
        assert_eq!((host.verified(&here), host.verified(&next)), (Some(true), Some(true)));
        for who in &elsewhere {
            assert_eq!(host.identity.device_of(who), None, "{who:?}");
        }
        host.restart().await;
    }
}

#[tokio::test]
async fn a_session_that_is_bound_to_a_certificate_is_on_the_device_that_holds_its_key() {
    let (host, _, by) = with_laptop().await;
    let here = host.bound("acme/ci", Binding::Certificate(KEY.to_owned())).await;
    let names = |claims: &mut Value| claims["cnf"] = json!({ "x5t#S256": KEY });
    assert_eq!(host.vouch(&here, "laptop", &by, names).await.unwrap(), DeviceVerdict::Verified);
    assert_eq!(host.verified(&here), Some(true));
}

#[tokio::test]
async fn evidence_about_another_key_is_refused_and_evidence_about_none_puts_no_session_on_a_device() {
    let (host, issued, by) = with_laptop().await;
    let (here, loose) = (host.bound("acme/ci", key(KEY)).await, host.verify(&issued).unwrap());
    for (who, cnf) in
        [(&here, json!({ "jkt": "other" })), (&here, json!({ "x5t#S256": KEY })), (&loose, json!({ "jkt": KEY }))]
    {
        let refused = host.vouch(who, "laptop", &by, |claims| claims["cnf"] = cnf.clone()).await;
        assert!(matches!(refused, Err(IdentityError::BadEvidence(_))), "{cnf}");
        assert_eq!(host.identity.devices(who)[0].found, None, "{cnf}");
    }
    for cnf in [Value::Null, json!({}), json!({ "jwk": { "kty": "OKP" } })] {
        host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
        assert_eq!(host.verified(&here), Some(true));
        // A good word for the device, from wherever it was carried here: each evidence speaks for itself.
        let verdict = host.vouch(&here, "laptop", &by, |claims| claims["cnf"] = cnf.clone()).await;
        assert_eq!(verdict.unwrap(), DeviceVerdict::Verified, "{cnf}");
        assert_eq!(host.identity.device_of(&here), None, "{cnf}");
    }
    let nonce = host.identity.challenge_device(&here, "laptop", HERE).unwrap();
    let shown = DeviceEvidence { device: "laptop", nonce: &nonce, format: "other", evidence: "{\"verified\":true}" };
    assert_eq!(host.identity.verify_device(&here, shown).await.unwrap().0, DeviceVerdict::Unsupported);
    assert_eq!(host.identity.device_of(&here), None);
}

#[tokio::test]
async fn a_device_is_verified_for_as_long_as_its_evidence_counts_and_not_when_it_fails() {
    let (host, _, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    let brief = |claims: &mut Value| {
        names(KEY)(claims);
        claims["exp"] = json!(1_800_000_100);
    };
    host.vouch(&here, "laptop", &by, brief).await.unwrap();
    host.clock.pass(99);
    assert_eq!(host.verified(&here), Some(true));
    host.clock.pass(1);
    let over = host.identity.device_of(&here).unwrap();
    assert_eq!((over.verified, over.evidence.as_str(), over.posture.len()), (false, "none", 0));
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    assert_eq!(host.verified(&here), Some(true));
    let failing = |claims: &mut Value| {
        names(KEY)(claims);
        claims["posture"] = json!({ "disk_encrypted": false });
    };
    assert_eq!(host.vouch(&here, "laptop", &by, failing).await.unwrap(), DeviceVerdict::Failed);
    assert_eq!(host.verified(&here), Some(false));
    // Nor is it got round by a good word for another device that holds the same key.
    host.identity.register_device(&here, "second".parse().unwrap()).await.unwrap();
    host.vouch(&here, "second", &by, names(KEY)).await.unwrap();
    assert_eq!(host.identity.device_of(&here).unwrap().name.as_str(), "laptop");
    assert_eq!(host.verified(&here), Some(false));
}

#[tokio::test]
async fn a_device_that_its_holder_removes_is_gone_for_all_sessions() {
    let (mut host, _, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    host.identity.remove_device(&here, "laptop").await.unwrap();
    assert_eq!(host.identity.device_of(&here), None);
    host.identity.register_device(&here, "laptop".parse().unwrap()).await.unwrap();
    host.restart().await;
    assert_eq!(host.identity.device_of(&here), None, "one of the same name is another");
}

#[tokio::test]
async fn a_revoked_device_is_not_verified_from_then_on_under_any_name() {
    let (mut host, _, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    let colleague = host.bound("acme/colleague", key(KEY)).await;
    host.identity.register_device(&here, "second".parse().unwrap()).await.unwrap();
    host.identity.register_device(&colleague, "mine".parse().unwrap()).await.unwrap();
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    let nonce = host.identity.challenge_device(&here, "laptop", HERE).unwrap();
    let revoke = async |host: &Host, by: &str, of: &str, holder: &str| {
        host.identity.revoke_device(permit(Some(by)), &tenant(of), holder, "laptop").await
    };
    assert!(matches!(revoke(&host, "beta", "acme", "ci").await, Err(IdentityError::WrongPermit)));
    for (of, holder) in [("beta", "ci"), ("acme", "nobody"), ("acme", "colleague")] {
        assert!(matches!(revoke(&host, of, of, holder).await, Err(IdentityError::NotFound { .. })), "{of}/{holder}");
    }
    assert_eq!(host.verified(&here), Some(true));
    revoke(&host, "acme", "acme", "ci").await.unwrap();
    revoke(&host, "acme", "acme", "ci").await.unwrap();
    let evidence = claim(&host, &by, &nonce, names(KEY));
    let shown = DeviceEvidence { device: "laptop", nonce: &nonce, format: "posture", evidence: &evidence };
    assert!(host.identity.verify_device(&here, shown).await.is_err(), "a nonce of before");
    for _ in 0..2 {
        assert_eq!(host.verified(&here), Some(false));
        assert!(host.identity.challenge_device(&here, "laptop", HERE).is_err());
        assert!(host.identity.remove_device(&here, "laptop").await.is_err(), "it is not forgotten on wish");
        assert!(host.identity.register_device(&here, "laptop".parse().unwrap()).await.is_err());
        for (who, device) in [(&here, "second"), (&colleague, "mine")] {
            let refused = host.vouch(who, device, &by, names(KEY)).await;
            assert!(matches!(refused, Err(IdentityError::BadEvidence(_))), "{device}: the same key");
        }
        host.restart().await;
    }
    let all = host.identity.list_devices(permit(Some("acme")), &tenant("acme")).unwrap();
    let told: Vec<(&str, &str, bool)> =
        all.iter().map(|(who, one)| (who.as_str(), one.name.as_str(), one.revoked_at.is_some())).collect();
    assert_eq!(told, [("acme/ci", "laptop", true), ("acme/ci", "second", false), ("acme/colleague", "mine", false)]);
    let other = host.bound("acme/ci", key("other")).await;
    host.vouch(&other, "second", &by, names("other")).await.unwrap();
    assert_eq!(host.verified(&other), Some(true), "another device of his is");
}

#[tokio::test]
async fn a_device_of_one_tenant_is_none_of_another() {
    let (host, _, by) = with_laptop().await;
    let (here, there) = (host.bound("acme/ci", key(KEY)).await, host.bound("beta/ci", key(KEY)).await);
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    assert_eq!(host.identity.device_of(&there), None);
    host.identity.register_device(&there, "laptop".parse().unwrap()).await.unwrap();
    assert!(host.vouch(&there, "laptop", &by, names(KEY)).await.is_err(), "nobody there trusts who signs");
    assert_eq!((host.verified(&here), host.identity.device_of(&there)), (Some(true), None));
}

#[tokio::test]
async fn trust_that_is_taken_away_and_more_that_is_required_hold_at_the_next_decision() {
    let (host, _, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    let before = host.identity.thresholds(&here);
    host.set_trust(TrustSettings::unset()).await;
    let distrusted = host.identity.device_of(&here).unwrap();
    assert_eq!((distrusted.verified, distrusted.posture.len()), (false, 0));
    let mut more = before.clone();
    more.posture.required.push("screen_lock".to_owned());
    host.set_trust(more).await;
    let lacking = host.identity.device_of(&here).unwrap();
    assert_eq!((lacking.verified, lacking.evidence.as_str(), lacking.posture.len()), (false, "none", 1));
    host.set_trust(before).await;
    assert_eq!(host.verified(&here), Some(true));
}

#[tokio::test]
async fn what_an_issuer_said_with_a_key_that_was_replaced_counts_no_longer() {
    let (mut host, issued, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    let before = host.identity.thresholds(&here);
    assert_eq!((host.verified(&here), host.effect(&issued)), (Some(true), 0));
    let (new_key, new) = issuer(80_000);
    let both = before.posture.issuers.iter().cloned().chain([new.clone()]).collect();
    let mut after = before.clone();
    // The same name, both keys; then the new one alone.
    after.posture.issuers = both;
    host.set_trust(after.clone()).await;
    assert_eq!((host.verified(&here), host.effect(&issued)), (Some(true), 0));
    after.posture.issuers = vec![new];
    host.set_trust(after).await;
    for _ in 0..2 {
        let device = host.identity.device_of(&here).unwrap();
        assert_eq!((device.verified, device.posture.len(), host.effect(&issued)), (false, 0, -15));
        host.restart().await;
    }
    host.vouch(&here, "laptop", &new_key, names(KEY)).await.unwrap();
    assert_eq!(host.verified(&here), Some(true));
    // A record of before does not say which key it was.
    let store = host.tenants.open_tenant(&tenant("acme")).unwrap();
    let at = crate::risk::about_at(here.id());
    let mut about: Value = store.get_json(&at).await.unwrap().unwrap();
    assert!(about["devices"][0]["found"].as_object_mut().unwrap().remove("trusted").is_some());
    store.put_json(&at, &about).await.unwrap();
    host.restart().await;
    assert_eq!(host.verified(&here), Some(false));
}

#[tokio::test]
async fn a_tenant_that_is_read_later_has_its_devices_and_its_trust() {
    let (host, _, by) = with_laptop().await;
    let here = host.bound("acme/ci", key(KEY)).await;
    host.vouch(&here, "laptop", &by, names(KEY)).await.unwrap();
    host.identity.shared.write().forget(&tenant("acme"));
    assert_eq!(host.identity.device_of(&here), None);
    host.identity.reload(&tenant("acme")).await.unwrap();
    assert_eq!(host.verified(&here), Some(true));
    assert_eq!(host.identity.thresholds(&here).posture.required, ["disk_encrypted"]);
}

#[test]
fn a_record_of_before_is_read_and_names_no_key() {
    let text = json!({
        "name": "laptop", "registered_at": "2026-11-20T00:00:00Z",
        "found": {
            "verdict": "verified", "claims": { "disk_encrypted": true }, "issuer": "mdm",
            "at": "2026-11-20T00:00:00Z", "expires_at": "2026-11-21T00:00:00Z",
        },
    });
    let record: DeviceRecord = serde_json::from_value(text).unwrap();
    assert_eq!((record.revoked_at, record.found.unwrap().key), (None, None));
}
