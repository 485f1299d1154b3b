//! Incidents: a state machine after NIST SP 800-61r3, clocks of breach notices, drafts that people send.
//!
//! Pure. Detect, respond and recover are the incident; improvement follows it. Must never skip a state, accept a step
//! without who, when and why, or count one person as two; and must never send anything to anybody.

use jiff::{SignedDuration, Timestamp};
use ringfence_audit::SecondPerson;
use ringfence_core::PrincipalId;
use serde::{Deserialize, Serialize};

use crate::ThreatError;
use crate::sigma::Level;

/// LIMIT: steps of one incident.
const STEPS_COUNT_MAX: usize = 200;
/// LIMIT: responses that are made, or asked for, with one step.
pub const ACTIONS_COUNT_MAX: usize = 64;
/// LIMIT: links to evidence of one step.
const EVIDENCE_COUNT_MAX: usize = 64;
/// LIMIT: longest reason, title or fact, in bytes.
const WORDS_BYTES_MAX: usize = 4_096;
/// LIMIT: incidents of one owner.
pub const INCIDENTS_COUNT_MAX: usize = 1_000;
/// How long a controller has to tell its authority, in hours: by each of the laws of [`JURISDICTIONS`].
const AUTHORITY_HOURS: i64 = 72;
/// How long before its end a clock is told of for the first time.
const NEAR: SignedDuration = SignedDuration::from_hours(24);
/// Where people are whom a breach can concern, and whose clock that starts.
pub const JURISDICTIONS: [Jurisdiction; 6] = [
    Jurisdiction { word: "uk", whom: "Information Commissioner's Office", law: "UK GDPR, article 33(1)" },
    // Of the others than Ireland the authority is for people to find: by the controller's establishment, not by where people are.
    Jurisdiction {
        word: "eu",
        whom: "the supervisory authority that is competent (GDPR, articles 55 and 56)",
        law: "Regulation (EU) 2016/679 (GDPR), article 33(1)",
    },
    Jurisdiction {
        word: "ireland",
        whom: "Data Protection Commission",
        law: "Regulation (EU) 2016/679 (GDPR), article 33(1)",
    },
    // Where the number of the article was not to be had from the law itself, the law is named without one.
    Jurisdiction {
        word: "jersey",
        whom: "Jersey Office of the Information Commissioner",
        law: "Data Protection (Jersey) Law 2018, within 72 hours",
    },
    Jurisdiction {
        word: "guernsey",
        whom: "Office of the Data Protection Authority",
        law: "Data Protection (Bailiwick of Guernsey) Law, 2017, section 42",
    },
    Jurisdiction {
        word: "isle-of-man",
        whom: "Isle of Man Information Commissioner",
        law: "Data Protection (Application of GDPR) Order 2018 of the Isle of Man, within 72 hours",
    },
];
/// What a notice to an authority says (article 33(3)).
const NOTICE_FIELDS: [&str; 8] = [
    "nature",
    "categories_of_people",
    "people_count",
    "categories_of_records",
    "records_count",
    "contact",
    "consequences",
    "measures",
];

/// Whose law has a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jurisdiction {
    /// As a step names it.
    pub word: &'static str,
    /// The authority that is told.
    pub whom: &'static str,
    /// Where the law says so.
    pub law: &'static str,
}

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Somebody says that something happened.
    Reported,
    /// It was looked at.
    Triaged,
    /// It is one.
    Declared,
    /// It is none.
    Dismissed,
    /// It does not grow any more.
    Contained,
    /// Its cause is gone.
    Eradicated,
    /// What it broke works again.
    Recovered,
    /// It is over.
    Closed,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transition {
    /// Opens it.
    Report,
    /// It was looked at.
    Triage,
    /// It is one; clocks begin.
    Declare,
    /// It is none.
    Dismiss,
    /// Something was done, or learnt, without another state.
    Note,
    /// It does not grow any more.
    Contain,
    /// Its cause is gone.
    Eradicate,
    /// What it broke works again.
    Recover,
    /// It is over; takes another person than who declared it.
    Close,
    /// What is done better from now on.
    Improve,
    /// Agrees to an action that another asked for.
    ApproveAction,
}

/// Whether personal data is concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PersonalData {
    /// It is not known, which runs the clocks as if it were.
    #[default]
    Unknown,
    /// It is.
    Concerned,
    /// It is not.
    Untouched,
}

/// One step that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub transition: Transition,
    /// By whom.
    pub by: PrincipalId,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Findings, places in logs, responses, documents.
    pub evidence: Vec<String>,
}

/// What was told of a clock last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It ends within 24 hours.
    Near,
    /// It has ended.
    Over,
}

/// A clock that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreachClock {
    /// Where.
    pub jurisdiction: String,
    /// Who is to be told.
    pub whom: String,
    /// Where the law says so; nothing for clocks that began before hosts kept it.
    #[serde(default)]
    pub law: String,
    /// Since when.
    pub from: Timestamp,
    /// Until when; the controller is told without undue delay, which is now.
    pub due_at: Timestamp,
    /// What the reader told of it; none before it comes near its end, and for what is due at once.
    #[serde(default)]
    pub told: Option<Told>,
}

/// How long it took, in seconds; none for what has not happened, or is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Times {
    /// From its beginning, as it is known now, to its report.
    pub detected_after_s: Option<i64>,
    /// From its report until it did not grow any more.
    pub contained_after_s: Option<i64>,
    /// From its report until what it broke worked again.
    pub recovered_after_s: Option<i64>,
}

/// An incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `in_` and 26 letters.
    pub id: String,
    /// What it is.
    pub title: String,
    /// How bad.
    pub level: Level,
    /// Where it stands.
    pub state: State,
    /// Everything that was done, oldest first.
    pub steps: Vec<Step>,
    /// Whether personal data is concerned.
    pub personal_data: PersonalData,
    /// Where the people concerned are.
    pub jurisdictions: Vec<String>,
    /// When its owner knew.
    pub aware_at: Option<Timestamp>,
    /// When it began, as it was last corrected.
    pub began_at: Option<Timestamp>,
    /// When it began, as it was said first.
    #[serde(default)]
    pub began_at_first: Option<Timestamp>,
    /// Clocks that run.
    pub clocks: Vec<BreachClock>,
    /// What is known for a notice.
    pub facts: std::collections::BTreeMap<String, String>,
    /// Responses that were made or asked for with its steps.
    pub responses: Vec<String>,
}

/// What a step says.
#[derive(Debug, Clone)]
pub struct Saying {
    /// Which step.
    pub transition: Transition,
    /// Why.
    pub reason: String,
    /// Findings, places in logs, responses, documents.
    pub evidence: Vec<String>,
    /// What it is, when it is opened.
    pub title: Option<String>,
    /// How bad.
    pub level: Option<Level>,
    /// Whether personal data is concerned.
    pub personal_data: Option<PersonalData>,
    /// Where the people concerned are.
    pub jurisdictions: Option<Vec<String>>,
    /// When its owner knew.
    pub aware_at: Option<Timestamp>,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// What is known for a notice.
    pub facts: std::collections::BTreeMap<String, String>,
}

/// A draft of a notice. People send it, nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Draft {
    /// Who is to be told.
    pub whom: String,
    /// Where the law says so.
    pub law: String,
    /// Until when.
    pub due_at: Timestamp,
    /// The fields, as far as they are known.
    pub fields: std::collections::BTreeMap<String, String>,
    /// The fields that are not.
    pub missing: Vec<String>,
}

// === impl Transition ===

impl Transition {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Report,
        Self::Triage,
        Self::Declare,
        Self::Dismiss,
        Self::Note,
        Self::Contain,
        Self::Eradicate,
        Self::Recover,
        Self::Close,
        Self::Improve,
        Self::ApproveAction,
    ];
}

// === impl PersonalData ===

impl PersonalData {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Concerned, Self::Untouched];
}

// === impl Incident ===

impl Incident {
    /// Opens one.
    pub fn open(id: String, saying: &Saying, by: &PrincipalId, now: Timestamp) -> Result<Self, ThreatError> {
        if saying.transition != Transition::Report {
            return bad("an incident begins with `report`");
        }
        let title = saying.title.clone().filter(|title| !title.trim().is_empty() && title.len() <= WORDS_BYTES_MAX);
        let Some(title) = title else { return bad("an incident has a title of at most 4096 bytes") };
        let mut incident = Self {
            id,
            title,
            level: saying.level.unwrap_or(Level::Medium),
            state: State::Reported,
            steps: Vec::new(),
            personal_data: PersonalData::Unknown,
            jurisdictions: Vec::new(),
            aware_at: None,
            began_at: None,
            began_at_first: None,
            clocks: Vec::new(),
            facts: std::collections::BTreeMap::new(),
            responses: Vec::new(),
        };
        incident.note(saying, by, now)?;
        Ok(incident)
    }

    /// Takes a step.
    pub fn step(
        &mut self,
        saying: &Saying,
        by: &PrincipalId,
        now: Timestamp,
        are_two: &SecondPerson<'_>,
    ) -> Result<(), ThreatError> {
        let next = next(self.state, saying.transition).ok_or_else(|| ThreatError::BadTransition {
            what: format!("`{}` does not follow `{}`", word(&saying.transition), word(&self.state)),
        })?;
        let declared_by = self.by_of(Transition::Declare);
        if saying.transition == Transition::Close && !declared_by.is_some_and(|other| are_two(other, by)) {
            return Err(ThreatError::SecondPerson);
        }
        self.note(saying, by, now)?;
        self.state = next;
        if saying.transition == Transition::Declare {
            self.aware_at = Some(self.aware_at.unwrap_or(now));
        }
        self.start_clocks()
    }

    /// Drafts of the notices that are due, one for each clock.
    pub fn drafts(&self) -> Vec<Draft> {
        let draft = |clock: &BreachClock| {
            let known = |field: &&str| self.facts.contains_key(*field);
            Draft {
                whom: clock.whom.clone(),
                law: clock.law.clone(),
                due_at: clock.due_at,
                fields: self.facts.clone(),
                missing: NOTICE_FIELDS.iter().filter(|field| !known(field)).map(ToString::to_string).collect(),
            }
        };
        self.clocks.iter().map(draft).collect()
    }

    /// How long it took to be found, contained and made good.
    pub fn times(&self) -> Times {
        let at = |wanted: Transition| self.steps.iter().find(|step| step.transition == wanted).map(|step| step.at);
        let between = |from: Option<Timestamp>, to: Option<Timestamp>| Some(to?.duration_since(from?).as_secs());
        let reported = at(Transition::Report);
        Times {
            detected_after_s: between(self.began_at, reported),
            contained_after_s: between(reported, at(Transition::Contain)),
            recovered_after_s: between(reported, at(Transition::Recover)),
        }
    }

    /// When one of its clocks is to be told of next; none once it is over, or was none.
    pub fn next_told_at(&self) -> Option<Timestamp> {
        if matches!(self.state, State::Dismissed | State::Closed) {
            return None;
        }
        self.clocks.iter().filter_map(BreachClock::next).map(|(_, at)| at).min()
    }

    /// The clocks that are to be told of now, as told.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<BreachClock> {
        if self.next_told_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let due = self.clocks.iter_mut().filter_map(|clock| {
            let before = clock.told;
            // Of one that is over at once nobody needs to hear that it was near.
            while let Some((told, _)) = clock.next().filter(|(_, at)| *at <= now) {
                clock.told = Some(told);
            }
            (clock.told != before).then(|| clock.clone())
        });
        due.collect()
    }

    fn by_of(&self, transition: Transition) -> Option<&PrincipalId> {
        self.steps.iter().rev().find(|step| step.transition == transition).map(|step| &step.by)
    }

    fn note(&mut self, saying: &Saying, by: &PrincipalId, now: Timestamp) -> Result<(), ThreatError> {
        if saying.reason.trim().is_empty() || saying.reason.len() > WORDS_BYTES_MAX {
            return bad("a step needs a reason of at most 4096 bytes");
        }
        if saying.evidence.len() > EVIDENCE_COUNT_MAX || saying.evidence.iter().any(|link| link.len() > 512) {
            return bad("a step has at most 64 links to evidence of 512 bytes");
        }
        if self.steps.len() >= STEPS_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "steps", count_max: STEPS_COUNT_MAX });
        }
        for (field, fact) in &saying.facts {
            if !NOTICE_FIELDS.contains(&field.as_str()) || fact.len() > WORDS_BYTES_MAX {
                let field: String = field.chars().take(40).collect();
                let known = NOTICE_FIELDS.map(|known| format!("`{known}`")).join(", ");
                return bad(&format!("`{field}` is no field of a notice, or over 4096 bytes; there are {known}"));
            }
        }
        if let Some(jurisdictions) = &saying.jurisdictions {
            let is_known = |name: &&String| JURISDICTIONS.iter().any(|known| known.word == name.as_str());
            if let Some(name) = jurisdictions.iter().find(|name| !is_known(name)) {
                let name: String = name.chars().take(40).collect();
                let known = JURISDICTIONS.map(|known| format!("`{}`", known.word)).join(", ");
                return bad(&format!("the clock of `{name}` is not known here; there are {known}"));
            }
            self.jurisdictions.clone_from(jurisdictions);
        }
        if saying.aware_at.is_some_and(|at| at > now) || saying.began_at.is_some_and(|at| at > now) {
            return bad("nobody can have known of what is still to come");
        }
        self.personal_data = saying.personal_data.unwrap_or(self.personal_data);
        self.level = saying.level.unwrap_or(self.level);
        self.aware_at = saying.aware_at.or(self.aware_at);
        self.began_at_first = self.began_at_first.or(self.began_at).or(saying.began_at);
        self.began_at = saying.began_at.or(self.began_at);
        self.facts.extend(saying.facts.clone());
        self.steps.push(Step {
            transition: saying.transition,
            by: by.clone(),
            at: now,
            reason: saying.reason.clone(),
            evidence: saying.evidence.clone(),
        });
        Ok(())
    }

    /// The clocks as they follow from what is known: from awareness, unless personal data is untouched.
    fn start_clocks(&mut self) -> Result<(), ThreatError> {
        let before = std::mem::take(&mut self.clocks);
        let declared = self.by_of(Transition::Declare).is_some();
        let (Some(from), true) = (self.aware_at, declared && self.personal_data != PersonalData::Untouched) else {
            return Ok(());
        };
        let due = from.checked_add(SignedDuration::from_hours(AUTHORITY_HOURS));
        let due_at = due.map_err(|_| ThreatError::BadStep { what: "its clocks cannot be told".to_owned() })?;
        self.clocks.push(BreachClock {
            jurisdiction: "all".to_owned(),
            whom: "the controller, by its processor, without undue delay".to_owned(),
            law: "UK GDPR and GDPR, article 33(2), and what the others say in its place".to_owned(),
            from,
            due_at: from,
            told: None,
        });
        for Jurisdiction { word, whom, law } in JURISDICTIONS {
            if !self.jurisdictions.iter().any(|own| own == word) {
                continue;
            }
            let same = before.iter().find(|clock| clock.jurisdiction == word && clock.due_at == due_at);
            let told = same.and_then(|clock| clock.told);
            let (jurisdiction, whom, law) = (word.to_owned(), whom.to_owned(), law.to_owned());
            self.clocks.push(BreachClock { jurisdiction, whom, law, from, due_at, told });
        }
        Ok(())
    }
}

// === impl BreachClock ===

impl BreachClock {
    /// What is told of it next, and when. What is due at once does not come near its end: whoever declares it knows.
    fn next(&self) -> Option<(Told, Timestamp)> {
        if self.due_at <= self.from {
            return None;
        }
        match self.told {
            None => Some((Told::Near, self.due_at.checked_sub(NEAR).unwrap_or(self.from))),
            Some(Told::Near) => Some((Told::Over, self.due_at)),
            Some(Told::Over) => None,
        }
    }
}

/// The state after a step; none when the step does not follow.
fn next(state: State, transition: Transition) -> Option<State> {
    match (state, transition) {
        (State::Reported, Transition::Triage) => Some(State::Triaged),
        (State::Triaged, Transition::Declare) => Some(State::Declared),
        (State::Reported | State::Triaged, Transition::Dismiss) => Some(State::Dismissed),
        (State::Declared, Transition::Contain) => Some(State::Contained),
        (State::Contained, Transition::Eradicate) => Some(State::Eradicated),
        (State::Eradicated, Transition::Recover) => Some(State::Recovered),
        (State::Recovered, Transition::Close) => Some(State::Closed),
        (State::Closed, Transition::Improve) => Some(State::Closed),
        (State::Dismissed | State::Closed, Transition::Note | Transition::ApproveAction) => None,
        (state, Transition::Note | Transition::ApproveAction) => Some(state),
        _ => None,
    }
}

fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}

fn bad<T>(what: &str) -> Result<T, ThreatError> {
    Err(ThreatError::BadStep { what: what.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn saying(transition: Transition) -> Saying {
        Saying {
            transition,
            reason: "because".into(),
            evidence: vec!["f_1".into()],
            title: Some("T".into()),
            level: None,
            personal_data: None,
            jurisdictions: None,
            aware_at: None,
            began_at: None,
            facts: Default::default(),
        }
    }

    fn who(name: &str) -> PrincipalId {
        name.parse().unwrap()
    }

    /// In these tests each name is a person, but for the keys of one: `a` and `a2`.
    fn apart(one: &PrincipalId, other: &PrincipalId) -> bool {
        one.as_str().trim_end_matches('2') != other.as_str().trim_end_matches('2')
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn opened() -> Incident {
        Incident::open("in_1".into(), &saying(Transition::Report), &who("acme/a"), at(1_000)).unwrap()
    }

    #[test]
    fn the_whole_way_takes_two_people_and_leaves_a_step_for_each_state() {
        let mut incident = opened();
        for transition in
            [Transition::Triage, Transition::Declare, Transition::Contain, Transition::Eradicate, Transition::Recover]
        {
            incident.step(&saying(transition), &who("acme/a"), at(2_000), &apart).unwrap();
        }
        for same in ["acme/a", "acme/a2"] {
            let alone = incident.step(&saying(Transition::Close), &who(same), at(3_000), &apart);
            assert!(matches!(alone, Err(ThreatError::SecondPerson)), "{same}");
        }
        incident.step(&saying(Transition::Close), &who("acme/b"), at(3_000), &apart).unwrap();
        incident.step(&saying(Transition::Improve), &who("acme/a"), at(4_000), &apart).unwrap();
        assert_eq!((incident.state, incident.steps.len()), (State::Closed, 8));
        assert!(incident.step(&saying(Transition::Declare), &who("acme/b"), at(5_000), &apart).is_err());
    }

    #[test]
    fn clocks_run_from_awareness_and_stop_only_when_no_personal_data_is_concerned() {
        let mut incident = opened();
        incident.step(&saying(Transition::Triage), &who("acme/a"), at(2_000), &apart).unwrap();
        let declare = Saying {
            jurisdictions: Some(vec!["uk".into(), "jersey".into()]),
            aware_at: Some(at(1_500)),
            ..saying(Transition::Declare)
        };
        incident.step(&declare, &who("acme/a"), at(9_000), &apart).unwrap();
        assert_eq!(incident.clocks.len(), 3);
        assert_eq!(incident.clocks[0].due_at, at(1_500));
        assert_eq!(incident.clocks[1].due_at, at(1_500 + 72 * 3_600));
        let facts = [("nature".to_owned(), "a key was taken".to_owned())].into();
        incident.step(&Saying { facts, ..saying(Transition::Note) }, &who("acme/a"), at(9_100), &apart).unwrap();
        let drafts = incident.drafts();
        assert_eq!((drafts.len(), drafts[1].missing.len()), (3, 7));
        let none = Saying { personal_data: Some(PersonalData::Untouched), ..saying(Transition::Note) };
        incident.step(&none, &who("acme/a"), at(9_200), &apart).unwrap();
        assert!(incident.clocks.is_empty());
    }

    #[test]
    fn a_clock_is_told_of_a_day_before_its_end_and_at_its_end_once_each_and_not_when_it_is_over() {
        let hour = 3_600;
        let mut incident = opened();
        assert_eq!(incident.next_told_at(), None);
        incident.step(&saying(Transition::Triage), &who("acme/a"), at(2_000), &apart).unwrap();
        let declare = Saying {
            jurisdictions: Some(vec!["uk".into(), "jersey".into()]),
            aware_at: Some(at(0)),
            ..saying(Transition::Declare)
        };
        incident.step(&declare, &who("acme/a"), at(2_000), &apart).unwrap();
        assert_eq!(incident.next_told_at(), Some(at(48 * hour)));
        assert!(incident.take_due(at(48 * hour - 1)).is_empty());
        let told = |incident: &mut Incident, now: i64| -> Vec<Option<Told>> {
            incident.take_due(at(now)).iter().map(|clock| clock.told).collect()
        };
        assert_eq!(told(&mut incident, 48 * hour), [Some(Told::Near); 2]);
        assert!(told(&mut incident, 48 * hour).is_empty());
        // A step leaves what was told, and another time of awareness is another clock.
        incident.step(&saying(Transition::Note), &who("acme/a"), at(49 * hour), &apart).unwrap();
        assert_eq!(incident.next_told_at(), Some(at(72 * hour)));
        assert_eq!(told(&mut incident, 72 * hour), [Some(Told::Over); 2]);
        assert_eq!(incident.next_told_at(), None);
        let aware = Saying { aware_at: Some(at(hour)), ..saying(Transition::Note) };
        incident.step(&aware, &who("acme/a"), at(74 * hour), &apart).unwrap();
        assert_eq!(told(&mut incident, 74 * hour), [Some(Told::Over); 2], "once, not near as well");
        incident
            .step(&Saying { aware_at: Some(at(2 * hour)), ..aware }, &who("acme/a"), at(75 * hour), &apart)
            .unwrap();
        incident.state = State::Closed;
        assert!(incident.next_told_at().is_none() && incident.take_due(at(99 * hour)).is_empty());
    }

    #[test]
    fn how_long_it_took_follows_the_beginning_as_corrected_and_the_first_word_on_it_is_kept() {
        let mut incident = opened();
        assert_eq!(incident.times().detected_after_s, None);
        let began = |second| Saying { began_at: Some(at(second)), ..saying(Transition::Note) };
        incident.step(&began(900), &who("acme/a"), at(1_100), &apart).unwrap();
        incident.step(&began(400), &who("acme/a"), at(1_200), &apart).unwrap();
        assert_eq!((incident.began_at_first, incident.began_at), (Some(at(900)), Some(at(400))));
        for (transition, second) in
            [(Transition::Triage, 1_300), (Transition::Declare, 1_400), (Transition::Contain, 1_700)]
        {
            incident.step(&saying(transition), &who("acme/a"), at(second), &apart).unwrap();
        }
        let times = Times { detected_after_s: Some(600), contained_after_s: Some(700), recovered_after_s: None };
        assert_eq!(incident.times(), times);
    }

    #[test]
    fn a_step_without_a_reason_or_with_an_unknown_jurisdiction_is_refused_and_changes_nothing() {
        let before = opened();
        for wrong in [
            Saying { reason: " ".into(), ..saying(Transition::Triage) },
            Saying { jurisdictions: Some(vec!["atlantis".into()]), ..saying(Transition::Triage) },
            Saying { aware_at: Some(at(9_999)), ..saying(Transition::Triage) },
            Saying { evidence: vec!["x".into(); 65], ..saying(Transition::Triage) },
        ] {
            let mut incident = before.clone();
            let refused = incident.step(&wrong, &who("acme/a"), at(2_000), &apart);
            assert!(matches!(refused, Err(ThreatError::BadStep { .. })), "{refused:?}");
            assert_eq!(incident, before);
        }
        let early = before.clone().step(&saying(Transition::Close), &who("acme/a"), at(2_000), &apart);
        assert!(matches!(early, Err(ThreatError::BadTransition { .. })), "{early:?}");
    }

    #[test]
    fn a_place_that_has_no_clock_is_refused_with_those_that_have_one() {
        let mut incident = opened();
        let places = |places: &[&str]| {
            let jurisdictions = Some(places.iter().map(ToString::to_string).collect());
            Saying { jurisdictions, ..saying(Transition::Note) }
        };
        let refused = incident.step(&places(&["EU"]), &who("acme/a"), at(2_000), &apart).unwrap_err().to_string();
        assert!(JURISDICTIONS.iter().all(|known| refused.contains(&format!("`{}`", known.word))), "{refused}");
        incident.step(&saying(Transition::Triage), &who("acme/a"), at(2_000), &apart).unwrap();
        let all: Vec<&str> = JURISDICTIONS.iter().map(|known| known.word).collect();
        let declare = Saying { transition: Transition::Declare, aware_at: Some(at(1_500)), ..places(&all) };
        incident.step(&declare, &who("acme/a"), at(9_000), &apart).unwrap();
        for known in JURISDICTIONS {
            let clock = incident.clocks.iter().find(|clock| clock.jurisdiction == known.word).unwrap();
            assert_eq!((clock.whom.as_str(), clock.law.as_str()), (known.whom, known.law));
            assert_eq!((clock.due_at, known.law.is_empty()), (at(1_500 + 72 * 3_600), false));
        }
        assert_eq!((incident.clocks.len(), incident.drafts().len()), (all.len() + 1, all.len() + 1));
    }

    #[test]
    fn every_word_of_a_step_and_every_clock_with_its_law_is_published() {
        let page = include_str!("../../../docs/reference/incidents.md");
        let words = Transition::ALL.iter().map(word).chain(PersonalData::ALL.iter().map(word));
        let words = words.chain(Level::ALL.iter().map(word)).chain(NOTICE_FIELDS.map(ToOwned::to_owned));
        for word in words {
            assert!(page.contains(&format!("`{word}`")), "{word}");
        }
        for Jurisdiction { word, whom, law } in JURISDICTIONS {
            assert!(page.contains(&format!("| `{word}` | {whom} | {law} |")), "{word}");
        }
    }

    proptest! {
        /// The table of states by itself, against one that is written down another way: the order of states.
        #[test]
        fn no_walk_reaches_a_state_without_those_before_it(walk in prop::collection::vec(0_usize..11, 0..40)) {
            let mut incident = opened();
            let mut seen = vec![State::Reported];
            for (turn, step) in walk.into_iter().enumerate() {
                let by = who(if turn % 2 == 0 { "acme/a" } else { "acme/b" });
                if incident.step(&saying(Transition::ALL[step]), &by, at(2_000), &apart).is_ok() {
                    seen.push(incident.state);
                }
            }
            let order = [State::Triaged, State::Declared, State::Contained, State::Eradicated, State::Recovered, State::Closed];
            for (place, state) in order.iter().enumerate().skip(1) {
                if seen.contains(state) {
                    prop_assert!(seen.contains(&order[place - 1]), "{seen:?}");
                }
            }
            if let Some(place) = seen.iter().position(|state| *state == State::Dismissed) {
                prop_assert!(seen[place..].iter().all(|state| *state == State::Dismissed));
            }
        }
    }
}
