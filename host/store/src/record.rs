//! Records, pages of them, and what a batch is made of; the stored form of a record.
//!
//! Stored form: kind (1 byte, `sealing.rs`: which purpose's key seals it, and whether the value is inside or in a file), revision
//! (8 bytes big-endian), a sealed record of the keys room. Context: the tenant, `record` with the value inside and `file`
//! without, the stored key, the revision. Kind and revision stand in clear because opening needs them; altering either makes
//! opening fail, because each kind differs from all others in its key or its context.
//! Plaintext without the value inside: the file's id (16 bytes), the value's length (8 bytes big-endian).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use ringfence_keys::{Context, TenantKeys, Zeroizing, sealed_version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StoreError;
use crate::key::Key;
use crate::sealing::Sealing;
use crate::tenant_store::Tenant;

/// LIMIT: values up to this many bytes lie in the database itself, longer ones in a file each.
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// LIMIT: most bytes of one value. Larger things are blobs.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// Words of the context.
const INSIDE: &str = "record";
const IN_FILE: &str = "file";
/// LIMIT: longest stored key there can be, in base64 with room to spare; keeps a forged token small.
const TOKEN_CHARS_MAX: usize = 64 << 10;

/// A value and the revision of the batch that wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The value; zeroed on drop.
    pub value: Zeroizing<Vec<u8>>,
    /// The revision of the batch that wrote it: higher than that of any batch before, in any tenant.
    pub revision: u64,
}

impl Record {
    /// Reads the value as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_slice(&self.value).map_err(StoreError::Form)
    }
}

/// SECURITY: values are tenant data; Debug shows their length only.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes at revision {}>", self.value.len(), self.revision)
    }
}

/// Some records in order, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The records with their full keys.
    pub records: Vec<(Key, Record)>,
    /// Where the next page starts; none after the last.
    pub next: Option<PageToken>,
}

/// A place in a listing, as text for cursors. Shows sealed names only; good for the listing it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct PageToken(pub(crate) Vec<u8>);

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PageToken {
    type Err = StoreError;
    fn from_str(text: &str) -> Result<Self, StoreError> {
        if text.is_empty() || text.len() > TOKEN_CHARS_MAX {
            return Err(StoreError::BadToken);
        }
        BASE64URL_NOPAD.decode(text.as_bytes()).map(Self).map_err(|_| StoreError::BadToken)
    }
}

/// One change of a batch. Of several changes to one key in a batch the last counts.
#[derive(Clone)]
pub enum Op {
    /// Writes a value, new or over an old one.
    Put {
        /// Under which name.
        key: Key,
        /// What; at most [`VALUE_BYTES_MAX`] bytes.
        value: Vec<u8>,
    },
    /// Removes a value; fine when there is none.
    Delete {
        /// Under which name.
        key: Key,
    },
    /// Counts bytes that lie in a file of their own as held by the tenant, with what the batch writes or not at all.
    Hold {
        /// How many.
        bytes: u64,
    },
}

impl Op {
    /// Writes a value.
    pub fn put(key: Key, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key, value: value.into() }
    }
    /// Writes a value as JSON.
    pub fn put_json<T: Serialize + ?Sized>(key: Key, value: &T) -> Result<Self, StoreError> {
        Ok(Self::Put { key, value: serde_json::to_vec(value).map_err(StoreError::Form)? })
    }
    /// Removes a value.
    pub fn delete(key: Key) -> Self {
        Self::Delete { key }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value } => write!(f, "put {key:?} ({} bytes)", value.len()),
            Self::Delete { key } => write!(f, "delete {key:?}"),
            Self::Hold { bytes } => write!(f, "hold {bytes} bytes"),
        }
    }
}

/// What must hold for a batch to be written. Checked against the state that the batch changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// There is no such record.
    Absent(Key),
    /// There is such a record.
    Present(Key),
    /// There is such a record, at exactly this revision.
    Revision(Key, u64),
}

/// A batch that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The revision of every record it wrote.
    pub revision: u64,
}

/// What is under a stored key, sealed still.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    kind: u8,
    pub(crate) revision: u64,
    sealed: &'a [u8],
}

/// What is under a stored key, opened.
pub(crate) enum Content {
    Inside(Zeroizing<Vec<u8>>),
    InFile(FileRef),
}

/// Where a value in a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileRef {
    pub(crate) id: [u8; 16],
    pub(crate) bytes: u64,
}

impl<'a> Stored<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, StoreError> {
        let (kind, rest) = bytes.split_first().ok_or(StoreError::Damaged)?;
        let (revision, sealed) = rest.split_first_chunk().ok_or(StoreError::Damaged)?;
        Ok(Self { kind: *kind, revision: u64::from_be_bytes(*revision), sealed })
    }

    pub(crate) fn sealed_bytes(&self) -> &'a [u8] {
        self.sealed
    }

    pub(crate) fn is_in_file(&self) -> bool {
        Sealing::of_kind(self.kind).is_some_and(|sealing| self.kind == sealing.in_file)
    }

    /// Whether it is sealed under the newest key of the purpose that a record under its stored key has.
    pub(crate) fn is_newest(&self, tenant: &Tenant, stored_key: &[u8]) -> Result<bool, StoreError> {
        let Sealing { purpose, inside, in_file } = tenant.sealing(stored_key)?;
        let newest = tenant.keys.newest_version(purpose)?;
        Ok((self.kind == inside || self.kind == in_file) && sealed_version(self.sealed) == Some(newest))
    }

    pub(crate) fn open(&self, keys: &TenantKeys, stored_key: &[u8]) -> Result<Content, StoreError> {
        let sealing = Sealing::of_kind(self.kind).ok_or(StoreError::Damaged)?;
        let in_file = self.kind == sealing.in_file;
        let store = if in_file { IN_FILE } else { INSIDE };
        let context = Context { tenant: keys.tenant(), store, key: stored_key, revision: self.revision };
        let value = keys.open(sealing.purpose, &context, self.sealed).map_err(StoreError::opening)?;
        if !in_file {
            return Ok(Content::Inside(value));
        }
        let (id, length) = value.split_first_chunk().ok_or(StoreError::Damaged)?;
        let bytes = u64::from_be_bytes(length.try_into().map_err(|_| StoreError::Damaged)?);
        Ok(Content::InFile(FileRef { id: *id, bytes }))
    }
}

/// The revision of a record as it lies there, unopened; 0 of something that is no record.
pub(crate) fn revision_of(bytes: &[u8]) -> u64 {
    Stored::parse(bytes).map_or(0, |stored| stored.revision)
}

/// The stored form of a value inside.
pub(crate) fn seal_inside(
    tenant: &Tenant,
    stored_key: &[u8],
    revision: u64,
    value: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let Sealing { purpose, inside, .. } = tenant.sealing(stored_key)?;
    let context = Context { tenant: tenant.keys.tenant(), store: INSIDE, key: stored_key, revision };
    Ok(form(inside, revision, &tenant.keys.seal(purpose, &context, value, tenant.entropy.as_ref())?))
}

/// The stored form of a value in a file.
pub(crate) fn seal_file_ref(
    tenant: &Tenant,
    stored_key: &[u8],
    revision: u64,
    file: FileRef,
) -> Result<Vec<u8>, StoreError> {
    let Sealing { purpose, in_file, .. } = tenant.sealing(stored_key)?;
    let plain = [file.id.as_slice(), &file.bytes.to_be_bytes()].concat();
    let context = Context { tenant: tenant.keys.tenant(), store: IN_FILE, key: stored_key, revision };
    Ok(form(in_file, revision, &tenant.keys.seal(purpose, &context, &plain, tenant.entropy.as_ref())?))
}

fn form(kind: u8, revision: u64, sealed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sealed.len() + 9);
    out.push(kind);
    out.extend_from_slice(&revision.to_be_bytes());
    out.extend_from_slice(sealed);
    out
}
