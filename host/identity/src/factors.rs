//! A person's factors: one-time codes with recovery codes, the password, and proving more in a session that is open,
//! and laying that down again.
//!
//! Must never let a session that was proved by less change what proves more: whoever has a second factor shows it first. Nor let one
//! guess at the password faster than a sign-in may.

use ringfence_core::limits::CREDENTIAL_BYTES_MAX;
use ringfence_core::{Principal, Source, Strength};

use crate::error::{Factor, Needed};
use crate::passkeys::PasskeyAnswer;
use crate::person::{Factors, StoredCodes, StoredPerson};
use crate::throttle::Tried;
use crate::{Identity, IdentityError, SecretString};

/// What is shown to prove more in a session.
#[derive(Debug)]
pub enum StepUp {
    /// A one-time or recovery code.
    Code(SecretString),
    /// What an authenticator answered to a ceremony that [`Identity::start_passkey_step_up`] began.
    Passkey {
        /// Which ceremony.
        ceremony: String,
        /// The answer.
        answer: PasskeyAnswer,
    },
}

/// What an app for one-time codes must know; shown once.
#[derive(Debug)]
pub struct CodesOffer {
    /// The shared key in base32.
    pub secret: SecretString,
    /// The same as a URI that such apps read from a picture (`otpauth://totp/...`).
    pub uri: SecretString,
}

impl Identity {
    /// What a person can prove himself with.
    pub fn factors(&self, principal: &Principal) -> Result<Factors, IdentityError> {
        Ok(self.person_behind(principal)?.factors())
    }

    /// Offers one-time codes. Nothing is asked for until [`Identity::confirm_codes`] was shown a first one.
    pub async fn offer_codes(&self, principal: &Principal) -> Result<CodesOffer, IdentityError> {
        let person = self.person_behind(principal)?;
        proved_enough(&person, principal)?;
        if person.asks_for_codes() {
            return Err(IdentityError::FactorState("there are one-time codes already; remove them first"));
        }
        let codes = StoredCodes::generate(self.shared.entropy.as_ref());
        let secret = SecretString::new(codes.secret.clone());
        let uri = otpauth(principal.id().as_str(), &codes.secret);
        self.change_own(principal, |person| {
            person.codes = Some(codes);
            Ok(())
        })
        .await?;
        Ok(CodesOffer { secret, uri })
    }

    /// Takes the first code of those that were offered: from now on a password needs one. The recovery codes are in the
    /// answer and nowhere else. The session is proved by two factors from now on.
    pub async fn confirm_codes(
        &self,
        principal: &Principal,
        code: &SecretString,
    ) -> Result<Vec<SecretString>, IdentityError> {
        proved_enough(&self.person_behind(principal)?, principal)?;
        let now = self.shared.clock.now();
        let entropy = self.shared.entropy.clone();
        let recovery = self
            .change_own(principal, |person| {
                let offered = person.codes.as_mut().filter(|codes| codes.since.is_none());
                let offered = offered.ok_or(IdentityError::FactorState("no one-time codes wait to be confirmed"))?;
                let step = offered.step_of(code.expose(), now)?;
                offered.last_step = step.ok_or(IdentityError::FactorState("this is not the code of now"))?;
                offered.since = Some(now);
                Ok(person.renew_recovery(entropy.as_ref()))
            })
            .await?;
        self.raise(principal, Strength::TwoFactors).await?;
        Ok(recovery)
    }

    /// Removes one-time codes and recovery codes.
    pub async fn remove_codes(&self, principal: &Principal) -> Result<(), IdentityError> {
        proved_enough(&self.person_behind(principal)?, principal)?;
        self.change_own(principal, |person| {
            person.codes.take().ok_or(IdentityError::FactorState("there are no one-time codes"))?;
            person.recovery.clear();
            Ok(())
        })
        .await
    }

    /// Sets another password. Who has one shows it; other sessions of the person end. `Throttled` when too many wrong ones were
    /// shown lately, in whichever session of his.
    pub async fn set_password(
        &self,
        principal: &Principal,
        old: Option<&SecretString>,
        new: &SecretString,
        from: std::net::IpAddr,
    ) -> Result<(), IdentityError> {
        let person = self.person_behind(principal)?;
        proved_enough(&person, principal)?;
        let (shared, source, name) = (&self.shared, Source::of(from), principal.id().as_str());
        let _place = shared.admit(source, Tried::Again(name.to_owned()))?;
        if let Some(kept) = &person.password {
            let old = old.map_or("", |old| old.expose());
            let shown = if old.len() <= CREDENTIAL_BYTES_MAX { old } else { "" };
            if !shared.hasher.is_password(shown, Some(kept.hashed.clone())).await? {
                shared.throttle().failed_again(source, name, shared.clock.monotonic());
                return Err(IdentityError::FactorState("the old password is another one"));
            }
        }
        let password = self.hash_password(new).await?;
        let before = person.mark();
        self.change_own(principal, |person| {
            if person.mark() != before {
                return Err(IdentityError::FactorState("the password was changed meanwhile"));
            }
            person.password = Some(password);
            Ok(())
        })
        .await?;
        let others: Vec<_> = self.own_sessions(principal).into_iter().map(|record| record.id).collect();
        for session in others.iter().filter(|session| principal.session() != Some(*session)) {
            self.end_own_session(principal, session).await?;
        }
        Ok(())
    }

    /// Proves more in a session that is open; how strongly it is proved then.
    pub async fn step_up(&self, principal: &Principal, shown: StepUp) -> Result<Strength, IdentityError> {
        let person = self.person_behind(principal)?;
        let strength = match shown {
            StepUp::Code(code) => {
                if !person.asks_for_codes() {
                    return Err(IdentityError::FactorState("there are no one-time codes"));
                }
                self.use_code(principal.id(), code.expose()).await?;
                Strength::TwoFactors
            }
            StepUp::Passkey { ceremony, answer } => {
                self.finish_passkey_step_up(principal.id(), &ceremony, &answer).await?;
                Strength::Passkey
            }
        };
        self.raise(principal, strength).await?;
        Ok(strength)
    }

    /// Notes in the session what was proved; durable, so that a restart does not ask again.
    pub(crate) async fn raise(&self, principal: &Principal, strength: Strength) -> Result<(), IdentityError> {
        let now = self.shared.clock.now();
        self.change_session(principal, |tables, session| tables.raise(session, strength, now)).await
    }

    /// Lays down what was proved in a session since it was opened; how strongly it is proved then. Durable likewise.
    pub async fn step_down(&self, principal: &Principal) -> Result<Strength, IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        let opened_with = {
            let tables = self.shared.read();
            let stored = tables.session(session).ok_or(IdentityError::Unauthenticated)?;
            stored.raised.as_ref().map(|_| stored.strength)
        };
        let strength =
            opened_with.ok_or(IdentityError::FactorState("nothing was proved in this session since it was opened"))?;
        self.change_session(principal, |tables, session| tables.lower(session)).await?;
        Ok(strength)
    }
}

/// Whether a session may change factors: with the second factor, where there is one.
pub(crate) fn proved_enough(person: &StoredPerson, principal: &Principal) -> Result<(), IdentityError> {
    if person.has_second_factor() && principal.strength() < Strength::TwoFactors {
        return Err(IdentityError::StepUp(Needed { factor: Factor::Code, scores: None }));
    }
    Ok(())
}

/// The URI that apps for one-time codes read (the key URI format of Google Authenticator). Principals have no character
/// that a path could not have but the slash and few others, which are escaped.
fn otpauth(principal: &str, secret: &str) -> SecretString {
    let label: String = principal
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    SecretString::new(format!("otpauth://totp/Ringfence:{label}?secret={secret}&issuer=Ringfence"))
}
