//! `hook`, `queue`, `schedule`: what the product starts by itself.
//!
//! Must never ask plugins in earnest when a dry run was asked for.

use std::path::Path;

use reqwest::Method;
use ringfence_control::wire::{
    BindingView, DeadLetterView, Discarded, HookAnswer, HookView, LastRun, PointView, QueueView, Redriven,
    ScheduleView, SentMessage,
};
use serde_json::{Value, json};

use crate::args::{HookCommand, QueueCommand, QueueSetArgs, ScheduleCommand, ScheduleSetArgs, SendArgs};
use crate::client::{Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;

/// LIMIT: largest file read, in bytes; the host takes fewer.
const FILE_BYTES_MAX: usize = 512 << 10;

/// `ringfence hook ...`.
pub async fn hook(cx: &mut Context<'_>, command: &HookCommand) -> Result<Exit, CliError> {
    match command {
        HookCommand::List => {
            let (api, tenant) = cx.tenant().await?;
            let answer = api.list::<HookView>(&Request::get(format!("/tenants/{tenant}/hooks")), "cursor").await?;
            cx.print_list(&answer, "the product has no extension points", hooks_text)?;
        }
        HookCommand::Declare(args) => {
            let declaration = read_json(cx, &args.file)?;
            let request = Request::put(format!("/hooks/{}", args.name), declaration);
            let answer = cx.operator()?.send::<PointView>(&request).await?;
            cx.print(&answer, |point| format!("declared {}, version {}\n", point.name, point.version))?;
        }
        HookCommand::Earlier(args) => {
            let request = Request::get(format!("/hooks/{}/earlier", args.name));
            let answer = cx.operator()?.list::<PointView>(&request, "cursor").await?;
            cx.print_list(&answer, "it was declared once", earlier_text)?;
        }
        HookCommand::Withdraw(args) => {
            cx.operator()?.act(&Request::new(Method::DELETE, format!("/hooks/{}", args.name))).await?;
            cx.ui.note(&format!("withdrew {}", args.name));
        }
        HookCommand::Bind(args) => {
            let (api, tenant) = cx.tenant().await?;
            let path = format!("/tenants/{tenant}/hooks/{}/bindings/{}", args.hook, args.plugin);
            let body = json!({ "order": args.order, "condition": args.condition });
            let answer = api.send::<BindingView>(&Request::put(path, body)).await?;
            cx.print(&answer, |binding| {
                let warnings: String = binding.warnings.iter().map(|text| format!("  warning: {text}\n")).collect();
                format!("bound {} to {}\n{warnings}", binding.plugin, binding.hook)
            })?;
        }
        HookCommand::Unbind(args) => {
            let (api, tenant) = cx.tenant().await?;
            let path = format!("/tenants/{tenant}/hooks/{}/bindings/{}", args.hook, args.plugin);
            api.act(&Request::new(Method::DELETE, path)).await?;
            cx.ui.note(&format!("{} is no longer bound to {}", args.plugin, args.hook));
        }
        HookCommand::Call(args) => {
            let payload = read_json(cx, &args.file)?;
            let (api, tenant) = cx.tenant().await?;
            let end = if args.dry_run { "/dry-run" } else { "" };
            let path = format!("/tenants/{tenant}/hooks/{}{end}", args.hook);
            let answer = api.send::<HookAnswer>(&Request::post(path, json!({ "payload": payload }))).await?;
            cx.print(&answer, answer_text)?;
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence queue ...`.
pub async fn queue(cx: &mut Context<'_>, command: &QueueCommand) -> Result<Exit, CliError> {
    match command {
        QueueCommand::List => {
            let (api, tenant) = cx.tenant().await?;
            let answer = api.list::<QueueView>(&Request::get(format!("/tenants/{tenant}/queues")), "cursor").await?;
            cx.print_list(&answer, "there are no queues", queues_text)?;
        }
        QueueCommand::Set(args) => {
            let (api, tenant) = cx.tenant().await?;
            let request = Request::put(format!("/tenants/{tenant}/queues/{}", args.name), settings(args));
            let answer = api.send::<QueueView>(&request).await?;
            cx.print(&answer, |queue| queues_text(std::slice::from_ref(queue)))?;
        }
        QueueCommand::Delete(args) => {
            let (api, tenant) = cx.tenant().await?;
            api.act(&Request::new(Method::DELETE, format!("/tenants/{tenant}/queues/{}", args.name))).await?;
            cx.ui.note(&format!("deleted queue {}", args.name));
        }
        QueueCommand::Send(args) => {
            let body = message(args, read_json(cx, &args.file)?);
            let (api, tenant) = cx.tenant().await?;
            let request = Request::post(format!("/tenants/{tenant}/queues/{}/messages", args.name), body);
            let answer = api.send::<SentMessage>(&request).await?;
            cx.print(&answer, |sent| {
                format!("{}{}\n", sent.id, if sent.is_repeat { "  (was there already)" } else { "" })
            })?;
        }
        QueueCommand::Dead(args) => {
            let (api, tenant) = cx.tenant().await?;
            let request = Request::get(format!("/tenants/{tenant}/queues/{}/dead", args.name));
            let answer = api.list::<DeadLetterView>(&request.query("text", args.text.as_deref()), "cursor").await?;
            cx.print_list(&answer, "nothing is dead", dead_text)?;
        }
        QueueCommand::Redrive(args) => {
            let (api, tenant) = cx.tenant().await?;
            let path = format!("/tenants/{tenant}/queues/{}/dead/redrive", args.name);
            let body = match &args.text {
                Some(text) => json!({ "text": text }),
                None => json!({ "ids": args.ids }),
            };
            let answer = api.send::<Redriven>(&Request::post(path, body)).await?;
            cx.print(&answer, |redriven| format!("{} put back\n", redriven.count))?;
        }
        QueueCommand::Discard(args) if args.ids.is_empty() && args.text.is_none() && !args.all => {
            let detail = "name the messages to throw away, or say `--text` or `--all`".to_owned();
            let help = Some(format!("ringfence queue dead {}", args.name));
            return Err(CliError::Usage { code: "usage", detail, help });
        }
        QueueCommand::Discard(args) => {
            let (api, tenant) = cx.tenant().await?;
            let path = format!("/tenants/{tenant}/queues/{}/dead/discard", args.name);
            let body = match &args.text {
                Some(text) => json!({ "text": text }),
                None => json!({ "ids": args.ids, "all": args.all }),
            };
            let answer = api.send::<Discarded>(&Request::post(path, body)).await?;
            cx.print(&answer, |discarded| format!("{} thrown away\n", discarded.count))?;
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence schedule ...`.
pub async fn schedule(cx: &mut Context<'_>, command: &ScheduleCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = |name: &str| Ok::<_, CliError>(format!("/tenants/{tenant}/schedules/{}", segment(name)?));
    let request = match command {
        ScheduleCommand::List => {
            let request = Request::get(format!("/tenants/{tenant}/schedules"));
            let answer = api.list::<ScheduleView>(&request, "cursor").await?;
            cx.print_list(&answer, "there are no schedules", schedules_text)?;
            return Ok(Exit::Ok);
        }
        ScheduleCommand::Delete(args) => {
            api.act(&Request::new(Method::DELETE, path(args.name.as_str())?)).await?;
            cx.ui.note(&format!("deleted schedule {}", args.name));
            return Ok(Exit::Ok);
        }
        ScheduleCommand::Run(args) => {
            let request = Request::post(format!("{}/run", path(args.name.as_str())?), json!({}));
            let answer = api.send::<LastRun>(&request).await?;
            cx.print(&answer, |run| {
                let detail = run.detail.as_ref().map(|detail| format!("  {detail}")).unwrap_or_default();
                format!("{}{detail}\n", run.outcome)
            })?;
            return Ok(if answer.value.outcome == "done" { Exit::Ok } else { Exit::Failed });
        }
        ScheduleCommand::Set(args) => Request::put(path(args.name.as_str())?, times(args)),
        ScheduleCommand::Pause(args) => Request::post(format!("{}/pause", path(args.name.as_str())?), json!({})),
        ScheduleCommand::Resume(args) => Request::post(format!("{}/resume", path(args.name.as_str())?), json!({})),
    };
    let answer = api.send::<ScheduleView>(&request).await?;
    cx.print(&answer, |schedule| schedules_text(std::slice::from_ref(schedule)))?;
    Ok(Exit::Ok)
}

fn read_json(cx: &mut Context<'_>, file: &Path) -> Result<Value, CliError> {
    let bytes = if file.as_os_str() == "-" {
        cx.ui.read_input(FILE_BYTES_MAX)?
    } else {
        let mut open = std::fs::File::open(file).map_err(|error| CliError::file("read", file, &error))?;
        read_capped(&mut open, FILE_BYTES_MAX, "the file")?
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| CliError::failed("bad-json", format!("it is not JSON: {error}"), None))
}

fn settings(args: &QueueSetArgs) -> Value {
    json!({
        "plugin": args.plugin.as_ref().map(ToString::to_string), "concurrency_count": args.concurrency,
        "attempts_max": args.attempts, "depth_count_max": args.depth, "paused": args.paused,
    })
}

fn message(args: &SendArgs, payload: Value) -> Value {
    json!({
        "payload": payload, "idempotency_key": args.key, "delay_ms": args.delay_ms, "priority": args.priority,
        "group": args.group,
    })
}

fn times(args: &ScheduleSetArgs) -> Value {
    json!({
        "plugin": args.plugin.as_str(), "cron": args.cron, "zone": args.zone, "missed": args.missed,
        "overlap": args.overlap, "jitter_ms": args.jitter_ms,
    })
}

fn hooks_text(hooks: &[HookView]) -> String {
    let mut rows = Vec::new();
    for hook in hooks {
        let mode = serde_json::to_value(hook.point.declaration.mode).unwrap_or_default();
        let (name, mode) = (&hook.point.name, mode.as_str().unwrap_or_default());
        // In the order in which they are asked.
        for binding in &hook.bindings {
            let (order, condition) = (binding.order.to_string(), binding.condition.clone().unwrap_or_default());
            rows.push([name.clone(), mode.to_owned(), order, binding.plugin.clone(), condition]);
        }
        if hook.bindings.is_empty() {
            rows.push([name.clone(), mode.to_owned(), String::new(), String::new(), String::new()]);
        }
    }
    table(["hook", "mode", "order", "bound", "condition"], &rows)
}

fn earlier_text(points: &[PointView]) -> String {
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
            let mode = word(serde_json::to_value(point.declaration.mode).unwrap_or_default());
            let on_failure = word(serde_json::to_value(point.declaration.on_failure).unwrap_or_default());
            let deadline = format!("{} ms", point.declaration.deadline_ms);
            [
                point.version.to_string(),
                mode,
                on_failure,
                deadline,
                point.declared_at.clone(),
                point.declared_by.clone(),
            ]
        })
        .collect();
    table(["version", "mode", "on failure", "deadline", "declared at", "by"], &rows)
}

fn answer_text(answer: &HookAnswer) -> String {
    let word = serde_json::to_value(answer.outcome).unwrap_or_default();
    let mut text = format!("{}\n", word.as_str().unwrap_or_default());
    for step in &answer.steps {
        let why = step.detail.as_deref().unwrap_or_default();
        text.push_str(format!("  {}  {}  {why}", step.plugin, step.outcome).trim_end());
        text.push('\n');
    }
    if let Some(payload) = &answer.payload {
        text.push_str(&format!("{payload}\n"));
    }
    text
}

fn queues_text(queues: &[QueueView]) -> String {
    let rows: Vec<_> = queues
        .iter()
        .map(|queue| {
            let plugin = queue.plugin.clone().unwrap_or_default();
            let state = if queue.paused { "paused" } else { "" };
            [
                queue.name.clone(),
                plugin,
                queue.depth_count.to_string(),
                queue.running_count.to_string(),
                state.to_owned(),
            ]
        })
        .collect();
    table(["queue", "plugin", "messages", "running", ""], &rows)
}

fn dead_text(letters: &[DeadLetterView]) -> String {
    let rows: Vec<_> = letters
        .iter()
        .map(|letter| {
            let (died, why) =
                (letter.died_at.clone().unwrap_or_default(), letter.last_error.clone().unwrap_or_default());
            [letter.id.clone(), died, letter.failed_count.to_string(), why]
        })
        .collect();
    table(["id", "died", "attempts", "why"], &rows)
}

fn schedules_text(schedules: &[ScheduleView]) -> String {
    let rows: Vec<_> = schedules
        .iter()
        .map(|schedule| {
            let settings = &schedule.settings;
            let next = schedule.next.first().cloned().unwrap_or_else(|| "rests".to_owned());
            let last = schedule.last.as_ref().map(|last| last.outcome.clone()).unwrap_or_default();
            [
                schedule.name.clone(),
                settings.plugin.to_string(),
                settings.cron.clone(),
                settings.zone.clone(),
                next,
                last,
            ]
        })
        .collect();
    table(["schedule", "plugin", "cron", "zone", "next", "last"], &rows)
}
