//! Schedules over a start of the host. Nobody reads the tenant's quota here, so that every run is under way for long: it waits
//! for that.

use jiff::{SignedDuration, Timestamp};
use ringfence_automation::schedule::{Overlap, Schedule};
use ringfence_core::{Clock, ResourceName};
use ringfence_store::Key;
use serde_json::json;

use crate::queues::automation;
use crate::world::{World, eventually, runtime};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn often() -> ResourceName {
    "often".parse().unwrap()
}

/// Puts a schedule of every minute into the store, as a host left it that ended in the middle of this.
fn left_behind(world: &World, overlap: Overlap, decided_until: Timestamp, begun: &[Timestamp]) {
    let schedule = json!({
        "name": "often", "spec": { "plugin": "taker", "cron": "* * * * *", "overlap": overlap },
        "created_at": "2026-01-01T00:00:00Z", "created_by": "acme/ann", "decided_until": decided_until, "begun": begun,
    });
    world.block_on(world.acme.put_json(&Key::new(["schedule", "often"]), &schedule)).unwrap();
}

#[test]
fn what_the_end_of_the_host_cut_is_met_by_the_next_times_as_the_schedule_says() {
    // After one more minute, and after two: begun and not over, and skipped.
    for (overlap, after_one, after_two) in
        [(Overlap::Skip, (1, 1), (1, 2)), (Overlap::Queue, (2, 0), (2, 1)), (Overlap::Allow, (2, 0), (3, 0))]
    {
        let (world, host) = (World::new(), runtime());
        let began = world.clock.now();
        left_behind(&world, overlap, began, &[began - MINUTE]);
        let automation = host.block_on(async {
            let automation = automation(&world).await;
            automation.start().await.unwrap();
            automation
        });
        for (minutes, expected) in [(1, after_one), (2, after_two)] {
            world.clock.pass(60_000);
            let mut seen: Option<Schedule> = None;
            eventually("the next time", || {
                let schedule = host.block_on(automation.schedule(&world.acme, &often())).unwrap();
                let is_decided = schedule.decided_until == began + MINUTE * minutes;
                seen = Some(schedule);
                is_decided
            });
            let seen = seen.unwrap();
            assert_eq!((seen.begun.len(), seen.skipped_count), expected, "{overlap:?} {minutes}");
        }
    }
}
