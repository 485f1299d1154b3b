//! The store itself: opens the directory, owns engine, files and the commit thread, and closes them in order.
//!
//! Layout of the directory: `lock` (held while open), `mark` (this directory holds a store, up to
//! this revision), `db/` (sled), `keys/` (wrapped
//! keys, one file a tenant, so that destroying one overwrites it), `blobs/` (sealed files), `quarantine-<n>/` (damaged
//! files, moved aside whole with the keys that open them). Must never delete what it cannot read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;
use rustix::fs::FlockOperation;
use tokio::task::spawn_blocking;

use crate::commit::{Committer, Counters, Watermark, parse_revision};
use crate::engine::{Engine, Faults, MemoryEngine, OpenFailure, SledEngine, Write};
use crate::error::StoreError;
use crate::files::Files;

/// The revision of the newest batch; written with each.
pub(crate) const REVISION_KEY: &[u8] = b"\0revision";
/// Says that the database was written by this program, and in which form.
const MARK_KEY: &[u8] = b"\0mark";
const MARK: &[u8] = b"ringfence store 1\n";
/// LIMIT: the file `mark` is not longer.
const MARK_BYTES_MAX: u64 = 200;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// LIMIT: how long an opening waits for a process that is just closing the store.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// LIMIT: most quarantines of one directory.
const QUARANTINES_COUNT_MAX: u32 = 1_000;

/// How to run the store on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SledOptions {
    /// Most bytes of pages kept in memory.
    pub cache_bytes: u64,
    /// Bytes of the disk that writes leave free; deletes still work below.
    pub free_bytes_min: u64,
}

impl SledOptions {
    /// What a host runs with unless told otherwise: 64 MiB of cache, 128 MiB of the disk kept free.
    pub const RECOMMENDED: Self = Self { cache_bytes: 64 << 20, free_bytes_min: 128 << 20 };
}

/// How the store is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of database, keys and files on disk.
    pub bytes_on_disk: u64,
    /// Bytes free for the host on that disk; none in memory.
    pub free_bytes: Option<u64>,
    /// Bytes that writes leave free.
    pub free_bytes_min: u64,
    /// Batches acknowledged since the start.
    pub commits: u64,
    /// Times the disk was asked to make them durable since the start.
    pub syncs: u64,
    /// The newest revision.
    pub revision: u64,
    /// Batches waiting for the commit thread.
    pub waiting: usize,
}

/// The store. Cheap to clone; closes when the last clone goes, better with [`Store::close`].
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) files: Files,
    pub(crate) committer: Committer,
    pub(crate) counters: Arc<Counters>,
    pub(crate) free_bytes_min: u64,
    /// Held for as long as the store is open.
    lock: Mutex<Option<Arc<File>>>,
}

// === impl Store ===

impl Store {
    /// Opens the store in `dir`, making it when there is none. Blocks for as long as it takes to read the database.
    ///
    /// Damaged files are moved to `quarantine-<n>` inside `dir` and [`StoreError::Corrupt`] says so; the next opening
    /// begins empty unless a backup was put back. A second process gets [`StoreError::InUse`].
    pub fn open_sled(dir: &Path, options: SledOptions) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir).map_err(StoreError::unavailable)?;
        let lock = lock(dir)?;
        let marked = read_mark(dir).map_err(StoreError::unavailable)?;
        let database = dir.join("db");
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&database).map_err(StoreError::unavailable)?;
        let engine = match SledEngine::open(&database, options.cache_bytes) {
            Ok(engine) => engine,
            Err(OpenFailure::Io(error)) => return Err(StoreError::unavailable(error)),
            Err(OpenFailure::Corrupt(reason)) => return Err(quarantine(dir, reason)),
        };
        let inside = engine.get(MARK_KEY)?;
        let revision = engine.get(REVISION_KEY)?.map_or(Ok(0), |bytes| parse_revision(&bytes))?;
        match inside.as_deref() {
            Some(MARK) if revision >= marked.unwrap_or(0) => {}
            None if marked.is_none() => {
                engine.apply(vec![Write { key: MARK_KEY.to_vec(), value: Some(MARK.to_vec()) }])?;
                engine.sync()?;
            }
            // Damage at the right place makes the database look new; the mark beside it knows better.
            Some(MARK) | None => {
                drop(engine);
                return Err(quarantine(dir, "records that were durable are not there any more".to_owned()));
            }
            Some(_) => return Err(StoreError::unavailable("it was written by another version of this program")),
        }
        let watermark = open_mark(dir, revision).map_err(StoreError::unavailable)?;
        let directory = Dir::open_ambient_dir(dir, cap_std::ambient_authority()).map_err(StoreError::unavailable)?;
        Self::start(Arc::new(engine), Files::Disk(Arc::new(directory)), options.free_bytes_min, Some((watermark, lock)))
    }

    /// A store in memory, for tests: the same behaviour, gone with its last handle.
    pub fn memory() -> Self {
        Self::memory_with_faults(Faults::default())
    }

    /// A store in memory whose writes fail as planned.
    pub fn memory_with_faults(faults: Faults) -> Self {
        let files = Files::Memory(Arc::default());
        // INVARIANT: a fresh map has no revision that could be damaged, so starting on it cannot fail; were it to, the
        // store would be closed from the start instead of the process ending.
        Self::start(Arc::new(MemoryEngine::new(faults)), files.clone(), 0, None).unwrap_or_else(|_| {
            Self(Arc::new(Shared {
                engine: Arc::new(MemoryEngine::default()),
                files,
                committer: Committer::closed(),
                counters: Arc::default(),
                free_bytes_min: 0,
                lock: Mutex::new(None),
            }))
        })
    }

    /// Stops taking writes, makes the ones taken durable, and lets go of the files. Other handles answer
    /// [`StoreError::Closed`] from then on.
    pub async fn close(&self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || {
            let synced = shared.committer.close();
            shared.engine.close();
            drop(shared.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
            synced
        })
        .await
        .map_err(StoreError::unavailable)?
    }

    /// How the store is doing. Walks the directory: for operators and metrics, not for the path of a request.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let shared = Arc::clone(&self.0);
        spawn_blocking(move || {
            let below = |path| shared.files.bytes_below(path).map_err(StoreError::unavailable);
            Ok(Stats {
                bytes_on_disk: shared.engine.bytes_on_disk() + below("keys")? + below("blobs")?,
                free_bytes: shared.files.free_bytes(),
                free_bytes_min: shared.free_bytes_min,
                commits: shared.counters.commits.load(Ordering::Relaxed),
                syncs: shared.counters.syncs.load(Ordering::Relaxed),
                revision: shared.counters.revision.load(Ordering::Relaxed),
                waiting: shared.committer.waiting(),
            })
        })
        .await
        .map_err(StoreError::unavailable)?
    }

    fn start(
        engine: Arc<dyn Engine>,
        files: Files,
        free_bytes_min: u64,
        on_disk: Option<(Watermark, File)>,
    ) -> Result<Self, StoreError> {
        for directory in ["keys", "blobs"] {
            files.make_directory(directory).map_err(StoreError::unavailable)?;
        }
        let unfinished = files.sweep_unfinished("keys").map_err(StoreError::unavailable)?;
        if unfinished > 0 {
            tracing::warn!(unfinished, "removed key files that a crash left half written");
        }
        let counters = Arc::new(Counters::default());
        let (watermark, lock) = on_disk.map(|(watermark, lock)| (watermark, Arc::new(lock))).unzip();
        let (writer, counted) = (Arc::clone(&engine), Arc::clone(&counters));
        let committer = Committer::start(writer, files.clone(), counted, free_bytes_min, watermark, lock.clone())?;
        Ok(Self(Arc::new(Shared { engine, files, committer, counters, free_bytes_min, lock: Mutex::new(lock) })))
    }
}

impl Shared {
    /// Refuses when the disk is below its floor.
    pub(crate) fn check_free(&self) -> Result<(), StoreError> {
        check_free(&self.files, self.free_bytes_min)
    }
}

pub(crate) fn check_free(files: &Files, floor_bytes: u64) -> Result<(), StoreError> {
    match files.free_bytes() {
        Some(free_bytes) if free_bytes < floor_bytes => Err(StoreError::Full { free_bytes, floor_bytes }),
        _ => Ok(()),
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<store>")
    }
}

// === the directory ===

/// Takes the directory for this process. The system lets go of the lock when the process ends, however it ends.
fn lock(dir: &Path) -> Result<File, StoreError> {
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

/// What the file `mark` says: always of the same length, so that it can be written in place.
pub(crate) fn mark(revision: u64) -> String {
    format!("{}revision {revision:020}\n", String::from_utf8_lossy(MARK))
}

/// The revision that was durable for certain; 0 when the mark is there and cannot be read, none when it is not there.
fn read_mark(dir: &Path) -> io::Result<Option<u64>> {
    let file = match File::open(dir.join("mark")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut content = Vec::new();
    file.take(MARK_BYTES_MAX).read_to_end(&mut content)?;
    let text = String::from_utf8_lossy(&content);
    Ok(Some(text.lines().nth(1).and_then(|line| line.strip_prefix("revision ")?.parse().ok()).unwrap_or(0)))
}

fn open_mark(dir: &Path, revision: u64) -> io::Result<Watermark> {
    let mut file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(dir.join("mark"))?;
    file.write_all(mark(revision).as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(Watermark::new(file, revision))
}

/// Moves database, keys and files aside together, so that what can be read of them still can, and names the place.
fn quarantine(dir: &Path, reason: String) -> StoreError {
    match move_aside(dir) {
        Ok(quarantined_to) => {
            tracing::error!(reason, to = %quarantined_to.display(), "the store is damaged and was moved aside");
            StoreError::Corrupt { reason, quarantined_to }
        }
        Err(error) => {
            StoreError::unavailable(format!("it is damaged ({reason}) and could not be moved aside: {error}"))
        }
    }
}

fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    for number in 1..=QUARANTINES_COUNT_MAX {
        let to = dir.join(format!("quarantine-{number}"));
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        }
        // The mark goes last: until then the next opening finds the damage again instead of an empty store.
        for part in ["blobs", "keys", "db", "mark"] {
            match std::fs::rename(dir.join(part), to.join(part)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        File::open(&to)?.sync_all()?;
        File::open(dir)?.sync_all()?;
        return Ok(to);
    }
    Err(io::Error::other("there are too many quarantines already"))
}
