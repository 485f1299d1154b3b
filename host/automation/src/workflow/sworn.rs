//! What the host swears to of runs: every event of a history is in an entry of the tenant's audit log, by its number.
//!
//! An event and the mark that it is not on the log yet are one batch; the mark moves after the entry. So what a kill cuts off
//! is sworn to after the next start, and rather twice than never. Must never put a payload on the log.

use ringfence_audit::{Event as Record, Log, codes};
use ringfence_core::RunId;
use ringfence_store::TenantStore;
use serde_json::json;

use crate::workflow::error::WorkflowError;
use crate::workflow::journal::{Loaded, ready_key, unsworn_key, unsworn_prefix};
use crate::workflow::mending::is_there;
use crate::workflow::runs::Workflows;

/// Marks looked at together.
const PAGE_COUNT: usize = 256;

impl Workflows {
    /// Puts what happened to a run on the audit log, as far as it is not there. What the log does not take is tried again.
    pub(crate) async fn swear(&self, loaded: &mut Loaded) {
        let log = Log::Tenant(loaded.store().clone());
        loop {
            let (transitions, (first, _)) = (loaded.unsworn(), loaded.sworn_counts());
            if transitions.is_empty() {
                return;
            }
            let (head, count) = (&loaded.head, transitions.len());
            let resource = format!("tenant/{}/plugin/{}", loaded.store().label(), head.plugin);
            let mut record = Record::new(codes::RUN_ADVANCED, "run-workflow", head.by.clone(), resource);
            record.details = json!({
                "run": head.run, "workflow": head.workflow, "version": head.version.to_string(),
                "first": first, "transitions": transitions,
            });
            if let Err(error) = self.parts().audit.record(&log, record).await {
                tracing::error!(%error, run = %head.run, "what a run did is not on the audit log yet");
                self.owe(loaded.store());
                return;
            }
            loaded.swore(count);
        }
    }

    /// The same for a run that has ended: no batch of its own takes the mark away.
    pub(crate) async fn swear_at_the_end(&self, loaded: &mut Loaded) {
        self.swear(loaded).await;
        if let Err(error) = loaded.settle().await {
            tracing::warn!(%error, run = %loaded.head.run, "a run is sworn to once more");
            self.owe(loaded.store());
        }
    }

    /// Swears to what happened to the tenant's runs that have nothing to do: a kill or a failing log came between. Those that
    /// have are driven, and sworn to then. Whether nothing is left.
    pub(crate) async fn swear_to_all(&self, store: &TenantStore) -> Result<bool, WorkflowError> {
        let (mut after, mut is_all) = (None, true);
        loop {
            let (names, next) = store.scan_names(&unsworn_prefix(), after.as_ref(), PAGE_COUNT).await?;
            for key in &names {
                let Some(run) = key.last_name().and_then(|name| name.parse::<RunId>().ok()) else { continue };
                if !is_there(store, &ready_key(&run)).await? {
                    is_all &= self.swear_to(store, &run).await;
                }
            }
            after = next;
            if after.is_none() {
                return Ok(is_all);
            }
        }
    }

    async fn swear_to(&self, store: &TenantStore, run: &RunId) -> bool {
        let is_all = match self.live(store, run).await {
            Ok(live) => {
                let mut loaded = live.lock().await;
                self.swear_at_the_end(&mut loaded).await;
                loaded.sworn_counts().1 == 0
            }
            Err(WorkflowError::UnknownRun) => store.delete(&unsworn_key(run)).await.is_ok(),
            // Trying again would not help; the mark stays for when the history is mended.
            Err(error) if error.is_damage() => {
                tracing::error!(%error, run = %run, "what a run did is not on the audit log, and its history does not open");
                true
            }
            Err(error) => {
                tracing::error!(%error, run = %run, "what a run did is not on the audit log yet");
                false
            }
        };
        self.let_go(store, run);
        is_all
    }
}
