//! The task of one feed: asks it, takes in what is new, writes down how far it is.
//!
//! What comes is in force before the place moves on. Must never take in anything that the log has no intent for, nor let a
//! feed that fails be asked faster for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use ringfence_audit::{Event, Log, Outcome, codes};
use ringfence_core::{PrincipalId, ResourceName};
use ringfence_keys::Secret;
use ringfence_store::{Op, StoreError, TenantStore};
use ringfence_threat::{Loaded, Scope};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::feed::{FEEDS_COUNT_MAX, Feed, FeedState, FeedView, WantedFeed, authorization_key, key, prefix, state_key};
use crate::taxii::{Page, Poll};
use crate::{Outward, OutwardError};

/// LIMIT: one poll, all pages together.
const POLL_WAIT: Duration = Duration::from_secs(120);
/// Between two looks at an owner whose keys are disabled.
const IDLE: Duration = Duration::from_secs(60);
/// A feed that fails is asked less and less often, down to once in so many of its intervals.
const SLOWEST_COUNT: u32 = 16;

/// One feed that is asked.
pub(crate) struct Fetching {
    fetcher: Arc<Fetcher>,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) struct Fetcher {
    owner: Scope,
    feed: Feed,
    authorization: Option<Secret<String>>,
    state: Mutex<FeedState>,
    /// One poll at a time.
    polling: tokio::sync::Mutex<()>,
    /// One person at a time who asks for a poll and waits for it.
    asked: tokio::sync::Mutex<()>,
}

impl Fetcher {
    fn state(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outward {
    /// An owner's feeds, by name.
    pub fn feeds(&self, scope: &Scope) -> Vec<FeedView> {
        let now = self.inner.parts.clock.now();
        let fetching = self.fetching();
        let own = fetching.iter().filter(|((owner, _), _)| owner == scope);
        own.map(|(_, fetching)| view(&fetching.fetcher, now)).collect()
    }

    /// Writes a feed; asked at once, from the beginning when its place is another. Before that it is believed as far as was
    /// asked, with what came of it before. The caller writes the intent and the
    /// outcome.
    pub async fn put_feed(
        &self,
        scope: &Scope,
        name: ResourceName,
        by: &PrincipalId,
        wanted: WantedFeed,
    ) -> Result<FeedView, OutwardError> {
        let _one = self.inner.changing.lock().await;
        let parts = &self.inner.parts;
        let feed = wanted.feed(name, by.clone(), parts.clock.now(), &parts.reach)?;
        let place = (scope.clone(), feed.name.to_string());
        let before = self.fetching().get(&place).map(|fetching| Arc::clone(&fetching.fetcher));
        let count = self.fetching().keys().filter(|(owner, _)| owner == scope).count();
        if before.is_none() && count >= FEEDS_COUNT_MAX {
            return Err(OutwardError::TooMany { what: "feeds", count_max: FEEDS_COUNT_MAX });
        }
        let (store, _) = self.place_of(scope)?;
        self.stop_feed(&place).await;
        let is_same = |other: &Fetcher| other.feed.url == feed.url && other.feed.collection == feed.collection;
        let state = before.filter(|before| is_same(before)).map(|before| before.state().clone()).unwrap_or_default();
        let name = feed.name.as_str();
        let authorization = match &wanted.authorization {
            Some(value) => Op::put(authorization_key(name), value.expose().as_bytes()),
            None => Op::delete(authorization_key(name)),
        };
        let ops = vec![Op::put_json(key(name), &feed)?, Op::put_json(state_key(name), &state)?, authorization];
        store.batch(ops, Vec::new()).await?;
        let fetcher = self.begin_feed(scope.clone(), feed, wanted.authorization, state);
        Ok(view(&fetcher, parts.clock.now()))
    }

    /// Deletes a feed; what came with it stays until it is over or taken back. The caller writes the intent and the
    /// outcome.
    pub async fn delete_feed(&self, scope: &Scope, name: &str) -> Result<(), OutwardError> {
        let _one = self.inner.changing.lock().await;
        let place = (scope.clone(), name.to_owned());
        if !self.fetching().contains_key(&place) {
            return Err(OutwardError::NotFound);
        }
        let (store, _) = self.place_of(scope)?;
        self.stop_feed(&place).await;
        let keys = [key(name), state_key(name), authorization_key(name)];
        store.batch(keys.into_iter().map(Op::delete).collect(), Vec::new()).await?;
        Ok(())
    }

    /// Asks a feed now, instead of when it is due.
    pub async fn poll_feed(&self, scope: &Scope, name: &str) -> Result<FeedView, OutwardError> {
        let place = (scope.clone(), name.to_owned());
        let found = self.fetching().get(&place).map(|fetching| Arc::clone(&fetching.fetcher));
        let fetcher = found.ok_or(OutwardError::NotFound)?;
        let Ok(_asked) = fetcher.asked.try_lock() else { return Err(OutwardError::Busy) };
        self.poll(&fetcher).await;
        Ok(view(&fetcher, self.inner.parts.clock.now()))
    }

    pub(crate) async fn load_feeds(&self, scope: &Scope, store: &TenantStore) -> Result<(), OutwardError> {
        let page = store.scan(&prefix(), None, FEEDS_COUNT_MAX).await?;
        for (_, record) in page.records {
            let feed: Feed = record.json()?;
            if self.fetching().contains_key(&(scope.clone(), feed.name.to_string())) {
                continue;
            }
            let state = store.get_json(&state_key(feed.name.as_str())).await?.unwrap_or_default();
            let kept = store.get(&authorization_key(feed.name.as_str())).await?;
            let authorization = kept.and_then(|record| String::from_utf8(record.value.to_vec()).ok());
            self.begin_feed(scope.clone(), feed, authorization.map(Secret::new), state);
        }
        Ok(())
    }

    pub(crate) fn forget_feeds(&self, scope: &Scope) {
        self.fetching().retain(|(owner, _), fetching| {
            if owner == scope {
                fetching.task.abort();
            }
            owner != scope
        });
    }

    pub(crate) fn fetching(&self) -> MutexGuard<'_, std::collections::BTreeMap<(Scope, String), Fetching>> {
        self.inner.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stop_feed(&self, place: &(Scope, String)) {
        let stopped = self.fetching().remove(place);
        if let Some(fetching) = stopped {
            fetching.task.abort();
            drop(fetching.task.await);
        }
    }

    fn begin_feed(
        &self,
        owner: Scope,
        feed: Feed,
        authorization: Option<Secret<String>>,
        state: FeedState,
    ) -> Arc<Fetcher> {
        let place = (owner.clone(), feed.name.to_string());
        let fetcher = Arc::new(Fetcher {
            owner,
            feed,
            authorization,
            state: Mutex::new(state),
            polling: tokio::sync::Mutex::default(),
            asked: tokio::sync::Mutex::default(),
        });
        let task = tokio::spawn(self.clone().ask_on(Arc::clone(&fetcher)));
        self.fetching().insert(place, Fetching { fetcher: Arc::clone(&fetcher), task });
        fetcher
    }

    /// Asks a feed when it is due, until the end.
    async fn ask_on(self, fetcher: Arc<Fetcher>) {
        let mut stop = self.inner.stop.subscribe();
        loop {
            if *stop.borrow() {
                return;
            }
            let wait = match self.place_of(&fetcher.owner) {
                Ok(_) => {
                    self.poll(&fetcher).await;
                    self.wait(&fetcher)
                }
                Err(OutwardError::NotFound | OutwardError::Store(StoreError::Gone)) => return,
                Err(_) => IDLE,
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stopping| *stopping) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Until it is due: its interval, more of them after failures, and up to a tenth more at random.
    fn wait(&self, fetcher: &Fetcher) -> Duration {
        let failures = fetcher.state().failures;
        let times = 1_u32.checked_shl(failures).unwrap_or(SLOWEST_COUNT).clamp(1, SLOWEST_COUNT);
        let wait = Duration::from_secs(u64::from(fetcher.feed.every_seconds)).saturating_mul(times);
        wait.saturating_add(wait.saturating_mul(u32::from(self.jitter())) / (10 * u32::from(u16::MAX)))
    }

    /// Asks once, and writes down what came of it.
    async fn poll(&self, fetcher: &Fetcher) {
        let _one = fetcher.polling.lock().await;
        let parts = &self.inner.parts;
        let polled = tokio::time::timeout(POLL_WAIT, self.pages(fetcher)).await;
        let polled = polled.unwrap_or_else(|_| Err("it does not come to an end in time".to_owned()));
        {
            let mut state = fetcher.state();
            match polled {
                Ok(()) => {
                    state.answered_at = Some(parts.clock.now());
                    (state.failures, state.last_error) = (0, None);
                }
                Err(why) => {
                    state.failures = state.failures.saturating_add(1);
                    state.last_error = Some(why);
                }
            }
        }
        self.keep_state(fetcher).await;
    }

    async fn pages(&self, fetcher: &Fetcher) -> Result<(), String> {
        let parts = &self.inner.parts;
        // Before each poll: what came while the feed was believed otherwise, or under its name from elsewhere, is believed like it.
        let believed = parts.threat.trust_feed(&fetcher.owner, (fetcher.feed.name.as_str(), fetcher.feed.trust)).await;
        believed.map_err(|error| told(&error.into()))?;
        let added_after = fetcher.state().added_after;
        let mut poll =
            Poll::new(&parts.reach, &fetcher.feed, fetcher.authorization.as_ref(), added_after, parts.pace.answer);
        loop {
            let place = self.inner.pages.take(&fetcher.owner).await;
            let _place = place.ok_or_else(|| "the host is ending".to_owned())?;
            let Some(Page { objects, added_last }) = poll.page(parts.clock.now()).await? else { return Ok(()) };
            let count = objects.len() as u64;
            let loaded = match objects.is_empty() {
                true => None,
                false => Some(self.take_in(fetcher, objects).await.map_err(|error| told(&error))?),
            };
            let mut state = fetcher.state();
            state.added_after = state.added_after.max(added_last);
            if let Some(loaded) = loaded {
                state.loaded_at = Some(parts.clock.now());
                state.objects_count = state.objects_count.saturating_add(count);
                state.active_after_us = Some(loaded.active_after_us);
                state.refused_count = state.refused_count.saturating_add(loaded.refused_count as u64);
                if let Some(first) = loaded.refused.into_iter().next() {
                    state.last_refused = Some(first);
                }
            }
        }
    }

    /// Takes a page in, between an intent and an outcome.
    async fn take_in(&self, fetcher: &Fetcher, objects: Vec<Value>) -> Result<Loaded, OutwardError> {
        let parts = &self.inner.parts;
        let (_, log): (_, Log) = self.place_of(&fetcher.owner)?;
        let (scope, name) = (&fetcher.owner, fetcher.feed.name.as_str());
        let mut event = Event::new(codes::INTELLIGENCE_LOADED, "poll-feed", parts.audit.actor(), scope.log());
        event.details = json!({ "feed": name, "objects": objects.len() });
        let intent = parts.audit.intent(&log, event).await?;
        let mut bundle = serde_json::Map::new();
        bundle.insert("type".to_owned(), "bundle".into());
        // Moved, not written anew: it may be large.
        bundle.insert("objects".to_owned(), Value::Array(objects));
        let bundle = Value::Object(bundle);
        let loaded = parts.threat.load_page(scope, (name, fetcher.feed.trust), &bundle).await;
        let outcome = match &loaded {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure(ringfence_audit::envelope::cut(&error.to_string(), 200)),
        };
        if let Err(error) = intent.outcome(outcome, Value::Null).await {
            tracing::error!(%error, "the outcome of a poll could not be written to the audit log");
        }
        Ok(loaded?)
    }

    async fn keep_state(&self, fetcher: &Fetcher) {
        let Ok((store, _)) = self.place_of(&fetcher.owner) else { return };
        let state = fetcher.state().clone();
        if let Err(error) = store.put_json(&state_key(fetcher.feed.name.as_str()), &state).await {
            tracing::warn!(owner = fetcher.owner.log(), %error, "how far a feed is could not be kept");
        }
    }
}

/// For the owner: what of a failure is his to know.
fn told(error: &OutwardError) -> String {
    match error {
        OutwardError::Threat(
            error @ (ringfence_threat::ThreatError::BadBundle { .. } | ringfence_threat::ThreatError::TooMany { .. }),
        ) => error.to_string(),
        _ => "the host could not take it in now".to_owned(),
    }
}

fn view(fetcher: &Fetcher, now: Timestamp) -> FeedView {
    let state = fetcher.state().clone();
    let freshness = state.freshness(fetcher.feed.every_seconds, now);
    FeedView { feed: fetcher.feed.clone(), state, freshness }
}
