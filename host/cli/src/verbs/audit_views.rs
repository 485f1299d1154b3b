//! `audit`: what the host's control plane makes of a log, and archives of it checked without the host.
//!
//! Must never call an archive checked whose key came from the archive alone without saying so.

use std::fs::{self, File};
use std::path::Path;

use data_encoding::HEXLOWER;
use ringfence_audit::export::{Checked, Coverage, ExportError, check};
use ringfence_control::wire::{
    Analytics, AnchorView, EventRecorded, EvidenceView, NewEvent, NewEvidence, Trail, ViolationView, Violations,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Format;
use crate::args::{AuditPackageArgs, AuditProofArgs, AuditRecordArgs, AuditSearchArgs, AuditStatsArgs, OperatorArgs};
use crate::client::{Api, Request, read_body};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::verbs::audit::{fault_error, key_text, unchecked_text};

/// LIMIT: largest archive fetched, in bytes.
const PACKAGE_BYTES_MAX: usize = 64 << 20;
/// LIMIT: longest proof fetched, in bytes.
const PROOF_BYTES_MAX: usize = 64 << 10;

/// `ringfence audit search`.
pub async fn search(cx: &mut Context<'_>, args: &AuditSearchArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let (mut left, mut cursor, mut rows) = (args.limit, None::<String>, Vec::new());
    while left > 0 {
        let request = Request::get(format!("/audit/trails/{tenant}"))
            .query("code", args.code.as_deref())
            .query("actor", args.actor.as_deref())
            .query("resource", args.resource.as_deref())
            .query("outcome", args.outcome.as_deref())
            .query("class", args.class.as_deref())
            .query("from", args.from.as_deref())
            .query("to", args.to.as_deref())
            .query("cursor", cursor.as_deref())
            .query("limit", Some(left.min(500)));
        let trail = api.send::<Trail>(&request).await?.value;
        left = left.saturating_sub(trail.events.len() as u64);
        for event in &trail.events {
            match cx.ui.format {
                Format::Json => cx.ui.json(event)?,
                Format::Text => rows.push(entry_row(event.seq, &event.envelope, &event.body)),
            }
        }
        match trail.cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    if cx.ui.format == Format::Text {
        match rows.is_empty() {
            true => cx.ui.note(&format!("no entry of {tenant} fits")),
            false => cx.ui.text(&table(["seq", "time", "event", "who", "what"], &rows))?,
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence audit proof`.
pub async fn proof(cx: &mut Context<'_>, args: &AuditProofArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let response = api.open(&Request::get(format!("/audit/proofs/{}", args.seq))).await?;
    let bytes = read_body(response, PROOF_BYTES_MAX).await.ok_or_else(broken_off)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({ "seq": args.seq, "proof": text }))?,
        Format::Text => cx.ui.text(&text)?,
    }
    Ok(Exit::Ok)
}

/// `ringfence audit anchor`.
pub async fn anchor(cx: &mut Context<'_>, args: &OperatorArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let answer = api.send::<AnchorView>(&Request::get("/audit/anchor")).await?;
    cx.print(&answer, anchor_text)?;
    Ok(Exit::Ok)
}

/// `ringfence audit violations`.
pub async fn violations(cx: &mut Context<'_>, args: &OperatorArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let answer = api.send::<Violations>(&Request::get("/audit/violations")).await?;
    cx.print(&answer, |found| {
        if found.items.is_empty() {
            return format!("nothing went against a rule in entries {} to {}", found.from_seq, found.as_of_seq);
        }
        let rows: Vec<[String; 8]> = found.items.iter().map(violation_row).collect();
        table(["violation", "severity", "kind", "count", "last seen", "who", "what", "state"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit stats`.
pub async fn stats(cx: &mut Context<'_>, args: &AuditStatsArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let request = Request::get("/audit/analytics")
        .query("group", Some(&args.by))
        .query("metric", Some(&args.metric))
        .query("window", Some(&args.window))
        .query("order", args.rare.then_some("rare"));
    let answer = api.send::<Analytics>(&request).await?;
    cx.print(&answer, |counted| {
        let rows: Vec<[String; 2]> =
            counted.series.iter().map(|row| [row.key.clone(), row.count.to_string()]).collect();
        table([counted.group.as_str(), counted.metric.as_str()], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit record`.
pub async fn record(cx: &mut Context<'_>, args: &AuditRecordArgs) -> Result<Exit, CliError> {
    let data: Value = match &args.data {
        None => Value::Null,
        Some(text) => serde_json::from_str(text)
            .map_err(|error| CliError::failed("bad-event", format!("`--data` is not JSON: {error}"), None))?,
    };
    let (code, message, resource) = (args.code.clone(), args.message.clone(), args.resource.clone());
    let event = NewEvent { code, message, resource, class_uid: None, data, subject: args.subject.clone() };
    let (api, _tenant) = cx.tenant().await?;
    let body = serde_json::to_value(event).unwrap_or_default();
    let answer = api.send::<EventRecorded>(&Request::post("/audit/log-event", body)).await?;
    cx.print(&answer, |recorded| format!("recorded as entry {} of {}", recorded.seq, recorded.log))?;
    Ok(Exit::Ok)
}

/// `ringfence audit package`.
pub async fn package(cx: &mut Context<'_>, args: &AuditPackageArgs) -> Result<Exit, CliError> {
    let api = own(cx, args.operator).await?;
    let asked = NewEvidence {
        from_seq: args.from,
        to_seq: args.to,
        query: args.code.iter().map(|code| ("code".to_owned(), code.clone())).collect(),
        sample_count: args.sample,
        sample_seed: None,
        formats: [(args.csv, "csv"), (args.parquet, "parquet")]
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, name)| name.to_owned())
            .collect(),
    };
    let body = serde_json::to_value(asked).unwrap_or_default();
    let made = api.send::<EvidenceView>(&Request::post("/audit/evidence-package", body)).await?;
    let response = api.open(&Request::get(format!("/audit/evidence-packages/{}", made.value.id))).await?;
    let bytes = read_body(response, PACKAGE_BYTES_MAX).await.ok_or_else(broken_off)?;
    if HEXLOWER.encode(&Sha256::digest(&bytes)) != made.value.sha256 {
        return Err(broken_off());
    }
    let failed = |error: std::io::Error| CliError::file("write", &args.file, &error);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&args.file).map_err(failed)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(failed)?;
    let path = args.file.display();
    cx.print(&made, |made| {
        let what = if made.complete { "complete between its ends" } else { "not complete: entries are left out" };
        format!(
            "wrote {} entries to {path}, {what}\n  verify with:  ringfence audit verify {path} --vkey KEY",
            made.entries_count
        )
    })?;
    Ok(Exit::Ok)
}

/// `ringfence audit verify ARCHIVE`.
pub fn verify_archive(
    cx: &mut Context<'_>,
    path: &Path,
    vkey: Option<&str>,
    previous: Option<&str>,
) -> Result<Exit, CliError> {
    let file = File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    let key = vkey.map(key_text).transpose()?;
    let checked =
        check(std::io::BufReader::new(file), key.as_deref(), previous).map_err(|error| export_error(path, error))?;
    if key.is_none() {
        cx.ui.note("the key was taken from the archive: this shows that it fits together, not who made it");
    }
    super::audit::note_unreached(cx, checked.unreached);
    let Checked { manifest, head, whole, bodies_withheld, bodies_bare, .. } = &checked;
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({
            "verified": true, "origin": manifest.origin, "entries_count": manifest.entries_count, "whole": whole,
            "coverage": manifest.coverage, "bodies_withheld_count": bodies_withheld, "size": head.size,
            "bodies_bare_count": bodies_bare, "redacted": manifest.redacted,
            "anchor": manifest.anchor, "root": HEXLOWER.encode(&head.root), "key_given": key.is_some(),
        }))?,
        Format::Text => {
            let says = match (whole, manifest.coverage) {
                (true, _) => "the whole log",
                (false, Coverage::Complete) => "none missing between the first and the last",
                (false, Coverage::Filtered) => "entries are left out on purpose",
            };
            let anchored = manifest.anchor.map_or_else(String::new, |said| {
                format!("\n  the host says: anchored {:?}, its first {} entries", said.level, said.size)
            });
            let taken = match manifest.redacted.as_slice() {
                [] => String::new(),
                members => {
                    format!("\n  taken out of bodies, as the archive says: {}", members.join(", ").replace('\n', " "))
                }
            };
            let unchecked = unchecked_text(*bodies_withheld, *bodies_bare);
            cx.ui.text(&format!(
                "verified {} entries of {}: {says}\n  proven against {} entries signed for{unchecked}{taken}{anchored}",
                manifest.entries_count, manifest.origin, head.size
            ))?;
        }
    }
    Ok(Exit::Ok)
}

/// The API as the owner of a log: the tenant in use, or the operators.
pub(super) async fn own(cx: &Context<'_>, operator: bool) -> Result<Api, CliError> {
    if operator { cx.operator() } else { cx.tenant().await.map(|(api, _)| api) }
}

fn export_error(path: &Path, error: ExportError) -> CliError {
    // What a reader of archives says of some other file helps nobody.
    if let ExportError::NotAnExport(_) = &error {
        let detail = format!("`{}` is no archive of `audit package`, or is broken", path.display());
        let help = "what `audit export` wrote is checked with\nringfence audit verify --file FILE --checkpoint FILE --vkey KEY";
        return CliError::failed("bad-export", detail, help);
    }
    if let ExportError::Entries(fault) = &error {
        return fault_error(fault);
    }
    let code = match &error {
        ExportError::FileAltered(_) => "audit-altered",
        ExportError::BadSignature => "audit-bad-signature",
        _ => "bad-export",
    };
    let help = Some("keep the archive, and ask for it again".to_owned());
    CliError::Failed { code, detail: error.to_string(), help }
}

fn broken_off() -> CliError {
    CliError::failed("broken-off", "the answer broke off or was changed on its way", None)
}

fn anchor_text(anchor: &AnchorView) -> String {
    let says = match anchor.level.as_str() {
        "L3" => "an independent witness signed for its head",
        "L2" => "a mirror elsewhere has its head",
        _ => "signed by the host alone: evidence against everyone who has not its key",
    };
    let witnesses = match anchor.witnesses.is_empty() {
        true => String::new(),
        false => format!("\n  witnesses  {}", anchor.witnesses.join(", ")),
    };
    format!("{}  {says}{witnesses}\n  log of logs  {}", anchor.level, anchor.heads_vkey)
}

fn violation_row(row: &ViolationView) -> [String; 8] {
    let what = format!("{} {}", row.operation, row.resource);
    let state = match &row.remediation {
        Some(done) if done.overdue => format!("{}, overdue", done.state),
        Some(done) => done.state.clone(),
        None if row.over => "passes now".to_owned(),
        None => String::new(),
    };
    let [severity, kind, last, who] = [&row.severity, &row.kind, &row.last_seen, &row.actor].map(String::clone);
    [row.id.clone(), severity, kind, row.count.to_string(), last, who, what, state]
}

/// An entry as a row: position, time, event and how it ended, who, and what was done to what. What the caller may not see is
/// empty.
pub(super) fn entry_row(seq: u64, envelope: &str, body: &Value) -> [String; 5] {
    let envelope: Value = serde_json::from_str(envelope).unwrap_or_default();
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let time = envelope.get("time").and_then(Value::as_i64).and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let of_body = |pointer: &str| text(body.pointer(pointer));
    let event = format!("{} {}", text(envelope.get("code")), text(envelope.get("status")));
    let what = format!("{} {}", of_body("/api/operation"), of_body("/resources/0/uid"));
    [
        seq.to_string(),
        time.map(|time| time.to_string()).unwrap_or_default(),
        event.trim().to_owned(),
        of_body("/actor/user/uid"),
        what.trim().to_owned(),
    ]
}
