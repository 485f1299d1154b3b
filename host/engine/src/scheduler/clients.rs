//! Which invocation gives way to those who wait for a slot: one that waits for its own client, the slowest of the tenant that
//! holds most.
//!
//! Must never name one that is on its way out already: `admission.rs` counts those, so that no more are ended than those who
//! wait can use.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ringfence_core::{InvocationId, TenantId, limits};

use crate::meter::Meter;

/// Waits for a client, in all, after which an invocation gives way.
const CLIENT_PATIENCE: Duration = Duration::from_millis(limits::CLIENT_WAIT_MS_MAX);

/// Running invocations that have a client, by the number that each got when it was noted.
#[derive(Default)]
pub(super) struct Clients(HashMap<u64, Noted>);

/// A running invocation that has a client.
pub(super) struct Noted {
    pub(super) tenant: TenantId,
    /// None where nobody said which it is.
    pub(super) invocation: Option<InvocationId>,
    pub(super) meter: Arc<Meter>,
}

// === impl Noted ===

impl Noted {
    /// How long it has waited for its client, where that is long enough to give way and it is not on its way out.
    fn slow(&self) -> Option<Duration> {
        let waited = self.meter.client().so_far().filter(|waited| *waited >= CLIENT_PATIENCE)?;
        self.meter.ended().is_none().then_some(waited)
    }
}

// === impl Clients ===

impl Clients {
    pub(super) fn insert(&mut self, number: u64, noted: Noted) {
        self.0.insert(number, noted);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Noted> {
        self.0.remove(&number)
    }

    /// The tenant of each that has to end and has not given back its slot yet.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &TenantId> {
        self.0.values().filter(|noted| noted.meter.ended().is_some()).map(|noted| &noted.tenant)
    }

    /// Whether any has waited long enough for its client to give way.
    pub(super) fn any_is_slow(&self) -> bool {
        self.0.values().any(|noted| noted.slow().is_some())
    }

    /// Of those that have waited long enough for their clients, the slowest of the tenant that holds most by `held`. `only` a
    /// tenant's own where one is named, and never `spared`.
    pub(super) fn slowest(
        &self,
        only: Option<&TenantId>,
        spared: Option<&InvocationId>,
        held: impl Fn(&TenantId) -> u32,
    ) -> Option<Arc<Meter>> {
        let slow = self.0.values().filter_map(|noted| {
            let is_candidate = only.is_none_or(|only| *only == noted.tenant)
                && (spared.is_none() || noted.invocation.as_ref() != spared);
            let waited = noted.slow().filter(|_| is_candidate)?;
            Some(((held(&noted.tenant), waited), &noted.meter))
        });
        slow.max_by_key(|(rank, _)| *rank).map(|(_, meter)| Arc::clone(meter))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use ringfence_core::Budget;

    use super::*;
    use crate::client::Owed;
    use crate::error::AdmitError;
    use crate::meter::End;
    use crate::scheduler::admission::{Room, Slot};

    const PATIENT: Duration = Duration::from_secs(10);

    type AllSlow = Vec<(Slot, Arc<Meter>)>;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    async fn admit(room: &Arc<Room>, name: &str) -> Result<Slot, AdmitError> {
        room.admit(&tenant(name), Budget::DEFAULT).await
    }

    fn invocation(number: u8) -> InvocationId {
        struct Dice(u8);
        impl ringfence_core::Entropy for Dice {
            fn fill(&self, into: &mut [u8]) {
                into.fill(self.0);
            }
        }
        InvocationId::random(&Dice(number))
    }

    /// An invocation that has waited for its client for so long.
    async fn slow(room: &Arc<Room>, name: &str, waited: Duration) -> (Slot, Arc<Meter>) {
        let (mut slot, meter) = (admit(room, name).await.unwrap(), Meter::new(Budget::DEFAULT));
        slot.runs(&meter);
        meter.client().has_waited(Owed::Request, waited);
        (slot, meter)
    }

    fn ended(all: &[(Slot, Arc<Meter>)]) -> usize {
        all.iter().filter(|(_, meter)| meter.ended() == Some(End::SlowClient)).count()
    }

    /// Waits until an invocation is ended; fails after a time that is long enough on any machine.
    async fn end_of(meter: &Meter) -> Option<End> {
        let ended = async {
            while meter.ended().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(40), ended).await.unwrap();
        meter.ended()
    }

    #[tokio::test]
    async fn who_waits_for_its_client_gives_way_to_who_waits_for_its_slot() {
        let room = Room::new(8, Duration::from_secs(60));
        let (mut slow, mut slower) = (admit(&room, "a").await.unwrap(), admit(&room, "a").await.unwrap());
        let (one, other) = (Meter::new(Budget::DEFAULT), Meter::new(Budget::DEFAULT));
        slow.runs(&one);
        slower.runs(&other);
        other.client().begins(Owed::Answer);
        tokio::time::sleep(CLIENT_PATIENCE + Duration::from_millis(300)).await;
        assert_eq!(other.ended(), None, "nobody waits for its slot");
        one.client().begins(Owed::Request);
        let next = admit(&room, "a");
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!((one.ended(), other.ended()), (None, Some(End::SlowClient)));
        drop(slower);
        let next = next.await.unwrap();
        let last = admit(&room, "a");
        tokio::pin!(last);
        tokio::select! {
            _ = &mut last => panic!("there is no slot yet"),
            end = end_of(&one) => assert_eq!(end, Some(End::SlowClient)),
        }
        drop(slow);
        drop((next, last.await.unwrap()));
        assert_eq!(room.used(), 0);
    }

    #[tokio::test]
    async fn nobody_gives_way_to_a_tenant_that_fills_its_own_share_nor_does_what_a_plugin_called() {
        let room = Room::new(12, CLIENT_PATIENCE * 2);
        let mut slow = admit(&room, "a").await.unwrap();
        let calling = room.calling(&tenant("a"), &invocation(1), &invocation(1));
        let mut called = room.admit_called(&calling, Budget::DEFAULT).await.unwrap();
        let (meter, callee) = (Meter::new(Budget::DEFAULT), Meter::new(Budget::DEFAULT));
        slow.runs(&meter);
        called.runs(&callee);
        meter.client().begins(Owed::Request);
        callee.client().begins(Owed::Request);
        let _full =
            [admit(&room, "b").await.unwrap(), admit(&room, "b").await.unwrap(), admit(&room, "b").await.unwrap()];
        assert!(matches!(admit(&room, "b").await, Err(AdmitError::TenantBusy { .. })));
        assert_eq!((meter.ended(), callee.ended()), (None, None));
        let _third = admit(&room, "a").await.unwrap();
        let fourth = admit(&room, "a");
        tokio::pin!(fourth);
        assert!(futures::poll!(&mut fourth).is_pending());
        assert_eq!((meter.ended(), callee.ended()), (Some(End::SlowClient), None));
    }

    #[tokio::test]
    async fn a_burst_ends_no_more_of_others_than_it_can_use_and_of_who_holds_most() {
        // Ten each may have; four are kept for those that hold none.
        let room = Room::new(40, Duration::from_secs(60));
        let (mut most, mut fewer, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..10 {
            most.push(slow(&room, "b", CLIENT_PATIENCE).await);
            most.push(slow(&room, "c", CLIENT_PATIENCE).await);
        }
        for _ in 0..8 {
            fewer.push(slow(&room, "d", PATIENT).await);
            own.push(admit(&room, "a").await.unwrap());
        }
        let mut burst: Vec<_> = (0..limits::TENANT_QUEUE_COUNT_MAX).map(|_| Box::pin(admit(&room, "a"))).collect();
        for _ in 0..3 {
            for waiting in &mut burst {
                assert!(futures::poll!(waiting).is_pending());
            }
            assert_eq!((ended(&most), ended(&fewer)), (2, 0), "it may have two more");
            // They look again and again while nothing is given back.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        most.retain(|(_, meter)| meter.ended().is_none());
        let mut admitted = Vec::new();
        for waiting in &mut burst {
            if let Poll::Ready(slot) = futures::poll!(waiting) {
                admitted.push(slot.unwrap());
            }
        }
        assert_eq!((admitted.len(), ended(&most), ended(&fewer)), (2, 0, 0), "it has all that it may have");
    }

    /// Forty slots in which ten each may have: `name`'s own so many, others fill the rest, and four that came anew hold what is
    /// kept for those that hold none.
    async fn reserve_is_taken(name: &str, own: usize) -> (Arc<Room>, AllSlow, AllSlow, Vec<Slot>) {
        let room = Room::new(40, Duration::from_secs(60));
        let (mut others, mut owned, mut newcomers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..own {
            owned.push(slow(&room, name, CLIENT_PATIENCE).await);
        }
        for other in ["b", "c", "d", "e"].into_iter().flat_map(|other| [other; 10]).take(36_usize.saturating_sub(own)) {
            others.push(slow(&room, other, PATIENT).await);
        }
        for newcomer in ["w", "x", "y", "z"] {
            newcomers.push(admit(&room, newcomer).await.unwrap());
        }
        assert_eq!(room.used(), 40);
        (room, owned, others, newcomers)
    }

    #[tokio::test]
    async fn nobody_is_ended_for_a_slot_that_goes_back_to_the_reserve() {
        let (room, own, mut others, newcomers) = reserve_is_taken("a", 6).await;
        let more = admit(&room, "a");
        tokio::pin!(more);
        assert!(futures::poll!(&mut more).is_pending());
        assert_eq!((ended(&own), ended(&others)), (0, 0), "it may not have what is kept");
        let first = admit(&room, "f");
        tokio::pin!(first);
        assert!(futures::poll!(&mut first).is_pending());
        assert_eq!((ended(&own), ended(&others)), (0, 1), "who holds none may");
        others.retain(|(_, meter)| meter.ended().is_none());
        let _first = first.await.unwrap();
        // What was kept is free again: now one more is its.
        drop(newcomers);
        let looked = async {
            while ended(&others) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = &mut more => panic!("there is no slot yet"),
            looked = tokio::time::timeout(Duration::from_secs(40), looked) => looked.unwrap(),
        }
        assert_eq!((ended(&own), ended(&others)), (0, 1));
        others.retain(|(_, meter)| meter.ended().is_none());
        assert!(more.await.is_ok());
    }

    #[tokio::test]
    async fn the_only_one_of_a_tenant_gives_way_to_its_next_when_the_reserve_is_taken() {
        let (room, own, others, _newcomers) = reserve_is_taken("a", 1).await;
        let mut waiting = [Box::pin(admit(&room, "a")), Box::pin(admit(&room, "a"))];
        for next in &mut waiting {
            assert!(futures::poll!(next).is_pending());
        }
        assert_eq!((ended(&own), ended(&others)), (1, 0), "what others gave up would go back to the reserve");
        drop(own);
        let [next, last] = &mut waiting;
        let _next = next.await.unwrap();
        assert!(futures::poll!(last).is_pending());
    }

    #[tokio::test]
    async fn as_many_of_ones_own_give_way_as_wait() {
        let room = Room::new(40, Duration::from_secs(60));
        let mut own = Vec::new();
        for _ in 0..10 {
            own.push(slow(&room, "a", PATIENT).await);
        }
        let mut burst: Vec<_> = (0..3).map(|_| Box::pin(admit(&room, "a"))).collect();
        for _ in 0..2 {
            for waiting in &mut burst {
                assert!(futures::poll!(waiting).is_pending());
            }
            assert_eq!(ended(&own), 3);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    #[tokio::test]
    async fn what_a_plugin_called_ends_another_and_never_the_invocation_that_it_is_called_below() {
        let room = Room::new(12, Duration::from_secs(60));
        let mut root = admit(&room, "a").await.unwrap();
        let meter = Meter::new(Budget::DEFAULT);
        root.taken_by(&invocation(1));
        root.runs(&meter);
        meter.client().has_waited(Owed::Request, PATIENT);
        let _held = admit(&room, "a").await.unwrap();
        let other = [slow(&room, "a", CLIENT_PATIENCE).await];
        // Called by what the root called.
        let calling = room.calling(&tenant("a"), &invocation(2), &invocation(1));
        let (called, again) = (room.admit_called(&calling, Budget::DEFAULT), admit(&room, "a"));
        tokio::pin!(called, again);
        assert!(futures::poll!(&mut called).is_pending());
        assert_eq!((meter.ended(), ended(&other)), (None, 1));
        drop(other);
        let called = futures::poll!(&mut called);
        assert!(called.is_ready());
        let calling = room.calling(&tenant("a"), &invocation(2), &invocation(1));
        let more = room.admit_called(&calling, Budget::DEFAULT);
        tokio::pin!(more);
        assert!(futures::poll!(&mut more).is_pending());
        assert_eq!(meter.ended(), None, "it would end what waits for it");
        // A newcomer is not below it.
        assert!(futures::poll!(&mut again).is_pending());
        assert_eq!(meter.ended(), Some(End::SlowClient));
    }
}
