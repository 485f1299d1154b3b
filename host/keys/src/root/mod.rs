//! The root key: opens the host's own key chain, and wraps the versions of every tenant key.
//!
//! A tenant key is wrapped twice where the provider has keys to spare: by a wrapping key of the tenant's own, then by the
//! root key. The first makes deletion reach every copy of the data directory (it was never in one), the second makes a
//! rotation of the root key possible without touching anything of the tenants. A tenant that keeps a key itself has a third
//! layer, the innermost (`own.rs`). Must never put key bytes anywhere.

mod awskms;
mod file;
mod http;
mod own;
mod pkcs11;
mod provider;
mod sigv4;
mod uri;
mod vault;

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use ringfence_core::Entropy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::context::Purpose;
use crate::derive::KEY_BYTES;
use crate::error::KeysError;
use crate::tenant::{FIRST_VERSION, OpenVersion, TenantKeys};
pub use file::MissingRootKey;
use own::{OwnKeys, own};
pub use provider::{Assurance, AwsCredentials, Outside, Shredding};
use provider::{Bound, RootKeyProvider, With};
pub use uri::{AwsKmsUri, Pkcs11Uri, RootKeyUri, VaultUri};

const SHARD_BYTES: usize = 16;

/// The root key. Its calls may block for a round trip to where the key is.
pub struct RootKey {
    provider: Box<dyn RootKeyProvider>,
    scheme: &'static str,
    own: Option<OwnKeys>,
}

/// The versions of a tenant key that only its root key can unwrap, for its tenant alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct WrappedKey {
    /// The name of the tenant's own wrapping key; empty where there is none.
    shard: String,
    /// Ascending by number. INVARIANT: never empty, begins with 1.
    versions: Vec<WrappedVersion>,
}

/// One version of a tenant key, wrapped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedVersion {
    version: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<Purpose>,
    /// Which key of the tenant's own wrapped it first; none where the tenant keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own: Option<String>,
    /// Which root key wrapped it.
    root: String,
    /// What came out of it, in base64.
    sealed: String,
}

/// What a version of a tenant's key is wrapped in, beside the root key.
struct Layers<'a> {
    tenant: &'a str,
    /// The name of its wrapping key; empty where there is none.
    shard: &'a str,
    /// The provider of a key of its own.
    own: Option<&'a dyn RootKeyProvider>,
}

/// What lies on disk: the form of today, or the one from before there were versions.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Versions(StoredVersions),
    First(StoredFirst),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVersions {
    shard: String,
    versions: Vec<WrappedVersion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFirst {
    root: String,
    sealed: String,
}

/// What can be said about one version of a tenant key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVersion {
    /// Its number.
    pub version: u8,
    /// What it is for; everything when none.
    pub purpose: Option<Purpose>,
    /// Identifier of the root key that wraps it.
    pub root: String,
}

// === impl WrappedKey ===

impl WrappedKey {
    /// Its versions, ascending.
    pub fn versions(&self) -> Vec<KeyVersion> {
        let about = |wrapped: &WrappedVersion| KeyVersion {
            version: wrapped.version,
            purpose: wrapped.purpose,
            root: wrapped.root.clone(),
        };
        self.versions.iter().map(about).collect()
    }

    /// Versions that newer ones stand in for in all they are for. The first is never among them: names stay under it.
    pub fn superseded(&self) -> Vec<u8> {
        let newer = |version: &WrappedVersion, purpose: Purpose| {
            self.versions.iter().any(|other| other.version > version.version && other.covers(purpose))
        };
        let old = self.versions.iter().filter(|version| {
            version.version != FIRST_VERSION
                && Purpose::ALL.into_iter().all(|purpose| !version.covers(purpose) || newer(version, purpose))
        });
        old.map(|version| version.version).collect()
    }

    /// Whether a version is for a purpose; not, when there is no such version.
    pub fn covers(&self, version: u8, purpose: Purpose) -> bool {
        self.versions.iter().any(|known| known.version == version && known.covers(purpose))
    }

    /// The same key without some of its superseded versions; others are not left out, whatever is asked.
    #[must_use]
    pub fn without(&self, versions: &[u8]) -> Self {
        let gone: Vec<u8> = self.superseded().into_iter().filter(|version| versions.contains(version)).collect();
        let kept = self.versions.iter().filter(|version| !gone.contains(&version.version));
        Self { shard: self.shard.clone(), versions: kept.cloned().collect() }
    }

    /// The name of the tenant's own wrapping key at the provider, 32 hex digits; none where there is none.
    pub fn wrapping_key(&self) -> Option<&str> {
        Some(self.shard.as_str()).filter(|name| !name.is_empty())
    }

    /// Identifier of the key that the tenant keeps itself; none when it keeps none.
    pub fn own(&self) -> Option<&str> {
        self.versions.last().and_then(|last| last.own.as_deref())
    }

    /// Whether the tenant has a wrapping key of its own, so that deleting reaches old copies.
    pub fn shredding(&self) -> Shredding {
        if self.shard.is_empty() { Shredding::ThisCopyOnly } else { Shredding::OldCopiesToo }
    }
}

impl WrappedVersion {
    fn covers(&self, purpose: Purpose) -> bool {
        self.purpose.is_none_or(|only| only == purpose)
    }
}

impl TryFrom<Stored> for WrappedKey {
    type Error = &'static str;
    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let (shard, versions) = match stored {
            Stored::Versions(StoredVersions { shard, versions }) => (shard, versions),
            Stored::First(StoredFirst { root, sealed }) => {
                (String::new(), vec![WrappedVersion { version: FIRST_VERSION, purpose: None, own: None, root, sealed }])
            }
        };
        let ascending = versions.windows(2).all(|pair| matches!(pair, [a, b] if a.version < b.version));
        // All or none: a version without the tenant's own layer would open without the tenant.
        let own = versions.iter().all(|version| version.own.is_some()) || versions.iter().all(|v| v.own.is_none());
        let named =
            shard.is_empty() || (shard.len() == 2 * SHARD_BYTES && shard.bytes().all(|b| b.is_ascii_hexdigit()));
        if versions.first().is_some_and(|first| first.version == FIRST_VERSION) && ascending && named && own {
            Ok(Self { shard, versions })
        } else {
            Err("not a wrapped key")
        }
    }
}

// === impl RootKey ===

impl RootKey {
    /// Opens the root key of any provider. Blocks; [`KeysError::is_transient`] says whether trying again may help.
    pub fn connect(uri: &RootKeyUri, missing: MissingRootKey, outside: &Outside) -> Result<Self, KeysError> {
        Ok(Self { provider: own::connect(uri, missing, outside)?, scheme: uri.scheme(), own: None })
    }

    /// The same, for tenants of which some may keep a key themselves: by tenant, where the operator allows it to be.
    #[must_use]
    pub fn with_own(self, allowed: BTreeMap<String, RootKeyUri>, outside: Outside) -> Self {
        Self { own: Some(OwnKeys::new(allowed, outside)), ..self }
    }

    /// The scheme of the provider at which a tenant may keep a key itself; none when it may not.
    pub fn own_allowed(&self, tenant: &str) -> Option<&'static str> {
        self.own.as_ref().and_then(|own| own.scheme(tenant))
    }

    /// Opens the root key in a file, or makes one where there is none; other providers need [`RootKey::connect`].
    pub fn open_or_create(uri: &RootKeyUri, entropy: &dyn Entropy) -> Result<Self, KeysError> {
        let RootKeyUri::File(path) = uri else {
            return Err(KeysError::UnknownProvider { scheme: uri.scheme().to_owned() });
        };
        let provider = Box::new(file::FileProvider::open(path, MissingRootKey::Create, entropy)?);
        Ok(Self { provider, scheme: uri.scheme(), own: None })
    }

    /// Its identifier, which says nothing about the key.
    pub fn id(&self) -> String {
        self.provider.id()
    }

    /// The provider's scheme.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Whether there was none, and opening it made one: whoever runs the host has to keep it from now on.
    pub fn was_made(&self) -> bool {
        self.provider.was_made()
    }

    /// How well it is kept.
    pub fn assurance(&self) -> Assurance {
        self.provider.assurance()
    }

    /// What deleting a tenant does to older copies of the data directory.
    pub fn shredding(&self) -> Shredding {
        self.provider.shredding()
    }

    /// Makes a new tenant key, with a wrapping key of its own where the provider has such. Keep the wrapped form: without
    /// it, and without this root key, the tenant's data is gone.
    pub fn new_tenant_key(&self, tenant: &str, entropy: &dyn Entropy) -> Result<(TenantKeys, WrappedKey), KeysError> {
        let shard = match self.provider.shredding() {
            Shredding::ThisCopyOnly => String::new(),
            Shredding::OldCopiesToo => {
                let mut name = [0_u8; SHARD_BYTES];
                entropy.fill(&mut name);
                let name = HEXLOWER.encode(&name);
                self.provider.make_shard(&name, entropy)?;
                name
            }
        };
        let layers = Layers { tenant, shard: &shard, own: None };
        let made = self.new_version(&layers, FIRST_VERSION, None, entropy).and_then(|(open, wrapped)| {
            Ok((TenantKeys::derive(tenant, &[open])?, WrappedKey { shard: shard.clone(), versions: vec![wrapped] }))
        });
        if made.is_err() && !shard.is_empty() {
            // The first failure is the one to tell.
            let _ = self.provider.destroy_shard(&shard);
        }
        made
    }

    /// Unwraps the key of this tenant; the wrapped key of another is refused.
    pub fn unwrap_tenant_key(&self, tenant: &str, wrapped: &WrappedKey) -> Result<TenantKeys, KeysError> {
        TenantKeys::derive(tenant, &self.unwrap_all(tenant, wrapped)?)
    }

    /// The same key with one more version, for one purpose or all. Keep it, then [`TenantKeys::adopt`] what it unwraps to.
    pub fn add_version(
        &self,
        tenant: &str,
        wrapped: &WrappedKey,
        purpose: Option<Purpose>,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeysError> {
        let newest = wrapped.versions.last().map_or(0, |last| last.version);
        let version = newest.checked_add(1).ok_or(KeysError::TooManyVersions)?;
        let own = wrapped.own().map(|_| self.own_provider(tenant)).transpose()?;
        let layers = Layers { tenant, shard: &wrapped.shard, own: own.as_deref() };
        let (_, added) = self.new_version(&layers, version, purpose, entropy)?;
        let mut versions = wrapped.versions.clone();
        versions.push(added);
        Ok(WrappedKey { shard: wrapped.shard.clone(), versions })
    }

    /// The same key with the newest key of the tenant's own as its innermost layer; fine when it has one already. From then
    /// on nothing of the tenant opens without the provider that it rules.
    pub fn take_own(&self, tenant: &str, wrapped: &WrappedKey, entropy: &dyn Entropy) -> Result<WrappedKey, KeysError> {
        let own = self.own_provider(tenant)?;
        self.wrap_all(&Layers { tenant, shard: &wrapped.shard, own: Some(&*own) }, wrapped, entropy)
    }

    /// The same key without a layer of the tenant's own. Needs its provider once more.
    pub fn give_up_own(
        &self,
        tenant: &str,
        wrapped: &WrappedKey,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeysError> {
        self.wrap_all(&Layers { tenant, shard: &wrapped.shard, own: None }, wrapped, entropy)
    }

    /// The same key wrapped by the newest version of the root key; none when it is already.
    pub fn rewrap(
        &self,
        tenant: &str,
        wrapped: &WrappedKey,
        entropy: &dyn Entropy,
    ) -> Result<Option<WrappedKey>, KeysError> {
        let newest = self.provider.id();
        if self.scheme != "awskms" && wrapped.versions.iter().all(|version| version.root == newest) {
            return Ok(None);
        }
        let mut versions = Vec::with_capacity(wrapped.versions.len());
        for old in &wrapped.versions {
            let bound = Bound { tenant, version: old.version };
            let inner = self.outer_layer(&bound, old)?;
            let encrypted = self.provider.encrypt(With::Root, &bound, &inner, entropy)?;
            versions.push(WrappedVersion {
                root: encrypted.by,
                sealed: BASE64.encode(&encrypted.bytes),
                ..old.clone()
            });
        }
        Ok(Some(WrappedKey { shard: wrapped.shard.clone(), versions }))
    }

    /// Destroys the tenant's own wrapping key: no copy of `wrapped` can be unwrapped from then on. Fine to call twice.
    /// Says what that reaches.
    pub fn destroy_tenant_key(&self, wrapped: &WrappedKey) -> Result<Shredding, KeysError> {
        if !wrapped.shard.is_empty() {
            self.provider.destroy_shard(&wrapped.shard)?;
        }
        Ok(wrapped.shredding())
    }

    /// Makes a new version of the root key, which wraps from now on; older ones still unwrap.
    pub fn rotate(&self, entropy: &dyn Entropy) -> Result<String, KeysError> {
        self.provider.rotate(entropy)?;
        Ok(self.provider.id())
    }

    /// Fails with [`KeysError::Unreachable`] while a rotation that an earlier [`RootKey::rotate`] asked for is in progress at the
    /// provider: nothing that is wrapped before its end is wrapped by the newest version for sure.
    pub fn check_rotated(&self) -> Result<(), KeysError> {
        self.provider.check_rotated()
    }

    /// Everything is wrapped by the newest version: forgets the older ones where the provider lets us.
    pub fn retire(&self) -> Result<(), KeysError> {
        self.provider.retire()
    }

    fn own_provider(&self, tenant: &str) -> Result<std::sync::Arc<dyn RootKeyProvider>, KeysError> {
        self.own.as_ref().ok_or(KeysError::OwnNotAllowed)?.provider(tenant)
    }

    /// All versions, in other layers.
    fn wrap_all(
        &self,
        layers: &Layers<'_>,
        wrapped: &WrappedKey,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeysError> {
        let open = self.unwrap_all(layers.tenant, wrapped)?;
        let versions = open.iter().map(|open| self.wrap(layers, open, entropy)).collect::<Result<_, _>>()?;
        Ok(WrappedKey { shard: wrapped.shard.clone(), versions })
    }

    fn new_version(
        &self,
        layers: &Layers<'_>,
        version: u8,
        purpose: Option<Purpose>,
        entropy: &dyn Entropy,
    ) -> Result<(OpenVersion, WrappedVersion), KeysError> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        entropy.fill(key.as_mut_slice());
        let open = OpenVersion { version, purpose, key };
        let wrapped = self.wrap(layers, &open, entropy)?;
        Ok((open, wrapped))
    }

    /// Wraps one version, from the innermost layer to the outermost.
    fn wrap(
        &self,
        layers: &Layers<'_>,
        open: &OpenVersion,
        entropy: &dyn Entropy,
    ) -> Result<WrappedVersion, KeysError> {
        let &OpenVersion { version, purpose, .. } = open;
        let bound = Bound { tenant: layers.tenant, version };
        let mut own_id = None;
        let mut inner = Zeroizing::new(open.key.to_vec());
        if let Some(provider) = layers.own {
            let encrypted = provider.encrypt(With::Root, &bound, &inner, entropy).map_err(own)?;
            (own_id, inner) = (Some(encrypted.by), Zeroizing::new(encrypted.bytes));
        }
        if !layers.shard.is_empty() {
            inner = Zeroizing::new(self.provider.encrypt(With::Shard(layers.shard), &bound, &inner, entropy)?.bytes);
        }
        let outer = self.provider.encrypt(With::Root, &bound, &inner, entropy)?;
        let sealed = BASE64.encode(&outer.bytes);
        Ok(WrappedVersion { version, purpose, own: own_id, root: outer.by, sealed })
    }

    fn unwrap_all(&self, tenant: &str, wrapped: &WrappedKey) -> Result<Vec<OpenVersion>, KeysError> {
        let open = |version: &WrappedVersion| {
            let bound = Bound { tenant, version: version.version };
            let inner = self.outer_layer(&bound, version)?;
            let inner = match wrapped.shard.as_str() {
                "" => inner,
                shard => self.provider.decrypt(With::Shard(shard), &bound, &version.root, &inner)?,
            };
            let key = match &version.own {
                None => inner,
                Some(by) => self.own_provider(tenant)?.decrypt(With::Root, &bound, by, &inner).map_err(own)?,
            };
            let key = key.as_slice().try_into().map_err(|_| KeysError::NotAuthentic)?;
            Ok(OpenVersion { version: version.version, purpose: version.purpose, key: Zeroizing::new(key) })
        };
        wrapped.versions.iter().map(open).collect()
    }

    fn outer_layer(&self, bound: &Bound<'_>, version: &WrappedVersion) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let sealed = BASE64.decode(version.sealed.as_bytes()).map_err(|_| KeysError::NotAuthentic)?;
        self.provider.decrypt(With::Root, bound, &version.root, &sealed)
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<root key {}>", self.id())
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.versions.last().map(|last| last.root.as_str()).unwrap_or_default();
        write!(f, "<key wrapped by {root}>")
    }
}

#[cfg(test)]
mod tests;
