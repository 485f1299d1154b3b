//! How fast refusals go out: past a steady rate, a refused caller hears of it later, up to a second.
//!
//! A refusal costs the host about what a small call costs it. A caller that comes back the moment it is refused would spend
//! the processors that its own quota keeps from it; one that is made to wait cannot, for a connection has one request under
//! way at a time. Must never hold anything but a refusal, and never hold one tenant's for another's.
//!
//! The pace is kept by the generic cell rate algorithm (ITU-T I.371, virtual scheduling) with a bound on the wait. Waits
//! that the bound cuts are spread below it: hundreds of connections let go at one moment would come back at one moment.

use std::collections::HashMap;
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
    Peer(ringfence_core::Source),
}

impl Source {
    /// The source that a peer's address belongs to.
    pub(crate) fn peer(address: std::net::IpAddr) -> Self {
        Self::Peer(ringfence_core::Source::of(address))
    }
}

/// The pace of all sources.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    known: Mutex<HashMap<Source, Kept>>,
}

/// How one source keeps to its pace.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    /// When its next refusal is due if it keeps to the pace.
    due: Duration,
    /// Refusals whose wait the bound cut, for spreading them.
    cut_count: u32,
}

impl Pace {
    /// How long to hold one more refusal. `now` is a monotonic time.
    pub(crate) fn hold(&self, source: Source, now: Duration) -> Duration {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SOURCES_COUNT_MAX && !known.contains_key(&source) {
            known.retain(|_, kept| kept.due > now);
            if known.len() >= SOURCES_COUNT_MAX {
                return HOLD_MAX;
            }
        }
        known.entry(source).or_default().hold(now)
    }
}

impl Kept {
    /// How long one more refusal is held.
    fn hold(&mut self, now: Duration) -> Duration {
        // Never further ahead than the longest hold: a flood that is over is soon forgotten.
        self.due = (self.due.max(now) + INTERVAL).min(now + BURST + HOLD_MAX);
        let hold = self.due.saturating_sub(now + BURST);
        if hold < HOLD_MAX {
            return hold;
        }
        // Steps of the golden ratio over the upper half: any run of them is spread evenly (Weyl's sequence).
        self.cut_count = self.cut_count.wrapping_add(2_654_435_769);
        let spread = HOLD_MAX / 2 / 1_024 * (self.cut_count >> 22);
        HOLD_MAX - spread
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: &str) -> Source {
        Source::Tenant(name.parse().unwrap())
    }

    fn peer(text: &str) -> Source {
        Source::peer(text.parse().unwrap())
    }

    #[test]
    fn a_burst_goes_out_at_once_and_what_follows_is_held_ever_longer_up_to_the_bound() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        let holds: Vec<Duration> = (0..1_000).map(|_| pace.hold(tenant("acme"), now)).collect();
        let at_once = holds.iter().take_while(|hold| hold.is_zero()).count();
        assert_eq!(at_once, 200);
        let rising = holds.iter().take_while(|hold| **hold < HOLD_MAX / 2).count();
        assert!(holds[..rising].windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(holds[rising..].iter().all(|hold| (HOLD_MAX / 2..=HOLD_MAX).contains(hold)));
    }

    #[test]
    fn those_that_the_bound_cuts_are_not_let_go_together() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        for _ in 0..400 {
            pace.hold(tenant("flood"), now);
        }
        let mut holds: Vec<u128> = (0..500).map(|_| pace.hold(tenant("flood"), now).as_millis()).collect();
        holds.sort_unstable();
        for wave in holds.windows(20) {
            assert!(wave[19] - wave[0] >= 10, "twenty within {} ms", wave[19] - wave[0]);
        }
    }

    #[test]
    fn a_neighbour_and_a_stranger_are_not_held_for_it() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        for _ in 0..1_000 {
            pace.hold(tenant("flood"), now);
        }
        assert_eq!(pace.hold(tenant("acme"), now), Duration::ZERO);
        assert_eq!(pace.hold(peer("192.0.2.1"), now), Duration::ZERO);
    }

    #[test]
    fn the_addresses_of_one_network_are_held_together() {
        let pace = Pace::default();
        let now = Duration::from_secs(100);
        for n in 0..1_000 {
            pace.hold(peer(&format!("2001:db8:0:1::{n:x}")), now);
        }
        assert!(pace.hold(peer("2001:db8:0:1:ffff::1"), now) >= HOLD_MAX / 2);
        assert_eq!(pace.hold(peer("2001:db8:0:2::1"), now), Duration::ZERO);
    }

    #[test]
    fn sources_are_bounded_and_those_at_rest_make_room() {
        let pace = Pace::default();
        let peer = |n: usize| Source::peer(std::net::Ipv4Addr::from_bits(n as u32).into());
        let now = Duration::from_secs(100);
        for n in 0..SOURCES_COUNT_MAX {
            assert_eq!(pace.hold(peer(n), now), Duration::ZERO);
        }
        assert_eq!(pace.hold(peer(SOURCES_COUNT_MAX), now), HOLD_MAX);
        assert_eq!(pace.hold(peer(SOURCES_COUNT_MAX), now + INTERVAL), Duration::ZERO);
        assert_eq!(pace.known.lock().unwrap().len(), 1);
    }

    proptest! {
        /// Whatever the gaps: over any stretch no more go out within the bound than the pace and the burst allow.
        #[test]
        fn refusals_keep_to_the_pace(gaps in prop::collection::vec(0_u64..20, 1..600)) {
            let (mut kept, mut now) = (Kept::default(), Duration::from_secs(10));
            let mut out = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                let cut_before = kept.cut_count;
                let hold = kept.hold(now);
                prop_assert!(hold <= HOLD_MAX);
                if kept.cut_count == cut_before {
                    out.push(now + hold);
                }
            }
            out.sort();
            for (first, from) in out.iter().enumerate() {
                for (last, to) in out.iter().enumerate().skip(first) {
                    let paced = (*to - *from + BURST).as_millis() / INTERVAL.as_millis();
                    prop_assert!((last - first + 1) as u128 <= paced + 2);
                }
            }
        }
    }
}
