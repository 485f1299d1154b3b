//! Small file work under the store's directory, through one directory handle, and its twin in memory for tests.
//!
//! A file appears whole under its name or not at all: it is written as `<name>.part`, made durable, then renamed. Must never
//! reach outside the directory, and never be given a name that came from a caller unparsed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read, Write};
use std::num::NonZeroU64;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cap_std::fs::{Dir, File, FileExt, OpenOptions, OpenOptionsExt};
use rustix::fs::{Advice, fadvise};

/// What a file is called until it is whole.
const PART: &str = ".part";
const FILE_MODE: u32 = 0o600;
/// How much of a large file the disk is told to begin with at a time.
const START_BYTES: u64 = 8 << 20;
/// From this length on, a file whose name is gone is closed elsewhere.
const LARGE_BYTES: u64 = 8 << 20;
/// LIMIT: files that wait to be closed elsewhere; more are closed by whoever removes them.
const UNWANTED_COUNT_MAX: usize = 64;
/// LIMIT: longest wait for room that removed files still hold.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Where removed files are closed. One a process.
static CLOSER: Closer = Closer::new();

/// A directory on disk, or a map in memory.
#[derive(Clone)]
pub(crate) enum Files {
    Disk(Arc<Dir>),
    Memory(Arc<Memory>),
}

#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<String, Arc<Vec<u8>>>>);

impl Memory {
    fn map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Files ===

impl Files {
    /// Makes a directory and those above it, durably.
    pub(crate) fn make_directory(&self, path: &str) -> io::Result<()> {
        let Self::Disk(dir) = self else { return Ok(()) };
        dir.create_dir_all(path)?;
        let mut above = path;
        sync_directory(dir, above)?;
        while let Some((parent, _)) = above.rsplit_once('/') {
            sync_directory(dir, parent)?;
            above = parent;
        }
        sync_directory(dir, ".")
    }

    /// Starts a new file; its directory must be there.
    pub(crate) fn create(&self, path: &str) -> io::Result<FileWriter> {
        let to = match self {
            Self::Disk(dir) => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(FILE_MODE);
                let file = dir.open_with(format!("{path}{PART}"), &options)?;
                To::Disk(Arc::clone(dir), file, Started::default())
            }
            Self::Memory(memory) => To::Memory(Arc::clone(memory), Vec::new()),
        };
        Ok(FileWriter { path: path.to_owned(), to: Some(to) })
    }

    /// Writes a small file whole and durably, in the place of one of that name.
    pub(crate) fn write(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let mut file = self.create(path)?;
        file.write(content)?;
        file.replace()
    }

    pub(crate) fn open(&self, path: &str) -> io::Result<FileReader> {
        match self {
            Self::Disk(dir) => Ok(FileReader::Disk(dir.open(path)?)),
            Self::Memory(memory) => {
                let content = memory.map().get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
                Ok(FileReader::Memory { content, at: 0 })
            }
        }
    }

    /// Reads a small file whole; none when there is no such.
    pub(crate) fn read(&self, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let reader = match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut content = Vec::new();
        reader.take(bytes_max).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// Removes a file; fine when there is none. Not durable by itself, and the room of a large file is free a moment later.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        match self {
            Self::Disk(dir) => {
                // Held open, only its name goes here and now.
                let file = dir.open(path).ok();
                let large = file.filter(|file| file.metadata().is_ok_and(|about| about.len() >= LARGE_BYTES));
                let removed = dir.remove_file(path);
                if let Some(large) = large {
                    CLOSER.let_go(large);
                }
                match removed {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    result => result,
                }
            }
            Self::Memory(memory) => {
                memory.map().remove(path);
                Ok(())
            }
        }
    }

    /// Overwrites a file in place, then removes it, durably.
    /// LIMIT: a copy-on-write file system or a wear-levelling disk may keep the old blocks for a while.
    pub(crate) fn shred(&self, path: &str, noise: &[u8]) -> io::Result<()> {
        if let Self::Disk(dir) = self {
            let mut options = OpenOptions::new();
            options.write(true);
            match dir.open_with(path, &options) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => {
                    let mut file = opened?;
                    let length = usize::try_from(file.metadata()?.len()).unwrap_or(noise.len());
                    let noise: Vec<u8> = noise.iter().copied().cycle().take(length.min(1 << 20)).collect();
                    file.write_all(&noise)?;
                    file.sync_all()?;
                }
            }
        }
        self.remove(path)?;
        self.sync_above(path)
    }

    /// Removes a directory and everything in it; fine when there is none.
    pub(crate) fn remove_directory(&self, path: &str) -> io::Result<()> {
        match self {
            Self::Disk(dir) => match dir.remove_dir_all(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(()) => self.sync_above(path),
            },
            Self::Memory(memory) => {
                memory.map().retain(|name, _| !name.starts_with(&format!("{path}/")));
                Ok(())
            }
        }
    }

    /// The whole files in a directory, without those that were never finished; nothing when there is no directory.
    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(self.names(path)?.into_iter().filter(|name| !name.ends_with(PART)).collect())
    }

    /// Removes files that were never finished; says how many. Only before anyone writes.
    pub(crate) fn sweep_unfinished(&self, path: &str) -> io::Result<usize> {
        let unfinished: Vec<String> = self.names(path)?.into_iter().filter(|name| name.ends_with(PART)).collect();
        for name in &unfinished {
            self.remove(&format!("{path}/{name}"))?;
        }
        Ok(unfinished.len())
    }

    /// Bytes free for an unprivileged writer; none in memory.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let Self::Disk(dir) = self else { return None };
        let about = rustix::fs::fstatvfs(dir.as_ref()).ok()?;
        Some(about.f_bavail.saturating_mul(about.f_frsize))
    }

    /// The same for who leaves so many free: where there are fewer, what removed files still hold is waited for, for a while.
    /// Blocks.
    pub(crate) fn free_bytes_above(&self, floor_bytes: u64) -> Option<u64> {
        let is_enough = || self.free_bytes().is_none_or(|free_bytes| free_bytes >= floor_bytes);
        if !is_enough() {
            CLOSER.wait_until(is_enough, CLOSE_WAIT);
        }
        self.free_bytes()
    }

    /// Bytes of all files below a directory.
    pub(crate) fn bytes_below(&self, path: &str) -> io::Result<u64> {
        match self {
            Self::Memory(memory) => {
                let below = format!("{path}/");
                Ok(memory
                    .map()
                    .iter()
                    .filter(|(name, _)| name.starts_with(&below))
                    .map(|(_, file)| file.len() as u64)
                    .sum())
            }
            Self::Disk(dir) => {
                let mut waiting = vec![path.to_owned()];
                let mut bytes = 0_u64;
                while let Some(path) = waiting.pop() {
                    let entries = match dir.read_dir(&path) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        entries => entries?,
                    };
                    for entry in entries {
                        let entry = entry?;
                        // A file may go while we look; it counts as nothing then.
                        let Ok(about) = entry.metadata() else { continue };
                        if about.is_dir() {
                            waiting.push(format!("{path}/{}", entry.file_name().to_string_lossy()));
                        } else {
                            bytes = bytes.saturating_add(about.len());
                        }
                    }
                }
                Ok(bytes)
            }
        }
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        match self {
            Self::Disk(dir) => match dir.read_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
                Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
            },
            Self::Memory(memory) => {
                let below = format!("{path}/");
                let map = memory.map();
                Ok(map.keys().filter_map(|name| name.strip_prefix(&below)).map(str::to_owned).collect())
            }
        }
    }

    fn sync_above(&self, path: &str) -> io::Result<()> {
        match self {
            Self::Disk(dir) => sync_directory(dir, path.rsplit_once('/').map_or(".", |(above, _)| above)),
            Self::Memory(_) => Ok(()),
        }
    }
}

/// Closes files that have no name any more, on a thread that does nothing else: to give back the room of 1 GiB takes a disk up
/// to 1.4 s, and whoever removed it is often the one that writes for all tenants, or runs a guest.
struct Closer {
    /// None where no thread could be started.
    unwanted: OnceLock<Option<SyncSender<File>>>,
    /// Files that are not closed yet.
    waiting_count: Mutex<usize>,
    /// One was.
    closed: Condvar,
}

// === impl Closer ===

impl Closer {
    const fn new() -> Self {
        Self { unwanted: OnceLock::new(), waiting_count: Mutex::new(0), closed: Condvar::new() }
    }

    fn let_go(&'static self, file: File) {
        let closing = self.unwanted.get_or_init(|| {
            let (closing, unwanted) = sync_channel::<File>(UNWANTED_COUNT_MAX);
            let thread = std::thread::Builder::new().name("unlink".to_owned());
            let close = move || {
                for file in unwanted {
                    drop(file);
                    self.one_is_closed();
                }
            };
            thread.spawn(close).ok().map(|_thread| closing)
        });
        // Without a thread it is closed here.
        let Some(closing) = closing else { return };
        *self.waiting_count() += 1;
        if let Err(not_taken) = closing.try_send(file) {
            drop(not_taken);
            self.one_is_closed();
        }
    }

    fn one_is_closed(&self) {
        let mut waiting_count = self.waiting_count();
        *waiting_count = waiting_count.saturating_sub(1);
        drop(waiting_count);
        self.closed.notify_all();
    }

    /// Waits while files are being closed, until there is enough without the others, but not for longer than this.
    fn wait_until(&self, is_enough: impl Fn() -> bool, wait: Duration) {
        let begun = Instant::now();
        let mut waiting_count = self.waiting_count();
        while *waiting_count > 0 && !is_enough() {
            let Some(left) = wait.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else { return };
            waiting_count = self.closed.wait_timeout(waiting_count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn waiting_count(&self) -> MutexGuard<'_, usize> {
        self.waiting_count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sync_directory(dir: &Dir, path: &str) -> io::Result<()> {
    dir.open(path)?.sync_all()
}

/// A file on its way. Dropped before [`FileWriter::finish`], it leaves nothing.
pub(crate) struct FileWriter {
    path: String,
    to: Option<To>,
}

enum To {
    Disk(Arc<Dir>, File, Started),
    Memory(Arc<Memory>, Vec<u8>),
}

/// How far a file is written and how far the disk was told to begin.
#[derive(Default)]
struct Started {
    bytes: u64,
    written_bytes: u64,
}

// === impl Started ===

impl Started {
    /// Lets the disk begin with what is there, so that it works while the rest is made and not all at the end. On Linux that is
    /// what this advice does with pages that are dirty; it drops those that are not, which nobody reads soon.
    fn more(&mut self, file: &File, bytes: usize) {
        self.written_bytes = self.written_bytes.saturating_add(bytes as u64);
        let length = NonZeroU64::new(self.written_bytes.saturating_sub(self.bytes));
        if length.is_some_and(|length| length.get() >= START_BYTES) {
            // Only advice: the end makes sure.
            let _ = fadvise(file, self.bytes, length, Advice::DontNeed);
            self.bytes = self.written_bytes;
        }
    }
}

// === impl FileWriter ===

impl FileWriter {
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_parts([data])
    }

    /// Writes parts one behind the other, as they lie.
    pub(crate) fn write_parts<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        match &mut self.to {
            Some(To::Disk(_, file, started)) => {
                let mut slices: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
                let mut left = slices.as_mut_slice();
                while !left.is_empty() {
                    match file.write_vectored(left) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(count) => {
                            IoSlice::advance_slices(&mut left, count);
                            started.more(file, count);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
            Some(To::Memory(_, content)) => {
                parts.for_each(|part| content.extend_from_slice(part));
                Ok(())
            }
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Makes a new file durable and gives it its name, durably; when that fails there is none.
    pub(crate) fn finish(self) -> io::Result<Whole> {
        let whole = self.named()?;
        whole.sync_name()?;
        Ok(whole)
    }

    /// As [`FileWriter::finish`], in the place of the file that has the name now. INVARIANT: whatever fails, there is the one or
    /// the other, since nobody else has what they hold.
    pub(crate) fn replace(self) -> io::Result<()> {
        let whole = self.named()?;
        let synced = whole.sync_name();
        whole.keep();
        synced
    }

    fn named(mut self) -> io::Result<Whole> {
        if let Some(To::Disk(dir, file, _)) = &self.to {
            file.sync_all()?;
            dir.rename(format!("{}{PART}", self.path), dir, &self.path)?;
        }
        let path = std::mem::take(&mut self.path);
        let files = match self.to.take() {
            Some(To::Disk(dir, ..)) => Files::Disk(dir),
            Some(To::Memory(memory, content)) => {
                memory.map().insert(path.clone(), Arc::new(content));
                Files::Memory(memory)
            }
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        Ok(Whole { files, path: Some(path) })
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        let Some(To::Disk(dir, file, started)) = self.to.take() else { return };
        if let Err(error) = dir.remove_file(format!("{}{PART}", self.path))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an unfinished file could not be removed; the next start removes it");
        }
        if started.written_bytes >= LARGE_BYTES {
            CLOSER.let_go(file);
        }
    }
}

/// A file that was just finished. Dropped before [`Whole::keep`], it leaves nothing: whoever had it made may be gone by the
/// time the thread that made it is done.
#[must_use]
pub(crate) struct Whole {
    files: Files,
    path: Option<String>,
}

impl Whole {
    fn sync_name(&self) -> io::Result<()> {
        self.path.as_deref().map_or(Ok(()), |path| self.files.sync_above(path))
    }

    /// Leaves it where it is.
    pub(crate) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.path.take().map(|path| self.files.remove(&path)) {
            tracing::warn!(%error, "a file that nobody waited for could not be removed");
        }
    }
}

pub(crate) enum FileReader {
    Disk(File),
    Memory { content: Arc<Vec<u8>>, at: usize },
}

impl FileReader {
    /// Bytes of the whole file.
    pub(crate) fn length(&self) -> io::Result<u64> {
        match self {
            Self::Disk(file) => Ok(file.metadata()?.len()),
            Self::Memory { content, .. } => Ok(content.len() as u64),
        }
    }

    /// Fills `into` from the byte `from` on, or fails where the file ends before.
    pub(crate) fn read_exact_at(&self, into: &mut [u8], from: u64) -> io::Result<()> {
        match self {
            Self::Disk(file) => file.read_exact_at(into, from),
            Self::Memory { content, .. } => {
                let from = usize::try_from(from).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                content.get(from..).unwrap_or_default().read_exact(into)
            }
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Disk(file) => file.read(into),
            Self::Memory { content, at } => {
                let count = content.get(*at..).unwrap_or_default().read(into)?;
                *at += count;
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn both() -> (tempfile::TempDir, [Files; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(directory.path(), cap_std::ambient_authority()).unwrap();
        (directory, [Files::Disk(Arc::new(dir)), Files::Memory(Arc::default())])
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let (_directory, both) = both();
        for files in both {
            files.make_directory("a/b").unwrap();
            let mut file = files.create("a/b/f").unwrap();
            file.write(b"one").unwrap();
            assert!(files.read("a/b/f", 100).unwrap().is_none());
            file.write_parts([&b"t"[..], b"", b"wo"]).unwrap();
            file.finish().unwrap().keep();
            assert_eq!(files.read("a/b/f", 100).unwrap().unwrap(), b"onetwo");
            drop(files.create("a/b/g").unwrap());
            assert_eq!(files.list("a/b").unwrap(), vec!["f"]);
            assert_eq!(files.sweep_unfinished("a/b").unwrap(), 0, "dropping left nothing");
            assert_eq!(files.bytes_below("a").unwrap(), 6);
        }
    }

    #[test]
    fn a_new_file_that_nobody_keeps_is_removed_and_one_that_replaces_another_stays() {
        let (_directory, both) = both();
        for files in both {
            drop(files.create("f").unwrap().finish().unwrap());
            assert!(files.read("f", 100).unwrap().is_none());
            files.write("f", b"one").unwrap();
            let mut file = files.create("f").unwrap();
            file.write(b"two").unwrap();
            file.replace().unwrap();
            assert_eq!(files.read("f", 100).unwrap().unwrap(), b"two");
        }
    }

    #[test]
    fn a_large_file_is_gone_at_once_however_many_there_are() {
        let (directory, [disk, _]) = both();
        let large = vec![7; LARGE_BYTES as usize];
        for round in 0..3 {
            disk.write("large", &large).unwrap();
            disk.remove("large").unwrap();
            assert!(disk.read("large", 1).unwrap().is_none(), "{round}");
            let mut unfinished = disk.create("unfinished").unwrap();
            unfinished.write(&large).unwrap();
            drop(unfinished);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{round}");
        }
        disk.remove("large").unwrap();
    }

    #[test]
    fn whoever_needs_room_waits_for_files_that_are_being_closed_and_for_nothing_else() {
        const LONG: Duration = Duration::from_secs(3_600);
        let (closer, asked_count) = (Closer::new(), AtomicUsize::new(0));
        let is_enough = || asked_count.fetch_add(1, Ordering::SeqCst) > 1_000_000;
        let until = |count: usize| {
            let begun = Instant::now();
            while asked_count.load(Ordering::SeqCst) < count {
                assert!(begun.elapsed() < Duration::from_secs(20), "nobody asked for the {count}th time");
                std::thread::yield_now();
            }
        };
        closer.wait_until(is_enough, LONG);
        *closer.waiting_count() = 2;
        closer.wait_until(|| true, LONG);
        closer.wait_until(|| false, Duration::from_millis(1));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| closer.wait_until(is_enough, LONG));
            until(1);
            closer.one_is_closed();
            // It looked again, and goes on waiting for the other.
            until(2);
            assert!(!waiting.is_finished());
            closer.one_is_closed();
            waiting.join().unwrap();
        });
        let (_directory, [disk, memory]) = both();
        assert!(disk.free_bytes_above(u64::MAX).is_some() && memory.free_bytes_above(u64::MAX).is_none());
    }

    #[test]
    fn a_shredded_file_is_overwritten_before_it_goes() {
        let (directory, [disk, memory]) = both();
        for files in [disk, memory] {
            files.write("key", b"canary").unwrap();
            // A second name of the same file shows what became of its bytes.
            let other = directory.path().join("other");
            let _ = std::fs::hard_link(directory.path().join("key"), &other);
            files.shred("key", &[7; 3]).unwrap();
            assert!(files.read("key", 100).unwrap().is_none());
            assert_eq!(std::fs::read(&other).unwrap(), [7; 6]);
            files.shred("key", &[7]).unwrap();
        }
    }

    #[test]
    fn removing_a_directory_takes_all_of_it_and_nothing_else() {
        let (_directory, both) = both();
        for files in both {
            for path in ["a/x", "ab"] {
                files.make_directory(path).unwrap();
                files.write(&format!("{path}/f"), b"1").unwrap();
            }
            files.remove_directory("a").unwrap();
            files.remove_directory("a").unwrap();
            assert_eq!(files.list("a/x").unwrap(), Vec::<String>::new());
            assert_eq!(files.list("ab").unwrap(), vec!["f"]);
        }
    }

    #[test]
    fn nothing_outside_the_directory_can_be_named() {
        let (directory, [disk, _]) = both();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        let Files::Disk(dir) = &disk else { panic!("the first is on disk") };
        let inner = Files::Disk(Arc::new(dir.open_dir("sub").unwrap()));
        assert!(inner.write("../escaped", b"x").is_err());
        assert!(!directory.path().join("escaped").exists());
    }
}
