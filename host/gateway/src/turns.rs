//! Whose connection and whose request goes on next on the threads for I/O: a tenant's go on a few times, then wait until everyone
//! else's had theirs.
//!
//! The runtime runs what is ready in the order in which it became so. A tenant with hundreds of connections that are always
//! ready would have hundreds of them in front of a neighbour's one. So a connection that carried a tenant's requests of late
//! asks for its turn before anything is read from it or written to it, and a request of another tenant as soon as that is
//! known. Past a few, what asks goes to the end of the runtime's queue, and when it comes up again the queue has gone round once
//! and a new lap begins (deficit round robin, Shreedhar and Varghese 1995, with the queue itself as the round). Must
//! never hold anything while nothing else is ready: then the queue comes round at once.
//!
//! A thread that always has something to do is, to the kernel, one that has had its part: what arrives for a neighbour then
//! waits for the next tick, some milliseconds later, before it is even read. So the connections of a tenant of whom many wait at
//! once, while others ask for something too, are a crowd, and are driven elsewhere (`listen.rs`), by a thread that stands
//! back; those for everyone else sleep, and are woken at once. LIMIT: a connection that ends after a few requests is nobody's: its
//! requests wait for their tenant's turn, and it does not move.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use ringfence_core::TenantId;
use tokio::time::Instant;

/// Times that a tenant's connections and requests go on in one lap at least, and of one that was alone of late: to go round costs
/// each of them something, and nobody gains by it.
const BEGUN_COUNT: u32 = 4;
const BEGUN_ALONE_COUNT: u32 = 16;
/// Of so many that wait, one more goes on in a lap: going round costs each of them something too.
const WAITING_PER_BEGUN: u32 = 32;
/// So many more requests of one tenant than of others make a connection that tenant's. Fewer may be chance on a connection
/// that carries everybody's, as that of a proxy does.
const MORE_COUNT: u32 = 4;
/// So many that wait in one lap are a crowd.
const CROWD_COUNT: u32 = 16;
/// How long a tenant's connections are a crowd after that, and how long it is not alone after another's request.
const CALM_AFTER: Duration = Duration::from_secs(1);
/// LIMIT: tenants with a lap. When there are more all laps begin anew, which harms nobody.
const LAPS_COUNT_MAX: usize = 16_384;

/// The laps of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    laps: Mutex<HashMap<TenantId, Arc<Mutex<Lap>>>>,
    /// Whose the last request was.
    last: Mutex<Option<Arc<Mutex<Lap>>>>,
}

/// Whose requests a connection carried of late.
#[derive(Debug, Clone, Default)]
pub(crate) struct Carried(Arc<Mutex<Of>>);

#[derive(Debug, Default)]
struct Of {
    lap: Option<Arc<Mutex<Lap>>>,
    /// How many more requests were this tenant's than others', of late (Boyer and Moore 1981).
    more_count: u32,
}

/// One tenant's lap on the runtime's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lap {
    number: u64,
    begun_count: u32,
    waiting_count: u32,
    /// Those that waited in the lap before.
    waited_count: u32,
    /// When others asked for something beside it.
    others_at: Option<Instant>,
    /// When so many waited, not alone, that they are a crowd.
    crowded_at: Option<Instant>,
}

// === impl Turns ===

impl Turns {
    /// Waits for the tenant's turn, unless the connection waits for it already whenever it goes on.
    pub(crate) async fn turn(&self, tenant: &TenantId, carried: &Carried) {
        let lap = self.lap(tenant);
        self.came(&lap);
        if carried.note(&lap) {
            return;
        }
        let mut waits_in = None;
        poll_fn(|cx| {
            waits_in = locked(&lap).ask(waits_in);
            if waits_in.is_none() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Notes whose request came, and for both that they are not alone when the one before was another's.
    fn came(&self, lap: &Arc<Mutex<Lap>>) {
        let mut last = locked(&self.last);
        if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, lap)) {
            return;
        }
        let now = Some(Instant::now());
        if let Some(other) = last.replace(Arc::clone(lap)) {
            locked(&other).others_at = now;
            locked(lap).others_at = now;
        }
    }

    fn lap(&self, tenant: &TenantId) -> Arc<Mutex<Lap>> {
        let mut laps = locked(&self.laps);
        if let Some(lap) = laps.get(tenant) {
            return Arc::clone(lap);
        }
        if laps.len() >= LAPS_COUNT_MAX {
            laps.clear();
        }
        Arc::clone(laps.entry(tenant.clone()).or_default())
    }
}

// === impl Carried ===

impl Carried {
    /// Drives a connection, each time in the turn of whose it is, where crowds are driven or where they are not. None when it
    /// belongs to the other from now on.
    pub(crate) async fn in_turn<F: Future>(&self, mut connection: Pin<&mut F>, of_crowds: bool) -> Option<F::Output> {
        let mut waits_in = None;
        poll_fn(|cx| {
            let own = self.own();
            let mut lap = own.as_deref().map(locked);
            if lap.as_ref().is_some_and(|lap| lap.is_crowd()) != of_crowds {
                return Poll::Ready(None);
            }
            waits_in = lap.as_mut().and_then(|lap| lap.ask(waits_in));
            drop(lap);
            if waits_in.is_some() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            connection.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// The lap of the tenant whose connection it is; none while it is nobody's.
    fn own(&self) -> Option<Arc<Mutex<Lap>>> {
        let of = locked(&self.0);
        of.lap.clone().filter(|_| of.more_count >= MORE_COUNT)
    }

    /// Notes a request of the tenant with this lap. True when the connection was that tenant's already.
    fn note(&self, lap: &Arc<Mutex<Lap>>) -> bool {
        let mut of = locked(&self.0);
        if of.lap.as_ref().is_some_and(|known| Arc::ptr_eq(known, lap)) {
            let was_own = of.more_count >= MORE_COUNT;
            of.more_count = (of.more_count + 1).min(2 * MORE_COUNT);
            return was_own;
        }
        of.more_count = of.more_count.saturating_sub(1);
        if of.more_count == 0 {
            *of = Of { lap: Some(Arc::clone(lap)), more_count: 1 };
        }
        false
    }
}

// === impl Lap ===

impl Lap {
    /// Asks for a turn, having waited in the lap `waits_in`. None is the turn; else the lap to wait in.
    fn ask(&mut self, waits_in: Option<u64>) -> Option<u64> {
        if waits_in == Some(self.number) {
            let number = self.number.wrapping_add(1);
            if self.waiting_count >= CROWD_COUNT && is_of_late(self.others_at) {
                self.crowded_at = Some(Instant::now());
            }
            *self = Self { number, begun_count: 0, waiting_count: 0, waited_count: self.waiting_count, ..*self };
        }
        let at_least = if is_of_late(self.others_at) { BEGUN_COUNT } else { BEGUN_ALONE_COUNT };
        if self.begun_count < at_least.max(self.waited_count / WAITING_PER_BEGUN) {
            self.begun_count += 1;
            return None;
        }
        self.waiting_count = self.waiting_count.saturating_add(1);
        Some(self.number)
    }

    fn is_crowd(&self) -> bool {
        is_of_late(self.crowded_at)
    }
}

fn is_of_late(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < CALM_AFTER)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::pin::pin;
    use std::rc::Rc;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    /// The order in which requests begin on one thread, when `crowd` of one tenant are ready before one of another.
    async fn order(crowd: usize) -> Vec<&'static str> {
        let turns = Rc::new(Turns::default());
        let begun = Rc::new(RefCell::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        let ready = std::iter::repeat_n("crowd", crowd).chain(["one"]);
        for name in ready {
            let (turns, begun) = (Rc::clone(&turns), Rc::clone(&begun));
            local.spawn_local(async move {
                turns.turn(&tenant(name), &Carried::default()).await;
                begun.borrow_mut().push(name);
            });
        }
        local.await;
        Rc::try_unwrap(begun).unwrap().into_inner()
    }

    #[tokio::test]
    async fn one_request_of_a_neighbour_does_not_wait_behind_a_crowd() {
        let order = order(500).await;
        assert_eq!(order.len(), 501);
        // Until it came, the crowd was alone.
        assert_eq!(order.iter().position(|name| *name == "one"), Some(BEGUN_ALONE_COUNT as usize));
    }

    #[tokio::test]
    async fn everyone_gets_a_turn_when_all_are_of_one_tenant() {
        let order = order(1_000).await;
        assert_eq!(order.iter().filter(|name| **name == "crowd").count(), 1_000);
    }

    /// The order in which connections go on, when `crowd` of one tenant are always ready and one of another becomes ready.
    async fn connections(crowd: usize, was_carried: u32) -> usize {
        let turns = Rc::new(Turns::default());
        let polls = Rc::new(Cell::new(0));
        let over = Rc::new(Cell::new(None));
        let local = tokio::task::LocalSet::new();
        for name in ["crowd", "one"] {
            turns.came(&turns.lap(&tenant(name)));
        }
        for name in std::iter::repeat_n("crowd", crowd).chain(["one"]) {
            let (turns, polls, over) = (Rc::clone(&turns), Rc::clone(&polls), Rc::clone(&over));
            local.spawn_local(async move {
                let carried = Carried::default();
                for _ in 0..was_carried {
                    carried.note(&turns.lap(&tenant(name)));
                }
                let work = poll_fn(|cx| {
                    if over.get().is_some() {
                        return Poll::Ready(());
                    }
                    if name == "one" {
                        over.set(Some(polls.get()));
                        return Poll::Ready(());
                    }
                    polls.set(polls.get() + 1);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                });
                carried.in_turn(pin!(work), false).await;
            });
        }
        local.await;
        over.get().unwrap()
    }

    #[tokio::test]
    async fn a_neighbours_connection_waits_for_a_few_of_a_crowds_and_not_for_all() {
        assert_eq!(connections(CROWD_COUNT as usize, MORE_COUNT).await, BEGUN_COUNT as usize);
        assert_eq!(connections(300, MORE_COUNT).await, BEGUN_COUNT as usize, "they leave for where crowds are");
        assert_eq!(connections(300, MORE_COUNT - 1).await, 300, "whose they are is not known yet");
    }

    #[tokio::test]
    async fn a_connection_is_a_tenants_after_some_more_of_its_requests_than_of_others() {
        let (turns, carried) = (Turns::default(), Carried::default());
        let (acme, globex) = (turns.lap(&tenant("acme")), turns.lap(&tenant("globex")));
        assert!((0..MORE_COUNT).all(|_| !carried.note(&acme)));
        assert!(carried.note(&acme) && carried.own().is_some());
        assert!(!carried.note(&globex) && carried.own().is_some(), "one of another's now and then changes nothing");
        for _ in 0..2 * MORE_COUNT {
            carried.note(&globex);
            carried.note(&acme);
        }
        assert!(carried.own().is_some(), "as much as before");
        let other = Carried::default();
        for _ in 0..20 {
            other.note(&globex);
            other.note(&acme);
        }
        assert!(other.own().is_none(), "it carries everybody's");
        for _ in 0..2 * MORE_COUNT {
            carried.note(&globex);
        }
        assert!(carried.own().is_some_and(|lap| Arc::ptr_eq(&lap, &globex)), "it is another's in the end");
    }

    #[tokio::test]
    async fn connections_of_whom_many_wait_belong_elsewhere_until_they_are_calm() {
        let (turns, carried) = (Turns::default(), Carried::default());
        let lap = turns.lap(&tenant("acme"));
        assert!((0..MORE_COUNT).all(|_| !carried.note(&lap)));
        locked(&lap).waiting_count = CROWD_COUNT;
        assert_eq!(carried.in_turn(pin!(async { 1 }), false).await, Some(1), "no lap is over");
        assert_eq!(locked(&lap).ask(Some(0)), None);
        assert_eq!(carried.in_turn(pin!(async { 2 }), false).await, Some(2), "it is alone");
        turns.came(&lap);
        turns.came(&turns.lap(&tenant("globex")));
        locked(&lap).waiting_count = CROWD_COUNT;
        assert_eq!(locked(&lap).ask(Some(1)), None);
        assert_eq!(carried.in_turn(pin!(async { 2 }), false).await, None);
        assert_eq!(carried.in_turn(pin!(async { 3 }), true).await, Some(3));
        locked(&lap).crowded_at = Instant::now().checked_sub(CALM_AFTER);
        assert_eq!(carried.in_turn(pin!(async { 4 }), true).await, None);
        assert_eq!(carried.in_turn(pin!(async { 5 }), false).await, Some(5));
    }

    #[test]
    fn a_lap_ends_when_one_that_waited_in_it_comes_up_again() {
        let mut lap = Lap { others_at: Some(Instant::now()), ..Lap::default() };
        assert!((0..BEGUN_COUNT).all(|_| lap.ask(None).is_none()));
        let first = lap.ask(None);
        let second = lap.ask(None);
        assert_eq!((first, second), (Some(0), Some(0)));
        assert_eq!(lap.ask(first), None, "the queue went round");
        assert_eq!(lap.ask(second), None, "it waited in a lap that is over");
        assert_eq!((lap.number, lap.begun_count, lap.waited_count), (1, 2, 2));
        assert!(!lap.is_crowd());
    }

    #[test]
    fn the_more_wait_the_more_begin_in_a_lap() {
        let mut lap = Lap { waiting_count: 640, begun_count: BEGUN_COUNT, ..Lap::default() };
        assert_eq!(lap.ask(Some(0)), None);
        assert_eq!((1..).take_while(|_| lap.ask(None).is_none()).count(), 19);
    }
}
