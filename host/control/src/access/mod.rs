//! Who holds what access, who used it, and whether somebody else thinks it should stay: facts of use, the report over them,
//! access reviews.
//!
//! Must never call something unused that was not watched: what is not known is said to be unknown.
//! `facts.rs` keeps the facts, `report.rs` judges them (`labelled.rs` roles by label), `campaign.rs` has the rules of reviews and `reviews.rs` their
//! endpoints, `overdue.rs` does what a review promised for its last day.

pub(crate) mod campaign;
mod facts;
mod labelled;
mod overdue;
pub mod report;
pub mod reviews;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use ringfence_core::{Capability, PluginName, PrincipalId, TenantId};
use ringfence_store::{Locks, TenantStore};

/// What was used and is not written down yet, and whose turn it is.
#[derive(Clone, Default)]
pub struct Access(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// One at a time writes facts.
    keeping: tokio::sync::Mutex<()>,
    /// One at a time decides about an item of a tenant, so that an item is decided once.
    deciding: Locks<TenantId>,
    /// Told when a review was opened, which may be due before the next round.
    opened: tokio::sync::Notify,
}

/// Bounded by the principals with a session and the plugins that are live.
#[derive(Default)]
struct Pending {
    acts: HashMap<PrincipalId, Acts>,
    grants: HashMap<(String, PluginName), (TenantStore, BTreeSet<Capability>)>,
    /// Tenants, by their unique id, that say since when they are watched.
    watched: HashSet<String>,
}

/// What one principal did since it was last written down.
struct Acts {
    tenant: Option<TenantId>,
    at: BTreeMap<&'static str, Timestamp>,
}

impl Access {
    /// Notes that a principal did something that policy allowed.
    pub(crate) fn note(&self, who: &PrincipalId, tenant: Option<&TenantId>, action: &'static str, now: Timestamp) {
        let mut pending = self.pending();
        match pending.acts.get_mut(who) {
            Some(acts) => drop(acts.at.insert(action, now)),
            None => {
                let acts = Acts { tenant: tenant.cloned(), at: BTreeMap::from([(action, now)]) };
                pending.acts.insert(who.clone(), acts);
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
