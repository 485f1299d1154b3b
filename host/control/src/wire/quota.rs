//! The wire types of quotas: what a tenant may have, what it uses of it, what was refused it.

use ringfence_core::{Quota, QuotaOverrides};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The figures of a quota. In a plan's effective quota an absent `cpu_permille` is no cap and an absent
/// `concurrency_count` the host's usual share; in overrides what is absent is the plan's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct QuotaFigures {
    /// Share of a full host against other tenants, 1 to 1000; 100 is usual.
    pub weight: Option<u32>,
    /// Most CPU time, in thousandths of one core.
    pub cpu_permille: Option<u32>,
    /// CPU time that may be spent faster than the cap after a rest, microseconds.
    pub cpu_burst_us: Option<u64>,
    /// Most invocations at once.
    pub concurrency_count: Option<u32>,
    /// Most calls a second, with a burst of one second's worth.
    pub requests_per_second: Option<u64>,
    /// Most memory of all running invocations together, bytes.
    pub memory_bytes: Option<u64>,
    /// Most bytes of key-value data, configuration, secrets and components together.
    pub storage_bytes: Option<u64>,
    /// Most key-value operations a second, with a burst of one second's worth.
    pub storage_ops_per_second: Option<u64>,
    /// Most outgoing requests a UTC day.
    pub egress_requests_per_day: Option<u64>,
    /// Most bytes of bodies of outgoing requests and their answers a UTC day.
    pub egress_bytes_per_day: Option<u64>,
    /// Most bytes of guest log a UTC day.
    pub log_bytes_per_day: Option<u64>,
    /// Most events of applications on the audit log a UTC day.
    pub audit_events_per_day: Option<u64>,
    /// Most plugins.
    pub plugins_count: Option<u64>,
    /// Most bytes of one uploaded component.
    pub component_bytes: Option<u64>,
    /// How long runs of workflows are kept after their end, 1 to 3650 days; 30 is usual.
    pub run_retention_days: Option<u64>,
}

/// `GET /tenants/{t}/quota`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct QuotaView {
    /// The tenant.
    pub tenant: String,
    /// Its plan.
    pub plan: String,
    /// What differs from the plan.
    #[schema(value_type = QuotaFigures)]
    pub overrides: QuotaOverrides,
    /// What is in force: the plan with what differs.
    #[schema(value_type = QuotaFigures)]
    pub effective: Quota,
    /// Counts up with every change; the `ETag`.
    pub version: u64,
    /// What is used now.
    #[serde(rename = "use")]
    pub used: QuotaUse,
    /// What was refused or held back since the host started.
    pub throttled: QuotaThrottled,
}

/// What a tenant uses now.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct QuotaUse {
    /// Invocations running.
    pub running_count: u64,
    /// Invocations waiting for a slot.
    pub waiting_count: u64,
    /// Memory of running invocations, bytes.
    pub memory_bytes: u64,
    /// Bytes of key-value data, configuration, secrets and components.
    pub storage_bytes: u64,
    /// Calls of about the last second.
    pub requests_this_second: u64,
    /// Key-value operations of about the last second.
    pub storage_ops_this_second: u64,
    /// Outgoing requests of this UTC day.
    pub egress_requests_today: u64,
    /// Bytes of bodies of outgoing requests and their answers of this UTC day.
    pub egress_bytes_today: u64,
    /// Bytes of guest log of this UTC day.
    pub log_bytes_today: u64,
    /// Events of applications on the audit log of this UTC day.
    #[serde(default)]
    pub audit_events_today: u64,
    /// Plugins.
    pub plugins_count: u64,
}

/// What was refused a tenant or held back since the host started.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct QuotaThrottled {
    /// CPU time that invocations waited for because of the cap, microseconds.
    pub cpu_us: u64,
    /// Calls over the rate.
    pub requests_count: u64,
    /// Calls when as many ran and waited as may.
    #[serde(default)]
    pub concurrency_count: u64,
    /// Growth of memory.
    pub memory_count: u64,
    /// Writes for want of storage.
    pub storage_count: u64,
    /// Key-value operations.
    pub storage_ops_count: u64,
    /// Outgoing requests, and bodies cut.
    pub egress_count: u64,
    /// Lines of guest log.
    pub log_count: u64,
    /// Events for the audit log.
    #[serde(default)]
    pub audit_events_count: u64,
    /// Uploads of one plugin too many.
    #[serde(default)]
    pub plugins_count: u64,
    /// Uploads of a component that is too large.
    #[serde(default)]
    pub component_bytes_count: u64,
}

/// `PUT /tenants/{t}/quota`: the whole choice; what is absent is the standard plan and no overrides.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetQuota {
    /// The plan; `standard` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What differs from the plan.
    #[serde(default)]
    #[schema(value_type = QuotaFigures)]
    pub overrides: QuotaOverrides,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_exactly_the_figures_of_a_quota() {
        let keys = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let figures: QuotaFigures = serde_json::from_value(serde_json::json!({})).unwrap();
        let described = keys(serde_json::to_value(&figures).unwrap());
        assert_eq!(described, keys(serde_json::to_value(Quota::STANDARD).unwrap()));
        let all: serde_json::Map<_, _> = described.iter().map(|key| (key.clone(), 1.into())).collect();
        let overrides: QuotaOverrides = serde_json::from_value(all.into()).unwrap();
        assert_eq!(keys(serde_json::to_value(overrides).unwrap()), described);
    }
}
