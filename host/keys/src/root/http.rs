//! The HTTP client of the providers that are services: one request, one small JSON answer, a deadline, no surprises.
//!
//! Must never follow a redirect or a proxy of the environment (a token would go with it), log a body, or read more than a
//! small answer. This is the keys room's own way out: it goes to the root key provider that the operator named, never
//! to an address that a tenant chose, so it does not pass the guests' egress gate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{PemItem, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use crate::error::KeysError;

/// LIMIT: longest wait for one answer, connecting included.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// LIMIT: longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// LIMIT: longest file with certificates, a token or credentials.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// A service's answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

pub(super) struct Client {
    provider: &'static str,
    agent: ureq::Agent,
}

// === impl Client ===

impl Client {
    /// A client that trusts the public certificate authorities, or those of a file alone.
    pub(super) fn new(provider: &'static str, ca_file: Option<&Path>) -> Result<Self, KeysError> {
        let roots = match ca_file {
            None => RootCerts::WebPki,
            Some(path) => {
                let pem = read_small(path)?;
                let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect();
                if certificates.is_empty() {
                    let reason = format!("there is no certificate in `{}`", path.display());
                    return Err(KeysError::Refused { provider, reason });
                }
                certificates.into_iter().into()
            }
        };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_WAIT))
            .max_redirects(0)
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(
                TlsConfig::builder()
                    .root_certs(roots)
                    .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                    .build(),
            )
            .build();
        Ok(Self { provider, agent: config.into() })
    }

    /// Sends one request. An error here means that no answer came; what an answer means is the provider's to say.
    pub(super) fn send(
        &self,
        method: &http::Method,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, KeysError> {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let unreachable = |reason: String| KeysError::Unreachable { provider: self.provider, reason };
        let unsendable = |_| KeysError::Refused {
            provider: self.provider,
            reason: "its token or address cannot be sent".to_owned(),
        };
        // Some methods have no body, not even an empty one.
        let sent = if body.is_empty() {
            self.agent.run(request.body(()).map_err(unsendable)?)
        } else {
            self.agent.run(request.body(body).map_err(unsendable)?)
        };
        let mut response = sent.map_err(|error| unreachable(error.to_string()))?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = Zeroizing::new(body.map_err(|error| unreachable(error.to_string()))?);
        Ok(Answer { status: response.status().as_u16(), body })
    }
}

/// Reads a small file whole.
pub(super) fn read_small(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    use std::io::Read;
    let io = |source| KeysError::Io { path: path.to_owned(), source };
    let mut content = Zeroizing::new(Vec::new());
    std::fs::File::open(path).map_err(io)?.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}
