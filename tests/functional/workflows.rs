//! Durable workflows through the API: steps, signals, timers, people, children, versions, limits.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use ringfence_tests::far_end::FarEnd;
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, problem, string};
use serde_json::{Value, json};

use crate::started;

const BUDGET: &str = "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n";

const DECIDERS: &str = "@id(\"finance-pays\") \
    forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
    when { context has approval && context.approval.name == \"payment\" } \
    unless { principal is Ringfence::Person && principal.certifications.contains(\"finance\") };\n\
    @id(\"not-ones-own\") \
    forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
    when { context has approval && context.approval.is_own };";

/// A host whose guests may reach the far end.
pub async fn started_beside(far: &FarEnd) -> Result<(Place, Host, Session)> {
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{}\"]\n", far.address))?;
    let host = Host::start_with(&place, &["--config", &config.display().to_string()], &[])?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}

pub async fn begin(tenant: &Tenant, body: &Value) -> Result<String> {
    string(&answer(tenant.admin.post(&tenant.path("/runs")).json(body).send().await?).await?, "id")
}

async fn show(tenant: &Tenant, run: &str) -> Result<Value> {
    answer(tenant.admin.get(&tenant.path(&format!("/runs/{run}"))).send().await?).await
}

/// Waits until the run is doing this, and shows it.
pub async fn until(tenant: &Tenant, run: &str, status: &str) -> Result<Value> {
    let mut last = Value::Null;
    eventually(&format!("the run is {status}"), async || {
        last = show(tenant, run).await?;
        Ok(last["status"] == *status)
    })
    .await
    .with_context(|| format!("{last}"))?;
    Ok(last)
}

pub async fn act(who: &Session, tenant: &Tenant, run: &str, verb: &str, body: &Value) -> Result<(u16, Value)> {
    let response = who.post(&tenant.path(&format!("/runs/{run}/{verb}"))).json(body).send().await?;
    let status = response.status();
    if status.is_success() { Ok((status.as_u16(), answer(response).await?)) } else { problem(response).await }
}

pub fn events(run: &Value, word: &str) -> usize {
    run["timeline"].as_array().map_or(0, |all| all.iter().filter(|entry| entry["event"] == *word).count())
}

#[tokio::test]
async fn a_checkout_charges_and_ships_once_and_takes_the_charge_back_when_shipping_is_refused() -> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = host.tenant(&operator, "acme").await?;
    let origin = far.origin();
    acme.push("checkout", "checkout", "0.1.0", BUDGET).await?;
    acme.grant("checkout", "config", &[]).await?;
    acme.grant("checkout", "http", &[&origin]).await?;
    acme.deploy("checkout", "0.1.0").await?;
    let config = acme.path("/plugins/checkout/config/shop-url");
    answer(acme.admin.put(&config).json(&json!({ "value": origin })).send().await?).await?;
    let good = json!({ "plugin": "checkout", "input": { "id": "17", "pence": 999 }, "key": "order-17" });
    let run = begin(&acme, &good).await?;
    let done = until(&acme, &run, "completed").await?;
    assert!(done["output"]["parcel"].as_str().is_some_and(|parcel| parcel.starts_with("ship-")), "{done}");
    assert_eq!((events(&done, "step-done"), done["attributes"]["order"].as_str()), (2, Some("17")));
    // The same key is the same run.
    assert_eq!(begin(&acme, &good).await?, run);
    assert_eq!(far.asked().len(), 2);
    let query = answer(acme.admin.get(&acme.path(&format!("/runs/{run}/queries/parcel"))).send().await?).await?;
    assert_eq!(query["value"], done["output"]["parcel"]);
    let found = answer(acme.admin.get(&acme.path("/runs?attributes=order=17")).send().await?).await?;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));

    far.refuse("/ship");
    let run = begin(&acme, &json!({ "plugin": "checkout", "input": { "id": "18", "pence": 1 } })).await?;
    let failed = until(&acme, &run, "failed").await?;
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("ship was refused")), "{failed}");
    let words: Vec<String> = far.asked().into_values().map(|(what, _)| what).collect();
    assert!(words.iter().any(|what| what.starts_with("/refund charge-")), "{words:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_waits_for_its_signal_however_early_it_comes_and_its_children_and_branches_go_on_beside() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    let start = |workflow: &str, input: Value| json!({ "plugin": "runs", "workflow": workflow, "input": input });

    let waiter = begin(&acme, &start("waiter", Value::Null)).await?;
    let early = begin(&acme, &start("waiter", Value::Null)).await?;
    let go = json!({ "name": "go", "payload": { "n": 1 }, "key": "once" });
    assert_eq!(act(&acme.admin, &acme, &early, "signal", &go).await?.0, 200);
    assert_eq!(until(&acme, &early, "completed").await?["output"], json!({ "n": 1 }));
    let waiting = until(&acme, &waiter, "waiting").await?;
    assert_eq!(waiting["waits"][0]["what"], "signal");
    for _ in 0..2 {
        let (status, told) = act(&acme.admin, &acme, &waiter, "signal", &go).await?;
        assert!(status == 200 || told["code"] == "run-ended", "{told}");
    }
    let done = until(&acme, &waiter, "completed").await?;
    assert_eq!((done["output"].clone(), events(&done, "signal-received")), (json!({ "n": 1 }), 1));

    let parent = begin(&acme, &start("parent", json!(50))).await?;
    assert_eq!(until(&acme, &parent, "completed").await?["output"], 100);
    let family = begin(&acme, &start("family", Value::Null)).await?;
    until(&acme, &family, "waiting").await?;
    for name in ["c", "a", "b"] {
        act(&acme.admin, &acme, &family, "signal", &json!({ "name": name, "payload": name })).await?;
    }
    assert_eq!(until(&acme, &family, "completed").await?["output"], json!(["a", "b", "c"]));
    Ok(())
}

#[tokio::test]
async fn people_decide_under_the_policy_of_the_moment_and_two_are_two() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("approval", "approval", "", &[]).await?;
    let yes = json!({ "name": "payment", "approved": true, "note": "fine" });
    let small = begin(&acme, &json!({ "plugin": "approval", "input": { "to": "ann", "pounds": 5 } })).await?;
    until(&acme, &small, "waiting").await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let (status, told) = act(&developer, &acme, &small, "approve", &yes).await?;
    assert_eq!((status, told["code"].as_str()), (403, Some("denied")), "a developer approves nothing");
    assert_eq!(act(&acme.admin, &acme, &small, "approve", &yes).await?.0, 200);
    assert_eq!(until(&acme, &small, "completed").await?["output"], "paid, said acme/admin");

    let large = begin(&acme, &json!({ "plugin": "approval", "input": { "to": "bob", "pounds": 50_000 } })).await?;
    until(&acme, &large, "waiting").await?;
    let (status, told) = act(&acme.admin, &acme, &large, "approve", &yes).await?;
    assert_eq!((status, told["code"].as_str()), (409, Some("second-person-needed")), "who began it");
    let second = acme.member(&host, "two", "tenant-admin").await?;
    assert_eq!(act(&second, &acme, &large, "approve", &yes).await?.1["code"], "second-person-needed", "his other key");
    let bob = host.person(&acme.admin, "/tenants/acme/people", "bob", "tenant-admin").await?;
    assert_eq!(act(&bob, &acme, &large, "approve", &yes).await?.0, 200);
    let spare = json!({ "name": "spare", "role": "tenant-admin" });
    let spare = answer(bob.post(&acme.path("/tokens")).json(&spare).send().await?).await?;
    let spare = host.sign_in(&string(&spare, "key")?).await?;
    for same in [&bob, &spare] {
        assert_eq!(act(same, &acme, &large, "approve", &yes).await?.1["code"], "second-person-needed");
    }
    // The second one's right is taken away before he says anything.
    let text = "@id(\"two-approves-nothing\")\nforbid (principal == Ringfence::Service::\"acme/two\", \
                action == Ringfence::Action::\"approve-run\", resource);";
    let put = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?;
    assert!(put.status().is_success(), "{}", put.text().await?);
    assert_eq!(act(&second, &acme, &large, "approve", &yes).await?.0, 403);
    let eve = host.person(&acme.admin, "/tenants/acme/people", "eve", "tenant-admin").await?;
    assert_eq!(act(&eve, &acme, &large, "approve", &yes).await?.0, 200);
    assert_eq!(until(&acme, &large, "completed").await?["output"], "paid, said acme/bob,acme/eve");
    Ok(())
}

#[tokio::test]
async fn a_policy_says_who_decides_what_and_that_nobody_decides_what_he_began() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("approval", "approval", "", &[]).await?;
    let labels = json!({ "principals": { "acme/fin": { "certifications": ["finance"] } } });
    answer(acme.admin.put(&acme.path("/policy/labels")).json(&labels).send().await?).await?;
    let fin = host.person(&acme.admin, "/tenants/acme/people", "fin", "tenant-admin").await?;
    let eve = host.person(&acme.admin, "/tenants/acme/people", "eve", "tenant-admin").await?;
    let put = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": DECIDERS })).send().await?;
    assert!(put.status().is_success(), "{}", put.text().await?);

    let small = json!({ "plugin": "approval", "input": { "to": "ann", "pounds": 5 } });
    let yes = json!({ "name": "payment", "approved": true });
    let run = begin(&acme, &small).await?;
    until(&acme, &run, "waiting").await?;
    // What a denied person is told when he asks why: which statements, about what, and what to do.
    let denied = async |who: &Session, run: &str| {
        let (status, told) = act(who, &acme, run, "approve", &yes).await?;
        assert_eq!((status, told["code"].as_str()), (403, Some("denied")), "{told}");
        let why = answer(who.get(&format!("/decisions/{}", string(&told, "decision_id")?)).send().await?).await?;
        assert_eq!(why["resource"], "tenant/acme/plugin/approval (payment)", "{why}");
        let reasons = why["reasons"].as_array().context("reasons")?;
        let policies: Vec<String> = reasons.iter().map(|reason| string(reason, "policy")).collect::<Result<_>>()?;
        anyhow::Ok((policies, string(&why, "help")?))
    };
    let (policies, help) = denied(&eve, &run).await?;
    assert_eq!(policies, ["tenant/finance-pays"]);
    assert!(help.contains("policy `tenant/finance-pays` of tenant `acme` forbids it"), "{help}");
    assert_eq!(denied(&acme.admin, &run).await?.0, ["tenant/finance-pays", "tenant/not-ones-own"]);

    let own = answer(fin.post(&acme.path("/runs")).json(&small).send().await?).await?;
    let own = string(&own, "id")?;
    until(&acme, &own, "waiting").await?;
    let (policies, help) = denied(&fin, &own).await?;
    assert_eq!(policies, ["tenant/not-ones-own"]);
    assert!(help.contains("`acme/fin` began this run") && help.contains("somebody else may"), "{help}");

    // A word to what is not asked is none, also from one whom no statement keeps from it.
    let other = json!({ "name": "refund", "approved": true });
    let (status, told) = act(&eve, &acme, &run, "approve", &other).await?;
    assert_eq!((status, told["code"].as_str()), (409, Some("run-not-waiting")), "{told}");
    assert_eq!(act(&fin, &acme, &run, "approve", &yes).await?.0, 200);
    assert_eq!(until(&acme, &run, "completed").await?["output"], "paid, said acme/fin");
    assert_eq!(events(&show(&acme, &own).await?, "approval-given"), 0);
    Ok(())
}

#[tokio::test]
async fn a_yes_of_one_who_was_removed_or_may_not_agree_any_more_does_not_count_with_the_next() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("approval", "approval", "", &[]).await?;
    let yes = json!({ "name": "payment", "approved": true, "note": "fine" });
    let large = begin(&acme, &json!({ "plugin": "approval", "input": { "to": "bob", "pounds": 50_000 } })).await?;
    until(&acme, &large, "waiting").await?;
    let mut people = Vec::new();
    for name in ["bob", "eve", "dan", "fay"] {
        people.push(host.person(&acme.admin, "/tenants/acme/people", name, "tenant-admin").await?);
    }
    let agrees = async |who: usize, dropped_count: usize| {
        assert_eq!(act(&people[who], &acme, &large, "approve", &yes).await?.0, 200);
        let run = show(&acme, &large).await?;
        assert_eq!(events(&run, "approval-dropped"), dropped_count, "{run}");
        anyhow::Ok(run)
    };
    agrees(0, 0).await?;
    let text = "@id(\"bob-agrees-to-nothing\")\nforbid (principal == Ringfence::Person::\"acme/bob\", \
                action == Ringfence::Action::\"approve-run\", resource);";
    let put = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?;
    assert!(put.status().is_success(), "{}", put.text().await?);
    // Of the two who agreed, one counts; and he is removed before the third does.
    assert!(agrees(1, 1).await?["ended_at"].is_null());
    let removed = acme.admin.delete(&acme.path("/people/eve")).send().await?;
    assert!(removed.status().is_success(), "{}", removed.text().await?);
    assert!(agrees(2, 2).await?["ended_at"].is_null());
    agrees(3, 2).await?;
    assert_eq!(until(&acme, &large, "completed").await?["output"], "paid, said acme/dan,acme/fay");
    Ok(())
}

#[tokio::test]
async fn runs_are_paused_cancelled_terminated_retried_and_kept_to_their_limits() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    let start = |workflow: &str, input: Value| json!({ "plugin": "runs", "workflow": workflow, "input": input });
    let none = json!({});

    let napper = begin(&acme, &start("napper", json!(3_600_000))).await?;
    until(&acme, &napper, "waiting").await?;
    assert_eq!(act(&acme.admin, &acme, &napper, "cancel", &none).await?.0, 200);
    until(&acme, &napper, "cancelled").await?;
    assert_eq!(act(&acme.admin, &acme, &napper, "cancel", &none).await?.1["code"], "run-ended");

    let waiter = begin(&acme, &start("waiter", Value::Null)).await?;
    until(&acme, &waiter, "waiting").await?;
    let (status, told) = act(&acme.admin, &acme, &waiter, "signal", &json!({ "name": "bad name!" })).await?;
    assert_eq!((status, &told["code"]), (422, &json!("bad-word")), "{told}");
    act(&acme.admin, &acme, &waiter, "pause", &none).await?;
    act(&acme.admin, &acme, &waiter, "signal", &json!({ "name": "go" })).await?;
    until(&acme, &waiter, "paused").await?;
    act(&acme.admin, &acme, &waiter, "resume", &none).await?;
    until(&acme, &waiter, "completed").await?;

    let picky = begin(&acme, &start("picky", Value::Null)).await?;
    let failed = until(&acme, &picky, "failed").await?;
    assert_eq!(events(&failed, "step-done"), 1);
    assert_eq!(act(&acme.admin, &acme, &picky, "retry", &json!({ "from": "0" })).await?.0, 200);
    eventually("the step is done again", async || Ok(events(&show(&acme, &picky).await?, "step-done") == 2)).await?;

    let endless = begin(&acme, &start("waiter", Value::Null)).await?;
    act(&acme.admin, &acme, &endless, "terminate", &json!({ "reason": "enough" })).await?;
    assert_eq!(until(&acme, &endless, "terminated").await?["error"], "enough");

    let unknown = acme.admin.post(&acme.path("/runs")).json(&start("nothing", Value::Null)).send().await?;
    let (status, refused) = problem(unknown).await?;
    assert_eq!((status, &refused["code"]), (422, &json!("no-workflow")), "{refused}");
    assert!(string(&refused, "help")?.contains("napper"), "it says which there are: {refused}");
    Ok(())
}

#[tokio::test]
async fn a_run_never_has_an_instance_that_served_before_whatever_its_author_says() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let sections = format!("{BUDGET}[instance]\ninvocations_max = 100\n");
    acme.ship("runs", "runs", &sections, &[("http", &["http://127.0.0.1:9"])]).await?;
    for _ in 0..3 {
        let run = begin(&acme, &json!({ "plugin": "runs", "workflow": "forgetful", "input": null })).await?;
        assert_eq!(until(&acme, &run, "completed").await?["output"], 1);
    }
    Ok(())
}

#[tokio::test]
async fn clock_dice_and_the_order_of_maps_are_the_same_at_every_replay_and_the_clock_of_a_step_is_right() -> Result<()>
{
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    let mut orders = Vec::new();
    for _ in 0..3 {
        let run = begin(&acme, &json!({ "plugin": "runs", "workflow": "unordered", "input": null })).await?;
        // In another order a replay would ask for another step than its history has, and be stuck.
        let done = until(&acme, &run, "completed").await?;
        assert_eq!((events(&done, "step-done"), events(&done, "sleep-begun")), (13, 12), "{done}");
        let code_ms = done["output"][0].as_i64().context("the clock of the code")?;
        let step_ms = done["output"][1].as_i64().context("the clock of the step")?;
        let started_at: jiff::Timestamp = string(&done, "started_at")?.parse()?;
        assert_eq!(code_ms, started_at.as_millisecond());
        assert!(step_ms >= code_ms + 120, "twelve rests lie between: {done}");
        // What the dice come from is nobody's business.
        assert!(!done.to_string().contains("\"dice\""), "{done}");
        let timeline = done["timeline"].as_array().context("a timeline")?;
        let steps = timeline.iter().filter(|entry| entry["event"] == "step-done");
        orders.push(steps.map(|entry| entry["name"].to_string()).collect::<Vec<_>>());
    }
    orders.dedup();
    assert!(orders.len() > 1, "each run has its own dice: {orders:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_keeps_its_version_over_a_deploy_and_code_that_differs_is_stuck_until_it_is_mended() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    let input = json!({ "to": "a", "pounds": 1 });
    let body = json!({ "plugin": "runs", "workflow": "approval", "input": input });
    let run = begin(&acme, &body).await?;
    until(&acme, &run, "waiting").await?;
    // Another component under the next version: its workflow of that name asks people where this one did a step.
    acme.push("approval", "runs", "0.2.0", "").await?;
    acme.deploy("runs", "0.2.0").await?;
    let (status, moved) = act(&acme.admin, &acme, &run, "migrate", &json!({})).await?;
    assert_eq!((status, moved["version"].as_str()), (200, Some("0.2.0")));
    let differs = async |times: usize| {
        let stuck = until(&acme, &run, "stuck").await?;
        let error = stuck["error"].as_str().unwrap_or_default();
        let said = ["nondeterminism", "at place 0 ", "step `count`", "approval `payment`"];
        assert!(said.iter().all(|word| error.contains(word)), "{stuck}");
        assert_eq!(events(&stuck, "stuck"), times, "{stuck}");
        anyhow::Ok(())
    };
    differs(1).await?;
    // Nothing was mended: it is stuck at the same place again.
    assert_eq!(act(&acme.admin, &acme, &run, "retry", &json!({})).await?.0, 200);
    eventually("it was tried again", async || Ok(events(&show(&acme, &run).await?, "stuck") == 2)).await?;
    differs(2).await?;

    let kept = begin(&acme, &body).await?;
    until(&acme, &kept, "waiting").await?;
    let back = acme.admin.post(&acme.path("/plugins/runs/rollback")).json(&json!({})).send().await?;
    assert_eq!(back.status(), StatusCode::OK);
    let yes = json!({ "name": "payment", "approved": true });
    act(&acme.admin, &acme, &kept, "approve", &yes).await?;
    assert_eq!(until(&acme, &kept, "completed").await?["version"], "0.2.0");

    // Code that fits the history again: it goes on after the step that was done, and does not do it twice.
    acme.push("runs", "runs", "0.3.0", BUDGET).await?;
    acme.deploy("runs", "0.3.0").await?;
    assert_eq!(act(&acme.admin, &acme, &run, "migrate", &json!({})).await?.0, 200);
    until(&acme, &run, "waiting").await?;
    act(&acme.admin, &acme, &run, "signal", &json!({ "name": "go", "payload": 7 })).await?;
    let done = until(&acme, &run, "completed").await?;
    assert_eq!((&done["output"], done["version"].as_str()), (&json!(7), Some("0.3.0")), "{done}");
    assert_eq!(events(&done, "step-done"), 1, "{done}");
    Ok(())
}

#[tokio::test]
async fn a_suspended_tenants_runs_rest_and_go_on_when_it_is_resumed() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let other = host.tenant(&operator, "other").await?;
    for tenant in [&acme, &other] {
        tenant.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    }
    let napper = |ms: u64| json!({ "plugin": "runs", "workflow": "napper", "input": ms });
    let run = begin(&acme, &napper(1_500)).await?;
    until(&acme, &run, "waiting").await?;
    answer(operator.post("/tenants/acme/suspend").json(&json!({})).send().await?).await?;
    // Its time comes and passes: another tenant's, which is later, does too, and that one's run is over.
    let later = begin(&other, &napper(2_500)).await?;
    let later = until(&other, &later, "completed").await?;
    answer(operator.post("/tenants/acme/resume").json(&json!({})).send().await?).await?;
    let done = until(&acme, &run, "completed").await?;
    let timeline = done["timeline"].as_array().context("a timeline")?;
    let woken = timeline.iter().find(|entry| entry["event"] == "time-over").context("it slept")?;
    let at = |of: &Value, field: &str| anyhow::Ok(string(of, field)?.parse::<jiff::Timestamp>()?);
    assert!(at(woken, "at")? > at(&later, "ended_at")?, "it went on while its tenant was suspended: {done}");
    Ok(())
}

#[tokio::test]
async fn a_run_goes_on_as_another_with_a_history_of_its_own_and_one_that_is_cancelled_takes_back_what_it_did()
-> Result<()> {
    let far = FarEnd::start().await?;
    let (_place, host, operator) = started_beside(&far).await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &[&far.origin()])]).await?;
    let mut run = begin(&acme, &json!({ "plugin": "runs", "workflow": "counter", "input": 3 })).await?;
    for left in (1..=3).rev() {
        let ended = until(&acme, &run, "continued").await?;
        assert_eq!((events(&ended, "step-done"), &ended["input"]), (1, &json!(left)), "{ended}");
        run = string(&ended, "continued_as")?;
    }
    let last = until(&acme, &run, "completed").await?;
    assert_eq!((events(&last, "step-done"), &last["output"]), (1, &json!(0)), "{last}");

    let url = format!("{}/card", far.origin());
    let run = begin(&acme, &json!({ "plugin": "runs", "workflow": "undoer", "input": url })).await?;
    until(&acme, &run, "waiting").await?;
    assert_eq!(act(&acme.admin, &acme, &run, "cancel", &json!({})).await?.0, 200);
    let cancelled = until(&acme, &run, "cancelled").await?;
    let mut told: Vec<(String, usize)> = far.asked().into_values().collect();
    told.sort();
    assert_eq!(told, [("/card charge".to_owned(), 1), ("/card refund".to_owned(), 1)]);
    assert_eq!(events(&cancelled, "step-done"), 2, "{cancelled}");
    Ok(())
}

#[tokio::test]
async fn a_workflow_that_loops_for_ever_is_stuck_or_stopped_and_holds_up_no_other() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let budget = "[budget]\ncpu_ms = 500\ntime_ms = 5000\n";
    acme.ship("runs", "runs", budget, &[("http", &["http://127.0.0.1:9"])]).await?;
    let start = |workflow: &str, input: Value| json!({ "plugin": "runs", "workflow": workflow, "input": input });
    // One that asks for ever is run on from its history, one budget after the other, until somebody stops it.
    let endless = begin(&acme, &start("endless", Value::Null)).await?;
    eventually("it asks", async || Ok(events(&show(&acme, &endless).await?, "told") > 0)).await?;
    // One that asks for nothing comes no further with another budget.
    let spinner = begin(&acme, &start("spinner", Value::Null)).await?;
    let stuck = until(&acme, &spinner, "stuck").await?;
    assert!(stuck["error"].as_str().is_some_and(|error| error.starts_with("budget-")), "{stuck}");
    let beside = begin(&acme, &start("napper", json!(10))).await?;
    until(&acme, &beside, "completed").await?;
    for run in [&endless, &spinner] {
        assert!(show(&acme, run).await?["ended_at"].is_null());
        assert_eq!(act(&acme.admin, &acme, run, "terminate", &json!({ "reason": "enough" })).await?.0, 200);
        assert_eq!(until(&acme, run, "terminated").await?["error"], "enough");
    }
    Ok(())
}

#[tokio::test]
async fn a_run_whose_tenants_storage_is_full_goes_on_at_once_when_there_is_more() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    let quota = async || answer(operator.get("/tenants/acme/quota").send().await?).await;
    let set = async |storage_bytes: u64| {
        let body = json!({ "overrides": { "storage_bytes": storage_bytes } });
        answer(operator.put("/tenants/acme/quota").json(&body).send().await?).await
    };
    let used = quota().await?["use"]["storage_bytes"].as_u64().context("bytes")?;
    set(used + 8_000).await?;
    let run = begin(&acme, &json!({ "plugin": "runs", "input": { "url": null, "steps": 200, "every": 0 } })).await?;
    eventually("the storage is full", async || {
        Ok(quota().await?["throttled"]["storage_count"].as_u64().is_some_and(|count| count > 0))
    })
    .await?;
    let shown = show(&acme, &run).await?;
    assert!(shown["ended_at"].is_null() && events(&shown, "step-done") < 200, "{shown}");
    set(used + 10_000_000).await?;
    let done = until(&acme, &run, "completed").await?;
    assert_eq!((events(&done, "step-done"), &done["output"]), (200, &json!(200)));
    Ok(())
}
