//! What authenticators are made of: attestation of passkeys against the roots and models that a tenant trusts (WebAuthn level
//! 3, section 8). Statements and chains are webauthn-rs's to verify: `packed` and `tpm`, and `apple` and `android-key` where
//! a root is trusted whatever the model.
//!
//! Must never call a passkey attested that showed nothing, or vouched for itself; where a tenant names roots, such a one is
//! not taken at all. The library holds certificates against the system's clock, not ours.

use data_encoding::BASE64;
use ringfence_core::limits::{ATTESTATION_MODELS_COUNT_MAX, ATTESTATION_ROOTS_COUNT_MAX};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use webauthn_rs::prelude::{AttestationCaList, AttestationCaListBuilder, AttestationMetadata, AttestedPasskey, Uuid};

use crate::IdentityError;

/// Which authenticators a tenant takes passkeys from; any when there are no roots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AttestationTrust {
    roots: Vec<AttestationRoot>,
}

/// A maker of authenticators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AttestationRoot {
    /// PEM of its root certificate.
    certificate: String,
    /// Which of its models, by AAGUID; all when there are none.
    models: Vec<Uuid>,
}

/// What an authenticator proved of itself when a passkey was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// How it said so: `packed`, `tpm`, or `other` for one that does not tell its model.
    pub format: String,
    /// Its model: the AAGUID.
    pub model: Option<String>,
}

// === impl AttestationTrust ===

impl AttestationTrust {
    /// Any authenticator will do.
    pub const fn any() -> Self {
        Self { roots: Vec::new() }
    }

    /// From PEM text of one root certificate each, and the AAGUIDs of its models that are taken.
    pub fn new(roots: &[(String, Vec<String>)]) -> Result<Self, IdentityError> {
        let wrong = |why| IdentityError::BadTrust { why };
        if roots.len() > ATTESTATION_ROOTS_COUNT_MAX {
            return Err(wrong("there are more than 16 roots of authenticators"));
        }
        let read = |(pem, models): &(String, Vec<String>)| {
            let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| wrong("a root of authenticators is not PEM"))?;
            let [one] = certificates.as_slice() else {
                return Err(wrong("each root of authenticators is one certificate"));
            };
            if models.len() > ATTESTATION_MODELS_COUNT_MAX {
                return Err(wrong("a root of authenticators has more than 256 models"));
            }
            let models = models.iter().map(|model| Uuid::parse_str(model)).collect::<Result<Vec<_>, _>>();
            let models = models.map_err(|_| wrong("a model of authenticators is no AAGUID"))?;
            Ok(AttestationRoot { certificate: in_pem(one), models })
        };
        let trust = Self { roots: roots.iter().map(read).collect::<Result<_, _>>()? };
        // The library for this reads certificates by itself, and must be able to.
        trust.list()?;
        Ok(trust)
    }

    /// Each root's models, in order.
    pub fn models(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        self.roots.iter().map(|root| root.models.iter().map(Uuid::to_string).collect())
    }

    /// What is to be asked of an authenticator: none where any will do.
    pub(crate) fn list(&self) -> Result<Option<AttestationCaList>, IdentityError> {
        let bad = IdentityError::BadTrust { why: "a root of authenticators cannot be read" };
        let mut all = AttestationCaList::default();
        for root in &self.roots {
            let pem = root.certificate.as_bytes();
            let mut builder = AttestationCaListBuilder::new();
            let one = if root.models.is_empty() {
                AttestationCaList::try_from(pem).ok()
            } else {
                let mut insert = |model: &Uuid| {
                    builder.insert_device_pem(pem, *model, model.to_string(), Default::default()).is_ok()
                };
                root.models.iter().all(&mut insert).then(|| builder.build())
            };
            let Some(one) = one else { return Err(bad) };
            all.union(&one);
        }
        Ok((!all.is_empty()).then_some(all))
    }
}

impl Attested {
    /// Of a passkey whose attestation was verified.
    pub(crate) fn of(passkey: &AttestedPasskey) -> Self {
        let (format, model) = match &passkey.attestation().metadata {
            AttestationMetadata::Packed { aaguid } => ("packed", Some(aaguid.to_string())),
            AttestationMetadata::Tpm { aaguid, .. } => ("tpm", Some(aaguid.to_string())),
            _ => ("other", None),
        };
        Self { format: format.to_owned(), model }
    }
}

/// One certificate, without whatever stood around it.
fn in_pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    // Base64 is ASCII, so every place is one to cut at; lines of 64 as RFC 7468 wants.
    while let Some((line, after)) = rest.split_at_checked(rest.len().min(64)).filter(|(line, _)| !line.is_empty()) {
        pem.extend([line, "\n"]);
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}
