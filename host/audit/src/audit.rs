//! The audit log of the host and of each tenant: record, bracket, count, list, sign.
//!
//! INVARIANT: no entry, no effect. [`Audit::record`] and [`Audit::intent`] resolve only when the entry is durable; when
//! they fail, what they were about must not happen. Must never hand out a body to another tenant: a log is reached
//! through the tenant's own store view only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::{Clock, Entropy};
use ringfence_store::{TenantStore, Tenants};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::anchor::Standing;
use crate::batch::Batch;
use crate::copies::Copied;
use crate::entries::Entries;
use crate::envelope::hex;
use crate::feed::{Feed, Publisher};
use crate::note::SignedHead;
use crate::ring::Ring;
use crate::state::State;
use crate::terms::Terms;
use crate::tree::leaf_hash;
use crate::witness::Witness;
use crate::writer::{self, Command, Draft, Phase, QUEUE_COUNT_MAX, Shared, WRITE_TIME_MAX, Writer};
use crate::{AuditError, Checkpoint, Entry, Event, InvocationSummary, Log, Outcome, Receipt};

/// LIMIT: most entries one call of [`Audit::list`] gives.
const LIST_COUNT_MAX: usize = ringfence_core::limits::PAGE_COUNT_MAX;

/// The audit logs. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    tenants: Tenants,
    origin_host: String,
    runtime: tokio::runtime::Handle,
    writers: Mutex<HashMap<String, Handle>>,
    /// One round of covering at a time.
    covering: tokio::sync::Mutex<()>,
    anchors: Standing,
    /// What each witness has signed for, as far as this run knows.
    seen: Mutex<HashMap<String, u64>>,
    /// One at a time: setting and lifting holds, deleting, erasing, changing keys.
    keeping: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
pub(crate) struct Handle {
    log: Log,
    commands: mpsc::Sender<Command>,
    batch: Arc<Batch>,
    /// Entries that the log of logs covers; 0 when that is not known.
    covered: Arc<AtomicU64>,
    /// When its turn to be covered was last, as one more than the leaves of the log of logs then; 0 for never.
    turn: Arc<AtomicU64>,
    /// Whether the log's second place took what it was last asked to take.
    takes: Arc<AtomicBool>,
}

/// An act that was announced. Say how it ended with [`Intent::outcome`]; when dropped without, the log says that nobody
/// knows.
#[must_use = "an announced act needs its outcome"]
pub struct Intent {
    audit: Audit,
    log: Log,
    event: Event,
    receipt: Receipt,
    open: bool,
}

impl Audit {
    /// Opens the logs of the host and of every tenant, and checks the end of each against its stored head. Must be called
    /// inside a runtime, where the writers then live.
    ///
    /// `origin_host` names this host in every log's name, `<origin_host>/audit/tenant/<tenant>`; it must stay the same for
    /// good. A broken host log is an error here; a tenant's broken log is reported and refuses entries until it is mended.
    pub async fn open(
        tenants: Tenants,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        origin_host: String,
    ) -> Result<Self, AuditError> {
        Self::open_with(tenants, clock, entropy, origin_host, None).await
    }

    /// As [`Audit::open`], with a second place in which every entry must be before anybody is told that it is recorded. What it
    /// has not yet is brought there in the background, and before the log's next entry at the latest.
    pub async fn open_with(
        tenants: Tenants,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        origin_host: String,
        entries: Option<Entries>,
    ) -> Result<Self, AuditError> {
        let ring = Ring::open(tenants.platform(), &*entropy).await?;
        let shared = Arc::new(Shared {
            clock,
            entropy,
            ring: std::sync::RwLock::new(Arc::new(ring)),
            terms: std::sync::RwLock::default(),
            writable: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            feed: Publisher::default(),
            entries,
        });
        let runtime = tokio::runtime::Handle::current();
        let inner = Inner {
            shared,
            tenants,
            origin_host,
            runtime,
            writers: Mutex::default(),
            covering: tokio::sync::Mutex::default(),
            anchors: Standing::default(),
            seen: Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
        };
        let audit = Self { inner: Arc::new(inner) };
        audit.state(&Log::Host).await?;
        let records = audit.inner.tenants.list().await.map_err(|error| writer::unavailable("tenants", &error))?;
        for record in records {
            let Some(store) = audit.inner.tenants.open_readable(&record.id) else { continue };
            if let Err(error) = audit.state(&Log::Tenant(store)).await {
                tracing::error!(tenant = %record.id, %error, "a tenant's audit log does not open");
            }
        }
        Ok(audit)
    }

    /// Records something that is over. A refusal (by its code) is recorded as denied, a failed invocation as failed,
    /// everything else as a success; see [`Audit::record_outcome`] to say it yourself.
    pub async fn record(&self, log: &Log, event: Event) -> Result<Receipt, AuditError> {
        let outcome = match event.code {
            code if crate::codes::is_refusal(code) => Outcome::Denied,
            code if crate::codes::is_failure(code) => Outcome::Failure("invocation-failed".to_owned()),
            _ => Outcome::Success,
        };
        self.record_outcome(log, event, outcome).await
    }

    /// Records something that is over, and how it ended.
    pub async fn record_outcome(&self, log: &Log, event: Event, outcome: Outcome) -> Result<Receipt, AuditError> {
        self.append(log, Draft { event, phase: Phase::Single, outcome }).await
    }

    /// Announces an act before it is done.
    pub async fn intent(&self, log: &Log, event: Event) -> Result<Intent, AuditError> {
        let draft = Draft { event: event.clone(), phase: Phase::Intent, outcome: Outcome::Success };
        let receipt = self.append(log, draft).await?;
        Ok(Intent { audit: self.clone(), log: log.clone(), event, receipt, open: true })
    }

    /// Counts an invocation that needs no entry of its own. Never waits; the counts are recorded within about a second,
    /// and at the latest by [`Audit::flush`].
    pub fn invocation(&self, log: &Log, summary: InvocationSummary) {
        self.batch(log).add(&summary);
    }

    /// Records all invocations counted so far, of all logs; for the end of a drain. The first failure is returned after
    /// all logs were tried.
    pub async fn flush(&self) -> Result<(), AuditError> {
        let handles: Vec<Handle> = self.writers().values().cloned().collect();
        let mut result = Ok(());
        for handle in handles {
            let flushed = ask(&handle, Command::Flush).await;
            result = result.and(flushed);
        }
        result
    }

    /// Every entry of every log from now on, each after it is durable; see [`Feed`] for what a slow reader misses.
    pub fn feed(&self) -> Feed {
        self.inner.shared.feed.feed()
    }

    /// Whether the last write of any log succeeded, and the host's own log has what it must in the second place. A hint for
    /// refusing early: only an entry that was written is proof.
    pub fn is_writable(&self) -> bool {
        let shared = &self.inner.shared;
        shared.writable.load(Ordering::Relaxed) && !shared.stopped.load(Ordering::Relaxed) && self.takes(&Log::Host)
    }

    /// As [`Audit::is_writable`], for what is to be on this log: its own second place must take entries too.
    pub fn can_record(&self, log: &Log) -> bool {
        self.is_writable() && self.takes(log)
    }

    /// Whether a log's second place took what it was last asked to take; true where there is none.
    pub(crate) fn takes(&self, log: &Log) -> bool {
        self.inner.shared.entries.is_none() || self.handle(log).takes.load(Ordering::Relaxed)
    }

    /// Whether a log's entries are in the second place, as its writer knows.
    pub async fn copied(&self, log: &Log) -> Result<Copied, AuditError> {
        ask(&self.handle(log), Command::Copied).await
    }

    /// Up to `limit` entries from place `from` on, with their bodies.
    pub async fn list(&self, log: &Log, from: u64, limit: usize) -> Result<Vec<Entry>, AuditError> {
        let (store, origin) = (self.store(log), self.origin(log));
        let state = self.state(log).await?;
        let size = state.frontier.size();
        if from < size {
            state.check_kept(&origin, from)?;
        }
        let end = from.saturating_add(limit.min(LIST_COUNT_MAX) as u64).min(size);
        let mut entries = Vec::new();
        for seq in from..end {
            let broken = |what| AuditError::Broken { log: origin.clone(), seq, what };
            let stored = writer::read(&store, &origin, seq).await?.ok_or_else(|| broken("it is missing"))?;
            let body = stored.read_body().map_err(|_| broken("its body cannot be read"))?;
            let leaf_hash = hex(&leaf_hash(stored.envelope.as_bytes()));
            entries.push(Entry { envelope: stored.envelope, leaf_hash, body, salt: stored.salt });
        }
        Ok(entries)
    }

    /// How many entries a log has.
    pub async fn size(&self, log: &Log) -> Result<u64, AuditError> {
        Ok(self.state(log).await?.frontier.size())
    }

    /// Signs the log's present head, which covers everything acknowledged so far.
    pub async fn checkpoint(&self, log: &Log) -> Result<Checkpoint, AuditError> {
        let state = self.state(log).await?;
        let head = state.head(&self.origin(log));
        Ok(Checkpoint {
            text: self.sign_head(&head),
            size: head.size,
            root: hex(&head.root),
            chain_head: hex(&state.chain_head),
            origin: head.origin,
        })
    }

    /// The log's verifier key, `name+hash+key` (C2SP). Public; who verifies should learn it once and keep it.
    pub fn vkey(&self, log: &Log) -> String {
        self.inner.shared.ring().verifier(&self.origin(log)).vkey()
    }

    /// The log's name.
    pub fn origin(&self, log: &Log) -> String {
        match log {
            Log::Host => format!("{}/audit/host", self.inner.origin_host),
            Log::Tenant(store) => format!("{}/audit/tenant/{}", self.inner.origin_host, store.label()),
        }
    }

    /// Signs a text of the host's about a tenant with the key of its log, as a note. SECURITY: for texts that no
    /// checkpoint can be taken for.
    pub(crate) fn sign_note(&self, log: &Log, text: &str) -> String {
        self.inner.shared.ring().note(&self.origin(log), text, self.clock().now().as_millisecond())
    }

    /// Signs a head of a log of this host.
    pub(crate) fn sign_head(&self, head: &SignedHead) -> String {
        self.inner.shared.checkpoint(head)
    }

    /// Puts the operator's terms in force.
    pub fn set_terms(&self, terms: Terms) {
        *self.inner.shared.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// Who acts when the host does something by itself.
    pub fn actor(&self) -> ringfence_core::PrincipalId {
        writer::host_actor()
    }

    /// This host's name in its logs.
    pub(crate) fn host_name(&self) -> &str {
        &self.inner.origin_host
    }

    /// Lets go of a deleted tenant's log.
    pub async fn forget(&self, store: &TenantStore) {
        // By unique id: a name can be used again, and its new log must not meet the old one's writer.
        self.writers().remove(&store.uid());
    }

    /// The logs that grew since they were covered last; whose turn is longest ago comes first.
    pub(crate) async fn grown(&self) -> Vec<Log> {
        // All at once: one that does not answer keeps no other waiting.
        let ask_one = |handle: Handle| {
            self.inner.runtime.spawn(async move {
                let state = ask(&handle, Command::State).await;
                (handle, state)
            })
        };
        let asked: Vec<_> = self.all_handles().into_iter().map(ask_one).collect();
        let mut grown = Vec::new();
        for answer in asked {
            if let Ok((handle, Ok(state))) = answer.await
                && state.frontier.size() > handle.covered.load(Ordering::Relaxed)
            {
                grown.push((handle.turn.load(Ordering::Relaxed), handle.log));
            }
        }
        grown.sort_by_key(|(turn, _)| *turn);
        grown.into_iter().map(|(_, log)| log).collect()
    }

    /// It is a log's turn to be covered, when the log of logs has so many leaves.
    pub(crate) fn turned(&self, log: &Log, leaves_count: u64) {
        self.handle(log).turn.store(leaves_count.saturating_add(1), Ordering::Relaxed);
    }

    /// A log is covered up to this size.
    pub(crate) fn covered(&self, log: &Log, size: u64) {
        self.handle(log).covered.store(size, Ordering::Relaxed);
    }

    pub(crate) fn covering(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.covering
    }

    pub(crate) fn anchors(&self) -> &Standing {
        &self.inner.anchors
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.inner.shared.clock
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.inner.shared.entropy
    }

    pub(crate) fn keeping(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.keeping
    }

    /// The writers that run.
    pub(crate) fn all_handles(&self) -> Vec<Handle> {
        self.writers().values().cloned().collect()
    }

    /// The logs that can be read now.
    pub(crate) async fn all_logs(&self) -> Vec<Log> {
        let records = self.inner.tenants.list().await.unwrap_or_default();
        let stores = records.iter().filter_map(|record| self.inner.tenants.open_readable(&record.id));
        std::iter::once(Log::Host).chain(stores.map(Log::Tenant)).collect()
    }

    /// 32 random bytes.
    pub(crate) fn dice(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.inner.shared.entropy.fill(&mut bytes);
        bytes
    }

    /// Stops or lets go the writing of all logs.
    pub(crate) fn stop_writing(&self, stop: bool) {
        self.inner.shared.stopped.store(stop, Ordering::Relaxed);
    }

    /// What a witness signed for last, as far as is known; 0 for nothing.
    pub(crate) fn seen_by(&self, witness: &Witness) -> u64 {
        let seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(witness.name()).copied().unwrap_or(0)
    }

    pub(crate) fn saw(&self, witness: &Witness, size: u64) {
        let mut seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(witness.name().to_owned(), size);
    }

    async fn append(&self, log: &Log, draft: Draft) -> Result<Receipt, AuditError> {
        ask(&self.handle(log), |answer| Command::Append(Box::new(draft), answer)).await
    }

    pub(crate) async fn state(&self, log: &Log) -> Result<State, AuditError> {
        ask(&self.handle(log), Command::State).await
    }

    pub(crate) fn store(&self, log: &Log) -> TenantStore {
        self.view(log).clone()
    }

    fn view<'a>(&'a self, log: &'a Log) -> &'a TenantStore {
        match log {
            Log::Host => self.inner.tenants.platform(),
            Log::Tenant(store) => store,
        }
    }

    /// What is counted for the log. Each invocation asks: the rest of its writer's handle is not copied for it.
    fn batch(&self, log: &Log) -> Arc<Batch> {
        let known = self.writers().get(self.view(log).uid_str()).map(|handle| Arc::clone(&handle.batch));
        known.unwrap_or_else(|| self.handle(log).batch)
    }

    /// The log's writer, started when there is none.
    pub(crate) fn handle(&self, log: &Log) -> Handle {
        let store = self.store(log);
        let mut writers = self.writers();
        if let Some(handle) = writers.get(store.uid_str()) {
            return handle.clone();
        }
        let (commands, receiver) = mpsc::channel(QUEUE_COUNT_MAX);
        let (batch, covered, turn) = (Arc::new(Batch::default()), Arc::default(), Arc::default());
        let takes = Arc::new(AtomicBool::new(true));
        let handle = Handle { log: log.clone(), commands, batch, covered, turn, takes };
        writers.insert(store.uid(), handle.clone());
        let (shared, batch) = (Arc::clone(&self.inner.shared), Arc::clone(&handle.batch));
        let writer = Writer::new(shared, log.clone(), store, self.origin(log), batch, Arc::clone(&handle.takes));
        self.inner.runtime.spawn(writer.run(receiver));
        handle
    }

    fn writers(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        // The map is whole between any two statements that hold it, so a panic elsewhere cannot leave it half changed.
        self.inner.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Intent ===

impl Intent {
    /// The announcing entry.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Records how the act ended. `details` replace those of the announcement; `Null` keeps them.
    pub async fn outcome(mut self, outcome: Outcome, details: Value) -> Result<Receipt, AuditError> {
        let mut event = self.event.clone();
        if !details.is_null() {
            event.details = details;
        }
        let draft = Draft { event, phase: Phase::Outcome(self.receipt.seq), outcome };
        let receipt = self.audit.append(&self.log, draft).await?;
        self.open = false;
        Ok(receipt)
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // Best effort: when this cannot be written now, it is with the log's next entries; at the next start at the latest.
        let (audit, log) = (self.audit.clone(), self.log.clone());
        let draft = writer::unknown(self.receipt.seq, &self.receipt.log);
        let runtime = audit.inner.runtime.clone();
        runtime.spawn(async move { audit.append(&log, draft).await });
    }
}

/// Reads an entry in the form it is stored in, such as a restored backup has it; none for anything else.
pub fn stored_entry(bytes: &[u8]) -> Option<Entry> {
    let stored: writer::StoredEntry = serde_json::from_slice(bytes).ok()?;
    let body = stored.read_body().ok()?;
    let leaf_hash = hex(&leaf_hash(stored.envelope.as_bytes()));
    Some(Entry { envelope: stored.envelope, leaf_hash, body, salt: stored.salt })
}

/// Sends a command to a writer and waits for its answer, both within [`WRITE_TIME_MAX`] each.
pub(crate) async fn ask<T>(
    handle: &Handle,
    command: impl FnOnce(writer::Answer<T>) -> Command,
) -> Result<T, AuditError> {
    let (answer, answered) = oneshot::channel();
    let sent = handle.commands.send_timeout(command(answer), WRITE_TIME_MAX).await;
    sent.map_err(|_| AuditError::Unavailable)?;
    match tokio::time::timeout(WRITE_TIME_MAX * 2, answered).await {
        Ok(Ok(result)) => result,
        _ => Err(AuditError::Unavailable),
    }
}
