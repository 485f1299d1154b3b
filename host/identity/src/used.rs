//! When principals and their keys last signed in. Written with the session that a sign-in opens, at most once an hour for a
//! principal and a key; a session lives five minutes, so that is also when they were last of use.
//!
//! Must never be what decides whether somebody may do something: it is for reports and reviews.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ringfence_core::proof::act;
use ringfence_core::{Permit, Principal, PrincipalId, PrincipalKind, Role, Strength, TenantId};
use ringfence_store::{Key, Op};
use serde::{Deserialize, Serialize};

use crate::manage::covers;
use crate::record::{Method, StoredSession};
use crate::tables::Tables;
use crate::{Identity, IdentityError};

/// How exact the times are, in seconds.
pub const LAST_USE_SECONDS: i64 = 3_600;
/// LIMIT: principals of one place whose last use is kept; the one that was used longest ago gives way.
const KEPT_COUNT_MAX: usize = 8_192;
/// LIMIT: keys of one principal whose last use is kept, in the same way.
const KEYS_COUNT_MAX: usize = 64;

/// When somebody last signed in, to the hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// Who.
    pub principal: PrincipalId,
    /// Of which tenant; none for operators.
    pub tenant: Option<TenantId>,
    /// The role he had.
    pub role: Role,
    /// How he signed in.
    pub method: Method,
    /// The beginning of the hour.
    pub at: Timestamp,
    /// The same for each of his API keys, by the key's id.
    pub keys: BTreeMap<String, Timestamp>,
}

pub(crate) fn used_at(principal: &PrincipalId) -> Key {
    Key::new(["identity", "used", HEXLOWER.encode(principal.as_str().as_bytes()).as_str()])
}

impl Identity {
    /// When the principals of a place last signed in, as far as that is kept.
    pub fn last_uses(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<LastUse>, IdentityError> {
        covers(permit.resource(), tenant)?;
        let tables = self.shared.read();
        Ok(tables.used.values().filter(|used| used.tenant.as_ref() == tenant).cloned().collect())
    }

    /// Whether a principal is anybody of a place, as far as that is known here: a person, also one who is only invited, the holder of a
    /// key that is live, or who signed in from elsewhere.
    pub fn is_anybody(&self, tenant: Option<&TenantId>, principal: &PrincipalId) -> bool {
        let now = self.shared.clock.now();
        let tables = self.shared.read();
        let is_person = tables.person(principal).is_some_and(|person| person.record.tenant.as_ref() == tenant);
        let has_key = || tables.keys_of(tenant).any(|key| key.is_live(now) && key.principal == *principal);
        let from_elsewhere = |used: &LastUse| {
            used.tenant.as_ref() == tenant && matches!(used.method, Method::Federated | Method::ClientCertificate)
        };
        is_person || has_key() || tables.used.get(principal).is_some_and(from_elsewhere)
    }

    /// Who asked for something that comes due while he is away: as he is known now, without a session. None when he was
    /// removed meanwhile, or is known from elsewhere alone. Whether he may still have it done is for policy to say.
    #[expect(clippy::disallowed_methods, reason = "this room knows who there is, and he proved himself when he asked")]
    pub fn absent(&self, tenant: &TenantId, principal: &PrincipalId) -> Option<Principal> {
        let now = self.shared.clock.now();
        let tables = self.shared.read();
        let person = tables.person(principal).map(|person| &person.record);
        let person = person.filter(|record| record.tenant.as_ref() == Some(tenant) && record.enrolled_at.is_some());
        let (kind, role, scope) = match person {
            Some(record) => (PrincipalKind::Person, record.role, None),
            None => {
                let mut keys = tables.keys_of(Some(tenant)).filter(|key| key.is_live(now));
                let key = keys.find(|key| key.principal == *principal)?;
                (PrincipalKind::Service, key.role, key.scope.clone())
            }
        };
        drop(tables);
        let (role, tenant) = (Some(role), Some(tenant.clone()));
        Some(Principal::mint(principal.clone(), kind, role, tenant, Strength::None, None, now).within(scope))
    }
}

impl Tables {
    /// What is to be kept of a sign-in; none when its hour is kept already.
    pub(crate) fn next_use(&self, session: &StoredSession) -> Option<LastUse> {
        let second = session.issued_at.as_second();
        let hour = Timestamp::from_second(second - second.rem_euclid(LAST_USE_SECONDS)).ok()?;
        let before = self.used.get(&session.principal);
        let key_is_kept = |key: &String| before.is_some_and(|used| used.keys.get(key).is_some_and(|at| *at >= hour));
        let is_kept = before.is_some_and(|used| used.at >= hour && used.role == session.role);
        if is_kept && session.key.as_ref().is_none_or(key_is_kept) {
            return None;
        }
        let mut keys = before.map(|used| used.keys.clone()).unwrap_or_default();
        if let Some(key) = &session.key {
            keys.insert(key.clone(), hour);
        }
        while keys.len() > KEYS_COUNT_MAX {
            let oldest = keys.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
            oldest.and_then(|key| keys.remove(&key));
        }
        Some(LastUse {
            principal: session.principal.clone(),
            tenant: session.tenant.clone(),
            role: session.role,
            method: session.method,
            at: before.map_or(hour, |used| used.at.max(hour)),
            keys,
        })
    }

    /// The changes that keep a use, and who gives way for it.
    pub(crate) fn keeping_use(&self, used: &LastUse) -> Result<(Vec<Op>, Option<PrincipalId>), IdentityError> {
        let mut ops = vec![Op::put_json(used_at(&used.principal), used)?];
        let here = || self.used.values().filter(|other| other.tenant == used.tenant);
        let is_new = !self.used.contains_key(&used.principal);
        let gone = (is_new && here().count() >= KEPT_COUNT_MAX).then(|| here().min_by_key(|other| other.at)).flatten();
        let gone = gone.map(|other| other.principal.clone());
        ops.extend(gone.iter().map(|principal| Op::delete(used_at(principal))));
        Ok((ops, gone))
    }

    /// Takes in what was kept.
    pub(crate) fn put_use(&mut self, used: LastUse, gone: Option<PrincipalId>) {
        gone.and_then(|principal| self.used.remove(&principal));
        self.used.insert(used.principal.clone(), used);
    }
}
