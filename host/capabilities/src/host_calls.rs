//! Which host calls of a tenant's plugins are put on its audit log, and those that wait to be.
//!
//! Must never make a guest wait: a call is noted in memory, within a bound, and what does not fit is counted, so that the log
//! says how many are missing. One in N is drawn at random, so that a plugin cannot choose which of its calls are seen. Never
//! holds a value: the capability, the call, and the name of what it was on.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ringfence_core::proof::origin_text;
use ringfence_core::{Capability, Clock, Entropy, HostAct, InvocationId, On, PluginName};
use ringfence_store::TenantStore;

use crate::pii::Verdict;

/// LIMIT: calls of one tenant that wait to be put on its log.
pub const WAITING_COUNT_MAX: usize = 4_096;
/// LIMIT: longest name of what a call was on, in bytes; longer ones are cut.
const NAME_BYTES_MAX: usize = 96;
/// LIMIT: the largest N of one in N.
const ONE_IN_MAX: u32 = 1_000_000;

/// How many of a capability's calls are put on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// None.
    None,
    /// One in so many.
    OneIn(u32),
    /// All.
    All,
}

/// A tenant's choice, by capability; what is not in it is [`Share::None`].
pub type Shares = BTreeMap<Capability, Share>;

/// A call that waits to be put on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedCall {
    /// Milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Of which invocation.
    pub invocation: InvocationId,
    /// Of which plugin.
    pub plugin: PluginName,
    /// What it used.
    pub capability: Capability,
    /// What it did, in a word.
    pub call: &'static str,
    /// The name of what it did it to, without signs that steer what shows it; may be empty.
    pub on: String,
    /// Whether it was let through.
    pub verdict: Verdict,
}

/// What waits for one tenant's log.
pub struct Waiting {
    /// Whose.
    pub store: TenantStore,
    /// The calls, oldest first.
    pub calls: Vec<NotedCall>,
    /// Calls that should be there and are not, because too many came.
    pub missed_count: u64,
}

/// The choices of all tenants and what waits. Cheap to clone.
#[derive(Clone, Default)]
pub struct HostCalls(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Whether any tenant chose anything, so that hosts where none did pay nothing.
    is_used: AtomicBool,
    tenants: RwLock<HashMap<String, Arc<TenantCalls>>>,
}

struct TenantCalls {
    store: TenantStore,
    shares: Shares,
    noted: Arc<Noted>,
}

/// Survives a change of the choice.
#[derive(Default)]
struct Noted {
    waiting: Mutex<Vec<NotedCall>>,
    missed: AtomicU64,
    missed_in_all: AtomicU64,
}

/// What notes the calls of one invocation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CallNotes(Option<Arc<OfInvocation>>);

struct OfInvocation {
    calls: Arc<TenantCalls>,
    invocation: InvocationId,
    plugin: PluginName,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

// === impl Share ===

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let one_in = |text: &str| text.strip_prefix("1/")?.parse().ok().filter(|n| (1..=ONE_IN_MAX).contains(n));
        match text {
            "none" => Ok(Self::None),
            "all" | "1/1" => Ok(Self::All),
            text => one_in(text).map(Self::OneIn).ok_or_else(|| {
                format!(
                    "`{}` is not `none`, `all` or `1/N`, N at most {ONE_IN_MAX}",
                    text.chars().take(40).collect::<String>()
                )
            }),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::OneIn(n) => write!(f, "1/{n}"),
            Self::All => f.write_str("all"),
        }
    }
}

// === impl HostCalls ===

impl HostCalls {
    /// Puts a tenant's choice into force for every invocation that begins from now on.
    pub fn choose(&self, store: &TenantStore, shares: Shares) {
        let mut tenants = self.0.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if shares.is_empty() && !tenants.contains_key(&store.uid()) {
            return;
        }
        let noted = tenants.get(&store.uid()).map(|known| Arc::clone(&known.noted)).unwrap_or_default();
        tenants.insert(store.uid(), Arc::new(TenantCalls { store: store.clone(), shares, noted }));
        self.0.is_used.store(true, Ordering::Relaxed);
    }

    /// Lets go of a deleted tenant.
    pub fn forget(&self, store: &TenantStore) {
        self.0.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(&store.uid());
    }

    /// Calls of a tenant that should have been on its log since the start of the host and are not.
    pub fn missed_count(&self, store: &TenantStore) -> u64 {
        self.of(store).map_or(0, |calls| calls.noted.missed_in_all.load(Ordering::Relaxed))
    }

    /// Counts calls that could not be put on the log after all.
    pub fn missed(&self, store: &TenantStore, count: u64) {
        if let Some(calls) = self.of(store) {
            calls.noted.miss(count);
        }
    }

    /// Takes what waits, of all tenants.
    pub fn take(&self) -> Vec<Waiting> {
        if !self.0.is_used.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let tenants: Vec<Arc<TenantCalls>> =
            self.0.tenants.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let taken = tenants.iter().map(|calls| Waiting {
            store: calls.store.clone(),
            calls: std::mem::take(&mut *calls.noted.lock()),
            missed_count: calls.noted.missed.swap(0, Ordering::Relaxed),
        });
        taken.filter(|waiting| !waiting.calls.is_empty() || waiting.missed_count > 0).collect()
    }

    /// What notes the calls of one invocation.
    pub(crate) fn notes(
        &self,
        store: &TenantStore,
        (invocation, plugin): (&InvocationId, &PluginName),
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> CallNotes {
        if !self.0.is_used.load(Ordering::Relaxed) {
            return CallNotes(None);
        }
        let calls = self.of(store).filter(|calls| calls.shares.values().any(|share| *share != Share::None));
        CallNotes(calls.map(|calls| {
            Arc::new(OfInvocation {
                calls,
                invocation: invocation.clone(),
                plugin: plugin.clone(),
                clock: Arc::clone(clock),
                entropy: Arc::clone(entropy),
            })
        }))
    }

    fn of(&self, store: &TenantStore) -> Option<Arc<TenantCalls>> {
        self.0.tenants.read().unwrap_or_else(PoisonError::into_inner).get(&store.uid()).cloned()
    }
}

// === impl Noted ===

impl Noted {
    fn miss(&self, count: u64) {
        self.missed.fetch_add(count, Ordering::Relaxed);
        self.missed_in_all.fetch_add(count, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<NotedCall>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl CallNotes ===

impl CallNotes {
    /// Notes nothing.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Notes a call that policy was asked about, if it is one of those to be on the log.
    pub(crate) fn note_act(&self, act: HostAct, on: On<'_>, verdict: Verdict) {
        if self.0.is_none() {
            return;
        }
        let (capability, on) = match on {
            On::Value { bucket, key } => (Capability::Keyvalue, format!("{bucket} {key}")),
            On::Object { container, name } => (Capability::Blob, format!("{container} {name}")),
            On::Directory => (Capability::Files, String::new()),
            On::Secret(name) => (Capability::Secrets, name.to_string()),
            On::Outside { scheme, host, port, method, .. } => {
                (Capability::Http, format!("{method} {}", origin_text(scheme, host, port)))
            }
            On::Plugin { plugin, method, .. } => (Capability::Http, format!("{method} {plugin}")),
            On::Queue(name) => (Capability::Queue, name.to_string()),
            On::Workflow { plugin, workflow } => (Capability::Runs, format!("{plugin}/{workflow}")),
            On::Field(name) => (Capability::Pii, name.to_string()),
        };
        self.note(capability, act.as_str(), &on, verdict);
    }

    /// Notes a call, if it is one of those to be on the log.
    pub(crate) fn note(&self, capability: Capability, call: &'static str, on: &str, verdict: Verdict) {
        let Some(of) = &self.0 else { return };
        let drawn = match of.calls.shares.get(&capability).copied().unwrap_or(Share::None) {
            Share::None => false,
            Share::All => true,
            Share::OneIn(n) => {
                let mut draw = [0_u8; 8];
                of.entropy.fill(&mut draw);
                u64::from_le_bytes(draw) % u64::from(n) == 0
            }
        };
        if !drawn {
            return;
        }
        let noted = &of.calls.noted;
        let mut waiting = noted.lock();
        if waiting.len() >= WAITING_COUNT_MAX {
            drop(waiting);
            noted.miss(1);
            return;
        }
        let (invocation, plugin) = (of.invocation.clone(), of.plugin.clone());
        let at_ms = of.clock.now().as_millisecond();
        waiting.push(NotedCall { at_ms, invocation, plugin, capability, call, on: name(on), verdict });
    }
}

/// A name as it is shown: cut, and without signs that steer what shows it.
fn name(text: &str) -> String {
    let mut name = String::with_capacity(text.len().min(NAME_BYTES_MAX));
    for c in text.chars() {
        if name.len() + c.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        name.push(if c.is_control() || !c.is_ascii() && !c.is_alphanumeric() { '\u{FFFD}' } else { c });
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    fn notes(rig: &Rig, calls: &HostCalls) -> CallNotes {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(crate::testing::Still), Arc::clone(&rig.entropy) as _);
        let invocation = InvocationId::random(&*entropy);
        calls.notes(&rig.store, (&invocation, &"visits".parse().unwrap()), &clock, &entropy)
    }

    fn shares(words: &[(Capability, &str)]) -> Shares {
        words.iter().map(|(capability, word)| (*capability, word.parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn only_what_a_tenant_chose_is_noted() {
        let rig = Rig::new(&[]).await;
        let calls = HostCalls::default();
        notes(&rig, &calls).note(Capability::Keyvalue, "get", "default", Verdict::Granted);
        assert!(calls.take().is_empty());
        calls.choose(&rig.store, shares(&[(Capability::Keyvalue, "all"), (Capability::Http, "none")]));
        let noting = notes(&rig, &calls);
        noting.note(Capability::Keyvalue, "get", "defa\u{1b}[2Jult\n", Verdict::Granted);
        noting.note(Capability::Http, "send", "https://api.example.com", Verdict::Granted);
        noting.note(Capability::Secrets, "get", "webhook", Verdict::Refused);
        let waiting = calls.take().pop().unwrap();
        assert_eq!((waiting.calls.len(), waiting.missed_count), (1, 0));
        assert_eq!(waiting.calls[0].on, "defa\u{FFFD}[2Jult\u{FFFD}");
        assert!(calls.take().is_empty());
        calls.choose(&rig.store, Shares::new());
        notes(&rig, &calls).note(Capability::Keyvalue, "get", "default", Verdict::Granted);
        assert!(calls.take().is_empty());
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_what_is_missing_is_counted() {
        let rig = Rig::new(&[]).await;
        let calls = HostCalls::default();
        calls.choose(&rig.store, shares(&[(Capability::Keyvalue, "all")]));
        let noting = notes(&rig, &calls);
        for _ in 0..WAITING_COUNT_MAX + 500 {
            noting.note(Capability::Keyvalue, "set", &"n".repeat(10_000), Verdict::Granted);
        }
        let waiting = calls.take().pop().unwrap();
        assert_eq!((waiting.calls.len(), waiting.missed_count), (WAITING_COUNT_MAX, 500));
        assert!(waiting.calls.iter().all(|call| call.on.len() <= NAME_BYTES_MAX));
        noting.note(Capability::Keyvalue, "set", "x", Verdict::Granted);
        let waiting = calls.take().pop().unwrap();
        assert_eq!((waiting.calls.len(), waiting.missed_count, calls.missed_count(&rig.store)), (1, 0, 500));
    }

    #[tokio::test]
    async fn one_in_n_is_about_one_in_n() {
        let rig = Rig::new(&[]).await;
        let calls = HostCalls::default();
        calls.choose(&rig.store, shares(&[(Capability::Keyvalue, "1/10")]));
        let noting = notes(&rig, &calls);
        for _ in 0..2_000 {
            noting.note(Capability::Keyvalue, "get", "x", Verdict::Granted);
        }
        let count = calls.take().pop().unwrap().calls.len();
        assert!((150..=250).contains(&count), "{count}");
    }

    #[test]
    fn a_share_is_a_word_or_nothing() {
        for good in ["none", "all", "1/2", "1/1000000"] {
            assert_eq!(good.parse::<Share>().unwrap().to_string(), good);
        }
        for wrong in ["", "some", "1/0", "1/", "2/3", "1/1000001", "1/-1"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
