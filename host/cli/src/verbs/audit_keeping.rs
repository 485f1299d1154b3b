//! `audit`: how long a log is kept, legal holds, erasing an application's event, the log's keys.
//!
//! Must never take the host's word for a key: what a change of key leads to is followed from the key that is known.

use ringfence_audit::{Beginning, KeyChange, Trust};
use ringfence_control::wire::{
    AgreementView, BeginningView, HoldView, KeyChangeView, LogKeyRotated, LogKeysView, LogLifeView, NewErasure,
    NewHold, SetRetention,
};
use serde_json::to_value;

use crate::args::{AuditEraseArgs, AuditHoldArgs, AuditLiftArgs, AuditRetentionArgs, OperatorArgs};
use crate::client::{Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence audit retention`.
pub async fn retention(cx: &mut Context<'_>, args: &AuditRetentionArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let request = match args.days {
        None => Request::get("/audit/retention"),
        Some(retention_days) => {
            Request::put("/audit/retention", to_value(SetRetention { retention_days }).unwrap_or_default())
        }
    };
    let answer = api.send::<LogLifeView>(&request).await?;
    cx.print(&answer, life_text)?;
    Ok(Exit::Ok)
}

/// `ringfence audit hold`.
pub async fn hold(cx: &mut Context<'_>, args: &AuditHoldArgs) -> Result<Exit, CliError> {
    let (api, path) = holds(cx, args.operator, args.of.as_ref()).await?;
    let body = to_value(NewHold { reason: args.reason.clone() }).unwrap_or_default();
    let answer = api.send::<HoldView>(&Request::post(path, body)).await?;
    cx.print(&answer, |hold| {
        format!(
            "{} holds the log: nothing of it is deleted until two people lift it\n  ringfence audit lift {}",
            hold.id, hold.id
        )
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit lift`.
pub async fn lift(cx: &mut Context<'_>, args: &AuditLiftArgs) -> Result<Exit, CliError> {
    let (api, path) = holds(cx, args.operator, args.of.as_ref()).await?;
    let answer = api.send::<AgreementView>(&Request::delete(format!("{path}/{}", args.hold))).await?;
    cx.print(&answer, |agreed| match agreed.state.as_str() {
        "done" => format!("{} is lifted", args.hold),
        _ => format!("asked; {} is lifted when another person says the same within a day", args.hold),
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit erase`.
pub async fn erase(cx: &mut Context<'_>, args: &AuditEraseArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let body = to_value(NewErasure { seq: args.seq, reason: args.reason.clone() }).unwrap_or_default();
    let answer = api.send::<AgreementView>(&Request::post("/audit/erasures", body)).await?;
    cx.print(&answer, |agreed| match agreed.state.as_str() {
        "done" => format!("the body of entry {} is gone; the entry and its proofs stay", args.seq),
        _ => format!("asked; entry {} loses its body when another person says the same within a day", args.seq),
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit keys`.
pub async fn keys(cx: &mut Context<'_>, args: &OperatorArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let answer = api.send::<LogKeysView>(&Request::get("/audit/keys")).await?;
    cx.print(&answer, keys_text)?;
    Ok(Exit::Ok)
}

/// `ringfence audit rotate-key`.
pub async fn rotate(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let answer = api.send::<LogKeyRotated>(&Request::post("/audit/keys/rotate", serde_json::json!({}))).await?;
    cx.print(&answer, |rotated| {
        let days = rotated.overlap_days;
        format!(
            "the logs have key {}; the one before signs along for {days} days\n  {}",
            rotated.generation, rotated.vkey
        )
    })?;
    Ok(Exit::Ok)
}

/// What stands for the deleted part of a log.
pub async fn beginning(api: &Api) -> Result<Option<Beginning>, CliError> {
    let life = api.send::<LogLifeView>(&Request::get("/audit/retention")).await?.value;
    Ok(life.beginning.map(|view| {
        let BeginningView { size, peaks, final_checkpoint } = view;
        Beginning { size, peaks, final_checkpoint }
    }))
}

/// The changes that lead from a known key to the one the host signs with now; an error when they do not.
pub async fn follow(api: &Api, origin: &str, known: &str, now: &str) -> Result<Vec<KeyChange>, CliError> {
    let changes: Vec<KeyChange> = match api.send::<LogKeysView>(&Request::get("/audit/keys")).await {
        Ok(keys) => keys.value.changes.into_iter().map(change).collect(),
        Err(CliError::Refused(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    match Trust::follow(origin, known, &changes) {
        Some(trust) if trust.vkey() == now => Ok(changes),
        _ => Err(CliError::Failed {
            code: "audit-key-changed",
            detail: format!(
                "the host signs `{origin}` with another key than the one kept, and nothing leads there from it"
            ),
            help: Some("ask the operator why before you trust this log".to_owned()),
        }),
    }
}

fn change(view: KeyChangeView) -> KeyChange {
    let KeyChangeView { old_vkey, new_vkey, seq, at_ms, checkpoint } = view;
    KeyChange { old_vkey, new_vkey, seq, at_ms, checkpoint }
}

async fn own(cx: &Context<'_>, operator: bool) -> Result<Api, CliError> {
    if operator { cx.operator() } else { cx.tenant().await.map(|(api, _)| api) }
}

/// Where holds of the log are set: the own one, or as an operator a tenant's.
async fn holds(
    cx: &Context<'_>,
    operator: bool,
    of: Option<&ringfence_core::TenantId>,
) -> Result<(Api, String), CliError> {
    match of {
        Some(tenant) => Ok((cx.operator()?, format!("/tenants/{tenant}/audit/holds"))),
        None => Ok((own(cx, operator).await?, "/audit/holds".to_owned())),
    }
}

fn life_text(life: &LogLifeView) -> String {
    let rows: Vec<[String; 4]> = life
        .shards
        .iter()
        .map(|shard| {
            let years = if shard.last_year == shard.year {
                shard.year.to_string()
            } else {
                format!("{}-{}", shard.year, shard.last_year)
            };
            let to = shard.to_seq.map_or_else(|| "now".to_owned(), |to| to.saturating_sub(1).to_string());
            [years, shard.from_seq.to_string(), to, shard.state.clone()]
        })
        .collect();
    let mut text = format!(
        "{}\n  kept for {} days after the end of a year (at least {})\n",
        life.origin, life.retention_days, life.retention_days_min
    );
    if let Some(at) = &life.deletes_at {
        text.push_str(&format!("  a deletion begins at {at}\n"));
    }
    for hold in &life.holds {
        let asked = hold.lift_asked_by.as_ref().map(|by| format!(", {by} wants it lifted")).unwrap_or_default();
        text.push_str(&format!("  held by {} ({}) since {}: {}{asked}\n", hold.id, hold.by, hold.at, hold.reason));
    }
    text + &table(["year", "from", "to", "state"], &rows)
}

fn keys_text(keys: &LogKeysView) -> String {
    let mut lines = vec![keys.vkey.clone()];
    lines.extend(keys.cosigner_vkey.iter().map(|vkey| format!("post-quantum  {vkey}")));
    lines.extend(keys.before.iter().map(|vkey| format!("before  {vkey}")));
    lines.extend(keys.changes.iter().map(|change| format!("entry {} says that the key changed", change.seq)));
    lines.join("\n")
}
