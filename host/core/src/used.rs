//! Which capabilities of one plugin were used since somebody last looked: a bit each, set on the path of a host call.
//!
//! Must never wait or read a clock: whoever looks, regularly, knows the time, and that is as exact as it gets.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::Capability;

/// The capabilities that one plugin used of late.
#[derive(Debug, Default)]
pub struct CapabilityUse(AtomicU32);

impl CapabilityUse {
    /// Notes a use. A load when it was noted already, which it mostly was.
    pub fn note(&self, capability: Capability) {
        let bit = bit(capability);
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// What was used since the last look.
    pub fn take(&self) -> Vec<Capability> {
        if self.0.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let bits = self.0.swap(0, Ordering::Relaxed);
        Capability::ALL.into_iter().filter(|capability| bits & bit(*capability) != 0).collect()
    }
}

fn bit(capability: Capability) -> u32 {
    let place = Capability::ALL.iter().position(|known| *known == capability);
    place.and_then(|place| u32::try_from(place).ok()).and_then(|place| 1_u32.checked_shl(place)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_bit_of_its_own_and_is_told_once() {
        let used = CapabilityUse::default();
        assert!(used.take().is_empty());
        for capability in Capability::ALL {
            used.note(capability);
            used.note(capability);
            assert_eq!(used.take(), [capability]);
        }
        Capability::ALL.into_iter().for_each(|capability| used.note(capability));
        assert_eq!(used.take(), Capability::ALL);
        assert!(used.take().is_empty());
    }
}
