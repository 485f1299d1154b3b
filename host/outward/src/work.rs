//! The task of one destination: looks at the log, takes the next batch, delivers it, writes down how far it is.
//!
//! At least once, in the order of the log: the place moves on after a batch arrived, never before. Must never hold more
//! than one batch, begin one after the end was announced, or stop for good without saying so on the log and in its status.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use ringfence_audit::{AuditError, Event, Log, Outcome, codes};
use ringfence_store::{Op, StoreError, TenantStore};
use ringfence_threat::Scope;
use serde_json::json;
use tokio::sync::Notify;

use crate::batch::{Batch, gather};
use crate::decide::{Failure, Next, after};
use crate::deliver::{Means, deliver};
use crate::destination::{Destination, Paused, Progress, Secrets, To, key, progress_key};
use crate::{Outward, OutwardError};

/// Between two looks at an owner whose keys are disabled, or at a destination that is off.
const IDLE: Duration = Duration::from_secs(30);
/// Entries without anything to carry after which the place is written down all the same.
const SKIPPED_COUNT_MAX: u64 = 5_000;

/// One destination that is carried to, and how far it is.
pub(crate) struct Carrier {
    pub(crate) owner: Scope,
    state: Mutex<State>,
    /// Something about it was changed.
    woken: Notify,
}

struct State {
    destination: Destination,
    secrets: Secrets,
    progress: Progress,
    /// The place that is on disk.
    kept_seq: u64,
    /// When the last mail went, by the steady clock.
    mailed: Option<Duration>,
}

/// What comes after a round.
enum Step {
    Rest(Duration),
    End,
}

impl Carrier {
    pub(crate) fn new(owner: Scope, destination: Destination, secrets: Secrets, progress: Progress) -> Self {
        let kept_seq = progress.next_seq;
        let state = State { destination, secrets, progress, kept_seq, mailed: None };
        Self { owner, state: Mutex::new(state), woken: Notify::new() }
    }

    pub(crate) fn destination(&self) -> Destination {
        self.state().destination.clone()
    }

    pub(crate) fn secrets(&self) -> Secrets {
        self.state().secrets.clone()
    }

    pub(crate) fn progress(&self) -> Progress {
        self.state().progress.clone()
    }

    /// Takes a change over, and tries at once.
    pub(crate) fn changed(&self, destination: Destination, secrets: Secrets) {
        let mut state = self.state();
        state.destination = destination;
        state.secrets = secrets;
        state.progress.failures = 0;
        state.progress.next_try_at = None;
        drop(state);
        self.woken.notify_one();
    }

    /// What kept its log from being read is over. Of deliveries that failed it says nothing.
    fn is_read(&self) {
        let mut state = self.state();
        if state.progress.failures == 0 {
            state.progress.last_error = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries until the end, or until the owner is gone.
pub(crate) async fn run(outward: Outward, carrier: std::sync::Arc<Carrier>) {
    let mut stop = outward.inner.stop.subscribe();
    loop {
        if *stop.borrow() {
            return;
        }
        let wait = match outward.round(&carrier).await {
            Step::Rest(wait) => wait,
            Step::End => return,
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stopping| *stopping) => return,
            () = carrier.woken.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Outward {
    async fn round(&self, carrier: &Carrier) -> Step {
        let parts = &self.inner.parts;
        let (destination, progress) = (carrier.destination(), carrier.progress());
        if !destination.is_carried() {
            return Step::Rest(IDLE);
        }
        let (store, log) = match self.place_of(&carrier.owner) {
            Ok(place) => place,
            Err(OutwardError::NotFound | OutwardError::Store(StoreError::Gone)) => return Step::End,
            Err(_) => return Step::Rest(IDLE),
        };
        let size = match parts.audit.size(&log).await {
            Ok(size) => size,
            Err(AuditError::Gone) => return Step::End,
            Err(error) => return self.unread(carrier, &error),
        };
        if progress.next_seq >= size {
            carrier.is_read();
            return Step::Rest(parts.pace.poll);
        }
        if let Some(wait) = self.mail_wait(carrier, &destination) {
            return Step::Rest(wait);
        }
        let Some(_place) = self.inner.places.take(&carrier.owner).await else { return Step::End };
        let read = (progress.next_seq, size, parts.clock.now().as_millisecond());
        let batch = match gather(&parts.audit, &parts.threat, (&carrier.owner, &log), &destination, read).await {
            Ok(batch) => batch,
            Err(error) => return self.unread(carrier, &error),
        };
        carrier.is_read();
        if batch.items.is_empty() {
            return self.skip(carrier, &store, &batch, size).await;
        }
        if matches!(destination.to, To::Email { .. }) && !self.may_mail(&carrier.owner) {
            return Step::Rest(IDLE);
        }
        let means = Means {
            reach: &parts.reach,
            mailer: parts.mailer.as_ref(),
            now: parts.clock.now(),
            wait: parts.pace.answer,
        };
        match deliver(&means, &destination, &carrier.secrets(), &batch).await {
            Ok(rejected_count) => self.arrived(carrier, &store, &batch, rejected_count, size).await,
            Err(failure) => self.failed(carrier, (&store, &log), &failure).await,
        }
    }

    fn unread(&self, carrier: &Carrier, error: &AuditError) -> Step {
        tracing::warn!(owner = carrier.owner.log(), %error, "a log that is carried out cannot be read now");
        carrier.state().progress.last_error = Some(error.to_string());
        Step::Rest(IDLE)
    }

    /// How long until the next mail may go to a destination; what comes meanwhile goes with it.
    fn mail_wait(&self, carrier: &Carrier, destination: &Destination) -> Option<Duration> {
        let To::Email { .. } = destination.to else { return None };
        let parts = &self.inner.parts;
        let since = parts.clock.monotonic().saturating_sub(carrier.state().mailed?);
        parts.pace.mail_every.checked_sub(since).filter(|wait| !wait.is_zero())
    }

    /// There was nothing to carry in these entries.
    async fn skip(&self, carrier: &Carrier, store: &TenantStore, batch: &Batch, size: u64) -> Step {
        let (progress, kept) = {
            let mut state = carrier.state();
            state.progress.next_seq = batch.next;
            (state.progress.clone(), state.kept_seq)
        };
        if batch.next.saturating_sub(kept) >= SKIPPED_COUNT_MAX {
            self.keep(carrier, store, &progress).await;
        }
        Step::Rest(if batch.next < size { Duration::ZERO } else { self.inner.parts.pace.poll })
    }

    async fn arrived(
        &self,
        carrier: &Carrier,
        store: &TenantStore,
        batch: &Batch,
        rejected_count: u64,
        size: u64,
    ) -> Step {
        let parts = &self.inner.parts;
        let progress = {
            let mut state = carrier.state();
            state.mailed = Some(parts.clock.monotonic());
            let progress = &mut state.progress;
            progress.next_seq = batch.next;
            progress.delivered_count = progress.delivered_count.saturating_add(batch.items.len() as u64);
            progress.rejected_count = progress.rejected_count.saturating_add(rejected_count);
            progress.delivered_at = Some(parts.clock.now());
            (progress.failures, progress.last_error, progress.next_try_at) = (0, None, None);
            progress.clone()
        };
        self.keep(carrier, store, &progress).await;
        Step::Rest(if batch.next < size { Duration::ZERO } else { parts.pace.poll })
    }

    async fn failed(&self, carrier: &Carrier, (store, log): (&TenantStore, &Log), failure: &Failure) -> Step {
        let parts = &self.inner.parts;
        let (mut progress, before) = (carrier.progress(), carrier.destination());
        let mut destination = before.clone();
        progress.failures = progress.failures.saturating_add(1);
        progress.last_error = Some(failure.why.clone());
        let now = parts.clock.now();
        let next = after(progress.failures, failure, self.jitter(), &parts.pace);
        if let Next::Again(wait) = next {
            progress.next_try_at = SignedDuration::try_from(wait).ok().and_then(|wait| now.checked_add(wait).ok());
            carrier.state().progress = progress;
            return Step::Rest(wait);
        }
        progress.next_try_at = None;
        destination.paused = Some(Paused { at: now, why: failure.why.clone() });
        // No entry, no effect: what cannot be said on the log is tried on.
        if let Err(error) = self.record_pause(log, &carrier.owner, &destination, &progress).await {
            tracing::error!(owner = carrier.owner.log(), %error, "a pause could not be put on the record");
            carrier.state().progress = progress;
            return Step::Rest(parts.pace.most);
        }
        // Nobody changes it from here on; and who did before has the last word, on the disk too.
        let _one = self.inner.changing.lock().await;
        if carrier.destination() != before || carrier.progress().failures.saturating_add(1) != progress.failures {
            return Step::Rest(Duration::ZERO);
        }
        let ops = Op::put_json(key(destination.carries, destination.name.as_str()), &destination)
            .and_then(|op| Ok(vec![op, Op::put_json(progress_key(&destination.id), &progress)?]));
        let written = match ops {
            Ok(ops) => store.batch(ops, Vec::new()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(owner = carrier.owner.log(), %error, "a pause could not be kept; it holds until the host ends");
        }
        let mut state = carrier.state();
        (state.destination, state.progress) = (destination, progress);
        Step::Rest(IDLE)
    }

    async fn record_pause(
        &self,
        log: &Log,
        owner: &Scope,
        destination: &Destination,
        progress: &Progress,
    ) -> Result<(), AuditError> {
        let audit = &self.inner.parts.audit;
        let mut event = Event::new(codes::DESTINATION_PAUSED, "pause-destination", audit.actor(), owner.log());
        event.details = json!({
            "destination": destination.name, "carries": destination.carries, "kind": destination.to.word(),
            "failures": progress.failures, "next_seq": progress.next_seq, "why": progress.last_error,
        });
        let failed = Outcome::Failure("destination-paused".to_owned());
        audit.record_outcome(log, event, failed).await.map(drop)
    }

    async fn keep(&self, carrier: &Carrier, store: &TenantStore, progress: &Progress) {
        let id = carrier.destination().id;
        match store.put_json(&progress_key(&id), progress).await {
            Ok(_) => carrier.state().kept_seq = progress.next_seq,
            // It is delivered again after a restart, which is what at least once means.
            Err(error) => {
                tracing::warn!(owner = carrier.owner.log(), %error, "how far a destination is could not be kept")
            }
        }
    }
}
