//! The room over a real store: runs whose code is written here, points, queues and schedules of plugins that are not
//! deployed.
//!
//! Time is the test's; a host is a runtime, and killing it is dropping that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod again;
mod asked;
mod begun;
mod dead;
mod ends;
mod faults;
mod notify;
mod queues;
mod schedules;
mod sworn;
mod world;
