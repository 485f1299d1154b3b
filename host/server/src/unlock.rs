//! The way from a bound port to open keys. While the root key provider does not answer, the host is locked: it says that it is
//! alive and what is missing, refuses everything else with `host-locked`, and tries again until the provider answers.
//!
//! Must never serve anything that needs a key before the keys are open, and never give up on a provider that is away. A root
//! key in a file is not waited for: it is there or it is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::service::TowerToHyperService;
use ringfence_core::{Clock, Entropy};
use ringfence_gateway::{Listening, Locked, serve as serve_port};
use ringfence_keys::{AwsCredentials, KeysError, MissingRootKey, Outside, RootKey, RootKeyUri, Secret};
use ringfence_store::{Store, StoreError, Tenants};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// First pause between two tries; doubled after each, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// LIMIT: longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What is needed to open the keys.
pub struct Lock {
    /// Where the root key is.
    pub uri: RootKeyUri,
    /// Where tenants may keep a key themselves.
    pub own: BTreeMap<String, RootKeyUri>,
    /// Whether a missing one may be made.
    pub missing: MissingRootKey,
    /// Whether this host is for trying things out: its root key lies with its data, and nobody is asked to keep it.
    pub is_dev: bool,
    /// The open store.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
}

/// The two ports, bound.
#[derive(Clone)]
pub struct Ports<'a> {
    /// The data plane's.
    pub plugins: &'a Listening,
    /// The control plane's.
    pub control: &'a Listening,
    /// What both speak, when it is not plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Lock {
    /// Opens the root key and every tenant's; waits for a provider that is away, and meanwhile answers on both ports.
    /// `locked` is told once when there is a wait.
    pub async fn open(&self, ports: Ports<'_>, locked: impl Fn() -> Result<()>) -> Result<Tenants> {
        let mut pause = PAUSE_FIRST;
        let mut answering: Option<Answering> = None;
        loop {
            let error = match self.try_open().await {
                Ok(tenants) => {
                    if let Some(answering) = answering {
                        answering.stop().await;
                        tracing::info!("unlocked");
                    }
                    return Ok(tenants);
                }
                Err(error) => error,
            };
            if !self.may_pass(&error) {
                let said = match error {
                    StoreError::Keys(KeysError::Missing { .. }) => {
                        "this data directory opens only with the root key that was made with it"
                    }
                    _ => "the keys of this data directory do not open",
                };
                return Err(error).context(said);
            }
            tracing::warn!(%error, retry_ms = pause.as_millis() as u64, "locked: the root key provider does not let us in");
            if answering.is_none() {
                answering = Some(Answering::start(ports.clone(), self.uri.scheme())?);
                locked()?;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    async fn try_open(&self) -> Result<Tenants, StoreError> {
        let outside = Outside { entropy: self.entropy.clone(), clock: self.clock.clone(), aws: aws_from_environment() };
        let (uri, own, missing) = (self.uri.clone(), self.own.clone(), self.missing);
        let connect = move || RootKey::connect(&uri, missing, &outside).map(|root| root.with_own(own, outside));
        let root = tokio::task::spawn_blocking(connect).await.map_err(|_| StoreError::Closed)??;
        if root.was_made() && !self.is_dev {
            // At once: a start that fails later has made it all the same.
            tracing::warn!(root_key = %self.uri, "a root key was made, as there was none; {}", keep(&self.uri));
        }
        Tenants::open(self.store.clone(), Arc::new(root), self.entropy.clone(), self.clock.clone()).await
    }

    fn may_pass(&self, error: &StoreError) -> bool {
        let transient = matches!(error, StoreError::Keys(error) if KeysError::is_transient(error));
        transient && !matches!(self.uri, RootKeyUri::File(_))
    }
}

/// The two ports while the host is locked.
struct Answering {
    stop: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Answering {
    fn start(ports: Ports<'_>, scheme: &'static str) -> Result<Self> {
        let (stop, stopping) = watch::channel(false);
        let router = TowerToHyperService::new(ringfence_control::locked_router(scheme));
        let tasks = [
            tokio::spawn(serve_port(ports.plugins.share()?, ports.tls.clone(), Locked, stopping.clone(), None)),
            tokio::spawn(serve_port(ports.control.share()?, ports.tls, router, stopping, None)),
        ];
        Ok(Self { stop, tasks })
    }

    async fn stop(self) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// What has to be kept of a root key that was just made.
fn keep(uri: &RootKeyUri) -> &'static str {
    match uri {
        RootKeyUri::File(_) => {
            "keep it and what is made beside it, apart from the data: without them nothing of this host opens"
        }
        _ => "keep it: without it nothing of this host opens",
    }
}

/// Credentials of AWS under the names that its own tools use.
#[expect(clippy::disallowed_methods, reason = "this is the room that reads the environment")]
pub fn aws_from_environment() -> Option<AwsCredentials> {
    Some(AwsCredentials {
        access_key: std::env::var("AWS_ACCESS_KEY_ID").ok()?,
        secret_key: Secret::new(std::env::var("AWS_SECRET_ACCESS_KEY").ok()?),
        session_token: std::env::var("AWS_SESSION_TOKEN").ok().map(Secret::new),
    })
}
