//! `[audit]` of the configuration: who else keeps or signs the heads of the logs, where entries are a second time; and
//! `ringfence audit repair`.
//!
//! Must never mend a log of a host that runs: the store can be opened once, and that is what refuses it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use jiff::SignedDuration;
use ringfence_audit::anchor::{Anchors, WITNESSES_COUNT_MAX};
use ringfence_audit::entries::Entries;
use ringfence_audit::mirror::Mirror;
use ringfence_audit::witness::Witness;
use ringfence_audit::{PostQuantum, RETENTION_DAYS_MAX, Terms};
use ringfence_cli::{AuditRepairArgs, Format};
use ringfence_core::{Clock, Entropy};
use ringfence_keys::{MissingRootKey, Outside, RootKey, RootKeyUri};
use ringfence_store::{DiskOptions, Store, TenantStore, Tenants};

use crate::ambient::{SystemClock, SystemEntropy};
use crate::config::{AuditSection, Config, PostQuantumWord};
use crate::unlock::aws_from_environment;
use crate::wiring::HOST_NAME;

/// LIMIT: least and most time between two rounds.
const EVERY_MIN: SignedDuration = SignedDuration::from_secs(1);
const EVERY_MAX: SignedDuration = SignedDuration::from_hours(1);

/// The anchors as configured, the mirror's directory open.
pub fn anchors(section: &AuditSection) -> Result<Anchors> {
    let text = &section.anchor_every;
    let every: SignedDuration =
        text.parse().with_context(|| format!("`audit.anchor_every` = `{text}` is not a time such as `10s`"))?;
    if every < EVERY_MIN || every > EVERY_MAX {
        bail!("`audit.anchor_every` is 1s to 1h");
    }
    if section.witnesses.len() > WITNESSES_COUNT_MAX {
        bail!("`audit.witnesses` are at most {WITNESSES_COUNT_MAX}");
    }
    let witness = |text: &String| {
        let (url, vkey) =
            text.split_once(' ').with_context(|| format!("`audit.witnesses`: `{text}` is no `URL KEY`"))?;
        if !url.starts_with("https://") && !url.starts_with("http://127.0.0.1:") {
            bail!("`audit.witnesses`: `{url}` is not an https address");
        }
        Witness::new(url, vkey.trim()).context("`audit.witnesses`")
    };
    let witnesses = section.witnesses.iter().map(witness).collect::<Result<_>>()?;
    let mirror = if section.mirror.as_os_str().is_empty() {
        None
    } else {
        let opened = Dir::open_ambient_dir(&section.mirror, ambient_authority());
        let dir =
            opened.with_context(|| format!("`audit.mirror` = `{}` cannot be opened", section.mirror.display()))?;
        Some(Mirror::new(dir))
    };
    Ok(Anchors { every: Duration::try_from(every)?, witnesses, mirror })
}

/// The second place of the entries as configured, locked for this host and the one that the store knows; none when there is none.
pub async fn entries(
    section: &AuditSection,
    data: &Path,
    platform: &TenantStore,
    entropy: &dyn Entropy,
) -> Result<Option<Entries>> {
    if section.entries.as_os_str().is_empty() {
        return Ok(None);
    }
    check_entries(&section.entries, data)?;
    let path = section.entries.clone();
    let shown = || format!("`audit.entries` = `{}`", section.entries.display());
    let entries = Entries::new(move || Dir::open_ambient_dir(&path, ambient_authority())).with_context(shown)?;
    entries.claim(platform, &section.entries.to_string_lossy(), entropy).await.with_context(shown)?;
    Ok(Some(entries))
}

/// Whether a directory is there that can be the second place of what lies in `data`.
pub fn check_entries(path: &Path, data: &Path) -> Result<()> {
    let shown = path.display();
    if !path.is_absolute() {
        bail!("`audit.entries` = `{shown}` is not an absolute path");
    }
    let found = path.canonicalize().with_context(|| format!("`audit.entries` = `{shown}` cannot be opened"))?;
    // A data directory that is not there yet holds nothing.
    if data.canonicalize().is_ok_and(|data| found.starts_with(data)) {
        bail!("`audit.entries` = `{shown}` is in the data directory: that is no second place");
    }
    Ok(())
}

/// How long logs are kept and how their heads are signed, as configured.
pub fn terms(section: &AuditSection) -> Result<Terms> {
    let (days, min) = (section.retention_days, section.retention_days_min);
    if min == 0 || days < min || days > RETENTION_DAYS_MAX {
        bail!(
            "`audit.retention_days` is at least `audit.retention_days_min`, that at least 1, and at most {RETENTION_DAYS_MAX}"
        );
    }
    let post_quantum = match section.post_quantum {
        PostQuantumWord::On => PostQuantum::On,
        PostQuantumWord::Off => PostQuantum::Off,
    };
    Ok(Terms { retention_days: days, retention_days_min: min, post_quantum, ..Terms::default() })
}

/// Mends the logs of a host that is stopped.
pub fn repair(args: &AuditRepairArgs, format: Format) -> Result<ExitCode> {
    crate::serve::forbid_dumps(false)?;
    let config: Config = crate::config::load(&args.serve, None)?;
    let uri: RootKeyUri = config.keys.root.parse().context("`keys.root`")?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let outside = Outside { entropy: entropy.clone(), clock: clock.clone(), aws: aws_from_environment() };
    let root = RootKey::connect(&uri, MissingRootKey::Refuse, &outside).context("the root key is needed")?;
    let options = DiskOptions { backend: config.store.backend, ..DiskOptions::RECOMMENDED };
    let store = Store::open(&config.store.path.join("store"), options).context("the store does not open")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let repaired = runtime.block_on(async {
        let tenants = Tenants::open(store.clone(), Arc::new(root), entropy.clone(), clock.clone()).await?;
        let repaired = ringfence_audit::repair(tenants, clock, entropy, HOST_NAME.to_owned()).await?;
        store.close().await?;
        anyhow::Ok(repaired)
    })?;
    if format == Format::Json {
        println!("{}", serde_json::to_string(&repaired)?);
        return Ok(ExitCode::SUCCESS);
    }
    if repaired.is_empty() {
        println!("√ every log is sound; nothing was changed");
    }
    for log in &repaired {
        let head = log.head_size.map_or("an unknown number of".to_owned(), |size| size.to_string());
        println!("{}: {}", log.origin, log.reason);
        println!("  its head said {head} entries; {} hold, {} were put aside", log.kept_count, log.aside_count);
    }
    Ok(ExitCode::SUCCESS)
}
