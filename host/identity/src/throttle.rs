//! How fast wrong sign-ins may come: a debt per source, per IPv6 site, and per key id or name, that time pays off.
//!
//! Pure: time is passed in. A name whose debt is full is open to whoever comes from where it signed in from before; all others
//! share what time pays off, one try each time, however many sources they have. A key's secret is beyond guessing, so nobody is
//! locked out of one for what others did: it is closed to sources alone that themselves failed lately. A password that is asked for
//! again in a session has a debt of its own, which nobody adds to who has no session. Must never let what is under way count for
//! less than what failed, nor one tenant take the places of all. Algorithm: generic cell rate algorithm (ITU-T I.371), one timestamp
//! an entry.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use ringfence_core::Source;
use ringfence_core::limits::{
    SIGN_IN_FAILURES_COUNT_MAX, SIGN_IN_FAILURES_OF_SITE_TIMES, SIGN_IN_FORGIVEN_MS, SIGN_IN_KNOWN_COUNT_MAX,
    SIGN_IN_PER_SOURCE_COUNT_MAX, SIGN_IN_REMEMBERED_COUNT_MAX, SIGN_IN_STRANGERS_COUNT_MAX,
    SIGN_IN_STRANGERS_PER_TENANT_COUNT_MAX,
};

/// One failure's debt.
const DEBT: Duration = Duration::from_millis(SIGN_IN_FORGIVEN_MS);
/// The same of a site.
const SITE_DEBT: Duration = Duration::from_millis(SIGN_IN_FORGIVEN_MS / SIGN_IN_FAILURES_OF_SITE_TIMES);
/// The debt at which an entry is closed.
const DEBT_MAX: Duration = Duration::from_millis(SIGN_IN_FORGIVEN_MS * SIGN_IN_FAILURES_COUNT_MAX as u64);

/// What a sign-in is tried with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Tried {
    /// What names nobody before it was looked at, such as a passkey or an invitation.
    Nameless,
    /// A key with this id, which there may be or not.
    Key(String),
    /// A name that signed in from there before, and its password; or a name that was invited, and the password to be set.
    Known(String),
    /// In a session of this name: its password again.
    Again(String),
    /// A name that never signed in from there, as far as is remembered, or is nobody's; and a password.
    Stranger(String),
}

/// The debts of everyone. Times are from the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    sources: HashMap<Source, Duration>,
    sites: HashMap<Source, Duration>,
    keys: HashMap<String, Duration>,
    /// Of names, for passwords that were asked for again in their sessions.
    again: HashMap<String, Duration>,
    /// Sign-ins under way, by [`crowd`]; bounded by the connections there are.
    under_way: HashMap<(bool, Source), usize>,
    /// Those with a password among them, by name.
    passwords: HashMap<Tried, usize>,
}

impl Tried {
    /// The key id or the name that its failures count against, if any.
    pub(crate) fn with(&self) -> Option<&str> {
        match self {
            Self::Nameless => None,
            Self::Key(with) | Self::Known(with) | Self::Again(with) | Self::Stranger(with) => Some(with),
        }
    }

    /// The name, where a password is tried with it.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Known(name) | Self::Again(name) | Self::Stranger(name) => Some(name),
            Self::Nameless | Self::Key(_) => None,
        }
    }

    const fn is_stranger(&self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

impl Throttle {
    /// Counts a sign-in as under way until [`Throttle::leave`]; refused when its source, its tenant, or strangers have too many.
    pub(crate) fn enter(&mut self, source: Source, tried: &Tried) -> Result<(), Duration> {
        let crowd = crowd(source, tried);
        let own = self.under_way.get(&crowd).copied().unwrap_or(0);
        if own >= SIGN_IN_PER_SOURCE_COUNT_MAX || self.is_crowded(tried) {
            return Err(Duration::from_secs(1));
        }
        self.under_way.insert(crowd, own + 1);
        if tried.name().is_some() {
            *self.passwords.entry(tried.clone()).or_insert(0) += 1;
        }
        Ok(())
    }

    /// Ends what `enter` began.
    pub(crate) fn leave(&mut self, source: Source, tried: &Tried) {
        one_less(&mut self.under_way, &crowd(source, tried));
        one_less(&mut self.passwords, tried);
    }

    /// Whether a sign-in may be tried; else how long to wait, at least a second.
    pub(crate) fn check(&self, source: Source, tried: &Tried, now: Duration) -> Result<(), Duration> {
        let source_debt = debt(&self.sources, &source, now);
        // A site may be many customers': nobody is held back for them but who could be guessing at a password.
        let site = source.site().filter(|_| tried.is_stranger());
        let site = site.map_or(Duration::ZERO, |site| debt(&self.sites, &site, now));
        let of_key = match tried {
            Tried::Again(name) => debt(&self.again, name, now),
            _ => tried.with().map_or(Duration::ZERO, |key| self.debt_of(key, now)),
        };
        // As if all that are under way had failed: else those who come at once pass together.
        let count = self.passwords.get(tried).copied().unwrap_or(0);
        let key_debt = of_key.saturating_add(DEBT.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)));
        let wait = if is_full(source_debt) {
            left_of(source_debt)
        } else if is_full(key_debt) && matches!(tried, Tried::Stranger(_) | Tried::Again(_)) {
            left_of(key_debt)
        } else if site > DEBT_MAX.saturating_sub(SITE_DEBT) {
            (site + SITE_DEBT).saturating_sub(DEBT_MAX)
        } else if is_full(key_debt) && !source_debt.is_zero() {
            source_debt
        } else {
            return Ok(());
        };
        Err(wait.max(Duration::from_secs(1)))
    }

    /// Whether as many as may are trying passwords of this one's tenant, or of any: strangers, or all others. By what is claimed to
    /// be a tenant, so that nothing is told of whether there is one.
    fn is_crowded(&self, tried: &Tried) -> bool {
        let Some(name) = tried.name() else { return false };
        let (mut all, mut of_tenant) = (0_usize, 0_usize);
        for (other, count) in self.passwords.iter().filter(|(other, _)| other.is_stranger() == tried.is_stranger()) {
            all += count;
            if other.name().is_some_and(|other| place(other) == place(name)) {
                of_tenant += count;
            }
        }
        if tried.is_stranger() {
            return of_tenant >= SIGN_IN_STRANGERS_PER_TENANT_COUNT_MAX || all >= SIGN_IN_STRANGERS_COUNT_MAX;
        }
        // No more than are free: whoever has many leaves as many, and the next leaves half of those.
        of_tenant >= SIGN_IN_KNOWN_COUNT_MAX.saturating_sub(all)
    }

    /// What failures with a key or as a person are not paid off yet.
    pub(crate) fn debt_of(&self, key: &str, now: Duration) -> Duration {
        self.keys.get(key).map_or(Duration::ZERO, |paid| paid.saturating_sub(now))
    }

    /// Notes a failure.
    pub(crate) fn failed(&mut self, source: Source, key: Option<&str>, now: Duration) {
        add(&mut self.sources, source, DEBT, now);
        if let Some(site) = source.site() {
            add(&mut self.sites, site, SITE_DEBT, now);
        }
        if let Some(key) = key {
            add(&mut self.keys, key.to_owned(), DEBT, now);
        }
    }

    /// Notes a wrong password in a session of this name; a failure with the name like any other, too.
    pub(crate) fn failed_again(&mut self, source: Source, name: &str, now: Duration) {
        add(&mut self.again, name.to_owned(), DEBT, now);
        self.failed(source, Some(name), now);
    }
}

/// Whether one failure more would be over the cap.
fn is_full(debt: Duration) -> bool {
    debt > DEBT_MAX.saturating_sub(DEBT)
}

/// How long until it is not full any more.
fn left_of(debt: Duration) -> Duration {
    (debt + DEBT).saturating_sub(DEBT_MAX)
}

/// With whom a sign-in shares its places: who is known where he comes from with his own network, so that neighbours cannot take
/// them; all others of a site with each other, so that nobody has more places for having more networks.
fn crowd(source: Source, tried: &Tried) -> (bool, Source) {
    match tried {
        Tried::Known(_) | Tried::Again(_) => (true, source),
        Tried::Nameless | Tried::Key(_) | Tried::Stranger(_) => (false, source.site().unwrap_or(source)),
    }
}

/// The tenant of a name, as it is claimed.
fn place(name: &str) -> &str {
    name.split_once('/').map_or(name, |(place, _)| place)
}

fn one_less<K: Hash + Eq + Borrow<Q>, Q: Hash + Eq + ?Sized>(counts: &mut HashMap<K, usize>, of: &Q) {
    if let Some(count) = counts.get_mut(of) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(of);
        }
    }
}

fn debt<K: Hash + Eq>(debts: &HashMap<K, Duration>, who: &K, now: Duration) -> Duration {
    debts.get(who).map_or(Duration::ZERO, |paid| paid.saturating_sub(now))
}

fn add<K: Hash + Eq + Clone>(debts: &mut HashMap<K, Duration>, who: K, more: Duration, now: Duration) {
    if debts.len() >= SIGN_IN_REMEMBERED_COUNT_MAX && !debts.contains_key(&who) {
        debts.retain(|_, paid| *paid > now);
        // LIMIT: more debtors than are remembered at once; who owes least goes, so that many small ones wash out no large one.
        if debts.len() >= SIGN_IN_REMEMBERED_COUNT_MAX
            && let Some(least) = debts.iter().min_by_key(|(_, paid)| **paid).map(|(who, _)| who.clone())
        {
            debts.remove(&least);
        }
    }
    let paid = debts.entry(who).or_insert(now);
    *paid = ((*paid).max(now) + more).min(now + DEBT_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn key(id: &str) -> Tried {
        Tried::Key(id.to_owned())
    }

    fn known(name: &str) -> Tried {
        Tried::Known(name.to_owned())
    }

    fn stranger(name: &str) -> Tried {
        Tried::Stranger(name.to_owned())
    }

    fn fail(throttle: &mut Throttle, from: &str, key: &str, times: u32) {
        (0..times).for_each(|_| throttle.failed(source(from), Some(key), START));
    }

    #[test]
    fn a_source_is_slowed_after_its_failures_and_forgiven_with_time() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "192.0.2.1", "a", SIGN_IN_FAILURES_COUNT_MAX - 1);
        assert_eq!(throttle.check(source("192.0.2.1"), &key("b"), START), Ok(()));
        fail(&mut throttle, "192.0.2.1", "a", 1);
        let wait = throttle.check(source("192.0.2.1"), &key("b"), START).unwrap_err();
        assert!(throttle.check(source("192.0.2.1"), &key("b"), START + wait - Duration::from_millis(1)).is_err());
        assert_eq!(throttle.check(source("192.0.2.1"), &key("b"), START + wait), Ok(()));
    }

    #[test]
    fn a_debt_never_grows_beyond_the_cap() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "192.0.2.1", "a", 10_000);
        assert_eq!(throttle.check(source("192.0.2.1"), &Tried::Nameless, START).unwrap_err(), DEBT);
    }

    #[test]
    fn an_attack_on_a_key_closes_it_to_failing_sources_alone() {
        let mut throttle = Throttle::default();
        for last in 1..=SIGN_IN_FAILURES_COUNT_MAX {
            fail(&mut throttle, &format!("192.0.2.{last}"), "victim", 1);
        }
        assert!(throttle.check(source("192.0.2.1"), &key("victim"), START).is_err());
        assert_eq!(throttle.check(source("192.0.2.1"), &key("other"), START), Ok(()));
        assert_eq!(throttle.check(source("198.51.100.7"), &key("victim"), START), Ok(()));
    }

    /// However many sources there are: a name under attack costs the attacker three seconds a guess in all.
    #[test]
    fn an_attack_on_a_name_from_many_sources_leaves_one_try_each_time_and_those_who_are_known_there_in() {
        let mut throttle = Throttle::default();
        for last in 1..=SIGN_IN_FAILURES_COUNT_MAX {
            let from = format!("192.0.2.{last}");
            assert_eq!(throttle.check(source(&from), &stranger("acme/ann"), START), Ok(()), "{last}");
            fail(&mut throttle, &from, "acme/ann", 1);
        }
        let new = |number: u32| source(&format!("198.51.100.{}", number % 256));
        let mut tries = 0_u32;
        for number in 0..600_u32 {
            let now = START + Duration::from_millis(u64::from(number) * 100);
            if throttle.check(new(number), &stranger("acme/ann"), now).is_ok() {
                tries += 1;
                throttle.failed(new(number), Some("acme/ann"), now);
            }
            assert_eq!(throttle.check(source("203.0.113.9"), &known("acme/ann"), now), Ok(()));
            assert_eq!(throttle.check(source("203.0.113.8"), &stranger("acme/bob"), now), Ok(()));
        }
        assert!((18..=22).contains(&tries), "{tries} in a minute");
    }

    #[test]
    fn tries_of_a_name_that_come_at_once_count_as_if_they_had_failed() {
        let mut throttle = Throttle::default();
        let ann = stranger("acme/ann");
        let mut entered = 0_u32;
        for number in 1..=200_u32 {
            let from = source(&format!("192.0.2.{number}"));
            if throttle.check(from, &ann, START).is_ok() {
                throttle.enter(from, &ann).unwrap();
                entered += 1;
            }
        }
        assert_eq!(entered, SIGN_IN_FAILURES_COUNT_MAX);
        (1..=entered).for_each(|number| throttle.leave(source(&format!("192.0.2.{number}")), &ann));
        assert!(throttle.passwords.is_empty() && throttle.under_way.is_empty());
        assert_eq!(throttle.check(source("198.51.100.7"), &ann, START), Ok(()), "none of them failed");
    }

    #[test]
    fn the_networks_of_one_site_are_closed_together_and_one_of_them_does_not_close_it() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "2001:db8:1:0::1", "a", SIGN_IN_FAILURES_COUNT_MAX);
        assert!(throttle.check(source("2001:db8:1:0::1"), &stranger("acme/ann"), START).is_err());
        assert_eq!(throttle.check(source("2001:db8:1:1::1"), &stranger("acme/ann"), START), Ok(()));
        let mut failed = 0_u64;
        for network in 1..=65_535_u32 {
            let from = source(&format!("2001:db8:1:{network:x}::1"));
            if throttle.check(from, &stranger(&format!("acme/p{network}")), START).is_ok() {
                throttle.failed(from, Some(&format!("acme/p{network}")), START);
                failed += 1;
            }
        }
        let all = u64::from(SIGN_IN_FAILURES_COUNT_MAX) * (SIGN_IN_FAILURES_OF_SITE_TIMES - 1);
        assert!((all - 20..=all + 20).contains(&failed), "{failed}");
        // Neighbours do not lock each other out: who is known there, or shows what nobody guesses, is not held back.
        let neighbour = source("2001:db8:1:ffff::2");
        for tried in [known("acme/eve"), key("an id"), Tried::Nameless] {
            assert_eq!(throttle.check(neighbour, &tried, START), Ok(()), "{tried:?}");
        }
        assert!(throttle.check(neighbour, &stranger("acme/eve"), START).is_err());
        assert_eq!(throttle.check(source("2001:db8:2::1"), &stranger("acme/eve"), START), Ok(()), "another site");
    }

    #[test]
    fn the_networks_of_one_site_share_their_places_and_leave_one_his_who_is_known_in_his_own() {
        let mut throttle = Throttle::default();
        let network = |number: usize| source(&format!("2001:db8:1:{number:x}::1"));
        for number in 0..SIGN_IN_PER_SOURCE_COUNT_MAX {
            throttle.enter(network(number), &key("an id")).unwrap();
        }
        assert!(throttle.enter(network(0xffff), &key("another")).is_err());
        assert!(throttle.enter(network(0xffff), &stranger("acme/ann")).is_err());
        assert!(throttle.enter(network(0xffff), &Tried::Nameless).is_err());
        for number in [0xffff, 0] {
            throttle.enter(network(number), &known("acme/ann")).unwrap();
            throttle.leave(network(number), &known("acme/ann"));
        }
        (0..SIGN_IN_PER_SOURCE_COUNT_MAX).for_each(|number| throttle.leave(network(number), &key("an id")));
        assert!(throttle.under_way.is_empty());
    }

    #[test]
    fn strangers_of_one_tenant_or_of_all_leave_places_to_others() {
        let mut throttle = Throttle::default();
        let from = |number: usize| source(&format!("192.0.2.{number}"));
        for number in 0..SIGN_IN_STRANGERS_PER_TENANT_COUNT_MAX {
            throttle.enter(from(number), &stranger(&format!("acme/p{number}"))).unwrap();
        }
        assert!(throttle.enter(from(200), &stranger("acme/ann")).is_err());
        throttle.enter(from(201), &known("acme/ann")).unwrap();
        throttle.enter(from(202), &stranger("beta/ann")).unwrap();
        for number in 1..SIGN_IN_STRANGERS_COUNT_MAX - SIGN_IN_STRANGERS_PER_TENANT_COUNT_MAX {
            throttle.enter(from(number), &stranger(&format!("made-up-{number}/ann"))).unwrap();
        }
        assert!(throttle.enter(from(203), &stranger("gamma/ann")).is_err());
        throttle.enter(from(203), &key("an id")).unwrap();
        throttle.leave(from(202), &stranger("beta/ann"));
        throttle.enter(from(203), &stranger("gamma/ann")).unwrap();
    }

    #[test]
    fn one_tenant_has_half_of_the_places_and_the_next_has_half_of_the_rest() {
        let mut throttle = Throttle::default();
        // However many networks its people are known in, and whatever strangers do.
        for number in 0..SIGN_IN_STRANGERS_COUNT_MAX {
            throttle.enter(source(&format!("192.0.2.{number}")), &stranger(&format!("made-up-{number}/ann"))).unwrap();
        }
        for (number, tenant) in ["acme", "beta", "gamma", "delta"].into_iter().enumerate() {
            let tried = |at: usize| {
                let name = format!("{tenant}/p{}", at % 3);
                if at.is_multiple_of(2) { Tried::Known(name) } else { Tried::Again(name) }
            };
            let from = |at: usize| source(&format!("2001:db8:{number:x}:{at:x}::1"));
            let entered =
                (0..SIGN_IN_KNOWN_COUNT_MAX).filter(|at| throttle.enter(from(*at), &tried(*at)).is_ok()).count();
            assert_eq!(entered, SIGN_IN_KNOWN_COUNT_MAX >> (number + 1), "{tenant}");
        }
        throttle.enter(source("203.0.113.1"), &known("operator/ada")).unwrap();
        throttle.enter(source("203.0.113.2"), &key("an id")).unwrap();
    }

    #[test]
    fn a_password_in_sessions_of_a_name_is_tried_so_often_however_many_sources_they_come_from() {
        let mut throttle = Throttle::default();
        let again = Tried::Again("acme/ann".to_owned());
        let new = |number: u32| source(&format!("2001:db8:{number:x}::1"));
        let entered = (0..60).filter(|number| {
            let from = new(*number);
            throttle.check(from, &again, START).is_ok() && throttle.enter(from, &again).is_ok()
        });
        assert_eq!(u32::try_from(entered.count()).unwrap(), SIGN_IN_FAILURES_COUNT_MAX);
        for number in 0..SIGN_IN_FAILURES_COUNT_MAX {
            throttle.failed_again(new(number), "acme/ann", START);
            throttle.leave(new(number), &again);
        }
        assert_eq!(throttle.check(new(100), &again, START), Err(DEBT));
        assert_eq!(throttle.check(new(100), &again, START + DEBT), Ok(()), "one, when one is forgiven");
        assert_eq!(
            throttle.check(new(100), &known("acme/ann"), START),
            Ok(()),
            "who signs in where he is known is not held"
        );
        // Nor is he in his session for what strangers do.
        fail(&mut throttle, "192.0.2.1", "acme/bob", SIGN_IN_FAILURES_COUNT_MAX);
        assert_eq!(throttle.check(new(100), &Tried::Again("acme/bob".to_owned()), START), Ok(()));
        assert!(throttle.passwords.is_empty() && throttle.under_way.is_empty());
    }

    #[test]
    fn who_owes_much_is_remembered_however_many_owe_a_little() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "203.0.113.1", "victim", SIGN_IN_FAILURES_COUNT_MAX);
        for number in 0..SIGN_IN_REMEMBERED_COUNT_MAX + 100 {
            let from = Source::of(std::net::IpAddr::V4(u32::try_from(number).unwrap().into()));
            throttle.failed(from, Some(&number.to_string()), START);
        }
        assert!(throttle.check(source("203.0.113.1"), &Tried::Nameless, START).is_err());
        assert!(throttle.check(source("198.51.100.7"), &stranger("victim"), START).is_err());
    }

    #[test]
    fn one_source_does_not_close_another() {
        let mut throttle = Throttle::default();
        fail(&mut throttle, "192.0.2.1", "a", 100);
        assert_eq!(throttle.check(source("192.0.2.2"), &key("b"), START), Ok(()));
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
        (0..SIGN_IN_PER_SOURCE_COUNT_MAX).for_each(|_| throttle.enter(source("192.0.2.1"), &Tried::Nameless).unwrap());
        assert!(throttle.enter(source("192.0.2.1"), &Tried::Nameless).is_err());
        assert!(throttle.enter(source("192.0.2.2"), &Tried::Nameless).is_ok());
        throttle.leave(source("192.0.2.1"), &Tried::Nameless);
        assert!(throttle.enter(source("192.0.2.1"), &Tried::Nameless).is_ok());
        (0..SIGN_IN_PER_SOURCE_COUNT_MAX).for_each(|_| throttle.leave(source("192.0.2.1"), &Tried::Nameless));
        throttle.leave(source("192.0.2.2"), &Tried::Nameless);
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
