//! The data plane: listen, route, invoke, reply. Walk 1 of ARCHITECTURE.md is `invoke.rs`, top to bottom;
//! `call.rs` enters it for calls between plugins of a tenant.
//!
//! Must never decide for itself who a caller is or what he may do: it asks `identity` and `policy`, in that order.
#![forbid(unsafe_code)]

mod call;
mod cut;
#[cfg(any(test, feature = "fuzzing"))]
pub mod doors;
mod fields;
pub mod invoke;
pub mod listen;
mod locked;
mod overseer;
mod pace;
mod record;
mod refuse;
mod request;
mod splice;
mod stall;
mod turns;

pub use invoke::{Gateway, GatewayParts};
pub use listen::{Listening, Peer, serve};
pub use locked::Locked;
