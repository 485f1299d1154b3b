//! Which message of a queue goes when: pure, no clock, no disk, no threads.
//!
//! Times are milliseconds: of the wall clock (`now_ms`) where a message waits for its time, of one that is never set
//! (`steady_ms`) where an attempt takes its time. Must never lose a message, hand one over twice at the same time, nor hand
//! over a later one of a group before an earlier one is gone.
//!
//! Messages stand in lanes: those of a tenant's own queue in one, those of the host's queue in one for each plugin. How many
//! are handed over at once and how many there may be is counted in each lane apart, so that a slow plugin holds up its own.
//!
//! An attempt is under way until whoever makes it says how it ended: he always does, also when it breaks down. That it was
//! lost is thought only of one that hangs in the host itself, and only when its plugin cannot run any more: it is not begun
//! after [`Flight::begin_until_ms`], and cut at the visibility time after it began. What such an attempt says later is not
//! taken for the word of the next. A crash ends all of this: then the durable marks say what was under way (`begun.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CONCURRENCY_COUNT_MAX, DEPTH_COUNT_MAX};

/// LIMIT: how long a message may be on its way to its plugin, milliseconds. Room for all that it may wait for: the batch that
/// marks it (70 s with the one that asks what became of the last), a slot (5 s), code that has to be compiled anew (60 s for
/// a place, 180 s for the compilations before it, 180 s for its own).
pub const ON_ITS_WAY_MS_MAX: u64 = 600_000;
/// LIMIT: how long after the last moment of its plugin an attempt is thought lost, milliseconds: its end is put on record
/// first, which takes 10 s at most.
pub const GRACE_MS: u64 = 90_000;
/// How often in a row the host may have no room for a message before that is an attempt that failed.
const NO_ROOM_COUNT_MAX: u32 = 10;
/// How long it waits after the first time, milliseconds; doubled each time.
const NO_ROOM_MS: i64 = 2_000;
/// And at most.
const NO_ROOM_MS_MAX: i64 = 32_000;

/// What a queue is told to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rules {
    /// Most messages handed over at the same time.
    pub concurrency_count: u32,
    /// Attempts until a message is dead.
    pub attempts_max: u32,
    /// Longest that a plugin has a message, milliseconds, counted from when the plugin begins.
    pub visibility_ms: u64,
    /// Wait after the first failed attempt, milliseconds; twice as long after each further one.
    pub backoff_ms: u64,
    /// Longest such wait, milliseconds.
    pub backoff_ms_max: u64,
    /// Most messages.
    pub depth_count_max: u64,
}

/// What is known of a message without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its place: what came earlier is lower.
    pub seq: u64,
    /// Higher goes first.
    pub priority: u8,
    /// Not before.
    pub due_ms: i64,
    /// Attempts that failed.
    pub failed_count: u32,
    /// Messages of one group go one after another.
    pub group: Option<Arc<str>>,
    /// Whose it is, where one queue has messages for several plugins.
    pub lane: Option<Arc<str>>,
}

/// The messages of one plugin, or of a queue that has one.
#[derive(Debug, Default)]
struct Lane {
    /// May go now: highest priority first, then in order.
    ready: BTreeSet<(Reverse<u8>, u64)>,
    /// Those handed over included.
    depth: u64,
    flying_count: u32,
}

/// One handing over of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// The message.
    pub seq: u64,
    /// From then on its plugin is not begun, on the steady clock.
    pub begin_until_ms: u64,
    /// Longest that its plugin has it from when it begins: what the rules were when it was handed over.
    pub visibility_ms: u64,
    /// Then it is thought lost, on the steady clock.
    pub lost_at_ms: u64,
}

/// What becomes of a message whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes again.
    Again {
        /// Not before.
        due_ms: i64,
        /// Attempts that failed.
        failed_count: u32,
    },
    /// It went often enough.
    Dead,
}

/// A queue's messages by when they may go.
#[derive(Debug)]
pub struct Core {
    rules: Rules,
    is_paused: bool,
    items: HashMap<u64, Item>,
    /// Those that have messages.
    lanes: HashMap<Option<Arc<str>>, Lane>,
    /// May go at a time.
    later: BTreeSet<(i64, u64)>,
    /// Of those, the ones that wait for nothing of their own: they could not be handed over just now.
    put_back: HashSet<u64>,
    /// How often in a row the host had no room for one.
    no_room: HashMap<u64, u32>,
    /// Handed over, with when each is thought lost, on the steady clock.
    flying: BTreeMap<u64, u64>,
    /// Members of each group, in order; the first alone may go.
    groups: HashMap<Arc<str>, BTreeSet<u64>>,
}

impl Rules {
    /// How long a message waits after `failed_count` attempts. `draw` is 0 to 1000 and spreads messages that failed together:
    /// half of the wait is fixed, the other half drawn.
    pub fn backoff_ms(&self, failed_count: u32, draw: u16) -> u64 {
        let doubled = self.backoff_ms.saturating_mul(1_u64 << failed_count.saturating_sub(1).min(40));
        let whole = doubled.min(self.backoff_ms_max);
        let half = whole / 2;
        half + (whole - half).saturating_mul(u64::from(draw.min(1_000))) / 1_000
    }
}

impl Core {
    /// An empty queue.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            is_paused: false,
            items: HashMap::new(),
            lanes: HashMap::new(),
            later: BTreeSet::new(),
            put_back: HashSet::new(),
            no_room: HashMap::new(),
            flying: BTreeMap::new(),
            groups: HashMap::new(),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Puts other rules into force.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Hands nothing over until [`Core::resume`].
    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Hands over again.
    pub fn resume(&mut self) {
        self.is_paused = false;
    }

    /// How many messages there are, those handed over included.
    pub fn depth(&self) -> u64 {
        self.items.len() as u64
    }

    /// Whether there is room for another message in a lane.
    pub fn has_room(&self, lane: &Option<Arc<str>>) -> bool {
        let depth = self.lanes.get(lane).map_or(0, |lane| lane.depth);
        depth < self.rules.depth_count_max && self.depth() < DEPTH_COUNT_MAX
    }

    /// How many are handed over now.
    pub fn flying_count(&self) -> u64 {
        self.flying.len() as u64
    }

    /// What is handed over now.
    pub fn flying(&self) -> impl Iterator<Item = u64> + '_ {
        self.flying.keys().copied()
    }

    /// What is known of a message that is here.
    pub fn item(&self, seq: u64) -> Option<&Item> {
        self.items.get(&seq)
    }

    /// Takes a message in. One that is there already is left alone.
    pub fn insert(&mut self, item: Item) {
        let seq = item.seq;
        if self.items.contains_key(&seq) {
            return;
        }
        if let Some(group) = &item.group {
            self.groups.entry(Arc::clone(group)).or_default().insert(seq);
        }
        self.lanes.entry(item.lane.clone()).or_default().depth += 1;
        self.items.insert(seq, item);
        self.schedule(seq);
    }

    /// The next message to hand over, if one may go now. Give it back with `gone`, `again` or `put_back`.
    pub fn take(&mut self, now_ms: i64, steady_ms: u64) -> Option<Flight> {
        while let Some(&(due_ms, seq)) = self.later.first().filter(|(due_ms, _)| *due_ms <= now_ms) {
            self.later.remove(&(due_ms, seq));
            self.put_back.remove(&seq);
            if let Some(item) = self.items.get(&seq)
                && let Some(lane) = self.lanes.get_mut(&item.lane)
            {
                lane.ready.insert((Reverse(item.priority), seq));
            }
        }
        if self.is_paused || self.flying.len() >= CONCURRENCY_COUNT_MAX as usize {
            return None;
        }
        let concurrency_count = self.rules.concurrency_count;
        let lanes =
            self.lanes.values_mut().filter(|lane| lane.flying_count < concurrency_count && !lane.ready.is_empty());
        // The lane that has least under way goes first.
        let lane = lanes.min_by_key(|lane| (lane.flying_count, lane.ready.first().copied()))?;
        let (_, seq) = lane.ready.pop_first()?;
        lane.flying_count += 1;
        let begin_until_ms = steady_ms.saturating_add(ON_ITS_WAY_MS_MAX);
        let visibility_ms = self.rules.visibility_ms;
        let lost_at_ms = begin_until_ms.saturating_add(visibility_ms).saturating_add(GRACE_MS);
        self.flying.insert(seq, lost_at_ms);
        Some(Flight { seq, begin_until_ms, visibility_ms, lost_at_ms })
    }

    /// Whether this is the attempt that is under way, and not one that was thought lost.
    pub fn is_under_way(&self, flight: &Flight) -> bool {
        self.flying.get(&flight.seq) == Some(&flight.lost_at_ms)
    }

    /// What would become of a message if this attempt failed now. Changes nothing: the shell makes it durable first.
    pub fn fate(&self, seq: u64, now_ms: i64, draw: u16) -> Fate {
        let failed_count = self.items.get(&seq).map_or(0, |item| item.failed_count).saturating_add(1);
        if failed_count >= self.rules.attempts_max {
            return Fate::Dead;
        }
        Fate::Again { due_ms: add(now_ms, self.rules.backoff_ms(failed_count, draw)), failed_count }
    }

    /// The message is gone: done with, or dead.
    pub fn gone(&mut self, seq: u64) {
        self.land(seq);
        self.no_room.remove(&seq);
        let Some(item) = self.items.remove(&seq) else { return };
        self.put_back.remove(&seq);
        self.later.remove(&(item.due_ms, seq));
        if let Some(lane) = self.lanes.get_mut(&item.lane) {
            lane.ready.remove(&(Reverse(item.priority), seq));
            lane.depth = lane.depth.saturating_sub(1);
            if lane.depth == 0 {
                self.lanes.remove(&item.lane);
            }
        }
        let Some(group) = item.group else { return };
        let Some(members) = self.groups.get_mut(&group) else { return };
        members.remove(&seq);
        match members.first().copied() {
            Some(next) => self.schedule(next),
            None => drop(self.groups.remove(&group)),
        }
    }

    /// The attempt failed and the message goes again.
    pub fn again(&mut self, seq: u64, due_ms: i64, failed_count: u32) {
        if !self.land(seq) {
            return;
        }
        if let Some(item) = self.items.get_mut(&seq) {
            item.due_ms = due_ms;
            item.failed_count = failed_count;
        }
        self.schedule(seq);
    }

    /// The host had no room for it: how long it waits then, uncounted, longer each time. None after so often that this is an
    /// attempt that failed: others of its group wait behind it, and it may never fit.
    pub fn no_room_ms(&mut self, seq: u64) -> Option<i64> {
        let before = self.no_room.remove(&seq).unwrap_or(0);
        if before >= NO_ROOM_COUNT_MAX {
            return None;
        }
        self.no_room.insert(seq, before + 1);
        Some((NO_ROOM_MS << before).min(NO_ROOM_MS_MAX))
    }

    /// It could not be handed over, which is not its fault: it goes again, and nothing is counted.
    pub fn put_back(&mut self, seq: u64, due_ms: i64) {
        let failed_count = self.items.get(&seq).map_or(0, |item| item.failed_count);
        if self.flying.contains_key(&seq) {
            self.put_back.insert(seq);
        }
        self.again(seq, due_ms, failed_count);
    }

    /// What kept messages from being handed over is gone: those that were put back may go at once.
    pub fn hurry(&mut self, now_ms: i64) {
        for seq in std::mem::take(&mut self.put_back) {
            let Some(item) = self.items.get_mut(&seq) else { continue };
            // One that an earlier member of its group holds back is not there, and stays back.
            if self.later.remove(&(item.due_ms, seq)) {
                item.due_ms = item.due_ms.min(now_ms);
                self.later.insert((item.due_ms, seq));
            }
        }
    }

    /// Messages that were handed over and are thought lost.
    pub fn overdue(&self, steady_ms: u64) -> Vec<u64> {
        self.flying.iter().filter(|(_, lost_at_ms)| **lost_at_ms <= steady_ms).map(|(seq, _)| *seq).collect()
    }

    /// When a message may go next, if nothing else happens; none when only another call can bring it, or one is lost.
    pub fn wake_at_ms(&self) -> Option<i64> {
        let has_place = self.flying.len() < CONCURRENCY_COUNT_MAX as usize
            && self.lanes.values().any(|lane| lane.flying_count < self.rules.concurrency_count);
        if self.is_paused || !has_place { None } else { self.later.first().map(|(due_ms, _)| *due_ms) }
    }

    /// Everything that is here and not handed over.
    pub fn seqs(&self) -> impl Iterator<Item = u64> + '_ {
        self.items.keys().copied().filter(|seq| !self.flying.contains_key(seq))
    }

    /// It is not handed over any more; whether it was.
    fn land(&mut self, seq: u64) -> bool {
        if self.flying.remove(&seq).is_none() {
            return false;
        }
        if let Some(item) = self.items.get(&seq)
            && let Some(lane) = self.lanes.get_mut(&item.lane)
        {
            lane.flying_count = lane.flying_count.saturating_sub(1);
        }
        true
    }

    /// Lets a message go when it may: of a group, the first alone, and not while it is handed over.
    fn schedule(&mut self, seq: u64) {
        let Some(item) = self.items.get(&seq) else { return };
        let is_first = item.group.as_ref().is_none_or(|group| {
            self.groups.get(group).and_then(|members| members.first()).is_some_and(|first| *first == seq)
        });
        if !is_first || self.flying.contains_key(&seq) {
            return;
        }
        // An earlier member may come after a later one: then that one waits again.
        if let Some(second) = item.group.as_ref().and_then(|group| self.groups.get(group)?.iter().nth(1).copied())
            && let Some(other) = self.items.get(&second)
        {
            if let Some(lane) = self.lanes.get_mut(&other.lane) {
                lane.ready.remove(&(Reverse(other.priority), second));
            }
            self.later.remove(&(other.due_ms, second));
        }
        self.later.insert((item.due_ms, seq));
    }
}

fn add(now_ms: i64, more_ms: u64) -> i64 {
    now_ms.saturating_add(i64::try_from(more_ms).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        concurrency_count: 2,
        attempts_max: 3,
        visibility_ms: 1_000,
        backoff_ms: 100,
        backoff_ms_max: 1_000,
        depth_count_max: 100,
    };

    fn item(seq: u64) -> Item {
        Item { seq, priority: 4, due_ms: 0, failed_count: 0, group: None, lane: None }
    }

    /// What goes now, on clocks that agree.
    fn take(core: &mut Core, now_ms: i64) -> Option<u64> {
        core.take(now_ms, now_ms as u64).map(|flight| flight.seq)
    }

    /// A time anywhere up to its bound, and often at it.
    fn up_to(most: u64) -> impl Strategy<Value = u64> {
        prop_oneof![0..=most, Just(most)]
    }

    #[test]
    fn higher_priority_goes_first_then_the_earlier() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        core.insert(Item { priority: 9, ..item(2) });
        core.insert(item(3));
        assert_eq!((take(&mut core, 0), take(&mut core, 0), take(&mut core, 0)), (Some(2), Some(1), None));
        core.gone(2);
        assert_eq!(take(&mut core, 0), Some(3));
    }

    #[test]
    fn a_delayed_message_waits_and_says_when() {
        let mut core = Core::new(RULES);
        core.insert(Item { due_ms: 500, ..item(1) });
        assert_eq!((take(&mut core, 499), core.wake_at_ms()), (None, Some(500)));
        assert_eq!(take(&mut core, 500), Some(1));
    }

    #[test]
    fn a_failing_message_waits_longer_each_time_and_then_is_dead() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        assert_eq!(take(&mut core, 0), Some(1));
        assert_eq!(core.fate(1, 0, 0), Fate::Again { due_ms: 50, failed_count: 1 });
        core.again(1, 50, 1);
        assert_eq!((take(&mut core, 49), take(&mut core, 50)), (None, Some(1)));
        assert_eq!(core.fate(1, 50, 1_000), Fate::Again { due_ms: 250, failed_count: 2 });
        core.again(1, 250, 2);
        assert_eq!(take(&mut core, 250), Some(1));
        assert_eq!(core.fate(1, 250, 0), Fate::Dead);
    }

    #[test]
    fn a_message_that_comes_back_uncounted_has_all_its_attempts() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        for round in 0..10 {
            assert_eq!(take(&mut core, round), Some(1));
            core.put_back(1, round + 1);
        }
        assert_eq!(take(&mut core, 10), Some(1));
        assert!(matches!(core.fate(1, 10, 0), Fate::Again { failed_count: 1, .. }));
    }

    #[test]
    fn a_message_that_the_host_has_no_room_for_waits_longer_each_time_and_is_counted_in_the_end() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        let mut waits = |times| (0..times).map(|_| core.no_room_ms(1)).collect::<Vec<_>>();
        let all = waits(11);
        let expected = [2_i64, 4, 8, 16, 32, 32, 32, 32, 32, 32].map(|seconds| Some(seconds * 1_000));
        assert_eq!((&all[..10], all[10]), (&expected[..], None));
        assert_eq!(waits(2), [Some(2_000), Some(4_000)], "it begins anew");
        core.gone(1);
        assert!(core.no_room.is_empty());
    }

    #[test]
    fn what_was_put_back_hurries_and_what_waits_for_its_own_time_does_not() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        core.insert(item(2));
        assert_eq!((take(&mut core, 0), take(&mut core, 0)), (Some(1), Some(2)));
        core.put_back(1, 5_000);
        core.again(2, 5_000, 1);
        core.insert(Item { due_ms: 5_000, ..item(3) });
        assert_eq!(take(&mut core, 10), None);
        core.hurry(10);
        assert_eq!((take(&mut core, 10), take(&mut core, 10)), (Some(1), None));
    }

    #[test]
    fn a_group_goes_in_order_also_when_its_first_fails() {
        let mut core = Core::new(RULES);
        let of_group = |seq| Item { group: Some("order-7".into()), priority: 9 - seq as u8, ..item(seq) };
        core.insert(of_group(2));
        core.insert(of_group(1));
        core.insert(of_group(3));
        assert_eq!((take(&mut core, 0), take(&mut core, 0)), (Some(1), None));
        core.again(1, 100, 1);
        assert_eq!((take(&mut core, 0), take(&mut core, 100), take(&mut core, 100)), (None, Some(1), None));
        core.gone(1);
        assert_eq!((take(&mut core, 100), take(&mut core, 100)), (Some(2), None));
    }

    #[test]
    fn an_attempt_that_hangs_is_found_once_its_plugin_cannot_run_and_says_nothing_about_the_next() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        let hung = core.take(0, 0).unwrap();
        assert_eq!(hung.lost_at_ms, ON_ITS_WAY_MS_MAX + 1_000 + GRACE_MS);
        assert!(core.overdue(hung.lost_at_ms - 1).is_empty() && core.is_under_way(&hung));
        assert_eq!(core.overdue(hung.lost_at_ms), [1]);
        core.put_back(1, 5);
        assert!(!core.is_under_way(&hung));
        let next = core.take(5, hung.lost_at_ms).unwrap();
        assert!(next.seq == 1 && core.is_under_way(&next) && !core.is_under_way(&hung));
        assert_eq!(core.item(1).unwrap().failed_count, 0, "it is not the message's doing");
        core.gone(1);
        assert!(!core.is_under_way(&next));
    }

    #[test]
    fn a_wall_clock_that_is_set_takes_no_attempt_for_lost() {
        const YEAR_MS: i64 = 366 * 86_400_000;
        let mut core = Core::new(RULES);
        core.insert(item(1));
        core.insert(Item { due_ms: YEAR_MS, ..item(2) });
        let flight = core.take(0, 7).unwrap();
        // What waits for the time that it is now goes; what is under way stays so.
        assert_eq!(core.take(YEAR_MS, 8).map(|flight| flight.seq), Some(2));
        for now_ms in [2 * YEAR_MS, -YEAR_MS] {
            assert!(core.overdue(9).is_empty() && core.take(now_ms, 9).is_none());
        }
        assert!(core.is_under_way(&flight));
    }

    #[test]
    fn other_rules_change_nothing_of_an_attempt_that_is_under_way() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        let flight = core.take(0, 0).unwrap();
        core.set_rules(Rules { visibility_ms: 1, ..RULES });
        assert_eq!(flight.visibility_ms, RULES.visibility_ms);
        assert!(core.overdue(flight.begin_until_ms + RULES.visibility_ms).is_empty());
    }

    fn of_lane(seq: u64, lane: &str) -> Item {
        Item { lane: Some(lane.into()), ..item(seq) }
    }

    #[test]
    fn a_slow_plugin_of_the_hosts_queue_holds_up_nothing_but_its_own() {
        let mut core = Core::new(RULES);
        (1..=9).for_each(|seq| core.insert(of_lane(seq, "slow")));
        assert_eq!((take(&mut core, 0), take(&mut core, 0), take(&mut core, 0)), (Some(1), Some(2), None));
        // It has as many as it may have, and says nothing: what comes for another one goes at once.
        core.insert(of_lane(10, "quick"));
        core.insert(Item { due_ms: 5, ..of_lane(11, "quick") });
        assert_eq!((take(&mut core, 0), core.wake_at_ms()), (Some(10), Some(5)));
        core.gone(10);
        assert_eq!((take(&mut core, 5), take(&mut core, 5)), (Some(11), None));
        // An end of the slow one makes room for its next.
        core.gone(2);
        assert_eq!((take(&mut core, 5), take(&mut core, 5)), (Some(3), None));
    }

    #[test]
    fn the_plugin_that_has_least_under_way_has_the_next_turn() {
        let mut core = Core::new(Rules { concurrency_count: 64, ..RULES });
        (1..=80).for_each(|seq| core.insert(of_lane(seq, "flood")));
        (81..=82).for_each(|seq| core.insert(of_lane(seq, "few")));
        let first: Vec<u64> = std::iter::from_fn(|| take(&mut core, 0)).collect();
        assert_eq!(first.len(), CONCURRENCY_COUNT_MAX as usize, "so many in all");
        assert_eq!(first[..4], [1, 81, 2, 82]);
    }

    #[test]
    fn a_queue_that_is_full_of_one_plugins_messages_has_room_for_anothers() {
        let (flood, few) = (Some(Arc::from("flood")), Some(Arc::from("few")));
        let mut core = Core::new(Rules { depth_count_max: 3, ..RULES });
        (1..=3).for_each(|seq| core.insert(of_lane(seq, "flood")));
        assert!(!core.has_room(&flood) && core.has_room(&few));
        core.gone(2);
        assert!(core.has_room(&flood));
    }

    #[test]
    fn a_paused_queue_hands_nothing_over() {
        let mut core = Core::new(RULES);
        core.insert(item(1));
        core.pause();
        assert_eq!((take(&mut core, 0), core.wake_at_ms()), (None, None));
        core.resume();
        assert_eq!(take(&mut core, 0), Some(1));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert { priority: u8, delay: u8, group: Option<u8>, lane: u8 },
        Take,
        Done(usize),
        Fail(usize),
        PutBack(usize),
        Hurry,
        Pass(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u8..10, any::<u8>(), proptest::option::of(0_u8..3), 0_u8..2)
                .prop_map(|(priority, delay, group, lane)| Step::Insert { priority, delay, group, lane }),
            Just(Step::Take),
            Just(Step::Take),
            any::<usize>().prop_map(Step::Done),
            any::<usize>().prop_map(Step::Fail),
            any::<usize>().prop_map(Step::PutBack),
            Just(Step::Hurry),
            any::<u8>().prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        #[test]
        fn an_attempt_that_uses_all_of_its_time_is_not_lost_while_its_end_is_written(
            visibility_ms in 1_000_u64..1_000_000, taken_ms in 0_u64..1_000_000,
            way_ms in up_to(ON_ITS_WAY_MS_MAX - 1), late_ms in up_to(GRACE_MS - 1),
        ) {
            let mut core = Core::new(Rules { visibility_ms, ..RULES });
            core.insert(item(1));
            let flight = core.take(0, taken_ms).unwrap();
            // Its code is compiled anew first, for as long as that may take; then the plugin has all of its time.
            let begun_ms = taken_ms + way_ms;
            prop_assert!(begun_ms < flight.begin_until_ms);
            let cut_ms = begun_ms + flight.visibility_ms;
            for steady_ms in [begun_ms, cut_ms, cut_ms + late_ms] {
                prop_assert!(core.overdue(steady_ms).is_empty() && core.take(0, steady_ms).is_none());
                prop_assert!(core.is_under_way(&flight));
            }
            // Its end, at last: the message is gone, and nothing is left to be handed over again.
            core.gone(1);
            prop_assert!(core.overdue(u64::MAX).is_empty() && core.take(0, u64::MAX).is_none());
            prop_assert_eq!(core.wake_at_ms(), None);
        }

        #[test]
        fn no_two_plugins_ever_have_a_message_at_the_same_time_however_long_the_host_hangs(
            visibility_ms in 1_000_u64..1_000_000, taken_ms in 0_u64..1_000_000, way_ms in 0..2 * ON_ITS_WAY_MS_MAX,
        ) {
            let mut core = Core::new(Rules { visibility_ms, ..RULES });
            core.insert(item(1));
            let flight = core.take(0, taken_ms).unwrap();
            let begun_ms = taken_ms + way_ms;
            // What whoever hands it over asks before he begins (`invoke.rs`).
            let cut_ms = if begun_ms < flight.begin_until_ms { begun_ms + flight.visibility_ms } else { 0 };
            prop_assert!(core.overdue(flight.lost_at_ms - 1).is_empty());
            prop_assert_eq!(core.overdue(flight.lost_at_ms), vec![1]);
            prop_assert!(cut_ms < flight.lost_at_ms);
        }

        #[test]
        fn nothing_is_lost_or_doubled_and_groups_keep_their_order(steps in steps()) {
            let mut core = Core::new(RULES);
            let (mut now, mut seq) = (0_i64, 0_u64);
            let mut flying: Vec<u64> = Vec::new();
            let mut alive: BTreeMap<u64, Option<u8>> = BTreeMap::new();
            let mut lanes: BTreeMap<u64, u8> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert { priority, delay, group, lane } => {
                        seq += 1;
                        let name = group.map(|group| Arc::from(group.to_string()));
                        // A group is of one plugin.
                        let lane = group.unwrap_or(lane) % 2;
                        let due_ms = now + i64::from(delay);
                        core.insert(Item { priority, due_ms, group: name, ..of_lane(seq, &lane.to_string()) });
                        lanes.insert(seq, lane);
                        alive.insert(seq, group);
                    }
                    Step::Take => if let Some(taken) = take(&mut core, now) {
                        prop_assert!(!flying.contains(&taken) && alive.contains_key(&taken));
                        if let Some(group) = alive[&taken] {
                            let earlier = alive.iter().any(|(other, of)| *other < taken && *of == Some(group));
                            prop_assert!(!earlier, "an earlier one of the group is still here");
                        }
                        flying.push(taken);
                        let beside = flying.iter().filter(|other| lanes[*other] == lanes[&taken]);
                        prop_assert!(beside.count() <= RULES.concurrency_count as usize);
                    },
                    Step::Done(which) if !flying.is_empty() => {
                        let done = flying.swap_remove(which % flying.len());
                        core.gone(done);
                        alive.remove(&done);
                    }
                    Step::Fail(which) if !flying.is_empty() => {
                        let failed = flying.swap_remove(which % flying.len());
                        match core.fate(failed, now, 500) {
                            Fate::Dead => { core.gone(failed); alive.remove(&failed); }
                            Fate::Again { due_ms, failed_count } => core.again(failed, due_ms, failed_count),
                        }
                    }
                    Step::PutBack(which) if !flying.is_empty() => {
                        core.put_back(flying.swap_remove(which % flying.len()), now + 5);
                    }
                    Step::Hurry => core.hurry(now),
                    Step::Pass(ms) => now += i64::from(ms),
                    _ => {}
                }
                prop_assert_eq!(core.depth(), alive.len() as u64);
                prop_assert_eq!(core.flying_count(), flying.len() as u64);
            }
            // Whatever happened, everything that is left can be got.
            now += 100_000;
            for seq in flying.drain(..) { core.put_back(seq, now); }
            while let Some(taken) = take(&mut core, now) { core.gone(taken); alive.remove(&taken); }
            prop_assert!(alive.is_empty(), "left behind: {:?}", alive);
        }
    }
}
