//! `run`: durable workflows.
//!
//! Must never end a run without having been told which.

use std::collections::BTreeMap;

use ringfence_control::wire::{
    DecideRun, MigrateRun, QueryView, RetryRun, RunDetail, RunView, SignalRun, StartRun, TerminateRun,
};
use serde_json::{Value, json};

use crate::args::{RunApproveArgs, RunArgs, RunCommand, RunListArgs, RunQueryArgs, RunSignalArgs, RunStartArgs};
use crate::client::Request;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;

/// LIMIT: longest input or payload.
const JSON_BYTES_MAX: usize = 256 << 10;

/// Does what a `run` verb says.
pub async fn run(cx: &mut Context<'_>, command: &RunCommand) -> Result<Exit, CliError> {
    match command {
        RunCommand::List(args) => list(cx, args).await,
        RunCommand::Show(args) => show(cx, args).await,
        RunCommand::Start(args) => start(cx, args).await,
        RunCommand::Signal(args) => signal(cx, args).await,
        RunCommand::Approve(args) => approve(cx, args).await,
        RunCommand::Query(args) => query(cx, args).await,
        RunCommand::Cancel(args) => change(cx, args.run.as_str(), "cancel", json!({})).await,
        RunCommand::Pause(args) => change(cx, args.run.as_str(), "pause", json!({})).await,
        RunCommand::Resume(args) => change(cx, args.run.as_str(), "resume", json!({})).await,
        RunCommand::Terminate(args) => {
            let question = format!("Terminate run `{}`? Nothing that it did is taken back.", args.run);
            cx.ui.confirm(&format!("run terminate {}", args.run), &question)?;
            change(cx, args.run.as_str(), "terminate", to_value(&TerminateRun { reason: args.reason.clone() })).await
        }
        RunCommand::Retry(args) => {
            let body = RetryRun { from: args.from.as_ref().map(ToString::to_string) };
            change(cx, args.run.as_str(), "retry", to_value(&body)).await
        }
        RunCommand::Migrate(args) => {
            change(cx, args.run.as_str(), "migrate", to_value(&MigrateRun { version: args.version.clone() })).await
        }
    }
}

async fn list(cx: &mut Context<'_>, args: &RunListArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/runs"))
        .query("status", args.status.as_ref())
        .query("plugin", args.plugin.as_ref())
        .query("workflow", args.workflow.as_ref())
        .query("attributes", args.attributes.as_ref());
    let answer = api.list::<RunView>(&request, "cursor").await?;
    cx.print_list(&answer, "there are no such runs; begin one with  ringfence run start PLUGIN", |runs| {
        let rows: Vec<[String; 5]> = runs
            .iter()
            .map(|run| {
                let plugin = format!("{}@{}", run.plugin, run.version);
                [run.id.clone(), run.workflow.clone(), plugin, run.status.clone(), run.changed_at.clone()]
            })
            .collect();
        table(["run", "workflow", "plugin", "status", "changed"], &rows)
    })?;
    Ok(Exit::Ok)
}

async fn show(cx: &mut Context<'_>, args: &RunArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let answer = api.send::<RunDetail>(&Request::get(format!("/tenants/{tenant}/runs/{}", args.run))).await?;
    cx.print(&answer, |detail| {
        let mut lines = vec![line(&detail.run)];
        for wait in &detail.waits {
            let until = wait.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
            lines.push(format!("waits at {} for {} {}{until}", wait.place, wait.what, wait.name));
        }
        let rows: Vec<[String; 5]> = detail
            .timeline
            .iter()
            .map(|entry| {
                let (place, name) = (entry.place.clone(), entry.name.clone());
                let (place, name) = (place.unwrap_or_default(), name.unwrap_or_default());
                [entry.at.clone(), entry.event.clone(), place, name, why(&entry.details)]
            })
            .collect();
        format!("{}\n{}", lines.join("\n"), table(["at", "event", "place", "name", "why"], &rows))
    })?;
    Ok(Exit::Ok)
}

/// Why something failed, in one line; empty for what did not. A guest wrote it.
fn why(details: &Value) -> String {
    let said = details.get("message").or_else(|| details.get("result")?.get("Err")).and_then(Value::as_str);
    said.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `name=value,name=value` as it is said on the command line.
fn attributes(text: Option<&str>) -> Result<BTreeMap<String, String>, CliError> {
    let pairs = text.into_iter().flat_map(|text| text.split(','));
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => {
                let detail = format!("`{pair}` is not an attribute: say `name=value`");
                Err(CliError::Usage { code: "usage", detail, help: None })
            }
        })
        .collect()
}

async fn start(cx: &mut Context<'_>, args: &RunStartArgs) -> Result<Exit, CliError> {
    let body = StartRun {
        plugin: args.plugin.to_string(),
        workflow: args.workflow.clone(),
        input: read_json(cx, &args.input)?,
        attributes: attributes(args.attributes.as_deref())?,
        key: args.key.clone(),
    };
    let (api, tenant) = cx.tenant().await?;
    let request = Request::post(format!("/tenants/{tenant}/runs"), to_value(&body));
    let answer = api.send::<RunView>(&request).await?;
    cx.print(&answer, line)?;
    Ok(Exit::Ok)
}

async fn signal(cx: &mut Context<'_>, args: &RunSignalArgs) -> Result<Exit, CliError> {
    let payload = read_json(cx, &args.payload)?;
    let body = SignalRun { name: args.name.clone(), payload, key: args.key.clone() };
    change(cx, args.run.as_str(), "signal", to_value(&body)).await
}

async fn approve(cx: &mut Context<'_>, args: &RunApproveArgs) -> Result<Exit, CliError> {
    let body = DecideRun { name: args.name.clone(), approved: !args.refuse, note: args.note.clone() };
    change(cx, args.run.as_str(), "approve", to_value(&body)).await
}

async fn query(cx: &mut Context<'_>, args: &RunQueryArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let name = crate::client::segment(&args.name)?;
    let request = Request::get(format!("/tenants/{tenant}/runs/{}/queries/{name}", args.run));
    let answer = api.send::<QueryView>(&request).await?;
    cx.print(&answer, |view| view.value.to_string())?;
    Ok(Exit::Ok)
}

async fn change(cx: &mut Context<'_>, run: &str, verb: &str, body: Value) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::post(format!("/tenants/{tenant}/runs/{run}/{verb}"), body);
    let answer = api.send::<RunView>(&request).await?;
    // These two are taken at once and act later: the state alone would read as if nothing had been asked.
    let said = match verb {
        "cancel" => "cancel was asked for: ",
        "signal" => "the signal was taken: ",
        _ => "",
    };
    cx.print(&answer, |run| format!("{said}{}", line(run)))?;
    Ok(Exit::Ok)
}

fn line(run: &RunView) -> String {
    let error = run.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("run {} of {} ({}@{}) is {}{error}", run.id, run.workflow, run.plugin, run.version, run.status)
}

/// JSON given as itself, as `@FILE` or as `-`.
fn read_json(cx: &mut Context<'_>, given: &str) -> Result<Value, CliError> {
    let bytes = match given.strip_prefix('@') {
        Some(path) => {
            let path = std::path::Path::new(path);
            let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
            read_capped(&mut file, JSON_BYTES_MAX, "the input")?
        }
        None if given == "-" => cx.ui.read_input(JSON_BYTES_MAX)?,
        None => given.as_bytes().to_vec(),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| CliError::failed("bad-json", format!("`{given}` is not JSON: {error}"), None))
}

fn to_value(body: &impl serde::Serialize) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why_in_one_line_and_what_went_well_says_nothing() {
        let failed = json!({ "attempt": 1, "message": "http: dns error:\n  shop.example", "again_at_ms": 5 });
        assert_eq!(why(&failed), "http: dns error: shop.example");
        assert_eq!(why(&json!({ "result": { "Err": "no such card" } })), "no such card");
        assert_eq!(why(&json!({ "result": { "Ok": "\"ch_1\"" } })), "");
        assert_eq!(why(&json!({})), "");
    }
}
