//! Where a session stands now: the signals gathered, the score, and what follows from it.
//!
//! Must never let a session go on that fell below the floor of its place, on any path: it ends in memory at once, what
//! streams for it is cut, and only then the store is told. Nor end one that way which the record does not hear of (`fallen.rs`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ringfence_core::limits::SIGN_IN_FORGIVEN_MS;
use ringfence_core::proof::act;
use ringfence_core::{
    ActClass, Permit, PluginName, Principal, PrincipalId, PrincipalKind, SessionId, Source, Strength, TenantId,
};
use ringfence_store::{Key, Op};
use serde::{Deserialize, Serialize};

use crate::about::{place, place_of};
use crate::attestation::AttestationTrust;
use crate::devices::PostureTrust;
use crate::error::{Factor, Needed};
use crate::fallen::Fallen;
use crate::manage::{covers, finish, not_found};
use crate::record::{Method, StoredSession};
use crate::tables::Tables;
use crate::tpm::TpmTrust;
use crate::trust::{OffHours, Score, Seen, Signals, score, score_apart, score_at_most};
use crate::{Identity, IdentityError};

/// What a place asks of sessions: a tenant of its people's, the operators of their own. 0 asks for nothing.
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
    /// For how long what is proved in an open session counts, in seconds; none for as long as the session lives.
    #[serde(default)]
    pub step_up_seconds: Option<u32>,
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
    /// Who decided it, or asked for it.
    pub changed_by: Option<PrincipalId>,
    /// Who agreed, where it asked for less than before and took two people.
    #[serde(default)]
    pub approved_by: Option<PrincipalId>,
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
            step_up_seconds: None,
            credential_days_max: None,
            hours_utc: None,
            posture: PostureTrust { issuers: Vec::new(), required: Vec::new() },
            tpm: TpmTrust::none(),
            attestation: AttestationTrust::any(),
            changed_at: None,
            changed_by: None,
            approved_by: None,
        }
    }

    /// In what the next ones would ask for less than these, in words; empty where they ask for as much or more.
    pub fn weakened(&self, next: &Self) -> Vec<String> {
        let mut weakened = Vec::new();
        if self.attestation != AttestationTrust::any() && self.attestation != next.attestation {
            weakened.push("another choice of authenticators".to_owned());
        }
        // Policies read whether a device is verified, whatever scores are asked for.
        let (ours, theirs) = (&self.posture, &next.posture);
        let trusts_more = theirs.issuers.iter().any(|issuer| !ours.issuers.contains(issuer));
        if trusts_more || ours.required.iter().any(|claim| !theirs.required.contains(claim)) {
            weakened.push("claims about devices of others, or of less".to_owned());
        }
        if next.tpm != self.tpm && next.tpm.roots_count() > 0 {
            weakened.push("other TPMs".to_owned());
        }
        // Who may change factors is asked how he was proved, whatever scores are asked for.
        if self.step_up_seconds.is_some_and(|lasts| next.step_up_seconds.is_none_or(|next| next > lasts)) {
            weakened.push("steps up that count for longer".to_owned());
        }
        if self.asks_nothing() {
            return weakened;
        }
        for (what, before, after) in [
            ("floor", self.floor, next.floor),
            ("invoke", self.invoke, next.invoke),
            ("read", self.read, next.read),
            ("change", self.change, next.change),
            ("administer", self.administer, next.administer),
        ] {
            if after < before {
                weakened.push(format!("{what} from {before} to {after}"));
            }
        }
        if next.verify_interval_seconds > self.verify_interval_seconds {
            weakened.push("a longer time between verifications".to_owned());
        }
        if self.credential_days_max.is_some_and(|days| next.credential_days_max.is_none_or(|next| next > days)) {
            weakened.push("older credentials".to_owned());
        }
        let hours = |hours: Option<(u8, u8)>| (0..24).filter(move |hour| hours.is_none_or(|at| is_within(*hour, at)));
        if hours(next.hours_utc).any(|hour| hours(self.hours_utc).all(|usual| usual != hour)) {
            weakened.push("more hours of work".to_owned());
        }
        weakened
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

    /// The least score at which a session can see these settings and take them back.
    pub(crate) fn least_to_take_back(&self) -> u8 {
        self.floor.max(self.read).max(self.administer)
    }

    /// The least score for what it asks most for.
    fn most(&self) -> u8 {
        self.invoke.max(self.read).max(self.change).max(self.administer)
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
    /// It goes on, and what its place asks most for needs more of it.
    StepUp,
    /// It stands below the floor and ends: one's own was ended, another's is left to who had it judged.
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

    /// Decides what a tenant asks of sessions. In force at once: sessions below the floor end. Whether it takes two people
    /// ([`TrustSettings::weakened`]) the caller has seen to; who asked is in the settings then. `BadTrust` for what nobody could
    /// ever take back.
    pub async fn set_trust_settings(
        &self,
        permit: Permit<act::WritePolicy>,
        tenant: &TenantId,
        mut settings: TrustSettings,
    ) -> Result<TrustSettings, IdentityError> {
        covers(permit.resource(), Some(tenant))?;
        settings.posture.check()?;
        if settings.least_to_take_back() > score_at_most(self.can_verify_devices(&settings)) {
            return Err(IdentityError::BadTrust {
                why: "no session could ever stand as high as taking this back needs",
            });
        }
        let store = self.store_of(Some(tenant))?;
        settings.changed_at = Some(self.shared.clock.now());
        settings.changed_by.get_or_insert_with(|| permit.principal().clone());
        finish(store, vec![Op::put_json(trust_at(), &settings)?]).await?;
        self.shared.write().set_trust(Some(tenant.clone()), settings.clone());
        self.end_fallen(Some(tenant), None);
        Ok(settings)
    }

    /// The least scores in force for a principal.
    pub fn thresholds(&self, principal: &Principal) -> TrustSettings {
        self.trust_of(principal.tenant())
    }

    /// Where the session of a principal stands. `from` is where the request comes from.
    pub fn score(&self, principal: &Principal, from: Option<IpAddr>) -> Result<Score, IdentityError> {
        self.score_through(principal, from, None)
    }

    /// Where the session of a caller stands for a call of a plugin: what is held against the plugin counts too.
    pub fn score_of_call(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        called: (&TenantId, &PluginName),
    ) -> Result<Score, IdentityError> {
        self.score_through(principal, from, Some(called))
    }

    fn score_through(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        called: Option<(&TenantId, &PluginName)>,
    ) -> Result<Score, IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        let mut signals = self.signals(session, from, None).ok_or(IdentityError::Unauthenticated)?;
        let called =
            called.and_then(|(tenant, plugin)| format!("{tenant}/plugin/{plugin}").parse::<PrincipalId>().ok());
        if let Some(plugin) = called {
            let (delta, floor) = self.shared.read().risk_against(&plugin, self.shared.clock.now());
            signals.adjustment = signals.adjustment.saturating_add(delta);
            signals.risk_floor = signals.risk_floor.max(floor);
        }
        Ok(score(&signals))
    }

    /// Where a subject of a place stands, and in which session: of those open the one that stands lowest. Without a session,
    /// as for a plugin or the place as a whole, what is known of it apart. `NotFound` for what is of no such place, and for
    /// a name that nothing is known of unless `is_there`.
    pub fn score_of(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
        subject: &PrincipalId,
        is_there: bool,
    ) -> Result<(Option<SessionId>, Score), IdentityError> {
        covers(permit.resource(), tenant)?;
        if place(subject) != tenant.map_or(crate::OPERATOR, TenantId::as_str) {
            return Err(not_found(subject.as_str()));
        }
        let known = {
            let tables = self.shared.read();
            is_there
                || place_of(tenant).as_ref() == Some(subject)
                || tables.about(subject).is_some()
                || tables.person(subject).is_some()
                || tables.owners_of_keys(subject).next().is_some()
        };
        let lowest = self.lowest(tenant, subject);
        if lowest.0.is_none() && !known { Err(not_found(subject.as_str())) } else { Ok(lowest) }
    }

    /// Where the open sessions of a place stand.
    pub fn scores_there(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<u8>, IdentityError> {
        covers(permit.resource(), tenant)?;
        let now = self.shared.now();
        let open: Vec<SessionId> =
            self.shared.read().sessions_of(tenant, now).map(|stored| stored.id.clone()).collect();
        Ok(open.iter().filter_map(|id| self.signals(id, None, None)).map(|signals| score(&signals).value).collect())
    }

    /// Where a subject of a place stands at the lowest: for who has just said something of its risk.
    pub fn lowest_score(&self, tenant: Option<&TenantId>, subject: &PrincipalId) -> u8 {
        self.lowest(tenant, subject).1.value
    }

    /// Where a subject of a place stands at the lowest, in a session or apart from any.
    fn lowest(&self, tenant: Option<&TenantId>, subject: &PrincipalId) -> (Option<SessionId>, Score) {
        let now = self.shared.now();
        let open: Vec<SessionId> = {
            let tables = self.shared.read();
            let of_subject = tables.sessions_of(tenant, now).filter(|stored| stored.principal == *subject);
            of_subject.map(|stored| stored.id.clone()).collect()
        };
        let scored = open.into_iter().filter_map(|id| {
            let signals = self.signals(&id, None, None)?;
            Some((Some(id), score(&signals)))
        });
        scored.min_by_key(|(_, score)| score.value).unwrap_or_else(|| {
            let tables = self.shared.read();
            let (delta, floor) = tables.risk_of(subject, now.wall);
            (None, score_apart(tables.found_about(subject, now.wall), delta, floor))
        })
    }

    /// Whether a session stands high enough for an act that policy allowed. Below the floor it ends.
    pub fn check_trust(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        class: ActClass,
    ) -> Result<(), IdentityError> {
        self.check_trust_through(principal, from, class, None)
    }

    /// The same for a call of a plugin: what is held against the plugin counts too, and ends no session.
    pub fn check_call_trust(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        called: (&TenantId, &PluginName),
    ) -> Result<(), IdentityError> {
        self.check_trust_through(principal, from, ActClass::Invoke, Some(called))
    }

    fn check_trust_through(
        &self,
        principal: &Principal,
        from: Option<IpAddr>,
        class: ActClass,
        called: Option<(&TenantId, &PluginName)>,
    ) -> Result<(), IdentityError> {
        let Some(session) = principal.session() else { return Ok(()) };
        let (floor, least) = {
            let tables = self.shared.read();
            let Some(settings) = tables.trust_of(principal.tenant()) else { return Ok(()) };
            if settings.asks_nothing() || tables.is_enrolment(session) {
                return Ok(());
            }
            (settings.floor, settings.least(class))
        };
        let own = self.score(principal, from)?;
        if own.firm < floor {
            self.end_now(principal.tenant(), &[(session.clone(), own.firm)], floor, from);
            return Err(IdentityError::Fallen { floor, score: own.firm });
        }
        let now = if called.is_some() { self.score_through(principal, from, called)? } else { own };
        if now.value < least {
            return Err(IdentityError::StepUp(Needed { factor: helpful(principal), scores: Some((least, now.value)) }));
        }
        Ok(())
    }

    /// What would help a session that stands like this where its place asks for more of any act; none where it asks for no more.
    pub fn step_up_for(&self, principal: &Principal, score: u8) -> Option<Factor> {
        let tables = self.shared.read();
        let most = tables.trust_of(principal.tenant()).map_or(0, |settings| settings.most());
        let is_enrolment = principal.session().is_some_and(|session| tables.is_enrolment(session));
        (score < most && !is_enrolment).then(|| helpful(principal))
    }

    /// Verifies a session as a whole, as its holder should do every so often.
    pub async fn verify_session(&self, principal: &Principal, from: Option<IpAddr>) -> Result<Verified, IdentityError> {
        let session = principal.session().ok_or(IdentityError::Unauthenticated)?;
        let now = self.shared.clock.now();
        self.change_session(principal, |tables, session| tables.note_verified(session, now)).await?;
        let score = self.score(principal, from)?;
        let (verified, floor) = self.judged(principal.tenant(), session, score);
        if verified.verdict == Verdict::Ended {
            self.end_now(principal.tenant(), &[(session.clone(), verified.score.firm)], floor, from);
        }
        Ok(verified)
    }

    /// Looks at a session of a place again, for one who may end it. It is not verified by that, for its holder was not asked;
    /// below the floor it is to be ended, with the same permit ([`Identity::revoke_session`]). Whose it is, beside what is to
    /// become of it. `FactorState` for one that is over.
    pub fn judge_session(
        &self,
        permit: &Permit<act::RevokeToken>,
        tenant: Option<&TenantId>,
        session: &SessionId,
    ) -> Result<(PrincipalId, Verified), IdentityError> {
        covers(permit.resource(), tenant)?;
        let whose = {
            let tables = self.shared.read();
            let stored = tables.session(session).filter(|stored| stored.tenant.as_ref() == tenant);
            let stored = stored.ok_or_else(|| not_found(session.as_str()))?;
            if tables.holder_of(session, self.shared.now()).is_err() {
                return Err(IdentityError::FactorState("this session is over"));
            }
            stored.principal.clone()
        };
        let signals = self.signals(session, None, None).ok_or_else(|| not_found(session.as_str()))?;
        Ok((whose, self.judged(tenant, session, score(&signals)).0))
    }

    /// What a session that stands like this comes to, and the floor there.
    fn judged(&self, tenant: Option<&TenantId>, session: &SessionId, score: Score) -> (Verified, u8) {
        let settings = self.trust_of(tenant);
        let verdict = if self.shared.read().is_enrolment(session) {
            Verdict::Keep
        } else if score.firm < settings.floor {
            Verdict::Ended
        } else if score.value < settings.most() {
            Verdict::StepUp
        } else {
            Verdict::Keep
        };
        (Verified { verdict, score, next_seconds: settings.verify_interval_seconds }, settings.floor)
    }

    /// Ends every session there (of one principal, or of all) that is below the floor; which ones.
    pub(crate) fn end_fallen(&self, tenant: Option<&TenantId>, of: Option<&PrincipalId>) -> Vec<SessionId> {
        let now = self.shared.now();
        let open: Vec<SessionId> = {
            let tables = self.shared.read();
            let there = tables.sessions_of(tenant, now).filter(|stored| stored.method != Method::Bootstrap);
            there.filter(|stored| of.is_none_or(|of| stored.principal == *of)).map(|stored| stored.id.clone()).collect()
        };
        self.end_below_floor(tenant, open)
    }

    /// Ends every session that is below the floor of its place. To be called every so often, for what no call tells of: time
    /// alone brings a session down, and so do failed sign-ins with its credential. Looks at every session of every place that
    /// has a floor, so it is not for a thread on which requests wait.
    pub fn end_all_fallen(&self) {
        let now = self.shared.now();
        let mut open: HashMap<Option<TenantId>, Vec<SessionId>> = HashMap::new();
        {
            let tables = self.shared.read();
            let has_floor =
                |stored: &StoredSession| tables.trust_of(stored.tenant.as_ref()).is_some_and(|all| all.floor > 0);
            let under = tables.open_sessions(now).filter(|stored| has_floor(stored));
            for stored in under.filter(|stored| stored.method != Method::Bootstrap) {
                open.entry(stored.tenant.clone()).or_default().push(stored.id.clone());
            }
        }
        for (place, open) in open {
            self.end_below_floor(place.as_ref(), open);
        }
    }

    /// Ends those of these sessions of a place that are below its floor; which ones.
    fn end_below_floor(&self, tenant: Option<&TenantId>, open: Vec<SessionId>) -> Vec<SessionId> {
        let floor = self.trust_of(tenant).floor;
        let scored = open.into_iter().filter_map(|id| {
            let firm = score(&self.signals(&id, None, None)?).firm;
            Some((id, firm))
        });
        let fallen: Vec<(SessionId, u8)> = scored.filter(|(_, firm)| *firm < floor).collect();
        self.end_now(tenant, &fallen, floor, None)
    }

    pub(crate) fn trust_of(&self, tenant: Option<&TenantId>) -> TrustSettings {
        self.shared.read().trust_of(tenant).map_or_else(TrustSettings::unset, |settings| (**settings).clone())
    }

    /// Ends sessions with these scores in memory now, and in the store as soon as it takes it ([`Identity::delete_fallen`]): a
    /// restart before that finds them below the floor again, if what was said of them still holds. Those that were open still,
    /// which are to be on the record ([`Identity::take_fallen`]).
    fn end_now(
        &self,
        tenant: Option<&TenantId>,
        sessions: &[(SessionId, u8)],
        floor: u8,
        source: Option<IpAddr>,
    ) -> Vec<SessionId> {
        let ended: Vec<SessionId> = {
            let mut tables = self.shared.write();
            let fell = sessions.iter().filter_map(|(id, score)| {
                let StoredSession { id, principal, expires_at, .. } = tables.take_out(id)?;
                Some((Fallen { session: id, principal, score: *score, floor, source }, expires_at))
            });
            let fell: Vec<(Fallen, Timestamp)> = fell.collect();
            let ended = fell.iter().map(|(one, _)| one.session.clone()).collect();
            // Under the lock of the tables, so that nobody takes in between what he read of them in the store.
            self.shared.falls().end(tenant, fell, self.shared.clock.now());
            ended
        };
        if let (false, Ok(runtime)) = (ended.is_empty(), tokio::runtime::Handle::try_current()) {
            let (identity, place, ended) = (self.clone(), tenant.cloned(), ended.clone());
            runtime.spawn(async move { identity.delete_records(place.as_ref(), &ended).await });
        }
        ended
    }

    /// The signals of a session, under what its place asks or under what somebody wants it to ask.
    pub(crate) fn signals(
        &self,
        session: &SessionId,
        from: Option<IpAddr>,
        wanted: Option<&TrustSettings>,
    ) -> Option<Signals> {
        let now = self.shared.now();
        let tables = self.shared.read();
        let stored = tables.session(session)?;
        let unset = TrustSettings::unset();
        let in_force = tables.trust_of(stored.tenant.as_ref()).map(|settings| &**settings);
        let settings = wanted.or(in_force).unwrap_or(&unset);
        let age = |at: Timestamp| age(now.wall, at);
        let (own_delta, own_floor) = tables.risk_of(&stored.principal, now.wall);
        let place = place_of(stored.tenant.as_ref());
        let (delta, floor) = place.map_or((0, 0), |place| tables.risk_against(&place, now.wall));
        // A token used from elsewhere than its session was opened is judged by where it is used.
        let network = from.filter(|from| !from.is_unspecified()).or(stored.source);
        let credential =
            credential_since(&tables, stored).map(|at| u32::try_from(age(at) / 86_400).unwrap_or(u32::MAX));
        let failures = self.shared.throttle().debt_of(&throttled_as(stored), now.monotonic);
        let (strength, proved_at) = stored.proved(settings.step_up_seconds, now.wall);
        Some(Signals {
            strength: Seen { value: strength, age_seconds: age(proved_at) },
            posture: tables
                .posture_of(&stored.principal, settings, now.wall)
                .map(|(value, at)| Seen { value, age_seconds: age(at) }),
            credential_days: credential,
            credential_days_max: settings.credential_days_max,
            network_seconds: network
                .and_then(|network| tables.network_since(&stored.principal, Source::of(network)))
                .map(age),
            failures_count: Some(in_steps(failures)),
            off_hours: settings.hours_utc.map(|(from, to)| off_hours(now.wall, from, to)),
            finding: tables.found_about(&stored.principal, now.wall),
            verified_seconds: age(stored.verified_at.unwrap_or(stored.issued_at)),
            verify_interval_seconds: settings.verify_interval_seconds.into(),
            adjustment: own_delta.saturating_add(delta),
            risk_floor: own_floor.max(floor),
        })
    }
}

/// What would help this session to stand higher.
fn helpful(principal: &Principal) -> Factor {
    match (principal.kind(), principal.strength()) {
        (PrincipalKind::Person, Strength::TwoFactors) => Factor::Passkey,
        (_, Strength::Passkey | Strength::Certificate) => Factor::LessRisk,
        (PrincipalKind::Person, _) => Factor::Code,
        _ => Factor::Certificate,
    }
}

/// How long ago something was, in seconds.
pub(crate) fn age(now: Timestamp, at: Timestamp) -> u64 {
    u64::try_from(now.as_second().saturating_sub(at.as_second())).unwrap_or(0)
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
    if is_within(hour, (from, to)) { OffHours::Within } else { OffHours::Outside }
}

fn is_within(hour: u8, (from, to): (u8, u8)) -> bool {
    if from <= to { (from..to).contains(&hour) } else { hour >= from || hour < to }
}
