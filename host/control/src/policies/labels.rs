//! The tenant's labels, which its policies can read: who was trained in what, how things are classified and what for; and
//! their versions.
//!
//! Must never bring labels in force that may allow more without a second pair of eyes, where there is one, nor take what
//! the policy room has not checked.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{PrincipalId, Resource, TenantId};
use ringfence_policy::{LabelsReview, Piece, Policy, StoredPolicy};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approvals::Want;
use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::PolicyBody;
use crate::problem::ApiError;
use crate::wire::{
    ApprovalView, DifferencesView, FoundView, Labels, LabelsOutcome, LabelsVersionView, LabelsView, Page,
    PrincipalLabels, Problem,
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

/// A role of the tenant's own making, of one principal.
pub(crate) type LabelledRole = (PrincipalId, String);

/// By whose word a label came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) by: PrincipalId,
    pub(crate) approved_by: Option<PrincipalId>,
    pub(crate) at: Timestamp,
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

/// The roles by label in force, each with who gave it where the versions that are kept say so.
pub(crate) async fn roles_given(store: &TenantStore) -> Result<BTreeMap<LabelledRole, Option<Given>>, ApiError> {
    let in_force = stored(store).await?.unwrap_or_default();
    let limit = usize::try_from(VERSIONS_KEPT_COUNT_MAX).unwrap_or(usize::MAX);
    let page = store.scan_back(&Key::new(["policy-labels-version"]), None, limit).await?;
    let versions = page.records.iter().map(|(_, record)| record.json::<Version>());
    let versions = versions.collect::<Result<Vec<_>, _>>()?;
    // Reading all of them takes a while; the listeners' threads must not.
    let given = tokio::task::spawn_blocking(move || givers(&in_force.text, versions));
    given.await.map_err(|error| ApiError::host(&error))?.map_err(|error| ApiError::host(&error))
}

/// Who gave each role of `text`, by its versions, newest first: whoever brought in the oldest version from which on it was there
/// throughout. Not known where that is the oldest that is kept.
fn givers(text: &str, versions: Vec<Version>) -> Result<BTreeMap<LabelledRole, Option<Given>>, serde_json::Error> {
    let mut open = roles_of(text)?;
    let mut found: BTreeMap<LabelledRole, Option<Given>> = open.iter().map(|one| (one.clone(), None)).collect();
    let mut newer: Option<Version> = None;
    for version in versions {
        let before = roles_of(&version.text)?;
        let given = newer.as_ref().map(Version::given);
        found.extend(open.difference(&before).map(|one| (one.clone(), given.clone())));
        open.retain(|one| before.contains(one));
        newer = Some(version);
    }
    if let Some(first) = newer.filter(|oldest| oldest.version == 1) {
        found.extend(open.into_iter().map(|one| (one, Some(first.given()))));
    }
    Ok(found)
}

fn roles_of(text: &str) -> Result<BTreeSet<LabelledRole>, serde_json::Error> {
    let labels: Labels = serde_json::from_str(text)?;
    let each = labels.principals.into_iter().filter_map(|(id, of)| Some((id.parse::<PrincipalId>().ok()?, of.roles)));
    Ok(each.flat_map(|(id, roles)| roles.into_iter().map(move |role| (id.clone(), role))).collect())
}

/// Labels without one role of one principal; none when it has no such role.
fn without_role(text: &str, (principal, role): (&PrincipalId, &str)) -> Result<Option<String>, serde_json::Error> {
    let mut labels: Labels = serde_json::from_str(text)?;
    let Some(of) = labels.principals.get_mut(principal.as_str()) else { return Ok(None) };
    let count = of.roles.len();
    of.roles.retain(|one| one != role);
    if of.roles.len() == count {
        return Ok(None);
    }
    if *of == PrincipalLabels::default() {
        labels.principals.remove(principal.as_str());
    }
    serde_json::to_string(&labels).map(Some)
}

impl Version {
    fn given(&self) -> Given {
        Given { by: self.by.clone(), approved_by: self.approved_by.clone(), at: self.at }
    }
}

impl Control {
    /// Takes a role by label away from one principal, in force for the next request: as the next version of the labels, in one write
    /// with `also`. What is gone already is fine. SECURITY: where somebody may gain by it, another tenant-admin must
    /// agree if there is one, and here nobody is asked.
    pub(crate) async fn take_role(
        &self,
        call: &Call,
        (tenant, store): (&TenantId, &TenantStore),
        (principal, role): (&PrincipalId, &str),
        also: Vec<Op>,
    ) -> Result<(), ApiError> {
        let resource = Resource::Tenant { tenant: tenant.clone() };
        let permit = self.reach::<act::WritePolicy>(call, resource).await?.permit;
        let before = stored(store).await?.unwrap_or_default();
        let left = without_role(&before.text, (principal, role)).map_err(|error| ApiError::host(&error))?;
        let Some(text) = left else {
            store.batch(also, Vec::new()).await?;
            return Ok(());
        };
        let id = tenant.clone();
        let gains = self.aside(move |policy| policy.gains_without_roles(&id)).await?;
        if gains && self.has_another_admin(call, tenant).await? {
            return Err(ApiError::new(
                "second-person-needed",
                format!(
                    "a rule in force holds `{role}` against who has it, so that `{principal}` may gain by losing it"
                ),
            )
            .help("change the labels, which another tenant-admin allows:  ringfence policy labels --set FILE"));
        }
        let details = json!({ "version": before.version + 1, "principal": principal, "role": role });
        let by = call.principal.id().clone();
        let change = Change { text, by, approved_by: None, base_version: before.version };
        self.bracket(call, &Log::Tenant(store.clone()), permit, codes::LABELS_WRITTEN, details, async |_permit| {
            let _one = self.changing.of(tenant.clone()).await;
            self.put_labels_in_turn(tenant, store, change, also).await.map(drop)
        })
        .await
    }

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
        let (tenant, store) = (reached.tenant.clone(), reached.store.clone());
        let alone = StoredPolicy { labels: Some(text.clone()), ..StoredPolicy::default() };
        let base_version = stored(&store).await?.unwrap_or_default().version;
        let change = Change { text, by: call.principal.id().clone(), approved_by: None, base_version };
        let what = (Piece::Labels, codes::LABELS_WRITTEN, base_version);
        let check = move |policy: &Policy, id: &TenantId| policy.check_stored(id, &alone).map_err(|unfit| unfit.error);
        let written = self.put_labels_in_turn(&tenant, &store, change, Vec::new());
        let ((), version) = self.mend(call, reached, what, check, written).await?;
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
        self.put_labels_in_turn(tenant, store, change, Vec::new()).await
    }

    /// The same for who has the turn to change the tenant, with what else is written in the same write.
    async fn put_labels_in_turn(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        change: Change,
        also: Vec<Op>,
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
        let mut ops = also;
        ops.extend([Op::put_json(key(), &next)?, Op::put_json(version_key(next.version), &version)?]);
        if let Some(old) = next.version.checked_sub(VERSIONS_KEPT_COUNT_MAX) {
            ops.push(Op::delete(version_key(old)));
        }
        match store.batch(ops, vec![condition]).await {
            Err(StoreError::Conflict { .. }) => return Err(changed()),
            other => other?,
        };
        let (tenant, version) = (tenant.clone(), next.version);
        self.aside(move |policy| policy.set_labels(&tenant, &next.text)).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, text: &str, by: &str) -> Version {
        let (by, at) = (by.parse().unwrap(), Timestamp::from_second(number.try_into().unwrap()).unwrap());
        Version { version: number, text: text.to_owned(), by, approved_by: None, at }
    }

    fn ann_as(roles: &str) -> String {
        format!(r#"{{"principals":{{"acme/ann":{{"roles":[{roles}]}}}}}}"#)
    }

    fn by(found: &BTreeMap<LabelledRole, Option<Given>>, role: &str) -> Option<String> {
        let given = found.get(&("acme/ann".parse().unwrap(), role.to_owned())).unwrap();
        given.as_ref().map(|given| given.by.to_string())
    }

    #[test]
    fn who_gave_a_role_is_who_brought_it_in_last_and_unknown_beyond_what_is_kept() {
        let (one, both) = (ann_as(r#""a""#), ann_as(r#""a","b""#));
        let newest_first = |first: u64| {
            vec![
                version(first + 3, &both, "acme/dan"),
                version(first + 2, &both, "acme/cleo"),
                version(first + 1, "{}", "acme/bob"),
                version(first, &one, "acme/eve"),
            ]
        };
        let found = givers(&both, newest_first(1)).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((by(&found, "a"), by(&found, "b")), (Some("acme/cleo".to_owned()), Some("acme/cleo".to_owned())));
        let kept =
            |first: u64| givers(&both, vec![version(first + 1, &both, "acme/dan"), version(first, &one, "acme/eve")]);
        let (whole, cut) = (kept(1).unwrap(), kept(5).unwrap());
        assert_eq!((by(&whole, "a"), by(&whole, "b")), (Some("acme/eve".to_owned()), Some("acme/dan".to_owned())));
        assert_eq!((by(&cut, "a"), by(&cut, "b")), (None, Some("acme/dan".to_owned())));
        assert_eq!(by(&givers(&one, Vec::new()).unwrap(), "a"), None);
    }

    #[test]
    fn one_role_of_one_principal_goes_and_everything_else_stays() {
        let text = r#"{"principals":{"acme/ann":{"training":["gdpr"],"roles":["a","b"]},"acme/bob":{"roles":["a"]}}}"#;
        let without = |who: &str, role: &str| without_role(text, (&who.parse().unwrap(), role)).unwrap();
        let left = r#"{"principals":{"acme/ann":{"training":["gdpr"],"roles":["b"]},"acme/bob":{"roles":["a"]}}}"#;
        assert_eq!(without("acme/ann", "a").as_deref(), Some(left));
        let alone = r#"{"principals":{"acme/ann":{"training":["gdpr"],"roles":["a","b"]}}}"#;
        assert_eq!(without("acme/bob", "a").as_deref(), Some(alone), "who has no label left is not named");
        assert_eq!((without("acme/ann", "c"), without("acme/cleo", "a")), (None, None));
    }

    #[tokio::test]
    async fn the_roles_in_force_are_read_with_who_gave_them() {
        let (store, _dir) = crate::test_store::store().await;
        assert!(roles_given(&store).await.unwrap().is_empty());
        let text = ann_as(r#""a""#);
        store.put_json(&version_key(1), &version(1, &text, "acme/eve")).await.unwrap();
        store.put_json(&key(), &Stored { text, version: 1 }).await.unwrap();
        assert_eq!(by(&roles_given(&store).await.unwrap(), "a").as_deref(), Some("acme/eve"));
    }
}
