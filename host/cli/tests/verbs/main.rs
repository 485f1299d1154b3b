//! The command line from the outside: what it prints, what it sends, how it ends. One program, so that it links once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod audit;
mod backups;
mod errors;
mod harness;
mod help;
mod hooks;
mod people;
mod protocol;
mod quota;
mod sessions;
mod streams;
mod threat;
mod trust;
