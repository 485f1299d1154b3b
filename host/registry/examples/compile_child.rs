//! The compile child of this room's tests: nothing but the engine's own entry.

fn main() -> std::process::ExitCode {
    ringfence_engine::Engine::compile_child_main()
}
