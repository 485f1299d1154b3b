//! Queues: durable, sealed, of one tenant each. What goes when is `core.rs`; this is the shell that keeps and hands over.
//!
//! At least once: a message is deleted after its plugin answered, never before. INVARIANT: what is in memory follows what
//! is durable, so a kill at any moment only makes a message come again. Must never let one queue wait for another: each has
//! a task of its own, and the scheduler decides between tenants.

mod begun;
pub mod core;
mod dead;
mod hand_over;
pub mod message;
mod open;
pub(crate) mod writer;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use ringfence_capabilities::{Letter, PostError, Postbox};
use ringfence_core::{PluginName, PrincipalId, QueueName, TenantId};
use ringfence_store::{Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};

use self::core::Core;
pub use self::core::Rules;
pub use self::dead::{DeadLetter, Letters};
use self::message::{PAYLOAD_BYTES_MAX, messages_key, once_key, queue_key};
use self::writer::{Over, Reply, Sending};
use crate::{Automation, AutomationError};

/// LIMIT: queues of one tenant.
pub const QUEUES_COUNT_MAX: usize = 32;
/// LIMIT: messages of one queue, of all its plugins.
const DEPTH_COUNT_MAX: u64 = 200_000;
/// LIMIT: messages of one queue handed over at the same time, to all its plugins.
const CONCURRENCY_COUNT_MAX: u32 = 64;
/// LIMIT: attempts.
const ATTEMPTS_MAX: u32 = 100;
/// LIMIT: longest wait of any kind, milliseconds: 30 days.
const WAIT_MS_MAX: u64 = 30 * 86_400_000;
/// LIMIT: longest idempotency key or name of a group, bytes.
const WORD_BYTES_MAX: usize = 200;
/// Highest priority; 4 is usual.
pub const PRIORITY_MAX: u8 = 9;
/// Priority of what says none.
const PRIORITY_USUAL: u8 = 4;
/// How long a message is taken once only under its key.
const ONCE_MS: i64 = 86_400_000;
/// LIMIT: longest wait for a place before a queue's writer.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// Such keys looked at together when old ones are thrown away.
const SWEPT_COUNT: usize = 500;
/// The host's own queue of a tenant, for extension points that notify.
pub(crate) const HOOKS_QUEUE: &str = QueueName::HOOKS;

/// A queue as its tenant describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSpec {
    /// Who takes its messages; none while they only gather.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginName>,
    /// How it goes about it.
    #[serde(flatten)]
    pub rules: Rules,
    /// Whether it hands over nothing for now.
    #[serde(default)]
    pub paused: bool,
}

/// A queue as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// Its name.
    pub name: String,
    /// As described.
    pub spec: QueueSpec,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: PrincipalId,
}

/// A queue and how it stands.
#[derive(Debug, Clone)]
pub struct QueueState {
    /// As it is kept.
    pub record: QueueRecord,
    /// Messages, those handed over included.
    pub depth_count: u64,
    /// Messages handed over now.
    pub running_count: u64,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// Whether it was there already, under its idempotency key.
    pub is_repeat: bool,
}

/// A queue that is open.
pub(crate) struct Queue {
    pub(crate) tenant: TenantId,
    pub(crate) store: TenantStore,
    pub(crate) name: String,
    pub(crate) spec: Mutex<QueueSpec>,
    pub(crate) core: Mutex<Core>,
    /// Rung when there may be something to do.
    pub(crate) bell: Notify,
    pub(crate) is_closed: AtomicBool,
    /// The way to its writer.
    letters: mpsc::Sender<Sending>,
    /// Attempts that are over, for its writer; as many as are handed over at most.
    over: Mutex<Vec<Over>>,
}

/// The open queues, by tenant's uid and name.
#[derive(Default)]
pub(crate) struct Queues(Mutex<HashMap<(String, String), Arc<Queue>>>);

/// What is kept under an idempotency key.
#[derive(Debug, Serialize, Deserialize)]
struct Once {
    seq: u64,
    at_ms: i64,
}

impl Rules {
    /// Whether they can be followed.
    pub fn check(&self) -> Result<(), AutomationError> {
        let in_range = [
            ("concurrency_count", u64::from(self.concurrency_count), 1, u64::from(CONCURRENCY_COUNT_MAX)),
            ("attempts_max", u64::from(self.attempts_max), 1, u64::from(ATTEMPTS_MAX)),
            ("visibility_ms", self.visibility_ms, 1_000, WAIT_MS_MAX),
            ("backoff_ms", self.backoff_ms, 1, WAIT_MS_MAX),
            ("backoff_ms_max", self.backoff_ms_max, self.backoff_ms, WAIT_MS_MAX),
            ("depth_count_max", self.depth_count_max, 1, DEPTH_COUNT_MAX),
        ];
        match in_range.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((what, _, least, most)) => Err(AutomationError::BadQueue(format!("`{what}` is {least} to {most}"))),
            None => Ok(()),
        }
    }

    /// What a queue is like of which nothing else was said.
    pub const USUAL: Self = Self {
        concurrency_count: 4,
        attempts_max: 5,
        visibility_ms: 120_000,
        backoff_ms: 1_000,
        backoff_ms_max: 300_000,
        depth_count_max: 10_000,
    };
}

// === impl Queue ===

impl Queue {
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spec(&self) -> QueueSpec {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    /// Tells its writer of an attempt that is over.
    fn is_over(&self, over: Over) {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).push(over);
        self.bell.notify_one();
    }

    fn take_over(&self) -> Vec<Over> {
        std::mem::take(&mut *self.over.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn over_count(&self) -> u64 {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Whether there is room for another message.
    fn check_room(&self) -> Result<(), AutomationError> {
        if self.core().has_room(&None) { Ok(()) } else { Err(AutomationError::QueueFull { retry_after_ms: 1_000 }) }
    }

    /// Gives its writer something to do, and waits until that is durable.
    pub(crate) async fn ask_writer<T>(&self, sending: impl FnOnce(Reply<T>) -> Sending) -> Result<T, AutomationError> {
        let (reply, answer) = oneshot::channel();
        match tokio::time::timeout(ROOM_WAIT, self.letters.send(sending(reply))).await {
            Ok(Ok(())) => self.bell.notify_one(),
            Ok(Err(_)) => return Err(AutomationError::NotFound("queue")),
            Err(_) => return Err(StoreError::Busy.into()),
        }
        // Its writer went away with the queue.
        answer.await.unwrap_or(Err(AutomationError::NotFound("queue")))
    }

    pub(crate) fn id(&self, seq: u64) -> String {
        format!("{}/{seq}", self.name)
    }
}

// === impl Queues ===

impl Queues {
    pub(crate) fn get(&self, store: &TenantStore, name: &str) -> Option<Arc<Queue>> {
        self.lock().get(&(store.uid(), name.to_owned())).cloned()
    }
    /// Takes an open queue in; false when it was opened by somebody else meanwhile, whose it stays.
    pub(crate) fn insert(&self, queue: &Arc<Queue>) -> bool {
        match self.lock().entry((queue.store.uid(), queue.name.clone())) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Arc::clone(queue));
                true
            }
        }
    }
    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        self.lock().values().cloned().collect()
    }
    pub(crate) fn of(&self, store: &TenantStore) -> Vec<Arc<Queue>> {
        let uid = store.uid();
        self.lock().iter().filter(|((of, _), _)| *of == uid).map(|(_, queue)| Arc::clone(queue)).collect()
    }
    pub(crate) fn close_of(&self, store: &TenantStore) {
        for queue in self.of(store) {
            queue.close();
            self.remove(&queue);
        }
    }
    /// Lets go of a queue; one that was opened under its name since stays.
    pub(crate) fn remove(&self, queue: &Queue) {
        if let Entry::Occupied(place) = self.lock().entry((queue.store.uid(), queue.name.clone()))
            && std::ptr::eq(place.get().as_ref(), queue)
        {
            place.remove();
        }
    }
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Queue>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Automation {
    /// The tenant's queues, with how they stand; the host's own one too, once there is something in it.
    pub async fn queues(&self, store: &TenantStore) -> Result<Vec<QueueState>, AutomationError> {
        let page = store.scan(&message::queues_key(), None, QUEUES_COUNT_MAX * 2).await?;
        let mut states = Vec::new();
        for (_, record) in page.records {
            states.push(self.state_of(store, record.json()?));
        }
        states.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(states)
    }

    /// One queue.
    pub async fn queue(&self, store: &TenantStore, name: &QueueName) -> Result<QueueState, AutomationError> {
        let record = store.get_json(&queue_key(name.as_str())).await?.ok_or(AutomationError::NotFound("queue"))?;
        Ok(self.state_of(store, record))
    }

    /// Makes a queue or changes one; what it holds stays.
    pub async fn set_queue(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        name: &str,
        spec: QueueSpec,
        by: &PrincipalId,
    ) -> Result<QueueState, AutomationError> {
        spec.rules.check()?;
        if name == HOOKS_QUEUE && spec.plugin.is_some() {
            let why = "what is in `_hooks` is for the plugins that are bound, so it has none of its own";
            return Err(AutomationError::BadQueue(why.to_owned()));
        }
        let _one = self.changing.lock().await;
        let before: Option<QueueRecord> = store.get_json(&queue_key(name)).await?;
        if before.is_none() && name != HOOKS_QUEUE {
            let queues = self.queues(store).await?;
            if queues.iter().filter(|queue| queue.record.name != HOOKS_QUEUE).count() >= QUEUES_COUNT_MAX {
                return Err(AutomationError::TooMany { what: "queues", max: QUEUES_COUNT_MAX });
            }
        }
        let (created_at, created_by) = before
            .map_or_else(|| (self.parts.clock.now(), by.clone()), |before| (before.created_at, before.created_by));
        let record = QueueRecord { name: name.to_owned(), spec: spec.clone(), created_at, created_by };
        store.put_json(&queue_key(name), &record).await?;
        match self.queues.get(store, name) {
            Some(queue) => {
                let mut core = queue.core();
                core.set_rules(spec.rules);
                if spec.paused || spec.plugin.is_none() && name != HOOKS_QUEUE {
                    core.pause()
                } else {
                    core.resume()
                }
                drop(core);
                *queue.spec.lock().unwrap_or_else(PoisonError::into_inner) = spec;
                queue.bell.notify_one();
            }
            None => self.open_queue(tenant, store, &record).await?,
        }
        Ok(self.state_of(store, record))
    }

    /// Deletes a queue with all that is in it. One whose deletion was cut in the middle, by a kill or the store, is there with
    /// what is left of it, takes nothing until it is opened again, and is deleted by who asks once more.
    pub async fn delete_queue(&self, store: &TenantStore, name: &QueueName) -> Result<(), AutomationError> {
        let _one = self.changing.lock().await;
        let name = name.as_str();
        if store.get(&queue_key(name)).await?.is_none() {
            return Err(AutomationError::NotFound("queue"));
        }
        if let Some(queue) = self.queues.get(store, name) {
            queue.close();
            self.queues.remove(&queue);
        }
        // Without its marks nothing of it is written any more, however late its writer learns of this.
        store.delete(&message::begun_key(name)).await?;
        let below = [messages_key(name), message::dead_key(name), once_key(name)];
        for prefix in &below {
            crate::store::delete_below(store, prefix).await?;
        }
        // INVARIANT: last, so that a kill leaves nothing below no record, where nobody sees it and a queue made under the name
        // would find it. Also without the marks of who opened the tenant meanwhile.
        store.batch(vec![Op::delete(queue_key(name)), Op::delete(message::begun_key(name))], Vec::new()).await?;
        if let Some(queue) = self.queues.get(store, name) {
            queue.close();
            self.queues.remove(&queue);
            // What that one took.
            for prefix in &below {
                crate::store::delete_below(store, prefix).await?;
            }
        }
        Ok(())
    }

    /// Puts a message into a queue; resolves when it is durable.
    pub async fn send(&self, store: &TenantStore, from: &str, letter: Letter) -> Result<Sent, AutomationError> {
        let queue = self.queues.get(store, letter.queue.as_str()).ok_or(AutomationError::NotFound("queue"))?;
        check(&letter)?;
        queue.check_room()?;
        let from = from.to_owned();
        queue.ask_writer(|reply| Sending::Letter { letter, from, reply }).await
    }

    /// What kept a tenant's messages from being handed over may be gone.
    pub(crate) fn hurry_queues(&self, store: &TenantStore) {
        let now_ms = self.parts.clock.now().as_millisecond();
        for queue in self.queues.of(store) {
            queue.core().hurry(now_ms);
            queue.bell.notify_one();
        }
    }

    /// Throws away the keys of a queue under which messages were taken more than a day ago. Gives how many.
    pub(crate) async fn sweep_once(&self, queue: &Queue) -> Result<u64, StoreError> {
        let now_ms = self.parts.clock.now().as_millisecond();
        let (mut count, mut after) = (0_u64, None);
        loop {
            let page = queue.store.scan(&once_key(&queue.name), after.as_ref(), SWEPT_COUNT).await?;
            let (mut ops, mut preconditions) = (Vec::new(), Vec::new());
            for (key, record) in page.records {
                let Ok(once) = record.json::<Once>() else { continue };
                if now_ms.saturating_sub(once.at_ms) >= ONCE_MS {
                    // One that is taken anew at this moment stays, and the rest of its page until the next round.
                    preconditions.push(Precondition::Revision(key.clone(), record.revision));
                    ops.push(Op::delete(key));
                }
            }
            count = count.saturating_add(ops.len() as u64);
            if !ops.is_empty() {
                queue.store.batch(ops, preconditions).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }

    fn state_of(&self, store: &TenantStore, record: QueueRecord) -> QueueState {
        let queue = self.queues.get(store, &record.name);
        let counts = queue.map(|queue| {
            let core = queue.core();
            (core.depth(), core.flying_count())
        });
        let (depth_count, running_count) = counts.unwrap_or_default();
        QueueState { record, depth_count, running_count }
    }
}

fn check(letter: &Letter) -> Result<(), AutomationError> {
    let bad = |why: String| Err(AutomationError::BadQueue(why));
    if letter.payload.len() > PAYLOAD_BYTES_MAX {
        return bad(format!("a message is at most {PAYLOAD_BYTES_MAX} bytes"));
    }
    if letter.priority > PRIORITY_MAX {
        return bad(format!("`priority` is 0 to {PRIORITY_MAX}"));
    }
    if letter.delay_ms > WAIT_MS_MAX {
        return bad(format!("`delay_ms` is at most {WAIT_MS_MAX}"));
    }
    let is_word = |word: &Option<String>| word.as_ref().is_none_or(|word| (1..=WORD_BYTES_MAX).contains(&word.len()));
    if !is_word(&letter.group) || !is_word(&letter.idempotency_key) {
        return bad(format!("`group` and `idempotency_key` are 1 to {WORD_BYTES_MAX} bytes"));
    }
    Ok(())
}

impl Postbox for Automation {
    fn send(
        &self,
        store: &TenantStore,
        from: &PluginName,
        letter: Letter,
    ) -> BoxFuture<'static, Result<String, PostError>> {
        let (this, store, from) = (self.clone(), store.clone(), format!("{}/plugin/{from}", store.label()));
        Box::pin(async move {
            let sent = Self::send(&this, &store, &from, letter).await;
            sent.map(|sent| sent.id).map_err(|error| match error {
                AutomationError::NotFound(_) => PostError::NoQueue,
                AutomationError::QueueFull { retry_after_ms } => PostError::Full { retry_after_ms },
                AutomationError::BadQueue(why) => PostError::Invalid(why),
                AutomationError::Store(StoreError::Quota { .. }) => {
                    PostError::Invalid("the tenant's storage is used up".to_owned())
                }
                _ => PostError::Unavailable,
            })
        })
    }
}
