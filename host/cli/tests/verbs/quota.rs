//! `quota`: what is sent, what is shown, and what a used-up quota looks like.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::harness::{Person, Reply, StandIn};
use crate::help::golden;

fn view() -> Value {
    json!({ "tenant": "acme", "plan": "free", "version": 4, "overrides": { "plugins_count": 20 },
        "effective": { "weight": 10, "cpu_permille": 500, "cpu_burst_us": 200_000, "concurrency_count": null,
            "requests_per_second": 100, "memory_bytes": 1_u64 << 30, "storage_bytes": 10_u64 << 30,
            "storage_ops_per_second": 1_000, "egress_requests_per_day": 1_000, "egress_bytes_per_day": 1 << 20,
            "log_bytes_per_day": 1 << 20, "audit_events_per_day": 1_000, "plugins_count": 20, "component_bytes": 1 << 20,
            "run_retention_days": 30 },
        "use": { "running_count": 2, "waiting_count": 1, "memory_bytes": 3 << 20, "storage_bytes": 5 << 20,
            "requests_this_second": 7, "storage_ops_this_second": 0, "egress_requests_today": 9,
            "egress_bytes_today": 2_048, "log_bytes_today": 0, "plugins_count": 3 },
        "throttled": { "cpu_us": 1_500_000, "requests_count": 12, "memory_count": 0, "storage_count": 0,
            "storage_ops_count": 0, "egress_count": 1, "log_count": 0 } })
}

#[test]
fn a_quota_is_shown_with_where_each_figure_is_from_what_is_used_and_what_was_refused() {
    let host = StandIn::start();
    host.tell("GET /tenants/acme/quota", Reply::json(200, view()));
    let outcome = Person::with_key().run(&["--host", &host.address, "quota", "show", "acme"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    golden("quota-show", &outcome.out);
    // Without a name it is the tenant that one is signed in to.
    host.tell("GET /tenants/acme/quota", Reply::json(200, view()));
    let own = Person::with_key().run(&["--host", &host.address, "quota", "show"]);
    assert_eq!((own.exit, own.out), (ExitCode::SUCCESS, outcome.out), "{}", own.err);
}

#[test]
fn a_figure_is_set_beside_those_that_differ_already_and_only_on_what_was_read() {
    let host = StandIn::start();
    host.tell("GET /tenants/acme/quota", Reply::json(200, view()))
        .tell("PUT /tenants/acme/quota", Reply::json(200, view()))
        .tell("GET /tenants/acme/quota", Reply::json(200, view()))
        .tell("PUT /tenants/acme/quota", Reply::json(200, view()));
    let person = Person::with_key();
    let outcome = person.run(&["--host", &host.address, "quota", "set", "acme", "--weight", "50"]);
    assert_eq!(outcome.exit, ExitCode::SUCCESS, "{outcome:?}");
    let plan = ["--host", &host.address, "quota", "set", "acme", "--plan", "gold", "--reset", "--concurrency", "8"];
    assert_eq!(person.run(&plan).exit, ExitCode::SUCCESS);
    let sent: Vec<_> = host.seen().into_iter().filter(|seen| seen.line.starts_with("PUT")).collect();
    let body = |index: usize| serde_json::from_slice::<Value>(&sent[index].body).unwrap();
    assert_eq!(body(0), json!({ "plan": "free", "overrides": { "weight": 50, "plugins_count": 20 } }));
    assert_eq!(body(1), json!({ "plan": "gold", "overrides": { "concurrency_count": 8 } }));
    assert!(sent.iter().all(|seen| seen.headers.contains(&("if-match".to_owned(), "\"4\"".to_owned()))));
}

#[test]
fn a_quota_that_is_used_up_says_which_and_who_can_raise_it() {
    let host = StandIn::start();
    let help = "see `ringfence quota show acme`; an operator can raise it with `ringfence quota set`";
    let detail = "the tenant's quota of 10737418240 bytes of storage is used up";
    let reply = Reply::problem(429, "quota-exhausted", detail, Some(help));
    host.tell("PUT /tenants/acme/plugins/visits/config/colour", reply);
    let person = Person::with_key();
    let set = ["--host", &host.address, "--tenant", "acme", "config", "set", "visits", "colour", "blue"];
    let outcome = person.run(&set);
    assert_eq!(outcome.exit, ExitCode::from(7), "{outcome:?}");
    golden("error-quota-exhausted", &outcome.err);
}
