//! The engine of tests: an ordered map. Nothing outlives it, and so everything is as durable as it will ever be.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use super::{Engine, EngineError, Order, Rows, Span, Write, collect};

#[derive(Default)]
pub(crate) struct MemoryEngine(RwLock<Option<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl MemoryEngine {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(Some(BTreeMap::new())))
    }

    fn read<T>(&self, act: impl FnOnce(&BTreeMap<Vec<u8>, Vec<u8>>) -> T) -> Result<T, EngineError> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act).ok_or(EngineError::Closed)
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
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
        let mut guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
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
        self.read(|_| ())
    }

    fn recover(&self) -> Result<(), EngineError> {
        self.read(|_| ())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }

    fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether a span cannot hold anything; the map's own range panics on such.
fn is_empty(span: &Span) -> bool {
    match (&span.from, &span.to) {
        (Bound::Excluded(from), Bound::Excluded(to)) => from >= to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from > to,
        _ => false,
    }
}
