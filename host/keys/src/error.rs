//! What can go wrong with keys, in words that say nothing about the keys.
//!
//! Must never carry key bytes, plaintext, or the part of a root key address that may hold a PIN.

use std::io;
use std::path::PathBuf;

use ringfence_core::Blame;

use crate::tenant::Closed;

/// A failure of the keys room.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Sealed bytes were altered, cut, or belong to another tenant, store, key or revision.
    #[error("sealed data is altered or belongs elsewhere")]
    NotAuthentic,
    /// The address of a root key names a provider that is not there.
    #[error("`{scheme}:` is not a root key provider of this host: use `file:`, `pkcs11:`, `vault:` or `awskms:`")]
    UnknownProvider {
        /// The part before the first colon, cut to a few characters.
        scheme: String,
    },
    /// The address of a root key cannot be read.
    #[error("not an address of a root key, `{scheme}:`: {why}")]
    BadUri {
        /// The part before the first colon.
        scheme: &'static str,
        /// What is wrong, without repeating any of it.
        why: &'static str,
    },
    /// The root key provider does not answer; it may later.
    #[error("the root key provider `{provider}:` cannot be reached: {reason}")]
    Unreachable {
        /// Its scheme.
        provider: &'static str,
        /// What was seen.
        reason: String,
    },
    /// The root key provider answers no.
    #[error("the root key provider `{provider}:` refuses: {reason}")]
    Refused {
        /// Its scheme.
        provider: &'static str,
        /// What it said.
        reason: String,
    },
    /// The wrapping key of this tenant, kept by the root key provider, is not there: it was destroyed.
    #[error("the wrapping key of this tenant is not with the root key provider")]
    ShardGone,
    /// The operator allows this tenant no key of its own, or no longer.
    #[error("the operator of this host has allowed this tenant no key of its own")]
    OwnNotAllowed,
    /// The provider that a tenant chose for a key of its own does not open it.
    #[error("the key that the tenant keeps itself does not open: {0}")]
    Own(#[source] Box<Self>),
    /// A tenant key has as many versions as it can have.
    #[error("this key has 255 versions, and no more can be told apart")]
    TooManyVersions,
    /// The address of a file root key is not an absolute path.
    #[error("the address of a root key file must be absolute, such as `file:/etc/ringfence/root.key`")]
    RelativePath,
    /// There is no root key file.
    #[error("there is no root key at `{}`", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The root key file can be read by others.
    #[error("the root key at `{}` has mode {mode:04o}: others must not read it, run `chmod 600 {}`", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The root key file belongs to another account, or is not a plain file.
    #[error("the root key at `{}` must be a plain file of the account that runs the host", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The root key file holds something else than a key.
    #[error("the root key at `{}` must be 32 bytes, raw or as 64 hex digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The root key file could not be read or written.
    #[error("the root key at `{}` is out of reach: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A tenant key was wrapped by another root key than the one at hand.
    #[error("wrapped by root key {wrapped_by}, but the root key at hand is {at_hand}")]
    OtherRootKey {
        /// Identifier of the root key that wrapped it.
        wrapped_by: String,
        /// Identifier of the root key that was asked to unwrap it.
        at_hand: String,
    },
    /// The keys are disabled, refused by the tenant's own provider, or destroyed.
    #[error("the keys of this tenant are {}", closed_word(*.0))]
    Closed(Closed),
    /// A signature does not fit message and public key.
    #[error("the signature does not fit")]
    BadSignature,
    /// Bytes that should be an Ed25519 key are something else.
    #[error("not an Ed25519 signing key")]
    BadSigningKey,
    /// A certificate of a workload, or the authority behind it, cannot be made.
    #[error("no certificate of a workload: {0}")]
    BadSvid(&'static str),
    /// A text that should be the printed form of a backup key is something else, or has a slip of the pen.
    #[error("not a recovery key: it begins with `rfbk1-` and every character counts")]
    NotARecoveryKey,
    /// A record or stream is over the hard limit of the cipher.
    #[error("too long to seal")]
    TooLong,
    /// The cipher library refused, which correct lengths cannot cause.
    #[error("the cipher library refused")]
    Cipher,
}

impl KeysError {
    /// Whether the provider may answer later without anybody changing anything here: a token that is being renewed and a
    /// server that is being unsealed look alike.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { .. } | Self::Io { .. })
    }

    /// Whether the provider of a tenant's own key says no, rather than nothing.
    pub fn is_own_refusal(&self) -> bool {
        match self {
            Self::OwnNotAllowed => true,
            Self::Own(why) => !matches!(**why, Self::Unreachable { .. } | Self::Io { .. }),
            _ => false,
        }
    }

    /// Whether it is about a tenant's own key, and so about that tenant alone.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::OwnNotAllowed | Self::Own(_))
    }

    /// Whose fault it is. Always the host's: no caller reaches a key.
    pub fn blame(&self) -> Blame {
        Blame::Host
    }
}

fn closed_word(why: Closed) -> &'static str {
    match why {
        Closed::Disabled => "disabled",
        Closed::Refused => "not opened by the provider it chose",
        Closed::Destroyed => "destroyed",
    }
}
