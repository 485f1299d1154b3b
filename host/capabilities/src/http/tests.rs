//! The gate with real sockets on loopback, which only an operator's exception opens.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use ringfence_core::volume::VOLUME_BYTES_MIN;
use ringfence_core::{Budget, Capability, HostAct, InvocationId, Quota};
use ringfence_engine::Meter;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpHooks};

use super::{AddressRange, Caller, EgressConfig, Gate, Outbound, Resolver};
use crate::calls::{Exchange, PluginCall};
use crate::testing::{Rig, root_chain};

mod identity;
mod loss;

/// Answers with one list of addresses after the other, the last one for ever.
struct Script {
    answers: Vec<Vec<SocketAddr>>,
    asked: AtomicUsize,
}

impl Resolver for Script {
    fn resolve(&self, _: &str, port: u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst).min(self.answers.len() - 1);
        let answer = self.answers[asked]
            .iter()
            .map(|address| if address.port() == 0 { SocketAddr::new(address.ip(), port) } else { *address });
        let answer = answer.collect();
        Box::pin(async move { Ok(answer) })
    }
}

fn resolver(answers: &[&[&str]]) -> Arc<Script> {
    let answers = answers.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
    Arc::new(Script { answers, asked: AtomicUsize::new(0) })
}

/// A server that sends the same bytes to everyone and says what it was asked.
async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(read) => head.extend_from_slice(&buffer[..read]),
                    }
                }
                let _ = told.send(String::from_utf8_lossy(&head).into_owned());
                let _ = stream.write_all(answer).await;
                // Stays open: whoever wants more has to give up by himself.
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    (address, asked)
}

struct Setup {
    rig: Rig,
    gate: Gate,
}

async fn setup(grants: &[&str], config: EgressConfig, budget: Budget) -> Setup {
    let rig = Rig::new(&[(Capability::Http, grants)]).await;
    let meter = Meter::new(budget);
    let outbound = Outbound::new(config, tokio::runtime::Handle::current()).unwrap();
    let (notebook, ledger) = (rig.notebook(&meter), Arc::clone(&rig.ledger));
    let live = rig.live();
    let caller = Caller {
        store: rig.store.clone(),
        plugin: "webhook".parse().unwrap(),
        invocation: InvocationId::random(&*rig.entropy),
        chain: root_chain(),
        exchange: None,
    };
    let leave = rig.leave(&notebook);
    let gate = Gate { outbound, caller, grants: live, meter, notebook, ledger, guarded: rig.guarded(), leave };
    Setup { rig, gate }
}

fn allowing(address: SocketAddr) -> EgressConfig {
    EgressConfig { allow_private: vec![address.to_string().parse::<AddressRange>().unwrap()], ..EgressConfig::strict() }
}

fn empty() -> WasiBody {
    Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
}

async fn get(gate: &mut Gate, uri: &str) -> Result<http::Response<WasiBody>, Error> {
    let authority = uri.parse::<http::Uri>().unwrap().authority().unwrap().to_string();
    let request = http::Request::get(uri).header("host", authority).body(empty()).unwrap();
    let (answer, _) = Pin::from(gate.send_request(request, None, Box::new(async { Ok(()) }))).await?;
    Ok(answer)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_granted_origin_is_reached_in_origin_form_with_its_host() {
    let (address, mut asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    let answer = get(&mut setup.gate, &format!("{origin}/a?b=c")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let head = asked.recv().await.unwrap();
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
    assert!(setup.rig.lines.messages().is_empty());
}

/// A body of unknown length, as a guest writes it: `Err` is the end it gives up with.
fn written() -> (tokio::sync::mpsc::Sender<Result<Bytes, Error>>, WasiBody) {
    let (writer, mut reader) = tokio::sync::mpsc::channel::<Result<Bytes, Error>>(1);
    let pieces = futures::stream::poll_fn(move |cx| reader.poll_recv(cx));
    let frames = futures::StreamExt::map(pieces, |piece| piece.map(http_body::Frame::data));
    (writer, http_body_util::StreamBody::new(frames).boxed_unsync())
}

async fn send(gate: &mut Gate, method: http::Method, uri: &str, body: WasiBody) -> Result<u16, Error> {
    let request = http::Request::builder().method(method).uri(uri).body(body).unwrap();
    let (answer, _) = Pin::from(gate.send_request(request, None, Box::new(async { Ok(()) }))).await?;
    Ok(answer.status().as_u16())
}

#[tokio::test]
async fn a_body_of_unknown_length_that_ends_empty_is_no_body() {
    let (address, mut asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    for (method, length) in [(http::Method::GET, false), (http::Method::DELETE, false), (http::Method::POST, true)] {
        let (writer, body) = written();
        // Ended only after the request was handed over, as guests do, and with a piece that holds nothing.
        let ending = tokio::spawn(async move { writer.send(Ok(Bytes::new())).await });
        assert_eq!(send(&mut setup.gate, method.clone(), &origin, body).await.unwrap(), 200);
        assert!(ending.await.unwrap().is_ok(), "the guest could end its body");
        let head = asked.recv().await.unwrap().to_lowercase();
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(head.contains("content-length: 0\r\n"), length, "{head}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_that_begins_goes_out_in_chunks_from_its_first_byte() {
    let (address, mut asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    for method in [http::Method::GET, http::Method::POST] {
        let (writer, body) = written();
        let writing = tokio::spawn(async move {
            writer.send(Ok(Bytes::from_static(b"begun"))).await.unwrap();
            writer
        });
        // The guest still holds its body open when the answer comes.
        assert_eq!(send(&mut setup.gate, method, &origin, body).await.unwrap(), 200);
        assert!(asked.recv().await.unwrap().to_lowercase().contains("transfer-encoding: chunked\r\n"));
        drop(writing.await.unwrap());
    }
    let counted = setup.rig.ledger.usage().unwrap().day.egress_bytes;
    assert!(counted >= 10, "what was looked at is counted too: {counted}");
}

#[tokio::test]
async fn what_leaves_the_host_is_counted_for_its_plugin_in_bodies_and_in_addresses() {
    let (address, _asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    setup.rig.guarded().sent(VOLUME_BYTES_MIN - 1_000);
    let (writer, body) = written();
    let writing = tokio::spawn(async move {
        writer.send(Ok(Bytes::from(vec![b'x'; 900]))).await.unwrap();
        writer
    });
    assert_eq!(send(&mut setup.gate, http::Method::POST, &origin, body).await.unwrap(), 200);
    drop(writing.await.unwrap());
    assert!(setup.rig.standing.take_volumes().is_empty());
    get(&mut setup.gate, &format!("{origin}/?{}", "x".repeat(200))).await.unwrap();
    let found = setup.rig.standing.take_volumes();
    assert_eq!((found.len(), found[0].plugin.as_str()), (1, "visits"));
    assert!((VOLUME_BYTES_MIN + 100..VOLUME_BYTES_MIN + 300).contains(&found[0].bytes), "{found:?}");
}

#[tokio::test]
async fn a_guest_that_gives_its_body_up_sends_nothing() {
    let (address, mut asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    let (writer, body) = written();
    writer.send(Err(Error::HttpProtocolError)).await.unwrap();
    assert!(send(&mut setup.gate, http::Method::POST, &origin, body).await.is_err());
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn a_tenant_that_sent_enough_for_a_day_is_refused_until_its_quota_is_raised() {
    let (address, _asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    let quota = Quota { egress_requests_per_day: 2, egress_bytes_per_day: 8, ..Quota::STANDARD };
    setup.rig.ledger.set(quota);
    let answer = get(&mut setup.gate, &origin).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    let cut = get(&mut setup.gate, &origin).await.unwrap().into_body().collect().await.unwrap_err();
    assert!(cut.to_string().contains("8 bytes of outgoing traffic a day is used up"), "{cut}");
    let refused = get(&mut setup.gate, &origin).await.unwrap_err();
    assert!(refused.to_string().contains("2 outgoing requests a day is used up"), "{refused}");
    assert!(setup.rig.lines.messages()[0].contains("outgoing requests a day"), "the owner is told");
    let used = setup.rig.ledger.usage().unwrap();
    assert_eq!((used.day.egress_requests_count, used.day.egress_bytes, used.egress_refused_count), (2, 5, 2));
    setup.rig.ledger.set(Quota::STANDARD);
    let answer = get(&mut setup.gate, &origin).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn an_origin_that_is_not_granted_is_denied_and_the_owner_told_how_to_allow_it() {
    let mut setup = setup(&["https://api.example.com"], EgressConfig::strict(), Budget::DEFAULT).await;
    for uri in [
        "https://evil.example.com/",
        "http://api.example.com/",
        "https://api.example.com:8443/",
        "https://api.example.com.evil.example/",
    ] {
        assert!(matches!(get(&mut setup.gate, uri).await, Err(Error::HttpRequestDenied)), "{uri}");
    }
    let told = setup.rig.lines.messages();
    assert_eq!(told.len(), 4);
    assert!(told[0].contains("ringfence grant webhook http https://evil.example.com"), "{told:?}");
}

#[tokio::test]
async fn loopback_is_refused_even_when_granted() {
    let (address, mut asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin, "http://localhost:1"], EgressConfig::strict(), Budget::DEFAULT).await;
    assert!(matches!(get(&mut setup.gate, &origin).await, Err(Error::DestinationIpProhibited)));
    assert!(matches!(get(&mut setup.gate, "http://localhost:1/").await, Err(Error::DestinationIpProhibited)));
    assert!(asked.try_recv().is_err(), "the server was reached");
    assert!(setup.rig.lines.messages()[0].contains("not public (loopback)"));
}

#[tokio::test]
async fn the_metadata_service_is_refused_under_any_name() {
    let grants = ["http://169.254.169.254", "http://[fd00:ec2::254]", "http://metadata.example"];
    let config = EgressConfig { resolver: resolver(&[&["169.254.169.254:0"]]), ..EgressConfig::strict() };
    let mut setup = setup(&grants, config, Budget::DEFAULT).await;
    for origin in grants {
        assert!(matches!(get(&mut setup.gate, origin).await, Err(Error::DestinationIpProhibited)), "{origin}");
    }
}

#[tokio::test]
async fn a_name_that_turns_private_is_refused_when_it_does() {
    let (address, mut asked) = server(OK).await;
    let script = resolver(&[&[&address.to_string()], &["127.0.0.1:1"], &[&address.to_string(), "10.0.0.1:80"]]);
    let config = EgressConfig { resolver: Arc::clone(&script) as _, ..allowing(address) };
    let mut setup = setup(&["http://rebind.example"], config, Budget::DEFAULT).await;
    assert!(get(&mut setup.gate, "http://rebind.example/").await.is_ok());
    assert!(matches!(get(&mut setup.gate, "http://rebind.example/").await, Err(Error::DestinationIpProhibited)));
    // One private address among good ones spoils them all.
    assert!(matches!(get(&mut setup.gate, "http://rebind.example/").await, Err(Error::DestinationIpProhibited)));
    assert_eq!(script.asked.load(Ordering::SeqCst), 3, "each request resolves once and dials what it checked");
    assert!(asked.recv().await.is_some());
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow_and_checked_again() {
    let (address, _asked) =
        server(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    let answer = get(&mut setup.gate, &origin).await.unwrap();
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(matches!(get(&mut setup.gate, &location).await, Err(Error::HttpRequestDenied)));
}

#[tokio::test]
async fn a_revoked_grant_stops_the_next_request() {
    let (address, _asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget::DEFAULT).await;
    assert!(get(&mut setup.gate, &origin).await.is_ok());
    setup.rig.grant(&[]);
    assert!(matches!(get(&mut setup.gate, &origin).await, Err(Error::HttpRequestDenied)));
}

#[tokio::test]
async fn outgoing_requests_have_a_budget() {
    let (address, _asked) = server(OK).await;
    let origin = format!("http://{address}");
    let mut setup = setup(&[&origin], allowing(address), Budget { outgoing_count: 2, ..Budget::DEFAULT }).await;
    assert!(get(&mut setup.gate, &origin).await.is_ok());
    assert!(get(&mut setup.gate, &origin).await.is_ok());
    assert!(matches!(get(&mut setup.gate, &origin).await, Err(Error::ConnectionLimitReached)));
}

#[tokio::test]
async fn an_answer_over_its_limit_breaks_off() {
    let (address, _asked) = server(OK).await;
    let origin = format!("http://{address}");
    let config = EgressConfig { response_bytes_max: 4, ..allowing(address) };
    let mut setup = setup(&[&origin], config, Budget::DEFAULT).await;
    let answer = get(&mut setup.gate, &origin).await.unwrap();
    assert!(matches!(answer.into_body().collect().await, Err(Error::HttpResponseBodySize(_))));
}

#[tokio::test]
async fn a_server_that_stalls_is_given_up() {
    let (silent, _asked) = server(b"").await;
    let origin = format!("http://{silent}");
    let config = EgressConfig { first_byte_ms: 50, ..allowing(silent) };
    let mut first = setup(&[&origin], config, Budget::DEFAULT).await;
    assert!(matches!(get(&mut first.gate, &origin).await, Err(Error::ConnectionReadTimeout)));

    let (half, _asked) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello").await;
    let origin = format!("http://{half}");
    let config = EgressConfig { idle_ms: 50, ..allowing(half) };
    let mut second = setup(&[&origin], config, Budget::DEFAULT).await;
    let answer = get(&mut second.gate, &origin).await.unwrap();
    assert!(matches!(answer.into_body().collect().await, Err(Error::ConnectionReadTimeout)));
}

#[tokio::test]
async fn a_name_nobody_knows_is_a_name_error() {
    let config = EgressConfig { resolver: resolver(&[&[]]), ..EgressConfig::strict() };
    let mut setup = setup(&["https://nowhere.example"], config, Budget::DEFAULT).await;
    assert!(matches!(get(&mut setup.gate, "https://nowhere.example/").await, Err(Error::DnsError { .. })));
}

/// A TLS server for the name `api.test`, signed by the root in `testdata` (its keys are for these tests alone).
async fn tls_server() -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(include_bytes!("testdata/leaf.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/leaf.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(OK).await;
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    address
}

fn trusting(address: SocketAddr, roots: Vec<CertificateDer<'static>>) -> EgressConfig {
    let resolver = resolver(&[&[&address.to_string()]]);
    EgressConfig { resolver, extra_roots: roots, ..allowing(address) }
}

fn root() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(include_bytes!("testdata/ca.pem")).unwrap()
}

#[tokio::test]
async fn tls_needs_a_trusted_certificate_for_the_very_name() {
    let address = tls_server().await;
    let grants = ["https://api.test", "https://other.test"];
    let mut trusted = setup(&grants, trusting(address, vec![root()]), Budget::DEFAULT).await;
    let answer = get(&mut trusted.gate, "https://api.test/").await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert!(matches!(get(&mut trusted.gate, "https://other.test/").await, Err(Error::TlsCertificateError)));
    let mut unknown = setup(&grants, trusting(address, Vec::new()), Budget::DEFAULT).await;
    assert!(matches!(get(&mut unknown.gate, "https://api.test/").await, Err(Error::TlsCertificateError)));
}

#[tokio::test]
async fn a_server_that_never_speaks_tls_is_given_up() {
    let (address, _asked) = server(OK).await;
    let config = EgressConfig { connect_ms: 50, ..trusting(address, vec![root()]) };
    let mut setup = setup(&["https://api.test"], config, Budget::DEFAULT).await;
    assert!(matches!(get(&mut setup.gate, "https://api.test/").await, Err(Error::ConnectionTimeout)));
}

/// Stands where the walk stands: says who was called, and keeps count.
#[derive(Default)]
struct Answering(AtomicUsize);

impl Exchange for Answering {
    fn call(&self, call: PluginCall) -> futures::future::BoxFuture<'static, http::Response<ringfence_engine::Body>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let text = format!("{} asks {} for {}", call.from, call.to, call.request.uri().path());
        Box::pin(std::future::ready(http::Response::new(ringfence_engine::full(text))))
    }
}

#[tokio::test]
async fn another_plugin_is_called_when_it_is_granted_and_no_name_server_is_asked() {
    let script = resolver(&[&["127.0.0.1:1"]]);
    let config = EgressConfig { resolver: Arc::clone(&script) as _, ..EgressConfig::strict() };
    let budget = Budget { outgoing_count: 4, ..Budget::DEFAULT };
    let mut setup = setup(&["http://visits.plugin.internal"], config, budget).await;
    let uri = "http://visits.plugin.internal/a";
    assert!(matches!(get(&mut setup.gate, uri).await, Err(Error::DestinationUnavailable)), "nobody runs it");
    let answering = Arc::new(Answering::default());
    setup.gate.caller.exchange = Some(Arc::clone(&answering) as _);
    for spelling in [uri, "http://Visits.Plugin.Internal:80/a"] {
        let answer = get(&mut setup.gate, spelling).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "webhook asks visits for /a");
    }
    setup.rig.grant(&[]);
    assert!(matches!(get(&mut setup.gate, uri).await, Err(Error::HttpRequestDenied)), "revoked");
    assert!(matches!(get(&mut setup.gate, uri).await, Err(Error::ConnectionLimitReached)), "a call is a request");
    assert_eq!((answering.0.load(Ordering::SeqCst), script.asked.load(Ordering::SeqCst)), (2, 0));
    assert_eq!(setup.rig.ledger.usage().unwrap().day.egress_requests_count, 0, "nothing left the host");
}

#[tokio::test]
async fn no_other_spelling_of_a_plugins_name_leads_anywhere() {
    let names = [
        "https://visits.plugin.internal",
        "http://visits.plugin.internal:8080",
        "http://visits.plugin.internal.",
        "http://visits.globex.plugin.internal",
        "http://plugin.internal",
        "http://other.plugin.internal",
    ];
    let script = resolver(&[&["93.184.216.34:0"]]);
    let config = EgressConfig { resolver: Arc::clone(&script) as _, ..EgressConfig::strict() };
    // Granted or not: all but the last, which is a plain name without a grant.
    let mut setup = setup(&names[..names.len() - 1], config, Budget::DEFAULT).await;
    let answering = Arc::new(Answering::default());
    setup.gate.caller.exchange = Some(Arc::clone(&answering) as _);
    for name in names {
        assert!(matches!(get(&mut setup.gate, name).await, Err(Error::HttpRequestDenied)), "{name}");
    }
    assert_eq!((answering.0.load(Ordering::SeqCst), script.asked.load(Ordering::SeqCst)), (0, 0));
    assert_eq!(setup.rig.sworn.tried().len(), names.len(), "each is told");
}

#[tokio::test]
async fn policy_is_asked_for_every_granted_request_with_host_method_and_path_and_for_calls_of_plugins() {
    let (address, mut asked) = server(OK).await;
    let origin = format!("http://{address}");
    let grants = [origin.as_str(), "http://back.plugin.internal"];
    let mut setup = setup(&grants, allowing(address), Budget::DEFAULT).await;
    get(&mut setup.gate, &format!("{origin}/a?b=c")).await.unwrap();
    asked.recv().await.unwrap();
    let on = format!("GET http {} {} /a", address.ip(), address.port());
    assert_eq!(setup.rig.strict.asked(), [(HostAct::SendRequest, on)]);

    setup.rig.strict.forbid(&[HostAct::SendRequest, HostAct::CallPlugin]);
    let no = |error: Error| assert!(matches!(error, Error::HttpRequestDenied), "{error:?}");
    no(send(&mut setup.gate, http::Method::POST, &format!("{origin}/x"), empty()).await.unwrap_err());
    no(get(&mut setup.gate, "http://back.plugin.internal/y").await.map(drop).unwrap_err());
    no(get(&mut setup.gate, "http://not-granted.example/").await.map(drop).unwrap_err());
    let said = setup.rig.strict.asked();
    assert_eq!(said.len(), 2, "what is not granted is refused without asking: {said:?}");
    assert_eq!(said[1], (HostAct::CallPlugin, "GET back /y".to_owned()));
    assert!(asked.try_recv().is_err(), "nothing was sent");
}
