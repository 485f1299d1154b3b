//! A queue that is fair between lanes by bytes: deficit round robin (M. Shreedhar, G. Varghese, "Efficient Fair Queuing using
//! Deficit Round Robin", SIGCOMM 1995). Pure: no threads, no clocks.
//!
//! Must never change the order inside a lane, lose an item or hand one out twice, and never let a lane wait for more than a
//! few of the others' quanta for each of its own.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What a lane may have served in its turn.
const QUANTUM_BYTES: usize = 64 << 10;
/// LIMIT: what one item counts at most, so that looking for whose turn it is ends after a few rounds. Larger ones are rare:
/// values over 64 KiB are in files, and only their references wait here.
const COST_BYTES_MAX: usize = 1 << 20;

/// Items waiting, in a lane each for whom they are of.
pub(crate) struct FairQueue<L, T> {
    lanes: HashMap<L, Lane<T>>,
    /// The lanes that have something, the one whose turn it is first. INVARIANT: each of `lanes` once.
    round: VecDeque<L>,
    waiting_count: usize,
}

struct Lane<T> {
    items: VecDeque<(usize, T)>,
    /// What is left to it of its turns.
    deficit_bytes: usize,
    turn: Turn,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It comes: the quantum is added when it is there.
    Ahead,
    /// It is.
    Now,
}

// === impl FairQueue ===

impl<L: Hash + Eq + Copy, T> FairQueue<L, T> {
    pub(crate) fn new() -> Self {
        Self { lanes: HashMap::new(), round: VecDeque::new(), waiting_count: 0 }
    }

    /// Puts an item at the end of its lane.
    pub(crate) fn push(&mut self, lane: L, bytes: usize, item: T) {
        let round = &mut self.round;
        let lane = self.lanes.entry(lane).or_insert_with(|| {
            round.push_back(lane);
            Lane { items: VecDeque::new(), deficit_bytes: 0, turn: Turn::Ahead }
        });
        lane.items.push_back((bytes.clamp(1, COST_BYTES_MAX), item));
        self.waiting_count += 1;
    }

    /// Takes the next item and what it counts: of the lane whose turn it is, while its turn lasts. Lanes that are not open are
    /// passed over and keep what is left of their turns.
    pub(crate) fn pop(&mut self, is_open: impl Fn(&L) -> bool) -> Option<(L, usize, T)> {
        let mut passed_count = 0;
        while passed_count < self.round.len() {
            let id = *self.round.front()?;
            if !is_open(&id) {
                passed_count += 1;
                self.round.rotate_left(1);
                continue;
            }
            passed_count = 0;
            let lane = self.lanes.get_mut(&id)?;
            if lane.turn == Turn::Ahead {
                lane.turn = Turn::Now;
                lane.deficit_bytes = lane.deficit_bytes.saturating_add(QUANTUM_BYTES);
            }
            if lane.items.front().is_some_and(|(bytes, _)| *bytes > lane.deficit_bytes) {
                lane.turn = Turn::Ahead;
                self.round.rotate_left(1);
                continue;
            }
            let item = lane.items.pop_front();
            if let Some((bytes, _)) = &item {
                lane.deficit_bytes -= bytes;
                self.waiting_count -= 1;
            }
            if lane.items.is_empty() {
                // Whoever has nothing waiting saves nothing up.
                self.lanes.remove(&id);
                self.round.pop_front();
            }
            return item.map(|(bytes, item)| (id, bytes, item));
        }
        None
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting_count
    }

    /// How many wait in one lane.
    pub(crate) fn len_of(&self, lane: &L) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.items.len())
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pop<T>(queue: &mut FairQueue<impl Hash + Eq + Copy, T>) -> Option<T> {
        queue.pop(|_| true).map(|(_, _, item)| item)
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push(u8, usize),
        Pop,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let push = (0_u8..6, prop_oneof![1_usize..200, 1_usize..200_000, 1_usize..4_000_000]);
        let act = prop_oneof![3 => push.prop_map(|(lane, bytes)| Act::Push(lane, bytes)), 2 => Just(Act::Pop)];
        proptest::collection::vec(act, 0..300)
    }

    #[test]
    fn one_small_item_passes_a_flood_at_once() {
        let mut queue = FairQueue::new();
        (0..1_000).for_each(|number| queue.push('f', 60_000, ('f', number)));
        assert_eq!(pop(&mut queue), Some(('f', 0)));
        queue.push('v', 100, ('v', 0));
        let before = std::iter::from_fn(|| pop(&mut queue)).take_while(|(lane, _)| *lane == 'f').count();
        assert!(before <= 1, "{before} of the flood went before it");
    }

    #[test]
    fn a_lane_that_was_idle_has_saved_nothing_up() {
        let mut queue = FairQueue::new();
        for round in 0..50 {
            queue.push('a', 10, ('a', round));
            assert_eq!(pop(&mut queue), Some(('a', round)));
        }
        (0..20).for_each(|number| queue.push('a', QUANTUM_BYTES, ('a', number)));
        (0..20).for_each(|number| queue.push('b', QUANTUM_BYTES, ('b', number)));
        let lanes: String = std::iter::from_fn(|| pop(&mut queue)).map(|(lane, _)| lane).collect();
        assert_eq!(lanes, "ab".repeat(20));
    }

    #[test]
    fn a_lane_that_is_not_open_is_passed_over_and_loses_nothing() {
        let mut queue = FairQueue::new();
        (0..3).for_each(|number| queue.push('a', 10, ('a', number)));
        // More than its first turns have.
        queue.push('b', 5 * QUANTUM_BYTES, ('b', 0));
        assert_eq!(queue.pop(|lane| *lane != 'a'), Some(('b', 5 * QUANTUM_BYTES, ('b', 0))));
        assert!(queue.pop(|lane| *lane != 'a').is_none() && queue.pop(|_| false).is_none());
        assert_eq!(queue.len(), 3);
        let rest: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
        assert_eq!(rest, [('a', 0), ('a', 1), ('a', 2)]);
    }

    proptest! {
        #[test]
        fn order_in_a_lane_is_kept_and_nothing_is_lost_or_given_twice(acts in acts()) {
            let mut queue = FairQueue::new();
            let mut expected: HashMap<u8, VecDeque<usize>> = HashMap::new();
            let mut waiting = 0;
            let taken = |item: Option<(u8, usize)>, expected: &mut HashMap<u8, VecDeque<usize>>| {
                if let Some((lane, number)) = item {
                    assert_eq!(expected.get_mut(&lane).and_then(VecDeque::pop_front), Some(number));
                }
            };
            for (number, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Push(lane, bytes) => {
                        queue.push(lane, bytes, (lane, number));
                        expected.entry(lane).or_default().push_back(number);
                        waiting += 1;
                    }
                    Act::Pop => {
                        let item = pop(&mut queue);
                        prop_assert_eq!(item.is_some(), waiting > 0);
                        waiting -= usize::from(item.is_some());
                        taken(item, &mut expected);
                    }
                }
                prop_assert_eq!(queue.len(), waiting);
            }
            while let Some(item) = pop(&mut queue) {
                taken(Some(item), &mut expected);
            }
            prop_assert!(expected.values().all(VecDeque::is_empty));
        }

        /// The bound of the paper: between two lanes that both always have something, what they were served differs by no
        /// more than a quantum and the largest item of each.
        #[test]
        fn no_lane_that_waits_falls_behind_another(sizes in proptest::collection::vec((0_u8..4, 1_usize..2_000_000), 40..200)) {
            let mut queue = FairQueue::new();
            let mut left: HashMap<u8, usize> = HashMap::new();
            for (lane, bytes) in &sizes {
                queue.push(*lane, *bytes, (*lane, (*bytes).min(COST_BYTES_MAX)));
                *left.entry(*lane).or_default() += 1;
            }
            let mut served: HashMap<u8, usize> = left.keys().map(|lane| (*lane, 0)).collect();
            while left.values().all(|left| *left > 0) {
                let (lane, bytes) = pop(&mut queue).unwrap();
                *served.get_mut(&lane).unwrap() += bytes;
                *left.get_mut(&lane).unwrap() -= 1;
                let (least, most) = (served.values().min().unwrap(), served.values().max().unwrap());
                prop_assert!(most - least <= QUANTUM_BYTES + 2 * COST_BYTES_MAX, "{served:?}");
            }
        }
    }
}
