//! Answers: everything a plugin function may return.
//!
//! Must never show a caller what went wrong inside a plugin: an error is logged and answered with a plain 500.

use std::borrow::Cow;
use std::fmt::Display;

use bytes::Bytes;
use wstd::http::{HeaderName, HeaderValue, Response as WasiResponse, StatusCode};

use crate::Body;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// An answer with status, headers and body.
#[derive(Debug)]
pub struct Response {
    inner: WasiResponse<Body>,
    fault: Option<String>,
}

/// What a plugin function may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer",
    label = "cannot be sent to a caller",
    note = "return text, bytes, (status, body), Json<T>, Response, or a Result or Option of these"
)]
pub trait IntoResponse {
    /// The answer to send.
    fn into_response(self) -> Response;
}

/// A value answered as JSON.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl Response {
    /// Status 200 with this body and no content type.
    pub fn new(body: impl Into<Body>) -> Self {
        Self { inner: WasiResponse::new(body.into()), fault: None }
    }

    /// Sets the status code, 100 to 999.
    pub fn status(mut self, code: u16) -> Self {
        match StatusCode::from_u16(code) {
            Ok(status) => *self.inner.status_mut() = status,
            Err(_) => self.fault = Some(format!("no status code: {code}")),
        }
        self
    }

    /// Sets a header, in place of one of the same name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => drop(self.inner.headers_mut().insert(name, value)),
            _ => self.fault = Some(format!("no header: `{name}`")),
        }
        self
    }

    /// A plain 500 for the caller, and the reason on standard error for the plugin's log.
    pub(crate) fn failure(reason: impl Display) -> Self {
        eprintln!("plugin failed: {reason:#}");
        (500, "the plugin failed\n").into_response()
    }

    /// The answer in the words of HTTP. One that a header or status made impossible becomes a failure.
    pub(crate) fn finish(self) -> WasiResponse<wstd::http::Body> {
        if let Some(fault) = self.fault {
            return Self::failure(fault).finish();
        }
        let mut inner = self.inner;
        let without_body = matches!(inner.status().as_u16(), 100..=199 | 204 | 304);
        if let (Some(length), false) = (inner.body().len(), without_body) {
            inner.headers_mut().entry("content-length").or_insert(HeaderValue::from(length));
        }
        inner.map(|body| body.0)
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        Response::new(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new(Body::empty()).status(204)
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        Response::new(Body::empty()).status(self.as_u16())
    }
}

macro_rules! answers {
    ($kind:expr; $($source:ty),*) => {$(
        impl IntoResponse for $source {
            fn into_response(self) -> Response {
                Response::new(self).header("content-type", $kind)
            }
        }
    )*};
}

answers!(TEXT; &'static str, String);
answers!(BINARY; &'static [u8], Vec<u8>, Bytes);

impl IntoResponse for Cow<'static, str> {
    fn into_response(self) -> Response {
        self.into_owned().into_response()
    }
}

impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Response {
        self.1.into_response().status(self.0)
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response {
        (self.0.as_u16(), self.1).into_response()
    }
}

impl<T: IntoResponse> IntoResponse for Option<T> {
    fn into_response(self) -> Response {
        self.map_or_else(|| (404, "not found\n").into_response(), T::into_response)
    }
}

impl<T: IntoResponse, E: Display> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        self.map_or_else(Response::failure, T::into_response)
    }
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => Response::new(text).header("content-type", "application/json"),
            Err(error) => Response::failure(error),
        }
    }
}
