//! A compile child for the engine's tests: what the hidden verb of the real binary does, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfence_engine::Engine::compile_child_main()
}
