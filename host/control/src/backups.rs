//! Backups of a tenant: make, list, restore, rehearse, delete; and the recovery key that a tenant may take.
//!
//! Must never let an operator have a recovery key, nor replace what a tenant has without its name said twice.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{BackupId, QuotaChoice, TenantId};
use ringfence_keys::BackupKey;
use ringfence_store::StoreError;
use ringfence_store::backup::{BackupError, Keyring, Reason, Source, Stored};
use serde::Serialize;
use serde_json::json;

use crate::Control;
use crate::backup_work::Kind;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::problem::ApiError;
use crate::wire::{
    BackupView, DrillFailedView, DrillView, JobView, NewBackup, Page, Problem, RecoveryKey, RestoreArchive,
    RestoreBackup,
};

/// Lists a tenant's backups, the newest first.
#[utoipa::path(get, path = "/tenants/{tenant}/backups", tag = "backups",
    responses((status = 200, body = Page<BackupView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<BackupView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReadBackup>(&call, &tenant).await?;
    let all = control.parts.archives.list(&reached.store).await?;
    let uid = reached.store.uid();
    Ok(Json(Page { items: all.iter().map(|stored| view(&uid, stored)).collect(), cursor: None }))
}

/// Makes a backup while the tenant goes on working, and reads it back: 202 and a job.
#[utoipa::path(post, path = "/tenants/{tenant}/backups", tag = "backups", request_body = NewBackup,
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
pub async fn create(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(new): JsonBody<NewBackup>,
) -> Result<Response, ApiError> {
    let Reached { tenant, store, permit } = control.reach_tenant::<act::WriteBackup>(&call, &tenant).await?;
    let kind = match new.kind.as_deref() {
        None | Some("full") => Kind::Full,
        Some("incremental") => Kind::Incremental,
        Some(_) => return Err(ApiError::new("bad-word", "`kind` is `full` or `incremental`")),
    };
    let (this, id) = (control.clone(), tenant.clone());
    let work = async move {
        let log = Log::Tenant(store.clone());
        let details = json!({ "kind": new.kind.as_deref().unwrap_or("full") });
        let effect = async |_permit| this.back_up(&id, &store, kind, Reason::Asked).await;
        let stored = this.bracket(&call, &log, permit, codes::BACKUP_CREATED, details, effect).await?;
        Ok(view(&store.uid(), &stored))
    };
    control.begin("backup-create", Some(&tenant), work).await
}

/// Reads what is known of a backup.
#[utoipa::path(get, path = "/tenants/{tenant}/backups/{backup}", tag = "backups",
    responses((status = 200, body = BackupView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, backup)): Path<(String, String)>,
) -> Result<Json<BackupView>, ApiError> {
    let reached = control.reach_tenant::<act::ReadBackup>(&call, &tenant).await?;
    let stored = control.stored(&reached, &backup).await?;
    Ok(Json(view(&reached.store.uid(), &stored)))
}

/// Deletes a backup; refused while another builds on it.
#[utoipa::path(delete, path = "/tenants/{tenant}/backups/{backup}", tag = "backups",
    responses((status = 204), (status = "default", body = Problem)))]
pub async fn delete(
    State(control): State<Control>,
    call: Call,
    Path((tenant, backup)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let reached = control.reach_tenant::<act::WriteBackup>(&call, &tenant).await?;
    let id: BackupId = backup.parse().map_err(|_| ApiError::not_found())?;
    match control.parts.archives.stored(&reached.store, &id).await {
        // Of one whose record is damaged nothing is known but its name, and by that it is deleted.
        Ok(Some(_)) | Err(BackupError::Store(StoreError::Damaged)) => {}
        Ok(None) => return Err(ApiError::not_found()),
        Err(error) => return Err(error.into()),
    }
    let Reached { store, permit, .. } = reached;
    let (log, details) = (Log::Tenant(store.clone()), json!({ "backup": id.as_str() }));
    control
        .bracket(&call, &log, permit, codes::BACKUP_DELETED, details, async |_permit| {
            Ok(control.parts.archives.delete(&store, &id).await?)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Restores a backup into the tenant itself, or into a new one: 202 and a job.
#[utoipa::path(post, path = "/tenants/{tenant}/backups/{backup}/restore", tag = "backups", request_body = RestoreBackup,
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
pub async fn restore(
    State(control): State<Control>,
    call: Call,
    Path((tenant, backup)): Path<(String, String)>,
    JsonBody(asked): JsonBody<RestoreBackup>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::RestoreBackup>(&call, &tenant).await?;
    let backup = control.stored(&reached, &backup).await?.backup;
    let Reached { tenant, store, permit } = reached;
    let source = Source { tenant_uid: store.uid(), backup: backup.clone(), keyring: Keyring::of(&store).await? };
    let log = Log::Tenant(store.clone());
    let Some(into) = asked.into.filter(|into| into != tenant.as_str()) else {
        if asked.replace.as_deref() != Some(tenant.as_str()) && !control.parts.archives.is_empty(&store).await? {
            return Err(BackupError::NotEmpty.into());
        }
        let (this, id) = (control.clone(), tenant.clone());
        let work = async move {
            let (details, mut stranded) = (json!({ "backup": backup.as_str() }), None);
            let effect = async |_permit| {
                let restored = this.restore_in_place(&id, &store, &source, &mut stranded).await?;
                // What a start could not read is whole again.
                if this.parts.tenants.is_unread(&id) {
                    this.tenant_unlocked(&id).await;
                }
                Ok(restored)
            };
            let result = this.bracket(&call, &log, permit, codes::BACKUP_RESTORED, details, effect).await;
            // Its log has what came of it, and is closed from here on.
            if let Some(stranded) = stranded {
                this.shut_stranded(&id, &store, stranded).await;
            }
            result
        };
        return control.begin("backup-restore", Some(&tenant), work).await;
    };
    let create = control.reach_host::<act::CreateTenant>(&call).await?;
    let into: TenantId = into.parse()?;
    let record = control.parts.tenants.record(&tenant).await?.ok_or_else(ApiError::not_found)?;
    let this = control.clone();
    let work = async move {
        let details = json!({ "backup": backup.as_str(), "into": into.as_str() });
        let effect = async |_permit| {
            let details = json!({ "tenant": into.as_str(), "backup": backup.as_str() });
            let effect = async |_permit| this.restore_new(&source, &into, record.quota.clone()).await;
            this.bracket(&call, &Log::Host, create, codes::TENANT_CREATED, details, effect).await
        };
        this.bracket(&call, &log, permit, codes::BACKUP_RESTORED, details, effect).await
    };
    control.begin("backup-restore", Some(&tenant), work).await
}

/// Restores a backup of a tenant that this host does not have, with the recovery key that the tenant took: 202 and a job.
#[utoipa::path(post, path = "/restores", tag = "backups", request_body = RestoreArchive,
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
pub async fn restore_archive(
    State(control): State<Control>,
    call: Call,
    JsonBody(asked): JsonBody<RestoreArchive>,
) -> Result<Response, ApiError> {
    let permit = control.reach_host::<act::CreateTenant>(&call).await?;
    let into: TenantId = asked.into.parse()?;
    let backup: BackupId = asked.backup.parse()?;
    let quota = QuotaChoice { plan: crate::quota::plan(asked.plan.as_deref())?, ..QuotaChoice::default() };
    control.parts.quotas.check(&quota)?;
    let mut keyring = Keyring::default();
    keyring.add(read_key(&asked.recovery_key)?);
    let source = Source { tenant_uid: asked.tenant_uid, backup, keyring };
    // Said at once, not by the job: the file is not there, or another key opens it.
    control.parts.archives.check_head(&source).await?;
    let this = control.clone();
    let work = async move {
        let details = json!({ "tenant": into.as_str(), "backup": source.backup.as_str() });
        let effect = async |_permit| this.restore_new(&source, &into, quota.clone()).await;
        this.bracket(&call, &Log::Host, permit, codes::BACKUP_RESTORED, details, effect).await
    };
    control.begin("backup-restore", None, work).await
}

/// Restores a backup into a tenant that nobody sees, compares everything, and destroys it: 202 and a job.
#[utoipa::path(post, path = "/tenants/{tenant}/backups/{backup}/drill", tag = "backups",
    responses((status = 202, body = JobView), (status = "default", body = Problem)))]
pub async fn drill(
    State(control): State<Control>,
    call: Call,
    Path((tenant, backup)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let reached = control.reach_tenant::<act::WriteBackup>(&call, &tenant).await?;
    let backup = control.stored(&reached, &backup).await?.backup;
    let Reached { tenant, store, permit } = reached;
    let this = control.clone();
    let work = async move {
        let (log, details) = (Log::Tenant(store.clone()), json!({ "backup": backup.as_str() }));
        let effect = async |_permit| this.rehearse(&store, &backup).await;
        let stored = this.bracket(&call, &log, permit, codes::BACKUP_DRILLED, details, effect).await?;
        Ok(view(&store.uid(), &stored))
    };
    control.begin("backup-drill", Some(&tenant), work).await
}

/// Hands out the key that opens the tenant's backups, so that the tenant can restore them without this host's keys, also
/// after it was deleted here. Whoever has it can read every backup made under it.
#[utoipa::path(post, path = "/tenants/{tenant}/backups/recovery-key", tag = "backups",
    responses((status = 200, body = RecoveryKey), (status = "default", body = Problem)))]
pub async fn recovery_key(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<RecoveryKey>, ApiError> {
    let Reached { store, permit, .. } = control.reach_tenant::<act::TakeRecoveryKey>(&call, &tenant).await?;
    let log = Log::Tenant(store.clone());
    let effect = async |_permit| Ok(control.parts.archives.recovery_key(&store).await?);
    let key = control.bracket(&call, &log, permit, codes::RECOVERY_KEY_TAKEN, json!({}), effect).await?;
    Ok(Json(RecoveryKey { id: key.id(), recovery_key: key.to_text().expose().clone() }))
}

/// What a file of a backup says of itself, and whether it is whole: for looking at it without a host.
#[derive(Debug, Clone, Serialize)]
pub struct ArchiveReport {
    /// The backup.
    pub backup: String,
    /// The backup it builds on; none for a full one.
    pub parent: Option<String>,
    /// The unique id of the tenant it was made of.
    pub tenant_uid: String,
    /// Which key opens it.
    pub key: String,
    /// The host that made it.
    pub host: String,
    /// When.
    pub created_at: String,
    /// What is in it, once it was read to its end; none without its key.
    pub content: Option<ArchiveContent>,
}

/// What is in an archive that was read to its end and is whole.
#[derive(Debug, Clone, Serialize)]
pub struct ArchiveContent {
    /// The tenant's name.
    pub tenant: String,
    /// Records in it.
    pub records_count: u64,
    /// Blobs in it.
    pub blobs_count: u64,
    /// Bytes of their contents.
    pub content_bytes: u64,
}

/// Checks a file of a backup: its head and its form, and with the recovery key everything in it.
pub async fn check_archive(file: std::fs::File, recovery_key: Option<&str>) -> Result<ArchiveReport, ApiError> {
    let key = recovery_key.map(read_key).transpose()?;
    let (head, manifest) = ringfence_store::backup::check_file(file, key.as_ref()).await?;
    Ok(ArchiveReport {
        backup: head.backup.to_string(),
        parent: head.parent.map(|parent| parent.to_string()),
        tenant_uid: head.tenant_uid,
        key: head.key,
        host: head.host,
        created_at: head.created_at.to_string(),
        content: manifest.map(|manifest| ArchiveContent {
            tenant: manifest.tenant.to_string(),
            records_count: manifest.records_count,
            blobs_count: manifest.blobs_count,
            content_bytes: manifest.value_bytes.saturating_add(manifest.blob_bytes),
        }),
    })
}

fn read_key(text: &str) -> Result<BackupKey, ApiError> {
    text.parse().map_err(|error| ApiError::new("bad-recovery-key", format!("{error}")))
}

impl Control {
    /// A tenant's backup by an id that was not parsed yet.
    async fn stored<A>(&self, reached: &Reached<A>, backup: &str) -> Result<Stored, ApiError> {
        let id: BackupId = backup.parse().map_err(|_| ApiError::not_found())?;
        self.parts.archives.stored(&reached.store, &id).await?.ok_or_else(ApiError::not_found)
    }
}

fn view(uid: &str, stored: &Stored) -> BackupView {
    BackupView {
        id: stored.backup.to_string(),
        tenant_uid: uid.to_owned(),
        parent: stored.parent.as_ref().map(ToString::to_string),
        scheduled: stored.reason == Reason::Scheduled,
        created_at: stored.created_at.to_string(),
        revision: stored.revision,
        records_count: stored.records_count,
        blobs_count: stored.blobs_count,
        content_bytes: stored.content_bytes,
        file_bytes: stored.file_bytes,
        damaged_count: stored.damaged_count,
        lost_count: stored.lost_count,
        verified_at: stored.verified_at.to_string(),
        drill: stored.drill.as_ref().map(|drill| DrillView {
            at: drill.at.to_string(),
            records_count: drill.records_count,
            blobs_count: drill.blobs_count,
            content_bytes: drill.content_bytes,
            took_ms: drill.took_ms,
        }),
        drill_failed: stored
            .drill_failed
            .as_ref()
            .map(|failed| DrillFailedView { at: failed.at.to_string(), what: failed.what.clone() }),
    }
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        let text = error.to_string();
        match error {
            BackupError::Unknown => Self::new("backup-missing", text),
            BackupError::NotAnArchive | BackupError::Damaged { .. } | BackupError::ParentMissing { .. } => {
                tracing::error!(error = %text, "a backup cannot be restored");
                Self::new("backup-damaged", text)
            }
            BackupError::Newer { .. } => Self::new("backup-newer", text),
            BackupError::NoKey => {
                Self::new("backup-no-key", text).help("restore it with the recovery key that its tenant took")
            }
            BackupError::HasChild { .. } => Self::new("backup-in-use", text).help("delete that one first"),
            BackupError::NotEmpty => Self::new("tenant-not-empty", text)
                .help("`ringfence restore BACKUP --replace` puts the backup in place of what is there"),
            BackupError::TooMuchKept => Self::new("backup-too-large", text),
            BackupError::Differs { .. } => {
                tracing::error!(error = %text, "a drill failed");
                Self::new("drill-failed", text)
            }
            BackupError::Full => Self::new("backups-full", text),
            BackupError::Io { .. } => {
                tracing::error!(error = %text, "backups cannot be written or read");
                Self::new("backups-unavailable", "the directory of the backups is out of reach; try again")
            }
            BackupError::Store(error) => error.into(),
        }
    }
}
