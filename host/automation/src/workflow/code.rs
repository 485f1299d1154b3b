//! Running a workflow's code as what it is: an invocation of its plugin, under permit, quota, slot and record.
//!
//! Must never run it in any other way. A refusal for want of room, quota or standing is no failure of the run: it waits. Nor
//! must what is held against one plugin or version keep the tenant's other runs waiting.

use futures::future::BoxFuture;
use ringfence_capabilities::Trail;
use ringfence_core::calls;
use ringfence_engine::{EventContext, EventFailure, Export, RunError};

use crate::workflow::drive::{NotRun, RunCall, Runner};
use crate::{Automation, Call, CallError, Effects};

/// Before a tenant whose policy does not allow its own plugin to be run is asked again, milliseconds.
const DENIED_MS: u64 = 30_000;
/// Before code that the host stopped is run again, milliseconds.
const STOPPED_MS: u64 = 1_000;

impl Runner for Automation {
    fn run(&self, call: RunCall) -> BoxFuture<'static, Result<Result<String, String>, NotRun>> {
        let this = self.clone();
        Box::pin(async move {
            let tenant = call.store.tenant().cloned().ok_or_else(|| no_code("there is no such tenant"))?;
            let principal = this.workload(&tenant, &call.plugin).map_err(|error| not_run(&error))?;
            let facts = call.history.facts();
            let attributes =
                vec![("by".to_owned(), call.by.to_string()), ("version".to_owned(), call.version.to_string())];
            let context = EventContext {
                name: call.workflow.clone(),
                id: call.run.to_string(),
                attempt: 1,
                at: jiff::Timestamp::from_millisecond(i64::try_from(facts.started_ms).unwrap_or(0))
                    .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
                    .to_string(),
                attributes,
            };
            let asked = Call {
                tenant,
                plugin: call.plugin,
                version: Some(call.version),
                export: Export::Workflow,
                payload: call.input.into_bytes(),
                context,
                principal,
                peer: None,
                cause: format!("run/{}", call.run),
                trail: Trail { traceparent: calls::traceparent_of_run(&call.run), ..call.trail },
                time_ms_max: None,
                begin_until: None,
                effects: Effects::Real,
            };
            match this.call_in_run(asked, Some(call.history)).await {
                Ok(done) => Ok(match done.answer {
                    Ok(bytes) => String::from_utf8(bytes).map_err(|_| "the result is not text".to_owned()),
                    Err(EventFailure::Refused(why) | EventFailure::Retry(why) | EventFailure::Failed(why)) => Err(why),
                }),
                Err(error) => Err(not_run(&error)),
            }
        })
    }
}

fn not_run(error: &CallError) -> NotRun {
    if let Some(retry_after_ms) = error.passes_after_ms() {
        return match error {
            CallError::Quarantined | CallError::Host => NotRun::RunWaits { retry_after_ms },
            _ => NotRun::NotNow { retry_after_ms },
        };
    }
    match error {
        // Stopped by a suspension or a drain: no doing of the code.
        CallError::Run(RunError::Killed | RunError::Host(_)) => NotRun::NotNow { retry_after_ms: STOPPED_MS },
        // The host has no room for this one, and may have for another that is smaller.
        CallError::Run(RunError::Overloaded | RunError::MemoryShare) => NotRun::RunWaits { retry_after_ms: STOPPED_MS },
        CallError::Denied(_) | CallError::OutOfScope(_) => NotRun::RunWaits { retry_after_ms: DENIED_MS },
        CallError::NoPlugin => no_code("this version of the plugin is not there"),
        other => NotRun::Failed { code: other.code().to_owned(), message: other.to_string() },
    }
}

fn no_code(message: &str) -> NotRun {
    NotRun::NoCode { message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_against_one_plugin_or_version_makes_one_run_wait_and_what_is_the_tenants_all_of_them() {
        let denied = CallError::Denied(ringfence_core::DecisionId::random(&Zeros));
        let large = CallError::Run(RunError::Overloaded);
        let share = CallError::Run(RunError::MemoryShare);
        for error in [denied, CallError::Quarantined, CallError::Host, large, share] {
            assert!(matches!(not_run(&error), NotRun::RunWaits { .. }), "{error}");
        }
        let busy = CallError::TenantBusy { retry_after_ms: 7 };
        let killed = CallError::Run(RunError::Killed);
        for error in [busy, CallError::Suspended, CallError::KeyDisabled, CallError::Overloaded, killed] {
            assert!(matches!(not_run(&error), NotRun::NotNow { .. }), "{error}");
        }
    }

    struct Zeros;
    impl ringfence_core::Entropy for Zeros {
        fn fill(&self, into: &mut [u8]) {
            into.fill(0);
        }
    }
}
