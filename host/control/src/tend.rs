//! What the control plane does unasked: once an hour it throws away what nobody will ask for again; all the time it writes
//! down what access was used (`access/`), and every second what was refused (`audit/src/paced.rs`).
//!
//! Must never touch what may still be asked for: each sweep decides that where the thing lies.

use std::time::Duration;

use ringfence_audit::{BEAT, Event, Log, ONE_A_MINUTE, Refusals, codes};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::Control;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(3_600);

impl Control {
    /// Tends until `stopping` says so. The first round is at once: a host that restarts daily is tended too.
    pub async fn tend(self, stopping: watch::Receiver<bool>) {
        tokio::join!(
            self.sweep_hourly(stopping.clone()),
            self.watch_access(stopping.clone()),
            self.tell_refusals(stopping)
        );
    }

    /// Writes refusals at their beat.
    async fn tell_refusals(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(BEAT) => {}
            }
            self.tell_quotas();
            self.parts.refusals.write().await;
        }
    }

    /// Writes all refusals that there were; for the end of a drain.
    pub async fn flush_refusals(&self) {
        self.tell_quotas();
        self.parts.refusals.flush().await;
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
