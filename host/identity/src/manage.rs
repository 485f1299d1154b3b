//! Making, listing and revoking API keys. Each act spends a permit that must cover the keys' tenant.
//!
//! Must never show a secret twice, nor leave a revoked key good for one more call: memory first, then the store.

use jiff::{SignedDuration, Timestamp};
use ringfence_core::limits::{KEYS_KEPT_COUNT_MAX, KEYS_LIVE_COUNT_MAX};
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, Resource, Role, SessionId, TenantId};
use ringfence_store::{Op, TenantStore};

use crate::record::{KeyRecord, NewKey, StoredKey};
use crate::second_person::owners_of_new;
use crate::shelf::{ending, key_at};
use crate::tables::Tables;
use crate::{Identity, IdentityError, OPERATOR, SecretString, secret_hash};

const DAY_SECONDS: u32 = 86_400;

impl Identity {
    /// Makes a key; the secret is in the answer and nowhere else. The permit must be for the tenant (or for the host, for
    /// an operator's key). An operator can make the first tenant-admin key of a tenant, and no other key of it.
    pub async fn create_key(
        &self,
        permit: Permit<act::CreateToken>,
        new: NewKey,
    ) -> Result<(KeyRecord, SecretString), IdentityError> {
        let shared = &self.shared;
        covers(permit.resource(), new.tenant.as_ref())?;
        let store = self.store_of(new.tenant.as_ref())?;
        let now = shared.clock.now();
        let days_max = shared.read().settings_of(new.tenant.as_ref()).and_then(|settings| settings.keys_days_max);
        let expires_at = admissible(&new, days_max, now)?;
        let (id, secret) = secret_hash::generate(shared.entropy.as_ref());
        let hashed = shared.hasher.hash_key(&secret, shared.entropy.as_ref()).await?;
        // One at a time, so that the counts below are those of the moment of writing.
        let _turn = shared.making.of(new.tenant.clone()).await;
        let by_operator = permit.principal().as_str().starts_with(&format!("{OPERATOR}/"));
        let oldest_dead = check_room(&shared.read(), &new, by_operator, now)?;
        let holder = new.tenant.as_ref().map_or(OPERATOR, TenantId::as_str);
        let principal: PrincipalId =
            format!("{holder}/{}", new.name).parse().map_err(|_| IdentityError::Host("a name is too long"))?;
        let record = KeyRecord {
            id: id.clone(),
            tenant: new.tenant,
            name: new.name,
            role: new.role,
            principal,
            created_at: now,
            created_by: permit.principal().clone(),
            expires_at,
            revoked_at: None,
            scope: new.scope,
        };
        let owners = owners_of_new(&shared.read(), &record.created_by, &record.principal);
        let stored = StoredKey { record: record.clone(), hashed, owners };
        // SECURITY: who went by this name on the word of a provider or a certificate is not the holder of the key.
        let ended = shared.write().end_all_of_person(&record.principal);
        let mut ops = vec![Op::put_json(key_at(&id), &stored)?];
        ops.extend(oldest_dead.iter().map(|id| Op::delete(key_at(id))));
        ops.extend(ending(&ended));
        store.batch(ops, Vec::new()).await?;
        let late = {
            let mut tables = shared.write();
            oldest_dead.iter().for_each(|id| drop(tables.keys.remove(id)));
            tables.keys.insert(id, stored);
            // Those that were opened while it was being written.
            tables.end_all_of_person(&record.principal)
        };
        // SECURITY: the tenant may have been deleted meanwhile; its name can be used again, and this key must not open that.
        if let Some(tenant) = &record.tenant
            && shared.shelf.tenants.open_tenant(tenant).is_none()
        {
            shared.write().forget(tenant);
            return Err(IdentityError::NotFound { what: tenant.to_string() });
        }
        finish_ending(store, &late).await?;
        if record.role == Role::Operator {
            // Someone can sign in as operator from now on; the enrolment token has done its work.
            *shared.bootstrap() = None;
        }
        Ok((record, secret))
    }

    /// Ends a key and its sessions at once. Revoking twice is no error. When the store fails the key is ended until the
    /// host restarts, and the error says that this is not durable.
    pub async fn revoke_key(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        id: &str,
    ) -> Result<PrincipalId, IdentityError> {
        covers(permit.resource(), tenant)?;
        let store = self.store_of(tenant)?;
        let now = self.shared.clock.now();
        let (stored, sessions) = {
            let mut tables = self.shared.write();
            let key = tables
                .keys
                .get_mut(id)
                .filter(|key| key.record.tenant.as_ref() == tenant)
                .ok_or_else(|| not_found(id))?;
            key.record.revoked_at.get_or_insert(now);
            let stored = key.clone();
            (stored, tables.end_all_of(id))
        };
        let mut ops = vec![Op::put_json(key_at(id), &stored)?];
        ops.extend(ending(&sessions));
        finish(store, ops).await?;
        Ok(stored.record.principal)
    }

    /// The keys there, oldest first, ended ones too.
    pub async fn list_keys(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<KeyRecord>, IdentityError> {
        covers(permit.resource(), tenant)?;
        let mut keys: Vec<KeyRecord> = self.shared.read().keys_of(tenant).cloned().collect();
        keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(keys)
    }

    /// Ends everything of a deleted tenant at once; its records went with its store.
    pub async fn forget_tenant(&self, tenant: &TenantId) {
        self.shared.write().forget(tenant);
        self.shared.falls().forget(tenant);
    }

    /// Reads who can sign in to a tenant whose records could not be read at the start.
    pub async fn reload(&self, tenant: &TenantId) -> Result<(), IdentityError> {
        let mut read = self.shared.shelf.load_tenant(tenant, self.shared.now()).await?;
        {
            let mut tables = self.shared.write();
            // SECURITY: one that fell is noted under the same lock; it must not come back from what was read before that.
            let falls = self.shared.falls();
            read.leave_out(|session| falls.has_ended(session));
            tables.take_in(read);
        }
        self.drop_unsigned();
        Ok(())
    }

    pub(crate) fn store_of(&self, tenant: Option<&TenantId>) -> Result<TenantStore, IdentityError> {
        self.shared.shelf.of(tenant).ok_or_else(|| not_found(tenant.map_or("", TenantId::as_str)))
    }
}

/// Writes what ends something, even when the caller hangs up meanwhile.
pub(crate) async fn finish(store: TenantStore, ops: Vec<Op>) -> Result<(), IdentityError> {
    let write = tokio::spawn(async move { store.batch(ops, Vec::new()).await });
    write.await.map_err(|_| IdentityError::Host("a write was stopped"))??;
    Ok(())
}

/// Deletes the records of sessions that were ended in memory, likewise: else the next start would open them again.
pub(crate) async fn finish_ending(store: TenantStore, ended: &[SessionId]) -> Result<(), IdentityError> {
    if ended.is_empty() { Ok(()) } else { finish(store, ending(ended).collect()).await }
}

/// A permit is for one tenant, or for the host; it says nothing about any other place.
pub(crate) fn covers(resource: &Resource, tenant: Option<&TenantId>) -> Result<(), IdentityError> {
    match (resource, tenant) {
        (Resource::Host, None) => Ok(()),
        (Resource::Tenant { tenant: permitted }, Some(tenant)) if permitted == tenant => Ok(()),
        _ => Err(IdentityError::WrongPermit),
    }
}

/// Whether a place has a role.
pub(crate) fn admissible_role(tenant: Option<&TenantId>, role: Role) -> Result<(), IdentityError> {
    let misplaced = |rule| Err(IdentityError::RoleMisplaced { role: role.as_str(), rule });
    match (tenant, role) {
        (None, Role::Operator) => Ok(()),
        (Some(_), Role::Operator) => misplaced("belongs to the host, not to a tenant"),
        (None, _) => misplaced("needs a tenant"),
        (Some(tenant), _) if tenant.as_str() == OPERATOR => Err(IdentityError::Reserved { tenant: tenant.to_string() }),
        (Some(_), _) => Ok(()),
    }
}

/// Checks what was asked for by itself; when the key ends.
fn admissible(new: &NewKey, days_max: Option<u16>, now: Timestamp) -> Result<Option<Timestamp>, IdentityError> {
    admissible_role(new.tenant.as_ref(), new.role)?;
    if new.scope.as_ref().is_some_and(|scope| scope.plugins.is_some()) && new.tenant.is_none() {
        return Err(IdentityError::RoleMisplaced { role: new.role.as_str(), rule: "acts on no tenant's plugins" });
    }
    let longest = days_max.map(|days| u32::from(days).saturating_mul(DAY_SECONDS));
    let lifetime = IdentityError::Lifetime { seconds_max: longest.unwrap_or(u32::MAX) };
    match new.expires_in_seconds.or(longest) {
        None => Ok(None),
        Some(0) => Err(lifetime),
        Some(seconds) if longest.is_some_and(|longest| seconds > longest) => Err(lifetime),
        Some(seconds) => now.checked_add(SignedDuration::from_secs(seconds.into())).map(Some).map_err(|_| lifetime),
    }
}

/// Checks what was asked for against the keys there are; which ended ones must go to make room.
fn check_room(tables: &Tables, new: &NewKey, by_operator: bool, now: Timestamp) -> Result<Vec<String>, IdentityError> {
    let (live, mut dead): (Vec<&KeyRecord>, Vec<&KeyRecord>) =
        tables.keys_of(new.tenant.as_ref()).partition(|key| key.is_live(now));
    if let Some(tenant) = new.tenant.as_ref().filter(|_| by_operator) {
        // SECURITY: an operator with a tenant's key would see the tenant's data; he may only start it off.
        if new.role != Role::TenantAdmin
            || live.iter().any(|key| key.role == Role::TenantAdmin)
            || tables.people_of(Some(tenant)).any(|person| person.record.role == Role::TenantAdmin)
        {
            return Err(IdentityError::OperatorLimited { tenant: tenant.to_string() });
        }
    }
    // One name is one principal: what that may do must not depend on which of its keys is looked at.
    let mut of_name = live.iter().filter(|key| key.name == new.name);
    if let Some(other) = of_name.find(|key| key.role != new.role || key.scope != new.scope) {
        return Err(IdentityError::NameTaken { name: new.name.to_string(), role: other.role.as_str() });
    }
    if let Some(person) = tables.people_of(new.tenant.as_ref()).find(|person| person.record.name == new.name) {
        return Err(IdentityError::NameTaken { name: new.name.to_string(), role: person.record.role.as_str() });
    }
    if live.len() >= KEYS_LIVE_COUNT_MAX {
        return Err(IdentityError::TooManyKeys { count_max: KEYS_LIVE_COUNT_MAX });
    }
    dead.sort_by_key(|key| key.created_at);
    let beyond = (live.len() + dead.len() + 1).saturating_sub(KEYS_KEPT_COUNT_MAX);
    Ok(dead.into_iter().take(beyond).map(|key| key.id.clone()).collect())
}

pub(crate) fn not_found(what: &str) -> IdentityError {
    IdentityError::NotFound { what: what.chars().take(80).collect() }
}
