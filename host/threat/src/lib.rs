//! Threats seen and answered: rules over committed audit events, findings, responses, incidents, intelligence.
//!
//! Reads what the audit log has made durable and publishes a [`ringfence_core::Standing`] that admission reads. Must never
//! stand on the path of a call, act without an intent on the log, or remember without a bound. Layout: [`sigma`], [`risk`],
//! [`response`], [`incident`] and [`intel`] are pure; `watch` is the reader, [`Threat`] the outside.
#![forbid(unsafe_code)]

pub mod assess;
pub mod attack;
mod disabling;
pub mod drill;
mod error;
pub mod event;
pub mod finding;
pub mod history;
pub mod incident;
mod incidents;
pub mod intel;
mod intelligence;
mod loss;
mod past;
mod preview;
pub mod response;
pub mod risk;
mod rules;
mod seen;
pub mod settings;
pub mod shipped;
pub mod sigma;
mod threat;
mod watch;

pub use assess::Assessment;
pub use drill::{DrillReport, Drilled};
pub use error::ThreatError;
pub use finding::Finding;
pub use incidents::{Stepped, Turn};
pub use intelligence::Loaded;
pub use response::{Asked, Blast, Kind, Response, Scope, Target};
pub use rules::{Edition, Written};
pub use settings::Settings;
pub use threat::{HealthView, OPERATOR, RuleText, Threat};
pub use watch::Reader;

/// The label of the host's own log.
pub const HOST_LOG: &str = "_platform";
