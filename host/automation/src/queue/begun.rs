//! Marks of the messages that are handed over: durable before the plugin runs, gone with the attempt's end.
//!
//! A mark that is found when a queue opens is of an attempt that the end of the host cut: it counts like one that failed, so
//! that a message which brings the host down each time dies as others do. Must never count what the host cut in order.

use ringfence_store::{Op, Precondition, Segment, StoreError, TenantStore};

use super::message::{Head, begun_key, dead_key, messages_key, queue_key};
use super::{Queue, QueueRecord};
use crate::{Automation, AutomationError};

/// Marks looked at together.
const PAGE_COUNT: usize = 200;
/// What is kept of why such an attempt failed.
const CUT: &str = "the host ended while the message was handed over";

impl Automation {
    /// Marks messages that are handed over now, with one write for all of them.
    pub(super) async fn mark_begun(&self, queue: &Queue, seqs: &[u64]) -> Result<(), StoreError> {
        let ops = seqs.iter().map(|seq| Op::put(begun_key(&queue.name).number(*seq), Vec::new())).collect();
        queue.store.batch(ops, vec![Precondition::Present(queue_key(&queue.name))]).await.map(drop)
    }

    /// Takes the marks of what is still handed over away, at an end of the host that was announced: long work that met it
    /// is not at fault.
    pub(crate) async fn unmark_cut_messages(&self) {
        for queue in self.queues.all() {
            let flying: Vec<u64> = queue.core().flying().collect();
            if flying.is_empty() {
                continue;
            }
            let ops = flying.iter().map(|seq| Op::delete(begun_key(&queue.name).number(*seq))).collect();
            if let Err(error) = queue.store.batch(ops, Vec::new()).await {
                tracing::warn!(queue = %queue.name, %error, "attempts that the end of the host cuts are counted");
            }
        }
    }

    /// Counts the attempts that were cut, each once; what was tried often enough is dead.
    pub(super) async fn count_cut_attempts(
        &self,
        store: &TenantStore,
        queue: &QueueRecord,
    ) -> Result<(), AutomationError> {
        loop {
            let page = store.scan(&begun_key(&queue.name), None, PAGE_COUNT).await?;
            if page.records.is_empty() {
                return Ok(());
            }
            let mut ops = Vec::with_capacity(page.records.len() * 3);
            for (mark, _) in page.records {
                if let Some(Segment::Number(seq)) = mark.segments().last() {
                    ops.extend(self.counted(store, queue, *seq).await?);
                }
                ops.push(Op::delete(mark));
            }
            match store.batch(ops, Vec::new()).await {
                Ok(_) => {}
                // Counting makes records longer. A queue must open all the same, and the marks stay for the next time.
                Err(StoreError::Quota { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
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
