//! When to try again, and when to stop trying. Pure.
//!
//! Must never try without an end: a destination that does not take anything for long is paused until somebody resumes it.

use std::time::Duration;

/// LIMIT: longest that a receiver may ask to be left alone, in one go.
const TOLD_WAIT_MAX: Duration = Duration::from_secs(3_600);

/// How fast a host goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at a log that has nothing new.
    pub poll: Duration,
    /// Before the first repetition; doubled for each one after it.
    pub first: Duration,
    /// The longest such wait.
    pub most: Duration,
    /// Failures in a row after which a destination is paused.
    pub attempts_max: u32,
    /// For one answer, from the name to its last byte.
    pub answer: Duration,
    /// Between two mails to one destination; what comes meanwhile is told together.
    pub mail_every: Duration,
}

impl Pace {
    /// Of a host in service: 1 s, doubled up to 5 min, paused after 24 failures, which is about an hour and a half.
    pub const HOST: Self = Self {
        poll: Duration::from_secs(1),
        first: Duration::from_secs(1),
        most: Duration::from_secs(300),
        attempts_max: 24,
        answer: Duration::from_secs(15),
        mail_every: Duration::from_secs(300),
    };
}

/// What a failure says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// In words for the owner; nothing that the receiver said.
    pub why: String,
    /// The receiver says that it is gone for good.
    pub is_final: bool,
    /// The receiver asks to be left alone for so long.
    pub told: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::default() }
    }
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after so long.
    Again(Duration),
    /// Stop until somebody resumes it.
    Pause,
}

/// What follows the `failures`th failure in a row. `jitter` is random: waits are spread over their later half, so that
/// receivers which come back are not met by everybody at once.
pub(crate) fn after(failures: u32, failure: &Failure, jitter: u16, pace: &Pace) -> Next {
    if failure.is_final || failures >= pace.attempts_max {
        return Next::Pause;
    }
    let doubled = pace.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1).min(30)).unwrap_or(u32::MAX));
    let half = doubled.min(pace.most) / 2;
    let spread = half.saturating_mul(u32::from(jitter)) / u32::from(u16::MAX);
    let told = failure.told.unwrap_or_default().min(TOLD_WAIT_MAX);
    Next::Again(half.saturating_add(spread).max(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(jitter: u16) -> Vec<Next> {
        (1..=24).map(|failures| after(failures, &Failure::new("x"), jitter, &Pace::HOST)).collect()
    }

    #[test]
    fn waits_double_up_to_the_most_and_end_in_a_pause() {
        let least = waits(0);
        assert_eq!(least[0], Next::Again(Duration::from_millis(500)));
        assert_eq!(least[1], Next::Again(Duration::from_secs(1)));
        assert_eq!(least[22], Next::Again(Duration::from_secs(150)));
        assert_eq!(least[23], Next::Pause);
        assert_eq!(waits(u16::MAX)[22], Next::Again(Duration::from_secs(300)));
    }

    #[test]
    fn jitter_never_makes_a_wait_shorter_than_half_nor_longer_than_whole() {
        for jitter in [0, 1, 7_000, 40_000, u16::MAX] {
            for (next, whole) in waits(jitter).iter().zip([1_u64, 2, 4, 8, 16, 32, 64, 128, 256, 300]) {
                let Next::Again(wait) = next else { panic!("paused") };
                assert!(*wait >= Duration::from_millis(whole * 500) && *wait <= Duration::from_secs(whole));
            }
        }
    }

    #[test]
    fn a_receiver_is_left_alone_as_long_as_it_asks_within_the_limit_and_for_good_when_it_is_gone() {
        let told = |seconds| Failure { told: Some(Duration::from_secs(seconds)), ..Failure::new("busy") };
        assert_eq!(after(1, &told(60), 0, &Pace::HOST), Next::Again(Duration::from_secs(60)));
        assert_eq!(after(1, &told(u64::MAX), 0, &Pace::HOST), Next::Again(TOLD_WAIT_MAX));
        let gone = Failure { is_final: true, ..Failure::new("gone") };
        assert_eq!(after(1, &gone, 0, &Pace::HOST), Next::Pause);
    }

    #[test]
    fn any_number_of_failures_is_survived() {
        let pace = Pace { attempts_max: u32::MAX, ..Pace::HOST };
        assert_eq!(after(u32::MAX - 1, &Failure::new("x"), u16::MAX, &pace), Next::Again(Duration::from_secs(300)));
    }
}
