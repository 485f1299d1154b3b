//! Hostile neighbours, kill switches and churn on engines of their own: who goes on, and that nothing is left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{compile, component, engine_of, engine_with, let_in, request, tempdir, tenant};
use http_body_util::BodyExt;
use ringfence_core::{Blame, Budget, TenantId};
use ringfence_engine::{
    AdmitError, Code, CompileLimits, Engine, GuestSetup, MemoryPool, Meter, RunError, Slot, TenantShare,
};
use tokio::task::JoinHandle;

const HELLO: &str = "(call $hello (local.get $out))";
const SPIN: &str = "(loop $again (br $again))";
/// One instruction over 60 MiB, again and again: nothing can interrupt it.
const FILL: &str = "
    (if (i32.eq (memory.grow (i32.const 960)) (i32.const -1)) (then unreachable))
    (loop $again (memory.fill (i32.const 0) (i32.const 7) (i32.const 62914560)) (br $again))";
/// Longest wait for something that should happen at once, on a machine that may be busy.
const SOON: Duration = Duration::from_secs(20);

/// Longest time in which what was suspended ends, on such a machine.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

fn engine(worker_threads: usize, slots: u32) -> Engine {
    engine_of(&tempdir(), CompileLimits::HOST, worker_threads, slots)
}

async fn code(engine: &Engine, handler: &str) -> Code {
    engine.code(&compile(component(handler, "")).await).unwrap()
}

/// As much as any plugin can have.
fn large() -> Budget {
    Budget::CEILING
}

fn start(engine: &Engine, name: &str, code: &Code, budget: Budget) -> JoinHandle<Result<usize, RunError>> {
    start_with(engine, name, code, GuestSetup::bare(budget))
}

/// The same as large as any plugin can be, with the memory of its tenant.
fn start_in(engine: &Engine, name: &str, code: &Code, pool: &Arc<MemoryPool>) -> JoinHandle<Result<usize, RunError>> {
    let meter = Meter::in_pool(large(), Arc::clone(pool));
    start_with(engine, name, code, GuestSetup { meter, ..GuestSetup::bare(large()) })
}

fn start_with(engine: &Engine, name: &str, code: &Code, guest: GuestSetup) -> JoinHandle<Result<usize, RunError>> {
    let (engine, name, code, budget) = (engine.clone(), let_in(engine, name), code.clone(), *guest.meter.budget());
    tokio::spawn(async move {
        let slot = engine.scheduler().admit(&name, budget).await.map_err(|error| RunError::Host(error.to_string()))?;
        let reply = engine.run(slot, &code, guest, request()).await.map_err(|failed| failed.error)?;
        let bytes = reply.response.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
        reply.finished.outcome().await.result.map(|()| bytes)
    })
}

/// Nothing lives, runs or waits.
fn is_empty(engine: &Engine) -> bool {
    let scheduler = engine.scheduler();
    (scheduler.live(), scheduler.running(), scheduler.waiting()) == (0, 0, 0)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "{what} did not come to be");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspending_a_tenant_ends_a_hundred_running_guests_and_lets_none_in() {
    let engine = engine(2, 400);
    let (spin, hello) = (code(&engine, SPIN).await, code(&engine, HELLO).await);
    let running: Vec<_> = (0..100).map(|_| start(&engine, "gone", &spin, large())).collect();
    until("a hundred running guests", || engine.scheduler().live() == 100).await;
    let waiting = start(&engine, "gone", &spin, large());
    until("one that waits", || engine.scheduler().waiting() == 1).await;
    assert_eq!(engine.scheduler().suspend(&tenant("gone")), 100);
    // Some ticks of a millisecond, however busy the machine is; their own budgets would last far longer.
    let began = Instant::now();
    for one in running {
        assert_eq!(one.await.unwrap(), Err(RunError::Killed));
    }
    assert!(began.elapsed() < ENDED_WITHIN, "a hundred ended after {:?}", began.elapsed());
    assert_eq!(waiting.await.unwrap(), Err(RunError::Host(AdmitError::Suspended.to_string())));
    let refused = engine.scheduler().admit(&tenant("gone"), large()).await.err();
    assert_eq!(refused, Some(AdmitError::Suspended));
    assert_eq!(start(&engine, "other", &hello, Budget::DEFAULT).await.unwrap(), Ok(19));
    engine.scheduler().resume(&tenant("gone"));
    assert_eq!(start(&engine, "gone", &hello, Budget::DEFAULT).await.unwrap(), Ok(19));
    until("an empty scheduler", || is_empty(&engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_suspended_and_locked_runs_when_it_is_neither() {
    let engine = engine(2, 44);
    let (spin, hello) = (code(&engine, SPIN).await, code(&engine, HELLO).await);
    let both = let_in(&engine, "both");
    let scheduler = engine.scheduler();
    let is_shut = async || scheduler.admit(&both, large()).await.err() == Some(AdmitError::Suspended);
    let running = start(&engine, "both", &spin, large());
    until("a running guest", || scheduler.live() == 1).await;
    scheduler.lock(&both);
    assert_eq!(running.await.unwrap(), Err(RunError::Killed));
    assert_eq!(scheduler.suspend(&both), 0, "nothing is left to end");
    assert!(is_shut().await && scheduler.loads().is_empty(), "to be suspended gives it no lane");
    scheduler.resume(&both);
    assert!(is_shut().await, "it is locked still");
    scheduler.suspend(&both);
    // Somebody read it.
    let_in(&engine, "both");
    assert!(is_shut().await, "it is suspended still");
    scheduler.lock(&both);
    let_in(&engine, "both");
    assert!(is_shut().await, "and was so while it was locked");
    scheduler.resume(&both);
    assert_eq!(start(&engine, "both", &hello, Budget::DEFAULT).await.unwrap(), Ok(19));
    until("an empty scheduler", || is_empty(&engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_forgotten_tenant_goes_on_whether_it_ran_or_waited_or_was_about_to_begin() {
    let engine = engine(2, 44);
    let (spin, hello) = (code(&engine, SPIN).await, code(&engine, HELLO).await);
    let gone = let_in(&engine, "gone");
    let (held, later) = (admitted(&engine, &gone).await, admitted(&engine, &gone).await);
    let running: Vec<_> = (0..9).map(|_| start(&engine, "gone", &spin, large())).collect();
    until("nine running guests", || engine.scheduler().live() == 9).await;
    let waiting: Vec<_> = (0..10).map(|_| start(&engine, "gone", &spin, large())).collect();
    until("ten that wait", || engine.scheduler().waiting() == 10).await;
    engine.scheduler().forget(&gone);
    for one in running {
        assert_eq!(one.await.unwrap(), Err(RunError::Killed));
    }
    for one in waiting {
        assert_eq!(one.await.unwrap(), Err(RunError::Host(AdmitError::Suspended.to_string())));
    }
    let begun = engine.run(held, &spin, GuestSetup::bare(large()), request()).await;
    assert_eq!(begun.err().map(|failure| failure.error), Some(RunError::Killed), "it had its slot before");
    assert_eq!(engine.scheduler().admit(&gone, large()).await.err(), Some(AdmitError::Suspended));
    until("only the last slot", || (engine.scheduler().live(), engine.scheduler().running()) == (0, 1)).await;
    assert!(engine.scheduler().loads().is_empty(), "no lane is left behind");
    // A namesake starts anew, and is not who runs what was the other's.
    let_in(&engine, "gone");
    let begun = engine.run(later, &spin, GuestSetup::bare(large()), request()).await;
    assert_eq!(begun.err().map(|failure| failure.error), Some(RunError::Killed), "it had its slot before");
    let loads = engine.scheduler().loads();
    assert_eq!(loads.iter().map(|load| (load.tenant.as_str(), load.cpu_us)).collect::<Vec<_>>(), [("gone", 0)]);
    assert_eq!(start(&engine, "gone", &hello, Budget::DEFAULT).await.unwrap(), Ok(19));
    until("an empty scheduler", || is_empty(&engine)).await;
}

/// Calls that cannot be interrupted leave a debt that takes a cap of a thousandth tens of seconds to earn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_to_end_ends_soon_also_where_the_cap_of_its_tenant_is_in_debt() {
    let engine = engine(2, 64);
    let fill = code(&engine, FILL).await;
    let capped = TenantShare { cpu_permille: Some(1), cpu_burst_us: 5_000, ..TenantShare::USUAL };
    // CPU time, and time that it was kept from running.
    let had_us = |name: &str| {
        let loads = engine.scheduler().loads();
        loads.iter().find(|load| load.tenant == tenant(name)).map_or((0, 0), |load| (load.cpu_us, load.throttled_us))
    };
    for name in ["suspended", "forgotten", "late"] {
        let budget = Budget { time_ms: if name == "late" { 6_000 } else { large().time_ms }, ..large() };
        let began = Instant::now();
        let running: Vec<_> = (0..4).map(|_| start(&engine, name, &fill, budget)).collect();
        until("calls that cannot be interrupted", || had_us(name).0 > 200_000).await;
        engine.scheduler().set_share(&tenant(name), capped);
        until("a debt", || had_us(name).1 > 200_000).await;
        let (since, expected) = match name {
            "suspended" => {
                engine.scheduler().suspend(&tenant(name));
                (Instant::now(), RunError::Killed)
            }
            "forgotten" => {
                engine.scheduler().forget(&tenant(name));
                (Instant::now(), RunError::Killed)
            }
            _ => {
                // One that was never polled has its deadline too.
                let slot = admitted(&engine, &tenant(name)).await;
                let short = GuestSetup::bare(Budget { time_ms: 100, ..large() });
                let (asked, run) = (Instant::now(), engine.run(slot, &fill, short, request()).await);
                assert_eq!(run.err().map(|failure| failure.error), Some(RunError::TimeBudget));
                assert!(asked.elapsed() < ENDED_WITHIN, "it ended after {:?}", asked.elapsed());
                (began + Duration::from_secs(6), RunError::TimeBudget)
            }
        };
        for one in running {
            assert_eq!(one.await.unwrap(), Err(expected.clone()), "{name}");
        }
        assert!(since.elapsed() < ENDED_WITHIN, "{name}: ended after {:?}", since.elapsed());
        until("an empty scheduler", || is_empty(&engine)).await;
    }
}

async fn admitted(engine: &Engine, tenant: &TenantId) -> Slot {
    engine.scheduler().admit(tenant, large()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_cannot_be_interrupted_do_not_keep_a_neighbour_from_answering() {
    let engine = engine(2, 40);
    let (fill, hello) = (code(&engine, FILL).await, code(&engine, HELLO).await);
    let hogs: Vec<_> = (0..4).map(|number| start(&engine, &format!("hog{number}"), &fill, large())).collect();
    until("four hogs", || engine.scheduler().live() == 4).await;
    for _ in 0..100 {
        assert_eq!(start(&engine, "victim", &hello, Budget::DEFAULT).await.unwrap(), Ok(19));
    }
    let hogs_left = hogs.iter().filter(|hog| !hog.is_finished()).count();
    assert!(hogs_left > 0, "the neighbours were done before the victim was");
    for number in 0..4 {
        engine.scheduler().suspend(&tenant(&format!("hog{number}")));
    }
    for hog in hogs {
        assert!(matches!(hog.await.unwrap(), Err(RunError::Killed | RunError::CpuBudget)));
    }
    until("an empty scheduler", || is_empty(&engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_core_and_more_workers_than_cores_both_serve_everyone_beside_endless_loops() {
    for workers in [1, 16] {
        let engine = engine(workers, 200);
        let (spin, hello) = (code(&engine, SPIN).await, code(&engine, HELLO).await);
        let hogs: Vec<_> = (0..32).map(|number| start(&engine, &format!("h{}", number % 8), &spin, large())).collect();
        until("the hogs", || engine.scheduler().live() == 32).await;
        for number in 0..50 {
            assert_eq!(start(&engine, &format!("v{}", number % 3), &hello, Budget::DEFAULT).await.unwrap(), Ok(19));
        }
        for number in 0..8 {
            engine.scheduler().suspend(&tenant(&format!("h{number}")));
        }
        for hog in hogs {
            assert!(hog.await.unwrap().is_err());
        }
        until("an empty scheduler", || is_empty(&engine)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn churn_of_every_kind_of_end_leaves_nothing_behind() {
    let engine = engine(2, 16);
    let codes = [
        code(&engine, HELLO).await,
        code(&engine, "unreachable").await,
        code(&engine, SPIN).await,
        code(&engine, "(drop (call $head (local.get $out))) (loop $again (br $again))").await,
        code(&engine, "(drop (memory.grow (i32.const 200)))").await,
    ];
    let small = Budget { cpu_us: 3_000, time_ms: 2_000, ..Budget::DEFAULT };
    for round in 0..40 {
        let calls: Vec<_> = (0..20)
            .map(|number| start(&engine, &format!("t{}", number % 6), &codes[(round + number) % codes.len()], small))
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            if number % 4 == 0 {
                // A caller who goes away, wherever the call is.
                call.abort();
            }
            let _ = call.await;
        }
    }
    until("an empty scheduler", || is_empty(&engine)).await;
    // The pool has every instance back: as many guests at once as there are slots for a tenant.
    let loads = engine.scheduler().loads();
    assert_eq!(loads.iter().map(|load| load.running_count + load.waiting_count).sum::<u32>(), 0);
    let hello = codes[0].clone();
    let again: Vec<_> = (0..64).map(|number| start(&engine, &format!("t{}", number % 6), &hello, small)).collect();
    for call in again {
        assert_eq!(call.await.unwrap(), Ok(19));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_of_one_tenant_are_served_or_turned_away_and_a_neighbour_is_served() {
    let engine = engine(2, 32);
    let hello = code(&engine, HELLO).await;
    let flood: Vec<_> = (0..10_000).map(|_| start(&engine, "flood", &hello, Budget::DEFAULT)).collect();
    let (mut neighbour, mut served, mut turned_away) = (0, 0, 0);
    for one in flood {
        match one.await.unwrap() {
            Ok(_) => served += 1,
            Err(RunError::Host(_)) => turned_away += 1,
            Err(other) => panic!("{other}"),
        }
        if (served + turned_away) % 500 == 0 {
            start(&engine, "calm", &hello, Budget::DEFAULT).await.unwrap().unwrap();
            neighbour += 1;
        }
    }
    assert_eq!((neighbour, served + turned_away), (20, 10_000));
    assert!(served > 0 && turned_away > 0, "{served} served, {turned_away} turned away");
    until("an empty host", || is_empty(&engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_block_in_every_host_call_hold_no_worker_and_end_by_the_wall_clock() {
    let engine = engine(1, 64);
    let blocking = code(&engine, "(loop $again (call $sleep (i64.const 1000000)) (br $again))").await;
    let parked = code(&engine, "(call $sleep (i64.const 3600000000000))").await;
    let hello = code(&engine, HELLO).await;
    let budget = Budget { time_ms: 1_500, ..large() };
    let blocked: Vec<_> = [&blocking, &parked]
        .into_iter()
        .flat_map(|code| (0..6).map(|_| start(&engine, "blocks", code, budget)).collect::<Vec<_>>())
        .collect();
    until("all of them live", || engine.scheduler().live() >= 12).await;
    for _ in 0..20 {
        start(&engine, "calm", &hello, Budget::DEFAULT).await.unwrap().unwrap();
    }
    for one in blocked {
        // No epoch reaches a guest that is parked in a host call: its deadline does.
        assert_eq!(one.await.unwrap().unwrap_err(), RunError::TimeBudget);
    }
    until("an empty host", || is_empty(&engine)).await;
}

/// A real guest that gives its worker back again and again, and comes back with the credit of one that rested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_yields_all_the_time_gets_no_more_than_one_that_never_does() {
    let engine = engine(1, 40);
    // Some milliseconds of work, and the shortest rest there is.
    let farm = "
        (local $left i32)
        (loop $again
          (local.set $left (i32.const 3000000))
          (loop $spin (br_if $spin (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
          (call $sleep (i64.const 1))
          (br $again))";
    let (farm, spin) = (code(&engine, farm).await, code(&engine, SPIN).await);
    let both = [start(&engine, "farmer", &farm, large()), start(&engine, "steady", &spin, large())];
    let used_us = |name: &str| {
        let loads = engine.scheduler().loads();
        loads.iter().find(|load| load.tenant == tenant(name)).map_or(0, |load| load.cpu_us)
    };
    until("a second and a half of both", || used_us("farmer") + used_us("steady") >= 1_500_000).await;
    let (farmer, steady) = (used_us("farmer"), used_us("steady"));
    for name in ["farmer", "steady"] {
        engine.scheduler().suspend(&tenant(name));
    }
    for one in both {
        assert_eq!(one.await.unwrap(), Err(RunError::Killed));
    }
    assert!(farmer >= 50_000, "it had {farmer} us, and farmed nothing");
    assert!(steady * 10 >= farmer * 9, "{farmer} us for the one that yields, {steady} us for the one that does not");
    until("an empty scheduler", || is_empty(&engine)).await;
}

/// Two tenants and memory for one: nobody's quota is in the way, and what the kernel would end is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_of_all_tenants_together_hold_no_more_than_the_host_has_and_a_tenant_that_holds_nothing_starts() {
    // 8 of 64 MiB are kept, for tenants that then hold 2 at most.
    let engine = engine_with(&tempdir(), CompileLimits::HOST, 2, 40, 64 << 20);
    // With the two pages it has, one page below 56 MiB; and then it sleeps.
    let hold = "
        (if (i32.eq (memory.grow (i32.const 893)) (i32.const -1)) (then unreachable))
        (call $sleep (i64.const 3600000000000))";
    let grow = "
        (if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))
        (call $hello (local.get $out))";
    let (hold, grow, hello) = (code(&engine, hold).await, code(&engine, grow).await, code(&engine, HELLO).await);
    let (greedy, calm) = (engine.memory().pool(256 << 20), engine.memory().pool(256 << 20));
    let holds = start_in(&engine, "greedy", &hold, &greedy);
    until("all but a page is held", || engine.memory().bytes() >= 895 << 16).await;
    for code in [&hello, &grow] {
        let refused = start_in(&engine, "greedy", code, &greedy).await.unwrap().unwrap_err();
        assert_eq!((refused.code(), refused.blame()), ("overloaded", Blame::Host));
    }
    for _ in 0..10 {
        assert_eq!(start_in(&engine, "calm", &hello, &calm).await.unwrap(), Ok(19), "a first one has room");
    }
    assert_eq!((greedy.refused_count(), calm.refused_count()), (0, 0), "no quota was in the way");
    assert!(!holds.is_finished(), "who holds it goes on");
    engine.scheduler().suspend(&tenant("greedy"));
    assert_eq!(holds.await.unwrap(), Err(RunError::Killed));
    until("the memory is back", || engine.memory().bytes() == 0).await;
    assert_eq!(start_in(&engine, "calm", &grow, &calm).await.unwrap(), Ok(19));
}

/// Two thirds of what tenants share is one's that sleeps, in two guests, and nearly all the rest is its too; another wants some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_within_its_share_gets_memory_from_one_that_holds_nearly_all_and_answers() {
    // 56 of 64 MiB are shared: 28 each while both want more than that.
    let engine = engine_with(&tempdir(), CompileLimits::HOST, 2, 40, 64 << 20);
    let hold = |pages: u32| {
        format!(
            "(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))
            (call $sleep (i64.const 3600000000000))"
        )
    };
    let grow = |pages: u32| {
        format!(
            "(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))
            (call $hello (local.get $out))"
        )
    };
    // With the two pages that each has: 600, 280 and 10 of the 896 that are shared.
    let (large, middle, small) =
        (code(&engine, &hold(598)).await, code(&engine, &hold(278)).await, code(&engine, &hold(8)).await);
    let (some, much) = (code(&engine, &grow(200)).await, code(&engine, &grow(500)).await);
    let (greedy, calm) = (engine.memory().pool(256 << 20), engine.memory().pool(256 << 20));
    let holds = [&large, &middle, &small].map(|code| start_in(&engine, "greedy", code, &greedy));
    until("nearly all is held", || engine.memory().bytes() >= 890 << 16).await;
    // More than its share is not worth anybody's end.
    let refused = start_in(&engine, "calm", &much, &calm).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), "overloaded");
    assert_eq!((engine.memory().ended_count(), holds.iter().filter(|one| one.is_finished()).count()), (0, 0));
    // Within it: the smallest that is enough ends, and is told why.
    let answered = tokio::time::timeout(SOON, start_in(&engine, "calm", &some, &calm)).await;
    assert_eq!(answered.expect("in bounded time").unwrap(), Ok(19));
    let [large, middle, small] = holds;
    let ended = middle.await.unwrap().unwrap_err();
    assert_eq!((ended.code(), ended.blame(), &ended), ("memory-share", Blame::Caller, &RunError::MemoryShare));
    assert_eq!(engine.memory().ended_count(), 1);
    assert!(!large.is_finished() && !small.is_finished(), "one was enough");
    assert_eq!((greedy.refused_count(), calm.refused_count()), (0, 0), "no quota was in the way");
    engine.scheduler().suspend(&tenant("greedy"));
    for one in [large, small] {
        assert_eq!(one.await.unwrap(), Err(RunError::Killed));
    }
    until("the memory is back", || engine.memory().bytes() == 0).await;
}
