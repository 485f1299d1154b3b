//! Handing messages over: one task a queue says what may go and writes what happens (`writer.rs`), and a task each runs the
//! plugin.
//!
//! Must never delete a message before its plugin answered, nor count an attempt against it that never was one, nor let one
//! that was go uncounted: it is marked as begun before the plugin runs (`begun.rs`). However an attempt ends, also by a panic
//! of the host's, the writer is told: it waits for no clock.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use ringfence_core::PluginName;
use ringfence_engine::{EventContext, EventFailure, Export, RunError};
use ringfence_store::{Record, StoreError};

use super::core::Flight;
use super::message::{Head, messages_key};
use super::writer::{End, Over, STORE_WAIT_MS, Writer};
use super::{HOOKS_QUEUE, Queue};
use crate::closing::UnderWay;
use crate::hooks::POINT_VERSION;
use crate::{Automation, Call, CallError, Effects};

/// Longest time without a look at the clock: it may have been set.
const LOOK_MS_MAX: i64 = 5_000;
/// How long the end of an attempt waits for those that were begun with it, to be written with them.
const TOGETHER: Duration = Duration::from_millis(2);

impl Automation {
    /// Takes in, hands over and writes down until the queue is closed. After the end of the host was announced nothing is
    /// handed over any more; what is sent and what comes to its end is written all the same.
    pub(super) async fn tend_queue(self, queue: Arc<Queue>, mut writer: Writer) {
        while !queue.is_closed.load(Ordering::Acquire) {
            together(&queue, &writer).await;
            if let Some((begin, place)) = writer.round().await {
                for flight in begin {
                    let (this, queue, place) = (self.clone(), Arc::clone(&queue), Arc::clone(&place));
                    tokio::spawn(async move { this.hand_over(&queue, flight, place).await });
                }
            }
            if writer.has_letters() {
                continue;
            }
            let is_announced = self.closing.is_announced();
            let (now_ms, wake_at_ms) = (self.parts.clock.now().as_millisecond(), queue.core().wake_at_ms());
            // Whose time comes after the announcement is not handed over, so it need not be waited for.
            let wait_ms =
                wake_at_ms.filter(|_| !is_announced).map_or(LOOK_MS_MAX, |at_ms| at_ms.saturating_sub(now_ms));
            let wait = Duration::from_millis(u64::try_from(wait_ms.clamp(0, LOOK_MS_MAX)).unwrap_or(0));
            tokio::select! {
                () = self.closing.announced(), if !is_announced => {}
                _ = tokio::time::timeout(wait, queue.bell.notified()) => {}
            }
        }
        self.queues.remove(&queue);
    }

    async fn hand_over(&self, queue: &Queue, flight: Flight, place: Arc<UnderWay>) {
        let tried = AssertUnwindSafe(self.try_once(queue, &flight)).catch_unwind().await;
        // The host's own fault, and said on its log by the panic itself.
        let (message, end) = tried.unwrap_or_else(|_panic| (None, End::NotNow(STORE_WAIT_MS)));
        queue.is_over(Over { flight, message, end, place });
    }

    /// Reads the message and runs the plugin; what was handed over, and how that ended.
    async fn try_once(&self, queue: &Queue, flight: &Flight) -> (Option<(Record, Head)>, End) {
        match queue.store.get(&messages_key(&queue.name).number(flight.seq)).await {
            Ok(Some(record)) => match Head::unpack(&record.value) {
                Some((head, payload)) => {
                    let end = self.attempt(queue, flight, &head, payload).await;
                    (Some((record, head)), end)
                }
                // Not one of ours: it would come for ever.
                None => {
                    let (queue, seq) = (&queue.name, flight.seq);
                    tracing::error!(%queue, seq, "a message cannot be read and is left where it is");
                    (None, End::Nothing)
                }
            },
            Ok(None) => (None, End::Nothing),
            Err(StoreError::Gone) => {
                queue.close();
                (None, End::Nothing)
            }
            Err(_) => (None, End::NotNow(STORE_WAIT_MS)),
        }
    }

    /// Runs the plugin once.
    async fn attempt(&self, queue: &Queue, flight: &Flight, head: &Head, payload: &[u8]) -> End {
        let (plugin, export, name): (PluginName, _, String) = match (&head.hook, queue.spec().plugin) {
            (Some(target), _) => (target.plugin.clone(), Export::Hook, target.hook.clone()),
            (None, Some(plugin)) => (plugin, Export::Message, queue.name.clone()),
            (None, None) => return End::NotNow(60_000),
        };
        let cause = if queue.name == HOOKS_QUEUE { format!("hook/{name}") } else { format!("queue/{name}") };
        let Ok(principal) = self.workload(&queue.tenant, &plugin) else { return End::NotNow(60_000) };
        let mut attributes = vec![("from".to_owned(), head.from.clone())];
        attributes.extend(head.group.clone().map(|group| ("group".to_owned(), group)));
        let version = head.hook.as_ref().and_then(|target| target.version);
        attributes.extend(version.map(|version| (POINT_VERSION.to_owned(), version.to_string())));
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
            peer: None,
            cause,
            // Whoever sent it, where that was no plugin.
            trail: head.trail.clone().begun_by(head.from.parse().ok()),
            time_ms_max: Some(flight.visibility_ms),
            begin_until: Some(Duration::from_millis(flight.begin_until_ms)),
            effects: Effects::Real,
        };
        match self.call(call).await {
            Ok(done) => match done.answer {
                Ok(_) => End::Done,
                Err(EventFailure::Refused(why)) => End::Refused(why),
                Err(EventFailure::Retry(why) | EventFailure::Failed(why)) => End::Failed(why),
            },
            Err(error) => match error.passes_after_ms() {
                Some(wait_ms) => End::NotNow(i64::try_from(wait_ms.max(50)).unwrap_or(i64::MAX)),
                // Stopped by a suspension.
                None if matches!(error, CallError::Run(RunError::Killed)) => End::NotNow(1_000),
                None if matches!(error, CallError::Run(RunError::Overloaded | RunError::MemoryShare)) => {
                    End::NoRoom(format!("{}: {error}", error.code()))
                }
                // Nothing is deployed yet: that will be mended by a deploy, not by losing messages.
                None if matches!(error, CallError::NoPlugin) => End::NotNow(5_000),
                None => End::Failed(format!("{}: {error}", error.code())),
            },
        }
    }

    /// 0 to 1000.
    pub(super) fn draw(&self) -> u16 {
        let mut bytes = [0_u8; 2];
        self.parts.entropy.fill(&mut bytes);
        u16::from_le_bytes(bytes) % 1_001
    }
}

/// Waits for the attempts that were begun together, a moment, unless somebody waits for the writer.
async fn together(queue: &Queue, writer: &Writer) {
    let all = async {
        loop {
            let (over_count, flying_count) = (queue.over_count(), queue.core().flying_count());
            if over_count == 0 || over_count >= flying_count || writer.has_letters() {
                return;
            }
            queue.bell.notified().await;
        }
    };
    drop(tokio::time::timeout(TOGETHER, all).await);
}
