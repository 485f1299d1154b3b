//! A message as it is kept: a head and the payload behind it, in one sealed record.
//!
//! Layout: length of the head (4 bytes, little-endian), the head as JSON, the payload. Must never trust a length it read.

use std::sync::Arc;

use jiff::Timestamp;
use ringfence_capabilities::Trail;
use ringfence_core::PluginName;
use ringfence_store::Key;
use serde::{Deserialize, Serialize};

use super::core::Item;
use crate::AutomationError;

/// LIMIT: most bytes of a payload.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// What is kept of a message beside its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its place.
    pub seq: u64,
    /// Who sent it: a principal.
    pub from: String,
    /// When.
    pub at: Timestamp,
    /// Higher goes first.
    pub priority: u8,
    /// Not before, milliseconds since 1970.
    pub due_ms: i64,
    /// Attempts that failed.
    #[serde(default)]
    pub failed_count: u32,
    /// Messages of one group go one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What led to it; unknown of messages that were kept before it was.
    #[serde(default, skip_serializing_if = "Trail::is_empty")]
    pub trail: Trail,
    /// To whom, when it is not the queue's own plugin: a notified hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookTarget>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died_at: Option<Timestamp>,
}

/// The plugin that a notifying extension point tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTarget {
    /// The point.
    pub hook: String,
    /// The plugin.
    pub plugin: PluginName,
    /// The version of the point under which it was asked; none of what an earlier host took in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

impl HookTarget {
    /// The lane of its messages in the host's queue.
    pub fn lane(&self) -> Arc<str> {
        Arc::from(self.plugin.as_str())
    }
}

impl Head {
    /// What the queue's order needs of it.
    pub fn item(&self) -> Item {
        Item {
            seq: self.seq,
            priority: self.priority,
            due_ms: self.due_ms,
            failed_count: self.failed_count,
            group: self.group.as_deref().map(Arc::from),
            lane: self.hook.as_ref().map(HookTarget::lane),
        }
    }

    /// Head and payload in one.
    pub fn pack(&self, payload: &[u8]) -> Result<Vec<u8>, AutomationError> {
        let head =
            serde_json::to_vec(self).map_err(|_| AutomationError::BadQueue("the message has no form".to_owned()))?;
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        Ok([&length.to_le_bytes(), head.as_slice(), payload].concat())
    }

    /// The two again; none for what is not one.
    pub fn unpack(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (head, payload) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some((serde_json::from_slice(head).ok()?, payload))
    }
}

/// Where a queue's description is.
pub fn queue_key(queue: &str) -> Key {
    Key::new(["queue", queue])
}
/// Where all of them are.
pub fn queues_key() -> Key {
    Key::new(["queue"])
}
/// Where a queue's messages are.
pub fn messages_key(queue: &str) -> Key {
    Key::new(["queue-message", queue])
}
/// Where its dead ones are.
pub fn dead_key(queue: &str) -> Key {
    Key::new(["queue-dead", queue])
}
/// Where it is marked which messages are handed over now.
pub fn begun_key(queue: &str) -> Key {
    Key::new(["queue-begun", queue])
}
/// Where the keys are under which messages were taken once.
pub fn once_key(queue: &str) -> Key {
    Key::new(["queue-once", queue])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> Head {
        Head {
            seq: 7,
            from: "acme/ci".into(),
            at: Timestamp::UNIX_EPOCH,
            priority: 4,
            due_ms: 0,
            failed_count: 0,
            group: Some("g".into()),
            trail: Trail::default(),
            hook: None,
            last_error: None,
            died_at: None,
        }
    }

    proptest! {
        #[test]
        fn a_message_survives_its_form(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let packed = head().pack(&payload).unwrap();
            prop_assert_eq!(Head::unpack(&packed), Some((head(), payload.as_slice())));
        }
        #[test]
        fn anything_else_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Head::unpack(&bytes);
        }
    }

    #[test]
    fn what_led_to_a_message_is_kept_and_one_from_before_that_was_is_read() {
        let trail: Trail = serde_json::from_str(
            r#"{"by":{"root":"i_aaaaaaaaaaaaaaaaaaaaaaaaaa","parent":"i_bbbbbbbbbbbbbbbbbbbbbbbbbb"},"messages_count":2}"#,
        )
        .unwrap();
        let led = Head { trail, ..head() };
        assert_eq!(Head::unpack(&led.pack(b"{}").unwrap()), Some((led, b"{}".as_slice())));
        let before = concat!(
            r#"{"seq":7,"from":"acme/ci","at":"1970-01-01T00:00:00Z","priority":4,"due_ms":0,"#,
            r#""failed_count":0,"group":"g"}"#,
        );
        let length = u32::try_from(before.len()).unwrap().to_le_bytes();
        let packed = [length.as_slice(), before.as_bytes(), b"{}".as_slice()].concat();
        assert_eq!(Head::unpack(&packed), Some((head(), b"{}".as_slice())));
        assert_eq!(head().pack(b"{}").unwrap(), packed, "one that nothing led to is written as before");
    }

    #[test]
    fn a_length_that_lies_is_none() {
        assert_eq!(Head::unpack(&[255, 255, 255, 255, 1, 2]), None);
        assert_eq!(Head::unpack(&[1, 0]), None);
    }
}
