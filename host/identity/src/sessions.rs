//! Sessions: opened when somebody was proved, looked up on every call, listed and ended.
//!
//! Must never leave an ended session good for one more call: memory first, then the store. Nor write the record of one that was
//! ended meanwhile: the next start would open it again. Nor open one by what was taken back while it was being proved.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ringfence_core::limits::ACCESS_TOKEN_SECONDS;
use ringfence_core::proof::act;
use ringfence_core::{KeyScope, Permit, Principal, PrincipalId, PrincipalKind, Role, SessionId, Strength, TenantId};
use ringfence_store::{Op, Precondition, StoreError, TenantStore};

use crate::manage::{covers, finish, not_found};
use crate::person::Mark;
use crate::record::{Binding, Method, SessionRecord, StoredSession};
use crate::settings::{SignInSettings, UnboundTokens};
use crate::shelf::{ending, session_at};
use crate::tables::Tables;
use crate::{Identity, IdentityError, Issued};

/// LIMIT: how often a change of a session is written anew because somebody else changed the same one meanwhile.
const KEEPS_COUNT_MAX: usize = 32;

/// Who opens a session, and with what.
pub(crate) struct Holder {
    pub(crate) id: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) role: Role,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) key: Option<String>,
    pub(crate) method: Method,
    pub(crate) strength: Strength,
    /// Of the key, if any.
    pub(crate) scope: Option<Arc<KeyScope>>,
    pub(crate) proved_by: ProvedBy,
}

/// By what somebody was proved, as it was then: his session is opened only while it is so still.
pub(crate) enum ProvedBy {
    /// By what is used up, or by a key, which is looked up by its id.
    Itself,
    /// By what the place trusted.
    Trust(Arc<SignInSettings>),
    /// As this person.
    Person(Mark),
}

/// How the one who signs in came.
pub(crate) struct Arrival {
    pub(crate) binding: Binding,
    pub(crate) source: IpAddr,
}

impl Identity {
    /// Opens a session for who was just proved, and answers with its token.
    pub(crate) async fn open_session(&self, holder: Holder, arrival: Arrival) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let store = shared.shelf.of(holder.tenant.as_ref()).ok_or(IdentityError::Unauthenticated)?;
        // At the enrolment of a first operator nothing is decided yet, so it may be unbound.
        if arrival.binding == Binding::Unbound {
            let settings = shared.read().settings_of(holder.tenant.as_ref()).cloned();
            if settings.is_some_and(|settings| settings.unbound_tokens == UnboundTokens::Refused) {
                return Err(IdentityError::Unbound);
            }
        }
        let now = shared.now();
        let beyond = |_| IdentityError::Host("the clock is out of range");
        let proved_by = holder.proved_by;
        let stored = StoredSession {
            id: SessionId::random(shared.entropy.as_ref()),
            principal: holder.id,
            kind: holder.kind,
            role: holder.role,
            tenant: holder.tenant,
            key: holder.key,
            strength: holder.strength,
            // Whole seconds, as tokens have them.
            issued_at: Timestamp::from_second(now.wall.as_second()).map_err(beyond)?,
            expires_at: now.wall.checked_add(SignedDuration::from_secs(ACCESS_TOKEN_SECONDS)).map_err(beyond)?,
            method: holder.method,
            binding: arrival.binding,
            source: Some(arrival.source).filter(|source| !source.is_unspecified()),
            verified_at: None,
            raised: None,
            scope: holder.scope,
        };
        if let Some(source) = stored.source {
            self.note_network(stored.tenant.as_ref(), &stored.principal, source).await?;
        }
        let principal = stored.principal(stored.strength);
        let access_token = shared.tokens.issue(&principal, &stored.id, stored.issued_at, &stored.binding)?;
        let over = shared.read().to_end(&stored, now);
        let mut ops = vec![Op::put_json(session_at(&stored.id), &stored)?];
        ops.extend(ending(&over));
        let used = shared.read().next_use(&stored);
        let kept = used.as_ref().map(|used| shared.read().keeping_use(used)).transpose()?;
        let gone = kept.and_then(|(more, gone)| {
            ops.extend(more);
            gone
        });
        match store.batch(ops, Vec::new()).await {
            // The tenant was deleted meanwhile: its keys prove nothing any more.
            Err(StoreError::Gone) => return Err(IdentityError::Unauthenticated),
            other => other?,
        };
        let issued = Issued {
            access_token,
            token_type: if matches!(stored.binding, Binding::Key(_)) { "DPoP" } else { "Bearer" },
            expires_in: ACCESS_TOKEN_SECONDS,
            session_id: stored.id.clone(),
            principal,
            strength: stored.strength,
        };
        let revoked = {
            let mut tables = shared.write();
            tables.end(&over);
            if let Some(used) = used {
                tables.put_use(used, gone);
            }
            let revoked = stored.key.as_ref().is_some_and(|key| tables.live_key(key, now.wall).is_none())
                || !tables.still_proves(&proved_by, &stored);
            if !revoked {
                tables.open_session(stored, now);
            }
            revoked
        };
        if revoked {
            // Revoked while it was being proved, or while the session was being written.
            store.batch(ending(&[issued.session_id]).collect(), Vec::new()).await?;
            return Err(IdentityError::Unauthenticated);
        }
        Ok(issued)
    }

    /// The sessions open there, oldest first.
    pub fn list_sessions(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<SessionRecord>, IdentityError> {
        covers(permit.resource(), tenant)?;
        Ok(self.sessions(tenant, |_| true))
    }

    /// A principal's own sessions, oldest first. Nobody needs a permit to know where he himself is signed in.
    pub fn own_sessions(&self, principal: &Principal) -> Vec<SessionRecord> {
        self.sessions(principal.tenant(), |record| record.principal == *principal.id())
    }

    /// Ends one session at once. Whose it was, and how he had signed in.
    pub async fn revoke_session(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        session: &SessionId,
    ) -> Result<(PrincipalId, Method), IdentityError> {
        covers(permit.resource(), tenant)?;
        self.end_session(tenant, session).await
    }

    /// Ends one of a principal's own sessions at once, and no other.
    pub async fn end_own_session(&self, principal: &Principal, session: &SessionId) -> Result<(), IdentityError> {
        if !self.own_sessions(principal).iter().any(|record| record.id == *session) {
            return Err(not_found(session.as_str()));
        }
        self.end_session(principal.tenant(), session).await.map(drop)
    }

    /// Changes what is kept of a principal's open session, in memory and durably. `Unauthenticated` when it was ended meanwhile;
    /// then nothing is written. `Busy` when others change the same one all the time; what was changed holds in memory then.
    pub(crate) async fn change_session(
        &self,
        principal: &Principal,
        change: impl FnOnce(&mut Tables, &SessionId) -> Option<StoredSession>,
    ) -> Result<(), IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        let store = self.store_of(principal.tenant())?;
        let at = session_at(session);
        // Read before the change: whoever ends the session after this takes away the record that is written over.
        let mut kept = store.get(&at).await?.ok_or(IdentityError::Unauthenticated)?;
        let mut changed = {
            let mut tables = self.shared.write();
            change(&mut tables, session)
        };
        for _ in 0..KEEPS_COUNT_MAX {
            if keep(&store, &changed.ok_or(IdentityError::Unauthenticated)?, kept.revision).await? {
                return Ok(());
            }
            // Somebody else changed it, or it is no more. What is in memory after this has his change and this one.
            kept = store.get(&at).await?.ok_or(IdentityError::Unauthenticated)?;
            changed = self.shared.read().session(session).cloned();
        }
        Err(StoreError::Busy.into())
    }

    async fn end_session(
        &self,
        tenant: Option<&TenantId>,
        session: &SessionId,
    ) -> Result<(PrincipalId, Method), IdentityError> {
        let store = self.store_of(tenant)?;
        let ended = self.shared.write().end_one(tenant, session).ok_or_else(|| not_found(session.as_str()))?;
        finish(store, vec![Op::delete(session_at(session))]).await?;
        Ok((ended.principal, ended.method))
    }

    fn sessions(&self, tenant: Option<&TenantId>, which: impl Fn(&SessionRecord) -> bool) -> Vec<SessionRecord> {
        let now = self.shared.now();
        let tables = self.shared.read();
        let shown = |stored: &StoredSession| stored.record(tables.proved(stored, now.wall).0);
        let mut all: Vec<SessionRecord> = tables.sessions_of(tenant, now).map(shown).filter(which).collect();
        drop(tables);
        all.sort_by(|a, b| (a.opened_at, a.id.as_str()).cmp(&(b.opened_at, b.id.as_str())));
        all
    }
}

/// Writes a session over the record of this revision; whether that was still there.
pub(crate) async fn keep(store: &TenantStore, session: &StoredSession, revision: u64) -> Result<bool, IdentityError> {
    let at = session_at(&session.id);
    let put = Op::put_json(at.clone(), session)?;
    match store.batch(vec![put], vec![Precondition::Revision(at, revision)]).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
