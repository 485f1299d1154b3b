//! Responses that disable a tenant's keys: carried out by the store, in the response's name, and undone at its end.
//!
//! The state of the keys says for which response they are disabled, and that decides: at its end only those are enabled again
//! that are disabled for it still, so that it never undoes what people wanted meanwhile; and a start completes by it a
//! response whose second person was heard before a kill.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ringfence_core::{PrincipalId, TenantId};
use ringfence_store::{KeyUse, Side, StoreError};

use tokio::sync::Notify;

use crate::ThreatError;
use crate::response::{Kind, Response, Scope};
use crate::threat::Threat;

/// Tenants whose keys came back at the end of a response, until somebody is told.
#[derive(Default)]
pub(crate) struct Lifted {
    tenants: Mutex<BTreeSet<TenantId>>,
    bell: Notify,
}

impl Threat {
    /// Tenants whose keys came back at the end of a response, once there are some: for one reader, who is told of each once.
    /// Whoever undoes a response knows by himself.
    pub async fn lifted(&self) -> BTreeSet<TenantId> {
        let lifted = &self.inner.lifted;
        loop {
            let tenants = std::mem::take(&mut *lifted.tenants.lock().unwrap_or_else(PoisonError::into_inner));
            if !tenants.is_empty() {
                return tenants;
            }
            lifted.bell.notified().await;
        }
    }

    /// Notes that a response which held is over, for [`Threat::lifted`]: where the keys are not disabled for another reason.
    pub(crate) fn note_lifted(&self, response: &Response) {
        let Some(tenant) = keys_of(response) else { return };
        if self.inner.tenants.open_tenant(tenant).is_some_and(|store| store.check_keys().is_ok()) {
            let mut tenants = self.inner.lifted.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.insert(tenant.clone());
            self.inner.lifted.bell.notify_one();
        }
    }

    /// Refuses to ask for a response against keys that are disabled.
    pub(crate) async fn check_key_enabled(&self, response: &Response) -> Result<(), ThreatError> {
        let Some(tenant) = &response.target.tenant else { return Err(ThreatError::NotFound) };
        let status = self.inner.tenants.key_status(tenant).await?;
        if status.state == KeyUse::Enabled { Ok(()) } else { Err(disabled_already()) }
    }

    /// Disables the keys that a response is about, because `by` agreed; nothing for one of another kind. Again is fine.
    pub(crate) async fn disable_for(&self, response: &Response, by: &PrincipalId) -> Result<(), ThreatError> {
        let Some(tenant) = keys_of(response) else { return Ok(()) };
        let side = side(&response.scope);
        match self.inner.tenants.disable_key_for(tenant, &response.id, by.as_str(), side).await {
            Err(StoreError::KeyDisabled) => Err(disabled_already()),
            other => other.map_err(ThreatError::from),
        }
    }

    /// Undoes what a response did besides standing in the table.
    pub(crate) async fn lift(&self, response: &Response) -> Result<(), ThreatError> {
        let Some(tenant) = keys_of(response) else { return Ok(()) };
        match self.inner.tenants.enable_key_after(tenant, &response.id).await {
            // Nothing of them is left.
            Err(StoreError::UnknownTenant | StoreError::Gone) => Ok(()),
            other => other.map_err(ThreatError::from),
        }
    }

    /// A response as a start finds it: in force, and kept so, where the keys are disabled for it and it was still kept as one
    /// that waits.
    pub(crate) async fn completed(&self, response: Response) -> Result<Response, ThreatError> {
        let (Some(tenant), Some(_), None) = (keys_of(&response), response.waits_minutes, &response.undone) else {
            return Ok(response);
        };
        let disabled = self.inner.tenants.key_disabled(tenant).await?;
        let Some(disabled) = disabled.filter(|one| one.response.as_ref() == Some(&response.id)) else {
            return Ok(response);
        };
        let Ok(by) = disabled.by.parse::<PrincipalId>() else { return Ok(response) };
        let approved = response.approved(by, disabled.at)?;
        self.keep(&approved).await?;
        Ok(approved)
    }
}

/// Whose keys a response disables; none for one of another kind.
fn keys_of(response: &Response) -> Option<&TenantId> {
    response.target.tenant.as_ref().filter(|_| response.kind == Kind::DisableKey)
}

/// On which side those stand who answer in a scope.
fn side(scope: &Scope) -> Side {
    match scope {
        Scope::Host => Side::Operator,
        Scope::Tenant(_) => Side::Tenant,
    }
}

fn disabled_already() -> ThreatError {
    ThreatError::BadResponse { what: "the keys are disabled already".to_owned() }
}
