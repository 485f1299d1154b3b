//! What a run meets on its way: a quota that is used up, a tenant that is suspended, code that never ends or forks without
//! bound, a history as long as it may be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ringfence_automation::workflow::event::{Ending, Entry, Event, Started, Told};
use ringfence_automation::workflow::journal::{
    Loaded, Mark, begin_ops, due_prefix, family_key, ready_key, ready_prefix, unsworn_key,
};
use ringfence_automation::workflow::limits::{BRANCHES_COUNT_MAX, FAMILY_COUNT_MAX, HISTORY_EVENTS_COUNT_MAX};
use ringfence_automation::workflow::state::State;
use ringfence_automation::workflow::{Begin, Command, Filter, Head, Listed, NotRun, Status, WorkflowError};
use ringfence_core::workflow::{Answer, Ask, Place, StepFailure, StepKind, Stop};
use ringfence_core::{Clock as _, RunId};
use ringfence_store::{Key, Op, PageToken, Segment, Side, StoreError, TenantState};

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
    host.look(&world);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    world.block_on(world.tenants.enable_key(&acme(), Side::Tenant)).unwrap();
    host.workflows.go_on(&world.acme);
    host.until(&world, &run, Status::Completed);
    assert_eq!(calls.load(Ordering::Relaxed), 2, "its code was run once, and when it was not locked");
}

#[test]
fn a_run_that_is_forbidden_or_cannot_be_read_waits_alone() {
    let (world, is_forbidden) = (World::new(), Arc::new(AtomicBool::new(true)));
    let (refused, forbidden) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&is_forbidden));
    let counted = Arc::clone(&refused);
    let code: Code = Arc::new(move |call| {
        let is_refused = call.input == "null" && forbidden.load(Ordering::Relaxed);
        counted.fetch_add(usize::from(is_refused), Ordering::Relaxed);
        Box::pin(async move {
            match is_refused {
                true => Err(NotRun::RunWaits { retry_after_ms: 3_600_000 }),
                false => Ok(Ok("1".to_owned())),
            }
        })
    });
    let broken = RunId::random(&*world.entropy);
    world.block_on(async {
        let (ops, absent) = begin_ops(&broken, started(), 1).unwrap();
        world.acme.batch(ops, vec![absent]).await.unwrap();
        world.acme.put(&Key::new(["run", "head", broken.as_str()]), b"{}".to_vec()).await.unwrap();
    });
    let host = Host::start(&world, &code);
    let first = world.begin(&host);
    eventually("the refusal", || refused.load(Ordering::Relaxed) == 1);
    // The test's clock stands still: nothing that makes the tenant wait would ever be over.
    let nothing_ready = || world.block_on(world.acme.scan(&ready_prefix(), None, 1)).unwrap().records.is_empty();
    eventually("both wait", nothing_ready);
    for _ in 0..3 {
        let begin = Begin { input: "1".to_owned(), ..world.test() };
        let other = host.block_on(host.workflows.begin(&world.acme, begin)).unwrap().0.run;
        host.until(&world, &other, Status::Completed);
    }
    assert_eq!(refused.load(Ordering::Relaxed), 1, "it does not knock on and on");
    let head = host.block_on(host.workflows.head(&world.acme, &first)).unwrap();
    assert!(!head.status.is_ended() && head.stuck.is_none(), "{head:?}");
    is_forbidden.store(false, Ordering::Relaxed);
    world.clock.pass(3_601_000);
    host.workflows.go_on(&world.acme);
    host.until(&world, &first, Status::Completed);
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

/// How a run begins.
pub fn started() -> Started {
    Started {
        plugin: "shop".parse().unwrap(),
        version: "0.1.0".parse().unwrap(),
        workflow: "test".to_owned(),
        input: "null".to_owned(),
        by: "acme/ann".parse().unwrap(),
        parent: None,
        depth: 0,
        root: None,
        first: None,
        attributes: BTreeMap::new(),
        dice: String::new(),
        signal_keys: Vec::new(),
        led_by: Default::default(),
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
        // And all of it is on the audit log.
        world.acme.delete(&unsworn_key(&run)).await.unwrap();
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
    let mut history = vec![Entry { at_ms: 1, event: Event::Started(Box::new(started())) }];
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
    let all = host.block_on(host.workflows.list(&world.acme, &Default::default(), None, 100)).unwrap().heads;
    assert_eq!(all.len(), 1 + 9, "the one too wide, and one at each depth");
    assert!(all.iter().all(|head| head.status == Status::Failed), "{all:?}");
}

#[test]
fn a_search_that_finds_nothing_looks_at_a_thousand_runs_and_says_where_it_goes_on() {
    let (world, mut first) = (World::new(), None);
    world.block_on(async {
        for batch in 0..12 {
            let (mut ops, mut absent) = (Vec::new(), Vec::new());
            for number in 0..100 {
                let run = RunId::random(&*world.entropy);
                let workflow = if batch + number == 0 { "rare" } else { "test" }.to_owned();
                let begun = begin_ops(&run, Started { workflow, ..started() }, 1 + batch * 100 + number).unwrap();
                ops.extend(begun.0);
                absent.push(begun.1);
                first.get_or_insert(run);
            }
            world.acme.batch(ops, absent).await.unwrap();
        }
        // Nobody drives them: they are only looked for.
        loop {
            let page = world.acme.scan(&ready_prefix(), None, 500).await.unwrap();
            if page.records.is_empty() {
                break;
            }
            let ops = page.records.into_iter().map(|(key, _)| Op::delete(key)).collect();
            world.acme.batch(ops, Vec::new()).await.unwrap();
        }
    });
    let host = Host::start(&world, &endless());
    let filter = Filter { workflow: Some("rare".to_owned()), ..Filter::default() };
    for limit in [1, 100, 1_000] {
        let list = |before: Option<&PageToken>| {
            host.block_on(host.workflows.list(&world.acme, &filter, before, limit)).unwrap()
        };
        let Listed { heads: found, next: token, .. } = list(None);
        assert!(found.is_empty() && token.is_some(), "limit {limit}: {found:?}");
        let found = list(token.as_ref()).heads;
        assert_eq!(found.first().map(|head| &head.run), first.as_ref(), "limit {limit}");
    }
}

#[test]
fn a_run_whose_history_is_not_whole_is_never_done_again_and_can_be_ended() {
    let (world, calls) = (World::new(), Arc::default());
    let host = Host::start(&world, &napper(&calls, 0));
    let run = world.begin(&host);
    host.until(&world, &run, Status::Waiting);
    host.kill();
    let log = Key::new(["run", "log", run.as_str()]);
    world.block_on(world.acme.delete(&log.number(0))).unwrap();
    let ran_count = calls.load(Ordering::Relaxed);

    let host = Host::start(&world, &napper(&calls, 0));
    world.clock.pass(61_000);
    host.workflows.go_on(&world.acme);
    let now_ms = u64::try_from(world.clock.now().as_millisecond()).unwrap();
    eventually("it is put off", || {
        let (marks, _) = world.block_on(world.acme.scan_names(&due_prefix(), None, 100)).unwrap();
        let is_later = |mark: &Key| matches!(mark.segments(), [_, Segment::Number(due_ms), _] if *due_ms > now_ms);
        marks.iter().any(|mark| mark.last_name() == Some(run.as_str()) && is_later(mark))
    });
    assert_eq!(calls.load(Ordering::Relaxed), ran_count, "nothing of it is done again");
    // Others of the tenant go on.
    let other = world.begin(&host);
    host.until(&world, &other, Status::Waiting);

    let (terminate, by) = (Command::Terminate { reason: "lost".to_owned() }, "acme/ann".parse().unwrap());
    let ended = host.block_on(host.workflows.command(&world.acme, &run, &terminate, &by)).unwrap();
    assert_eq!(ended.status, Status::Terminated);
    let again = host.block_on(host.workflows.command(&world.acme, &run, &terminate, &by));
    assert!(matches!(again, Err(WorkflowError::Refused(_))), "{again:?}");
    let listed = host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 100)).unwrap();
    assert_eq!((listed.heads.len(), listed.damaged.len()), (2, 0));

    // The time that it was put off to comes, and nothing more is done for it but to take it away.
    world.clock.pass(601_000);
    host.look(&world);
    eventually("what wakes it wakes nothing", || {
        let ready = world.block_on(world.acme.get(&ready_key(&run))).unwrap();
        let (marks, _) = world.block_on(world.acme.scan_names(&due_prefix(), None, 100)).unwrap();
        let its_count = marks.iter().filter(|mark| mark.last_name() == Some(run.as_str())).count();
        ready.is_none() && its_count == 1
    });
}

#[test]
fn a_run_of_which_the_head_is_lost_is_not_begun_again_under_its_key() {
    let (world, calls) = (World::new(), Arc::default());
    let host = Host::start(&world, &napper(&calls, 0));
    let keyed = || Begin { key: Some("order 17".to_owned()), ..world.test() };
    let run = host.block_on(host.workflows.begin(&world.acme, keyed())).unwrap().0.run;
    host.until(&world, &run, Status::Waiting);
    let ran_count = calls.load(Ordering::Relaxed);
    world.block_on(world.acme.delete(&Key::new(["run", "head", run.as_str()]))).unwrap();
    let again = host.block_on(host.workflows.begin(&world.acme, keyed()));
    assert!(matches!(&again, Err(error) if error.is_damage()), "{again:?}");
    assert_eq!(calls.load(Ordering::Relaxed), ran_count);
    assert!(host.block_on(host.workflows.take_away(&world.acme, &run)).unwrap());
    assert!(host.block_on(host.workflows.begin(&world.acme, keyed())).unwrap().1, "nothing is left of it");
}

#[test]
fn a_run_of_which_nobody_knows_what_it_was_is_listed_as_damaged_and_can_be_taken_away() {
    let (world, calls) = (World::new(), Arc::default());
    let host = Host::start(&world, &napper(&calls, 0));
    let (lost, other) = (world.begin(&host), world.begin(&host));
    for run in [&lost, &other] {
        host.until(&world, run, Status::Waiting);
    }
    let head = Key::new(["run", "head", lost.as_str()]);
    world.block_on(world.acme.put(&head, b"{}".to_vec())).unwrap();
    let listed = || host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 100)).unwrap();
    let found = listed();
    assert_eq!(found.heads.iter().map(|head| &head.run).collect::<Vec<_>>(), [&other]);
    assert_eq!(found.damaged, std::slice::from_ref(&lost));
    assert!(!host.block_on(host.workflows.take_away(&world.acme, &other)).unwrap(), "what opens is left alone");
    assert!(host.block_on(host.workflows.take_away(&world.acme, &lost)).unwrap());
    let found = listed();
    assert_eq!((found.heads.len(), found.damaged.len()), (1, 0));
    let log = Key::new(["run", "log", lost.as_str()]);
    assert!(world.block_on(world.acme.scan_names(&log, None, 10)).unwrap().0.is_empty());
}

/// Begins so many children of itself, one after another, and then sleeps; a child begins `below`.
fn bomb(first: u32, below: u32) -> Code {
    Arc::new(move |call| {
        Box::pin(async move {
            let count = if call.input == "null" { first } else { below };
            let steps = Steps(call.history);
            for _ in 0..count {
                let child = Ask::Child { workflow: "test".to_owned(), input: "1".to_owned() };
                match steps.ask(child).await {
                    Ok(Answer::Name(_)) => {}
                    Ok(other) => panic!("{other:?}"),
                    Err(Stop::Cancelled) => return Ok(Err("cancelled".to_owned())),
                    Err(stop) => return stopped(&stop),
                }
            }
            match steps.sleep(1_000_000_000).await {
                Ok(()) => Ok(Ok("1".to_owned())),
                Err(Stop::Cancelled) => Ok(Err("cancelled".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    })
}

/// How many descendants of a run have not ended, as it is written.
fn family(world: &World, root: &RunId) -> u64 {
    world.block_on(world.acme.get_json(&family_key(root))).unwrap().unwrap_or(0)
}

/// The tenant's runs once none of them has anything to do.
fn at_rest(world: &World, host: &Host) -> Vec<Head> {
    eventually("nothing to do", || {
        world.block_on(world.acme.scan(&ready_prefix(), None, 1)).unwrap().records.is_empty()
    });
    host.block_on(host.workflows.list(&world.acme, &Default::default(), None, 1_000)).unwrap().heads
}

#[test]
fn the_runs_that_descend_from_one_are_counted_and_one_too_many_ends_who_began_it_and_gives_their_places_back() {
    const ELSEWHERE: u64 = FAMILY_COUNT_MAX - 5;
    let world = World::new();
    let host = Host::start(&world, &bomb(4, 0));
    let root = world.begin(&host);
    assert_eq!(at_rest(&world, &host).len(), 5);
    assert_eq!(family(&world, &root), 4);
    let by = "acme/ann".parse().unwrap();
    let reason = "enough".to_owned();
    host.block_on(host.workflows.command(&world.acme, &root, &Command::Terminate { reason }, &by)).unwrap();
    eventually("its children are over", || family(&world, &root) == 0);
    host.kill();

    let host = Host::start(&world, &bomb(6, 0));
    let root = world.begin_in(&host, ELSEWHERE);
    let head = host.until(&world, &root, Status::Failed);
    let Some(Ending::Failed { code, message }) = &head.ending else { panic!("{head:?}") };
    assert_eq!(code, "workflow-limit");
    assert!(message.contains("descend from one") && message.contains("10000"), "{message}");
    eventually("what it began is over", || family(&world, &root) == ELSEWHERE);
}

#[test]
fn a_fork_bomb_ends_below_the_bound_of_its_family_and_the_count_is_right() {
    const ELSEWHERE: u64 = FAMILY_COUNT_MAX - 40;
    let world = World::new();
    // Unbounded, it would be 2^9 runs.
    let host = Host::start(&world, &bomb(2, 2));
    let root = world.begin_in(&host, ELSEWHERE);
    let all = at_rest(&world, &host);
    let alive_count = all.iter().filter(|head| head.run != root && !head.status.is_ended()).count() as u64;
    assert_eq!(family(&world, &root), ELSEWHERE + alive_count, "{all:?}");
    assert!(alive_count <= 40);
    let is_limit = |head: &Head| matches!(&head.ending, Some(Ending::Failed { code, .. }) if code == "workflow-limit");
    assert!(all.iter().any(is_limit), "{all:?}");
}

#[test]
fn a_run_that_goes_on_as_another_stays_in_its_family() {
    let world = World::new();
    let code: Code = Arc::new(|call| {
        Box::pin(async move {
            let steps = Steps(call.history);
            let child = Ask::Child { workflow: "test".to_owned(), input: "\"child\"".to_owned() };
            let asked = match call.input.as_str() {
                "null" => match steps.ask(child).await {
                    Ok(_) => steps.ask(Ask::Continue { input: "2".to_owned() }).await.map(drop),
                    Err(stop) => Err(stop),
                },
                "2" => steps.ask(child).await.map(drop),
                _ => steps.sleep(1_000_000_000).await,
            };
            match asked {
                Ok(()) => Ok(Ok("1".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &code);
    let root = world.begin(&host);
    host.until(&world, &root, Status::Continued);
    eventually("both children sleep, and the second generation has ended", || family(&world, &root) == 2);
    let all = at_rest(&world, &host);
    assert_eq!(all.iter().filter(|head| head.status == Status::Waiting).count(), 2, "{all:?}");
}

#[test]
fn a_tenant_whose_storage_is_full_writes_that_attempts_fail_and_that_runs_end_and_nothing_else() {
    let (world, calls) = (World::new(), Arc::new(AtomicUsize::new(0)));
    let (acme, counted) = (world.acme.clone(), Arc::clone(&calls));
    // Its storage is full from its step on. The first run's step fails each time, the second's does not.
    let code: Code = Arc::new(move |call| {
        let (acme, counted) = (acme.clone(), Arc::clone(&counted));
        Box::pin(async move {
            let fails = call.input == "null";
            let done = Steps(call.history)
                .step(StepKind::Step, "charge", async |_, _| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    acme.set_held_bytes_max(acme.held().unwrap().bytes);
                    match fails {
                        true => Err(StepFailure { message: "no line".to_owned(), again: true }),
                        false => Ok("1".to_owned()),
                    }
                })
                .await;
            match done {
                Ok(outcome) => Ok(outcome),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &code);
    let failing = world.begin(&host);
    let head = host.until(&world, &failing, Status::Failed);
    assert_eq!(calls.load(Ordering::Relaxed), 3, "each attempt counts: {head:?}");
    let begin = |input: &str| {
        let begin = Begin { input: input.to_owned(), ..world.test() };
        host.block_on(host.workflows.begin(&world.acme, begin))
    };
    let refused = begin("1");
    assert!(matches!(refused, Err(WorkflowError::Store(StoreError::Quota { .. }))));

    world.acme.set_held_bytes_max(u64::MAX);
    let refused_count = || world.acme.held().unwrap().refused_count;
    let before = refused_count();
    let run = begin("1").unwrap().0.run;
    eventually("its step, and what it was refused", || calls.load(Ordering::Relaxed) == 4 && refused_count() > before);
    let waiting = host.block_on(host.workflows.head(&world.acme, &run)).unwrap();
    assert!(!waiting.status.is_ended(), "that a step is done cannot be written: {waiting:?}");
    let by = "acme/ann".parse().unwrap();
    let command = |command: Command| host.block_on(host.workflows.command(&world.acme, &run, &command, &by));
    let (name, payload) = ("go".to_owned(), "1".to_owned());
    let signal = command(Command::Signal { name, payload, key: None });
    assert!(matches!(signal, Err(WorkflowError::Store(StoreError::Quota { .. }))));
    let reason = "no room".to_owned();
    assert_eq!(command(Command::Terminate { reason }).unwrap().status, Status::Terminated);
}
