//! What a run asks people for is known without its history, and of runs whose heads do not know it by their history.

use std::sync::Arc;

use ringfence_automation::workflow::{AskedOfPeople, Head, Status};
use ringfence_core::workflow::{Answer, Ask, Question};
use ringfence_store::{Key, Op};

use crate::world::{Code, Host, Steps, World, stopped};

#[test]
fn what_a_run_asks_for_is_told_without_a_look_at_its_history_where_its_head_knows() {
    let world = World::new();
    let code: Code = Arc::new(|call| {
        Box::pin(async move {
            let question =
                Question { title: "?".to_owned(), details: String::new(), approvals_count: 1, timeout_ms: None };
            match Steps(call.history).ask(Ask::Approval { name: "pay".to_owned(), question }).await {
                Ok(Answer::Verdict { .. }) => Ok(Ok("1".to_owned())),
                Ok(other) => panic!("{other:?}"),
                Err(stop) => stopped(&stop),
            }
        })
    });
    let host = Host::start(&world, &code);
    let run = world.begin(&host);
    let head = host.until(&world, &run, Status::Waiting);
    let mut before = serde_json::to_value(&head).unwrap();
    before.as_object_mut().unwrap().remove("asks").unwrap();
    let before: Head = serde_json::from_value(before).unwrap();
    world.clock.pass(90_000);
    let asked = |head: &Head, name: &str| host.block_on(host.workflows.asked(&world.acme, head, name)).unwrap();
    let pay = Some(AskedOfPeople { place: "0".parse().unwrap(), waited_s: 90 });
    for head in [&head, &before] {
        assert_eq!((asked(head, "pay"), asked(head, "ship")), (pay.clone(), None));
    }
    world.block_on(async {
        let page = world.acme.scan(&Key::new(["run", "log", run.as_str()]), None, 10).await.unwrap();
        let ops = page.records.into_iter().map(|(key, _)| Op::delete(key)).collect();
        world.acme.batch(ops, Vec::new()).await.unwrap();
    });
    assert_eq!((asked(&head, "pay"), asked(&head, "ship")), (pay, None));
    let gone = host.block_on(host.workflows.asked(&world.acme, &before, "pay"));
    assert!(gone.is_err_and(|error| error.is_damage()), "its history is gone");
}
