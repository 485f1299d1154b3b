//! The smallest plugin: no parameters, so no needs.
#[ringfence_sdk::plugin]
fn hello() -> &'static str {
    "hello from ringfence\n"
}
