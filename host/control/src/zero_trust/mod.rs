//! Continuous verification: sessions, factors and how one signs in.
//!
//! Must never show or end a session of another principal without a permit for its tenant.

pub mod assessment;
pub mod devices;
pub mod factors;
pub mod operators;
pub mod posture;
pub mod risk;
pub mod sessions;
pub mod settings;
pub mod trust;
