//! Memory that running invocations share: what those of one tenant hold together, within what those of all tenants do.
//!
//! Shared by their meters. Must never give more than its size, nor take back more than it gave; and never let tenants that
//! hold memory take all of the host's, or nobody else could start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of the host's memory that is kept for tenants that hold next to none, as slots are for those that hold none.
const KEPT_PART: u64 = 8;
/// LIMIT: most bytes that a tenant may hold in all and still take of what is kept.
const FIRST_BYTES_MAX: u64 = 64 << 20;
/// And the part of what is kept that this is at most, so that it is there for more tenants than one.
const FIRST_PART: u64 = 4;

/// Memory that the running invocations of all tenants share, with those that wait for another invocation.
#[derive(Debug)]
pub struct HostMemory {
    bytes_max: u64,
    bytes: AtomicU64,
}

/// Memory that a tenant's running invocations share.
#[derive(Debug)]
pub struct MemoryPool {
    host: Arc<HostMemory>,
    bytes_max: AtomicU64,
    bytes: AtomicU64,
    refused_count: AtomicU64,
}

/// What had no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Full {
    /// The invocation's budget, or what its tenant may have.
    Own = 1,
    /// The host.
    Host = 2,
}

// === impl HostMemory ===

impl HostMemory {
    /// An empty one of `bytes_max`.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes: AtomicU64::new(0) })
    }

    /// A tenant's part of it, of at most `bytes_max`, empty.
    pub fn pool(self: &Arc<Self>, bytes_max: u64) -> Arc<MemoryPool> {
        Arc::new(MemoryPool {
            host: Arc::clone(self),
            bytes_max: AtomicU64::new(bytes_max),
            bytes: AtomicU64::new(0),
            refused_count: AtomicU64::new(0),
        })
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether only what is kept is left: not the time to hold memory that nobody uses.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes() >= self.bytes_max.saturating_sub(self.kept_bytes())
    }

    /// Takes `bytes` for a tenant that then holds `of_tenant` in all, or nothing.
    fn take(&self, bytes: u64, of_tenant: u64) -> bool {
        let kept = self.kept_bytes();
        let is_first = of_tenant <= FIRST_BYTES_MAX.min(kept / FIRST_PART);
        let max = if is_first { self.bytes_max } else { self.bytes_max.saturating_sub(kept) };
        // Others may have taken of what is kept: who asks for nothing still gets it.
        bytes == 0 || add_within(&self.bytes, bytes, max).is_some()
    }

    fn kept_bytes(&self) -> u64 {
        self.bytes_max / KEPT_PART
    }
}

// === impl MemoryPool ===

impl MemoryPool {
    /// Changes its size. What is held beyond a smaller size stays until it is let go; growth is refused at once.
    pub fn resize(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Growth refused because it was full, since the start. What the host had no room for is not the tenant's quota's.
    pub fn refused_count(&self) -> u64 {
        self.refused_count.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing when they would go over here or in the host.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Full> {
        let Some(held) = add_within(&self.bytes, bytes, self.bytes_max.load(Ordering::Relaxed)) else {
            self.refused_count.fetch_add(1, Ordering::Relaxed);
            return Err(Full::Own);
        };
        if !self.host.take(bytes, held) {
            subtract(&self.bytes, bytes);
            return Err(Full::Host);
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        let given = subtract(&self.bytes, bytes);
        subtract(&self.host.bytes, given);
    }
}

/// Adds without passing `max`; the sum, or nothing added.
pub(crate) fn add_within(counter: &AtomicU64, add: u64, max: u64) -> Option<u64> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| now.checked_add(add).filter(|sum| *sum <= max))
        .map(|before| before.saturating_add(add))
        .ok()
}

/// Subtracts, never below zero; says how much.
pub(crate) fn subtract(counter: &AtomicU64, bytes: u64) -> u64 {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)))
        .map_or(0, |before| before.min(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_much_leaves_room_for_who_holds_nothing_and_gets_it_back_when_it_is_given_back() {
        // 100 of 800 are kept, for those that hold 25 at most.
        let host = HostMemory::new(800);
        let (greedy, next, last) = (host.pool(1_000), host.pool(1_000), host.pool(1_000));
        assert_eq!(greedy.take(700), Ok(()));
        assert!(host.is_short());
        assert_eq!(greedy.take(1), Err(Full::Host));
        assert_eq!(greedy.take(0), Ok(()), "nothing is never too much");
        assert_eq!(next.take(25), Ok(()));
        assert_eq!(next.take(1), Err(Full::Host), "it holds some now");
        assert_eq!((greedy.bytes(), next.bytes(), host.bytes()), (700, 25, 725), "a refusal takes nothing");
        assert_eq!((greedy.refused_count(), next.refused_count()), (0, 0), "no quota was in the way");
        greedy.give_back(100);
        assert!(!host.is_short());
        assert_eq!(next.take(75), Ok(()));
        assert_eq!(last.take(26), Err(Full::Host));
        assert_eq!(last.take(25), Ok(()));
        greedy.give_back(u64::MAX);
        assert_eq!(host.bytes(), 125, "no more comes back than was taken");
    }

    #[test]
    fn a_tenant_at_its_own_size_takes_nothing_of_the_host() {
        let host = HostMemory::new(800);
        let pool = host.pool(10);
        assert_eq!(pool.take(11), Err(Full::Own));
        assert_eq!((pool.refused_count(), host.bytes()), (1, 0));
    }

    /// Threads take and give back as they like: never more than there is, and nothing is left.
    #[test]
    fn however_many_ask_at_once_no_more_is_given_than_there_is() {
        let host = HostMemory::new(8_000);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let host = &host;
                scope.spawn(move || {
                    let pool = host.pool(u64::MAX);
                    for round in 0..20_000 {
                        let bytes = (round * 31 + thread * 977) % 4_000;
                        if pool.take(bytes).is_ok() {
                            assert!(host.bytes() <= 8_000);
                            pool.give_back(bytes);
                        }
                    }
                });
            }
        });
        assert_eq!(host.bytes(), 0);
    }
}
