//! Access tokens: signed with EdDSA, five minutes long, `at+jwt` (RFC 9068, RFC 7519, RFC 8037).
//!
//! Must never take a token whose header is not, byte for byte, the one this host writes: so there is no algorithm, key
//! or extension for a caller to choose. A token says who; whether that still holds, the session table says.

use std::collections::HashSet;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use ringfence_core::limits::{ACCESS_TOKEN_SECONDS, CREDENTIAL_BYTES_MAX};
use ringfence_core::{Principal, SessionId};
use ringfence_keys::{SigningKey, verify_ed25519};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::record::Binding;
use crate::{AUDIENCE, IdentityError, SecretString};

/// How long after its end a token is still taken, for clocks that are nudged (seconds).
pub(crate) const EXPIRY_LEEWAY_SECONDS: i64 = 5;
/// How far in the future a token may have been issued, for clocks that are set back (seconds).
const FUTURE_LEEWAY_SECONDS: i64 = 60;

#[derive(Serialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

/// What a token says. Authority does not come from here but from the session it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    pub(crate) sub: String,
    pub(crate) iat: i64,
    pub(crate) exp: i64,
    pub(crate) sid: SessionId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cnf: Option<Confirmation>,
}

/// What a token is bound to, for those who read it (RFC 7800). The host itself looks at the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confirmation {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) jkt: Option<String>,
    #[serde(rename = "x5t#S256", skip_serializing_if = "Option::is_none", default)]
    pub(crate) x5t: Option<String>,
}

impl Confirmation {
    fn of(binding: &Binding) -> Option<Self> {
        match binding {
            Binding::Unbound => None,
            Binding::Key(jkt) => Some(Self { jkt: Some(jkt.clone()), x5t: None }),
            Binding::Certificate(x5t) => Some(Self { jkt: None, x5t: Some(x5t.clone()) }),
        }
    }
}

/// Signs and verifies the tokens of one issuer.
pub(crate) struct Tokens {
    key: SigningKey,
    verifying: DecodingKey,
    validation: Validation,
    /// The first part of every token, encoded.
    header: String,
    issuer: String,
}

impl Tokens {
    pub(crate) fn new(key: SigningKey, issuer: String) -> Result<Self, IdentityError> {
        let public = key.public_key();
        let digest = Sha256::digest(public);
        let kid = HEXLOWER.encode(digest.as_slice().get(..8).unwrap_or_default());
        let header = encode(&Header { typ: "at+jwt", alg: "EdDSA", kid: &kid })?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&issuer]);
        validation.set_audience(&[AUDIENCE]);
        validation.required_spec_claims =
            ["exp", "iss", "aud", "sub"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
        // Times are checked by `fresh` against the host's own clock, which tests can step; the library reads the system's.
        validation.validate_exp = false;
        Ok(Self { verifying: DecodingKey::from_ed_der(&public), key, validation, header, issuer })
    }

    /// A token for a session.
    pub(crate) fn issue(
        &self,
        principal: &Principal,
        session: &SessionId,
        issued_at: Timestamp,
        binding: &Binding,
    ) -> Result<SecretString, IdentityError> {
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: principal.id().to_string(),
            iat: issued_at.as_second(),
            exp: issued_at.as_second().saturating_add(ACCESS_TOKEN_SECONDS),
            sid: session.clone(),
            role: principal.role().map(|role| role.to_string()),
            tenant: principal.tenant().map(ToString::to_string),
            cnf: Confirmation::of(binding),
        };
        self.sign(&claims)
    }

    fn sign(&self, claims: &Claims) -> Result<SecretString, IdentityError> {
        let message = format!("{}.{}", self.header, encode(claims)?);
        let signature = BASE64URL_NOPAD.encode(&self.key.sign(message.as_bytes()));
        Ok(SecretString::new(format!("{message}.{signature}")))
    }

    /// Signs something that is no token; it must begin with words that no token begins with.
    pub(crate) fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message)
    }

    /// Whether this host signed these bytes.
    pub(crate) fn signed_bytes(&self, message: &[u8], signature: &[u8]) -> bool {
        verify_ed25519(&self.key.public_key(), message, signature).is_ok()
    }

    /// What a token says, when this host signed it. Says nothing about its time.
    pub(crate) fn read(&self, bearer: &str) -> Result<Claims, IdentityError> {
        let header = bearer.split('.').next();
        if bearer.len() > CREDENTIAL_BYTES_MAX || header != Some(self.header.as_str()) {
            return Err(IdentityError::Unauthenticated);
        }
        jsonwebtoken::decode::<Claims>(bearer, &self.verifying, &self.validation)
            .map(|token| token.claims)
            .map_err(|_| IdentityError::Unauthenticated)
    }
}

/// Whether a token's time is now.
pub(crate) fn fresh(claims: &Claims, now: Timestamp) -> Result<(), IdentityError> {
    let now = now.as_second();
    // The clock was set back since, or somebody else signs with our key: either way its age cannot be known.
    if claims.iat > now.saturating_add(FUTURE_LEEWAY_SECONDS) {
        return Err(IdentityError::Unauthenticated);
    }
    if claims.exp.saturating_add(EXPIRY_LEEWAY_SECONDS) <= now {
        return Err(IdentityError::Expired);
    }
    Ok(())
}

fn encode(part: &impl Serialize) -> Result<String, IdentityError> {
    let json = serde_json::to_vec(part).map_err(|_| IdentityError::Host("a token cannot be written"))?;
    Ok(BASE64URL_NOPAD.encode(&json))
}
