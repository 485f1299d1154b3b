//! `quota`: a flag a figure, named as the API names it.

use clap::{Args, Subcommand};
use ringfence_core::{PlanName, QuotaOverrides, TenantId};

use super::TenantOptionalArgs;

/// `quota ...`.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Show what a tenant may have and uses
    Show(TenantOptionalArgs),
    /// Choose a tenant's plan and what differs from it
    Set(Box<QuotaSetArgs>),
}

/// `quota set`.
#[derive(Debug, Clone, Args)]
pub struct QuotaSetArgs {
    /// The tenant
    pub name: TenantId,
    /// The plan; stays when absent
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<PlanName>,
    /// Drop what differs from the plan before the rest
    #[arg(long)]
    pub reset: bool,
    /// Share of a full host, 1 to 1000; 100 is usual
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Most CPU time, thousandths of one core
    #[arg(long, value_name = "N")]
    pub cpu_permille: Option<u32>,
    /// CPU time over the cap after a rest, microseconds
    #[arg(long, value_name = "US")]
    pub cpu_burst_us: Option<u64>,
    /// Most invocations at once
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// Most calls a second
    #[arg(long, value_name = "N")]
    pub requests_per_second: Option<u64>,
    /// Most memory of what runs at once
    #[arg(long, value_name = "BYTES")]
    pub memory_bytes: Option<u64>,
    /// Most bytes of data and components
    #[arg(long, value_name = "BYTES")]
    pub storage_bytes: Option<u64>,
    /// Most key-value operations a second
    #[arg(long, value_name = "N")]
    pub storage_ops_per_second: Option<u64>,
    /// Most outgoing requests a day
    #[arg(long, value_name = "N")]
    pub egress_requests_per_day: Option<u64>,
    /// Most bytes out and back a day
    #[arg(long, value_name = "BYTES")]
    pub egress_bytes_per_day: Option<u64>,
    /// Most bytes of guest log a day
    #[arg(long, value_name = "BYTES")]
    pub log_bytes_per_day: Option<u64>,
    /// Most events of applications on the audit log a day
    #[arg(long, value_name = "N")]
    pub audit_events_per_day: Option<u64>,
    /// Most plugins
    #[arg(long, value_name = "N")]
    pub plugins: Option<u64>,
    /// Most bytes of one component
    #[arg(long, value_name = "BYTES")]
    pub component_bytes: Option<u64>,
    /// How long runs of workflows are kept after their end
    #[arg(long, value_name = "DAYS")]
    pub run_retention_days: Option<u64>,
}

impl QuotaSetArgs {
    /// What differs from the plan when this is done to `before`.
    pub fn over(&self, before: QuotaOverrides) -> QuotaOverrides {
        let before = if self.reset { QuotaOverrides::default() } else { before };
        QuotaOverrides {
            weight: self.weight.or(before.weight),
            cpu_permille: self.cpu_permille.or(before.cpu_permille),
            cpu_burst_us: self.cpu_burst_us.or(before.cpu_burst_us),
            concurrency_count: self.concurrency.or(before.concurrency_count),
            requests_per_second: self.requests_per_second.or(before.requests_per_second),
            memory_bytes: self.memory_bytes.or(before.memory_bytes),
            storage_bytes: self.storage_bytes.or(before.storage_bytes),
            storage_ops_per_second: self.storage_ops_per_second.or(before.storage_ops_per_second),
            egress_requests_per_day: self.egress_requests_per_day.or(before.egress_requests_per_day),
            egress_bytes_per_day: self.egress_bytes_per_day.or(before.egress_bytes_per_day),
            log_bytes_per_day: self.log_bytes_per_day.or(before.log_bytes_per_day),
            audit_events_per_day: self.audit_events_per_day.or(before.audit_events_per_day),
            plugins_count: self.plugins.or(before.plugins_count),
            component_bytes: self.component_bytes.or(before.component_bytes),
            run_retention_days: self.run_retention_days.or(before.run_retention_days),
        }
    }
}
