//! The streams of objects: a guest's writes on their way to the store, and the store's pieces on their way to a guest.
//!
//! While one piece is written and the next is sealed, or one is read, on the blocking threads, the guest fills or empties
//! another. Must never hold more than [`STREAM_BYTES`] for a stream, and asks for the grant and policy at every call.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use ringfence_core::{Capability, HostAct, On, ResourceName};
use ringfence_engine::{Held, Meter};
use ringfence_store::{SealedPiece, StagedValue, StoreError, ValueReader, ValueWriter};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::BlobError;
use crate::grants::LiveGrants;
use crate::overseer::Leave;

/// How much of a guest's writes is handed on at once.
const PIECE_BYTES: usize = 256 << 10;
/// LIMIT: what the host holds for one stream at most: a piece that is gathered, one that is sealed, one that is written, with
/// each of these a chunk from the piece before, and a chunk that waits to be known not to be the last.
pub(crate) const STREAM_BYTES: u64 = 1 << 20;
/// So many bytes count as one operation on a stored value.
const OPERATION_BYTES: u64 = 1 << 20;

/// What a stream is counted with: kept until nothing of it is being read, sealed or written any more, also after whoever had it
/// let go of it.
pub(crate) struct Counted {
    pub(crate) _place: OwnedSemaphorePermit,
    pub(crate) _held: Held,
}

/// What a stream that is read is counted with and may be stopped by.
pub(crate) struct Tied {
    pub(crate) container: ResourceName,
    /// The object's name; empty for what has none yet.
    pub(crate) name: String,
    pub(crate) grants: LiveGrants,
    pub(crate) leave: Leave,
    pub(crate) meter: Arc<Meter>,
    pub(crate) counted: Arc<Counted>,
    /// Bytes until the next operation is counted.
    pub(crate) uncounted: u64,
}

/// A guest's writes on their way. Shared by the stream and the value it is the body of.
#[derive(Clone)]
pub(crate) struct Pipe(Arc<Mutex<Filling>>);

struct Filling {
    state: Writing,
    gathered: BytesMut,
    /// Who waits for a piece to be sealed.
    waker: Option<Waker>,
    /// The pipe this is of.
    pipe: Weak<Mutex<Filling>>,
}

enum Writing {
    Idle(ValueWriter),
    /// A piece is being sealed, or waits for the one before it to be written.
    Busy,
    Failed(String),
    /// Finished or dropped.
    Over,
}

/// The turn of a thread that seals a piece and writes it. Whatever becomes of it, who waits for it goes on.
struct Turn(Weak<Mutex<Filling>>);

/// The stream a guest writes an object's bytes to.
pub(crate) struct Sink {
    pipe: Pipe,
    meter: Arc<Meter>,
    uncounted: u64,
}

/// The stream a guest reads an object's bytes from.
pub(crate) struct Source {
    state: Reading,
    ready: Bytes,
    from: u64,
    end: u64,
    tied: Tied,
}

enum Reading {
    Idle(ValueReader),
    Busy(JoinHandle<Result<(ValueReader, Bytes), StoreError>>),
    Failed(String),
    Over,
}

// === impl Tied ===

impl Tied {
    fn check(&self) -> StreamResult<()> {
        let refused = |why: BlobError| StreamError::LastOperationFailed(wasmtime::Error::msg(why.words()));
        if !self.grants.covers(Capability::Blob, self.container.as_str()) {
            return Err(refused(BlobError::denied(&self.container)));
        }
        self.leave_to_read().map_err(refused)
    }

    /// Whether policy leaves the reading of the object.
    pub(crate) fn leave_to_read(&self) -> Result<(), BlobError> {
        let on = On::Object { container: &self.container, name: &self.name };
        self.leave.ask(HostAct::ReadObject, on).map_err(|_| BlobError::forbidden(HostAct::ReadObject))
    }
}

fn count(meter: &Meter, uncounted: &mut u64, bytes: usize) -> StreamResult<()> {
    *uncounted = uncounted.saturating_add(bytes as u64);
    while *uncounted >= OPERATION_BYTES {
        *uncounted -= OPERATION_BYTES;
        meter.storage_op();
        meter.host_call().map_err(|error| StreamError::Trap(error.into()))?;
    }
    Ok(())
}

fn failed(why: &str) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::format_err!("{why}"))
}

// === impl Pipe ===

impl Pipe {
    pub(crate) fn new(writer: ValueWriter) -> Self {
        Self(Arc::new_cyclic(|pipe| {
            let (state, pipe) = (Writing::Idle(writer), Weak::clone(pipe));
            Mutex::new(Filling { state, gathered: BytesMut::new(), waker: None, pipe })
        }))
    }

    pub(crate) fn sink(&self, meter: Arc<Meter>) -> Sink {
        Sink { pipe: self.clone(), meter, uncounted: 0 }
    }

    /// Waits for what is on its way, writes the rest and ends the value. The stream, if it is still there, is closed.
    pub(crate) async fn finish(&self) -> Result<StagedValue, BlobError> {
        poll_fn(|cx| self.filling().settle(cx)).await;
        let (state, gathered) = {
            let mut filling = self.filling();
            (std::mem::replace(&mut filling.state, Writing::Over), std::mem::take(&mut filling.gathered).freeze())
        };
        match state {
            Writing::Idle(mut writer) => {
                writer.write(gathered).await?;
                Ok(writer.finish().await?)
            }
            Writing::Failed(why) => Err(BlobError::Said(why)),
            Writing::Busy | Writing::Over => Err(BlobError::Said("the value is finished already".to_owned())),
        }
    }

    fn filling(&self) -> MutexGuard<'_, Filling> {
        locked(&self.0)
    }
}

fn locked(filling: &Mutex<Filling>) -> MutexGuard<'_, Filling> {
    filling.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filling {
    /// Waits until no piece is being sealed.
    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.state, Writing::Busy) {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Takes what is gathered to be sealed, when it is enough and nothing is being sealed. It is started once the lock is
    /// released: a turn that no thread takes comes back here.
    fn hand_on(&mut self) -> Option<Handed> {
        if self.gathered.len() < PIECE_BYTES || !matches!(self.state, Writing::Idle(_)) {
            return None;
        }
        let Writing::Idle(writer) = std::mem::replace(&mut self.state, Writing::Busy) else { return None };
        // Taken and not split off: bytes that nobody else holds are sealed where they lie.
        Some((Turn(Weak::clone(&self.pipe)), writer, std::mem::take(&mut self.gathered).freeze()))
    }
}

/// A piece to be sealed, by whom, and for whom.
type Handed = (Turn, ValueWriter, Bytes);

/// On a thread that may wait from the start: a task in between would be two more wake-ups for each piece.
fn start(next: Option<Handed>) {
    if let Some((turn, writer, piece)) = next {
        spawn_blocking(move || turn.seal_and_write(writer, piece));
    }
}

// === impl Turn ===

impl Turn {
    fn seal_and_write(mut self, mut writer: ValueWriter, piece: Bytes) {
        let (state, sealed) = match writer.seal_blocking(piece) {
            Ok(sealed) => (Writing::Idle(writer), sealed),
            Err(error) => {
                // Before anybody hears of it: what it counted is free then.
                drop(writer);
                (Writing::Failed(BlobError::from(error).words()), None)
            }
        };
        // What nobody wants any more is not written.
        let unwanted = self.end(state);
        if unwanted.is_none()
            && let Some(Err(error)) = sealed.map(SealedPiece::write)
        {
            // The writer fails at the next piece, or at the end.
            tracing::debug!(%error, "a piece of an object could not be written");
        }
    }

    /// Ends the turn, once: starts with the next piece when it is there, without waiting for the guest to run, and wakes who
    /// waits. Gives the state back when nobody wants the object any more.
    fn end(&mut self, state: Writing) -> Option<Writing> {
        let Some(pipe) = std::mem::take(&mut self.0).upgrade() else { return Some(state) };
        let (next, waker) = {
            let mut filling = locked(&pipe);
            if matches!(state, Writing::Failed(_)) {
                filling.gathered = BytesMut::new();
            }
            filling.state = state;
            (filling.hand_on(), filling.waker.take())
        };
        start(next);
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The thread panicked, or there was none any more; after an end this does nothing.
        drop(self.end(Writing::Failed("the write was stopped".to_owned())));
    }
}

// === impl Sink ===

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {
        poll_fn(|cx| {
            let mut filling = self.pipe.filling();
            if filling.gathered.len() < PIECE_BYTES { Poll::Ready(()) } else { filling.settle(cx) }
        })
        .await;
    }
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        count(&self.meter, &mut self.uncounted, bytes.len())?;
        let mut filling = self.pipe.filling();
        // A guest that does not ask how much it may write ends here, and not in the host's memory.
        if filling.gathered.len().saturating_add(bytes.len()) > PIECE_BYTES {
            return Err(StreamError::trap("a write was longer than was allowed"));
        }
        if matches!(filling.state, Writing::Failed(_) | Writing::Over) {
            // Nothing of it is counted any more, so nothing is kept; why it failed is told where the guest asks how much it may.
            return Ok(());
        }
        if filling.gathered.is_empty() {
            // Most often a whole piece, which nobody else holds: it is taken as it is.
            filling.gathered = BytesMut::from(bytes);
        } else {
            if filling.gathered.capacity() < PIECE_BYTES {
                // At once for the whole piece, and not for twice as much again and again.
                let mut whole = BytesMut::with_capacity(PIECE_BYTES);
                whole.extend_from_slice(&filling.gathered);
                filling.gathered = whole;
            }
            filling.gathered.extend_from_slice(&bytes);
        }
        let next = filling.hand_on();
        drop(filling);
        start(next);
        Ok(())
    }

    /// What is written is durable with the object, at its end.
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let filling = self.pipe.filling();
        match &filling.state {
            Writing::Failed(why) => Err(failed(why)),
            Writing::Over => Err(StreamError::Closed),
            Writing::Idle(_) | Writing::Busy => Ok(PIECE_BYTES.saturating_sub(filling.gathered.len())),
        }
    }
}

// === impl Source ===

impl Source {
    /// A stream of the bytes from `from` until before `end`.
    pub(crate) fn new(reader: ValueReader, from: u64, end: u64, tied: Tied) -> Self {
        let mut source = Self { state: Reading::Idle(reader), ready: Bytes::new(), from, end, tied };
        source.fetch();
        source
    }

    /// Fetches the next piece, when nothing is on its way.
    fn fetch(&mut self) {
        match std::mem::replace(&mut self.state, Reading::Over) {
            Reading::Idle(mut reader) if self.from < self.end => {
                let (from, count) = (self.from, self.end - self.from);
                let counted = Arc::clone(&self.tied.counted);
                // On a thread that may wait from the start, as for writes.
                self.state = Reading::Busy(spawn_blocking(move || {
                    let _counted = counted;
                    let piece = reader.read_blocking(from, count)?;
                    Ok((reader, piece))
                }));
            }
            Reading::Idle(_) => {}
            other => self.state = other,
        }
    }

    /// Takes the piece that was on its way as the one to give, and fetches the next.
    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ready.is_empty() {
            return Poll::Ready(());
        }
        if let Reading::Busy(task) = &mut self.state {
            let read = std::task::ready!(Pin::new(task).poll(cx));
            match read.map_err(|_stopped| "the read was stopped".to_owned()) {
                Ok(Ok((_, piece))) if piece.is_empty() => {
                    self.state = Reading::Failed("the object ends early".to_owned())
                }
                Ok(Ok((reader, piece))) => {
                    self.from = self.from.saturating_add(piece.len() as u64);
                    self.ready = piece;
                    self.state = Reading::Idle(reader);
                    self.fetch();
                }
                Ok(Err(error)) => self.state = Reading::Failed(BlobError::from(error).words()),
                Err(why) => self.state = Reading::Failed(why),
            }
        }
        Poll::Ready(())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Source {
    async fn ready(&mut self) {
        poll_fn(|cx| self.settle(cx)).await;
    }
}

impl InputStream for Source {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.tied.check()?;
        let _ = self.settle(&mut Context::from_waker(Waker::noop()));
        if self.ready.is_empty() {
            return match &self.state {
                Reading::Over => Err(StreamError::Closed),
                Reading::Failed(why) => Err(failed(why)),
                Reading::Idle(_) | Reading::Busy(_) => Ok(Bytes::new()),
            };
        }
        let piece = self.ready.split_to(size.min(self.ready.len()));
        count(&self.tied.meter, &mut self.tied.uncounted, piece.len())?;
        Ok(piece)
    }
}
