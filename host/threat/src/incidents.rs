//! Incidents as they are kept: opened, stepped on, and the actions taken for them.
//!
//! One step at a time of all owners, so that nothing is decided on what another has just changed.

use ringfence_audit::SecondPerson;
use ringfence_core::PrincipalId;
use ringfence_store::Key;

use crate::ThreatError;
use crate::incident::{INCIDENTS_COUNT_MAX, Incident, Saying, Transition};
use crate::response::{Asked, Response, Scope};
use crate::threat::{Threat, all, put};

/// What came of a step.
#[derive(Debug)]
pub struct Stepped {
    /// The incident now.
    pub incident: Incident,
    /// Responses that were made, or asked for where they take two people.
    pub made: Vec<Response>,
    /// Actions that could not be taken, and why.
    pub failed: Vec<String>,
}

impl Threat {
    /// An owner's incidents, newest first.
    pub async fn incidents(&self, scope: &Scope) -> Result<Vec<Incident>, ThreatError> {
        let mut found: Vec<Incident> =
            all(&self.store(scope)?, &Key::new(["threat-incident"]), INCIDENTS_COUNT_MAX).await?;
        let opened = |incident: &Incident| incident.steps.first().map(|step| step.at);
        found.sort_by_key(|incident| std::cmp::Reverse(opened(incident)));
        Ok(found)
    }

    /// One of them.
    pub async fn incident(&self, scope: &Scope, id: &str) -> Result<Incident, ThreatError> {
        self.store(scope)?.get_json(&key(id)).await?.ok_or(ThreatError::NotFound)
    }

    /// Opens an incident, or takes a step of one, with the actions that belong to it. What takes two people waits for the
    /// second, as any response does. The caller writes the intent and the outcome.
    pub async fn step(
        &self,
        scope: &Scope,
        by: &PrincipalId,
        id: Option<&str>,
        saying: &Saying,
        actions: Vec<Asked>,
        are_two: &SecondPerson<'_>,
    ) -> Result<Stepped, ThreatError> {
        let _one = self.inner.stepping.lock().await;
        let now = self.inner.clock.now();
        let mut incident = match id {
            Some(id) => self.incident(scope, id).await?,
            None if self.incidents(scope).await?.len() >= INCIDENTS_COUNT_MAX => {
                return Err(ThreatError::TooMany { what: "incidents", count_max: INCIDENTS_COUNT_MAX });
            }
            None => Incident::open(self.new_id("in_"), saying, by, now)?,
        };
        // All are looked at before any is taken: a step with an action that cannot be does nothing.
        let mut checked = Vec::new();
        for asked in actions {
            checked.push(self.preview(scope, by, asked)?.0);
        }
        let approving = if saying.transition == Transition::ApproveAction { saying.evidence.as_slice() } else { &[] };
        for action in approving {
            if !incident.responses.contains(action) {
                return Err(ThreatError::NotFound);
            }
            self.waiting(scope, by, action, are_two)?;
        }
        if saying.transition == Transition::Close && !self.waiting_for(scope, &incident).is_empty() {
            return Err(ThreatError::BadTransition { what: "actions still wait for another person".to_owned() });
        }
        if id.is_some() {
            incident.step(saying, by, now, are_two)?;
        }
        let (mut made, mut failed) = (Vec::new(), Vec::new());
        for action in approving {
            match self.approve(scope, by, action, are_two).await {
                Ok(response) => made.push(response),
                Err(error) => failed.push(error.to_string()),
            }
        }
        for asked in checked {
            match self.respond(scope, by, asked).await {
                Ok((response, _)) => {
                    incident.responses.push(response.id.clone());
                    made.push(response);
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        self.keep_incident(scope, &incident).await?;
        Ok(Stepped { incident, made, failed })
    }

    /// The responses of an incident that wait for another person.
    pub fn waiting_for(&self, scope: &Scope, incident: &Incident) -> Vec<Response> {
        let now = self.inner.clock.now();
        let found = incident.responses.iter().filter_map(|id| self.response(scope, id).ok());
        found.filter(|response| response.is_waiting(now)).collect()
    }

    async fn keep_incident(&self, scope: &Scope, incident: &Incident) -> Result<(), ThreatError> {
        // A tenant whose keys were just disabled for this incident cannot keep it; the host's log has what was done.
        match put(&self.store(scope)?, &key(&incident.id), incident).await {
            Err(ThreatError::Store(
                ringfence_store::StoreError::KeyDisabled | ringfence_store::StoreError::KeyRefused,
            )) => {
                tracing::warn!(incident = %incident.id, "an incident's last step is on the host's log alone: its keys are disabled");
                Ok(())
            }
            other => other,
        }
    }
}

fn key(id: &str) -> Key {
    Key::new(["threat-incident", id])
}
