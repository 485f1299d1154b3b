//! The trust score of a session: 100, less a stated deduction for each named signal. Pure: signals in, score out.
//!
//! Must never raise a score because a good signal is missing: what is unknown deducts its stated value. The same signals
//! give the same score, and every contribution says its value, where it came from and how old it is.

use ringfence_core::Strength;
use serde::{Deserialize, Serialize};

/// The score of a session that nothing speaks against.
const FULL: i32 = 100;

/// What is deducted while detection is behind: as for a finding that is worth a look.
const UNWATCHED: i32 = 20;

/// What was seen of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Posture {
    /// A claim that was verified says that it is as it should be.
    Good,
    /// A claim that was verified says that it is not.
    Failing,
}

/// How bad an open finding about a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Worth a look.
    Medium,
    /// Worth stopping for.
    High,
}

/// What detection says of a principal now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing is open, and detection keeps up.
    Nothing,
    /// Nothing is open, but detection is behind: nobody has looked.
    Unknown,
    /// The worst that is open.
    Open(Seen<Finding>),
}

/// A measured value and how long ago it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen<T> {
    /// The value.
    pub value: T,
    /// Its age in seconds.
    pub age_seconds: u64,
}

/// Everything that counts. None where a signal is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signals {
    /// How the principal was proved in this session.
    pub strength: Seen<Strength>,
    /// What a verified claim says about the device.
    pub posture: Option<Seen<Posture>>,
    /// How old the credential is that opened the session, in days.
    pub credential_days: Option<u32>,
    /// How old it may be; none where nobody said.
    pub credential_days_max: Option<u32>,
    /// For how long the network is known for this principal, in seconds.
    pub network_seconds: Option<u64>,
    /// Failed sign-ins with this credential that are not forgiven yet.
    pub failures_count: Option<u32>,
    /// Whether it is outside the hours that the tenant set; none where it set none.
    pub off_hours: Option<OffHours>,
    /// What detection says.
    pub finding: Found,
    /// How long ago the session was verified as a whole, in seconds.
    pub verified_seconds: u64,
    /// How long ago that may be, in seconds.
    pub verify_interval_seconds: u64,
    /// Sum of the risk adjustments in force: below zero where somebody raised the risk.
    pub adjustment: i32,
    /// The least risk that somebody set, 0 to 100: the score is at most 100 less this.
    pub risk_floor: u8,
}

/// Whether it is within the hours that a tenant set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffHours {
    /// It is.
    Within,
    /// It is not.
    Outside,
}

/// What one signal does to the score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contribution {
    /// The signal.
    pub name: &'static str,
    /// What it is now; `unknown` where nobody knows.
    pub value: String,
    /// Where that came from.
    pub source: &'static str,
    /// How old it is, in seconds, where that is known.
    pub age_seconds: Option<u64>,
    /// What it adds; never above zero but for adjustments.
    pub effect: i32,
}

/// A score and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// 0 to 100.
    pub value: u8,
    /// The same without what is deducted for detection being behind. Sessions are ended by this: whoever can keep detection
    /// busy must not be able to end the sessions of others.
    pub firm: u8,
    /// Every signal, those that change nothing too.
    pub contributions: Vec<Contribution>,
}

/// How long a network must be known before it is not new, in seconds.
pub const NETWORK_SETTLED_SECONDS: u64 = 24 * 3_600;

/// The score of these signals.
pub fn score(signals: &Signals) -> Score {
    let contributions = [
        factors(signals),
        phishable(signals),
        posture(signals),
        credential(signals),
        network(signals),
        travel(),
        failures(signals),
        hours(signals),
        finding(signals.finding),
        interval(signals),
        adjustment(signals.adjustment),
    ];
    summed(contributions.into(), signals.finding, signals.risk_floor)
}

/// The most that a session can stand at without anybody's word in its favour: whether devices can be verified there decides.
pub(crate) fn score_at_most(can_verify_devices: bool) -> u8 {
    let signals = Signals {
        strength: Seen { value: Strength::Passkey, age_seconds: 0 },
        posture: can_verify_devices.then_some(Seen { value: Posture::Good, age_seconds: 0 }),
        credential_days: Some(0),
        credential_days_max: None,
        network_seconds: Some(NETWORK_SETTLED_SECONDS),
        failures_count: Some(0),
        off_hours: None,
        finding: Found::Nothing,
        verified_seconds: 0,
        verify_interval_seconds: 0,
        adjustment: 0,
        risk_floor: 0,
    };
    score(&signals).value
}

/// What is known about somebody, or something, apart from any session: a session of his stands at this at the most.
pub fn score_apart(found: Found, delta: i32, risk_floor: u8) -> Score {
    summed(vec![told("session", "none", "sessions", 0), finding(found), adjustment(delta)], found, risk_floor)
}

fn summed(mut contributions: Vec<Contribution>, found: Found, risk_floor: u8) -> Score {
    let sum = |all: &[Contribution]| -> i32 { all.iter().map(|contribution| contribution.effect).sum() };
    let most = FULL - i32::from(risk_floor);
    let over = (FULL + sum(&contributions) - most).max(0);
    let unwatched = if found == Found::Unknown { UNWATCHED } else { 0 };
    let firm = (FULL + sum(&contributions) + unwatched).min(most).clamp(0, FULL);
    let value = if risk_floor == 0 { "none".to_owned() } else { format!("at least {risk_floor}") };
    // Without a floor a score over 100 is cut, and nothing is held against it.
    let effect = if risk_floor == 0 { 0 } else { -over };
    contributions.push(told("risk floor", value, "risk adjustments", effect));
    let value = u8::try_from((FULL + sum(&contributions)).clamp(0, FULL)).unwrap_or(0);
    Score { value, firm: u8::try_from(firm).unwrap_or(0), contributions }
}

fn told(name: &'static str, value: impl Into<String>, source: &'static str, effect: i32) -> Contribution {
    Contribution { name, value: value.into(), source, age_seconds: None, effect }
}

fn factors(signals: &Signals) -> Contribution {
    let (value, effect) = match signals.strength.value {
        Strength::TwoFactors | Strength::Passkey => ("two factors", 0),
        Strength::Secret | Strength::Certificate => ("one factor", -30),
        Strength::None => ("none", -FULL),
    };
    let age_seconds = Some(signals.strength.age_seconds);
    Contribution { age_seconds, ..told("factors", value, "sign-in", effect) }
}

fn phishable(signals: &Signals) -> Contribution {
    let (value, effect) = match signals.strength.value {
        Strength::Passkey | Strength::Certificate => ("cannot be phished", 0),
        Strength::TwoFactors | Strength::Secret | Strength::None => ("can be phished", -10),
    };
    let age_seconds = Some(signals.strength.age_seconds);
    Contribution { age_seconds, ..told("phishing", value, "sign-in", effect) }
}

fn posture(signals: &Signals) -> Contribution {
    let (value, effect) = match signals.posture.map(|seen| seen.value) {
        Some(Posture::Good) => ("good", 0),
        Some(Posture::Failing) => ("failing", -60),
        None => ("unknown", -15),
    };
    let age_seconds = signals.posture.map(|seen| seen.age_seconds);
    Contribution { age_seconds, ..told("device posture", value, "device verification", effect) }
}

fn credential(signals: &Signals) -> Contribution {
    let Some(days_max) = signals.credential_days_max else {
        return told("credential age", "no limit set", "trust settings", 0);
    };
    match signals.credential_days {
        Some(days) if days <= days_max => told("credential age", format!("{days} days"), "credential", 0),
        Some(days) => told("credential age", format!("{days} days, over {days_max}"), "credential", -10),
        None => told("credential age", "unknown", "credential", -10),
    }
}

fn network(signals: &Signals) -> Contribution {
    match signals.network_seconds {
        Some(seconds) if seconds >= NETWORK_SETTLED_SECONDS => {
            Contribution { age_seconds: Some(seconds), ..told("network", "known", "earlier sign-ins", 0) }
        }
        Some(seconds) => Contribution { age_seconds: Some(seconds), ..told("network", "new", "earlier sign-ins", -15) },
        None => told("network", "unknown", "earlier sign-ins", -15),
    }
}

/// Needs a source of places that this host does not have, and says so.
fn travel() -> Contribution {
    told("impossible travel", "not configured", "geolocation", 0)
}

fn failures(signals: &Signals) -> Contribution {
    match signals.failures_count {
        Some(count) => {
            let effect = -5 * i32::try_from(count.min(5)).unwrap_or(5);
            told("recent failures", count.to_string(), "sign-in throttle", effect)
        }
        None => told("recent failures", "unknown", "sign-in throttle", -25),
    }
}

fn hours(signals: &Signals) -> Contribution {
    match signals.off_hours {
        None => told("hours", "none set", "trust settings", 0),
        Some(OffHours::Within) => told("hours", "within", "trust settings", 0),
        Some(OffHours::Outside) => told("hours", "outside", "trust settings", -5),
    }
}

fn finding(found: Found) -> Contribution {
    let (value, effect, age_seconds) = match found {
        Found::Nothing => ("none", 0, None),
        Found::Unknown => ("unknown", -UNWATCHED, None),
        Found::Open(Seen { value: Finding::Medium, age_seconds }) => ("medium", -20, Some(age_seconds)),
        Found::Open(Seen { value: Finding::High, age_seconds }) => ("high", -60, Some(age_seconds)),
    };
    Contribution { age_seconds, ..told("open finding", value, "findings", effect) }
}

fn interval(signals: &Signals) -> Contribution {
    let late = signals.verified_seconds > signals.verify_interval_seconds;
    let (value, effect) = if late { ("overdue", -10) } else { ("in time", 0) };
    let age_seconds = Some(signals.verified_seconds);
    Contribution { age_seconds, ..told("verification", value, "session", effect) }
}

fn adjustment(delta: i32) -> Contribution {
    let value = if delta == 0 { "none".to_owned() } else { format!("{delta:+}") };
    told("risk adjustment", value, "risk adjustments", delta.clamp(-FULL, FULL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn best() -> Signals {
        Signals {
            strength: Seen { value: Strength::Passkey, age_seconds: 0 },
            posture: Some(Seen { value: Posture::Good, age_seconds: 0 }),
            credential_days: Some(1),
            credential_days_max: Some(90),
            network_seconds: Some(NETWORK_SETTLED_SECONDS),
            failures_count: Some(0),
            off_hours: Some(OffHours::Within),
            finding: Found::Nothing,
            verified_seconds: 0,
            verify_interval_seconds: 300,
            adjustment: 0,
            risk_floor: 0,
        }
    }

    #[test]
    fn each_deduction_is_the_stated_one() {
        type Change = fn(&mut Signals);
        let cases: [(Change, u8); 18] = [
            (|_| (), 100),
            (|s| s.strength.value = Strength::TwoFactors, 90),
            (|s| s.strength.value = Strength::Certificate, 70),
            (|s| s.strength.value = Strength::Secret, 60),
            (|s| s.posture = None, 85),
            (|s| s.posture = Some(Seen { value: Posture::Failing, age_seconds: 1 }), 40),
            (|s| s.credential_days = Some(91), 90),
            (|s| s.credential_days = None, 90),
            (|s| s.network_seconds = Some(60), 85),
            (|s| s.network_seconds = None, 85),
            (|s| s.failures_count = Some(2), 90),
            (|s| s.failures_count = Some(99), 75),
            (|s| s.failures_count = None, 75),
            (|s| s.off_hours = Some(OffHours::Outside), 95),
            (|s| s.finding = Found::Unknown, 80),
            (|s| s.finding = Found::Open(Seen { value: Finding::Medium, age_seconds: 1 }), 80),
            (|s| s.finding = Found::Open(Seen { value: Finding::High, age_seconds: 1 }), 40),
            (|s| s.verified_seconds = 301, 90),
        ];
        for (number, (change, wanted)) in cases.into_iter().enumerate() {
            let mut signals = best();
            change(&mut signals);
            let got = score(&signals);
            assert_eq!(got.value, wanted, "case {number}: {:?}", got.contributions);
        }
        assert_eq!(score(&Signals { adjustment: -30, ..best() }).value, 70);
        assert_eq!(score(&Signals { risk_floor: 60, ..best() }).value, 40);
        assert_eq!(score(&Signals { risk_floor: 60, adjustment: 100, ..best() }).value, 40);
        assert_eq!(score(&Signals { risk_floor: 60, adjustment: -70, ..best() }).value, 30);
        assert_eq!(score_apart(Found::Nothing, -20, 0).value, 80);
        assert_eq!(score_apart(Found::Open(Seen { value: Finding::High, age_seconds: 1 }), 0, 50).value, 40);
    }

    #[test]
    fn that_detection_is_behind_asks_for_more_and_ends_nothing() {
        let firm = |signals: Signals| {
            let score = score(&signals);
            (score.value, score.firm)
        };
        assert_eq!(firm(best()), (100, 100));
        let unwatched = || Signals { finding: Found::Unknown, ..best() };
        assert_eq!(firm(unwatched()), (80, 100));
        assert_eq!(firm(Signals { adjustment: -30, ..unwatched() }), (50, 70));
        assert_eq!(firm(Signals { adjustment: 50, ..unwatched() }), (100, 100));
        assert_eq!(firm(Signals { risk_floor: 10, ..unwatched() }), (80, 90));
        assert_eq!(firm(Signals { risk_floor: 60, ..unwatched() }), (40, 40));
        let open = Found::Open(Seen { value: Finding::High, age_seconds: 1 });
        assert_eq!(firm(Signals { finding: open, ..best() }), (40, 40));
    }

    prop_compose! {
        fn any_signals()(
            strength in 0_usize..5, posture in 0_usize..3, credential_days in proptest::option::of(0_u32..400),
            network_seconds in proptest::option::of(0_u64..200_000), failures_count in proptest::option::of(0_u32..40),
            off_hours in 0_usize..3, finding in 0_usize..4, verified_seconds in 0_u64..900, adjustment in -150_i32..150,
            risk_floor in 0_u8..=100, age_seconds in 0_u64..1_000,
        ) -> Signals {
            let strengths =
                [Strength::None, Strength::Secret, Strength::Certificate, Strength::TwoFactors, Strength::Passkey];
            Signals {
                strength: Seen { value: strengths[strength], age_seconds },
                posture: [None, Some(Posture::Good), Some(Posture::Failing)][posture]
                    .map(|value| Seen { value, age_seconds }),
                credential_days,
                credential_days_max: Some(90),
                network_seconds,
                failures_count,
                off_hours: [None, Some(OffHours::Within), Some(OffHours::Outside)][off_hours],
                finding: [
                    Found::Nothing,
                    Found::Unknown,
                    Found::Open(Seen { value: Finding::Medium, age_seconds }),
                    Found::Open(Seen { value: Finding::High, age_seconds }),
                ][finding],
                verified_seconds,
                verify_interval_seconds: 300,
                adjustment,
                risk_floor,
            }
        }
    }

    #[test]
    fn no_session_stands_higher_than_the_most() {
        assert_eq!((score_at_most(true), score_at_most(false)), (100, 85));
    }

    proptest! {
        #[test]
        fn a_score_is_in_bounds_and_the_sum_of_what_it_shows(signals in any_signals()) {
            let first = score(&signals);
            prop_assert_eq!(&first, &score(&signals));
            let sum: i32 = first.contributions.iter().map(|contribution| contribution.effect).sum();
            prop_assert_eq!(i32::from(first.value), (100 + sum).clamp(0, 100));
            prop_assert!(first.firm >= first.value && i32::from(first.firm - first.value) <= UNWATCHED);
            prop_assert!(first.firm == first.value || signals.finding == Found::Unknown);
        }

        #[test]
        fn losing_a_good_signal_or_gaining_a_bad_one_never_raises_it(signals in any_signals(), which in 0_usize..9) {
            let before = score(&signals).value;
            let mut worse = signals;
            match which {
                0 if worse.posture.is_none_or(|seen| seen.value == Posture::Good) => worse.posture = None,
                1 => worse.strength.value = Strength::Secret.min(worse.strength.value),
                2 => worse.credential_days = None,
                3 => worse.network_seconds = None,
                4 => worse.failures_count = worse.failures_count.map(|count| count + 1),
                5 if worse.finding == Found::Nothing => worse.finding = Found::Unknown,
                5 => worse.finding = Found::Open(Seen { value: Finding::High, age_seconds: 0 }),
                6 => worse.verified_seconds += 1_000,
                7 => worse.risk_floor = worse.risk_floor.saturating_add(7).min(100),
                _ => worse.adjustment -= 1,
            }
            prop_assert!(score(&worse).value <= before);
        }
    }
}
