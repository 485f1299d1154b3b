//! Where identity's records lie: the platform's in the platform's store, each tenant's in its own.
//!
//! | record | store | key |
//! |---|---|---|
//! | token signing key | platform | `identity/token-key` |
//! | API key and its hash | the tenant's, or the platform's for operators | `identity/key/<id>` |
//! | session | likewise | `identity/session/<id>` |
//! | person and factors | likewise | `identity/person/<name>` |
//! | risk, findings, networks, devices | likewise | `identity/about/<principal, in hexadecimal>` |
//! | what is asked of sessions | likewise | `identity/trust` |
//! | what an operator wants to ask less | platform | `identity/trust-wanted` |
//! | how one signs in | likewise | `identity/settings` |
//! | when somebody last signed in | likewise | `identity/used/<principal, in hexadecimal>` |
//!
//! Which tenant a key id belongs to is known from the store it was loaded from: there is no second index to disagree.
//! Must never write a tenant's record into another store.

use ringfence_core::{Entropy, ResourceName, SessionId, TenantId};
use ringfence_keys::SigningKey;
use ringfence_store::{Key, Op, Precondition, Record, StoreError, TenantStore, Tenants};

use crate::IdentityError;
use crate::person::StoredPerson;
use crate::record::{StoredKey, StoredSession};
use crate::settings::settings_at;
use crate::standing::trust_at;
use crate::tables::{Now, Tables};
use crate::used::LastUse;

/// How many records are loaded at a time.
const PAGE: usize = 256;

/// The stores of everyone.
pub(crate) struct Shelf {
    pub(crate) platform: TenantStore,
    pub(crate) tenants: Tenants,
}

pub(crate) fn key_at(id: &str) -> Key {
    Key::new(["identity", "key", id])
}

pub(crate) fn session_at(id: &SessionId) -> Key {
    Key::new(["identity", "session", id.as_str()])
}

pub(crate) fn person_at(name: &ResourceName) -> Key {
    Key::new(["identity", "person", name.as_str()])
}

/// Changes that end sessions.
pub(crate) fn ending(sessions: &[SessionId]) -> impl Iterator<Item = Op> {
    sessions.iter().map(|id| Op::delete(session_at(id)))
}

impl Shelf {
    /// The store of a tenant, or the platform's; none when there is no such tenant.
    pub(crate) fn of(&self, tenant: Option<&TenantId>) -> Option<TenantStore> {
        match tenant {
            None => Some(self.platform.clone()),
            Some(tenant) => self.tenants.open_tenant(tenant),
        }
    }

    /// The key that signs access tokens; made and stored when there is none.
    pub(crate) async fn token_key(&self, entropy: &dyn Entropy) -> Result<SigningKey, IdentityError> {
        let at = Key::new(["identity", "token-key"]);
        if let Some(record) = self.platform.get(&at).await? {
            return Ok(SigningKey::from_pkcs8(&record.value)?);
        }
        let key = SigningKey::generate(entropy)?;
        let put = Op::put(at.clone(), key.to_pkcs8().as_slice());
        self.platform.batch(vec![put], vec![Precondition::Absent(at)]).await?;
        Ok(key)
    }

    /// Everything that is stored, less what is over.
    pub(crate) async fn load(&self, now: Now) -> Result<Tables, IdentityError> {
        let mut tables = Tables::default();
        self.load_one(None, &mut tables, now).await?;
        for record in self.tenants.list().await? {
            match self.load_one(Some(&record.id), &mut tables, now).await {
                // Deleted while we were loading, or locked, by its own key provider or for damage: see `Identity::reload`.
                Err(IdentityError::Store(StoreError::Gone | StoreError::KeyRefused | StoreError::KeyDisabled)) => {
                    tables.forget(&record.id);
                }
                Err(IdentityError::Store(error)) if self.tenants.shut_damaged(&record.id, &error) => {
                    tables.forget(&record.id);
                }
                other => other?,
            }
        }
        Ok(tables)
    }

    /// What is stored of one tenant, less what is over.
    pub(crate) async fn load_tenant(&self, tenant: &TenantId, now: Now) -> Result<Tables, IdentityError> {
        let mut tables = Tables::default();
        self.load_one(Some(tenant), &mut tables, now).await?;
        Ok(tables)
    }

    async fn load_one(&self, tenant: Option<&TenantId>, tables: &mut Tables, now: Now) -> Result<(), IdentityError> {
        let Some(store) = self.of(tenant) else { return Ok(()) };
        for record in scan(&store, &Key::new(["identity", "key"])).await? {
            let key: StoredKey = record.json()?;
            // INVARIANT: a key speaks for the tenant in whose store it lies.
            if key.record.tenant.as_ref() != tenant {
                return Err(StoreError::Damaged.into());
            }
            tables.keys.insert(key.record.id.clone(), key);
        }
        for record in scan(&store, &Key::new(["identity", "person"])).await? {
            let person: StoredPerson = record.json()?;
            if person.record.tenant.as_ref() != tenant {
                return Err(StoreError::Damaged.into());
            }
            tables.put_person(person);
        }
        for record in scan(&store, &Key::new(["identity", "about"])).await? {
            tables.put_about(record.json()?);
        }
        for record in scan(&store, &Key::new(["identity", "used"])).await? {
            let used: LastUse = record.json()?;
            if used.tenant.as_ref() == tenant {
                tables.put_use(used, None);
            }
        }
        if let Some(record) = store.get(&trust_at()).await? {
            tables.set_trust(tenant.cloned(), record.json()?);
        }
        if let Some(record) = store.get(&settings_at()).await? {
            tables.set_settings(tenant.cloned(), record.json()?);
        }
        let mut over = Vec::new();
        for record in scan(&store, &Key::new(["identity", "session"])).await? {
            let session: StoredSession = record.json()?;
            let key_ended = session.key.as_ref().is_some_and(|key| tables.live_key(key, now.wall).is_none());
            let gone = session.method.is_of_person() && tables.person(&session.principal).is_none();
            if session.tenant.as_ref() != tenant || key_ended || gone || session.expires_at <= now.wall {
                over.push(session.id);
            } else {
                tables.open_session(session, now);
            }
        }
        for some in over.chunks(PAGE) {
            store.batch(ending(some).collect(), Vec::new()).await?;
        }
        Ok(())
    }
}

pub(crate) async fn scan(store: &TenantStore, prefix: &Key) -> Result<Vec<Record>, IdentityError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = store.scan(prefix, after.as_ref(), PAGE).await?;
        all.extend(page.records.into_iter().map(|(_, record)| record));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}
