//! Reads an archive: its head by anyone, its content with its key, piece by piece in bounded memory.
//!
//! Must never hand out a byte that did not authenticate, and never say that an archive is whole before its end, its digest
//! and its manifest were compared with what came.

use std::collections::HashSet;
use std::io::{self, Read as _};

use data_encoding::HEXLOWER;
use ringfence_core::BackupId;
use ringfence_keys::{BackupKey, StreamOpener, Zeroizing};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::backup::format::{self, Class, FRAME_HEAD_BYTES, Head, Manifest, Mark, PREFIX_BYTES};
use crate::backup::write::KEPT_COUNT_MAX;
use crate::backup::{Archives, BackupError, Keyring};
use crate::blobs::{BLOB_BYTES_MAX, BlobId};
use crate::files::Files;
use crate::key::Key;
use crate::record::Record;

/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;
/// LIMIT: archives that build on each other.
pub(crate) const CHAIN_COUNT_MAX: usize = 64;

/// A piece of an archive.
#[derive(Debug)]
pub(crate) enum Item {
    Record(Key, Record),
    Blob(BlobId),
    Part(Vec<u8>),
    BlobEnd,
    Kept(Vec<Mark>),
}

/// Where a reader is; each kind of frame may come in one of them only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Records,
    Blobs,
    Kept,
    End,
}

/// One archive being read.
pub(crate) struct Reader {
    head: Head,
    prefix: Vec<u8>,
    file: Option<Box<dyn io::Read + Send>>,
    opener: Option<StreamOpener>,
    buffer: Zeroizing<Vec<u8>>,
    at: usize,
    hash: Sha256,
    stage: Stage,
    /// Bytes of the blob that is open.
    blob_bytes: Option<u64>,
    counted: Counted,
    last_mark: Option<Mark>,
    manifest: Option<Manifest>,
}

#[derive(Default, PartialEq, Eq)]
struct Counted {
    records: u64,
    value_bytes: u64,
    blobs: u64,
    blob_bytes: u64,
    kept: u64,
}

// === impl Reader ===

impl Reader {
    /// Opens a file and reads its head.
    pub(crate) async fn open(files: &Files, path: &str) -> Result<Self, BackupError> {
        let (files, path) = (files.clone(), path.to_owned());
        let opened = spawn_blocking(move || {
            let mut file = match files.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BackupError::Unknown),
                opened => opened.map_err(BackupError::from_io)?,
            };
            let (head, prefix) = read_head(&mut file)?;
            Ok((file, head, prefix))
        });
        let (file, head, prefix) = opened.await.map_err(BackupError::io)??;
        Ok(Self::new(Box::new(file), head, prefix))
    }

    /// Reads an archive that lies anywhere; blocks until its head is there.
    pub(crate) fn of(mut file: impl io::Read + Send + 'static) -> Result<Self, BackupError> {
        let (head, prefix) = read_head(&mut file)?;
        Ok(Self::new(Box::new(file), head, prefix))
    }

    fn new(file: Box<dyn io::Read + Send>, head: Head, prefix: Vec<u8>) -> Self {
        Self {
            head,
            prefix,
            file: Some(file),
            opener: None,
            buffer: Zeroizing::default(),
            at: 0,
            hash: Sha256::new(),
            stage: Stage::Records,
            blob_bytes: None,
            counted: Counted::default(),
            last_mark: None,
            manifest: None,
        }
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// How long everything before the sealed stream is.
    pub(crate) fn head_bytes(&self) -> u64 {
        self.prefix.len() as u64
    }

    /// Gives the key that opens the content.
    pub(crate) fn unlock(&mut self, key: &BackupKey) -> Result<(), BackupError> {
        if key.id() != self.head.key {
            return Err(BackupError::NoKey);
        }
        self.opener = Some(key.opener(&self.prefix));
        Ok(())
    }

    /// The manifest; there once [`Reader::next`] gave none.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The mark of the record that was given last.
    fn last_mark(&self) -> Option<Mark> {
        self.last_mark
    }

    /// The next piece; none once all of it was read and everything fits.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, BackupError> {
        loop {
            if let Some(head) = self.buffer.get(self.at..).and_then(|rest| rest.first_chunk::<FRAME_HEAD_BYTES>()) {
                let (kind, length) = format::read_frame_head(head)?;
                if self.stage == Stage::End {
                    return Err(BackupError::Damaged { what: "something after its end" });
                }
                let (start, end) = (self.at + FRAME_HEAD_BYTES, self.at + FRAME_HEAD_BYTES + length);
                if self.buffer.len() >= end {
                    let from = std::mem::replace(&mut self.at, end);
                    let item = self.take(kind, from, start, end)?;
                    if item.is_some() {
                        return Ok(item);
                    }
                    continue;
                }
            }
            if !self.fill().await? {
                return if self.stage == Stage::End && self.at == self.buffer.len() {
                    Ok(None)
                } else {
                    Err(BackupError::Damaged { what: "its end" })
                };
            }
        }
    }

    fn take(&mut self, kind: u8, from: usize, start: usize, end: usize) -> Result<Option<Item>, BackupError> {
        let wrong = BackupError::Damaged { what: "the order of its parts" };
        let stage = match kind {
            format::RECORD => Stage::Records,
            format::BLOB | format::PART | format::BLOB_END => Stage::Blobs,
            format::KEPT => Stage::Kept,
            _ => Stage::End,
        };
        let in_blob = self.blob_bytes.is_some();
        if stage < self.stage || in_blob != matches!(kind, format::PART | format::BLOB_END) {
            return Err(wrong);
        }
        self.stage = stage;
        let body = self.buffer.get(start..end).ok_or(BackupError::Damaged { what: "a length" })?;
        if kind == format::MANIFEST {
            let manifest = format::decode_manifest(body)?;
            self.check(&manifest)?;
            self.manifest = Some(manifest);
            return Ok(None);
        }
        self.hash.update(self.buffer.get(from..end).unwrap_or_default());
        let counted = &mut self.counted;
        Ok(Some(match kind {
            format::RECORD => {
                let (key, record, mark) = format::decode_record(body)?;
                if format::class(&key) == Class::Apart {
                    return Err(BackupError::Damaged { what: "a record that no archive holds" });
                }
                self.last_mark = Some(mark);
                counted.records += 1;
                counted.value_bytes = counted.value_bytes.saturating_add(record.value.len() as u64);
                Item::Record(key, record)
            }
            format::BLOB => {
                self.blob_bytes = Some(0);
                counted.blobs += 1;
                Item::Blob(BlobId::from_bytes(body.try_into().map_err(|_| wrong)?))
            }
            format::PART => {
                let bytes = self.blob_bytes.unwrap_or(0).saturating_add(body.len() as u64);
                if bytes > BLOB_BYTES_MAX {
                    return Err(BackupError::Damaged { what: "a length" });
                }
                self.blob_bytes = Some(bytes);
                counted.blob_bytes = counted.blob_bytes.saturating_add(body.len() as u64);
                Item::Part(body.to_vec())
            }
            format::BLOB_END => {
                let bytes = self.blob_bytes.take().map(u64::to_be_bytes);
                if bytes.as_ref().map(<[u8; 8]>::as_slice) != Some(body) {
                    return Err(BackupError::Damaged { what: "the length of a blob" });
                }
                Item::BlobEnd
            }
            _ => {
                let (marks, rest) = body.as_chunks::<16>();
                counted.kept = counted.kept.saturating_add(marks.len() as u64);
                if !rest.is_empty() || counted.kept > KEPT_COUNT_MAX as u64 || self.head.parent.is_none() {
                    return Err(BackupError::Damaged { what: "its marks" });
                }
                Item::Kept(marks.to_vec())
            }
        }))
    }

    fn check(&mut self, manifest: &Manifest) -> Result<(), BackupError> {
        let said = Counted {
            records: manifest.records_count,
            value_bytes: manifest.value_bytes,
            blobs: manifest.blobs_count,
            blob_bytes: manifest.blob_bytes,
            kept: manifest.kept_count,
        };
        let digest = HEXLOWER.encode(&std::mem::take(&mut self.hash).finalize());
        let full = self.head.parent.is_none();
        if said != self.counted || manifest.sha256 != digest || full != (manifest.since_revision == 0) {
            return Err(BackupError::Damaged { what: "its manifest, which does not fit its content" });
        }
        Ok(())
    }

    /// Reads on; says whether there was more.
    async fn fill(&mut self) -> Result<bool, BackupError> {
        let Some(mut file) = self.file.take() else { return Ok(false) };
        let mut opener = self.opener.take().ok_or(BackupError::NoKey)?;
        let at = std::mem::take(&mut self.at);
        let mut buffer = std::mem::take(&mut self.buffer);
        let read_bytes = at.min(buffer.len());
        buffer.drain(..read_bytes);
        let read = spawn_blocking(move || {
            let mut sealed = Vec::with_capacity(READ_BYTES);
            (&mut file).take(READ_BYTES as u64).read_to_end(&mut sealed).map_err(BackupError::from_io)?;
            let altered = |_| BackupError::Damaged { what: "its sealed content: altered, cut or of another archive" };
            if sealed.is_empty() {
                opener.finish(&mut buffer).map_err(altered)?;
                return Ok((buffer, None));
            }
            opener.push(&sealed, &mut buffer).map_err(altered)?;
            Ok::<_, BackupError>((buffer, Some((file, opener))))
        });
        let (buffer, rest) = read.await.map_err(BackupError::io)??;
        self.buffer = buffer;
        if let Some((file, opener)) = rest {
            self.file = Some(file);
            self.opener = Some(opener);
        }
        Ok(true)
    }
}

/// Reads a head, without a key.
pub(crate) fn read_head(file: &mut impl io::Read) -> Result<(Head, Vec<u8>), BackupError> {
    let short = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::NotAnArchive,
        _ => BackupError::from_io(error),
    };
    let mut prefix = vec![0_u8; PREFIX_BYTES];
    file.read_exact(&mut prefix).map_err(short)?;
    let mut json = vec![0_u8; format::head_bytes(&prefix)?];
    file.read_exact(&mut json).map_err(short)?;
    let head = format::decode_head(&json)?;
    prefix.extend_from_slice(&json);
    Ok((head, prefix))
}

/// An archive with those it builds on, newest first: gives each record and blob once, as the newest shows it.
pub(crate) struct Chain<'a> {
    archives: &'a Archives,
    keyring: &'a Keyring,
    uid: String,
    reader: Option<Reader>,
    depth: usize,
    /// What the newest shares with those before it and was not met yet.
    wanted: HashSet<Mark>,
    /// Whether the blob that is open is one of them, or of the newest.
    in_wanted_blob: bool,
    newest: Option<Manifest>,
    /// The revision that the next older one must show.
    since_revision: u64,
}

// === impl Chain ===

impl<'a> Chain<'a> {
    /// Opens an archive of a tenant, by the unique id that the tenant had.
    pub(crate) async fn open(
        archives: &'a Archives,
        keyring: &'a Keyring,
        uid: &str,
        id: &BackupId,
    ) -> Result<Self, BackupError> {
        let mut this = Self {
            archives,
            keyring,
            uid: uid.to_owned(),
            reader: None,
            depth: 0,
            wanted: HashSet::new(),
            in_wanted_blob: false,
            newest: None,
            since_revision: 0,
        };
        this.reader = Some(this.reader(id).await?);
        Ok(this)
    }

    /// The newest archive's manifest; there once [`Chain::next`] gave none.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.newest.as_ref()
    }

    /// The next record or piece of a blob; none once all archives were read whole and nothing is missing.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, BackupError> {
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            let newest = self.depth == 1;
            match reader.next().await? {
                Some(Item::Kept(marks)) if newest => self.wanted.extend(marks),
                Some(Item::Kept(_)) => {}
                Some(Item::Record(key, record)) => {
                    let wanted = newest || reader.last_mark().is_some_and(|mark| self.wanted.remove(&mark));
                    if wanted {
                        return Ok(Some(Item::Record(key, record)));
                    }
                }
                Some(Item::Blob(id)) => {
                    self.in_wanted_blob = newest || self.wanted.remove(&format::blob_mark(&id));
                    if self.in_wanted_blob {
                        return Ok(Some(Item::Blob(id)));
                    }
                }
                Some(piece) if self.in_wanted_blob => return Ok(Some(piece)),
                Some(_) => {}
                None => self.older().await?,
            }
        }
    }

    /// Goes on with the archive that the one just read builds on.
    async fn older(&mut self) -> Result<(), BackupError> {
        let Some(reader) = self.reader.take() else { return Ok(()) };
        let manifest = reader.manifest().cloned().ok_or(BackupError::Damaged { what: "its manifest" })?;
        if self.depth > 1 && manifest.revision != self.since_revision {
            return Err(BackupError::Damaged { what: "the archive it builds on, which is not the one it names" });
        }
        self.since_revision = manifest.since_revision;
        self.newest.get_or_insert(manifest);
        match reader.head().parent.clone() {
            Some(parent) => {
                let opened = self.reader(&parent).await;
                self.reader = Some(opened.map_err(|error| match error {
                    BackupError::Unknown => BackupError::ParentMissing { parent },
                    other => other,
                })?);
                Ok(())
            }
            None if self.wanted.is_empty() => Ok(()),
            None => Err(BackupError::Damaged { what: "the archives it builds on, which lack some of its records" }),
        }
    }

    async fn reader(&mut self, id: &BackupId) -> Result<Reader, BackupError> {
        self.depth += 1;
        if self.depth > CHAIN_COUNT_MAX {
            return Err(BackupError::Damaged { what: "a chain of archives without an end" });
        }
        let mut reader = Reader::open(&self.archives.0.files, &Archives::path(&self.uid, id)).await?;
        let head = reader.head();
        if head.backup != *id || head.tenant_uid != self.uid {
            return Err(BackupError::Damaged { what: "its name, which belongs to another archive" });
        }
        let key = self.keyring.get(&head.key).ok_or(BackupError::NoKey)?.clone();
        reader.unlock(&key)?;
        Ok(reader)
    }
}
