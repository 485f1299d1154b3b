//! A socket that gives up on a peer who takes nothing.
//!
//! Must never end a connection that has nothing to send, nor one whose peer takes bytes, however slowly it does.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Fails with [`ErrorKind::TimedOut`] when bytes waited `patience` long and not one of them was taken.
///
/// It lies directly over the socket, below TLS, which takes bytes into buffers of its own. Whoever is told that a write has to
/// wait asks again when the time is over: the wait is registered for waking him.
pub(crate) struct Stalling<I> {
    inner: I,
    patience: Duration,
    /// Since a write had to wait, until one is taken.
    end: Option<Pin<Box<Sleep>>>,
}

impl<I> Stalling<I> {
    pub(crate) fn new(inner: I, patience: Duration) -> Self {
        Self { inner, patience, end: None }
    }

    /// What comes of a write that went as `written`.
    fn judged(&mut self, context: &mut Context<'_>, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if written.is_ready() {
            self.end = None;
            return written;
        }
        let patience = self.patience;
        let end = self.end.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match end.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the peer takes nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Stalling<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, into)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Stalling<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judged(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.judged(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        // A socket holds nothing back that a flush would have to wait for.
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (near, _far) = tokio::io::duplex(64);
        let mut near = Stalling::new(near, Duration::from_millis(20));
        let written = tokio::time::timeout(Duration::from_secs(60), near.write_all(&[0; 1_000])).await;
        assert_eq!(written.expect("given up in time").unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_little_at_a_time_is_not() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Stalling::new(near, Duration::from_secs(2));
        let reader = tokio::spawn(async move {
            let (mut taken, mut buffer) = (0, [0; 64]);
            while taken < 64 * 40 {
                tokio::time::sleep(Duration::from_millis(75)).await;
                taken += far.read(&mut buffer).await.unwrap();
            }
            taken
        });
        // About three seconds in all: longer than the wait for one byte, and each byte is taken well within it.
        near.write_all(&[0; 64 * 40]).await.unwrap();
        assert_eq!(reader.await.unwrap(), 64 * 40);
    }

    #[tokio::test]
    async fn who_has_nothing_to_send_is_left_alone() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Stalling::new(near, Duration::from_millis(20));
        near.write_all(&[1; 64]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut buffer = [0; 64];
        far.read_exact(&mut buffer).await.unwrap();
        near.write_all(&[2; 64]).await.unwrap();
        near.flush().await.unwrap();
    }
}
