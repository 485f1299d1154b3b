//! Whose a client certificate is: its chain against a tenant's own trust roots and revocation list, its name against the
//! tenant's own list of holders. Path building, signatures, names and revocation are rustls-webpki's (RFC 5280).
//!
//! Pure: time is passed in. Must never take a chain for good by another place's roots, nor a name that is not listed.

use std::time::Duration;

use data_encoding::BASE64;
use jiff::Timestamp;
use ringfence_core::{ResourceName, Role};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::IdentityError;
use crate::shown::ClientCertificate;

/// LIMIT: most trust roots, and most revocation lists, that a tenant may keep.
const CERTIFICATE_ROOTS_COUNT_MAX: usize = 8;
/// LIMIT: most holders that a tenant may list.
const CERTIFICATE_HOLDERS_COUNT_MAX: usize = 256;

/// Which client certificates a place trusts, and who they stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateTrust {
    /// DER of the roots, base64.
    roots: Vec<String>,
    /// DER of the revocation lists, base64.
    revocation_lists: Vec<String>,
    /// Who may sign in; a name that is not here may not.
    holders: Vec<CertificateHolder>,
}

/// Who a certificate of one name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateHolder {
    /// A subject alternative name: a DNS name or a URI, as it stands in the certificate.
    pub subject: String,
    /// The principal becomes `<tenant>/<name>`.
    pub name: ResourceName,
    /// What it may do by default.
    pub role: Role,
}

impl CertificateTrust {
    /// From PEM text. Fails, with what is wrong, when it could never let anybody in or could not be checked.
    pub fn new(roots: &str, revocation_lists: &str, holders: Vec<CertificateHolder>) -> Result<Self, IdentityError> {
        let wrong = |why| IdentityError::BadTrust { why };
        let parsed: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(roots.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("`roots` is not PEM"))?;
        if parsed.is_empty() || parsed.len() > CERTIFICATE_ROOTS_COUNT_MAX {
            return Err(wrong("`roots` holds no certificate, or too many"));
        }
        if parsed.iter().any(|root| anchor_from_trusted_cert(root).is_err()) {
            return Err(wrong("a certificate in `roots` cannot be read"));
        }
        let lists: Vec<CertificateRevocationListDer<'static>> =
            CertificateRevocationListDer::pem_slice_iter(revocation_lists.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| wrong("`revocation_lists` is not PEM"))?;
        if lists.len() > CERTIFICATE_ROOTS_COUNT_MAX
            || lists.iter().any(|list| BorrowedCertRevocationList::from_der(list).is_err())
        {
            return Err(wrong("a list in `revocation_lists` cannot be read, or there are too many"));
        }
        if holders.is_empty() || holders.len() > CERTIFICATE_HOLDERS_COUNT_MAX {
            return Err(wrong("`holders` is empty or too long"));
        }
        let mut subjects: Vec<&str> = holders.iter().map(|holder| holder.subject.as_str()).collect();
        subjects.sort_unstable();
        if subjects.windows(2).any(|pair| pair.first() == pair.last()) || subjects.contains(&"") {
            return Err(wrong("each `subject` is named once, and is not empty"));
        }
        if holders.iter().any(|holder| holder.role == Role::Operator) {
            return Err(wrong("no certificate of a tenant makes an operator"));
        }
        Ok(Self {
            roots: parsed.iter().map(|root| BASE64.encode(root)).collect(),
            revocation_lists: lists.iter().map(|list| BASE64.encode(list)).collect(),
            holders,
        })
    }

    /// Who may sign in.
    pub fn holders(&self) -> &[CertificateHolder] {
        &self.holders
    }

    /// How many roots and revocation lists there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.roots.len(), self.revocation_lists.len())
    }

    /// Who a certificate stands for at this time. The same refusal whatever is wrong.
    pub(crate) fn holder_of(
        &self,
        shown: &ClientCertificate,
        now: Timestamp,
    ) -> Result<&CertificateHolder, IdentityError> {
        self.verified(shown, now).ok_or(IdentityError::Unauthenticated)
    }

    fn verified(&self, shown: &ClientCertificate, now: Timestamp) -> Option<&CertificateHolder> {
        let chain: Vec<CertificateDer<'_>> =
            shown.chain().iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let (own, intermediates) = chain.split_first()?;
        let own = EndEntityCert::try_from(own).ok()?;
        let roots: Vec<CertificateDer<'static>> = decoded(&self.roots)?.into_iter().map(CertificateDer::from).collect();
        let anchors: Vec<TrustAnchor<'_>> =
            roots.iter().map(anchor_from_trusted_cert).collect::<Result<_, _>>().ok()?;
        let lists = decoded(&self.revocation_lists)?;
        let lists: Vec<CertRevocationList<'_>> = lists
            .iter()
            .map(|der| BorrowedCertRevocationList::from_der(der).map(CertRevocationList::from))
            .collect::<Result<_, _>>()
            .ok()?;
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
        // Where the tenant keeps lists, a certificate that no current list speaks for is not known to be good.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let time = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).ok()?));
        own.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            time,
            KeyUsage::client_auth(),
            revocation,
            None,
        )
        .ok()?;
        let named = |holder: &&CertificateHolder| {
            own.valid_uri_names().chain(own.valid_dns_names()).any(|name| name == holder.subject)
        };
        self.holders.iter().find(named)
    }
}

fn decoded(all: &[String]) -> Option<Vec<Vec<u8>>> {
    all.iter().map(|der| BASE64.decode(der.as_bytes()).ok()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    };

    pub(crate) const SUBJECT: &str = "spiffe://acme.example/ci";

    pub(crate) struct Ca {
        pub(crate) pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    pub(crate) fn ca() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn certificate(
        ca: &Ca,
        subject: &str,
        usage: ExtendedKeyUsagePurpose,
        serial: u64,
    ) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(subject.try_into().unwrap())];
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let signed = params.signed_by(&KeyPair::generate().unwrap(), &ca.issuer).unwrap();
        ClientCertificate::of(vec![signed.der().to_vec()]).unwrap()
    }

    fn revocations(ca: &Ca, serial: u64) -> String {
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2026, 12, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: rcgen::date_time_ymd(2026, 1, 2),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&ca.issuer).unwrap().pem().unwrap()
    }

    fn holders() -> Vec<CertificateHolder> {
        vec![CertificateHolder { subject: SUBJECT.to_owned(), name: "ci".parse().unwrap(), role: Role::Developer }]
    }

    fn june() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_listed_name_under_a_trusted_root_is_its_holder() {
        let ca = ca();
        let trust = CertificateTrust::new(&ca.pem, "", holders()).unwrap();
        let shown = certificate(&ca, SUBJECT, ExtendedKeyUsagePurpose::ClientAuth, 7);
        assert_eq!(trust.holder_of(&shown, june()).unwrap().name.as_str(), "ci");
    }

    #[test]
    fn another_root_name_usage_or_time_is_refused() {
        let (ours, theirs) = (ca(), ca());
        let trust = CertificateTrust::new(&ours.pem, "", holders()).unwrap();
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let good = certificate(&ours, SUBJECT, client.clone(), 7);
        for (what, shown, at) in [
            ("root", certificate(&theirs, SUBJECT, client.clone(), 7), june()),
            ("name", certificate(&ours, "spiffe://acme.example/c", client, 7), june()),
            ("usage", certificate(&ours, SUBJECT, ExtendedKeyUsagePurpose::ServerAuth, 7), june()),
            ("early", good.clone(), "2025-12-01T00:00:00Z".parse().unwrap()),
            ("late", good, "2027-06-01T00:00:00Z".parse().unwrap()),
            ("garbage", ClientCertificate::of(vec![vec![0x30, 3, 1]]).unwrap(), june()),
        ] {
            assert!(trust.holder_of(&shown, at).is_err(), "{what}");
        }
    }

    #[test]
    fn a_revoked_certificate_is_refused_and_so_is_every_one_once_the_list_is_old() {
        let ca = ca();
        let trust = CertificateTrust::new(&ca.pem, &revocations(&ca, 7), holders()).unwrap();
        let of = |serial| certificate(&ca, SUBJECT, ExtendedKeyUsagePurpose::ClientAuth, serial);
        assert!(trust.holder_of(&of(7), june()).is_err());
        assert!(trust.holder_of(&of(8), june()).is_ok());
        assert!(trust.holder_of(&of(8), "2026-12-15T00:00:00Z".parse().unwrap()).is_err());
    }

    #[test]
    fn what_could_never_let_anybody_in_is_refused_when_it_is_set() {
        let ca = ca();
        let operator = CertificateHolder { role: Role::Operator, ..holders().remove(0) };
        let twice = vec![holders().remove(0), holders().remove(0)];
        for (roots, lists, holders) in [
            ("", "", holders()),
            ("no pem", "", holders()),
            (ca.pem.as_str(), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", holders()),
            (ca.pem.as_str(), "", Vec::new()),
            (ca.pem.as_str(), "", vec![operator]),
            (ca.pem.as_str(), "", twice),
        ] {
            assert!(CertificateTrust::new(roots, lists, holders).is_err());
        }
    }
}
