//! What is looked at before a response is made: whom it would touch, and whether its owner may make it.
//!
//! Must never change anything, nor count what is another owner's, nor take whom it does not know yet for nobody.

use std::time::Duration;

use jiff::Timestamp;
use ringfence_core::limits::ACCESS_TOKEN_SECONDS;
use ringfence_core::{PrincipalId, TenantId};

use crate::ThreatError;
use crate::response::{self, Asked, Blast, Kind, Scope};
use crate::settings::SourceBlocks;
use crate::threat::Threat;

/// How long after a start it is taken for known who is behind an address: whoever works signs in anew within the life of a
/// session, and this is three of them.
const KNOWN_AFTER: Duration = Duration::from_secs(3 * ACCESS_TOKEN_SECONDS as u64);

impl Threat {
    /// Whom a response would touch; refuses one that may not be made. Changes nothing.
    pub fn preview(&self, scope: &Scope, by: &PrincipalId, asked: Asked) -> Result<(Asked, Blast), ThreatError> {
        let asked = asked.check(scope, by)?;
        let now = self.inner.clock.now();
        let (held_count, blocked_count) = self.held_counts(scope, now);
        if held_count >= response::IN_FORCE_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "responses in force", count_max: response::IN_FORCE_COUNT_MAX });
        }
        let mut blast = self.blast(&asked, now);
        if asked.kind == Kind::BlockSource && !self.knows_people(scope) {
            blast.notes.push("the host was started of late: not everybody behind this address is known yet".to_owned());
        }
        if asked.kind == Kind::BlockSource {
            self.may_block(scope, &blast, blocked_count)?;
        }
        Ok((asked, blast))
    }

    /// Whether it is known who is behind an address, as far as a rule needs it that acts by itself: what was seen of people is
    /// not kept over a stop, and of a log that is older it must be seen anew.
    pub(crate) fn knows_people(&self, scope: &Scope) -> bool {
        let since = self.inner.clock.monotonic().saturating_sub(self.inner.opened);
        since >= KNOWN_AFTER || !self.history().is_partial(scope.tenant().map(TenantId::as_str))
    }

    /// How many responses of an owner hold or wait, and how many of those block an address.
    fn held_counts(&self, scope: &Scope, now: Timestamp) -> (usize, usize) {
        let state = self.state();
        let (mut held_count, mut blocked_count) = (0, 0);
        for response in state.responses.values() {
            if response.scope == *scope && (response.is_in_force(now) || response.is_waiting(now)) {
                held_count += 1;
                blocked_count += usize::from(response.kind == Kind::BlockSource);
            }
        }
        (held_count, blocked_count)
    }

    fn blast(&self, asked: &Asked, now: Timestamp) -> Blast {
        let history = self.history();
        let target = &asked.target;
        let mut blast = Blast::default();
        let mut note = |words: &str| blast.notes.push(words.to_owned());
        note("known are the recorded acts of the last day; calls of plugins that went well are counted, not named");
        match (asked.kind, &target.principal, target.source, &target.tenant) {
            (Kind::Alert, ..) => {}
            (_, Some(principal), ..) => {
                blast.acts_count = history.acts_count(principal.as_str());
                blast.principals = vec![principal.to_string()];
            }
            (_, None, Some(source), _) => {
                note("who has signed in is let through; only requests without a session are refused");
                blast.principals = history.behind(source, now.as_millisecond());
            }
            (Kind::QuarantineVersion, ..) => note("every route of the tenants concerned that serves this component"),
            (_, _, _, Some(tenant)) => (blast.principals, blast.acts_count) = history.of_tenant(tenant.as_str()),
            _ => {}
        }
        blast
    }

    fn may_block(&self, scope: &Scope, blast: &Blast, blocked_count: usize) -> Result<(), ThreatError> {
        if self.settings(scope).block_source == SourceBlocks::Refused {
            let what = "blocking addresses is not allowed by this owner's settings".to_owned();
            return Err(ThreatError::BadResponse { what });
        }
        if blocked_count >= response::BLOCKED_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "blocked addresses", count_max: response::BLOCKED_COUNT_MAX });
        }
        if blast.principals.len() > response::OTHERS_BEHIND_COUNT_MAX {
            let what = format!("{} principals were seen behind this address in the last day", blast.principals.len());
            return Err(ThreatError::TooWide { what });
        }
        Ok(())
    }
}
