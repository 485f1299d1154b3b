//! Outgoing HTTP: one gate for both versions of `wasi:http`, and what is behind it.
//!
//! `egress` decides (is the origin granted, are all its addresses public), `connect` dials what was decided, `inside` hands
//! over to other plugins of the tenant, `body` bounds what comes back, `inspect` looks through what goes out,
//! `client_certificate` shows who asks where that is granted, `address` is the pure table of networks nobody may reach.

pub mod address;
mod body;
mod charge;
mod client_certificate;
mod connect;
mod egress;
mod inside;
mod inspect;
#[cfg(test)]
mod tests;

pub use address::{AddressRange, prohibited};
pub use client_certificate::Certificates;
pub use connect::{Resolver, SystemResolver};
pub use egress::EgressConfig;
pub(crate) use egress::{Gate, Outbound};
pub(crate) use inside::Caller;
