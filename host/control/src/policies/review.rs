//! A candidate, tried on what the tenant was asked lately. The questions are kept in the tenant's own store, sealed.
//!
//! Must never keep more than a window, nor hold a thread of the listeners while it asks.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::TenantId;
use ringfence_core::limits::{POLICY_RECENT_COUNT_MAX, POLICY_RECENT_HOST_CALLS_COUNT_MAX};
use ringfence_policy::{Asked, Differences, FindingKind, LabelsReview, Policy, PolicyError, Review};
use ringfence_store::{Key, TenantStore};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::proof;
use crate::Control;
use crate::problem::ApiError;
use crate::wire::{AskedView, DifferencesView, FindingView, LabelsOutcome, ReviewView};

/// How often what was asked is kept.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for a turn to review.
const TURN_TIME_MAX: Duration = Duration::from_secs(10);

/// The questions of late.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    /// Newest first.
    pub(crate) questions: Vec<Question>,
    /// Distinct questions that found no room.
    pub(crate) left_out_count: u64,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) asked: Asked,
    pub(crate) last_at: Timestamp,
}

impl Control {
    /// Keeps what tenants are asked, until the host stops: what a changed policy is tried on survives a restart.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(KEEP_EVERY) => false,
                _ = stop.wait_for(|stopping| *stopping) => true,
            };
            for record in self.parts.tenants.list().await.unwrap_or_default() {
                let Some(store) = self.parts.tenants.open_tenant(&record.id) else { continue };
                if let Err(error) = self.window(&record.id, &store).await {
                    tracing::warn!(tenant = %record.id, ?error, "what a tenant was asked is not kept");
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// The questions of late, this moment's included.
    pub(crate) async fn window(&self, tenant: &TenantId, store: &TenantStore) -> Result<Window, ApiError> {
        let _one = self.keeping.of(tenant.clone()).await;
        let mut window: Window = store.get_json(&key()).await?.unwrap_or_default();
        let taken = self.parts.policy.take_asked(tenant).unwrap_or_default();
        if taken.asked.is_empty() && taken.left_out_count == 0 {
            return Ok(window);
        }
        merge(&mut window, taken.asked, self.parts.clock.now());
        window.left_out_count = taken.left_out_count;
        store.put_json(&key(), &window).await?;
        Ok(window)
    }

    /// Everything that is known of a candidate.
    pub(crate) async fn review(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        candidate: &str,
    ) -> Result<(Review, ReviewView), ApiError> {
        let (of, text) = (tenant.clone(), candidate.to_owned());
        let ask = move |policy: &Policy, asked: &[Asked]| policy.review(&of, &text, asked);
        let (review, left_out_count) = self.try_on(tenant, store, ask).await?;
        let proofs = self.prove_candidate(tenant, candidate).await?;
        let mut findings: Vec<FindingView> =
            review.analysis.findings.iter().map(|finding| said(finding.kind, &finding.text)).collect();
        for idle in proof::idle(&proofs) {
            let found = said(FindingKind::Unreachable, idle);
            // What the text alone shows is told once.
            let is_known =
                |known: &FindingView| known.kind == found.kind && statement_of(&known.text) == statement_of(idle);
            if !findings.iter().any(is_known) {
                findings.push(found);
            }
        }
        let view = ReviewView {
            policies_count: review.analysis.policies.len(),
            findings,
            questions_count: review.replay.questions_count,
            left_out_count,
            newly_allowed: differences(&review.replay.newly_allowed),
            newly_denied: differences(&review.replay.newly_denied),
            only_narrows: review.only_narrows,
            proofs,
        };
        Ok((review, view))
    }

    /// Everything that is known of changed labels, and its answer, as if they were in force.
    pub(super) async fn review_labels(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        text: &str,
    ) -> Result<(LabelsReview, LabelsOutcome), ApiError> {
        let (of, text) = (tenant.clone(), text.to_owned());
        let ask = move |policy: &Policy, asked: &[Asked]| policy.review_labels(&of, &text, asked);
        let (review, left_out_count) = self.try_on(tenant, store, ask).await?;
        let outcome = LabelsOutcome {
            state: "active".to_owned(),
            version: 0,
            questions_count: review.replay.questions_count,
            left_out_count,
            newly_allowed: differences(&review.replay.newly_allowed),
            newly_denied: differences(&review.replay.newly_denied),
            only_narrows: review.only_narrows,
            four_eyes: None,
            approval: None,
        };
        Ok((review, outcome))
    }

    /// Tries something on the questions of late, in turn; with how many found no room among them.
    async fn try_on<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        ask: impl FnOnce(&Policy, &[Asked]) -> Result<T, PolicyError> + Send + 'static,
    ) -> Result<(T, u64), ApiError> {
        let window = self.window(tenant, store).await?;
        let asked: Vec<Asked> = window.questions.into_iter().map(|question| question.asked).collect();
        let review = self.in_turn(tenant, move |policy| ask(policy, &asked)).await?;
        Ok((review, window.left_out_count))
    }

    /// Does work on the text of a tenant's policy in its turn.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        work: impl FnOnce(&Policy) -> Result<T, PolicyError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let policy = self.parts.policy.clone();
        let done = self.reviewing.work(tenant.as_str(), TURN_TIME_MAX, move || work(&policy)).await?;
        let busy = || ApiError::new("overloaded", "other policies are being reviewed; try again");
        Ok(done.ok_or_else(busy)??)
    }
}

fn said(kind: FindingKind, text: &str) -> FindingView {
    FindingView { kind: crate::host::word(&kind), text: text.to_owned() }
}

/// The statement that a finding begins with, in back quotes.
fn statement_of(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.split_once('`').map(|(id, _)| id)
}

/// Differences as they are told.
pub(super) fn differences(side: &Differences) -> DifferencesView {
    let example = |asked: &Asked| AskedView {
        principal: asked.principal.to_string(),
        role: asked.role.map(|role| role.to_string()),
        action: asked.action.clone(),
        resource: asked.about(),
    };
    DifferencesView {
        questions_count: side.questions_count,
        askings_count: side.askings_count,
        examples: side.examples.iter().map(example).collect(),
    }
}

/// Adds what was asked now; the questions not asked for longest go first when there is no room.
fn merge(window: &mut Window, asked: Vec<Asked>, now: Timestamp) {
    let mut known: HashMap<String, Question> =
        window.questions.drain(..).map(|question| (question.asked.key(), question)).collect();
    for mut one in asked {
        let key = one.key();
        if let Some(before) = known.get(&key) {
            one.allowed_count += before.asked.allowed_count;
            one.denied_count += before.asked.denied_count;
        }
        known.insert(key, Question { asked: one, last_at: now });
    }
    let mut questions: Vec<(String, Question)> = known.into_iter().collect();
    questions.sort_by(|(a_key, a), (b_key, b)| (b.last_at, a_key).cmp(&(a.last_at, b_key)));
    let (mut plain, mut host_calls) = (0, 0);
    questions.retain(|(_, question)| {
        let (count, count_max) = match question.asked.occasion {
            None => (&mut plain, POLICY_RECENT_COUNT_MAX),
            Some(_) => (&mut host_calls, POLICY_RECENT_HOST_CALLS_COUNT_MAX),
        };
        *count += 1;
        *count <= count_max
    });
    window.questions = questions.into_iter().map(|(_, question)| question).collect();
}

pub(super) fn key() -> Key {
    Key::new(["policy-asked"])
}
