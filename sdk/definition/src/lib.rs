//! Declarative workflows: the CNCF Serverless Workflow DSL 1.0, as far as docs/reference/definitions.md says.
//!
//! [`Definition::parse`] is the one reader: the SDK's macro runs it at build time, the host at upload, and the interpreter
//! (`run`) inside the guest before each run. Pure: no WebAssembly, no runtime, no clock. Must never let anything through
//! that the interpreter does not do: a key that is not known is refused with its path, never skipped.
//!
//! Why no published SDK for the DSL: the official crate (`serverless_workflow_core`) has been resting since January 2025, and
//! the newer `swf-core` is one person's; both read the whole DSL leniently (unknown fields pass, an unknown task becomes a
//! "custom" one, and errors have no path), so that everything below would have to be checked again beside them.
#![forbid(unsafe_code)]

mod at;
pub mod limits;
mod model;
mod read;
#[cfg(feature = "run")]
mod run;
mod task;

pub use model::{Definition, Expression};
#[cfg(feature = "run")]
pub use run::{Ended, Failure, Fault, Host, Request, Response, RunFacts, check_expressions, run};

/// The custom section in which a module carries its definitions: JSON documents, each ended by a line feed.
pub const SECTION: &str = "ringfence:workflow";

/// The custom section in which a module names all of its workflows, whatever they are written in: each name ended by a line feed.
pub const NAMES_SECTION: &str = "ringfence:workflow-names";

/// Why a definition is not taken, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// JSON pointer (RFC 6901) into the document; empty for the document itself.
    pub path: String,
    /// In the author's words.
    pub why: String,
}

impl Refusal {
    /// A refusal of what is at `path`.
    pub fn new(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), why: why.into() }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.path.is_empty() { "the definition" } else { &self.path };
        write!(f, "{path}: {}", self.why)
    }
}

impl std::error::Error for Refusal {}
