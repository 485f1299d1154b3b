//! A request to another plugin of the tenant: handed over inside the host, with its bodies in the words of `wasi:http`.
//!
//! Must never touch a socket or a name server, and never let an answer that broke off look complete. A callee that answers
//! without having read what it was sent, as every refusal does, must not look like one that hung up: the rest is read on a
//! little, as a server does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Empty};
use ringfence_core::{InvocationId, PluginName};
use ringfence_engine::{Body, BodyError};
use ringfence_store::TenantStore;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::calls::{Chain, Exchange, PluginCall};

/// LIMIT: of what a callee did not read, so much is taken, and so long is waited for it.
const UNREAD_BYTES_MAX: usize = 64 << 10;
const UNREAD_WAIT: Duration = Duration::from_secs(2);

/// An invocation as one that calls.
pub(crate) struct Caller {
    pub(crate) store: TenantStore,
    pub(crate) plugin: PluginName,
    pub(crate) invocation: InvocationId,
    pub(crate) chain: Chain,
    /// None while the host has nobody who runs what is called.
    pub(crate) exchange: Option<Arc<dyn Exchange>>,
}

impl Caller {
    /// The call, to be awaited inside the I/O runtime.
    pub(crate) fn call(
        &self,
        to: PluginName,
        time_left_ms: u64,
        request: http::Request<WasiBody>,
        io: &Handle,
    ) -> Result<BoxFuture<'static, http::Response<WasiBody>>, HttpError> {
        let exchange = self.exchange.clone().ok_or(HttpError::DestinationUnavailable)?;
        let call = PluginCall {
            store: self.store.clone(),
            from: self.plugin.clone(),
            invocation: self.invocation.clone(),
            chain: self.chain.clone(),
            to,
            time_left_ms,
            request: request.map(|body| Sent { body: Some(body), io: io.clone() }.boxed_unsync()),
        };
        Ok(Box::pin(async move { exchange.call(call).await.map(piped) }))
    }
}

/// What is sent. What is left of it when it is dropped is read on a little.
struct Sent {
    /// None once it is read to its end.
    body: Option<WasiBody>,
    io: Handle,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(next, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(next.map(|piece| piece.map_err(|_| BodyError::Closed)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.as_ref().map_or_else(|| http_body::SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        self.io.spawn(async move {
            let rest = async {
                let mut bytes = 0_usize;
                while let Some(Ok(piece)) = body.frame().await {
                    bytes = bytes.saturating_add(piece.data_ref().map_or(0, Bytes::len));
                    if bytes > UNREAD_BYTES_MAX {
                        return;
                    }
                }
            };
            drop(tokio::time::timeout(UNREAD_WAIT, rest).await);
        });
    }
}

/// The answer's body, moved on by a task of the I/O runtime. What moves a guest's answer may run that guest; a guest's worker
/// must not run another guest inside of its own.
fn piped(mut body: Body) -> WasiBody {
    if body.is_end_stream() {
        return Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    let (sender, pieces) = mpsc::channel(1);
    let pump = tokio::spawn(async move {
        while let Some(piece) = body.frame().await {
            if sender.send(Some(piece.map_err(|error| told(&error)))).await.is_err() {
                return;
            }
        }
        let _ = sender.send(None).await;
    });
    Piped { pieces, pump, is_over: false }.boxed_unsync()
}

fn told(error: &BodyError) -> HttpError {
    match error {
        BodyError::TooLarge => HttpError::HttpResponseBodySize(None),
        BodyError::TimedOut => HttpError::ConnectionReadTimeout,
        BodyError::Closed | BodyError::Run(_) | BodyError::Other(_) => HttpError::ConnectionTerminated,
    }
}

/// Dropping it ends the call.
struct Piped {
    /// `None` is the end; a channel that closes without it broke off.
    pieces: mpsc::Receiver<Option<Result<Frame<Bytes>, HttpError>>>,
    pump: JoinHandle<()>,
    is_over: bool,
}

impl HttpBody for Piped {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = match ready!(self.pieces.poll_recv(cx)) {
            Some(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
            Some(Some(Err(error))) => Some(Err(error)),
            Some(None) => None,
            None => Some(Err(HttpError::ConnectionTerminated)),
        };
        self.is_over = true;
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    fn body(pieces: Vec<Result<&'static str, BodyError>>) -> Body {
        let frames = pieces.into_iter().map(|piece| piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
        StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
    }

    #[tokio::test]
    async fn what_a_callee_does_not_read_is_taken_all_the_same() {
        let (sender, pieces) = mpsc::channel::<Result<Frame<Bytes>, HttpError>>(1);
        let unread = StreamBody::new(futures::stream::unfold(pieces, async |mut pieces| {
            pieces.recv().await.map(|piece| (piece, pieces))
        }));
        drop(Sent { body: Some(Box::pin(unread).boxed_unsync()), io: Handle::current() });
        for _ in 0..3 {
            sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
        }
        for _ in 0..3 {
            if sender.send(Ok(Frame::data(Bytes::from(vec![0; UNREAD_BYTES_MAX])))).await.is_err() {
                return;
            }
        }
        tokio::time::timeout(Duration::from_secs(5), sender.closed()).await.expect("there is an end to it");
    }

    #[tokio::test]
    async fn an_answer_passes_whole_and_one_that_breaks_off_says_so() {
        let whole = piped(body(vec![Ok("one "), Ok("two")])).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "one two");
        let broken = piped(body(vec![Ok("one "), Err(BodyError::Closed)])).collect().await;
        assert!(matches!(broken, Err(HttpError::ConnectionTerminated)));
        let torn = Piped { pieces: mpsc::channel(1).1, pump: tokio::spawn(async {}), is_over: false };
        assert!(matches!(torn.collect().await, Err(HttpError::ConnectionTerminated)), "a lost pump is no end");
    }
}
