//! The one place that is told when a tenant can work: it was made, restored, resumed or unlocked, by somebody or at the end
//! of a response, or may have more.
//!
//! Must never be left out where one of these comes true: what waits would go on late, and what was not read would wait for
//! the next start.

use ringfence_core::TenantId;
use ringfence_store::TenantStore;
use ringfence_threat::Scope;

use crate::Control;

impl Control {
    /// A tenant can work now: queues and schedules that are not open are opened, and what waited goes on at once.
    pub(crate) async fn tenant_works(&self, id: &TenantId) {
        let Some(store) = self.parts.tenants.open_tenant(id) else { return };
        // Who puts it back to a backup says so once it is whole.
        if self.restoring.has(&store.uid()) {
            return;
        }
        // First: what is begun below is on the log as the tenant chose.
        self.reload_host_calls(&store).await;
        // SECURITY: only what was not read. Whoever may say that a tenant works would have its rules count from nothing.
        if !self.parts.threat.has_read(id) {
            self.reload_detection(id).await;
        }
        self.parts.automation.open_tenant(&store).await;
        self.parts.workflows.go_on(&store);
        self.parts.outward.open(&Scope::Tenant(id.clone())).await;
        self.reload_checks(&store).await;
    }

    /// A tenant's keys may be open again: when nobody has read it since the start it is read, and otherwise it can work. Whether
    /// it is read now. Not for who holds the turn to change it, for which a read waits.
    pub(crate) async fn tenant_unlocked(&self, id: &TenantId) -> bool {
        if !self.parts.tenants.is_unread(id) {
            self.tenant_works(id).await;
            return true;
        }
        self.read_tenant(id).await.unwrap_or_else(|error| {
            tracing::error!(tenant = %id, code = error.code, detail = error.detail, "an opened tenant cannot be read");
            false
        })
    }

    /// A tenant's records are others now: whoever keeps something of them in memory reads them anew. What must be in force
    /// before a call of it can come is not here, but in `load` of backup_work.rs.
    pub(crate) async fn tenant_replaced(&self, id: &TenantId, store: &TenantStore) {
        self.reload_detection(id).await;
        self.parts.automation.close_tenant(store).await;
        self.parts.automation.open_tenant(store).await;
        self.parts.workflows.read_anew(store);
        self.parts.outward.read_anew(&Scope::Tenant(id.clone())).await;
        self.reload_checks(store).await;
    }

    pub(crate) async fn reload_detection(&self, id: &TenantId) {
        if let Err(error) = self.parts.threat.reload(id).await {
            tracing::error!(tenant = %id, %error, "a tenant's own rules of detection are not in force");
        }
    }
}
