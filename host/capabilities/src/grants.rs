//! The grants of one plugin as they are now: whoever changes them swaps them, whoever is asked looks again.
//!
//! Must never be cached across host calls: a revoked grant stops the next call of a guest that is already running.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ringfence_core::{Capability, CapabilityUse, Grants};

/// The grants of one plugin, changing underneath. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveGrants(Arc<ArcSwap<Grants>>, Option<Arc<CapabilityUse>>);

impl LiveGrants {
    /// A view of grants that someone else swaps.
    pub fn new(grants: Arc<ArcSwap<Grants>>) -> Self {
        Self(grants, None)
    }

    /// The same, and what is used of them is noted.
    #[must_use]
    pub fn noting(self, used: Arc<CapabilityUse>) -> Self {
        Self(self.0, Some(used))
    }

    /// Grants that nobody changes; for tests and one-off calls.
    pub fn fixed(grants: Grants) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(grants)), None)
    }

    /// Whether the capability is granted now, whatever its scope.
    pub fn has(&self, capability: Capability) -> bool {
        self.noted(capability, self.0.load().get(capability).is_some())
    }

    /// Whether `name` of the capability is covered now.
    pub fn covers(&self, capability: Capability, name: &str) -> bool {
        self.noted(capability, self.0.load().covers(capability, name))
    }

    fn noted(&self, capability: Capability, granted: bool) -> bool {
        if let Some(used) = self.1.as_ref().filter(|_| granted) {
            used.note(capability);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use ringfence_core::Grant;

    use super::*;

    #[test]
    fn only_what_was_granted_counts_as_used() {
        let mut grants = Grants::default();
        grants.insert(Grant { capability: Capability::Secrets, scope: vec!["stripe".to_owned()] });
        let used = Arc::new(CapabilityUse::default());
        let live = LiveGrants::fixed(grants).noting(Arc::clone(&used));
        assert!(!live.has(Capability::Http) && !live.covers(Capability::Secrets, "other"));
        assert!(used.take().is_empty());
        assert!(live.covers(Capability::Secrets, "stripe"));
        assert_eq!(used.take(), [Capability::Secrets]);
    }
}
