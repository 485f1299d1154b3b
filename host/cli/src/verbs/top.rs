//! `top`: what tenants are using now, from two readings of the host's counters, over and over until Ctrl-C.
//!
//! Must never show a rate that the host's own clock does not bear out: the time between two readings is the host's.

use std::time::Duration;

use ringfence_control::wire::{LoadView, LoadsView};
use serde::Serialize;

use crate::Format;
use crate::args::TopArgs;
use crate::client::{Api, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{bytes_words, table};

/// What one tenant used between two readings.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Rates {
    tenant: String,
    /// Invocations that hold a slot at the second reading.
    running_count: u64,
    /// Invocations that wait for one.
    waiting_count: u64,
    /// Of one core.
    cpu_percent: f64,
    requests_per_second: f64,
    failures_per_second: f64,
    /// Mean, over the invocations that ended in between.
    memory_bytes: f64,
    /// Of the time between.
    throttled_percent: f64,
}

/// `ringfence top`.
pub async fn top(cx: &mut Context<'_>, args: &TopArgs) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let mut before = read(&api).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(args.interval.into())).await;
        let now = read(&api).await?;
        let rates = rates(&before, &now);
        match cx.ui.format {
            Format::Json => cx.ui.json(&serde_json::json!({ "tenants": rates }))?,
            Format::Text if args.once => cx.ui.text(&text(&rates))?,
            Format::Text => cx.ui.redraw(&text(&rates))?,
        }
        if args.once {
            return Ok(Exit::Ok);
        }
        before = now;
    }
}

async fn read(api: &Api) -> Result<LoadsView, CliError> {
    Ok(api.send::<LoadsView>(&Request::get("/host/loads")).await?.value)
}

/// The busiest first. Counters that went back (the host was restarted) count from zero.
fn rates(before: &LoadsView, now: &LoadsView) -> Vec<Rates> {
    let since_us = now.read_at_us.checked_sub(before.read_at_us).unwrap_or(now.read_at_us).max(1);
    let seconds = since_us as f64 / 1e6;
    let nothing = LoadView::default();
    let mut rates: Vec<Rates> = now
        .tenants
        .iter()
        .map(|now| {
            let before = before.tenants.iter().find(|before| before.tenant == now.tenant).unwrap_or(&nothing);
            let grown = |of: fn(&LoadView) -> u64| of(now).checked_sub(of(before)).unwrap_or_else(|| of(now)) as f64;
            let memory = |load: &LoadView| load.memory_byte_us.parse::<u128>().unwrap_or(0);
            let memory_byte_us = memory(now).checked_sub(memory(before)).unwrap_or_else(|| memory(now));
            Rates {
                tenant: now.tenant.clone(),
                running_count: now.running_count,
                waiting_count: now.waiting_count,
                cpu_percent: 100.0 * grown(|load| load.cpu_us) / since_us as f64,
                requests_per_second: grown(|load| load.invocations_count) / seconds,
                failures_per_second: grown(|load| load.failures_count) / seconds,
                memory_bytes: memory_byte_us as f64 / since_us as f64,
                throttled_percent: 100.0 * grown(|load| load.throttled_us) / since_us as f64,
            }
        })
        .collect();
    rates.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent).then_with(|| a.tenant.cmp(&b.tenant)));
    rates
}

fn text(rates: &[Rates]) -> String {
    let rows: Vec<[String; 8]> = rates
        .iter()
        .map(|one| {
            [
                one.tenant.clone(),
                one.running_count.to_string(),
                one.waiting_count.to_string(),
                format!("{:.1}", one.cpu_percent),
                format!("{:.1}", one.requests_per_second),
                format!("{:.1}", one.failures_per_second),
                // A mean of bytes is far below 2^53.
                bytes_words(one.memory_bytes as u64),
                format!("{:.1}", one.throttled_percent),
            ]
        })
        .collect();
    table(["tenant", "running", "waiting", "cpu %", "calls/s", "failed/s", "memory", "capped %"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(tenant: &str, calls: u64, cpu_us: u64) -> LoadView {
        let memory_byte_us = (u128::from(calls) << 40).to_string();
        LoadView { tenant: tenant.into(), invocations_count: calls, cpu_us, memory_byte_us, ..LoadView::default() }
    }

    #[test]
    fn rates_are_differences_over_the_hosts_own_time() {
        let before = LoadsView { read_at_us: 1_000_000, tenants: vec![load("acme", 10, 0)] };
        let now =
            LoadsView { read_at_us: 3_000_000, tenants: vec![load("acme", 14, 500_000), load("new", 2, 1_500_000)] };
        let rates = rates(&before, &now);
        let shown: Vec<_> = rates.iter().map(|one| (&*one.tenant, one.cpu_percent, one.requests_per_second)).collect();
        assert_eq!(shown, [("new", 75.0, 1.0), ("acme", 25.0, 2.0)]);
        assert_eq!(rates[1].memory_bytes, 4.0 * (1_u64 << 40) as f64 / 2e6);
    }

    #[test]
    fn a_host_that_was_restarted_counts_from_zero() {
        let before = LoadsView { read_at_us: 9_000_000, tenants: vec![load("acme", 10, 5_000_000)] };
        let now = LoadsView { read_at_us: 2_000_000, tenants: vec![load("acme", 4, 1_000_000)] };
        let rates = rates(&before, &now);
        assert_eq!((rates[0].cpu_percent, rates[0].requests_per_second), (50.0, 2.0));
    }
}
