//! People: invited, enrolled, signed in with a password, removed.
//!
//! Must never tell an unknown name from a wrong password or code, in words or in time, nor let a code be used twice:
//! what a sign-in uses up is durable before the session is open.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ringfence_core::limits::{
    INVITATION_HOURS, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PEOPLE_COUNT_MAX, WRONG_CODES_COUNT_MAX,
    WRONG_CODES_SECONDS,
};
use ringfence_core::proof::act;
use ringfence_core::{Permit, Principal, PrincipalId, PrincipalKind, ResourceName, Role, Source, Strength, TenantId};
use ringfence_store::{Op, StoreError};

use crate::dpop::Proven;
use crate::manage::{admissible_role, covers, finish, finish_ending, not_found};
use crate::person::{NewPerson, PersonRecord, StoredPassword, StoredPerson, invitation, invitation_shown};
use crate::record::Method;
use crate::sessions::{Arrival, Holder, ProvedBy};
use crate::shelf::{ending, person_at};
use crate::throttle::Tried;
use crate::{Identity, IdentityError, Issued, OPERATOR, SecretString};

impl Identity {
    /// Invites somebody; the invitation is in the answer and nowhere else. Inviting a name again replaces the person: all
    /// factors and sessions of before are gone.
    pub async fn invite(
        &self,
        permit: Permit<act::CreateToken>,
        new: NewPerson,
    ) -> Result<(PersonRecord, SecretString), IdentityError> {
        let shared = &self.shared;
        covers(permit.resource(), new.tenant.as_ref())?;
        admissible_role(new.tenant.as_ref(), new.role)?;
        let by_operator = permit.principal().as_str().starts_with(&format!("{OPERATOR}/"));
        let now = shared.clock.now();
        let beyond = |_| IdentityError::Host("the clock is out of range");
        let expires_at = now.checked_add(SignedDuration::from_hours(INVITATION_HOURS)).map_err(beyond)?;
        let _turn = shared.making.of(new.tenant.clone()).await;
        if let Some(tenant) = new.tenant.as_ref().filter(|_| by_operator) {
            // SECURITY: as for keys: an operator may start a tenant off, and no more.
            let tables = shared.read();
            let started = tables.keys_of(Some(tenant)).any(|key| key.role == Role::TenantAdmin && key.is_live(now))
                || tables.people_of(Some(tenant)).any(|person| person.record.role == Role::TenantAdmin);
            if new.role != Role::TenantAdmin || started {
                return Err(IdentityError::OperatorLimited { tenant: tenant.to_string() });
            }
        }
        let principal = principal_of(new.tenant.as_ref(), &new.name)?;
        self.check_name(&new, &principal, now)?;
        let token = invitation(shared.entropy.as_ref());
        let record = PersonRecord {
            tenant: new.tenant,
            name: new.name,
            role: new.role,
            principal,
            invited_by: permit.principal().clone(),
            invited_at: now,
            invitation_expires_at: Some(expires_at),
            enrolled_at: None,
        };
        let person = StoredPerson::invited(record.clone(), &token, shared.entropy.as_ref());
        let _changing = shared.changing_people.of(record.tenant.clone()).await;
        let ended = shared.write().end_all_of_person(&record.principal);
        let mut ops = vec![Op::put_json(person_at(&record.name), &person)?];
        ops.extend(ending(&ended));
        let store = self.store_of(record.tenant.as_ref())?;
        finish(store.clone(), ops).await?;
        let late = {
            let mut tables = shared.write();
            tables.put_person(person);
            // Those of the one before him that were opened while he was being written.
            tables.end_all_of_person(&record.principal)
        };
        finish_ending(store, &late).await?;
        Ok((record, token))
    }

    /// The people of a place, by name.
    pub fn list_people(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<PersonRecord>, IdentityError> {
        covers(permit.resource(), tenant)?;
        let mut all: Vec<PersonRecord> =
            self.shared.read().people_of(tenant).map(|person| person.record.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a person and ends his sessions at once; says who he was.
    pub async fn remove_person(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        name: &str,
    ) -> Result<PrincipalId, IdentityError> {
        covers(permit.resource(), tenant)?;
        let name: ResourceName = name.parse().map_err(|_| not_found(name))?;
        let principal = principal_of(tenant, &name)?;
        let store = self.store_of(tenant)?;
        let _changing = self.shared.changing_people.of(tenant.cloned()).await;
        let ended = {
            let mut tables = self.shared.write();
            tables.remove_person(&principal).ok_or_else(|| not_found(name.as_str()))?;
            tables.end_all_of_person(&principal)
        };
        let mut ops = vec![Op::delete(person_at(&name))];
        ops.extend(ending(&ended));
        finish(store, ops).await?;
        Ok(principal)
    }

    /// Uses an invitation: sets the password, if there is to be one, and opens a session in which factors are added.
    pub(crate) async fn enrol_person(
        &self,
        token: &SecretString,
        password: Option<&SecretString>,
        proven: Option<&Proven>,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let shown = invitation_shown(token).ok_or(IdentityError::Unauthenticated)?;
        let found = shared.read().invited(&shown, now).map(|person| person.record.principal.clone());
        let principal = found.ok_or(IdentityError::Unauthenticated)?;
        let password = match password {
            Some(password) => {
                let tried = Tried::Known(principal.as_str().to_owned());
                let _place = shared.admit(Source::of(arrival.source), tried)?;
                Some(self.hash_password(password).await?)
            }
            None => None,
        };
        shared.spend(proven)?;
        let enrol = |person: &mut StoredPerson| {
            // Asked again: it may have been used while the password was hashed.
            if !person.is_invited_with(&shown, now) {
                return Err(IdentityError::Unauthenticated);
            }
            (person.invitation, person.record.invitation_expires_at) = (None, None);
            person.record.enrolled_at = Some(now);
            person.password = password;
            Ok(person.clone())
        };
        let person = self.change_person(&principal, enrol).await?;
        if person.record.role == Role::Operator {
            *shared.bootstrap() = None;
        }
        self.open_session_of(&person, Method::Invitation, Strength::Secret, arrival).await
    }

    /// Signs in with a password, and a one-time code where the person has them.
    pub(crate) async fn sign_in_by_password(
        &self,
        name: &str,
        password: &SecretString,
        code: Option<&SecretString>,
        proven: Option<&Proven>,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let shared = &self.shared;
        let principal: Option<PrincipalId> = name.parse().ok();
        let stored = principal.as_ref().and_then(|principal| shared.read().person(principal).cloned());
        let hashed =
            stored.as_ref().and_then(|person| person.password.as_ref()).map(|password| password.hashed.clone());
        // SECURITY: one hash each, for known and unknown names.
        if !shared.hasher.is_password(typed(password), hashed).await? {
            return Err(IdentityError::Unauthenticated);
        }
        let (principal, person) = principal.zip(stored).ok_or(IdentityError::Unauthenticated)?;
        let mut strength = Strength::Secret;
        if person.asks_for_codes() {
            // SECURITY: that codes wait is not said here either, or it would say that the password was right.
            let code = code.map_or("", |code| code.expose());
            self.use_code(&principal, code).await.map_err(|error| match error {
                IdentityError::Throttled { .. } => IdentityError::Unauthenticated,
                other => other,
            })?;
            strength = Strength::TwoFactors;
        }
        shared.spend(proven)?;
        self.open_session_of(&person, Method::Password, strength, arrival).await
    }

    /// Uses up a one-time or recovery code. A person whose codes were guessed at too often takes none for a while; guesses
    /// are counted only after his password or session was right, so nobody else can close him out.
    pub(crate) async fn use_code(&self, principal: &PrincipalId, code: &str) -> Result<(), IdentityError> {
        let shared = &self.shared;
        self.change_person(principal, |person| {
            // SECURITY: asked and counted in one's turn, so that of those who come at once each counts for the next.
            let now = shared.now();
            if shared.read().wrong_codes(principal, now.monotonic) >= WRONG_CODES_COUNT_MAX {
                return Err(IdentityError::Throttled { retry_after_seconds: WRONG_CODES_SECONDS });
            }
            let used = person.use_code(code, now.wall);
            if matches!(used, Err(IdentityError::Unauthenticated)) && !code.is_empty() {
                shared.write().count_wrong_code(principal, now.monotonic);
            }
            used
        })
        .await
    }

    /// Changes what is kept of a person: durable first, then in force. Nothing is changed when `change` fails.
    pub(crate) async fn change_person<T>(
        &self,
        principal: &PrincipalId,
        change: impl FnOnce(&mut StoredPerson) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let place = self.shared.read().person(principal).map(|person| person.record.tenant.clone());
        let changing = self.shared.changing_people.of(place.ok_or(IdentityError::Unauthenticated)?).await;
        let found = self.shared.read().person(principal).cloned();
        let mut person = found.ok_or(IdentityError::Unauthenticated)?;
        let done = change(&mut person)?;
        let store = self.store_of(person.record.tenant.as_ref())?;
        let ops = vec![Op::put_json(person_at(&person.record.name), &person)?];
        let shared = Arc::clone(&self.shared);
        // SECURITY: in one's turn to the end, even when the caller hangs up meanwhile: what is used up on disk would be good in memory.
        let written = tokio::spawn(async move {
            let _changing = changing;
            store.batch(ops, Vec::new()).await?;
            shared.write().put_person(person);
            Ok::<_, StoreError>(())
        });
        written.await.map_err(|_| IdentityError::Host("a write was stopped"))??;
        Ok(done)
    }

    /// The same of what somebody changes of himself. His session must be open still when his turn comes: his name may be
    /// another's by then.
    pub(crate) async fn change_own<T>(
        &self,
        principal: &Principal,
        change: impl FnOnce(&mut StoredPerson) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        self.change_person(principal.id(), |person| {
            self.shared.read().session(session).ok_or(IdentityError::Unauthenticated)?;
            change(person)
        })
        .await
    }

    /// Opens a session for a person who was just proved to be this one.
    pub(crate) async fn open_session_of(
        &self,
        person: &StoredPerson,
        method: Method,
        strength: Strength,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let record = person.record.clone();
        let holder = Holder {
            id: record.principal,
            kind: PrincipalKind::Person,
            role: record.role,
            tenant: record.tenant,
            key: None,
            method,
            strength,
            scope: None,
            proved_by: ProvedBy::Person(person.mark()),
        };
        self.open_session(holder, arrival).await
    }

    /// A password as it is kept, when it is long enough (NIST SP 800-63B-4, section 3.1.1: length, no rules of kinds).
    pub(crate) async fn hash_password(&self, password: &SecretString) -> Result<StoredPassword, IdentityError> {
        let text = password.expose();
        if text.chars().count() < PASSWORD_CHARS_MIN || text.len() > PASSWORD_BYTES_MAX {
            return Err(IdentityError::BadPassword { chars_min: PASSWORD_CHARS_MIN, bytes_max: PASSWORD_BYTES_MAX });
        }
        let hashed = self.shared.hasher.hash_password(text, self.shared.entropy.as_ref()).await?;
        Ok(StoredPassword { hashed, since: self.shared.clock.now() })
    }

    /// A name is one principal: a person and a key must not share it.
    fn check_name(&self, new: &NewPerson, principal: &PrincipalId, now: Timestamp) -> Result<(), IdentityError> {
        let tables = self.shared.read();
        if let Some(key) = tables.keys_of(new.tenant.as_ref()).find(|key| key.name == new.name && key.is_live(now)) {
            return Err(IdentityError::NameTaken { name: new.name.to_string(), role: key.role.as_str() });
        }
        let others = tables.people_of(new.tenant.as_ref()).filter(|person| person.record.principal != *principal);
        if others.count() >= PEOPLE_COUNT_MAX {
            return Err(IdentityError::TooManyPeople { count_max: PEOPLE_COUNT_MAX });
        }
        Ok(())
    }

    /// When the person was invited that a principal is; none for everybody else. Under one name, another time is another person.
    pub fn invited_at(&self, principal: &Principal) -> Option<Timestamp> {
        self.person_behind(principal).ok().map(|person| person.record.invited_at)
    }

    /// Whether the session that somebody came with is still there: not once he was removed or his key revoked, whoever has his
    /// name by then.
    pub fn is_signed_in(&self, principal: &Principal) -> bool {
        principal.session().is_some_and(|session| self.shared.read().session(session).is_some())
    }

    /// The person behind a session; fails for services.
    pub(crate) fn person_behind(&self, principal: &Principal) -> Result<StoredPerson, IdentityError> {
        let person = self.shared.read().person(principal.id()).cloned();
        person.filter(|_| principal.kind() == PrincipalKind::Person).ok_or(IdentityError::NoPerson)
    }
}

/// How a person is called everywhere.
pub(crate) fn principal_of(tenant: Option<&TenantId>, name: &ResourceName) -> Result<PrincipalId, IdentityError> {
    let place = tenant.map_or(OPERATOR, TenantId::as_str);
    format!("{place}/{name}").parse().map_err(|_| IdentityError::Host("a name is too long"))
}

/// What is hashed of a password that somebody typed: nothing of one that is longer than any can be.
pub(crate) fn typed(password: &SecretString) -> &str {
    if password.expose().len() <= PASSWORD_BYTES_MAX { password.expose().as_str() } else { "" }
}
