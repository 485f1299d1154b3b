//! People: invite, list, remove; of a tenant under `/tenants/{t}/people`, operators under `/people`.
//!
//! Must never show an invitation twice.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Permit, ResourceName, TenantId};
use ringfence_identity::{NewPerson, PersonRecord};
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::idempotency::ShownOnce;
use crate::problem::ApiError;
use crate::tokens::{about_new, parse_role};
use crate::wire::{InvitedPerson, NewPersonBody, Page, PersonView, Problem};

/// Lists a tenant's people.
#[utoipa::path(get, path = "/tenants/{tenant}/people", tag = "people",
    responses((status = 200, body = Page<PersonView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<PersonView>>, ApiError> {
    let reached = control.reach_tenant::<act::ListTokens>(&call, &tenant).await?;
    control.people(reached.permit, Some(&reached.tenant))
}

/// Invites somebody into a tenant; a name that is there already starts anew, without factors and sessions.
#[utoipa::path(post, path = "/tenants/{tenant}/people", tag = "people", request_body = NewPersonBody,
    responses((status = 201, body = InvitedPerson), (status = "default", body = Problem)))]
pub async fn invite(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(new): JsonBody<NewPersonBody>,
) -> Result<Response, ApiError> {
    let about = about_new(&new.role, true);
    let reached = control.reach_tenant_for::<act::CreateToken>(&call, &tenant, about).await?;
    control.invite(&call, reached.permit, Log::Tenant(reached.store), Some(reached.tenant), new).await
}

/// Removes a person of a tenant; his sessions end at once.
#[utoipa::path(delete, path = "/tenants/{tenant}/people/{name}", tag = "people",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn remove(
    State(control): State<Control>,
    call: Call,
    Path((tenant, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::RevokeToken>(&call, &tenant).await?;
    control.remove_person(&call, reached.permit, Log::Tenant(reached.store), Some(&reached.tenant), &name).await
}

/// Lists the operators who are people.
#[utoipa::path(get, path = "/people", tag = "people",
    responses((status = 200, body = Page<PersonView>), (status = "default", body = Problem)))]
pub async fn list_host(State(control): State<Control>, call: Call) -> Result<Json<Page<PersonView>>, ApiError> {
    let permit = control.reach_host::<act::ListTokens>(&call).await?;
    control.people(permit, None)
}

/// Invites an operator.
#[utoipa::path(post, path = "/people", tag = "people", request_body = NewPersonBody,
    responses((status = 201, body = InvitedPerson), (status = "default", body = Problem)))]
pub async fn invite_host(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewPersonBody>,
) -> Result<Response, ApiError> {
    let permit = control.reach_host_for::<act::CreateToken>(&call, about_new(&new.role, false)).await?;
    control.invite(&call, permit, Log::Host, None, new).await
}

/// Removes an operator; his sessions end at once.
#[utoipa::path(delete, path = "/people/{name}", tag = "people",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn remove_host(
    State(control): State<Control>,
    call: Call,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let permit = control.reach_host::<act::RevokeToken>(&call).await?;
    control.remove_person(&call, permit, Log::Host, None, &name).await
}

impl Control {
    fn people(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Json<Page<PersonView>>, ApiError> {
        let now = self.parts.clock.now();
        let people = self.parts.identity.list_people(permit, tenant)?;
        Ok(Json(Page { items: people.into_iter().map(|person| view(person, now)).collect(), cursor: None }))
    }

    async fn invite(
        &self,
        call: &Call,
        permit: Permit<act::CreateToken>,
        log: Log,
        tenant: Option<TenantId>,
        new: NewPersonBody,
    ) -> Result<Response, ApiError> {
        let role = parse_role(&new.role, tenant.is_some())?;
        let name: ResourceName = new.name.parse()?;
        let details = json!({ "name": name.as_str(), "role": role.as_str() });
        let (record, invitation) = self
            .bracket(call, &log, permit, codes::PERSON_INVITED, details, async |permit| {
                let place = tenant.clone();
                let (record, invitation) = self.parts.identity.invite(permit, NewPerson { tenant, name, role }).await?;
                // Before anybody has the invitation.
                self.end_lent(&log, place.as_ref(), &record.principal).await?;
                Ok((record, invitation))
            })
            .await?;
        let answer = InvitedPerson {
            expires_at: record.invitation_expires_at.map(|at| at.to_string()).unwrap_or_default(),
            person: view(record, self.parts.clock.now()),
            invitation: invitation.expose().to_owned(),
        };
        let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        let mut response = (StatusCode::CREATED, headers, Json(answer)).into_response();
        response.extensions_mut().insert(ShownOnce);
        Ok(response)
    }

    /// Removes a person, on the record.
    pub(crate) async fn remove_person(
        &self,
        call: &Call,
        permit: Permit<act::RevokeToken>,
        log: Log,
        tenant: Option<&TenantId>,
        name: &str,
    ) -> Result<StatusCode, ApiError> {
        let details = json!({ "name": name.chars().take(80).collect::<String>() });
        self.bracket(call, &log, permit, codes::PERSON_REMOVED, details, async |permit| {
            let removed = self.parts.identity.remove_person(permit, tenant, name).await?;
            self.end_lent(&log, tenant, &removed).await
        })
        .await?;
        Ok(StatusCode::NO_CONTENT)
    }
}

fn view(record: PersonRecord, now: Timestamp) -> PersonView {
    let state = match (record.enrolled_at, record.invitation_expires_at) {
        (Some(_), _) => "enrolled",
        (None, Some(end)) if now < end => "invited",
        _ => "expired",
    };
    PersonView {
        name: record.name.to_string(),
        role: record.role.to_string(),
        principal: record.principal.to_string(),
        state: state.to_owned(),
        invited_by: record.invited_by.to_string(),
        invited_at: record.invited_at.to_string(),
        enrolled_at: record.enrolled_at.map(|at| at.to_string()),
    }
}
