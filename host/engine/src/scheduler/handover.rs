//! The queue between those who have work and the worker threads: `fair` under one lock, and threads that sleep when it has
//! nothing for them.
//!
//! Must never lose a wake-up: whoever makes an item ready either finds a sleeping worker and calls it, or every worker that
//! may run is running and will ask for the next item when it is done. `model.rs` lets a model checker try their orders.

use super::TenantShare;
use super::fair::{Arrival, Call, Fair, LaneId, LaneTotals, WorkerSet, bit};
use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How long the thread of a lent worker stays behind everyone before it may get on; a newcomer can lower it again.
const LOWERED_NS: u64 = 3_000_000;

/// The queue, the sleepers and the requests to yield.
pub(crate) struct Handover<T> {
    state: Mutex<State<T>>,
    seats: Vec<Seat>,
    /// Seats before this one are worker threads'.
    threads_count: usize,
}

struct State<T> {
    fair: Fair<T>,
    /// Workers that sleep, the warmest last.
    asleep: Vec<usize>,
    stopped: Stopped,
}

#[derive(PartialEq, Eq)]
enum Stopped {
    No,
    Yes,
}

/// One worker's place.
struct Seat {
    call: Condvar,
    /// When it was asked to yield (nanoseconds of the caller's clock, 0: it was not).
    asked_at_ns: AtomicU64,
    /// Whether it is lent out.
    lent: AtomicBool,
    /// Since when its thread is behind everyone (0: it is not).
    lowered_at_ns: AtomicU64,
}

/// What becomes of the thread of a worker that does not yield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind everyone, so that whoever waits gets its core.
    Lowered,
    /// Where threads usually are, so that it gets on.
    Usual,
}

/// Whether the guests on the workers have to look at what is asked of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an asked worker learns of it at the next epoch"]
pub(crate) enum Asked {
    Nobody,
    Someone,
}

// === impl Handover ===

impl<T> Handover<T> {
    /// For `limit` workers at once, `inline` of them perhaps where their items arrive, and `spares` that stand in.
    pub(crate) fn new(limit: usize, spares: usize, inline: usize) -> Self {
        let fair = Fair::new(limit, spares, inline);
        let seat = || Seat {
            call: Condvar::new(),
            asked_at_ns: AtomicU64::new(0),
            lent: AtomicBool::new(false),
            lowered_at_ns: AtomicU64::new(0),
        };
        let seats = (0..fair.places_count()).map(|_| seat());
        Self {
            seats: seats.collect(),
            threads_count: fair.threads_count(),
            state: Mutex::new(State { fair, asleep: Vec::new(), stopped: Stopped::No }),
        }
    }

    /// Worker threads to start.
    pub(crate) fn threads_count(&self) -> usize {
        self.threads_count
    }

    /// Whether an item of this lane may run where it arrives: the place that it then has until [`Handover::done`].
    pub(crate) fn start_inline(&self, id: LaneId, now_ns: u64) -> Option<usize> {
        let mut state = self.lock();
        let place = if state.stopped == Stopped::No { state.fair.start_inline(id, now_ns) } else { None };
        if let Some(seat) = place.and_then(|place| self.seats.get(place)) {
            seat.asked_at_ns.store(0, Ordering::Relaxed);
        }
        place
    }

    pub(crate) fn add_lane(&self, share: TenantShare, now_ns: u64) -> LaneId {
        self.lock().fair.add_lane(share, now_ns)
    }

    pub(crate) fn remove_lane(&self, id: LaneId) -> bool {
        self.lock().fair.remove_lane(id)
    }

    pub(crate) fn set_share(&self, id: LaneId, share: TenantShare, now_ns: u64) {
        let mut state = self.lock();
        state.fair.set_share(id, share, now_ns);
        self.call_sleeper(state);
    }

    pub(crate) fn totals(&self, id: LaneId, now_ns: u64) -> LaneTotals {
        self.lock().fair.totals(id, now_ns)
    }

    /// Whether there is nothing to pay, release or interrupt.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.fair.running_count() == 0 && state.fair.waiting_count() == 0
    }

    /// Puts an item into the queue. After [`Handover::stop`] the item is dropped.
    pub(crate) fn push(&self, id: LaneId, item: T, arrival: Arrival, now_ns: u64) -> Asked {
        let mut state = self.lock();
        if state.stopped == Stopped::Yes {
            drop(state);
            return Asked::Nobody;
        }
        let call = state.fair.push(id, item, arrival, now_ns);
        self.tell(call, state, now_ns)
    }

    /// Moves an item that waits in one lane to another; nothing where it does not wait there.
    pub(crate) fn transfer(&self, from: LaneId, to: LaneId, is_it: impl Fn(&T) -> bool, now_ns: u64) -> Asked {
        let mut state = self.lock();
        let call = state.fair.transfer(from, to, is_it, now_ns);
        self.tell(call, state, now_ns)
    }

    /// Makes a lane pay too for what runs on a worker for another lane.
    pub(crate) fn charge(&self, worker: usize, id: LaneId, cpu_ns: u64, now_ns: u64) {
        self.lock().fair.charge(worker, id, cpu_ns, now_ns);
    }

    /// Does what an arrival asks for; called with the lock.
    fn tell(&self, call: Call, state: MutexGuard<'_, State<T>>, now_ns: u64) -> Asked {
        match call {
            Call::Nobody => Asked::Nobody,
            Call::Idle => {
                self.call_sleeper(state);
                Asked::Nobody
            }
            Call::Yield(workers) => {
                self.ask(workers, now_ns);
                Asked::Someone
            }
        }
    }

    /// The next item for this worker; sleeps until there is one. None when the host stops.
    pub(crate) fn next(&self, worker: usize, now_ns: impl Fn() -> u64) -> Option<T> {
        let seat = self.seats.get(worker)?;
        let mut state = self.lock();
        loop {
            if state.stopped == Stopped::Yes {
                return None;
            }
            if let Some(item) = state.fair.pick(worker, now_ns()) {
                seat.asked_at_ns.store(0, Ordering::Relaxed);
                // The one that called us may have called us for more than one item.
                self.call_sleeper(state);
                return Some(item);
            }
            state.asleep.push(worker);
            // INVARIANT: whoever takes a worker off this list calls it; a worker that wakes for no reason takes itself off.
            state = seat.call.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep.retain(|other| *other != worker);
        }
    }

    /// The worker's poll is over and took this much CPU time; `again` wants to go on. Whether the worker was lent out since
    /// it was last asked with [`Handover::take_lent`].
    pub(crate) fn done(&self, worker: usize, cpu_ns: u64, now_ns: u64, again: Option<(LaneId, T)>) -> bool {
        let mut state = self.lock();
        state.fair.done(worker, cpu_ns, now_ns);
        if let Some(seat) = self.seats.get(worker) {
            seat.asked_at_ns.store(0, Ordering::Relaxed);
        }
        let was_lent = self.take_lent(worker);
        let left = match again {
            Some((id, item)) if state.stopped == Stopped::No => {
                let _ = state.fair.push(id, item, Arrival::Yielded, now_ns);
                None
            }
            other => other,
        };
        // A worker thread asks next itself; nobody does for an inline place, which leaves its room behind.
        if worker >= self.threads_count {
            self.call_sleeper(state);
        } else {
            drop(state);
        }
        drop(left);
        was_lent
    }

    /// Whether this worker was lent out; asked once.
    pub(crate) fn take_lent(&self, worker: usize) -> bool {
        self.seats.get(worker).is_some_and(|seat| {
            seat.lowered_at_ns.store(0, Ordering::Relaxed);
            seat.lent.swap(false, Ordering::AcqRel)
        })
    }

    /// Whether this worker was asked to yield, or is only lent its place.
    pub(crate) fn is_asked(&self, worker: usize) -> bool {
        let asked = |seat: &Seat| seat.asked_at_ns.load(Ordering::Relaxed) != 0 || seat.lent.load(Ordering::Relaxed);
        self.seats.get(worker).is_some_and(asked)
    }

    /// Pays for running polls, ends slices, frees lanes from their debt.
    pub(crate) fn tick(&self, now_ns: u64) -> Asked {
        let mut state = self.lock();
        let tick = state.fair.tick(now_ns);
        if tick.yielding != 0 {
            self.ask(tick.yielding, now_ns);
        }
        self.call_sleeper(state);
        if tick.yielding == 0 { Asked::Nobody } else { Asked::Someone }
    }

    /// When a worker was asked to yield, if it was.
    pub(crate) fn asked_at_ns(&self, worker: usize) -> Option<u64> {
        self.seats.get(worker).map(|seat| seat.asked_at_ns.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// Lends out a worker that was asked and does not yield, and lowers its thread for `LOWERED_NS`. `put` is told under the
    /// lock, so that it cannot come after the worker is back.
    pub(crate) fn lend(&self, worker: usize, now_ns: u64, put: impl Fn(Place)) {
        let Some(seat) = self.seats.get(worker) else { return };
        let mut state = self.lock();
        if seat.asked_at_ns.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        if state.fair.lend(worker, now_ns) {
            seat.lent.store(true, Ordering::Release);
        }
        if seat.lent.load(Ordering::Acquire) {
            seat.lowered_at_ns.store(now_ns.max(1), Ordering::Relaxed);
            put(Place::Lowered);
        }
        self.call_sleeper(state);
    }

    /// Lets a lent worker's thread get on that was lowered long enough.
    pub(crate) fn lift(&self, worker: usize, now_ns: u64, put: impl Fn(Place)) {
        let Some(seat) = self.seats.get(worker) else { return };
        let at = seat.lowered_at_ns.load(Ordering::Relaxed);
        if at == 0 || now_ns.saturating_sub(at) < LOWERED_NS {
            return;
        }
        let _state = self.lock();
        if seat.lowered_at_ns.swap(0, Ordering::Relaxed) != 0 {
            put(Place::Usual);
        }
    }

    /// Lets the workers go when they have finished their poll. What is queued is dropped.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = Stopped::Yes;
        let left = std::mem::replace(&mut state.fair, Fair::new(1, 0, 0));
        state.asleep.clear();
        drop(state);
        for seat in &self.seats {
            seat.call.notify_one();
        }
        drop(left);
    }

    /// Wakes a sleeping worker if there is something that it may run; called with the lock, which it gives back first.
    fn call_sleeper(&self, mut state: MutexGuard<'_, State<T>>) {
        let called = if state.fair.wants_worker() { state.asleep.pop() } else { None };
        drop(state);
        if let Some(seat) = called.and_then(|worker| self.seats.get(worker)) {
            seat.call.notify_one();
        }
    }

    fn ask(&self, workers: WorkerSet, now_ns: u64) {
        for (worker, seat) in self.seats.iter().enumerate() {
            if workers & bit(worker) != 0 {
                let _ = seat.asked_at_ns.compare_exchange(0, now_ns.max(1), Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
