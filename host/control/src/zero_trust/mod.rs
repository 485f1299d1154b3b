//! Continuous verification: sessions and how one signs in.
//!
//! Must never show or end a session of another principal without a permit for its tenant.

pub mod sessions;
pub mod settings;
