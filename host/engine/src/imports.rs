//! Which imports the host offers, by interface; only for telling an uploader which of his are not.
//!
//! Must never decide: whether a component can be linked is the linker's answer. This names what it could not find.

use wasmtime::component::Component;

/// Interfaces the host offers, without their versions.
const OFFERED: &[&str] = &[
    "wasi:blobstore/blobstore",
    "wasi:blobstore/container",
    "wasi:blobstore/types",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/types",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:clocks/wall-clock",
    "wasi:config/store",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/client",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:keyvalue/atomics",
    "wasi:keyvalue/batch",
    "wasi:keyvalue/store",
    "wasi:logging/logging",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/types",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
    "ringfence:plugin/secrets",
];

/// The names of a component's imports with their versions, sorted.
pub(crate) fn names(component: &Component) -> Vec<String> {
    let mut names: Vec<String> =
        component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect();
    names.sort_unstable();
    names
}

/// The imports that the linker could not satisfy, given its error.
pub(crate) fn unknown(component: &Component, error: &wasmtime::Error) -> Vec<String> {
    let names = names(component);
    let mut unknown: Vec<String> = names.iter().filter(|name| !is_offered(name)).cloned().collect();
    // The linker stops at the first import it cannot satisfy; an offered interface in an unknown version is only there.
    let message = error.to_string();
    let first = message.split('`').nth(1).unwrap_or_default();
    if !unknown.iter().any(|name| name == first) && names.iter().any(|name| name == first) {
        unknown.push(first.to_owned());
    }
    unknown.sort_unstable();
    unknown
}

fn is_offered(name: &str) -> bool {
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    OFFERED.contains(&interface)
}
