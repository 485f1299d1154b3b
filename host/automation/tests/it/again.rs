//! Runs of which a part is done again, and runs that go on as another: what was under way, was sent or was begun by them is
//! neither lost nor left to itself.

use std::sync::{Arc, Mutex};

use ringfence_automation::workflow::{Command, Status};
use ringfence_core::RunId;
use ringfence_core::workflow::StepKind;
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
