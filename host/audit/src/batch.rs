//! Invocations that need no entry of their own, counted: one entry a second or every 500 invocations, whichever is first.
//!
//! Never blocks the caller and never grows with the number of invocations: counts by plugin, version, status and code, a
//! sum of usage, and the Merkle root over the invocation ids, so that a single invocation can later be shown to be in.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringfence_core::Usage;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::InvocationSummary;
use crate::envelope::hex;
use crate::tree::{Frontier, leaf_hash};

/// Longest time that an invocation waits to be recorded while the store answers.
pub const BATCH_TIME_MAX: Duration = Duration::from_secs(1);
/// Invocations after which a batch is recorded at once.
pub const BATCH_COUNT_MAX: u64 = 500;
/// LIMIT: kinds (plugin, version, status, code) told apart in one batch; further ones are counted together as `other`.
const KINDS_COUNT_MAX: usize = 128;
/// LIMIT: longest version label or code kept, in bytes.
const WORD_BYTES_MAX: usize = 64;

/// What distinguishes one count from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    plugin: String,
    version: String,
    status: u16,
    code: Option<String>,
    /// The plugin that called it, when one did.
    called_by: Option<String>,
}

/// The invocations since the last entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    kinds: BTreeMap<Kind, u64>,
    ids: Frontier,
    usage: Usage,
}

impl Counts {
    fn add(&mut self, summary: &InvocationSummary) {
        let mut kind = Kind {
            plugin: summary.plugin.to_string(),
            version: crate::envelope::cut(&summary.version, WORD_BYTES_MAX),
            status: summary.status,
            code: summary.code.as_deref().map(|code| crate::envelope::cut(code, WORD_BYTES_MAX)),
            called_by: summary.called_by.as_ref().map(ToString::to_string),
        };
        if self.kinds.len() >= KINDS_COUNT_MAX && !self.kinds.contains_key(&kind) {
            kind = Kind { plugin: "other".to_owned(), version: String::new(), status: 0, code: None, called_by: None };
        }
        *self.kinds.entry(kind).or_default() += 1;
        self.ids.push(leaf_hash(summary.invocation.as_str().as_bytes()));
        let (sum, one) = (&mut self.usage, &summary.usage);
        sum.cpu_us = sum.cpu_us.saturating_add(one.cpu_us);
        sum.wall_us = sum.wall_us.saturating_add(one.wall_us);
        sum.memory_bytes_peak = sum.memory_bytes_peak.max(one.memory_bytes_peak);
        sum.response_bytes = sum.response_bytes.saturating_add(one.response_bytes);
        sum.log_bytes = sum.log_bytes.saturating_add(one.log_bytes);
        sum.host_calls_count = sum.host_calls_count.saturating_add(one.host_calls_count);
        sum.outgoing_count = sum.outgoing_count.saturating_add(one.outgoing_count);
    }

    /// The `details` of the batch's entry.
    pub(crate) fn details(&self) -> Value {
        let counts: Vec<Value> = self
            .kinds
            .iter()
            .map(|(kind, count)| {
                let mut row =
                    json!({"plugin": kind.plugin, "version": kind.version, "status": kind.status, "count": count});
                let more = [("code", &kind.code), ("called_by", &kind.called_by)];
                for (name, value) in more {
                    if let (Some(value), Some(row)) = (value, row.as_object_mut()) {
                        row.insert(name.to_owned(), Value::String(value.clone()));
                    }
                }
                row
            })
            .collect();
        json!({"invocations": self.ids.size(), "ids_root": hex(&self.ids.root()), "counts": counts, "usage": self.usage})
    }
}

/// One log's batch, shared by those who call [`Batch::add`] and the writer that records it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    counts: Counts,
    due: Option<Instant>,
}

impl Batch {
    /// Counts one invocation; never waits for the store.
    pub(crate) fn add(&self, summary: &InvocationSummary) {
        let mut waiting = self.lock();
        waiting.counts.add(summary);
        let full = waiting.counts.ids.size() == BATCH_COUNT_MAX;
        let first = waiting.due.is_none();
        if first {
            waiting.due = Some(Instant::now() + BATCH_TIME_MAX);
        }
        if full {
            waiting.due = Some(Instant::now());
        }
        drop(waiting);
        if first || full {
            self.changed.notify_one();
        }
    }

    /// Resolves when there is something to record and it is time.
    pub(crate) async fn due(&self) {
        loop {
            let due = self.lock().due;
            match due {
                None => self.changed.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }

    /// Takes what was counted; `None` when nothing was.
    pub(crate) fn take(&self) -> Option<Counts> {
        let mut waiting = self.lock();
        waiting.due.take()?;
        Some(std::mem::take(&mut waiting.counts))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A panic while counting leaves whole numbers behind: going on is better than losing every later count.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
