//! Which entries of a log can be of a time: found by halving in each stretch in which the clock did not go back.
//!
//! An entry has the wall clock's time, which can be set back; where that happened stands beside the log's head. Must never leave
//! out an entry of the time that is asked for: where it is not known whether the clock went back, each place counts, and what
//! cannot be read says nothing of where its time lies.

use std::ops::Range;

use ringfence_store::TenantStore;
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::writer;
use crate::{Audit, AuditError, Log};

/// LIMIT: entries at which the clock went back that are noted; what lies before older ones is not known to be in order.
const STEPS_COUNT_MAX: usize = 32;

/// Where in a log the clock went back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// From this place on it is known.
    from: u64,
    /// Places whose entry is of an earlier time than the one before it.
    steps: Vec<u64>,
    /// Time of the last entry.
    last: i64,
}

// === impl Order ===

impl Order {
    /// Of a log of so many entries of which it was not noted.
    pub(crate) fn unknown(size: u64) -> Self {
        Self { from: size, steps: Vec::new(), last: i64::MIN }
    }

    /// Notes the entry that comes next.
    pub(crate) fn note(&mut self, seq: u64, time: i64) {
        if time < self.last {
            self.steps.push(seq);
            if self.steps.len() > STEPS_COUNT_MAX {
                self.from = self.steps.remove(0);
            }
        }
        self.last = time;
    }

    /// The stretches from one place up to another, in order, each with whether time does not go back in it.
    fn stretches(&self, first: u64, end: u64) -> Vec<(Range<u64>, bool)> {
        let begins = std::iter::once(self.from).chain(self.steps.iter().copied());
        let ends = self.steps.iter().copied().chain(std::iter::once(end));
        let mut found = vec![(first..self.from.min(end), false)];
        found.extend(begins.zip(ends).map(|(begins, ends)| (begins.max(first)..ends.min(end), true)));
        found.retain(|(stretch, _)| !stretch.is_empty());
        found
    }
}

// === impl Audit ===

impl Audit {
    /// The places before `end` at which entries from one time on and before another can be, in order. Every such entry is at one
    /// of them; that each of them has one is only so where it is known that the clock did not go back.
    pub async fn places(
        &self,
        log: &Log,
        (from_ms, to_ms): (Option<i64>, Option<i64>),
        end: u64,
    ) -> Result<Vec<Range<u64>>, AuditError> {
        let state = self.state(log).await?;
        let (store, origin) = (self.store(log), self.origin(log));
        let mut found: Vec<Range<u64>> = Vec::new();
        for (mut place, is_in_order) in state.order.stretches(state.first, end.min(state.frontier.size())) {
            if let Some(from_ms) = from_ms.filter(|_| is_in_order) {
                place.start = halve(&store, &origin, place.clone(), from_ms).await?.start;
            }
            if let Some(to_ms) = to_ms.filter(|_| is_in_order) {
                place.end = halve(&store, &origin, place.clone(), to_ms).await?.end;
            }
            if place.is_empty() {
                continue;
            }
            match found.last_mut().filter(|last| last.end == place.start) {
                Some(last) => last.end = place.end,
                None => found.push(place),
            }
        }
        Ok(found)
    }
}

/// Where in a stretch the entries of a time and of later ones begin: between the two ends of what is given back, which are one
/// place unless what lies there cannot be read.
async fn halve(store: &TenantStore, origin: &str, stretch: Range<u64>, time_ms: i64) -> Result<Range<u64>, AuditError> {
    let Range { mut start, mut end } = stretch;
    while start < end {
        let middle = start + (end - start) / 2;
        let stored = match writer::read(store, origin, middle).await {
            Ok(stored) => stored,
            Err(AuditError::Broken { .. }) => None,
            Err(error) => return Err(error),
        };
        let envelope = stored.and_then(|stored| serde_json::from_str::<Envelope>(&stored.envelope).ok());
        // Damaged, or deleted meanwhile.
        let Some(envelope) = envelope else { break };
        if envelope.time < time_ms {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    Ok(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_stretch_ends_where_the_clock_went_back_and_what_was_not_noted_is_none() {
        let mut order = Order::unknown(5);
        for (seq, time) in [(5, 100), (6, 100), (7, 90), (8, 95), (9, 200), (10, 10)] {
            order.note(seq, time);
        }
        let all: Vec<(Range<u64>, bool)> = vec![(0..5, false), (5..7, true), (7..10, true), (10..11, true)];
        assert_eq!(order.stretches(0, 11), all);
        let part: Vec<(Range<u64>, bool)> = vec![(6..7, true), (7..9, true)];
        assert_eq!(order.stretches(6, 9), part);
        assert!(order.stretches(11, 11).is_empty());
        let kept: Order = serde_json::from_str(&serde_json::to_string(&order).unwrap()).unwrap();
        assert_eq!(kept, order);
    }

    proptest! {
        #[test]
        fn time_goes_back_in_no_stretch_that_is_said_to_be_in_order_and_every_place_is_in_one(
            times in prop::collection::vec(0_i64..50, 0..300), known_from in 0_usize..40, first in 0_u64..40,
        ) {
            let known_from = known_from.min(times.len());
            let mut order = Order::unknown(known_from as u64);
            for (seq, time) in times.iter().enumerate().skip(known_from) {
                order.note(seq as u64, *time);
            }
            prop_assert!(order.steps.len() <= STEPS_COUNT_MAX);
            let (end, mut next) = (times.len() as u64, first.min(times.len() as u64));
            for (stretch, is_in_order) in order.stretches(next, end) {
                prop_assert_eq!(stretch.start, next);
                next = stretch.end;
                let of: Vec<i64> = stretch.map(|seq| times[seq as usize]).collect();
                prop_assert!(!is_in_order || of.is_sorted(), "{:?}", of);
            }
            prop_assert_eq!(next, end);
        }
    }
}
