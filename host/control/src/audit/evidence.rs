//! Packages of evidence: a part of the log as an archive with its proofs, made here, checked anywhere.
//!
//! Must never hold more than a few for one tenant: the newest [`KEPT_COUNT`] stay, since each can be made again. Must never
//! give a package to somebody who may see less than who made it, nor off the record.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use http::{StatusCode, header};
use ringfence_audit::export::{Coverage, ExportError, Table};
use ringfence_audit::{Entry, Log, Selection, codes, redact, sees_all};
use ringfence_core::JobId;
use ringfence_core::proof::act;
use ringfence_store::{Key, Op, StoreError, TenantStore};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::filter::{Filter, Question};
use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{EvidenceView, NewEvidence, Problem};

/// Packages kept for one log.
const KEPT_COUNT: usize = 4;
/// LIMIT: largest package, in bytes.
const PACKAGE_BYTES_MAX: usize = 48 << 20;
/// LIMIT: entries of a random sample.
const SAMPLE_COUNT_MAX: u64 = 1_000;

/// Makes a package of the caller's own log.
#[utoipa::path(post, path = "/audit/evidence-package", tag = "audit", request_body = NewEvidence,
    responses((status = 201, body = EvidenceView), (status = "default", body = Problem)))]
pub async fn create(
    State(control): State<Control>,
    call: Call,
    JsonBody(new): JsonBody<NewEvidence>,
) -> Result<(StatusCode, Json<EvidenceView>), ApiError> {
    let (log, permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let details = serde_json::to_value(&new).unwrap_or_default();
    let effect = async |_permit| control.package(&call, &log, new).await;
    let view = control.bracket(&call, &log, permit, codes::AUDIT_EXPORTED, details, effect).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Fetches a package (a tar file), which is on the log as its making is. One that was made by somebody who may see more is
/// refused. Check it with `ringfence audit verify`, or as the `VERIFY.md` in it says.
#[utoipa::path(get, path = "/audit/evidence-packages/{package}", tag = "audit",
    responses((status = 200, content_type = "application/x-tar", body = Vec<u8>), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(package): Path<String>,
) -> Result<Response, ApiError> {
    let (log, permit) = control.own_log::<act::ReadAudit>(&call).await?;
    let id: JobId = package.parse().map_err(|_| ApiError::not_found())?;
    let store = control.store_of(&log);
    let record = store.get(&key(id.as_str())).await?.ok_or_else(ApiError::not_found)?;
    // Of one that an earlier version made nobody wrote down what it holds.
    let whole = store.get_json::<bool>(&whole_key(id.as_str())).await?.unwrap_or(true);
    let details = json!({ "package": id });
    control
        .bracket(&call, &log, permit, codes::AUDIT_EXPORTED, details, async |_permit| {
            if whole && !sees_all(call.principal.role()) {
                let text = "this package holds what your role may not see: addresses and requests of people";
                return Err(
                    ApiError::new("package-withheld", text).help("make one of your own: ringfence audit package")
                );
            }
            Ok(())
        })
        .await?;
    let name = format!("attachment; filename=\"{id}.tar\"");
    let headers = [(header::CONTENT_TYPE, "application/x-tar".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, record.value.to_vec()).into_response())
}

impl Control {
    async fn package(&self, call: &Call, log: &Log, new: NewEvidence) -> Result<EvidenceView, ApiError> {
        let audit = &self.parts.audit;
        let query = serde_json::to_value(&new.query).unwrap_or_default();
        let filter: Filter = serde_json::from_value(query)
            .map_err(|error| ApiError::new("bad-request", format!("`query` is not a question: {error}")))?;
        if let Some(word) = new.query.keys().find(|word| !KNOWN.contains(&word.as_str())) {
            return Err(ApiError::new("bad-word", format!("`query` knows no `{word}`")).help(KNOWN.join(", ")));
        }
        if let Some(other) = new.formats.iter().find(|format| !FORMATS.contains(&format.as_str())) {
            return Err(ApiError::new("bad-word", format!("`{other}` is no format")).help(FORMATS.join(", ")));
        }
        let table = |name: &str| new.formats.iter().any(|format| format == name).then_some(Table);
        let question = filter.question()?;
        let from = new.from_seq.unwrap_or(0);
        let to = new.to_seq.unwrap_or(u64::MAX).min(audit.size(log).await?);
        if from > to {
            return Err(ApiError::new("bad-request", format!("the log has no entries from {from} to {to}")));
        }
        let from = if from == 0 { audit.first(log).await? } else { from };
        let sample = self.sample(&new, from, to)?;
        let keep = |seq: u64, entry: &Entry| {
            sample.as_ref().is_none_or(|(_, picked)| picked.contains(&seq)) && question.fits(entry)
        };
        let role = call.principal.role();
        let take_out = |entry: &mut Entry| redact(role, entry);
        let words = json!({
            "from_seq": from, "to_seq": to, "filter": filter,
            "sample_seed": sample.as_ref().map(|(seed, _)| seed), "sample_count": new.sample_count,
        });
        let whole = filter.is_empty() && sample.is_none();
        let (from, to) = if whole { (from, to) } else { self.narrowed(log, &question, (from, to)).await? };
        let selection = Selection {
            from,
            to: Some(to),
            keep: if whole { None } else { Some(&keep) },
            redact: &take_out,
            query: words,
            csv: table("csv"),
            parquet: table("parquet"),
        };
        let (content, cut) = audit.export(log, selection).await?;
        let bytes = audit.archive(log, &content).map_err(|error: ExportError| ApiError::host(&error))?;
        if bytes.len() > PACKAGE_BYTES_MAX {
            let text = format!("the package is over {PACKAGE_BYTES_MAX} bytes");
            return Err(ApiError::new("audit-too-costly", text).help("ask for less with `from_seq` and `to_seq`"));
        }
        let id = JobId::random(&*self.parts.entropy);
        let view = EvidenceView {
            url: format!("/api/v1/audit/evidence-packages/{id}"),
            sha256: HEXLOWER.encode(&Sha256::digest(&bytes)),
            bytes: bytes.len() as u64,
            entries_count: content.rows.len() as u64,
            complete: content.coverage == Coverage::Complete && !cut,
            cut,
            checkpoint: content.checkpoint,
            id: id.to_string(),
        };
        self.keep_package(&self.store_of(log), &view.id, bytes, sees_all(role)).await?;
        Ok(view)
    }

    /// The part of a stretch outside of which nothing is of the times that are asked for. A stretch of which something is deleted
    /// stays as it is, and is refused by whoever reads it.
    async fn narrowed(&self, log: &Log, question: &Question, (from, to): (u64, u64)) -> Result<(u64, u64), ApiError> {
        let audit = &self.parts.audit;
        if from < audit.first(log).await? {
            return Ok((from, to));
        }
        let places = audit.places(log, question.times(), to).await?;
        let begins = places.first().map_or(from, |first| first.start.max(from));
        Ok((begins, places.last().map_or(begins, |last| last.end.max(begins))))
    }

    /// Random places by a seed: those whose SHA-256 with the seed is smallest, so that anyone can draw them again.
    fn sample(&self, new: &NewEvidence, from: u64, to: u64) -> Result<Option<(String, BTreeSet<u64>)>, ApiError> {
        let Some(count) = new.sample_count else { return Ok(None) };
        if count == 0 || count > SAMPLE_COUNT_MAX || to - from > 1_000_000 {
            let text = format!("a sample is 1 to {SAMPLE_COUNT_MAX} of at most 1000000 entries");
            return Err(ApiError::new("bad-request", text));
        }
        let seed = match &new.sample_seed {
            Some(text) => HEXLOWER.decode(text.as_bytes()).ok().filter(|seed| (8..=64).contains(&seed.len())),
            None => {
                let mut seed = vec![0; 16];
                self.parts.entropy.fill(&mut seed);
                Some(seed)
            }
        };
        let seed = seed.ok_or_else(|| ApiError::new("bad-word", "`sample_seed` is 8 to 64 bytes in hexadecimal"))?;
        let mut drawn: Vec<([u8; 32], u64)> = (from..to)
            .map(|seq| (Sha256::new().chain_update(&seed).chain_update(seq.to_be_bytes()).finalize().into(), seq))
            .collect();
        drawn.sort_unstable();
        drawn.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(Some((HEXLOWER.encode(&seed), drawn.into_iter().map(|(_, seq)| seq).collect())))
    }

    async fn keep_package(&self, store: &TenantStore, id: &str, bytes: Vec<u8>, whole: bool) -> Result<(), StoreError> {
        let order_key = Key::new(["audit-packages"]);
        let mut order: Vec<String> = store.get_json(&order_key).await?.unwrap_or_default();
        let mut ops = vec![Op::put(key(id), bytes), Op::put_json(whole_key(id), &whole)?];
        order.push(id.to_owned());
        while order.len() > KEPT_COUNT {
            let oldest = order.remove(0);
            ops.extend([Op::delete(key(&oldest)), Op::delete(whole_key(&oldest))]);
        }
        ops.push(Op::put_json(order_key, &order)?);
        store.batch(ops, Vec::new()).await.map(drop)
    }

    /// Where what belongs to a log's owner lies.
    pub(super) fn store_of(&self, log: &Log) -> TenantStore {
        match log {
            Log::Host => self.parts.tenants.platform().clone(),
            Log::Tenant(store) => store.clone(),
        }
    }
}

/// What a package can hold; the first always.
const FORMATS: [&str; 3] = ["jsonl", "csv", "parquet"];
/// The words of a question.
const KNOWN: [&str; 7] = ["from", "to", "class", "code", "actor", "resource", "outcome"];

fn key(id: &str) -> Key {
    Key::new(["audit-package", id])
}

/// Whether nothing was taken out of a package.
fn whole_key(id: &str) -> Key {
    Key::new(["audit-package-whole", id])
}
