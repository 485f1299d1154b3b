//! The end of the host: from its announcement on nothing is begun, and what is under way is waited for.
//!
//! Must never let anything begin after the announcement: whoever begins something takes a place first, and holds it to its
//! end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Whether the end was announced, and what is under way. All clones are the same.
#[derive(Clone)]
pub(crate) struct Closing(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_announced: bool,
    under_way_count: usize,
}

/// The place of something that is under way; it is over when this is dropped.
pub(crate) struct UnderWay(Closing);

// === impl Closing ===

impl Closing {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// A place for something that begins now; none once the end was announced.
    pub(crate) fn begin(&self) -> Option<UnderWay> {
        let mut may_begin = false;
        self.0.send_if_modified(|state| {
            may_begin = !state.is_announced;
            state.under_way_count += usize::from(may_begin);
            // Nobody waits for more to be under way.
            false
        });
        may_begin.then(|| UnderWay(self.clone()))
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.0.borrow().is_announced
    }

    /// Resolves once the end was announced.
    pub(crate) async fn announced(&self) {
        drop(self.0.subscribe().wait_for(|state| state.is_announced).await);
    }

    /// Announces the end, and waits until nothing is under way, at most so long. How much is still under way then.
    pub(crate) async fn close(&self, most: Duration) -> usize {
        self.0.send_modify(|state| state.is_announced = true);
        let mut seen = self.0.subscribe();
        drop(tokio::time::timeout(most, seen.wait_for(|state| state.under_way_count == 0)).await);
        self.0.borrow().under_way_count
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|state| {
            state.under_way_count = state.under_way_count.saturating_sub(1);
            state.is_announced
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_begins_after_the_end_was_announced_and_what_is_under_way_is_waited_for() {
        let closing = Closing::new();
        let under_way = closing.begin().unwrap();
        let long = closing.begin().unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(under_way);
        });
        let waiting = tokio::spawn({
            let closing = closing.clone();
            async move { closing.close(Duration::from_millis(300)).await }
        });
        closing.announced().await;
        assert!(closing.begin().is_none());
        assert_eq!(waiting.await.unwrap(), 1, "what takes longer is left alone");
        drop(long);
        assert_eq!(closing.close(Duration::from_secs(10)).await, 0);
    }
}
