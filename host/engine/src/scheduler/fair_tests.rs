//! The arithmetic alone, in a simulated host: lanes that want CPU time, workers that give it in slices, a clock that is a
//! number.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;

/// A host in which every item wants CPU time; polls end at a slice's end, when asked, or when the item is done.
struct Simulation {
    fair: Fair<Item>,
    now_ns: u64,
    workers: Vec<Option<(Item, u64)>>,
    asked: WorkerSet,
    served_ns: Vec<u64>,
    finished: Vec<(usize, u64)>,
    lanes: Vec<LaneId>,
    idled_while_someone_waited: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    lane: usize,
    left_ns: u64,
    born_ns: u64,
}

const STEP_NS: u64 = 50 * US;

impl Simulation {
    fn new(workers: usize, shares: &[TenantShare]) -> Self {
        let mut fair = Fair::new(workers, 0, 1);
        let lanes: Vec<LaneId> = shares.iter().map(|share| fair.add_lane(*share, 0)).collect();
        Self {
            fair,
            now_ns: 0,
            workers: vec![None; workers],
            asked: 0,
            served_ns: vec![0; lanes.len()],
            finished: Vec::new(),
            lanes,
            idled_while_someone_waited: 0,
        }
    }

    fn arrive(&mut self, lane: usize, cpu_ns: u64) {
        let item = Item { lane, left_ns: cpu_ns, born_ns: self.now_ns };
        if let Call::Yield(workers) = self.fair.push(self.lanes[lane], item, Arrival::Woken, self.now_ns) {
            self.asked |= workers;
        }
    }

    /// One step of the clock on all workers.
    fn step(&mut self) {
        if self.now_ns.is_multiple_of(MS) {
            self.asked |= self.fair.tick(self.now_ns).yielding;
        }
        for worker in 0..self.workers.len() {
            if self.asked & bit(worker) != 0 && self.workers[worker].is_some() {
                let (item, since) = self.workers[worker].take().unwrap();
                self.fair.done(worker, self.now_ns - since, self.now_ns);
                let _ = self.fair.push(self.lanes[item.lane], item, Arrival::Yielded, self.now_ns);
            }
            self.asked &= !bit(worker);
            if self.workers[worker].is_none() {
                self.workers[worker] = self.fair.pick(worker, self.now_ns).map(|item| (item, self.now_ns));
            }
        }
        if self.workers.iter().any(Option::is_none) && self.fair.waiting_count() > 0 {
            self.idled_while_someone_waited += 1;
        }
        self.now_ns += STEP_NS;
        for worker in 0..self.workers.len() {
            let Some((item, since)) = &mut self.workers[worker] else { continue };
            item.left_ns = item.left_ns.saturating_sub(STEP_NS);
            self.served_ns[item.lane] += STEP_NS;
            if item.left_ns == 0 {
                let (lane, born, spent) = (item.lane, item.born_ns, self.now_ns - *since);
                self.workers[worker] = None;
                self.fair.done(worker, spent, self.now_ns);
                self.finished.push((lane, self.now_ns - born));
            }
        }
    }

    fn run(&mut self, ns: u64) {
        let end = self.now_ns + ns;
        while self.now_ns < end {
            self.step();
        }
    }
}

fn weight(weight: u32) -> TenantShare {
    TenantShare { weight, ..TenantShare::USUAL }
}

fn capped(permille: u32, burst_us: u64) -> TenantShare {
    TenantShare { cpu_permille: Some(permille), cpu_burst_us: burst_us, ..TenantShare::USUAL }
}

#[test]
fn one_that_wants_little_is_served_at_once_among_sixteen_that_want_everything() {
    let mut sim = Simulation::new(2, &[TenantShare::USUAL; 17]);
    for hog in 1..17 {
        sim.arrive(hog, u64::MAX);
    }
    sim.run(100 * MS);
    for _ in 0..200 {
        sim.arrive(0, 350 * US);
        sim.run(5 * MS);
    }
    let waits: Vec<u64> = sim.finished.iter().filter(|(lane, _)| *lane == 0).map(|(_, took)| *took).collect();
    assert_eq!(waits.len(), 200);
    // Its own 350 us and at most two steps until a worker has yielded.
    assert!(waits.iter().all(|took| *took <= 350 * US + 2 * STEP_NS), "{waits:?}");
}

#[test]
fn who_wants_three_quarters_of_its_fair_share_hardly_ever_waits_and_who_wants_more_than_all_of_it_does() {
    // Two workers and seventeen lanes: 1.18 ms in 10 ms are a lane's due. It comes every 5 to 15 ms.
    let p99 = |cpu_ns: u64| {
        let mut sim = Simulation::new(2, &[TenantShare::USUAL; 17]);
        for hog in 1..17 {
            sim.arrive(hog, u64::MAX);
        }
        sim.run(100 * MS);
        let mut word = 7_u64;
        for _ in 0..500 {
            sim.arrive(0, cpu_ns);
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sim.run((100 + (word >> 33) % 200) * STEP_NS);
        }
        let mut took: Vec<u64> = sim.finished.iter().filter(|(lane, _)| *lane == 0).map(|(_, took)| *took).collect();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    };
    assert!(p99(850 * US) <= 850 * US + 2 * STEP_NS, "{}", p99(850 * US));
    assert!(p99(1_300 * US) > 20 * MS, "{}", p99(1_300 * US));
}

#[test]
fn a_wave_of_newcomers_that_want_much_delays_one_that_wants_little_by_a_grain_at_most() {
    let mut sim = Simulation::new(1, &[TenantShare::USUAL; 18]);
    sim.arrive(17, u64::MAX);
    sim.run(50 * MS);
    for hog in 1..17 {
        sim.arrive(hog, u64::MAX);
    }
    sim.run(20 * MS);
    sim.arrive(0, 300 * US);
    sim.run(20 * MS);
    let took = sim.finished.iter().find(|(lane, _)| *lane == 0).unwrap().1;
    assert!(took <= 300 * US + GRAIN_NS + 2 * STEP_NS, "{took}");
}

#[test]
fn yielding_all_the_time_saves_up_nothing() {
    // Lane 0 gives its worker back after every step and comes again at once; lane 1 only runs.
    let mut fair: Fair<usize> = Fair::new(1, 0, 1);
    let lanes = [fair.add_lane(TenantShare::USUAL, 0), fair.add_lane(TenantShare::USUAL, 0)];
    let mut served = [0_u64; 2];
    let mut now = 0;
    for (lane, id) in lanes.into_iter().enumerate() {
        let _ = fair.push(id, lane, Arrival::Woken, now);
    }
    for _ in 0..200_000 {
        let Some(lane) = fair.pick(0, now) else { panic!("nothing to run") };
        let takes = if lane == 0 { 20 * US } else { SLICE_NS };
        now += takes;
        served[lane] += takes;
        fair.done(0, takes, now);
        let arrival = if lane == 0 { Arrival::Woken } else { Arrival::Yielded };
        let _ = fair.push(lanes[lane], lane, arrival, now);
    }
    let share = served[0] as f64 / (served[0] + served[1]) as f64;
    assert!((share - 0.5).abs() < 0.01, "{share}");
}

#[test]
fn whoever_rested_long_is_ahead_by_its_credit_and_no_more() {
    let mut sim = Simulation::new(1, &[TenantShare::USUAL; 2]);
    sim.arrive(1, u64::MAX);
    sim.run(10_000 * MS);
    let before = sim.served_ns[1];
    sim.arrive(0, u64::MAX);
    sim.run(20 * MS);
    let other = sim.served_ns[1] - before;
    assert!(other >= 10 * MS - CREDIT_NS - SLICE_NS, "{other}");
}

#[test]
fn a_hog_keeps_one_worker_and_never_the_last() {
    let mut fair: Fair<usize> = Fair::new(2, 4, 1);
    let hog = fair.add_lane(TenantShare::USUAL, 0);
    let other = fair.add_lane(TenantShare::USUAL, 0);
    let mut now = 0;
    for _ in 0..STRIKES_COUNT {
        let _ = fair.push(hog, 0, Arrival::Woken, now);
        assert_eq!(fair.pick(0, now), Some(0));
        let _ = fair.push(other, 1, Arrival::Woken, now);
        assert!(fair.lend(0, now));
        assert!(!fair.lend(0, now), "lent once");
        assert_eq!(fair.pick(1, now), Some(1));
        now += MS;
        fair.done(0, MS, now);
        fair.done(1, MS, now);
    }
    for item in 0..3 {
        let _ = fair.push(hog, item, Arrival::Woken, now);
    }
    assert_eq!(fair.pick(0, now), Some(0));
    assert_eq!(fair.pick(1, now), None, "the last worker is not for hogs");
    let _ = fair.push(other, 7, Arrival::Woken, now);
    assert_eq!(fair.pick(1, now), Some(7));
    fair.done(0, MS, now);
    fair.done(1, MS, now);
    now += HOG_NS + MS;
    assert!(fair.pick(0, now).is_some());
    assert!(fair.pick(1, now).is_some(), "it is a hog for a while only");
}

/// More workers than a word of the processor has bits: the last of them is asked, lent out and struck like the first.
#[test]
fn sixty_four_workers_have_spares_and_a_hog_on_the_last_of_them_is_found() {
    let mut fair: Fair<usize> = Fair::new(64, 128, 2);
    assert_eq!((fair.threads_count(), fair.places_count()), (120, 122));
    let lanes = [(); 3].map(|()| fair.add_lane(TenantShare::USUAL, 0));
    let [busy, hog, newcomer] = lanes;
    for worker in 0..63 {
        let _ = fair.push(busy, worker, Arrival::Woken, 0);
        assert_eq!(fair.pick(worker, 0), Some(worker));
    }
    let mut now = 0;
    for _ in 0..STRIKES_COUNT {
        let _ = fair.push(hog, 63, Arrival::Woken, now);
        assert_eq!(fair.pick(63, now), Some(63));
        now += MS;
        let Call::Yield(asked) = fair.push(newcomer, 64, Arrival::Woken, now) else { panic!("nobody was asked") };
        assert_eq!(asked & bit(63), bit(63));
        assert_eq!(fair.pick(64, now), None, "64 run");
        assert!(fair.lend(63, now));
        assert_eq!(fair.pick(64, now), Some(64), "a spare stands in");
        now += MS;
        fair.done(64, 10 * US, now);
        fair.done(63, 2 * MS, now);
    }
    for item in [63, 65] {
        let _ = fair.push(hog, item, Arrival::Woken, now);
    }
    assert_eq!(fair.pick(63, now), Some(63));
    fair.done(0, MS, now);
    assert_eq!(fair.pick(0, now), None, "a hog has one worker");
    fair.done(63, MS, now);
    assert_eq!(fair.pick(63, now), Some(65));
}

#[test]
fn more_workers_than_the_most_are_the_most_and_each_place_has_a_bit_of_its_own() {
    let fair: Fair<usize> = Fair::new(1_000, 2_000, 100);
    assert_eq!((fair.limit, fair.threads_count(), fair.places_count()), (WORKERS_COUNT_MAX, 120, 128));
    let all = (0..fair.places_count()).fold(WorkerSet::MIN, |all, place| all | bit(place));
    assert_eq!(all, WorkerSet::MAX);
    assert_eq!(bit(fair.places_count()), 0);
}

#[test]
fn a_worker_is_not_lent_when_nobody_waits_or_no_spare_is_left() {
    let mut fair: Fair<usize> = Fair::new(1, 1, 1);
    let a = fair.add_lane(TenantShare::USUAL, 0);
    let b = fair.add_lane(TenantShare::USUAL, 0);
    let _ = fair.push(a, 0, Arrival::Woken, 0);
    assert_eq!(fair.pick(0, 0), Some(0));
    assert!(!fair.lend(0, 0));
    let _ = fair.push(b, 1, Arrival::Woken, 0);
    assert!(fair.lend(0, 0));
    assert_eq!(fair.pick(1, 0), Some(1));
    let _ = fair.push(b, 2, Arrival::Woken, 0);
    assert!(!fair.lend(1, 0), "there is no third worker");
    fair.done(0, MS, MS);
    assert_eq!(fair.pick(0, MS), None, "one worker at a time again");
    fair.done(1, MS, MS);
    assert_eq!(fair.pick(0, MS), Some(2));
}

#[test]
fn lifting_a_cap_lets_a_stopped_lane_run_at_once() {
    let mut sim = Simulation::new(1, &[capped(100, 5_000)]);
    sim.arrive(0, u64::MAX);
    sim.run(1_000 * MS);
    let before = sim.served_ns[0];
    assert!(before < 120 * MS);
    assert!(sim.fair.totals(sim.lanes[0], sim.now_ns).throttled_ns > 800 * MS);
    sim.fair.set_share(sim.lanes[0], TenantShare::USUAL, sim.now_ns);
    sim.run(100 * MS);
    assert_eq!(sim.served_ns[0] - before, 100 * MS);
}

#[test]
fn a_clock_that_steps_back_neither_pays_nor_breaks_anything() {
    let mut fair: Fair<usize> = Fair::new(1, 0, 1);
    let lane = fair.add_lane(capped(500, 1_000), 10 * MS);
    let _ = fair.push(lane, 0, Arrival::Woken, 10 * MS);
    assert_eq!(fair.pick(0, 5 * MS), Some(0));
    let _ = fair.tick(MS);
    fair.done(0, 0, 2 * MS);
    let _ = fair.push(lane, 1, Arrival::Woken, 0);
    assert_eq!(fair.pick(0, 0), Some(1));
}

/// Microseconds between two arrivals: mostly about as long as what arrives takes, sometimes a long rest.
fn rests() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..12_000, 1 => 0_u64..60_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Saturating lanes get CPU time as their weights, over any window after the first, on one worker and on several. Each has
    /// an item for every worker: with fewer it cannot use more than a worker for each, whatever its weight.
    #[test]
    fn weights_are_respected_over_any_window(
        weights in prop::collection::vec(10_u32..=1_000, 2..6),
        workers in 1_usize..=4,
        skip_ms in 10_u64..200,
        window_ms in 400_u64..900,
    ) {
        let shares: Vec<TenantShare> = weights.iter().map(|own| weight(*own)).collect();
        let mut sim = Simulation::new(workers, &shares);
        for lane in 0..shares.len() {
            for _ in 0..workers {
                sim.arrive(lane, u64::MAX);
            }
        }
        sim.run(skip_ms * MS);
        let before = sim.served_ns.clone();
        sim.run(window_ms * MS);
        let total: u64 = weights.iter().map(|own| u64::from(*own)).sum();
        for (lane, own) in weights.iter().enumerate() {
            let due = workers as u64 * window_ms * MS * u64::from(*own) / total;
            let got = sim.served_ns[lane] - before[lane];
            // A turn is a slice, and a light lane's turn is worth many of a heavy one's.
            let slack = 2 * SLICE_NS + 2 * SLICE_NS * u64::from(*own) / u64::from(*weights.iter().min().unwrap());
            let slack = workers as u64 * slack;
            prop_assert!(got.abs_diff(due) <= slack, "lane {lane} of {weights:?} on {workers}: {got} for {due}");
        }
    }

    /// However a lane rests and wakes: over no window at all has it got more than one that never rests, but for its credit and
    /// the slices that were under way on each worker.
    #[test]
    fn no_pattern_of_resting_and_waking_farms_credit(
        workers in 1_usize..=4,
        others in 1_usize..=3,
        pattern in prop::collection::vec((prop::collection::vec(20_u64..3_000, 1..8), rests()), 1..60),
    ) {
        let mut sim = Simulation::new(workers, &vec![TenantShare::USUAL; 1 + others]);
        for lane in 1..=others {
            for _ in 0..workers {
                sim.arrive(lane, u64::MAX);
            }
        }
        sim.run(20 * MS);
        let most = workers as i64 * (CREDIT_NS + 6 * SLICE_NS) as i64;
        // The least that the farmer was ahead of each of the others until now.
        let mut least = vec![i64::MAX; 1 + others];
        for (wants_us, rest_us) in pattern {
            for cpu_us in wants_us.iter().take(2 * workers) {
                sim.arrive(0, (cpu_us * US).next_multiple_of(STEP_NS));
            }
            for _ in 0..=(rest_us * US / STEP_NS) {
                sim.step();
                for (lane, least) in least.iter_mut().enumerate().skip(1) {
                    let ahead = sim.served_ns[0] as i64 - sim.served_ns[lane] as i64;
                    *least = ahead.min(*least);
                    let gained = ahead - *least;
                    prop_assert!(gained <= most, "{gained} ns ahead of lane {lane} on {workers} workers");
                }
            }
        }
    }

    /// Whatever arrives, everyone who waits is served in the end, and nothing is lost or made.
    #[test]
    fn nobody_starves_and_nothing_is_lost(
        arrivals in prop::collection::vec((0_usize..6, 20_u64..3_000, 0_u64..2_000), 1..120),
        workers in 1_usize..4,
    ) {
        let mut sim = Simulation::new(workers, &[weight(100), weight(1), weight(1_000), weight(100), capped(300, 2_000), weight(50)]);
        let mut wanted = 0;
        for (lane, cpu_us, pause_us) in &arrivals {
            sim.arrive(*lane, (cpu_us * US).next_multiple_of(STEP_NS));
            wanted += (cpu_us * US).next_multiple_of(STEP_NS);
            sim.run(pause_us * US);
        }
        // Every worker's time, and what the capped lane has to wait for, with room to spare.
        sim.run(wanted * 5 + 50 * MS);
        prop_assert_eq!(sim.finished.len(), arrivals.len());
        prop_assert_eq!(sim.served_ns.iter().sum::<u64>(), wanted);
        prop_assert_eq!(sim.fair.waiting_count(), 0);
        prop_assert_eq!(sim.fair.running_count(), 0);
        prop_assert!(sim.fair.ready.is_empty() && sim.fair.active.is_empty());
    }

    /// A capped lane never has more than its rate and its burst, idle host or not.
    #[test]
    fn a_cap_holds_over_any_window(permille in 50_u32..1_500, burst_us in 5_000_u64..50_000, seconds in 1_u64..4) {
        let mut sim = Simulation::new(2, &[capped(permille, burst_us)]);
        for _ in 0..4 {
            sim.arrive(0, u64::MAX);
        }
        sim.run(seconds * 1_000 * MS);
        let most = seconds * MS * u64::from(permille) + burst_us * US;
        // Both workers may be a tick late.
        prop_assert!(sim.served_ns[0] <= most + 4 * MS, "{} of {most}", sim.served_ns[0]);
        prop_assert!(sim.served_ns[0] + 4 * MS >= most.min(seconds * 2_000 * MS) * 9 / 10, "{} of {most}", sim.served_ns[0]);
    }

    /// No worker idles while somebody may run (the host is work-conserving).
    #[test]
    fn no_worker_idles_while_someone_may_run(
        arrivals in prop::collection::vec((0_usize..4, 50_u64..2_000, 0_u64..400), 1..60),
    ) {
        let mut sim = Simulation::new(2, &[TenantShare::USUAL; 4]);
        for (lane, cpu_us, pause_us) in arrivals {
            sim.arrive(lane, (cpu_us * US).next_multiple_of(STEP_NS));
            for _ in 0..(pause_us * US / STEP_NS) {
                sim.step();
                prop_assert_eq!(sim.idled_while_someone_waited, 0);
            }
        }
    }
}

#[test]
fn an_arrival_runs_where_it_is_only_when_nobody_waits_and_there_is_room() {
    let mut fair: Fair<usize> = Fair::new(1, 1, 1);
    let (a, b) = (fair.add_lane(TenantShare::USUAL, 0), fair.add_lane(TenantShare::USUAL, 0));
    let place = fair.start_inline(a, 0).unwrap();
    assert!(place >= fair.threads_count());
    assert_eq!(fair.tick(INLINE_SLICE_NS).yielding, bit(place), "also when nobody waits");
    assert_eq!(fair.start_inline(b, 0), None, "one at a time");
    let late = INLINE_SLICE_NS;
    assert_eq!(fair.push(b, 1, Arrival::Woken, late), Call::Yield(bit(place)), "it has had half a millisecond");
    assert_eq!(fair.pick(0, 0), None, "the inline place took the only room");
    assert_eq!(fair.tick(SLICE_NS).yielding, bit(place), "its slice ends like any other");
    fair.done(place, SLICE_NS, SLICE_NS);
    assert_eq!(fair.start_inline(a, SLICE_NS), None, "somebody waits");
    assert_eq!(fair.pick(0, SLICE_NS), Some(1));
    assert_eq!(fair.start_inline(a, SLICE_NS), None, "there is no room");
    fair.done(0, MS, 2 * MS);
    let _ = fair.add_lane(TenantShare::USUAL, 0);
    fair.set_share(a, capped(100, 5_000), 2 * MS);
    assert_eq!(fair.start_inline(a, 2 * MS), Some(place));
    fair.done(place, 50 * MS, 3 * MS);
    assert_eq!(fair.start_inline(a, 3 * MS), None, "a lane in debt does not run");
}

/// Every order of a few arrivals, yields and ends on one worker: counts agree after each.
#[test]
fn counts_agree_in_every_order_of_a_few_events() {
    fn check(fair: &Fair<u8>, queued: usize, running: usize) {
        assert_eq!(fair.waiting_count(), queued);
        assert_eq!(fair.running_count(), running);
        let in_lanes: usize = fair.lanes.iter().flatten().map(|lane| lane.queue.len()).sum();
        assert_eq!(in_lanes, queued);
        let ready = fair.lanes.iter().flatten().filter(|lane| !lane.queue.is_empty()).count();
        assert_eq!(fair.ready.len(), ready);
    }
    // Each digit of a number in base five is an event.
    for order in 0..5_u32.pow(7) {
        let mut fair: Fair<u8> = Fair::new(1, 1, 1);
        let lanes = [fair.add_lane(TenantShare::USUAL, 0), fair.add_lane(weight(300), 0)];
        let (mut queued, mut on, mut now, mut rest) = (0, [None; 2], 0, order);
        for _ in 0..7 {
            now += 400 * US;
            match rest % 5 {
                event @ (0 | 1) => {
                    let _ = fair.push(lanes[event as usize], event as u8, Arrival::Woken, now);
                    queued += 1;
                }
                2 => {
                    for (worker, on) in on.iter_mut().enumerate() {
                        if let Some(item) = fair.pick(worker, now) {
                            assert!(on.is_none());
                            *on = Some(item);
                            queued -= 1;
                        }
                    }
                }
                3 => {
                    let _ = fair.tick(now);
                    let _ = fair.lend(0, now);
                }
                _ => {
                    for (worker, on) in on.iter_mut().enumerate() {
                        if let Some(item) = on.take() {
                            fair.done(worker, 300 * US, now);
                            if worker == 0 {
                                let _ = fair.push(lanes[usize::from(item)], item, Arrival::Yielded, now);
                                queued += 1;
                            }
                        }
                    }
                }
            }
            rest /= 5;
            check(&fair, queued, on.iter().flatten().count());
        }
    }
}

#[test]
fn what_is_moved_out_of_a_lane_in_debt_runs_at_once_and_the_lane_pays_for_it() {
    let mut fair: Fair<u8> = Fair::new(1, 0, 0);
    let capped = TenantShare { cpu_permille: Some(1), cpu_burst_us: 5_000, ..TenantShare::USUAL };
    let (debtor, endings) = (fair.add_lane(capped, 0), fair.add_lane(TenantShare::USUAL, 0));
    fair.push(debtor, 1, Arrival::Woken, 0);
    assert_eq!(fair.pick(0, 0), Some(1));
    let now = 100 * MS;
    fair.done(0, now, now);
    for item in [2, 3, 4] {
        fair.push(debtor, item, Arrival::Woken, now);
    }
    assert_eq!(fair.pick(0, now), None, "it is in debt");
    assert_eq!(fair.transfer(debtor, endings, |item| *item == 9, now), Call::Nobody);
    assert_eq!(fair.transfer(debtor, endings, |item| *item == 3, now), Call::Idle);
    assert_eq!((fair.pick(0, now), fair.waiting_count()), (Some(3), 2));
    fair.charge(0, debtor, 7 * MS, now);
    fair.charge(0, endings, 7 * MS, now);
    fair.done(0, 7 * MS, now);
    assert_eq!((fair.totals(debtor, now).cpu_ns, fair.totals(endings, now).cpu_ns), (107 * MS, 7 * MS));
    assert_eq!(fair.pick(0, now), None, "nothing else was moved");
}
