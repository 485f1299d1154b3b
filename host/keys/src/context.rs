//! What a key is for, and where a sealed thing belongs: the encryption context that every seal and open is bound to.
//!
//! Must never include the time or anything else that is not stored beside the ciphertext: opening rebuilds it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a purpose key is used for. A thing sealed for one purpose cannot be opened for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Purpose {
    /// Values of the store that have no purpose of their own.
    Record,
    /// Secrets that people give a tenant's plugins.
    Secret,
    /// Segments of key names.
    Name,
    /// Objects, and the contents of large files.
    Blob,
    /// Native code kept by the engine.
    Cache,
    /// Audit events and the pseudonyms in them.
    Audit,
    /// Guest logs.
    Log,
    /// What is kept about backups, the key of the archives with it.
    Backup,
    /// Files of a plugin's own directory.
    File,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Record,
        Self::Secret,
        Self::Name,
        Self::Blob,
        Self::Cache,
        Self::Audit,
        Self::Log,
        Self::Backup,
        Self::File,
    ];

    /// Where it stands in [`Purpose::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The word that goes into key derivation. Part of the format: never changes.
    pub(crate) const fn label(self) -> &'static [u8] {
        match self {
            Self::Record => b"record",
            Self::Secret => b"secret",
            Self::Name => b"name",
            Self::Blob => b"blob",
            Self::Cache => b"cache",
            Self::Audit => b"audit",
            Self::Log => b"log",
            Self::Backup => b"backup",
            Self::File => b"file",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.label()).unwrap_or_default())
    }
}

impl FromStr for Purpose {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|purpose| purpose.label() == text.as_bytes()).ok_or(())
    }
}

/// Where a sealed thing belongs. Opening under any other context fails.
///
/// Encoding, used as associated data and in the derivation of the key: for tenant, store and key in this order the length
/// as 8 bytes big-endian and then the bytes; then the revision as 8 bytes big-endian. No two contexts share an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// Whose it is.
    pub tenant: &'a str,
    /// Which collection it is in.
    pub store: &'a str,
    /// Under which key.
    pub key: &'a [u8],
    /// Which revision of it; 0 where there is only ever one.
    pub revision: u64,
}

impl Context<'_> {
    /// The encoding described at the type.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_after(&[])
    }

    /// The same behind `first`.
    pub(crate) fn encode_after(&self, first: &[u8]) -> Vec<u8> {
        let fields = [self.tenant.as_bytes(), self.store.as_bytes(), self.key];
        let fields_bytes = fields.iter().map(|field| field.len() + 8).sum::<usize>();
        let mut out = Vec::with_capacity(first.len() + fields_bytes + 8);
        out.extend_from_slice(first);
        for field in fields {
            out.extend_from_slice(&(field.len() as u64).to_be_bytes());
            out.extend_from_slice(field);
        }
        out.extend_from_slice(&self.revision.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_cannot_flow_into_each_other() {
        let one = Context { tenant: "ab", store: "c", key: b"", revision: 0 };
        let two = Context { tenant: "a", store: "bc", key: b"", revision: 0 };
        assert_ne!(one.encode(), two.encode());
        assert_eq!(one.encode().len(), 3 * 8 + 3 + 8);
    }

    #[test]
    fn each_purpose_has_its_place_and_its_word() {
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose.index(), at);
            assert_eq!(purpose.to_string().parse(), Ok(purpose));
        }
        assert_eq!("records".parse::<Purpose>(), Err(()));
    }

    proptest! {
        #[test]
        fn different_contexts_have_different_encodings(
            a in ("[ab]{0,3}", "[ab]{0,3}", prop::collection::vec(0_u8..3, 0..4), 0_u64..3),
            b in ("[ab]{0,3}", "[ab]{0,3}", prop::collection::vec(0_u8..3, 0..4), 0_u64..3),
        ) {
            let left = Context { tenant: &a.0, store: &a.1, key: &a.2, revision: a.3 };
            let right = Context { tenant: &b.0, store: &b.1, key: &b.2, revision: b.3 };
            prop_assert_eq!(left == right, left.encode() == right.encode());
        }
    }
}
