//! Backups of one tenant: archives in a directory of the operator's, made while the tenant works, verified, restored.
//!
//! An archive shows exactly one revision (`pin.rs`), full or as what changed since its parent (`format.rs`), sealed under the
//! tenant's backup key (`keyring.rs`). That key lies in a sealed record of the tenant: once the tenant is deleted, nobody here
//! opens its archives again. Whoever took the key away in time, as a recovery key, still can. Must never write outside its
//! directory, restore what was not read and authenticated to its end before, or leave a half of either.

mod drill;
mod format;
mod keyring;
pub(crate) mod pin;
mod read;
mod restore;
mod write;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_rot;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use cap_std::fs::Dir;
use jiff::Timestamp;
use ringfence_core::{BackupId, Clock, Entropy};
use ringfence_keys::BackupKey;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::blobs::BlobId;
use crate::error::StoreError;
use crate::files::{FileReader, Files};
use crate::key::{Key, Segment};
use crate::record::Op;
use crate::tenant_store::TenantStore;

pub use drill::{DrillFailed, Drilled};
pub use format::{Head, Manifest};
pub use keyring::Keyring;
pub use restore::{Restored, Source, Staged};
pub use write::Order;

const SUFFIX: &str = ".rfb";
/// LIMIT: archives listed of one tenant.
const LIST_COUNT_MAX: usize = 10_000;

/// Why a backup, or a restore, was not done.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no such archive.
    #[error("there is no such backup")]
    Unknown,
    /// The file is something else.
    #[error("this is not a backup archive")]
    NotAnArchive,
    /// The archive was made by a later version of this program.
    #[error("this archive has format version {version}, which is newer than this host reads")]
    Newer {
        /// Its version.
        version: u16,
    },
    /// The archive was altered, cut, put together from others, or made by someone who does not keep to the format.
    #[error("the archive is damaged: {what}")]
    Damaged {
        /// Where.
        what: &'static str,
    },
    /// The archive it builds on is gone.
    #[error("backup `{parent}`, which this one builds on, is missing")]
    ParentMissing {
        /// Which.
        parent: BackupId,
    },
    /// Another archive builds on it.
    #[error("backup `{child}` builds on this one")]
    HasChild {
        /// Which.
        child: BackupId,
    },
    /// The archive is sealed under a key that is not at hand.
    #[error("the archive is sealed under a key that this tenant does not hold")]
    NoKey,
    /// There is something already where it should be restored.
    #[error("the tenant is not empty")]
    NotEmpty,
    /// Too much is shared with the parent.
    #[error("too much is shared with the backup that this one should build on; make a full one")]
    TooMuchKept,
    /// A drill found a difference.
    #[error("what was restored differs from the archive: {what}")]
    Differs {
        /// In what.
        what: &'static str,
    },
    /// The directory of the archives is full.
    #[error("the directory of the backups is full")]
    Full,
    /// The directory of the archives failed.
    #[error("the directory of the backups is out of reach: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    fn io(reason: impl fmt::Display) -> Self {
        Self::Io { reason: reason.to_string() }
    }

    fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            _ => Self::io(error),
        }
    }
}

/// Whether guest logs go into archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestLogs {
    /// They do.
    With,
    /// They do not.
    Without,
}

/// Who wanted a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Somebody asked for it; nobody else removes it.
    Asked,
    /// The schedule; its retention may remove it.
    Scheduled,
}

/// What a tenant's records say about one of its archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The archive.
    pub backup: BackupId,
    /// The archive it builds on; none for a full one.
    pub parent: Option<BackupId>,
    /// Who wanted it.
    pub reason: Reason,
    /// When it was made.
    pub created_at: Timestamp,
    /// The revision it shows.
    pub revision: u64,
    /// Records in it.
    pub records_count: u64,
    /// Blobs in it.
    pub blobs_count: u64,
    /// Bytes of values and blobs in it.
    pub content_bytes: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Records and blobs of the tenant that did not open when it was made: damage that is there to be mended.
    #[serde(default)]
    pub damaged_count: u64,
    /// Of these, what neither it has nor one that it builds on.
    #[serde(default)]
    pub lost_count: u64,
    /// When it was last read from end to end and found whole.
    pub verified_at: Timestamp,
    /// The last drill that found no difference, if there was one.
    pub drill: Option<Drilled>,
    /// The last drill, if it failed.
    pub drill_failed: Option<DrillFailed>,
}

/// The archives. Cheap to clone.
#[derive(Clone)]
pub struct Archives(Arc<Inner>);

struct Inner {
    files: Files,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
}

// === impl Archives ===

impl Archives {
    /// Archives in a directory; removes what a crash left half written there.
    pub fn open(dir: Dir, entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Result<Self, BackupError> {
        let files = Files::Disk(Arc::new(dir));
        for directory in files.list(".").map_err(BackupError::from_io)? {
            if is_uid(&directory) {
                let unfinished = files.sweep_unfinished(&directory).map_err(BackupError::from_io)?;
                if unfinished > 0 {
                    tracing::info!(unfinished, "removed backups that were never finished");
                }
            }
        }
        Ok(Self(Arc::new(Inner { files, entropy, clock })))
    }

    /// Archives in memory, for tests.
    pub fn in_memory(entropy: Arc<dyn Entropy>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { files: Files::Memory(Arc::default()), entropy, clock }))
    }

    /// A tenant's archives, the newest first, but for those of which the record is damaged.
    pub async fn list(&self, store: &TenantStore) -> Result<Vec<Stored>, BackupError> {
        Ok(self.listed(store).await?.0)
    }

    /// The same, and those of which the record is damaged.
    async fn listed(&self, store: &TenantStore) -> Result<(Vec<Stored>, Vec<BackupId>), BackupError> {
        let (mut found, mut unread, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let next = match store.scan(&archives_key(), after.as_ref(), usize::MAX).await {
                Ok(page) => {
                    for (_, record) in &page.records {
                        found.push(record.json::<Stored>()?);
                    }
                    page.next
                }
                Err(StoreError::Damaged) => {
                    let (keys, next) = store.scan_names(&archives_key(), after.as_ref(), usize::MAX).await?;
                    for key in keys {
                        match store.get_json::<Stored>(&key).await {
                            Ok(stored) => found.extend(stored),
                            Err(StoreError::Damaged) => unread.extend(archive_of(&key)),
                            Err(error) => return Err(error.into()),
                        }
                    }
                    next
                }
                Err(error) => return Err(error.into()),
            };
            match next {
                Some(next) if found.len() < LIST_COUNT_MAX => after = Some(next),
                _ => break,
            }
        }
        found.sort_by(|a, b| (b.created_at, &b.backup).cmp(&(a.created_at, &a.backup)));
        Ok((found, unread))
    }

    /// One of a tenant's archives; none when it has none of that id.
    pub async fn stored(&self, store: &TenantStore, id: &BackupId) -> Result<Option<Stored>, BackupError> {
        Ok(store.get_json(&archive_key(id)).await?)
    }

    /// What an archive says in clear; [`BackupError::Unknown`] when its file is gone.
    pub async fn head(&self, uid: &str, id: &BackupId) -> Result<Head, BackupError> {
        if !is_uid(uid) {
            return Err(BackupError::Unknown);
        }
        Ok(read::Reader::open(&self.0.files, &Self::path(uid, id)).await?.head().clone())
    }

    /// Removes one of a tenant's archives; refused while another builds on it, or one of which the record is damaged may.
    pub async fn delete(&self, store: &TenantStore, id: &BackupId) -> Result<(), BackupError> {
        let (all, unread) = self.listed(store).await?;
        let mut child = all.iter().find(|stored| stored.parent.as_ref() == Some(id)).map(|stored| &stored.backup);
        if !unread.contains(id) {
            if !all.iter().any(|stored| stored.backup == *id) {
                return Err(BackupError::Unknown);
            }
            child = child.or(unread.first());
        }
        if let Some(child) = child {
            return Err(BackupError::HasChild { child: child.clone() });
        }
        // The file first: a record without its file says so when it is used; a file without its record would stay for good.
        self.remove_file(&store.uid(), id).await?;
        store.batch(vec![Op::delete(archive_key(id)), Op::delete(blobs_key(id))], Vec::new()).await?;
        Ok(())
    }

    /// Hands out the key that the tenant's archives are sealed under. SECURITY: for the tenant's own people.
    pub async fn recovery_key(&self, store: &TenantStore) -> Result<BackupKey, BackupError> {
        keyring::current(store, &*self.0.entropy).await
    }

    /// Whether an archive is there and a key for it at hand.
    pub async fn check_head(&self, source: &Source) -> Result<Head, BackupError> {
        let head = self.head(&source.tenant_uid, &source.backup).await?;
        if source.keyring.get(&head.key).is_some() { Ok(head) } else { Err(BackupError::NoKey) }
    }

    async fn remember(
        &self,
        store: &TenantStore,
        head: &Head,
        manifest: &Manifest,
        reason: Reason,
        blobs: &BTreeSet<BlobId>,
    ) -> Result<Stored, BackupError> {
        let (files, path) = (self.0.files.clone(), Self::path(&head.tenant_uid, &head.backup));
        let length = spawn_blocking(move || file_bytes(files.open(&path)?));
        let stored = Stored {
            backup: head.backup.clone(),
            parent: head.parent.clone(),
            reason,
            created_at: head.created_at,
            revision: manifest.revision,
            records_count: manifest.records_count,
            blobs_count: manifest.blobs_count,
            content_bytes: manifest.value_bytes.saturating_add(manifest.blob_bytes),
            file_bytes: length.await.map_err(BackupError::io)?.map_err(BackupError::from_io)?,
            damaged_count: manifest.damaged_count,
            lost_count: manifest.lost_count,
            verified_at: self.0.clock.now(),
            drill: None,
            drill_failed: None,
        };
        let ids: Vec<u8> = blobs.iter().flat_map(|id| *id.bytes()).collect();
        let ops = vec![Op::put_json(archive_key(&head.backup), &stored)?, Op::put(blobs_key(&head.backup), ids)];
        store.batch(ops, Vec::new()).await?;
        Ok(stored)
    }

    async fn blobs_of(&self, store: &TenantStore, id: &BackupId) -> Result<BTreeSet<BlobId>, BackupError> {
        let ids = store.get(&blobs_key(id)).await?.ok_or(BackupError::Unknown)?;
        Ok(ids.value.as_chunks::<16>().0.iter().map(|id| BlobId::from_bytes(*id)).collect())
    }

    async fn remove_file(&self, uid: &str, id: &BackupId) -> Result<(), BackupError> {
        let (files, path) = (self.0.files.clone(), Self::path(uid, id));
        spawn_blocking(move || files.remove(&path)).await.map_err(BackupError::io)?.map_err(BackupError::from_io)
    }

    /// SECURITY: both parts were parsed: 32 hex digits, and an id of ours.
    fn path(uid: &str, id: &BackupId) -> String {
        format!("{uid}/{id}{SUFFIX}")
    }
}

impl fmt::Debug for Archives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<archives>")
    }
}

/// Checks a file that may be an archive, wherever it lies: its head and the form of the rest without a key, everything in it
/// with one. What it builds on is not looked for.
pub async fn check_file(file: std::fs::File, key: Option<&BackupKey>) -> Result<(Head, Option<Manifest>), BackupError> {
    let file_bytes = file.metadata().map_err(BackupError::from_io)?.len();
    let (mut reader, head_bytes) = spawn_blocking(move || {
        let reader = read::Reader::of(file)?;
        let head_bytes = reader.head_bytes();
        Ok::<_, BackupError>((reader, head_bytes))
    })
    .await
    .map_err(BackupError::io)??;
    if !ringfence_keys::is_sealed_stream_bytes(file_bytes.saturating_sub(head_bytes)) {
        return Err(BackupError::Damaged { what: "its length: it was cut" });
    }
    let Some(key) = key else { return Ok((reader.head().clone(), None)) };
    reader.unlock(key)?;
    while reader.next().await?.is_some() {}
    Ok((reader.head().clone(), reader.manifest().cloned()))
}

/// Whether a text is a tenant's unique id, and so can be the name of a directory here.
pub(crate) fn is_uid(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn file_bytes(file: FileReader) -> io::Result<u64> {
    match file {
        FileReader::Disk(file) => Ok(file.metadata()?.len()),
        FileReader::Memory { content, .. } => Ok(content.len() as u64),
    }
}

fn archives_key() -> Key {
    Key::new(["backup", "archive"])
}

fn archive_key(id: &BackupId) -> Key {
    Key::new(["backup", "archive", id.as_str()])
}

/// Of which archive a record is.
fn archive_of(key: &Key) -> Option<BackupId> {
    match key.segments().last() {
        Some(Segment::Name(id)) => id.parse().ok(),
        _ => None,
    }
}

fn blobs_key(id: &BackupId) -> Key {
    Key::new(["backup", "blobs", id.as_str()])
}
