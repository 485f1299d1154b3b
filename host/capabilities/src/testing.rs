//! A tenant, a plugin and a log for the tests of this room.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use ringfence_core::quota::DayUse;
use ringfence_core::{
    Budget, Capability, Clock, DecisionId, Entropy, Grant, Grants, HostAct, HostCall, InvocationId, On, Principal,
    PrincipalKind, Quota, Strength,
};
use ringfence_engine::{HostMemory, Meter};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Store, TenantStore, Tenants};
use wasmtime::component::ResourceTable;

use crate::bind::{Bound, View};
use crate::calls::Chain;
use crate::grants::LiveGrants;
use crate::logging::Notebook;
use crate::logs::{GuestLog, LogLine};
use crate::overseer::{Forbidden, Leave, Overseer};
use crate::pii::{Opening, Personal, Witness};
use crate::quota::Ledger;

/// Random bytes that are not: a counter, good enough to tell records apart.
pub(crate) struct Counter(AtomicI64);

impl Entropy for Counter {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

/// Dice that all show the same.
pub(crate) struct Same(pub(crate) u8);

impl Entropy for Same {
    fn fill(&self, into: &mut [u8]) {
        into.fill(self.0);
    }
}

/// A clock that stands at one minute past the epoch.
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs(60)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// A clock that stands until it is moved on.
#[derive(Default)]
pub(crate) struct Moved(AtomicI64);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.monotonic()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(60 + self.0.load(Ordering::Relaxed).unsigned_abs())
    }
}

/// A log that can be read at once.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<LogLine>>);

impl Lines {
    pub(crate) fn messages(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|line| line.message.clone()).collect()
    }
}

impl GuestLog for Lines {
    fn line(&self, line: LogLine) {
        self.0.lock().unwrap().push(line);
    }
}

/// A witness that can be asked what it heard, and made to fail.
#[derive(Default)]
pub(crate) struct Sworn(Mutex<(Vec<Opening>, bool)>, Mutex<Vec<crate::Tried>>, Mutex<Vec<crate::PluginEvent>>);

impl Sworn {
    pub(crate) fn all(&self) -> Vec<Opening> {
        self.0.lock().unwrap().0.clone()
    }
    pub(crate) fn tried(&self) -> Vec<crate::Tried> {
        self.1.lock().unwrap().clone()
    }
    pub(crate) fn events(&self) -> Vec<crate::PluginEvent> {
        self.2.lock().unwrap().clone()
    }
    pub(crate) fn fail(&self) {
        self.0.lock().unwrap().1 = true;
    }
}

impl Witness for Sworn {
    fn opening(&self, opening: Opening) -> futures::future::BoxFuture<'static, bool> {
        let mut heard = self.0.lock().unwrap();
        heard.0.push(opening);
        Box::pin(std::future::ready(!heard.1))
    }

    fn tried(&self, tried: crate::Tried) {
        self.1.lock().unwrap().push(tried);
    }

    fn event(
        &self,
        event: crate::PluginEvent,
    ) -> futures::future::BoxFuture<'static, Result<u64, crate::EventRefused>> {
        let failing = self.0.lock().unwrap().1;
        let mut events = self.2.lock().unwrap();
        events.push(event);
        let seq = events.len() as u64;
        Box::pin(std::future::ready(if failing { Err(crate::EventRefused::Unavailable) } else { Ok(seq) }))
    }
}

/// Policy that forbids what it was told to, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Strict {
    forbidden: Mutex<Vec<HostAct>>,
    asked: Mutex<Vec<(HostAct, String)>>,
}

impl Strict {
    pub(crate) fn forbid(&self, acts: &[HostAct]) {
        *self.forbidden.lock().unwrap() = acts.to_vec();
    }

    /// What was asked since this was asked last.
    pub(crate) fn asked(&self) -> Vec<(HostAct, String)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Overseer for Strict {
    fn ask(&self, call: &HostCall<'_>) -> Result<(), Forbidden> {
        let on = match call.on {
            On::Value { bucket, key } => format!("{bucket} {key}"),
            On::Object { container, name } => format!("{container} {name}"),
            On::Directory => String::new(),
            On::Secret(name) | On::Queue(name) => name.to_string(),
            On::Outside { scheme, host, port, method, path } => format!("{method} {scheme} {host} {port} {path}"),
            On::Plugin { plugin, method, path } => format!("{method} {plugin} {path}"),
            On::Workflow { plugin, workflow } => format!("{plugin}/{workflow}"),
            On::Field(name) => name.to_owned(),
        };
        self.asked.lock().unwrap().push((call.act, on));
        if self.forbidden.lock().unwrap().contains(&call.act) {
            return Err(Forbidden { decision: Some(DecisionId::random(&Counter(AtomicI64::new(1)))) });
        }
        Ok(())
    }
}

/// An invocation that no plugin called, on nobody's behalf.
#[expect(clippy::disallowed_methods, reason = "these tests need somebody, and prove nothing about him")]
pub(crate) fn root_chain() -> Chain {
    let (kind, strength) = (PrincipalKind::Anonymous, Strength::None);
    let nobody = Principal::mint("anonymous".parse().unwrap(), kind, None, None, strength, None, Timestamp::UNIX_EPOCH);
    Chain::root(InvocationId::random(&Counter(AtomicI64::new(1))), nobody, None)
}

/// One tenant with one plugin.
pub(crate) struct Rig {
    pub(crate) store: TenantStore,
    pub(crate) grants: Arc<ArcSwap<Grants>>,
    pub(crate) lines: Arc<Lines>,
    pub(crate) entropy: Arc<Counter>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) sworn: Arc<Sworn>,
    pub(crate) strict: Arc<Strict>,
    pub(crate) standing: Arc<ringfence_core::Standing>,
    clock: Arc<Moved>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn new(grants: &[(Capability, &[&str])]) -> Self {
        Self::over(Store::memory(), grants).await
    }

    /// The same in a store of the test's own.
    pub(crate) async fn over(store: Store, grants: &[(Capability, &[&str])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let entropy = Arc::new(Counter(AtomicI64::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(dir.path().join("root.key")), &*entropy).unwrap();
        let tenants = Tenants::open(store, Arc::new(root), Arc::clone(&entropy) as _, Arc::new(Still)).await.unwrap();
        let acme = "acme".parse().unwrap();
        tenants.create(&acme, "Acme").await.unwrap();
        let store = tenants.open_tenant(&acme).unwrap();
        let clock = Arc::new(Moved::default());
        let quota = Quota::STANDARD;
        let memory = HostMemory::new(quota.memory_bytes).pool(quota.memory_bytes);
        let ledger = Ledger::new(store.clone(), quota, DayUse::default(), memory, Arc::clone(&clock) as _);
        let ledger = Arc::new(ledger);
        let (grants_now, lines, sworn, strict, standing) = Default::default();
        let rig = Self { store, grants: grants_now, lines, entropy, ledger, sworn, strict, standing, clock, _dir: dir };
        rig.grant(grants);
        rig
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Moves the ledger's clock on.
    pub(crate) fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Replaces all grants.
    pub(crate) fn grant(&self, grants: &[(Capability, &[&str])]) {
        let mut all = Grants::default();
        for (capability, scope) in grants {
            all.insert(Grant { capability: *capability, scope: scope.iter().map(ToString::to_string).collect() });
        }
        self.grants.store(Arc::new(all));
    }

    pub(crate) fn live(&self) -> LiveGrants {
        LiveGrants::new(Arc::clone(&self.grants))
    }

    pub(crate) fn notebook(&self, meter: &Arc<Meter>) -> Arc<Notebook> {
        let invocation = InvocationId::random(&*self.entropy);
        Arc::new(Notebook::new(
            Arc::clone(&self.lines) as _,
            (invocation, None),
            Arc::clone(meter),
            Arc::clone(&self.ledger),
            Arc::new(Still),
            self.live(),
            self.guarded(),
        ))
    }

    pub(crate) fn leave(&self, notebook: &Arc<Notebook>) -> Leave {
        let notes = crate::host_calls::CallNotes::none();
        Leave { overseer: Arc::clone(&self.strict) as _, notebook: Arc::clone(notebook), notes }
    }

    /// The plugin `visits` under watch.
    pub(crate) fn guarded(&self) -> crate::Guarded {
        crate::Guarded {
            standing: Arc::clone(&self.standing),
            tenant: "acme".parse().unwrap(),
            tenant_uid: "00".repeat(16),
            plugin: "visits".parse().unwrap(),
            clock: Arc::clone(&self.clock) as _,
            witness: Arc::clone(&self.sworn) as _,
        }
    }

    /// A guest of the plugin `visits`.
    pub(crate) fn guest(&self, budget: Budget) -> TestGuest {
        self.guest_of("visits", budget)
    }

    pub(crate) fn guest_of(&self, plugin: &str, budget: Budget) -> TestGuest {
        let meter = Meter::new(budget);
        let notebook = self.notebook(&meter);
        let bound = Bound {
            store: self.store.clone(),
            plugin: plugin.parse().unwrap(),
            invocation: InvocationId::random(&*self.entropy),
            chain: root_chain(),
            grants: self.live(),
            leave: self.leave(&notebook),
            notebook,
            meter,
            ledger: Arc::clone(&self.ledger),
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::clone(&self.entropy) as _,
            postbox: None,
            run_desk: None,
            cursors: Vec::new(),
            blob_streams: Arc::new(tokio::sync::Semaphore::new(ringfence_core::limits::BLOB_STREAMS_COUNT_MAX)),
            personal: Personal {
                witness: Arc::clone(&self.sworn) as _,
                clock: Arc::clone(&self.clock) as _,
                openings_count: 0,
            },
            events_count: 0,
            run_acts_count: 0,
            steps: None,
            guarded: self.guarded(),
        };
        TestGuest { bound, table: ResourceTable::new() }
    }
}

/// What a guest's imports find.
pub(crate) struct TestGuest {
    pub(crate) bound: Bound,
    pub(crate) table: ResourceTable,
}

impl TestGuest {
    pub(crate) fn view(&mut self) -> View<'_> {
        View::over(&mut self.bound, &mut self.table)
    }
}
