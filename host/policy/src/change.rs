//! Trying a changed policy before it decides anything: what it would have answered, and whether it allows more.
//!
//! Must never change what is in force, except by the acts that say so; a candidate is asked, and its answers are told.

use std::sync::Arc;

use ringfence_core::{Role, TenantId};
use serde::{Deserialize, Serialize};

use crate::decide::{TenantState, View};
use crate::decision::Analysis;
use crate::labels::Labels;
use crate::recent::{Asked, Taken};
use crate::shadow::{Differences, EXAMPLES_COUNT_MAX, Shadow, ShadowReport};
use crate::tenant::Author;
use crate::{Policy, PolicyError, PolicyVersion, structure};

/// What a candidate would have answered to questions that were asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Distinct questions that were asked again.
    pub questions_count: u64,
    /// Denied by what is in force, and allowed by the candidate.
    pub newly_allowed: Differences,
    /// Allowed by what is in force, and denied by the candidate.
    pub newly_denied: Differences,
}

/// Everything that is known of a candidate before it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// What its text says.
    pub analysis: Analysis,
    /// What it would have answered.
    pub replay: Replay,
    /// Questions that it would allow newly if no ceiling stood above it: an operator lifts one alone.
    pub widens_count: u64,
    /// Whether its text alone shows that it allows nothing new. When not, it may.
    pub only_narrows: bool,
}

/// Everything that is known of changed labels before they are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelsReview {
    /// What would have been answered under them.
    pub replay: Replay,
    /// Whether no statement in force reads a label, so that nothing new is allowed. When one does, something may be.
    pub only_narrows: bool,
}

impl Policy {
    /// Checks a candidate and asks it what was asked lately. Fails like [`Policy::set_tenant_policy`]. Works for as long
    /// as `asked` and the text are: not for threads that must not wait.
    pub fn review(&self, tenant: &TenantId, text: &str, asked: &[Asked]) -> Result<Review, PolicyError> {
        let state = self.known(tenant)?;
        let (rules, analysis) = self.compile(tenant, text)?;
        let only_narrows = structure::only_narrows(&state.rules.policies, &rules.policies);
        let now = state.view(None);
        let then = View { own: Some(&rules), ..now };
        let replay = self.replay(now, then, asked);
        let widens_count = match state.ceiling.policies.is_empty() {
            true => replay.newly_allowed.questions_count,
            false => {
                let (now, then) = (View { ceiling: None, ..now }, View { ceiling: None, ..then });
                self.replay(now, then, asked).newly_allowed.questions_count
            }
        };
        Ok(Review { analysis, replay, widens_count, only_narrows })
    }

    /// Checks changed labels, and asks under them what was asked lately. Fails like [`Policy::set_labels`]. Works for as
    /// long as [`Policy::review`] does.
    pub fn review_labels(&self, tenant: &TenantId, text: &str, asked: &[Asked]) -> Result<LabelsReview, PolicyError> {
        let state = self.known(tenant)?;
        let labels = Labels::parse(tenant, text)?;
        let only_narrows = labels == *state.labels
            || !state.rules.policies.iter().chain(&state.ceiling.policies).any(structure::reads_labels);
        let now = state.view(None);
        let replay = self.replay(now, View { labels: &labels, ..now }, asked);
        Ok(LabelsReview { replay, only_narrows })
    }

    /// Whether somebody of the tenant who loses a role by label may be allowed something by that: a statement in force forbids by a
    /// role, or asks that there is none. Looks into all of them: not for threads that must not wait.
    pub fn gains_without_roles(&self, tenant: &TenantId) -> Result<bool, PolicyError> {
        let state = self.known(tenant)?;
        Ok(state.rules.policies.iter().chain(&state.ceiling.policies).any(structure::gains_without_roles))
    }

    /// Puts a candidate into the shadow, in the place of one that is there. Fails for what is no policy; it decides nothing, so
    /// it locks nobody out.
    pub fn set_shadow(&self, tenant: &TenantId, text: &str) -> Result<PolicyVersion, PolicyError> {
        let rules = Arc::new(self.shared.checker.check(tenant, text, Author::Tenant)?.rules);
        let shadow = Some(Arc::new(Shadow::new(Arc::from(text), rules)));
        self.change(tenant, |state| state.shadow = shadow)
    }

    /// Takes the candidate out of the shadow.
    pub fn clear_shadow(&self, tenant: &TenantId) -> Result<PolicyVersion, PolicyError> {
        self.change(tenant, |state| state.shadow = None)
    }

    /// What the candidate in the shadow would have done; none when there is none.
    pub fn shadow(&self, tenant: &TenantId) -> Option<ShadowReport> {
        self.shared.tenant(tenant)?.shadow.as_ref().map(|shadow| shadow.report())
    }

    /// Takes out what the tenant was asked since the last time, to be kept. None for an unknown tenant.
    pub fn take_asked(&self, tenant: &TenantId) -> Option<Taken> {
        self.shared.tenant(tenant).map(|state| state.recent.take())
    }

    pub(crate) fn known(&self, tenant: &TenantId) -> Result<Arc<TenantState>, PolicyError> {
        self.shared.tenant(tenant).ok_or_else(|| PolicyError::UnknownTenant { tenant: tenant.to_string() })
    }

    /// What is in force now is asked too, so that questions answered under older policies count as they would today. Questions of
    /// operators are left out: a tenant's policies say nothing of them.
    fn replay(&self, now: View<'_>, then: View<'_>, asked: &[Asked]) -> Replay {
        let mut replay =
            Replay { questions_count: 0, newly_allowed: Differences::default(), newly_denied: Differences::default() };
        for one in asked {
            let Some(question) = one.question().filter(|question| question.who.role != Some(Role::Operator)) else {
                continue;
            };
            replay.questions_count += 1;
            let side = match (self.shared.allows(&question, now), self.shared.allows(&question, then)) {
                (false, true) => &mut replay.newly_allowed,
                (true, false) => &mut replay.newly_denied,
                _ => continue,
            };
            side.questions_count += 1;
            side.askings_count += one.allowed_count + one.denied_count;
            if side.examples.len() < EXAMPLES_COUNT_MAX {
                side.examples.push(one.clone());
            }
        }
        replay
    }
}
