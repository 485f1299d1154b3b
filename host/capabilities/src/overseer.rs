//! Who is asked beside the grant: whether policy leaves a guest this call to the host, now.
//!
//! Must never be asked in the place of the grant: what policy leaves and nobody granted is refused. Must never be cached here:
//! a policy that changed holds at the next call of a guest that is already running.

use std::sync::Arc;

use ringfence_core::{DecisionId, HostAct, HostCall, On};

use crate::host_calls::CallNotes;
use crate::logging::Notebook;
use crate::logs::LogLevel;
use crate::pii::Verdict;

/// A no of policy to one host call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forbidden {
    /// The decision on record; none when too many of them were recorded lately, and for what is not to be told.
    pub decision: Option<DecisionId>,
}

/// Asks policy for one invocation.
pub trait Overseer: Send + Sync {
    /// Whether policy leaves this call. Never waits; a no is counted, and put on record while those of late are few.
    fn ask(&self, call: &HostCall<'_>) -> Result<(), Forbidden>;
}

/// What the imports of one guest ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Leave {
    pub(crate) overseer: Arc<dyn Overseer>,
    pub(crate) notebook: Arc<Notebook>,
    /// What of it is to be on the tenant's log.
    pub(crate) notes: CallNotes,
}

impl Leave {
    /// Asks, and tells the plugin's owner of a no that is on record. The call is noted for the tenant's log, if it is to be.
    pub(crate) fn ask(&self, act: HostAct, on: On<'_>) -> Result<(), Forbidden> {
        let answer = self.answer(act, on);
        let verdict = if answer.is_ok() { Verdict::Granted } else { Verdict::Refused };
        self.notes.note_act(act, on, verdict);
        answer
    }

    fn answer(&self, act: HostAct, on: On<'_>) -> Result<(), Forbidden> {
        self.overseer.ask(&HostCall { act, on }).inspect_err(|forbidden| {
            // LIMIT: as many lines as decisions are recorded.
            if let Some(decision) = &forbidden.decision {
                let line = format!("`{}` was refused by policy; to see why: ringfence why {decision}", act.as_str());
                self.notebook.own(LogLevel::Warn, &line);
            }
        })
    }

    pub(crate) fn has(&self, act: HostAct, on: On<'_>) -> bool {
        self.ask(act, on).is_ok()
    }
}
