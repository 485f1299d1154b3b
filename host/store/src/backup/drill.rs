//! A drill: restores an archive into a tenant that nobody sees, compares every record and every blob, and destroys it.
//!
//! Must never touch the tenant that the archive was made of, beyond writing down the result.

use std::collections::VecDeque;

use bytes::Bytes;
use jiff::Timestamp;
use ringfence_core::BackupId;
use serde::{Deserialize, Serialize};

use crate::backup::read::Item;
use crate::backup::restore::{Place, Source, Staged};
use crate::backup::{Archives, BackupError, Stored, archive_key};
use crate::blobs::BlobReader;
use crate::key::Key;
use crate::tenant_store::TenantStore;
use crate::tenants::Tenants;

/// The result of a drill that found no difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// When.
    pub at: Timestamp,
    /// Records restored and compared.
    pub records_count: u64,
    /// Blobs restored and compared.
    pub blobs_count: u64,
    /// Bytes of them.
    pub content_bytes: u64,
    /// How long it took, milliseconds: how long a real restore would take.
    pub took_ms: u64,
}

/// A drill that did not come to its end, or found a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFailed {
    /// When.
    pub at: Timestamp,
    /// Why, in words.
    pub what: String,
}

// === impl Archives ===

impl Archives {
    /// Restores into a staged tenant and compares; the caller looks at what he likes in it, and discards it.
    pub async fn rehearse(&self, tenants: &Tenants, source: &Source) -> Result<(Staged, Drilled), BackupError> {
        let started = self.0.clock.monotonic();
        // Under no name: it lives for the drill, its keys are its own, and what tenants are called is nothing to it.
        let staged = self.restore_staged(tenants, source, None, u64::MAX).await?;
        match self.compare(staged.store(), source).await {
            Ok((records_count, blobs_count, content_bytes)) => {
                let took = self.0.clock.monotonic().saturating_sub(started);
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                let at = self.0.clock.now();
                Ok((staged, Drilled { at, records_count, blobs_count, content_bytes, took_ms }))
            }
            Err(error) => {
                staged.discard().await?;
                Err(error)
            }
        }
    }

    /// Writes a drill's result down beside the archive it was about, in place of a failure before it.
    pub async fn drilled(&self, store: &TenantStore, id: &BackupId, result: Drilled) -> Result<Stored, BackupError> {
        let mut stored = self.stored(store, id).await?.ok_or(BackupError::Unknown)?;
        stored.verified_at = result.at;
        stored.drill = Some(result);
        stored.drill_failed = None;
        store.put_json(&archive_key(id), &stored).await?;
        Ok(stored)
    }

    /// Writes down that a drill failed, beside the last that did not.
    pub async fn drill_failed(
        &self,
        store: &TenantStore,
        id: &BackupId,
        failed: DrillFailed,
    ) -> Result<(), BackupError> {
        let mut stored = self.stored(store, id).await?.ok_or(BackupError::Unknown)?;
        stored.drill_failed = Some(failed);
        store.put_json(&archive_key(id), &stored).await?;
        Ok(())
    }

    /// Compares every record and blob of a restored tenant with the archive.
    pub(super) async fn compare(&self, store: &TenantStore, source: &Source) -> Result<(u64, u64, u64), BackupError> {
        let place = Place::New(source.tenant_uid.clone());
        let (mut records_count, mut blobs_count, mut bytes) = (0_u64, 0_u64, 0_u64);
        let mut blob: Option<Compared> = None;
        let mut chain = self.chain(source).await?;
        while let Some(item) = chain.next().await? {
            match item {
                Item::Record(key, record) => {
                    let Some(key) = place.key(key) else { continue };
                    let there = store.get(&key).await?;
                    if there.is_none_or(|there| there.value != record.value) {
                        return Err(BackupError::Differs { what: "a record" });
                    }
                    records_count += 1;
                    bytes = bytes.saturating_add(record.value.len() as u64);
                }
                Item::Blob(id) => {
                    blob = Some(Compared { reader: store.blobs().read_stream(&id).await?, ahead: VecDeque::new() });
                    blobs_count += 1;
                }
                Item::Part(part) => {
                    bytes = bytes.saturating_add(part.len() as u64);
                    if let Some(blob) = &mut blob {
                        blob.expect(&part).await?;
                    }
                }
                Item::BlobEnd => {
                    if let Some(blob) = blob.take() {
                        blob.end().await?;
                    }
                }
                Item::Kept(_) => {}
            }
        }
        if count(store).await? != records_count || store.blobs().list().await?.len() as u64 != blobs_count {
            return Err(BackupError::Differs { what: "the number of records or blobs" });
        }
        Ok((records_count, blobs_count, bytes))
    }
}

/// A restored blob, read beside the archive's.
struct Compared {
    reader: BlobReader,
    ahead: VecDeque<Bytes>,
}

// === impl Compared ===

impl Compared {
    async fn expect(&mut self, mut part: &[u8]) -> Result<(), BackupError> {
        while !part.is_empty() {
            let piece = match self.ahead.pop_front() {
                Some(piece) => piece,
                None => self.reader.next().await?.ok_or(BackupError::Differs { what: "a blob" })?,
            };
            let length = piece.len().min(part.len());
            let (now, later) = part.split_at(length);
            if piece.get(..length) != Some(now) {
                return Err(BackupError::Differs { what: "a blob" });
            }
            if piece.len() > length {
                self.ahead.push_front(piece.slice(length..));
            }
            part = later;
        }
        Ok(())
    }

    async fn end(mut self) -> Result<(), BackupError> {
        if self.ahead.is_empty() && self.reader.next().await?.is_none() {
            return Ok(());
        }
        Err(BackupError::Differs { what: "a blob" })
    }
}

async fn count(store: &TenantStore) -> Result<u64, BackupError> {
    let (mut count, mut after) = (0_u64, None);
    loop {
        let page = store.scan(&Key::default(), after.as_ref(), usize::MAX).await?;
        count = count.saturating_add(page.records.len() as u64);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}
