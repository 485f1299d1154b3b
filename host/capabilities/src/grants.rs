//! The grants of one plugin as they are now: whoever changes them swaps them, whoever is asked looks again.
//!
//! Must never be cached across host calls: a revoked grant stops the next call of a guest that is already running.

use std::sync::Arc;

use arc_swap::ArcSwap;
use ringfence_core::{Capability, Grants};

/// The grants of one plugin, changing underneath. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveGrants(Arc<ArcSwap<Grants>>);

impl LiveGrants {
    /// A view of grants that someone else swaps.
    pub fn new(grants: Arc<ArcSwap<Grants>>) -> Self {
        Self(grants)
    }

    /// Grants that nobody changes; for tests and one-off calls.
    pub fn fixed(grants: Grants) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(grants)))
    }

    /// Whether the capability is granted now, whatever its scope.
    pub fn has(&self, capability: Capability) -> bool {
        self.0.load().get(capability).is_some()
    }

    /// Whether `name` of the capability is covered now.
    pub fn covers(&self, capability: Capability, name: &str) -> bool {
        self.0.load().covers(capability, name)
    }
}
