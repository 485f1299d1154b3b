//! Points that notify: what one call puts into the host's queue. Nothing is deployed here and the queue rests, so that every
//! message waits.

use ringfence_automation::hooks::{Asked, Binders, HookAnswer, HookOutcome, Mode, OnFailure, PointSpec};
use ringfence_automation::queue::{QueueSpec, Rules};
use ringfence_automation::{Automation, Effects};
use ringfence_capabilities::Trail;
use ringfence_store::Key;
use serde_json::json;

use crate::queues::automation;
use crate::world::{World, acme, runtime};

/// A point with these plugins bound, as they lie in the store: that each has a handler was checked when it was bound.
async fn point(world: &World, automation: &Automation, name: &str, on_failure: OnFailure, plugins: &[&str]) {
    let spec = PointSpec {
        description: String::new(),
        mode: Mode::Notify,
        payload: json!({ "type": "object" }),
        result: None,
        deadline_ms: 1_000,
        on_failure,
        result_bytes_max: 1_000,
        binders: Binders::Several,
    };
    automation.declare(&name.parse().unwrap(), spec, &"operator/ada".parse().unwrap()).await.unwrap();
    for plugin in plugins {
        let binding = json!({
            "hook": name, "plugin": plugin, "spec": { "order": 0 }, "bound_at": "2026-01-01T00:00:00Z",
            "bound_by": "acme/ann",
        });
        world.acme.put_json(&Key::new(["hook-binding", name, *plugin]), &binding).await.unwrap();
    }
}

/// Has the host's queue rest, with room for so many messages of each plugin.
async fn rest(world: &World, automation: &Automation, depth_count_max: u64) {
    let spec = QueueSpec { plugin: None, rules: Rules { depth_count_max, ..Rules::USUAL }, paused: true };
    automation.set_queue(&acme(), &world.acme, "_hooks", spec, &"acme/ann".parse().unwrap()).await.unwrap();
}

async fn ask(world: &World, automation: &Automation, name: &str) -> HookAnswer {
    let principal = automation.workload(&acme(), &"shop".parse().unwrap()).unwrap();
    let asked = Asked {
        tenant: &acme(),
        store: &world.acme,
        hook: &name.parse().unwrap(),
        payload: json!({}),
        principal: &principal,
        peer: None,
        effects: Effects::Real,
        trail: Trail::default(),
    };
    automation.ask(asked).await.unwrap()
}

/// What became of each plugin, in their order.
fn steps(answer: &HookAnswer) -> Vec<(&str, &str, Option<&str>)> {
    let steps = answer.steps.iter();
    steps.map(|step| (step.plugin.as_str(), step.outcome.as_str(), step.code.as_deref())).collect()
}

async fn stored_count(world: &World) -> usize {
    world.acme.scan(&Key::new(["queue-message", "_hooks"]), None, 1_000).await.unwrap().records.len()
}

#[test]
fn a_plugin_whose_notifications_pile_up_keeps_none_from_another_and_a_closed_point_tells_all_or_none() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        rest(&world, &automation, 2).await;
        point(&world, &automation, "t.slow", OnFailure::Open, &["slow"]).await;
        point(&world, &automation, "t.open", OnFailure::Open, &["quick", "slow"]).await;
        point(&world, &automation, "t.closed", OnFailure::Closed, &["quick", "slow"]).await;
        for _ in 0..2 {
            assert_eq!(steps(&ask(&world, &automation, "t.slow").await), [("slow", "queued", None)]);
        }
        let open = ask(&world, &automation, "t.open").await;
        assert_eq!(open.outcome, HookOutcome::Queued);
        assert_eq!(steps(&open), [("quick", "queued", None), ("slow", "failed", Some("queue-full"))]);
        assert_eq!(stored_count(&world).await, 3);
        let closed = ask(&world, &automation, "t.closed").await;
        assert_eq!(closed.outcome, HookOutcome::Failed);
        assert_eq!(steps(&closed), [("quick", "skipped", None), ("slow", "failed", Some("queue-full"))]);
        assert_eq!(stored_count(&world).await, 3, "asked again, it would be told twice");
        rest(&world, &automation, 3).await;
        let closed = ask(&world, &automation, "t.closed").await;
        assert_eq!(closed.outcome, HookOutcome::Queued, "{closed:?}");
        assert_eq!(stored_count(&world).await, 5);
    });
}

#[test]
fn all_that_one_call_tells_is_one_batch_and_a_full_store_is_no_failure_of_an_open_point() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        rest(&world, &automation, 100).await;
        point(&world, &automation, "t.open", OnFailure::Open, &["a", "b", "c", "d"]).await;
        point(&world, &automation, "t.closed", OnFailure::Closed, &["a", "b"]).await;
        let before = world.acme.newest_revision().unwrap();
        let told = ask(&world, &automation, "t.open").await;
        assert!(told.steps.iter().all(|step| step.outcome == "queued"), "{told:?}");
        assert_eq!((world.acme.newest_revision().unwrap() - before, stored_count(&world).await), (1, 4));
        world.acme.set_held_bytes_max(world.acme.held().unwrap().bytes);
        let open = ask(&world, &automation, "t.open").await;
        assert_eq!(open.outcome, HookOutcome::Queued);
        assert!(open.steps.iter().all(|step| step.code.as_deref() == Some("quota-exhausted")), "{open:?}");
        assert_eq!(ask(&world, &automation, "t.closed").await.outcome, HookOutcome::Failed);
        assert_eq!(stored_count(&world).await, 4);
    });
}
