//! The certificate that both listeners answer with, and, while an authority checks that a name is this host's, the answers
//! to its challenges (RFC 8737).
//!
//! Must never answer a caller with a challenge's certificate, nor a challenge with the host's own.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use ringfence_control::CertificateHealth;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_cert::der::Decode;

/// The protocol that a checking authority asks for, and nobody else.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The certificate in use; none before the first.
#[derive(Debug, Default)]
pub struct Current {
    certificate: RwLock<Option<Arc<CertifiedKey>>>,
    challenges: RwLock<BTreeMap<String, Arc<CertifiedKey>>>,
    health: Arc<CertificateHealth>,
}

/// When a certificate is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From this second on.
    pub from_second: i64,
    /// Until this one.
    pub until_second: i64,
}

impl Validity {
    /// Reads it from a certificate; none when it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let validity = certificate.tbs_certificate().validity();
        let second = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).ok();
        Some(Self { from_second: second(validity.not_before)?, until_second: second(validity.not_after)? })
    }
}

impl Current {
    /// Puts a certificate into use, and says until when it is good.
    pub fn take(&self, certificate: CertifiedKey) {
        let validity = certificate.end_entity_cert().ok().and_then(|own| Validity::of(own));
        *self.certificate.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
        self.health.took(validity.map_or(0, |validity| validity.until_second));
    }

    /// What to answer to the challenge about a name.
    pub fn expect(&self, name: &str, answer: CertifiedKey) {
        let mut challenges = self.challenges.write().unwrap_or_else(PoisonError::into_inner);
        challenges.insert(name.to_ascii_lowercase(), Arc::new(answer));
    }

    /// Forgets all challenges.
    pub fn expect_nothing(&self) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How it stands.
    pub fn health(&self) -> &Arc<CertificateHealth> {
        &self.health
    }

    fn challenge(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
        challenges.get(&name?.to_ascii_lowercase()).cloned()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.any(|protocol| protocol == ACME_TLS) {
            return self.challenge(hello.server_name());
        }
        self.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
