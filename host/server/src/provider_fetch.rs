//! Asks identity providers over HTTP.
//!
//! Must never reach an address that a guest may not: an issuer is a tenant's word. No redirects, one connection a
//! question (so that the address that was checked is the one that is used), bounded time and bytes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, StatusCode, Url, header, redirect};
use ringfence_capabilities::{AddressRange, prohibited};
use ringfence_identity::{Ask, Fetch, PROVIDER_DOCUMENT_BYTES_MAX};

/// LIMIT: one question, from the name to the last byte.
const WAIT: Duration = Duration::from_secs(5);

/// See the head of this file.
pub struct ProviderFetch {
    client: Client,
    allowed: Allowed,
}

/// Which addresses may be reached.
#[derive(Clone)]
struct Allowed(Vec<AddressRange>);

impl Allowed {
    fn covers(&self, address: SocketAddr) -> bool {
        prohibited(address.ip()).is_none() || self.0.iter().any(|range| range.contains(address))
    }
}

/// Resolves names for one port; a name with one bad address is not resolved.
struct Checked {
    allowed: Allowed,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 443)).await?.collect();
            if found.is_empty() || !found.iter().all(|address| allowed.covers(*address)) {
                return Err("the name has an address that is not public".into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl ProviderFetch {
    /// With the exceptions that the operator made for outgoing requests.
    pub fn new(allow_private: Vec<AddressRange>) -> anyhow::Result<Self> {
        let allowed = Allowed(allow_private);
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .timeout(WAIT)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .dns_resolver(Checked { allowed: allowed.clone() })
            .build()?;
        Ok(Self { client, allowed })
    }

    /// Whether an address that stands in the URL itself may be reached; names are checked when they are resolved.
    fn may(&self, url: &Url) -> bool {
        let Some(port) = url.port_or_known_default() else { return false };
        match url.host_str().map(|host| host.trim_matches(['[', ']']).parse::<IpAddr>()) {
            Some(Ok(address)) => self.allowed.covers(SocketAddr::new(address, port)),
            Some(Err(_)) => true,
            None => false,
        }
    }
}

impl Fetch for ProviderFetch {
    fn fetch(&self, ask: Ask) -> BoxFuture<'static, Option<Vec<u8>>> {
        if !self.may(&ask.url) {
            return Box::pin(std::future::ready(None));
        }
        let mut request = match &ask.form {
            Some(form) => self
                .client
                .post(ask.url.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.expose().clone()),
            None => self.client.get(ask.url.clone()),
        };
        request = request.header(header::ACCEPT, "application/json");
        if let Some(authorization) = &ask.authorization {
            let Ok(mut value) = header::HeaderValue::from_str(authorization.expose()) else {
                return Box::pin(std::future::ready(None));
            };
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        Box::pin(async move {
            let answer = request.send().await.inspect_err(|error| {
                tracing::info!(host = ask.url.host_str(), error = %error.to_string(), "an identity provider does not answer");
            });
            let mut answer = answer.ok().filter(|answer| answer.status() == StatusCode::OK)?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.ok()? {
                if body.len() + chunk.len() > PROVIDER_DOCUMENT_BYTES_MAX {
                    return None;
                }
                body.extend_from_slice(&chunk);
            }
            Some(body)
        })
    }
}
