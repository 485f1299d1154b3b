//! The root key in a file, for development: whoever reads the file reads everything.
//!
//! Must never replace a key that is there but by a rotation, never read one that others can read, and never put its bytes
//! anywhere.
//!
//! Beside the file `root.key` lies the directory `root.key.tenants`, with one wrapping key a tenant (32 bytes in hex): a
//! copy of the data directory does not hold them, so that destroying one destroys the copies of that tenant too. During a
//! rotation the newer key lies in `root.key.next`; the older one ends in `root.key.retired`, overwritten.
//!
//! What the root key encrypts is a sealed record (see `record`) under HKDF-Expand(root key, "ringfence/root/v1/wrap"), bound
//! to the tenant, the word `tenant-key`, the root key's id (the first 8 bytes of HKDF-Expand(root key,
//! "ringfence/root/v1/id") in hex) and the version of the tenant key less one. What a tenant's own wrapping key encrypts is
//! one under HKDF-Expand(wrapping key, "ringfence/shard/v1/wrap"), bound to the tenant, the word `tenant-shard`, the wrapping
//! key's name and the same number.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ringfence_core::Entropy;
use zeroize::Zeroizing;

use super::provider::{Assurance, Bound, Encrypted, RootKeyProvider, Shredding, With};
use crate::context::Context;
use crate::derive::{DerivingKey, KEY_BYTES, KeyBytes, expand};
use crate::error::KeysError;
use crate::record;

const WRAP_LABEL: &[u8] = b"ringfence/root/v1/wrap";
const ID_LABEL: &[u8] = b"ringfence/root/v1/id";
const SHARD_LABEL: &[u8] = b"ringfence/shard/v1/wrap";
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Permission bits that a root key file must not have.
const OTHERS_MODE: u32 = 0o077;
/// LIMIT: no key file is longer than 64 hex digits and a line end; one byte more shows that a file is.
const FILE_BYTES_MAX: u64 = 67;
/// The key chain's own records have no tenant key above them.
const CHAIN_VERSION: u8 = 1;

/// The root key in a file.
pub(super) struct FileProvider {
    path: PathBuf,
    /// The newest first. INVARIANT: never empty.
    keys: RwLock<Vec<FileKey>>,
    was_made: bool,
}

#[derive(Clone)]
struct FileKey {
    id: String,
    wrap: KeyBytes,
}

/// What to do without a root key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingRootKey {
    /// Make one: the data directory is new.
    Create,
    /// Refuse: there is data that another key opens.
    Refuse,
}

// === impl FileProvider ===

impl FileProvider {
    /// Opens the root key, or makes one where there is none. Two hosts that start at once end up with the same key.
    pub(super) fn open(path: &Path, missing: MissingRootKey, entropy: &dyn Entropy) -> Result<Self, KeysError> {
        let failed = |source| KeysError::Io { path: path.to_owned(), source };
        let (first, was_made) = match (read_file(path), missing) {
            (Err(KeysError::Missing { .. }), MissingRootKey::Create) => {
                create_file(path, entropy).map_err(failed)?;
                (read_file(path)?, true)
            }
            (read, _) => (read?, false),
        };
        // A crash at the very end of a rotation left the old key to be overwritten.
        shred_file(&beside(path, ".retired")).map_err(failed)?;
        let mut keys = vec![FileKey::derive(&first)?];
        match read_file(&beside(path, ".next")) {
            Ok(next) => keys.insert(0, FileKey::derive(&next)?),
            Err(KeysError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { path: path.to_owned(), keys: RwLock::new(keys), was_made })
    }

    fn shard_path(&self, shard: &str) -> PathBuf {
        beside(&self.path, ".tenants").join(shard)
    }

    fn shard(&self, shard: &str) -> Result<KeyBytes, KeysError> {
        match read_file(&self.shard_path(shard)) {
            Ok(key) => expand(key.as_slice(), &[SHARD_LABEL]),
            Err(KeysError::Missing { .. }) => Err(KeysError::ShardGone),
            Err(error) => Err(error),
        }
    }

    fn keys(&self) -> Vec<FileKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn newest(&self) -> Result<FileKey, KeysError> {
        self.keys().into_iter().next().ok_or(KeysError::Cipher)
    }
}

impl FileKey {
    fn derive(key: &KeyBytes) -> Result<Self, KeysError> {
        let id = HEXLOWER.encode(expand::<8>(key.as_slice(), &[ID_LABEL])?.as_slice());
        Ok(Self { id, wrap: expand(key.as_slice(), &[WRAP_LABEL])? })
    }
}

fn context<'a>(with: With<'a>, bound: &Bound<'a>, id: &'a str) -> Context<'a> {
    let (store, key) = match with {
        With::Root => ("tenant-key", id),
        With::Shard(shard) => ("tenant-shard", shard),
    };
    let revision = u64::from(bound.version).saturating_sub(1);
    Context { tenant: bound.tenant, store, key: key.as_bytes(), revision }
}

impl RootKeyProvider for FileProvider {
    fn id(&self) -> String {
        self.keys().into_iter().next().map(|key| key.id).unwrap_or_default()
    }
    fn assurance(&self) -> Assurance {
        Assurance::Development
    }
    fn shredding(&self) -> Shredding {
        Shredding::OldCopiesToo
    }
    fn was_made(&self) -> bool {
        self.was_made
    }

    fn encrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Encrypted, KeysError> {
        let newest = self.newest()?;
        let key = match with {
            With::Root => newest.wrap,
            With::Shard(shard) => self.shard(shard)?,
        };
        let bytes = record::seal(
            &DerivingKey::new(key.as_slice()),
            CHAIN_VERSION,
            &context(with, bound, &newest.id),
            plain,
            entropy,
        )?;
        Ok(Encrypted { by: newest.id, bytes })
    }

    fn decrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        by: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let key = match with {
            With::Shard(shard) => self.shard(shard)?,
            With::Root => {
                let found = self.keys().into_iter().find(|key| key.id == by).map(|key| key.wrap);
                found.ok_or_else(|| KeysError::OtherRootKey {
                    wrapped_by: by.chars().take(64).collect(),
                    at_hand: self.id(),
                })?
            }
        };
        record::open(&DerivingKey::new(key.as_slice()), &context(with, bound, by), bytes)
    }

    fn make_shard(&self, shard: &str, entropy: &dyn Entropy) -> Result<(), KeysError> {
        let path = self.shard_path(shard);
        create_file(&path, entropy).map_err(|source| KeysError::Io { path, source })
    }

    fn destroy_shard(&self, shard: &str) -> Result<(), KeysError> {
        let path = self.shard_path(shard);
        shred_file(&path).map_err(|source| KeysError::Io { path, source })
    }

    fn rotate(&self, entropy: &dyn Entropy) -> Result<(), KeysError> {
        let path = beside(&self.path, ".next");
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        // A rotation that was begun and not ended goes on with the key it made.
        if keys.len() < 2 {
            create_file(&path, entropy).map_err(|source| KeysError::Io { path: path.clone(), source })?;
            keys.insert(0, FileKey::derive(&read_file(&path)?)?);
        }
        Ok(())
    }

    fn retire(&self) -> Result<(), KeysError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < 2 {
            return Ok(());
        }
        let (next, retired) = (beside(&self.path, ".next"), beside(&self.path, ".retired"));
        let moved = match std::fs::hard_link(&self.path, &retired) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => std::fs::rename(&next, &self.path),
        };
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        moved
            .and_then(|()| File::open(parent)?.sync_all())
            .and_then(|()| shred_file(&retired))
            .map_err(|source| KeysError::Io { path: self.path.clone(), source })?;
        keys.truncate(1);
        Ok(())
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
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

/// Overwrites a key file in place, removes it, and makes both durable; fine when there is none.
/// LIMIT: a copy-on-write file system or a wear-levelling disk may keep the old blocks for a while.
fn shred_file(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    file.write_all(&[b'0'; FILE_BYTES_MAX as usize])?;
    file.sync_all()?;
    std::fs::remove_file(path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
