//! The commit thread in the middle of its flushes: who is told what, and when; whose steps stand where.

use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::engine::{Fault, Faults};
use crate::key::Key;
use crate::record::{Op, Precondition};
use crate::store::Store;
use crate::tenant_store::TenantStore;
use crate::tenant_store::tests::{another_in, tenant_in};

type Told = JoinHandle<Result<Commit, StoreError>>;

/// A store whose commit thread waits in a flush: what is written meanwhile is its next group.
struct Flushing {
    faults: Faults,
    store: TenantStore,
    /// The write that it flushes.
    first: Told,
    /// The revision of the first write of the next group.
    next_revision: u64,
}

fn key() -> Key {
    Key::new(["k"])
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("it never came to that");
}

impl Flushing {
    async fn new() -> Self {
        let faults = Faults::default();
        let store = tenant_in(&Store::memory_with_faults(faults.clone()));
        faults.hold_flushes();
        let other = store.clone();
        let first = tokio::spawn(async move { other.put(&Key::new(["other"]), *b"v").await });
        until(|| faults.held_count() == 1).await;
        let next_revision = store.store().0.counters.revision.load(Ordering::Relaxed) + 1;
        Self { faults, store, first, next_revision }
    }

    fn waiting(&self) -> usize {
        self.store.store().0.committer.waiting()
    }

    /// Writes behind those that wait already.
    async fn put(&self, value: &'static str, precondition: Precondition) -> Told {
        let (store, before) = (self.store.clone(), self.waiting());
        let told = tokio::spawn(async move { store.batch(vec![Op::put(key(), value)], vec![precondition]).await });
        until(|| self.waiting() == before + 1).await;
        told
    }

    /// Until the flush of those that waited is held, all of them as one group.
    async fn flush_the_group(&mut self) {
        self.faults.let_one_through();
        (&mut self.first).await.unwrap().unwrap();
        until(|| self.faults.held_count() == 1).await;
        assert_eq!(self.waiting(), 0, "they are one group");
    }
}

async fn nobody_is_told(all: &[Told]) {
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(all.iter().all(|told| !told.is_finished()), "told before it is durable");
}

async fn answers(all: Vec<Told>) -> Vec<Result<Commit, StoreError>> {
    let mut answers = Vec::new();
    for told in all {
        answers.push(told.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn a_refusal_is_told_only_after_the_winner_it_lost_to_is_durable_and_visible() {
    let mut flushing = Flushing::new().await;
    let both = vec![
        flushing.put("winner", Precondition::Absent(key())).await,
        flushing.put("loser", Precondition::Absent(key())).await,
    ];
    flushing.flush_the_group().await;
    nobody_is_told(&both).await;
    flushing.faults.let_all_through();
    let answers = answers(both).await;
    let [Ok(won), Err(StoreError::Conflict { precondition: 0 })] = answers[..] else { panic!("{answers:?}") };
    let seen = flushing.store.get(&key()).await.unwrap().unwrap();
    assert_eq!((seen.value.as_slice(), seen.revision), (&b"winner"[..], won.revision));
}

#[tokio::test]
async fn of_a_chain_in_one_group_nobody_is_told_before_all_that_he_builds_on_is_durable() {
    let mut flushing = Flushing::new().await;
    let first = flushing.next_revision;
    let chain = vec![
        flushing.put("one", Precondition::Absent(key())).await,
        flushing.put("two", Precondition::Revision(key(), first)).await,
        // Right until the one before it.
        flushing.put("three", Precondition::Revision(key(), first)).await,
    ];
    flushing.flush_the_group().await;
    nobody_is_told(&chain).await;
    flushing.faults.let_all_through();
    let answers = answers(chain).await;
    let [Ok(one), Ok(two), Err(StoreError::Conflict { precondition: 0 })] = answers[..] else { panic!("{answers:?}") };
    assert_eq!((one.revision, two.revision), (first, first + 1));
    let seen = flushing.store.get(&key()).await.unwrap().unwrap();
    assert_eq!((seen.value.as_slice(), seen.revision), (&b"two"[..], two.revision));
}

#[tokio::test]
async fn beside_the_erase_of_a_tenant_with_many_records_others_write_before_it_is_over() {
    let mut flushing = Flushing::new().await;
    let other = another_in(flushing.store.store());
    for number in 0..3 * ERASE_COUNT {
        let (mut key, value) = (area(AREA_RECORDS, &flushing.store.shared().uid), Some(Vec::new()));
        key.extend_from_slice(&number.to_be_bytes());
        flushing.store.engine().apply(vec![Write { key, value }]).unwrap();
    }
    let (store, uid) = (flushing.store.store().clone(), flushing.store.shared().uid);
    let left = || {
        let from = area(AREA_RECORDS, &uid);
        let to = successor(&from).map_or(Bound::Unbounded, Bound::Excluded);
        let (from, order, max) = (Bound::Included(from), Order::Forward, usize::MAX);
        store.0.engine.range(&Span { from, to, order, count_max: max, bytes_max: max }).unwrap().pairs.len()
    };
    let erasing = store.clone();
    let erased = tokio::spawn(async move { erasing.0.committer.erase(uid).await });
    until(|| flushing.waiting() == 1).await;
    // Its turn comes after the first step's and before the second's: it counts more than one step and less than two.
    let ops: Vec<Op> =
        (0..10_u8).map(|number| Op::put(Key::new(["k", &number.to_string()]), [0_u8; 16 << 10])).collect();
    let put = tokio::spawn(async move { other.batch(ops, Vec::new()).await });
    until(|| flushing.waiting() == 2).await;
    flushing.faults.let_one_through();
    (&mut flushing.first).await.unwrap().unwrap();
    // It stands behind one step, and the erase ends with a flush of its own.
    until(|| flushing.faults.held_count() == 1).await;
    assert!(left() > 0, "all was erased before anybody else's turn");
    flushing.faults.let_one_through();
    put.await.unwrap().unwrap();
    assert!(!erased.is_finished());
    flushing.faults.let_all_through();
    erased.await.unwrap().unwrap();
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn sealing_anew_never_stands_in_the_lane_of_the_tenants_own_writes() {
    let flushing = Flushing::new().await;
    let tenant = Arc::clone(flushing.store.shared());
    let (store, uid) = (flushing.store.store().clone(), tenant.uid);
    let sealing = store.clone();
    let sealed = tokio::spawn(async move { sealing.0.committer.reseal(tenant, vec![b"gone".to_vec()]).await });
    until(|| flushing.waiting() == 1).await;
    let put = flushing.put("own", Precondition::Absent(key())).await;
    assert_eq!([uid, background(uid)].map(|lane| store.0.committer.waiting_of(&lane)), [1, 1]);
    flushing.faults.let_all_through();
    assert_eq!(sealed.await.unwrap().unwrap(), 0);
    put.await.unwrap().unwrap();
}

#[tokio::test]
async fn when_a_flush_fails_nobody_of_its_group_is_told_success_or_a_refusal_for_what_was_not_written() {
    for fault in [Fault::InDoubt, Fault::Lost] {
        let mut flushing = Flushing::new().await;
        let all = vec![
            flushing.put("winner", Precondition::Absent(key())).await,
            flushing.put("loser", Precondition::Absent(key())).await,
            flushing.put("builds on it", Precondition::Present(key())).await,
        ];
        flushing.faults.plan([Some(fault)]);
        // What is lost fails before there is anything to flush.
        if fault == Fault::InDoubt {
            flushing.flush_the_group().await;
            nobody_is_told(&all).await;
        }
        flushing.faults.let_all_through();
        for answer in answers(all).await {
            assert!(matches!(answer, Err(StoreError::Unavailable { .. })), "{fault:?}: {answer:?}");
        }
        // It is said of the next write what holds then.
        let later = flushing.store.batch(Vec::new(), vec![Precondition::Absent(key())]).await;
        assert_eq!(later.is_ok(), fault == Fault::Lost, "{later:?}");
    }
}

#[tokio::test]
async fn a_step_that_stops_in_the_middle_costs_whose_it_is_and_the_others_write_on() {
    let faults = Faults::default();
    let store = tenant_in(&Store::memory_with_faults(faults.clone()));
    let other = another_in(store.store());
    store.put(&key(), *b"before").await.unwrap();
    faults.plan_panic();
    let committer = &store.store().0.committer;
    let stopped = committer.reseal(Arc::clone(store.shared()), vec![b"any".to_vec()]).await;
    assert!(matches!(stopped, Err(StoreError::Unavailable { .. })), "{stopped:?}");
    other.put(&key(), *b"beside it").await.unwrap();
    store.put(&key(), *b"after").await.unwrap();
    assert_eq!(store.get(&key()).await.unwrap().unwrap().value.as_slice(), b"after");
    assert!(!committer.is_closed());
}
