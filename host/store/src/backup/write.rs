//! Writes an archive of a pinned tenant, and reads it back before it counts.
//!
//! Must never leave a file under an archive's name that was not read back whole, nor hold more than one page of the tenant.

use std::collections::BTreeSet;
use std::io;

use data_encoding::HEXLOWER;
use ringfence_core::{BackupId, TenantId};
use ringfence_keys::{BackupKey, StreamSealer, Zeroizing};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::backup::format::{self, Class, Head, Manifest, Mark};
use crate::backup::pin::{self, Rotten, Snapshot};
use crate::backup::read::{Item, Reader};
use crate::backup::restore::Source;
use crate::backup::{Archives, BackupError, GuestLogs, Keyring, Reason, Stored, keyring};
use crate::blobs::BlobId;
use crate::error::StoreError;
use crate::files::FileWriter;
use crate::key::{Key, Segment};
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
    /// The archive to build on; none for a full one. Where it lacks something that was damaged, a full one is made all the same.
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
    backup: BackupId,
    revision: u64,
    blobs: BTreeSet<BlobId>,
}

// === impl Archives ===

impl Archives {
    /// Makes an archive of a tenant as it is now, while it goes on working, reads it back, and remembers it in the tenant's
    /// own records. Whatever fails leaves no archive. What of the tenant is damaged is left out, named and counted.
    pub async fn create(&self, store: &TenantStore, order: &Order) -> Result<Stored, BackupError> {
        let key = keyring::current(store, &*self.0.entropy).await?;
        let base = self.base(store, order).await?;
        let head = Head {
            backup: BackupId::random(&*self.0.entropy),
            parent: base.as_ref().map(|base| base.backup.clone()),
            tenant_uid: store.uid(),
            key: key.id(),
            host: order.host.clone(),
            created_at: self.0.clock.now(),
        };
        let mut rotten = BTreeSet::new();
        let (manifest, blobs) = loop {
            let written = self.write(store, order, (&head, &key), base.as_ref(), &rotten).await;
            match written {
                // That a blob is damaged shows when half of it is written. All that are, are looked for once, and left out.
                Err(BackupError::Store(StoreError::Damaged)) if rotten.is_empty() => {
                    rotten = rotten_blobs(store, base.as_ref()).await?;
                    if rotten.is_empty() {
                        return Err(StoreError::Damaged.into());
                    }
                }
                written => break written?,
            }
        };
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

    /// The archive to build on. None where that one lacks something: what has not changed since is in it or is not, and nobody could
    /// tell. None either where its key, or what is known of its blobs, is damaged.
    async fn base(&self, store: &TenantStore, order: &Order) -> Result<Option<Base>, BackupError> {
        let Some(parent) = &order.parent else { return Ok(None) };
        let stored = self.stored(store, parent).await?.ok_or(BackupError::Unknown)?;
        if stored.lost_count > 0 {
            return Ok(None);
        }
        let head = self.head(&store.uid(), parent).await?;
        if Keyring::of(store).await?.get(&head.key).is_none() {
            return Ok(None);
        }
        let blobs = match self.blobs_of(store, parent).await {
            Err(BackupError::Store(StoreError::Damaged)) => return Ok(None),
            blobs => blobs?,
        };
        Ok(Some(Base { backup: parent.clone(), revision: stored.revision, blobs }))
    }

    /// Writes an archive of what there is now, without these blobs; gives its manifest, and the ids of all blobs that it and its
    /// parents hold.
    async fn write(
        &self,
        store: &TenantStore,
        order: &Order,
        (head, key): (&Head, &BackupKey),
        base: Option<&Base>,
        rotten: &BTreeSet<BlobId>,
    ) -> Result<(Manifest, BTreeSet<BlobId>), BackupError> {
        let mut snapshot = Snapshot::pin(store).await?;
        let prefix = format::encode_head(head)?;
        let sealer = key.sealer(&prefix, &*self.0.entropy).map_err(StoreError::from)?;
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
        let mut manifest = manifest(order, &snapshot, store, base)?;
        let mut kept = Vec::new();
        let Unwritten { uploading, doubtful } =
            copy_records(&mut out, &mut snapshot, order.guest_logs, base, &mut manifest, &mut kept).await?;
        manifest.lost_count = manifest.damaged_count;
        if let Some(base) = base.filter(|_| !doubtful.is_empty()) {
            let saved = self.shown(store, &base.backup, &doubtful).await?;
            manifest.lost_count = manifest.lost_count.saturating_sub(saved.len() as u64);
            kept.extend(saved);
        }
        let there: BTreeSet<BlobId> = snapshot.blobs().difference(&uploading).copied().collect();
        let blobs = copy_blobs(&mut out, store, (&there, rotten), base, &mut manifest, &mut kept).await?;
        if kept.len() > KEPT_COUNT_MAX {
            return Err(BackupError::TooMuchKept);
        }
        for marks in kept.chunks(format::MARKS_COUNT) {
            out.frame(format::KEPT, &[marks.as_flattened()]).await?;
        }
        manifest.kept_count = kept.len() as u64;
        out.finish(&mut manifest).await?;
        Ok((manifest, blobs))
    }

    /// The records of these marks that an archive shows, by itself or by what it builds on.
    async fn shown(
        &self,
        store: &TenantStore,
        backup: &BackupId,
        wanted: &BTreeSet<Mark>,
    ) -> Result<BTreeSet<Mark>, BackupError> {
        let source = Source { tenant_uid: store.uid(), backup: backup.clone(), keyring: Keyring::of(store).await? };
        let (mut chain, mut shown) = (self.chain(&source).await?, BTreeSet::new());
        while let Some(item) = chain.next().await? {
            if let Item::Record(key, record) = item {
                let mark = format::record_mark(&format::encode_key(&key, record.revision)?);
                if wanted.contains(&mark) {
                    shown.insert(mark);
                }
            }
        }
        Ok(shown)
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
        damaged_count: 0,
        lost_count: 0,
        sha256: String::new(),
        audit_checkpoint: order.audit_checkpoint.clone(),
        audit_vkey: order.audit_vkey.clone(),
    })
}

/// What was met among the records and is not written.
struct Unwritten {
    /// Blobs that are still being uploaded.
    uploading: BTreeSet<BlobId>,
    /// Marks of damaged records that the parent may have as they were.
    doubtful: BTreeSet<Mark>,
}

/// Writes the records that changed since the parent, and notes the others.
async fn copy_records(
    out: &mut Out,
    snapshot: &mut Snapshot,
    guest_logs: GuestLogs,
    base: Option<&Base>,
    manifest: &mut Manifest,
    kept: &mut Vec<Mark>,
) -> Result<Unwritten, BackupError> {
    let (mut uploading, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
    let is_old = |revision: u64| base.is_some_and(|base| revision <= base.revision);
    while let Some((records, rotten)) = snapshot.next().await? {
        for (key, record) in records {
            if !goes_in(&key, guest_logs, &mut uploading) {
                continue;
            }
            let encoded = format::encode_key(&key, record.revision)?;
            if is_old(record.revision) {
                kept.push(format::record_mark(&encoded));
            } else {
                out.frame(format::RECORD, &[&encoded, &record.value]).await?;
                manifest.records_count += 1;
                manifest.value_bytes = manifest.value_bytes.saturating_add(record.value.len() as u64);
            }
        }
        for Rotten { key, revision } in rotten {
            if key.as_ref().is_some_and(|key| !goes_in(key, guest_logs, &mut uploading)) {
                continue;
            }
            manifest.damaged_count += 1;
            if let Some((key, revision)) = key.zip(revision.filter(|revision| is_old(*revision))) {
                doubtful.insert(format::record_mark(&format::encode_key(&key, revision)?));
            }
        }
    }
    Ok(Unwritten { uploading, doubtful })
}

/// Whether a record belongs into an archive. Notes a blob that is still being uploaded.
fn goes_in(key: &Key, guest_logs: GuestLogs, uploading: &mut BTreeSet<BlobId>) -> bool {
    match format::class(key) {
        Class::Apart => {
            if let [Segment::Name(first), Segment::Name(blob)] = key.segments()
                && first == "quarantine"
            {
                uploading.extend(blob.parse::<BlobId>().ok());
            }
            false
        }
        Class::Lent => false,
        Class::Logs => guest_logs == GuestLogs::With,
        _ => true,
    }
}

/// Writes the blobs that the parent does not have, but for those that are damaged; gives the ids of all blobs that the archive
/// and its parents hold.
async fn copy_blobs(
    out: &mut Out,
    store: &TenantStore,
    (there, rotten): (&BTreeSet<BlobId>, &BTreeSet<BlobId>),
    base: Option<&Base>,
    manifest: &mut Manifest,
    kept: &mut Vec<Mark>,
) -> Result<BTreeSet<BlobId>, BackupError> {
    let mut blobs = BTreeSet::new();
    for id in there {
        if base.is_some_and(|base| base.blobs.contains(id)) {
            kept.push(format::blob_mark(id));
            blobs.insert(*id);
        } else if rotten.contains(id) {
            manifest.damaged_count += 1;
            manifest.lost_count += 1;
        } else if let Some(bytes) = copy_blob(out, store, id).await? {
            manifest.blobs_count += 1;
            manifest.blob_bytes = manifest.blob_bytes.saturating_add(bytes);
            blobs.insert(*id);
        }
    }
    Ok(blobs)
}

/// The blobs that do not open, of those that the parent does not have.
async fn rotten_blobs(store: &TenantStore, base: Option<&Base>) -> Result<BTreeSet<BlobId>, StoreError> {
    let mut rotten = BTreeSet::new();
    for id in store.blobs().list().await? {
        if base.is_some_and(|base| base.blobs.contains(&id)) {
            continue;
        }
        match read_through(store, &id).await {
            Err(StoreError::Damaged) => {
                tracing::error!(tenant = store.label(), blob = %id, "a blob is damaged and does not open");
                rotten.insert(id);
            }
            read => read?,
        }
    }
    Ok(rotten)
}

async fn read_through(store: &TenantStore, id: &BlobId) -> Result<(), StoreError> {
    let Some(mut reader) = pin::blob_reader(store, id).await? else { return Ok(()) };
    while reader.next().await?.is_some() {}
    Ok(())
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
            sealer.push(&waiting, &mut sealed).map_err(StoreError::from)?;
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
            sealer.finish(&mut sealed).map_err(StoreError::from)?;
            file.write(&sealed).map_err(BackupError::from_io)?;
            file.replace().map_err(BackupError::from_io)
        });
        written.await.map_err(BackupError::io)?
    }
}
