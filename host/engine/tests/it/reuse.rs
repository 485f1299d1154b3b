//! Instances that serve more than one invocation: whose, how often, of which handlers, and when not.

use std::sync::Arc;

use http_body_util::BodyExt;
use ringfence_core::{Budget, Usage};
use ringfence_engine::{
    Code, CompileLimits, Engine, EventCall, EventContext, Export, GuestSetup, InstanceKey, MemoryPool, Meter, Reuse,
    RunError,
};

use crate::support::{
    compile, component, component_with_events, engine_of, engine_with, let_in, request, tempdir, tenant,
};

/// Answers with a letter that goes up with every invocation of the same instance.
const COUNT: &str = "
    (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))
    (call $drop_request (local.get $request))
    (call $hello (local.get $out))";
/// The same, and keeps its request.
const COUNT_HOLDING: &str = "
    (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))
    (call $hello (local.get $out))";
/// The same, and traps in its third invocation.
const COUNT_TO_TWO: &str = "
    (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))
    (if (i32.gt_u (i32.load8_u (i32.const 4096)) (i32.const 106)) (then unreachable))
    (call $drop_request (local.get $request))
    (call $hello (local.get $out))";

/// The same, and holds 16 MiB.
const COUNT_LARGE: &str = "
    (if (i32.lt_u (memory.size) (i32.const 256))
      (then (if (i32.eq (memory.grow (i32.const 254)) (i32.const -1)) (then unreachable))))
    (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))
    (call $drop_request (local.get $request))
    (call $hello (local.get $out))";

/// What a handler does first: it counts at 4096, as those above do.
const COUNTS: &str = "(i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))";
/// The handlers that are not for HTTP and whose instances are kept.
const EVENTS: [Export; 3] = [Export::Hook, Export::Schedule, Export::Message];

fn engine() -> Engine {
    engine_of(&tempdir(), CompileLimits::HOST, 2, 4)
}

async fn code(engine: &Engine, handler: &str) -> Code {
    engine.code(&compile(component(handler, "")).await).unwrap()
}

fn reuse(of: &str, version: &str, invocations_max: u32) -> Reuse {
    let key = InstanceKey {
        tenant: tenant(of),
        tenant_uid: format!("uid of {of}"),
        plugin: "counter".parse().unwrap(),
        version: version.to_owned(),
    };
    Reuse { key, invocations_max }
}

/// Runs once and gives which invocation of its instance it was; none when it trapped.
async fn which(engine: &Engine, code: &Code, reuse: &Reuse, pool: &Arc<MemoryPool>) -> Option<u8> {
    let budget = Budget::DEFAULT;
    let slot = engine.scheduler().admit(&let_in(engine, reuse.key.tenant.as_str()), budget).await.unwrap();
    let mut guest = GuestSetup::bare(budget);
    guest.meter = Meter::in_pool(budget, Arc::clone(pool));
    guest.reuse = Some(reuse.clone());
    let reply = engine.run(slot, code, guest, request()).await.ok()?;
    let body = reply.response.into_body().collect().await.unwrap().to_bytes();
    reply.finished.outcome().await.result.unwrap();
    Some(body[0] - b'h')
}

/// All handlers in one component; `more` comes after the counting.
async fn code_with_events(engine: &Engine, more: &str) -> Code {
    let code = engine.code(&compile(component_with_events(&format!("{COUNTS} {more}"))).await).unwrap();
    engine.check_linkable(&code).unwrap();
    code
}

/// Runs one of the handlers that are not for HTTP; gives which invocation of its instance it was, and what it spent.
async fn event(
    engine: &Engine,
    code: &Code,
    export: Export,
    (of, reuse): (&str, Option<&Reuse>),
    (budget, pool): (Budget, &Arc<MemoryPool>),
) -> Result<(u8, Usage), RunError> {
    let slot = engine.scheduler().admit(&let_in(engine, of), budget).await.unwrap();
    let mut guest = GuestSetup::bare(budget);
    guest.meter = Meter::in_pool(budget, Arc::clone(pool));
    guest.reuse = reuse.cloned();
    let call = EventCall { export, payload: b"{}".to_vec(), context: EventContext::default() };
    let answered = engine.run_event(slot, code, guest, call).await.map_err(|failure| failure.error)?;
    Ok((answered.answer.unwrap()[0] - b'h', answered.usage))
}

/// The same with plenty of everything; none when it failed.
async fn which_event(engine: &Engine, code: &Code, export: Export, reuse: &Reuse) -> Option<u8> {
    let pool = engine.memory().pool(1 << 30);
    let whose = (reuse.key.tenant.as_str(), Some(reuse));
    event(engine, code, export, whose, (Budget::DEFAULT, &pool)).await.ok().map(|(number, _)| number)
}

async fn several(engine: &Engine, code: &Code, reuse: &Reuse, count: usize) -> Vec<Option<u8>> {
    let pool = engine.memory().pool(1 << 30);
    let mut seen = Vec::new();
    for _ in 0..count {
        seen.push(which(engine, code, reuse, &pool).await);
    }
    seen
}

fn counted(numbers: impl IntoIterator<Item = u8>) -> Vec<Option<u8>> {
    numbers.into_iter().map(Some).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_as_many_invocations_as_it_may_and_then_another_begins() {
    let engine = engine();
    let code = code(&engine, COUNT).await;
    assert_eq!(several(&engine, &code, &reuse("acme", "1.0.0", 3), 7).await, counted([1, 2, 3, 1, 2, 3, 1]));
    assert_eq!(engine.idle_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_between_tenants_or_versions_or_namesakes() {
    let engine = engine();
    let code = code(&engine, COUNT).await;
    let (acme, globex) = (reuse("acme", "1.0.0", 100), reuse("globex", "1.0.0", 100));
    let mut namesake = acme.clone();
    namesake.key.tenant_uid = "another".to_owned();
    assert_eq!(several(&engine, &code, &acme, 3).await, counted([1, 2, 3]));
    for stranger in [&globex, &namesake, &reuse("acme", "1.0.1", 100)] {
        assert_eq!(several(&engine, &code, stranger, 2).await, counted([1, 2]));
    }
    assert_eq!(several(&engine, &code, &acme, 1).await, counted([4]));
    engine.forget_idle(&tenant("acme"));
    assert_eq!(several(&engine, &code, &acme, 1).await, counted([1]));
    assert_eq!(several(&engine, &code, &globex, 1).await, counted([3]), "another tenant's is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_trapped_or_still_holds_something_is_not_kept() {
    let engine = engine();
    let trapping = code(&engine, COUNT_TO_TWO).await;
    let seen = several(&engine, &trapping, &reuse("acme", "1.0.0", 100), 5).await;
    assert_eq!(seen, [Some(1), Some(2), None, Some(1), Some(2)]);
    let holding = code(&engine, COUNT_HOLDING).await;
    assert_eq!(several(&engine, &holding, &reuse("acme", "2.0.0", 100), 3).await, counted([1, 1, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_one_that_waits_counts_for_its_tenant_until_it_is_gone() {
    let engine = engine();
    let code = code(&engine, COUNT).await;
    let acme = reuse("acme", "1.0.0", 100);
    let pool = engine.memory().pool(1 << 30);
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(1));
    let waiting = pool.bytes();
    assert!(waiting >= 128 << 10, "two pages of 64 KiB, {waiting} are counted");
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(2));
    assert_eq!(pool.bytes(), waiting, "moved from meter to meter");
    engine.forget_idle(&tenant("acme"));
    assert_eq!(pool.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_gives_way_where_its_tenants_memory_has_no_room_for_what_runs() {
    let engine = engine();
    let code = code(&engine, COUNT_LARGE).await;
    let acme = reuse("acme", "1.0.0", 100);
    let mut neighbour = acme.clone();
    neighbour.key.plugin = "other".parse().unwrap();
    let globex = reuse("globex", "1.0.0", 100);
    // Room for one and a half.
    let (pool, globexs) = (engine.memory().pool(24 << 20), engine.memory().pool(24 << 20));
    assert_eq!(which(&engine, &code, &globex, &globexs).await, Some(1));
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(1));
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(2), "there is room for itself");
    assert_eq!(which(&engine, &code, &neighbour, &pool).await, Some(1), "the other's gave way");
    assert_eq!(engine.idle_count(), 2);
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(1));
    assert_eq!(which(&engine, &code, &globex, &globexs).await, Some(2), "another tenant's had no reason to");
    assert_eq!(pool.refused_count(), 0, "nothing was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_find_no_room_at_once_both_have_what_gave_way_to_either() {
    let engine = engine_of(&tempdir(), CompileLimits::HOST, 2, 16);
    let code = code(&engine, COUNT_LARGE).await;
    // Room for two and a little.
    let pool = engine.memory().pool(36 << 20);
    for round in 0..30 {
        let both = ["one", "two"].map(|plugin| {
            let mut own = reuse("acme", &format!("1.0.{round}"), 100);
            own.key.plugin = plugin.parse().unwrap();
            let (engine, code, pool) = (engine.clone(), code.clone(), Arc::clone(&pool));
            tokio::spawn(async move { which(&engine, &code, &own, &pool).await })
        });
        for one in both {
            assert_eq!(one.await.unwrap(), Some(1), "round {round}");
        }
    }
    assert_eq!(pool.refused_count(), 0, "nothing was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_wait_give_way_where_that_makes_room_in_the_host_and_else_stay() {
    // 5 of 40 MiB are kept, for tenants that hold next to none.
    let engine = engine_with(&tempdir(), CompileLimits::HOST, 2, 8, 40 << 20);
    let large = code(&engine, COUNT_LARGE).await;
    let larger = code(&engine, "(if (i32.eq (memory.grow (i32.const 600)) (i32.const -1)) (then unreachable))").await;
    let of = ["acme", "globex", "initech"].map(|name| (reuse(name, "1.0.0", 100), engine.memory().pool(1 << 30)));
    let [(acme, acmes), (globex, globexs), (initech, initechs)] = &of;
    assert_eq!(which(&engine, &large, acme, acmes).await, Some(1));
    assert_eq!(which(&engine, &large, globex, globexs).await, Some(1));
    assert_eq!(which(&engine, &larger, initech, initechs).await, None, "the host never has so much");
    assert_eq!(engine.idle_count(), 2, "they would have gone for nothing");
    assert_eq!(which(&engine, &large, initech, initechs).await, Some(1));
    assert_eq!(engine.idle_count(), 1, "their memory was needed");
    assert_eq!((acmes.bytes(), globexs.bytes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_keeps_no_more_waiting_than_its_part() {
    let engine = engine();
    let code = code(&engine, COUNT).await;
    for version in 0..20 {
        let one = reuse("acme", &format!("1.0.{version}"), 100);
        assert_eq!(several(&engine, &code, &one, 1).await, counted([1]));
    }
    assert_eq!(engine.idle_count(), 16);
    assert_eq!(several(&engine, &code, &reuse("globex", "1.0.0", 100), 2).await, counted([1, 2]));
    assert_eq!(engine.idle_count(), 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_serves_every_handler_of_its_version_and_is_counted_over_all_of_them() {
    let engine = engine();
    let (code, acme) = (code_with_events(&engine, "").await, reuse("acme", "1.0.0", 5));
    let pool = engine.memory().pool(1 << 30);
    for _ in 0..2 {
        assert_eq!(which_event(&engine, &code, Export::Hook, &acme).await, Some(1));
        assert_eq!(which(&engine, &code, &acme, &pool).await, Some(2));
        assert_eq!(which_event(&engine, &code, Export::Message, &acme).await, Some(3));
        assert_eq!(which(&engine, &code, &acme, &pool).await, Some(4));
        assert_eq!(which_event(&engine, &code, Export::Schedule, &acme).await, Some(5));
        assert_eq!(engine.idle_count(), 0, "it served as many as it may");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_their_authors_word_each_event_has_an_instance_of_its_own() {
    let engine = engine();
    let code = code_with_events(&engine, "").await;
    let (acme, pool) = (reuse("acme", "1.0.0", 100), engine.memory().pool(1 << 30));
    for export in EVENTS {
        // One that waits is not taken by who did not ask for it.
        let waiting = which_event(&engine, &code, export, &acme).await.unwrap();
        for _ in 0..2 {
            let (number, _) = event(&engine, &code, export, ("acme", None), (Budget::DEFAULT, &pool)).await.unwrap();
            assert_eq!(number, 1, "{export:?}");
        }
        assert_eq!(which_event(&engine, &code, export, &acme).await, Some(waiting + 1));
    }
    assert_eq!(engine.idle_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_event_trapped_or_that_still_holds_something_is_not_kept() {
    let engine = engine();
    let traps = "(if (i32.gt_u (i32.load8_u (i32.const 4096)) (i32.const 106)) (then unreachable))";
    let trapping = code_with_events(&engine, traps).await;
    let holding = code_with_events(&engine, "(drop (call $fields))").await;
    for export in EVENTS {
        let (trapped, held) = (reuse("acme", export.as_str(), 100), reuse("globex", export.as_str(), 100));
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(which_event(&engine, &trapping, export, &trapped).await);
            assert_eq!(which_event(&engine, &holding, export, &held).await, Some(1), "{export:?}");
        }
        assert_eq!(seen, [Some(1), Some(2), None, Some(1), Some(2)], "{export:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_between_tenants_or_versions_or_namesakes_in_events_either() {
    let engine = engine();
    let code = code_with_events(&engine, "").await;
    let (acme, globex) = (reuse("acme", "1.0.0", 100), reuse("globex", "1.0.0", 100));
    let mut namesake = acme.clone();
    namesake.key.tenant_uid = "another".to_owned();
    let mut neighbour = acme.clone();
    neighbour.key.plugin = "other".parse().unwrap();
    for (before, export) in EVENTS.into_iter().enumerate() {
        let before = u8::try_from(before).unwrap();
        for whose in [&acme, &globex, &namesake, &neighbour, &reuse("acme", "1.0.1", 100)] {
            assert_eq!(which_event(&engine, &code, export, whose).await, Some(before + 1), "{whose:?}");
        }
    }
    engine.forget_idle(&tenant("acme"));
    assert_eq!(which_event(&engine, &code, Export::Hook, &acme).await, Some(1));
    assert_eq!(which_event(&engine, &code, Export::Hook, &globex).await, Some(4), "another tenant's is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_of_an_instance_has_its_own_budget_and_is_billed_for_itself() {
    let engine = engine();
    // Its third never ends.
    let spins = "(if (i32.gt_u (i32.load8_u (i32.const 4096)) (i32.const 106)) (then (loop $again (br $again))))";
    let (code, acme) = (code_with_events(&engine, spins).await, reuse("acme", "1.0.0", 100));
    let pool = engine.memory().pool(1 << 30);
    // Room for one answer of a byte: what the first spent must not count for the second.
    let budget = Budget { response_bytes: 1, cpu_us: 30_000, ..Budget::DEFAULT };
    let run = async || event(&engine, &code, Export::Hook, ("acme", Some(&acme)), (budget, &pool)).await;
    for number in [1, 2] {
        let (which, usage) = run().await.unwrap();
        assert_eq!((which, usage.response_bytes), (number, 1));
        assert!(usage.cpu_us < budget.cpu_us, "{usage:?}");
    }
    assert_eq!(run().await, Err(RunError::CpuBudget), "its own meter ends it");
    assert_eq!(run().await.map(|(which, _)| which), Ok(1), "what ran out of its budget is not kept");
    let little = Budget { response_bytes: 0, ..budget };
    let refused = event(&engine, &code, Export::Hook, ("acme", Some(&acme)), (little, &pool)).await;
    assert_eq!(refused, Err(RunError::ResponseTooLarge));
    assert_eq!(engine.idle_count(), 0);
    assert_eq!(pool.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_an_instance_that_served_an_event_counts_for_its_tenant_while_it_waits() {
    let engine = engine();
    let (code, acme) = (code_with_events(&engine, "").await, reuse("acme", "1.0.0", 100));
    let pool = engine.memory().pool(1 << 30);
    let whose = ("acme", Some(&acme));
    let mut waiting = 0;
    for (before, export) in EVENTS.into_iter().enumerate() {
        let (number, usage) = event(&engine, &code, export, whose, (Budget::DEFAULT, &pool)).await.unwrap();
        assert_eq!(usize::from(number), before + 1);
        assert!(usage.memory_bytes_peak >= 128 << 10, "two pages of 64 KiB: {usage:?}");
        if before > 0 {
            assert_eq!(pool.bytes(), waiting, "moved from meter to meter");
        }
        waiting = pool.bytes();
        assert!(waiting >= 128 << 10, "{waiting}");
    }
    // Where it no longer fits what an invocation may hold, that one has another, or none.
    let little = Budget { memory_bytes: 64 << 10, ..Budget::DEFAULT };
    assert!(event(&engine, &code, Export::Hook, whose, (little, &pool)).await.is_err());
    assert_eq!(pool.bytes(), 0, "it was dropped");
}
