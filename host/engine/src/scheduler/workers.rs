//! Threads that run guests and nothing else: a run queue for each tenant (and one for rehearsals), served in turn.
//!
//! A guest is a future that is polled here inside the I/O runtime's context, so that timers and sockets it waits for
//! live there; whoever wakes it only puts it back in the queue. Must never do I/O and never wait for anything but work.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use ringfence_core::TenantId;

use crate::meter::Meter;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whose turn it is: a tenant's, or that of all rehearsals together.
pub(crate) type Lane = Option<TenantId>;

/// The worker threads and their queue.
pub(crate) struct Workers {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Guests in the queue; read by the epoch callback without the lock.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    lanes: HashMap<Lane, VecDeque<Arc<Task>>>,
    /// Lanes with someone runnable, next first.
    round: VecDeque<Lane>,
    stopped: Stopped,
}

#[derive(Default, PartialEq, Eq)]
enum Stopped {
    #[default]
    No,
    Yes,
}

/// One guest.
struct Task {
    lane: Lane,
    meter: Arc<Meter>,
    workers: Arc<Workers>,
    state: Mutex<TaskState>,
}

struct TaskState {
    stage: Stage,
    work: Option<Work>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for something outside; a wake queues it.
    Parked,
    /// In the queue.
    Queued,
    /// On a worker.
    Running,
    /// On a worker, and woken meanwhile: goes back to the queue at once.
    RunningWoken,
    /// Finished.
    Done,
}

// === impl Workers ===

impl Workers {
    pub(crate) fn start(threads: usize, io: tokio::runtime::Handle) -> std::io::Result<Arc<Self>> {
        let workers =
            Arc::new(Self { queue: Mutex::new(Queue::default()), work: Condvar::new(), waiting: AtomicUsize::new(0) });
        for number in 0..threads.max(1) {
            let (own, io) = (Arc::clone(&workers), io.clone());
            std::thread::Builder::new().name(format!("guest-{number}")).spawn(move || own.serve(&io))?;
        }
        Ok(workers)
    }

    /// Puts a guest in the queue of its lane.
    pub(crate) fn spawn(self: &Arc<Self>, lane: Lane, meter: Arc<Meter>, work: Work) {
        let state = Mutex::new(TaskState { stage: Stage::Queued, work: Some(work) });
        self.push(Arc::new(Task { lane, meter, workers: Arc::clone(self), state }));
    }

    /// Whether someone waits for a worker: then a guest yields at the end of its slice.
    pub(crate) fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Lets the threads end when they have finished their poll. What is queued is dropped.
    pub(crate) fn stop(&self) {
        let left = {
            let mut queue = self.lock();
            queue.stopped = Stopped::Yes;
            std::mem::take(&mut queue.lanes)
        };
        self.work.notify_all();
        drop(left);
    }

    fn serve(&self, io: &tokio::runtime::Handle) {
        let _inside = io.enter();
        while let Some(task) = self.next() {
            task.run();
        }
    }

    fn next(&self) -> Option<Arc<Task>> {
        let mut queue = self.lock();
        loop {
            if queue.stopped == Stopped::Yes {
                return None;
            }
            if let Some(task) = queue.pop() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                return Some(task);
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn push(&self, task: Arc<Task>) {
        {
            let mut queue = self.lock();
            if queue.stopped == Stopped::Yes {
                drop(queue);
                return;
            }
            queue.push(task);
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Queue ===

impl Queue {
    fn push(&mut self, task: Arc<Task>) {
        let own = self.lanes.entry(task.lane.clone()).or_default();
        if own.is_empty() {
            self.round.push_back(task.lane.clone());
        }
        own.push_back(task);
    }

    fn pop(&mut self) -> Option<Arc<Task>> {
        let lane = self.round.pop_front()?;
        let own = self.lanes.get_mut(&lane)?;
        let task = own.pop_front();
        if own.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.round.push_back(lane);
        }
        task
    }
}

// === impl Task ===

impl Task {
    fn run(self: Arc<Self>) {
        let Some(mut work) = self.take() else { return };
        let waker = Waker::from(Arc::clone(&self));
        self.meter.poll_starts();
        let poll = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
        self.meter.poll_ends();
        match poll {
            Ok(Poll::Pending) => self.park(work),
            Ok(Poll::Ready(())) => self.lock().stage = Stage::Done,
            // A worker outlives a mistake of the host's: the invocation ends, and its end is reported when it is dropped.
            Err(_) => {
                self.lock().stage = Stage::Done;
                let _ = catch_unwind(AssertUnwindSafe(move || drop(work)));
            }
        }
    }

    fn take(&self) -> Option<Work> {
        let mut state = self.lock();
        state.stage = Stage::Running;
        state.work.take()
    }

    fn park(self: Arc<Self>, work: Work) {
        let mut state = self.lock();
        state.work = Some(work);
        if state.stage == Stage::RunningWoken {
            state.stage = Stage::Queued;
            drop(state);
            let workers = Arc::clone(&self.workers);
            workers.push(self);
        } else {
            state.stage = Stage::Parked;
        }
    }

    fn lock(&self) -> MutexGuard<'_, TaskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        match state.stage {
            Stage::Parked => {
                state.stage = Stage::Queued;
                drop(state);
                let workers = Arc::clone(&self.workers);
                workers.push(self);
            }
            Stage::Running => state.stage = Stage::RunningWoken,
            Stage::Queued | Stage::RunningWoken | Stage::Done => {}
        }
    }
}
