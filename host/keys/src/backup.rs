//! The backup key of a tenant: seals its archives, and nothing else.
//!
//! A random key of its own, not one derived from the tenant key: an archive must open after the tenant key was rotated,
//! and its owner may take this key away (as printable text) without taking the tenant key. Must never be kept anywhere but
//! in a sealed record of its tenant, so that destroying the tenant key takes it along.
//!
//! Derivation, HKDF-Expand-SHA-256 over the 32 random bytes: seal key "ringfence/backup/v1/seal" (32 bytes), id
//! "ringfence/backup/v1/id" (8 bytes, public). Printed form: `rfbk1-`, then base32 (RFC 4648, lower case, no padding) of the
//! 32 bytes and the first 4 bytes of the id, which show a slip of the pen.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::derive::{DerivingKey, KEY_BYTES, KeyBytes, expand};
use crate::error::KeysError;
use crate::secret::Secret;
use crate::stream::{Keys, OWN_VERSION, StreamOpener, StreamSealer};

const SEAL_LABEL: &[u8] = b"ringfence/backup/v1/seal";
const ID_LABEL: &[u8] = b"ringfence/backup/v1/id";
const ID_BYTES: usize = 8;
const CHECK_BYTES: usize = 4;
const PREFIX: &str = "rfbk1-";

/// The key of a tenant's archives. Zeroed on drop.
#[derive(Clone)]
pub struct BackupKey {
    bytes: KeyBytes,
    seal: KeyBytes,
    id: [u8; ID_BYTES],
}

impl BackupKey {
    /// A new one.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, KeysError> {
        let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
        entropy.fill(bytes.as_mut_slice());
        Self::new(bytes)
    }

    /// Reads the bytes of [`BackupKey::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeysError> {
        Self::new(Zeroizing::new(bytes.try_into().map_err(|_| KeysError::NotAuthentic)?))
    }

    /// The key's bytes. SECURITY: for the value of a sealed record of its tenant, nowhere else.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.bytes.to_vec())
    }

    /// The key as text that its tenant can write down. SECURITY: for the one answer that the tenant asked for.
    pub fn to_text(&self) -> Secret<String> {
        let check = self.id.get(..CHECK_BYTES).unwrap_or_default();
        let all = Zeroizing::new([self.bytes.as_slice(), check].concat());
        let text = Zeroizing::new(BASE32_NOPAD.encode(&all));
        Secret::new(format!("{PREFIX}{}", Zeroizing::new(text.to_ascii_lowercase()).as_str()))
    }

    /// Which key it is, 16 hex digits; says nothing about the key.
    pub fn id(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// Starts sealing an archive whose head is `head`: nothing of the stream opens under any other head.
    pub fn sealer(&self, head: &[u8], entropy: &dyn Entropy) -> Result<StreamSealer, KeysError> {
        StreamSealer::new(&DerivingKey::new(self.seal.as_slice()), OWN_VERSION, &context(head), entropy)
    }

    /// Starts opening an archive whose head is `head`.
    pub fn opener(&self, head: &[u8]) -> StreamOpener {
        StreamOpener::new(Keys::Own(self.seal.clone()), &context(head))
    }

    fn new(bytes: KeyBytes) -> Result<Self, KeysError> {
        let id = *expand::<ID_BYTES>(bytes.as_slice(), &[ID_LABEL])?;
        Ok(Self { seal: expand(bytes.as_slice(), &[SEAL_LABEL])?, id, bytes })
    }
}

impl FromStr for BackupKey {
    type Err = KeysError;
    /// Reads the printed form; a slip of the pen is found.
    fn from_str(text: &str) -> Result<Self, KeysError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(KeysError::NotARecoveryKey)?;
        let upper = Zeroizing::new(body.to_ascii_uppercase());
        let all = Zeroizing::new(BASE32_NOPAD.decode(upper.as_bytes()).map_err(|_| KeysError::NotARecoveryKey)?);
        let (bytes, check) = all.split_first_chunk::<KEY_BYTES>().ok_or(KeysError::NotARecoveryKey)?;
        let key = Self::new(Zeroizing::new(*bytes))?;
        if key.id.get(..CHECK_BYTES) == Some(check) { Ok(key) } else { Err(KeysError::NotARecoveryKey) }
    }
}

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<backup key {}>", self.id())
    }
}

fn context(head: &[u8]) -> Context<'_> {
    Context { tenant: "", store: "backup", key: head, revision: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;

    fn key(seed: u8) -> BackupKey {
        BackupKey::generate(&Fixed(seed)).unwrap()
    }

    fn seal(key: &BackupKey, head: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sealer = key.sealer(head, &Fixed(9)).unwrap();
        sealer.push(b"forty-two", &mut out).unwrap();
        sealer.finish(&mut out).unwrap();
        out
    }

    fn open(key: &BackupKey, head: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KeysError> {
        let mut out = Vec::new();
        let mut opener = key.opener(head);
        opener.push(sealed, &mut out)?;
        opener.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn an_archive_opens_under_its_key_and_its_head_only() {
        let sealed = seal(&key(1), b"head");
        assert_eq!(open(&key(1), b"head", &sealed).unwrap(), b"forty-two");
        assert!(open(&key(1), b"heat", &sealed).is_err());
        assert!(open(&key(2), b"head", &sealed).is_err());
        let again = BackupKey::from_bytes(&key(1).to_bytes()).unwrap();
        assert_eq!(open(&again, b"head", &sealed).unwrap(), b"forty-two");
    }

    #[test]
    fn the_printed_form_survives_and_every_slip_of_the_pen_is_found() {
        let text = key(1).to_text();
        let text = text.expose();
        let read: BackupKey = text.parse().unwrap();
        assert_eq!(read.id(), key(1).id());
        assert_eq!(
            format!(" {}\n", text.to_ascii_uppercase().replacen("RFBK1-", "rfbk1-", 1))
                .parse::<BackupKey>()
                .unwrap()
                .id(),
            read.id()
        );
        for at in PREFIX.len()..text.len() {
            let mut altered = text.to_owned().into_bytes();
            altered[at] = if altered[at] == b'a' { b'b' } else { b'a' };
            assert!(String::from_utf8(altered).unwrap().parse::<BackupKey>().is_err(), "{at}");
            assert!(text[..at].parse::<BackupKey>().is_err());
        }
        assert!(format!("{text}a").parse::<BackupKey>().is_err());
    }

    #[test]
    fn debug_prints_no_key() {
        assert_eq!(format!("{:?}", key(1)), format!("<backup key {}>", key(1).id()));
    }
}
