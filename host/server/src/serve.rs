//! `ringfence serve`: prepare the process, open the rooms, listen, and drain on SIGTERM or SIGINT.
//!
//! Must never print a secret: the enrolment token of a first start goes into a file that only this account can read.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::service::TowerToHyperService;
use ringfence_audit::{AuditError, Event, Log, codes};
use ringfence_cli::{Format, ServeArgs};
use ringfence_control::{CertificateHealth, KeyKeeper, PeerAddress};
use ringfence_core::{Clock, Entropy, limits};
use ringfence_engine::scheduler::class::{LowestRung, raise_thread, step_back};
use ringfence_engine::{IoClass, Recycling};
use ringfence_gateway::{Listening, Peer, serve as serve_port};
use ringfence_identity::IdentityError;
use ringfence_keys::MissingRootKey;
use ringfence_store::{DiskOptions, Store, Tenants};
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::acme::Acme;
use crate::ambient::{SystemClock, SystemEntropy};
use crate::config::{self, Config};
use crate::findings::Telling;
use crate::tls::Tls;
use crate::unlock::{Lock, Ports};
use crate::wiring::{IoThreads, Place, Wired, refuse_after_damage, wire};

/// Number of SIGXFSZ on Linux: a file grew over a limit. Handled, so that it is an error of the write and not our end.
const SIGXFSZ: i32 = 25;
/// Threads that accept, read, write and wait for guests' I/O.
const IO_THREADS_COUNT: usize = 2;
/// Threads that drive the connections of crowds. With one, a crowd never has more than a processor for its I/O.
const CROWD_THREADS_COUNT: usize = 1;
/// Threads of everything else.
const REST_THREADS_COUNT: usize = 2;
/// Longest wait for logs and records to be written at the end.
const FLUSH_MS_MAX: u64 = 5_000;

/// Runs the host until it is told to stop.
pub fn serve(args: &ServeArgs, format: Format) -> Result<()> {
    prepare_process(args)?;
    start_tracing(format);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // A `--dev` host that was told no place lives in a directory that goes when it goes.
    let passing = match (args.dev, &args.data) {
        (true, None) => Some(tempfile::tempdir().context("a temporary directory")?),
        _ => None,
    };
    let config = config::load(args, passing.as_ref().map(TempDir::path))?;
    let (io, class) = io_runtime(config.engine.io_class).context("threads for I/O")?;
    let crowds = crowd_runtime().context("a thread for crowds of connections")?;
    let rest = rest_runtime().context("threads for the control plane")?;
    let threads = IoThreads { handle: io.handle().clone(), class };
    let result = rest.block_on(run(&config, args, format, (&threads, crowds.handle())));
    rest.shutdown_timeout(Duration::from_secs(2));
    crowds.shutdown_timeout(Duration::from_secs(2));
    io.shutdown_timeout(Duration::from_secs(2));
    result
}

/// The threads of everything but the data plane: control plane, logs, audit, metering. What they seal and serialise must
/// not stand before a caller's request, so they are of the usual class, and others.
fn rest_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(REST_THREADS_COUNT)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Polls between two looks at sockets and at what other threads woke. The library's 61 are 10 ms of guests when a tenant's
/// flood keeps the queue full; a look costs a microsecond.
const POLLS_PER_LOOK: u32 = 8;

/// The threads that do I/O, as high in the kernel's scheduler as they may be, and how high that is.
fn io_runtime(best: IoClass) -> std::io::Result<(tokio::runtime::Runtime, Arc<LowestRung>)> {
    let lowest = Arc::new(LowestRung::default());
    let class = Arc::clone(&lowest);
    let runtime = lane("io", IO_THREADS_COUNT, move || lowest.note(raise_thread(best)))?;
    Ok((runtime, class))
}

/// The thread that does the I/O of a tenant whose connections are a crowd.
fn crowd_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    lane("crowds", CROWD_THREADS_COUNT, step_back)
}

fn lane(
    name: &str,
    threads_count: usize,
    begins: impl Fn() + Send + Sync + 'static,
) -> std::io::Result<tokio::runtime::Runtime> {
    // A runtime starts these threads first and threads for blocking work later, in the same way, which are as usual.
    let started = AtomicUsize::new(0);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads_count)
        .event_interval(POLLS_PER_LOOK)
        .global_queue_interval(POLLS_PER_LOOK)
        .thread_name(name)
        .on_thread_start(move || {
            if started.fetch_add(1, Ordering::Relaxed) < threads_count {
                begins();
            }
        })
        .enable_all()
        .build()
}

async fn run(config: &Config, args: &ServeArgs, format: Format, (io, crowds): (&IoThreads, &Handle)) -> Result<()> {
    let data = std::path::absolute(&config.store.path)?;
    private_dir(&data)?;
    let tls = Tls::open(&config.tls).context("`tls`")?;
    let tls_config = tls.as_ref().map(Tls::config);
    let (plugins, control) = bind(config, &io.handle).await?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    refuse_after_damage(&data.join("store"))?;
    let options = DiskOptions { backend: config.store.backend, ..DiskOptions::RECOMMENDED };
    let store = Store::open(&data.join("store"), options).context("the store does not open")?;
    // From here on what tells us to stop is kept until we look; before, it ends us, and nothing is lost.
    let mut signals = Signals::listen()?;
    let lock = lock_of(config, args, &store, (&clock, &entropy))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let [plugins_url, control_url] = [&plugins, &control].map(|port| format!("{scheme}://{}", port.address()));
    let ports = Ports { plugins: &plugins, control: &control, tls: tls_config.clone() };
    let tenants = tokio::select! {
        opened = lock.open(ports, || announce_locked(format, &plugins_url, &control_url)) => opened?,
        () = signals.stop() => return Ok(()),
    };
    let (certificate, acme) = certificate(config, tls.as_ref(), &tenants, &clock, &entropy).await?;
    let connections = [plugins.connections(), control.connections()];
    let plugins_address = plugins.address();
    let place = Place { data: &data, plugins_address, connections, certificate, io, store, tenants, clock, entropy };
    let (wired, detection) = wire(config, place).await?;
    record(&wired, codes::HOST_STARTED, "start-host").await.context("the audit log does not take the start")?;
    warn_of_unlocked_keys();
    let token_file = write_operator_token(&wired, &data).await?;

    let (stop, stopping) = watch::channel(false);
    let metering = tokio::spawn(wired.metering.clone().run(stopping.clone()));
    let quotas = tokio::spawn(wired.quotas.clone().run(stopping.clone()));
    let keeper = tokio::spawn(KeyKeeper::new(wired.control.clone()).run(stopping.clone()));
    let backups = tokio::spawn(wired.control.clone().run_backups(stopping.clone()));
    let workloads = tokio::spawn(wired.workloads.clone().run(stopping.clone(), warn_of_authority));
    let anchoring = tokio::spawn(wired.audit.clone().run_anchors(wired.anchors.clone(), stopping.clone()));
    let sweeping = tokio::spawn(wired.audit.clone().run_retention(stopping.clone()));
    let tending = tokio::spawn(wired.control.clone().tend(stopping.clone()));
    let policies = tokio::spawn(wired.control.clone().run(stopping.clone()));
    let assurance = tokio::spawn(wired.control.clone().run_assurance(stopping.clone()));
    // Listens before anything is found.
    let findings = Telling::begin(wired.threat.clone(), wired.identity.clone(), wired.clock.clone());
    let detection = tokio::spawn(detection.run(stopping.clone()));
    let router = ringfence_control::router(wired.control.clone()).map_request(with_peer);
    announce(format, &plugins_url, &control_url, &data, token_file.as_deref())?;
    keep_certificate(tls, acme, stopping.clone());
    let data_plane = io.handle.spawn(serve_port(
        plugins,
        tls_config.clone(),
        wired.gateway.clone(),
        stopping.clone(),
        Some(crowds.clone()),
    ));
    let control_plane = tokio::spawn(serve_port(control, tls_config, TowerToHyperService::new(router), stopping, None));

    signals.stop().await;
    tracing::info!("draining");
    let _ = stop.send(true);
    // Runs, queues, schedules and what leaves the host begin nothing more, and what they began has the time that open
    // requests have.
    let most = Duration::from_millis(limits::DRAIN_MS_MAX);
    let own = (wired.workflows.drain(most), wired.automation.drain(most), wired.outward.drain(most));
    let _ = tokio::join!(data_plane, control_plane, own.0, own.1, own.2);
    let _ = metering.await;
    let _ = quotas.await;
    let _ = keeper.await;
    // A backup that is being written is given up: it leaves nothing, and the next start makes it again.
    backups.abort();
    let _ = assurance.await;
    wired.control.flush_host_calls().await;
    wired.threat.flush_losses().await;
    // A round that waits for a witness is given up: the next start takes it up where the logs stand.
    anchoring.abort();
    // A sweep stops between two tiles, each of which goes whole or not at all.
    sweeping.abort();
    let _ = tending.await;
    let _ = policies.await;
    let _ = workloads.await;
    let _ = detection.await;
    findings.end(Duration::from_millis(FLUSH_MS_MAX)).await;
    // After all that refuses or ends sessions: a beat that is under way has taken what it writes.
    wired.control.flush_refusals().await;
    drain(&wired).await;
    tracing::info!("stopped");
    Ok(())
}

/// What opens the keys of a store. A root key is made for one that holds nothing yet and for no other, `--dev` or not: what a
/// store holds opens for the key that was made with it.
fn lock_of(
    config: &Config,
    args: &ServeArgs,
    store: &Store,
    (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
) -> Result<Lock> {
    let missing = match store.is_new().context("the store does not say whether it is new")? {
        true => MissingRootKey::Create,
        false => MissingRootKey::Refuse,
    };
    Ok(Lock {
        uri: config.keys.root.parse().context("`keys.root`")?,
        own: crate::config::own_keys(config)?,
        missing,
        is_dev: args.dev,
        store: store.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
    })
}

/// How the listeners' certificate stands, and who gets it where an authority is asked; what is kept is in use from here on.
async fn certificate(
    config: &Config,
    tls: Option<&Tls>,
    tenants: &Tenants,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Arc<CertificateHealth>, Option<Acme>)> {
    let Some(tls) = tls else { return Ok((Arc::default(), None)) };
    let current = tls.current();
    let acme = match config.tls.acme.is_on() {
        true => {
            let (settings, platform) = (config.tls.acme.clone(), tenants.platform().clone());
            Some(Acme::open(settings, platform, clock.clone(), entropy.clone(), current.clone()).await?)
        }
        false => None,
    };
    Ok((current.health().clone(), acme))
}

/// Keeps the listeners' certificate as it should be, until `stop` turns true.
fn keep_certificate(tls: Option<Tls>, acme: Option<Acme>, stop: watch::Receiver<bool>) {
    match (tls, acme) {
        (_, Some(acme)) => drop(tokio::spawn(acme.run(stop))),
        (Some(tls), None) => drop(tokio::spawn(tls.follow(stop))),
        (None, None) => {}
    }
}

/// Tells the control plane in its own word where a request comes from.
fn with_peer(mut request: http::Request<hyper::body::Incoming>) -> http::Request<hyper::body::Incoming> {
    if let Some(peer) = request.extensions().get::<Peer>().copied() {
        request.extensions_mut().insert(PeerAddress(peer.0.ip()));
    }
    request
}

/// Both ports, each on the runtime that serves it.
async fn bind(config: &Config, io: &Handle) -> Result<(Listening, Listening)> {
    let listen = &config.listen;
    let plugins = io.spawn(Listening::bind(listen.plugins)).await?;
    let plugins = plugins.with_context(|| format!("cannot listen on {} for plugins", listen.plugins))?;
    let control = Listening::bind(listen.control).await;
    let control = control.with_context(|| format!("cannot listen on {} for the control plane", listen.control))?;
    Ok((plugins, control))
}

fn warn_of_authority(error: &IdentityError) {
    tracing::error!(%error, "the next authority of workload certificates is not made");
}

fn warn_of_unlocked_keys() {
    let memory = ringfence_keys::locked_memory();
    if memory.refused_count > 0 {
        let (refused, locked) = (memory.refused_count, memory.locked_count);
        tracing::warn!(refused, locked, "not all keys are kept out of the swap; see `ringfence doctor`");
    }
}

/// Puts a step of the host's life on its own log.
async fn record(wired: &Wired, code: &'static str, action: &'static str) -> Result<(), AuditError> {
    let mut event = Event::new(code, action, wired.audit.actor(), "host");
    event.details = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
    wired.audit.record(&Log::Host, event).await.map(drop)
}

/// Writes everything that is still in memory, and closes the store.
async fn drain(wired: &Wired) {
    let all = async {
        wired.logs.flush().await;
        if let Err(error) = record(wired, codes::HOST_STOPPED, "stop-host").await {
            tracing::error!(%error, "the audit log does not say that the host stopped in order");
        }
        if let Err(error) = wired.audit.flush().await {
            tracing::error!(%error, "the audit log is not complete");
        }
        wired.metering.flush().await;
        wired.quotas.flush().await;
        if let Err(error) = wired.store.clone().close().await {
            tracing::error!(%error, "the store did not close in order; it mends itself at the next start");
        }
    };
    if tokio::time::timeout(Duration::from_millis(FLUSH_MS_MAX), all).await.is_err() {
        tracing::error!("the drain took too long and was cut");
    }
}

/// The signals that a host heeds. One that comes while nobody waits is kept.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    file_limit: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            file_limit: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Waits until the host is told to stop.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.file_limit.recv() => tracing::error!("a file reached the process's size limit; writes fail"),
            }
        }
    }
}

/// No core files, which would hold keys; and nobody of this account reads them out of our memory, but on a host that somebody
/// develops with. For every verb that opens the root key.
pub fn forbid_dumps(dev: bool) -> Result<()> {
    ringfence_keys::forbid_core_files().context("core files off")?;
    if !dev {
        ringfence_keys::forbid_debuggers().context("dumps of memory off")?;
    }
    Ok(())
}

/// Memory that stays here, files for this account only, as many descriptors as we may have.
fn prepare_process(args: &ServeArgs) -> Result<()> {
    // First: where dumps are forbidden, an account that is not root may not ask any more, and the answer is kept.
    let _ = Recycling::of_this_process();
    forbid_dumps(args.dev)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    let locked = rustix::process::getrlimit(Resource::Memlock);
    let _ = setrlimit(Resource::Memlock, Rlimit { current: locked.maximum, maximum: locked.maximum });
    Ok(())
}

fn start_tracing(format: Format) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGFENCE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,ringfence=info"));
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !is_plain && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let _ = match format {
        Format::Json => builder.json().try_init(),
        Format::Text => builder.compact().with_target(false).try_init(),
    };
}

/// Makes a directory that only this account can enter.
pub fn private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make `{}`", path.display()))
}

async fn write_operator_token(wired: &Wired, data: &Path) -> Result<Option<PathBuf>> {
    let path = data.join("operator.token");
    let Some(token) = wired.identity.bootstrap_token().await? else {
        let _ = std::fs::remove_file(&path);
        return Ok(None);
    };
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    file.write_all(token.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(Some(path))
}

/// Says that both ports answer, and that nothing is served until the root key provider does.
fn announce_locked(format: Format, plugins: &str, control: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            writeln!(out, "{}", serde_json::json!({ "event": "locked", "plugins": plugins, "control": control }))?;
        }
        Format::Text => writeln!(out, "  locked   {control}/readyz says what is missing")?,
    }
    out.flush()?;
    Ok(())
}

fn announce(format: Format, plugins: &str, control: &str, data: &Path, token_file: Option<&Path>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            let line = serde_json::json!({
                "event": "ready",
                "plugins": plugins,
                "control": control,
                "data": data,
                "operator_token_file": token_file,
            });
            writeln!(out, "{line}")?;
        }
        Format::Text => {
            writeln!(out, "  plugins  {plugins}")?;
            writeln!(out, "  control  {control}")?;
            writeln!(out, "  data     {}", data.display())?;
            if let Some(file) = token_file {
                writeln!(out, "  sign in  ringfence login --host {control} --token-file {}", file.display())?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
