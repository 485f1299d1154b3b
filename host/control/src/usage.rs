//! Metering of a tenant, by plugin. Days are UTC days; a part of a day counts whole.

use axum::Json;
use axum::extract::{Path, State};
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::UsageSum;
use ringfence_core::proof::act;
use serde::Deserialize;

use crate::Control;
use crate::call::Call;
use crate::extract::Asked;
use crate::problem::ApiError;
use crate::wire::{Problem, UsageRow, UsageView};

/// The time to sum over.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Window {
    /// RFC 3339; 30 days ago when absent.
    from: Option<String>,
    /// RFC 3339; now when absent.
    to: Option<String>,
}

/// Reads what a tenant used.
#[utoipa::path(get, path = "/tenants/{tenant}/usage", tag = "tenants", params(Window),
    responses((status = 200, body = UsageView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(window): Asked<Window>,
) -> Result<Json<UsageView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadUsage>(&call, &tenant).await?;
    let now = control.parts.clock.now();
    let to = parse(window.to.as_deref())?.unwrap_or(now);
    let from = match parse(window.from.as_deref())? {
        Some(from) => from,
        None => to.checked_sub(SignedDuration::from_hours(30 * 24)).map_err(|_| bad("from"))?,
    };
    if from > to {
        return Err(bad("from"));
    }
    let sums = control.parts.metering.usage(&reached.store, from, to).await?;
    let mut total = UsageSum::default();
    sums.values().for_each(|sum| total.add(sum));
    Ok(Json(UsageView {
        from: from.to_string(),
        to: to.to_string(),
        total: row("*", &total),
        plugins: sums.iter().map(|(plugin, sum)| row(plugin.as_str(), sum)).collect(),
    }))
}

fn parse(text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    text.map(|text| text.parse().map_err(|_| bad("from` and `to"))).transpose()
}

fn bad(what: &str) -> ApiError {
    ApiError::new("bad-request", format!("`{what}` must be RFC 3339 times, `from` not after `to`"))
}

fn row(plugin: &str, sum: &UsageSum) -> UsageRow {
    UsageRow {
        plugin: plugin.to_owned(),
        invocations_count: sum.invocations_count,
        failures_count: sum.failures_count,
        cpu_us: sum.cpu_us,
        wall_us: sum.wall_us,
        memory_bytes_peak: sum.memory_bytes_peak,
        response_bytes: sum.response_bytes,
        host_calls_count: sum.host_calls_count,
        outgoing_count: sum.outgoing_count,
    }
}
