//! What a request shows of its caller: a token and how it was sent, a proof of possession, the channel it came on.
//!
//! Pure, and reached by anyone: must never panic, and never take one of two contradicting credentials for the right one.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, Method, Uri, header};
use ringfence_core::limits::{CERTIFICATES_SHOWN_COUNT_MAX, CREDENTIAL_BYTES_MAX};
use sha2::{Digest as _, Sha256};

use crate::IdentityError;

/// How a request came, put into its extensions by the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// In clear; something in front of this host may have done TLS.
    Plain,
    /// TLS that ends in this process.
    Tls {
        /// What the peer proved in the handshake to hold the key of, if it showed one. Nobody has trusted it yet.
        certificate: Option<Arc<ClientCertificate>>,
    },
}

/// A certificate whose key the peer holds, as the handshake proved; who it belongs to is asked at sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    chain: Vec<Vec<u8>>,
    thumbprint: String,
}

impl ClientCertificate {
    /// From the DER of a chain, the peer's own first. None when it is empty or longer than any that can be verified.
    pub fn of(chain: Vec<Vec<u8>>) -> Option<Self> {
        let own = chain.first().filter(|_| chain.len() <= CERTIFICATES_SHOWN_COUNT_MAX)?;
        let thumbprint = BASE64URL_NOPAD.encode(&Sha256::digest(own));
        Some(Self { chain, thumbprint })
    }
    /// The DER of the chain, the peer's own first.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
    /// `x5t#S256` (RFC 8705, section 3.1).
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }
}

/// The scheme of an `Authorization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// RFC 6750, and RFC 8705 for tokens bound to a certificate.
    Bearer,
    /// RFC 9449.
    Dpop,
}

/// What one request shows.
#[derive(Clone)]
pub struct Shown<'a> {
    pub(crate) token: Option<(Scheme, &'a str)>,
    pub(crate) proof: Option<&'a str>,
    pub(crate) method: &'a str,
    /// Host and port as the caller wrote them.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) channel: &'a Channel,
}

impl<'a> Shown<'a> {
    /// Reads a head. `uri` is the one that the caller asked for, before any routing. Fails when more than one credential
    /// is shown, or one of a scheme that this host does not take.
    pub fn read(
        method: &'a Method,
        uri: &'a Uri,
        headers: &'a HeaderMap,
        channel: Option<&'a Channel>,
    ) -> Result<Self, IdentityError> {
        let token = only(headers, header::AUTHORIZATION.as_str())?.map(credential).transpose()?;
        let proof = only(headers, "dpop")?;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = uri.authority().map(http::uri::Authority::as_str).or(host).unwrap_or_default();
        let channel = channel.unwrap_or(&Channel::Plain);
        Ok(Self { token, proof, method: method.as_str(), authority, path: uri.path(), channel })
    }

    /// Whether a token was sent.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether the caller speaks DPoP, so that an answer should carry the next nonce.
    pub fn speaks_dpop(headers: &HeaderMap) -> bool {
        let scheme = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().first_chunk::<5>());
        headers.contains_key("dpop") || scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"dpop "))
    }

    #[cfg(test)]
    pub(crate) fn bearer(token: &'a str) -> Self {
        let token = Some((Scheme::Bearer, token));
        Self { token, proof: None, method: "GET", authority: "host", path: "/", channel: &Channel::Plain }
    }

    #[cfg(test)]
    pub(crate) fn nothing() -> Self {
        Self { token: None, ..Self::bearer("") }
    }
}

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The only value of a header. Two of them could be read in two ways.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, IdentityError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.len() <= CREDENTIAL_BYTES_MAX + "Bearer ".len() => {
            value.to_str().map(Some).map_err(|_| IdentityError::Unauthenticated)
        }
        _ => Err(IdentityError::Unauthenticated),
    }
}

fn credential(value: &str) -> Result<(Scheme, &str), IdentityError> {
    let (scheme, token) = value.split_once(' ').ok_or(IdentityError::Unauthenticated)?;
    let scheme = if scheme.eq_ignore_ascii_case("bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("dpop") {
        Scheme::Dpop
    } else {
        return Err(IdentityError::Unauthenticated);
    };
    Ok((scheme, token.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn read(map: &HeaderMap) -> Result<Option<(Scheme, String)>, ()> {
        let uri = Uri::from_static("/x?y");
        let shown = Shown::read(&Method::GET, &uri, map, None).map_err(drop)?;
        Ok(shown.token.map(|(scheme, token)| (scheme, token.to_owned())))
    }

    #[test]
    fn a_credential_is_one_of_two_schemes_or_none_at_all() {
        assert_eq!(read(&headers(&[])), Ok(None));
        assert_eq!(read(&headers(&[("authorization", "bEARER a.b")])), Ok(Some((Scheme::Bearer, "a.b".to_owned()))));
        assert_eq!(read(&headers(&[("authorization", "DPoP a.b")])), Ok(Some((Scheme::Dpop, "a.b".to_owned()))));
        for wrong in ["Basic abc", "Bearer", "abc"] {
            assert_eq!(read(&headers(&[("authorization", wrong)])), Err(()), "{wrong}");
        }
    }

    #[test]
    fn two_credentials_are_none() {
        assert_eq!(read(&headers(&[("authorization", "Bearer a"), ("authorization", "Bearer a")])), Err(()));
        assert_eq!(read(&headers(&[("dpop", "a"), ("dpop", "b")])), Err(()));
    }

    #[test]
    fn a_chain_is_named_by_its_first_certificate_and_is_bounded() {
        let one = ClientCertificate::of(vec![b"own".to_vec(), b"issuer".to_vec()]).unwrap();
        assert_eq!(one.thumbprint(), ClientCertificate::of(vec![b"own".to_vec()]).unwrap().thumbprint());
        assert!(ClientCertificate::of(Vec::new()).is_none());
        assert!(ClientCertificate::of(vec![Vec::new(); CERTIFICATES_SHOWN_COUNT_MAX + 1]).is_none());
    }

    proptest! {
        #[test]
        fn reading_never_panics(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut map = HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                map.insert(header::AUTHORIZATION, value.clone());
                map.insert("dpop", value);
            }
            let _ = read(&map);
        }
    }
}
