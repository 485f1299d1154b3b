//! Asks identity providers over HTTP, through the one door to addresses that a tenant named.
//!
//! Must never reach an address that a guest may not: an issuer is a tenant's word.

use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ringfence_identity::{Fetch, PROVIDER_DOCUMENT_BYTES_MAX};
use ringfence_outward::{Ask, Reach};

/// LIMIT: one question, from the name to the last byte.
const WAIT: Duration = Duration::from_secs(5);

/// See the head of this file.
pub struct ProviderFetch(Reach);

impl ProviderFetch {
    /// Through this door.
    pub fn new(reach: Reach) -> Self {
        Self(reach)
    }
}

impl Fetch for ProviderFetch {
    fn fetch(&self, ask: ringfence_identity::Ask) -> BoxFuture<'static, Option<Vec<u8>>> {
        let reach = self.0.clone();
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            if let Some(authorization) = &ask.authorization {
                let mut value = HeaderValue::from_str(authorization.expose()).ok()?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
            let (method, body) = match &ask.form {
                Some(form) => {
                    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                    headers.insert(header::CONTENT_TYPE, kind);
                    (Method::POST, form.expose().clone())
                }
                None => (Method::GET, String::new()),
            };
            let host = ask.url.host_str().map(ToOwned::to_owned);
            let (url, answer_bytes_max) = (ask.url, PROVIDER_DOCUMENT_BYTES_MAX);
            let asked = reach.send(Ask { method, url, headers, body: body.into(), answer_bytes_max, wait: WAIT }).await;
            let answer = asked.inspect_err(|error| {
                tracing::info!(host, %error, "an identity provider does not answer");
            });
            answer.ok().filter(|answer| answer.status == StatusCode::OK).map(|answer| answer.body.to_vec())
        })
    }
}
