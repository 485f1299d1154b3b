//! What keeps one tenant's runs going: moves the times that have come to the runs that have something to do, and drives
//! those, a few at a time.
//!
//! What waits costs storage only: the store's own order of times is the queue, and the pump sleeps until the first of them.
//! Must never hold more of a tenant than the runs it drives.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringfence_core::RunId;
use ringfence_store::{Op, PageToken, StoreError, TenantStore};
use tokio::sync::{Notify, Semaphore};

use crate::workflow::error::WorkflowError;
use crate::workflow::journal::{self, due_prefix, is_purge, ready_key, ready_prefix};
use crate::workflow::limits::DRIVEN_PER_TENANT_COUNT_MAX;
use crate::workflow::runs::Workflows;
use crate::workflow::session::unix_ms;

/// Times moved in one batch.
const MOVED_COUNT: usize = 450;
/// Runs looked at together.
const READY_COUNT: usize = 64;
/// Longest sleep without a look: the wall clock may have been set.
const LOOK_MS: u64 = 60_000;
/// Before a store that failed is asked again.
const FAILED_MS: u64 = 2_000;

/// One tenant's pump.
pub struct Pump {
    store: TenantStore,
    woken: Notify,
    places: Arc<Semaphore>,
    driven: Mutex<HashSet<RunId>>,
    /// Not before then, Unix milliseconds.
    waits_until_ms: Mutex<u64>,
}

impl Pump {
    pub fn new(store: TenantStore) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(DRIVEN_PER_TENANT_COUNT_MAX));
        Arc::new(Self { store, woken: Notify::new(), places, driven: Mutex::default(), waits_until_ms: Mutex::new(0) })
    }

    /// Something changed: look at once.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// The reason to wait is over.
    pub fn go_on(&self) {
        *self.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        self.wake();
    }

    /// Runs until the tenant or the host is gone.
    pub async fn run(self: Arc<Self>, workflows: Workflows) {
        let mut after = None;
        while !workflows.closing().is_announced() {
            let now_ms = unix_ms(&*workflows.parts().clock);
            let sleep_ms = match self.step(&workflows, now_ms, &mut after).await {
                Ok(sleep_ms) => sleep_ms,
                Err(WorkflowError::Store(StoreError::Gone | StoreError::Closed)) => break,
                Err(error) => {
                    tracing::warn!(%error, "the runs of a tenant cannot be looked at");
                    FAILED_MS
                }
            };
            tokio::select! {
                () = workflows.closing().announced() => {}
                _ = tokio::time::timeout(Duration::from_millis(sleep_ms.min(LOOK_MS)), self.woken.notified()) => {}
            }
        }
        workflows.forget_tenant(&self.store);
    }

    /// Moves what is due, drives what is ready; how long there is nothing to do.
    async fn step(
        self: &Arc<Self>,
        workflows: &Workflows,
        now_ms: u64,
        after: &mut Option<PageToken>,
    ) -> Result<u64, WorkflowError> {
        let waits_until_ms = *self.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if waits_until_ms > now_ms {
            return Ok(waits_until_ms - now_ms);
        }
        let next_ms = self.move_due(now_ms).await?;
        let page = self.store.scan(&ready_prefix(), after.as_ref(), READY_COUNT).await?;
        let has_more = page.next.is_some() || after.is_some();
        *after = page.next;
        let mut began = false;
        for (key, _) in page.records {
            let Some(run) = key.last_name().and_then(|name| name.parse::<RunId>().ok()) else { continue };
            began |= self.begin(workflows, run).await;
        }
        Ok(if has_more && (began || after.is_none()) { 0 } else { next_ms.saturating_sub(now_ms).max(1) })
    }

    /// Gives the runs whose time has come something to do; when the next time is.
    async fn move_due(&self, now_ms: u64) -> Result<u64, WorkflowError> {
        loop {
            let page = self.store.scan(&due_prefix(), None, MOVED_COUNT).await?;
            let mut ops = Vec::with_capacity(MOVED_COUNT * 2);
            let mut next_ms = u64::MAX;
            for (key, record) in page.records {
                let [_, ringfence_store::Segment::Number(due_ms), ringfence_store::Segment::Name(run)] = key.segments()
                else {
                    continue;
                };
                if *due_ms > now_ms {
                    next_ms = *due_ms;
                    break;
                }
                if let Ok(run) = run.parse::<RunId>() {
                    if is_purge(&record.value) {
                        journal::purge(&self.store, &run, now_ms).await?;
                    } else {
                        ops.push(Op::put(ready_key(&run), Vec::new()));
                    }
                }
                ops.push(Op::delete(key));
            }
            if ops.is_empty() {
                return Ok(next_ms);
            }
            self.store.batch(ops, Vec::new()).await?;
        }
    }

    /// Drives a run beside others, once there is a place; whether it was not driven already.
    async fn begin(self: &Arc<Self>, workflows: &Workflows, run: RunId) -> bool {
        if self.driven().contains(&run) {
            return false;
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return false };
        let Some(under_way) = workflows.closing().begin() else { return false };
        self.driven().insert(run.clone());
        let (pump, workflows) = (Arc::clone(self), workflows.clone());
        tokio::spawn(async move {
            let waits_ms = workflows.drive(&pump.store, &run).await;
            if let Some(ms) = waits_ms {
                let until_ms = unix_ms(&*workflows.parts().clock).saturating_add(ms);
                *pump.waits_until_ms.lock().unwrap_or_else(PoisonError::into_inner) = until_ms;
            }
            pump.driven().remove(&run);
            drop((place, under_way));
            pump.wake();
        });
        true
    }

    fn driven(&self) -> std::sync::MutexGuard<'_, HashSet<RunId>> {
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
