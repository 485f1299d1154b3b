//! Who runs next on the worker threads: the arithmetic alone, without threads, clocks or wasm.
//!
//! * **Least virtual runtime first.** Each tenant is a lane; running costs it CPU time divided by its weight, and the lane
//!   that has paid least goes first (start-time fair queueing, Goyal 1996; the Linux CFS). `floor`, the least virtual
//!   runtime of all active lanes, only rises.
//! * **Wake credit.** A lane that wakes after a rest is put at most `CREDIT_NS` behind the floor: it is served at once, and
//!   cannot save up more. Among lanes in credit the one that has got least since it rested goes first, so that a wave of
//!   newcomers that want much does not delay one that wants little (least attained service, Nuyens and Wierman 2008).
//! * **Arrival preempts.** A newcomer asks every worker that runs a lane of lower rank to yield; the first to do so takes it.
//! * **Caps.** A lane may have a share of the processors as a token bucket; in debt it does not run, whoever is idle.
//! * **Hand-off.** A worker that does not yield in time (one bulk memory operation cannot be interrupted) is lent out: a spare
//!   takes its place. A lane that does this again and again is a hog for a while: one worker at a time, and never the last.
//!
//! All times are nanoseconds of one monotonic clock that the caller reads. Must never block, allocate without bound (one
//! entry for each tenant and each admitted invocation), or look at a lane that cannot run to decide for one that can.

use std::collections::{BTreeSet, VecDeque};

use ringfence_core::limits::WORKERS_COUNT_MAX;

use super::TenantShare;

/// Workers, a bit for each.
pub(crate) type WorkerSet = u128;

/// LIMIT: places of items that run where they arrive.
const INLINE_COUNT_MAX: usize = 8;
/// LIMIT: worker threads, spares included: with the places above as many as a [`WorkerSet`] has bits. The most workers have 24
/// spares still.
const THREADS_COUNT_MAX: usize = WorkerSet::BITS as usize - INLINE_COUNT_MAX;

/// How long a guest runs before it makes room for one that waits.
pub(crate) const SLICE_NS: u64 = 1_000_000;
/// The same where it arrived, on an I/O thread.
const INLINE_SLICE_NS: u64 = 500_000;
/// How far behind the floor a waking lane may be.
pub(crate) const CREDIT_NS: u64 = 1_000_000;
/// How much more a running lane must have got before a newcomer interrupts it.
const GRAIN_NS: u64 = 250_000;
/// Tokens a capped lane needs before it runs again: shorter turns would be all switching.
const CAP_TURN_NS: i64 = 1_000_000;
/// Least burst of a capped lane: below it, what is earned between two ticks would be lost.
const CAP_BURST_NS_MIN: i64 = 5_000_000;
/// Hand-offs within `STRIKE_WINDOW_NS` that make a lane a hog.
const STRIKES_COUNT: u32 = 3;
const STRIKE_WINDOW_NS: u64 = 1_000_000_000;
/// How long a lane stays a hog after its last hand-off.
const HOG_NS: u64 = 5_000_000_000;
/// The weight at which virtual runtime is CPU time.
const WEIGHT_USUAL: u64 = 100;

/// A tenant's place in the queue; rehearsals share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId(usize);

/// Why an item comes into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New, or woken by something outside.
    Woken,
    /// It made room and wants to go on.
    Yielded,
}

/// What an arrival asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Nothing: it waits its turn.
    Nobody,
    /// A worker that has nothing to do.
    Idle,
    /// That these workers yield.
    Yield(WorkerSet),
}

/// What a tick found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    /// Workers that have to yield.
    pub(crate) yielding: WorkerSet,
    /// Lanes that may run again.
    pub(crate) released_count: usize,
}

/// What a lane has had since it was made.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneTotals {
    pub(crate) cpu_ns: u64,
    pub(crate) throttled_ns: u64,
    pub(crate) preempted_count: u64,
}

/// In credit by service since the rest, else by virtual runtime; then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Credit { burst_ns: u64, arrived: u64 },
    Paid { vruntime: u64, arrived: u64 },
}

/// The queue of all lanes and the state of all workers.
pub(crate) struct Fair<T> {
    lanes: Vec<Option<Lane<T>>>,
    ready: BTreeSet<(Rank, LaneId)>,
    /// Virtual runtimes of the lanes that are ready or running.
    active: BTreeSet<(u64, LaneId)>,
    /// Lanes in debt.
    throttled: BTreeSet<LaneId>,
    floor: u64,
    workers: Vec<Option<Running>>,
    /// Places before this one are threads; from it on they are where arrivals may run at once.
    threads_count: usize,
    /// Workers that may run at the same time, without those lent out.
    limit: usize,
    running_count: usize,
    lent_count: usize,
    waiting_count: usize,
    arrivals: u64,
}

struct Lane<T> {
    share: TenantShare,
    queue: VecDeque<T>,
    running_count: usize,
    vruntime: u64,
    /// CPU time since it last woke from a rest.
    burst_ns: u64,
    arrived: u64,
    /// Its entries in the two sets.
    rank: Option<Rank>,
    active_at: Option<u64>,
    /// CPU time it may still take, when capped.
    tokens_ns: i64,
    tokens_at_ns: u64,
    throttled_since_ns: Option<u64>,
    strikes_count: u32,
    struck_at_ns: u64,
    hog_until_ns: u64,
    totals: LaneTotals,
}

struct Running {
    lane: LaneId,
    since_ns: u64,
    /// Until when its time is already paid, and how much that was.
    paid_until_ns: u64,
    paid_ns: u64,
    lent: Lent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lent {
    No,
    Yes,
}

// === impl Fair ===

impl<T> Fair<T> {
    /// `limit` workers run at once, at most `WORKERS_COUNT_MAX`, `inline` of them perhaps where their items arrive; `spares` more
    /// threads can stand in for workers that are lent out, as far as there are bits for them.
    pub(crate) fn new(limit: usize, spares: usize, inline: usize) -> Self {
        let limit = limit.clamp(1, WORKERS_COUNT_MAX);
        let threads_count = limit.saturating_add(spares).min(THREADS_COUNT_MAX);
        Self {
            lanes: Vec::new(),
            ready: BTreeSet::new(),
            active: BTreeSet::new(),
            throttled: BTreeSet::new(),
            floor: 0,
            workers: (0..threads_count.saturating_add(inline.min(INLINE_COUNT_MAX))).map(|_| None).collect(),
            threads_count,
            limit,
            running_count: 0,
            lent_count: 0,
            waiting_count: 0,
            arrivals: 0,
        }
    }

    /// Worker threads in all, spares included.
    pub(crate) fn threads_count(&self) -> usize {
        self.threads_count
    }

    /// Places in all: the threads', then those of items that run where they arrive.
    pub(crate) fn places_count(&self) -> usize {
        self.workers.len()
    }

    /// Items that wait.
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting_count
    }

    /// Items on workers.
    pub(crate) fn running_count(&self) -> usize {
        self.running_count
    }

    /// Makes a lane.
    pub(crate) fn add_lane(&mut self, share: TenantShare, now_ns: u64) -> LaneId {
        let lane = Lane {
            share,
            queue: VecDeque::new(),
            running_count: 0,
            vruntime: self.floor,
            burst_ns: 0,
            arrived: 0,
            rank: None,
            active_at: None,
            tokens_ns: burst_of(&share),
            tokens_at_ns: now_ns,
            throttled_since_ns: None,
            strikes_count: 0,
            struck_at_ns: 0,
            hog_until_ns: 0,
            totals: LaneTotals::default(),
        };
        if let Some(index) = self.lanes.iter().position(Option::is_none) {
            if let Some(place) = self.lanes.get_mut(index) {
                *place = Some(lane);
            }
            return LaneId(index);
        }
        self.lanes.push(Some(lane));
        LaneId(self.lanes.len().saturating_sub(1))
    }

    /// Forgets a lane that has nothing queued and nothing running; whether it did.
    pub(crate) fn remove_lane(&mut self, id: LaneId) -> bool {
        let Some(place) = self.lanes.get_mut(id.0) else { return false };
        if place.as_ref().is_none_or(|lane| !lane.queue.is_empty() || lane.running_count > 0) {
            return false;
        }
        *place = None;
        self.throttled.remove(&id);
        true
    }

    /// Changes what a lane may take, from now on.
    pub(crate) fn set_share(&mut self, id: LaneId, share: TenantShare, now_ns: u64) {
        let Some(lane) = self.lane_mut(id) else { return };
        lane.refill(now_ns);
        // Time spent under the old terms is not held against the new ones, nor saved up for them.
        lane.tokens_ns = if lane.share.cpu_permille == share.cpu_permille {
            lane.tokens_ns.min(burst_of(&share))
        } else {
            burst_of(&share)
        };
        lane.share = share;
        self.unthrottle(id, now_ns);
        self.place(id);
    }

    /// What a lane has had until now, running polls included.
    pub(crate) fn totals(&self, id: LaneId, now_ns: u64) -> LaneTotals {
        let Some(lane) = self.lane(id) else { return LaneTotals::default() };
        let since = lane.throttled_since_ns.map_or(0, |since| now_ns.saturating_sub(since));
        LaneTotals { throttled_ns: lane.totals.throttled_ns.saturating_add(since), ..lane.totals }
    }

    /// Puts an item into its lane's queue.
    pub(crate) fn push(&mut self, id: LaneId, item: T, arrival: Arrival, now_ns: u64) -> Call {
        let credit_line = self.floor.saturating_sub(CREDIT_NS);
        self.arrivals = self.arrivals.wrapping_add(1);
        let arrived = self.arrivals;
        let Some(lane) = self.lane_mut(id) else { return Call::Nobody };
        if arrival == Arrival::Woken {
            lane.wake(credit_line);
        }
        if lane.queue.is_empty() {
            lane.arrived = arrived;
        }
        lane.queue.push_back(item);
        lane.refill(now_ns);
        self.waiting_count = self.waiting_count.saturating_add(1);
        self.unthrottle(id, now_ns);
        self.throttle(id, now_ns);
        self.place(id);
        match arrival {
            Arrival::Woken => self.call_for(id, now_ns),
            // It has just made room: the worker that it left decides.
            Arrival::Yielded => Call::Nobody,
        }
    }

    /// Moves an item that waits in one lane to another, where it has just arrived; what it asks for there.
    pub(crate) fn transfer(&mut self, from: LaneId, to: LaneId, is_it: impl Fn(&T) -> bool, now_ns: u64) -> Call {
        let Some(lane) = self.lane_mut(from) else { return Call::Nobody };
        let Some(at) = lane.queue.iter().position(is_it) else { return Call::Nobody };
        let Some(item) = lane.queue.remove(at) else { return Call::Nobody };
        self.waiting_count = self.waiting_count.saturating_sub(1);
        self.place(from);
        self.push(to, item, Arrival::Woken, now_ns)
    }

    /// Makes a lane pay too for what runs on a worker for another lane.
    pub(crate) fn charge(&mut self, worker: usize, id: LaneId, cpu_ns: u64, now_ns: u64) {
        if self.workers.get(worker).and_then(Option::as_ref).is_none_or(|running| running.lane == id) {
            return;
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.refill(now_ns);
            lane.pay(cpu_ns);
        }
        self.throttle(id, now_ns);
        self.place(id);
    }

    /// Whether a sleeping worker would find something.
    pub(crate) fn wants_worker(&self) -> bool {
        self.has_room() && !self.ready.is_empty()
    }

    /// The next item for a worker that has nothing to do.
    pub(crate) fn pick(&mut self, worker: usize, now_ns: u64) -> Option<T> {
        if !self.has_room() || self.workers.get(worker)?.is_some() {
            return None;
        }
        let id = self.next_lane(now_ns)?;
        let lane = self.lane_mut(id)?;
        let item = lane.queue.pop_front()?;
        self.waiting_count = self.waiting_count.saturating_sub(1);
        self.seat(worker, id, now_ns);
        Some(item)
    }

    /// Starts an item of a lane where it arrives, if nobody waits and there is room; the place that it has then.
    pub(crate) fn start_inline(&mut self, id: LaneId, now_ns: u64) -> Option<usize> {
        let mut places = self.workers.iter().enumerate().skip(self.threads_count);
        let place = places.find(|(_, running)| running.is_none()).map(|(place, _)| place)?;
        if self.waiting_count > 0 || !self.has_room() || self.throttled.contains(&id) || !self.may_run(id, now_ns) {
            return None;
        }
        let credit_line = self.floor.saturating_sub(CREDIT_NS);
        let lane = self.lane_mut(id)?;
        lane.refill(now_ns);
        lane.wake(credit_line);
        self.seat(place, id, now_ns);
        Some(place)
    }

    /// Puts a lane on a place that is free.
    fn seat(&mut self, place: usize, id: LaneId, now_ns: u64) {
        let running = Running { lane: id, since_ns: now_ns, paid_until_ns: now_ns, paid_ns: 0, lent: Lent::No };
        if let Some(free) = self.workers.get_mut(place) {
            *free = Some(running);
        }
        if let Some(lane) = self.lane_mut(id) {
            lane.running_count = lane.running_count.saturating_add(1);
        }
        self.running_count = self.running_count.saturating_add(1);
        self.place(id);
    }

    /// A worker is back: its lane pays what the poll took.
    pub(crate) fn done(&mut self, worker: usize, cpu_ns: u64, now_ns: u64) {
        let Some(running) = self.workers.get_mut(worker).and_then(Option::take) else { return };
        self.running_count = self.running_count.saturating_sub(1);
        if running.lent == Lent::Yes {
            self.lent_count = self.lent_count.saturating_sub(1);
        }
        if let Some(lane) = self.lane_mut(running.lane) {
            lane.running_count = lane.running_count.saturating_sub(1);
            lane.refill(now_ns);
            lane.take_back(running.paid_ns);
            lane.pay(cpu_ns);
        }
        self.throttle(running.lane, now_ns);
        self.place(running.lane);
    }

    /// Brings accounts up to date in the middle of long polls: who is over its slice or its cap, who may run again.
    pub(crate) fn tick(&mut self, now_ns: u64) -> Tick {
        for worker in 0..self.workers.len() {
            self.pay_running(worker, now_ns);
        }
        let mut tick = Tick::default();
        let throttled: Vec<LaneId> = self.throttled.iter().copied().collect();
        for id in throttled {
            if self.unthrottle(id, now_ns) {
                self.place(id);
                tick.released_count = tick.released_count.saturating_add(1);
            }
        }
        let someone_waits = self.next_lane(now_ns).is_some();
        for (worker, running) in self.workers.iter().enumerate() {
            let Some(running) = running else { continue };
            let throttled = self.throttled.contains(&running.lane);
            let since_ns = now_ns.saturating_sub(running.since_ns);
            // A guest that runs where it arrived keeps an I/O thread from its work, whether or not another guest waits.
            let over = if worker >= self.threads_count {
                since_ns >= INLINE_SLICE_NS
            } else {
                since_ns >= SLICE_NS && someone_waits && running.lent == Lent::No
            };
            if throttled || over {
                tick.yielding |= bit(worker);
            }
        }
        tick
    }

    /// A worker does not yield: lends it out, so that a spare takes its place. Whether it did.
    pub(crate) fn lend(&mut self, worker: usize, now_ns: u64) -> bool {
        let spare = self.workers.iter().take(self.threads_count).filter(|running| running.is_none()).count();
        if spare == 0 || self.waiting_count == 0 {
            return false;
        }
        let Some(Some(running)) = self.workers.get_mut(worker) else { return false };
        if running.lent == Lent::Yes {
            return false;
        }
        running.lent = Lent::Yes;
        let id = running.lane;
        self.lent_count = self.lent_count.saturating_add(1);
        if let Some(lane) = self.lane_mut(id) {
            lane.strike(now_ns);
        }
        true
    }

    /// Whether a worker may take an item now, were there one.
    fn has_room(&self) -> bool {
        self.running_count < self.limit.saturating_add(self.lent_count)
    }

    fn next_lane(&self, now_ns: u64) -> Option<LaneId> {
        self.ready.iter().map(|(_, id)| *id).find(|id| self.may_run(*id, now_ns))
    }

    /// A hog runs once at a time, and hogs together never on the last worker.
    fn may_run(&self, id: LaneId, now_ns: u64) -> bool {
        let is_hog = |id: LaneId| self.lane(id).is_some_and(|lane| lane.hog_until_ns > now_ns);
        if !is_hog(id) {
            return true;
        }
        let hogs = self.workers.iter().flatten().filter(|running| is_hog(running.lane)).count();
        let own = self.lane(id).map_or(0, |lane| lane.running_count);
        own == 0 && hogs < self.limit.saturating_sub(1).max(1)
    }

    fn call_for(&mut self, id: LaneId, now_ns: u64) -> Call {
        let Some(rank) = self.lane(id).and_then(|lane| lane.rank) else { return Call::Nobody };
        if !self.may_run(id, now_ns) {
            return Call::Nobody;
        }
        if self.has_room() {
            return Call::Idle;
        }
        let mut asked: WorkerSet = 0;
        for (worker, running) in self.workers.iter().enumerate() {
            let Some(running) = running else { continue };
            if running.lane == id {
                continue;
            }
            if let Some(lane) = self.lane(running.lane)
                && lane.is_behind(rank, now_ns.saturating_sub(running.paid_until_ns), self.floor)
            {
                asked |= bit(worker);
            }
        }
        for worker in 0..self.workers.len() {
            let lane = self.workers.get(worker).and_then(Option::as_ref).map(|running| running.lane);
            if asked & bit(worker) != 0
                && let Some(lane) = lane.and_then(|id| self.lane_mut(id))
            {
                lane.totals.preempted_count = lane.totals.preempted_count.saturating_add(1);
            }
        }
        if asked == 0 { Call::Nobody } else { Call::Yield(asked) }
    }

    fn pay_running(&mut self, worker: usize, now_ns: u64) {
        let Some(Some(running)) = self.workers.get_mut(worker) else { return };
        let id = running.lane;
        let elapsed = now_ns.saturating_sub(running.paid_until_ns);
        running.paid_until_ns = running.paid_until_ns.max(now_ns);
        running.paid_ns = running.paid_ns.saturating_add(elapsed);
        if let Some(lane) = self.lane_mut(id) {
            lane.refill(now_ns);
            lane.pay(elapsed);
        }
        self.throttle(id, now_ns);
        self.place(id);
    }

    /// Stops a lane that is in debt.
    fn throttle(&mut self, id: LaneId, now_ns: u64) {
        if let Some(lane) = self.lane_mut(id)
            && lane.share.cpu_permille.is_some()
            && lane.tokens_ns <= 0
            && lane.throttled_since_ns.is_none()
        {
            lane.throttled_since_ns = Some(now_ns);
            self.throttled.insert(id);
        }
    }

    /// Lets a lane run again that has earned a turn; whether it was stopped and no longer is.
    fn unthrottle(&mut self, id: LaneId, now_ns: u64) -> bool {
        let credit_line = self.floor.saturating_sub(CREDIT_NS);
        let Some(lane) = self.lane_mut(id) else { return false };
        lane.refill(now_ns);
        let Some(since) = lane.throttled_since_ns else { return false };
        let turn = CAP_TURN_NS.min(burst_of(&lane.share));
        if lane.share.cpu_permille.is_some() && lane.tokens_ns < turn {
            return false;
        }
        lane.throttled_since_ns = None;
        lane.totals.throttled_ns = lane.totals.throttled_ns.saturating_add(now_ns.saturating_sub(since));
        // What it was kept from is not owed to it.
        lane.vruntime = lane.vruntime.max(credit_line);
        self.throttled.remove(&id);
        true
    }

    /// Brings a lane's entries in the sets, and the floor, up to date.
    fn place(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.0).and_then(Option::as_mut) else { return };
        if let Some(at) = lane.active_at.take() {
            self.active.remove(&(at, id));
        }
        if let Some(rank) = lane.rank.take() {
            self.ready.remove(&(rank, id));
        }
        let stopped = lane.throttled_since_ns.is_some();
        if lane.running_count > 0 || (!lane.queue.is_empty() && !stopped) {
            lane.active_at = Some(lane.vruntime);
            self.active.insert((lane.vruntime, id));
        }
        if let Some((least, _)) = self.active.first() {
            self.floor = self.floor.max(*least);
        }
        if !lane.queue.is_empty() && !stopped {
            let rank = lane.rank_at(0, self.floor);
            lane.rank = Some(rank);
            self.ready.insert((rank, id));
        }
    }

    fn lane(&self, id: LaneId) -> Option<&Lane<T>> {
        self.lanes.get(id.0).and_then(Option::as_ref)
    }

    fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane<T>> {
        self.lanes.get_mut(id.0).and_then(Option::as_mut)
    }
}

// === impl Lane ===

impl<T> Lane<T> {
    fn weighed(&self, cpu_ns: u64) -> u64 {
        cpu_ns.saturating_mul(WEIGHT_USUAL) / u64::from(self.share.weight.max(1))
    }

    /// Something of it wants to run: after a rest, it is put behind the floor by its credit and no more.
    fn wake(&mut self, credit_line: u64) {
        if self.queue.is_empty() && self.running_count == 0 && self.vruntime < credit_line {
            self.vruntime = credit_line;
            self.burst_ns = 0;
        }
    }

    fn pay(&mut self, cpu_ns: u64) {
        self.vruntime = self.vruntime.saturating_add(self.weighed(cpu_ns));
        self.burst_ns = self.burst_ns.saturating_add(cpu_ns);
        self.totals.cpu_ns = self.totals.cpu_ns.saturating_add(cpu_ns);
        if self.share.cpu_permille.is_some() {
            self.tokens_ns = self.tokens_ns.saturating_sub_unsigned(cpu_ns);
        }
    }

    /// Takes back what was paid by the wall clock, before the exact sum is paid.
    fn take_back(&mut self, paid_ns: u64) {
        self.vruntime = self.vruntime.saturating_sub(self.weighed(paid_ns));
        self.burst_ns = self.burst_ns.saturating_sub(paid_ns);
        self.totals.cpu_ns = self.totals.cpu_ns.saturating_sub(paid_ns);
        if self.share.cpu_permille.is_some() {
            self.tokens_ns = self.tokens_ns.saturating_add_unsigned(paid_ns);
        }
    }

    fn refill(&mut self, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.tokens_at_ns);
        self.tokens_at_ns = self.tokens_at_ns.max(now_ns);
        if let Some(permille) = self.share.cpu_permille {
            let earned = u128::from(elapsed).saturating_mul(u128::from(permille)) / 1_000;
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.tokens_ns = self.tokens_ns.saturating_add(earned).min(burst_of(&self.share));
        }
    }

    fn rank_at(&self, unpaid_ns: u64, floor: u64) -> Rank {
        let vruntime = self.vruntime.saturating_add(self.weighed(unpaid_ns));
        if vruntime <= floor {
            Rank::Credit { burst_ns: self.burst_ns.saturating_add(unpaid_ns), arrived: self.arrived }
        } else {
            Rank::Paid { vruntime, arrived: self.arrived }
        }
    }

    /// Whether this lane, running, is so far behind a newcomer's rank that it should make room.
    fn is_behind(&self, newcomer: Rank, unpaid_ns: u64, floor: u64) -> bool {
        match (newcomer, self.rank_at(unpaid_ns, floor)) {
            (Rank::Credit { .. }, Rank::Paid { .. }) => true,
            (Rank::Paid { .. }, Rank::Credit { .. }) => false,
            (Rank::Credit { burst_ns: new, .. }, Rank::Credit { burst_ns: own, .. })
            | (Rank::Paid { vruntime: new, .. }, Rank::Paid { vruntime: own, .. }) => {
                own > new.saturating_add(GRAIN_NS)
            }
        }
    }

    fn strike(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.struck_at_ns) > STRIKE_WINDOW_NS {
            self.strikes_count = 0;
        }
        self.struck_at_ns = now_ns;
        self.strikes_count = self.strikes_count.saturating_add(1);
        if self.strikes_count >= STRIKES_COUNT || self.hog_until_ns > now_ns {
            self.hog_until_ns = now_ns.saturating_add(HOG_NS);
        }
    }
}

fn burst_of(share: &TenantShare) -> i64 {
    i64::try_from(share.cpu_burst_us.saturating_mul(1_000)).unwrap_or(i64::MAX).max(CAP_BURST_NS_MIN)
}

/// The set of one worker.
pub(crate) fn bit(worker: usize) -> WorkerSet {
    u32::try_from(worker).ok().and_then(|worker| WorkerSet::from(true).checked_shl(worker)).unwrap_or(0)
}

#[cfg(test)]
#[path = "fair_tests.rs"]
mod tests;
