//! Outgoing HTTP (`wasi:http/outgoing-handler`), which the host lets through to granted origins only.
//!
//! Must never be reachable without the parameter: it is what makes `http` a need.

use bytes::Bytes;
use wasip2::http::types::ErrorCode;
use wstd::http::request::Builder;
use wstd::http::{Client, HeaderMap, Method, Response};

use crate::{Body, Call, Error, FromHost, HostError, Result};

/// A request to send: `HttpRequest::post(url).header(name, value).body(body)`. What cannot be sent fails in
/// [`Http::send`].
#[derive(Debug)]
pub struct HttpRequest {
    head: Builder,
    body: Body,
}

/// Sends requests.
#[derive(Debug)]
pub struct Http {
    client: Client,
}

/// An answer from elsewhere.
#[derive(Debug)]
pub struct HttpResponse {
    inner: Response<wstd::http::Body>,
}

impl FromHost for Http {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self { client: Client::new() })
    }
}

impl Http {
    /// GET of a URL.
    pub async fn get(&self, url: &str) -> Result<HttpResponse> {
        self.send(HttpRequest::get(url)).await
    }

    /// POST of a body to a URL.
    pub async fn post(&self, url: &str, body: impl Into<Body>) -> Result<HttpResponse> {
        self.send(HttpRequest::post(url).body(body)).await
    }

    /// Any request. An origin that is not granted is an error, and so is one that does not answer in time.
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse> {
        let inner = self.client.send(request.head.body(request.body.0)?).await.map_err(said)?;
        Ok(HttpResponse { inner })
    }
}

/// A code of the interface as people read it, such as `http: connection refused`; its own text is that of a debugger.
pub(crate) fn said(error: Error) -> Error {
    let code = match error.downcast::<ErrorCode>() {
        Ok(ErrorCode::HttpRequestDenied) => return HostError::Denied("this outgoing request".to_owned()).into(),
        Ok(ErrorCode::InternalError(Some(why))) => return HostError::Failed(format!("http: {why}")).into(),
        Ok(code) => format!("{code:?}"),
        Err(other) => return other,
    };
    let name = code.trim_start_matches("ErrorCode::").split('(').next().unwrap_or_default();
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    HostError::Failed(format!("http: {words}")).into()
}

impl HttpRequest {
    /// A request with any method.
    pub fn new(method: Method, url: &str) -> Self {
        Self { head: Builder::new().method(method).uri(url), body: Body::empty() }
    }

    /// A GET.
    pub fn get(url: &str) -> Self {
        Self::new(Method::GET, url)
    }

    /// A POST.
    pub fn post(url: &str) -> Self {
        Self::new(Method::POST, url)
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self { head: self.head.header(name, value), ..self }
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Body>) -> Self {
        Self { body: body.into(), ..self }
    }
}

impl HttpResponse {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        self.inner.status().is_success()
    }

    /// The first value of a header, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The body, to collect or to pass on.
    pub fn into_body(self) -> Body {
        Body(self.inner.into_body())
    }

    /// The body's bytes.
    pub async fn bytes(self) -> Result<Bytes> {
        self.into_body().bytes().await
    }

    /// The body as text.
    pub async fn text(self) -> Result<String> {
        self.into_body().text().await
    }
}
