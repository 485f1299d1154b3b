//! Guests that behave and guests that do not, run by the real engine.

use std::time::{Duration, Instant};

use crate::support::{ENGINE, call, code, component, let_in, start};
use http_body_util::BodyExt;
use ringfence_core::{Blame, Budget};
use ringfence_engine::{BodyError, GuestSetup, Outcome, RunError, RunFailure};

const HELLO: &str = "(call $hello (local.get $out))";
const SPIN: &str = "(loop $again (br $again))";

fn error(result: Result<(Result<bytes::Bytes, BodyError>, Outcome), RunFailure>) -> RunError {
    match result {
        Err(failure) => failure.error,
        Ok((_, outcome)) => outcome.result.unwrap_err(),
    }
}

#[tokio::test]
async fn a_guest_answers_and_is_metered() {
    let code = code(HELLO, "").await;
    let (body, outcome) = call("hello", &code, Budget::DEFAULT).await.unwrap();
    assert_eq!(body.unwrap(), "hello from a guest\n");
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.usage.response_bytes, 19);
    assert!(outcome.usage.cpu_us > 0 && outcome.usage.wall_us > 0);
    assert_eq!(outcome.usage.memory_bytes_peak, 131_072 + 8 * support_tables(&outcome));
}

/// Table elements on top of the two pages: the adapter's shim table, whatever its size.
fn support_tables(outcome: &Outcome) -> u64 {
    (outcome.usage.memory_bytes_peak - 131_072) / 8
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_ends_at_its_budget_while_a_neighbour_answers() {
    let (spin, hello) = (code(SPIN, "").await, code(HELLO, "").await);
    let budget = Budget { cpu_us: 300_000, ..Budget::DEFAULT };
    let hogs: Vec<_> = (0..2)
        .map(|_| {
            let spin = spin.clone();
            tokio::spawn(async move { call("hog", &spin, budget).await })
        })
        .collect();
    let mut answered = 0;
    while !hogs.iter().all(tokio::task::JoinHandle::is_finished) {
        let (body, _) = call("victim", &hello, Budget::DEFAULT).await.unwrap();
        assert!(body.is_ok());
        answered += 1;
    }
    assert!(answered > 3, "the neighbour answered {answered} times");
    for hog in hogs {
        let failure = hog.await.unwrap().unwrap_err();
        assert_eq!(failure.error, RunError::CpuBudget);
        assert_eq!(failure.error.blame(), Blame::Plugin);
        assert!(failure.usage.cpu_us >= 300_000, "{}", failure.usage.cpu_us);
        assert!(failure.usage.cpu_us < 600_000, "{}", failure.usage.cpu_us);
    }
}

#[tokio::test]
async fn memory_is_the_sum_of_all_memories() {
    let grow = "
        (if (i32.eq (memory.grow 0 (i32.const 300)) (i32.const -1)) (then unreachable))
        (if (i32.eq (memory.grow $second (i32.const 300)) (i32.const -1)) (then unreachable))
        (call $hello (local.get $out))";
    let code = code(grow, "(memory $second 1)").await;
    let (body, outcome) = call("sum", &code, Budget { memory_bytes: 64 << 20, ..Budget::DEFAULT }).await.unwrap();
    assert!(body.is_ok());
    assert!(outcome.usage.memory_bytes_peak >= 603 << 16);
    // Either memory alone would fit.
    let failure = call("sum", &code, Budget { memory_bytes: 32 << 20, ..Budget::DEFAULT }).await.unwrap_err();
    assert_eq!(failure.error, RunError::MemoryBudget);
    assert!(failure.usage.memory_bytes_peak <= 32 << 20);
}

#[tokio::test]
async fn a_guest_that_starts_with_too_much_memory_reached_its_memory_budget() {
    let code = code(HELLO, "(memory $second 600)").await;
    let result = call("big", &code, Budget { memory_bytes: 16 << 20, ..Budget::DEFAULT }).await;
    assert_eq!(error(result), RunError::MemoryBudget);
}

#[tokio::test]
async fn a_component_larger_than_any_slot_does_not_fit_the_host() {
    let native = crate::support::compile(component(HELLO, "(memory $second 8192)")).await;
    let error = ENGINE.code(&native).err().unwrap();
    assert_eq!(error.blame(), Blame::Plugin);
}

#[tokio::test]
async fn a_growing_table_counts_as_memory() {
    let grow = "
        (loop $again
          (if (i32.eq (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)) (then unreachable))
          (br $again))";
    let code = code(grow, "(table $t 1 funcref)").await;
    let failure = call("table", &code, Budget { memory_bytes: 1 << 20, ..Budget::DEFAULT }).await.unwrap_err();
    assert_eq!(failure.error, RunError::MemoryBudget);
}

/// A growth that no memory can have fails before anybody is asked whether it may be.
#[tokio::test]
async fn a_growth_that_cannot_be_makes_none_that_was_uncounted() {
    let grow = "
        (local $left i32)
        (local.set $left (i32.const 8))
        (loop $again
          (if (i32.eq (memory.grow (i32.const 8)) (i32.const -1)) (then unreachable))
          (drop (memory.grow (i32.const 65535)))
          (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (call $hello (local.get $out))";
    let code = code(grow, "").await;
    let failure = call("uncounted", &code, Budget { memory_bytes: 1 << 20, ..Budget::DEFAULT }).await.unwrap_err();
    assert_eq!(failure.error, RunError::MemoryBudget);
}

#[tokio::test]
async fn endless_recursion_traps() {
    let code = code("(call $down)", "(func $down (call $down))").await;
    let RunError::Trap { message } = error(call("deep", &code, Budget::DEFAULT).await) else { panic!("no trap") };
    assert!(message.contains("call stack exhausted"), "{message}");
}

#[tokio::test]
async fn a_trap_says_what_it_was() {
    let code = code("unreachable", "").await;
    let failure = call("trap", &code, Budget::DEFAULT).await.unwrap_err();
    assert_eq!(failure.error.code(), "trap");
    assert!(failure.to_string().contains("unreachable"), "{failure}");
}

#[tokio::test]
async fn a_guest_without_an_answer_is_told_apart_from_a_trap() {
    let code = code("", "").await;
    assert_eq!(error(call("silent", &code, Budget::DEFAULT).await), RunError::NoResponse);
}

#[tokio::test]
async fn the_head_comes_before_the_work_is_done() {
    let late = "(local $to i32) (local.set $to (call $head (local.get $out))) (call $sleep (i64.const 300000000))
        (call $finish (local.get $to) (i32.const 0) (i32.const 0) (i32.const 1024))";
    let code = code(late, "").await;
    let began = Instant::now();
    let reply = start("early", &code, Budget::DEFAULT).await.unwrap();
    let head = began.elapsed();
    assert!(reply.response.into_body().collect().await.is_ok());
    let outcome = reply.finished.outcome().await;
    assert!(head < Duration::from_millis(300), "{head:?}");
    assert_eq!(outcome.result, Ok(()));
    assert!(outcome.usage.wall_us >= 300_000);
    assert!(outcome.usage.cpu_us < 100_000, "waiting is not computing: {}", outcome.usage.cpu_us);
}

#[tokio::test]
async fn an_answer_cut_by_a_trap_never_looks_complete() {
    let half = "(local $to i32) (local $s i32) (local.set $to (call $head (local.get $out)))
        (local.set $s (call $open (local.get $to)))
        (call $print (local.get $s) (i32.const 4096) (i32.const 19) (i32.const 1024))
        unreachable";
    let code = code(half, "").await;
    let (body, outcome) = call("half", &code, Budget::DEFAULT).await.unwrap();
    assert!(matches!(body, Err(BodyError::Run(RunError::Trap { .. }))), "{body:?}");
    assert!(matches!(outcome.result, Err(RunError::Trap { .. })));
}

#[tokio::test]
async fn a_drip_is_cut_by_the_wall_clock() {
    let drip = "(local $to i32) (local $s i32) (local.set $to (call $head (local.get $out)))
        (local.set $s (call $open (local.get $to)))
        (loop $again
          (call $print (local.get $s) (i32.const 4096) (i32.const 1) (i32.const 1024))
          (call $sleep (i64.const 20000000))
          (br $again))";
    let code = code(drip, "").await;
    let began = Instant::now();
    let (body, outcome) = call("drip", &code, Budget { time_ms: 400, ..Budget::DEFAULT }).await.unwrap();
    assert_eq!(body.unwrap_err(), BodyError::Run(RunError::TimeBudget));
    assert_eq!(outcome.result, Err(RunError::TimeBudget));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_guest_that_only_sleeps_is_cut_by_the_wall_clock() {
    let code = code("(call $sleep (i64.const 60000000000))", "").await;
    let began = Instant::now();
    let failure = call("sleep", &code, Budget { time_ms: 300, ..Budget::DEFAULT }).await.unwrap_err();
    assert_eq!(failure.error, RunError::TimeBudget);
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_answer_over_its_budget_breaks_off() {
    let flood = "(local $to i32) (local $s i32) (local.set $to (call $head (local.get $out)))
        (local.set $s (call $open (local.get $to)))
        (loop $again (call $print (local.get $s) (i32.const 0) (i32.const 4096) (i32.const 1024)) (br $again))";
    let code = code(flood, "").await;
    let budget = Budget { response_bytes: 1 << 20, cpu_us: 5_000_000, ..Budget::DEFAULT };
    let (body, outcome) = call("flood", &code, budget).await.unwrap();
    assert_eq!(body.unwrap_err(), BodyError::Run(RunError::ResponseTooLarge));
    assert_eq!(outcome.result, Err(RunError::ResponseTooLarge));
}

#[tokio::test]
async fn a_caller_who_goes_away_stops_the_guest() {
    let work = "(drop (call $head (local.get $out))) (loop $again (br $again))";
    let code = code(work, "").await;
    let budget = Budget { cpu_us: 5_000_000, time_ms: 20_000, ..Budget::DEFAULT };
    let began = Instant::now();
    let reply = start("gone", &code, budget).await.unwrap();
    drop(reply.response);
    let outcome = reply.finished.outcome().await;
    assert_eq!(outcome.result, Err(RunError::Killed));
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_caller_who_goes_away_before_the_head_stops_the_guest() {
    let code = code(SPIN, "").await;
    let budget = Budget { cpu_us: 5_000_000, time_ms: 20_000, ..Budget::DEFAULT };
    let setup = GuestSetup::bare(budget);
    let meter = std::sync::Arc::clone(&setup.meter);
    let slot = ENGINE.scheduler().admit(&let_in(&ENGINE, "left"), budget).await.unwrap();
    let run = ENGINE.run(slot, &code, setup, crate::support::request());
    assert!(tokio::time::timeout(Duration::from_millis(50), run).await.is_err());
    let began = Instant::now();
    while meter.usage().cpu_us == 0 && began.elapsed() < Duration::from_secs(3) {
        tokio::task::yield_now().await;
    }
    assert!(meter.alive().is_err());
}

#[tokio::test]
async fn a_start_function_that_never_ends_fails_the_rehearsal() {
    let code = code(HELLO, "(func $boot (loop $again (br $again))) (start $boot)").await;
    let budget = Budget { time_ms: 1_000, ..Budget::REHEARSAL };
    let failed = ENGINE.rehearse(&code, GuestSetup::bare(budget)).await.unwrap_err();
    assert!(matches!(failed, RunError::TimeBudget | RunError::CpuBudget), "{failed}");
}

#[tokio::test]
async fn a_sound_component_passes_the_rehearsal() {
    let code = code(HELLO, "").await;
    assert_eq!(ENGINE.rehearse(&code, GuestSetup::bare(Budget::REHEARSAL)).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_slots_all_get_their_answer() {
    let code = code(HELLO, "").await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let code = code.clone();
            tokio::spawn(async move { call(&format!("crowd{}", number % 7), &code, Budget::DEFAULT).await })
        })
        .collect();
    for one in calls {
        let (body, outcome) = one.await.unwrap().unwrap();
        assert_eq!(body.unwrap().len(), 19);
        // There are fewer slots than calls, so each slot was given back many times.
        assert_eq!(outcome.result, Ok(()));
    }
    // The engine is shared with other tests, so only this crowd's slots are counted. A guest's store is dropped after its
    // outcome was told.
    let held = || {
        let loads = ENGINE.scheduler().loads();
        let crowd = loads.iter().filter(|load| load.tenant.as_str().starts_with("crowd"));
        crowd.map(|load| load.running_count + load.waiting_count).sum::<u32>()
    };
    let began = Instant::now();
    while held() > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "{} slots were not given back", held());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
