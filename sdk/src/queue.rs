//! Queues of the tenant (`ringfence:plugin/queue`): messages for other plugins, each queue granted by name.
//!
//! Must never say that a message was taken before the host did.

use crate::bindings::ringfence::plugin::queue;
use crate::{Call, FromHost, HostError, Result};

/// Puts messages into queues.
#[derive(Debug)]
pub struct Queues(());

/// How a message is to be handed over; [`Delivery::usual`] is at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Within a day a second message under the same key is not taken.
    pub idempotency_key: Option<String>,
    /// Not before so many milliseconds from now.
    pub delay_ms: u64,
    /// 0 to 9; higher goes first.
    pub priority: u8,
    /// Messages of one group go one after another, in order.
    pub group: Option<String>,
}

impl Delivery {
    /// At once, with no key and no group.
    pub fn usual() -> Self {
        Self { idempotency_key: None, delay_ms: 0, priority: 4, group: None }
    }
}

impl FromHost for Queues {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self(()))
    }
}

impl Queues {
    /// Puts bytes into a queue and gives the message's id, once it is durable.
    pub fn send_bytes(&self, queue: &str, payload: &[u8], delivery: Delivery) -> Result<String, HostError> {
        let Delivery { idempotency_key, delay_ms, priority, group } = delivery;
        let options = queue::Options { idempotency_key, delay_ms, priority, group };
        queue::send(queue, payload, &options).map_err(|error| match error {
            queue::Error::Denied(_) => HostError::Denied(format!("queue `{queue}`")),
            queue::Error::Full(wait_ms) => HostError::Failed(format!("queue `{queue}` is full for {wait_ms} ms")),
            queue::Error::Invalid(why) | queue::Error::Other(why) => {
                HostError::Failed(format!("queue `{queue}`: {why}"))
            }
        })
    }

    /// Puts a value as JSON into a queue.
    #[cfg(feature = "json")]
    pub fn send(&self, queue: &str, message: &impl serde::Serialize, delivery: Delivery) -> Result<String> {
        Ok(self.send_bytes(queue, &serde_json::to_vec(message)?, delivery)?)
    }
}
