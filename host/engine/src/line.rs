//! Those who wait for the host's memory: each within its tenant's share, where there was no room.
//!
//! The thin shell around `share.rs`. Instances that wait for their next invocation give way at once. What comes free goes to those
//! who wait, first come, and nobody passes them but who takes of what is kept for those that hold next to none. After a grace
//! invocations of tenants above their shares end, no more than are needed, and each is told so as its own tenant's excess. Whoever
//! waits looks again and again: nobody has to wake him. Who asks is on a thread that runs guests, and works his share out from what
//! each tenant counts; whose invocations end is looked up under the workers' lock, which is for another thread to take. Must never
//! take that lock where guests run, nor hear who asks for more than its share, nor let anybody wait
//! longer than `limits::MEMORY_WAIT_MS_MAX`, nor keep what is promised to one who does not come for it longer than that.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use ringfence_core::{TenantId, limits};
use tokio::runtime::Handle;

use crate::meter::{End, Meter};
use crate::pool::{Full, HostMemory, MemoryPool, Stake};
use crate::scheduler::Workers;
use crate::share::{self, Party, Running};

/// Longest wait.
const WAIT: Duration = Duration::from_millis(limits::MEMORY_WAIT_MS_MAX);
/// The part of it before anybody is ended.
const GRACE: Duration = Duration::from_millis(limits::MEMORY_GRACE_MS);
/// Time between two looks; also how long it is remembered that a tenant asked for more than its share.
const LOOK: Duration = Duration::from_millis(10);

/// All who wait.
#[derive(Default)]
pub(crate) struct Line {
    state: Mutex<State>,
    /// What all of them wait for, to be read without the lock.
    asked_bytes: AtomicU64,
    ended_count: AtomicU64,
    running: OnceLock<Weak<Workers>>,
}

#[derive(Default)]
struct State {
    /// By the number that each got as it came.
    asks: BTreeMap<u64, Ask>,
    next_number: u64,
    looked: Option<Instant>,
    /// Somebody looks for whose invocations end, or is about to.
    is_looking: bool,
    /// Of all tenants, those that are gone among them for a while.
    stakes: Vec<Arc<Stake>>,
}

struct Ask {
    pool: Arc<MemoryPool>,
    bytes: u64,
    since: Instant,
}

/// When a tenant was last found to want more than its share, and what it would have held: who asks for so much again and again
/// is not looked at each time.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<(Instant, u64)>>);

/// A look for whose invocations end. However that ends, there can be another.
struct Look(Arc<HostMemory>);

/// A place in the line; left when this is dropped.
struct Place<'a> {
    pool: &'a Arc<MemoryPool>,
    number: u64,
    since: Instant,
}

/// Takes `bytes` for a tenant that found no room in the host: waits for them if it then is within its share.
pub(crate) async fn take_in_turn(pool: &Arc<MemoryPool>, bytes: u64) -> Result<(), Full> {
    let place = Place::ask(pool, bytes)?;
    loop {
        if place.is_served()? {
            return Ok(());
        }
        Line::make_room(pool.host());
        tokio::time::sleep(LOOK).await;
    }
}

// === impl Place ===

impl<'a> Place<'a> {
    fn ask(pool: &'a Arc<MemoryPool>, bytes: u64) -> Result<Self, Full> {
        let (host, now) = (pool.host(), Instant::now());
        let (line, wants) = (host.line(), pool.bytes().saturating_add(bytes));
        let is_heard = wants <= host.shared_bytes() && !pool.pace().was_above(wants, now);
        let mut state = line.lock();
        state.forget_late(now);
        let is_within =
            is_heard && share::within(&state.parties((pool, bytes)), host.shared_bytes()).contains(&id(pool.stake()));
        if !is_within {
            line.tell(&state);
            pool.pace().note_above(wants, now);
            let others_wait = state.asks.values().any(|ask| !Arc::ptr_eq(&ask.pool, pool));
            return Err(if others_wait { Full::Share } else { Full::Host });
        }
        let number = state.next_number;
        state.next_number = number.wrapping_add(1);
        state.asks.insert(number, Ask { pool: Arc::clone(pool), bytes, since: now });
        line.tell(&state);
        drop(state);
        if let Some(idle) = host.idle() {
            idle.let_go_of_all();
        }
        Ok(Self { pool, number, since: now })
    }

    /// Takes what it waits for if its turn has come; an error when it will not come.
    fn is_served(&self) -> Result<bool, Full> {
        let line = self.pool.host().line();
        let mut state = line.lock();
        let Some(bytes) = state.asks.get(&self.number).map(|ask| ask.bytes) else {
            // Too late; else others came since, and it is no longer within its share.
            return Err(if self.since.elapsed() >= WAIT { Full::Host } else { Full::Share });
        };
        let ahead = state.asks.range(..self.number).map(|(_, ask)| ask.bytes).fold(0, u64::saturating_add);
        match self.pool.try_take(bytes, ahead) {
            Ok(()) => {
                state.asks.remove(&self.number);
                line.tell(&state);
                Ok(true)
            }
            // A look that comes late keeps nobody waiting for longer.
            Err(Full::Host) if self.since.elapsed() < WAIT => Ok(false),
            Err(full) => Err(full),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let line = self.pool.host().line();
        let mut state = line.lock();
        // Others' room is its own no more; the pool itself outlives this.
        if state.asks.remove(&self.number).is_some() {
            line.tell(&state);
        }
    }
}

// === impl Line ===

impl Line {
    /// Says whose invocations can be ended. The first word counts.
    pub(crate) fn ends_of(&self, workers: &Arc<Workers>) {
        let _ = self.running.set(Arc::downgrade(workers));
    }

    /// What is promised to those who wait.
    pub(crate) fn asked_bytes(&self) -> u64 {
        self.asked_bytes.load(Ordering::Relaxed)
    }

    /// The same, once those are forgotten whose time is over.
    pub(crate) fn asked_in_time_bytes(&self) -> u64 {
        let mut state = self.lock();
        state.forget_late(Instant::now());
        self.tell(&state);
        self.asked_bytes()
    }

    /// Invocations ended since the start.
    pub(crate) fn ended_count(&self) -> u64 {
        self.ended_count.load(Ordering::Relaxed)
    }

    /// Notes what a tenant's share is worked out from, before the tenant takes anything.
    pub(crate) fn note(&self, stake: &Arc<Stake>) {
        let mut state = self.lock();
        // Seldom enough: only before more room is made for them.
        if state.stakes.len() == state.stakes.capacity() {
            state.stakes.retain(|stake| Arc::strong_count(stake) > 1);
        }
        state.stakes.push(Arc::clone(stake));
    }

    /// Has ended what has to end for those who have waited long enough, beside the thread of who asks. Once in a while is enough,
    /// whoever asks.
    fn make_room(host: &Arc<HostMemory>) {
        let now = Instant::now();
        {
            let mut state = host.line().lock();
            let is_recent = state.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK);
            if is_recent || state.is_looking {
                return;
            }
            (state.looked, state.is_looking) = (Some(now), true);
        }
        let look = Look(Arc::clone(host));
        match Handle::try_current() {
            Ok(io) => drop(io.spawn_blocking(move || look.take())),
            Err(_) => look.take(),
        }
    }

    fn live(&self) -> Vec<(TenantId, Arc<Meter>)> {
        let workers = self.running.get().and_then(Weak::upgrade);
        workers.map(|workers| workers.live()).unwrap_or_default()
    }

    fn tell(&self, state: &State) {
        let asked = state.asks.values().map(|ask| ask.bytes).fold(0, u64::saturating_add);
        self.asked_bytes.store(asked, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("asked_bytes", &self.asked_bytes).finish_non_exhaustive()
    }
}

// === impl Look ===

impl Look {
    fn take(self) {
        let (host, line, now) = (&self.0, self.0.line(), Instant::now());
        // What was about to wait for its next invocation when the first one asked.
        if let Some(idle) = host.idle() {
            idle.let_go_of_all();
        }
        let live = line.live();
        let ended = {
            let mut state = line.lock();
            state.forget_late(now);
            let ended = state.ends(live, host, now);
            line.tell(&state);
            // Under the lock, so that whoever looks next counts it as on its way.
            ended.iter().for_each(|(_, meter)| meter.note_end(End::MemoryShare));
            ended
        };
        for (tenant, meter) in ended {
            line.ended_count.fetch_add(1, Ordering::Relaxed);
            let bytes = meter.memory_bytes();
            tracing::warn!(%tenant, bytes, "an invocation is ended: its tenant is above its share of memory, and others wait");
            meter.end(End::MemoryShare);
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.0.line().lock().is_looking = false;
    }
}

// === impl State ===

impl State {
    /// Who holds memory while guests of it run, who waits for some, and one who asks for some.
    fn parties(&self, asks: (&Arc<MemoryPool>, u64)) -> Vec<Party> {
        let of = |stake: &Arc<Stake>| Party { held: stake.staying_bytes(), ..Party::of(stake) };
        let running = self.stakes.iter().filter(|stake| stake.is_running());
        let mut parties: HashMap<usize, Party> = running.map(|stake| (id(stake), of(stake))).collect();
        for (pool, bytes) in self.asks.values().map(|ask| (&ask.pool, ask.bytes)).chain([asks]) {
            let party = parties.entry(id(pool.stake())).or_insert_with(|| of(pool.stake()));
            party.asked = party.asked.saturating_add(bytes);
        }
        parties.into_values().collect()
    }

    /// Forgets those whose time is over, also where they do not come to hear of it.
    fn forget_late(&mut self, now: Instant) {
        self.asks.retain(|_, ask| now.saturating_duration_since(ask.since) < WAIT);
    }

    /// Forgets those who are no longer within their shares, and names what ends for the others whose grace is over.
    fn ends(
        &mut self,
        live: Vec<(TenantId, Arc<Meter>)>,
        host: &HostMemory,
        now: Instant,
    ) -> Vec<(TenantId, Arc<Meter>)> {
        let mut scene = Scene::of(live, self.asks.values().map(|ask| (&ask.pool, ask.bytes)));
        let within = share::within(&scene.parties, host.shared_bytes());
        self.asks.retain(|_, ask| within.contains(&id(ask.pool.stake())));
        // Nor does what they asked for make others' shares smaller: nobody ends for it.
        scene.parties.iter_mut().filter(|party| !within.contains(&party.id)).for_each(|party| party.asked = 0);
        let held = host.bytes().saturating_sub(scene.leaving);
        let (mut asked, mut needed) = (0_u64, 0_u64);
        for ask in self.asks.values().take_while(|ask| now.saturating_duration_since(ask.since) >= GRACE) {
            asked = asked.saturating_add(ask.bytes);
            let max = host.max_for(ask.pool.bytes().saturating_add(ask.bytes));
            needed = needed.max(held.saturating_add(asked).saturating_sub(max));
        }
        let ends = share::ends(&scene.parties, &scene.running, host.shared_bytes(), needed);
        ends.into_iter().filter_map(|place| scene.meters.get(place).cloned()).collect()
    }
}

// === impl Pace ===

impl Pace {
    fn was_above(&self, wants: u64, now: Instant) -> bool {
        let above = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        above.is_some_and(|(at, wanted)| wants >= wanted && now.saturating_duration_since(at) < LOOK)
    }

    /// Asking again does not put the next look off: else who never stops asking would never be heard again.
    fn note_above(&self, wants: u64, now: Instant) {
        let mut above = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *above = match *above {
            Some((at, wanted)) if now.saturating_duration_since(at) < LOOK => Some((at, wanted.min(wants))),
            _ => Some((now, wants)),
        };
    }
}

/// Who holds what, and who waits for more.
struct Scene {
    parties: Vec<Party>,
    running: Vec<Running>,
    /// Of each that runs.
    meters: Vec<(TenantId, Arc<Meter>)>,
    /// Bytes of those that have to end and still hold them.
    leaving: u64,
}

impl Scene {
    fn of<'a>(live: Vec<(TenantId, Arc<Meter>)>, asks: impl Iterator<Item = (&'a Arc<MemoryPool>, u64)>) -> Self {
        let mut parties: HashMap<usize, Party> = HashMap::new();
        let (mut running, mut meters, mut leaving) = (Vec::new(), Vec::new(), 0_u64);
        for (tenant, meter) in live {
            let (Some(pool), bytes) = (meter.pool(), meter.memory_bytes()) else { continue };
            let party = parties.entry(id(pool.stake())).or_insert_with(|| Party::of(pool.stake()));
            if meter.ended().is_some() {
                party.held = party.held.saturating_sub(bytes);
                leaving = leaving.saturating_add(bytes);
            } else {
                running.push(Running { of: party.id, bytes });
                meters.push((tenant, meter));
            }
        }
        for (pool, bytes) in asks {
            let party = parties.entry(id(pool.stake())).or_insert_with(|| Party::of(pool.stake()));
            party.asked = party.asked.saturating_add(bytes);
        }
        Self { parties: parties.into_values().collect(), running, meters, leaving }
    }
}

impl Party {
    fn of(stake: &Arc<Stake>) -> Self {
        Self { id: id(stake), weight: stake.weight(), held: stake.bytes(), asked: 0 }
    }
}

/// Tells a tenant's from the others'.
fn id(stake: &Arc<Stake>) -> usize {
    Arc::as_ptr(stake).addr()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn what_comes_free_is_for_who_waits_and_who_holds_most_is_told_why_it_gets_no_more() {
        // 100 of 800 are kept, for those that hold 25 at most.
        let host = HostMemory::new(800);
        let (greedy, calm, next) = (host.pool(1_000), host.pool(1_000), host.pool(1_000));
        assert_eq!(greedy.take(700), Ok(()));
        assert_eq!(take_in_turn(&greedy, 1).await, Err(Full::Host), "nobody else wants any");
        let waits = take_in_turn(&calm, 200);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(take_in_turn(&greedy, 1).await, Err(Full::Share));
        greedy.give_back(100);
        assert_eq!((greedy.take(1), next.take(26)), (Err(Full::Host), Err(Full::Host)), "it is promised");
        assert_eq!(next.take(25), Ok(()), "what is kept is not");
        greedy.give_back(125);
        assert_eq!(waits.await, Ok(()));
        assert_eq!((calm.bytes(), host.bytes(), host.line().asked_bytes()), (200, 700, 0));
    }

    #[test]
    fn who_asks_for_too_much_again_and_again_is_still_looked_at_once_in_a_while() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.note_above(100, start);
        let soon = start + LOOK / 2;
        assert!(pace.was_above(100, soon) && !pace.was_above(99, soon));
        pace.note_above(200, soon);
        assert!(pace.was_above(100, soon), "what is known of less is not forgotten for more");
        assert!(!pace.was_above(200, start + LOOK), "the next look is not put off");
    }

    #[test]
    fn what_is_promised_to_one_who_does_not_come_for_it_is_the_others_again() {
        let host = HostMemory::new(800);
        let (late, next) = (host.pool(1_000), host.pool(1_000));
        {
            let mut state = host.line().lock();
            let since = Instant::now().checked_sub(WAIT).unwrap();
            state.asks.insert(0, Ask { pool: Arc::clone(&late), bytes: 600, since });
            host.line().tell(&state);
        }
        assert_eq!(host.line().asked_bytes(), 600);
        assert_eq!(next.take(200), Ok(()));
        assert_eq!(host.line().asked_bytes(), 0);
    }

    #[test]
    fn who_is_no_longer_heard_ends_nobody_who_is_at_his_share_without_him() {
        // Of the 700 that are shared one has 50, asks for 650 more and is not heard; then the shares are 480 and 120.
        let host = HostMemory::new(800);
        let pool = |weight: u32| {
            let pool = host.pool(1_000);
            pool.set_weight(weight);
            pool
        };
        let (unheard, heard) = (pool(400), pool(100));
        let runs = |name: &str, pool: &Arc<MemoryPool>, bytes: u64| {
            let budget = ringfence_core::Budget { memory_bytes: 1_000, ..ringfence_core::Budget::DEFAULT };
            let meter = Meter::in_pool(budget, Arc::clone(pool));
            assert!(meter.reserve(bytes).is_ok(), "{name}");
            (name.parse::<TenantId>().unwrap(), meter)
        };
        let live = vec![runs("unheard", &unheard, 50), runs("heavy", &pool(400), 480), runs("above", &pool(100), 170)];
        let (since, mut state) = (Instant::now(), State::default());
        state.asks.insert(0, Ask { pool: unheard, bytes: 650, since });
        state.asks.insert(1, Ask { pool: heard, bytes: 50, since });
        let ended: Vec<String> =
            state.ends(live, &host, since + GRACE).into_iter().map(|(tenant, _)| tenant.to_string()).collect();
        assert_eq!(ended, ["above"]);
        assert_eq!(state.asks.keys().copied().collect::<Vec<_>>(), [1]);
    }

    proptest! {
        /// What the tenants count of themselves is what is found by looking at all that runs.
        #[test]
        fn who_holds_what_is_the_same_by_counts_and_by_what_runs(
            weights in prop::collection::vec(1_u32..9, 5),
            guests in prop::collection::vec((0_usize..5, 1_u64..100, any::<bool>(), 0_u64..100), 0..20),
            (by, asked) in (0_usize..5, 1_u64..300),
        ) {
            let host = HostMemory::new(8_000);
            let pools: Vec<Arc<MemoryPool>> = weights.iter().map(|_| host.pool(8_000)).collect();
            pools.iter().zip(&weights).for_each(|(pool, weight)| pool.set_weight(*weight));
            let mut live: Vec<(TenantId, Arc<Meter>)> = Vec::new();
            for (of, bytes, is_ended, given_back) in guests {
                let budget = ringfence_core::Budget { memory_bytes: 1_000, ..ringfence_core::Budget::DEFAULT };
                let meter = Meter::in_pool(budget, Arc::clone(&pools[of]));
                prop_assert!(meter.reserve(bytes).is_ok());
                pools[of].stake().begins();
                if is_ended {
                    meter.kill();
                }
                meter.release(given_back);
                live.push(("acme".parse().unwrap(), meter));
            }
            let plain = |parties: Vec<Party>| {
                let parties = parties.into_iter().map(|one| (one.id, one.weight, one.held, one.asked));
                parties.collect::<std::collections::BTreeSet<_>>()
            };
            let counted = plain(host.line().lock().parties((&pools[by], asked)));
            prop_assert_eq!(counted, plain(Scene::of(live, [(&pools[by], asked)].into_iter()).parties));
        }
    }

    #[tokio::test]
    async fn a_wait_ends_and_who_leaves_takes_nothing_along() {
        let host = HostMemory::new(800);
        let (greedy, calm) = (host.pool(1_000), host.pool(1_000));
        assert_eq!(greedy.take(700), Ok(()));
        {
            let waits = take_in_turn(&calm, 200);
            tokio::pin!(waits);
            assert!(futures::poll!(&mut waits).is_pending());
            assert_eq!(host.line().asked_bytes(), 200);
        }
        assert_eq!(host.line().asked_bytes(), 0);
        assert_eq!(take_in_turn(&calm, 200).await, Err(Full::Host), "nobody can be ended here");
        assert_eq!((calm.bytes(), host.bytes(), host.line().asked_bytes()), (0, 700, 0));
    }
}
