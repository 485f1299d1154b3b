//! Runs that plugins begin: each once under its key, in the family of the run below which that was, with what led to it.

use std::sync::{Arc, Mutex};

use futures::future::join_all;
use ringfence_automation::workflow::event::Ending;
use ringfence_automation::workflow::journal::family_key;
use ringfence_automation::workflow::limits::{CHILD_DEPTH_MAX, FAMILY_COUNT_MAX, PAYLOAD_BYTES_MAX};
use ringfence_automation::workflow::{Begin, Command, Head, Status, WorkflowError};
use ringfence_capabilities::{Family, Trail};
use ringfence_core::workflow::{Ask, Stop};
use ringfence_core::{PluginName, RunId};
use ringfence_store::Key;

use crate::world::{Code, Host, Steps, World, eventually, stopped};

/// What led to which run, as its code was told.
type Trails = Arc<Mutex<Vec<(RunId, Trail)>>>;

/// Begins a child if its input says so, and sleeps.
fn code(trails: &Trails) -> Code {
    let trails = Arc::clone(trails);
    Arc::new(move |call| {
        let trails = Arc::clone(&trails);
        Box::pin(async move {
            trails.lock().unwrap().push((call.run.clone(), call.trail.clone()));
            let is_parent = call.input == "\"parent\"";
            let steps = Steps(call.history);
            if is_parent {
                let child = Ask::Child { workflow: "test".to_owned(), input: "null".to_owned() };
                if let Err(stop) = steps.ask(child).await {
                    return stopped(&stop);
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

/// A run that the plugin `care` begins on behalf of `bob`, handling a message, perhaps below another run.
fn asked(world: &World, key: &str, family: Option<Family>) -> Begin {
    let trail = Trail { messages_count: 1, family, ..Trail::default() }.begun_by(Some("acme/bob".parse().unwrap()));
    let by = "acme/plugin/care".parse().unwrap();
    Begin { key: Some(key.to_owned()), by, led_by: Some(trail), ..world.test() }
}

fn begin(world: &World, host: &Host, begin: Begin) -> Result<(Head, bool), WorkflowError> {
    host.block_on(host.workflows.begin(&world.acme, begin))
}

#[test]
fn what_is_asked_for_twice_under_a_key_is_one_run_at_the_same_time_and_after_a_kill() {
    let world = World::new();
    let host = Host::start(&world, &code(&Trails::default()));
    let once = || asked(&world, "visit-7", None);
    let begun = host.block_on(join_all((0..8).map(|_| host.workflows.begin(&world.acme, once()))));
    let begun: Vec<(Head, bool)> = begun.into_iter().map(Result::unwrap).collect();
    assert_eq!(begun.iter().filter(|(_, is_new)| *is_new).count(), 1);
    let run = begun[0].0.run.clone();
    assert!(begun.iter().all(|(head, _)| head.run == run));
    host.until(&world, &run, Status::Waiting);
    host.kill();

    let host = Host::start(&world, &code(&Trails::default()));
    let (again, is_new) = begin(&world, &host, once()).unwrap();
    assert_eq!((&again.run, is_new), (&run, false));
    let other = begin(&world, &host, Begin { input: "1".to_owned(), ..once() });
    assert!(matches!(other, Err(WorkflowError::OtherRun)), "{other:?}");
    // A key is of its workflow, and none of those that people use.
    let workflow = begin(&world, &host, Begin { workflow: "other".to_owned(), ..once() }).unwrap();
    let person = begin(&world, &host, Begin { led_by: None, ..once() }).unwrap();
    assert!(workflow.1 && person.1 && workflow.0.run != run && person.0.run != run);

    let shop: PluginName = "shop".parse().unwrap();
    let find = |key: &str| host.block_on(host.workflows.find(&world.acme, (&shop, "test"), key));
    assert_eq!(find("visit-7").unwrap().run, run);
    assert!(matches!(find("visit-8"), Err(WorkflowError::UnknownRun)));
}

#[test]
fn whether_it_was_begun_before_is_known_from_how_it_began_and_a_long_payload_is_refused_unread() {
    let world = World::new();
    let host = Host::start(&world, &code(&Trails::default()));
    let (run, _) = begin(&world, &host, asked(&world, "visit-7", None)).unwrap();
    host.until(&world, &run.run, Status::Waiting);
    let log = Key::new(["run", "log", run.run.as_str()]);
    let (records, _) = world.block_on(world.acme.scan_names(&log, None, 100)).unwrap();
    assert!(records.len() > 1, "{records:?}");
    world.block_on(world.acme.delete(records.last().unwrap())).unwrap();
    let (again, is_new) = begin(&world, &host, asked(&world, "visit-7", None)).unwrap();
    assert_eq!((&again.run, is_new), (&run.run, false));

    // It is no JSON either: nobody came so far as to find that out.
    let (name, payload) = ("go".to_owned(), "[".repeat(PAYLOAD_BYTES_MAX + 1));
    let signal = Command::Signal { name, payload, key: None };
    let by = "acme/plugin/care".parse().unwrap();
    let refused = host.block_on(host.workflows.command(&world.acme, &run.run, &signal, &by));
    assert!(matches!(refused, Err(WorkflowError::Limit { .. })), "{refused:?}");
}

#[test]
fn what_is_begun_below_a_run_takes_a_place_in_its_family_and_gives_it_back() {
    let world = World::new();
    let host = Host::start(&world, &code(&Trails::default()));
    let root = world.begin_in(&host, FAMILY_COUNT_MAX - 1);
    let count = || world.block_on(world.acme.get_json::<u64>(&family_key(&root))).unwrap();
    let below = |key: &str| asked(&world, key, Some(Family { root: root.clone(), depth: 0 }));
    let (first, _) = begin(&world, &host, below("one")).unwrap();
    assert_eq!((count(), first.parent.as_ref()), (Some(FAMILY_COUNT_MAX), None));
    let refused = begin(&world, &host, below("two"));
    assert!(matches!(refused, Err(WorkflowError::Limit { max: FAMILY_COUNT_MAX, .. })), "{refused:?}");
    let (again, is_new) = begin(&world, &host, below("one")).unwrap();
    assert_eq!((&again.run, is_new), (&first.run, false), "what is there needs no room");
    assert_eq!(count(), Some(FAMILY_COUNT_MAX));

    let (by, reason) = ("acme/ann".parse().unwrap(), "enough".to_owned());
    let terminate = Command::Terminate { reason };
    host.block_on(host.workflows.command(&world.acme, &first.run, &terminate, &by)).unwrap();
    assert_eq!(count(), Some(FAMILY_COUNT_MAX - 1));
    assert!(begin(&world, &host, below("two")).unwrap().1);
}

#[test]
fn runs_that_begin_one_another_go_as_deep_as_children_do() {
    let world = World::new();
    let host = Host::start(&world, &code(&Trails::default()));
    let root = world.begin(&host);
    let at = |depth: u32| Begin {
        input: "\"parent\"".to_owned(),
        ..asked(&world, &format!("at {depth}"), Some(Family { root: root.clone(), depth }))
    };
    let too_deep = begin(&world, &host, at(CHILD_DEPTH_MAX));
    assert!(matches!(too_deep, Err(WorkflowError::Limit { .. })), "{too_deep:?}");
    // It is as deep as can be: a child of its own is one too many.
    let deepest = begin(&world, &host, at(CHILD_DEPTH_MAX - 1)).unwrap().0.run;
    let head = host.until(&world, &deepest, Status::Failed);
    assert!(matches!(&head.ending, Some(Ending::Failed { code, .. }) if code == "workflow-limit"), "{head:?}");
}

#[test]
fn what_a_run_does_is_led_by_what_led_to_it_and_so_is_what_its_children_do() {
    let (world, trails) = (World::new(), Trails::default());
    let host = Host::start(&world, &code(&trails));
    let asked = Begin { input: "\"parent\"".to_owned(), ..asked(&world, "visit-7", None) };
    let run = begin(&world, &host, asked).unwrap().0.run;
    let of = |is_it: &dyn Fn(&RunId) -> bool| {
        trails.lock().unwrap().iter().find(|(run, _)| is_it(run)).map(|(_, trail)| trail.clone())
    };
    eventually("its child", || of(&|other| *other != run).is_some());
    for (trail, depth) in [(of(&|one| *one == run), 0), (of(&|other| *other != run), 1)] {
        let trail = trail.unwrap();
        assert_eq!(trail.family, Some(Family { root: run.clone(), depth }));
        assert_eq!((trail.began_by.unwrap().as_str(), trail.messages_count), ("acme/bob", 1));
    }
    let own = world.begin(&host);
    eventually("a run of a person's", || of(&|one| *one == own).is_some());
    let trail = of(&|one| *one == own).unwrap();
    assert_eq!((trail.began_by.unwrap().as_str(), trail.messages_count), ("acme/ann", 0));
}
