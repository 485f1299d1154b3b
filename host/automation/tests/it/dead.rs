//! Dead letters: found, put back and thrown away, by one writer whoever asks at once. They are written here as they lie in the
//! store, and the queue rests, so that what is put back stays where it is.

use std::collections::BTreeSet;

use futures::future::join;
use jiff::Timestamp;
use ringfence_automation::queue::message::{Head, HookTarget};
use ringfence_automation::queue::{Letters, QueueSpec, Rules};
use ringfence_automation::{Automation, AutomationError};
use ringfence_capabilities::Trail;
use ringfence_core::QueueName;
use ringfence_store::{Faults, Key};

use crate::queues::{automation, depth, paused, stored, work_queue};
use crate::world::{World, acme, eventually, runtime};

fn head(seq: u64) -> Head {
    Head {
        seq,
        from: "acme/ann".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        priority: 4,
        due_ms: 0,
        failed_count: 5,
        group: None,
        trail: Trail::default(),
        hook: None,
        last_error: Some("it failed".to_owned()),
        died_at: Some(Timestamp::UNIX_EPOCH),
    }
}

async fn bury(world: &World, queue: &str, head: &Head, payload: &str) {
    let record = head.pack(payload.as_bytes()).unwrap();
    world.acme.put(&Key::new(["queue-dead", queue]).number(head.seq), record).await.unwrap();
}

/// The dead letters of the queue.
async fn dead(world: &World) -> BTreeSet<u64> {
    let page = world.acme.scan(&Key::new(["queue-dead", "work"]), None, 1_000).await.unwrap();
    page.records.iter().map(|(key, _)| key.last_number().unwrap()).collect()
}

/// A host with a queue of so much room that rests and has the dead letters 1 to `count`.
async fn with_dead(world: &World, count: u64, depth_count_max: u64) -> Automation {
    let automation = automation(world).await;
    automation.start().await.unwrap();
    let spec = QueueSpec { rules: Rules { depth_count_max, ..Rules::USUAL }, ..paused() };
    automation.set_queue(&acme(), &world.acme, "work", spec, &"acme/ann".parse().unwrap()).await.unwrap();
    for seq in 1..=count {
        bury(world, "work", &head(seq), if seq % 2 == 0 { "a needle" } else { "hay" }).await;
    }
    automation
}

#[test]
fn two_who_put_the_same_letters_back_at_once_put_each_back_once() {
    const COUNT: u64 = 300;
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = with_dead(&world, COUNT, 1_000).await;
        let queue = work_queue();
        let redrive = || automation.redrive(&world.acme, &queue, Letters::All);
        let both = join(redrive(), redrive());
        let (one, other) = both.await;
        assert_eq!(one.unwrap() + other.unwrap(), COUNT);
        assert_eq!(stored(&world).await, (1..=COUNT).collect());
        assert_eq!((depth(&world, &automation).await, dead(&world).await.len()), (COUNT, 0));
        let message = world.acme.get(&Key::new(["queue-message", "work"]).number(7)).await.unwrap().unwrap();
        let (head, payload) = Head::unpack(&message.value).unwrap();
        assert_eq!((head.failed_count, head.last_error, head.died_at, payload), (0, None, None, b"hay".as_slice()));
    });
}

#[test]
fn what_is_put_back_while_its_queue_is_deleted_is_in_no_queue_that_is_made_again() {
    let faults = Faults::default();
    let (world, host) = (World::with_faults(faults.clone()), runtime());
    let automation = host.block_on(with_dead(&world, 600, 1_000));
    faults.hold_flushes();
    let redriving = host.spawn({
        let (automation, store) = (automation.clone(), world.acme.clone());
        async move { automation.redrive(&store, &work_queue(), Letters::All).await }
    });
    eventually("the first batch", || faults.held_count() > 0);
    let deleting = host.spawn({
        let (automation, store) = (automation.clone(), world.acme.clone());
        async move { automation.delete_queue(&store, &work_queue()).await }
    });
    faults.let_all_through();
    host.block_on(deleting).unwrap().unwrap();
    // Put back as far as it came, or refused: what counts is that nothing is left.
    drop(host.block_on(redriving).unwrap());
    host.block_on(async {
        assert_eq!((stored(&world).await, dead(&world).await), (BTreeSet::new(), BTreeSet::new()));
        let by = "acme/ann".parse().unwrap();
        automation.set_queue(&acme(), &world.acme, "work", paused(), &by).await.unwrap();
        assert_eq!(depth(&world, &automation).await, 0);
    });
}

#[test]
fn what_a_full_queue_has_no_room_for_stays_dead() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = with_dead(&world, 5, 3).await;
        assert_eq!(automation.redrive(&world.acme, &work_queue(), Letters::All).await.unwrap(), 3);
        assert_eq!(dead(&world).await, BTreeSet::from([1, 2]));
        for letters in [Letters::All, Letters::Named(&["work/1".to_owned()]), Letters::Containing("hay")] {
            let full = automation.redrive(&world.acme, &work_queue(), letters).await;
            assert!(matches!(full, Err(AutomationError::QueueFull { .. })), "{full:?}");
        }
        assert_eq!((dead(&world).await.len(), stored(&world).await.len()), (2, 3));
    });
}

#[test]
fn letters_are_found_page_by_page_and_thrown_away_one_by_one_or_all_also_when_the_store_is_full() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = with_dead(&world, 11, 100).await;
        let (queue, mut found, mut before) = (work_queue(), Vec::new(), None);
        loop {
            let page = automation.dead_letters(&world.acme, &queue, Some("needle"), before.as_ref(), 2).await.unwrap();
            assert!(page.0.len() <= 2, "{page:?}");
            found.extend(page.0.into_iter().map(|letter| letter.id));
            before = page.1;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(found, ["work/10", "work/8", "work/6", "work/4", "work/2"]);
        world.acme.set_held_bytes_max(world.acme.held().unwrap().bytes);
        let named = ["work/4", "work/4", "work/999", "other/2", "work/"].map(str::to_owned);
        assert_eq!(automation.discard(&world.acme, &queue, Letters::Named(&named)).await.unwrap(), 1);
        assert!(!dead(&world).await.contains(&4));
        assert_eq!(automation.redrive(&world.acme, &queue, Letters::Named(&["work/8".to_owned()])).await.unwrap(), 1);
        assert_eq!(automation.discard(&world.acme, &queue, Letters::All).await.unwrap(), 9);
        assert_eq!((dead(&world).await, stored(&world).await), (BTreeSet::new(), BTreeSet::from([8])));
    });
}

#[test]
fn letters_that_contain_a_text_are_put_back_or_thrown_away_over_all_pages_and_no_others() {
    const COUNT: u64 = 300;
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = with_dead(&world, COUNT, 1_000).await;
        let queue = work_queue();
        assert_eq!(automation.redrive(&world.acme, &queue, Letters::Containing("nothing")).await.unwrap(), 0);
        assert_eq!(automation.redrive(&world.acme, &queue, Letters::Containing("needle")).await.unwrap(), COUNT / 2);
        let (even, odd): (BTreeSet<u64>, BTreeSet<u64>) = (1..=COUNT).partition(|seq| seq % 2 == 0);
        assert_eq!((stored(&world).await, dead(&world).await), (even, odd));
        bury(&world, "work", &head(COUNT + 1), "a needle").await;
        assert_eq!(automation.discard(&world.acme, &queue, Letters::Containing("hay")).await.unwrap(), COUNT / 2);
        assert_eq!(dead(&world).await, BTreeSet::from([COUNT + 1]));
    });
}

#[test]
fn notifications_lie_in_a_queue_like_others_that_is_the_hosts() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        let (name, by): (QueueName, _) = (QueueName::HOOKS.parse().unwrap(), "acme/ann".parse().unwrap());
        let rests = QueueSpec { plugin: None, ..paused() };
        automation.set_queue(&acme(), &world.acme, name.as_str(), rests, &by).await.unwrap();
        let refused = automation.set_queue(&acme(), &world.acme, name.as_str(), paused(), &by).await;
        assert!(matches!(refused, Err(AutomationError::BadQueue(_))), "{refused:?}");
        for (seq, plugin) in [(1, "quick"), (2, "slow")] {
            let target = HookTarget { hook: "t.tell".to_owned(), plugin: plugin.parse().unwrap(), version: None };
            bury(&world, name.as_str(), &Head { hook: Some(target), ..head(seq) }, "{}").await;
        }
        let (letters, _) = automation.dead_letters(&world.acme, &name, Some("slow"), None, 10).await.unwrap();
        assert_eq!(letters.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["_hooks/2"]);
        assert_eq!(automation.redrive(&world.acme, &name, Letters::Named(&["_hooks/2".to_owned()])).await.unwrap(), 1);
        let states = automation.queues(&world.acme).await.unwrap();
        let states: Vec<_> = states.iter().map(|state| (state.record.name.as_str(), state.depth_count)).collect();
        assert_eq!(states, [("_hooks", 1)]);
        assert_eq!(automation.discard(&world.acme, &name, Letters::All).await.unwrap(), 1);
        automation.delete_queue(&world.acme, &name).await.unwrap();
        assert!(automation.queues(&world.acme).await.unwrap().is_empty());
    });
}
