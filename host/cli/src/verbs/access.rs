//! `access`: the report of who holds and uses what, and access reviews.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use clap::ValueEnum;
use jiff::SignedDuration;
use ringfence_control::wire::{
    AccessReport, AccessReviewView, DecideItem, NewReview, ReviewDetail, ReviewExport, ReviewItemView,
};
use serde_json::json;

use crate::args::{AccessCommand, AccessReportArgs, ReviewCommand, ReviewDecideArgs, ReviewExportArgs, ReviewOpenArgs};
use crate::client::{Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence access ...`.
pub async fn run(cx: &mut Context<'_>, command: &AccessCommand) -> Result<Exit, CliError> {
    match command {
        AccessCommand::Report(args) => report(cx, args).await,
        AccessCommand::Review(command) => review(cx, command).await,
    }
}

async fn report(cx: &mut Context<'_>, args: &AccessReportArgs) -> Result<Exit, CliError> {
    let (api, path) = if args.operator {
        (cx.operator()?, "/access/report".to_owned())
    } else {
        let (api, tenant) = cx.tenant().await?;
        (api, format!("/tenants/{tenant}/access/report"))
    };
    let answer = api.send::<AccessReport>(&Request::get(path).query("unused_days", Some(args.unused))).await?;
    cx.print(&answer, report_text)?;
    Ok(Exit::Ok)
}

async fn review(cx: &mut Context<'_>, command: &ReviewCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/access/reviews");
    match command {
        ReviewCommand::Open(args) => {
            let body = serde_json::to_value(wanted(cx, args)?).unwrap_or_default();
            let answer = api.send::<AccessReviewView>(&Request::post(path, body)).await?;
            cx.print(&answer, |review| {
                let (id, count, due) = (&review.id, review.items_count, &review.due_at);
                let warnings: String = review.warnings.iter().map(|text| format!("  warning: {text}\n")).collect();
                format!("opened {id}: {count} items until {due}\n{warnings}  next: ringfence access review show {id}")
            })?;
        }
        ReviewCommand::List => {
            let answer = api.list::<AccessReviewView>(&Request::get(path), "cursor").await?;
            cx.print_list(&answer, "no access reviews", |reviews| {
                let row = |one: &AccessReviewView| {
                    let left = format!("{} of {}", one.open_count + one.escalated_count, one.items_count);
                    [one.id.clone(), one.title.clone(), one.state.clone(), one.due_at.clone(), left]
                };
                table(["id", "title", "state", "due", "left"], &reviews.iter().map(row).collect::<Vec<_>>())
            })?;
        }
        ReviewCommand::Show(args) => {
            let answer = api.send::<ReviewDetail>(&Request::get(format!("{path}/{}", segment(&args.id)?))).await?;
            cx.print(&answer, detail_text)?;
        }
        ReviewCommand::Decide(args) => {
            let request = decision(&path, args)?;
            let answer = api.send::<ReviewItemView>(&request).await?;
            let choice = word(args.choice);
            cx.print(&answer, |item| format!("{choice}: {}", item.what))?;
        }
        ReviewCommand::Close(args) => {
            let request = Request::post(format!("{path}/{}/close", segment(&args.id)?), json!({}));
            let answer = api.send::<AccessReviewView>(&request).await?;
            cx.print(&answer, review_text)?;
        }
        ReviewCommand::Export(args) => {
            let request = Request::get(format!("{path}/{}/export", segment(&args.id)?));
            let answer = api.send::<ReviewExport>(&request).await?;
            export(cx, args, &answer.text)?;
        }
    }
    Ok(Exit::Ok)
}

fn export(cx: &mut Context<'_>, args: &ReviewExportArgs, text: &str) -> Result<(), CliError> {
    let Some(out) = &args.out else {
        cx.ui.raw(text.trim_end().as_bytes())?;
        return cx.ui.raw(b"\n");
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| CliError::file("write", out, &error))?;
    cx.done(&format!("wrote {}", out.display()))
}

fn wanted(cx: &Context<'_>, args: &ReviewOpenArgs) -> Result<NewReview, CliError> {
    let due = cx.clock.now().checked_add(SignedDuration::from_secs(i64::from(args.due.0)));
    let due = due.map_err(|_| CliError::failed("bad-review", "the last day is out of range", None))?;
    Ok(NewReview {
        title: args.title.clone(),
        reviewers: args.reviewer.clone(),
        due_at: due.to_string(),
        overdue: args.revoke_overdue.then(|| "revoke".to_owned()),
        of: args.of.iter().map(|of| word(*of)).collect(),
        roles: args.role.iter().map(|role| word(*role)).collect(),
        unused_days: args.unused,
    })
}

fn decision(path: &str, args: &ReviewDecideArgs) -> Result<Request<'static>, CliError> {
    let body = DecideItem { choice: word(args.choice), reason: args.reason.clone() };
    let path = format!("{path}/{}/items/{}", segment(&args.id)?, args.item);
    Ok(Request::put(path, serde_json::to_value(body).unwrap_or_default()))
}

fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn report_text(report: &AccessReport) -> String {
    let watched = report.watched_since.as_deref().unwrap_or("just now");
    let days = report.unused_days;
    let mut text = format!("unused means {days} days; use is watched since {watched}\n\n");
    let never = |at: &Option<String>| at.clone().unwrap_or_else(|| "-".to_owned());
    let holders = report.holders.iter().map(|one| {
        let who = one.key.as_ref().map_or(one.principal.clone(), |key| format!("{} {key}", one.principal));
        [who, one.kind.clone(), one.role.clone(), never(&one.last_used_at), one.state.clone()]
    });
    text.push_str(&table(["who", "by", "role", "last used", "state"], &holders.collect::<Vec<_>>()));
    if !report.grants.is_empty() {
        let grants = report.grants.iter().map(|one| {
            let what = format!("{} {}", one.capability, one.scope.join(" "));
            [one.plugin.clone(), what.trim_end().to_owned(), never(&one.last_used_at), one.state.clone()]
        });
        text.push('\n');
        text.push_str(&table(["plugin", "may use", "last used", "state"], &grants.collect::<Vec<_>>()));
    }
    if !report.labels.is_empty() {
        let labels = report.labels.iter().map(|one| {
            [one.principal.clone(), one.role.clone(), never(&one.given_by), never(&one.last_used_at), one.state.clone()]
        });
        text.push('\n');
        text.push_str(&table(["who", "role by label", "given by", "last used", "state"], &labels.collect::<Vec<_>>()));
    }
    if !report.findings.is_empty() {
        let findings = report.findings.iter().map(|one| [one.kind.clone(), one.subject.clone(), one.detail.clone()]);
        text.push('\n');
        text.push_str(&table(["finding", "about", "what is seen"], &findings.collect::<Vec<_>>()));
    }
    text
}

fn review_text(review: &AccessReviewView) -> String {
    format!(
        "{}  {} ({})\nopened    {} by {}\ndue       {} ({} what is left then)\nreviewers {}\n\
         {} items: {} kept, {} revoked, {} escalated, {} open\n",
        review.id,
        review.title,
        review.state,
        review.opened_at,
        review.opened_by,
        review.due_at,
        review.overdue,
        review.reviewers.join(" "),
        review.items_count,
        review.kept_count,
        review.revoked_count,
        review.escalated_count,
        review.open_count,
    )
}

fn detail_text(detail: &ReviewDetail) -> String {
    let rows = detail.items.iter().map(|item| {
        let decided = item.decisions.last();
        let decided = decided.map_or_else(|| "-".to_owned(), |last| format!("{} by {}", last.choice, last.by));
        [item.number.to_string(), item.what.clone(), item.state.clone(), decided]
    });
    let rows: Vec<[String; 4]> = rows.collect();
    format!("{}\n{}", review_text(&detail.review), table(["item", "what", "state", "decided"], &rows))
}
