//! `trust`: where sessions stand and why, what is asked of them, and what is held against somebody for a while.
//!
//! Must never send settings made of what was shown: that has no roots and no certificates, so it would take them away.

use std::path::Path;

use jiff::SignedDuration;
use ringfence_control::wire::{
    AdjustRisk, ApprovalView, OperatorsTrustView, PostureState, RiskAdjustmentView, SecurityPosture, SetOperatorsTrust,
    SetTrust, ThresholdsView, TrustScoreView, TrustSettingsView, UnboundTokensWord,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{RiskCommand, RiskIdArgs, RiskReasonArgs, TrustCommand, TrustScoreArgs, TrustSettingsArgs};
use crate::client::{Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{micros_words, table};
use crate::ui::read_capped;
use crate::verbs::audit_views::own;

/// LIMIT: largest settings that are read from a file, in bytes.
const SETTINGS_BYTES_MAX: usize = 1 << 20;

/// What became of settings that were sent: in force, or waiting for another tenant-admin.
#[derive(Deserialize)]
#[serde(untagged)]
enum Decided {
    InForce(Box<TrustSettingsView>),
    Waits(Box<ApprovalView>),
}

/// `ringfence trust ...`.
pub async fn run(cx: &mut Context<'_>, command: &TrustCommand) -> Result<Exit, CliError> {
    match command {
        TrustCommand::Score(args) => score(cx, args).await,
        TrustCommand::Settings(args) if args.operator => operators(cx, args).await,
        TrustCommand::Settings(args) => settings(cx, args).await,
        TrustCommand::Posture(args) => {
            let request = Request::get("/zero-trust/security-posture");
            let answer = own(cx, args.operator).await?.send::<SecurityPosture>(&request).await?;
            cx.print(&answer, posture_text)?;
            Ok(Exit::Ok)
        }
        TrustCommand::Risk(command) => risk(cx, command).await,
    }
}

async fn score(cx: &mut Context<'_>, args: &TrustScoreArgs) -> Result<Exit, CliError> {
    let request = Request::get("/zero-trust/trust-score").query("subject", args.subject.as_ref());
    let answer = own(cx, args.operator).await?.send::<TrustScoreView>(&request).await?;
    cx.print(&answer, score_text)?;
    Ok(Exit::Ok)
}

async fn settings(cx: &mut Context<'_>, args: &TrustSettingsArgs) -> Result<Exit, CliError> {
    let wanted: Option<SetTrust> = args.set.as_deref().map(|file| read_settings(cx, file)).transpose()?;
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/trust");
    let Some(wanted) = wanted else {
        let answer = api.send::<TrustSettingsView>(&Request::get(path)).await?;
        cx.print(&answer, settings_text)?;
        return Ok(Exit::Ok);
    };
    let answer = api.send::<Decided>(&Request::put(path, value(&wanted))).await?;
    cx.print(&answer, |decided| match decided {
        Decided::InForce(settings) => format!("in force\n{}", settings_text(settings)),
        Decided::Waits(waiting) => {
            format!("waits for another tenant-admin\n  help: ringfence approval approve {}\n", waiting.id)
        }
    })?;
    Ok(Exit::Ok)
}

async fn operators(cx: &mut Context<'_>, args: &TrustSettingsArgs) -> Result<Exit, CliError> {
    let wanted: Option<SetOperatorsTrust> = args.set.as_deref().map(|file| read_settings(cx, file)).transpose()?;
    let request = match &wanted {
        None => Request::get("/trust"),
        Some(wanted) => Request::put("/trust", value(wanted)),
    };
    let answer = cx.operator()?.send::<OperatorsTrustView>(&request).await?;
    cx.print(&answer, operators_text)?;
    Ok(Exit::Ok)
}

async fn risk(cx: &mut Context<'_>, command: &RiskCommand) -> Result<Exit, CliError> {
    match command {
        RiskCommand::List(args) => {
            let api = own(cx, args.operator).await?;
            let answer =
                api.list::<RiskAdjustmentView>(&Request::get("/zero-trust/risk-adjustments"), "cursor").await?;
            cx.print_list(&answer, "nothing is held against anybody", |all| {
                let row = |one: &RiskAdjustmentView| {
                    let (state, until) = (state(one), one.expires_at.clone());
                    [one.id.clone(), one.subject.clone(), effect(one), state, until, one.by.clone(), one.reason.clone()]
                };
                let header = ["id", "about", "effect", "state", "until", "by", "reason"];
                table(header, &all.iter().map(row).collect::<Vec<_>>())
            })?;
            Ok(Exit::Ok)
        }
        RiskCommand::Raise(args) => {
            let delta = args.by.map(|by| -i32::from(by));
            adjust(cx, &args.subject, (delta, args.at_least), &args.why).await
        }
        RiskCommand::Lower(args) => adjust(cx, &args.subject, (Some(i32::from(args.by)), None), &args.why).await,
        RiskCommand::Approve(args) => {
            let path = format!("/zero-trust/risk-adjustments/{}/approve", segment(&args.id)?);
            let request = Request::post(path, json!({}));
            let answer = own(cx, args.operator).await?.send::<RiskAdjustmentView>(&request).await?;
            cx.print(&answer, adjusted_text)?;
            Ok(Exit::Ok)
        }
        RiskCommand::Withdraw(args) => withdraw(cx, args).await,
    }
}

async fn withdraw(cx: &mut Context<'_>, args: &RiskIdArgs) -> Result<Exit, CliError> {
    let id = segment(&args.id)?;
    let request = Request::delete(format!("/zero-trust/risk-adjustments/{id}"));
    let api = own(cx, args.operator).await?;
    match api.act_or_later::<RiskAdjustmentView>(&request).await? {
        None => cx.done(&format!("withdrew {id}"))?,
        Some(later) => cx.print(&later, |_| {
            format!(
                "{id} counts until a second person wants the same\n  who agrees: ringfence trust risk withdraw {id}\n"
            )
        })?,
    }
    Ok(Exit::Ok)
}

async fn adjust(
    cx: &mut Context<'_>,
    subject: &str,
    (delta, floor): (Option<i32>, Option<u8>),
    why: &RiskReasonArgs,
) -> Result<Exit, CliError> {
    let until = cx.clock.now().checked_add(SignedDuration::from_secs(i64::from(why.lasts.0)));
    let until = until.map_err(|_| CliError::failed("bad-adjustment", "its end is out of range", None))?;
    let asked = AdjustRisk {
        subject: subject.to_owned(),
        delta,
        floor,
        reason: why.reason.clone(),
        expires_at: until.to_string(),
    };
    let request = Request::put("/zero-trust/risk-adjustment", value(&asked));
    let answer = own(cx, why.operator).await?.send::<RiskAdjustmentView>(&request).await?;
    cx.print(&answer, adjusted_text)?;
    Ok(Exit::Ok)
}

fn read_settings<T: DeserializeOwned>(cx: &mut Context<'_>, path: &Path) -> Result<T, CliError> {
    let bytes = if path.as_os_str() == "-" {
        cx.ui.read_input(SETTINGS_BYTES_MAX)?
    } else {
        let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
        read_capped(&mut file, SETTINGS_BYTES_MAX, "the settings")?
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| CliError::failed("bad-json", format!("these are no such settings: {error}"), None))
}

fn value<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

// === texts ===

fn score_text(trust: &TrustScoreView) -> String {
    let session = trust.session_id.as_ref().map_or_else(|| "no session".to_owned(), |id| format!("session {id}"));
    let rows = trust.signals.iter().map(|one| {
        [one.name.clone(), one.value.clone(), one.effect.to_string(), age(one.age_seconds), one.source.clone()]
    });
    let rows: Vec<[String; 5]> = rows.collect();
    let (who, score, asked) = (&trust.principal, trust.score, thresholds(&trust.thresholds));
    let signals = table(["signal", "value", "effect", "age", "source"], &rows);
    format!("{who} stands at {score} of 100 ({session})\nasked: {asked}\n\n{signals}")
}

fn thresholds(asked: &ThresholdsView) -> String {
    format!(
        "floor {}, invoke {}, read {}, change {}, administer {}",
        asked.floor, asked.invoke, asked.read, asked.change, asked.administer
    )
}

fn settings_text(asked: &TrustSettingsView) -> String {
    let mut lines = vec![
        ("scores", thresholds(&asked.thresholds)),
        ("verified", format!("every {} s", asked.verify_interval_seconds)),
        (
            "credentials",
            asked.credential_days_max.map_or("of any age".to_owned(), |days| format!("{days} days at most")),
        ),
        ("hours", asked.hours_utc.map_or("any".to_owned(), |hours| format!("{} to {} (UTC)", hours.from, hours.to))),
    ];
    if let Some(seconds) = asked.step_up_seconds {
        lines.push(("steps up", format!("count for {seconds} s")));
    }
    let posture = &asked.device_posture;
    if !posture.issuers.is_empty() {
        let names: Vec<&str> = posture.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        lines.push(("devices", format!("{} by the word of {}", posture.required.join(", "), names.join(", "))));
    }
    if let Some(tpm) = &asked.device_tpm {
        lines.push(("TPMs", format!("{} roots, {} sets of registers", tpm.roots_count, tpm.expected.len())));
    }
    if !asked.passkey_attestation.is_empty() {
        lines.push(("passkeys", format!("of {} makers", asked.passkey_attestation.len())));
    }
    if let (Some(at), Some(by)) = (&asked.changed_at, &asked.changed_by) {
        let allowed = asked.approved_by.as_ref().map_or_else(String::new, |by| format!(", allowed by {by}"));
        lines.push(("decided", format!("{at} by {by}{allowed}")));
    }
    lines.into_iter().map(|(name, what)| format!("{name:<12} {what}\n")).collect()
}

fn operators_text(asked: &OperatorsTrustView) -> String {
    let mut text = format!("{}{}", settings_text(&asked.sessions), unbound_text(asked.unbound_tokens));
    if let Some(waiting) = &asked.waiting {
        let (by, until) = (&waiting.by, &waiting.until);
        text.push_str(&format!("\nwanted by {by}; in force when another operator sets the same until {until}\n"));
        text.push_str(&settings_text(&waiting.sessions));
        text.push_str(&unbound_text(waiting.unbound_tokens));
    }
    text
}

fn unbound_text(unbound: UnboundTokensWord) -> String {
    let word = match unbound {
        UnboundTokensWord::Allowed => "allowed",
        UnboundTokensWord::Refused => "refused",
    };
    format!("{:<12} {word}\n", "unbound")
}

fn posture_text(posture: &SecurityPosture) -> String {
    let counts = &posture.counts;
    let rows = posture.checks.iter().map(|one| {
        let state = match one.state {
            PostureState::Pass => "pass",
            PostureState::Fail => "FAIL",
            PostureState::Unknown => "unknown",
            PostureState::Shown => "-",
        };
        [one.check.clone(), state.to_owned(), one.value.clone(), age(one.age_seconds), one.source.clone()]
    });
    let rows: Vec<[String; 5]> = rows.collect();
    let mut text = format!(
        "{} at {}: {} pass, {} fail, {} unknown\n\n{}",
        posture.place,
        posture.as_of,
        counts.pass,
        counts.fail,
        counts.unknown,
        table(["line", "state", "value", "age", "source"], &rows)
    );
    if !posture.findings.is_empty() {
        let findings = posture.findings.iter().map(|(level, count)| format!("{count} {level}"));
        text.push_str(&format!("\nfindings: {}\n", findings.collect::<Vec<_>>().join(", ")));
    }
    for blind in &posture.blind_spots {
        text.push_str(&format!("not looked for: {blind}\n"));
    }
    text
}

fn effect(one: &RiskAdjustmentView) -> String {
    one.floor.map_or_else(|| format!("{:+}", one.delta), |floor| format!("risk {floor} at least"))
}

/// How it stands, and who wants it withdrawn.
fn state(one: &RiskAdjustmentView) -> String {
    let state = &one.state;
    one.withdrawn_by.as_ref().map_or_else(|| state.clone(), |by| format!("{state}; {by} wants it withdrawn"))
}

fn adjusted_text(one: &RiskAdjustmentView) -> String {
    if one.state == "waiting" {
        let id = &one.id;
        return format!("{id} waits for a second person\n  who agrees: ringfence trust risk approve {id}\n");
    }
    let stands = one.effective_score.map_or_else(String::new, |score| format!("; it stands at {score} now"));
    format!("{} of {} counts until {}{stands}\n", effect(one), one.subject, one.expires_at)
}

fn age(seconds: Option<u64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(0) => "now".to_owned(),
        Some(seconds) => micros_words(seconds.saturating_mul(1_000_000)),
    }
}
