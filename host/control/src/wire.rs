//! The control plane's wire types: what the API answers and accepts, and so what the command line prints with `--json`.
//!
//! Must never hold a secret in a type that is logged; [`TokenResponse`] and [`NewToken`] answers are written once and dropped.

use ringfence_core::{Need, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod access;
mod audit;
mod audit_keeping;
mod automation;
mod backup;
mod checks;
mod devices;
mod keys;
mod outward;
mod people;
mod pii;
mod policy;
mod quota;
mod threat;
mod trust;
mod workflow;
mod zero_trust;

pub use access::*;
pub use audit::*;
pub use audit_keeping::*;
pub use automation::*;
pub use backup::{
    BackupView, DamageView, DrillFailedView, DrillView, JobError, JobView, NewBackup, RecoveryKey, RestoreArchive,
    RestoreBackup,
};
pub use checks::{
    CheckDetail, CheckResult, CheckView, CheckWritten, HostCallSettings, PutCheck, RemediateViolation,
    RemediationParams, RemediationView,
};
pub use devices::*;
pub use keys::{
    DestroyView, DestructionView, DisabledView, KeyVersionView, OwnKeyView, ResealView, RootKeyView, RootRotated,
    RotateKey, TenantKeyView,
};
pub use outward::*;
pub use people::*;
pub use pii::{ErasureView, FieldRuleBody, FieldRulesBody, SubjectView};
pub use policy::*;
pub use quota::{QuotaFigures, QuotaThrottled, QuotaUse, QuotaView, SetQuota};
pub use threat::*;
pub use trust::*;
pub use workflow::{
    DecideRun, MigrateRun, QueryView, RetryRun, RunDetail, RunView, SignalRun, StartRun, TerminateRun, TimelineEntry,
    WaitView, WorkflowView,
};
pub use zero_trust::{
    CertificateHolderWord, ClaimRoleWord, ClientCertificateTrust, ClientCertificateTrustView, FederatedStartView,
    IdentityProvider, IdentityProviderView, SessionView, SetSignInSettings, SignInSettingsView, StartFederated,
    TokenScope, UnboundTokensWord,
};

/// RFC 9457 problem, `application/problem+json`; every refusal of both ports.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem. On this port `/docs/errors/<code>`, where it is explained; elsewhere `urn:ringfence:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable slug.
    pub code: String,
    /// What is wrong, in the caller's words.
    pub detail: String,
    /// A command or an act that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The request's id, to quote in a question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The policy decision behind a denial; `ringfence why <id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_id: Option<String>,
    /// For `need-not-granted`: what is needed and what of it is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<NeedState>,
    /// For `step-up-required`: what would help. `code` (or a passkey), `passkey`, `certificate` (a sign-in with one), or
    /// `less-risk` where nothing that could be proved would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<String>,
}

/// One need beside what is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeedState {
    /// `keyvalue`, `config`, `logging`, `secrets`, `http`, `blob` or `files`.
    pub capability: String,
    /// One named thing of a scoped capability; absent when the whole capability is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whether the tenant's grants cover it.
    pub granted: bool,
    /// Whether the version before did not need it.
    #[serde(rename = "new")]
    pub is_new: bool,
}

/// `POST /zero-trust/authenticate`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Authenticate {
    /// The one-time operator enrolment token of a first start.
    Bootstrap {
        /// The token.
        token: String,
        /// The operator's name; `operator` when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// An API key of a service or a person.
    ApiKey {
        /// The key.
        key: String,
    },
    /// The client certificate of this TLS connection; the token is bound to it.
    ClientCertificate {
        /// The tenant whose trust roots it is checked against.
        tenant: String,
    },
    /// An invitation; it is used up, and the session is for adding a passkey or one-time codes.
    Invitation {
        /// The whole of it, `rfi_...`.
        token: String,
        /// The password to set; absent for somebody who will only use passkeys.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<String>,
    },
    /// A person's password, with a one-time code where he has them. Whatever is wrong, the refusal is the same.
    Password {
        /// `acme/ann`, `operator/ada`.
        principal: String,
        /// The password.
        password: String,
        /// A one-time code, or a recovery code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// A passkey: what the authenticator answered to `POST /zero-trust/passkeys/sign-in`.
    Passkey {
        /// Which ceremony.
        ceremony: String,
        /// The browser's `PublicKeyCredential` in JSON.
        #[schema(value_type = Object)]
        answer: serde_json::Value,
    },
    /// An identity provider: what it sent back to a sign-in that `POST /zero-trust/federation/sign-in` began.
    Federated {
        /// The `state`.
        ceremony: String,
        /// The `code`.
        code: String,
        /// The `iss`, where the provider sends one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuer: Option<String>,
    },
}

/// Answer of `authenticate`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenResponse {
    /// EdDSA `at+jwt`; send it as `Authorization: <token_type>`.
    pub access_token: String,
    /// `Bearer`, or `DPoP` when the sign-in came with a proof of possession (RFC 9449): then every request needs one.
    pub token_type: String,
    /// Seconds until it expires.
    pub expires_in: i64,
    /// The session it belongs to.
    pub session_id: String,
    /// Who it speaks for.
    pub principal: PrincipalView,
    /// How far it is trusted.
    pub trust: Trust,
}

/// A principal as the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PrincipalView {
    /// `operator/ada`, `acme/ci`.
    pub id: String,
    /// `person`, `service` or `anonymous`.
    pub kind: String,
    /// `operator`, `tenant-admin`, `developer`, `auditor` or `caller`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The tenant; absent for operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What the API key is good for that was signed in with; absent for whatever the role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<TokenScope>,
    /// The role that is held for a while in the place of `role`, of `whoami`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lent: Option<LentRole>,
}

/// A role held for a while.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LentRole {
    /// Which.
    pub role: String,
    /// Until then, RFC 3339.
    pub until: String,
}

/// What the trust in a session rests on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Trust {
    /// How the identity was proved: `secret`, `certificate`, `two-factors` or `passkey`.
    pub strength: String,
    /// Where the session stands, 0 to 100; `GET /zero-trust/trust-score` says why.
    pub score: u8,
    /// What would help where the place asks for more of some acts, in the words of a problem's `factor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_step_up: Option<String>,
}

/// `GET /host`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HostStatus {
    /// Ringfence's version.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Storage engine.
    pub store: String,
    /// Bytes the store takes on disk.
    pub store_bytes: u64,
    /// Root key provider, and whether it is for development only.
    pub root_key: String,
    /// Who can get the host's memory, with the keys in it: `off` for nobody but root, `debuggers` of the host's account,
    /// `crash-handler` where the kernel hands crashes to a program, `core-files`. Asked of the kernel, which did not say when
    /// it is `unknown`.
    #[serde(default)]
    pub memory_dumps: String,
    /// What the kernel granted the threads that do the I/O of calls, the lowest of them: `fifo` for before every guest,
    /// `short-slice`, `nice`, `usual` for nothing; `unknown` while they start.
    #[serde(default)]
    pub io_class: String,
    /// Tenants.
    pub tenants_count: u64,
    /// Deployed plugins.
    pub routes_count: u64,
    /// Invocations running now.
    pub running_count: u64,
    /// Invocations waiting for a slot now.
    pub waiting_count: u64,
    /// Slots in all.
    pub slots_count: u64,
    /// Where the data plane listens.
    pub plugins_address: String,
    /// Tenants whose last scheduled backup failed.
    #[serde(default)]
    pub backups_failing_count: u64,
}

/// `POST /tenants`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// The name, for good: 1 to 63 of a-z, 0-9 and `-`.
    pub name: String,
    /// For people; the name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its plan; `standard` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// A tenant.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TenantView {
    /// The name.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// `active` or `suspended`.
    pub state: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Its plan.
    pub plan: String,
    /// Key of the audit log's signatures (C2SP vkey): keep it, `ringfence audit verify` checks against it.
    pub audit_vkey: String,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give it as `cursor` to read on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A plugin in a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PluginView {
    /// The name.
    pub name: String,
    /// Versions published.
    pub versions_count: usize,
    /// The live version; absent when nothing is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
    /// Where it answers on the data plane; absent when nothing is deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A plugin with everything about it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PluginDetail {
    /// The name.
    pub name: String,
    /// Newest first.
    pub versions: Vec<VersionView>,
    /// Where the route stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteView>,
    /// What is granted.
    pub grants: Vec<GrantView>,
    /// Needs of the live version, or of the newest, beside the grants.
    pub needs: Vec<NeedState>,
}

/// A published version.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// The label, `0.1.0`.
    pub version: String,
    /// `sha256:...` of the component.
    pub digest: String,
    /// Size of the component.
    pub bytes: u64,
    /// `p2` or `p3`.
    pub world: String,
    /// What it needs.
    #[schema(value_type = Vec<Object>)]
    pub needs: Vec<Need>,
    /// RFC 3339, UTC.
    pub pushed_at: String,
    /// Who uploaded it.
    pub pushed_by: String,
}

/// Answer to an upload.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// The plugin.
    pub plugin: String,
    /// The label.
    pub version: String,
    /// `sha256:...` of the component.
    pub digest: String,
    /// Size of the component.
    pub bytes: u64,
    /// False when the same bytes were published under this label before.
    pub created: bool,
    /// Needs beside the grants.
    pub needs: Vec<NeedState>,
    /// The version it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Milliseconds the compile child took.
    pub compile_ms: u64,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantView {
    /// The capability.
    pub capability: String,
    /// The named things covered; empty for an unscoped capability.
    #[serde(default)]
    pub scope: Vec<String>,
}

/// `PUT .../grants/{capability}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantScope {
    /// The named things to cover; joined to what is granted already.
    #[serde(default)]
    pub scope: Vec<String>,
}

/// `POST .../deploy`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The version's label.
    pub version: String,
    /// Share of the invocations, 1 to 100; 100 when absent. Below 100 the version runs beside the live one (canary).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

/// Where a route stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteView {
    /// Path on the data plane, `/acme/visits/`.
    pub path: String,
    /// The live version.
    pub version: String,
    /// The canary beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryView>,
    /// What `rollback` goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// A canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanaryView {
    /// Its version.
    pub version: String,
    /// Its share, 1 to 99.
    pub percent: u8,
}

/// `GET .../diff`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VersionDiff {
    /// The older version.
    pub from: String,
    /// The newer version.
    pub to: String,
    /// Needs that came.
    pub added: Vec<NeedState>,
    /// Needs that went.
    pub removed: Vec<NeedState>,
    /// Needs that stayed.
    pub kept: Vec<NeedState>,
    /// Size of the older component.
    pub from_bytes: u64,
    /// Size of the newer component.
    pub to_bytes: u64,
    /// Whether both are the same bytes.
    pub same_digest: bool,
}

/// A line of a guest log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogLineView {
    /// Position; give it as `since` to read on.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// `trace`, `debug`, `info`, `warn`, `error` or `critical`.
    pub level: String,
    /// The guest's own context word, `stdout`, `stderr`, or `ringfence` for the host's own words.
    pub context: String,
    /// The text, cut at 4 KiB.
    pub message: String,
    /// The invocation that wrote it; absent for the host's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// The invocation that called that one or sent its message, when a plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<String>,
    /// The first of the calls and messages that led to it, when a plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// One invocation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InvocationView {
    /// `i_...`, as in the header `x-ringfence-invocation`.
    pub id: String,
    /// The plugin.
    pub plugin: String,
    /// The version that ran.
    pub version: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Who called.
    pub principal: String,
    /// What started it, such as `schedule/nightly`; absent for a caller over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The invocation that called it or sent its message, when a plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<String>,
    /// The first of the calls and messages that led to it, when a plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Who began that first one, when a plugin called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// Status of the answer.
    pub status: u16,
    /// Why it failed; absent for the guest's own answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What went wrong, for the plugin's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What it spent.
    #[schema(value_type = Object)]
    pub usage: Usage,
}

/// What a tenant's plugins used in a time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// RFC 3339, UTC.
    pub from: String,
    /// RFC 3339, UTC.
    pub to: String,
    /// All plugins together.
    pub total: UsageRow,
    /// A row a plugin.
    pub plugins: Vec<UsageRow>,
    /// The same day by day, with `by=day`; days without use are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<UsageDay>>,
}

/// One UTC day of metering.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageDay {
    /// `2026-11-21`.
    pub day: String,
    /// All plugins together.
    pub total: UsageRow,
    /// A row a plugin.
    pub plugins: Vec<UsageRow>,
}

/// One row of metering. A host from before a figure was counted leaves it out.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct UsageRow {
    /// The plugin; `*` for the total.
    pub plugin: String,
    /// Invocations.
    pub invocations_count: u64,
    /// Of these, answers that were not the guest's own.
    pub failures_count: u64,
    /// Of these, by the caller's fault.
    pub failures_by_caller_count: u64,
    /// By the plugin's.
    pub failures_by_plugin_count: u64,
    /// By the host's.
    pub failures_by_host_count: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Wall time, microseconds.
    pub wall_us: u64,
    /// Highest memory of one invocation, bytes.
    pub memory_bytes_peak: u64,
    /// Memory held over time, byte-microseconds; text, since it outgrows what JSON readers hold exactly.
    pub memory_byte_us: String,
    /// The same in GiB-seconds, rounded.
    pub memory_gib_seconds: f64,
    /// Bytes of requests' bodies.
    pub request_bytes: u64,
    /// Bytes answered.
    pub response_bytes: u64,
    /// Bytes of guest log.
    pub log_bytes: u64,
    /// Host calls.
    pub host_calls_count: u64,
    /// Outgoing requests.
    pub outgoing_count: u64,
    /// Bytes of bodies sent with outgoing requests.
    pub egress_out_bytes: u64,
    /// Bytes of bodies received in answer to outgoing requests.
    pub egress_in_bytes: u64,
    /// Operations on stored values.
    pub storage_ops_count: u64,
    /// Stored key-value bytes held over time, byte-microseconds, as text.
    pub storage_byte_us: String,
    /// The same in byte-hours, rounded.
    pub storage_byte_hours: f64,
}

/// A usage receipt in a list; the note itself is at `/tenants/{tenant}/receipts/{day}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReceiptView {
    /// The UTC day, `2026-11-21`.
    pub day: String,
    /// SHA-256 of the receipt's signed text, hex; the next receipt names it.
    pub hash: String,
}

/// What tenants have and had since the host started; two readings give rates.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoadsView {
    /// When this was read, by a clock of the host's that only goes forward, microseconds.
    pub read_at_us: u64,
    /// A row a tenant: all for an operator, his own for anybody else.
    pub tenants: Vec<LoadView>,
}

/// What one tenant has, and had since the host started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LoadView {
    /// The tenant; `_other` for all that are not told apart.
    pub tenant: String,
    /// Invocations that hold a slot now.
    pub running_count: u64,
    /// Invocations that wait for one now.
    pub waiting_count: u64,
    /// Invocations that ended.
    pub invocations_count: u64,
    /// Of these, answers that were not the guest's own.
    pub failures_count: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Time its own cap kept it from running, microseconds.
    pub throttled_us: u64,
    /// Times a guest of it made room for another tenant's.
    pub preempted_count: u64,
    /// Memory held over time by invocations that ended, byte-microseconds, as text.
    pub memory_byte_us: String,
}

/// The name of a secret; values are never read back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SecretView {
    /// The name.
    pub name: String,
    /// RFC 3339, UTC; the last time it was set.
    pub set_at: String,
}

/// A configuration value of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ConfigView {
    /// The key.
    pub name: String,
    /// The value.
    pub value: String,
}

/// `PUT .../config/{name}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigValue {
    /// The value.
    pub value: String,
}

/// `POST .../tokens`: a new API key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For people; part of the principal's id.
    pub name: String,
    /// `operator` (host keys only), `tenant-admin`, `developer`, `auditor` or `caller`.
    pub role: String,
    /// Seconds until it expires; when absent, as late as the tenant lets keys live, which is never where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u32>,
    /// What it is good for; absent for whatever its role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<TokenScope>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// The key's id.
    pub id: String,
    /// For people.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its principal.
    pub principal: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC; absent when it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// RFC 3339, UTC; absent while it can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// What it is good for; absent for whatever its role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<TokenScope>,
}

/// A new API key, shown once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The key without its secret.
    #[serde(flatten)]
    pub token: TokenView,
    /// The key itself. It cannot be shown again.
    pub key: String,
}

/// Why a decision was taken.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DecisionView {
    /// `d_...`.
    pub id: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// `deny`.
    pub outcome: String,
    /// Who asked.
    pub principal: String,
    /// The role it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The device that its session was on, and how that stood then; absent where none was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The trust score of its session then, of a plugin's call the caller's; absent where no policy read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<u8>,
    /// What it wanted to do.
    pub action: String,
    /// To what.
    pub resource: String,
    /// The policies that decided.
    pub reasons: Vec<ReasonView>,
    /// What would have allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closest: Option<String>,
    /// Changes after which it would be allowed under the policies of now, smallest first; each was asked.
    #[serde(default)]
    pub changes: Vec<ChangeView>,
    /// What to do.
    pub help: String,
}

/// A policy that decided.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReasonView {
    /// The policy's id.
    pub policy: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// What it says.
    pub text: String,
}

/// An entry of an audit log, as it is verified.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntryView {
    /// Position, from 0.
    pub seq: u64,
    /// The envelope: canonical JSON, exactly the bytes that are hashed.
    pub envelope: String,
    /// The event, without what the caller's role may not see.
    #[schema(value_type = Object)]
    pub body: serde_json::Value,
    /// Salt of the body's commitment, hexadecimal; empty when something was taken out.
    pub salt: String,
    /// What was taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redacted: Vec<String>,
}

/// The signed head of an audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckpointView {
    /// Origin of the log.
    pub origin: String,
    /// Key to check with (C2SP vkey).
    pub vkey: String,
    /// The signed note (C2SP tlog-checkpoint).
    pub checkpoint: String,
    /// Entries.
    pub size: u64,
}
