//! Dialling: names to addresses, addresses to connections, connections to one HTTP/1.1 exchange.
//!
//! Must never dial an address that the gate did not check: it takes socket addresses, not names. TLS verifies the name.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::body::settled;
use crate::error::CapabilitiesError;

/// LIMIT: bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// LIMIT: header fields of an answer.
const HEADERS_COUNT_MAX: usize = 200;

/// Lookups of names that may be under way at once.
const LOOKUPS_COUNT_MAX: usize = 32;

static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_COUNT_MAX)));

/// Turns names into addresses.
pub trait Resolver: Send + Sync + 'static {
    /// All addresses of a name, or of a literal address.
    fn resolve(&self, host: &str, port: u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let host = host.to_owned();
        Box::pin(async move {
            // LIMIT: a lookup cannot be cancelled and outlives whoever gave up on it; without a bound of its own, names of
            // dead servers would take every thread that storage needs.
            let turn = Arc::clone(&LOOKUPS).acquire_owned().await.map_err(io::Error::other)?;
            let look = move || {
                let _turn = turn;
                (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
            };
            tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
        })
    }
}

/// A TLS client that trusts the public roots and the operator's own.
pub(crate) fn tls(extra_roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, CapabilitiesError> {
    let failed = |error: rustls::Error| CapabilitiesError::Tls(error.to_string());
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra_roots {
        roots.add(root).map_err(failed)?;
    }
    // Two providers of cryptography are in the tree, so the one is named.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A connection's task; ends with whoever holds this.
pub(crate) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to the first address that answers, within `limit` for all of them together.
pub(crate) async fn dial(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, HttpError> {
    let connect = async {
        let mut last = HttpError::DestinationNotFound;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => last = HttpError::ConnectionRefused,
                Err(error) => last = HttpError::Connect(error),
            }
        }
        Err(last)
    };
    let stream = tokio::time::timeout(limit, connect).await.map_err(|_| HttpError::ConnectionTimeout)??;
    stream.set_nodelay(true).map_err(HttpError::Connect)?;
    Ok(stream)
}

/// Puts TLS on a connection; the certificate must be for `host`.
pub(crate) async fn secure(
    tls: &TlsConnector,
    host: &str,
    stream: TcpStream,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, HttpError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| HttpError::HttpRequestUriInvalid)?;
    match tokio::time::timeout(limit, tls.connect(name, stream)).await {
        Err(_) => Err(HttpError::ConnectionTimeout),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            let of_certificate = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let of_certificate =
                of_certificate.is_some_and(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
            Err(if of_certificate { HttpError::TlsCertificateError } else { HttpError::Tls(error) })
        }
    }
}

/// Sends one request on a fresh connection and waits for the answer's head.
pub(crate) async fn exchange<S>(
    stream: S,
    request: http::Request<WasiBody>,
    first_byte: Duration,
) -> Result<(http::Response<Incoming>, Driver), HttpError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_COUNT_MAX)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    let driver = Driver(tokio::spawn(async move {
        // How the connection ends shows in the answer's body; the task has nobody else to tell.
        let _ = connection.await;
    }));
    let request = settled(in_origin_form(request)?).await?;
    let answer = tokio::time::timeout(first_byte, sender.send_request(request));
    let answer = answer.await.map_err(|_| HttpError::ConnectionReadTimeout)??;
    Ok((answer, driver))
}

/// A server is told path and query only; scheme and authority are for proxies.
fn in_origin_form<B>(mut request: http::Request<B>) -> Result<http::Request<B>, HttpError> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let path = if path.path().is_empty() { PathAndQuery::from_static("/") } else { path };
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = http::Version::HTTP_11;
    Ok(request)
}
