//! Bodies of requests and answers: whole or streamed.
//!
//! Must never buffer a stream that nobody asked to collect. LIMIT: a collected body is bounded by the host's body limit
//! and by the plugin's memory budget.

use std::pin::Pin;

use bytes::Bytes;
use futures_lite::Stream;
use http_body_util::BodyExt;
use wstd::http::Body as WasiBody;

use crate::Result;

/// The body of a request or of an answer.
#[derive(Debug)]
pub struct Body(pub(crate) WasiBody);

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self(WasiBody::empty())
    }

    /// Sends chunks as the stream yields them.
    pub fn stream<S>(chunks: S) -> Self
    where
        S: Stream + Send + 'static,
        S::Item: Into<Bytes>,
    {
        Self(WasiBody::from_stream(chunks))
    }

    /// Sends what `next` returns until it returns `None`. `state` is handed from call to call.
    pub fn unfold<T, F, Fut>(state: T, next: F) -> Self
    where
        T: Send + 'static,
        F: FnMut(T) -> Fut + Send + 'static,
        Fut: Future<Output = Option<(Bytes, T)>> + Send + 'static,
    {
        Self::stream(futures_lite::stream::unfold(state, next))
    }

    /// The length in bytes, when it is known beforehand.
    pub fn len(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// All bytes, collected.
    pub async fn bytes(mut self) -> Result<Bytes> {
        self.0.bytes_contents().await.map_err(crate::http::said)
    }

    /// All bytes as UTF-8 text.
    pub async fn text(self) -> Result<String> {
        Ok(String::from_utf8(Vec::from(self.bytes().await?))?)
    }

    /// All bytes as JSON.
    #[cfg(feature = "json")]
    pub async fn json<T: serde::de::DeserializeOwned>(self) -> Result<T> {
        Ok(serde_json::from_slice(&self.bytes().await?)?)
    }

    /// The body as a stream of chunks.
    pub fn chunks(self) -> Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>> {
        Box::pin(self.0.into_boxed_body().into_data_stream())
    }
}

macro_rules! body_from {
    ($($source:ty),*) => {$(
        impl From<$source> for Body {
            fn from(source: $source) -> Self {
                Self(WasiBody::from(source))
            }
        }
    )*};
}

body_from!((), &[u8], Vec<u8>, Bytes, &str, String);
