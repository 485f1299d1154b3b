//! The rules that come with the host: the texts under docs/reference/rules, read at the start.
//!
//! Must never hold a rule without a trace that it fires on and one that it is silent on; the tests below have both.

use std::sync::Arc;

use crate::rules::Edition;
use crate::sigma::Rule;
use crate::sigma::engine::Pack;
use crate::{ThreatError, sigma};

/// Who owns them.
pub const OWNER: &str = "ringfence";

/// Their names and texts.
pub const TEXTS: [(&str, &str); 29] = [
    ("audit-gap", include_str!("../../../docs/reference/rules/audit-gap.yml")),
    ("backup-deletion", include_str!("../../../docs/reference/rules/backup-deletion.yml")),
    ("brute-force", include_str!("../../../docs/reference/rules/brute-force.yml")),
    ("canary", include_str!("../../../docs/reference/rules/canary.yml")),
    ("detection-weakened", include_str!("../../../docs/reference/rules/detection-weakened.yml")),
    ("dlp-hit", include_str!("../../../docs/reference/rules/dlp-hit.yml")),
    ("door-and-key", include_str!("../../../docs/reference/rules/door-and-key.yml")),
    ("egress-denied", include_str!("../../../docs/reference/rules/egress-denied.yml")),
    ("egress-scan", include_str!("../../../docs/reference/rules/egress-scan.yml")),
    ("egress-volume", include_str!("../../../docs/reference/rules/egress-volume.yml")),
    ("factor-refused", include_str!("../../../docs/reference/rules/factor-refused.yml")),
    ("isolation-violation", include_str!("../../../docs/reference/rules/isolation-violation.yml")),
    ("key-destruction", include_str!("../../../docs/reference/rules/key-destruction.yml")),
    ("mass-delete", include_str!("../../../docs/reference/rules/mass-delete.yml")),
    ("mass-open", include_str!("../../../docs/reference/rules/mass-open.yml")),
    ("mass-read", include_str!("../../../docs/reference/rules/mass-read.yml")),
    ("password-spray", include_str!("../../../docs/reference/rules/password-spray.yml")),
    ("personal-data-refused", include_str!("../../../docs/reference/rules/personal-data-refused.yml")),
    ("policy-then-grant", include_str!("../../../docs/reference/rules/policy-then-grant.yml")),
    ("privilege-escalation", include_str!("../../../docs/reference/rules/privilege-escalation.yml")),
    ("recovery-key-taken", include_str!("../../../docs/reference/rules/recovery-key-taken.yml")),
    ("request-burst", include_str!("../../../docs/reference/rules/request-burst.yml")),
    ("resource-exhaustion", include_str!("../../../docs/reference/rules/resource-exhaustion.yml")),
    ("self-grant", include_str!("../../../docs/reference/rules/self-grant.yml")),
    ("tenant-probing", include_str!("../../../docs/reference/rules/tenant-probing.yml")),
    ("tenant-purge", include_str!("../../../docs/reference/rules/tenant-purge.yml")),
    ("token-theft", include_str!("../../../docs/reference/rules/token-theft.yml")),
    ("trap-burst", include_str!("../../../docs/reference/rules/trap-burst.yml")),
    ("upload-refused", include_str!("../../../docs/reference/rules/upload-refused.yml")),
];

/// They, read.
pub fn packs() -> Result<Vec<Arc<Pack>>, ThreatError> {
    let read = |(name, text): &(&str, &str)| {
        let rules = sigma::parse(text).map_err(|what| ThreatError::BadRule { what: format!("`{name}`: {what}") })?;
        let edition = Edition::of(0, text);
        Ok(Arc::new(Pack { owner: OWNER.to_owned(), name: (*name).to_owned(), edition, rules }))
    };
    TEXTS.iter().map(read).collect()
}

/// Those of their rules that make findings: each suggests an answer, which what they build on does not.
pub fn rules() -> Result<Vec<Rule>, ThreatError> {
    let all = packs()?;
    let rules = all.iter().flat_map(|pack| &pack.rules);
    Ok(rules.filter(|rule| rule.response.is_some()).cloned().collect())
}

#[cfg(test)]
mod ordinary;
#[cfg(test)]
mod tests;
