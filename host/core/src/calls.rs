//! Calls between plugins of one tenant: the names they are reached by, and what is written down about who called. Pure.
//!
//! Must never let a name below the suffix mean anything outside of this host, nor a plugin of another tenant: such a name is
//! one label and the suffix, and a label has no place for a tenant.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::{InvocationId, PluginName, RunId};

/// What the host names of plugins end with, as other plugins of their tenant call them. `internal` is reserved for names
/// that no public DNS answers.
pub const SUFFIX: &str = ".plugin.internal";

/// Who called an invocation that a plugin called, or sent the message that it was handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CausedBy {
    /// The first of the tree: an invocation that no plugin called, and that no other led to by a message.
    pub root: InvocationId,
    /// The one that called or sent.
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
        None => (HEXLOWER.encode(&bytes(root.as_str())), "00"),
    };
    let span = HEXLOWER.encode(bytes(parent.as_str()).get(..8)?);
    (is_hex(&trace, 32) && is_hex(&span, 16)).then(|| format!("00-{trace}-{span}-{flags}"))
}

/// The `traceparent` of what a run of a workflow does, each time that it is run: of a trace that is made of the run's id.
pub fn traceparent_of_run(run: &RunId) -> Option<String> {
    let bytes = bytes(run.as_str());
    let (trace, span) = (HEXLOWER.encode(&bytes), HEXLOWER.encode(bytes.get(..8)?));
    (is_hex(&trace, 32) && is_hex(&span, 16)).then(|| format!("00-{trace}-{span}-00"))
}

/// Whether a text is a `traceparent` that a trace can go on from.
pub fn is_traceparent(text: &str) -> bool {
    parts(text).is_some()
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
fn bytes(id: &str) -> Vec<u8> {
    let text = id.split_once('_').map(|(_, text)| text).unwrap_or_default().to_ascii_uppercase();
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

    #[test]
    fn a_runs_trace_is_made_of_its_id_and_goes_on() {
        let made = traceparent_of_run(&RunId::random(&Ones(0xab))).unwrap();
        assert_eq!(made, format!("00-{}-{}-00", "ab".repeat(16), "ab".repeat(8)));
        assert!(is_traceparent(&made) && !is_traceparent("00-run"));
        let (root, parent) = (InvocationId::random(&Ones(0xcd)), InvocationId::random(&Ones(0x01)));
        let gone_on = format!("00-{}-{}-00", "ab".repeat(16), "01".repeat(8));
        assert_eq!(traceparent(Some(&made), &root, &parent), Some(gone_on));
        assert_eq!(traceparent_of_run(&RunId::random(&Ones(0))), None);
    }
}
