//! What was written, told to those who read along inside the host, such as detection.
//!
//! Told only after the entry is durable, in the order of each log. Must never make a writer wait for a reader: the feed is
//! bounded, and who falls behind is told that entries are missing and reads them from the logs. A place that is skipped
//! without such a word was written when the store answered too late: its entry is in the log too.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::broadcast;

use crate::Log;

/// LIMIT: entries held for a reader that is behind; older ones are told as missing.
pub const FEED_COUNT_MAX: usize = 4_096;

/// One entry that is durable.
pub struct Committed {
    /// The log it stands in.
    pub log: Log,
    /// Its place there.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970 UTC.
    pub time_ms: i64,
    /// From [`crate::codes`].
    pub code: &'static str,
    /// OCSF class.
    pub class_uid: u32,
    /// The entry's body: the whole event as OCSF JSON, personal values included.
    pub event: Value,
}

/// What a reader is told.
pub enum Told {
    /// An entry.
    Committed(Arc<Committed>),
    /// The reader was too slow: `count` entries, of any logs, are not told. [`crate::Audit::size`] and
    /// [`crate::Audit::list`] have them; the places that a reader saw last in each log say where to begin.
    Missed {
        /// How many.
        count: u64,
    },
}

/// A reader's end. Holds at most [`FEED_COUNT_MAX`] entries, shared by all readers.
pub struct Feed(broadcast::Receiver<Arc<Committed>>);

/// The writers' end.
pub(crate) struct Publisher(broadcast::Sender<Arc<Committed>>);

// === impl Feed ===

impl Feed {
    /// The next thing to know; none when the logs are closed. Waits without a deadline: quiet logs are no fault.
    pub async fn next(&mut self) -> Option<Told> {
        match self.0.recv().await {
            Ok(committed) => Some(Told::Committed(committed)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Told::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// Entries that wait for this reader.
    pub fn backlog_count(&self) -> usize {
        self.0.len()
    }
}

// === impl Publisher ===

impl Default for Publisher {
    fn default() -> Self {
        Self(broadcast::channel(FEED_COUNT_MAX).0)
    }
}

impl Publisher {
    pub(crate) fn feed(&self) -> Feed {
        Feed(self.0.subscribe())
    }

    /// Whether anybody reads along, so that nothing need be kept for nobody.
    pub(crate) fn is_read(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(crate) fn tell(&self, committed: Committed) {
        // An error says that nobody reads, which is nobody's loss.
        drop(self.0.send(Arc::new(committed)));
    }
}
