//! A plugin's own certificate on its outgoing TLS, where `identity` is granted for the origin.
//!
//! Must never show a certificate to another origin than the granted one, nor let a connection or a TLS session that knows
//! one plugin serve another: a connection that shows a certificate has a configuration of its own, without resumption. The
//! private key stays behind the library's signing object; no guest and no log sees it.

use std::fmt;
use std::sync::Arc;

use ringfence_core::{PluginName, TenantId};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio_rustls::TlsConnector;

/// Who has the certificates of plugins.
pub trait Certificates: Send + Sync + 'static {
    /// The certificate of a plugin, good now; none when it cannot be had.
    fn certificate(&self, tenant: &TenantId, plugin: &PluginName) -> Option<Arc<CertifiedKey>>;
}

/// The one certificate of one connection.
struct Own(Arc<CertifiedKey>);

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<certificate of a plugin>")
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _root_hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A TLS client for one connection, which shows the certificate when it is asked for one.
pub(crate) fn showing(usual: &ClientConfig, certificate: Arc<CertifiedKey>) -> TlsConnector {
    let mut config = usual.clone();
    config.client_auth_cert_resolver = Arc::new(Own(certificate));
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}
