//! The repository keeps its own rules: the README runs as written, files say what they are, the API document is current.

mod files;
mod openapi;
mod readme;
