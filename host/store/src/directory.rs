//! The data directory: who has it open, which backend and version made it, and what becomes of it when it is damaged.
//!
//! Layout: `lock` (held while open), `FORMAT` (which backend and version), `mark` (this directory holds a store, up to this
//! revision), `db/` (sled) or `redb/`, `keys/` (wrapped keys, one file a tenant, so that destroying one overwrites it),
//! `blobs/` (sealed files), `quarantine-<n>/` (damaged files, moved aside whole with the keys that open them), `aside-<n>/`
//! (the database as it was before it was moved to another backend). Must never delete what it cannot read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::engine::Backend;
use crate::error::StoreError;
use crate::store::MARK;
use crate::watermark::Watermark;

/// The version of directories that this program makes, and the last that it can read. Programs that know version 2 at most take
/// records whose key is of their salt alone (magic `T`, the keys room's `record.rs`) for damage.
pub(crate) const VERSION: u64 = 3;
/// The first that has purposes of records (`sealing.rs`), which earlier programs take for damage, and tallies (`tally.rs`),
/// which they let go wrong.
pub(crate) const VERSION_TALLIED: u64 = 2;
/// The first.
const VERSION_FIRST: u64 = 1;
/// LIMIT: the files `mark` and `FORMAT` are not longer.
const SMALL_FILE_BYTES_MAX: u64 = 200;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// LIMIT: how long an opening waits for a process that is just closing the store.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// LIMIT: most things moved aside in one directory.
const ASIDE_COUNT_MAX: u32 = 1_000;

/// Makes a directory, and those above it; fine when it is there.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)
}

/// Takes the directory for this process. The system lets go of the lock when the process ends, however it ends.
pub(crate) fn lock(dir: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(FILE_MODE)
        .open(dir.join("lock"))
        .map_err(StoreError::unavailable)?;
    let started = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse { path: dir.to_owned() }),
            Err(error) => return Err(StoreError::unavailable(error)),
        }
    }
}

/// Whether another process has the store in a directory open. Changes nothing; no when the lock cannot be looked at.
pub fn is_held(dir: &Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).open(dir.join("lock")) else { return false };
    // Let go of at once, with the file: who opens the store just now waits for longer.
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

// === which backend and version ===

/// What a directory says about itself.
#[derive(Clone, Copy)]
pub(crate) struct Format {
    pub(crate) version: u64,
    pub(crate) backend: Backend,
}

/// Which backend made the store in a directory; none when there is no store. [`StoreError::Newer`] when a later version of
/// this program did.
pub fn made_by(dir: &Path) -> Result<Option<Backend>, StoreError> {
    Ok(read_format(dir)?.map(|format| format.backend))
}

/// The same, with the version.
pub(crate) fn read_format(dir: &Path) -> Result<Option<Format>, StoreError> {
    let Some(text) = read_small(&dir.join("FORMAT")).map_err(StoreError::unavailable)? else {
        // From before there was such a file there is only sled.
        let old = dir.join("mark").exists() || dir.join(Backend::Sled.directory()).exists();
        return Ok(old.then_some(Format { version: VERSION_FIRST, backend: Backend::Sled }));
    };
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| line.strip_prefix("version ")?.parse::<u64>().ok());
    let backend = lines.next().and_then(|line| Backend::from_name(line.strip_prefix("backend ")?));
    match (version, backend) {
        (Some(found), _) if found > VERSION => Err(StoreError::Newer { path: dir.to_owned(), found, known: VERSION }),
        (Some(version @ VERSION_FIRST..), Some(backend)) => Ok(Some(Format { version, backend })),
        _ => Err(unreadable(dir)),
    }
}

/// Makes sure that the directory is of this backend and of a version that is known, which it gives; writes both when it is new.
pub(crate) fn claim(dir: &Path, asked: Backend) -> Result<u64, StoreError> {
    match read_format(dir)? {
        Some(Format { backend: found, .. }) if found != asked => {
            Err(StoreError::WrongBackend { path: dir.to_owned(), found, asked })
        }
        Some(found) => Ok(found.version),
        None => {
            let new = Format { version: VERSION, backend: asked };
            write_format(dir, new).map_err(StoreError::unavailable)?;
            Ok(new.version)
        }
    }
}

/// Says, durably and in one step, what the directory is.
pub(crate) fn write_format(dir: &Path, Format { version, backend }: Format) -> io::Result<()> {
    let part = dir.join("FORMAT.part");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(&part)?;
    file.write_all(format!("version {version}\nbackend {backend}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, dir.join("FORMAT"))?;
    sync(dir)
}

fn unreadable(dir: &Path) -> StoreError {
    StoreError::unavailable(format!("`{}` cannot be read", dir.join("FORMAT").display()))
}

// === the mark ===

/// What the file `mark` says: always of the same length, so that it can be written in place.
pub(crate) fn mark(revision: u64) -> String {
    format!("{}revision {revision:020}\n", String::from_utf8_lossy(MARK))
}

/// The revision that was durable for certain; 0 when the mark is there and cannot be read, none when it is not there.
pub(crate) fn read_mark(dir: &Path) -> io::Result<Option<u64>> {
    let text = read_small(&dir.join("mark"))?;
    Ok(text.map(|text| text.lines().nth(1).and_then(|line| line.strip_prefix("revision ")?.parse().ok()).unwrap_or(0)))
}

pub(crate) fn open_mark(dir: &Path, revision: u64) -> io::Result<Watermark> {
    let mut file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(dir.join("mark"))?;
    file.write_all(mark(revision).as_bytes())?;
    file.sync_all()?;
    sync(dir)?;
    Ok(Watermark::new(file, revision))
}

// === what is moved aside ===

/// Moves database, keys and files aside together, so that what can be read of them still can, and names the place.
pub(crate) fn quarantine(dir: &Path, reason: String) -> StoreError {
    // The mark goes after the data: until then the next opening finds the damage again instead of an empty store.
    let [sled, redb] = Backend::ALL.map(Backend::directory);
    match move_aside(dir, "quarantine", &["blobs", "keys", sled, redb, "mark", "FORMAT"]) {
        Ok(quarantined_to) => {
            tracing::error!(reason, to = %quarantined_to.display(), "the store is damaged and was moved aside");
            StoreError::Corrupt { reason, quarantined_to }
        }
        Err(error) => {
            StoreError::unavailable(format!("it is damaged ({reason}) and could not be moved aside: {error}"))
        }
    }
}

/// Moves parts of the directory to a new place `<name>-<n>` in it, in this order, durably; parts that are not there are
/// left out.
pub(crate) fn move_aside(dir: &Path, name: &str, parts: &[&str]) -> io::Result<PathBuf> {
    for number in 1..=ASIDE_COUNT_MAX {
        let to = dir.join(format!("{name}-{number}"));
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        }
        for part in parts {
            match std::fs::rename(dir.join(part), to.join(part)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        sync(&to)?;
        sync(dir)?;
        return Ok(to);
    }
    Err(io::Error::other(format!("there are too many `{name}` directories already")))
}

/// Makes the names in a directory durable.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn read_small(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut content = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(Some(String::from_utf8_lossy(&content).into_owned()))
}
