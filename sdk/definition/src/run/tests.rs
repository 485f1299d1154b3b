//! The interpreter over a host of the tests, which keeps a history as the real one does: what is waited for stops the run, and
//! every run starts again from the beginning.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Ended, Failure, Fault, Host, Request, Response, RunFacts, run};
use crate::Definition;

/// What is outside of the run: its history, the far end, signals.
#[derive(Default)]
struct World {
    history: RefCell<BTreeMap<String, Kept>>,
    sent: RefCell<Vec<Request>>,
    answers: RefCell<BTreeMap<String, Vec<(u16, &'static str)>>>,
    signals: RefCell<BTreeMap<String, Value>>,
    is_late: Cell<bool>,
    queued: RefCell<Vec<(String, Value, String)>>,
    slept_ms: RefCell<Vec<u128>>,
    runs_count: Cell<u32>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kept {
    Step(Result<Value, Fault>),
    Tried(u32),
    Passed,
    Signal(Option<Value>),
    Id(String),
    Number(u64),
}

#[derive(Debug, PartialEq)]
struct Suspended;

struct Fake {
    world: Rc<World>,
    branch: String,
    next: Cell<u32>,
}

impl Fake {
    fn place(&self, kind: &str) -> String {
        let number = self.next.replace(self.next.get() + 1);
        let (place, prefix) = (format!("{}/{number}:{kind}", self.branch), format!("{}/{number}:", self.branch));
        let history = self.world.history.borrow();
        let mut there = history.keys().filter(|key| key.starts_with(&prefix) && !key[prefix.len()..].contains('/'));
        assert!(there.all(|key| *key == place), "asked for {place} over {:?}", history.keys());
        place
    }

    /// What is kept under this place, or what `make` makes now.
    fn once(&self, kind: &str, make: impl FnOnce() -> Kept) -> Kept {
        let place = self.place(kind);
        self.world.history.borrow_mut().entry(place).or_insert_with(make).clone()
    }
}

impl Host for Fake {
    type Stop = Suspended;

    fn about(&self) -> RunFacts {
        RunFacts { id: "run-1".to_owned(), started_ms: 1_000 }
    }

    async fn step(
        &self,
        name: &str,
        is_tried_once: bool,
        work: impl AsyncFnOnce(String) -> Result<Value, Failure>,
    ) -> Result<Value, Ended<Suspended>> {
        let place = self.place(&format!("step-{name}"));
        let kept = self.world.history.borrow().get(&place).cloned();
        let tried = match kept {
            Some(Kept::Step(outcome)) => return Ok(outcome?),
            Some(Kept::Tried(count)) => count,
            _ => 0,
        };
        let outcome = match work(place.clone()).await {
            Err(failure) if failure.again && !is_tried_once && tried < 2 => {
                self.world.history.borrow_mut().insert(place, Kept::Tried(tried + 1));
                return Err(Ended::Stopped(Suspended));
            }
            outcome => outcome.map_err(|failure| Fault::from_message(&failure.fault.to_message())),
        };
        self.world.history.borrow_mut().insert(place, Kept::Step(outcome.clone()));
        Ok(outcome?)
    }

    async fn send(&self, request: Request) -> Result<Response, String> {
        self.world.sent.borrow_mut().push(request.clone());
        let mut answers = self.world.answers.borrow_mut();
        let left = answers.get_mut(&request.url).filter(|left| !left.is_empty());
        let (status, body) = left.map_or((200, "\"ok\""), |left| left.remove(0));
        if status == 0 {
            return Err(body.to_owned());
        }
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Ok(Response { status, headers, body: body.as_bytes().to_vec() })
    }

    fn enqueue(&self, queue: &str, message: &Value, key: &str) -> Result<(), String> {
        self.world.queued.borrow_mut().push((queue.to_owned(), message.clone(), key.to_owned()));
        Ok(())
    }

    fn sleep(&self, name: &str, duration: Duration) -> Result<(), Ended<Suspended>> {
        let place = self.place(&format!("sleep-{name}"));
        if self.world.history.borrow_mut().insert(place, Kept::Passed).is_some() {
            return Ok(());
        }
        self.world.slept_ms.borrow_mut().push(duration.as_millis());
        Err(Ended::Stopped(Suspended))
    }

    fn signal(&self, name: &str, timeout: Option<Duration>) -> Result<Option<Value>, Ended<Suspended>> {
        let place = self.place(&format!("signal-{name}"));
        let mut history = self.world.history.borrow_mut();
        if let Some(Kept::Signal(payload)) = history.get(&place) {
            return Ok(payload.clone());
        }
        let payload = self.world.signals.borrow_mut().remove(name);
        if payload.is_none() && !(timeout.is_some() && self.world.is_late.get()) {
            return Err(Ended::Stopped(Suspended));
        }
        history.insert(place, Kept::Signal(payload.clone()));
        Ok(payload)
    }

    fn start_child(&self, workflow: &str, input: &Value) -> Result<String, Ended<Suspended>> {
        match self.once("child", || Kept::Id(format!("{workflow} {input}"))) {
            Kept::Id(id) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    fn wait_for_child(&self, run: &str) -> Result<Value, Ended<Suspended>> {
        self.place("child-end");
        match run.strip_prefix("bad ") {
            Some(_) => Err(Fault::from_message("the child failed").into()),
            None => Ok(json!({ "child": run })),
        }
    }

    async fn each(
        &self,
        count: usize,
        work: impl AsyncFn(Self, usize) -> Result<Value, Ended<Suspended>>,
    ) -> Result<Vec<Result<Value, Fault>>, Ended<Suspended>> {
        let place = self.place("fork");
        let mut results = Vec::new();
        let mut is_suspended = false;
        for index in 0..count {
            let branch = Fake { world: Rc::clone(&self.world), branch: format!("{place}.{index}"), next: Cell::new(0) };
            match work(branch, index).await {
                Ok(output) => results.push(Ok(output)),
                Err(Ended::Raised(fault)) => results.push(Err(fault)),
                Err(Ended::Stopped(_)) => is_suspended = true,
            }
        }
        if is_suspended { Err(Ended::Stopped(Suspended)) } else { Ok(results) }
    }

    fn random(&self) -> Result<u64, Ended<Suspended>> {
        match self.once("random", || Kept::Number(12_345)) {
            Kept::Number(number) => Ok(number),
            other => panic!("{other:?}"),
        }
    }

    fn new_id(&self) -> Result<String, Ended<Suspended>> {
        let number = self.world.history.borrow().len();
        match self.once("id", || Kept::Id(format!("id{number}"))) {
            Kept::Id(id) => Ok(id),
            other => panic!("{other:?}"),
        }
    }
}

fn definition(tasks: Value) -> Definition {
    let document = json!({ "dsl": "1.0.0", "namespace": "n", "name": "x", "version": "0.1.0" });
    let definition = Definition::parse(&json!({ "document": document, "do": tasks }).to_string()).unwrap();
    super::check_expressions(&definition).unwrap();
    definition
}

/// Runs it again and again until it is through; `Ok(None)` when it waits for what does not come.
fn drive(definition: &Definition, world: &Rc<World>, input: &Value) -> Result<Option<Value>, Fault> {
    for _ in 0..200 {
        world.runs_count.set(world.runs_count.get() + 1);
        let before = world.history.borrow().clone();
        let fake = Fake { world: Rc::clone(world), branch: String::new(), next: Cell::new(0) };
        let mut future = pin!(run(definition, fake, input.clone()));
        let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the host of the tests is never pending");
        };
        match result {
            Ok(output) => return Ok(Some(output)),
            Err(Ended::Raised(fault)) => return Err(fault),
            Err(Ended::Stopped(Suspended)) if *world.history.borrow() == before => return Ok(None),
            Err(Ended::Stopped(Suspended)) => {}
        }
    }
    panic!("it never ends");
}

fn output(tasks: Value, input: Value) -> Value {
    drive(&definition(tasks), &Rc::default(), &input).unwrap().unwrap()
}

fn fault(tasks: Value, input: Value) -> Fault {
    drive(&definition(tasks), &Rc::default(), &input).unwrap_err()
}

fn call(url: &str) -> Value {
    json!({ "call": "http", "with": { "method": "post", "endpoint": url, "body": "${ . }" } })
}

#[test]
fn data_flows_through_tasks_and_the_context() {
    let tasks = json!([
        { "a": { "set": { "n": "${ .n + 1 }", "kept": "as it is", "list": ["${ $input.n }", 2] },
                 "export": { "as": "${ { seen: .n } }" } } },
        { "b": { "set": { "got": "${ . }" }, "input": { "from": "${ .n }" }, "output": { "as": "${ .got + $input }" } } },
        { "c": { "set": { "sum": "${ . + $context.seen }", "run": "${ $workflow.id }", "at": "${ $task.reference }",
                          "first": "${ $workflow.input.n }" } } },
    ]);
    assert_eq!(output(tasks, json!({ "n": 1 })), json!({ "sum": 6, "run": "run-1", "at": "/do/2/c", "first": 1 }));
}

#[test]
fn conditions_switches_and_directives_lead_where_they_say() {
    let add = |n: u32| json!({ "set": format!("${{ . + [{n}] }}") });
    let with = |mut task: Value, key: &str, value: &str| {
        task[key] = json!(value);
        task
    };
    let skipped = json!([{ "a": with(add(1), "if", "length > 5") }, { "b": add(2) }]);
    assert_eq!(output(skipped, json!([])), json!([2]));
    let jump = json!([{ "a": with(add(1), "then", "c") }, { "b": add(2) }, { "c": add(3) }]);
    assert_eq!(output(jump, json!([])), json!([1, 3]));
    let exit = json!([{ "a": { "do": [{ "x": with(add(1), "then", "exit") }, { "y": add(2) }] } }, { "b": add(3) }]);
    assert_eq!(output(exit, json!([])), json!([1, 3]));
    let end = json!([{ "a": { "do": [{ "x": with(add(1), "then", "end") }, { "y": add(2) }] } }, { "b": add(3) }]);
    assert_eq!(output(end, json!([])), json!([1]));
    let switch = json!([
        { "s": { "switch": [{ "one": { "when": ".[0] == 1", "then": "b" } }, { "two": { "when": "${ .[0] == 2 }", "then": "exit" } }] } },
        { "a": add(8) },
        { "b": add(9) },
    ]);
    for (input, expected) in [(1, json!([1, 9])), (2, json!([2])), (3, json!([3, 8, 9]))] {
        assert_eq!(output(switch.clone(), json!([input])), expected);
    }
    let back = json!([{ "a": add(0) }, { "s": { "switch": [{ "more": { "when": "length < 4", "then": "a" } }] } }]);
    assert_eq!(output(back, json!([])), json!([0, 0, 0, 0]));
    let endless = json!([{ "a": { "set": {}, "then": "a" } }]);
    assert!(fault(endless, json!([])).detail.unwrap().contains("at most 10000 tasks"));
}

#[test]
fn loops_go_through_lists_with_their_variables() {
    let tasks = json!([{ "l": {
        "for": { "each": "n", "in": ".items", "at": "at" }, "while": "$n < 30",
        "do": [{ "x": { "set": { "items": "${ .items }", "sum": "${ (.sum // 0) + $n * $at }" } } }],
    } }]);
    assert_eq!(output(tasks.clone(), json!({ "items": [10, 20, 25, 30, 40] }))["sum"], 70);
    assert_eq!(output(tasks.clone(), json!({ "items": [] })), json!({ "items": [] }));
    assert_eq!(fault(tasks.clone(), json!({ "items": 5 })).instance.as_deref(), Some("/do/0/l"));
    assert_eq!(fault(tasks, json!({ "items": vec![0; 1_001] })).status, 400);
}

#[test]
fn calls_are_made_once_over_all_waits_and_tried_again_when_it_may_help() {
    let world = Rc::<World>::default();
    world.answers.borrow_mut().insert("https://x/a".to_owned(), vec![(503, ""), (0, "no route"), (200, "{\"id\":7}")]);
    let tasks = json!([
        { "a": call("https://x/a") },
        { "w": { "wait": "PT5S" } },
        { "b": { "call": "http", "with": { "method": "get", "endpoint": "https://x/{id}/y", "query": { "q": "a b&c" },
                 "headers": { "X-One": 1, "Idempotency-Key": "own" }, "output": "response" } } },
        { "w2": { "wait": "PT6S" } },
    ]);
    let done = drive(&definition(tasks), &world, &json!({ "in": 1 })).unwrap().unwrap();
    assert_eq!((done["statusCode"].as_u64(), done["content"].as_str()), (Some(200), Some("ok")));
    assert_eq!(*world.slept_ms.borrow(), [5_000, 6_000]);
    let sent = world.sent.borrow();
    assert_eq!((sent.len(), world.runs_count.get()), (4, 5));
    let keys: Vec<_> = sent[..3].iter().map(|request| request.headers.last().unwrap().clone()).collect();
    assert!(keys.iter().all(|key| *key == keys[0] && key.0 == "idempotency-key"), "{keys:?}");
    assert_eq!(sent[0].body.as_deref(), Some(&b"{\"in\":1}"[..]));
    assert!(sent[0].headers.contains(&("content-type".to_owned(), "application/json".to_owned())));
    assert_eq!(
        (sent[3].method.as_str(), sent[3].url.as_str(), sent[3].body.is_none()),
        ("GET", "https://x/7/y?q=a%20b%26c", true)
    );
    let mut headers = sent[3].headers.clone();
    headers.sort();
    assert_eq!(headers, [("idempotency-key", "own"), ("x-one", "1")].map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[test]
fn what_will_not_pass_by_itself_is_not_tried_again() {
    for (answer, status, part) in [
        ((422, ""), 422, "answered 422"),
        ((302, ""), 302, "answered 302"),
        ((200, "{"), 400, "no JSON"),
        ((200, Box::leak("x".repeat(200 << 10).into_boxed_str()) as &'static str), 400, "longer"),
    ] {
        let world = Rc::<World>::default();
        world.answers.borrow_mut().insert("https://x/a".to_owned(), vec![answer]);
        let fault = drive(&definition(json!([{ "a": call("https://x/a") }])), &world, &json!(1)).unwrap_err();
        assert_eq!((fault.status, world.sent.borrow().len()), (status, 1));
        assert!(fault.kind.ends_with("/communication") && fault.detail.unwrap().contains(part));
        assert_eq!(fault.instance.as_deref(), Some("/do/0/a"));
    }
}

#[test]
fn a_try_is_tried_again_as_its_policy_says_with_the_same_keys() {
    let world = Rc::<World>::default();
    world.answers.borrow_mut().insert("https://x/b".to_owned(), vec![(500, ""), (500, ""), (200, "\"late\"")]);
    let retry = json!({ "delay": "PT1S", "backoff": { "exponential": {} }, "limit": { "attempt": { "count": 3 } } });
    let catch = json!({ "errors": { "with": { "status": 500 } }, "retry": retry });
    let tasks =
        json!([{ "t": { "try": [{ "a": call("https://x/a") }, { "b": call("https://x/b") }], "catch": catch } }]);
    let definition = definition(tasks);
    assert_eq!(drive(&definition, &world, &json!({})).unwrap().unwrap(), "late");
    assert_eq!(*world.slept_ms.borrow(), [1_000, 2_000]);
    let keys = |url: &str| {
        let sent = world.sent.borrow();
        let of_url = sent.iter().filter(|request| request.url == url);
        of_url.map(|request| request.headers.last().unwrap().1.clone()).collect::<Vec<_>>()
    };
    let (a, b) = (keys("https://x/a"), keys("https://x/b"));
    assert_eq!((a.len(), b.len()), (3, 3));
    assert!(a.iter().all(|key| *key == a[0]) && b.iter().all(|key| *key == b[0]) && a[0] != b[0], "{a:?} {b:?}");
    // Once more, and it is over.
    let world = Rc::<World>::default();
    world.answers.borrow_mut().insert("https://x/b".to_owned(), vec![(500, ""); 3]);
    assert_eq!(drive(&definition, &world, &json!({})).unwrap_err().status, 500);
    // Another error is not caught at all.
    let world = Rc::<World>::default();
    world.answers.borrow_mut().insert("https://x/b".to_owned(), vec![(404, "")]);
    assert_eq!(drive(&definition, &world, &json!({})).unwrap_err().status, 404);
    assert!(world.slept_ms.borrow().is_empty());
}

#[test]
fn each_attempt_of_a_try_begins_a_run_of_its_own() {
    let world = Rc::<World>::default();
    let child = json!({ "namespace": "n", "name": "bad", "input": "${ . }" });
    let catch = json!({ "retry": { "delay": "PT1S", "limit": { "attempt": { "count": 2 } } } });
    let tasks = json!([{ "t": { "try": [{ "r": { "run": { "workflow": child, "await": true } } }], "catch": catch } }]);
    let fault = drive(&definition(tasks), &world, &json!({})).unwrap_err();
    assert_eq!(fault.detail.as_deref(), Some("the child failed"));
    let begun_count = world.history.borrow().keys().filter(|place| place.ends_with(":child")).count();
    assert_eq!(begun_count, 2, "{:?}", world.history.borrow());
}

#[test]
fn delays_grow_as_the_backoff_says_and_jitter_comes_from_the_history() {
    for (backoff, expected) in
        [("constant", [100, 100, 100]), ("linear", [100, 200, 300]), ("exponential", [100, 200, 400])]
    {
        let world = Rc::<World>::default();
        world.answers.borrow_mut().insert("https://x/a".to_owned(), vec![(500, ""); 4]);
        let retry = json!({ "delay": { "milliseconds": 100 }, "backoff": { backoff: {} }, "limit": { "attempt": { "count": 4 } } });
        let tasks = json!([{ "t": { "try": [{ "a": call("https://x/a") }], "catch": { "retry": retry } } }]);
        drive(&definition(tasks), &world, &json!({})).unwrap_err();
        assert_eq!(*world.slept_ms.borrow(), expected, "{backoff}");
    }
    let world = Rc::<World>::default();
    world.answers.borrow_mut().insert("https://x/a".to_owned(), vec![(500, "")]);
    let retry = json!({ "jitter": { "from": "PT1S", "to": "PT2S" }, "limit": { "attempt": { "count": 2 } } });
    let tasks = json!([{ "t": { "try": [{ "a": call("https://x/a") }], "catch": { "retry": retry } } }]);
    assert_eq!(drive(&definition(tasks), &world, &json!({})).unwrap().unwrap(), "ok");
    assert_eq!(*world.slept_ms.borrow(), [1_000 + 12_345 % 1_001]);
}

#[test]
fn errors_are_raised_caught_and_handled() {
    let raise = |status: u16| json!([{ "r": { "raise": { "error": { "type": "urn:x", "status": status, "detail": "${ .why }" } } } }]);
    let fault = fault(raise(418), json!({ "why": "tea" }));
    assert_eq!((fault.kind.as_str(), fault.status, fault.detail.as_deref()), ("urn:x", 418, Some("tea")));
    assert_eq!(fault.instance.as_deref(), Some("/do/0/r"));
    let catching = |status: u16, catch: Value| json!([{ "t": { "try": raise(status), "catch": catch } }]);
    let handled =
        json!({ "as": "e", "do": [{ "h": { "set": { "was": "${ $e.detail }", "at": "${ $e.instance }" } } }] });
    let input = json!({ "why": "tea" });
    assert_eq!(output(catching(418, handled), input.clone()), json!({ "was": "tea", "at": "/do/0/t/try/0/r" }));
    assert_eq!(output(catching(418, json!({})), input.clone()), input);
    for (catch, is_caught) in [
        (json!({ "errors": { "with": { "type": "urn:x", "status": 418 } } }), true),
        (json!({ "errors": { "with": { "type": "urn:y" } } }), false),
        (json!({ "when": "$error.status == 418" }), true),
        (json!({ "when": "$error.status == 419" }), false),
        (json!({ "exceptWhen": "$error.status == 418" }), false),
    ] {
        let result = drive(&definition(catching(418, catch.clone())), &Rc::default(), &input);
        assert_eq!(result.is_ok(), is_caught, "{catch}");
    }
    let wrong = json!([{ "s": { "set": { "x": "${ .a.b }" } } }]);
    assert!(super::tests::fault(wrong, json!({ "a": 5 })).kind.ends_with("/expression"));
}

#[test]
fn branches_wait_beside_each_other_and_each_call_is_made_once() {
    let world = Rc::<World>::default();
    let wait = |event: &str| json!({ "listen": { "to": { "one": { "with": { "type": event } } } } });
    let retry = json!({ "limit": { "attempt": { "count": 2 } } });
    let fork = json!({ "fork": { "branches": [
        { "l": { "do": [{ "w": wait("left") }, { "c": call("https://x/l") }] } },
        { "r": { "do": [{ "w": wait("right") }, { "c": call("https://x/r") }, { "o": { "set": "${ [$context, .] }" } }] } },
    ] } });
    let tasks = json!([{ "e": { "set": {}, "export": { "as": "${ 5 }" } } }, { "t": { "try": [{ "f": fork }], "catch": { "retry": retry } } }]);
    let definition = definition(tasks);
    assert_eq!(drive(&definition, &world, &json!({})), Ok(None));
    world.signals.borrow_mut().insert("right".to_owned(), json!(1));
    assert_eq!(drive(&definition, &world, &json!({})), Ok(None));
    world.signals.borrow_mut().insert("left".to_owned(), json!(2));
    assert_eq!(drive(&definition, &world, &json!({})), Ok(Some(json!(["ok", [5, "ok"]]))));
    let sent = world.sent.borrow();
    let keys: Vec<_> =
        sent.iter().map(|request| (request.url.as_str(), request.headers.last().unwrap().1.as_str())).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys[0].0 == "https://x/r" && keys[0].1.ends_with("-0-1-0") && keys[1].1.ends_with("-0-0-0"), "{keys:?}");
}

#[test]
fn events_come_in_and_go_out_and_children_give_what_they_give() {
    let world = Rc::<World>::default();
    let listen =
        json!({ "listen": { "to": { "one": { "with": { "type": "paid" } } } }, "timeout": { "after": "P1D" } });
    let emit =
        json!({ "emit": { "event": { "with": { "source": "urn:shop", "type": "mail", "data": "${ .[0] }" } } } });
    let definition = definition(json!([{ "l": listen }, { "e": emit }]));
    world.signals.borrow_mut().insert("paid".to_owned(), json!({ "n": 1 }));
    let event = drive(&definition, &world, &json!({})).unwrap().unwrap();
    let queued = world.queued.borrow();
    assert_eq!((queued.len(), queued[0].0.as_str(), &queued[0].1), (1, "mail", &event));
    assert_eq!(
        (&event["data"], &event["specversion"], event["id"].as_str()),
        (&json!({ "n": 1 }), &json!("1.0"), Some(queued[0].2.as_str()))
    );
    let late = Rc::<World>::default();
    late.is_late.set(true);
    let fault = drive(&definition, &late, &json!({})).unwrap_err();
    assert_eq!((fault.status, fault.kind.ends_with("/timeout")), (408, true));

    let child = |name: &str, is_awaited: bool| {
        let child = json!({ "namespace": "n", "name": name, "input": "${ .x }" });
        json!([{ "r": { "run": { "workflow": child, "await": is_awaited } } }])
    };
    assert_eq!(output(child("good", true), json!({ "x": 1 })), json!({ "child": "good 1" }));
    assert_eq!(output(child("good", false), json!({ "x": 1 })), json!({ "x": 1 }));
    assert_eq!(super::tests::fault(child("bad", true), json!({})).detail.as_deref(), Some("the child failed"));
}

#[test]
fn expressions_are_the_same_jq_every_time() {
    let jq = super::jq::Jq::default();
    let null = Value::Null;
    let give = |text: &str, input: &Value| jq.evaluate(text, input, [&null; 6], &[("n", &json!(2))]);
    let input = json!({ "b": [3, 1, 2], "a": "x", "f": 1.5, "big": 12_345_678_901_234_567_890_u64 });
    for (text, expected) in [
        (".b | sort | map(. * $n)", json!([2, 4, 6])),
        ("keys", json!(["a", "b", "big", "f"])),
        (".f + 1", json!(2.5)),
        (".big", input["big"].clone()),
        ("empty", Value::Null),
        ("1, 2", json!(1)),
        ("\"\\(.a)-\\($n)\"", json!("x-2")),
        ("{ (.a): .b[0] } | tojson | fromjson", json!({ "x": 3 })),
        ("reduce .b[] as $x (0; . + $x)", json!(6)),
        ("[.b[] | select(. > 1)] | length", json!(2)),
        ("try error(\"x\") catch .", json!("x")),
        (".missing // \"default\"", json!("default")),
        (".a | ascii_upcase | ascii_downcase | ltrimstr(\"x\")", json!("")),
        ("[1, [2, [3]]] | flatten | add", json!(6)),
        ("with_entries(select(.key == \"a\"))", json!({ "a": "x" })),
        ("first(range(10; 20))", json!(10)),
        ("\"a,b\" | split(\",\")", json!(["a", "b"])),
    ] {
        for _ in 0..2 {
            assert_eq!(give(text, &input), Ok(expected.clone()), "{text}");
        }
    }
    assert!(give(".a.b", &input).unwrap_err().contains("cannot index"));
    assert!(give("error(\"so\")", &input).unwrap_err().contains("so"));
    assert!(give("1 / 0", &input).is_err(), "JSON has no infinity");
}
