//! Device trust: a principal's devices, and what somebody whom the tenant trusts, or their TPM, signed about them. Which of
//! them a session is on is in `on_device.rs`.
//!
//! Must never take silence, a claim of a kind that this host cannot check, or one that is over, for a verified device; nor
//! one nonce twice.

use std::collections::BTreeMap;
use std::net::IpAddr;

use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use ringfence_core::device::{POSTURE, TPM_QUOTE};
use ringfence_core::limits::{DEVICES_PER_PRINCIPAL_COUNT_MAX, POSTURE_BYTES_MAX, POSTURE_SECONDS_MAX};
use ringfence_core::{Principal, PrincipalId, ResourceName, Source};
use serde::{Deserialize, Serialize};

use crate::manage::not_found;
use crate::on_device::is_believed;
use crate::record::Binding;
use crate::secret_hash::random_text;
use crate::standing::TrustSettings;
use crate::trust::Posture;
use crate::{Identity, IdentityError};

/// How far the time of a claim may be from the host's, in seconds.
const CLAIM_LEEWAY_SECONDS: i64 = 60;
/// What is wrong with evidence that names a key which is not the session's.
pub(crate) const OTHER_KEY: &str = "it names another key than the one that this session's token is bound to";

/// Whose claims about devices a tenant takes, and what they must say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PostureTrust {
    /// Who may sign.
    pub issuers: Vec<PostureIssuer>,
    /// What each claim must say is so: `disk_encrypted`, `screen_lock`.
    pub required: Vec<String>,
}

/// One who may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureIssuer {
    /// The `iss` of the claims.
    pub name: String,
    /// The Ed25519 key that signs them: its 32 bytes in base64url.
    pub key: String,
}

impl PostureTrust {
    /// Checks what a tenant wants, before it is kept.
    pub fn check(&self) -> Result<(), IdentityError> {
        let wrong = |why| Err(IdentityError::BadTrust { why });
        if self.issuers.len() > 8 || self.required.len() > 32 {
            return wrong("there are more than 8 issuers of claims about devices, or more than 32 claims required");
        }
        let is_word = |word: &str| !word.is_empty() && word.len() <= 200;
        if !self.issuers.iter().all(|issuer| is_word(&issuer.name)) || !self.required.iter().all(|word| is_word(word)) {
            return wrong("an issuer or a required claim has no name, or one of over 200 bytes");
        }
        let is_key = |key: &str| BASE64URL_NOPAD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 32);
        if !self.issuers.iter().all(|issuer| is_key(&issuer.key)) {
            return wrong("the key of an issuer is not the 32 bytes of an Ed25519 key in base64url");
        }
        if !self.issuers.is_empty() && self.required.is_empty() {
            return wrong("nothing is required of devices, so every one would be as it should be");
        }
        Ok(())
    }
}

/// What a device was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceVerdict {
    /// A claim that was checked says everything that is required.
    Verified,
    /// A claim that was checked does not.
    Failed,
    /// This host cannot check such evidence; it says nothing.
    Unsupported,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// What its holder calls it; the `sub` of claims about it.
    pub name: ResourceName,
    /// Since when it is known.
    pub registered_at: Timestamp,
    /// What it was found to be, the last time that anything could be found.
    pub found: Option<DeviceFound>,
    /// The key of the TPM that it showed first, the hash of it; another one cannot speak for it.
    #[serde(default)]
    pub tpm: Option<String>,
    /// Since when it is revoked; nothing verifies it any more.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

/// What a device was found to be, and for how long that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFound {
    /// The verdict: verified or failed.
    pub verdict: DeviceVerdict,
    /// What the claim said of what is required.
    pub claims: BTreeMap<String, bool>,
    /// Who said so.
    pub issuer: String,
    /// When.
    pub at: Timestamp,
    /// Until when it counts.
    pub expires_at: Timestamp,
    /// What sort of evidence it was; empty in records of before it was kept.
    #[serde(default)]
    pub format: String,
    /// The key of a session's token that the evidence showed to be on the device. INVARIANT: never `Unbound`.
    #[serde(default)]
    pub key: Option<Binding>,
    /// What the tenant trusted when it was checked: the key of the issuer, or the digest of what is asked of TPMs. None where
    /// that cannot change, and in records of before it was kept.
    #[serde(default)]
    pub trusted: Option<String>,
}

/// Evidence about a device, and what it answers to.
#[derive(Debug)]
pub struct DeviceEvidence<'a> {
    /// The device.
    pub device: &'a str,
    /// The nonce that was given out for it.
    pub nonce: &'a str,
    /// What sort of evidence: `posture` for a signed claim, `tpm-quote` for a quote of a TPM.
    pub format: &'a str,
    /// The evidence: for `posture` a JWT signed with EdDSA, for `tpm-quote` JSON (`tpm.rs`).
    pub evidence: &'a str,
}

/// Checks evidence of one kind.
pub trait EvidenceVerifier: Send + Sync {
    /// What sort of evidence it checks.
    fn format(&self) -> &str;
    /// What the evidence says of a device when it is good and answers to the nonce, else why not; none where the tenant
    /// trusts nobody for such evidence, so that it says nothing.
    fn verify(&self, asked: &EvidenceQuestion<'_>) -> Result<Option<EvidenceAnswer>, &'static str>;
}

/// Evidence, and what it is to be held against.
pub struct EvidenceQuestion<'a> {
    /// The evidence, as its format has it.
    pub evidence: &'a str,
    /// The device.
    pub device: &'a str,
    /// The nonce that it must answer to.
    pub nonce: &'a str,
    /// The time.
    pub now: Timestamp,
    /// What the tenant trusts.
    pub trust: &'a TrustSettings,
    /// The key of the TPM that the device showed first.
    pub tpm: Option<&'a str>,
    /// What the token of the session that shows it is bound to.
    pub key: &'a Binding,
}

/// What good evidence says.
pub struct EvidenceAnswer {
    /// What it says; the device is verified when there is something, and all of it holds.
    pub claims: BTreeMap<String, bool>,
    /// Until when that counts.
    pub until: Timestamp,
    /// The key of the TPM that says so.
    pub tpm: Option<String>,
    /// Whether it shows that the device holds the key that was asked about. What names another one is no good evidence.
    pub holds_key: bool,
}

/// Evidence that was good: by whose word, under what trust, and what it says.
struct Checked {
    issuer: String,
    trusted: Option<String>,
    answer: EvidenceAnswer,
}

/// A nonce under way: for whose device it is.
pub(crate) struct ForDevice {
    principal: PrincipalId,
    device: ResourceName,
}

/// What a signed claim says.
#[derive(Deserialize)]
struct Claim {
    iss: String,
    sub: String,
    nonce: String,
    iat: i64,
    exp: i64,
    posture: BTreeMap<String, bool>,
    #[serde(default)]
    cnf: Option<NamedKey>,
}

/// The key on the device that whoever signs vouches for (RFC 7800), in the words that tokens have for theirs.
#[derive(Deserialize)]
struct NamedKey {
    jkt: Option<String>,
    #[serde(rename = "x5t#S256")]
    x5t: Option<String>,
}

impl NamedKey {
    /// Whether it is the one that a token is bound to. Fails when it is another one.
    fn is(&self, key: &Binding) -> Result<bool, IdentityError> {
        let is = match key {
            Binding::Unbound => false,
            Binding::Key(jkt) => self.jkt.as_ref() == Some(jkt),
            Binding::Certificate(x5t) => self.x5t.as_ref() == Some(x5t),
        };
        let names_one = self.jkt.is_some() || self.x5t.is_some();
        if names_one && !is { Err(IdentityError::BadEvidence(OTHER_KEY)) } else { Ok(is) }
    }
}

impl Identity {
    /// A principal's devices.
    pub fn devices(&self, principal: &Principal) -> Vec<DeviceRecord> {
        self.shared.read().about(principal.id()).map(|about| about.devices.clone()).unwrap_or_default()
    }

    /// Registers a device. Nothing is known of it until it is verified.
    pub async fn register_device(
        &self,
        principal: &Principal,
        name: ResourceName,
    ) -> Result<DeviceRecord, IdentityError> {
        let registered_at = self.shared.clock.now();
        let record = DeviceRecord { name, registered_at, found: None, tpm: None, revoked_at: None };
        let kept = record.clone();
        self.change_about(principal.tenant(), principal.id(), |about| {
            if about.devices.iter().any(|other| other.name == kept.name) {
                return Err(IdentityError::FactorState("there is a device of that name already"));
            }
            let in_use = about.devices.iter().filter(|device| device.revoked_at.is_none());
            if in_use.count() >= DEVICES_PER_PRINCIPAL_COUNT_MAX {
                return Err(IdentityError::FactorState("there are 16 devices already; remove one first"));
            }
            about.devices.push(kept);
            Ok(())
        })
        .await?;
        Ok(record)
    }

    /// Removes a device. What was found of it counts until it would have expired, so that a failing one is not got rid of
    /// by forgetting it; nor is one that was revoked.
    pub async fn remove_device(&self, principal: &Principal, name: &str) -> Result<(), IdentityError> {
        let now = self.shared.clock.now();
        self.change_about(principal.tenant(), principal.id(), |about| {
            let at = about.devices.iter().position(|device| device.name.as_str() == name);
            let at = at.ok_or_else(|| not_found(name))?;
            if about.devices.get(at).is_some_and(|device| device.revoked_at.is_some()) {
                return Err(revoked());
            }
            if about.devices.get(at).is_some_and(|device| is_failing(device, now)) {
                return Err(IdentityError::FactorState(
                    "this device was found failing; it can be removed when that is over",
                ));
            }
            about.devices.remove(at);
            Ok(())
        })
        .await
    }

    /// Gives out a nonce for a device; it can be used once and for three minutes.
    pub fn challenge_device(&self, principal: &Principal, name: &str, from: IpAddr) -> Result<String, IdentityError> {
        let devices = self.devices(principal);
        let device = devices.into_iter().find(|device| device.name.as_str() == name).ok_or_else(|| not_found(name))?;
        if device.revoked_at.is_some() {
            return Err(revoked());
        }
        let nonce = random_text(self.shared.entropy.as_ref()).expose().to_owned();
        let pending = ForDevice { principal: principal.id().clone(), device: device.name };
        let now = self.shared.clock.monotonic();
        self.shared.challenges().begin(nonce.clone(), Source::of(from), pending, now);
        Ok(nonce)
    }

    /// Checks evidence about a device and keeps what it says. `Unsupported` changes nothing: it is no good word for the
    /// device, and no bad one.
    pub async fn verify_device(
        &self,
        principal: &Principal,
        shown: DeviceEvidence<'_>,
    ) -> Result<(DeviceVerdict, Option<DeviceFound>), IdentityError> {
        let used = self.shared.challenges().end(shown.nonce, self.shared.clock.monotonic());
        let fits = used.is_some_and(|used| used.principal == *principal.id() && used.device.as_str() == shown.device);
        if !fits {
            return Err(IdentityError::NonceSpent);
        }
        let now = self.shared.clock.now();
        if shown.evidence.len() > POSTURE_BYTES_MAX {
            return Err(IdentityError::BadEvidence("it is too long"));
        }
        let key = self.key_of(principal);
        let Some(Checked { issuer, trusted, answer }) = self.checked(principal, &shown, &key, now)? else {
            return Ok((DeviceVerdict::Unsupported, None));
        };
        let EvidenceAnswer { claims, until, tpm, holds_key } = answer;
        let key = Some(key).filter(|key| holds_key && *key != Binding::Unbound);
        let longest = now.checked_add(SignedDuration::from_secs(POSTURE_SECONDS_MAX)).unwrap_or(now);
        let good = !claims.is_empty() && claims.values().all(|holds| *holds);
        let verdict = if good { DeviceVerdict::Verified } else { DeviceVerdict::Failed };
        let (format, expires_at) = (shown.format.to_owned(), until.min(longest));
        let found = DeviceFound { verdict, claims, issuer, at: now, expires_at, format, key, trusted };
        let kept = found.clone();
        self.change_about(principal.tenant(), principal.id(), |about| {
            let device = about.devices.iter_mut().find(|device| device.name.as_str() == shown.device);
            let device = device.ok_or_else(|| not_found(shown.device))?;
            // Here, where nothing else changes: a revocation may have come while it was checked.
            if device.revoked_at.is_some() {
                return Err(revoked());
            }
            if self.shared.read().is_of_revoked(principal.tenant(), tpm.as_deref(), kept.key.as_ref()) {
                return Err(IdentityError::BadEvidence(
                    "it is by the TPM, or about the key, of a device that was revoked",
                ));
            }
            // Asked again: two first quotes may have been checked at the same time.
            if device.tpm.is_some() && tpm.is_some() && device.tpm != tpm {
                return Err(IdentityError::BadEvidence("it is by another TPM than this device showed first"));
            }
            device.found = Some(kept);
            device.tpm = device.tpm.take().or(tpm);
            Ok(())
        })
        .await?;
        self.end_fallen(principal.tenant(), Some(principal.id()));
        Ok((verdict, Some(found)))
    }

    /// Whether any device could be verified under these settings.
    pub(crate) fn can_verify_devices(&self, trust: &TrustSettings) -> bool {
        let by_host = self.shared.verifiers.iter().any(|verifier| verifier.format() != TPM_QUOTE);
        by_host || !trust.posture.issuers.is_empty() || trust.tpm.roots_count() > 0
    }

    /// Who says what about a device; none when nobody here can tell.
    fn checked(
        &self,
        principal: &Principal,
        shown: &DeviceEvidence<'_>,
        key: &Binding,
        now: Timestamp,
    ) -> Result<Option<Checked>, IdentityError> {
        let trust = self.thresholds(principal);
        if shown.format == POSTURE {
            let (claim, issuer) = read_claim(shown, &trust.posture, now)?;
            let until = Timestamp::from_second(claim.exp).map_err(|_| IdentityError::BadEvidence("it has no end"))?;
            let said = |word: &String| (word.clone(), claim.posture.get(word).copied().unwrap_or(false));
            let claims = trust.posture.required.iter().map(said).collect();
            let holds_key = claim.cnf.as_ref().map_or(Ok(false), |named| named.is(key))?;
            let answer = EvidenceAnswer { claims, until, tpm: None, holds_key };
            return Ok(Some(Checked { issuer: claim.iss, trusted: Some(issuer.key.clone()), answer }));
        }
        let Some(verifier) = self.shared.verifiers.iter().find(|verifier| verifier.format() == shown.format) else {
            return Ok(None);
        };
        let devices = self.devices(principal);
        let device = devices.iter().find(|device| device.name.as_str() == shown.device);
        let asked = EvidenceQuestion {
            evidence: shown.evidence,
            device: shown.device,
            nonce: shown.nonce,
            now,
            trust: &trust,
            tpm: device.and_then(|device| device.tpm.as_deref()),
            key,
        };
        let answer = verifier.verify(&asked).map_err(IdentityError::BadEvidence)?;
        let trusted = (shown.format == TPM_QUOTE).then(|| trust.tpm.digest().to_owned());
        Ok(answer.map(|answer| Checked { issuer: shown.format.to_owned(), trusted, answer }))
    }
}

/// What the devices of a principal say together: failing when one of them is, and since when.
pub(crate) fn posture_of(
    devices: &[DeviceRecord],
    trust: &TrustSettings,
    now: Timestamp,
) -> Option<(Posture, Timestamp)> {
    let found = devices.iter().filter_map(|device| {
        let found = device.found.as_ref().filter(|found| now < found.expires_at)?;
        // Of one that was revoked nothing good is believed, nor what is not trusted or not enough any more.
        let believed = device.revoked_at.is_none() && is_believed(found, trust);
        (believed || found.verdict == DeviceVerdict::Failed).then_some(found)
    });
    let worst = found.max_by_key(|found| (found.verdict == DeviceVerdict::Failed, found.at))?;
    match worst.verdict {
        DeviceVerdict::Verified => Some((Posture::Good, worst.at)),
        DeviceVerdict::Failed => Some((Posture::Failing, worst.at)),
        DeviceVerdict::Unsupported => None,
    }
}

fn revoked() -> IdentityError {
    IdentityError::FactorState("this device was revoked")
}

fn is_failing(device: &DeviceRecord, now: Timestamp) -> bool {
    device.found.as_ref().is_some_and(|found| found.verdict == DeviceVerdict::Failed && now < found.expires_at)
}

/// A claim and who signed it, when that is one whom the tenant trusts, and it is for this device and this nonce, now.
fn read_claim<'a>(
    shown: &DeviceEvidence<'_>,
    trust: &'a PostureTrust,
    now: Timestamp,
) -> Result<(Claim, &'a PostureIssuer), IdentityError> {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    // Times are checked below, by the host's own clock.
    validation.validate_exp = false;
    validation.validate_aud = false;
    let signed = trust.issuers.iter().find_map(|issuer| {
        let key = DecodingKey::from_ed_components(&issuer.key).ok()?;
        let claim = jsonwebtoken::decode::<Claim>(shown.evidence, &key, &validation).ok()?.claims;
        (claim.iss == issuer.name).then_some((claim, issuer))
    });
    let (claim, issuer) = signed.ok_or(IdentityError::BadEvidence("nobody whom the tenant trusts signed it"))?;
    if claim.sub != shown.device || claim.nonce != shown.nonce {
        return Err(IdentityError::BadEvidence("it is about another device, or answers to another nonce"));
    }
    let second = now.as_second();
    if claim.exp <= second || claim.iat.abs_diff(second) > CLAIM_LEEWAY_SECONDS.unsigned_abs() {
        return Err(IdentityError::BadEvidence("it was not made now, or is over"));
    }
    Ok((claim, issuer))
}
