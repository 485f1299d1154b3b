//! The egress gate: every outgoing request of every guest, of either version of `wasi:http`, comes through here.
//!
//! In this order: is it counted, is `http` granted for exactly this origin now, does policy leave it, may what it holds leave
//! the tenant (`inspect.rs`, its body as it passes), does the name resolve only to public addresses, connect to one of those addresses and no other. Redirects are not followed: the guest sees them, and
//! following one is a new request that comes through here again. Must never add a credential, and never trust a name
//! twice: what was checked is what is dialled. `http://NAME.plugin.internal` is another plugin of the tenant: granted like
//! any origin, handed over inside the host (`inside.rs`), and below that suffix nothing is ever looked up.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http_body_util::BodyExt;
use ringfence_core::proof::origin_text;
use ringfence_core::{Capability, HostAct, On, PluginName, calls};
use ringfence_engine::{Meter, SendAnswer, SendEnd};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody, WasiHttpHooks};

use super::address::{self, AddressRange};
use super::body::{Answer, AnswerLimits, counted};
use super::charge::Charged;
use super::client_certificate::{self, Certificates};
use super::connect::{self, Resolver};
use super::inside::Caller;
use super::inspect::Inspection;
use crate::error::CapabilitiesError;
use crate::grants::LiveGrants;
use crate::guarded::Guarded;
use crate::logging::Notebook;
use crate::logs::LogLevel;
use crate::overseer::Leave;
use crate::quota::Ledger;

/// Bytes a guest may hand over in one write of a body.
const CHUNK_BYTES_MAX: usize = 32 << 10;
/// Bytes of a request that does not go which are taken all the same, and how long.
const REFUSED_BYTES_MAX: usize = 64 << 10;
const REFUSED_WAIT: Duration = Duration::from_millis(250);

/// Limits and exceptions of outgoing HTTP.
pub struct EgressConfig {
    /// Networks that may be reached although they are not public; the operator's explicit choice, normally empty.
    pub allow_private: Vec<AddressRange>,
    /// Turns names into addresses; normally [`super::SystemResolver`].
    pub resolver: Arc<dyn Resolver>,
    /// Root certificates trusted beside the public ones.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Longest wait for a connection with its TLS, milliseconds.
    pub connect_ms: u64,
    /// Longest wait for an answer's head, milliseconds.
    pub first_byte_ms: u64,
    /// Longest silence inside an answer's body, milliseconds.
    pub idle_ms: u64,
    /// Longest time of a whole exchange, milliseconds.
    pub total_ms: u64,
    /// Most bytes of an answer's body.
    pub response_bytes_max: u64,
}

impl EgressConfig {
    /// No exceptions, the system's resolver, and limits that suit an API call.
    pub fn strict() -> Self {
        Self {
            allow_private: Vec::new(),
            resolver: Arc::new(super::SystemResolver),
            extra_roots: Vec::new(),
            connect_ms: 5_000,
            first_byte_ms: 15_000,
            idle_ms: 15_000,
            total_ms: 60_000,
            response_bytes_max: 16 << 20,
        }
    }
}

/// What all gates share.
pub(crate) struct Outbound {
    config: EgressConfig,
    tls: Arc<ClientConfig>,
    certificates: OnceLock<Arc<dyn Certificates>>,
    io: tokio::runtime::Handle,
}

impl Outbound {
    pub(crate) fn new(mut config: EgressConfig, io: tokio::runtime::Handle) -> Result<Arc<Self>, CapabilitiesError> {
        let tls = connect::tls(std::mem::take(&mut config.extra_roots))?;
        Ok(Arc::new(Self { config, tls, certificates: OnceLock::new(), io }))
    }

    /// Says who has the certificates of plugins. The first word counts; until then there are none.
    pub(crate) fn set_certificates(&self, certificates: Arc<dyn Certificates>) {
        let _ = self.certificates.set(certificates);
    }
}

/// The gate of one invocation.
pub(crate) struct Gate {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) caller: Caller,
    pub(crate) grants: LiveGrants,
    pub(crate) meter: Arc<Meter>,
    pub(crate) notebook: Arc<Notebook>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) guarded: Guarded,
    pub(crate) leave: Leave,
}

/// Where an admitted request goes.
enum Destination {
    /// Out of the host, with the plugin's certificate where it is granted.
    Outside(Origin, Option<Arc<CertifiedKey>>),
    /// To another plugin of the tenant.
    Plugin(PluginName),
}

/// Where a request goes, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    /// Without brackets.
    host: String,
    port: u16,
}

// === impl Origin ===

impl Origin {
    fn of(uri: &http::Uri) -> Result<Self, HttpError> {
        let scheme = uri.scheme().cloned().ok_or(HttpError::HttpRequestUriInvalid)?;
        let authority = uri.authority().ok_or(HttpError::HttpRequestUriInvalid)?;
        Self::parse(scheme, authority)
    }

    fn parse(scheme: Scheme, authority: &Authority) -> Result<Self, HttpError> {
        let default_port = if scheme == Scheme::HTTPS {
            443
        } else if scheme == Scheme::HTTP {
            80
        } else {
            return Err(HttpError::HttpProtocolError);
        };
        // SECURITY: `user@host` reads as one host and is another.
        if authority.as_str().contains('@') {
            return Err(HttpError::HttpRequestUriInvalid);
        }
        let port = match authority.port_u16() {
            Some(0) => return Err(HttpError::HttpRequestUriInvalid),
            Some(port) => port,
            None if authority.as_str().ends_with(':') => return Err(HttpError::HttpRequestUriInvalid),
            None => default_port,
        };
        let host = authority.host().to_ascii_lowercase();
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host).to_owned();
        if host.is_empty() || host.contains('%') {
            return Err(HttpError::HttpRequestUriInvalid);
        }
        Ok(Self { scheme, host, port })
    }

    fn is_secure(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The words of a grant: scheme, host, and the port when it is not the usual one.
    fn text(&self) -> String {
        origin_text(self.scheme.as_str(), &self.host, self.port)
    }
}

// === impl Gate ===

impl Gate {
    /// Whether the request may go out, before anything is resolved.
    fn admit(&self, method: &http::Method, uri: &http::Uri) -> Result<Destination, HttpError> {
        self.meter.host_call().map_err(|_| HttpError::HttpRequestDenied)?;
        if self.meter.outgoing().is_err() {
            return Err(HttpError::ConnectionLimitReached);
        }
        let origin = Origin::of(uri)?;
        let text = origin.text();
        if self.guarded.is_frozen() {
            return Err(self.deny(&text, "frozen", "a response to a threat holds this plugin's requests back"));
        }
        let callee = calls::callee(&text);
        // SECURITY: no other spelling of a name below the suffix means anything, whatever a name server says about it.
        if callee.is_none() && calls::is_inside(&origin.host) {
            let why = "another plugin of the tenant is `http://NAME.plugin.internal`, without a port";
            return Err(self.deny(&text, "not-granted", why));
        }
        if !self.grants.covers(Capability::Http, &text) {
            let plugin = &self.caller.plugin;
            let why = format!("this origin is not granted; to allow it: ringfence grant {plugin} http {text}");
            return Err(self.deny(&text, "not-granted", &why));
        }
        let (method, path) = (method.as_str(), uri.path());
        // What stays inside is a call like any other, and counts as one where it arrives.
        if let Some(plugin) = callee {
            let asked = self.leave.ask(HostAct::CallPlugin, On::Plugin { plugin: &plugin, method, path });
            return asked.map(|()| Destination::Plugin(plugin)).map_err(|_| HttpError::HttpRequestDenied);
        }
        let on = On::Outside { scheme: origin.scheme.as_str(), host: &origin.host, port: origin.port, method, path };
        self.leave.ask(HostAct::SendRequest, on).map_err(|_| HttpError::HttpRequestDenied)?;
        self.ledger.egress_request().map_err(|exhausted| {
            self.notebook.own(LogLevel::Warn, &format!("outgoing request to `{text}` was refused: {exhausted}"));
            HttpError::InternalError(Some(exhausted.to_string()))
        })?;
        let certificate = self.certificate(&origin, &text)?;
        Ok(Destination::Outside(origin, certificate))
    }

    /// The plugin's own certificate, when it may be shown to this origin. A grant that cannot be followed ends the request:
    /// going on without would look like another caller to who is asked.
    fn certificate(&self, origin: &Origin, text: &str) -> Result<Option<Arc<CertifiedKey>>, HttpError> {
        if !origin.is_secure() || !self.grants.covers(Capability::Identity, text) {
            return Ok(None);
        }
        let found = self.outbound.certificates.get().zip(self.caller.store.tenant());
        let found = found.and_then(|(certificates, tenant)| certificates.certificate(tenant, &self.caller.plugin));
        found.map(Some).ok_or_else(|| {
            let why = "the host has no certificate for this plugin now";
            self.notebook.own(LogLevel::Warn, &format!("outgoing request to `{text}` was refused: {why}"));
            HttpError::InternalError(Some(why.to_owned()))
        })
    }

    /// Tells the plugin's owner and the audit log.
    fn deny(&self, origin: &str, code: &'static str, why: &str) -> HttpError {
        self.notebook.own(LogLevel::Warn, &format!("outgoing request to `{origin}` was refused: {why}"));
        self.guarded.refused(origin, code);
        HttpError::HttpRequestDenied
    }

    /// The answer to a request that does not go. What the guest sends meanwhile is taken and thrown away, as far as that goes: to
    /// most libraries a body that nobody reads is a connection that broke off, and they do not ask why.
    fn refuse(&self, request: http::Request<WasiBody>, error: HttpError) -> SendAnswer {
        let task = AbortOnDrop(self.outbound.io.spawn(async move {
            let (mut body, mut bytes) = (request.into_body(), 0);
            let taken = async {
                while let Some(Ok(frame)) = body.frame().await {
                    bytes += frame.data_ref().map_or(0, |data| data.len());
                    if bytes > REFUSED_BYTES_MAX {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(REFUSED_WAIT, taken).await;
            Err(error)
        }));
        Box::new(task.wait())
    }

    /// Hands the request over to another plugin. How long the callee may take is its own budget and what is left of ours; a
    /// guest that wants its answer sooner says so.
    fn call(&self, to: PluginName, request: http::Request<WasiBody>, options: Option<RequestOptions>) -> SendAnswer {
        let call = match self.caller.call(to, self.meter.time_left_ms(), request, &self.outbound.io) {
            Ok(call) => call,
            Err(error) => return Box::new(async move { Err(error) }),
        };
        let limit = options.and_then(|options| options.first_byte_timeout);
        let task = AbortOnDrop(self.outbound.io.spawn(async move {
            match limit {
                Some(limit) => tokio::time::timeout(limit, call).await.map_err(|_| HttpError::ConnectionReadTimeout),
                None => Ok(call.await),
            }
        }));
        Box::new(async move {
            let end: SendEnd = Box::new(async { Ok(()) });
            Ok((task.wait().await?, end))
        })
    }
}

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: SendEnd,
    ) -> SendAnswer {
        let (origin, certificate) = match self.admit(request.method(), request.uri()) {
            Ok(Destination::Outside(origin, certificate)) => (origin, certificate),
            Ok(Destination::Plugin(to)) => return self.call(to, request, options),
            Err(error) => return self.refuse(request, error),
        };
        let inspection = Inspection::of(self, &origin.host, origin.text());
        if let Some(Err(error)) = inspection.as_ref().map(|inspection| inspection.look(&mut request)) {
            return self.refuse(request, error);
        }
        let (outbound, notebook) = (Arc::clone(&self.outbound), Arc::clone(&self.notebook));
        let ledger = Arc::clone(&self.ledger);
        let request = request.map(|body| Charged::wrap(body, &ledger));
        let (meter, guarded) = (Arc::clone(&self.meter), self.guarded.clone());
        // Names, handshakes and sockets are the I/O runtime's work, also when the guest's own worker polls for the answer.
        let task = self.outbound.io.spawn(async move {
            let told = (&*notebook, &guarded);
            outbound.send((&origin, certificate), request, options, told, meter).await
        });
        let task = AbortOnDrop(task);
        Box::new(async move {
            let why = |error| inspection.and_then(|inspection| inspection.refusal()).unwrap_or(error);
            let answer = task.wait().await.map_err(why)?.map(|body| Charged::wrap(body, &ledger));
            let end: SendEnd = Box::new(async { Ok(()) });
            Ok((answer, end))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }
}

// === impl Outbound ===

impl Outbound {
    async fn send(
        &self,
        (origin, certificate): (&Origin, Option<Arc<CertifiedKey>>),
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        told: (&Notebook, &Guarded),
        meter: Arc<Meter>,
    ) -> Result<http::Response<WasiBody>, HttpError> {
        let request = request.map(|body| counted(body, Arc::clone(&meter), told.1.clone()));
        let head = head_bytes(&request);
        let options = options.unwrap_or_default();
        let limit = |asked: Option<Duration>, ms: u64| {
            asked.map_or(Duration::from_millis(ms), |asked| asked.min(Duration::from_millis(ms)))
        };
        let connect_limit = limit(options.connect_timeout, self.config.connect_ms);
        let first_byte = limit(options.first_byte_timeout, self.config.first_byte_ms);
        let idle = limit(options.between_bytes_timeout, self.config.idle_ms);
        let now = Instant::now();
        let deadline = now.checked_add(Duration::from_millis(self.config.total_ms)).unwrap_or(now);
        let exchange = async {
            let addresses = self.addresses(origin, connect_limit, told).await?;
            let stream = connect::dial(&addresses, connect_limit).await?;
            told.1.sent(head);
            if origin.is_secure() {
                let tls = match certificate {
                    None => TlsConnector::from(Arc::clone(&self.tls)),
                    Some(certificate) => client_certificate::showing(&self.tls, certificate),
                };
                let stream = connect::secure(&tls, &origin.host, stream, connect_limit).await?;
                connect::exchange(stream, request, first_byte).await
            } else {
                connect::exchange(stream, request, first_byte).await
            }
        };
        let exchanged = tokio::time::timeout_at(deadline, exchange).await;
        let (answer, driver) = exchanged.map_err(|_| HttpError::HttpResponseTimeout)??;
        let limits = AnswerLimits { bytes_max: self.config.response_bytes_max, idle, deadline };
        Ok(answer.map(|body| Answer::new(body, driver, limits, meter).boxed_unsync()))
    }

    /// The addresses of the origin, all of them checked.
    async fn addresses(
        &self,
        origin: &Origin,
        wait: Duration,
        (notebook, guarded): (&Notebook, &Guarded),
    ) -> Result<Vec<SocketAddr>, HttpError> {
        // SECURITY: the gate hands these over or refuses them; were one to come here, it would still not be looked up.
        if calls::is_inside(&origin.host) {
            return Err(HttpError::HttpRequestDenied);
        }
        let resolved = match origin.host.parse::<IpAddr>() {
            Ok(literal) => vec![SocketAddr::new(literal, origin.port)],
            Err(_) => {
                let names = self.config.resolver.resolve(&origin.host, origin.port);
                let names = tokio::time::timeout(wait, names).await.map_err(|_| HttpError::DnsTimeout)?;
                names.map_err(|_| HttpError::DnsError { rcode: None, info_code: None })?
            }
        };
        if resolved.is_empty() {
            return Err(HttpError::DnsError { rcode: None, info_code: None });
        }
        // SECURITY: one bad address spoils all: a name that mixes public and private ones is up to something.
        let bad = resolved.iter().find_map(|address| self.prohibited(*address).map(|why| (address, why)));
        if let Some((address, why)) = bad {
            guarded.refused(&origin.text(), "not-public");
            notebook.own(
                LogLevel::Warn,
                &format!(
                    "outgoing request to `{}` was refused: its address {} is not public ({why}); only the operator can \
                     allow such addresses",
                    origin.text(),
                    address.ip()
                ),
            );
            return Err(HttpError::DestinationIpProhibited);
        }
        Ok(resolved)
    }

    fn prohibited(&self, address: SocketAddr) -> Option<&'static str> {
        if self.config.allow_private.iter().any(|range| range.contains(address)) {
            return None;
        }
        address::prohibited(address.ip())
    }
}

/// Bytes that a request says in its address and its headers, for they leave the host too.
fn head_bytes(request: &http::Request<WasiBody>) -> u64 {
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let address = request.uri().path_and_query().map_or(0, |address| address.as_str().len());
    (headers + address) as u64
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<Result<T, HttpError>>);

impl<T> AbortOnDrop<T> {
    async fn wait(mut self) -> Result<T, HttpError> {
        (&mut self.0).await.unwrap_or_else(|_| Err(HttpError::InternalError(None)))
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(uri: &str) -> Result<String, HttpError> {
        Origin::of(&uri.parse().unwrap()).map(|origin| origin.text())
    }

    #[test]
    fn origins_are_written_as_grants_are() {
        for (uri, text) in [
            ("https://api.example.com/a?b", "https://api.example.com"),
            ("https://API.Example.COM:443/", "https://api.example.com"),
            ("http://api.example.com:80/", "http://api.example.com"),
            ("https://api.example.com:8443/", "https://api.example.com:8443"),
            ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ] {
            assert_eq!(origin(uri).unwrap(), text);
            assert!(ringfence_core::manifest::check_origin(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn tricks_in_an_authority_are_refused() {
        for uri in ["https://api.example.com@evil.example/", "https://user:pass@api.example.com/", "https://h:0/"] {
            assert!(origin(uri).is_err(), "{uri}");
        }
        assert!(Origin::of(&"/path".parse().unwrap()).is_err());
    }
}
