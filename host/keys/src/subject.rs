//! The keys of one person inside a tenant: a random data key a subject, wrapped under the tenant's key for personal data,
//! so that destroying one wrapped key takes away everything that was sealed for that person and nothing else.
//!
//! The key for personal data is random and of its own, not one derived from the tenant key: what was sealed for people, and
//! their pseudonyms, go along into a backup and open in the tenant it is restored into. Must never be kept anywhere but in
//! a sealed record of its tenant, so that destroying the tenant key takes it along. Must never make a subject's name part
//! of what it gives out: outside, a subject is its MAC, the [`SubjectRef`].
//!
//! Derivation, HKDF-Expand-SHA-256 over its 32 random bytes: wrapping key "ringfence/personal/v1/wrap", MAC key
//! "ringfence/personal/v1/mac". Its stored form is the 32 bytes, then the label of the tenant that it was made for, which
//! stays in every context below wherever the key goes.
//!
//! SubjectRef: the first 16 bytes of HMAC-SHA-256 under the MAC key over "subject" || 0 || the subject. A data key is 32
//! random bytes; wrapped it is a record (see `record.rs`) under the wrapping key in the context (tenant, "personal/key",
//! SubjectRef, key version).
//!
//! Sealed value, printable so that it survives in JSON: "rfp1." and, in base64url without padding (RFC 4648, section 5),
//! SubjectRef (16 bytes) || key version (4 bytes big-endian) || a record under the data key in the context (tenant,
//! "personal/value", length of the field name as 8 bytes big-endian || field name || SubjectRef, key version).
//! The field name is not in it: who opens must say which field he thinks it is. LIMIT: the lengths of values show, and
//! that two values belong to one subject.
//!
//! Token: "rft1." and base64url of the first 24 bytes of the HMAC over "token" || 0 || length of the field name as 8 bytes
//! big-endian || field name || value. LIMIT: equal values of one field have equal tokens; who sees tokens counts and joins.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::derive::{DerivingKey, KEY_BYTES, KeyBytes, expand_key, mac};
use crate::error::KeysError;
use crate::record;

/// What every sealed value starts with; the digit is the version of the format.
pub const SEALED_PREFIX: &str = "rfp1.";
/// What every token starts with.
pub const TOKEN_PREFIX: &str = "rft1.";

const REF_BYTES: usize = 16;
const VERSION_BYTES: usize = 4;
const TOKEN_BYTES: usize = 24;
const KEY_STORE: &str = "personal/key";
/// The key's version stands beside the record and in its context, so the record's own is always this.
const RECORD_VERSION: u8 = 1;
const VALUE_STORE: &str = "personal/value";

const WRAP_LABEL: &[u8] = b"ringfence/personal/v1/wrap";
const MAC_LABEL: &[u8] = b"ringfence/personal/v1/mac";

/// The key of a tenant's personal data. Zeroed on drop.
pub struct PersonalKey {
    tenant: Box<str>,
    bytes: KeyBytes,
    wrap: KeyBytes,
    mac: KeyBytes,
}

/// A subject as it is known outside its tenant's own data: 16 bytes that say nothing about who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectRef([u8; REF_BYTES]);

/// One version of a subject's data key. Cannot be printed or taken out; zeroed when dropped.
pub struct SubjectKey {
    tenant: Box<str>,
    subject: SubjectRef,
    version: u32,
    key: KeyBytes,
}

/// A sealed value, taken apart but not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedField {
    /// Whose value it is.
    pub subject: SubjectRef,
    /// Which version of the subject's key sealed it.
    pub version: u32,
    record: Vec<u8>,
}

// === impl SubjectRef ===

impl fmt::Display for SubjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

// === impl PersonalKey ===

impl PersonalKey {
    /// A new one, for a tenant of this label.
    pub fn generate(tenant: &str, entropy: &dyn Entropy) -> Result<Self, KeysError> {
        let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
        entropy.fill(bytes.as_mut_slice());
        Self::new(tenant, bytes)
    }

    /// Reads the bytes of [`PersonalKey::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeysError> {
        let (key, tenant) = bytes.split_first_chunk::<KEY_BYTES>().ok_or(KeysError::NotAuthentic)?;
        Self::new(std::str::from_utf8(tenant).map_err(|_| KeysError::NotAuthentic)?, Zeroizing::new(*key))
    }

    /// Its stored form. SECURITY: for the value of a sealed record of its tenant, nowhere else.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.bytes.as_slice(), self.tenant.as_bytes()].concat())
    }

    fn new(tenant: &str, bytes: KeyBytes) -> Result<Self, KeysError> {
        let (wrap, mac) = (expand_key(bytes.as_slice(), &[WRAP_LABEL])?, expand_key(bytes.as_slice(), &[MAC_LABEL])?);
        Ok(Self { tenant: tenant.into(), bytes, wrap, mac })
    }

    /// The pseudonym of a subject.
    pub fn subject_ref(&self, subject: &str) -> SubjectRef {
        SubjectRef(head(&mac(self.mac.as_slice(), &[b"subject\0", subject.as_bytes()].concat())))
    }

    /// A fresh data key for a subject, and the same wrapped, to be stored.
    pub fn new_subject_key(
        &self,
        subject: SubjectRef,
        version: u32,
        entropy: &dyn Entropy,
    ) -> Result<(SubjectKey, Vec<u8>), KeysError> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        entropy.fill(key.as_mut_slice());
        let context = key_context(&self.tenant, &subject, version);
        let wrapped =
            record::seal(&DerivingKey::new(self.wrap.as_slice()), RECORD_VERSION, &context, key.as_slice(), entropy)?;
        Ok((SubjectKey { tenant: self.tenant.clone(), subject, version, key }, wrapped))
    }

    /// Unwraps a stored data key; fails when it is not of this tenant, subject and version.
    pub fn subject_key(&self, subject: SubjectRef, version: u32, wrapped: &[u8]) -> Result<SubjectKey, KeysError> {
        let bytes = record::open(
            &DerivingKey::new(self.wrap.as_slice()),
            &key_context(&self.tenant, &subject, version),
            wrapped,
        )?;
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        if bytes.len() != KEY_BYTES {
            return Err(KeysError::NotAuthentic);
        }
        key.copy_from_slice(&bytes);
        Ok(SubjectKey { tenant: self.tenant.clone(), subject, version, key })
    }

    /// The token of a value in a field: the same for the same value, and no way back without a stored mapping.
    pub fn field_token(&self, field: &str, value: &[u8]) -> String {
        let length = (field.len() as u64).to_be_bytes();
        let mac = mac(self.mac.as_slice(), &[b"token\0", length.as_slice(), field.as_bytes(), value].concat());
        format!("{TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&head::<TOKEN_BYTES>(&mac)))
    }
}

impl fmt::Debug for PersonalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key of personal data>")
    }
}

// === impl SubjectKey ===

impl SubjectKey {
    /// Which version of the subject's key it is.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Seals a value of a field. The result is text of the format in the header.
    pub fn seal(&self, field: &str, plaintext: &[u8], entropy: &dyn Entropy) -> Result<String, KeysError> {
        let named = named(field, &self.subject);
        let record = record::seal(
            &DerivingKey::new(self.key.as_slice()),
            RECORD_VERSION,
            &self.context(&named),
            plaintext,
            entropy,
        )?;
        let bytes = [self.subject.0.as_slice(), &self.version.to_be_bytes(), &record].concat();
        Ok(format!("{SEALED_PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)))
    }

    /// Opens what [`SubjectKey::seal`] made for the same tenant, subject, key version and field.
    pub fn open(&self, field: &str, sealed: &SealedField) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        if sealed.subject != self.subject || sealed.version != self.version {
            return Err(KeysError::NotAuthentic);
        }
        let named = named(field, &self.subject);
        record::open(&DerivingKey::new(self.key.as_slice()), &self.context(&named), &sealed.record)
    }

    fn context<'a>(&'a self, named: &'a [u8]) -> Context<'a> {
        Context { tenant: &self.tenant, store: VALUE_STORE, key: named, revision: self.version.into() }
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<subject key>")
    }
}

// === impl SealedField ===

impl SealedField {
    /// Takes a sealed value apart; [`KeysError::NotAuthentic`] for anything that is not of the format.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let parts = || {
            let bytes = BASE64URL_NOPAD.decode(text.strip_prefix(SEALED_PREFIX)?.as_bytes()).ok()?;
            let (subject, rest) = bytes.split_first_chunk::<REF_BYTES>()?;
            let (version, record) = rest.split_first_chunk::<VERSION_BYTES>()?;
            let version = u32::from_be_bytes(*version);
            Some(Self { subject: SubjectRef(*subject), version, record: record.to_vec() })
        };
        parts().ok_or(KeysError::NotAuthentic)
    }
}

fn key_context<'a>(tenant: &'a str, subject: &'a SubjectRef, version: u32) -> Context<'a> {
    Context { tenant, store: KEY_STORE, key: &subject.0, revision: version.into() }
}

fn named(field: &str, subject: &SubjectRef) -> Vec<u8> {
    [(field.len() as u64).to_be_bytes().as_slice(), field.as_bytes(), &subject.0].concat()
}

fn head<const N: usize>(mac: &[u8; 32]) -> [u8; N] {
    let mut out = [0_u8; N];
    for (to, from) in out.iter_mut().zip(mac) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;
    use proptest::prelude::*;

    fn keys(tenant: &str, seed: u8) -> PersonalKey {
        PersonalKey::generate(tenant, &Fixed(seed)).unwrap()
    }

    fn key_of(tenant: &PersonalKey, subject: &str, version: u32, seed: u8) -> SubjectKey {
        tenant.new_subject_key(tenant.subject_ref(subject), version, &Fixed(seed)).unwrap().0
    }

    #[test]
    fn a_value_opens_for_its_field_subject_version_and_tenant_alone() {
        let (acme, evil) = (keys("acme", 1), keys("evil", 1));
        let ann = key_of(&acme, "ann", 1, 7);
        let text = ann.seal("email", b"ann@example.com", &Fixed(9)).unwrap();
        let sealed = SealedField::parse(&text).unwrap();
        assert_eq!(ann.open("email", &sealed).unwrap().as_slice(), b"ann@example.com");
        assert!(ann.open("phone", &sealed).is_err());
        // The same key bytes, so that it is the context which refuses and nothing else.
        for (other, retold) in [
            (key_of(&acme, "bob", 1, 7), SealedField { subject: acme.subject_ref("bob"), ..sealed.clone() }),
            (key_of(&acme, "ann", 2, 7), SealedField { version: 2, ..sealed.clone() }),
            (key_of(&evil, "ann", 1, 7), SealedField { subject: evil.subject_ref("ann"), ..sealed.clone() }),
        ] {
            assert!(other.open("email", &sealed).is_err());
            assert!(other.open("email", &retold).is_err());
        }
    }

    #[test]
    fn a_wrapped_key_is_bound_to_subject_version_and_tenant() {
        let acme = keys("acme", 1);
        let ann = acme.subject_ref("ann");
        let (key, wrapped) = acme.new_subject_key(ann, 3, &Fixed(7)).unwrap();
        let text = key.seal("email", b"x", &Fixed(9)).unwrap();
        let again = acme.subject_key(ann, 3, &wrapped).unwrap();
        assert_eq!(again.open("email", &SealedField::parse(&text).unwrap()).unwrap().as_slice(), b"x");
        assert!(acme.subject_key(ann, 4, &wrapped).is_err());
        assert!(acme.subject_key(acme.subject_ref("bob"), 3, &wrapped).is_err());
        assert!(keys("acme", 2).subject_key(ann, 3, &wrapped).is_err());
    }

    #[test]
    fn everything_opens_where_the_key_was_taken_along() {
        let acme = keys("acme", 1);
        let ann = acme.subject_ref("ann");
        let (key, wrapped) = acme.new_subject_key(ann, 1, &Fixed(7)).unwrap();
        let text = key.seal("email", b"x", &Fixed(9)).unwrap();
        let moved = PersonalKey::from_bytes(&acme.to_bytes()).unwrap();
        assert_eq!(
            (moved.subject_ref("ann"), moved.field_token("email", b"x")),
            (ann, acme.field_token("email", b"x"))
        );
        let key = moved.subject_key(ann, 1, &wrapped).unwrap();
        assert_eq!(key.open("email", &SealedField::parse(&text).unwrap()).unwrap().as_slice(), b"x");
        assert!(PersonalKey::from_bytes(&[0; KEY_BYTES - 1]).is_err());
        assert!(PersonalKey::from_bytes(&[255; KEY_BYTES + 1]).is_err());
    }

    #[test]
    fn tokens_are_equal_for_equal_values_of_one_field_of_one_tenant_alone() {
        let (acme, evil) = (keys("acme", 1), keys("evil", 2));
        let token = acme.field_token("email", b"ann@example.com");
        assert_eq!(token, acme.field_token("email", b"ann@example.com"));
        assert!(token.starts_with(TOKEN_PREFIX) && token.len() == TOKEN_PREFIX.len() + 32);
        assert_ne!(token, acme.field_token("phone", b"ann@example.com"));
        assert_ne!(token, acme.field_token("emai", b"lann@example.com"));
        assert_ne!(token, evil.field_token("email", b"ann@example.com"));
    }

    #[test]
    fn neither_key_nor_reference_says_who_it_is() {
        let acme = keys("acme", 1);
        assert_eq!(format!("{:?} {acme:?}", key_of(&acme, "ann", 1, 7)), "<subject key> <key of personal data>");
        assert_ne!(acme.subject_ref("ann"), keys("evil", 2).subject_ref("ann"));
        assert_eq!(acme.subject_ref("ann").to_string().len(), 22);
    }

    proptest! {
        #[test]
        fn any_value_survives_and_any_altered_character_is_refused(
            value in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let acme = keys("acme", 1);
            let ann = key_of(&acme, "ann", 1, 7);
            let text = ann.seal("email", &value, &Fixed(9)).unwrap();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\'));
            let opened = ann.open("email", &SealedField::parse(&text).unwrap()).unwrap();
            prop_assert_eq!(opened.as_slice(), value.as_slice());
            let mut altered = text.into_bytes();
            let at = at.index(altered.len());
            altered[at] ^= 1 << bit;
            let opened = String::from_utf8(altered).ok()
                .and_then(|text| SealedField::parse(&text).ok())
                .and_then(|sealed| ann.open("email", &sealed).ok());
            prop_assert!(opened.is_none());
        }
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in ".{0,80}") {
            prop_assert!(SealedField::parse(&garbage).is_err());
            let parsed = SealedField::parse(&format!("{SEALED_PREFIX}{garbage}"));
            let ann = key_of(&keys("acme", 1), "ann", 1, 7);
            prop_assert!(parsed.is_err() || ann.open("email", &parsed.unwrap()).is_err());
        }
    }
}
