//! `audit`: read the log of what the host did, take it away, and check that nothing was changed, removed or put in.
//!
//! Must never trust the host about its own log more than once: the log's key and the last checkpoint are kept on this
//! side, and a log that goes back behind them is a fault.

use std::fs;
use std::path::Path;

use data_encoding::HEXLOWER;
use ringfence_audit::verify::{Claim, Fault, Verified, verify_claim};
use ringfence_audit::{Beginning, Entry, Shown};
use ringfence_control::wire::{AuditEntryView, CheckpointView, Page};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Format;
use crate::args::{AuditCommand, AuditExportArgs, AuditListArgs, AuditVerifyArgs};
use crate::client::{Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::{Stopwatch, read_capped};
use crate::verbs::{audit_keeping as keeping, audit_views as views, checks, outward};

/// Entries fetched at once.
const PAGE_COUNT: u64 = 500;
/// LIMIT: largest export that is read, in bytes.
const EXPORT_BYTES_MAX: usize = 1 << 30;
/// LIMIT: largest checkpoint or key file, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What this side remembers of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    origin: String,
    vkey: String,
    checkpoint: String,
}

/// `ringfence audit ...`.
pub async fn run(cx: &mut Context<'_>, command: &AuditCommand) -> Result<Exit, CliError> {
    match command {
        AuditCommand::List(args) => list(cx, args).await,
        AuditCommand::Search(args) => views::search(cx, args).await,
        AuditCommand::Verify(args) => verify(cx, args).await,
        AuditCommand::Export(args) => export(cx, args).await,
        AuditCommand::Package(args) => views::package(cx, args).await,
        AuditCommand::Proof(args) => views::proof(cx, args).await,
        AuditCommand::Anchor(args) => views::anchor(cx, args).await,
        AuditCommand::Violations(args) => views::violations(cx, args).await,
        AuditCommand::Check(command) => checks::run(cx, command).await,
        AuditCommand::Remediate(args) => checks::remediate(cx, args).await,
        AuditCommand::HostCalls(args) => checks::host_calls(cx, args).await,
        AuditCommand::Stats(args) => views::stats(cx, args).await,
        AuditCommand::Record(args) => views::record(cx, args).await,
        AuditCommand::Stream(command) => outward::destination(cx, outward::STREAMS, command).await,
        AuditCommand::Retention(args) => keeping::retention(cx, args).await,
        AuditCommand::Hold(args) => keeping::hold(cx, args).await,
        AuditCommand::Lift(args) => keeping::lift(cx, args).await,
        AuditCommand::Erase(args) => keeping::erase(cx, args).await,
        AuditCommand::Keys(args) => keeping::keys(cx, args).await,
        AuditCommand::RotateKey => keeping::rotate(cx).await,
        AuditCommand::Repair(_) => Err(CliError::failed("usage", "the host's side of the binary repairs logs", None)),
    }
}

/// `ringfence audit list`.
pub async fn list(cx: &mut Context<'_>, args: &AuditListArgs) -> Result<Exit, CliError> {
    let (api, path, name) = log_of(cx, args.operator).await?;
    let mut next = Some(args.from);
    let mut left = args.limit;
    let mut rows: Vec<[String; 5]> = Vec::new();
    while let Some(from) = next.filter(|_| left > 0) {
        // From 0 means from what is left.
        let page = fetch(&api, &path, Some(from).filter(|from| *from > 0), left.min(PAGE_COUNT)).await?;
        for view in &page.items {
            match cx.ui.format {
                Format::Json => cx.ui.json(view)?,
                Format::Text => rows.push(views::entry_row(view.seq, &view.envelope, &view.body)),
            }
        }
        left = left.saturating_sub(page.items.len() as u64);
        next = next_of(&page, from);
    }
    if cx.ui.format == Format::Text {
        if rows.is_empty() {
            cx.ui.note(&format!("no entries of {name} from {} on", args.from));
        } else {
            cx.ui.text(&table(["seq", "time", "event", "who", "what"], &rows))?;
            if let Some(next) = next {
                let operator = if args.operator { " --operator" } else { "" };
                cx.ui.note(&format!("there are newer ones; go on with  ringfence audit list --from {next}{operator}"));
            }
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence audit verify`.
pub async fn verify(cx: &mut Context<'_>, args: &AuditVerifyArgs) -> Result<Exit, CliError> {
    let older = args.previous.as_deref().map(read_older).transpose()?;
    if let Some(archive) = &args.archive {
        return views::verify_archive(cx, archive, args.vkey.as_deref(), older.as_deref());
    }
    let cosigner = args.cosigner.as_deref().map(key_text).transpose()?;
    if let (Some(file), Some(checkpoint), Some(vkey)) = (&args.file, &args.checkpoint, &args.vkey) {
        let checkpoint = read_text(checkpoint, HEAD_BYTES_MAX)?;
        let vkey = key_text(vkey)?;
        let origin = origin_of(&checkpoint);
        let beginning = args.beginning.as_deref().map(read_beginning).transpose()?;
        let from = beginning.as_ref().map_or(0, |beginning| beginning.size);
        // A folder that is being written goes on after the checkpoint; an export does not.
        let (export, covered) = match file.is_dir() {
            true => (read_folder(file)?, covered_count(&checkpoint, from)),
            false => (read_text(file, EXPORT_BYTES_MAX)?, usize::MAX),
        };
        let claim = Claim {
            previous: older.as_deref(),
            beginning: beginning.as_ref(),
            cosigner: cosigner.as_deref(),
            // Of the lines that an auditor is given some lack theirs; the report counts them.
            may_lack_salts: true,
            ..Claim::new(&origin, &vkey, &checkpoint)
        };
        let lines = export.lines().filter(|line| !line.trim().is_empty()).take(covered).map(Shown::Line);
        let verified = verify_claim(&claim, lines).map_err(|fault| match fault {
            Fault::Unreadable { .. } => CliError::failed("bad-export", format!("`{}`: {fault}", file.display()), None),
            _ => fault_error(&fault),
        })?;
        note_unreached(cx, verified.unreached);
        return report(cx, &origin, &verified, &checkpoint);
    }
    if older.is_some() {
        let what = "`--previous` is for an archive and for `--file`; asked online, the head kept last is compared";
        return Err(CliError::failed("usage", what, None));
    }
    let (api, path, name) = log_of(cx, args.operator).await?;
    let home = cx.home()?;
    let file = kept_file(&api.host.to_string(), &name);
    let kept = read_kept(&home.file(&file))?;
    let head = api.send::<CheckpointView>(&Request::get(format!("{path}/checkpoint"))).await?.value;
    let vkey = trusted_key(args.vkey.as_deref(), kept.as_ref(), &head)?;
    let changes = match vkey == head.vkey {
        true => Vec::new(),
        false => keeping::follow(&api, &head.origin, &vkey, &head.vkey).await?,
    };
    if kept.is_none() && args.vkey.is_none() {
        cx.ui.note(&format!("first check of {name}: keeping its key for the next\n  {vkey}"));
    }
    let watch = Stopwatch::start();
    let (entries, beginning) = fetch_all(&api, &path, head.size).await?;
    cx.ui.phase("fetched", &format!("{} entries of {name}", entries.len()), watch.took());
    let previous = kept.as_ref().map(|kept| kept.checkpoint.as_str());
    let claim = Claim {
        previous,
        beginning: beginning.as_ref(),
        changes: &changes,
        cosigner: cosigner.as_deref(),
        ..Claim::new(&head.origin, &vkey, &head.checkpoint)
    };
    let verified = verify_claim(&claim, entries).map_err(|fault| fault_error(&fault))?;
    note_unreached(cx, verified.unreached);
    let vkey = verified.vkey.clone();
    let keep = Kept { origin: head.origin, vkey, checkpoint: head.checkpoint.clone() };
    home.write(&file, &serde_json::to_vec_pretty(&keep).unwrap_or_default())?;
    report(cx, &name, &verified, &head.checkpoint)
}

/// `ringfence audit export`.
pub async fn export(cx: &mut Context<'_>, args: &AuditExportArgs) -> Result<Exit, CliError> {
    // An earlier export may be evidence: none is written over.
    let files = ["entries.ndjson", "checkpoint", "vkey", "beginning.json"].map(|name| args.dir.join(name));
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(CliError::failed("file", format!("`{}` exists already", there.display()), "name another folder"));
    }
    let (api, path, name) = log_of(cx, args.operator).await?;
    let head = api.send::<CheckpointView>(&Request::get(format!("{path}/checkpoint"))).await?.value;
    let (entries, beginning) = fetch_all(&api, &path, head.size).await?;
    let failed = |error: std::io::Error| CliError::file("write", &args.dir, &error);
    fs::create_dir_all(&args.dir).map_err(failed)?;
    let mut lines = String::new();
    for entry in &entries {
        lines.push_str(&serde_json::to_string(&view_of(entry)).unwrap_or_default());
        lines.push('\n');
    }
    fs::write(args.dir.join("entries.ndjson"), lines).map_err(failed)?;
    fs::write(args.dir.join("checkpoint"), &head.checkpoint).map_err(failed)?;
    fs::write(args.dir.join("vkey"), format!("{}\n", head.vkey)).map_err(failed)?;
    let mut with_beginning = String::new();
    if let Some(beginning) = &beginning {
        let text = serde_json::to_vec_pretty(beginning).unwrap_or_default();
        fs::write(args.dir.join("beginning.json"), text).map_err(failed)?;
        with_beginning = format!(" \\\n                  --beginning {}/beginning.json", args.dir.display());
    }
    let dir = args.dir.display();
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({
            "log": name, "entries_count": entries.len(), "dir": dir.to_string(), "vkey": head.vkey,
        }))?,
        Format::Text => cx.ui.text(&format!(
            "wrote {} entries of {name} to {dir}\n  verify with:  ringfence audit verify --file {dir}/entries.ndjson \\\n                  --checkpoint {dir}/checkpoint --vkey {dir}/vkey{with_beginning}\n",
            entries.len()
        ))?,
    }
    Ok(Exit::Ok)
}

async fn log_of(cx: &Context<'_>, operator: bool) -> Result<(Api, String, String), CliError> {
    if operator {
        return Ok((cx.operator()?, "/audit".to_owned(), "the host".to_owned()));
    }
    let (api, tenant) = cx.tenant().await?;
    Ok((api, format!("/tenants/{tenant}/audit"), tenant.to_string()))
}

async fn fetch(api: &Api, path: &str, from: Option<u64>, limit: u64) -> Result<Page<AuditEntryView>, CliError> {
    let request = Request::get(path).query("from", from).query("limit", Some(limit));
    api.send::<Page<AuditEntryView>>(&request).await.map(|answer| answer.value)
}

/// The position after a page, when there is more.
fn next_of(page: &Page<AuditEntryView>, from: u64) -> Option<u64> {
    let next: u64 = page.cursor.as_deref()?.parse().ok()?;
    (next > from && !page.items.is_empty()).then_some(next)
}

/// The first `size` entries: those the checkpoint covers. The log may grow while it is read. When its oldest entries were
/// deleted after their retention, what stands for them, and the rest.
async fn fetch_all(api: &Api, path: &str, size: u64) -> Result<(Vec<Entry>, Option<Beginning>), CliError> {
    let (mut entries, mut beginning) = (Vec::new(), None);
    let mut from = 0;
    while from < size {
        let page = match fetch(api, path, Some(from), PAGE_COUNT.min(size - from)).await {
            Err(CliError::Refused(refusal)) if refusal.problem.code == "audit-retention" && beginning.is_none() => {
                beginning = keeping::beginning(api).await?;
                from = beginning.as_ref().map_or(size, |beginning| beginning.size);
                entries.clear();
                continue;
            }
            other => other?,
        };
        let next = next_of(&page, from);
        entries.extend(page.items.into_iter().filter(|view| view.seq < size).map(entry_of));
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok((entries, beginning))
}

/// An entry as it is verified. A body of which something was taken out shows nothing of what was committed to.
fn entry_of(view: AuditEntryView) -> Entry {
    Entry {
        leaf_hash: String::new(),
        body: (!view.body.is_null() && view.redacted.is_empty()).then_some(view.body),
        envelope: view.envelope,
        salt: view.salt,
    }
}

fn view_of(entry: &Entry) -> Value {
    json!({ "envelope": entry.envelope, "body": entry.body, "salt": entry.salt })
}

/// The key to check with: given, else kept, else (once) the host's word. A key that changed is a fault.
fn trusted_key(given: Option<&str>, kept: Option<&Kept>, head: &CheckpointView) -> Result<String, CliError> {
    let trusted = match (given, kept) {
        (Some(given), _) => key_text(given)?,
        (None, Some(kept)) => kept.vkey.clone(),
        (None, None) => head.vkey.clone(),
    };
    let moved = kept.is_some_and(|kept| kept.origin != head.origin);
    if moved {
        return Err(CliError::Failed {
            code: "audit-key-changed",
            detail: format!("the host signs `{}` with another key than the one kept", head.origin),
            help: Some("ask the operator why before you trust this log".to_owned()),
        });
    }
    Ok(trusted)
}

fn read_kept(path: &Path) -> Result<Option<Kept>, CliError> {
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(path, HEAD_BYTES_MAX)?;
    serde_json::from_str(&text).map(Some).map_err(|_| CliError::Failed {
        code: "bad-checkpoint",
        detail: format!("`{}` holds the checkpoint kept last and cannot be read", path.display()),
        help: Some(format!("remove it only if you know why it is broken:  rm {}", path.display())),
    })
}

/// File of a log's last checkpoint under the folder of profiles.
fn kept_file(host: &str, log: &str) -> String {
    let name = HEXLOWER.encode(&Sha256::digest(format!("{host}\n{log}")));
    format!("checkpoints/{}.json", name.get(..32).unwrap_or(&name))
}

/// A verifier key, or the first line of the file that holds it.
pub(super) fn key_text(given: &str) -> Result<String, CliError> {
    let path = Path::new(given);
    if !path.exists() {
        return Ok(given.trim().to_owned());
    }
    read_text(path, HEAD_BYTES_MAX).map(|text| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// What stands for the deleted part, as an export has it.
fn read_beginning(path: &Path) -> Result<Beginning, CliError> {
    serde_json::from_str(&read_text(path, HEAD_BYTES_MAX)?).map_err(|_| {
        CliError::failed("bad-export", format!("`{}` is not the beginning of a log", path.display()), None)
    })
}

/// The entries of a log's folder in the second place (`audit.entries`), one a line, the oldest first. A line that is not
/// whole yet is none.
fn read_folder(dir: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::file("read", dir, &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            files.push(path);
        }
    }
    files.sort_unstable();
    let mut all = String::new();
    for file in files {
        all.push_str(&read_text(&file, EXPORT_BYTES_MAX.saturating_sub(all.len()))?);
        all.truncate(all.rfind('\n').map_or(0, |end| end + 1));
    }
    Ok(all)
}

/// How many entries from `from` on a checkpoint covers, by its own word.
fn covered_count(checkpoint: &str, from: u64) -> usize {
    let size = checkpoint.lines().nth(1).and_then(|size| size.parse::<u64>().ok()).unwrap_or(u64::MAX);
    usize::try_from(size.saturating_sub(from)).unwrap_or(usize::MAX)
}

fn origin_of(checkpoint: &str) -> String {
    checkpoint.lines().next().unwrap_or_default().to_owned()
}

pub(super) fn read_text(path: &Path, bytes_max: usize) -> Result<String, CliError> {
    let mut file = fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    let bytes = read_capped(&mut file, bytes_max, &format!("`{}`", path.display()))?;
    String::from_utf8(bytes)
        .map_err(|_| CliError::failed("file", format!("`{}` is not UTF-8 text", path.display()), None))
}

/// An older head: the signed text, or the file in which this side keeps it.
fn read_older(path: &Path) -> Result<String, CliError> {
    let text = read_text(path, HEAD_BYTES_MAX)?;
    match serde_json::from_str::<Kept>(&text) {
        Ok(kept) => Ok(kept.checkpoint),
        Err(_) => Ok(text),
    }
}

/// Says that an older head could not be compared, when it could not.
pub(super) fn note_unreached(cx: &mut Context<'_>, unreached: Option<u64>) {
    if let Some(size) = unreached {
        let why = "lies outside of what is shown, or is of before what was deleted after its retention";
        let lost = "nothing here shows that the log continues it";
        cx.ui.note(&format!("the checkpoint kept before, of {size} entries, {why}: {lost}"));
    }
}

fn report(cx: &mut Context<'_>, name: &str, verified: &Verified, checkpoint: &str) -> Result<Exit, CliError> {
    let root = HEXLOWER.encode(&verified.head.root);
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({
            "verified": true, "log": name, "origin": verified.head.origin, "entries_count": verified.entries,
            "bodies_withheld_count": verified.bodies_withheld, "bodies_bare_count": verified.bodies_bare, "from_seq": verified.from, "root": root, "checkpoint": checkpoint,
        }))?,
        Format::Text => {
            let begins = match verified.from {
                0 => String::new(),
                from => format!("\n  it begins at entry {from}: what was before was deleted after its retention, as the log says"),
            };
            let unchecked = unchecked_text(verified.bodies_withheld, verified.bodies_bare);
            cx.ui.text(&format!(
                "verified {} entries of {name} up to checkpoint {}{begins}{unchecked}",
                verified.entries,
                root.get(..16).unwrap_or(&root)
            ))?;
        }
    }
    Ok(Exit::Ok)
}

/// What a report says of bodies that could not be checked: `withheld` are all of them, `bare` those of them that are shown.
pub(super) fn unchecked_text(withheld: u64, bare: u64) -> String {
    let mut text = String::new();
    let hidden = withheld.saturating_sub(bare);
    if hidden > 0 {
        text.push_str(&format!("\n  bodies not shown, or sealed: {hidden}; only what commits to them was checked"));
    }
    if bare > 0 {
        text.push_str(&format!(
            "\n  bodies shown without their salt: {bare}; NOT CHECKED, nothing proves what they say"
        ));
    }
    text
}

pub(super) fn fault_error(fault: &Fault) -> CliError {
    let code = match fault {
        Fault::Unreadable { .. } => "bad-export",
        Fault::Altered { .. } => "audit-altered",
        Fault::Missing { .. } => "audit-missing",
        Fault::Reordered { .. } => "audit-reordered",
        Fault::Spliced { .. } => "audit-spliced",
        Fault::Truncated { .. } => "audit-truncated",
        Fault::Unsigned { .. } => "audit-unsigned",
        Fault::BadSignature => "audit-bad-signature",
        Fault::RolledBack => "audit-rolled-back",
        Fault::BodyAltered { .. } => "audit-body-altered",
        Fault::Undeclared { .. } => "audit-undeclared",
        Fault::KeyUndeclared { .. } => "audit-key-changed",
        Fault::BadCosignature => "audit-bad-cosignature",
    };
    CliError::Failed {
        code,
        detail: fault.to_string(),
        help: Some("keep this log and the last checkpoint, and ask the operator".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_checked_is_said_with_its_number() {
        assert_eq!(unchecked_text(0, 0), "");
        let hidden = unchecked_text(3, 0);
        assert!(hidden.contains("sealed: 3;") && !hidden.contains("salt"), "{hidden}");
        let bare = unchecked_text(5, 5);
        assert!(bare.contains("salt: 5; NOT CHECKED") && !bare.contains("sealed"), "{bare}");
        let both = unchecked_text(7, 5);
        assert!(both.contains("sealed: 2;") && both.contains("salt: 5;"), "{both}");
    }
}
