//! `wasi:logging` and what a guest prints: both become lines of its plugin's log, within its log budget.
//!
//! Must never keep a guest waiting, never write for a guest without a grant, and never write what the tenant's settings against
//! data loss look for: a word stands in its place. The host's own words to the plugin's owner (why a request was refused,
//! that a budget is used up) are written all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_core::{Capability, CausedBy, Clock, InvocationId, LossPlace, LossTaken, limits};
use ringfence_engine::{Guest, GuestOutput, Meter};
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::logging::wasi::logging::logging::{self, Level};
use crate::grants::LiveGrants;
use crate::guarded::{Guarded, Lost};
use crate::logs::{GuestLog, LogLevel, LogLine};
use crate::loss::masked;
use crate::pii::Verdict;
use crate::quota::Ledger;

/// What the host's own lines name as their origin.
const OWN_CONTEXT: &str = "ringfence";
/// LIMIT: most bytes of a line's context.
const CONTEXT_BYTES_MAX: usize = 128;

/// Offers `wasi:logging`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    logging::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl logging::Host for View<'_> {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let bound = self.bound()?;
        bound.call()?;
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
            Level::Critical => LogLevel::Critical,
        };
        if bound.grants.has(Capability::Logging) {
            // What is logged lies in the guest log; here it is that it was.
            bound.leave.notes.note(Capability::Logging, "write-log", "", Verdict::Granted);
        }
        bound.notebook.write(level, &context, &message);
        Ok(())
    }
}

/// The log of one invocation.
pub(crate) struct Notebook {
    log: Arc<dyn GuestLog>,
    invocation: InvocationId,
    caused_by: Option<CausedBy>,
    meter: Arc<Meter>,
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    grants: LiveGrants,
    guarded: Guarded,
    said_full: AtomicBool,
}

// === impl Notebook ===

impl Notebook {
    pub(crate) fn new(
        log: Arc<dyn GuestLog>,
        (invocation, caused_by): (InvocationId, Option<CausedBy>),
        meter: Arc<Meter>,
        ledger: Arc<Ledger>,
        clock: Arc<dyn Clock>,
        grants: LiveGrants,
        guarded: Guarded,
    ) -> Self {
        let said_full = AtomicBool::new(false);
        Self { log, invocation, caused_by, meter, ledger, clock, grants, guarded, said_full }
    }

    /// A line of the guest's: written when logging is granted and the budget allows.
    pub(crate) fn write(&self, level: LogLevel, context: &str, message: &str) {
        if !self.grants.has(Capability::Logging) {
            return;
        }
        let looked_for = self.guarded.loss_actions(None);
        let (context, in_context) = masked(context, CONTEXT_BYTES_MAX, looked_for);
        let (message, in_message) = masked(message, limits::LOG_LINE_BYTES_MAX, looked_for);
        let bytes = context.len().saturating_add(message.len()).saturating_add(1) as u64;
        let why = match self.ledger.log_bytes(bytes) {
            Ok(()) if self.meter.log_bytes(bytes).is_ok() => {
                let (invocation, taken) = (&self.invocation, LossTaken::Masked);
                let lost = Lost { invocation, place: LossPlace::Log, host: None, taken };
                self.guarded.lost(&lost, in_context.iter().chain(&in_message).map(|hit| hit.kind));
                return self.put(level, context, message);
            }
            Ok(()) => {
                self.ledger.unlog_bytes(bytes);
                "the log budget of this invocation is used up".to_owned()
            }
            Err(exhausted) => exhausted.to_string(),
        };
        if !self.said_full.swap(true, Ordering::Relaxed) {
            self.own(LogLevel::Warn, &format!("{why}; its further lines are dropped"));
        }
    }

    /// A line of the host's to the plugin's owner. LIMIT: callers bound how many an invocation can cause.
    pub(crate) fn own(&self, level: LogLevel, message: &str) {
        self.put(level, OWN_CONTEXT.to_owned(), cut(message, limits::LOG_LINE_BYTES_MAX));
    }

    fn put(&self, level: LogLevel, context: String, message: String) {
        let invocation = Some(self.invocation.clone());
        let caused_by = self.caused_by.clone();
        self.log.line(LogLine { at: self.clock.now(), level, context, message, invocation, caused_by });
    }
}

/// Which of its streams a guest prints to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// Turns what a guest prints into lines.
pub(crate) struct Printed {
    notebook: Arc<Notebook>,
    stream: Stream,
    /// The beginning of a line whose end has not come. LIMIT: never longer than one line may be.
    open: Mutex<Vec<u8>>,
}

// === impl Printed ===

impl Printed {
    pub(crate) fn new(notebook: Arc<Notebook>, stream: Stream) -> Self {
        Self { notebook, stream, open: Mutex::new(Vec::new()) }
    }

    fn line(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\r');
        let (level, context) = match self.stream {
            Stream::Output => (LogLevel::Info, "stdout"),
            Stream::Error => (LogLevel::Warn, "stderr"),
        };
        self.notebook.write(level, context, text);
    }
}

impl GuestOutput for Printed {
    fn write(&self, bytes: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, ends) = match piece.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (piece, false),
            };
            for part in content.chunks(limits::LOG_LINE_BYTES_MAX) {
                if open.len().saturating_add(part.len()) > limits::LOG_LINE_BYTES_MAX {
                    self.line(&open);
                    open.clear();
                }
                open.extend_from_slice(part);
            }
            if ends {
                self.line(&open);
                open.clear();
            }
        }
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        if !open.is_empty() {
            self.line(&open);
        }
    }
}

/// The text, cut at a character when it is too long, and saying so.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    format!("{} (cut)", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ringfence_core::{Budget, Quota};

    use super::*;
    use crate::testing::Rig;

    const LOGGING: &[(Capability, &[&str])] = &[(Capability::Logging, &[])];

    #[tokio::test]
    async fn a_flood_ends_at_the_budget_with_one_word_about_it() {
        let rig = Rig::new(LOGGING).await;
        let mut guest = rig.guest(Budget { log_bytes: 1_000, ..Budget::DEFAULT });
        for _ in 0..1_000 {
            logging::Host::log(&mut guest.view(), Level::Info, "app".into(), "ninety-six bytes or so".into()).unwrap();
        }
        let messages = rig.lines.messages();
        assert_eq!(messages.len(), 1_000 / 26 + 1);
        assert!(messages.last().unwrap().contains("log budget"));
        assert!(guest.bound.meter.usage().log_bytes <= 1_000);
    }

    #[tokio::test]
    async fn a_tenant_that_wrote_enough_for_a_day_is_told_so_once() {
        let rig = Rig::new(LOGGING).await;
        rig.ledger.set(Quota { log_bytes_per_day: 60, ..Quota::STANDARD });
        let mut guest = rig.guest(Budget::DEFAULT);
        for _ in 0..5 {
            logging::Host::log(&mut guest.view(), Level::Info, "app".into(), "ninety-six bytes or so".into()).unwrap();
        }
        let messages = rig.lines.messages();
        assert_eq!(messages.len(), 3);
        assert_eq!(
            messages[2],
            "the tenant's quota of 60 bytes of guest log a day is used up; its further lines are dropped"
        );
        assert_eq!(rig.ledger.usage().unwrap().log_refused_count, 3);
        rig.ledger.set(Quota { log_bytes_per_day: 1_000, ..Quota::STANDARD });
        logging::Host::log(&mut guest.view(), Level::Info, "app".into(), "more".into()).unwrap();
        assert_eq!(rig.lines.messages()[3], "more", "raising it takes effect at once");
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_says_so() {
        let rig = Rig::new(LOGGING).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        logging::Host::log(&mut guest.view(), Level::Info, "app".into(), "ä".repeat(limits::LOG_LINE_BYTES_MAX))
            .unwrap();
        let line = rig.lines.messages().remove(0);
        assert!(line.ends_with("(cut)") && line.len() <= limits::LOG_LINE_BYTES_MAX + 6);
    }

    #[tokio::test]
    async fn what_is_looked_for_is_masked_and_counted_in_what_is_logged_and_printed() {
        let rig = Rig::new(LOGGING).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let card = "4111 1111 1111 1111";
        logging::Host::log(&mut guest.view(), Level::Info, card.into(), format!("paid with {card}")).unwrap();
        let printed = Printed::new(Arc::clone(&guest.bound.notebook), Stream::Output);
        printed.write(b"NHS 943 47");
        printed.write(b"6 5919 of ann@example.com\n");
        let messages = rig.lines.messages();
        assert_eq!(messages, ["paid with [card]", "NHS [nhs-number] of ann@example.com"]);
        let mut told: Vec<_> = rig.standing.take_losses(None);
        told.sort_by_key(|loss| loss.kind);
        let told: Vec<_> = told.iter().map(|loss| (loss.kind.as_str(), loss.place, loss.taken, loss.count)).collect();
        let logged = |word, count| (word, LossPlace::Log, LossTaken::Masked, count);
        assert_eq!(told, [logged("card", 2), logged("nhs-number", 1)]);
    }

    #[tokio::test]
    async fn without_a_grant_nothing_of_the_guests_is_written() {
        let rig = Rig::new(&[]).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        logging::Host::log(&mut guest.view(), Level::Info, "app".into(), "quiet".into()).unwrap();
        Printed::new(Arc::clone(&guest.bound.notebook), Stream::Error).write(b"quiet\n");
        guest.bound.notebook.own(LogLevel::Warn, "the host may always speak to the owner");
        assert_eq!(rig.lines.messages(), ["the host may always speak to the owner"]);
    }

    #[tokio::test]
    async fn what_is_printed_becomes_lines_wherever_it_is_split() {
        let rig = Rig::new(LOGGING).await;
        let guest = rig.guest(Budget::DEFAULT);
        let printed = Printed::new(Arc::clone(&guest.bound.notebook), Stream::Output);
        for piece in ["one\ntw", "o\r\n\nthr", "ee"] {
            printed.write(piece.as_bytes());
        }
        assert_eq!(rig.lines.messages(), ["one", "two", ""]);
        drop(printed);
        assert_eq!(rig.lines.messages().last().unwrap(), "three");
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_written_in_bounded_parts() {
        let rig = Rig::new(LOGGING).await;
        let guest = rig.guest(Budget::DEFAULT);
        let printed = Printed::new(Arc::clone(&guest.bound.notebook), Stream::Output);
        printed.write(&vec![b'x'; 3 * limits::LOG_LINE_BYTES_MAX]);
        assert_eq!(rig.lines.messages().len(), 2);
        assert!(rig.lines.messages().iter().all(|line| line.len() == limits::LOG_LINE_BYTES_MAX));
    }
}
