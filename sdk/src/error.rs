//! Errors of a plugin. Any error a plugin returns becomes a plain 500 for the caller and a line on standard error.
//!
//! Must never put a secret's value or a request's content into a message.

use std::fmt;

/// What plugin functions return; the error is anything that is `std::error::Error`, through `?`.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// Why the host did not do what a plugin asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostError {
    /// The tenant has not granted it, or has revoked it.
    Denied(String),
    /// There is no such thing, and the host will not make one.
    Missing(String),
    /// It could not be done just now.
    Failed(String),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(what) => write!(f, "not granted: {what}"),
            Self::Missing(what) => write!(f, "not there: {what}"),
            Self::Failed(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for HostError {}
