//! Driving one run: run its guest over its history, judge what came of it, and do that again while there is something to do.
//!
//! [`judge`] is pure. Must never drive a run twice at the same time in this host (`pump` sees to that); against another
//! host the head's revision stands.

use std::sync::Arc;

use futures::future::BoxFuture;
use ringfence_audit::Log;
use ringfence_capabilities::{Family, RunHistory, Trail};
use ringfence_core::workflow::StepFailure;
use ringfence_core::{PluginName, PrincipalId, RunId};
use ringfence_store::{Op, StoreError, TenantState, TenantStore};
use semver::Version;

use crate::workflow::decide::{self, Attempts, Fault, Now, OpenStep, cut};
use crate::workflow::error::WorkflowError;
use crate::workflow::event::{Ending, Event};
use crate::workflow::journal::{self, Loaded, Mark};
use crate::workflow::limits::PAYLOAD_BYTES_MAX;
use crate::workflow::runs::Workflows;
use crate::workflow::session::{Seen, Session, unix_ms};

/// Before a run is tried again that the host could not drive, milliseconds.
const LATER_MS: u64 = 2_000;
/// Before a run is looked at again whose records do not open, should nobody mend them, milliseconds.
const DAMAGED_MS: u64 = 600_000;
/// Before a tenant whose storage is full is tried again, should nobody say that there is room, milliseconds.
const FULL_MS: u64 = 30_000;
/// Before a suspended tenant is looked at again, should nobody say that it was resumed, milliseconds.
const SUSPENDED_MS: u64 = 30_000;

/// One call of a workflow's code.
pub struct RunCall {
    /// The tenant's store.
    pub store: TenantStore,
    /// The plugin.
    pub plugin: PluginName,
    /// The version the run is pinned to.
    pub version: Version,
    /// The workflow.
    pub workflow: String,
    /// The run.
    pub run: RunId,
    /// Who began it.
    pub by: PrincipalId,
    /// What it was begun with, JSON.
    pub input: String,
    /// What led to it, for what it leads to.
    pub trail: Trail,
    /// Its history.
    pub history: Arc<dyn RunHistory>,
}

/// Why code did not come to an end of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRun {
    /// It failed: a trap or a budget.
    Failed {
        /// Stable slug.
        code: String,
        /// In words.
        message: String,
    },
    /// The tenant cannot have it run now: suspended, over its quota, keys disabled, host full.
    NotNow {
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// This run cannot go on now, and others of its tenant can: its plugin is forbidden, its version is held or does not load.
    RunWaits {
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// There is no such version, or it has no workflows.
    NoCode {
        /// In words.
        message: String,
    },
}

/// Who runs the code of workflows.
pub trait Runner: Send + Sync {
    /// Runs a workflow's code once, to its end.
    fn run(&self, call: RunCall) -> BoxFuture<'static, Result<Result<String, String>, NotRun>>;
}

/// What is to be done after a guest ran.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Write these down. The run has ended, is stuck, or waits for what they say.
    Write(Vec<Event>),
    /// Nothing: it waits.
    Rest,
    /// Run it again at once.
    Again,
    /// Run it again after so many milliseconds.
    Later(u64),
    /// The tenant as a whole has to wait so many milliseconds.
    TenantWaits(u64),
}

/// Judges what came of one run of a guest.
pub fn judge(
    seen: &Seen,
    open: &[OpenStep],
    is_cancelled: bool,
    outcome: Result<Result<String, String>, NotRun>,
    now: &Now,
) -> Verdict {
    if let Some(fault) = &seen.fault {
        let (code, message) = (fault.code(), fault.to_string());
        return match fault {
            Fault::Nondeterminism { .. } => stuck(code, message, is_cancelled),
            Fault::Limit { .. } => ended(Ending::Failed { code: code.to_owned(), message }),
        };
    }
    match &seen.failure {
        // Nothing of the tenant can be written: the next run would only do its step again for nothing.
        Some(WorkflowError::Store(StoreError::Quota { .. })) => return Verdict::TenantWaits(FULL_MS),
        Some(_) => return Verdict::Later(LATER_MS),
        None => {}
    }
    if seen.is_cut {
        return Verdict::TenantWaits(0);
    }
    match outcome {
        Err(NotRun::NotNow { retry_after_ms }) => Verdict::TenantWaits(retry_after_ms),
        Err(NotRun::RunWaits { retry_after_ms }) => Verdict::Later(retry_after_ms),
        Err(NotRun::NoCode { message }) => stuck("workflow-code-missing", message, is_cancelled),
        Err(NotRun::Failed { code, message }) if !open.is_empty() => {
            let failure = StepFailure { message: format!("{code}: {message}"), again: true };
            let events = open.iter().filter_map(|step| decide::complete(step, Err(failure.clone()), now).ok());
            Verdict::Write(events.flat_map(|decision| decision.events).collect())
        }
        // A budget of one invocation is none of the run: what was done is in the history, and the rest is done anew.
        Err(NotRun::Failed { code, .. }) if code.starts_with("budget-") && seen.events_count > 0 => Verdict::Again,
        Err(NotRun::Failed { code, message }) => stuck(&code, message, is_cancelled),
        Ok(_) if seen.is_suspended => Verdict::Rest,
        Ok(Ok(output)) if output.len() > PAYLOAD_BYTES_MAX => {
            let message = format!("the result of a run is over its limit of {PAYLOAD_BYTES_MAX}");
            ended(Ending::Failed { code: "workflow-limit".to_owned(), message })
        }
        Ok(Ok(output)) => ended(Ending::Completed { output }),
        Ok(Err(message)) if is_cancelled => ended(Ending::Cancelled { message: cut(&message) }),
        Ok(Err(message)) => ended(Ending::Failed { code: "workflow-failed".to_owned(), message: cut(&message) }),
    }
}

fn ended(ending: Ending) -> Verdict {
    Verdict::Write(vec![Event::Ended(ending)])
}

/// The code cannot go on. A run that was cancelled ends here: whoever cancelled it wants no other end of it.
fn stuck(code: &str, message: String, is_cancelled: bool) -> Verdict {
    if is_cancelled {
        let message = cut(&format!("not everything could be taken back: {code}: {message}"));
        return ended(Ending::Cancelled { message });
    }
    Verdict::Write(vec![Event::Stuck { code: code.to_owned(), message: cut(&message) }])
}

impl Workflows {
    /// Drives a run until it rests; how long its tenant has to wait, if it has to.
    pub(crate) async fn drive(&self, store: &TenantStore, run: &RunId) -> Option<u64> {
        match self.try_drive(store, run).await {
            Ok(waits_ms) => waits_ms,
            Err(WorkflowError::UnknownRun) => {
                let _ = store.delete(&journal::ready_key(run)).await;
                None
            }
            // Another host was faster: what this one has of the run is old.
            Err(WorkflowError::Store(StoreError::Conflict { .. })) => {
                self.forget(store, run);
                None
            }
            Err(WorkflowError::Store(StoreError::Quota { .. })) => Some(FULL_MS),
            Err(error) if error.is_damage() => {
                // It was ended unread: what wakes it now, such as a time that it waited for, wakes nothing.
                if self.is_over(store, run).await {
                    return store.delete(&journal::ready_key(run)).await.is_err().then_some(LATER_MS);
                }
                tracing::error!(%error, run = %run, "a run is not driven: its records are damaged. It can be terminated, or restored");
                self.put_off(store, run, DAMAGED_MS).await
            }
            Err(error) => {
                tracing::warn!(%error, run = %run, "a run could not be driven");
                self.put_off(store, run, LATER_MS).await
            }
        }
    }

    /// Whether a run has ended, as far as its head opens.
    async fn is_over(&self, store: &TenantStore, run: &RunId) -> bool {
        journal::head(store, run).await.is_ok_and(|head| head.status.is_ended())
    }

    /// Has a run wait that could not be driven. When not even that can be written, it is no matter of this run: how long
    /// its tenant has to wait.
    async fn put_off(&self, store: &TenantStore, run: &RunId, later_ms: u64) -> Option<u64> {
        let due_ms = unix_ms(&*self.parts().clock).saturating_add(later_ms);
        let ops = vec![Op::delete(journal::ready_key(run)), Op::put(journal::due_key(due_ms, run), Vec::new())];
        store.batch(ops, Vec::new()).await.is_err().then_some(LATER_MS)
    }

    async fn try_drive(&self, store: &TenantStore, run: &RunId) -> Result<Option<u64>, WorkflowError> {
        loop {
            if self.closing().is_announced() {
                return Ok(None);
            }
            let ready = match store.get(&journal::ready_key(run)).await {
                // The mark rotted, and is all that did: it is made anew.
                Err(StoreError::Damaged) => {
                    store.put(&journal::ready_key(run), Vec::new()).await?;
                    continue;
                }
                ready => ready?,
            };
            let Some(ready) = ready else { return Ok(None) };
            let live = self.live(store, run).await?;
            {
                let mut loaded = live.lock().await;
                let state = &loaded.state;
                if state.ending.is_some() || state.stuck.is_some() || state.is_paused {
                    self.swear(&mut loaded).await;
                    if loaded.rest(ready.revision, Vec::new()).await? {
                        return Ok(None);
                    }
                    continue;
                }
            }
            if store.state() == TenantState::Suspended || store.check_keys().is_err() {
                return Ok(Some(SUSPENDED_MS));
            }
            if !self.parts().audit.can_record(&Log::Tenant(store.clone())) {
                return Ok(Some(LATER_MS));
            }
            // It had something to do when the host last ended: that may have been its doing.
            let attempts = if ready.revision <= self.born_at() { Attempts::BeforeToo } else { Attempts::WhenOver };
            let session = Session::new(Arc::clone(&live), self, attempts).await;
            let call = self.call(&live, Arc::clone(&session)).await;
            let outcome = self.parts().runner.run(call).await;
            let (seen, open) = session.end();
            let mut loaded = live.lock().await;
            let is_cancelled = loaded.state.cancelled_by.is_some();
            let verdict = match loaded.state.ending {
                Some(_) => Verdict::Rest,
                None if session.is_other(&loaded) => Verdict::Again,
                None => judge(&seen, &open, is_cancelled, outcome, &self.now()),
            };
            if matches!(seen.failure, Some(WorkflowError::Store(StoreError::Conflict { .. }))) {
                drop(loaded);
                self.forget(store, run);
                continue;
            }
            match self.follow(&mut loaded, verdict, ready.revision).await? {
                Next::Again => {}
                Next::Rest => return Ok(None),
                Next::TenantWaits(ms) => return Ok(Some(ms)),
            }
        }
    }

    /// Does what was judged, and puts all that happened on the audit log.
    async fn follow(&self, loaded: &mut Loaded, verdict: Verdict, ready_revision: u64) -> Result<Next, WorkflowError> {
        let at_ms = unix_ms(&*self.parts().clock);
        let (mut more, mut next) = (Vec::new(), None);
        match verdict {
            Verdict::Again => next = Some(Next::Again),
            Verdict::TenantWaits(ms) => next = Some(Next::TenantWaits(ms)),
            Verdict::Rest => {}
            Verdict::Later(ms) => {
                more.push(Op::put(journal::due_key(at_ms.saturating_add(ms), &loaded.head.run), Vec::new()));
            }
            Verdict::Write(events) => {
                let is_end = |event: &Event| matches!(event, Event::Ended(ending) if ending.takes_children());
                if events.iter().any(is_end)
                    && let Err(error) = self.cancel_children(loaded, 0).await
                {
                    self.swear(loaded).await;
                    return Err(error);
                }
                let goes_on = events.iter().any(|event| matches!(event, Event::StepDone { .. }));
                if let Err(error) = loaded.append(events, at_ms, Mark::Keep, Vec::new()).await {
                    self.swear(loaded).await;
                    return Err(error);
                }
                next = goes_on.then_some(Next::Again);
            }
        }
        if loaded.state.ending.is_some() {
            // Whatever it had to do went with the batch in which it ended.
            self.swear_at_the_end(loaded).await;
            return Ok(Next::Rest);
        }
        self.swear(loaded).await;
        if let Some(next) = next {
            return Ok(next);
        }
        Ok(if loaded.rest(ready_revision, more).await? { Next::Rest } else { Next::Again })
    }

    async fn call(&self, live: &tokio::sync::Mutex<Loaded>, session: Arc<Session>) -> RunCall {
        let loaded = live.lock().await;
        let (head, started) = (&loaded.head, loaded.state.started.as_ref());
        let family = Family { root: loaded.root().clone(), depth: started.map_or(0, |started| started.depth) };
        let trail = Trail {
            began_by: Some(head.starter().clone()),
            family: Some(family),
            ..started.map(|started| started.led_by.clone()).unwrap_or_default()
        };
        RunCall {
            store: loaded.store().clone(),
            plugin: head.plugin.clone(),
            version: head.version.clone(),
            workflow: head.workflow.clone(),
            run: head.run.clone(),
            by: head.by.clone(),
            input: started.map(|started| started.input.clone()).unwrap_or_default(),
            trail,
            history: session,
        }
    }

    fn now(&self) -> Now {
        let mut bytes = [0_u8; 8];
        self.parts().entropy.fill(&mut bytes);
        Now {
            at_ms: unix_ms(&*self.parts().clock),
            dice: u64::from_le_bytes(bytes),
            fresh: String::new(),
            child: None,
            attempts: Attempts::WhenOver,
        }
    }
}

/// What a drive does next.
enum Next {
    Again,
    Rest,
    TenantWaits(u64),
}

impl Ending {
    /// Whether the runs it began are cancelled with it.
    const fn takes_children(&self) -> bool {
        matches!(self, Self::Cancelled { .. } | Self::Terminated { .. } | Self::Failed { .. })
    }
}
