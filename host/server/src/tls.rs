//! TLS of both listeners: version 1.3 alone, a post-quantum key exchange preferred, the certificate read again when its
//! files change or on SIGHUP.
//!
//! Must never serve without a key that fits its certificate, and never drop the one in use for one that does not. Who a
//! client certificate belongs to is not asked here: the handshake proves that its key is held, the sign-in asks whose it is.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{ClientCertificates, TlsSection};
use crate::current::{ACME_TLS, Current};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// LIMIT: largest certificate or key file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The certificate in use and where it comes from.
pub struct Tls {
    config: Arc<ServerConfig>,
    /// None where an authority is asked for it.
    files: Option<Files>,
    current: Arc<Current>,
}

/// Where certificate and key lie.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What tells one state of the files from another: time of change, length and inode of each.
type Stamp = Vec<(i64, i64, u64, u64)>;

impl Tls {
    /// Reads the certificate; none when none is configured.
    pub fn open(section: &TlsSection) -> Result<Option<Self>> {
        let files = match (section.certificate.as_os_str().is_empty(), section.key.as_os_str().is_empty()) {
            (true, true) if section.acme.is_on() => None,
            (true, true) => return Ok(None),
            (false, false) if section.acme.is_on() => bail!("`tls.certificate` and `tls.acme` exclude each other"),
            (false, false) => Some(Files { certificate: section.certificate.clone(), key: section.key.clone() }),
            _ => bail!("`tls.certificate` and `tls.key` are set together or not at all"),
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = Arc::new(Current::default());
        if let Some(files) = &files {
            current.take(files.read(&provider)?);
        }
        let algorithms = provider.signature_verification_algorithms;
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13])?;
        let builder = match section.client_certificates {
            ClientCertificates::Ask => builder.with_client_cert_verifier(Arc::new(AnyHolder { algorithms })),
            ClientCertificates::Off => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if files.is_none() {
            config.alpn_protocols.push(ACME_TLS.to_vec());
        }
        Ok(Some(Self { config: Arc::new(config), files, current }))
    }

    /// For the listeners. What it answers with changes as the files do.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The certificate in use, for whoever else keeps it.
    pub fn current(&self) -> &Arc<Current> {
        &self.current
    }

    /// Keeps the certificate up to its files until `stop` turns true. Without files there is nothing to follow.
    pub async fn follow(self, mut stop: watch::Receiver<bool>) {
        let Some(files) = &self.files else { return };
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let mut look = tokio::time::interval(LOOK);
        let mut seen = files.stamp();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stopping| *stopping) => return,
                _ = hangup.recv() => {}
                _ = look.tick() => {
                    if files.stamp() == seen {
                        continue;
                    }
                }
            }
            seen = files.stamp();
            match files.read(self.config.crypto_provider()) {
                Ok(key) => {
                    self.current.take(key);
                    tracing::info!("the TLS certificate was read again");
                }
                Err(error) => {
                    self.current.health().failed();
                    tracing::error!("the TLS certificate stays as it was: {error:#}");
                }
            }
        }
    }
}

impl Files {
    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey> {
        let chain = capped(&self.certificate)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<_, _>>()
            .map_err(|_| anyhow::anyhow!("`{}` is not a PEM file of certificates", self.certificate.display()))?;
        if chain.is_empty() {
            bail!("`{}` holds no certificate", self.certificate.display());
        }
        let mode = std::fs::metadata(&self.key).with_context(|| format!("`{}`", self.key.display()))?.mode();
        if mode & 0o007 != 0 {
            bail!("`{}` can be read by everyone; chmod 600 it", self.key.display());
        }
        let key = zeroize::Zeroizing::new(capped(&self.key)?);
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| anyhow::anyhow!("`{}` is not a PEM file of a private key", self.key.display()))?;
        CertifiedKey::from_der(chain, key, provider).with_context(|| {
            format!(
                "the key in `{}` does not fit the certificate in `{}`",
                self.key.display(),
                self.certificate.display()
            )
        })
    }

    /// Empty while a file is missing, which is a state like another.
    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key]
            .into_iter()
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|file| (file.mtime(), file.mtime_nsec(), file.len(), file.ino()))
            .collect()
    }
}

/// Reads a small file.
pub fn capped(path: &Path) -> Result<Vec<u8>> {
    let length = std::fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
    if length > FILE_BYTES_MAX {
        bail!("`{}` is too long", path.display());
    }
    std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// Takes any certificate that parses from whoever proves to hold its key. SECURITY: this says nothing about who that is. The
/// trust roots are the tenant's, and which tenant is meant is not known before a request is read; so the chain is verified
/// at sign-in, and a certificate that nobody trusts opens nothing.
#[derive(Debug)]
struct AnyHolder {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        ParsedCertificate::try_from(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
