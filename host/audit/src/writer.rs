//! One writer for each log: the only one that appends, so that the order of entries is the order of the chain.
//!
//! Must never acknowledge what is not durable, and never go on from a state that the store does not hold: after any
//! failed write the state is read back, and nothing is appended before it is known what became of that write. Entries that
//! wait together are written together (group commit): all of them and the new head in one batch of the store, whose
//! precondition is the head this writer knows. Where there is a second place for entries (`copies`), they are there too before
//! anybody is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ringfence_core::{Clock, Entropy};
use ringfence_keys::{MacKey, Purpose};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::batch::{BATCH_TIME_MAX, Batch, Counts};
use crate::body::{body_of, status_of};
use crate::copies::{Copied, Copies, RETRY_EVERY};
use crate::entries::Entries;
use crate::envelope::{Envelope, canonical_body, commitment, cut, genesis, hex, link};
use crate::feed::{Committed, Publisher};
use crate::note::SignedHead;
use crate::retention::Pruned;
use crate::ring::{Held, Ring};
use crate::shards::Stump;
use crate::shelf::{Leaves, Shelf, ShelfError, untiled};
use crate::state::{State, StoredHead};
use crate::terms::Terms;
use crate::tiles::{Edge, TILE_HEIGHT};
use crate::times::Order;
use crate::tree::{Frontier, Hash, leaf_hash};
use crate::{AuditError, Event, Log, Outcome, Receipt, codes};

/// LIMIT: longest wait for an entry to become durable.
pub(crate) const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
/// LIMIT: entries that may wait for one log's writer.
pub(crate) const QUEUE_COUNT_MAX: usize = 1_024;
/// LIMIT: entries written in one batch, and of those that close acts as many again; what another log writes meanwhile waits for all of them. A log makes its next batch
/// only when the last is durable: made ahead, a log that is flooded wrote a third more and kept others waiting twice as long.
const GROUP_COUNT_MAX: usize = 128;
/// Entries made before whoever else waits for the thread has it.
const TURN_COUNT: usize = 16;
/// LIMIT: intents of one log without an outcome yet.
const OPEN_INTENTS_COUNT_MAX: usize = 4_096;
/// Entries checked against the stored head whenever the state is read.
const TAIL_COUNT: u64 = 32;
/// LIMIT: longest code kept in an envelope, in bytes.
const CODE_BYTES_MAX: usize = 96;
/// Who writes the entries that nobody asked for.
pub(crate) const HOST_ACTOR: &str = "ringfence";

/// What all writers share.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// The keys that sign heads.
    pub(crate) ring: Held<Ring>,
    /// What the operator set.
    pub(crate) terms: Held<Terms>,
    /// Whether the last write of any log succeeded.
    pub(crate) writable: AtomicBool,
    /// Whether nothing may be written because a second place does not have what it must.
    pub(crate) stopped: AtomicBool,
    /// Tells those who read along.
    pub(crate) feed: Publisher,
    /// Where every entry must be too.
    pub(crate) entries: Option<Entries>,
}

impl Shared {
    pub(crate) fn set_writable(&self, is_writable: bool) {
        self.writable.store(is_writable, Ordering::Relaxed);
    }

    pub(crate) fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_ring(&self, ring: Ring) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }

    pub(crate) fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs a head with every key that signs now.
    pub(crate) fn checkpoint(&self, head: &SignedHead) -> String {
        let now = self.clock.now().as_millisecond();
        self.ring().checkpoint(head, now, self.terms().post_quantum)
    }
}

/// What an entry is in the life of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Single,
    Intent,
    /// Ends the intent at this place.
    Outcome(u64),
    /// Nobody told how the intent at this place ended.
    Unknown(u64),
}

/// An entry to be.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) event: Event,
    pub(crate) phase: Phase,
    pub(crate) outcome: Outcome,
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, AuditError>>;

pub(crate) enum Command {
    Append(Box<Draft>, Answer<Receipt>),
    State(Answer<State>),
    /// The state with the edge of its tiles, to make proofs from.
    Edge(Answer<(State, Edge)>),
    Flush(Answer<()>),
    /// Says that the key changed, when the log has not said so yet.
    Announce(Answer<()>),
    /// One step of deleting the entries before a place.
    Prune(u64, Answer<Pruned>),
    /// Whether the second place has all entries.
    Copied(Answer<Copied>),
}

/// An entry as it is stored; the store seals it.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredEntry {
    pub(crate) envelope: String,
    pub(crate) body: String,
    pub(crate) salt: String,
}

/// Key of entry `seq`.
pub(crate) fn entry_key(seq: u64) -> Key {
    Key::new(["audit"]).number(seq)
}

/// Where the tiles of a log lie.
pub(crate) const TILES: &str = "audit-tile";

/// Key of the head.
pub(crate) fn head_key() -> Key {
    Key::new(["audit-head"])
}

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    log: Log,
    pub(crate) store: TenantStore,
    pub(crate) origin: String,
    pub(crate) batch: Arc<Batch>,
    state: Option<State>,
    /// Whether intents of an earlier run have been closed.
    recovered: bool,
    /// A batch that could not be written yet.
    pending: Option<Counts>,
    /// Intents that the store may have, although whoever announced them was refused, or whose end could not be recorded, and how
    /// each is closed: nobody else does so before the next start.
    unclosed: BTreeMap<u64, Draft>,
    /// The last write, while it may yet be there although the store did not say yes.
    doubt: Option<Doubt>,
    /// The tiles' edge at `state`; read when it is first needed.
    edge: Option<Edge>,
    shelf: Shelf,
    /// The second place of the entries, where there is one.
    pub(crate) copies: Option<Copies>,
}

/// Entries that are written together, on the state that they make.
pub(crate) struct Group {
    pub(crate) state: State,
    edge: Edge,
    pub(crate) ops: Vec<Op>,
    /// Makes pseudonyms, from the group's first entry to its last.
    macs: Option<MacKey>,
    /// For those who read along.
    told: Vec<Committed>,
    /// For the second place, where there is one.
    copies: Vec<StoredEntry>,
}

/// A write of which nobody knows what became.
struct Doubt {
    /// Where the chain stands if it is there: no other write leads to this.
    chain_head: Hash,
    /// Whether `pending` is in it.
    has_counts: bool,
}

/// A group that is not wherever it must be.
struct Uncommitted {
    error: AuditError,
    /// Whether the store has it all the same.
    is_stored: bool,
}

impl From<AuditError> for Uncommitted {
    fn from(error: AuditError) -> Self {
        Self { error, is_stored: false }
    }
}

/// The leaves of a log's tree, from its entries.
struct LogLeaves<'a>(&'a TenantStore);

impl Leaves for LogLeaves<'_> {
    async fn leaf(&self, index: u64) -> Result<Hash, ShelfError> {
        let record = self.0.get(&entry_key(index)).await?.ok_or(ShelfError::Missing)?;
        let stored: StoredEntry = record.json()?;
        Ok(leaf_hash(stored.envelope.as_bytes()))
    }
}

impl Writer {
    /// The writer of `log`, whose entries lie in `store`. `takes` says whether its second place does.
    pub(crate) fn new(
        shared: Arc<Shared>,
        log: Log,
        store: TenantStore,
        origin: String,
        batch: Arc<Batch>,
        takes: Arc<AtomicBool>,
    ) -> Self {
        let shelf = Shelf::new(store.clone(), TILES);
        let copies = Copies::new(&shared, &store, &origin, takes);
        let (state, recovered, pending, unclosed) = (None, false, None, BTreeMap::new());
        let (doubt, edge) = (None, None);
        Self { shared, log, store, origin, batch, state, recovered, pending, unclosed, doubt, edge, shelf, copies }
    }

    /// Serves until everyone who could ask is gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        // Times and no pauses: whoever asks meanwhile must not put them off.
        let (mut retry_at, mut counts_at) = (Instant::now(), Instant::now());
        loop {
            let (batch, begun) = (Arc::clone(&self.batch), Instant::now());
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.serve(command, &mut commands).await,
                    None => break,
                },
                () = batch.due(), if self.pending.is_none() => {
                    drop(self.write_batch().await);
                    counts_at = Instant::now() + BATCH_TIME_MAX;
                }
                () = tokio::time::sleep_until(counts_at), if self.pending.is_some() => {
                    drop(self.write_batch().await);
                    counts_at = Instant::now() + BATCH_TIME_MAX;
                }
                () = tokio::time::sleep_until(retry_at), if self.copied() == Copied::Behind || self.doubt.is_some() => {
                    // Before it is said that all is there: what is in doubt may land after that.
                    if matches!(self.end_doubt().await, Ok(()) | Err(AuditError::Gone)) {
                        self.catch_up().await;
                    }
                    retry_at = Instant::now() + RETRY_EVERY;
                }
            }
            // Each try may take as long as a write: whoever waits since the last one is heard before the next.
            if begun.elapsed() >= RETRY_EVERY {
                let next = Instant::now() + RETRY_EVERY;
                (retry_at, counts_at) = (retry_at.max(next), counts_at.max(next));
            }
        }
        drop(self.write_batch().await);
    }

    async fn serve(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) {
        let (mut group, mut others) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append(draft, answer) => group.push((*draft, answer)),
                other => others.push(other),
            }
            next = if group.len() < GROUP_COUNT_MAX { commands.try_recv().ok() } else { None };
        }
        if !group.is_empty() {
            self.append(group).await;
        }
        for other in others {
            match other {
                Command::State(answer) => drop(answer.send(self.state().await.cloned())),
                Command::Edge(answer) => drop(answer.send(self.stand().await)),
                Command::Flush(answer) => drop(answer.send(self.write_batch().await)),
                Command::Announce(answer) => drop(answer.send(self.announce().await)),
                Command::Prune(to, answer) => drop(answer.send(self.prune(to).await)),
                Command::Copied(answer) => drop(answer.send(Ok(self.copied()))),
                Command::Append(_, answer) => drop(answer.send(Err(AuditError::Unavailable))),
            }
        }
    }

    /// Writes a group; everyone in it is answered, with a receipt only when the whole group is durable. True when the store has
    /// all of it, whatever the answers were.
    async fn append(&mut self, drafts: Vec<(Draft, Answer<Receipt>)>) -> bool {
        let group = self.group().await.and_then(|group| self.announced(group)).and_then(|group| self.closed(group));
        let mut group = match group {
            Ok(group) => group,
            Err(error) => {
                for (draft, answer) in drafts {
                    self.leave_open(draft.phase, None, Some(draft));
                    drop(answer.send(Err(error.clone())));
                }
                return false;
            }
        };
        let (mut written, mut is_whole) = (Vec::new(), true);
        for (number, (draft, answer)) in drafts.into_iter().enumerate() {
            if (number + 1).is_multiple_of(TURN_COUNT) {
                yield_now().await;
            }
            let (phase, told) = (draft.phase, matches!(draft.phase, Phase::Outcome(_)).then(|| draft.clone()));
            match self.entry(&mut group, draft) {
                Ok(receipt) => written.push((phase, receipt, answer, told)),
                Err(error) => {
                    is_whole = false;
                    self.leave_open(phase, None, told);
                    drop(answer.send(Err(error)));
                }
            }
        }
        let result = self.commit(group).await;
        for (phase, receipt, answer, draft) in written {
            let seq = receipt.seq;
            let (told, is_durable) = match &result {
                Ok(()) => (Ok(receipt), true),
                Err(failed) => (Err(failed.error.clone()), false),
            };
            // Who stopped waiting has had no answer, and so has done nothing.
            let is_heard = answer.send(told).is_ok();
            if !is_durable || (!is_heard && phase == Phase::Intent) {
                self.leave_open(phase, Some(seq), draft);
            }
        }
        is_whole && result.map_or_else(|failed| failed.is_stored, |()| true)
    }

    /// Keeps the intent that a draft leaves open whose sender was refused, with how it ended where that was told. `seq` is where the
    /// draft may be in the store.
    fn leave_open(&mut self, phase: Phase, seq: Option<u64>, draft: Option<Draft>) {
        let intent = match phase {
            Phase::Intent => seq,
            Phase::Unknown(intent) | Phase::Outcome(intent) => Some(intent),
            Phase::Single => None,
        };
        let Some(intent) = intent else { return };
        let kept = self.unclosed.entry(intent).or_insert_with(|| unknown(intent, &self.origin));
        if let Some(told) = draft.filter(|draft| matches!(draft.phase, Phase::Outcome(_))) {
            *kept = told;
        }
    }

    /// Closes intents that nobody else closes, and forgets those that are closed or were never written: no write is in doubt when
    /// a group is made. INVARIANT: comes before any other intent of a group, so that a place that was never written is not taken
    /// for the intent that stands there later.
    fn closed(&mut self, mut group: Group) -> Result<Group, AuditError> {
        self.unclosed.retain(|intent, _| group.state.open.contains(intent));
        for (intent, draft) in self.unclosed.iter().take(GROUP_COUNT_MAX) {
            let told = self.entry(&mut group, draft.clone());
            told.or_else(|_| self.entry(&mut group, unknown(*intent, &self.origin)))?;
        }
        Ok(group)
    }

    async fn announce(&mut self) -> Result<(), AuditError> {
        let group = self.group().await.and_then(|group| self.announced(group))?;
        self.commit(group).await.map_err(|failed| failed.error)
    }

    /// Forgets what the store was known to hold: the next command reads it back.
    pub(crate) fn forget_state(&mut self) {
        (self.state, self.edge) = (None, None);
    }

    /// An empty group on the present state, which nothing changes any more that was written before.
    async fn group(&mut self) -> Result<Group, AuditError> {
        self.end_doubt().await?;
        let (state, edge) = self.stand().await?;
        Ok(Group::new(state, edge))
    }

    async fn stand(&mut self) -> Result<(State, Edge), AuditError> {
        let state = self.state().await?.clone();
        let edge = self.edge(&state).await?;
        Ok((state, edge))
    }

    /// Finds out what became of the last write when the store did not say. It may wait in the store's line still, and land after
    /// the head was read: an empty batch waits behind it, and what is read once that is through stays so.
    async fn end_doubt(&mut self) -> Result<(), AuditError> {
        if self.doubt.is_some() {
            match tokio::time::timeout(WRITE_TIME_MAX, self.store.batch(Vec::new(), Vec::new())).await {
                Ok(Ok(_)) => {
                    // It was made durable: the store takes writes.
                    self.shared.set_writable(true);
                    self.forget_state();
                }
                Ok(Err(error)) => {
                    if matches!(error, StoreError::Gone) {
                        self.doubt = None;
                    }
                    return Err(unavailable(&self.origin, &error));
                }
                Err(_) => return Err(AuditError::Unavailable),
            }
        }
        let chain_head = self.state().await?.chain_head;
        if self.doubt.take().is_some_and(|doubt| doubt.has_counts && doubt.chain_head == chain_head) {
            self.pending = None;
        }
        Ok(())
    }

    pub(crate) async fn edge(&mut self, state: &State) -> Result<Edge, AuditError> {
        if let Some(edge) = self.edge.as_ref().filter(|edge| edge.size() == state.frontier.size()) {
            return Ok(edge.clone());
        }
        let size = state.frontier.size();
        let edge =
            self.shelf.edge(size, &LogLeaves(&self.store)).await.map_err(|error| untiled(&self.origin, &error))?;
        self.edge = Some(edge.clone());
        Ok(edge)
    }

    /// Makes a group durable wherever it must be.
    async fn commit(&mut self, mut group: Group) -> Result<(), Uncommitted> {
        if group.ops.is_empty() {
            return Ok(());
        }
        let copies = std::mem::take(&mut group.copies);
        let from = group.state.frontier.size().saturating_sub(copies.len() as u64);
        self.copy_to(group.state.first, from).await?;
        let told = self.write(group).await?;
        self.copy(from, copies).await.map_err(|error| Uncommitted { error, is_stored: true })?;
        told.into_iter().for_each(|committed| self.shared.feed.tell(committed));
        Ok(())
    }

    /// Writes a group to the store; what is to be told of it is the answer.
    async fn write(&mut self, group: Group) -> Result<Vec<Committed>, AuditError> {
        let Group { mut state, edge, mut ops, macs, told, copies: _ } = group;
        drop(macs);
        if self.shared.stopped.load(Ordering::Relaxed) {
            return Err(AuditError::Unavailable);
        }
        let head = serde_json::to_vec(&state.stored()).map_err(|_| AuditError::Unrepresentable)?;
        ops.push(Op::Put { key: head_key(), value: head });
        let expected = match state.revision {
            Some(revision) => Precondition::Revision(head_key(), revision),
            None => Precondition::Absent(head_key()),
        };
        // Until the store has said yes, what it holds is not known: the next command reads it back.
        self.forget_state();
        self.doubt = Some(Doubt { chain_head: state.chain_head, has_counts: false });
        self.fall_behind();
        match tokio::time::timeout(WRITE_TIME_MAX, self.store.batch(ops, vec![expected])).await {
            Ok(Ok(commit)) => {
                self.shared.set_writable(true);
                self.doubt = None;
                state.revision = Some(commit.revision);
                (self.state, self.edge) = (Some(state), Some(edge));
                Ok(told)
            }
            Ok(Err(error)) => {
                // A deleted tenant says nothing about the other logs, and a lost race is settled by reading back.
                let alone = matches!(
                    error,
                    StoreError::Gone | StoreError::KeyDisabled | StoreError::KeyRefused | StoreError::Conflict { .. }
                );
                self.shared.writable.fetch_and(alone, Ordering::Relaxed);
                if !matches!(error, StoreError::Unavailable { .. } | StoreError::Closed) {
                    // Refused: nothing of it is there, or ever will be.
                    self.doubt = None;
                }
                Err(unavailable(&self.origin, &error))
            }
            Err(_) => {
                self.shared.set_writable(false);
                tracing::warn!(log = %self.origin, "the audit log was not written in time");
                Err(AuditError::Unavailable)
            }
        }
    }

    /// Adds an entry to a group; no operation when the entry is not needed any more.
    pub(crate) fn entry(&self, group: &mut Group, mut draft: Draft) -> Result<Receipt, AuditError> {
        let state = &mut group.state;
        let seq = state.frontier.size();
        let receipt = Receipt { log: self.origin.clone(), seq };
        match draft.phase {
            Phase::Unknown(intent) if !state.open.contains(&intent) => return Ok(receipt),
            Phase::Intent if state.open.len() >= OPEN_INTENTS_COUNT_MAX => return Err(AuditError::Unavailable),
            _ => {}
        }
        let now = self.shared.clock.now().as_millisecond();
        group.ops.extend(self.shard_op(state, now)?);
        let label = self.store.label().to_owned();
        let (status, action_id) = status_of(&draft);
        let event = body_of(&mut draft, seq, now, &label, now < state.time);
        let body = canonical_body(&event)?;
        let mut salt = [0_u8; 32];
        self.shared.entropy.fill(&mut salt);
        let keys = self.store.keys();
        let macs = match &mut group.macs {
            Some(macs) => macs,
            none => none.insert(keys.macs(Purpose::Audit).map_err(|error| unavailable("pseudonym", &error.into()))?),
        };
        let pseudonym = |kind: &str, value: &str| hex(&macs.mac(format!("{kind}\n{value}").as_bytes()));
        let envelope = Envelope {
            v: 1,
            seq,
            prev: hex(&state.chain_head),
            tenant_uid: label,
            time: now,
            class_uid: codes::class_of(draft.event.code),
            activity_id: codes::activity_of(draft.event.code),
            status: status.to_owned(),
            action_id,
            actor_hmac: pseudonym("actor", draft.event.actor.as_str()),
            resource_hmac: pseudonym("resource", &draft.event.resource),
            body_sha256: hex(&commitment(&salt, &body)),
            code: cut(draft.event.code, CODE_BYTES_MAX),
        }
        .canonical()?;
        let leaf = leaf_hash(envelope.as_bytes());
        state.chain_head = link(&envelope);
        let whole = state.frontier.push_noting(leaf, TILE_HEIGHT);
        state.time = state.time.max(now);
        state.order.note(seq, now);
        match draft.phase {
            Phase::Single => {}
            Phase::Intent => drop(state.open.insert(seq)),
            Phase::Outcome(intent) | Phase::Unknown(intent) => drop(state.open.remove(&intent)),
        }
        let stored = StoredEntry { envelope, body, salt: hex(&salt) };
        group.ops.push(Op::put_json(entry_key(seq), &stored).map_err(|_| AuditError::Unrepresentable)?);
        if self.copies.is_some() {
            group.copies.push(stored);
        }
        group.ops.extend(self.shelf.ops(group.edge.push_with(leaf, whole)));
        if self.shared.feed.is_read() {
            let (code, log) = (draft.event.code, self.log.clone());
            group.told.push(Committed { log, seq, time_ms: now, code, class_uid: codes::class_of(code), event });
        }
        Ok(receipt)
    }

    /// The state, read from the store when it is not known.
    pub(crate) async fn state(&mut self) -> Result<&State, AuditError> {
        if self.state.is_none() {
            let state = load(&self.store, &self.origin).await?;
            self.state = Some(state);
            if let Err(error) = self.recover().await {
                // Whoever asks next tries again.
                self.forget_state();
                return Err(error);
            }
        }
        self.state.as_ref().ok_or(AuditError::Unavailable)
    }

    /// Closes the intents that an earlier run of the host left open.
    async fn recover(&mut self) -> Result<(), AuditError> {
        if self.recovered {
            return Ok(());
        }
        let open: Vec<u64> = self.state.iter().flat_map(|state| state.open.iter().copied()).collect();
        if !open.is_empty() {
            tracing::warn!(log = %self.origin, count = open.len(), "acts of an earlier run have no known outcome");
        }
        for part in open.chunks(GROUP_COUNT_MAX) {
            let state = self.state.clone().ok_or(AuditError::Unavailable)?;
            let edge = self.edge(&state).await?;
            let mut group = Group::new(state, edge);
            for intent in part {
                self.entry(&mut group, unknown(*intent, &self.origin))?;
            }
            // Nobody waits for these: the second place gets them before the next that somebody waits for.
            let told = self.write(group).await?;
            told.into_iter().for_each(|committed| self.shared.feed.tell(committed));
        }
        self.recovered = true;
        Ok(())
    }

    /// Records the invocations counted so far. What the store cannot take now is kept and tried again; what it took is not, or
    /// it would be counted twice: the second place gets it with all else.
    async fn write_batch(&mut self) -> Result<(), AuditError> {
        // Taken first, because what follows may fail: counts that are due and not taken would be tried again without a pause.
        self.pending = self.pending.take().or_else(|| self.batch.take());
        if self.pending.is_none() {
            return Ok(());
        }
        match self.end_doubt().await {
            Ok(()) => {}
            Err(AuditError::Gone) => {
                self.pending = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        // What was in doubt and is there is not pending any more.
        let Some(counts) = self.pending.take().or_else(|| self.batch.take()) else { return Ok(()) };
        let mut event = Event::new(codes::INVOCATIONS, "invoke", host_actor(), self.origin.clone());
        event.details = counts.details();
        let draft = Draft { event, phase: Phase::Single, outcome: Outcome::Success };
        let (answer, written) = oneshot::channel();
        let is_stored = self.append(vec![(draft, answer)]).await;
        let error = match written.await {
            Ok(Ok(_)) | Ok(Err(AuditError::Gone)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => AuditError::Unavailable,
        };
        if !is_stored {
            self.pending = Some(counts);
            // None was there before: it is of these.
            if let Some(doubt) = &mut self.doubt {
                doubt.has_counts = true;
            }
        }
        Err(error)
    }
}

/// An entry that says that nobody told how an intent ended.
pub(crate) fn unknown(intent: u64, origin: &str) -> Draft {
    let event = Event::new(codes::OUTCOME_UNKNOWN, "outcome-unknown", host_actor(), origin);
    Draft { event, phase: Phase::Unknown(intent), outcome: Outcome::Failure("outcome-unknown".to_owned()) }
}

/// Reads a log's head and checks the last entries against it.
pub(crate) async fn load(store: &TenantStore, origin: &str) -> Result<State, AuditError> {
    let broken = |seq, what| AuditError::Broken { log: origin.to_owned(), seq, what };
    let head = store.get(&head_key()).await.map_err(|error| unavailable(origin, &error))?;
    let state = match head {
        None => State {
            frontier: Frontier::new(),
            chain_head: genesis(origin),
            time: i64::MIN,
            order: Order::unknown(0),
            open: BTreeSet::new(),
            revision: None,
            generation: 0,
            first: 0,
            bodies_to: 0,
        },
        Some(record) => {
            let stored: StoredHead =
                serde_json::from_slice(&record.value).map_err(|_| broken(0, "its head cannot be read"))?;
            let size = stored.size;
            State::from_stored(stored, record.revision).ok_or_else(|| broken(size, "its head does not fit its size"))?
        }
    };
    let stump = Stump::load(store, origin).await?;
    let state = State { first: stump.edge.size(), bodies_to: stump.bodies_to, ..state };
    if state.first > state.frontier.size() {
        return Err(broken(state.first, "it is deleted, and the log ends before it"));
    }
    check_tail(store, origin, &state, stump.chain_head).await?;
    Ok(state)
}

/// INVARIANT: entries `first..size` exist and nothing after; each links to the one before and the last to the head. `start` is
/// what the first of them points back to.
async fn check_tail(store: &TenantStore, origin: &str, state: &State, start: Hash) -> Result<(), AuditError> {
    let size = state.frontier.size();
    let broken = |seq, what| AuditError::Broken { log: origin.to_owned(), seq, what };
    if read(store, origin, size).await?.is_some() {
        return Err(broken(size, "it stands after the end"));
    }
    let from = size.saturating_sub(TAIL_COUNT).max(state.first);
    let mut before: Option<Hash> = (from == state.first).then_some(start);
    for seq in from..size {
        let stored = read(store, origin, seq).await?.ok_or_else(|| broken(seq, "it is missing"))?;
        let envelope: Envelope =
            serde_json::from_str(&stored.envelope).map_err(|_| broken(seq, "it cannot be read"))?;
        if envelope.seq != seq || before.is_some_and(|before| envelope.prev != hex(&before)) {
            return Err(broken(seq, "it does not follow the one before"));
        }
        before = Some(link(&stored.envelope));
    }
    match before {
        Some(head) if head != state.chain_head => Err(broken(size.saturating_sub(1), "the head does not follow it")),
        _ => Ok(()),
    }
}

/// Reads one stored entry. One that is damaged is no outage: it will not be there later either.
pub(crate) async fn read(store: &TenantStore, origin: &str, seq: u64) -> Result<Option<StoredEntry>, AuditError> {
    let broken = |what| AuditError::Broken { log: origin.to_owned(), seq, what };
    let record = store.get(&entry_key(seq)).await.map_err(|error| match error {
        StoreError::Damaged => broken("it is damaged"),
        error => unavailable(origin, &error),
    })?;
    record.map(|record| serde_json::from_slice(&record.value).map_err(|_| broken("it cannot be read"))).transpose()
}

/// The store's error in the log's words; the reason goes to the host's log only.
pub(crate) fn unavailable(origin: &str, error: &StoreError) -> AuditError {
    match error {
        StoreError::Gone => AuditError::Gone,
        StoreError::KeyDisabled | StoreError::KeyRefused => AuditError::KeyDisabled,
        other => {
            tracing::warn!(log = %origin, reason = %other, "the audit log could not be reached");
            AuditError::Unavailable
        }
    }
}

/// The host as an actor.
pub(crate) fn host_actor() -> ringfence_core::PrincipalId {
    #[expect(clippy::expect_used, reason = "a constant word that a test parses")]
    HOST_ACTOR.parse().expect("a principal")
}

// === impl Group ===

impl Group {
    fn new(state: State, edge: Edge) -> Self {
        Self { state, edge, ops: Vec::new(), macs: None, told: Vec::new(), copies: Vec::new() }
    }
}
