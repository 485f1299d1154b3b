//! One word of two people at a time about one log or place, so that what was announced is what is done.
//!
//! A word is on the log before its turn is over, so one turn for the whole host would have tenants wait for each other's logs.
//! Must never be held by somebody who waits for another turn.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ringfence_audit::Log;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::Control;

/// The turns that somebody has or waits for, by the origin of the log.
#[derive(Default)]
pub(crate) struct Agreeing(Mutex<HashMap<String, Weak<AsyncMutex<()>>>>);

impl Agreeing {
    async fn turn(&self, origin: String) -> OwnedMutexGuard<()> {
        let turn = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // There are as many as requests that are here now.
            kept.retain(|_, turn| turn.strong_count() > 0);
            let known = kept.get(&origin).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(AsyncMutex::new(()));
                kept.insert(origin, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

impl Control {
    /// Waits until nobody else says his word about what is on this log.
    pub(crate) async fn turn_to_agree(&self, log: &Log) -> OwnedMutexGuard<()> {
        self.agreeing.turn(self.parts.audit.origin(log)).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_place_waits_for_itself_and_for_no_other() {
        let agreeing = Agreeing::default();
        let turn = |of: &str| agreeing.turn(of.to_owned()).now_or_never();
        let held = turn("acme");
        assert!(held.is_some() && turn("beta").is_some() && turn("acme").is_none());
        drop(held);
        assert!(turn("acme").is_some());
        assert!(turn("beta").is_some());
        assert_eq!(agreeing.0.lock().unwrap().len(), 1, "what nobody has or waits for is not kept");
    }
}
