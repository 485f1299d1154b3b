//! Writes an archive of a pinned tenant, and reads it back before it counts.
//!
//! Must never leave a file under an archive's name that was not read back whole, nor hold more than one page of the tenant.

use std::collections::BTreeSet;
use std::io;

use data_encoding::HEXLOWER;
use ringfence_core::{BackupId, TenantId};
use ringfence_keys::{StreamSealer, Zeroizing};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::backup::format::{self, Class, Head, Manifest, Mark};
use crate::backup::pin::{self, Snapshot};
use crate::backup::read::Reader;
use crate::backup::{Archives, BackupError, GuestLogs, Reason, Stored, keyring};
use crate::blobs::BlobId;
use crate::files::FileWriter;
use crate::key::Segment;
use crate::tenant_store::TenantStore;

/// How much is gathered before it is sealed and written.
const WRITE_BYTES: usize = 1 << 20;
/// LIMIT: records and blobs shared with a parent; more make a full archive the better choice.
pub(crate) const KEPT_COUNT_MAX: usize = 2_000_000;

/// What the caller says about a backup to be.
#[derive(Debug, Clone)]
pub struct Order {
    /// The tenant's name.
    pub tenant: TenantId,
    /// What people call it.
    pub display_name: String,
    /// This host's name.
    pub host: String,
    /// The archive to build on; none for a full one.
    pub parent: Option<BackupId>,
    /// Who wanted it.
    pub reason: Reason,
    /// Whether guest logs go in.
    pub guest_logs: GuestLogs,
    /// The signed head of the audit log, taken before; empty for none.
    pub audit_checkpoint: String,
    /// Its verifier key.
    pub audit_vkey: String,
}

/// What of a snapshot goes in, compared with a parent.
struct Base {
    revision: u64,
    blobs: BTreeSet<BlobId>,
}

// === impl Archives ===

impl Archives {
    /// Makes an archive of a tenant as it is now, while it goes on working, reads it back, and remembers it in the tenant's
    /// own records. Whatever fails leaves no archive.
    pub async fn create(&self, store: &TenantStore, order: &Order) -> Result<Stored, BackupError> {
        let key = keyring::current(store, &*self.0.entropy).await?;
        let base = match &order.parent {
            None => None,
            Some(parent) => {
                let stored = self.stored(store, parent).await?.ok_or(BackupError::Unknown)?;
                self.head(&store.uid(), parent).await?;
                Some(Base { revision: stored.revision, blobs: self.blobs_of(store, parent).await? })
            }
        };
        let head = Head {
            backup: BackupId::random(&*self.0.entropy),
            parent: order.parent.clone(),
            tenant_uid: store.uid(),
            key: key.id(),
            host: order.host.clone(),
            created_at: self.0.clock.now(),
        };
        let mut snapshot = Snapshot::pin(store).await?;
        let prefix = format::encode_head(&head)?;
        let sealer = key.sealer(&prefix, &*self.0.entropy).map_err(crate::StoreError::from)?;
        let files = self.0.files.clone();
        let (directory, path) = (head.tenant_uid.clone(), Self::path(&head.tenant_uid, &head.backup));
        let file = spawn_blocking(move || {
            files.make_directory(&directory)?;
            let mut file = files.create(&path)?;
            file.write(&prefix)?;
            io::Result::Ok(file)
        });
        let file = file.await.map_err(BackupError::io)?.map_err(BackupError::from_io)?;
        let mut out = Out { sink: Some((sealer, file)), waiting: Zeroizing::default(), hash: Sha256::new() };
        let mut manifest = manifest(order, &snapshot, store, base.as_ref())?;
        let blobs = copy(&mut out, store, &mut snapshot, order.guest_logs, base.as_ref(), &mut manifest).await?;
        out.finish(&mut manifest).await?;
        drop(snapshot);
        // Verified by the same reader that a restore uses, before anybody hears of it.
        let read = async {
            let mut reader = Reader::open(&self.0.files, &Self::path(&head.tenant_uid, &head.backup)).await?;
            reader.unlock(&key)?;
            while reader.next().await?.is_some() {}
            reader
                .manifest()
                .filter(|read| **read == manifest)
                .map(|_| ())
                .ok_or(BackupError::Damaged { what: "its manifest" })
        };
        let kept = match read.await {
            Ok(()) => self.remember(store, &head, &manifest, order.reason, &blobs).await,
            Err(error) => Err(error),
        };
        if kept.is_err() {
            self.remove_file(&head.tenant_uid, &head.backup).await?;
        }
        kept
    }
}

fn manifest(
    order: &Order,
    snapshot: &Snapshot,
    store: &TenantStore,
    base: Option<&Base>,
) -> Result<Manifest, BackupError> {
    Ok(Manifest {
        tenant: order.tenant.clone(),
        display_name: order.display_name.clone(),
        since_revision: base.map_or(0, |base| base.revision),
        revision: snapshot.revision(),
        records_count: 0,
        value_bytes: 0,
        blobs_count: 0,
        blob_bytes: 0,
        kept_count: 0,
        held_bytes: store.held()?.bytes,
        sha256: String::new(),
        audit_checkpoint: order.audit_checkpoint.clone(),
        audit_vkey: order.audit_vkey.clone(),
    })
}

/// Writes records, blobs and marks; gives the ids of all blobs that the archive and its parents hold.
async fn copy(
    out: &mut Out,
    store: &TenantStore,
    snapshot: &mut Snapshot,
    guest_logs: GuestLogs,
    base: Option<&Base>,
    manifest: &mut Manifest,
) -> Result<BTreeSet<BlobId>, BackupError> {
    let (mut kept, mut uploading) = (Vec::<Mark>::new(), BTreeSet::new());
    while let Some(records) = snapshot.next().await? {
        for (key, record) in records {
            match format::class(&key) {
                Class::Apart => {
                    if let [Segment::Name(first), Segment::Name(blob)] = key.segments()
                        && first == "quarantine"
                    {
                        uploading.extend(blob.parse::<BlobId>().ok());
                    }
                    continue;
                }
                Class::Logs if guest_logs == GuestLogs::Without => continue,
                _ => {}
            }
            let encoded = format::encode_key(&key, record.revision)?;
            if base.is_some_and(|base| record.revision <= base.revision) {
                kept.push(format::record_mark(&encoded));
            } else {
                out.frame(format::RECORD, &[&encoded, &record.value]).await?;
                manifest.records_count += 1;
                manifest.value_bytes = manifest.value_bytes.saturating_add(record.value.len() as u64);
            }
        }
    }
    let mut blobs = BTreeSet::new();
    for id in snapshot.blobs().iter().filter(|id| !uploading.contains(id)) {
        if base.is_some_and(|base| base.blobs.contains(id)) {
            kept.push(format::blob_mark(id));
            blobs.insert(*id);
        } else if let Some(bytes) = copy_blob(out, store, id).await? {
            manifest.blobs_count += 1;
            manifest.blob_bytes = manifest.blob_bytes.saturating_add(bytes);
            blobs.insert(*id);
        }
    }
    if kept.len() > KEPT_COUNT_MAX {
        return Err(BackupError::TooMuchKept);
    }
    for marks in kept.chunks(format::MARKS_COUNT) {
        out.frame(format::KEPT, &[marks.as_flattened()]).await?;
    }
    manifest.kept_count = kept.len() as u64;
    Ok(blobs)
}

async fn copy_blob(out: &mut Out, store: &TenantStore, id: &BlobId) -> Result<Option<u64>, BackupError> {
    let Some(mut reader) = pin::blob_reader(store, id).await? else { return Ok(None) };
    out.frame(format::BLOB, &[id.bytes()]).await?;
    let mut bytes = 0_u64;
    while let Some(part) = reader.next().await? {
        for piece in part.chunks(format::PART_BYTES_MAX) {
            out.frame(format::PART, &[piece]).await?;
        }
        bytes = bytes.saturating_add(part.len() as u64);
    }
    out.frame(format::BLOB_END, &[&bytes.to_be_bytes()]).await?;
    Ok(Some(bytes))
}

/// An archive on its way. Dropped before [`Out::finish`], it leaves nothing.
struct Out {
    /// None while a piece is being written, and for good after a failure.
    sink: Option<(StreamSealer, FileWriter)>,
    waiting: Zeroizing<Vec<u8>>,
    hash: Sha256,
}

// === impl Out ===

impl Out {
    async fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), BackupError> {
        let head = format::frame_head(kind, parts.iter().map(|part| part.len()).sum())?;
        for part in [head.as_slice()].iter().chain(parts) {
            self.hash.update(part);
            self.waiting.extend_from_slice(part);
        }
        if self.waiting.len() >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), BackupError> {
        let (mut sealer, mut file) =
            self.sink.take().ok_or(BackupError::Io { reason: "an earlier write failed".to_owned() })?;
        let waiting = std::mem::take(&mut self.waiting);
        let written = spawn_blocking(move || {
            let mut sealed = Vec::with_capacity(waiting.len() + waiting.len() / 1_024 + 64);
            sealer.push(&waiting, &mut sealed).map_err(crate::StoreError::from)?;
            file.write(&sealed).map_err(BackupError::from_io)?;
            Ok::<_, BackupError>((sealer, file))
        });
        self.sink = Some(written.await.map_err(BackupError::io)??);
        Ok(())
    }

    /// Writes the manifest, with the digest of all before it, and gives the file its name.
    async fn finish(mut self, manifest: &mut Manifest) -> Result<(), BackupError> {
        let hash = std::mem::take(&mut self.hash);
        manifest.sha256 = HEXLOWER.encode(&hash.finalize());
        let json = serde_json::to_vec(manifest).map_err(|_| BackupError::Damaged { what: "its manifest" })?;
        self.frame(format::MANIFEST, &[&json]).await?;
        self.flush().await?;
        let (sealer, mut file) =
            self.sink.take().ok_or(BackupError::Io { reason: "an earlier write failed".to_owned() })?;
        let written = spawn_blocking(move || {
            let mut sealed = Vec::new();
            sealer.finish(&mut sealed).map_err(crate::StoreError::from)?;
            file.write(&sealed).map_err(BackupError::from_io)?;
            file.replace().map_err(BackupError::from_io)
        });
        written.await.map_err(BackupError::io)?
    }
}
