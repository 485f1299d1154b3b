//! The sandbox: compile in a child, authenticated code cache, instances, meters, the scheduler. The only room with unsafe code.
//!
//! A component goes `compile` -> `code` (or later `load`) -> `check_linkable` -> `rehearse`; an invocation goes
//! `scheduler().admit` -> `run`. Must never know who calls, what a tenant stores, or what a capability may do: the
//! capabilities room binds those into a [`GuestSetup`].
#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::duplicate_mod, reason = "the model checker runs the product's file with its own locks")
)]

mod body;
mod child;
mod client;
mod code;
mod compile;
mod config;
mod ending;
mod engine;
mod error;
mod event;
mod guest;
mod idle;
mod imports;
mod integral;
mod line;
mod meter;
mod output;
mod pool;
mod replay;
mod run;
pub mod scheduler;
mod share;

pub use body::{Body, full};
pub use code::{Code, NativeCode};
pub use config::{CompileConfig, CompileLimits, EngineConfig, Recycling};
pub use ending::{Finished, Outcome};
pub use engine::Engine;
pub use error::{AdmitError, BodyError, CompileError, CompileLimit, EngineError, RunError, RunFailure};
pub use event::{Answered, EventAnswer, EventCall, EventContext, EventFailure, Export};
pub use guest::{Guest, GuestSetup, SendAnswer, SendEnd};
pub use idle::{InstanceKey, Reuse};
pub use meter::{BudgetError, Held, Meter};
pub use output::{GuestOutput, NoOutput};
pub use pool::{HostMemory, MemoryPool};
pub use replay::Replay;
pub use run::Reply;
pub use scheduler::class::IoClass;
pub use scheduler::{Calling, Scheduler, Slot, TenantLoad, TenantShare};
