//! What a run meets on its way: a quota that is used up, a tenant that is suspended, code that never ends or forks without
//! bound, a history as long as it may be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringfence_automation::workflow::event::{Ending, Entry, Event, Started, Told};
use ringfence_automation::workflow::journal::{Loaded, Mark, begin_ops};
use ringfence_automation::workflow::limits::{BRANCHES_COUNT_MAX, HISTORY_EVENTS_COUNT_MAX};
use ringfence_automation::workflow::state::State;
use ringfence_automation::workflow::{NotRun, Status};
use ringfence_core::RunId;
use ringfence_core::workflow::{Ask, Place};
use ringfence_store::{Side, TenantState};

use crate::world::{Code, Host, Steps, World, acme, eventually, stopped};

/// Sleeps a minute, and then is done. The first `refused_count` times from its second on, nothing of the tenant is run for
/// an hour.
fn napper(calls: &Arc<AtomicUsize>, refused_count: usize) -> Code {
    let calls = Arc::clone(calls);
    Arc::new(move |call| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if (1..=refused_count).contains(&number) {
                return Err(NotRun::NotNow { retry_after_ms: 3_600_000 });
            }
            match Steps(call.history).sleep(60_000).await {
                Ok(()) => Ok(Ok("1".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    })
}

#[test]
fn a_quota_that_is_used_up_in_the_middle_of_a_run_stops_it_until_there_is_more() {
    let (world, calls) = (World::new(), Arc::default());
    let host = Host::start(&world, &napper(&calls, 1));
    let run = world.begin(&host);
    host.until(&world, &run, Status::Waiting);
    world.clock.pass(61_000);
    host.workflows.go_on(&world.acme);
    eventually("the refusal", || calls.load(Ordering::Relaxed) == 2);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(calls.load(Ordering::Relaxed), 2, "it does not knock on and on");
    let head = host.block_on(host.workflows.head(&world.acme, &run)).unwrap();
    assert!(!head.status.is_ended() && head.stuck.is_none(), "{head:?}");
    // A higher quota wakes it at once: the test's clock stands still.
    host.workflows.go_on(&world.acme);
    host.until(&world, &run, Status::Completed);
}

#[test]
fn a_suspended_tenants_run_rests_and_goes_on_at_once_when_it_is_resumed() {
    let (world, calls) = (World::new(), Arc::default());
    let host = Host::start(&world, &napper(&calls, 0));
    let run = world.begin(&host);
    host.until(&world, &run, Status::Waiting);
    world.block_on(world.tenants.set_state(&acme(), TenantState::Suspended)).unwrap();
    world.clock.pass(61_000);
    host.workflows.go_on(&world.acme);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(calls.load(Ordering::Relaxed), 1, "its code is not run");
    world.block_on(world.tenants.set_state(&acme(), TenantState::Active)).unwrap();
    host.workflows.go_on(&world.acme);
    host.until(&world, &run, Status::Completed);
}

#[test]
fn the_runs_of_a_tenant_that_was_locked_when_the_host_started_go_on_once_it_is_not() {
    let (world, calls) = (World::new(), Arc::default());
    let code = napper(&calls, 0);
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    host.until(&world, &run, Status::Waiting);
    host.kill();
    let host = Host::start_after(&world, &code, async || {
        world.tenants.disable_key(&acme(), "acme/ann", Side::Tenant).await.unwrap();
    });
    world.clock.pass(61_000);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    world.block_on(world.tenants.enable_key(&acme(), Side::Tenant)).unwrap();
    host.workflows.go_on(&world.acme);
    host.until(&world, &run, Status::Completed);
}

/// Asks for one number more, for ever.
fn endless() -> Code {
    Arc::new(|call| {
        Box::pin(async move {
            let steps = Steps(call.history);
            loop {
                if let Err(stop) = steps.ask(Ask::Random).await {
                    return stopped(&stop);
                }
            }
        })
    })
}

fn random(number: u32) -> Event {
    Event::Told { place: Place::new(vec![number]), told: Told::Random(7) }
}

fn started() -> Started {
    Started {
        plugin: "shop".parse().unwrap(),
        version: "0.1.0".parse().unwrap(),
        workflow: "test".to_owned(),
        input: "null".to_owned(),
        by: "acme/ann".parse().unwrap(),
        parent: None,
        depth: 0,
        attributes: BTreeMap::new(),
    }
}

#[test]
fn code_that_never_ends_ends_at_the_limit_of_its_history_which_is_replayed_in_bounded_time() {
    const BATCH: usize = 1_000;
    let world = World::new();
    let run = RunId::random(&*world.entropy);
    // Nearly as long as a history may be, as if the code had been at it for a while.
    world.block_on(async {
        let (ops, absent) = begin_ops(&run, started(), 1).unwrap();
        world.acme.batch(ops, vec![absent]).await.unwrap();
        let mut loaded = Loaded::read(&world.acme, &run).await.unwrap();
        for batch in 0..HISTORY_EVENTS_COUNT_MAX / BATCH - 1 {
            let first = (batch * BATCH) as u32;
            let events = (first..first + BATCH as u32).map(random).collect();
            loaded.append(events, 1, Mark::Keep, Vec::new()).await.unwrap();
        }
    });
    let began = Instant::now();
    let host = Host::start(&world, &endless());
    let head = host.until(&world, &run, Status::Failed);
    let Some(Ending::Failed { code, message }) = &head.ending else { panic!("{head:?}") };
    assert_eq!((code.as_str(), message.contains("number of events")), ("workflow-limit", true), "{message}");
    let count = head.events_count as usize;
    assert!(count <= HISTORY_EVENTS_COUNT_MAX && count > HISTORY_EVENTS_COUNT_MAX - BATCH, "{count}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_hundred_thousand_events_are_folded_in_a_moment() {
    let mut history = vec![Entry { at_ms: 1, event: Event::Started(started()) }];
    history.extend((0..100_000).map(|number| Entry { at_ms: 1, event: random(number) }));
    let began = Instant::now();
    assert_eq!(State::of(&history).ops.len(), 100_000);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_fork_too_wide_and_children_without_end_end_the_run_and_take_the_children_with_it() {
    let world = World::new();
    let wide: Code = Arc::new(|call| {
        Box::pin(async move {
            match Steps(call.history).ask(Ask::Fork { branches_count: BRANCHES_COUNT_MAX + 1 }).await {
                Ok(_) => Ok(Ok("1".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &wide);
    let head = host.until(&world, &world.begin(&host), Status::Failed);
    assert!(matches!(&head.ending, Some(Ending::Failed { code, .. }) if code == "workflow-limit"), "{head:?}");
    host.kill();

    // Each begins one child more of itself, as deep as it goes, and waits for it.
    let deep: Code = Arc::new(|call| {
        Box::pin(async move {
            let steps = Steps(call.history);
            let child = Ask::Child { workflow: "test".to_owned(), input: "null".to_owned() };
            let child = match steps.ask(child).await {
                Ok(ringfence_core::workflow::Answer::Name(run)) => run,
                Ok(other) => panic!("{other:?}"),
                Err(stop) => return stopped(&stop),
            };
            match steps.ask(Ask::ChildEnd { run: child }).await {
                Ok(ringfence_core::workflow::Answer::Outcome(outcome)) => Ok(outcome),
                Ok(other) => panic!("{other:?}"),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &deep);
    let head = host.until(&world, &world.begin(&host), Status::Failed);
    let Some(Ending::Failed { message, .. }) = &head.ending else { panic!("{head:?}") };
    assert!(message.contains("depth of children"), "{message}");
    let all = host.block_on(host.workflows.list(&world.acme, &Default::default(), None, 100)).unwrap().0;
    assert_eq!(all.len(), 1 + 9, "the one too wide, and one at each depth");
    assert!(all.iter().all(|head| head.status == Status::Failed), "{all:?}");
}
