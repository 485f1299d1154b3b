//! The tenant's own policy: read, review, replace, roll back, and its versions. The platform's boundary and the
//! operator's ceiling stand above it, whatever it says.
//!
//! Must never bring a text in force that allows more without a second pair of eyes, where there is one.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{PrincipalId, TenantId};
use ringfence_policy::{Piece, Policy, Review};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::approvals::Want;
use super::{checked_words, proof};
use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::{JsonBody, PolicyBody};
use crate::problem::ApiError;
use crate::wire::{
    ApprovalView, DifferencesView, FoundView, Page, PolicyMode, PolicyOutcome, PolicyRollback, PolicyText,
    PolicyVersionView, PolicyView, Problem, ProofVerdict, ProofView, ReviewView,
};

/// Versions kept with their texts; older ones go.
const VERSIONS_KEPT_COUNT_MAX: u64 = 100;

/// The policy in force, as it is stored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) text: String,
    pub(crate) version: u64,
}

/// One version, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Version {
    version: u64,
    text: String,
    by: PrincipalId,
    approved_by: Option<PrincipalId>,
    at: Timestamp,
    note: Option<String>,
    rolled_back_to: Option<u64>,
}

/// A text on its way into force.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) text: String,
    pub(super) note: Option<String>,
    pub(super) by: PrincipalId,
    pub(super) approved_by: Option<PrincipalId>,
    pub(super) rolled_back_to: Option<u64>,
    /// The version it was written against.
    pub(super) base_version: u64,
}

/// Reads the tenant's policy.
#[utoipa::path(get, path = "/tenants/{tenant}/policy", tag = "policy",
    responses((status = 200, body = PolicyView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let stored = stored(&reached.store).await?.unwrap_or_default();
    let tag = etag(stored.version);
    Ok(([(header::ETAG, tag)], Json(PolicyView { text: stored.text, version: stored.version })).into_response())
}

/// Reviews a policy, and with `mode` `shadow` or `active` uses it: active, the next decision follows it, unless it may
/// allow more and another tenant-admin must agree (202). With `If-Match`, only when nobody changed it since.
#[utoipa::path(put, path = "/tenants/{tenant}/policy", tag = "policy", request_body = PolicyText,
    responses((status = 200, body = PolicyOutcome), (status = 202, body = PolicyOutcome), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    PolicyBody(asked): PolicyBody<PolicyText>,
) -> Result<Response, ApiError> {
    control.write_policy(&call, &tenant, &headers, asked).await
}

/// The same for the caller's own tenant.
#[utoipa::path(put, path = "/zero-trust/access-policy", tag = "zero-trust", request_body = PolicyText,
    responses((status = 200, body = PolicyOutcome), (status = 202, body = PolicyOutcome), (status = "default", body = Problem)))]
pub async fn write_own(
    State(control): State<Control>,
    call: Call,
    headers: HeaderMap,
    PolicyBody(asked): PolicyBody<PolicyText>,
) -> Result<Response, ApiError> {
    // Operators have no policy of their own: theirs over a tenant is its ceiling.
    let own = call.principal.tenant().ok_or_else(ApiError::not_found)?.to_string();
    control.write_policy(&call, &own, &headers, asked).await
}

/// Brings back an earlier version's text, as a new version. It is reviewed like any other text.
#[utoipa::path(post, path = "/tenants/{tenant}/policy/rollback", tag = "policy", request_body = PolicyRollback,
    responses((status = 200, body = PolicyOutcome), (status = 202, body = PolicyOutcome), (status = "default", body = Problem)))]
pub async fn rollback(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(asked): JsonBody<PolicyRollback>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::WritePolicy>(&call, &tenant).await?;
    let current = stored(&reached.store).await?.unwrap_or_default();
    let gone = || ApiError::new("nothing-to-roll-back", "there is no such earlier version of the policy");
    let target = asked.version.or(current.version.checked_sub(1)).ok_or_else(gone)?;
    let text = match reached.store.get_json::<Version>(&version_key(target)).await? {
        Some(version) if target < current.version => version.text,
        // Before the first version there was no policy.
        None if target == 0 && current.version > 0 => String::new(),
        _ => return Err(gone()),
    };
    let review = control.review(&reached.tenant, &reached.store, &text).await?;
    let change = Change {
        text,
        note: None,
        by: call.principal.id().clone(),
        approved_by: None,
        rolled_back_to: Some(target),
        base_version: current.version,
    };
    control.propose(&call, reached, change, review).await
}

/// Lists the versions of the policy, newest first.
#[utoipa::path(get, path = "/tenants/{tenant}/policy/versions", tag = "policy",
    responses((status = 200, body = Page<PolicyVersionView>), (status = "default", body = Problem)))]
pub async fn versions(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<PolicyVersionView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let limit = usize::try_from(VERSIONS_KEPT_COUNT_MAX).unwrap_or(usize::MAX);
    let page = reached.store.scan_back(&Key::new(["policy-version"]), None, limit).await?;
    let items =
        page.records.iter().map(|(_, record)| record.json::<Version>().map(|version| view(version, Text::Left)));
    Ok(Json(Page { items: items.collect::<Result<_, _>>()?, cursor: None }))
}

/// Reads one version of the policy.
#[utoipa::path(get, path = "/tenants/{tenant}/policy/versions/{version}", tag = "policy",
    responses((status = 200, body = PolicyVersionView), (status = "default", body = Problem)))]
pub async fn version(
    State(control): State<Control>,
    call: Call,
    Path((tenant, version)): Path<(String, String)>,
) -> Result<Json<PolicyVersionView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadPolicy>(&call, &tenant).await?;
    let number: u64 = version.parse().map_err(|_| ApiError::not_found())?;
    let found = reached.store.get_json::<Version>(&version_key(number)).await?.ok_or_else(ApiError::not_found)?;
    Ok(Json(view(found, Text::Shown)))
}

/// The stored policy of a tenant.
pub(crate) async fn stored(store: &TenantStore) -> Result<Option<Stored>, StoreError> {
    store.get_json::<Stored>(&key()).await
}

impl Control {
    /// Reviews a text, and uses it as it was asked.
    async fn write_policy(
        &self,
        call: &Call,
        tenant: &str,
        headers: &HeaderMap,
        asked: PolicyText,
    ) -> Result<Response, ApiError> {
        if let Some(reached) = self.reach_mending(call, tenant, Piece::Policy).await? {
            return self.mend_policy(call, reached, asked.text).await;
        }
        let reached = self.reach_tenant::<act::WritePolicy>(call, tenant).await?;
        let note = asked.note.map(|note| checked_words(note, "note")).transpose()?;
        let current = stored(&reached.store).await?.unwrap_or_default();
        let wanted = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
        if wanted.is_some_and(|wanted| wanted != "*" && wanted != etag(current.version)) {
            return Err(changed());
        }
        let (review, view) = self.review(&reached.tenant, &reached.store, &asked.text).await?;
        match asked.mode {
            PolicyMode::Draft => Ok(answer(StatusCode::OK, outcome("draft", current.version, view))),
            PolicyMode::Shadow => {
                self.start_shadow(call, reached, asked.text).await?;
                Ok(answer(StatusCode::OK, outcome("shadow", current.version, view)))
            }
            PolicyMode::Active => {
                let change = Change {
                    text: asked.text,
                    note,
                    by: call.principal.id().clone(),
                    approved_by: None,
                    rolled_back_to: None,
                    base_version: current.version,
                };
                self.propose(call, reached, change, (review, view)).await
            }
        }
    }

    /// Writes a policy anew that kept its tenant locked; whatever mode was asked for, it comes into force.
    async fn mend_policy(
        &self,
        call: &Call,
        reached: Reached<act::SetCeiling>,
        text: String,
    ) -> Result<Response, ApiError> {
        let (tenant, store, checked) = (reached.tenant.clone(), reached.store.clone(), text.clone());
        let base_version = stored(&store).await?.unwrap_or_default().version;
        let by = call.principal.id().clone();
        let change = Change { text, note: None, by, approved_by: None, rolled_back_to: None, base_version };
        let what = (Piece::Policy, codes::POLICY_WRITTEN, base_version);
        let check = move |policy: &Policy, id: &TenantId| policy.check_tenant_policy(id, &checked);
        let written = self.activate_in_turn(&tenant, &store, change);
        let (analysis, version) = self.mend(call, reached, what, check, written).await?;
        // Tried on nothing: what the tenant was asked is not for operators.
        let review = ReviewView {
            policies_count: analysis.policies.len(),
            findings: Vec::new(),
            questions_count: 0,
            left_out_count: 0,
            newly_allowed: DifferencesView::default(),
            newly_denied: DifferencesView::default(),
            only_narrows: false,
            proofs: Vec::new(),
        };
        Ok(answer(StatusCode::OK, outcome("active", version, review)))
    }

    /// Brings a reviewed text in force, or has it wait for another tenant-admin.
    async fn propose(
        &self,
        call: &Call,
        reached: Reached<act::WritePolicy>,
        change: Change,
        (review, view): (Review, ReviewView),
    ) -> Result<Response, ApiError> {
        let Reached { tenant, store, permit } = reached;
        let log = Log::Tenant(store.clone());
        let base = change.base_version;
        let Some(why) = self.four_eyes(call, &tenant, &review, &view.proofs).await? else {
            let details = json!({ "version": base + 1, "rolled_back_to": change.rolled_back_to });
            let version = self
                .bracket(call, &log, permit, codes::POLICY_WRITTEN, details, async |_permit| {
                    self.activate(&tenant, &store, change).await
                })
                .await?;
            return Ok(answer(StatusCode::OK, outcome("active", version, view)));
        };
        let want = Want::Policy {
            text: change.text,
            note: change.note,
            rolled_back_to: change.rolled_back_to,
            base_version: base,
            found: Some(Box::new(FoundView {
                four_eyes: why.clone(),
                newly_allowed: view.newly_allowed.clone(),
                newly_denied: view.newly_denied.clone(),
                findings: view.findings.clone(),
                proofs: view.proofs.clone(),
            })),
        };
        let approval = self.ask_approval(call, &log, &store, permit, want).await?;
        let approval = Some(ApprovalView { found: None, ..approval });
        let waiting = PolicyOutcome { four_eyes: Some(why), approval, ..outcome("pending", base, view) };
        Ok(answer(StatusCode::ACCEPTED, waiting))
    }

    /// Why another must allow a text, if so: it may allow more, and there is another tenant-admin to ask.
    async fn four_eyes(
        &self,
        call: &Call,
        tenant: &TenantId,
        review: &Review,
        proofs: &[ProofView],
    ) -> Result<Option<String>, ApiError> {
        if review.only_narrows || !self.has_another_admin(call, tenant).await? {
            return Ok(None);
        }
        let count = review.replay.newly_allowed.questions_count;
        if count > 0 {
            return Ok(Some(format!("it allows {count} of the questions of late that were denied")));
        }
        if review.widens_count > 0 {
            let count = review.widens_count;
            return Ok(Some(format!(
                "but for the operator's ceiling it allows {count} of the questions of late that were denied"
            )));
        }
        // What the text does not show the solver may, where there is one.
        Ok(unproved(proofs).map(ToOwned::to_owned))
    }

    /// Writes a text as the next version and puts it in force.
    pub(super) async fn activate(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        change: Change,
    ) -> Result<u64, ApiError> {
        let _one = self.changing.of(tenant.clone()).await;
        self.activate_in_turn(tenant, store, change).await
    }

    /// The same for who has the turn to change the tenant.
    async fn activate_in_turn(&self, tenant: &TenantId, store: &TenantStore, change: Change) -> Result<u64, ApiError> {
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
            note: change.note,
            rolled_back_to: change.rolled_back_to,
        };
        let mut ops = vec![Op::put_json(key(), &next)?, Op::put_json(version_key(next.version), &version)?];
        if let Some(old) = next.version.checked_sub(VERSIONS_KEPT_COUNT_MAX) {
            ops.push(Op::delete(version_key(old)));
        }
        match store.batch(ops, vec![condition]).await {
            Err(StoreError::Conflict { .. }) => return Err(changed()),
            other => other?,
        };
        let tenant = tenant.clone();
        self.aside(move |policy| policy.set_tenant_policy(&tenant, &next.text)).await?;
        Ok(version.version)
    }
}

/// Why what was proved does not show that a text allows nothing new. SECURITY: no answer is no proof.
fn unproved(proofs: &[ProofView]) -> Option<&'static str> {
    match proof::narrows(proofs).map(|proof| proof.verdict) {
        Some(ProofVerdict::Proved) => None,
        Some(ProofVerdict::Disproved) => {
            Some("a solver found a request that it allows and the policy in force does not")
        }
        Some(ProofVerdict::NotRun) | None => {
            Some("its text does not show that it allows nothing new, and no solver did")
        }
    }
}

/// Whether a version's text is part of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    Shown,
    Left,
}

fn view(version: Version, text: Text) -> PolicyVersionView {
    PolicyVersionView {
        version: version.version,
        by: version.by.to_string(),
        approved_by: version.approved_by.map(|by| by.to_string()),
        at: version.at.to_string(),
        note: version.note,
        rolled_back_to: version.rolled_back_to,
        text: (text == Text::Shown).then_some(version.text),
    }
}

fn outcome(state: &str, version: u64, review: ReviewView) -> PolicyOutcome {
    PolicyOutcome { state: state.to_owned(), version, review, four_eyes: None, approval: None }
}

fn answer(status: StatusCode, outcome: PolicyOutcome) -> Response {
    (status, [(header::ETAG, etag(outcome.version))], Json(outcome)).into_response()
}

fn changed() -> ApiError {
    ApiError::new("precondition-failed", "the policy was changed since you read it")
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

pub(super) fn key() -> Key {
    Key::new(["policy"])
}

fn version_key(version: u64) -> Key {
    Key::new(["policy-version"]).number(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_solver_that_proved_it_shows_that_a_text_allows_nothing_new() {
        let said = |name: &str, verdict: ProofVerdict| ProofView {
            name: name.to_owned(),
            statement: String::new(),
            verdict,
            kinds_count: 0,
            took_us: 0,
            reason: None,
            counterexample: None,
        };
        assert_eq!(unproved(&[said("narrows", ProofVerdict::Proved)]), None);
        for verdict in [ProofVerdict::NotRun, ProofVerdict::Disproved] {
            assert!(unproved(&[said("narrows", verdict)]).is_some());
        }
        assert!(unproved(&[said("border", ProofVerdict::Proved)]).is_some(), "that is another statement");
        assert!(unproved(&[]).is_some());
    }
}
