//! Who runs when. Two halves: admission (a bounded queue before the sandbox) and workers (threads that run guests).
//!
//! Today both go round the tenants: admission gives freed slots to the tenants in turn, and a worker takes the next
//! runnable guest of the next tenant, which yields after one millisecond when someone waits. Its place is after the
//! permit and before the code is fetched; a `Slot` proves that the turn came. Must never poll a guest on an I/O thread.

mod admission;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use ringfence_core::{Budget, TenantId, limits};

use crate::error::AdmitError;
use admission::Room;
pub use admission::Slot;
pub(crate) use workers::{Lane, Workers};

/// Who runs when.
pub struct Scheduler {
    room: Arc<Room>,
    workers: Arc<Workers>,
}

impl Scheduler {
    pub(crate) fn start(slots: u32, worker_threads: usize, io: tokio::runtime::Handle) -> std::io::Result<Self> {
        Ok(Self {
            room: Room::new(slots, Duration::from_millis(limits::SLOT_WAIT_MS_MAX)),
            workers: Workers::start(worker_threads, io)?,
        })
    }

    /// Waits for a turn in the tenant's own bounded queue, at most `limits::SLOT_WAIT_MS_MAX`.
    /// Call it inside a tokio runtime with timers.
    pub async fn admit(&self, tenant: &TenantId, budget: Budget) -> Result<Slot, AdmitError> {
        self.room.admit(tenant, budget).await
    }

    /// Invocations that hold a slot now.
    pub fn running(&self) -> u32 {
        self.room.used()
    }

    /// Invocations that wait for a slot now.
    pub fn waiting(&self) -> usize {
        self.room.waiting()
    }

    /// Slots in all.
    pub fn slots(&self) -> u32 {
        self.room.slots()
    }

    pub(crate) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.workers.stop();
    }
}
