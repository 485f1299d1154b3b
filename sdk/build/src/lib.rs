//! Finds a toolchain that can build WebAssembly guests and builds a crate with it; used by `ringfence build` and
//! `cargo xtask guests`. It stands before the upload walk: what it makes is pushed, and the host trusts none of it.
//!
//! Must never change the environment of the calling process, and installs nothing unless told [`Install::Allowed`].
#![forbid(unsafe_code)]

mod build;
mod child;
mod debian;
mod toolchain;

pub use build::{Artifact, Lock, Profile, build, build_all};
pub use toolchain::{Install, Route, TARGET, Toolchain, ensure_toolchain, find_toolchain};
