//! What is done about a violation, as states. Pure: an act on a record gives the next record or says why not.
//!
//! Must never let one person alone say that something is over: another agrees, or a check of the host shows it.

use jiff::{SignedDuration, Timestamp};
use ringfence_core::PrincipalId;
use serde::{Deserialize, Serialize};

/// LIMIT: what shows it: how many, and the longest, in bytes.
pub(super) const EVIDENCE_COUNT_MAX: usize = 20;
/// LIMIT: as above.
pub(super) const EVIDENCE_BYTES_MAX: usize = 500;
/// LIMIT: longest note, in bytes.
pub(super) const NOTE_BYTES_MAX: usize = 2_000;
/// LIMIT: how far ahead a due date, or the end of an acceptance, lies.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// Somebody is to see to it.
    Open,
    /// Somebody does.
    InProgress,
    /// Somebody says that it is done, and another is to agree.
    WaitingResolved,
    /// Somebody wants it to stay as it is, and another is to agree.
    WaitingAccepted,
    /// It is done.
    Resolved,
    /// It stays as it is, for a while.
    Accepted,
}

/// What is done about one violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) violation_id: String,
    pub(super) state: State,
    pub(super) owner: PrincipalId,
    pub(super) due_at: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) note: String,
    pub(super) evidence: Vec<String>,
    pub(super) asked_by: Option<PrincipalId>,
    pub(super) version: u64,
    pub(super) at: Timestamp,
}

/// An act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// Gives it to somebody.
    Assign {
        /// To whom.
        owner: PrincipalId,
        /// Until when.
        due_at: Timestamp,
    },
    /// Begins.
    Start,
    /// Adds what shows it.
    AddEvidence,
    /// Says that it is done.
    Resolve(Shown),
    /// Says that it may stay as it is.
    Accept {
        /// Until when.
        until: Timestamp,
    },
    /// Agrees, as a second person.
    Approve,
    /// Does not agree, or takes back what was asked.
    Refuse,
    /// Takes up again what was over.
    Reopen,
    /// The host did something about it.
    Respond,
}

/// Whether the host itself saw that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The check that failed passes now.
    ByCheck,
    /// Somebody says so.
    ByWord,
}

/// Why an act is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not from here.
    Transition(&'static str),
    /// What the act needs is missing or out of its limits.
    Needs(&'static str),
}

// === impl State ===

impl State {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::InProgress => "in-progress",
            Self::WaitingResolved => "waiting-resolved",
            Self::WaitingAccepted => "waiting-accepted",
            Self::Resolved => "resolved",
            Self::Accepted => "accepted",
        }
    }

    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Resolved | Self::Accepted)
    }
}

// === impl Record ===

impl Record {
    /// Where it stands now: what came again after it was resolved, and what was accepted until a time that is past, is open.
    pub(super) fn now(mut self, last_seen: Option<Timestamp>, now: Timestamp) -> Self {
        let again = self.state == State::Resolved && last_seen.is_some_and(|last| last > self.at);
        let ended = self.state == State::Accepted && self.until.is_none_or(|until| until <= now);
        if again || ended {
            self.state = State::Open;
        }
        self
    }

    /// Whether its time is past and it is not over.
    pub(super) fn is_overdue(&self, now: Timestamp) -> bool {
        !self.state.is_over() && self.due_at.is_some_and(|due| due <= now)
    }
}

/// What an act makes of a record; `before` as [`Record::now`] has it.
pub(super) fn step(
    violation_id: &str,
    before: Option<Record>,
    act: &Act,
    (note, evidence): (Option<String>, Vec<String>),
    (by, now): (&PrincipalId, Timestamp),
) -> Result<Record, Refused> {
    use State::{Accepted, InProgress, Open, Resolved, WaitingAccepted, WaitingResolved};
    check(act, note.as_deref(), &evidence, now)?;
    let is_first = before.is_none();
    let mut record = match before {
        Some(record) => record,
        None if matches!(act, Act::Assign { .. } | Act::Respond) => first(violation_id, by, now),
        None => return Err(Refused::Transition("nobody is to see to it yet: `assign` it first")),
    };
    let from = record.state;
    record.state = match (act, from) {
        (Act::Assign { .. } | Act::AddEvidence, Open | InProgress) => from,
        (Act::Start, Open) => InProgress,
        (Act::Resolve(Shown::ByCheck), Open | InProgress) => Resolved,
        (Act::Resolve(Shown::ByWord), Open | InProgress) => WaitingResolved,
        (Act::Accept { .. }, Open | InProgress) => WaitingAccepted,
        (Act::Approve, WaitingResolved) => Resolved,
        (Act::Approve, WaitingAccepted) => Accepted,
        (Act::Refuse, WaitingResolved | WaitingAccepted) => InProgress,
        (Act::Reopen, Resolved | Accepted) => InProgress,
        (Act::Respond, Open) if is_first => InProgress,
        (Act::Respond, Open | InProgress) => from,
        _ => return Err(Refused::Transition(from.word())),
    };
    match act {
        Act::Assign { owner, due_at } => (record.owner, record.due_at) = (owner.clone(), Some(*due_at)),
        Act::Accept { until } => record.until = Some(*until),
        _ => {}
    }
    record.asked_by = match record.state {
        WaitingResolved | WaitingAccepted => Some(by.clone()),
        _ => None,
    };
    if record.evidence.len() + evidence.len() > EVIDENCE_COUNT_MAX {
        return Err(Refused::Needs("there is as much evidence as is kept"));
    }
    record.evidence.extend(evidence);
    record.note = note.unwrap_or(record.note);
    record.version += 1;
    record.at = now;
    Ok(record)
}

fn first(violation_id: &str, by: &PrincipalId, now: Timestamp) -> Record {
    Record {
        violation_id: violation_id.to_owned(),
        state: State::Open,
        owner: by.clone(),
        due_at: None,
        until: None,
        note: String::new(),
        evidence: Vec::new(),
        asked_by: None,
        version: 0,
        at: now,
    }
}

fn check(act: &Act, note: Option<&str>, evidence: &[String], now: Timestamp) -> Result<(), Refused> {
    let ahead = |at: &Timestamp| *at > now && at.duration_since(now) <= AHEAD_MAX;
    match act {
        Act::Assign { due_at, .. } if !ahead(due_at) => {
            return Err(Refused::Needs("`due_at` lies within a year ahead"));
        }
        Act::Accept { until } if !ahead(until) => return Err(Refused::Needs("`until` lies within a year ahead")),
        Act::Accept { .. } | Act::Resolve(_) if note.is_none_or(str::is_empty) => {
            return Err(Refused::Needs("`note` says what was done, or why it may stay"));
        }
        Act::AddEvidence if evidence.is_empty() => return Err(Refused::Needs("`evidence` is what shows it")),
        _ => {}
    }
    if note.is_some_and(|note| note.len() > NOTE_BYTES_MAX || note.chars().any(|c| c.is_control() && c != '\n')) {
        return Err(Refused::Needs("`note` is text of at most 2000 bytes"));
    }
    let good = |item: &String| !item.is_empty() && item.len() <= EVIDENCE_BYTES_MAX && !item.contains(char::is_control);
    if !evidence.iter().all(good) {
        return Err(Refused::Needs("each of `evidence` is one line of 1 to 500 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn act(before: Option<Record>, act: Act) -> Result<Record, Refused> {
        let words = (Some("done".to_owned()), vec!["https://example.com/ticket/7".to_owned()]);
        step("v_1", before, &act, words, (&"acme/ada".parse().unwrap(), at(NOW)))
    }

    fn assigned() -> Record {
        let owner = "acme/bob".parse().unwrap();
        act(None, Act::Assign { owner, due_at: at("2026-07-01T00:00:00Z") }).unwrap()
    }

    #[test]
    fn what_is_done_by_word_waits_for_another_and_what_a_check_shows_does_not() {
        let waiting = act(Some(assigned()), Act::Resolve(Shown::ByWord)).unwrap();
        assert_eq!(
            (waiting.state, waiting.asked_by.as_ref().map(PrincipalId::as_str)),
            (State::WaitingResolved, Some("acme/ada"))
        );
        assert_eq!(act(Some(waiting.clone()), Act::Refuse).unwrap().state, State::InProgress);
        let done = act(Some(waiting), Act::Approve).unwrap();
        assert_eq!((done.state, done.asked_by), (State::Resolved, None));
        assert_eq!(act(Some(assigned()), Act::Resolve(Shown::ByCheck)).unwrap().state, State::Resolved);
    }

    #[test]
    fn what_came_again_or_was_accepted_until_now_is_open() {
        let resolved = act(Some(assigned()), Act::Resolve(Shown::ByCheck)).unwrap();
        assert_eq!(resolved.clone().now(Some(at(NOW)), at(NOW)).state, State::Resolved);
        assert_eq!(resolved.now(Some(at("2026-06-02T00:00:00Z")), at(NOW)).state, State::Open);
        let until = at("2026-06-03T00:00:00Z");
        let accepted = act(act(Some(assigned()), Act::Accept { until }).ok(), Act::Approve).unwrap();
        assert_eq!(accepted.clone().now(Some(at("2026-06-02T00:00:00Z")), at(NOW)).state, State::Accepted);
        assert_eq!(accepted.now(None, until).state, State::Open);
    }

    #[test]
    fn it_is_overdue_from_its_time_on_until_it_is_over() {
        let record = assigned();
        assert!(!record.is_overdue(at("2026-06-30T23:59:59Z")));
        assert!(record.is_overdue(at("2026-07-01T00:00:00Z")));
        assert!(!act(Some(record), Act::Resolve(Shown::ByCheck)).unwrap().is_overdue(at("2026-08-01T00:00:00Z")));
    }

    #[test]
    fn acts_are_refused_where_they_make_no_sense() {
        for first in [Act::Start, Act::Approve, Act::Resolve(Shown::ByWord), Act::Reopen, Act::AddEvidence] {
            assert!(matches!(act(None, first), Err(Refused::Transition(_))));
        }
        for next in [Act::Approve, Act::Refuse, Act::Reopen] {
            assert!(matches!(act(Some(assigned()), next), Err(Refused::Transition("open"))));
        }
        let past = Act::Assign { owner: "acme/bob".parse().unwrap(), due_at: at("2026-05-01T00:00:00Z") };
        assert!(matches!(act(None, past), Err(Refused::Needs(_))));
        let who: (&PrincipalId, Timestamp) = (&"acme/ada".parse().unwrap(), at(NOW));
        let silent = step("v_1", Some(assigned()), &Act::Resolve(Shown::ByWord), (None, Vec::new()), who);
        assert!(matches!(silent, Err(Refused::Needs(_))));
        for wrong in [vec!["a\nb".to_owned()], vec!["x".repeat(501)], vec![String::new()], vec!["e".to_owned(); 21]] {
            assert!(matches!(
                step("v_1", Some(assigned()), &Act::AddEvidence, (None, wrong), who),
                Err(Refused::Needs(_))
            ));
        }
    }
}
