//! Plugins that show who they are: to whom, with which certificate, and that without a grant nobody is told anything.

use std::time::Duration;

use ringfence_core::{PluginName, TenantId};
use ringfence_keys::SvidAuthority;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{HandshakeKind, RootCertStore};

use super::super::Certificates;
use super::*;

/// When the servers of these tests believe to be.
const NOW: i64 = 1_800_000_000;

#[derive(Debug)]
struct Standing;

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs())))
    }
}

/// Certificates of one authority, good for an hour from a time on.
struct Issuing {
    authority: SvidAuthority,
    from: i64,
}

impl Certificates for Issuing {
    fn certificate(&self, tenant: &TenantId, plugin: &PluginName) -> Option<Arc<CertifiedKey>> {
        let svid = self.authority.issue(tenant.as_str(), plugin.as_str(), self.from, self.from + 3_600);
        svid.ok().map(|svid| svid.certified)
    }
}

struct Nobody;

impl Certificates for Nobody {
    fn certificate(&self, _: &TenantId, _: &PluginName) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn authority(number: u64) -> SvidAuthority {
    SvidAuthority::create("host.example", number, NOW - 10 * 86_400, NOW + 86_400).unwrap()
}

/// What a server saw of whoever connected: the certificate, and how the handshake went.
type Seen = tokio::sync::mpsc::UnboundedReceiver<(Option<Vec<u8>>, HandshakeKind)>;

/// Whether a server insists on a certificate.
#[derive(Clone, Copy)]
enum Asks {
    Requires,
    Allows,
}

/// A server named `api.test` that verifies client certificates against an authority.
async fn asking_server(asks: Asks, authority: &SvidAuthority) -> (SocketAddr, Seen) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = match asks {
        Asks::Requires => verifier.build().unwrap(),
        Asks::Allows => verifier.allow_unauthenticated().build().unwrap(),
    };
    let chain = vec![CertificateDer::from_pem_slice(include_bytes!("../testdata/leaf.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/leaf.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_details(provider, Arc::new(Standing));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let connection = stream.get_ref().1;
                let shown = connection.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
                let _ = told.send((shown, connection.handshake_kind().unwrap()));
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(OK).await;
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    (address, seen)
}

const ORIGIN: &str = "https://api.test";

async fn plugin(address: SocketAddr, grants: &[(Capability, &[&str])], certificates: impl Certificates) -> Setup {
    let setup = setup(&[ORIGIN], trusting(address, vec![root()]), Budget::DEFAULT).await;
    setup.rig.grant(grants);
    setup.gate.outbound.set_certificates(Arc::new(certificates));
    setup
}

const WITH: &[(Capability, &[&str])] = &[(Capability::Http, &[ORIGIN]), (Capability::Identity, &[ORIGIN])];

async fn hello(setup: &mut Setup) -> Result<Bytes, Error> {
    let answer = get(&mut setup.gate, "https://api.test/").await?;
    Ok(answer.into_body().collect().await?.to_bytes())
}

fn names(leaf: &[u8], id: &str) -> bool {
    leaf.windows(id.len()).any(|window| window == id.as_bytes())
}

#[tokio::test]
async fn a_server_that_requires_a_certificate_sees_which_plugin_of_which_tenant_asks() {
    let ours = authority(1);
    let (address, mut seen) = asking_server(Asks::Requires, &ours).await;
    let mut webhook = plugin(address, WITH, Issuing { authority: ours.clone(), from: NOW - 60 }).await;
    assert_eq!(hello(&mut webhook).await.unwrap(), "hello");
    let (leaf, _) = seen.recv().await.unwrap();
    assert!(names(&leaf.unwrap(), "spiffe://host.example/tenant/acme/plugin/webhook"));
    let mut visits = plugin(address, WITH, Issuing { authority: ours, from: NOW - 60 }).await;
    visits.gate.caller.plugin = "visits".parse().unwrap();
    assert_eq!(hello(&mut visits).await.unwrap(), "hello");
    let (leaf, _) = seen.recv().await.unwrap();
    assert!(names(&leaf.unwrap(), "spiffe://host.example/tenant/acme/plugin/visits"));
}

#[tokio::test]
async fn without_a_grant_for_the_very_origin_no_certificate_is_shown() {
    let ours = authority(1);
    let (address, mut seen) = asking_server(Asks::Allows, &ours).await;
    let without: [&[(Capability, &[&str])]; 2] = [
        &[(Capability::Http, &[ORIGIN])],
        &[(Capability::Http, &[ORIGIN]), (Capability::Identity, &["https://other.test"])],
    ];
    for grants in without {
        let mut setup = plugin(address, grants, Issuing { authority: ours.clone(), from: NOW - 60 }).await;
        assert_eq!(hello(&mut setup).await.unwrap(), "hello");
        assert_eq!(seen.recv().await.unwrap().0, None, "{grants:?}");
    }
    let mut setup = plugin(address, WITH, Issuing { authority: ours, from: NOW - 60 }).await;
    assert_eq!(hello(&mut setup).await.unwrap(), "hello");
    assert!(seen.recv().await.unwrap().0.is_some());
    setup.rig.grant(&[(Capability::Http, &[ORIGIN])]);
    assert_eq!(hello(&mut setup).await.unwrap(), "hello");
    assert_eq!(seen.recv().await.unwrap().0, None, "a revoked grant counts from the next request on");
}

#[tokio::test]
async fn no_two_requests_with_certificates_share_a_tls_session() {
    let ours = authority(1);
    let (address, mut seen) = asking_server(Asks::Requires, &ours).await;
    let mut setup = plugin(address, WITH, Issuing { authority: ours, from: NOW - 60 }).await;
    for name in ["webhook", "webhook", "visits"] {
        setup.gate.caller.plugin = name.parse().unwrap();
        assert_eq!(hello(&mut setup).await.unwrap(), "hello");
        let (leaf, kind) = seen.recv().await.unwrap();
        assert!(names(&leaf.unwrap(), &format!("plugin/{name}")));
        assert_ne!(kind, HandshakeKind::Resumed, "{name}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_over_or_of_another_authority_is_refused_by_who_verifies() {
    let (ours, other) = (authority(1), authority(2));
    let (address, _seen) = asking_server(Asks::Requires, &ours).await;
    for wrong in [Issuing { authority: ours.clone(), from: NOW - 7_200 }, Issuing { authority: other, from: NOW - 60 }]
    {
        let mut setup = plugin(address, WITH, wrong).await;
        assert!(hello(&mut setup).await.is_err());
    }
}

#[tokio::test]
async fn a_granted_identity_that_cannot_be_had_ends_the_request_before_anything_is_sent() {
    let ours = authority(1);
    let (address, mut seen) = asking_server(Asks::Allows, &ours).await;
    let mut setup = plugin(address, WITH, Nobody).await;
    assert!(hello(&mut setup).await.is_err());
    assert!(seen.try_recv().is_err());
    assert!(setup.rig.lines.messages().iter().any(|line| line.contains("no certificate")));
}
