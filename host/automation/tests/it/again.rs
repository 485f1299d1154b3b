//! Runs of which a part is done again, and runs that go on as another: what was under way, was sent or was begun by them is
//! neither lost nor left to itself.

use std::sync::{Arc, Mutex};

use ringfence_automation::workflow::event::Ending;
use ringfence_automation::workflow::journal::ready_prefix;
use ringfence_automation::workflow::limits::HISTORY_BYTES_MAX;
use ringfence_automation::workflow::{Command, Filter, Head, Status};
use ringfence_core::RunId;
use ringfence_core::workflow::{Answer, Ask, StepKind, Stop};
use ringfence_store::{Fault, Faults, Key};
use tokio::sync::Semaphore;

use crate::world::{Code, Host, Steps, World, eventually, stopped};

/// What reached the far end: the step and its key.
type Far = Arc<Mutex<Vec<(String, String)>>>;

fn told(far: &Far) -> Vec<(String, String)> {
    far.lock().unwrap().clone()
}

fn names(far: &Far) -> Vec<String> {
    told(far).into_iter().map(|(name, _)| name).collect()
}

/// Does something to a run, as its owner.
fn command(world: &World, host: &Host, run: &RunId, command: &Command) {
    let by = "acme/ann".parse().unwrap();
    host.block_on(host.workflows.command(&world.acme, run, command, &by)).unwrap();
}

fn from_the_start() -> Command {
    Command::Retry { from: Some("0".parse().unwrap()) }
}

/// Three steps, each of which waits for a place in `gate` after it was told to the far end, and one more wait behind them.
fn three_steps(far: &Far, gate: &Arc<Semaphore>) -> Code {
    let (far, gate) = (Arc::clone(far), Arc::clone(gate));
    Arc::new(move |call| {
        let (far, gate) = (Arc::clone(&far), Arc::clone(&gate));
        Box::pin(async move {
            let steps = Steps(call.history);
            for number in 0..3 {
                let name = format!("step-{number}");
                let done = steps
                    .step(StepKind::Step, &name, async |key, _| {
                        far.lock().unwrap().push((name.clone(), key));
                        gate.acquire().await.unwrap().forget();
                        Ok("1".to_owned())
                    })
                    .await;
                if let Err(stop) = done {
                    return stopped(&stop);
                }
            }
            far.lock().unwrap().push(("end".to_owned(), String::new()));
            gate.acquire().await.unwrap().forget();
            Ok(Ok("3".to_owned()))
        })
    })
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
    let keys: Vec<String> = told(&far).into_iter().map(|(_, key)| key).collect();
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

/// Begins a child and waits for it. A child sleeps until it is cancelled, or first goes on as another that does.
fn parent(goes_on: bool) -> Code {
    Arc::new(move |call| {
        Box::pin(async move {
            let steps = Steps(call.history);
            let child = Ask::Child { workflow: "test".to_owned(), input: "1".to_owned() };
            let asked = match call.input.as_str() {
                "null" => match steps.ask(child).await {
                    Ok(Answer::Name(run)) => steps.ask(Ask::ChildEnd { run }).await.map(drop),
                    Ok(other) => panic!("{other:?}"),
                    Err(stop) => Err(stop),
                },
                "1" if goes_on => steps.ask(Ask::Continue { input: "2".to_owned() }).await.map(drop),
                _ => steps.sleep(1_000_000_000).await,
            };
            match asked {
                Ok(()) => Ok(Ok("1".to_owned())),
                Err(Stop::Cancelled) => Ok(Err("cancelled".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    })
}

/// The one child that sleeps, once there is one.
fn sleeper(world: &World, host: &Host) -> RunId {
    let mut found: Vec<Head> = Vec::new();
    eventually("a child sleeps", || {
        let all = host.block_on(host.workflows.list(&world.acme, &Filter::default(), None, 100)).unwrap().0;
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
                .step(StepKind::Step, "work", async |key, _| {
                    far.lock().unwrap().push(("work".to_owned(), key));
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
