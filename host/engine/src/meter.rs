//! What one invocation spends, counted where it is spent; shared by the engine, the capabilities and the gateway.
//!
//! Must never allow a count to pass its budget unseen. The first reason to end an invocation wins and stays; the
//! worker that runs the guest, and the guest parked in a host call, both learn of it at once.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use ringfence_core::{Budget, Usage};
use rustix::time::{ClockId, clock_gettime};

use crate::client::ClientWait;
use crate::error::RunError;
use crate::integral::Integral;
use crate::line;
use crate::pool::{Full, MemoryPool, add_within, subtract};

/// LIMIT: CPU time a component may take to start, before its own budget is armed (microseconds).
const START_CPU_US_MAX: u64 = 2_000_000;
/// CPU time of starting that does not count against the budget (microseconds).
const START_CPU_US_FREE: u64 = 100_000;
/// A start that was over so soon is taken to have been CPU time throughout, for the clock of a thread is a system call. So an
/// invocation gets so much more than its budget at most, which is as fine as a guest that computes is looked at (the pulse).
const START_SOON: Duration = Duration::from_micros(250);

/// A budget that is used up. Which one is in the meter; hand it to wasmtime as the trap that ends the invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget of {0} is used up")]
pub struct BudgetError(pub(crate) &'static str);

/// Why an invocation has to end. Set once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum End {
    Cpu = 1,
    Time = 2,
    Memory = 3,
    Response = 4,
    HostCalls = 5,
    Killed = 6,
    SlowClient = 7,
    MemoryShare = 8,
}

impl End {
    fn of(code: u8) -> Option<Self> {
        let all = [
            Self::Cpu,
            Self::Time,
            Self::Memory,
            Self::Response,
            Self::HostCalls,
            Self::Killed,
            Self::SlowClient,
            Self::MemoryShare,
        ];
        all.into_iter().find(|end| *end as u8 == code)
    }

    pub(crate) fn error(self) -> RunError {
        match self {
            Self::Cpu => RunError::CpuBudget,
            Self::Time => RunError::TimeBudget,
            Self::Memory => RunError::MemoryBudget,
            Self::Response => RunError::ResponseTooLarge,
            Self::HostCalls => RunError::HostCallBudget,
            Self::Killed => RunError::Killed,
            Self::SlowClient => RunError::SlowClient,
            Self::MemoryShare => RunError::MemoryShare,
        }
    }
}

/// The counters of one invocation.
#[derive(Debug)]
pub struct Meter {
    budget: Budget,
    /// The memory of its tenant; none where no tenant is charged.
    pool: Option<Arc<MemoryPool>>,
    /// When the wall clock started: when the engine handed the guest to the workers.
    started: OnceLock<Instant>,
    /// Wall time is frozen here when the invocation is over (microseconds, 0 while it runs).
    wall_us: AtomicU64,
    /// CPU time of finished polls (nanoseconds).
    cpu_ns: AtomicU64,
    /// Thread CPU clock at the start of the poll that is running (nanoseconds).
    poll_started_ns: AtomicU64,
    /// CPU time at which the guest is stopped (nanoseconds).
    cpu_stop_ns: AtomicU64,
    memory_bytes: AtomicU64,
    memory_bytes_peak: AtomicU64,
    /// What its tenant counts of them as on their way back, once it has to end.
    leaving_bytes: AtomicU64,
    /// The same bytes over time. Behind a lock, since memory changes seldom and in large pieces.
    memory_held: Mutex<Integral>,
    /// Whose room was short when memory was refused last, unless its memory grew enough since: a [`Full`], or 0.
    growth_refused: AtomicU8,
    response_bytes: AtomicU64,
    log_bytes: AtomicU64,
    host_calls_count: AtomicU64,
    outgoing_count: AtomicU64,
    egress_out_bytes: AtomicU64,
    egress_in_bytes: AtomicU64,
    storage_ops_count: AtomicU64,
    client: ClientWait,
    end: AtomicU8,
    waker: AtomicWaker,
}

impl Meter {
    /// A meter with nothing spent. The wall clock starts when the engine hands the guest to the workers.
    pub fn new(budget: Budget) -> Arc<Self> {
        Self::over(budget, None)
    }

    /// The same, with its memory taken from a tenant's pool too.
    pub fn in_pool(budget: Budget, pool: Arc<MemoryPool>) -> Arc<Self> {
        Self::over(budget, Some(pool))
    }

    fn over(budget: Budget, pool: Option<Arc<MemoryPool>>) -> Arc<Self> {
        Arc::new(Self {
            budget,
            pool,
            started: OnceLock::new(),
            wall_us: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            poll_started_ns: AtomicU64::new(0),
            cpu_stop_ns: AtomicU64::new(
                budget.cpu_us.saturating_add(START_CPU_US_FREE).min(START_CPU_US_MAX).saturating_mul(1_000),
            ),
            memory_bytes: AtomicU64::new(0),
            memory_bytes_peak: AtomicU64::new(0),
            leaving_bytes: AtomicU64::new(0),
            memory_held: Mutex::default(),
            growth_refused: AtomicU8::new(0),
            response_bytes: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            host_calls_count: AtomicU64::new(0),
            outgoing_count: AtomicU64::new(0),
            egress_out_bytes: AtomicU64::new(0),
            egress_in_bytes: AtomicU64::new(0),
            storage_ops_count: AtomicU64::new(0),
            client: ClientWait::default(),
            end: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        })
    }

    /// Whether its memory is of this pool.
    pub(crate) fn is_in(&self, pool: &MemoryPool) -> bool {
        self.pool.as_deref().is_some_and(|own| std::ptr::eq(own, pool))
    }

    /// The memory of its tenant; none where no tenant is charged.
    pub(crate) fn pool(&self) -> Option<&Arc<MemoryPool>> {
        self.pool.as_ref()
    }

    /// Bytes it holds now.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// What the invocation may spend.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Counts a call to a capability. Over budget the invocation ends: return the error as a trap.
    pub fn host_call(&self) -> Result<(), BudgetError> {
        if self.host_calls_count.fetch_add(1, Ordering::Relaxed) >= self.budget.host_calls_count {
            self.end(End::HostCalls);
            return Err(BudgetError("host calls"));
        }
        self.alive()
    }

    /// Counts an outgoing request. Over budget only the request is refused.
    pub fn outgoing(&self) -> Result<(), BudgetError> {
        let fits = add_within(&self.outgoing_count, 1, self.budget.outgoing_count);
        fits.map(|_| ()).ok_or(BudgetError("outgoing requests"))
    }

    /// Counts bytes of a body sent with an outgoing request.
    pub fn egress_out(&self, bytes: u64) {
        self.egress_out_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a body received in answer to an outgoing request.
    pub fn egress_in(&self, bytes: u64) {
        self.egress_in_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts an operation on a stored value.
    pub fn storage_op(&self) {
        self.storage_ops_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes of guest log. Over budget only the line is refused, and nothing is counted.
    pub fn log_bytes(&self, bytes: u64) -> Result<(), BudgetError> {
        add_within(&self.log_bytes, bytes, self.budget.log_bytes).map(|_| ()).ok_or(BudgetError("guest log"))
    }

    /// Counts bytes of the answer's body. Over budget the invocation ends.
    pub fn response_bytes(&self, bytes: u64) -> Result<(), BudgetError> {
        let before = self.response_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.response_bytes {
            self.end(End::Response);
            return Err(BudgetError("answer bytes"));
        }
        Ok(())
    }

    /// Counts bytes the host holds for the guest, together with its memories and tables, until the value is dropped.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Result<Held, BudgetError> {
        self.reserve(bytes)?;
        Ok(Held { meter: Arc::clone(self), bytes })
    }

    /// Ends the invocation with [`RunError::Killed`], wherever it is.
    pub fn kill(&self) {
        self.end(End::Killed);
    }

    /// What was spent until now.
    pub fn usage(&self) -> Usage {
        let wall_us = match self.wall_us.load(Ordering::Relaxed) {
            0 => self.started.get().map_or(0, |started| micros(*started)),
            frozen => frozen,
        };
        Usage {
            cpu_us: self.cpu_ns.load(Ordering::Relaxed) / 1_000,
            wall_us,
            memory_bytes_peak: self.memory_bytes_peak.load(Ordering::Relaxed),
            memory_byte_us: self.memory_held().byte_us(Instant::now()),
            // The gateway's to count: it takes the body from the caller.
            request_bytes: 0,
            response_bytes: self.response_bytes.load(Ordering::Relaxed),
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            host_calls_count: self.host_calls_count.load(Ordering::Relaxed).min(self.budget.host_calls_count),
            outgoing_count: self.outgoing_count.load(Ordering::Relaxed),
            egress_out_bytes: self.egress_out_bytes.load(Ordering::Relaxed),
            egress_in_bytes: self.egress_in_bytes.load(Ordering::Relaxed),
            storage_ops_count: self.storage_ops_count.load(Ordering::Relaxed),
        }
    }

    /// How long it waits for its client.
    pub(crate) fn client(&self) -> &ClientWait {
        &self.client
    }

    /// Wall time that is left of the budget, milliseconds; all of it before the start.
    pub fn time_left_ms(&self) -> u64 {
        let spent_us = self.started.get().map_or(0, |started| micros(*started));
        self.budget.time_ms.saturating_sub(spent_us / 1_000)
    }

    /// An error when the invocation has to end: for host calls that loop or wait.
    pub fn alive(&self) -> Result<(), BudgetError> {
        match self.ended() {
            None => Ok(()),
            Some(_) => Err(BudgetError("this invocation")),
        }
    }

    /// Starts the wall clock and answers the deadline.
    pub(crate) fn start(&self, at: Instant) -> Instant {
        let started = *self.started.get_or_init(|| at);
        started.checked_add(Duration::from_millis(self.budget.time_ms)).unwrap_or(started)
    }

    pub(crate) fn ended(&self) -> Option<End> {
        End::of(self.end.load(Ordering::Acquire))
    }

    /// Notes why the invocation has to end, unless there is a reason already, and wakes the guest to learn of it.
    pub(crate) fn end(&self, end: End) {
        self.note_end(end);
        self.waker.wake();
    }

    /// The same without waking the guest: for who holds a lock, and calls [`Meter::end`] after it.
    pub(crate) fn note_end(&self, end: End) {
        let is_first = self.end.compare_exchange(0, end as u8, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_first && let Some(pool) = &self.pool {
            let bytes = self.memory_bytes();
            self.leaving_bytes.fetch_add(bytes, Ordering::Relaxed);
            pool.stake().leaves(bytes);
        }
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Stops the wall clock: the last byte is out.
    pub(crate) fn freeze(&self) {
        let now = self.started.get().map_or(1, |started| micros(*started).max(1));
        let _ = self.wall_us.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The guest has started: from here on its own CPU budget counts.
    pub(crate) fn arm_cpu(&self) {
        let soon = self.started.get().map(Instant::elapsed).filter(|since| *since <= START_SOON);
        let spent = soon.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_else(|| self.cpu_now_ns());
        let free = spent.min(START_CPU_US_FREE.saturating_mul(1_000));
        let stop = self.budget.cpu_us.saturating_mul(1_000).saturating_add(free);
        self.cpu_stop_ns.store(stop, Ordering::Relaxed);
    }

    /// CPU time of finished polls (nanoseconds).
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.cpu_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn poll_starts(&self) {
        self.poll_started_ns.store(thread_cpu_ns(), Ordering::Relaxed);
    }

    pub(crate) fn poll_ends(&self) {
        let spent = thread_cpu_ns().saturating_sub(self.poll_started_ns.load(Ordering::Relaxed));
        self.cpu_ns.fetch_add(spent, Ordering::Relaxed);
        self.check_cpu(0);
    }

    /// Brings the CPU time up to date in the middle of a poll.
    pub(crate) fn settle(&self) {
        let now = thread_cpu_ns();
        let spent = now.saturating_sub(self.poll_started_ns.swap(now, Ordering::Relaxed));
        self.cpu_ns.fetch_add(spent, Ordering::Relaxed);
    }

    /// Lets go of the guest's task, which holds this meter.
    pub(crate) fn forget_waker(&self) {
        drop(self.waker.take());
    }

    /// Called on the guest's thread in the middle of a poll: whether it may go on.
    pub(crate) fn tick(&self) -> Result<(), BudgetError> {
        let running = thread_cpu_ns().saturating_sub(self.poll_started_ns.load(Ordering::Relaxed));
        self.check_cpu(running);
        self.alive()
    }

    /// Counts memory; refuses what would pass the budget, the tenant's pool or the host's, and remembers whose it was.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), BudgetError> {
        self.reserve_by(bytes, MemoryPool::take).map_err(|full| self.note_refused(full))
    }

    /// The same, and where the host has no room and the tenant is within its share of it, waits for that.
    pub(crate) async fn reserve_in_turn(&self, bytes: u64) -> Result<(), BudgetError> {
        let reserved = match (self.reserve_by(bytes, MemoryPool::take), &self.pool) {
            (Err(Full::Host), Some(pool)) => match line::take_in_turn(pool, bytes).await {
                // What is the host's and the tenant's is taken. The budget was asked before the wait: what the host holds for
                // the guest may have used it up meanwhile.
                Ok(()) => self.reserve_by(bytes, |_, _| Ok(())).inspect_err(|_| pool.give_back(bytes)),
                Err(full) => Err(full),
            },
            (reserved, _) => reserved,
        };
        reserved.map_err(|full| self.note_refused(full))
    }

    fn note_refused(&self, full: Full) -> BudgetError {
        self.growth_refused.store(full as u8, Ordering::Relaxed);
        BudgetError("memory")
    }

    /// The same without remembering or counting a refusal: for who can go on without.
    pub(crate) fn try_reserve(&self, bytes: u64) -> Result<(), Full> {
        self.reserve_by(bytes, MemoryPool::take_uncounted)
    }

    fn reserve_by(&self, bytes: u64, take: impl Fn(&MemoryPool, u64) -> Result<(), Full>) -> Result<(), Full> {
        let now = add_within(&self.memory_bytes, bytes, self.budget.memory_bytes).ok_or(Full::Own)?;
        if let Some(pool) = self.pool.as_deref()
            && let Err(full) = take(pool, bytes)
        {
            subtract(&self.memory_bytes, bytes);
            return Err(full);
        }
        self.memory_bytes_peak.fetch_max(now, Ordering::Relaxed);
        self.memory_held().rise(bytes, Instant::now());
        Ok(())
    }

    pub(crate) fn release(&self, bytes: u64) {
        let given = subtract(&self.memory_bytes, bytes);
        if let Some(pool) = &self.pool {
            pool.give_back(given);
            pool.stake().has_left(subtract(&self.leaving_bytes, given));
        }
        self.memory_held().fall(bytes, Instant::now());
    }

    pub(crate) fn note_refused_growth(&self) {
        self.growth_refused.store(Full::Own as u8, Ordering::Relaxed);
    }

    /// Its memory grew enough since: what it did not get is not why it fails later.
    pub(crate) fn forget_refused_growth(&self) {
        self.growth_refused.store(0, Ordering::Relaxed);
    }

    /// Whose room was short when the guest last asked for memory it did not get, if that was not forgotten.
    pub(crate) fn refused_memory(&self) -> Option<Full> {
        let code = self.growth_refused.load(Ordering::Relaxed);
        [Full::Own, Full::Host, Full::Share].into_iter().find(|full| *full as u8 == code)
    }

    fn memory_held(&self) -> MutexGuard<'_, Integral> {
        self.memory_held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cpu_now_ns(&self) -> u64 {
        let running = thread_cpu_ns().saturating_sub(self.poll_started_ns.load(Ordering::Relaxed));
        self.cpu_ns.load(Ordering::Relaxed).saturating_add(running)
    }

    fn check_cpu(&self, running_ns: u64) {
        if self.cpu_ns.load(Ordering::Relaxed).saturating_add(running_ns) > self.cpu_stop_ns.load(Ordering::Relaxed) {
            self.end(End::Cpu);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Whatever was not released by itself must not stay charged to the tenant.
        if let Some(pool) = &self.pool {
            pool.give_back(self.memory_bytes.load(Ordering::Relaxed));
            pool.stake().has_left(self.leaving_bytes.load(Ordering::Relaxed));
        }
    }
}

/// Host-side bytes that count as the guest's memory while this lives.
#[derive(Debug)]
pub struct Held {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meter.release(self.bytes);
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// CPU time of the calling thread (nanoseconds).
fn thread_cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::HostMemory;

    fn budget() -> Budget {
        Budget {
            memory_bytes: 100,
            log_bytes: 10,
            host_calls_count: 2,
            outgoing_count: 1,
            response_bytes: 5,
            ..Budget::DEFAULT
        }
    }

    #[test]
    fn host_calls_over_budget_end_the_invocation() {
        let meter = Meter::new(budget());
        assert!(meter.host_call().is_ok());
        assert!(meter.host_call().is_ok());
        assert!(meter.host_call().is_err());
        assert_eq!(meter.ended(), Some(End::HostCalls));
        assert_eq!(meter.usage().host_calls_count, 2);
    }

    #[test]
    fn log_and_outgoing_over_budget_are_refused_but_end_nothing() {
        let meter = Meter::new(budget());
        assert!(meter.log_bytes(10).is_ok());
        assert!(meter.log_bytes(1).is_err());
        assert!(meter.outgoing().is_ok());
        assert!(meter.outgoing().is_err());
        assert_eq!(meter.ended(), None);
        assert_eq!(meter.usage().log_bytes, 10);
    }

    #[test]
    fn memory_is_a_sum_and_comes_back() {
        let meter = Meter::new(budget());
        assert!(meter.reserve(60).is_ok());
        let held = meter.hold(40).unwrap();
        assert!(meter.reserve(1).is_err());
        assert_eq!(meter.refused_memory(), Some(Full::Own));
        drop(held);
        assert!(meter.reserve(40).is_ok());
        assert_eq!(meter.usage().memory_bytes_peak, 100);
    }

    #[test]
    fn invocations_share_the_pool_of_their_tenant_and_give_it_back() {
        let host = HostMemory::new(1_000);
        let pool = host.pool(150);
        let (one, two) = (Meter::in_pool(budget(), Arc::clone(&pool)), Meter::in_pool(budget(), Arc::clone(&pool)));
        assert!(one.reserve(100).is_ok());
        assert!(two.reserve(51).is_err());
        assert_eq!(two.refused_memory(), Some(Full::Own));
        assert_eq!((two.usage().memory_bytes_peak, pool.refused_count()), (0, 1));
        pool.resize(200);
        assert!(two.reserve(51).is_ok(), "a larger pool is there at once");
        one.release(40);
        assert_eq!(pool.bytes(), 111);
        // What the own budget refuses takes nothing from the others.
        assert!(two.reserve(50).is_err());
        assert_eq!((pool.bytes(), pool.refused_count()), (111, 1));
        drop((one, two));
        assert_eq!((pool.bytes(), host.bytes()), (0, 0));
    }

    #[test]
    fn what_has_to_end_is_on_its_way_back_until_it_is_back_and_nothing_of_that_is_left() {
        let host = HostMemory::new(1_000);
        let pool = host.pool(200);
        let (one, two) = (Meter::in_pool(budget(), Arc::clone(&pool)), Meter::in_pool(budget(), Arc::clone(&pool)));
        assert!(one.reserve(70).is_ok() && two.reserve(50).is_ok());
        one.kill();
        one.end(End::MemoryShare);
        assert_eq!((pool.bytes(), pool.stake().staying_bytes()), (120, 50), "once, whatever ends it");
        one.release(30);
        assert_eq!((pool.bytes(), pool.stake().staying_bytes()), (90, 50));
        // What it takes on its way out is of the same tenant.
        assert!(one.reserve(10).is_ok());
        assert_eq!(pool.stake().staying_bytes(), 60);
        drop(one);
        assert_eq!((pool.bytes(), pool.stake().staying_bytes()), (50, 50));
        two.release(50);
        two.kill();
        drop(two);
        assert!(pool.take(80).is_ok());
        assert_eq!(pool.stake().staying_bytes(), 80);
    }

    #[test]
    fn what_the_host_has_no_room_for_is_not_held_against_the_invocation() {
        let host = HostMemory::new(100);
        let (one, two) = (Meter::in_pool(budget(), host.pool(100)), Meter::in_pool(budget(), host.pool(100)));
        assert!(one.reserve(80).is_ok());
        assert!(two.reserve(50).is_err());
        assert_eq!((one.refused_memory(), two.refused_memory()), (None, Some(Full::Host)));
        assert_eq!((two.usage().memory_bytes_peak, host.bytes()), (0, 80));
        assert!(two.reserve(101).is_err());
        assert_eq!(two.refused_memory(), Some(Full::Own), "the last refusal is the nearest to the end");
        drop(one);
        assert!(two.reserve(50).is_ok());
        drop(two);
        assert_eq!(host.bytes(), 0);
    }

    #[test]
    fn memory_is_metered_while_it_is_held_and_not_after() {
        let meter = Meter::new(budget());
        let held = meter.hold(100).unwrap();
        while meter.usage().memory_byte_us == 0 {
            std::hint::spin_loop();
        }
        drop(held);
        assert_eq!(meter.usage().memory_byte_us, meter.usage().memory_byte_us);
    }

    #[test]
    fn what_is_left_of_the_time_falls_once_the_clock_runs_and_never_below_nothing() {
        let meter = Meter::new(Budget { time_ms: 1_000, ..budget() });
        assert_eq!(meter.time_left_ms(), 1_000);
        let now = Instant::now();
        meter.start(now.checked_sub(Duration::from_millis(400)).unwrap_or(now));
        assert!((1..=600).contains(&meter.time_left_ms()), "{}", meter.time_left_ms());
        let late = Meter::new(Budget { time_ms: 1, ..budget() });
        late.start(now.checked_sub(Duration::from_millis(400)).unwrap_or(now));
        assert_eq!(late.time_left_ms(), 0);
    }

    #[test]
    fn who_waited_for_its_turn_has_no_more_of_its_budget_for_it() {
        let meter = Meter::new(Budget { cpu_us: 10, ..budget() });
        let now = Instant::now();
        meter.start(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        meter.poll_starts();
        meter.arm_cpu();
        let free_ns = meter.cpu_stop_ns.load(Ordering::Relaxed) - 10_000;
        assert!(free_ns < 50_000_000, "{free_ns}");
    }

    #[test]
    fn the_first_reason_to_end_stays() {
        let meter = Meter::new(budget());
        assert!(meter.response_bytes(6).is_err());
        meter.kill();
        assert_eq!(meter.ended(), Some(End::Response));
    }
}
