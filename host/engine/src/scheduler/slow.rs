//! Which tenants' guests are not polled on the threads for I/O, because one of theirs took long there.
//!
//! One that was slow sends its tenant's next guests to the worker threads for a rest: a moment where it was chance, since each of
//! them then costs two wake-ups of other threads, and twice as long each time until many in a row were quick.
//! Must never take a lock: it is asked for every guest.

use std::sync::atomic::{AtomicU64, Ordering};

/// CPU time after which a guest that ran where it arrived was slow.
const SLOW_NS: u64 = 500_000;
/// The first rest, and the longest.
const REST_NS_MIN: u64 = 8_000_000;
const REST_NS_MAX: u64 = 1_024_000_000;
/// So many quick ones in a row, and the next that is slow was chance.
const QUICK_COUNT: u64 = 256;

/// What is known of one tenant's guests.
#[derive(Debug, Default)]
pub(crate) struct Slow {
    until_ns: AtomicU64,
    rest_ns: AtomicU64,
    quick_count: AtomicU64,
}

impl Slow {
    /// Whether a guest may be polled where it arrived.
    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        self.until_ns.load(Ordering::Relaxed) <= now_ns
    }

    /// Notes how much CPU time one took that was polled where it arrived. What two threads note at once may count as one.
    pub(crate) fn note(&self, took_ns: u64, now_ns: u64) {
        if took_ns <= SLOW_NS {
            if self.quick_count.fetch_add(1, Ordering::Relaxed) == QUICK_COUNT {
                self.rest_ns.store(0, Ordering::Relaxed);
            }
            return;
        }
        let rest_ns = self.rest_ns.load(Ordering::Relaxed).saturating_mul(2).clamp(REST_NS_MIN, REST_NS_MAX);
        self.rest_ns.store(rest_ns, Ordering::Relaxed);
        self.quick_count.store(0, Ordering::Relaxed);
        self.until_ns.store(now_ns.saturating_add(rest_ns), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_always_slow_rests_longer_each_time_and_who_was_by_chance_a_moment() {
        let (slow, mut now_ns) = (Slow::default(), 0);
        assert!(slow.is_over(now_ns));
        let mut rests = Vec::new();
        for _ in 0..9 {
            slow.note(SLOW_NS + 1, now_ns);
            assert!(!slow.is_over(now_ns));
            let over_ns = slow.until_ns.load(Ordering::Relaxed);
            rests.push(over_ns - now_ns);
            now_ns = over_ns;
            assert!(slow.is_over(now_ns));
        }
        assert_eq!(rests[..3], [REST_NS_MIN, 2 * REST_NS_MIN, 4 * REST_NS_MIN]);
        assert_eq!(rests[7..], [REST_NS_MAX; 2]);
        for _ in 0..QUICK_COUNT {
            slow.note(SLOW_NS, now_ns);
        }
        slow.note(SLOW_NS + 1, now_ns);
        assert_eq!(slow.until_ns.load(Ordering::Relaxed) - now_ns, REST_NS_MAX, "not enough of them were quick");
        for _ in 0..=QUICK_COUNT {
            slow.note(SLOW_NS, now_ns);
        }
        slow.note(SLOW_NS + 1, now_ns);
        assert_eq!(slow.until_ns.load(Ordering::Relaxed) - now_ns, REST_NS_MIN);
    }
}
