//! X.509-SVIDs (SPIFFE, "The X.509 SPIFFE Verifiable Identity Document"): authorities that sign them, and the certificates
//! that plugins show where they connect to.
//!
//! Must never sign a certificate for anything but a workload of its own trust domain, nor give out a private key: an
//! authority's goes to the store to be sealed, through the one door that says `SECURITY:`, a workload's goes nowhere.
//!
//! LIMIT: keys are made by the generator of the cipher library, not by [`ringfence_core::Entropy`], which it does not take.
//! The encoded bytes of every key are zeroed here; the copies that the library signs with are its own to wipe.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::KeysError;

/// LIMIT: longest name of a trust domain, in bytes (SPIFFE ID, section 2.3).
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// Of an uncompressed point: the mark before its coordinates, and each of those.
const POINT_MARK: u8 = 4;
const COORDINATE_BYTES: usize = 32;
/// LIMIT: certificates have four digits for a year; this is early in the year 9900.
const END_OF_TIME_SECONDS: u64 = 250_250_000_000;

/// One authority of a trust domain: an ECDSA P-256 key and its self-signed certificate. Cheap to clone.
#[derive(Clone)]
pub struct SvidAuthority(Arc<Inner>);

struct Inner {
    stored: Stored,
    key: Zeroizing<KeyPair>,
    certificate: CertificateDer<'static>,
}

/// As it lies in the store, sealed by it.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    trust_domain: String,
    number: u64,
    from_second: i64,
    until_second: i64,
    certificate: String,
    /// PKCS#8 in base64.
    key: String,
}

/// The certificate of one workload, with the means to prove that it is the workload's.
#[derive(Clone)]
pub struct Svid {
    /// `spiffe://<trust domain>/tenant/<tenant>/plugin/<plugin>`.
    pub id: String,
    /// When it begins to be valid, in seconds since 1970.
    pub from_second: i64,
    /// When it ends to be.
    pub until_second: i64,
    /// For the TLS library.
    pub certified: Arc<CertifiedKey>,
}

/// Whether a text can name a trust domain: small letters, digits, `.`, `-`, `_` (SPIFFE ID, section 2.1).
pub fn is_trust_domain(name: &str) -> bool {
    (1..=TRUST_DOMAIN_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

// === impl SvidAuthority ===

impl SvidAuthority {
    /// Makes an authority: the `number`th of its trust domain, valid between two times in seconds since 1970.
    pub fn create(trust_domain: &str, number: u64, from_second: i64, until_second: i64) -> Result<Self, KeysError> {
        if !is_trust_domain(trust_domain) {
            return Err(KeysError::BadSvid("the trust domain has no possible name"));
        }
        let key = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refused)?);
        let params = authority_params(trust_domain, number, from_second, until_second)?;
        let certificate = params.self_signed(&*key).map_err(refused)?;
        let stored = Stored {
            trust_domain: trust_domain.to_owned(),
            number,
            from_second,
            until_second,
            certificate: certificate.pem(),
            key: BASE64.encode(key.serialized_der()),
        };
        Ok(Self(Arc::new(Inner { stored, key, certificate: certificate.der().clone() })))
    }

    /// Reads what [`SvidAuthority::to_stored`] wrote.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, KeysError> {
        let bad = || KeysError::BadSvid("a stored authority is malformed");
        let stored: Stored = serde_json::from_slice(bytes).map_err(|_| bad())?;
        let pkcs8 = Zeroizing::new(BASE64.decode(stored.key.as_bytes()).map_err(|_| bad())?);
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ECDSA_P256_SHA256);
        let key = Zeroizing::new(key.map_err(|_| bad())?);
        let certificate = CertificateDer::from_pem_slice(stored.certificate.as_bytes()).map_err(|_| bad())?;
        Ok(Self(Arc::new(Inner { stored, key, certificate })))
    }

    /// SECURITY: with the private key, for the store to seal. Goes nowhere else.
    pub fn to_stored(&self) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let bytes = serde_json::to_vec(&self.0.stored);
        bytes.map(Zeroizing::new).map_err(|_| KeysError::BadSvid("an authority cannot be written down"))
    }

    /// Whose workloads it speaks for.
    pub fn trust_domain(&self) -> &str {
        &self.0.stored.trust_domain
    }

    /// Which of the trust domain's it is, from 1.
    pub fn number(&self) -> u64 {
        self.0.stored.number
    }

    /// When its certificate begins to be valid, in seconds since 1970.
    pub fn from_second(&self) -> i64 {
        self.0.stored.from_second
    }

    /// When its certificate ends to be.
    pub fn until_second(&self) -> i64 {
        self.0.stored.until_second
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// Its certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.0.stored.certificate
    }

    /// The coordinates of its public key on P-256, 32 bytes each.
    pub fn coordinates(&self) -> Option<(&[u8], &[u8])> {
        let point = self.0.key.der_bytes().strip_prefix(&[POINT_MARK])?;
        (point.len() == 2 * COORDINATE_BYTES).then(|| point.split_at(COORDINATE_BYTES))
    }

    /// Signs a certificate with a key of its own for the plugin of a tenant. Both are words of the host, checked before.
    pub fn issue(&self, tenant: &str, plugin: &str, from_second: i64, until_second: i64) -> Result<Svid, KeysError> {
        let Stored { trust_domain, number, from_second: from, until_second: until, .. } = &self.0.stored;
        let id = format!("spiffe://{trust_domain}/tenant/{tenant}/plugin/{plugin}");
        let key = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refused)?);
        let until_second = until_second.min(*until);
        let params = workload_params(&id, from_second, until_second)?;
        let issuer = authority_params(trust_domain, *number, *from, *until)?;
        let certificate = params.signed_by(&*key, &Issuer::from_params(&issuer, &*self.0.key)).map_err(refused)?;
        // The library for TLS wants bytes, once, and borrowed; the only copy of them is zeroed with `key`.
        let signer = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der())))
            .map_err(|_| KeysError::BadSvid("the library for TLS does not take a key"))?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer));
        Ok(Svid { id, from_second, until_second, certified })
    }
}

impl fmt::Debug for SvidAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<authority {} of {}>", self.number(), self.trust_domain())
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<certificate of {}>", self.id)
    }
}

/// An authority's certificate: for signing workloads only, none of which can sign on (X.509-SVID, section 4).
fn authority_params(trust_domain: &str, number: u64, from: i64, until: i64) -> Result<CertificateParams, KeysError> {
    let mut params = between(from, until)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Ringfence");
    name.push(DnType::CommonName, format!("workload authority {number} of {trust_domain}"));
    params.distinguished_name = name;
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A workload's certificate: exactly one URI, no name beside it (X.509-SVID, sections 2 and 4.3).
fn workload_params(id: &str, from: i64, until: i64) -> Result<CertificateParams, KeysError> {
    let mut params = between(from, until)?;
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn between(from: i64, until: i64) -> Result<CertificateParams, KeysError> {
    let seconds = |second: i64| match u64::try_from(second) {
        Ok(second) if second < END_OF_TIME_SECONDS => Ok(second),
        _ => Err(KeysError::BadSvid("the time is before 1970 or after 9900")),
    };
    let mut params = CertificateParams::default();
    let epoch = date_time_ymd(1970, 1, 1);
    if until <= from {
        return Err(KeysError::BadSvid("it would be over before it begins"));
    }
    params.not_before = epoch + Duration::from_secs(seconds(from)?);
    params.not_after = epoch + Duration::from_secs(seconds(until)?);
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, KeysError> {
    text.try_into().map(SanType::URI).map_err(|_| KeysError::BadSvid("a name is not ASCII"))
}

fn refused(_: rcgen::Error) -> KeysError {
    KeysError::BadSvid("the library for certificates refused")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;

    const FROM: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn authority(number: u64) -> SvidAuthority {
        SvidAuthority::create("host.example", number, FROM, FROM + 30 * DAY).unwrap()
    }

    fn verifier(authority: &SvidAuthority) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap()
    }

    fn at(second: i64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(second.unsigned_abs()))
    }

    fn holds(haystack: &[u8], needle: &str) -> bool {
        haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
    }

    #[test]
    fn a_workloads_certificate_says_who_it_is_and_is_good_for_its_time_under_its_authority_alone() {
        let (ours, other) = (authority(1), authority(2));
        let svid = ours.issue("acme", "webhook", FROM, FROM + 3_600).unwrap();
        assert_eq!(svid.id, "spiffe://host.example/tenant/acme/plugin/webhook");
        let leaf = svid.certified.end_entity_cert().unwrap();
        assert!(holds(leaf, &svid.id));
        assert!(verifier(&ours).verify_client_cert(leaf, &[], at(FROM + 1)).is_ok());
        assert!(verifier(&ours).verify_client_cert(leaf, &[], at(FROM + 3_601)).is_err(), "over");
        assert!(verifier(&ours).verify_client_cert(leaf, &[], at(FROM - 1)).is_err(), "not yet");
        assert!(verifier(&other).verify_client_cert(leaf, &[], at(FROM + 1)).is_err(), "another authority");
        svid.certified.keys_match().unwrap();
    }

    #[test]
    fn two_workloads_have_two_keys() {
        let ours = authority(1);
        let keys = ["webhook", "webhook", "visits"]
            .map(|plugin| ours.issue("acme", plugin, FROM, FROM + 60).unwrap().certified)
            .map(|certified| certified.key.public_key().unwrap().to_vec());
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    }

    #[test]
    fn no_certificate_outlives_its_authority_or_begins_after_it() {
        let ours = authority(1);
        let svid = ours.issue("acme", "webhook", FROM + 30 * DAY - 60, FROM + 31 * DAY).unwrap();
        assert_eq!(svid.until_second, FROM + 30 * DAY);
        assert!(ours.issue("acme", "webhook", FROM + 30 * DAY, FROM + 31 * DAY).is_err());
        assert!(SvidAuthority::create("host.example", 1, FROM, FROM).is_err());
        assert!(SvidAuthority::create("host.example", 1, -5, FROM).is_err());
    }

    #[test]
    fn an_authority_survives_its_bytes_and_signs_on() {
        let ours = authority(7);
        let again = SvidAuthority::from_stored(&ours.to_stored().unwrap()).unwrap();
        assert_eq!(
            (again.number(), again.certificate(), again.until_second()),
            (7, ours.certificate(), FROM + 30 * DAY)
        );
        assert_eq!(again.coordinates().unwrap(), ours.coordinates().unwrap());
        let svid = again.issue("acme", "webhook", FROM, FROM + 60).unwrap();
        let leaf = svid.certified.end_entity_cert().unwrap();
        assert!(verifier(&ours).verify_client_cert(leaf, &[], at(FROM)).is_ok());
        for bad in [&b""[..], b"{}", b"\xff"] {
            assert!(SvidAuthority::from_stored(bad).is_err());
        }
    }

    #[test]
    fn a_workload_cannot_sign_for_another() {
        let ours = authority(1);
        let first = ours.issue("acme", "webhook", FROM, FROM + 3_600).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = workload_params("spiffe://host.example/tenant/evil/plugin/x", FROM, FROM + 60).unwrap();
        let below = workload_params(&first.id, FROM, FROM + 3_600).unwrap();
        let forged = params.signed_by(&key, &Issuer::from_params(&below, &key)).unwrap();
        let chain = [first.certified.end_entity_cert().unwrap().clone()];
        assert!(verifier(&ours).verify_client_cert(forged.der(), &chain, at(FROM)).is_err());
    }

    #[test]
    fn trust_domains_are_strict_and_debug_prints_no_key() {
        for bad in ["", "Host.example", "a b", "host/x", "höst", &"a".repeat(256)] {
            assert!(SvidAuthority::create(bad, 1, FROM, FROM + 60).is_err(), "{bad}");
        }
        let ours = authority(1);
        assert_eq!(format!("{ours:?}"), "<authority 1 of host.example>");
        let svid = ours.issue("acme", "webhook", FROM, FROM + 60).unwrap();
        assert_eq!(format!("{svid:?}"), "<certificate of spiffe://host.example/tenant/acme/plugin/webhook>");
    }
}
