//! All guest logs of the host: one [`StoredLog`] a plugin, opened when it is first asked for.
//!
//! Must never open the log of one plugin twice: two writers would write over each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_core::{Clock, PluginName, TenantId};
use ringfence_store::TenantStore;

use crate::logs::StoredLog;

/// All guest logs. Cheap to clone.
#[derive(Clone)]
pub struct GuestLogs {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    io: tokio::runtime::Handle,
    /// By the tenant's unique id, not its name: a name can be used again after a tenant is deleted.
    open: Mutex<HashMap<(String, PluginName), Arc<StoredLog>>>,
}

impl GuestLogs {
    /// None open yet; `io` runs the writers.
    pub fn new(clock: Arc<dyn Clock>, io: tokio::runtime::Handle) -> Self {
        Self { inner: Arc::new(Inner { clock, io, open: Mutex::default() }) }
    }

    /// The log of a plugin.
    pub fn of(&self, store: &TenantStore, plugin: &PluginName) -> Arc<StoredLog> {
        let mut open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        let log = open.entry((store.uid(), plugin.clone())).or_insert_with(|| {
            StoredLog::open(store.clone(), plugin.clone(), Arc::clone(&self.inner.clock), &self.inner.io)
        });
        Arc::clone(log)
    }

    /// Waits until all lines taken so far are written.
    pub async fn flush(&self) {
        let logs: Vec<Arc<StoredLog>> =
            self.inner.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for log in logs {
            log.flush().await;
        }
    }

    /// Lets go of a deleted tenant's logs.
    pub fn forget(&self, tenant: &TenantId) {
        let mut open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, log| log.tenant() != Some(tenant));
    }
}
