//! Ends: of the host in order and by a kill, of runs that are stuck, and of what is kept of runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ringfence_automation::workflow::event::Ending;
use ringfence_automation::workflow::{Command, Filter, NotRun, Status, WorkflowError};
use ringfence_core::RunId;
use ringfence_core::workflow::{StepKind, Stop};
use tokio::sync::Semaphore;

use crate::world::{Code, DAY_MS, Far, Host, Steps, World, eventually, names, stopped, three_steps, told};

#[test]
fn at_the_end_of_the_host_the_step_in_flight_is_waited_for_and_no_other_begins() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(0)));
    let code = three_steps(&far, &gate);
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    eventually("the first step", || told(&far).len() == 1);
    let draining = host.block_on(async {
        let workflows = host.workflows.clone();
        let draining = tokio::spawn(async move { workflows.drain(Duration::from_secs(20)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!draining.is_finished(), "a step is in flight");
        gate.add_permits(1);
        draining.await
    });
    draining.unwrap();
    let shown = host.block_on(host.workflows.show(&world.acme, &run)).unwrap();
    assert_eq!(shown.history.iter().filter(|entry| entry.event.word() == "step-done").count(), 1);
    assert!(!shown.head.status.is_ended());
    host.kill();
    assert_eq!(told(&far).len(), 1, "no step began after the end was announced");
    gate.add_permits(10);
    let host = Host::start(&world, &code);
    host.until(&world, &run, Status::Completed);
    assert_eq!(names(&far), ["step-0", "step-1", "step-2", "end"], "each once");
}

#[test]
fn a_step_that_outlasts_the_drain_is_left_alone_and_done_again_under_its_key() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(0)));
    let code = three_steps(&far, &gate);
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    eventually("the first step", || told(&far).len() == 1);
    host.block_on(host.workflows.drain(Duration::from_millis(50)));
    host.kill();
    gate.add_permits(10);
    let host = Host::start(&world, &code);
    host.until(&world, &run, Status::Completed);
    let (first, again) = (told(&far)[0].clone(), told(&far)[1].clone());
    assert_eq!((first.0, first.1), (again.0, again.1), "the same step under the same key");
    assert_eq!(names(&far), ["step-0", "step-0", "step-1", "step-2", "end"]);
}

#[test]
fn a_step_that_brings_the_host_down_each_time_fails_after_its_attempts() {
    let (world, far) = (World::new(), Far::default());
    let for_code = Arc::clone(&far);
    let code: Code = Arc::new(move |call| {
        let far = Arc::clone(&for_code);
        Box::pin(async move {
            let done = Steps(call.history)
                .step(StepKind::Step, "bomb", async |key, attempt| {
                    far.lock().unwrap().push(("bomb".to_owned(), key, attempt));
                    std::future::pending().await
                })
                .await;
            match done {
                Ok(outcome) => Ok(outcome),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let mut run = None;
    for kills_count in 1..=4 {
        let host = Host::start(&world, &code);
        run.get_or_insert_with(|| world.begin(&host));
        eventually("the attempt", || told(&far).len() == kills_count);
        host.kill();
    }
    let host = Host::start(&world, &code);
    let head = host.until(&world, &run.unwrap(), Status::Failed);
    let Some(Ending::Failed { message, .. }) = head.ending else { panic!("{head:?}") };
    assert!(message.contains("the host ended during its last attempt"), "{message}");
    // The first cut is what shows that attempts must be counted; from then on they are.
    let attempts: Vec<u32> = told(&far).into_iter().map(|(.., attempt)| attempt).collect();
    assert_eq!(attempts, [1, 1, 2, 3]);
    assert!(told(&far).windows(2).all(|pair| pair[0].1 == pair[1].1), "one key");
}

/// Charges, and then sleeps for a long while; takes the charge back when it is cancelled. Traps while it is broken.
fn shop(is_broken: &Arc<AtomicBool>, refunds: &Arc<AtomicUsize>) -> Code {
    let (is_broken, refunds) = (Arc::clone(is_broken), Arc::clone(refunds));
    Arc::new(move |call| {
        let (is_broken, refunds) = (Arc::clone(&is_broken), Arc::clone(&refunds));
        Box::pin(async move {
            let steps = Steps(call.history);
            if let Err(stop) = steps.step(StepKind::Step, "charge", async |_, _| Ok("1".to_owned())).await {
                return stopped(&stop);
            }
            if is_broken.load(Ordering::Relaxed) {
                return Err(NotRun::Failed { code: "trap".to_owned(), message: "unreachable".to_owned() });
            }
            match steps.sleep(1_000_000_000).await {
                Ok(()) => Ok(Ok("1".to_owned())),
                Err(Stop::Cancelled) => {
                    let refund = steps.step(StepKind::Compensation, "refund", async |_, _| {
                        refunds.fetch_add(1, Ordering::Relaxed);
                        Ok("1".to_owned())
                    });
                    match refund.await {
                        Ok(_) => Ok(Err("cancelled".to_owned())),
                        Err(stop) => stopped(&stop),
                    }
                }
                Err(stop) => stopped(&stop),
            }
        })
    })
}

#[test]
fn a_stuck_run_that_is_cancelled_takes_back_what_it_can_and_ends() {
    let (world, is_broken, refunds) = (World::new(), Arc::new(AtomicBool::new(true)), Arc::default());
    let host = Host::start(&world, &shop(&is_broken, &refunds));
    let by = "acme/ann".parse().unwrap();
    let command =
        |run: &RunId, command: Command| host.block_on(host.workflows.command(&world.acme, run, &command, &by));

    let hopeless = world.begin(&host);
    assert!(host.until(&world, &hopeless, Status::Stuck).stuck.unwrap().contains("trap"));
    command(&hopeless, Command::Pause).unwrap();
    command(&hopeless, Command::Cancel).unwrap();
    let head = host.until(&world, &hopeless, Status::Cancelled);
    let Some(Ending::Cancelled { message }) = head.ending else { panic!("{head:?}") };
    assert!(message.contains("not everything could be taken back: trap"), "{message}");
    assert_eq!(refunds.load(Ordering::Relaxed), 0);

    let mended = world.begin(&host);
    host.until(&world, &mended, Status::Stuck);
    is_broken.store(false, Ordering::Relaxed);
    command(&mended, Command::Cancel).unwrap();
    host.until(&world, &mended, Status::Cancelled);
    assert_eq!(refunds.load(Ordering::Relaxed), 1);

    is_broken.store(true, Ordering::Relaxed);
    let left = world.begin(&host);
    host.until(&world, &left, Status::Stuck);
    let reason = "enough".to_owned();
    assert_eq!(command(&left, Command::Terminate { reason }).unwrap().status, Status::Terminated);
}

#[test]
fn a_run_that_sleeps_for_a_year_is_not_run_meanwhile_whatever_ends_and_goes_on_once_when_it_is_over() {
    let (world, far, calls) = (World::new(), Far::default(), Arc::new(AtomicUsize::new(0)));
    let (told_to, counted) = (Arc::clone(&far), Arc::clone(&calls));
    let code: Code = Arc::new(move |call| {
        let far = Arc::clone(&told_to);
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let steps = Steps(call.history);
            for name in ["charge", "ship"] {
                let done = steps
                    .step(StepKind::Step, name, async |key, attempt| {
                        far.lock().unwrap().push((name.to_owned(), key, attempt));
                        Ok("1".to_owned())
                    })
                    .await;
                if let Err(stop) = done {
                    return stopped(&stop);
                }
                if name == "charge"
                    && let Err(stop) = steps.sleep(365 * DAY_MS.unsigned_abs()).await
                {
                    return stopped(&stop);
                }
            }
            Ok(Ok("1".to_owned()))
        })
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    host.until(&world, &run, Status::Waiting);
    host.kill();
    world.clock.pass(364 * DAY_MS);
    let host = Host::start(&world, &code);
    host.look(&world);
    assert_eq!((calls.load(Ordering::Relaxed), names(&far)), (1, vec!["charge".to_owned()]));
    world.clock.pass(2 * DAY_MS);
    host.workflows.go_on(&world.acme);
    host.until(&world, &run, Status::Completed);
    assert_eq!(names(&far), ["charge", "ship"]);
}

#[test]
fn an_ended_run_is_kept_for_thirty_days_from_its_last_end_and_then_gone() {
    let world = World::new();
    let code: Code = Arc::new(|call| {
        Box::pin(async move {
            match Steps(call.history).step(StepKind::Step, "pick", async |_, _| Ok("1".to_owned())).await {
                Ok(_) => Ok(Err("not this one".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &code);
    let (run, other) = (world.begin(&host), world.begin(&host));
    for run in [&run, &other] {
        host.until(&world, run, Status::Failed);
    }
    let look = || {
        host.workflows.go_on(&world.acme);
        std::thread::sleep(Duration::from_millis(100));
    };
    world.clock.pass(10 * DAY_MS);
    let retry = Command::Retry { from: Some("0".parse().unwrap()) };
    let by = "acme/ann".parse().unwrap();
    host.block_on(host.workflows.command(&world.acme, &run, &retry, &by)).unwrap();
    host.until(&world, &run, Status::Failed);
    world.clock.pass(20 * DAY_MS - 1_000);
    look();
    let kept = |run: &RunId| host.block_on(host.workflows.head(&world.acme, run));
    assert!(kept(&run).is_ok() && kept(&other).is_ok());
    world.clock.pass(2_000);
    host.workflows.go_on(&world.acme);
    eventually("the first is gone", || matches!(kept(&other), Err(WorkflowError::UnknownRun)));
    assert!(kept(&run).is_ok(), "it ended again ten days later");
    world.clock.pass(10 * DAY_MS);
    host.workflows.go_on(&world.acme);
    eventually("the other is gone", || matches!(kept(&run), Err(WorkflowError::UnknownRun)));
    let found = host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 10)).unwrap().heads;
    assert!(found.is_empty(), "{found:?}");
}
