//! `logs`: what a plugin prints, followed across restarts of the host from the last line seen.
//!
//! Must never lose or repeat a line in silence: drops and reconnects are lines of their own.

use std::time::Duration;

use futures::StreamExt;
use ringfence_control::wire::LogLineView;
use serde::Deserialize;
use serde_json::json;

use crate::Format;
use crate::args::LogsArgs;
use crate::client::{Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::sse::{Event, Events};

/// LIMIT: longest silence of a stream; the host sends a comment more often than this.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// LIMIT: most attempts to connect again without a line between them.
const ATTEMPTS_COUNT_MAX: u32 = 10;
/// First and longest pause between attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Dropped {
    count: u64,
}

/// `ringfence logs`.
pub async fn logs(cx: &mut Context<'_>, args: &LogsArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/plugins/{}/logs", args.plugin);
    if args.follow || (cx.ui.terminal.out && !args.no_follow) {
        return follow(cx, &api, &path, args).await;
    }
    let request = Request::get(&path).query("since", args.since).query("limit", args.limit);
    match args.limit {
        Some(_) => {
            let page = api.send::<ringfence_control::wire::Page<LogLineView>>(&request).await?;
            for line in &page.value.items {
                print(cx, line)?;
            }
        }
        None => {
            for line in &api.list::<LogLineView>(&request, "since").await?.value {
                print(cx, line)?;
            }
        }
    }
    Ok(Exit::Ok)
}

async fn follow(cx: &mut Context<'_>, api: &Api, path: &str, args: &LogsArgs) -> Result<Exit, CliError> {
    let mut cursor = Cursor { since: args.since, seen: None };
    let mut attempts = 0;
    loop {
        let limit = args.limit.filter(|_| cursor.seen.is_none());
        let request = Request::get(path)
            .query("follow", Some(true))
            .query("since", cursor.since)
            .query("limit", limit)
            .header("accept", "text/event-stream")
            .time(None);
        let ended = match read_stream(cx, api, &request, &mut cursor, &mut attempts).await {
            Ok(()) => "the host ended the stream".to_owned(),
            Err(error) if may_retry(&error) && attempts < ATTEMPTS_COUNT_MAX => error.to_string(),
            Err(error) => return Err(error),
        };
        if attempts >= ATTEMPTS_COUNT_MAX {
            return Err(CliError::Unreachable { host: api.host.to_string(), why: ended });
        }
        attempts += 1;
        let from = cursor.since.map(|seq| format!(" after line {seq}")).unwrap_or_default();
        cx.ui.note(&format!("-- {ended}; connecting again{from} --"));
        tokio::time::sleep(pause(attempts)).await;
    }
}

async fn read_stream(
    cx: &mut Context<'_>,
    api: &Api,
    request: &Request<'_>,
    cursor: &mut Cursor,
    attempts: &mut u32,
) -> Result<(), CliError> {
    let opened = tokio::time::timeout(SILENCE_MAX, api.open(request)).await.map_err(|_| silent(api))?;
    let mut bytes = opened?.bytes_stream();
    let mut events = Events::default();
    loop {
        let piece = match tokio::time::timeout(SILENCE_MAX, bytes.next()).await.map_err(|_| silent(api))? {
            None => return Ok(()),
            Some(piece) => piece.map_err(|error| crate::client::unreachable_host(&api.host, &error))?,
        };
        let complete = events
            .take(&piece)
            .map_err(|error| CliError::failed("unexpected-answer", format!("the log stream broke: {error}"), None))?;
        for event in complete {
            *attempts = 0;
            show(cx, &event, cursor)?;
        }
    }
}

fn show(cx: &mut Context<'_>, event: &Event, cursor: &mut Cursor) -> Result<(), CliError> {
    if event.kind == "dropped" {
        let count = serde_json::from_str::<Dropped>(&event.data).map(|dropped| dropped.count).unwrap_or_default();
        return match cx.ui.format {
            Format::Json => cx.ui.json(&json!({ "dropped": count })),
            Format::Text => {
                cx.ui.text(&format!("-- {count} lines dropped: they came faster than they could be sent --"))
            }
        };
    }
    if event.kind != "message" && event.kind != "line" {
        return Ok(());
    }
    let line: LogLineView = serde_json::from_str(&event.data).map_err(|_| {
        CliError::failed("unexpected-answer", "the log stream broke: a line cannot be read".to_owned(), None)
    })?;
    if cursor.take(line.seq) { print(cx, &line) } else { Ok(()) }
}

/// Where to read on. A line seen before a reconnect is not shown again.
struct Cursor {
    since: Option<u64>,
    seen: Option<u64>,
}

impl Cursor {
    fn take(&mut self, seq: u64) -> bool {
        if self.seen.is_some_and(|seen| seq <= seen) {
            return false;
        }
        self.seen = Some(seq);
        self.since = Some(seq);
        true
    }
}

fn print(cx: &mut Context<'_>, line: &LogLineView) -> Result<(), CliError> {
    if cx.ui.format == Format::Json {
        return cx.ui.json(line);
    }
    let context = if line.context.is_empty() { String::new() } else { format!(" [{}]", line.context) };
    cx.ui.text(&format!("{} {:<8}{context} {}", line.at, line.level, line.message.trim_end_matches('\n')))
}

fn may_retry(error: &CliError) -> bool {
    match error {
        CliError::Unreachable { .. } => true,
        CliError::Refused(refusal) => matches!(refusal.problem.status, 429 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

fn pause(attempts: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(PAUSE_MAX)
}

fn silent(api: &Api) -> CliError {
    CliError::Unreachable { host: api.host.to_string(), why: "no answer in time".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_once_whatever_the_host_repeats() {
        let mut cursor = Cursor { since: Some(3), seen: None };
        let shown: Vec<u64> = [4, 5, 5, 4, 6].into_iter().filter(|seq| cursor.take(*seq)).collect();
        assert_eq!(shown, [4, 5, 6]);
        assert_eq!(cursor.since, Some(6));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(1), PAUSE_FIRST);
        assert_eq!(pause(2), PAUSE_FIRST * 2);
        assert_eq!(pause(30), PAUSE_MAX);
    }
}
