//! Dead letters: messages that failed as often as they may. They are found by words, and put back or thrown away.
//!
//! Must never look at more than a page at once, however long nobody looked, nor change anything past the queue's one writer.

use std::collections::BTreeSet;

use jiff::Timestamp;
use ringfence_core::QueueName;
use ringfence_store::{PageToken, TenantStore};

use super::Queue;
use super::message::{Head, HookTarget, dead_key};
use super::writer::{DEALT_COUNT_MAX, Dealing, Dealt, Sending};
use crate::{Automation, AutomationError};

/// Most letters looked at for one answer.
const LOOKED_AT_COUNT_MAX: usize = 1_000;

/// Which dead messages of a queue are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters<'a> {
    /// Those of these ids.
    Named(&'a [String]),
    /// Those whose error, group, sender, point, plugin or payload contains this.
    Containing(&'a str),
    /// All.
    All,
}

/// A dead message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub id: String,
    /// Who sent it.
    pub from: String,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// When it died.
    pub died_at: Option<Timestamp>,
    /// Attempts.
    pub failed_count: u32,
    /// Its group.
    pub group: Option<String>,
    /// Of a notification the point, and the plugin that was to be told.
    pub hook: Option<HookTarget>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Automation {
    /// Dead messages of a queue, newest first, at most `limit`: those whose error, group, sender, point, plugin or payload
    /// contains `text`. Looks at 1000 at most; the token says where to go on.
    pub async fn dead_letters(
        &self,
        store: &TenantStore,
        queue: &QueueName,
        text: Option<&str>,
        before: Option<&PageToken>,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, Option<PageToken>), AutomationError> {
        self.queue(store, queue).await?;
        let (mut letters, mut looked_at_count, mut before) = (Vec::new(), 0_usize, before.cloned());
        loop {
            // No more than the answer has room for: the token can only say where a page ended.
            let room = limit.saturating_sub(letters.len());
            let count = room.min(LOOKED_AT_COUNT_MAX.saturating_sub(looked_at_count)).max(1);
            let page = store.scan_back(&dead_key(queue.as_str()), before.as_ref(), count).await?;
            looked_at_count = looked_at_count.saturating_add(page.records.len().max(1));
            let found = page.records.iter().filter_map(|(_, record)| letter(queue.as_str(), &record.value));
            letters.extend(found.filter(|letter| text.is_none_or(|text| letter.contains(text))));
            before = page.next;
            let is_enough = letters.len() >= limit || looked_at_count >= LOOKED_AT_COUNT_MAX;
            if before.is_none() || text.is_none() || is_enough {
                return Ok((letters, before));
            }
        }
    }

    /// Puts dead messages back, with all their attempts before them. Gives how many: those for which the queue has no room stay
    /// dead, and [`AutomationError::QueueFull`] is when that is all of them.
    pub async fn redrive(
        &self,
        store: &TenantStore,
        queue: &QueueName,
        letters: Letters<'_>,
    ) -> Result<u64, AutomationError> {
        let dealt = self.deal(store, queue, Dealing::PutBack, letters).await?;
        if dealt.is_full && dealt.count == 0 {
            return Err(AutomationError::QueueFull { retry_after_ms: 1_000 });
        }
        Ok(dealt.count)
    }

    /// Throws dead messages away. Gives how many.
    pub async fn discard(
        &self,
        store: &TenantStore,
        queue: &QueueName,
        letters: Letters<'_>,
    ) -> Result<u64, AutomationError> {
        Ok(self.deal(store, queue, Dealing::ThrowAway, letters).await?.count)
    }

    /// Has the queue's one writer deal with dead messages, a batch at a time.
    async fn deal(
        &self,
        store: &TenantStore,
        name: &QueueName,
        dealing: Dealing,
        letters: Letters<'_>,
    ) -> Result<Dealt, AutomationError> {
        let queue = self.queues.get(store, name.as_str()).ok_or(AutomationError::NotFound("queue"))?;
        let mut all = Dealt::default();
        if let Letters::Named(ids) = letters {
            let seqs = ids.iter().filter_map(|id| id.strip_prefix(name.as_str())?.strip_prefix('/')?.parse().ok());
            // Each once, however often it is named.
            let seqs: BTreeSet<u64> = seqs.collect();
            deal_with(&queue, dealing, seqs.into_iter().collect(), &mut all).await?;
            return Ok(all);
        }
        let mut before = None;
        loop {
            let page = store.scan_back(&dead_key(name.as_str()), before.as_ref(), DEALT_COUNT_MAX).await?;
            let meant = page.records.iter().filter(|(_, record)| letters.mean(name.as_str(), &record.value));
            let seqs = meant.filter_map(|(key, _)| key.last_number()).collect();
            let count_before = all.count;
            deal_with(&queue, dealing, seqs, &mut all).await?;
            before = page.next;
            if before.is_none() || all.is_full && all.count == count_before {
                return Ok(all);
            }
        }
    }
}

/// Deals with these, and adds what was done to `all`.
async fn deal_with(
    queue: &Queue,
    dealing: Dealing,
    mut seqs: Vec<u64>,
    all: &mut Dealt,
) -> Result<(), AutomationError> {
    while !seqs.is_empty() {
        let dealt = queue.ask_writer(|reply| Sending::Dead { seqs, dealing, reply }).await?;
        all.count = all.count.saturating_add(dealt.count);
        all.is_full |= dealt.is_full;
        seqs = dealt.rest;
    }
    Ok(())
}

impl Letters<'_> {
    /// Whether the dead message of these bytes is meant, of all that are looked at.
    fn mean(&self, queue: &str, bytes: &[u8]) -> bool {
        match self {
            Self::Containing(text) => letter(queue, bytes).is_some_and(|letter| letter.contains(text)),
            Self::Named(_) | Self::All => true,
        }
    }
}

impl DeadLetter {
    fn contains(&self, text: &str) -> bool {
        let words = [Some(self.from.as_str()), self.group.as_deref(), self.last_error.as_deref()];
        let hook = self.hook.iter().flat_map(|target| [target.hook.as_str(), target.plugin.as_str()]);
        words.into_iter().flatten().chain(hook).any(|word| word.contains(text))
            || String::from_utf8_lossy(&self.payload).contains(text)
    }
}

fn letter(queue: &str, bytes: &[u8]) -> Option<DeadLetter> {
    let (head, payload) = Head::unpack(bytes)?;
    Some(DeadLetter {
        id: format!("{queue}/{}", head.seq),
        from: head.from,
        sent_at: head.at,
        died_at: head.died_at,
        failed_count: head.failed_count,
        group: head.group,
        hook: head.hook,
        last_error: head.last_error,
        payload: payload.to_vec(),
    })
}
