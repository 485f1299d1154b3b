//! Schedules over a start of the host, a suspension, a failing store and other runs of theirs. Nothing is deployed: a run
//! waits while the tenant's quota is not read, and is over as `no-route` once it is.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use ringfence_automation::schedule::{LastRun, Missed, Overlap, Schedule};
use ringfence_automation::{Automation, AutomationError};
use ringfence_capabilities::Quotas;
use ringfence_core::quota::QuotaChoice;
use ringfence_core::{Clock, ResourceName};
use ringfence_store::{Fault, Faults, Key, TenantState};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::queues::automation_and_quotas;
use crate::world::{World, acme, eventually, runtime};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR_MS: i64 = 3_600_000;
const EVERY_MINUTE: &str = "* * * * *";
/// As often as the timer asks for the time in two rounds and more.
const ROUNDS: u64 = 6;

fn often() -> ResourceName {
    "often".parse().unwrap()
}

fn key() -> Key {
    Key::new(["schedule", "often"])
}

/// Puts a schedule into the store, as a host left it that ended in the middle of this.
fn left_behind(
    world: &World,
    (cron, missed, overlap): (&str, Missed, Overlap),
    decided_until: Timestamp,
    begun: &[Timestamp],
) {
    let schedule = json!({
        "name": "often", "spec": { "plugin": "taker", "cron": cron, "missed": missed, "overlap": overlap },
        "created_at": "2026-01-01T00:00:00Z", "created_by": "acme/ann", "decided_until": decided_until, "begun": begun,
    });
    world.block_on(world.acme.put_json(&key(), &schedule)).unwrap();
}

/// Automation that is started.
fn started(world: &World, host: &Runtime) -> (Automation, Quotas) {
    host.block_on(async {
        let (automation, quotas) = automation_and_quotas(world).await;
        automation.start().await.unwrap();
        (automation, quotas)
    })
}

/// From now on runs are over.
fn read_quota(world: &World, host: &Runtime, quotas: &Quotas) {
    host.block_on(quotas.open(&world.acme, &QuotaChoice::default())).unwrap();
}

fn set_state(world: &World, state: TenantState) {
    world.block_on(world.tenants.set_state(&acme(), state)).unwrap();
}

fn now_is(world: &World) -> Schedule {
    world.block_on(world.acme.get_json(&key())).unwrap().unwrap()
}

fn until(world: &World, what: &str, is_so: impl Fn(&Schedule) -> bool) -> Schedule {
    eventually(what, || is_so(&now_is(world)));
    now_is(world)
}

/// How the last run of a schedule ended, and what it ran for.
fn last(schedule: &Schedule) -> Option<(&str, Timestamp)> {
    schedule.last.as_ref().map(|last| (last.outcome.as_str(), last.due_at))
}

#[test]
fn what_the_end_of_the_host_cut_is_met_by_the_next_times_as_the_schedule_says() {
    // After one more minute, and after two: begun and not over, and skipped.
    for (overlap, after_one, after_two) in
        [(Overlap::Skip, (1, 1), (1, 2)), (Overlap::Queue, (2, 0), (2, 1)), (Overlap::Allow, (2, 0), (3, 0))]
    {
        let (world, host) = (World::new(), runtime());
        let began = world.clock.now();
        left_behind(&world, (EVERY_MINUTE, Missed::Skip, overlap), began, &[began - MINUTE]);
        let (_automation, _quotas) = started(&world, &host);
        for (minutes, expected) in [(1, after_one), (2, after_two)] {
            world.clock.pass(60_000);
            let decided_until = began + MINUTE * minutes;
            let seen = until(&world, "the next time", |schedule| schedule.decided_until == decided_until);
            assert_eq!((seen.begun.len(), seen.skipped_count), expected, "{overlap:?} {minutes}");
        }
    }
}

#[test]
fn what_falls_into_a_suspension_is_for_the_schedules_own_rule_told_of_its_end_or_not() {
    for (missed, is_told, expected) in
        [(Missed::Skip, true, (0, 3)), (Missed::Once, false, (1, 2)), (Missed::All, true, (3, 0))]
    {
        let (world, host) = (World::new(), runtime());
        let began = world.clock.now();
        left_behind(&world, (EVERY_MINUTE, missed, Overlap::Allow), began, &[]);
        let (automation, _quotas) = started(&world, &host);
        set_state(&world, TenantState::Suspended);
        // Past three times, 40, 100 and 160 seconds from where it began.
        world.clock.pass(200_000);
        world.clock.until_asked(ROUNDS);
        assert_eq!(now_is(&world).decided_until, began, "nothing is decided for a tenant that is suspended");
        set_state(&world, TenantState::Active);
        if is_told {
            host.block_on(automation.open_tenant(&world.acme));
        } else {
            world.clock.pass(6_000);
        }
        let seen = until(&world, "a decision", |schedule| schedule.decided_until > began);
        assert_eq!((seen.begun.len(), seen.skipped_count), expected, "{missed:?}");
    }
}

#[test]
fn a_run_that_a_suspension_keeps_from_beginning_is_not_tried_before_its_end_and_not_lost() {
    let (world, host) = (World::new(), runtime());
    let began = world.clock.now();
    left_behind(&world, (EVERY_MINUTE, Missed::Skip, Overlap::Skip), began, &[began - MINUTE]);
    set_state(&world, TenantState::Suspended);
    let (automation, quotas) = host.block_on(automation_and_quotas(&world));
    // Whatever is tried is over at once.
    read_quota(&world, &host, &quotas);
    host.block_on(automation.start()).unwrap();
    world.clock.until_asked(ROUNDS);
    let seen = now_is(&world);
    assert_eq!((seen.begun.as_slice(), last(&seen)), ([began - MINUTE].as_slice(), None));
    set_state(&world, TenantState::Active);
    let seen = until(&world, "its end", |schedule| schedule.begun.is_empty());
    assert_eq!(last(&seen), Some(("no-route", began - MINUTE)));
}

#[test]
fn a_time_at_which_the_store_fails_runs_as_soon_as_it_can_be_written_or_is_found_to_be() {
    for fault in [Fault::Lost, Fault::InDoubt] {
        let faults = Faults::default();
        let (world, host) = (World::with_faults(faults.clone()), runtime());
        let began = world.clock.now();
        left_behind(&world, ("0 * * * *", Missed::Skip, Overlap::Queue), began, &[]);
        let (_automation, quotas) = started(&world, &host);
        read_quota(&world, &host, &quotas);
        faults.plan([Some(fault)]);
        world.clock.pass(HOUR_MS - began.as_millisecond() % HOUR_MS);
        let due_at = world.clock.now();
        world.clock.until_asked(ROUNDS);
        let seen = now_is(&world);
        let begun = match fault {
            Fault::InDoubt => vec![due_at],
            Fault::Lost => Vec::new(),
        };
        // Nothing is run before it is known to be written.
        assert_eq!((seen.begun.as_slice(), last(&seen)), (begun.as_slice(), None), "{fault:?}");
        world.clock.pass(2_000);
        let seen = until(&world, "its end", |schedule| schedule.last.is_some());
        assert_eq!(last(&seen), Some(("no-route", due_at)));
        assert!(seen.begun.is_empty() && seen.skipped_count == 0, "{seen:?}");
    }
}

#[test]
fn what_gathered_behind_a_run_does_not_begin_once_its_schedule_rests() {
    let (world, host) = (World::new(), runtime());
    let began = world.clock.now();
    left_behind(&world, (EVERY_MINUTE, Missed::Skip, Overlap::Queue), began, &[began - MINUTE]);
    let (_automation, quotas) = started(&world, &host);
    world.clock.pass(60_000);
    let mut seen = until(&world, "a time that gathers", |schedule| schedule.begun.len() == 2);
    seen.spec.paused = true;
    world.block_on(world.acme.put_json(&key(), &seen)).unwrap();
    read_quota(&world, &host, &quotas);
    let seen = until(&world, "the end of both", |schedule| schedule.begun.is_empty());
    // What was under way goes to its end.
    assert_eq!((last(&seen), seen.skipped_count), (Some(("no-route", began - MINUTE)), 1));
}

#[test]
fn a_run_that_somebody_asks_for_is_met_by_the_next_time_and_by_who_asks_too() {
    let (world, host) = (World::new(), runtime());
    let began = world.clock.now();
    left_behind(&world, (EVERY_MINUTE, Missed::Skip, Overlap::Skip), began, &[]);
    let (automation, quotas) = started(&world, &host);
    let ask = || {
        let (automation, store) = (automation.clone(), world.acme.clone());
        let asker = automation.workload(&acme(), &"taker".parse().unwrap()).unwrap();
        host.spawn(async move { automation.run_now(&acme(), &store, &often(), (asker, None)).await })
    };
    let asked = [ask(), ask()];
    eventually("that one is refused", || asked.iter().filter(|run| run.is_finished()).count() == 1);
    world.clock.pass(60_000);
    let seen = until(&world, "the next time", |schedule| schedule.decided_until > began);
    assert_eq!((seen.begun.len(), seen.skipped_count), (0, 1));
    read_quota(&world, &host, &quotas);
    let ended: Vec<Result<LastRun, _>> = host.block_on(join_all(asked)).into_iter().map(Result::unwrap).collect();
    assert_eq!(ended.iter().flatten().filter(|last| last.outcome == "no-route").count(), 1, "{ended:?}");
    let refused = ended.iter().filter(|run| matches!(run, Err(AutomationError::ScheduleRuns)));
    assert_eq!(refused.count(), 1, "{ended:?}");
    assert_eq!(host.block_on(ask()).unwrap().unwrap().outcome, "no-route", "it is over");
}
