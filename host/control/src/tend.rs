//! What the control plane does unasked: once an hour it throws away what nobody will ask for again; all the time it writes
//! down what access was used (`access/`), and every second what was refused (`audit/src/paced.rs`). Every second it ends the
//! sessions that stand below the floor of their place by now (`identity/src/standing.rs`), and writes down all that fell
//! (`identity/src/fallen.rs`).
//!
//! Must never touch what may still be asked for: each sweep decides that where the thing lies. Nor put a tenant's session that
//! fell on any log but the tenant's, nor let go of one before it is there.

use std::time::Duration;

use futures::future::join_all;
use ringfence_audit::{AuditError, BEAT, Event, Log, ONE_A_MINUTE, Refusals, codes};
use ringfence_core::{Resource, TenantId};
use ringfence_identity::{Fallen, FallenThere};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::Control;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(3_600);
/// LIMIT: fallen sessions of one place that are put on record together.
const RECORDED_COUNT_MAX: usize = 64;
/// LIMIT: places whose fallen sessions are put on record at the same time.
const PLACES_COUNT_MAX: usize = 16;

impl Control {
    /// Tends until `stopping` says so. The first round is at once: a host that restarts daily is tended too.
    pub async fn tend(self, stopping: watch::Receiver<bool>) {
        tokio::join!(
            self.sweep_hourly(stopping.clone()),
            self.watch_access(stopping.clone()),
            self.tell_refusals(stopping)
        );
    }

    /// Ends at each beat the sessions that time or guesses brought down, whether or not anybody asks for them; writes refusals,
    /// and the sessions that fell where no call of this plane told of them; deletes what the store has of such sessions.
    async fn tell_refusals(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(BEAT) => {}
            }
            self.end_all_fallen().await;
            self.tell_quotas();
            self.parts.refusals.write().await;
            self.record_all_fallen().await;
            self.parts.identity.delete_fallen().await;
        }
    }

    /// Writes all refusals and fallen sessions that there were; for the end of a drain, once [`Control::tend`] has ended: what its
    /// beat has taken and not written yet is not here.
    pub async fn flush_refusals(&self) {
        self.tell_quotas();
        self.parts.refusals.flush().await;
        self.record_all_fallen().await;
        let undeleted_count = self.parts.identity.delete_fallen().await;
        let places_count = self.parts.identity.fallen_places().len();
        if undeleted_count > 0 || places_count > 0 {
            tracing::warn!(
                places_count,
                undeleted_count,
                "sessions that fell could not be put on record or be deleted, and the host ends"
            );
        }
    }

    /// Puts sessions of a place that fell on its record before the call is answered that they fell by; to the end, even if who
    /// calls hangs up. Those of other places are told of at the beat: nobody waits for the logs of others.
    pub(crate) async fn tell_fallen(&self, place: Option<&TenantId>) {
        if self.parts.identity.has_fallen(place) {
            let (control, place) = (self.clone(), place.cloned());
            let _ = tokio::spawn(async move { control.record_fallen(place.as_ref()).await }).await;
        }
    }

    /// Beside the threads of requests, for it looks at every session of every place that has a floor.
    async fn end_all_fallen(&self) {
        let identity = self.parts.identity.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || identity.end_all_fallen()).await {
            tracing::error!(%error, "sessions below their floor could not be looked for");
        }
    }

    async fn record_all_fallen(&self) {
        for some in self.parts.identity.fallen_places().chunks(PLACES_COUNT_MAX) {
            join_all(some.iter().map(|place| self.record_fallen(place.as_ref()))).await;
        }
    }

    /// Puts the sessions of a place that fell on its log. They are ended; what cannot be written now waits until it can.
    async fn record_fallen(&self, place: Option<&TenantId>) {
        let log = match place.map(|tenant| self.parts.tenants.open_tenant(tenant)) {
            None => Log::Host,
            Some(Some(store)) if store.check_keys().is_ok() => Log::Tenant(store),
            // Its log is closed. With one that is gone identity forgets them.
            Some(_) => return,
        };
        if !self.parts.audit.can_record(&log) {
            return;
        }
        let FallenThere { sessions, mut unnamed_count } = self.parts.identity.take_fallen(place);
        let (mut rest, mut left) = (sessions.into_iter(), Vec::new());
        while left.is_empty() {
            let some: Vec<Fallen> = rest.by_ref().take(RECORDED_COUNT_MAX).collect();
            if some.is_empty() {
                break;
            }
            let told = join_all(some.iter().map(|one| self.record_fall(&log, one))).await;
            let untold = some.into_iter().zip(told).filter(|(_, told)| told.is_err());
            left.extend(untold.map(|(one, _)| one));
        }
        left.extend(rest);
        if left.is_empty() && unnamed_count > 0 && self.record_unnamed(&log, place, unnamed_count).await.is_ok() {
            unnamed_count = 0;
        }
        self.parts.identity.put_back_fallen(place, FallenThere { sessions: left, unnamed_count });
    }

    /// The host ended it, whoever gave the occasion; it is about whose it was.
    async fn record_fall(&self, log: &Log, fallen: &Fallen) -> Result<(), AuditError> {
        let on = fallen.principal.to_string();
        let mut event = Event::new(codes::SESSION_FALLEN, "end-session", self.parts.audit.actor(), on);
        event.source_ip = fallen.source;
        event.details = json!({ "session": fallen.session, "score": fallen.score, "floor": fallen.floor });
        self.record_or_keep(log, event).await
    }

    /// Those of a place that are beyond what is remembered by name.
    async fn record_unnamed(&self, log: &Log, place: Option<&TenantId>, count: u64) -> Result<(), AuditError> {
        let on = place.map_or(Resource::Host, |tenant| Resource::Tenant { tenant: tenant.clone() }).to_string();
        let mut event = Event::new(codes::SESSION_FALLEN, "end-session", self.parts.audit.actor(), on);
        event.details = json!({ "sessions_count": count });
        self.record_or_keep(log, event).await
    }

    /// An error is one after which it is to be tried again.
    async fn record_or_keep(&self, log: &Log, event: Event) -> Result<(), AuditError> {
        match self.parts.audit.record(log, event).await {
            Ok(_) | Err(AuditError::Gone) => Ok(()),
            Err(error @ AuditError::Unrepresentable) => {
                tracing::error!(%error, "that a session fell cannot be put on record");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "that a session fell could not be put on record now; it waits");
                Err(error)
            }
        }
    }

    /// Tells each tenant what its quota refused since the last beat: one entry a kind and minute, the rest counted.
    fn tell_quotas(&self) {
        for (store, kind, count) in self.parts.quotas.take_refused() {
            let on = format!("tenant/{}/quota/{kind}", store.label());
            let mut event = Event::new(codes::QUOTA_REFUSED, "use-quota", self.parts.audit.actor(), on);
            event.details = json!({ "quota": kind });
            self.parts.refusals.tell(
                &Log::Tenant(store),
                Refusals { kind, told_count_max: ONE_A_MINUTE },
                count,
                event,
            );
        }
    }

    async fn sweep_hourly(&self, mut stopping: watch::Receiver<bool>) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
            tokio::select! {
                () = stopped => return,
                _ = rounds.tick() => {
                    self.sweep_answers().await;
                    self.sweep_native().await;
                }
            }
        }
    }

    async fn sweep_native(&self) {
        match self.parts.registry.sweep_native().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "native code of no version was removed"),
            Err(error) => tracing::warn!(%error, "native code cannot be swept now"),
        }
    }
}
