//! API keys: list, make, revoke; of a tenant under `/tenants/{t}/tokens`, of the host under `/tokens`.
//!
//! Must never show a key twice.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringfence_audit::{Log, codes};
use ringfence_core::limits::TOKEN_SCOPE_PLUGINS_COUNT_MAX;
use ringfence_core::proof::act;
use ringfence_core::{ActClass, KeyScope, Permit, PluginName, ResourceName, Role, TenantId};
use ringfence_identity::{KeyRecord, NewKey};
use ringfence_policy::Particulars;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::idempotency::ShownOnce;
use crate::problem::ApiError;
use crate::wire::{CreatedToken, NewToken, Page, Problem, TokenScope, TokenView};

/// Lists a tenant's API keys.
#[utoipa::path(get, path = "/tenants/{tenant}/tokens", tag = "tokens",
    responses((status = 200, body = Page<TokenView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<TokenView>>, ApiError> {
    let reached = control.reach_tenant::<act::ListTokens>(&call, &tenant).await?;
    control.list_tokens(reached.permit, Some(&reached.tenant)).await
}

/// Makes an API key of a tenant. The answer is the only time it is shown.
#[utoipa::path(post, path = "/tenants/{tenant}/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = CreatedToken), (status = "default", body = Problem)))]
pub async fn create(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, ApiError> {
    let about = about_new(&new.role, true);
    let reached = control.reach_tenant_for::<act::CreateToken>(&call, &tenant, about).await?;
    control.create_token(&call, reached.permit, Log::Tenant(reached.store), Some(reached.tenant), new).await
}

/// Revokes an API key of a tenant and every session made with it.
#[utoipa::path(delete, path = "/tenants/{tenant}/tokens/{id}", tag = "tokens",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn revoke(
    State(control): State<Control>,
    call: Call,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::RevokeToken>(&call, &tenant).await?;
    control.revoke_token(&call, reached.permit, Log::Tenant(reached.store), Some(&reached.tenant), &id).await
}

/// Lists the operators' API keys.
#[utoipa::path(get, path = "/tokens", tag = "tokens",
    responses((status = 200, body = Page<TokenView>), (status = "default", body = Problem)))]
pub async fn list_host(State(control): State<Control>, call: Call) -> Result<Json<Page<TokenView>>, ApiError> {
    let permit = control.reach_host::<act::ListTokens>(&call).await?;
    control.list_tokens(permit, None).await
}

/// Makes an operator's API key.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = CreatedToken), (status = "default", body = Problem)))]
pub async fn create_host(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<Response, ApiError> {
    let permit = control.reach_host_for::<act::CreateToken>(&call, about_new(&new.role, false)).await?;
    control.create_token(&call, permit, Log::Host, None, new).await
}

/// Revokes an operator's API key and every session made with it.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn revoke_host(
    State(control): State<Control>,
    call: Call,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let permit = control.reach_host::<act::RevokeToken>(&call).await?;
    control.revoke_token(&call, permit, Log::Host, None, &id).await
}

impl Control {
    async fn list_tokens(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Json<Page<TokenView>>, ApiError> {
        let keys = self.parts.identity.list_keys(permit, tenant).await?;
        Ok(Json(Page { items: keys.into_iter().map(view).collect(), cursor: None }))
    }

    async fn create_token(
        &self,
        call: &Call,
        permit: Permit<act::CreateToken>,
        log: Log,
        tenant: Option<TenantId>,
        new: NewToken,
    ) -> Result<Response, ApiError> {
        let role = parse_role(&new.role, tenant.is_some())?;
        let name: ResourceName = new.name.parse()?;
        let scope = new.scope.map(parse_scope).transpose()?.flatten().map(Arc::new);
        let details = json!({ "name": name.as_str(), "role": role.as_str(), "scope": scope });
        let (record, key) = self
            .bracket(call, &log, permit, codes::TOKEN_CREATED, details, async |permit| {
                let new = NewKey { tenant, name, role, expires_in_seconds: new.expires_in, scope };
                Ok(self.parts.identity.create_key(permit, new).await?)
            })
            .await?;
        let answer = CreatedToken { token: view(record), key: key.expose().to_owned() };
        let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        let mut response = (StatusCode::CREATED, headers, Json(answer)).into_response();
        response.extensions_mut().insert(ShownOnce);
        Ok(response)
    }

    /// Revokes a key, on the record.
    pub(crate) async fn revoke_token(
        &self,
        call: &Call,
        permit: Permit<act::RevokeToken>,
        log: Log,
        tenant: Option<&TenantId>,
        id: &str,
    ) -> Result<StatusCode, ApiError> {
        let details = json!({ "id": id.chars().take(80).collect::<String>() });
        self.bracket(call, &log, permit, codes::TOKEN_REVOKED, details, async |permit| {
            let revoked = self.parts.identity.revoke_key(permit, tenant, id).await?;
            self.end_lent(&log, tenant, &revoked).await
        })
        .await?;
        Ok(StatusCode::NO_CONTENT)
    }
}

/// What rules can read of a new key or person; nothing of one with no role that there is, which is refused in any case.
pub(crate) fn about_new(role: &str, of_a_tenant: bool) -> Option<Particulars> {
    parse_role(role, of_a_tenant).ok().map(|role| Particulars::Token { role })
}

pub fn parse_role(text: &str, of_a_tenant: bool) -> Result<Role, ApiError> {
    let role = Role::ALL.into_iter().find(|role| role.as_str() == text);
    match (role, of_a_tenant) {
        (Some(Role::Operator), false) => Ok(Role::Operator),
        (Some(role), true) if role != Role::Operator => Ok(role),
        (_, true) => Err(ApiError::new("bad-role", "`role` is tenant-admin, developer, auditor or caller")),
        (_, false) => Err(ApiError::new("bad-role", "`role` is operator; other roles belong to a tenant")),
    }
}

/// A scope that was asked for; none when it takes nothing away.
fn parse_scope(asked: TokenScope) -> Result<Option<KeyScope>, ApiError> {
    if [&asked.classes, &asked.plugins].into_iter().flatten().any(Vec::is_empty) {
        return Err(ApiError::new("bad-scope", "a list of a scope names something; leave it out for all there is"));
    }
    if asked.plugins.as_ref().is_some_and(|plugins| plugins.len() > TOKEN_SCOPE_PLUGINS_COUNT_MAX) {
        let most = format!("a scope names at most {TOKEN_SCOPE_PLUGINS_COUNT_MAX} plugins");
        return Err(ApiError::new("bad-scope", most));
    }
    let class = |word: String| {
        let found = ActClass::ALL.into_iter().find(|class| class.as_str() == word);
        found.ok_or_else(|| ApiError::new("bad-scope", "`classes` are of invoke, read, change and administer"))
    };
    let classes =
        asked.classes.map(|words| words.into_iter().map(class).collect::<Result<_, ApiError>>()).transpose()?;
    let plugin = |word: String| word.parse::<PluginName>().map_err(ApiError::from);
    let plugins =
        asked.plugins.map(|words| words.into_iter().map(plugin).collect::<Result<_, ApiError>>()).transpose()?;
    let scope = KeyScope { classes, plugins };
    Ok((scope.classes.is_some() || scope.plugins.is_some()).then_some(scope))
}

/// A scope as the API shows it.
pub(crate) fn scope_view(scope: &KeyScope) -> TokenScope {
    TokenScope {
        classes: scope.classes.as_ref().map(|all| all.iter().map(|class| class.as_str().to_owned()).collect()),
        plugins: scope.plugins.as_ref().map(|all| all.iter().map(ToString::to_string).collect()),
    }
}

fn view(record: KeyRecord) -> TokenView {
    TokenView {
        id: record.id.to_string(),
        name: record.name.to_string(),
        role: record.role.to_string(),
        principal: record.principal.to_string(),
        created_at: record.created_at.to_string(),
        expires_at: record.expires_at.map(|at| at.to_string()),
        revoked_at: record.revoked_at.map(|at| at.to_string()),
        scope: record.scope.as_deref().map(scope_view),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tenant_has_operators_and_the_host_has_nobody_else() {
        assert_eq!(parse_role("operator", false).unwrap(), Role::Operator);
        assert!(parse_role("operator", true).is_err(), "no key of a tenant is an operator's");
        for role in Role::ALL.into_iter().filter(|role| *role != Role::Operator) {
            assert_eq!(parse_role(role.as_str(), true).unwrap(), role);
            assert!(parse_role(role.as_str(), false).is_err());
        }
    }

    #[test]
    fn a_scope_that_names_nothing_is_refused_and_is_not_taken_for_none() {
        let scope = |classes: Option<Vec<&str>>, plugins: Option<Vec<&str>>| {
            let words = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect();
            parse_scope(TokenScope { classes: classes.map(words), plugins: plugins.map(words) })
        };
        assert_eq!(scope(Some(Vec::new()), None).unwrap_err().code, "bad-scope");
        assert_eq!(scope(None, Some(Vec::new())).unwrap_err().code, "bad-scope");
        assert_eq!(scope(Some(vec!["everything"]), None).unwrap_err().code, "bad-scope");
        assert!(scope(None, None).unwrap().is_none());
        assert!(scope(Some(vec!["read"]), None).unwrap().is_some());
    }
}
