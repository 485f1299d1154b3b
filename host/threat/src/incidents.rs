//! Incidents as they are kept: opened and stepped on, each with the actions that are to be taken for it; clocks told in time.
//!
//! One step at a time of an owner, so that nothing is decided on what another has just changed. Must never take an action
//! that the incident does not name: it is kept first, with the ids under which the caller then makes them. Nor let one
//! owner's step keep another's waiting, nor anybody for ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Event as AuditEvent, Log, SecondPerson, codes};
use ringfence_core::PrincipalId;
use ringfence_store::Key;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use crate::ThreatError;
use crate::incident::{ACTIONS_COUNT_MAX, INCIDENTS_COUNT_MAX, Incident, Saying, Transition};
use crate::response::{Asked, Response, Scope};
use crate::threat::{Threat, all, put};

/// LIMIT: how long a step waits for the one before it.
const TURN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a clock that could not be told of waits for the next attempt.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// When a clock of which incident is told of next.
pub(crate) type Clocks = Mutex<BTreeMap<(Scope, String), Timestamp>>;

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
            return Err(ThreatError::BadStep { what });
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
        self.wind(scope, &incident.id, incident.next_told_at());
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

    /// Reads which clocks of an owner run.
    pub(crate) async fn load_clocks(&self, scope: &Scope) -> Result<(), ThreatError> {
        self.forget_clocks(scope);
        for incident in self.incidents(scope).await? {
            self.wind(scope, &incident.id, incident.next_told_at());
        }
        Ok(())
    }

    pub(crate) fn forget_clocks(&self, scope: &Scope) {
        let mut clocks = self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.retain(|(whose, _), _| whose != scope);
    }

    /// Puts on the record which clocks come near their end or have passed it; the reader makes findings of that.
    pub(crate) async fn tell_clocks(&self) {
        let now = self.inner.clock.now();
        let due: Vec<(Scope, String)> = {
            let clocks = self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner);
            clocks.iter().filter(|(_, at)| **at <= now).map(|(which, _)| which.clone()).collect()
        };
        for (scope, id) in due {
            match self.tell_clocks_of(&scope, &id, now).await {
                Ok(()) => {}
                Err(ThreatError::NotFound) => self.wind(&scope, &id, None),
                Err(error) => {
                    tracing::warn!(incident = %id, %error, "a clock of an incident cannot be told of now; it is tried again");
                    self.wind(&scope, &id, now.checked_add(AGAIN).ok());
                }
            }
        }
    }

    async fn tell_clocks_of(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<(), ThreatError> {
        // Whoever takes a step now is not waited for: there is another look in a moment.
        let turn = tokio::time::timeout(Duration::ZERO, self.inner.turns.of(scope.clone()));
        let Ok(_one) = turn.await else { return Ok(()) };
        let mut incident = self.incident(scope, id).await?;
        let log = match scope {
            Scope::Host => Log::Host,
            Scope::Tenant(_) => Log::Tenant(self.store(scope)?),
        };
        // Before it is kept that it was told: rather twice than not at all.
        for clock in incident.take_due(now) {
            let mut event = AuditEvent::new(codes::BREACH_CLOCK, "tell-clock", self.inner.audit.actor(), scope.log());
            event.details = json!({
                "incident": id, "jurisdiction": clock.jurisdiction, "whom": clock.whom, "due_at": clock.due_at,
                "told": clock.told,
            });
            self.inner.audit.record(&log, event).await?;
        }
        put(&self.store(scope)?, &key(id), &incident).await?;
        self.wind(scope, id, incident.next_told_at());
        Ok(())
    }

    /// Notes when a clock of an incident is told of next.
    fn wind(&self, scope: &Scope, id: &str, next: Option<Timestamp>) {
        let mut clocks = self.inner.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        let which = (scope.clone(), id.to_owned());
        match next {
            Some(at) => drop(clocks.insert(which, at)),
            None => drop(clocks.remove(&which)),
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
