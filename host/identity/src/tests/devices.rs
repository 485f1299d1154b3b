//! Devices: what is believed about them, from whom, once and for how long.

use super::*;

/// One who signs claims, and how tenants name him.
pub(super) fn issuer(seed: u64) -> (EncodingKey, PostureIssuer) {
    let dice = Dice(AtomicU64::new(seed));
    let key = SigningKey::generate(&dice).unwrap();
    let public = BASE64URL_NOPAD.encode(&key.public_key());
    (EncodingKey::from_ed_der(&key.to_pkcs8()), PostureIssuer { name: "mdm".to_owned(), key: public })
}

pub(super) fn claim(host: &Host, key: &EncodingKey, nonce: &str, change: impl FnOnce(&mut Value)) -> String {
    let now = host.clock.now().as_second();
    let mut claims = json!({
        "iss": "mdm", "sub": "laptop", "nonce": nonce, "iat": now, "exp": now + 600,
        "posture": { "disk_encrypted": true },
    });
    change(&mut claims);
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, key).unwrap()
}

pub(super) async fn with_laptop() -> (Host, Issued, EncodingKey) {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let (key, issuer) = issuer(70_000);
    let posture = PostureTrust { issuers: vec![issuer], required: vec!["disk_encrypted".to_owned()] };
    let settings = TrustSettings { posture, ..TrustSettings::unset() };
    host.identity.set_trust_settings(permit(Some("acme")), &tenant("acme"), settings).await.unwrap();
    let ci = host.verify(&issued).unwrap();
    host.identity.register_device(&ci, "laptop".parse().unwrap()).await.unwrap();
    (host, issued, key)
}

impl Host {
    fn nonce(&self, issued: &Issued) -> String {
        self.identity.challenge_device(&self.verify(issued).unwrap(), "laptop", HERE).unwrap()
    }

    async fn show(
        &self,
        issued: &Issued,
        nonce: &str,
        format: &str,
        evidence: &str,
    ) -> Result<DeviceVerdict, IdentityError> {
        let shown = DeviceEvidence { device: "laptop", nonce, format, evidence };
        self.identity.verify_device(&self.verify(issued)?, shown).await.map(|(verdict, _)| verdict)
    }

    pub(super) fn effect(&self, issued: &Issued) -> i32 {
        let score = self.identity.score(&self.verify(issued).unwrap(), Some(HERE)).unwrap();
        score.contributions.iter().find(|signal| signal.name == "device posture").unwrap().effect
    }
}

#[tokio::test]
async fn a_signed_claim_counts_for_its_time_and_its_nonce_once() {
    let (mut host, issued, key) = with_laptop().await;
    assert_eq!(host.effect(&issued), -15);
    let nonce = host.nonce(&issued);
    let good = claim(&host, &key, &nonce, |claims| claims["exp"] = json!(1_800_000_100));
    assert_eq!(host.show(&issued, &nonce, "posture", &good).await.unwrap(), DeviceVerdict::Verified);
    assert_eq!(host.effect(&issued), 0);
    assert!(matches!(host.show(&issued, &nonce, "posture", &good).await, Err(IdentityError::NonceSpent)));
    host.restart().await;
    assert_eq!(host.effect(&issued), 0);
    host.clock.pass(100);
    assert_eq!(host.effect(&issued), -15, "it is over");
}

#[tokio::test]
async fn a_device_that_fails_is_worse_than_an_unknown_one_and_is_not_forgotten_on_wish() {
    let (host, issued, key) = with_laptop().await;
    let nonce = host.nonce(&issued);
    let bad = claim(&host, &key, &nonce, |claims| claims["posture"] = json!({ "disk_encrypted": false }));
    assert_eq!(host.show(&issued, &nonce, "posture", &bad).await.unwrap(), DeviceVerdict::Failed);
    assert_eq!(host.effect(&issued), -60);
    let ci = host.verify(&issued).unwrap();
    assert!(host.identity.remove_device(&ci, "laptop").await.is_err());
    let nonce = host.nonce(&issued);
    let silent = claim(&host, &key, &nonce, |claims| claims["posture"] = json!({}));
    assert_eq!(host.show(&issued, &nonce, "posture", &silent).await.unwrap(), DeviceVerdict::Failed);
}

#[tokio::test]
async fn what_cannot_be_checked_is_never_verified_and_changes_nothing() {
    let (host, issued, _) = with_laptop().await;
    for format in ["tpm", "webauthn", "", "POSTURE"] {
        let nonce = host.nonce(&issued);
        let verdict = host.show(&issued, &nonce, format, "{\"verified\":true}").await.unwrap();
        assert_eq!(verdict, DeviceVerdict::Unsupported, "{format}");
    }
    assert_eq!(host.effect(&issued), -15);
}

#[tokio::test]
async fn a_claim_by_a_stranger_or_for_something_else_is_refused() {
    type Change = fn(&mut Value);
    let (host, issued, key) = with_laptop().await;
    let (stranger, _) = issuer(90_000);
    let changes: [(&str, Change); 5] = [
        ("another device", |claims| claims["sub"] = json!("phone")),
        ("another nonce", |claims| claims["nonce"] = json!("other")),
        ("another issuer's name", |claims| claims["iss"] = json!("other")),
        ("made long ago", |claims| claims["iat"] = json!(1_700_000_000)),
        ("over", |claims| claims["exp"] = json!(1_800_000_000)),
    ];
    for (what, change) in changes {
        let nonce = host.nonce(&issued);
        let evidence = claim(&host, &key, &nonce, change);
        let refused = host.show(&issued, &nonce, "posture", &evidence).await;
        assert!(matches!(refused, Err(IdentityError::BadEvidence(_))), "{what}");
    }
    let nonce = host.nonce(&issued);
    let forged = claim(&host, &stranger, &nonce, |_| ());
    assert!(host.show(&issued, &nonce, "posture", &forged).await.is_err());
    for garbage in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        let nonce = host.nonce(&issued);
        assert!(host.show(&issued, &nonce, "posture", garbage).await.is_err(), "{garbage}");
    }
    let late = host.nonce(&issued);
    let good = claim(&host, &key, &late, |_| ());
    host.clock.pass(180);
    assert!(matches!(host.show(&issued, &late, "posture", &good).await, Err(IdentityError::NonceSpent)));
    assert_eq!(host.effect(&issued), -15);
}
