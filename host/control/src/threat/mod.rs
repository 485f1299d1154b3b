//! Detection and response: `/security/...`. Whose it is follows from the credential: an operator's is the host's, everybody
//! else's is his tenant's.
//!
//! Must never show one owner what is another's, nor hold anything that the audit log has no intent for.

pub mod findings;
pub mod incidents;
pub mod intelligence;
pub mod responses;
pub mod rules;
mod stix;

use ringfence_audit::Log;
use ringfence_core::{Action, Permit};
use ringfence_threat::{Scope, ThreatError};

use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;

/// Where the words of a step of an incident are listed.
const STEP_HELP: &str = "ringfence threat incident step --help";

/// An owner that policy let this call act for.
pub(crate) struct Owner<A> {
    /// Whose.
    pub scope: Scope,
    /// Its log.
    pub log: Log,
    /// What was allowed.
    pub permit: Permit<A>,
}

impl Control {
    /// Asks policy about the caller's own owner.
    pub(crate) async fn owner<A: Action>(&self, call: &Call) -> Result<Owner<A>, ApiError> {
        match call.principal.tenant() {
            None => Ok(Owner { scope: Scope::Host, log: Log::Host, permit: self.reach_host::<A>(call).await? }),
            Some(tenant) => {
                let reached = self.reach_tenant::<A>(call, tenant.as_str()).await?;
                Ok(Owner {
                    scope: Scope::Tenant(reached.tenant),
                    log: Log::Tenant(reached.store),
                    permit: reached.permit,
                })
            }
        }
    }
}

impl From<ThreatError> for ApiError {
    fn from(error: ThreatError) -> Self {
        let text = error.to_string();
        match error {
            ThreatError::NotFound => Self::not_found(),
            ThreatError::BadRule { .. } => Self::new("bad-rule", text).help("docs/reference/rules"),
            ThreatError::BadResponse { .. } => Self::new("bad-response", text),
            ThreatError::TooWide { .. } => {
                Self::new("response-too-wide", text).help("hold the principal or its sessions instead of the address")
            }
            ThreatError::BadSettings { .. } => Self::new("bad-threat-settings", text),
            ThreatError::BadBundle { .. } => Self::new("bad-bundle", text),
            ThreatError::BadTransition { .. } => Self::new("bad-transition", text),
            ThreatError::BadStep { .. } => Self::new("bad-step", text).help(STEP_HELP),
            ThreatError::Changed => Self::new("precondition-failed", text),
            ThreatError::SecondPerson => Self::new("second-person-needed", text)
                .help("another takes the same step as you did; nothing waits to be allowed, and keys of one owner are one person"),
            ThreatError::TooMany { .. } | ThreatError::Over { .. } => Self::new("conflict", text),
            ThreatError::Busy => Self::new("overloaded", text),
            ThreatError::Store(error) => error.into(),
            ThreatError::Audit(error) => error.into(),
        }
    }
}

/// A time of the log as text.
pub(crate) fn at(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_is_told_what_the_other_has_to_do() {
        let alone = ApiError::from(ThreatError::SecondPerson);
        assert!(alone.help.is_some_and(|help| help.starts_with("another takes the same step")));
    }
}
