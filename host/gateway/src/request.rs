//! From a caller's request to the one a guest sees: strict head checks, credentials taken out, body capped.
//!
//! Must never pass on a credential, a hop-by-hop header, or a head that two parsers could read in two ways.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName};
use http::{Request, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use ringfence_core::limits;
use ringfence_engine::{Body, BodyError};
use tokio::time::{Instant, Sleep};

use crate::refuse::Refusal;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), to the caller's credentials, or to a whole origin.
const STRIPPED: [&str; 21] = [
    "authorization",
    "proxy-authorization",
    "proxy-authenticate",
    "connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-connection",
    "dpop",
    "dpop-nonce",
    "cookie",
    "set-cookie",
    // SECURITY: path routes share one origin in a browser; these would let one tenant's answer act on the others.
    "service-worker-allowed",
    "clear-site-data",
    "alt-svc",
    "strict-transport-security",
    "nel",
    "report-to",
];

/// Checks what the HTTP library lets through but two parsers could disagree about; gives the host asked for. (Of a
/// request with both Transfer-Encoding and Content-Length the library reads the first and closes the connection, as
/// RFC 9112, section 6.3 asks.)
pub fn checked_host<B>(request: &Request<B>) -> Result<Option<String>, Refusal> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::BadRequest("more than one Host header")),
        (None, None) if request.version() == Version::HTTP_11 => {
            return Err(Refusal::BadRequest("a Host header is needed"));
        }
        (host, None) => host
            .map(|value| value.to_str().map_err(|_| Refusal::BadRequest("the Host header is not ASCII")))
            .transpose()?,
    };
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(Refusal::BadRequest("more than one Content-Length"));
    }
    if headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
        return Err(Refusal::BadRequest("more than one Authorization"));
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(Refusal::BadRequest("the request line and the Host header name different hosts"))
        }
        (Some(text), _) | (None, Some(text)) => {
            text.parse::<http::uri::Authority>().map_err(|_| Refusal::BadRequest("the Host header is malformed"))?;
            Ok(Some(text.to_ascii_lowercase()))
        }
        (None, None) => Ok(None),
    }
}

/// What became of a request body: how much of it came, and whether it was cut.
#[derive(Debug, Clone, Default)]
pub struct BodyWatch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    cut: AtomicU8,
    bytes: AtomicU64,
}

impl BodyWatch {
    const TOO_LARGE: u8 = 1;
    const TOO_SLOW: u8 = 2;

    /// The refusal that a cut body stands for, if it was cut.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.0.cut.load(Ordering::Acquire) {
            Self::TOO_LARGE => Some(Refusal::BodyTooLarge),
            Self::TOO_SLOW => Some(Refusal::BodyTimeout),
            _ => None,
        }
    }

    /// Bytes of the body that were taken from the caller so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

/// Makes the request that the guest sees: path `rest`, own headers only, body capped in bytes and in silence.
///
/// Cookies are dropped on path routes, where all tenants share one origin in a browser. A small body, and the beginning of a
/// large one, is waited for here, before the guest's turn: who has sent nothing yet holds no slot.
pub async fn for_guest<B>(
    request: Request<B>,
    host: Option<&str>,
    rest: &str,
    watch: &BodyWatch,
) -> Result<Request<Body>, Refusal>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
{
    if request.body().size_hint().lower() > limits::REQUEST_BODY_BYTES_MAX {
        return Err(Refusal::BodyTooLarge);
    }
    let (head, body) = request.into_parts();
    let uri = Uri::builder()
        .scheme("http")
        .authority(host.unwrap_or("localhost"))
        .path_and_query(rest)
        .build()
        .map_err(|_| Refusal::BadRequest("the path is malformed"))?;
    let mut out = Request::new(arrived(body, watch).await?);
    *out.method_mut() = head.method;
    *out.uri_mut() = uri;
    *out.headers_mut() = head.headers;
    strip(out.headers_mut());
    Ok(out)
}

/// The body as the guest will read it: there already when it is small and came, else its beginning and then what comes.
///
/// What is waited for is held for the caller, at most `REQUEST_GATHERED_BYTES_MAX` and one piece more a connection. Who said
/// how much he sends is waited for; one who did not may wait for an answer before he goes on, and is not held up.
async fn arrived<B>(body: B, watch: &BodyWatch) -> Result<Body, Refusal>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
{
    let length = body.size_hint().exact();
    if length == Some(0) {
        return Ok(ringfence_engine::full(Bytes::new()));
    }
    let left = limits::REQUEST_BODY_BYTES_MAX;
    let mut capped = Capped { inner: body, left, idle: Box::pin(tokio::time::sleep(IDLE)), watch: watch.clone() };
    let mut begun = Begun::default();
    let wait = if length.is_some() { GATHER } else { GATHER_UNSAID };
    match tokio::time::timeout(wait, begun.gather(&mut capped)).await {
        Err(_) if length.is_some() => return Err(Refusal::BodyTimeout),
        Ok(Err(_)) => return Err(watch.refusal().unwrap_or(Refusal::BadRequest("the body broke off"))),
        Err(_) | Ok(Ok(())) => {}
    }
    Ok(begun.followed_by(capped))
}

/// The beginning of a body.
#[derive(Default)]
struct Begun {
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    is_whole: bool,
}

impl Begun {
    /// Takes what comes until it is enough or all. What was taken stays when this is dropped.
    async fn gather<B: HttpBody<Data = Bytes> + Unpin>(&mut self, from: &mut Capped<B>) -> Result<(), BodyError> {
        while (self.bytes.len() as u64) < limits::REQUEST_GATHERED_BYTES_MAX && !from.is_end_stream() {
            let Some(frame) = from.frame().await else { break };
            match frame?.into_data() {
                Ok(data) => self.bytes.extend_from_slice(&data),
                Err(other) => self.trailers = other.into_trailers().ok().or(self.trailers.take()),
            }
        }
        self.is_whole = (self.bytes.len() as u64) < limits::REQUEST_GATHERED_BYTES_MAX || from.is_end_stream();
        Ok(())
    }

    fn followed_by<B: HttpBody<Data = Bytes> + Send + Unpin + 'static>(self, rest: Capped<B>) -> Body {
        let bytes = self.bytes.freeze();
        if self.is_whole && self.trailers.is_none() {
            return ringfence_engine::full(bytes);
        }
        let data = (!bytes.is_empty()).then(|| Frame::data(bytes));
        let first = data.into_iter().chain(self.trailers.map(Frame::trailers)).collect();
        Resumed { first, rest: (!self.is_whole).then_some(rest) }.boxed_unsync()
    }
}

/// A body whose beginning is there.
struct Resumed<B> {
    first: VecDeque<Frame<Bytes>>,
    /// None when there is no more.
    rest: Option<Capped<B>>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Resumed<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match (self.first.pop_front(), &mut self.rest) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(rest)) => Pin::new(rest).poll_frame(context),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first: usize = self.first.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
        let rest = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint);
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(first as u64));
        }
        hint.set_lower(rest.lower().saturating_add(first as u64));
        hint
    }
}

/// Takes connection headers, credentials, cookies and our own names out of a head, in either direction.
pub fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // The few that are there are looked at once each: to ask the map for every one that could be costs more.
    let goes = |name: &&HeaderName| STRIPPED.contains(&name.as_str()) || name.as_str().starts_with("x-ringfence-");
    let stripped: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    for name in named.iter().chain(&stripped) {
        headers.remove(name);
    }
}

const GATHER: Duration = Duration::from_millis(limits::REQUEST_GATHER_MS_MAX);
const GATHER_UNSAID: Duration = Duration::from_millis(limits::REQUEST_GATHER_UNSAID_MS_MAX);
const IDLE: Duration = Duration::from_millis(limits::BODY_IDLE_MS_MAX);

/// A request body that ends with an error past its byte cap or after too long a silence.
struct Capped<B> {
    inner: B,
    left: u64,
    idle: Pin<Box<Sleep>>,
    watch: BodyWatch,
}

impl<B> Capped<B> {
    fn cut(&self, why: u8, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.watch.0.cut.store(why, Ordering::Release);
        Poll::Ready(Some(Err(error)))
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Capped<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.watch.0.bytes.fetch_add(bytes, Ordering::Relaxed);
                if bytes > self.left {
                    return self.cut(BodyWatch::TOO_LARGE, BodyError::TooLarge);
                }
                self.left -= bytes;
                self.idle.as_mut().reset(Instant::now() + IDLE);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Closed))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if self.idle.as_mut().poll(context).is_ready() {
                    return self.cut(BodyWatch::TOO_SLOW, BodyError::TimedOut);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    #[test]
    fn heads_that_two_parsers_could_read_in_two_ways_are_refused() {
        for headers in [
            &[("host", "a"), ("host", "b")][..],
            &[("host", "a"), ("host", "a")],
            &[],
            &[("host", "a"), ("content-length", "3"), ("content-length", "3")],
            &[("host", "a b")],
            &[("host", "a"), ("authorization", "Bearer x"), ("authorization", "Bearer y")],
        ] {
            assert!(checked_host(&request(Version::HTTP_11, "/x", headers)).is_err(), "{headers:?}");
        }
        assert!(checked_host(&request(Version::HTTP_11, "http://evil/x", &[("host", "a")])).is_err());
        assert!(checked_host(&request(Version::HTTP_11, "http://A/x", &[("host", "a")])).is_ok());
        assert!(checked_host(&request(Version::HTTP_10, "/x", &[])).is_ok());
    }

    type Sent = http_body_util::channel::Sender<Bytes, BodyError>;

    /// A body as a caller sends it who says no length.
    fn unsaid() -> (Sent, Body) {
        let (sender, body) = http_body_util::channel::Channel::<Bytes, BodyError>::new(64);
        (sender, body.boxed_unsync())
    }

    /// One who says how much he will send.
    struct Said(Body, u64);

    impl HttpBody for Said {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Pin::new(&mut self.0).poll_frame(context)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1)
        }
    }

    fn piece(length: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![b'a'; length]))
    }

    #[tokio::test]
    async fn a_small_body_in_chunks_is_there_before_the_guests_turn() {
        let (mut sender, body) = unsaid();
        let watch = BodyWatch::default();
        sender.try_send(piece(3)).unwrap();
        sender.try_send(piece(4)).unwrap();
        drop(sender);
        let body = arrived(body, &watch).await.unwrap();
        assert_eq!((body.size_hint().exact(), watch.bytes()), (Some(7), 7));
    }

    #[tokio::test]
    async fn trailers_of_a_small_body_reach_the_guest() {
        let (mut sender, body) = unsaid();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        sender.try_send(piece(3)).unwrap();
        sender.try_send(Frame::trailers(trailers.clone())).unwrap();
        drop(sender);
        let whole = arrived(body, &BodyWatch::default()).await.unwrap().collect().await.unwrap();
        assert_eq!(whole.trailers(), Some(&trailers));
        assert_eq!(whole.to_bytes().len(), 3);
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_before_he_goes_on_is_not_held_up() {
        let (mut sender, body) = unsaid();
        let watch = BodyWatch::default();
        sender.try_send(piece(3)).unwrap();
        let arriving = tokio::time::timeout(GATHER / 2, arrived(body, &watch));
        let mut body = arriving.await.expect("long before the deadline of those who said a length").unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 3);
        sender.try_send(piece(5)).unwrap();
        drop(sender);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 5);
    }

    #[tokio::test]
    async fn a_large_body_has_no_turn_before_its_beginning_came_and_then_streams() {
        const LENGTH: usize = 100_000;
        let (mut sender, body) = unsaid();
        let watch = BodyWatch::default();
        let arriving = arrived(Said(body, LENGTH as u64), &watch);
        tokio::pin!(arriving);
        sender.try_send(piece(1_000)).unwrap();
        assert!(futures::poll!(&mut arriving).is_pending());
        sender.try_send(piece(20_000)).unwrap();
        let body = arriving.await.unwrap();
        assert_eq!(watch.bytes(), 21_000);
        sender.try_send(piece(LENGTH - 21_000)).unwrap();
        drop(sender);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), LENGTH);
    }

    #[test]
    fn the_guest_sees_no_credential_and_no_connection_header() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("proxy-authorization", "y"),
            ("dpop", "z"),
            ("connection", "close, x-secret-hop"),
            ("x-secret-hop", "1"),
            ("cookie", "a=b"),
            ("te", "trailers"),
            ("x-ringfence-invocation", "i_forged"),
            ("service-worker-allowed", "/"),
            ("clear-site-data", "*"),
            ("set-cookie", "a=b"),
            ("keep-alive", "timeout=5"),
            ("x-kept", "yes"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-kept"));
    }
}
