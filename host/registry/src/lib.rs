//! Uploads: quarantine, inspect, verify, compile, commit; versions, routes, grants.
//!
//! Must never execute uploaded bytes in this process before the compile child and the engine have had them, never change a
//! published version, and never let one tenant's name, code or grant be seen through another's. Walk 2 is `push`; in
//! walk 1 the registry answers where a call goes ([`Registry::find`]) and with which code ([`Registry::compiled`]).
//! [`inspect`] is pure and also what the command line uses.
#![forbid(unsafe_code)]

mod address;
mod diff;
mod error;
mod grants;
mod inspect;
mod interfaces;
mod kept;
mod live;
mod loader;
mod push;
mod record;
mod registry;
mod start;
mod survey;
mod turns;

pub use error::RegistryError;
pub use inspect::{Import, InspectError, Inspection, inspect};
pub use interfaces::{ImportKind, World};
pub use live::{Route, VersionInfo, VersionRef};
pub use loader::Loaded;
pub use push::{Announced, Room};
pub use record::{
    Canary, Change, NeedChange, PluginDetail, PluginSummary, Published, RouteState, VersionDiff, VersionRecord,
};
pub use registry::{Registry, Rehearsal};
pub use survey::PluginFigures;
