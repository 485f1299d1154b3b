//! One call of an extension point: each bound plugin in turn, within the point's deadline.
//!
//! Must never take longer than the deadline, nor fail for a plugin's sake beyond what the point's declaration says.

use std::net::IpAddr;
use std::time::Duration;

use ringfence_capabilities::Trail;
use ringfence_core::{Blame, InvocationId, Principal, ResourceName, TenantId};
use ringfence_engine::{EventContext, EventFailure, Export};
use ringfence_store::TenantStore;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::binding::Bound;
use super::fold::{Fold, HookAnswer, Next, Said};
use super::point::{Mode, POINT_VERSION, Ready};
use crate::{Automation, AutomationError, Call, CallError, Effects};

/// LIMIT: most bytes of a payload.
const PAYLOAD_BYTES_MAX: usize = 256 << 10;

/// A call of a point, in the product's words.
pub struct Asked<'a> {
    /// Whose plugins.
    pub tenant: &'a TenantId,
    /// Their store.
    pub store: &'a TenantStore,
    /// The point.
    pub hook: &'a ResourceName,
    /// What it is about.
    pub payload: Value,
    /// On whose behalf.
    pub principal: &'a Principal,
    /// From where he asks.
    pub peer: Option<IpAddr>,
    /// Whether it counts.
    pub effects: Effects,
    /// What led to it.
    pub trail: Trail,
}

impl Automation {
    /// Asks the tenant's plugins that are bound to a point. Refusals of the tenant as a whole, or of a session that does not
    /// stand high enough, are errors; what a plugin does is in the answer, and so is that there was no place or no code for it.
    pub async fn ask(&self, mut asked: Asked<'_>) -> Result<HookAnswer, AutomationError> {
        let ready = self.hooks.point(asked.hook.as_str()).ok_or(AutomationError::NotFound("extension point"))?;
        let mut bytes = serde_json::to_vec(&asked.payload).unwrap_or_default();
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(AutomationError::BadPayload(format!("it is over {PAYLOAD_BYTES_MAX} bytes")));
        }
        ready.payload.check(&asked.payload).map_err(AutomationError::BadPayload)?;
        let bound = self.bound(asked.store, asked.hook).await?;
        if ready.point.spec.mode == Mode::Notify && asked.effects == Effects::Real {
            return self.notify(&asked, bytes, &bound, &ready.point).await;
        }
        let spec = &ready.point.spec;
        let mut fold = Fold::new(spec.mode, spec.on_failure, std::mem::take(&mut asked.payload));
        let end = self.parts.clock.monotonic() + Duration::from_millis(spec.deadline_ms);
        for one in bound.iter() {
            let (ran, said) = self.ask_one(&asked, &ready, one, (fold.payload(), &bytes), end).await?;
            let is_changed = spec.mode == Mode::Transform && matches!(said, Said::Answer(_));
            if fold.take(&one.binding.plugin, ran, said) == Next::Stop {
                break;
            }
            if is_changed {
                bytes = serde_json::to_vec(fold.payload()).unwrap_or_default();
            }
        }
        Ok(fold.end())
    }

    async fn ask_one(
        &self,
        asked: &Asked<'_>,
        ready: &Ready,
        one: &Bound,
        (payload, bytes): (&Value, &[u8]),
        end: Duration,
    ) -> Result<(Option<(InvocationId, String)>, Said), AutomationError> {
        match one.condition.as_ref().map(|condition| condition.holds(payload)) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => return Ok((None, Said::NotAsked)),
            Some(Err(why)) => return Ok((None, broken("condition", why))),
        }
        let left = end.saturating_sub(self.parts.clock.monotonic());
        if left.is_zero() {
            return Ok((None, broken("deadline", "the point's time was over before it was asked")));
        }
        let call = Call {
            tenant: asked.tenant.clone(),
            plugin: one.binding.plugin.clone(),
            version: None,
            export: Export::Hook,
            payload: bytes.to_vec(),
            context: EventContext {
                name: asked.hook.to_string(),
                id: InvocationId::random(&*self.parts.entropy).to_string(),
                attempt: 1,
                at: self.parts.clock.now().to_string(),
                attributes: attributes(ready, asked.effects),
            },
            principal: asked.principal.clone(),
            peer: asked.peer,
            cause: format!("hook/{}", asked.hook),
            trail: asked.trail.clone(),
            time_ms_max: Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)),
            // The product is told then that it did not answer: what comes later would be done behind its back.
            begin_until: Some(end),
            effects: asked.effects,
        };
        let done = match tokio::time::timeout(left, self.call(call)).await {
            // It goes on to its own end, which is the same one, and is recorded there.
            Err(_) => return Ok((None, broken("deadline", "it did not answer within the point's time"))),
            Ok(Err(error)) if concerns_request(&error) => return Err(error.into()),
            Ok(Err(error)) => return Ok((None, broken(error.code(), told(&error)))),
            Ok(Ok(done)) => done,
        };
        let said = match done.answer {
            Ok(bytes) => heard(ready, &bytes),
            Err(EventFailure::Refused(why)) => Said::Refused(why),
            Err(EventFailure::Retry(why) | EventFailure::Failed(why)) => broken("plugin-failed", why),
        };
        Ok((Some((done.invocation, done.version.to_string())), said))
    }
}

/// What a plugin is told beside the payload.
fn attributes(ready: &Ready, effects: Effects) -> Vec<(String, String)> {
    let mut attributes = vec![(POINT_VERSION.to_owned(), ready.point.version.to_string())];
    if effects == Effects::Without {
        attributes.push(("dry-run".to_owned(), "true".to_owned()));
    }
    attributes
}

/// An answer, checked at the edge.
fn heard(ready: &Ready, bytes: &[u8]) -> Said {
    let spec = &ready.point.spec;
    if bytes.len() as u64 > spec.result_bytes_max {
        return broken("result-too-large", format!("its answer is over {} bytes", spec.result_bytes_max));
    }
    // A validator that has nothing to add says nothing.
    let bytes: &[u8] = if bytes.is_empty() { b"null" } else { bytes };
    // What it says beside its consent is shown to nobody: that it is JSON is all that has to be known of it.
    let is_read = ready.result.is_some() || spec.mode != Mode::Validate;
    let value = match is_read {
        true => serde_json::from_slice::<Value>(bytes),
        false => serde_json::from_slice::<IgnoredAny>(bytes).map(|_| Value::Null),
    };
    let Ok(value) = value else {
        return broken("bad-result", "its answer is not JSON");
    };
    match ready.result.as_ref().map(|schema| schema.check(&value)) {
        Some(Err(why)) => broken("bad-result", format!("its answer does not fit the point: {why}")),
        None | Some(Ok(())) => Said::Answer(value),
    }
}

/// Whether it is about the tenant or the session of who asks, and not what a plugin does or what is held against it: then the
/// product's request fails whatever the point says. A tenant without a free place or quota is none of these: its plugins bring
/// that about by being slow or greedy.
fn concerns_request(error: &CallError) -> bool {
    matches!(
        error,
        CallError::StepUp(_)
            | CallError::Unauthenticated
            | CallError::Suspended
            | CallError::KeyDisabled
            | CallError::AuditUnavailable
    )
}

/// What the product is told of a failure: a trap's text is for the plugin's owner alone.
fn told(error: &CallError) -> String {
    match error {
        CallError::Run(error) if error.blame() == Blame::Plugin => format!("the plugin failed ({})", error.code()),
        other => other.to_string(),
    }
}

fn broken(code: &str, detail: impl Into<String>) -> Said {
    Said::Broken { code: code.to_owned(), detail: detail.into() }
}
