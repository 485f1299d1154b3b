//! The form of an archive: its head in clear, and the frames inside its sealed stream.
//!
//! File: magic `RFBACKUP` (8 bytes), version 1 (2 bytes big-endian), length of the head (4 bytes big-endian), the head as
//! JSON ([`Head`]), then one sealed stream of the keys room to the end of the file, bound to everything before it.
//!
//! Stream: frames of kind (1 byte), length (4 bytes big-endian) and body, in this order:
//! * 1 record: revision (8 bytes big-endian), number of segments (1 byte), each segment as 1, length (2 bytes) and name or
//!   2 and number (8 bytes), then the value;
//! * 2 blob: its id (16 bytes), followed by frames 3 with its content in pieces and one frame 4 with its length (8 bytes);
//! * 5 kept: marks of 16 bytes, one for each record and blob that is the same in the parent: SHA-256 of `record`, the key
//!   as above and the revision, or of `blob` and its id, cut;
//! * 6 manifest, as JSON ([`Manifest`]), the last, with SHA-256 of all plaintext before it.
//!
//! Must never believe a length before it was compared with its limit: an archive may come from a stranger who holds the key.

use jiff::Timestamp;
use ringfence_core::{BackupId, TenantId};
use ringfence_keys::Zeroizing;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::backup::BackupError;
use crate::blobs::BlobId;
use crate::key::{KEY_NAME_BYTES_MAX, KEY_SEGMENTS_COUNT_MAX, Key, Segment};
use crate::record::{Record, VALUE_BYTES_MAX};

/// The version this program writes, and the newest it reads.
pub(crate) const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"RFBACKUP";
/// Bytes before the head.
pub(crate) const PREFIX_BYTES: usize = 14;
/// LIMIT: longest head.
const HEAD_BYTES_MAX: usize = 4 << 10;
/// LIMIT: longest manifest; audit checkpoints are in it.
const MANIFEST_BYTES_MAX: usize = 64 << 10;
/// LIMIT: longest body of a record beside its value.
const KEY_BYTES_MAX: usize = 9 + KEY_SEGMENTS_COUNT_MAX * (KEY_NAME_BYTES_MAX + 3);
/// LIMIT: longest piece of a blob.
pub(crate) const PART_BYTES_MAX: usize = 256 << 10;
/// LIMIT: marks of one frame.
pub(crate) const MARKS_COUNT: usize = 1_024;

pub(crate) const RECORD: u8 = 1;
pub(crate) const BLOB: u8 = 2;
pub(crate) const PART: u8 = 3;
pub(crate) const BLOB_END: u8 = 4;
pub(crate) const KEPT: u8 = 5;
pub(crate) const MANIFEST: u8 = 6;
/// Bytes of a frame before its body.
pub(crate) const FRAME_HEAD_BYTES: usize = 5;

const NAME: u8 = 1;
const NUMBER: u8 = 2;

/// What stands for a record or a blob that an archive shares with its parent.
pub(crate) type Mark = [u8; 16];

/// What an archive says in clear. Names no tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The archive.
    pub backup: BackupId,
    /// The archive it builds on; none for a full one.
    pub parent: Option<BackupId>,
    /// The unique id of the tenant it was made of, 32 hex digits.
    pub tenant_uid: String,
    /// Which backup key opens it, 16 hex digits.
    pub key: String,
    /// The host that made it.
    pub host: String,
    /// When.
    pub created_at: Timestamp,
}

/// What an archive holds; sealed with it, and compared with what was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The tenant's name.
    pub tenant: TenantId,
    /// What people call it.
    pub display_name: String,
    /// The parent's revision; 0 for a full archive.
    pub since_revision: u64,
    /// The revision it shows.
    pub revision: u64,
    /// Records in it.
    pub records_count: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Blobs in it.
    pub blobs_count: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
    /// Records and blobs that are the same in the parent.
    pub kept_count: u64,
    /// What the tenant held of its storage quota.
    pub held_bytes: u64,
    /// Records and blobs of the tenant that did not open. Left out where there are none, as before there was such a count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub damaged_count: u64,
    /// Of these, what neither this archive has nor one that it builds on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_count: u64,
    /// SHA-256 of the stream before the manifest, hex.
    pub sha256: String,
    /// The signed head of the tenant's audit log that covers the entries in it, as a note; empty when there was none.
    pub audit_checkpoint: String,
    /// The verifier key of that note.
    pub audit_vkey: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Everything before the sealed stream.
pub(crate) fn encode_head(head: &Head) -> Result<Vec<u8>, BackupError> {
    let json = serde_json::to_vec(head).map_err(|_| BackupError::Damaged { what: "its head" })?;
    let length = u32::try_from(json.len()).map_err(|_| BackupError::Damaged { what: "its head" })?;
    Ok([MAGIC.as_slice(), &VERSION.to_be_bytes(), &length.to_be_bytes(), &json].concat())
}

/// How long the head is that follows these first bytes.
pub(crate) fn head_bytes(prefix: &[u8]) -> Result<usize, BackupError> {
    let rest = prefix.strip_prefix(MAGIC.as_slice()).ok_or(BackupError::NotAnArchive)?;
    let (version, rest) = rest.split_first_chunk().ok_or(BackupError::NotAnArchive)?;
    let version = u16::from_be_bytes(*version);
    if version == 0 || version > VERSION {
        return Err(BackupError::Newer { version });
    }
    let length = rest.first_chunk().map(|length| u32::from_be_bytes(*length)).ok_or(BackupError::NotAnArchive)?;
    usize::try_from(length).ok().filter(|n| *n <= HEAD_BYTES_MAX).ok_or(BackupError::NotAnArchive)
}

pub(crate) fn decode_head(json: &[u8]) -> Result<Head, BackupError> {
    let head: Head = serde_json::from_slice(json).map_err(|_| BackupError::Damaged { what: "its head" })?;
    let hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hex(&head.tenant_uid, 32) || !hex(&head.key, 16) {
        return Err(BackupError::Damaged { what: "its head" });
    }
    Ok(head)
}

/// The head of a frame.
pub(crate) fn frame_head(kind: u8, bytes: usize) -> Result<[u8; FRAME_HEAD_BYTES], BackupError> {
    let [a, b, c, d] = u32::try_from(bytes).map_err(|_| BackupError::Damaged { what: "a length" })?.to_be_bytes();
    Ok([kind, a, b, c, d])
}

/// Reads the head of a frame: its kind and how long its body is.
pub(crate) fn read_frame_head(head: &[u8; FRAME_HEAD_BYTES]) -> Result<(u8, usize), BackupError> {
    let [kind, a, b, c, d] = *head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let range = match kind {
        RECORD => 10..=KEY_BYTES_MAX + VALUE_BYTES_MAX,
        BLOB => 16..=16,
        PART => 1..=PART_BYTES_MAX,
        BLOB_END => 8..=8,
        KEPT => 16..=MARKS_COUNT * 16,
        MANIFEST => 2..=MANIFEST_BYTES_MAX,
        _ => return Err(BackupError::Damaged { what: "a frame of no known kind" }),
    };
    if range.contains(&length) { Ok((kind, length)) } else { Err(BackupError::Damaged { what: "a length" }) }
}

/// Key and revision as they stand in a record's frame, before the value.
pub(crate) fn encode_key(key: &Key, revision: u64) -> Result<Vec<u8>, BackupError> {
    let wrong = |_| BackupError::Damaged { what: "a name" };
    let mut out = revision.to_be_bytes().to_vec();
    out.push(u8::try_from(key.segments().len()).map_err(wrong)?);
    for segment in key.segments() {
        match segment {
            Segment::Name(name) => {
                out.push(NAME);
                out.extend_from_slice(&u16::try_from(name.len()).map_err(wrong)?.to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Segment::Number(number) => {
                out.push(NUMBER);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
    Ok(out)
}

/// Reads a record's frame, and how many bytes of it are the key.
pub(crate) fn decode_record(body: &[u8]) -> Result<(Key, Record, Mark), BackupError> {
    let (key, revision, value) = split_record(body).ok_or(BackupError::Damaged { what: "a name" })?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(BackupError::Damaged { what: "a length" });
    }
    let mark = record_mark(body.get(..body.len() - value.len()).unwrap_or_default());
    Ok((key, Record { value: Zeroizing::new(value.to_vec()), revision }, mark))
}

fn split_record(body: &[u8]) -> Option<(Key, u64, &[u8])> {
    let (revision, rest) = body.split_first_chunk()?;
    let (count, mut rest) = rest.split_first()?;
    if *count == 0 || usize::from(*count) > KEY_SEGMENTS_COUNT_MAX {
        return None;
    }
    let mut key = Key::default();
    for _ in 0..*count {
        let (kind, after) = rest.split_first()?;
        match *kind {
            NAME => {
                let (length, after) = after.split_first_chunk()?;
                let length = usize::from(u16::from_be_bytes(*length));
                let (name, after) = after.split_at_checked(length).filter(|_| length <= KEY_NAME_BYTES_MAX)?;
                key = key.push(std::str::from_utf8(name).ok()?);
                rest = after;
            }
            NUMBER => {
                let (number, after) = after.split_first_chunk()?;
                key = key.number(u64::from_be_bytes(*number));
                rest = after;
            }
            _ => return None,
        }
    }
    Some((key, u64::from_be_bytes(*revision), rest))
}

/// The mark of a record, from its encoded key and revision.
pub(crate) fn record_mark(encoded_key: &[u8]) -> Mark {
    mark(b"record", encoded_key)
}

/// The mark of a blob.
pub(crate) fn blob_mark(id: &BlobId) -> Mark {
    mark(b"blob", id.bytes())
}

fn mark(kind: &[u8], what: &[u8]) -> Mark {
    let whole: [u8; 32] = Sha256::new().chain_update(kind).chain_update(what).finalize().into();
    let mut mark = [0; 16];
    mark.copy_from_slice(whole.split_at(16).0);
    mark
}

pub(crate) fn decode_manifest(body: &[u8]) -> Result<Manifest, BackupError> {
    serde_json::from_slice(body).map_err(|_| BackupError::Damaged { what: "its manifest" })
}

/// What part of a tenant a record belongs to, by the first segment of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// What the tenant made: replaced when a backup is restored in place.
    State,
    /// What the tenant's guests printed: restored into a new tenant, left alone in place.
    Logs,
    /// Who was erased: added to when a backup is restored in place, never taken away, or a backup would undo an erasure.
    Erasures,
    /// What the host swears about the tenant: never rolled back; kept apart, to be read, in a new tenant.
    History,
    /// Never in an archive: credentials (a revoked key must not come back), counters of the running host, leftovers of
    /// uploads, what backups keep about themselves, and when access was last used and how it was reviewed.
    Apart,
    /// Never in an archive, and left where it lies in one that an earlier host made: roles that are held for a while and what waits
    /// to be allowed, or what was ended or refused would come back.
    Lent,
}

/// The class of a record.
pub(crate) fn class(key: &Key) -> Class {
    let Some(Segment::Name(first)) = key.segments().first() else { return Class::Apart };
    match first.as_str() {
        "audit"
        | "audit-head"
        | "audit-tile"
        | "audit-cover"
        | "audit-shard"
        | "audit-stump"
        | "audit-due"
        | "audit-retention"
        | "audit-key"
        | "audit-erasure"
        | "audit-package"
        | "audit-package-whole"
        | "audit-packages"
        | "usage"
        | "usage-closed"
        | "receipt"
        | "receipt-head"
        | "invocation"
        | "decision" => Class::History,
        "log" => Class::Logs,
        "subject-erased" => Class::Erasures,
        "identity" | "quota" | "quarantine" | "backup" | "job" | "access" | "review" => Class::Apart,
        "elevations" | "approval" => Class::Lent,
        _ => Class::State,
    }
}
