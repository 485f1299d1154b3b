//! What leaves the host, as its owner decides: streams of the audit log, channels of alerts, feeds of intelligence.
//!
//! Must never show a secret twice, nor change where anything goes without an intent on the log of whose it is.

pub mod channels;
pub mod feeds;
pub mod streams;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ringfence_audit::codes;
use ringfence_core::{Action, ResourceName};
use ringfence_keys::Secret;
use ringfence_outward::{Carries, Destination, OutwardError, Switch, To, View, Wanted, WantedChange};
use ringfence_threat::Scope;
use serde_json::json;

use crate::Control;
use crate::call::Call;
use crate::idempotency::ShownOnce;
use crate::problem::ApiError;
use crate::threat::Owner;
use crate::wire::{
    ChangeDestination, DestinationSecret, DestinationView, MadeDestination, NewDestination, Page, TestedDestination,
};

impl From<OutwardError> for ApiError {
    fn from(error: OutwardError) -> Self {
        let text = error.to_string();
        match error {
            OutwardError::NotFound => Self::not_found(),
            OutwardError::Exists => Self::new("exists", text),
            OutwardError::BadDestination { .. } => Self::new("bad-destination", text),
            OutwardError::BadFeed { .. } => Self::new("bad-feed", text),
            OutwardError::TooMany { .. } => Self::new("conflict", text),
            OutwardError::Busy => Self::new("overloaded", text),
            OutwardError::BadMail { .. } => Self::host(&text),
            OutwardError::Store(error) => error.into(),
            OutwardError::Audit(error) => error.into(),
            OutwardError::Threat(error) => error.into(),
        }
    }
}

impl Control {
    async fn destinations(&self, scope: &Scope, carries: Carries) -> Json<Page<DestinationView>> {
        let items = self.parts.outward.list(scope, carries).await.into_iter().map(view).collect();
        Json(Page { items, cursor: None })
    }

    async fn make_destination<A: Action>(
        &self,
        call: &Call,
        owner: Owner<A>,
        carries: Carries,
        new: NewDestination,
    ) -> Result<Response, ApiError> {
        let name: ResourceName = new.name.parse()?;
        let details = json!({
            "destination": name, "carries": carries, "kind": new.kind, "url": new.url, "host": new.host,
            "recipients": new.recipients, "sees": new.sees, "from_seq": new.from_seq,
        });
        let (scope, by, outward) = (owner.scope, call.principal.id(), &self.parts.outward);
        let made = self
            .bracket(call, &owner.log, owner.permit, codes::DESTINATION_WRITTEN, details, async |_permit| {
                Ok(outward.create(&scope, (carries, name), by, wanted(new)).await?)
            })
            .await?;
        let secret = made.secret.map(|secret| secret.expose().clone());
        Ok(once(StatusCode::CREATED, &MadeDestination { destination: view(made.view), secret }))
    }

    async fn change_destination<A: Action>(
        &self,
        call: &Call,
        owner: Owner<A>,
        (carries, name): (Carries, &str),
        change: ChangeDestination,
    ) -> Result<Json<DestinationView>, ApiError> {
        let (scope, outward) = (owner.scope, &self.parts.outward);
        let before = outward.read(&scope, carries, name).await?;
        let details = json!({
            "destination": before.destination.name, "carries": carries, "url": change.url, "host": change.host,
            "recipients": change.recipients, "sees": change.sees, "switch": change.switch,
            "authorization": change.authorization.is_some(),
        });
        let switch = match change.switch.as_deref() {
            None => None,
            Some("on") => Some(Switch::On),
            Some("off") => Some(Switch::Off),
            Some(_) => return Err(ApiError::new("bad-destination", "`switch` is `on` or `off`")),
        };
        let change = WantedChange { to: merged(&before.destination, change), switch };
        let changed = self
            .bracket(call, &owner.log, owner.permit, codes::DESTINATION_WRITTEN, details, async |_permit| {
                Ok(outward.change(&scope, (carries, name), change).await?)
            })
            .await?;
        Ok(Json(view(changed)))
    }

    async fn renew_destination<A: Action>(
        &self,
        call: &Call,
        owner: Owner<A>,
        (carries, name): (Carries, &str),
    ) -> Result<Response, ApiError> {
        let (scope, outward) = (owner.scope, &self.parts.outward);
        let name = outward.read(&scope, carries, name).await?.destination.name;
        let details = json!({ "destination": name, "carries": carries, "secret": "renewed" });
        let secret = self
            .bracket(call, &owner.log, owner.permit, codes::DESTINATION_WRITTEN, details, async |_permit| {
                Ok(outward.renew_secret(&scope, carries, name.as_str()).await?)
            })
            .await?;
        Ok(once(StatusCode::OK, &DestinationSecret { secret: secret.expose().clone() }))
    }

    async fn delete_destination<A: Action>(
        &self,
        call: &Call,
        owner: Owner<A>,
        (carries, name): (Carries, &str),
    ) -> Result<StatusCode, ApiError> {
        let (scope, outward) = (owner.scope, &self.parts.outward);
        let name = outward.read(&scope, carries, name).await?.destination.name;
        let details = json!({ "destination": name, "carries": carries });
        self.bracket(call, &owner.log, owner.permit, codes::DESTINATION_DELETED, details, async |_permit| {
            Ok(outward.delete(&scope, carries, name.as_str()).await?)
        })
        .await?;
        Ok(StatusCode::NO_CONTENT)
    }

    async fn test_destination<A: Action>(
        &self,
        call: &Call,
        owner: Owner<A>,
        (carries, name): (Carries, &str),
    ) -> Result<Json<TestedDestination>, ApiError> {
        let (scope, outward) = (owner.scope, &self.parts.outward);
        let name = outward.read(&scope, carries, name).await?.destination.name;
        let details = json!({ "destination": name, "carries": carries });
        let tested = self
            .bracket(call, &owner.log, owner.permit, codes::DESTINATION_TESTED, details, async |_permit| {
                Ok(outward.test(&scope, carries, name.as_str()).await?)
            })
            .await?;
        Ok(Json(TestedDestination { delivered: tested.is_delivered, error: tested.why }))
    }
}

/// An answer with a secret in it, which is not kept for a second asking.
fn once<T: serde::Serialize>(status: StatusCode, body: &T) -> Response {
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let mut response = (status, headers, Json(body)).into_response();
    response.extensions_mut().insert(ShownOnce);
    response
}

fn wanted(new: NewDestination) -> Wanted {
    Wanted {
        kind: new.kind,
        url: new.url,
        host: new.host,
        port: new.port,
        roots: new.roots,
        recipients: new.recipients,
        authorization: new.authorization.map(Secret::new),
        sees: new.sees,
        from_seq: new.from_seq,
    }
}

/// The whole place as it is wanted, what was not said being as it is; none when nothing of it was said.
fn merged(now: &Destination, change: ChangeDestination) -> Option<Wanted> {
    let ChangeDestination { url, host, port, roots, recipients, authorization, sees, switch: _ } = change;
    let is_said = url.is_some() || host.is_some() || port.is_some() || roots.is_some() || recipients.is_some();
    if !is_said && authorization.is_none() && sees.is_none() {
        return None;
    }
    let mut wanted = Wanted { authorization: authorization.map(Secret::new), sees, ..Wanted::default() };
    wanted.kind = now.to.word().to_owned();
    match &now.to {
        To::Webhook { url: before } | To::Otlp { url: before } => wanted.url = url.or_else(|| Some(before.clone())),
        To::Syslog { host: before, port: port_before, roots: roots_before } => {
            wanted.host = host.or_else(|| Some(before.clone()));
            wanted.port = port.or(Some(*port_before));
            wanted.roots = roots.or_else(|| roots_before.clone());
        }
        To::Email { recipients: before } => wanted.recipients = recipients.unwrap_or_else(|| before.clone()),
    }
    Some(wanted)
}

fn view(view: View) -> DestinationView {
    let View { destination, progress, behind_count } = view;
    let state = match (&destination.paused, destination.switch, progress.failures) {
        (Some(_), ..) => "paused",
        (None, Switch::Off, _) => "off",
        (None, Switch::On, 0) => "on",
        (None, Switch::On, _) => "failing",
    };
    let to = match &destination.to {
        To::Webhook { url } | To::Otlp { url } => url.clone(),
        To::Syslog { host, port, .. } => format!("{host}:{port}"),
        To::Email { recipients } => recipients.join(", "),
    };
    DestinationView {
        name: destination.name.to_string(),
        kind: destination.to.word().to_owned(),
        to,
        sees: destination.sees.to_string(),
        state: state.to_owned(),
        next_seq: progress.next_seq,
        behind_count,
        delivered_count: progress.delivered_count,
        rejected_count: progress.rejected_count,
        delivered_at: progress.delivered_at.map(|at| at.to_string()),
        failures: progress.failures,
        last_error: progress.last_error.or_else(|| destination.paused.as_ref().map(|paused| paused.why.clone())),
        next_try_at: progress.next_try_at.map(|at| at.to_string()),
        paused_at: destination.paused.map(|paused| paused.at.to_string()),
        made_by: destination.made_by.to_string(),
        made_at: destination.made_at.to_string(),
    }
}
