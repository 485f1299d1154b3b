//! `ringfence store`: moves and checks the data directory of a host that is stopped.
//!
//! Must never change a store that a check only looks at (`--recount` is asked for), nor delete what a move leaves behind.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ringfence_cli::{BackendArg, Format, StoreCommand};
use ringfence_control::stored_policy;
use ringfence_keys::{MissingRootKey, Outside, RootKey, RootKeyUri};
use ringfence_policy::Policy;
use ringfence_store::{Backend, Checked, DiskOptions, Salvaged, StoreError, TenantStore};

use crate::ambient::{SystemClock, SystemEntropy};
use crate::config::{self, Config};
use crate::unlock::aws_from_environment;

/// How many rows between two words on how far it is.
const ROWS_A_WORD: u64 = 100_000;

/// Runs one of the verbs.
pub fn store(command: &StoreCommand, format: Format) -> Result<ExitCode> {
    crate::serve::forbid_dumps(false)?;
    match command {
        StoreCommand::Migrate(args) => {
            migrate(&config::load(&args.serve, None)?, backend(args.from), backend(args.to), format)
        }
        StoreCommand::Salvage(args) => salvage(&config::load(&args.serve, None)?, format),
        StoreCommand::Check(args) => check(&config::load(&args.serve, None)?, args.recount, format),
    }
}

fn migrate(config: &Config, from: Backend, to: Backend, format: Format) -> Result<ExitCode> {
    if from == to {
        bail!("`{from}` to `{to}` is no move");
    }
    let started = Instant::now();
    let mut next = ROWS_A_WORD;
    let mut progress = |rows_count: u64| {
        if rows_count >= next {
            next = rows_count.saturating_add(ROWS_A_WORD);
            eprintln!("  {rows_count} rows copied after {} s", started.elapsed().as_secs());
        }
    };
    let dir = config.store.path.join("store");
    let moved = ringfence_store::migrate(&dir, from, to, DiskOptions::RECOMMENDED.cache_bytes, &mut progress)
        .context("nothing was moved")?;
    if format == Format::Json {
        println!("{}", serde_json::to_string(&moved)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "moved {} rows, {} bytes, from {from} to {to} in {} ms",
        moved.rows_count,
        moved.bytes,
        started.elapsed().as_millis()
    );
    println!("read back and compared: sha256 {}", moved.sha256);
    println!("the old database is kept in `{}`; delete it when you no longer need it", moved.kept.display());
    if config.store.backend != to {
        println!("before the next start, write into ringfence.toml:\n    [store]\n    backend = \"{to}\"");
    }
    Ok(ExitCode::SUCCESS)
}

fn salvage(config: &Config, format: Format) -> Result<ExitCode> {
    let (root, dir) = (root_key(config)?, config.store.path.join("store"));
    let done: Salvaged =
        ringfence_store::salvage(&dir, &root, Arc::new(SystemEntropy), DiskOptions::RECOMMENDED.cache_bytes)
            .context("nothing was salvaged, and nothing was changed")?;
    if format == Format::Json {
        println!("{}", serde_json::to_string(&done)?);
    } else {
        for tenant in &done.tenants {
            let mark = if tenant.is_whole() { "√" } else { "×" };
            let missing = match (tenant.missing_count, tenant.is_older) {
                (None, _) => ", and nobody can say how many there were".to_owned(),
                (Some(_), true) => ", some of them older than they were".to_owned(),
                (Some(0), false) => String::new(),
                (Some(count), false) => format!(", {count} gone without a trace"),
            };
            println!(
                "{mark} tenant `{}`: {} records recovered, {} lost{missing}",
                tenant.tenant, tenant.recovered_count, tenant.lost_count
            );
        }
        for (uid, count) in &done.nameless {
            println!("× {count} records of a tenant whose name is lost (unique id {uid})");
        }
        if done.gaps_count > 0 {
            println!("× {} places of the database cannot be read; nobody knows what was there", done.gaps_count);
        }
        if done.found_revision < done.durable_revision {
            println!(
                "× the newest change found is {}, and {} was durable: what came between is lost",
                done.found_revision, done.durable_revision
            );
        }
        println!("the damaged store is kept in `{}`; delete it when you no longer need it", done.kept.display());
    }
    Ok(if done.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn root_key(config: &Config) -> Result<RootKey> {
    let uri: RootKeyUri = config.keys.root.parse().context("`keys.root`")?;
    let outside =
        Outside { entropy: Arc::new(SystemEntropy), clock: Arc::new(SystemClock::new()), aws: aws_from_environment() };
    let root =
        RootKey::connect(&uri, MissingRootKey::Refuse, &outside).context("the root key is needed to open anything")?;
    Ok(root.with_own(crate::config::own_keys(config)?, outside))
}

fn check(config: &Config, recount: bool, format: Format) -> Result<ExitCode> {
    let root = root_key(config)?;
    let dir = config.store.path.join("store");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cache_bytes = DiskOptions::RECOMMENDED.cache_bytes;
    // What opens may still be what a start cannot put into force.
    let policy =
        Policy::new(Arc::new(SystemEntropy), Arc::new(SystemClock::new())).context("the platform's policies")?;
    let look = async |view: &TenantStore| match stored_policy(view).await {
        Ok(stored) => {
            view.tenant().and_then(|id| policy.check_stored(id, &stored).err()).map(|unfit| unfit.to_string())
        }
        Err(StoreError::Form(_)) => Some("what its decisions rest on does not have its form".to_owned()),
        // Told by its records.
        Err(_) => None,
    };
    let result: Result<Checked, StoreError> =
        runtime.block_on(ringfence_store::check_with(&dir, &root, Arc::new(SystemEntropy), cache_bytes, look));
    let mut checked = result.context("nothing was checked")?;
    let recounted = recount.then(|| ringfence_store::recount(&dir, cache_bytes)).transpose();
    if let Ok(recounted_count) = &recounted {
        checked.recounted_count = *recounted_count;
    }
    if format == Format::Json {
        println!("{}", serde_json::to_string(&checked)?);
    } else {
        let Checked { tenants_count, records_count, files_count, damage, recounted_count } = &checked;
        println!("opened {records_count} records and {files_count} files of {tenants_count} tenants");
        for found in damage {
            let whose = found.tenant.as_ref().map_or("the store".to_owned(), |tenant| format!("tenant `{tenant}`"));
            println!("× {whose}: {} ({})", found.what, found.count);
        }
        if damage.is_empty() {
            println!("√ nothing is damaged");
        }
        match recounted_count {
            Some(count) => println!("counted {count} tenants anew: what is there now is all there should be"),
            None if damage.is_empty() || recount => {}
            None => println!("what is lost for good is told no more after `ringfence store check --recount`"),
        }
    }
    recounted.context("nothing was counted anew")?;
    Ok(if checked.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn backend(arg: BackendArg) -> Backend {
    match arg {
        BackendArg::Sled => Backend::Sled,
        BackendArg::Redb => Backend::Redb,
    }
}
