//! `audit stream`, `threat channel`, `threat feed` and `threat assess`.
//!
//! Must never take what proves us to somebody from the command line, nor show a secret but the once.

use std::path::Path;

use ringfence_control::wire::{
    AssessThreats, ChangeDestination, DestinationSecret, DestinationView, FeedStatus, JobView, MadeDestination,
    NewDestination, PutFeed, TestedDestination, ThreatAssessment,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{
    AssessArgs, DestinationAddArgs, DestinationArgs, DestinationChangeArgs, DestinationCommand, FeedCommand,
    FeedPutArgs, OperatorArgs,
};
use crate::client::{Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;
use crate::verbs::backup;

/// LIMIT: longest file that is read for a destination or a feed.
const FILE_BYTES_MAX: usize = 64 << 10;

/// What is carried, by its path in the API and its words here.
#[derive(Clone, Copy)]
pub struct Carried {
    path: &'static str,
    verb: &'static str,
}

/// `audit stream`.
pub const STREAMS: Carried = Carried { path: "/audit/streams", verb: "audit stream" };
/// `threat channel`.
pub const CHANNELS: Carried = Carried { path: "/security/channels", verb: "threat channel" };

/// What is shown of a feed.
const FEED_COLUMNS: [&str; 6] = ["feed", "freshness", "answered", "objects", "unreadable", "last error"];

/// `ringfence audit stream ...` and `ringfence threat channel ...`.
pub async fn destination(
    cx: &mut Context<'_>,
    carried: Carried,
    command: &DestinationCommand,
) -> Result<Exit, CliError> {
    match command {
        DestinationCommand::List(args) => list(cx, carried, args).await,
        DestinationCommand::Add(args) => add(cx, carried, args).await,
        DestinationCommand::Change(args) => change(cx, carried, args).await,
        DestinationCommand::Delete(args) => delete(cx, carried, args).await,
        DestinationCommand::Test(args) => test(cx, carried, args).await,
        DestinationCommand::Renew(args) => renew(cx, carried, args).await,
    }
}

/// `ringfence threat feed ...`.
pub async fn feed(cx: &mut Context<'_>, command: &FeedCommand) -> Result<Exit, CliError> {
    let api = cx.current()?;
    match command {
        FeedCommand::List => {
            let answer = api.list::<FeedStatus>(&Request::get("/security/feeds"), "cursor").await?;
            let nothing = "no feeds, so how fresh intelligence is is unknown";
            cx.print_list(&answer, nothing, |feeds| {
                let rows: Vec<[String; 6]> = feeds.iter().map(feed_row).collect();
                table(FEED_COLUMNS, &rows)
            })?;
        }
        FeedCommand::Put(args) => return put_feed(cx, &api, args).await,
        FeedCommand::Delete(args) => {
            let question = format!("Delete feed `{}`?", args.name);
            cx.ui.confirm(&format!("threat feed delete {}", args.name), &question)?;
            api.act(&Request::delete(format!("/security/feeds/{}", args.name))).await?;
            cx.done(&format!("deleted feed {}", args.name))?;
        }
        FeedCommand::Poll(args) => {
            let request = Request::post(format!("/security/feeds/{}/poll", args.name), json!({}));
            let request = request.time(Some(std::time::Duration::from_secs(150)));
            let answer = api.send::<FeedStatus>(&request).await?;
            let has_failed = answer.value.last_error.is_some();
            cx.print(&answer, |feed| table(FEED_COLUMNS, &[feed_row(feed)]))?;
            return Ok(if has_failed { Exit::Failed } else { Exit::Ok });
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence threat assess`.
pub async fn assess(cx: &mut Context<'_>, args: &AssessArgs) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let body = value(&AssessThreats { window: Some(args.window.clone()), rules: args.rule.clone() });
    let request = Request::post("/zero-trust/threat-assessment", body);
    let job = backup::follow(cx, &api, &request, "assess").await?;
    let id = assessment_of(&job.value).ok_or_else(|| {
        CliError::failed("host-error", "the host did not say which assessment it made".to_owned(), None)
    })?;
    let answer = api.send::<ThreatAssessment>(&Request::get(format!("/zero-trust/threat-assessments/{id}"))).await?;
    cx.print(&answer, assessment_text)?;
    Ok(Exit::Ok)
}

async fn list(cx: &mut Context<'_>, carried: Carried, args: &OperatorArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let answer = api.list::<DestinationView>(&Request::get(carried.path), "cursor").await?;
    let nothing = format!("none yet; make one with  ringfence {} add", carried.verb);
    cx.print_list(&answer, &nothing, |all| {
        let row = |one: &DestinationView| {
            let behind = one.behind_count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            let error = one.last_error.clone().unwrap_or_default();
            [one.name.clone(), one.kind.clone(), one.state.clone(), one.delivered_count.to_string(), behind, error]
        };
        let rows: Vec<[String; 6]> = all.iter().map(row).collect();
        table(["name", "kind", "state", "arrived", "behind", "last error"], &rows)
    })?;
    Ok(Exit::Ok)
}

async fn add(cx: &mut Context<'_>, carried: Carried, args: &DestinationAddArgs) -> Result<Exit, CliError> {
    let mut new = NewDestination {
        name: args.name.to_string(),
        kind: args.kind.clone(),
        sees: args.place.sees.clone(),
        from_seq: args.from,
        roots: text_of(cx, args.place.roots.as_deref())?,
        authorization: text_of(cx, args.place.authorization_file.as_deref())?.map(|text| text.trim_end().to_owned()),
        ..NewDestination::default()
    };
    match args.kind.as_str() {
        "email" => new.recipients = args.to.clone(),
        "syslog" => (new.host, new.port) = host_of(&args.to)?,
        _ => new.url = args.to.first().cloned(),
    }
    let api = own(cx, args.place.operator).await?;
    let answer = api.send::<MadeDestination>(&Request::post(carried.path, value(&new))).await?;
    cx.print(&answer, |made| {
        let secret = made.secret.as_ref().map_or_else(String::new, |secret| {
            format!("\n  secret  {secret}\n  It is shown this once; the receiver checks signatures with it.")
        });
        format!("made {} to {}{secret}", made.destination.name, made.destination.to)
    })?;
    Ok(Exit::Ok)
}

async fn change(cx: &mut Context<'_>, carried: Carried, args: &DestinationChangeArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.place.operator).await?;
    let path = format!("{}/{}", carried.path, args.name);
    let mut change = ChangeDestination {
        sees: args.place.sees.clone(),
        switch: args.switch.clone(),
        roots: text_of(cx, args.place.roots.as_deref())?,
        authorization: text_of(cx, args.place.authorization_file.as_deref())?.map(|text| text.trim_end().to_owned()),
        ..ChangeDestination::default()
    };
    if !args.to.is_empty() {
        match api.send::<DestinationView>(&Request::get(path.clone())).await?.value.kind.as_str() {
            "email" => change.recipients = Some(args.to.clone()),
            "syslog" => (change.host, change.port) = host_of(&args.to)?,
            _ => change.url = args.to.first().cloned(),
        }
    }
    let answer = api.send::<DestinationView>(&Request::put(path, value(&change))).await?;
    cx.print(&answer, |one| format!("{} is {}: {}", one.name, one.state, one.to))?;
    Ok(Exit::Ok)
}

async fn delete(cx: &mut Context<'_>, carried: Carried, args: &DestinationArgs) -> Result<Exit, CliError> {
    let question = format!("Delete `{}`? Nothing goes there any more.", args.name);
    cx.ui.confirm(&format!("{} delete {}", carried.verb, args.name), &question)?;
    let api = own(cx, args.operator).await?;
    api.act(&Request::delete(format!("{}/{}", carried.path, args.name))).await?;
    cx.done(&format!("deleted {}", args.name))?;
    Ok(Exit::Ok)
}

async fn test(cx: &mut Context<'_>, carried: Carried, args: &DestinationArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let request = Request::post(format!("{}/{}/test", carried.path, args.name), json!({}));
    let answer = api.send::<TestedDestination>(&request.time(Some(std::time::Duration::from_secs(60)))).await?;
    let has_arrived = answer.value.delivered;
    cx.print(&answer, |tested| match &tested.error {
        None => "it arrived".to_owned(),
        Some(why) => format!("it did not arrive: {why}"),
    })?;
    Ok(if has_arrived { Exit::Ok } else { Exit::Failed })
}

async fn renew(cx: &mut Context<'_>, carried: Carried, args: &DestinationArgs) -> Result<Exit, CliError> {
    let question = format!("Make a new secret for `{}`? The one that its receiver has is over at once.", args.name);
    cx.ui.confirm(&format!("{} renew {}", carried.verb, args.name), &question)?;
    let api = own(cx, args.operator).await?;
    let request = Request::post(format!("{}/{}/secret", carried.path, args.name), json!({}));
    let answer = api.send::<DestinationSecret>(&request).await?;
    cx.print(&answer, |made| format!("secret  {}\n  It is shown this once.", made.secret))?;
    Ok(Exit::Ok)
}

async fn put_feed(cx: &mut Context<'_>, api: &Api, args: &FeedPutArgs) -> Result<Exit, CliError> {
    let body = PutFeed {
        url: args.url.clone(),
        collection: args.collection.clone(),
        authorization: text_of(cx, args.authorization_file.as_deref())?.map(|text| text.trim_end().to_owned()),
        every_seconds: args.every,
        confidence_min: args.confidence_min,
        half_life_days: args.half_life_days,
    };
    let path = format!("/security/feeds/{}", args.name);
    let answer = api.send::<FeedStatus>(&Request::put(path, value(&body))).await?;
    cx.print(&answer, |feed| {
        let halves = feed.half_life_days.map(|days| format!(", halved every {days} days")).unwrap_or_default();
        let FeedStatus { name, every_seconds, confidence_min, .. } = feed;
        format!(
            "feed {name} is asked every {every_seconds} s, and believed from a confidence of {confidence_min}{halves}"
        )
    })?;
    Ok(Exit::Ok)
}

fn feed_row(feed: &FeedStatus) -> [String; 6] {
    let answered = feed.answered_at.clone().unwrap_or_else(|| "never".to_owned());
    let error = feed.last_error.as_ref().or(feed.last_refused.as_ref()).cloned().unwrap_or_default();
    let (came, refused) = (feed.objects_count.to_string(), feed.refused_count.to_string());
    [feed.name.clone(), feed.freshness.clone(), answered, came, refused, error]
}

fn assessment_text(made: &ThreatAssessment) -> String {
    let rows: Vec<[String; 4]> = made
        .findings
        .iter()
        .map(|one| {
            let who = one.actor.clone().or_else(|| one.source.clone()).unwrap_or_default();
            [one.level.clone(), one.rule.clone(), one.count.to_string(), who]
        })
        .collect();
    let coverage = &made.coverage;
    let mut text = match rows.is_empty() {
        true => "nothing held\n".to_owned(),
        false => table(["level", "rule", "count", "who"], &rows) + "\n",
    };
    let looked = coverage.to_seq.saturating_sub(coverage.from_seq);
    text.push_str(&format!(
        "{looked} entries, {} rules, {} indicators\n",
        coverage.rules_run.len(),
        coverage.indicators_count
    ));
    coverage.blind_spots.iter().for_each(|spot| text.push_str(&format!("  not seen: {spot}\n")));
    text
}

fn assessment_of(job: &JobView) -> Option<String> {
    Some(job.result.as_ref()?.get("assessment")?.as_str()?.to_owned())
}

async fn own(cx: &Context<'_>, operator: bool) -> Result<Api, CliError> {
    if operator { cx.operator() } else { cx.tenant().await.map(|(api, _)| api) }
}

/// `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
fn host_of(to: &[String]) -> Result<(Option<String>, Option<u16>), CliError> {
    let text = to.first().map(String::as_str).unwrap_or_default();
    let bad = || CliError::Usage { code: "usage", detail: format!("`{text}` is no HOST and no HOST:PORT"), help: None };
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.starts_with('[') => {
            let host = host.trim_matches(['[', ']']).to_owned();
            Ok((Some(host), Some(port.parse().map_err(|_| bad())?)))
        }
        _ => Ok((Some(text.to_owned()), None)),
    }
}

fn text_of(cx: &mut Context<'_>, path: Option<&Path>) -> Result<Option<String>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let bytes = if path.as_os_str() == "-" {
        cx.ui.read_input(FILE_BYTES_MAX)?
    } else {
        let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
        read_capped(&mut file, FILE_BYTES_MAX, "the file")?
    };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| CliError::failed("file", format!("`{}` is not text", path.display()), None))
}

fn value<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}
