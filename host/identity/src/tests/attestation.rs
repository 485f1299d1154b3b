//! Authenticators that say what they are, made here byte by byte (WebAuthn level 3, sections 6.5 and 8.2): which passkeys a
//! tenant that names roots and models takes, and which not.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SigningKey as _,
};

use super::*;

const MODEL: [u8; 16] = [0xab; 16];
const OTHER_MODEL: [u8; 16] = [0xcd; 16];
const PASSWORD: &str = "correct horse battery";

/// A maker of authenticators.
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
        params.distinguished_name.push(DnType::CommonName, "maker");
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
        Self { root: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// An attestation key with its certificate (section 8.2.1).
    fn batch(&self, model: [u8; 16]) -> Batch {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2040, 1, 1));
        for (kind, value) in [
            (DnType::CountryName, "GB"),
            (DnType::OrganizationName, "Maker"),
            (DnType::OrganizationalUnitName, "Authenticator Attestation"),
            (DnType::CommonName, "Batch 1"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        let mut said = vec![4, 16];
        said.extend(model);
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 45724, 1, 1, 4], said)];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Batch { key, certificate, model }
    }
}

struct Batch {
    key: KeyPair,
    certificate: Vec<u8>,
    model: [u8; 16],
}

/// How an authenticator speaks for itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Speaks {
    /// With its maker's certificate.
    Truly,
    /// With a signature over something else.
    Wrongly,
    /// With the new key alone.
    ForItself,
    /// Not at all.
    Silent,
}

fn bytes_of(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0x59][..], &length, bytes].concat()
}

fn text(word: &str) -> Vec<u8> {
    [&[0x60 + u8::try_from(word.len()).unwrap()][..], word.as_bytes()].concat()
}

/// Answers `navigator.credentials.create`.
fn create(options: &Value, batch: &Batch, speaks: Speaks) -> Value {
    let credential = KeyPair::generate().unwrap();
    let point = credential.der_bytes();
    let id = Sha256::digest(point).to_vec();
    let key = [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32][..], &point[1..33], &[0x22, 0x58, 32], &point[33..65]];
    let data = [
        &Sha256::digest(b"ringfence.test")[..],
        &[0x45, 0, 0, 0, 0], // present, verified, with a key; never used
        &batch.model,
        &[0, 32],
        &id,
        &key.concat(),
    ]
    .concat();
    let client = json!({
        "type": "webauthn.create",
        "challenge": options["publicKey"]["challenge"],
        "origin": "https://ringfence.test",
        "crossOrigin": false,
    })
    .to_string();
    let mut signed = data.clone();
    signed.extend(Sha256::digest(if speaks == Speaks::Wrongly { b"else" } else { client.as_bytes() }));
    let statement = match speaks {
        Speaks::Silent => vec![0xa0],
        Speaks::ForItself => {
            let signature = credential.sign(&signed).unwrap();
            [vec![0xa2], text("alg"), vec![0x26], text("sig"), bytes_of(&signature)].concat()
        }
        Speaks::Truly | Speaks::Wrongly => {
            let signature = bytes_of(&batch.key.sign(&signed).unwrap());
            let chain = [vec![0x81], bytes_of(&batch.certificate)].concat();
            [vec![0xa3], text("alg"), vec![0x26], text("sig"), signature, text("x5c"), chain].concat()
        }
    };
    let format = if speaks == Speaks::Silent { "none" } else { "packed" };
    let object = [vec![0xa3], text("fmt"), text(format), text("attStmt"), statement, text("authData"), bytes_of(&data)];
    json!({
        "id": BASE64URL_NOPAD.encode(&id),
        "rawId": BASE64URL_NOPAD.encode(&id),
        "type": "public-key",
        "response": {
            "clientDataJSON": BASE64URL_NOPAD.encode(client.as_bytes()),
            "attestationObject": BASE64URL_NOPAD.encode(&object.concat()),
        },
        "clientExtensionResults": {},
    })
}

async fn engineer(host: &Host) -> Issued {
    let new = NewPerson { tenant: Some(tenant("acme")), name: "eve".parse().unwrap(), role: Role::Developer };
    let (_, token) = host.identity.invite(permit_by("acme/root", place(Some("acme"))), new).await.unwrap();
    let proof = Proof::Invitation { token, password: Some(SecretString::new(PASSWORD.to_owned())) };
    host.identity.authenticate(proof, HERE, &Shown::nothing()).await.unwrap()
}

async fn trust(host: &Host, roots: &[(String, Vec<String>)]) {
    let attestation = AttestationTrust::new(roots).unwrap();
    let settings = TrustSettings { attestation, ..TrustSettings::unset() };
    host.identity.set_trust_settings(permit(Some("acme")), &tenant("acme"), settings).await.unwrap();
}

async fn register(host: &Host, who: &Issued, batch: &Batch, speaks: Speaks) -> Result<PasskeyRecord, IdentityError> {
    let principal = host.verify(who).unwrap();
    let ceremony = host.identity.start_passkey_registration(&principal, HERE).unwrap();
    let answer = PasskeyAnswer(create(&ceremony.options, batch, speaks));
    host.identity.add_passkey(&principal, &ceremony.id, &answer, "key".parse().unwrap()).await
}

fn models(of: &[[u8; 16]]) -> Vec<String> {
    of.iter().map(|model| webauthn_rs::prelude::Uuid::from_bytes(*model).to_string()).collect()
}

#[tokio::test]
async fn a_passkey_of_a_trusted_model_is_taken_and_says_so() {
    let maker = Maker::new();
    let mut host = Host::new().await;
    trust(&host, &[(maker.root.clone(), models(&[MODEL]))]).await;
    let eve = engineer(&host).await;
    let record = register(&host, &eve, &maker.batch(MODEL), Speaks::Truly).await.unwrap();
    let attested = record.attested.unwrap();
    assert_eq!((attested.format.as_str(), attested.model), ("packed", models(&[MODEL]).pop()));
    host.restart().await;
    let factors = host.identity.factors(&host.verify(&eve).unwrap()).unwrap();
    assert!(factors.passkeys[0].attested.is_some());
}

#[tokio::test]
async fn a_root_without_models_stands_for_all_of_them() {
    let maker = Maker::new();
    let host = Host::new().await;
    trust(&host, &[(maker.root.clone(), Vec::new())]).await;
    let eve = engineer(&host).await;
    assert!(register(&host, &eve, &maker.batch(OTHER_MODEL), Speaks::Truly).await.is_ok());
}

#[tokio::test]
async fn what_proves_nothing_or_something_else_is_not_taken_where_roots_are_named() {
    let (maker, stranger) = (Maker::new(), Maker::new());
    let host = Host::new().await;
    trust(&host, &[(maker.root.clone(), models(&[MODEL]))]).await;
    let eve = engineer(&host).await;
    let lying = Batch { model: MODEL, ..maker.batch(OTHER_MODEL) };
    for (what, batch, speaks) in [
        ("nothing shown", maker.batch(MODEL), Speaks::Silent),
        ("its own word", maker.batch(MODEL), Speaks::ForItself),
        ("a signature over something else", maker.batch(MODEL), Speaks::Wrongly),
        ("another maker", stranger.batch(MODEL), Speaks::Truly),
        ("another model", maker.batch(OTHER_MODEL), Speaks::Truly),
        ("a model that its certificate is not for", lying, Speaks::Truly),
    ] {
        let refused = register(&host, &eve, &batch, speaks).await;
        assert!(matches!(refused, Err(IdentityError::BadPasskey(_))), "{what}: {refused:?}");
    }
    assert!(host.identity.factors(&host.verify(&eve).unwrap()).unwrap().passkeys.is_empty());
}

#[tokio::test]
async fn without_roots_any_authenticator_is_taken_and_none_is_called_attested() {
    let maker = Maker::new();
    let host = Host::new().await;
    let eve = engineer(&host).await;
    for speaks in [Speaks::Silent, Speaks::ForItself] {
        let record = register(&host, &eve, &maker.batch(MODEL), speaks).await.unwrap();
        assert_eq!(record.attested, None, "{speaks:?}");
    }
}

#[tokio::test]
async fn a_ceremony_from_before_the_tenant_asked_for_more_adds_nothing() {
    let maker = Maker::new();
    let host = Host::new().await;
    let eve = engineer(&host).await;
    let principal = host.verify(&eve).unwrap();
    let ceremony = host.identity.start_passkey_registration(&principal, HERE).unwrap();
    trust(&host, &[(maker.root.clone(), Vec::new())]).await;
    let answer = PasskeyAnswer(create(&ceremony.options, &maker.batch(MODEL), Speaks::Silent));
    let late = host.identity.add_passkey(&principal, &ceremony.id, &answer, "key".parse().unwrap()).await;
    assert!(matches!(late, Err(IdentityError::BadPasskey(_))));
}

#[test]
fn roots_and_models_that_cannot_be_read_are_refused() {
    let maker = Maker::new();
    for (root, models) in [
        ("", vec![]),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", vec![]),
        (&(maker.root.clone() + &maker.root), vec![]),
        (&maker.root, vec!["not-an-aaguid".to_owned()]),
    ] {
        assert!(AttestationTrust::new(&[(root.to_owned(), models)]).is_err(), "{root}");
    }
    let many: Vec<(String, Vec<String>)> = (0..17).map(|_| (maker.root.clone(), Vec::new())).collect();
    assert!(AttestationTrust::new(&many).is_err());
}
