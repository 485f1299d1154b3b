//! The command line as types: every verb, every flag, its help and its examples. Parsed at the edge, so that verbs get
//! names and versions that cannot be wrong.
//!
//! Must never take a secret as a flag or argument: those come from a prompt, standard input, or a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringfence_audit::Day;
use ringfence_core::{Capability, DecisionId, PlanName, PluginName, ResourceName, TenantId};

use crate::words::{Lifetime, PluginVersion, VersionRef, moment};

pub use self::access::{
    AccessCommand, AccessReportArgs, ChoiceArg, ReviewArgs, ReviewCommand, ReviewDecideArgs, ReviewExportArgs,
    ReviewOfArg, ReviewOpenArgs,
};
pub use self::audit::{
    AuditCommand, AuditEraseArgs, AuditExportArgs, AuditHoldArgs, AuditLiftArgs, AuditListArgs, AuditPackageArgs,
    AuditProofArgs, AuditRecordArgs, AuditRepairArgs, AuditRetentionArgs, AuditSearchArgs, AuditStatsArgs,
    AuditVerifyArgs,
};
pub use self::automation::{
    BindArgs, CallHookArgs, DeadArgs, DiscardArgs, HookCommand, NameArgs, NameFileArgs, QueueCommand, QueueNameArgs,
    QueueSetArgs, RedriveArgs, ScheduleCommand, ScheduleSetArgs, SendArgs, UnbindArgs,
};
pub use self::backup::{
    BackupArgs, BackupCommand, BackupCreateArgs, BackupVerifyArgs, DamageArgs, RecoveryKeyArgs, RestoreArgs,
};
pub use self::checks::{CheckCommand, CheckNameArgs, CheckSetArgs, HostCallsArgs, RemediateArgs};
pub use self::groups::command;
pub use self::keys::{KeyCommand, KeyReceiptArgs, KeyRotateArgs, KeyVerifyArgs};
pub use self::outward::{
    AssessArgs, DestinationAddArgs, DestinationArgs, DestinationChangeArgs, DestinationCommand, DestinationPlaceArgs,
    FeedArgs, FeedCommand, FeedPutArgs,
};
pub use self::people::{
    PersonCommand, PersonInviteArgs, PersonNameArgs, PersonResetArgs, ProviderAddArgs, ProviderCommand,
    ProviderNameArgs,
};
pub use self::pii::{PiiCommand, PiiFieldsCommand, PiiFieldsSetArgs, SubjectArgs};
pub use self::policy::{
    ApprovalArgs, ApprovalCommand, ElevationCommand, ElevationRequestArgs, LentRoleArg, PolicyApplyArgs,
    PolicyCeilingArgs, PolicyCommand, PolicyFileArgs, PolicyLabelsArgs, PolicyProveArgs, PolicyRollbackArgs,
    PolicyShadowArgs, PolicyShowArgs,
};
pub use self::quota::{QuotaCommand, QuotaSetArgs};
pub use self::runs::{
    RunApproveArgs, RunArgs, RunCommand, RunListArgs, RunMigrateArgs, RunQueryArgs, RunRetryArgs, RunSignalArgs,
    RunStartArgs, RunTerminateArgs,
};
pub use self::sessions::{
    FactorCommand, FactorConfirmArgs, FactorPasswordArgs, SessionCommand, SessionEndArgs, SessionPlaceArgs,
};
pub use self::store::{BackendArg, StoreCheckArgs, StoreCommand, StoreMigrateArgs, StoreSalvageArgs};
pub use self::threat::{
    DrillArgs, FindingsArgs, FindingsFormatArg, IncidentCommand, IncidentOpenArgs, IncidentShowArgs, IncidentStepArgs,
    IntelArgs, RespondArgs, ResponseApproveArgs, RulesDeleteArgs, RulesPutArgs, ThreatCommand, ThreatSettingsArgs,
    UndoArgs,
};
pub use self::trust::{
    DeviceArgs, DeviceCommand, DeviceListArgs, RiskCommand, RiskIdArgs, RiskLowerArgs, RiskRaiseArgs, RiskReasonArgs,
    TrustCommand, TrustScoreArgs, TrustSettingsArgs,
};

mod access;
mod audit;
mod automation;
mod backup;
mod checks;
mod groups;
mod keys;
mod outward;
mod people;
mod pii;
mod policy;
mod quota;
mod runs;
mod sessions;
mod store;
mod threat;
mod trust;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "ringfence",
    version,
    about = "Run other people's code safely: WebAssembly plugins, many tenants, one host.",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global")]
pub struct Global {
    /// Print exactly what the API answers, as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// The tenant to act in
    #[arg(long, short = 't', global = true, value_name = "TENANT", env = "RINGFENCE_TENANT", hide_env_values = true)]
    pub tenant: Option<TenantId>,
    /// Control plane of the host, `http://127.0.0.1:7000`
    #[arg(long, global = true, value_name = "URL", env = "RINGFENCE_HOST", hide_env_values = true)]
    pub host: Option<String>,
    /// Speak plain HTTP to a host that is not this machine
    #[arg(long, global = true)]
    pub plain_http: bool,
    /// Answer yes to every question
    #[arg(long, global = true)]
    pub yes: bool,
    /// Never ask; fail and name the missing flag
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Print results and errors only
    #[arg(long, short = 'q', global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print each request and its time
    #[arg(long, short = 'v', global = true)]
    pub verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a folder with a plugin that builds
    New(NewArgs),
    /// Build the plugin and write its needs into plugin.toml
    Build(BuildArgs),
    /// Show what a component needs, exports and weighs
    Inspect(InspectArgs),
    /// Call a deployed plugin once
    Call(CallArgs),

    /// Upload a version; it is immutable and not yet live
    Push(PushArgs),
    /// Make a version live, or a canary beside the live one
    Deploy(DeployArgs),
    /// Go back to the version that was live before
    Rollback(PluginArgs),
    /// Compare two versions: needs and size
    Diff(DiffArgs),

    /// Follow what a plugin prints
    Logs(LogsArgs),
    /// Show how the host, or one plugin, is doing
    Status(StatusArgs),
    /// Show what the tenant's plugins used
    Usage(UsageArgs),
    /// Watch what tenants are using now
    Top(TopArgs),
    /// Explain a denial
    Why(WhyArgs),

    /// Allow a plugin a capability
    Grant(GrantArgs),
    /// Take a capability away; the next host call is refused
    Revoke(RevokeArgs),
    /// List what a plugin may use
    Grants(PluginArgs),
    /// Secrets of the tenant; write-only
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Configuration of a plugin, and of the host
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Personal data: rules about fields, erasing a person
    #[command(subcommand)]
    Pii(PiiCommand),

    /// Extension points of the product and what is bound to them
    #[command(subcommand)]
    Hook(HookCommand),
    /// Queues: messages that plugins take
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Plugins that run on time
    #[command(subcommand)]
    Schedule(ScheduleCommand),

    /// Tenants of the host
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// API keys
    #[command(subcommand)]
    Token(TokenCommand),
    /// People who sign in: invite, list, remove, reset
    #[command(subcommand)]
    Person(PersonCommand),
    /// Identity providers that people sign in at
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Where people and keys are signed in: list, end
    #[command(subcommand)]
    Session(SessionCommand),
    /// What you prove yourself with: password, one-time codes
    #[command(subcommand)]
    Factor(FactorCommand),
    /// Devices that people are on: list, show, revoke
    #[command(subcommand)]
    Device(DeviceCommand),
    /// How far sessions are trusted, and how the place stands
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Who holds what access and uses it; access reviews
    #[command(subcommand)]
    Access(AccessCommand),
    /// What a tenant may have, and what it uses of it
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Threats: findings, rules, responses, incidents
    #[command(subcommand)]
    Threat(ThreatCommand),
    /// Keys: list, rotate, disable, destroy
    #[command(subcommand)]
    Key(KeyCommand),
    /// The tenant's policy
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What waits for a second pair of eyes
    #[command(subcommand)]
    Approval(ApprovalCommand),
    /// Roles held for a while
    #[command(subcommand)]
    Elevation(ElevationCommand),
    /// The audit log: read it, verify it, take it away
    #[command(subcommand)]
    Audit(AuditCommand),

    /// Runs of durable workflows
    #[command(subcommand)]
    Run(RunCommand),

    /// Backups of a tenant: make, check, rehearse
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Restore a backup
    Restore(RestoreArgs),

    /// Run the host
    Serve(ServeArgs),
    /// Check that this machine can run the host
    Doctor(DoctorArgs),
    /// The data directory of a host that is stopped
    #[command(subcommand)]
    Store(StoreCommand),

    /// Sign in to a host and keep the key, or a person's session
    Login(LoginArgs),
    /// Show who you are signed in as
    Whoami,
    /// Choose the tenant that verbs act in
    Use(UseArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the version
    Version,

    /// Compile one component from standard input to standard output; the host calls this for itself
    #[command(hide = true)]
    CompileChild,
}

/// `new`.
#[derive(Debug, Clone, Args)]
pub struct NewArgs {
    /// Name of the plugin and of the folder
    pub name: PluginName,
    /// Folder to make; the name when absent
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Folder of the Ringfence SDK for Rust
    #[arg(long, value_name = "DIR")]
    pub sdk: Option<PathBuf>,
}

/// `build`.
#[derive(Debug, Clone, Args)]
pub struct BuildArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Build without optimising, faster
    #[arg(long)]
    pub debug: bool,
}

/// `inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// The component, `visits.wasm`
    pub file: PathBuf,
}

/// `call`.
#[derive(Debug, Clone, Args)]
pub struct CallArgs {
    /// The plugin
    pub plugin: PluginName,
    /// Path and query the plugin sees
    #[arg(default_value = "/")]
    pub path: String,
    /// HTTP method; GET, or POST with `--data`
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Body: text, `@FILE`, or `-` for standard input
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Header, `name: value`; may be given again
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// Data plane; the one the host names when absent
    #[arg(long, value_name = "URL")]
    pub plugins_host: Option<String>,
    /// Call without signing in
    #[arg(long)]
    pub anonymous: bool,
}

/// `push`.
#[derive(Debug, Clone, Args)]
pub struct PushArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// The component, instead of the one plugin.toml names
    #[arg(long, value_name = "FILE")]
    pub component: Option<PathBuf>,
}

/// `deploy`.
#[derive(Debug, Clone, Args)]
pub struct DeployArgs {
    /// The version, `visits@0.1.0`
    pub version: PluginVersion,
    /// Share of the calls, 1 to 99 for a canary
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub percent: Option<u8>,
}

/// Verbs with a plugin and nothing else.
#[derive(Debug, Clone, Args)]
pub struct PluginArgs {
    /// The plugin
    pub plugin: PluginName,
}

/// `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// The older version, `visits@0.1.0`
    pub from: PluginVersion,
    /// The newer version, `visits@0.2.0` or `0.2.0`
    pub to: VersionRef,
}

/// `logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The plugin
    pub plugin: PluginName,
    /// Start after this line
    #[arg(long, value_name = "SEQ")]
    pub since: Option<u64>,
    /// Most lines to print before following
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: Option<u32>,
    /// Wait for new lines, also without a terminal
    #[arg(long, conflicts_with = "no_follow")]
    pub follow: bool,
    /// Print what is there and stop
    #[arg(long)]
    pub no_follow: bool,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// A plugin; the host when absent
    pub plugin: Option<PluginName>,
}

/// `usage`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UsageArgs {
    /// What else than showing it
    #[command(subcommand)]
    pub command: Option<UsageCommand>,
    /// Day by day
    #[arg(long)]
    pub by_day: bool,
    /// From this time, `2026-11-01T00:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub from: Option<jiff::Timestamp>,
    /// Up to this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub to: Option<jiff::Timestamp>,
}

/// `usage ...`.
#[derive(Debug, Clone, Subcommand)]
pub enum UsageCommand {
    /// List the signed receipts of days that are over
    Receipts,
    /// Print the signed receipt of a day; of today, what was used so far
    Receipt(UsageReceiptArgs),
    /// Check receipts without a host: signature, sums, and that none is missing
    Verify(UsageVerifyArgs),
}

/// `usage receipt`.
#[derive(Debug, Clone, Args)]
pub struct UsageReceiptArgs {
    /// The UTC day, `2026-11-21`
    pub day: Day,
}

/// `usage verify`.
#[derive(Debug, Clone, Args)]
pub struct UsageVerifyArgs {
    /// Receipts, each a file, oldest first
    #[arg(required = true)]
    pub file: Vec<PathBuf>,
    /// The key to check against: the vkey of the tenant, or a file with it
    #[arg(long, value_name = "KEY")]
    pub vkey: String,
}

/// `top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Show one reading and stop
    #[arg(long)]
    pub once: bool,
    /// Seconds between two readings, 1 to 3600
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
}

/// `why`.
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The decision, `d_...`, as the denial names it
    pub decision: DecisionId,
}

/// `grant`.
#[derive(Debug, Clone, Args)]
pub struct GrantArgs {
    /// The plugin
    pub plugin: PluginName,
    /// keyvalue, config, logging, secrets, http, blob, files, pii, queue, identity, audit or runs
    pub capability: Capability,
    /// What it covers: buckets, secret names, origins, queues, workflows
    pub scope: Vec<String>,
}

/// `revoke`.
#[derive(Debug, Clone, Args)]
pub struct RevokeArgs {
    /// The plugin
    pub plugin: PluginName,
    /// keyvalue, config, logging, secrets, http, blob, files, pii, queue, identity, audit or runs
    pub capability: Capability,
}

/// `secret ...`.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret from a prompt, standard input, or a file
    Set(SecretSetArgs),
    /// List the names of the secrets
    List,
    /// Delete a secret
    Delete(SecretNameArgs),
}

/// `secret set`.
#[derive(Debug, Clone, Args)]
pub struct SecretSetArgs {
    /// Name of the secret
    pub name: ResourceName,
    /// Read the value from standard input; one newline at its end is dropped
    #[arg(long, conflicts_with = "file")]
    pub stdin: bool,
    /// Read the value from a file, byte for byte
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `secret delete`.
#[derive(Debug, Clone, Args)]
pub struct SecretNameArgs {
    /// Name of the secret
    pub name: ResourceName,
}

/// `config ...`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Set a configuration value of a plugin
    Set(ConfigSetArgs),
    /// List the configuration of a plugin
    List(PluginArgs),
    /// Delete a configuration value of a plugin
    Delete(ConfigNameArgs),
    /// Show the configuration the host would start with
    Show(ConfigShowArgs),
}

/// `config set`.
#[derive(Debug, Clone, Args)]
pub struct ConfigSetArgs {
    /// The plugin
    pub plugin: PluginName,
    /// Name of the value
    pub name: ResourceName,
    /// The value as it is, also with `@`; not for secrets
    #[arg(allow_hyphen_values = true)]
    pub value: String,
}

/// `config delete`.
#[derive(Debug, Clone, Args)]
pub struct ConfigNameArgs {
    /// The plugin
    pub plugin: PluginName,
    /// Name of the value
    pub name: ResourceName,
}

/// `config show`; answered by the host's side of the binary.
#[derive(Debug, Clone, Args)]
pub struct ConfigShowArgs {
    /// Where each value comes from
    #[arg(long)]
    pub origin: bool,
    /// What `serve` takes, so that the answer is what it would run with
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `tenant ...`.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Make a tenant
    Create(TenantCreateArgs),
    /// List the tenants
    List,
    /// Show a tenant
    Show(TenantOptionalArgs),
    /// Stop all of a tenant's plugins; nothing is lost
    Suspend(TenantNameArgs),
    /// Let a suspended tenant run again
    Resume(TenantNameArgs),
    /// Delete a tenant and destroy its keys: after the host's delay, or at once when a second operator asks too
    Delete(TenantNameArgs),
}

/// `tenant create`.
#[derive(Debug, Clone, Args)]
pub struct TenantCreateArgs {
    /// Name of the tenant, for good
    pub name: TenantId,
    /// Name for people
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    /// Its plan; `standard` when absent
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<PlanName>,
}

/// `tenant show`, `quota show`.
#[derive(Debug, Clone, Args)]
pub struct TenantOptionalArgs {
    /// The tenant; the chosen one when absent
    pub name: Option<TenantId>,
}

/// `tenant suspend`, `resume`, `delete`.
#[derive(Debug, Clone, Args)]
pub struct TenantNameArgs {
    /// The tenant
    pub name: TenantId,
}

/// `token ...`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make an API key; it is shown once
    Create(TokenCreateArgs),
    /// List the API keys
    List(OperatorArgs),
    /// Revoke an API key; its sessions end at once
    Revoke(TokenRevokeArgs),
}

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Runs the host for all tenants
    Operator,
    /// Everything in one tenant
    TenantAdmin,
    /// Pushes and deploys
    Developer,
    /// Reads, and verifies the audit log
    Auditor,
    /// Calls plugins
    Caller,
}

/// What sort of acts an API key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClassArg {
    /// Calls plugins
    Invoke,
    /// Looks
    Read,
    /// Changes what runs
    Change,
    /// Changes who may do what, and what cannot be undone
    Administer,
}

/// `token create`.
#[derive(Debug, Clone, Args)]
pub struct TokenCreateArgs {
    /// Name of the key
    pub name: ResourceName,
    /// What it may do; `operator` is not bound to a tenant
    #[arg(long, value_enum)]
    pub role: RoleArg,
    /// How long it lives: `30d`, `12h`, `90m`; as long as keys may when absent
    #[arg(long, value_name = "TIME")]
    pub expires: Option<Lifetime>,
    /// Classes of acts it is good for; all that its role has when absent
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CLASS")]
    pub acts: Vec<ClassArg>,
    /// Plugins it acts on, and on nothing else
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub plugins: Vec<PluginName>,
    /// Write the key into a new file (mode 0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// Verbs that act on a tenant, or on the host's own with `--operator`.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `token revoke`.
#[derive(Debug, Clone, Args)]
pub struct TokenRevokeArgs {
    /// Id of the key, as `token list` shows it
    pub id: String,
    /// The host's own instead of a tenant's
    #[arg(long)]
    pub operator: bool,
}

/// `serve`; answered by the host's side of the binary. Absent flags leave the value to environment and file.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Configuration, `ringfence.toml`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// To try things out: the root key lies with the data
    #[arg(long)]
    pub dev: bool,
    /// Address for calls of plugins
    #[arg(long, value_name = "ADDRESS")]
    pub plugins: Option<SocketAddr>,
    /// Address of the control plane
    #[arg(long, value_name = "ADDRESS")]
    pub control: Option<SocketAddr>,
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Root key, `file:/etc/ringfence/root.key`; the first start makes it
    #[arg(long, value_name = "URI")]
    pub root_key: Option<String>,
}

/// `doctor`; answered by the host's side of the binary.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// What `serve` takes
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// `login`.
#[derive(Debug, Clone, Args)]
pub struct LoginArgs {
    /// Read the key or the enrolment token from standard input
    #[arg(long, conflicts_with = "token_file")]
    pub token_stdin: bool,
    /// Read the key or the enrolment token from a file
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Your name, when enrolling as the first operator
    #[arg(long, value_name = "NAME", default_value = "operator")]
    pub name: ResourceName,
    /// Sign in as a person, `acme/ann`: asks for password and one-time code
    #[arg(long = "as", value_name = "PERSON", group = "way", conflicts_with_all = ["token_stdin", "token_file"])]
    pub person: Option<String>,
    /// Sign in at this identity provider of the tenant, by the browser
    #[arg(long, value_name = "NAME", group = "way", conflicts_with_all = ["token_stdin", "token_file", "password_stdin"])]
    pub provider: Option<ResourceName>,
    /// Sign in with an invitation, which names you; asks for a new password
    #[arg(long, conflicts_with_all = ["token_stdin", "token_file", "provider"])]
    pub invited: bool,
    /// Read the invitation from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token_stdin", "token_file", "provider"])]
    pub invitation_file: Option<PathBuf>,
    /// Read the password, and on a second line the code, from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Come back here instead of to this machine, and ask for that address
    #[arg(long, value_name = "URI", requires = "provider")]
    pub redirect: Option<String>,
}

/// `use`.
#[derive(Debug, Clone, Args)]
pub struct UseArgs {
    /// The tenant
    pub name: TenantId,
}

/// `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
