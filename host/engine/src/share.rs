//! How much of the host's memory each tenant may hold while others want some, and whose invocations end for who has less.
//!
//! Shares are max-min fair by weight among the tenants that hold or ask for memory: nobody's is more than it wants, and what one
//! does not want goes to the others by their weights. Where there is no room for a tenant within its share, somebody else is
//! above his; invocations end of the tenant that is most above, the smallest that is enough or else the largest. Pure. Must
//! never name one of a tenant that is at its share or below, nor one that is not needed.

use std::collections::{HashMap, HashSet};

/// A tenant that holds memory or asks for some.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party {
    /// Tells it from the others.
    pub(crate) id: usize,
    /// Its part when memory is short, against the others'.
    pub(crate) weight: u32,
    /// Bytes it holds, but those of invocations that are on their way out.
    pub(crate) held: u64,
    /// Bytes it waits for beside them.
    pub(crate) asked: u64,
}

/// An invocation that could be ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Running {
    /// Whose.
    pub(crate) of: usize,
    /// What it holds.
    pub(crate) bytes: u64,
}

// === impl Party ===

impl Party {
    fn wants(&self) -> u64 {
        self.held.saturating_add(self.asked)
    }

    fn weight(&self) -> u128 {
        u128::from(self.weight.max(1))
    }
}

/// Each one's share of so many bytes.
fn shares(parties: &[Party], bytes: u64) -> HashMap<usize, u64> {
    let mut order: Vec<&Party> = parties.iter().collect();
    // Who wants least for its weight comes first: what it leaves is the others'.
    order.sort_by(|one, other| {
        let (ours, theirs) = (u128::from(one.wants()) * other.weight(), u128::from(other.wants()) * one.weight());
        ours.cmp(&theirs)
    });
    let mut weights: u128 = order.iter().map(|party| party.weight()).sum();
    let mut left = bytes;
    let share = |party: &Party| {
        // INVARIANT: the weight of this one is among the weights, so there is no division by zero.
        let part = u64::try_from(u128::from(left) * party.weight() / weights.max(1)).unwrap_or(left);
        let share = party.wants().min(part);
        left = left.saturating_sub(share);
        weights = weights.saturating_sub(party.weight());
        (party.id, share)
    };
    order.into_iter().map(share).collect()
}

/// Those who want no more than their share of so many bytes.
pub(crate) fn within(parties: &[Party], bytes: u64) -> HashSet<usize> {
    let shares = shares(parties, bytes);
    let is_within = |party: &&Party| shares.get(&party.id).is_some_and(|share| party.wants() <= *share);
    parties.iter().filter(is_within).map(|party| party.id).collect()
}

/// Which invocations end, by their place in `running`, for `needed` bytes beside those that are on their way; none where even
/// all of those above their shares of so many bytes would not be enough.
pub(crate) fn ends(parties: &[Party], running: &[Running], bytes: u64, needed: u64) -> Vec<usize> {
    let shares = shares(parties, bytes);
    let over = |party: &Party| party.held.saturating_sub(shares.get(&party.id).copied().unwrap_or(0));
    let mut above: HashMap<usize, u64> = parties.iter().map(|party| (party.id, over(party))).collect();
    let mut left: Vec<(usize, Running)> = running.iter().copied().enumerate().collect();
    left.retain(|(_, one)| one.bytes > 0);
    let (mut ended, mut missing) = (Vec::new(), needed);
    while missing > 0 {
        let above_by = |one: &Running| above.get(&one.of).copied().unwrap_or(0);
        let most = left.iter().map(|(_, one)| (above_by(one), one.of)).max();
        let Some((_, of)) = most.filter(|(by, _)| *by > 0) else { return Vec::new() };
        let own = left.iter().enumerate().filter(|(_, (_, one))| one.of == of).map(|(at, (_, one))| (one.bytes, at));
        let enough = own.clone().filter(|(bytes, _)| *bytes >= missing).min();
        let Some((_, at)) = enough.or_else(|| own.max()) else { return Vec::new() };
        let (place, one) = left.swap_remove(at);
        if let Some(by) = above.get_mut(&of) {
            *by = by.saturating_sub(one.bytes);
        }
        missing = missing.saturating_sub(one.bytes);
        ended.push((place, one.bytes));
    }
    spare(&mut ended, needed);
    ended.into_iter().map(|(place, _)| place).collect()
}

/// Spares those without whom the others are enough.
fn spare(ended: &mut Vec<(usize, u64)>, needed: u64) {
    let mut freed: u64 = ended.iter().map(|(_, bytes)| *bytes).sum();
    ended.retain(|(_, bytes)| {
        let without = freed.saturating_sub(*bytes);
        let is_needed = without < needed;
        if !is_needed {
            freed = without;
        }
        is_needed
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn party(id: usize, weight: u32, held: u64, asked: u64) -> Party {
        Party { id, weight, held, asked }
    }

    /// Drop by drop, each to whoever would have least for its weight.
    fn poured(parties: &[Party], bytes: u64) -> HashMap<usize, u64> {
        let mut has: HashMap<usize, u64> = parties.iter().map(|party| (party.id, 0)).collect();
        for _ in 0..bytes {
            let thirsty = parties.iter().filter(|party| has[&party.id] < party.wants());
            let Some(next) = thirsty.min_by(|one, other| {
                let (ours, theirs) = (has[&one.id] + 1, has[&other.id] + 1);
                (u128::from(ours) * other.weight()).cmp(&(u128::from(theirs) * one.weight()))
            }) else {
                break;
            };
            *has.get_mut(&next.id).unwrap() += 1;
        }
        has
    }

    #[test]
    fn what_one_does_not_want_is_the_others_by_their_weights() {
        let all = [party(0, 100, 7, 0), party(1, 100, 700, 0), party(2, 300, 0, 700)];
        let shares = shares(&all, 707);
        assert_eq!((shares[&0], shares[&1], shares[&2]), (7, 175, 525));
        assert_eq!(within(&all, 707), HashSet::from([0]));
        assert_eq!(within(&all, 2_000), HashSet::from([0, 1, 2]), "there is enough for all");
    }

    #[test]
    fn of_who_is_most_above_the_smallest_that_is_enough_ends_and_else_the_largest_first() {
        // Of 130 the shares are 45, 40 and 45.
        let all = [party(0, 100, 90, 0), party(1, 100, 40, 0), party(2, 100, 0, 45)];
        let running = [(0, 40), (0, 25), (0, 15), (0, 10), (1, 40)].map(|(of, bytes)| Running { of, bytes });
        assert_eq!(ends(&all, &running, 130, 20), [1]);
        assert_eq!(ends(&all, &running, 130, 30), [0]);
        assert_eq!(ends(&all, &running, 130, 45), [0, 3]);
        assert!(ends(&all, &running, 130, 0).is_empty());
        assert!(ends(&all, &running[4..], 130, 30).is_empty(), "who is at its share keeps what it has");
    }

    fn parties() -> impl Strategy<Value = Vec<Party>> {
        prop::collection::vec((1_u32..9, 0_u64..100, 0_u64..100), 1..7).prop_map(|all| {
            let numbered = all.into_iter().enumerate();
            numbered.map(|(id, (weight, held, asked))| party(id, weight, held, asked)).collect()
        })
    }

    proptest! {
        #[test]
        fn shares_are_what_pouring_drop_by_drop_gives(all in parties(), bytes in 0_u64..300) {
            let (shares, poured) = (shares(&all, bytes), poured(&all, bytes));
            prop_assert!(shares.values().sum::<u64>() <= bytes);
            for one in &all {
                let apart = shares[&one.id].abs_diff(poured[&one.id]);
                prop_assert!(apart <= all.len() as u64, "{one:?}: {shares:?}, {poured:?}");
            }
        }

        /// Tenants of all weights fill the host with invocations of all sizes, and those within their shares ask for more.
        #[test]
        fn who_is_at_its_share_keeps_what_it_has_and_no_more_end_than_are_needed(
            weights in prop::collection::vec(1_u32..5, 2..6),
            running in prop::collection::vec((0_usize..6, 1_u64..60), 1..20),
            asks in prop::collection::vec(0_u64..60, 6),
            free in 0_u64..40,
        ) {
            let running: Vec<Running> =
                running.into_iter().map(|(of, bytes)| Running { of: of % weights.len(), bytes }).collect();
            let held_of = |id: usize, but: &[usize]| -> u64 {
                let left = running.iter().enumerate().filter(|(place, one)| one.of == id && !but.contains(place));
                left.map(|(_, one)| one.bytes).sum()
            };
            let mut all: Vec<Party> = weights
                .iter()
                .enumerate()
                .map(|(id, weight)| party(id, *weight, held_of(id, &[]), 0))
                .collect();
            let held: u64 = all.iter().map(|one| one.held).sum();
            let bytes = held + free;
            // One after the other, as they come: who asks for more than its share is not heard.
            for (id, ask) in asks.into_iter().enumerate().take(all.len()) {
                all[id].asked = ask;
                let within = within(&all, bytes);
                if all.iter().any(|one| one.asked > 0 && !within.contains(&one.id)) {
                    all[id].asked = 0;
                }
            }
            let asked: u64 = all.iter().map(|one| one.asked).sum();
            let needed = asked.saturating_sub(free);
            let ended = ends(&all, &running, bytes, needed);
            let freed: u64 = ended.iter().map(|place| running[*place].bytes).sum();
            prop_assert!(freed >= needed, "{freed} of {needed}");
            let poured = poured(&all, bytes);
            for (at, place) in ended.iter().enumerate() {
                let one = running[*place];
                prop_assert!(freed - one.bytes < needed, "{one:?} was not needed");
                // Before it ended, its tenant still held more than its share, which pouring knows to a drop each.
                let before = held_of(one.of, &ended[..at]);
                prop_assert!(before + all.len() as u64 > poured[&one.of], "{one:?} was not above: {all:?}");
                prop_assert_eq!(all[one.of].asked, 0, "who waits is not above its share");
            }
        }

        /// Tenants that want the same again and again: what ends comes again, and soon nobody ends any more.
        #[test]
        fn tenants_that_always_come_again_do_not_end_each_other_for_ever(
            tenants in prop::collection::vec((1_u32..5, 1_u64..200, 1_usize..5), 2..6),
            bytes in 20_u64..200,
        ) {
            let mut running: Vec<Running> = Vec::new();
            let mut last_round = 0;
            for (round, id) in (0..60).flat_map(|round| (0..tenants.len()).map(move |id| (round, id))) {
                let (_, ask, count) = tenants[id];
                if running.iter().filter(|one| one.of == id).count() >= count {
                    continue;
                }
                let held = |id: usize| running.iter().filter(|one| one.of == id).map(|one| one.bytes).sum::<u64>();
                let needed = (0..tenants.len()).map(held).sum::<u64>().saturating_add(ask).saturating_sub(bytes);
                let all: Vec<Party> = (0..tenants.len())
                    .map(|of| party(of, tenants[of].0, held(of), if of == id { ask } else { 0 }))
                    .collect();
                if needed > 0 {
                    if !within(&all, bytes).contains(&id) {
                        continue;
                    }
                    let ended = ends(&all, &running, bytes, needed);
                    prop_assert!(!ended.is_empty(), "who is within its share gets it");
                    let mut place = 0;
                    running.retain(|_| {
                        place += 1;
                        !ended.contains(&(place - 1))
                    });
                    last_round = round;
                }
                running.push(Running { of: id, bytes: ask });
                prop_assert!(running.iter().map(|one| one.bytes).sum::<u64>() <= bytes);
            }
            prop_assert!(last_round < 30, "somebody still ended in round {last_round}");
        }
    }
}
