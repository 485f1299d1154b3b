//! The content area of a tenant: large files, sealed in chunks as they stream, named by a random id.
//!
//! A blob is durable when [`BlobWriter::finish`] returned its id, and not there before. Must never give a byte that did not
//! authenticate; a reader that wants all or nothing waits for the end of the stream.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use ringfence_keys::{Context, Purpose, StreamOpener, StreamSealer, TenantKeys};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::error::StoreError;
use crate::files::{FileReader, FileWriter};
use crate::key::Uid;
use crate::store::Store;
use crate::tenant_store::Tenant;

/// LIMIT: most bytes of one blob.
pub const BLOB_BYTES_MAX: u64 = 1 << 30;

/// How much is gathered before it is sealed and written.
pub(crate) const WRITE_BYTES: usize = 256 << 10;
/// How much is read at a time.
pub(crate) const READ_BYTES: usize = 256 << 10;

/// The name of a blob: 32 hex digits, random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobId([u8; 16]);

/// A tenant's content area. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    store: Store,
    tenant: Arc<Tenant>,
}

/// A blob on its way. Dropped before [`BlobWriter::finish`], it leaves nothing.
pub struct BlobWriter {
    id: BlobId,
    blobs: Blobs,
    /// None while a piece is being written, and for good after a failure.
    out: Option<(StreamSealer, FileWriter)>,
    waiting: Vec<u8>,
    bytes: u64,
}

/// A blob being read.
pub struct BlobReader {
    blobs: Blobs,
    /// None after the end and after a failure.
    input: Option<(StreamOpener, FileReader)>,
}

// === impl BlobId ===

impl BlobId {
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    pub(crate) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}
impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for BlobId {
    type Err = StoreError;
    fn from_str(text: &str) -> Result<Self, StoreError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| StoreError::BadBlobId)?;
        bytes.try_into().map(Self).map_err(|_| StoreError::BadBlobId)
    }
}
impl TryFrom<String> for BlobId {
    type Error = StoreError;
    fn try_from(text: String) -> Result<Self, StoreError> {
        text.parse()
    }
}
impl From<BlobId> for String {
    fn from(id: BlobId) -> String {
        id.to_string()
    }
}

// === impl Blobs ===

impl Blobs {
    pub(crate) fn new(store: Store, tenant: Arc<Tenant>) -> Self {
        Self { store, tenant }
    }

    /// Starts a new blob.
    pub async fn create(&self) -> Result<BlobWriter, StoreError> {
        let mut id = BlobId([0; 16]);
        self.tenant.entropy.fill(&mut id.0);
        self.create_as(id).await
    }

    /// As [`Blobs::create`], under an id that another blob had; for restoring, where records name it.
    pub(crate) async fn create_as(&self, id: BlobId) -> Result<BlobWriter, StoreError> {
        self.tenant.check_alive()?;
        let blobs = self.clone();
        let out = blocking(move || {
            blobs.store.0.check_free()?;
            let Tenant { uid, keys, entropy, .. } = &*blobs.tenant;
            let sealer = keys.stream_sealer(Purpose::Blob, &context(keys, &id), entropy.as_ref())?;
            let file = blobs.store.0.files.create(&path(uid, &id)).map_err(StoreError::unavailable)?;
            Ok((sealer, file))
        })
        .await?;
        Ok(BlobWriter { id, blobs: self.clone(), out: Some(out), waiting: Vec::new(), bytes: 0 })
    }

    /// Opens a blob for reading; [`StoreError::Missing`] when there is none of that id.
    pub async fn read_stream(&self, id: &BlobId) -> Result<BlobReader, StoreError> {
        self.tenant.check_alive()?;
        let (blobs, id) = (self.clone(), *id);
        let input = blocking(move || {
            let Tenant { uid, keys, .. } = &*blobs.tenant;
            let file = blobs.store.0.files.open(&path(uid, &id)).map_err(not_found)?;
            Ok((keys.stream_opener(Purpose::Blob, &context(keys, &id)), file))
        })
        .await?;
        Ok(BlobReader { blobs: self.clone(), input: Some(input) })
    }

    /// Reads a whole blob, or fails with [`StoreError::TooLarge`] once it is longer than `bytes_max`.
    pub async fn read_all(&self, id: &BlobId, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let mut reader = self.read_stream(id).await?;
        let mut content = Vec::new();
        while let Some(part) = reader.next().await? {
            if (content.len() as u64).saturating_add(part.len() as u64) > bytes_max {
                return Err(StoreError::TooLarge { what: "a file", max: bytes_max });
            }
            content.extend_from_slice(&part);
        }
        Ok(content)
    }

    /// Removes a blob; fine when there is none.
    pub async fn delete(&self, id: &BlobId) -> Result<(), StoreError> {
        self.tenant.check_alive()?;
        let (blobs, id) = (self.clone(), *id);
        blocking(move || {
            let path = path(&blobs.tenant.uid, &id);
            // A backup that is being written still reads it; it goes once that is done.
            if blobs.store.0.counters.pins.lock().keeps_blob(&id, &path) {
                return Ok(());
            }
            blobs.store.0.files.remove(&path).map_err(StoreError::unavailable)
        })
        .await
    }

    /// The ids of all blobs.
    pub async fn list(&self) -> Result<Vec<BlobId>, StoreError> {
        self.tenant.check_alive()?;
        let blobs = self.clone();
        blocking(move || {
            let names = blobs.store.0.files.list(&directory(&blobs.tenant.uid)).map_err(StoreError::unavailable)?;
            // Whatever else lies there is not ours to read.
            Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
        })
        .await
    }

    /// Removes all blobs but those in `keep`; says how many. For the start, before anyone writes: a crash between a
    /// finished blob and the record that should name it leaves the blob behind.
    pub async fn sweep(&self, keep: &BTreeSet<BlobId>) -> Result<usize, StoreError> {
        let mut removed = 0;
        for id in self.list().await? {
            if !keep.contains(&id) {
                self.delete(&id).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<blobs>")
    }
}

// === impl BlobWriter ===

impl BlobWriter {
    /// The id the blob will have.
    pub fn id(&self) -> BlobId {
        self.id
    }
    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes. After a failure, or when the future is dropped half way, the writer is of no more use.
    pub async fn write(&mut self, data: Bytes) -> Result<(), StoreError> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.bytes > BLOB_BYTES_MAX {
            self.out = None;
            return Err(StoreError::TooLarge { what: "a file", max: BLOB_BYTES_MAX });
        }
        self.waiting.extend_from_slice(&data);
        if self.waiting.len() < WRITE_BYTES {
            return Ok(());
        }
        let data = std::mem::take(&mut self.waiting);
        self.out = Some(self.seal(data).await?);
        Ok(())
    }

    /// Ends the blob; it is there, and durable, once this returns.
    pub async fn finish(mut self) -> Result<BlobId, StoreError> {
        let data = std::mem::take(&mut self.waiting);
        let (sealer, mut file) = self.seal(data).await?;
        let tenant = Arc::clone(&self.blobs.tenant);
        let whole = blocking(move || {
            let mut sealed = Vec::new();
            sealer.finish(&mut sealed)?;
            file.write(&sealed).map_err(StoreError::unavailable)?;
            tenant.check_alive()?;
            file.finish().map_err(StoreError::unavailable)
        })
        .await?;
        whole.keep();
        Ok(self.id)
    }

    async fn seal(&mut self, data: Vec<u8>) -> Result<(StreamSealer, FileWriter), StoreError> {
        let (mut sealer, mut file) =
            self.out.take().ok_or_else(|| StoreError::unavailable("an earlier write failed"))?;
        let blobs = self.blobs.clone();
        blocking(move || {
            blobs.tenant.check_alive()?;
            blobs.store.0.check_free()?;
            let mut sealed = Vec::with_capacity(data.len() + data.len() / 1_024 + 64);
            sealer.push(&data, &mut sealed)?;
            file.write(&sealed).map_err(StoreError::unavailable)?;
            Ok((sealer, file))
        })
        .await
    }
}

impl fmt::Debug for BlobWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<writer of {}>", self.id)
    }
}

// === impl BlobReader ===

impl BlobReader {
    /// The next bytes, none after the last. What comes is authentic; that it is all is certain only once none came.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while let Some((mut opener, mut file)) = self.input.take() {
            self.blobs.tenant.check_alive()?;
            let (content, input) = blocking(move || {
                let mut buffer = vec![0_u8; READ_BYTES];
                let count = file.read(&mut buffer).map_err(StoreError::unavailable)?;
                let mut content = Vec::with_capacity(count);
                if count == 0 {
                    opener.finish(&mut content).map_err(StoreError::opening)?;
                    return Ok((content, None));
                }
                let read = buffer.get(..count).unwrap_or_default();
                opener.push(read, &mut content).map_err(StoreError::opening)?;
                Ok((content, Some((opener, file))))
            })
            .await?;
            self.input = input;
            if !content.is_empty() {
                return Ok(Some(content.into()));
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<blob reader>")
    }
}

/// The directory of a tenant's blobs.
pub(crate) fn directory(uid: &Uid) -> String {
    format!("blobs/{}/contents", HEXLOWER.encode(uid))
}

fn path(uid: &Uid, id: &BlobId) -> String {
    format!("{}/{id}", directory(uid))
}

pub(crate) fn context<'a>(keys: &'a TenantKeys, id: &'a BlobId) -> Context<'a> {
    Context { tenant: keys.tenant(), store: "blob", key: &id.0, revision: 0 }
}

fn not_found(error: io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::NotFound { StoreError::Missing } else { StoreError::unavailable(error) }
}

pub(crate) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(act).await.map_err(StoreError::unavailable)?
}
