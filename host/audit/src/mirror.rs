//! A directory elsewhere that keeps every head of the log of logs, each written once: the second place that must have what
//! the host says it recorded.
//!
//! Must never overwrite or remove a file that is whole: one that is there with other content is another history, which is an
//! error that stops the logs. One file a round, `heads-<size, 20 digits>`: the signed head, an empty line, the commitments
//! that came since the file before, each in hex. Whoever has the files can recompute the whole tree without the host.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use cap_std::fs::{Dir, OpenOptions};

use crate::envelope::hex;
use crate::tree::{Frontier, Hash, leaf_hash};

/// LIMIT: longest file read back, in bytes; one holds at most a round's commitments.
const FILE_BYTES_MAX: u64 = 1 << 20;
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
}

/// A mirror, open. Cheap to clone.
#[derive(Clone)]
pub struct Mirror(Arc<Place>);

struct Place {
    dir: Dir,
    /// What a file is called while this process writes it: another host that has the same directory has another name.
    unfinished: String,
}

impl Mirror {
    /// The mirror in this directory.
    pub fn new(dir: Dir) -> Self {
        // Random for each process; nothing depends on its being hard to guess.
        let unfinished = format!("{UNFINISHED}{:016x}", RandomState::new().hash_one(()));
        Self(Arc::new(Place { dir, unfinished }))
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
        let mut frontier = Frontier::new();
        for size in self.sizes()? {
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
        }
        Ok((frontier.size(), frontier.root()))
    }

    /// Writes what is new: the head of `size` leaves and the commitments since the mirror's own size. Durable when it
    /// returns. Blocks.
    pub fn write(&self, size: u64, checkpoint: &str, added: &[Hash]) -> Result<(), MirrorError> {
        let name = file_name(size);
        let lines: String = added.iter().map(|commitment| format!("{}\n", hex(commitment))).collect();
        let text = format!("{checkpoint}\n{lines}");
        let Place { dir, unfinished } = &*self.0;
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
        self.0.dir.open(name)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
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
