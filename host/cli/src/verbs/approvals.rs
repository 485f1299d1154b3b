//! `approval` and `elevation`: what one asks for and another allows.
//!
//! Must never let somebody allow what he was not shown: a change is shown beside what is in force.

use clap::ValueEnum;
use reqwest::Method;
use ringfence_control::wire::{ApprovalView, ElevationView, Labels, LabelsView, NewElevation, PolicyView};
use ringfence_core::TenantId;
use serde_json::Value;

use crate::Format;
use crate::args::{ApprovalCommand, ElevationCommand, ElevationRequestArgs};
use crate::client::{Api, Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{counted, table};
use crate::verbs::policies::found_text;

/// LIMIT: most lines of one change in the list; `approval show` has them all.
const LINES_COUNT_MAX: usize = 40;
/// How many lines around a change are shown in the list.
const AROUND: usize = 3;
/// LIMIT: most pairs of lines that are compared; of longer texts whole stretches are shown as changed.
const PAIRS_COUNT_MAX: usize = 1_000_000;

/// `ringfence approval ...`.
pub async fn approval(cx: &mut Context<'_>, command: &ApprovalCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/approvals");
    match command {
        ApprovalCommand::List => {
            let answer = api.list::<ApprovalView>(&Request::get(path), "cursor").await?;
            let now = in_force(cx, &api, &tenant, &answer.value).await?;
            cx.print_list(&answer, "nothing waits", |waiting| {
                let rows: Vec<[String; 4]> = waiting
                    .iter()
                    .map(|one| [one.id.clone(), one.asked_by.clone(), one.expires_at.clone(), on_a_line(&one.wants)])
                    .collect();
                let mut text = table(["id", "asked by", "until", "wants"], &rows);
                for one in waiting {
                    let change = change_text(one, &now, Shown::InShort);
                    match &one.found {
                        Some(found) => text.push_str(&format!("{}: {}{change}", one.id, found_text(found))),
                        None if change.is_empty() => {}
                        None => text.push_str(&format!("{}:\n{change}", one.id)),
                    }
                }
                text
            })?;
        }
        ApprovalCommand::Show(args) => {
            let id = segment(&args.id)?;
            let all = api.list::<ApprovalView>(&Request::get(path), "cursor").await?.value;
            let one = all.into_iter().find(|one| one.id == id);
            let one = one.ok_or_else(|| CliError::NoSuch { what: format!("`{id}` does not wait here") })?;
            let now = in_force(cx, &api, &tenant, std::slice::from_ref(&one)).await?;
            match cx.ui.format {
                Format::Json => cx.ui.json(&one)?,
                Format::Text => {
                    let found = one.found.as_ref().map(found_text).unwrap_or_default();
                    let change = change_text(&one, &now, Shown::InWhole);
                    let (wants, by) = (on_a_line(&one.wants), &one.asked_by);
                    let times = format!("at        {}\nuntil     {}", one.at, one.expires_at);
                    cx.ui.text(&format!("wants     {wants}\nasked by  {by}\n{times}\n{found}{change}"))?;
                }
            }
        }
        ApprovalCommand::Approve(args) => {
            let request = Request::post(format!("{path}/{}/approve", segment(&args.id)?), serde_json::json!({}));
            let answer = api.send::<ApprovalView>(&request).await?;
            cx.print(&answer, |one| format!("allowed {} what it asked for: {}", one.asked_by, on_a_line(&one.wants)))?;
        }
        ApprovalCommand::Refuse(args) => {
            api.act(&Request::new(Method::DELETE, format!("{path}/{}", segment(&args.id)?))).await?;
            cx.done(&format!("refused {}", args.id))?;
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence elevation ...`.
pub async fn elevation(cx: &mut Context<'_>, command: &ElevationCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/elevations");
    match command {
        ElevationCommand::Request(args) => {
            let answer = api.send::<ApprovalView>(&Request::post(path, wanted(args))).await?;
            cx.print(&answer, |one| {
                format!("waits for a tenant-admin\n  help: ringfence approval approve {}", one.id)
            })?;
        }
        ElevationCommand::List => {
            let answer = api.list::<ElevationView>(&Request::get(path), "cursor").await?;
            cx.print_list(&answer, "nobody acts in another role", |held| {
                let rows: Vec<[String; 5]> = held
                    .iter()
                    .map(|one| {
                        let (who, role, by) = (one.principal.clone(), one.role.clone(), one.approved_by.clone());
                        [one.id.clone(), who, role, one.until.clone(), by]
                    })
                    .collect();
                table(["id", "who", "role", "until", "allowed by"], &rows)
            })?;
        }
        ElevationCommand::End(args) => {
            api.act(&Request::new(Method::DELETE, format!("{path}/{}", segment(&args.id)?))).await?;
            cx.done(&format!("ended {}", args.id))?;
        }
    }
    Ok(Exit::Ok)
}

fn wanted(args: &ElevationRequestArgs) -> serde_json::Value {
    let role = args.role.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    serde_json::to_value(NewElevation { role, minutes: args.minutes, reason: args.reason.clone() }).unwrap_or_default()
}

/// How much of a change is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    InShort,
    InWhole,
}

/// What is in force now, with its version: of each kind only where something waits to take its place and it may be read.
#[derive(Default)]
struct InForce {
    policy: Option<(u64, String)>,
    labels: Option<(u64, String)>,
}

async fn in_force(
    cx: &Context<'_>,
    api: &Api,
    tenant: &TenantId,
    waiting: &[ApprovalView],
) -> Result<InForce, CliError> {
    let has = |kind: &str| waiting.iter().any(|one| one.kind == kind && one.text.is_some());
    let mut now = InForce::default();
    if cx.ui.format == Format::Json {
        return Ok(now);
    }
    if has("policy") {
        let answer = api.send::<PolicyView>(&Request::get(format!("/tenants/{tenant}/policy"))).await;
        now.policy = readable(answer)?.map(|policy| (policy.value.version, policy.value.text));
    }
    if has("labels") {
        let answer = api.send::<LabelsView>(&Request::get(format!("/tenants/{tenant}/policy/labels"))).await;
        now.labels = readable(answer)?.map(|labels| (labels.value.version, pretty_labels(&labels.value.labels)));
    }
    Ok(now)
}

/// None of what one may not read, who withdraws his own request.
fn readable<T>(answer: Result<T, CliError>) -> Result<Option<T>, CliError> {
    match answer {
        Err(error) if error.exit() == Exit::Denied => Ok(None),
        other => other.map(Some),
    }
}

fn pretty_labels(labels: &Labels) -> String {
    serde_json::to_string_pretty(labels).unwrap_or_default()
}

/// What is asked for, line by line beside what is in force, and why.
fn change_text(one: &ApprovalView, now: &InForce, shown: Shown) -> String {
    // SECURITY: each line of what somebody else wrote is indented, so that none passes for a line of ours.
    let note = one.note.as_deref().map(|note| format!("  note: {}\n", note.replace('\n', "\n        ")));
    let note = note.unwrap_or_default();
    let Some(text) = &one.text else { return note };
    let (old, new) = match one.kind.as_str() {
        "policy" => (now.policy.as_ref(), text.clone()),
        "labels" => (
            now.labels.as_ref(),
            serde_json::from_str::<Labels>(text).map_or_else(|_| text.clone(), |it| pretty_labels(&it)),
        ),
        _ => {
            let value = serde_json::from_str::<Value>(text).and_then(|value| serde_json::to_string_pretty(&value));
            (None, value.unwrap_or_else(|_| text.clone()))
        }
    };
    let head = match old {
        Some((version, _)) => format!("  beside version {version}, which is in force:\n"),
        None => "  in whole:\n".to_owned(),
    };
    let lines = difference(old.map(|(_, text)| text.as_str()).unwrap_or_default(), &new);
    let lines = if shown == Shown::InWhole { all_lines(&lines) } else { changed_lines(&lines) };
    let count_max = if shown == Shown::InWhole { usize::MAX } else { LINES_COUNT_MAX };
    let more = lines.len().saturating_sub(count_max) as u64;
    let body: String = lines.iter().take(count_max).map(|line| format!("    {line}\n")).collect();
    let rest = match more {
        0 => String::new(),
        more => format!("    {} more:  ringfence approval show {}\n", counted(more, "line"), one.id),
    };
    format!("{note}{head}{body}{rest}")
}

/// Each line of two texts: of the old one alone (`-`), of the new one alone (`+`), or of both.
fn difference<'t>(old: &'t str, new: &'t str) -> Vec<(char, &'t str)> {
    // Not `lines`, which hides how a line ends.
    let split =
        |text: &'t str| -> Vec<&'t str> { if text.is_empty() { Vec::new() } else { text.split('\n').collect() } };
    let (old, new) = (split(old), split(new));
    let (mut left, mut right) = (old.as_slice(), new.as_slice());
    let mut lines = Vec::new();
    while let ([a, rest_a @ ..], [b, rest_b @ ..]) = (left, right)
        && a == b
    {
        lines.push((' ', *a));
        (left, right) = (rest_a, rest_b);
    }
    let common = common_counts(left, right);
    let at = |left: &[&str], right: &[&str]| {
        common.get(left.len()).and_then(|row| row.get(right.len())).copied().unwrap_or_default()
    };
    loop {
        match (left, right) {
            ([], []) => return lines,
            ([a, rest_a @ ..], [b, rest_b @ ..]) if a == b => {
                lines.push((' ', *a));
                (left, right) = (rest_a, rest_b);
            }
            ([a, rest @ ..], []) => {
                lines.push(('-', *a));
                left = rest;
            }
            ([a, rest_a @ ..], [_, rest_b @ ..]) if at(rest_a, right) >= at(left, rest_b) => {
                lines.push(('-', *a));
                left = rest_a;
            }
            (_, [b, rest @ ..]) => {
                lines.push(('+', *b));
                right = rest;
            }
        }
    }
}

/// How many lines the last so many of each have in common, in order; nothing of texts that are too long for that.
fn common_counts(old: &[&str], new: &[&str]) -> Vec<Vec<u32>> {
    if old.len().saturating_mul(new.len()) > PAIRS_COUNT_MAX {
        return Vec::new();
    }
    let mut rows = Vec::with_capacity(old.len() + 1);
    let mut below = vec![0_u32; new.len() + 1];
    for line in old.iter().rev() {
        let mut row = vec![0];
        let mut before = 0;
        for (other, (shorter, without)) in new.iter().rev().zip(below.iter().zip(below.iter().skip(1))) {
            before = if line == other { shorter + 1 } else { before.max(*without) };
            row.push(before);
        }
        rows.push(std::mem::replace(&mut below, row));
    }
    rows.push(below);
    rows
}

fn all_lines(lines: &[(char, &str)]) -> Vec<String> {
    lines.iter().map(|(sign, line)| format!("{sign} {line}")).collect()
}

/// The changed lines and some around them.
fn changed_lines(lines: &[(char, &str)]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    let mut passed_over = false;
    for (index, (sign, line)) in lines.iter().enumerate() {
        let mut around = lines.iter().skip(index.saturating_sub(AROUND)).take(2 * AROUND + 1);
        if around.any(|(sign, _)| *sign != ' ') {
            if std::mem::take(&mut passed_over) {
                shown.push("...".to_owned());
            }
            shown.push(format!("{sign} {line}"));
        } else {
            passed_over = true;
        }
    }
    if shown.is_empty() {
        shown.push("nothing differs".to_owned());
    }
    shown
}

/// Words of somebody else in one line.
fn on_a_line(words: &str) -> String {
    words.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str) -> String {
        all_lines(&difference(old, new)).join("\n")
    }

    #[test]
    fn a_change_is_shown_line_by_line() {
        assert_eq!(shown("a\nb\nc", "a\nx\nc\nd"), "  a\n- b\n+ x\n  c\n+ d");
        assert_eq!(shown("", "a\nb"), "+ a\n+ b");
        assert_eq!(shown("a\nb", ""), "- a\n- b");
        assert_eq!(shown("a\n", "a\n"), "  a\n  ");
        // A line that moved means something else where it is now.
        assert_eq!(shown("p\nwhen\nq", "p\nq\nwhen"), "  p\n- when\n  q\n+ when");
        assert_eq!(shown("a", "a\r"), "- a\n+ a\r");
    }

    #[test]
    fn of_texts_that_are_too_long_to_compare_every_line_is_shown_all_the_same() {
        let text = |word: &str| (0..1_100).map(|at| format!("{word}{at}")).collect::<Vec<_>>().join("\n");
        let (old, new) = (text("a"), text("b"));
        let lines = difference(&old, &new);
        assert_eq!(lines.iter().filter(|(sign, _)| *sign == '-').count(), 1_100);
        assert_eq!(lines.iter().filter(|(sign, _)| *sign == '+').count(), 1_100);
    }

    #[test]
    fn what_stays_is_left_out_but_for_what_is_around_a_change() {
        let old: Vec<String> = (0..40).map(|at| at.to_string()).collect();
        let new = old.join("\n").replace("\n20\n", "\nx\n");
        let lines = changed_lines(&difference(&old.join("\n"), &new));
        assert_eq!(lines, ["...", "  17", "  18", "  19", "- 20", "+ x", "  21", "  22", "  23"]);
        assert_eq!(changed_lines(&difference("a", "a")), ["nothing differs"]);
    }
}
