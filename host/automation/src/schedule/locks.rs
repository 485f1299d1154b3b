//! One change of a schedule at a time: a lock for each schedule that somebody changes now, and none for the others.
//!
//! A change is durable before its lock is free again, so one lock for all schedules of the host would run those that are due
//! in the same second one after another, a write of the disk apart. Must never be held while a plugin runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::timer::Name;

/// Locks kept from which on those that nobody holds are looked for.
const KEPT_COUNT_SWEPT: usize = 1_024;

/// The locks.
#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<Name, Weak<AsyncMutex<()>>>>);

impl Locks {
    /// Waits until nobody else changes this schedule.
    pub(crate) async fn of(&self, name: Name) -> OwnedMutexGuard<()> {
        let lock = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = kept.get(&name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                if kept.len() >= KEPT_COUNT_SWEPT {
                    kept.retain(|_, lock| lock.strong_count() > 0);
                }
                let lock = Arc::new(AsyncMutex::new(()));
                kept.insert(name, Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn name(schedule: usize) -> Name {
        ("uid".to_owned(), schedule.to_string())
    }

    #[test]
    fn a_schedule_waits_for_itself_and_for_no_other() {
        let locks = Locks::default();
        let held = locks.of(name(1)).now_or_never().unwrap();
        assert!(locks.of(name(2)).now_or_never().is_some());
        assert!(locks.of(name(1)).now_or_never().is_none());
        drop(held);
        assert!(locks.of(name(1)).now_or_never().is_some());
    }

    #[test]
    fn locks_that_nobody_holds_are_not_kept_for_ever_and_a_held_one_is() {
        let locks = Locks::default();
        let held = locks.of(name(0)).now_or_never().unwrap();
        for schedule in 1..KEPT_COUNT_SWEPT * 3 {
            assert!(locks.of(name(schedule)).now_or_never().is_some());
        }
        assert!(locks.0.lock().unwrap().len() <= KEPT_COUNT_SWEPT);
        assert!(locks.of(name(0)).now_or_never().is_none());
        drop(held);
    }
}
