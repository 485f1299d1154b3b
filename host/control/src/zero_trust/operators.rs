//! What is asked of operators: `/trust`, of their sessions, and whether their tokens may be bound to nothing.
//!
//! Must never put a decision into force that the log has no intent for.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::Permit;
use ringfence_core::proof::act;
use ringfence_identity::{OperatorsTrust, UnboundTokens};
use serde_json::json;

use super::trust;
use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{OperatorsTrustView, Problem, SetOperatorsTrust, UnboundTokensWord, WantedTrustView};

/// Reads what is asked of operators.
#[utoipa::path(get, path = "/trust", tag = "zero-trust",
    responses((status = 200, body = OperatorsTrustView), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call) -> Result<Json<OperatorsTrustView>, ApiError> {
    let permit = control.reach_host::<act::ListTokens>(&call).await?;
    control.operators_view(permit).await.map(Json)
}

/// Decides what is asked of operators. In force at once; what asks for less than before waits for a second operator who puts
/// the same (202), where there is one.
#[utoipa::path(put, path = "/trust", tag = "zero-trust", request_body = SetOperatorsTrust,
    responses((status = 200, body = OperatorsTrustView), (status = 202, body = OperatorsTrustView),
        (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<SetOperatorsTrust>,
) -> Result<Response, ApiError> {
    let shown = control.reach_host::<act::ListTokens>(&call).await?;
    let permit = control.reach_host::<act::RevokeToken>(&call).await?;
    // SECURITY: what is asked of operators is for who can make one. Else a scoped key, which makes none, could ask for less.
    let _makes = control.reach_host::<act::CreateToken>(&call).await?;
    let unbound_tokens = match asked.unbound_tokens {
        UnboundTokensWord::Allowed => UnboundTokens::Allowed,
        UnboundTokensWord::Refused => UnboundTokens::Refused,
    };
    let wanted = OperatorsTrust { sessions: trust::settings(&asked.sessions)?, unbound_tokens };
    let weighed = control.parts.identity.weigh_operators_trust(&permit, wanted).await?;
    let weakened_by_one = !weighed.weakened.is_empty() && !weighed.is_waiting && weighed.asked_by.is_none();
    let details = json!({
        "thresholds": asked.sessions.thresholds, "unbound_tokens": unbound_tokens,
        "device_issuers": trust::issuers(&asked.sessions), "device_tpm": asked.sessions.device_tpm.is_some(),
        "weakened": weighed.weakened, "weakened_by_one": weakened_by_one, "asked_by": weighed.asked_by,
    });
    let code = if weighed.is_waiting { codes::APPROVAL_ASKED } else { codes::TRUST_CHANGED };
    let waiting = control
        .bracket(&call, &Log::Host, permit, code, details, async |permit| {
            Ok(control.parts.identity.set_operators_trust(permit, &call.principal, call.peer, weighed).await?)
        })
        .await?;
    let status = if waiting.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(control.operators_view(shown).await?)).into_response())
}

impl Control {
    async fn operators_view(&self, permit: Permit<act::ListTokens>) -> Result<OperatorsTrustView, ApiError> {
        let (asked, waiting) = self.parts.identity.operators_trust(permit).await?;
        let waiting = waiting.map(|waiting| WantedTrustView {
            sessions: trust::view(&waiting.wanted.sessions),
            unbound_tokens: word(waiting.wanted.unbound_tokens),
            by: waiting.by.to_string(),
            at: waiting.at.to_string(),
            until: waiting.until.to_string(),
        });
        let unbound_tokens = word(asked.unbound_tokens);
        Ok(OperatorsTrustView { sessions: trust::view(&asked.sessions), unbound_tokens, waiting })
    }
}

fn word(unbound: UnboundTokens) -> UnboundTokensWord {
    match unbound {
        UnboundTokens::Allowed => UnboundTokensWord::Allowed,
        UnboundTokens::Refused => UnboundTokensWord::Refused,
    }
}
