//! The outside of this room: destinations of an owner, made, changed, tried out and deleted, and what carries them.
//!
//! What is stored comes first, what runs after it. Must never show an owner what is another's: everything is asked for by
//! [`Scope`], and a tenant's lies in its own store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64};
use ringfence_audit::{Audit, Log};
use ringfence_core::{Clock, Entropy, PrincipalId, ResourceName, Role};
use ringfence_keys::{SHARED_SECRET_BYTES, Secret, SecretBytes};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore, Tenants};
use ringfence_threat::{Scope, Threat};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::OutwardError;
use crate::batch::{Batch, Item};
use crate::decide::Pace;
use crate::deliver::{Means, deliver};
use crate::destination::{
    AREA, Carries, DESTINATIONS_COUNT_MAX, Destination, Paused, Progress, Secrets, Switch, To, View, Wanted,
    WantedChange, authorization_key, key, prefix, progress_key, signing_key,
};
use crate::feeds::Fetching;
use crate::mail::Mailer;
use crate::places::Places;
use crate::reach::Reach;
use crate::webhook::SECRET_PREFIX;
use crate::work::Carrier;

/// LIMIT: batches under way at once, of all owners; together with the size of a batch it bounds the memory.
const UNDER_WAY_COUNT_MAX: usize = 64;
/// LIMIT: batches of one owner under way at once, to whichever of its destinations.
const UNDER_WAY_OF_ONE_MAX: usize = 4;
/// LIMIT: pages of feeds at once, of all owners: a small page can be large in memory.
const PAGES_COUNT_MAX: usize = 8;
/// LIMIT: pages of one owner's feeds at once.
const PAGES_OF_ONE_MAX: usize = 2;
/// LIMIT: mails that one owner has sent in an hour, trials and repetitions included.
pub(crate) const MAILS_PER_HOUR_MAX: u32 = 60;
/// LIMIT: trials under way at once, of all owners.
const TRIALS_COUNT_MAX: usize = 16;
/// LIMIT: trials of one owner at once; the next is told to come back.
const TRIALS_OF_ONE_MAX: usize = 1;

/// What leaves the host. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Outward {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) parts: OutwardParts,
    /// Of batches on their way.
    pub(crate) places: Places,
    /// Of pages of feeds that are fetched and read.
    pub(crate) pages: Places,
    /// Of trials.
    trials: Places,
    pub(crate) stop: watch::Sender<bool>,
    running: Mutex<BTreeMap<Place, Running>>,
    /// Of each owner that has mail sent: the hour, by the steady clock, and the mails in it.
    mails: Mutex<BTreeMap<Scope, (u64, u32)>>,
    pub(crate) fetching: Mutex<BTreeMap<(Scope, String), Fetching>>,
    /// One change of destinations or feeds at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

/// The rooms that this one joins.
pub struct OutwardParts {
    /// Whose logs.
    pub tenants: Tenants,
    /// The logs.
    pub audit: Audit,
    /// Findings, and where intelligence goes.
    pub threat: Threat,
    /// The door.
    pub reach: Reach,
    /// The operator's mail server, if there is one.
    pub mailer: Option<Mailer>,
    /// How fast.
    pub pace: Pace,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Dice.
    pub entropy: Arc<dyn Entropy>,
}

type Place = (Scope, Carries, String);

struct Running {
    carrier: Arc<Carrier>,
    task: JoinHandle<()>,
}

/// A destination that was made.
pub struct Made {
    /// It.
    pub view: View,
    /// What its receiver checks signatures with, in the form of Standard Webhooks; shown this once.
    pub secret: Option<Secret<String>>,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// Whether it arrived.
    pub is_delivered: bool,
    /// Why not.
    pub why: Option<String>,
}

impl Outward {
    /// Opens nothing and carries nothing yet; see [`Outward::start`].
    pub fn new(parts: OutwardParts) -> Self {
        let inner = Inner {
            parts,
            places: Places::new(UNDER_WAY_COUNT_MAX, UNDER_WAY_OF_ONE_MAX),
            pages: Places::new(PAGES_COUNT_MAX, PAGES_OF_ONE_MAX),
            trials: Places::new(TRIALS_COUNT_MAX, TRIALS_OF_ONE_MAX),
            stop: watch::Sender::new(false),
            running: Mutex::default(),
            mails: Mutex::default(),
            fetching: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Goes on with what every owner has asked for. A tenant whose keys are disabled is opened when it can work again.
    pub async fn start(&self) -> Result<(), OutwardError> {
        let records = self.inner.parts.tenants.list().await?;
        let tenants = records.into_iter().map(|record| Scope::Tenant(record.id));
        for scope in std::iter::once(Scope::Host).chain(tenants) {
            self.open(&scope).await;
        }
        Ok(())
    }

    /// Goes on with what an owner has asked for, as far as it is not under way already.
    pub async fn open(&self, scope: &Scope) {
        let _one = self.inner.changing.lock().await;
        match self.load(scope).await {
            // Closed keys: whoever opens them calls this again.
            Ok(())
            | Err(OutwardError::NotFound | OutwardError::Store(StoreError::KeyDisabled | StoreError::KeyRefused)) => {}
            Err(error) => tracing::error!(owner = scope.log(), %error, "what an owner has carried out does not open"),
        }
    }

    /// Reads anew what an owner has asked for: its records were replaced.
    pub async fn read_anew(&self, scope: &Scope) {
        self.forget(scope);
        self.open(scope).await;
    }

    /// Lets go of an owner's destinations and feeds: it was deleted, or is read anew.
    pub fn forget(&self, scope: &Scope) {
        self.running().retain(|(owner, ..), running| {
            if owner == scope {
                running.task.abort();
            }
            owner != scope
        });
        self.inner.mails.lock().unwrap_or_else(PoisonError::into_inner).remove(scope);
        self.forget_feeds(scope);
    }

    /// An owner's destinations of a sort, by name.
    pub async fn list(&self, scope: &Scope, carries: Carries) -> Vec<View> {
        let found: Vec<Arc<Carrier>> = self
            .running()
            .iter()
            .filter(|((owner, sort, _), _)| owner == scope && *sort == carries)
            .map(|(_, running)| Arc::clone(&running.carrier))
            .collect();
        let mut views = Vec::with_capacity(found.len());
        for carrier in found {
            views.push(self.view(&carrier).await);
        }
        views
    }

    /// One of them.
    pub async fn read(&self, scope: &Scope, carries: Carries, name: &str) -> Result<View, OutwardError> {
        let carrier = self.carrier(scope, carries, name)?;
        Ok(self.view(&carrier).await)
    }

    /// Makes a destination; carried from now on. The caller writes the intent and the outcome.
    pub async fn create(
        &self,
        scope: &Scope,
        (carries, name): (Carries, ResourceName),
        by: &PrincipalId,
        wanted: Wanted,
    ) -> Result<Made, OutwardError> {
        let _one = self.inner.changing.lock().await;
        let parts = &self.inner.parts;
        let to = wanted.to(carries, &parts.reach, parts.mailer.as_ref())?;
        let place = (scope.clone(), carries, name.to_string());
        if self.running().contains_key(&place) {
            return Err(OutwardError::Exists);
        }
        if self.running().keys().filter(|(owner, ..)| owner == scope).count() >= DESTINATIONS_COUNT_MAX {
            return Err(OutwardError::TooMany { what: "destinations", count_max: DESTINATIONS_COUNT_MAX });
        }
        let (store, log) = self.place_of(scope)?;
        let (size, first) = (parts.audit.size(&log).await?, parts.audit.first(&log).await?);
        let destination = Destination {
            id: self.new_id("out_"),
            name,
            carries,
            sees: wanted.sees(most(scope))?,
            switch: Switch::On,
            paused: None,
            of: store.uid(),
            made_by: by.clone(),
            made_at: parts.clock.now(),
            to,
        };
        // What was deleted after its retention nobody can carry.
        let next_seq = wanted.from_seq.unwrap_or(size).max(first).min(size);
        let progress = Progress { next_seq, ..Progress::default() };
        let signing = matches!(destination.to, To::Webhook { .. }).then(|| self.new_secret());
        let secrets = Secrets { signing, authorization: wanted.authorization(&destination.to)? };
        let record = key(carries, destination.name.as_str());
        let mut ops =
            vec![Op::put_json(record.clone(), &destination)?, Op::put_json(progress_key(&destination.id), &progress)?];
        ops.extend(secret_ops(&destination.id, &secrets));
        store.batch(ops, vec![Precondition::Absent(record)]).await?;
        let secret = secrets.signing.as_ref().map(shown);
        let carrier = Arc::new(Carrier::new(scope.clone(), destination, secrets, progress));
        let view = self.view(&carrier).await;
        self.begin(place, carrier);
        Ok(Made { view, secret })
    }

    /// Changes where a destination is, or whether it is carried; one that was paused goes on where it stopped. The caller
    /// writes the intent and the outcome.
    pub async fn change(
        &self,
        scope: &Scope,
        (carries, name): (Carries, &str),
        change: WantedChange,
    ) -> Result<View, OutwardError> {
        let _one = self.inner.changing.lock().await;
        let parts = &self.inner.parts;
        let carrier = self.carrier(scope, carries, name)?;
        let (store, _) = self.place_of(scope)?;
        let mut destination = carrier.destination();
        let mut secrets = carrier.secrets();
        let mut ops = Vec::new();
        if let Some(wanted) = &change.to {
            let to = wanted.to(carries, &parts.reach, parts.mailer.as_ref())?;
            if to.word() != destination.to.word() {
                let what = "its kind stays; make another one for another kind".to_owned();
                return Err(OutwardError::BadDestination { what });
            }
            if wanted.sees.is_some() {
                destination.sees = wanted.sees(most(scope))?;
            }
            // What was given for one place is not shown to another.
            if to != destination.to || wanted.authorization.is_some() {
                secrets.authorization = wanted.authorization(&to)?;
                ops.push(match &secrets.authorization {
                    Some(value) => Op::put(authorization_key(&destination.id), value.expose().as_bytes()),
                    None => Op::delete(authorization_key(&destination.id)),
                });
            }
            destination.to = to;
        }
        destination.switch = change.switch.unwrap_or(destination.switch);
        destination.paused = None;
        destination.of = store.uid();
        ops.push(Op::put_json(key(carries, name), &destination)?);
        store.batch(ops, Vec::new()).await?;
        carrier.changed(destination, secrets);
        Ok(self.view(&carrier).await)
    }

    /// Makes a new secret for a webhook; the old one is over at once. Shown this once.
    pub async fn renew_secret(
        &self,
        scope: &Scope,
        carries: Carries,
        name: &str,
    ) -> Result<Secret<String>, OutwardError> {
        let _one = self.inner.changing.lock().await;
        let carrier = self.carrier(scope, carries, name)?;
        let (destination, mut secrets) = (carrier.destination(), carrier.secrets());
        if !matches!(destination.to, To::Webhook { .. }) {
            return Err(OutwardError::BadDestination { what: "only a webhook has a secret of its own".to_owned() });
        }
        let secret = self.new_secret();
        let (store, _) = self.place_of(scope)?;
        store.put(&signing_key(&destination.id), secret.expose().clone()).await?;
        let text = shown(&secret);
        secrets.signing = Some(secret);
        carrier.changed(destination, secrets);
        Ok(text)
    }

    /// Deletes a destination; nothing is carried to it any more when this returns. The caller writes the intent and the
    /// outcome.
    pub async fn delete(&self, scope: &Scope, carries: Carries, name: &str) -> Result<(), OutwardError> {
        let _one = self.inner.changing.lock().await;
        let carrier = self.carrier(scope, carries, name)?;
        let (store, _) = self.place_of(scope)?;
        let place = (scope.clone(), carries, name.to_owned());
        let running = self.running().remove(&place);
        if let Some(running) = running {
            running.task.abort();
            // Its last write is over before its records go.
            drop(running.task.await);
        }
        let id = carrier.destination().id;
        let keys = [key(carries, name), progress_key(&id), signing_key(&id), authorization_key(&id)];
        store.batch(keys.into_iter().map(Op::delete).collect(), Vec::new()).await?;
        Ok(())
    }

    /// Sends one made-up thing, and says what came of it. Nothing is moved on. The caller writes it down.
    pub async fn test(&self, scope: &Scope, carries: Carries, name: &str) -> Result<Tested, OutwardError> {
        let carrier = self.carrier(scope, carries, name)?;
        // Somebody waits for the answer, so not longer than for a receiver's.
        let turn = tokio::time::timeout(self.inner.parts.pace.answer, self.inner.trials.take_if_free(scope)).await;
        let Ok(Some(_trial)) = turn else { return Err(OutwardError::Busy) };
        if matches!(carrier.destination().to, To::Email { .. }) && !self.may_mail(scope) {
            return Err(OutwardError::Busy);
        }
        let parts = &self.inner.parts;
        let (_, log) = self.place_of(scope)?;
        let now = parts.clock.now();
        let event = json!({
            "test": true, "title": "A trial of this destination", "level": "informational", "at": now.to_string(),
        });
        let item = Item { seq: 0, time_ms: now.as_millisecond(), code: "test".to_owned(), severity: 1, event };
        let batch = Batch { log: parts.audit.origin(&log), next: 0, items: vec![item] };
        let mut destination = carrier.destination();
        // Its id must not be one that a real batch could have.
        destination.id = self.new_id("trial_");
        let means = Means { reach: &parts.reach, mailer: parts.mailer.as_ref(), now, wait: parts.pace.answer };
        Ok(match deliver(&means, &destination, &carrier.secrets(), &batch).await {
            Ok(_) => Tested { is_delivered: true, why: None },
            Err(failure) => Tested { is_delivered: false, why: Some(failure.why) },
        })
    }

    /// The end: nothing more is begun, and what is under way is waited for, so long at most.
    pub async fn drain(&self, most: Duration) {
        self.inner.stop.send_replace(true);
        let running = std::mem::take(&mut *self.running());
        let fetching = std::mem::take(&mut *self.fetching());
        let tasks = running.into_values().map(|running| running.task);
        let tasks: Vec<_> = tasks.chain(fetching.into_values().map(|fetching| fetching.task)).collect();
        let stopping: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        if tokio::time::timeout(most, futures::future::join_all(tasks)).await.is_err() {
            stopping.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }

    // === what the tasks need ===

    /// An owner's store and log.
    pub(crate) fn place_of(&self, scope: &Scope) -> Result<(TenantStore, Log), OutwardError> {
        let tenants = &self.inner.parts.tenants;
        match scope {
            Scope::Host => Ok((tenants.platform().clone(), Log::Host)),
            Scope::Tenant(tenant) => {
                let store = tenants.open_tenant(tenant).ok_or(OutwardError::NotFound)?;
                store.check_keys()?;
                Ok((store.clone(), Log::Tenant(store)))
            }
        }
    }

    /// Whether one more mail of an owner may go; counts it.
    pub(crate) fn may_mail(&self, scope: &Scope) -> bool {
        let hour = self.inner.parts.clock.monotonic().as_secs() / 3_600;
        let mut mails = self.inner.mails.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, count) = mails.entry(scope.clone()).or_insert((hour, 0));
        if *then != hour {
            (*then, *count) = (hour, 0);
        }
        *count = count.saturating_add(1);
        *count <= MAILS_PER_HOUR_MAX
    }

    pub(crate) fn new_id(&self, prefix: &str) -> String {
        let mut bytes = [0_u8; 16];
        self.inner.parts.entropy.fill(&mut bytes);
        format!("{prefix}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }

    pub(crate) fn jitter(&self) -> u16 {
        let mut bytes = [0_u8; 2];
        self.inner.parts.entropy.fill(&mut bytes);
        u16::from_be_bytes(bytes)
    }

    fn new_secret(&self) -> SecretBytes {
        let mut bytes = vec![0_u8; SHARED_SECRET_BYTES];
        self.inner.parts.entropy.fill(&mut bytes);
        SecretBytes::new(bytes)
    }

    async fn load(&self, scope: &Scope) -> Result<(), OutwardError> {
        if *self.inner.stop.borrow() {
            return Ok(());
        }
        let (store, _) = self.place_of(scope)?;
        // Most owners have nothing carried out, and a start asks all of them.
        if store.scan(&Key::new([AREA]), None, 1).await?.records.is_empty() {
            return Ok(());
        }
        for carries in Carries::ALL {
            let page = store.scan(&prefix(carries), None, DESTINATIONS_COUNT_MAX).await?;
            for (_, record) in page.records {
                let mut destination: Destination = record.json()?;
                if destination.of != store.uid() {
                    let why = "it came with a backup of another tenant; change it to go on".to_owned();
                    destination.paused = Some(Paused { at: self.inner.parts.clock.now(), why });
                }
                let place = (scope.clone(), carries, destination.name.to_string());
                if self.running().contains_key(&place) {
                    continue;
                }
                let progress = store.get_json(&progress_key(&destination.id)).await?.unwrap_or_default();
                let secrets = secrets_of(&store, &destination.id).await?;
                self.begin(place, Arc::new(Carrier::new(scope.clone(), destination, secrets, progress)));
            }
        }
        self.load_feeds(scope, &store).await
    }

    fn begin(&self, place: Place, carrier: Arc<Carrier>) {
        let task = tokio::spawn(crate::work::run(self.clone(), Arc::clone(&carrier)));
        self.running().insert(place, Running { carrier, task });
    }

    fn carrier(&self, scope: &Scope, carries: Carries, name: &str) -> Result<Arc<Carrier>, OutwardError> {
        let place = (scope.clone(), carries, name.to_owned());
        let found = self.running().get(&place).map(|running| Arc::clone(&running.carrier));
        found.ok_or(OutwardError::NotFound)
    }

    async fn view(&self, carrier: &Carrier) -> View {
        let progress = carrier.progress();
        let size = match self.place_of(&carrier.owner) {
            Ok((_, log)) => self.inner.parts.audit.size(&log).await.ok(),
            Err(_) => None,
        };
        let behind_count = size.map(|size| size.saturating_sub(progress.next_seq));
        View { destination: carrier.destination(), progress, behind_count }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Place, Running>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who sees all of an owner's log.
fn most(scope: &Scope) -> Role {
    match scope {
        Scope::Host => Role::Operator,
        Scope::Tenant(_) => Role::TenantAdmin,
    }
}

/// SECURITY: a webhook's secret in clear, for its owner's eyes, once.
fn shown(secret: &SecretBytes) -> Secret<String> {
    Secret::new(format!("{SECRET_PREFIX}{}", BASE64.encode(secret.expose())))
}

fn secret_ops(id: &str, secrets: &Secrets) -> Vec<Op> {
    let signing = secrets.signing.as_ref().map(|secret| Op::put(signing_key(id), secret.expose().as_slice()));
    let given = secrets.authorization.as_ref();
    let authorization = given.map(|value| Op::put(authorization_key(id), value.expose().as_bytes()));
    signing.into_iter().chain(authorization).collect()
}

async fn secrets_of(store: &TenantStore, id: &str) -> Result<Secrets, OutwardError> {
    let signing = store.get(&signing_key(id)).await?.map(|record| SecretBytes::new(record.value.to_vec()));
    let authorization = store.get(&authorization_key(id)).await?;
    let authorization = authorization.and_then(|record| String::from_utf8(record.value.to_vec()).ok());
    Ok(Secrets { signing, authorization: authorization.map(Secret::new) })
}
