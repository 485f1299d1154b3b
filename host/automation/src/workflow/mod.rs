//! Durable workflows: code that is run again and again over its own history, until it is through.
//!
//! Everything that happens to a run is an event in the tenant's sealed store. What is decided is pure (`decide`, `command`,
//! `state`); around it is a thin shell: `journal` keeps histories, `session` answers a running guest, `drive` runs guests
//! while there is something to do, `timers` says when there is. Must never run a finished step again, nor let a run go on
//! that cannot write its history. `guests` is the door for guests of the tenant. `sworn` puts all of it on the audit log; `mending` deals with records that rotted.

mod asks;
mod code;
pub mod command;
pub mod decide;
mod drive;
mod error;
pub mod event;
mod family;
mod guests;
pub mod journal;
pub mod limits;
mod mending;
mod pump;
mod purge;
mod runs;
mod session;
pub mod state;
mod sworn;
#[cfg(test)]
mod tests;

pub use command::{Command, People, Refusal};
pub use drive::{NotRun, RunCall, Runner};
pub use error::WorkflowError;
pub use journal::{Head, Status};
pub use runs::{AskedOfPeople, Begin, Filter, Listed, Retention, Shown, Workflows, WorkflowsParts};
