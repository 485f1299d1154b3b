//! The root key: opens the host's own key chain, and wraps one key a tenant.
//!
//! The file provider is for development and says so: whoever reads the file reads everything. Must never replace a key
//! that is there, never read one that others can read, and never put its bytes anywhere.
//!
//! A wrapped key is a sealed record (see `record`) under HKDF-Expand(root key, "ringfence/root/v1/wrap"), bound to the
//! tenant, the word `tenant-key` and the root key's id, which is the first 8 bytes of HKDF-Expand(root key,
//! "ringfence/root/v1/id") in hex.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use ringfence_core::Entropy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::derive::{KEY_BYTES, KeyBytes, expand};
use crate::error::KeysError;
use crate::record;
use crate::tenant::{FIRST_VERSION, OpenVersion, TenantKeys};

const WRAP_LABEL: &[u8] = b"ringfence/root/v1/wrap";
const ID_LABEL: &[u8] = b"ringfence/root/v1/id";
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Permission bits that a root key file must not have.
const OTHERS_MODE: u32 = 0o077;
/// LIMIT: no key file is longer than 64 hex digits and a line end; one byte more shows that a file is.
const FILE_BYTES_MAX: u64 = 67;

/// Where the root key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootKeyUri {
    /// In a file that only the host's account can read. For development.
    File(PathBuf),
}

/// How much a root key provider can be trusted to keep its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// The key lies in a file beside the data: for development and tests.
    Development,
}

/// The root key.
pub struct RootKey {
    wrap: KeyBytes,
    id: Box<str>,
    assurance: Assurance,
}

/// A tenant key that only its root key can unwrap, for its tenant alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// Which root key wrapped it.
    root: String,
    /// The sealed record, in base64.
    sealed: String,
}

// === impl RootKeyUri ===

impl FromStr for RootKeyUri {
    type Err = KeysError;
    /// Reads `file:/absolute/path`. Other providers are refused by the name of their scheme alone: the rest of such an
    /// address can hold a PIN or a token.
    fn from_str(text: &str) -> Result<Self, KeysError> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        if scheme != "file" {
            return Err(KeysError::UnknownProvider { scheme: scheme.chars().take(20).collect() });
        }
        let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
        if path.is_absolute() { Ok(Self::File(path.to_owned())) } else { Err(KeysError::RelativePath) }
    }
}

impl fmt::Display for RootKeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

// === impl RootKey ===

impl RootKey {
    /// Opens the root key, or makes one where there is none. Two hosts that start at once end up with the same key.
    pub fn open_or_create(uri: &RootKeyUri, entropy: &dyn Entropy) -> Result<Self, KeysError> {
        match Self::open(uri) {
            Err(KeysError::Missing { .. }) => {}
            opened => return opened,
        }
        let RootKeyUri::File(path) = uri;
        create_file(path, entropy).map_err(|source| KeysError::Io { path: path.clone(), source })?;
        Self::open(uri)
    }

    /// Opens the root key.
    pub fn open(uri: &RootKeyUri) -> Result<Self, KeysError> {
        let RootKeyUri::File(path) = uri;
        Self::from_bytes(&read_file(path)?, Assurance::Development)
    }

    /// Its identifier, which says nothing about the key: 16 hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How well it is kept.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// Makes a new tenant key. Keep the wrapped form: without it, and without this root key, the tenant's data is gone.
    pub fn new_tenant_key(&self, tenant: &str, entropy: &dyn Entropy) -> Result<(TenantKeys, WrappedKey), KeysError> {
        let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
        entropy.fill(key.as_mut_slice());
        let sealed = record::seal(self.wrap.as_slice(), 1, &self.context(tenant), key.as_slice(), entropy)?;
        let wrapped = WrappedKey { root: self.id.clone().into(), sealed: BASE64.encode(&sealed) };
        let first = OpenVersion { version: FIRST_VERSION, purpose: None, key };
        Ok((TenantKeys::derive(tenant, &[first])?, wrapped))
    }

    /// Unwraps the key of this tenant; the wrapped key of another is refused.
    pub fn unwrap_tenant_key(&self, tenant: &str, wrapped: &WrappedKey) -> Result<TenantKeys, KeysError> {
        if wrapped.root != *self.id {
            return Err(KeysError::OtherRootKey {
                wrapped_by: wrapped.root.chars().take(16).collect(),
                at_hand: self.id.clone().into(),
            });
        }
        let sealed = BASE64.decode(wrapped.sealed.as_bytes()).map_err(|_| KeysError::NotAuthentic)?;
        let opened = record::open(self.wrap.as_slice(), &self.context(tenant), &sealed)?;
        let key = opened.as_slice().try_into().map_err(|_| KeysError::NotAuthentic)?;
        let first = OpenVersion { version: FIRST_VERSION, purpose: None, key: Zeroizing::new(key) };
        TenantKeys::derive(tenant, &[first])
    }

    fn from_bytes(key: &KeyBytes, assurance: Assurance) -> Result<Self, KeysError> {
        let id = HEXLOWER.encode(expand::<8>(key.as_slice(), &[ID_LABEL])?.as_slice());
        Ok(Self { wrap: expand(key.as_slice(), &[WRAP_LABEL])?, id: id.into(), assurance })
    }

    fn context<'a>(&'a self, tenant: &'a str) -> Context<'a> {
        Context { tenant, store: "tenant-key", key: self.id.as_bytes(), revision: 0 }
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<root key {}>", self.id)
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<key wrapped by {}>", self.root)
    }
}

// === files ===

fn read_file(path: &Path) -> Result<KeyBytes, KeysError> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeysError::Missing { path: path.to_owned() },
        _ => KeysError::Io { path: path.to_owned(), source },
    };
    // Not blocking, so that a named pipe in the key's place cannot hang the start.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    // Checked on the open file: a name could be moved between check and read.
    let about = file.metadata().map_err(io)?;
    if !about.is_file() || ![0, rustix::process::geteuid().as_raw()].contains(&about.uid()) {
        return Err(KeysError::NotOurs { path: path.to_owned() });
    }
    if about.mode() & OTHERS_MODE != 0 {
        return Err(KeysError::TooOpen { path: path.to_owned(), mode: about.mode() & 0o7777 });
    }
    // With its final capacity from the start, so that growth leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
    parse(&bytes).ok_or_else(|| KeysError::Malformed { path: path.to_owned() })
}

/// 32 raw bytes, or 64 hex digits with or without a line end.
fn parse(bytes: &[u8]) -> Option<KeyBytes> {
    if let Ok(raw) = bytes.try_into() {
        return Some(Zeroizing::new(raw));
    }
    let decoded = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(bytes.trim_ascii_end()).ok()?);
    decoded.as_slice().try_into().ok().map(Zeroizing::new)
}

/// Writes a new key beside its place, makes it durable, then links it in: never a half-written key, never one replaced.
fn create_file(path: &Path, entropy: &dyn Entropy) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(parent)?;
    let mut key = Zeroizing::new([0_u8; KEY_BYTES]);
    entropy.fill(key.as_mut_slice());
    let mut suffix = [0_u8; 8];
    entropy.fill(&mut suffix);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", HEXLOWER.encode(&suffix)));
    let fresh = parent.join(name);
    let linked = write_file(&fresh, &key).and_then(|()| match std::fs::hard_link(&fresh, path) {
        // Someone else was first: his key is the key.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    });
    let removed = std::fs::remove_file(&fresh);
    linked.and(removed)?;
    File::open(parent)?.sync_all()
}

fn write_file(path: &Path, key: &KeyBytes) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    let text = Zeroizing::new(HEXLOWER.encode(key.as_slice()));
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tests::Fixed;
    use crate::{KeysError, Purpose};
    use std::os::unix::fs::PermissionsExt;

    fn root(seed: u8) -> RootKey {
        RootKey::from_bytes(&Zeroizing::new([seed; 32]), Assurance::Development).unwrap()
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) -> RootKeyUri {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        RootKeyUri::File(path.to_owned())
    }

    #[test]
    fn a_missing_key_is_made_once_with_mode_0600_and_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etc/root.key");
        let uri = RootKeyUri::File(path.clone());
        assert!(matches!(RootKey::open(&uri), Err(KeysError::Missing { .. })));
        let first = RootKey::open_or_create(&uri, &Fixed(1)).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        let second = RootKey::open_or_create(&uri, &Fixed(2)).unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(first.assurance(), Assurance::Development);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o644, 0o640, 0o604, 0o660, 0o610] {
            let uri = write(&directory.path().join("root.key"), &[7; 32], mode);
            let error = RootKey::open(&uri).unwrap_err();
            assert!(matches!(error, KeysError::TooOpen { .. }), "{mode:o}");
            assert!(error.to_string().contains("chmod 600"));
            assert!(RootKey::open_or_create(&uri, &Fixed(1)).is_err());
        }
        assert!(RootKey::open(&write(&directory.path().join("root.key"), &[7; 32], 0o400)).is_ok());
    }

    #[test]
    fn raw_and_hex_are_the_same_key_and_anything_else_is_malformed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.key");
        let hex = "07".repeat(32);
        let raw = RootKey::open(&write(&path, &[7; 32], 0o600)).unwrap();
        for same in [hex.clone(), format!("{hex}\n"), format!("{hex}\r\n"), hex.to_uppercase()] {
            assert_eq!(RootKey::open(&write(&path, same.as_bytes(), 0o600)).unwrap().id(), raw.id());
        }
        for wrong in [&b""[..], b"\n", &[7; 31], &[7; 33], &[b'g'; 64], &[b'0'; 63], &[b'0'; 66], &[b'0'; 5000]] {
            assert!(
                matches!(RootKey::open(&write(&path, wrong, 0o600)), Err(KeysError::Malformed { .. })),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_directory_or_a_pipe_is_not_a_key() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            RootKey::open(&RootKeyUri::File(directory.path().to_owned())),
            Err(KeysError::NotOurs { .. })
        ));
    }

    #[test]
    fn an_address_of_another_provider_is_refused_without_repeating_its_pin() {
        let error = "pkcs11:token=ringfence?pin-value=1234".parse::<RootKeyUri>().unwrap_err().to_string();
        assert_eq!(error, "`pkcs11:` is not a root key provider of this host: use `file:/path/to/root.key`");
        assert!(matches!("file:root.key".parse::<RootKeyUri>(), Err(KeysError::RelativePath)));
        assert!(matches!("".parse::<RootKeyUri>(), Err(KeysError::UnknownProvider { .. })));
        for good in ["file:/etc/ringfence/root.key", "file:///etc/ringfence/root.key"] {
            assert_eq!(good.parse::<RootKeyUri>().unwrap().to_string(), "file:/etc/ringfence/root.key");
        }
    }

    #[test]
    fn a_wrapped_key_opens_for_its_tenant_and_its_root_key_only() {
        let here = Context { tenant: "acme", store: "kv", key: b"k", revision: 1 };
        let (keys, wrapped) = root(1).new_tenant_key("acme", &Fixed(9)).unwrap();
        let sealed = keys.seal(Purpose::Record, &here, b"v", &Fixed(2)).unwrap();
        let stored = serde_json::to_string(&wrapped).unwrap();
        let again: WrappedKey = serde_json::from_str(&stored).unwrap();
        let unwrapped = root(1).unwrap_tenant_key("acme", &again).unwrap();
        assert_eq!(unwrapped.open(Purpose::Record, &here, &sealed).unwrap().as_slice(), b"v");
        assert!(matches!(root(1).unwrap_tenant_key("evil", &again), Err(KeysError::NotAuthentic)));
        assert!(matches!(root(2).unwrap_tenant_key("acme", &again), Err(KeysError::OtherRootKey { .. })));
        let lied = WrappedKey { root: root(2).id().to_owned(), ..again };
        assert!(matches!(root(2).unwrap_tenant_key("acme", &lied), Err(KeysError::NotAuthentic)));
    }

    #[test]
    fn every_altered_byte_of_a_wrapped_key_is_refused() {
        let (_, wrapped) = root(1).new_tenant_key("acme", &Fixed(9)).unwrap();
        let sealed = BASE64.decode(wrapped.sealed.as_bytes()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let altered = WrappedKey { root: wrapped.root.clone(), sealed: BASE64.encode(&altered) };
            assert!(root(1).unwrap_tenant_key("acme", &altered).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn debug_prints_no_key() {
        let (_, wrapped) = root(1).new_tenant_key("acme", &Fixed(9)).unwrap();
        let printed = format!("{:?} {wrapped:?}", root(1));
        assert_eq!(printed, format!("<root key {id}> <key wrapped by {id}>", id = root(1).id()));
    }
}
