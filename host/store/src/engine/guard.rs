//! What both databases on disk need around them: one handle in service, out of service after its first failure, opened
//! again later, while who reads is refused and never waits; writes wait in their line, for the commit thread opens it. Must
//! never let a handle that failed answer again: what it holds in memory may not be on the disk.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::{EngineError, OpenFailure};

/// How long to wait between two attempts to come back.
const RECOVERY_PAUSE: Duration = Duration::from_secs(1);

/// A database handle and whether it may be used.
pub(super) struct Guard<T> {
    state: RwLock<State<T>>,
    /// Held by who opens it again: one at a time, and never under the lock of the state.
    reopening: Mutex<()>,
}

enum State<T> {
    Open(T),
    Failed { reason: String, since: Instant },
    Closed,
}

impl<T> Guard<T> {
    pub(super) fn new(handle: T) -> Self {
        Self { state: RwLock::new(State::Open(handle)), reopening: Mutex::new(()) }
    }

    /// Runs `act` on the open database; an error or a panic in it takes the database out of service.
    pub(super) fn act<R>(&self, act: impl FnOnce(&T) -> Result<R, String>) -> Result<R, EngineError> {
        let reason = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
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
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Open(_)) {
            tracing::error!(reason, "the database failed and is out of service until it opens again");
            let old = std::mem::replace(&mut *state, State::Failed { reason: reason.clone(), since: Instant::now() });
            discard(old);
        }
        Err(EngineError::Failed(reason))
    }

    /// Opens again after a failure, not more often than once a pause; at once `Ok` when nothing is wrong. Takes as long as
    /// opening takes, which is to read all of it; whoever uses the database meanwhile is refused at once.
    pub(super) fn recover(&self, reopen: impl FnOnce() -> Result<T, OpenFailure>) -> Result<(), EngineError> {
        let one = match self.reopening.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Ok(one) => Some(one),
        };
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(_) => return Ok(()),
            State::Closed => return Err(EngineError::Closed),
            State::Failed { reason, since } if one.is_none() || since.elapsed() < RECOVERY_PAUSE => {
                return Err(EngineError::Failed(reason.clone()));
            }
            State::Failed { .. } => {}
        }
        let (next, result) = match reopen() {
            Ok(handle) => (State::Open(handle), Ok(())),
            Err(failure) => {
                let reason = failure.to_string();
                let failed = State::Failed { reason: reason.clone(), since: Instant::now() };
                (failed, Err(EngineError::Failed(reason)))
            }
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Closed) {
            drop(state);
            discard(next);
            return Err(EngineError::Closed);
        }
        *state = next;
        drop(state);
        if result.is_ok() {
            tracing::info!("the database is back in service");
        }
        result
    }

    pub(super) fn close(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// A guard whose database failed, and long enough ago to be opened again.
    fn failed(handle: Arc<u8>) -> Guard<Arc<u8>> {
        let guard = Guard::new(handle);
        assert!(guard.act(|_| Err::<(), _>("the disk".to_owned())).is_err());
        if let State::Failed { since, .. } = &mut *guard.state.write().unwrap() {
            *since = since.checked_sub(RECOVERY_PAUSE).unwrap();
        }
        guard
    }

    /// Opens again as slowly as the test lets it: says when it has begun, and waits for a word.
    fn slowly(
        guard: &Guard<Arc<u8>>,
        next: Arc<u8>,
        begun: &Sender<()>,
        go_on: &Receiver<()>,
    ) -> Result<(), EngineError> {
        guard.recover(|| {
            begun.send(()).unwrap();
            go_on.recv_timeout(DEADLINE).unwrap();
            Ok(next)
        })
    }

    #[test]
    fn while_it_is_opened_again_whoever_asks_is_refused_at_once() {
        let guard = failed(Arc::new(1));
        let ((begun, has_begun), (go_on, may_go_on), (answer, answered)) = (channel(), channel(), channel());
        let guard = &guard;
        std::thread::scope(|scope| {
            let opening = scope.spawn(move || slowly(guard, Arc::new(2), &begun, &may_go_on));
            has_begun.recv_timeout(DEADLINE).unwrap();
            scope.spawn(move || {
                let read = guard.act(|handle| Ok(**handle));
                let second = guard.recover(|| Ok(Arc::new(3)));
                // Nobody listens any more when it took too long.
                let _ = answer.send((read, second));
            });
            let answered = answered.recv_timeout(DEADLINE / 3);
            go_on.send(()).unwrap();
            let refused = EngineError::Failed("the disk".to_owned());
            assert_eq!(answered.unwrap(), (Err(refused.clone()), Err(refused)));
            assert_eq!(opening.join().unwrap(), Ok(()));
        });
        assert_eq!(guard.act(|handle| Ok(**handle)), Ok(2));
    }

    #[test]
    fn what_was_closed_while_it_was_opened_again_stays_closed() {
        let guard = failed(Arc::new(1));
        let ((begun, has_begun), (go_on, may_go_on)) = (channel(), channel());
        let next = Arc::new(2);
        std::thread::scope(|scope| {
            let (guard, opened) = (&guard, Arc::clone(&next));
            let opening = scope.spawn(move || slowly(guard, opened, &begun, &may_go_on));
            has_begun.recv_timeout(DEADLINE).unwrap();
            guard.close();
            go_on.send(()).unwrap();
            assert_eq!(opening.join().unwrap(), Err(EngineError::Closed));
        });
        assert_eq!(guard.act(|handle| Ok(**handle)), Err(EngineError::Closed));
        assert_eq!(Arc::strong_count(&next), 1, "nobody holds what was opened for nothing");
    }
}
