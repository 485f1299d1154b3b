//! The engine from outside: real children, real guests, real budgets.

mod code;
mod run;
mod support;
