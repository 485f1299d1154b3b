//! Responses: what can be held against whom, for how long, whom it touches, and the table that admission reads.
//!
//! Pure. Must never let a tenant hold anything that is not its own, nor hold without an end, nor let one person stop a whole
//! tenant, nor lock a tenant out over an address that many share: a source is blocked only where its owner lets that be done, only if few others were seen
//! behind it, and never for those who have signed in.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ringfence_core::limits::ACCESS_TOKEN_SECONDS;
use ringfence_core::standing::{Hold, Pace, Table};
use ringfence_core::{Digest, PluginName, PrincipalId, Source, TenantId};
use serde::{Deserialize, Serialize};

use crate::ThreatError;

/// LIMIT: shortest end of sessions, in minutes: longer than any of them lives, so that none is good again after it.
const SESSIONS_MINUTES_MIN: u32 = (ACCESS_TOKEN_SECONDS as u32).div_ceil(60) + 1;
/// LIMIT: longest response, in minutes: a week.
pub const MINUTES_MAX: u32 = 10_080;
/// LIMIT: longest response that a rule makes by itself, in minutes: a day.
pub const AUTOMATIC_MINUTES_MAX: u32 = 1_440;
/// LIMIT: responses in force of one owner.
pub const IN_FORCE_COUNT_MAX: usize = 512;
/// LIMIT: responses of one owner that are over and still kept; the oldest go first. What they were is on the log.
pub const OVER_COUNT_MAX: usize = 256;
/// LIMIT: sources blocked at once by one owner.
pub const BLOCKED_COUNT_MAX: usize = 64;
/// How many others may have been seen behind a source that is blocked.
pub const OTHERS_BEHIND_COUNT_MAX: usize = 1;
/// How long one person's word waits for another's, in hours.
const WAITING_HOURS: i64 = 24;
/// LIMIT: longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1_024;
/// LIMIT: longest id of a finding, in bytes.
const FINDING_BYTES_MAX: usize = 64;

/// Whose a rule, a finding, a response or an incident is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "tenant")]
pub enum Scope {
    /// The operators'.
    Host,
    /// A tenant's.
    Tenant(TenantId),
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A principal is held to a pace.
    RateLimit,
    /// Requests without a session are not taken from an address.
    BlockSource,
    /// A principal's sessions are over; it may sign in again. Taken back, those that would live still are good again.
    EndSessions,
    /// A principal may do nothing.
    SuspendPrincipal,
    /// A component is not run.
    QuarantineVersion,
    /// A plugin, or all of a tenant, send nothing out.
    FreezeEgress,
    /// Nothing of a tenant is changed.
    ReadOnly,
    /// A tenant's keys are disabled.
    DisableKey,
    /// The owner's channels tell people of it.
    Alert,
}

/// What a rule suggests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Suggested {
    /// What is done.
    pub kind: Kind,
    /// For how long.
    pub minutes: u32,
    /// The pace of a rate limit.
    pub per_minute: Option<u32>,
}

/// Against whom or what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Whose thing it is; none for all tenants, or for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<PrincipalId>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The component's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Which plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginName>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What is done.
    pub kind: Kind,
    /// Against what.
    pub target: Target,
    /// For how long.
    pub minutes: u32,
    /// The pace of a rate limit.
    pub per_minute: Option<u32>,
    /// Why.
    pub reason: String,
    /// The finding it answers.
    pub finding: Option<String>,
    /// The drill it is part of.
    pub drill: Option<String>,
}

/// A response that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Its id.
    pub id: String,
    /// Whose.
    pub scope: Scope,
    /// What is done.
    pub kind: Kind,
    /// Against what.
    pub target: Target,
    /// The pace of a rate limit.
    pub per_minute: Option<u32>,
    /// Why.
    pub reason: String,
    /// The finding it answers.
    pub finding: Option<String>,
    /// Who made it; the host itself, when a rule did.
    pub by: PrincipalId,
    /// When; where it took two people, when the second agreed.
    pub made_at: Timestamp,
    /// When it ends; while it waits, when it waits no longer.
    pub until: Timestamp,
    /// For how many minutes it will hold once another person agrees; none for one that waits for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_minutes: Option<u32>,
    /// Who agreed, where it took two people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<PrincipalId>,
    /// When it was taken back, and by whom.
    pub undone: Option<(Timestamp, PrincipalId)>,
    /// Whether its end has been carried out, where that takes an act.
    pub ended: bool,
    /// The drill it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<String>,
}

/// Whom a response touches, as far as that is known before it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blast {
    /// Principals that it touches, by what was seen in the last day.
    pub principals: Vec<String>,
    /// Their recorded acts in the last day.
    pub acts_count: u64,
    /// What can be said of it in words, such as what is not known.
    pub notes: Vec<String>,
}

// === impl Scope ===

impl Scope {
    /// The label of the log it is about.
    pub fn log(&self) -> &str {
        match self {
            Self::Host => crate::HOST_LOG,
            Self::Tenant(tenant) => tenant.as_str(),
        }
    }

    /// The tenant; none for the host.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Host => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::RateLimit,
        Self::BlockSource,
        Self::EndSessions,
        Self::SuspendPrincipal,
        Self::QuarantineVersion,
        Self::FreezeEgress,
        Self::ReadOnly,
        Self::DisableKey,
        Self::Alert,
    ];

    /// The word in rules, the API and the audit log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::RateLimit => "rate-limit",
            Self::BlockSource => "block-source",
            Self::EndSessions => "end-sessions",
            Self::SuspendPrincipal => "suspend-principal",
            Self::QuarantineVersion => "quarantine-version",
            Self::FreezeEgress => "freeze-egress",
            Self::ReadOnly => "read-only",
            Self::DisableKey => "disable-key",
            Self::Alert => "alert",
        }
    }

    /// Whether a response of it is on the host's log, whoever's it is, from its beginning to its end: its owner's closes with
    /// the keys.
    pub const fn is_on_hosts_log(self) -> bool {
        matches!(self, Self::DisableKey)
    }

    /// For how many minutes it holds at least.
    pub const fn minutes_min(self) -> u32 {
        match self {
            Self::EndSessions => SESSIONS_MINUTES_MIN,
            _ => 1,
        }
    }

    /// The kind of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

// === impl Asked ===

impl Asked {
    /// Checks that this is something its owner may ask for, against something of its own, and completes the target.
    pub fn check(mut self, scope: &Scope, by: &PrincipalId) -> Result<Self, ThreatError> {
        let wrong = |what: &str| Err(ThreatError::BadResponse { what: format!("`{}` {what}", self.kind.word()) });
        let least = self.kind.minutes_min();
        if !(least..=MINUTES_MAX).contains(&self.minutes) {
            return wrong(&format!("lasts {least} to {MINUTES_MAX} minutes"));
        }
        if self.reason.trim().is_empty() || self.reason.len() > REASON_BYTES_MAX {
            return wrong(&format!("needs a reason of at most {REASON_BYTES_MAX} bytes"));
        }
        if self.finding.as_ref().is_some_and(|id| id.len() > FINDING_BYTES_MAX) {
            return wrong(&format!("names the finding it answers by an id of at most {FINDING_BYTES_MAX} bytes"));
        }
        if let Some(own) = scope.tenant() {
            if self.target.tenant.as_ref().is_some_and(|tenant| tenant != own) {
                return Err(ThreatError::NotFound);
            }
            self.target.tenant = Some(own.clone());
        }
        let target = &self.target;
        match self.kind {
            Kind::RateLimit | Kind::EndSessions | Kind::SuspendPrincipal => {
                let Some(principal) = &target.principal else { return wrong("needs a principal") };
                let home = principal.as_str().split_once('/').map(|(home, _)| home);
                if scope.tenant().is_some_and(|own| home != Some(own.as_str())) {
                    return Err(ThreatError::NotFound);
                }
                if home.is_none() {
                    return wrong("needs a principal that signs in");
                }
                if principal == by {
                    return wrong("is not for oneself");
                }
                if self.kind == Kind::RateLimit && !self.per_minute.is_some_and(|pace| (1..=1_000_000).contains(&pace))
                {
                    return wrong("needs a pace of 1 to 1000000 a minute");
                }
            }
            Kind::BlockSource if target.source.is_none() => return wrong("needs a source"),
            Kind::QuarantineVersion if target.digest.is_none() => return wrong("needs the digest of a component"),
            Kind::FreezeEgress | Kind::ReadOnly | Kind::DisableKey if target.tenant.is_none() => {
                return wrong("needs a tenant");
            }
            _ => {}
        }
        Ok(self)
    }

    /// Whether it takes two people: what stops a whole tenant, or a component for all of them.
    pub fn takes_two(&self, scope: &Scope) -> bool {
        match self.kind {
            Kind::DisableKey => true,
            Kind::QuarantineVersion => *scope == Scope::Host && self.target.tenant.is_none(),
            _ => false,
        }
    }
}

// === impl Response ===

impl Response {
    /// Whether it holds at a moment.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.waits_minutes.is_none() && self.undone.is_none() && now < self.until
    }

    /// Whether it waits for another person at a moment.
    pub fn is_waiting(&self, now: Timestamp) -> bool {
        self.waits_minutes.is_some() && self.undone.is_none() && now < self.until
    }

    /// How one that holds no more ended, as an owner may know it: by their names operators are known to operators.
    pub(crate) fn how_it_ended(&self, to: &Scope) -> String {
        match (&self.undone, self.waits_minutes) {
            (Some((at, by)), _) => {
                let is_theirs = to.tenant().is_none_or(|own| by.as_str().split('/').next() == Some(own.as_str()));
                let by = if is_theirs { format!("`{by}`") } else { "an operator".to_owned() };
                format!("{by} took it back at {at}")
            }
            (None, Some(_)) => format!("nobody agreed to it until {}", self.until),
            (None, None) => format!("it was over at {}", self.until),
        }
    }

    /// Makes one of what was asked for. One that takes two people waits for the second, and holds nothing until then.
    pub fn new(id: String, scope: Scope, asked: Asked, by: PrincipalId, now: Timestamp) -> Result<Self, ThreatError> {
        let waits_minutes = asked.takes_two(&scope).then_some(asked.minutes);
        let until = match waits_minutes {
            Some(_) => later(now, SignedDuration::from_hours(WAITING_HOURS))?,
            None => later(now, SignedDuration::from_mins(asked.minutes.into()))?,
        };
        let Asked { kind, target, per_minute, reason, finding, drill, .. } = asked;
        Ok(Self {
            drill,
            id,
            scope,
            kind,
            target,
            per_minute,
            reason,
            finding,
            by,
            made_at: now,
            until,
            waits_minutes,
            approved_by: None,
            undone: None,
            ended: false,
        })
    }

    /// The same with the second person's word: it holds from now on. The caller has seen to it that they are two.
    pub fn approved(mut self, by: PrincipalId, now: Timestamp) -> Result<Self, ThreatError> {
        let minutes = self.waits_minutes.take().ok_or(ThreatError::NotFound)?;
        self.until = later(now, SignedDuration::from_mins(minutes.into()))?;
        self.made_at = now;
        self.approved_by = Some(by);
        Ok(self)
    }
}

fn later(now: Timestamp, span: SignedDuration) -> Result<Timestamp, ThreatError> {
    now.checked_add(span).map_err(|_| ThreatError::BadResponse { what: "its end cannot be told".to_owned() })
}

/// The table of everything that holds now. Where two hold the same, the later end wins.
pub fn table<'a>(responses: impl Iterator<Item = &'a Response>, now: Timestamp) -> Table {
    let mut in_force: Vec<&Response> = responses.filter(|response| response.is_in_force(now)).collect();
    in_force.sort_by_key(|response| response.until);
    let mut table = Table::default();
    for response in in_force {
        let hold = Hold { id: response.id.clone(), until: response.until };
        let target = response.target.clone();
        match (response.kind, target) {
            (Kind::RateLimit, Target { principal: Some(principal), .. }) => {
                table.paces.insert(principal, Arc::new(Pace::new(hold, response.per_minute.unwrap_or(60))));
            }
            (Kind::BlockSource, Target { tenant, source: Some(source), .. }) => {
                table.sources.insert((tenant, Source::of(source)), hold);
            }
            (Kind::EndSessions, Target { principal: Some(principal), .. }) => {
                table.ended.insert(principal, (response.made_at, hold));
            }
            (Kind::SuspendPrincipal, Target { principal: Some(principal), .. }) => {
                table.suspended.insert(principal, hold);
            }
            (Kind::QuarantineVersion, Target { tenant, digest: Some(digest), .. }) => {
                table.quarantined.insert((tenant, digest), hold);
            }
            (Kind::FreezeEgress, Target { tenant: Some(tenant), plugin, .. }) => {
                table.frozen.insert((tenant, plugin), hold);
            }
            (Kind::ReadOnly, Target { tenant: Some(tenant), .. }) => {
                table.read_only.insert(tenant, hold);
            }
            // Carried out by the store, or by the owner's channels, which read of it on the log.
            _ => {}
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: Kind, target: Target) -> Asked {
        Asked { kind, target, minutes: 10, per_minute: Some(60), reason: "r".into(), finding: None, drill: None }
    }

    fn principal(name: &str) -> Target {
        Target { principal: Some(name.parse().unwrap()), ..Target::default() }
    }

    #[test]
    fn a_tenant_holds_only_what_is_its_own() {
        let (acme, by) = (Scope::Tenant("acme".parse().unwrap()), "acme/admin".parse().unwrap());
        for (target, fine) in
            [(principal("acme/dev"), true), (principal("globex/dev"), false), (principal("operator/ada"), false)]
        {
            let checked = asked(Kind::SuspendPrincipal, target).check(&acme, &by);
            assert_eq!(checked.is_ok(), fine);
            assert!(fine || matches!(checked, Err(ThreatError::NotFound)));
        }
        let other = Target { tenant: Some("globex".parse().unwrap()), ..Target::default() };
        assert!(matches!(asked(Kind::ReadOnly, other).check(&acme, &by), Err(ThreatError::NotFound)));
        let own = asked(Kind::ReadOnly, Target::default()).check(&acme, &by).unwrap();
        assert_eq!(own.target.tenant.unwrap().as_str(), "acme");
    }

    #[test]
    fn nobody_locks_himself_out_and_nothing_is_held_for_good() {
        let by: PrincipalId = "operator/ada".parse().unwrap();
        assert!(asked(Kind::SuspendPrincipal, principal("operator/ada")).check(&Scope::Host, &by).is_err());
        assert!(asked(Kind::SuspendPrincipal, principal("anonymous")).check(&Scope::Host, &by).is_err());
        for minutes in [0, MINUTES_MAX + 1] {
            let forever = Asked { minutes, ..asked(Kind::SuspendPrincipal, principal("acme/dev")) };
            assert!(forever.check(&Scope::Host, &by).is_err());
        }
        for (bytes, fits) in [(FINDING_BYTES_MAX, true), (FINDING_BYTES_MAX + 1, false)] {
            let finding = Some("f".repeat(bytes));
            let answer = Asked { finding, ..asked(Kind::SuspendPrincipal, principal("acme/dev")) };
            assert_eq!(answer.check(&Scope::Host, &by).is_ok(), fits, "a finding named by {bytes} bytes");
        }
        assert!(asked(Kind::ReadOnly, Target::default()).check(&Scope::Host, &by).is_err(), "which tenant");
    }

    #[test]
    fn sessions_that_were_ended_are_not_good_again_after_the_end_of_that() {
        let (by, second): (PrincipalId, i64) = ("operator/ada".parse().unwrap(), 1_000);
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let end = |minutes| Asked { minutes, ..asked(Kind::EndSessions, principal("acme/dev")) };
        let least = Kind::EndSessions.minutes_min();
        assert!(end(least - 1).check(&Scope::Host, &by).is_err());
        let asked = end(least).check(&Scope::Host, &by).unwrap();
        let made = Response::new("a".into(), Scope::Host, asked, by, at(second)).unwrap();
        // The last moment at which a session of before lives.
        let last = at(second + ACCESS_TOKEN_SECONDS);
        assert!(made.is_in_force(last) && table([&made].into_iter(), last).ended.len() == 1);
    }

    #[test]
    fn what_takes_two_people_holds_nothing_before_the_second_agreed_and_its_time_begins_then() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let digest =
            Target { digest: Some(format!("sha256:{}", "a".repeat(64)).parse().unwrap()), ..Target::default() };
        let everywhere = asked(Kind::QuarantineVersion, digest.clone());
        let one = Target { tenant: Some("acme".parse().unwrap()), ..digest };
        assert!(!asked(Kind::QuarantineVersion, one).takes_two(&Scope::Host));
        assert!(!everywhere.takes_two(&Scope::Tenant("acme".parse().unwrap())));
        assert!(asked(Kind::DisableKey, Target::default()).takes_two(&Scope::Tenant("acme".parse().unwrap())));
        let by: PrincipalId = "operator/ada".parse().unwrap();
        let waiting = Response::new("a".into(), Scope::Host, everywhere, by, at(1_000)).unwrap();
        assert!(waiting.is_waiting(at(1_001)) && !waiting.is_in_force(at(1_001)));
        assert!(table([&waiting].into_iter(), at(1_001)).quarantined.is_empty());
        assert!(!waiting.is_waiting(at(1_000 + 86_400)), "nobody waits for ever");
        let made = waiting.approved("operator/bob".parse().unwrap(), at(5_000)).unwrap();
        assert_eq!((made.made_at, made.until), (at(5_000), at(5_600)));
        assert_eq!(table([&made].into_iter(), at(5_001)).quarantined.len(), 1);
        assert!(matches!(made.approved("operator/bob".parse().unwrap(), at(5_001)), Err(ThreatError::NotFound)));
    }

    #[test]
    fn what_is_over_or_taken_back_is_not_in_the_table() {
        let now = Timestamp::from_second(1_000).unwrap();
        let by: PrincipalId = "operator/ada".parse().unwrap();
        let make = |id: &str| {
            Response::new(id.into(), Scope::Host, asked(Kind::SuspendPrincipal, principal("acme/dev")), by.clone(), now)
                .unwrap()
        };
        let undone = Response { undone: Some((now, by.clone())), ..make("a") };
        assert!(table([&undone].into_iter(), now).suspended.is_empty());
        assert_eq!(table([&undone, &make("b")].into_iter(), now).suspended.len(), 1);
        let later = Timestamp::from_second(1_000 + 600).unwrap();
        assert!(table([&make("b")].into_iter(), later).suspended.is_empty());
    }

    #[test]
    fn what_ended_says_how_and_names_operators_to_operators_alone() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let acme = Scope::Tenant("acme".parse().unwrap());
        let asked = asked(Kind::SuspendPrincipal, principal("acme/dev"));
        let ends = Response::new("r".into(), acme.clone(), asked, "acme/admin".parse().unwrap(), now).unwrap();
        assert_eq!(ends.how_it_ended(&acme), "it was over at 2026-11-22T12:10:00Z");
        let waited = Response { waits_minutes: Some(10), ..ends.clone() };
        assert_eq!(waited.how_it_ended(&acme), "nobody agreed to it until 2026-11-22T12:10:00Z");
        let by = |who: &str| Response { undone: Some((now, who.parse().unwrap())), ..ends.clone() };
        assert_eq!(by("acme/ann").how_it_ended(&acme), "`acme/ann` took it back at 2026-11-22T12:00:00Z");
        assert_eq!(by("operator/ada").how_it_ended(&acme), "an operator took it back at 2026-11-22T12:00:00Z");
        assert_eq!(
            by("operator/ada").how_it_ended(&Scope::Host),
            "`operator/ada` took it back at 2026-11-22T12:00:00Z"
        );
    }
}
