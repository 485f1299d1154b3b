//! Queues and schedules of tenants that come later, and what is kept of messages. Nothing is deployed here, so that every
//! message waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use futures::future::{join_all, try_join_all};
use ringfence_audit::{HostDenials, Metering};
use ringfence_automation::queue::message::{Head, PAYLOAD_BYTES_MAX};
use ringfence_automation::queue::{PRIORITY_MAX, QUEUES_COUNT_MAX, QueueSpec, Rules, Sent};
use ringfence_automation::schedule::{Missed, Overlap, ScheduleSpec};
use ringfence_automation::{Automation, AutomationError, AutomationParts};
use ringfence_capabilities::{Capabilities, CapabilitiesConfig, EgressConfig, GuestLogs, Letter, Quotas, Trail};
use ringfence_core::quota::{Ceiling, Plans};
use ringfence_core::{Budget, QueueName, ResourceName};
use ringfence_engine::{CompileConfig, CompileLimits, Engine, EngineConfig, GuestSetup, IoClass};
use ringfence_identity::{Identity, IdentityConfig, NoProviders};
use ringfence_policy::Policy;
use ringfence_registry::Registry;
use ringfence_store::{Fault, Faults, Key, Op, Side, StoreError};
use serde_json::json;
use tokio::runtime::Handle;

use crate::world::{World, acme, eventually, runtime};

const HOUR_MS: i64 = 3_600_000;

fn work() -> ResourceName {
    "work".parse().unwrap()
}

pub fn work_queue() -> QueueName {
    "work".parse().unwrap()
}

fn letter(key: Option<&str>) -> Letter {
    Letter {
        queue: work(),
        payload: b"{}".to_vec(),
        idempotency_key: key.map(ToOwned::to_owned),
        delay_ms: 0,
        priority: PRIORITY_MAX,
        group: None,
        trail: Trail::default(),
    }
}

pub fn paused() -> QueueSpec {
    QueueSpec { plugin: Some("taker".parse().unwrap()), rules: Rules { attempts_max: 2, ..Rules::USUAL }, paused: true }
}

/// Every room below automation, and automation over them, not started.
pub async fn automation(world: &World) -> Automation {
    automation_and_quotas(world).await.0
}

/// The same with the quotas, none of which is read. While a tenant's is not, what is not deployed is waited for.
pub async fn automation_and_quotas(world: &World) -> (Automation, Quotas) {
    let (tenants, clock, entropy) = (world.tenants.clone(), world.clock.clone(), world.entropy.clone());
    let audit = world.audit().await;
    let settings = IdentityConfig {
        issuer: "host.example".to_owned(),
        origin: None,
        second_person_hours: 24,
        verifiers: Vec::new(),
        fetch: Arc::new(NoProviders),
    };
    let identity =
        Identity::open(tenants.platform().clone(), tenants.clone(), clock.clone(), entropy.clone(), settings).await;
    let cache = world.directory.path().join("native");
    std::fs::create_dir_all(&cache).unwrap();
    let engine = Engine::new(
        EngineConfig {
            worker_threads: 1,
            slots: 4,
            memory_bytes_max: Budget::CEILING.memory_bytes,
            guests_bytes_max: 4 * Budget::CEILING.memory_bytes,
            compile: CompileConfig { program: "none".into(), args: Vec::new(), limits: CompileLimits::HOST },
            cache: Dir::open_ambient_dir(&cache, ambient_authority()).unwrap(),
            io: Handle::current(),
            io_class: IoClass::Usual,
            entropy: entropy.clone(),
        },
        ringfence_capabilities::link,
    )
    .unwrap();
    let egress = CapabilitiesConfig {
        egress: EgressConfig::strict(),
        io: Handle::current(),
        clock: clock.clone(),
        entropy: entropy.clone(),
    };
    let plans = Plans::new(&Default::default(), Ceiling { cores_count: 1, slots_count: 1 }).unwrap();
    let rehearsal = Arc::new(|| GuestSetup::bare(Budget::REHEARSAL));
    let quotas = Quotas::new(plans, engine.clone(), clock.clone());
    let automation = Automation::new(AutomationParts {
        identity: identity.unwrap(),
        policy: Policy::new(entropy.clone(), clock.clone()).unwrap(),
        registry: Registry::open(tenants.clone(), engine.clone(), rehearsal, clock.clone(), None).await.unwrap(),
        capabilities: Arc::new(Capabilities::new(egress).unwrap()),
        quotas: quotas.clone(),
        logs: GuestLogs::new(clock.clone(), Handle::current()),
        metering: Metering::open(tenants.clone(), audit.clone(), clock.clone()).await.unwrap(),
        engine,
        denials: HostDenials::new(audit.clone(), clock.clone()),
        audit,
        standing: Arc::default(),
        tenants,
        clock,
        entropy,
    });
    (automation, quotas)
}

async fn queue_of_one_message(world: &World, automation: &Automation, key: Option<&str>) -> Sent {
    let by = "acme/ann".parse().unwrap();
    automation.set_queue(&acme(), &world.acme, "work", paused(), &by).await.unwrap();
    automation.send(&world.acme, "acme/ann", letter(key)).await.unwrap()
}

/// Where the queue's marks of what is handed over are.
fn marks() -> Key {
    Key::new(["queue-begun", "work"])
}

async fn marked(world: &World) -> Vec<u64> {
    world.acme.get_json(&marks()).await.unwrap().unwrap()
}

fn seq_of(sent: &Sent) -> u64 {
    sent.id.strip_prefix("work/").unwrap().parse().unwrap()
}

/// The messages that are durable.
pub async fn stored(world: &World) -> BTreeSet<u64> {
    let page = world.acme.scan(&Key::new(["queue-message", "work"]), None, 1_000).await.unwrap();
    page.records.iter().map(|(key, _)| key.last_number().unwrap()).collect()
}

pub async fn depth(world: &World, automation: &Automation) -> u64 {
    automation.queue(&world.acme, &work_queue()).await.unwrap().depth_count
}

#[test]
fn a_key_under_which_a_message_was_taken_is_gone_after_its_day() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        let first = queue_of_one_message(&world, &automation, Some("order-17")).await;
        let kept = Key::new(["queue-once", "work", "order-17"]);
        world.clock.pass(23 * HOUR_MS);
        assert_eq!(automation.sweep().await, 0);
        let again = automation.send(&world.acme, "acme/ann", letter(Some("order-17"))).await.unwrap();
        assert_eq!((again.is_repeat, &again.id), (true, &first.id));
        world.clock.pass(HOUR_MS);
        assert_eq!(automation.sweep().await, 1);
        assert!(world.acme.get(&kept).await.unwrap().is_none());
        let new = automation.send(&world.acme, "acme/ann", letter(Some("order-17"))).await.unwrap();
        assert!(!new.is_repeat && new.id != first.id);
        assert_eq!(automation.sweep().await, 0);
    });
}

#[test]
fn an_attempt_that_a_kill_cut_counts_and_a_message_that_is_cut_each_time_dies() {
    let world = World::new();
    let host = runtime();
    let id = host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await.id
    });
    drop(host);
    // Counting makes records longer, and there is no room: the host has some kept back.
    world.acme.set_held_bytes_max(world.acme.held().unwrap().bytes);
    let seq: u64 = id.strip_prefix("work/").unwrap().parse().unwrap();
    for (kills_count, alive_count) in [(1, 1), (2, 0)] {
        // What a host leaves that is killed while its plugin has the message.
        world.block_on(world.acme.put_json(&marks(), &[seq])).unwrap();
        let host = runtime();
        host.block_on(async {
            let automation = automation(&world).await;
            automation.start().await.unwrap();
            assert_eq!(depth(&world, &automation).await, alive_count, "after {kills_count} kills");
            let (dead, _) = automation.dead_letters(&world.acme, &work_queue(), None, None, 10).await.unwrap();
            assert_eq!(dead.len() as u64, 1 - alive_count);
            if let Some(letter) = dead.first() {
                assert_eq!((letter.id.as_str(), letter.failed_count), (id.as_str(), 2));
                assert!(letter.last_error.as_ref().unwrap().contains("the host ended"), "{letter:?}");
            }
        });
        drop(host);
    }
    assert!(world.block_on(marked(&world)).is_empty(), "each cut counts once");
}

#[test]
fn what_is_deployed_nowhere_waits_without_a_mark_or_a_counted_attempt() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await;
        let by = "acme/ann".parse().unwrap();
        let running = QueueSpec { paused: false, ..paused() };
        automation.set_queue(&acme(), &world.acme, "work", running, &by).await.unwrap();
        // It is taken, found to have no plugin, and put back.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(marked(&world).await.is_empty());
        let state = automation.queue(&world.acme, &work_queue()).await.unwrap();
        assert_eq!((state.depth_count, state.running_count), (1, 0));
        automation.drain(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_message_that_comes_to_a_queue_at_rest_is_taken_in_and_begun_by_one_batch() {
    let faults = Faults::default();
    let (world, host) = (World::with_faults(faults.clone()), runtime());
    let automation = host.block_on(automation(&world));
    host.block_on(async {
        automation.start().await.unwrap();
        let by = "acme/ann".parse().unwrap();
        let running = QueueSpec { paused: false, ..paused() };
        automation.set_queue(&acme(), &world.acme, "work", running, &by).await.unwrap();
    });
    let before = world.acme.newest_revision().unwrap();
    faults.hold_flushes();
    let sending = host.spawn({
        let (automation, acme) = (automation.clone(), world.acme.clone());
        async move { automation.send(&acme, "acme/ann", letter(None)).await }
    });
    eventually("its batch", || faults.held_count() > 0);
    // What is being flushed is there to be read, and nobody was told of it.
    let seqs = world.block_on(stored(&world));
    let message = Key::new(["queue-message", "work"]).number(*seqs.first().unwrap());
    let message = world.block_on(world.acme.get(&message)).unwrap().unwrap();
    let mark = world.block_on(world.acme.get(&marks())).unwrap().unwrap();
    assert_eq!((message.revision, mark.revision), (before + 1, before + 1));
    assert_eq!(mark.json::<BTreeSet<u64>>().unwrap(), seqs);
    assert!(!sending.is_finished(), "told before it is durable");
    faults.let_all_through();
    let sent = host.block_on(sending).unwrap().unwrap();
    assert_eq!(seqs, BTreeSet::from([seq_of(&sent)]));
    // How the attempt ended is one more: here that it could not be made, since nothing is deployed.
    eventually("its end", || world.block_on(marked(&world)).is_empty());
    assert_eq!(world.acme.newest_revision().unwrap(), before + 2);
    assert_eq!(world.block_on(stored(&world)), seqs);
}

#[test]
fn messages_that_come_together_are_made_durable_together_each_once_and_in_their_order() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await;
        let before = world.acme.newest_revision().unwrap();
        let sent = try_join_all((0..300).map(|number| {
            let key = format!("order-{}", number % 100);
            let (automation, world) = (&automation, &world);
            async move { automation.send(&world.acme, "acme/ann", letter(Some(&key))).await }
        }));
        let sent = sent.await.unwrap();
        assert_eq!(sent.iter().filter(|sent| !sent.is_repeat).count(), 100, "one key, one message");
        assert_eq!(depth(&world, &automation).await, 101);
        let stored = world.acme.scan(&Key::new(["queue-message", "work"]), None, 1_000).await.unwrap();
        assert_eq!(stored.records.len(), 101);
        // A batch each would be a hundred revisions.
        let batches_count = world.acme.newest_revision().unwrap() - before;
        assert!(batches_count <= 30, "{batches_count}");
    });
}

#[test]
fn one_message_that_cannot_be_kept_is_refused_and_those_that_came_with_it_are_kept() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await;
        world.acme.set_held_bytes_max(world.acme.held().unwrap().bytes + 20_000);
        let sent = join_all((0..8).map(|number| {
            let payload = if number == 3 { vec![b' '; 100_000] } else { b"{}".to_vec() };
            automation.send(&world.acme, "acme/ann", Letter { payload, ..letter(None) })
        }));
        let sent = sent.await;
        let refused: Vec<usize> = (0..8).filter(|number| sent[*number].is_err()).collect();
        assert_eq!(refused, [3], "{sent:?}");
        assert!(matches!(&sent[3], Err(AutomationError::Store(StoreError::Quota { .. }))), "{:?}", sent[3]);
        assert_eq!(depth(&world, &automation).await, 8);
    });
}

#[test]
fn a_queue_is_full_at_its_depth_and_a_tenant_has_so_many_of_them() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        let by = "acme/ann".parse().unwrap();
        let small = QueueSpec { rules: Rules { depth_count_max: 3, ..Rules::USUAL }, ..paused() };
        automation.set_queue(&acme(), &world.acme, "work", small, &by).await.unwrap();
        let sent = join_all((0..9).map(|_| automation.send(&world.acme, "acme/ann", letter(None)))).await;
        assert_eq!(sent.iter().filter(|sent| sent.is_ok()).count(), 3);
        assert!(sent.iter().flat_map(Result::as_ref).all(|sent| !sent.is_repeat));
        let full = automation.send(&world.acme, "acme/ann", letter(None)).await;
        assert!(matches!(full, Err(AutomationError::QueueFull { .. })), "{full:?}");
        for number in 1..QUEUES_COUNT_MAX {
            let name = format!("work-{number}");
            automation.set_queue(&acme(), &world.acme, &name, paused(), &by).await.unwrap();
        }
        let over = automation.set_queue(&acme(), &world.acme, "one-more", paused(), &by).await;
        assert!(matches!(over, Err(AutomationError::TooMany { max: QUEUES_COUNT_MAX, .. })), "{over:?}");
        // A queue that is there is changed all the same.
        automation.set_queue(&acme(), &world.acme, "work-1", paused(), &by).await.unwrap();
        let long =
            Letter { payload: vec![b' '; PAYLOAD_BYTES_MAX + 1], queue: "work-1".parse().unwrap(), ..letter(None) };
        let too_long = automation.send(&world.acme, "acme/ann", long).await;
        assert!(matches!(too_long, Err(AutomationError::BadQueue(_))), "{too_long:?}");
        let eager = Rules { concurrency_count: 65, ..Rules::USUAL };
        let spec = QueueSpec { rules: eager, ..paused() };
        let refused = automation.set_queue(&acme(), &world.acme, "work-1", spec, &by).await;
        assert!(matches!(refused, Err(AutomationError::BadQueue(_))), "{refused:?}");
    });
}

#[test]
fn a_queue_that_was_deleted_takes_nothing_and_one_made_again_is_empty() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await;
        automation.delete_queue(&world.acme, &work_queue()).await.unwrap();
        let refused = automation.send(&world.acme, "acme/ann", letter(None)).await;
        assert!(matches!(refused, Err(AutomationError::NotFound("queue"))), "{refused:?}");
        queue_of_one_message(&world, &automation, None).await;
        assert_eq!(depth(&world, &automation).await, 1);
    });
}

#[test]
fn a_queue_whose_deletion_a_kill_cut_is_there_to_be_deleted_with_all_that_is_left_of_it() {
    let faults = Faults::default();
    let (world, host) = (World::with_faults(faults.clone()), runtime());
    let automation = host.block_on(automation(&world));
    host.block_on(async {
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, Some("order-17")).await;
    });
    faults.hold_flushes();
    // Its marks are gone, and the host is killed as its messages go.
    faults.let_one_through();
    host.spawn({
        let (automation, store) = (automation.clone(), world.acme.clone());
        async move { automation.delete_queue(&store, &work_queue()).await }
    });
    eventually("the second batch", || faults.held_count() > 0 && world.block_on(stored(&world)).is_empty());
    drop(automation);
    host.shutdown_timeout(Duration::from_secs(5));
    faults.let_all_through();
    let host = runtime();
    host.block_on(async {
        let once = Key::new(["queue-once", "work"]);
        assert_eq!(world.acme.scan(&once, None, 10).await.unwrap().records.len(), 1, "the deletion was cut");
        let automation = self::automation(&world).await;
        automation.start().await.unwrap();
        assert_eq!(depth(&world, &automation).await, 0);
        automation.delete_queue(&world.acme, &work_queue()).await.unwrap();
        assert!(automation.queues(&world.acme).await.unwrap().is_empty());
        assert!(world.acme.scan(&once, None, 10).await.unwrap().records.is_empty());
    });
}

#[test]
fn a_tenant_that_was_locked_when_the_host_started_is_opened_when_it_is_unlocked_told_or_not() {
    let world = World::new();
    let host = runtime();
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await;
        // As it lies in the store: that its plugin has the handler was checked when it was set.
        let spec = ScheduleSpec {
            plugin: "taker".parse().unwrap(),
            cron: "0 0 1 1 *".to_owned(),
            zone: "UTC".to_owned(),
            missed: Missed::Skip,
            overlap: Overlap::Skip,
            jitter_ms: 0,
            payload: json!(null),
            paused: false,
        };
        let schedule = json!({
            "name": "yearly", "spec": spec, "created_at": "2026-01-01T00:00:00Z", "created_by": "acme/ann",
            "decided_until": "2026-01-01T00:00:00Z",
        });
        world.acme.put_json(&Key::new(["schedule", "yearly"]), &schedule).await.unwrap();
    });
    drop(host);
    for is_told in [true, false] {
        let host = runtime();
        let automation = host.block_on(async {
            // As a start does: the rooms read what they need, and then disabled keys are closed.
            let automation = automation(&world).await;
            world.tenants.disable_key(&acme(), "acme/ann", Side::Tenant).await.unwrap();
            automation.start().await.unwrap();
            let refused = automation.send(&world.acme, "acme/ann", letter(None)).await;
            assert!(matches!(refused, Err(AutomationError::NotFound("queue"))), "{refused:?}");
            world.tenants.enable_key(&acme(), Side::Tenant).await.unwrap();
            if is_told {
                automation.open_tenant(&world.acme).await;
                assert_eq!(depth(&world, &automation).await, 1);
            }
            automation
        });
        eventually("its queue", || host.block_on(depth(&world, &automation)) == 1);
        // Again is nothing: what is open stays as it is.
        host.block_on(automation.open_tenant(&world.acme));
        assert_eq!(host.block_on(depth(&world, &automation)), 1);
        host.block_on(automation.drain(Duration::from_secs(1)));
        drop(automation);
        drop(host);
    }
}

#[test]
fn a_tenant_that_was_put_back_to_a_backup_has_the_queues_of_the_backup() {
    let (world, host) = (World::new(), runtime());
    host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        let sent = queue_of_one_message(&world, &automation, None).await;
        let seq: u64 = sent.id.strip_prefix("work/").unwrap().parse().unwrap();
        automation.close_tenant(&world.acme).await;
        let record = world.acme.get(&Key::new(["queue", "work"])).await.unwrap().unwrap();
        let old: String = String::from_utf8(record.value.to_vec()).unwrap().replace("\"work\"", "\"old\"");
        let ops = vec![
            Op::delete(Key::new(["queue", "work"])),
            Op::delete(Key::new(["queue-message", "work"]).number(seq)),
            Op::put(Key::new(["queue", "old"]), old.into_bytes()),
        ];
        world.acme.batch(ops, Vec::new()).await.unwrap();
        automation.open_tenant(&world.acme).await;
        let names: Vec<String> =
            automation.queues(&world.acme).await.unwrap().into_iter().map(|queue| queue.record.name).collect();
        assert_eq!(names, ["old"]);
        assert!(automation.send(&world.acme, "acme/ann", letter(None)).await.is_err());
        let to_old = Letter { queue: "old".parse().unwrap(), ..letter(None) };
        automation.send(&world.acme, "acme/ann", to_old).await.unwrap();
    });
}

#[test]
fn a_queue_whose_disk_hangs_lets_senders_wait_or_refuses_them_and_keeps_all_that_it_took() {
    const SENDERS_COUNT: usize = 400;
    // A batch on its way, and as many that wait for the writer.
    const TAKEN_COUNT_MAX: usize = 2 * 128;
    let faults = Faults::default();
    let (world, host) = (World::with_faults(faults.clone()), runtime());
    let automation = host.block_on(automation(&world));
    let first = host.block_on(async {
        automation.start().await.unwrap();
        queue_of_one_message(&world, &automation, None).await
    });
    let acknowledged = Arc::new(AtomicUsize::new(0));
    faults.hold_flushes();
    let sending: Vec<_> = (0..SENDERS_COUNT)
        .map(|_| {
            let (automation, acme, acknowledged) = (automation.clone(), world.acme.clone(), Arc::clone(&acknowledged));
            host.spawn(async move {
                let sent = automation.send(&acme, "acme/ann", letter(None)).await;
                acknowledged.fetch_add(usize::from(sent.is_ok()), Ordering::SeqCst);
                sent
            })
        })
        .collect();
    eventually("a write that hangs", || faults.held_count() > 0);
    eventually("refusals of those for whom there is no place", || {
        sending.iter().filter(|task| task.is_finished()).count() >= SENDERS_COUNT - TAKEN_COUNT_MAX
    });
    assert_eq!(acknowledged.load(Ordering::SeqCst), 0, "nothing is durable while the disk hangs");
    faults.let_all_through();
    let sent: Vec<_> = host.block_on(join_all(sending)).into_iter().map(Result::unwrap).collect();
    let mut taken = BTreeSet::from([seq_of(&first)]);
    for sent in &sent {
        match sent {
            Ok(sent) => assert!(taken.insert(seq_of(sent)), "a place was given out twice: {sent:?}"),
            Err(error) => assert!(matches!(error, AutomationError::Store(StoreError::Busy)), "{error:?}"),
        }
    }
    assert!(taken.len() > 1, "those who had a place were taken in once the disk went on");
    assert_eq!(host.block_on(stored(&world)), taken, "what was acknowledged is there, and nothing that was refused");
    taken.insert(seq_of(&host.block_on(automation.send(&world.acme, "acme/ann", letter(None))).unwrap()));
    assert_eq!(host.block_on(depth(&world, &automation)), taken.len() as u64);
    drop((automation, host));

    let host = runtime();
    let again = host.block_on(self::automation(&world));
    host.block_on(again.start()).unwrap();
    assert_eq!(host.block_on(stored(&world)), taken);
    assert_eq!(host.block_on(depth(&world, &again)), taken.len() as u64);
}

#[test]
fn a_message_of_which_nobody_knows_whether_it_was_taken_is_handed_over_without_a_restart_if_it_was() {
    for (fault, stored_count) in [(Fault::InDoubt, 1), (Fault::Lost, 0)] {
        let faults = Faults::default();
        let (world, host) = (World::with_faults(faults.clone()), runtime());
        let automation = host.block_on(automation(&world));
        let marked_at = || world.block_on(world.acme.get(&marks())).unwrap().unwrap().revision;
        let by = "acme/ann".parse().unwrap();
        host.block_on(async {
            automation.start().await.unwrap();
            automation.set_queue(&acme(), &world.acme, "work", paused(), &by).await.unwrap();
            // The batch, and then the one that would find out what became of it.
            faults.plan([Some(fault), Some(Fault::Lost)]);
            let refused = automation.send(&world.acme, "acme/ann", letter(None)).await;
            assert!(matches!(refused, Err(AutomationError::Store(StoreError::Unavailable { .. }))), "{refused:?}");
            assert_eq!((stored(&world).await.len(), depth(&world, &automation).await), (stored_count, 1), "{fault:?}");
        });
        let before = marked_at();
        let running = QueueSpec { paused: false, ..paused() };
        host.block_on(automation.set_queue(&acme(), &world.acme, "work", running, &by)).unwrap();
        eventually("it is handed over, or found not to be there", || marked_at() > before);
        // Nothing is deployed: what is there waits for that.
        eventually("its place in the order", || host.block_on(depth(&world, &automation)) == stored_count as u64);
        assert_eq!(host.block_on(stored(&world)).len(), stored_count, "{fault:?}");
    }
}

#[test]
fn who_opens_a_queue_while_another_does_finds_the_one_writer() {
    let faults = Faults::default();
    let (world, host) = (World::with_faults(faults.clone()), runtime());
    let seq = host.block_on(async {
        let automation = automation(&world).await;
        automation.start().await.unwrap();
        seq_of(&queue_of_one_message(&world, &automation, None).await)
    });
    drop(host);
    world.block_on(world.acme.put_json(&marks(), &[seq])).unwrap();
    let host = runtime();
    let automation = host.block_on(automation(&world));
    // The one has the queue's record written, and then hangs in the middle of opening: at the marks.
    faults.hold_flushes();
    faults.let_one_through();
    let one = host.spawn({
        let (automation, acme_store) = (automation.clone(), world.acme.clone());
        async move {
            let by = "acme/ann".parse().unwrap();
            automation.set_queue(&acme(), &acme_store, "work", paused(), &by).await.map(drop)
        }
    });
    eventually("the marks on their way", || faults.held_count() > 0);
    let other = host.spawn({
        let (automation, acme_store) = (automation.clone(), world.acme.clone());
        async move { automation.open_tenant(&acme_store).await }
    });
    // Time for the other to come as far. What is asserted holds however far it came.
    for _ in 0..50 {
        world.block_on(world.acme.scan(&Key::new(["queue"]), None, 1)).unwrap();
    }
    faults.let_all_through();
    host.block_on(one).unwrap().unwrap();
    host.block_on(other).unwrap();

    // A second opening would have written the marks anew: the first writer would have to end at its first batch.
    let sent = try_join_all((0..20).map(|_| automation.send(&world.acme, "acme/ann", letter(None))));
    let sent = host.block_on(sent).unwrap();
    let mut all: BTreeSet<u64> = sent.iter().map(seq_of).collect();
    assert_eq!(all.len(), 20);
    all.insert(seq);
    assert_eq!(host.block_on(stored(&world)), all);
    assert_eq!(host.block_on(depth(&world, &automation)), 21);
    let record = world.block_on(world.acme.get(&Key::new(["queue-message", "work"]).number(seq))).unwrap().unwrap();
    let (head, _) = Head::unpack(&record.value).unwrap();
    assert_eq!(head.failed_count, 1, "the attempt that was cut counts once");
}
