//! Proofs of possession (RFC 9449): a signed word, made for one request, that its sender holds the key a token is bound to.
//!
//! Pure: time and nonces are passed in, and whether a proof was seen before is `replay.rs`. Reached by anyone: must never
//! panic, and never let a proof choose more than one of two algorithms and its own key.

use data_encoding::BASE64URL_NOPAD;
use http::Uri;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use ringfence_core::limits::{CREDENTIAL_BYTES_MAX, PROOF_AGE_SECONDS_MAX};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::IdentityError;
use crate::shown::{Channel, Shown};

/// Bytes of either coordinate of either kind of key.
const COORDINATE_BYTES: usize = 32;
/// LIMIT: longest id of a proof, in bytes.
const JTI_BYTES_MAX: usize = 256;

/// A proof that fits its request. Whether it came before is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proven {
    /// Thumbprint of its key (RFC 7638, SHA-256).
    pub(crate) jkt: String,
    /// Its id, hashed.
    pub(crate) jti: [u8; 16],
}

/// Which server nonces are taken now.
pub(crate) trait Nonces {
    /// Whether this one is.
    fn takes(&self, nonce: &str) -> bool;
}

#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: i64,
    ath: Option<String>,
    nonce: Option<String>,
}

/// Checks the proof of a request against everything that the request says. `token` is the access token it must be for, none
/// at sign-in.
pub(crate) fn check(
    shown: &Shown<'_>,
    proof: &str,
    token: Option<&str>,
    now: Timestamp,
    nonces: &impl Nonces,
) -> Result<Proven, IdentityError> {
    let (key, algorithm, jkt) = read_header(proof)?;
    let claims = read_claims(proof, &key, algorithm)?;
    if claims.jti.is_empty() || claims.jti.len() > JTI_BYTES_MAX {
        return bad("its `jti` is empty or too long");
    }
    if claims.htm != shown.method {
        return bad("its `htm` is another method");
    }
    if !same_target(&claims.htu, shown) {
        return bad("its `htu` is another address");
    }
    let ath = token.map(|token| BASE64URL_NOPAD.encode(&Sha256::digest(token.as_bytes())));
    if claims.ath.is_some() && ath.is_none() || ath.is_some() && claims.ath != ath {
        return bad("its `ath` is not that of the token");
    }
    if claims.iat.abs_diff(now.as_second()) > PROOF_AGE_SECONDS_MAX.unsigned_abs() {
        return bad("its `iat` is not now");
    }
    if !claims.nonce.is_some_and(|nonce| nonces.takes(&nonce)) {
        return Err(IdentityError::NonceNeeded);
    }
    let digest = Sha256::digest(claims.jti.as_bytes());
    let jti = digest.first_chunk::<16>().copied().ok_or(IdentityError::Host("a digest is short"))?;
    Ok(Proven { jkt, jti })
}

fn bad<T>(why: &'static str) -> Result<T, IdentityError> {
    Err(IdentityError::BadProof(why))
}

/// The key in the head of a proof, its algorithm and its thumbprint.
fn read_header(proof: &str) -> Result<(DecodingKey, Algorithm, String), IdentityError> {
    if proof.len() > CREDENTIAL_BYTES_MAX {
        return bad("it is too long");
    }
    let encoded = proof.split('.').next().unwrap_or_default();
    let Some(header) =
        BASE64URL_NOPAD.decode(encoded.as_bytes()).ok().and_then(|json| serde_json::from_slice::<Header>(&json).ok())
    else {
        return bad("it is not a JWT with a public key");
    };
    if header.typ != "dpop+jwt" {
        return bad("its `typ` is not `dpop+jwt`");
    }
    if header.crit.is_some() {
        return bad("it has extensions that this host does not know");
    }
    if header.jwk.d.is_some() {
        return bad("it shows a private key");
    }
    let jwk = header.jwk;
    // The text that is hashed is made from the decoded bytes: two spellings of one key have one thumbprint.
    let x = coordinate(&jwk.x)?;
    let (key, algorithm, canonical) = match (header.alg.as_str(), jwk.kty.as_str(), jwk.crv.as_str(), jwk.y) {
        ("EdDSA", "OKP", "Ed25519", None) => (
            DecodingKey::from_ed_components(&x),
            Algorithm::EdDSA,
            format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
        ),
        ("ES256", "EC", "P-256", Some(y)) => {
            let y = coordinate(&y)?;
            (DecodingKey::from_ec_components(&x, &y), Algorithm::ES256, on_p256(&x, &y))
        }
        _ => return bad("its key and `alg` are neither Ed25519 with EdDSA nor P-256 with ES256"),
    };
    let key = key.or_else(|_| bad("its key is malformed"))?;
    Ok((key, algorithm, thumbprint(&canonical)))
}

/// The thumbprint of a key on P-256, from its coordinates of 32 bytes each.
pub(crate) fn thumbprint_of_p256(x: &[u8], y: &[u8]) -> String {
    thumbprint(&on_p256(&BASE64URL_NOPAD.encode(x), &BASE64URL_NOPAD.encode(y)))
}

/// A key as its thumbprint is made of (RFC 7638).
fn on_p256(x: &str, y: &str) -> String {
    format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
}

fn thumbprint(canonical: &str) -> String {
    BASE64URL_NOPAD.encode(&Sha256::digest(canonical.as_bytes()))
}

fn coordinate(text: &str) -> Result<String, IdentityError> {
    match BASE64URL_NOPAD.decode(text.as_bytes()) {
        Ok(bytes) if bytes.len() == COORDINATE_BYTES => Ok(BASE64URL_NOPAD.encode(&bytes)),
        _ => bad("its key is malformed"),
    }
}

fn read_claims(proof: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, IdentityError> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    // A proof has an age, not an end; it is looked at above, by the host's own clock.
    validation.validate_exp = false;
    validation.validate_aud = false;
    jsonwebtoken::decode::<Claims>(proof, key, &validation)
        .map(|data| data.claims)
        .or_else(|_| bad("its signature or its claims are wrong"))
}

/// Whether `htu` is the address asked for, without query and fragment (RFC 9449, section 4.3).
fn same_target(htu: &str, shown: &Shown<'_>) -> bool {
    let Ok(target) = htu.parse::<Uri>() else { return false };
    let Some(authority) = target.authority() else { return false };
    let default_port = match (target.scheme_str(), shown.channel) {
        (Some("https"), _) => ":443",
        // Whoever did TLS in front of us may not say so; where we did it ourselves there is no plain HTTP.
        (Some("http"), Channel::Plain) => ":80",
        _ => return false,
    };
    let bare = |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
    !shown.authority.is_empty() && bare(authority.as_str()) == bare(shown.authority) && target.path() == shown.path
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use jsonwebtoken::EncodingKey;
    use proptest::prelude::*;
    use ringfence_keys::SigningKey;
    use serde_json::{Value, json};

    use crate::shown::Scheme;
    use crate::tests::Dice;

    const NOW: i64 = 1_800_000_000;

    struct Only(&'static str);

    impl Nonces for Only {
        fn takes(&self, nonce: &str) -> bool {
            nonce == self.0
        }
    }

    /// A key and what it says of itself.
    pub(crate) fn holder() -> (SigningKey, Value) {
        let key = SigningKey::generate(&Dice::new()).unwrap();
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64URL_NOPAD.encode(&key.public_key()) });
        (key, jwk)
    }

    pub(crate) fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = BASE64URL_NOPAD.encode(&key.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn shown<'a>() -> Shown<'a> {
        Shown {
            token: Some((Scheme::Dpop, "token")),
            proof: None,
            method: "POST",
            authority: "Host.example:443",
            path: "/api/v1/x",
            channel: &Channel::Plain,
        }
    }

    fn claims() -> Value {
        let ath = BASE64URL_NOPAD.encode(&Sha256::digest(b"token"));
        json!({ "jti": "a", "htm": "POST", "htu": "https://host.example/api/v1/x?q#f", "iat": NOW, "ath": ath, "nonce": "n" })
    }

    fn checked(proof: &str) -> Result<Proven, IdentityError> {
        check(&shown(), proof, Some("token"), Timestamp::from_second(NOW).unwrap(), &Only("n"))
    }

    fn with(change: impl FnOnce(&mut Value, &mut Value)) -> Result<Proven, IdentityError> {
        let (key, jwk) = holder();
        let (mut header, mut claims) = (json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk }), claims());
        change(&mut header, &mut claims);
        checked(&signed(&key, &header, &claims))
    }

    #[test]
    fn a_proof_for_this_request_is_taken_and_names_its_key() {
        let proven = with(|_, _| ()).unwrap();
        assert_eq!(proven.jkt.len(), 43);
        assert_eq!(with(|_, claims| claims["jti"] = json!("b")).unwrap().jkt, proven.jkt);
        assert_ne!(with(|_, claims| claims["jti"] = json!("b")).unwrap().jti, proven.jti);
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        // RFC 8037, appendix A.3.
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk });
        let proof = format!("{}.e30.AA", BASE64URL_NOPAD.encode(header.to_string().as_bytes()));
        let (_, _, jkt) = read_header(&proof).unwrap();
        assert_eq!(jkt, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_p256_key_with_es256_is_taken() {
        let pair = ring::signature::EcdsaKeyPair::generate_pkcs8(
            &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &ring::rand::SystemRandom::new(),
        )
        .unwrap();
        let encoding = EncodingKey::from_ec_der(pair.as_ref());
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&encoding, Algorithm::ES256).unwrap();
        let mut header = jsonwebtoken::Header::new(Algorithm::ES256);
        header.typ = Some("dpop+jwt".to_owned());
        header.jwk = Some(jwk.clone());
        let proof = jsonwebtoken::encode(&header, &claims(), &encoding).unwrap();
        let library = jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
        assert_eq!(checked(&proof).unwrap().jkt, library);
    }

    #[test]
    fn a_proof_for_anything_else_is_refused() {
        let changes: Vec<fn(&mut Value, &mut Value)> = vec![
            |header, _| header["typ"] = json!("at+jwt"),
            |header, _| header["alg"] = json!("none"),
            |header, _| header["alg"] = json!("HS256"),
            |header, _| header["alg"] = json!("ES256"),
            |header, _| header["jwk"]["kty"] = json!("oct"),
            |header, _| header["jwk"]["d"] = json!("AAAA"),
            |header, _| header["jwk"]["x"] = json!("AAAA"),
            |header, _| header["jwk"]["x"] = json!(BASE64URL_NOPAD.encode(&[7; 32])),
            |header, _| header["crit"] = json!(["b64"]),
            |_, claims| claims["htm"] = json!("GET"),
            |_, claims| claims["htu"] = json!("https://other.example/api/v1/x"),
            |_, claims| claims["htu"] = json!("https://host.example:8443/api/v1/x"),
            |_, claims| claims["htu"] = json!("https://host.example/api/v1/y"),
            |_, claims| claims["htu"] = json!("ftp://host.example/api/v1/x"),
            |_, claims| claims["htu"] = json!("/api/v1/x"),
            |_, claims| claims["iat"] = json!(NOW - PROOF_AGE_SECONDS_MAX - 1),
            |_, claims| claims["iat"] = json!(NOW + PROOF_AGE_SECONDS_MAX + 1),
            |_, claims| claims["iat"] = json!(i64::MIN),
            |_, claims| claims["ath"] = json!("AAAA"),
            |_, claims| claims["ath"] = Value::Null,
            |_, claims| claims["jti"] = json!(""),
            |_, claims| claims["jti"] = json!("j".repeat(JTI_BYTES_MAX + 1)),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert!(matches!(with(change), Err(IdentityError::BadProof(_))), "change {at}");
        }
    }

    #[test]
    fn a_proof_without_the_servers_nonce_is_asked_to_come_again() {
        assert!(matches!(with(|_, claims| claims["nonce"] = Value::Null), Err(IdentityError::NonceNeeded)));
        assert!(matches!(with(|_, claims| claims["nonce"] = json!("old")), Err(IdentityError::NonceNeeded)));
    }

    #[test]
    fn over_our_own_tls_there_is_no_plain_target() {
        let tls = Channel::Tls { certificate: None };
        let over = Shown { channel: &tls, authority: "host.example", ..shown() };
        assert!(same_target("https://host.example/api/v1/x", &over));
        assert!(!same_target("http://host.example/api/v1/x", &over));
        assert!(same_target("http://host.example/api/v1/x", &Shown { channel: &Channel::Plain, ..over }));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}") {
            let _ = checked(&text);
        }
        #[test]
        fn no_altered_proof_is_taken_for_another(at in 0_usize..400, byte in any::<u8>()) {
            let (key, jwk) = holder();
            let good = signed(&key, &json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk }), &claims());
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            let altered = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert!(altered == good || checked(&altered).is_err());
        }
        #[test]
        fn no_json_head_makes_it_panic(json in ".{0,200}") {
            let _ = checked(&format!("{}.e30.AA", BASE64URL_NOPAD.encode(json.as_bytes())));
        }
    }
}
