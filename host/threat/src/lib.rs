//! Threats seen and answered: rules over committed audit events, findings, responses, incidents, intelligence.
//!
//! Reads what the audit log has made durable and publishes a [`ringfence_core::Standing`] that admission reads. Must never
//! stand on the path of a call, act without an intent on the log, or remember without a bound. Layout: [`sigma`], [`risk`],
//! [`response`], [`incident`] and [`intel`] are pure; `watch` is the reader, [`Threat`] the outside.
#![forbid(unsafe_code)]

pub mod attack;
mod error;
pub mod event;
pub mod response;
pub mod risk;
pub mod sigma;

pub use error::ThreatError;

/// The label of the host's own log.
pub const HOST_LOG: &str = "_platform";
