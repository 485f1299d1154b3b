//! Passkeys (WebAuthn level 3): added in a session, used to sign in and to prove more. The library verifies; what is asked
//! of an authenticator stays here until it answers.
//!
//! Must never take an answer without user verification or to a ceremony that was used; nor say, before somebody was
//! proved, whether a name exists: a sign-in asks for any passkey of this host, and the authenticator says whose.

use jiff::Timestamp;
use ringfence_core::limits::{PASSKEY_ANSWER_BYTES_MAX, PASSKEYS_PER_PERSON_COUNT_MAX};
use ringfence_core::{Principal, PrincipalId, ResourceName, Source, Strength};
use serde_json::Value;
use url::Url;
use webauthn_rs::prelude::{
    AuthenticationResult, DiscoverableKey, Passkey, PublicKeyCredential, RegisterPublicKeyCredential,
    RequestChallengeResponse, Uuid,
};
use webauthn_rs::{Webauthn, WebauthnBuilder};

use data_encoding::HEXLOWER;

use crate::attestation::Attested;
use crate::ceremonies::Pending;
use crate::dpop::Proven;
use crate::factors::proved_enough;
use crate::person::{PasskeyRecord, StoredPasskey, StoredPerson, digest};
use crate::record::Method;
use crate::sessions::Arrival;
use crate::{Identity, IdentityError, Issued, secret_hash};

/// What an authenticator is asked.
#[derive(Debug)]
pub struct Ceremony {
    /// Names the ceremony; to be sent back with the answer, once.
    pub id: String,
    /// `CredentialCreationOptions` or `CredentialRequestOptions` of WebAuthn, as browsers take them in JSON.
    pub options: Value,
}

/// What an authenticator answered, as browsers give it in JSON. Nothing in it is believed before it was verified.
#[derive(Debug)]
pub struct PasskeyAnswer(pub Value);

/// The host as authenticators know it.
pub(crate) fn relying_party(origin: &str) -> Result<Webauthn, IdentityError> {
    let bad = IdentityError::Host("`identity.origin` is not an origin such as `https://ringfence.example.com`");
    let Ok(url) = Url::parse(origin) else { return Err(bad) };
    let Some(domain) = url.domain().map(str::to_owned) else { return Err(bad) };
    let is_origin = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    // Browsers take passkeys only where nobody can read along, or on the machine itself.
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && domain == "localhost");
    if !(is_origin && is_safe) {
        return Err(bad);
    }
    WebauthnBuilder::new(&domain, &url).and_then(|builder| builder.rp_name("Ringfence").build()).map_err(|_| bad)
}

impl Identity {
    /// Begins to add a passkey.
    pub fn start_passkey_registration(
        &self,
        principal: &Principal,
        from: std::net::IpAddr,
    ) -> Result<Ceremony, IdentityError> {
        let person = self.person_behind(principal)?;
        proved_enough(&person, principal)?;
        if person.passkeys.len() >= PASSKEYS_PER_PERSON_COUNT_MAX {
            return Err(IdentityError::FactorState("there are 16 passkeys already; remove one first"));
        }
        let known = Some(person.passkeys.iter().map(|kept| kept.passkey.cred_id().clone()).collect());
        let (name, handle, of) = (principal.id().as_str(), handle(&person)?, principal.id().clone());
        let failed = |_| IdentityError::Host("a passkey cannot be asked for");
        let webauthn = self.webauthn()?;
        let (asked, pending) = match self.thresholds(principal).attestation.list()? {
            Some(trusted) => {
                let started = webauthn.start_attested_passkey_registration(handle, name, name, known, trusted, None);
                let (asked, state) = started.map_err(failed)?;
                (asked, Pending::RegisterAttested(of, Box::new(state)))
            }
            None => {
                let started = webauthn.start_passkey_registration(handle, name, name, known);
                let (asked, state) = started.map_err(failed)?;
                (asked, Pending::Register(of, Box::new(state)))
            }
        };
        Ok(self.begin(discoverable(to_json(&asked)?), from, pending))
    }

    /// Adds the passkey that an authenticator made. The session is proved by it from now on.
    pub async fn add_passkey(
        &self,
        principal: &Principal,
        ceremony: &str,
        answer: &PasskeyAnswer,
        name: ResourceName,
    ) -> Result<PasskeyRecord, IdentityError> {
        proved_enough(&self.person_behind(principal)?, principal)?;
        let (passkey, attested) = self.made_passkey(principal, ceremony, answer)?;
        let now = self.shared.clock.now();
        let id = passkey_id(&passkey);
        let shown = PasskeyRecord { id, name, added_at: now, used_at: None, attested };
        let kept = StoredPasskey {
            id: shown.id.clone(),
            name: shown.name.clone(),
            added_at: now,
            used_at: None,
            passkey,
            attested: shown.attested.clone(),
        };
        self.change_own(principal, |person| {
            if person.passkeys.len() >= PASSKEYS_PER_PERSON_COUNT_MAX {
                return Err(IdentityError::FactorState("there are 16 passkeys already; remove one first"));
            }
            if person.passkeys.iter().any(|other| other.id == kept.id) {
                return Err(IdentityError::BadPasskey("this passkey was added before"));
            }
            person.passkeys.push(kept);
            Ok(())
        })
        .await?;
        self.raise(principal, Strength::Passkey).await?;
        Ok(shown)
    }

    /// What an authenticator made, verified; with what it proved of itself, where that was asked.
    fn made_passkey(
        &self,
        principal: &Principal,
        ceremony: &str,
        answer: &PasskeyAnswer,
    ) -> Result<(Passkey, Option<Attested>), IdentityError> {
        let pending = self.end_ceremony(ceremony);
        let (Some(Pending::Register(of, _)) | Some(Pending::RegisterAttested(of, _))) = &pending else {
            return Err(IdentityError::BadPasskey("no such ceremony is under way"));
        };
        if of != principal.id() {
            return Err(IdentityError::BadPasskey("the ceremony is another's"));
        }
        let answer: RegisterPublicKeyCredential = from_json(answer)?;
        let unfit = |_| IdentityError::BadPasskey("what the authenticator made does not fit what was asked");
        let webauthn = self.webauthn()?;
        match pending {
            Some(Pending::RegisterAttested(_, state)) => {
                let made = webauthn.finish_attested_passkey_registration(&answer, &state).map_err(|_| {
                    IdentityError::BadPasskey("its authenticator does not prove to be one that the tenant trusts")
                })?;
                Ok((Passkey::from(&made), Some(Attested::of(&made))))
            }
            // SECURITY: begun before the tenant named whom it trusts.
            Some(Pending::Register(..)) if self.thresholds(principal).attestation.list()?.is_some() => {
                Err(IdentityError::BadPasskey("the tenant asks more of authenticators since; begin again"))
            }
            Some(Pending::Register(_, state)) => {
                Ok((webauthn.finish_passkey_registration(&answer, &state).map_err(unfit)?, None))
            }
            _ => Err(IdentityError::BadPasskey("no such ceremony is under way")),
        }
    }

    /// Removes a passkey.
    pub async fn remove_passkey(&self, principal: &Principal, id: &str) -> Result<(), IdentityError> {
        proved_enough(&self.person_behind(principal)?, principal)?;
        self.change_own(principal, |person| {
            let before = person.passkeys.len();
            person.passkeys.retain(|kept| kept.id != id);
            if person.passkeys.len() == before { Err(crate::manage::not_found(id)) } else { Ok(()) }
        })
        .await
    }

    /// Begins a sign-in: asks for any passkey of this host.
    pub fn start_passkey_sign_in(&self, from: std::net::IpAddr) -> Result<Ceremony, IdentityError> {
        let started = self.webauthn()?.start_discoverable_authentication();
        let (mut asked, state) = started.map_err(|_| IdentityError::Host("a passkey cannot be asked for"))?;
        // Asked for by a person who pressed a button, not offered while a name is typed.
        asked.mediation = None;
        let options = to_json::<RequestChallengeResponse>(&asked)?;
        Ok(self.begin(options, from, Pending::SignIn(Box::new(state))))
    }

    /// Begins to prove more in a session: asks for one of the person's passkeys.
    pub fn start_passkey_step_up(
        &self,
        principal: &Principal,
        from: std::net::IpAddr,
    ) -> Result<Ceremony, IdentityError> {
        let person = self.person_behind(principal)?;
        let own: Vec<Passkey> = person.passkeys.into_iter().map(|kept| kept.passkey).collect();
        if own.is_empty() {
            return Err(IdentityError::FactorState("there are no passkeys"));
        }
        let started = self.webauthn()?.start_passkey_authentication(&own);
        let (asked, state) = started.map_err(|_| IdentityError::Host("a passkey cannot be asked for"))?;
        let options = to_json(&asked)?;
        Ok(self.begin(options, from, Pending::StepUp(principal.id().clone(), Box::new(state))))
    }

    pub(crate) async fn finish_passkey_step_up(
        &self,
        principal: &PrincipalId,
        ceremony: &str,
        answer: &PasskeyAnswer,
    ) -> Result<(), IdentityError> {
        let Some(Pending::StepUp(of, state)) = self.end_ceremony(ceremony) else {
            return Err(IdentityError::BadPasskey("no such ceremony is under way"));
        };
        if of != *principal {
            return Err(IdentityError::BadPasskey("the ceremony is another's"));
        }
        let answer: PublicKeyCredential = from_json(answer)?;
        let verified = self.webauthn()?.finish_passkey_authentication(&answer, &state);
        let verified = verified
            .map_err(|_| IdentityError::BadPasskey("the authenticator's answer does not fit what was asked"))?;
        self.note_use(principal, &verified).await
    }

    pub(crate) async fn sign_in_by_passkey(
        &self,
        ceremony: &str,
        answer: &PasskeyAnswer,
        proven: Option<&Proven>,
        arrival: Arrival,
    ) -> Result<Issued, IdentityError> {
        let refused = IdentityError::Unauthenticated;
        let Some(Pending::SignIn(state)) = self.end_ceremony(ceremony) else { return Err(refused) };
        let webauthn = self.webauthn()?;
        let Ok(answer) = from_json::<PublicKeyCredential>(answer) else { return Err(refused) };
        let Ok((handle, credential)) = webauthn.identify_discoverable_authentication(&answer) else {
            return Err(refused);
        };
        let found = self.shared.read().person_of_handle(&HEXLOWER.encode(handle.as_bytes())).and_then(|person| {
            let kept = person.passkeys.iter().find(|kept| kept.passkey.cred_id().as_slice() == credential)?;
            Some((person.clone(), DiscoverableKey::from(&kept.passkey)))
        });
        let Some((person, key)) = found else { return Err(refused) };
        let verified = webauthn.finish_discoverable_authentication_v2(&answer, *state, &key);
        let Ok(verified) = verified else { return Err(refused) };
        self.shared.spend(proven)?;
        self.note_use(&person.record.principal, &verified).await?;
        self.open_session_of(&person, Method::Passkey, Strength::Passkey, arrival).await
    }

    /// Notes a use: the authenticator's counter, where it has one, must go up (WebAuthn, section 7.2, step 22).
    async fn note_use(&self, principal: &PrincipalId, verified: &AuthenticationResult) -> Result<(), IdentityError> {
        if !verified.user_verified() {
            return Err(IdentityError::Unauthenticated);
        }
        let now: Timestamp = self.shared.clock.now();
        self.change_person(principal, |person| {
            let own = person.passkeys.iter_mut().find(|kept| kept.passkey.cred_id() == verified.cred_id());
            let kept = own.ok_or(IdentityError::Unauthenticated)?;
            kept.passkey.update_credential(verified);
            kept.used_at = Some(now);
            Ok(())
        })
        .await
    }

    fn webauthn(&self) -> Result<&Webauthn, IdentityError> {
        self.shared.webauthn.as_ref().ok_or(IdentityError::PasskeysOff)
    }

    fn begin(&self, options: Value, from: std::net::IpAddr, pending: Pending) -> Ceremony {
        let shared = &self.shared;
        let id = secret_hash::random_text(shared.entropy.as_ref()).expose().to_owned();
        let now = shared.clock.monotonic();
        shared.ceremonies().begin(id.clone(), Source::of(from), pending, now);
        Ceremony { id, options }
    }

    fn end_ceremony(&self, id: &str) -> Option<Pending> {
        self.shared.ceremonies().end(id, self.shared.clock.monotonic())
    }
}

/// Asks for a passkey that can say whose it is, so that a sign-in needs no name.
fn discoverable(mut asked: Value) -> Value {
    if let Some(selection) = asked.pointer_mut("/publicKey/authenticatorSelection").and_then(Value::as_object_mut) {
        selection.insert("residentKey".to_owned(), Value::from("required"));
        selection.insert("requireResidentKey".to_owned(), Value::from(true));
    }
    asked
}

/// The handle of whom an answer says it is, as it is kept. Anybody can say one.
pub(crate) fn handle_shown(answer: &PasskeyAnswer) -> Option<String> {
    let answer = from_json::<PublicKeyCredential>(answer).ok()?;
    answer.get_user_unique_id().map(|handle| HEXLOWER.encode(handle))
}

fn handle(person: &StoredPerson) -> Result<Uuid, IdentityError> {
    let bytes = HEXLOWER.decode(person.handle.as_bytes()).ok();
    bytes.and_then(|bytes| Uuid::from_slice(&bytes).ok()).ok_or(IdentityError::Host("a stored handle is malformed"))
}

fn passkey_id(passkey: &Passkey) -> String {
    digest(&HEXLOWER.encode(passkey.cred_id().as_slice())).chars().take(32).collect()
}

fn to_json<T: serde::Serialize>(options: &T) -> Result<Value, IdentityError> {
    serde_json::to_value(options).map_err(|_| IdentityError::Host("a passkey cannot be asked for"))
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(answer: &PasskeyAnswer) -> Result<T, IdentityError> {
    let malformed = |_| IdentityError::BadPasskey("the answer is none of an authenticator");
    let text = serde_json::to_string(&answer.0).map_err(malformed)?;
    if text.len() > PASSKEY_ANSWER_BYTES_MAX {
        return Err(IdentityError::BadPasskey("the answer is too long"));
    }
    serde_json::from_str(&text).map_err(malformed)
}
