//! The keys and sessions of everyone, in memory: what every call of `verify` looks at.
//!
//! Must never answer for a session whose key, tenant or time has ended. Pure: time is passed in, the store is elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::limits::{ACCESS_TOKEN_SECONDS, SESSIONS_PER_KEY_COUNT_MAX, WRONG_CODES_SECONDS};
use ringfence_core::{Principal, PrincipalId, SessionId, Strength, TenantId};
use tokio_util::sync::CancellationToken;

use crate::IdentityError;
use crate::person::StoredPerson;
use crate::record::{Binding, KeyRecord, Method, Raised, StoredKey, StoredSession};
use crate::risk::About;
use crate::sessions::ProvedBy;
use crate::settings::{SignInSettings, UnboundTokens};
use crate::standing::TrustSettings;
use crate::token::{Claims, EXPIRY_LEEWAY_SECONDS};
use crate::used::LastUse;

/// What time it is, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) wall: Timestamp,
    pub(crate) monotonic: Duration,
}

/// A session that is open.
pub(crate) struct Session {
    stored: StoredSession,
    /// Who it stands for, proved as it was opened.
    principal: Principal,
    /// On the monotonic clock, so that setting the wall clock back revives nothing.
    ends: Duration,
    /// Told when the session is ended before its time, so that what still streams for it stops.
    cut: CancellationToken,
}

/// Who a token stands for, and what must come with it.
pub(crate) struct Held {
    pub(crate) principal: Principal,
    pub(crate) binding: Binding,
    /// Whether the place takes tokens that are bound to nothing.
    pub(crate) unbound: UnboundTokens,
}

/// Everything that can be signed in with, and everyone who is.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) keys: HashMap<String, StoredKey>,
    people: HashMap<PrincipalId, StoredPerson>,
    /// Wrong codes of people, and when the last one came; only of people there are.
    wrong_codes: HashMap<PrincipalId, (u32, Duration)>,
    /// What is known about principals beside their sessions.
    pub(crate) about: HashMap<PrincipalId, About>,
    /// What tenants ask of sessions, where that was decided.
    pub(crate) trust: HashMap<TenantId, Arc<TrustSettings>>,
    /// What is asked of operators' sessions, where that was decided.
    pub(crate) operators_trust: Option<Arc<TrustSettings>>,
    sessions: HashMap<SessionId, Session>,
    /// When principals last signed in.
    pub(crate) used: HashMap<PrincipalId, LastUse>,
    /// Whether detection is behind, so that nobody looks at what principals do now.
    pub(crate) is_unwatched: bool,
    /// How one signs in to a place, where that was chosen; the platform's under none.
    settings: HashMap<Option<TenantId>, Arc<SignInSettings>>,
}

/// LIMIT: sessions ended together; the store takes 1,000 operations in a batch.
const ENDING_COUNT_MAX: usize = 500;

impl Tables {
    /// Takes in what was read of a tenant that could not be read before.
    pub(crate) fn take_in(&mut self, read: Self) {
        self.keys.extend(read.keys);
        self.people.extend(read.people);
        self.about.extend(read.about);
        self.trust.extend(read.trust);
        self.sessions.extend(read.sessions);
        self.settings.extend(read.settings);
        self.used.extend(read.used);
    }

    /// Leaves out sessions of what was read.
    pub(crate) fn leave_out(&mut self, which: impl Fn(&SessionId) -> bool) {
        self.sessions.retain(|id, _| !which(id));
    }

    /// Who a token stands for, now.
    pub(crate) fn holder(&self, claims: &Claims, now: Now) -> Result<Held, IdentityError> {
        let session = self.sessions.get(&claims.sid).ok_or(IdentityError::Unauthenticated)?;
        if session.principal.id().as_str() != claims.sub || session.stored.issued_at.as_second() != claims.iat {
            return Err(IdentityError::Unauthenticated);
        }
        let principal = self.holder_of(&claims.sid, now)?;
        let unbound = self.settings_of(principal.tenant()).map_or(UnboundTokens::Allowed, |all| all.unbound_tokens);
        Ok(Held { principal, binding: session.stored.binding.clone(), unbound })
    }

    /// Who a session stands for, now.
    pub(crate) fn holder_of(&self, session: &SessionId, now: Now) -> Result<Principal, IdentityError> {
        let session = self.sessions.get(session).ok_or(IdentityError::Unauthenticated)?;
        if session.has_ended(now) {
            return Err(IdentityError::Expired);
        }
        if session.stored.key.as_ref().is_some_and(|key| self.live_key(key, now.wall).is_none()) {
            return Err(IdentityError::Unauthenticated);
        }
        if session.stored.method.is_of_person() && !self.people.contains_key(&session.stored.principal) {
            return Err(IdentityError::Unauthenticated);
        }
        Ok(match &session.stored.raised {
            None => session.principal.clone(),
            Some(_) => session.stored.principal(self.proved(&session.stored, now.wall).0),
        })
    }

    /// How strongly the principal of a session is proved now, and since when, as its place lets what was proved later count.
    pub(crate) fn proved(&self, stored: &StoredSession, now: Timestamp) -> (Strength, Timestamp) {
        let settings = self.trust_of(stored.tenant.as_ref());
        stored.proved(settings.and_then(|settings| settings.step_up_seconds), now)
    }

    /// A session as the store has it.
    pub(crate) fn session(&self, id: &SessionId) -> Option<&StoredSession> {
        self.sessions.get(id).map(|session| &session.stored)
    }

    /// Whether a session is one of an enrolment with the token of a start, which nothing is asked of: it is the way back in
    /// for who can read the host's own files.
    pub(crate) fn is_enrolment(&self, id: &SessionId) -> bool {
        self.session(id).is_some_and(|stored| stored.method == Method::Bootstrap)
    }

    /// Notes that a session was verified as a whole; what the store should have then.
    pub(crate) fn note_verified(&mut self, id: &SessionId, at: Timestamp) -> Option<StoredSession> {
        let session = self.sessions.get_mut(id)?;
        session.stored.verified_at = Some(at);
        Some(session.stored.clone())
    }

    /// Told when a session is ended before its time; at once when there is no such session.
    pub(crate) fn cut_of(&self, session: &SessionId) -> CancellationToken {
        self.sessions.get(session).map_or_else(
            || {
                let ended = CancellationToken::new();
                ended.cancel();
                ended
            },
            |session| session.cut.clone(),
        )
    }

    /// Notes that the principal of an open session was proved like this now, unless more counts; what the store should have then.
    pub(crate) fn raise(&mut self, session: &SessionId, strength: Strength, now: Timestamp) -> Option<StoredSession> {
        let (counts, _) = self.proved(self.session(session)?, now);
        let session = self.sessions.get_mut(session)?;
        if strength >= counts {
            session.stored.raised = Some(Raised { strength, at: now });
        }
        Some(session.stored.clone())
    }

    /// Lays down what was proved in a session since it was opened; what the store should have then.
    pub(crate) fn lower(&mut self, session: &SessionId) -> Option<StoredSession> {
        let session = self.sessions.get_mut(session)?;
        session.stored.raised = None;
        Some(session.stored.clone())
    }

    /// Whether what somebody was proved by, for a session that is being opened, is still what it was.
    pub(crate) fn still_proves(&self, by: &ProvedBy, opening: &StoredSession) -> bool {
        match by {
            ProvedBy::Itself => true,
            ProvedBy::Person(mark) => self.person(&opening.principal).is_some_and(|person| person.mark() == *mark),
            ProvedBy::Trust(then) => {
                let trusts = |now: &Arc<SignInSettings>| match opening.method {
                    Method::Federated => now.providers == then.providers,
                    _ => now.certificates == then.certificates,
                };
                // Nobody becomes somebody of the tenant's own, who may have been invited or given a key meanwhile.
                !self.is_made_here(opening.tenant.as_ref(), &opening.principal)
                    && self.settings_of(opening.tenant.as_ref()).is_some_and(trusts)
            }
        }
    }

    /// A key that can sign in, now.
    pub(crate) fn live_key(&self, id: &str, now: Timestamp) -> Option<&StoredKey> {
        self.keys.get(id).filter(|key| key.record.is_live(now))
    }

    /// The keys of a tenant, or of the platform.
    pub(crate) fn keys_of<'a>(&'a self, tenant: Option<&'a TenantId>) -> impl Iterator<Item = &'a KeyRecord> {
        self.keys.values().map(|key| &key.record).filter(move |record| record.tenant.as_ref() == tenant)
    }

    /// Whether the place made a person or a key of this name. SECURITY: ended keys count, for whose they were is still asked: what
    /// stands for such a name by trust alone would be their owner to four eyes.
    pub(crate) fn is_made_here(&self, tenant: Option<&TenantId>, principal: &PrincipalId) -> bool {
        self.person(principal).is_some() || self.keys_of(tenant).any(|key| key.principal == *principal)
    }

    /// Whose the keys of a principal are, ended ones too.
    pub(crate) fn owners_of_keys<'a>(&'a self, of: &'a PrincipalId) -> impl Iterator<Item = &'a PrincipalId> {
        self.keys.values().filter(move |key| key.record.principal == *of).flat_map(StoredKey::owners)
    }

    /// Opens a session that the store has.
    pub(crate) fn open_session(&mut self, stored: StoredSession, now: Now) {
        let left = stored.expires_at.as_second().saturating_sub(now.wall.as_second()).clamp(0, ACCESS_TOKEN_SECONDS);
        let left = u64::try_from(left.saturating_add(EXPIRY_LEEWAY_SECONDS)).unwrap_or(0);
        let cut = CancellationToken::new();
        let session = Session {
            principal: stored.principal(stored.strength),
            ends: now.monotonic + Duration::from_secs(left),
            cut,
            stored,
        };
        self.sessions.insert(session.stored.id.clone(), session);
    }

    /// Sessions to end before this one is opened: those that are over there, and the oldest of its key (or of its person)
    /// beyond the cap.
    pub(crate) fn to_end(&self, opening: &StoredSession, now: Now) -> Vec<SessionId> {
        let here = self.sessions.values().filter(|session| session.stored.tenant == opening.tenant);
        let (over, open): (Vec<&Session>, Vec<&Session>) = here.partition(|session| session.has_ended(now));
        let mut ending: Vec<SessionId> = over.into_iter().map(|session| session.stored.id.clone()).collect();
        let mut same: Vec<&StoredSession> =
            open.into_iter().map(|session| &session.stored).filter(|stored| stored.is_of_same(opening)).collect();
        same.sort_by_key(|stored| stored.issued_at);
        let beyond = (same.len() + 1).saturating_sub(SESSIONS_PER_KEY_COUNT_MAX);
        // The cap's own first; the rest of what is over waits for the next sign-in when it is more than one batch takes.
        ending.splice(0..0, same.into_iter().take(beyond).map(|stored| stored.id.clone()));
        ending.truncate(ENDING_COUNT_MAX);
        ending
    }

    /// The sessions of a place, less what is over.
    pub(crate) fn sessions_of<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        now: Now,
    ) -> impl Iterator<Item = &'a StoredSession> {
        self.open_sessions(now).filter(move |stored| stored.tenant.as_ref() == tenant)
    }

    /// The sessions of all places, less what is over.
    pub(crate) fn open_sessions(&self, now: Now) -> impl Iterator<Item = &StoredSession> {
        self.sessions.values().filter(move |session| !session.has_ended(now)).map(|session| &session.stored)
    }

    /// How one signs in to a place, if that was chosen.
    pub(crate) fn settings_of(&self, tenant: Option<&TenantId>) -> Option<&Arc<SignInSettings>> {
        // The map is empty on most hosts, and this is asked on every call.
        if self.settings.is_empty() { None } else { self.settings.get(&tenant.cloned()) }
    }

    /// Chooses how one signs in to a place.
    pub(crate) fn set_settings(&mut self, tenant: Option<TenantId>, settings: SignInSettings) {
        self.settings.insert(tenant, Arc::new(settings));
    }

    /// Ends sessions.
    pub(crate) fn end(&mut self, sessions: &[SessionId]) {
        for session in sessions {
            drop(self.take_out(session));
        }
    }

    /// Ends a session; what was kept of it, if it was there.
    pub(crate) fn take_out(&mut self, session: &SessionId) -> Option<StoredSession> {
        let session = self.sessions.remove(session)?;
        session.cut.cancel();
        Some(session.stored)
    }

    /// Ends a session of this tenant (or of the platform); what was kept of it, if it was there.
    pub(crate) fn end_one(&mut self, tenant: Option<&TenantId>, id: &SessionId) -> Option<StoredSession> {
        let there = self.sessions.get(id).is_some_and(|session| session.stored.tenant.as_ref() == tenant);
        if there { self.take_out(id) } else { None }
    }

    /// Ends all sessions of a key; which ones they were.
    pub(crate) fn end_all_of(&mut self, key: &str) -> Vec<SessionId> {
        let of_key = self.sessions.values().filter(|session| session.stored.key.as_deref() == Some(key));
        let ending: Vec<SessionId> = of_key.map(|session| session.stored.id.clone()).collect();
        self.end(&ending);
        ending
    }

    /// Ends all sessions of a person, and of whoever went by his name on the word of a provider or a certificate; which ones they
    /// were.
    pub(crate) fn end_all_of_person(&mut self, principal: &PrincipalId) -> Vec<SessionId> {
        let of_person = self.sessions.values().filter(|session| {
            let method = session.stored.method;
            let is_by_trust = matches!(method, Method::Federated | Method::ClientCertificate);
            (method.is_of_person() || is_by_trust) && session.stored.principal == *principal
        });
        let ending: Vec<SessionId> = of_person.map(|session| session.stored.id.clone()).collect();
        self.end(&ending);
        ending
    }

    /// Ends all sessions of a place that were opened in this way; which ones they were.
    pub(crate) fn end_all_by(&mut self, method: Method, tenant: Option<&TenantId>) -> Vec<SessionId> {
        let here = self.sessions.values().filter(|session| session.stored.tenant.as_ref() == tenant);
        let by_method = here.filter(|session| session.stored.method == method);
        let ending: Vec<SessionId> = by_method.map(|session| session.stored.id.clone()).collect();
        self.end(&ending);
        ending
    }

    /// Forgets everything of a tenant.
    pub(crate) fn forget(&mut self, tenant: &TenantId) {
        self.keys.retain(|_, key| key.record.tenant.as_ref() != Some(tenant));
        let of_tenant = self.sessions.values().filter(|session| session.stored.tenant.as_ref() == Some(tenant));
        let ending: Vec<SessionId> = of_tenant.map(|session| session.stored.id.clone()).collect();
        self.end(&ending);
        self.forget_about(tenant);
        self.people.retain(|_, person| person.record.tenant.as_ref() != Some(tenant));
        self.settings.remove(&Some(tenant.clone()));
        self.used.retain(|_, used| used.tenant.as_ref() != Some(tenant));
    }

    // === people ===

    /// A person.
    pub(crate) fn person(&self, principal: &PrincipalId) -> Option<&StoredPerson> {
        self.people.get(principal)
    }

    /// The people of a tenant, or the operators.
    pub(crate) fn people_of<'a>(&'a self, tenant: Option<&'a TenantId>) -> impl Iterator<Item = &'a StoredPerson> {
        self.people.values().filter(move |person| person.record.tenant.as_ref() == tenant)
    }

    /// Whom an invitation is for, by what is compared of it.
    pub(crate) fn invited(&self, shown: &str, now: Timestamp) -> Option<&StoredPerson> {
        self.people.values().find(|person| person.is_invited_with(shown, now))
    }

    /// Whom authenticators know by this handle.
    pub(crate) fn person_of_handle(&self, handle: &str) -> Option<&StoredPerson> {
        self.people.values().find(|person| person.handle == handle)
    }

    /// Puts a person in the place of what was known of him.
    pub(crate) fn put_person(&mut self, person: StoredPerson) {
        self.people.insert(person.record.principal.clone(), person);
    }

    /// Takes a person away.
    pub(crate) fn remove_person(&mut self, principal: &PrincipalId) -> Option<StoredPerson> {
        self.wrong_codes.remove(principal);
        self.people.remove(principal)
    }

    /// How many wrong codes came for a person lately.
    pub(crate) fn wrong_codes(&self, principal: &PrincipalId, now: Duration) -> u32 {
        let lately = |last: Duration| now.saturating_sub(last) < Duration::from_secs(WRONG_CODES_SECONDS);
        self.wrong_codes.get(principal).filter(|(_, last)| lately(*last)).map_or(0, |(count, _)| *count)
    }

    /// Counts another one.
    pub(crate) fn count_wrong_code(&mut self, principal: &PrincipalId, now: Duration) {
        if self.people.contains_key(principal) {
            let count = self.wrong_codes(principal, now).saturating_add(1);
            self.wrong_codes.insert(principal.clone(), (count, now));
        }
    }

    /// How many sessions are remembered.
    #[cfg(test)]
    pub(crate) fn session_count(&self) -> usize {
        self.sessions.len()
    }
}

impl Session {
    fn has_ended(&self, now: Now) -> bool {
        now.monotonic >= self.ends
            || self.stored.expires_at.as_second().saturating_add(EXPIRY_LEEWAY_SECONDS) <= now.wall.as_second()
    }
}
