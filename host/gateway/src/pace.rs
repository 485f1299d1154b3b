//! How fast refusals go out: past a steady rate, a refused caller hears of it later, up to a second.
//!
//! A refusal costs the host about what a small call costs it. A caller that comes back the moment it is refused would spend
//! the processors that its own quota keeps from it; one that is made to wait cannot, for a connection has one request under
//! way at a time. Must never hold anything but a refusal, and never hold one tenant's for another's.
//!
//! The pace is kept by the generic cell rate algorithm (ITU-T I.371, virtual scheduling) with a bound on the wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ringfence_core::TenantId;

/// Time between two refusals of one source at its steady pace: 200 a second.
const INTERVAL: Duration = Duration::from_millis(5);
/// Refusals this far ahead of the pace go out at once: 200 of them.
const BURST: Duration = Duration::from_secs(1);
/// LIMIT: longest time that a refusal is held.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// LIMIT: sources whose pace is known at one time; when there are more, the ones at rest are forgotten, and if none is at
/// rest, newcomers are held as long as can be.
const SOURCES_COUNT_MAX: usize = 8_192;

/// Whom a refusal is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// The tenant that has no room for more.
    Tenant(TenantId),
    /// Whoever asked for what is not there, not allowed, or not well formed.
    Peer(IpAddr),
}

/// The pace of all sources.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When each source's next refusal is due if it keeps to the pace.
    due: Mutex<HashMap<Source, Duration>>,
}

impl Pace {
    /// How long to hold one more refusal. `now` is a monotonic time.
    pub(crate) fn hold(&self, source: Source, now: Duration) -> Duration {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.len() >= SOURCES_COUNT_MAX && !due.contains_key(&source) {
            due.retain(|_, due| *due > now);
            if due.len() >= SOURCES_COUNT_MAX {
                return HOLD_MAX;
            }
        }
        let at = due.entry(source).or_default();
        let (next, hold) = step(*at, now);
        *at = next;
        hold
    }
}

/// The time due after one more refusal, and how long that one is held.
fn step(due: Duration, now: Duration) -> (Duration, Duration) {
    // Never further ahead than the longest hold: a flood that is over is soon forgotten.
    let next = (due.max(now) + INTERVAL).min(now + BURST + HOLD_MAX);
    (next, next.saturating_sub(now + BURST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: &str) -> Source {
        Source::Tenant(name.parse().unwrap())
    }

    #[test]
    fn a_burst_goes_out_at_once_and_what_follows_is_held_ever_longer_up_to_the_bound() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        let holds: Vec<Duration> = (0..1_000).map(|_| pace.hold(tenant("acme"), now)).collect();
        let at_once = holds.iter().take_while(|hold| hold.is_zero()).count();
        assert_eq!(at_once, 200);
        assert!(holds.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(holds.last(), Some(&HOLD_MAX));
    }

    #[test]
    fn a_neighbour_and_a_stranger_are_not_held_for_it() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        for _ in 0..1_000 {
            pace.hold(tenant("flood"), now);
        }
        assert_eq!(pace.hold(tenant("acme"), now), Duration::ZERO);
        assert_eq!(pace.hold(Source::Peer([192, 0, 2, 1].into()), now), Duration::ZERO);
    }

    #[test]
    fn sources_are_bounded_and_those_at_rest_make_room() {
        let pace = Pace::default();
        let peer = |n: usize| Source::Peer(std::net::Ipv4Addr::from_bits(n as u32).into());
        let now = Duration::from_secs(100);
        for n in 0..SOURCES_COUNT_MAX {
            assert_eq!(pace.hold(peer(n), now), Duration::ZERO);
        }
        assert_eq!(pace.hold(peer(SOURCES_COUNT_MAX), now), HOLD_MAX);
        assert_eq!(pace.hold(peer(SOURCES_COUNT_MAX), now + INTERVAL), Duration::ZERO);
        assert_eq!(pace.due.lock().unwrap().len(), 1);
    }

    proptest! {
        /// Whatever the gaps: over any stretch no more go out than the pace, the burst and the bound allow.
        #[test]
        fn refusals_keep_to_the_pace(gaps in prop::collection::vec(0_u64..20, 1..600)) {
            let (mut due, mut now) = (Duration::ZERO, Duration::from_secs(10));
            let mut out = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                let (next, hold) = step(due, now);
                prop_assert!(hold <= HOLD_MAX);
                due = next;
                if hold < HOLD_MAX {
                    out.push(now + hold);
                }
            }
            out.sort();
            for (first, from) in out.iter().enumerate() {
                for (last, to) in out.iter().enumerate().skip(first) {
                    let allowed = (*to - *from).as_millis() / INTERVAL.as_millis() + BURST.as_millis() / INTERVAL.as_millis() + 2;
                    prop_assert!((last - first + 1) as u128 <= allowed);
                }
            }
        }
    }
}
