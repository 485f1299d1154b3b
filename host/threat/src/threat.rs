//! The outside of this room: rules, settings, findings and responses of an owner, and what is in force of them.
//!
//! What is stored comes first, what is in force after it: a response that could not be kept does not hold (for keys see
//! `disabling.rs`). Must never show an owner what is another's: everything is asked for by [`Scope`], and a tenant's lies in
//! its own store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use ringfence_audit::{Audit, Event as AuditEvent, Log, Outcome, SecondPerson, codes};
use ringfence_core::standing::Standing;
use ringfence_core::{Clock, Entropy, PrincipalId, TenantId};
use ringfence_store::{Key, Locks, StoreError, TenantStore, Tenants};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::disabling::Lifted;
use crate::event::Event;
use crate::finding::Finding;
use crate::history::History;
use crate::response::{self, Asked, Blast, Kind, Response, Scope};
use crate::rules::{Edition, Written, written_key};
use crate::settings::Settings;
use crate::sigma::engine::{Hit, InForce, Memory, Pack};
use crate::watch::Reader;
use crate::{ThreatError, shipped, sigma};

/// LIMIT: texts of rules of one owner.
pub const TEXTS_COUNT_MAX: usize = 100;
/// LIMIT: events of a trace that rules are tried on.
pub const TRACE_COUNT_MAX: usize = 1_000;
/// LIMIT: findings that an alert's reader may be behind.
const ALERTS_COUNT_MAX: usize = 256;
/// Who owns the operators' rules.
pub const OPERATOR: &str = "operator";

/// Detection and response. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Threat {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) tenants: Tenants,
    pub(crate) audit: Audit,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) health: Health,
    pub(crate) alerts: broadcast::Sender<Arc<Finding>>,
    state: RwLock<State>,
    history: Mutex<History>,
    /// By the steady clock.
    pub(crate) opened: Duration,
    pub(crate) intelligence: crate::intelligence::Known,
    pub(crate) past: Mutex<crate::past::Past>,
    pub(crate) lifted: Lifted,
    pub(crate) clocks: crate::incidents::Clocks,
    /// One writing of indicators at a time of each owner.
    pub(crate) loading: Locks<Scope>,
    /// One step of an incident at a time of each owner.
    pub(crate) turns: Locks<Scope>,
    /// Packs that memory should let go of.
    forgotten: Mutex<Vec<(String, String)>>,
    /// One change of rules, settings or responses at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(crate) struct State {
    rules: Arc<InForce>,
    pub(crate) texts: HashMap<Scope, BTreeMap<String, String>>,
    /// Every text that is kept, the oldest first.
    pub(crate) written: HashMap<Scope, Vec<Written>>,
    settings: HashMap<Scope, Arc<Settings>>,
    /// Of whom all of these were read.
    read: BTreeSet<Scope>,
    pub(crate) responses: BTreeMap<String, Response>,
    /// Labels of drills that are under way.
    drills: Vec<String>,
}

/// How the detector is.
#[derive(Debug, Default)]
pub struct Health {
    pub(crate) backlog_count: AtomicU64,
    pub(crate) behind_ms: AtomicU64,
    pub(crate) ticked_ms: AtomicU64,
    pub(crate) evaluated_count: AtomicU64,
    pub(crate) missed_count: AtomicU64,
    pub(crate) skipped_count: AtomicU64,
    pub(crate) findings_count: AtomicU64,
    pub(crate) counted_only_count: AtomicU64,
}

/// How the detector is, for monitoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthView {
    /// Entries that wait to be looked at.
    pub backlog_count: u64,
    /// How far behind it is, milliseconds. Rises when it stands still.
    pub backlog_age_ms: u64,
    /// Entries looked at since the start.
    pub evaluated_count: u64,
    /// Entries that the feed lost and the log was asked for.
    pub missed_count: u64,
    /// Entries that were not looked at and never will be: damaged, or too many were missed at once.
    pub skipped_count: u64,
    /// Findings made since the start.
    pub findings_count: u64,
    /// Findings that were only counted, for there were too many.
    pub counted_only_count: u64,
}

/// How far it may be behind before what it found says nothing of now, in milliseconds.
const BEHIND_MS_MAX: u64 = 10_000;

impl HealthView {
    /// Whether it keeps up, so that what it did not find was looked for.
    pub const fn keeps_up(&self) -> bool {
        self.backlog_age_ms <= BEHIND_MS_MAX
    }
}

/// A text of rules, as its owner sees it.
#[derive(Debug, Clone)]
pub struct RuleText {
    /// Who owns it.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// The text.
    pub text: String,
    /// The rules in it.
    pub pack: Arc<Pack>,
}

impl Threat {
    /// Reads what is kept and puts it into force, and begins to read along. Must be called before the first request is
    /// taken. Nothing that is recorded from here on is lost, whenever the reader is run.
    pub async fn open(
        tenants: Tenants,
        audit: Audit,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        standing: Arc<Standing>,
    ) -> Result<(Self, Reader), ThreatError> {
        // Subscribed before anything is read, so that nothing falls between the logs and the feed.
        let feed = audit.feed();
        let mut rules = InForce::default();
        for pack in shipped::packs()? {
            rules.everywhere.insert((pack.owner.clone(), pack.name.clone()), pack);
        }
        let state = State { rules: Arc::new(rules), ..State::default() };
        let opened = clock.monotonic();
        let inner = Inner {
            opened,
            tenants,
            audit,
            clock,
            entropy,
            standing,
            health: Health::default(),
            alerts: broadcast::channel(ALERTS_COUNT_MAX).0,
            state: RwLock::new(state),
            history: Mutex::default(),
            intelligence: RwLock::default(),
            past: Mutex::default(),
            lifted: Lifted::default(),
            clocks: crate::incidents::Clocks::default(),
            loading: Locks::default(),
            turns: Locks::default(),
            forgotten: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
        };
        let threat = Self { inner: Arc::new(inner) };
        let mut scopes = vec![Scope::Host];
        scopes.extend(threat.inner.tenants.list().await?.into_iter().map(|record| Scope::Tenant(record.id)));
        for scope in scopes {
            match threat.load(&scope).await {
                // A tenant whose keys are disabled has nothing running that a rule could be about.
                Ok(())
                | Err(ThreatError::Store(StoreError::KeyDisabled | StoreError::KeyRefused | StoreError::Gone))
                | Err(ThreatError::NotFound) => {}
                Err(ThreatError::Store(error)) => match &scope {
                    Scope::Tenant(id) if threat.inner.tenants.shut_damaged(id, &error) => {}
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error),
            }
        }
        let platform = threat.inner.tenants.platform();
        // SECURITY: every one of them: what is not read here would not hold any more.
        let responses: Vec<Response> = all(platform, &Key::new(["threat-response"]), usize::MAX).await?;
        for response in responses {
            let response = threat.completed(response).await?;
            threat.state_mut().responses.insert(response.id.clone(), response);
        }
        threat.publish();
        let reader = Reader::open(threat.clone(), feed).await;
        Ok((threat, reader))
    }

    /// The table that admission reads.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.inner.standing
    }

    /// Findings as they are made, for those who tell people. A slow reader misses some.
    pub fn alerts(&self) -> broadcast::Receiver<Arc<Finding>> {
        self.inner.alerts.subscribe()
    }

    /// How the detector is.
    pub fn health(&self) -> HealthView {
        let health = &self.inner.health;
        let now = u64::try_from(self.inner.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let idle = now.saturating_sub(health.ticked_ms.load(Ordering::Relaxed));
        // Within one tick it is not standing still.
        let stalled = if idle > 2 * crate::watch::TICK_MS { idle } else { 0 };
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        HealthView {
            backlog_count: load(&health.backlog_count),
            backlog_age_ms: load(&health.behind_ms).max(stalled),
            evaluated_count: load(&health.evaluated_count),
            missed_count: load(&health.missed_count),
            skipped_count: load(&health.skipped_count),
            findings_count: load(&health.findings_count),
            counted_only_count: load(&health.counted_only_count),
        }
    }

    // === rules ===

    /// The texts of rules that apply to an owner: those that come with the host, the operators', and its own.
    pub fn rules(&self, scope: &Scope) -> Vec<RuleText> {
        let state = self.state();
        let mut found: Vec<RuleText> = shipped::TEXTS
            .iter()
            .filter_map(|(name, text)| state.text(shipped::OWNER, name, text, &Scope::Host))
            .collect();
        for (owner, whose) in [(OPERATOR.to_owned(), Scope::Host), (scope.log().to_owned(), scope.clone())] {
            let texts = state.texts.get(&whose).into_iter().flatten();
            if whose == Scope::Host && owner != OPERATOR {
                continue;
            }
            found.extend(texts.filter_map(|(name, text)| state.text(&owner, name, text, &whose)));
        }
        found
    }

    /// Tries a text on a trace of event bodies, without keeping anything: for each event the rules that hold at it.
    pub fn try_rules(&self, text: &str, trace: Vec<Value>) -> Result<Vec<Vec<String>>, ThreatError> {
        let rules = sigma::parse(text).map_err(|what| ThreatError::BadRule { what })?;
        if trace.len() > TRACE_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "events of a trace", count_max: TRACE_COUNT_MAX });
        }
        let names: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
        let edition = Edition::of(0, text);
        let packs = [Arc::new(Pack { owner: String::new(), name: String::new(), edition, rules })];
        let mut memory = Memory::default();
        let held = trace.into_iter().zip(0_u64..).map(|(body, seq)| {
            let time_ms = body.get("time").and_then(Value::as_i64).unwrap_or(0);
            let event = Event { log: String::new(), seq, time_ms, body };
            let hits: Vec<Hit> = memory.take(&packs, &event);
            hits.iter().filter_map(|hit| names.get(hit.rule).cloned()).collect()
        });
        Ok(held.collect())
    }

    // === settings ===

    /// An owner's settings.
    pub fn settings(&self, scope: &Scope) -> Arc<Settings> {
        self.state().settings.get(scope).cloned().unwrap_or_else(|| Arc::new(Settings::unset()))
    }

    /// Writes an owner's settings; in force for the next event.
    pub async fn put_settings(&self, scope: &Scope, settings: Settings) -> Result<(), ThreatError> {
        settings.check()?;
        if *scope == Scope::Host && settings.data_loss != Settings::unset().data_loss {
            let what = "`data_loss` is each tenant's own: the host has no plugins".to_owned();
            return Err(ThreatError::BadSettings { what });
        }
        let _one = self.inner.changing.lock().await;
        self.store(scope)?.put_json(&settings_key(), &settings).await?;
        self.state_mut().settings.insert(scope.clone(), Arc::new(settings));
        self.publish();
        Ok(())
    }

    // === findings ===

    /// An owner's findings, newest first.
    pub async fn findings(&self, scope: &Scope) -> Result<Vec<Finding>, ThreatError> {
        let mut found: Vec<Finding> =
            all(&self.store(scope)?, &finding_prefix(), 2 * crate::finding::KEPT_COUNT_MAX).await?;
        found.sort_by(|a, b| (b.found_ms, &b.id).cmp(&(a.found_ms, &a.id)));
        Ok(found)
    }

    /// One finding of an owner.
    pub async fn finding(&self, scope: &Scope, id: &str) -> Result<Finding, ThreatError> {
        self.store(scope)?.get_json(&finding_key(id)).await?.ok_or(ThreatError::NotFound)
    }

    // === responses ===

    /// An owner's responses, newest first, those that are over too.
    pub fn responses(&self, scope: &Scope) -> Vec<Response> {
        let mut own: Vec<Response> =
            self.state().responses.values().filter(|response| response.scope == *scope).cloned().collect();
        own.sort_by(|a, b| (b.made_at, &b.id).cmp(&(a.made_at, &a.id)));
        own
    }

    /// Makes a response. Kept before it holds; holds from the next request on, but what takes two people only waits for the
    /// second: [`Threat::approve`]. The caller writes the intent and the outcome.
    pub async fn respond(
        &self,
        scope: &Scope,
        by: &PrincipalId,
        asked: Asked,
    ) -> Result<(Response, Blast), ThreatError> {
        self.respond_as(self.new_response_id(), scope, by, asked).await
    }

    /// As [`Threat::respond`], under an id of [`Threat::new_response_id`] that is written down already: on the log, in an
    /// incident.
    pub async fn respond_as(
        &self,
        id: String,
        scope: &Scope,
        by: &PrincipalId,
        asked: Asked,
    ) -> Result<(Response, Blast), ThreatError> {
        let _one = self.inner.changing.lock().await;
        let (asked, blast) = self.preview(scope, by, asked)?;
        let response = Response::new(id, scope.clone(), asked, by.clone(), self.inner.clock.now())?;
        if response.kind == Kind::DisableKey {
            self.check_key_enabled(&response).await?;
        }
        self.keep(&response).await?;
        self.state_mut().responses.insert(response.id.clone(), response.clone());
        self.publish();
        self.prune(scope).await;
        Ok((response, blast))
    }

    /// The id of a response that is still to be made.
    pub fn new_response_id(&self) -> String {
        self.new_id("rs_")
    }

    /// Agrees to a response that another asked for: it holds from the next request on. The caller writes the intent and the
    /// outcome.
    pub async fn approve(
        &self,
        scope: &Scope,
        by: &PrincipalId,
        id: &str,
        are_two: &SecondPerson<'_>,
    ) -> Result<Response, ThreatError> {
        let _one = self.inner.changing.lock().await;
        let waiting = self.waiting(scope, by, id, are_two)?;
        let response = waiting.approved(by.clone(), self.inner.clock.now())?;
        // Keys first, and in the response's name: by that a start finds what a kill before the next line cut.
        self.disable_for(&response, by).await?;
        if let Err(error) = self.keep(&response).await {
            self.lift(&response).await?;
            return Err(error);
        }
        self.state_mut().responses.insert(response.id.clone(), response.clone());
        self.publish();
        Ok(response)
    }

    /// A response of an owner that waits for this person's word; refused to whoever asked, by whatever key.
    pub(crate) fn waiting(
        &self,
        scope: &Scope,
        by: &PrincipalId,
        id: &str,
        are_two: &SecondPerson<'_>,
    ) -> Result<Response, ThreatError> {
        let now = self.inner.clock.now();
        let found = self.response(scope, id)?;
        if found.scope != *scope || !found.is_waiting(now) {
            return Err(ThreatError::NotFound);
        }
        if found.by == *by || !are_two(&found.by, by) {
            return Err(ThreatError::SecondPerson);
        }
        Ok(found)
    }

    /// Takes a response back, or withdraws one that waits. The caller writes the intent and the outcome.
    pub async fn undo(&self, scope: &Scope, by: &PrincipalId, id: &str) -> Result<Response, ThreatError> {
        let _one = self.inner.changing.lock().await;
        let mut response = self.response(scope, id)?;
        let now = self.inner.clock.now();
        if !response.is_in_force(now) && !response.is_waiting(now) {
            return Err(ThreatError::Over { how: response.how_it_ended(scope) });
        }
        response.undone = Some((now, by.clone()));
        self.lift(&response).await?;
        response.ended = true;
        self.keep(&response).await?;
        self.state_mut().responses.insert(response.id.clone(), response.clone());
        self.publish();
        self.prune(&response.scope).await;
        Ok(response)
    }

    /// One response of an owner; operators reach everybody's, since a tenant whose keys are disabled cannot act.
    pub fn response(&self, scope: &Scope, id: &str) -> Result<Response, ThreatError> {
        let may = |response: &&Response| *scope == Scope::Host || response.scope == *scope;
        let found = self.state().responses.get(id).filter(may).cloned();
        found.ok_or(ThreatError::NotFound)
    }

    /// Whether a tenant's rules, settings and indicators were read, so that what is in force is what is kept.
    pub fn has_read(&self, tenant: &TenantId) -> bool {
        self.state().read.contains(&Scope::Tenant(tenant.clone()))
    }

    /// Reads an owner's rules, settings and indicators anew: its records were replaced, or could not be read before. In force
    /// for the next event; what was held stays held. Its rules count from nothing again, and when it fails none of them is in
    /// force.
    pub async fn reload(&self, tenant: &TenantId) -> Result<(), ThreatError> {
        let _one = self.inner.changing.lock().await;
        let scope = Scope::Tenant(tenant.clone());
        let names: Vec<String> =
            self.state().texts.get(&scope).into_iter().flatten().map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.state_mut().remove(&scope, name);
            self.forget_pack(&owner_of(&scope), name);
        }
        self.state_mut().settings.remove(&scope);
        self.state_mut().written.remove(&scope);
        self.state_mut().read.remove(&scope);
        self.forget_indicators(&scope);
        let loaded = self.load(&scope).await;
        self.publish();
        loaded
    }

    /// Lets go of a deleted tenant: its rules, settings and responses, and how far its log was read.
    pub async fn forget(&self, tenant: &TenantId) {
        let _one = self.inner.changing.lock().await;
        let scope = Scope::Tenant(tenant.clone());
        let logs = self.log_ids().await;
        self.inner.standing.forget(tenant);
        let gone: Vec<String> = {
            let mut state = self.state_mut();
            state.texts.remove(&scope);
            state.written.remove(&scope);
            state.settings.remove(&scope);
            state.read.remove(&scope);
            self.forget_indicators(&scope);
            self.forget_seen_before(&scope);
            logs.iter().for_each(|there| self.forget_counted(there));
            self.forget_clocks(&scope);
            Arc::make_mut(&mut state.rules).own.remove(tenant.as_str());
            let of = |response: &Response| response.scope == scope || response.target.tenant.as_ref() == Some(tenant);
            let gone =
                state.responses.values().filter(|response| of(response)).map(|response| response.id.clone()).collect();
            state.responses.retain(|_, response| !of(response));
            gone
        };
        let mut keys: Vec<Key> = gone.iter().map(|id| response_key(id)).collect();
        keys.push(crate::watch::place_key(tenant.as_str()));
        for key in keys {
            if let Err(error) = self.inner.tenants.platform().delete(&key).await {
                tracing::warn!(%error, "something about a deleted tenant is still kept");
            }
        }
        self.publish();
    }

    /// Ends what has come to its end. Returns what ended now.
    pub(crate) async fn end_due(&self) -> Vec<Response> {
        if self.due().is_empty() {
            return Vec::new();
        }
        let _one = self.inner.changing.lock().await;
        // Anew: whoever had the lock may have agreed to one of them, undone it, or let go of its tenant.
        let found = self.due();
        let scopes: BTreeSet<Scope> = found.iter().map(|response| response.scope.clone()).collect();
        let mut over = Vec::new();
        for mut response in found {
            if let Err(error) = self.lift(&response).await {
                tracing::warn!(response = %response.id, %error, "a response cannot be ended now; it is tried again");
                continue;
            }
            response.ended = true;
            if let Err(error) = self.keep(&response).await {
                tracing::warn!(response = %response.id, %error, "the end of a response cannot be kept now; it is tried again");
                continue;
            }
            self.state_mut().responses.insert(response.id.clone(), response.clone());
            // What nobody agreed to never held anything.
            if response.waits_minutes.is_none() {
                self.note_lifted(&response);
                over.push(response);
            }
        }
        self.publish();
        for scope in &scopes {
            self.prune(scope).await;
        }
        over
    }

    /// What has come to its end, and was not ended yet.
    fn due(&self) -> Vec<Response> {
        let now = self.inner.clock.now();
        let due = |response: &&Response| !response.ended && !response.is_in_force(now) && !response.is_waiting(now);
        self.state().responses.values().filter(due).cloned().collect()
    }

    /// Makes the response of a rule by itself, between an intent and an outcome of its own; never one that takes two people,
    /// for one alone can write a rule, nor one against an address while it is not known who is behind it.
    pub(crate) async fn answer_by_itself(&self, scope: &Scope, asked: Asked) -> Result<Response, ThreatError> {
        if asked.takes_two(scope) {
            return Err(ThreatError::SecondPerson);
        }
        // A drill's address is nobody's.
        if asked.kind == Kind::BlockSource && asked.drill.is_none() && !self.knows_people(scope) {
            let what = "so soon after the start it is not known who else is behind this address".to_owned();
            return Err(ThreatError::TooWide { what });
        }
        let by = self.inner.audit.actor();
        let log = match scope {
            Scope::Tenant(tenant) => Log::Tenant(self.store_of(tenant)?),
            Scope::Host => Log::Host,
        };
        let mut event = AuditEvent::new(codes::RESPONSE_MADE, "respond-threat", by.clone(), scope.log());
        event.details = json!({
            "kind": asked.kind.word(), "target": asked.target, "minutes": asked.minutes, "reason": asked.reason, "finding": asked.finding,
        });
        let intent = self.inner.audit.intent(&log, event).await?;
        let made = self.respond(scope, &by, asked).await;
        let outcome = match &made {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure(cut(&error.to_string())),
        };
        if let Err(error) = intent.outcome(outcome, Value::Null).await {
            tracing::error!(%error, "the outcome of a response could not be written to the audit log");
        }
        made.map(|(response, _)| response)
    }

    /// What is held for a drill.
    pub(crate) fn of_drill(&self, label: &str) -> Vec<Response> {
        let now = self.inner.clock.now();
        let state = self.state();
        let of = |response: &&Response| response.is_in_force(now) && response.drill.as_deref() == Some(label);
        state.responses.values().filter(of).cloned().collect()
    }

    // === what the reader needs ===

    pub(crate) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.state().rules)
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.inner.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_forgotten(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.inner.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_drill(&self, label: &str) -> bool {
        self.state().drills.iter().any(|known| known == label)
    }

    pub(crate) fn drills(&self) -> Vec<String> {
        self.state().drills.clone()
    }

    pub(crate) fn set_drill(&self, label: &str) {
        self.state_mut().drills.push(label.to_owned());
    }

    pub(crate) fn clear_drill(&self, label: &str) {
        self.state_mut().drills.retain(|known| known != label);
    }

    /// An owner's store; a tenant that is gone is nothing.
    pub(crate) fn store(&self, scope: &Scope) -> Result<TenantStore, ThreatError> {
        match scope {
            Scope::Host => Ok(self.inner.tenants.platform().clone()),
            Scope::Tenant(tenant) => self.store_of(tenant),
        }
    }

    pub(crate) fn new_id(&self, prefix: &str) -> String {
        let mut bytes = [0_u8; 16];
        self.inner.entropy.fill(&mut bytes);
        format!("{prefix}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }

    fn store_of(&self, tenant: &TenantId) -> Result<TenantStore, ThreatError> {
        self.inner.tenants.open_tenant(tenant).ok_or(ThreatError::NotFound)
    }

    async fn load(&self, scope: &Scope) -> Result<(), ThreatError> {
        let store = self.store(scope)?;
        if let Some(settings) = store.get_json::<Settings>(&settings_key()).await? {
            self.state_mut().settings.insert(scope.clone(), Arc::new(settings));
        }
        self.load_indicators(scope).await?;
        self.load_clocks(scope).await?;
        let written: Vec<Written> = store.get_json(&written_key()).await?.unwrap_or_default();
        self.state_mut().written.insert(scope.clone(), written.clone());
        let page = store.scan(&Key::new(["threat-rule"]), None, TEXTS_COUNT_MAX).await?;
        for (key, record) in page.records {
            let (Some(name), text) = (key.last_name().map(ToOwned::to_owned), record.json::<String>()?) else {
                continue;
            };
            match sigma::parse(&text) {
                Ok(rules) => {
                    // A text of before there were versions is the first.
                    let newest = written.iter().rev().find(|one| one.name == name).map(|one| one.edition);
                    let edition = newest.unwrap_or_else(|| Edition::of(1, &text));
                    let pack = Arc::new(Pack { owner: owner_of(scope), name: name.clone(), edition, rules });
                    self.state_mut().put(scope, &name, &text, pack);
                }
                // Written by an earlier version of this program that could follow it.
                Err(what) => tracing::error!(rule = %name, %what, "a rule that is kept cannot be followed any more"),
            }
        }
        self.state_mut().read.insert(scope.clone());
        Ok(())
    }

    fn publish(&self) {
        let state = self.state();
        let mut table = response::table(state.responses.values(), self.inner.clock.now());
        for (scope, settings) in &state.settings {
            let Scope::Tenant(tenant) = scope else { continue };
            if !settings.canaries.is_empty() {
                let names = settings.canaries.iter().map(ToString::to_string).collect();
                table.canaries.insert(tenant.clone(), Arc::new(names));
            }
            table.losses.insert(tenant.clone(), Arc::new(settings.data_loss.clone()));
        }
        self.inner.standing.publish(table);
    }

    pub(crate) async fn keep(&self, response: &Response) -> Result<(), ThreatError> {
        self.inner.tenants.platform().put_json(&response_key(&response.id), response).await?;
        Ok(())
    }

    /// Lets the oldest of an owner go that are over, so that nobody's fill the store or drive out another's.
    async fn prune(&self, scope: &Scope) {
        let mut over: Vec<(Timestamp, String)> = Vec::new();
        for response in self.state().responses.values() {
            if response.ended && response.scope == *scope {
                let over_at = response.undone.as_ref().map_or(response.until, |(at, _)| *at);
                over.push((over_at, response.id.clone()));
            }
        }
        over.sort();
        over.truncate(over.len().saturating_sub(response::OVER_COUNT_MAX));
        for (_, id) in over {
            if self.inner.tenants.platform().delete(&response_key(&id)).await.is_ok() {
                self.state_mut().responses.remove(&id);
            }
        }
    }

    pub(crate) fn forget_pack(&self, owner: &str, name: &str) {
        let mut forgotten = self.inner.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        forgotten.push((owner.to_owned(), name.to_owned()));
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.inner.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn text(&self, owner: &str, name: &str, text: &str, whose: &Scope) -> Option<RuleText> {
        let pack = match whose {
            Scope::Host => self.rules.everywhere.get(&(owner.to_owned(), name.to_owned()))?,
            Scope::Tenant(tenant) => self.rules.own.get(tenant.as_str())?.get(name)?,
        };
        Some(RuleText { owner: owner.to_owned(), name: name.to_owned(), text: text.to_owned(), pack: Arc::clone(pack) })
    }

    /// The pack in force of a name of an owner's own.
    pub(crate) fn pack(&self, scope: &Scope, name: &str) -> Option<&Arc<Pack>> {
        match scope {
            Scope::Host => self.rules.everywhere.get(&(OPERATOR.to_owned(), name.to_owned())),
            Scope::Tenant(tenant) => self.rules.own.get(tenant.as_str())?.get(name),
        }
    }

    pub(crate) fn put(&mut self, scope: &Scope, name: &str, text: &str, pack: Arc<Pack>) {
        let rules = Arc::make_mut(&mut self.rules);
        match scope {
            Scope::Host => drop(rules.everywhere.insert((OPERATOR.to_owned(), name.to_owned()), pack)),
            Scope::Tenant(tenant) => {
                rules.own.entry(tenant.to_string()).or_default().insert(name.to_owned(), pack);
            }
        }
        self.texts.entry(scope.clone()).or_default().insert(name.to_owned(), text.to_owned());
    }

    pub(crate) fn remove(&mut self, scope: &Scope, name: &str) {
        let rules = Arc::make_mut(&mut self.rules);
        match scope {
            Scope::Host => drop(rules.everywhere.remove(&(OPERATOR.to_owned(), name.to_owned()))),
            Scope::Tenant(tenant) => {
                rules.own.get_mut(tenant.as_str()).and_then(|own| own.remove(name));
            }
        }
        self.texts.get_mut(scope).and_then(|texts| texts.remove(name));
    }
}

/// Every record under a prefix, read as JSON, within a bound.
pub(crate) async fn all<T: DeserializeOwned>(
    store: &TenantStore,
    prefix: &Key,
    count_max: usize,
) -> Result<Vec<T>, ThreatError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(prefix, after.as_ref(), ringfence_core::limits::PAGE_COUNT_MAX).await?;
        for (_, record) in &page.records {
            found.push(record.json()?);
        }
        match page.next {
            Some(next) if found.len() < count_max => after = Some(next),
            _ => return Ok(found),
        }
    }
}

/// Keeps a value of an owner.
pub(crate) async fn put<T: Serialize>(store: &TenantStore, key: &Key, value: &T) -> Result<(), ThreatError> {
    store.put_json(key, value).await?;
    Ok(())
}

pub(crate) fn finding_prefix() -> Key {
    Key::new(["threat-finding"])
}

pub(crate) fn finding_key(id: &str) -> Key {
    Key::new(["threat-finding", id])
}

pub(crate) fn owner_of(scope: &Scope) -> String {
    match scope {
        Scope::Host => OPERATOR.to_owned(),
        Scope::Tenant(tenant) => tenant.to_string(),
    }
}

fn settings_key() -> Key {
    Key::new(["threat-settings"])
}

fn response_key(id: &str) -> Key {
    Key::new(["threat-response", id])
}

fn cut(text: &str) -> String {
    ringfence_audit::envelope::cut(text, 200)
}
