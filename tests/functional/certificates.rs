//! Plugins that show who they are: two tenants' plugins call a server that verifies them against the published bundle.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use reqwest::StatusCode;
use ringfence_tests::{Host, Place, Tenant, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// Answers whoever shows a certificate of the bundle, and tells what was shown.
fn serve(
    listener: TcpListener,
    (certificate, key): (CertificateDer<'static>, Vec<u8>),
    bundle: &str,
) -> Result<mpsc::UnboundedReceiver<Vec<u8>>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (told, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                if let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
                    let _ = told.send(leaf.to_vec());
                }
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    Ok(seen)
}

async fn caller(tenant: &Tenant, origin: &str) -> Result<()> {
    tenant.push("hostile", "hostile", "0.1.0", &format!("[needs]\nidentity = [\"{origin}\"]\n")).await?;
    for (capability, scope) in [("keyvalue", "*"), ("http", origin)] {
        tenant.grant("hostile", capability, &[scope]).await?;
    }
    tenant.grant("hostile", "logging", &[]).await?;
    Ok(())
}

fn names(leaf: &[u8], id: &str) -> bool {
    leaf.windows(id.len()).any(|window| window == id.as_bytes())
}

#[tokio::test]
async fn a_plugin_shows_its_own_certificate_where_that_is_granted_and_nowhere_else() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?;
    let place = Place::new()?;
    let files = tempfile::tempdir()?;
    let root = files.path().join("internal.pem");
    std::fs::write(&root, server.pem())?;
    let config = format!(
        "[identity]\ntrust_domain = \"host.example\"\n[egress]\nallow_private = [\"{address}\"]\nroots = [\"{}\"]\n",
        root.display()
    );
    let config = place.config(&config)?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;

    let bundle: Value = reqwest::get(format!("{}/spiffe/bundle", host.control)).await?.json().await?;
    assert_eq!((bundle["keys"][0]["use"].as_str(), bundle["keys"][0].get("d")), (Some("x509-svid"), None), "{bundle}");
    let pem = reqwest::get(format!("{}/spiffe/bundle.pem", host.control)).await?.text().await?;
    let mut seen = serve(listener, (server.der().clone(), key.serialize_der()), &pem)?;

    let (origin, path) = (format!("https://{address}"), format!("/egress?url=https://{address}/"));
    for name in ["acme", "globex"] {
        let tenant = host.tenant(&operator, name).await?;
        caller(&tenant, &origin).await?;
        let refused = tenant.deploy("hostile", "0.1.0").await;
        assert!(refused.is_err(), "the version needs an identity that nobody granted");
        tenant.grant("hostile", "identity", &[&origin]).await?;
        tenant.deploy("hostile", "0.1.0").await?;
        let (status, text) = tenant.fetch("hostile", &path).await?;
        assert!(status == StatusCode::OK && text.starts_with("status 200"), "{status} {text}");
        let leaf = seen.recv().await.context("the server saw nobody")?;
        assert!(names(&leaf, &format!("spiffe://host.example/tenant/{name}/plugin/hostile")));
        ringfence_tests::answer(tenant.admin.delete(&tenant.path("/plugins/hostile/grants/identity")).send().await?)
            .await?;
        eventually("without the grant nothing is shown, and the server sends it away", async || {
            Ok(tenant.fetch("hostile", &path).await?.1.starts_with("refused"))
        })
        .await?;
        assert!(seen.try_recv().is_err());
    }
    Ok(())
}
