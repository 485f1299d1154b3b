//! How one signs in to a place, as the tenant (or the operators, for the host) decided.
//!
//! Must never make a sign-in easier by being absent: what is not set is the default that is written here.

use jiff::Timestamp;
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, SessionId, TenantId};
use ringfence_store::{Key, Op};
use serde::{Deserialize, Serialize};

use crate::certificate::CertificateTrust;
use crate::manage::{covers, finish, finish_ending};
use crate::oidc::{self, ProviderTrust};
use crate::record::Method;
use crate::shelf::ending;
use crate::tables::Tables;
use crate::{Identity, IdentityError};

/// Whether a token that is bound to nothing is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnboundTokens {
    /// Whoever has the token has the session, for its five minutes.
    #[default]
    Allowed,
    /// A token must come with a proof of possession or on the connection of its certificate.
    Refused,
}

/// How one signs in to a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInSettings {
    /// Whether a token that is bound to nothing is taken; asked on every request.
    pub unbound_tokens: UnboundTokens,
    /// Which client certificates are trusted; none when nobody signs in with one.
    #[serde(default)]
    pub certificates: Option<CertificateTrust>,
    /// Which identity providers are trusted.
    #[serde(default)]
    pub providers: Vec<ProviderTrust>,
    /// How long a new API key lives at most, in days, and where nothing shorter is asked for; none for as long as is asked for.
    #[serde(default)]
    pub keys_days_max: Option<u16>,
    /// When this was decided.
    pub changed_at: Option<Timestamp>,
    /// Who decided it.
    pub changed_by: Option<PrincipalId>,
}

impl SignInSettings {
    /// What holds where nobody decided.
    pub const fn unset() -> Self {
        Self {
            unbound_tokens: UnboundTokens::Allowed,
            certificates: None,
            providers: Vec::new(),
            keys_days_max: None,
            changed_at: None,
            changed_by: None,
        }
    }

    /// Refuses what could not be put in force, so that nothing is ended for its sake.
    pub fn check(&self) -> Result<(), IdentityError> {
        oidc::check_all(&self.providers)
    }
}

pub(crate) fn settings_at() -> Key {
    Key::new(["identity", "settings"])
}

impl Identity {
    /// How one signs in to a tenant.
    pub fn sign_in_settings(
        &self,
        permit: Permit<act::ReadPolicy>,
        tenant: Option<&TenantId>,
    ) -> Result<SignInSettings, IdentityError> {
        covers(permit.resource(), tenant)?;
        Ok(self.shared.read().settings_of(tenant).map_or_else(SignInSettings::unset, |settings| (**settings).clone()))
    }

    /// Decides how one signs in to a tenant. In force for the next request, sessions that are open included; those that were
    /// opened with a certificate end when the trust in certificates changes, and are opened anew by whoever still may; so do
    /// those that were opened at an identity provider when that trust changes.
    pub async fn set_sign_in_settings(
        &self,
        permit: Permit<act::WritePolicy>,
        tenant: Option<&TenantId>,
        mut settings: SignInSettings,
    ) -> Result<SignInSettings, IdentityError> {
        covers(permit.resource(), tenant)?;
        settings.check()?;
        let store = self.store_of(tenant)?;
        settings.changed_at = Some(self.shared.clock.now());
        settings.changed_by = Some(permit.principal().clone());
        let mut ops = vec![Op::put_json(settings_at(), &settings)?];
        let (ended, before) = {
            let mut tables = self.shared.write();
            let before = tables.settings_of(tenant).map_or_else(SignInSettings::unset, |before| (**before).clone());
            (end_untrusted(&mut tables, tenant, (&before, &settings)), before)
        };
        ops.extend(ending(&ended));
        finish(store.clone(), ops).await?;
        let late = {
            let mut tables = self.shared.write();
            tables.set_settings(tenant.cloned(), settings.clone());
            // Those that were opened under the old trust while the new one was being written.
            end_untrusted(&mut tables, tenant, (&before, &settings))
        };
        finish_ending(store, &late).await?;
        Ok(settings)
    }
}

/// Ends the sessions of a place that were opened by trust which changes; which ones they were.
fn end_untrusted(
    tables: &mut Tables,
    tenant: Option<&TenantId>,
    (before, after): (&SignInSettings, &SignInSettings),
) -> Vec<SessionId> {
    let mut ended = Vec::new();
    if before.certificates != after.certificates {
        ended.extend(tables.end_all_by(Method::ClientCertificate, tenant));
    }
    if before.providers != after.providers {
        ended.extend(tables.end_all_by(Method::Federated, tenant));
    }
    ended
}
