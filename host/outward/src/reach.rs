//! The door: connections to addresses that a tenant named, checked as those of guests are.
//!
//! Must never reach an address that a guest may not: every address of a name is checked, and the one that was checked is
//! the one that is dialled, on a connection of its own for every question. No redirects, no proxies; HTTP without TLS only
//! where the operator made an exception for the address; bounded time and bytes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ringfence_capabilities::{AddressRange, Resolver, prohibited};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

/// LIMIT: longest wait for a connection, all addresses of a name together, and for TLS on it.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// LIMIT: bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// LIMIT: header fields of an answer.
const HEADERS_COUNT_MAX: usize = 100;
/// LIMIT: longest address, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct Reach {
    inner: Arc<Inner>,
}

struct Inner {
    resolver: Arc<dyn Resolver>,
    exceptions: Vec<AddressRange>,
    tls: Arc<ClientConfig>,
}

/// One question over HTTP.
#[derive(Debug)]
pub struct Ask {
    /// How.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// With what; `host` and `content-length` are added.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
    /// LIMIT: bytes of the answer's body.
    pub answer_bytes_max: usize,
    /// LIMIT: time for all of it, from the name to the last byte.
    pub wait: Duration,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status, whatever it is; no redirect was followed.
    pub status: StatusCode,
    /// The head.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why nothing came back. Tells a tenant no more of the host's network than that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// Not an address.
    #[error("the address is not of the form `https://host/path`, without a name or password in it")]
    BadAddress,
    /// It is not reached from here. One word for both, so that nobody learns which names there are inside.
    #[error("the name is not known, or has an address that this host does not reach")]
    NotReached,
    /// Nobody listens.
    #[error("it cannot be connected to")]
    NotConnected,
    /// No TLS with it.
    #[error("there is no TLS connection with it: {0}")]
    Tls(String),
    /// Too slow.
    #[error("it does not answer in time")]
    TimedOut,
    /// Too much.
    #[error("its answer is over {0} bytes")]
    TooLong(usize),
    /// The connection broke, or what came is no HTTP.
    #[error("it breaks off, or does not speak HTTP")]
    BrokenOff,
}

/// Whether what is said can be read on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Tls,
}

// === impl Reach ===

impl Reach {
    /// With the exceptions that the operator made for outgoing requests.
    pub fn new(resolver: Arc<dyn Resolver>, exceptions: Vec<AddressRange>) -> Result<Self, ReachError> {
        let failed = |error: rustls::Error| ReachError::Tls(error.to_string());
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_platform_verifier()
            .map_err(failed)?
            .with_no_client_auth();
        Ok(Self { inner: Arc::new(Inner { resolver, exceptions, tls: Arc::new(tls) }) })
    }

    /// Whether an address is of the right form, and is not one that is never reached. Names are checked when they are
    /// resolved, at every question anew.
    pub fn check(&self, text: &str) -> Result<Url, ReachError> {
        let url: Url = text.parse().map_err(|_| ReachError::BadAddress)?;
        let (host, port, way) = place(&url)?;
        if text.len() > URL_BYTES_MAX || !url.username().is_empty() || url.password().is_some() {
            return Err(ReachError::BadAddress);
        }
        match host.parse::<IpAddr>() {
            Ok(address) => self.may(SocketAddr::new(address, port), way)?,
            Err(_) if way == Way::Plain => return Err(ReachError::BadAddress),
            Err(_) => {}
        }
        Ok(url)
    }

    /// Whether a host for TLS is not one that is never reached.
    pub fn check_host(&self, host: &str, port: u16) -> Result<(), ReachError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.may(SocketAddr::new(address, port), Way::Tls);
        }
        ServerName::try_from(host.to_owned()).map(drop).map_err(|_| ReachError::BadAddress)
    }

    /// Asks once.
    pub async fn send(&self, ask: Ask) -> Result<Answer, ReachError> {
        tokio::time::timeout(ask.wait, self.exchange(ask)).await.unwrap_or(Err(ReachError::TimedOut))
    }

    /// A connection with TLS, trusting the machine's roots, or these alone.
    pub async fn connect(
        &self,
        host: &str,
        port: u16,
        roots: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<TlsStream<TcpStream>, ReachError> {
        let stream = self.dial(host, port, Way::Tls).await?;
        let config = match roots {
            None => Arc::clone(&self.inner.tls),
            Some(roots) => Arc::new(trusting(roots)?),
        };
        secure(config, host, stream).await
    }

    async fn exchange(&self, ask: Ask) -> Result<Answer, ReachError> {
        let (host, port, way) = place(&ask.url)?;
        let stream = self.dial(&host, port, way).await?;
        match way {
            Way::Plain => talk(stream, ask).await,
            Way::Tls => talk(secure(Arc::clone(&self.inner.tls), &host, stream).await?, ask).await,
        }
    }

    /// Connects to the first address of a name that answers, if all of them may be reached.
    async fn dial(&self, host: &str, port: u16, way: Way) -> Result<TcpStream, ReachError> {
        let connect = async {
            let found = self.inner.resolver.resolve(host, port).await.map_err(|_| ReachError::NotReached)?;
            if found.is_empty() {
                return Err(ReachError::NotReached);
            }
            for address in &found {
                self.may(*address, way)?;
            }
            for address in &found {
                if let Ok(stream) = TcpStream::connect(address).await {
                    return Ok(stream);
                }
            }
            Err(ReachError::NotConnected)
        };
        tokio::time::timeout(CONNECT_WAIT, connect).await.unwrap_or(Err(ReachError::TimedOut))
    }

    fn may(&self, address: SocketAddr, way: Way) -> Result<(), ReachError> {
        let is_excepted = self.inner.exceptions.iter().any(|range| range.contains(address));
        let is_public = prohibited(address.ip()).is_none();
        if is_excepted || (is_public && way == Way::Tls) { Ok(()) } else { Err(ReachError::NotReached) }
    }
}

/// Host, port and way of an address.
fn place(url: &Url) -> Result<(String, u16, Way), ReachError> {
    let way = match url.scheme() {
        "https" => Way::Tls,
        "http" => Way::Plain,
        _ => return Err(ReachError::BadAddress),
    };
    let host = url.host_str().ok_or(ReachError::BadAddress)?.trim_matches(['[', ']']).to_owned();
    Ok((host, url.port_or_known_default().ok_or(ReachError::BadAddress)?, way))
}

fn trusting(roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, ReachError> {
    let failed = |error: rustls::Error| ReachError::Tls(error.to_string());
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(failed)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

async fn secure(config: Arc<ClientConfig>, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, ReachError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ReachError::BadAddress)?;
    match tokio::time::timeout(CONNECT_WAIT, TlsConnector::from(config).connect(name, stream)).await {
        Err(_) => Err(ReachError::TimedOut),
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => {
                Err(ReachError::Tls("its certificate is not trusted".to_owned()))
            }
            _ => Err(ReachError::Tls("the handshake fails".to_owned())),
        },
    }
}

/// Ends the connection's task with whoever waits for it.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn talk<S>(stream: S, ask: Ask) -> Result<Answer, ReachError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |_: hyper::Error| ReachError::BrokenOff;
    let request = request(&ask)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_COUNT_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let _driver = Driver(tokio::spawn(async move {
        // How the connection ends shows in the answer; the task has nobody else to tell.
        let _ = connection.await;
    }));
    let (head, mut body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if read.len() + data.len() > ask.answer_bytes_max {
                return Err(ReachError::TooLong(ask.answer_bytes_max));
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(Answer { status: head.status, headers: head.headers, body: read.freeze() })
}

fn request(ask: &Ask) -> Result<Request<Full<Bytes>>, ReachError> {
    let bad = |_| ReachError::BadAddress;
    let host = ask.url.host_str().ok_or(ReachError::BadAddress)?;
    let host = match ask.url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let target = match ask.url.query() {
        Some(query) => format!("{}?{query}", ask.url.path()),
        None => ask.url.path().to_owned(),
    };
    let mut request = Request::builder().method(ask.method.clone()).uri(target);
    if let Some(headers) = request.headers_mut() {
        headers.extend(ask.headers.clone());
        headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| ReachError::BadAddress)?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("ringfence"));
    }
    request.body(Full::new(ask.body.clone())).map_err(bad)
}
