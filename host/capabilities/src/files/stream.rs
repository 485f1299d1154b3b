//! The streams of a file: reading from a place on, and writing from a place on or at the end.
//!
//! What was written is durable when the stream is ready again: a program that checks its writes learns of a full disk or a
//! used-up quota there. Must never have more than one piece on its way, nor one that nothing counts, also where the guest let
//! go of the stream; and asks for the grant and policy at every call.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use ringfence_core::{Capability, HostAct, On};
use ringfence_engine::{Held, Meter};
use tokio::task::JoinHandle;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::Failure;
use super::tree::{Refused, Tree};
use crate::grants::LiveGrants;
use crate::overseer::Leave;
use crate::quota::Ledger;

/// How much is read ahead, and the most of one write.
const PIECE_BYTES: usize = 256 << 10;
/// LIMIT: what the host holds for one stream at most.
const STREAM_BYTES: u64 = 2 * PIECE_BYTES as u64;

/// What every call of a stream is counted with and may be stopped by.
pub(crate) struct Counted {
    grants: LiveGrants,
    /// What the stream does, and who leaves it that.
    leave: (Leave, HostAct),
    meter: Arc<Meter>,
    ledger: Arc<Ledger>,
    /// Counted with the guest's memory while the stream lives, and until its last piece is read or written.
    held: Arc<Held>,
}

/// Reads a file from a place on.
pub(crate) struct Reader {
    tree: Tree,
    node: u64,
    at: u64,
    ready: Bytes,
    state: Reading,
    counted: Counted,
}

enum Reading {
    Idle,
    Busy(JoinHandle<Result<Vec<u8>, Refused>>),
    Failed(Refused),
    End,
}

/// Writes a file from a place on, or at its end.
pub(crate) struct Writer {
    tree: Tree,
    node: u64,
    /// None: at the end, wherever that is.
    at: Option<u64>,
    state: Writing,
    counted: Counted,
}

enum Writing {
    Idle,
    Busy(JoinHandle<Result<u64, Refused>>),
    Failed(Refused),
}

// === impl Counted ===

impl Counted {
    pub(crate) fn new(
        grants: LiveGrants,
        leave: (Leave, HostAct),
        meter: Arc<Meter>,
        ledger: Arc<Ledger>,
    ) -> wasmtime::Result<Self> {
        let held = Arc::new(meter.hold(STREAM_BYTES)?);
        Ok(Self { grants, leave, meter, ledger, held })
    }

    fn enter(&self) -> StreamResult<()> {
        self.meter.host_call().map_err(|error| StreamError::Trap(error.into()))?;
        let (leave, act) = &self.leave;
        if !self.grants.has(Capability::Files) || !leave.has(*act, On::Directory) {
            return Err(failed(Refused::Access));
        }
        self.ledger.storage_ops(1).map_err(|_exhausted| failed(Refused::Quota))?;
        self.meter.storage_op();
        Ok(())
    }
}

fn failed(refused: Refused) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::new(Failure(refused)))
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(tree: Tree, node: u64, at: u64, counted: Counted) -> Self {
        Self { tree, node, at, ready: Bytes::new(), state: Reading::Idle, counted }
    }

    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ready.is_empty() {
            return Poll::Ready(());
        }
        if matches!(self.state, Reading::Idle) {
            let (tree, node, at, held) = (self.tree.clone(), self.node, self.at, Arc::clone(&self.counted.held));
            self.state = Reading::Busy(tokio::spawn(async move {
                let _held = held;
                tree.read(node, at, PIECE_BYTES).await
            }));
        }
        if let Reading::Busy(task) = &mut self.state {
            let read = std::task::ready!(Pin::new(task).poll(cx)).unwrap_or(Err(Refused::Broken));
            self.state = match read {
                Ok(piece) if piece.is_empty() => Reading::End,
                Ok(piece) => {
                    self.at = self.at.saturating_add(piece.len() as u64);
                    self.ready = piece.into();
                    Reading::Idle
                }
                Err(refused) => Reading::Failed(refused),
            };
        }
        Poll::Ready(())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        poll_fn(|cx| self.settle(cx)).await;
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.counted.enter()?;
        let _ = self.settle(&mut Context::from_waker(Waker::noop()));
        if self.ready.is_empty() {
            return match self.state {
                Reading::End => Err(StreamError::Closed),
                Reading::Failed(refused) => Err(failed(refused)),
                Reading::Idle | Reading::Busy(_) => Ok(Bytes::new()),
            };
        }
        Ok(self.ready.split_to(size.min(self.ready.len())))
    }
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(tree: Tree, node: u64, at: Option<u64>, counted: Counted) -> Self {
        Self { tree, node, at, state: Writing::Idle, counted }
    }

    fn settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Writing::Busy(task) = &mut self.state {
            let wrote = std::task::ready!(Pin::new(task).poll(cx)).unwrap_or(Err(Refused::Broken));
            self.state = match wrote {
                Ok(end) => {
                    self.at = self.at.map(|_| end);
                    Writing::Idle
                }
                Err(refused) => Writing::Failed(refused),
            };
        }
        Poll::Ready(())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        poll_fn(|cx| self.settle(cx)).await;
    }
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.counted.enter()?;
        if bytes.len() > PIECE_BYTES || !matches!(self.state, Writing::Idle) {
            return Err(StreamError::trap("a write came before it was allowed"));
        }
        if !bytes.is_empty() {
            let (tree, node, at, held) = (self.tree.clone(), self.node, self.at, Arc::clone(&self.counted.held));
            self.state = Writing::Busy(tokio::spawn(async move {
                let _held = held;
                tree.write(node, at, &bytes).await
            }));
        }
        Ok(())
    }

    /// Every write is flushed as it goes.
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let _ = self.settle(&mut Context::from_waker(Waker::noop()));
        match self.state {
            Writing::Failed(refused) => Err(failed(refused)),
            Writing::Busy(_) => Ok(0),
            Writing::Idle => Ok(PIECE_BYTES),
        }
    }
}
