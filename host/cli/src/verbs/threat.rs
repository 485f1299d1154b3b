//! `threat`: findings, rules, responses, intelligence, incidents, drills; of the tenant in use, or of the host for operators.
//!
//! Must never hold anything without saying whom that touches.

use std::path::Path;

use ringfence_control::wire::{
    IncidentStep, IncidentStepped, LoadedIntelligence, MakeResponse, Page, RunDrill, ThreatDrill, ThreatFinding,
    ThreatIntelligence, ThreatResponse, ThreatRules, ThreatSettings, ThreatTarget,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{
    FindingsFormatArg, IncidentCommand, IncidentOpenArgs, IncidentStepArgs, IntelArgs, RespondArgs, RulesPutArgs,
    ThreatCommand, ThreatSettingsArgs,
};
use crate::client::{Request, read_body, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;
use crate::verbs::outward;

/// LIMIT: largest file of rules or settings, in bytes; the host takes fewer.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// LIMIT: largest bundle, in bytes.
const BUNDLE_BYTES_MAX: usize = 16 << 20;

/// LIMIT: pages of findings, of 1,000; the host keeps fewer.
const FINDINGS_PAGES_COUNT_MAX: usize = 16;
/// LIMIT: pages of indicators, of 1,000; where there are more, the cursor says so.
const INTEL_PAGES_COUNT_MAX: usize = 128;

/// `ringfence threat ...`.
pub async fn run(cx: &mut Context<'_>, command: &ThreatCommand) -> Result<Exit, CliError> {
    match command {
        ThreatCommand::List(args) => match args.format {
            None => list(cx).await,
            Some(FindingsFormatArg::Stix) => bundles(cx).await,
        },
        ThreatCommand::Rules => rules(cx).await,
        ThreatCommand::RulesPut(args) => rules_put(cx, args).await,
        ThreatCommand::RulesDelete(args) => {
            let path = format!("/security/rules/{}", segment(&args.name)?);
            cx.current()?.act(&Request::delete(path)).await?;
            cx.done(&format!("deleted the rules {}", args.name))?;
            Ok(Exit::Ok)
        }
        ThreatCommand::Settings(args) => settings(cx, args).await,
        ThreatCommand::Responses => responses(cx).await,
        ThreatCommand::Respond(args) => respond(cx, args).await,
        ThreatCommand::Approve(args) => {
            let path = format!("/security/responses/{}/approve", segment(&args.id)?);
            let answer = cx.current()?.send::<ThreatResponse>(&Request::post(path, json!({}))).await?;
            cx.print(&answer, held)?;
            Ok(Exit::Ok)
        }
        ThreatCommand::Undo(args) => {
            let path = format!("/security/responses/{}", segment(&args.id)?);
            let answer = cx.current()?.send::<ThreatResponse>(&Request::delete(path)).await?;
            cx.print(&answer, |response| format!("took back {}\n", response.kind))?;
            Ok(Exit::Ok)
        }
        ThreatCommand::Drill(args) => drill(cx, args.rounds).await,
        ThreatCommand::Intel(args) => intel(cx, args).await,
        ThreatCommand::Assess(args) => outward::assess(cx, args).await,
        ThreatCommand::Channel(command) => outward::destination(cx, outward::CHANNELS, command).await,
        ThreatCommand::Feed(command) => outward::feed(cx, command).await,
        ThreatCommand::Incident(command) => incident(cx, command).await,
    }
}

async fn list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let answer = cx.current()?.send::<Page<ThreatFinding>>(&Request::get("/security/findings")).await?;
    if cx.ui.format == crate::Format::Text && answer.value.items.is_empty() {
        cx.ui.note("there are no findings");
        return Ok(Exit::Ok);
    }
    cx.print(&answer, |page| {
        let row = |one: &ThreatFinding| {
            let who = one.actor.clone().or_else(|| one.source.clone()).unwrap_or_default();
            [one.last_at.clone(), one.level.clone(), one.rule.clone(), one.count.to_string(), who, one.id.clone()]
        };
        let rows: Vec<[String; 6]> = page.items.iter().map(row).collect();
        table(["last", "level", "rule", "count", "who", "finding"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// Every finding but those of drills, as STIX bundles, byte for byte: one a line, of a page each.
async fn bundles(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let mut cursor: Option<String> = None;
    for _ in 0..FINDINGS_PAGES_COUNT_MAX {
        let request = Request::get("/security/findings").query("format", Some("stix")).query("limit", Some("1000"));
        let response = api.open(&request.query("cursor", cursor.as_deref())).await?;
        let next = response.headers().get("next-cursor").and_then(|next| next.to_str().ok()).map(ToOwned::to_owned);
        let broken = || CliError::failed("unexpected-answer", "the bundle broke off or is too long".to_owned(), None);
        let bundle = read_body(response, BUNDLE_BYTES_MAX).await.ok_or_else(broken)?;
        cx.ui.raw(bundle.trim_ascii_end())?;
        cx.ui.raw(b"\n")?;
        if next.is_none() {
            return Ok(Exit::Ok);
        }
        cursor = next;
    }
    Err(CliError::failed("too-many-pages", format!("there are more than {FINDINGS_PAGES_COUNT_MAX} pages"), None))
}

async fn rules(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let answer = cx.current()?.send::<Page<ThreatRules>>(&Request::get("/security/rules")).await?;
    cx.print(&answer, |page| {
        let row = |one: &ThreatRules| {
            let title = one.titles.first().cloned().unwrap_or_default();
            [one.name.clone(), one.owner.clone(), one.level.clone(), one.response.clone().unwrap_or_default(), title]
        };
        let rows: Vec<[String; 5]> = page.items.iter().map(row).collect();
        table(["rules", "owner", "level", "answer", "title"], &rows)
    })?;
    Ok(Exit::Ok)
}

async fn rules_put(cx: &mut Context<'_>, args: &RulesPutArgs) -> Result<Exit, CliError> {
    let text = String::from_utf8(read(&args.file, TEXT_BYTES_MAX)?)
        .map_err(|_| CliError::failed("bad-rule", "the rules are not text".to_owned(), None))?;
    let path = format!("/security/rules/{}", segment(&args.name)?);
    let answer = cx.current()?.send::<ThreatRules>(&Request::put(path, json!({ "text": text }))).await?;
    cx.print(&answer, |rules| format!("{} rules of {} are in force\n", rules.titles.len(), rules.name))?;
    Ok(Exit::Ok)
}

async fn settings(cx: &mut Context<'_>, args: &ThreatSettingsArgs) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let answer = match &args.set {
        None => api.send::<ThreatSettings>(&Request::get("/security/settings")).await?,
        Some(file) => {
            let settings: Value = parse(&read(file, TEXT_BYTES_MAX)?, "bad-threat-settings")?;
            api.send::<ThreatSettings>(&Request::put("/security/settings", settings)).await?
        }
    };
    cx.print(&answer, pretty)?;
    Ok(Exit::Ok)
}

async fn responses(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let answer = cx.current()?.send::<Page<ThreatResponse>>(&Request::get("/security/responses")).await?;
    cx.print(&answer, |page| {
        let rows: Vec<[String; 5]> = page.items.iter().map(row).collect();
        table(["response", "against", "state", "until", "id"], &rows)
    })?;
    Ok(Exit::Ok)
}

async fn respond(cx: &mut Context<'_>, args: &RespondArgs) -> Result<Exit, CliError> {
    let body = MakeResponse {
        kind: args.kind.clone(),
        target: ThreatTarget {
            tenant: args.of.clone(),
            principal: args.principal.clone(),
            source: args.source.clone(),
            digest: args.digest.clone(),
            plugin: args.plugin.clone(),
        },
        minutes: Some(args.minutes),
        per_minute: args.per_minute,
        reason: args.reason.clone(),
        finding: args.finding.clone(),
        dry_run: args.dry_run,
    };
    let answer = cx.current()?.send::<ThreatResponse>(&Request::post("/security/responses", value(&body))).await?;
    cx.print(&answer, |made| {
        let mut text = match &made.id {
            Some(id) if made.state == "waiting" => format!(
                "{} waits for another person until {}\n  who agrees: ringfence threat approve {id}\n",
                made.kind,
                made.until.clone().unwrap_or_default()
            ),
            Some(_) => held(made),
            None => format!("{} would touch:\n", made.kind),
        };
        if let Some(blast) = &made.blast {
            let principals =
                if blast.principals.is_empty() { "nobody known".to_owned() } else { blast.principals.join(", ") };
            text.push_str(&format!("  {principals}  ({} recorded acts in the last day)\n", blast.acts_count));
            blast.notes.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
        }
        text
    })?;
    Ok(Exit::Ok)
}

async fn drill(cx: &mut Context<'_>, rounds: u32) -> Result<Exit, CliError> {
    let request = Request::post("/security/drills", value(&RunDrill { rounds: Some(rounds) }));
    let request = request.time(Some(std::time::Duration::from_secs(600)));
    let answer = cx.current()?.send::<ThreatDrill>(&request).await?;
    let missed = answer.value.misses_count;
    cx.print(&answer, |drill| {
        let ms = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{} ms", us / 1_000));
        let row = |one: &ringfence_control::wire::DrilledRule| {
            let found = if one.detected { "found" } else { "MISSED" };
            [one.rule.clone(), found.to_owned(), ms(one.detect_us), ms(one.respond_us)]
        };
        let rows: Vec<[String; 4]> = drill.rules.iter().map(row).collect();
        let sum = format!(
            "{} played, {} missed; found within {} (median), {} (95 of 100)\n",
            drill.played_count,
            drill.misses_count,
            ms(drill.detect_us.p50),
            ms(drill.detect_us.p95)
        );
        format!("{}{sum}", table(["rule", "", "found after", "held after"], &rows))
    })?;
    Ok(if missed == 0 { Exit::Ok } else { Exit::Failed })
}

async fn intel(cx: &mut Context<'_>, args: &IntelArgs) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let Some(file) = &args.load else {
        let request = Request::get("/security/threat-intelligence").query("limit", Some("1000"));
        let mut answer = api.send::<ThreatIntelligence>(&request).await?;
        for _ in 1..INTEL_PAGES_COUNT_MAX {
            let Some(cursor) = answer.value.cursor.take() else { break };
            let next = api.send::<ThreatIntelligence>(&request.clone().query("cursor", Some(&cursor))).await?;
            answer.value.objects.extend(next.value.objects);
            answer.value.cursor = next.value.cursor;
            answer.text = json!(answer.value).to_string();
        }
        cx.print(&answer, pretty)?;
        return Ok(Exit::Ok);
    };
    let bundle: Value = parse(&read(file, BUNDLE_BYTES_MAX)?, "bad-bundle")?;
    let request = Request::post("/security/threat-intelligence", bundle)
        .query("feed", Some(&args.feed))
        .query("confidence_min", args.confidence_min)
        .query("half_life_days", args.half_life_days);
    let answer = api.send::<LoadedIntelligence>(&request).await?;
    cx.print(&answer, loaded_text)?;
    Ok(Exit::Ok)
}

fn loaded_text(loaded: &LoadedIntelligence) -> String {
    let mut text = format!(
        "{} indicators are matched, {} cannot be matched here, {} are not used; seen {} times in the log\n",
        loaded.matched_count, loaded.unmatched_pattern_count, loaded.not_used_count, loaded.sightings_count
    );
    if loaded.refused_count > 0 {
        text.push_str(&format!("{} objects cannot be read:\n", loaded.refused_count));
        // SECURITY: the ids in it are the feed's words, which make no lines of their own.
        loaded.refused.iter().for_each(|why| text.push_str(&format!("  {}\n", why.replace(['\n', '\t'], " "))));
    }
    text
}

async fn incident(cx: &mut Context<'_>, command: &IncidentCommand) -> Result<Exit, CliError> {
    match command {
        IncidentCommand::List => {
            let answer = cx.current()?.send::<Value>(&Request::get("/security/incidents")).await?;
            cx.print(&answer, pretty)?;
        }
        IncidentCommand::Show(args) => {
            let path = format!("/security/incidents/{}", segment(&args.id)?);
            let answer = cx.current()?.send::<Value>(&Request::get(path)).await?;
            cx.print(&answer, pretty)?;
        }
        IncidentCommand::Open(args) => step(cx, &opening(args)).await?,
        IncidentCommand::Step(args) => step(cx, &stepping(args)).await?,
    }
    Ok(Exit::Ok)
}

async fn step(cx: &mut Context<'_>, step: &IncidentStep) -> Result<(), CliError> {
    let request = Request::post("/security/incident-response", value(step));
    let answer = cx.current()?.send::<IncidentStepped>(&request).await?;
    cx.print(&answer, |stepped| format!("{} is {}\n", stepped.incident_id, stepped.state))
}

fn opening(args: &IncidentOpenArgs) -> IncidentStep {
    IncidentStep {
        transition: "report".to_owned(),
        title: Some(args.title.clone()),
        reason: args.reason.clone(),
        level: args.level.clone(),
        evidence: args.evidence.clone(),
        ..IncidentStep::default()
    }
}

fn stepping(args: &IncidentStepArgs) -> IncidentStep {
    IncidentStep {
        incident_id: Some(args.id.clone()),
        transition: args.transition.clone(),
        reason: args.reason.clone(),
        evidence: args.evidence.clone(),
        personal_data: args.personal_data.clone(),
        jurisdictions: (!args.jurisdiction.is_empty()).then(|| args.jurisdiction.clone()),
        ..IncidentStep::default()
    }
}

fn held(made: &ThreatResponse) -> String {
    format!(
        "{} holds until {}\n  take it back: ringfence threat undo {}\n",
        made.kind,
        made.until.clone().unwrap_or_default(),
        made.id.clone().unwrap_or_default()
    )
}

fn row(one: &ThreatResponse) -> [String; 5] {
    let target = &one.target;
    let plugin = target.plugin.clone();
    let against =
        [&target.principal, &target.source, &target.digest, &plugin, &target.tenant].into_iter().flatten().next();
    [
        one.kind.clone(),
        against.cloned().unwrap_or_default(),
        one.state.clone(),
        one.until.clone().unwrap_or_default(),
        one.id.clone().unwrap_or_default(),
    ]
}

fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, CliError> {
    let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    read_capped(&mut file, bytes_max, "the file")
}

fn parse(bytes: &[u8], code: &'static str) -> Result<Value, CliError> {
    serde_json::from_slice(bytes)
        .map_err(|error| CliError::failed(code, format!("the file is not JSON: {error}"), None))
}

fn value<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

fn pretty<T: Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
