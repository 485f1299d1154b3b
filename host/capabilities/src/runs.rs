//! `ringfence:plugin/runs`: runs of the tenant's workflows that a plugin begins, signals, cancels and looks at, each workflow
//! granted by name.
//!
//! Must never say whether there is a run to a guest that was not granted its workflow, nor let workflow code do outside of a
//! step what a replay would do again. Keeping runs, and swearing to what is done to them, is the business of whoever is the
//! [`RunDesk`].

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use ringfence_core::capability::is_workflow_name;
use ringfence_core::limits::MESSAGE_DEPTH_MAX;
use ringfence_core::{Capability, HostAct, InvocationId, On, PluginName, RunId};
use ringfence_engine::Guest;
use ringfence_store::TenantStore;
use wasmtime::component::Linker;

use crate::bind::{Bindings, Bound, View};
use crate::bindings::runs::ringfence::plugin::runs::{self, Error, Options, Seen, State};
use crate::calls::Trail;

/// LIMIT: runs that one invocation begins, signals and cancels, or tries to: each stands on the tenant's audit log.
pub const RUN_ACTS_COUNT_MAX: u32 = 100;
/// Before a guest asks again where nobody says how long, milliseconds.
const LATER_MS: u64 = 1_000;

/// Which plugin asks, and in which of its invocations: the host's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAsker {
    /// The plugin.
    pub plugin: PluginName,
    /// Its invocation.
    pub invocation: InvocationId,
    /// What that would lead to a run with.
    pub trail: Trail,
}

/// A run that is to be begun. Its parts are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// Of which plugin.
    pub plugin: PluginName,
    /// Of which workflow.
    pub workflow: String,
    /// With what, JSON.
    pub input: String,
    /// Under which it is begun once.
    pub key: Option<String>,
    /// By what it is found.
    pub attributes: BTreeMap<String, String>,
}

/// What is done to a run. Its parts are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunChange {
    /// It is sent a signal.
    Signal {
        /// The signal's name.
        name: String,
        /// JSON.
        payload: String,
        /// Under which it counts once.
        key: Option<String>,
    },
    /// It is asked to take back what it did, and end.
    Cancel,
}

/// A run that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Which.
    pub run: RunId,
    /// Whether it was begun now.
    pub is_new: bool,
}

/// What a run is doing, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are those of a run's status; each carries why, but a result")]
pub enum RunState {
    Running,
    Waiting,
    Paused,
    Stuck(String),
    Completed(String),
    Failed(String),
    Cancelled(String),
    Terminated(String),
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRun {
    /// Which; of one that went on as another the newest.
    pub run: RunId,
    /// Of which plugin.
    pub plugin: PluginName,
    /// Of which workflow.
    pub workflow: String,
    /// Of which version.
    pub version: String,
    /// What it is doing.
    pub state: RunState,
    /// By what it is found.
    pub attributes: BTreeMap<String, String>,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunRefused {
    /// There is no such run.
    #[error("there is no such run")]
    Unknown,
    /// There is no such workflow.
    #[error("{0}")]
    NoWorkflow(String),
    /// The key stands for another run.
    #[error("a run of this workflow was begun under this key with another input")]
    OtherInput,
    /// It has ended.
    #[error("the run has ended")]
    Ended,
    /// Something is too much.
    #[error("{0}")]
    OverLimit(String),
    /// Something is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The tenant's quota is used up, or the host has too much to do.
    #[error("it cannot be kept now: the storage or the operations of the tenant are used up, or the host is busy")]
    Busy {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// It could not be kept just now.
    #[error("it cannot be kept now")]
    Unavailable,
}

/// Who begins runs and does something to them. What is done stands on the tenant's audit log as the asking plugin's.
pub trait RunDesk: Send + Sync {
    /// Resolves once the run is durable, or was before.
    fn begin(&self, store: &TenantStore, from: RunAsker, new: NewRun) -> BoxFuture<'static, Result<Begun, RunRefused>>;
    /// Resolves once it is durable.
    fn change(
        &self,
        store: &TenantStore,
        from: RunAsker,
        run: SeenRun,
        change: RunChange,
    ) -> BoxFuture<'static, Result<(), RunRefused>>;
    /// How a run stands.
    fn inspect(&self, store: &TenantStore, run: RunId) -> BoxFuture<'static, Result<SeenRun, RunRefused>>;
    /// The run of a workflow that a plugin began under a key.
    fn find(
        &self,
        store: &TenantStore,
        workflow: (PluginName, String),
        key: String,
    ) -> BoxFuture<'static, Result<RunId, RunRefused>>;
}

/// Offers `ringfence:plugin/runs@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    runs::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

/// What a guest is answered; the outer error ends its invocation.
type Told<T> = wasmtime::Result<Result<T, Error>>;

impl runs::Host for View<'_> {
    async fn begin(&mut self, plugin: String, input: String, options: Options) -> Told<runs::Begun> {
        let bound = self.bound()?;
        let desk = match bound.run_desk(Acts::Change)? {
            Ok(desk) => desk,
            Err(error) => return Ok(Err(error)),
        };
        let Options { workflow, idempotency_key: key, attributes } = options;
        let (plugin, workflow) = match bound.granted_workflow(plugin, workflow, HostAct::BeginRun) {
            Ok(named) => named,
            Err(error) => return Ok(Err(error)),
        };
        let from = match bound.run_asker() {
            Ok(from) => from,
            Err(error) => return Ok(Err(error)),
        };
        let new = NewRun { plugin, workflow, input, key, attributes: attributes.into_iter().collect() };
        let begun = desk.begin(&bound.store, from, new).await;
        Ok(begun.map(|Begun { run, is_new }| runs::Begun { run: run.to_string(), is_new }).map_err(told))
    }

    async fn find(&mut self, plugin: String, workflow: Option<String>, idempotency_key: String) -> Told<String> {
        let bound = self.bound()?;
        let desk = match bound.run_desk(Acts::Look)? {
            Ok(desk) => desk,
            Err(error) => return Ok(Err(error)),
        };
        let named = match bound.granted_workflow(plugin, workflow, HostAct::InspectRun) {
            Ok(named) => named,
            Err(error) => return Ok(Err(error)),
        };
        let found = desk.find(&bound.store, named, idempotency_key).await;
        Ok(found.map(|run| run.to_string()).map_err(told))
    }

    async fn signal(
        &mut self,
        run: String,
        name: String,
        payload: String,
        idempotency_key: Option<String>,
    ) -> Told<()> {
        let change = RunChange::Signal { name, payload, key: idempotency_key };
        self.bound()?.change_run(run, HostAct::SignalRun, change).await
    }

    async fn cancel(&mut self, run: String) -> Told<()> {
        self.bound()?.change_run(run, HostAct::CancelRun, RunChange::Cancel).await
    }

    async fn inspect(&mut self, run: String) -> Told<Seen> {
        let bound = self.bound()?;
        let desk = match bound.run_desk(Acts::Look)? {
            Ok(desk) => desk,
            Err(error) => return Ok(Err(error)),
        };
        let seen = bound.granted_run(&*desk, run, HostAct::InspectRun).await;
        Ok(seen.map(|seen| Seen {
            run: seen.run.to_string(),
            plugin: seen.plugin.to_string(),
            workflow: seen.workflow,
            version: seen.version,
            state: state(seen.state),
            attributes: seen.attributes.into_iter().collect(),
        }))
    }
}

/// Whether something is done to runs, or they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acts {
    Change,
    Look,
}

impl Bound {
    /// Counts a call, and gives whom to ask where any run may be reached; the outer error ends the invocation.
    fn run_desk(&mut self, acts: Acts) -> Told<Arc<dyn RunDesk>> {
        self.call()?;
        self.meter.storage_op();
        Ok(self.open_run_desk(acts))
    }

    fn open_run_desk(&mut self, acts: Acts) -> Result<Arc<dyn RunDesk>, Error> {
        if !self.grants.has(Capability::Runs) {
            return Err(not_granted());
        }
        // Code of a workflow is run again over its history, which knows nothing of what it asks here.
        if self.steps.as_ref().is_some_and(|history| !history.is_in_step()) {
            return Err(Error::Invalid("workflow code reaches runs in the work of a step alone".to_owned()));
        }
        if acts == Acts::Change {
            if self.run_acts_count >= RUN_ACTS_COUNT_MAX {
                let why = format!("an invocation begins, signals and cancels at most {RUN_ACTS_COUNT_MAX} runs");
                return Err(Error::OverLimit(why));
            }
            self.run_acts_count += 1;
        }
        if let Err(exhausted) = self.ledger.storage_ops(1) {
            return Err(Error::Busy(exhausted.retry_after_ms.unwrap_or(LATER_MS)));
        }
        self.run_desk.clone().ok_or_else(not_granted)
    }

    /// The workflow that a guest names, if it may do this to its runs.
    fn granted_workflow(
        &self,
        plugin: String,
        workflow: Option<String>,
        act: HostAct,
    ) -> Result<(PluginName, String), Error> {
        let workflow = workflow.unwrap_or_else(|| plugin.clone());
        let plugin: PluginName = plugin.parse().map_err(|_| not_granted())?;
        // Before policy is asked: nothing longer than a grant can name.
        if !is_workflow_name(&workflow) || !self.may(Capability::Runs, &format!("{plugin}/{workflow}")) {
            return Err(not_granted());
        }
        self.check_run_leave(&plugin, &workflow, act)?;
        Ok((plugin, workflow))
    }

    /// The run that a guest names, if it may do this to it.
    async fn granted_run(&mut self, desk: &dyn RunDesk, run: String, act: HostAct) -> Result<SeenRun, Error> {
        let run: RunId = run.parse().map_err(|_| Error::Unknown)?;
        let seen = desk.inspect(&self.store, run).await.map_err(told)?;
        if !self.may(Capability::Runs, &format!("{}/{}", seen.plugin, seen.workflow)) {
            return Err(Error::Unknown);
        }
        self.check_run_leave(&seen.plugin, &seen.workflow, act)?;
        Ok(seen)
    }

    fn check_run_leave(&self, plugin: &PluginName, workflow: &str, act: HostAct) -> Result<(), Error> {
        let on = On::Workflow { plugin, workflow };
        self.leave.ask(act, on).map_err(|_| Error::Denied("policy forbids this to runs of this workflow".to_owned()))
    }

    fn run_asker(&self) -> Result<RunAsker, Error> {
        let (plugin, invocation) = (self.plugin.clone(), self.invocation.clone());
        match self.chain.sent(&invocation) {
            Some(trail) => Ok(RunAsker { plugin, invocation, trail }),
            None => Err(Error::OverLimit(format!(
                "{MESSAGE_DEPTH_MAX} messages and runs led to this one, each sent or begun while the one before was handled"
            ))),
        }
    }

    async fn change_run(&mut self, run: String, act: HostAct, change: RunChange) -> Told<()> {
        let desk = match self.run_desk(Acts::Change)? {
            Ok(desk) => desk,
            Err(error) => return Ok(Err(error)),
        };
        let seen = match self.granted_run(&*desk, run, act).await {
            Ok(seen) => seen,
            Err(error) => return Ok(Err(error)),
        };
        let from = match self.run_asker() {
            Ok(from) => from,
            Err(error) => return Ok(Err(error)),
        };
        Ok(desk.change(&self.store, from, seen, change).await.map_err(told))
    }
}

fn not_granted() -> Error {
    Error::Denied("this workflow is not granted".to_owned())
}

fn told(refused: RunRefused) -> Error {
    match refused {
        RunRefused::Unknown => Error::Unknown,
        RunRefused::NoWorkflow(why) => Error::NoWorkflow(why),
        RunRefused::OtherInput => Error::OtherInput,
        RunRefused::Ended => Error::Ended,
        RunRefused::OverLimit(why) => Error::OverLimit(why),
        RunRefused::Invalid(why) => Error::Invalid(why),
        RunRefused::Busy { retry_after_ms } => Error::Busy(retry_after_ms),
        RunRefused::Unavailable => Error::Other(refused.to_string()),
    }
}

fn state(state: RunState) -> State {
    match state {
        RunState::Running => State::Running,
        RunState::Waiting => State::Waiting,
        RunState::Paused => State::Paused,
        RunState::Stuck(why) => State::Stuck(why),
        RunState::Completed(output) => State::Completed(output),
        RunState::Failed(why) => State::Failed(why),
        RunState::Cancelled(why) => State::Cancelled(why),
        RunState::Terminated(why) => State::Terminated(why),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ringfence_core::workflow::{Answer, Ask, Place, RunFacts, StepFailure, Stop};
    use ringfence_core::{Budget, Quota};

    use super::*;
    use crate::Origin;
    use crate::calls::Chain;
    use crate::steps::RunHistory;
    use crate::testing::{Rig, TestGuest};

    const ONE: &[(Capability, &[&str])] = &[(Capability::Runs, &["shop/charge"])];

    /// Knows one run, of the workflow that it says, and keeps what it was asked.
    struct Desk {
        of: (&'static str, &'static str),
        asked: Mutex<Vec<(RunAsker, String)>>,
    }

    fn id() -> RunId {
        RunId::random(&crate::testing::Same(7))
    }

    impl Desk {
        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().iter().map(|(_, what)| what.clone()).collect()
        }
        fn keep(&self, from: RunAsker, what: String) {
            self.asked.lock().unwrap().push((from, what));
        }
    }

    impl RunDesk for Desk {
        fn begin(&self, _: &TenantStore, from: RunAsker, new: NewRun) -> BoxFuture<'static, Result<Begun, RunRefused>> {
            self.keep(from, format!("begin {}/{} {}", new.plugin, new.workflow, new.key.unwrap_or_default()));
            Box::pin(std::future::ready(Ok(Begun { run: id(), is_new: true })))
        }
        fn change(
            &self,
            _: &TenantStore,
            from: RunAsker,
            run: SeenRun,
            change: RunChange,
        ) -> BoxFuture<'static, Result<(), RunRefused>> {
            let what = match change {
                RunChange::Signal { name, .. } => format!("signal {name}"),
                RunChange::Cancel => "cancel".to_owned(),
            };
            self.keep(from, format!("{what} {}", run.workflow));
            Box::pin(std::future::ready(Ok(())))
        }
        fn inspect(&self, _: &TenantStore, run: RunId) -> BoxFuture<'static, Result<SeenRun, RunRefused>> {
            let (plugin, workflow) = self.of;
            let seen = SeenRun {
                run: run.clone(),
                plugin: plugin.parse().unwrap(),
                workflow: workflow.to_owned(),
                version: "0.1.0".to_owned(),
                state: RunState::Completed("7".to_owned()),
                attributes: BTreeMap::new(),
            };
            Box::pin(std::future::ready(if run == id() { Ok(seen) } else { Err(RunRefused::Unknown) }))
        }
        fn find(
            &self,
            _: &TenantStore,
            _: (PluginName, String),
            _: String,
        ) -> BoxFuture<'static, Result<RunId, RunRefused>> {
            Box::pin(std::future::ready(Ok(id())))
        }
    }

    fn guest(rig: &Rig, of: (&'static str, &'static str)) -> (TestGuest, Arc<Desk>) {
        let desk = Arc::new(Desk { of, asked: Mutex::default() });
        let mut guest = rig.guest(Budget::DEFAULT);
        guest.bound.run_desk = Some(Arc::clone(&desk) as _);
        (guest, desk)
    }

    fn of(workflow: &str) -> Options {
        Options { workflow: Some(workflow.to_owned()), idempotency_key: Some("k".to_owned()), attributes: Vec::new() }
    }

    async fn begin(guest: &mut TestGuest, workflow: &str) -> Result<runs::Begun, Error> {
        runs::Host::begin(&mut guest.view(), "shop".to_owned(), "1".to_owned(), of(workflow)).await.unwrap()
    }

    async fn signal(guest: &mut TestGuest, run: &str) -> Result<(), Error> {
        let words = ["go", "1"].map(str::to_owned);
        let [name, payload] = words;
        runs::Host::signal(&mut guest.view(), run.to_owned(), name, payload, None).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_granted_is_reached_under_policy_and_nothing_else_is() {
        let rig = Rig::new(ONE).await;
        let (mut guest, desk) = guest(&rig, ("shop", "charge"));
        assert!(begin(&mut guest, "charge").await.unwrap().is_new);
        signal(&mut guest, id().as_str()).await.unwrap();
        runs::Host::cancel(&mut guest.view(), id().to_string()).await.unwrap().unwrap();
        let seen = runs::Host::inspect(&mut guest.view(), id().to_string()).await.unwrap().unwrap();
        assert!(matches!(&seen.state, State::Completed(output) if output == "7"));
        let (shop, charge) = ("shop".to_owned(), Some("charge".to_owned()));
        let found = runs::Host::find(&mut guest.view(), shop.clone(), charge, "k".to_owned()).await.unwrap();
        assert_eq!(found.unwrap(), id().as_str());
        assert_eq!(desk.asked(), ["begin shop/charge k", "signal go charge", "cancel charge"]);
        let acts =
            [HostAct::BeginRun, HostAct::SignalRun, HostAct::CancelRun, HostAct::InspectRun, HostAct::InspectRun];
        assert_eq!(rig.strict.asked(), acts.map(|act| (act, "shop/charge".to_owned())));

        assert!(matches!(begin(&mut guest, "refund").await, Err(Error::Denied(_))));
        let other = runs::Host::find(&mut guest.view(), shop, None, "k".to_owned()).await.unwrap();
        assert!(matches!(other, Err(Error::Denied(_))), "the workflow of the plugin's own name is another");
        rig.strict.forbid(&acts);
        assert!(matches!(begin(&mut guest, "charge").await, Err(Error::Denied(_))));
        assert!(matches!(signal(&mut guest, id().as_str()).await, Err(Error::Denied(_))));
        rig.grant(&[]);
        assert!(matches!(begin(&mut guest, "charge").await, Err(Error::Denied(_))));
        assert_eq!(desk.asked().len(), 3);
    }

    #[tokio::test]
    async fn a_run_of_a_workflow_that_is_not_granted_is_told_from_none_by_nothing() {
        let rig = Rig::new(ONE).await;
        let (mut guest, desk) = guest(&rig, ("shop", "refund"));
        for run in [id().to_string(), RunId::random(&crate::testing::Same(8)).to_string(), "no-run".to_owned()] {
            assert!(matches!(signal(&mut guest, &run).await, Err(Error::Unknown)), "{run}");
            let seen = runs::Host::inspect(&mut guest.view(), run).await.unwrap();
            assert!(matches!(seen, Err(Error::Unknown)));
        }
        assert!(desk.asked().is_empty() && rig.strict.asked().is_empty());
    }

    #[tokio::test]
    async fn an_invocation_does_so_much_to_runs_and_no_longer_than_its_tenants_quota_and_its_own_budget_last() {
        let rig = Rig::new(ONE).await;
        let (mut first, desk) = guest(&rig, ("shop", "charge"));
        for _ in 0..RUN_ACTS_COUNT_MAX {
            begin(&mut first, "charge").await.unwrap();
        }
        assert!(matches!(begin(&mut first, "charge").await, Err(Error::OverLimit(_))));
        assert_eq!(desk.asked().len(), RUN_ACTS_COUNT_MAX as usize);
        runs::Host::inspect(&mut first.view(), id().to_string()).await.unwrap().unwrap();
        rig.ledger.set(Quota { storage_ops_per_second: 1, ..Quota::STANDARD });
        let (mut next, desk) = guest(&rig, ("shop", "charge"));
        let mut busy = 0;
        for _ in 0..20 {
            busy += usize::from(matches!(begin(&mut next, "charge").await, Err(Error::Busy(1..))));
        }
        assert!(busy > 0 && desk.asked().len() == 20 - busy, "{busy}");
        let mut poor = rig.guest(Budget { host_calls_count: 1, ..Budget::DEFAULT });
        let mut view = poor.view();
        assert!(runs::Host::cancel(&mut view, id().to_string()).await.is_ok());
        assert!(runs::Host::cancel(&mut view, id().to_string()).await.is_err(), "the budget is used up");
    }

    #[tokio::test]
    async fn a_run_carries_what_led_to_it_and_a_row_of_them_ends() {
        let rig = Rig::new(ONE).await;
        let (mut guest, desk) = guest(&rig, ("shop", "charge"));
        for number in 1..=MESSAGE_DEPTH_MAX {
            begin(&mut guest, "charge").await.unwrap();
            let from = desk.asked.lock().unwrap().last().unwrap().0.clone();
            assert_eq!((from.plugin.as_str(), &from.invocation), ("visits", &guest.bound.invocation));
            assert_eq!(from.trail.messages_count, number);
            assert_eq!(from.trail.by.as_ref().unwrap().parent, from.invocation);
            assert_eq!(from.trail.began_by.as_ref().unwrap().as_str(), "anonymous");
            // As the run's own invocation stands, later.
            let nobody = guest.bound.chain.on_behalf_of().clone();
            guest.bound.chain = Chain::resumed(from.invocation.clone(), nobody, &from.trail);
        }
        assert!(matches!(begin(&mut guest, "charge").await, Err(Error::OverLimit(_))));
    }

    /// A run whose code is in a step, or not.
    struct Code(bool);

    impl RunHistory for Code {
        fn facts(&self) -> RunFacts {
            panic!("nobody asks")
        }
        fn ask(&self, _: Place, _: Ask) -> BoxFuture<'_, (Result<Answer, Stop>, Origin)> {
            panic!("nobody asks")
        }
        fn complete(&self, _: Place, _: Result<String, StepFailure>) -> BoxFuture<'_, Result<Answer, Stop>> {
            panic!("nobody completes")
        }
        fn dice(&self, _: u64) -> [u8; 32] {
            [7; 32]
        }
        fn is_in_step(&self) -> bool {
            self.0
        }
    }

    #[tokio::test]
    async fn the_code_of_a_workflow_reaches_runs_in_a_step_alone() {
        let rig = Rig::new(ONE).await;
        let (mut guest, desk) = guest(&rig, ("shop", "charge"));
        guest.bound.steps = Some(Arc::new(Code(false)));
        assert!(matches!(begin(&mut guest, "charge").await, Err(Error::Invalid(_))));
        let seen = runs::Host::inspect(&mut guest.view(), id().to_string()).await.unwrap();
        assert!(matches!(seen, Err(Error::Invalid(_))));
        assert!(desk.asked().is_empty());
        guest.bound.steps = Some(Arc::new(Code(true)));
        begin(&mut guest, "charge").await.unwrap();
    }
}
