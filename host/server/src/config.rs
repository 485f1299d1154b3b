//! What the operator decides: `ringfence.toml`, `RINGFENCE_*`, flags. The only place that reads any of them.
//!
//! Precedence: defaults, then the file, then the environment, then flags. Unknown keys are errors with a hint. Must
//! never hold a secret: the root key is named by a URI, not given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use jiff::SignedDuration;
use ringfence_audit::RETENTION_DAYS;
use ringfence_cli::ServeArgs;
use ringfence_control::BackupPlan;
use ringfence_core::limits::WORKERS_COUNT_MAX;
use ringfence_core::{Ceiling, ManifestError, PlanName, Plans, QuotaOverrides, TenantId};
use ringfence_engine::IoClass;
use ringfence_keys::RootKeyUri;
use ringfence_store::Backend;
use ringfence_store::backup::GuestLogs;
use serde::{Deserialize, Serialize};

/// Shortest and longest time between two scheduled backups.
const EVERY_MIN: SignedDuration = SignedDuration::from_secs(1);
const EVERY_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

/// Stands for the directory that a `--dev` host makes for itself at its start, while it has not.
const UNMADE: &str = "made-by-serve";

/// Everything the operator decides.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// What the listeners show of themselves.
    pub tls: TlsSection,
    /// Where data lies.
    pub store: StoreSection,
    /// Where the root key is.
    pub keys: Keys,
    /// How people prove themselves.
    pub identity: IdentitySection,
    /// How much may run.
    pub engine: EngineSection,
    /// Where guests may connect to beyond the public internet.
    pub egress: Egress,
    /// Where backups of tenants lie, when they are made and which are kept.
    pub backup: BackupSection,
    /// Who else keeps or signs the heads of the audit logs.
    pub audit: AuditSection,
    /// The server that mail to people goes through.
    pub mail: MailSection,
    /// Plans of tenants, each as it differs from the built-in plan `standard`.
    pub plans: BTreeMap<PlanName, QuotaOverrides>,
}

/// `[listen]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Calls of plugins.
    pub plugins: SocketAddr,
    /// Control plane.
    pub control: SocketAddr,
    /// Domain under which `{plugin}.{tenant}.{domain}` routes by host name; empty for none.
    pub domain: String,
    /// Whether to serve plain HTTP on an address that is not loopback.
    pub plain_http: PlainHttp,
}

/// `[tls]`. Without a certificate both ports speak plain HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// PEM file of the certificate chain, the host's own first; empty for none.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// From whom the certificate is got instead of files.
    pub acme: AcmeSection,
}

/// `[tls.acme]`. An authority is asked for the certificate, and for the next before it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeSection {
    /// URL of the authority's directory (RFC 8555); empty for none.
    pub directory: String,
    /// The names the certificate is for; connections to them on port 443 arrive at one of the listeners.
    pub names: Vec<String>,
    /// Where the authority reaches the operator, each `mailto:...`; may be empty.
    pub contact: Vec<String>,
    /// Whether the operator agrees to the authority's terms of service.
    pub terms: AcmeTerms,
    /// PEM file of the only roots that the authority's own certificate may be signed under; empty for the public ones.
    pub roots: PathBuf,
}

/// Whether the operator agrees to an authority's terms of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcmeTerms {
    /// He does.
    Agreed,
    /// He does not; nothing is asked of it then.
    NotAgreed,
}

impl AcmeSection {
    /// Whether an authority is asked at all.
    pub fn is_on(&self) -> bool {
        !self.directory.is_empty()
    }
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// They are not.
    Off,
    /// They are, and may show none. Browsers that have one ask their user.
    Ask,
}

/// Where plain HTTP may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlainHttp {
    /// On loopback addresses.
    Loopback,
    /// On any: something in front of this host must be doing TLS.
    Anywhere,
}

/// `[store]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// The database under the store: `sled` or `redb`.
    pub backend: Backend,
    /// The data directory.
    pub path: PathBuf,
}

/// `[keys]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Root key: `file:/etc/ringfence/root.key`, `pkcs11:`, `vault:` or `awskms:`.
    pub root: String,
    /// Hours between the word that a tenant's keys, or the tenant, go and their destruction; 0 for at once.
    pub destroy_delay_hours: u32,
    /// Where a tenant may keep a key itself: `pkcs11:`, `vault:` or `awskms:`, by the tenant's name.
    #[serde(default)]
    pub own: BTreeMap<String, String>,
}

/// `[identity]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySection {
    /// Where browsers see the control plane, `https://ringfence.example.com`: passkeys are bound to it. Empty for no passkeys.
    pub origin: String,
    /// For how many hours somebody who was invited by another does not count as a second person beside him.
    pub second_person_hours: u32,
    /// The SPIFFE trust domain of this host's plugins: `spiffe://<it>/tenant/...`. Another name has other authorities.
    pub trust_domain: String,
}

/// `[engine]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// Threads that run guests, at most 96; 0 for one a core.
    pub workers: usize,
    /// Invocations that may run at once.
    pub slots: u32,
    /// Most MiB of one guest's memory.
    pub memory_mib_max: u64,
    /// Most MiB of all guests that run together, at least 8/7 of `memory_mib_max`; 0 for half of what this process may have.
    pub memory_mib: u64,
    /// The most that I/O threads ask of the kernel's scheduler: `fifo`, `short-slice`, `nice` or `usual`.
    pub io_class: IoClass,
}

/// `[egress]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Private networks or addresses that guests may reach although they are private: `10.0.0.5:8080`, `10.1.0.0/16`.
    /// A tenant's grant is still needed.
    #[serde(default)]
    pub allow_private: Vec<String>,
    /// PEM files of root certificates that servers' certificates may be signed under, beside the public ones.
    #[serde(default)]
    pub roots: Vec<PathBuf>,
}

/// `[backup]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSection {
    /// The directory of the archives, better on another disk; `backups` in the data directory when empty.
    pub path: PathBuf,
    /// Between two backups of a tenant, `24h`; `off` for no schedule.
    pub every: String,
    /// Each so many scheduled backups a full one, the others what changed; 1 for full ones only.
    pub full_every_count: usize,
    /// Of so many days the newest scheduled backup is kept.
    pub keep_daily_count: usize,
    /// And of so many weeks.
    pub keep_weekly_count: usize,
    /// Whether guest logs go in: `with` or `without`.
    pub guest_logs: GuestLogs,
}

/// `[audit]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSection {
    /// Between two rounds of committing to the heads of all logs, `10s`.
    pub anchor_every: String,
    /// A directory elsewhere that keeps every committed head, better one that can be written once; empty for none. When it
    /// cannot be written for two minutes nothing is done any more that must be on the log.
    pub mirror: PathBuf,
    /// A directory elsewhere that has every entry, its body sealed, before anybody is told that it is recorded; absolute, empty for
    /// none. While it cannot be written within a few seconds nothing is done any more that must be on the log. Nothing is ever
    /// deleted there.
    pub entries: PathBuf,
    /// Witnesses (c2sp.org/tlog-witness), each `URL KEY`.
    pub witnesses: Vec<String>,
    /// Days that a closed year of a log is kept when its owner set nothing.
    pub retention_days: u32,
    /// The least that an owner may set, in days.
    pub retention_days_min: u32,
    /// Whether heads carry an ML-DSA-44 cosignature too: `on` or `off`.
    pub post_quantum: PostQuantumWord,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostQuantumWord {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// `[mail]`. Without a server this host sends no mail.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSection {
    /// Name or address; empty for none.
    pub server: String,
    /// Port; 0 for the usual one of `security`.
    pub port: u16,
    /// How it is spoken to: `tls`, `start-tls`, or `plain` to a server on this machine.
    pub security: MailSecurityWord,
    /// Who writes, `ringfence@example.com`.
    pub from: String,
    /// Name to sign in with; empty for none.
    pub login: String,
    /// File with the password, readable for this account alone.
    pub password_file: PathBuf,
    /// Domains that tenants may have mail sent to; empty for all.
    pub domains: Vec<String>,
}

/// How the mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailSecurityWord {
    /// TLS from the first byte.
    Tls,
    /// TLS after a word in clear, without which nothing is sent.
    StartTls,
    /// None.
    Plain,
}

/// The file alone: every key optional, none unknown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct File {
    listen: Option<FileListen>,
    tls: Option<FileTls>,
    store: Option<FileStore>,
    keys: Option<FileKeys>,
    identity: Option<FileIdentity>,
    engine: Option<FileEngine>,
    egress: Option<Egress>,
    backup: Option<FileBackup>,
    audit: Option<FileAudit>,
    mail: Option<FileMail>,
    plans: Option<BTreeMap<PlanName, QuotaOverrides>>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileListen {
    plugins: Option<SocketAddr>,
    control: Option<SocketAddr>,
    domain: Option<String>,
    plain_http: Option<PlainHttp>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileTls {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_certificates: Option<ClientCertificates>,
    acme: Option<FileAcme>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileAcme {
    directory: Option<String>,
    names: Option<Vec<String>>,
    contact: Option<Vec<String>>,
    terms: Option<AcmeTerms>,
    roots: Option<PathBuf>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileStore {
    backend: Option<Backend>,
    path: Option<PathBuf>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileKeys {
    root: Option<String>,
    destroy_delay_hours: Option<u32>,
    own: Option<BTreeMap<String, String>>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileIdentity {
    origin: Option<String>,
    second_person_hours: Option<u32>,
    trust_domain: Option<String>,
}
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileEngine {
    io_class: Option<IoClass>,
    workers: Option<usize>,
    slots: Option<u32>,
    memory_mib_max: Option<u64>,
    memory_mib: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileBackup {
    path: Option<PathBuf>,
    every: Option<String>,
    full_every_count: Option<usize>,
    keep_daily_count: Option<usize>,
    keep_weekly_count: Option<usize>,
    guest_logs: Option<GuestLogs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileAudit {
    anchor_every: Option<String>,
    mirror: Option<PathBuf>,
    entries: Option<PathBuf>,
    witnesses: Option<Vec<String>>,
    retention_days: Option<u32>,
    retention_days_min: Option<u32>,
    post_quantum: Option<PostQuantumWord>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only parsed, to find unknown keys with their line")]
struct FileMail {
    server: Option<String>,
    port: Option<u16>,
    security: Option<MailSecurityWord>,
    from: Option<String>,
    login: Option<String>,
    password_file: Option<PathBuf>,
    domains: Option<Vec<String>>,
}

/// LIMIT: longest wait before keys are destroyed, 90 days.
const DESTROY_DELAY_HOURS_MAX: u32 = 90 * 24;

/// LIMIT: longest time in which somebody who was invited is no second person, 90 days.
const SECOND_PERSON_HOURS_MAX: u32 = 90 * 24;

/// The environment's names and the keys they set.
const ENVIRONMENT: [(&str, &str); 26] = [
    ("LISTEN_PLUGINS", "listen.plugins"),
    ("LISTEN_CONTROL", "listen.control"),
    ("LISTEN_DOMAIN", "listen.domain"),
    ("LISTEN_PLAIN_HTTP", "listen.plain_http"),
    ("STORE_BACKEND", "store.backend"),
    ("TLS_CERTIFICATE", "tls.certificate"),
    ("TLS_KEY", "tls.key"),
    ("TLS_CLIENT_CERTIFICATES", "tls.client_certificates"),
    ("STORE_PATH", "store.path"),
    ("KEYS_ROOT", "keys.root"),
    ("KEYS_DESTROY_DELAY_HOURS", "keys.destroy_delay_hours"),
    ("IDENTITY_ORIGIN", "identity.origin"),
    ("IDENTITY_SECOND_PERSON_HOURS", "identity.second_person_hours"),
    ("ENGINE_WORKERS", "engine.workers"),
    ("ENGINE_SLOTS", "engine.slots"),
    ("ENGINE_MEMORY_MIB_MAX", "engine.memory_mib_max"),
    ("ENGINE_MEMORY_MIB", "engine.memory_mib"),
    ("ENGINE_IO_CLASS", "engine.io_class"),
    ("BACKUP_PATH", "backup.path"),
    ("BACKUP_EVERY", "backup.every"),
    ("AUDIT_ANCHOR_EVERY", "audit.anchor_every"),
    ("AUDIT_MIRROR", "audit.mirror"),
    ("AUDIT_ENTRIES", "audit.entries"),
    ("AUDIT_RETENTION_DAYS", "audit.retention_days"),
    ("AUDIT_RETENTION_DAYS_MIN", "audit.retention_days_min"),
    ("AUDIT_POST_QUANTUM", "audit.post_quantum"),
];

/// Where a value came from, for `config show --origin`.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// `listen.plugins`.
    pub key: String,
    /// The value as JSON.
    pub value: serde_json::Value,
    /// `default`, `file ringfence.toml`, `environment`, `flag`.
    pub origin: String,
}

fn defaults() -> Config {
    Config {
        listen: Listen {
            plugins: SocketAddr::from(([127, 0, 0, 1], 7001)),
            control: SocketAddr::from(([127, 0, 0, 1], 7000)),
            domain: String::new(),
            plain_http: PlainHttp::Loopback,
        },
        tls: TlsSection {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_certificates: ClientCertificates::Off,
            acme: AcmeSection {
                directory: String::new(),
                names: Vec::new(),
                contact: Vec::new(),
                terms: AcmeTerms::NotAgreed,
                roots: PathBuf::new(),
            },
        },
        store: StoreSection { backend: Backend::Sled, path: PathBuf::from("/var/lib/ringfence") },
        keys: Keys { root: "file:/etc/ringfence/root.key".to_owned(), destroy_delay_hours: 24, own: BTreeMap::new() },
        identity: IdentitySection {
            origin: String::new(),
            second_person_hours: 24,
            trust_domain: crate::wiring::HOST_NAME.to_owned(),
        },
        engine: EngineSection {
            workers: 0,
            slots: 128,
            memory_mib_max: 256,
            memory_mib: 0,
            io_class: IoClass::ShortSlice,
        },
        egress: Egress { allow_private: Vec::new(), roots: Vec::new() },
        backup: BackupSection {
            path: PathBuf::new(),
            every: "off".to_owned(),
            full_every_count: 7,
            keep_daily_count: 7,
            keep_weekly_count: 4,
            guest_logs: GuestLogs::With,
        },
        audit: AuditSection {
            anchor_every: "10s".to_owned(),
            mirror: PathBuf::new(),
            entries: PathBuf::new(),
            witnesses: Vec::new(),
            retention_days: RETENTION_DAYS,
            retention_days_min: 365,
            post_quantum: PostQuantumWord::Off,
        },
        mail: MailSection {
            server: String::new(),
            port: 0,
            security: MailSecurityWord::Tls,
            from: String::new(),
            login: String::new(),
            password_file: PathBuf::new(),
            domains: Vec::new(),
        },
        plans: BTreeMap::new(),
    }
}

/// Reads the configuration of a `serve`. `passing` is the directory that a `--dev` host made for itself, for when nothing says
/// where its data lies; none for whoever only looks at a configuration.
pub fn load(args: &ServeArgs, passing: Option<&Path>) -> Result<Config> {
    let config: Config = figment(args, passing)?
        .extract()
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("the configuration is not valid")?;
    if config.engine.slots < 4 || config.engine.slots > 1_000 {
        bail!("`engine.slots` is 4 to 1000");
    }
    if config.engine.workers > WORKERS_COUNT_MAX {
        bail!("`engine.workers` is 1 to {WORKERS_COUNT_MAX}, or 0 for one a core");
    }
    if !(16..=1_024).contains(&config.engine.memory_mib_max) {
        bail!("`engine.memory_mib_max` is 16 to 1024");
    }
    let least = crate::machine::guests_mib_min(config.engine.memory_mib_max);
    if config.engine.memory_mib != 0 && config.engine.memory_mib < least {
        bail!(
            "`engine.memory_mib` is at least {least}, which is 8/7 of `engine.memory_mib_max`, or 0 for half of this machine's"
        );
    }
    if config.keys.destroy_delay_hours > DESTROY_DELAY_HOURS_MAX {
        bail!("`keys.destroy_delay_hours` is 0 to {DESTROY_DELAY_HOURS_MAX}");
    }
    if config.identity.second_person_hours > SECOND_PERSON_HOURS_MAX {
        bail!("`identity.second_person_hours` is 0 to {SECOND_PERSON_HOURS_MAX}");
    }
    if !ringfence_keys::is_trust_domain(&config.identity.trust_domain) {
        bail!("`identity.trust_domain` is 1 to 255 of a-z, 0-9, `.`, `-` and `_`");
    }
    plans(&config).context("`plans`")?;
    own_keys(&config)?;
    backup_plan(&config)?;
    check_acme(&config.tls.acme)?;
    if config.listen.plain_http == PlainHttp::Loopback
        && config.tls.certificate.as_os_str().is_empty()
        && !config.tls.acme.is_on()
    {
        for (key, address) in [("listen.plugins", config.listen.plugins), ("listen.control", config.listen.control)] {
            if !address.ip().is_loopback() {
                bail!(
                    "`{key}` = {address} is not a loopback address, and this host speaks plain HTTP: set `tls.certificate` and \
                     `tls.key`, or put a TLS proxy in front of it and set `listen.plain_http = \"anywhere\"`"
                );
            }
        }
    }
    Ok(config)
}

/// LIMIT: most names of one certificate.
const ACME_NAMES_COUNT_MAX: usize = 100;

/// Whether an authority could be asked as configured.
fn check_acme(section: &AcmeSection) -> Result<()> {
    if !section.is_on() {
        return Ok(());
    }
    if !section.directory.starts_with("https://") {
        bail!("`tls.acme.directory` is an `https://` URL");
    }
    if section.names.is_empty() || section.names.len() > ACME_NAMES_COUNT_MAX {
        bail!("`tls.acme.names` are 1 to {ACME_NAMES_COUNT_MAX} names");
    }
    let is_name = |name: &str| {
        let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
        name.len() <= 253
            && labels
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
    };
    if let Some(bad) = section.names.iter().find(|name| !is_name(name)) {
        bail!("`tls.acme.names`: `{bad}` is not a DNS name in small letters; a wildcard cannot be proved here");
    }
    if section.contact.len() > 8 || !section.contact.iter().all(|contact| contact.starts_with("mailto:")) {
        bail!("`tls.acme.contact` are at most 8 addresses, each `mailto:...`");
    }
    if section.terms != AcmeTerms::Agreed {
        bail!("`tls.acme.terms` = \"agreed\" is yours to write, once you read the authority's terms of service");
    }
    Ok(())
}

/// Where tenants may keep a key themselves, by tenant. A file of this host is no place of the tenant's.
pub fn own_keys(config: &Config) -> Result<BTreeMap<String, RootKeyUri>> {
    let read = |(tenant, uri): (&String, &String)| {
        let id: TenantId = tenant.parse().with_context(|| format!("`keys.own.{tenant}`"))?;
        let uri: RootKeyUri = uri.parse().with_context(|| format!("`keys.own.{tenant}`"))?;
        if matches!(uri, RootKeyUri::File(_)) {
            bail!("`keys.own.{tenant}` is a `pkcs11:`, `vault:` or `awskms:` address");
        }
        Ok((id.to_string(), uri))
    };
    config.keys.own.iter().map(read).collect()
}

/// The plans, checked against what this host has.
pub fn plans(config: &Config) -> Result<Plans> {
    let cores_count = u32::try_from(crate::machine::guest_cores(&config.engine)).unwrap_or(u32::MAX);
    Ok(Plans::new(&config.plans, Ceiling { cores_count, slots_count: (config.engine.slots / 4).max(1) })?)
}

/// When backups are made, and which are kept.
pub fn backup_plan(config: &Config) -> Result<BackupPlan> {
    let section = &config.backup;
    let every = match section.every.as_str() {
        "off" => None,
        text => {
            let wrong = || format!("`backup.every` = `{text}` is not a time such as `24h`, nor `off`");
            let every: SignedDuration = text.parse().with_context(wrong)?;
            if every < EVERY_MIN || every > EVERY_MAX {
                bail!("`backup.every` is 1s to 366d, or `off`");
            }
            Some(every.unsigned_abs())
        }
    };
    if !(1..=32).contains(&section.full_every_count) {
        bail!("`backup.full_every_count` is 1 to 32");
    }
    if section.keep_daily_count > 1_000 || section.keep_weekly_count > 1_000 {
        bail!("`backup.keep_daily_count` and `backup.keep_weekly_count` are 0 to 1000");
    }
    Ok(BackupPlan {
        every,
        full_every_count: section.full_every_count,
        keep_daily_count: section.keep_daily_count,
        keep_weekly_count: section.keep_weekly_count,
        guest_logs: section.guest_logs,
    })
}

/// Every value with its source.
pub fn show(args: &ServeArgs) -> Result<Vec<Shown>> {
    let figment = figment(args, None)?;
    let config: Config = figment.extract().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut shown = Vec::new();
    if let serde_json::Value::Object(sections) = serde_json::to_value(&config)? {
        for (section, values) in sections {
            for (key, value) in values.as_object().into_iter().flatten() {
                let path = format!("{section}.{key}");
                let origin =
                    figment.find_metadata(&path).map_or("default".to_owned(), |metadata| match &metadata.source {
                        Some(source) => format!("file {source}"),
                        None => metadata.name.to_string(),
                    });
                shown.push(Shown { key: path, value: value.clone(), origin });
            }
        }
    }
    Ok(shown)
}

fn figment(args: &ServeArgs, passing: Option<&Path>) -> Result<Figment> {
    if let Some(file) = &args.config {
        check_file(file)?;
    }
    let mut figment = Figment::from(NamedValues { name: "default", values: serde_json::to_value(defaults())? });
    if args.dev {
        // The root key of a --dev host lies with its data, wherever that was said: one that went with a directory that
        // passes would leave data behind that nothing opens.
        let dir = match said(Figment::new(), args).extract_inner::<PathBuf>("store.path") {
            Ok(path) => std::path::absolute(path)?,
            Err(_) => passing.map_or_else(|| std::env::temp_dir().join(UNMADE), Path::to_owned),
        };
        let values = serde_json::json!({
            "store": { "path": dir },
            // Nobody works on a --dev host whom a delay would protect.
            "keys": { "root": format!("file:{}", dir.join("root.key").display()), "destroy_delay_hours": 0 },
        });
        figment = figment.merge(NamedValues { name: "--dev", values });
    }
    Ok(said(figment, args))
}

/// What file, environment and flags say, over what they differ from.
fn said(mut figment: Figment, args: &ServeArgs) -> Figment {
    if let Some(file) = &args.config {
        figment = figment.merge(Toml::file_exact(file));
    }
    let environment = Env::prefixed("RINGFENCE_").filter_map(|name| {
        let name = name.as_str().to_ascii_uppercase();
        ENVIRONMENT.iter().find(|(known, _)| *known == name).map(|(_, key)| (*key).into())
    });
    figment.merge(environment).merge(NamedValues { name: "flag", values: flags(args) })
}

fn flags(args: &ServeArgs) -> serde_json::Value {
    let mut values = serde_json::json!({ "listen": {}, "store": {}, "keys": {} });
    let mut set = |section: &str, key: &str, value: Option<serde_json::Value>| {
        if let (Some(value), Some(section)) =
            (value, values.get_mut(section).and_then(|section| section.as_object_mut()))
        {
            section.insert(key.to_owned(), value);
        }
    };
    set("listen", "plugins", args.plugins.map(|address| address.to_string().into()));
    set("listen", "control", args.control.map(|address| address.to_string().into()));
    set("store", "path", args.data.as_ref().map(|path| path.display().to_string().into()));
    set("keys", "root", args.root_key.clone().map(Into::into));
    values
}

/// Finds mistakes in the file with their line, which the merge cannot.
fn check_file(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    if let Err(error) = toml::from_str::<File>(&text) {
        let error = ManifestError::from_toml(&text, &error);
        bail!(
            "{}\n   --> {}:{}:{}\n    | {}",
            error.message,
            path.display(),
            error.line,
            error.column,
            error.source_line
        );
    }
    Ok(())
}

/// JSON values as a figment provider with a name for `--origin`.
struct NamedValues {
    name: &'static str,
    values: serde_json::Value,
}

impl figment::Provider for NamedValues {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.name)
    }
    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        Serialized::defaults(&self.values).data()
    }
}
