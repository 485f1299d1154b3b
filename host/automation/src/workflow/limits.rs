//! Every hard cap of durable workflows, with its unit last.
//!
//! Must never be the only place where a cap is named: each is enforced where it is used.

/// LIMIT: most events of one run's history. A run that needs more continues as a new one.
pub const HISTORY_EVENTS_COUNT_MAX: usize = 50_000;
/// LIMIT: events kept back for the end of a run that has reached the limit: what people do to it, and its ending.
pub const HISTORY_EVENTS_COUNT_RESERVE: usize = 256;
/// LIMIT: most bytes of one run's history.
pub const HISTORY_BYTES_MAX: u64 = 32 << 20;
/// LIMIT: most bytes of an input, a result, a signal or another text of one event.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// LIMIT: longest name of a step, signal, query, attribute or workflow, and longest key of a signal, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// LIMIT: longest error message that is kept, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 2_000;
/// LIMIT: most branches of one fork.
pub const BRANCHES_COUNT_MAX: u32 = 256;
/// LIMIT: most children of one run.
pub const CHILDREN_COUNT_MAX: usize = 1_000;
/// LIMIT: deepest nesting of children.
pub const CHILD_DEPTH_MAX: u32 = 8;
/// LIMIT: runs that have not ended, of all that one run and its descendants began.
pub const FAMILY_COUNT_MAX: u64 = 10_000;
/// LIMIT: bytes of an entry that may be written from the reserve of a tenant whose storage is full.
pub const RESERVED_BYTES_MAX: usize = 8 << 10;
/// LIMIT: most signals of one run that nobody has waited for yet.
pub const SIGNALS_WAITING_COUNT_MAX: usize = 1_000;
/// LIMIT: keys of signals that were taken, of which a run that goes on for others knows; the last.
pub const SIGNAL_KEYS_COUNT_MAX: usize = 1_000;
/// LIMIT: most attributes, and most published values, of one run.
pub const ATTRIBUTES_COUNT_MAX: usize = 16;
/// LIMIT: longest value of an attribute, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;
/// LIMIT: runs that are looked at, one after another, for the newest that one went on as: only of those that were begun before the
/// first of them knew the newest.
pub const CONTINUATIONS_COUNT_MAX: usize = 10_000;
/// LIMIT: most attempts of one step.
pub const ATTEMPTS_COUNT_MAX: u32 = 100;
/// LIMIT: longest sleep, wait and pause between attempts (ten years), milliseconds.
pub const WAIT_MS_MAX: u64 = 10 * 366 * 24 * 3_600 * 1_000;
/// How long an ended run is kept where nobody says otherwise, milliseconds (30 days); see `Workflows::set_retention`.
pub const RETENTION_MS: u64 = 30 * 24 * 3_600 * 1_000;
/// LIMIT: runs of one tenant that are driven at the same time.
pub const DRIVEN_PER_TENANT_COUNT_MAX: usize = 16;
/// LIMIT: most transitions of one entry of the audit log.
pub const TRANSITIONS_COUNT_MAX: usize = 64;
/// LIMIT: most bytes of them as JSON: the log trims entries over 16 KiB.
pub const TRANSITIONS_BYTES_MAX: usize = 12 << 10;
