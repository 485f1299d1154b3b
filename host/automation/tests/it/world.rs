//! Surroundings: a store in memory, a clock that a test moves, hosts that can be killed, and workflow code written in Rust.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jiff::Timestamp;
use ringfence_audit::Audit;
use ringfence_automation::workflow::journal::{family_key, id_of};
use ringfence_automation::workflow::{Begin, Head, NotRun, RunCall, Runner, Status, Workflows, WorkflowsParts};
use ringfence_capabilities::RunHistory;
use ringfence_core::workflow::{Answer, Ask, Place, Retry, StepFailure, StepKind, Stop};
use ringfence_core::{Clock, Entropy, RunId, TenantId};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{Faults, Store, TenantStore, Tenants};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// A day, milliseconds.
pub const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// Longest wait for what happens beside a test.
const WAIT: Duration = Duration::from_secs(30);

/// Time that a test moves on.
pub struct Moved {
    ms: AtomicI64,
    asked_count: AtomicU64,
}

impl Moved {
    /// Moves it by so many milliseconds, also back.
    pub fn pass(&self, ms: i64) {
        self.ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Waits until it was asked so often more: until what looks at it every little while has looked at it as it is now.
    pub fn until_asked(&self, count: u64) {
        let before = self.asked_count();
        eventually("looks at the time", || self.asked_count() >= before + count);
    }

    /// How often somebody asked what time it is.
    fn asked_count(&self) -> u64 {
        self.asked_count.load(Ordering::Acquire)
    }
}

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        self.asked_count.fetch_add(1, Ordering::AcqRel);
        Timestamp::from_millisecond(self.ms.load(Ordering::Relaxed)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.ms.load(Ordering::Relaxed)).unwrap())
    }
}

/// Dice that fall the same way every time.
pub struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// What outlives hosts: the store with its tenant `acme`, and time.
pub struct World {
    pub tenants: Tenants,
    pub clock: Arc<Moved>,
    pub entropy: Arc<Counter>,
    pub acme: TenantStore,
    pub directory: tempfile::TempDir,
    base: Runtime,
}

impl World {
    pub fn new() -> Self {
        Self::with_faults(Faults::default())
    }

    /// One whose disk fails and hangs as planned.
    pub fn with_faults(faults: Faults) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(Moved { ms: AtomicI64::new(1_790_000_000_000), asked_count: AtomicU64::new(0) });
        let entropy = Arc::new(Counter(AtomicU64::new(1)));
        let root = RootKey::open_or_create(&RootKeyUri::File(directory.path().join("root.key")), &*entropy).unwrap();
        let base = runtime();
        let store = Store::memory_with_faults(faults);
        let tenants = base.block_on(Tenants::open(store, Arc::new(root), entropy.clone(), clock.clone())).unwrap();
        base.block_on(tenants.create(&acme(), "Acme")).unwrap();
        let acme = tenants.open_tenant(&acme()).unwrap();
        Self { tenants, clock, entropy, acme, directory, base }
    }

    /// Does something that no host has a part in.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.base.block_on(work)
    }

    /// A run of the workflow `test`.
    pub fn test(&self) -> Begin {
        Begin {
            plugin: "shop".parse().unwrap(),
            version: "0.1.0".parse().unwrap(),
            workflow: "test".to_owned(),
            input: "null".to_owned(),
            by: "acme/ann".parse().unwrap(),
            attributes: BTreeMap::new(),
            key: None,
            led_by: None,
        }
    }

    /// Begins one.
    pub fn begin(&self, host: &Host) -> RunId {
        host.block_on(host.workflows.begin(&self.acme, self.test())).unwrap().0.run
    }

    /// The same with so many descendants already, of which nobody knows anything else.
    pub fn begin_in(&self, host: &Host, descendants_count: u64) -> RunId {
        let key = "a key".to_owned();
        let run = id_of(&[b"ringfence run key", self.acme.uid().as_bytes(), key.as_bytes()]);
        self.block_on(self.acme.put_json(&family_key(&run), &descendants_count)).unwrap();
        let begun = host.block_on(host.workflows.begin(&self.acme, Begin { key: Some(key), ..self.test() })).unwrap();
        assert_eq!(begun.0.run, run);
        run
    }

    pub async fn audit(&self) -> Audit {
        let name = "host.example".to_owned();
        Audit::open(self.tenants.clone(), self.clock.clone(), self.entropy.clone(), name).await.unwrap()
    }
}

pub fn acme() -> TenantId {
    "acme".parse().unwrap()
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What workflow code comes to.
pub type Ran = Result<Result<String, String>, NotRun>;
/// Workflow code.
pub type Code = Arc<dyn Fn(RunCall) -> BoxFuture<'static, Ran> + Send + Sync>;

struct Guest(Code);

impl Runner for Guest {
    fn run(&self, call: RunCall) -> BoxFuture<'static, Ran> {
        (self.0)(call)
    }
}

/// A host that runs workflows, until it is killed.
pub struct Host {
    runtime: Runtime,
    pub workflows: Workflows,
    pub audit: Audit,
}

impl Host {
    /// Starts one, and lets it go on with what is there.
    pub fn start(world: &World, code: &Code) -> Self {
        Self::start_after(world, code, async || ())
    }

    /// The same, with something that happens when the rooms are open and before anything goes on.
    pub fn start_after(world: &World, code: &Code, before: impl AsyncFnOnce()) -> Self {
        let runtime = runtime();
        let (workflows, audit) = runtime.block_on(async {
            let audit = world.audit().await;
            let workflows = Workflows::new(WorkflowsParts {
                tenants: world.tenants.clone(),
                runner: Arc::new(Guest(Arc::clone(code))),
                audit: audit.clone(),
                clock: world.clock.clone(),
                entropy: world.entropy.clone(),
            });
            before().await;
            workflows.go_on_with_all().await.unwrap();
            (workflows, audit)
        });
        Self { runtime, workflows, audit }
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Has it look at the tenant's runs, and waits until it has. A look asks for the time as it begins, and nobody else does
    /// while nothing is run: when the second has begun, one that began after this call is over.
    pub fn look(&self, world: &World) {
        for _ in 0..2 {
            let before = world.clock.asked_count();
            self.workflows.go_on(&world.acme);
            eventually("a look", || world.clock.asked_count() > before);
        }
    }

    /// Everything of it stops where it is.
    pub fn kill(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    /// What is known of a run once it is doing this.
    pub fn until(&self, world: &World, run: &RunId, status: Status) -> Head {
        let mut last = None;
        eventually(&format!("{status:?}"), || {
            let head = self.block_on(self.workflows.head(&world.acme, run)).unwrap();
            let is_there = head.status == status;
            last = Some(head);
            is_there
        });
        last.unwrap()
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < WAIT, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the SDK does for a guest, as far as the tests need it.
pub struct Steps(pub Arc<dyn RunHistory>);

impl Steps {
    pub async fn ask(&self, ask: Ask) -> Result<Answer, Stop> {
        self.0.ask(Place::default(), ask).await.0
    }

    pub async fn sleep(&self, ms: u64) -> Result<(), Stop> {
        self.ask(Ask::Sleep { name: "nap".to_owned(), ms }).await.map(drop)
    }

    /// A step that is tried three times; `work` is given its key and the number of the attempt.
    pub async fn step(
        &self,
        kind: StepKind,
        name: &str,
        work: impl AsyncFnOnce(String, u32) -> Result<String, StepFailure>,
    ) -> Result<Result<String, String>, Stop> {
        let retry = Retry { attempts_count: 3, first_ms: 0, factor_percent: 100, max_ms: 0 };
        let asked = self.ask(Ask::Step { kind, name: name.to_owned(), retry }).await?;
        let answer = match asked {
            Answer::Execute { idempotency_key, attempt } => {
                let outcome = work(idempotency_key, attempt).await;
                self.0.complete(Place::default(), outcome).await?
            }
            other => other,
        };
        match answer {
            Answer::Outcome(outcome) => Ok(outcome),
            other => panic!("a step was answered with {other:?}"),
        }
    }
}

/// What code that was stopped gives back: nobody reads it.
pub fn stopped(stop: &Stop) -> Ran {
    Ok(Err(format!("{stop:?}")))
}

/// What reached the far end: the step, its key and the attempt.
pub type Far = Arc<Mutex<Vec<(String, String, u32)>>>;

pub fn told(far: &Far) -> Vec<(String, String, u32)> {
    far.lock().unwrap().clone()
}

pub fn names(far: &Far) -> Vec<String> {
    told(far).into_iter().map(|(name, ..)| name).collect()
}

/// Three steps, each of which waits for a place in `gate` after it was told to the far end, and one more wait behind them.
pub fn three_steps(far: &Far, gate: &Arc<Semaphore>) -> Code {
    let (far, gate) = (Arc::clone(far), Arc::clone(gate));
    Arc::new(move |call| {
        let (far, gate) = (Arc::clone(&far), Arc::clone(&gate));
        Box::pin(async move {
            let steps = Steps(call.history);
            for number in 0..3 {
                let name = format!("step-{number}");
                let done = steps
                    .step(StepKind::Step, &name, async |key, attempt| {
                        far.lock().unwrap().push((name.clone(), key, attempt));
                        gate.acquire().await.unwrap().forget();
                        Ok("1".to_owned())
                    })
                    .await;
                if let Err(stop) = done {
                    return stopped(&stop);
                }
            }
            far.lock().unwrap().push(("end".to_owned(), String::new(), 0));
            gate.acquire().await.unwrap().forget();
            Ok(Ok("3".to_owned()))
        })
    })
}

/// Begins a child and waits for it. A child sleeps until it is cancelled, or first goes on as another, and that as one that does.
pub fn parent(goes_on: bool) -> Code {
    Arc::new(move |call| {
        Box::pin(async move {
            let steps = Steps(call.history);
            let child = Ask::Child { workflow: "test".to_owned(), input: "1".to_owned() };
            let asked = match call.input.as_str() {
                "null" => match steps.ask(child).await {
                    Ok(Answer::Name(run)) => steps.ask(Ask::ChildEnd { run }).await.map(drop),
                    Ok(other) => panic!("{other:?}"),
                    Err(stop) => Err(stop),
                },
                "1" if goes_on => steps.ask(Ask::Continue { input: "2".to_owned() }).await.map(drop),
                "2" => steps.ask(Ask::Continue { input: "3".to_owned() }).await.map(drop),
                _ => steps.sleep(100 * DAY_MS.unsigned_abs()).await,
            };
            match asked {
                Ok(()) => Ok(Ok("1".to_owned())),
                Err(Stop::Cancelled) => Ok(Err("cancelled".to_owned())),
                Err(stop) => stopped(&stop),
            }
        })
    })
}
