//! redb: one file, copy-on-write pages, checksums, and a durability of its own.
//!
//! [`Engine::apply`] is a transaction that is not made durable by itself; [`Engine::sync`] is an empty one that is, and carries
//! all before it. Every opening checks every page, because a plain one trusts the file and may panic later. Must never serve
//! after a failure without opening again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use super::guard::{Guard, forget_cached, is_damage};
use super::{Engine, EngineError, OpenFailure, Order, Rows, Span, Write, borrow, collect, is_empty};

/// The one table: everything is ordered bytes.
pub(super) const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// Its name in the directory.
pub(super) const FILE: &str = "data.redb";
/// Its name while it is made.
const MADE: &str = "data.redb.new";
const FILE_MODE: u32 = 0o600;

/// Where the database lies. Something else than a file only in tests of what a disk can do.
pub(super) trait Medium: Send + Sync + 'static {
    type Backend: StorageBackend;
    fn open(&self) -> io::Result<Self::Backend>;
    /// Drops what is remembered of it, so that the next opening reads what is there.
    fn forget(&self) -> io::Result<()>;
    fn bytes(&self) -> u64;
}

/// A file of its own.
pub(super) struct OneFile(PathBuf);

type Pair<'a> = (redb::AccessGuard<'a, &'static [u8]>, redb::AccessGuard<'a, &'static [u8]>);

pub(super) struct RedbEngine<M: Medium = OneFile> {
    medium: M,
    cache_bytes: usize,
    handle: Guard<Database>,
}

// === impl RedbEngine ===

impl RedbEngine {
    /// Opens the database in `directory`, which must exist and belong to this process alone. One that is not there is made
    /// under another name first: what a kill leaves half made was never there, and is no damage.
    pub(super) fn open(directory: &Path, cache_bytes: u64) -> Result<Self, OpenFailure> {
        let (file, made) = (directory.join(FILE), directory.join(MADE));
        if !file.try_exists()? {
            match std::fs::remove_file(&made) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            drop(Self::open_on(OneFile(made.clone()), cache_bytes)?);
            File::open(&made)?.sync_all()?;
            std::fs::rename(&made, &file)?;
        }
        let this = Self::open_on(OneFile(file), cache_bytes)?;
        File::open(directory)?.sync_all()?;
        Ok(this)
    }
}

impl<M: Medium> RedbEngine<M> {
    pub(super) fn open_on(medium: M, cache_bytes: u64) -> Result<Self, OpenFailure> {
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let handle = Guard::new(open(&medium, cache_bytes)?);
        Ok(Self { medium, cache_bytes, handle })
    }

    fn act<T>(&self, act: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, EngineError> {
        self.handle.act(|db| act(db).map_err(|error| describe(&error)))
    }

    fn write(&self, writes: &[Write], durability: Durability) -> Result<(), EngineError> {
        self.act(|db| {
            let mut transaction = db.begin_write()?;
            transaction.set_durability(durability)?;
            {
                let mut table = transaction.open_table(ROWS)?;
                for Write { key, value } in writes {
                    match value {
                        Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                        None => table.remove(key.as_slice())?,
                    };
                }
            }
            Ok(transaction.commit()?)
        })
    }
}

impl<M: Medium> Engine for RedbEngine<M> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.act(|db| {
            let table = db.begin_read()?.open_table(ROWS)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })
    }

    fn range(&self, span: &Span) -> Result<Rows, EngineError> {
        if is_empty(span) {
            return Ok(Rows::default());
        }
        self.act(|db| {
            let table = db.begin_read()?.open_table(ROWS)?;
            let pairs = table.range::<&[u8]>((borrow(&span.from), borrow(&span.to)))?;
            Ok(match span.order {
                Order::Forward => collect(span, pairs.map(own))?,
                Order::Backward => collect(span, pairs.rev().map(own))?,
            })
        })
    }

    fn apply(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        self.write(&writes, Durability::None)
    }

    fn sync(&self) -> Result<(), EngineError> {
        // One phase is enough: what would be needed to get past the checksums is to choose the bytes of pages, and all
        // that reaches them is sealed.
        self.act(|db| Ok(db.begin_write()?.commit()?))
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        self.write(&writes, Durability::Immediate)
    }

    fn recover(&self) -> Result<(), EngineError> {
        self.handle.recover(|| {
            self.medium.forget()?;
            open(&self.medium, self.cache_bytes)
        })
    }

    fn bytes_on_disk(&self) -> u64 {
        self.medium.bytes()
    }

    fn close(&self) {
        self.handle.close();
    }
}

impl Medium for OneFile {
    type Backend = FileBackend;

    fn open(&self) -> io::Result<FileBackend> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(&self.0)?;
        FileBackend::new(file).map_err(io::Error::other)
    }

    fn forget(&self) -> io::Result<()> {
        forget_cached(&self.0)
    }

    fn bytes(&self) -> u64 {
        self.0.metadata().map(|about| about.len()).unwrap_or_default()
    }
}

fn own(pair: Result<Pair<'_>, redb::StorageError>) -> Result<(Vec<u8>, Vec<u8>), redb::StorageError> {
    pair.map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
}

// === opening ===

fn open<M: Medium>(medium: &M, cache_bytes: usize) -> Result<Database, OpenFailure> {
    let backend = medium.open()?;
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<Database, redb::Error> {
        let mut builder = Builder::new();
        let db = builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true).create_with_backend(backend)?;
        let transaction = db.begin_write()?;
        transaction.open_table(ROWS)?;
        transaction.commit()?;
        Ok(db)
    }));
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(redb::Error::Io(error))) if !is_damage(&error) => Err(OpenFailure::Io(error)),
        Ok(Err(error @ (redb::Error::DatabaseAlreadyOpen | redb::Error::UpgradeRequired(_)))) => {
            Err(OpenFailure::Io(io::Error::other(describe(&error))))
        }
        Ok(Err(error)) => Err(OpenFailure::Corrupt(describe(&error))),
        Err(_panic) => Err(OpenFailure::Corrupt("the database could not be read".to_owned())),
    }
}

fn describe(error: &redb::Error) -> String {
    match error {
        redb::Error::Corrupted(_) => "a page does not match its checksum".to_owned(),
        redb::Error::Io(error) => error.to_string(),
        redb::Error::PreviousIo => "an earlier write failed".to_owned(),
        redb::Error::DatabaseAlreadyOpen => "the database is open already".to_owned(),
        redb::Error::UpgradeRequired(_) => "the database is of another version of its format".to_owned(),
        other => other.to_string().to_lowercase().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_was_half_made_was_never_there() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(MADE), [0; 4_096]).unwrap();
        let opened = || RedbEngine::open(directory.path(), 1 << 20).unwrap_or_else(|_| panic!("it does not open"));
        let engine = opened();
        engine.commit(vec![Write { key: b"k".to_vec(), value: Some(b"v".to_vec()) }]).unwrap();
        drop(engine);
        assert!(!directory.path().join(MADE).exists());
        assert_eq!(opened().get(b"k").unwrap(), Some(b"v".to_vec()));
    }
}
