//! Values of any length, streamed: written piece by piece before the batch that names them, read from any place.
//!
//! A [`ValueWriter`] keeps a short value in memory and seals a long one into a file of its own as it comes; a batch with
//! the [`StagedValue`] makes it a record's value, at once and whole, and whoever reads the old value reads it to its end.
//! A piece is sealed where it lies, and written while the next one is sealed; of one value at most one waits to be written.
//! A [`ValueReader`] opens only the chunks it is asked for; the length comes from the sealed record, so that a cut,
//! extended or reordered file is refused. Must never leave a byte of a value that no batch named, nor let values that are
//! on their way fill the disk beyond what the tenant may hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Bytes, BytesMut};
use ringfence_keys::{
    CHUNK_BYTES, ChunkOpener, ChunkTag, Purpose, STREAM_HEAD_BYTES, StreamSealer, Zeroizing, sealed_stream_bytes,
};

use crate::blobs::{READ_BYTES, WRITE_BYTES, blocking};
use crate::commit::{Payload, PendingFiles};
use crate::error::StoreError;
use crate::files::{FileReader, FileWriter};
use crate::held;
use crate::key::Key;
use crate::record::{Content, FileRef, INLINE_BYTES_MAX, Stored};
use crate::tenant_store::{READ_ATTEMPTS_MAX, Tenant, TenantStore, value_context, value_path};

/// LIMIT: most bytes of one streamed value (64 GiB).
pub const STREAMED_BYTES_MAX: u64 = 64 << 30;

/// A value on its way. Dropped before its batch, it leaves nothing.
pub struct ValueWriter {
    store: TenantStore,
    to: To,
    gathered: Zeroizing<Vec<u8>>,
    bytes: u64,
    room: Arc<Room>,
}

enum To {
    /// It may still be short enough to lie in the database.
    Memory,
    File(Box<Sealing>),
    /// A piece is being written, or could not be.
    Broken,
}

struct Sealing {
    sealer: StreamSealer,
    /// Gives the file once the piece before is written, and nothing when that failed.
    file: Receiver<Counted>,
    id: [u8; 16],
    /// Told once a piece is sealed, before the piece before it is waited for.
    #[cfg(test)]
    is_sealed: Option<std::sync::mpsc::Sender<()>>,
}

/// A file and, dropped after it, the room that it takes: what is there counts, whoever has it.
struct Counted {
    file: FileWriter,
    room: Arc<Room>,
}

/// Bytes on their way into a file, on whatever thread seals and writes them.
struct Piece {
    store: TenantStore,
    to: To,
    gathered: Zeroizing<Vec<u8>>,
    data: Bytes,
    room: Arc<Room>,
}

/// A piece that is sealed and whose turn it is to be written.
#[must_use = "the value is lost unless each of its pieces is written"]
pub struct SealedPiece {
    to: Counted,
    /// Where the file goes then.
    next: SyncSender<Counted>,
    /// What comes before the chunks, which lie where they were handed over, each with its tag behind it.
    before: Vec<u8>,
    chunks: BytesMut,
    tags: Vec<ChunkTag>,
}

/// A whole value that no record names yet.
pub struct StagedValue {
    payload: Payload,
    pending: PendingFiles,
    bytes: u64,
    room: Arc<Room>,
}

/// A value being read, as it was when it was opened.
pub struct ValueReader {
    store: TenantStore,
    /// None while a piece is being read, and for good after a failure.
    from: Option<From>,
    bytes: u64,
    revision: u64,
}

enum From {
    Memory(Zeroizing<Vec<u8>>),
    File(Box<ChunkOpener>, FileReader),
}

/// Bytes of a value on its way, counted against what its tenant may hold until nothing of it is on its way any more.
pub(crate) struct Room {
    tenant: Arc<Tenant>,
    bytes: AtomicU64,
    /// What whoever writes it is counted with.
    _kept: Box<dyn Send + Sync>,
}

// === impl TenantStore ===

impl TenantStore {
    /// Starts a value.
    pub fn value_writer(&self) -> Result<ValueWriter, StoreError> {
        self.value_writer_keeping(())
    }

    /// The same, keeping something for as long as any of the value is on its way: until the writer is gone and, where that is
    /// later, its file, what is still being sealed or written, and the batch that the value is part of.
    pub fn value_writer_keeping(&self, what: impl Send + Sync + 'static) -> Result<ValueWriter, StoreError> {
        self.check_writes()?;
        self.shared().check_alive()?;
        let tenant = Arc::clone(self.shared());
        let room = Arc::new(Room { tenant, bytes: AtomicU64::new(0), _kept: Box::new(what) });
        Ok(ValueWriter { store: self.clone(), to: To::Memory, gathered: Zeroizing::default(), bytes: 0, room })
    }

    /// Opens a record's value for reading from any place; none when there is no such record.
    pub async fn open_value(&self, key: &Key) -> Result<Option<ValueReader>, StoreError> {
        let stored_key = self.seal(key)?;
        for _ in 0..READ_ATTEMPTS_MAX {
            self.shared().check_alive()?;
            let Some(bytes) = self.engine().get(&stored_key)? else { return Ok(None) };
            let stored = Stored::parse(&bytes)?;
            let reader =
                |from, bytes| ValueReader { store: self.clone(), from: Some(from), bytes, revision: stored.revision };
            match stored.open(&self.shared().keys, &stored_key)? {
                Content::Inside(value) => {
                    let bytes = value.len() as u64;
                    return Ok(Some(reader(From::Memory(value), bytes)));
                }
                Content::InFile(file) => {
                    let this = self.clone();
                    if let Some(from) = blocking(move || this.open_file(file)).await? {
                        return Ok(Some(reader(from, file.bytes)));
                    }
                }
            }
        }
        Err(StoreError::Damaged)
    }

    /// The file of a value; none when it is gone, which happens when the value is replaced in that moment.
    fn open_file(&self, file: FileRef) -> Result<Option<From>, StoreError> {
        let Tenant { uid, keys, .. } = &**self.shared();
        let reader = match self.store().0.files.open(&value_path(uid, &file.id)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(StoreError::unavailable)?,
        };
        if reader.length().map_err(StoreError::unavailable)? != sealed_stream_bytes(file.bytes) {
            return Err(StoreError::Damaged);
        }
        let mut head = [0; STREAM_HEAD_BYTES];
        reader.read_exact_at(&mut head, 0).map_err(StoreError::unavailable)?;
        let opener = keys
            .chunk_opener(Purpose::Blob, &value_context(keys, &file.id), &head, file.bytes)
            .map_err(|_| StoreError::Damaged)?;
        Ok(Some(From::File(Box::new(opener), reader)))
    }
}

// === impl ValueWriter ===

impl ValueWriter {
    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes. After a failure, or when the future is dropped half way, the writer is of no more use.
    pub async fn write(&mut self, data: Bytes) -> Result<(), StoreError> {
        if let Some(piece) = self.take(data)? {
            self.to = To::File(blocking(move || piece.write()).await?);
        }
        Ok(())
    }

    /// As [`ValueWriter::write`], on a thread that may wait for the disk, and in two steps: the next piece may be sealed while
    /// what this gives is written. Waits until the piece before is written, so that one at most is on its way to the disk.
    pub fn seal_blocking(&mut self, data: Bytes) -> Result<Option<SealedPiece>, StoreError> {
        let Some(piece) = self.take(data)? else { return Ok(None) };
        let (sealing, sealed) = piece.seal()?;
        self.to = To::File(sealing);
        Ok(Some(sealed))
    }

    /// Takes bytes; gives what is to be sealed and written by now.
    fn take(&mut self, data: Bytes) -> Result<Option<Piece>, StoreError> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.bytes > STREAMED_BYTES_MAX {
            self.to = To::Broken;
            return Err(StoreError::TooLarge { what: "a streamed value", max: STREAMED_BYTES_MAX });
        }
        let waiting = self.gathered.len().saturating_add(data.len());
        let waits = match self.to {
            To::Memory => waiting <= INLINE_BYTES_MAX,
            // A full piece is not gathered: it would be copied, and the copy zeroed byte by byte.
            To::File(_) | To::Broken => waiting < WRITE_BYTES,
        };
        if waits {
            self.gathered.extend_from_slice(&data);
            return Ok(None);
        }
        self.piece(data).map(Some)
    }

    /// All that waits, and `data` behind it.
    fn piece(&mut self, data: Bytes) -> Result<Piece, StoreError> {
        let to = std::mem::replace(&mut self.to, To::Broken);
        let gathered = std::mem::take(&mut self.gathered);
        self.room.grow(&self.store, gathered.len().saturating_add(data.len()) as u64)?;
        Ok(Piece { store: self.store.clone(), to, gathered, data, room: Arc::clone(&self.room) })
    }

    /// Ends the value; what it is a value of is the batch's to say.
    pub async fn finish(mut self) -> Result<StagedValue, StoreError> {
        let tenant = Arc::clone(self.store.shared());
        let files = self.store.store().0.files.clone();
        let mut pending = PendingFiles { files, uid: tenant.uid, ids: Vec::new() };
        let payload = match self.to {
            To::Memory => Payload::Inside(std::mem::take(&mut self.gathered)),
            To::File(_) | To::Broken => {
                let bytes = self.bytes;
                let last = self.piece(Bytes::new())?;
                let Sealing { sealer, file, id, .. } = *blocking(move || last.write()).await?;
                let (whole, _room) = blocking(move || {
                    let mut sealed = Vec::new();
                    sealer.finish(&mut sealed)?;
                    // In this order: on a failure the file goes first.
                    let Counted { room, mut file } = written(&file)?;
                    file.write(&sealed).map_err(StoreError::unavailable)?;
                    tenant.check_alive()?;
                    Ok((file.finish().map_err(StoreError::unavailable)?, room))
                })
                .await?;
                pending.ids.push(id);
                whole.keep();
                Payload::InFile(FileRef { id, bytes })
            }
        };
        Ok(StagedValue { payload, pending, bytes: self.bytes, room: self.room })
    }
}

// === impl Piece ===

impl Piece {
    /// Seals the bytes; waits for the piece before to be written.
    fn seal(self) -> Result<(Box<Sealing>, SealedPiece), StoreError> {
        let Self { store, to, gathered, data, room } = self;
        store.shared().check_alive()?;
        store.store().0.check_free()?;
        let mut sealing = match to {
            To::Memory => store.start_sealing(room)?,
            To::File(sealing) => sealing,
            To::Broken => return Err(earlier_failed()),
        };
        // Most often nobody else holds the bytes.
        let mut chunks = data.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        // Beside what was gathered, the chunk that waited in the sealer, and tags.
        let mut before = Vec::with_capacity(gathered.len().saturating_add(CHUNK_BYTES + 1_024));
        sealing.sealer.push(&gathered, &mut before)?;
        let tags = sealing.sealer.push_in_place(&mut chunks, &mut before)?;
        #[cfg(test)]
        if let Some(told) = sealing.is_sealed.take() {
            let _ = told.send(());
        }
        let to = written(&sealing.file)?;
        let (next, again) = sync_channel(1);
        sealing.file = again;
        Ok((sealing, SealedPiece { to, next, before, chunks, tags }))
    }

    /// Seals the bytes and writes them; waits for the disk.
    fn write(self) -> Result<Box<Sealing>, StoreError> {
        let (sealing, sealed) = self.seal()?;
        sealed.write()?;
        Ok(sealing)
    }
}

// === impl SealedPiece ===

impl SealedPiece {
    /// Writes it; waits for the disk. When that fails, the value's writer fails from then on.
    pub fn write(self) -> Result<(), StoreError> {
        // When it fails, the file and its room go first, and then `next`: whoever hears of it finds them gone.
        let Self { next, mut to, before, chunks, tags } = self;
        // Plaintext has no tag and ends the list.
        let sealed = chunks.chunks(CHUNK_BYTES).zip(&tags).flat_map(|(chunk, tag)| [chunk, &tag[..]]);
        to.file.write_parts(std::iter::once(&before[..]).chain(sealed)).map_err(StoreError::unavailable)?;
        // A writer that is gone wants no file, and it goes with that.
        let _ = next.send(to);
        Ok(())
    }
}

impl fmt::Debug for SealedPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<sealed piece>")
    }
}

/// Waits until the piece before is written.
fn written(file: &Receiver<Counted>) -> Result<Counted, StoreError> {
    file.recv().map_err(|_| earlier_failed())
}

fn earlier_failed() -> StoreError {
    StoreError::unavailable("an earlier write failed")
}

impl TenantStore {
    fn start_sealing(&self, room: Arc<Room>) -> Result<Box<Sealing>, StoreError> {
        let id = self.random_id();
        let Tenant { uid, keys, entropy, .. } = &**self.shared();
        let sealer = keys.stream_sealer(Purpose::Blob, &value_context(keys, &id), entropy.as_ref())?;
        let (start, file) = sync_channel(1);
        let new = self.store().0.files.create(&value_path(uid, &id)).map_err(StoreError::unavailable)?;
        start.send(Counted { file: new, room }).map_err(StoreError::unavailable)?;
        Ok(Box::new(Sealing {
            sealer,
            file,
            id,
            #[cfg(test)]
            is_sealed: None,
        }))
    }
}

impl fmt::Debug for ValueWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<value writer at {} bytes>", self.bytes)
    }
}

// === impl StagedValue ===

impl StagedValue {
    /// Bytes of the value.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn into_parts(self) -> (Payload, Vec<[u8; 16]>, Arc<Room>) {
        let Self { payload, mut pending, room, .. } = self;
        (payload, std::mem::take(&mut pending.ids), room)
    }
}

impl fmt::Debug for StagedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<staged value of {} bytes>", self.bytes)
    }
}

// === impl Room ===

impl Room {
    fn grow(&self, store: &TenantStore, more_bytes: u64) -> Result<(), StoreError> {
        let all = self.tenant.staged_bytes.fetch_add(more_bytes, Ordering::AcqRel).saturating_add(more_bytes);
        self.bytes.fetch_add(more_bytes, Ordering::AcqRel);
        held::check_staged(store.engine(), &self.tenant, all)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.tenant.staged_bytes.fetch_sub(self.bytes.load(Ordering::Acquire), Ordering::AcqRel);
    }
}

// === impl ValueReader ===

impl ValueReader {
    /// Bytes of the whole value.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The revision of the batch that wrote it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Some bytes from the byte `from` on: at most `bytes_max`, and never more than a few chunks at once; none at the end.
    pub async fn read_at(&mut self, from: u64, bytes_max: u64) -> Result<Bytes, StoreError> {
        let count = self.count(from, bytes_max)?;
        if count == 0 || matches!(self.from, Some(From::Memory(_))) {
            return self.read_blocking(from, count);
        }
        let mut source = self.take()?;
        let (part, source) = blocking(move || Ok((source.read(from, count)?, source))).await?;
        self.from = Some(source);
        Ok(part)
    }

    /// As [`ValueReader::read_at`], on a thread that may wait for the disk.
    pub fn read_blocking(&mut self, from: u64, bytes_max: u64) -> Result<Bytes, StoreError> {
        let count = self.count(from, bytes_max)?;
        if count == 0 {
            return Ok(Bytes::new());
        }
        let mut source = self.take()?;
        let part = source.read(from, count)?;
        self.from = Some(source);
        Ok(part)
    }

    /// How much is read at once.
    fn count(&self, from: u64, bytes_max: u64) -> Result<u64, StoreError> {
        self.store.shared().check_alive()?;
        Ok(self.bytes.saturating_sub(from).min(bytes_max).min(READ_BYTES as u64))
    }

    fn take(&mut self) -> Result<From, StoreError> {
        self.from.take().ok_or_else(|| StoreError::unavailable("an earlier read failed"))
    }
}

impl From {
    fn read(&mut self, from: u64, count: u64) -> Result<Bytes, StoreError> {
        match self {
            Self::Memory(value) => {
                let (start, count) = (usize::try_from(from), usize::try_from(count));
                let part = start.ok().zip(count.ok()).and_then(|(start, count)| value.get(start..)?.get(..count));
                Ok(Bytes::copy_from_slice(part.ok_or(StoreError::Damaged)?))
            }
            Self::File(opener, file) => read_chunks(opener, file, from, count),
        }
    }
}

/// Reads whole chunks, opens them where they lie, and gives what was asked for of them.
fn read_chunks(opener: &mut ChunkOpener, file: &FileReader, from: u64, count: u64) -> Result<Bytes, StoreError> {
    let chunk_bytes = CHUNK_BYTES as u64;
    let chunk_of = |at: u64| u32::try_from(at / chunk_bytes).map_err(|_| StoreError::Damaged);
    let (first, last) = (chunk_of(from)?, chunk_of(from.saturating_add(count).saturating_sub(1))?);
    let (start, _) = opener.place(first).ok_or(StoreError::Damaged)?;
    let (last_at, last_bytes) = opener.place(last).ok_or(StoreError::Damaged)?;
    let bytes = usize::try_from(last_at.saturating_sub(start)).map_err(|_| StoreError::Damaged)?;
    let mut content = vec![0_u8; bytes.saturating_add(last_bytes)];
    file.read_exact_at(&mut content, start).map_err(StoreError::unavailable)?;
    let opened = opener.open(first, &mut content).map_err(|_| StoreError::Damaged)?;
    content.truncate(opened);
    let skip = usize::try_from(from % chunk_bytes).map_err(|_| StoreError::Damaged)?;
    let end = usize::try_from(count).ok().and_then(|count| skip.checked_add(count)).ok_or(StoreError::Damaged)?;
    if end > content.len() {
        return Err(StoreError::Damaged);
    }
    Ok(Bytes::from(content).slice(skip..end))
}

impl fmt::Debug for ValueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<value reader of {} bytes>", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::record::{Op, Precondition};
    use crate::store::Store;
    use crate::tenant_store::tests::tenant_in;
    use crate::tenant_store::value_directory;

    fn key(name: &str) -> Key {
        Key::new(["blob", "album", "photos", name])
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251) as u8).collect()
    }

    async fn stage(store: &TenantStore, content: &[u8], step: usize) -> StagedValue {
        let mut writer = store.value_writer().unwrap();
        for part in content.chunks(step) {
            writer.write(Bytes::copy_from_slice(part)).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    async fn put(store: &TenantStore, name: &str, content: &[u8]) {
        let staged = stage(store, content, 100_000).await;
        store.batch_with(Vec::new(), vec![(key(name), staged)], Vec::new()).await.unwrap();
    }

    async fn read(reader: &mut ValueReader, from: u64, count: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while (all.len() as u64) < count {
            let part = reader.read_at(from + all.len() as u64, count - all.len() as u64).await.unwrap();
            if part.is_empty() {
                break;
            }
            all.extend_from_slice(&part);
        }
        all
    }

    fn value_files(store: &TenantStore) -> Vec<String> {
        store.store().0.files.list(&value_directory(&store.shared().uid)).unwrap()
    }

    #[tokio::test]
    async fn any_range_of_any_length_is_what_was_written() {
        let store = tenant_in(&Store::memory());
        for length in [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 3 * CHUNK_BYTES, 1_000_003] {
            let plain = content(length);
            put(&store, "a", &plain).await;
            let mut reader = store.open_value(&key("a")).await.unwrap().unwrap();
            assert_eq!(reader.bytes(), length as u64);
            assert_eq!(read(&mut reader, 0, u64::MAX).await, plain);
            for (from, count) in
                [(0, 1), (length / 2, 70_000), (length.saturating_sub(1), 9), (length, 9), (length + 99, 9)]
            {
                let want = plain.get(from..).unwrap_or_default();
                let want = &want[..want.len().min(count)];
                assert_eq!(read(&mut reader, from as u64, count as u64).await, want, "{length} {from} {count}");
            }
        }
        assert!(store.open_value(&key("b")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn pieces_of_any_size_written_by_whoever_may_wait_are_one_value() {
        let store = tenant_in(&Store::memory());
        for sizes in [
            &[WRITE_BYTES, WRITE_BYTES, WRITE_BYTES][..],
            &[WRITE_BYTES, 1, WRITE_BYTES, CHUNK_BYTES],
            &[1, WRITE_BYTES - 1, WRITE_BYTES + 1, 2 * CHUNK_BYTES, 0, 7],
            &[INLINE_BYTES_MAX, 1],
            &[10, INLINE_BYTES_MAX - 10],
        ] {
            let plain = content(sizes.iter().sum());
            let (mut rest, mut writer) = (Bytes::from(plain.clone()), store.value_writer().unwrap());
            for (number, size) in sizes.iter().enumerate() {
                let piece = rest.split_to(*size);
                match number % 2 {
                    // Bytes of its own are sealed where they lie, shared ones are not.
                    0 => writer
                        .seal_blocking(Bytes::copy_from_slice(&piece))
                        .unwrap()
                        .map_or(Ok(()), SealedPiece::write)
                        .unwrap(),
                    _ => writer.write(piece).await.unwrap(),
                }
            }
            let staged = writer.finish().await.unwrap();
            store.batch_with(Vec::new(), vec![(key("a"), staged)], Vec::new()).await.unwrap();
            let mut reader = store.open_value(&key("a")).await.unwrap().unwrap();
            assert_eq!(reader.bytes(), plain.len() as u64);
            assert!(read(&mut reader, 0, u64::MAX).await == plain, "{sizes:?}");
        }
    }

    /// Writes a piece when it is told to.
    fn write_when_told(piece: SealedPiece) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
        let (go, told) = std::sync::mpsc::channel();
        let writing = std::thread::spawn(move || {
            told.recv().unwrap();
            piece.write().unwrap();
        });
        (go, writing)
    }

    #[tokio::test]
    async fn the_next_piece_is_sealed_while_one_is_written_and_they_stay_in_order() {
        let store = tenant_in(&Store::memory());
        let plain = content(3 * WRITE_BYTES + 9);
        let (mut rest, mut writer) = (Bytes::from(plain.clone()), store.value_writer().unwrap());
        let one = writer.seal_blocking(rest.split_to(WRITE_BYTES)).unwrap().unwrap();
        let (go, writing) = write_when_told(one);
        let (piece, (sealed, waits)) = (rest.split_to(WRITE_BYTES), std::sync::mpsc::channel());
        let (tell, is_sealed) = std::sync::mpsc::channel();
        let To::File(begun) = &mut writer.to else { panic!("the value is in memory") };
        begun.is_sealed = Some(tell);
        let sealing = std::thread::spawn(move || {
            let two = writer.seal_blocking(piece).unwrap().unwrap();
            sealed.send(()).unwrap();
            two.write().unwrap();
            writer
        });
        is_sealed
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("sealed while the piece before waits for the disk");
        assert!(waits.try_recv().is_err(), "the piece before is not written yet");
        go.send(()).unwrap();
        writing.join().unwrap();
        let mut writer = sealing.join().unwrap();
        waits.recv().unwrap();
        writer.write(rest).await.unwrap();
        let staged = writer.finish().await.unwrap();
        store.batch_with(Vec::new(), vec![(key("a"), staged)], Vec::new()).await.unwrap();
        let mut reader = store.open_value(&key("a")).await.unwrap().unwrap();
        assert!(read(&mut reader, 0, u64::MAX).await == plain);
    }

    #[tokio::test]
    async fn a_piece_that_was_not_written_ends_the_value_and_leaves_nothing() {
        let store = tenant_in(&Store::memory());
        for finishes in [false, true] {
            let mut writer = store.value_writer().unwrap();
            drop(writer.seal_blocking(Bytes::from(content(WRITE_BYTES))).unwrap().unwrap());
            if finishes {
                assert!(writer.finish().await.is_err());
            } else {
                assert!(writer.seal_blocking(Bytes::from(content(WRITE_BYTES))).is_err());
                assert!(writer.write(Bytes::from(content(WRITE_BYTES))).await.is_err());
                drop(writer);
            }
            assert!(value_files(&store).is_empty());
            assert_eq!(store.shared().staged_bytes.load(Ordering::Relaxed), 0);
        }
        // The other way round: whoever wrote is gone while a piece is on its way. Until that is over it counts.
        let kept = Arc::new(());
        for is_written in [false, true] {
            let mut writer = store.value_writer_keeping(Arc::clone(&kept)).unwrap();
            let piece = writer.seal_blocking(Bytes::from(content(WRITE_BYTES))).unwrap().unwrap();
            drop(writer);
            let counted = || (store.shared().staged_bytes.load(Ordering::Relaxed), Arc::strong_count(&kept) - 1);
            assert_eq!(counted(), (WRITE_BYTES as u64, 1));
            if is_written {
                piece.write().unwrap();
            } else {
                drop(piece);
            }
            assert_eq!(counted(), (0, 0));
            assert!(value_files(&store).is_empty());
        }
    }

    #[tokio::test]
    async fn what_no_batch_named_leaves_neither_file_nor_count() {
        let store = tenant_in(&Store::memory());
        let mut writer = store.value_writer().unwrap();
        writer.write(Bytes::from(content(500_000))).await.unwrap();
        drop(writer);
        drop(stage(&store, &content(500_000), 1_000).await);
        let staged = stage(&store, &content(500_000), 1_000).await;
        let never = vec![Precondition::Present(key("container"))];
        let refused = store.batch_with(Vec::new(), vec![(key("a"), staged)], never).await;
        assert!(matches!(refused, Err(StoreError::Conflict { precondition: 0 })), "{refused:?}");
        assert!(value_files(&store).is_empty());
        assert_eq!(store.held().unwrap().bytes, 0);
        assert_eq!(store.shared().staged_bytes.load(Ordering::Relaxed), 0);
    }

    fn is_pending<T>(future: Pin<&mut impl Future<Output = T>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Acts while the one thread for blocking work is held, so that what is handed to it is not done yet; then lets it do all.
    async fn while_held(act: impl FnOnce()) {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv().is_ok());
        act();
        drop(release);
        holding.await.unwrap();
        blocking(|| Ok(())).await.unwrap();
    }

    #[test]
    fn whoever_goes_away_while_a_file_is_being_finished_leaves_none() {
        // One thread for blocking work, which takes it in order.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let store = tenant_in(&Store::memory());
            for steps_count in 0..2 {
                let mut writer = store.value_writer().unwrap();
                writer.write(Bytes::from(content(500_000))).await.unwrap();
                let mut finish = Box::pin(writer.finish());
                for _ in 0..steps_count {
                    while_held(|| assert!(is_pending(finish.as_mut()))).await;
                }
                while_held(move || assert!(is_pending(finish.as_mut()))).await;
                assert!(value_files(&store).is_empty(), "after {steps_count}");
            }
            let mut finish = Box::pin(store.blobs().create().await.unwrap().finish());
            while_held(|| assert!(is_pending(finish.as_mut()))).await;
            while_held(move || assert!(is_pending(finish.as_mut()))).await;
            assert!(store.blobs().list().await.unwrap().is_empty());
            let large = key("large");
            let mut put = Box::pin(store.put(&large, content(INLINE_BYTES_MAX + 1)));
            while_held(move || assert!(is_pending(put.as_mut()))).await;
            assert!(value_files(&store).is_empty() && store.get(&large).await.unwrap().is_none());
        });
    }

    #[tokio::test]
    async fn a_reader_keeps_what_it_opened_while_the_value_is_replaced_and_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let options = crate::DiskOptions { backend: crate::Backend::Sled, cache_bytes: 8 << 20, free_bytes_min: 0 };
        let opened = Store::open(directory.path(), options).unwrap();
        let store = tenant_in(&opened);
        let (old, new) = (content(400_000), vec![7; 300_000]);
        put(&store, "a", &old).await;
        let mut reader = store.open_value(&key("a")).await.unwrap().unwrap();
        assert_eq!(read(&mut reader, 0, 10).await, old[..10]);
        put(&store, "a", &new).await;
        assert_eq!(value_files(&store).len(), 1, "the old file is gone");
        assert_eq!(read(&mut reader, 0, u64::MAX).await, old);
        let mut newer = store.open_value(&key("a")).await.unwrap().unwrap();
        assert_eq!(read(&mut newer, 0, u64::MAX).await, new);
        store.batch(vec![Op::delete(key("a"))], Vec::new()).await.unwrap();
        assert_eq!(read(&mut newer, 0, u64::MAX).await, new);
        assert_eq!((store.held().unwrap().bytes, value_files(&store).len()), (0, 0));
        assert!(store.open_value(&key("a")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn values_on_their_way_cannot_pass_the_quota_together_and_free_it_when_they_stop() {
        let store = tenant_in(&Store::memory());
        store.set_held_bytes_max(1_000_000);
        let piece = || Bytes::from(content(300_000));
        let (mut one, mut two) = (store.value_writer().unwrap(), store.value_writer().unwrap());
        one.write(piece()).await.unwrap();
        two.write(piece()).await.unwrap();
        one.write(piece()).await.unwrap();
        assert!(matches!(two.write(piece()).await, Err(StoreError::Quota { .. })));
        assert!(two.write(piece()).await.is_err(), "a writer that failed stays failed");
        drop(two);
        one.write(piece()).await.unwrap();
        let staged = one.finish().await.unwrap();
        store.batch_with(Vec::new(), vec![(key("a"), staged)], Vec::new()).await.unwrap();
        assert!(store.held().unwrap().bytes > 900_000);
        assert_eq!(store.shared().staged_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(value_files(&store).len(), 1);
    }

    #[tokio::test]
    async fn a_cut_extended_or_altered_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let options = crate::DiskOptions { backend: crate::Backend::Sled, cache_bytes: 8 << 20, free_bytes_min: 0 };
        let opened = Store::open(directory.path(), options).unwrap();
        let store = tenant_in(&opened);
        let plain = content(4 * CHUNK_BYTES);
        put(&store, "a", &plain).await;
        let name = value_files(&store).remove(0);
        let path = directory.path().join(value_directory(&store.shared().uid)).join(name);
        let whole = std::fs::read(&path).unwrap();
        let sealed_chunk = CHUNK_BYTES + 16;
        let mut swapped = whole.clone();
        swapped[STREAM_HEAD_BYTES..].rotate_left(sealed_chunk);
        let mut flipped = whole.clone();
        flipped[STREAM_HEAD_BYTES + sealed_chunk] ^= 1;
        let cut = whole[..whole.len() - sealed_chunk].to_vec();
        let longer = [whole.as_slice(), &[0]].concat();
        for (wrong, opens) in [(cut, false), (longer, false), (swapped, true), (flipped, true)] {
            std::fs::write(&path, &wrong).unwrap();
            let reader = store.open_value(&key("a")).await;
            if !opens {
                assert!(matches!(reader, Err(StoreError::Damaged)));
                continue;
            }
            let mut reader = reader.unwrap().unwrap();
            let got = reader.read_at(CHUNK_BYTES as u64, 10).await;
            assert!(matches!(got, Err(StoreError::Damaged)), "{got:?}");
        }
        std::fs::write(&path, &whole).unwrap();
        let mut reader = store.open_value(&key("a")).await.unwrap().unwrap();
        assert_eq!(read(&mut reader, 0, u64::MAX).await, plain);
    }
}
