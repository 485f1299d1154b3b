//! What both databases on disk need around them: one handle in service, out of service after its first failure, opened
//! again later. Must never let a handle that failed answer again: what it holds in memory may not be on the disk.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::{EngineError, OpenFailure};

/// How long to wait between two attempts to come back.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);

/// A database handle and whether it may be used.
pub(super) struct Guard<T>(RwLock<State<T>>);

enum State<T> {
    Open(T),
    Failed { reason: String, since: Instant },
    Closed,
}

impl<T> Guard<T> {
    pub(super) fn new(handle: T) -> Self {
        Self(RwLock::new(State::Open(handle)))
    }

    /// Runs `act` on the open database; an error or a panic in it takes the database out of service.
    pub(super) fn act<R>(&self, act: impl FnOnce(&T) -> Result<R, String>) -> Result<R, EngineError> {
        let reason = {
            let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let handle = match &*state {
                State::Open(handle) => handle,
                State::Failed { reason, .. } => return Err(EngineError::Failed(reason.clone())),
                State::Closed => return Err(EngineError::Closed),
            };
            match catch_unwind(AssertUnwindSafe(|| act(handle))) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(reason)) => reason,
                Err(_panic) => "the database stopped in the middle of an operation".to_owned(),
            }
        };
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Open(_)) {
            tracing::error!(reason, "the database failed and is out of service until it opens again");
            let old = std::mem::replace(&mut *state, State::Failed { reason: reason.clone(), since: Instant::now() });
            discard(old);
        }
        Err(EngineError::Failed(reason))
    }

    /// Opens again after a failure, not more often than once a pause; at once `Ok` when nothing is wrong.
    pub(super) fn recover(&self, reopen: impl FnOnce() -> Result<T, OpenFailure>) -> Result<(), EngineError> {
        // The common case must not keep readers out.
        if matches!(*self.0.read().unwrap_or_else(PoisonError::into_inner), State::Open(_)) {
            return Ok(());
        }
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Open(_) => return Ok(()),
            State::Closed => return Err(EngineError::Closed),
            State::Failed { reason, since } if since.elapsed() < RECOVERY_PAUSE => {
                return Err(EngineError::Failed(reason.clone()));
            }
            State::Failed { .. } => {}
        }
        match reopen() {
            Ok(handle) => {
                tracing::info!("the database is back in service");
                *state = State::Open(handle);
                Ok(())
            }
            Err(failure) => {
                let reason = failure.to_string();
                *state = State::Failed { reason: reason.clone(), since: Instant::now() };
                Err(EngineError::Failed(reason))
            }
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        discard(std::mem::replace(&mut *state, State::Closed));
    }
}

/// Lets go of a database that may panic while it does.
fn discard<T>(state: State<T>) {
    if catch_unwind(AssertUnwindSafe(|| drop(state))).is_err() {
        tracing::warn!("the database stopped in the middle of closing");
    }
}

/// Drops what the kernel remembers of a file, so that reading it again asks the disk: after a failed fsync the pages that
/// did not reach it are marked clean, and would be read back as if they had.
pub(super) fn forget_cached(file: &Path) -> io::Result<()> {
    let file = File::open(file)?;
    // What is dirty still is not dropped. Whether this writes it or not, nothing of it was acknowledged.
    let _ = file.sync_all();
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// Whether an I/O error speaks of the content of files and not of the disk.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
}
