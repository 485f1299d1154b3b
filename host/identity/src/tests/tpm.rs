//! Quotes of a TPM, made here byte by byte as TPM 2.0 Library part 2 has them: which are believed, and which are not.

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, RsaKeySize, SigningKey as _,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use super::*;

const PCR_0: [u8; 32] = [0x11; 32];
const PCR_7: [u8; 32] = [0x77; 32];
/// SHA-256 bank, three bytes of selection: registers 0 and 7.
const SELECTION: &[u8] = &[0, 0, 0, 1, 0x00, 0x0b, 3, 0b1000_0001, 0, 0];

struct Maker {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Maker {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { root: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// The certificate of a key, for attestation or something else.
    fn certify(&self, key: &KeyPair, usage: ExtendedKeyUsagePurpose) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![usage];
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

fn attesting() -> ExtendedKeyUsagePurpose {
    ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])
}

/// A TPM with an attestation key on P-256 and its certificate.
struct Chip {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Chip {
    fn of(maker: &Maker) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = maker.certify(&key, attesting());
        Self { key, certificate }
    }

    fn sign(&self, quote: &[u8]) -> Vec<u8> {
        let dice = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.key.serialized_der(), &dice).unwrap();
        let signature = pair.sign(&dice, quote).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [&[0, 0x18, 0, 0x0b, 0, 32][..], r, &[0, 32], s].concat()
    }

    fn evidence(&self, quote: &[u8]) -> String {
        evidence(quote, &self.sign(quote), &self.certificate)
    }
}

fn evidence(quote: &[u8], signature: &[u8], certificate: &[u8]) -> String {
    json!({
        "quote": BASE64.encode(quote),
        "signature": BASE64.encode(signature),
        "certificates": [BASE64.encode(certificate)],
    })
    .to_string()
}

/// TPMS_ATTEST of a quote.
fn quote_with(nonce: &str, selection: &[u8], registers: &[&[u8]]) -> Vec<u8> {
    let digest = Sha256::digest(registers.concat());
    [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18][..], // TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE
        &[0, 4, 1, 2, 3, 4],                       // qualifiedSigner
        &[0, 32],
        &Sha256::digest(nonce.as_bytes()), // extraData
        &[0; 17],                          // clockInfo: clock, resetCount, restartCount, safe
        &[0; 8],                           // firmwareVersion
        selection,
        &[0, 32],
        &digest,
    ]
    .concat()
}

fn quote(nonce: &str) -> Vec<u8> {
    quote_with(nonce, SELECTION, &[&PCR_0, &PCR_7])
}

fn expected() -> BTreeMap<u8, String> {
    BTreeMap::from([(0, HEXLOWER.encode(&PCR_0)), (7, HEXLOWER.encode(&PCR_7))])
}

/// Attributes of a key for signatures that was made in its TPM and cannot leave it.
const STAYS: u32 = 0x0004_0072;

/// TPMT_PUBLIC of a key on P-256.
fn public(key: &KeyPair, attributes: u32) -> Vec<u8> {
    let point = key.public_key_raw();
    [
        &[0, 0x23, 0, 0x0b][..], // TPM_ALG_ECC, named by SHA-256
        &attributes.to_be_bytes(),
        &[0, 0],                            // authPolicy
        &[0, 0x10, 0, 0x10, 0, 3, 0, 0x10], // no symmetric algorithm, any scheme, P-256, no KDF
        &[0, 32],
        &point[1..33],
        &[0, 32],
        &point[33..],
    ]
    .concat()
}

/// TPMS_ATTEST that a key is in the TPM.
fn certified(public: &[u8]) -> Vec<u8> {
    let name = [&[0, 0x0b][..], &Sha256::digest(public)].concat();
    [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x17][..], // TPM_GENERATED_VALUE, TPM_ST_ATTEST_CERTIFY
        &[0, 4, 1, 2, 3, 4],
        &[0, 0], // extraData
        &[0; 17],
        &[0; 8],
        &[0, 34],
        &name,
        &[0, 34],
        &name,
    ]
    .concat()
}

fn with_key(evidence: &str, [public, certify, signature]: [&[u8]; 3]) -> String {
    let mut shown: Value = serde_json::from_str(evidence).unwrap();
    shown["key"] = json!({
        "public": BASE64.encode(public), "certify": BASE64.encode(certify), "signature": BASE64.encode(signature),
    });
    shown.to_string()
}

fn thumbprint(key: &KeyPair) -> String {
    let part = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let point = key.public_key_raw();
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, part(&point[1..33]), part(&point[33..]));
    part(&Sha256::digest(jwk.as_bytes()))
}

async fn trusting(maker: &Maker) -> (Host, Issued) {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let tpm = TpmTrust::new(&maker.root, vec![expected()]).unwrap();
    let settings = TrustSettings { tpm, ..TrustSettings::unset() };
    host.identity.set_trust_settings(permit(Some("acme")), &tenant("acme"), settings).await.unwrap();
    let ci = host.verify(&issued).unwrap();
    host.identity.register_device(&ci, "laptop".parse().unwrap()).await.unwrap();
    (host, issued)
}

impl Host {
    fn asked(&self, issued: &Issued) -> String {
        self.identity.challenge_device(&self.verify(issued).unwrap(), "laptop", HERE).unwrap()
    }

    async fn quoted(&self, issued: &Issued, nonce: &str, evidence: &str) -> Result<DeviceVerdict, IdentityError> {
        let shown = DeviceEvidence { device: "laptop", nonce, format: "tpm-quote", evidence };
        self.identity.verify_device(&self.verify(issued)?, shown).await.map(|(verdict, _)| verdict)
    }

    fn posture(&self, issued: &Issued) -> i32 {
        let score = self.identity.score(&self.verify(issued).unwrap(), Some(HERE)).unwrap();
        score.contributions.iter().find(|signal| signal.name == "device posture").unwrap().effect
    }
}

#[tokio::test]
async fn a_quote_of_what_is_expected_verifies_a_device_for_a_day_and_once() {
    let maker = Maker::new();
    let (host, issued) = trusting(&maker).await;
    let chip = Chip::of(&maker);
    let nonce = host.asked(&issued);
    let evidence = chip.evidence(&quote(&nonce));
    assert_eq!(host.quoted(&issued, &nonce, &evidence).await.unwrap(), DeviceVerdict::Verified);
    assert_eq!(host.posture(&issued), 0);
    assert!(matches!(host.quoted(&issued, &nonce, &evidence).await, Err(IdentityError::NonceSpent)), "a replay");
    let fresh = host.asked(&issued);
    let again = host.quoted(&issued, &fresh, &evidence).await;
    assert!(matches!(again, Err(IdentityError::BadEvidence(_))), "an old quote to a new nonce");
}

#[tokio::test]
async fn evidence_of_a_tpm_is_over_after_a_day() {
    let maker = Maker::new();
    let (host, _) = trusting(&maker).await;
    let (_, key) = host.key(Some("acme"), "nightly", Role::Developer).await;
    let issued = host.sign_in(&key).await.unwrap();
    let ci = host.verify(&issued).unwrap();
    host.identity.register_device(&ci, "laptop".parse().unwrap()).await.unwrap();
    let nonce = host.asked(&issued);
    let evidence = Chip::of(&maker).evidence(&quote(&nonce));
    assert_eq!(host.quoted(&issued, &nonce, &evidence).await.unwrap(), DeviceVerdict::Verified);
    host.clock.pass(86_400);
    let later = host.sign_in(&key).await.unwrap();
    assert!(host.posture(&later) < 0);
}

#[tokio::test]
async fn a_device_that_measured_something_else_fails() {
    let maker = Maker::new();
    let (host, issued) = trusting(&maker).await;
    let chip = Chip::of(&maker);
    let only_first: &[u8] = &[0, 0, 0, 1, 0x00, 0x0b, 3, 1, 0, 0];
    type Make = fn(&str, &[u8]) -> Vec<u8>;
    let others: [(&str, Make); 2] = [
        ("another value", |nonce, _| quote_with(nonce, SELECTION, &[&PCR_0, &[0x78; 32]])),
        ("fewer registers", |nonce, selection| quote_with(nonce, selection, &[&PCR_0])),
    ];
    for (what, make) in others {
        let nonce = host.asked(&issued);
        let evidence = chip.evidence(&make(&nonce, only_first));
        assert_eq!(host.quoted(&issued, &nonce, &evidence).await.unwrap(), DeviceVerdict::Failed, "{what}");
    }
    assert_eq!(host.posture(&issued), -60);
}

#[tokio::test]
async fn a_quote_by_a_stranger_or_about_something_else_says_nothing() {
    let (maker, stranger) = (Maker::new(), Maker::new());
    let (host, issued) = trusting(&maker).await;
    let chip = Chip::of(&maker);
    let foreign = Chip::of(&stranger);
    let tls = KeyPair::generate().unwrap();
    let certificate = maker.certify(&tls, ExtendedKeyUsagePurpose::ClientAuth);
    let misused = Chip { key: tls, certificate };
    let swapped = Chip { key: KeyPair::generate().unwrap(), certificate: chip.certificate.clone() };
    for (what, chip) in [("no root", &foreign), ("not for attestation", &misused), ("another key", &swapped)] {
        let nonce = host.asked(&issued);
        let refused = host.quoted(&issued, &nonce, &chip.evidence(&quote(&nonce))).await;
        assert!(matches!(refused, Err(IdentityError::BadEvidence(_))), "{what}");
    }
    let nonce = host.asked(&issued);
    let mut certify = quote(&nonce);
    certify[5] = 0x17; // TPM_ST_ATTEST_CERTIFY
    assert!(host.quoted(&issued, &nonce, &chip.evidence(&certify)).await.is_err());
    let nonce = host.asked(&issued);
    let mut unmarked = quote(&nonce);
    unmarked[0] = 0;
    assert!(host.quoted(&issued, &nonce, &chip.evidence(&unmarked)).await.is_err(), "not made by a TPM");
    let nonce = host.asked(&issued);
    let sha_1: &[u8] = &[0, 0, 0, 1, 0x00, 0x04, 3, 0b1000_0001, 0, 0];
    let weak = quote_with(&nonce, sha_1, &[&PCR_0, &PCR_7]);
    assert!(host.quoted(&issued, &nonce, &chip.evidence(&weak)).await.is_err(), "the bank of SHA-1");
    assert_eq!(host.posture(&issued), -15, "as if nothing had been shown");
}

#[tokio::test]
async fn every_altered_byte_and_every_cut_is_refused() {
    let maker = Maker::new();
    let (host, issued) = trusting(&maker).await;
    let chip = Chip::of(&maker);
    let sample = quote("x");
    let signature = chip.sign(&sample);
    for at in (0..sample.len()).step_by(3) {
        let nonce = host.asked(&issued);
        let good = quote(&nonce);
        let mut bad = good.clone();
        bad[at] ^= 1;
        let shown = evidence(&bad, &chip.sign(&good), &chip.certificate);
        assert!(host.quoted(&issued, &nonce, &shown).await.is_err(), "byte {at}");
        let nonce = host.asked(&issued);
        let cut = quote(&nonce)[..at].to_vec();
        assert!(host.quoted(&issued, &nonce, &chip.evidence(&cut)).await.is_err(), "cut at {at}, well signed");
    }
    for at in 0..signature.len() {
        let nonce = host.asked(&issued);
        let good = quote(&nonce);
        let shown = evidence(&good, &chip.sign(&good)[..at], &chip.certificate);
        assert!(host.quoted(&issued, &nonce, &shown).await.is_err(), "signature cut at {at}");
    }
    let nonce = host.asked(&issued);
    let longer = [quote(&nonce), vec![0]].concat();
    assert!(host.quoted(&issued, &nonce, &chip.evidence(&longer)).await.is_err(), "something behind it");
    for garbage in ["", "{}", "[]", "null", r#"{"quote":"","signature":"","certificates":[]}"#, &"a".repeat(17 << 10)] {
        let nonce = host.asked(&issued);
        assert!(host.quoted(&issued, &nonce, garbage).await.is_err(), "{}", garbage.len());
    }
}

#[tokio::test]
async fn a_device_keeps_the_tpm_that_it_showed_first() {
    let maker = Maker::new();
    let (mut host, issued) = trusting(&maker).await;
    let (first, second) = (Chip::of(&maker), Chip::of(&maker));
    let nonce = host.asked(&issued);
    assert!(host.quoted(&issued, &nonce, &first.evidence(&quote(&nonce))).await.is_ok());
    host.restart().await;
    let nonce = host.asked(&issued);
    assert!(host.quoted(&issued, &nonce, &second.evidence(&quote(&nonce))).await.is_err());
    let renewed = Chip { certificate: maker.certify(&first.key, attesting()), key: first.key };
    let nonce = host.asked(&issued);
    assert!(
        host.quoted(&issued, &nonce, &renewed.evidence(&quote(&nonce))).await.is_ok(),
        "the same key, certified anew"
    );
}

#[tokio::test]
async fn a_quote_with_rsa_counts_as_well() {
    let maker = Maker::new();
    let (host, issued) = trusting(&maker).await;
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let certificate = maker.certify(&key, attesting());
    let nonce = host.asked(&issued);
    let quote = quote(&nonce);
    let signed = key.sign(&quote).unwrap();
    let signature = [&[0, 0x14, 0, 0x0b][..], &u16::try_from(signed.len()).unwrap().to_be_bytes(), &signed].concat();
    let shown = evidence(&quote, &signature, &certificate);
    assert_eq!(host.quoted(&issued, &nonce, &shown).await.unwrap(), DeviceVerdict::Verified);
}

#[tokio::test]
async fn without_trust_in_tpms_a_quote_is_unsupported_and_never_verified() {
    let maker = Maker::new();
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let ci = host.verify(&issued).unwrap();
    host.identity.register_device(&ci, "laptop".parse().unwrap()).await.unwrap();
    let nonce = host.asked(&issued);
    let evidence = Chip::of(&maker).evidence(&quote(&nonce));
    assert_eq!(host.quoted(&issued, &nonce, &evidence).await.unwrap(), DeviceVerdict::Unsupported);
}

#[test]
fn trust_that_everyone_or_nobody_would_meet_is_refused() {
    let maker = Maker::new();
    assert!(TpmTrust::new(&maker.root, vec![expected()]).is_ok());
    for (roots, sets) in [
        ("", vec![expected()]),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", vec![expected()]),
        (maker.root.as_str(), Vec::new()),
        (maker.root.as_str(), vec![BTreeMap::new()]),
        (maker.root.as_str(), vec![BTreeMap::from([(24, "11".repeat(32))])]),
        (maker.root.as_str(), vec![BTreeMap::from([(0, "11".to_owned())])]),
    ] {
        assert!(TpmTrust::new(roots, sets).is_err());
    }
}

#[tokio::test]
async fn a_session_whose_key_stays_in_the_tpm_is_on_its_device() {
    let maker = Maker::new();
    let (mut host, _) = trusting(&maker).await;
    let (chip, own) = (Chip::of(&maker), KeyPair::generate().unwrap());
    let here = host.bound("acme/ci", Binding::Key(thumbprint(&own))).await;
    let nonce = host.identity.challenge_device(&here, "laptop", HERE).unwrap();
    let area = public(&own, STAYS);
    let said = certified(&area);
    let evidence = with_key(&chip.evidence(&quote(&nonce)), [&area, &said, &chip.sign(&said)]);
    let shown = DeviceEvidence { device: "laptop", nonce: &nonce, format: "tpm-quote", evidence: &evidence };
    host.identity.verify_device(&here, shown).await.unwrap();
    for _ in 0..2 {
        let device = host.identity.device_of(&here).unwrap();
        assert_eq!((device.verified, device.evidence.as_str()), (true, "tpm-quote"));
        host.restart().await;
    }
    assert_eq!(host.identity.device_of(&host.bound("acme/ci", Binding::Key("other".to_owned())).await), None);
    // What was measured as expected then may not be what is expected now, nor the roots those that vouched.
    let before = host.identity.thresholds(&here);
    let other = TpmTrust::new(&maker.root, vec![BTreeMap::from([(0, "22".repeat(32))])]).unwrap();
    host.set_trust(TrustSettings { tpm: other, ..before.clone() }).await;
    assert!(!host.identity.device_of(&here).unwrap().verified);
    host.set_trust(before).await;
    assert!(host.identity.device_of(&here).unwrap().verified);
}

#[tokio::test]
async fn a_key_that_could_be_elsewhere_puts_no_session_on_a_device() {
    let maker = Maker::new();
    let (host, issued) = trusting(&maker).await;
    let (chip, stranger) = (Chip::of(&maker), Chip::of(&maker));
    let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (here, loose) = (host.bound("acme/ci", Binding::Key(thumbprint(&own))).await, host.verify(&issued).unwrap());
    let (area, others) = (public(&own, STAYS), public(&other, STAYS));
    let (said, of_other) = (certified(&area), certified(&others));
    let signed = chip.sign(&said);
    let mut cases: Vec<(&str, &Principal, [Vec<u8>; 3])> = vec![
        ("another key", &here, [others.clone(), of_other.clone(), chip.sign(&of_other)]),
        ("a session without a key", &loose, [area.clone(), said.clone(), signed.clone()]),
        ("a statement about another key", &here, [area.clone(), of_other.clone(), chip.sign(&of_other)]),
        ("another TPM says so", &here, [area.clone(), said.clone(), stranger.sign(&said)]),
        ("no statement about a key", &here, [area.clone(), quote("x"), chip.sign(&quote("x"))]),
        ("a key that is cut", &here, [area[..area.len() - 1].to_vec(), said.clone(), signed.clone()]),
        ("nothing", &here, [Vec::new(), Vec::new(), Vec::new()]),
    ];
    // Without FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN.
    for missing in [0x02, 0x10, 0x20] {
        let area = public(&own, STAYS & !missing);
        let said = certified(&area);
        let signed = chip.sign(&said);
        cases.push(("a key that can leave", &here, [area, said, signed]));
    }
    for (what, who, [area, said, signed]) in cases {
        let nonce = host.identity.challenge_device(who, "laptop", HERE).unwrap();
        let evidence = with_key(&chip.evidence(&quote(&nonce)), [&area, &said, &signed]);
        let shown = DeviceEvidence { device: "laptop", nonce: &nonce, format: "tpm-quote", evidence: &evidence };
        let refused = host.identity.verify_device(who, shown).await;
        assert!(matches!(refused, Err(IdentityError::BadEvidence(_))), "{what}");
        assert_eq!(host.identity.device_of(who), None, "{what}");
    }
    assert_eq!(host.posture(&issued), -15, "as if nothing had been shown");
}
