//! Keys in pages of their own that are kept out of the swap, as far as the system lets this process lock memory.
//!
//! Must never share a page with anything else: locks do not nest, and letting go of one key would unlock another. What is locked
//! are the keys of open tenants; the copies that the cipher library makes while it works, and what passes on its way from
//! a provider, are not. A lock that is refused is counted and said (`doctor`, `/readyz` of the host's facts), not fatal.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroize;

/// Bytes of a page, and so the alignment of what lies in one. Larger pages of other machines lock more than is asked for.
const PAGE_BYTES: usize = 4_096;

static LOCKED_COUNT: AtomicU64 = AtomicU64::new(0);
static REFUSED_COUNT: AtomicU64 = AtomicU64::new(0);

/// How keeping keys out of the swap has gone in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockedMemory {
    /// Keys that lie in locked pages now.
    pub locked_count: u64,
    /// Keys whose pages the system did not let us lock, since the start.
    pub refused_count: u64,
}

/// A value in pages of its own: locked where the system allows it, zeroed before they are let go.
pub(crate) struct Locked<T: Zeroize> {
    content: Box<Page<T>>,
    lock: Option<region::LockGuard>,
}

/// INVARIANT: aligned to a page, and so a whole number of pages long.
#[repr(align(4096))]
struct Page<T>(T);

const _: () = assert!(size_of::<Page<u8>>() == PAGE_BYTES && align_of::<Page<u8>>() == PAGE_BYTES);

/// How keeping keys out of the swap has gone in this process.
pub fn locked_memory() -> LockedMemory {
    LockedMemory {
        locked_count: LOCKED_COUNT.load(Ordering::Relaxed),
        refused_count: REFUSED_COUNT.load(Ordering::Relaxed),
    }
}

/// Whether this process can lock memory at all, tried on one page.
pub fn can_lock_memory() -> bool {
    let page = Box::new(Page(0_u8));
    region::lock(std::ptr::from_ref(&*page), size_of_val(&*page)).is_ok()
}

// === impl Locked ===

impl<T: Zeroize> Locked<T> {
    pub(crate) fn new(value: T) -> Self {
        let content = Box::new(Page(value));
        let lock = region::lock(std::ptr::from_ref(&*content), size_of_val(&*content)).ok();
        let counter = if lock.is_some() { &LOCKED_COUNT } else { &REFUSED_COUNT };
        counter.fetch_add(1, Ordering::Relaxed);
        Self { content, lock }
    }
}

impl<T: Zeroize> Deref for Locked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.content.0
    }
}

impl<T: Zeroize> Drop for Locked<T> {
    fn drop(&mut self) {
        // In this order: zeroed while it is locked, unlocked while the pages are still ours.
        self.content.0.zeroize();
        if self.lock.take().is_some() {
            LOCKED_COUNT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Kilobytes of this process that are locked, as the kernel counts them.
    fn locked_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn a_key_lies_in_pages_of_its_own_that_the_kernel_counts_as_locked() {
        let keys: Vec<Locked<[u8; 64]>> = (0..4).map(|n| Locked::new([n; 64])).collect();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(std::ptr::from_ref(&**key).addr() % PAGE_BYTES, 0);
            assert_eq!(**key, [u8::try_from(n).unwrap(); 64]);
        }
        let held = keys.iter().filter(|key| key.lock.is_some()).count() as u64;
        assert!(locked_kib() >= held * 4, "{held} keys");
        // A machine that locks nothing has to say so, and works all the same.
        assert_eq!(held > 0, can_lock_memory());
        assert!(locked_memory().locked_count >= held);
    }

    #[test]
    fn a_key_is_zeroed_before_its_pages_are_let_go() {
        const KEY: [u8; 2_048] = [0xA7; 2_048];
        // This process as the kernel sees it, at any address.
        let memory = File::open("/proc/self/mem").unwrap();
        let key = Locked::new(KEY);
        let place = std::ptr::from_ref(&*key).addr() as u64;
        let mut found = [0; KEY.len()];
        memory.read_exact_at(&mut found, place).unwrap();
        assert_eq!(found, KEY, "this is where it lies");
        drop(key);
        // Pages that went back to the system cannot be read at all; in others whoever comes next may have written.
        found.fill(0);
        let _ = memory.read_exact_at(&mut found, place);
        assert!(!found.windows(16).any(|part| part == &KEY[..16]), "the key is still there");
    }
}
