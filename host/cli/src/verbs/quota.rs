//! `quota`: what a tenant may have, and what it uses of it.
//!
//! Must never write over a change that somebody made between reading and writing.

use ringfence_control::wire::{QuotaView, SetQuota};

use crate::args::{QuotaSetArgs, TenantOptionalArgs};
use crate::client::Request;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{bytes_words, micros_words, table};

/// `ringfence quota show`.
pub async fn show(cx: &mut Context<'_>, args: &TenantOptionalArgs) -> Result<Exit, CliError> {
    let (api, name) = match &args.name {
        Some(name) => (cx.of_tenant(name)?, name.clone()),
        None => cx.tenant().await?,
    };
    let answer = api.send::<QuotaView>(&Request::get(path(name.as_str()))).await?;
    cx.print(&answer, quota_text)?;
    Ok(Exit::Ok)
}

/// `ringfence quota set`.
pub async fn set(cx: &mut Context<'_>, args: &QuotaSetArgs) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let path = path(args.name.as_str());
    let before = api.send::<QuotaView>(&Request::get(path.clone())).await?.value;
    let overrides = args.over(before.overrides);
    let plan = args.plan.as_ref().map_or(before.plan, ToString::to_string);
    let wanted = serde_json::to_value(SetQuota { plan: Some(plan), overrides }).unwrap_or_default();
    let request = Request::put(path, wanted).header("if-match", format!("\"{}\"", before.version));
    let answer = api.send::<QuotaView>(&request).await?;
    cx.print(&answer, |quota| format!("set the quota of tenant {}\n{}", quota.tenant, quota_text(quota)))?;
    Ok(Exit::Ok)
}

fn path(tenant: &str) -> String {
    format!("/tenants/{tenant}/quota")
}

fn quota_text(quota: &QuotaView) -> String {
    let (may, uses, held) = (&quota.effective, &quota.used, &quota.throttled);
    let own = serde_json::to_value(quota.overrides).unwrap_or_default();
    let cap = may.cpu_permille.map_or("no cap".to_owned(), |cap| format!("{cap} permille of a core"));
    let at_once = may.concurrency_count.map_or("no cap".to_owned(), |count| count.to_string());
    let refused = |count: u64| if count == 0 { String::new() } else { count.to_string() };
    let waited = if held.cpu_us == 0 { String::new() } else { micros_words(held.cpu_us) };
    let running = format!("{}, {} waiting", uses.running_count, uses.waiting_count);
    let none = String::new;
    let rows = [
        ("weight", may.weight.to_string(), none(), none()),
        ("cpu_permille", cap, none(), waited),
        ("cpu_burst_us", micros_words(may.cpu_burst_us), none(), none()),
        ("concurrency_count", at_once, running, refused(held.concurrency_count)),
        (
            "requests_per_second",
            may.requests_per_second.to_string(),
            uses.requests_this_second.to_string(),
            refused(held.requests_count),
        ),
        ("memory_bytes", bytes_words(may.memory_bytes), bytes_words(uses.memory_bytes), refused(held.memory_count)),
        ("storage_bytes", bytes_words(may.storage_bytes), bytes_words(uses.storage_bytes), refused(held.storage_count)),
        (
            "storage_ops_per_second",
            may.storage_ops_per_second.to_string(),
            uses.storage_ops_this_second.to_string(),
            refused(held.storage_ops_count),
        ),
        (
            "egress_requests_per_day",
            may.egress_requests_per_day.to_string(),
            uses.egress_requests_today.to_string(),
            refused(held.egress_count),
        ),
        ("egress_bytes_per_day", bytes_words(may.egress_bytes_per_day), bytes_words(uses.egress_bytes_today), none()),
        (
            "log_bytes_per_day",
            bytes_words(may.log_bytes_per_day),
            bytes_words(uses.log_bytes_today),
            refused(held.log_count),
        ),
        (
            "audit_events_per_day",
            may.audit_events_per_day.to_string(),
            uses.audit_events_today.to_string(),
            refused(held.audit_events_count),
        ),
        ("plugins_count", may.plugins_count.to_string(), uses.plugins_count.to_string(), refused(held.plugins_count)),
        ("component_bytes", bytes_words(may.component_bytes), none(), refused(held.component_bytes_count)),
        ("run_retention_days", may.run_retention_days.to_string(), none(), none()),
    ];
    let rows: Vec<[String; 5]> = rows
        .into_iter()
        .map(|(figure, may, uses, held)| {
            let from = if own.get(figure).is_some() { "own" } else { "plan" };
            [figure.to_owned(), may, from.to_owned(), uses, held]
        })
        .collect();
    format!("plan  {}\n{}", quota.plan, table(["figure", "may", "from", "uses", "refused"], &rows))
}
