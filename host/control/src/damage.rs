//! What of a tenant does not open any more: found, named, and removed where nobody restores it.
//!
//! Must never remove what opens; nor let a tenant remove what the host keeps about it, which may be what shuts somebody out; nor
//! show an operator or an auditor a name that the tenant gave.

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::RunId;
use ringfence_core::proof::act;
use ringfence_store::{Key, RottenRecord, Segment};
use serde_json::json;

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::{Asked, Paging};
use crate::problem::ApiError;
use crate::wire::{DamageView, Page, Problem};

/// LIMIT: words of a name that are shown; below them are names that guests gave.
const WITHIN_COUNT_MAX: usize = 3;

/// Lists records that do not open. A page may be empty and still have a cursor: it looks at 1,000 records at most.
#[utoipa::path(get, path = "/tenants/{tenant}/damage", tag = "backups", params(Paging),
    responses((status = 200, body = Page<DamageView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    Asked(paging): Asked<Paging>,
) -> Result<Json<Page<DamageView>>, ApiError> {
    let Reached { store, permit, .. } = control.reach_tenant::<act::ReadBackup>(&call, &tenant).await?;
    let after = paging.cursor.as_deref().map(str::parse).transpose();
    let after = after.map_err(|_| ApiError::new("bad-cursor", "the cursor is not one of ours"))?;
    control.reading(&call, &Log::Tenant(store.clone()), permit, json!({ "view": "damage" })).await?;
    let (found, next) = store.rotten(after.as_ref()).await?;
    let items = found.iter().map(|record| view(record, call.principal.tenant().is_some())).collect();
    Ok(Json(Page { items, cursor: next.map(|token| token.to_string()) }))
}

/// Removes a record that does not open, by the place that the list has. What the host keeps about a tenant (policies, keys, people,
/// responses) an operator removes; of a run that nobody can read any more all is removed.
#[utoipa::path(delete, path = "/tenants/{tenant}/damage/{place}", tag = "backups",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn remove(
    State(control): State<Control>,
    call: Call,
    Path((tenant, place)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let Reached { store, permit, .. } = control.reach_tenant::<act::RestoreBackup>(&call, &tenant).await?;
    let record = store.rotten_at(&place).await?.ok_or_else(ApiError::not_found)?;
    if call.principal.tenant().is_some() && !record.is_of_guests() {
        let text = "this record is the host's about the tenant: an operator removes it, or a backup brings it back";
        return Err(ApiError::new("held-by-operator", text).help("ringfence restore BACKUP --replace"));
    }
    let log = Log::Tenant(store.clone());
    let details = json!({ "place": record.place, "area": record.area(), "run": run_of(&record.name) });
    control
        .bracket(&call, &log, permit, codes::DAMAGE_REMOVED, details, async |_permit| {
            let removed = store.remove_rotten(&place).await?.ok_or_else(ApiError::not_found)?;
            if let Some(run) = run_of(&removed.name) {
                control.parts.workflows.take_away(&store, &run).await?;
            }
            Ok(())
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The run whose record this is, where the name says so.
fn run_of(name: &Key) -> Option<RunId> {
    match name.segments() {
        [Segment::Name(area), Segment::Name(_), Segment::Name(run), ..] if area == "run" => run.parse().ok(),
        _ => None,
    }
}

fn view(record: &RottenRecord, is_of_tenant: bool) -> DamageView {
    let words = record.name.segments().iter().take(WITHIN_COUNT_MAX).map(|segment| match segment {
        Segment::Name(name) => name.clone(),
        Segment::Number(number) => number.to_string(),
    });
    let is_shown = is_of_tenant && record.is_of_guests();
    DamageView {
        place: record.place.clone(),
        area: record.area().to_owned(),
        within: is_shown.then(|| words.collect::<Vec<_>>().join("/")),
        run: is_shown.then(|| run_of(&record.name).map(|run| run.to_string())).flatten(),
        by_operator: !record.is_of_guests(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_of_a_record_is_told_by_its_name_and_by_no_other() {
        let run: RunId = "run_aaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap();
        for kind in ["head", "log"] {
            assert_eq!(run_of(&Key::new(["run", kind, run.as_str()])), Some(run.clone()));
        }
        assert_eq!(run_of(&Key::new(["run", "log", run.as_str()]).number(7)), Some(run.clone()));
        for other in [Key::new(["kv", "log", run.as_str()]), Key::new(["run", "log"]), Key::new(["run", "log", "n"])] {
            assert_eq!(run_of(&other), None);
        }
    }
}
