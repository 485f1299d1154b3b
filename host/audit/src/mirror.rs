//! A directory elsewhere that keeps every head of the log of logs, each written once: the second place that must have what
//! the host says it recorded.
//!
//! Must never overwrite or remove a file that is whole: one that is there with other content is another history, which is an
//! error that stops the logs. One file a round (several when much is new), `heads-<size, 20 digits>`: the signed head, an
//! empty line, the commitments that came since the file before, each in hex. Whoever has the files can recompute the whole
//! tree without the host. A file is read once, and all of them again after an hour of rounds.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cap_std::fs::{Dir, OpenOptions};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use crate::envelope::hex;
use crate::tree::{Frontier, Hash, leaf_hash};

/// LIMIT: commitments written into one file; what a new mirror of an old host needs is several.
pub(crate) const COMMITMENTS_COUNT_MAX: u64 = 2_048;
/// LIMIT: longest file read back, in bytes. Older hosts wrote all that a mirror had not into one.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// LIMIT: longest wait for one answer of the mirror.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// LIMIT: rounds after which files that were read are read again; an hour of rounds of 10 s.
const ROUNDS_COUNT_MAX: u32 = 360;
const PREFIX: &str = "heads-";
/// What files that are being written begin with; they mean nothing to a reader.
const UNFINISHED: &str = "unfinished-";

/// Why the mirror does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// It cannot be read or written.
    #[error("the mirror cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// It holds something else than this host's log of logs.
    #[error("the mirror holds another history from `{0}` on")]
    Other(String),
    /// A file that was there is not there any more: it was emptied, or the disk is not mounted. Nothing is written anew.
    #[error("the mirror does not have its file of size {0} any more")]
    Lost(u64),
    /// A file is longer than any that a host writes.
    #[error("the mirror's file `{0}` is too long to be read")]
    Long(String),
}

/// A mirror, open. Cheap to clone.
#[derive(Clone)]
pub struct Mirror(Arc<Place>);

struct Place {
    dir: Dir,
    /// What a file is called while this process writes it: another host that has the same directory has another name.
    unfinished: String,
    /// Longest wait for one answer.
    answer_time_max: Duration,
    /// Held by whoever works with it, however late that ends.
    turn: Arc<Turn<()>>,
    known: Mutex<Known>,
}

/// What was read of it.
#[derive(Default)]
struct Known {
    frontier: Frontier,
    rounds_count: u32,
}

impl Mirror {
    /// The mirror in this directory.
    pub fn new(dir: Dir) -> Self {
        Self::answering_within(dir, ANSWER_TIME_MAX)
    }

    /// As [`Mirror::new`], with another longest wait for one answer.
    pub fn answering_within(dir: Dir, answer_time_max: Duration) -> Self {
        // Random for each process; nothing depends on its being hard to guess.
        let unfinished = format!("{UNFINISHED}{:016x}", RandomState::new().hash_one(()));
        let (turn, known) = (Arc::default(), Mutex::default());
        Self(Arc::new(Place { dir, unfinished, answer_time_max, turn, known }))
    }

    /// Works with it on a thread for blocking work. What takes too long is left to end by itself; until then nothing else is
    /// begun, so that a mirror that hangs costs one thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, MirrorError> + Send + 'static,
    ) -> Result<T, MirrorError> {
        let slow = || MirrorError::Io(ErrorKind::TimedOut.into());
        let turn: OwnedMutexGuard<()> = Arc::clone(&self.0.turn).try_lock_owned().map_err(|_| slow())?;
        let mirror = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&mirror)
        });
        match tokio::time::timeout(self.0.answer_time_max, done).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(MirrorError::Io(std::io::Error::other(error))),
            Err(_) => Err(slow()),
        }
    }

    /// What a file is called while this process writes it.
    pub fn unfinished(&self) -> &str {
        &self.0.unfinished
    }

    /// The size that its newest file is about; 0 for an empty one. Blocks.
    pub fn size(&self) -> Result<u64, MirrorError> {
        Ok(self.sizes()?.last().copied().unwrap_or(0))
    }

    /// The root over everything in it, recomputed from its files. Blocks.
    pub fn root(&self) -> Result<(u64, Hash), MirrorError> {
        // What was read is whole files at any time, so a panic elsewhere leaves nothing half changed.
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (sizes, have) = (self.sizes()?, known.frontier.size());
        if have > 0 && sizes.binary_search(&have).is_err() {
            return Err(MirrorError::Lost(have));
        }
        known.rounds_count += 1;
        if known.rounds_count > ROUNDS_COUNT_MAX {
            *known = Known::default();
        }
        let have = known.frontier.size();
        for size in sizes.into_iter().filter(|size| *size > have) {
            let mut frontier = known.frontier.clone();
            let name = file_name(size);
            let other = || MirrorError::Other(name.clone());
            let text = self.read(&name)?;
            let (_, commitments) = text.rsplit_once("\n\n").ok_or_else(other)?;
            for line in commitments.lines() {
                let commitment = data_encoding::HEXLOWER.decode(line.as_bytes()).map_err(|_| other())?;
                frontier.push(leaf_hash(&commitment));
            }
            if frontier.size() != size {
                return Err(other());
            }
            known.frontier = frontier;
        }
        Ok((known.frontier.size(), known.frontier.root()))
    }

    /// Writes what is new: the head of `size` leaves and the commitments since the mirror's own size. Durable when it
    /// returns. Blocks.
    pub fn write(&self, size: u64, checkpoint: &str, added: &[Hash]) -> Result<(), MirrorError> {
        let name = file_name(size);
        let lines: String = added.iter().map(|commitment| format!("{}\n", hex(commitment))).collect();
        let text = format!("{checkpoint}\n{lines}");
        let Place { dir, unfinished, .. } = &*self.0;
        // Under another name first: when the disk is full in the middle, nothing is left that looks like another history. A link,
        // unlike a new name, never takes the place of a file that is there.
        let mut file = dir.open_with(unfinished, OpenOptions::new().write(true).create(true).truncate(true))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let linked = dir.hard_link(unfinished, dir, &name);
        dir.remove_file(unfinished)?;
        match linked {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if self.read(&name)? != text {
                    return Err(MirrorError::Other(name));
                }
                // Whoever wrote it may not have lived to make it durable.
                dir.open(&name)?.sync_all()?;
            }
            linked => linked?,
        }
        Ok(dir.open(".")?.sync_all()?)
    }

    fn read(&self, name: &str) -> Result<String, MirrorError> {
        let mut text = String::new();
        self.0.dir.open(name)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX { Err(MirrorError::Long(name.to_owned())) } else { Ok(text) }
    }

    fn sizes(&self) -> Result<Vec<u64>, MirrorError> {
        let mut sizes = Vec::new();
        for entry in self.0.dir.entries()? {
            let name = entry?.file_name();
            let size: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|size| size.parse().ok());
            sizes.extend(size);
        }
        sizes.sort_unstable();
        Ok(sizes)
    }
}

fn file_name(size: u64) -> String {
    format!("{PREFIX}{size:020}")
}
