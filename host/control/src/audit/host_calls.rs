//! Host calls of plugins on the audit log: what a tenant chooses, and the one task that puts what was noted there.
//!
//! Must never make a guest wait for the log, and never be silent about what is missing: it is counted in the next entry, which
//! then is no success.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use ringfence_audit::{AuditError, Event, Log, Outcome, codes};
use ringfence_capabilities::{NotedCall, Share, Shares, Verdict, Waiting};
use ringfence_core::Capability;
use ringfence_core::proof::act;
use ringfence_store::{Key, StoreError, TenantStore};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{HostCallSettings, Problem};

/// How often what was noted is put on the logs.
const ROUND: Duration = Duration::from_millis(500);
/// LIMIT: bytes of calls in one entry; below what an entry keeps untrimmed.
const CALLS_BYTES_MAX: usize = 14 << 10;
/// LIMIT: calls in one entry.
const CALLS_COUNT_MAX: usize = 100;

/// Reads which host calls of the tenant's plugins are on its log.
#[utoipa::path(get, path = "/audit/host-calls", tag = "audit",
    responses((status = 200, body = HostCallSettings), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call) -> Result<Json<HostCallSettings>, ApiError> {
    let store = control.reach_own_tenant::<act::ReadAudit>(&call).await?.store;
    let host_calls = stored(&store).await?;
    Ok(Json(HostCallSettings { host_calls, missed_count: control.parts.host_calls.missed_count(&store) }))
}

/// Chooses which host calls of the tenant's plugins are on its log: whole, for each invocation that begins from now on.
#[utoipa::path(put, path = "/audit/host-calls", tag = "audit", request_body = HostCallSettings,
    responses((status = 200, body = HostCallSettings), (status = "default", body = Problem)))]
pub async fn write(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<HostCallSettings>,
) -> Result<Json<HostCallSettings>, ApiError> {
    let Reached { store, permit, .. } = control.reach_own_tenant::<act::ChooseHostCalls>(&call).await?;
    let chosen = shares(&asked.host_calls)?;
    let words: BTreeMap<String, String> =
        chosen.iter().map(|(capability, share)| (capability.to_string(), share.to_string())).collect();
    let log = Log::Tenant(store.clone());
    control
        .bracket(&call, &log, permit, codes::HOST_CALLS_CHOSEN, json!({ "host_calls": words }), async |_permit| {
            store.put_json(&key(), &words).await?;
            control.parts.host_calls.choose(&store, chosen);
            Ok(())
        })
        .await?;
    Ok(Json(HostCallSettings { host_calls: words, missed_count: control.parts.host_calls.missed_count(&store) }))
}

impl Control {
    /// Reads of all tenants which host calls are on their logs, and when their checks are due. For the start, before anything of
    /// a tenant is begun: what a plugin did before that would not be on the log. Fails when the tenants cannot be listed.
    pub async fn read_assurance(&self) -> Result<(), StoreError> {
        for record in self.parts.tenants.list().await? {
            let Some(store) = self.parts.tenants.open_tenant(&record.id) else { continue };
            self.reload_host_calls(&store).await;
            if store.check_keys().is_ok() {
                self.reload_checks(&store).await;
            }
        }
        Ok(())
    }

    /// Puts what a tenant chose into force, after it was read for the first time or anew, and before anything of it is begun.
    pub(crate) async fn reload_host_calls(&self, store: &TenantStore) {
        let (chosen, unread) = in_force(stored(store).await);
        if let Some(error) = unread {
            let tenant = store.label();
            tracing::warn!(
                tenant,
                code = error.code,
                "which host calls are on the log cannot be read: all are until they are chosen anew"
            );
        }
        self.parts.host_calls.choose(store, chosen);
    }

    /// Runs checks on time, and puts noted host calls on the logs, until `stopping` says so. What guests that are still running
    /// then do is put there by [`Control::flush_host_calls`].
    pub async fn run_assurance(self, stopping: watch::Receiver<bool>) {
        tokio::join!(self.clone().run_checks(stopping.clone()), self.run_host_calls(stopping));
    }

    /// Puts on the logs what is noted now. Side by side: a log that is slow must not keep others from theirs.
    pub async fn flush_host_calls(&self) {
        futures::future::join_all(self.parts.host_calls.take().into_iter().map(|waiting| self.put(waiting))).await;
    }

    /// Puts noted host calls on the logs until `stopping` says so.
    async fn run_host_calls(self, mut stopping: watch::Receiver<bool>) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
            tokio::select! {
                () = stopped => return,
                _ = rounds.tick() => self.flush_host_calls().await,
            }
        }
    }

    async fn put(&self, waiting: Waiting) {
        let Waiting { store, calls, missed_count } = waiting;
        let mut left = calls.len() as u64;
        for (number, (code, details)) in entries(&calls, missed_count).into_iter().enumerate() {
            let count = details.get("calls").and_then(Value::as_array).map_or(0, Vec::len) as u64;
            let resource = format!("tenant/{}", store.label());
            let mut event = Event::new(code, "host-call", self.parts.audit.actor(), resource);
            event.details = details;
            let outcome = match number {
                0 if missed_count > 0 => Outcome::Failure("host-calls-missed".to_owned()),
                _ => Outcome::Success,
            };
            match self.parts.audit.record_outcome(&Log::Tenant(store.clone()), event, outcome).await {
                Ok(_) => left -= count,
                Err(AuditError::Gone) => return self.parts.host_calls.forget(&store),
                Err(error) => {
                    // What is not on the log now is told of by the next entry that is.
                    tracing::warn!(%error, tenant = store.label(), left, "host calls could not be put on the log");
                    let untold = if number == 0 { missed_count } else { 0 };
                    return self.parts.host_calls.missed(&store, left + untold);
                }
            }
        }
    }
}

/// What is in force, given what is stored; and why, where that says nothing: then every call is on the log, because one that
/// should be and is not cannot be found out any more.
fn in_force(stored: Result<BTreeMap<String, String>, ApiError>) -> (Shares, Option<ApiError>) {
    match stored.and_then(|words| shares(&words)) {
        Ok(chosen) => (chosen, None),
        Err(error) => (Capability::ALL.into_iter().map(|capability| (capability, Share::All)).collect(), Some(error)),
    }
}

/// The entries that these calls come to, by class, each small enough not to be trimmed. What is missing is in the first.
fn entries(calls: &[NotedCall], missed_count: u64) -> Vec<(&'static str, Value)> {
    let mut open: BTreeMap<&'static str, (Vec<Value>, usize)> = BTreeMap::new();
    let mut entries: Vec<(&'static str, Value)> = Vec::new();
    for call in calls {
        let row = json!({
            "time_ms": call.at_ms, "invocation": call.invocation, "plugin": call.plugin,
            "capability": call.capability, "call": call.call, "on": call.on, "refused": call.verdict == Verdict::Refused,
        });
        let bytes = row.to_string().len() + 1;
        let code = code_of(call.capability);
        let (rows, held) = open.entry(code).or_default();
        if *held + bytes > CALLS_BYTES_MAX || rows.len() >= CALLS_COUNT_MAX {
            entries.push((code, json!({ "calls": std::mem::take(rows) })));
            *held = 0;
        }
        rows.push(row);
        *held += bytes;
    }
    entries.extend(open.into_iter().map(|(code, (rows, _))| (code, json!({ "calls": rows }))));
    if missed_count > 0 {
        if entries.is_empty() {
            entries.push((codes::MODULE_CALLS, json!({ "calls": [] })));
        }
        if let Some(details) = entries.first_mut().and_then(|(_, details)| details.as_object_mut()) {
            details.insert("missed_count".to_owned(), missed_count.into());
        }
    }
    entries
}

/// Under which code a capability's calls stand: stored data, outgoing requests, the rest.
fn code_of(capability: Capability) -> &'static str {
    match capability {
        Capability::Keyvalue | Capability::Blob | Capability::Files | Capability::Pii => codes::DATASTORE_CALLS,
        Capability::Http | Capability::Identity => codes::HTTP_CALLS,
        Capability::Config
        | Capability::Logging
        | Capability::Secrets
        | Capability::Queue
        | Capability::Audit
        | Capability::Runs => codes::MODULE_CALLS,
    }
}

fn shares(words: &BTreeMap<String, String>) -> Result<Shares, ApiError> {
    let mut shares = Shares::new();
    for (capability, word) in words {
        let share: Share = word.parse().map_err(|why: String| ApiError::new("bad-host-calls", why))?;
        shares.insert(capability.parse()?, share);
    }
    Ok(shares)
}

async fn stored(store: &TenantStore) -> Result<BTreeMap<String, String>, ApiError> {
    Ok(store.get_json(&key()).await?.unwrap_or_default())
}

fn key() -> Key {
    Key::new(["audit-host-calls"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(capability: Capability, on: &str) -> NotedCall {
        NotedCall {
            at_ms: 1_790_000_000_000,
            invocation: serde_json::from_value(json!("i_aaaaaaaaaaaaaaaaaaaaaaaaaa")).unwrap(),
            plugin: "visits".parse().unwrap(),
            capability,
            call: "get",
            on: on.to_owned(),
            verdict: Verdict::Granted,
        }
    }

    #[test]
    fn calls_stand_under_their_class_and_no_entry_is_trimmed() {
        let mut calls = vec![noted(Capability::Http, "https://a.example"), noted(Capability::Secrets, "key")];
        calls.extend((0..500).map(|_| noted(Capability::Keyvalue, &"\"".repeat(96))));
        let entries = entries(&calls, 3);
        let rows = |code: &str| -> usize {
            let of = entries.iter().filter(|(of, _)| *of == code);
            of.map(|(_, details)| details["calls"].as_array().unwrap().len()).sum()
        };
        assert_eq!((rows(codes::HTTP_CALLS), rows(codes::MODULE_CALLS), rows(codes::DATASTORE_CALLS)), (1, 1, 500));
        for (_, details) in &entries {
            assert!(details.to_string().len() <= ringfence_audit::envelope::DETAILS_BYTES_MAX);
        }
        assert_eq!(entries.iter().filter(|(_, details)| details["missed_count"] == 3).count(), 1);
    }

    #[test]
    fn what_is_missing_is_told_also_when_nothing_else_is() {
        let entries = entries(&[], 7);
        assert_eq!((entries.len(), &entries[0].1["missed_count"]), (1, &json!(7)));
    }

    #[test]
    fn where_a_choice_cannot_be_read_every_call_is_on_the_log() {
        let chose = |capability: &str| BTreeMap::from([(capability.to_owned(), "1/100".to_owned())]);
        let (chosen, unread) = in_force(Ok(chose("http")));
        assert!(unread.is_none());
        assert_eq!(chosen, Shares::from([(Capability::Http, Share::OneIn(100))]));
        assert!(in_force(Ok(BTreeMap::new())).0.is_empty(), "nobody chose anything");
        for unreadable in [Err(ApiError::not_found()), Ok(chose("teleport"))] {
            let (chosen, unread) = in_force(unreadable);
            assert!(unread.is_some());
            assert!(Capability::ALL.iter().all(|capability| chosen.get(capability) == Some(&Share::All)), "{chosen:?}");
        }
    }

    #[test]
    fn a_choice_that_means_nothing_is_refused() {
        let words = |capability: &str, word: &str| BTreeMap::from([(capability.to_owned(), word.to_owned())]);
        assert!(shares(&words("keyvalue", "1/100")).is_ok());
        assert_eq!(shares(&words("keyvalue", "sometimes")).unwrap_err().code, "bad-host-calls");
        assert_eq!(shares(&words("teleport", "all")).unwrap_err().code, "bad-word");
    }
}
