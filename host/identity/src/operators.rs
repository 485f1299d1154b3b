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

impl OperatorsTrust {
    /// Whether this asks for less than `now` in anything. What cannot be told to be more counts as less.
    fn asks_less_than(&self, now: &Self) -> bool {
        let (new, old) = (&self.sessions, &now.sessions);
        let scores = |all: &TrustSettings| [all.floor, all.invoke, all.read, all.change, all.administer];
        let lower = scores(new).iter().zip(scores(old)).any(|(new, old)| *new < old);
        let older = old.credential_days_max.is_some_and(|old| new.credential_days_max.is_none_or(|new| new > old));
        let unbound = self.unbound_tokens == UnboundTokens::Allowed && now.unbound_tokens == UnboundTokens::Refused;
        lower
            || older
            || unbound
            || new.verify_interval_seconds > old.verify_interval_seconds
            || (old.hours_utc.is_some() && new.hours_utc != old.hours_utc)
            || new.posture != old.posture
            || new.tpm != old.tpm
            || new.attestation != old.attestation
    }

    /// The same, with nothing said of who decided it and when.
    fn bare(&self) -> Self {
        let sessions = TrustSettings { changed_at: None, changed_by: None, ..self.sessions.clone() };
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

    /// Decides what is asked of operators; in force at once, and sessions below the floor end. What asks for less waits for
    /// a second operator who wants the same, where there is one; then it is the answer. Fails when the session that decides
    /// would not do for taking it back.
    pub async fn set_operators_trust(
        &self,
        permit: Permit<act::RevokeToken>,
        by: &Principal,
        from: Option<IpAddr>,
        wanted: OperatorsTrust,
    ) -> Result<Option<WantedTrust>, IdentityError> {
        covers(permit.resource(), None)?;
        wanted.sessions.posture.check()?;
        self.could_come_back(by, from, &wanted)?;
        let store = self.store_of(None)?;
        let _changing = self.shared.changing_about.lock().await;
        let (now, mut wanted) = (self.shared.clock.now(), wanted.bare());
        let waiting = self.wanted().await?;
        let agreed = waiting
            .as_ref()
            .is_some_and(|waiting| waiting.wanted == wanted && self.is_second_person(&waiting.by, by.id()));
        if wanted.asks_less_than(&self.asked_of_operators()) && !agreed && self.has_another_operator(by.id()) {
            let until = now.checked_add(WAITING).map_err(|_| IdentityError::Host("the clock is out of range"))?;
            let wanted = WantedTrust { wanted, by: by.id().clone(), at: now, until };
            finish(store, vec![Op::put_json(wanted_at(), &wanted)?]).await?;
            return Ok(Some(wanted));
        }
        let decided = (Some(now), Some(by.id().clone()));
        (wanted.sessions.changed_at, wanted.sessions.changed_by) = decided.clone();
        let settings = self.shared.read().settings_of(None).map_or_else(SignInSettings::unset, |all| (**all).clone());
        let settings = SignInSettings {
            unbound_tokens: wanted.unbound_tokens,
            changed_at: decided.0,
            changed_by: decided.1,
            ..settings
        };
        let mut ops = vec![Op::put_json(trust_at(), &wanted.sessions)?, Op::put_json(settings_at(), &settings)?];
        if waiting.is_some() {
            ops.push(Op::delete(wanted_at()));
        }
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
        if score(&signals).value < wanted.sessions.floor.max(wanted.sessions.administer) {
            return Err(IdentityError::BadTrust {
                why: "your own session stands below this, so you could not take it back",
            });
        }
        Ok(())
    }
}
