//! What one tenant may have: plans, overrides, and the counters that hold a tenant to them.
//!
//! Pure: whoever asks brings the time. A rate counts in token-nanoseconds, so that nothing is ever rounded; a day is a
//! UTC day. Must never let a clock that steps back, by a day at most, give a tenant anything twice; one that steps back further
//! was wrong before, and must not keep a tenant in a day that does not come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::PlanName;
use crate::limits::COMPONENT_BYTES_MAX;

/// The usual weight; twice of it is twice the share of a full host.
pub const WEIGHT_USUAL: u32 = 100;
/// LIMIT: the highest weight.
const WEIGHT_MAX: u64 = 1_000;
/// LIMIT: the shortest and the longest burst over a CPU cap (microseconds).
const BURST_US: (u64, u64) = (1_000, 60_000_000);
/// LIMIT: the highest of all other figures; larger ones lose digits in readers of JSON.
const FIGURE_MAX: u64 = 1 << 53;
/// LIMIT: the longest that ended runs are kept (ten years).
const RUN_RETENTION_DAYS_MAX: u64 = 3_650;
/// LIMIT: the least memory that lets a plugin start.
const MEMORY_BYTES_MIN: u64 = 1 << 20;
const NS_PER_SECOND: u128 = 1_000_000_000;
const NS_PER_MS: u128 = 1_000_000;

/// What a tenant may have. Every field is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Share of a full host against other tenants, 1 to 1000; 100 is usual.
    pub weight: u32,
    /// Most CPU time, in thousandths of one core; none for no cap.
    pub cpu_permille: Option<u32>,
    /// CPU time that may be spent faster than the cap after a rest, microseconds.
    pub cpu_burst_us: u64,
    /// Most invocations at once; none for as many as one tenant can have on this host.
    pub concurrency_count: Option<u32>,
    /// Most calls a second, with a burst of one second's worth.
    pub requests_per_second: u64,
    /// Most memory of all running invocations together, bytes.
    pub memory_bytes: u64,
    /// Most bytes of key-value data, configuration, secrets and components together.
    pub storage_bytes: u64,
    /// Most key-value operations a second, with a burst of one second's worth.
    pub storage_ops_per_second: u64,
    /// Most outgoing requests a UTC day.
    pub egress_requests_per_day: u64,
    /// Most bytes of bodies of outgoing requests and their answers a UTC day.
    pub egress_bytes_per_day: u64,
    /// Most bytes of guest log a UTC day.
    pub log_bytes_per_day: u64,
    /// Most events of applications on the audit log a UTC day.
    pub audit_events_per_day: u64,
    /// Most plugins.
    pub plugins_count: u64,
    /// Most bytes of one uploaded component.
    pub component_bytes: u64,
    /// How long runs of workflows are kept after their end, days.
    pub run_retention_days: u64,
}

/// What differs from a plan; what is absent is the plan's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaOverrides {
    /// See [`Quota::weight`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// See [`Quota::cpu_permille`]; a cap of all the host's cores is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u32>,
    /// See [`Quota::cpu_burst_us`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_burst_us: Option<u64>,
    /// See [`Quota::concurrency_count`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_count: Option<u32>,
    /// See [`Quota::requests_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
    /// See [`Quota::memory_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// See [`Quota::storage_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_bytes: Option<u64>,
    /// See [`Quota::storage_ops_per_second`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_ops_per_second: Option<u64>,
    /// See [`Quota::egress_requests_per_day`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_requests_per_day: Option<u64>,
    /// See [`Quota::egress_bytes_per_day`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bytes_per_day: Option<u64>,
    /// See [`Quota::log_bytes_per_day`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes_per_day: Option<u64>,
    /// See [`Quota::audit_events_per_day`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_events_per_day: Option<u64>,
    /// See [`Quota::plugins_count`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins_count: Option<u64>,
    /// See [`Quota::component_bytes`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component_bytes: Option<u64>,
    /// See [`Quota::run_retention_days`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_retention_days: Option<u64>,
}

/// What was decided for one tenant: a plan, and what differs from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuotaChoice {
    /// The plan.
    pub plan: PlanName,
    /// What differs.
    pub overrides: QuotaOverrides,
    /// Counts the changes; 0 for a tenant as it was made.
    pub version: u64,
}

impl Default for QuotaChoice {
    fn default() -> Self {
        Self { plan: PlanName::standard(), overrides: QuotaOverrides::default(), version: 0 }
    }
}

/// What the host has; a cap above it is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// Cores that guests can use.
    pub cores_count: u32,
    /// Slots that one tenant can have.
    pub slots_count: u32,
}

/// A quota that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// A figure out of its range.
    #[error("`{field}` = {value} is not possible: {min} to {max}{why}")]
    Range {
        /// Which figure.
        field: &'static str,
        /// What was given.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// Why no more, in words; may be empty.
        why: &'static str,
    },
    /// A plan of the configuration has such a figure.
    #[error("plan `{plan}`: {error}")]
    Plan {
        /// Which plan.
        plan: PlanName,
        /// What is wrong with it.
        error: Box<QuotaError>,
    },
    /// No plan of that name.
    #[error("there is no plan `{plan}`; there is {}", known.join(", "))]
    UnknownPlan {
        /// What was asked for.
        plan: PlanName,
        /// Those there are.
        known: Vec<String>,
    },
}

/// The quotas whose refusals are counted. What a cap on processor time does is no refusal: its time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaKind {
    /// Calls a second.
    Requests,
    /// Invocations at once.
    Concurrency,
    /// Memory of running invocations.
    Memory,
    /// Bytes stored.
    Storage,
    /// Key-value operations a second.
    StorageOps,
    /// Outgoing requests and their bytes a day.
    Egress,
    /// Bytes of guest log a day.
    Logs,
    /// Events of applications on the audit log a day.
    AuditEvents,
    /// Plugins.
    Plugins,
    /// Bytes of one component.
    ComponentBytes,
}

/// A quota that is used up: the same words for callers, guests and uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant's quota of {max} {what} is used up")]
pub struct Exhausted {
    /// Which.
    pub kind: QuotaKind,
    /// Of what, in the plural with its period.
    pub what: &'static str,
    /// The quota.
    pub max: u64,
    /// When it is worth trying again, milliseconds; none when waiting does not help within the day.
    pub retry_after_ms: Option<u64>,
}

/// The plans of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plans {
    plans: BTreeMap<PlanName, Quota>,
    ceiling: Ceiling,
}

/// At most so many a second, with a burst of one second's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    per_second: u64,
    /// What is left, in token-nanoseconds: a token is 10^9 of them.
    left: u128,
    /// What was never there since the rate was raised: neither left nor taken. The same unit.
    unfilled: u128,
    /// When `left` was right. INVARIANT: never goes back.
    at: Duration,
}

/// What a tenant used on one UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DayUse {
    /// The day, counted from 1970.
    pub day: i64,
    /// Outgoing requests.
    pub egress_requests_count: u64,
    /// Bytes of bodies of outgoing requests and their answers.
    pub egress_bytes: u64,
    /// Bytes of guest log.
    pub log_bytes: u64,
    /// Events of applications on the audit log.
    pub audit_events_count: u64,
}

// === impl QuotaKind ===

impl QuotaKind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Requests,
        Self::Concurrency,
        Self::Memory,
        Self::Storage,
        Self::StorageOps,
        Self::Egress,
        Self::Logs,
        Self::AuditEvents,
        Self::Plugins,
        Self::ComponentBytes,
    ];

    /// Its word in the audit log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Concurrency => "concurrency",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::StorageOps => "storage-ops",
            Self::Egress => "egress",
            Self::Logs => "logs",
            Self::AuditEvents => "audit-events",
            Self::Plugins => "plugins",
            Self::ComponentBytes => "component-bytes",
        }
    }
}

// === impl Quota ===

impl Quota {
    /// The built-in plan `standard`: generous, so that what bites first is the host itself and its fairness.
    pub const STANDARD: Self = Self {
        weight: WEIGHT_USUAL,
        cpu_permille: None,
        cpu_burst_us: 200_000,
        concurrency_count: None,
        requests_per_second: 50_000,
        memory_bytes: 4 << 30,
        storage_bytes: 10 << 30,
        storage_ops_per_second: 20_000,
        egress_requests_per_day: 1_000_000,
        egress_bytes_per_day: 100 << 30,
        log_bytes_per_day: 1 << 30,
        audit_events_per_day: 100_000,
        plugins_count: 1_000,
        component_bytes: COMPONENT_BYTES_MAX,
        run_retention_days: 30,
    };

    /// This quota with what differs.
    #[must_use]
    pub fn with(&self, overrides: &QuotaOverrides) -> Self {
        let o = overrides;
        Self {
            weight: o.weight.unwrap_or(self.weight),
            cpu_permille: o.cpu_permille.or(self.cpu_permille),
            cpu_burst_us: o.cpu_burst_us.unwrap_or(self.cpu_burst_us),
            concurrency_count: o.concurrency_count.or(self.concurrency_count),
            requests_per_second: o.requests_per_second.unwrap_or(self.requests_per_second),
            memory_bytes: o.memory_bytes.unwrap_or(self.memory_bytes),
            storage_bytes: o.storage_bytes.unwrap_or(self.storage_bytes),
            storage_ops_per_second: o.storage_ops_per_second.unwrap_or(self.storage_ops_per_second),
            egress_requests_per_day: o.egress_requests_per_day.unwrap_or(self.egress_requests_per_day),
            egress_bytes_per_day: o.egress_bytes_per_day.unwrap_or(self.egress_bytes_per_day),
            log_bytes_per_day: o.log_bytes_per_day.unwrap_or(self.log_bytes_per_day),
            audit_events_per_day: o.audit_events_per_day.unwrap_or(self.audit_events_per_day),
            plugins_count: o.plugins_count.unwrap_or(self.plugins_count),
            component_bytes: o.component_bytes.unwrap_or(self.component_bytes),
            run_retention_days: o.run_retention_days.unwrap_or(self.run_retention_days),
        }
    }

    /// Whether every figure is possible on a host that has `ceiling`.
    pub fn check(&self, ceiling: Ceiling) -> Result<(), QuotaError> {
        let within = |field, value: u64, min: u64, max: u64, why| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(QuotaError::Range { field, value, min, max, why }) }
        };
        let figure = |field, value, min| within(field, value, min, FIGURE_MAX, "");
        within("weight", self.weight.into(), 1, WEIGHT_MAX, "")?;
        if let Some(cap) = self.cpu_permille {
            let all = u64::from(ceiling.cores_count).saturating_mul(1_000);
            within("cpu_permille", cap.into(), 1, all, ", all the cores of this host")?;
        }
        within("cpu_burst_us", self.cpu_burst_us, BURST_US.0, BURST_US.1, "")?;
        if let Some(count) = self.concurrency_count {
            within(
                "concurrency_count",
                count.into(),
                1,
                ceiling.slots_count.into(),
                ", the most one tenant can have here",
            )?;
        }
        // Nothing of these at all is what suspending a tenant is for.
        figure("requests_per_second", self.requests_per_second, 1)?;
        figure("memory_bytes", self.memory_bytes, MEMORY_BYTES_MIN)?;
        figure("storage_ops_per_second", self.storage_ops_per_second, 1)?;
        figure("storage_bytes", self.storage_bytes, 0)?;
        figure("egress_requests_per_day", self.egress_requests_per_day, 0)?;
        figure("egress_bytes_per_day", self.egress_bytes_per_day, 0)?;
        figure("log_bytes_per_day", self.log_bytes_per_day, 0)?;
        figure("audit_events_per_day", self.audit_events_per_day, 0)?;
        figure("plugins_count", self.plugins_count, 0)?;
        within("component_bytes", self.component_bytes, 0, COMPONENT_BYTES_MAX, ", the limit of this host")?;
        within("run_retention_days", self.run_retention_days, 1, RUN_RETENTION_DAYS_MAX, "")
    }
}

// === impl Plans ===

impl Plans {
    /// The configured plans, each as it differs from the built-in one, and that one. Fails when a plan cannot be.
    pub fn new(configured: &BTreeMap<PlanName, QuotaOverrides>, ceiling: Ceiling) -> Result<Self, QuotaError> {
        let mut plans = BTreeMap::from([(PlanName::standard(), Quota::STANDARD)]);
        for (plan, overrides) in configured {
            let quota = Quota::STANDARD.with(overrides);
            quota.check(ceiling).map_err(|error| QuotaError::Plan { plan: plan.clone(), error: Box::new(error) })?;
            plans.insert(plan.clone(), quota);
        }
        Ok(Self { plans, ceiling })
    }

    /// What a choice comes to. Fails for a plan that there is not; figures are those that were checked when they were
    /// chosen, also when the host has become smaller since.
    pub fn effective(&self, choice: &QuotaChoice) -> Result<Quota, QuotaError> {
        let plan = self.plans.get(&choice.plan).ok_or_else(|| QuotaError::UnknownPlan {
            plan: choice.plan.clone(),
            known: self.plans.keys().map(|plan| format!("`{plan}`")).collect(),
        })?;
        Ok(plan.with(&choice.overrides))
    }

    /// What a choice comes to, if it can be made now.
    pub fn check(&self, choice: &QuotaChoice) -> Result<Quota, QuotaError> {
        let quota = self.effective(choice)?;
        quota.check(self.ceiling)?;
        Ok(quota)
    }
}

// === impl TokenBucket ===

impl TokenBucket {
    /// A full one.
    pub fn full(per_second: u64, now: Duration) -> Self {
        Self { per_second, left: u128::from(per_second).saturating_mul(NS_PER_SECOND), unfilled: 0, at: now }
    }

    /// Takes `count`, or nothing; the error is how many milliseconds until there is enough, at this rate.
    pub fn take(&mut self, count: u64, now: Duration) -> Result<(), u64> {
        self.refill(now);
        let cost = u128::from(count).saturating_mul(NS_PER_SECOND);
        if let Some(left) = self.left.checked_sub(cost) {
            self.left = left;
            return Ok(());
        }
        let missing = cost.saturating_sub(self.left);
        let wait_ns = missing.div_ceil(u128::from(self.per_second.max(1)));
        Err(u64::try_from(wait_ns.div_ceil(NS_PER_MS)).unwrap_or(u64::MAX).max(1))
    }

    /// Goes on with another rate from now on.
    pub fn set_rate(&mut self, per_second: u64, now: Duration) {
        self.refill(now);
        let taken = self.missing();
        self.per_second = per_second;
        self.left = self.left.min(self.capacity());
        self.unfilled = 0;
        self.unfilled = self.missing().saturating_sub(taken);
    }

    /// How many are taken of one second's worth.
    pub fn taken(&mut self, now: Duration) -> u64 {
        self.refill(now);
        u64::try_from(self.missing().div_ceil(NS_PER_SECOND)).unwrap_or(u64::MAX)
    }

    /// What was taken and did not come back yet.
    fn missing(&self) -> u128 {
        self.capacity().saturating_sub(self.left).saturating_sub(self.unfilled)
    }

    fn capacity(&self) -> u128 {
        u128::from(self.per_second).saturating_mul(NS_PER_SECOND)
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        self.left = self.left.saturating_add(passed.saturating_mul(u128::from(self.per_second))).min(self.capacity());
        self.unfilled = self.unfilled.min(self.capacity().saturating_sub(self.left));
    }
}

// === impl DayUse ===

impl DayUse {
    /// Begins anew when `day` is a later one. A clock that steps back into the day before stays in the day it was in; after a
    /// larger step that day may be far, so the counts go on in the day that the clock now says.
    pub fn turn(&mut self, day: i64) {
        if day > self.day {
            *self = Self { day, ..Self::default() };
        } else if day < self.day.saturating_sub(1) {
            self.day = day;
        }
    }
}

/// Adds to a count without passing `max`; says whether it did.
pub fn add_within(count: &mut u64, add: u64, max: u64) -> bool {
    match count.checked_add(add).filter(|sum| *sum <= max) {
        Some(sum) => {
            *count = sum;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: Ceiling = Ceiling { cores_count: 2, slots_count: 128 };

    fn plans(text: &str) -> Result<Plans, QuotaError> {
        Plans::new(&toml::from_str(text).unwrap(), HOST)
    }

    fn choice(plan: &str, overrides: QuotaOverrides) -> QuotaChoice {
        QuotaChoice { plan: plan.parse().unwrap(), overrides, version: 0 }
    }

    #[test]
    fn overrides_win_over_the_plan_and_the_plan_over_the_built_in_one() {
        let plans = plans("[free]\nweight = 10\nplugins_count = 2\n").unwrap();
        let quota = plans.check(&choice("free", QuotaOverrides { plugins_count: Some(5), ..Default::default() }));
        let quota = quota.unwrap();
        assert_eq!((quota.weight, quota.plugins_count), (10, 5));
        assert_eq!(quota.storage_bytes, Quota::STANDARD.storage_bytes);
        assert_eq!(plans.check(&QuotaChoice::default()).unwrap(), Quota::STANDARD);
    }

    #[test]
    fn what_cannot_be_is_said_with_its_range() {
        for (overrides, text) in [
            (QuotaOverrides { weight: Some(0), ..Default::default() }, "`weight` = 0 is not possible: 1 to 1000"),
            (
                QuotaOverrides { cpu_permille: Some(2_001), ..Default::default() },
                "`cpu_permille` = 2001 is not possible: 1 to 2000, all the cores of this host",
            ),
            (
                QuotaOverrides { concurrency_count: Some(129), ..Default::default() },
                "`concurrency_count` = 129 is not possible: 1 to 128, the most one tenant can have here",
            ),
            (
                QuotaOverrides { run_retention_days: Some(0), ..Default::default() },
                "`run_retention_days` = 0 is not possible: 1 to 3650",
            ),
            (
                QuotaOverrides { component_bytes: Some(COMPONENT_BYTES_MAX + 1), ..Default::default() },
                "`component_bytes` = 67108865 is not possible: 0 to 67108864, the limit of this host",
            ),
        ] {
            let plans = plans("").unwrap();
            let error = plans.check(&choice("standard", overrides)).unwrap_err();
            assert_eq!(error.to_string(), text);
            // A host that has become smaller still starts.
            assert!(plans.effective(&choice("standard", overrides)).is_ok());
        }
        let error = plans("[free]\nrequests_per_second = 0\n").unwrap_err().to_string();
        assert!(error.starts_with("plan `free`: `requests_per_second` = 0"), "{error}");
        let error = plans("[free]\n").unwrap().check(&choice("gold", QuotaOverrides::default())).unwrap_err();
        assert_eq!(error.to_string(), "there is no plan `gold`; there is `free`, `standard`");
    }

    #[test]
    fn a_misspelt_figure_is_an_error() {
        assert!(serde_json::from_str::<QuotaOverrides>(r#"{"wieght":1}"#).is_err());
        assert!(serde_json::from_str::<QuotaOverrides>("{}").is_ok());
    }

    #[test]
    fn a_wait_that_is_told_is_long_enough_and_not_much_longer() {
        let mut bucket = TokenBucket::full(3, Duration::ZERO);
        assert!(bucket.take(3, Duration::ZERO).is_ok());
        let wait = bucket.take(1, Duration::ZERO).unwrap_err();
        assert_eq!(wait, 334);
        assert!(bucket.take(1, Duration::from_millis(333)).is_err());
        assert!(bucket.take(1, Duration::from_millis(334)).is_ok());
    }

    #[test]
    fn a_new_rate_counts_from_now() {
        let mut bucket = TokenBucket::full(1, Duration::ZERO);
        assert!(bucket.take(1, Duration::ZERO).is_ok());
        bucket.set_rate(1_000, Duration::ZERO);
        assert!(bucket.take(1, Duration::ZERO).is_err(), "what was not there is not made up");
        assert!(bucket.take(10, Duration::from_millis(10)).is_ok());
        bucket.set_rate(2, Duration::from_secs(60));
        assert_eq!(bucket.taken(Duration::from_secs(60)), 0);
        assert!(bucket.take(3, Duration::from_secs(60)).is_err());
    }

    #[test]
    fn what_a_raised_rate_has_not_filled_yet_is_not_taken() {
        let mut bucket = TokenBucket::full(1, Duration::ZERO);
        bucket.set_rate(50_000, Duration::ZERO);
        assert_eq!(bucket.taken(Duration::ZERO), 0);
        assert_eq!(bucket.taken(Duration::from_millis(20)), 0);
        assert!(bucket.take(10, Duration::from_millis(20)).is_ok());
        assert_eq!(bucket.taken(Duration::from_millis(20)), 10);
        assert_eq!(bucket.taken(Duration::from_secs(2)), 0);
        // What was taken before the rate was raised, or lowered, stays so until it comes back.
        let mut bucket = TokenBucket::full(4, Duration::ZERO);
        assert!(bucket.take(3, Duration::ZERO).is_ok());
        bucket.set_rate(1_000, Duration::ZERO);
        assert_eq!(bucket.taken(Duration::ZERO), 3);
        assert!(bucket.take(2, Duration::ZERO).is_err());
        bucket.set_rate(2, Duration::ZERO);
        assert_eq!(bucket.taken(Duration::ZERO), 1, "one is left of two");
        assert!(bucket.take(1, Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_day_that_comes_again_goes_on_where_it_was() {
        let mut used = DayUse::default();
        used.turn(5);
        assert!(add_within(&mut used.log_bytes, 10, 10));
        assert!(!add_within(&mut used.log_bytes, 1, 10));
        used.turn(4);
        assert_eq!((used.day, used.log_bytes), (5, 10));
        used.turn(6);
        assert_eq!((used.day, used.log_bytes), (6, 0));
        // A clock that was far ahead: what was used then counts for the day that it comes back to, and for no other.
        used.turn(400);
        assert!(add_within(&mut used.log_bytes, 10, 10));
        used.turn(398);
        assert_eq!((used.day, used.log_bytes), (398, 10));
        used.turn(7);
        assert_eq!((used.day, used.log_bytes), (7, 10));
        used.turn(7);
        used.turn(6);
        assert_eq!((used.day, used.log_bytes), (7, 10));
        used.turn(8);
        assert_eq!((used.day, used.log_bytes), (8, 0));
        used.turn(i64::MIN);
        used.turn(i64::MAX);
        assert_eq!(used.day, i64::MAX);
    }

    proptest! {
        /// Over every window, whatever the clock does: never more than the rate times the time, and one second's worth.
        #[test]
        fn a_bucket_never_gives_more_than_its_rate_and_its_burst(
            rate in 1_u64..2_000,
            steps in prop::collection::vec((-500_i64..2_000, 1_u64..50), 1..200),
        ) {
            let start = Duration::from_secs(10);
            let mut bucket = TokenBucket::full(rate, start);
            let (mut clock, mut latest) = (start.as_millis() as i64, start.as_millis() as i64);
            let mut given: Vec<(i64, u64)> = Vec::new();
            for (step, count) in steps {
                clock = (clock + step).max(0);
                latest = latest.max(clock);
                if bucket.take(count, Duration::from_millis(clock as u64)).is_ok() {
                    given.push((latest, count));
                }
            }
            for from in 0..given.len() {
                let mut sum = 0_u128;
                for (at, count) in &given[from..] {
                    sum += u128::from(*count);
                    let passed_ms = (at - given[from].0) as u128;
                    prop_assert!(sum * 1_000 <= u128::from(rate) * (passed_ms + 1_000));
                }
            }
        }

        /// And never less: who asks for no more than the rate, evenly, is never refused.
        #[test]
        fn a_steady_caller_within_the_rate_is_never_refused(rate in 1_u64..1_000) {
            let mut bucket = TokenBucket::full(rate, Duration::ZERO);
            for number in 0..5 * rate {
                let now = Duration::from_nanos(number * 1_000_000_000 / rate + 1);
                prop_assert!(bucket.take(1, now).is_ok());
            }
        }
    }
}
