//! Where guest log lines end up: sealed in the tenant's store, the newest few thousand of each plugin.
//!
//! Must never slow a guest down or grow without bound: lines wait in a bounded queue, a full queue drops and says how
//! many, and the oldest lines go when there are too many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::{CausedBy, Clock, InvocationId, PluginName, limits};
use ringfence_store::{Key, Op, Segment, TenantStore};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::error::CapabilitiesError;

/// LIMIT: lines of one plugin that wait to be written.
const QUEUE_COUNT_MAX: usize = 2_048;
/// LIMIT: lines written together.
const BATCH_COUNT_MAX: usize = 256;
/// How long lines gather before they are written together.
const GATHER: Duration = Duration::from_millis(20);
/// LIMIT: lines a slow follower may lag behind before it misses some.
const FOLLOW_COUNT_MAX: usize = 1_024;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Step by step.
    Trace,
    /// For finding mistakes.
    Debug,
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warn,
    /// Something failed.
    Error,
    /// Something failed for good.
    Critical,
}

/// One line of a guest's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// How much it matters.
    pub level: LogLevel,
    /// Where it comes from: what the guest says, `stdout`, `stderr`, or `ringfence` for the host's own words.
    pub context: String,
    /// What it says.
    pub message: String,
    /// By which invocation; none for the host's own words about the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<InvocationId>,
    /// Which invocation called that one or sent its message, when a plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<CausedBy>,
}

/// Takes log lines. Called on a guest's worker: must not block.
pub trait GuestLog: Send + Sync + 'static {
    /// Takes one line.
    fn line(&self, line: LogLine);
}

/// A line with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLine {
    /// Counts up from 0 over the plugin's life; what a reader gives to read on.
    pub seq: u64,
    /// The line.
    pub line: LogLine,
}

/// Who reads along, made with the first: room for lines takes more memory than all else of a log that nobody follows.
type Followers = Arc<OnceLock<broadcast::Sender<StoredLine>>>;

/// The log of one plugin, kept in its tenant's store under `log/<plugin>/<number>`.
pub struct StoredLog {
    queue: mpsc::Sender<Order>,
    dropped: Arc<AtomicU64>,
    followers: Followers,
    store: TenantStore,
    plugin: PluginName,
}

enum Order {
    Line(LogLine),
    Flush(oneshot::Sender<()>),
}

// === impl StoredLog ===

impl StoredLog {
    /// Opens the log of a plugin. One for each plugin: two would write over each other.
    pub fn open(
        store: TenantStore,
        plugin: PluginName,
        clock: Arc<dyn Clock>,
        io: &tokio::runtime::Handle,
    ) -> Arc<Self> {
        let (queue, orders) = mpsc::channel(QUEUE_COUNT_MAX);
        let followers = Followers::default();
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            store: store.clone(),
            plugin: plugin.clone(),
            orders,
            dropped: Arc::clone(&dropped),
            followers: Arc::clone(&followers),
            clock,
            next: None,
        };
        io.spawn(writer.run());
        Arc::new(Self { queue, dropped, followers, store, plugin })
    }

    /// At most `limit` lines, oldest first: the first ones after `since`, or the newest ones without it.
    pub async fn tail(&self, since: Option<u64>, limit: usize) -> Result<Vec<StoredLine>, CapabilitiesError> {
        let limit = limit.min(limits::LOG_LINES_KEPT_MAX);
        let broken = |error: ringfence_store::StoreError| CapabilitiesError::Log(error.to_string());
        let Some(since) = since else { return self.newest(limit).await.map_err(broken) };
        let (mut lines, mut after) = (Vec::new(), None);
        loop {
            let mut page = self.store.scan(&prefix(&self.plugin), after.as_ref(), limit).await.map_err(broken)?;
            after = page.next.take();
            lines.extend(stored(page).into_iter().filter(|line| line.seq > since));
            if lines.len() >= limit || after.is_none() {
                lines.truncate(limit);
                return Ok(lines);
            }
        }
    }

    async fn newest(&self, limit: usize) -> Result<Vec<StoredLine>, ringfence_store::StoreError> {
        let (mut lines, mut before) = (Vec::new(), None);
        while lines.len() < limit {
            let mut page =
                self.store.scan_back(&prefix(&self.plugin), before.as_ref(), limit.saturating_sub(lines.len())).await?;
            before = page.next.take();
            lines.extend(stored(page));
            if before.is_none() {
                break;
            }
        }
        lines.reverse();
        Ok(lines)
    }

    /// Lines as they are written from now on; a reader who lags misses some and is told.
    pub fn subscribe(&self) -> broadcast::Receiver<StoredLine> {
        self.followers.get_or_init(|| broadcast::channel(FOLLOW_COUNT_MAX).0).subscribe()
    }

    /// Whose plugin it is.
    pub fn tenant(&self) -> Option<&ringfence_core::TenantId> {
        self.store.tenant()
    }

    /// Waits until the lines taken so far are written.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Order::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

impl GuestLog for StoredLog {
    fn line(&self, line: LogLine) {
        if self.queue.try_send(Order::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes lines in batches, off the guest's path.
struct Writer {
    store: TenantStore,
    plugin: PluginName,
    orders: mpsc::Receiver<Order>,
    dropped: Arc<AtomicU64>,
    followers: Followers,
    clock: Arc<dyn Clock>,
    /// Number of the next line, once it is known.
    next: Option<u64>,
}

// === impl Writer ===

impl Writer {
    async fn run(mut self) {
        let mut orders = Vec::with_capacity(BATCH_COUNT_MAX);
        while self.orders.recv_many(&mut orders, BATCH_COUNT_MAX).await > 0 {
            let flushes = orders.iter().any(|order| matches!(order, Order::Flush(_)));
            if orders.len() < BATCH_COUNT_MAX && !flushes {
                tokio::time::sleep(GATHER).await;
                while orders.len() < BATCH_COUNT_MAX
                    && let Ok(order) = self.orders.try_recv()
                {
                    orders.push(order);
                }
            }
            let (mut lines, mut waiting) = (Vec::new(), Vec::new());
            for order in orders.drain(..) {
                match order {
                    Order::Line(line) => lines.push(line),
                    Order::Flush(done) => waiting.push(done),
                }
            }
            self.confess_dropped(&mut lines);
            if !lines.is_empty()
                && let Err(error) = self.write(&lines).await
            {
                self.next = None;
                self.dropped.fetch_add(lines.len() as u64, Ordering::Relaxed);
                tracing::warn!(%error, lines = lines.len(), "guest log lines were not written");
            }
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    fn confess_dropped(&self, lines: &mut Vec<LogLine>) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let message = format!("{dropped} lines were dropped: they came faster than they could be written");
            let context = "ringfence".to_owned();
            let (at, level) = (self.clock.now(), LogLevel::Warn);
            lines.push(LogLine { at, level, context, message, invocation: None, caused_by: None });
        }
    }

    async fn write(&mut self, lines: &[LogLine]) -> Result<(), ringfence_store::StoreError> {
        let first = match self.next {
            Some(next) => next,
            None => self.find_next().await?,
        };
        let mut number = first;
        let mut ops = Vec::with_capacity(lines.len().saturating_mul(2));
        for line in lines {
            // A line is made of strings, a time and an id: writing it as JSON cannot fail.
            let Ok(value) = serde_json::to_vec(line) else { continue };
            ops.push(Op::Put { key: prefix(&self.plugin).number(number), value });
            if let Some(old) = number.checked_sub(limits::LOG_LINES_KEPT_MAX as u64) {
                ops.push(Op::Delete { key: prefix(&self.plugin).number(old) });
            }
            number = number.saturating_add(1);
        }
        self.store.batch(ops, Vec::new()).await?;
        self.next = Some(number);
        for (seq, line) in (first..).zip(lines) {
            if let Some(followers) = self.followers.get() {
                let _ = followers.send(StoredLine { seq, line: line.clone() });
            }
        }
        Ok(())
    }

    async fn find_next(&self) -> Result<u64, ringfence_store::StoreError> {
        let newest = self.store.scan_back(&prefix(&self.plugin), None, 1).await?;
        let number = newest.records.first().and_then(|(key, _)| number_of(key));
        Ok(number.map_or(0, |number| number.saturating_add(1)))
    }
}

fn prefix(plugin: &PluginName) -> Key {
    Key::new(["log", plugin.as_str()])
}

fn stored(page: ringfence_store::Page) -> Vec<StoredLine> {
    let line = |(key, record): &(Key, ringfence_store::Record)| {
        Some(StoredLine { seq: number_of(key)?, line: serde_json::from_slice(&record.value).ok()? })
    };
    page.records.iter().filter_map(line).collect()
}

fn number_of(key: &Key) -> Option<u64> {
    match key.segments().last() {
        Some(Segment::Number(number)) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rig, Still};

    fn line(number: usize) -> LogLine {
        let message = format!("line {number}");
        let (at, level, context) = (Still.now(), LogLevel::Info, "app".to_owned());
        LogLine { at, level, context, message, invocation: None, caused_by: None }
    }

    async fn log(rig: &Rig) -> Arc<StoredLog> {
        let io = tokio::runtime::Handle::current();
        StoredLog::open(rig.store.clone(), "visits".parse().unwrap(), Arc::new(Still), &io)
    }

    #[tokio::test]
    async fn lines_are_read_back_in_order_also_after_a_restart() {
        let rig = Rig::new(&[]).await;
        let first = log(&rig).await;
        (0..3).for_each(|number| first.line(line(number)));
        first.flush().await;
        let second = log(&rig).await;
        second.line(line(3));
        second.flush().await;
        let lines = second.tail(None, 10).await.unwrap();
        let messages: Vec<_> = lines.iter().map(|stored| stored.line.message.as_str()).collect();
        assert_eq!(messages, ["line 0", "line 1", "line 2", "line 3"]);
        assert_eq!(second.tail(None, 2).await.unwrap(), lines[2..]);
        assert_eq!(second.tail(Some(lines[1].seq), 10).await.unwrap(), lines[2..]);
    }

    #[tokio::test]
    async fn followers_see_lines_as_they_are_written() {
        let rig = Rig::new(&[]).await;
        let log = log(&rig).await;
        let mut follow = log.subscribe();
        log.line(line(0));
        assert_eq!(follow.recv().await.unwrap().line, line(0));
    }

    #[tokio::test]
    async fn a_flood_is_dropped_counted_and_bounded() {
        let rig = Rig::new(&[]).await;
        let log = log(&rig).await;
        let many = QUEUE_COUNT_MAX + 1_000;
        // The writer cannot run meanwhile: this test has one thread and does not wait.
        (0..many).for_each(|number| log.line(line(number)));
        log.flush().await;
        log.line(line(0));
        log.flush().await;
        let lines = log.tail(None, limits::LOG_LINES_KEPT_MAX).await.unwrap();
        assert!(lines.len() <= limits::LOG_LINES_KEPT_MAX);
        assert!(
            lines.iter().any(|stored| stored.line.message.starts_with("1000 lines were dropped")),
            "{:?}",
            lines.last()
        );
        let stored = rig.store.scan(&prefix(&"visits".parse().unwrap()), None, limits::PAGE_COUNT_MAX).await.unwrap();
        assert!(stored.records.first().and_then(|(key, _)| number_of(key)).unwrap() > 0, "the oldest lines are gone");
    }
}
