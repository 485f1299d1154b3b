//! `backup` and `restore`: long work is begun, then looked after until it is done.
//!
//! Must never take a recovery key from the command line, nor replace a tenant without asking.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use ringfence_control::wire::{
    BackupView, DamageView, JobError, JobView, NewBackup, Problem, RecoveryKey, RestoreArchive, RestoreBackup,
};
use ringfence_control::{ArchiveReport, check_archive, status_of};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::Format;
use crate::args::{BackupArgs, BackupCreateArgs, BackupVerifyArgs, DamageArgs, RecoveryKeyArgs, RestoreArgs};
use crate::client::{Answer, Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit, Refusal};
use crate::table::{bytes_words, table};
use crate::ui::{Stopwatch, read_capped};

/// How often a job is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// LIMIT: longest file with a recovery key.
const KEY_BYTES_MAX: usize = 1_024;

/// `ringfence backup create`.
pub async fn create(cx: &mut Context<'_>, args: &BackupCreateArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let kind = if args.incremental { "incremental" } else { "full" };
    let body = to_value(&NewBackup { kind: Some(kind.to_owned()) });
    let job = follow(cx, &api, &Request::post(format!("/tenants/{tenant}/backups"), body), "back up").await?;
    cx.print(&job, |job| match result::<BackupView>(job) {
        Some(made) => format!(
            "made backup {} of tenant {tenant}: {} records, {} blobs, {}",
            made.id,
            made.records_count,
            made.blobs_count,
            bytes_words(made.file_bytes)
        ),
        None => String::new(),
    })?;
    Ok(ended(&job.value))
}

/// `ringfence backup list`.
pub async fn list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let answer = api.list::<BackupView>(&Request::get(format!("/tenants/{tenant}/backups")), "cursor").await?;
    let nothing = format!("tenant {tenant} has no backups; make one with  ringfence backup create");
    cx.print_list(&answer, &nothing, |backups| {
        let rows: Vec<[String; 6]> = backups
            .iter()
            .map(|b| {
                let parent = b.parent.clone().unwrap_or_else(|| "full".to_owned());
                let drilled = match (&b.drill_failed, &b.drill) {
                    (Some(failed), _) => format!("failed {}", failed.at),
                    (None, Some(drill)) => drill.at.clone(),
                    (None, None) => "never".to_owned(),
                };
                let records = match b.damaged_count {
                    0 => b.records_count.to_string(),
                    damaged => format!("{}, {damaged} damaged", b.records_count),
                };
                [b.id.clone(), b.created_at.clone(), parent, records, bytes_words(b.file_bytes), drilled]
            })
            .collect();
        table(["backup", "made", "builds on", "records", "size", "drilled"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence backup verify`.
pub async fn verify(cx: &mut Context<'_>, args: &BackupVerifyArgs) -> Result<Exit, CliError> {
    let shown = args.file.display().to_string();
    let key = args.recovery_key.as_deref().map(|file| read_key(cx, file)).transpose()?;
    let file = File::open(&args.file).map_err(|error| CliError::file("read", &args.file, &error))?;
    let report = check_archive(file, key.as_ref().map(|key| key.as_str())).await;
    let report = report.map_err(|error| CliError::failed(error.code, format!("`{shown}`: {}", error.detail), None))?;
    match cx.ui.format {
        Format::Json => cx.ui.json(&report)?,
        Format::Text => cx.ui.text(&report_text(&report))?,
    }
    Ok(Exit::Ok)
}

/// `ringfence backup drill`.
pub async fn drill(cx: &mut Context<'_>, args: &BackupArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/backups/{}/drill", args.backup);
    let job = follow(cx, &api, &Request::post(path, json!({})), "restore and compare").await?;
    cx.print(&job, |job| match result::<BackupView>(job).and_then(|made| made.drill) {
        Some(drill) => format!(
            "backup {} restores whole: {} records and {} blobs are the same, {} in {} ms",
            args.backup,
            drill.records_count,
            drill.blobs_count,
            bytes_words(drill.content_bytes),
            drill.took_ms
        ),
        None => String::new(),
    })?;
    Ok(ended(&job.value))
}

/// `ringfence backup delete`.
pub async fn delete(cx: &mut Context<'_>, args: &BackupArgs) -> Result<Exit, CliError> {
    let question = format!("Delete backup `{}`? It cannot be brought back.", args.backup);
    cx.ui.confirm(&format!("backup delete {}", args.backup), &question)?;
    let (api, tenant) = cx.tenant().await?;
    api.act(&Request::delete(format!("/tenants/{tenant}/backups/{}", args.backup))).await?;
    cx.done(&format!("deleted backup {} of tenant {tenant}", args.backup))?;
    Ok(Exit::Ok)
}

/// `ringfence backup recovery-key`.
pub async fn recovery_key(cx: &mut Context<'_>, args: &RecoveryKeyArgs) -> Result<Exit, CliError> {
    if let Some(out) = args.out.as_deref().filter(|out| out.exists()) {
        return Err(CliError::failed("file", format!("`{}` exists already", out.display()), None));
    }
    let (api, tenant) = cx.tenant().await?;
    let request = Request::post(format!("/tenants/{tenant}/backups/recovery-key"), json!({}));
    let answer = api.send::<RecoveryKey>(&request).await?;
    if let Some(out) = &args.out {
        write_key(out, &answer.value.recovery_key)?;
        cx.done(&format!("wrote the recovery key of tenant {tenant} to {}", out.display()))?;
        return Ok(Exit::Ok);
    }
    cx.print(&answer, |key| {
        format!(
            "{}\nWhoever has this key can read every backup of tenant {tenant}. Keep it where this host is not.",
            key.recovery_key
        )
    })?;
    Ok(Exit::Ok)
}

/// `ringfence backup damage`.
pub async fn damage(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let answer = api.list::<DamageView>(&Request::get(format!("/tenants/{tenant}/damage")), "cursor").await?;
    cx.print_list(&answer, &format!("everything of tenant {tenant} opens"), |found| {
        let rows: Vec<[String; 4]> = found
            .iter()
            .map(|damage| {
                let by = if damage.by_operator { "operator" } else { "tenant" };
                let within = damage.within.clone().unwrap_or_default();
                [damage.place.clone(), damage.area.clone(), within, by.to_owned()]
            })
            .collect();
        table(["place", "of", "within", "removed by"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence backup remove-damaged`.
pub async fn remove_damaged(cx: &mut Context<'_>, args: &DamageArgs) -> Result<Exit, CliError> {
    let question =
        format!("Remove the record at `{}`? It does not open; a restore of a backup could bring it back.", args.place);
    cx.ui.confirm(&format!("backup remove-damaged {}", args.place), &question)?;
    let (api, tenant) = cx.tenant().await?;
    let place = crate::client::segment(&args.place)?;
    api.act(&Request::delete(format!("/tenants/{tenant}/damage/{place}"))).await?;
    cx.done(&format!("removed the damaged record {} of tenant {tenant}", args.place))?;
    Ok(Exit::Ok)
}

/// `ringfence restore`.
pub async fn restore(cx: &mut Context<'_>, args: &RestoreArgs) -> Result<Exit, CliError> {
    let (api, request) = match (&args.uid, &args.recovery_key, &args.into) {
        (Some(uid), Some(file), Some(into)) => {
            let key = read_key(cx, file)?;
            let asked = RestoreArchive {
                tenant_uid: uid.clone(),
                backup: args.backup.to_string(),
                into: into.to_string(),
                plan: args.plan.as_ref().map(ToString::to_string),
                recovery_key: key.to_string(),
            };
            (cx.operator()?, Request::post("/restores", to_value(&asked)))
        }
        _ => {
            let (api, tenant) = cx.tenant().await?;
            if args.replace {
                let warning = format!(
                    "This replaces everything that tenant `{tenant}` has with backup `{}`.\nWhat was made since is gone.",
                    args.backup
                );
                cx.ui.confirm_typed(&format!("restore {} --replace", args.backup), &warning, tenant.as_str())?;
            }
            let asked = RestoreBackup {
                into: args.into.as_ref().map(ToString::to_string),
                replace: args.replace.then(|| tenant.to_string()),
            };
            (api, Request::post(format!("/tenants/{tenant}/backups/{}/restore", args.backup), to_value(&asked)))
        }
    };
    let job = follow(cx, &api, &request, "restore").await?;
    cx.print(&job, |job| match (&job.error, &args.into, &job.tenant) {
        (Some(_), ..) => String::new(),
        (None, Some(into), _) => {
            format!("restored backup {} into the new tenant {into}{}", args.backup, renamed(job.result.as_ref()))
        }
        (None, None, tenant) => {
            format!("restored backup {} of tenant {}", args.backup, tenant.as_deref().unwrap_or_default())
        }
    })?;
    Ok(ended(&job.value))
}

/// What became of what names its tenant, in a restore under another name: a line each.
fn renamed(result: Option<&Value>) -> String {
    let said = |name: &str| result.and_then(|result| result.get(name));
    let count = said("renamed_count").and_then(Value::as_u64).filter(|count| *count > 0);
    let moved = count.map(|count| format!("\ntexts of policies that name the new tenant now: {count}"));
    let locked = said("locked").and_then(Value::as_str);
    let locked = locked.map(|why| format!("\nit is locked until an operator writes anew what does not fit: {why}"));
    [moved, locked].into_iter().flatten().collect()
}

/// Begins a job and waits for its end; a failed one is an error in the host's words. Where the host goes away meanwhile it is said
/// where that end will be.
pub(crate) async fn follow(
    cx: &mut Context<'_>,
    api: &Api,
    request: &Request<'_>,
    what: &str,
) -> Result<Answer<JobView>, CliError> {
    let watch = Stopwatch::start();
    let mut answer = api.send::<JobView>(request).await?;
    cx.ui.note(&format!("{what}: job {}", answer.value.id));
    while answer.value.state == "running" {
        tokio::time::sleep(LOOK).await;
        let id = &answer.value.id;
        let looked = api.send::<JobView>(&Request::get(format!("/jobs/{id}"))).await;
        answer = looked.inspect_err(|error| {
            if matches!(error, CliError::Unreachable { .. }) {
                let text = format!("the host went away in the middle of job {id}: once it is back, `ringfence audit list` says how that ended");
                cx.ui.note(&text);
            }
        })?;
    }
    cx.ui.phase(what, &answer.value.state, watch.took());
    match &answer.value.error {
        Some(error) => Err(refused(error)),
        None => Ok(answer),
    }
}

/// A failed job, as the refusal that it would have been.
fn refused(error: &JobError) -> CliError {
    let problem = Problem {
        kind: format!("/docs/errors/{}", error.code),
        title: String::new(),
        status: status_of(&error.code).as_u16(),
        code: error.code.clone(),
        detail: error.detail.clone(),
        help: error.help.clone(),
        request_id: None,
        decision_id: None,
        needs: Vec::new(),
        factor: None,
    };
    CliError::Refused(Box::new(Refusal { problem, retry_after: None, version: None }))
}

fn ended(job: &JobView) -> Exit {
    if job.state == "succeeded" { Exit::Ok } else { Exit::Failed }
}

fn result<T: serde::de::DeserializeOwned>(job: &JobView) -> Option<T> {
    serde_json::from_value(job.result.clone()?).ok()
}

fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn read_key(cx: &mut Context<'_>, path: &Path) -> Result<Zeroizing<String>, CliError> {
    let bytes = if path.as_os_str() == "-" {
        cx.ui.read_input(KEY_BYTES_MAX)?
    } else {
        let mut file = File::open(path).map_err(|error| CliError::file("read", path, &error))?;
        read_capped(&mut file, KEY_BYTES_MAX, "the recovery key")?
    };
    let wrong = |_| CliError::failed("bad-recovery-key", "the recovery key is not text".to_owned(), None);
    String::from_utf8(bytes).map(|text| Zeroizing::new(text.trim().to_owned())).map_err(wrong)
}

fn write_key(path: &Path, key: &str) -> Result<(), CliError> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        writeln!(file, "{key}")?;
        file.sync_all()
    });
    written.map_err(|error| CliError::file("write", path, &error))
}

fn report_text(report: &ArchiveReport) -> String {
    let mut text = format!(
        "backup      {}\nbuilds on   {}\nmade        {}\nhost        {}\ndirectory   {}\nkey         {}\n",
        report.backup,
        report.parent.as_deref().unwrap_or("nothing: it is a full one"),
        report.created_at,
        report.host,
        report.tenant_uid,
        report.key,
    );
    match &report.content {
        Some(content) => text.push_str(&format!(
            "tenant      {}\ncontent     whole: {} records, {} blobs, {}\n",
            content.tenant,
            content.records_count,
            content.blobs_count,
            bytes_words(content.content_bytes)
        )),
        None => text
            .push_str("content     sealed and not read: only the head was checked; `--recovery-key` checks the rest\n"),
    }
    text
}
