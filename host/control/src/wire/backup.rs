//! The wire types of backups, restores and jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /tenants/{tenant}/backups`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBackup {
    /// `full`, or `incremental`: what changed since the newest backup, or everything when there is none. `full` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// A backup.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    /// Its id.
    pub id: String,
    /// The unique id of the tenant it was made of: the name of the directory that its file lies in.
    pub tenant_uid: String,
    /// The backup it builds on; absent for a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Whether the host's schedule made it, and so its retention may remove it.
    pub scheduled: bool,
    /// When it was made.
    pub created_at: String,
    /// The revision of the store that it shows.
    pub revision: u64,
    /// Records in it.
    pub records_count: u64,
    /// Blobs in it.
    pub blobs_count: u64,
    /// Bytes of their contents.
    pub content_bytes: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Records and blobs of the tenant that were damaged when it was made: restoring it in place mends them.
    pub damaged_count: u64,
    /// Of these, what neither it has nor one that it builds on.
    pub lost_count: u64,
    /// When it was last read to its end and found whole.
    pub verified_at: String,
    /// The last drill that found no difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillView>,
    /// The last drill, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill_failed: Option<DrillFailedView>,
}

/// A record that does not open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamageView {
    /// Where it lies: the same each time, and in the host's log.
    pub place: String,
    /// What it is of, such as `kv` or `run`; `unknown` where not even that can be read.
    pub area: String,
    /// The first three words of its name, such as plugin and bucket, as far as they open; for the tenant's own alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// The run that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Whether only an operator removes it: it is the host's about the tenant, and what it said may have shut somebody out.
    pub by_operator: bool,
}

/// A drill that did not come to its end, or found a difference.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DrillFailedView {
    /// When.
    pub at: String,
    /// Why, in words.
    pub what: String,
}

/// A drill that found no difference.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DrillView {
    /// When.
    pub at: String,
    /// Records restored and compared.
    pub records_count: u64,
    /// Blobs restored and compared.
    pub blobs_count: u64,
    /// Bytes of them.
    pub content_bytes: u64,
    /// How long restoring and comparing took, milliseconds.
    pub took_ms: u64,
}

/// `POST /tenants/{tenant}/backups/{backup}/restore`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBackup {
    /// Name of a new tenant to restore into; the tenant itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub into: Option<String>,
    /// The tenant's own name once more, when what it has is to be replaced; not needed when it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<String>,
}

/// `POST /restores`: a backup of a tenant that this host does not have, or not any more.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreArchive {
    /// The unique id of the tenant it was made of: its directory below the host's backups.
    pub tenant_uid: String,
    /// The backup: its file in there, without `.rfb`.
    pub backup: String,
    /// Name of the new tenant.
    pub into: String,
    /// Its plan; `standard` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The recovery key that the tenant took.
    pub recovery_key: String,
}

/// `POST /tenants/{tenant}/backups/recovery-key`: shown in this answer only.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct RecoveryKey {
    /// Which key it is; a backup says in clear which one opens it.
    pub id: String,
    /// The key. Opens every backup made under it, also after the tenant was deleted.
    pub recovery_key: String,
}

/// A long piece of work.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// `backup-create`, `backup-restore` or `backup-drill`.
    pub kind: String,
    /// The tenant it is about; absent when it is about the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// `running`, `succeeded` or `failed`.
    pub state: String,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// What came of it, by kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// Why a job failed: code and detail as in a problem.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobError {
    /// Stable slug.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// What mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}
