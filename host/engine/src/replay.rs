//! The clock and the dice of a guest that is run again and again over a history: the same each time, or its code would go
//! another way than what it replays.
//!
//! Only the wall clock and the dice. The monotonic clock stays the real one: guests wait by it. And what a guest does that is
//! kept and not done again has the real ones too. Must never give the bytes of one number twice in one call of the code.

use std::array::IntoIter;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rand_core::TryRng;
use wasmtime_wasi::clocks::wall_clock;
use wasmtime_wasi::{HostWallClock, Rng, WasiCtxBuilder, thread_rng};

/// Blocks of the dice that must be unpredictable are counted from here.
const SECURE_FIRST: u64 = 0;
/// And the others from here.
const INSECURE_FIRST: u64 = 1 << 62;
/// The block that the seed of the guest's own hashes is of.
const SEED_BLOCK: u64 = u64::MAX;

/// What takes the place of the real clock and dice.
#[derive(Clone)]
pub struct Replay {
    /// What the wall clock shows, from the Unix epoch on.
    pub wall: Duration,
    /// Bytes by their number: the same for the same number, and nobody else can tell them.
    pub dice: Arc<dyn Fn(u64) -> [u8; 32] + Send + Sync>,
    /// Whether what the guest does now is not done again: then it has the real clock and dice.
    pub is_real: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Replay {
    pub(crate) fn onto(self, wasi: &mut WasiCtxBuilder) {
        let seed = (self.dice)(SEED_BLOCK);
        let seed = seed.first_chunk::<16>().copied().map_or(0, u128::from_le_bytes);
        wasi.insecure_random_seed(seed);
        wasi.secure_random(Dice::new(self.clone(), SECURE_FIRST));
        wasi.insecure_random(Dice::new(self.clone(), INSECURE_FIRST));
        wasi.wall_clock(Wall { replay: self, real: wall_clock() });
    }
}

struct Wall {
    replay: Replay,
    real: Box<dyn HostWallClock + Send>,
}

impl HostWallClock for Wall {
    fn resolution(&self) -> Duration {
        self.real.resolution()
    }
    fn now(&self) -> Duration {
        if (self.replay.is_real)() { self.real.now() } else { self.replay.wall }
    }
}

struct Dice {
    replay: Replay,
    number: u64,
    block: IntoIter<u8, 32>,
    real: Box<dyn Rng + Send>,
}

impl Dice {
    fn new(replay: Replay, first: u64) -> Self {
        let block = (replay.dice)(first).into_iter();
        Self { replay, number: first, block, real: thread_rng() }
    }

    fn byte(&mut self) -> u8 {
        loop {
            if let Some(byte) = self.block.next() {
                return byte;
            }
            self.number = self.number.wrapping_add(1);
            self.block = (self.replay.dice)(self.number).into_iter();
        }
    }
}

impl TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        if (self.replay.is_real)() {
            self.real.fill_bytes(into);
        } else {
            into.iter_mut().for_each(|byte| *byte = self.byte());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn replay(is_real: &Arc<AtomicBool>) -> Replay {
        let is_real = Arc::clone(is_real);
        let dice = |number: u64| {
            let mut block = [0; 32];
            for (byte, of) in block.iter_mut().zip(number.to_le_bytes().iter().cycle()) {
                *byte = of.wrapping_add(7);
            }
            block
        };
        Replay {
            wall: Duration::from_secs(1_000),
            dice: Arc::new(dice),
            is_real: Arc::new(move || is_real.load(Ordering::Relaxed)),
        }
    }

    #[test]
    fn clock_and_dice_are_the_same_at_every_replay_whatever_was_done_between_that_is_kept() {
        let is_real = Arc::new(AtomicBool::new(false));
        let (mut first, mut again) = (Dice::new(replay(&is_real), 0), Dice::new(replay(&is_real), 0));
        let wall = Wall { replay: replay(&is_real), real: wall_clock() };
        let draw = |dice: &mut Dice| (dice.next_u32(), dice.next_u64());
        for _ in 0..10 {
            // What is done once draws other numbers, sees the real time, and takes none of the history's.
            is_real.store(true, Ordering::Relaxed);
            assert!(wall.now() > Duration::from_secs(1_000_000));
            assert_ne!((first.next_u64(), first.next_u64()), (first.next_u64(), first.next_u64()));
            is_real.store(false, Ordering::Relaxed);
            assert_eq!(wall.now(), Duration::from_secs(1_000));
            assert_eq!(draw(&mut first), draw(&mut again));
        }
    }

    #[test]
    fn no_two_of_the_three_give_the_same_numbers() {
        let is_real = Arc::default();
        let mut secure = Dice::new(replay(&is_real), SECURE_FIRST);
        let mut insecure = Dice::new(replay(&is_real), INSECURE_FIRST);
        let draw = |dice: &mut Dice| (dice.next_u64(), dice.next_u64());
        assert_ne!(draw(&mut secure), draw(&mut insecure));
    }
}
