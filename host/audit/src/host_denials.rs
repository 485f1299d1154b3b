//! What policy did not leave to guests: each denial an entry and a decision to be explained, while those of late are few.
//!
//! Must never keep a guest waiting, and never let one that tries without end write its tenant's log full or drive its kept
//! decisions out: what is over the pace is counted, and the next entry says how many there were.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ringfence_core::{Clock, DecisionId, PrincipalId};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use crate::audit::Audit;
use crate::codes;
use crate::decisions;
use crate::event::Log;
use crate::invocation::InvocationFacts;

/// LIMIT: denials of a tenant's guests put on record in one window.
const TOLD_COUNT_MAX: u32 = 30;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// LIMIT: denials on their way to the record, of all tenants.
const WAITING_COUNT_MAX: usize = 256;
/// LIMIT: tenants whose pace is remembered; all windows begin anew when there are more.
const TENANTS_COUNT_MAX: usize = 4_096;

/// One denied host call.
pub struct HostDenial {
    /// The decision.
    pub decision: DecisionId,
    /// The plugin, as a principal.
    pub principal: PrincipalId,
    /// The act's word.
    pub act: &'static str,
    /// What it would have been done to.
    pub resource: String,
    /// The decision's record, as it is kept.
    pub record: Value,
}

/// Puts denied host calls on record. Cheap to clone; all clones keep one pace.
#[derive(Clone)]
pub struct HostDenials(Arc<Inner>);

struct Inner {
    audit: Audit,
    clock: Arc<dyn Clock>,
    /// Where it is written from: guests run on threads that are in no runtime.
    io: tokio::runtime::Handle,
    places: Arc<Semaphore>,
    /// One decision at a time is kept, or many at once would be in each other's way.
    keeping: Mutex<()>,
    /// By the tenant's unique id.
    windows: std::sync::Mutex<HashMap<String, Window>>,
}

#[derive(Default)]
struct Window {
    since: Duration,
    told_count: u32,
    left_out_count: u64,
}

impl HostDenials {
    /// Writes to these logs. Must be called inside the runtime that is to do it.
    pub fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        let (io, places) = (tokio::runtime::Handle::current(), Arc::new(Semaphore::new(WAITING_COUNT_MAX)));
        let (keeping, windows) = Default::default();
        Self(Arc::new(Inner { audit, clock, io, places, keeping, windows }))
    }

    /// Puts a denial on record, if there is room; says whether. What it is made of is asked for only then. Never waits.
    pub fn tell(&self, told: &InvocationFacts, denial: impl FnOnce() -> HostDenial) -> bool {
        let inner = &*self.0;
        let Some(left_out) = inner.room(told.store.uid()) else { return false };
        let Ok(place) = Arc::clone(&inner.places).try_acquire_owned() else { return false };
        let HostDenial { decision, principal, act, resource, record } = denial();
        let details = json!({
            "invocation": told.invocation.as_str(), "on_behalf_of": told.principal, "left_out_count": left_out,
        });
        let mut event = told.event(codes::HOST_CALL_DENIED, details);
        (event.action, event.resource) = (act, resource);
        (event.actor, event.decision) = (principal, Some(decision.clone()));
        let kept = json!({ "at": inner.clock.now(), "record": record });
        let (this, store) = (Arc::clone(&self.0), told.store.clone());
        inner.io.spawn(async move {
            // What is kept is found from the entry, so it comes first.
            let kept = {
                let _one = this.keeping.lock().await;
                decisions::keep(&store, &decision, &kept).await
            };
            if let Err(error) = kept {
                tracing::warn!(%error, "a denied host call could not be kept for explaining");
            }
            if let Err(error) = this.audit.record(&Log::Tenant(store), event).await {
                tracing::warn!(%error, "a denied host call could not be put on record");
            }
            drop(place);
        });
        true
    }
}

impl Inner {
    /// How many were left out before this one, when it may be told.
    fn room(&self, tenant: String) -> Option<u64> {
        let now = self.clock.monotonic();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= TENANTS_COUNT_MAX && !windows.contains_key(&tenant) {
            windows.clear();
        }
        windows.entry(tenant).or_default().take(now)
    }
}

impl Window {
    fn take(&mut self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.since) >= WINDOW {
            (self.since, self.told_count) = (now, 0);
        }
        if self.told_count >= TOLD_COUNT_MAX {
            self.left_out_count = self.left_out_count.saturating_add(1);
            return None;
        }
        self.told_count = self.told_count.saturating_add(1);
        Some(std::mem::take(&mut self.left_out_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_room_for_so_many_and_the_next_says_how_many_were_left_out() {
        let mut window = Window::default();
        let at = |s: u64| Duration::from_secs(s);
        for _ in 0..TOLD_COUNT_MAX {
            assert_eq!(window.take(at(100)), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(window.take(at(159)), None);
        }
        assert_eq!(window.take(at(160)), Some(7));
        assert_eq!(window.take(at(160)), Some(0));
    }
}
