//! The real clock and the real dice. The only place that asks the operating system for either.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ringfence_core::{Clock, Entropy};
use zeroize::Zeroize;

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock that everybody else is given")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Bytes fetched from the kernel at a time for small draws.
const AHEAD_BYTES: usize = 512;
/// The largest draw that is served from bytes fetched ahead: ids. SECURITY: a key or the salt of one is longer, and is drawn at
/// that moment. What a process has fetched ahead is in every copy of its machine, and two records of one key and one nonce
/// give each other away.
const SMALL_BYTES: usize = 16;

thread_local! {
    /// Bytes that were fetched and not yet drawn, and how many of them are gone. Never shared, never drawn twice.
    static AHEAD: RefCell<([u8; AHEAD_BYTES], usize)> = const { RefCell::new(([0; AHEAD_BYTES], AHEAD_BYTES)) };
}

/// The kernel's generator, getrandom(2). Small draws, of which a call takes several, come from bytes that each thread
/// fetches ahead: a system call each would cost more than the rest of an id.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, into: &mut [u8]) {
        if into.len() > SMALL_BYTES {
            return from_kernel(into);
        }
        AHEAD.with_borrow_mut(|(bytes, gone)| {
            if bytes.len().saturating_sub(*gone) < into.len() {
                from_kernel(bytes);
                *gone = 0;
            }
            let end = gone.saturating_add(into.len());
            if let Some(drawn) = bytes.get_mut(*gone..end) {
                into.copy_from_slice(drawn);
                // What was drawn may become a key: no copy stays behind.
                drawn.zeroize();
            }
            *gone = end;
        });
    }
}

fn from_kernel(into: &mut [u8]) {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            // SECURITY: keys made without entropy would be worse than no process.
            Err(_) => std::process::abort(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_becomes_a_key_or_the_salt_of_one_is_not_fetched_ahead() {
        let gone = || AHEAD.with_borrow(|(_, gone)| *gone);
        SystemEntropy.fill(&mut [0; 16]);
        let before = gone();
        assert!(before < AHEAD_BYTES, "an id is");
        for size in [24, 32, 64] {
            SystemEntropy.fill(&mut vec![0; size]);
            assert_eq!(gone(), before, "{size} bytes");
        }
    }

    #[test]
    fn no_draw_comes_twice_and_none_is_zeros() {
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            let mut draw = [0_u8; 16];
            SystemEntropy.fill(&mut draw);
            assert_ne!(draw, [0; 16]);
            assert!(seen.insert(draw));
        }
        for size in [0, 1, SMALL_BYTES, SMALL_BYTES + 1, 4_096] {
            let mut draw = vec![0_u8; size];
            SystemEntropy.fill(&mut draw);
            assert!(size < 16 || draw.iter().any(|byte| *byte != 0));
        }
    }
}
