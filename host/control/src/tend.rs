//! What the control plane does unasked: once an hour it throws away what nobody will ask for again; all the time it writes
//! down what access was used (`access/`).
//!
//! Must never touch what may still be asked for: each sweep decides that where the thing lies.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::Control;

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(3_600);

impl Control {
    /// Tends until `stopping` says so. The first round is at once: a host that restarts daily is tended too.
    pub async fn tend(self, stopping: watch::Receiver<bool>) {
        tokio::join!(self.sweep_hourly(stopping.clone()), self.watch_access(stopping));
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
