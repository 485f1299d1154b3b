//! Whether a tenant that writes without a pause waits a moment for another, so that both go with one flush. The disk takes one
//! flush at a time: one of its own would be what the other's next write has to wait for, half of it in the mean, and a little later
//! the other's what it waits for itself. Pure: no threads, and whoever asks brings the time.
//!
//! Must never hold up whoever writes less, nor anybody where nobody is expected: the wait ends with the first that comes, and after
//! one that was for nothing the next ones are left out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::key::Uid;

/// LIMIT: longest wait of one tenant for another: also what the last flush took.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// LIMIT: longest wait for writers that were answered together to come with their next: also a quarter of what their last took.
const GATHER_WAIT_MAX: Duration = Duration::from_micros(200);
/// LIMIT: tenants of the last group. More share their flushes as it is.
const LANES_COUNT_MAX: usize = 2;
/// Of the last eight groups, in how many a tenant was that writes without a pause.
const STEADY_COUNT: u32 = 6;
/// After a wait that was for nothing, so many are left out.
const LEFT_OUT_COUNT: u8 = 8;

/// Who wrote lately.
#[derive(Default)]
pub(crate) struct Company {
    /// INVARIANT: those of the last eight groups and no other.
    lanes: HashMap<Uid, Lately>,
    /// The tenants of the last group.
    last: Vec<Uid>,
    /// How many batches it had, how long it took, and when it was answered.
    answered: Option<(usize, Duration, Instant)>,
    left_out_count: u8,
}

/// What one tenant wrote lately.
#[derive(Default)]
struct Lately {
    /// The last eight groups, a bit each, the last one lowest: whether it was in it.
    groups: u8,
    /// Bytes, of which an eighth is forgotten with each group.
    bytes: usize,
}

// === impl Company ===

impl Company {
    /// A group was answered: whose batches with their bytes, how long it took, and the time.
    pub(crate) fn answered(&mut self, batches: &[(Uid, usize)], took: Duration, now: Instant) {
        for lately in self.lanes.values_mut() {
            lately.groups <<= 1;
            lately.bytes -= lately.bytes / 8;
        }
        self.last.clear();
        for (lane, bytes) in batches {
            let lately = self.lanes.entry(*lane).or_default();
            if lately.groups & 1 == 0 {
                lately.groups |= 1;
                self.last.push(*lane);
            }
            lately.bytes = lately.bytes.saturating_add(*bytes);
        }
        self.lanes.retain(|_, lately| lately.groups != 0);
        self.answered = Some((batches.len(), took, now));
    }

    /// Until when a tenant whose write is the only one there waits for another's; none when it goes at once.
    pub(crate) fn waits(&mut self, lane: &Uid, now: Instant) -> Option<Instant> {
        let (_, took, answered_at) = self.answered?;
        let until = answered_at.checked_add(took.min(WAIT_MAX)).filter(|until| *until > now)?;
        if !self.last.iter().any(|other| self.is_heavier(lane, other)) {
            return None;
        }
        if self.left_out_count > 0 {
            self.left_out_count -= 1;
            return None;
        }
        Some(until)
    }

    /// Whether somebody came while one waited.
    pub(crate) fn came(&mut self, has_come: bool) {
        if !has_come {
            self.left_out_count = LEFT_OUT_COUNT;
        }
    }

    /// How many batches were answered together and come back in a moment, and how long they are waited for: without that half of
    /// them would go with each flush, and wait for the other half's. None for one batch, and for two tenants of which one writes
    /// more: the other goes at once, and that one waits for it.
    pub(crate) fn gathers(&self) -> Option<(usize, Duration)> {
        let (count, took, _) = self.answered.filter(|(count, ..)| *count > 1)?;
        let is_uneven = self.last.iter().any(|one| self.last.iter().any(|other| self.is_heavier(one, other)));
        (!is_uneven).then(|| (count, (took / 4).min(GATHER_WAIT_MAX)))
    }

    /// Whether one of two tenants writes without a pause, and more than the other.
    fn is_heavier(&self, one: &Uid, other: &Uid) -> bool {
        let (Some(own), Some(others)) = (self.lanes.get(one), self.lanes.get(other)) else { return false };
        self.last.len() <= LANES_COUNT_MAX && own.groups.count_ones() >= STEADY_COUNT && own.bytes > others.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: Uid = [1; 16];
    const OTHER: Uid = [2; 16];
    const THIRD: Uid = [3; 16];
    const FLUSH: Duration = Duration::from_micros(600);

    /// After so many groups of these.
    fn after(groups: &[&[(Uid, usize)]]) -> (Company, Instant) {
        let (mut company, now) = (Company::default(), Instant::now());
        for group in groups {
            company.answered(group, FLUSH, now);
        }
        (company, now)
    }

    const ALONE: &[(Uid, usize)] = &[(FLOOD, 2_000)];
    const BOTH: &[(Uid, usize)] = &[(FLOOD, 2_000), (OTHER, 500)];

    #[test]
    fn who_writes_without_a_pause_waits_for_who_was_answered_just_now_and_not_the_other_way_round() {
        let (mut company, now) = after(&[ALONE, ALONE, ALONE, ALONE, ALONE, BOTH]);
        assert_eq!(company.waits(&FLOOD, now), Some(now + FLUSH));
        assert_eq!(company.waits(&OTHER, now), None);
        assert_eq!(company.waits(&THIRD, now), None, "one that was not there before");
        assert_eq!(company.gathers(), None, "the other would wait for it");
        // Not beyond the time, however late it comes itself.
        assert_eq!(company.waits(&FLOOD, now + FLUSH), None);
        company.answered(&[(OTHER, 500)], Duration::from_secs(1), now);
        assert_eq!(company.waits(&FLOOD, now), Some(now + WAIT_MAX), "it may miss a group");
    }

    #[test]
    fn nobody_waits_where_nobody_is_expected_or_where_turns_are_taken_or_many_write() {
        let (mut company, now) = after(&[ALONE; 20]);
        assert_eq!(company.waits(&FLOOD, now), None);
        // One after the other, as one act writes to two logs.
        let other: &[(Uid, usize)] = &[(OTHER, 500)];
        let (mut company, now) = after(&[ALONE, other, ALONE, other, ALONE, other, ALONE, other]);
        assert_eq!((company.waits(&FLOOD, now), company.waits(&OTHER, now)), (None, None));
        let three: &[(Uid, usize)] = &[(FLOOD, 2_000), (OTHER, 500), (THIRD, 500)];
        let (mut company, now) = after(&[three; 8]);
        assert_eq!(company.waits(&FLOOD, now), None);
        assert_eq!(company.gathers(), Some((3, FLUSH / 4)));
        let two: &[(Uid, usize)] = &[(FLOOD, 10), (FLOOD, 10)];
        let (company, _) = after(&[two; 8]);
        assert_eq!(company.gathers(), Some((2, FLUSH / 4)), "two of one tenant");
        let (company, _) = after(&[ALONE]);
        assert_eq!(company.gathers(), None);
    }

    #[test]
    fn a_wait_for_nothing_is_not_repeated_at_once_and_who_is_gone_is_forgotten() {
        let (mut company, now) = after(&[BOTH; 8]);
        assert!(company.waits(&FLOOD, now).is_some());
        company.came(true);
        assert!(company.waits(&FLOOD, now).is_some());
        company.came(false);
        let waited = (0..=LEFT_OUT_COUNT).map(|_| company.waits(&FLOOD, now).is_some()).collect::<Vec<_>>();
        assert_eq!(waited, [vec![false; LEFT_OUT_COUNT.into()], vec![true]].concat());
        for _ in 0..8 {
            company.answered(ALONE, FLUSH, now);
        }
        assert_eq!(company.lanes.len(), 1);
    }
}
