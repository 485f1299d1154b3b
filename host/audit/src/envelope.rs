//! One entry: the envelope that is chained, hashed and signed, and the body it commits to.
//!
//! Pure. An envelope is canonical JSON (RFC 8785) of at most 1 KiB and must never hold a value that could name a person:
//! actor and resource are keyed hashes under the tenant's audit key. The body holds the full event; it lies sealed in the
//! tenant's store, and the envelope keeps `SHA-256("host-audit/v1 body\n" || salt || body)`, so that destroying the
//! tenant's key leaves nothing to guess.
//!
//! The chain: `prev` of the first entry is `SHA-256("host-audit/v1 genesis\n" || origin)`, of every other entry
//! `SHA-256("host-audit/v1 link\n" || previous envelope)`. The prefixes are part of the format and never change.

use std::io;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::AuditError;
use crate::tree::{Hash, sha256};

/// LIMIT: largest envelope, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 1 << 10;
/// LIMIT: largest `details` of an event, in bytes of JSON; larger ones are trimmed and say so.
pub const DETAILS_BYTES_MAX: usize = 16 << 10;
/// LIMIT: the same of an entry about destroyed keys, which its receipt shows whole: 255 versions with names of 200 bytes.
pub(crate) const DESTROYED_BYTES_MAX: usize = 64 << 10;
/// LIMIT: longest text that a trimmed `details` keeps, in bytes.
const TRIMMED_TEXT_BYTES_MAX: usize = 256;
/// LIMIT: most members of an object or a list that a trimmed `details` keeps.
const TRIMMED_COUNT_MAX: usize = 16;
/// What most bodies fit into.
const BODY_BYTES_USUAL: usize = 2 << 10;
/// Largest whole number that JSON numbers carry exactly (RFC 8785, 3.2.2.3).
const EXACT_MAX: u64 = 1 << 53;

/// The chained part of an entry. INVARIANT: its fields stand in the order of their names, which is the canonical one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// OCSF action: 1 allowed, 2 denied.
    pub action_id: u8,
    /// OCSF activity within the class.
    pub activity_id: u8,
    /// Who, as a keyed hash, hex.
    pub actor_hmac: String,
    /// Salted commitment to the body, hex.
    pub body_sha256: String,
    /// OCSF class.
    pub class_uid: u32,
    /// Small stable code.
    pub code: String,
    /// Hash of the entry before, hex.
    pub prev: String,
    /// On what, as a keyed hash, hex.
    pub resource_hmac: String,
    /// Place in the log, from 0 without gaps.
    pub seq: u64,
    /// `Intended`, `Success`, `Failure` or `Unknown`.
    pub status: String,
    /// Whose log; `_platform` for the host's own.
    pub tenant_uid: String,
    /// Wall clock, milliseconds since 1970 UTC. Order is by `seq`; the clock may step back, and the body then says so.
    pub time: i64,
    /// Format version, 1.
    pub v: u8,
}

impl Envelope {
    /// The canonical text, the bytes that everything else is computed from.
    pub fn canonical(&self) -> Result<String, AuditError> {
        let exact = self.seq <= EXACT_MAX && self.time.unsigned_abs() <= EXACT_MAX;
        let text = if exact { serde_json::to_string(self) } else { serde_json_canonicalizer::to_string(self) };
        let text = text.map_err(|_| AuditError::Unrepresentable)?;
        if text.len() > ENVELOPE_BYTES_MAX { Err(AuditError::Unrepresentable) } else { Ok(text) }
    }
}

/// What the first entry of a log points back to.
pub fn genesis(origin: &str) -> Hash {
    sha256(&[b"host-audit/v1 genesis\n", origin.as_bytes()])
}

/// What an entry's successor points back to.
pub fn link(envelope: &str) -> Hash {
    sha256(&[b"host-audit/v1 link\n", envelope.as_bytes()])
}

/// Commitment to a body in canonical form.
pub fn commitment(salt: &[u8], body: &str) -> Hash {
    sha256(&[b"host-audit/v1 body\n", salt, body.as_bytes()])
}

/// Canonical text of a body.
pub fn canonical_body(body: &Value) -> Result<String, AuditError> {
    let mut text = Vec::with_capacity(BODY_BYTES_USUAL);
    if write_plain(body, &mut text)
        && let Ok(text) = String::from_utf8(text)
    {
        return Ok(text);
    }
    serde_json_canonicalizer::to_string(body).map_err(|_| AuditError::Unrepresentable)
}

/// Writes a value whose canonical form takes no more than sorting: names of ASCII, which sort by bytes as they do by UTF-16
/// units, and whole numbers that JSON carries exactly. False for any other, and then what was written is worth nothing.
fn write_plain(value: &Value, to: &mut Vec<u8>) -> bool {
    match value {
        Value::Array(items) => {
            to.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    to.push(b',');
                }
                if !write_plain(item, to) {
                    return false;
                }
            }
            to.push(b']');
            true
        }
        // As a body that was read from its canonical form has them.
        Value::Object(members) if members.keys().is_sorted() => write_members(members.iter(), to),
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            write_members(members.into_iter(), to)
        }
        Value::String(text) => write_text(text, to),
        Value::Number(number) => is_exact(number) && serde_json::to_writer(&mut *to, number).is_ok(),
        Value::Null | Value::Bool(_) => serde_json::to_writer(&mut *to, value).is_ok(),
    }
}

/// Writes an object of these members, which come in their order.
fn write_members<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, to: &mut Vec<u8>) -> bool {
    to.push(b'{');
    for (place, (name, item)) in members.enumerate() {
        if place > 0 {
            to.push(b',');
        }
        if !name.is_ascii() || !write_text(name, to) {
            return false;
        }
        to.push(b':');
        if !write_plain(item, to) {
            return false;
        }
    }
    to.push(b'}');
    true
}

/// Writes a text; one without anything to escape, as nearly all are, in one piece.
fn write_text(text: &str, to: &mut Vec<u8>) -> bool {
    // Without an early end, so that many bytes are looked at at once.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'));
    if !is_plain {
        return serde_json::to_writer(to, text).is_ok();
    }
    to.push(b'"');
    to.extend_from_slice(text.as_bytes());
    to.push(b'"');
    true
}

/// Whether a number is a whole one that JSON carries exactly.
fn is_exact(number: &Number) -> bool {
    let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    whole.is_some_and(|magnitude| magnitude <= EXACT_MAX)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Makes `details` fit to be recorded: whole numbers that JSON cannot carry exactly become text, and what is larger
/// than `bytes_max` is cut down, in the end to flags and numbers; the flag says whether anything was cut.
pub fn fit_details(mut details: Value, bytes_max: usize) -> (Value, bool) {
    make_exact(&mut details, 0);
    if size_of(&details) <= bytes_max {
        return (details, false);
    }
    let trimmed = trim(details, 0);
    if size_of(&trimmed) <= bytes_max {
        return (trimmed, true);
    }
    let flags = flags(trimmed);
    if size_of(&flags) <= bytes_max { (flags, true) } else { (Value::Object(Map::new()), true) }
}

/// SECURITY: what somebody makes too long to keep does not take with it what rules look for beside it.
fn flags(trimmed: Value) -> Value {
    let Value::Object(members) = trimmed else { return Value::Object(Map::new()) };
    members.into_iter().filter(|(_, value)| matches!(value, Value::Bool(_) | Value::Number(_))).collect()
}

fn size_of(value: &Value) -> usize {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, value).map_or(usize::MAX, |()| size.0)
}

/// Counts what is written to it.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn make_exact(value: &mut Value, depth: usize) {
    match value {
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if whole.is_some_and(|magnitude| magnitude > EXACT_MAX) {
                *value = Value::String(number.to_string());
            }
        }
        // LIMIT: 32 levels; no event of ours comes near, and a caller's JSON must not decide how deep we recurse.
        Value::Array(_) | Value::Object(_) if depth >= 32 => *value = Value::Null,
        Value::Array(items) => items.iter_mut().for_each(|item| make_exact(item, depth + 1)),
        Value::Object(members) => members.values_mut().for_each(|item| make_exact(item, depth + 1)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn trim(value: Value, depth: usize) -> Value {
    match value {
        Value::String(text) => Value::String(cut(&text, TRIMMED_TEXT_BYTES_MAX)),
        Value::Array(_) | Value::Object(_) if depth >= 3 => Value::Null,
        Value::Array(items) => items.into_iter().take(TRIMMED_COUNT_MAX).map(|item| trim(item, depth + 1)).collect(),
        Value::Object(members) => members
            .into_iter()
            .take(TRIMMED_COUNT_MAX)
            .map(|(name, item)| (cut(&name, TRIMMED_TEXT_BYTES_MAX), trim(item, depth + 1)))
            .collect(),
        other => other,
    }
}

/// The first `bytes_max` bytes of a text, at a character's border.
pub fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn oversized_details_are_cut_and_say_so() {
        let (small, trimmed) = fit_details(json!({"reason": "x".repeat(1000)}), DETAILS_BYTES_MAX);
        assert!(!trimmed);
        assert_eq!(small["reason"].as_str().unwrap().len(), 1000);
        let (large, trimmed) =
            fit_details(json!({"reason": "ä".repeat(20_000), "code": "too-large"}), DETAILS_BYTES_MAX);
        assert!(trimmed);
        assert_eq!(large["code"], "too-large");
        assert_eq!(large["reason"].as_str().unwrap().len(), 256);
    }

    #[test]
    fn what_is_too_long_to_keep_leaves_the_flags_beside_it() {
        let long = vec![vec!["x".repeat(256); 16]; 16];
        let (kept, trimmed) = fit_details(json!({"long": long, "weak": true, "count": 3}), DETAILS_BYTES_MAX);
        assert!(trimmed);
        assert_eq!(kept, json!({"weak": true, "count": 3}));
    }

    #[test]
    fn numbers_that_json_would_round_become_text() {
        let numbers = json!({"big": u64::MAX, "small": 5, "negative": i64::MIN, "real": 1.5});
        let (details, _) = fit_details(numbers, DETAILS_BYTES_MAX);
        assert_eq!(
            details,
            json!({"big": "18446744073709551615", "small": 5, "negative": "-9223372036854775808", "real": 1.5})
        );
    }

    fn envelope(seq: u64, time: i64, words: [String; 2]) -> Envelope {
        let [code, status] = words;
        Envelope {
            action_id: 1,
            activity_id: 99,
            actor_hmac: hex(&[1; 32]),
            body_sha256: hex(&[2; 32]),
            class_uid: 6003,
            code,
            prev: hex(&[3; 32]),
            resource_hmac: hex(&[4; 32]),
            seq,
            status,
            tenant_uid: "acme".to_owned(),
            time,
            v: 1,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            any::<i64>().prop_map(|number| json!(number)),
            any::<u64>().prop_map(|number| json!(number)),
            (-1_000_i64..1_000).prop_map(|number| json!(number)),
            any::<f64>().prop_map(|number| json!(number)),
            (EXACT_MAX - 2..EXACT_MAX + 3).prop_map(|number| json!(number)),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            number,
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            let name = prop_oneof!["[a-c_]{0,3}", any::<String>()];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::vec((name, inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_short_way_to_the_canonical_form_leads_to_the_same_text(value in value()) {
            prop_assert_eq!(canonical_body(&value).ok(), serde_json_canonicalizer::to_string(&value).ok());
        }

        #[test]
        fn an_envelope_is_written_in_canonical_form(seq in any::<u64>(), time in any::<i64>(), small in 0_u64..1_000,
            words in ["\\PC{0,20}", ".{0,20}"]) {
            for (seq, time) in [(seq, time), (small, 1_790_000_000_000)] {
                let envelope = envelope(seq, time, words.clone());
                let canonical = serde_json_canonicalizer::to_string(&envelope).unwrap();
                prop_assert_eq!(envelope.canonical().unwrap(), canonical);
            }
        }

        #[test]
        fn whatever_the_details_they_fit_afterwards(text in ".{0,200}", count in 0_usize..2000, depth in 0_usize..60) {
            let mut value = json!({"a": vec![text; count]});
            for _ in 0..depth {
                value = json!([value]);
            }
            let (fitted, _) = fit_details(value, DETAILS_BYTES_MAX);
            prop_assert!(size_of(&fitted) <= DETAILS_BYTES_MAX);
            prop_assert!(canonical_body(&fitted).is_ok());
        }
    }
}
