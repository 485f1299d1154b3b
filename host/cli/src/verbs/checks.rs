//! `audit check`, `audit remediate`, `audit host-calls`: a tenant's own checks, and what is done about what they find.
//!
//! Must never show a check that came to nothing sure as one that passes.

use std::fs::File;
use std::path::Path;

use ringfence_control::wire::{
    CheckDetail, CheckResult, CheckView, CheckWritten, HostCallSettings, Page, RemediateViolation, RemediationParams,
    RemediationView,
};
use serde_json::{Value, json};

use crate::args::{CheckCommand, CheckSetArgs, HostCallsArgs, RemediateArgs};
use crate::client::{Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;
use crate::verbs::audit_views::own;

/// LIMIT: largest file with a check, in bytes; the host takes fewer.
const CHECK_BYTES_MAX: usize = 64 << 10;

/// `ringfence audit check ...`.
pub async fn run(cx: &mut Context<'_>, command: &CheckCommand) -> Result<Exit, CliError> {
    let path = |name: &str| Ok::<_, CliError>(format!("/audit/compliance-checks/{}", segment(name)?));
    match command {
        CheckCommand::List => list(cx).await,
        CheckCommand::Show(args) => {
            let (api, _tenant) = cx.tenant().await?;
            let answer = api.send::<CheckDetail>(&Request::get(path(&args.check)?)).await?;
            cx.print(&answer, |detail| {
                let rows: Vec<_> = std::iter::once(&detail.check).chain(&detail.versions).map(version_row).collect();
                table(["version", "by", "at", "over", "rule"], &rows)
            })?;
            Ok(Exit::Ok)
        }
        CheckCommand::Set(args) => set(cx, args).await,
        CheckCommand::Run(args) => {
            let (api, _tenant) = cx.tenant().await?;
            let request = Request::post(format!("{}/run", path(&args.check)?), json!({}));
            let answer = api.send::<CheckResult>(&request).await?;
            let passed = answer.value.state == "pass";
            cx.print(&answer, result_text)?;
            Ok(if passed { Exit::Ok } else { Exit::Failed })
        }
        CheckCommand::Delete(args) => {
            let (api, _tenant) = cx.tenant().await?;
            api.act(&Request::delete(path(&args.check)?)).await?;
            cx.done(&format!("deleted the check {}", args.check))?;
            Ok(Exit::Ok)
        }
    }
}

/// `ringfence audit remediate`.
pub async fn remediate(cx: &mut Context<'_>, args: &RemediateArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let params = RemediationParams {
        owner: args.owner.clone(),
        due_at: args.due.clone(),
        note: args.note.clone(),
        evidence: args.evidence.clone(),
        until: args.until.clone(),
        response: None,
    };
    let (violation_id, action) = (args.violation.clone(), args.action.clone());
    let body = serde_json::to_value(RemediateViolation { violation_id, action, params, dry_run: args.dry_run });
    let request = Request::put("/audit/remediation-action", body.unwrap_or_default());
    let answer = api.send::<RemediationView>(&request).await?;
    cx.print(&answer, |done| {
        let effect = if done.effect.is_empty() { String::new() } else { format!("\n  {}", done.effect) };
        format!("{}  {}{effect}", done.violation_id, done.state)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit host-calls`.
pub async fn host_calls(cx: &mut Context<'_>, args: &HostCallsArgs) -> Result<Exit, CliError> {
    let (api, _tenant) = cx.tenant().await?;
    let mut settings = HostCallSettings::default();
    for word in &args.shares {
        let (capability, share) = word.split_once('=').ok_or_else(|| {
            CliError::failed("usage", format!("`{word}` is not CAPABILITY=SHARE, such as `keyvalue=1/100`"), None)
        })?;
        settings.host_calls.insert(capability.to_owned(), share.to_owned());
    }
    let request = match args.shares.is_empty() {
        true => Request::get("/audit/host-calls"),
        false => Request::put("/audit/host-calls", serde_json::to_value(&settings).unwrap_or_default()),
    };
    let answer = api.send::<HostCallSettings>(&request).await?;
    cx.print(&answer, |settings| {
        let rows: Vec<[String; 2]> =
            settings.host_calls.iter().map(|(name, share)| [name.clone(), share.clone()]).collect();
        match rows.is_empty() {
            true => "no host calls are put on the log".to_owned(),
            false => format!(
                "{}\nmissing since the host started: {}",
                table(["capability", "share"], &rows),
                settings.missed_count
            ),
        }
    })?;
    Ok(Exit::Ok)
}

async fn list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, _tenant) = cx.tenant().await?;
    let answer = api.send::<Page<CheckView>>(&Request::get("/audit/compliance-checks")).await?;
    cx.print(&answer, |page| {
        let rows: Vec<[String; 6]> = page.items.iter().map(row).collect();
        match rows.is_empty() {
            true => "there are no checks".to_owned(),
            false => table(["check", "version", "last", "at", "next", "why"], &rows),
        }
    })?;
    Ok(Exit::Ok)
}

async fn set(cx: &mut Context<'_>, args: &CheckSetArgs) -> Result<Exit, CliError> {
    let (api, _tenant) = cx.tenant().await?;
    let body = with_dry_run(&args.file, args.dry_run)?;
    let answer = api.send::<CheckWritten>(&Request::put("/audit/compliance-check", body)).await?;
    cx.print(&answer, |written| match written.version {
        Some(version) => {
            let check = &written.dry_run_result.check;
            let run = format!("tried, not run; a finding comes of:  ringfence audit check run {check}");
            format!("kept as version {version}; {}\n  {run}", result_text(&written.dry_run_result))
        }
        None => result_text(&written.dry_run_result),
    })?;
    Ok(Exit::Ok)
}

fn with_dry_run(path: &Path, dry_run: bool) -> Result<Value, CliError> {
    let mut file = File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    let bytes = read_capped(&mut file, CHECK_BYTES_MAX, "the file")?;
    let not_json =
        |why: &str| CliError::failed("bad-json", format!("`{}` is not a check: {why}", path.display()), None);
    let mut body: Value = serde_json::from_slice(&bytes).map_err(|error| not_json(&error.to_string()))?;
    let members = body.as_object_mut().ok_or_else(|| not_json("it is no object"))?;
    if dry_run {
        members.insert("dry_run".to_owned(), Value::Bool(true));
    }
    Ok(body)
}

fn row(check: &CheckView) -> [String; 6] {
    let last = check.last.as_ref();
    [
        check.id.clone(),
        check.version.to_string(),
        last.map_or_else(|| "not run yet".to_owned(), |last| last.state.clone()),
        last.map(|last| last.at.clone()).unwrap_or_default(),
        check.next_at.clone().unwrap_or_default(),
        last.map_or_else(|| "tried when it was written, and not run since".to_owned(), |last| last.why.clone()),
    ]
}

fn version_row(check: &CheckView) -> [String; 5] {
    [check.version.to_string(), check.by.clone(), check.at.clone(), check.over.clone(), check.rule.clone()]
}

fn result_text(result: &CheckResult) -> String {
    let why = if result.why.is_empty() { String::new() } else { format!(": {}", result.why) };
    let no_pass = if result.state == "unknown" { "\n  it could not be judged, which is no pass" } else { "" };
    format!("{} comes to {}{why}{no_pass}", result.check, result.state)
}
