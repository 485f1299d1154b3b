//! Outgoing HTTP: one gate for both versions of `wasi:http`, and what is behind it.
//!
//! `egress` decides (is the origin granted, are all its addresses public), `connect` dials what was decided, `inside` hands
//! over to other plugins of the tenant, `body` bounds what comes back, `address` is the pure table of networks nobody may reach.

pub mod address;
mod body;
mod charge;
mod connect;
mod egress;
mod inside;
#[cfg(test)]
mod tests;

pub use address::{AddressRange, prohibited};
pub use connect::{Resolver, SystemResolver};
pub use egress::EgressConfig;
pub(crate) use egress::{Gate, Outbound};
pub(crate) use inside::Caller;
