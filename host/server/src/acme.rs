//! `[tls.acme]`: gets the listeners' certificate from an authority that speaks ACME (RFC 8555) and renews it, proving the
//! names over TLS on the listeners themselves (RFC 8737). The protocol is `instant-acme`'s.
//!
//! Must never give up a certificate that is in use for one that cannot be used, nor ask an authority in a tight circle. The
//! account's key and the certificate's lie sealed in the platform's store.
//!
//! LIMIT: while they are read and written the library has copies of both keys in memory that it does not zero.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error as AcmeError, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use ringfence_core::{Clock, Entropy};
use ringfence_store::{Key, TenantStore};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::config::AcmeSection;
use crate::current::{Current, Validity};

/// LIMIT: one question to the authority; getting one certificate, from first to last; bytes of one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
const OBTAIN_WAIT: Duration = Duration::from_secs(300);
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// How often an order is asked after.
const RETRIES: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));
/// Longest time between two looks at the clock, which a suspended machine's does not follow.
const LOOK: Duration = Duration::from_secs(3_600);
/// First and longest time between two tries that fail, in seconds.
const PAUSE_FIRST_SECONDS: i64 = 60;
const PAUSE_MAX_SECONDS: i64 = 6 * 3_600;

/// Keeps the listeners' certificate.
pub struct Acme {
    settings: AcmeSection,
    store: TenantStore,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    current: Arc<Current>,
    http: reqwest::Client,
    /// When the next one is wanted, in seconds since 1970.
    due_second: i64,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Where the account is.
    directory: String,
    /// Its credentials, as the library has them.
    account: serde_json::Value,
    /// The newest certificate; none before the first.
    certificate: Option<KeptCertificate>,
}

#[derive(Clone, Serialize, Deserialize)]
struct KeptCertificate {
    names: Vec<String>,
    /// PEM, the host's own first.
    chain: String,
    /// PEM of its private key.
    key: String,
}

// === impl Acme ===

impl Acme {
    /// Takes up where the last start left off: a certificate that is kept is in use at once, whatever the authority does.
    pub async fn open(
        settings: AcmeSection,
        store: TenantStore,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        current: Arc<Current>,
    ) -> Result<Self> {
        let http = client(&settings.roots)?;
        let mut acme = Self { settings, store, clock, entropy, current, http, due_second: i64::MIN };
        let kept = acme.kept().await?.and_then(|kept| kept.certificate);
        if let Some(kept) = kept
            && let Err(error) = acme.take(&kept)
        {
            tracing::warn!("the kept TLS certificate is not used: {error:#}");
        }
        Ok(acme)
    }

    /// Gets certificates as they are due, until `stop` turns true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let wait = tokio::select! {
                wait = self.look() => wait,
                _ = stop.wait_for(|stopping| *stopping) => return,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Gets a certificate when one is due; says after how long to look again.
    pub async fn look(&mut self) -> Duration {
        let now = self.clock.now().as_second();
        if now >= self.due_second {
            match tokio::time::timeout(OBTAIN_WAIT, self.obtain())
                .await
                .unwrap_or_else(|_| Err(anyhow!("it took too long")))
            {
                Ok(()) => tracing::info!(names = ?self.settings.names, "there is a new TLS certificate"),
                Err(error) => {
                    let failures = self.current.health().failed();
                    self.due_second = now.saturating_add(self.jittered(pause_seconds(failures)));
                    tracing::error!(failures, "no new TLS certificate, the one in use stays: {error:#}");
                }
            }
        }
        let rest = self.due_second.saturating_sub(now).max(1);
        Duration::from_secs(rest.unsigned_abs()).min(LOOK)
    }

    /// One order, from account to certificate.
    async fn obtain(&mut self) -> Result<()> {
        let account = self.account().await?;
        let names: Vec<Identifier> = self.settings.names.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&names)).await.context("a new order")?;
        let proved = self.prove(&mut order).await;
        self.current.expect_nothing();
        proved?;
        let key = Zeroizing::new(order.finalize().await.context("the request for a certificate")?);
        let chain = order.poll_certificate(&RETRIES).await.context("the certificate")?;
        let certificate = KeptCertificate { names: self.settings.names.clone(), chain, key: key.to_string() };
        // Held against what was asked for first: what is kept is used at the next start, too.
        certified(&certificate)?;
        let mut kept = self.kept().await?.context("the account is gone")?;
        kept.certificate = Some(certificate.clone());
        self.store.put_json(&at(), &kept).await?;
        self.take(&certificate)
    }

    /// Answers the challenges of an order until the authority is convinced.
    async fn prove(&self, order: &mut Order) -> Result<()> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.context("an authorization")?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                other => bail!("an authorization is {other:?}"),
            }
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                bail!("an authorization is not about a DNS name");
            };
            let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
            let mut challenge = challenge.context("the authority does not offer `tls-alpn-01`")?;
            let answer = answer_to(&name, challenge.key_authorization().digest().as_ref())?;
            self.current.expect(&name, answer);
            challenge.set_ready().await.context("a challenge")?;
        }
        match order.poll_ready(&RETRIES).await.context("the check of the names")? {
            OrderStatus::Ready => Ok(()),
            other => bail!("the authority is not convinced: the order is {other:?}"),
        }
    }

    /// The account; made where there is none with this authority.
    async fn account(&self) -> Result<Account> {
        let builder = Account::builder_with_http(Box::new(Http(self.http.clone())));
        let before = self.kept().await?;
        if let Some(kept) = before.as_ref().filter(|kept| kept.directory == self.settings.directory) {
            let credentials = serde_json::from_value(kept.account.clone()).context("the kept account")?;
            return builder.from_credentials(credentials).await.context("the account");
        }
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        // `config.rs` refuses to start unless the operator agreed.
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder.create(&new, self.settings.directory.clone(), None).await;
        let (account, credentials) = made.context("a new account")?;
        let account_value = serde_json::to_value(&credentials).context("the new account")?;
        let certificate = before.and_then(|kept| kept.certificate);
        let kept = Kept { directory: self.settings.directory.clone(), account: account_value, certificate };
        self.store.put_json(&at(), &kept).await?;
        Ok(account)
    }

    /// Puts a certificate into use, and decides when the next is due: at once when it is for other names.
    fn take(&mut self, kept: &KeptCertificate) -> Result<()> {
        let (certified, validity) = certified(kept)?;
        self.current.take(certified);
        self.due_second = match kept.names == self.settings.names {
            true => due_second(validity, self.dice()),
            false => i64::MIN,
        };
        Ok(())
    }

    async fn kept(&self) -> Result<Option<Kept>> {
        Ok(self.store.get_json(&at()).await?)
    }

    fn dice(&self) -> u64 {
        let mut bytes = [0; 8];
        self.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Up to a fifth longer, so that many hosts do not ask at once.
    fn jittered(&self, seconds: i64) -> i64 {
        seconds.saturating_add(below(self.dice(), seconds / 5))
    }
}

fn at() -> Key {
    Key::new(["host", "acme"])
}

/// When the next certificate is wanted: when a third of the time is left, and up to a thirtieth later.
fn due_second(validity: Validity, dice: u64) -> i64 {
    let life = validity.until_second.saturating_sub(validity.from_second).max(0);
    validity.until_second.saturating_sub(life / 3).saturating_add(below(dice, life / 30))
}

/// How long to wait after so many failures in a row.
fn pause_seconds(failures: u64) -> i64 {
    let doublings = u32::try_from(failures.saturating_sub(1).min(20)).unwrap_or(20);
    PAUSE_FIRST_SECONDS.saturating_mul(1_i64 << doublings).min(PAUSE_MAX_SECONDS)
}

fn below(dice: u64, end: i64) -> i64 {
    let end = u64::try_from(end).unwrap_or_default();
    dice.checked_rem(end).and_then(|value| i64::try_from(value).ok()).unwrap_or_default()
}

/// A certificate ready for use; fails when its key is another's or it is not for one of its names.
fn certified(kept: &KeptCertificate) -> Result<(CertifiedKey, Validity)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(kept.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| anyhow!("the chain is not PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(kept.key.as_bytes()).map_err(|_| anyhow!("the key is not PEM"))?;
    let certified = CertifiedKey::from_der(chain, key, &default_provider()).context("the key does not fit")?;
    let own = certified.end_entity_cert().context("there is no certificate")?;
    let parsed = ParsedCertificate::try_from(own).context("the certificate cannot be read")?;
    for name in &kept.names {
        let wanted = ServerName::try_from(name.as_str()).with_context(|| format!("`{name}` is no name"))?;
        verify_server_name(&parsed, &wanted).with_context(|| format!("the certificate is not for `{name}`"))?;
    }
    let validity = Validity::of(own).context("the certificate has no times")?;
    Ok((certified, validity))
}

/// The certificate that answers a challenge (RFC 8737, section 3).
fn answer_to(name: &str, digest: &[u8]) -> Result<CertifiedKey> {
    if digest.len() != 32 {
        bail!("the challenge cannot be answered");
    }
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = default_provider().key_provider.load_private_key(key)?;
    // Not held against each other, because the extension is critical (RFC 8737) and no verifier of ours knows it.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// A client for the operator's authority: HTTPS alone, no redirects, the public roots or only the operator's.
fn client(roots: &Path) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WAIT)
        .no_proxy();
    if !roots.as_os_str().is_empty() {
        let text = crate::tls::capped(roots)?;
        let certificates = reqwest::Certificate::from_pem_bundle(&text)
            .map_err(|_| anyhow!("`{}` is not a PEM file of certificates", roots.display()))?;
        builder = builder.tls_certs_only(certificates);
    }
    Ok(builder.build()?)
}

/// How the library asks.
struct Http(reqwest::Client);

impl HttpClient for Http {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, AcmeError>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |error: reqwest::Error| AcmeError::Other(error.to_string().into());
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let asked = client.request(head.method, head.uri.to_string()).headers(head.headers).body(body.to_bytes());
            let mut answer = asked.send().await.map_err(other)?;
            let mut bytes = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(other)? {
                if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                    return Err(AcmeError::Str("an answer of the authority is too long"));
                }
                bytes.extend_from_slice(&piece);
            }
            let mut told = http::Response::new(Full::new(Bytes::from(bytes)));
            *told.status_mut() = answer.status();
            *told.headers_mut() = std::mem::take(answer.headers_mut());
            Ok(BytesResponse::from(told))
        })
    }
}

#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;
