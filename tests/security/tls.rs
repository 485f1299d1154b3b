//! TLS of both ports: version, key exchange, a certificate that changes while the host runs, certificates of clients.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use reqwest::StatusCode;
use ringfence_tests::{Host, Place, Session, answer, eventually, problem, string};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, RootCertStore, version};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const SUBJECT: &str = "spiffe://acme.example/ci";

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, PEM.
    fn issue(&self, name: SanType, usage: ExtendedKeyUsagePurpose, serial: u64) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self, serial: u64) -> (String, String) {
        self.issue(SanType::IpAddress([127, 0, 0, 1].into()), ExtendedKeyUsagePurpose::ServerAuth, serial)
    }

    /// What a client shows: certificate and key in one PEM text.
    fn client(&self, serial: u64) -> String {
        let name = SanType::URI(SUBJECT.try_into().unwrap());
        let (certificate, key) = self.issue(name, ExtendedKeyUsagePurpose::ClientAuth, serial);
        certificate + &key
    }

    fn revoking(&self, serial: u64) -> String {
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: rcgen::date_time_ymd(2020, 1, 2),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn http(&self, shown: Option<&str>) -> Result<reqwest::Client> {
        let root = reqwest::Certificate::from_pem(self.pem.as_bytes())?;
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
        let builder = match shown {
            Some(pem) => builder.identity(reqwest::Identity::from_pem(pem.as_bytes())?),
            None => builder,
        };
        Ok(builder.build()?)
    }
}

fn write(dir: &Path, (certificate, key): &(String, String)) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(dir.join("host.key.new"), key)?;
    std::fs::set_permissions(dir.join("host.key.new"), std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(dir.join("host.key.new"), dir.join("host.key"))?;
    std::fs::write(dir.join("host.pem"), certificate)?;
    Ok(())
}

/// A host over TLS, its files in a directory of their own.
fn over_tls(ca: &Ca) -> Result<(Place, tempfile::TempDir, Host)> {
    let (place, files) = (Place::new()?, tempfile::tempdir()?);
    write(files.path(), &ca.server(1))?;
    let at = |name: &str| files.path().join(name).display().to_string();
    let environment = [
        ("RINGFENCE_TLS_CERTIFICATE", at("host.pem")),
        ("RINGFENCE_TLS_KEY", at("host.key")),
        ("RINGFENCE_TLS_CLIENT_CERTIFICATES", "ask".to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let host = Host::start_with(&place, &[], &environment)?.with_client(ca.http(None)?);
    Ok((place, files, host))
}

fn address(url: &str) -> Result<SocketAddr> {
    Ok(url.strip_prefix("https://").context("not https")?.parse()?)
}

/// One handshake: what was agreed on, and the serial of what the host showed.
async fn shake(url: &str, ca: &Ca, versions: &[&'static rustls::SupportedProtocolVersion]) -> Result<Agreed> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).map_err(|_| anyhow::anyhow!("no root"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(address(url)?).await?;
    let stream = TlsConnector::from(config).connect(ServerName::try_from("127.0.0.1")?, stream).await?;
    let connection = stream.get_ref().1;
    Ok(Agreed {
        version: connection.protocol_version(),
        group: connection.negotiated_key_exchange_group().map(|group| group.name()),
        certificate: connection.peer_certificates().and_then(<[_]>::first).context("no certificate")?.to_vec(),
    })
}

struct Agreed {
    version: Option<ProtocolVersion>,
    group: Option<NamedGroup>,
    certificate: Vec<u8>,
}

#[tokio::test]
async fn both_ports_speak_tls_1_3_with_a_post_quantum_key_exchange_and_nothing_older() -> Result<()> {
    let ca = Ca::new();
    let (_place, _files, host) = over_tls(&ca)?;
    for url in [&host.control, &host.plugins] {
        let agreed = shake(url, &ca, &[&version::TLS13]).await?;
        assert_eq!(agreed.version, Some(ProtocolVersion::TLSv1_3));
        assert_eq!(agreed.group, Some(NamedGroup::X25519MLKEM768));
        assert!(shake(url, &ca, &[&version::TLS12]).await.is_err(), "TLS 1.2 at {url}");
        let plain = reqwest::Client::new().get(url.replace("https://", "http://")).send().await;
        assert!(plain.is_err(), "plain HTTP at {url}");
    }
    Ok(())
}

#[tokio::test]
async fn the_whole_walk_works_over_tls() -> Result<()> {
    let ca = Ca::new();
    let (_place, _files, host) = over_tls(&ca)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_a_broken_one_is_not() -> Result<()> {
    let ca = Ca::new();
    let (_place, files, host) = over_tls(&ca)?;
    let first = shake(&host.control, &ca, &[&version::TLS13]).await?.certificate;
    std::fs::write(files.path().join("host.pem"), "no certificate")?;
    host.signal(rustix::process::Signal::HUP)?;
    eventually("the host says that it keeps the old one", async || Ok(host.stderr().contains("stays as it was")))
        .await?;
    assert_eq!(shake(&host.control, &ca, &[&version::TLS13]).await?.certificate, first);
    write(files.path(), &ca.server(2))?;
    host.signal(rustix::process::Signal::HUP)?;
    eventually("both ports show the new one", async || {
        let control = shake(&host.control, &ca, &[&version::TLS13]).await?.certificate;
        let plugins = shake(&host.plugins, &ca, &[&version::TLS13]).await?.certificate;
        Ok(control != first && control == plugins)
    })
    .await
}

/// A tenant that trusts a root, and a session opened by a certificate of it.
async fn sign_in_by_certificate(host: &Host, http: reqwest::Client) -> Result<(u16, Value)> {
    let body = json!({ "method": "client_certificate", "tenant": "acme" });
    let url = format!("{}/api/v1/zero-trust/authenticate", host.control);
    problem(http.post(url).json(&body).send().await?).await
}

fn trust(ca: &Ca, revocation_lists: &str) -> Value {
    json!({
        "unbound_tokens": "allowed",
        "client_certificates": {
            "roots": ca.pem, "revocation_lists": revocation_lists,
            "holders": [{ "subject": SUBJECT, "name": "ci", "role": "developer" }],
        },
    })
}

async fn decide(admin: &Session, path: &str, body: &Value) -> Result<Value> {
    answer(admin.put(path).json(body).send().await?).await
}

#[tokio::test]
async fn a_certificate_signs_in_and_its_token_is_worth_nothing_without_it() -> Result<()> {
    let (ca, tenants) = (Ca::new(), Ca::new());
    let (_place, _files, host) = over_tls(&ca)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let path = acme.path("/sign-in");
    acme.ship("hello", "hello", "", &[]).await?;
    let theirs = ca.http(Some(&tenants.client(7)))?;
    let refused = sign_in_by_certificate(&host, theirs.clone()).await?;
    assert_eq!((refused.0, refused.1["code"].as_str()), (401, Some("sign-in-refused")), "before anyone trusts it");
    assert_eq!(decide(&acme.admin, &path, &trust(&tenants, "")).await?["client_certificates"]["roots_count"], 1);
    let (status, issued) = sign_in_by_certificate(&host, theirs.clone()).await?;
    assert_eq!((status, &issued["principal"]["id"]), (200, &json!("acme/ci")), "{issued}");
    let token = string(&issued, "access_token")?;
    for (url, http) in
        [(format!("{}/api/v1/whoami", host.control), &theirs), (format!("{}/acme/hello/", host.plugins), &theirs)]
    {
        assert_eq!(http.get(&url).bearer_auth(&token).send().await?.status(), StatusCode::OK, "{url}");
        for thief in [ca.http(None)?, ca.http(Some(&tenants.client(8)))?] {
            assert_eq!(thief.get(&url).bearer_auth(&token).send().await?.status(), StatusCode::UNAUTHORIZED, "{url}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_foreign_absent_or_revoked_certificate_gets_the_answer_of_an_unknown_tenant() -> Result<()> {
    let (ca, tenants) = (Ca::new(), Ca::new());
    let (_place, _files, host) = over_tls(&ca)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let path = acme.path("/sign-in");
    let mine = ca.http(Some(&tenants.client(7)))?;
    let mut answers = vec![sign_in_by_certificate(&host, mine.clone()).await?];
    decide(&acme.admin, &path, &trust(&tenants, "")).await?;
    let (status, issued) = sign_in_by_certificate(&host, mine.clone()).await?;
    ensure!(status == 200, "{issued}");
    answers.push(sign_in_by_certificate(&host, ca.http(None)?).await?);
    answers.push(sign_in_by_certificate(&host, ca.http(Some(&Ca::new().client(7)))?).await?);
    // Revoked: the open session ends with it.
    decide(&acme.admin, &path, &trust(&tenants, &tenants.revoking(7))).await?;
    let whoami = format!("{}/api/v1/whoami", host.control);
    let token = string(&issued, "access_token")?;
    assert_eq!(mine.get(&whoami).bearer_auth(&token).send().await?.status(), StatusCode::UNAUTHORIZED);
    answers.push(sign_in_by_certificate(&host, mine).await?);
    assert_eq!(sign_in_by_certificate(&host, ca.http(Some(&tenants.client(8)))?).await?.0, 200);
    for (status, answer) in &mut answers {
        answer.as_object_mut().map(|fields| fields.remove("request_id"));
        assert_eq!(*status, 401);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    Ok(())
}
