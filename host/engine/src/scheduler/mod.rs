//! Who runs when. Two halves: admission (a bounded queue before the sandbox) and workers (threads that run guests).
//!
//! `fair` is the arithmetic of the workers' queue, `handover` its lock and sleepers, `workers` the threads, `class` what
//! the kernel is told about them. Its place is after the permit and before the code is fetched; a `Slot` proves that the
//! turn came. Must never let a guest hold an I/O thread: a quick one may be polled on one, once, under the same clock.

mod admission;
pub mod class;
mod clients;
mod fair;
mod handover;
mod slow;
mod sync;
mod workers;

#[cfg(test)]
mod model;

use std::sync::Arc;
use std::time::Duration;

use ringfence_core::{Budget, InvocationId, TenantId, limits};

use crate::error::AdmitError;
use admission::Room;
pub use admission::{Calling, Slot};
pub(crate) use workers::{Deadline, Dispatch, Task, Whose, Workers};

/// Whose turn it is: a tenant's, or that of all rehearsals together.
pub(crate) type Lane = Option<TenantId>;

/// What a tenant may take of the processors and of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantShare {
    /// Its part when processors or slots are short, against the others'; 100 is usual, 1 the least.
    pub weight: u32,
    /// Most CPU time in the long run, thousandths of one core; no cap when absent.
    pub cpu_permille: Option<u32>,
    /// CPU time it may save up under its cap, microseconds; at least 5,000 count.
    pub cpu_burst_us: u64,
    /// Most invocations at once, below the host's own cap; none of its own when absent.
    pub concurrency_count: Option<u32>,
}

impl TenantShare {
    /// The share of a tenant of whom nothing else was said.
    pub const USUAL: Self = Self { weight: 100, cpu_permille: None, cpu_burst_us: 100_000, concurrency_count: None };
}

/// What a tenant has and had, since the host started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantLoad {
    /// Whose.
    pub tenant: TenantId,
    /// Invocations that hold a slot.
    pub running_count: u32,
    /// Invocations that wait for one.
    pub waiting_count: u32,
    /// CPU time of its guests, microseconds.
    pub cpu_us: u64,
    /// Time it was kept from running by its own cap, microseconds.
    pub throttled_us: u64,
    /// Times a guest of it made room for another tenant's.
    pub preempted_count: u64,
}

/// Who runs when.
pub struct Scheduler {
    room: Arc<Room>,
    workers: Arc<Workers>,
}

impl Scheduler {
    pub(crate) fn start(
        slots: u32,
        worker_threads: usize,
        epochs: wasmtime::Engine,
        pulse_class: class::IoClass,
        io: &tokio::runtime::Handle,
    ) -> std::io::Result<Self> {
        Ok(Self {
            room: Room::new(slots, Duration::from_millis(limits::SLOT_WAIT_MS_MAX)),
            workers: Workers::start(worker_threads, epochs, pulse_class, io)?,
        })
    }

    /// Waits for a turn in the tenant's own bounded queue, at most `limits::SLOT_WAIT_MS_MAX`. A tenant whose share was never
    /// set, or that was forgotten, is refused as a suspended one is. Call it inside a tokio runtime with timers.
    pub async fn admit(&self, tenant: &TenantId, budget: Budget) -> Result<Slot, AdmitError> {
        let lane_number = self.workers.lane_number(tenant).ok_or(AdmitError::Suspended)?;
        let mut slot = self.room.admit(tenant, budget).await?;
        slot.lane_number = lane_number;
        Ok(slot)
    }

    /// Notes that a running invocation waits for one that it calls, until what this gives is dropped. The `root` is the
    /// invocation above all of it that no plugin called, which may be the caller.
    pub fn calling(&self, tenant: &TenantId, caller: &InvocationId, root: &InvocationId) -> Calling {
        self.room.calling(tenant, caller, root)
    }

    /// Waits for a turn for what a running invocation called, before those who come anew. Refused at once when all that the
    /// tenant may have running waits for calls of its own: nobody would give up a slot.
    pub async fn admit_called(&self, by: &Calling, budget: Budget) -> Result<Slot, AdmitError> {
        let lane_number = self.workers.lane_number(&by.tenant).ok_or(AdmitError::Suspended)?;
        let mut slot = self.room.admit_called(by, budget).await?;
        slot.lane_number = lane_number;
        Ok(slot)
    }

    /// Lets a tenant in, or changes what it may take; at once, for what runs too.
    pub fn set_share(&self, tenant: &TenantId, share: TenantShare) {
        self.room.set_share(tenant, share);
        self.workers.set_share(tenant, share);
    }

    /// Ends every invocation of a tenant within a tick and lets none in until [`Scheduler::resume`]; how many ran. Also of one whose
    /// share is not set, which then finds itself suspended.
    pub fn suspend(&self, tenant: &TenantId) -> usize {
        self.room.suspend(tenant);
        self.workers.close(tenant)
    }

    /// Lets a suspended tenant in again, unless it is locked.
    pub fn resume(&self, tenant: &TenantId) {
        self.workers.open(tenant);
        self.room.resume(tenant);
    }

    /// Ends every invocation of a tenant that nobody can read, sends away those that wait and lets none in until its share is set
    /// again. Whether it is suspended is kept apart, and holds then as it did.
    pub fn lock(&self, tenant: &TenantId) {
        // Before the slots of those that end are passed on.
        self.room.shut_locked(tenant);
        self.workers.forget(tenant);
    }

    /// Ends every invocation of a deleted tenant, sends away those that wait and forgets its share. A slot that it still holds
    /// runs nothing any more, not even where a namesake comes.
    pub fn forget(&self, tenant: &TenantId) {
        self.lock(tenant);
        self.room.forget(tenant);
    }

    /// What each tenant has and had; those that were never let in are absent.
    pub fn loads(&self) -> Vec<TenantLoad> {
        let totals = self.workers.totals();
        let load = |(tenant, totals): (TenantId, fair::LaneTotals)| {
            let (running_count, waiting_count) = self.room.counts(&tenant);
            TenantLoad {
                tenant,
                running_count,
                waiting_count,
                cpu_us: totals.cpu_ns / 1_000,
                throttled_us: totals.throttled_ns / 1_000,
                preempted_count: totals.preempted_count,
            }
        };
        totals.into_iter().map(load).collect()
    }

    /// Invocations that hold a slot now.
    pub fn running(&self) -> u32 {
        self.room.used()
    }

    /// Guests that were handed to the workers and are not finished; rehearsals are among them.
    pub fn live(&self) -> usize {
        self.workers.live_count()
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
