//! A part of a log as an archive that says itself how to check it, and the check: offline, with the log's key alone.
//!
//! The archive is a tar file: `entries.jsonl` (one entry a line), `entries.csv` and `entries.parquet` when asked for, `checkpoint`, `vkey`, the
//! proofs of the first and the last entry, `VERIFY.md`, `manifest.json` with the digest of every file, and
//! `manifest.note`, which is the manifest's digest signed by the log's key. A run without a filter is complete between its
//! ends: every entry points back to the one before, and the last is proven. A filtered one proves each entry alone, and says
//! that it cannot show that none is left out. Pure: must never read the store or ask the host.

use std::collections::BTreeMap;
use std::io::Read as _;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::Entry;
use crate::anchor::Level;
use crate::beginning::Beginning;
use crate::columns::{self, to_parquet};
use crate::envelope::{Envelope, hex, link};
use crate::key_change::{KeyChange, Trust};
use crate::look::{Body, Shown, look};
use crate::note::SignedHead;
use crate::proof::InclusionProof;
use crate::table::to_csv;
use crate::tree::{Hash, leaf_hash, verify_inclusion};
use crate::verify::{Claim, Fault, verify_claim};

/// LIMIT: largest archive read, in bytes.
pub const ARCHIVE_BYTES_MAX: u64 = 1 << 30;
/// LIMIT: files of an archive.
const FILES_COUNT_MAX: usize = 16;
/// LIMIT: longest signed manifest digest, in bytes.
const NOTE_BYTES_MAX: usize = 4 << 10;
const NOTE_HEADER: &str = "ringfence-export/v1";
const MANIFEST: &str = "manifest.json";
const MANIFEST_NOTE: &str = "manifest.note";
const ENTRIES: &str = "entries.jsonl";
const CSV: &str = "entries.csv";
const PARQUET: &str = "entries.parquet";
const BEGINNING: &str = "beginning.json";
const CHANGES: &str = "key-changes.json";
const VERIFY: &str = include_str!("verify.md");

/// One entry of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its place in the log.
    pub seq: u64,
    /// The entry.
    #[serde(flatten)]
    pub entry: Entry,
    /// Its audit path to the checkpoint, hex, in an export that leaves entries out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
}

/// Whether entries between the first and the last may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coverage {
    /// None is.
    Complete,
    /// Only those that fit a question are there.
    Filtered,
}

/// How far a log was anchored outside the host when an archive was made, by the host's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaidAnchor {
    /// The level.
    pub level: Level,
    /// Of how many entries of the log; what follows them has `L0`.
    pub size: u64,
}

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version, 1.
    pub v: u8,
    /// The log.
    pub origin: String,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// Whether entries are left out between the ends.
    pub coverage: Coverage,
    /// What was asked for.
    pub query: Value,
    /// Place of the first entry; none of an empty export.
    pub first_seq: Option<u64>,
    /// Place of the last.
    pub last_seq: Option<u64>,
    /// Time of the first, milliseconds since 1970 UTC; none of an empty export.
    #[serde(default)]
    pub first_time_ms: Option<i64>,
    /// Time of the last.
    #[serde(default)]
    pub last_time_ms: Option<i64>,
    /// Entries.
    pub entries_count: u64,
    /// How far the log was anchored; absent in archives of before this was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<SaidAnchor>,
    /// What was taken out of bodies.
    pub redacted: Vec<String>,
    /// SHA-256 of each file, hex.
    pub files: BTreeMap<String, String>,
}

/// What goes into an archive.
#[derive(Debug, Clone)]
pub struct Content {
    /// The log.
    pub origin: String,
    /// Its verifier key.
    pub vkey: String,
    /// Its signed head, which all proofs lead to.
    pub checkpoint: String,
    /// When, milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// Whether entries are left out.
    pub coverage: Coverage,
    /// What was asked for.
    pub query: Value,
    /// How far the log is anchored.
    pub anchor: SaidAnchor,
    /// What was taken out of bodies.
    pub redacted: Vec<String>,
    /// The entries in order.
    pub rows: Vec<Row>,
    /// Proofs of the first and the last entry.
    pub ends: Vec<InclusionProof>,
    /// Whether a table for spreadsheets goes in.
    pub csv: Option<Table>,
    /// Whether a Parquet file goes in.
    pub parquet: Option<Table>,
    /// What stands for the part that was deleted after its retention, when the export begins right after it.
    pub beginning: Option<Beginning>,
    /// The changes of the log's key.
    pub changes: Vec<KeyChange>,
}

/// A table of the fixed columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table;

/// An archive that stood every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What it says.
    pub manifest: Manifest,
    /// The head that its proofs lead to.
    pub head: SignedHead,
    /// Whether it is the whole log up to that head.
    pub whole: bool,
    /// Entries whose body was withheld or redacted, so that only the commitment is covered.
    pub bodies_withheld: u64,
    /// Of those, the ones whose body is shown all the same: without its salt nothing proves what it says.
    pub bodies_bare: u64,
    /// Size of the older checkpoint, when nothing here shows that the log continues it: a part is shown, or what is of before it
    /// was deleted.
    pub unreached: Option<u64>,
}

/// Why an archive is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// It is no archive of a log, or one that is too large.
    #[error("this is not an export of an audit log: {0}")]
    NotAnExport(String),
    /// A file is not the one that was exported.
    #[error("`{0}` in the export was altered, added or removed")]
    FileAltered(String),
    /// The manifest is not signed by the log's key.
    #[error("the export is not signed by this log's key")]
    BadSignature,
    /// The archive cannot be made.
    #[error("the export cannot be made: {0}")]
    Unwritable(String),
    /// The entries are not those that were signed for.
    #[error(transparent)]
    Entries(#[from] Fault),
}

/// Makes the archive; `sign` makes a note of a text with the log's key.
pub fn archive(content: &Content, sign: impl FnOnce(&str) -> String) -> Result<Vec<u8>, ExportError> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut lines = Vec::new();
    for row in &content.rows {
        serde_json::to_writer(&mut lines, row).map_err(|error| ExportError::Unwritable(error.to_string()))?;
        lines.push(b'\n');
    }
    if content.csv.is_some() {
        files.insert(CSV.to_owned(), to_csv(&content.rows).map_err(ExportError::Unwritable)?);
    }
    if content.parquet.is_some() {
        files.insert(PARQUET.to_owned(), to_parquet(&content.rows).map_err(ExportError::Unwritable)?);
    }
    files.insert(ENTRIES.to_owned(), lines);
    files.insert("checkpoint".to_owned(), content.checkpoint.clone().into_bytes());
    files.insert("vkey".to_owned(), format!("{}\n", content.vkey).into_bytes());
    files.insert("VERIFY.md".to_owned(), VERIFY.as_bytes().to_vec());
    let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|error| ExportError::Unwritable(error.to_string()));
    if let Some(beginning) = &content.beginning {
        files.insert(BEGINNING.to_owned(), json(serde_json::to_vec_pretty(beginning))?);
    }
    if !content.changes.is_empty() {
        files.insert(CHANGES.to_owned(), json(serde_json::to_vec_pretty(&content.changes))?);
    }
    for proof in &content.ends {
        files.insert(format!("proof-{}.tlog-proof", proof.index), proof.to_string().into_bytes());
    }
    let manifest = Manifest {
        v: 1,
        origin: content.origin.clone(),
        created_ms: content.created_ms,
        coverage: content.coverage,
        query: content.query.clone(),
        first_seq: content.rows.first().map(|row| row.seq),
        last_seq: content.rows.last().map(|row| row.seq),
        first_time_ms: content.rows.first().and_then(time_of),
        last_time_ms: content.rows.last().and_then(time_of),
        entries_count: content.rows.len() as u64,
        anchor: Some(content.anchor),
        redacted: content.redacted.clone(),
        files: files.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect(),
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| ExportError::Unwritable(error.to_string()))?;
    files.insert(MANIFEST_NOTE.to_owned(), sign(&note_text(&content.origin, &text)).into_bytes());
    files.insert(MANIFEST.to_owned(), text);
    pack(&files, content.created_ms).map_err(|error| ExportError::Unwritable(error.to_string()))
}

/// Checks an archive against the log's verifier key as once learnt, and against an older checkpoint of the log that was
/// kept. Without a key the one in the archive is taken, which shows that the archive fits together and not who made it.
pub fn check(archive: impl std::io::Read, vkey: Option<&str>, previous: Option<&str>) -> Result<Checked, ExportError> {
    let files = unpack(archive)?;
    let text = |name: &str| -> Result<&str, ExportError> {
        let bytes = files.get(name).ok_or_else(|| ExportError::NotAnExport(format!("`{name}` is missing")))?;
        std::str::from_utf8(bytes).map_err(|_| ExportError::FileAltered(name.to_owned()))
    };
    let manifest: Manifest = serde_json::from_str(text(MANIFEST)?)
        .map_err(|_| ExportError::NotAnExport(format!("`{MANIFEST}` cannot be read")))?;
    let vkey = vkey.map_or_else(|| text("vkey"), Ok)?;
    let changes: Vec<KeyChange> = parsed(&files, CHANGES)?.unwrap_or_default();
    let beginning: Option<Beginning> = parsed(&files, BEGINNING)?;
    let trust = Trust::follow(&manifest.origin, vkey, &changes).ok_or(ExportError::BadSignature)?;
    let signed = trust.open_text(text(MANIFEST_NOTE)?, NOTE_BYTES_MAX).ok_or(ExportError::BadSignature)?;
    if signed != note_text(&manifest.origin, text(MANIFEST)?.as_bytes()) {
        return Err(ExportError::FileAltered(MANIFEST.to_owned()));
    }
    for (name, bytes) in files.iter().filter(|(name, _)| *name != MANIFEST && *name != MANIFEST_NOTE) {
        if manifest.files.get(name) != Some(&digest(bytes)) {
            return Err(ExportError::FileAltered(name.clone()));
        }
    }
    if let Some(name) = manifest.files.keys().find(|name| !files.contains_key(*name)) {
        return Err(ExportError::FileAltered(name.clone()));
    }
    let entries = text(ENTRIES)?;
    let head = trust.open(text("checkpoint")?).ok_or(Fault::BadSignature)?;
    let start = beginning.as_ref().map_or(0, |beginning| beginning.size);
    let whole = manifest.coverage == Coverage::Complete
        && entries.lines().count() as u64 == head.size.saturating_sub(start)
        && rows_of(entries.lines().take(1))?.first().is_none_or(|row| row.seq == start);
    // A whole log in nothing but lines is never read into rows: that takes longer than all its hashes.
    let rows = match whole && !files.contains_key(CSV) && !files.contains_key(PARQUET) {
        true => Vec::new(),
        false => rows_of(entries.lines())?,
    };
    check_tables(&files, &rows)?;
    // SECURITY: what shows a body without its salt says in the signed manifest that something was taken out, or it is at fault:
    // nobody lays a forged body by leaving its salt away.
    let may_lack_salts = !manifest.redacted.is_empty();
    let (bodies, unreached) = if whole {
        let claim = Claim {
            previous,
            beginning: beginning.as_ref(),
            changes: &changes,
            may_lack_salts,
            ..Claim::new(&manifest.origin, vkey, text("checkpoint")?)
        };
        let verified = verify_claim(&claim, entries.lines().map(Shown::Line)).map_err(|fault| match fault {
            Fault::Unreadable { .. } => ExportError::FileAltered(ENTRIES.to_owned()),
            fault => fault.into(),
        });
        let verified = verified?;
        let first = rows_of(entries.lines().take(1))?;
        let last = rows_of(entries.lines().next_back().into_iter())?;
        check_ends(&manifest, first.first(), last.first(), verified.entries)?;
        (Unchecked { withheld: verified.bodies_withheld, bare: verified.bodies_bare }, verified.unreached)
    } else {
        let older = previous.map(|previous| trust.open(previous).ok_or(Fault::BadSignature)).transpose()?;
        if older.as_ref().is_some_and(|old| old.size > head.size || (old.size == head.size && old.root != head.root)) {
            return Err(Fault::RolledBack.into());
        }
        let unreached = older.map(|old| old.size).filter(|size| *size < head.size);
        (check_part(&manifest, &rows, entries, &head, &files)?, unreached)
    };
    let Unchecked { withheld: bodies_withheld, bare: bodies_bare } = bodies;
    Ok(Checked { manifest, head, whole, bodies_withheld, bodies_bare, unreached })
}

/// Checks that the tables, where there are any, say what the entries do.
fn check_tables(files: &BTreeMap<String, Vec<u8>>, rows: &[Row]) -> Result<(), ExportError> {
    if let Some(table) = files.get(CSV)
        && to_csv(rows).map_err(ExportError::NotAnExport)? != *table
    {
        return Err(ExportError::FileAltered(CSV.to_owned()));
    }
    if let Some(file) = files.get(PARQUET)
        && !columns::is_of(file.clone(), rows).map_err(ExportError::NotAnExport)?
    {
        return Err(ExportError::FileAltered(PARQUET.to_owned()));
    }
    Ok(())
}

/// Reads a file of the archive that need not be there.
fn parsed<T: serde::de::DeserializeOwned>(
    files: &BTreeMap<String, Vec<u8>>,
    name: &str,
) -> Result<Option<T>, ExportError> {
    let read = files.get(name).map(|bytes| serde_json::from_slice(bytes)).transpose();
    read.map_err(|_| ExportError::FileAltered(name.to_owned()))
}

/// Bodies that could not be checked against their commitment.
#[derive(Debug, Clone, Copy, Default)]
struct Unchecked {
    /// All of them.
    withheld: u64,
    /// Those that are shown all the same.
    bare: u64,
}

/// Checks that a manifest says of its entries how many there are, and which and of when the first and the last.
fn check_ends(manifest: &Manifest, first: Option<&Row>, last: Option<&Row>, count: u64) -> Result<(), ExportError> {
    let ends = [manifest.first_seq, manifest.last_seq] == [first, last].map(|row| row.map(|row| row.seq));
    let times = [manifest.first_time_ms, manifest.last_time_ms];
    // Archives from before the times were told have none.
    let fits = times == [None, None] || times == [first, last].map(|row| row.and_then(time_of));
    if ends && fits && manifest.entries_count == count {
        return Ok(());
    }
    Err(ExportError::FileAltered(ENTRIES.to_owned()))
}

/// Checks a part of a log, of which `entries` are the lines and `rows` what they say. Bodies that cannot be checked are counted.
fn check_part(
    manifest: &Manifest,
    rows: &[Row],
    entries: &str,
    head: &SignedHead,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<Unchecked, ExportError> {
    check_ends(manifest, rows.first(), rows.last(), rows.len() as u64)?;
    let (mut unchecked, mut before): (_, Option<(u64, Hash)>) = (Unchecked::default(), None);
    for (row, line) in rows.iter().zip(entries.lines()) {
        let seq = row.seq;
        let envelope: Envelope = serde_json::from_str(&row.entry.envelope).map_err(|_| Fault::Altered { seq })?;
        if envelope.seq != seq {
            return Err(Fault::Altered { seq }.into());
        }
        match (manifest.coverage, before) {
            (Coverage::Complete, Some((last, _))) if seq != last + 1 => {
                return Err(Fault::Missing { seq: last + 1 }.into());
            }
            (Coverage::Complete, Some((_, link))) if envelope.prev != hex(&link) => {
                return Err(Fault::Altered { seq }.into());
            }
            (Coverage::Filtered, Some((last, _))) if seq <= last => return Err(Fault::Reordered { seq }.into()),
            (Coverage::Filtered, _) => check_path(row, head)?,
            _ => {}
        }
        check_shown(seq, line, !manifest.redacted.is_empty(), &mut unchecked)?;
        before = Some((seq, link(&row.entry.envelope)));
    }
    let mut proven = rows.first().into_iter().chain(rows.last());
    proven.try_for_each(|row| {
        let proof =
            files.get(&format!("proof-{}.tlog-proof", row.seq)).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let proof = proof.and_then(InclusionProof::parse).ok_or(Fault::Altered { seq: row.seq })?;
        let leaf = leaf_hash(row.entry.envelope.as_bytes());
        let holds = proof.index == row.seq && verify_inclusion(row.seq, head.size, &leaf, &proof.path, &head.root);
        if holds { Ok(()) } else { Err(ExportError::from(Fault::Altered { seq: row.seq })) }
    })?;
    Ok(unchecked)
}

fn check_path(row: &Row, head: &SignedHead) -> Result<(), ExportError> {
    let hashes = row.path.iter().map(|text| HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok());
    let path: Option<Vec<Hash>> = hashes.collect();
    let leaf = leaf_hash(row.entry.envelope.as_bytes());
    let holds = path.is_some_and(|path| verify_inclusion(row.seq, head.size, &leaf, &path, &head.root));
    if holds { Ok(()) } else { Err(Fault::Altered { seq: row.seq }.into()) }
}

/// Checks what a line shows beside its envelope, as the check of a whole log does. A body that cannot be checked is counted.
fn check_shown(seq: u64, line: &str, may_lack_salts: bool, unchecked: &mut Unchecked) -> Result<(), ExportError> {
    // Whose it is shows its place in the tree.
    let seen = look(Shown::Line(line), "");
    if !seen.is_itself {
        return Err(Fault::Altered { seq }.into());
    }
    match seen.body {
        Body::Committed => {}
        Body::Withheld => unchecked.withheld += 1,
        Body::Bare if may_lack_salts => {
            unchecked.withheld += 1;
            unchecked.bare += 1;
        }
        Body::Bare | Body::Other => return Err(Fault::BodyAltered { seq }.into()),
    }
    Ok(())
}

fn time_of(row: &Row) -> Option<i64> {
    serde_json::from_str::<Envelope>(&row.entry.envelope).ok().map(|envelope| envelope.time)
}

fn rows_of<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Row>, ExportError> {
    let parsed = lines.map(serde_json::from_str::<Row>).collect::<Result<Vec<_>, _>>();
    parsed.map_err(|_| ExportError::FileAltered(ENTRIES.to_owned()))
}

fn note_text(origin: &str, manifest: &[u8]) -> String {
    format!("{NOTE_HEADER}\n{origin}\n{}\n", digest(manifest))
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn pack(files: &BTreeMap<String, Vec<u8>>, created_ms: i64) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(u64::try_from(created_ms / 1_000).unwrap_or(0));
        builder.append_data(&mut header, name, bytes.as_slice())?;
    }
    builder.into_inner()
}

fn unpack(archive: impl std::io::Read) -> Result<BTreeMap<String, Vec<u8>>, ExportError> {
    let broken = |error: std::io::Error| ExportError::NotAnExport(error.to_string());
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(archive.take(ARCHIVE_BYTES_MAX));
    for file in archive.entries().map_err(broken)? {
        let file = file.map_err(broken)?;
        let name = file.path().map_err(broken)?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        file.take(ARCHIVE_BYTES_MAX).read_to_end(&mut bytes).map_err(broken)?;
        if files.len() >= FILES_COUNT_MAX || files.insert(name.clone(), bytes).is_some() {
            return Err(ExportError::FileAltered(name));
        }
    }
    Ok(files)
}
