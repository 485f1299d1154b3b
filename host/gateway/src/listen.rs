//! Accepts connections for either port and hands requests to a service, with every wait and count bounded.
//!
//! Must never let one peer, or a peer that sends or takes nothing, keep others out: idle heads are cut after
//! `HEAD_TIME_MS_MAX`, connections that take nothing of what waits for them after `WRITE_STALL_MS_MAX`, and connections are
//! counted in all and by the source of the peer's address; nor a tenant's crowd of connections stand before a neighbour's one:
//! they are driven by other threads (`turns.rs` says which are a crowd).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use ringfence_core::{Source, limits};
use ringfence_identity::{Channel, ClientCertificate};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::stall::Stalling;
use crate::turns::Carried;

/// The protocol that an authority asks for which checks a name over TLS.
const ACME_TLS: &[u8] = b"acme-tls/1";

/// The peer's address, put into every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A listener that is bound and not yet served.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    seats: Seats,
}

impl Listening {
    /// Binds an address. Port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, seats: Seats::default() })
    }

    /// The same port once more: what is accepted through one is not seen by the other.
    pub fn share(&self) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::from(self.listener.as_fd().try_clone_to_owned()?);
        Ok(Self { listener: TcpListener::from_std(listener)?, address: self.address, seats: self.seats.clone() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are open, now and later.
    pub fn connections(&self) -> Arc<AtomicU64> {
        self.seats.open()
    }
}

/// Serves until `stop` turns true, then lets open requests finish for at most `DRAIN_MS_MAX`.
///
/// `service` is cloned for every connection; requests carry a [`Peer`] and a [`Channel`] extension. With `tls` every
/// connection begins with a handshake, which must be over as soon as a request head would have to be. Connections are driven by
/// the runtime that this runs in, and those of crowds by `crowds` where there is one.
pub async fn serve<S, B>(
    listening: Listening,
    tls: Option<Arc<ServerConfig>>,
    service: S,
    mut stop: watch::Receiver<bool>,
    crowds: Option<Handle>,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let usual = Handle::current();
    let lanes = Lanes { crowds: crowds.unwrap_or_else(|| usual.clone()), usual };
    let seats = listening.seats.clone();
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let accepted = tokio::select! {
            accepted = listening.listener.accept() => accepted,
            _ = stop.wait_for(|stopping| *stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to come free, instead of spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(seat) = seats.take(peer.ip()) else {
            drop(stream);
            continue;
        };
        let stream = prepared(stream);
        let (watcher, lanes, carried) = (graceful.watcher(), lanes.clone(), Carried::default());
        let (service, in_each) = (service.clone(), carried.clone());
        let service = move |channel| Each { service, peer, channel, carried: in_each };
        let Some(acceptor) = acceptor.clone() else {
            let connection = watcher.watch(connection(stream, service(Channel::Plain)));
            lanes.drive(Box::pin(seat.hold(connection)), carried, false);
            continue;
        };
        tokio::spawn(async move {
            let Some((stream, channel)) = shake_hands(&acceptor, stream).await else { return };
            let connection = watcher.watch(connection(stream, service(channel)));
            lanes.drive(Box::pin(seat.hold(connection)), carried, false);
        });
    }
    drop(listening);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(Duration::from_millis(limits::DRAIN_MS_MAX)) => {
            tracing::warn!("requests still open at the end of the drain are cut");
        }
    }
}

/// Where connections are driven.
#[derive(Clone)]
struct Lanes {
    usual: Handle,
    crowds: Handle,
}

impl Lanes {
    /// Drives a connection to its end, in one lane or in the other.
    fn drive<F>(self, mut connection: Pin<Box<F>>, carried: Carried, of_crowds: bool)
    where
        F: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        let lane = if of_crowds { self.crowds.clone() } else { self.usual.clone() };
        lane.spawn(async move {
            match carried.in_turn(connection.as_mut(), of_crowds).await {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "connection ended"),
                None => self.drive(connection, carried, !of_crowds),
            }
        });
    }
}

/// The socket as connections use it: given up when its peer takes nothing of what waits for it.
fn prepared(stream: TcpStream) -> Stalling<TcpStream> {
    let _ = stream.set_nodelay(true);
    // The kernel says that there is room again when much of its buffer is free, which may be megabytes. With a bound on what it
    // keeps unsent, a slow reader is seen to take something, and one who takes nothing holds little memory.
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(limits::UNSENT_BYTES_MAX) {
        tracing::debug!(%error, "the kernel keeps as much unsent as it likes");
    }
    Stalling::new(stream, Duration::from_millis(limits::WRITE_STALL_MS_MAX))
}

/// The handshake of one connection, and what it proved.
async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: Stalling<TcpStream>,
) -> Option<(TlsStream<Stalling<TcpStream>>, Channel)> {
    let wait = Duration::from_millis(limits::HEAD_TIME_MS_MAX);
    let stream = match tokio::time::timeout(wait, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return None;
        }
        Err(_) => return None,
    };
    // An authority that checks a name has seen what it came for (RFC 8737, section 3); no request is served there.
    if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS) {
        return None;
    }
    let chain = stream.get_ref().1.peer_certificates();
    let certificate = chain.and_then(|chain| ClientCertificate::of(chain.iter().map(|one| one.to_vec()).collect()));
    Some((stream, Channel::Tls { certificate: certificate.map(Arc::new) }))
}

fn connection<I, S, B>(stream: I, service: Each<S>) -> http1::Connection<TokioIo<I>, Each<S>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // HTTP/1.1 only: on plain TCP, telling the versions apart by their first bytes has no deadline in the library.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits::HEAD_TIME_MS_MAX))
        .max_headers(limits::HEADERS_COUNT_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
}

/// Puts what is known of the connection into each request.
#[derive(Clone)]
struct Each<S> {
    service: S,
    peer: SocketAddr,
    channel: Channel,
    carried: Carried,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Each<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(Peer(self.peer));
        request.extensions_mut().insert(self.channel.clone());
        request.extensions_mut().insert(self.carried.clone());
        self.service.call(request)
    }
}

/// Counts open connections, in all and by the peer's source.
#[derive(Debug, Clone, Default)]
struct Seats(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// The same, for whoever reads it from outside.
    told: Arc<AtomicU64>,
    by_source: HashMap<Source, usize>,
}

struct Seat {
    seats: Seats,
    source: Source,
}

impl Seats {
    fn open(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).told)
    }

    fn take(&self, peer: IpAddr) -> Option<Seat> {
        let mut taken = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let source = Source::of(peer);
        let here = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.total >= limits::CONNECTIONS_COUNT_MAX || here >= limits::CONNECTIONS_PER_SOURCE_COUNT_MAX {
            return None;
        }
        taken.total += 1;
        taken.told.store(taken.total as u64, Ordering::Relaxed);
        taken.by_source.insert(source, here + 1);
        Some(Seat { seats: self.clone(), source })
    }
}

impl Seat {
    /// Holds the seat for as long as this takes.
    async fn hold<F: Future>(self, connection: F) -> F::Output {
        connection.await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        taken.total = taken.total.saturating_sub(1);
        taken.told.store(taken.total as u64, Ordering::Relaxed);
        if let Some(here) = taken.by_source.get_mut(&self.source) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_every_seat() {
        let seats = Seats::default();
        let greedy: IpAddr = [192, 0, 2, 1].into();
        let held: Vec<Seat> = std::iter::from_fn(|| seats.take(greedy)).collect();
        assert_eq!(held.len(), limits::CONNECTIONS_PER_SOURCE_COUNT_MAX);
        assert!(seats.take([192, 0, 2, 2].into()).is_some());
        assert_eq!(seats.open().load(Ordering::Relaxed), held.len() as u64);
        drop(held);
        assert_eq!(seats.open().load(Ordering::Relaxed), 0);
        assert!(seats.take(greedy).is_some());
        assert!(seats.0.lock().unwrap().by_source.is_empty());
    }

    #[test]
    fn the_addresses_of_one_network_share_their_seats() {
        let seats = Seats::default();
        let network = 0x2001_0db8_0000_0001_u128 << 64;
        let address = |host: u128| IpAddr::V6(std::net::Ipv6Addr::from_bits(network + host));
        let held: Vec<Seat> = (0..5_000).filter_map(|host| seats.take(address(host))).collect();
        assert_eq!(held.len(), limits::CONNECTIONS_PER_SOURCE_COUNT_MAX);
        assert!(seats.take("2001:db8:0:2::1".parse().unwrap()).is_some());
    }
}
