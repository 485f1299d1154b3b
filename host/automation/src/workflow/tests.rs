//! Histories: whatever is cut off and whenever, the end is the same and nothing that is finished is done again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringfence_core::workflow::{Answer, Ask, Place, Question, Retry, StepFailure, StepKind, Stop};
use ringfence_core::{PrincipalId, RunId};

use super::asks::Asks;
use super::command::{Command, People, Refusal};
use super::decide::{Attempts, Fault, Names, Now, OpenStep, ask, complete, pause_ms};
use super::event::{Basis, Ending, Event, Started};
use super::journal::{RunNames, id_of};
use super::limits::{
    BRANCHES_COUNT_MAX, CHILD_DEPTH_MAX, CHILDREN_COUNT_MAX, HISTORY_EVENTS_COUNT_MAX, NAME_BYTES_MAX,
    SIGNAL_KEYS_COUNT_MAX, SIGNALS_WAITING_COUNT_MAX,
};
use super::state::State;

const RETRY: Retry = Retry { attempts_count: 3, first_ms: 100, factor_percent: 200, max_ms: 1_000 };

fn run() -> RunId {
    id_of(&[b"a run"])
}

fn who(name: &str) -> PrincipalId {
    format!("acme/{name}").parse().unwrap()
}

fn command(state: &State, what: &Command, by: &PrincipalId) -> Result<Vec<Event>, Refusal> {
    command_at(state, what, by, 1)
}

/// A command of somebody whose keys are called as he is, up to a dash.
fn command_at(state: &State, what: &Command, by: &PrincipalId, at_ms: u64) -> Result<Vec<Event>, Refusal> {
    let person = |of: &PrincipalId| of.as_str().split('-').next().map(str::to_owned);
    let is_same = |other: &PrincipalId| person(other) == person(by);
    // `gone` was removed meanwhile.
    let basis = |of: &PrincipalId| {
        if person(of).is_some_and(|of| of.ends_with("gone")) { Basis::Elsewhere } else { Basis::Known }
    };
    super::command::command(state, what, by, &People { is_same: &is_same, basis: &basis }, at_ms)
}

fn now(at_ms: u64) -> Now {
    Now { at_ms, dice: 7, fresh: "fresh".to_owned(), child: None, attempts: Attempts::WhenOver }
}

fn begun() -> State {
    let mut state = State::default();
    state.apply(&Event::Started(Box::new(Started {
        plugin: "shop".parse().unwrap(),
        version: "0.1.0".parse().unwrap(),
        workflow: "shop".to_owned(),
        input: "null".to_owned(),
        by: who("ann"),
        parent: None,
        depth: 0,
        root: None,
        first: None,
        attributes: BTreeMap::new(),
        dice: String::new(),
        signal_keys: Vec::new(),
        led_by: Default::default(),
    })));
    state
}

fn step(name: &str) -> Ask {
    Ask::Step { kind: StepKind::Step, name: name.to_owned(), retry: RETRY }
}

fn open(place: &Place, name: &str, attempt: u32) -> OpenStep {
    OpenStep { place: place.clone(), kind: StepKind::Step, name: name.to_owned(), attempt, retry: RETRY }
}

fn apply(state: &mut State, events: &[Event]) {
    events.iter().for_each(|event| state.apply(event));
}

fn asked(state: &mut State, place: u32, question: &Ask, at_ms: u64) -> Result<Answer, Stop> {
    let id = run();
    let decision = ask(state, &RunNames(&id), &Place::new(vec![place]), question, &now(at_ms)).unwrap();
    apply(state, &decision.events);
    decision.answer
}

/// A workflow of so many steps, run once over its history: stops for good after `budget` appended events, as a host does
/// that is killed. Counts what reaches the far end.
fn replay(
    history: &mut Vec<Event>,
    steps: u32,
    budget: usize,
    at_ms: u64,
    far: &mut BTreeMap<String, u32>,
) -> Option<Result<(), Stop>> {
    let id = run();
    let mut state = State::default();
    apply(&mut state, history);
    let mut appended = 0;
    for number in 0..steps * 2 {
        let place = Place::new(vec![number]);
        let question = match number % 2 {
            0 => step(&format!("step-{number}")),
            _ => Ask::Sleep { name: "nap".to_owned(), ms: 10 },
        };
        let decision = ask(&state, &RunNames(&id), &place, &question, &now(at_ms)).unwrap();
        let mut decisions = vec![decision];
        if let Ok(Answer::Execute { idempotency_key, attempt }) = decisions[0].answer.clone() {
            *far.entry(idempotency_key).or_default() += 1;
            decisions.push(
                complete(&open(&place, &format!("step-{number}"), attempt), Ok("1".into()), &now(at_ms)).unwrap(),
            );
        }
        for decision in decisions {
            for event in decision.events {
                if appended == budget {
                    return None;
                }
                appended += 1;
                state.apply(&event);
                history.push(event);
            }
            if let Err(stop) = decision.answer {
                return Some(Err(stop));
            }
        }
    }
    Some(Ok(()))
}

proptest! {
    #[test]
    fn a_run_cut_after_any_prefix_of_its_events_comes_to_the_same_end(cuts in prop::collection::vec(0_usize..6, 0..60)) {
        let (mut whole, mut cut) = (Vec::new(), Vec::new());
        let (mut far_whole, mut far_cut) = (BTreeMap::new(), BTreeMap::new());
        let mut at_ms = 0;
        while replay(&mut whole, 5, usize::MAX, at_ms, &mut far_whole) != Some(Ok(())) {
            at_ms += 10;
        }
        at_ms = 0;
        for budget in cuts {
            replay(&mut cut, 5, budget, at_ms, &mut far_cut);
            at_ms += 10;
        }
        while replay(&mut cut, 5, usize::MAX, at_ms, &mut far_cut) != Some(Ok(())) {
            at_ms += 10;
        }
        // The same keys, and each step and sleep stands in the history once.
        prop_assert_eq!(far_whole.keys().collect::<Vec<_>>(), far_cut.keys().collect::<Vec<_>>());
        let words = |events: &[Event]| events.iter().map(|event| (event.word(), event.place().cloned())).collect::<Vec<_>>();
        prop_assert_eq!(words(&whole), words(&cut));
    }

    #[test]
    fn a_pause_is_between_half_and_the_whole_and_never_over_its_cap(failed in 1_u32..200, dice in any::<u64>(), first in 0_u64..100_000) {
        let retry = Retry { first_ms: first, ..RETRY };
        prop_assert!(pause_ms(&retry, failed, dice) <= retry.max_ms);
        prop_assert!(pause_ms(&retry, 1, dice) >= first.min(retry.max_ms) / 2);
    }
}

#[test]
fn a_finished_step_is_never_executed_again_and_a_failed_one_waits_for_its_pause() {
    let mut state = begun();
    let place = Place::new(vec![0]);
    let Ok(Answer::Execute { idempotency_key: first, attempt: 1 }) = asked(&mut state, 0, &step("charge"), 1) else {
        panic!("not executed")
    };
    let failure = StepFailure { message: "no line".to_owned(), again: true };
    let failed = complete(&open(&place, "charge", 1), Err(failure), &now(1)).unwrap();
    apply(&mut state, &failed.events);
    assert_eq!(failed.answer, Err(Stop::Suspended));
    assert_eq!(asked(&mut state, 0, &step("charge"), 2), Err(Stop::Suspended));
    let again = asked(&mut state, 0, &step("charge"), 200);
    assert_eq!(again, Ok(Answer::Execute { idempotency_key: first, attempt: 2 }));
    let done = complete(&open(&place, "charge", 2), Ok("7".to_owned()), &now(200)).unwrap();
    apply(&mut state, &done.events);
    assert_eq!(asked(&mut state, 0, &step("charge"), 201), Ok(Answer::Outcome(Ok("7".to_owned()))));
}

#[test]
fn code_that_differs_from_its_history_is_told_place_expected_and_found() {
    let mut state = begun();
    asked(&mut state, 0, &Ask::Sleep { name: "nap".into(), ms: 1 }, 0).unwrap_err();
    let id = run();
    let fault = ask(&state, &RunNames(&id), &Place::new(vec![0]), &step("charge"), &now(9)).unwrap_err();
    assert!(matches!(fault, Fault::Nondeterminism { .. }));
    assert_eq!(fault.to_string(), "at place 0 the history has sleep `nap` and the code asks for step `charge`");
}

#[test]
fn a_signal_may_come_before_its_wait_and_one_key_counts_once() {
    let mut state = begun();
    let signal = Command::Signal { name: "go".into(), payload: "1".into(), key: Some("k".into()) };
    for expected in [1, 0] {
        let events = command(&state, &signal, &who("bob")).unwrap();
        assert_eq!(events.len(), expected);
        apply(&mut state, &events);
    }
    let wait = Ask::Signal { name: "go".into(), timeout_ms: None };
    assert_eq!(asked(&mut state, 0, &wait, 5), Ok(Answer::Signal(Some("1".into()))));
    assert_eq!(asked(&mut state, 1, &wait, 5), Err(Stop::Suspended));
    // Whoever does not know that it arrived sends it again, also when the run is over; another comes too late.
    apply(&mut state, &[Event::Ended(Ending::Completed { output: "1".into() })]);
    assert_eq!(command(&state, &signal, &who("bob")), Ok(Vec::new()));
    for key in [None, Some("other".to_owned())] {
        let other = Command::Signal { name: "go".into(), payload: "1".into(), key };
        assert_eq!(command(&state, &other, &who("bob")), Err(Refusal::Ended));
    }
}

#[test]
fn the_run_that_one_goes_on_as_has_the_signals_nobody_took_and_knows_the_keys_of_those_that_were() {
    let send = |state: &mut State, name: &str, key: Option<String>| {
        let signal = Command::Signal { name: name.to_owned(), payload: format!("\"{name}\""), key };
        let events = command(state, &signal, &who("bob")).unwrap();
        apply(state, &events);
        events.len()
    };
    let wait = |name: &str| Ask::Signal { name: name.to_owned(), timeout_ms: None };
    let goes_on = |old: &State| {
        let (signal_keys, received) = old.handed_on();
        let mut state = State::default();
        state.apply(&Event::Started(Box::new(Started { signal_keys, ..old.started.clone().unwrap() })));
        apply(&mut state, &received);
        state
    };
    let mut old = begun();
    assert_eq!(send(&mut old, "taken", Some("a".into())) + send(&mut old, "left", Some("b".into())), 2);
    assert_eq!(send(&mut old, "bare", None), 1);
    assert_eq!(asked(&mut old, 0, &wait("taken"), 1), Ok(Answer::Signal(Some("\"taken\"".into()))));
    let mut new = goes_on(&old);
    assert_eq!(
        new.signals.iter().map(|signal| (signal.name.as_str(), signal.by.clone())).collect::<Vec<_>>(),
        [("left", who("bob")), ("bare", who("bob"))]
    );
    for (name, key, counts) in [("taken", Some("a"), 0), ("left", Some("b"), 0), ("left", Some("c"), 1)] {
        assert_eq!(send(&mut new, name, key.map(str::to_owned)), counts, "{key:?}");
    }
    assert_eq!(asked(&mut new, 0, &wait("bare"), 1), Ok(Answer::Signal(Some("\"bare\"".into()))));
    assert_eq!(asked(&mut new, 1, &wait("taken"), 1), Err(Stop::Suspended), "it counts once");
    // For as long as it goes on as others; of many, the last are known.
    for number in 0..SIGNAL_KEYS_COUNT_MAX {
        let key = Some(number.to_string());
        assert_eq!(send(&mut new, "many", key.clone()), 1);
        assert!(asked(&mut new, 2 + number as u32, &wait("many"), 1).is_ok());
    }
    let mut last = goes_on(&new);
    assert_eq!(last.started.as_ref().unwrap().signal_keys.len(), SIGNAL_KEYS_COUNT_MAX);
    assert_eq!((send(&mut last, "many", Some("0".into())), send(&mut last, "left", Some("b".into()))), (0, 0));
    assert_eq!(send(&mut last, "taken", Some("a".into())), 1, "it is one too long ago");
    let long = Some("k".repeat(NAME_BYTES_MAX + 1));
    let signal = Command::Signal { name: "go".into(), payload: "1".into(), key: long };
    assert!(matches!(command(&last, &signal, &who("bob")), Err(Refusal::Limit { .. })));
}

#[test]
fn after_a_cancelling_only_compensations_are_begun() {
    let mut state = begun();
    let cancelled = command(&state, &Command::Cancel, &who("ann")).unwrap();
    apply(&mut state, &cancelled);
    assert_eq!(asked(&mut state, 0, &step("ship"), 1), Err(Stop::Cancelled));
    let refund = Ask::Step { kind: StepKind::Compensation, name: "refund".into(), retry: RETRY };
    assert!(matches!(asked(&mut state, 1, &refund, 1), Ok(Answer::Execute { .. })));
}

fn yes(basis: Basis) -> Command {
    let asked_at = Some(Place::new(vec![0]));
    Command::Decide { name: "pay".into(), asked_at, approved: true, note: String::new(), decision: None, basis }
}

#[test]
fn a_yes_counts_while_no_less_can_be_said_of_who_gave_it() {
    let question = Question { title: "?".into(), details: String::new(), approvals_count: 2, timeout_ms: None };
    let wait = Ask::Approval { name: "pay".into(), question };
    // Of one who was known, of one who was allowed and is only known, and of one of whom nothing could be said ever.
    for (first, basis, counts) in
        [("gone", Basis::Known, false), ("bob", Basis::Allowed, false), ("gone", Basis::Elsewhere, true)]
    {
        let mut state = begun();
        assert_eq!(asked(&mut state, 0, &wait, 1), Err(Stop::Suspended));
        let given = command(&state, &yes(basis), &who(first)).unwrap();
        apply(&mut state, &given);
        let given = command(&state, &yes(Basis::Known), &who("eve")).unwrap();
        assert_eq!(given.iter().any(|event| event.word() == "approval-dropped"), !counts, "{given:?}");
        apply(&mut state, &given);
        if !counts {
            assert_eq!(asked(&mut state, 0, &wait, 2), Err(Stop::Suspended), "{first}");
            let third = command(&state, &yes(Basis::Known), &who("dan")).unwrap();
            apply(&mut state, &third);
        }
        let by = if counts { format!("acme/{first},acme/eve") } else { "acme/eve,acme/dan".to_owned() };
        assert_eq!(asked(&mut state, 0, &wait, 3), Ok(Answer::Verdict { approved: true, by, note: String::new() }));
    }
}

#[test]
fn two_approvals_are_of_two_persons_none_of_whom_began_the_run() {
    let mut state = begun();
    let question = Question { title: "?".into(), details: String::new(), approvals_count: 2, timeout_ms: None };
    let wait = Ask::Approval { name: "pay".into(), question };
    assert_eq!(asked(&mut state, 0, &wait, 1), Err(Stop::Suspended));
    let yes = yes(Basis::Known);
    // Nobody's word counts that policy allowed for another place, or when nothing was asked yet.
    for elsewhere in [None, Some(Place::new(vec![1]))] {
        let Command::Decide { name, approved, note, decision, basis, .. } = yes.clone() else { panic!("no word") };
        let other = Command::Decide { name, asked_at: elsewhere, approved, note, decision, basis };
        assert!(matches!(command(&state, &other, &who("bob")), Err(Refusal::Nothing(_))));
    }
    for starter in ["ann", "ann-spare"] {
        assert!(matches!(command(&state, &yes, &who(starter)), Err(Refusal::SecondPerson(_))), "{starter}");
    }
    let first = command(&state, &yes, &who("bob")).unwrap();
    apply(&mut state, &first);
    for same in ["bob", "bob-spare"] {
        assert!(matches!(command(&state, &yes, &who(same)), Err(Refusal::SecondPerson(_))), "{same}");
    }
    assert_eq!(asked(&mut state, 0, &wait, 2), Err(Stop::Suspended));
    let second = command(&state, &yes, &who("eve")).unwrap();
    apply(&mut state, &second);
    let verdict = Answer::Verdict { approved: true, by: "acme/bob,acme/eve".into(), note: String::new() };
    assert_eq!(asked(&mut state, 0, &wait, 3), Ok(verdict));
}

#[test]
fn whoever_has_a_plugin_begin_a_run_began_it() {
    let mut state = begun();
    if let Some(started) = &mut state.started {
        (started.by, started.led_by.began_by) = (who("plugin/care"), Some(who("ann")));
    }
    let question = Question { title: "?".into(), details: String::new(), approvals_count: 2, timeout_ms: None };
    let wait = Ask::Approval { name: "pay".into(), question };
    assert_eq!(asked(&mut state, 0, &wait, 1), Err(Stop::Suspended));
    for starter in ["ann", "ann-spare"] {
        let refused = command(&state, &yes(Basis::Known), &who(starter));
        assert!(matches!(refused, Err(Refusal::SecondPerson(_))), "{starter}");
    }
    assert!(command(&state, &yes(Basis::Known), &who("bob")).is_ok());
}

#[test]
fn the_head_knows_what_the_history_says_is_asked() {
    let at = |place: u32| Place::new(vec![place]);
    let asked = |place: u32, name: &str, approvals_count: u32| {
        let question = Question { title: "?".into(), details: String::new(), approvals_count, timeout_ms: None };
        Event::ApprovalAsked { place: at(place), name: name.to_owned(), question, until_ms: None }
    };
    let given = |place: u32, by: &str, approved: bool| {
        let (note, decision, basis) = (String::new(), None, Basis::Known);
        Event::ApprovalGiven { place: at(place), by: who(by), approved, note, decision, basis }
    };
    let rewound = |place: u32| Event::Rewound { to: at(place), by: who("ann") };
    let failed = Ending::Failed { code: "workflow-failed".to_owned(), message: String::new() };
    let events = [
        asked(0, "pay", 2),
        given(0, "bob", true),
        Event::ApprovalDropped { place: at(0), by: who("bob") },
        given(0, "eve", true),
        given(0, "dan", true),
        asked(2, "pay", 1),
        asked(1, "pay", 1),
        Event::TimeOver { place: at(1) },
        given(2, "bob", false),
        asked(3, "ship", 1),
        asked(4, "pay", 1),
        Event::Refused { place: at(3), what: "approval".to_owned(), name: "ship".to_owned() },
        asked(5, "ship", 3),
        rewound(5),
        asked(5, "ship", 1),
        Event::Ended(failed),
        rewound(4),
    ];
    let (mut state, mut asks) = (begun(), Asks::nothing());
    for (number, event) in events.iter().enumerate() {
        state.apply(event);
        asks.apply(event, number as u64);
        for name in ["pay", "ship"] {
            assert_eq!(asks.first(name).map(|ask| &ask.place), state.asked(name), "{name} after {number}: {event:?}");
        }
    }
    // Of more than are kept, it says nothing rather than something wrong, for good.
    for place in 0..65 {
        assert!(asks.is_known(), "{place}");
        asks.apply(&asked(place, "pay", 1), 1);
    }
    asks.apply(&given(0, "bob", true), 2);
    assert!(!asks.is_known() && asks.first("pay").is_none());
}

#[test]
fn nobody_decides_after_the_time_of_a_question() {
    let question = Question { title: "?".into(), details: String::new(), approvals_count: 1, timeout_ms: Some(10) };
    let wait = Ask::Approval { name: "pay".into(), question };
    let mut state = begun();
    assert_eq!(asked(&mut state, 0, &wait, 100), Err(Stop::Suspended));
    // Nothing is driven while it is paused, and so nobody writes down that the time is over.
    apply(&mut state, &[Event::Paused { by: who("ann") }]);
    let Command::Decide { name, asked_at, note, decision, basis, .. } = yes(Basis::Known) else { panic!("no word") };
    let no = Command::Decide { name, asked_at, approved: false, note, decision, basis };
    for word in [yes(Basis::Known), no] {
        assert_eq!(command_at(&state, &word, &who("bob"), 109).unwrap().len(), 1, "{word:?}");
        let late = command_at(&state, &word, &who("bob"), 110);
        assert!(matches!(&late, Err(Refusal::Nothing(why)) if why.contains("time to decide")), "{late:?}");
    }
    apply(&mut state, &[Event::Resumed { by: who("ann") }]);
    let verdict = asked(&mut state, 0, &wait, 110);
    assert!(matches!(&verdict, Ok(Answer::Verdict { approved: false, by, .. }) if by.is_empty()), "{verdict:?}");
}

#[test]
fn a_rewound_step_that_had_succeeded_gets_another_key_and_a_failed_one_keeps_its() {
    let id = run();
    let key = |place: u32, redone| RunNames(&id).idempotency_key(&Place::new(vec![place]), redone);
    let mut state = begun();
    for (place, result) in [(0, Ok("1".to_owned())), (1, Err("no".to_owned()))] {
        let place = Place::new(vec![place]);
        state.apply(&Event::StepDone { place, kind: StepKind::Step, name: "s".into(), attempt: 1, result });
    }
    state.apply(&Event::Rewound { to: Place::new(vec![0]), by: who("ann") });
    for (place, redone) in [(0, 1), (1, 0)] {
        let execute = Answer::Execute { idempotency_key: key(place, redone), attempt: 1 };
        assert_eq!(asked(&mut state, place, &step("s"), 1), Ok(execute));
    }
}

#[test]
fn a_history_ends_at_its_limit_and_signals_nobody_waits_for_are_bounded() {
    let mut state = begun();
    state.events_count = HISTORY_EVENTS_COUNT_MAX;
    let id = run();
    let fault = ask(&state, &RunNames(&id), &Place::new(vec![0]), &Ask::Now, &now(1)).unwrap_err();
    assert_eq!(fault.code(), "workflow-limit");
    let mut state = begun();
    let signal = |number: usize| Command::Signal { name: number.to_string(), payload: "1".into(), key: None };
    for number in 0..SIGNALS_WAITING_COUNT_MAX {
        let events = command(&state, &signal(number), &who("bob")).unwrap();
        apply(&mut state, &events);
    }
    assert!(matches!(command(&state, &signal(0), &who("bob")), Err(Refusal::Limit { .. })));
}

#[test]
fn a_signal_of_a_name_that_is_none_is_refused_unless_it_is_waited_for() {
    let mut state = begun();
    let signal = |name: &str| Command::Signal { name: name.into(), payload: "1".into(), key: None };
    for name in ["", "bad name!", "paid\n"] {
        assert_eq!(command(&state, &signal(name), &who("bob")), Err(Refusal::BadName(name.to_owned())));
    }
    assert!(command(&state, &signal("com.example.order/paid:v1"), &who("bob")).is_ok());
    let wait = Ask::Signal { name: "bad name!".into(), timeout_ms: None };
    assert_eq!(asked(&mut state, 0, &wait, 1), Err(Stop::Suspended));
    assert!(command(&state, &signal("bad name!"), &who("bob")).is_ok());
}

#[test]
fn a_sleep_is_over_once_and_time_and_dice_are_the_same_at_every_replay() {
    let mut state = begun();
    let nap = Ask::Sleep { name: "nap".into(), ms: 10 };
    assert_eq!(asked(&mut state, 0, &nap, 100), Err(Stop::Suspended));
    assert_eq!(asked(&mut state, 0, &nap, 109), Err(Stop::Suspended));
    assert_eq!(asked(&mut state, 0, &nap, 110), Ok(Answer::Done));
    let events_count = state.events_count;
    // The clock may be set back: what is over stays over.
    assert_eq!(asked(&mut state, 0, &nap, 5), Ok(Answer::Done));
    assert_eq!(state.events_count, events_count);
    assert_eq!(asked(&mut state, 1, &Ask::Now, 200), Ok(Answer::Number(200)));
    assert_eq!(asked(&mut state, 1, &Ask::Now, 999), Ok(Answer::Number(200)));
}

#[test]
fn an_attempt_that_was_begun_and_never_ended_counts_and_keeps_its_key() {
    let mut state = begun();
    let id = run();
    let place = Place::new(vec![0]);
    let careful = Now { attempts: Attempts::BeforeToo, ..now(1) };
    let key = RunNames(&id).idempotency_key(&place, 0);
    for attempt in 1..=3 {
        let decision = ask(&state, &RunNames(&id), &place, &step("charge"), &careful).unwrap();
        assert_eq!(decision.answer, Ok(Answer::Execute { idempotency_key: key.clone(), attempt }));
        assert_eq!(decision.events.iter().map(Event::word).collect::<Vec<_>>(), ["step-begun"]);
        apply(&mut state, &decision.events);
    }
    // Another attempt is not there, whether attempts are written down or not.
    let decision = ask(&state, &RunNames(&id), &place, &step("charge"), &now(1)).unwrap();
    assert!(matches!(&decision.answer, Ok(Answer::Outcome(Err(why))) if why.contains("the host ended")));
    apply(&mut state, &decision.events);
    assert!(matches!(asked(&mut state, 0, &step("charge"), 2), Ok(Answer::Outcome(Err(_)))));
}

#[test]
fn what_was_begun_and_completed_is_as_any_other_step() {
    let mut state = begun();
    let (id, place) = (run(), Place::new(vec![0]));
    let careful = Now { attempts: Attempts::BeforeToo, ..now(1) };
    let decision = ask(&state, &RunNames(&id), &place, &step("charge"), &careful).unwrap();
    apply(&mut state, &decision.events);
    let done = complete(&open(&place, "charge", 1), Ok("7".to_owned()), &now(2)).unwrap();
    apply(&mut state, &done.events);
    assert_eq!(asked(&mut state, 0, &step("charge"), 3), Ok(Answer::Outcome(Ok("7".to_owned()))));
}

#[test]
fn a_run_can_be_terminated_whatever_it_is_like_and_cancelled_when_it_is_stuck_or_paused() {
    let words = |events: &[Event]| events.iter().map(Event::word).collect::<Vec<_>>();
    let terminate = Command::Terminate { reason: "enough".to_owned() };
    let mut state = begun();
    state.events_count = HISTORY_EVENTS_COUNT_MAX;
    assert!(matches!(command(&state, &Command::Pause, &who("ann")), Err(Refusal::Limit { .. })));
    assert_eq!(words(&command(&state, &terminate, &who("ann")).unwrap()), ["ended"]);
    let mut state = begun();
    state.apply(&Event::Stuck { code: "trap".to_owned(), message: String::new() });
    state.apply(&Event::Paused { by: who("ann") });
    let cancelled = command(&state, &Command::Cancel, &who("ann")).unwrap();
    assert_eq!(words(&cancelled), ["cancel-asked", "resumed", "retried"]);
    apply(&mut state, &cancelled);
    assert!(state.stuck.is_none() && !state.is_paused && state.cancelled_by.is_some());
    assert!(command(&state, &Command::Cancel, &who("ann")).unwrap().is_empty(), "it is on its way");
}

#[test]
fn branches_children_and_their_depth_are_bounded() {
    let id = run();
    let refused = |state: &State, question: &Ask| {
        let fault = ask(state, &RunNames(&id), &Place::new(vec![0]), question, &now(1)).unwrap_err();
        assert_eq!(fault.code(), "workflow-limit");
    };
    refused(&begun(), &Ask::Fork { branches_count: BRANCHES_COUNT_MAX + 1 });
    let child = Ask::Child { workflow: "shop".to_owned(), input: "null".to_owned() };
    let mut state = begun();
    state.children_count = CHILDREN_COUNT_MAX;
    refused(&state, &child);
    let mut state = begun();
    state.started.as_mut().unwrap().depth = CHILD_DEPTH_MAX;
    refused(&state, &child);
}
