//! What one invocation may spend, and what it spent.
//!
//! A budget is made from the plugin's manifest, cut down to the host's ceilings; the engine enforces it.

use serde::{Deserialize, Serialize};

use crate::manifest::BudgetAsk;

/// What one invocation may spend. Every field is enforced; reaching one ends the invocation or refuses the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// CPU time of the guest, microseconds. Over it: `budget-cpu`.
    pub cpu_us: u64,
    /// Wall time from slot to last byte, milliseconds. Over it: `budget-time`.
    pub time_ms: u64,
    /// Sum of all linear memories, tables and bytes the host holds for the guest. Over it: growth is refused, then `budget-memory`.
    pub memory_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Bytes of guest log.
    pub log_bytes: u64,
    /// Calls to capabilities of the host (key-value, config, secrets, logging, outgoing HTTP).
    pub host_calls_count: u64,
    /// Outgoing requests.
    pub outgoing_count: u64,
}

impl Budget {
    /// What a plugin gets when its manifest asks for nothing.
    pub const DEFAULT: Self = Self {
        cpu_us: 50_000,
        time_ms: 10_000,
        memory_bytes: 64 << 20,
        response_bytes: 16 << 20,
        log_bytes: 64 << 10,
        host_calls_count: 10_000,
        outgoing_count: 16,
    };

    /// The most any plugin can have, whatever it asks for.
    pub const CEILING: Self = Self {
        cpu_us: 5_000_000,
        time_ms: 60_000,
        memory_bytes: 256 << 20,
        response_bytes: 64 << 20,
        log_bytes: 1 << 20,
        host_calls_count: 100_000,
        outgoing_count: 64,
    };

    /// What a fresh component gets to show that it starts: no grants, little of everything.
    pub const REHEARSAL: Self = Self {
        cpu_us: 2_000_000,
        time_ms: 10_000,
        memory_bytes: 256 << 20,
        response_bytes: 0,
        log_bytes: 4 << 10,
        host_calls_count: 0,
        outgoing_count: 0,
    };

    /// The defaults with what the manifest asks for, never above `ceiling`.
    pub fn from_ask(ask: &BudgetAsk, ceiling: &Self) -> Self {
        Self {
            cpu_us: ask.cpu_ms.map_or(Self::DEFAULT.cpu_us, |ms| ms.saturating_mul(1_000)).min(ceiling.cpu_us),
            time_ms: ask.time_ms.unwrap_or(Self::DEFAULT.time_ms).min(ceiling.time_ms),
            memory_bytes: ask
                .memory_mib
                .map_or(Self::DEFAULT.memory_bytes, |mib| mib.saturating_mul(1 << 20))
                .min(ceiling.memory_bytes),
            response_bytes: Self::DEFAULT.response_bytes.min(ceiling.response_bytes),
            log_bytes: Self::DEFAULT.log_bytes.min(ceiling.log_bytes),
            host_calls_count: Self::DEFAULT.host_calls_count.min(ceiling.host_calls_count),
            outgoing_count: Self::DEFAULT.outgoing_count.min(ceiling.outgoing_count),
        }
    }
}

/// What one invocation spent. Fields that a record from before does not have read as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// CPU time of the guest, microseconds.
    pub cpu_us: u64,
    /// Wall time, microseconds.
    pub wall_us: u64,
    /// Highest sum of memories, tables and host-side bytes.
    pub memory_bytes_peak: u64,
    /// That sum integrated over wall time, byte-microseconds: a byte held for a microsecond is 1.
    #[serde(with = "decimal")]
    pub memory_byte_us: u128,
    /// Bytes of the request's body that were taken from the caller.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Bytes of guest log written.
    pub log_bytes: u64,
    /// Calls to host capabilities.
    pub host_calls_count: u64,
    /// Outgoing requests.
    pub outgoing_count: u64,
    /// Bytes of bodies sent with outgoing requests.
    pub egress_out_bytes: u64,
    /// Bytes of bodies received in answer to outgoing requests.
    pub egress_in_bytes: u64,
    /// Operations on stored values, one for each key that is read, written, deleted, asked for or swapped, and for each page.
    pub storage_ops_count: u64,
}

/// Products of bytes and time as decimal text: readers of JSON may hold numbers as doubles, which are exact to 2^53 only.
pub mod decimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the digits.
    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads the digits.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("not a decimal number"))
    }
}
