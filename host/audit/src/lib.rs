//! Append-only, hash-chained, signed audit log per tenant: write, list, sign, verify.
//!
//! Must never acknowledge an entry that is not durable, and never show one tenant's log to another. In both walks it is
//! what stands around every effect: an intent before it and an outcome after it. Layout: [`Audit`] is the outside,
//! `writer` the one appender of each log, [`envelope`] and [`tree`] and [`note`] the pure format, [`verify`] the check
//! that anyone can run offline.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod application;
mod audit;
mod batch;
mod beginning;
mod body;
mod classes;
pub mod codes;
mod columns;
mod copies;
pub mod cosign;
pub mod decisions;
pub mod destruction;
mod destructions;
pub mod entries;
pub mod envelope;
mod erasure;
mod error;
mod event;
pub mod export;
mod exports;
mod feed;
pub mod heads;
mod hold;
mod host_denials;
mod invocation;
mod key_change;
mod look;
mod metering;
pub mod mirror;
pub mod note;
mod paced;
pub mod proof;
mod proofs;
pub mod receipt;
mod receipts;
mod redact;
mod repair;
mod retention;
mod ring;
mod shards;
mod shelf;
mod signed;
mod state;
mod storage;
mod table;
mod terms;
pub mod tiles;
mod times;
pub mod tree;
mod usage_sum;
pub mod verify;
pub mod witness;
mod writer;

pub use audit::{Audit, Intent, stored_entry};
pub use beginning::Beginning;
pub use columns::SCHEMA as PARQUET_SCHEMA;
pub use copies::Copied;
pub use destructions::DestructionRef;
pub use error::AuditError;
pub use event::{Checkpoint, Entry, Event, InvocationSummary, Log, Outcome, Receipt};
pub use exports::{EXPORT_COUNT_MAX, Selection};
pub use feed::{Committed, FEED_COUNT_MAX, Feed, Told};
pub use hold::{Agreed, Asked, HOLDS_COUNT_MAX, Hold, HoldSide, REASON_BYTES_MAX, SecondPerson};
pub use host_denials::{HostDenial, HostDenials};
pub use invocation::{Called, InvocationFacts, InvocationFailure, Recorder};
pub use key_change::{KeyChange, Trust};
pub use look::Shown;
pub use metering::{INVOCATIONS_KEPT_MAX, InvocationRecord, Metering, TENANTS_TOLD_MAX, Totals};
pub use paced::{BEAT, FEW_A_MINUTE, ONE_A_MINUTE, Paced, Refusals, SOME_A_MINUTE};
pub use receipts::ReceiptRef;
pub use redact::{is_for_admins, redact, sees_all};
pub use repair::{Repaired, repair};
pub use retention::{GRACE_DAYS, Life, Swept};
pub use ring::{LogKeys, OVERLAP_DAYS};
pub use shards::{Shard, stored_beginning};
pub use terms::{PostQuantum, RETENTION_DAYS, RETENTION_DAYS_MAX, Terms};
pub use usage_sum::{Day, DayError, UsageSum};
