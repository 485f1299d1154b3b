//! What every root key provider can do, whatever it is made of.
//!
//! Must never hand out the root key itself; a provider encrypts and decrypts a few bytes for a stated context.

use std::fmt;
use std::sync::Arc;

use ringfence_core::{Clock, Entropy};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::KeysError;
use crate::secret::Secret;

/// How much a root key provider can be trusted to keep its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// The key lies in a file: for development and tests.
    Development,
    /// A service elsewhere keeps the key and lets us use it.
    Service,
    /// A token keeps the key; nobody can read it out.
    Hardware,
}

/// What deleting a tenant does to copies of the data directory that were made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shredding {
    /// They cannot be opened any more: the tenant's own wrapping key, which was never in them, is destroyed.
    OldCopiesToo,
    /// They can still be opened by whoever has them and may use the root key.
    ThisCopyOnly,
}

/// Which key of the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With<'a> {
    /// The root key; its newest version to encrypt, whichever it was to decrypt.
    Root,
    /// A tenant's own wrapping key, by its random name of 32 hex digits.
    Shard(&'a str),
}

/// What the encrypted bytes belong to: they decrypt for the same only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound<'a> {
    /// The tenant's name.
    pub(crate) tenant: &'a str,
    /// The version of the tenant key.
    pub(crate) version: u8,
}

/// Bytes that a provider encrypted.
pub(crate) struct Encrypted {
    /// Which version of the key did it.
    pub(crate) by: String,
    pub(crate) bytes: Vec<u8>,
}

/// A root key provider. Calls block: a few microseconds for a file, a round trip for a service, which is given 10 s.
pub(crate) trait RootKeyProvider: Send + Sync {
    /// Identifier of the newest root key version. Says nothing about the key.
    fn id(&self) -> String;
    fn assurance(&self) -> Assurance;
    fn shredding(&self) -> Shredding;
    /// Whether there was no root key, and opening this provider made one.
    fn was_made(&self) -> bool {
        false
    }
    fn encrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Encrypted, KeysError>;
    fn decrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        by: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError>;
    /// Makes a tenant's own wrapping key; only asked for when [`Shredding::OldCopiesToo`].
    fn make_shard(&self, shard: &str, entropy: &dyn Entropy) -> Result<(), KeysError>;
    /// Destroys one for good; fine when there is none.
    fn destroy_shard(&self, shard: &str) -> Result<(), KeysError>;
    /// Makes a new version of the root key: from now on it encrypts, and older ones still decrypt.
    /// [`KeysError::Refused`] says that nothing was changed.
    fn rotate(&self, entropy: &dyn Entropy) -> Result<(), KeysError>;
    /// Fails with [`KeysError::Unreachable`] while a rotation that was asked for is in progress: what is encrypted before its end
    /// may be under the older version. Does not wait for it.
    fn check_rotated(&self) -> Result<(), KeysError> {
        Ok(())
    }
    /// Nothing needs the older versions any more: forgets them where the provider lets us.
    fn retire(&self) -> Result<(), KeysError>;
}

/// What the composition root lends the providers: dice, the clock that requests are signed with, and credentials.
#[derive(Clone)]
pub struct Outside {
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Credentials of AWS from the environment, where there are any.
    pub aws: Option<AwsCredentials>,
}

/// Credentials of AWS.
#[derive(Clone)]
pub struct AwsCredentials {
    /// The access key's id, which is not secret.
    pub access_key: String,
    /// The access key.
    pub secret_key: Secret<String>,
    /// The session token of temporary credentials.
    pub session_token: Option<Secret<String>>,
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<credentials {}>", self.access_key)
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<outside>")
    }
}
