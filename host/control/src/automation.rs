//! What the product starts by itself, as endpoints: extension points and bindings, queues, schedules.
//!
//! Must never run a plugin by itself: `ringfence_automation` does, under the same permits as everything else.

pub mod hooks;
pub mod queues;
pub mod schedules;

use ringfence_automation::{AutomationError, CallError};
use ringfence_engine::RunError;
use ringfence_identity::IdentityError;

use crate::problem::ApiError;

impl From<AutomationError> for ApiError {
    fn from(error: AutomationError) -> Self {
        let text = error.to_string();
        match error {
            AutomationError::NotFound(_) => Self::not_found(),
            AutomationError::BadPoint(_) => Self::new("bad-hook", text),
            AutomationError::Breaking { .. } => {
                Self::new("hook-bound", text).help("declare a point of another name, and let plugins move to it")
            }
            AutomationError::BadBinding(_) => Self::new("bad-binding", text),
            AutomationError::BadPayload(_) => Self::new("bad-payload", text),
            AutomationError::BadQueue(_) => Self::new("bad-queue", text),
            AutomationError::BadSchedule(_) => Self::new("bad-schedule", text),
            AutomationError::ScheduleRuns => {
                Self::new("schedule-runs", text).help("wait until it is over, or set `overlap` to `allow`")
            }
            AutomationError::QueueFull { retry_after_ms } => {
                Self { retry_after_seconds: Some(retry_after_ms.div_ceil(1_000)), ..Self::new("queue-full", text) }
            }
            AutomationError::TooMany { .. } => Self::new("too-many", text),
            AutomationError::Store(error) => error.into(),
            AutomationError::Call(error) => error.into(),
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        let wait = error.passes_after_ms().map(|ms| ms.div_ceil(1_000));
        let after = |code, text| Self { retry_after_seconds: wait, ..Self::new(code, text) };
        match error {
            CallError::NoPlugin => {
                Self::new("plugin-not-found", "there is no such plugin, or nothing of it is deployed")
            }
            CallError::Denied(decision) | CallError::OutOfScope(decision) => {
                Self { decision: Some(decision), ..Self::new("denied", text) }
            }
            CallError::StepUp(needed) | CallError::PluginAtRisk(needed) => IdentityError::StepUp(needed).into(),
            CallError::Unauthenticated => Self::new("unauthenticated", text).help("ringfence login"),
            CallError::Suspended => Self::new("tenant-suspended", text),
            CallError::Quarantined => Self::new("version-quarantined", text),
            CallError::KeyDisabled => Self::key_disabled(),
            CallError::QuotaExhausted { .. } => after("quota-exhausted", text),
            CallError::TenantBusy { .. } => after("tenant-busy", text),
            CallError::Overloaded | CallError::TooLate | CallError::Run(RunError::Overloaded) => {
                after("overloaded", text)
            }
            CallError::AuditUnavailable => after("audit-unavailable", text),
            // The tenant's own excess, as the gateway says it.
            CallError::Run(RunError::MemoryShare) => after("memory-share", text),
            CallError::Run(_) | CallError::Host => Self::host(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_tenant_above_its_share_of_memory_is_told_so_and_a_host_that_is_full_is_the_hosts() {
        let told = |error| {
            let error = ApiError::from(CallError::Run(error));
            (error.status(), error.code)
        };
        assert_eq!(told(RunError::MemoryShare), (StatusCode::TOO_MANY_REQUESTS, "memory-share"));
        assert_eq!(told(RunError::Overloaded), (StatusCode::SERVICE_UNAVAILABLE, "overloaded"));
        assert_eq!(told(RunError::Host("a cause".to_owned())), (StatusCode::SERVICE_UNAVAILABLE, "host-error"));
    }
}
