//! The reader: every committed entry of every log, once, in the order of its log; rules, scores and indicators asked.
//!
//! Runs on a thread of its own, beside the call path. Must never lose an entry quietly: what the feed lost, and what was
//! written while the host was down, is read from the logs, by the places it has seen; what cannot be read now is read later,
//! and what never can is put on the record. Must never look at what it found itself, or a rule would never end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringfence_audit::{AuditError, Event as AuditEvent, Feed, Log, Told, codes};
use ringfence_core::TenantId;
use ringfence_core::volume::VOLUME_WINDOW;
use ringfence_store::{Key, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::event::Event;
use crate::finding::{Finding, Held, KEPT_COUNT_MAX, Open, Taken};
use crate::history::Before;
use crate::past::SeenBefore;
use crate::response::{AUTOMATIC_MINUTES_MAX, Asked, Kind, Scope, Suggested, Target};
use crate::risk::{self, Known, Risk};
use crate::sigma::Level;
use crate::sigma::engine::Memory;
use crate::threat::{Threat, all, finding_key, finding_prefix, put};
use crate::{HOST_LOG, ThreatError};

/// Between two looks at what is due, in milliseconds.
pub(crate) const TICK_MS: u64 = 250;
/// Ticks between two writings of what has gone on: findings, and places in the logs.
const KEEP_TICKS: u64 = 20;
/// Ticks between two tries to read what could not be read.
const UNREAD_TICKS: u64 = 8;
/// LIMIT: entries of one log that are read when some were missed; older ones are given up, and said to be on the record.
const CATCH_UP_COUNT_MAX: u64 = 100_000;
/// LIMIT: entries read from a log at once.
const CATCH_UP_PAGE: usize = 500;
/// Between two tries to answer a finding that goes on, in milliseconds: each is on the log.
const TRY_AGAIN_MS: i64 = 60_000;
/// Ticks between two findings about what a log held before an indicator came: 20 a minute, a third of what one log may make.
const TELL_PAST_TICKS: u64 = 12;
/// New findings after which the oldest are let go.
const PRUNE_EVERY: u64 = 64;

/// Reads along: what it knows of the logs, and the feed that it was subscribed to when it was opened.
pub struct Reader {
    watcher: Watcher,
    feed: Feed,
}

/// How far a log was read, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    log: String,
    next: u64,
    /// The tenant that had the name; none for the host's own log, and in places of before this was kept.
    #[serde(default)]
    uid: Option<String>,
}

/// The reader's own state.
struct Watcher {
    threat: Threat,
    memory: Memory,
    open: Open,
    /// The next place of each log.
    places: HashMap<String, u64>,
    kept_places: HashMap<String, Place>,
    /// Which log a name was last seen for: a name that is used again begins a log anew.
    uids: HashMap<String, String>,
    /// Logs that could not be read to their ends, and how many entries the feed lost at most of each.
    unread: HashMap<String, (Log, u64)>,
    /// The same for all logs, when it could not be said which there are.
    unlisted: Option<u64>,
    made_count: u64,
}

impl Reader {
    pub(crate) async fn open(threat: Threat, feed: Feed) -> Self {
        let mut watcher = Watcher {
            threat,
            memory: Memory::default(),
            open: Open::default(),
            places: HashMap::new(),
            kept_places: HashMap::new(),
            uids: HashMap::new(),
            unread: HashMap::new(),
            unlisted: None,
            made_count: 0,
        };
        watcher.load_places().await;
        Self { watcher, feed }
    }

    /// Reads along until `stop` turns true, on a thread of its own.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let runtime = tokio::runtime::Handle::current();
        let reader = tokio::task::spawn_blocking(move || runtime.block_on(self.watcher.run(self.feed, stop)));
        if let Err(error) = reader.await {
            tracing::error!(%error, "detection has ended");
        }
    }
}

impl Watcher {
    async fn run(mut self, mut feed: Feed, mut stop: watch::Receiver<bool>) {
        self.catch_up(0).await;
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u64;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stopping| *stopping) => break,
                _ = tick.tick() => {
                    ticks += 1;
                    self.tick(ticks, &feed).await;
                }
                told = feed.next() => match told {
                    Some(Told::Committed(entry)) => {
                        let event = Event { log: label(&entry.log), seq: entry.seq, time_ms: entry.time_ms, body: entry.event.clone() };
                        self.told(event, &entry.log).await;
                    }
                    Some(Told::Missed { count }) => {
                        self.threat.inner.health.missed_count.fetch_add(count, Ordering::Relaxed);
                        self.catch_up(count).await;
                    }
                    None => break,
                },
            }
        }
        self.keep().await;
    }

    /// An entry of the feed: after the gap before it, if there is one, and only if it was not read from the log already.
    async fn told(&mut self, event: Event, log: &Log) {
        self.note_uid(log);
        let next = self.places.get(&event.log).copied();
        if next.is_some_and(|next| event.seq < next) {
            return;
        }
        // What is before it could not be read: it is read with that, in its order.
        if self.unread.contains_key(&event.log) {
            self.places.entry(event.log).or_insert(event.seq);
            return;
        }
        if next.is_some_and(|next| event.seq > next) && !self.read_log(log, event.seq).await {
            return;
        }
        self.take(event).await;
    }

    /// One entry, once.
    async fn take(&mut self, mut event: Event) {
        self.places.insert(event.log.clone(), event.seq.saturating_add(1));
        let health = &self.threat.inner.health;
        health.evaluated_count.fetch_add(1, Ordering::Relaxed);
        let behind = self.threat.inner.clock.now().as_millisecond().saturating_sub(event.time_ms);
        health.behind_ms.store(u64::try_from(behind).unwrap_or(0), Ordering::Relaxed);
        if is_own(event.code()) {
            return;
        }
        self.trust_label(&mut event);
        let drill = event.detail("drill").and_then(serde_json::Value::as_str).map(ToOwned::to_owned);
        let none = Before { new_network: None, logs_count: 0 };
        // A drill leaves no trace in what is known of people, nor in the windows of real events; who shows another's token is
        // not where its owner is.
        let is_anothers = event.code() == codes::TOKEN_REFUSED;
        let before = if drill.is_some() || is_anothers { none } else { self.threat.history().take(&event) };
        let scope = scope_of(&event.log);
        let settings = self.threat.settings(&scope);
        let known = Known {
            new_network: before.new_network,
            tenants_count: before.logs_count,
            hours: settings.working_hours.as_ref(),
        };
        let risk = risk::points(&event, &known);
        let rules = self.threat.in_force();
        for (owner, name) in self.threat.take_forgotten() {
            self.memory.forget(&owner, &name);
        }
        let packs = rules.of(&event.log);
        let hits = match &drill {
            None => self.memory.take(&packs, &event),
            Some(label) => self.memory.take(&packs, &Event { log: format!("{} {label}", event.log), ..event.clone() }),
        };
        for mut hit in hits {
            hit.group.extend(drill.clone().map(|label| ("drill".to_owned(), label)));
            let Some((pack, rule)) = rules.rule(&event.log, &hit) else { continue };
            let held = Held {
                rule_owner: pack.owner.clone(),
                rule: pack.name.clone(),
                name: rule.name,
                edition: Some(pack.edition),
                title: rule.title,
                level: rule.level,
                attack: rule.attack,
                group: hit.group,
            };
            self.found(&event, held, &risk, rule.response).await;
        }
        let log_id = self.uids.get(&event.log).unwrap_or(&event.log);
        for held in self.threat.matching(&event, log_id) {
            self.found(&event, held, &risk, None).await;
        }
        if event.code() == codes::BREACH_CLOCK {
            self.found(&event, clock_told(&event), &risk, None).await;
        }
        if risk.points >= risk::ALERT_AT {
            self.found(&event, much_concern(&event), &risk, None).await;
        }
    }

    /// A label of a drill counts only while that drill is under way; whoever else writes one is not believed.
    fn trust_label(&self, event: &mut Event) {
        let label = event.detail("drill").and_then(serde_json::Value::as_str).map(ToOwned::to_owned);
        if label.is_some_and(|label| !self.threat.is_drill(&label))
            && let Some(details) =
                event.body.pointer_mut("/unmapped/details").and_then(serde_json::Value::as_object_mut)
        {
            details.remove("drill");
        }
    }

    async fn found(&mut self, event: &Event, held: Held, risk: &Risk, suggested: Option<Suggested>) {
        let now_ms = self.threat.inner.clock.now().as_millisecond();
        let health = &self.threat.inner.health;
        let mut finding = match self.open.take(event, held, risk, now_ms) {
            Taken::New(finding) => *finding,
            Taken::GoesOn(mut finding) => {
                let scope = scope_of(&event.log);
                if suggested.is_some() && self.is_unanswered(&scope, &finding, now_ms) {
                    self.act(&scope, event, &mut finding, suggested, now_ms).await;
                }
                return;
            }
            Taken::Counted => {
                health.counted_only_count.store(self.open.counted_only(), Ordering::Relaxed);
                return;
            }
        };
        health.findings_count.fetch_add(1, Ordering::Relaxed);
        let scope = scope_of(&event.log);
        // Read twice after a crash: it is on the record already.
        if let Ok(known) = self.threat.finding(&scope, &finding.id).await {
            self.open.answered(&known.id, known.response, now_ms);
            return;
        }
        self.record(&scope, &finding).await;
        finding.found_us = self.steady_us();
        self.act(&scope, event, &mut finding, suggested, now_ms).await;
        self.write(&scope, &finding).await;
        self.made_count += 1;
        if self.made_count.is_multiple_of(PRUNE_EVERY)
            && let Err(error) = self.prune(&scope).await
        {
            tracing::warn!(%error, "old findings are still kept");
        }
        drop(self.threat.inner.alerts.send(Arc::new(finding)));
    }

    /// Makes the response that the rule of a finding suggests, if its owner lets it act.
    async fn act(
        &mut self,
        scope: &Scope,
        event: &Event,
        finding: &mut Finding,
        suggested: Option<Suggested>,
        now_ms: i64,
    ) {
        let may_act = finding.drill.is_some() || self.threat.settings(scope).lets_act(&finding.rule);
        let Some(asked) = suggested.filter(|_| may_act).and_then(|suggested| answer(scope, event, finding, suggested))
        else {
            return;
        };
        match self.threat.answer_by_itself(scope, asked).await {
            Ok(response) => finding.response = Some(response.id),
            // Nobody attacked, and the report of the drill has what came of it.
            Err(error) if finding.drill.is_some() => {
                tracing::info!(finding = %finding.id, %error, "a rule's response was not made in a drill");
            }
            Err(error) => tracing::warn!(finding = %finding.id, %error, "a rule's response was not made"),
        }
        self.open.answered(&finding.id, finding.response.clone(), now_ms);
    }

    /// Whether nothing holds for a finding, and it may be tried again: its response is over, or was never made. What a person
    /// took back stays taken back for as long as the finding goes on.
    fn is_unanswered(&self, scope: &Scope, finding: &Finding, now_ms: i64) -> bool {
        if (0..TRY_AGAIN_MS).contains(&now_ms.saturating_sub(finding.tried_ms)) {
            return false;
        }
        let Some(id) = &finding.response else { return true };
        let now = self.threat.inner.clock.now();
        let held = self.threat.response(scope, id).ok();
        held.is_none_or(|response| response.undone.is_none() && !response.is_in_force(now))
    }

    fn steady_us(&self) -> u64 {
        u64::try_from(self.threat.inner.clock.monotonic().as_micros()).unwrap_or(u64::MAX)
    }

    async fn record(&self, scope: &Scope, finding: &Finding) {
        let Some(log) = self.log(scope) else { return };
        let mut event =
            AuditEvent::new(codes::THREAT_FOUND, "find-threat", self.threat.inner.audit.actor(), scope.log());
        event.details = json!({
            "finding": finding.id, "rule": finding.rule, "owner": finding.rule_owner, "level": finding.level,
            "rule_version": finding.edition.map(|text| text.version),
            "rule_digest": finding.edition.map(|text| text.digest),
            "attack": finding.attack, "risk_points": finding.risk.points, "evidence": finding.evidence, "drill": finding.drill,
        });
        event.members = of_class(finding);
        if let Err(error) = self.threat.inner.audit.record(&log, event).await {
            tracing::error!(finding = %finding.id, %error, "a finding could not be put on the record");
        }
    }

    async fn write(&self, scope: &Scope, finding: &Finding) {
        let Ok(store) = self.threat.store(scope) else { return };
        if let Err(error) = put(&store, &finding_key(&finding.id), finding).await {
            tracing::error!(finding = %finding.id, %error, "a finding could not be kept");
        }
    }

    /// Lets the oldest findings of an owner go.
    async fn prune(&self, scope: &Scope) -> Result<(), ThreatError> {
        let store = self.threat.store(scope)?;
        let mut kept: Vec<Finding> = all(&store, &finding_prefix(), 2 * KEPT_COUNT_MAX).await?;
        kept.sort_by_key(|finding| finding.last_ms);
        let beyond = kept.len().saturating_sub(KEPT_COUNT_MAX);
        for finding in kept.into_iter().take(beyond) {
            store.delete(&finding_key(&finding.id)).await?;
        }
        Ok(())
    }

    async fn tick(&mut self, ticks: u64, feed: &Feed) {
        let health = &self.threat.inner.health;
        let now = u64::try_from(self.threat.inner.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        health.ticked_ms.store(now, Ordering::Relaxed);
        health.backlog_count.store(feed.backlog_count() as u64, Ordering::Relaxed);
        if feed.backlog_count() == 0 {
            health.behind_ms.store(0, Ordering::Relaxed);
        }
        for burst in self.threat.inner.standing.take_bursts() {
            let scope = burst.tenant.clone().map_or(Scope::Host, Scope::Tenant);
            let Some(log) = self.log(&scope) else { continue };
            let mut event =
                AuditEvent::new(codes::REQUEST_BURST, "burst", burst.principal.clone(), burst.principal.to_string());
            event.details = json!({ "requests": burst.count, "usual": burst.usual, "window_seconds": 60 });
            let label = self.threat.drill_of(&burst.principal);
            if let (Some(label), Some(details)) = (label, event.details.as_object_mut()) {
                details.insert("drill".to_owned(), label.into());
            }
            if let Err(error) = self.threat.inner.audit.record(&log, event).await {
                tracing::warn!(%error, "a burst could not be put on the record");
            }
        }
        self.tell_volumes().await;
        self.threat.tell_losses(Some(self.threat.inner.clock.monotonic())).await;
        for response in self.threat.end_due().await {
            let place = if response.kind.is_on_hosts_log() { &Scope::Host } else { &response.scope };
            let Some(log) = self.log(place) else { continue };
            let actor = self.threat.inner.audit.actor();
            let mut event = AuditEvent::new(codes::RESPONSE_ENDED, "end-response", actor, response.scope.log());
            event.details = json!({ "response": response.id, "kind": response.kind.word() });
            if let Err(error) = self.threat.inner.audit.record(&log, event).await {
                tracing::warn!(%error, "the end of a response could not be put on the record");
            }
        }
        if ticks.is_multiple_of(UNREAD_TICKS) {
            self.read_rest().await;
        }
        self.threat.tell_clocks().await;
        self.threat.look_on().await;
        if ticks.is_multiple_of(TELL_PAST_TICKS) {
            for seen in self.threat.take_seen_before() {
                self.tell_past(seen).await;
            }
        }
        if ticks.is_multiple_of(KEEP_TICKS) {
            self.keep().await;
        }
    }

    /// Puts on the record which plugins send out far more than they usually do.
    async fn tell_volumes(&self) {
        for volume in self.threat.inner.standing.take_volumes() {
            let home = volume.tenant.as_ref().map_or("operator", TenantId::as_str);
            let resource = format!("tenant/{home}/plugin/{}", volume.plugin);
            let scope = volume.tenant.map_or(Scope::Host, Scope::Tenant);
            // A tenant that has the name of another by now is told nothing of its plugins.
            let is_whose = |log: &Log| volume.tenant_uid.as_ref().is_none_or(|uid| *uid == log_id(log));
            let Some(log) = self.log(&scope).filter(is_whose) else { continue };
            let audit = &self.threat.inner.audit;
            let mut event = AuditEvent::new(codes::EGRESS_VOLUME, "send-volume", audit.actor(), resource);
            event.details = json!({
                "bytes": volume.bytes, "usual_bytes": volume.usual_bytes, "window_seconds": VOLUME_WINDOW.as_secs(),
            });
            let label = self.threat.drill_named(volume.plugin.as_str());
            if let (Some(label), Some(details)) = (label, event.details.as_object_mut()) {
                details.insert("drill".to_owned(), label.into());
            }
            if let Err(error) = audit.record(&log, event).await {
                tracing::warn!(%error, "how much a plugin sends out could not be put on the record");
            }
        }
    }

    /// A finding about what a log held before an indicator came.
    async fn tell_past(&mut self, mut seen: SeenBefore) {
        let Some(held) = self.threat.held_before(&seen) else { return };
        self.trust_label(&mut seen.latest);
        // Where its people were then is not known any more.
        let known = Known { new_network: None, tenants_count: 0, hours: None };
        let risk = risk::points(&seen.latest, &known);
        self.found(&seen.latest, held, &risk, None).await;
    }

    /// Writes what has gone on: findings, and how far each log was read.
    async fn keep(&mut self) {
        self.threat.keep_sightings().await;
        for finding in self.open.take_changed() {
            self.write(&scope_of(&finding.log), &finding).await;
        }
        let tenants = &self.threat.inner.tenants;
        for (log, next) in &self.places {
            let place = Place { log: log.clone(), next: *next, uid: self.uids.get(log).cloned() };
            let is_gone = scope_of(log).tenant().is_some_and(|tenant| tenants.open_tenant(tenant).is_none());
            if is_gone || self.kept_places.get(log) == Some(&place) {
                continue;
            }
            match put(tenants.platform(), &place_key(log), &place).await {
                Ok(()) => drop(self.kept_places.insert(log.clone(), place)),
                Err(error) => {
                    tracing::warn!(%error, "how far a log was read could not be kept");
                    return;
                }
            }
        }
    }

    /// The places where reading goes on; a log that was never read begins at its end, and one whose name was used for another
    /// at its beginning.
    async fn load_places(&mut self) {
        let platform = self.threat.inner.tenants.platform();
        let count_max = crate::sigma::engine::LOGS_COUNT_MAX;
        let places = all::<Place>(platform, &Key::new(["threat-place"]), count_max).await.unwrap_or_else(|error| {
            tracing::error!(%error, "how far the logs were read is not known; detection begins at their ends");
            Vec::new()
        });
        for place in places {
            self.places.insert(place.log.clone(), place.next);
            self.uids.extend(place.uid.clone().map(|uid| (place.log.clone(), uid)));
            self.kept_places.insert(place.log.clone(), place);
        }
        for log in self.logs().await.0 {
            self.note_uid(&log);
            let size = self.size(&log).await;
            if size != Some(0) {
                self.threat.history().note_older(&label(&log));
            }
            if let Some(size) = size {
                self.places.entry(label(&log)).or_insert(size);
            }
        }
    }

    /// Every log that can be read, and whether those are all.
    async fn logs(&self) -> (Vec<Log>, bool) {
        let tenants = &self.threat.inner.tenants;
        let mut logs = vec![Log::Host];
        match tenants.list().await {
            Ok(records) => {
                logs.extend(records.iter().filter_map(|record| tenants.open_tenant(&record.id)).map(Log::Tenant));
                (logs, true)
            }
            Err(error) => {
                tracing::error!(%error, "the tenants cannot be listed; entries that were missed stay unread for now");
                (logs, false)
            }
        }
    }

    /// Notes which log a name stands for. That of a tenant that was made anew under the name is read from its beginning.
    fn note_uid(&mut self, log: &Log) {
        let Log::Tenant(store) = log else { return };
        let uid = store.uid();
        let before = self.uids.get(store.label());
        if before == Some(&uid) {
            return;
        }
        if before.is_some() {
            self.places.insert(store.label().to_owned(), 0);
        }
        self.uids.insert(store.label().to_owned(), uid);
    }

    async fn size(&self, log: &Log) -> Option<u64> {
        match self.threat.inner.audit.size(log).await {
            Ok(size) => Some(size),
            Err(error) => {
                tracing::warn!(log = %label(log), %error, "a log cannot be read along");
                None
            }
        }
    }

    /// Reads every log from where it was left to its end; of a log that is new, what the feed can have lost.
    async fn catch_up(&mut self, missed_count: u64) {
        let (logs, are_all) = self.logs().await;
        if !are_all {
            self.unlisted = Some(self.unlisted.unwrap_or(0).max(missed_count));
        }
        for log in logs {
            self.read_along(&log, missed_count).await;
        }
    }

    /// Tries what could not be read once more.
    async fn read_rest(&mut self) {
        if let Some(missed_count) = self.unlisted.take() {
            self.catch_up(missed_count).await;
        }
        for (log, missed_count) in std::mem::take(&mut self.unread).into_values() {
            self.read_along(&log, missed_count).await;
        }
    }

    /// Reads a log from where it was left to its end, or leaves it for later.
    async fn read_along(&mut self, log: &Log, missed_count: u64) {
        self.note_uid(log);
        if let Log::Tenant(store) = log {
            match store.check_keys() {
                Ok(()) => {}
                Err(StoreError::Gone) => return,
                // Nothing is written meanwhile; it is read when its keys are back.
                Err(_) => return self.leave(log, missed_count),
            }
        }
        let Some(size) = self.size(log).await else { return self.leave(log, missed_count) };
        // Of a log without a place nothing was lost that the feed will not tell.
        if missed_count > 0 {
            self.places.entry(label(log)).or_insert(size.saturating_sub(missed_count));
        }
        self.read_log(log, size).await;
    }

    /// Leaves a log to be read later.
    fn leave(&mut self, log: &Log, missed_count: u64) {
        let (_, most) = self.unread.entry(label(log)).or_insert_with(|| (log.clone(), 0));
        *most = missed_count.max(*most);
    }

    /// Reads a log from where it was left to `size`, and says whether it got there; if not, the rest is left for later. Only
    /// what is damaged, and what is too much, is passed over.
    async fn read_log(&mut self, log: &Log, size: u64) -> bool {
        let (audit, label) = (self.threat.inner.audit.clone(), label(log));
        let mut next = self.places.get(&label).copied().unwrap_or(size);
        // A name that was used again has a shorter log.
        if next > size {
            next = 0;
        }
        // What was deleted after its retention was read long ago, or never will be.
        next = next.max(audit.first(log).await.unwrap_or(0));
        if size.saturating_sub(next) > CATCH_UP_COUNT_MAX {
            let from = std::mem::replace(&mut next, size - CATCH_UP_COUNT_MAX);
            self.skip(log, from, next).await;
        }
        let (mut end, mut damaged_from) = (size, None);
        while next < size {
            let page = usize::try_from(end - next).map_or(CATCH_UP_PAGE, |rest| rest.min(CATCH_UP_PAGE));
            match audit.list(log, next, page).await {
                Ok(entries) if !entries.is_empty() => {
                    if let Some(from) = damaged_from.take() {
                        self.skip(log, from, next).await;
                    }
                    for entry in entries {
                        let body = entry.body.unwrap_or_default();
                        let time_ms = body.get("time").and_then(serde_json::Value::as_i64).unwrap_or(0);
                        self.take(Event { log: label.clone(), seq: next, time_ms, body }).await;
                        next += 1;
                    }
                }
                Err(AuditError::Broken { seq, .. }) if seq == next => {
                    damaged_from = damaged_from.or(Some(next));
                    next += 1;
                }
                // What is before it is read first.
                Err(AuditError::Broken { seq, .. }) if seq > next && seq < end => end = seq,
                unread => {
                    tracing::warn!(log = %label, place = next, error = ?unread.err(), "a log cannot be read along now");
                    self.leave(log, 0);
                    return false;
                }
            }
            if next >= end {
                end = size;
            }
        }
        if let Some(from) = damaged_from {
            self.skip(log, from, size).await;
        }
        true
    }

    /// Passes over entries of a log, from a place up to another, and puts it on the record, which a rule looks for.
    async fn skip(&mut self, log: &Log, from: u64, to: u64) {
        let (label, count) = (label(log), to.saturating_sub(from));
        self.places.insert(label.clone(), to);
        self.threat.inner.health.skipped_count.fetch_add(count, Ordering::Relaxed);
        let audit = &self.threat.inner.audit;
        let mut event = AuditEvent::new(codes::ENTRIES_SKIPPED, "skip-entries", audit.actor(), label.clone());
        event.details = json!({ "log": label, "from": from, "to": to, "skipped_count": count });
        // A damaged log may take nothing; the host's own has it then.
        if audit.record(log, event.clone()).await.is_ok() {
            return;
        }
        if let Err(error) = audit.record(&Log::Host, event).await {
            tracing::error!(log = %label, from, to, %error, "entries were not looked at, and no log says so");
        }
    }

    fn log(&self, scope: &Scope) -> Option<Log> {
        match scope {
            Scope::Host => Some(Log::Host),
            Scope::Tenant(tenant) => {
                let store = self.threat.inner.tenants.open_tenant(tenant)?;
                match store.check_keys() {
                    Err(StoreError::KeyDisabled | StoreError::KeyRefused) => None,
                    _ => Some(Log::Tenant(store)),
                }
            }
        }
    }
}

/// What a suggestion comes to for this event; none when the event does not say against whom.
fn answer(scope: &Scope, event: &Event, finding: &Finding, suggested: Suggested) -> Option<Asked> {
    let mut target = Target { tenant: scope.tenant().cloned(), ..Target::default() };
    match suggested.kind {
        Kind::RateLimit | Kind::EndSessions | Kind::SuspendPrincipal => {
            target.principal = Some(event.actor()?.parse().ok()?);
        }
        Kind::BlockSource => target.source = Some(event.source()?),
        Kind::QuarantineVersion => target.digest = Some(event.detail("digest")?.as_str()?.parse().ok()?),
        Kind::FreezeEgress => target.plugin = Some(plugin_of(event)?),
        // A drill's events are not the tenant's doing, so nothing is taken from it.
        Kind::ReadOnly | Kind::DisableKey if finding.drill.is_some() => return None,
        Kind::ReadOnly | Kind::DisableKey => drop(scope.tenant()?),
        Kind::Alert => return None,
    }
    let reason = format!("rule `{}`: {}", finding.rule, finding.title);
    let minutes = suggested.minutes.min(AUTOMATIC_MINUTES_MAX);
    let per_minute = suggested.per_minute.or((suggested.kind == Kind::RateLimit).then_some(60));
    let (drill, finding) = (finding.drill.clone(), Some(finding.id.clone()));
    Some(Asked { kind: suggested.kind, target, minutes, per_minute, reason, finding, drill })
}

fn plugin_of(event: &Event) -> Option<ringfence_core::PluginName> {
    event.resource()?.split_once("/plugin/")?.1.split('/').next()?.parse().ok()
}

/// What a score that is high holds.
pub(crate) fn much_concern(event: &Event) -> Held {
    let who = event.actor().unwrap_or_default().to_owned();
    Held {
        rule_owner: crate::shipped::OWNER.to_owned(),
        rule: "risk".to_owned(),
        name: "risk".to_owned(),
        edition: None,
        title: "An act with many reasons for concern".to_owned(),
        level: Level::High,
        attack: Vec::new(),
        group: vec![("actor.user.uid".to_owned(), who)],
    }
}

/// What a clock holds that comes near its end, or has passed it.
fn clock_told(event: &Event) -> Held {
    let text = |name: &str| event.detail(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let (told, whom) = (text("told"), text("whom"));
    let (says, level) = if told == "over" {
        ("A notice about an incident is overdue", Level::Critical)
    } else {
        ("A notice about an incident is due within 24 hours", Level::High)
    };
    Held {
        rule_owner: crate::shipped::OWNER.to_owned(),
        rule: "breach-clock".to_owned(),
        name: "breach-clock".to_owned(),
        edition: None,
        title: format!("{says}: {whom}, {}", text("due_at")),
        level,
        attack: Vec::new(),
        group: ["incident", "jurisdiction", "told"].map(|name| (name.to_owned(), text(name))).to_vec(),
    }
}

/// What this room writes about what it found; rules are not asked about it.
pub(crate) fn is_own(code: &str) -> bool {
    [codes::THREAT_FOUND, codes::RESPONSE_MADE, codes::RESPONSE_ENDED, codes::DRILL_RUN].contains(&code)
}

fn label(log: &Log) -> String {
    match log {
        Log::Host => HOST_LOG.to_owned(),
        Log::Tenant(store) => store.label().to_owned(),
    }
}

/// Tells a log from every other, also from that of an earlier tenant of the name.
pub(crate) fn log_id(log: &Log) -> String {
    match log {
        Log::Host => HOST_LOG.to_owned(),
        Log::Tenant(store) => store.uid(),
    }
}

pub(crate) fn scope_of(log: &str) -> Scope {
    log.parse::<TenantId>().map_or(Scope::Host, Scope::Tenant)
}

/// The members of an OCSF Detection Finding. Not its title, which may name an address that not everybody who reads the log sees.
fn of_class(finding: &Finding) -> serde_json::Value {
    let attack = |id: &String| {
        let (technique, is_sub) = id.split_once('.').map_or((id.as_str(), false), |(technique, _)| (technique, true));
        let mut attack = json!({ "version": finding.attack_version, "technique": { "uid": technique } });
        if let Some(members) = attack.as_object_mut().filter(|_| is_sub) {
            members.insert("sub_technique".to_owned(), json!({ "uid": id }));
        }
        attack
    };
    let attacks: Vec<_> = finding.attack.iter().map(attack).collect();
    json!({
        "finding_info": { "uid": finding.id, "title": finding.rule, "attacks": attacks },
        "evidences": [{ "data": { "log": finding.log, "seqs": finding.evidence } }],
        "risk_score": finding.risk.points,
    })
}

pub(crate) fn place_key(log: &str) -> Key {
    Key::new(["threat-place", log])
}
