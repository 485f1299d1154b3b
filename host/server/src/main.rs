//! The ringfence binary: configuration, wiring, start and drain.
fn main() {}
