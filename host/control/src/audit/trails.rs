//! A tenant's trail: entries that fit a question, opened, without what the reader's role may not see.
//!
//! Must never answer before the reading itself is on the record.

use axum::Json;
use axum::extract::{Path, State};
use ringfence_audit::{Log, redact};
use ringfence_core::limits;
use ringfence_core::proof::act;
use serde::Deserialize;
use serde_json::json;

use super::filter::Filter;
use crate::Control;
use crate::call::Call;
use crate::extract::Asked;
use crate::problem::ApiError;
use crate::wire::{Problem, Trail, TrailEvent};

/// LIMIT: entries looked at for one page.
const SCAN_COUNT_MAX: u64 = 5_000;

/// What page of what.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Not before this time, RFC 3339.
    from: Option<String>,
    /// Before this time, RFC 3339.
    to: Option<String>,
    /// OCSF class, such as 6003.
    class: Option<String>,
    /// Code, whole or its beginning, such as `TEN-001`.
    code: Option<String>,
    /// Who, whole.
    actor: Option<String>,
    /// On what, whole or its beginning.
    resource: Option<String>,
    /// `success`, `failure`, `denied`, `intended` or `unknown`.
    outcome: Option<String>,
    /// Where the last page ended.
    cursor: Option<u64>,
    /// Most entries to answer; 100 when absent, 1000 at most.
    limit: Option<usize>,
}

/// Reads entries that fit, oldest first. A page may hold fewer than asked for and still have a cursor: so many entries are
/// looked at for one page. Entries of other times than asked for are passed over without being looked at, wherever it is known
/// that the host's clock did not go back.
#[utoipa::path(get, path = "/audit/trails/{tenant}", tag = "audit", params(("tenant" = String, Path), Page),
    responses((status = 200, body = Trail), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(page): Asked<Page>,
) -> Result<Json<Trail>, ApiError> {
    let reached = control.reach_tenant::<act::ReadAudit>(&call, &tenant).await?;
    let log = Log::Tenant(reached.store);
    let (start, limit) = (page.cursor, page.limit.unwrap_or(100).clamp(1, limits::PAGE_COUNT_MAX));
    let Page { from, to, class, code, actor, resource, outcome, .. } = page;
    let filter = Filter { from, to, class, code, actor, resource, outcome };
    let question = filter.question()?;
    control.reading(&call, &log, reached.permit, json!({ "filter": filter, "cursor": start, "limit": limit })).await?;
    let audit = &control.parts.audit;
    let (checkpoint, first) = (audit.checkpoint(&log).await?, audit.first(&log).await?);
    // A place that was deleted after its retention is refused; without a place one begins with what is left.
    let start = start.unwrap_or(first);
    if start < first {
        audit.list(&log, start, 1).await?;
    }
    let (mut events, mut scanned_count, mut cursor) = (Vec::new(), 0, None);
    'pages: for place in audit.places(&log, question.times(), checkpoint.size).await? {
        let mut seq = place.start.max(start);
        while seq < place.end {
            let count = (place.end - seq).min(SCAN_COUNT_MAX - scanned_count);
            let entries = audit.list(&log, seq, usize::try_from(count).unwrap_or(usize::MAX)).await?;
            if entries.is_empty() {
                cursor = Some(seq.to_string());
                break 'pages;
            }
            for mut entry in entries {
                if events.len() == limit {
                    cursor = Some(seq.to_string());
                    break 'pages;
                }
                if question.fits(&entry) {
                    let redacted = redact(call.principal.role(), &mut entry);
                    let personal = control.personal_part(call.principal.role(), &log, &entry).await;
                    let salt = Some(entry.salt).filter(|salt| !salt.is_empty());
                    let body = entry.body.unwrap_or_default();
                    events.push(TrailEvent { seq, envelope: entry.envelope, body, salt, redacted, personal });
                }
                (seq, scanned_count) = (seq + 1, scanned_count + 1);
            }
        }
    }
    let vkey = audit.vkey(&log);
    let deleted_before = (first > 0).then_some(first);
    Ok(Json(Trail { events, scanned_count, cursor, deleted_before, checkpoint: checkpoint.text, vkey }))
}
