//! The revision that is known to be durable, kept in a file beside the database: a database that comes back with less has lost
//! something, which damage in the middle of its log causes without any error.
//!
//! It is written again before each write of the database, too, without making it durable: a disk that takes no writes any more
//! (read-only, shut down) refuses this one, and then the database is not asked. It stays in service for who reads, for
//! nothing in its memory is in doubt. Must never say a revision that is not durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::directory::mark;

/// How often it is made durable while there are writes; at closing it is exact.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Watermark {
    file: File,
    durable: u64,
    synced_at: Instant,
}

// === impl Watermark ===

impl Watermark {
    pub(crate) fn new(file: File, durable: u64) -> Self {
        Self { file, durable, synced_at: Instant::now() }
    }

    /// Fails when the disk takes no writes at all. One that is full is no such: deleting still works.
    pub(crate) fn probe(&self) -> io::Result<()> {
        match self.write() {
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Ok(()),
            written => written,
        }
    }

    /// This revision is durable now; noted durably once in a while.
    pub(crate) fn reach(&mut self, durable: u64) {
        self.durable = durable;
        if self.synced_at.elapsed() >= PAUSE {
            self.sync();
        }
    }

    /// Notes it durably; a start without it only knows less.
    pub(crate) fn sync(&mut self) {
        self.synced_at = Instant::now();
        if let Err(error) = self.write().and_then(|()| self.file.sync_data()) {
            tracing::warn!(%error, "the newest revision could not be noted beside the database");
        }
    }

    /// In place: it is shorter than a sector.
    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(mark(self.durable).as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{open_mark, read_mark};

    #[test]
    fn it_never_says_more_than_is_durable_and_asks_a_full_disk_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let said = || read_mark(directory.path()).unwrap();
        let mut watermark = open_mark(directory.path(), 7).unwrap();
        watermark.probe().unwrap();
        assert_eq!(said(), Some(7));
        watermark.reach(9);
        watermark.probe().unwrap();
        assert_eq!(said(), Some(9));
        watermark.sync();
        assert_eq!(said(), Some(9));
        // Deleting must go on there.
        let full = File::options().write(true).open("/dev/full").unwrap();
        Watermark::new(full, 9).probe().unwrap();
        let unwritable = File::open(directory.path().join("mark")).unwrap();
        assert!(Watermark::new(unwritable, 9).probe().is_err());
        assert_eq!(said(), Some(9));
    }
}
