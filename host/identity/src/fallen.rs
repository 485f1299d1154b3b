//! Sessions that fell below the floor of their place and were ended for it, on their way to the record and out of the store.
//!
//! Whatever path found one below the floor, its end comes through here, so that none is off the record for where it was found.
//! Must never hold up the path that ended it, nor tell of one twice, nor let one come back that the store still has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use ringfence_core::limits::{FALLEN_OF_PLACE_COUNT_MAX, FALLEN_WAITING_COUNT_MAX};
use ringfence_core::{PrincipalId, SessionId, TenantId};
use ringfence_store::StoreError;

use crate::shelf::ending;
use crate::{Identity, Shared};

/// LIMIT: records deleted together; the store takes 1,000 operations in a batch.
const DELETED_COUNT_MAX: usize = 500;

/// A session that was ended because it stood below the floor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallen {
    /// Which.
    pub session: SessionId,
    /// Whose it was.
    pub principal: PrincipalId,
    /// Where it stood.
    pub score: u8,
    /// The least it should have.
    pub floor: u8,
    /// From where the request came that showed it, if it was one of its own.
    pub source: Option<IpAddr>,
}

/// The sessions of one place that fell and are not on its record yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FallenThere {
    /// Those that are remembered.
    pub sessions: Vec<Fallen>,
    /// How many fell beside them, of which only that is known.
    pub unnamed_count: u64,
}

/// The record of a session that fell.
#[derive(Debug)]
struct Ended {
    place: Option<TenantId>,
    /// When it would have been over by itself, and so is opened by nobody who reads its record.
    until: Timestamp,
    is_deleted: bool,
}

/// Those that are not on the record yet, and those whose records could still be read.
#[derive(Debug, Default)]
pub(crate) struct Falls {
    /// By place: a tenant, or the operators under none.
    places: HashMap<Option<TenantId>, FallenThere>,
    records: HashMap<SessionId, Ended>,
}

// === impl Falls ===

impl Falls {
    /// Notes sessions of a place that are ended in memory as of now, each with when it would have been over.
    pub(crate) fn end(&mut self, place: Option<&TenantId>, fell: Vec<(Fallen, Timestamp)>, now: Timestamp) {
        if self.records.len().saturating_add(fell.len()) > FALLEN_WAITING_COUNT_MAX {
            self.let_go(now);
        }
        for (fallen, until) in &fell {
            // LIMIT: of what does not fit, the record is deleted once, and not tried again.
            if self.records.len() < FALLEN_WAITING_COUNT_MAX {
                let ended = Ended { place: place.cloned(), until: *until, is_deleted: false };
                self.records.insert(fallen.session.clone(), ended);
            }
        }
        let sessions = fell.into_iter().map(|(fallen, _)| fallen).collect();
        self.add(place, FallenThere { sessions, unnamed_count: 0 });
    }

    /// LIMIT: what does not fit is counted, by place, so that one takes no more than its own part.
    fn add(&mut self, place: Option<&TenantId>, fallen: FallenThere) {
        if fallen == FallenThere::default() {
            return;
        }
        let waiting_count = self.places.values().map(|there| there.sessions.len()).sum::<usize>();
        let there = self.places.entry(place.cloned()).or_default();
        let room = FALLEN_OF_PLACE_COUNT_MAX
            .saturating_sub(there.sessions.len())
            .min(FALLEN_WAITING_COUNT_MAX.saturating_sub(waiting_count));
        let beyond_count = fallen.sessions.len().saturating_sub(room) as u64;
        there.sessions.extend(fallen.sessions.into_iter().take(room));
        there.unnamed_count = there.unnamed_count.saturating_add(fallen.unnamed_count).saturating_add(beyond_count);
    }

    /// Whether a session fell that could still be in the store, or in what was read of it before.
    pub(crate) fn has_ended(&self, session: &SessionId) -> bool {
        self.records.contains_key(session)
    }

    /// Forgets all of a tenant that is gone.
    pub(crate) fn forget(&mut self, tenant: &TenantId) {
        self.places.remove(&Some(tenant.clone()));
        self.records.retain(|_, ended| ended.place.as_ref() != Some(tenant));
    }

    fn let_go(&mut self, now: Timestamp) {
        self.records.retain(|_, ended| ended.until > now);
    }

    /// What the store still has, by place.
    fn undeleted(&self) -> HashMap<Option<TenantId>, Vec<SessionId>> {
        let mut left: HashMap<Option<TenantId>, Vec<SessionId>> = HashMap::new();
        for (session, ended) in self.records.iter().filter(|(_, ended)| !ended.is_deleted) {
            left.entry(ended.place.clone()).or_default().push(session.clone());
        }
        left
    }

    fn note_deleted(&mut self, sessions: &[SessionId]) {
        for session in sessions {
            if let Some(ended) = self.records.get_mut(session) {
                ended.is_deleted = true;
            }
        }
    }
}

// === impl Identity ===

impl Identity {
    /// Whether sessions of a place fell that [`Identity::take_fallen`] would tell of.
    pub fn has_fallen(&self, place: Option<&TenantId>) -> bool {
        let falls = self.shared.falls();
        // The map is empty nearly always, and this is asked after every act.
        !falls.places.is_empty() && falls.places.contains_key(&place.cloned())
    }

    /// The places of which [`Identity::take_fallen`] would tell something.
    pub fn fallen_places(&self) -> Vec<Option<TenantId>> {
        self.shared.falls().places.keys().cloned().collect()
    }

    /// The sessions of a place that fell since this was last asked, each once. For who puts them on its record.
    pub fn take_fallen(&self, place: Option<&TenantId>) -> FallenThere {
        self.shared.falls().places.remove(&place.cloned()).unwrap_or_default()
    }

    /// Takes back what could not be put on the record of its place, so that it is told of again.
    pub fn put_back_fallen(&self, place: Option<&TenantId>, fallen: FallenThere) {
        self.shared.falls().add(place, fallen);
    }

    /// Deletes the records of sessions that fell where the store has not done it yet; how many it still has. To be called
    /// every so often: until then the next start could open them again.
    pub async fn delete_fallen(&self) -> usize {
        let left = {
            let mut falls = self.shared.falls();
            falls.let_go(self.shared.clock.now());
            falls.undeleted()
        };
        let mut left_count = 0_usize;
        for (place, sessions) in left {
            left_count = left_count.saturating_add(self.delete_records(place.as_ref(), &sessions).await);
        }
        left_count
    }

    /// Deletes records of sessions that fell; how many the store still has.
    pub(crate) async fn delete_records(&self, place: Option<&TenantId>, sessions: &[SessionId]) -> usize {
        let Some(store) = self.shared.shelf.of(place) else { return sessions.len() };
        let mut left_count = 0_usize;
        for some in sessions.chunks(DELETED_COUNT_MAX) {
            match store.batch(ending(some).collect(), Vec::new()).await {
                Ok(_) | Err(StoreError::Gone) => self.shared.falls().note_deleted(some),
                Err(_) => left_count = left_count.saturating_add(some.len()),
            }
        }
        left_count
    }
}

impl Shared {
    pub(crate) fn falls(&self) -> MutexGuard<'_, Falls> {
        self.falls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;

    /// Sessions that would be over at 300 seconds.
    fn some(dice: &Dice, count: usize) -> Vec<(Fallen, Timestamp)> {
        let one = || Fallen {
            session: SessionId::random(dice),
            principal: "acme/ci".parse().unwrap(),
            score: 10,
            floor: 20,
            source: None,
        };
        (0..count).map(|_| (one(), Timestamp::from_second(300).unwrap())).collect()
    }

    #[test]
    fn a_place_takes_its_own_part_alone_and_what_is_beyond_is_counted() {
        let (mut falls, dice, now) = (Falls::default(), Dice::new(), Timestamp::UNIX_EPOCH);
        let (acme, beta): (TenantId, TenantId) = ("acme".parse().unwrap(), "beta".parse().unwrap());
        falls.end(Some(&acme), some(&dice, FALLEN_OF_PLACE_COUNT_MAX + 3), now);
        falls.end(Some(&beta), some(&dice, 1), now);
        falls.end(None, Vec::new(), now);
        assert_eq!(falls.places.len(), 2, "of who fell nowhere there is nothing to tell");
        let mut there = falls.places.remove(&Some(acme.clone())).unwrap();
        assert_eq!((there.sessions.len(), there.unnamed_count), (FALLEN_OF_PLACE_COUNT_MAX, 3));
        assert_eq!(falls.places[&Some(beta)].sessions.len(), 1);
        // What comes back beside what came meanwhile is counted on.
        there.sessions.truncate(2);
        falls.end(Some(&acme), some(&dice, FALLEN_OF_PLACE_COUNT_MAX - 1), now);
        falls.add(Some(&acme), there);
        let there = &falls.places[&Some(acme.clone())];
        assert_eq!((there.sessions.len(), there.unnamed_count), (FALLEN_OF_PLACE_COUNT_MAX, 4));
        falls.forget(&acme);
        assert_eq!((falls.places.len(), falls.undeleted().len()), (1, 1));
    }

    #[test]
    fn a_record_is_known_as_ended_until_it_would_have_been_over() {
        let (mut falls, operators): (_, Option<TenantId>) = (Falls::default(), None);
        let fell = some(&Dice::new(), 2);
        let ids: Vec<SessionId> = fell.iter().map(|(one, _)| one.session.clone()).collect();
        falls.end(None, fell, Timestamp::UNIX_EPOCH);
        assert_eq!(falls.undeleted()[&operators].len(), 2);
        falls.note_deleted(&ids[..1]);
        assert_eq!(falls.undeleted()[&operators], ids[1..]);
        assert!(ids.iter().all(|id| falls.has_ended(id)), "who read the store before may still have it");
        falls.let_go(Timestamp::from_second(300).unwrap());
        assert!(falls.undeleted().is_empty() && !falls.has_ended(&ids[0]));
    }
}
