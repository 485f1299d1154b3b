//! The repository keeps its own rules: the README runs as written, files say what they are, the API document is current.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod coverage;
mod errors;
mod files;
mod mutants;
mod openapi;
mod readme;
