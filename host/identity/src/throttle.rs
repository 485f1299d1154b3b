//! How fast wrong sign-ins may come: a debt per source and per key id that time pays off.
//!
//! Pure: time is passed in. Must never lock out someone for what others did: a key id under attack is closed only to
//! sources that themselves failed lately. Algorithm: generic cell rate algorithm (ITU-T I.371), one timestamp an entry.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use ringfence_core::Source;
use ringfence_core::limits::{
    SIGN_IN_FAILURES_COUNT_MAX, SIGN_IN_FORGIVEN_MS, SIGN_IN_PER_SOURCE_COUNT_MAX, SIGN_IN_REMEMBERED_COUNT_MAX,
};

/// One failure's debt.
const DEBT: Duration = Duration::from_millis(SIGN_IN_FORGIVEN_MS);
/// The debt at which an entry is closed.
const DEBT_MAX: Duration = Duration::from_millis(SIGN_IN_FORGIVEN_MS * SIGN_IN_FAILURES_COUNT_MAX as u64);

/// The debts of everyone. Times are from the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    sources: HashMap<Source, Duration>,
    keys: HashMap<String, Duration>,
    /// Sign-ins under way; bounded by the connections there are.
    under_way: HashMap<Source, usize>,
}

impl Throttle {
    /// Counts a sign-in as under way until [`Throttle::leave`]; refused when its source has too many of them.
    pub(crate) fn enter(&mut self, source: Source) -> Result<(), Duration> {
        let count = self.under_way.entry(source).or_insert(0);
        if *count >= SIGN_IN_PER_SOURCE_COUNT_MAX {
            return Err(Duration::from_secs(1));
        }
        *count += 1;
        Ok(())
    }

    /// Ends what `enter` began.
    pub(crate) fn leave(&mut self, source: Source) {
        if let Some(count) = self.under_way.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.under_way.remove(&source);
            }
        }
    }

    /// Whether a sign-in may be tried; else how long to wait, at least a second.
    pub(crate) fn check(&self, source: Source, key: Option<&str>, now: Duration) -> Result<(), Duration> {
        let source_debt = debt(&self.sources, &source, now);
        let key_debt = key
            .map_or(Duration::ZERO, |key| self.keys.get(key).map_or(Duration::ZERO, |paid| paid.saturating_sub(now)));
        let wait = if source_debt > DEBT_MAX.saturating_sub(DEBT) {
            (source_debt + DEBT).saturating_sub(DEBT_MAX)
        } else if key_debt > DEBT_MAX.saturating_sub(DEBT) && !source_debt.is_zero() {
            source_debt
        } else {
            return Ok(());
        };
        Err(wait.max(Duration::from_secs(1)))
    }

    /// What failures with a key or as a person are not paid off yet.
    pub(crate) fn debt_of(&self, key: &str, now: Duration) -> Duration {
        self.keys.get(key).map_or(Duration::ZERO, |paid| paid.saturating_sub(now))
    }

    /// Notes a failure.
    pub(crate) fn failed(&mut self, source: Source, key: Option<&str>, now: Duration) {
        add(&mut self.sources, source, now);
        if let Some(key) = key {
            add(&mut self.keys, key.to_owned(), now);
        }
    }
}

fn debt<K: Hash + Eq>(debts: &HashMap<K, Duration>, who: &K, now: Duration) -> Duration {
    debts.get(who).map_or(Duration::ZERO, |paid| paid.saturating_sub(now))
}

fn add<K: Hash + Eq + Clone>(debts: &mut HashMap<K, Duration>, who: K, now: Duration) {
    if debts.len() >= SIGN_IN_REMEMBERED_COUNT_MAX && !debts.contains_key(&who) {
        debts.retain(|_, paid| *paid > now);
        // LIMIT: more debtors than are remembered at once; any of them goes.
        if debts.len() >= SIGN_IN_REMEMBERED_COUNT_MAX
            && let Some(any) = debts.keys().next().cloned()
        {
            debts.remove(&any);
        }
    }
    let paid = debts.entry(who).or_insert(now);
    *paid = ((*paid).max(now) + DEBT).min(now + DEBT_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn fail(throttle: &mut Throttle, from: &str, key: &str, times: u32) {
        (0..times).for_each(|_| throttle.failed(source(from), Some(key), START));
    }

    #[test]
    fn a_source_is_slowed_after_its_failures_and_forgiven_with_time() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "192.0.2.1", "a", SIGN_IN_FAILURES_COUNT_MAX - 1);
        assert_eq!(throttle.check(source("192.0.2.1"), Some("b"), START), Ok(()));
        fail(&mut throttle, "192.0.2.1", "a", 1);
        let wait = throttle.check(source("192.0.2.1"), Some("b"), START).unwrap_err();
        assert!(throttle.check(source("192.0.2.1"), Some("b"), START + wait - Duration::from_millis(1)).is_err());
        assert_eq!(throttle.check(source("192.0.2.1"), Some("b"), START + wait), Ok(()));
    }

    #[test]
    fn a_debt_never_grows_beyond_the_cap() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "192.0.2.1", "a", 10_000);
        assert_eq!(throttle.check(source("192.0.2.1"), None, START).unwrap_err(), DEBT);
    }

    #[test]
    fn an_attack_on_a_key_closes_it_to_failing_sources_alone() {
        let mut throttle = Throttle::default();
        for last in 1..=SIGN_IN_FAILURES_COUNT_MAX {
            fail(&mut throttle, &format!("192.0.2.{last}"), "victim", 1);
        }
        assert!(throttle.check(source("192.0.2.1"), Some("victim"), START).is_err());
        assert_eq!(throttle.check(source("192.0.2.1"), Some("other"), START), Ok(()));
        assert_eq!(throttle.check(source("198.51.100.7"), Some("victim"), START), Ok(()));
    }

    #[test]
    fn one_source_does_not_close_another() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "192.0.2.1", "a", 100);
        assert_eq!(throttle.check(source("192.0.2.2"), Some("b"), START), Ok(()));
    }

    #[test]
    fn addresses_of_one_network_and_of_one_machine_count_together() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }

    #[test]
    fn one_source_cannot_take_all_the_places() {
        let mut throttle = Throttle::default();
        (0..SIGN_IN_PER_SOURCE_COUNT_MAX).for_each(|_| throttle.enter(source("192.0.2.1")).unwrap());
        assert!(throttle.enter(source("192.0.2.1")).is_err());
        assert!(throttle.enter(source("192.0.2.2")).is_ok());
        throttle.leave(source("192.0.2.1"));
        assert!(throttle.enter(source("192.0.2.1")).is_ok());
        (0..SIGN_IN_PER_SOURCE_COUNT_MAX).for_each(|_| throttle.leave(source("192.0.2.1")));
        throttle.leave(source("192.0.2.2"));
        assert!(throttle.under_way.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut throttle = Throttle::default();
        for number in 0..SIGN_IN_REMEMBERED_COUNT_MAX + 100 {
            throttle.failed(
                Source::of(std::net::IpAddr::V4(u32::try_from(number).unwrap().into())),
                Some(&number.to_string()),
                START,
            );
        }
        assert!(
            throttle.sources.len() <= SIGN_IN_REMEMBERED_COUNT_MAX
                && throttle.keys.len() <= SIGN_IN_REMEMBERED_COUNT_MAX
        );
    }
}
