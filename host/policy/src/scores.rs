//! The trust scores of sessions in rules: who knows them, and which acts need them asked for.
//!
//! Must never leave out an act that a statement reads the score for: without it, the statement is held against a session of which
//! nothing is known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cedar_policy::Policy as CedarPolicy;
use ringfence_core::{PluginName, Principal, TenantId};

use crate::host_calls::actions;
use crate::occasion::Reads;
use crate::text::Form;

/// Tells where the session of a principal stands at this moment, 0 to 100, used from an address and, in a call, for a plugin; none
/// where there is no session.
pub type Scores = Box<dyn Fn(&Principal, Option<IpAddr>, Option<(&TenantId, &PluginName)>) -> Option<u8> + Send + Sync>;

/// For which acts statements read the score of who asks. A score is made of many signals, so it is asked for where it is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TrustReads {
    every: bool,
    acts: BTreeSet<String>,
}

impl TrustReads {
    pub(crate) fn of(policies: &[CedarPolicy], forms: &[Form]) -> Self {
        let mut all = Self::default();
        for (place, policy) in policies.iter().enumerate() {
            // One whose place in the text is not known may read anything.
            if forms.get(place).is_some_and(|form| !form.reads.has(Reads::TRUST)) {
                continue;
            }
            match actions(policy) {
                None => all.every = true,
                Some(named) => all.acts.extend(named.iter().map(|act| act.id().unescaped().to_owned())),
            }
        }
        all
    }

    /// What any of them reads.
    pub(crate) fn all<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.every |= part.every;
            all.acts.extend(part.acts.iter().cloned());
        }
        all
    }

    /// Whether the score is read for an act.
    pub(crate) fn at(&self, act: &str) -> bool {
        self.every || self.acts.contains(act)
    }
}
