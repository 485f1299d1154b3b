//! Who gets a slot, who waits and who is sent away: every rule of the queue, with waits of a test's length.

use super::*;

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn room(slots: u32) -> Arc<Room> {
    Room::new(slots, Duration::from_secs(60))
}

async fn admit(room: &Arc<Room>, name: &str) -> Result<Slot, AdmitError> {
    room.admit(&tenant(name), Budget::DEFAULT).await
}

#[tokio::test]
async fn a_tenant_holds_at_most_a_quarter() {
    let room = room(8);
    let held = (admit(&room, "a").await.unwrap(), admit(&room, "a").await.unwrap());
    let third = tokio::time::timeout(Duration::from_millis(20), admit(&room, "a")).await;
    assert!(third.is_err(), "the third has to wait");
    assert!(admit(&room, "b").await.is_ok());
    drop(held.0);
    assert!(admit(&room, "a").await.is_ok());
}

#[tokio::test]
async fn whoever_holds_none_finds_a_slot_when_hogs_fill_the_rest() {
    let room = room(20);
    let mut held = Vec::new();
    for name in ["a", "b", "c", "d"] {
        for _ in 0..5 {
            if let Ok(Ok(slot)) = tokio::time::timeout(Duration::from_millis(5), admit(&room, name)).await {
                held.push(slot);
            }
        }
    }
    assert_eq!(held.len(), 18);
    assert!(admit(&room, "e").await.is_ok());
}

/// In which order those who wait for a room's one slot get it, once it is free.
async fn turns_of(room: &Arc<Room>, names: &[&'static str]) -> Vec<&'static str> {
    let held = admit(room, "a").await.unwrap();
    let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for name in names.iter().copied() {
        let (room, order) = (Arc::clone(room), order.clone());
        waiting.push(tokio::spawn(async move {
            let slot = admit(&room, name).await.unwrap();
            order.send(name).unwrap();
            drop(slot);
        }));
        tokio::task::yield_now().await;
    }
    drop(held);
    for wait in waiting {
        wait.await.unwrap();
    }
    std::iter::from_fn(|| seen.try_recv().ok()).collect()
}

#[tokio::test]
async fn freed_slots_go_round_the_tenants_in_order() {
    let room = room(1);
    assert_eq!(turns_of(&room, &["b", "b", "c"]).await, ["b", "c", "b"]);
    assert_eq!(room.used(), 0);
}

#[tokio::test]
async fn a_weight_of_three_gets_three_slots_a_round() {
    let room = room(1);
    room.set_share(&tenant("heavy"), TenantShare { weight: 300, ..TenantShare::USUAL });
    let got = turns_of(&room, &["light", "light", "heavy", "heavy", "heavy", "heavy"]).await;
    assert_eq!(got, ["light", "heavy", "heavy", "heavy", "light", "heavy"]);
}

#[tokio::test]
async fn a_tenants_own_cap_holds_and_raising_it_lets_the_next_in_at_once() {
    let room = room(40);
    let one = TenantShare { concurrency_count: Some(1), ..TenantShare::USUAL };
    room.set_share(&tenant("a"), one);
    let held = admit(&room, "a").await.unwrap();
    let second = admit(&room, "a");
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending());
    room.set_share(&tenant("a"), TenantShare { concurrency_count: Some(2), ..one });
    let second = second.await.unwrap();
    room.set_share(&tenant("b"), TenantShare { concurrency_count: Some(0), ..one });
    let never = admit(&room, "b");
    tokio::pin!(never);
    assert!(futures::poll!(&mut never).is_pending());
    drop((held, second));
    assert!(futures::poll!(&mut never).is_pending());
}

#[tokio::test]
async fn a_suspended_tenant_is_sent_away_waiting_or_not() {
    let room = room(4);
    let held = admit(&room, "a").await.unwrap();
    let waiting = admit(&room, "a");
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    room.suspend(&tenant("a"));
    assert_eq!(waiting.await.err(), Some(AdmitError::Suspended));
    assert_eq!(admit(&room, "a").await.err(), Some(AdmitError::Suspended));
    drop(held);
    room.resume(&tenant("a"));
    assert!(admit(&room, "a").await.is_ok());
}

#[tokio::test]
async fn who_is_suspended_and_locked_is_let_in_once_neither_holds_in_whatever_order_they_come_and_go() {
    type Act = fn(&Room, &TenantId);
    let suspend: Act = Room::suspend;
    let lock: Act = Room::shut_locked;
    let resume: Act = Room::resume;
    let unlock: Act = |room, tenant| room.set_share(tenant, TenantShare::USUAL);
    for (come, go) in [([suspend, lock], [resume, unlock]), ([lock, suspend], [unlock, resume])] {
        for go in [go, [go[1], go[0]]] {
            let (room, a) = (room(4), tenant("a"));
            for act in come {
                act(&room, &a);
                assert_eq!(admit(&room, "a").await.err(), Some(AdmitError::Suspended));
            }
            go[0](&room, &a);
            assert_eq!(admit(&room, "a").await.err(), Some(AdmitError::Suspended), "one of the two holds");
            go[1](&room, &a);
            assert!(admit(&room, "a").await.is_ok());
        }
    }
}

#[tokio::test]
async fn a_full_queue_turns_its_own_tenant_away_and_nobody_else() {
    let room = room(4);
    let _held = admit(&room, "a").await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..limits::TENANT_QUEUE_COUNT_MAX {
        let room = Arc::clone(&room);
        waiting.push(tokio::spawn(async move { admit(&room, "a").await.map(drop) }));
        tokio::task::yield_now().await;
    }
    assert!(matches!(admit(&room, "a").await, Err(AdmitError::TenantBusy { .. })));
    assert!(admit(&room, "b").await.is_ok());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_wait_has_a_deadline_and_says_who_is_full() {
    let room = Room::new(4, Duration::from_millis(20));
    let _own = admit(&room, "a").await.unwrap();
    assert!(matches!(admit(&room, "a").await, Err(AdmitError::TenantBusy { .. })));
    let mut others = Vec::new();
    for name in ["b", "c", "d"] {
        others.push(admit(&room, name).await.unwrap());
    }
    assert_eq!(admit(&room, "e").await.err(), Some(AdmitError::Overloaded));
    assert_eq!(room.used(), 4);
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

#[tokio::test]
async fn what_was_called_goes_before_what_comes_anew() {
    let room = room(8);
    let (first, second) = (admit(&room, "a").await.unwrap(), admit(&room, "a").await.unwrap());
    let newcomer = admit(&room, "a");
    tokio::pin!(newcomer);
    assert!(futures::poll!(&mut newcomer).is_pending());
    let calling = room.calling(&tenant("a"), &invocation(1), &invocation(1));
    let called = {
        let called = room.admit_called(&calling, Budget::DEFAULT);
        tokio::pin!(called);
        assert!(futures::poll!(&mut called).is_pending());
        drop(first);
        called.await.unwrap()
    };
    assert!(futures::poll!(&mut newcomer).is_pending());
    drop((called, calling, second));
    assert!(newcomer.await.is_ok());
    assert_eq!(room.used(), 0);
}

#[tokio::test]
async fn callers_that_hold_every_slot_are_told_at_once_and_no_other_is() {
    let room = room(8);
    let (first, second) = (admit(&room, "a").await.unwrap(), admit(&room, "a").await.unwrap());
    let calling = room.calling(&tenant("a"), &invocation(1), &invocation(1));
    // Twice by the same invocation is one that waits.
    let again = room.calling(&tenant("a"), &invocation(1), &invocation(1));
    {
        let waits = room.admit_called(&calling, Budget::DEFAULT);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending(), "the second may yet end");
        let other = room.calling(&tenant("a"), &invocation(2), &invocation(2));
        assert_eq!(room.admit_called(&other, Budget::DEFAULT).await.err(), Some(AdmitError::CallersWait));
        drop((other, second));
        drop(waits.await.unwrap());
    }
    drop((again, calling, first));
    // Nothing is left that counts against those who come after.
    let (first, _second) = (admit(&room, "a").await.unwrap(), admit(&room, "a").await.unwrap());
    let calling = room.calling(&tenant("a"), &invocation(3), &invocation(3));
    let waits = room.admit_called(&calling, Budget::DEFAULT);
    tokio::pin!(waits);
    assert!(futures::poll!(&mut waits).is_pending());
    drop(first);
    assert!(waits.await.is_ok());
}

#[tokio::test]
async fn a_callee_waits_while_it_is_others_that_fill_the_host() {
    let room = room(4);
    let _own = admit(&room, "a").await.unwrap();
    let calling = room.calling(&tenant("a"), &invocation(1), &invocation(1));
    let refused = room.admit_called(&calling, Budget::DEFAULT).await.err();
    assert_eq!(refused, Some(AdmitError::CallersWait), "a quarter of four is one");
    let large = Room::new(8, Duration::from_millis(20));
    let _own = admit(&large, "a").await.unwrap();
    let mut others = Vec::new();
    for name in ["b", "b", "c", "c", "d", "d", "e"] {
        others.push(admit(&large, name).await.unwrap());
    }
    let calling = large.calling(&tenant("a"), &invocation(1), &invocation(1));
    let refused = large.admit_called(&calling, Budget::DEFAULT).await.err();
    assert_eq!(refused, Some(AdmitError::Overloaded), "after its wait");
}

#[tokio::test]
async fn a_turn_granted_to_someone_who_left_is_passed_on() {
    let room = room(1);
    let held = admit(&room, "a").await.unwrap();
    {
        let asking = admit(&room, "b");
        tokio::pin!(asking);
        assert!(futures::poll!(&mut asking).is_pending());
        drop(held);
        // Granted now, and dropped without being taken.
    }
    assert_eq!(room.used(), 0);
    assert!(admit(&room, "c").await.is_ok());
}
