//! Personal data on its way out of a tenant, put on the tenant's log: which plugin, what, where to, how often.
//!
//! Must never hold what was found. What could not be put on the log is told with the next.

use std::time::Duration;

use ringfence_audit::{AuditError, Event as AuditEvent, Log, Outcome, codes};
use ringfence_core::{Loss, LossKind, LossPlace, LossTaken, TenantId};
use serde_json::json;

use crate::response::Scope;
use crate::threat::Threat;

impl Threat {
    /// Puts on the logs what was found since the last time and is not told yet; for the end of the host.
    pub async fn flush_losses(&self) {
        self.tell_losses(None).await;
    }

    /// Puts on the logs what is to be told now; everything without a time.
    pub(crate) async fn tell_losses(&self, now: Option<Duration>) {
        for loss in self.inner.standing.take_losses(now) {
            // Of a tenant that is gone nobody asks.
            let scope = loss.tenant.clone().map_or(Scope::Host, Scope::Tenant);
            let log = match (&scope, self.store(&scope)) {
                (Scope::Host, _) => Log::Host,
                // SECURITY: one that has the name of another by now is told nothing of its plugins.
                (Scope::Tenant(_), Ok(store)) if loss.tenant_uid.as_ref().is_none_or(|uid| *uid == store.uid()) => {
                    Log::Tenant(store)
                }
                (Scope::Tenant(_), _) => continue,
            };
            let outcome = if loss.taken == LossTaken::Refused { Outcome::Denied } else { Outcome::Success };
            match self.inner.audit.record_outcome(&log, self.loss_event(&loss), outcome).await {
                Ok(_) | Err(AuditError::Gone) => {}
                Err(error) => {
                    tracing::warn!(%error, "what a plugin sent out or logged could not be put on the record yet");
                    self.inner.standing.lost(loss);
                }
            }
        }
    }

    fn loss_event(&self, loss: &Loss) -> AuditEvent {
        let code = if loss.kind == LossKind::Uninspected { codes::DATA_UNINSPECTED } else { codes::DATA_LOSS };
        let (action, direction) =
            if loss.place == LossPlace::Log { ("write-log", "log") } else { ("send-request", "egress") };
        let home = loss.tenant.as_ref().map_or("operator", TenantId::as_str);
        let resource = format!("tenant/{home}/plugin/{}", loss.plugin);
        let mut event = AuditEvent::new(code, action, self.inner.audit.actor(), resource);
        event.details = json!({
            "detector": loss.kind.as_str(), "direction": direction, "place": loss.place.as_str(), "host": loss.host,
            "taken": loss.taken.as_str(), "count": loss.count, "others_count": loss.others_count,
            "invocation": loss.invocation,
        });
        let label = self.drill_named(loss.plugin.as_str());
        if let (Some(label), Some(details)) = (label, event.details.as_object_mut()) {
            details.insert("drill".to_owned(), label.into());
        }
        event
    }
}
