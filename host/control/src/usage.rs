//! Metering of a tenant, by plugin and day, and the signed receipts of days that are over. Days are UTC days; a part of a
//! day counts whole.
//!
//! Must never show a figure that the day's receipt does not: both come from the same sums.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Day, UsageSum};
use ringfence_core::PluginName;
use ringfence_core::proof::act;
use ringfence_store::PageToken;
use serde::Deserialize;

use crate::Control;
use crate::call::Call;
use crate::extract::{Asked, Paging};
use crate::problem::ApiError;
use crate::wire::{Page, Problem, ReceiptView, UsageDay, UsageRow, UsageView};

/// LIMIT: longest time that is shown day by day.
const BY_DAY_HOURS_MAX: i64 = 400 * 24;

/// The time to sum over.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Window {
    /// RFC 3339; 30 days ago when absent.
    from: Option<String>,
    /// RFC 3339; now when absent.
    to: Option<String>,
    /// `day` for the sums of each day beside the whole.
    by: Option<String>,
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
    let by_day = match window.by.as_deref() {
        None => false,
        Some("day") if to.duration_since(from) > SignedDuration::from_hours(BY_DAY_HOURS_MAX) => {
            return Err(ApiError::new("bad-request", "ask for at most 400 days at a time with `by=day`"));
        }
        Some("day") => true,
        Some(_) => return Err(ApiError::new("bad-request", "`by` can be `day`")),
    };
    let days = control.parts.metering.usage_by_day(&reached.store, from, to).await?;
    let mut sums: BTreeMap<PluginName, UsageSum> = BTreeMap::new();
    for (plugin, sum) in days.values().flatten() {
        sums.entry(plugin.clone()).or_default().add(sum);
    }
    Ok(Json(UsageView {
        from: from.to_string(),
        to: to.to_string(),
        total: row("*", &UsageSum::total(sums.values())),
        plugins: rows(&sums),
        days: by_day.then(|| days.iter().map(|(day, sums)| day_view(*day, sums)).collect()),
    }))
}

/// Lists a tenant's usage receipts, oldest first.
#[utoipa::path(get, path = "/tenants/{tenant}/receipts", tag = "tenants", params(Paging),
    responses((status = 200, body = Page<ReceiptView>), (status = "default", body = Problem)))]
pub async fn receipts(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<ReceiptView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadUsage>(&call, &tenant).await?;
    let after: Option<PageToken> = paging
        .cursor
        .as_deref()
        .map(|cursor| cursor.parse().map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours")))
        .transpose()?;
    let (found, next) = control.parts.metering.receipts(&reached.store, after.as_ref(), paging.limit()).await?;
    let items = found.into_iter().map(|one| ReceiptView { day: one.day.to_string(), hash: one.hash }).collect();
    Ok(Json(Page { items, cursor: next.map(|next| next.to_string()) }))
}

/// Reads the signed usage receipt of a UTC day, a C2SP signed note; of today, one over what was used so far.
#[utoipa::path(get, path = "/tenants/{tenant}/receipts/{day}", tag = "tenants",
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem)))]
pub async fn receipt(
    State(control): State<Control>,
    call: Call,
    Path((tenant, day)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::ReadUsage>(&call, &tenant).await?;
    let day: Day = day.parse().map_err(|error| ApiError::new("bad-request", format!("{error}")))?;
    let note = control.parts.metering.receipt(&reached.store, day).await?;
    let note =
        note.ok_or_else(|| ApiError::new("not-found", format!("there is no receipt of {day}: nothing was used then")))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response())
}

fn parse(text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    text.map(|text| text.parse().map_err(|_| bad("from` and `to"))).transpose()
}

fn bad(what: &str) -> ApiError {
    ApiError::new("bad-request", format!("`{what}` must be RFC 3339 times, `from` not after `to`"))
}

fn day_view(day: Day, sums: &BTreeMap<PluginName, UsageSum>) -> UsageDay {
    UsageDay { day: day.to_string(), total: row("*", &UsageSum::total(sums.values())), plugins: rows(sums) }
}

fn rows(sums: &BTreeMap<PluginName, UsageSum>) -> Vec<UsageRow> {
    sums.iter().map(|(plugin, sum)| row(plugin.as_str(), sum)).collect()
}

fn row(plugin: &str, sum: &UsageSum) -> UsageRow {
    UsageRow {
        plugin: plugin.to_owned(),
        invocations_count: sum.invocations_count,
        failures_count: sum.failures_count,
        failures_by_caller_count: sum.failures_by_caller_count,
        failures_by_plugin_count: sum.failures_by_plugin_count,
        failures_by_host_count: sum.failures_by_host_count,
        cpu_us: sum.cpu_us,
        wall_us: sum.wall_us,
        memory_bytes_peak: sum.memory_bytes_peak,
        memory_byte_us: sum.memory_byte_us.to_string(),
        memory_gib_seconds: sum.memory_byte_us as f64 / 1e6 / f64::from(1 << 30),
        request_bytes: sum.request_bytes,
        response_bytes: sum.response_bytes,
        log_bytes: sum.log_bytes,
        host_calls_count: sum.host_calls_count,
        outgoing_count: sum.outgoing_count,
        egress_out_bytes: sum.egress_out_bytes,
        egress_in_bytes: sum.egress_in_bytes,
        storage_ops_count: sum.storage_ops_count,
        storage_byte_us: sum.storage_byte_us.to_string(),
        storage_byte_hours: sum.storage_byte_us as f64 / 3.6e9,
    }
}
