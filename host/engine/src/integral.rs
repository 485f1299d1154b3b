//! How much memory was held for how long: the integral of bytes over wall time, kept at every change.
//!
//! Pure but for the clock, which is passed in. Unit: byte-nanoseconds in 128 bits, which 256 MiB held for a minute use to
//! under 2^65; read as byte-microseconds, cut once at the end, so that it is exact to the microsecond however often the
//! level changes. Must never lose a change that another thread makes at the same time: its owner holds it in a lock.

use std::time::Instant;

/// A level and its integral until now.
#[derive(Debug, Default)]
pub(crate) struct Integral {
    bytes: u64,
    /// When the level was set; none before the first change.
    since: Option<Instant>,
    byte_ns: u128,
}

impl Integral {
    /// The level rises.
    pub(crate) fn rise(&mut self, bytes: u64, now: Instant) {
        self.settle(now);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The level falls, to zero at most.
    pub(crate) fn fall(&mut self, bytes: u64, now: Instant) {
        self.settle(now);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// The integral until `now`, byte-microseconds.
    pub(crate) fn byte_us(&self, now: Instant) -> u128 {
        self.until(now) / 1_000
    }

    fn settle(&mut self, now: Instant) {
        self.byte_ns = self.until(now);
        // Threads read the clock before they get the lock: the level counts from the later of two readings.
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
    }

    fn until(&self, now: Instant) -> u128 {
        let held_ns = self.since.map_or(0, |since| now.saturating_duration_since(since).as_nanos());
        self.byte_ns.saturating_add(u128::from(self.bytes).saturating_mul(held_ns))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mebibyte_for_a_second_and_half_of_it_for_another() {
        let (start, mut integral) = (Instant::now(), Integral::default());
        integral.rise(1 << 20, start);
        integral.fall(1 << 19, start + Duration::from_secs(1));
        integral.fall(1 << 19, start + Duration::from_secs(2));
        assert_eq!(integral.byte_us(start + Duration::from_secs(9)), ((1_u128 << 20) + (1 << 19)) * 1_000_000);
    }

    #[test]
    fn nothing_is_cut_between_changes() {
        let (start, mut integral) = (Instant::now(), Integral::default());
        integral.rise(3, start);
        for n in 1..=1_000 {
            integral.rise(0, start + Duration::from_nanos(n));
        }
        assert_eq!(integral.byte_us(start + Duration::from_nanos(1_000)), 3);
    }

    proptest! {
        /// The model holds every byte on its own: it came at one time and went at another.
        #[test]
        fn it_is_the_sum_over_what_was_held_of_how_long(
            pieces in prop::collection::vec((0_u64..1 << 40, 0_u64..1 << 36, 0_u64..1 << 36), 0..40),
        ) {
            let start = Instant::now();
            let at = |ns: u64| start + Duration::from_nanos(ns);
            let mut changes: Vec<(u64, i128)> = Vec::new();
            let mut model = 0_u128;
            for (bytes, from, held) in &pieces {
                changes.push((*from, i128::from(*bytes)));
                changes.push((from + held, -i128::from(*bytes)));
                model += u128::from(*bytes) * u128::from(*held);
            }
            // What rises at the time that something else falls rises first: the level never goes below zero.
            changes.sort_by_key(|(ns, change)| (*ns, -change));
            let mut integral = Integral::default();
            for (ns, change) in changes {
                let bytes = u64::try_from(change.unsigned_abs()).unwrap();
                if change < 0 { integral.fall(bytes, at(ns)) } else { integral.rise(bytes, at(ns)) }
            }
            prop_assert_eq!(integral.byte_us(at(1 << 40)), model / 1_000);
        }
    }
}
