//! Where a session stands now: the signals gathered, the score, and what follows from it.
//!
//! Must never let a session go on that fell below its tenant's floor, on any path: it ends in memory at once, what
//! streams for it is cut, and only then the store is told.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ringfence_core::limits::SIGN_IN_FORGIVEN_MS;
use ringfence_core::proof::act;
use ringfence_core::{Permit, Principal, PrincipalId, PrincipalKind, SessionId, Source, Strength, TenantId};
use ringfence_store::{Key, Op};
use serde::{Deserialize, Serialize};

use crate::attestation::AttestationTrust;
use crate::devices::PostureTrust;
use crate::manage::{covers, finish};
use crate::record::{Method, StoredSession};
use crate::shelf::session_at;
use crate::tables::Tables;
use crate::tpm::TpmTrust;
use crate::trust::{OffHours, Score, Seen, Signals, score};
use crate::{Identity, IdentityError};

/// What sort of act a score is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActClass {
    /// Calling a plugin.
    Invoke,
    /// Looking.
    Read,
    /// Changing what runs.
    Change,
    /// Changing who may do what, or what cannot be undone.
    Administer,
}

impl ActClass {
    /// The class of an action.
    pub fn of<A: ringfence_core::Action>() -> Self {
        match A::NAME {
            "invoke" => Self::Invoke,
            "create-token" | "revoke-token" | "review-access" | "write-policy" | "set-ceiling" | "approve-change"
            | "grant-capability" | "disable-keys" | "destroy-keys" | "rotate-keys" | "delete-tenant"
            | "suspend-tenant" | "restore-backup" | "take-recovery-key" | "erase-subject" | "manage-audit"
            | "hold-audit" => Self::Administer,
            _ if A::MUTATES => Self::Change,
            _ => Self::Read,
        }
    }

    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Change => "change",
            Self::Administer => "administer",
        }
    }
}

/// What a tenant asks of sessions; 0 asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSettings {
    /// A session below this ends.
    pub floor: u8,
    /// Least score for calling a plugin.
    pub invoke: u8,
    /// Least score for looking.
    pub read: u8,
    /// Least score for changing what runs.
    pub change: u8,
    /// Least score for changing who may do what, or what cannot be undone.
    pub administer: u8,
    /// How often a session must be verified as a whole, in seconds.
    pub verify_interval_seconds: u32,
    /// How old a credential may be, in days; none for any age.
    pub credential_days_max: Option<u32>,
    /// From which hour on, and before which, people usually work, in UTC; none for any hour.
    pub hours_utc: Option<(u8, u8)>,
    /// Whose claims about devices are taken, and what they must say.
    #[serde(default)]
    pub posture: PostureTrust,
    /// Whose TPMs are trusted, and what they may have measured.
    #[serde(default)]
    pub tpm: TpmTrust,
    /// Which authenticators people's passkeys may come from.
    #[serde(default)]
    pub attestation: AttestationTrust,
    /// When this was decided.
    pub changed_at: Option<Timestamp>,
    /// Who decided it.
    pub changed_by: Option<PrincipalId>,
}

impl TrustSettings {
    /// What holds where nobody decided.
    pub const fn unset() -> Self {
        Self {
            floor: 0,
            invoke: 0,
            read: 0,
            change: 0,
            administer: 0,
            verify_interval_seconds: 300,
            credential_days_max: None,
            hours_utc: None,
            posture: PostureTrust { issuers: Vec::new(), required: Vec::new() },
            tpm: TpmTrust::none(),
            attestation: AttestationTrust::any(),
            changed_at: None,
            changed_by: None,
        }
    }

    /// The least score for a class of acts.
    pub const fn least(&self, class: ActClass) -> u8 {
        match class {
            ActClass::Invoke => self.invoke,
            ActClass::Read => self.read,
            ActClass::Change => self.change,
            ActClass::Administer => self.administer,
        }
    }

    const fn asks_nothing(&self) -> bool {
        self.floor == 0 && self.invoke == 0 && self.read == 0 && self.change == 0 && self.administer == 0
    }
}

/// What became of a session that was verified as a whole.
#[derive(Debug)]
pub struct Verified {
    /// What is to be done.
    pub verdict: Verdict,
    /// Where it stands.
    pub score: Score,
    /// In how many seconds it should be verified again.
    pub next_seconds: u32,
}

/// What is to be done with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It goes on, and what its tenant asks most for needs more of it.
    StepUp,
    /// It was ended.
    Ended,
}

pub(crate) fn trust_at() -> Key {
    Key::new(["identity", "trust"])
}

impl Identity {
    /// What a tenant asks of sessions.
    pub fn trust_settings(
        &self,
        permit: Permit<act::ReadPolicy>,
        tenant: &TenantId,
    ) -> Result<TrustSettings, IdentityError> {
        covers(permit.resource(), Some(tenant))?;
        Ok(self.trust_of(Some(tenant)))
    }

    /// Decides what a tenant asks of sessions. In force at once: sessions below the floor end.
    pub async fn set_trust_settings(
        &self,
        permit: Permit<act::WritePolicy>,
        tenant: &TenantId,
        mut settings: TrustSettings,
    ) -> Result<TrustSettings, IdentityError> {
        covers(permit.resource(), Some(tenant))?;
        settings.posture.check()?;
        let store = self.store_of(Some(tenant))?;
        settings.changed_at = Some(self.shared.clock.now());
        settings.changed_by = Some(permit.principal().clone());
        finish(store, vec![Op::put_json(trust_at(), &settings)?]).await?;
        self.shared.write().set_trust(tenant.clone(), settings.clone());
        self.end_fallen(Some(tenant), None);
        Ok(settings)
    }

    /// The least scores in force for a principal.
    pub fn thresholds(&self, principal: &Principal) -> TrustSettings {
        self.trust_of(principal.tenant())
    }

    /// Where the session of a principal stands. `from` is where the request comes from.
    pub fn score(&self, principal: &Principal, from: Option<IpAddr>) -> Result<Score, IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        let signals = self.signals(session, from).ok_or(IdentityError::Unauthenticated)?;
        Ok(score(&signals))
    }

    /// Whether a session stands high enough for an act that policy allowed. Below the floor it ends.
    pub fn check_trust(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        class: ActClass,
    ) -> Result<(), IdentityError> {
        let Some(session) = principal.session() else { return Ok(()) };
        let least = {
            let tables = self.shared.read();
            let Some(settings) = tables.trust_of(principal.tenant()) else { return Ok(()) };
            if settings.asks_nothing() {
                return Ok(());
            }
            (settings.floor, settings.least(class))
        };
        let now = self.score(principal, from)?;
        if now.value < least.0 {
            self.end_now(principal.tenant(), std::slice::from_ref(session));
            return Err(IdentityError::Fallen { floor: least.0, score: now.value });
        }
        if now.value < least.1 {
            return Err(IdentityError::StepUp { factor: needed(principal, least.1, now.value) });
        }
        Ok(())
    }

    /// Verifies a session as a whole, as its holder should do every so often.
    pub async fn verify_session(&self, principal: &Principal, from: Option<IpAddr>) -> Result<Verified, IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        let settings = self.trust_of(principal.tenant());
        let verified = self.shared.write().note_verified(session, self.shared.clock.now());
        let verified = verified.ok_or(IdentityError::Unauthenticated)?;
        let store = self.store_of(principal.tenant())?;
        store.batch(vec![Op::put_json(session_at(session), &verified)?], Vec::new()).await?;
        let score = self.score(principal, from)?;
        let most = settings.invoke.max(settings.read).max(settings.change).max(settings.administer);
        let verdict = if score.value < settings.floor {
            self.end_now(principal.tenant(), std::slice::from_ref(session));
            Verdict::Ended
        } else if score.value < most {
            Verdict::StepUp
        } else {
            Verdict::Keep
        };
        Ok(Verified { verdict, score, next_seconds: settings.verify_interval_seconds })
    }

    /// Ends every session there (of one principal, or of all) that is below the floor; which ones.
    pub(crate) fn end_fallen(&self, tenant: Option<&TenantId>, of: Option<&PrincipalId>) -> Vec<SessionId> {
        let floor = self.trust_of(tenant).floor;
        let now = self.shared.now();
        let open: Vec<SessionId> = {
            let tables = self.shared.read();
            let there = tables.sessions_of(tenant, now);
            there.filter(|stored| of.is_none_or(|of| stored.principal == *of)).map(|stored| stored.id.clone()).collect()
        };
        let fallen = |id: &SessionId| self.signals(id, None).is_some_and(|signals| score(&signals).value < floor);
        let ending: Vec<SessionId> = open.into_iter().filter(fallen).collect();
        self.end_now(tenant, &ending);
        ending
    }

    fn trust_of(&self, tenant: Option<&TenantId>) -> TrustSettings {
        self.shared.read().trust_of(tenant).map_or_else(TrustSettings::unset, |settings| (**settings).clone())
    }

    /// Ends sessions in memory now, and in the store as soon as it takes it: a restart before that finds them below the
    /// floor again.
    fn end_now(&self, tenant: Option<&TenantId>, sessions: &[SessionId]) {
        self.shared.write().end(sessions);
        let ops: Vec<Op> = sessions.iter().map(|id| Op::delete(session_at(id))).collect();
        let (Some(store), false) = (self.shared.shelf.of(tenant), ops.is_empty()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(store.batch(ops, Vec::new()).await) });
        }
    }

    fn signals(&self, session: &SessionId, from: Option<IpAddr>) -> Option<Signals> {
        let now = self.shared.now();
        let tables = self.shared.read();
        let stored = tables.session(session)?;
        let settings = tables.trust_of(stored.tenant.as_ref());
        let unset = TrustSettings::unset();
        let settings = settings.map_or(&unset, |settings| settings);
        let age = |at: Timestamp| u64::try_from(now.wall.as_second().saturating_sub(at.as_second())).unwrap_or(0);
        // A token used from elsewhere than its session was opened is judged by where it is used.
        let network = from.filter(|from| !from.is_unspecified()).or(stored.source);
        let credential =
            credential_since(&tables, stored).map(|at| u32::try_from(age(at) / 86_400).unwrap_or(u32::MAX));
        let failures = self.shared.throttle().debt_of(&throttled_as(stored), now.monotonic);
        Some(Signals {
            strength: Seen { value: stored.strength, age_seconds: age(stored.issued_at) },
            posture: tables
                .posture_of(&stored.principal, now.wall)
                .map(|(value, at)| Seen { value, age_seconds: age(at) }),
            credential_days: credential,
            credential_days_max: settings.credential_days_max,
            network_seconds: network
                .and_then(|network| tables.network_since(&stored.principal, Source::of(network)))
                .map(age),
            failures_count: Some(in_steps(failures)),
            off_hours: settings.hours_utc.map(|(from, to)| off_hours(now.wall, from, to)),
            finding: tables
                .finding_about(&stored.principal, now.wall)
                .map(|(value, at)| Seen { value, age_seconds: age(at) }),
            verified_seconds: age(stored.verified_at.unwrap_or(stored.issued_at)),
            verify_interval_seconds: settings.verify_interval_seconds.into(),
            adjustment: tables.adjustment_of(&stored.principal, now.wall),
        })
    }
}

/// What would help, in words.
fn needed(principal: &Principal, least: u8, score: u8) -> String {
    let factor = match (principal.kind(), principal.strength()) {
        (PrincipalKind::Person, Strength::Passkey) => "less risk than this session shows",
        (PrincipalKind::Person, Strength::TwoFactors) => "a passkey",
        (PrincipalKind::Person, _) => "a one-time code or a passkey",
        _ => "a sign-in with a client certificate, or as a person",
    };
    format!("{factor}: a trust score of {least}, and this session has {score}")
}

fn credential_since(tables: &Tables, stored: &StoredSession) -> Option<Timestamp> {
    if let Some(key) = &stored.key {
        return tables.keys.get(key).map(|key| key.record.created_at);
    }
    let person = tables.person(&stored.principal)?;
    match stored.method {
        Method::Password => person.password.as_ref().map(|password| password.since),
        Method::Passkey => person.passkeys.iter().map(|kept| kept.added_at).min(),
        Method::Invitation => person.record.enrolled_at,
        Method::Bootstrap | Method::ApiKey | Method::ClientCertificate | Method::Federated => None,
    }
}

/// Under which name failures of this credential are counted.
fn throttled_as(stored: &StoredSession) -> String {
    stored.key.clone().unwrap_or_else(|| stored.principal.to_string())
}

fn in_steps(debt: Duration) -> u32 {
    u32::try_from(debt.as_millis().div_ceil(u128::from(SIGN_IN_FORGIVEN_MS))).unwrap_or(u32::MAX)
}

/// Hours may go over midnight: 22 to 6.
fn off_hours(now: Timestamp, from: u8, to: u8) -> OffHours {
    let hour = u8::try_from(now.to_zoned(TimeZone::UTC).hour()).unwrap_or(0);
    let within = if from <= to { (from..to).contains(&hour) } else { hour >= from || hour < to };
    if within { OffHours::Within } else { OffHours::Outside }
}
