//! Puts the rooms together, bottom up. Reads like the table of ARCHITECTURE.md: keys, store, audit, identity, policy,
//! engine, capabilities, registry, then the two planes.
//!
//! Must never start to serve before every room is open: a host that comes up half is worse than one that says why not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use ringfence_audit::anchor::Anchors;
use ringfence_audit::{Audit, HostDenials, Metering, Paced};
use ringfence_automation::workflow::{Workflows, WorkflowsParts};
use ringfence_automation::{Automation, AutomationParts};
use ringfence_capabilities::http::SystemResolver;
use ringfence_capabilities::{
    Capabilities, CapabilitiesConfig, CapabilitiesError, Certificates, EgressConfig, FieldRules, GuestLogs, Quotas,
};
use ringfence_control::{CertificateHealth, Control, ControlParts, HostFacts, stored_policy};
use ringfence_core::limits::WORKERS_COUNT_MAX;
use ringfence_core::{Budget, Clock, Entropy, PluginName, Standing as ThreatStanding, TenantId};
use ringfence_engine::scheduler::class::LowestRung;
use ringfence_engine::{CompileConfig, CompileLimits, Engine, EngineConfig, GuestSetup};
use ringfence_gateway::{Gateway, GatewayParts};
use ringfence_identity::{Identity, IdentityConfig, Workloads};
use ringfence_keys::RootKey;
use ringfence_outward::{Outward, OutwardParts, Pace, Reach};
use ringfence_policy::{Policy, Standing, StoredPolicy};
use ringfence_registry::{Registry, Rehearsal};
use ringfence_store::backup::Archives;
use ringfence_store::{Store, TenantState, Tenants};
use ringfence_threat::{Reader, Threat};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::provider_fetch::ProviderFetch;

/// Name of this host in tokens and audit logs.
pub const HOST_NAME: &str = "ringfence";
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// The rooms, open, and the two planes over them.
pub struct Wired {
    /// The data plane.
    pub gateway: Gateway,
    /// The control plane.
    pub control: Control,
    /// For the enrolment token.
    pub identity: Identity,
    /// For its anchors, and for the drain.
    pub audit: Audit,
    /// Who else keeps or signs the heads of the logs.
    pub anchors: Anchors,
    /// For the drain.
    pub automation: Automation,
    /// For the drain.
    pub workflows: Workflows,
    /// For the drain.
    pub outward: Outward,
    /// The certificates of plugins, whose authorities turn.
    pub workloads: Workloads,
    /// Finds what trust scores are told of.
    pub threat: Threat,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// For the drain.
    pub metering: Metering,
    /// Keeps what tenants use of a day, and for the drain.
    pub quotas: Quotas,
    /// For the drain.
    pub logs: GuestLogs,
    /// For the drain.
    pub store: Store,
}

/// What only the start knows.
pub struct Place<'a> {
    /// The data directory.
    pub data: &'a Path,
    /// Where the data plane listens.
    pub plugins_address: std::net::SocketAddr,
    /// How many connections are open, of the data plane and the control plane.
    pub connections: [Arc<AtomicU64>; 2],
    /// How the certificate of both stands.
    pub certificate: Arc<CertificateHealth>,
    /// The threads of the data plane.
    pub io: &'a IoThreads,
    /// The open store.
    pub store: Store,
    /// The tenants with their keys.
    pub tenants: Tenants,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
}

/// The threads that do the I/O of the data plane.
pub struct IoThreads {
    /// Their runtime.
    pub handle: Handle,
    /// What the kernel granted them.
    pub class: Arc<LowestRung>,
}

/// The rooms that invocations walk through, open.
struct Rooms {
    tenants: Tenants,
    identity: Identity,
    policy: Policy,
    registry: Registry,
    engine: Engine,
    capabilities: Arc<Capabilities>,
    workloads: Workloads,
    quotas: Quotas,
    fields: FieldRules,
    logs: GuestLogs,
    audit: Audit,
    denials: HostDenials,
    refusals: Paced,
    metering: Metering,
    standing: Arc<ThreatStanding>,
    reach: Reach,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// Opens every room. What detects threats reads along beside the calls.
pub async fn wire(config: &Config, place: Place<'_>) -> Result<(Wired, Reader)> {
    let store = place.store.clone();
    let facts = facts(config, &place);
    // Before any room reads a tenant's records: a restore that was cut is carried on first.
    let archives = open_archives(config, place.data, &place.entropy, &place.clock)?;
    archives.resume(&place.tenants).await?;
    let anchors = crate::anchors::anchors(&config.audit)?;

    let io = place.io.handle.clone();
    let rooms = open_rooms(config, place).await?;
    let (threat, detection) = detection(&rooms).await?;
    let (tenants, clock) = (rooms.tenants.clone(), rooms.clock.clone());
    let automation = automation(&rooms);
    let workflows = workflows(&rooms, &automation);
    let outward = outward(config, &rooms, &threat)?;
    let gateway = gateway(&rooms, &io);
    rooms.capabilities.set_exchange(Arc::new(gateway.clone()));
    let control = Control::new(ControlParts {
        store: store.clone(),
        tenants: rooms.tenants.clone(),
        identity: rooms.identity.clone(),
        policy: rooms.policy,
        registry: rooms.registry,
        engine: rooms.engine,
        quotas: rooms.quotas.clone(),
        fields: rooms.fields,
        host_calls: rooms.capabilities.host_calls(),
        logs: rooms.logs.clone(),
        audit: rooms.audit.clone(),
        refusals: rooms.refusals.clone(),
        metering: rooms.metering.clone(),
        threat: threat.clone(),
        outward: outward.clone(),
        workloads: rooms.workloads.clone(),
        archives,
        automation: automation.clone(),
        workflows: workflows.clone(),
        backup_plan: crate::config::backup_plan(config)?,
        clock: rooms.clock,
        entropy: rooms.entropy,
        facts,
    });
    let wired = Wired {
        gateway,
        control,
        identity: rooms.identity,
        audit: rooms.audit,
        anchors,
        automation,
        workflows,
        outward,
        workloads: rooms.workloads,
        threat,
        clock,
        metering: rooms.metering,
        quotas: rooms.quotas,
        logs: rooms.logs,
        store,
    };
    begin(&wired, &tenants).await?;
    Ok((wired, detection))
}

/// Goes on with what tenants had begun. The listeners come after it.
async fn begin(wired: &Wired, tenants: &Tenants) -> Result<()> {
    // Before anything of a tenant is begun, here or by a caller.
    wired.control.read_assurance().await?;
    // Until here the rooms read what they keep in memory; from here on disabled keys are not.
    tenants.close_disabled().await?;
    wired.workflows.open_to_guests(&wired.automation);
    wired.workflows.go_on_with_all().await?;
    wired.automation.start().await?;
    wired.outward.start().await?;
    Ok(())
}

/// Detection, and what reads the logs for it.
async fn detection(rooms: &Rooms) -> Result<(Threat, Reader)> {
    let (tenants, audit) = (rooms.tenants.clone(), rooms.audit.clone());
    let (clock, entropy) = (rooms.clock.clone(), rooms.entropy.clone());
    Ok(Threat::open(tenants, audit, clock, entropy, Arc::clone(&rooms.standing)).await?)
}

fn workflows(rooms: &Rooms, automation: &Automation) -> Workflows {
    let workflows = Workflows::new(WorkflowsParts {
        tenants: rooms.tenants.clone(),
        runner: Arc::new(automation.clone()),
        audit: rooms.audit.clone(),
        clock: rooms.clock.clone(),
        entropy: rooms.entropy.clone(),
    });
    let quotas = rooms.quotas.clone();
    workflows.set_retention(Box::new(move |tenant| {
        let days = quotas.of(tenant)?.quota().run_retention_days;
        Some(days.saturating_mul(DAY_MS))
    }));
    workflows
}

async fn open_rooms(config: &Config, place: Place<'_>) -> Result<Rooms> {
    let Place { data, io, tenants, clock, entropy, .. } = place;
    let entries = crate::anchors::entries(&config.audit, data, tenants.platform(), &*entropy).await?;
    let audit =
        Audit::open_with(tenants.clone(), clock.clone(), entropy.clone(), HOST_NAME.to_owned(), entries).await?;
    audit.set_terms(crate::anchors::terms(&config.audit)?);
    let allow_private = config.egress.allow_private.iter().map(|range| range.parse()).collect::<Result<Vec<_>, _>>();
    let allow_private = allow_private.context("`egress.allow_private`")?;
    let reach = Reach::new(Arc::new(SystemResolver), allow_private.clone()).context("TLS towards the outside")?;
    let identity = Identity::open(
        tenants.platform().clone(),
        tenants.clone(),
        clock.clone(),
        entropy.clone(),
        IdentityConfig {
            issuer: HOST_NAME.to_owned(),
            origin: Some(config.identity.origin.clone()).filter(|origin| !origin.is_empty()),
            second_person_hours: config.identity.second_person_hours,
            verifiers: Vec::new(),
            fetch: Arc::new(ProviderFetch::new(reach.clone())),
        },
    )
    .await?;
    let policy = open_policy(&tenants, &entropy, &clock).await?;
    let known = identity.clone();
    policy.set_devices(Box::new(move |principal| known.device_of(principal)));
    let known = identity.clone();
    policy.set_scores(Box::new(move |principal, from, called| {
        let score = match called {
            Some(called) => known.score_of_call(principal, from, called),
            None => known.score(principal, from),
        };
        score.ok().map(|score| score.value)
    }));
    let engine = open_engine(config, data, &io.handle, &entropy)?;
    let capabilities = Capabilities::new(CapabilitiesConfig {
        egress: EgressConfig { allow_private, extra_roots: extra_roots(config)?, ..EgressConfig::strict() },
        io: io.handle.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
    })?;
    let trust_domain = config.identity.trust_domain.clone();
    let workloads = Workloads::open(tenants.platform().clone(), clock.clone(), trust_domain).await?;
    capabilities.set_certificates(Arc::new(Shown(workloads.clone())));
    let quotas = open_quotas(config, &tenants, &engine, &clock).await?;
    let logs = GuestLogs::new(clock.clone(), Handle::current());
    let rehearsal: Rehearsal = Arc::new(|| GuestSetup::bare(Budget::REHEARSAL));
    let domain = Some(config.listen.domain.clone()).filter(|domain| !domain.is_empty());
    let registry = Registry::open(tenants.clone(), engine.clone(), rehearsal, clock.clone(), domain).await?;
    let metering = Metering::open(tenants.clone(), audit.clone(), clock.clone()).await?;
    Ok(Rooms {
        tenants,
        identity,
        policy,
        registry,
        engine,
        capabilities: Arc::new(capabilities),
        workloads,
        quotas,
        fields: FieldRules::default(),
        logs,
        denials: HostDenials::new(audit.clone(), clock.clone()),
        refusals: Paced::new(audit.clone(), clock.clone()),
        audit,
        metering,
        standing: Arc::default(),
        reach,
        clock,
        entropy,
    })
}

/// Gives guests' connections the certificates of their plugins.
struct Shown(Workloads);

impl Certificates for Shown {
    fn certificate(&self, tenant: &TenantId, plugin: &PluginName) -> Option<Arc<rustls::sign::CertifiedKey>> {
        let made = self.0.certificate(tenant, plugin).inspect_err(|error| {
            tracing::error!(%tenant, %plugin, %error, "there is no certificate for a plugin");
        });
        made.ok().map(|svid| svid.certified)
    }
}

/// The operator's own roots for outgoing requests of guests.
fn extra_roots(config: &Config) -> Result<Vec<CertificateDer<'static>>> {
    let mut roots = Vec::new();
    for path in &config.egress.roots {
        let text = crate::tls::capped(path)?;
        let read: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|_| anyhow::anyhow!("`{}` is not a PEM file of certificates", path.display()))?;
        if read.is_empty() {
            anyhow::bail!("`{}` holds no certificate", path.display());
        }
        roots.extend(read);
    }
    Ok(roots)
}

fn automation(rooms: &Rooms) -> Automation {
    Automation::new(AutomationParts {
        tenants: rooms.tenants.clone(),
        identity: rooms.identity.clone(),
        policy: rooms.policy.clone(),
        registry: rooms.registry.clone(),
        engine: rooms.engine.clone(),
        capabilities: Arc::clone(&rooms.capabilities),
        quotas: rooms.quotas.clone(),
        logs: rooms.logs.clone(),
        audit: rooms.audit.clone(),
        metering: rooms.metering.clone(),
        standing: Arc::clone(&rooms.standing),
        denials: rooms.denials.clone(),
        clock: rooms.clock.clone(),
        entropy: rooms.entropy.clone(),
    })
}

fn outward(config: &Config, rooms: &Rooms, threat: &Threat) -> Result<Outward> {
    Ok(Outward::new(OutwardParts {
        tenants: rooms.tenants.clone(),
        audit: rooms.audit.clone(),
        threat: threat.clone(),
        reach: rooms.reach.clone(),
        mailer: crate::mail::mailer(&config.mail)?,
        pace: Pace::HOST,
        clock: rooms.clock.clone(),
        entropy: rooms.entropy.clone(),
    }))
}

fn gateway(rooms: &Rooms, io: &Handle) -> Gateway {
    let _in_its_runtime = io.enter();
    Gateway::new(GatewayParts {
        registry: rooms.registry.clone(),
        identity: rooms.identity.clone(),
        policy: rooms.policy.clone(),
        engine: rooms.engine.clone(),
        capabilities: Arc::clone(&rooms.capabilities),
        quotas: rooms.quotas.clone(),
        fields: rooms.fields.clone(),
        logs: rooms.logs.clone(),
        audit: rooms.audit.clone(),
        denials: rooms.denials.clone(),
        refusals: rooms.refusals.clone(),
        metering: rooms.metering.clone(),
        standing: Arc::clone(&rooms.standing),
        clock: rooms.clock.clone(),
        entropy: rooms.entropy.clone(),
    })
}

fn facts(config: &Config, place: &Place<'_>) -> HostFacts {
    let root = place.tenants.root();
    HostFacts {
        plugins_address: place.plugins_address,
        connections: place.connections.clone(),
        io_class: Arc::clone(&place.io.class),
        certificate: Arc::clone(&place.certificate),
        store_backend: config.store.backend.name(),
        root_key: format!("{} ({})", root.id(), assurance(root)),
        root_key_assurance: root.assurance(),
        destroy_delay_seconds: config.keys.destroy_delay_hours.saturating_mul(3_600),
        operator_token_file: Some(place.data.join("operator.token")),
        cvc5: find_on_path("cvc5"),
    }
}

/// A program on this account's path, if it is there.
fn find_on_path(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// A damaged store was set aside at an earlier start. Coming up empty then would look like every tenant had gone, and a
/// service manager that restarts us would do just that.
pub fn refuse_after_damage(dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("quarantine-") {
            anyhow::bail!(
                "a damaged store lies in `{}`: recover what opens of it with `ringfence store salvage`, restore a backup, or \
                 move that directory elsewhere to begin empty",
                entry.path().display()
            );
        }
    }
    Ok(())
}

/// How well the root key is kept, in a word.
pub fn assurance(root: &RootKey) -> &'static str {
    match root.assurance() {
        ringfence_keys::Assurance::Development => "file, for development",
        ringfence_keys::Assurance::Service => "kept by a service",
        ringfence_keys::Assurance::Hardware => "kept by a token",
    }
}

async fn open_policy(tenants: &Tenants, entropy: &Arc<dyn Entropy>, clock: &Arc<dyn Clock>) -> Result<Policy> {
    let policy = Policy::new(entropy.clone(), clock.clone())?;
    for record in tenants.list().await? {
        let Some(store) = tenants.open_tenant(&record.id) else { continue };
        let standing = match record.state {
            TenantState::Active => Standing::Active,
            TenantState::Suspended => Standing::Suspended,
        };
        // A tenant that is locked has nobody who could ask; its operators do, and are told.
        let stored = match store.check_keys() {
            Ok(()) => match stored_policy(&store).await {
                Err(error) if tenants.shut_damaged(&record.id, &error) => StoredPolicy::default(),
                stored => stored.with_context(|| format!("the policy of tenant `{}`", record.id))?,
            },
            Err(_) => StoredPolicy::default(),
        };
        if let Err(unfit) = policy.put_into_force(&record.id, standing, stored) {
            tenants.shut_unfit(&record.id, &unfit);
            // Known all the same, as one that says nothing: its operators mend it or delete it.
            if let Err(error) = policy.put_into_force(&record.id, standing, StoredPolicy::default()) {
                tracing::error!(tenant = %record.id, %error, "a tenant that is locked is not known to its operators");
            }
        }
    }
    Ok(policy)
}

/// Every tenant's quota and standing, in force before the first call.
async fn open_quotas(config: &Config, tenants: &Tenants, engine: &Engine, clock: &Arc<dyn Clock>) -> Result<Quotas> {
    let quotas = Quotas::new(crate::config::plans(config)?, engine.clone(), clock.clone());
    for record in tenants.list().await? {
        // Also where it is locked: whoever opens its keys does not resume it.
        if record.state == TenantState::Suspended {
            engine.scheduler().suspend(&record.id);
        }
        let Some(store) = tenants.open_readable(&record.id) else { continue };
        match quotas.open(&store, &record.quota).await {
            Err(CapabilitiesError::Store(error)) if tenants.shut_damaged(&record.id, &error) => {}
            opened => opened.with_context(|| format!("the quota of tenant `{}`", record.id))?,
        }
    }
    Ok(quotas)
}

/// The compile child is this very program, under another verb.
pub fn compile_config() -> Result<CompileConfig> {
    Ok(CompileConfig {
        program: std::env::current_exe().context("this program's own path")?,
        args: vec!["compile-child".to_owned()],
        limits: CompileLimits {
            memory_bytes: crate::machine::compile_bytes(crate::machine::memory_bytes()),
            ..CompileLimits::HOST
        },
    })
}

/// The directory of the backups; made when it is not there, unless the operator named it: a disk that is not mounted must
/// not be mistaken for an empty one.
fn open_archives(config: &Config, data: &Path, entropy: &Arc<dyn Entropy>, clock: &Arc<dyn Clock>) -> Result<Archives> {
    let path = match config.backup.path.as_os_str().is_empty() {
        true => data.join("backups"),
        false => config.backup.path.clone(),
    };
    if config.backup.path.as_os_str().is_empty() {
        crate::serve::private_dir(&path)?;
    }
    let dir = Dir::open_ambient_dir(&path, ambient_authority())
        .with_context(|| format!("`backup.path` = `{}` does not open", path.display()))?;
    Ok(Archives::open(dir, entropy.clone(), clock.clone())?)
}

fn open_engine(config: &Config, data: &Path, io: &Handle, entropy: &Arc<dyn Entropy>) -> Result<Engine> {
    let path = data.join("native");
    crate::serve::private_dir(&path)?;
    let cache = Dir::open_ambient_dir(&path, ambient_authority()).context("the native-code cache does not open")?;
    let cores = crate::machine::cores();
    if config.engine.workers == 0 && cores > WORKERS_COUNT_MAX {
        tracing::warn!(cores, "guests run on {WORKERS_COUNT_MAX} cores at most");
    }
    let engine = Engine::new(
        EngineConfig {
            worker_threads: crate::machine::guest_workers(&config.engine),
            slots: config.engine.slots,
            memory_bytes_max: config.engine.memory_mib_max << 20,
            guests_bytes_max: crate::machine::guests_bytes(&config.engine),
            compile: compile_config()?,
            cache,
            io: io.clone(),
            io_class: config.engine.io_class,
            entropy: entropy.clone(),
        },
        ringfence_capabilities::link,
    )?;
    Ok(engine)
}
