//! One run of a guest over its history: counts places, asks `decide`, makes the answer durable, then gives it.
//!
//! INVARIANT: once a branch was stopped, nothing that it does counts; once the run was, or was rewound, nothing at all does.
//! Once it was migrated, the step that was begun counts, and nothing after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use futures::future::BoxFuture;
use ringfence_capabilities::{Origin, RunHistory};
use ringfence_core::workflow::{Answer, Ask, Place, RunFacts, StepFailure, Stop};
use ringfence_core::{Clock, RunId};
use ringfence_store::{Op, TenantStore};
use semver::Version;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use crate::workflow::decide::{self, Attempts, Decision, Fault, Now, OpenStep};
use crate::workflow::error::WorkflowError;
use crate::workflow::event::{Ending, Event, Started};
use crate::workflow::journal::{self, Loaded, Mark, RunNames, Status};
use crate::workflow::limits::TRANSITIONS_COUNT_MAX;
use crate::workflow::runs::Workflows;
use crate::workflow::state::State;

/// Answers one running guest.
pub struct Session {
    live: Arc<AsyncMutex<Loaded>>,
    facts: RunFacts,
    dice: String,
    /// How often the run had been rewound when its code began.
    rewound_count: u64,
    /// Of which version that code is.
    version: Version,
    workflows: Workflows,
    attempts: Attempts,
    seen: Mutex<Seen>,
}

/// What a session came to.
#[derive(Default)]
pub struct Seen {
    next: HashMap<Place, u32>,
    open: HashMap<Place, OpenStep>,
    stopped: Vec<Place>,
    /// The run itself cannot go on as it is.
    pub fault: Option<Fault>,
    /// The history could not be written or read.
    pub failure: Option<WorkflowError>,
    /// Something that is waited for is not there.
    pub is_suspended: bool,
    /// The host ends: a step that would have begun was not.
    pub is_cut: bool,
    /// How much happened.
    pub events_count: usize,
}

// === impl Session ===

impl Session {
    /// A session over a run that nobody else drives.
    pub async fn new(live: Arc<AsyncMutex<Loaded>>, workflows: &Workflows, attempts: Attempts) -> Arc<Self> {
        let (facts, dice, rewound_count, version) = {
            let loaded = live.lock().await;
            let dice = loaded.state.started.as_ref().map(|started| started.dice.clone()).unwrap_or_default();
            let facts = RunFacts {
                run: loaded.head.run.to_string(),
                workflow: loaded.head.workflow.clone(),
                version: loaded.head.version.to_string(),
                started_ms: loaded.head.started_ms,
            };
            (facts, dice, loaded.state.rewound_count, loaded.head.version.clone())
        };
        let (workflows, seen) = (workflows.clone(), Mutex::default());
        Arc::new(Self { live, facts, dice, rewound_count, version, workflows, attempts, seen })
    }

    /// What it came to, with the steps that were begun and not completed. Nothing that is asked after this counts.
    pub fn end(&self) -> (Seen, Vec<OpenStep>) {
        let mut seen = std::mem::take(&mut *self.seen());
        self.seen().stopped.push(Place::default());
        let mut open: Vec<OpenStep> = seen.open.drain().map(|(_, step)| step).collect();
        open.sort_by(|a, b| a.place.cmp(&b.place));
        (seen, open)
    }

    /// Whether the run was rewound since its code began: that code is behind the cut, and has to begin anew.
    fn is_rewound(&self, state: &State) -> bool {
        state.rewound_count != self.rewound_count
    }

    /// The same, or whether it was migrated since: what goes on is the code of another version.
    pub fn is_other(&self, loaded: &Loaded) -> bool {
        self.is_rewound(&loaded.state) || loaded.head.version != self.version
    }

    async fn answer(&self, branch: Place, ask: Ask, origin: &mut Origin) -> Result<Answer, Stop> {
        let place = self.next_place(&branch)?;
        let mut loaded = self.live.lock().await;
        if loaded.state.ending.is_some() || self.is_other(&loaded) {
            return Err(self.stop(&Place::default(), Stop::Suspended));
        }
        let child = match &ask {
            Ask::ChildEnd { run } => self.note(child_end(loaded.store(), run).await)?,
            _ => None,
        };
        let now = self.now(child);
        let run = loaded.head.run.clone();
        let decision = match decide::ask(&loaded.state, &RunNames(&run), &place, &ask, &now) {
            Ok(decision) => decision,
            Err(fault) => return Err(self.faulty(fault)),
        };
        let is_executed = matches!(decision.answer, Ok(Answer::Execute { .. }));
        if decision.events.is_empty() && decision.answer.is_ok() && !is_executed {
            *origin = Origin::History;
        }
        if is_executed && self.workflows.closing().is_announced() {
            self.seen().is_cut = true;
            return Err(self.stop(&branch, Stop::Suspended));
        }
        // One that is paused goes on as another when it is resumed.
        if let (Ask::Continue { input }, Err(Stop::Suspended), false) = (&ask, &decision.answer, loaded.state.is_paused)
        {
            return self.go_on_as_another(&mut loaded, input, now.at_ms).await;
        }
        let more = match self.note(child_ops(&loaded, &ask, &decision, now.at_ms)) {
            Ok(more) => more,
            Err(stop) => return Err(stop),
        };
        if let Ok(Answer::Execute { attempt, .. }) = &decision.answer
            && let Ask::Step { kind, name, retry } = ask
        {
            let step = OpenStep { place, kind, name, attempt: *attempt, retry };
            self.seen().open.insert(branch.clone(), step);
        }
        self.settle(&mut loaded, &branch, decision, now.at_ms, more).await
    }

    async fn completed(&self, branch: Place, outcome: Result<String, StepFailure>) -> Result<Answer, Stop> {
        let Some(step) = self.seen().open.remove(&branch) else {
            return Err(Stop::Refused("no step of this branch was begun".to_owned()));
        };
        let mut loaded = self.live.lock().await;
        // What was done for one that was migrated meanwhile is done, and not again by the other version.
        if loaded.state.ending.is_some() || self.is_rewound(&loaded.state) {
            return Err(self.stop(&Place::default(), Stop::Suspended));
        }
        let now = self.now(None);
        let decision = decide::complete(&step, outcome, &now).map_err(|fault| self.faulty(fault))?;
        self.settle(&mut loaded, &branch, decision, now.at_ms, Vec::new()).await
    }

    /// Makes a decision durable, and then answers with it.
    async fn settle(
        &self,
        loaded: &mut Loaded,
        branch: &Place,
        decision: Decision,
        at_ms: u64,
        more: Vec<Op>,
    ) -> Result<Answer, Stop> {
        if !decision.events.is_empty() {
            self.saw(&decision.events);
            let begins = !more.is_empty();
            self.kept(loaded.append(decision.events, at_ms, Mark::Keep, more).await)?;
            // A child goes on beside its parent's code, however long that is in a step.
            if begins {
                self.workflows.wake(loaded.store());
            }
            // A guest that goes on and on is on the log as it goes.
            if loaded.sworn_counts().1 >= TRANSITIONS_COUNT_MAX {
                self.workflows.swear(loaded).await;
            }
        }
        decision.answer.map_err(|stop| self.stop(branch, stop))
    }

    async fn go_on_as_another(&self, loaded: &mut Loaded, input: &str, at_ms: u64) -> Result<Answer, Stop> {
        let Some(old) = loaded.state.started.clone() else { return Err(Stop::Suspended) };
        let run = RunNames(&loaded.head.run).next();
        let attributes = loaded.state.attributes.clone();
        let version = loaded.head.version.clone();
        let (root, first) = (Some(loaded.root().clone()), Some(loaded.first().clone()));
        let (signal_keys, received) = loaded.state.handed_on();
        let started = Started { input: input.to_owned(), attributes, version, root, first, signal_keys, ..old };
        let (mut ops, _) = self.kept(journal::begin_with(&run, started, received, at_ms))?;
        let (told, while_so) = self.note(loaded.tell_first(&run).await)?;
        ops.extend(told);
        let events = vec![Event::Ended(Ending::Continued { run })];
        self.saw(&events);
        let while_so = while_so.into_iter().collect();
        self.note(loaded.append_if(events, at_ms, Mark::Keep, ops, while_so).await)?;
        Err(self.stop(&Place::default(), Stop::Suspended))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of what a branch asks next; none for one that was stopped.
    fn next_place(&self, branch: &Place) -> Result<Place, Stop> {
        let mut seen = self.seen();
        if let Some(fault) = &seen.fault {
            return Err(stop_of(fault));
        }
        let is_near = |stopped: &Place| {
            let (a, b) = (stopped.numbers(), branch.numbers());
            a.starts_with(b) || b.starts_with(a)
        };
        if seen.stopped.iter().any(is_near) {
            return Err(Stop::Suspended);
        }
        let next = seen.next.entry(branch.clone()).or_default();
        let place = branch.child(*next);
        *next = next.saturating_add(1);
        Ok(place)
    }

    fn stop(&self, branch: &Place, stop: Stop) -> Stop {
        if stop == Stop::Suspended {
            let mut seen = self.seen();
            seen.is_suspended = true;
            seen.stopped.push(branch.clone());
        }
        stop
    }

    fn faulty(&self, fault: Fault) -> Stop {
        let stop = stop_of(&fault);
        self.seen().fault.get_or_insert(fault);
        stop
    }

    /// Notes what the store could not do: the guest is stopped, and the run driven again later.
    fn note<T>(&self, result: Result<T, WorkflowError>) -> Result<T, Stop> {
        result.map_err(|error| {
            let mut seen = self.seen();
            seen.failure = Some(error);
            seen.stopped.push(Place::default());
            Stop::Suspended
        })
    }

    /// The same of what is written for the guest: what is over a limit is a fault of its run.
    fn kept<T>(&self, result: Result<T, WorkflowError>) -> Result<T, Stop> {
        match result {
            Err(WorkflowError::Limit { what, max }) => Err(self.faulty(Fault::Limit { what, max })),
            other => self.note(other),
        }
    }

    fn saw(&self, events: &[Event]) {
        let mut seen = self.seen();
        seen.events_count = seen.events_count.saturating_add(events.len());
    }

    fn now(&self, child: Option<Result<String, String>>) -> Now {
        let mut bytes = [0_u8; 24];
        self.workflows.parts().entropy.fill(&mut bytes);
        let (dice, fresh) = bytes.split_at(8);
        Now {
            at_ms: unix_ms(&*self.workflows.parts().clock),
            dice: u64::from_le_bytes(dice.first_chunk().copied().unwrap_or_default()),
            fresh: HEXLOWER.encode(fresh),
            child,
            attempts: self.attempts,
        }
    }
}

impl RunHistory for Session {
    fn facts(&self) -> RunFacts {
        self.facts.clone()
    }
    fn ask(&self, branch: Place, ask: Ask) -> BoxFuture<'_, (Result<Answer, Stop>, Origin)> {
        Box::pin(async move {
            let mut origin = Origin::Now;
            let answer = self.answer(branch, ask, &mut origin).await;
            (answer, origin)
        })
    }
    fn complete(&self, branch: Place, outcome: Result<String, StepFailure>) -> BoxFuture<'_, Result<Answer, Stop>> {
        Box::pin(self.completed(branch, outcome))
    }
    fn dice(&self, number: u64) -> [u8; 32] {
        let mut hash = Sha256::new();
        for words in [b"ringfence run dice".as_slice(), self.dice.as_bytes(), self.facts.run.as_bytes()] {
            hash.update((words.len() as u64).to_be_bytes());
            hash.update(words);
        }
        hash.update(number.to_be_bytes());
        hash.finalize().into()
    }
    fn is_in_step(&self) -> bool {
        !self.seen().open.is_empty()
    }
}

/// The wall clock in Unix milliseconds.
pub fn unix_ms(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now().as_millisecond()).unwrap_or(0)
}

fn stop_of(fault: &Fault) -> Stop {
    match fault {
        Fault::Nondeterminism { .. } => Stop::Nondeterminism(fault.to_string()),
        Fault::Limit { .. } => Stop::Refused(fault.to_string()),
    }
}

/// The child that is begun, in the batch that says so.
fn child_ops(loaded: &Loaded, ask: &Ask, decision: &Decision, at_ms: u64) -> Result<Vec<Op>, WorkflowError> {
    let (Ask::Child { workflow, input }, Some(Event::ChildBegun { run, .. })) = (ask, decision.events.first()) else {
        return Ok(Vec::new());
    };
    let head = &loaded.head;
    let depth = loaded.state.started.as_ref().map_or(0, |started| started.depth);
    let started = Started {
        plugin: head.plugin.clone(),
        version: head.version.clone(),
        workflow: workflow.clone(),
        input: input.clone(),
        by: head.by.clone(),
        parent: Some(head.run.clone()),
        depth: depth.saturating_add(1),
        root: Some(loaded.root().clone()),
        first: None,
        attributes: loaded.state.attributes.clone(),
        dice: loaded.state.started.as_ref().map(|started| started.dice.clone()).unwrap_or_default(),
        signal_keys: Vec::new(),
        led_by: loaded.state.started.as_ref().map(|started| started.led_by.clone()).unwrap_or_default(),
    };
    Ok(journal::begin_ops(run, started, at_ms)?.0)
}

/// What a run came to, or the one it went on as; none while it goes on.
async fn child_end(store: &TenantStore, run: &str) -> Result<Option<Result<String, String>>, WorkflowError> {
    let Ok(run) = run.parse::<RunId>() else { return Ok(None) };
    match journal::newest(store, &run).await {
        Ok(head) if head.status == Status::Continued => {
            Ok(Some(Err("the run went on as another too often to be followed".to_owned())))
        }
        Ok(head) => Ok(head.ending.and_then(|ending| ending.told())),
        Err(WorkflowError::UnknownRun) => Ok(Some(Err("the run is not kept any more".to_owned()))),
        Err(error) => Err(error),
    }
}
