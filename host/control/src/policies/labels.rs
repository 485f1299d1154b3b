//! The tenant's labels, which its policies can read: who was trained in what, how things are classified and what for; and
//! their versions.
//!
//! Must never bring labels in force that may allow more without a second pair of eyes, where there is one, nor take what
//! the policy room has not checked.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{PrincipalId, TenantId};
use ringfence_policy::{LabelsReview, Piece, StoredPolicy};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approvals::Want;
use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::PolicyBody;
use crate::problem::ApiError;
use crate::wire::{
    ApprovalView, DifferencesView, FoundView, Labels, LabelsOutcome, LabelsVersionView, LabelsView, Page, Problem,
};

/// Versions kept whole; older ones go.
const VERSIONS_KEPT_COUNT_MAX: u64 = 20;

/// Those in force, as they are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// JSON.
    pub(crate) text: String,
    pub(crate) version: u64,
}

/// One version, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Version {
    version: u64,
    /// JSON.
    text: String,
    by: PrincipalId,
    approved_by: Option<PrincipalId>,
    at: Timestamp,
}

/// Labels on their way into force.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) text: String,
    pub(super) by: PrincipalId,
    pub(super) approved_by: Option<PrincipalId>,
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
    if let Some(reached) = control.reach_mending(&call, &tenant, Piece::Labels).await? {
        // SECURITY: which version it writes anew, and no word of it.
        let version = stored(&reached.store).await?.unwrap_or_default().version;
        let view = LabelsView { labels: Labels::default(), version };
        return Ok(([(header::ETAG, etag(version))], Json(view)).into_response());
    }
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
    let text = serde_json::to_string(&asked).map_err(|error| ApiError::host(&error))?;
    if let Some(reached) = control.reach_mending(&call, &tenant, Piece::Labels).await? {
        return control.mend_labels(&call, reached, text).await;
    }
    let Reached { tenant, store, permit } = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let base = stored(&store).await?.unwrap_or_default().version;
    let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(base)) {
        return Err(changed());
    }
    let (review, outcome) = control.review_labels(&tenant, &store, &text).await?;
    let log = Log::Tenant(store.clone());
    let Some(why) = control.four_eyes_on_labels(&call, &tenant, &store, &review).await? else {
        let details = json!({ "version": base + 1 });
        let change = Change { text, by: call.principal.id().clone(), approved_by: None, base_version: base };
        let version = control
            .bracket(&call, &log, permit, codes::LABELS_WRITTEN, details, async |_permit| {
                control.put_labels(&tenant, &store, change).await
            })
            .await?;
        return Ok(answer(StatusCode::OK, LabelsOutcome { version, ..outcome }));
    };
    let found = FoundView {
        four_eyes: why.clone(),
        newly_allowed: outcome.newly_allowed.clone(),
        newly_denied: outcome.newly_denied.clone(),
        findings: Vec::new(),
        proofs: Vec::new(),
    };
    let want = Want::Labels { text, base_version: base, found: Some(Box::new(found)) };
    let approval = control.ask_approval(&call, &log, &store, permit, want).await?;
    let waiting = LabelsOutcome {
        state: "pending".to_owned(),
        version: base,
        four_eyes: Some(why),
        approval: Some(ApprovalView { found: None, ..approval }),
        ..outcome
    };
    Ok(answer(StatusCode::ACCEPTED, waiting))
}

/// Lists the versions of the labels, newest first: who brought them in force, and when.
#[utoipa::path(get, path = "/tenants/{tenant}/policy/labels/versions", tag = "policy",
    responses((status = 200, body = Page<LabelsVersionView>), (status = "default", body = Problem)))]
pub async fn versions(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<LabelsVersionView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let limit = usize::try_from(VERSIONS_KEPT_COUNT_MAX).unwrap_or(usize::MAX);
    let page = reached.store.scan_back(&Key::new(["policy-labels-version"]), None, limit).await?;
    let items = page.records.iter().map(|(_, record)| record.json::<Version>().map(|one| view(one, None)));
    Ok(Json(Page { items: items.collect::<Result<_, _>>()?, cursor: None }))
}

/// Reads one version of the labels.
#[utoipa::path(get, path = "/tenants/{tenant}/policy/labels/versions/{version}", tag = "policy",
    responses((status = 200, body = LabelsVersionView), (status = "default", body = Problem)))]
pub async fn version(
    State(control): State<Control>,
    call: Call,
    Path((tenant, version)): Path<(String, String)>,
) -> Result<Json<LabelsVersionView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let number: u64 = version.parse().map_err(|_| ApiError::not_found())?;
    let found = reached.store.get_json::<Version>(&version_key(number)).await?.ok_or_else(ApiError::not_found)?;
    let labels: Labels = serde_json::from_str(&found.text).map_err(|error| ApiError::host(&error))?;
    Ok(Json(view(found, Some(labels))))
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

    /// Writes labels anew that kept their tenant locked.
    async fn mend_labels(
        &self,
        call: &Call,
        reached: Reached<act::SetCeiling>,
        text: String,
    ) -> Result<Response, ApiError> {
        let Reached { tenant, store, permit } = reached;
        let alone = StoredPolicy { labels: Some(text.clone()), ..StoredPolicy::default() };
        self.parts.policy.check_stored(&tenant, &alone).map_err(|unfit| unfit.error)?;
        let base_version = stored(&store).await?.unwrap_or_default().version;
        let change = Change { text, by: call.principal.id().clone(), approved_by: None, base_version };
        let (log, details) = (Log::Tenant(store.clone()), json!({ "version": base_version + 1 }));
        let version = self
            .bracket(call, &log, permit, codes::LABELS_WRITTEN, details, async |_permit| {
                let _one = self.changing.of(tenant.clone()).await;
                self.check_mending(&tenant, &store, Piece::Labels).await?;
                self.put_labels_in_turn(&tenant, &store, change).await
            })
            .await?;
        self.mended(&tenant).await;
        // Tried on nothing: what the tenant was asked is not for operators.
        let outcome = LabelsOutcome {
            state: "active".to_owned(),
            version,
            questions_count: 0,
            left_out_count: 0,
            newly_allowed: DifferencesView::default(),
            newly_denied: DifferencesView::default(),
            only_narrows: false,
            four_eyes: None,
            approval: None,
        };
        Ok(answer(StatusCode::OK, outcome))
    }

    /// Writes labels as the next version and puts them in force.
    pub(super) async fn put_labels(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        change: Change,
    ) -> Result<u64, ApiError> {
        let _one = self.changing.of(tenant.clone()).await;
        self.put_labels_in_turn(tenant, store, change).await
    }

    /// The same for who has the turn to change the tenant.
    async fn put_labels_in_turn(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        change: Change,
    ) -> Result<u64, ApiError> {
        let current = store.get(&key()).await?;
        let (before, condition) = match &current {
            None => (Stored::default(), Precondition::Absent(key())),
            Some(record) => (record.json::<Stored>()?, Precondition::Revision(key(), record.revision)),
        };
        if before.version != change.base_version {
            return Err(changed());
        }
        let next = Stored { text: change.text, version: before.version + 1 };
        let version = Version {
            version: next.version,
            text: next.text.clone(),
            by: change.by,
            approved_by: change.approved_by,
            at: self.parts.clock.now(),
        };
        let mut ops = vec![Op::put_json(key(), &next)?, Op::put_json(version_key(next.version), &version)?];
        if let Some(old) = next.version.checked_sub(VERSIONS_KEPT_COUNT_MAX) {
            ops.push(Op::delete(version_key(old)));
        }
        match store.batch(ops, vec![condition]).await {
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

fn view(version: Version, labels: Option<Labels>) -> LabelsVersionView {
    LabelsVersionView {
        version: version.version,
        by: version.by.to_string(),
        approved_by: version.approved_by.map(|by| by.to_string()),
        at: version.at.to_string(),
        labels,
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

pub(super) fn key() -> Key {
    Key::new(["policy-labels"])
}

fn version_key(version: u64) -> Key {
    Key::new(["policy-labels-version"]).number(version)
}
