//! Runs that plugins begin, signal, cancel and look at through the real binary: from a request, a message, a schedule and the
//! step of a run; what is not granted or forbidden; and whose name stands on the audit log.

use anyhow::{Context, Result};
use ringfence_tests::{Host, Session, Tenant, answer, eventually};
use serde_json::{Value, json};

use crate::automation::{queue, send};
use crate::runs::trail;
use crate::started;
use crate::workflows::{begin, until};

const BUDGET: &str = "[budget]\ncpu_ms = 4000\ntime_ms = 30000\n";

/// A tenant with workflows that wait and nap, and with a plugin that may reach those that wait, and its own.
async fn ready(host: &Host, operator: &Session) -> Result<Tenant> {
    let acme = host.tenant(operator, "acme").await?;
    acme.ship("runs", "runs", BUDGET, &[("http", &["http://127.0.0.1:9"])]).await?;
    acme.ship("starter", "starter", BUDGET, &[("runs", &["runs/waiter", "starter"])]).await?;
    Ok(acme)
}

/// What the plugin says that the host said.
async fn says(acme: &Tenant, asked: &str) -> Result<String> {
    let (status, text) = acme.fetch("starter", asked).await?;
    anyhow::ensure!(status.is_success(), "{asked}: {status}: {text}");
    Ok(text)
}

/// The id of a run in a text.
fn id_in(text: &str) -> Result<String> {
    let from = text.find("run_").with_context(|| format!("no run in {text}"))?;
    Ok(text[from..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
}

/// The tenant's runs of a workflow.
async fn all(acme: &Tenant, workflow: &str) -> Result<Vec<Value>> {
    let listed = answer(acme.admin.get(&acme.path(&format!("/runs?workflow={workflow}"))).send().await?).await?;
    Ok(listed["items"].as_array().context("items")?.clone())
}

#[tokio::test]
async fn a_plugin_begins_a_run_once_signals_it_and_sees_what_it_came_to_on_its_own_name() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    let waiter = "/begin?plugin=runs&workflow=waiter&input=null&key=visit-7";
    let told = says(&acme, waiter).await?;
    let run = id_in(&told)?;
    assert!(told.contains("is_new: true"), "{told}");
    let again = says(&acme, waiter).await?;
    assert!(again.contains("is_new: false") && again.contains(&run), "{again}");
    let other = says(&acme, &waiter.replace("null", "1")).await?;
    assert_eq!(other, "refused: OtherInput");
    let shown = until(&acme, &run, "waiting").await?;
    assert_eq!((&shown["by"], &shown["attributes"]["by"]), (&json!("acme/plugin/starter"), &json!("starter")));
    assert_eq!(shown["timeline"][0]["details"]["led_by"]["began_by"], "acme/admin", "{shown}");
    let inspect = format!("/inspect?run={run}");
    assert_eq!(says(&acme, &inspect).await?, "Waiting");
    assert!(says(&acme, "/find?plugin=runs&workflow=waiter&key=visit-7").await?.contains(&run));
    assert_eq!(says(&acme, "/find?plugin=runs&workflow=waiter&key=visit-8").await?, "refused: Unknown");

    assert_eq!(says(&acme, &format!("/signal?run={run}&name=go")).await?, "()");
    assert_eq!(until(&acme, &run, "completed").await?["output"], 7);
    assert_eq!(says(&acme, &inspect).await?, "Completed(\"7\")");
    for late in ["signal?name=go", "cancel?"] {
        assert_eq!(says(&acme, &format!("/{late}&run={run}")).await?, "refused: Ended", "{late}");
    }
    let second = id_in(&says(&acme, &waiter.replace("visit-7", "visit-8")).await?)?;
    assert_eq!(says(&acme, &format!("/cancel?run={second}")).await?, "()");
    until(&acme, &second, "cancelled").await?;

    let log = trail(&acme).await?;
    let by_plugin: Vec<&Value> = log
        .iter()
        .filter(|body| body["metadata"]["event_code"] != "RUN-002")
        .inspect(|body| assert_eq!(body["actor"]["user"]["uid"], "acme/plugin/starter", "{body}"))
        .collect();
    let codes = |code: &str| by_plugin.iter().filter(|body| body["metadata"]["event_code"] == code).count();
    assert_eq!((codes("RUN-001"), codes("RUN-003"), codes("RUN-004")), (3, 1, 1), "{log:?}");
    for body in by_plugin {
        let details = &body["unmapped"]["details"];
        assert!(details["invocation"].as_str().is_some_and(|id| id.starts_with("i_")), "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_granted_or_forbidden_is_not_reached_and_a_run_of_it_is_told_from_none_by_nothing() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    let napper = begin(&acme, &json!({ "plugin": "runs", "workflow": "napper", "input": 3_600_000 })).await?;
    until(&acme, &napper, "waiting").await?;
    assert!(says(&acme, "/begin?plugin=runs&workflow=napper&input=1&key=k").await?.starts_with("refused: Denied"));
    for run in [napper.as_str(), "run_aaaaaaaaaaaaaaaaaaaaaaaaaa", "no-run"] {
        for asked in ["inspect?", "cancel?", "signal?name=go"] {
            assert_eq!(says(&acme, &format!("/{asked}&run={run}")).await?, "refused: Unknown", "{asked} {run}");
        }
    }
    let forbids = "@id(\"no-waiting\")\nforbid (principal == Ringfence::Plugin::\"acme/starter\", \
        action == Ringfence::Action::\"begin-run\", resource == Ringfence::Plugin::\"acme/runs\") \
        when { context.workflow == \"waiter\" && context.caller == \"acme/admin\" };";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": forbids })).send().await?).await?;
    let waiter = "/begin?plugin=runs&workflow=waiter&input=null&key=k";
    assert!(says(&acme, waiter).await?.starts_with("refused: Denied(\"policy"));
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": "" })).send().await?).await?;
    let invalid = says(&acme, &waiter.replace("input=null", "input=%7B")).await?;
    assert!(invalid.starts_with("refused: Invalid"), "{invalid}");
    assert!(says(&acme, waiter).await?.contains("is_new: true"));
    answer(acme.admin.delete(&acme.path("/plugins/starter/grants/runs")).send().await?).await?;
    assert!(says(&acme, waiter).await?.starts_with("refused: Denied"));
    assert_eq!(all(&acme, "waiter").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_message_that_comes_twice_and_a_schedule_begin_a_run_each() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    queue(&acme, "work", json!({ "plugin": "starter" })).await?;
    for _ in 0..2 {
        send(&acme, "work", &json!({ "payload": { "key": "note-1" } })).await?;
    }
    eventually("both messages", async || {
        let queue = answer(acme.admin.get(&acme.path("/queues/work")).send().await?).await?;
        Ok(queue["depth_count"] == 0)
    })
    .await?;
    let begun = all(&acme, "waiter").await?;
    assert_eq!(begun.len(), 1, "{begun:?}");
    let shown = until(&acme, begun[0]["id"].as_str().context("id")?, "waiting").await?;
    // Whoever sent the message stands behind it.
    assert_eq!(shown["timeline"][0]["details"]["led_by"]["began_by"], "acme/admin", "{shown}");

    let path = acme.path("/schedules/often");
    answer(acme.admin.put(&path).json(&json!({ "plugin": "starter", "cron": "0 0 1 1 *" })).send().await?).await?;
    let told = answer(acme.admin.post(&format!("{path}/run")).send().await?).await?;
    assert_eq!(told["outcome"], "done", "{told}");
    assert_eq!(all(&acme, "waiter").await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn runs_that_begin_one_another_in_steps_end_at_their_depth_and_their_code_begins_none() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = ready(&host, &operator).await?;
    let first = begin(&acme, &json!({ "plugin": "starter", "input": 0 })).await?;
    let done = until(&acme, &first, "completed").await?;
    let (outside, next) = (&done["output"]["outside"], &done["output"]["begun"]);
    assert!(outside.as_str().is_some_and(|said| said.starts_with("refused: Invalid")), "{done}");
    assert!(next.as_str().is_some_and(|said| said.contains("is_new: true")), "{done}");
    let mut all_done = Vec::new();
    eventually("all of them", async || {
        all_done = all(&acme, "starter").await?;
        Ok(all_done.len() == 9 && all_done.iter().all(|run| run["status"] == "completed"))
    })
    .await?;
    let mut refused = Vec::new();
    for run in &all_done {
        let shown = until(&acme, run["id"].as_str().context("id")?, "completed").await?;
        let said = shown["output"]["begun"].as_str().context("what it was told")?;
        if !said.contains("is_new: true") {
            refused.push((shown["input"].clone(), said.to_owned()));
        }
    }
    assert!(
        matches!(&refused[..], [(deepest, said)] if *deepest == 8 && said.starts_with("refused: OverLimit")),
        "{refused:?}"
    );
    Ok(())
}
