//! Counts over the caller's own log: how many of what, by whom, when. Bounded: so many newest entries, so many groups.
//!
//! Must never estimate: a question that would need more entries than are looked at is refused, not answered in part.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::Entry;
use ringfence_core::proof::act;
use serde::Deserialize;
use serde_json::{Value, json};

use super::filter::Marks;
use crate::Control;
use crate::call::Call;
use crate::extract::Asked;
use crate::problem::ApiError;
use crate::wire::{Analytics, AnalyticsRow, Problem};

/// LIMIT: entries looked at.
const SCAN_COUNT_MAX: u64 = 50_000;
/// LIMIT: groups told apart; the rest is counted together.
const GROUPS_COUNT_MAX: usize = 10_000;
/// LIMIT: groups shown.
const SHOWN_COUNT_MAX: usize = 100;

/// What to count.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Question {
    /// `events`, `denials` or `failures`; events when absent.
    metric: Option<String>,
    /// `code`, `class`, `actor`, `resource`, `outcome`, `hour` or `day`; code when absent.
    group: Option<String>,
    /// How far back from now, such as `24h`, `7d`; `24h` when absent.
    window: Option<String>,
    /// `most` or `rare`; most when absent.
    order: Option<String>,
}

/// Counts entries of the caller's own log by one of their properties.
#[utoipa::path(get, path = "/audit/analytics", tag = "audit", params(Question),
    responses((status = 200, body = Analytics), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Asked(question): Asked<Question>,
) -> Result<Json<Analytics>, ApiError> {
    let (log, permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let metric = pick(question.metric.as_deref(), &["events", "denials", "failures"])?;
    let group = pick(question.group.as_deref(), &["code", "class", "actor", "resource", "outcome", "hour", "day"])?;
    let order = pick(question.order.as_deref(), &["most", "rare"])?;
    let window = question.window.as_deref().unwrap_or("24h");
    let bad = || ApiError::new("bad-word", format!("`{window}` is no time; one is `24h`"));
    let span = span(window).ok_or_else(bad)?;
    let since_ms = control.parts.clock.now().checked_sub(span).map_err(|_| bad())?.as_millisecond();
    control.reading(&call, &log, permit, json!({ "view": "analytics", "group": group, "window": window })).await?;
    let audit = &control.parts.audit;
    let to = audit.size(&log).await?;
    let (mut counts, mut from_seq, mut counted, mut other) = (BTreeMap::new(), to, 0_u64, 0_u64);
    // From the end back, until an entry is older than the window: which is so only where the order of times is not known.
    'back: for place in audit.places(&log, (Some(since_ms), None), to).await?.into_iter().rev() {
        let mut seq = place.end;
        while seq > place.start {
            let from = seq.saturating_sub(1_000).max(place.start);
            let page = audit.list(&log, from, usize::try_from(seq - from).unwrap_or(usize::MAX)).await?;
            for entry in page.iter().rev() {
                let Some(marks) = Marks::read(entry) else { break 'back };
                if marks.time < since_ms {
                    break 'back;
                }
                seq -= 1;
                (from_seq, counted) = (seq, counted + 1);
                count(&mut counts, &mut other, metric, group, &marks, entry);
            }
            if counted > SCAN_COUNT_MAX {
                let text = format!("more than {SCAN_COUNT_MAX} entries in {window}");
                return Err(ApiError::new("audit-too-costly", text).help("ask for a shorter `window`"));
            }
        }
    }
    let (series, left_out) = rows(counts, group, order);
    let (metric, group) = (metric.to_owned(), group.to_owned());
    Ok(Json(Analytics { metric, group, series, other_count: other + left_out, from_seq, as_of_seq: to }))
}

fn count(counts: &mut BTreeMap<String, u64>, other: &mut u64, metric: &str, group: &str, marks: &Marks, entry: &Entry) {
    let counted = match metric {
        "denials" => marks.outcome() == "denied",
        "failures" => marks.outcome() == "failure",
        _ => true,
    };
    if !counted {
        return;
    }
    let text = |pointer: &str| entry.body.as_ref().and_then(|body| body.pointer(pointer)).and_then(Value::as_str);
    let time = || Timestamp::from_millisecond(marks.time).map(|time| time.to_string()).unwrap_or_default();
    let key = match group {
        "class" => marks.class_uid.to_string(),
        "actor" => text("/actor/user/uid").unwrap_or("").to_owned(),
        "resource" => text("/resources/0/uid").unwrap_or("").to_owned(),
        "outcome" => marks.outcome().to_owned(),
        "hour" => time().get(..13).unwrap_or("").to_owned(),
        "day" => time().get(..10).unwrap_or("").to_owned(),
        _ => marks.code.clone(),
    };
    if counts.len() >= GROUPS_COUNT_MAX && !counts.contains_key(&key) {
        *other += 1;
    } else {
        *counts.entry(key).or_default() += 1;
    }
}

fn rows(counts: BTreeMap<String, u64>, group: &str, order: &str) -> (Vec<AnalyticsRow>, u64) {
    let mut rows: Vec<AnalyticsRow> = counts.into_iter().map(|(key, count)| AnalyticsRow { key, count }).collect();
    match (group, order) {
        ("hour" | "day", _) => {}
        (_, "rare") => rows.sort_by_key(|row| row.count),
        _ => rows.sort_by_key(|row| std::cmp::Reverse(row.count)),
    }
    let left_out = rows.iter().skip(SHOWN_COUNT_MAX).map(|row| row.count).sum();
    rows.truncate(SHOWN_COUNT_MAX);
    (rows, left_out)
}

fn pick(given: Option<&str>, words: &[&'static str]) -> Result<&'static str, ApiError> {
    let wanted = given.or(words.first().copied()).unwrap_or_default();
    let found = words.iter().find(|word| **word == wanted).copied();
    found.ok_or_else(|| ApiError::new("bad-word", format!("`{wanted}` is none of {}", words.join(", "))))
}

/// A time such as `90m`, `24h`, `7d`: jiff's durations have no days, which here are 24 hours.
pub(crate) fn span(text: &str) -> Option<SignedDuration> {
    match text.strip_suffix('d').map(str::parse::<i64>) {
        Some(days) => days.ok()?.checked_mul(24).map(SignedDuration::from_hours),
        None => text.parse().ok(),
    }
    .filter(|span| span.is_positive() && *span <= SignedDuration::from_hours(24 * 366))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_nonsense_is_not() {
        assert_eq!(span("7d"), Some(SignedDuration::from_hours(168)));
        assert_eq!(span("24h"), Some(SignedDuration::from_hours(24)));
        for wrong in ["", "d", "-1h", "0h", "400d", "9999999999999999999d", "soon"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_shown_is_counted_as_other() {
        let counts = (0..150_u64).map(|n| (format!("k{n:03}"), n + 1)).collect();
        let (most, left_out) = rows(counts, "code", "most");
        assert_eq!((most.len(), most[0].count, left_out), (100, 150, (1..=50).sum::<u64>()));
    }
}
