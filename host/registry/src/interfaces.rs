//! The interfaces a component may import or must export, by name and version: the one list the host reads uploads by.
//!
//! Pure. Must never name an interface that the engine and the capabilities do not link; the linker has the last word at
//! upload, this list has the words for people.

use ringfence_core::Capability;
use ringfence_engine::Export;
use semver::Version;

/// Which generation of `wasi:http` a component speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// No HTTP: exports handlers of `ringfence:plugin` alone.
    Events,
    /// Exports `wasi:http/incoming-handler@0.2.x`.
    P2,
    /// Exports `wasi:http/handler@0.3.x`.
    P3,
}

impl World {
    /// `p2`, `p3`, or `events` when it answers no HTTP requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::P2 => "p2",
            Self::P3 => "p3",
        }
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an import means to the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "capability")]
pub enum ImportKind {
    /// Harmless, empty or always refused at run time: no grant needed.
    Inert,
    /// Needs a grant.
    Capability(Capability),
}

/// The versions in which an interface is offered.
#[derive(Debug, Clone, Copy)]
enum Offered {
    /// Any 0.2.x.
    P2,
    /// Any 0.3.x.
    P3,
    /// Any 0.2.x or 0.3.x.
    Both,
    /// These alone.
    Exactly(&'static [&'static str]),
}

use Offered::{Both, Exactly, P2, P3};

const KEYVALUE: Offered = Exactly(&["0.2.0-draft", "0.2.0-draft2"]);
const CONFIG: Offered = Exactly(&["0.2.0-rc.1", "0.2.0-draft-2024-09-27", "0.2.0-draft"]);

const INTERFACES: &[(&str, Offered)] = &[
    ("wasi:cli/environment", Both),
    ("wasi:cli/exit", Both),
    ("wasi:cli/stdin", Both),
    ("wasi:cli/stdout", Both),
    ("wasi:cli/stderr", Both),
    ("wasi:cli/terminal-input", Both),
    ("wasi:cli/terminal-output", Both),
    ("wasi:cli/terminal-stdin", Both),
    ("wasi:cli/terminal-stdout", Both),
    ("wasi:cli/terminal-stderr", Both),
    ("wasi:cli/types", P3),
    ("wasi:io/error", P2),
    ("wasi:io/poll", P2),
    ("wasi:io/streams", P2),
    ("wasi:clocks/monotonic-clock", Both),
    ("wasi:clocks/wall-clock", P2),
    ("wasi:clocks/system-clock", P3),
    ("wasi:clocks/types", P3),
    ("wasi:random/random", Both),
    ("wasi:random/insecure", Both),
    ("wasi:random/insecure-seed", Both),
    ("wasi:filesystem/types", Both),
    ("wasi:filesystem/preopens", Both),
    ("wasi:sockets/network", P2),
    ("wasi:sockets/instance-network", P2),
    ("wasi:sockets/tcp", P2),
    ("wasi:sockets/tcp-create-socket", P2),
    ("wasi:sockets/udp", P2),
    ("wasi:sockets/udp-create-socket", P2),
    ("wasi:sockets/ip-name-lookup", Both),
    ("wasi:sockets/types", P3),
    ("wasi:http/types", Both),
    ("wasi:http/outgoing-handler", P2),
    ("wasi:http/client", P3),
    ("wasi:keyvalue/store", KEYVALUE),
    ("wasi:keyvalue/atomics", KEYVALUE),
    ("wasi:keyvalue/batch", KEYVALUE),
    ("wasi:blobstore/blobstore", Exactly(&["0.2.0-draft"])),
    ("wasi:blobstore/container", Exactly(&["0.2.0-draft"])),
    ("wasi:blobstore/types", Exactly(&["0.2.0-draft"])),
    ("wasi:config/store", CONFIG),
    ("wasi:logging/logging", Exactly(&["0.1.0-draft"])),
    ("ringfence:plugin/secrets", Exactly(&["0.1.0"])),
    ("ringfence:plugin/pii", Exactly(&["0.1.0"])),
    ("ringfence:plugin/steps", Exactly(&["0.1.0"])),
    ("ringfence:plugin/queue", Exactly(&["0.1.0"])),
    ("ringfence:plugin/audit", Exactly(&["0.1.0"])),
    ("ringfence:plugin/runs", Exactly(&["0.1.0"])),
    ("ringfence:plugin/event", Exactly(&["0.1.0"])),
];

/// Judges an import by its full name, `wasi:keyvalue/store@0.2.0-draft2`; `None` when nobody offers it.
pub(crate) fn import_kind(name: &str) -> Option<ImportKind> {
    let (interface, version) = name.split_once('@')?;
    let offered = offered(interface)?;
    if !offered.has(version) {
        return None;
    }
    Some(Capability::of_import(interface).map_or(ImportKind::Inert, ImportKind::Capability))
}

/// What to say beside an import that nobody offers: the versions that are offered, or a near name.
pub(crate) fn import_hint(name: &str) -> Option<String> {
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    if let Some(offered) = offered(interface) {
        return Some(format!("this host offers {}", offered.words()));
    }
    ringfence_core::manifest::did_you_mean(interface, INTERFACES.iter().map(|(known, _)| *known))
        .map(|near| format!("did you mean `{near}`?"))
}

/// Which handler an export is, if it is one that is offered.
pub(crate) fn handler_world(name: &str) -> Option<World> {
    if Export::ALL.iter().any(|export| export.interface() == name) {
        return Some(World::Events);
    }
    let (interface, version) = name.split_once('@')?;
    match interface {
        "wasi:http/incoming-handler" if P2.has(version) => Some(World::P2),
        "wasi:http/handler" if P3.has(version) => Some(World::P3),
        _ => None,
    }
}

fn offered(interface: &str) -> Option<Offered> {
    INTERFACES.iter().find(|(known, _)| *known == interface).map(|(_, offered)| *offered)
}

impl Offered {
    fn has(self, version: &str) -> bool {
        let track = |minor| {
            Version::parse(version)
                .is_ok_and(|v| v.major == 0 && v.minor == minor && v.pre.is_empty() && v.build.is_empty())
        };
        match self {
            P2 => track(2),
            P3 => track(3),
            Both => track(2) || track(3),
            Exactly(versions) => versions.contains(&version),
        }
    }
    fn words(self) -> String {
        match self {
            P2 => "0.2.x".to_owned(),
            P3 => "0.3.x".to_owned(),
            Both => "0.2.x and 0.3.x".to_owned(),
            Exactly(versions) => versions.join(" and "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_track_are_taken_and_others_are_not() {
        assert_eq!(import_kind("wasi:io/streams@0.2.0"), Some(ImportKind::Inert));
        assert_eq!(import_kind("wasi:io/streams@0.2.99"), Some(ImportKind::Inert));
        for refused in [
            "wasi:io/streams@0.3.0",
            "wasi:io/streams@0.2.0-rc-2023-11-10",
            "wasi:io/streams",
            "wasi:io/nothing@0.2.0",
            "wasi:http/handler@0.3.0",
            "wasi:keyvalue/store@0.2.0",
            "wasi:keyvalue/watch@0.2.0-draft",
            "",
            "@",
            "wasi:io/streams@",
        ] {
            assert_eq!(import_kind(refused), None, "{refused}");
        }
    }

    #[test]
    fn capabilities_are_told_from_inert_imports() {
        let kind = |name| import_kind(name).unwrap();
        assert_eq!(kind("wasi:http/types@0.2.3"), ImportKind::Inert);
        assert_eq!(kind("wasi:http/outgoing-handler@0.2.3"), ImportKind::Capability(Capability::Http));
        assert_eq!(kind("wasi:http/client@0.3.0"), ImportKind::Capability(Capability::Http));
        assert_eq!(kind("wasi:keyvalue/atomics@0.2.0-draft"), ImportKind::Capability(Capability::Keyvalue));
        assert_eq!(kind("wasi:config/store@0.2.0-draft-2024-09-27"), ImportKind::Capability(Capability::Config));
        assert_eq!(kind("wasi:config/store@0.2.0-draft"), ImportKind::Capability(Capability::Config));
        assert_eq!(kind("wasi:logging/logging@0.1.0-draft"), ImportKind::Capability(Capability::Logging));
        assert_eq!(kind("ringfence:plugin/secrets@0.1.0"), ImportKind::Capability(Capability::Secrets));
    }

    #[test]
    fn every_capability_has_an_import_but_those_that_the_manifest_asks_for() {
        for capability in Capability::ALL.into_iter().filter(|capability| !capability.is_asked_for()) {
            assert!(INTERFACES.iter().any(|(name, _)| Capability::of_import(name) == Some(capability)), "{capability}");
        }
    }

    #[test]
    fn hints_help() {
        assert_eq!(import_hint("wasi:keyvalue/store@0.3.0").unwrap(), "this host offers 0.2.0-draft and 0.2.0-draft2");
        assert_eq!(import_hint("wasi:keyvalu/store@0.2.0").unwrap(), "did you mean `wasi:keyvalue/store`?");
        assert_eq!(import_hint("acme:billing/ledger@1.0.0"), None);
    }
}
