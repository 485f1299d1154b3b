//! Binding: what one invocation gets of the capabilities - its tenant's store, its plugin's grants, its log, its gate.
//!
//! Must never bind more than the caller handed in. Sits between the fetched code and the engine in the walk of a request.

use std::sync::{Arc, OnceLock, Weak};

use ringfence_core::limits::BLOB_STREAMS_COUNT_MAX;
use ringfence_core::{Capability, CausedBy, Clock, Entropy, InvocationId, PluginName};
use ringfence_engine::{Guest, GuestSetup, Meter};
use ringfence_store::TenantStore;
use tokio::sync::Semaphore;
use wasmtime::component::{HasData, ResourceTable};

use crate::calls::{Chain, Exchange};
use crate::error::CapabilitiesError;
use crate::grants::LiveGrants;
use crate::guarded::Guarded;
use crate::host_calls::HostCalls;
use crate::http::{Caller, Certificates, EgressConfig, Gate, Outbound};
use crate::logging::{Notebook, Printed, Stream};
use crate::logs::GuestLog;
use crate::overseer::{Leave, Overseer};
use crate::pii::{Personal, Witness};
use crate::queue::Postbox;
use crate::quota::Ledger;
use crate::runs::RunDesk;
use crate::steps::{RunHistory, replay_of};

/// The host's choices.
pub struct CapabilitiesConfig {
    /// Limits and exceptions of outgoing HTTP.
    pub egress: EgressConfig,
    /// The runtime that does the I/O of outgoing requests.
    pub io: tokio::runtime::Handle,
    /// Where the time of log lines comes from.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
}

/// What all invocations share.
pub struct Capabilities {
    outbound: Arc<Outbound>,
    host_calls: HostCalls,
    postbox: OnceLock<Weak<dyn Postbox>>,
    run_desk: OnceLock<Weak<dyn RunDesk>>,
    exchange: OnceLock<Arc<dyn Exchange>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// What one invocation gets.
pub struct Binding {
    /// The store of its tenant.
    pub store: TenantStore,
    /// The plugin that is called.
    pub plugin: PluginName,
    /// What it was granted, as it changes.
    pub grants: LiveGrants,
    /// Where its log lines go.
    pub logs: Arc<dyn GuestLog>,
    /// Which invocation it is.
    pub invocation: InvocationId,
    /// Where it stands below the invocation that no plugin called.
    pub chain: Chain,
    /// Which called it or sent its message, when a plugin did.
    pub caused_by: Option<CausedBy>,
    /// Its counters, with its budget.
    pub meter: Arc<Meter>,
    /// Its tenant's quota.
    pub ledger: Arc<Ledger>,
    /// Who swears to what it opens of personal data.
    pub witness: Arc<dyn Witness>,
    /// The history of the run it is, when it is one.
    pub steps: Option<Arc<dyn RunHistory>>,
    /// What is held against it now.
    pub guarded: Guarded,
    /// Who says what policy leaves of the grants.
    pub overseer: Arc<dyn Overseer>,
}

// === impl Capabilities ===

impl Capabilities {
    /// Sets up what all invocations share.
    pub fn new(config: CapabilitiesConfig) -> Result<Self, CapabilitiesError> {
        let outbound = Outbound::new(config.egress, config.io)?;
        let (postbox, run_desk, exchange) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let host_calls = HostCalls::default();
        Ok(Self { outbound, host_calls, postbox, run_desk, exchange, clock: config.clock, entropy: config.entropy })
    }

    /// Which host calls are put on the logs of tenants, and those that wait to be.
    pub fn host_calls(&self) -> HostCalls {
        self.host_calls.clone()
    }

    /// Says who takes messages of guests. The first word counts; until then there are no queues.
    pub fn set_postbox(&self, postbox: Weak<dyn Postbox>) {
        let _ = self.postbox.set(postbox);
    }

    /// Says who begins runs for guests and does something to them. The first word counts; until then there are none.
    pub fn set_run_desk(&self, desk: Weak<dyn RunDesk>) {
        let _ = self.run_desk.set(desk);
    }

    /// Says who runs plugins that plugins call. The first word counts; until then nobody can be called.
    pub fn set_exchange(&self, exchange: Arc<dyn Exchange>) {
        let _ = self.exchange.set(exchange);
    }

    /// Says who has the certificates of plugins. The first word counts; until then nobody is shown one.
    pub fn set_certificates(&self, certificates: Arc<dyn Certificates>) {
        self.outbound.set_certificates(certificates);
    }

    /// Binds one invocation.
    pub fn bind(&self, binding: Binding) -> GuestSetup {
        let Binding { store, plugin, grants, logs, invocation, meter, ledger, witness, steps, guarded, .. } = binding;
        let caller = Caller {
            store: store.clone(),
            plugin: plugin.clone(),
            invocation: invocation.clone(),
            chain: binding.chain.clone(),
            exchange: self.exchange.get().cloned(),
        };
        let notes = self.host_calls.notes(&store, (&invocation, &plugin), &self.clock, &self.entropy);
        let notebook = Arc::new(Notebook::new(
            logs,
            (invocation.clone(), binding.caused_by),
            Arc::clone(&meter),
            Arc::clone(&ledger),
            Arc::clone(&self.clock),
            grants.clone(),
            guarded.clone(),
        ));
        let leave = Leave { overseer: binding.overseer, notebook: Arc::clone(&notebook), notes };
        let gate = Gate {
            outbound: Arc::clone(&self.outbound),
            caller,
            grants: grants.clone(),
            meter: Arc::clone(&meter),
            notebook: Arc::clone(&notebook),
            ledger: Arc::clone(&ledger),
            guarded: guarded.clone(),
            leave: leave.clone(),
        };
        let replay = steps.as_ref().map(replay_of);
        let stdout = Arc::new(Printed::new(Arc::clone(&notebook), Stream::Output));
        let stderr = Arc::new(Printed::new(Arc::clone(&notebook), Stream::Error));
        let host = Bound {
            store,
            plugin,
            invocation,
            chain: binding.chain,
            grants,
            notebook,
            meter: Arc::clone(&meter),
            ledger,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            postbox: self.postbox.get().and_then(Weak::upgrade),
            run_desk: self.run_desk.get().and_then(Weak::upgrade),
            cursors: Vec::new(),
            blob_streams: Arc::new(Semaphore::new(BLOB_STREAMS_COUNT_MAX)),
            steps,
            personal: Personal { witness, clock: Arc::clone(&self.clock), openings_count: 0 },
            events_count: 0,
            run_acts_count: 0,
            guarded,
            leave,
        };
        GuestSetup { host: Box::new(host), hooks: Box::new(gate), stdout, stderr, meter, reuse: None, replay }
    }
}

/// The state behind the imports of one guest.
pub(crate) struct Bound {
    pub(crate) store: TenantStore,
    pub(crate) plugin: PluginName,
    pub(crate) invocation: InvocationId,
    pub(crate) chain: Chain,
    pub(crate) grants: LiveGrants,
    pub(crate) notebook: Arc<Notebook>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) postbox: Option<Arc<dyn Postbox>>,
    pub(crate) run_desk: Option<Arc<dyn RunDesk>>,
    /// Page tokens that were given to the guest as numbers.
    pub(crate) cursors: Vec<ringfence_store::PageToken>,
    /// Places for objects that are being read and written.
    pub(crate) blob_streams: Arc<Semaphore>,
    pub(crate) personal: Personal,
    /// Events that the guest put on the audit log, or tried to.
    pub(crate) events_count: u32,
    /// Runs that it began, signalled and cancelled, or tried to.
    pub(crate) run_acts_count: u32,
    pub(crate) steps: Option<Arc<dyn RunHistory>>,
    pub(crate) guarded: Guarded,
    pub(crate) leave: Leave,
}

impl Bound {
    /// Counts a host call; the error is the trap that ends the invocation.
    pub(crate) fn call(&self) -> wasmtime::Result<()> {
        Ok(self.meter.host_call()?)
    }

    /// Whether `name` of the capability is granted now.
    pub(crate) fn may(&self, capability: Capability, name: &str) -> bool {
        self.grants.covers(capability, name)
    }
}

/// What an import finds: the bound state and the guest's table of resources.
pub(crate) struct View<'a> {
    bound: Option<&'a mut Bound>,
    pub(crate) table: &'a mut ResourceTable,
}

impl<'a> View<'a> {
    pub(crate) fn of(guest: &'a mut Guest) -> Self {
        let (bound, table) = guest.host_and_table::<Bound>();
        View { bound, table }
    }

    #[cfg(test)]
    pub(crate) fn over(bound: &'a mut Bound, table: &'a mut ResourceTable) -> Self {
        View { bound: Some(bound), table }
    }

    /// The bound state; a guest without one (in a rehearsal) may call nothing.
    pub(crate) fn bound(&mut self) -> wasmtime::Result<&mut Bound> {
        self.bound.as_deref_mut().ok_or_else(|| wasmtime::format_err!("no capability is bound"))
    }
}

/// Tells wasmtime what a [`View`] is.
pub(crate) struct Bindings;

impl HasData for Bindings {
    type Data<'a> = View<'a>;
}
