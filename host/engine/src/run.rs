//! One invocation: a store, fresh unless the plugin asked for reuse, the guest's handler, its answer. The end of the walk of a request.
//!
//! Must never wait for the guest itself: it is handed to the scheduler, and only the head of the answer is awaited here. Whatever happens, the slot is given back after the store is gone, and exactly one outcome is sent.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::component::Accessor;
use wasmtime::{PoolConcurrencyLimitError, Store, UpdateDeadline};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{WasiHttpView, p2, p3};

use crate::body::{Body, Expects, GuestBody, Outgoing, incoming};
use crate::client::awaited;
use crate::code::{Code, Ready};
use crate::ending::{Ending, Finished};
use crate::engine::Shared;
use crate::error::{RunError, RunFailure, bounded};
use crate::event::{Answered, EventAnswer, EventCall, Export};
use crate::guest::{Guest, GuestSetup};
use crate::idle::{Instance, Reuse, Started};
use crate::meter::{End, Meter};
use crate::pool::Full;
use crate::scheduler::{Dispatch, Slot, Task, Whose, Workers};

/// LIMIT: most bytes a guest may hand to the host in one call.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// LIMIT: most handles inside one component instance.
const HANDLES_COUNT_MAX: usize = 10_000;
/// LIMIT: wait for another rehearsal to end.
const REHEARSAL_WAIT: Duration = Duration::from_secs(30);
/// Epochs between two looks at the meter and at what the scheduler asks.
const SLICE_EPOCHS: u64 = 1;

/// An answer whose head is there and whose body streams. Dropping the body stops the guest.
pub struct Reply {
    /// The answer.
    pub response: http::Response<Body>,
    /// Comes when the guest is done and the last byte is out.
    pub finished: Finished,
}

type Head = Result<http::Response<GuestBody>, RunError>;

/// Runs the guest's handler on the request.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    mut slot: Slot,
    code: &Code,
    guest: GuestSetup,
    request: http::Request<Body>,
) -> Result<Reply, RunFailure> {
    let meter = Arc::clone(&guest.meter);
    let is_there = code.ready().and_then(|ready| ready.http.as_ref().ok_or(RunError::NoHandler));
    is_there.map_err(|error| RunFailure { error, usage: meter.usage() })?;
    let expects = if request.method() == http::Method::HEAD { Expects::HeadOnly } else { Expects::Body };
    let ending = Ending::new(Arc::clone(&meter));
    slot.runs(&meter);
    let request = request.map(|body| awaited(body, &meter));
    let (head_sender, head) = oneshot::channel();
    let (reuse, idle) = waiting(shared, &guest);
    let work = {
        let (shared, code, meter) = (Arc::clone(shared), code.clone(), Arc::clone(&meter));
        async move {
            let (mut store, started) = wake(&shared, idle, guest);
            let result = call(&mut store, &code, started, &meter, request, head_sender).await;
            // INVARIANT: the result is known before the store's streams close, so that no cut answer looks complete.
            spent(store, result, reuse).await
        }
    };
    let stop = StopGuest(&ending);
    let task = start(shared, Place::Slot(slot), Dispatch::Inline, &ending, Box::pin(work));
    let head = head.await.unwrap_or(Err(RunError::NoResponse));
    std::mem::forget(stop);
    match head {
        Ok(response) => {
            let finished = Finished::new(&ending);
            Ok(Reply { response: Outgoing::wrap(response, expects, ending, task), finished })
        }
        Err(error) => Err(failure(&ending, error).await),
    }
}

/// Whether the guest may be one that served before, and one that waits for it, if any does.
fn waiting(shared: &Shared, guest: &GuestSetup) -> (Option<Reuse>, Option<Instance>) {
    let reuse = guest.reuse.clone();
    let idle = reuse.as_ref().and_then(|reuse| shared.idle.take(&reuse.key));
    (reuse, idle)
}

/// The instance that waited, for this invocation; else a new store in which nothing is started yet.
fn wake(shared: &Shared, idle: Option<Instance>, guest: GuestSetup) -> (Store<Guest>, Option<Started>) {
    let meter = Arc::clone(&guest.meter);
    let woken = match idle {
        Some(idle) => idle.wake(guest),
        None => Err(guest),
    };
    match woken {
        Ok(Instance { mut store, started }) => {
            watch_epochs(&mut store, meter, Arc::clone(shared.scheduler.workers()));
            (store, Some(started))
        }
        Err(guest) => (new_store(shared, guest), None),
    }
}

/// What is left of a guest whose handler came to this: to be kept for its next invocation when its author wants that, and
/// none of its tasks goes on.
async fn spent(
    mut store: Store<Guest>,
    result: wasmtime::Result<Option<Started>>,
    reuse: Option<Reuse>,
) -> (Spent, wasmtime::Result<()>) {
    let (next, result) = match result {
        Ok(started) => (started.zip(reuse), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let next = if next.is_some() && !is_at_rest(&mut store).await { None } else { next };
    (Spent { store, next }, result)
}

/// Whether nothing of the guest goes on: it would go on in the next invocation.
async fn is_at_rest(store: &mut Store<Guest>) -> bool {
    store.run_concurrent(async |accessor| has_no_task(accessor).await).await.unwrap_or(false)
}

async fn has_no_task(accessor: &Accessor<Guest>) -> bool {
    poll_fn(|cx| Poll::Ready(accessor.poll_no_interesting_tasks(cx).is_ready())).await
}

/// Runs one of the guest's handlers that is not for HTTP, to its end.
pub(crate) async fn run_event(
    shared: &Arc<Shared>,
    slot: Slot,
    code: &Code,
    guest: GuestSetup,
    call: EventCall,
) -> Result<Answered, RunFailure> {
    let meter = Arc::clone(&guest.meter);
    let is_there = code.ready().and_then(|ready| ready.events.get(call.export).ok_or(RunError::NoHandler));
    is_there.map_err(|error| RunFailure { error, usage: meter.usage() })?;
    let ending = Ending::new(Arc::clone(&meter));
    // Nobody reads a body: the end of the guest is the end of the invocation.
    ending.body_is_out();
    let (sender, answer) = oneshot::channel();
    // Nobody waits for a message or a run: their guests would be before others' host work on the threads they come from.
    let dispatch = if call.export == Export::Hook { Dispatch::Inline } else { Dispatch::Queued };
    let (reuse, idle) = waiting(shared, &guest);
    let work = {
        let (shared, code, meter) = (Arc::clone(shared), code.clone(), Arc::clone(&meter));
        async move {
            let (mut store, started) = wake(&shared, idle, guest);
            let result = call_event(&mut store, &code, started, &meter, call, sender).await;
            spent(store, result, reuse).await
        }
    };
    let stop = StopGuest(&ending);
    let _ = start(shared, Place::Slot(slot), dispatch, &ending, Box::pin(work));
    let outcome = Finished::new(&ending).outcome().await;
    std::mem::forget(stop);
    match (outcome.result, answer.await) {
        (Ok(()), Ok(answer)) => Ok(Answered { answer, usage: outcome.usage }),
        (Ok(()), Err(_)) => Err(RunFailure { error: RunError::NoResponse, usage: outcome.usage }),
        (Err(error), _) => Err(RunFailure { error, usage: outcome.usage }),
    }
}

/// Instantiates the component and does nothing with it.
pub(crate) async fn rehearse(shared: &Arc<Shared>, code: &Code, guest: GuestSetup) -> Result<(), RunError> {
    let turn = tokio::time::timeout(REHEARSAL_WAIT, Arc::clone(&shared.rehearsals).acquire_owned()).await;
    let turn = turn.map_err(|_| RunError::Host("too many rehearsals at once".to_owned()))?;
    let turn = turn.map_err(|_| RunError::Host("the host is stopping".to_owned()))?;
    code.ready()?;
    let meter = Arc::clone(&guest.meter);
    let ending = Ending::new(Arc::clone(&meter));
    ending.body_is_out();
    let work = {
        let (shared, code) = (Arc::clone(shared), code.clone());
        async move {
            let mut store = new_store(&shared, guest);
            let result = match code.ready() {
                Ok(ready) => ready.pre.instantiate_async(&mut store).await.map(drop),
                Err(error) => Err(error.into()),
            };
            (Spent { store, next: None }, result)
        }
    };
    let stop = StopGuest(&ending);
    let _ = start(shared, Place::Rehearsal { _turn: turn }, Dispatch::Queued, &ending, Box::pin(work));
    let outcome = Finished::new(&ending).outcome().await;
    std::mem::forget(stop);
    outcome.result
}

/// Stops the guest when whoever waits for its head goes away.
struct StopGuest<'a>(&'a Ending);

impl Drop for StopGuest<'_> {
    fn drop(&mut self) {
        self.0.meter().kill();
        self.0.body_is_out();
    }
}

/// Waits for what the guest's end has to say, which is nearer to the cause than the missing head.
async fn failure(ending: &Arc<Ending>, head: RunError) -> RunFailure {
    ending.body_is_out();
    let outcome = Finished::new(ending).outcome().await;
    RunFailure { error: outcome.result.err().unwrap_or(head), usage: outcome.usage }
}

/// What an invocation holds while it runs.
enum Place {
    Slot(Slot),
    Rehearsal { _turn: OwnedSemaphorePermit },
}

/// What is left of a guest that is done.
struct Spent {
    store: Store<Guest>,
    /// What was started in it and whose that is, when it ended well and may serve another invocation.
    next: Option<(Started, Reuse)>,
}

type Guarded = Pin<Box<dyn Future<Output = (Spent, wasmtime::Result<()>)> + Send>>;

/// Hands the guest to the workers, with its deadline.
fn start(shared: &Arc<Shared>, place: Place, dispatch: Dispatch, ending: &Arc<Ending>, work: Guarded) -> Arc<Task> {
    let meter = Arc::clone(ending.meter());
    // The time counts from here: what the host took to bring the code is not the plugin's.
    let deadline = meter.start(Instant::now());
    let workers = shared.scheduler.workers();
    ending.guard_with(workers.end_at(deadline, &meter));
    let whose = match &place {
        Place::Slot(slot) => Whose::Tenant(slot.tenant().clone(), slot.lane_number),
        Place::Rehearsal { .. } => Whose::Rehearsal,
    };
    let turn = Turn { work: Some(work), ending: Arc::clone(ending), place: Some(place), shared: Arc::clone(shared) };
    workers.spawn(whose, dispatch, meter, Box::pin(turn))
}

/// The guest's future with its ending: stops when the meter says so, reports on every path, and only then gives the
/// slot back.
struct Turn {
    work: Option<Guarded>,
    ending: Arc<Ending>,
    place: Option<Place>,
    shared: Arc<Shared>,
}

// === impl Turn ===

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let meter = Arc::clone(self.ending.meter());
        meter.register(cx.waker());
        if meter.ended().is_some() {
            self.finish(None);
            return Poll::Ready(());
        }
        let Some(work) = self.work.as_mut() else { return Poll::Ready(()) };
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => {
                self.finish(Some(done));
                Poll::Ready(())
            }
            // A budget may have run out in a host call that did not trap.
            Poll::Pending if meter.ended().is_some() => {
                self.finish(None);
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Turn {
    fn finish(&mut self, done: Option<(Spent, wasmtime::Result<()>)>) {
        let meter = Arc::clone(self.ending.meter());
        let (spent, result) = match done {
            Some((spent, result)) => (Some(spent), result.map_err(|error| classify(&meter, &error))),
            None => (None, Err(meter.ended().map_or(RunError::Killed, End::error))),
        };
        if let Err(error) = &result {
            self.ending.note_failure(error.clone());
        }
        match spent {
            Some(Spent { store, next: Some((started, reuse)) })
                if meter.ended().is_none() && !self.shared.memory.is_short() =>
            {
                self.shared.idle.keep(&reuse, Instance { store, started });
            }
            other => drop(other),
        }
        self.work = None;
        meter.settle();
        meter.forget_waker();
        self.ending.guest_is_done(result);
        self.place = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.place.is_some() {
            // Dropped by a stopping host or by a panic under it.
            self.ending.note_failure(RunError::Host("the worker was stopped".to_owned()));
            self.work = None;
            self.ending.meter().forget_waker();
            self.ending.guest_is_done(Err(RunError::Host("the worker was stopped".to_owned())));
        }
    }
}

fn new_store(shared: &Shared, guest: GuestSetup) -> Store<Guest> {
    let meter = Arc::clone(&guest.meter);
    let workers = Arc::clone(shared.scheduler.workers());
    let mut store = Store::new(&shared.engine, Guest::new(guest, shared.memory_bytes_max));
    store.limiter_async(|guest| guest);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_COUNT_MAX);
    watch_epochs(&mut store, meter, workers);
    store
}

/// Ties the epochs of a store to the invocation that runs in it.
fn watch_epochs(store: &mut Store<Guest>, meter: Arc<Meter>, workers: Arc<Workers>) {
    store.set_epoch_deadline(SLICE_EPOCHS);
    store.epoch_deadline_callback(move |_| next_slice(&meter, &workers));
}

/// What a guest does when the epoch moved: end, make room for whoever the scheduler puts before it, or go on.
fn next_slice(meter: &Meter, workers: &Workers) -> wasmtime::Result<UpdateDeadline> {
    meter.tick()?;
    Ok(if workers.is_asked() { UpdateDeadline::Yield(SLICE_EPOCHS) } else { UpdateDeadline::Continue(SLICE_EPOCHS) })
}

/// What was started before; else starts the component.
async fn started(store: &mut Store<Guest>, ready: &Ready, before: Option<Started>) -> wasmtime::Result<Started> {
    match before {
        Some(started) => Ok(started),
        None => {
            let exports = ready.pre.instantiate_async(&mut *store).await?;
            Ok(Started { exports, http: None, served_count: 0 })
        }
    }
}

/// Calls the handler for HTTP, of what was started before or is started now. Gives that back when it can serve more.
async fn call(
    store: &mut Store<Guest>,
    code: &Code,
    before: Option<Started>,
    meter: &Meter,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
) -> wasmtime::Result<Option<Started>> {
    let ready = code.ready()?;
    let handler = ready.http.as_ref().ok_or(RunError::NoHandler)?;
    let Started { exports, http, served_count } = started(store, ready, before).await?;
    let proxy = match http {
        Some(proxy) => proxy,
        None => handler.of(store, &exports)?,
    };
    meter.arm_cpu();
    let result = match &proxy {
        Proxy::P2(guest) => call_p2(store, guest, request, head).await,
        Proxy::P3(guest) => {
            store.run_concurrent(async |accessor| call_p3(accessor, guest, request, head).await).await?
        }
    };
    match result {
        Ok(()) => Ok(Some(Started { exports, http: Some(proxy), served_count: served_count.saturating_add(1) })),
        // A guest may end with `exit(0)` after its answer.
        Err(error) if error.downcast_ref::<I32Exit>().is_some_and(|exit| exit.0 == 0) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same for a handler that is not for HTTP.
async fn call_event(
    store: &mut Store<Guest>,
    code: &Code,
    before: Option<Started>,
    meter: &Meter,
    call: EventCall,
    answer: oneshot::Sender<EventAnswer>,
) -> wasmtime::Result<Option<Started>> {
    let ready = code.ready()?;
    let handler = ready.events.get(call.export).ok_or(RunError::NoHandler)?;
    let started = started(store, ready, before).await?;
    meter.arm_cpu();
    let result = handler.call(&mut *store, &started.exports, call).await?;
    if let Ok(bytes) = &result {
        meter.response_bytes(bytes.len() as u64)?;
    }
    let _ = answer.send(result);
    Ok(Some(Started { served_count: started.served_count.saturating_add(1), ..started }))
}

async fn call_p2(
    store: &mut Store<Guest>,
    guest: &p2::bindings::Proxy,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
) -> wasmtime::Result<()> {
    let request = named(request).map(incoming);
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let mut head = Some(head);
    let answer = move |result: Result<http::Response<GuestBody>, ErrorCode>| {
        if let Some(head) = head.take() {
            let _ = head.send(result.map_err(|code| refused(&code)));
        }
    };
    let answer = std::sync::Mutex::new(answer);
    let out = store.data_mut().http().new_response_outparam_from_callback(move |result| {
        let mut answer = answer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        answer(result);
    })?;
    guest.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
}

async fn call_p3(
    accessor: &Accessor<Guest>,
    guest: &p3::bindings::Service,
    request: http::Request<Body>,
    head: oneshot::Sender<Head>,
) -> wasmtime::Result<()> {
    let request = named(request).map(incoming);
    let (request, io) = accessor.with(|mut store| {
        let (request, io) = p3::Request::from_http(store.data_mut().http().hooks, request);
        let io: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(io);
        (request, io)
    });
    let answer = match guest.handle(accessor, request).await? {
        Ok(response) => Ok(accessor.with(|store| response.into_http(store, io))?),
        Err(code) => Err(refused(&code)),
    };
    let _ = head.send(answer);
    // The guest may go on after its answer: stream the body, write a log, count.
    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
    Ok(())
}

/// The handler answered with an error instead of a response.
fn refused(code: &impl std::fmt::Debug) -> RunError {
    RunError::Trap { message: bounded(&format!("the handler answered with the error {code:?}")) }
}

/// WASI wants every request to name a host.
fn named(mut request: http::Request<Body>) -> http::Request<Body> {
    if request.uri().authority().is_none() && !request.headers().contains_key(http::header::HOST) {
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    }
    request
}

/// What a failed call means.
fn classify(meter: &Meter, error: &wasmtime::Error) -> RunError {
    if let Some(end) = meter.ended() {
        return end.error();
    }
    if error.is::<PoolConcurrencyLimitError>() {
        // Passes as soon as others end, like want of memory.
        return RunError::Overloaded;
    }
    match meter.refused_memory() {
        Some(Full::Own) => RunError::MemoryBudget,
        Some(Full::Host) => RunError::Overloaded,
        Some(Full::Share) => RunError::MemoryShare,
        None => RunError::Trap { message: bounded(&format!("{error:#}")) },
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ringfence_core::Budget;
    use wasmtime::component::{Component, Linker};
    use wasmtime::{InstanceAllocationStrategy, PoolingAllocationConfig};

    use super::*;
    use crate::config::{Recycling, code_generation, pool};

    /// Waiters in one component. With them, what calls them and the code between, it has fewer instances than it may.
    const WAITERS_COUNT: usize = 30;
    /// Longest time for what takes some milliseconds.
    const SOON: Duration = Duration::from_secs(60);

    /// A component of so many instances, each in a call to the host that never ends, and one beside them that called them all and waits
    /// too: who holds an instance may not call it.
    fn waiters() -> Vec<u8> {
        let [mut instances, mut handed, mut imported, mut lowered, mut imports, mut calls, mut given] =
            [const { String::new() }; 7];
        for n in 0..WAITERS_COUNT {
            writeln!(instances, "(instance $w{n} (instantiate $waiter (with \"wait\" (func $wait))))").unwrap();
            writeln!(handed, "(with \"h{n}\" (func $w{n} \"h\"))").unwrap();
            writeln!(imported, "(import \"h{n}\" (func $h{n} async))").unwrap();
            writeln!(lowered, "(core func $h{n} (canon lower (func $h{n}) async))").unwrap();
            writeln!(imports, "(import \"\" \"h{n}\" (func $h{n} (result i32)))").unwrap();
            writeln!(calls, "(drop (call $h{n}))").unwrap();
            writeln!(given, "(export \"h{n}\" (func $h{n}))").unwrap();
        }
        let text = format!(
            r#"(component
              (import "wait" (func $wait async))
              (component $waiter
                (import "wait" (func $wait async))
                (core func $wait (canon lower (func $wait)))
                (core module $m
                  (import "" "wait" (func $wait))
                  (func (export "h") (call $wait)))
                (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait))))))
                (func (export "h") async (canon lift (core func $i "h"))))
              {instances}
              (component $runner
                (import "wait" (func $wait async))
                {imported}
                {lowered}
                (core func $wait (canon lower (func $wait)))
                (core module $m
                  (import "" "wait" (func $wait))
                  {imports}
                  (func (export "run") {calls} (call $wait)))
                (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait)) {given}))))
                (func (export "run") async (canon lift (core func $i "run"))))
              (instance $runner (instantiate $runner (with "wait" (func $wait)) {handed}))
              (export "run" (func $runner "run")))"#
        );
        wat::parse_str(text).unwrap()
    }

    /// Runs the waiters until all of them wait. What ended the call before, if anything did, and the stacks then in use.
    async fn wait_in(pool: PoolingAllocationConfig) -> (Option<wasmtime::Result<()>>, usize) {
        let mut config = code_generation();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = wasmtime::Engine::new(&config).unwrap();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut linker = Linker::<()>::new(&engine);
        let count = Arc::clone(&waiting);
        linker
            .root()
            .func_wrap_concurrent("wait", move |_, (): ()| {
                count.fetch_add(1, Ordering::Relaxed);
                Box::pin(std::future::pending::<wasmtime::Result<()>>())
            })
            .unwrap();
        let component = Component::new(&engine, waiters()).unwrap();
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1_000_000);
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let ended = {
            let mut call = Box::pin(run.call_async(&mut store, ()));
            let until_all_wait = poll_fn(|cx| match call.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if waiting.load(Ordering::Relaxed) > WAITERS_COUNT => Poll::Ready(None),
                Poll::Pending => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            });
            tokio::time::timeout(SOON, until_all_wait).await.unwrap()
        };
        let stacks_count = engine.pooling_allocator_metrics().unwrap().stacks();
        drop(store);
        assert_eq!(engine.pooling_allocator_metrics().unwrap().stacks(), 0, "all stacks are back");
        (ended, stacks_count)
    }

    #[tokio::test]
    async fn a_guest_holds_a_stack_for_each_of_its_instances_that_wait_and_hardly_more() {
        let (ended, stacks_count) = wait_in(pool(1, 1 << 20, Recycling::GiveBack)).await;
        assert!(ended.is_none(), "{ended:?}");
        assert!((WAITERS_COUNT..=WAITERS_COUNT + 3).contains(&stacks_count), "{stacks_count} stacks");
    }

    #[tokio::test]
    async fn who_finds_the_pool_without_a_stack_is_told_that_the_host_is_full() {
        let mut small = pool(1, 1 << 20, Recycling::GiveBack);
        small.total_stacks(16);
        let (ended, _) = wait_in(small).await;
        let error = ended.expect("thirty wait on sixteen stacks").unwrap_err();
        let told = classify(&Meter::new(Budget::DEFAULT), &error);
        assert_eq!(told, RunError::Overloaded, "{error:#}");
    }
}
