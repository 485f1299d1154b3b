//! What a log's writer does for the second place of its entries: nobody is told that an entry is recorded before it is there.
//!
//! Must never write the store while the second place is behind it, so that there is never more to make up for than what one
//! failure left; after a kill in between it is brought up to date from the store, as it is when it was away. What it holds is
//! compared with the log before anything is added: the last entry there must be the log's, and by the chain it vouches for the lines
//! at the end of its file, which `entries` checks. What stands before those is for who verifies a folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringfence_store::TenantStore;
use tokio::time::Instant;

use crate::AuditError;
use crate::entries::{ANSWER_TIME_MAX, EntriesError, Part};
use crate::envelope::link;
use crate::shards::Stump;
use crate::writer::{self, Shared, StoredEntry, Writer, unavailable};

/// Time between two attempts to bring the second place up to date while nobody asks for anything.
pub(crate) const RETRY_EVERY: Duration = Duration::from_secs(1);
/// LIMIT: entries made up for in one batch.
const BATCH_COUNT: u64 = 128;

/// Whether a log's entries are in the second place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// No second place is configured.
    Nowhere,
    /// Not all of them, or that is not known; until they are, nothing is recorded.
    Behind,
    /// All of them.
    Complete,
}

/// A log's second place as its writer knows it.
pub(crate) struct Copies {
    part: Part,
    /// The place after the last entry there; none when it must be looked at.
    at: Option<u64>,
    copied: Copied,
    /// For those who would refuse early: false once it failed, until it has all entries.
    takes: Arc<AtomicBool>,
    /// Whether the host's log says that it fails.
    is_said: bool,
}

enum Failure {
    Place(EntriesError),
    Log(AuditError),
}

impl From<EntriesError> for Failure {
    fn from(error: EntriesError) -> Self {
        Self::Place(error)
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::Log(error)
    }
}

impl Copies {
    /// Of the log `origin`, when there is a second place.
    pub(crate) fn new(shared: &Shared, store: &TenantStore, origin: &str, takes: Arc<AtomicBool>) -> Option<Self> {
        let part = shared.entries.as_ref()?.part(store, origin.to_owned(), shared.entropy.clone());
        Some(Self { part, at: None, copied: Copied::Behind, takes, is_said: false })
    }
}

impl Writer {
    pub(crate) fn copied(&self) -> Copied {
        self.copies.as_ref().map_or(Copied::Nowhere, |copies| copies.copied)
    }

    /// Before the store is written: whatever comes of that, the second place may lack what the store has.
    pub(crate) fn fall_behind(&mut self) {
        if let Some(copies) = &mut self.copies {
            copies.copied = Copied::Behind;
        }
    }

    /// Brings the second place up to date with the store, as far as the time allows.
    pub(crate) async fn catch_up(&mut self) {
        let ends = self.state().await.map(|state| (state.first, state.frontier.size()));
        match ends {
            // What goes wrong was said, and is tried again.
            Ok((first, size)) => drop(self.copy_to(first, size).await),
            Err(AuditError::Gone) => {
                // Of a deleted log nothing is left that could be copied.
                if let Some(copies) = &mut self.copies {
                    copies.copied = Copied::Complete;
                }
            }
            Err(_) => {}
        }
    }

    /// Brings the second place up to entry `to` of a log whose entries are there from `first` on.
    pub(crate) async fn copy_to(&mut self, first: u64, to: u64) -> Result<(), AuditError> {
        let Some(copies) = &mut self.copies else { return Ok(()) };
        let copied = advance(copies, &self.store, &self.origin, first, to).await;
        self.settle(copied)
    }

    /// Adds entries from place `first` on, which the store has, to a second place that has all before them.
    pub(crate) async fn copy(&mut self, first: u64, entries: Vec<StoredEntry>) -> Result<(), AuditError> {
        let Some(copies) = &mut self.copies else { return Ok(()) };
        let to = first.saturating_add(entries.len() as u64);
        copies.at = None;
        let copied = copies.part.append(first, entries).await;
        copies.at = copied.is_ok().then_some(to);
        self.settle(copied.map_err(Failure::Place))
    }

    /// Keeps what came of it, in the words of the log. Says a failure, and its end, once. What a log's place fails with concerns
    /// that log alone, and so does its end.
    fn settle(&mut self, copied: Result<(), Failure>) -> Result<(), AuditError> {
        let Some(copies) = &mut self.copies else { return Ok(()) };
        let failure = match copied {
            Ok(()) => {
                copies.copied = Copied::Complete;
                copies.takes.store(true, Ordering::Relaxed);
                if std::mem::take(&mut copies.is_said) {
                    tracing::info!(log = %self.origin, "the second place of the audit entries is up to date again");
                }
                return Ok(());
            }
            Err(failure) => failure,
        };
        copies.copied = Copied::Behind;
        let error = match failure {
            Failure::Log(error) => return Err(error),
            Failure::Place(EntriesError::Keys(error)) => return Err(unavailable(&self.origin, &error.into())),
            Failure::Place(error) => error,
        };
        copies.takes.store(false, Ordering::Relaxed);
        if !std::mem::replace(&mut copies.is_said, true) {
            tracing::error!(log = %self.origin, %error, "the second place of the audit entries has not what it must");
        }
        match error {
            EntriesError::Other { seq, what } => {
                // Whether it is the store that changed is seen when it is read again.
                self.forget_state();
                Err(AuditError::Broken { log: self.origin.clone(), seq, what })
            }
            _ => Err(AuditError::Unavailable),
        }
    }
}

async fn advance(copies: &mut Copies, store: &TenantStore, origin: &str, first: u64, to: u64) -> Result<(), Failure> {
    let until = Instant::now() + ANSWER_TIME_MAX;
    let mut at = match copies.at.take() {
        Some(at) => at,
        None => agreed(&copies.part, store, origin, first, to).await?,
    };
    while at < to {
        if Instant::now() >= until {
            copies.at = Some(at);
            return Err(EntriesError::Behind.into());
        }
        let (end, mut entries) = (to.min(at.saturating_add(BATCH_COUNT)), Vec::new());
        for seq in at..end {
            let missing = || AuditError::Broken { log: origin.to_owned(), seq, what: "it is missing" };
            entries.push(writer::read(store, origin, seq).await?.ok_or_else(missing)?);
        }
        copies.part.append(at, entries).await?;
        at = end;
    }
    copies.at = Some(at);
    Ok(())
}

/// The place after the last entry there, when that entry is the log's.
async fn agreed(part: &Part, store: &TenantStore, origin: &str, first: u64, to: u64) -> Result<u64, Failure> {
    let Some(last) = part.look().await? else { return Ok(first) };
    let other = |what| Failure::Place(EntriesError::Other { seq: last.seq, what });
    let there = last.seq.saturating_add(1);
    if there > to {
        return Err(other("its second place has more entries than the log"));
    }
    if there < first {
        return Err(other("what follows in its second place was deleted after its retention"));
    }
    // Of an entry that was deleted meanwhile, the next one's link is left.
    let is_ours = if there == first {
        Stump::load(store, origin).await?.chain_head == link(&last.envelope)
    } else {
        writer::read(store, origin, last.seq).await?.is_some_and(|stored| stored.envelope == last.envelope)
    };
    if is_ours { Ok(there) } else { Err(other("its second place has another entry there")) }
}
