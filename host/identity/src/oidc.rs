//! Identity providers that a tenant trusts, and what their ID tokens prove (OpenID Connect Core 1.0). Pure: documents and
//! time are passed in.
//!
//! Must never take a token for another client, another sign-in or another issuer; nor one signed in a way that its issuer
//! did not announce. A role comes from a claim that the tenant named, or there is none and nobody is signed in. Names that
//! a provider may give to somebody else later (an e-mail address) are never made principals: a principal is the hash of
//! issuer and subject.

use std::collections::HashSet;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use ringfence_core::limits::{PROVIDER_ROLES_COUNT_MAX, PROVIDERS_COUNT_MAX};
use ringfence_core::{ResourceName, Role, Strength};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use crate::{IdentityError, SecretString};

/// Signatures that are taken; symmetric ones and `none` are not among them.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
/// How far clocks may be apart, in seconds.
const LEEWAY_SECONDS: i64 = 60;
/// How old an ID token may be when it comes, in seconds: it was made for this sign-in.
const AGE_SECONDS_MAX: i64 = 600;
/// Hexadecimal digits of the hash that names somebody: 80 bits.
const NAME_DIGITS: usize = 20;

/// What a client proves itself with to its provider. Stored in a sealed record, and never shown.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClientSecret(pub SecretString);

impl Serialize for ClientSecret {
    /// SECURITY: for the store alone; no view has it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

/// An identity provider that a tenant trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderTrust {
    /// What the tenant calls it; principals are `<tenant>/<name>-<hash>`.
    pub name: ResourceName,
    /// Its issuer identifier, as its discovery document and its tokens say it.
    pub issuer: String,
    /// What it calls us.
    pub client_id: String,
    /// What we prove ourselves with; none for a public client, which PKCE protects alone.
    pub client_secret: Option<ClientSecret>,
    /// Where it may send people back to.
    pub redirect_uris: Vec<String>,
    /// Who gets which role; the first that fits. Whoever none fits is refused.
    pub roles: Vec<ClaimRole>,
}

/// A role for whoever has a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRole {
    /// The claim, such as `groups`.
    pub claim: String,
    /// Its value, or one of its values.
    pub value: String,
    /// The role.
    pub role: Role,
}

/// Whom an ID token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Federated {
    /// What to call him inside the tenant.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) strength: Strength,
}

/// What a provider says of itself (OpenID Connect Discovery 1.0, section 3).
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Discovery {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) jwks_uri: Url,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

impl Discovery {
    /// Reads a discovery document of this issuer.
    pub(crate) fn parse(bytes: &[u8], issuer: &str) -> Result<Self, IdentityError> {
        let found: Self = serde_json::from_slice(bytes).map_err(|_| away("its discovery document is malformed"))?;
        // The specification asks for equality, byte for byte.
        if found.issuer != issuer {
            return Err(away("its discovery document names another issuer"));
        }
        let endpoints = [&found.authorization_endpoint, &found.token_endpoint, &found.jwks_uri];
        if endpoints.iter().any(|endpoint| !is_safe(endpoint)) {
            return Err(away("its discovery document names an endpoint without TLS"));
        }
        Ok(found)
    }

    /// Whether the client's secret goes into the form instead of the `Authorization` header, which is the default.
    pub(crate) fn wants_secret_in_form(&self) -> bool {
        self.token_endpoint_auth_methods_supported.as_ref().is_some_and(|methods| {
            let has = |method: &str| methods.iter().any(|known| known == method);
            !has("client_secret_basic") && has("client_secret_post")
        })
    }
}

/// The keys of a provider. What is not understood of them is left out, as RFC 7517, section 5, wants it.
pub(crate) fn keys(bytes: &[u8]) -> Result<Vec<Jwk>, IdentityError> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<Value>,
    }
    let Keys { keys } = serde_json::from_slice(bytes).map_err(|_| away("its keys are malformed"))?;
    let known = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    Ok(known.filter(|key| matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature))).collect())
}

/// Which key a token says it was signed with.
pub(crate) fn key_id(token: &str) -> Result<Option<String>, IdentityError> {
    Ok(jsonwebtoken::decode_header(token).map_err(|_| refused("its ID token is malformed"))?.kid)
}

/// The key of this id; the only one, when neither token nor key has an id.
pub(crate) fn key_of<'a>(keys: &'a [Jwk], kid: Option<&str>) -> Option<&'a Jwk> {
    match (kid, keys) {
        (Some(kid), _) => keys.iter().find(|key| key.common.key_id.as_deref() == Some(kid)),
        (None, [only]) => Some(only),
        (None, _) => None,
    }
}

impl ProviderTrust {
    /// Refuses what could let nobody in, or could not be kept.
    pub fn check(&self) -> Result<(), IdentityError> {
        let bad = |why| Err(IdentityError::BadTrust { why });
        let Ok(issuer) = Url::parse(&self.issuer) else { return bad("an issuer is not a URL") };
        if !is_safe(&issuer) || issuer.query().is_some() || issuer.fragment().is_some() {
            return bad("an issuer is an `https` URL without query and fragment");
        }
        if self.client_id.is_empty() || self.client_id.len() > 256 || self.redirect_uris.len() > 16 {
            return bad("a client has an id of at most 256 bytes and at most 16 redirect URIs");
        }
        let is_good = |uri: &String| Url::parse(uri).is_ok_and(|uri| is_safe(&uri));
        if self.redirect_uris.is_empty() || !self.redirect_uris.iter().all(is_good) {
            return bad("a redirect URI is `https`, or `http` to the machine itself");
        }
        if self.roles.is_empty() || self.roles.len() > PROVIDER_ROLES_COUNT_MAX {
            return bad("a provider has 1 to 64 roles: whoever none fits is refused");
        }
        let is_word = |text: &str| !text.is_empty() && text.len() <= 256;
        if self.roles.iter().any(|role| !is_word(&role.claim) || !is_word(&role.value)) {
            return bad("a claim and its value have 1 to 256 bytes");
        }
        if self.roles.iter().any(|role| role.role == Role::Operator) {
            return bad("no tenant's provider makes operators");
        }
        Ok(())
    }

    /// Whether somebody of this name inside the tenant came from here.
    pub fn is_whose(&self, name: &str) -> bool {
        let hash = name.strip_prefix(self.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        hash.is_some_and(|hash| hash.len() == NAME_DIGITS && hash.bytes().all(is_digit))
    }

    /// Whether this trust makes the same people of the same tokens as another, whatever we prove ourselves with and wherever they are
    /// sent back to.
    pub fn admits_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.issuer == other.issuer
            && self.client_id == other.client_id
            && self.roles == other.roles
    }

    /// Whom an ID token proves, that came for the sign-in of this nonce.
    pub(crate) fn judge(
        &self,
        token: &str,
        key: &Jwk,
        nonce: &str,
        now: Timestamp,
    ) -> Result<Federated, IdentityError> {
        let claims = self.verified(token, key)?;
        let number = |name: &str| claims.get(name).and_then(Value::as_i64);
        let now = now.as_second();
        let (Some(expires), Some(issued)) = (number("exp"), number("iat")) else {
            return Err(refused("its ID token has no times"));
        };
        if expires.saturating_add(LEEWAY_SECONDS) <= now
            || issued > now.saturating_add(LEEWAY_SECONDS)
            || now.saturating_sub(issued) > AGE_SECONDS_MAX
        {
            return Err(refused("its ID token is not of now"));
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if !text("nonce").is_some_and(|said| ringfence_keys::constant_time_eq(said.as_bytes(), nonce.as_bytes())) {
            return Err(refused("its ID token is for another sign-in"));
        }
        let others = claims.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        match text("azp") {
            Some(azp) if azp != self.client_id => return Err(refused("its ID token was asked for by another client")),
            None if others => return Err(refused("its ID token is for several clients, and does not say who asked")),
            _ => {}
        }
        let subject = text("sub").filter(|subject| !subject.is_empty() && subject.len() <= 255);
        let subject = subject.ok_or(refused("its ID token says nothing of whom"))?;
        let role = self.roles.iter().find(|role| has(&claims, &role.claim, &role.value));
        let role = role.ok_or(refused("no claim in its ID token stands for a role here"))?.role;
        // RFC 8176: the provider asked for more than one factor.
        let strength = if has(&claims, "amr", "mfa") { Strength::TwoFactors } else { Strength::Secret };
        Ok(Federated { name: self.name_of(subject), role, strength })
    }

    fn verified(&self, token: &str, key: &Jwk) -> Result<Map<String, Value>, IdentityError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused("its ID token is malformed"))?;
        let announced = key.common.key_algorithm.is_none_or(|known| known.to_string() == format!("{:?}", header.alg));
        if !ALGORITHMS.contains(&header.alg) || !announced {
            return Err(refused("its ID token is signed in a way that is not taken"));
        }
        let decoding = DecodingKey::from_jwk(key).map_err(|_| refused("the key of its ID token cannot be used"))?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.client_id]);
        validation.required_spec_claims =
            ["exp", "iss", "aud", "sub"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
        // Times are checked against the host's own clock; the library reads the system's.
        validation.validate_exp = false;
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &decoding, &validation);
        Ok(decoded.map_err(|_| refused("its ID token is not by this provider, or not for this client"))?.claims)
    }

    fn name_of(&self, subject: &str) -> String {
        let hash = Sha256::digest([self.issuer.as_bytes(), b"\0", subject.as_bytes()].concat());
        let digits = HEXLOWER.encode(&hash);
        format!("{}-{}", self.name, digits.get(..NAME_DIGITS).unwrap_or(&digits))
    }
}

/// Checks all providers of a tenant together.
pub(crate) fn check_all(providers: &[ProviderTrust]) -> Result<(), IdentityError> {
    if providers.len() > PROVIDERS_COUNT_MAX {
        return Err(IdentityError::BadTrust { why: "a tenant has at most 16 identity providers" });
    }
    let names: HashSet<&ResourceName> = providers.iter().map(|provider| &provider.name).collect();
    if names.len() < providers.len() {
        return Err(IdentityError::BadTrust { why: "two identity providers have one name" });
    }
    providers.iter().try_for_each(ProviderTrust::check)
}

/// Whether a redirect URI is the one that a tenant named: to the byte, but for the port of one that leads to the person's own
/// machine and was named without any, which a program there cannot choose before it listens (RFC 8252, section 7.3).
pub(crate) fn is_redirect(named: &str, asked: &str) -> bool {
    if named == asked {
        return true;
    }
    let (Ok(mut named), Ok(mut asked)) = (Url::parse(named), Url::parse(asked)) else { return false };
    let is_literal = |url: &Url| match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(_)) | None => false,
    };
    let fits = named.scheme() == "http" && named.port().is_none() && is_literal(&named) && is_literal(&asked);
    fits && named.set_port(None).is_ok() && asked.set_port(None).is_ok() && named == asked
}

/// Whether nobody can read along: TLS, or the machine itself.
fn is_safe(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
}

/// Whether a claim is this value, or has it among its values.
fn has(claims: &Map<String, Value>, claim: &str, value: &str) -> bool {
    match claims.get(claim) {
        Some(Value::String(said)) => said == value,
        Some(Value::Array(all)) => all.iter().any(|said| said.as_str() == Some(value)),
        Some(Value::Bool(said)) => (*said && value == "true") || (!said && value == "false"),
        _ => false,
    }
}

fn refused(why: &'static str) -> IdentityError {
    IdentityError::BadFederation(why)
}

fn away(why: &'static str) -> IdentityError {
    IdentityError::ProviderAway(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_redirect_that_was_named_without_a_port_may_have_any() {
        let named = "http://127.0.0.1/callback";
        for good in [named, "http://127.0.0.1:49152/callback"] {
            assert!(is_redirect(named, good), "{good}");
        }
        assert!(is_redirect("http://[::1]/callback", "http://[::1]:5000/callback"));
        for bad in [
            "http://127.0.0.1:49152/other",
            "http://127.0.0.1:49152/callback?x=y",
            "http://127.0.0.1:49152/callback#x",
            "https://127.0.0.1:49152/callback",
            "http://127.0.0.2:49152/callback",
            "http://localhost:49152/callback",
            "http://evil.example:49152/callback",
            "http://ann@127.0.0.1:49152/callback",
            "http://127.0.0.1.evil.example/callback",
            "",
        ] {
            assert!(!is_redirect(named, bad), "{bad}");
        }
        assert!(!is_redirect("http://127.0.0.1:7000/callback", "http://127.0.0.1:7001/callback"), "a named port stays");
        assert!(!is_redirect("https://app.example/back", "https://app.example:8443/back"));
    }

    #[test]
    fn who_came_from_a_provider_is_known_by_his_name_and_a_replaced_trust_is_another() {
        let trust = ProviderTrust {
            name: "corp".parse().unwrap(),
            issuer: "https://login.example".to_owned(),
            client_id: "us".to_owned(),
            client_secret: None,
            redirect_uris: vec!["https://app.example/back".to_owned()],
            roles: vec![ClaimRole { claim: "groups".to_owned(), value: "devs".to_owned(), role: Role::Developer }],
        };
        assert!(trust.is_whose(&trust.name_of("u-1")));
        for other in
            ["corp", "corp-", "corp-0123456789abcdef012", "corp-0123456789ABCDEF0123", "corps-0123456789abcdef0123"]
        {
            assert!(!trust.is_whose(other), "{other}");
        }
        let secret = Some(ClientSecret(SecretString::new("new".to_owned())));
        let rotated = ProviderTrust { client_secret: secret, redirect_uris: Vec::new(), ..trust.clone() };
        assert!(trust.admits_as(&rotated));
        let elsewhere = ProviderTrust { issuer: "https://login.evil".to_owned(), ..trust.clone() };
        let client = ProviderTrust { client_id: "them".to_owned(), ..trust.clone() };
        let renamed = ProviderTrust { name: "corps".parse().unwrap(), ..trust.clone() };
        let others = ProviderTrust { roles: Vec::new(), ..trust.clone() };
        assert!([elsewhere, client, renamed, others].iter().all(|other| !trust.admits_as(other)));
    }
}
