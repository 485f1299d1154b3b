//! Dead letters: messages that failed as often as they may. They are found by words, and put back or thrown away.
//!
//! Must never look at more than a page at once, however long nobody looked.

use jiff::Timestamp;
use ringfence_core::ResourceName;
use ringfence_store::{Op, PageToken, TenantStore};

use super::message::{Head, dead_key, messages_key};
use crate::{Automation, AutomationError};

/// Most letters looked at for one answer.
const LOOKED_AT_COUNT_MAX: usize = 1_000;
/// Most letters put back in one batch.
const BATCH_COUNT: usize = 200;

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
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Automation {
    /// Dead messages of a queue, newest first: those whose error, group, sender or payload contains `text`. Looks at
    /// 1000 at most; the token says where to go on.
    pub async fn dead_letters(
        &self,
        store: &TenantStore,
        queue: &ResourceName,
        text: Option<&str>,
        before: Option<&PageToken>,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, Option<PageToken>), AutomationError> {
        self.queue(store, queue).await?;
        let looked_at = if text.is_some() { LOOKED_AT_COUNT_MAX } else { limit };
        let page = store.scan_back(&dead_key(queue.as_str()), before, looked_at).await?;
        let letters = page.records.iter().filter_map(|(_, record)| letter(queue.as_str(), &record.value));
        let letters = letters.filter(|letter| text.is_none_or(|text| letter.contains(text))).collect();
        Ok((letters, page.next))
    }

    /// Puts dead messages back, with all their attempts before them; all of them when none is named. Gives how many.
    pub async fn redrive(
        &self,
        store: &TenantStore,
        queue: &ResourceName,
        ids: &[String],
    ) -> Result<u64, AutomationError> {
        let open = self.queues.get(store, queue.as_str()).ok_or(AutomationError::NotFound("queue"))?;
        let mut count = 0;
        let mut before = None;
        loop {
            let page = store.scan_back(&dead_key(queue.as_str()), before.as_ref(), BATCH_COUNT).await?;
            let (mut ops, mut items) = (Vec::new(), Vec::new());
            for (_, record) in &page.records {
                let Some((head, payload)) = Head::unpack(&record.value) else { continue };
                if !ids.is_empty() && !ids.contains(&open.id(head.seq)) {
                    continue;
                }
                let due_ms = self.parts.clock.now().as_millisecond();
                let head = Head { failed_count: 0, due_ms, died_at: None, last_error: None, ..head };
                ops.push(Op::delete(dead_key(queue.as_str()).number(head.seq)));
                ops.push(Op::put(messages_key(queue.as_str()).number(head.seq), head.pack(payload)?));
                items.push(head.item());
            }
            if !ops.is_empty() {
                store.batch(ops, Vec::new()).await?;
                count += items.len() as u64;
                let mut core = open.core();
                items.into_iter().for_each(|item| core.insert(item));
                drop(core);
                open.bell.notify_one();
            }
            before = page.next;
            if before.is_none() {
                return Ok(count);
            }
        }
    }
}

impl DeadLetter {
    fn contains(&self, text: &str) -> bool {
        let words = [Some(self.from.as_str()), self.group.as_deref(), self.last_error.as_deref()];
        words.into_iter().flatten().any(|word| word.contains(text))
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
        last_error: head.last_error,
        payload: payload.to_vec(),
    })
}
