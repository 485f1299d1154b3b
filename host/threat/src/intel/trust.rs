//! How far a feed is believed: a floor under confidence, and how fast confidence goes with age.
//!
//! Pure. Must never give an indicator more confidence than its source stated, nor more as it grows older.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// Confidence below which an indicator is kept and not matched, where nothing else is said.
pub const CONFIDENCE_MIN: u8 = 30;
/// What is assumed of an indicator whose source states no confidence: `Med` of STIX's scale of words (2.1, appendix A).
pub const CONFIDENCE_ASSUMED: u8 = 50;
/// LIMIT: longest half-life, in days.
pub const HALF_LIFE_DAYS_MAX: u16 = 3_650;
const DAY_SECONDS: i64 = 86_400;
/// After so many half-lives nothing is left of the highest confidence.
const HALF_LIVES_MAX: i64 = 8;

/// How far what a feed says is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Confidence below which its indicators are not matched, 0 to 100.
    pub confidence_min: u8,
    /// Days in which confidence halves; none for one that stays.
    pub half_life_days: Option<u16>,
}

// === impl Trust ===

impl Default for Trust {
    fn default() -> Self {
        Self { confidence_min: CONFIDENCE_MIN, half_life_days: None }
    }
}

impl Trust {
    /// As somebody asked for it; the error says what of it cannot be.
    pub fn of(confidence_min: Option<u32>, half_life_days: Option<u32>) -> Result<Self, String> {
        let min = u8::try_from(confidence_min.unwrap_or(u32::from(CONFIDENCE_MIN))).ok().filter(|min| *min <= 100);
        let confidence_min = min.ok_or("`confidence_min` is 0 to 100")?;
        let days = |days: u32| u16::try_from(days).ok().filter(|days| (1..=HALF_LIFE_DAYS_MAX).contains(days));
        let half_life_days = match half_life_days {
            None => None,
            Some(asked) => Some(days(asked).ok_or_else(|| format!("`half_life_days` is 1 to {HALF_LIFE_DAYS_MAX}"))?),
        };
        Ok(Self { confidence_min, half_life_days })
    }

    /// What is left of a confidence at an age, as a whole number. An age below zero counts as none.
    pub fn effective(&self, stated: u8, age: SignedDuration) -> u8 {
        let Some(days) = self.half_life_days else { return stated };
        let half_lives = age.as_secs().max(0) as f64 / seconds(days) as f64;
        let left = f64::from(stated) * (-half_lives).exp2();
        (left.round() as u8).min(stated)
    }

    /// The age in seconds from which on a confidence is below the floor: 0 for one that always is, none for one that never is.
    pub fn lasts(&self, stated: u8) -> Option<i64> {
        let is_below = |age| self.effective(stated, SignedDuration::from_secs(age)) < self.confidence_min;
        if is_below(0) {
            return Some(0);
        }
        let (mut holds, mut below) = (0, self.half_life_days.map_or(0, seconds) * HALF_LIVES_MAX);
        if !is_below(below) {
            return None;
        }
        while below - holds > 1 {
            let middle = holds + (below - holds) / 2;
            if is_below(middle) {
                below = middle;
            } else {
                holds = middle;
            }
        }
        Some(below)
    }
}

fn seconds(days: u16) -> i64 {
    i64::from(days.max(1)) * DAY_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    #[test]
    fn confidence_halves_with_each_half_life_and_without_one_it_stays() {
        let trust = Trust::of(Some(0), Some(30)).unwrap();
        let after = |days: i64| trust.effective(80, secs(days * DAY_SECONDS));
        assert_eq!([0, 30, 60, 90].map(after), [80, 40, 20, 10]);
        assert_eq!(Trust::default().effective(80, secs(i64::MAX)), 80);
        assert_eq!((trust.lasts(80), Trust::default().lasts(30), Trust::default().lasts(29)), (None, None, Some(0)));
    }

    #[test]
    fn what_cannot_be_is_refused_and_says_what_can() {
        assert_eq!(Trust::of(None, None).unwrap(), Trust::default());
        assert!(Trust::of(Some(101), None).unwrap_err().contains("0 to 100"));
        assert!(Trust::of(Some(u32::MAX), None).unwrap_err().contains("0 to 100"));
        for days in [0, 3_651, 65_537] {
            assert!(Trust::of(None, Some(days)).unwrap_err().contains("1 to 3650"), "{days}");
        }
    }

    proptest! {
        #[test]
        fn it_never_grows_with_age_nor_beyond_what_was_stated_and_ends_where_it_is_said_to(
            stated in 0_u8..=100, min in 0_u32..=100, days in 1_u32..=3_650,
            age in -1_000_i64..=400_000_000, more in 0_i64..=400_000_000,
        ) {
            let trust = Trust::of(Some(min), Some(days)).unwrap();
            let (young, old) = (trust.effective(stated, secs(age)), trust.effective(stated, secs(age + more)));
            prop_assert!(old <= young && young <= stated);
            let is_below = u32::from(young) < min;
            prop_assert_eq!(trust.lasts(stated).is_some_and(|lasts| lasts <= age.max(0)), is_below);
        }

        #[test]
        fn one_second_before_its_end_it_still_holds(stated in 1_u8..=100, min in 1_u32..=100, days in 1_u32..=3_650) {
            let trust = Trust::of(Some(min), Some(days)).unwrap();
            let lasts = trust.lasts(stated).unwrap();
            prop_assert!(u32::from(trust.effective(stated, secs(lasts))) < min);
            prop_assert!(lasts == 0 || u32::from(trust.effective(stated, secs(lasts - 1))) >= min);
        }
    }
}
