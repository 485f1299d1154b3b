//! Checks on time: one look at what is due every few seconds, one run after another.
//!
//! Must never run the checks of a tenant that is locked, nor one twice for one time. What was missed while the
//! host was down is run once. A tenant with many checks cannot keep others from theirs: each look takes at most one of a
//! tenant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::{ResourceName, TenantId};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::definition::Check;
use crate::Control;

/// Time between two looks.
const ROUND: Duration = Duration::from_secs(5);

/// When which check is due next. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Timer(Arc<Mutex<BTreeMap<(TenantId, ResourceName), Timestamp>>>);

// === impl Timer ===

impl Timer {
    /// Says when a check ran last; takes it out when it is not to be run again by itself.
    pub(super) fn set(&self, tenant: &TenantId, check: &Check, last: Option<Timestamp>) {
        let name = (tenant.clone(), check.id.clone());
        match check.next(last) {
            Some(next) => {
                self.lock().insert(name, next);
            }
            None => {
                self.lock().remove(&name);
            }
        }
    }

    pub(super) fn remove(&self, tenant: &TenantId, check: &ResourceName) {
        self.lock().remove(&(tenant.clone(), check.clone()));
    }

    pub(super) fn forget(&self, tenant: &TenantId) {
        self.lock().retain(|(of, _), _| of != tenant);
    }

    /// What is due, at most one of each tenant, what waits longest first.
    fn due(&self, now: Timestamp) -> Vec<(TenantId, ResourceName)> {
        let mut due: Vec<_> =
            self.lock().iter().filter(|(_, at)| **at <= now).map(|(name, at)| (*at, name.clone())).collect();
        due.sort();
        let mut seen = BTreeSet::new();
        due.into_iter().map(|(_, name)| name).filter(|(tenant, _)| seen.insert(tenant.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(TenantId, ResourceName), Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Control ===

impl Control {
    /// Runs checks on time until `stopping` says so; a run that is under way then is given up.
    pub(crate) async fn run_checks(self, mut stopping: watch::Receiver<bool>) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
            tokio::select! {
                () = stopped => return,
                _ = rounds.tick() => {}
            }
            for (tenant, check) in self.checks.timer.due(self.parts.clock.now()) {
                let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
                tokio::select! {
                    () = stopped => return,
                    () = self.run_due(&tenant, &check) => {}
                }
            }
        }
    }

    async fn run_due(&self, tenant: &TenantId, id: &ResourceName) {
        let store = self.parts.tenants.open_tenant(tenant).filter(|store| store.check_keys().is_ok());
        let Some(store) = store else {
            // Whoever opens the tenant again says so, and then its checks are read anew.
            self.checks.timer.forget(tenant);
            return;
        };
        let Ok(check) = self.check(&store, id.as_str()).await else {
            self.checks.timer.remove(tenant, id);
            return;
        };
        let Ok(place) = Arc::clone(&self.checks.running).acquire_owned().await.map(Arc::new) else { return };
        let done = async {
            let result = self.judge(tenant, &store, &check, &place).await?;
            self.keep_result(tenant, &store, &check, (self.parts.audit.actor(), None), result).await
        };
        if let Err(error) = done.await {
            tracing::warn!(%tenant, check = %id, code = error.code, "a check could not be run on time");
        }
        drop(place);
        // Also after a failure: it is tried again at its next time, not at once and for ever.
        self.checks.timer.set(tenant, &check, Some(self.parts.clock.now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PutCheck;

    #[test]
    fn a_tenant_with_many_checks_has_one_a_look_and_others_have_theirs() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let timer = Timer::default();
        for (tenant, id) in [("acme", "a"), ("acme", "b"), ("acme", "c"), ("zeta", "z")] {
            let schedule = Some("0 3 * * *".to_owned());
            let sent = PutCheck { id: id.to_owned(), rule: "true".to_owned(), schedule, ..PutCheck::default() };
            let check = Check::read(sent, &"acme/ada".parse().unwrap(), at("2026-01-01T00:00:00Z")).unwrap();
            timer.set(&tenant.parse().unwrap(), &check, None);
        }
        assert!(timer.due(at("2026-01-01T02:59:59Z")).is_empty());
        let due = timer.due(at("2026-01-01T03:00:00Z"));
        assert_eq!(due.iter().map(|(tenant, _)| tenant.as_str()).collect::<Vec<_>>(), ["acme", "zeta"]);
        timer.forget(&"acme".parse().unwrap());
        assert_eq!(timer.due(at("2026-01-01T03:00:00Z")).len(), 1);
    }
}
