//! Whose request goes on next on the threads for I/O: a tenant begins a few, then waits until everyone else's had theirs.
//!
//! The runtime runs what is ready in the order in which it became so. A tenant with hundreds of connections that are always
//! ready would have hundreds of requests in front of a neighbour's one. So a request asks for its turn as soon as its
//! tenant is known; past a few it goes to the end of the runtime's queue, and when it comes up again the queue has gone
//! round once and a new lap begins (deficit round robin, Shreedhar and Varghese 1995, with the queue itself as the
//! round). Must never hold a request while nothing else is ready: then the queue comes round at once.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use ringfence_core::TenantId;

/// Requests that a tenant begins in one lap at least.
const BEGUN_COUNT: u32 = 4;
/// Of so many that wait, one more is begun in a lap: going round costs each of them something too.
const WAITING_PER_BEGUN: u32 = 32;
/// LIMIT: tenants with a lap. When there are more all laps begin anew, which harms nobody.
const LAPS_COUNT_MAX: usize = 16_384;

/// The laps of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    laps: Mutex<HashMap<TenantId, Lap>>,
}

/// One tenant's lap on the runtime's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lap {
    number: u64,
    begun_count: u32,
    waiting_count: u32,
    /// Those that waited in the lap before.
    waited_count: u32,
}

impl Turns {
    /// Waits for the tenant's turn.
    pub(crate) async fn turn(&self, tenant: &TenantId) {
        let mut waits_in = None;
        poll_fn(|cx| {
            let mut laps = self.laps.lock().unwrap_or_else(PoisonError::into_inner);
            if laps.len() >= LAPS_COUNT_MAX && !laps.contains_key(tenant) {
                laps.clear();
            }
            let lap = match laps.get_mut(tenant) {
                Some(lap) => lap,
                None => laps.entry(tenant.clone()).or_default(),
            };
            waits_in = lap.ask(waits_in);
            if waits_in.is_none() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

impl Lap {
    /// Asks for a turn, having waited in the lap `waits_in`. None is the turn; else the lap to wait in.
    fn ask(&mut self, waits_in: Option<u64>) -> Option<u64> {
        if waits_in == Some(self.number) {
            let number = self.number.wrapping_add(1);
            *self = Self { number, begun_count: 0, waiting_count: 0, waited_count: self.waiting_count };
        }
        if self.begun_count < BEGUN_COUNT.max(self.waited_count / WAITING_PER_BEGUN) {
            self.begun_count += 1;
            return None;
        }
        self.waiting_count = self.waiting_count.saturating_add(1);
        Some(self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
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
                turns.turn(&tenant(name)).await;
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
        assert_eq!(order.iter().position(|name| *name == "one"), Some(BEGUN_COUNT as usize));
    }

    #[tokio::test]
    async fn everyone_gets_a_turn_when_all_are_of_one_tenant() {
        let order = order(1_000).await;
        assert_eq!(order.iter().filter(|name| **name == "crowd").count(), 1_000);
    }

    #[test]
    fn a_lap_ends_when_one_that_waited_in_it_comes_up_again() {
        let mut lap = Lap::default();
        assert!((0..BEGUN_COUNT).all(|_| lap.ask(None).is_none()));
        let first = lap.ask(None);
        let second = lap.ask(None);
        assert_eq!((first, second), (Some(0), Some(0)));
        assert_eq!(lap.ask(first), None, "the queue went round");
        assert_eq!(lap.ask(second), None, "it waited in a lap that is over");
        assert_eq!((lap.number, lap.begun_count, lap.waited_count), (1, 2, 2));
    }

    #[test]
    fn the_more_wait_the_more_begin_in_a_lap() {
        let mut lap = Lap { waiting_count: 640, begun_count: BEGUN_COUNT, ..Lap::default() };
        assert_eq!(lap.ask(Some(0)), None);
        assert_eq!((1..).take_while(|_| lap.ask(None).is_none()).count(), 19);
    }
}
