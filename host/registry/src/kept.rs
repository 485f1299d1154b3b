//! Which versions stay loaded when there is no room for all. Pure: it is told the time, and what it keeps it does not look at.
//!
//! Must never let a tenant that uses many versions push out those of a tenant that uses few: beside what nobody used for
//! long, the tenant that holds most loses first, of its own what it used longest ago.

use std::collections::HashMap;
use std::time::Duration;

use ringfence_core::Digest;

/// A version that nobody used for so long protects nobody: it goes before those of any tenant at work.
pub(crate) const IDLE_MIN: Duration = Duration::from_secs(300);

/// Things kept by tenant and digest, so many at most.
pub(crate) struct Kept<T> {
    tenants: HashMap<Box<str>, HashMap<Digest, Entry<T>>>,
    count: usize,
    count_max: usize,
    /// Counts uses: what was used at the same time has an order all the same.
    uses: u64,
    evicted: u64,
}

struct Entry<T> {
    thing: T,
    used: (Duration, u64),
}

impl<T: Clone + Default> Kept<T> {
    /// Keeps nothing yet, and at most `count_max` things later.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { tenants: HashMap::new(), count: 0, count_max, uses: 0, evicted: 0 }
    }

    /// The thing of a tenant, a new one when it is not kept, and what had to go for it. `now` is monotonic.
    pub(crate) fn take(&mut self, tenant: &str, digest: &Digest, now: Duration) -> (T, Option<T>) {
        self.uses += 1;
        let used = (now, self.uses);
        if let Some(entry) = self.tenants.get_mut(tenant).and_then(|own| own.get_mut(digest)) {
            entry.used = used;
            return (entry.thing.clone(), None);
        }
        let evicted = if self.count >= self.count_max { self.evict(tenant, now) } else { None };
        let thing = T::default();
        let entry = Entry { thing: thing.clone(), used };
        self.tenants.entry(Box::from(tenant)).or_default().insert(*digest, entry);
        self.count += 1;
        (thing, evicted)
    }

    /// Lets go of all of a tenant's.
    pub(crate) fn forget(&mut self, tenant: &str) {
        self.count -= self.tenants.remove(tenant).map_or(0, |own| own.len());
    }

    /// Things kept.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Things that had to go since the start.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Lets go of one thing, for one more of `newcomer`: whoever would hold most is asked for it.
    fn evict(&mut self, newcomer: &str, now: Duration) -> Option<T> {
        let oldest = |own: &HashMap<Digest, Entry<T>>| own.iter().map(|(digest, entry)| (entry.used, *digest)).min();
        let tenants = self.tenants.iter().filter_map(|(tenant, own)| {
            let (used, digest) = oldest(own)?;
            Some((used, digest, tenant, own.len() + usize::from(**tenant == *newcomer)))
        });
        let tenants: Vec<_> = tenants.collect();
        let most = tenants.iter().map(|(.., holds)| *holds).max()?;
        let ((used_last, _), ..) = tenants.iter().min_by_key(|(used, ..)| *used)?;
        let is_idle = now.saturating_sub(*used_last) >= IDLE_MIN;
        let victims = tenants.iter().filter(|(.., holds)| is_idle || *holds == most);
        let (_, digest, tenant, _) = victims.min_by_key(|(used, ..)| *used)?;
        let (digest, tenant) = (*digest, (*tenant).clone());
        let own = self.tenants.get_mut(&tenant)?;
        let gone = own.remove(&digest)?;
        if own.is_empty() {
            self.tenants.remove(&tenant);
        }
        self.count -= 1;
        self.evicted += 1;
        Some(gone.thing)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// One that is kept is the same when it is asked for again.
    type Thing = Arc<()>;

    fn digest(number: u16) -> Digest {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Digest::from_sha256(bytes)
    }

    fn is_kept(kept: &Kept<Thing>, tenant: &str, number: u16) -> bool {
        kept.tenants.get(tenant).is_some_and(|own| own.contains_key(&digest(number)))
    }

    #[test]
    fn a_tenant_that_calls_a_thousand_in_turn_evicts_its_own() {
        let mut kept = Kept::<Thing>::new(1_000);
        let now = Duration::from_secs(1);
        let (neighbours, _) = kept.take("neighbour", &digest(0), now);
        for number in 0..3_000 {
            kept.take("flood", &digest(number % 1_000), now);
        }
        assert!(Arc::ptr_eq(&neighbours, &kept.take("neighbour", &digest(0), now).0), "the neighbour's was evicted");
        assert_eq!(kept.count(), 1_000);
        assert!(kept.evicted() > 0, "a thousand and one in room for a thousand");
    }

    #[test]
    fn who_comes_late_gets_a_share_from_who_holds_most() {
        let mut kept = Kept::<Thing>::new(8);
        let now = Duration::from_secs(1);
        (0..8).for_each(|number| drop(kept.take("first", &digest(number), now)));
        // The first goes on using what it has; that does not protect it.
        for number in 0..4 {
            kept.take("second", &digest(number), now);
            kept.take("first", &digest(7), now);
        }
        assert!((0..4).all(|number| is_kept(&kept, "second", number)));
        assert!((4..8).all(|number| is_kept(&kept, "first", number)), "what was used longest ago goes first");
        // Both hold as many: one more of a tenant's is one of its own.
        kept.take("second", &digest(9), now);
        assert!(!is_kept(&kept, "second", 0) && is_kept(&kept, "first", 4));
    }

    #[test]
    fn among_equals_the_longest_unused_goes() {
        let mut kept = Kept::<Thing>::new(3);
        let now = Duration::from_secs(1);
        ["a", "b", "c", "a"].into_iter().for_each(|tenant| drop(kept.take(tenant, &digest(0), now)));
        let (_, gone) = kept.take("d", &digest(0), now);
        assert!(gone.is_some());
        assert!(is_kept(&kept, "a", 0) && !is_kept(&kept, "b", 0) && is_kept(&kept, "c", 0));
    }

    #[test]
    fn what_nobody_uses_any_more_goes_before_what_is_used() {
        let mut kept = Kept::<Thing>::new(3);
        kept.take("idle", &digest(0), Duration::ZERO);
        (0..2).for_each(|number| drop(kept.take("busy", &digest(number), IDLE_MIN)));
        kept.take("busy", &digest(2), IDLE_MIN);
        assert!(!is_kept(&kept, "idle", 0));
        assert!((0..3).all(|number| is_kept(&kept, "busy", number)));
    }

    #[test]
    fn a_tenant_that_is_forgotten_leaves_its_room() {
        let mut kept = Kept::<Thing>::new(3);
        (0..3).for_each(|number| drop(kept.take("gone", &digest(number), Duration::ZERO)));
        kept.forget("gone");
        kept.forget("never was");
        assert_eq!(kept.count(), 0);
        (0..3).for_each(|number| drop(kept.take("next", &digest(number), Duration::ZERO)));
        assert_eq!((kept.count(), kept.evicted()), (3, 0));
    }

    proptest! {
        /// Whatever is called: never more than there is room for, counted right, and no tenant at work within its share loses
        /// to one beyond its own.
        #[test]
        fn nobody_within_its_share_loses(calls in proptest::collection::vec((0_usize..4, 0_u16..12), 0..400)) {
            let (room, names) = (12, ["a", "b", "c", "d"]);
            let mut kept = Kept::<Thing>::new(room);
            for (who, number) in calls {
                let before: Vec<usize> = names.map(|name| kept.tenants.get(name).map_or(0, HashMap::len)).into();
                kept.take(names[who], &digest(number), Duration::ZERO);
                let after: Vec<usize> = names.map(|name| kept.tenants.get(name).map_or(0, HashMap::len)).into();
                prop_assert!(kept.count() <= room);
                prop_assert_eq!(kept.count(), after.iter().sum::<usize>());
                prop_assert!(is_kept(&kept, names[who], number));
                for (before, after) in before.iter().zip(&after) {
                    prop_assert!(after >= before || *before >= room / names.len(), "{before} became {after}");
                }
            }
        }
    }
}
