//! What a stranger's bytes meet before anybody is known, each as one function that bytes go into: for fuzzing, and for the
//! same properties over a bounded number of cases in the tests. Not in the product: only `fuzz/` asks for the feature `fuzzing`.
//!
//! Each must never panic, and never take what nobody proved: it is given keys that the bytes cannot have been signed with.

#![allow(clippy::panic, reason = "a property that does not hold ends the case")]

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use ringfence_core::{Entropy, Principal, PrincipalKind, Role, Strength};
use ringfence_keys::SigningKey;
use sha2::{Digest as _, Sha256};
use webauthn_rs::prelude::{DiscoverableKey, PublicKeyCredential};

use crate::certificate::{CertificateHolder, CertificateTrust};
use crate::dpop::{self, Nonces};
use crate::oidc::{self, ClaimRole, Discovery, ProviderTrust};
use crate::passkeys::{self, PasskeyAnswer};
use crate::record::Binding;
use crate::secret_hash;
use crate::shown::{Channel, ClientCertificate, Shown};
use crate::token::Tokens;

/// A root under which nothing was ever signed.
const ROOT: &str = "-----BEGIN CERTIFICATE-----
MIIBmTCCAT+gAwIBAgIUfHKarVqd5ijaWSnEqAQp6ZGeeaIwCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWbm9ib2R5IHNpZ25zIHdpdGggdGhpczAgFw0yNjExMjIxNTU5
MDVaGA8yMTI2MTAyOTE1NTkwNVowITEfMB0GA1UEAwwWbm9ib2R5IHNpZ25zIHdp
dGggdGhpczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIBOti2kdutqpUghfzuh
/4J72QQgaWo65b/IRsizjozUd8GyGBJUk00uBDYMDtV41od5U1bbWLZUSVVivjPg
cHajUzBRMB0GA1UdDgQWBBTT/wNo/BNBrBYb+VV9Z3z8jvWnkzAfBgNVHSMEGDAW
gBTT/wNo/BNBrBYb+VV9Z3z8jvWnkzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49
BAMCA0gAMEUCIGLXK3BA5aShWXwFvvW7XHEfNa1caoIoPxCR/PxghtBTAiEA82jC
2DvNfabA+SEnMOoZeiJetkDxFpU4HWMGL2bZjg4=
-----END CERTIFICATE-----
";
/// The issuer that the provider of these cases is trusted under.
const ISSUER: &str = "https://id.example";

/// Bytes that never repeat: SHA-256 in counter mode.
#[derive(Default)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.iter_mut().zip(block).for_each(|(to, from)| *to = from);
        }
    }
}

struct AnyNonce;

impl Nonces for AnyNonce {
    fn takes(&self, _: &str) -> bool {
        true
    }
}

/// The head of a request: no two credentials, and none of an unknown scheme.
pub fn head(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut lines = data.split(|byte| *byte == b'\n');
    let target = lines.next().and_then(|line| Uri::try_from(line).ok()).unwrap_or_else(|| Uri::from_static("/"));
    for line in lines.take(16) {
        let Some((kind, value)) = line.split_first() else { continue };
        let name =
            [header::AUTHORIZATION.as_str(), "dpop", header::HOST.as_str()].into_iter().nth(usize::from(kind % 3));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let read = Shown::read(&Method::GET, &target, &headers, None);
    let _ = Shown::speaks_dpop(&headers);
    if let Ok(shown) = read {
        let count = headers.get_all(header::AUTHORIZATION).iter().count();
        assert!(count <= 1 && headers.get_all("dpop").iter().count() <= 1, "one of two credentials was taken");
        assert_eq!(shown.has_token(), count == 1);
    }
}

/// An access token, as it is and as a change of one that this host signed.
#[expect(clippy::disallowed_methods, reason = "a token is for somebody, and here nobody has to be proved")]
pub fn token(data: &[u8]) {
    let dice = Counting::default();
    let Ok(key) = SigningKey::generate(&dice) else { return };
    let Ok(tokens) = Tokens::new(key, "https://ringfence.example".to_owned()) else { return };
    let text = String::from_utf8_lossy(data);
    assert!(tokens.read(&text).is_err(), "a token that nobody signed was taken");
    let (Ok(id), Ok(tenant)) = ("acme/ann".parse(), "acme".parse()) else { return };
    let (kind, role) = (PrincipalKind::Person, Some(Role::Developer));
    let ann = Principal::mint(id, kind, role, Some(tenant), Strength::Secret, None, Timestamp::UNIX_EPOCH);
    let session = ringfence_core::SessionId::random(&dice);
    let Ok(good) = tokens.issue(&ann, &session, Timestamp::UNIX_EPOCH, &Binding::Unbound) else { return };
    let altered = altered(good.expose(), data);
    assert!(altered == *good.expose() || tokens.read(&altered).is_err(), "an altered token was taken");
}

/// An API key: what is taken apart has the form of a key.
pub fn api_key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(shown) = secret_hash::parse(&text) {
        assert_eq!(format!("rfk_{}_{}", shown.id, shown.secret), text);
    }
}

/// A proof of possession, as it is and with a header and claims made of it.
pub fn proof(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let encoded = data_encoding::BASE64URL_NOPAD.encode(data);
    for proof in [text.clone().into_owned(), format!("{encoded}.e30.AA"), format!("e30.{encoded}.AA"), encoded] {
        let shown = Shown {
            token: None,
            proof: Some(proof.as_str()),
            method: "GET",
            authority: "host.example",
            path: "/api/v1/x",
            channel: &Channel::Plain,
        };
        let taken = dpop::check(&shown, &proof, Some("a.b.c"), Timestamp::UNIX_EPOCH, &AnyNonce);
        assert!(taken.is_err(), "a proof for no request was taken");
    }
}

/// A client's chain, and trust roots as a tenant's admin sends them.
pub fn certificate(data: &[u8]) {
    let Ok(name) = "ci".parse() else { return };
    let holder = CertificateHolder { subject: "spiffe://acme.example/ci".to_owned(), name, role: Role::Developer };
    let Ok(trust) = CertificateTrust::new(ROOT, "", vec![holder.clone()]) else { panic!("the root is none") };
    let chain: Vec<Vec<u8>> = data.split(|byte| *byte == 0xff).map(<[u8]>::to_vec).collect();
    for chain in [chain, vec![data.to_vec()]] {
        if let Some(shown) = ClientCertificate::of(chain) {
            assert!(trust.holder_of(&shown, Timestamp::UNIX_EPOCH).is_err(), "a chain to nowhere was taken");
        }
    }
    let text = String::from_utf8_lossy(data);
    let _ = CertificateTrust::new(&text, "", vec![holder.clone()]);
    let _ = CertificateTrust::new(ROOT, &text, vec![holder]);
}

/// An authenticator's answer to a sign-in: as it is, and in the place of what an authenticator sends back about this host.
pub fn passkey(data: &[u8]) {
    let Ok(webauthn) = passkeys::relying_party("https://ringfence.example") else { panic!("the origin is none") };
    let Ok((asked, state)) = webauthn.start_discoverable_authentication() else { panic!("nothing is asked for") };
    let asked = serde_json::to_value(&asked).unwrap_or_default();
    // The curve's base point: any will do, since nobody signed a challenge that is made here.
    let key = serde_json::json!({ "cred": {
        "cred_id": "AAAA", "counter": 0, "transports": null, "registration_policy": "required", "extensions": {},
        "user_verified": true, "backup_eligible": false, "backup_state": false,
        "attestation": { "data": "None", "metadata": "None" }, "attestation_format": "none",
        "cred": { "type_": "ES256", "key": { "EC_EC2": {
            "curve": "SECP256R1",
            "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
            "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
        } } },
    } });
    let Ok(key) = serde_json::from_value::<DiscoverableKey>(key) else { panic!("the key is none") };
    let encoded = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let shown = |client: &[u8], authenticator: &[u8]| {
        PasskeyAnswer(serde_json::json!({ "id": "AAAA", "rawId": "AAAA", "type": "public-key", "response": {
            "authenticatorData": encoded(authenticator), "clientDataJSON": encoded(client), "signature": encoded(data),
            "userHandle": "AAAAAAAAAAAAAAAAAAAAAA",
        } }))
    };
    let fits = serde_json::json!({
        "type": "webauthn.get", "challenge": asked.pointer("/publicKey/challenge"), "origin": "https://ringfence.example",
    });
    let of_here = [Sha256::digest("ringfence.example").to_vec(), data.to_vec()].concat();
    let as_it_is = PasskeyAnswer(serde_json::from_slice(data).unwrap_or_default());
    for answer in [as_it_is, shown(data, data), shown(fits.to_string().as_bytes(), &of_here)] {
        let Ok(answer) = passkeys::from_json::<PublicKeyCredential>(&answer) else { continue };
        let _ = webauthn.identify_discoverable_authentication(&answer);
        let judged = webauthn.finish_discoverable_authentication_v2(&answer, state.clone(), &key);
        assert!(judged.is_err(), "an answer that no authenticator gave was taken");
    }
}

/// What an identity provider says: its discovery document, its keys, its ID tokens.
pub fn provider(data: &[u8]) {
    if let Ok(found) = Discovery::parse(data, ISSUER) {
        let endpoints = [&found.authorization_endpoint, &found.token_endpoint, &found.jwks_uri];
        assert!(found.issuer == ISSUER && endpoints.iter().all(|url| matches!(url.scheme(), "https" | "http")));
        let _ = found.wants_secret_in_form();
    }
    let text = String::from_utf8_lossy(data);
    let _ = oidc::key_id(&text);
    let found = oidc::keys(data).unwrap_or_default();
    let fixed = serde_json::json!({
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    });
    let Ok(fixed) = serde_json::from_value::<Jwk>(fixed) else { panic!("the key is none") };
    let Ok(name) = "corp".parse() else { return };
    let trust = ProviderTrust {
        name,
        issuer: ISSUER.to_owned(),
        client_id: "ringfence".to_owned(),
        client_secret: None,
        redirect_uris: vec!["https://app.example/back".to_owned()],
        roles: vec![ClaimRole { claim: "groups".to_owned(), value: "devs".to_owned(), role: Role::Developer }],
    };
    for key in found.iter().take(4).chain([&fixed]) {
        let judged = trust.judge(&text, key, "nonce", Timestamp::UNIX_EPOCH);
        assert!(judged.is_err(), "an ID token that nobody signed was taken");
    }
    let _ = oidc::is_redirect("http://127.0.0.1/callback", &text);
}

/// A text with some of its bytes replaced: pairs of a place and a byte.
fn altered(text: &str, data: &[u8]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for pair in data.chunks_exact(3).take(4) {
        let [high, low, byte] = pair else { continue };
        let place = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len().max(1);
        if let Some(there) = bytes.get_mut(place) {
            *there = *byte;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOORS: [fn(&[u8]); 7] = [head, token, api_key, proof, certificate, passkey, provider];

    #[test]
    fn every_door_holds_against_what_nearly_fits() {
        let token = format!("{}.{}.AA", "eyJ0eXAiOiJhdCtqd3QifQ", "e30");
        for data in [
            "".as_bytes(),
            b"\0",
            b"/\n\0Bearer a\n\x03Bearer b",
            b"rfk_aaaaaaaaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            b"{\"typ\":\"dpop+jwt\",\"alg\":\"none\",\"jwk\":{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"\"}}",
            b"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}",
            b"{\"issuer\":\"https://id.example\",\"authorization_endpoint\":\"javascript:x\",\"token_endpoint\":\"a\",\"jwks_uri\":\"\"}",
            // Present and verified, counted once, no extensions.
            b"\x05\0\0\0\x01",
            // An extension map that says it is longer than it is.
            b"\x85\0\0\0\x01\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
            ROOT.as_bytes(),
            token.as_bytes(),
        ] {
            DOORS.iter().for_each(|door| door(data));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]
        #[test]
        fn every_door_holds_against_any_bytes(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            DOORS.iter().for_each(|door| door(&data));
        }
        #[test]
        fn every_door_holds_against_any_text(data in "[a-zA-Z0-9{}\\[\\]:,\"._ =/\n-]{0,300}") {
            DOORS.iter().for_each(|door| door(data.as_bytes()));
        }
    }
}
