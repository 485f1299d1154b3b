//! Who floods the commit thread, and how long such a lane rests. A flush cannot be interrupted, so whoever writes without a pause
//! makes everybody else wait for what is being written, again and again, however fair the turns are. So while others write too,
//! a lane that writes much more than one of them is served in small parts, and after each it rests for a multiple of what the
//! part took: most of the others' writes then find the disk free. It is the idling of a scheduler for disks that anticipates
//! (S. Iyer, P. Druschel, "Anticipatory Scheduling", SOSP 2001), turned round: not who is waited for is known, but who waits.
//!
//! Must never make a lane rest that has no neighbour who writes less, nor for longer than [`REST_MAX`] at a time. Pure: no
//! threads, no clock but what is handed in.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Over how long it is counted what a lane writes, and how long one that wrote counts as a neighbour.
const WINDOW: Duration = Duration::from_millis(100);
/// What a lane may write within a window without being looked at: some 2,000 small records a second.
const FLOOD_BYTES: usize = 128 << 10;
/// By how much a flood writes more than a neighbour.
const FLOOD_FACTOR: usize = 2;
/// LIMIT: what a flood has of a group, reached by the item that goes over.
const PART_BYTES: usize = 16 << 10;
/// How many times as long as its part took a flood rests: it has a quarter of the time then.
const REST_FACTOR: u32 = 3;
/// LIMIT: longest rest.
const REST_MAX: Duration = Duration::from_millis(100);

/// What lanes wrote lately, and what they have of the group that is being made.
pub(crate) struct Pace<L> {
    /// The lane that is nobody's neighbour and floods nobody.
    host: L,
    lanes: HashMap<L, Account>,
    start: Option<Instant>,
    /// When the group began.
    now: Duration,
    /// The least that neighbours wrote, by lane, and the next to it.
    least: [Option<(L, usize)>; 2],
    /// What the lanes have of the group.
    group: HashMap<L, usize>,
}

#[derive(Default)]
struct Account {
    /// Which window `bytes` are of.
    window: u128,
    bytes: usize,
    /// Those of the window before.
    before_bytes: usize,
    seen: Duration,
    rests_until: Duration,
}

// === impl Pace ===

impl<L: Hash + Eq + Copy> Pace<L> {
    pub(crate) fn new(host: L) -> Self {
        Self {
            host,
            lanes: HashMap::new(),
            start: None,
            now: Duration::ZERO,
            least: [None, None],
            group: HashMap::new(),
        }
    }

    /// Something stands in a lane.
    pub(crate) fn came(&mut self, lane: L, now: Instant) {
        let now = self.since_start(now);
        if lane != self.host {
            self.lanes.entry(lane).or_default().seen = now;
        }
    }

    /// A group begins: who is a neighbour is looked at once.
    pub(crate) fn begin(&mut self, now: Instant) {
        let now = self.since_start(now);
        self.now = now;
        self.group.clear();
        self.lanes.retain(|_, account| account.is_near(now) || account.rests_until > now);
        self.least = [None, None];
        if !self.lanes.values().any(|account| account.wrote(now) >= FLOOD_BYTES) {
            return;
        }
        for (lane, account) in self.lanes.iter().filter(|(_, account)| account.is_near(now)) {
            let here = Some((*lane, account.wrote(now)));
            let is_less = |than: &Option<(L, usize)>| than.is_none_or(|(_, bytes)| account.wrote(now) < bytes);
            if is_less(&self.least[0]) {
                self.least = [here, self.least[0]];
            } else if is_less(&self.least[1]) {
                self.least[1] = here;
            }
        }
    }

    /// Whether the group may have the next of a lane.
    pub(crate) fn is_open(&self, lane: &L) -> bool {
        let Some(account) = self.lanes.get(lane) else { return true };
        if account.rests_until > self.now {
            return false;
        }
        let has = self.group.get(lane).copied().unwrap_or(0);
        has < PART_BYTES || !self.is_flood(lane, account)
    }

    /// The group has something of a lane.
    pub(crate) fn took(&mut self, lane: L, bytes: usize) {
        if lane == self.host {
            return;
        }
        let has = self.group.entry(lane).or_default();
        *has = has.saturating_add(bytes);
        let now = self.now;
        self.lanes.entry(lane).or_default().add(bytes, now);
    }

    /// The group is written: who floods rests, by its part of the time.
    pub(crate) fn end(&mut self, now: Instant) {
        let now = self.since_start(now);
        let took = now.saturating_sub(self.now);
        let group = std::mem::take(&mut self.group);
        let all: usize = group.values().sum();
        for (lane, bytes) in group {
            let floods = self.lanes.get(&lane).is_some_and(|account| self.is_flood(&lane, account));
            if let Some(account) = self.lanes.get_mut(&lane) {
                account.seen = now;
                if floods {
                    let share = took.mul_f64(bytes as f64 / all.max(1) as f64);
                    account.rests_until = now + (share * REST_FACTOR).min(REST_MAX);
                }
            }
        }
    }

    /// How long until the first of those that rest has rested; none when none does.
    pub(crate) fn rest(&self, now: Instant) -> Option<Duration> {
        let now = now.saturating_duration_since(self.start?);
        self.lanes.values().map(|account| account.rests_until.saturating_sub(now)).filter(|rest| !rest.is_zero()).min()
    }

    /// Has a lane rest for so long from now on.
    #[cfg(test)]
    pub(crate) fn make_rest(&mut self, lane: L, rest: Duration, now: Instant) {
        let until = self.since_start(now) + rest;
        self.lanes.entry(lane).or_default().rests_until = until;
    }

    fn is_flood(&self, lane: &L, account: &Account) -> bool {
        let wrote = account.wrote(self.now);
        let neighbour = self.least.iter().flatten().find(|(other, _)| other != lane);
        wrote >= FLOOD_BYTES && neighbour.is_some_and(|(_, bytes)| bytes.saturating_mul(FLOOD_FACTOR) <= wrote)
    }

    fn since_start(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.start.get_or_insert(now))
    }
}

impl Account {
    fn add(&mut self, bytes: usize, now: Duration) {
        self.before_bytes = self.before(now);
        self.bytes = self.of_this(now).saturating_add(bytes);
        self.window = window(now);
    }

    /// What was written in the last window's length, as far as the counts of two windows tell.
    fn wrote(&self, now: Duration) -> usize {
        let gone_percent = now.as_millis() % WINDOW.as_millis() * 100 / WINDOW.as_millis();
        let left_percent = usize::try_from(100 - gone_percent).unwrap_or(0);
        self.of_this(now).saturating_add(self.before(now) / 100 * left_percent)
    }

    fn of_this(&self, now: Duration) -> usize {
        if self.window == window(now) { self.bytes } else { 0 }
    }

    fn before(&self, now: Duration) -> usize {
        match window(now).saturating_sub(self.window) {
            0 => self.before_bytes,
            1 => self.bytes,
            _ => 0,
        }
    }

    fn is_near(&self, now: Duration) -> bool {
        now.saturating_sub(self.seen) <= WINDOW
    }
}

fn window(now: Duration) -> u128 {
    now.as_millis() / WINDOW.as_millis()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: u8 = 0;

    /// A disk that takes a moment for each group and something for each byte, and those who write to it.
    struct Disk {
        pace: Pace<u8>,
        start: Instant,
        now: Duration,
    }

    impl Disk {
        fn new() -> Self {
            Self { pace: Pace::new(HOST), start: Instant::now(), now: Duration::ZERO }
        }

        fn at(&self) -> Instant {
            self.start + self.now
        }

        /// A group of what is open, in parts of 1 KiB, of each lane as many as it has; says what each got.
        fn group(&mut self, wants: &[(u8, usize)]) -> Vec<(u8, usize)> {
            for (lane, _) in wants {
                self.pace.came(*lane, self.at());
            }
            self.pace.begin(self.at());
            let mut got = Vec::new();
            for (lane, want) in wants {
                let had = (0..*want).take_while(|_| {
                    let is_open = self.pace.is_open(lane);
                    if is_open {
                        self.pace.took(*lane, 1 << 10);
                    }
                    is_open
                });
                got.push((*lane, had.count()));
            }
            let kib: usize = got.iter().map(|(_, kib)| kib).sum();
            if kib > 0 {
                self.now += Duration::from_micros(300 + 30 * kib as u64);
                self.pace.end(self.at());
            }
            got
        }

        /// Of so many groups how many a flood was in beside one who writes a record after the other.
        fn beside(&mut self, flood: u8, victim: u8, groups: usize) -> usize {
            let mut with_flood = 0;
            for _ in 0..groups {
                let got = self.group(&[(flood, 200), (victim, 1)]);
                assert_eq!(got[1], (victim, 1), "who writes little never waits");
                with_flood += usize::from(got[0].1 > 0);
                self.now += Duration::from_micros(50);
            }
            with_flood
        }
    }

    #[test]
    fn most_writes_of_a_neighbour_find_the_disk_without_the_flood() {
        let mut disk = Disk::new();
        disk.beside(1, 2, 100);
        let with_flood = disk.beside(1, 2, 1_000);
        assert!((30..400).contains(&with_flood), "{with_flood}");
    }

    #[test]
    fn who_is_alone_has_all_of_the_disk_and_so_have_those_who_write_alike() {
        let mut disk = Disk::new();
        for _ in 0..500 {
            assert_eq!(disk.group(&[(1, 200)]), [(1, 200)]);
        }
        let mut disk = Disk::new();
        for _ in 0..500 {
            assert_eq!(disk.group(&[(1, 100), (2, 90)]), [(1, 100), (2, 90)]);
        }
    }

    #[test]
    fn the_host_is_no_neighbour_and_floods_nobody() {
        let mut disk = Disk::new();
        for _ in 0..500 {
            assert_eq!(disk.group(&[(1, 200), (HOST, 1)]), [(1, 200), (HOST, 1)]);
        }
        let mut disk = Disk::new();
        for _ in 0..500 {
            assert_eq!(disk.group(&[(HOST, 200), (1, 1)]), [(HOST, 200), (1, 1)]);
        }
    }

    #[test]
    fn a_flood_is_alone_again_soon_after_its_neighbour_went() {
        let mut disk = Disk::new();
        disk.beside(1, 2, 1_000);
        let (mut groups, until) = (0, disk.now + 2 * WINDOW + REST_MAX);
        while disk.group(&[(1, 200)]) != [(1, 200)] {
            disk.now += Duration::from_millis(1);
            groups += 1;
            assert!(disk.now < until, "after {groups} groups");
        }
    }

    #[test]
    fn a_disk_that_hangs_makes_nobody_rest_for_long() {
        let mut disk = Disk::new();
        disk.beside(1, 2, 1_000);
        disk.now += 2 * REST_MAX;
        disk.group(&[(2, 1)]);
        disk.pace.begin(disk.at());
        disk.pace.took(1, 1 << 20);
        disk.now += Duration::from_secs(60);
        disk.pace.end(disk.at());
        assert!(disk.pace.rest(disk.at()).is_none_or(|rest| rest <= REST_MAX));
    }

    proptest! {
        /// However they write: whoever comes is served before the longest rest is over.
        #[test]
        fn no_lane_starves(wants in proptest::collection::vec((1_u8..6, 1_usize..300), 1..200)) {
            let mut disk = Disk::new();
            for pair in wants.chunks(2) {
                let until = disk.now + REST_MAX;
                while disk.group(pair).iter().all(|(_, kib)| *kib == 0) {
                    let rest = disk.pace.rest(disk.at()).unwrap_or_default();
                    prop_assert!(!rest.is_zero(), "nobody has anything, and nobody rests");
                    disk.now += rest;
                    prop_assert!(disk.now <= until, "{pair:?} for {rest:?}");
                }
            }
        }
    }
}
