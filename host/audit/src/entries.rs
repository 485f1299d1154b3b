//! A directory elsewhere that has every entry of every log before anybody is told that it is recorded: the second place.
//!
//! Must never overwrite what is whole there, delete a file, or hold a body in clear or one that can be erased before its tenant's
//! keys are. One folder a log, `NAME.UID`, in it one file a month (UTC), `YYYY-MM.jsonl`, that is only ever added to. A line is
//! one entry, JSON: `seq`; `envelope`, its canonical text, of which the tree's leaf is made; `leaf_hash`, that leaf, hex; and
//! `sealed`, base64 of a sealed record of the keys room (purpose `audit`; context: the tenant, `audit-entry`, the log's name, the
//! place) over `{"body":...,"salt":...}`. Without `sealed` are entries whose body is gone and events of applications, whose
//! bodies can be erased. A file begins with the first batch whose first entry is of a later month than the file before; a clock
//! that steps back begins none. A last line without its line feed was torn: it is cut off before anything is added. `lock` is
//! held by the host that writes, `place` says which place it is. Everything here blocks but what is `async`.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cap_std::fs::{Dir, OpenOptions};
use data_encoding::BASE64;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use ringfence_core::Entropy;
use ringfence_keys::{Context, KeysError, Purpose, TenantKeys};
use ringfence_store::{Key, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::envelope::{Envelope, hex, link};
use crate::tree::leaf_hash;
use crate::writer::StoredEntry;
use crate::{Entry, codes};

/// LIMIT: longest wait for one batch; who waits longer is refused, and the batch may or may not be there.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
/// LIMIT: threads that work there at once, of all logs; of one log it is one.
const THREADS_COUNT_MAX: usize = 32;
/// LIMIT: bytes of a file's end that are read, and whose lines are checked, before anything is added; an entry is far shorter.
const TAIL_BYTES_MAX: u64 = 1 << 20;
const LOCK: &str = "lock";
/// Holds the place's id, so that an empty directory is not taken for it.
const PLACE: &str = "place";
const ENDING: &str = ".jsonl";
/// The collection that sealed bodies are bound to.
const COLLECTION: &str = "audit-entry";

/// Why the second place does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// It cannot be read or written.
    #[error("it cannot be written: {0}")]
    Io(#[from] io::Error),
    /// It did not answer within [`ANSWER_TIME_MAX`].
    #[error("it did not answer in time")]
    Slow,
    /// There is more to write than the time allowed; it goes on.
    #[error("it is being brought up to date")]
    Behind,
    /// Another process has the lock.
    #[error("another host writes there")]
    Taken,
    /// It is not the directory that was written before under this path.
    #[error("its file `place` is missing or another's: mount what was there, or give a new place another path")]
    Strange,
    /// It holds something else than this log, or less than it held before.
    #[error("it holds another history at entry {seq}: {what}")]
    Other {
        /// Where.
        seq: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// A body cannot be sealed or opened.
    #[error("a body cannot be sealed or opened: {0}")]
    Keys(#[from] KeysError),
}

/// The second place, open. Cheap to clone.
#[derive(Clone)]
pub struct Entries(Arc<Place>);

struct Place {
    open: Box<dyn Fn() -> io::Result<Dir> + Send + Sync>,
    lock: Mutex<File>,
    threads: Arc<Semaphore>,
    /// What its file says, once the store knows it.
    id: OnceLock<String>,
}

/// What the store knows of the second place.
#[derive(Serialize, Deserialize)]
struct Noted {
    path: String,
    id: String,
}

/// One entry as a line.
#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    leaf_hash: String,
    envelope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Inside {
    body: String,
    salt: String,
}

/// What is read of an envelope.
#[derive(Deserialize)]
struct Says {
    code: String,
    time: i64,
}

/// The last entry of a log there.
pub(crate) struct Last {
    pub(crate) seq: u64,
    pub(crate) envelope: String,
}

/// One log's part of the second place. INVARIANT: of one log at most one thread works there; one that hangs refuses the others.
pub(crate) struct Part {
    log: Arc<OneLog>,
    known: Arc<tokio::sync::Mutex<Known>>,
}

struct OneLog {
    place: Entries,
    folder: String,
    origin: String,
    keys: TenantKeys,
    entropy: Arc<dyn Entropy>,
}

/// What this run knows of a log's files.
#[derive(Default)]
struct Known {
    /// Where the newest file ends; none when that must be looked at before anything is added.
    end: Option<End>,
    /// The place after the last entry that was durable there. It never has less again.
    size: u64,
    /// Where a file ended before an addition that failed. What stands after that may be read back and never be on the disk.
    failed: Option<End>,
}

struct End {
    file: String,
    bytes: u64,
}

impl Entries {
    /// The second place in the directory that `open` gives, locked. It is asked again for every batch, so that a directory that
    /// is gone is noticed, and one that came back is used.
    pub fn new(open: impl Fn() -> io::Result<Dir> + Send + Sync + 'static) -> Result<Self, EntriesError> {
        let lock = lock_file(&open()?)?;
        locked(&lock)?;
        let threads = Arc::new(Semaphore::new(THREADS_COUNT_MAX));
        Ok(Self(Arc::new(Place { open: Box::new(open), lock: Mutex::new(lock), threads, id: OnceLock::new() })))
    }

    /// Makes sure that this is what was the second place at `path` before, by the id in a file there that the host's own store
    /// knows: the empty directory that an unmounted disk leaves is not. Where the last one was at another path, or there was none,
    /// this one is from now on. Must be called before any log is opened.
    pub async fn claim(&self, platform: &TenantStore, path: &str, entropy: &dyn Entropy) -> Result<(), EntriesError> {
        let failed = |error: StoreError| io::Error::other(error.to_string());
        let noted: Option<Noted> = platform.get_json(&noted_key()).await.map_err(failed)?;
        let known = noted.filter(|noted| noted.path == path).map(|noted| noted.id);
        let mut dice = [0_u8; 16];
        entropy.fill(&mut dice);
        let (place, new) = (self.clone(), known.is_none().then(|| hex(&dice)));
        let id = spawn_blocking(move || place.read_or_begin(new)).await.map_err(io::Error::other)??;
        if known.is_none() {
            let noted = Noted { path: path.to_owned(), id: id.clone() };
            platform.put_json(&noted_key(), &noted).await.map_err(failed)?;
        } else if known.as_ref() != Some(&id) {
            return Err(EntriesError::Strange);
        }
        self.0.id.get_or_init(|| id);
        Ok(())
    }

    /// The place's id; where it has none, `new`.
    fn read_or_begin(&self, new: Option<String>) -> Result<String, EntriesError> {
        let dir = self.root()?;
        if let Some(id) = read_id(&dir)? {
            return Ok(id);
        }
        let id = new.ok_or(EntriesError::Strange)?;
        let mut file = dir.open_with(PLACE, OpenOptions::new().write(true).create(true).truncate(true))?.into_std();
        file.write_all(id.as_bytes())?;
        file.sync_all()?;
        sync(&dir)?;
        Ok(id)
    }

    /// A log's part of it.
    pub(crate) fn part(&self, store: &TenantStore, origin: String, entropy: Arc<dyn Entropy>) -> Part {
        let folder = format!("{}.{}", store.label(), store.uid());
        let log = OneLog { place: self.clone(), folder, origin, keys: store.keys().clone(), entropy };
        Part { log: Arc::new(log), known: Arc::default() }
    }

    /// The directory as it is now, its lock held by this process.
    fn root(&self) -> Result<Dir, EntriesError> {
        let dir = (self.0.open)()?;
        let here = lock_file(&dir)?;
        let mut held = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, new) = (held.metadata()?, here.metadata()?);
        if (old.dev(), old.ino()) != (new.dev(), new.ino()) {
            // Another file system was put there, or the directory made anew.
            locked(&here)?;
            if let Some(id) = self.0.id.get()
                && read_id(&dir)?.as_ref() != Some(id)
            {
                return Err(EntriesError::Strange);
            }
            *held = here;
        }
        Ok(dir)
    }
}

/// Reads a line with its body, which takes the tenant's keys; the body is none where it was not kept.
pub fn open_line(keys: &TenantKeys, origin: &str, line: &str) -> Result<Entry, EntriesError> {
    let line: Line = serde_json::from_str(line).map_err(io::Error::from)?;
    let Line { seq, leaf_hash, envelope, sealed } = line;
    let Some(sealed) = sealed else { return Ok(Entry { envelope, leaf_hash, body: None, salt: String::new() }) };
    let sealed = BASE64.decode(sealed.as_bytes()).map_err(io::Error::other)?;
    let opened = keys.open(Purpose::Audit, &context(keys, origin, seq), &sealed)?;
    let inside: Inside = serde_json::from_slice(&opened).map_err(io::Error::from)?;
    let body = serde_json::from_str(&inside.body).map_err(io::Error::from)?;
    Ok(Entry { envelope, leaf_hash, body: Some(body), salt: inside.salt })
}

// === impl Part ===

impl Part {
    /// The last entry that is there, when the lines before it at the file's end are whole and lead to it; a torn line after it
    /// is cut off, and so is what an addition that failed left.
    pub(crate) async fn look(&self) -> Result<Option<Last>, EntriesError> {
        self.run(OneLog::look).await
    }

    /// Adds entries from place `first` on. Durable when it returns. Fails when what is there was not looked at since the last
    /// failure.
    pub(crate) async fn append(&self, first: u64, entries: Vec<StoredEntry>) -> Result<(), EntriesError> {
        self.run(move |log, known| log.append(known, first, entries)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OneLog, &mut Known) -> Result<T, EntriesError> + Send + 'static,
    ) -> Result<T, EntriesError> {
        // Whoever hangs keeps it, so that a place that hangs costs one thread a log and no second wait.
        let mut known = Arc::clone(&self.known).try_lock_owned().map_err(|_| EntriesError::Slow)?;
        let log = Arc::clone(&self.log);
        let threads = Arc::clone(&log.place.0.threads);
        let working = async move {
            let thread = threads.acquire_owned().await.map_err(io::Error::other)?;
            let done = spawn_blocking(move || {
                // Given back when the work ends, however late.
                let _thread = thread;
                work(&log, &mut known)
            });
            done.await.map_err(io::Error::other)?
        };
        tokio::time::timeout(ANSWER_TIME_MAX, working).await.map_err(|_| EntriesError::Slow)?
    }
}

// === impl OneLog ===

impl OneLog {
    fn look(&self, known: &mut Known) -> Result<Option<Last>, EntriesError> {
        known.end = None;
        let dir = self.folder()?;
        if let Some(end) = &known.failed {
            cut(&dir, end)?;
            known.failed = None;
        }
        let mut found = None;
        for file in files(&dir)?.into_iter().rev() {
            if let Some((lines, bytes)) = last_lines(&dir, &file)? {
                found = Some((lines, End { file, bytes }));
                break;
            }
        }
        // Whoever made the newest file may not have lived to make its name durable.
        sync(&dir)?;
        let lost = EntriesError::Other { seq: known.size, what: "what was there is not there any more" };
        let Some((lines, end)) = found else {
            if known.size > 0 {
                return Err(lost);
            }
            known.end = Some(End { file: String::new(), bytes: 0 });
            return Ok(None);
        };
        let last = checked(&lines, known.size)?;
        let size = last.seq.saturating_add(1);
        if size < known.size {
            return Err(lost);
        }
        (known.size, known.end) = (size, Some(end));
        Ok(Some(last))
    }

    fn append(&self, known: &mut Known, first: u64, entries: Vec<StoredEntry>) -> Result<(), EntriesError> {
        // Whatever goes wrong from here on: what is there is looked at again before anything is added.
        let end = known.end.take().ok_or_else(|| io::Error::other("what is there is not known"))?;
        let size = first.saturating_add(entries.len() as u64);
        let (month, text) = self.text(first, entries)?;
        let dir = self.place.root()?.open_dir(&self.folder)?;
        let is_new = month > end.file;
        let End { file: name, bytes } = if is_new { End { file: month, bytes: 0 } } else { end };
        let mut file = dir.open_with(&name, OpenOptions::new().append(true).create(is_new))?.into_std();
        if file.metadata()?.len() != bytes {
            return Err(io::Error::other(format!("`{name}` is not as it was left")).into());
        }
        known.failed = Some(End { file: name.clone(), bytes });
        if let Err(error) = file.write_all(&text).and_then(|()| file.sync_data()) {
            // After a failed flush nobody knows what of it is durable: it is all written again. Cut now for whoever looks after a
            // kill; this run does not rely on it.
            drop(file.set_len(bytes));
            return Err(error.into());
        }
        if is_new {
            sync(&dir)?;
        }
        known.failed = None;
        (known.size, known.end) = (size, Some(End { file: name, bytes: bytes + text.len() as u64 }));
        Ok(())
    }

    /// The log's folder, made when it is not there.
    fn folder(&self) -> Result<Dir, EntriesError> {
        let root = self.place.root()?;
        match root.create_dir(&self.folder) {
            Ok(()) => sync(&root)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Ok(root.open_dir(&self.folder)?)
    }

    /// The file of the first entry's month, and the lines.
    fn text(&self, first: u64, entries: Vec<StoredEntry>) -> Result<(String, Vec<u8>), EntriesError> {
        let (mut file, mut text) = (None, Vec::new());
        for (seq, stored) in (first..).zip(entries) {
            let says: Says = serde_json::from_str(&stored.envelope).map_err(io::Error::from)?;
            file.get_or_insert_with(|| file_of(says.time));
            let leaf_hash = hex(&leaf_hash(stored.envelope.as_bytes()));
            let StoredEntry { envelope, body, salt } = match says.code.as_str() {
                codes::APPLICATION_EVENT => stored.bare(),
                _ => stored,
            };
            let sealed = if salt.is_empty() { None } else { Some(self.seal(seq, &Inside { body, salt })?) };
            serde_json::to_writer(&mut text, &Line { seq, leaf_hash, envelope, sealed }).map_err(io::Error::from)?;
            text.push(b'\n');
        }
        Ok((file.unwrap_or_default(), text))
    }

    fn seal(&self, seq: u64, inside: &Inside) -> Result<String, EntriesError> {
        let plain = serde_json::to_vec(inside).map_err(io::Error::from)?;
        let context = context(&self.keys, &self.origin, seq);
        let sealed = self.keys.seal(Purpose::Audit, &context, &plain, &*self.entropy)?;
        Ok(BASE64.encode(&sealed))
    }
}

fn context<'a>(keys: &'a TenantKeys, origin: &'a str, seq: u64) -> Context<'a> {
    Context { tenant: keys.tenant(), store: COLLECTION, key: origin.as_bytes(), revision: seq }
}

fn file_of(time_ms: i64) -> String {
    let time = Timestamp::from_millisecond(time_ms).unwrap_or_default();
    let date = TimeZone::UTC.to_datetime(time).date();
    format!("{:04}-{:02}{ENDING}", date.year(), date.month())
}

/// A log's files, the oldest first.
fn files(dir: &Dir) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in dir.entries()? {
        let name = entry?.file_name();
        files.extend(name.to_str().filter(|name| name.ends_with(ENDING)).map(str::to_owned));
    }
    files.sort_unstable();
    Ok(files)
}

/// The whole lines at a file's end, as far as [`TAIL_BYTES_MAX`] goes back, and where they end; none when there is none. What
/// stands after them is cut off, the rest made durable.
fn last_lines(dir: &Dir, name: &str) -> Result<Option<(String, u64)>, EntriesError> {
    let mut file = dir.open_with(name, OpenOptions::new().read(true).write(true))?.into_std();
    let bytes = file.metadata()?.len();
    let from = bytes.saturating_sub(TAIL_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    Read::by_ref(&mut file).take(TAIL_BYTES_MAX).read_to_end(&mut tail)?;
    let is_feed = |byte: &u8| *byte == b'\n';
    let end = tail.iter().rposition(is_feed);
    // A line whose beginning was not read is left out.
    let begin = if from == 0 { Some(0) } else { tail.iter().position(is_feed).map(|feed| feed + 1) };
    let lines = begin.zip(end).and_then(|(begin, end)| tail.get(begin..end));
    if from > 0 && lines.is_none() {
        // No end of ours: better left as it is than cut.
        return Err(io::Error::other(format!("`{name}` does not end in a line of an entry")).into());
    }
    let whole = end.map_or(0, |end| from + end as u64 + 1);
    if whole < bytes {
        file.set_len(whole)?;
    }
    file.sync_all()?;
    Ok(lines.map(|lines| (String::from_utf8_lossy(lines).into_owned(), whole)))
}

/// The entry of the last of these lines, when every one is an entry and follows the one before. `size` is the place after the
/// last entry that was there before, for what is said of a line before any that can be read.
fn checked(lines: &str, size: u64) -> Result<Last, EntriesError> {
    let mut last: Option<Last> = None;
    for line in lines.split('\n') {
        let seq = last.as_ref().map_or(size, |last| last.seq.saturating_add(1));
        let other = |what| EntriesError::Other { seq, what };
        let line: Line = serde_json::from_str(line).map_err(|_| other("a line at its end is no entry"))?;
        let envelope: Envelope =
            serde_json::from_str(&line.envelope).map_err(|_| other("a line at its end has no envelope"))?;
        if envelope.seq != line.seq || line.leaf_hash != hex(&leaf_hash(line.envelope.as_bytes())) {
            return Err(other("a line at its end is not what it says"));
        }
        let follows = |last: &Last| line.seq == seq && envelope.prev == hex(&link(&last.envelope));
        if !last.as_ref().is_none_or(follows) {
            return Err(other("a line at its end does not follow the one before"));
        }
        last = Some(Last { seq: line.seq, envelope: line.envelope });
    }
    last.ok_or(EntriesError::Other { seq: size, what: "a line at its end is no entry" })
}

/// Cuts off what stands in a file after where it ended.
fn cut(dir: &Dir, end: &End) -> io::Result<()> {
    let file = match dir.open_with(&end.file, OpenOptions::new().write(true)) {
        Ok(file) => file.into_std(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > end.bytes {
        file.set_len(end.bytes)?;
    }
    file.sync_all()
}

/// What a directory says that it is; none when it says nothing.
fn read_id(dir: &Dir) -> io::Result<Option<String>> {
    match dir.read_to_string(PLACE) {
        Ok(id) => Ok(Some(id.trim().to_owned()).filter(|id| !id.is_empty())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn noted_key() -> Key {
    Key::new(["audit-second-place"])
}

fn lock_file(dir: &Dir) -> io::Result<File> {
    Ok(dir.open_with(LOCK, OpenOptions::new().write(true).create(true))?.into_std())
}

fn locked(file: &File) -> Result<(), EntriesError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(EntriesError::Taken),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn sync(dir: &Dir) -> io::Result<()> {
    dir.open(".")?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is a panic with a place")]

    use super::*;
    use crate::envelope::genesis;

    /// A line as `append` makes it, without its body.
    fn line(seq: u64, prev: &str) -> (String, String) {
        let envelope = Envelope {
            action_id: 1,
            activity_id: 1,
            actor_hmac: String::new(),
            body_sha256: String::new(),
            class_uid: 1,
            code: "code".to_owned(),
            prev: prev.to_owned(),
            resource_hmac: String::new(),
            seq,
            status: "Success".to_owned(),
            tenant_uid: "acme".to_owned(),
            time: 0,
            v: 1,
        };
        let envelope = envelope.canonical().unwrap();
        let (next, leaf_hash) = (hex(&link(&envelope)), hex(&leaf_hash(envelope.as_bytes())));
        (serde_json::to_string(&Line { seq, leaf_hash, envelope, sealed: None }).unwrap(), next)
    }

    #[test]
    fn lines_that_do_not_lead_to_the_last_are_noticed() {
        let (zero, next) = line(0, &hex(&genesis("log")));
        let (one, next) = line(1, &next);
        let (two, _) = line(2, &next);
        assert_eq!(checked(&format!("{zero}\n{one}\n{two}"), 0).unwrap().seq, 2);
        assert_eq!(checked(&format!("{one}\n{two}"), 0).unwrap().seq, 2);
        let other_one = line(1, &hex(&genesis("log"))).0;
        let torn = one.replacen("Success", "\0\0\0\0\0\0\0", 1);
        let changed = one.replacen("Success", "Failure", 1);
        for middle in [String::new(), format!("{torn}\n"), format!("{changed}\n"), format!("{other_one}\n")] {
            let found = checked(&format!("{zero}\n{middle}{two}"), 0).err();
            assert!(matches!(found, Some(EntriesError::Other { seq: 1 | 2, .. })), "{middle}: {found:?}");
        }
        assert!(checked("", 7).is_err());
    }

    #[test]
    fn what_a_failed_addition_left_is_cut_off_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(place.path(), cap_std::ambient_authority()).unwrap();
        let end = End { file: "2026-09.jsonl".to_owned(), bytes: 4 };
        cut(&dir, &end).unwrap();
        for (there, left) in [("one\ntwo\n", "one\n"), ("one\n", "one\n"), ("on", "on")] {
            dir.write(&end.file, there).unwrap();
            cut(&dir, &end).unwrap();
            assert_eq!(dir.read_to_string(&end.file).unwrap(), left);
        }
    }
}
