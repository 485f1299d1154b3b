//! The marks of the messages that are handed over: durable before the plugin runs, gone with the attempt's end. One record a
//! queue names all of them, and `writer.rs` alone writes it while the queue is open.
//!
//! A mark that is found when a queue opens is of an attempt that the end of the host cut: it counts like one that failed, so
//! that a message which brings the host down each time dies as others do. Must never count what the host cut in order.

use std::collections::BTreeSet;

use ringfence_store::{Op, StoreError, TenantStore};

use super::QueueRecord;
use super::message::{Head, begun_key, dead_key, messages_key};
use crate::{Automation, AutomationError};

/// What is kept of why such an attempt failed.
const CUT: &str = "the host ended while the message was handed over";

impl Automation {
    /// Takes the marks of what is still handed over away, at an end of the host that was announced: long work that met it
    /// is not at fault. Nothing of these queues is written after that.
    pub(crate) async fn unmark_cut_messages(&self) {
        for queue in self.queues.all() {
            if queue.core().flying_count() == 0 {
                continue;
            }
            if let Err(error) = unmark(&queue.store, &queue.name).await {
                tracing::warn!(queue = %queue.name, %error, "attempts that the end of the host cuts are counted");
            }
        }
    }

    /// Counts the attempts that were cut, each once; what was tried often enough is dead. Gives the revision of the record of
    /// marks, which has none then.
    pub(super) async fn count_cut_attempts(
        &self,
        store: &TenantStore,
        queue: &QueueRecord,
    ) -> Result<u64, AutomationError> {
        let key = begun_key(&queue.name);
        let mut ops = Vec::new();
        if let Some(record) = store.get(&key).await? {
            let cut: BTreeSet<u64> = record.json()?;
            if cut.is_empty() {
                return Ok(record.revision);
            }
            for seq in cut {
                ops.extend(self.counted(store, queue, seq).await?);
            }
        }
        ops.push(Op::put_json(key, &BTreeSet::<u64>::new())?);
        match store.with_reserve().batch(ops, Vec::new()).await {
            Ok(commit) => Ok(commit.revision),
            // Counting makes records longer. A queue must open all the same.
            Err(StoreError::Quota { .. }) => Ok(unmark(store, &queue.name).await?),
            Err(error) => Err(error.into()),
        }
    }

    /// What a message becomes whose attempt was cut; nothing when it is gone.
    async fn counted(&self, store: &TenantStore, queue: &QueueRecord, seq: u64) -> Result<Vec<Op>, AutomationError> {
        let key = messages_key(&queue.name).number(seq);
        let Some(record) = store.get(&key).await? else { return Ok(Vec::new()) };
        let Some((mut head, payload)) = Head::unpack(&record.value) else { return Ok(Vec::new()) };
        head.failed_count = head.failed_count.saturating_add(1);
        head.last_error = Some(CUT.to_owned());
        if head.failed_count < queue.spec.rules.attempts_max {
            return Ok(vec![Op::put(key, head.pack(payload)?)]);
        }
        head.died_at = Some(self.parts.clock.now());
        let dead = dead_key(&queue.name).number(seq);
        Ok(vec![Op::delete(key), Op::put(dead, head.pack(payload)?)])
    }
}

/// Writes that nothing of a queue is handed over; the revision of the record that says so.
pub(super) async fn unmark(store: &TenantStore, queue: &str) -> Result<u64, StoreError> {
    store.put_json(&begun_key(queue), &BTreeSet::<u64>::new()).await.map(|commit| commit.revision)
}
