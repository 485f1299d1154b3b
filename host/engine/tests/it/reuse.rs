//! Instances that serve more than one invocation: whose, how often, and when not.

use std::sync::Arc;

use http_body_util::BodyExt;
use ringfence_core::Budget;
use ringfence_engine::{Code, CompileLimits, Engine, GuestSetup, InstanceKey, MemoryPool, Meter, Reuse};

use crate::support::{compile, component, engine_of, request, tempdir, tenant};

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
    let slot = engine.scheduler().admit(&reuse.key.tenant, budget).await.unwrap();
    let mut guest = GuestSetup::bare(budget);
    guest.meter = Meter::in_pool(budget, Arc::clone(pool));
    guest.reuse = Some(reuse.clone());
    let reply = engine.run(slot, code, guest, request()).await.ok()?;
    let body = reply.response.into_body().collect().await.unwrap().to_bytes();
    reply.finished.outcome().await.result.unwrap();
    Some(body[0] - b'h')
}

async fn several(engine: &Engine, code: &Code, reuse: &Reuse, count: usize) -> Vec<Option<u8>> {
    let pool = MemoryPool::new(1 << 30);
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
    let pool = MemoryPool::new(1 << 30);
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(1));
    let waiting = pool.bytes();
    assert!(waiting >= 128 << 10, "two pages of 64 KiB, {waiting} are counted");
    assert_eq!(which(&engine, &code, &acme, &pool).await, Some(2));
    assert_eq!(pool.bytes(), waiting, "moved from meter to meter");
    engine.forget_idle(&tenant("acme"));
    assert_eq!(pool.bytes(), 0);
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
