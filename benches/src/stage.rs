//! A Ringfence host with tenants, as the benchmarks need it; all of it through its two ports.
//!
//! Must never hold an access token for longer than it lives: [`Guest::target`] signs in again.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use ringfence_tests::{Host, Place, Session, Tenant, answer};
use serde_json::{Value, json};

use crate::load::Target;

/// A host, its directory and its operator.
pub struct Stage {
    /// Outlives the host.
    pub place: Place,
    /// The host.
    pub host: Host,
    /// Its operator.
    pub operator: Session,
}

/// A tenant with one plugin of interest.
pub struct Guest {
    /// The tenant.
    pub tenant: Tenant,
    plugin: String,
}

impl Stage {
    /// A fresh host.
    pub async fn new() -> Result<Self> {
        let place = Place::new()?;
        let host = Host::start(&place)?;
        let operator = host.operator().await?;
        Ok(Self { place, host, operator })
    }

    /// A new tenant with a built guest deployed under its own name.
    pub async fn guest(&self, tenant: &str, guest: &str, sections: &str, grants: &[(&str, &[&str])]) -> Result<Guest> {
        let tenant = self.host.tenant(&self.operator, tenant).await?;
        tenant.ship(guest, guest, sections, grants).await.with_context(|| format!("`{guest}` does not deploy"))?;
        Ok(Guest { tenant, plugin: guest.to_owned() })
    }

    /// Address of the data plane.
    pub fn plugins(&self) -> Result<SocketAddr> {
        Ok(self.host.plugins.trim_start_matches("http://").parse()?)
    }

    /// Address of the control plane.
    pub fn control(&self) -> Result<SocketAddr> {
        Ok(self.host.control.trim_start_matches("http://").parse()?)
    }

    /// Gives a tenant a weight. The error is the host's answer.
    pub async fn set_weight(&self, tenant: &str, weight: u32) -> Result<()> {
        let body = json!({ "overrides": { "weight": weight } });
        answer(self.operator.put(&format!("/tenants/{tenant}/quota")).json(&body).send().await?).await?;
        Ok(())
    }
}

impl Guest {
    /// What to call, with a token that lives five minutes from now.
    pub async fn target(&self, stage: &Stage, rest: &str) -> Result<Target> {
        let token = stage.host.sign_in(&self.tenant.admin.key).await?.token;
        let path = format!("/{}/{}{rest}", self.tenant.name, self.plugin);
        Ok(Target { address: stage.plugins()?, path, token })
    }

    /// CPU time metered for the tenant so far, microseconds.
    pub async fn metered_us(&self, stage: &Stage) -> Result<u64> {
        let session = stage.host.sign_in(&self.tenant.admin.key).await?;
        let usage = answer(session.get(&self.tenant.path("/usage")).send().await?).await?;
        usage.pointer("/total/cpu_us").and_then(Value::as_u64).with_context(|| format!("no CPU time in {usage}"))
    }
}
