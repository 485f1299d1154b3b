//! Starts invocations without a caller on the line.
#![forbid(unsafe_code)]

pub mod workflow;
