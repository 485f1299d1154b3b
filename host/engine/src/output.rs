//! Where a guest's standard output and error go: a sink given by the capabilities room, never the host's own streams.
//!
//! Must never block the guest's worker and never buffer: the sink bounds what it keeps.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// LIMIT: most bytes a guest may hand over in one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Takes what a guest prints, in pieces as it comes. Called on the guest's worker: must not block.
pub trait GuestOutput: Send + Sync + 'static {
    /// Takes the next piece.
    fn write(&self, bytes: &[u8]);
}

/// A sink that forgets; for rehearsals.
#[derive(Debug, Clone, Copy)]
pub struct NoOutput;

impl GuestOutput for NoOutput {
    fn write(&self, _bytes: &[u8]) {}
}

/// The sink as the stream types of WASI p2 and p3 want it.
#[derive(Clone)]
pub(crate) struct Sink(pub(crate) Arc<dyn GuestOutput>);

// === impl Sink ===

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let taken = bytes.get(..WRITE_BYTES_MAX).unwrap_or(bytes);
        self.0.write(taken);
        Poll::Ready(Ok(taken.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}
