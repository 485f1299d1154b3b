//! What is known of people, and what the store holds of them: their invitation, password, one-time codes and passkeys.
//!
//! Must never hold a password, an invitation or a recovery code, only their hashes; the key of one-time codes has to be
//! kept as it is, sealed by the store like everything else, and is never shown after it was confirmed.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use jiff::Timestamp;
use ringfence_core::limits::CREDENTIAL_BYTES_MAX;
use ringfence_core::{Entropy, PrincipalId, ResourceName, Role, TenantId};
use ringfence_keys::{Zeroizing, constant_time_eq};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use webauthn_rs::prelude::Passkey;

use crate::attestation::Attested;
use crate::secret_hash::{Hashed, random_text};
use crate::{IdentityError, SecretString};

/// First part of an invitation.
pub(crate) const INVITATION_PREFIX: &str = "rfi_";
/// How many recovery codes a person gets.
pub(crate) const RECOVERY_CODES_COUNT: usize = 10;
/// Length of a recovery code without its dashes: 80 bits.
const RECOVERY_CODE_CHARS: usize = 16;

/// Whom to invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPerson {
    /// Whose; none for an operator.
    pub tenant: Option<TenantId>,
    /// What to call him; the principal becomes `<tenant>/<name>` or `operator/<name>`.
    pub name: ResourceName,
    /// What he may do by default. `operator` exactly when there is no tenant.
    pub role: Role,
}

/// What may be shown of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonRecord {
    /// Whose; none for an operator.
    pub tenant: Option<TenantId>,
    /// What he is called.
    pub name: ResourceName,
    /// What he may do by default.
    pub role: Role,
    /// Who he is to policies and the log.
    pub principal: PrincipalId,
    /// Who invited him, the last time.
    pub invited_by: PrincipalId,
    /// When that was.
    pub invited_at: Timestamp,
    /// Until when the invitation can be used; none when it was.
    pub invitation_expires_at: Option<Timestamp>,
    /// When he used it.
    pub enrolled_at: Option<Timestamp>,
}

/// What a person can prove himself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factors {
    /// Whether there is a password, and since when.
    pub password_since: Option<Timestamp>,
    /// Since when one-time codes are asked for.
    pub codes_since: Option<Timestamp>,
    /// How many recovery codes are left.
    pub recovery_codes_count: usize,
    /// The passkeys.
    pub passkeys: Vec<PasskeyRecord>,
}

/// What may be shown of a passkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasskeyRecord {
    /// Its name in the API: the hash of its credential id.
    pub id: String,
    /// What its holder calls it.
    pub name: ResourceName,
    /// Since when.
    pub added_at: Timestamp,
    /// When it was last used to sign in.
    pub used_at: Option<Timestamp>,
    /// What its authenticator proved of itself; none when nobody asked.
    pub attested: Option<Attested>,
}

/// A person as the store has him.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredPerson {
    pub(crate) record: PersonRecord,
    /// 16 random bytes by which authenticators know him (WebAuthn, user handle), in hexadecimal.
    pub(crate) handle: String,
    /// Hash of the invitation that waits.
    pub(crate) invitation: Option<String>,
    pub(crate) password: Option<StoredPassword>,
    pub(crate) codes: Option<StoredCodes>,
    pub(crate) recovery: Vec<String>,
    pub(crate) passkeys: Vec<StoredPasskey>,
}

/// What tells a person from another who is invited under his name later, and from himself with another password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    handle: String,
    password: Option<Hashed>,
}

/// A password.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredPassword {
    pub(crate) hashed: Hashed,
    pub(crate) since: Timestamp,
}

/// One-time codes (RFC 6238).
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredCodes {
    /// The shared key, in base32.
    pub(crate) secret: String,
    /// None until a first code was shown.
    pub(crate) since: Option<Timestamp>,
    /// The last step whose code was taken: no step is taken twice, nor an earlier one after it.
    pub(crate) last_step: u64,
}

/// A passkey.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredPasskey {
    pub(crate) id: String,
    pub(crate) name: ResourceName,
    pub(crate) added_at: Timestamp,
    pub(crate) used_at: Option<Timestamp>,
    pub(crate) passkey: Passkey,
    #[serde(default)]
    pub(crate) attested: Option<Attested>,
}

impl StoredPerson {
    /// Somebody who was invited now.
    pub(crate) fn invited(record: PersonRecord, invitation: &SecretString, entropy: &dyn Entropy) -> Self {
        let mut handle = [0_u8; 16];
        entropy.fill(&mut handle);
        Self {
            record,
            handle: HEXLOWER.encode(&handle),
            invitation: Some(digest(invitation.expose())),
            password: None,
            codes: None,
            recovery: Vec::new(),
            passkeys: Vec::new(),
        }
    }

    /// Who he is as of now.
    pub(crate) fn mark(&self) -> Mark {
        let password = self.password.as_ref().map(|password| password.hashed.clone());
        Mark { handle: self.handle.clone(), password }
    }

    /// Whether what was shown ([`invitation_shown`]) is the invitation that waits for him.
    pub(crate) fn is_invited_with(&self, shown: &str, now: Timestamp) -> bool {
        let open = self.record.invitation_expires_at.is_some_and(|end| now < end);
        open && self.invitation.as_ref().is_some_and(|kept| same(kept, shown))
    }

    /// Whether a password alone is not enough.
    pub(crate) fn asks_for_codes(&self) -> bool {
        self.codes.as_ref().is_some_and(|codes| codes.since.is_some())
    }

    /// Whether there is anything stronger than a password.
    pub(crate) fn has_second_factor(&self) -> bool {
        self.asks_for_codes() || !self.passkeys.is_empty()
    }

    /// What may be shown of his factors.
    pub(crate) fn factors(&self) -> Factors {
        let passkeys = self.passkeys.iter().map(|kept| PasskeyRecord {
            id: kept.id.clone(),
            name: kept.name.clone(),
            added_at: kept.added_at,
            used_at: kept.used_at,
            attested: kept.attested.clone(),
        });
        Factors {
            password_since: self.password.as_ref().map(|password| password.since),
            codes_since: self.codes.as_ref().and_then(|codes| codes.since),
            recovery_codes_count: self.recovery.len(),
            passkeys: passkeys.collect(),
        }
    }

    /// Uses a one-time or recovery code up; fails when it is neither.
    pub(crate) fn use_code(&mut self, code: &str, now: Timestamp) -> Result<(), IdentityError> {
        let codes = self.codes.as_mut().filter(|codes| codes.since.is_some()).ok_or(IdentityError::Unauthenticated)?;
        if let Some(step) = codes.step_of(code, now)? {
            if step <= codes.last_step {
                return Err(IdentityError::Unauthenticated);
            }
            codes.last_step = step;
            return Ok(());
        }
        let shown = digest(&plain(code));
        // Compared with all of them, so that which one it was does not show.
        let found = self
            .recovery
            .iter()
            .enumerate()
            .fold(None, |found, (at, kept)| if same(kept, &shown) { Some(at) } else { found });
        let at = found.ok_or(IdentityError::Unauthenticated)?;
        self.recovery.remove(at);
        Ok(())
    }

    /// New recovery codes in the place of all old ones; this is the only time they can be read.
    pub(crate) fn renew_recovery(&mut self, entropy: &dyn Entropy) -> Vec<SecretString> {
        let codes: Vec<SecretString> = (0..RECOVERY_CODES_COUNT).map(|_| recovery_code(entropy)).collect();
        self.recovery = codes.iter().map(|code| digest(&plain(code.expose()))).collect();
        codes
    }
}

impl StoredCodes {
    /// A new shared key of 160 bits (RFC 4226, section 4, R6), not yet confirmed.
    pub(crate) fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0_u8; 20]);
        entropy.fill(bytes.as_mut_slice());
        Self { secret: BASE32_NOPAD.encode(bytes.as_slice()), since: None, last_step: 0 }
    }

    /// The step whose code this is: the one of now, or the one before or after it.
    pub(crate) fn step_of(&self, code: &str, now: Timestamp) -> Result<Option<u64>, IdentityError> {
        if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        let bytes = BASE32_NOPAD.decode(self.secret.as_bytes()).map(Zeroizing::new).ok();
        let bytes: Option<[u8; 20]> = bytes.and_then(|bytes| bytes.as_slice().try_into().ok());
        let bytes = bytes.ok_or(IdentityError::Host("a stored key of one-time codes is malformed"))?;
        // RFC 6238 as authenticators have it: SHA-1, 6 digits, 30 seconds, one step to either side.
        let totp = totp_rs::Builder::new().with_secret(bytes).build();
        let totp = totp.map_err(|_| IdentityError::Host("a stored key of one-time codes cannot be used"))?;
        Ok(totp.check(code, u64::try_from(now.as_second()).unwrap_or(0)))
    }
}

/// A new invitation.
pub(crate) fn invitation(entropy: &dyn Entropy) -> SecretString {
    let random = random_text(entropy);
    let mut text = String::with_capacity(INVITATION_PREFIX.len() + random.expose().len());
    [INVITATION_PREFIX, random.expose()].iter().for_each(|part| text.push_str(part));
    SecretString::new(text)
}

/// What is compared of an invitation that somebody shows: worked out once, however many are open, and outside of any lock. None of
/// a text that is longer than a credential can be.
pub(crate) fn invitation_shown(token: &SecretString) -> Option<String> {
    (token.expose().len() <= CREDENTIAL_BYTES_MAX).then(|| digest(token.expose()))
}

/// Four groups of four characters.
fn recovery_code(entropy: &dyn Entropy) -> SecretString {
    let mut bytes = Zeroizing::new([0_u8; RECOVERY_CODE_CHARS * 5 / 8]);
    entropy.fill(bytes.as_mut_slice());
    let text = Zeroizing::new(BASE32_NOPAD.encode(bytes.as_slice()).to_ascii_lowercase());
    let mut code = String::with_capacity(RECOVERY_CODE_CHARS + 3);
    for (at, letter) in text.chars().enumerate() {
        if at > 0 && at % 4 == 0 {
            code.push('-');
        }
        code.push(letter);
    }
    SecretString::new(code)
}

/// A recovery code as it is compared: without dashes and blanks, in lower case.
fn plain(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).take(64).collect()
}

/// What is kept of a secret that is random enough (80 bits and more) to need no slow hash.
pub(crate) fn digest(secret: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(secret.as_bytes()))
}

fn same(kept: &str, shown: &str) -> bool {
    constant_time_eq(kept.as_bytes(), shown.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn person() -> StoredPerson {
        let record = PersonRecord {
            tenant: None,
            name: "ann".parse().unwrap(),
            role: Role::Operator,
            principal: "operator/ann".parse().unwrap(),
            invited_by: "operator/ada".parse().unwrap(),
            invited_at: at(0),
            invitation_expires_at: Some(at(100)),
            enrolled_at: None,
        };
        StoredPerson::invited(record, &SecretString::new("rfi_x".to_owned()), &Dice::new())
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B, SHA-1: 94287082 at 59 s and 07081804 at 1111111109 s, of which authenticators show six.
        let codes =
            StoredCodes { secret: BASE32_NOPAD.encode(b"12345678901234567890"), since: Some(at(0)), last_step: 0 };
        assert_eq!(codes.step_of("287082", at(59)).unwrap(), Some(1));
        assert_eq!(codes.step_of("081804", at(1_111_111_109)).unwrap(), Some(37_037_036));
        assert_eq!(codes.step_of("081804", at(1_111_111_109 + 30)).unwrap(), Some(37_037_036));
        assert_eq!(codes.step_of("081804", at(1_111_111_109 + 91)).unwrap(), None);
        assert_eq!(codes.step_of("287083", at(59)).unwrap(), None);
    }

    #[test]
    fn a_code_is_taken_once_and_none_before_it_afterwards() {
        let mut person = person();
        let secret = BASE32_NOPAD.encode(b"12345678901234567890");
        person.codes = Some(StoredCodes { secret, since: Some(at(0)), last_step: 0 });
        person.use_code("081804", at(1_111_111_109)).unwrap();
        assert!(person.use_code("081804", at(1_111_111_109)).is_err());
        person.codes.as_mut().unwrap().last_step += 1;
        assert!(person.use_code("081804", at(1_111_111_109)).is_err());
    }

    #[test]
    fn a_recovery_code_is_taken_once_however_it_is_typed() {
        let mut person = person();
        let codes = person.renew_recovery(&Dice::new());
        assert_eq!(codes.len(), RECOVERY_CODES_COUNT);
        assert!(person.use_code(codes[3].expose(), at(1)).is_err(), "they stand in for codes, and there are none yet");
        person.codes = Some(StoredCodes { since: Some(at(0)), ..StoredCodes::generate(&Dice::new()) });
        let typed = codes[3].expose().replace('-', " ").to_uppercase();
        person.use_code(&typed, at(1)).unwrap();
        assert!(person.use_code(codes[3].expose(), at(1)).is_err());
        assert_eq!(person.recovery.len(), RECOVERY_CODES_COUNT - 1);
        let kept = serde_json::to_string(&person).unwrap();
        assert!(codes.iter().all(|code| !kept.contains(code.expose()) && !kept.contains(&plain(code.expose()))));
    }

    #[test]
    fn an_invitation_is_good_for_its_time() {
        let person = person();
        let shown = |text: &str| invitation_shown(&SecretString::new(text.to_owned())).unwrap();
        assert!(person.is_invited_with(&shown("rfi_x"), at(99)) && !person.is_invited_with("rfi_x", at(99)));
        assert!(!person.is_invited_with(&shown("rfi_x"), at(100)) && !person.is_invited_with(&shown("rfi_y"), at(99)));
        assert_eq!(invitation_shown(&SecretString::new("x".repeat(CREDENTIAL_BYTES_MAX + 1))), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_panic_and_no_wrong_one_is_taken(code in ".{0,80}") {
            let mut person = person();
            person.renew_recovery(&Dice::new());
            person.codes = Some(StoredCodes { since: Some(at(0)), ..StoredCodes::generate(&Dice::new()) });
            let digits = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert!(digits || person.use_code(&code, at(1_000_000)).is_err());
        }
    }
}
