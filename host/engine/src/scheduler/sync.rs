//! The locks of the scheduler, named in one place so that a model checker can put its own in.

pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
