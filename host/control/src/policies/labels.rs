//! The tenant's labels, which its policies can read: who was trained in what, how things are classified and what for.
//!
//! Must never bring labels in force that may allow more without a second pair of eyes, where there is one, nor take what
//! the policy room has not checked.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use ringfence_audit::{Log, codes};
use ringfence_core::TenantId;
use ringfence_core::proof::act;
use ringfence_policy::LabelsReview;
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approvals::Want;
use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::PolicyBody;
use crate::problem::ApiError;
use crate::wire::{Labels, LabelsOutcome, LabelsView, Problem};

/// Those in force, as they are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// JSON.
    pub(crate) text: String,
    pub(crate) version: u64,
}

/// Labels on their way into force.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) text: String,
    /// The version they were written against.
    pub(super) base_version: u64,
}

impl Default for Stored {
    fn default() -> Self {
        Self { text: "{}".to_owned(), version: 0 }
    }
}

/// Reads the tenant's labels.
#[utoipa::path(get, path = "/tenants/{tenant}/policy/labels", tag = "policy",
    responses((status = 200, body = LabelsView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let stored = stored(&reached.store).await?.unwrap_or_default();
    let labels: Labels = serde_json::from_str(&stored.text).map_err(|error| ApiError::host(&error))?;
    let view = LabelsView { labels, version: stored.version };
    Ok(([(header::ETAG, etag(view.version))], Json(view)).into_response())
}

/// Replaces the tenant's labels; the next decision reads them, unless they may allow more and another tenant-admin must
/// agree (202). With `If-Match`, only when nobody changed them since.
#[utoipa::path(put, path = "/tenants/{tenant}/policy/labels", tag = "policy", request_body = Labels,
    responses((status = 200, body = LabelsOutcome), (status = 202, body = LabelsOutcome), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    PolicyBody(asked): PolicyBody<Labels>,
) -> Result<Response, ApiError> {
    let Reached { tenant, store, permit } = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let text = serde_json::to_string(&asked).map_err(|error| ApiError::host(&error))?;
    let base = stored(&store).await?.unwrap_or_default().version;
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(base)) {
        return Err(changed());
    }
    let (review, outcome) = control.review_labels(&tenant, &store, &text).await?;
    let log = Log::Tenant(store.clone());
    let Some(why) = control.four_eyes_on_labels(&call, &tenant, &store, &review).await? else {
        let details = json!({ "version": base + 1 });
        let change = Change { text, base_version: base };
        let version = control
            .bracket(&call, &log, permit, codes::LABELS_WRITTEN, details, async |_permit| {
                control.put_labels(&tenant, &store, change).await
            })
            .await?;
        return Ok(answer(StatusCode::OK, LabelsOutcome { version, ..outcome }));
    };
    let approval = control.ask_approval(&call, &log, &store, permit, Want::Labels { text, base_version: base }).await?;
    let waiting = LabelsOutcome {
        state: "pending".to_owned(),
        version: base,
        four_eyes: Some(why),
        approval: Some(approval),
        ..outcome
    };
    Ok(answer(StatusCode::ACCEPTED, waiting))
}

/// The stored labels of a tenant.
pub(crate) async fn stored(store: &TenantStore) -> Result<Option<Stored>, StoreError> {
    store.get_json(&key()).await
}

impl Control {
    /// Why another must allow labels, if so: they may allow more, and there is another tenant-admin to ask.
    async fn four_eyes_on_labels(
        &self,
        call: &Call,
        tenant: &TenantId,
        store: &TenantStore,
        review: &LabelsReview,
    ) -> Result<Option<String>, ApiError> {
        // SECURITY: a policy that waits may read them, and who allows it then looked at the labels of before.
        let waits = self.waits_for_policy(store).await?;
        if (review.only_narrows && !waits) || !self.has_another_admin(call, tenant).await? {
            return Ok(None);
        }
        Ok(Some(match review.replay.newly_allowed.questions_count {
            0 if waits => "a policy that may read them waits to be allowed".to_owned(),
            0 => "statements in force read labels, so that it may allow something new".to_owned(),
            count => format!("it allows {count} of the questions of late that were denied"),
        }))
    }

    /// Writes labels as the next version and puts them in force.
    pub(super) async fn put_labels(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        change: Change,
    ) -> Result<u64, ApiError> {
        let _one = self.changing.lock().await;
        let current = store.get(&key()).await?;
        let (before, condition) = match &current {
            None => (Stored::default(), Precondition::Absent(key())),
            Some(record) => (record.json::<Stored>()?, Precondition::Revision(key(), record.revision)),
        };
        if before.version != change.base_version {
            return Err(changed());
        }
        let next = Stored { text: change.text, version: before.version + 1 };
        match store.batch(vec![Op::put_json(key(), &next)?], vec![condition]).await {
            Err(StoreError::Conflict { .. }) => return Err(changed()),
            other => other?,
        };
        let (policy, tenant, version) = (self.parts.policy.clone(), tenant.clone(), next.version);
        // Reading long labels takes a while; the listeners' threads must not.
        tokio::task::spawn_blocking(move || policy.set_labels(&tenant, &next.text))
            .await
            .map_err(|error| ApiError::host(&error))??;
        Ok(version)
    }
}

fn answer(status: StatusCode, outcome: LabelsOutcome) -> Response {
    (status, [(header::ETAG, etag(outcome.version))], Json(outcome)).into_response()
}

fn changed() -> ApiError {
    ApiError::new("precondition-failed", "the labels were changed since you read them")
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn key() -> Key {
    Key::new(["policy-labels"])
}
