//! Sessions that fell below the floor of their place and were ended for it, on their way to the record.
//!
//! Whatever path found one below the floor, its end comes through here, so that none is off the record for where it was found.
//! Must never hold up the path that ended it, nor tell of one twice.

use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use ringfence_core::limits::FALLEN_WAITING_COUNT_MAX;
use ringfence_core::{PrincipalId, SessionId, TenantId};

use crate::{Identity, Shared};

/// A session that was ended because it stood below the floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallen {
    /// Which.
    pub session: SessionId,
    /// Whose it was.
    pub principal: PrincipalId,
    /// His tenant; none for an operator.
    pub tenant: Option<TenantId>,
    /// Where it stood.
    pub score: u8,
    /// The least it should have.
    pub floor: u8,
    /// From where the request came that showed it, if it was one of its own.
    pub source: Option<IpAddr>,
}

/// Those that are not on the record yet.
#[derive(Debug, Default)]
pub(crate) struct Falls {
    waiting: Vec<Fallen>,
    lost_count: u64,
}

impl Falls {
    /// LIMIT: what does not fit is counted.
    pub(crate) fn add(&mut self, fallen: Vec<Fallen>) {
        for one in fallen {
            match self.waiting.len() < FALLEN_WAITING_COUNT_MAX {
                true => self.waiting.push(one),
                false => self.lost_count = self.lost_count.saturating_add(1),
            }
        }
    }
}

impl Identity {
    /// Whether sessions fell that [`Identity::take_fallen`] would tell of.
    pub fn has_fallen(&self) -> bool {
        let falls = self.shared.falls();
        !falls.waiting.is_empty() || falls.lost_count > 0
    }

    /// The sessions that fell since this was last asked, each once, and how many fell beside them that were not remembered. For
    /// who puts them on the record of their place.
    pub fn take_fallen(&self) -> (Vec<Fallen>, u64) {
        let Falls { waiting, lost_count } = std::mem::take(&mut *self.shared.falls());
        (waiting, lost_count)
    }
}

impl Shared {
    pub(crate) fn falls(&self) -> MutexGuard<'_, Falls> {
        self.falls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
