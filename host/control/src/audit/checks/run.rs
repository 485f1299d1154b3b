//! One run of a check: what it looks at, what the rule says of it, and the finding.
//!
//! Must never come to a pass by default: nothing to judge, a rule that cannot be followed, a log too long to look through, a
//! limit that was reached, all are `unknown`. Each entry's evaluation is bounded (`automation/src/expression.rs`), and so is
//! their sum.

use std::sync::Arc;
use std::time::Duration;

use ringfence_audit::{Event, Log, Outcome, codes};
use ringfence_automation::expression::Expression;
use ringfence_core::{PrincipalId, RequestId, TenantId};
use ringfence_store::TenantStore;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::super::filter::{Marks, Question};
use super::definition::{Check, Over, last_key};
use super::facts::{Counts, seen};
use crate::Control;
use crate::problem::ApiError;
use crate::wire::CheckResult;

/// LIMIT: newest entries of the log that a run looks at.
const SCAN_COUNT_MAX: u64 = 20_000;
/// Entries that are read and judged at a time.
const PAGE_COUNT: u64 = 500;
/// LIMIT: what all evaluations of a run may cost together; see [`ringfence_automation::expression::COST_MAX`].
const RUN_COST_MAX: u64 = 1 << 31;
/// LIMIT: how long a run goes on to the next page.
const RUN_TIME_MAX: Duration = Duration::from_secs(10);
/// LIMIT: places named of entries that a rule does not hold for.
const FAILING_COUNT_MAX: usize = 10;

/// What a run has found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    selected_count: u64,
    failing_count: u64,
    failing: Vec<u64>,
    /// Why something could not be judged.
    undecided: Option<String>,
    cost: u64,
}

/// What a rule is asked about entry by entry, on a thread of its own.
struct Judge {
    expression: Arc<Expression>,
    facts: Arc<Value>,
    /// SECURITY: kept until the work ends, not the request: who goes away and asks again has no more runs than who waits.
    place: Arc<OwnedSemaphorePermit>,
}

impl Control {
    /// Runs a check in a place for that; keeps nothing.
    pub(super) async fn judge(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        check: &Check,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> Result<CheckResult, ApiError> {
        let expression = Arc::new(check.expression()?);
        let question = check.question()?;
        let facts = Arc::new(self.facts(tenant, store).await?);
        let log = Log::Tenant(store.clone());
        let to = self.parts.audit.size(&log).await?;
        let judge = Judge { expression, facts, place: Arc::clone(place) };
        let (mut found, mut counts) = (Found::default(), Counts::default());
        let mut from = to;
        if check.over == Over::Entries || judge.expression.mentions("log") {
            from = self.look_back(&log, check, &question, &judge, to, (&mut found, &mut counts)).await?;
        }
        if check.over == Over::Facts {
            let Judge { expression, facts, place } = judge;
            let seen = counts.seen();
            let asked = move || {
                let _place = place;
                expression.holds(&[("log", &seen), ("facts", &*facts)])
            };
            match tokio::task::spawn_blocking(asked).await.map_err(|error| ApiError::host(&error))? {
                Ok(true) => {}
                Ok(false) => found.failing_count = 1,
                Err(why) => found.undecided = Some(why),
            }
        }
        let (state, why) = verdict(check.over, &found);
        Ok(CheckResult {
            check: check.id.to_string(),
            version: check.version,
            at: self.parts.clock.now().to_string(),
            state: state.to_owned(),
            why,
            looked_at_count: to - from,
            selected_count: found.selected_count,
            failing_count: found.failing_count,
            failing: found.failing,
            from_seq: from,
            to_seq: to,
            finding_seq: None,
        })
    }

    /// Goes back through a log as far as the check looks; the first entry that was looked at.
    async fn look_back(
        &self,
        log: &Log,
        check: &Check,
        question: &Question,
        judge: &Judge,
        to: u64,
        (found, counts): (&mut Found, &mut Counts),
    ) -> Result<u64, ApiError> {
        let clock = &self.parts.clock;
        let since_ms = clock.now().as_millisecond().saturating_sub(check.window_seconds.saturating_mul(1_000));
        let ends_at = clock.monotonic() + RUN_TIME_MAX;
        let mut seq = to;
        // What lies before was deleted after its retention.
        let floor = self.parts.audit.first(log).await?;
        while seq > floor {
            if to - seq >= SCAN_COUNT_MAX || clock.monotonic() >= ends_at || found.cost > RUN_COST_MAX {
                found.undecided = Some("there is more in the window than a run looks at".to_owned());
                break;
            }
            let first = seq.saturating_sub(PAGE_COUNT).max(floor);
            let page = self.parts.audit.list(log, first, usize::try_from(seq - first).unwrap_or(0)).await?;
            let (mut fitting, mut is_over) = (Vec::new(), page.is_empty());
            for (at, entry) in (first..seq).rev().zip(page.iter().rev()) {
                let Some(marks) = Marks::read(entry) else { return Err(ApiError::host(&"an entry cannot be read")) };
                // The clock may have stepped; an entry that is older than the window ends it all the same.
                is_over = marks.time < since_ms;
                if is_over {
                    break;
                }
                seq = at;
                // What checks themselves came to is no matter for checks, unless asked for.
                let about_checks = marks.code.starts_with("CHK-") && !check.select.contains_key("code");
                if question.fits(entry) && !about_checks {
                    counts.add(&marks);
                    fitting.push((at, seen(at, entry, &marks)));
                }
            }
            found.selected_count += fitting.len() as u64;
            if check.over == Over::Entries && !fitting.is_empty() {
                judge.judge(fitting, found).await?;
            }
            if is_over {
                break;
            }
        }
        Ok(seq)
    }

    /// Puts what a check came to on the record, and keeps it.
    pub(super) async fn keep_result(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        check: &Check,
        (by, request): (PrincipalId, Option<RequestId>),
        mut result: CheckResult,
    ) -> Result<CheckResult, ApiError> {
        let mut event = Event::new(codes::CHECK_RESULT, "run-check", by, format!("tenant/{tenant}/check/{}", check.id));
        event.request = request;
        event.details = json!({
            "check": check.id, "version": check.version, "title": check.title, "severity": check.severity,
            "state": result.state, "why": result.why, "selected_count": result.selected_count,
            "failing_count": result.failing_count, "failing": result.failing, "from_seq": result.from_seq,
            "to_seq": result.to_seq,
        });
        event.members = finding(check, &result);
        let outcome = match result.state.as_str() {
            "pass" => Outcome::Success,
            state => Outcome::Failure(format!("check-{state}")),
        };
        let receipt = self.parts.audit.record_outcome(&Log::Tenant(store.clone()), event, outcome).await?;
        result.finding_seq = Some(receipt.seq);
        store.put_json(&last_key(&check.id), &result).await?;
        Ok(result)
    }
}

impl Judge {
    /// Judges some entries; what may take a while is not done on a thread that serves others.
    async fn judge(&self, entries: Vec<(u64, Value)>, found: &mut Found) -> Result<(), ApiError> {
        let (expression, facts) = (Arc::clone(&self.expression), Arc::clone(&self.facts));
        let place = Arc::clone(&self.place);
        let mut so_far = std::mem::take(found);
        let work = move || {
            let _place = place;
            let prepared = expression.prepare(&[("facts", &*facts)]);
            let prepared = match prepared {
                Ok(prepared) => prepared,
                Err(why) => {
                    so_far.undecided = Some(why);
                    return so_far;
                }
            };
            for (seq, entry) in &entries {
                so_far.cost = so_far.cost.saturating_add(prepared.cost(entry));
                if so_far.cost > RUN_COST_MAX {
                    so_far.undecided = Some("the rule could cost too much over so many entries".to_owned());
                    break;
                }
                match prepared.holds("entry", entry) {
                    Ok(true) => {}
                    Ok(false) => {
                        so_far.failing_count += 1;
                        if so_far.failing.len() < FAILING_COUNT_MAX {
                            so_far.failing.push(*seq);
                        }
                    }
                    Err(why) => so_far.undecided = Some(format!("entry {seq}: {why}")),
                }
            }
            so_far
        };
        *found = tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::host(&error))?;
        Ok(())
    }
}

/// What it comes to. INVARIANT: a pass was judged, in full, and held throughout.
fn verdict(over: Over, found: &Found) -> (&'static str, String) {
    match (over, found) {
        (Over::Entries, Found { failing_count: 1.., .. }) => {
            ("fail", format!("the rule does not hold for {} of {}", found.failing_count, found.selected_count))
        }
        (_, Found { undecided: Some(why), .. }) => ("unknown", why.clone()),
        (Over::Facts, Found { failing_count: 1.., .. }) => ("fail", "the rule does not hold".to_owned()),
        (Over::Entries, Found { selected_count: 0, .. }) => {
            ("unknown", "no entry of the window fits, so there is nothing to judge".to_owned())
        }
        _ => ("pass", String::new()),
    }
}

/// The members of an OCSF Compliance Finding.
fn finding(check: &Check, result: &CheckResult) -> Value {
    let (status, status_id) = match result.state.as_str() {
        "pass" => ("Pass", 1),
        "fail" => ("Fail", 3),
        _ => ("Unknown", 0),
    };
    let name = if check.title.is_empty() { check.id.as_str() } else { &check.title };
    json!({
        "finding_info": { "uid": format!("check/{}", check.id), "title": name },
        "compliance": {
            "control": check.controls.first().map_or(check.id.as_str(), String::as_str),
            "requirements": check.controls, "status": status, "status_id": status_id,
            "checks": [{
                "uid": check.id, "name": name, "version": check.version.to_string(), "status": status,
                "status_id": status_id,
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn judge_of(expression: Expression, running: &Arc<Semaphore>) -> Judge {
        let place = Arc::new(Arc::clone(running).try_acquire_owned().unwrap());
        Judge { expression: Arc::new(expression), facts: Arc::new(json!({})), place }
    }

    #[test]
    fn nothing_passes_that_was_not_judged_in_full() {
        let judged = |selected, failing, undecided: Option<&str>| Found {
            selected_count: selected,
            failing_count: failing,
            undecided: undecided.map(str::to_owned),
            ..Found::default()
        };
        assert_eq!(verdict(Over::Entries, &judged(3, 0, None)).0, "pass");
        assert_eq!(verdict(Over::Entries, &judged(3, 1, None)).0, "fail");
        assert_eq!(verdict(Over::Entries, &judged(3, 1, Some("cut"))).0, "fail");
        assert_eq!(verdict(Over::Entries, &judged(3, 0, Some("cut"))).0, "unknown");
        assert_eq!(verdict(Over::Entries, &judged(0, 0, None)).0, "unknown");
        assert_eq!(verdict(Over::Facts, &judged(0, 0, None)).0, "pass");
        assert_eq!(verdict(Over::Facts, &judged(0, 1, None)).0, "fail");
        // Counts over a log that was not looked through whole say nothing.
        assert_eq!(verdict(Over::Facts, &judged(9, 1, Some("cut"))).0, "unknown");
    }

    #[tokio::test]
    async fn a_rule_that_cannot_be_followed_for_an_entry_is_undecided() {
        let expression = Expression::compile("entry.details.amount < 10", Over::Entries.names(), 100).unwrap();
        let judge = judge_of(expression, &Arc::new(Semaphore::new(1)));
        let mut found = Found::default();
        let entries = vec![(7, json!({"details": {"amount": 1}})), (8, json!({"details": {}}))];
        judge.judge(entries, &mut found).await.unwrap();
        assert_eq!((found.failing_count, found.undecided.is_some()), (0, true));
        judge.judge(vec![(9, json!({"details": {"amount": 11}}))], &mut found).await.unwrap();
        assert_eq!((found.failing_count, found.failing), (1, vec![9]));
    }

    #[tokio::test]
    async fn a_run_that_nobody_waits_for_any_more_keeps_its_place_until_it_ends() {
        let source = "entry.rows.all(r, r < 5 && r < 6 && r < 7)";
        let expression = Expression::compile(source, Over::Entries.names(), 100).unwrap();
        let running = Arc::new(Semaphore::new(1));
        let judge = judge_of(expression, &running);
        let rows: Vec<u32> = (0..200).map(|n| n % 5).collect();
        let entries = (0..3_000).map(|seq| (seq, json!({ "rows": rows }))).collect();
        let mut found = Found::default();
        let begun = tokio::time::timeout(Duration::ZERO, judge.judge(entries, &mut found)).await;
        assert!(begun.is_err(), "so much is not judged at once");
        drop(judge);
        assert_eq!(running.available_permits(), 0, "the work goes on");
        let place = tokio::time::timeout(Duration::from_secs(120), running.acquire()).await;
        assert!(place.is_ok(), "and ends");
    }

    #[tokio::test]
    async fn a_run_ends_at_its_cost() {
        let source = "entry.rows.all(r, r < 5 && r < 6 && r < 7)";
        let expression = Expression::compile(source, Over::Entries.names(), 100).unwrap();
        let judge = judge_of(expression, &Arc::new(Semaphore::new(1)));
        let rows: Vec<u32> = (0..200).map(|n| n % 5).collect();
        let mut found = Found { cost: RUN_COST_MAX - 1_000_000, ..Found::default() };
        let entries = (0..5_000).map(|seq| (seq, json!({ "rows": rows }))).collect();
        judge.judge(entries, &mut found).await.unwrap();
        assert!(found.undecided.unwrap().contains("cost"));
    }
}
