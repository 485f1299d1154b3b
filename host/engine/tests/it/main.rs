//! The engine from outside: real children, real guests, real budgets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test is a panic with a place"
)]

mod code;
mod isolation;
mod reuse;
mod run;
mod support;
