//! A Ringfence host with tenants, as the benchmarks need it; all of it through its two ports.
//!
//! Must never hold an access token for longer than it lives: [`Guest::target`] signs in again.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
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

/// What monitoring reads, at one moment.
pub struct Metrics(String);

impl Metrics {
    /// The value of a series (without `ringfence_`), over all its labels together.
    pub fn sum(&self, series: &str) -> Result<f64> {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix("ringfence_")?.strip_prefix(series)?;
            rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()).flatten()
        });
        let values = values.map(str::parse::<f64>).collect::<Result<Vec<f64>, _>>()?;
        ensure!(!values.is_empty(), "the host has no metric `{series}`");
        Ok(values.iter().sum())
    }
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
        // Whoever makes many takes longer than a session of the operator lives.
        let operator = self.host.sign_in(&self.operator.key).await?;
        let tenant = self.host.tenant(&operator, tenant).await?;
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

    /// The host's metrics now.
    pub async fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics(self.host.sign_in(&self.operator.key).await?.metrics().await?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_summed_over_its_labels_and_another_is_not_taken_for_it() {
        let text = "# TYPE ringfence_calls counter\nringfence_calls_total{tenant=\"a\"} 1.5\n\
            ringfence_calls_total{tenant=\"b\"} 2.0\nringfence_calls_total_more 9\nringfence_slots 128\n# EOF\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("calls_total").unwrap(), 3.5);
        assert_eq!(metrics.sum("slots").unwrap(), 128.0);
        assert!(metrics.sum("calls").is_err());
    }
}
