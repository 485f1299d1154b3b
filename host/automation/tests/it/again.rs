//! Runs of which a part is done again, and runs that go on as another: what was under way, was sent or was begun by them is
//! neither lost nor left to itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ringfence_automation::workflow::event::Ending;
use ringfence_automation::workflow::journal::{last_key, ready_prefix};
use ringfence_automation::workflow::limits::HISTORY_BYTES_MAX;
use ringfence_automation::workflow::{Command, Filter, Head, Refusal, Status, WorkflowError};
use ringfence_core::RunId;
use ringfence_core::workflow::{Answer, Ask, StepFailure, StepKind, Stop};
use ringfence_store::{Fault, Faults, Key};
use tokio::sync::Semaphore;

use crate::world::{Code, DAY_MS, Far, Host, Steps, World, eventually, names, parent, stopped, three_steps, told};

/// Does something to a run, as its owner.
fn command(world: &World, host: &Host, run: &RunId, command: &Command) {
    let by = "acme/ann".parse().unwrap();
    host.block_on(host.workflows.command(&world.acme, run, command, &by)).unwrap();
}

fn from_the_start() -> Command {
    Command::Retry { from: Some("0".parse().unwrap()) }
}

#[test]
fn a_run_that_is_rewound_while_its_code_is_in_a_step_is_done_again_from_there() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(1)));
    let host = Host::start(&world, &three_steps(&far, &gate));
    let run = world.begin(&host);
    eventually("the second step", || told(&far).len() == 2);
    command(&world, &host, &run, &from_the_start());
    gate.add_permits(100);
    host.until(&world, &run, Status::Completed);
    assert_eq!(names(&far), ["step-0", "step-1", "step-0", "step-1", "step-2", "end"]);
    let keys: Vec<String> = told(&far).into_iter().map(|(_, key, _)| key).collect();
    assert_ne!(keys[0], keys[2], "it had succeeded, and is another call now");
    assert_eq!(keys[1], keys[3], "nobody knows how it ended, so it is the same call");
    let shown = host.block_on(host.workflows.show(&world.acme, &run)).unwrap();
    let words: Vec<&str> = shown.history.iter().map(|entry| entry.event.word()).collect();
    // The step behind the cut is in no history.
    assert_eq!(words, ["started", "step-done", "rewound", "step-done", "step-done", "step-done", "ended"]);
}

#[test]
fn a_run_that_is_rewound_when_its_code_asks_nothing_more_does_not_end_by_that_code() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(3)));
    let host = Host::start(&world, &three_steps(&far, &gate));
    let run = world.begin(&host);
    eventually("its end", || names(&far).last().is_some_and(|name| name == "end"));
    command(&world, &host, &run, &from_the_start());
    gate.add_permits(100);
    host.until(&world, &run, Status::Completed);
    let once = ["step-0", "step-1", "step-2", "end"];
    assert_eq!(names(&far), [once, once].concat());
}

#[test]
fn a_run_that_is_migrated_while_its_code_is_in_a_step_goes_on_with_the_new_code_after_that_step() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(1)));
    let (steps, versions) = (three_steps(&far, &gate), Arc::new(Mutex::new(Vec::new())));
    let called = Arc::clone(&versions);
    let code: Code = Arc::new(move |call| {
        called.lock().unwrap().push(call.version.to_string());
        steps(call)
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    eventually("the second step", || told(&far).len() == 2);
    command(&world, &host, &run, &Command::Migrate { version: "0.2.0".parse().unwrap() });
    gate.add_permits(100);
    host.until(&world, &run, Status::Completed);
    assert_eq!(*versions.lock().unwrap(), ["0.1.0", "0.2.0"]);
    assert_eq!(names(&far), ["step-0", "step-1", "step-2", "end"], "each once");
    let shown = host.block_on(host.workflows.show(&world.acme, &run)).unwrap();
    let words: Vec<&str> = shown.history.iter().map(|entry| entry.event.word()).collect();
    assert_eq!(words, ["started", "step-done", "migrated", "step-done", "step-done", "ended"]);
}

#[test]
fn a_run_that_failed_while_it_was_paused_goes_on_when_it_is_done_again() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(0)));
    let (told_to, held) = (Arc::clone(&far), Arc::clone(&gate));
    // A step that is held, and fails for good the first time.
    let code: Code = Arc::new(move |call| {
        let (far, gate) = (Arc::clone(&told_to), Arc::clone(&held));
        Box::pin(async move {
            let done = Steps(call.history)
                .step(StepKind::Step, "work", async |key, attempt| {
                    far.lock().unwrap().push(("work".to_owned(), key, attempt));
                    let is_first = told(&far).len() == 1;
                    gate.acquire().await.unwrap().forget();
                    match is_first {
                        true => Err(StepFailure { message: "no line".to_owned(), again: false }),
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
    let run = world.begin(&host);
    eventually("the step", || told(&far).len() == 1);
    command(&world, &host, &run, &Command::Pause);
    gate.add_permits(100);
    host.until(&world, &run, Status::Failed);
    command(&world, &host, &run, &from_the_start());
    host.until(&world, &run, Status::Completed);
    assert_eq!(names(&far), ["work", "work"]);
}

/// The one child that sleeps, once there is one.
fn sleeper(world: &World, host: &Host) -> RunId {
    let mut found: Vec<Head> = Vec::new();
    eventually("a child sleeps", || {
        let all = host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 100)).unwrap().heads;
        found = all.into_iter().filter(|head| head.parent.is_some() && head.status == Status::Waiting).collect();
        found.len() == 1
    });
    found.remove(0).run
}

fn terminate(world: &World, host: &Host, run: &RunId) {
    command(world, host, run, &Command::Terminate { reason: "enough".to_owned() });
}

#[test]
fn children_of_the_part_that_is_done_again_are_cancelled_and_those_before_it_are_not() {
    let world = World::new();
    let host = Host::start(&world, &parent(false));
    let run = world.begin(&host);
    let old = sleeper(&world, &host);
    host.until(&world, &run, Status::Waiting);
    // From where it waits for the child.
    command(&world, &host, &run, &Command::Retry { from: Some("1".parse().unwrap()) });
    let shown = host.block_on(host.workflows.show(&world.acme, &old)).unwrap();
    assert!(shown.state.cancelled_by.is_none(), "{:?}", shown.history);
    // From where it begins it.
    command(&world, &host, &run, &from_the_start());
    host.until(&world, &old, Status::Cancelled);
    let new = sleeper(&world, &host);
    assert_ne!(new, old);
    terminate(&world, &host, &run);
    host.until(&world, &new, Status::Cancelled);
}

#[test]
fn a_child_that_went_on_as_another_is_cancelled_with_its_parent() {
    let world = World::new();
    let host = Host::start(&world, &parent(true));
    let run = world.begin(&host);
    let child = sleeper(&world, &host);
    let begun = host.block_on(host.workflows.show(&world.acme, &run)).unwrap();
    assert!(begun.state.children().all(|first| *first != child), "it is not the one that was begun");
    terminate(&world, &host, &run);
    host.until(&world, &child, Status::Cancelled);
}

#[test]
fn a_child_that_goes_on_as_another_for_longer_than_ended_runs_are_kept_is_cancelled_with_its_parent_all_the_same() {
    let world = World::new();
    let host = Host::start(&world, &parent(true));
    let run = world.begin(&host);
    let child = sleeper(&world, &host);
    host.until(&world, &run, Status::Waiting);
    let begun = host.block_on(host.workflows.show(&world.acme, &run)).unwrap();
    let first = begun.state.children().next().unwrap().clone();
    world.clock.pass(31 * DAY_MS);
    host.look(&world);
    let head = host.block_on(host.workflows.head(&world.acme, &first)).unwrap();
    assert_eq!(head.status, Status::Continued);
    terminate(&world, &host, &run);
    host.until(&world, &child, Status::Cancelled);
}

/// Begins a child, which goes on as another so often, waits for `go` then, and ends; counts how often the parent's code is run.
fn long_chain(often: u32, calls: &Arc<AtomicUsize>) -> Code {
    let calls = Arc::clone(calls);
    Arc::new(move |call| {
        let calls = Arc::clone(&calls);
        Box::pin(async move {
            let steps = Steps(call.history);
            let asked = if call.input == "null" {
                calls.fetch_add(1, Ordering::Relaxed);
                match steps.ask(Ask::Child { workflow: "test".to_owned(), input: often.to_string() }).await {
                    Ok(Answer::Name(run)) => steps.ask(Ask::ChildEnd { run }).await,
                    other => other,
                }
            } else {
                let left: u32 = call.input.parse().unwrap();
                let published = Ask::Publish { name: "left".to_owned(), value: left.to_string() };
                match (steps.ask(published).await, left) {
                    (Ok(_), 0) => steps.ask(Ask::Signal { name: "go".to_owned(), timeout_ms: None }).await,
                    (Ok(_), _) => steps.ask(Ask::Continue { input: (left - 1).to_string() }).await,
                    (stop, _) => stop,
                }
            };
            match asked {
                Ok(Answer::Outcome(outcome)) => Ok(outcome),
                Ok(Answer::Signal(Some(payload))) => Ok(Ok(payload)),
                Ok(other) => panic!("{other:?}"),
                Err(stop) => stopped(&stop),
            }
        })
    })
}

#[test]
fn of_a_long_chain_the_newest_is_found_by_the_first_alone_and_signals_and_questions_to_the_first_reach_it() {
    const OFTEN: u32 = 20;
    let (world, calls) = (World::new(), Arc::new(AtomicUsize::new(0)));
    let host = Host::start(&world, &long_chain(OFTEN, &calls));
    let go = Command::Signal { name: "go".to_owned(), payload: "7".to_owned(), key: Some("once".to_owned()) };
    // The second chain is as one of before the first of them knew the newest.
    for is_old in [false, true] {
        calls.store(0, Ordering::Relaxed);
        let run = world.begin(&host);
        let newest = sleeper(&world, &host);
        let first =
            host.block_on(host.workflows.show(&world.acme, &run)).unwrap().state.children().next().unwrap().clone();
        let last = || world.block_on(world.acme.get_json::<RunId>(&last_key(&first))).unwrap();
        assert_eq!(last(), Some(newest.clone()));
        let all = host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 100)).unwrap().heads;
        let chain: Vec<&Head> = all.iter().filter(|head| head.parent.as_ref() == Some(&run)).collect();
        assert_eq!(chain.len(), 1 + OFTEN as usize);
        world.block_on(async {
            if is_old {
                world.acme.delete(&last_key(&first)).await.unwrap();
                return;
            }
            for head in chain.iter().filter(|head| head.run != first && head.run != newest) {
                world.acme.delete(&Key::new(["run", "head", head.run.as_str()])).await.unwrap();
            }
        });
        let left = host.block_on(host.workflows.published(&world.acme, &first, "left")).unwrap();
        assert_eq!(left.as_deref(), Some("0"));
        command(&world, &host, &first, &go);
        let head = host.until(&world, &run, Status::Completed);
        assert_eq!(head.ending, Some(Ending::Completed { output: "7".to_owned() }));
        assert_eq!(calls.load(Ordering::Relaxed), 2, "once to begin the child, once as it ended");
        let by = "acme/ann".parse().unwrap();
        let again = host.block_on(host.workflows.command(&world.acme, &first, &Command::Cancel, &by));
        assert!(matches!(again, Err(WorkflowError::Refused(Refusal::Ended))), "{again:?}");
        eventually("what the first knew is gone with it", || {
            world.clock.pass(DAY_MS);
            host.look(&world);
            last().is_none() && host.block_on(host.workflows.head(&world.acme, &first)).is_err()
        });
    }
}

#[test]
fn of_a_chain_of_children_those_between_the_first_and_the_newest_are_kept_no_longer_than_other_runs() {
    let (world, calls) = (World::new(), Arc::new(AtomicUsize::new(0)));
    let host = Host::start(&world, &long_chain(5, &calls));
    let run = world.begin(&host);
    let newest = sleeper(&world, &host);
    host.until(&world, &run, Status::Waiting);
    let first = host.block_on(host.workflows.show(&world.acme, &run)).unwrap().state.children().next().unwrap().clone();
    let mut left = vec![run.clone(), first.clone(), newest.clone()];
    left.sort();
    world.clock.pass(31 * DAY_MS);
    eventually("those between are gone", || {
        host.look(&world);
        let all = host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 100)).unwrap().heads;
        let mut found: Vec<RunId> = all.into_iter().map(|head| head.run).collect();
        found.sort();
        found == left
    });
    command(&world, &host, &first, &Command::Signal { name: "go".to_owned(), payload: "7".to_owned(), key: None });
    let head = host.until(&world, &run, Status::Completed);
    assert_eq!(head.ending, Some(Ending::Completed { output: "7".to_owned() }));
    // One of which only the first is left is over.
    world.block_on(world.acme.delete(&Key::new(["run", "head", newest.as_str()]))).unwrap();
    let by = "acme/ann".parse().unwrap();
    let late = host.block_on(host.workflows.command(&world.acme, &first, &Command::Cancel, &by));
    assert!(matches!(late, Err(WorkflowError::Refused(Refusal::Ended))), "{late:?}");
}

#[test]
fn a_child_whose_history_has_no_room_for_a_cancelling_ends_with_its_parent_all_the_same() {
    let world = World::new();
    let host = Host::start(&world, &parent(false));
    let run = world.begin(&host);
    let child = sleeper(&world, &host);
    host.block_on(async {
        let mut head = host.workflows.head(&world.acme, &child).await.unwrap();
        head.events_bytes = HISTORY_BYTES_MAX;
        world.acme.put_json(&Key::new(["run", "head", child.as_str()]), &head).await.unwrap();
    });
    terminate(&world, &host, &run);
    let head = host.until(&world, &child, Status::Terminated);
    let Some(Ending::Terminated { reason, .. }) = &head.ending else { panic!("{head:?}") };
    assert!(reason.contains("no room for a cancelling"), "{reason}");
}

#[test]
fn a_run_whose_child_cannot_be_cancelled_now_does_not_end_before_it_is() {
    let faults = Faults::default();
    let (world, gate) = (World::with_faults(faults.clone()), Arc::new(Semaphore::new(0)));
    let held = Arc::clone(&gate);
    // Begins a child and fails once it is let; the child sleeps until it is cancelled.
    let code: Code = Arc::new(move |call| {
        let gate = Arc::clone(&held);
        Box::pin(async move {
            let steps = Steps(call.history);
            let child = Ask::Child { workflow: "test".to_owned(), input: "1".to_owned() };
            let asked = match call.input.as_str() {
                "null" => steps.ask(child).await.map(drop),
                _ => steps.sleep(1_000_000_000).await,
            };
            match asked {
                Ok(()) => {
                    gate.acquire().await.unwrap().forget();
                    Ok(Err("not this one".to_owned()))
                }
                Err(Stop::Cancelled) => Ok(Err("cancelled".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    // It goes on beside its parent's code, which is held.
    let child = sleeper(&world, &host);
    // What is written next is that the child is to be cancelled.
    faults.plan([Some(Fault::Lost)]);
    gate.add_permits(100);
    eventually("the child is cancelled", || {
        world.clock.pass(1_000);
        host.workflows.go_on(&world.acme);
        host.block_on(host.workflows.head(&world.acme, &child)).unwrap().status == Status::Cancelled
    });
    host.until(&world, &run, Status::Failed);
    assert!(gate.available_permits() <= 98, "its code was run again, as its end was put off");
}

#[test]
fn a_run_that_is_paused_does_not_go_on_as_another_before_it_is_resumed_and_hands_on_what_was_sent_to_it() {
    let (world, far, gate) = (World::new(), Far::default(), Arc::new(Semaphore::new(0)));
    let (told_to, held) = (Arc::clone(&far), Arc::clone(&gate));
    // A step that is held, and then it goes on as another, which waits for a signal.
    let code: Code = Arc::new(move |call| {
        let (far, gate) = (Arc::clone(&told_to), Arc::clone(&held));
        Box::pin(async move {
            let steps = Steps(call.history);
            if call.input == "2" {
                return match steps.ask(Ask::Signal { name: "go".to_owned(), timeout_ms: None }).await {
                    Ok(Answer::Signal(Some(payload))) => Ok(Ok(payload)),
                    Ok(other) => panic!("{other:?}"),
                    Err(stop) => stopped(&stop),
                };
            }
            let done = steps
                .step(StepKind::Step, "work", async |key, attempt| {
                    far.lock().unwrap().push(("work".to_owned(), key, attempt));
                    gate.acquire().await.unwrap().forget();
                    Ok("1".to_owned())
                })
                .await;
            if let Err(stop) = done {
                return stopped(&stop);
            }
            match steps.ask(Ask::Continue { input: "2".to_owned() }).await {
                Ok(other) => panic!("{other:?}"),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    eventually("the step", || told(&far).len() == 1);
    let (name, payload, key) = ("go".to_owned(), "7".to_owned(), Some("once".to_owned()));
    command(&world, &host, &run, &Command::Signal { name, payload, key });
    command(&world, &host, &run, &Command::Pause);
    gate.add_permits(100);
    eventually("it rests", || world.block_on(world.acme.scan(&ready_prefix(), None, 1)).unwrap().records.is_empty());
    let head = host.block_on(host.workflows.head(&world.acme, &run)).unwrap();
    assert_eq!((head.status, &head.ending), (Status::Paused, &None));
    command(&world, &host, &run, &Command::Resume);
    let Some(Ending::Continued { run: next }) = host.until(&world, &run, Status::Continued).ending else {
        panic!("it went on as nothing")
    };
    let head = host.until(&world, &next, Status::Completed);
    assert_eq!(head.ending, Some(Ending::Completed { output: "7".to_owned() }));
    let shown = host.block_on(host.workflows.show(&world.acme, &next)).unwrap();
    let words: Vec<&str> = shown.history.iter().map(|entry| entry.event.word()).collect();
    assert_eq!(words, ["started", "signal-received", "signal-taken", "ended"]);
    assert_eq!(shown.head.events_count, 4);
    assert_eq!(names(&far), ["work"], "once");
}
