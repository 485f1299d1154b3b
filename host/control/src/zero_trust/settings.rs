//! How one signs in to a tenant: `/tenants/{t}/sign-in`, and its identity providers one by one.
//!
//! Must never put a decision into force that the log has no intent for, nor overwrite one the caller has not seen.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, Resource, TenantId};
use ringfence_identity::{
    CertificateHolder, CertificateTrust, ClaimRole, ClientSecret, ProviderTrust, SecretString, SignInSettings,
    UnboundTokens,
};
use ringfence_store::TenantStore;
use serde_json::{Value, json};

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::tokens::parse_role;
use crate::wire::{
    CertificateHolderWord, ClaimRoleWord, ClientCertificateTrust, ClientCertificateTrustView, IdentityProvider,
    IdentityProviderView, Problem, SetSignInSettings, SignInSettingsView, UnboundTokensWord,
};

/// LIMIT: the longest that a tenant can let API keys live, in days, where it says so at all.
const KEYS_DAYS_MAX: u16 = 3_650;

/// Reads how one signs in to a tenant.
#[utoipa::path(get, path = "/tenants/{tenant}/sign-in", tag = "zero-trust",
    responses((status = 200, body = SignInSettingsView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<SignInSettingsView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let settings = control.parts.identity.sign_in_settings(reached.permit, Some(&reached.tenant))?;
    Ok(Json(view(settings)))
}

/// Decides how one signs in to a tenant. In force for the next request, open sessions included.
#[utoipa::path(put, path = "/tenants/{tenant}/sign-in", tag = "zero-trust", request_body = SetSignInSettings,
    responses((status = 200, body = SignInSettingsView), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(asked): JsonBody<SetSignInSettings>,
) -> Result<Json<SignInSettingsView>, ApiError> {
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let unbound_tokens = match asked.unbound_tokens {
        UnboundTokensWord::Allowed => UnboundTokens::Allowed,
        UnboundTokensWord::Refused => UnboundTokens::Refused,
    };
    let certificates = asked.client_certificates.map(trust).transpose()?;
    let providers = asked.identity_providers.into_iter().map(provider).collect::<Result<Vec<_>, _>>()?;
    let keys_days_max = asked.keys_days_max;
    if keys_days_max.is_some_and(|days| !(1..=KEYS_DAYS_MAX).contains(&days)) {
        return Err(ApiError::new("bad-lifetime", format!("`keys_days_max` is 1 to {KEYS_DAYS_MAX}")));
    }
    let details = json!({
        "unbound_tokens": unbound_tokens,
        "keys_days_max": keys_days_max,
        "certificate_holders": certificates.as_ref().map_or(0, |trust| trust.holders().len()),
        "identity_providers": providers.iter().map(|provider| provider.issuer.as_str()).collect::<Vec<_>>(),
    });
    let settings = SignInSettings { unbound_tokens, certificates, providers, keys_days_max, ..SignInSettings::unset() };
    let (store, id) = (reached.store, reached.tenant);
    let may_read = control.reach::<act::ReadPolicy>(&call, Resource::Tenant { tenant: id.clone() }).await?.permit;
    let log = Log::Tenant(store.clone());
    let settings = control
        .bracket(&call, &log, reached.permit, codes::SIGN_IN_CHANGED, details, async |permit| {
            // Not between the reading and the writing of who changes one provider: he would put back what was before.
            let _one = control.changing.of(id.clone()).await;
            let before = control.parts.identity.sign_in_settings(may_read, Some(&id))?;
            control.decide_sign_in(permit, (&id, &store), &before, settings).await
        })
        .await?;
    Ok(Json(view(settings)))
}

/// Trusts an identity provider, or changes that trust; without a secret it keeps the one it has. Sessions that were opened at
/// any provider of the tenant end.
#[utoipa::path(put, path = "/tenants/{tenant}/sign-in/providers/{name}", tag = "zero-trust", request_body = IdentityProvider,
    responses((status = 200, body = IdentityProviderView), (status = "default", body = Problem)))]
pub async fn put_provider(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
    JsonBody(asked): JsonBody<IdentityProvider>,
) -> Result<Json<IdentityProviderView>, ApiError> {
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    if asked.name != name {
        return Err(ApiError::new("bad-word", "the name in the body is another than the one in the path"));
    }
    let mut new = provider(asked)?;
    let details = json!({ "provider": new.name, "issuer": new.issuer });
    let view = control
        .change_providers(&call, reached, details, |providers| {
            let old = providers.iter().position(|old| old.name == new.name).map(|place| providers.remove(place));
            new.client_secret = new.client_secret.take().or_else(|| old.and_then(|old| old.client_secret));
            providers.push(new.clone());
            Ok(provider_view(new))
        })
        .await?;
    Ok(Json(view))
}

/// Trusts an identity provider no longer; sessions that were opened at any provider of the tenant end.
#[utoipa::path(delete, path = "/tenants/{tenant}/sign-in/providers/{name}", tag = "zero-trust",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete_provider(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let details = json!({ "provider_removed": name.chars().take(80).collect::<String>() });
    control
        .change_providers(&call, reached, details, |providers| {
            let place = providers.iter().position(|known| known.name.as_str() == name);
            providers.remove(place.ok_or_else(ApiError::not_found)?);
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Control {
    /// Changes which providers are trusted and leaves the rest of how one signs in as it is.
    async fn change_providers<T>(
        &self,
        call: &Call,
        reached: Reached<act::WritePolicy>,
        details: Value,
        change: impl FnOnce(&mut Vec<ProviderTrust>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let Reached { tenant, store, permit } = reached;
        let resource = Resource::Tenant { tenant: tenant.clone() };
        let may_read = self.reach::<act::ReadPolicy>(call, resource).await?.permit;
        let log = Log::Tenant(store.clone());
        self.bracket(call, &log, permit, codes::SIGN_IN_CHANGED, details, async |permit| {
            let _one = self.changing.of(tenant.clone()).await;
            let before = self.parts.identity.sign_in_settings(may_read, Some(&tenant))?;
            let mut settings = before.clone();
            let changed = change(&mut settings.providers)?;
            self.decide_sign_in(permit, (&tenant, &store), &before, settings).await?;
            Ok(changed)
        })
        .await
    }

    /// Puts in force how one signs in to a tenant, and ends what those are lent who cannot any more. The caller holds the turn to
    /// change the tenant.
    async fn decide_sign_in(
        &self,
        permit: Permit<act::WritePolicy>,
        (tenant, store): (&TenantId, &TenantStore),
        before: &SignInSettings,
        settings: SignInSettings,
    ) -> Result<SignInSettings, ApiError> {
        // What is refused ends nothing.
        settings.check()?;
        // SECURITY: before anybody else comes under such a name.
        self.end_lent_in_turn(tenant, store, |who| is_given_up(tenant, (before, &settings), who)).await?;
        Ok(self.parts.identity.set_sign_in_settings(permit, Some(tenant), settings).await?)
    }
}

/// Whether a name stands for nobody from now on, or for another: its certificate counts no longer or is another's, or the provider
/// that vouches for it is gone or another is trusted in its place.
fn is_given_up(tenant: &TenantId, (before, after): (&SignInSettings, &SignInSettings), who: &PrincipalId) -> bool {
    let Some(name) = who.as_str().strip_prefix(tenant.as_str()).and_then(|rest| rest.strip_prefix('/')) else {
        return false;
    };
    let is_held = |then: &CertificateHolder| {
        holders(after).iter().any(|now| now.subject == then.subject && now.name == then.name)
    };
    let is_trusted = |then: &ProviderTrust| after.providers.iter().any(|now| now.admits_as(then));
    holders(before).iter().any(|then| then.name.as_str() == name && !is_held(then))
        || before.providers.iter().any(|then| then.is_whose(name) && !is_trusted(then))
}

fn holders(settings: &SignInSettings) -> &[CertificateHolder] {
    settings.certificates.as_ref().map(CertificateTrust::holders).unwrap_or_default()
}

fn trust(asked: ClientCertificateTrust) -> Result<CertificateTrust, ApiError> {
    let holders = asked.holders.into_iter().map(|holder| {
        let role = parse_role(&holder.role, true)?;
        Ok::<_, ApiError>(CertificateHolder { subject: holder.subject, name: holder.name.parse()?, role })
    });
    let holders = holders.collect::<Result<Vec<_>, _>>()?;
    Ok(CertificateTrust::new(&asked.roots, &asked.revocation_lists, holders)?)
}

fn provider(asked: IdentityProvider) -> Result<ProviderTrust, ApiError> {
    let roles = asked.roles.into_iter().map(|role| {
        Ok::<_, ApiError>(ClaimRole { claim: role.claim, value: role.value, role: parse_role(&role.role, true)? })
    });
    Ok(ProviderTrust {
        name: asked.name.parse()?,
        issuer: asked.issuer,
        client_id: asked.client_id,
        client_secret: asked.client_secret.map(|secret| ClientSecret(SecretString::new(secret))),
        redirect_uris: asked.redirect_uris,
        roles: roles.collect::<Result<Vec<_>, _>>()?,
    })
}

fn provider_view(trust: ProviderTrust) -> IdentityProviderView {
    let role = |role: ClaimRole| ClaimRoleWord { claim: role.claim, value: role.value, role: role.role.to_string() };
    IdentityProviderView {
        name: trust.name.to_string(),
        issuer: trust.issuer,
        client_id: trust.client_id,
        has_secret: trust.client_secret.is_some(),
        redirect_uris: trust.redirect_uris,
        roles: trust.roles.into_iter().map(role).collect(),
    }
}

fn trust_view(trust: &CertificateTrust) -> ClientCertificateTrustView {
    let (roots_count, revocation_lists_count) = trust.counts();
    let holders = trust.holders().iter().map(|holder| CertificateHolderWord {
        subject: holder.subject.clone(),
        name: holder.name.to_string(),
        role: holder.role.to_string(),
    });
    ClientCertificateTrustView { roots_count, revocation_lists_count, holders: holders.collect() }
}

fn view(settings: SignInSettings) -> SignInSettingsView {
    SignInSettingsView {
        unbound_tokens: match settings.unbound_tokens {
            UnboundTokens::Allowed => UnboundTokensWord::Allowed,
            UnboundTokens::Refused => UnboundTokensWord::Refused,
        },
        client_certificates: settings.certificates.as_ref().map(trust_view),
        identity_providers: settings.providers.into_iter().map(provider_view).collect(),
        keys_days_max: settings.keys_days_max,
        changed_at: settings.changed_at.map(|at| at.to_string()),
        changed_by: settings.changed_by.map(|by| by.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(holders: &[(&str, &str)]) -> SignInSettings {
        let holder = |(subject, name): &(&str, &str)| json!({ "subject": subject, "name": name, "role": "developer" });
        let holders: Vec<Value> = holders.iter().map(holder).collect();
        let trust = json!({ "roots": [], "revocation_lists": [], "holders": holders });
        SignInSettings { certificates: Some(serde_json::from_value(trust).unwrap()), ..SignInSettings::unset() }
    }

    #[test]
    fn whose_certificate_counts_no_longer_or_is_anothers_gives_his_name_up() {
        let acme: TenantId = "acme".parse().unwrap();
        let before = settings(&[("ann.example.com", "ann"), ("bob.example.com", "bob")]);
        let names = |after: &SignInSettings| -> Vec<&str> {
            let all = ["acme/ann", "acme/bob", "acme/cleo", "beta/ann"].into_iter();
            all.filter(|who| is_given_up(&acme, (&before, after), &who.parse().unwrap())).collect()
        };
        assert!(names(&before).is_empty());
        assert_eq!(names(&settings(&[("ann.example.com", "ann")])), ["acme/bob"]);
        let swapped = settings(&[("ann.example.com", "ann"), ("eve.example.com", "bob")]);
        assert_eq!(names(&swapped), ["acme/bob"], "the name is another's");
        assert_eq!(names(&SignInSettings::unset()), ["acme/ann", "acme/bob"]);
    }

    #[test]
    fn whose_provider_is_gone_or_replaced_gives_his_name_up_and_nobody_of_another_does() {
        let acme: TenantId = "acme".parse().unwrap();
        let with = |providers: &[(&str, &str)]| {
            let trust = |(name, issuer): &(&str, &str)| {
                json!({
                    "name": name, "issuer": issuer, "client_id": "us", "client_secret": null,
                    "redirect_uris": ["https://app.example/back"], "roles": [],
                })
            };
            let providers = providers.iter().map(|one| serde_json::from_value(trust(one)).unwrap()).collect();
            SignInSettings { providers, ..SignInSettings::unset() }
        };
        let before = with(&[("corp", "https://corp.example"), ("guests", "https://guests.example")]);
        let (corp, guest) = ("acme/corp-0123456789abcdef0123", "acme/guests-0123456789abcdef0123");
        let names = |after: &SignInSettings| -> Vec<&str> {
            let all = [corp, guest, "acme/ann"].into_iter();
            all.filter(|who| is_given_up(&acme, (&before, after), &who.parse().unwrap())).collect()
        };
        assert!(names(&before).is_empty());
        assert_eq!(names(&with(&[("corp", "https://corp.example")])), [guest]);
        let replaced = with(&[("corp", "https://other.example"), ("guests", "https://guests.example")]);
        assert_eq!(names(&replaced), [corp]);
        assert_eq!(names(&with(&[])), [corp, guest]);
    }
}
