//! The one writer of a queue: messages that come, attempts that are over and attempts that begin become durable together, in
//! one batch a round. What comes while a batch is on its way goes with the next.
//!
//! Must never answer a sender, begin an attempt or let a message go before the batch that says so is durable. The order in
//! memory is changed first, so that what an attempt leaves free can be taken in the same batch, and put back when that fails.
//! INVARIANT: every batch has the revision of the queue's marks as precondition: whoever else writes them (another host, a
//! backup that was put back, a deletion) ends this writer.
//!
//! A message costs two batches where nothing else is to be written: one has the message and the mark that its attempt begins,
//! when the queue has room for it, and one has how that ended. What a kill leaves: before the first is durable, nothing at all,
//! for its sender was told nothing and no plugin has seen it; between the two, a message with a mark, whose attempt counts and
//! which comes again, also when its plugin was done; after the second, what that says. Neither batch can be spared. An attempt
//! begun beside the first would do what a message says that is then refused for want of room, and one that brings the host
//! down would not be counted; without the second, what is done would be done again.
//!
//! What a message waits for, from its sender to the durable end: this writer's batch that is on its way (of its own queue, so none
//! where one message goes after the other); the commit thread's flush that is under way, of whatever tenant, half of one in the
//! mean; the flush of its own batch; a slot and the plugin; the flush under way then, and the flush of how it ended. Its place in
//! the line costs nothing: a group takes all that waits, so it goes with the next flush. Beside a tenant that floods, the flushes
//! under way are what is added, and a little that theirs are longer. To let the flooding one wait a moment for the other, so that both
//! go with one flush, was tried, and made it no better (x2.0 for x1.95).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringfence_capabilities::{Letter, Trail};
use ringfence_store::{Op, Precondition, Record, StoreError, TenantState};
use tokio::sync::{mpsc, oneshot};

use super::core::{Core, Fate, Flight, Item};
use super::message::{Head, HookTarget, begun_key, dead_key, messages_key, once_key};
use super::{ONCE_MS, Once, PRIORITY_USUAL, Queue, Sent};
use crate::closing::UnderWay;
use crate::{Automation, AutomationError};

/// LIMIT: messages that wait for the writer of their queue.
pub(super) const LETTERS_WAITING_COUNT_MAX: usize = 128;
/// LIMIT: messages taken in by one batch, reached by the call of a point that goes over.
const LETTERS_COUNT_MAX: usize = 128;
/// LIMIT: bytes of payloads taken in by one batch, reached by the message that goes over.
const LETTERS_BYTES_MAX: usize = 1 << 20;
/// LIMIT: dead messages dealt with by one batch.
pub(super) const DEALT_COUNT_MAX: usize = 128;
/// Wait after the store could not be written.
pub(super) const STORE_WAIT_MS: i64 = 1_000;
/// Wait while nothing of the tenant is run, should nobody say when that is over.
pub(super) const SHUT_WAIT_MS: i64 = 5_000;

/// Who waits for something to be durable.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, AutomationError>>;

/// What the writer is asked to do, and who waits for it.
pub(crate) enum Sending {
    /// A message comes.
    Letter { letter: Letter, from: String, reply: Reply<Sent> },
    /// Several plugins are to be told the same. The answer says for which of them there was room.
    Notes(Notes, Reply<Vec<bool>>),
    /// Dead messages are dealt with; such as are not there any more are passed over.
    Dead { seqs: Vec<u64>, dealing: Dealing, reply: Reply<Dealt> },
}

/// What becomes of dead messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dealing {
    /// They go again, with all their attempts before them.
    PutBack,
    /// They are deleted.
    ThrowAway,
}

/// What the writer did with dead messages.
#[derive(Debug, Default)]
pub(crate) struct Dealt {
    /// How many were dealt with.
    pub count: u64,
    /// Those for which one batch was too short.
    pub rest: Vec<u64>,
    /// Whether some stay where they are because there is no room.
    pub is_full: bool,
}

/// The places of messages, what is to be written, and what is said of them.
type Made<T> = (Vec<u64>, Vec<Op>, T);

/// What a notifying extension point tells.
pub(crate) struct Notes {
    pub payload: Vec<u8>,
    /// Who asked the point: a principal.
    pub from: String,
    /// What led to it.
    pub trail: Trail,
    /// Each plugin once.
    pub targets: Vec<HookTarget>,
    /// All are told or none.
    pub is_whole: bool,
}

impl Notes {
    pub(crate) fn sending(self, reply: Reply<Vec<bool>>) -> Sending {
        Sending::Notes(self, reply)
    }
}

/// How an attempt ended.
pub(super) enum End {
    Done,
    /// Counted against it; the text is kept.
    Failed(String),
    /// It will never do.
    Refused(String),
    /// Nothing was run, and it is not the message's doing.
    NotNow(i64),
    /// The host had no room for what it wanted: counted only where that goes on and on. The text is kept then.
    NoRoom(String),
    /// There is no such message any more, or it is none of ours and is left where it is.
    Nothing,
}

/// An attempt that is over.
pub(super) struct Over {
    pub flight: Flight,
    /// What was handed over; none when it could not be read.
    pub message: Option<(Record, Head)>,
    pub end: End,
    /// Held until the end is durable.
    pub place: Arc<UnderWay>,
}

/// One thing of a round, as it is in memory already and not yet in the store.
struct Change {
    seqs: Vec<u64>,
    ops: Vec<Op>,
    of: Of,
}

enum Of {
    Letter(Sent, Reply<Sent>),
    Notes(Vec<bool>, Reply<Vec<bool>>),
    Dead(Dealt, Reply<Dealt>),
    /// With what the message was before, and the place it holds.
    Attempt(Option<Item>, Arc<UnderWay>),
}

/// Writes what happens to one queue.
pub(super) struct Writer {
    automation: Automation,
    queue: Arc<Queue>,
    letters: mpsc::Receiver<Sending>,
    /// One that has to wait for the next batch.
    held: Option<Sending>,
    /// The messages that are marked as handed over, and the revision of the record that says so.
    marked: BTreeSet<u64>,
    revision: u64,
    /// Nobody knows whether the last batch was written: the marks are read before the next.
    is_in_doubt: bool,
    /// The highest place given out.
    last_seq: u64,
}

// === impl Writer ===

impl Writer {
    /// A writer of an open queue, no message of which is marked.
    pub(super) fn new(
        automation: Automation,
        queue: Arc<Queue>,
        letters: mpsc::Receiver<Sending>,
        revision: u64,
        last_seq: u64,
    ) -> Self {
        Self { automation, queue, letters, held: None, marked: BTreeSet::new(), revision, is_in_doubt: false, last_seq }
    }

    /// Whether somebody waits for a message to be durable.
    pub(super) fn has_letters(&self) -> bool {
        self.held.is_some() || !self.letters.is_empty()
    }

    /// Writes what there is to write, and gives the messages whose attempts begin now, with the place that they share.
    pub(super) async fn round(&mut self) -> Option<(Vec<Flight>, Arc<UnderWay>)> {
        let now_ms = self.automation.parts.clock.now().as_millisecond();
        // Before anything is taken for lost: who said how it ended is not.
        let over = self.queue.take_over();
        let mut changes: Vec<Change> = over.into_iter().filter_map(|over| self.ended(over, now_ms)).collect();
        self.take_letters(&mut changes, now_ms).await;
        let place = self.automation.closing.begin().map(Arc::new);
        let begin = if place.is_some() { self.take(now_ms) } else { Vec::new() };
        match self.commit(&changes).await {
            Ok(()) => changes.into_iter().for_each(|change| self.settle(change)),
            Err(error) => {
                self.put_back(&begin, &error);
                self.one_by_one(changes).await;
                return None;
            }
        }
        place.filter(|_| !begin.is_empty()).map(|place| (begin, place))
    }

    /// What may go now. What cannot be run now is no attempt, and nothing to put on record every time.
    fn take(&self, now_ms: i64) -> Vec<Flight> {
        let steady_ms = u64::try_from(self.automation.parts.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let mut core = self.queue.core();
        for lost in core.overdue(steady_ms) {
            tracing::error!(queue = %self.queue.name, seq = lost, "a message hung in the host and goes again");
            core.put_back(lost, now_ms);
        }
        let taken: Vec<Flight> = std::iter::from_fn(|| core.take(now_ms, steady_ms)).collect();
        if self.queue.store.state() == TenantState::Suspended {
            taken.iter().for_each(|flight| core.put_back(flight.seq, now_ms.saturating_add(SHUT_WAIT_MS)));
            return Vec::new();
        }
        taken
    }

    /// Takes messages in: into memory at once, into the store with the batch.
    async fn take_letters(&mut self, changes: &mut Vec<Change>, now_ms: i64) {
        let (mut keys, mut count, mut bytes) = (BTreeSet::new(), 0, 0_usize);
        while count < LETTERS_COUNT_MAX && bytes < LETTERS_BYTES_MAX {
            let Some(sending) = self.held.take().or_else(|| self.letters.try_recv().ok()) else { return };
            match sending {
                Sending::Letter { letter, from, reply } => {
                    if let Some(key) = &letter.idempotency_key
                        && !keys.insert(key.clone())
                    {
                        // The same key twice: the second is told of the first once that is durable.
                        self.held = Some(Sending::Letter { letter, from, reply });
                        return;
                    }
                    count += 1;
                    bytes = bytes.saturating_add(letter.payload.len());
                    match self.take_in(letter, &from, now_ms).await {
                        Ok(Taken::New { seq, ops }) => {
                            let sent = Sent { id: self.queue.id(seq), is_repeat: false };
                            changes.push(Change { seqs: vec![seq], ops, of: Of::Letter(sent, reply) });
                        }
                        Ok(Taken::Repeat(sent)) => drop(reply.send(Ok(sent))),
                        Err(error) => drop(reply.send(Err(error))),
                    }
                }
                Sending::Notes(notes, reply) => {
                    count += notes.targets.len();
                    bytes = bytes.saturating_add(notes.payload.len().saturating_mul(notes.targets.len()));
                    match self.take_notes(notes, now_ms) {
                        Ok((seqs, _, rooms)) if seqs.is_empty() => drop(reply.send(Ok(rooms))),
                        Ok((seqs, ops, rooms)) => changes.push(Change { seqs, ops, of: Of::Notes(rooms, reply) }),
                        Err(error) => drop(reply.send(Err(error))),
                    }
                }
                Sending::Dead { seqs, dealing, reply } => {
                    match self.deal(seqs, dealing, now_ms).await {
                        Ok((seqs, ops, dealt)) => changes.push(Change { seqs, ops, of: Of::Dead(dealt, reply) }),
                        Err(error) => drop(reply.send(Err(error))),
                    }
                    // What another one finds is known once this is durable.
                    return;
                }
            }
        }
    }

    /// Deals with dead messages, as far as one batch goes: their places in the order, what is to be written, and how far.
    async fn deal(&self, seqs: Vec<u64>, dealing: Dealing, now_ms: i64) -> Result<Made<Dealt>, AutomationError> {
        let queue = &self.queue;
        let (mut placed, mut ops, mut dealt, mut bytes) = (Vec::new(), Vec::new(), Dealt::default(), 0_usize);
        let mut seqs = seqs.into_iter();
        while dealt.count < DEALT_COUNT_MAX as u64 && bytes < LETTERS_BYTES_MAX {
            let Some(seq) = seqs.next() else { break };
            // It may have been put back by a batch of which nobody knows whether it was written: that is found out first.
            if queue.core().item(seq).is_some() {
                continue;
            }
            let key = dead_key(&queue.name).number(seq);
            let record = match queue.store.get(&key).await {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) => {
                    placed.into_iter().for_each(|seq| queue.core().gone(seq));
                    return Err(error.into());
                }
            };
            if dealing == Dealing::PutBack {
                let Some((head, payload)) = Head::unpack(&record.value) else { continue };
                let head = Head { failed_count: 0, due_ms: now_ms, died_at: None, last_error: None, ..head };
                let (item, Ok(packed)) = (head.item(), head.pack(payload)) else { continue };
                let mut core = queue.core();
                if !core.has_room(&item.lane) {
                    dealt.is_full = true;
                    continue;
                }
                core.insert(item);
                placed.push(seq);
                bytes = bytes.saturating_add(packed.len());
                ops.push(Op::put(messages_key(&queue.name).number(seq), packed));
            }
            ops.push(Op::delete(key));
            dealt.count += 1;
        }
        dealt.rest = seqs.collect();
        Ok((placed, ops, dealt))
    }

    /// Takes in what is for plugins that have room; of a whole all or nothing. Their places, what is to be written, and for
    /// which of them there was room.
    fn take_notes(&mut self, notes: Notes, now_ms: i64) -> Result<Made<Vec<bool>>, AutomationError> {
        let Notes { payload, from, trail, targets, is_whole } = notes;
        let rooms: Vec<bool> = {
            let core = self.queue.core();
            targets.iter().map(|target| core.has_room(&Some(target.lane()))).collect()
        };
        let is_refused = is_whole && rooms.contains(&false);
        let (mut items, mut ops) = (Vec::new(), Vec::new());
        for (target, has_room) in targets.into_iter().zip(&rooms) {
            if is_refused || !has_room {
                continue;
            }
            let head = Head { hook: Some(target), trail: trail.clone(), ..self.new_head(&from, now_ms) };
            ops.push(Op::put(messages_key(&self.queue.name).number(head.seq), head.pack(&payload)?));
            items.push(head.item());
        }
        let seqs = items.iter().map(|item| item.seq).collect();
        let mut core = self.queue.core();
        items.into_iter().for_each(|item| core.insert(item));
        Ok((seqs, ops, rooms))
    }

    async fn take_in(&mut self, letter: Letter, from: &str, now_ms: i64) -> Result<Taken, AutomationError> {
        let queue = Arc::clone(&self.queue);
        queue.check_room()?;
        let once = letter.idempotency_key.map(|key| once_key(&queue.name).push(key));
        if let Some(key) = &once
            && let Some(known) = queue.store.get_json::<Once>(key).await?
            && now_ms.saturating_sub(known.at_ms) < ONCE_MS
        {
            // Also when its sender was told that nobody knows: then it stayed in the order.
            return Ok(Taken::Repeat(Sent { id: queue.id(known.seq), is_repeat: true }));
        }
        let head = Head {
            priority: letter.priority,
            due_ms: now_ms.saturating_add(i64::try_from(letter.delay_ms).unwrap_or(i64::MAX)),
            group: letter.group,
            trail: letter.trail,
            ..self.new_head(from, now_ms)
        };
        let mut ops = vec![Op::put(messages_key(&queue.name).number(head.seq), head.pack(&letter.payload)?)];
        if let Some(key) = once {
            ops.push(Op::put_json(key, &Once { seq: head.seq, at_ms: now_ms })?);
        }
        queue.core().insert(head.item());
        Ok(Taken::New { seq: head.seq, ops })
    }

    /// The head of a message that comes now, in its place.
    fn new_head(&mut self, from: &str, now_ms: i64) -> Head {
        Head {
            seq: self.next_seq(now_ms),
            from: from.to_owned(),
            at: self.automation.parts.clock.now(),
            priority: PRIORITY_USUAL,
            due_ms: now_ms,
            failed_count: 0,
            group: None,
            trail: Trail::default(),
            hook: None,
            last_error: None,
            died_at: None,
        }
    }

    /// A place after all that were given out; near the time, so that one that is gone is not given out again after a start.
    fn next_seq(&mut self, now_ms: i64) -> u64 {
        let now = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1_000);
        self.last_seq = now.max(self.last_seq.saturating_add(1));
        self.last_seq
    }

    /// What an attempt that is over does to its message; nothing when the message is gone. One that was thought lost can say
    /// that the message is done, and nothing else: it goes again already.
    fn ended(&self, over: Over, now_ms: i64) -> Option<Change> {
        let Over { flight, message, end, place } = over;
        let seq = flight.seq;
        let mut core = self.queue.core();
        if !core.is_under_way(&flight) && !matches!(end, End::Done) {
            return None;
        }
        let was = core.item(seq).cloned();
        let ops = match (end, message) {
            _ if was.is_none() => Vec::new(),
            (End::Done, Some(_)) => {
                core.gone(seq);
                vec![Op::delete(messages_key(&self.queue.name).number(seq))]
            }
            (End::Failed(why), Some(message)) => {
                let fate = core.fate(seq, now_ms, self.automation.draw());
                self.failed(&mut core, message, why, fate)
            }
            (End::Refused(why), Some(message)) => self.failed(&mut core, message, why, Fate::Dead),
            (End::NoRoom(why), Some(message)) => match core.no_room_ms(seq) {
                Some(wait_ms) => {
                    core.put_back(seq, now_ms.saturating_add(wait_ms));
                    Vec::new()
                }
                None => {
                    let fate = core.fate(seq, now_ms, self.automation.draw());
                    self.failed(&mut core, message, why, fate)
                }
            },
            (End::NotNow(wait_ms), _) => {
                core.put_back(seq, now_ms.saturating_add(wait_ms));
                Vec::new()
            }
            (End::Nothing | End::Done | End::Failed(_) | End::Refused(_) | End::NoRoom(_), _) => {
                core.gone(seq);
                Vec::new()
            }
        };
        Some(Change { seqs: vec![seq], ops, of: Of::Attempt(was, place) })
    }

    /// What is written of a message whose attempt failed.
    fn failed(&self, core: &mut Core, (record, head): (Record, Head), why: String, fate: Fate) -> Vec<Op> {
        let (queue, now) = (&self.queue.name, self.automation.parts.clock.now());
        let payload = Head::unpack(&record.value).map(|(_, payload)| payload).unwrap_or_default();
        let (seq, key, head) = (head.seq, messages_key(queue).number(head.seq), Head { last_error: Some(why), ..head });
        let packed = match fate {
            Fate::Again { due_ms, failed_count } => Head { due_ms, failed_count, ..head }.pack(payload),
            Fate::Dead => {
                Head { failed_count: head.failed_count.saturating_add(1), died_at: Some(now), ..head }.pack(payload)
            }
        };
        let Ok(packed) = packed else {
            core.put_back(seq, now.as_millisecond().saturating_add(STORE_WAIT_MS));
            return Vec::new();
        };
        match fate {
            Fate::Again { due_ms, failed_count } => {
                core.again(seq, due_ms, failed_count);
                vec![Op::put(key, packed)]
            }
            Fate::Dead => {
                core.gone(seq);
                vec![Op::put(dead_key(queue).number(seq), packed), Op::delete(key)]
            }
        }
    }

    /// One batch of all of it, with the marks as they are then.
    async fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let marks = begun_key(&self.queue.name);
        if self.is_in_doubt {
            // What was not answered in time may still stand in line; this passes after it.
            self.queue.store.batch(Vec::new(), Vec::new()).await?;
            if self.queue.is_closed.load(Ordering::Acquire) {
                return Err(StoreError::Gone);
            }
            let record = self.queue.store.get(&marks).await?.ok_or(StoreError::Conflict { precondition: 0 })?;
            (self.marked, self.revision, self.is_in_doubt) = (record.json()?, record.revision, false);
        }
        let begun: BTreeSet<u64> = self.queue.core().flying().collect();
        let checks = vec![Precondition::Revision(marks.clone(), self.revision)];
        let mut ops: Vec<Op> = changes.iter().flat_map(|change| change.ops.iter().cloned()).collect();
        let is_marked = begun != self.marked;
        if is_marked {
            ops.push(Op::put_json(marks, &begun)?);
        }
        if ops.is_empty() {
            return Ok(());
        }
        // That an attempt is over, and what becomes of what is dead, can be written down when the tenant's storage is full; that
        // a message comes cannot.
        let is_ours = changes.iter().all(|change| matches!(change.of, Of::Attempt(..) | Of::Dead(..)));
        let store = if is_ours { self.queue.store.with_reserve() } else { self.queue.store.clone() };
        match store.batch(ops, checks).await {
            Ok(commit) if is_marked => (self.marked, self.revision) = (begun, commit.revision),
            Ok(_) => {}
            Err(error) => {
                self.is_in_doubt = matches!(error, StoreError::Unavailable { .. });
                return Err(error);
            }
        }
        Ok(())
    }

    /// After a batch that was not written: each for itself, so that one that cannot be written is in nobody's way.
    async fn one_by_one(&mut self, changes: Vec<Change>) {
        // Each of a batch in doubt may be there, also one that is not tried again.
        let was_in_doubt = self.is_in_doubt;
        let mut changes = changes.into_iter();
        while let Some(change) = changes.next() {
            match self.commit(std::slice::from_ref(&change)).await {
                Ok(()) => self.settle(change),
                // Not the change's doing: the others would wait as long, one after the other.
                Err(error @ (StoreError::Unavailable { .. } | StoreError::Busy)) => {
                    self.undo(change, error, was_in_doubt || self.is_in_doubt);
                    changes.by_ref().for_each(|rest| self.undo(rest, StoreError::Busy, was_in_doubt));
                }
                Err(error) => self.undo(change, error, was_in_doubt || self.is_in_doubt),
            }
        }
    }

    /// Whether this queue is written by nobody any more, or by somebody else.
    fn close_if_over(&self, error: &StoreError) {
        if matches!(error, StoreError::Gone | StoreError::Closed | StoreError::Conflict { .. }) {
            self.queue.close();
        }
    }

    /// What could not be marked was not begun.
    fn put_back(&self, begin: &[Flight], error: &StoreError) {
        self.close_if_over(error);
        let wait_ms = match error {
            StoreError::KeyDisabled | StoreError::KeyRefused => SHUT_WAIT_MS,
            _ => STORE_WAIT_MS,
        };
        let due_ms = self.automation.parts.clock.now().as_millisecond().saturating_add(wait_ms);
        let mut core = self.queue.core();
        begin.iter().for_each(|flight| core.put_back(flight.seq, due_ms));
    }

    /// It is durable.
    fn settle(&self, change: Change) {
        match change.of {
            Of::Letter(sent, reply) => drop(reply.send(Ok(sent))),
            Of::Notes(rooms, reply) => drop(reply.send(Ok(rooms))),
            Of::Dead(dealt, reply) => drop(reply.send(Ok(dealt))),
            Of::Attempt(_, place) => drop(place),
        }
    }

    /// It is not, or nobody knows: the sender is told, and a message stays and goes again.
    fn undo(&self, change: Change, error: StoreError, is_in_doubt: bool) {
        let error = match error {
            // That would say that nothing was taken.
            StoreError::Busy if is_in_doubt => {
                StoreError::Unavailable { reason: "nobody knows whether it was written".to_owned() }
            }
            error => error,
        };
        self.close_if_over(&error);
        let now_ms = self.automation.parts.clock.now().as_millisecond();
        let mut core = self.queue.core();
        // Written or not, nobody knows: a message stays in the order, and leaves it when it is found not to be there. Before
        // it is handed over the doubt is over.
        let stays = is_in_doubt && !matches!(change.of, Of::Attempt(..));
        if !stays {
            change.seqs.iter().for_each(|seq| core.gone(*seq));
        }
        match change.of {
            Of::Letter(_, reply) => drop(reply.send(Err(error.into()))),
            Of::Notes(_, reply) => drop(reply.send(Err(error.into()))),
            Of::Dead(_, reply) => drop(reply.send(Err(error.into()))),
            Of::Attempt(was, place) => {
                // What was done is done again: at least once.
                if let Some(item) = was {
                    core.insert(Item { due_ms: now_ms.saturating_add(STORE_WAIT_MS), ..item });
                }
                drop(place);
            }
        }
    }
}

/// What a message that comes is.
enum Taken {
    New {
        seq: u64,
        ops: Vec<Op>,
    },
    /// It was taken under its key before.
    Repeat(Sent),
}
