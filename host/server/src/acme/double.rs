//! A small authority that speaks ACME over TLS, for the tests: one account, orders with `tls-alpn-01`, certificates of a
//! root of its own. It stands in for a real one, and checks what a real one checks: signatures, nonces, addresses, and
//! that the names answer, by connecting.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE64URL_NOPAD;
use http::{HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_cert::der::Decode;

/// What the authority is made to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mood {
    /// It does what it should.
    Well,
    /// It answers orders with an error.
    Refuses,
    /// It signs for another name than was asked.
    Confused,
}

/// The authority, as the tests hold it.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    base: String,
    /// Of its own TLS.
    pub root: String,
    issuer: Issuer<'static, KeyPair>,
    /// Where the names are, as DNS would say.
    names_at: SocketAddr,
    told: Mutex<Told>,
}

struct Told {
    mood: Mood,
    nonces: HashSet<String>,
    count: u64,
    accounts_count: usize,
    key: Option<(Vec<u8>, String)>,
    names: Vec<String>,
    status: &'static str,
    valid: HashSet<usize>,
    /// Second at which the next certificate begins, and how long it is good.
    from: u64,
    life: u64,
    issued: Vec<(Vec<u8>, String)>,
}

/// A public key that came in a request.
struct Asked(Vec<u8>);

impl PublicKeyData for Asked {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn ca() -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Issuer::new(params, KeyPair::generate().unwrap())
}

impl Authority {
    /// Starts one that checks names at this address.
    pub async fn start(names_at: SocketAddr, from: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let told = Told {
            mood: Mood::Well,
            nonces: HashSet::new(),
            count: 0,
            accounts_count: 0,
            key: None,
            names: Vec::new(),
            status: "pending",
            valid: HashSet::new(),
            from,
            life: 90 * 86_400,
            issued: Vec::new(),
        };
        let inner = Inner { base, root: own.pem(), issuer: ca(), names_at, told: Mutex::new(told) };
        let authority = Self(Arc::new(inner));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).unwrap();
        let (acceptor, service) = (TlsAcceptor::from(Arc::new(config)), authority.router());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(service.clone()));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        authority
    }

    pub fn directory(&self) -> String {
        format!("{}/directory", self.0.base)
    }

    /// The root of its own TLS, PEM.
    pub fn root(&self) -> &str {
        &self.0.root
    }

    pub fn set(&self, mood: Mood, from: u64) {
        let mut told = self.0.told.lock().unwrap();
        (told.mood, told.from) = (mood, from);
    }

    /// The certificates it gave, DER, the newest last.
    pub fn issued(&self) -> Vec<Vec<u8>> {
        self.0.told.lock().unwrap().issued.iter().map(|(der, _)| der.clone()).collect()
    }

    pub fn accounts_count(&self) -> usize {
        self.0.told.lock().unwrap().accounts_count
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/directory", get(directory))
            .route("/nonce", get(|| async { StatusCode::OK }))
            .route("/{*path}", post(act))
            .layer(axum::middleware::map_response_with_state(self.clone(), with_nonce))
            .with_state(self.clone())
    }

    /// Connects to a name as RFC 8737 has it; whether it answers for this digest.
    async fn check(&self, name: &str, expected: &[u8]) -> bool {
        let (alpn, leaf) = shown(self.0.names_at, name, Some(b"acme-tls/1")).await.unwrap_or_default();
        // OID 1.3.6.1.5.5.7.1.31, critical, an octet string in an octet string.
        let head: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff, 4, 0x22, 4, 0x20];
        alpn == b"acme-tls/1" && contains(&leaf, &[head, expected].concat()) && contains(&leaf, name.as_bytes())
    }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// What a server shows: the protocol that was agreed on and its own certificate.
pub async fn shown(at: SocketAddr, name: &str, protocol: Option<&[u8]>) -> Option<(Vec<u8>, Vec<u8>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer)).with_no_client_auth();
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connect = async {
        let stream = TcpStream::connect(at).await.ok()?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let connection = stream.get_ref().1;
        let leaf = connection.peer_certificates()?.first()?.to_vec();
        Some((connection.alpn_protocol().unwrap_or_default().to_vec(), leaf))
    };
    tokio::time::timeout(Duration::from_secs(10), connect).await.ok()?
}

async fn with_nonce(State(authority): State<Authority>, mut response: Response) -> Response {
    let mut told = authority.0.told.lock().unwrap();
    told.count += 1;
    let nonce = format!("nonce-{}", told.count);
    told.nonces.insert(nonce.clone());
    response.headers_mut().insert("replay-nonce", HeaderValue::try_from(nonce).unwrap());
    response
}

async fn directory(State(authority): State<Authority>) -> axum::Json<Value> {
    let base = &authority.0.base;
    axum::Json(json!({
        "newNonce": format!("{base}/nonce"),
        "newAccount": format!("{base}/account"),
        "newOrder": format!("{base}/order"),
        "revokeCert": format!("{base}/revoke"),
        "keyChange": format!("{base}/key"),
    }))
}

fn problem(kind: &str, detail: &str) -> Response {
    let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": 400 });
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

fn decoded(value: &Value) -> Vec<u8> {
    BASE64URL_NOPAD.decode(value.as_str().unwrap_or_default().as_bytes()).unwrap_or_default()
}

/// Every POST: first its signature, nonce and address (RFC 8555, section 6), then what it asks.
async fn act(State(authority): State<Authority>, OriginalUri(uri): OriginalUri, body: Bytes) -> Response {
    let outer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let head: Value = serde_json::from_slice(&decoded(&outer["protected"])).unwrap_or_default();
    let payload: Value = serde_json::from_slice(&decoded(&outer["payload"])).unwrap_or_default();
    let base = authority.0.base.clone();
    {
        let mut told = authority.0.told.lock().unwrap();
        if !told.nonces.remove(head["nonce"].as_str().unwrap_or_default()) {
            return problem("badNonce", "unknown nonce");
        }
        if uri.path() == "/account" {
            let jwk = &head["jwk"];
            let point = [vec![4], decoded(&jwk["x"]), decoded(&jwk["y"])].concat();
            let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
            told.key = Some((point, BASE64URL_NOPAD.encode(digest(&SHA256, canonical.as_bytes()).as_ref())));
            told.accounts_count += 1;
        } else if head["kid"] != json!(format!("{base}/account/1")) {
            return problem("unauthorized", "no such account");
        }
        let Some((point, _)) = &told.key else { return problem("unauthorized", "no account yet") };
        let text = |name: &str| outer[name].as_str().unwrap_or_default().to_owned();
        let signed = format!("{}.{}", text("protected"), text("payload"));
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let fits = key.verify(signed.as_bytes(), &decoded(&outer["signature"])).is_ok();
        if !fits || head["alg"] != "ES256" || head["url"] != json!(format!("{base}{}", uri.path())) {
            return problem("unauthorized", "the signature does not fit");
        }
    }
    let parts: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["account"] if payload["termsOfServiceAgreed"] == true => {
            located(format!("{base}/account/1"), json!({ "status": "valid" }))
        }
        ["order"] => authority.new_order(&payload),
        ["order", _] => axum::Json(authority.order()).into_response(),
        ["authorization", number] => authority.authorization(number.parse().unwrap()),
        ["challenge", number] => authority.challenge(number.parse().unwrap()).await,
        ["finalize", _] => authority.finalize(&decoded(&payload["csr"])),
        ["certificate", number] => {
            let told = authority.0.told.lock().unwrap();
            told.issued[number.parse::<usize>().unwrap()].1.clone().into_response()
        }
        _ => problem("malformed", "no such thing"),
    }
}

fn located(place: String, body: Value) -> Response {
    (StatusCode::CREATED, [("location", place)], axum::Json(body)).into_response()
}

impl Authority {
    fn new_order(&self, payload: &Value) -> Response {
        {
            let mut told = self.0.told.lock().unwrap();
            if told.mood == Mood::Refuses {
                return problem("rateLimited", "not now");
            }
            let asked = payload["identifiers"].as_array().cloned().unwrap_or_default();
            told.names = asked.iter().map(|one| one["value"].as_str().unwrap().to_owned()).collect();
            told.status = "pending";
            told.valid.clear();
        }
        located(format!("{}/order/1", self.0.base), self.order())
    }

    fn order(&self) -> Value {
        let told = self.0.told.lock().unwrap();
        let base = &self.0.base;
        let names: Vec<Value> = told.names.iter().map(|name| json!({ "type": "dns", "value": name })).collect();
        let authorizations: Vec<String> =
            (0..told.names.len()).map(|number| format!("{base}/authorization/{number}")).collect();
        let mut order = json!({
            "status": told.status,
            "identifiers": names,
            "authorizations": authorizations,
            "finalize": format!("{base}/finalize/1"),
        });
        if told.status == "valid" {
            order["certificate"] = json!(format!("{base}/certificate/{}", told.issued.len() - 1));
        }
        order
    }

    fn authorization(&self, number: usize) -> Response {
        let told = self.0.told.lock().unwrap();
        let status = if told.valid.contains(&number) { "valid" } else { "pending" };
        let challenge = |kind: &str| {
            json!({
                "type": kind,
                "url": format!("{}/challenge/{number}", self.0.base),
                "token": format!("token-{number}"),
                "status": status,
            })
        };
        axum::Json(json!({
            "status": status,
            "identifier": { "type": "dns", "value": told.names[number] },
            "challenges": [challenge("http-01"), challenge("tls-alpn-01")],
        }))
        .into_response()
    }

    async fn challenge(&self, number: usize) -> Response {
        let (name, expected) = {
            let told = self.0.told.lock().unwrap();
            let thumbprint = told.key.as_ref().unwrap().1.clone();
            (told.names[number].clone(), format!("token-{number}.{thumbprint}"))
        };
        let good = self.check(&name, digest(&SHA256, expected.as_bytes()).as_ref()).await;
        let mut told = self.0.told.lock().unwrap();
        if good {
            told.valid.insert(number);
        }
        if !good {
            told.status = "invalid";
        } else if told.valid.len() == told.names.len() {
            told.status = "ready";
        }
        axum::Json(json!({
            "type": "tls-alpn-01",
            "url": format!("{}/challenge/{number}", self.0.base),
            "token": format!("token-{number}"),
            "status": if good { "valid" } else { "invalid" },
        }))
        .into_response()
    }

    fn finalize(&self, csr: &[u8]) -> Response {
        {
            let mut told = self.0.told.lock().unwrap();
            if told.status != "ready" {
                return problem("orderNotReady", "prove the names first");
            }
            let request = x509_cert::request::CertReq::from_der(csr).unwrap();
            assert!(told.names.iter().all(|name| contains(csr, name.as_bytes())), "the request names them all");
            let names = if told.mood == Mood::Confused { vec!["other.example".to_owned()] } else { told.names.clone() };
            let mut params = CertificateParams::new(names).unwrap();
            let epoch = date_time_ymd(1970, 1, 1);
            params.not_before = epoch + Duration::from_secs(told.from);
            params.not_after = epoch + Duration::from_secs(told.from + told.life);
            let key = Asked(request.info.public_key.subject_public_key.raw_bytes().to_vec());
            let made = params.signed_by(&key, &self.0.issuer).unwrap();
            told.issued.push((made.der().to_vec(), made.pem()));
            told.status = "valid";
        }
        axum::Json(self.order()).into_response()
    }
}

/// Takes any server: what it shows is what the tests look at.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
