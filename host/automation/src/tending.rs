//! Which tenants' queues and schedules are open, and what is done for them unasked: tenants that were locked are opened once
//! they are not, and keys under which messages were taken long ago are thrown away.
//!
//! Must never open a tenant twice: what was begun and cut would run twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_store::{StoreError, TenantStore};
use tokio::time::MissedTickBehavior;

use crate::{Automation, AutomationError};

/// Between two looks at tenants that could not be opened: their keys may have been enabled.
const LOOK: Duration = Duration::from_secs(1);
/// Between two rounds of throwing away what nobody asks for again.
const SWEEP_TICKS: u64 = 3_600;

/// The tenants by whether they are open.
#[derive(Default)]
pub(crate) struct Opened {
    state: Mutex<State>,
    /// One opening or closing at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Uids.
    open: HashSet<String>,
    /// Those that could not be opened, by uid.
    waiting: HashMap<String, TenantStore>,
}

impl Opened {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Automation {
    /// A tenant can work now: it is new, was restored, resumed or unlocked. Opens its queues and schedules unless they are
    /// open, and lets everything that waited for it go on at once. What cannot be opened yet is as soon as it can be.
    pub async fn open_tenant(&self, store: &TenantStore) {
        let Err(error) = self.try_open(store).await else { return };
        if matches!(error, AutomationError::Store(StoreError::Gone)) {
            self.opened.lock().waiting.remove(&store.uid());
            return;
        }
        let is_known = self.opened.lock().waiting.insert(store.uid(), store.clone()).is_some();
        if !is_known {
            tracing::warn!(tenant = %store.label(), %error, "a tenant's queues and schedules do not open yet");
        }
    }

    /// Lets go of a tenant that is gone or replaced: nothing more of it is handed over or begun.
    pub async fn close_tenant(&self, store: &TenantStore) {
        let _one = self.opened.changing.lock().await;
        self.queues.close_of(store);
        self.timer.remove_all_of(store);
        self.hooks.forget_bindings_of(store);
        let mut state = self.opened.lock();
        state.open.remove(&store.uid());
        state.waiting.remove(&store.uid());
    }

    async fn try_open(&self, store: &TenantStore) -> Result<(), AutomationError> {
        let _one = self.opened.changing.lock().await;
        let is_open = self.opened.lock().open.contains(&store.uid());
        if !is_open {
            let Some(tenant) = store.tenant() else { return Ok(()) };
            self.open_queues(tenant, store).await?;
            self.open_schedules(tenant, store).await?;
            let mut state = self.opened.lock();
            state.waiting.remove(&store.uid());
            state.open.insert(store.uid());
        }
        self.hurry_queues(store);
        self.timer.hurry(store, self.parts.clock.now());
        Ok(())
    }

    /// Tends until the end of the host. The first sweep is at once: a host that restarts daily is tended too.
    pub(crate) async fn tend(self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 0_u64.. {
            tokio::select! {
                () = self.closing.announced() => return,
                _ = ticks.tick() => {}
            }
            let waiting: Vec<TenantStore> = self.opened.lock().waiting.values().cloned().collect();
            for store in waiting {
                match store.check_keys() {
                    Ok(()) => self.open_tenant(&store).await,
                    Err(StoreError::Gone) => drop(self.opened.lock().waiting.remove(&store.uid())),
                    Err(_) => {}
                }
            }
            if count.is_multiple_of(SWEEP_TICKS) {
                self.sweep().await;
            }
        }
    }

    /// Throws away the idempotency keys of messages that were taken more than a day ago. Gives how many.
    pub async fn sweep(&self) -> u64 {
        let mut count = 0_u64;
        for queue in self.queues.all() {
            match self.sweep_once(&queue).await {
                Ok(more) => count = count.saturating_add(more),
                Err(error) => {
                    tracing::debug!(queue = %queue.name, %error, "a queue's old idempotency keys stay until the next round");
                }
            }
        }
        count
    }
}
