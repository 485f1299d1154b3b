//! Calls between plugins of one tenant: the names they are reached by, and what is written down about who called. Pure.
//!
//! Must never let a name below the suffix mean anything outside of this host, nor a plugin of another tenant: such a name is
//! one label and the suffix, and a label has no place for a tenant.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::{InvocationId, PluginName};

/// What the host names of plugins end with, as other plugins of their tenant call them. `internal` is reserved for names
/// that no public DNS answers.
pub const SUFFIX: &str = ".plugin.internal";

/// Who called an invocation that a plugin called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CausedBy {
    /// The first of the tree: an invocation that no plugin called.
    pub root: InvocationId,
    /// The one that called.
    pub parent: InvocationId,
}

/// The origin by which a plugin is called and granted: `http://visits.plugin.internal`.
pub fn origin_of(plugin: &PluginName) -> String {
    format!("http://{plugin}{SUFFIX}")
}

/// The plugin that an origin names; none when it is not exactly `http://NAME.plugin.internal`.
pub fn callee(origin: &str) -> Option<PluginName> {
    origin.strip_prefix("http://")?.strip_suffix(SUFFIX)?.parse().ok()
}

/// Whether a host name lies at or below the suffix, however it is spelt. SECURITY: such a name is never looked up.
pub fn is_inside(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.ends_with(SUFFIX) || SUFFIX.strip_prefix('.') == Some(host.as_str())
}

/// The `traceparent` (W3C Trace Context, version 00) for a call: of the trace that the root's request named, else of one
/// that is made of the root's id, so that who has one finds the other. None for ids that are not of 16 bytes, or zero.
pub fn traceparent(given: Option<&str>, root: &InvocationId, parent: &InvocationId) -> Option<String> {
    let (trace, flags) = match given.and_then(parts) {
        Some((trace, flags)) => (trace.to_owned(), flags),
        None => (HEXLOWER.encode(&bytes(root)), "00"),
    };
    let span = HEXLOWER.encode(bytes(parent).get(..8)?);
    (is_hex(&trace, 32) && is_hex(&span, 16)).then(|| format!("00-{trace}-{span}-{flags}"))
}

/// Trace id and flags of a `traceparent`.
fn parts(given: &str) -> Option<(&str, &str)> {
    let mut fields = given.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_flags = flags.len() == 2 && flags.bytes().all(is_hex_digit);
    let fits = version == "00" && is_hex(trace, 32) && is_hex(span, 16) && is_flags && fields.next().is_none();
    fits.then_some((trace, flags))
}

/// Whether a text is so many digits and not all of them 0.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(is_hex_digit) && text.bytes().any(|digit| digit != b'0')
}

fn is_hex_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// The random bytes of an id.
fn bytes(id: &InvocationId) -> Vec<u8> {
    let text = id.as_str().strip_prefix("i_").unwrap_or_default().to_ascii_uppercase();
    BASE32_NOPAD.decode(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entropy;

    struct Ones(u8);
    impl Entropy for Ones {
        fn fill(&self, into: &mut [u8]) {
            into.fill(self.0);
        }
    }

    #[test]
    fn an_origin_names_a_plugin_exactly_or_not_at_all() {
        let visits: PluginName = "visits".parse().unwrap();
        assert_eq!(origin_of(&visits), "http://visits.plugin.internal");
        assert_eq!(callee(&origin_of(&visits)), Some(visits));
        for bad in [
            "https://visits.plugin.internal",
            "http://visits.plugin.internal:8080",
            "http://visits.plugin.internal.",
            "http://visits.plugin.internal/",
            "http://visits.globex.plugin.internal",
            "http://Visits.plugin.internal",
            "http://.plugin.internal",
            "http://plugin.internal",
            "http://a_b.plugin.internal",
            "http://visits.plugin.internal.example.com",
        ] {
            assert_eq!(callee(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_spelling_of_a_name_below_the_suffix_gets_past() {
        for inside in [
            "visits.plugin.internal",
            "VISITS.Plugin.INTERNAL",
            "visits.plugin.internal.",
            "visits.plugin.internal..",
            "visits.globex.plugin.internal",
            ".plugin.internal",
            "plugin.internal",
            "plugin.internal.",
            "a_b.plugin.internal",
        ] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in ["plugin.internal.example.com", "myplugin.internal", "internal", "visits.internal", ""] {
            assert!(!is_inside(outside), "{outside}");
        }
    }

    #[test]
    fn a_trace_goes_on_when_the_request_had_one_and_is_made_of_the_roots_id_when_not() {
        let (root, parent) = (InvocationId::random(&Ones(0xab)), InvocationId::random(&Ones(0x01)));
        let made = format!("00-{}-{}-00", "ab".repeat(16), "01".repeat(8));
        assert_eq!(traceparent(None, &root, &parent), Some(made.clone()));
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let gone_on = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "01".repeat(8));
        assert_eq!(traceparent(Some(given), &root, &parent), Some(gone_on));
        for broken in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\u{e9}",
        ] {
            assert_eq!(traceparent(Some(broken), &root, &parent), Some(made.clone()), "{broken}");
        }
        assert_eq!(traceparent(None, &InvocationId::random(&Ones(0)), &parent), None);
    }
}
