//! The data plane of a host that is locked: every request is refused, whatever it is for.
//!
//! Must never tell one route from another: nothing about tenants is known yet.

use std::convert::Infallible;
use std::future::{Ready, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::refuse::Refusal;

/// The data plane's service while the host is locked.
#[derive(Debug, Clone, Copy)]
pub struct Locked;

impl hyper::service::Service<Request<Incoming>> for Locked {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, _request: Request<Incoming>) -> Self::Future {
        ready(Ok(Refusal::HostLocked.response().map(Full::new)))
    }
}
