//! What a plugin used over a UTC day, as a sum; and the day itself.
//!
//! Pure. A figure that is added here must be added in [`UsageSum::figures`] too, which is what receipts are made from.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use ringfence_core::{Blame, budget};
use serde::{Deserialize, Serialize};

use crate::metering::InvocationRecord;

const DAY_SECONDS: i64 = 86_400;
/// The figure that is a peak: of several the highest counts, not their sum.
pub const PEAK: &str = "memory_bytes_peak";

/// Sums of one plugin over one UTC day. Rows from before a field was counted read as zero there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageSum {
    /// Invocations.
    pub invocations_count: u64,
    /// Of these, answers that were not the guest's own.
    pub failures_count: u64,
    /// Of these, by the caller's fault.
    pub failures_by_caller_count: u64,
    /// By the plugin's.
    pub failures_by_plugin_count: u64,
    /// By the host's.
    pub failures_by_host_count: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Wall time, microseconds.
    pub wall_us: u64,
    /// Highest memory of one invocation, bytes.
    pub memory_bytes_peak: u64,
    /// Memory held over time, byte-microseconds.
    #[serde(with = "budget::decimal")]
    pub memory_byte_us: u128,
    /// Bytes of requests' bodies.
    pub request_bytes: u64,
    /// Bytes answered.
    pub response_bytes: u64,
    /// Bytes of guest log.
    pub log_bytes: u64,
    /// Host calls.
    pub host_calls_count: u64,
    /// Outgoing requests.
    pub outgoing_count: u64,
    /// Bytes of bodies sent with outgoing requests.
    pub egress_out_bytes: u64,
    /// Bytes of bodies received in answer to outgoing requests.
    pub egress_in_bytes: u64,
    /// Operations on stored values.
    pub storage_ops_count: u64,
    /// Stored bytes held over time, byte-microseconds.
    #[serde(with = "budget::decimal")]
    pub storage_byte_us: u128,
}

impl UsageSum {
    /// The sum of one invocation.
    pub(crate) fn of(record: &InvocationRecord) -> Self {
        let usage = &record.usage;
        let blamed = |blame: Blame| u64::from(record.blame == Some(blame));
        Self {
            invocations_count: 1,
            failures_count: u64::from(record.code.is_some()),
            failures_by_caller_count: blamed(Blame::Caller),
            failures_by_plugin_count: blamed(Blame::Plugin),
            failures_by_host_count: blamed(Blame::Host),
            cpu_us: usage.cpu_us,
            wall_us: usage.wall_us,
            memory_bytes_peak: usage.memory_bytes_peak,
            memory_byte_us: usage.memory_byte_us,
            request_bytes: usage.request_bytes,
            response_bytes: usage.response_bytes,
            log_bytes: usage.log_bytes,
            host_calls_count: usage.host_calls_count,
            outgoing_count: usage.outgoing_count,
            egress_out_bytes: usage.egress_out_bytes,
            egress_in_bytes: usage.egress_in_bytes,
            storage_ops_count: usage.storage_ops_count,
            storage_byte_us: 0,
        }
    }

    /// Adds another sum; peaks take the higher.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.invocations_count, other.invocations_count),
            (&mut self.failures_count, other.failures_count),
            (&mut self.failures_by_caller_count, other.failures_by_caller_count),
            (&mut self.failures_by_plugin_count, other.failures_by_plugin_count),
            (&mut self.failures_by_host_count, other.failures_by_host_count),
            (&mut self.cpu_us, other.cpu_us),
            (&mut self.wall_us, other.wall_us),
            (&mut self.request_bytes, other.request_bytes),
            (&mut self.response_bytes, other.response_bytes),
            (&mut self.log_bytes, other.log_bytes),
            (&mut self.host_calls_count, other.host_calls_count),
            (&mut self.outgoing_count, other.outgoing_count),
            (&mut self.egress_out_bytes, other.egress_out_bytes),
            (&mut self.egress_in_bytes, other.egress_in_bytes),
            (&mut self.storage_ops_count, other.storage_ops_count),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        self.memory_byte_us = self.memory_byte_us.saturating_add(other.memory_byte_us);
        self.storage_byte_us = self.storage_byte_us.saturating_add(other.storage_byte_us);
        self.memory_bytes_peak = self.memory_bytes_peak.max(other.memory_bytes_peak);
    }

    /// All of several.
    pub fn total<'a>(sums: impl IntoIterator<Item = &'a Self>) -> Self {
        sums.into_iter().fold(Self::default(), |mut total, sum| {
            total.add(sum);
            total
        })
    }

    /// Every figure by its name.
    pub fn figures(&self) -> [(&'static str, u128); 18] {
        [
            ("invocations_count", self.invocations_count.into()),
            ("failures_count", self.failures_count.into()),
            ("failures_by_caller_count", self.failures_by_caller_count.into()),
            ("failures_by_plugin_count", self.failures_by_plugin_count.into()),
            ("failures_by_host_count", self.failures_by_host_count.into()),
            ("cpu_us", self.cpu_us.into()),
            ("wall_us", self.wall_us.into()),
            (PEAK, self.memory_bytes_peak.into()),
            ("memory_byte_us", self.memory_byte_us),
            ("request_bytes", self.request_bytes.into()),
            ("response_bytes", self.response_bytes.into()),
            ("log_bytes", self.log_bytes.into()),
            ("host_calls_count", self.host_calls_count.into()),
            ("outgoing_count", self.outgoing_count.into()),
            ("egress_out_bytes", self.egress_out_bytes.into()),
            ("egress_in_bytes", self.egress_in_bytes.into()),
            ("storage_ops_count", self.storage_ops_count.into()),
            ("storage_byte_us", self.storage_byte_us),
        ]
    }
}

/// A UTC day, `2026-11-21`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(i64);

/// A text that is not a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a day: write it like `2026-11-21`")]
pub struct DayError(String);

impl Day {
    /// The day of a moment.
    pub fn of(at: Timestamp) -> Self {
        Self(at.as_second().div_euclid(DAY_SECONDS))
    }
    /// Its first moment.
    pub fn start(self) -> Timestamp {
        Timestamp::from_second(self.0.saturating_mul(DAY_SECONDS)).unwrap_or(Timestamp::MAX)
    }
    /// The day after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
    /// The day before.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
    /// The span that ended at `at`, by the days it lies in; no span here is longer than a day.
    pub(crate) fn shares(at: Timestamp, span_us: u64) -> [(Self, u64); 2] {
        let day = Self::of(at);
        let today = at.duration_since(day.start()).max(SignedDuration::ZERO).as_micros();
        let today_us = u64::try_from(today).unwrap_or(u64::MAX).min(span_us);
        [(day.before(), span_us.saturating_sub(today_us)), (day, today_us)]
    }
    /// Days since 1970-01-01.
    pub(crate) fn number(self) -> i64 {
        self.0
    }
    pub(crate) fn from_number(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.start().to_zoned(TimeZone::UTC).date().fmt(f)
    }
}

impl FromStr for Day {
    type Err = DayError;
    fn from_str(text: &str) -> Result<Self, DayError> {
        let wrong = || DayError(text.chars().take(80).collect());
        let date: Date = text.parse().map_err(|_| wrong())?;
        // Other spellings of the same day would be other addresses of the same receipt.
        let midnight = date.to_zoned(TimeZone::UTC).map_err(|_| wrong())?;
        if date.to_string() == text { Ok(Self::of(midnight.timestamp())) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Day {
    type Error = DayError;
    fn try_from(text: String) -> Result<Self, DayError> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_from_before_a_figure_was_counted_still_loads() {
        let row = r#"{"invocations_count":3,"failures_count":1,"cpu_us":5,"wall_us":6,"memory_bytes_peak":7,
            "response_bytes":8,"host_calls_count":9,"outgoing_count":10}"#;
        let sum: UsageSum = serde_json::from_str(row).unwrap();
        assert_eq!((sum.invocations_count, sum.outgoing_count, sum.memory_byte_us), (3, 10, 0));
    }

    #[test]
    fn products_of_bytes_and_time_keep_every_digit() {
        let sum = UsageSum { memory_byte_us: u128::MAX, storage_byte_us: (1 << 53) + 1, ..UsageSum::default() };
        let text = serde_json::to_string(&sum).unwrap();
        assert!(text.contains("\"340282366920938463463374607431768211455\""), "{text}");
        assert_eq!(serde_json::from_str::<UsageSum>(&text).unwrap(), sum);
    }

    #[test]
    fn every_field_is_a_figure() {
        let sum = serde_json::to_value(UsageSum::default()).unwrap();
        let mut fields: Vec<&str> = sum.as_object().unwrap().keys().map(String::as_str).collect();
        let mut figures: Vec<&str> = UsageSum::default().figures().map(|(name, _)| name).to_vec();
        fields.sort_unstable();
        figures.sort_unstable();
        assert_eq!(fields, figures);
    }

    #[test]
    fn adding_adds_every_figure_but_the_peak() {
        let one: UsageSum = serde_json::from_value(
            UsageSum::default()
                .figures()
                .into_iter()
                .zip(1_u64..)
                .map(|((name, _), n)| {
                    let text = name.ends_with("byte_us");
                    (name.to_owned(), if text { n.to_string().into() } else { serde_json::Value::from(n) })
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
        )
        .unwrap();
        let twice = UsageSum::total([&one, &one]);
        for ((name, single), (_, double)) in one.figures().into_iter().zip(twice.figures()) {
            assert!(single > 0, "{name}");
            assert_eq!(double, if name == PEAK { single } else { 2 * single }, "{name}");
        }
    }

    #[test]
    fn days_have_one_spelling() {
        let day: Day = "2026-11-21".parse().unwrap();
        assert_eq!(day.to_string(), "2026-11-21");
        assert_eq!(Day::of("2026-11-21T23:59:59.999Z".parse().unwrap()), day);
        assert_eq!(Day::of("2026-11-22T00:00:00Z".parse().unwrap()), day.next());
        for other in ["20261121", "2026-11-21T00:00:00Z", "2026-11-31", "2026-1-1", "", "today"] {
            assert!(other.parse::<Day>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_span_over_midnight_is_split_there() {
        let at: Timestamp = "2026-11-22T00:00:02Z".parse().unwrap();
        let today = Day::of(at);
        assert_eq!(Day::shares(at, 5_000_000), [(today.before(), 3_000_000), (today, 2_000_000)]);
        assert_eq!(Day::shares(at, 1_000_000), [(today.before(), 0), (today, 1_000_000)]);
    }
}
