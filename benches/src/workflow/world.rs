//! The rooms that runs, messages and schedules walk through, opened in this process over a data directory that a host made:
//! the same store, engine, policy, audit log and metering, wired as the host wires them, without its two ports.
//!
//! Must never leave a room out that the host's own walk passes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ringfence_audit::{Audit, HostDenials, Metering};
use ringfence_automation::workflow::{Workflows, WorkflowsParts};
use ringfence_automation::{Automation, AutomationParts};
use ringfence_capabilities::{Capabilities, CapabilitiesConfig, EgressConfig, GuestLogs, Quotas};
use ringfence_core::{Budget, Ceiling, Clock, Entropy, Plans, PrincipalId, Standing, TenantId};
use ringfence_engine::{CompileConfig, CompileLimits, Engine, EngineConfig, GuestSetup, IoClass};
use ringfence_identity::{Identity, IdentityConfig, NoProviders};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_policy::{Policy, Standing as PolicyStanding, TenantFacts};
use ringfence_registry::{Registry, Rehearsal};
use ringfence_store::{DiskOptions, Store, TenantStore, Tenants};
use ringfence_threat::Threat;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::ambient::{SystemClock, SystemEntropy};

/// The host's usual settings.
const SLOTS_COUNT: u32 = 128;
const MEMORY_BYTES_MAX: u64 = 256 << 20;
const HOST_NAME: &str = "ringfence";

/// A tenant of the data directory.
#[derive(Clone)]
pub struct Tenant {
    /// Its name.
    pub id: TenantId,
    /// Its store.
    pub store: TenantStore,
    /// Somebody of it.
    pub by: PrincipalId,
}

/// The rooms, open and at work.
pub struct World {
    /// Its tenants, by name.
    pub tenants: Vec<Tenant>,
    /// Hooks, queues, schedules.
    pub automation: Automation,
    /// Durable workflows.
    pub workflows: Workflows,
    audit: Audit,
    metering: Metering,
    store: Store,
    stop: watch::Sender<bool>,
}

impl World {
    /// Opens what lies in a data directory that no host has open, and lets it work. `io` is the runtime of guests' I/O; it
    /// must be called inside the other one.
    pub async fn open(data: &Path, io: &Handle) -> Result<Self> {
        Self::open_with(data, io, DiskOptions::RECOMMENDED).await
    }

    /// The same over a store that runs otherwise.
    pub async fn open_with(data: &Path, io: &Handle, options: DiskOptions) -> Result<Self> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let root = RootKey::open_or_create(&RootKeyUri::File(data.join("root.key")), &SystemEntropy)?;
        let store = Store::open(&data.join("store"), options)?;
        let tenants = Tenants::open(store.clone(), Arc::new(root), entropy.clone(), clock.clone()).await?;
        let audit = Audit::open(tenants.clone(), clock.clone(), entropy.clone(), HOST_NAME.to_owned()).await?;
        let metering = Metering::open(tenants.clone(), audit.clone(), clock.clone()).await?;
        let engine = engine(data, io, &entropy)?;
        let (policy, quotas) = policy_and_quotas(&tenants, &engine, &clock, &entropy).await?;
        let rehearsal: Rehearsal = Arc::new(|| GuestSetup::bare(Budget::REHEARSAL));
        let standing: Arc<Standing> = Arc::default();
        let capabilities = CapabilitiesConfig {
            egress: EgressConfig::strict(),
            io: io.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
        };
        let (log, times, dice) = (audit.clone(), clock.clone(), entropy.clone());
        let (_threat, detection) = Threat::open(tenants.clone(), log, times, dice, Arc::clone(&standing)).await?;
        let automation = Automation::new(AutomationParts {
            tenants: tenants.clone(),
            identity: identity(&tenants, &clock, &entropy).await?,
            policy,
            registry: Registry::open(tenants.clone(), engine.clone(), rehearsal, clock.clone(), None).await?,
            engine,
            capabilities: Arc::new(Capabilities::new(capabilities)?),
            quotas: quotas.clone(),
            logs: GuestLogs::new(clock.clone(), Handle::current()),
            audit: audit.clone(),
            metering: metering.clone(),
            standing,
            denials: HostDenials::new(audit.clone(), clock.clone()),
            clock: clock.clone(),
            entropy: entropy.clone(),
        });
        let workflows = Workflows::new(WorkflowsParts {
            tenants: tenants.clone(),
            runner: Arc::new(automation.clone()),
            audit: audit.clone(),
            clock,
            entropy,
        });
        workflows.go_on_with_all().await?;
        automation.start().await?;
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(metering.clone().run(stopping.clone()));
        tokio::spawn(quotas.run(stopping.clone()));
        tokio::spawn(detection.run(stopping));
        Ok(Self { tenants: of(&tenants).await?, automation, workflows, audit, metering, store, stop })
    }

    /// Writes what is still in memory and lets go of the directory.
    pub async fn close(self) -> Result<()> {
        self.stop.send_replace(true);
        self.audit.flush().await?;
        self.metering.flush().await;
        self.store.close().await?;
        Ok(())
    }
}

async fn of(tenants: &Tenants) -> Result<Vec<Tenant>> {
    let mut found = Vec::new();
    for record in tenants.list().await? {
        let store = tenants.open_tenant(&record.id).context("a tenant that does not open")?;
        found.push(Tenant { by: format!("{}/admin", record.id).parse()?, id: record.id, store });
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

async fn identity(tenants: &Tenants, clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> Result<Identity> {
    let config = IdentityConfig {
        issuer: HOST_NAME.to_owned(),
        origin: None,
        second_person_hours: 24,
        verifiers: Vec::new(),
        fetch: Arc::new(NoProviders),
    };
    let (platform, clock, entropy) = (tenants.platform().clone(), clock.clone(), entropy.clone());
    Ok(Identity::open(platform, tenants.clone(), clock, entropy, config).await?)
}

/// Every tenant as it was made: without a policy of its own, and on the standard plan.
async fn policy_and_quotas(
    tenants: &Tenants,
    engine: &Engine,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Policy, Quotas)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let ceiling = Ceiling { cores_count: u32::try_from(cores)?, slots_count: SLOTS_COUNT / 4 };
    let quotas = Quotas::new(Plans::new(&BTreeMap::new(), ceiling)?, engine.clone(), clock.clone());
    let policy = Policy::new(entropy.clone(), clock.clone())?;
    for record in tenants.list().await? {
        let store = tenants.open_tenant(&record.id).context("a tenant that does not open")?;
        quotas.open(&store, &record.quota).await?;
        policy.upsert_tenant(&record.id, TenantFacts { suspended: PolicyStanding::Active }, None)?;
    }
    Ok((policy, quotas))
}

fn engine(data: &Path, io: &Handle, entropy: &Arc<dyn Entropy>) -> Result<Engine> {
    let cache = cap_std::fs::Dir::open_ambient_dir(data.join("native"), cap_std::ambient_authority())?;
    let config = EngineConfig {
        worker_threads: std::thread::available_parallelism().map_or(1, usize::from),
        slots: SLOTS_COUNT,
        memory_bytes_max: MEMORY_BYTES_MAX,
        guests_bytes_max: u64::from(SLOTS_COUNT) * MEMORY_BYTES_MAX,
        compile: CompileConfig {
            program: ringfence_tests::ringfence()?,
            args: vec!["compile-child".to_owned()],
            limits: CompileLimits::HOST,
        },
        cache,
        io: io.clone(),
        io_class: IoClass::ShortSlice,
        entropy: entropy.clone(),
    };
    Ok(Engine::new(config, ringfence_capabilities::link)?)
}
