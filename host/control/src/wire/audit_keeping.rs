//! The wire types of an audit log's life: retention, shards, legal holds, erasures, keys.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The life of a log: how long it is kept, what is not there any more, what holds it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogLifeView {
    /// The log.
    pub origin: String,
    /// Days that a closed shard is kept, counted from the end of its last year.
    pub retention_days: u32,
    /// The least that may be set.
    pub retention_days_min: u32,
    /// The first entry that is there.
    pub first_seq: u64,
    /// Entries before this place have no body any more.
    pub bodies_from_seq: u64,
    /// When the next announced deletion begins, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletes_at: Option<String>,
    /// One shard for each year, the oldest first.
    pub shards: Vec<ShardView>,
    /// What stands for the deleted part; a check of the rest begins with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beginning: Option<BeginningView>,
    /// The legal holds, the oldest first.
    pub holds: Vec<HoldView>,
}

/// The entries of a year.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ShardView {
    /// The year it began in, UTC.
    pub year: i16,
    /// The last year that an entry of it is of.
    pub last_year: i16,
    /// Its first entry.
    pub from_seq: u64,
    /// The entry after its last; absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// `open`, `closed`, `deleting` or `deleted`.
    pub state: String,
    /// Its signed final head (C2SP checkpoint); absent while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

/// What stands for the deleted part of a log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BeginningView {
    /// The first entry that is there.
    pub size: u64,
    /// Roots of the complete subtrees before it, largest first, hexadecimal.
    pub peaks: Vec<String>,
    /// The signed final head of the youngest shard of which something is deleted.
    pub final_checkpoint: String,
}

/// `PUT /audit/retention`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRetention {
    /// Days that a closed shard is kept.
    pub retention_days: u32,
}

/// A legal hold.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HoldView {
    /// Its name.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub by: String,
    /// `operator` or `tenant`: whose people set it, and so whose people lift it.
    pub side: String,
    /// When, RFC 3339.
    pub at: String,
    /// Who wants it lifted, when somebody does; another of the same side within a day lifts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lift_asked_by: Option<String>,
}

/// `POST /audit/holds`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHold {
    /// Why, at most 1 KiB.
    pub reason: String,
}

/// `POST /audit/erasures`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewErasure {
    /// Place of the entry: an event of the application.
    pub seq: u64,
    /// Why, at most 1 KiB.
    pub reason: String,
}

/// What came of one person's word.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgreementView {
    /// `asked`, and another person must say the same within a day; or `done`.
    pub state: String,
}

/// The keys of a log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogKeysView {
    /// The log.
    pub origin: String,
    /// Who signs now (C2SP vkey).
    pub vkey: String,
    /// Who signed before, the newest first.
    pub before: Vec<String>,
    /// Who cosigns now with ML-DSA-44 (C2SP vkey); absent while post-quantum cosignatures are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosigner_vkey: Option<String>,
    /// The changes, the oldest first.
    pub changes: Vec<KeyChangeView>,
}

/// That a log goes on under another key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeyChangeView {
    /// The key before.
    pub old_vkey: String,
    /// The key after.
    pub new_vkey: String,
    /// Place of the entry about it.
    pub seq: u64,
    /// When, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// The log's head right after that entry, signed by both.
    pub checkpoint: String,
}

/// `POST /audit/keys/rotate`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogKeyRotated {
    /// The new key of the host's own log (C2SP vkey); each tenant's log has the same key under its own name.
    pub vkey: String,
    /// Which key it is, counted from 1.
    pub generation: u32,
    /// For so many days the key before signs along.
    pub overlap_days: i64,
}
