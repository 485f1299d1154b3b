//! The line before the commit thread: a lane a tenant, each with room of its own, served fairly by bytes (`fair.rs`), those that
//! flood in small parts with rests in between (`pace.rs`).
//!
//! Must never hold more than its bounds, and never make one tenant's writers wait for room that another tenant has filled: who
//! floods waits for its own. INVARIANT: what is taken out is answered or dropped, so that nobody waits for nothing.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::StoreError;
use crate::fair::FairQueue;
use crate::key::Uid;
use crate::pace::Pace;

/// LIMIT: what may wait of one tenant.
const LANE_KIB_MAX: u32 = 4 << 10;
/// LIMIT: what may wait of all. As many lanes as can be full are sixteen: writers are bounded by slots long before.
const ALL_KIB_MAX: u32 = 64 << 10;
/// What a thing that waits counts at least: 256 of a tenant wait at most.
const ITEM_KIB_MIN: u32 = 16;
/// LIMIT: longest wait for room.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// Nobody is to be woken.
const NOT_WAITING: usize = usize::MAX;

/// The room that a tenant's own writes have in the line. One a tenant.
pub(crate) struct Room(Arc<Semaphore>);

/// The line. One a store.
pub(crate) struct Line<T> {
    state: Mutex<State<T>>,
    /// Something came, or the line was shut.
    wake: Condvar,
    all: Arc<Semaphore>,
}

struct State<T> {
    waiting: FairQueue<Uid, Item<T>>,
    pace: Pace<Uid>,
    /// How many must wait before whoever serves the line is woken; [`NOT_WAITING`] while it is at work, which costs no call.
    wanted_count: usize,
    shut: Shut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shut {
    Open,
    /// Nothing more is taken; what waits is still served.
    Closing,
    /// And nobody serves it any more.
    Over,
}

struct Item<T> {
    what: T,
    /// Given back when it is taken out. None for what the store asks of itself.
    _places: Option<[OwnedSemaphorePermit; 2]>,
}

// === impl Room ===

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LANE_KIB_MAX as usize)))
    }
}

// === impl Line ===

impl<T> Line<T> {
    /// Lanes but `host`, which is nobody's neighbour, are kept from flooding one another.
    pub(crate) fn new(host: Uid) -> Self {
        let (waiting, pace) = (FairQueue::new(), Pace::new(host));
        Self {
            state: Mutex::new(State { waiting, pace, wanted_count: NOT_WAITING, shut: Shut::Open }),
            wake: Condvar::new(),
            all: Arc::new(Semaphore::new(ALL_KIB_MAX as usize)),
        }
    }

    /// Stands in a tenant's lane, once there is room in it; [`StoreError::Busy`] when there is none for too long.
    pub(crate) async fn join(&self, lane: Uid, room: &Room, bytes: usize, what: T) -> Result<(), StoreError> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).clamp(ITEM_KIB_MIN, LANE_KIB_MAX);
        // Its own room first: while a tenant waits for that, it keeps nothing from the others.
        let places = async {
            let own = Arc::clone(&room.0).acquire_many_owned(kib).await?;
            Ok([own, Arc::clone(&self.all).acquire_many_owned(kib).await?])
        };
        match timeout(ROOM_WAIT, places).await {
            Err(_elapsed) => Err(StoreError::Busy),
            Ok(Err::<_, tokio::sync::AcquireError>(_)) => Err(StoreError::Closed),
            Ok(Ok(places)) => self.put(lane, bytes, Item { what, _places: Some(places) }),
        }
    }

    /// Stands in a lane without asking for room: for the store's own few acts.
    pub(crate) fn join_now(&self, lane: Uid, bytes: usize, what: T) -> Result<(), StoreError> {
        self.put(lane, bytes, Item { what, _places: None })
    }

    /// The next in turn, with which a group begins; waits for one, and does `meanwhile` after each pause that it waited. None
    /// once the line is shut and empty.
    pub(crate) fn next(&self, pause: Duration, mut meanwhile: impl FnMut()) -> Option<T> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            state.pace.begin(now);
            if let Some(item) = state.take() {
                return Some(item);
            }
            if state.shut != Shut::Open {
                return None;
            }
            let rest = state.pace.rest(now).filter(|_| state.waiting.len() > 0);
            state.wanted_count = 1;
            let wait = rest.unwrap_or(pause).min(pause);
            let (woken, waited) = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.wanted_count = NOT_WAITING;
            if waited.timed_out() && rest.is_none() {
                drop(state);
                meanwhile();
                state = self.lock();
            }
        }
    }

    /// Waits until so many wait, but not beyond `until` nor when the line is shut.
    pub(crate) fn gather(&self, count: usize, until: Instant) {
        let mut state = self.lock();
        while state.waiting.len() < count && state.shut == Shut::Open {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            state.wanted_count = count;
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted_count = NOT_WAITING;
    }

    /// The next in turn for the same group, if one is there.
    pub(crate) fn try_next(&self) -> Option<T> {
        self.lock().take()
    }

    /// The group is written.
    pub(crate) fn done(&self) {
        self.lock().pace.end(Instant::now());
    }

    /// Takes nothing more.
    pub(crate) fn shut(&self) {
        let mut state = self.lock();
        if state.shut == Shut::Open {
            state.shut = Shut::Closing;
        }
        self.all.close();
        self.wake.notify_all();
    }

    /// Takes nothing more and drops what waits: nobody serves it.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.shut = Shut::Over;
        state.waiting.clear();
        self.all.close();
        self.wake.notify_all();
    }

    /// Whether nobody serves it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().shut == Shut::Over
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How many wait in one lane.
    pub(crate) fn len_of(&self, lane: &Uid) -> usize {
        self.lock().waiting.len_of(lane)
    }

    fn put(&self, lane: Uid, bytes: usize, item: Item<T>) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.shut != Shut::Open {
            return Err(StoreError::Closed);
        }
        state.waiting.push(lane, bytes, item);
        state.pace.came(lane, Instant::now());
        let wanted = state.waiting.len() >= state.wanted_count;
        drop(state);
        if wanted {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// The next in turn. Once the line is shut nobody rests any more.
    fn take(&mut self) -> Option<T> {
        let Self { waiting, pace, shut, .. } = self;
        let (lane, bytes, item) = waiting.pop(|lane| *shut != Shut::Open || pace.is_open(lane))?;
        pace.took(lane, bytes);
        Some(item.what)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(3_600);
    const HOST: Uid = [0; 16];
    const FLOOD: Uid = [1; 16];
    const VICTIM: Uid = [2; 16];

    /// Whether it would wait for room.
    async fn waits(line: &Line<u32>, lane: Uid, room: &Room) -> bool {
        let join = line.join(lane, room, 1, 0);
        tokio::pin!(join);
        std::future::poll_fn(|cx| std::task::Poll::Ready(join.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn a_tenant_that_fills_its_room_waits_and_others_do_not() {
        let (line, room, other) = (Line::new(HOST), Room::new(), Room::new());
        for number in 0..LANE_KIB_MAX / ITEM_KIB_MIN {
            line.join(FLOOD, &room, 10, number).await.unwrap();
        }
        assert!(waits(&line, FLOOD, &room).await);
        line.join(VICTIM, &other, 10, 1_000).await.unwrap();
        assert_eq!(line.len(), 257);
        // One of the flood at most, and then the other.
        let first = [line.try_next().unwrap(), line.try_next().unwrap()];
        assert_eq!(first, [0, 1], "small ones of one turn");
        assert!(!waits(&line, FLOOD, &room).await, "what was taken made room");
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_room_passes_alone() {
        let (line, room) = (Line::new(HOST), Room::new());
        line.join(FLOOD, &room, 400 << 20, 7).await.unwrap();
        assert!(waits(&line, FLOOD, &room).await);
        assert_eq!(line.try_next(), Some(7));
        assert!(!waits(&line, FLOOD, &room).await);
    }

    #[tokio::test]
    async fn a_line_that_is_shut_serves_what_waits_and_takes_nothing() {
        let (line, room) = (Line::new(HOST), Room::new());
        line.join(FLOOD, &room, 10, 1).await.unwrap();
        line.join_now(VICTIM, 0, 2).unwrap();
        line.shut();
        assert!(matches!(line.join(FLOOD, &room, 10, 3).await, Err(StoreError::Closed)));
        assert!(matches!(line.join_now(VICTIM, 0, 3), Err(StoreError::Closed)));
        let next = || line.next(ROOM_WAIT, || {});
        assert_eq!((next(), next(), next()), (Some(1), Some(2), None));
        assert!(!line.is_over(), "the last answers may still be on their way");
    }

    #[tokio::test]
    async fn whoever_gathers_goes_on_when_all_are_there_or_the_time_is_over_or_the_line_is_shut() {
        let (line, room) = (Arc::new(Line::new(HOST)), Room::new());
        line.gather(1, Instant::now());
        let gathering = |count: usize, wait: Duration| {
            let line = Arc::clone(&line);
            std::thread::spawn(move || {
                line.gather(count, Instant::now() + wait);
                line.len()
            })
        };
        const LONG: Duration = Duration::from_secs(3_600);
        let all = gathering(3, LONG);
        for number in 0..3 {
            line.join(FLOOD, &room, 10, number).await.unwrap();
        }
        assert_eq!(all.join().unwrap(), 3);
        assert_eq!(
            gathering(4, Duration::from_millis(1)).join().unwrap(),
            3,
            "whoever does not come is not waited for"
        );
        let shut = gathering(4, LONG);
        line.shut();
        assert_eq!(shut.join().unwrap(), 3);
        assert_eq!(line.next(ROOM_WAIT, || {}), Some(0), "one that waits wakes again");
    }

    /// Serves a line on a thread until it is shut, and tells what was served.
    fn serve(line: &Arc<Line<u32>>) -> UnboundedReceiver<u32> {
        let (line, (told, served)) = (Arc::clone(line), unbounded_channel());
        std::thread::spawn(move || {
            while let Some(number) = line.next(LONG, || {}) {
                told.send(number).unwrap();
            }
        });
        served
    }

    async fn soon<F: Future>(wanted: F) -> F::Output {
        timeout(Duration::from_secs(20), wanted).await.expect("nobody was woken")
    }

    /// Until whoever serves it waits to be woken.
    async fn until_it_rests(line: &Line<u32>) {
        let rests = async {
            while line.lock().wanted_count == NOT_WAITING {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(rests).await;
    }

    #[tokio::test]
    async fn beside_one_that_rests_others_are_served_at_once_and_so_is_it_when_the_line_is_shut() {
        let line = Arc::new(Line::new(HOST));
        line.lock().pace.make_rest(FLOOD, LONG, Instant::now());
        line.join_now(FLOOD, 10, 1).unwrap();
        let mut served = serve(&line);
        until_it_rests(&line).await;
        line.join_now(VICTIM, 10, 2).unwrap();
        assert_eq!(soon(served.recv()).await, Some(2));
        until_it_rests(&line).await;
        assert_eq!((line.len(), line.try_next()), (1, None), "it rests still");
        line.shut();
        assert_eq!((soon(served.recv()).await, soon(served.recv()).await), (Some(1), None));
    }

    #[tokio::test]
    async fn who_has_rested_is_served_though_nothing_comes() {
        let line = Arc::new(Line::new(HOST));
        line.lock().pace.make_rest(FLOOD, Duration::from_millis(50), Instant::now());
        line.join_now(FLOOD, 10, 1).unwrap();
        assert_eq!(soon(serve(&line).recv()).await, Some(1));
        line.shut();
    }

    #[tokio::test]
    async fn a_line_that_is_abandoned_drops_what_waits() {
        let (line, room) = (Line::new(HOST), Room::new());
        let (reply, answer) = tokio::sync::oneshot::channel::<()>();
        line.join(FLOOD, &room, 10, reply).await.unwrap();
        line.abandon();
        assert!(answer.await.is_err(), "who waited is told");
        assert!(line.len() == 0 && line.is_over());
    }
}
