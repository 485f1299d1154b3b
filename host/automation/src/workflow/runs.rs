//! The outside of durable workflows: begin a run, do something to it, find it, look at it.
//!
//! Must never decide who may: whoever calls has a permit. Histories of runs that nobody works on are not held in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use data_encoding::HEXLOWER;
use ringfence_audit::Audit;
use ringfence_capabilities::Trail;
use ringfence_core::workflow::Place;
use ringfence_core::{Clock, Entropy, PluginName, PrincipalId, RunId, TenantId};
use ringfence_store::{PageToken, Precondition, StoreError, TenantStore, Tenants};
use semver::Version;
use tokio::sync::Mutex as AsyncMutex;

use crate::closing::Closing;
use crate::workflow::command::{self, Command, People, Refusal};
use crate::workflow::drive::Runner;
use crate::workflow::error::WorkflowError;
use crate::workflow::event::{Basis, Ending, Entry, Event, Started};
use crate::workflow::family::FamilyStep;
use crate::workflow::journal::{self, Head, Loaded, Mark, Status};
use crate::workflow::limits::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTES_COUNT_MAX, CHILD_DEPTH_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, RETENTION_MS,
};
use crate::workflow::pump::Pump;
use crate::workflow::session::unix_ms;
use crate::workflow::state::State;

/// LIMIT: runs looked at for one page of a search.
const LOOKED_AT_COUNT_MAX: usize = 1_000;
/// Records of runs in memory from which on those that nobody holds are looked for.
const LIVE_COUNT_SWEPT: usize = 1_024;
/// Attempts of a change against another host's.
const CHANGE_ATTEMPTS_MAX: usize = 4;
/// How often a run may go on as another while something is done to whoever goes on.
const FOLLOWED_COUNT_MAX: usize = 64;

/// What durable workflows stand on.
pub struct WorkflowsParts {
    /// Tenants and their stores.
    pub tenants: Tenants,
    /// Runs their code.
    pub runner: Arc<dyn Runner>,
    /// What the host swears to.
    pub audit: Audit,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
}

/// Durable workflows of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Workflows(Arc<Shared>);

/// Runs that somebody has in memory, by tenant and run.
type Live = HashMap<(String, RunId), Weak<AsyncMutex<Loaded>>>;

/// Tells how long a tenant's runs are kept after their end, milliseconds; none for one that is gone.
pub type Retention = Box<dyn Fn(&TenantId) -> Option<u64> + Send + Sync>;

struct Shared {
    parts: WorkflowsParts,
    /// The newest revision of the store at the start: what is older was written by a host that has ended.
    born_at: u64,
    closing: Closing,
    pumps: Mutex<HashMap<String, Arc<Pump>>>,
    /// Who knows how long a tenant's ended runs are kept.
    retention: OnceLock<Retention>,
    live: Mutex<Live>,
}

/// A run that is to be begun.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Of which plugin.
    pub plugin: PluginName,
    /// Which version of it, for good.
    pub version: Version,
    /// Which workflow.
    pub workflow: String,
    /// With what, JSON.
    pub input: String,
    /// By whom.
    pub by: PrincipalId,
    /// By what it is found.
    pub attributes: BTreeMap<String, String>,
    /// The same key begins the same run, for as long as it is kept. Keys of plugins are of one workflow, and apart from those of
    /// people.
    pub key: Option<String>,
    /// What led to it, when a plugin begins it.
    pub led_by: Option<Trail>,
}

/// Which runs are looked for: those that have all of it.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// What they are doing.
    pub status: Option<Status>,
    /// Of this plugin.
    pub plugin: Option<PluginName>,
    /// Of this workflow.
    pub workflow: Option<String>,
    /// With these attributes.
    pub attributes: BTreeMap<String, String>,
}

/// A run with its history.
pub struct Shown {
    /// What is known without it.
    pub head: Head,
    /// All that happened.
    pub history: Vec<Entry>,
    /// Its fold.
    pub state: State,
}

/// A page of runs.
#[derive(Debug)]
pub struct Listed {
    /// Those that were looked for, the last begun first.
    pub heads: Vec<Head>,
    /// Runs of which nobody knows what they are, as their records do not open; only where none are looked for but all.
    pub damaged: Vec<RunId>,
    /// Where to go on.
    pub next: Option<PageToken>,
}

/// Something that a run asks people for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedOfPeople {
    /// Where.
    pub place: Place,
    /// For how many seconds.
    pub waited_s: u64,
}

// === impl Workflows ===

impl Workflows {
    /// Durable workflows over their rooms. Nothing is run before [`Workflows::go_on_with_all`].
    pub fn new(parts: WorkflowsParts) -> Self {
        let born_at = parts.tenants.platform().newest_revision().unwrap_or_else(|error| {
            tracing::warn!(%error, "runs that were cut by the end of the host are not told from others");
            0
        });
        let closing = Closing::new();
        let (pumps, live, retention) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Self(Arc::new(Shared { parts, born_at, closing, pumps, retention, live }))
    }

    /// Has runs kept after their end for as long as this says of their tenant; 30 days without it. What is longer than before holds
    /// for all that are there, what is shorter for those that end from then on. The first to come stays.
    pub fn set_retention(&self, retention: Retention) {
        drop(self.0.retention.set(retention));
    }

    pub(crate) fn retention_ms(&self, store: &TenantStore) -> u64 {
        let told = self.0.retention.get().zip(store.tenant()).and_then(|(retention, tenant)| retention(tenant));
        told.unwrap_or(RETENTION_MS)
    }

    /// Goes on with the runs of every tenant. Must be called inside a runtime.
    pub async fn go_on_with_all(&self) -> Result<(), WorkflowError> {
        for record in self.parts().tenants.list().await? {
            let Some(store) = self.parts().tenants.open_tenant(&record.id) else { continue };
            match self.has_runs(&store).await {
                Ok(true) => self.wake(&store),
                Ok(false) => {}
                // Its keys may be disabled: the pump looks again until they are not.
                Err(_) => self.wake(&store),
            }
        }
        Ok(())
    }

    /// Begins a run; false beside it when a run was begun under this key before. One that something below a run began counts in
    /// that one's family: `Limit` when there are as many as there may be, or it would be too deep.
    pub async fn begin(&self, store: &TenantStore, begin: Begin) -> Result<(Head, bool), WorkflowError> {
        check_begin(&begin)?;
        let at_ms = unix_ms(&*self.parts().clock);
        let run = self.id_of_new(store, &begin);
        let started = self.started(begin);
        limit("the depth of runs that began one another", started.depth as usize, CHILD_DEPTH_MAX as usize)?;
        let (ops, absent) = journal::begin_ops(&run, started.clone(), at_ms)?;
        // Where a head is lost and its history is not, the run was begun before: it is neither done again nor mixed with that.
        let unknown = Precondition::Absent(journal::log_key(&run, 0));
        let step = if started.root.is_some() { FamilyStep::ONE_MORE } else { FamilyStep::NONE };
        let root = started.root.as_ref().unwrap_or(&run);
        match step.write(store, root, ops, absent, vec![unknown]).await {
            Ok(_) => {
                self.wake(store);
                Ok((journal::head(store, &run).await?, true))
            }
            Err(WorkflowError::Store(StoreError::Conflict { precondition: 0 })) => {
                Ok((begun_before(store, &run, &started).await?, false))
            }
            Err(WorkflowError::Store(StoreError::Conflict { .. })) => Err(StoreError::Damaged.into()),
            // What is there already needs no room.
            Err(error @ WorkflowError::Limit { .. }) => match begun_before(store, &run, &started).await {
                Err(WorkflowError::UnknownRun) => Err(error),
                there => Ok((there?, false)),
            },
            Err(error) => Err(error),
        }
    }

    /// The run of a workflow that a plugin began under a key.
    pub async fn find(
        &self,
        store: &TenantStore,
        (plugin, workflow): (&PluginName, &str),
        key: &str,
    ) -> Result<Head, WorkflowError> {
        journal::head(store, &id_of_plugins_key(store, (plugin, workflow), key)).await
    }

    fn id_of_new(&self, store: &TenantStore, begin: &Begin) -> RunId {
        match (&begin.key, &begin.led_by) {
            (None, _) => RunId::random(&*self.parts().entropy),
            (Some(key), None) => journal::id_of(&[b"ringfence run key", store.uid().as_bytes(), key.as_bytes()]),
            (Some(key), Some(_)) => id_of_plugins_key(store, (&begin.plugin, &begin.workflow), key),
        }
    }

    fn started(&self, begin: Begin) -> Started {
        let mut dice = [0_u8; 32];
        self.parts().entropy.fill(&mut dice);
        let led_by = begin.led_by.unwrap_or_default();
        let (root, depth) = match &led_by.family {
            Some(family) => (Some(family.root.clone()), family.depth.saturating_add(1)),
            None => (None, 0),
        };
        Started {
            plugin: begin.plugin,
            version: begin.version,
            workflow: begin.workflow,
            input: begin.input,
            by: begin.by,
            parent: None,
            depth,
            root,
            first: None,
            attributes: begin.attributes,
            dice: HEXLOWER.encode(&dice),
            signal_keys: Vec::new(),
            // A run is a trace of its own, and of its family it says itself.
            led_by: Trail { traceparent: None, family: None, ..led_by },
        }
    }

    /// Does something to a run, durably; what is known of it afterwards. Of one that went on as another, what is meant for whoever
    /// goes on is done to the newest.
    pub async fn command(
        &self,
        store: &TenantStore,
        run: &RunId,
        command: &Command,
        by: &PrincipalId,
    ) -> Result<Head, WorkflowError> {
        // Nobody agrees to anything by this door but in tests; a word that was given counts less, never more.
        let people = People { is_same: &|who| who == by, basis: &|_| Basis::Elsewhere };
        self.command_by(store, run, command, by, people).await
    }

    /// The same, told of people: a decision of two takes two, both of whom may still agree.
    pub async fn command_by(
        &self,
        store: &TenantStore,
        run: &RunId,
        command: &Command,
        by: &PrincipalId,
        people: People<'_>,
    ) -> Result<Head, WorkflowError> {
        if let Command::Signal { payload, .. } = command {
            // Before it is read: a guest may send far more.
            limit("the payload of a signal", payload.len(), PAYLOAD_BYTES_MAX)?;
            check_json(payload, "the payload of a signal")?;
        }
        let mut run = run.clone();
        for _ in 0..FOLLOWED_COUNT_MAX {
            if !command.is_for_the_newest() {
                return self.command_one(store, &run, command, by, people).await;
            }
            match journal::newest(store, &run).await {
                Ok(newest) => run = newest.run,
                // What it went on as is not kept any more: it has ended.
                Err(WorkflowError::UnknownRun) => return self.command_one(store, &run, command, by, people).await,
                Err(error) => return Err(error),
            }
            let done = self.command_one(store, &run, command, by, people).await;
            let is_ended = matches!(done, Err(WorkflowError::Refused(Refusal::Ended)));
            // It may have gone on at this moment.
            if !is_ended || journal::head(store, &run).await?.status != Status::Continued {
                return done;
            }
        }
        Err(StoreError::Busy.into())
    }

    async fn command_one(
        &self,
        store: &TenantStore,
        run: &RunId,
        command: &Command,
        by: &PrincipalId,
        people: People<'_>,
    ) -> Result<Head, WorkflowError> {
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let live = match (self.live(store, run).await, command) {
                // Whatever rotted, it can be ended.
                (Err(error), Command::Terminate { reason }) if error.is_damage() => {
                    return self.end_unread(store, run, by, reason).await;
                }
                (live, _) => live?,
            };
            let mut loaded = live.lock().await;
            let at_ms = unix_ms(&*self.parts().clock);
            let events = command::command(&loaded.state, command, by, &people, at_ms)?;
            if events.is_empty() {
                return Ok(loaded.head.clone());
            }
            match events.first() {
                Some(Event::Ended(Ending::Terminated { .. })) => self.cancel_children(&loaded, 0).await?,
                // The code that is done again begins others.
                Some(Event::Rewound { to, .. }) => self.cancel_children(&loaded, to.first()).await?,
                _ => {}
            }
            match loaded.append(events, at_ms, Mark::Keep, Vec::new()).await {
                Ok(()) => {
                    // One that ends here is not driven any more.
                    if loaded.state.ending.is_some() {
                        self.swear_at_the_end(&mut loaded).await;
                    }
                    let head = loaded.head.clone();
                    drop(loaded);
                    self.wake(store);
                    return Ok(head);
                }
                Err(WorkflowError::Store(StoreError::Conflict { .. })) => {
                    drop(loaded);
                    self.forget(store, run);
                }
                Err(error) => return Err(error),
            }
        }
        Err(WorkflowError::Store(StoreError::Conflict { precondition: 0 }))
    }

    /// Up to `limit` runs, the last begun first, and where to go on; a page may hold fewer, or none, and still have a next.
    pub async fn list(
        &self,
        store: &TenantStore,
        filter: &Filter,
        before: Option<&PageToken>,
        limit: usize,
    ) -> Result<Listed, WorkflowError> {
        let (mut heads, mut damaged, mut token) = (Vec::new(), Vec::new(), before.cloned());
        let mut left = LOOKED_AT_COUNT_MAX;
        while left > 0 {
            let wanted = limit.saturating_sub(heads.len() + damaged.len()).max(1).min(left);
            let (names, next) = store.scan_names_back(&journal::list_prefix(), token.as_ref(), wanted).await?;
            left = left.saturating_sub(names.len().max(1));
            token = next;
            for key in names {
                let Some(run) = key.last_name().and_then(|name| name.parse::<RunId>().ok()) else { continue };
                match journal::head(store, &run).await {
                    Ok(head) if filter.takes(&head) => heads.push(head),
                    Ok(_) | Err(WorkflowError::UnknownRun) => {}
                    Err(error) if error.is_damage() => damaged.extend(filter.is_all().then_some(run)),
                    Err(error) => return Err(error),
                }
            }
            if heads.len() + damaged.len() >= limit || token.is_none() {
                break;
            }
        }
        Ok(Listed { heads, damaged, next: token })
    }

    /// What is known of a run without its history.
    pub async fn head(&self, store: &TenantStore, run: &RunId) -> Result<Head, WorkflowError> {
        journal::head(store, run).await
    }

    /// What a run published under a name, JSON. Of one that went on as another, the newest answers.
    pub async fn published(
        &self,
        store: &TenantStore,
        run: &RunId,
        name: &str,
    ) -> Result<Option<String>, WorkflowError> {
        let newest = journal::newest(store, run).await?.run;
        Ok(self.show(store, &newest).await?.state.published.remove(name))
    }

    /// A run with its history.
    pub async fn show(&self, store: &TenantStore, run: &RunId) -> Result<Shown, WorkflowError> {
        let head = journal::head(store, run).await?;
        let history = journal::history(store, run, head.events_count).await?;
        let state = State::of(&history);
        Ok(Shown { head, history, state })
    }

    /// What the run asks people for under a name, as its head says; none when it asks for nothing of that name. The history is
    /// read only where the head does not know, so that nobody who may not decide makes the host read it.
    pub async fn asked(
        &self,
        store: &TenantStore,
        head: &Head,
        name: &str,
    ) -> Result<Option<AskedOfPeople>, WorkflowError> {
        if head.status.is_ended() {
            return Ok(None);
        }
        let found = if head.asks.is_known() {
            head.asks.first(name).map(|ask| (ask.place.clone(), ask.since_ms))
        } else {
            self.asked_long_ago(store, &head.run, name).await?
        };
        let now_ms = unix_ms(&*self.parts().clock);
        let waited_s = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1_000;
        Ok(found.map(|(place, since_ms)| AskedOfPeople { place, waited_s: waited_s(since_ms) }))
    }

    /// Where and since when the run asks for something, of whose head that is not known.
    async fn asked_long_ago(
        &self,
        store: &TenantStore,
        run: &RunId,
        name: &str,
    ) -> Result<Option<(Place, u64)>, WorkflowError> {
        let Shown { history, state, .. } = self.show(store, run).await?;
        let Some(place) = state.asked(name) else { return Ok(None) };
        let is_it = |entry: &&Entry| matches!(&entry.event, Event::ApprovalAsked { place: at, .. } if at == place);
        let since_ms = history.iter().rev().find(is_it).map_or(0, |entry| entry.at_ms);
        Ok(Some((place.clone(), since_ms)))
    }

    /// The tenant can run things again: it was resumed, its keys were enabled, its quota was raised.
    pub fn go_on(&self, store: &TenantStore) {
        self.pump(store).go_on();
    }

    /// The tenant's records are others now: it was put back to a backup. What is in memory of its runs is forgotten.
    pub fn read_anew(&self, store: &TenantStore) {
        let uid = store.uid();
        self.live_map().retain(|(of, _), _| *of != uid);
        self.owe(store);
        self.go_on(store);
    }

    /// Ends in order: no run is taken up and no step begins from now on, and what is under way is waited for, at most so
    /// long. What is not over by then is replayed after the next start.
    pub async fn drain(&self, most: Duration) {
        let left_count = self.0.closing.close(most).await;
        if left_count > 0 {
            tracing::warn!(left_count, "runs are cut by the end of the host and go on after the next start");
        }
    }

    pub(crate) fn parts(&self) -> &WorkflowsParts {
        &self.0.parts
    }

    pub(crate) fn closing(&self) -> &Closing {
        &self.0.closing
    }

    /// What was written up to this revision was written before the host started.
    pub(crate) fn born_at(&self) -> u64 {
        self.0.born_at
    }

    /// Something of the tenant's runs is not on the audit log: its pump tries again.
    pub(crate) fn owe(&self, store: &TenantStore) {
        self.pump(store).owe();
    }

    pub(crate) fn wake(&self, store: &TenantStore) {
        self.pump(store).wake();
    }

    /// The one copy of a run that this host works on.
    pub(crate) async fn live(
        &self,
        store: &TenantStore,
        run: &RunId,
    ) -> Result<Arc<AsyncMutex<Loaded>>, WorkflowError> {
        let key = (store.uid(), run.clone());
        if let Some(live) = self.live_map().get(&key).and_then(Weak::upgrade) {
            return Ok(live);
        }
        let mut loaded = Loaded::read(store, run).await?;
        loaded.retention_ms = self.retention_ms(store);
        let mut map = self.live_map();
        // Somebody may have read it at the same moment: theirs counts.
        if let Some(live) = map.get(&key).and_then(Weak::upgrade) {
            return Ok(live);
        }
        if map.len() >= LIVE_COUNT_SWEPT {
            map.retain(|_, live| live.strong_count() > 0);
        }
        let live = Arc::new(AsyncMutex::new(loaded));
        map.insert(key, Arc::downgrade(&live));
        Ok(live)
    }

    /// Lets go of a copy that another host has overtaken.
    pub(crate) fn forget(&self, store: &TenantStore, run: &RunId) {
        self.live_map().remove(&(store.uid(), run.clone()));
    }

    /// Lets go of a copy that nobody holds any more.
    pub(crate) fn let_go(&self, store: &TenantStore, run: &RunId) {
        let (mut live, key) = (self.live_map(), (store.uid(), run.clone()));
        if live.get(&key).is_some_and(|live| live.strong_count() == 0) {
            live.remove(&key);
        }
    }

    pub(crate) fn forget_tenant(&self, store: &TenantStore) {
        self.pumps().remove(&store.uid());
    }

    /// Cancels the runs that a run began at places from this number on, for its sake; those that have ended stay as they are.
    /// An error is before anything happens to the run itself: whoever ends or rewinds it does so again, and no child is left.
    pub(crate) async fn cancel_children(&self, loaded: &Loaded, first: u32) -> Result<(), WorkflowError> {
        let children: Vec<RunId> = loaded.state.children_from(first).cloned().collect();
        for child in children {
            match self.cancel_child(loaded.store(), &child, &loaded.head.by).await {
                // Trying again would not help, and what cannot be read is not driven either.
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, run = %child, "a run could not be cancelled with its parent");
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Cancels a child, or the run that it went on as.
    pub(crate) async fn cancel_child(
        &self,
        store: &TenantStore,
        child: &RunId,
        by: &PrincipalId,
    ) -> Result<(), WorkflowError> {
        let head = match journal::newest(store, child).await {
            Err(WorkflowError::UnknownRun) => return Ok(()),
            head => head?,
        };
        if head.ending.is_some() {
            return Ok(());
        }
        match self.cancel_or_end(store, &head.run, by).await {
            // It ended at this moment, or is kept no longer.
            Err(WorkflowError::Refused(Refusal::Ended) | WorkflowError::UnknownRun) => Ok(()),
            other => other,
        }
    }

    /// Cancels a run, and ends it where it stands when its history has no room for more than its end.
    async fn cancel_or_end(&self, store: &TenantStore, run: &RunId, by: &PrincipalId) -> Result<(), WorkflowError> {
        match Box::pin(self.command(store, run, &Command::Cancel, by)).await {
            Err(WorkflowError::Limit { .. } | WorkflowError::Refused(Refusal::Limit { .. })) => {
                let reason = "the run that began it does not go on, and its history has no room for a cancelling";
                let terminate = Command::Terminate { reason: reason.to_owned() };
                Box::pin(self.command(store, run, &terminate, by)).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    fn pump(&self, store: &TenantStore) -> Arc<Pump> {
        let mut pumps = self.pumps();
        if let Some(pump) = pumps.get(&store.uid()) {
            return Arc::clone(pump);
        }
        let pump = Pump::new(store.clone());
        pumps.insert(store.uid(), Arc::clone(&pump));
        tokio::spawn(Arc::clone(&pump).run(self.clone()));
        pump
    }

    async fn has_runs(&self, store: &TenantStore) -> Result<bool, WorkflowError> {
        for prefix in [journal::ready_prefix(), journal::due_prefix(), journal::unsworn_prefix()] {
            let (names, next) = store.scan_names(&prefix, None, 1).await?;
            if !names.is_empty() || next.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pumps(&self) -> MutexGuard<'_, HashMap<String, Arc<Pump>>> {
        self.0.pumps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live_map(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filter {
    /// Whether it takes every run.
    fn is_all(&self) -> bool {
        self.status.is_none() && self.plugin.is_none() && self.workflow.is_none() && self.attributes.is_empty()
    }

    fn takes(&self, head: &Head) -> bool {
        self.status.is_none_or(|status| status == head.status)
            && self.plugin.as_ref().is_none_or(|plugin| *plugin == head.plugin)
            && self.workflow.as_ref().is_none_or(|workflow| *workflow == head.workflow)
            && self.attributes.iter().all(|(name, value)| head.attributes.get(name) == Some(value))
    }
}

/// The id of the run that plugins begin under a key.
fn id_of_plugins_key(store: &TenantStore, (plugin, workflow): (&PluginName, &str), key: &str) -> RunId {
    let uid = store.uid();
    let words = [uid.as_str(), plugin.as_str(), workflow, key].map(str::as_bytes);
    let [uid, plugin, workflow, key] = words;
    journal::id_of(&[b"ringfence run key of plugins", uid, plugin, workflow, key])
}

/// A run that is there, if it was begun with the same. Of its history only how it began is read: guests ask again and again.
async fn begun_before(store: &TenantStore, run: &RunId, started: &Started) -> Result<Head, WorkflowError> {
    let there = journal::head(store, run).await?;
    let first: Option<Vec<Entry>> = store.get_json(&journal::log_key(run, 0)).await?;
    let Some(Entry { event: Event::Started(old), .. }) = first.and_then(|entries| entries.into_iter().next()) else {
        return Err(StoreError::Damaged.into());
    };
    let is_same = old.plugin == started.plugin && old.workflow == started.workflow && old.input == started.input;
    if is_same { Ok(there) } else { Err(WorkflowError::OtherRun) }
}

fn check_begin(begin: &Begin) -> Result<(), WorkflowError> {
    limit("the name of a workflow", begin.workflow.len(), NAME_BYTES_MAX)?;
    limit("the input of a run", begin.input.len(), PAYLOAD_BYTES_MAX)?;
    limit("the number of attributes", begin.attributes.len(), ATTRIBUTES_COUNT_MAX)?;
    for (name, value) in &begin.attributes {
        limit("the name of an attribute", name.len(), NAME_BYTES_MAX)?;
        limit("the value of an attribute", value.len(), ATTRIBUTE_BYTES_MAX)?;
    }
    check_json(&begin.input, "the input of a run")
}

fn check_json(text: &str, what: &'static str) -> Result<(), WorkflowError> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop).map_err(|_| WorkflowError::NotJson(what))
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), WorkflowError> {
    if count > max { Err(WorkflowError::Limit { what, max: max as u64 }) } else { Ok(()) }
}
