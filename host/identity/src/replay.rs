//! Proofs that were used, so that none is used twice, and the nonces that make old ones worthless.
//!
//! Pure: time and dice are passed in. Must never forget a proof that could still be taken: when there is no room left the
//! next one is refused instead. Memory belongs to whoever spends it: each key has a share, and all together a cap.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ringfence_core::Entropy;
use ringfence_core::limits::{NONCE_SECONDS, PROOF_AGE_SECONDS_MAX, PROOFS_KEPT_COUNT_MAX, PROOFS_PER_KEY_COUNT_MAX};

use crate::dpop::{Nonces, Proven};

/// How long a proof can be taken from its first use: from as far in the future as it may be, to as far in the past.
const WINDOW: Duration = Duration::from_secs(PROOF_AGE_SECONDS_MAX.unsigned_abs() * 2 + 1);

/// Why a proof is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It came before.
    Used,
    /// Its key, or everyone together, used more than are remembered.
    Full,
}

/// Proofs used in this window and in the one before. A proof lives no longer than one window, so what is in neither is dead.
#[derive(Default)]
pub(crate) struct Replay {
    now: Generation,
    before: Generation,
    /// When `now` began.
    began: Duration,
}

#[derive(Default)]
struct Generation {
    by_key: HashMap<String, HashSet<[u8; 16]>>,
    count: usize,
}

impl Replay {
    /// Uses a proof up.
    pub(crate) fn spend(&mut self, proven: &Proven, at: Duration) -> Result<(), Refused> {
        let age = at.saturating_sub(self.began);
        if age >= WINDOW {
            let last = std::mem::take(&mut self.now);
            self.before = if age >= WINDOW * 2 { Generation::default() } else { last };
            self.began = at;
        }
        let used =
            |generation: &Generation| generation.by_key.get(&proven.jkt).is_some_and(|used| used.contains(&proven.jti));
        if used(&self.now) || used(&self.before) {
            return Err(Refused::Used);
        }
        let here = self.now.by_key.get(&proven.jkt).map_or(0, HashSet::len);
        if here >= PROOFS_PER_KEY_COUNT_MAX || self.now.count + self.before.count >= PROOFS_KEPT_COUNT_MAX {
            return Err(Refused::Full);
        }
        self.now.by_key.entry(proven.jkt.clone()).or_default().insert(proven.jti);
        self.now.count += 1;
        Ok(())
    }
}

/// The nonce given out now and the one before it. They are random and of this process alone, so that a proof made before a
/// restart is worth nothing after it, when nobody remembers which were used.
#[derive(Clone)]
pub(crate) struct Rotating {
    current: String,
    previous: String,
    since: Duration,
}

impl Rotating {
    pub(crate) fn new(entropy: &dyn Entropy, now: Duration) -> Self {
        Self { current: random(entropy), previous: random(entropy), since: now }
    }

    /// Moves on when it is time.
    pub(crate) fn turn(&mut self, entropy: &dyn Entropy, now: Duration) {
        let age = now.saturating_sub(self.since).as_secs();
        if age < NONCE_SECONDS {
            return;
        }
        let next = random(entropy);
        let last = std::mem::replace(&mut self.current, next);
        // After a long silence the last one is too old as well.
        self.previous = if age < NONCE_SECONDS * 2 { last } else { random(entropy) };
        self.since = now;
    }

    /// The one to give out.
    pub(crate) fn current(&self) -> &str {
        &self.current
    }
}

impl Nonces for Rotating {
    fn takes(&self, nonce: &str) -> bool {
        // A nonce is no secret: it is given to whoever asks.
        nonce == self.current || nonce == self.previous
    }
}

fn random(entropy: &dyn Entropy) -> String {
    let mut bytes = [0_u8; 16];
    entropy.fill(&mut bytes);
    BASE64URL_NOPAD.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000);

    fn proof(key: &str, number: u64) -> Proven {
        let mut jti = [0_u8; 16];
        jti[..8].copy_from_slice(&number.to_be_bytes());
        Proven { jkt: key.to_owned(), jti }
    }

    #[test]
    fn a_proof_is_taken_once_by_each_key() {
        let mut replay = Replay::default();
        assert_eq!(replay.spend(&proof("a", 1), START), Ok(()));
        assert_eq!(replay.spend(&proof("a", 1), START), Err(Refused::Used));
        assert_eq!(replay.spend(&proof("b", 1), START), Ok(()));
    }

    #[test]
    fn a_key_that_uses_up_its_share_closes_nobody_else_out_and_nothing_is_forgotten() {
        let mut replay = Replay::default();
        for number in 0..PROOFS_PER_KEY_COUNT_MAX as u64 {
            assert_eq!(replay.spend(&proof("greedy", number), START), Ok(()));
        }
        assert_eq!(replay.spend(&proof("greedy", u64::MAX), START), Err(Refused::Full));
        assert_eq!(replay.spend(&proof("greedy", 0), START), Err(Refused::Used));
        assert_eq!(replay.spend(&proof("other", 0), START), Ok(()));
        assert_eq!(replay.spend(&proof("greedy", u64::MAX), START + WINDOW), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut replay = Replay::default();
        let mut taken = 0_usize;
        for number in 0..PROOFS_KEPT_COUNT_MAX as u64 + 10 {
            let key = (number / 1_000).to_string();
            taken += usize::from(replay.spend(&proof(&key, number), START).is_ok());
        }
        assert_eq!(taken, PROOFS_KEPT_COUNT_MAX);
        assert_eq!(replay.spend(&proof("x", 0), START + WINDOW * 2), Ok(()));
        assert_eq!(replay.now.count + replay.before.count, 1);
    }

    #[test]
    fn nonces_turn_and_the_one_before_is_still_taken() {
        let dice = Dice::new();
        let mut nonces = Rotating::new(&dice, START);
        let first = nonces.current().to_owned();
        let later = |turns: u64| START + Duration::from_secs(NONCE_SECONDS * turns);
        nonces.turn(&dice, later(1));
        assert!(nonces.current() != first && nonces.takes(&first));
        nonces.turn(&dice, later(2));
        assert!(!nonces.takes(&first));
        let second = nonces.current().to_owned();
        nonces.turn(&dice, later(9));
        assert!(!nonces.takes(&second));
    }

    proptest! {
        #[test]
        fn no_proof_is_taken_twice_while_it_could_live(steps in proptest::collection::vec((0_u64..5, 0_u64..60), 1..80)) {
            let mut replay = Replay::default();
            let mut at = START;
            let mut last: HashMap<u64, Duration> = HashMap::new();
            for (number, wait) in steps {
                at += Duration::from_secs(wait);
                if replay.spend(&proof("a", number), at).is_ok()
                    && let Some(before) = last.insert(number, at)
                {
                    prop_assert!(at - before >= WINDOW, "taken again after {:?}", at - before);
                }
            }
        }
    }
}
