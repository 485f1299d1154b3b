//! What a tenant's own check is, and how it is kept: a rule, what it is about, when it is run. Versions are numbered and the
//! last twenty stay.
//!
//! Must never keep a check whose rule does not compile or whose words mean nothing.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use ringfence_automation::expression::Expression;
use ringfence_automation::schedule::plan::Times;
use ringfence_core::{PrincipalId, ResourceName};
use ringfence_store::{Key, TenantStore};
use serde::{Deserialize, Serialize};

use super::super::filter::{Filter, Question};
use crate::problem::ApiError;
use crate::wire::{CheckResult, CheckView, PutCheck};

/// LIMIT: checks of one tenant.
pub(super) const CHECKS_COUNT_MAX: usize = 100;
/// LIMIT: versions of a check that are kept.
pub(super) const VERSIONS_COUNT_MAX: usize = 20;
/// LIMIT: longest rule, in bytes.
const RULE_BYTES_MAX: usize = 1_024;
/// LIMIT: longest title, in bytes.
const TITLE_BYTES_MAX: usize = 200;
/// LIMIT: controls of a check, and the longest name of one, in bytes.
const CONTROLS_COUNT_MAX: usize = 20;
const CONTROL_BYTES_MAX: usize = 100;
/// LIMIT: how far back a check looks.
const WINDOW_MAX: SignedDuration = SignedDuration::from_hours(31 * 24);
/// LIMIT: least time between two runs of a schedule.
const PERIOD_SECONDS_MIN: i64 = 300;
const SEVERITIES: [&str; 4] = ["low", "medium", "high", "critical"];
const SELECTS: [&str; 5] = ["class", "code", "actor", "resource", "outcome"];

/// What a rule is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Over {
    /// The tenant's facts and the counts of its log, once.
    Facts,
    /// Each entry that fits.
    Entries,
}

/// One version of a check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) id: ResourceName,
    pub(super) version: u64,
    pub(super) title: String,
    pub(super) rule: String,
    pub(super) over: Over,
    pub(super) select: BTreeMap<String, String>,
    pub(super) window_seconds: i64,
    pub(super) schedule: Option<String>,
    pub(super) zone: String,
    pub(super) severity: String,
    pub(super) controls: Vec<String>,
    pub(super) by: PrincipalId,
    pub(super) at: Timestamp,
}

/// A check as it is stored, newest version last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) versions: Vec<Check>,
}

// === impl Over ===

impl Over {
    /// What a rule may speak of.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Facts => &["facts", "log"],
            Self::Entries => &["entry", "facts"],
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Facts => "facts",
            Self::Entries => "entries",
        }
    }
}

// === impl Check ===

impl Check {
    /// Reads what was sent; refuses what means nothing.
    pub(super) fn read(sent: PutCheck, by: &PrincipalId, now: Timestamp) -> Result<Self, ApiError> {
        let bad = |text: String| ApiError::new("bad-check", text);
        let id: ResourceName = sent.id.parse()?;
        let over = match sent.over.as_deref() {
            None | Some("facts") => Over::Facts,
            Some("entries") => Over::Entries,
            Some(other) => return Err(bad(format!("`over` is `facts` or `entries`, not `{}`", cut(other)))),
        };
        if sent.title.len() > TITLE_BYTES_MAX {
            return Err(bad(format!("`title` is over {TITLE_BYTES_MAX} bytes")));
        }
        let severity = sent.severity.unwrap_or_else(|| "medium".to_owned());
        if !SEVERITIES.contains(&severity.as_str()) {
            return Err(bad(format!("`severity` is one of {}", SEVERITIES.join(", "))));
        }
        let is_control =
            |text: &String| (1..=CONTROL_BYTES_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
        if sent.controls.len() > CONTROLS_COUNT_MAX || !sent.controls.iter().all(is_control) {
            return Err(bad(format!("`controls` are at most {CONTROLS_COUNT_MAX} words of {CONTROL_BYTES_MAX} bytes")));
        }
        let window = sent.window.as_deref().unwrap_or("24h");
        let span = super::super::analytics::span(window).filter(|span| *span <= WINDOW_MAX);
        let span = span.ok_or_else(|| bad(format!("`{}` is no window; one is `24h`, 31 days at most", cut(window))))?;
        let check = Self {
            id,
            version: 0,
            title: sent.title,
            rule: sent.rule,
            over,
            select: sent.select,
            window_seconds: span.as_secs(),
            schedule: sent.schedule,
            zone: sent.zone.unwrap_or_else(|| "UTC".to_owned()),
            severity,
            controls: sent.controls,
            by: by.clone(),
            at: now,
        };
        check.question()?;
        check.expression()?;
        if let Some(times) = check.times()? {
            let next = times.upcoming(now, 2);
            let gap = match next.as_slice() {
                [first, second] => second.as_second().saturating_sub(first.as_second()),
                [] => return Err(bad("the schedule never comes".to_owned())),
                _ => i64::MAX,
            };
            if gap < PERIOD_SECONDS_MIN {
                return Err(bad(format!("the schedule comes more often than every {PERIOD_SECONDS_MIN} s")));
            }
        }
        Ok(check)
    }

    /// Its rule, compiled.
    pub(super) fn expression(&self) -> Result<Expression, ApiError> {
        Expression::compile(&self.rule, self.over.names(), RULE_BYTES_MAX)
            .map_err(|why| ApiError::new("bad-check", format!("`rule`: {why}")))
    }

    /// Which entries it is about.
    pub(super) fn question(&self) -> Result<Question, ApiError> {
        if let Some(word) = self.select.keys().find(|word| !SELECTS.contains(&word.as_str())) {
            let text = format!("`select` knows no `{}`", cut(word));
            return Err(ApiError::new("bad-check", text).help(SELECTS.join(", ")));
        }
        let words = serde_json::to_value(&self.select).unwrap_or_default();
        let filter: Filter = serde_json::from_value(words)
            .map_err(|error| ApiError::new("bad-check", format!("`select` is not a question: {error}")))?;
        filter.question()
    }

    /// When it is run by itself.
    pub(super) fn times(&self) -> Result<Option<Times>, ApiError> {
        let parse = |cron: &String| Times::parse(cron, &self.zone).map_err(|why| ApiError::new("bad-check", why));
        self.schedule.as_ref().map(parse).transpose()
    }

    /// When it is due next, having run last at `last`; none without a schedule. A run that was missed is due at once.
    pub(super) fn next(&self, last: Option<Timestamp>) -> Option<Timestamp> {
        let since = last.map_or(self.at, |last| last.max(self.at));
        self.times().ok().flatten()?.next(since)
    }

    /// As it is shown.
    pub(super) fn view(self, last: Option<CheckResult>) -> CheckView {
        let ran_at = last.as_ref().and_then(|last| last.at.parse().ok());
        let next_at = self.next(ran_at).map(|next| next.to_string());
        CheckView {
            id: self.id.to_string(),
            version: self.version,
            title: self.title,
            rule: self.rule,
            over: self.over.word().to_owned(),
            select: self.select,
            window_seconds: self.window_seconds,
            schedule: self.schedule,
            zone: self.zone,
            severity: self.severity,
            controls: self.controls,
            by: self.by.to_string(),
            at: self.at.to_string(),
            next_at,
            last,
        }
    }
}

/// All checks of a tenant as they are now, by name, each with what it came to last.
pub(super) async fn all(store: &TenantStore) -> Result<Vec<(Check, Option<CheckResult>)>, ApiError> {
    let page = store.scan(&Key::new(["check"]), None, CHECKS_COUNT_MAX).await?;
    let mut checks = Vec::new();
    for (_, record) in page.records {
        if let Some(check) = record.json::<Stored>()?.versions.pop() {
            let last = store.get_json(&last_key(&check.id)).await?;
            checks.push((check, last));
        }
    }
    checks.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    Ok(checks)
}

/// Where a check lies.
pub(super) fn key(id: &ResourceName) -> Key {
    Key::new(["check", id.as_str()])
}

/// Where lies what it came to last.
pub(super) fn last_key(id: &ResourceName) -> Key {
    Key::new(["check-last", id.as_str()])
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(rule: &str) -> PutCheck {
        PutCheck { id: "backups".to_owned(), rule: rule.to_owned(), ..PutCheck::default() }
    }

    fn read(sent: PutCheck) -> Result<Check, &'static str> {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Check::read(sent, &"acme/ada".parse().unwrap(), now).map_err(|error| error.code)
    }

    #[test]
    fn what_means_nothing_is_refused_when_it_is_written() {
        let good = || sent("facts.backups.count > 0");
        assert!(read(good()).is_ok());
        let some = |text: &str| Some(text.to_owned());
        for wrong in [
            sent("entry.code == 'x'"),
            sent(""),
            sent(&"a".repeat(2_000)),
            PutCheck { over: some("logs"), ..good() },
            PutCheck { window: some("400d"), ..good() },
            PutCheck { severity: some("worst"), ..good() },
            PutCheck { controls: vec!["a b".to_owned()], ..good() },
            PutCheck { controls: vec!["a".to_owned(); 21], ..good() },
            PutCheck { schedule: some("* * * * *"), ..good() },
            PutCheck { schedule: some("0 0 30 2 *"), ..good() },
            PutCheck { schedule: some("0 3 * * *"), zone: some("Nowhere/Land"), ..good() },
            PutCheck { select: [("from".to_owned(), "2026-01-01T00:00:00Z".to_owned())].into(), ..good() },
            PutCheck { title: "t".repeat(300), ..good() },
        ] {
            assert_eq!(read(wrong).unwrap_err(), "bad-check");
        }
        assert_eq!(read(PutCheck { id: "No Name".to_owned(), ..good() }).unwrap_err(), "bad-word");
    }

    #[test]
    fn a_missed_run_is_due_at_once_and_a_new_check_at_its_next_time() {
        let check = read(PutCheck { schedule: Some("0 3 * * *".to_owned()), ..sent("facts.now_ms > 0") }).unwrap();
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        assert_eq!(check.next(None), Some(at("2026-01-01T03:00:00Z")));
        assert_eq!(check.next(Some(at("2026-01-05T03:00:01Z"))), Some(at("2026-01-06T03:00:00Z")));
        assert_eq!(read(sent("facts.now_ms > 0")).unwrap().next(None), None);
    }
}
