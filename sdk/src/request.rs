//! The request a plugin answers, and the trait that binds parameters to what the host gives.
//!
//! Must never hand the same thing out twice: the request and its body have one owner.

use anyhow::anyhow;
use wstd::http::{HeaderMap, Method, Request as WasiRequest};

use crate::{Body, Occasion, Result};

/// One invocation, from which parameters are bound.
pub struct Call {
    request: Option<Request>,
    /// What a workflow was given.
    #[cfg(feature = "json")]
    pub(crate) payload: Option<Vec<u8>>,
    /// What takes a workflow's steps back.
    #[cfg(feature = "json")]
    pub(crate) undo: crate::steps::Undo,
    pub(crate) occasion: Option<Occasion>,
}

/// What a plugin function may name as a parameter. Naming it makes it a need of the plugin.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing the host can give to a plugin",
    label = "not a need",
    note = "a plugin's parameters are any of Request, Occasion, Kv, Blobs, Files, Http, Log, Config, Secrets, Pii, Queues, Runs, AuditLog"
)]
pub trait FromHost: Sized {
    /// Takes it from the host for this call.
    ///
    /// # Errors
    /// When the host refuses, for example because the grant was revoked; the caller sees a plain 500.
    fn from_host(call: &mut Call) -> Result<Self>;
}

/// The request as the host passed it on: path below the plugin's route, the caller's headers without credentials.
#[derive(Debug)]
pub struct Request {
    inner: WasiRequest<Body>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("request", &self.request).finish_non_exhaustive()
    }
}

impl Call {
    pub(crate) fn new(request: WasiRequest<wstd::http::Body>) -> Self {
        Self {
            request: Some(Request { inner: request.map(Body) }),
            #[cfg(feature = "json")]
            payload: None,
            #[cfg(feature = "json")]
            undo: crate::steps::Undo::default(),
            occasion: None,
        }
    }

    /// A run of a workflow.
    #[cfg(feature = "json")]
    pub(crate) fn of_event(payload: Vec<u8>) -> Self {
        Self { request: None, payload: Some(payload), undo: crate::steps::Undo::default(), occasion: None }
    }

    /// A call without an HTTP request.
    pub(crate) fn on(occasion: Occasion) -> Self {
        Self {
            request: None,
            #[cfg(feature = "json")]
            payload: None,
            #[cfg(feature = "json")]
            undo: crate::steps::Undo::default(),
            occasion: Some(occasion),
        }
    }
}

impl FromHost for Request {
    fn from_host(call: &mut Call) -> Result<Self> {
        call.request.take().ok_or_else(|| anyhow!("there is no request, or it is named by two parameters"))
    }
}

impl Request {
    /// The method.
    pub fn method(&self) -> &Method {
        self.inner.method()
    }

    /// The path, percent-encoded as it came, with its leading slash.
    pub fn path(&self) -> &str {
        self.inner.uri().path()
    }

    /// The first value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.inner.uri().query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The first value of a header, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// Takes the body; a second call gets an empty one.
    pub fn body(&mut self) -> Body {
        std::mem::replace(self.inner.body_mut(), Body::empty())
    }
}
