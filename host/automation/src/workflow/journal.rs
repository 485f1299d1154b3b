//! A run in the tenant's sealed store: a head, the log of its events, and the marks by which it is found.
//!
//! Keys: `run/head/<run>` and `run/log/<run>/<number>` count as what the tenant holds; `run-ready/<run>` is there while the
//! run has something to do, `run-due/<ms>/<run>` for each time it waits for, `run-list/<ms>/<run>` for listings,
//! `run-family/<run>` is how many descendants of a run go on, and `run-unsworn/<run>` is there while not all of its events are
//! on the audit log: the number of the first of which that is not known. `run-last/<run>` is, with the first of those that went
//! on as another, the newest of them.
//! INVARIANT: every batch of a run has its head's revision as precondition, so that two that append at once cannot both
//! succeed; and the marks change in the batch with the events they follow from.

use std::collections::{BTreeMap, VecDeque};

use ringfence_core::workflow::Place;
use ringfence_core::{PluginName, PrincipalId, RunId};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::workflow::asks::Asks;
use crate::workflow::decide::Names;
use crate::workflow::error::WorkflowError;
use crate::workflow::event::{Ending, Entry, Event, Started};
use crate::workflow::family::FamilyStep;
use crate::workflow::limits::{
    CONTINUATIONS_COUNT_MAX, HISTORY_BYTES_MAX, RESERVED_BYTES_MAX, RETENTION_MS, TRANSITIONS_BYTES_MAX,
    TRANSITIONS_COUNT_MAX,
};
use crate::workflow::mending::{beyond, is_there, marked};
use crate::workflow::purge::PURGE;
use crate::workflow::state::State;

/// Records of one page of a history.
pub(super) const PAGE_COUNT: usize = 1_000;

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It has something to do.
    Running,
    /// It waits.
    Waiting,
    /// Somebody paused it.
    Paused,
    /// Somebody has to mend it.
    Stuck,
    /// It ended with a result.
    Completed,
    /// It ended with an error.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// It was stopped.
    Terminated,
    /// It went on as another.
    Continued,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Waiting,
        Self::Paused,
        Self::Stuck,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Terminated,
        Self::Continued,
    ];
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Stuck => "stuck",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Terminated => "terminated",
            Self::Continued => "continued",
        }
    }
    /// Whether nothing more happens in it.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Terminated | Self::Continued)
    }
}

/// What is known of a run without its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Its id.
    pub run: RunId,
    /// Of which plugin.
    pub plugin: PluginName,
    /// Which version it runs.
    pub version: Version,
    /// Which workflow.
    pub workflow: String,
    /// What it is doing.
    pub status: Status,
    /// By whom it was begun.
    pub by: PrincipalId,
    /// Who stands at the beginning of what led to it; none where nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began_by: Option<PrincipalId>,
    /// The run whose child it is.
    pub parent: Option<RunId>,
    /// When it began, Unix milliseconds.
    pub started_ms: u64,
    /// When something last happened.
    pub changed_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How many events there are.
    pub events_count: u64,
    /// How many bytes they are.
    pub events_bytes: u64,
    /// By what it is found.
    pub attributes: BTreeMap<String, String>,
    /// How it ended.
    pub ending: Option<Ending>,
    /// Why it is stuck.
    pub stuck: Option<String>,
    /// What it asks people for.
    #[serde(default)]
    pub(crate) asks: Asks,
}

/// A run with its history folded, at one revision of its head.
pub struct Loaded {
    store: TenantStore,
    /// What is known without the history.
    pub head: Head,
    /// The fold of the history.
    pub state: State,
    revision: u64,
    /// How many events are on the audit log; together with `unsworn` all of them.
    sworn_count: u64,
    /// The others, in words.
    unsworn: VecDeque<String>,
    /// What `run-unsworn` says, if it is there.
    marked: Option<u64>,
    /// How long it is kept after its end, milliseconds.
    pub retention_ms: u64,
}

/// What a batch does to whether the run has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It has, from now on.
    Ready,
    /// As before.
    Keep,
}

/// How ids and keys of one run are made: hashes under the run's id, which nobody can guess.
pub struct RunNames<'a>(pub &'a RunId);

// === impl Head ===

impl Head {
    fn new(run: RunId, started: &Started, at_ms: u64) -> Self {
        Self {
            run,
            plugin: started.plugin.clone(),
            version: started.version.clone(),
            workflow: started.workflow.clone(),
            status: Status::Running,
            by: started.by.clone(),
            began_by: started.led_by.began_by.clone(),
            parent: started.parent.clone(),
            started_ms: at_ms,
            changed_ms: at_ms,
            ended_ms: None,
            events_count: 1,
            events_bytes: 0,
            attributes: started.attributes.clone(),
            ending: None,
            stuck: None,
            asks: Asks::nothing(),
        }
    }

    /// Who began it, or on whose behalf a plugin did: nobody agrees to what he began by what he has a plugin do.
    pub fn starter(&self) -> &PrincipalId {
        self.began_by.as_ref().unwrap_or(&self.by)
    }

    pub(super) fn apply(&mut self, event: &Event, at_ms: u64) {
        self.changed_ms = at_ms;
        self.events_count = self.events_count.saturating_add(1);
        self.asks.apply(event, at_ms);
        match event {
            Event::AttributeSet { name, value, .. } => {
                self.attributes.insert(name.clone(), value.clone());
            }
            Event::Paused { .. } => self.status = Status::Paused,
            Event::Stuck { code, message } => {
                // One that is paused stays so; that it is stuck is said when it is resumed.
                if self.status != Status::Paused {
                    self.status = Status::Stuck;
                }
                self.stuck = Some(format!("{code}: {message}"));
            }
            Event::Ended(ending) => {
                self.status = ending.status();
                self.ending = Some(ending.clone());
                self.ended_ms = Some(at_ms);
            }
            Event::Migrated { version, .. } => {
                self.version = version.clone();
                self.go_on();
            }
            Event::Resumed { .. } if self.stuck.is_some() => self.status = Status::Stuck,
            Event::Resumed { .. } => self.status = Status::Running,
            Event::Rewound { .. } | Event::Retried { .. } => self.go_on(),
            // One that is paused or stuck stays so, whatever it is told.
            event if wakes(event) && self.status == Status::Waiting => self.status = Status::Running,
            _ => {}
        }
    }

    fn go_on(&mut self) {
        if self.status != Status::Paused {
            self.status = Status::Running;
        }
        (self.ending, self.ended_ms, self.stuck) = (None, None, None);
    }
}

impl Ending {
    /// What a run that ended so is doing.
    pub const fn status(&self) -> Status {
        match self {
            Self::Completed { .. } => Status::Completed,
            Self::Failed { .. } => Status::Failed,
            Self::Cancelled { .. } => Status::Cancelled,
            Self::Terminated { .. } => Status::Terminated,
            Self::Continued { .. } => Status::Continued,
        }
    }

    /// What whoever waits for the run is told; none when the run goes on as another.
    pub fn told(&self) -> Option<Result<String, String>> {
        match self {
            Self::Completed { output } => Some(Ok(output.clone())),
            Self::Failed { code, message } => Some(Err(format!("{code}: {message}"))),
            Self::Cancelled { .. } => Some(Err("the run was cancelled".to_owned())),
            Self::Terminated { reason, .. } => Some(Err(format!("the run was terminated: {reason}"))),
            Self::Continued { .. } => None,
        }
    }
}

// === impl Loaded ===

impl Loaded {
    /// Reads a run.
    pub async fn read(store: &TenantStore, run: &RunId) -> Result<Self, WorkflowError> {
        let record = store.get(&head_key(run)).await?.ok_or(WorkflowError::UnknownRun)?;
        let head: Head = record.json()?;
        let marked = marked(store, run).await?;
        let history = history(store, run, head.events_count).await?;
        let state = State::of(&history);
        let sworn_count = marked.unwrap_or(head.events_count).min(head.events_count);
        let count = |events: u64| usize::try_from(events).unwrap_or(usize::MAX);
        let unsworn = history.iter().take(count(head.events_count)).skip(count(sworn_count));
        let unsworn = unsworn.map(|entry| entry.event.in_words()).collect();
        let revision = record.revision;
        let retention_ms = RETENTION_MS;
        Ok(Self { store: store.clone(), head, state, revision, sworn_count, unsworn, marked, retention_ms })
    }

    /// The tenant's store.
    pub fn store(&self) -> &TenantStore {
        &self.store
    }

    /// Appends events durably, with the marks that follow from them and what else belongs into the same batch. With them the
    /// family's count follows: `Limit` when a child would be one too many.
    pub async fn append(
        &mut self,
        events: Vec<Event>,
        at_ms: u64,
        mark: Mark,
        more: Vec<Op>,
    ) -> Result<(), WorkflowError> {
        self.append_if(events, at_ms, mark, more, Vec::new()).await
    }

    /// The same while more is as it was, beside the run itself.
    pub async fn append_if(
        &mut self,
        events: Vec<Event>,
        at_ms: u64,
        mark: Mark,
        more: Vec<Op>,
        while_so: Vec<Precondition>,
    ) -> Result<(), WorkflowError> {
        let run = self.head.run.clone();
        let mut head = self.head.clone();
        let is_alone = more.is_empty();
        let mut ops = more;
        let number = head.events_count;
        for event in &events {
            head.apply(event, at_ms);
            ops.extend(due_of(event).map(|due_ms| Op::put(due_key(due_ms, &run), Vec::new())));
        }
        let step = self.family_step(&head, &events);
        let entries: Vec<Entry> = events.into_iter().map(|event| Entry { at_ms, event }).collect();
        let log = serde_json::to_vec(&entries).map_err(StoreError::Form)?;
        head.events_bytes = head.events_bytes.saturating_add(log.len() as u64);
        let is_closing = entries.iter().any(|entry| matches!(entry.event, Event::Ended(_) | Event::Stuck { .. }));
        if head.events_bytes > HISTORY_BYTES_MAX && !is_closing {
            return Err(WorkflowError::Limit { what: "the bytes of a history", max: HISTORY_BYTES_MAX });
        }
        let marked = Some(self.sworn_count);
        if self.marked != marked {
            ops.push(Op::put_json(unsworn_key(&run), &self.sworn_count)?);
        }
        // What another run begins with is no word of the host's, whatever this one ends with.
        let is_short = is_alone && log.len() <= RESERVED_BYTES_MAX;
        let is_ours = is_short && entries.iter().all(|entry| entry.event.is_of_the_host());
        ops.push(Op::put(log_key(&run, number), log));
        let wakes = mark == Mark::Ready || entries.iter().any(|entry| wakes(&entry.event));
        if head.status.is_ended() {
            ops.push(Op::put(due_key(at_ms.saturating_add(self.retention_ms), &run), PURGE));
            // Whoever waits for it waits for its end, and not for that it goes on.
            let parent = head.parent.as_ref().filter(|_| head.status != Status::Continued);
            ops.extend(parent.map(|parent| Op::put(ready_key(parent), Vec::new())));
            ops.push(Op::delete(ready_key(&run)));
        } else if wakes {
            ops.push(Op::put(ready_key(&run), Vec::new()));
        }
        ops.push(Op::put_json(head_key(&run), &head)?);
        let store = if is_ours { self.store.with_reserve() } else { self.store.clone() };
        let revision = self.write(&store, ops, step, while_so).await?;
        for entry in &entries {
            self.state.apply(&entry.event);
            self.unsworn.push_back(entry.event.in_words());
        }
        (self.head, self.revision, self.marked) = (head, revision, marked);
        Ok(())
    }

    /// How many events are on the audit log, and how many are not.
    pub fn sworn_counts(&self) -> (u64, usize) {
        (self.sworn_count, self.unsworn.len())
    }

    /// The next events that are not on the audit log, in words: as many as one entry of it has room for.
    pub fn unsworn(&self) -> Vec<String> {
        let mut bytes = 0_usize;
        let fits = |text: &&String| {
            bytes = bytes.saturating_add(serde_json::to_string(text).map_or(text.len(), |json| json.len() + 1));
            bytes <= TRANSITIONS_BYTES_MAX
        };
        let words: Vec<String> = self.unsworn.iter().take(TRANSITIONS_COUNT_MAX).take_while(fits).cloned().collect();
        if words.is_empty() { self.unsworn.front().cloned().into_iter().collect() } else { words }
    }

    /// So many of them are there now. The mark follows with the next batch, so that what is cut between is sworn to twice
    /// rather than never.
    pub fn swore(&mut self, count: usize) {
        self.sworn_count =
            self.sworn_count.saturating_add(self.unsworn.drain(..count.min(self.unsworn.len())).len() as u64);
    }

    /// Takes the mark away when all events are on the audit log.
    pub async fn settle(&mut self) -> Result<(), WorkflowError> {
        if self.is_settled() {
            let run = &self.head.run;
            let precondition = Precondition::Revision(head_key(run), self.revision);
            self.store.batch(vec![Op::delete(unsworn_key(run))], vec![precondition]).await?;
            self.marked = None;
        }
        Ok(())
    }

    /// Whether the mark is there and all events are on the audit log.
    fn is_settled(&self) -> bool {
        self.marked.is_some() && self.unsworn.is_empty()
    }

    /// Writes a batch of this run, with the count of its family. Who counts at the same moment counts again.
    async fn write(
        &self,
        store: &TenantStore,
        ops: Vec<Op>,
        step: FamilyStep,
        while_so: Vec<Precondition>,
    ) -> Result<u64, WorkflowError> {
        let own = Precondition::Revision(head_key(&self.head.run), self.revision);
        step.write(store, self.root(), ops, own, while_so).await
    }

    /// The first run of its family.
    pub fn root(&self) -> &RunId {
        self.state.started.as_ref().and_then(|started| started.root.as_ref()).unwrap_or(&self.head.run)
    }

    /// The first of the runs for which it goes on; itself when it goes on for nobody.
    pub fn first(&self) -> &RunId {
        self.state.started.as_ref().and_then(|started| started.first.as_ref()).unwrap_or(&self.head.run)
    }

    /// What tells the first of its chain that it goes on as this one, and while what. Nothing where the first is not kept any
    /// more: what is told to it would stay for ever.
    pub async fn tell_first(&self, next: &RunId) -> Result<(Option<Op>, Option<Precondition>), WorkflowError> {
        let (key, first) = (last_key(self.first()), head_key(self.first()));
        let while_so = match self.store.get(&key).await {
            // What it was told rotted: it is told anew.
            Err(StoreError::Damaged) => Precondition::Present(key.clone()),
            told => match told?.map(|record| record.revision) {
                Some(revision) => Precondition::Revision(key.clone(), revision),
                None => {
                    if !is_there(&self.store, &first).await? {
                        return Ok((None, None));
                    }
                    // It was not told yet, or what it was told was removed.
                    Precondition::Present(first)
                }
            },
        };
        Ok((Some(Op::put_json(key, next)?), Some(while_so)))
    }

    /// What events do to the count of the family: a child more, this run no longer, or again. One that goes on as another
    /// hands its place over; only the first run of all has none.
    fn family_step(&self, after: &Head, events: &[Event]) -> FamilyStep {
        let children_count = events.iter().filter(|event| matches!(event, Event::ChildBegun { .. })).count() as u64;
        let is_descendant = *self.root() != self.head.run;
        let more_count = match (self.head.status.is_ended(), after.status) {
            (false, Status::Continued) => i64::from(!is_descendant),
            (false, status) if is_descendant && status.is_ended() => -1,
            (true, status) if is_descendant && !status.is_ended() => 1,
            _ => 0,
        };
        FamilyStep { children_count, more_count }
    }

    /// Takes the mark away that the run has something to do, if it is the one that was seen; says whether it was.
    pub async fn rest(&mut self, ready_revision: u64, more: Vec<Op>) -> Result<bool, WorkflowError> {
        let run = self.head.run.clone();
        let mut head = self.head.clone();
        if head.status == Status::Running {
            head.status = Status::Waiting;
        }
        let (mut ops, is_settled) = (more, self.is_settled());
        ops.extend([Op::delete(ready_key(&run)), Op::put_json(head_key(&run), &head)?]);
        ops.extend(is_settled.then(|| Op::delete(unsworn_key(&run))));
        let preconditions = vec![
            Precondition::Revision(head_key(&run), self.revision),
            Precondition::Revision(ready_key(&run), ready_revision),
        ];
        match self.store.batch(ops, preconditions).await {
            Ok(commit) => {
                (self.head, self.revision) = (head, commit.revision);
                self.marked = self.marked.filter(|_| !is_settled);
                Ok(true)
            }
            Err(StoreError::Conflict { precondition: 1 }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What begins a run, for a batch: refused when there is a run of that id already.
pub fn begin_ops(run: &RunId, started: Started, at_ms: u64) -> Result<(Vec<Op>, Precondition), WorkflowError> {
    begin_with(run, started, Vec::new(), at_ms)
}

/// The same of a run that goes on for another, with the signals that one hands to it: `Limit` when they are too many bytes.
pub fn begin_with(
    run: &RunId,
    started: Started,
    received: Vec<Event>,
    at_ms: u64,
) -> Result<(Vec<Op>, Precondition), WorkflowError> {
    let mut head = Head::new(run.clone(), &started, at_ms);
    received.iter().for_each(|event| head.apply(event, at_ms));
    let events = std::iter::once(Event::Started(Box::new(started))).chain(received);
    let entries: Vec<Entry> = events.map(|event| Entry { at_ms, event }).collect();
    let log = serde_json::to_vec(&entries).map_err(StoreError::Form)?;
    head.events_bytes = log.len() as u64;
    if head.events_bytes > HISTORY_BYTES_MAX {
        return Err(WorkflowError::Limit { what: "the bytes of a history", max: HISTORY_BYTES_MAX });
    }
    let ops = vec![
        Op::put_json(head_key(run), &head)?,
        Op::put(log_key(run, 0), log),
        Op::put(ready_key(run), Vec::new()),
        Op::put(list_key(at_ms, run), Vec::new()),
        Op::put_json(unsworn_key(run), &0_u64)?,
    ];
    Ok((ops, Precondition::Absent(head_key(run))))
}

/// What is known of a run without its history.
pub async fn head(store: &TenantStore, run: &RunId) -> Result<Head, WorkflowError> {
    store.get_json(&head_key(run)).await?.ok_or(WorkflowError::UnknownRun)
}

/// What is known of the newest of those that a run went on as; of the run itself while it did not. One whose chain was begun before
/// the first of it knew the newest is followed from one to the next, so many of them: what is given is one that went on, then. So is
/// one of which what the first knew rotted or was removed, also where those between are not kept: each one's name tells the next.
pub async fn newest(store: &TenantStore, run: &RunId) -> Result<Head, WorkflowError> {
    let (mut found, mut is_rotten) = (head(store, run).await?, false);
    for _ in 0..CONTINUATIONS_COUNT_MAX {
        let Some(Ending::Continued { run: next }) = &found.ending else { break };
        let last = store.get_json::<RunId>(&last_key(&found.run)).await;
        let is_lost = matches!(last, Err(StoreError::Damaged | StoreError::Form(_)));
        is_rotten |= is_lost;
        let last = if is_lost { None } else { last? };
        let (is_told, next) = (last.is_some(), last.unwrap_or_else(|| next.clone()));
        found = match head(store, &next).await {
            Err(WorkflowError::UnknownRun) if !is_told => match beyond(store, &next).await {
                Err(WorkflowError::UnknownRun) if is_rotten => return Err(StoreError::Damaged.into()),
                found => found?,
            },
            next => next?,
        };
    }
    Ok(found)
}

/// A run's whole history: damaged when some of it is not there, so that nothing is done again that was done.
pub async fn history(store: &TenantStore, run: &RunId, events_count: u64) -> Result<Vec<Entry>, WorkflowError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(usize::try_from(events_count.min(4_096)).unwrap_or(0));
    let (prefix, mut after) = (log_prefix(run), None);
    loop {
        let page = store.scan(&prefix, after.as_ref(), PAGE_COUNT).await?;
        for (_, record) in &page.records {
            entries.extend(record.json::<Vec<Entry>>()?);
        }
        after = page.next;
        if after.is_none() {
            // What lies there is what the head counts, or more when something was appended meanwhile.
            let is_whole = entries.len() as u64 >= events_count;
            return if is_whole { Ok(entries) } else { Err(StoreError::Damaged.into()) };
        }
    }
}

/// The marks of runs that have something to do.
pub fn ready_prefix() -> Key {
    Key::new(["run-ready"])
}
/// The mark that a run has something to do.
pub fn ready_key(run: &RunId) -> Key {
    Key::new(["run-ready", run.as_str()])
}
/// The times that runs wait for.
pub fn due_prefix() -> Key {
    Key::new(["run-due"])
}
/// A time that a run waits for.
pub fn due_key(due_ms: u64, run: &RunId) -> Key {
    due_prefix().number(due_ms).push(run.as_str())
}
/// How many descendants of a run have not ended; there is none when it is 0.
pub fn family_key(root: &RunId) -> Key {
    Key::new(["run-family", root.as_str()])
}
/// The marks of runs of which not all is on the audit log.
pub fn unsworn_prefix() -> Key {
    Key::new(["run-unsworn"])
}
/// The mark of one.
pub fn unsworn_key(run: &RunId) -> Key {
    unsworn_prefix().push(run.as_str())
}
/// The newest of the runs that one went on as.
pub fn last_key(first: &RunId) -> Key {
    Key::new(["run-last", first.as_str()])
}
/// All runs, by when they began.
pub fn list_prefix() -> Key {
    Key::new(["run-list"])
}

pub(super) fn list_key(started_ms: u64, run: &RunId) -> Key {
    list_prefix().number(started_ms).push(run.as_str())
}

pub(super) fn head_key(run: &RunId) -> Key {
    Key::new(["run", "head", run.as_str()])
}

pub(super) fn log_prefix(run: &RunId) -> Key {
    Key::new(["run", "log", run.as_str()])
}

pub(super) fn log_key(run: &RunId, number: u64) -> Key {
    log_prefix(run).number(number)
}

/// Whether an event gives the run something to do.
pub fn wakes(event: &Event) -> bool {
    matches!(
        event,
        Event::SignalReceived { .. }
            | Event::CancelAsked { .. }
            | Event::Resumed { .. }
            | Event::Rewound { .. }
            | Event::Retried { .. }
            | Event::Migrated { .. }
            | Event::ApprovalGiven { .. }
    )
}

/// When an event wants the run to be looked at again.
fn due_of(event: &Event) -> Option<u64> {
    match event {
        Event::SleepBegun { until_ms, .. } => Some(*until_ms),
        Event::StepFailed { again_at_ms, .. } => Some(*again_at_ms),
        Event::SignalAwaited { until_ms, .. } | Event::ApprovalAsked { until_ms, .. } => *until_ms,
        _ => None,
    }
}

// === impl RunNames ===

impl RunNames<'_> {
    /// The run that this one goes on as.
    pub fn next(&self) -> RunId {
        id_of(&[b"ringfence next run", self.0.as_str().as_bytes()])
    }

    fn hash(&self, what: &str, place: &Place, redone_count: u32) -> RunId {
        let (place, redone) = (place.to_string(), redone_count.to_string());
        id_of(&[what.as_bytes(), self.0.as_str().as_bytes(), place.as_bytes(), redone.as_bytes()])
    }
}

impl Names for RunNames<'_> {
    fn idempotency_key(&self, place: &Place, redone_count: u32) -> String {
        let id = self.hash("ringfence step", place, redone_count).to_string();
        id.strip_prefix("run_").unwrap_or(&id).to_owned()
    }

    fn child(&self, place: &Place, redone_count: u32) -> RunId {
        self.hash("ringfence child run", place, redone_count)
    }
}

/// The id that these words name: the first 16 bytes of a SHA-256 over them, each with its length before it.
pub fn id_of(words: &[&[u8]]) -> RunId {
    let mut hash = Sha256::new();
    for word in words {
        hash.update((word.len() as u64).to_be_bytes());
        hash.update(word);
    }
    let bytes = hash.finalize();
    RunId::random(&Fixed(bytes.first_chunk().copied().unwrap_or_default()))
}

/// Gives the same bytes each time: ids that are hashes have the form of those that are random.
struct Fixed([u8; 16]);

impl ringfence_core::Entropy for Fixed {
    fn fill(&self, into: &mut [u8]) {
        for (to, from) in into.iter_mut().zip(self.0) {
            *to = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_and_the_history_say_the_same_of_whether_a_run_is_paused_stuck_or_ended() {
        const LENGTH: u32 = 5;
        let by: PrincipalId = "acme/ann".parse().unwrap();
        let (code, message) = ("trap".to_owned(), String::new());
        let started = Started {
            plugin: "shop".parse().unwrap(),
            version: "0.1.0".parse().unwrap(),
            workflow: "shop".to_owned(),
            input: "null".to_owned(),
            by: by.clone(),
            parent: None,
            depth: 0,
            root: None,
            first: None,
            attributes: BTreeMap::new(),
            dice: String::new(),
            signal_keys: Vec::new(),
            led_by: Default::default(),
        };
        let events = [
            Event::Paused { by: by.clone() },
            Event::Resumed { by: by.clone() },
            Event::Stuck { code: code.clone(), message: message.clone() },
            Event::Retried { by: by.clone() },
            Event::Migrated { version: Version::new(0, 2, 0), by: by.clone() },
            Event::Ended(Ending::Failed { code, message }),
            Event::Rewound { to: Place::new(vec![0]), by },
        ];
        // Each order of them that commands and code can come to.
        for order in 0..events.len().pow(LENGTH) {
            let mut state = State::default();
            state.apply(&Event::Started(Box::new(started.clone())));
            let mut head = Head::new(id_of(&[b"a run"]), &started, 1);
            let mut rest = order;
            for _ in 0..LENGTH {
                let event = &events[rest % events.len()];
                rest /= events.len();
                let is_possible = match event {
                    Event::Rewound { .. } => true,
                    Event::Resumed { .. } => state.ending.is_none() && state.is_paused,
                    _ => state.ending.is_none(),
                };
                if !is_possible {
                    continue;
                }
                state.apply(event);
                head.apply(event, 2);
                let expected = match &state.ending {
                    Some(ending) => ending.status(),
                    None if state.is_paused => Status::Paused,
                    None if state.stuck.is_some() => Status::Stuck,
                    None => Status::Running,
                };
                assert_eq!(head.status, expected, "order {order} at {event:?}");
                assert_eq!(head.stuck.is_some(), state.stuck.is_some(), "order {order} at {event:?}");
            }
        }
    }
}
