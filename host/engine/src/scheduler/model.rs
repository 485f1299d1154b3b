//! The hand-over under a model checker: the same file as the product's, with locks that try one order of threads after
//! another (Burckhardt et al. 2010, probabilistic concurrency testing). A lost wake-up is a deadlock, which it reports.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use shuttle::thread;

use super::{TenantShare, fair};

mod sync {
    pub(crate) use shuttle::sync::atomic;
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;
}

#[path = "handover.rs"]
#[expect(dead_code, reason = "the model drives the part that hands over")]
mod handover;

use fair::Arrival;
use handover::Handover;

/// Orders of threads to try.
const ORDERS: usize = 3_000;
const ITEMS: u64 = 4;

/// Workers, two who push, and a pulse that ticks and lends; ends when every item was done, the odd ones twice.
fn hand_over(limit: usize, spares: usize) {
    let queue: Arc<Handover<u64>> = Arc::new(Handover::new(limit, spares, 1));
    let clock = Arc::new(AtomicU64::new(1));
    let done = Arc::new(AtomicUsize::new(0));
    let all = ITEMS as usize + ITEMS as usize / 2;
    let tell = |clock: &Arc<AtomicU64>| {
        let clock = Arc::clone(clock);
        move || clock.fetch_add(400_000, Ordering::SeqCst)
    };
    let lanes = [queue.add_lane(TenantShare::USUAL, 0), queue.add_lane(TenantShare::USUAL, 0)];
    let mut threads = Vec::new();
    for worker in 0..queue.threads_count() {
        let (queue, done, now) = (Arc::clone(&queue), Arc::clone(&done), tell(&clock));
        threads.push(thread::spawn(move || {
            while let Some(item) = queue.next(worker, &now) {
                thread::yield_now();
                let again = (item % 2 == 1).then(|| (lanes[0], item + 1_001));
                queue.done(worker, 100_000, now(), again);
                if done.fetch_add(1, Ordering::SeqCst) + 1 == all {
                    queue.stop();
                }
            }
        }));
    }
    for (own, lane) in lanes.into_iter().enumerate() {
        let (queue, now) = (Arc::clone(&queue), tell(&clock));
        threads.push(thread::spawn(move || {
            for item in (0..ITEMS).filter(|item| *item as usize % 2 == own) {
                // The first of each comes as a request does: it may run at once where it is, and goes on in the queue.
                match if item < 2 { queue.start_inline(lane, now()) } else { None } {
                    Some(place) => {
                        thread::yield_now();
                        queue.done(place, 100_000, now(), Some((lane, item)));
                    }
                    None => drop(queue.push(lane, item, Arrival::Woken, now())),
                }
            }
        }));
    }
    let (pulse, now) = (Arc::clone(&queue), tell(&clock));
    threads.push(thread::spawn(move || {
        for _ in 0..3 {
            let at = now();
            let _ = pulse.tick(at);
            pulse.lend(0, at, |_| {});
            pulse.lift(0, now(), |_| {});
            thread::yield_now();
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(done.load(Ordering::SeqCst), all);
}

#[test]
fn no_wake_up_is_lost_between_two_workers() {
    shuttle::check_random(|| hand_over(2, 0), ORDERS);
    shuttle::check_pct(|| hand_over(2, 0), ORDERS, 3);
}

#[test]
fn no_wake_up_is_lost_when_a_spare_stands_in() {
    shuttle::check_random(|| hand_over(1, 1), ORDERS);
    shuttle::check_pct(|| hand_over(1, 1), ORDERS, 3);
}
