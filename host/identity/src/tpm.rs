//! Quotes of a TPM 2.0: what a device measured while it started, signed by a key that never leaves its chip.
//!
//! Must never take a quote whose signing key no root of the tenant vouches for, one that answers to another nonce, one of
//! another kind of statement, or one by another TPM than the device showed first. Structures are read by `tpm2-protocol`
//! (TPM 2.0 Library, part 2), certificates by rustls-webpki.
//!
//! Evidence is JSON: `quote` (TPMS_ATTEST), `signature` (TPMT_SIGNATURE) and `certificates` (the attestation key's and those
//! above it, DER), each in base64. The quote's qualifying data is the SHA-256 of the nonce, which fits every TPM. Whoever wants
//! his session to be known as one on this device adds `key`: that the key of his token was made in this TPM and stays there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use jiff::{SignedDuration, Timestamp};
use ringfence_core::device::TPM_QUOTE;
use ringfence_core::limits::POSTURE_SECONDS_MAX;
use ringfence_keys::{P256_SHA256_RAW, P384_SHA384_RAW, constant_time_eq};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tpm2_protocol::TpmUnmarshal;
use tpm2_protocol::data::{
    TpmAlgId, TpmEccCurve, TpmaObject, TpmsAttest, TpmsQuoteInfo, TpmtPublic, TpmtSignature, TpmuAttest, TpmuPublicId,
    TpmuPublicParms, TpmuSignature,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs as algorithms};

use crate::IdentityError;
use crate::devices::{EvidenceAnswer, EvidenceQuestion, EvidenceVerifier, OTHER_KEY};
use crate::dpop::thumbprint_of_p256;
use crate::record::Binding;

/// The one claim: whether the registers hold what the tenant expects.
const CLAIM: &str = "measured_as_expected";
/// `tcg-kp-AIKCertificate`, 2.23.133.8.3: what the certificate of an attestation key is for (TCG EK Credential Profile).
const ATTESTATION_KEY: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x03];
/// LIMIT: most roots of a tenant, sets of expected registers, and certificates of one chain.
const ROOTS_COUNT_MAX: usize = 16;
const EXPECTED_COUNT_MAX: usize = 32;
const CHAIN_COUNT_MAX: usize = 6;
/// Platform configuration registers there are, and bytes of one in the bank of SHA-256.
const PCRS_COUNT: u8 = 24;
const PCR_BYTES: usize = 32;
/// SHA-256, as the name of a key begins that is named by it (TPM 2.0 Library, part 1, Names).
const NAME_SHA256: [u8; 2] = [0x00, 0x0b];
/// Bytes of either coordinate of a key on P-256.
const COORDINATE_BYTES: usize = 32;

/// Whose TPMs a tenant trusts, and what they may have measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "KeptTrust")]
pub struct TpmTrust {
    /// DER of the roots above attestation keys, base64.
    roots: Vec<String>,
    /// Sets of registers, each a way that a good device may have started.
    expected: Vec<BTreeMap<u8, String>>,
    /// What both are, in one word; empty where nobody is trusted. INVARIANT: made of them, by `From<KeptTrust>` alone.
    #[serde(skip)]
    digest: String,
}

/// Trust in TPMs as the store has it.
#[derive(Deserialize)]
struct KeptTrust {
    roots: Vec<String>,
    expected: Vec<BTreeMap<u8, String>>,
}

/// What is shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    quote: String,
    signature: String,
    certificates: Vec<String>,
    #[serde(default)]
    key: Option<ShownKey>,
}

/// A key of the TPM (TPMT_PUBLIC), what the TPM says of it (TPMS_ATTEST of TPM2_Certify), and the signature over that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownKey {
    public: String,
    certify: String,
    signature: String,
}

/// Checks quotes.
pub(crate) struct Quotes;

// === impl TpmTrust ===

impl TpmTrust {
    /// No TPM is trusted.
    pub const fn none() -> Self {
        Self { roots: Vec::new(), expected: Vec::new(), digest: String::new() }
    }

    /// From PEM text and sets of registers of the SHA-256 bank, number to value in hexadecimal. Fails, with what is wrong,
    /// where every quote, or none, would be good.
    pub fn new(roots: &str, expected: Vec<BTreeMap<u8, String>>) -> Result<Self, IdentityError> {
        let wrong = |why| IdentityError::BadTrust { why };
        let parsed: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(roots.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("the roots of TPMs are not PEM"))?;
        if parsed.is_empty() || parsed.len() > ROOTS_COUNT_MAX {
            return Err(wrong("there are no roots of TPMs, or more than 16"));
        }
        if parsed.iter().any(|root| anchor_from_trusted_cert(root).is_err()) {
            return Err(wrong("a root of TPMs cannot be read"));
        }
        if expected.is_empty() || expected.len() > EXPECTED_COUNT_MAX {
            return Err(wrong("there is nothing expected of TPMs, or there are more than 32 sets of registers"));
        }
        let is_register = |(number, value): (&u8, &String)| {
            *number < PCRS_COUNT
                && HEXLOWER_PERMISSIVE.decode(value.as_bytes()).is_ok_and(|bytes| bytes.len() == PCR_BYTES)
        };
        if !expected.iter().all(|set| !set.is_empty() && set.iter().all(is_register)) {
            return Err(wrong("registers are 0 to 23, each 32 bytes in hexadecimal, at least one in a set"));
        }
        Ok(KeptTrust { roots: parsed.iter().map(|root| BASE64.encode(root)).collect(), expected }.into())
    }

    /// How many roots there are.
    pub fn roots_count(&self) -> usize {
        self.roots.len()
    }

    /// What is expected.
    pub fn expected(&self) -> &[BTreeMap<u8, String>] {
        &self.expected
    }

    /// A digest of roots and registers: what was found under another one was found under other trust.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether the digest is that of a set which is expected, over just these registers.
    fn expects(&self, registers: &BTreeSet<u8>, digest: &[u8], hash: TpmAlgId) -> bool {
        self.expected.iter().any(|set| {
            let values: Option<Vec<Vec<u8>>> =
                set.values().map(|value| HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok()).collect();
            let Some(values) = values else { return false };
            let all = values.concat();
            let expected = match hash {
                TpmAlgId::Sha256 => Sha256::digest(&all).to_vec(),
                TpmAlgId::Sha384 => Sha384::digest(&all).to_vec(),
                TpmAlgId::Sha512 => Sha512::digest(&all).to_vec(),
                _ => return false,
            };
            set.keys().eq(registers) && expected == digest
        })
    }
}

impl From<KeptTrust> for TpmTrust {
    fn from(KeptTrust { roots, expected }: KeptTrust) -> Self {
        if roots.is_empty() {
            return Self { roots, expected, digest: String::new() };
        }
        // Base64 and hexadecimal have no line ends, so no two trusts are one text.
        let mut hash = Sha256::new();
        roots.iter().for_each(|root| hash.update(format!("root {root}\n")));
        for set in &expected {
            hash.update("set\n");
            set.iter().for_each(|(number, value)| hash.update(format!("{number} {value}\n")));
        }
        let digest = HEXLOWER.encode(&hash.finalize());
        Self { roots, expected, digest }
    }
}

// === impl Quotes ===

impl EvidenceVerifier for Quotes {
    fn format(&self) -> &str {
        TPM_QUOTE
    }

    fn verify(&self, asked: &EvidenceQuestion<'_>) -> Result<Option<EvidenceAnswer>, &'static str> {
        let trust = &asked.trust.tpm;
        if trust.roots.is_empty() {
            return Ok(None);
        }
        let shown: Shown = serde_json::from_str(asked.evidence).map_err(|_| "it is no quote in JSON")?;
        if shown.certificates.len() > CHAIN_COUNT_MAX {
            return Err("it has more than 6 certificates");
        }
        let (quote, signature) = (bytes(&shown.quote)?, bytes(&shown.signature)?);
        let chain = shown.certificates.iter().map(|text| bytes(text)).collect::<Result<Vec<_>, _>>()?;
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let (own, above) = chain.split_first().ok_or("it has no certificate")?;
        let key = EndEntityCert::try_from(own).map_err(|_| "its certificate cannot be read")?;
        vouched(&key, above, trust, asked.now)?;
        let hash = signed(&key, &quote, &signature)?;
        // From here on it is the TPM that speaks.
        let info = quoted(&quote, asked.nonce)?;
        let registers = registers(&info)?;
        let fingerprint = HEXLOWER.encode(&Sha256::digest(key.subject_public_key_info()));
        if asked.tpm.is_some_and(|first| first != fingerprint) {
            return Err("it is by another TPM than this device showed first");
        }
        let good = trust.expects(&registers, &info.pcr_digest, hash);
        if let Some(held) = &shown.key {
            stays_here(&key, held, asked.key)?;
        }
        let longest = asked.now.checked_add(SignedDuration::from_secs(POSTURE_SECONDS_MAX)).unwrap_or(asked.now);
        Ok(Some(EvidenceAnswer {
            claims: BTreeMap::from([(CLAIM.to_owned(), good)]),
            until: longest,
            tpm: Some(fingerprint),
            holds_key: shown.key.is_some(),
        }))
    }
}

/// Whether a root of the tenant vouches for the key as an attestation key, now.
fn vouched(
    key: &EndEntityCert<'_>,
    above: &[CertificateDer<'_>],
    trust: &TpmTrust,
    now: Timestamp,
) -> Result<(), &'static str> {
    let refused = "no root of the tenant vouches for its key now";
    let roots: Vec<CertificateDer<'static>> = trust
        .roots
        .iter()
        .map(|root| BASE64.decode(root.as_bytes()).map(CertificateDer::from).map_err(|_| refused))
        .collect::<Result<_, _>>()?;
    let anchors: Vec<TrustAnchor<'_>> =
        roots.iter().map(anchor_from_trusted_cert).collect::<Result<_, _>>().map_err(|_| refused)?;
    let seconds = u64::try_from(now.as_second()).map_err(|_| refused)?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let usage = KeyUsage::required(ATTESTATION_KEY);
    key.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, above, time, usage, None, None)
        .map(drop)
        .map_err(|_| refused)
}

/// Checks the signature over a quote; the hash of its scheme is the one that the registers are summed up with.
fn signed(key: &EndEntityCert<'_>, quote: &[u8], signature: &[u8]) -> Result<TpmAlgId, &'static str> {
    let malformed = "its signature is malformed";
    let (signature, rest) = TpmtSignature::unmarshal(signature).map_err(|_| malformed)?;
    if !rest.is_empty() {
        return Err(malformed);
    }
    type Algorithm = &'static dyn SignatureVerificationAlgorithm;
    let (algorithm, hash, bytes): (Algorithm, TpmAlgId, Vec<u8>) = match &signature.signature {
        TpmuSignature::Rsassa(rsa) => match rsa.hash {
            TpmAlgId::Sha256 => (algorithms::RSA_PKCS1_2048_8192_SHA256, rsa.hash, rsa.sig.to_vec()),
            TpmAlgId::Sha384 => (algorithms::RSA_PKCS1_2048_8192_SHA384, rsa.hash, rsa.sig.to_vec()),
            TpmAlgId::Sha512 => (algorithms::RSA_PKCS1_2048_8192_SHA512, rsa.hash, rsa.sig.to_vec()),
            _ => return Err("its signature is of a kind that is not taken"),
        },
        TpmuSignature::Rsapss(rsa) => match rsa.hash {
            TpmAlgId::Sha256 => (algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY, rsa.hash, rsa.sig.to_vec()),
            TpmAlgId::Sha384 => (algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY, rsa.hash, rsa.sig.to_vec()),
            TpmAlgId::Sha512 => (algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY, rsa.hash, rsa.sig.to_vec()),
            _ => return Err("its signature is of a kind that is not taken"),
        },
        TpmuSignature::Ecdsa(ecc) => {
            let (algorithm, number_bytes): (Algorithm, usize) = match ecc.hash {
                TpmAlgId::Sha256 => (P256_SHA256_RAW, 32),
                TpmAlgId::Sha384 => (P384_SHA384_RAW, 48),
                _ => return Err("its signature is of a kind that is not taken"),
            };
            let numbers = [padded(&ecc.signature_r, number_bytes), padded(&ecc.signature_s, number_bytes)];
            let [Some(r), Some(s)] = numbers else { return Err(malformed) };
            (algorithm, ecc.hash, [r, s].concat())
        }
        _ => return Err("its signature is of a kind that is not taken"),
    };
    key.verify_signature(algorithm, quote, &bytes).map_err(|_| "its signature does not fit")?;
    Ok(hash)
}

/// A number with leading zeros to its full length; TPMs differ in whether they leave them out.
fn padded(number: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let missing = bytes.checked_sub(number.len())?;
    Some([vec![0; missing], number.to_vec()].concat())
}

/// Holds the key of a session's token to what its TPM says: that it was made there and cannot leave. Needs no nonce: it is so for
/// as long as there is that key, and whoever sends this holds it, or his token would not have been taken.
fn stays_here(attesting: &EndEntityCert<'_>, shown: &ShownKey, token: &Binding) -> Result<(), &'static str> {
    let malformed = "its key is malformed";
    let (public, certify) = (bytes(&shown.public)?, bytes(&shown.certify)?);
    signed(attesting, &certify, &bytes(&shown.signature)?)?;
    let TpmuAttest::Certify(said) = statement(&certify)?.attested else {
        return Err("what it says of its key is no statement about one");
    };
    let (area, rest) = TpmtPublic::unmarshal(&public).map_err(|_| malformed)?;
    let name = [&NAME_SHA256[..], &Sha256::digest(&public)].concat();
    if !rest.is_empty() || area.name_alg != TpmAlgId::Sha256 {
        return Err(malformed);
    }
    if !constant_time_eq(&said.name, &name) {
        return Err("its TPM speaks of another key");
    }
    let made_and_kept = TpmaObject::FIXED_TPM | TpmaObject::FIXED_PARENT | TpmaObject::SENSITIVE_DATA_ORIGIN;
    if !area.object_attributes.contains(made_and_kept) {
        return Err("its key can leave the TPM, or was not made in it");
    }
    let (TpmuPublicParms::Ecc(parameters), TpmuPublicId::Ecc(point)) = (&area.parameters, &area.unique) else {
        return Err("its key is none on P-256");
    };
    if parameters.curve_id != TpmEccCurve::NistP256 {
        return Err("its key is none on P-256");
    }
    let [Some(x), Some(y)] = [padded(&point.x, COORDINATE_BYTES), padded(&point.y, COORDINATE_BYTES)] else {
        return Err(malformed);
    };
    if *token == Binding::Key(thumbprint_of_p256(&x, &y)) { Ok(()) } else { Err(OTHER_KEY) }
}

/// A statement that a TPM made.
fn statement(bytes: &[u8]) -> Result<TpmsAttest, &'static str> {
    let malformed = "what its TPM says is malformed";
    let (attest, rest) = TpmsAttest::unmarshal(bytes).map_err(|_| malformed)?;
    if rest.is_empty() { Ok(attest) } else { Err(malformed) }
}

fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    BASE64.decode(text.as_bytes()).map_err(|_| "it is not in base64")
}

/// What a quote says, when it is one and answers to the nonce.
fn quoted(quote: &[u8], nonce: &str) -> Result<TpmsQuoteInfo, &'static str> {
    let attest = statement(quote)?;
    if !constant_time_eq(&attest.extra_data, &Sha256::digest(nonce.as_bytes())) {
        return Err("it answers to another nonce");
    }
    match attest.attested {
        TpmuAttest::Quote(info) => Ok(info),
        _ => Err("it is no quote, but another statement of a TPM"),
    }
}

/// Which registers of the SHA-256 bank were quoted; others are not taken, as nothing could be expected of them.
fn registers(info: &TpmsQuoteInfo) -> Result<BTreeSet<u8>, &'static str> {
    let mut banks = info.pcr_select.iter();
    let (Some(bank), None) = (banks.next(), banks.next()) else { return Err("it is not about one bank of registers") };
    if bank.hash != TpmAlgId::Sha256 {
        return Err("it is not about the registers of SHA-256");
    }
    let is_set = |number: &u8| {
        let byte = bank.pcr_select.get(usize::from(number / 8)).copied().unwrap_or_default();
        byte & (1 << (number % 8)) != 0
    };
    let beyond = bank.pcr_select.iter().skip(usize::from(PCRS_COUNT / 8)).any(|byte| *byte != 0);
    if beyond { Err("it is about registers that there are not") } else { Ok((0..PCRS_COUNT).filter(is_set).collect()) }
}
