//! Incidents as they are kept: opened and stepped on, each with the actions that are to be taken for it.
//!
//! One step at a time of an owner, so that nothing is decided on what another has just changed. Must never take an action
//! that the incident does not name: it is kept first, with the ids under which the caller then makes them. Nor let one
//! owner's step keep another's waiting, nor anybody for ever.

use std::time::Duration;

use ringfence_audit::SecondPerson;
use ringfence_core::PrincipalId;
use ringfence_store::Key;
use tokio::sync::OwnedMutexGuard;

use crate::ThreatError;
use crate::incident::{ACTIONS_COUNT_MAX, INCIDENTS_COUNT_MAX, Incident, Saying, Transition};
use crate::response::{Asked, Response, Scope};
use crate::threat::{Threat, all, put};

/// LIMIT: how long a step waits for the one before it.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);

/// An owner's turn to take a step. As long as this is there nobody takes another of the same owner.
#[derive(Debug)]
pub struct Turn {
    scope: Scope,
    _one: OwnedMutexGuard<()>,
}

/// A step that is kept, and what is to be done now, in the owner's turn.
#[derive(Debug)]
pub struct Stepped {
    /// The incident now.
    pub incident: Incident,
    /// Responses to make, or to ask for where they take two people, each under its id: [`Threat::respond_as`].
    pub to_make: Vec<(String, Asked)>,
    /// Responses to agree to: [`Threat::approve`].
    pub to_approve: Vec<String>,
    _turn: Turn,
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

    /// An owner's turn to take a step, once the one before is done with all its actions; [`ThreatError::Busy`] when that takes
    /// too long.
    pub async fn turn(&self, scope: &Scope) -> Result<Turn, ThreatError> {
        let turn = self.inner.turns.of(scope.clone());
        let one = tokio::time::timeout(TURN_TIME_MAX, turn).await.map_err(|_| ThreatError::Busy)?;
        Ok(Turn { scope: scope.clone(), _one: one })
    }

    /// Opens an incident, or takes a step of one, and says what is to be done now for it. The caller does that, each action
    /// between an intent and an outcome as any response is made, and says with [`Threat::unmade`] what could not be. He writes
    /// the intent and the outcome of the step as well.
    pub async fn step(
        &self,
        turn: Turn,
        by: &PrincipalId,
        id: Option<&str>,
        saying: &Saying,
        actions: Vec<Asked>,
        are_two: &SecondPerson<'_>,
    ) -> Result<Stepped, ThreatError> {
        let scope = &turn.scope;
        let now = self.inner.clock.now();
        let mut incident = match id {
            Some(id) => self.incident(scope, id).await?,
            None if self.incidents(scope).await?.len() >= INCIDENTS_COUNT_MAX => {
                return Err(ThreatError::TooMany { what: "incidents", count_max: INCIDENTS_COUNT_MAX });
            }
            None => Incident::open(self.new_id("in_"), saying, by, now)?,
        };
        if actions.len() > ACTIONS_COUNT_MAX {
            let what = format!("a step has at most {ACTIONS_COUNT_MAX} actions");
            return Err(ThreatError::BadTransition { what });
        }
        // All are looked at before any is taken: a step with an action that cannot be does nothing.
        let mut to_make = Vec::new();
        for asked in actions {
            to_make.push((self.new_response_id(), self.preview(scope, by, asked)?.0));
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
        incident.responses.extend(to_make.iter().map(|(id, _)| id.clone()));
        put(&self.store(scope)?, &key(&incident.id), &incident).await?;
        Ok(Stepped { incident, to_make, to_approve: approving.to_vec(), _turn: turn })
    }

    /// Takes actions that could not be taken out of their incident again. Where that cannot be kept, it names what is not
    /// there, which neither holds nor waits.
    pub async fn unmade(&self, scope: &Scope, stepped: &mut Stepped, ids: &[String]) {
        if ids.is_empty() {
            return;
        }
        let incident = &mut stepped.incident;
        incident.responses.retain(|id| !ids.contains(id));
        let kept = match self.store(scope) {
            Ok(store) => put(&store, &key(&incident.id), &*incident).await,
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            tracing::warn!(incident = %incident.id, %error, "an incident still names actions that were not taken");
        }
    }

    /// The responses of an incident that wait for another person.
    pub fn waiting_for(&self, scope: &Scope, incident: &Incident) -> Vec<Response> {
        let now = self.inner.clock.now();
        let found = incident.responses.iter().filter_map(|id| self.response(scope, id).ok());
        found.filter(|response| response.is_waiting(now)).collect()
    }
}

fn key(id: &str) -> Key {
    Key::new(["threat-incident", id])
}
