//! What leaves the host, over real sockets to small servers in the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod door;
mod feeds;
mod forms;
mod mail;
mod server;
mod streams;
mod world;
