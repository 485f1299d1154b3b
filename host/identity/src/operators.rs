//! What is asked of operators: of their sessions, and whether their tokens may be bound to nothing.
//!
//! Must never let one operator ask for less while there is another, nor let one decide what he himself could not take back.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use ringfence_core::proof::act;
use ringfence_core::{Permit, Principal, PrincipalId};
use ringfence_store::{Key, Op};
use serde::{Deserialize, Serialize};

use crate::manage::{covers, finish};
use crate::record::Binding;
use crate::settings::{SignInSettings, UnboundTokens, settings_at};
use crate::standing::{TrustSettings, trust_at};
use crate::trust::score;
use crate::{Identity, IdentityError};

/// For how long one operator's wish waits for another's word.
const WAITING: SignedDuration = SignedDuration::from_hours(24);

/// What is asked of operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorsTrust {
    /// Of their sessions.
    pub sessions: TrustSettings,
    /// Whether tokens that are bound to nothing are taken of them.
    pub unbound_tokens: UnboundTokens,
}

/// What one operator wants and another has not agreed to yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedTrust {
    /// What would be asked.
    pub wanted: OperatorsTrust,
    /// Who wants it.
    pub by: PrincipalId,
    /// Since when.
    pub at: Timestamp,
    /// Until when another operator may agree.
    pub until: Timestamp,
}

/// What one operator wants, held against what is asked: whether it takes another's word.
#[derive(Debug)]
pub struct WeighedTrust {
    wanted: OperatorsTrust,
    /// What was asked when it was weighed.
    before: OperatorsTrust,
    by: PrincipalId,
    /// In what it asks for less, in words; empty where it asks for as much or more.
    pub weakened: Vec<String>,
    /// Who wanted the same before, where this one's word puts it into force.
    pub asked_by: Option<PrincipalId>,
    /// Whether it waits for another operator's word.
    pub is_waiting: bool,
}

impl OperatorsTrust {
    /// In what the next would ask for less than this, in words.
    fn weakened(&self, next: &Self) -> Vec<String> {
        let mut weakened = self.sessions.weakened(&next.sessions);
        if next.unbound_tokens == UnboundTokens::Allowed && self.unbound_tokens == UnboundTokens::Refused {
            weakened.push("tokens bound to nothing".to_owned());
        }
        weakened
    }

    /// The same, with nothing said of who decided it and when.
    fn bare(&self) -> Self {
        let sessions = TrustSettings { changed_at: None, changed_by: None, approved_by: None, ..self.sessions.clone() };
        Self { sessions, unbound_tokens: self.unbound_tokens }
    }
}

fn wanted_at() -> Key {
    Key::new(["identity", "trust-wanted"])
}

impl Identity {
    /// What is asked of operators, and what one of them wants beside it.
    pub async fn operators_trust(
        &self,
        permit: Permit<act::ListTokens>,
    ) -> Result<(OperatorsTrust, Option<WantedTrust>), IdentityError> {
        covers(permit.resource(), None)?;
        Ok((self.asked_of_operators(), self.wanted().await?))
    }

    /// Holds what an operator wants against what is asked: what asks for less takes a second operator who wants the same,
    /// where there is another.
    pub async fn weigh_operators_trust(
        &self,
        permit: &Permit<act::RevokeToken>,
        wanted: OperatorsTrust,
    ) -> Result<WeighedTrust, IdentityError> {
        covers(permit.resource(), None)?;
        let (wanted, before, by) = (wanted.bare(), self.asked_of_operators(), permit.principal().clone());
        let weakened = before.weakened(&wanted);
        let waiting = self.wanted().await?.filter(|waiting| !weakened.is_empty() && waiting.wanted == wanted);
        let asked_by = waiting.map(|waiting| waiting.by).filter(|one| self.is_second_person(one, &by));
        let is_waiting = !weakened.is_empty() && asked_by.is_none() && self.has_another_operator(&by);
        Ok(WeighedTrust { wanted, before, by, weakened, asked_by, is_waiting })
    }

    /// Decides what is asked of operators, as it was weighed; in force at once, and sessions below the floor end. What waits
    /// for another operator's word is the answer. Fails when the session that decides would not do for taking it back, and
    /// when something else was decided since it was weighed.
    pub async fn set_operators_trust(
        &self,
        permit: Permit<act::RevokeToken>,
        by: &Principal,
        from: Option<IpAddr>,
        weighed: WeighedTrust,
    ) -> Result<Option<WantedTrust>, IdentityError> {
        covers(permit.resource(), None)?;
        let WeighedTrust { mut wanted, before, by: weighed_for, asked_by, is_waiting, .. } = weighed;
        wanted.sessions.posture.check()?;
        self.could_come_back(by, from, &wanted)?;
        let store = self.store_of(None)?;
        let _changing = self.shared.changing_about.of(None).await;
        if weighed_for != *by.id() || before != self.asked_of_operators() {
            return Err(IdentityError::FactorState("these settings were changed meanwhile"));
        }
        let now = self.shared.clock.now();
        if is_waiting {
            let until = now.checked_add(WAITING).map_err(|_| IdentityError::Host("the clock is out of range"))?;
            let wanted = WantedTrust { wanted, by: weighed_for, at: now, until };
            finish(store, vec![Op::put_json(wanted_at(), &wanted)?]).await?;
            return Ok(Some(wanted));
        }
        wanted.sessions.approved_by = asked_by.as_ref().map(|_| weighed_for.clone());
        wanted.sessions.changed_at = Some(now);
        wanted.sessions.changed_by = Some(asked_by.unwrap_or(weighed_for));
        let settings = self.shared.read().settings_of(None).map_or_else(SignInSettings::unset, |all| (**all).clone());
        let settings = SignInSettings {
            unbound_tokens: wanted.unbound_tokens,
            changed_at: wanted.sessions.changed_at,
            changed_by: wanted.sessions.changed_by.clone(),
            ..settings
        };
        let ops = vec![
            Op::put_json(trust_at(), &wanted.sessions)?,
            Op::put_json(settings_at(), &settings)?,
            Op::delete(wanted_at()),
        ];
        finish(store, ops).await?;
        {
            let mut tables = self.shared.write();
            tables.set_trust(None, wanted.sessions);
            tables.set_settings(None, settings);
        }
        self.end_fallen(None, None);
        Ok(None)
    }

    fn asked_of_operators(&self) -> OperatorsTrust {
        let unbound = self.shared.read().settings_of(None).map(|settings| settings.unbound_tokens);
        OperatorsTrust { sessions: self.trust_of(None), unbound_tokens: unbound.unwrap_or_default() }
    }

    /// What an operator wants, while it can be agreed to.
    async fn wanted(&self) -> Result<Option<WantedTrust>, IdentityError> {
        let found: Option<WantedTrust> = self.store_of(None)?.get_json(&wanted_at()).await?;
        Ok(found.filter(|wanted| self.shared.clock.now() < wanted.until))
    }

    /// Whether who decides this could decide otherwise after: else the host would have no operator left.
    fn could_come_back(
        &self,
        by: &Principal,
        from: Option<IpAddr>,
        wanted: &OperatorsTrust,
    ) -> Result<(), IdentityError> {
        let session = by.session().ok_or(IdentityError::Unauthenticated)?;
        let binding = self.shared.read().session(session).map(|stored| stored.binding.clone());
        if wanted.unbound_tokens == UnboundTokens::Refused && binding.is_none_or(|bound| bound == Binding::Unbound) {
            return Err(IdentityError::BadTrust {
                why: "your own token is bound to nothing, so you could not take this back",
            });
        }
        let signals = self.signals(session, from, Some(&wanted.sessions)).ok_or(IdentityError::Unauthenticated)?;
        if score(&signals).value < wanted.sessions.least_to_take_back() {
            return Err(IdentityError::BadTrust {
                why: "your own session stands below this, so you could not take it back",
            });
        }
        Ok(())
    }
}
