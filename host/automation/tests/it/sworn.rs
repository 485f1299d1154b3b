//! Every transition of a run is on its tenant's audit log: of long sessions, over kills, and of children that are cancelled
//! with their parent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringfence_audit::Log;
use ringfence_automation::workflow::event::{Ending, Event};
use ringfence_automation::workflow::journal::{Loaded, Mark, begin_ops, ready_key, unsworn_prefix};
use ringfence_automation::workflow::limits::TRANSITIONS_COUNT_MAX;
use ringfence_automation::workflow::{Command, Status};
use ringfence_core::workflow::{Place, StepKind};
use ringfence_core::{Clock as _, RunId};
use ringfence_store::Op;

use crate::faults::started;
use crate::world::{Code, Host, Steps, World, eventually, parent, stopped};

/// What the tenant's log says of a run, by the numbers of its events, and how many transitions that are.
fn sworn(world: &World, host: &Host, run: &RunId) -> (BTreeMap<u64, String>, usize) {
    let log = Log::Tenant(world.acme.clone());
    let entries = host.block_on(host.audit.list(&log, 0, 1_000)).unwrap();
    let (mut words, mut count) = (BTreeMap::new(), 0);
    for body in entries.iter().filter_map(|entry| entry.body.as_ref()) {
        let details = &body["unmapped"]["details"];
        if body["metadata"]["event_code"] != "RUN-002" || details["run"] != run.as_str() {
            continue;
        }
        let transitions = details["transitions"].as_array().unwrap();
        assert!(transitions.len() <= TRANSITIONS_COUNT_MAX, "{body}");
        count += transitions.len();
        words.extend(
            (details["first"].as_u64().unwrap()..)
                .zip(transitions.iter().map(|word| word.as_str().unwrap().to_owned())),
        );
    }
    (words, count)
}

/// What it should say: the whole history.
fn whole(world: &World, host: &Host, run: &RunId) -> BTreeMap<u64, String> {
    let shown = host.block_on(host.workflows.show(&world.acme, run)).unwrap();
    (0..).zip(shown.history.iter().map(|entry| entry.event.in_words())).collect()
}

/// Waits until all of it is there, and nothing is owed any more; how many transitions the log names.
fn until_sworn(world: &World, host: &Host, run: &RunId) -> usize {
    let mut last = (BTreeMap::new(), 0);
    eventually("all of it is on the log", || {
        last = sworn(world, host, run);
        last.0 == whole(world, host, run)
    });
    eventually("no mark is left", || {
        world.block_on(world.acme.scan(&unsworn_prefix(), None, 1)).unwrap().records.is_empty()
    });
    last.1
}

#[test]
fn two_hundred_steps_of_one_session_are_on_the_log_each_once_and_in_order() {
    let world = World::new();
    let code: Code = Arc::new(|call| {
        Box::pin(async move {
            let steps = Steps(call.history);
            for number in 0..200 {
                // A name that grows sixfold as JSON: an entry must have room for it.
                let name = format!("step-{number}{}", "\u{1}".repeat(100));
                if let Err(stop) = steps.step(StepKind::Step, &name, async |_, _| Ok("1".to_owned())).await {
                    return stopped(&stop);
                }
            }
            Ok(Ok("1".to_owned()))
        })
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    let head = host.until(&world, &run, Status::Completed);
    assert_eq!(head.events_count, 202, "started, the steps, ended");
    assert_eq!(until_sworn(&world, &host, &run), 202, "each once");
    let (words, _) = sworn(&world, &host, &run);
    assert!(words[&200].starts_with("step-done 199 step-199") && words[&201] == "ended", "{words:?}");
}

#[test]
fn what_a_kill_cut_off_before_it_was_sworn_to_is_on_the_log_after_the_next_start() {
    let (world, calls) = (World::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    // Its first run does a step and is killed in its second; those after it end.
    let code: Code = Arc::new(move |call| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let steps = Steps(call.history);
            if let Err(stop) = steps.step(StepKind::Step, "charge", async |_, _| Ok("1".to_owned())).await {
                return stopped(&stop);
            }
            if number == 0 {
                std::future::pending::<()>().await;
            }
            Ok(Ok("1".to_owned()))
        })
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    eventually("the step", || whole(&world, &host, &run).len() == 2);
    assert_eq!(sworn(&world, &host, &run).1, 0, "nothing is sworn to yet");
    host.kill();
    // This one ended, and nothing will drive it: the kill came between its end and the entry.
    let ended = RunId::random(&*world.entropy);
    world.block_on(async {
        // Not so long ago that a start would take it away.
        let now_ms = u64::try_from(world.clock.now().as_millisecond()).unwrap();
        let (ops, absent) = begin_ops(&ended, started(), now_ms).unwrap();
        world.acme.batch(ops, vec![absent]).await.unwrap();
        let mut loaded = Loaded::read(&world.acme, &ended).await.unwrap();
        let end = Event::Ended(Ending::Completed { output: "1".to_owned() });
        loaded.append(vec![end], now_ms, Mark::Keep, Vec::new()).await.unwrap();
        // And this one is not kept any more, but its mark is.
        let gone = RunId::random(&*world.entropy);
        let mark = unsworn_prefix().push(gone.as_str());
        world.acme.batch(vec![Op::put(mark, b"0".to_vec())], Vec::new()).await.unwrap();
        assert!(world.acme.get(&ready_key(&ended)).await.unwrap().is_none());
    });
    let host = Host::start(&world, &code);
    host.until(&world, &run, Status::Completed);
    assert_eq!(until_sworn(&world, &host, &run), 3);
    assert_eq!(until_sworn(&world, &host, &ended), 2);
}

#[test]
fn a_child_that_is_cancelled_with_its_parent_says_so_on_the_log_and_a_stopped_parent_too() {
    let world = World::new();
    let host = Host::start(&world, &parent(false));
    let run = world.begin(&host);
    let children = || host.block_on(host.workflows.show(&world.acme, &run)).unwrap();
    let mut child = None;
    eventually("the child", || {
        child = children().state.children().next().cloned();
        child.is_some()
    });
    let child = child.unwrap();
    host.until(&world, &child, Status::Waiting);
    let (by, reason) = ("acme/ann".parse().unwrap(), "enough".to_owned());
    host.block_on(host.workflows.command(&world.acme, &run, &Command::Terminate { reason }, &by)).unwrap();
    host.until(&world, &child, Status::Cancelled);
    until_sworn(&world, &host, &child);
    until_sworn(&world, &host, &run);
    let words = |of: &RunId| sworn(&world, &host, of).0.into_values().collect::<Vec<_>>();
    assert!(words(&child).contains(&"cancel-asked".to_owned()), "{:?}", words(&child));
    assert_eq!(words(&run).last().map(String::as_str), Some("ended"));
    assert!(words(&run).contains(&format!("child-begun {} test", Place::new(vec![0]))), "{:?}", words(&run));
}
