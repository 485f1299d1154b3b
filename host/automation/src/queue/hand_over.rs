//! Handing messages over: one task a queue takes what may go, and a task each runs the plugin and makes its end durable.
//!
//! Must never delete a message before its plugin answered, nor count an attempt against it that never was one, nor let one
//! that was go uncounted: it is marked as begun before the plugin runs (`begun.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringfence_core::PluginName;
use ringfence_engine::{EventContext, EventFailure, Export, RunError};
use ringfence_store::{Op, Precondition, Record, StoreError, TenantState};

use super::core::Fate;
use super::message::{Head, begun_key, dead_key, messages_key};
use super::{HOOKS_QUEUE, Queue};
use crate::closing::UnderWay;
use crate::{Automation, Call, CallError, Effects};

/// Longest time without a look at the clock: it may have been set.
const LOOK_MS_MAX: i64 = 5_000;
/// Wait after the store could not be written.
const STORE_WAIT_MS: i64 = 1_000;
/// Wait while nothing of the tenant is run, should nobody say when that is over.
const SHUT_WAIT_MS: i64 = 5_000;

/// How an attempt ended.
enum End {
    Done,
    /// Counted against it; the text is kept.
    Failed(String),
    /// It will never do.
    Refused(String),
    /// Nothing was run, and it is not the message's doing.
    NotNow(u64),
}

impl Automation {
    /// Hands over what may go until the queue is closed or the host ends.
    pub(crate) async fn tend_queue(self, queue: Arc<Queue>) {
        while !queue.is_closed.load(Ordering::Acquire) {
            let Some(place) = self.closing.begin() else { return };
            let now_ms = self.parts.clock.now().as_millisecond();
            let taken: Vec<u64> = {
                let mut core = queue.core();
                for lost in core.overdue(now_ms) {
                    tracing::warn!(queue = %queue.name, seq = lost, "a message did not come back and goes again");
                    core.put_back(lost, now_ms);
                }
                std::iter::from_fn(|| core.take(now_ms)).collect()
            };
            if taken.is_empty() {
                drop(place);
            } else {
                self.hand_over_all(&queue, taken, Arc::new(place)).await;
            }
            let (now_ms, wake_at_ms) = (self.parts.clock.now().as_millisecond(), queue.core().wake_at_ms());
            let wait_ms = wake_at_ms.map_or(LOOK_MS_MAX, |at_ms| at_ms.saturating_sub(now_ms).clamp(0, LOOK_MS_MAX));
            let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
            tokio::select! {
                () = self.closing.announced() => return,
                _ = tokio::time::timeout(wait, queue.bell.notified()) => {}
            }
        }
    }

    /// Marks what was taken, durably, and then runs the plugin for each beside the others.
    async fn hand_over_all(&self, queue: &Arc<Queue>, taken: Vec<u64>, place: Arc<UnderWay>) {
        let put_back = |wait_ms| taken.iter().for_each(|seq| self.later(queue, *seq, wait_ms));
        // What cannot be run now is no attempt, and nothing to put on record every time.
        if queue.store.state() == TenantState::Suspended {
            return put_back(SHUT_WAIT_MS);
        }
        match self.mark_begun(queue, &taken).await {
            Ok(()) => {}
            Err(StoreError::Gone) => return queue.close(),
            Err(StoreError::KeyDisabled | StoreError::KeyRefused) => return put_back(SHUT_WAIT_MS),
            Err(_) => return put_back(STORE_WAIT_MS),
        }
        for seq in taken {
            let (this, queue, place) = (self.clone(), Arc::clone(queue), Arc::clone(&place));
            tokio::spawn(async move {
                this.hand_over(&queue, seq).await;
                queue.bell.notify_one();
                drop(place);
            });
        }
    }

    async fn hand_over(&self, queue: &Queue, seq: u64) {
        let key = messages_key(&queue.name).number(seq);
        let record = match queue.store.get(&key).await {
            Ok(Some(record)) => record,
            Ok(None) => {
                self.unmark(queue, seq).await;
                return queue.core().gone(seq);
            }
            Err(StoreError::Gone) => return queue.close(),
            Err(_) => return self.later(queue, seq, STORE_WAIT_MS),
        };
        let Some((head, end)) = self.attempt(queue, &record).await else {
            // Not one of ours: it would come for ever.
            tracing::error!(queue = %queue.name, seq, "a message cannot be read and is left where it is");
            self.unmark(queue, seq).await;
            return queue.core().gone(seq);
        };
        let (why, fate) = match end {
            End::NotNow(wait_ms) => {
                self.unmark(queue, seq).await;
                return self.later(queue, seq, i64::try_from(wait_ms).unwrap_or(i64::MAX));
            }
            End::Done => {
                let ops = vec![Op::delete(key.clone()), Op::delete(begun_key(&queue.name).number(seq))];
                let deleted = queue.store.batch(ops, vec![Precondition::Revision(key, record.revision)]).await;
                return match deleted {
                    Ok(_) => queue.core().gone(seq),
                    // It was done and will be done again: at least once.
                    Err(_) => self.later(queue, seq, STORE_WAIT_MS),
                };
            }
            End::Refused(why) => (why, Fate::Dead),
            End::Failed(why) => {
                let now_ms = self.parts.clock.now().as_millisecond();
                (why, queue.core().fate(seq, now_ms, self.draw()))
            }
        };
        self.failed(queue, &record, Head { last_error: Some(why), ..head }, fate).await;
    }

    /// Makes durable what becomes of a message whose attempt failed, and then lets it go on so.
    async fn failed(&self, queue: &Queue, record: &Record, mut head: Head, fate: Fate) {
        let seq = head.seq;
        let (key, mark) = (messages_key(&queue.name).number(seq), begun_key(&queue.name).number(seq));
        let payload = Head::unpack(&record.value).map(|(_, payload)| payload).unwrap_or_default();
        let kept_as = match fate {
            Fate::Again { due_ms, failed_count } => {
                (head.due_ms, head.failed_count) = (due_ms, failed_count);
                key.clone()
            }
            Fate::Dead => {
                head.failed_count = head.failed_count.saturating_add(1);
                head.died_at = Some(self.parts.clock.now());
                dead_key(&queue.name).number(seq)
            }
        };
        let written = match head.pack(payload) {
            Ok(packed) => {
                let mut ops = vec![Op::delete(mark), Op::put(kept_as, packed)];
                ops.extend((fate == Fate::Dead).then(|| Op::delete(key.clone())));
                queue.store.batch(ops, vec![Precondition::Revision(key, record.revision)]).await.is_ok()
            }
            Err(_) => false,
        };
        match fate {
            _ if !written => self.later(queue, seq, STORE_WAIT_MS),
            Fate::Again { due_ms, failed_count } => queue.core().again(seq, due_ms, failed_count),
            Fate::Dead => queue.core().gone(seq),
        }
    }

    /// Nothing was run: that is no attempt.
    async fn unmark(&self, queue: &Queue, seq: u64) {
        if let Err(error) = queue.store.delete(&begun_key(&queue.name).number(seq)).await {
            tracing::debug!(queue = %queue.name, %error, "the mark of a message that was not run stays");
        }
    }

    /// Runs the plugin once. None for a record that is no message.
    async fn attempt(&self, queue: &Queue, record: &Record) -> Option<(Head, End)> {
        let (head, payload) = Head::unpack(&record.value)?;
        let (plugin, export, name): (PluginName, _, String) = match (&head.hook, queue.spec().plugin) {
            (Some(target), _) => (target.plugin.clone(), Export::Hook, target.hook.clone()),
            (None, Some(plugin)) => (plugin, Export::Message, queue.name.clone()),
            (None, None) => return Some((head, End::NotNow(60_000))),
        };
        let cause = if queue.name == HOOKS_QUEUE { format!("hook/{name}") } else { format!("queue/{name}") };
        let Ok(principal) = self.workload(&queue.tenant, &plugin) else { return Some((head, End::NotNow(60_000))) };
        let mut attributes = vec![("from".to_owned(), head.from.clone())];
        attributes.extend(head.group.clone().map(|group| ("group".to_owned(), group)));
        let call = Call {
            tenant: queue.tenant.clone(),
            plugin,
            version: None,
            export,
            payload: payload.to_vec(),
            context: EventContext {
                name,
                id: queue.id(head.seq),
                attempt: head.failed_count.saturating_add(1),
                at: head.at.to_string(),
                attributes,
            },
            principal,
            cause,
            time_ms_max: Some(queue.spec().rules.visibility_ms),
            effects: Effects::Real,
        };
        let end = match self.call(call).await {
            Ok(done) => match done.answer {
                Ok(_) => End::Done,
                Err(EventFailure::Refused(why)) => End::Refused(why),
                Err(EventFailure::Retry(why) | EventFailure::Failed(why)) => End::Failed(why),
            },
            Err(error) => match error.passes_after_ms() {
                Some(wait_ms) => End::NotNow(wait_ms.max(50)),
                // Stopped by a suspension.
                None if matches!(error, CallError::Run(RunError::Killed)) => End::NotNow(1_000),
                // Nothing is deployed yet: that will be mended by a deploy, not by losing messages.
                None if matches!(error, CallError::NoPlugin) => End::NotNow(5_000),
                None => End::Failed(format!("{}: {error}", error.code())),
            },
        };
        Some((head, end))
    }

    fn later(&self, queue: &Queue, seq: u64, wait_ms: i64) {
        let due_ms = self.parts.clock.now().as_millisecond().saturating_add(wait_ms);
        queue.core().put_back(seq, due_ms);
    }

    /// 0 to 1000.
    fn draw(&self) -> u16 {
        let mut bytes = [0_u8; 2];
        self.parts.entropy.fill(&mut bytes);
        u16::from_le_bytes(bytes) % 1_001
    }
}
