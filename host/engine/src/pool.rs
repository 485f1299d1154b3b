//! Memory that running invocations share: what those of one tenant hold together, within what those of all tenants do.
//!
//! Shared by their meters. Must never give more than its size, nor take back more than it gave; and never let tenants that
//! hold memory take all of the host's, or nobody else could start. What instances hold that wait for their next invocation is
//! counted like the rest, and gives way to whoever finds no room; who finds none within its share of the host waits in a line
//! (`line.rs`), which nobody passes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::idle::Idle;
use crate::line::{Line, Pace};
use crate::scheduler::TenantShare;

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
    /// Instances that wait for their next invocation.
    idle: OnceLock<Weak<Idle>>,
    line: Line,
}

/// Memory that a tenant's running invocations share.
#[derive(Debug)]
pub struct MemoryPool {
    host: Arc<HostMemory>,
    bytes_max: AtomicU64,
    stake: Arc<Stake>,
    refused_count: AtomicU64,
    /// How often it is looked at whether it may wait.
    pace: Pace,
}

/// What the shares of the host's memory are worked out from, of one tenant: read by whoever asks for more, without a lock that
/// others need to run guests.
#[derive(Debug)]
pub(crate) struct Stake {
    bytes: AtomicU64,
    /// Of these, what invocations hold that have to end.
    leaving_bytes: AtomicU64,
    /// Its part when the host's memory is short.
    weight: AtomicU32,
    /// Guests that were handed to the workers and are not finished.
    running_count: AtomicU32,
}

/// What had no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Full {
    /// The invocation's budget, or what its tenant may have.
    Own = 1,
    /// The host.
    Host = 2,
    /// The host, for a tenant that is above its share of it, while others wait for theirs.
    Share = 3,
}

// === impl HostMemory ===

impl HostMemory {
    /// An empty one of `bytes_max`.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes: AtomicU64::new(0), idle: OnceLock::new(), line: Line::default() })
    }

    /// Says whose memory gives way. The first word counts.
    pub(crate) fn takes_back_from(&self, idle: &Arc<Idle>) {
        let _ = self.idle.set(Arc::downgrade(idle));
    }

    /// The least size of one in which a tenant can hold `bytes`: what is kept is beside them.
    pub fn least_bytes(bytes: u64) -> u64 {
        bytes.saturating_mul(KEPT_PART).div_ceil(KEPT_PART - 1)
    }

    /// A tenant's part of it, of at most `bytes_max`, empty.
    pub fn pool(self: &Arc<Self>, bytes_max: u64) -> Arc<MemoryPool> {
        let stake = Arc::new(Stake {
            bytes: AtomicU64::new(0),
            leaving_bytes: AtomicU64::new(0),
            weight: AtomicU32::new(TenantShare::USUAL.weight),
            running_count: AtomicU32::new(0),
        });
        self.line.note(&stake);
        Arc::new(MemoryPool {
            host: Arc::clone(self),
            bytes_max: AtomicU64::new(bytes_max),
            stake,
            refused_count: AtomicU64::new(0),
            pace: Pace::default(),
        })
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Invocations ended since the start because their tenants were above their shares and others waited.
    pub fn ended_count(&self) -> u64 {
        self.line.ended_count()
    }

    /// Whether only what is kept is left or somebody waits for some: not the time to hold memory that nobody uses.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes() >= self.shared_bytes() || self.line.asked_bytes() > 0
    }

    /// Those who wait for some of it.
    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    /// What tenants share: all but what is kept.
    pub(crate) fn shared_bytes(&self) -> u64 {
        self.bytes_max.saturating_sub(self.kept_bytes())
    }

    /// Takes `bytes` for a tenant that then holds `of_tenant` in all, or nothing. What is `ahead` goes to others before.
    fn take(&self, bytes: u64, of_tenant: u64, ahead: u64) -> bool {
        // Nobody waits for what is kept for those that hold next to none.
        let ahead = if self.is_first(of_tenant) { 0 } else { ahead };
        let max = self.max_for(of_tenant).saturating_sub(ahead);
        // Others may have taken of what is kept: who asks for nothing still gets it.
        bytes == 0 || add_within(&self.bytes, bytes, max).is_some()
    }

    /// Most bytes that are held of it when a tenant takes some that then holds `of_tenant`.
    pub(crate) fn max_for(&self, of_tenant: u64) -> u64 {
        if self.is_first(of_tenant) { self.bytes_max } else { self.shared_bytes() }
    }

    fn is_first(&self, of_tenant: u64) -> bool {
        of_tenant <= FIRST_BYTES_MAX.min(self.kept_bytes() / FIRST_PART)
    }

    /// Lets go of all that waits where `bytes` then fit for a tenant that holds `of_tenant` with them.
    fn let_go_for(&self, bytes: u64, of_tenant: u64) {
        let Some(idle) = self.idle() else { return };
        let left = self.bytes().saturating_sub(idle.bytes());
        if left.saturating_add(bytes) <= self.max_for(of_tenant) {
            idle.let_go_of_all();
        }
    }

    pub(crate) fn idle(&self) -> Option<Arc<Idle>> {
        self.idle.get()?.upgrade()
    }

    fn kept_bytes(&self) -> u64 {
        self.bytes_max / KEPT_PART
    }
}

// === impl Stake ===

impl Stake {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that are not on their way back.
    pub(crate) fn staying_bytes(&self) -> u64 {
        self.bytes().saturating_sub(self.leaving_bytes.load(Ordering::Relaxed))
    }

    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Whether a guest of it runs, waits or sleeps.
    pub(crate) fn is_running(&self) -> bool {
        self.running_count.load(Ordering::Relaxed) > 0
    }

    /// A guest is handed to the workers.
    pub(crate) fn begins(&self) {
        self.running_count.fetch_add(1, Ordering::Relaxed);
    }

    /// One that was is finished.
    pub(crate) fn ends(&self) {
        let less = |count: u32| Some(count.saturating_sub(1));
        let _ = self.running_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// What holds so much has to end.
    pub(crate) fn leaves(&self, bytes: u64) {
        self.leaving_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of it is back.
    pub(crate) fn has_left(&self, bytes: u64) {
        subtract(&self.leaving_bytes, bytes);
    }
}

// === impl MemoryPool ===

impl MemoryPool {
    /// Changes its size. What is held beyond a smaller size stays until it is let go; growth is refused at once.
    pub fn resize(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Changes its part when the host's memory is short, against the others'; 100 is usual, 1 the least.
    pub fn set_weight(&self, weight: u32) {
        self.stake.weight.store(weight, Ordering::Relaxed);
    }

    pub(crate) fn stake(&self) -> &Arc<Stake> {
        &self.stake
    }

    pub(crate) fn host(&self) -> &Arc<HostMemory> {
        &self.host
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.stake.bytes()
    }

    /// Growth refused because it was full, since the start. What the host had no room for is not the tenant's quota's.
    pub fn refused_count(&self) -> u64 {
        self.refused_count.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, or nothing when they would go over here or in the host. What waits for its next invocation gives way:
    /// the tenant's own first, then, where that is enough, everybody's.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Full> {
        let taken = self.take_uncounted(bytes);
        if taken == Err(Full::Own) {
            self.refused_count.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// The same without counting a refusal: for who can go on without.
    pub(crate) fn take_uncounted(&self, bytes: u64) -> Result<(), Full> {
        let ahead = self.host.line.asked_bytes();
        let mut taken = self.try_take(bytes, ahead);
        // Tried again even where nothing waited any more: somebody else may have made room just now, for more than itself.
        if taken.is_err() {
            if let Some(idle) = self.host.idle() {
                idle.let_go_of(self);
            }
            taken = self.try_take(bytes, ahead);
        }
        if taken == Err(Full::Host) {
            self.host.let_go_for(bytes, self.bytes().saturating_add(bytes));
            taken = self.try_take(bytes, ahead);
        }
        // Who waits may get no time on a processor: what is promised to him is not kept for longer than he may wait.
        if taken == Err(Full::Host) && ahead > 0 {
            taken = self.try_take(bytes, self.host.line.asked_in_time_bytes());
        }
        taken
    }

    /// Takes `bytes` once `ahead` of the host's has gone to those who came before.
    pub(crate) fn try_take(&self, bytes: u64, ahead: u64) -> Result<(), Full> {
        let max = self.bytes_max.load(Ordering::Relaxed);
        let held = self.bytes().saturating_add(bytes);
        if held > max {
            return Err(Full::Own);
        }
        if !self.host.take(bytes, held, ahead) {
            return Err(Full::Host);
        }
        // The host is asked first: what it refuses one invocation must not look like a full quota to another meanwhile.
        if add_within(&self.stake.bytes, bytes, max).is_none() {
            subtract(&self.host.bytes, bytes);
            return Err(Full::Own);
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        let given = subtract(&self.stake.bytes, bytes);
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
        assert_eq!((pool.take_uncounted(11), pool.refused_count()), (Err(Full::Own), 0));
        assert_eq!(pool.take(11), Err(Full::Own));
        assert_eq!((pool.refused_count(), host.bytes()), (1, 0));
    }

    /// One asks again and again for what the host has not; the other's quota has room, and it is never told otherwise.
    #[test]
    fn what_the_host_refuses_one_invocation_is_not_taken_from_its_tenants_quota_meanwhile() {
        let host = HostMemory::new(80);
        let (other, pool) = (host.pool(100), host.pool(100));
        assert_eq!(other.take(20), Ok(()));
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(pool.take(60).is_err());
                }
            });
            let refused = (0..200_000).find(|_| match pool.take(45) {
                Ok(()) => {
                    pool.give_back(45);
                    false
                }
                Err(_) => true,
            });
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(refused, None);
        });
        assert_eq!((pool.bytes(), host.bytes()), (0, 20));
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
