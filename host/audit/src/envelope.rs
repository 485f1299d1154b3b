//! One entry: the envelope that is chained, hashed and signed, and the body it commits to.
//!
//! Pure. An envelope is canonical JSON (RFC 8785) of at most 1 KiB and must never hold a value that could name a person:
//! actor and resource are keyed hashes under the tenant's audit key. The body holds the full event; it lies sealed in the
//! tenant's store, and the envelope keeps `SHA-256("host-audit/v1 body\n" || salt || body)`, so that destroying the
//! tenant's key leaves nothing to guess.
//!
//! The chain: `prev` of the first entry is `SHA-256("host-audit/v1 genesis\n" || origin)`, of every other entry
//! `SHA-256("host-audit/v1 link\n" || previous envelope)`. The prefixes are part of the format and never change.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::AuditError;
use crate::tree::Hash;

/// LIMIT: largest envelope, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 1 << 10;
/// LIMIT: largest `details` of an event, in bytes of JSON; larger ones are trimmed and say so.
pub const DETAILS_BYTES_MAX: usize = 16 << 10;
/// LIMIT: longest text that a trimmed `details` keeps, in bytes.
const TRIMMED_TEXT_BYTES_MAX: usize = 256;
/// LIMIT: most members of an object or a list that a trimmed `details` keeps.
const TRIMMED_COUNT_MAX: usize = 16;
/// Largest whole number that JSON numbers carry exactly (RFC 8785, 3.2.2.3).
const EXACT_MAX: u64 = 1 << 53;

/// The chained part of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Format version, 1.
    pub v: u8,
    /// Place in the log, from 0 without gaps.
    pub seq: u64,
    /// Hash of the entry before, hex.
    pub prev: String,
    /// Whose log; `_platform` for the host's own.
    pub tenant_uid: String,
    /// Wall clock, milliseconds since 1970 UTC. Order is by `seq`; the clock may step back, and the body then says so.
    pub time: i64,
    /// OCSF class.
    pub class_uid: u32,
    /// OCSF activity within the class.
    pub activity_id: u8,
    /// `Intended`, `Success`, `Failure` or `Unknown`.
    pub status: String,
    /// OCSF action: 1 allowed, 2 denied.
    pub action_id: u8,
    /// Who, as a keyed hash, hex.
    pub actor_hmac: String,
    /// On what, as a keyed hash, hex.
    pub resource_hmac: String,
    /// Salted commitment to the body, hex.
    pub body_sha256: String,
    /// Small stable code.
    pub code: String,
}

impl Envelope {
    /// The canonical text, the bytes that everything else is computed from.
    pub fn canonical(&self) -> Result<String, AuditError> {
        let text = serde_json_canonicalizer::to_string(self).map_err(|_| AuditError::Unrepresentable)?;
        if text.len() > ENVELOPE_BYTES_MAX { Err(AuditError::Unrepresentable) } else { Ok(text) }
    }
}

/// What the first entry of a log points back to.
pub fn genesis(origin: &str) -> Hash {
    prefixed("host-audit/v1 genesis\n", &[origin.as_bytes()])
}

/// What an entry's successor points back to.
pub fn link(envelope: &str) -> Hash {
    prefixed("host-audit/v1 link\n", &[envelope.as_bytes()])
}

/// Commitment to a body in canonical form.
pub fn commitment(salt: &[u8], body: &str) -> Hash {
    prefixed("host-audit/v1 body\n", &[salt, body.as_bytes()])
}

/// Canonical text of a body.
pub fn canonical_body(body: &Value) -> Result<String, AuditError> {
    serde_json_canonicalizer::to_string(body).map_err(|_| AuditError::Unrepresentable)
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Makes `details` fit to be recorded: whole numbers that JSON cannot carry exactly become text, and what is larger
/// than [`DETAILS_BYTES_MAX`] is cut down; the flag says whether anything was cut.
pub fn fit_details(details: Value) -> (Value, bool) {
    let details = exact(details, 0);
    if size_of(&details) <= DETAILS_BYTES_MAX {
        return (details, false);
    }
    let trimmed = trim(details, 0);
    if size_of(&trimmed) <= DETAILS_BYTES_MAX { (trimmed, true) } else { (Value::Object(Map::new()), true) }
}

fn size_of(value: &Value) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |text| text.len())
}

fn exact(value: Value, depth: usize) -> Value {
    match value {
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match whole {
                Some(magnitude) if magnitude > EXACT_MAX => Value::String(number.to_string()),
                _ => Value::Number(number),
            }
        }
        // LIMIT: 32 levels; no event of ours comes near, and a caller's JSON must not decide how deep we recurse.
        Value::Array(_) | Value::Object(_) if depth >= 32 => Value::Null,
        Value::Array(items) => items.into_iter().map(|item| exact(item, depth + 1)).collect(),
        Value::Object(members) => members.into_iter().map(|(name, item)| (name, exact(item, depth + 1))).collect(),
        other => other,
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

fn prefixed(prefix: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new_with_prefix(prefix);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn oversized_details_are_cut_and_say_so() {
        let (small, trimmed) = fit_details(json!({"reason": "x".repeat(1000)}));
        assert!(!trimmed);
        assert_eq!(small["reason"].as_str().unwrap().len(), 1000);
        let (large, trimmed) = fit_details(json!({"reason": "ä".repeat(20_000), "code": "too-large"}));
        assert!(trimmed);
        assert_eq!(large["code"], "too-large");
        assert_eq!(large["reason"].as_str().unwrap().len(), 256);
    }

    #[test]
    fn numbers_that_json_would_round_become_text() {
        let (details, _) = fit_details(json!({"big": u64::MAX, "small": 5, "negative": i64::MIN, "real": 1.5}));
        assert_eq!(
            details,
            json!({"big": "18446744073709551615", "small": 5, "negative": "-9223372036854775808", "real": 1.5})
        );
    }

    proptest! {
        #[test]
        fn whatever_the_details_they_fit_afterwards(text in ".{0,200}", count in 0_usize..2000, depth in 0_usize..60) {
            let mut value = json!({"a": vec![text; count]});
            for _ in 0..depth {
                value = json!([value]);
            }
            let (fitted, _) = fit_details(value);
            prop_assert!(size_of(&fitted) <= DETAILS_BYTES_MAX);
            prop_assert!(canonical_body(&fitted).is_ok());
        }
    }
}
