//! What the control plane does unasked: once an hour it throws away what nobody will ask for again; all the time it writes
//! down what access was used (`access/`), and every second what was refused (`audit/src/paced.rs`) and which sessions fell
//! below the floor of their place (`identity/src/fallen.rs`).
//!
//! Must never touch what may still be asked for: each sweep decides that where the thing lies. Nor put a tenant's session that
//! fell on any log but the tenant's.

use std::time::Duration;

use ringfence_audit::{BEAT, Event, Log, ONE_A_MINUTE, Refusals, codes};
use ringfence_identity::Fallen;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::Control;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(3_600);
/// LIMIT: fallen sessions that are put on record together.
const RECORDED_COUNT_MAX: usize = 64;

impl Control {
    /// Tends until `stopping` says so. The first round is at once: a host that restarts daily is tended too.
    pub async fn tend(self, stopping: watch::Receiver<bool>) {
        tokio::join!(
            self.sweep_hourly(stopping.clone()),
            self.watch_access(stopping.clone()),
            self.tell_refusals(stopping)
        );
    }

    /// Writes refusals at their beat, and the sessions that fell where no call of this plane told of them.
    async fn tell_refusals(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(BEAT) => {}
            }
            self.tell_quotas();
            self.parts.refusals.write().await;
            self.record_fallen().await;
        }
    }

    /// Writes all refusals and fallen sessions that there were; for the end of a drain.
    pub async fn flush_refusals(&self) {
        self.tell_quotas();
        self.parts.refusals.flush().await;
        self.record_fallen().await;
    }

    /// Puts sessions that fell on the record before the call is answered that they fell by; to the end, even if who calls
    /// hangs up.
    pub(crate) async fn tell_fallen(&self) {
        if self.parts.identity.has_fallen() {
            let control = self.clone();
            let _ = tokio::spawn(async move { control.record_fallen().await }).await;
        }
    }

    async fn record_fallen(&self) {
        if !self.parts.audit.is_writable() {
            // They are ended; they wait until it can be said.
            return;
        }
        let (fallen, lost_count) = self.parts.identity.take_fallen();
        if lost_count > 0 {
            tracing::warn!(lost_count, "more sessions fell below their floor than are put on record");
        }
        for some in fallen.chunks(RECORDED_COUNT_MAX) {
            futures::future::join_all(some.iter().map(|one| self.record_fall(one))).await;
        }
    }

    /// The host ended it, whoever gave the occasion; it is about whose it was.
    async fn record_fall(&self, fallen: &Fallen) {
        let log = match &fallen.tenant {
            None => Log::Host,
            Some(tenant) => match self.parts.tenants.open_tenant(tenant).filter(|store| store.check_keys().is_ok()) {
                Some(store) => Log::Tenant(store),
                // Its log went with it, or is closed with its keys; that it was, and by whom, is on the host's.
                None => return,
            },
        };
        let on = fallen.principal.to_string();
        let mut event = Event::new(codes::SESSION_FALLEN, "end-session", self.parts.audit.actor(), on);
        event.source_ip = fallen.source;
        event.details = json!({ "session": fallen.session, "score": fallen.score, "floor": fallen.floor });
        if let Err(error) = self.parts.audit.record(&log, event).await {
            tracing::error!(%error, session = %fallen.session, "that a session fell could not be put on record");
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
