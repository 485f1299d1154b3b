//! The command line from the outside: what it prints, what it sends, how it ends. One program, so that it links once.

mod audit;
mod errors;
mod harness;
mod help;
mod protocol;
mod streams;
