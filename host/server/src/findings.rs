//! Carries findings from detection to identity: whoever a finding is about has a lower trust score for a while. Carries too
//! whether detection keeps up: while it does not, that nothing was found counts for nobody.
//!
//! The two rooms do not know each other. Must never let a tenant's rule or log lower the score of another tenant's people,
//! nor let a drill lower anybody's.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use ringfence_core::{Clock, PrincipalId, TenantId};
use ringfence_identity::{Finding as Severity, Identity};
use ringfence_threat::sigma::Level;
use ringfence_threat::{Finding, HOST_LOG, OPERATOR, Threat};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How long a finding counts, from when it was made.
const COUNTS: SignedDuration = SignedDuration::from_hours(24);
/// How often detection is asked whether it keeps up.
const LOOK: Duration = Duration::from_secs(2);
/// What a rule groups by when its findings are about whoever acted.
const ACTOR: &str = "actor.user.uid";

/// Identity being told of findings.
pub struct Telling {
    task: JoinHandle<()>,
    /// Dropped when no more come.
    more: oneshot::Sender<()>,
}

impl Telling {
    /// Tells of all findings from now on, and of how detection keeps up.
    pub fn begin(threat: Threat, identity: Identity, clock: Arc<dyn Clock>) -> Self {
        let ((more, ended), alerts) = (oneshot::channel(), threat.alerts());
        Self { task: tokio::spawn(tell((threat, alerts), identity, clock, ended)), more }
    }

    /// Once detection has ended: tells of what it found last, for so long at most.
    pub async fn end(self, most: Duration) {
        drop(self.more);
        if tokio::time::timeout(most, self.task).await.is_err() {
            tracing::error!("what was found last does not count in trust scores");
        }
    }
}

async fn tell(
    (threat, mut alerts): (Threat, Receiver<Arc<Finding>>),
    identity: Identity,
    clock: Arc<dyn Clock>,
    mut ended: oneshot::Receiver<()>,
) {
    let (mut look, mut kept_up) = (tokio::time::interval(LOOK), true);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            // What was found before the end is told before it.
            biased;
            told = alerts.recv() => told,
            _ = &mut ended => return,
            _ = look.tick() => {
                let keeps_up = threat.health().keeps_up();
                // Twice in a row: an old entry that is looked at after a start is behind for a moment, and detection is not.
                identity.note_detection(keeps_up || kept_up);
                kept_up = keeps_up;
                continue;
            }
        };
        let finding = match told {
            Ok(finding) => finding,
            Err(RecvError::Lagged(count)) => {
                tracing::error!(count, "findings came too fast, and do not count in trust scores");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let (Some(about), Ok(until)) = (about(&finding), clock.now().checked_add(COUNTS)) else { continue };
        let About { principal, tenant, severity } = about;
        match identity.note_finding(&principal, tenant.as_ref(), &finding.id, Some(severity), until).await {
            Ok(ended) if ended.is_empty() => {}
            Ok(ended) => tracing::info!(
                finding = %finding.id, %principal, ended_count = ended.len(), "sessions fell below their floor"
            ),
            Err(error) => tracing::warn!(finding = %finding.id, %error, "a finding does not count in a trust score"),
        }
    }
}

/// Whom a finding is about, and how bad it is.
#[derive(Debug, PartialEq, Eq)]
struct About {
    principal: PrincipalId,
    tenant: Option<TenantId>,
    severity: Severity,
}

/// None for a finding that is about nobody who signs in, or not for this log to say.
fn about(finding: &Finding) -> Option<About> {
    if finding.drill.is_some() {
        return None;
    }
    let severity = match finding.level {
        Level::Informational | Level::Low => return None,
        Level::Medium => Severity::Medium,
        Level::High | Level::Critical => Severity::High,
    };
    // What is grouped by an address or a resource is about that, whoever acted last.
    let named = match finding.group.iter().find(|(name, _)| name == ACTOR) {
        Some((_, value)) => Some(value),
        None if finding.group.is_empty() => finding.actor.as_ref(),
        None => None,
    };
    let principal: PrincipalId = named?.parse().ok()?;
    let (home, _) = principal.as_str().split_once('/')?;
    if finding.log != HOST_LOG && finding.log != home {
        return None;
    }
    let tenant = if home == OPERATOR { None } else { Some(home.parse().ok()?) };
    Some(About { principal, tenant, severity })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is a panic with a place")]

    use ringfence_threat::risk::Risk;

    use super::*;

    fn finding(log: &str, actor: &str) -> Finding {
        Finding {
            id: "f_a".into(),
            log: log.into(),
            rule_owner: log.into(),
            rule: "rule".into(),
            edition: None,
            title: "A title".into(),
            level: Level::High,
            attack: Vec::new(),
            attack_version: String::new(),
            group: Vec::new(),
            actor: Some(actor.into()),
            resource: None,
            source: None,
            evidence: Vec::new(),
            count: 1,
            first_ms: 0,
            last_ms: 0,
            found_ms: 0,
            risk: Risk { points: 1, contributions: Vec::new() },
            drill: None,
            response: None,
            found_us: 0,
            tried_ms: 0,
        }
    }

    #[test]
    fn a_finding_is_about_whoever_acted_and_a_tenant_speaks_of_its_own_people_alone() {
        let own = about(&finding("acme", "acme/ada")).unwrap();
        assert_eq!((own.principal.as_str(), own.tenant.unwrap().as_str()), ("acme/ada", "acme"));
        assert_eq!(own.severity, Severity::High);
        assert_eq!(about(&finding("acme", "globex/bob")), None);
        assert_eq!(about(&finding("acme", "operator/root")), None);
        assert_eq!(about(&finding(HOST_LOG, "globex/bob")).unwrap().tenant.unwrap().as_str(), "globex");
        assert_eq!(about(&finding(HOST_LOG, "operator/root")).unwrap().tenant, None);
        assert_eq!(about(&finding("acme", "anonymous")), None);
    }

    #[test]
    fn drills_small_matters_and_what_is_about_an_address_lower_nobodys_score() {
        let found = finding("acme", "acme/ada");
        assert_eq!(about(&Finding { drill: Some("d".into()), ..found.clone() }), None);
        assert_eq!(about(&Finding { level: Level::Low, ..found.clone() }), None);
        let group = vec![("src_endpoint.ip".to_owned(), "192.0.2.1".to_owned())];
        assert_eq!(about(&Finding { group, ..found.clone() }), None);
        let group = vec![(ACTOR.to_owned(), "acme/eve".to_owned())];
        let medium = about(&Finding { group, level: Level::Medium, ..found }).unwrap();
        assert_eq!((medium.principal.as_str(), medium.severity), ("acme/eve", Severity::Medium));
    }
}
