//! Opening queues: what is durable is read into memory, and a task takes it from there.
//!
//! Must never hand anything over before all of the queue is known: an earlier message of a group could still be unread.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use ringfence_core::TenantId;
use ringfence_store::{Segment, TenantStore};
use tokio::sync::{Notify, mpsc};

use super::core::Core;
use super::message::{Head, dead_key, messages_key, queues_key};
use super::writer::{LETTERS_WAITING_COUNT_MAX, Writer};
use super::{HOOKS_QUEUE, Queue, QueueRecord, QueueSpec, Rules};
use crate::{Automation, AutomationError};

/// Records read in one go.
const PAGE_COUNT: usize = 1_000;

impl Automation {
    /// Opens all queues of a tenant.
    pub(crate) async fn open_queues(&self, tenant: &TenantId, store: &TenantStore) -> Result<(), AutomationError> {
        let mut after = None;
        loop {
            let page = store.scan(&queues_key(), after.as_ref(), PAGE_COUNT).await?;
            for (_, record) in &page.records {
                let record: QueueRecord = record.json()?;
                if self.queues.get(store, &record.name).is_none() {
                    self.open_queue(tenant, store, &record).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    pub(crate) async fn open_queue(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        record: &QueueRecord,
    ) -> Result<(), AutomationError> {
        // One opens it: who came second would take what runs for cut by a kill.
        let _one = self.opening.lock().await;
        if self.queues.get(store, &record.name).is_some() {
            return Ok(());
        }
        let spec = record.spec.clone();
        let revision = self.count_cut_attempts(store, record).await?;
        let mut core = Core::new(spec.rules);
        if spec.paused || spec.plugin.is_none() && record.name != HOOKS_QUEUE {
            core.pause();
        }
        let mut last_seq = 0;
        let mut after = None;
        loop {
            let page = store.scan(&messages_key(&record.name), after.as_ref(), PAGE_COUNT).await?;
            for (_, message) in &page.records {
                if let Some((head, _)) = Head::unpack(&message.value) {
                    last_seq = last_seq.max(head.seq);
                    core.insert(head.item());
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let newest_dead = store.scan_back(&dead_key(&record.name), None, 1).await?;
        if let Some(Segment::Number(seq)) = newest_dead.records.first().and_then(|(key, _)| key.segments().last()) {
            last_seq = last_seq.max(*seq);
        }
        let (letters, coming) = mpsc::channel(LETTERS_WAITING_COUNT_MAX);
        let queue = Arc::new(Queue {
            tenant: tenant.clone(),
            store: store.clone(),
            name: record.name.clone(),
            spec: Mutex::new(spec),
            core: Mutex::new(core),
            bell: Notify::new(),
            is_closed: AtomicBool::new(false),
            letters,
            over: Mutex::default(),
        });
        if self.queues.insert(&queue) {
            let writer = Writer::new(self.clone(), Arc::clone(&queue), coming, revision, last_seq);
            tokio::spawn(self.clone().tend_queue(queue, writer));
        }
        Ok(())
    }

    /// The tenant's queue for extension points that notify; made when it is first needed.
    pub(crate) async fn hooks_queue(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
    ) -> Result<Arc<Queue>, AutomationError> {
        if let Some(queue) = self.queues.get(store, HOOKS_QUEUE) {
            return Ok(queue);
        }
        let by = self.workload(tenant, &"hooks".parse().map_err(|_| AutomationError::NotFound("queue"))?)?;
        let spec = QueueSpec { plugin: None, rules: Rules::USUAL, paused: false };
        self.set_queue(tenant, store, HOOKS_QUEUE, spec, by.id()).await?;
        self.queues.get(store, HOOKS_QUEUE).ok_or(AutomationError::NotFound("queue"))
    }
}
