//! Proofs of possession (RFC 9449): what makes an access token worth nothing to whoever copies it on the way.
//!
//! A key is made for each session and kept beside its token. Must never leave this machine.

use std::cell::RefCell;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use jiff::Timestamp;
use reqwest::{Response, StatusCode};
use ringfence_core::Entropy;
use ringfence_keys::SigningKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::environment::Secret;
use crate::error::CliError;

/// Header of a proof.
pub const PROOF: &str = "dpop";
/// Header of the nonce that the host wants in the next one.
const NONCE: &str = "dpop-nonce";

/// A session's own key, and the nonce the host gave last.
pub struct Possession {
    key: SigningKey,
    nonce: RefCell<Option<String>>,
}

impl Possession {
    /// A new key.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, CliError> {
        let key = SigningKey::generate(entropy).map_err(|_| broken())?;
        Ok(Self { key, nonce: RefCell::new(None) })
    }

    /// A key that was kept.
    pub fn from_kept(kept: &Secret, nonce: Option<String>) -> Result<Self, CliError> {
        let bytes = zeroize::Zeroizing::new(BASE64.decode(kept.reveal().as_bytes()).map_err(|_| broken())?);
        let key = SigningKey::from_pkcs8(&bytes).map_err(|_| broken())?;
        Ok(Self { key, nonce: RefCell::new(nonce) })
    }

    /// The key, to be kept in the file of profiles.
    pub fn to_keep(&self) -> Secret {
        Secret::new(BASE64.encode(&self.key.to_pkcs8()))
    }

    /// The nonce given last.
    pub fn nonce(&self) -> Option<String> {
        self.nonce.borrow().clone()
    }

    /// A proof for one request, and for one token if it carries one. `url` is without query and fragment.
    pub fn proof(
        &self,
        method: &str,
        url: &str,
        token: Option<&Secret>,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> String {
        let mut id = [0_u8; 16];
        entropy.fill(&mut id);
        let x = BASE64URL_NOPAD.encode(&self.key.public_key());
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": x } });
        let mut claims = json!({
            "jti": BASE64URL_NOPAD.encode(&id), "htm": method, "htu": url, "iat": now.as_second(), "nonce": self.nonce(),
        });
        if let (Some(token), Some(fields)) = (token, claims.as_object_mut()) {
            let ath = BASE64URL_NOPAD.encode(&Sha256::digest(token.reveal().as_bytes()));
            fields.insert("ath".to_owned(), json!(ath));
        }
        let part = |value: serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(claims));
        format!("{message}.{}", BASE64URL_NOPAD.encode(&self.key.sign(message.as_bytes())))
    }

    /// Keeps the nonce of an answer; whether the request should be sent again with it.
    pub fn learn(&self, response: &Response) -> bool {
        let Some(nonce) = response.headers().get(NONCE).and_then(|value| value.to_str().ok()) else { return false };
        self.nonce.replace(Some(nonce.to_owned()));
        let challenge = response.headers().get(reqwest::header::WWW_AUTHENTICATE);
        response.status() == StatusCode::UNAUTHORIZED
            && challenge.and_then(|value| value.to_str().ok()).is_some_and(|text| text.contains("use_dpop_nonce"))
    }
}

impl std::fmt::Debug for Possession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Possession(..)")
    }
}

fn broken() -> CliError {
    CliError::failed("bad-profiles", "the key of this session cannot be used".to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    struct Dice(std::sync::atomic::AtomicU8);

    impl Entropy for Dice {
        fn fill(&self, into: &mut [u8]) {
            for byte in into {
                *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn a_kept_key_makes_proofs_of_the_same_key_with_new_ids() {
        let dice = Dice(std::sync::atomic::AtomicU8::new(0));
        let first = Possession::generate(&dice).unwrap();
        let again = Possession::from_kept(&first.to_keep(), Some("n".to_owned())).unwrap();
        let token = Secret::new("t".to_owned());
        let part = |proof: &str, at: usize| -> Value {
            let encoded = proof.split('.').nth(at).unwrap();
            serde_json::from_slice(&BASE64URL_NOPAD.decode(encoded.as_bytes()).unwrap()).unwrap()
        };
        let one = first.proof("GET", "http://h/x", None, Timestamp::UNIX_EPOCH, &dice);
        let two = again.proof("GET", "http://h/x", Some(&token), Timestamp::UNIX_EPOCH, &dice);
        assert_eq!(part(&one, 0), part(&two, 0));
        assert_ne!(part(&one, 1)["jti"], part(&two, 1)["jti"]);
        assert_eq!(part(&two, 1)["nonce"], "n");
        assert_eq!(part(&two, 1)["ath"].as_str().map(str::len), Some(43));
        assert!(part(&one, 1)["ath"].is_null());
        assert!(!format!("{first:?}").contains(first.to_keep().reveal()));
    }
}
