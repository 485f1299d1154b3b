//! The engine of tests: an ordered map. Nothing outlives it, and so everything is as durable as it will ever be; and it
//! fails when it is told to, in the two ways that a disk does, and takes as long as it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use super::{Engine, EngineError, Order, Rows, Span, Write, collect, is_empty};

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of it is there.
    Lost,
    /// It is there, and whoever wrote it was told that nobody knows.
    InDoubt,
}

/// Failures to come, for tests: one for each write, in order; and flushes that take until they are let through.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    planned: Mutex<Planned>,
    let_through: Condvar,
}

#[derive(Debug, Default)]
struct Planned {
    writes: VecDeque<Option<Fault>>,
    sync: Option<Fault>,
    failing_reads_count: u64,
    panics_at_read: bool,
    /// How many flushes may end while they are held; none when they are not held.
    passes: Option<u64>,
    held_count: u64,
}

// === impl Faults ===

impl Faults {
    /// The next writes go as planned here, one after the other; those after them go well.
    pub fn plan(&self, writes: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().writes = writes.into_iter().collect();
    }

    /// So many of the next reads of single records fail.
    pub fn plan_reads(&self, failing_count: u64) {
        self.lock().failing_reads_count = failing_count;
    }

    /// The next read of a single record panics, as what is not an engine may.
    pub fn plan_panic(&self) {
        self.lock().panics_at_read = true;
    }

    /// From now on a flush does not end before it is let through. What it flushes is there to be read all the same.
    pub fn hold_flushes(&self) {
        self.lock().passes = Some(0);
    }

    /// One flush ends, the one that is held or the next.
    pub fn let_one_through(&self) {
        if let Some(passes) = &mut self.lock().passes {
            *passes += 1;
        }
        self.0.let_through.notify_all();
    }

    /// All end, now and later.
    pub fn let_all_through(&self) {
        self.lock().passes = None;
        self.0.let_through.notify_all();
    }

    /// Flushes that are held now: one a store at most, whose only writer waits for it.
    pub fn held_count(&self) -> u64 {
        self.lock().held_count
    }

    /// The fate of a write. One that is in doubt fails when it is to be made durable.
    fn next_write(&self) -> Option<Fault> {
        let mut planned = self.lock();
        planned.sync = planned.writes.pop_front().flatten();
        planned.sync
    }

    fn next_read_fails(&self) -> bool {
        let mut planned = self.lock();
        let fails = planned.failing_reads_count > 0;
        planned.failing_reads_count -= u64::from(fails);
        fails
    }

    fn next_sync(&self) -> Option<Fault> {
        let mut planned = self.lock();
        planned.held_count += 1;
        while planned.passes == Some(0) {
            planned = self.0.let_through.wait(planned).unwrap_or_else(PoisonError::into_inner);
        }
        planned.held_count -= 1;
        if let Some(passes) = &mut planned.passes {
            *passes -= 1;
        }
        planned.sync.take()
    }

    fn lock(&self) -> MutexGuard<'_, Planned> {
        self.0.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(crate) struct MemoryEngine {
    map: RwLock<Option<BTreeMap<Vec<u8>, Vec<u8>>>>,
    faults: Faults,
}

// === impl MemoryEngine ===

impl MemoryEngine {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { map: RwLock::new(Some(BTreeMap::new())), faults }
    }

    fn read<T>(&self, act: impl FnOnce(&BTreeMap<Vec<u8>, Vec<u8>>) -> T) -> Result<T, EngineError> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act).ok_or(EngineError::Closed)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        if std::mem::take(&mut self.faults.lock().panics_at_read) {
            std::panic::resume_unwind(Box::new("a planned panic"));
        }
        if self.faults.next_read_fails() {
            return Err(EngineError::Failed("a planned failure".to_owned()));
        }
        self.read(|map| map.get(key).cloned())
    }

    fn range(&self, span: &Span) -> Result<Rows, EngineError> {
        self.read(|map| {
            if is_empty(span) {
                return Rows::default();
            }
            let pairs = map.range::<Vec<u8>, _>((span.from.clone(), span.to.clone()));
            let own = |(key, value): (&Vec<u8>, &Vec<u8>)| Ok::<_, Infallible>((key.clone(), value.clone()));
            let rows = match span.order {
                Order::Forward => collect(span, pairs.map(own)),
                Order::Backward => collect(span, pairs.rev().map(own)),
            };
            rows.unwrap_or_else(|never| match never {})
        })
    }

    fn apply(&self, writes: Vec<Write>) -> Result<(), EngineError> {
        if self.faults.next_write() == Some(Fault::Lost) {
            return Err(EngineError::Failed("a planned failure".to_owned()));
        }
        let mut guard = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let map = guard.as_mut().ok_or(EngineError::Closed)?;
        for Write { key, value } in writes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        if self.faults.next_sync() == Some(Fault::InDoubt) {
            return Err(EngineError::Failed("a planned failure".to_owned()));
        }
        self.read(|_| ())
    }

    fn recover(&self) -> Result<(), EngineError> {
        self.read(|_| ())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }

    fn close(&self) {
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
