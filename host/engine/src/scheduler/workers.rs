//! Threads that run guests and nothing else: the thin shell around `handover`.
//!
//! A guest is a future that is polled here inside the I/O runtime's context, so that timers and sockets it waits for
//! live there; whoever wakes it only puts it back in the queue. One more thread, the pulse, moves the epoch, ends slices
//! and lends out workers that do not answer. A quick guest is polled where its request arrived and where its answer is
//! moved on, in a place that counts as a worker. Must never do I/O and never wait for anything but work.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use ringfence_core::TenantId;
use rustix::time::{ClockId, clock_gettime};

use super::class::{self, IoClass};
use super::fair::{Arrival, LaneId, LaneTotals};
use super::handover::{Asked, Handover, Place};
use super::slow::Slow;
use super::{Lane, TenantShare};
use crate::meter::{End, Meter};

/// Time between two epochs while guests run: how finely a guest can be stopped or made to share.
const PULSE: Duration = Duration::from_millis(1);
/// The same while someone waits for a worker.
const PULSE_CROWDED: Duration = Duration::from_micros(250);
/// How long a worker may run on after it was asked to yield.
const PATIENCE_NS: u64 = 300_000;
/// Guests that may run where they arrived at the same time.
const INLINE_COUNT: usize = 2;
/// Spare workers for each worker.
const SPARES_EACH_COUNT: usize = 2;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// The number of the worker that this thread is.
    static WORKER: Cell<usize> = const { Cell::new(usize::MAX) };
    /// The guest whose answer this thread is moving on, and whether that woke it.
    static TURN: Cell<Option<(u64, Woken)>> = const { Cell::new(None) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    No,
    Yes,
}

/// The worker threads, their queue and who has a lane in it.
pub(crate) struct Workers {
    queue: Handover<Arc<Task>>,
    /// Where guests wait that have to end: no tenant's lane, so no cap stops it. None of their code runs any more, and their
    /// tenants pay for it all the same.
    endings: LaneId,
    epochs: wasmtime::Engine,
    /// The kernel's thread ids, for lending.
    threads: Vec<AtomicI32>,
    lanes: Mutex<Lanes>,
    /// When running invocations have to be over.
    deadlines: Mutex<BTreeMap<(Instant, u64), Arc<Meter>>>,
    tasks_count: AtomicU64,
}

#[derive(Default)]
struct Lanes {
    of: HashMap<Lane, LaneEntry>,
    /// Those of tenants that were forgotten, with how many guests are not finished: the last takes the lane along.
    leaving: HashMap<LaneId, usize>,
}

struct LaneEntry {
    id: LaneId,
    /// Tells it from that of a namesake, before or after.
    number: u64,
    entrance: Entrance,
    slow: Arc<Slow>,
    /// What runs, waits or sleeps in it, to be killed.
    live: HashMap<u64, Arc<Meter>>,
}

/// A worker that was asked to yield, as the pulse saw it first.
#[derive(Default)]
struct Seen {
    asked_at_ns: u64,
    cpu_ns: u64,
}

/// Whether a lane takes guests; those of a closed one end before their first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entrance {
    Open,
    Closed,
}

/// Whose guest it is.
#[derive(Debug, Clone)]
pub(crate) enum Whose {
    /// Nobody's: it is rehearsed.
    Rehearsal,
    /// A tenant's, by the number that its lane had when the slot was asked for.
    Tenant(TenantId, u64),
}

/// Where a guest is polled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dispatch {
    /// On the calling thread, if it may; else on a worker.
    Inline,
    /// On a worker.
    Queued,
}

/// Ends an invocation at its deadline, until it is dropped.
pub(crate) struct Deadline {
    key: (Instant, u64),
    workers: Arc<Workers>,
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.workers.lock_deadlines().remove(&self.key);
    }
}

/// One guest.
pub(crate) struct Task {
    number: u64,
    lane: Lane,
    lane_id: LaneId,
    meter: Arc<Meter>,
    workers: Arc<Workers>,
    state: Mutex<TaskState>,
}

/// Wakes a guest that was not polled yet, and does not keep it.
struct Unpolled(Weak<Task>);

impl Wake for Unpolled {
    fn wake(self: Arc<Self>) {
        if let Some(task) = self.0.upgrade() {
            task.wake();
        }
    }
}

struct TaskState {
    stage: Stage,
    work: Option<Work>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for something outside; a wake queues it.
    Parked,
    /// In the queue.
    Queued,
    /// On a worker.
    Running,
    /// On a worker, and woken meanwhile: goes back to the queue at once.
    RunningWoken,
    /// Finished.
    Done,
}

// === impl Workers ===

impl Workers {
    pub(crate) fn start(
        threads: usize,
        epochs: wasmtime::Engine,
        pulse_class: IoClass,
        io: &tokio::runtime::Handle,
    ) -> std::io::Result<Arc<Self>> {
        let threads = threads.max(1);
        let queue = Handover::new(threads, threads.saturating_mul(SPARES_EACH_COUNT), INLINE_COUNT);
        let endings = queue.add_lane(TenantShare::USUAL, now_ns());
        let workers = Arc::new(Self {
            endings,
            threads: (0..queue.threads_count()).map(|_| AtomicI32::new(0)).collect(),
            queue,
            epochs,
            lanes: Mutex::default(),
            deadlines: Mutex::new(BTreeMap::new()),
            tasks_count: AtomicU64::new(0),
        });
        for number in 0..workers.queue.threads_count() {
            let (own, io) = (Arc::clone(&workers), io.clone());
            std::thread::Builder::new().name(format!("guest-{number}")).spawn(move || own.serve(number, &io))?;
        }
        let weak = Arc::downgrade(&workers);
        std::thread::Builder::new().name("pulse".to_owned()).spawn(move || {
            class::raise_thread(pulse_class);
            let mut seen = Vec::new();
            while let Some(workers) = weak.upgrade() {
                let pause = workers.pulse(&mut seen);
                drop(workers);
                std::thread::sleep(pause);
            }
        })?;
        Ok(workers)
    }

    /// Puts a guest in the queue of its lane; or polls it once on the calling thread, when that is allowed, nobody waits and
    /// its tenant's guests are quick. Two wake-ups of other threads cost more than a quick guest.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        whose: Whose,
        dispatch: Dispatch,
        meter: Arc<Meter>,
        work: Work,
    ) -> Arc<Task> {
        let number = self.tasks_count.fetch_add(1, Ordering::Relaxed);
        let (lane, lane_id, entrance, slow) = {
            let mut lanes = self.lock_lanes();
            let (lane, is_there) = match whose {
                Whose::Rehearsal => (None, true),
                Whose::Tenant(tenant, made) => {
                    let lane = Some(tenant);
                    match lanes.of.get(&lane).is_some_and(|entry| entry.number == made) {
                        true => (lane, true),
                        // SECURITY: its tenant was forgotten since it got its slot. It is nobody's, and ends in nobody's lane.
                        false => (None, false),
                    }
                }
            };
            let entry = self.entry(&mut lanes, &lane);
            entry.live.insert(number, Arc::clone(&meter));
            let entrance = if is_there { entry.entrance } else { Entrance::Closed };
            (lane, entry.id, entrance, Arc::clone(&entry.slow))
        };
        if let Some(pool) = meter.pool() {
            pool.stake().begins();
        }
        if entrance == Entrance::Closed {
            // It got its slot just before the lane was closed.
            meter.kill();
        }
        let state = Mutex::new(TaskState { stage: Stage::Queued, work: Some(work) });
        let task = Arc::new(Task { number, lane, lane_id, meter, workers: Arc::clone(self), state });
        // Its end is heard before it was polled too, which in a lane in debt takes its time.
        task.meter.register(&Waker::from(Arc::new(Unpolled(Arc::downgrade(&task)))));
        match dispatch {
            Dispatch::Inline => self.run_here(Arc::clone(&task), &slow),
            Dispatch::Queued => self.push(Arc::clone(&task)),
        }
        task
    }

    /// Polls a queued guest on the calling thread if its tenant's guests are quick and nobody waits; else a worker does.
    fn run_here(&self, task: Arc<Task>, slow: &Slow) {
        let now = now_ns();
        match if slow.is_over(now) { self.queue.start_inline(task.lane_id, now) } else { None } {
            Some(place) => Self::run_inline(task, place, slow),
            None => self.push(task),
        }
    }

    fn run_inline(task: Arc<Task>, place: usize, slow: &Slow) {
        let before = WORKER.replace(place);
        let (before_ns, meter) = (task.meter.cpu_ns(), Arc::clone(&task.meter));
        task.run(place);
        WORKER.set(before);
        slow.note(meter.cpu_ns().saturating_sub(before_ns), now_ns());
    }

    /// Ends the invocation when its time is over, unless the guard is dropped before.
    pub(crate) fn end_at(self: &Arc<Self>, deadline: Instant, meter: &Arc<Meter>) -> Deadline {
        let key = (deadline, self.tasks_count.fetch_add(1, Ordering::Relaxed));
        self.lock_deadlines().insert(key, Arc::clone(meter));
        Deadline { key, workers: Arc::clone(self) }
    }

    /// Whether the guest on this thread was asked to make room.
    pub(crate) fn is_asked(&self) -> bool {
        self.queue.is_asked(WORKER.get())
    }

    /// The number of a tenant's lane; none where nothing may run, because its share was never set or it was forgotten.
    pub(crate) fn lane_number(&self, tenant: &TenantId) -> Option<u64> {
        self.lock_lanes().of.get(&Some(tenant.clone())).map(|entry| entry.number)
    }

    /// Changes what a lane may take, from now on. Makes it where there is none.
    pub(crate) fn set_share(&self, tenant: &TenantId, share: TenantShare) {
        let mut lanes = self.lock_lanes();
        let id = self.entry(&mut lanes, &Some(tenant.clone())).id;
        self.queue.set_share(id, share, now_ns());
    }

    /// Ends everything of a tenant and whatever comes until [`Workers::open`]; how many there were. Where there is no lane nothing
    /// comes.
    pub(crate) fn close(&self, tenant: &TenantId) -> usize {
        let live: Vec<Arc<Meter>> = {
            let mut lanes = self.lock_lanes();
            // None is made: what is locked would have one by being suspended.
            let Some(entry) = lanes.of.get_mut(&Some(tenant.clone())) else { return 0 };
            entry.entrance = Entrance::Closed;
            entry.live.values().cloned().collect()
        };
        for meter in &live {
            meter.kill();
        }
        self.epochs.increment_epoch();
        live.len()
    }

    /// Takes guests of a tenant again.
    pub(crate) fn open(&self, tenant: &TenantId) {
        if let Some(entry) = self.lock_lanes().of.get_mut(&Some(tenant.clone())) {
            entry.entrance = Entrance::Open;
        }
    }

    /// Ends everything of a tenant and lets go of its lane, which stays in the queue until the last of it is finished. Nothing
    /// runs for the tenant from then on, whoever holds a slot.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        let live = {
            let mut lanes = self.lock_lanes();
            let Some(LaneEntry { id, live, .. }) = lanes.of.remove(&Some(tenant.clone())) else { return };
            if live.is_empty() {
                self.queue.remove_lane(id);
            } else {
                lanes.leaving.insert(id, live.len());
            }
            live
        };
        for meter in live.values() {
            meter.kill();
        }
        self.epochs.increment_epoch();
    }

    /// What each tenant's lane has had since it was made.
    pub(crate) fn totals(&self) -> Vec<(TenantId, LaneTotals)> {
        let now = now_ns();
        let ids: Vec<(TenantId, LaneId)> = {
            let lanes = self.lock_lanes();
            lanes.of.iter().filter_map(|(lane, entry)| Some((lane.clone()?, entry.id))).collect()
        };
        ids.into_iter().map(|(tenant, id)| (tenant, self.queue.totals(id, now))).collect()
    }

    /// What runs, waits or sleeps of each tenant.
    pub(crate) fn live(&self) -> Vec<(TenantId, Arc<Meter>)> {
        let lanes = self.lock_lanes();
        let of_tenants = lanes.of.iter().filter_map(|(lane, entry)| Some((lane.as_ref()?, entry)));
        of_tenants
            .flat_map(|(tenant, entry)| entry.live.values().map(move |meter| (tenant.clone(), Arc::clone(meter))))
            .collect()
    }

    /// Guests that were spawned and are not finished.
    pub(crate) fn live_count(&self) -> usize {
        let lanes = self.lock_lanes();
        lanes.of.values().map(|entry| entry.live.len()).chain(lanes.leaving.values().copied()).sum()
    }

    /// Lets the threads end when they have finished their poll. What is queued is dropped.
    pub(crate) fn stop(&self) {
        self.queue.stop();
    }

    fn serve(&self, number: usize, io: &tokio::runtime::Handle) {
        let _inside = io.enter();
        WORKER.set(number);
        if let Some(place) = self.threads.get(number) {
            place.store(rustix::thread::gettid().as_raw_pid(), Ordering::Relaxed);
        }
        while let Some(task) = self.queue.next(number, now_ns) {
            task.run(number);
        }
    }

    fn push(&self, task: Arc<Task>) {
        let pushed = Arc::clone(&task);
        if self.queue.push(pushed.waits_in(), task, Arrival::Woken, now_ns()) == Asked::Someone {
            self.epochs.increment_epoch();
        }
        self.hurry(&pushed);
    }

    /// Moves a guest that has to end out of the lane of its tenant, if it waits there. Asked when it has to end and when it
    /// was queued: whichever is later finds it.
    fn hurry(&self, task: &Task) {
        if task.meter.ended().is_some()
            && self.queue.transfer(task.lane_id, self.endings, |other| other.number == task.number, now_ns())
                == Asked::Someone
        {
            self.epochs.increment_epoch();
        }
    }

    /// One beat: the epoch moves, slices end, workers that do not answer are lent out. `seen` is what the beats before saw
    /// of workers that were asked. How long until the next.
    fn pulse(&self, seen: &mut Vec<Seen>) -> Duration {
        self.end_late();
        if self.queue.is_quiet() {
            return PULSE;
        }
        let now = now_ns();
        let asked = self.queue.tick(now);
        self.epochs.increment_epoch();
        seen.resize_with(self.threads.len(), Seen::default);
        for (worker, seen) in seen.iter_mut().enumerate() {
            self.watch(worker, seen, now);
        }
        match asked {
            Asked::Someone => PULSE_CROWDED,
            Asked::Nobody => PULSE,
        }
    }

    /// Lends out a worker that was asked and has since run for longer than it may take. One that has not run had no core:
    /// nobody would gain by its place.
    fn watch(&self, worker: usize, seen: &mut Seen, now: u64) {
        let Some(thread) = self.threads.get(worker).map(|thread| thread.load(Ordering::Relaxed)) else { return };
        let put = |place| match place {
            Place::Lowered => class::lower_thread(thread),
            Place::Usual => class::restore_thread(thread),
        };
        self.queue.lift(worker, now, put);
        let Some(asked_at_ns) = self.queue.asked_at_ns(worker) else { return };
        let Some(cpu_ns) = class::cpu_ns_of(thread) else { return };
        if seen.asked_at_ns != asked_at_ns {
            *seen = Seen { asked_at_ns, cpu_ns };
        } else if cpu_ns.saturating_sub(seen.cpu_ns) > PATIENCE_NS {
            self.queue.lend(worker, now, put);
        }
    }

    fn end_late(&self) {
        let mut deadlines = self.lock_deadlines();
        if deadlines.is_empty() {
            return;
        }
        let later = deadlines.split_off(&(Instant::now(), 0));
        let late = std::mem::replace(&mut *deadlines, later);
        drop(deadlines);
        for meter in late.values() {
            meter.end(End::Time);
        }
    }

    fn entry<'a>(&self, lanes: &'a mut Lanes, lane: &Lane) -> &'a mut LaneEntry {
        lanes.of.entry(lane.clone()).or_insert_with(|| LaneEntry {
            id: self.queue.add_lane(TenantShare::USUAL, now_ns()),
            number: self.tasks_count.fetch_add(1, Ordering::Relaxed),
            entrance: Entrance::Open,
            slow: Arc::default(),
            live: HashMap::new(),
        })
    }

    /// Whether the worker is a thread of ours; else it is an I/O thread that runs a guest inline.
    fn is_thread(&self, worker: usize) -> bool {
        worker < self.threads.len()
    }

    fn finished(&self, task: &Task) {
        if let Some(pool) = task.meter.pool() {
            pool.stake().ends();
        }
        let mut lanes = self.lock_lanes();
        if let Some(entry) = lanes.of.get_mut(&task.lane).filter(|entry| entry.id == task.lane_id) {
            entry.live.remove(&task.number);
            return;
        }
        // Its tenant was forgotten.
        let Some(left_count) = lanes.leaving.get_mut(&task.lane_id) else { return };
        *left_count = left_count.saturating_sub(1);
        if *left_count == 0 {
            lanes.leaving.remove(&task.lane_id);
            self.queue.remove_lane(task.lane_id);
        }
    }

    fn lock_deadlines(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Arc<Meter>>> {
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Task ===

/// Ends a [`Task::in_turn`], also when it panics.
struct TurnEnd<'a> {
    task: &'a Arc<Task>,
    outer: Option<(u64, Woken)>,
}

impl Drop for TurnEnd<'_> {
    fn drop(&mut self) {
        if let Some((_, Woken::Yes)) = TURN.replace(self.outer) {
            let (task, workers) = (Arc::clone(self.task), &self.task.workers);
            if std::thread::panicking() {
                workers.push(task);
                return;
            }
            let slow = workers.lock_lanes().of.get(&task.lane).map(|entry| Arc::clone(&entry.slow));
            match slow {
                Some(slow) => workers.run_here(task, &slow),
                None => workers.push(task),
            }
        }
    }
}

impl Task {
    /// Moves this guest's answer on. A guest that `act` wakes is polled here right after it, if it may be: it is about to say
    /// its last words, and handing it to a worker and hearing from it would be two wake-ups of other threads.
    pub(crate) fn in_turn<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        let _end = TurnEnd { task: self, outer: TURN.replace(Some((self.number, Woken::No))) };
        act()
    }

    fn run(self: Arc<Self>, worker: usize) {
        let Some(mut work) = self.take() else { return };
        let waker = Waker::from(Arc::clone(&self));
        let before_ns = self.meter.cpu_ns();
        self.meter.poll_starts();
        let poll = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
        self.meter.poll_ends();
        let spent_ns = self.meter.cpu_ns().saturating_sub(before_ns);
        if self.workers.queue.take_lent(worker) && self.workers.is_thread(worker) {
            // Before any lock is taken: a thread behind everyone must not hold one.
            class::restore_thread(0);
        }
        if self.meter.ended().is_some() {
            self.workers.queue.charge(worker, self.lane_id, spent_ns, now_ns());
        }
        match poll {
            Ok(Poll::Pending) => self.park(work, worker, spent_ns),
            Ok(Poll::Ready(())) => {
                self.give_back(worker, spent_ns, None);
                self.end();
            }
            // A worker outlives a mistake of the host's: the invocation ends, and its end is reported when it is dropped.
            Err(_) => {
                self.give_back(worker, spent_ns, None);
                self.end();
                let _ = catch_unwind(AssertUnwindSafe(move || drop(work)));
            }
        }
    }

    fn give_back(&self, worker: usize, spent_ns: u64, again: Option<(LaneId, Arc<Self>)>) {
        if self.workers.queue.done(worker, spent_ns, now_ns(), again) && self.workers.is_thread(worker) {
            class::restore_thread(0);
        }
    }

    fn take(&self) -> Option<Work> {
        let mut state = self.lock();
        state.stage = Stage::Running;
        state.work.take()
    }

    fn park(self: Arc<Self>, work: Work, worker: usize, spent_ns: u64) {
        let mut state = self.lock();
        state.work = Some(work);
        let again = state.stage == Stage::RunningWoken;
        state.stage = if again { Stage::Queued } else { Stage::Parked };
        drop(state);
        // A wake from here on queues it, perhaps before its worker is given back: the lane then runs it on another.
        let is_queued = again;
        let again = again.then(|| (self.waits_in(), Arc::clone(&self)));
        self.give_back(worker, spent_ns, again);
        if is_queued {
            self.workers.hurry(&self);
        }
    }

    /// The lane for it now.
    fn waits_in(&self) -> LaneId {
        if self.meter.ended().is_some() { self.workers.endings } else { self.lane_id }
    }

    fn end(&self) {
        self.lock().stage = Stage::Done;
        self.workers.finished(self);
    }

    fn lock(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        match state.stage {
            Stage::Parked => {
                state.stage = Stage::Queued;
                drop(state);
                if TURN.get().is_some_and(|(number, _)| number == self.number) {
                    TURN.set(Some((self.number, Woken::Yes)));
                } else {
                    let workers = Arc::clone(&self.workers);
                    workers.push(self);
                }
            }
            Stage::Running => state.stage = Stage::RunningWoken,
            Stage::Queued => {
                drop(state);
                self.workers.hurry(&self);
            }
            Stage::RunningWoken | Stage::Done => {}
        }
    }
}

/// The monotonic clock (nanoseconds).
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::thread::ThreadId;

    use ringfence_core::Budget;

    use super::*;

    /// Pends once, then ends; says on which thread it was polled each time, and gives its waker away.
    fn twice(polled: mpsc::Sender<(ThreadId, Waker)>) -> Work {
        let mut count = 0;
        Box::pin(std::future::poll_fn(move |cx| {
            count += 1;
            polled.send((std::thread::current().id(), cx.waker().clone())).unwrap();
            if count == 1 { Poll::Pending } else { Poll::Ready(()) }
        }))
    }

    #[tokio::test]
    async fn a_guest_that_its_answer_wakes_is_polled_there_and_any_other_on_a_worker() {
        let engine = wasmtime::Engine::default();
        let workers = Workers::start(1, engine, IoClass::Usual, &tokio::runtime::Handle::current()).unwrap();
        let here = std::thread::current().id();
        let (sender, polled) = mpsc::channel();
        let spawn = || {
            let task =
                workers.spawn(Whose::Rehearsal, Dispatch::Inline, Meter::new(Budget::REHEARSAL), twice(sender.clone()));
            let (thread, waker) = polled.recv().unwrap();
            assert_eq!(thread, here);
            (task, waker)
        };
        let (task, waker) = spawn();
        task.in_turn(|| waker.wake());
        assert_eq!(polled.try_recv().unwrap().0, here, "before the turn is over");
        let (_other, waker) = spawn();
        task.in_turn(|| waker.wake());
        assert_ne!(polled.recv_timeout(Duration::from_secs(20)).unwrap().0, here);
        assert_eq!(TURN.get(), None);
        workers.stop();
    }

    /// A guest that asks for memory is on a thread that others' guests run on too.
    #[tokio::test]
    async fn who_asks_for_memory_does_not_wait_for_the_lock_that_every_worker_takes() {
        let engine = wasmtime::Engine::default();
        let io = tokio::runtime::Handle::current();
        let workers = Workers::start(1, engine, IoClass::Usual, &io).unwrap();
        let host = crate::pool::HostMemory::new(800);
        host.line().ends_of(&workers);
        let (greedy, calm) = (host.pool(1_000), host.pool(1_000));
        assert_eq!(greedy.take(700), Ok(()));
        let (told, asked) = mpsc::channel();
        let lanes = workers.lock_lanes();
        std::thread::spawn(move || {
            let _inside = io.enter();
            let mut waits = Box::pin(crate::line::take_in_turn(&calm, 200));
            told.send(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()).unwrap();
        });
        assert_eq!(asked.recv_timeout(SOON), Ok(true));
        drop(lanes);
        workers.stop();
    }

    #[test]
    fn the_last_of_many_workers_is_asked_and_lent_out_like_the_first() {
        let queue: Handover<usize> = Handover::new(64, 128, INLINE_COUNT);
        let (busy, newcomer) = (queue.add_lane(TenantShare::USUAL, 0), queue.add_lane(TenantShare::USUAL, 0));
        for worker in 0..64 {
            let _ = queue.push(busy, worker, Arrival::Woken, 0);
            assert_eq!(queue.next(worker, || 0), Some(worker));
        }
        let late = 1_000_000;
        assert_eq!(queue.push(newcomer, 64, Arrival::Woken, late), Asked::Someone);
        assert!((0..64).all(|worker| queue.is_asked(worker)) && !queue.is_asked(64));
        queue.lend(63, late, |_| {});
        assert_eq!(queue.next(64, || late), Some(64), "a spare stands in");
        assert!(queue.done(63, late, late, None), "it was lent out");
        assert!(!queue.done(64, late, late, None));
    }

    /// Longest wait for what should happen at once, on a machine that may be busy.
    const SOON: Duration = Duration::from_secs(30);

    /// Keeps a guest in its call until it is dropped: a failed test leaves no thread that computes for ever.
    struct Gate(Arc<AtomicBool>);

    impl Drop for Gate {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A guest inside one call that nothing interrupts; says when it began.
    fn stuck(began: mpsc::Sender<()>) -> (Gate, Work) {
        let open = Arc::new(AtomicBool::new(false));
        let gate = Gate(Arc::clone(&open));
        let work = std::future::poll_fn(move |_| {
            began.send(()).unwrap();
            while !open.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            Poll::Ready(())
        });
        (gate, Box::pin(work))
    }

    /// Real threads, the pulse included: all of them are stuck, and one comes back while the others never do. Whichever it
    /// is (lent out first, lent out last, never lent), a neighbour is served from then on, again and again.
    #[tokio::test]
    async fn when_every_thread_is_stuck_the_first_that_comes_back_serves_a_neighbour() {
        let threads = 1 + SPARES_EACH_COUNT;
        for back in 0..threads {
            let engine = wasmtime::Engine::default();
            let workers = Workers::start(1, engine, IoClass::Usual, &tokio::runtime::Handle::current()).unwrap();
            assert_eq!(workers.threads.len(), threads);
            let spawn = |name: &str, work: Work| {
                let tenant: TenantId = name.parse().unwrap();
                workers.set_share(&tenant, TenantShare::USUAL);
                let number = workers.lane_number(&tenant).unwrap();
                let whose = Whose::Tenant(tenant, number);
                drop(workers.spawn(whose, Dispatch::Queued, Meter::new(Budget::REHEARSAL), work));
            };
            let (began, begun) = mpsc::channel();
            let mut gates = Vec::new();
            for number in 0..threads {
                let (gate, work) = stuck(began.clone());
                gates.push(gate);
                spawn(&format!("stuck-{number}"), work);
                let took = begun.recv_timeout(SOON);
                assert!(took.is_ok(), "no spare took the place of what is stuck: {number} of {threads}");
            }
            let (answer, answered) = mpsc::channel();
            let neighbour = || -> Work {
                let answer = answer.clone();
                Box::pin(async move { answer.send(()).unwrap() })
            };
            spawn("neighbour", neighbour());
            assert!(answered.try_recv().is_err(), "no thread is there that could have served it");
            drop(gates.swap_remove(back));
            for number in 0..20 {
                assert!(answered.recv_timeout(SOON).is_ok(), "{back} came back, and neighbour {number} was not served");
                spawn("neighbour", neighbour());
            }
            drop(gates);
            let since = Instant::now();
            while workers.live_count() > 0 {
                assert!(since.elapsed() < SOON, "{} are still there", workers.live_count());
                std::thread::sleep(Duration::from_millis(1));
            }
            workers.stop();
        }
    }
}
